//! A node's lock under loom: two ranks, each of which writes a relaxed note while it holds the lock. Notes of earlier
//! holders must be seen, nobody may hold it beside another, and nobody is left asleep; claims are served in their
//! order, and whoever has none passes them so often at most ([`Turns`]).

use std::task::Poll;

use loom::sync::Arc;
use loom::thread;
use phalanx::coord::objects::queue::{QueueAt, QueueLock, Withdrawn};
use phalanx::coord::objects::word::ClaimWord;
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::HEADER_WORDS;
use phalanx::fabric::{Memory, Park, WordAt, raise_alarm};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};

use super::common::turns::Turns;
use super::{PREEMPTIONS, check};

/// How often a rank may take the lock before others that wait.
const MOST_PASSED: u64 = 1;

/// A lock of two ranks, and what they note under it.
struct Room {
    node: ModelNode,
    at: QueueAt,
    note: AtomicU64,
    /// 1 once rank 0 is dead.
    is_dead: AtomicU64,
    turns: Turns,
}

impl Room {
    fn new() -> Arc<Self> {
        let word = |index| WordAt(HEADER_WORDS + index);
        let at =
            QueueAt { hold: word(0), high: word(1), arrivals: word(2), claims: word(3), passings: word(5), ranks: 2 };
        let node = ModelNode::new(HEADER_WORDS + 7);
        Arc::new(Self { node, at, note: AtomicU64::new(0), is_dead: AtomicU64::new(0), turns: Turns::new(2) })
    }

    fn lock_of(&self, me: usize) -> QueueLock {
        QueueLock::new(self.at, me)
    }

    fn has_ended(&self, rank: usize) -> bool {
        rank == 0 && self.is_dead.load(Ordering::Acquire) == 1
    }

    fn wait(&self, lock: &QueueLock, manner: Manner) -> u64 {
        let has_ended = |rank| self.has_ended(rank);
        loop {
            let alarm = phalanx::coord::drive::alarm(&self.node);
            if let Poll::Ready(token) = lock.poll(&self.node, &has_ended) {
                return token;
            }
            match manner {
                Manner::Spinning => spin_hint(),
                Manner::Parked => {
                    if let Some(seen) = lock.prepare_to_park(&self.node, &has_ended) {
                        self.node.park_heeding(lock.parking_place(), seen, alarm, None);
                        lock.note_awake(&self.node);
                    }
                }
            }
        }
    }

    fn acquire(&self, me: usize, lock: &QueueLock, manner: Manner) -> u64 {
        self.take(me, lock).unwrap_or_else(|| self.queue(me, lock, manner))
    }

    /// Takes the lock if it is free, by passing the other one perhaps.
    fn take(&self, me: usize, lock: &QueueLock) -> Option<u64> {
        let begun = self.turns.now();
        let token = lock.try_take(&self.node, |passed| passed < MOST_PASSED)?;
        self.turns.taken(me, begun, MOST_PASSED);
        Some(token)
    }

    /// Acquires it by a claim.
    fn queue(&self, me: usize, lock: &QueueLock, manner: Manner) -> u64 {
        let begun = self.turns.now();
        lock.request(&self.node, true);
        self.turns.claim(me);
        let token = self.wait(lock, manner);
        self.turns.granted(me, begun, |rank| self.has_ended(rank));
        token
    }

    fn release(&self, lock: &QueueLock) {
        // At first as a rank that shares its CPU, then as one that has its own.
        lock.release(&self.node, &|rank| self.has_ended(rank), |passed| passed < 1).expect("it is held");
    }

    /// Notes the token under which it is held: greater than all before it, and nobody else's meanwhile.
    fn note(&self, token: u64) {
        assert!(self.note.load(Ordering::Relaxed) < token);
        self.note.store(token, Ordering::Relaxed);
        spin_hint();
        assert_eq!(self.note.load(Ordering::Relaxed), token);
    }
}

#[derive(Clone, Copy)]
enum Manner {
    Spinning,
    Parked,
}

fn two_ranks(preemptions: usize, body: impl Fn(&Room, usize) + Copy + Send + Sync + 'static) {
    check(preemptions, move || {
        let room = Room::new();
        let other = {
            let room = Arc::clone(&room);
            thread::spawn(move || body(&room, 1))
        };
        body(&room, 0);
        other.join().expect("the second rank ends");
        assert_eq!(room.lock_of(0).holder(&room.node), None, "nobody holds it in the end");
    });
}

fn one_after_the_other(preemptions: usize, manner: Manner) {
    two_ranks(preemptions, move |room, me| {
        let lock = room.lock_of(me);
        for _ in 0..2 {
            let token = room.acquire(me, &lock, manner);
            room.note(token);
            room.release(&lock);
        }
    });
}

#[test]
fn a_lock_is_held_by_one_at_a_time_and_hands_data_over() {
    one_after_the_other(PREEMPTIONS, Manner::Spinning);
}

#[test]
fn a_lock_loses_no_wake_up() {
    // A third one takes a minute.
    one_after_the_other(PREEMPTIONS - 1, Manner::Parked);
}

#[test]
fn claims_are_served_in_their_order() {
    two_ranks(PREEMPTIONS, |room, me| {
        let lock = room.lock_of(me);
        for _ in 0..=me {
            let token = room.queue(me, &lock, Manner::Spinning);
            room.note(token);
            room.release(&lock);
        }
    });
}

#[test]
fn one_that_waits_is_passed_so_often_at_most() {
    two_ranks(PREEMPTIONS, |room, me| {
        let lock = room.lock_of(me);
        if me == 0 {
            let token = room.queue(me, &lock, Manner::Spinning);
            room.note(token);
            return room.release(&lock);
        }
        for _ in 0..2 + MOST_PASSED {
            if let Some(token) = room.take(me, &lock) {
                room.note(token);
                room.release(&lock);
            }
        }
    });
}

#[test]
fn a_claim_that_is_taken_back_leaves_no_hole() {
    two_ranks(PREEMPTIONS, |room, me| {
        let lock = room.lock_of(me);
        if me == 0 {
            lock.request(&room.node, true);
            match lock.withdraw(&room.node, &|_| false) {
                Withdrawn::Granted(token) => {
                    room.note(token);
                    room.release(&lock);
                }
                Withdrawn::Cancelled => {}
            }
        }
        let token = room.acquire(me, &lock, Manner::Parked);
        room.note(token);
        room.release(&lock);
    });
}

/// Rank 0 dies at some moment while it has the lock, or hands it over; its death is told as a watcher does it.
#[test]
fn a_holder_that_dies_is_followed() {
    check(PREEMPTIONS, || {
        let room = Room::new();
        let survivor = {
            let room = Arc::clone(&room);
            thread::spawn(move || {
                let lock = room.lock_of(1);
                let token = room.acquire(1, &lock, Manner::Parked);
                room.note(token);
                room.release(&lock);
                token
            })
        };
        let lock = room.lock_of(0);
        let token = room.acquire(0, &lock, Manner::Spinning);
        room.is_dead.store(1, Ordering::Release);
        raise_alarm(&room.node);
        let survivors = survivor.join().expect("the survivor has it");
        // What it does when it was only stopped, and comes back. (The survivor may also have been first, and taken back
        // what it had handed over.)
        assert!(lock.release(&room.node, &|_| false, |_| false).is_err() || token > survivors);
        assert!(!ClaimWord(room.node.word(room.at.claims.plus(1)).load(Ordering::Relaxed)).is_waiting());
    });
}
