//! The barrier between nodes as a machine, on simulated nodes joined by unreliable wires: one thread steps the members
//! and the wires in an order drawn from a seed.
//!
//! Each *actor* is one member, a process of its own. It comes late, takes its arrival back, looks away until all others
//! are through (as a rank does that computes between `arrive` and `wait`), polls with more or less trust in others, and
//! sleeps until a wake-up that comes only if the machines ask for it. Writes and reads are late, refused and lost. An
//! oracle that knows every step checks that
//!
//! - nobody passes before all have arrived, and whoever passes gets the outcome of the arrivals that stood;
//! - an arrival is withdrawn only from a barrier that nobody has passed;
//! - no sleeper is left behind by the word that it sleeps on;
//! - everybody gets through in the end, without those that look away;
//! - no ticket of the fabric is left over.
//!
//! The last tests bring about by hand what only some orders of steps lead to.
#![cfg(not(model))]

mod common;

use std::task::Poll;

use common::conduct::{Conduct, Mood, any_contribution, fall_asleep, is_missed_by_nobody, wake_up};
use common::seeds::for_each_seed;
use common::spanned::{Actor, Spanned, any_algorithm, any_pattern, members, pass};
use common::wires::Wires;
use phalanx::coord::barrier::spanning::layout::{ExchangeWord, SpanLayout};
use phalanx::coord::barrier::spanning::{Schedule, Span, SpanNode, Spanning};
use phalanx::coord::barrier::{Algorithm, Contribution, Operation, Outcome, Withdrawal};
use phalanx::coord::formation::{self, Member};
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::sim::{Seeded, SimNode};
use phalanx::fabric::{Memory, WordAt};
use phalanx::sync::Ordering;

/// What a seed decides once.
#[derive(Clone, Copy, Debug)]
struct Weather {
    rounds: u64,
    /// How likely a member is to act up, in percent.
    unrest: usize,
    /// How likely a wire is to fail when it is used, in per mille.
    faults: usize,
}

/// A group and its wires.
struct Meeting<'net> {
    net: &'net Wires,
    actors: Vec<Actor>,
    weather: Weather,
    random: Seeded,
}

impl<'net> Meeting<'net> {
    fn new(net: &'net Wires, layouts: &[SpanLayout], span: &Span, weather: Weather, seed: u64) -> Self {
        let actors = Actor::all(net, layouts, span);
        Self { net, actors, weather, random: Seeded::new(seed) }
    }

    fn is_over(&self) -> bool {
        self.actors.iter().all(|actor| actor.machine.passed() == self.weather.rounds)
    }

    /// All members, each with the barrier that it is at.
    fn all(&self) -> impl Iterator<Item = (u64, &Conduct)> {
        self.actors.iter().map(|actor| (actor.next(), &actor.conduct))
    }

    fn is_unlucky(&mut self) -> bool {
        self.random.below(100) < self.weather.unrest
    }

    /// The barrier that a member is at.
    fn next(&self, index: usize) -> u64 {
        self.actors[index].next()
    }

    /// Whether a member has arrived at `sequence`, its withdrawal, if it is at one, left open.
    fn may_stand(&self, index: usize, sequence: u64) -> bool {
        self.actors[index].conduct.may_stand(self.next(index), sequence)
    }

    /// Steps a wire or a member.
    fn step(&mut self) {
        if self.random.below(3) > 0 {
            self.net.step();
            return;
        }
        let able: Vec<usize> = (0..self.actors.len()).filter(|index| self.can_act(*index)).collect();
        let Some(index) = (!able.is_empty()).then(|| able[self.random.below(able.len())]) else { return };
        match self.actors[index].conduct.mood {
            // A sleep has an end without a wake-up too, because messages can be lost.
            Mood::Parked(_) if self.random.below(20) > 0 => {}
            Mood::Idle => self.arrive(index),
            Mood::Waiting | Mood::Absent => self.wait(index),
            Mood::Withdrawing => self.withdraw(index),
            Mood::Parked(_) => self.come_to(index),
        }
        self.deliver_wakes();
    }

    fn can_act(&self, index: usize) -> bool {
        match self.actors[index].conduct.mood {
            Mood::Idle => self.next(index) <= self.weather.rounds,
            Mood::Waiting | Mood::Withdrawing | Mood::Parked(_) => true,
            Mood::Absent => is_missed_by_nobody(self.all(), self.next(index)),
        }
    }

    fn arrive(&mut self, index: usize) {
        let sequence = self.next(index);
        let contribution = any_contribution(sequence, &mut self.random);
        let is_absent = self.is_unlucky() && self.someone_looks(index);
        let begins = is_absent || self.random.below(3) == 0;
        let Actor { machine, node, conduct } = &mut self.actors[index];
        conduct.arrive(sequence, contribution);
        machine.arrive(&self.net.nodes[*node], contribution, Some(index % 4));
        machine.note_arrival_time(&self.net.nodes[*node], sequence);
        if begins {
            machine.begin(&self.net.nodes[*node], &self.net.of(index, *node));
        }
        conduct.mood = if is_absent { Mood::Absent } else { Mood::Waiting };
    }

    fn someone_looks(&self, index: usize) -> bool {
        self.actors.iter().enumerate().any(|(other, actor)| other != index && actor.conduct.mood != Mood::Absent)
    }

    fn wait(&mut self, index: usize) {
        if self.actors[index].conduct.attempts < 4 && self.is_unlucky() {
            self.actors[index].conduct.mood = Mood::Withdrawing;
            return self.withdraw(index);
        }
        let distrust = self.random.below(6);
        match self.actors[index].look(self.net, index, distrust) {
            Poll::Ready(outcome) => pass(&mut self.actors, index, &outcome),
            Poll::Pending if distrust == 4 => self.park(index),
            Poll::Pending => {}
        }
    }

    fn withdraw(&mut self, index: usize) {
        let sequence = self.next(index);
        let Actor { machine, node, .. } = &mut self.actors[index];
        let withdrawn = machine.withdraw(&self.net.nodes[*node], &self.net.of(index, *node));
        match withdrawn {
            Poll::Pending => {}
            Poll::Ready(Withdrawal::Passed(outcome)) => pass(&mut self.actors, index, &outcome),
            Poll::Ready(Withdrawal::Withdrawn) => {
                let passed = (0..self.actors.len()).find(|other| self.next(*other) > sequence);
                assert_eq!(passed, None, "member {index} withdrew from {sequence}, which has been passed");
                self.actors[index].conduct.withdraw();
            }
            Poll::Ready(Withdrawal::Exhausted) => {
                let neighbours = self.actors.iter().enumerate().filter(|(_, actor)| actor.node == self.node_of(index));
                let standing: Vec<bool> = neighbours.map(|(other, _)| self.may_stand(other, sequence)).collect();
                assert!(standing.iter().all(|stands| *stands), "refused while a neighbour is missing: {standing:?}");
                self.actors[index].conduct.mood = Mood::Waiting;
                // It stands now, and is not tried again.
                self.actors[index].conduct.attempts = 4;
            }
        }
    }

    fn node_of(&self, index: usize) -> usize {
        self.actors[index].node
    }

    fn park(&mut self, index: usize) {
        let node = &self.net.nodes[self.actors[index].node];
        let Some(awaited) = self.actors[index].machine.awaited(node) else { return };
        if fall_asleep(node, awaited) {
            self.actors[index].conduct.mood = Mood::Parked(awaited);
        }
    }

    fn come_to(&mut self, index: usize) {
        let Mood::Parked(awaited) = self.actors[index].conduct.mood else { return };
        wake_up(&self.net.nodes[self.actors[index].node], awaited);
        self.actors[index].conduct.mood = Mood::Waiting;
    }

    fn deliver_wakes(&mut self) {
        for node in 0..self.net.nodes.len() {
            let woken = self.net.nodes[node].take_woken();
            for index in 0..self.actors.len() {
                let Mood::Parked(awaited) = self.actors[index].conduct.mood else { continue };
                if self.node_of(index) != node {
                    continue;
                }
                // A word may change and still not be what is awaited: an arrival that is taken back.
                let now = self.actors[index].machine.awaited(&self.net.nodes[node]);
                let has_come = now.is_none();
                assert!(!has_come || woken.contains(&awaited.word), "member {index} sleeps on: {awaited:?}, {now:?}");
                if woken.contains(&awaited.word) {
                    self.come_to(index);
                }
            }
        }
    }

    /// Steps until all are through. Steps are bounded: random polls get there soon if they can get there at all.
    fn run(&mut self) {
        let most_steps = self.weather.rounds * 6000 * self.actors.len() as u64;
        for _ in 0..most_steps {
            if self.is_over() {
                return self.tidy_up();
            }
            self.step();
        }
        panic!("nobody gets through: {:?}\n{}", self.weather, self.situation());
    }

    fn tidy_up(&self) {
        self.net.settle();
        for index in 0..self.actors.len() {
            assert_eq!(self.net.tickets_of(index), 0, "member {index} has left tickets behind");
        }
    }

    fn situation(&self) -> String {
        let line = |(index, actor): (usize, &Actor)| {
            format!("{index} on {}: passed {}, {:?}\n", actor.node, actor.machine.passed(), actor.conduct.mood)
        };
        self.actors.iter().enumerate().map(line).collect()
    }
}

/// A group with so many members on each node.
fn one_group(counts: &[usize], most_radix: usize, weather: Weather, random: &mut Seeded) {
    let schedule = Schedule::new(counts.len(), any_pattern(most_radix, random));
    let is_uniform = random.below(2) == 0;
    let (mut nodes, mut layouts) = (Vec::new(), Vec::new());
    for count in counts {
        // Something else may stand before the block.
        let before = if is_uniform { 0 } else { random.below(3) };
        let units = before * formation::units(1) + formation::units_spanning(&schedule, *count);
        let node = NodeLayout::new(*count, units * UNIT_WORDS);
        let memory = SimNode::new(node.words());
        let members = members(*count);
        for _ in 0..before {
            formation::make_for(&memory, &node, &members[..1], Algorithm::Flat).expect("space");
        }
        let algorithm = any_algorithm(random);
        layouts.push(formation::make_spanning(&memory, &node, schedule, &members, algorithm).expect("space"));
        nodes.push(memory);
    }
    let starts: Vec<WordAt> = layouts.iter().map(SpanLayout::start).collect();
    let all_alike = counts.iter().all(|count| *count == counts[0]) && starts.iter().all(|start| *start == starts[0]);
    let span = match is_uniform && all_alike {
        true => Span::All { nodes: counts.len(), start: starts[0], members: counts[0] },
        false => {
            let node = |(node, start): (usize, WordAt)| SpanNode { node, start, members: counts[node] };
            Span::Some(starts.into_iter().enumerate().map(node).collect())
        }
    };
    let net = Wires::new(nodes, counts.iter().sum(), weather.faults, random.number());
    Meeting::new(&net, &layouts, &span, weather, random.number()).run();
}

#[test]
fn nodes_pass_together_whatever_their_members_and_wires_do() {
    for_each_seed("spanning", "nodes_pass_together_whatever_their_members_and_wires_do", 0..500, |seed| {
        let mut random = Seeded::new(seed ^ 0x51a7);
        let counts: Vec<usize> = (0..1 + random.below(6)).map(|_| 1 + random.below(3)).collect();
        let weather = Weather { rounds: 7, unrest: [0, 5, 25][random.below(3)], faults: [0, 10, 100][random.below(3)] };
        one_group(&counts, 5, weather, &mut random);
    });
}

#[test]
fn many_nodes_pass_together() {
    // One of them takes a debug build four seconds.
    let seeds = if cfg!(debug_assertions) { 2 } else { 8 };
    for_each_seed("spanning", "many_nodes_pass_together", 0..seeds, |seed| {
        let mut random = Seeded::new(seed ^ 0x9a11);
        let counts: Vec<usize> = (0..6 + random.below(20)).map(|_| 1 + random.below(4)).collect();
        let weather = Weather { rounds: 3, unrest: [0, 10][random.below(2)], faults: [0, 5][random.below(2)] };
        one_group(&counts, 9, weather, &mut random);
    });
}

/// What a long night finds: seeds that nobody has tried.
#[test]
#[ignore = "minutes of fresh seeds"]
fn nodes_pass_together_on_fresh_seeds() {
    let first = common::seeds::fresh_seed();
    for_each_seed("spanning", "nodes_pass_together_on_fresh_seeds", first..first + 2_000, |seed| {
        let mut random = Seeded::new(seed ^ 0x51a7);
        let counts: Vec<usize> = (0..1 + random.below(12)).map(|_| 1 + random.below(4)).collect();
        let weather = Weather { rounds: 7, unrest: [0, 5, 25][random.below(3)], faults: [0, 10, 100][random.below(3)] };
        one_group(&counts, 8, weather, &mut random);
    });
}

/// Nodes with a member each, of which the first has all words but that of its last round, from whoever has arrived.
fn last_round_of(nodes: usize, has_arrived: impl Fn(usize) -> bool) -> (Wires, SpanLayout, Span) {
    let schedule = Schedule::dissemination(nodes, 2);
    let node = NodeLayout::new(1, formation::units_spanning(&schedule, 1) * UNIT_WORDS);
    let made = |_| {
        let memory = SimNode::new(node.words());
        let member = [Member { rank: 0, local: 0 }];
        let layout = formation::make_spanning(&memory, &node, schedule, &member, Algorithm::Flat).expect("space");
        (memory, layout)
    };
    let (memories, layouts): (Vec<SimNode>, Vec<SpanLayout>) = (0..nodes).map(made).unzip();
    let layout = layouts[0];
    let span = Span::All { nodes, start: layout.start(), members: 1 };
    let told = ExchangeWord::new(1, 1 << Operation::Barrier as u64).0;
    for index in (1..nodes).filter(|index| has_arrived(*index)) {
        memories[index].word(layout.outbox(0, 1)).store(told, Ordering::Relaxed);
    }
    for round in 0..schedule.rounds() - 1 {
        memories[0]
            .word(layout.inbox(schedule.hears(0, round).next().expect("a message").slot, 1))
            .store(told, Ordering::Relaxed);
    }
    (Wires::new(memories, 1, 0, 7), layout, span)
}

/// A driver that misses the word of its last round asks all the nodes of which that would have told: more than there
/// are tickets for at once. (They have arrived; nobody goes on.)
#[test]
fn thousands_of_nodes_are_asked_a_part_at_a_time() {
    let (net, layout, span) = last_round_of(8192, |_| true);
    let fabric = net.of(0, 0);
    let mut machine = Spanning::new(&net.nodes[0], layout, span, 0, 0);
    machine.arrive(&net.nodes[0], Contribution::NONE, None);
    let looks = (0..100).find(|_| {
        let seen = machine.repair(&net.nodes[0], &fabric);
        net.settle();
        seen.is_ready()
    });
    assert!(looks.is_some(), "it never passes");
    net.settle();
    assert_eq!(net.tickets_of(0), 0);
}

/// All wait for one, and each for long: what they ask each other grows with their number, and not with its square.
#[test]
fn the_more_nodes_wait_the_more_seldom_each_asks_all_of_them() {
    const LOOKS: usize = 90;
    let asked_of = |nodes: usize| {
        let (net, layout, span) = last_round_of(nodes, |_| false);
        let fabric = net.of(0, 0);
        let mut machine = Spanning::new(&net.nodes[0], layout, span, 0, 0);
        machine.arrive(&net.nodes[0], Contribution::NONE, None);
        net.settle();
        // Two words of each node.
        let look = |_| {
            assert!(machine.repair(&net.nodes[0], &fabric).is_pending());
            let asked = net.tickets_of(0) / 2;
            net.settle();
            asked
        };
        (0..LOOKS).map(look).collect::<Vec<usize>>()
    };
    for nodes in [8, 64, 256] {
        let asked = asked_of(nodes);
        let of_all = asked.iter().filter(|asked| **asked == nodes / 2).count();
        assert!(of_all >= LOOKS / (nodes / 16 + 2), "{nodes} nodes: all are asked now and then: {asked:?}");
        assert!(asked.iter().sum::<usize>() <= LOOKS * 9, "{nodes} nodes: {asked:?}");
    }
}

/// Nodes of so many members each, with flat barriers, on wires that do not fail.
struct Few {
    net: Wires,
    layouts: Vec<SpanLayout>,
    span: Span,
    /// Processes so far.
    processes: std::cell::Cell<usize>,
}

/// A member and its process.
struct One {
    machine: Spanning,
    node: usize,
    process: usize,
}

impl Few {
    fn new(counts: &[usize]) -> Self {
        let schedule = Schedule::dissemination(counts.len(), 2);
        let Spanned { nodes, layouts, span } = Spanned::new(schedule, counts, || Algorithm::Flat);
        let net = Wires::new(nodes, counts.iter().sum(), 0, 1);
        Self { net, layouts, span, processes: std::cell::Cell::new(0) }
    }

    fn member(&self, node: usize, me: usize) -> One {
        let process = self.processes.replace(self.processes.get() + 1);
        One {
            machine: Spanning::new(&self.net.nodes[node], self.layouts[node], self.span.clone(), node, me),
            node,
            process,
        }
    }
}

impl One {
    fn arrive(&mut self, few: &Few) {
        self.machine.arrive(&few.net.nodes[self.node], Contribution::NONE, None);
    }

    fn poll(&mut self, few: &Few) -> Poll<Outcome> {
        self.machine.poll(&few.net.nodes[self.node], &few.net.of(self.process, self.node))
    }

    fn look(&mut self, few: &Few) -> bool {
        self.machine.repair(&few.net.nodes[self.node], &few.net.of(self.process, self.node)).is_ready()
    }

    fn begin(&mut self, few: &Few) {
        self.machine.begin(&few.net.nodes[self.node], &few.net.of(self.process, self.node));
    }

    /// Takes its arrival back, with as many steps of the wires as that needs.
    fn withdraw(&mut self, few: &Few) {
        for _ in 0..1000 {
            match self.machine.withdraw(&few.net.nodes[self.node], &few.net.of(self.process, self.node)) {
                Poll::Pending => few.net.step(),
                Poll::Ready(ended) => return assert_eq!(ended, Withdrawal::Withdrawn),
            };
        }
        panic!("it does not come back");
    }
}

/// All look until all have passed; before that `absent` has to arrive again, and nobody passes.
fn nobody_passes_without(few: &Few, members: &mut [One], absent: usize, when: usize) {
    for _ in 0..20 {
        few.net.settle();
        for (index, one) in members.iter_mut().enumerate().filter(|(index, _)| *index != absent) {
            assert!(!one.look(few), "member {index} has passed without member {absent}, after {when} steps");
        }
    }
    members[absent].arrive(few);
    for _ in 0..100 {
        few.net.settle();
        for one in members.iter_mut().filter(|one| one.machine.is_outstanding()) {
            one.look(few);
        }
    }
    assert!(members.iter().all(|one| one.machine.passed() == 1), "all are here, and it is not passed");
}

/// Member 0 looks at the contest; after so many of its messages member 1 withdraws and member 2 comes.
fn a_look_is_overtaken(few: &Few, members: &mut [One; 3], steps: usize) {
    assert!(!members[0].look(few));
    few.net.settle();
    assert!(!members[0].look(few));
    for _ in 0..steps {
        few.net.step();
    }
    members[1].withdraw(few);
    members[2].arrive(few);
    nobody_passes_without(few, members, 1, steps);
}

/// A look at a contest goes on while one member of a node takes its arrival back, which is that node's business as long
/// as another has not come, and the other comes: they have never stood together.
#[test]
fn a_look_does_not_take_members_of_an_incomplete_node_together() {
    for steps in 0..60 {
        let few = Few::new(&[1, 2]);
        let mut members = [few.member(0, 0), few.member(1, 0), few.member(1, 1)];
        members[0].arrive(&few);
        members[0].begin(&few);
        members[0].withdraw(&few);
        members[0].arrive(&few);
        members[1].arrive(&few);
        a_look_is_overtaken(&few, &mut members, steps);
    }
}

/// A member whose neighbour has withdrawn abroad finds somebody missing on its own node; it is counted all the same.
#[test]
fn a_withdrawal_from_a_complete_node_is_counted() {
    for steps in 0..60 {
        let few = Few::new(&[1, 2]);
        let mut members = [few.member(0, 0), few.member(1, 0), few.member(1, 1)];
        members[1].arrive(&few);
        members[2].arrive(&few);
        members[2].begin(&few);
        members[2].withdraw(&few);
        members[0].arrive(&few);
        a_look_is_overtaken(&few, &mut members, steps);
    }
}

/// A message dies with its connection; its sender passes all the same, and parts. Nobody can read from it afterwards.
#[test]
fn whoever_has_parted_owes_nobody_a_word() {
    for operation in [Operation::Barrier, Operation::Max] {
        let few = Few::new(&[1, 1]);
        let mut members = [few.member(0, 0), few.member(1, 0)];
        for (one, value) in members.iter_mut().zip([7, 5]) {
            one.machine.arrive(&few.net.nodes[one.node], Contribution { operation, value }, None);
        }
        let [leaver, other] = &mut members;
        assert!(leaver.poll(&few).is_pending());
        few.net.break_off(leaver.process, 1);
        assert!(other.poll(&few).is_pending());
        few.net.settle();
        assert!(leaver.poll(&few).is_ready(), "it has heard of the other");
        let parted = |_| {
            let parts = leaver.machine.part(&few.net.nodes[0], &few.net.of(leaver.process, 0), false, |_| false);
            few.net.settle();
            parts.is_ready()
        };
        assert!((0..10).any(parted), "it never parts");
        few.net.cut(other.process, 0);
        let expected = if operation.has_value() { 7 } else { 0 };
        assert_eq!(other.poll(&few), Poll::Ready(Ok(expected)), "it misses a word that it will never get");
        assert_eq!(few.net.tickets_of(leaver.process), 0);
    }
}

/// Who has nobody to tell parts at once.
#[test]
fn whoever_parts_does_not_wait_for_nodes_that_are_gone() {
    let few = Few::new(&[1, 1]);
    let mut members = [few.member(0, 0), few.member(1, 0)];
    members.iter_mut().for_each(|one| one.arrive(&few));
    for one in &mut members {
        let _ = one.poll(&few);
    }
    few.net.settle();
    assert!(members[0].poll(&few).is_ready());
    few.net.cut(members[0].process, 1);
    let leaver = &mut members[0];
    let mut part =
        |is_gone: bool| leaver.machine.part(&few.net.nodes[0], &few.net.of(leaver.process, 0), false, |_| is_gone);
    assert!(part(false).is_pending() && part(false).is_pending());
    assert!(part(true).is_ready());
}
