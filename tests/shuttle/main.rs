//! The primitives under shuttle: three to five threads in random schedules, each of them named by a seed.
//!
//! Run by `scripts/test.sh`, or with
//! `RUSTFLAGS='--cfg model --cfg model="shuttle"' cargo test --release --target-dir target/shuttle -p phalanx --test
//! shuttle`. A failure prints a schedule; `shuttle::replay(body, "…")` in place of `random` runs it again.
//!
//! The oracle: before each arrival a member writes a *stamp*, its round and its attempt. Whoever passes reads all
//! stamps, and once all is over each must have been the stamp of the arrival that stood: an arrival that was taken
//! back has then released nobody. (Orders of memory are loom's business; shuttle runs everything in sequence.)
#![cfg(model = "shuttle")]

#[path = "../common/mod.rs"]
mod common;
mod lock;

use std::task::Poll;

use common::block::{REDUCTIONS, chain, lay_out, reduced};
use phalanx::coord::barrier::choice::tree_parents;
use phalanx::coord::barrier::layout::GroupLayout;
use phalanx::coord::barrier::{Algorithm, Barrier, Contribution, Disagreement, Operation, Withdrawal};
use phalanx::coord::offers::Named;
use phalanx::coord::{arena, drive, formation, offers};
use phalanx::fabric::Memory;
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::thread;

/// Schedules drawn at random, and as many drawn with priorities (PCT), which find rare orders of few events.
const SCHEDULES: usize = 3000;
/// Barriers in a row.
const ROUNDS: u64 = 3;
/// Attempts at one barrier that a stamp can name.
const ATTEMPTS: u64 = 10;

fn random(body: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(body.clone(), SCHEDULES);
    shuttle::check_pct(body, SCHEDULES, 3);
}

/// A group's members and their stamps.
struct Meeting {
    node: ModelNode,
    layout: GroupLayout,
    stamps: Vec<AtomicU64>,
}

/// The shapes that matter for `size` members: one line, a wide tree, a deep tree, a counter.
fn shapes(size: usize) -> Vec<(Algorithm, Vec<Option<usize>>)> {
    vec![
        (Algorithm::Flat, chain(size)),
        (Algorithm::Tree, tree_parents(&vec![None; size])),
        (Algorithm::Tree, chain(size)),
        (Algorithm::Central, chain(size)),
    ]
}

impl Meeting {
    fn new(algorithm: Algorithm, parents: &[Option<usize>]) -> Arc<Self> {
        let node = ModelNode::new(GroupLayout::words(parents.len()));
        let layout = lay_out(&node, algorithm, parents);
        Arc::new(Self { node, layout, stamps: parents.iter().map(|_| AtomicU64::new(0)).collect() })
    }

    fn size(&self) -> usize {
        self.stamps.len()
    }

    fn member(&self, index: usize) -> Barrier {
        Barrier::new(&self.node, self.layout, index)
    }

    fn stamps(&self) -> Vec<u64> {
        self.stamps.iter().map(|stamp| stamp.load(Ordering::SeqCst)).collect()
    }
}

/// Runs `body` as every member and returns what each returned.
fn all<T: Send + 'static>(
    meeting: &Arc<Meeting>,
    body: impl Fn(&Meeting, usize) -> T + Clone + Send + Sync + 'static,
) -> Vec<T> {
    let threads: Vec<_> = (0..meeting.size())
        .map(|index| {
            let (meeting, body) = (Arc::clone(meeting), body.clone());
            thread::spawn(move || body(&meeting, index))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no member panics")).collect()
}

/// How a member waits.
#[derive(Clone, Copy)]
enum Manner {
    /// Quickly, and now and then thoroughly, as drivers do: in a tree, only that sees what was decided over its head.
    Polling,
    Thoroughly,
    Parked,
}

fn any_manner() -> Manner {
    [Manner::Polling, Manner::Thoroughly, Manner::Parked][thread_rng().gen_range(0..3)]
}

/// Waits until the barrier is passed. A lost wake-up is a deadlock, which shuttle reports.
fn pass(barrier: &mut Barrier, node: &ModelNode, manner: Manner) -> Result<u64, Disagreement> {
    for turn in 1.. {
        let polled = match manner {
            Manner::Polling if turn % 4 != 0 => barrier.poll(node),
            _ => barrier.poll_thoroughly(node),
        };
        match (polled, manner) {
            (Poll::Ready(outcome), _) => return outcome,
            (Poll::Pending, Manner::Parked) => drive::park(barrier, node, None),
            (Poll::Pending, _) => spin_hint(),
        }
    }
    unreachable!("turns end")
}

/// Takes an arrival back; `false` when the barrier was passed instead, perhaps after giving the withdrawal up.
fn is_taken_back(barrier: &mut Barrier, node: &ModelNode) -> bool {
    loop {
        match barrier.withdraw(node) {
            Poll::Ready(Withdrawal::Withdrawn) => return true,
            Poll::Ready(Withdrawal::Passed(outcome)) => {
                assert_eq!(outcome, Ok(0));
                return false;
            }
            Poll::Ready(Withdrawal::Exhausted) => panic!("nobody withdraws that often"),
            Poll::Pending if thread_rng().gen_bool(0.2) => {
                barrier.insist(node);
                assert_eq!(pass(barrier, node, any_manner()), Ok(0));
                return false;
            }
            Poll::Pending => spin_hint(),
        }
    }
}

/// One passed barrier: the stamp of the arrival that stood, and everybody's stamps as seen on passing.
struct Passage {
    stood: u64,
    saw: Vec<u64>,
}

/// Passes one barrier, with up to `withdrawals` attempts that may be taken back.
fn pass_restlessly(meeting: &Meeting, barrier: &mut Barrier, me: usize, round: u64, withdrawals: u64) -> Passage {
    for attempt in 0.. {
        let stood = round * ATTEMPTS + attempt;
        meeting.stamps[me].store(stood, Ordering::SeqCst);
        barrier.arrive(&meeting.node, Contribution::NONE, None);
        if attempt < withdrawals && thread_rng().gen_bool(0.6) {
            if is_taken_back(barrier, &meeting.node) {
                assert_eq!(barrier.passed(), round - 1);
                continue;
            }
        } else {
            assert_eq!(pass(barrier, &meeting.node, any_manner()), Ok(0));
        }
        assert_eq!(barrier.passed(), round);
        return Passage { stood, saw: meeting.stamps() };
    }
    unreachable!("attempts end")
}

/// Nobody has passed a round before everybody's standing arrival at it.
fn assert_sound(passages: &[Vec<Passage>]) {
    for (me, mine) in passages.iter().enumerate() {
        for (round, passage) in mine.iter().enumerate() {
            for (other, others) in passages.iter().enumerate() {
                let (saw, stood) = (passage.saw[other], others[round].stood);
                assert!(saw >= stood, "member {me} passed {}: saw {saw} of {other}, not {stood}", round + 1);
            }
        }
    }
}

fn restless(size: usize, withdrawals: u64) {
    for (algorithm, parents) in shapes(size) {
        random(move || {
            let meeting = Meeting::new(algorithm, &parents);
            let passages = all(&meeting, move |meeting, me| {
                let mut barrier = meeting.member(me);
                let rounds = 1..=ROUNDS;
                rounds.map(|round| pass_restlessly(meeting, &mut barrier, me, round, withdrawals)).collect()
            });
            assert_sound(&passages);
        });
    }
}

#[test]
fn five_pass_together_however_they_wait() {
    restless(5, 0);
}

#[test]
fn three_withdraw_at_once_and_return() {
    restless(3, 2);
}

#[test]
fn four_withdraw_at_once_and_return() {
    restless(4, 1);
}

/// One member takes its arrival back while the last one comes and a third looks: whoever looks cannot have passed,
/// then.
#[test]
fn nobody_passes_without_one_that_has_taken_its_arrival_back() {
    for (algorithm, parents) in shapes(3) {
        random(move || {
            let meeting = Meeting::new(algorithm, &parents);
            let passed = all(&meeting, |meeting, me| {
                let mut barrier = meeting.member(me);
                barrier.arrive(&meeting.node, Contribution::NONE, None);
                match me {
                    0 => !is_taken_back(&mut barrier, &meeting.node),
                    _ => (0..2).any(|_| barrier.poll_thoroughly(&meeting.node).is_ready()),
                }
            });
            assert!(passed[0] || !passed[1] && !passed[2], "{algorithm}: {passed:?}");
        });
    }
}

/// Looks some times, and then takes its arrival back, as a survivor does. Whether it has passed.
fn gives_up(barrier: &mut Barrier, node: &ModelNode) -> bool {
    if (0..thread_rng().gen_range(0..3)).any(|_| barrier.poll_thoroughly(node).is_ready()) {
        return true;
    }
    loop {
        match barrier.withdraw(node) {
            Poll::Ready(Withdrawal::Withdrawn) => return false,
            Poll::Ready(_) => return true,
            Poll::Pending => spin_hint(),
        }
    }
}

/// A member that was given up comes back and arrives while the survivors take their arrivals back: all of them, or
/// none.
#[test]
fn survivors_give_up_alike_though_a_zombie_arrives() {
    for (algorithm, parents) in shapes(3) {
        random(move || {
            let meeting = Meeting::new(algorithm, &parents);
            let passed = all(&meeting, |meeting, me| {
                let mut barrier = meeting.member(me);
                barrier.arrive(&meeting.node, Contribution::NONE, None);
                me != 0 && gives_up(&mut barrier, &meeting.node)
            });
            assert_eq!(passed[1], passed[2], "{algorithm}");
        });
    }
}

/// A member dies between publishing its arrival and all that follows it (a counter: counting it), or in the middle of
/// taking it back. Survivors that know it bury it, and give up: all of them, or none, and none waits for ever.
#[test]
fn survivors_give_up_alike_whatever_a_dead_member_has_left_half_done() {
    const ARRIVED: u64 = 1 << 16 | 1;
    const WITHDRAWING: u64 = 1 << 16 | 2;
    for (algorithm, parents) in shapes(3) {
        for dead in 0..3 {
            let parents = parents.clone();
            random(move || {
                let meeting = Meeting::new(algorithm, &parents);
                let is_dead = Arc::new(AtomicU64::new(0));
                let passed = all(&meeting, move |meeting, me| {
                    let node = &meeting.node;
                    if me == dead {
                        let arrival = node.word(meeting.layout.arrival(me));
                        arrival.store(ARRIVED, Ordering::SeqCst);
                        if algorithm == Algorithm::Flat && thread_rng().gen_bool(0.7) {
                            arrival.store(WITHDRAWING, Ordering::SeqCst);
                        }
                        is_dead.store(1, Ordering::SeqCst);
                        return None;
                    }
                    let mut barrier = meeting.member(me);
                    barrier.arrive(node, Contribution::NONE, None);
                    let mut has_passed = false;
                    while is_dead.load(Ordering::SeqCst) == 0 && !has_passed {
                        has_passed = barrier.poll(node).is_ready();
                        spin_hint();
                    }
                    if !has_passed {
                        barrier.bury(node, dead);
                        has_passed = gives_up(&mut barrier, node);
                    }
                    Some(has_passed)
                });
                let survivors: Vec<bool> = passed.into_iter().flatten().collect();
                assert_eq!(survivors[0], survivors[1], "{algorithm}");
            });
        }
    }
}

/// One member arrives and does not look again until all others are through, while another one withdraws.
#[test]
fn a_member_that_does_not_poll_holds_nobody_up() {
    for (algorithm, parents) in shapes(4) {
        for idle in 0..4 {
            let parents = parents.clone();
            shuttle::check_random(
                move || {
                    let meeting = Meeting::new(algorithm, &parents);
                    let through = Arc::new(AtomicU64::new(0));
                    all(&meeting, move |meeting, me| pass_with_an_idle_member(meeting, me, idle, &through));
                },
                SCHEDULES / 4,
            );
        }
    }
}

fn pass_with_an_idle_member(meeting: &Meeting, me: usize, idle: usize, through: &AtomicU64) {
    let mut barrier = meeting.member(me);
    for round in 1..=ROUNDS {
        barrier.arrive(&meeting.node, Contribution::NONE, None);
        if me == idle {
            while through.load(Ordering::SeqCst) < round * 3 {
                spin_hint();
            }
            assert_eq!(barrier.poll_thoroughly(&meeting.node), Poll::Ready(Ok(0)), "it is passed for the idle one too");
            continue;
        }
        if me == (idle + 1) % 4 && is_taken_back(&mut barrier, &meeting.node) {
            barrier.arrive(&meeting.node, Contribution::NONE, None);
        }
        if barrier.is_outstanding() {
            let manner = if me < 2 { Manner::Parked } else { Manner::Thoroughly };
            assert_eq!(pass(&mut barrier, &meeting.node, manner), Ok(0));
        }
        through.fetch_add(1, Ordering::SeqCst);
    }
}

/// Every member brings another word every round, and some arrive twice at a round with another word and operation.
#[test]
fn reductions_are_exact_with_returning_members() {
    for (algorithm, parents) in shapes(4) {
        random(move || {
            let operation = REDUCTIONS[thread_rng().gen_range(0..4)];
            let meeting = Meeting::new(algorithm, &parents);
            let brought = all(&meeting, move |meeting, me| {
                let mut barrier = meeting.member(me);
                (1..=ROUNDS).map(|round| reduce_restlessly(meeting, &mut barrier, me, round, operation)).collect()
            });
            assert_exact(operation, &brought);
        });
    }
}

/// Returns what the arrival that stood brought, and what came of it.
fn reduce_restlessly(
    meeting: &Meeting,
    barrier: &mut Barrier,
    me: usize,
    round: u64,
    operation: Operation,
) -> (u64, u64) {
    if thread_rng().gen_bool(0.3) {
        // Another word, but the right operation: this arrival may turn out to be the one that counts.
        let decoy = 1 << 40 | me as u64;
        barrier.arrive(&meeting.node, Contribution { operation, value: decoy }, None);
        loop {
            match barrier.withdraw(&meeting.node) {
                Poll::Ready(Withdrawal::Withdrawn) => break,
                Poll::Ready(Withdrawal::Passed(outcome)) => return (decoy, outcome.expect("all agree")),
                Poll::Ready(Withdrawal::Exhausted) => panic!("nobody withdraws that often"),
                Poll::Pending => spin_hint(),
            }
        }
    }
    let value = round << 20 | 1 << me | thread_rng().gen_range(0..1 << 10);
    barrier.arrive(&meeting.node, Contribution { operation, value }, None);
    (value, pass(barrier, &meeting.node, any_manner()).expect("all agree"))
}

fn assert_exact(operation: Operation, brought: &[Vec<(u64, u64)>]) {
    for round in 0..brought[0].len() {
        let values: Vec<u64> = brought.iter().map(|member| member[round].0).collect();
        for (me, member) in brought.iter().enumerate() {
            assert_eq!(member[round].1, reduced(operation, &values), "{operation} of {values:x?} at member {me}");
        }
    }
}

/// One member names another operation, in a round of its own; an arrival that is taken back names one, too, but does
/// not count.
#[test]
fn a_mismatch_names_all_members_to_all_members() {
    for (algorithm, parents) in shapes(4) {
        random(move || {
            let odd = thread_rng().gen_range(0..4);
            let meeting = Meeting::new(algorithm, &parents);
            let outcomes = all(&meeting, move |meeting, me| mismatch_between_matches(meeting, me, odd));
            let mut expected = vec![Operation::Barrier; 4];
            expected[odd] = Operation::Max;
            for outcome in outcomes {
                assert_eq!(outcome, Err(Disagreement(expected.clone())));
            }
        });
    }
}

fn mismatch_between_matches(meeting: &Meeting, me: usize, odd: usize) -> Result<u64, Disagreement> {
    let mut barrier = meeting.member(me);
    // Round 1: member 0 first names an operation that nobody else does, and takes that back if it can.
    let mut is_passed = false;
    if me == 0 {
        barrier.arrive(&meeting.node, Contribution { operation: Operation::Min, value: 9 }, None);
        is_passed = loop {
            match barrier.withdraw(&meeting.node) {
                Poll::Ready(withdrawal) => break withdrawal != Withdrawal::Withdrawn,
                Poll::Pending => spin_hint(),
            }
        };
    }
    if !is_passed {
        barrier.arrive(&meeting.node, Contribution::NONE, None);
        let first = pass(&mut barrier, &meeting.node, any_manner());
        assert!(me != 0 || first == Ok(0), "its own arrival stood, so all agree: {first:?}");
    }
    let operation = if me == odd { Operation::Max } else { Operation::Barrier };
    barrier.arrive(&meeting.node, Contribution { operation, value: 3 }, None);
    let second = pass(&mut barrier, &meeting.node, any_manner());
    barrier.arrive(&meeting.node, Contribution::NONE, None);
    assert_eq!(pass(&mut barrier, &meeting.node, any_manner()), Ok(0), "the next one is as if nothing had been");
    second
}

/// Four ranks with space for two groups at a time.
struct Crowd {
    node: ModelNode,
    layout: NodeLayout,
}

impl Crowd {
    fn new() -> Arc<Self> {
        let layout = NodeLayout::new(4, 2 * formation::units(3) * UNIT_WORDS);
        Arc::new(Self { node: ModelNode::new(layout.words()), layout })
    }

    /// Makes or takes the group of `ranks` as `rank`; `None` when its leader found no space.
    fn form(&self, rank: usize, ranks: &[usize], key: u64) -> Option<GroupLayout> {
        let named = Named { key, call: 1 };
        if rank != ranks[0] {
            let start = until(|| offers::take(&self.node, &self.layout, ranks[0], named));
            let block = |start| formation::checked_block(&self.node, &self.layout, start, ranks.len());
            return (start != offers::REFUSED).then(|| block(start).expect("an initialised block"));
        }
        let algorithm = Algorithm::ALL[ranks.len() % 3];
        let made = formation::make(&self.node, &self.layout, ranks, algorithm).ok();
        let value = made.map_or(offers::REFUSED, |block| block.start().0 as u64);
        let takers = ranks.len() - 1;
        if takers > 0 {
            until(|| offers::offer(&self.node, &self.layout, rank, named, value, takers));
        }
        made
    }

    /// Meets in a group and lets it go; fails if its members are not exactly `ranks`.
    fn use_up(&self, rank: usize, ranks: &[usize], block: GroupLayout) {
        let me = ranks.iter().position(|other| *other == rank).expect("a member");
        let mut barrier = Barrier::new(&self.node, block, me);
        let contribution = Contribution { operation: Operation::Or, value: 1 << rank };
        let expected = ranks.iter().fold(0, |sum, rank| sum | 1 << rank);
        for _ in 0..2 {
            barrier.arrive(&self.node, contribution, None);
            assert_eq!(pass(&mut barrier, &self.node, any_manner()), Ok(expected));
        }
        formation::leave(&self.node, &self.layout, block, me);
    }
}

fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        match attempt() {
            Some(value) => return value,
            None => spin_hint(),
        }
    }
}

/// Overlapping groups made at the same time by several leaders, in an arena that not all fit into: each is formed by
/// all its members or by none, none meets another's members, and all space is given back.
#[test]
fn overlapping_groups_form_at_once_in_little_space() {
    const GROUPS: [&[usize]; 4] = [&[0, 1, 2], &[3, 0], &[2, 3, 1], &[1, 3]];
    random(|| {
        let crowd = Crowd::new();
        let threads: Vec<_> = (0..4)
            .map(|rank| {
                let crowd = Arc::clone(&crowd);
                thread::spawn(move || form_and_use(&crowd, rank, &GROUPS))
            })
            .collect();
        let formed: Vec<Vec<(u64, bool)>> =
            threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect();
        for key in 1..=GROUPS.len() as u64 {
            let mut answers = formed.iter().flatten().filter(|(of, _)| *of == key).map(|(_, is_formed)| *is_formed);
            let first = answers.next().expect("each group has members");
            assert!(answers.all(|answer| answer == first), "group {key} is formed by all of its members or by none");
        }
        assert_eq!(arena::taken(&crowd.node, &crowd.layout), 0, "all space is given back");
    });
}

fn form_and_use(crowd: &Crowd, rank: usize, groups: &[&[usize]]) -> Vec<(u64, bool)> {
    let mut answers = Vec::new();
    for (ranks, key) in groups.iter().zip(1..).filter(|(ranks, _)| ranks.contains(&rank)) {
        let block = crowd.form(rank, ranks, key);
        if let Some(block) = block {
            crowd.use_up(rank, ranks, block);
        }
        answers.push((key, block.is_some()));
    }
    answers
}

/// Ranks claim runs of units, mark each unit, and give them back: no unit has two holders.
#[test]
fn runs_of_the_arena_never_overlap() {
    random(|| {
        let layout = NodeLayout::new(1, 70 * UNIT_WORDS);
        let node = Arc::new(ModelNode::new(layout.words()));
        let threads: Vec<_> = [(1, 40), (2, 27), (3, 3)]
            .into_iter()
            .map(|(mark, units)| {
                let node = Arc::clone(&node);
                thread::spawn(move || {
                    let Some(start) = arena::claim(&*node, &layout, units) else { return };
                    let marks = || (start..start + units).step_by(13).map(|unit| node.word(layout.unit(unit)));
                    marks().for_each(|word| assert_eq!(word.swap(mark, Ordering::SeqCst), 0, "two holders"));
                    marks().for_each(|word| assert_eq!(word.swap(0, Ordering::SeqCst), mark, "two holders"));
                    arena::release(&*node, &layout, start, units);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no rank panics"));
        assert_eq!(arena::taken(&*node, &layout), 0);
    });
}
