//! Agreement on a simulated network in trouble: links break, answers are lost, nodes crash and are cut off, and many
//! propose at once. In every run an oracle checks that
//!
//! - all that learn on nodes that live learn the same, and that it was proposed;
//! - who learns has it in its node's word, so that a later proposer finds it;
//! - when the trouble is over, and every crash is known, everybody alive has decided;
//! - without a deadline nothing ends in an error, and no ticket is left over.
#![cfg(not(model))]

mod common;

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::task::Poll;
use std::time::Duration;

use common::seeds::for_each_seed;
use common::sieve::all_but_post_and_take;
use phalanx::cluster::agreement::{
    AcceptorWord, Agreement, AgreementError, Announcement, Decision, Electorate, Listener, Proposal, Slot,
};
use phalanx::fabric::sim::{Costs, Fault, Jitter, Options, Rates, Seeded, SimFabric, World};
use phalanx::fabric::{BATCH_REQUESTS, Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::sync::Ordering;

/// Faults happen until then, and are over afterwards.
const TROUBLE_NS: u64 = 2_000_000;
/// By then everybody is done: long pauses have room.
const END_NS: u64 = 2_000_000_000;
/// Room for those of a proposer among 512 nodes.
const REQUESTS_MAX: usize = 2048;
const PAUSE: Duration = Duration::from_micros(5);

/// Each node has its words somewhere else.
fn slot(node: usize) -> Slot {
    Slot { acceptor: WordAt(node % 3), decided: WordAt(4 + node % 5), before: None }
}

const WORDS: usize = 9;

fn value_of(node: usize) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(u32::try_from(node).expect("few nodes"))
}

fn proposal(nodes: usize, here: usize, seed: u64) -> Proposal {
    Proposal { electorate: Electorate::of_all(nodes), here, value: value_of(here), pause: PAUSE, seed }
}

fn agreement(nodes: usize, here: usize, seed: u64, deadline: Option<Duration>) -> Agreement {
    Agreement::new(proposal(nodes, here, seed), (0..nodes).map(slot).collect(), deadline)
}

fn acceptor_word(world: &World, node: usize) -> AcceptorWord {
    AcceptorWord(world.memory(node).word(slot(node).acceptor).load(Ordering::Relaxed))
}

/// A node's part in a run.
enum Part {
    Proposes { from_ns: u64, machine: Box<Agreement> },
    Announces(Decision, Announcement),
    Done(Option<Decision>),
}

struct Run {
    world: World,
    parts: Vec<Part>,
    /// When each node crashes, if it does.
    crashes: Vec<Option<u64>>,
    /// How long after a crash others know of it.
    notice_ns: u64,
    announces: bool,
}

impl Run {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut random = Seeded::new(seed);
        let mut options = Options::new(nodes, WORDS);
        options.seed = random.number();
        options.requests_max = REQUESTS_MAX;
        options.detection_ns = [1_000, 20_000][random.below(2)];
        let jitter = [Jitter::Uniform { most_ns: 2_000 }, Jitter::HeavyTail { mean_ns: 1_000, most_ns: 200_000 }];
        options.costs = Costs { jitter: jitter[random.below(2)], ..Costs::default() };
        let failed_per_million = [0, 3_000, 50_000][random.below(3)];
        options.rates = Rates { failed_per_million, duplicated_per_million: 0 };
        let world = World::new(options);
        let proposers = 1 + random.below(nodes.min(16));
        let is_together = random.below(2) == 0;
        let parts = (0..nodes).map(|node| {
            if random.below(nodes) >= proposers {
                return Part::Done(None);
            }
            let from_ns = if is_together { 0 } else { random.number() % TROUBLE_NS };
            Part::Proposes { from_ns, machine: Box::new(agreement(nodes, node, random.number(), None)) }
        });
        let parts = parts.collect();
        let notice_ns = [10_000, 300_000][random.below(2)];
        let announces = random.below(2) == 0;
        let mut run = Self { world, parts, crashes: vec![None; nodes], notice_ns, announces };
        run.plan(&mut random);
        run
    }

    /// Crashes for good, links cut one way or both, partitions.
    fn plan(&mut self, random: &mut Seeded) {
        let nodes = self.world.nodes();
        // Sometimes all but one die, mostly few.
        let most = [0, 1, nodes / 3, nodes - 1][random.below(4)];
        for _ in 0..random.below(most + 1) {
            let (node, at) = (random.below(nodes), random.number() % TROUBLE_NS / (1 + random.below(20) as u64));
            let living = self.crashes.iter().filter(|crash| crash.is_none()).count();
            if self.crashes[node].is_none() && living > 1 {
                self.crashes[node] = Some(at);
                self.world.schedule(at, Fault::Crash { node });
            }
        }
        for _ in 0..random.below(4) {
            let start = random.number() % TROUBLE_NS;
            let end = start + random.number() % (TROUBLE_NS - start);
            let (from, to) = (random.below(nodes), random.below(nodes));
            let (fault, mended) = if random.below(2) == 0 {
                (Fault::Cut { from, to }, Fault::Mend { from, to })
            } else {
                let sides = (0..nodes).map(|_| u32::from(random.below(2) == 1)).collect();
                (Fault::Partition { sides }, Fault::Unite)
            };
            self.world.schedule(start, fault);
            self.world.schedule(end, mended);
        }
    }

    fn go(&mut self) {
        let Self { world, parts, crashes, notice_ns, announces } = self;
        let nodes = crashes.len();
        let mut alarms = vec![0; nodes];
        world.run_until(END_NS, |node, _, fabric| {
            let now = fabric.now_ns();
            let next = loop {
                match &mut parts[node] {
                    Part::Proposes { from_ns, .. } if now < *from_ns => break Some(*from_ns),
                    Part::Proposes { machine, .. } => {
                        let known = |crash: &Option<u64>| crash.is_some_and(|at| at + *notice_ns <= now);
                        (0..nodes).filter(|other| known(&crashes[*other])).for_each(|other| machine.note_gone(other));
                        let time = Duration::from_nanos(now);
                        let Poll::Ready(decided) = machine.poll(fabric, time) else {
                            let notices = crashes.iter().flatten().map(|at| at + *notice_ns).filter(|at| *at > now);
                            let wake = machine.wake_at(time).map(|at| nanoseconds(at).max(now + 1));
                            break notices.chain(wake).min();
                        };
                        let decision = decided.expect("no deadline, no error");
                        let others = (0..nodes).filter(|other| *announces && *other != node);
                        let listeners = others.map(|node| Listener { node, slot: slot(node), then: Vec::new() });
                        parts[node] = Part::Announces(decision, Announcement::new(decision, listeners.collect()));
                    }
                    Part::Announces(decision, announcement) => {
                        if announcement.poll(fabric).is_pending() {
                            break None;
                        }
                        parts[node] = Part::Done(Some(*decision));
                    }
                    Part::Done(_) => return Poll::Ready(()),
                }
            };
            if let Some(at) = next.filter(|at| alarms[node] <= now || *at < alarms[node]) {
                alarms[node] = at;
                fabric.alarm(at);
            }
            Poll::Pending
        });
        while self.world.step() {}
    }

    /// A node that is done holds no ticket: there is room for as many as there can be.
    fn check_tickets(&self) {
        let Some(node) = (0..self.parts.len()).find(|node| self.world.is_alive(*node)) else { return };
        let reads = [Request::Read { at: WordAt(0) }; BATCH_REQUESTS];
        for _ in 0..REQUESTS_MAX / BATCH_REQUESTS {
            self.world.fabric(node).post(node, &reads, &mut Vec::new()).expect("all tickets are given back");
        }
    }

    fn check(&self) {
        let nodes = self.parts.len();
        let mut decided: Vec<(usize, u32)> = Vec::new();
        for node in (0..nodes).filter(|node| self.world.is_alive(*node)) {
            match &self.parts[node] {
                Part::Done(None) => {}
                Part::Done(Some(decision)) => {
                    assert_eq!(decision.was_mine, decision.value == value_of(node).get());
                    assert_eq!(acceptor_word(&self.world, node).value(), decision.value, "node {node} has it");
                    decided.push((node, decision.value));
                }
                Part::Proposes { machine, .. } => panic!("node {node} has not decided: {machine:?}"),
                Part::Announces(..) => panic!("node {node} still announces"),
            }
            if let Some(value) = acceptor_word(&self.world, node).decided() {
                decided.push((node, value));
            }
            let told = self.world.memory(node).word(slot(node).decided).load(Ordering::Relaxed);
            if told != 0 {
                decided.push((node, u32::try_from(told).expect("a value")));
            }
        }
        assert!(decided.windows(2).all(|pair| pair[0].1 == pair[1].1), "(node, value): {decided:?}");
        assert!(decided.iter().all(|(_, value)| (1..=nodes).contains(&(*value as usize))), "{decided:?}");
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn run(seed: u64, nodes: usize) -> Run {
    let mut run = Run::new(seed, nodes);
    run.go();
    run.check();
    run.check_tickets();
    run
}

#[test]
fn all_that_learn_learn_the_same() {
    for_each_seed("agreement", "all_that_learn_learn_the_same", 0..400, |seed| {
        let nodes = [2, 3, 4, 5, 8, 17, 64][Seeded::new(seed ^ 0x5eed).below(7)];
        run(seed, nodes);
    });
}

#[test]
fn large_jobs_agree() {
    for_each_seed("agreement", "large_jobs_agree", 0..4, |seed| {
        run(seed, 512);
    });
}

#[test]
fn a_seed_repeats_its_run() {
    let traces = || (0..20).map(|seed| run(seed, 5).world.trace()).collect::<Vec<u64>>();
    assert_eq!(traces(), traces());
}

/// One proposer in peace, until it is ready or nothing happens any more.
fn alone(world: &mut World, machine: &mut Agreement) -> Option<Result<Decision, AgreementError>> {
    let mut end = None;
    world.run_until(END_NS, |node, _, fabric| {
        if node != 0 || end.is_some() {
            return Poll::Ready(());
        }
        let now = Duration::from_nanos(fabric.now_ns());
        match machine.poll(fabric, now) {
            Poll::Ready(ended) => {
                end = Some(ended);
                Poll::Ready(())
            }
            Poll::Pending => {
                if let Some(at) = machine.wake_at(now) {
                    fabric.alarm(nanoseconds(at).max(fabric.now_ns() + 1));
                }
                Poll::Pending
            }
        }
    });
    end
}

#[test]
fn alone_it_takes_two_round_trips() {
    let mut world = World::new(Options::new(5, WORDS));
    let end = alone(&mut world, &mut agreement(5, 0, 1, None)).expect("it ends").expect("it agrees");
    assert_eq!((end.value, end.was_mine), (1, true));
    let costs = Costs::default();
    let round_trip_ns = 2 * costs.latency_ns;
    let now = world.now_ns();
    assert!((2 * round_trip_ns..3 * round_trip_ns).contains(&now), "{now} ns, of round trips of {round_trip_ns} ns");
}

#[test]
fn who_comes_late_learns_what_was_decided() {
    let mut world = World::new(Options::new(3, WORDS));
    for node in [1, 2] {
        world.memory(node).word(slot(node).acceptor).store(AcceptorWord::new(4, 4, 3).0, Ordering::Relaxed);
    }
    let end = alone(&mut world, &mut agreement(3, 0, 1, None)).expect("it ends").expect("it agrees");
    assert_eq!((end.value, end.was_mine), (3, false));
    assert_eq!(acceptor_word(&world, 0).value(), 3);
}

#[test]
fn a_decided_word_is_the_decision() {
    for told in 0..3 {
        let mut world = World::new(Options::new(3, WORDS));
        world.memory(told).word(slot(told).acceptor).store(AcceptorWord::new(4, 4, 2).0, Ordering::Relaxed);
        world.memory(told).word(slot(told).decided).store(2, Ordering::Relaxed);
        let end = alone(&mut world, &mut agreement(3, 0, 1, None)).expect("it ends").expect("it agrees");
        assert_eq!(end.value, 2, "node {told} was told");
    }
}

#[test]
fn without_a_quorum_the_error_names_who_is_missing() {
    let mut world = World::new(Options::new(5, WORDS));
    [2, 3, 4].into_iter().for_each(|node| world.apply(&Fault::Crash { node }));
    let deadline = Duration::from_millis(1);
    let error = alone(&mut world, &mut agreement(5, 0, 1, Some(deadline))).expect("it ends").expect_err("no quorum");
    let expected =
        AgreementError::NoQuorum { here: 0, answered: 2, needed: 3, unreachable: vec![2, 3, 4], silent: vec![] };
    assert_eq!(error, expected);
}

#[test]
fn survivors_decide_without_a_majority() {
    let mut world = World::new(Options::new(5, WORDS));
    [2, 3, 4].into_iter().for_each(|node| world.apply(&Fault::Crash { node }));
    // What one of them has accepted of those who are gone is kept.
    world.memory(1).word(slot(1).acceptor).store(AcceptorWord::new(9, 8, 4).0, Ordering::Relaxed);
    let mut machine = agreement(5, 0, 1, None);
    [2, 3, 4].into_iter().for_each(|node| machine.note_gone(node));
    let end = alone(&mut world, &mut machine).expect("it ends").expect("it agrees");
    assert_eq!(end.value, 4);
}

/// A way to other nodes that loses the answer to the second of each three requests.
struct Deaf<'world> {
    fabric: &'world SimFabric,
    lost: &'world RefCell<Vec<Ticket>>,
}

impl Fabric for Deaf<'_> {
    all_but_post_and_take!();

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        let posted = self.fabric.post(node, requests, tickets);
        if node != self.here() && requests.len() == 3 {
            self.lost.borrow_mut().extend(tickets.get(1));
        }
        posted
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let is_lost = self.lost.borrow().contains(&ticket);
        let lost = |_| Err(OperationError::Lost { node: 1, why: "a test".to_owned() });
        if is_lost { self.fabric.take(ticket).map(lost) } else { self.fabric.take(ticket) }
    }
}

/// A promise counts only if it has been seen that its acceptor knows the instance before.
#[test]
fn a_promise_without_the_answer_beside_it_does_not_count() {
    let slot = |node| Slot { before: Some(WordAt(3)), ..slot(node) };
    for is_deaf in [false, true] {
        let mut world = World::new(Options::new(2, WORDS));
        (0..2).for_each(|node| world.memory(node).word(WordAt(3)).store(1, Ordering::Relaxed));
        let deadline = Duration::from_millis(1);
        let mut machine = Agreement::new(proposal(2, 0, 5), (0..2).map(slot).collect(), Some(deadline));
        let (mut end, lost) = (None, RefCell::default());
        world.run_until(END_NS, |node, _, fabric| {
            if node != 0 || end.is_some() {
                return Poll::Ready(());
            }
            let now = Duration::from_nanos(fabric.now_ns());
            let polled =
                if is_deaf { machine.poll(&Deaf { fabric, lost: &lost }, now) } else { machine.poll(fabric, now) };
            if let Poll::Ready(ended) = polled {
                end = Some(ended);
                return Poll::Ready(());
            }
            if let Some(at) = machine.wake_at(now) {
                fabric.alarm(nanoseconds(at).max(fabric.now_ns() + 1));
            }
            Poll::Pending
        });
        assert_eq!(end.expect("an end by the deadline").is_err(), is_deaf);
        let is_voted = acceptor_word(&world, 1).accepted() != 0;
        assert_eq!(is_voted, !is_deaf, "no vote is asked for");
    }
}

/// Links break at any moment of an announcement, for a while: who counts as told has the decided word, and its alarm.
#[test]
fn who_is_told_has_been_told() {
    let mut missed = 0;
    for at in (0..40_000).step_by(100) {
        let options = Options { detection_ns: 1_000, ..Options::new(2, WORDS) };
        let mut world = World::new(options);
        let decision = alone(&mut world, &mut agreement(2, 0, 7, None)).expect("an end").expect("a decision");
        let begun = world.fabric(0).now_ns();
        world.schedule(begun + at, Fault::Cut { from: 0, to: 1 });
        world.schedule(begun + at, Fault::Cut { from: 1, to: 0 });
        let alarm = WordAt(8);
        let then = vec![Request::FetchAdd { at: alarm, add: 1 }];
        let mut announcement = Announcement::new(decision, vec![Listener { node: 1, slot: slot(1), then }]);
        world.run_until(begun + 1_000_000, |node, _, fabric| match node {
            0 => announcement.poll(fabric),
            _ => Poll::Ready(()),
        });
        let found = [slot(1).decided, alarm].map(|at| world.memory(1).word(at).load(Ordering::Relaxed));
        match announcement.missed().is_empty() {
            true => assert_eq!(found, [u64::from(decision.value), 1], "cut after {at} ns: {announcement:?}"),
            false => missed += 1,
        }
    }
    assert!((1..400).contains(&missed), "some are told and some are not: {missed}");
}

/// Garbage in the words: an end, or an error by the deadline, whatever they hold.
#[test]
fn no_words_do_harm() {
    for_each_seed("agreement", "no_words_do_harm", 0..600, |seed| {
        let mut random = Seeded::new(seed);
        let nodes = 1 + random.below(5);
        let mut world = World::new(Options::new(nodes, WORDS));
        let near = [0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0xfffe, 0xffff];
        for node in 0..nodes {
            let any = random.number();
            let [promised, accepted] = [near[random.below(8)], near[random.below(8)]];
            let made = AcceptorWord::new(promised, accepted, [0, 1, u32::MAX][random.below(3)]).0;
            let decided = [0, 0, 0, random.number(), random.number() >> 32][random.below(5)];
            let acceptor = [0, any, made, made][random.below(4)];
            world.memory(node).word(slot(node).acceptor).store(acceptor, Ordering::Relaxed);
            world.memory(node).word(slot(node).decided).store(decided, Ordering::Relaxed);
        }
        let mut machine = agreement(nodes, 0, seed, Some(Duration::from_millis(1)));
        if nodes > 1 && random.below(3) == 0 {
            (1..nodes).for_each(|node| machine.note_gone(node));
        }
        let end = alone(&mut world, &mut machine).expect("it ends");
        if let Ok(decision) = end {
            assert_ne!(decision.value, 0);
            let listeners = (1..nodes).map(|node| Listener { node, slot: slot(node), then: Vec::new() }).collect();
            let mut announcement = Announcement::new(decision, listeners);
            let told = world.run_until(END_NS + 1_000_000, |node, _, fabric| match node {
                0 => announcement.poll(fabric),
                _ => Poll::Ready(()),
            });
            assert!(told[0].is_some(), "it is told: {announcement:?}");
        }
        assert_eq!(world.fabric(0).here(), 0);
    });
}
