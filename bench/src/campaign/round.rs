//! One round: a job is started, hurt as its plan says, and watched to its end; then its evidence is judged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use phalanx::fabric::sim::Seeded;
use rustix::process::Signal;

use super::plan::{Fault, Plan, Scene, Wires};
use super::{custody, strangers, verdict};
use crate::doomed::belongings::Thing;
use crate::doomed::deeds::{self, Deed, deeds_of};
use crate::doomed::log;
use crate::doomed::namespaces::Namespaces;
use crate::doomed::rank::{END, HOLD, Role, SHRINK_LIMIT, Task, WAIT, records_of};
use crate::doomed::said::{Event, Said, Told};
use crate::doomed::sockets::{self, Holdings};
use crate::doomed::{DoomedError, DoomedJob, Place, now_ns, system};

/// No wait of a survivor may last longer after a fault than this and the longest detection: many times what it should,
/// because the machine may be loaded, and the time-out of shrinking.
const SLACK: Duration = Duration::from_secs(3 + SHRINK_LIMIT.as_secs());
/// The longest detection, in failure time-outs: of a node that says nothing, and whose kernel acknowledges.
const TIMEOUTS: u32 = 4;
/// Calls of objects that took longer are told of where something was wrong.
const LONG_CALL: Duration = Duration::from_millis(100);
/// How long ranks go on after what was to happen has happened.
const AFTERMATH: Duration = Duration::from_millis(20);

/// What came of a round.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From each fault until the last survivor had its error, in nanoseconds.
    pub detected_ns: Vec<u64>,
    /// Each outcome of a rank, in a word.
    pub outcomes: Vec<&'static str>,
    /// What must not be.
    pub violations: Vec<String>,
    /// Faults injected.
    pub faults: usize,
    /// Calls of named objects of each kind.
    pub calls: BTreeMap<&'static str, usize>,
    /// What was done and said, when something was wrong.
    pub history: String,
}

/// Does what the plan says. Records go into `directory`, which is this round's own.
///
/// # Errors
///
/// [`DoomedError`] when the machine does not let us; nothing is left behind.
pub fn run(plan: &Plan, namespaces: Option<&Namespaces>, directory: &Path) -> Result<Outcome, DoomedError> {
    let task = Task {
        role: Role::Meets { records: directory.to_owned(), seed: plan.seed },
        wait: Some(plan.wait.to_owned()),
        fabric: (plan.wires != Wires::Shm).then(|| plan.wires.name().to_owned()),
        engine: Some(plan.engine.to_owned()),
        timeout_ms: u64::try_from(plan.timeout.as_millis()).ok(),
        ends_with_parent: true,
    };
    let job = DoomedJob::start(Place { nodes: &plan.nodes, namespaces }, &task)?;
    let live = (0..job.size()).collect();
    let (hurt, killed, outcome) = (Vec::new(), Vec::new(), Outcome::default());
    let mut round = Round { plan, namespaces, job, said: Vec::new(), live, hurt, killed, outcome };
    round.run()?;
    round.judge(directory)
}

struct Round<'a> {
    plan: &'a Plan,
    namespaces: Option<&'a Namespaces>,
    job: DoomedJob,
    said: Vec<Said>,
    /// Ranks whose processes have not been killed.
    live: Vec<usize>,
    /// Ranks that may have failed, and since when.
    hurt: Vec<(usize, u64)>,
    /// Those of them that were killed.
    killed: Vec<usize>,
    outcome: Outcome,
}

impl Round<'_> {
    fn run(&mut self) -> Result<(), DoomedError> {
        self.listen(self.plan.calm);
        self.set_scene();
        let at_ns = self.harm()?;
        if self.plan.fault.loses() {
            self.await_survivors(at_ns);
            self.relent()?;
            self.kill_another()?;
        } else {
            self.listen(self.plan.timeout * 2 + AFTERMATH);
        }
        self.listen(AFTERMATH);
        self.end()
    }

    fn bound(&self) -> Duration {
        bound(self.plan)
    }

    /// Takes in what is said for so long.
    fn listen(&mut self, span: Duration) {
        let limit = Instant::now() + span;
        while let Ok(said) = self.job.hear(limit) {
            self.said.push(said);
        }
    }

    /// Has the first victim do what is to be interrupted.
    fn set_scene(&mut self) {
        let Some(victim) = self.plan.victims.first().copied() else { return };
        match self.plan.scene {
            Scene::Any => {}
            Scene::Holds(thing) => {
                self.ask_to_hold(victim, thing);
                self.ask_to_wait(self.survivor(), thing.opposite());
            }
            Scene::Waits(thing) => {
                self.ask_to_hold(self.survivor(), thing.opposite());
                self.ask_to_wait(victim, thing);
            }
        }
    }

    fn ask_to_hold(&mut self, rank: usize, thing: Thing) {
        self.ask_for(rank, &format!("{HOLD} {}", thing.name()), |event| matches!(event, Event::Holds { .. }));
    }

    fn ask_to_wait(&mut self, rank: usize, thing: Thing) {
        self.ask_for(rank, &format!("{WAIT} {}", thing.name()), |event| *event == Event::Queues);
    }

    /// Somebody to whom nothing is to be done.
    fn survivor(&self) -> usize {
        let is_other = |rank: &usize| !self.plan.victims.contains(rank);
        (0..self.job.size()).find(is_other).expect("somebody survives")
    }

    /// Says something to a rank, and waits until it has done it.
    fn ask_for(&mut self, rank: usize, what: &str, is_it: impl Fn(&Event) -> bool) {
        self.job.say(rank, what);
        let limit = Instant::now() + self.bound();
        while let Ok(said) = self.job.hear(limit) {
            let is_done = said.rank == rank && is_it(&said.event);
            self.said.push(said);
            if is_done {
                return;
            }
        }
        self.outcome.violations.push(format!("rank {rank} was to {what}, and has not come to it"));
    }

    /// Does the harm; the time just before.
    fn harm(&mut self) -> Result<u64, DoomedError> {
        let victims = self.plan.victims.clone();
        self.outcome.faults += 1;
        match self.plan.fault {
            Fault::Kill | Fault::KillAgent | Fault::KillNode | Fault::KillTwo => return self.kill(&victims),
            Fault::StopLong | Fault::StopNode => {
                self.note_hurt(victims.clone());
                return self.job.signal(&victims, Signal::STOP);
            }
            Fault::StopShort => {
                let at_ns = self.job.signal(&victims, Signal::STOP)?;
                self.listen(self.plan.stop);
                let ended_ns = self.job.signal(&victims, Signal::CONT)?;
                if may_count_as_stopped(self.plan, ended_ns - at_ns) {
                    self.hurt.extend(victims.into_iter().map(|rank| (rank, at_ns)));
                }
                return Ok(at_ns);
            }
            Fault::Reset | Fault::Garbage => self.strangers()?,
            Fault::Partition | Fault::OneWay => return self.cut(),
            Fault::LauncherKilled | Fault::SupervisorKilled => {}
        }
        Ok(now_ns())
    }

    fn kill(&mut self, victims: &[usize]) -> Result<u64, DoomedError> {
        self.note_hurt(victims.to_vec());
        self.killed.extend(victims);
        self.live.retain(|rank| !victims.contains(rank));
        self.job.signal(victims, Signal::KILL)
    }

    fn note_hurt(&mut self, ranks: Vec<usize>) {
        let at_ns = now_ns();
        self.hurt.extend(ranks.into_iter().map(|rank| (rank, at_ns)));
    }

    fn strangers(&mut self) -> Result<(), DoomedError> {
        let mut random = Seeded::new(self.plan.seed);
        let pids = (0..self.job.size()).map(|rank| self.job.pid(rank));
        let doors: Vec<_> = pids.flat_map(sockets::listening).collect();
        let mut held = Vec::new();
        for _ in 0..self.plan.times {
            for door in &doors {
                match self.plan.fault {
                    Fault::Reset => strangers::reset(door.port())
                        .map_err(|why| system("reset connections")(std::io::Error::other(why)))?,
                    _ => held.extend(strangers::annoy(*door, &mut random)),
                }
            }
            self.listen(AFTERMATH);
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<u64, DoomedError> {
        let (namespaces, node) = (self.namespaces.expect("made for such plans"), self.plan.nodes[self.plan.victims[0]]);
        let failed = |why| system("cut a node off")(std::io::Error::other(why));
        let is_touched = |rank: &usize| {
            let own = self.plan.nodes[*rank];
            own == node || self.plan.fault == Fault::OneWay && self.plan.deaf.contains(&own)
        };
        self.note_hurt((0..self.plan.nodes.len()).filter(is_touched).collect());
        let at_ns = now_ns();
        match self.plan.fault {
            Fault::Partition => namespaces.cut(node).map_err(failed)?,
            _ => self.plan.deaf.iter().try_for_each(|deaf| namespaces.cut_one_way(node, *deaf)).map_err(failed)?,
        }
        Ok(at_ns)
    }

    /// Joins what was cut, lets go on who was stopped, and waits until they know.
    fn relent(&mut self) -> Result<(), DoomedError> {
        let victims = &self.plan.victims;
        let stopped = matches!(self.plan.fault, Fault::StopLong | Fault::StopNode);
        if stopped {
            let returned_ns = self.job.signal(victims, Signal::CONT)?;
            let limit = Instant::now() + self.bound();
            self.await_all(&victims.clone(), limit, |round, rank| round.has_settled(rank, returned_ns));
        }
        if let (Some(namespaces), true) = (self.namespaces, self.plan.fault.needs_namespaces()) {
            let node = self.plan.nodes[victims[0]];
            let mended = match self.plan.fault {
                Fault::Partition => namespaces.mend(node),
                _ => self.plan.deaf.iter().try_for_each(|deaf| namespaces.mend_one_way(node, *deaf)),
            };
            mended.map_err(|why| system("mend a network")(std::io::Error::other(why)))?;
        }
        Ok(())
    }

    /// Another one dies when the survivors have gone on, if the plan says so and there are enough of them.
    fn kill_another(&mut self) -> Result<(), DoomedError> {
        let Some(second) = self.plan.then_killed.filter(|second| self.live.contains(second)) else { return Ok(()) };
        let is_spoilt = !self.outcome.violations.is_empty() || self.plan.fault.needs_namespaces();
        if !self.has_majority() || is_spoilt || self.survivors().len() < 2 {
            return Ok(());
        }
        self.listen(AFTERMATH);
        self.outcome.faults += 1;
        let at_ns = self.kill(&[second])?;
        self.await_survivors(at_ns);
        Ok(())
    }

    /// Those who must live on.
    fn survivors(&self) -> Vec<usize> {
        (0..self.job.size()).filter(|rank| !self.hurt.iter().any(|(hurt, _)| hurt == rank)).collect()
    }

    /// Whether the survivors' nodes are more than half of the job's, or half and the witness with them, so that they
    /// must be able to agree.
    fn has_majority(&self) -> bool {
        let mut nodes: Vec<usize> = self.survivors().iter().map(|rank| self.plan.nodes[*rank]).collect();
        nodes.dedup();
        !nodes.is_empty() && 2 * nodes.len() >= self.plan.node_count()
    }

    /// Waits until all whom the fault leaves running know what has become of it, and notes how long that took.
    fn await_survivors(&mut self, since_ns: u64) {
        let limit = Instant::now() + self.bound();
        let is_cut = self.plan.fault.needs_namespaces();
        // Who is stopped says nothing; who is cut off must find out by itself.
        let waited_for = if is_cut { self.live.clone() } else { self.survivors() };
        self.await_all(&waited_for, limit, |round, rank| round.has_settled(rank, since_ns));
        let survivors = self.survivors();
        let first_error = |rank: &usize| {
            let is_it = |said: &&Said| {
                said.rank == *rank && said.at_ns >= since_ns && matches!(said.event, Event::Failed { .. })
            };
            self.said.iter().find(is_it).map(|said| said.at_ns - since_ns)
        };
        self.outcome.detected_ns.extend(survivors.iter().filter_map(first_error).max());
    }

    /// Waits for these; who does not come is a violation, and is killed.
    fn await_all(&mut self, ranks: &[usize], limit: Instant, is_there: impl Fn(&Self, usize) -> bool) {
        loop {
            let missing: Vec<usize> =
                ranks.iter().copied().filter(|rank| self.is_awaited(*rank) && !is_there(self, *rank)).collect();
            if missing.is_empty() {
                return;
            }
            let how = match self.job.hear(limit) {
                Ok(said) => {
                    self.said.push(said);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => format!("is stuck for more than {:?}", self.bound()),
                Err(RecvTimeoutError::Disconnected) => "has ended without the word that was waited for".to_owned(),
            };
            for rank in missing {
                let last = self.said.iter().rfind(|said| said.rank == rank).map(|said| &said.event);
                let threads = self.job.threads(rank);
                let what = format!("rank {rank} {how} (threads: {threads}); what it has said last: {last:?}");
                self.outcome.violations.push(what);
                self.live.retain(|other| *other != rank);
            }
        }
    }

    /// Whether a rank must come: it lives, and does not wait for one that lives and comes no more. Who is told that
    /// others cannot be reached, and is no majority, calls nothing again here; who is back from a stop may wait for it,
    /// rightly.
    fn is_awaited(&self, rank: usize) -> bool {
        let gave_up = |said: &Said| matches!(&said.event, Event::Failed { told, .. } if told.is_open());
        let is_hurt = self.hurt.iter().any(|(hurt, _)| *hurt == rank);
        self.live.contains(&rank) && !(is_hurt && !self.has_majority() && self.said.iter().any(gave_up))
    }

    /// Whether a rank knows of all that has happened since then, or can come to know nothing more.
    fn has_settled(&self, rank: usize, since_ns: u64) -> bool {
        let tells = |said: &&Said| said.rank == rank && !is_of_object(&said.event);
        let Some(last) = self.said.iter().rfind(tells) else { return false };
        match &last.event {
            Event::Shrunk { ranks, .. } => {
                last.at_ns >= since_ns && (self.plan.fault == Fault::OneWay || *ranks == self.survivors())
            }
            Event::Failed { told: Told::RankFailed { .. }, .. } | Event::Ready => false,
            Event::Failed { .. } | Event::NotShrunk { .. } | Event::Undead { .. } | Event::Bye => true,
            // Of ranks with other roles, and of objects.
            Event::Calm { .. } | Event::Queues | Event::Holds { .. } | Event::Wrong { .. } => true,
        }
    }

    /// Has all that are left leave, and looks whether they can.
    fn end(&mut self) -> Result<(), DoomedError> {
        let mut holdings = Holdings::default();
        (0..self.job.size()).for_each(|rank| holdings.add(self.job.pid(rank)));
        for rank in self.live.clone() {
            self.job.say(rank, END);
        }
        let limit = Instant::now() + self.bound();
        let live = self.live.clone();
        self.await_all(&live, limit, |round, rank| {
            round.said.iter().any(|said| said.rank == rank && said.event == Event::Bye)
        });
        for rank in self.live.clone() {
            match self.job.end_of(rank, limit)? {
                Some(status) if status.success() => {}
                end => self.outcome.violations.push(format!("rank {rank} has left, and its process ends with {end:?}")),
            }
        }
        let key = self.job.key().to_owned();
        self.job.end()?;
        let left = sockets::with_variable(&key).into_iter().map(|pid| format!("process {pid}"));
        let left = left.chain(holdings.left_at(Instant::now() + self.bound()));
        self.outcome.violations.extend(left.map(|left| format!("left behind: {left}")));
        Ok(())
    }

    fn judge(mut self, directory: &Path) -> Result<Outcome, DoomedError> {
        let read = |rank| log::read(&records_of(directory, rank)).map_err(system("read a rank's records"));
        let records = (0..self.job.size()).map(read).collect::<Result<Vec<_>, _>>()?;
        let evidence = verdict::Evidence {
            nodes: &self.plan.nodes,
            said: &self.said,
            records: &records,
            hurt: &self.hurt,
            killed: &self.killed,
            is_cut: self.plan.fault.needs_namespaces(),
        };
        self.outcome.violations.extend(verdict::judge(&evidence));
        let read = |rank| deeds::read(&deeds_of(directory, rank)).map_err(system("read a rank's deeds"));
        let deeds = (0..self.job.size()).map(read).collect::<Result<Vec<_>, _>>()?;
        self.outcome.violations.extend(custody::judge(&evidence, &deeds));
        self.outcome.outcomes.extend(custody::words(&deeds));
        for deed in deeds.iter().flatten() {
            *self.outcome.calls.entry(deed.act.of_what()).or_default() += 1;
        }
        self.judge_survivors();
        for said in &self.said {
            self.outcome.outcomes.extend(word(&said.event));
        }
        if !self.outcome.violations.is_empty() {
            self.outcome.history = self.history(&deeds);
        }
        Ok(self.outcome)
    }

    /// What was done and said, in the order of time, and which calls of objects have not ended, or took long.
    fn history(&self, deeds: &[Vec<Deed>]) -> String {
        let hurt = self.hurt.iter().map(|(rank, at_ns)| (*at_ns, format!("rank {rank} is hurt")));
        let said = self.said.iter().map(|said| (said.at_ns, format!("rank {}: {:?}", said.rank, said.event)));
        let by_rank = deeds.iter().enumerate().flat_map(|(rank, deeds)| deeds.iter().map(move |deed| (rank, deed)));
        let long = by_rank
            .filter(|(_, deed)| is_long(deed))
            .map(|(rank, deed)| (deed.begun_ns, format!("rank {rank}: {deed:?}")));
        let mut all: Vec<(u64, String)> = hurt.chain(said).chain(long).collect();
        all.sort();
        let first = all.first().map_or(0, |(at_ns, _)| *at_ns);
        let line = |(at_ns, what): &(u64, String)| format!("    {:>9.3} ms  {what}\n", (at_ns - first) as f64 / 1e6);
        all.iter().map(line).collect()
    }

    /// Where a majority lives on, its ranks must be able to go on.
    fn judge_survivors(&mut self) {
        if !self.has_majority() || self.plan.fault == Fault::OneWay {
            return;
        }
        let survivors = self.survivors();
        let given_up = |said: &&Said| match &said.event {
            Event::Failed { told, .. } => !matches!(told, Told::RankFailed { .. }),
            event => matches!(event, Event::NotShrunk { .. }),
        };
        for said in self.said.iter().filter(|said| survivors.contains(&said.rank)).filter(given_up) {
            let what = format!("rank {} lives in a majority and could not go on: {:?}", said.rank, said.event);
            self.outcome.violations.push(what);
        }
    }
}

/// Whether a call has not ended, or has lasted for longer than most.
fn is_long(deed: &Deed) -> bool {
    deed.ended.is_none_or(|(at_ns, _)| Duration::from_nanos(at_ns - deed.begun_ns) > LONG_CALL)
}

/// Whether it says nothing of barriers.
fn is_of_object(event: &Event) -> bool {
    matches!(event, Event::Holds { .. } | Event::Queues | Event::Wrong { .. })
}

/// How long a wait may last after a fault.
fn bound(plan: &Plan) -> Duration {
    SLACK + TIMEOUTS * plan.timeout
}

/// Whether a stop that was to be short may have been a long one for the others: this process has not had a CPU in time.
fn may_count_as_stopped(plan: &Plan, stopped_ns: u64) -> bool {
    Duration::from_nanos(stopped_ns) >= plan.timeout / 2
}

fn word(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::Failed { told: Told::RankFailed { .. }, .. } => "told who failed",
        Event::Failed { told: Told::Excluded { .. }, .. } => "told of its exclusion",
        Event::Failed { told: Told::Unreachable { .. }, .. } => "told of a partition",
        Event::Failed { told: Told::Unsettled { .. }, .. } => "told that survivors do not answer",
        Event::Failed { .. } => "told something else",
        Event::Shrunk { .. } => "went on with the survivors",
        Event::NotShrunk { .. } => "could not go on",
        Event::Undead { .. } => "went on without the others",
        Event::Wrong { .. } => "were told what no fault explains",
        Event::Ready | Event::Bye | Event::Calm { .. } | Event::Queues | Event::Holds { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_have_the_time_that_a_node_which_acknowledges_has() {
        // RDMA's devices are slow, and so are its time-outs: this seed's is the longest.
        let plan = Plan::draw(9_100_012, Wires::Rdma, Fault::StopNode, 2);
        assert_eq!(plan.timeout, Duration::from_secs(3), "{plan}");
        assert!(bound(&plan) > 4 * plan.timeout + SHRINK_LIMIT, "{plan}");
    }

    #[test]
    fn a_short_stop_that_was_none_excuses_the_others() {
        let plan = Plan::draw(1, Wires::Shm, Fault::StopShort, 2);
        let ns = |span: Duration| u64::try_from(span.as_nanos()).expect("milliseconds");
        assert!(!may_count_as_stopped(&plan, ns(plan.stop)), "{plan}");
        assert!(may_count_as_stopped(&plan, ns(plan.timeout)), "{plan}");
    }
}
