//! The primitives under loom: every interleaving of two threads (within a bound on preemptions) and every value that
//! the memory model lets a load return.
//!
//! Run by `scripts/test.sh`, or with
//! `RUSTFLAGS='--cfg model --cfg model="loom"' cargo test --release --target-dir target/loom -p phalanx --test loom`.
//!
//! Hand-over is checked with *notes*, relaxed words that a member writes before it arrives: loom lets a relaxed load
//! return an old value unless something orders it, so a barrier that orders too little is found here, also where the
//! CPU that runs the test would forgive it.
#![cfg(model = "loom")]

#[path = "../common/mod.rs"]
mod common;
mod lock;
mod permits;
mod shared_hold;
mod sharing;
mod site;

use std::task::Poll;

use common::block::{REDUCTIONS, chain, lay_out, lay_out_at, reduced};
use loom::sync::Arc;
use loom::thread;
use phalanx::coord::barrier::layout::GroupLayout;
use phalanx::coord::barrier::{Algorithm, Barrier, Contribution, Operation, Outcome, Withdrawal};
use phalanx::coord::drive::Machine;
use phalanx::coord::offers::Named;
use phalanx::coord::{arena, drive, formation, offers};
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::{HEADER_WORDS, NodeLayout};
use phalanx::fabric::{Memory, WordAt, raise_alarm};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};
use phalanx::trace::ring::Ring;

/// Preemptions per execution: most errors of two threads need one or two.
const PREEMPTIONS: usize = 3;

fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(body);
}

/// Members of one group and what they tell each other.
struct Meeting {
    node: ModelNode,
    layout: GroupLayout,
    notes: Vec<AtomicU64>,
}

impl Meeting {
    fn of(size: usize, algorithm: Algorithm) -> Arc<Self> {
        let node = ModelNode::new(GroupLayout::words(size));
        let layout = lay_out(&node, algorithm, &chain(size));
        Arc::new(Self { node, layout, notes: (0..size).map(|_| AtomicU64::new(0)).collect() })
    }

    fn member(&self, index: usize) -> Barrier {
        Barrier::new(&self.node, self.layout, index)
    }

    fn write(&self, index: usize, note: u64) {
        self.notes[index].store(note, Ordering::Relaxed);
    }

    fn read(&self, index: usize) -> u64 {
        self.notes[index].load(Ordering::Relaxed)
    }

    fn arrive(&self, barrier: &mut Barrier) {
        barrier.arrive(&self.node, Contribution::NONE, None);
    }

    /// Polls until the barrier is passed.
    fn pass(&self, barrier: &mut Barrier) -> Outcome {
        loop {
            if let Poll::Ready(outcome) = barrier.poll(&self.node) {
                return outcome;
            }
            spin_hint();
        }
    }

    /// Parks, without a time-out, until the barrier is passed. A lost wake-up is a deadlock, which loom reports.
    fn pass_parked(&self, barrier: &mut Barrier) -> Outcome {
        loop {
            if let Poll::Ready(outcome) = barrier.poll_thoroughly(&self.node) {
                return outcome;
            }
            drive::park(barrier, &self.node, None);
        }
    }
}

/// Runs a member in a second thread and another in this one.
fn both<T: 'static>(meeting: &Arc<Meeting>, body: impl Fn(&Meeting, usize) -> T + Copy + 'static) -> [T; 2] {
    let other = {
        let meeting = Arc::clone(meeting);
        thread::spawn(move || body(&meeting, 1))
    };
    let mine = body(meeting, 0);
    [mine, other.join().expect("the second thread ends")]
}

fn two_barriers_hand_data_over(algorithm: Algorithm) {
    check(PREEMPTIONS, move || {
        both(&Meeting::of(2, algorithm), |meeting, me| {
            let mut barrier = meeting.member(me);
            for round in 1..=2 {
                meeting.write(me, round);
                meeting.arrive(&mut barrier);
                assert_eq!(meeting.pass(&mut barrier), Ok(0));
                assert!((round..=round + 1).contains(&meeting.read(1 - me)), "round {round}");
            }
        });
    });
}

#[test]
fn flat_hands_data_over() {
    two_barriers_hand_data_over(Algorithm::Flat);
}

#[test]
fn tree_hands_data_over() {
    two_barriers_hand_data_over(Algorithm::Tree);
}

#[test]
fn central_hands_data_over() {
    two_barriers_hand_data_over(Algorithm::Central);
}

fn no_wake_up_is_lost(algorithm: Algorithm) {
    check(PREEMPTIONS, move || {
        both(&Meeting::of(2, algorithm), |meeting, me| {
            let mut barrier = meeting.member(me);
            for round in 1..=2 {
                meeting.write(me, round);
                meeting.arrive(&mut barrier);
                assert_eq!(meeting.pass_parked(&mut barrier), Ok(0));
                assert!(meeting.read(1 - me) >= round);
            }
        });
    });
}

#[test]
fn flat_loses_no_wake_up() {
    no_wake_up_is_lost(Algorithm::Flat);
}

#[test]
fn tree_loses_no_wake_up() {
    no_wake_up_is_lost(Algorithm::Tree);
}

#[test]
fn central_loses_no_wake_up() {
    no_wake_up_is_lost(Algorithm::Central);
}

/// A member waits for one that never comes, and sleeps; the alarm that is raised meanwhile ends that, and brings what
/// it is about. An alarm that is slept through is a deadlock, which loom reports.
#[test]
fn no_alarm_is_slept_through() {
    for algorithm in Algorithm::ALL {
        check(PREEMPTIONS, move || {
            let node = ModelNode::new(HEADER_WORDS + GroupLayout::words(2));
            let layout = lay_out_at(&node, WordAt(HEADER_WORDS), algorithm, &chain(2));
            let shared = Arc::new((node, AtomicU64::new(0)));
            let sleeper = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (node, note) = &*shared;
                    let mut barrier = Barrier::new(node, layout, 0);
                    barrier.arrive(node, Contribution::NONE, None);
                    while drive::alarm(node) == 0 {
                        assert!(barrier.poll_thoroughly(node).is_pending());
                        Machine::park(&barrier, node, 0, None);
                    }
                    assert_eq!(note.load(Ordering::Relaxed), 1, "what the alarm is about");
                })
            };
            let (node, note) = &*shared;
            note.store(1, Ordering::Relaxed);
            raise_alarm(node);
            sleeper.join().expect("the sleeper wakes");
        });
    }
}

/// What became of a member's first arrival, and the other's note as it read it on passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    is_withdrawn: bool,
    saw: u64,
}

/// Takes an arrival back; `false` when the barrier was passed instead.
fn is_taken_back(barrier: &mut Barrier, meeting: &Meeting) -> bool {
    loop {
        match barrier.withdraw(&meeting.node) {
            Poll::Ready(Withdrawal::Withdrawn) => return true,
            Poll::Ready(Withdrawal::Passed(outcome)) => {
                assert_eq!(outcome, Ok(0));
                return false;
            }
            Poll::Ready(Withdrawal::Exhausted) => panic!("nobody has withdrawn that often"),
            Poll::Pending => spin_hint(),
        }
    }
}

/// Arrives with note 1, takes that back, and if that succeeds arrives again with note 2.
fn withdraw_and_return(meeting: &Meeting, me: usize) -> Fate {
    let mut barrier = meeting.member(me);
    meeting.write(me, 1);
    meeting.arrive(&mut barrier);
    let is_withdrawn = is_taken_back(&mut barrier, meeting);
    if is_withdrawn {
        assert_eq!((barrier.passed(), barrier.is_outstanding()), (0, false));
        meeting.write(me, 2);
        meeting.arrive(&mut barrier);
        assert_eq!(meeting.pass(&mut barrier), Ok(0));
    }
    Fate { is_withdrawn, saw: meeting.read(1 - me) }
}

/// Whoever passes has seen the other's last arrival: a withdrawn one released nobody.
fn assert_consistent(fates: [Fate; 2]) {
    for me in 0..2 {
        let expected = if fates[1 - me].is_withdrawn { 2 } else { 1 };
        assert_eq!(fates[me].saw, expected, "{fates:?}");
    }
}

fn a_withdrawal_races_with_an_arrival(algorithm: Algorithm) {
    check(PREEMPTIONS, move || {
        let fates = both(&Meeting::of(2, algorithm), |meeting, me| {
            if me == 1 {
                return withdraw_and_return(meeting, me);
            }
            let mut barrier = meeting.member(me);
            meeting.write(me, 1);
            meeting.arrive(&mut barrier);
            assert_eq!(meeting.pass(&mut barrier), Ok(0));
            Fate { is_withdrawn: false, saw: meeting.read(1) }
        });
        assert_consistent(fates);
    });
}

fn two_withdrawals_race(algorithm: Algorithm) {
    check(2, move || assert_consistent(both(&Meeting::of(2, algorithm), withdraw_and_return)));
}

#[test]
fn flat_withdraws_or_passes() {
    a_withdrawal_races_with_an_arrival(Algorithm::Flat);
}

#[test]
fn tree_withdraws_or_passes() {
    a_withdrawal_races_with_an_arrival(Algorithm::Tree);
}

#[test]
fn central_withdraws_or_passes() {
    a_withdrawal_races_with_an_arrival(Algorithm::Central);
}

#[test]
fn flat_survives_two_withdrawals() {
    two_withdrawals_race(Algorithm::Flat);
}

#[test]
fn tree_survives_two_withdrawals() {
    two_withdrawals_race(Algorithm::Tree);
}

#[test]
fn central_survives_two_withdrawals() {
    two_withdrawals_race(Algorithm::Central);
}

/// A parked member sleeps through the other's withdrawal and is woken by its return.
fn a_sleeper_outlasts_a_withdrawal(algorithm: Algorithm) {
    check(2, move || {
        let fates = both(&Meeting::of(2, algorithm), |meeting, me| {
            if me == 1 {
                return withdraw_and_return(meeting, me);
            }
            let mut barrier = meeting.member(me);
            meeting.write(me, 1);
            meeting.arrive(&mut barrier);
            assert_eq!(meeting.pass_parked(&mut barrier), Ok(0));
            Fate { is_withdrawn: false, saw: meeting.read(1) }
        });
        assert_consistent(fates);
    });
}

#[test]
fn a_flat_sleeper_outlasts_a_withdrawal() {
    a_sleeper_outlasts_a_withdrawal(Algorithm::Flat);
}

#[test]
fn a_tree_sleeper_outlasts_a_withdrawal() {
    a_sleeper_outlasts_a_withdrawal(Algorithm::Tree);
}

#[test]
fn a_central_sleeper_outlasts_a_withdrawal() {
    a_sleeper_outlasts_a_withdrawal(Algorithm::Central);
}

fn reduces(algorithm: Algorithm) {
    const VALUES: [u64; 2] = [0b0110, 0b1100];
    for operation in REDUCTIONS {
        check(2, move || {
            let outcomes = both(&Meeting::of(2, algorithm), move |meeting, me| {
                let mut barrier = meeting.member(me);
                barrier.arrive(&meeting.node, Contribution { operation, value: VALUES[me] }, None);
                let first = meeting.pass(&mut barrier);
                // The other one may be here while this one still reads the first result.
                barrier.arrive(&meeting.node, Contribution { operation, value: 7 }, None);
                assert_eq!(meeting.pass(&mut barrier), Ok(7));
                first
            });
            assert_eq!(outcomes, [Ok(reduced(operation, &VALUES)), Ok(reduced(operation, &VALUES))]);
        });
    }
}

#[test]
fn flat_reduces() {
    reduces(Algorithm::Flat);
}

#[test]
fn tree_reduces() {
    reduces(Algorithm::Tree);
}

#[test]
fn central_reduces() {
    reduces(Algorithm::Central);
}

#[test]
fn members_that_disagree_are_both_told_and_may_go_on() {
    for algorithm in Algorithm::ALL {
        check(2, move || {
            let outcomes = both(&Meeting::of(2, algorithm), |meeting, me| {
                let mut barrier = meeting.member(me);
                let operation = [Operation::Max, Operation::Barrier][me];
                barrier.arrive(&meeting.node, Contribution { operation, value: 1 }, None);
                let first = meeting.pass(&mut barrier);
                meeting.arrive(&mut barrier);
                assert_eq!(meeting.pass(&mut barrier), Ok(0));
                first
            });
            for outcome in outcomes {
                assert_eq!(outcome.expect_err("a mismatch").0, [Operation::Max, Operation::Barrier]);
            }
        });
    }
}

/// Member 1 of a chain of three arrives and never polls, so member 2's arrival is never passed up; member 0 or member 2
/// decides over its head, while member 2 may be taking its arrival back.
#[test]
fn a_tree_is_decided_over_the_head_of_a_member_that_does_not_poll() {
    check(2, || {
        let meeting = Meeting::of(3, Algorithm::Tree);
        let other = {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || {
                let mut barrier = meeting.member(2);
                meeting.write(2, 1);
                meeting.arrive(&mut barrier);
                if !is_taken_back(&mut barrier, &meeting) {
                    return meeting.read(0);
                }
                meeting.write(2, 2);
                meeting.arrive(&mut barrier);
                assert_eq!(meeting.pass_parked(&mut barrier), Ok(0));
                meeting.read(0) + 10
            })
        };
        let (mut idle, mut root) = (meeting.member(1), meeting.member(0));
        meeting.arrive(&mut idle);
        meeting.write(0, 5);
        meeting.arrive(&mut root);
        assert_eq!(meeting.pass_parked(&mut root), Ok(0));
        let saw = meeting.read(2);
        let end = other.join().expect("the second thread ends");
        assert_eq!(end, if saw == 2 { 15 } else { 5 }, "saw {saw}");
        assert_eq!(idle.poll_thoroughly(&meeting.node), Poll::Ready(Ok(0)));
    });
}

/// Three members in a chain: arrivals are gathered through the one in the middle, and the release comes back by it.
#[test]
fn a_deep_tree_hands_data_over() {
    check(2, || {
        let meeting = Meeting::of(3, Algorithm::Tree);
        let body = |meeting: &Meeting, me: usize| {
            let mut barrier = meeting.member(me);
            meeting.write(me, 1);
            let contribution = Contribution { operation: Operation::Or, value: 1 << me };
            barrier.arrive(&meeting.node, contribution, None);
            assert_eq!(meeting.pass(&mut barrier), Ok(7));
            (0..3).for_each(|other| assert_eq!(meeting.read(other), 1, "{other} seen by {me}"));
        };
        let others = [1, 2].map(|index| {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || body(&meeting, index))
        });
        body(&meeting, 0);
        others.into_iter().for_each(|other| other.join().expect("a thread ends"));
    });
}

/// Member 1 takes its arrival back because member 2 has not come yet; then member 2 comes. Member 0 may have seen each
/// of them arrived, but never both at one instant, and must not pass.
#[test]
fn two_that_were_never_there_at_once_release_nobody() {
    check(2, || {
        let meeting = Meeting::of(3, Algorithm::Flat);
        let [withdrawing, late] = [1, 2].map(|index| {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || {
                let mut barrier = meeting.member(index);
                meeting.arrive(&mut barrier);
                index == 1 && is_taken_back(&mut barrier, &meeting)
            })
        });
        let mut barrier = meeting.member(0);
        meeting.arrive(&mut barrier);
        let is_passed = (0..3).any(|_| barrier.poll(&meeting.node).is_ready());
        let is_withdrawn = withdrawing.join().expect("a thread ends");
        late.join().expect("a thread ends");
        assert!(!(is_passed && is_withdrawn), "passed by an arrival that was taken back");
    });
}

/// The smallest node that a group of two fits into.
fn node_for_a_pair() -> (ModelNode, NodeLayout) {
    let layout = NodeLayout::new(2, GroupLayout::words(2));
    (ModelNode::new(layout.words()), layout)
}

/// Rank 0 makes a group and offers it; rank 1 takes it; both meet in it and let it go; the space is free again.
#[test]
fn a_group_is_formed_used_and_given_back() {
    const KEY: Named = Named { key: 99, call: 1 };
    check(1, || {
        let (node, layout) = node_for_a_pair();
        let node = Arc::new(node);
        let taker = {
            let node = Arc::clone(&node);
            thread::spawn(move || {
                let start = loop {
                    match offers::take(&*node, &layout, 0, KEY) {
                        Some(start) => break start,
                        None => spin_hint(),
                    }
                };
                let block = formation::checked_block(&*node, &layout, start, 2).expect("an initialised block");
                meet_and_leave(&node, &layout, block, 1);
            })
        };
        let block = formation::make(&*node, &layout, &[0, 1], Algorithm::Flat).expect("space for one group");
        assert!(offers::offer(&*node, &layout, 0, KEY, block.start().0 as u64, 1).is_some());
        meet_and_leave(&node, &layout, block, 0);
        taker.join().expect("the taker ends");
        assert_eq!(arena::taken(&*node, &layout), 0);
        assert!(formation::make(&*node, &layout, &[0, 1], Algorithm::Flat).is_ok(), "the space is free again");
    });
}

fn meet_and_leave(node: &ModelNode, layout: &NodeLayout, block: GroupLayout, me: usize) {
    let mut barrier = Barrier::new(node, block, me);
    barrier.arrive(node, Contribution { operation: Operation::Or, value: 1 << me }, None);
    loop {
        if let Poll::Ready(outcome) = barrier.poll(node) {
            assert_eq!(outcome, Ok(3));
            break;
        }
        spin_hint();
    }
    node.word(block.waited(me)).store(1, Ordering::Relaxed);
    formation::leave(node, layout, block, me);
    // Whoever gets the space after both have left sees the last uses of both.
    let Some(unit) = arena::claim(node, layout, formation::units(2)) else { return };
    assert_eq!(node.word(block.waited(1 - me)).load(Ordering::Relaxed), 1, "a last use is not seen");
    arena::release(node, layout, unit, formation::units(2));
}

/// An offer's three words are used again for the next offer, when its taker is done with them and not before.
#[test]
fn an_offer_is_not_overwritten_before_it_is_taken() {
    check(2, || {
        let layout = NodeLayout::new(1, 1);
        let node = Arc::new(ModelNode::new(layout.words()));
        // All but one of the places are taken for good.
        for key in 1000..1000 + (phalanx::fabric::node::OFFERS as u64 - 1) {
            assert!(offers::offer(&*node, &layout, 0, Named { key, call: 1 }, 0, 1).is_some());
        }
        let taker = {
            let node = Arc::clone(&node);
            thread::spawn(move || {
                [1, 2].map(|key| {
                    loop {
                        match offers::take(&*node, &layout, 0, Named { key, call: 1 }) {
                            Some(value) => break value,
                            None => spin_hint(),
                        }
                    }
                })
            })
        };
        for key in [1, 2] {
            while offers::offer(&*node, &layout, 0, Named { key, call: 1 }, key * 10, 1).is_none() {
                spin_hint();
            }
        }
        assert_eq!(taker.join().expect("the taker ends"), [10, 20]);
    });
}

/// Two ranks claim, use and release the only unit: never both at once, and the next user sees the last one's end.
#[test]
fn a_unit_of_the_arena_has_one_holder_at_a_time() {
    check(PREEMPTIONS, || {
        let layout = NodeLayout::new(1, 1);
        let node = Arc::new(ModelNode::new(layout.words()));
        let use_it = move |node: &ModelNode| {
            let Some(unit) = arena::claim(node, &layout, 1) else { return false };
            let word = node.word(layout.unit(unit));
            assert_eq!(word.load(Ordering::Relaxed), 0, "another holder, or the last one's end not seen");
            word.store(1, Ordering::Relaxed);
            word.store(0, Ordering::Relaxed);
            arena::release(node, &layout, unit, 1);
            true
        };
        let other = {
            let node = Arc::clone(&node);
            thread::spawn(move || use_it(&node))
        };
        let mine = use_it(&node);
        let others = other.join().expect("the second thread ends");
        assert!(mine || others, "one of them gets it");
        assert_eq!(arena::taken(&*node, &layout), 0);
    });
}

/// A record whose words all say who made it.
fn record_of(maker: u64) -> [u64; 5] {
    [maker; 5]
}

/// A producer goes round a ring of two slots while the consumer takes: what comes out is whole, in order, and together
/// with what was lost is all.
#[test]
fn the_timelines_ring_hands_over_whole_records() {
    check(PREEMPTIONS, || {
        const RECORDS: u64 = 4;
        let ring = Arc::new(Ring::new(2));
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || (1..=RECORDS).filter(|maker| ring.push(record_of(*maker)).is_some()).count())
        };
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.extend(ring.pop());
        }
        let kept = producer.join().expect("the producer ends");
        taken.extend(std::iter::from_fn(|| ring.pop()));
        assert_eq!(taken.len(), kept, "each once");
        assert_eq!(kept as u64 + ring.lost(), RECORDS);
        assert!(taken.iter().all(|record| *record == record_of(record[0])), "whole: {taken:?}");
        assert!(taken.is_sorted(), "in order: {taken:?}");
    });
}

/// Two producers and a slot for each but one, after a round that the consumer has taken from.
#[test]
fn the_timelines_ring_has_room_for_several_producers() {
    check(PREEMPTIONS, || {
        let ring = Arc::new(Ring::new(2));
        assert!(ring.push(record_of(1)).is_some() && ring.push(record_of(2)).is_some());
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.push(record_of(3)).is_some())
        };
        let consumer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.pop())
        };
        let mine = ring.push(record_of(4)).is_some();
        let theirs = producer.join().expect("the producer ends");
        assert_eq!(consumer.join().expect("the consumer ends"), Some(record_of(1)));
        assert!(!(mine && theirs), "one slot came free");
        let mut expected = vec![record_of(2)];
        expected.extend(mine.then_some(record_of(4)));
        expected.extend(theirs.then_some(record_of(3)));
        assert_eq!(std::iter::from_fn(|| ring.pop()).collect::<Vec<_>>(), expected);
        assert_eq!(ring.lost(), u64::from(!mine) + u64::from(!theirs));
    });
}
