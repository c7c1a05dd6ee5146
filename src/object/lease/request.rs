//! A rank's request for a lease that it does not wait for: it looks now and then, or waits in the end.

use std::time::{Duration, Instant};

use super::courier::{Party, now_ns};
use super::{Lease, LeaseError, LeaseGuard, Wish};
use crate::coord::objects::lease::{Hold, Turn};
use crate::object::vigil::Vigil;

/// A place among those who wait for a lease. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "the place is given up when this is dropped"]
pub struct LeaseRequest<'lease> {
    lease: &'lease Lease,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Waiting(Box<Party>),
    Held(Box<Party>, Hold),
    /// Lost, as `test` has said; given up, or made a guard.
    None,
}

impl<'lease> LeaseRequest<'lease> {
    /// Of a rank's party; the first look is taken.
    pub(super) fn new(lease: &'lease Lease, party: Box<Party>) -> Result<Self, LeaseError> {
        let mut request = Self { lease, place: Place::None };
        request.ask(party)?;
        Ok(request)
    }

    fn ask(&mut self, mut party: Box<Party>) -> Result<(), LeaseError> {
        let turn = party.lessee.acquire(now_ns());
        self.advance(party, turn)
    }

    /// Whether this rank holds the lease, without waiting for another rank. From then on its time to live counts; the
    /// guard is had by [`wait`](Self::wait). A rank that was named and does not look is followed when its time is over,
    /// and then has its place at the end.
    ///
    /// # Errors
    ///
    /// As [`Lease::acquire`]: the place is lost. Whoever calls this or [`wait`](Self::wait) again asks anew, behind all
    /// others.
    ///
    /// # Cost
    ///
    /// A round trip to the home; two more when this rank is named. After an error that of [`Lease::request`].
    pub fn test(&mut self) -> Result<bool, LeaseError> {
        match std::mem::replace(&mut self.place, Place::None) {
            Place::Waiting(mut party) => {
                let turn = party.lessee.look();
                self.advance(party, turn)?;
            }
            // Perhaps others have followed.
            Place::Held(mut party, hold) if self.lease.courier.is_over(hold) => {
                let turn = party.lessee.renew(now_ns());
                self.advance(party, turn)?;
            }
            Place::None => {
                let party = self.lease.take_party()?;
                self.ask(party)?;
            }
            place @ Place::Held(..) => self.place = place,
        }
        Ok(matches!(self.place, Place::Held(..)))
    }

    /// Waits until this rank holds the lease.
    ///
    /// # Errors
    ///
    /// As [`Lease::acquire`].
    ///
    /// # Cost
    ///
    /// As [`Lease::acquire`].
    pub fn wait(self) -> Result<LeaseGuard<'lease>, LeaseError> {
        self.finish(Wish::Wait(None))
    }

    /// As [`wait`](Self::wait), for at most `timeout`. After that this rank has no claim any more.
    ///
    /// # Errors
    ///
    /// As [`Lease::acquire_timeout`].
    ///
    /// # Cost
    ///
    /// As [`Lease::acquire_timeout`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<LeaseGuard<'lease>, LeaseError> {
        self.finish(Wish::Wait(Some(timeout)))
    }

    /// Gives the place up. Whether this rank had not found that it holds the lease; if it had, that is released.
    ///
    /// # Cost
    ///
    /// Two round trips to the home; if the lease was held, as [`LeaseGuard::release`].
    pub fn cancel(mut self) -> bool {
        self.give_up()
    }

    /// Goes on until it waits for others, or holds the lease.
    fn advance(&mut self, mut party: Box<Party>, turn: Turn) -> Result<(), LeaseError> {
        let mut vigil = Vigil::new(self.lease.courier.handle(), None);
        match self.lease.advance(&mut party, turn, &mut vigil) {
            Ok(Some(hold)) => {
                self.lease.note_hold();
                self.place = Place::Held(party, hold);
            }
            Ok(None) => {
                self.lease.note_request();
                self.place = Place::Waiting(party);
            }
            Err(error) => {
                self.lease.end(party, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn finish(mut self, wish: Wish) -> Result<LeaseGuard<'lease>, LeaseError> {
        let lease = self.lease;
        match std::mem::replace(&mut self.place, Place::None) {
            Place::Held(party, hold) if !lease.courier.is_over(hold) => match lease.courier.look_at_oneself() {
                Ok(()) => Ok(LeaseGuard::new(lease, party, hold)),
                Err(error) => {
                    lease.end(party, &error);
                    Err(error)
                }
            },
            // Perhaps others have followed.
            Place::Held(mut party, _) => {
                lease.note_request();
                let turn = party.lessee.renew(now_ns());
                lease.obtain_from(party, turn, wish, Instant::now())
            }
            Place::Waiting(mut party) => {
                let turn = party.lessee.look();
                lease.obtain_from(party, turn, wish, Instant::now())
            }
            // It was lost, as `test` has said.
            Place::None => lease.obtain(wish),
        }
    }

    fn give_up(&mut self) -> bool {
        let (mut party, turn, had_waited) = match std::mem::replace(&mut self.place, Place::None) {
            Place::Waiting(mut party) => {
                let turn = party.lessee.withdraw();
                (party, turn, true)
            }
            Place::Held(mut party, _) => {
                self.lease.courier.forget_hold();
                let turn = party.lessee.release();
                (party, turn, false)
            }
            Place::None => return true,
        };
        let mut vigil = Vigil::new(self.lease.courier.handle(), None);
        match self.lease.courier.drive(&mut party, turn, &mut vigil) {
            Ok(_) => self.lease.put(party),
            Err(error) => self.lease.end(party, &error),
        }
        had_waited
    }
}

impl Drop for LeaseRequest<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// Its hold is over, and another one has followed, when a thread waits for it: others of its rank hold nothing.
    #[test]
    fn who_asks_beside_a_thread_that_waits_again_is_told_that_its_rank_has_asked() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let lease_of = |rank: usize| jobs[rank].lease(&name, Duration::from_millis(500)).expect("room");
        let [here, beside, there] = [0, 0, 1].map(lease_of);
        let request = here.request().expect("it is free");
        let guard = there.hold().expect("it is over");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || request.wait().and_then(LeaseGuard::release));
            await_that("it does not wait", || there.queue() == [0]);
            let refused = beside.request().map(drop);
            guard.release().expect("it was renewed");
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
            assert!(matches!(refused, Err(LeaseError::AlreadyRequested { .. })), "{refused:?}");
        });
    }

    /// Its home is not heard for a while: whoever looks again has a place again, and the lease in the end.
    #[test]
    fn who_has_lost_its_place_asks_anew_when_it_looks_again() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let [here, there] = [0, 1].map(|rank: usize| jobs[rank].lease(&name, Duration::from_secs(600)).expect("room"));
        let guard = there.acquire().expect("it is free");
        let mut request = here.request().expect("a place");
        assert_eq!(request.test(), Ok(false));
        doubt(&jobs[0], 1, true);
        for _ in 0..3 {
            let tested = request.test();
            assert!(matches!(tested, Err(LeaseError::Unreachable { node: 1, .. })), "{tested:?}");
        }
        doubt(&jobs[0], 1, false);
        await_that("it has no place again", || request.test() == Ok(false));
        guard.release().expect("it was held");
        await_that("it is never granted", || request.test() == Ok(true));
        request.wait().expect("it is granted").release().expect("it was held");
    }
}
