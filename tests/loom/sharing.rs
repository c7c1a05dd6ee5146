//! A lock that readers share, at its home, under loom: a reader that goes by the node's memory
//! (`Sharing::read_here`, `Sharing::leave_here`) beside a writer. Neither is there with the other, each sees what the
//! other has done before, and who waits for the other is told when that is through.

use loom::sync::Arc;
use loom::thread;
use phalanx::coord::objects::sharing::{Called, Sharing, SharingAt, Turn};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};

use super::site::Site;
use super::{PREEMPTIONS, check};

const READER: usize = 0;
const WRITER: usize = 1;

/// The lock, and what they note under it: odd while they are in, one more when they are through.
struct Room {
    site: Site,
    at: SharingAt,
    read: AtomicU64,
    written: AtomicU64,
}

impl Room {
    fn new() -> Arc<Self> {
        let (phase, parts) = (Site::word(0), Site::word(1));
        let nowhere = phase;
        let at = SharingAt { phase, parts, ranks: 2, node_parts: nowhere, places: nowhere, nodes: 0 };
        Arc::new(Self { site: Site::new(3), at, read: AtomicU64::new(0), written: AtomicU64::new(0) })
    }

    /// Goes on until this rank has what it wants, or nothing any more.
    fn drive(&self, part: &mut Sharing, me: usize, mut turn: Turn) -> Turn {
        let mut seen = self.site.pokes(me);
        loop {
            turn = match turn {
                Turn::Ask(requests) => {
                    seen = self.site.pokes(me);
                    let answers = self.site.ask(&requests);
                    part.answered(&answers, |_| false, |called| self.poke(called))
                }
                Turn::Wait => {
                    self.site.sleep(me, seen);
                    seen = self.site.pokes(me);
                    part.look()
                }
                Turn::In | Turn::Out => return turn,
            };
        }
    }

    fn poke(&self, called: Called) {
        let Called::Rank(rank) = called else { unreachable!("no node has a part") };
        self.site.poke(rank);
    }

    fn read(&self, part: &mut Sharing) {
        if !part.read_here(&self.site.node) {
            let begun = part.read();
            assert_eq!(self.drive(part, READER, begun), Turn::In);
        }
        be_in(&self.read, &self.written);
        part.leave_here(&self.site.node).into_iter().for_each(|writer| self.site.poke(writer));
    }

    fn write(&self, part: &mut Sharing) {
        let begun = part.write();
        assert_eq!(self.drive(part, WRITER, begun), Turn::In);
        be_in(&self.written, &self.read);
        let begun = part.leave();
        assert_eq!(self.drive(part, WRITER, begun), Turn::Out);
    }
}

/// The other one is not in, and is seen to be through if it was.
fn be_in(mine: &AtomicU64, other: &AtomicU64) {
    let begun = mine.load(Ordering::Relaxed) + 1;
    mine.store(begun, Ordering::Relaxed);
    let seen = other.load(Ordering::Relaxed);
    assert_eq!(seen % 2, 0, "the other one is there, or was");
    spin_hint();
    assert_eq!(other.load(Ordering::Relaxed), seen, "the other one has come meanwhile");
    mine.store(begun + 1, Ordering::Relaxed);
}

fn a_reader_beside_a_writer(preemptions: usize, reads: usize, writes: usize) {
    check(preemptions, move || {
        let room = Room::new();
        let writer = {
            let room = Arc::clone(&room);
            thread::spawn(move || {
                let mut part = Sharing::new(room.at, WRITER);
                (0..writes).for_each(|_| room.write(&mut part));
            })
        };
        let mut part = Sharing::new(room.at, READER);
        (0..reads).for_each(|_| room.read(&mut part));
        writer.join().expect("the writer ends");
    });
}

#[test]
fn a_reader_at_the_home_and_a_writer_wait_for_each_other() {
    a_reader_beside_a_writer(PREEMPTIONS + 1, 1, 1);
}

#[test]
fn a_reader_at_the_home_comes_again() {
    a_reader_beside_a_writer(PREEMPTIONS - 1, 2, 1);
}

#[test]
fn a_writer_comes_again_beside_a_reader_at_the_home() {
    a_reader_beside_a_writer(PREEMPTIONS, 1, 2);
}
