//! A node's lock under shuttle: three to five ranks that acquire, try, ask and change their minds, spin and sleep,
//! while one of them dies. The oracle: tokens that were noted under the lock only grow and are nobody else's, nobody is
//! left asleep (shuttle reports a deadlock), and in the end the lock is free; claims are served in their order, and
//! whoever has none passes them so often at most ([`Turns`]).

use std::task::Poll;

use phalanx::coord::objects::queue::{QueueAt, QueueLock, Withdrawn};
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::HEADER_WORDS;
use phalanx::fabric::{Memory, Park, WordAt, raise_alarm};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::thread;

use super::common::turns::Turns;
use super::random;

/// How often a rank may take the lock before others that wait.
const MOST_PASSED: u64 = 2;

struct Room {
    node: ModelNode,
    at: QueueAt,
    note: AtomicU64,
    dead: Vec<AtomicU64>,
    turns: Turns,
}

impl Room {
    fn new(ranks: usize) -> Arc<Self> {
        let word = |index| WordAt(HEADER_WORDS + index);
        let at = QueueAt {
            hold: word(0),
            high: word(1),
            arrivals: word(2),
            claims: word(3),
            passings: word(3 + ranks),
            ranks,
        };
        let node = ModelNode::new(HEADER_WORDS + 3 + 2 * ranks);
        let dead = (0..ranks).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { node, at, note: AtomicU64::new(0), dead, turns: Turns::new(ranks) })
    }

    fn has_ended(&self, rank: usize) -> bool {
        self.dead[rank].load(Ordering::SeqCst) == 1
    }

    fn wait(&self, lock: &QueueLock) -> u64 {
        let has_ended = |rank| self.has_ended(rank);
        loop {
            let alarm = phalanx::coord::drive::alarm(&self.node);
            if let Poll::Ready(token) = lock.poll(&self.node, &has_ended) {
                return token;
            }
            if thread_rng().gen_bool(0.3) {
                spin_hint();
            } else if let Some(seen) = lock.prepare_to_park(&self.node, &has_ended) {
                self.node.park_heeding(lock.parking_place(), seen, alarm, None);
                lock.note_awake(&self.node);
            }
        }
    }

    /// Takes the lock, if it is free; by passing others, perhaps.
    fn take(&self, me: usize, lock: &QueueLock) -> Option<u64> {
        let begun = self.turns.now();
        let token = lock.try_take(&self.node, |passed| passed < MOST_PASSED)?;
        self.turns.taken(me, begun, MOST_PASSED);
        Some(token)
    }

    /// One use of the lock: by trying, or by a claim, which may be taken back.
    fn use_once(&self, me: usize, lock: &QueueLock) {
        let has_ended = |rank| self.has_ended(rank);
        let begun = self.turns.now();
        let token = match thread_rng().gen_range(0..4) {
            0 => self.take(me, lock),
            1 => {
                lock.request(&self.node, thread_rng().gen_bool(0.5));
                self.turns.claim(me);
                if thread_rng().gen_bool(0.5) {
                    spin_hint();
                }
                self.turns.leave(me);
                match lock.withdraw(&self.node, &has_ended) {
                    Withdrawn::Granted(token) => {
                        self.turns.granted(me, begun, has_ended);
                        Some(token)
                    }
                    Withdrawn::Cancelled => None,
                }
            }
            _ => {
                lock.request(&self.node, thread_rng().gen_bool(0.5));
                self.turns.claim(me);
                let token = self.wait(lock);
                self.turns.granted(me, begun, has_ended);
                Some(token)
            }
        };
        if let Some(token) = token {
            self.note(lock, token);
        }
    }

    /// What is done under the lock, and its release.
    fn note(&self, lock: &QueueLock, token: u64) {
        let before = self.note.swap(token, Ordering::SeqCst);
        assert!(before < token, "token {token} after {before}");
        spin_hint();
        assert_eq!(self.note.load(Ordering::SeqCst), token, "somebody else has held it meanwhile");
        lock.release(&self.node, &|rank| self.has_ended(rank), |passed| passed < 2).expect("it is held");
    }

    /// Dies at some point of a use.
    fn die(&self, me: usize, lock: &QueueLock) {
        match thread_rng().gen_range(0..3) {
            0 => {
                let _ = lock.try_take(&self.node, |passed| passed < MOST_PASSED);
            }
            1 => drop(lock.request(&self.node, thread_rng().gen_bool(0.5))),
            _ => {
                lock.request(&self.node, thread_rng().gen_bool(0.5));
                let _ = lock.poll(&self.node, &|rank| self.has_ended(rank));
            }
        }
        spin_hint();
        self.dead[me].store(1, Ordering::SeqCst);
        raise_alarm(&self.node);
    }
}

fn ranks_use_a_lock(ranks: usize, uses: usize, somebody_dies: bool) {
    random(move || {
        let room = Room::new(ranks);
        let threads: Vec<_> = (0..ranks)
            .map(|me| {
                let room = Arc::clone(&room);
                thread::spawn(move || {
                    let lock = QueueLock::new(room.at, me);
                    (0..uses).for_each(|_| room.use_once(me, &lock));
                    if somebody_dies && me == 0 {
                        room.die(me, &lock);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no rank panics"));
        let lock = QueueLock::new(room.at, ranks - 1);
        lock.free_from_the_dead(&room.node, &|rank| room.has_ended(rank));
        assert_eq!(lock.holder(&room.node), None);
        let is_of_the_dead = |rank: usize| room.has_ended(rank);
        assert!(lock.queue(&room.node, &|_| false).into_iter().all(is_of_the_dead), "a claim is left");
        assert!(room.node.words() > 0);
    });
}

#[test]
fn three_ranks_use_a_lock() {
    ranks_use_a_lock(3, 3, false);
}

#[test]
fn five_ranks_use_a_lock() {
    ranks_use_a_lock(5, 2, false);
}

#[test]
fn four_ranks_use_a_lock_and_one_dies() {
    ranks_use_a_lock(4, 2, true);
}

/// Some take the lock again and again without a claim, while two wait for it.
#[test]
fn those_who_wait_are_passed_so_often_at_most() {
    random(|| {
        let room = Room::new(4);
        let threads: Vec<_> = (0..4)
            .map(|me| {
                let room = Arc::clone(&room);
                thread::spawn(move || {
                    let lock = QueueLock::new(room.at, me);
                    if me < 2 {
                        return room.use_once(me, &lock);
                    }
                    for _ in 0..2 * MOST_PASSED {
                        if let Some(token) = room.take(me, &lock) {
                            room.note(&lock, token);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no rank panics"));
        assert_eq!(QueueLock::new(room.at, 0).holder(&room.node), None);
    });
}
