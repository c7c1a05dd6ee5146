//! Split-phase arrivals as a user holds them: test, wait, abandon.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::Duration;

use super::failures::Stay;
use super::limit::Limit;
use super::waiting::Standing;
use super::{Abandoned, Core, Group};
use crate::coord::barrier::{Contribution, Withdrawal};
use crate::coord::drive;
use crate::error::BarrierError;

/// What a finished arrival gives back: nothing, or a reduced word.
pub trait Carried: sealed::Sealed + Sized {
    #[doc(hidden)]
    fn from_word(word: u64) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for u64 {}
}

impl Carried for () {
    fn from_word(_: u64) -> Self {}
}

impl Carried for u64 {
    fn from_word(word: u64) -> Self {
        word
    }
}

/// A rank's arrival at a barrier that it has not passed yet.
///
/// Dropping it leaves the rank arrived; the group's next blocking call finishes it first.
#[derive(Debug)]
#[must_use = "an arrival that nobody waits for still counts: wait for it, or abandon it"]
pub struct Arrival<'group, T = ()> {
    group: &'group Group,
    ended: RefCell<Option<Result<u64, BarrierError>>>,
    carried: PhantomData<T>,
}

impl<'group, T: Carried> Arrival<'group, T> {
    pub(super) fn new(group: &'group Group) -> Self {
        Self { group, ended: RefCell::new(None), carried: PhantomData }
    }

    /// Whether all have arrived. Does not wait for that; once true, waiting returns at once. Who calls it for long asks
    /// now and then after those who are missing, as a wait does: where other nodes do not answer, that takes up to 10
    /// ms.
    ///
    /// # Errors
    ///
    /// As [`Group::barrier`].
    ///
    /// # Cost
    ///
    /// A look at the words that are waited for, each a transfer of a cache line if it has changed; across nodes the
    /// connections are polled, too.
    pub fn test(&self) -> Result<bool, BarrierError> {
        let mut ended = self.ended.borrow_mut();
        if ended.is_none() {
            let mut core = self.group.core.borrow_mut();
            match self.group.look_whether_ended(&mut core) {
                Some(Err(error)) if error.is_open() => return Err(error),
                None => return Ok(false),
                found => *ended = found,
            }
            core.standing = Standing::Nothing;
        }
        match &*ended {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Waits until all have arrived. Calling it again gives the same answer.
    ///
    /// # Errors
    ///
    /// As [`Group::barrier`].
    ///
    /// # Cost
    ///
    /// What is left of a [`Group::barrier`] after the arrival.
    pub fn wait(&self) -> Result<T, BarrierError> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; after a time-out call again, or [`abandon`](Self::abandon).
    ///
    /// # Errors
    ///
    /// As [`Group::barrier_timeout`].
    ///
    /// # Cost
    ///
    /// As [`wait`](Self::wait), and a look at the clock.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<T, BarrierError> {
        self.wait_until(self.group.limit(Some(timeout)))
    }

    fn wait_until(&self, limit: Option<Limit>) -> Result<T, BarrierError> {
        let mut ended = self.ended.borrow_mut();
        if ended.is_none() {
            let mut core = self.group.core.borrow_mut();
            self.group.look_first(&mut core);
            let finished = self.group.finish(&mut core, limit, Standing::Held);
            if core.standing == Standing::Held {
                return finished.map(T::from_word);
            }
            *ended = Some(finished);
        }
        ended.clone().expect("ended just now or before").map(T::from_word)
    }

    /// Gives the arrival up: either this rank is as if it had never arrived, or the barrier had been passed.
    ///
    /// # Errors
    ///
    /// [`BarrierError::CannotAbandon`]: the arrival stands, and the group's next call finishes it.
    ///
    /// # Cost
    ///
    /// As [`Group::abandon`].
    pub fn abandon(self) -> Result<Abandoned, BarrierError> {
        if let Some(result) = self.ended.borrow().clone() {
            return result.map(|_| Abandoned::Passed);
        }
        let mut core = self.group.core.borrow_mut();
        self.group.give_up(&mut core)
    }
}

impl<T> Drop for Arrival<'_, T> {
    fn drop(&mut self) {
        let mut core = self.group.core.borrow_mut();
        if self.ended.borrow().is_none() && core.standing == Standing::Held {
            core.standing = Standing::Detached;
        }
    }
}

impl Group {
    pub(super) fn begin_arrival<T: Carried>(&self, contribution: Contribution) -> Result<Arrival<'_, T>, BarrierError> {
        let mut core = self.core.borrow_mut();
        self.begin_call(&mut core, Stay::Glance)?;
        if core.standing == Standing::Detached && self.test_outstanding(&mut core).is_some() {
            core.standing = Standing::Nothing;
        }
        if core.standing != Standing::Nothing {
            return Err(self.outstanding(&core));
        }
        self.arrive_unless_arrived(&mut core, contribution);
        core.barrier.after_arrival(&self.membership);
        core.standing = Standing::Held;
        Ok(Arrival::new(self))
    }

    /// As [`test_outstanding`](Self::test_outstanding), for one who does not wait: whether the arrival has come to an
    /// end.
    fn look_whether_ended(&self, core: &mut Core) -> Option<Result<u64, BarrierError>> {
        if let Some(outcome) = self.test_outstanding(core) {
            return Some(self.result(core, outcome));
        }
        let sequence = core.barrier.passed() + 1;
        if core.failures.are_looked_at(drive::alarm(self.segment()))
            && let Some(ended) = self.heed_while_waiting(core, Stay::Glance)
        {
            let since = core.looks.since(sequence, || self.membership.driver.clock.now());
            return Some(self.having_waited(ended, since));
        }
        let since = core.looks.one_more(sequence, || self.membership.driver.clock.now())?;
        self.ask_if_long(core, since).map(|ended| self.having_waited(ended, since))
    }

    pub(super) fn give_up(&self, core: &mut Core) -> Result<Abandoned, BarrierError> {
        match core.barrier.withdraw(&self.membership) {
            Withdrawal::Withdrawn => {
                core.standing = Standing::Nothing;
                self.trace_withdrawal(core);
                Ok(Abandoned::Withdrawn)
            }
            Withdrawal::Passed(outcome) => {
                core.standing = Standing::Nothing;
                self.trace_release(core);
                self.result(core, outcome).map(|_| Abandoned::Passed)
            }
            Withdrawal::Exhausted => Err(BarrierError::CannotAbandon {
                rank: self.ranks[self.me],
                group: self.id(),
                sequence: core.barrier.passed() + 1,
            }),
        }
    }
}
