//! The lease: a lock that ends by itself unless its holder renews it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::error::ObjectError;
use super::reach::Reach;
use super::site::Site;
use super::{Handle, ObjectKind, Token};
use crate::cluster::view::{self, FailureCause, Unit};
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::lease::{Fates, Hold, HoldWord, LeaseAt, Lessee, Outcome, Turn};
use crate::fabric::{Request, WordAt};
use crate::job::Job;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The shortest time to live.
const LEAST_TTL: Duration = Duration::from_millis(1);
/// How often a rank that waits looks at the home by itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A lease is renewed in the background when this part of its time to live is over.
const RENEWED_AFTER: u32 = 3;
/// The warning comes when less than this part of it is left.
const WARNED_BEFORE: u32 = 4;

/// A named lease, as one rank holds it: a lock that ends after its *time to live* unless its holder renews it.
///
/// What a lease is for: a holder that hangs, is stopped or cut off holds nobody up for longer than that, and knows by its own
/// clock for how long it surely holds ([`LeaseGuard::remaining`]). First come first served. A holder that has died is
/// followed at once, one that was only not heard of when its time is over.
///
/// # Clocks
///
/// It is assumed that no machine's clock (`CLOCK_BOOTTIME`, which counts suspension) runs wrong by more than 500 millionths.
/// The holder counts the time to live, less a thousandth, from before it asked for the renewal; the others count it, and a
/// thousandth more, from when they first saw that. Nothing is assumed of the clocks' readings, nor of how long a message
/// takes. The node where the lease is at home is no clock: its death ends the lease, and the next holder may come before
/// this one's time is over; then, as for whoever looks at its clock and writes later, the token fences
/// ([`super::Fenced`]).
///
/// ```
/// use std::time::Duration;
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let lease = job.lease("compactor", Duration::from_secs(5))?;
/// let (held, state) = (lease.hold()?, job.fenced::<u64>("state")?);
/// while !held.is_expiring() {
///     state.write(held.token(), 7)?;
///     # break
/// }
/// held.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Lease {
    courier: Courier,
    at: LeaseAt,
    /// Where it stands what its tokens begin with.
    base_at: WordAt,
    desk: Arc<Desk>,
    _handle: Handle,
}

/// What a rank's handles of a lease share.
#[derive(Debug, Default)]
struct Desk {
    /// 1 while one of its threads acquires or holds it.
    is_used: AtomicU32,
    /// The hold as it left it.
    seen: AtomicU64,
    /// What the tokens of this lease begin with.
    base: OnceLock<u64>,
}

/// Carries requests to a lease's home, for its holder and the thread that renews.
#[derive(Clone, Debug)]
struct Courier {
    site: Site,
    name: Arc<str>,
    ttl: Duration,
}

/// Why a lease was not acquired, renewed or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// This rank holds it already, or another of its threads is about to.
    #[error("rank {rank} holds the lease {name:?} already, or asks for it (remedy: release it first)")]
    AlreadyHeld {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
    },
    /// The time is over. This rank has no claim any more.
    #[error(
        "rank {rank} did not get the lease {name:?} in {waited:.1?}: {} (remedy: allow more than its time to live)", who(*.holder)
    )]
    TimedOut {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// For how long it was waited for.
        waited: Duration,
        /// Who holds it.
        holder: Option<usize>,
    },
    /// The lease was not renewed in time, and others have had it since.
    #[error(
        "rank {rank} has lost the lease {name:?} that it held with token {token}: {} now (remedy: renew sooner, or name a longer time to live; what was written meanwhile is to be fenced by the token)", who(*.holder)
    )]
    Expired {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// Of this rank's grant.
        token: Token,
        /// Who has it now.
        holder: Option<usize>,
    },
    /// The node where the lease is at home is lost to the job, and with it who held it and who waited.
    #[error(
        "rank {rank} neither holds the lease {name:?} nor has a claim any more: its home, node {home}, is lost to the job (remedy: drop the handle and open the name again)"
    )]
    HomeLost {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// Where it was at home.
        home: usize,
    },
    /// This rank has been declared failed: the others go on without it.
    #[error(
        "rank {rank} was declared failed in epoch {epoch} ({cause}), and does not hold the lease {name:?} (remedy: end this process; if it was only stopped, allow longer silences with PHALANX_FAILURE_TIMEOUT_MS)"
    )]
    Excluded {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// The epoch; 0 where it is not known.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
    /// There is no thread that could renew it in the background.
    #[error("rank {rank}: no thread to renew the lease {name:?}: {why} (remedy: allow more threads, or renew by hand)")]
    NoThread {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// What the kernel says.
        why: String,
    },
}

fn who(holder: Option<usize>) -> String {
    holder.map_or("nobody holds it".to_owned(), |rank| format!("rank {rank} holds it"))
}

impl Job {
    /// The lease of a name, the same for all ranks, which all name the same time to live, of at least a millisecond. It
    /// exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`ObjectError::OtherParameter`]: another time to live, in microseconds.
    pub fn lease(&self, name: &str, ttl: Duration) -> Result<Lease, ObjectError> {
        let micros = u64::try_from(ttl.max(LEAST_TTL).as_micros()).unwrap_or(u64::MAX / 2000).min(u64::MAX / 2000);
        let nature = Nature { kind: ObjectKind::Lease, parameter: micros };
        let handle = Handle::open(self.membership(), name, nature)?;
        let site = handle.site.clone();
        let at = LeaseAt::of(&handle.at_home, site.reach.topology.ranks());
        let (base_at, desk) = (handle.at_home.home().numbers, site.reach.uses.shared_at(handle.at.key()));
        let courier = Courier { site, name: name.into(), ttl: Duration::from_micros(micros) };
        Ok(Lease { courier, at, base_at, desk, _handle: handle })
    }
}

impl Lease {
    /// The lease's name.
    pub fn name(&self) -> &str {
        &self.courier.name
    }

    /// Its time to live.
    pub fn ttl(&self) -> Duration {
        self.courier.ttl
    }

    /// Waits until this rank holds the lease, which it then renews by hand ([`LeaseGuard::renew`]).
    ///
    /// Cost: one or two round trips to the home, or their memory accesses, if it is free.
    ///
    /// # Errors
    ///
    /// [`LeaseError::AlreadyHeld`], [`LeaseError::HomeLost`], [`LeaseError::Excluded`].
    pub fn acquire(&self) -> Result<LeaseGuard<'_>, LeaseError> {
        self.obtain(Wish::Wait(None))
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`. After that this rank has no claim any more.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`LeaseError::TimedOut`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<LeaseGuard<'_>, LeaseError> {
        self.obtain(Wish::Wait(Some(timeout)))
    }

    /// Acquires the lease if nobody holds it, or who does has died.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Result<Option<LeaseGuard<'_>>, LeaseError> {
        match self.obtain(Wish::AtOnce) {
            Ok(guard) => Ok(Some(guard)),
            Err(LeaseError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until this rank holds the lease, and has a thread renew it, whenever a third of its time to live is over, until
    /// the guard is dropped. Whether that works the guard tells: [`LeaseGuard::is_expiring`].
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`LeaseError::NoThread`].
    pub fn hold(&self) -> Result<LeaseGuard<'_>, LeaseError> {
        let mut guard = self.acquire()?;
        guard.keep()?;
        Ok(guard)
    }

    fn obtain(&self, wish: Wish) -> Result<LeaseGuard<'_>, LeaseError> {
        // Acquire and Release pair with `leave`: the thread before this one is through.
        if self.desk.is_used.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            let (rank, name) = (self.courier.rank(), self.name().to_owned());
            return Err(LeaseError::AlreadyHeld { rank, name });
        }
        self.obtain_alone(wish).inspect_err(|_| self.leave(HoldWord(0)))
    }

    fn obtain_alone(&self, wish: Wish) -> Result<LeaseGuard<'_>, LeaseError> {
        let courier = &self.courier;
        let begun = Instant::now();
        let limit = match wish {
            Wish::Wait(Some(timeout)) => begun.checked_add(timeout),
            _ => None,
        };
        let base = self.base()?;
        let mut lessee = Lessee::new(self.at, courier.rank(), courier.ttl_ns());
        loop {
            let seen = HoldWord(self.desk.seen.load(Ordering::Relaxed));
            let turn = match wish {
                Wish::Wait(_) => lessee.acquire(seen, now_ns()),
                Wish::AtOnce => lessee.try_acquire(seen, now_ns()),
            };
            match courier.drive(&mut lessee, turn, limit)? {
                Outcome::Held(hold) if courier.is_over(hold) => {
                    // It was named long ago: perhaps others have followed.
                    let turn = lessee.renew(now_ns());
                    if let Outcome::Held(hold) = courier.drive(&mut lessee, turn, None)? {
                        return Ok(self.guard(lessee, hold, base));
                    }
                }
                Outcome::Held(hold) => return Ok(self.guard(lessee, hold, base)),
                Outcome::Free(holder) => {
                    let (rank, name) = (courier.rank(), self.name().to_owned());
                    return Err(LeaseError::TimedOut { rank, name, waited: begun.elapsed(), holder });
                }
                Outcome::Lost(_) => {}
            }
        }
    }

    /// What its tokens begin with: the object's number.
    fn base(&self) -> Result<u64, LeaseError> {
        if let Some(base) = self.desk.base.get() {
            return Ok(*base);
        }
        let base = self.courier.read(self.base_at)?;
        Ok(*self.desk.base.get_or_init(|| base))
    }

    fn guard(&self, lessee: Lessee, hold: Hold, base: u64) -> LeaseGuard<'_> {
        let courier = self.courier.clone();
        let token = Token(base + hold.word.number());
        let until = AtomicU64::new(hold.until(courier.ttl_ns()));
        let tenure = Tenure { courier, token, until, state: Mutex::new(TenureState::of(lessee)), bell: Condvar::new() };
        LeaseGuard { lease: self, tenure: Arc::new(tenure), keeper: None, is_open: true }
    }

    /// This rank has nothing to do with it any more. `seen`: the hold.
    fn leave(&self, seen: HoldWord) {
        self.desk.seen.store(seen.0, Ordering::Relaxed);
        self.desk.is_used.store(0, Ordering::Release);
    }
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    AtOnce,
    Wait(Option<Duration>),
}

impl Courier {
    fn rank(&self) -> usize {
        self.site.reach.rank
    }

    fn ttl_ns(&self) -> u64 {
        u64::try_from(self.ttl.as_nanos()).expect("as `Job::lease` has it")
    }

    fn is_over(&self, hold: Hold) -> bool {
        now_ns() >= hold.until(self.ttl_ns())
    }

    /// Does what a lessee wants until it has come to an end; gives its claim up at `limit`.
    fn drive(&self, lessee: &mut Lessee, mut turn: Turn, limit: Option<Instant>) -> Result<Outcome, LeaseError> {
        let reach = &self.site.reach;
        // What is waited for is noted before it is looked at.
        let mut noted = (reach.load(reach.poked_at()), reach.alarm());
        loop {
            if let Some(rank) = lessee.take_named() {
                reach.poke(rank);
            }
            turn = match turn {
                Turn::Over(outcome) => return Ok(outcome),
                Turn::Ask(requests) => {
                    noted = (reach.load(reach.poked_at()), reach.alarm());
                    match self.site.ask(&requests) {
                        Ok(answers) => lessee.answered(&answers, now_ns(), &Neighbours(reach)),
                        Err(SiteFault::Broken { .. }) => lessee.broken(),
                        Err(fault) => return Err(self.error(fault)),
                    }
                }
                Turn::Wait => {
                    self.look_at_oneself()?;
                    let left = limit.map_or(LOOK_EVERY, |limit| limit.saturating_duration_since(Instant::now()));
                    if left.is_zero() {
                        lessee.withdraw()
                    } else {
                        let follows = lessee.follows_at().map_or(u64::MAX, |time| time.saturating_sub(now_ns()));
                        let timeout = left.min(LOOK_EVERY).min(Duration::from_nanos(follows.max(1)));
                        reach.sleep(reach.poked_at(), noted.0, noted.1, timeout);
                        lessee.look()
                    }
                }
            };
        }
    }

    fn read(&self, at: WordAt) -> Result<u64, LeaseError> {
        loop {
            match self.site.ask(&[Request::Read { at }]) {
                Ok(answers) => return Ok(answers[0]),
                Err(SiteFault::Broken { .. }) => {}
                Err(fault) => return Err(self.error(fault)),
            }
        }
    }

    fn look_at_oneself(&self) -> Result<(), LeaseError> {
        match self.site.reach.own_end() {
            Some(_) => Err(self.error(SiteFault::Excluded)),
            None => Ok(()),
        }
    }

    fn error(&self, fault: SiteFault) -> LeaseError {
        let (rank, name) = (self.rank(), self.name.to_string());
        match fault {
            SiteFault::Lost { home } | SiteFault::Broken { home } => LeaseError::HomeLost { rank, name, home },
            SiteFault::Excluded => {
                let (epoch, cause) = self.site.reach.own_end().unwrap_or((0, FailureCause::Silent));
                LeaseError::Excluded { rank, name, epoch, cause }
            }
        }
    }
}

/// The job's ranks, as this one knows them.
struct Neighbours<'reach>(&'reach Reach);

impl Neighbours<'_> {
    /// Why a rank takes part no more.
    fn cause(&self, rank: usize) -> Option<FailureCause> {
        let (segment, layout) = (&*self.0.segment, self.0.segment.layout());
        let node = self.0.topology.node_of(rank);
        if node == self.0.here() {
            return view::end_of(segment, &layout, self.0.topology.local_of(rank)).map(|end| end.cause);
        }
        let epochs = 1..=view::epoch(segment, &layout);
        let mut lost = epochs.filter_map(|epoch| view::obituary(segment, &layout, epoch));
        let of_it = lost.find(|lost| lost.unit == Unit::Rank(rank) || lost.unit == Unit::Node(node));
        match of_it {
            Some(lost) => Some(lost.cause),
            None => self.0.has_lost(node).then_some(FailureCause::Left),
        }
    }
}

impl Fates for Neighbours<'_> {
    fn has_ended(&self, rank: usize) -> bool {
        self.0.has_ended(rank)
    }

    fn is_dead(&self, rank: usize) -> bool {
        match self.cause(rank) {
            // It may come back, and then goes by its clock.
            None | Some(FailureCause::Stopped | FailureCause::Silent) => false,
            Some(_) => true,
        }
    }
}

/// The time of this machine, in nanoseconds, suspension included.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanos
}

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
    lessee: Option<Lessee>,
    lost: Option<LeaseError>,
    is_over: bool,
    /// The lessee is with whoever releases it, for good.
    is_taken_back: bool,
}

impl TenureState {
    fn of(lessee: Lessee) -> Self {
        Self { lessee: Some(lessee), lost: None, is_over: false, is_taken_back: false }
    }
}

impl Tenure {
    fn lock(&self) -> MutexGuard<'_, TenureState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lessee, for this thread alone; `None` once it is released.
    fn take_lessee(&self) -> Result<Option<Lessee>, LeaseError> {
        let mut state = self.lock();
        loop {
            if let Some(lost) = &state.lost {
                return Err(lost.clone());
            }
            if let Some(lessee) = state.lessee.take() {
                return Ok(Some(lessee));
            }
            if state.is_taken_back {
                return Ok(None);
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn renew(&self) -> Result<(), LeaseError> {
        let Some(mut lessee) = self.take_lessee()? else { return Ok(()) };
        let renewed = self.courier.look_at_oneself().and_then(|()| {
            let turn = lessee.renew(now_ns());
            self.courier.drive(&mut lessee, turn, None)
        });
        let mut state = self.lock();
        let lost = match renewed {
            Ok(Outcome::Held(hold)) => {
                self.until.store(hold.until(self.courier.ttl_ns()), Ordering::Relaxed);
                state.lessee = Some(lessee);
                None
            }
            Ok(Outcome::Lost(holder) | Outcome::Free(holder)) => Some(self.expired(holder)),
            Err(error) => Some(error),
        };
        if lost.is_some() {
            self.until.store(0, Ordering::Relaxed);
            state.lost.clone_from(&lost);
        }
        drop(state);
        self.bell.notify_all();
        lost.map_or(Ok(()), Err)
    }

    /// Releases it; gives what the hold may be then.
    fn release(&self) -> Result<HoldWord, LeaseError> {
        self.lock().is_over = true;
        self.bell.notify_all();
        let mut lessee = self.take_lessee()?.expect("it is released once");
        // The keeper may be about to renew it: it waits for the lessee no more.
        self.lock().is_taken_back = true;
        self.bell.notify_all();
        self.until.store(0, Ordering::Relaxed);
        self.courier.look_at_oneself()?;
        let turn = lessee.release();
        match self.courier.drive(&mut lessee, turn, None)? {
            Outcome::Free(_) | Outcome::Held(_) => Ok(lessee.freed()),
            Outcome::Lost(holder) => Err(self.expired(holder)),
        }
    }

    fn remaining(&self) -> Duration {
        let reach = &self.courier.site.reach;
        if reach.own_end().is_some() || reach.has_lost(self.courier.site.home) {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.until.load(Ordering::Relaxed).saturating_sub(now_ns()))
    }

    /// Until the warning comes.
    fn calm(&self) -> Duration {
        self.remaining().saturating_sub(self.courier.ttl / WARNED_BEFORE)
    }

    fn expired(&self, holder: Option<usize>) -> LeaseError {
        let (rank, name) = (self.courier.rank(), self.courier.name.to_string());
        LeaseError::Expired { rank, name, token: self.token, holder }
    }

    /// Renews again and again, until it is over or lost.
    fn keep(&self) {
        let pause = self.courier.ttl / RENEWED_AFTER;
        loop {
            let state = self.lock();
            let goes_on = |state: &mut TenureState| !state.is_over && state.lost.is_none();
            let (state, waited) =
                self.bell.wait_timeout_while(state, pause, goes_on).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() || self.renew().is_err() {
                return;
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

impl LeaseGuard<'_> {
    /// The number of this grant: greater than that of each earlier one.
    pub fn token(&self) -> Token {
        self.tenure.token
    }

    /// For how long this rank surely holds the lease yet, by its own clock, whatever happens but its home's death. Zero:
    /// others may have it.
    pub fn remaining(&self) -> Duration {
        self.tenure.remaining()
    }

    /// Whether less than a quarter of the time to live is left: time to renew, or to come to an end.
    pub fn is_expiring(&self) -> bool {
        self.tenure.calm().is_zero()
    }

    /// Waits until the lease [is expiring](Self::is_expiring), for at most `timeout`; whether it is. While it is renewed in
    /// the background it only is if that fails.
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

    /// Renews the lease: its time to live begins anew. Where its time was over and nobody else has had it since, it is held
    /// again.
    ///
    /// Cost: one round trip to the home.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Expired`], [`LeaseError::HomeLost`], [`LeaseError::Excluded`]: it is held no more.
    pub fn renew(&self) -> Result<(), LeaseError> {
        self.tenure.renew()
    }

    /// Has a thread renew the lease from now on, as [`Lease::hold`].
    ///
    /// # Errors
    ///
    /// [`LeaseError::NoThread`].
    pub fn keep(&mut self) -> Result<(), LeaseError> {
        if self.keeper.is_some() {
            return Ok(());
        }
        let tenure = Arc::clone(&self.tenure);
        let started = std::thread::Builder::new().name("phalanx-lease".to_owned()).spawn(move || tenure.keep());
        let courier = &self.tenure.courier;
        self.keeper = Some(started.map_err(|error| {
            let (rank, name) = (courier.rank(), courier.name.to_string());
            LeaseError::NoThread { rank, name, why: error.to_string() }
        })?);
        Ok(())
    }

    /// Releases the lease, and tells whether this rank held it to the end.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Expired`], [`LeaseError::HomeLost`], [`LeaseError::Excluded`]: it did not, or it cannot be told.
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
        self.lease.leave(released.as_ref().map_or(HoldWord(0), |seen| *seen));
        released.map(drop)
    }
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.give_up();
    }
}
