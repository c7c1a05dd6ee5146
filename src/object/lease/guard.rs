//! A hold of a lease: the guard that its holder has, and the thread that renews it.
//!
//! Both share the *tenure*, where the rank's party lies while neither of them asks the home.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::courier::{Courier, Party, now_ns};
use super::{Lease, LeaseError};
use crate::coord::objects::lease::{Hold, Outcome};
use crate::object::Token;
use crate::object::vigil::Vigil;
use crate::sync::{AtomicU64, Ordering};

/// How often a rank that waits for the warning looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A lease is renewed in the background when this part of its time to live is over.
const RENEWED_AFTER: u32 = 3;
/// The warning comes when less than this part of it is left.
const WARNED_BEFORE: u32 = 4;

/// A hold, for the guard and the thread that renews.
#[derive(Debug)]
struct Tenure {
    courier: Courier,
    token: Token,
    /// In nanoseconds; 0: it is lost.
    until: AtomicU64,
    state: Mutex<TenureState>,
    /// Rung when it is lost or over.
    bell: Condvar,
}

#[derive(Debug)]
struct TenureState {
    /// `None` while a thread asks the home.
    party: Option<Box<Party>>,
    lost: Option<LeaseError>,
    is_over: bool,
    /// The party is with whoever releases it, for good.
    is_taken_back: bool,
}

impl TenureState {
    fn of(party: Box<Party>) -> Self {
        Self { party: Some(party), lost: None, is_over: false, is_taken_back: false }
    }
}

impl Tenure {
    fn lock(&self) -> MutexGuard<'_, TenureState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The party, for this thread alone; `None` once it is released.
    fn take_party(&self) -> Result<Option<Box<Party>>, LeaseError> {
        let mut state = self.lock();
        loop {
            if let Some(lost) = &state.lost {
                return Err(lost.clone());
            }
            if let Some(party) = state.party.take() {
                return Ok(Some(party));
            }
            if state.is_taken_back {
                return Ok(None);
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn renew(&self) -> Result<(), LeaseError> {
        let Some(mut party) = self.take_party()? else { return Ok(()) };
        let renewed = self.courier.look_at_oneself().and_then(|()| {
            let turn = match party.lessee.held() {
                Some(_) => party.lessee.renew(now_ns()),
                // The home has not answered last time.
                None => party.lessee.broken(),
            };
            self.courier.drive(&mut party, turn, &mut Vigil::new(self.courier.handle(), None))
        });
        let mut state = self.lock();
        let lost = match renewed {
            Ok(Outcome::Held(hold)) => {
                self.until.store(hold.until(self.courier.ttl_ns()), Ordering::Relaxed);
                state.party = Some(party);
                None
            }
            Ok(Outcome::Lost(holder) | Outcome::Free(holder)) => Some(self.expired(holder)),
            Err(error @ (LeaseError::Unreachable { .. } | LeaseError::NoRoom { .. })) => {
                // What the home has granted lasts as long as it was to last, and may be renewed when that is heard
                // again.
                state.party = Some(party);
                drop(state);
                self.bell.notify_all();
                return Err(error);
            }
            Err(error) => Some(error),
        };
        if lost.is_some() {
            self.courier.show_no_more();
            self.until.store(0, Ordering::Relaxed);
            state.lost.clone_from(&lost);
        }
        drop(state);
        self.bell.notify_all();
        lost.map_or(Ok(()), Err)
    }

    /// Releases it.
    fn release(&self) -> Result<Box<Party>, LeaseError> {
        self.lock().is_over = true;
        self.bell.notify_all();
        let mut party = self.take_party()?.expect("it is released once");
        // The keeper may be about to renew it: it waits for the party no more.
        self.lock().is_taken_back = true;
        self.bell.notify_all();
        self.until.store(0, Ordering::Relaxed);
        self.courier.show_no_more();
        self.courier.look_at_oneself()?;
        self.courier.forget_hold();
        let turn = match party.lessee.held() {
            Some(_) => party.lessee.release(),
            // Whether it was renewed last time is not known.
            None => party.lessee.withdraw(),
        };
        match self.courier.drive(&mut party, turn, &mut Vigil::new(self.courier.handle(), None))? {
            Outcome::Free(None) | Outcome::Held(_) => Ok(party),
            Outcome::Free(holder) | Outcome::Lost(holder) => Err(self.expired(holder)),
        }
    }

    fn remaining(&self) -> Duration {
        if self.courier.reach().own_end().is_some() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.until.load(Ordering::Relaxed).saturating_sub(now_ns()))
    }

    /// Until the warning comes.
    fn calm(&self) -> Duration {
        self.remaining().saturating_sub(self.courier.ttl() / WARNED_BEFORE)
    }

    fn expired(&self, holder: Option<usize>) -> LeaseError {
        let (rank, name) = (self.courier.rank(), self.courier.name().to_owned());
        LeaseError::Expired { rank, name, token: self.token, holder }
    }

    /// Renews again and again, until it is over or lost.
    fn keep(&self) {
        let ttl = self.courier.ttl();
        // Part of it may be over.
        let mut pause = self.remaining().saturating_sub(ttl - ttl / RENEWED_AFTER);
        loop {
            let state = self.lock();
            let goes_on = |state: &mut TenureState| !state.is_over && state.lost.is_none();
            let (state, waited) =
                self.bell.wait_timeout_while(state, pause, goes_on).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() {
                return;
            }
            pause = ttl / RENEWED_AFTER;
            match self.renew() {
                Ok(()) | Err(LeaseError::Unreachable { .. } | LeaseError::NoRoom { .. }) => {}
                Err(_) => return,
            }
        }
    }
}

/// Holds a lease until it is dropped, is released, or ends by itself.
#[derive(Debug)]
#[must_use = "the lease is released when this is dropped"]
pub struct LeaseGuard<'lease> {
    lease: &'lease Lease,
    tenure: Arc<Tenure>,
    keeper: Option<JoinHandle<()>>,
    is_open: bool,
}

impl<'lease> LeaseGuard<'lease> {
    /// Of a hold that this rank has come to have; shown to those who look from outside.
    pub(super) fn new(lease: &'lease Lease, party: Box<Party>, hold: Hold) -> Self {
        let courier = lease.courier.clone();
        let token = Token(hold.token);
        courier.show(token);
        let until = AtomicU64::new(hold.until(courier.ttl_ns()));
        let tenure = Tenure { courier, token, until, state: Mutex::new(TenureState::of(party)), bell: Condvar::new() };
        Self { lease, tenure: Arc::new(tenure), keeper: None, is_open: true }
    }
}

impl LeaseGuard<'_> {
    /// The number of this grant: greater than that of each earlier one, also where the lease has moved to another home
    /// since, or has gone and was opened anew. It stays the same for as long as this guard holds the lease.
    pub fn token(&self) -> Token {
        self.tenure.token
    }

    /// For how long this rank surely holds the lease yet, by its own clock. Zero: others may have it.
    ///
    /// # Cost
    ///
    /// The clock is read, and nobody is asked.
    pub fn remaining(&self) -> Duration {
        self.tenure.remaining()
    }

    /// Whether less than a quarter of the time to live is left: time to renew, or to come to an end.
    ///
    /// # Cost
    ///
    /// As [`remaining`](Self::remaining).
    pub fn is_expiring(&self) -> bool {
        self.tenure.calm().is_zero()
    }

    /// Waits until the lease [is expiring](Self::is_expiring), for at most `timeout`; whether it is. While it is
    /// renewed in the background it only is if that fails.
    ///
    /// # Cost
    ///
    /// It sleeps, and every 20 ms does what [`remaining`](Self::remaining) does.
    pub fn wait_for_warning(&self, timeout: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let (calm, left) = (self.tenure.calm(), timeout.saturating_sub(begun.elapsed()));
            if calm.is_zero() || left.is_zero() {
                return calm.is_zero();
            }
            let pause = calm.min(left).min(LOOK_EVERY);
            let state = self.tenure.lock();
            drop(self.tenure.bell.wait_timeout(state, pause));
        }
    }

    /// Renews the lease: its time to live begins anew. Where its time was over and nobody else has had it since, it is
    /// held again.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Expired`], [`LeaseError::Excluded`]: it is held no more. [`LeaseError::Unreachable`],
    /// [`LeaseError::NoRoom`]: it was not renewed; it is held for what [remains](Self::remaining), and another call
    /// may renew it.
    ///
    /// # Cost
    ///
    /// One round trip to the home.
    pub fn renew(&self) -> Result<(), LeaseError> {
        self.tenure.renew()
    }

    /// Has a thread renew the lease from now on, as [`Lease::hold`].
    ///
    /// # Errors
    ///
    /// [`LeaseError::NoThread`].
    ///
    /// # Cost
    ///
    /// A thread is started; see [`Lease::hold`].
    pub fn keep(&mut self) -> Result<(), LeaseError> {
        if self.keeper.is_some() {
            return Ok(());
        }
        let tenure = Arc::clone(&self.tenure);
        let started = std::thread::Builder::new().name("phalanx-lease".to_owned()).spawn(move || tenure.keep());
        let courier = &self.tenure.courier;
        self.keeper = Some(started.map_err(|error| {
            let (rank, name) = (courier.rank(), courier.name().to_owned());
            LeaseError::NoThread { rank, name, why: error.to_string() }
        })?);
        Ok(())
    }

    /// Releases the lease, and tells whether this rank held it to the end.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Expired`], [`LeaseError::Excluded`], [`LeaseError::Unreachable`]: it did not, or it cannot be
    /// told.
    ///
    /// # Cost
    ///
    /// One round trip to the home if nobody has come to wait, else two (the claims are read, 64 ranks in each round
    /// trip, then the lease is passed on). Where a thread renews it, also that thread's end.
    pub fn release(mut self) -> Result<(), LeaseError> {
        self.give_up()
    }

    fn give_up(&mut self) -> Result<(), LeaseError> {
        if !std::mem::replace(&mut self.is_open, false) {
            return Ok(());
        }
        let released = self.tenure.release();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        let lease = self.lease;
        released.map(|party| lease.put(party)).inspect_err(|error| lease.leave_behind(error))
    }
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.give_up();
    }
}
