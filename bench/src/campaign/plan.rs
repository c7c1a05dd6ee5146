//! What one round does: everything about it that is chance, drawn from its seed.

use std::time::Duration;

use phalanx::fabric::sim::Seeded;

use crate::doomed::belongings::Thing;

/// What joins a job's ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wires {
    /// One node: shared memory.
    Shm,
    /// Several pretended nodes, by TCP.
    Tcp,
    /// Several pretended nodes, barriers by RDMA.
    Rdma,
}

impl Wires {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shm, Self::Tcp, Self::Rdma];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

/// What is done to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A rank is killed.
    Kill,
    /// The first rank of a node is killed.
    KillAgent,
    /// All ranks of a node are killed.
    KillNode,
    /// Two ranks are killed at once.
    KillTwo,
    /// A rank is stopped, for less than the time-out.
    StopShort,
    /// A rank is stopped until the others have given it up, then it goes on.
    StopLong,
    /// The same with all ranks of a node.
    StopNode,
    /// All connections are reset.
    Reset,
    /// Strangers connect to the ranks' ports and say anything.
    Garbage,
    /// The process that a user has started with `phalanx run` is killed.
    LauncherKilled,
    /// The launcher's other process, which has started the ranks, is killed.
    SupervisorKilled,
    /// A node is cut off, both directions, and joined again.
    Partition,
    /// What a node says does not reach another one any more.
    OneWay,
}

impl Fault {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::KillAgent,
        Self::KillNode,
        Self::KillTwo,
        Self::StopShort,
        Self::StopLong,
        Self::StopNode,
        Self::Reset,
        Self::Garbage,
        Self::LauncherKilled,
        Self::SupervisorKilled,
        Self::Partition,
        Self::OneWay,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAgent => "kill-agent",
            Self::KillNode => "kill-node",
            Self::KillTwo => "kill-two",
            Self::StopShort => "stop-short",
            Self::StopLong => "stop-long",
            Self::StopNode => "stop-node",
            Self::Reset => "reset",
            Self::Garbage => "garbage",
            Self::LauncherKilled => "launcher-killed",
            Self::SupervisorKilled => "supervisor-killed",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
        }
    }

    /// Whether it means anything to ranks that are joined like this.
    pub fn suits(self, wires: Wires) -> bool {
        match self {
            Self::Kill | Self::KillAgent | Self::KillTwo | Self::StopShort | Self::StopLong => true,
            Self::LauncherKilled | Self::SupervisorKilled => wires != Wires::Rdma,
            Self::KillNode | Self::StopNode | Self::Reset | Self::Garbage => wires != Wires::Shm,
            Self::Partition | Self::OneWay => wires == Wires::Tcp,
        }
    }

    /// Whether its nodes are network namespaces.
    pub fn needs_namespaces(self) -> bool {
        matches!(self, Self::Partition | Self::OneWay)
    }

    /// Whether the ranks are started by `phalanx run`.
    pub fn is_of_launcher(self) -> bool {
        matches!(self, Self::LauncherKilled | Self::SupervisorKilled)
    }

    /// Whether somebody has failed by it, for the others.
    pub fn loses(self) -> bool {
        !matches!(self, Self::StopShort | Self::Reset | Self::Garbage) && !self.is_of_launcher()
    }
}

/// What the first victim is doing when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Anything.
    Any,
    /// It has this, and another one waits for it.
    Holds(Thing),
    /// It waits for this, which another one has.
    Waits(Thing),
}

/// Nodes of a job in namespaces.
pub const NAMESPACES: usize = 3;

/// A round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it is drawn from.
    pub seed: u64,
    /// What joins the ranks.
    pub wires: Wires,
    /// What is done.
    pub fault: Fault,
    /// Each rank's node, in blocks.
    pub nodes: Vec<usize>,
    /// The wait policy.
    pub wait: &'static str,
    /// What moves the bytes of TCP.
    pub engine: &'static str,
    /// The failure time-out.
    pub timeout: Duration,
    /// How long the ranks meet before.
    pub calm: Duration,
    /// How long a short stop lasts.
    pub stop: Duration,
    /// To whom it is done.
    pub victims: Vec<usize>,
    /// Who is killed when the survivors have gone on, if that was no victim.
    pub then_killed: Option<usize>,
    /// To whom nothing gets through, of a cut of one direction.
    pub deaf: Vec<usize>,
    /// How often it is done, where that means anything.
    pub times: usize,
    /// What it interrupts.
    pub scene: Scene,
}

impl Plan {
    /// The round of a seed.
    pub fn draw(seed: u64, wires: Wires, fault: Fault, cpus: usize) -> Self {
        let mut random = Seeded::new(seed);
        let nodes = draw_nodes(wires, fault, &mut random);
        let ranks = nodes.len();
        // Ranks that spin on shared CPUs starve each other, which is what they were told to do.
        let waits: &[&str] = if ranks <= cpus { &["adaptive", "park", "spin"] } else { &["adaptive", "park"] };
        // Devices are mostly soft-RoCE in a guest, which is ten times slower than its host.
        let slower = if wires == Wires::Rdma { 10 } else { 1 };
        let timeout = Duration::from_millis(slower * [100, 100, 200, 300][random.below(4)]);
        let victims = draw_victims(fault, &nodes, &mut random);
        let node = victims.first().map_or(0, |victim| nodes[*victim]);
        let others: Vec<usize> = (0..=nodes[ranks - 1]).filter(|other| *other != node).collect();
        let deaf = match random.below(2) {
            0 => others,
            _ => others.get(random.below(others.len().max(1))).copied().into_iter().collect(),
        };
        let second = random.below(ranks);
        let goes_on = fault.loses() && random.below(2) == 0 && !victims.contains(&second);
        let (wait, engine) = (waits[random.below(waits.len())], ["auto", "sockets", "io-uring"][random.below(3)]);
        let calm = Duration::from_micros(random.below(60_000) as u64);
        let stop = Duration::from_micros(1 + random.below(timeout.as_micros() as usize * 2 / 5) as u64);
        let times = 1 + random.below(4);
        let (scene, thing) = (random.below(3), Thing::ALL[random.below(Thing::ALL.len())]);
        let scene = match scene {
            0 if fault.loses() => Scene::Holds(thing),
            1 if fault.loses() => Scene::Waits(thing),
            _ => Scene::Any,
        };
        Self {
            seed,
            wires,
            fault,
            wait,
            engine,
            timeout,
            calm,
            stop,
            victims,
            then_killed: goes_on.then_some(second),
            deaf,
            times,
            scene,
            nodes,
        }
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.last().map_or(1, |last| last + 1)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} over {}: ranks on nodes {:?}, {} waits, engine {}, time-out {:?}, victims {:?} ({:?}), then {:?}",
            self.fault.name(),
            self.wires.name(),
            self.nodes,
            self.wait,
            self.engine,
            self.timeout,
            self.victims,
            self.scene,
            self.then_killed
        )
    }
}

fn draw_nodes(wires: Wires, fault: Fault, random: &mut Seeded) -> Vec<usize> {
    if wires == Wires::Shm {
        return vec![0; 3 + random.below(4)];
    }
    let nodes = match fault {
        Fault::Partition | Fault::OneWay => NAMESPACES,
        _ if wires == Wires::Rdma => 2 + random.below(2),
        _ => 2 + random.below(3),
    };
    let most = if nodes == 2 { 3 } else { 2 };
    let mut ranks = Vec::new();
    for node in 0..nodes {
        let count = if fault == Fault::KillAgent { 2 } else { 1 + random.below(most) };
        ranks.extend(std::iter::repeat_n(node, count));
    }
    if fault == Fault::KillTwo && ranks.len() < 3 {
        // Somebody has to survive.
        ranks.push(nodes - 1);
    }
    ranks
}

fn draw_victims(fault: Fault, nodes: &[usize], random: &mut Seeded) -> Vec<usize> {
    let any = random.below(nodes.len());
    let of_node = |node: usize| (0..nodes.len()).filter(|rank| nodes[*rank] == node).collect::<Vec<_>>();
    match fault {
        Fault::Reset | Fault::Garbage | Fault::LauncherKilled | Fault::SupervisorKilled => Vec::new(),
        Fault::Kill | Fault::StopShort | Fault::StopLong => vec![any],
        Fault::KillAgent => of_node(nodes[any])[..1].to_vec(),
        Fault::KillNode | Fault::StopNode | Fault::Partition | Fault::OneWay => of_node(nodes[any]),
        Fault::KillTwo => {
            let other = (any + 1 + random.below(nodes.len() - 1)) % nodes.len();
            vec![any.min(other), any.max(other)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_all_plans_make_sense() {
        for fault in Fault::ALL {
            for wires in Wires::ALL.into_iter().filter(|wires| fault.suits(*wires)) {
                for seed in 0..200 {
                    let plan = Plan::draw(seed, wires, fault, 2);
                    assert_eq!(plan, Plan::draw(seed, wires, fault, 2));
                    assert!(plan.victims.iter().all(|victim| *victim < plan.nodes.len()), "{plan}");
                    assert!(plan.victims.len() < plan.nodes.len(), "{plan}");
                    assert!(plan.nodes.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{plan}");
                    assert!(plan.stop < plan.timeout / 2, "{plan}");
                    assert!(!plan.victims.is_empty() || !fault.loses(), "{plan}");
                    assert!(plan.then_killed.is_none_or(|second| !plan.victims.contains(&second)), "{plan}");
                    assert!(plan.scene == Scene::Any || !plan.victims.is_empty(), "{plan}");
                    assert!(fault != Fault::OneWay || !plan.deaf.is_empty(), "{plan}");
                }
            }
        }
    }
}
