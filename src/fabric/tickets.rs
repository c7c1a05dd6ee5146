//! Where a fabric keeps the values of requests until they are taken.
//!
//! A table of slots. A request that has a ticket takes a free slot when it is posted, its completion fills the slot,
//! and taking the value frees it. A slot's generation grows whenever it is freed, so that a spent ticket is told from
//! the slot's next user. The table grows as it is used, up to a limit: a fabric that has no free slot refuses the
//! batch, which is the back-pressure of the contract.
//!
//! | state | after | then |
//! | --- | --- | --- |
//! | free | – | waiting, by `issue` |
//! | waiting | `issue` | done, by `complete`; forgotten, by `forget` |
//! | done | `complete` | free, by `take` or `forget` |
//! | forgotten | `forget` | free, by `complete` |

use std::task::Poll;

use super::{OperationError, Ticket};

/// The outcome of a request.
pub type Value = Result<u64, OperationError>;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum State {
    /// With the next free slot, or [`NONE`].
    Free(u32),
    Waiting,
    Done(Value),
    Forgotten,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

/// The tickets of one fabric.
#[derive(Debug)]
pub struct TicketTable {
    slots: Vec<Slot>,
    free: u32,
    used: usize,
    most: usize,
}

impl TicketTable {
    /// A table for at most `most` tickets at a time. Takes no memory until it is used.
    ///
    /// # Panics
    ///
    /// When `most` is more than a ticket can number.
    pub fn new(most: usize) -> Self {
        assert!(most < NONE as usize, "{most} tickets are more than a ticket's slot can number");
        Self { slots: Vec::new(), free: NONE, used: 0, most }
    }

    /// How many more tickets can be issued now.
    pub fn room(&self) -> usize {
        self.most - self.used
    }

    /// How many tickets are neither taken nor, if forgotten, completed.
    pub fn used(&self) -> usize {
        self.used
    }

    /// A ticket for a request that is being posted.
    ///
    /// # Panics
    ///
    /// When there is no [`room`](Self::room).
    pub fn issue(&mut self) -> Ticket {
        assert!(self.room() > 0, "the caller looks for room before it issues");
        self.used += 1;
        let slot = self.free_slot();
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Waiting;
        Ticket { slot, generation: entry.generation }
    }

    #[allow(clippy::cast_possible_truncation, reason = "there are at most `most` slots, which `new` has checked")]
    fn free_slot(&mut self) -> u32 {
        if self.free == NONE {
            self.slots.push(Slot { generation: 0, state: State::Waiting });
            return (self.slots.len() - 1) as u32;
        }
        let slot = self.free;
        let State::Free(next) = self.slots[slot as usize].state else { unreachable!("the free list holds free slots") };
        self.free = next;
        slot
    }

    /// The request has completed. A ticket that is not waiting (it has been completed already) is left as it is.
    pub fn complete(&mut self, ticket: Ticket, value: Value) {
        let Some(entry) = self.entry(ticket) else { return };
        match entry.state {
            State::Waiting => entry.state = State::Done(value),
            State::Forgotten => self.release(ticket.slot),
            State::Free(_) | State::Done(_) => {}
        }
    }

    /// The value, if it is there. `None`: the ticket is spent, for which the fabric panics once it holds no lock.
    pub fn take(&mut self, ticket: Ticket) -> Option<Poll<Value>> {
        let entry = self.entry(ticket)?;
        match std::mem::replace(&mut entry.state, State::Forgotten) {
            State::Done(value) => {
                self.release(ticket.slot);
                Some(Poll::Ready(value))
            }
            State::Waiting => {
                entry.state = State::Waiting;
                Some(Poll::Pending)
            }
            other @ (State::Free(_) | State::Forgotten) => {
                entry.state = other;
                None
            }
        }
    }

    /// Nobody will take the value. A spent ticket is left alone.
    pub fn forget(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket) else { return };
        match entry.state {
            State::Waiting => entry.state = State::Forgotten,
            State::Done(_) => self.release(ticket.slot),
            State::Free(_) | State::Forgotten => {}
        }
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        self.slots.get_mut(ticket.slot as usize).filter(|entry| entry.generation == ticket.generation)
    }

    fn release(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free(self.free);
        self.free = slot;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_user_at_a_time() {
        let mut table = TicketTable::new(2);
        let (first, second) = (table.issue(), table.issue());
        assert_eq!(table.room(), 0);
        assert_eq!(table.take(first), Some(Poll::Pending));
        table.complete(first, Ok(1));
        table.complete(second, Ok(2));
        assert_eq!(table.take(first), Some(Poll::Ready(Ok(1))));
        assert_eq!(table.take(first), None);
        let third = table.issue();
        assert_eq!(third.slot, first.slot);
        assert_eq!(table.take(first), None);
        assert_eq!(table.take(third), Some(Poll::Pending));
        assert_eq!(table.take(second), Some(Poll::Ready(Ok(2))));
    }

    #[test]
    fn a_forgotten_ticket_frees_its_room_once_it_completes() {
        let mut table = TicketTable::new(2);
        let (waiting, done) = (table.issue(), table.issue());
        table.complete(done, Ok(0));
        table.forget(done);
        assert_eq!(table.room(), 1);
        table.forget(waiting);
        assert_eq!((table.room(), table.take(waiting)), (1, None));
        table.complete(waiting, Ok(0));
        table.complete(waiting, Ok(0));
        table.forget(waiting);
        assert_eq!((table.room(), table.used()), (2, 0));
    }
}
