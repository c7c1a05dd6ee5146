//! A semaphore at its home, under loom: one rank returns permits by the node's memory (`Permits::return_here`) beside
//! one that waits for them, or takes them there (`Permits::claim_here`). Nobody has what another one has, each sees
//! what was done under the permits that it gets, and who waits is told.

use loom::sync::{Arc, Mutex};
use loom::thread;
use phalanx::coord::objects::permits::{Permits, PermitsAt};
use phalanx::coord::objects::sharing::Turn;
use phalanx::sync::{AtomicU64, Ordering, spin_hint};

use super::site::Site;
use super::{PREEMPTIONS, check};

/// A semaphore of one permit, and what is noted under it: odd while a rank has it.
struct Room {
    site: Site,
    at: PermitsAt,
    note: AtomicU64,
    /// The exclusive lock, for those who claim.
    claims: Mutex<()>,
}

impl Room {
    fn new() -> Arc<Self> {
        let at = PermitsAt { waiter: Site::word(0), held: Site::word(1), ranks: 2 };
        Arc::new(Self { site: Site::new(3), at, note: AtomicU64::new(0), claims: Mutex::new(()) })
    }

    fn take(&self, part: &mut Permits, me: usize) {
        let _claims = self.claims.lock().expect("nobody panics");
        if !part.claim_here(&self.site.node, 1, |_| false) {
            self.wait(part, me);
        }
    }

    /// By requests, until there are enough.
    fn wait(&self, part: &mut Permits, me: usize) {
        let (mut turn, mut seen) = (part.claim(1, true), 0);
        loop {
            turn = match turn {
                Turn::Ask(requests) => {
                    seen = self.site.pokes(me);
                    let answers = self.site.ask(&requests);
                    part.answered(&answers, 1, |_| false, |rank| self.site.poke(rank))
                }
                Turn::Wait => {
                    self.site.sleep(me, seen);
                    part.look()
                }
                Turn::In => return,
                Turn::Out => unreachable!("it wants to be in"),
            };
        }
    }

    fn give_back(&self, part: &Permits) {
        part.return_here(&self.site.node, 0).into_iter().for_each(|waiter| self.site.poke(waiter));
    }

    /// What is done under the permit, after all that was done under it before.
    fn use_it(&self) {
        let before = self.note.load(Ordering::Relaxed);
        assert_eq!(before % 2, 0, "another one has it, or its use is not seen");
        self.note.store(before + 1, Ordering::Relaxed);
        spin_hint();
        assert_eq!(self.note.load(Ordering::Relaxed), before + 1, "another one has it meanwhile");
        self.note.store(before + 2, Ordering::Relaxed);
    }

    fn take_use_and_return(&self, part: &mut Permits, me: usize) {
        self.take(part, me);
        self.use_it();
        self.give_back(part);
    }
}

fn two_ranks(preemptions: usize, times: u64) {
    check(preemptions, move || {
        let room = Room::new();
        let body = move |room: &Room, me| {
            let mut part = Permits::new(room.at, me, 1);
            (0..times).for_each(|_| room.take_use_and_return(&mut part, me));
        };
        let other = {
            let room = Arc::clone(&room);
            thread::spawn(move || body(&room, 1))
        };
        body(&room, 0);
        other.join().expect("the second rank ends");
        assert_eq!(room.note.load(Ordering::Relaxed), 4 * times, "each has had it");
    });
}

#[test]
fn who_waits_at_the_home_for_a_permit_is_told_when_it_is_returned() {
    check(PREEMPTIONS + 2, || {
        let room = Room::new();
        let mut part = Permits::new(room.at, 0, 1);
        room.take(&mut part, 0);
        let waiter = {
            let room = Arc::clone(&room);
            thread::spawn(move || {
                room.take_use_and_return(&mut Permits::new(room.at, 1, 1), 1);
            })
        };
        room.use_it();
        room.give_back(&part);
        waiter.join().expect("the waiter ends");
    });
}

#[test]
fn a_permit_is_had_by_one_rank_of_the_home_at_a_time() {
    two_ranks(PREEMPTIONS + 2, 1);
}

#[test]
fn ranks_of_the_home_take_and_return_a_permit_again() {
    two_ranks(PREEMPTIONS, 2);
}
