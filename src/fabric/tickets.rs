//! Where a fabric keeps the values of requests until they are taken.
//!
//! A slab: a ticket names a slot and the generation of its use, so that an old ticket is told from a new one. All in
//! plain memory, behind whatever lock its fabric has.

use std::task::Poll;

use super::{OperationError, Ticket};

/// The slots.
#[derive(Debug)]
pub struct Tickets {
    slots: Vec<Slot>,
    free: Vec<u32>,
    most: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    /// Posted; `is_wanted` until the ticket is given up.
    Waiting {
        is_wanted: bool,
    },
    Complete(Result<u64, OperationError>),
}

impl Tickets {
    /// Room for `most` values that are on their way or not taken.
    pub fn new(most: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), most }
    }

    /// Whether `count` more can be given out.
    pub fn has_room_for(&self, count: usize) -> bool {
        self.free.len() + (self.most - self.slots.len()) >= count
    }

    /// Gives one out.
    ///
    /// # Panics
    ///
    /// Without room; see [`has_room_for`](Self::has_room_for).
    pub fn give(&mut self) -> Ticket {
        let state = State::Waiting { is_wanted: true };
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.generation = entry.generation.wrapping_add(1);
            entry.state = state;
            return Ticket { slot, generation: entry.generation };
        }
        assert!(self.slots.len() < self.most, "tickets are given out only when there is room");
        let slot = u32::try_from(self.slots.len()).expect("far fewer slots than that");
        self.slots.push(Slot { generation: 0, state });
        Ticket { slot, generation: 0 }
    }

    /// Notes the value, or the error, of the request in a slot.
    pub fn complete(&mut self, slot: u32, result: Result<u64, OperationError>) {
        let entry = &mut self.slots[slot as usize];
        match entry.state {
            State::Waiting { is_wanted: true } => entry.state = State::Complete(result),
            State::Waiting { is_wanted: false } => {
                entry.state = State::Free;
                self.free.push(slot);
            }
            State::Free | State::Complete(_) => unreachable!("a request completes once"),
        }
    }

    /// The value, if it has come; frees the slot.
    ///
    /// # Errors
    ///
    /// What the request completed with.
    ///
    /// # Panics
    ///
    /// When the ticket is spent.
    pub fn take(&mut self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let entry = &mut self.slots[ticket.slot as usize];
        assert!(entry.generation == ticket.generation, "a ticket is spent once: {ticket:?}");
        match std::mem::replace(&mut entry.state, State::Free) {
            State::Complete(result) => {
                self.free.push(ticket.slot);
                Poll::Ready(result)
            }
            State::Waiting { is_wanted: true } => {
                entry.state = State::Waiting { is_wanted: true };
                Poll::Pending
            }
            State::Free | State::Waiting { is_wanted: false } => panic!("a ticket is spent once: {ticket:?}"),
        }
    }

    /// Gives a ticket up: its slot is free once the request has completed. A spent ticket is no harm.
    pub fn forget(&mut self, ticket: Ticket) {
        let entry = &mut self.slots[ticket.slot as usize];
        if entry.generation != ticket.generation {
            return;
        }
        match entry.state {
            State::Free => {}
            State::Waiting { .. } => entry.state = State::Waiting { is_wanted: false },
            State::Complete(_) => {
                entry.state = State::Free;
                self.free.push(ticket.slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_values_reach_their_tickets() {
        let mut tickets = Tickets::new(2);
        let (first, second) = (tickets.give(), tickets.give());
        assert!(!tickets.has_room_for(1));
        assert_eq!(tickets.take(first), Poll::Pending);
        tickets.complete(second.slot, Ok(2));
        tickets.complete(first.slot, Ok(1));
        assert_eq!((tickets.take(first), tickets.take(second)), (Poll::Ready(Ok(1)), Poll::Ready(Ok(2))));
        assert!(tickets.has_room_for(2));
        let third = tickets.give();
        assert_ne!(third, second);
    }

    #[test]
    fn a_forgotten_ticket_frees_its_slot_when_the_request_completes() {
        let mut tickets = Tickets::new(1);
        let ticket = tickets.give();
        tickets.forget(ticket);
        assert!(!tickets.has_room_for(1));
        tickets.complete(ticket.slot, Ok(0));
        assert!(tickets.has_room_for(1));
        let ticket = tickets.give();
        tickets.complete(ticket.slot, Ok(0));
        tickets.forget(ticket);
        tickets.forget(ticket);
        assert!(tickets.has_room_for(1) && !tickets.has_room_for(2));
    }

    #[test]
    #[should_panic(expected = "spent once")]
    fn a_spent_ticket_is_refused() {
        let mut tickets = Tickets::new(1);
        let ticket = tickets.give();
        tickets.complete(ticket.slot, Ok(0));
        let _ = tickets.take(ticket);
        let _ = tickets.take(ticket);
    }
}
