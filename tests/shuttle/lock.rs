//! A node's lock under shuttle: three to five ranks that acquire, try, ask and change their minds, spin and sleep,
//! while one of them dies. The oracle: tokens that were noted under the lock only grow and are nobody else's, nobody is
//! left asleep (shuttle reports a deadlock), and in the end the lock is free.

use std::task::Poll;

use phalanx::coord::objects::queue::{QueueAt, QueueLock, Withdrawn};
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::HEADER_WORDS;
use phalanx::fabric::{Memory, Park, WordAt, raise_alarm};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::thread;

use super::random;

/// How often a rank may take the lock before others that wait.
const MOST_PASSED: u64 = 4;

struct Room {
    node: ModelNode,
    at: QueueAt,
    note: AtomicU64,
    dead: Vec<AtomicU64>,
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
        Arc::new(Self { node, at, note: AtomicU64::new(0), dead: (0..ranks).map(|_| AtomicU64::new(0)).collect() })
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

    /// One use of the lock: by trying, or by a claim, which may be taken back.
    fn use_once(&self, lock: &QueueLock) {
        let token = match thread_rng().gen_range(0..4) {
            0 => lock.try_take(&self.node, |passed| passed < MOST_PASSED),
            1 => {
                lock.request(&self.node, thread_rng().gen_bool(0.5));
                if thread_rng().gen_bool(0.5) {
                    spin_hint();
                }
                match lock.withdraw(&self.node, &|rank| self.has_ended(rank)) {
                    Withdrawn::Granted(token) => Some(token),
                    Withdrawn::Cancelled => None,
                }
            }
            _ => {
                lock.request(&self.node, thread_rng().gen_bool(0.5));
                Some(self.wait(lock))
            }
        };
        let Some(token) = token else { return };
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
                    (0..uses).for_each(|_| room.use_once(&lock));
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
