//! Where the values of requests wait until they are taken.
//!
//! A ticket names a place and which user of that place it is. A place is free, waits for its request, or holds the
//! request's outcome; a place that was given up while its request is under way is freed when that completes.

use std::task::Poll;

use crate::fabric::{OperationError, Ticket};

/// The most tickets at a time: who never takes what has completed is refused more, instead of filling the memory.
pub(super) const TICKETS_MAX: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Tickets {
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    generation: u32,
    state: State,
}

enum State {
    Free,
    Waits,
    /// Given up; its request is under way.
    GivenUp,
    Done(Result<u64, OperationError>),
}

impl Tickets {
    /// Whether there is room for so many more.
    pub fn have_room(&self, more: usize) -> bool {
        self.places.len() - self.free.len() + more <= TICKETS_MAX
    }

    pub fn issue(&mut self) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, state: State::Free });
            u32::try_from(self.places.len() - 1).expect("there are few enough")
        });
        let place = &mut self.places[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.state = State::Waits;
        Ticket { slot, generation: place.generation }
    }

    /// The outcome of the request whose ticket has this place. A place belongs to one request until that completes.
    pub fn complete(&mut self, slot: u32, outcome: Result<u64, OperationError>) {
        let place = &mut self.places[slot as usize];
        match place.state {
            State::Waits => place.state = State::Done(outcome),
            State::GivenUp => self.release(slot),
            State::Free | State::Done(_) => unreachable!("a request completes once"),
        }
    }

    fn release(&mut self, slot: u32) {
        self.places[slot as usize].state = State::Free;
        self.free.push(slot);
    }

    /// Takes back a ticket that nobody has seen.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.release(ticket.slot);
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        self.places.get(ticket.slot as usize).is_some_and(|place| {
            place.generation == ticket.generation && matches!(place.state, State::Waits | State::Done(_))
        })
    }

    pub fn take(&mut self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        assert!(self.is_current(ticket), "the ticket is spent already: {ticket:?}");
        let place = &mut self.places[ticket.slot as usize];
        match std::mem::replace(&mut place.state, State::Waits) {
            State::Done(outcome) => {
                self.release(ticket.slot);
                Poll::Ready(outcome)
            }
            _ => Poll::Pending,
        }
    }

    pub fn forget(&mut self, ticket: Ticket) {
        if !self.is_current(ticket) {
            return;
        }
        let place = &mut self.places[ticket.slot as usize];
        match place.state {
            State::Waits => place.state = State::GivenUp,
            _ => self.release(ticket.slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_once() {
        let mut tickets = Tickets::default();
        let ticket = tickets.issue();
        assert_eq!(tickets.take(ticket), Poll::Pending);
        tickets.complete(ticket.slot, Ok(5));
        assert_eq!(tickets.take(ticket), Poll::Ready(Ok(5)));
        let next = tickets.issue();
        assert_eq!(next.slot, ticket.slot);
        assert_ne!(next.generation, ticket.generation);
    }

    #[test]
    #[should_panic(expected = "spent already")]
    fn a_spent_ticket_is_a_mistake_even_when_its_place_has_a_new_user() {
        let mut tickets = Tickets::default();
        let ticket = tickets.issue();
        tickets.complete(ticket.slot, Ok(5));
        let _ = tickets.take(ticket);
        let _ = tickets.issue();
        let _ = tickets.take(ticket);
    }

    #[test]
    fn a_place_given_up_is_free_only_after_its_request() {
        let mut tickets = Tickets::default();
        let given_up = tickets.issue();
        tickets.forget(given_up);
        assert_ne!(tickets.issue().slot, given_up.slot, "its request may still write to it");
        tickets.complete(given_up.slot, Ok(1));
        assert_eq!(tickets.issue().slot, given_up.slot);
        let done = tickets.issue();
        tickets.complete(done.slot, Ok(2));
        tickets.forget(done);
        assert_eq!(tickets.issue().slot, done.slot);
    }

    #[test]
    fn room_counts_what_is_not_taken() {
        let mut tickets = Tickets::default();
        let all: Vec<_> = (0..TICKETS_MAX).map(|_| tickets.issue()).collect();
        assert!(!tickets.have_room(1));
        tickets.complete(all[7].slot, Ok(0));
        assert!(!tickets.have_room(1), "completed and not taken still has its place");
        let _ = tickets.take(all[7]);
        assert!(tickets.have_room(1) && !tickets.have_room(2));
    }
}
