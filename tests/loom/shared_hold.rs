//! What readers of one node have together, under loom: two ranks that join and leave the node's hold. While one of them
//! reads, the node's part at the home says so, and what a writer has written before is seen; when none does any more,
//! the hold is closed. Who waits for the other rank to open or close it is told when that is done.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;
use phalanx::coord::objects::shared_hold::{HoldTurn, SharedAt, SharedHold, SharedWord, Stand};
use phalanx::coord::objects::sharing::{Called, PartWord, SharingAt};
use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::HEADER_WORDS;
use phalanx::fabric::{Memory, Request, WordAt};
use phalanx::sync::{AtomicU64, Ordering, spin_hint};

use super::{PREEMPTIONS, check};

/// A node's hold, with the words of the lock's home beside it.
struct Room {
    node: ModelNode,
    at: SharedAt,
    /// How often each rank was told to look.
    pokes: [AtomicU64; 2],
}

impl Room {
    fn new() -> Arc<Self> {
        let word = |index| WordAt(HEADER_WORDS + index);
        let home =
            SharingAt { phase: word(3), parts: word(4), ranks: 2, node_parts: word(6), places: word(7), nodes: 1 };
        let at = SharedAt { word: word(0), stakes: word(1), ranks: 2, node: 0, place: 0, home };
        let node = ModelNode::new(HEADER_WORDS + 8);
        Arc::new(Self { node, at, pokes: [AtomicU64::new(0), AtomicU64::new(0)] })
    }

    fn stand(&self) -> Stand {
        SharedWord(self.node.word(self.at.word).load(Ordering::SeqCst)).stand()
    }

    fn part(&self) -> u64 {
        self.node.word(self.at.home.node_parts).load(Ordering::SeqCst)
    }

    /// As the home executes them: in order, each at once.
    fn execute(&self, requests: &[Request]) -> Vec<u64> {
        let answer = |request: &Request| match *request {
            Request::Write { at, value } => {
                self.node.word(at).store(value, Ordering::SeqCst);
                None
            }
            Request::Read { at } => Some(self.node.word(at).load(Ordering::SeqCst)),
            Request::FetchAdd { .. } | Request::CompareSwap { .. } => unreachable!("nobody writes"),
        };
        requests.iter().filter_map(answer).collect()
    }

    fn poke(&self, called: Called) {
        let Called::Of { local, .. } = called else { unreachable!("only ranks of the node wait") };
        self.pokes[local].fetch_add(1, Ordering::SeqCst);
    }

    /// Goes on until this rank has what it wants. Where it waits it sleeps until it is told to look.
    fn drive(&self, hold: &mut SharedHold, me: usize, mut turn: HoldTurn) -> HoldTurn {
        let mut seen = self.pokes[me].load(Ordering::SeqCst);
        loop {
            turn = match turn {
                HoldTurn::Step => hold.step(&self.node, |_| false, |called| self.poke(called)),
                HoldTurn::Ask(requests) => {
                    let answers = self.execute(&requests);
                    hold.answered(&answers, |_| false, |called| self.poke(called))
                }
                HoldTurn::Wait => {
                    while self.pokes[me].load(Ordering::SeqCst) == seen {
                        spin_hint();
                    }
                    seen = self.pokes[me].load(Ordering::SeqCst);
                    hold.look(Duration::ZERO)
                }
                HoldTurn::Outlive(_) => unreachable!("nobody has ended"),
                HoldTurn::In | HoldTurn::Out | HoldTurn::Aside => return turn,
            };
        }
    }
}

fn two_ranks(times: usize, preemptions: usize, is_patient: bool) {
    check(preemptions, move || {
        let room = Room::new();
        let read_often = move |room: &Room, me| {
            let mut hold = SharedHold::new(room.at, me);
            for _ in 0..times {
                let begun = hold.read(is_patient);
                match room.drive(&mut hold, me, begun) {
                    HoldTurn::In => assert_eq!(room.part(), PartWord::READING.0, "rank {me} reads"),
                    // It may read by a part of its own.
                    HoldTurn::Aside => break,
                    other => panic!("{other:?}"),
                }
                let begun = hold.leave();
                assert_eq!(room.drive(&mut hold, me, begun), HoldTurn::Out);
            }
        };
        let other = {
            let room = Arc::clone(&room);
            thread::spawn(move || read_often(&room, 1))
        };
        read_often(&room, 0);
        other.join().expect("the second rank ends");
        assert_eq!((room.stand(), room.part()), (Stand::Nothing, PartWord::NOTHING.0), "nobody reads in the end");
    });
}

#[test]
fn readers_of_a_node_share_a_hold_and_close_it() {
    two_ranks(1, PREEMPTIONS, true);
}

#[test]
fn readers_of_a_node_come_again() {
    two_ranks(2, PREEMPTIONS - 1, false);
}
