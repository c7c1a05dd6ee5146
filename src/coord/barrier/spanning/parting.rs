//! Before a member leaves for good: seeing to it that what its node has said last has arrived.
//!
//! Messages are not acknowledged. One that dies with its connection (its post had succeeded: the other end's agent had
//! just ended, say) is mended by whoever misses it, who reads the outbox it was sent from. So a process that ends takes
//! with it what others may still have to read. Before it does, it reads the words that it has written to other nodes,
//! and writes again what is not there. Its own outboxes hold what that was.
//!
//! This is the driver's duty, who alone writes to other nodes; or that of any other member when the driver has ended
//! before. (What a process that has ended had on its way is no newer than what is in the outboxes.) Of a barrier that
//! was contested messages say nothing; there it is waited until the others have released it.

use std::task::Poll;

use super::Spanning;
use super::layout::{ExchangeWord, ReleaseWord, SpanLayout};
use crate::coord::reads::Place;
use crate::fabric::{Fabric, Memory, Request, Ticket, WordAt};
use crate::sync::Ordering;

/// What is left to be seen.
#[derive(Debug)]
pub struct Parting {
    owed: Vec<Owed>,
}

/// A word of another node that must have come to a barrier.
#[derive(Debug)]
struct Owed {
    place: Place,
    sequence: u64,
    kind: Kind,
    ticket: Option<Ticket>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A message: what it said, and its value.
    Message { word: u64, value: u64 },
    /// The other node's release.
    Release,
}

impl Spanning {
    /// Moves on; ready when all has arrived, or its node `is_gone`. Nothing may be called afterwards but
    /// [`let_go`](Self::let_go).
    ///
    /// `speaks_for_driver`: the driver has ended.
    ///
    /// # Cost
    ///
    /// For each node that was told something, a round trip.
    pub fn part(
        &mut self,
        memory: &impl Memory,
        fabric: &impl Fabric,
        speaks_for_driver: bool,
        is_gone: impl Fn(usize) -> bool,
    ) -> Poll<()> {
        if !self.is_driver() && !speaks_for_driver {
            return Poll::Ready(());
        }
        let mut parting = match self.parting.take() {
            Some(parting) => parting,
            None => {
                if self.is_outstanding() {
                    // It may be passed, and then there is more to be told.
                    let _ = self.poll_thoroughly(memory, fabric);
                }
                Parting { owed: self.owed(memory) }
            }
        };
        if parting.poll(fabric, is_gone).is_ready() {
            return Poll::Ready(());
        }
        self.parting = Some(parting);
        Poll::Pending
    }

    /// What [`part`](Self::part) has not come to an end with, for somebody else to go on with it.
    pub fn take_parting(&mut self) -> Option<Parting> {
        self.parting.take()
    }

    /// What this node has said of the barrier passed last, and of the one after it.
    fn owed(&self, memory: &impl Memory) -> Vec<Owed> {
        let schedule = *self.layout.schedule();
        // SYNC POINT: release. Acquire pairs with the releasing member's exchange: what it stored in the outbox is
        // seen.
        let released = ReleaseWord(memory.word(self.layout.release()).load(Ordering::Acquire));
        let was_contested = released.was_contested() && released.has_released(self.passed) && self.passed > 0;
        let mut owed = Vec::new();
        for sequence in [self.passed, self.next()] {
            for round in 0..schedule.rounds() {
                let at = self.layout.outbox(round, sequence);
                // SYNC POINT: outbox. Acquire pairs with whoever has filled it: the value below is that of the word.
                let word = ExchangeWord(memory.word(at).load(Ordering::Acquire));
                if sequence == 0 || word.sequence() != sequence || (was_contested && sequence == self.passed) {
                    continue;
                }
                let value = memory.word(SpanLayout::value_of(at)).load(Ordering::Relaxed);
                owed.extend(schedule.sends(self.here, round).map(|message| {
                    let (node, start) = self.span.node(message.peer);
                    let at = SpanLayout::new(start, schedule, 0).inbox(message.slot, sequence);
                    Owed::new(node, at, sequence, Kind::Message { word: word.0, value })
                }));
            }
        }
        let others = (0..self.span.len()).filter(|index| was_contested && *index != self.here);
        owed.extend(others.map(|index| {
            let (node, start) = self.span.node(index);
            Owed::new(node, SpanLayout::new(start, schedule, 0).release(), self.passed, Kind::Release)
        }));
        owed
    }
}

impl Parting {
    /// As [`Spanning::part`], which has begun it.
    pub fn poll(&mut self, fabric: &impl Fabric, is_gone: impl Fn(usize) -> bool) -> Poll<()> {
        fabric.progress();
        self.owed.retain_mut(|owed| !owed.has_arrived(fabric, &is_gone));
        if self.owed.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives up what is on its way.
    pub fn abandon(self, fabric: &impl Fabric) {
        self.owed.into_iter().filter_map(|owed| owed.ticket).for_each(|ticket| fabric.forget(ticket));
    }
}

impl Owed {
    fn new(node: usize, at: WordAt, sequence: u64, kind: Kind) -> Self {
        Self { place: Place { node, at }, sequence, kind, ticket: None }
    }

    /// Whether it is there, or nobody is who would want it; asks, and says it again, if not.
    fn has_arrived(&mut self, fabric: &impl Fabric, is_gone: impl Fn(usize) -> bool) -> bool {
        if is_gone(self.place.node) {
            self.ticket.take().into_iter().for_each(|ticket| fabric.forget(ticket));
            return true;
        }
        let Some(ticket) = self.ticket else {
            self.ask(fabric, None);
            return false;
        };
        let Poll::Ready(answer) = fabric.take(ticket) else { return false };
        self.ticket = None;
        match (answer, self.kind) {
            (Ok(found), Kind::Message { .. }) if ExchangeWord(found).sequence() >= self.sequence => return true,
            (Ok(found), Kind::Release) if ReleaseWord(found).has_released(self.sequence) => return true,
            // The connection that carried it has broken.
            (Ok(_), Kind::Message { word, value }) => self.ask(fabric, Some((word, value))),
            (Ok(_), Kind::Release) | (Err(_), _) => self.ask(fabric, None),
        }
        false
    }

    /// Reads the word, after writing it if it is to be said again. What cannot be posted is tried again at the next
    /// look.
    fn ask(&mut self, fabric: &impl Fabric, said: Option<(u64, u64)>) {
        let Place { node, at } = self.place;
        let mut requests = Vec::with_capacity(3);
        if let Some((word, value)) = said {
            requests.push(Request::Write { at: SpanLayout::value_of(at), value });
            requests.push(Request::Write { at, value: word });
        }
        requests.push(Request::Read { at });
        let mut tickets = Vec::with_capacity(1);
        if fabric.post(node, &requests, &mut tickets).is_ok() {
            self.ticket = tickets.pop();
        }
    }
}
