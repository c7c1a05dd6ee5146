//! The lease: a lock that ends by itself unless its holder renews it.
//!
//! A rank's handles share a *desk*, on which its part in the lease lies while nobody has it: with a *courier*, who asks
//! the home (`lease/courier.rs`), it goes to whoever acquires, then to the guard, and there to the holder's thread or
//! the one that renews (`lease/guard.rs`). Who does not wait has a request (`lease/request.rs`). What can go wrong:
//! `lease/error.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::courier::{Courier, Party, Recalling, now_ns};
pub(super) use self::courier::{carry_hold, is_held};
pub use self::error::LeaseError;
pub use self::guard::LeaseGuard;
pub use self::request::LeaseRequest;
use super::error::ObjectError;
use super::homes::Home;
use super::vigil::Vigil;
use super::{Handle, ObjectKind, errands, named, not_opened};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::lease::{Hold, LeaseAt, Outcome, Turn};
use crate::coord::objects::name::Name;
use crate::fabric::Request;
use crate::job::{Job, Membership};

mod courier;
mod error;
mod guard;
mod request;

/// The shortest time to live.
const LEAST_TTL: Duration = Duration::from_millis(1);

/// A named lease (Gray and Cheriton 1989), as one rank holds it: a lock that ends after its *time to live* unless its
/// holder renews it.
///
/// What a lease is for: a holder that hangs, is stopped or cut off holds nobody up for longer than that, and knows by
/// its own clock for how long it surely holds ([`LeaseGuard::remaining`]). First come first served. A holder that has
/// died is followed at once, one that was only not heard of when its time is over.
///
/// # Clocks
///
/// It is assumed that no machine's clock (`CLOCK_BOOTTIME`, which counts suspension) runs wrong by more than 500
/// millionths. The holder counts the time to live, less a thousandth, from before it asked for the renewal; the others
/// count it, and a thousandth more, from when they first saw that. Nothing is assumed of the clocks' readings, nor of
/// how long a message takes.
///
/// # The home's death
///
/// A lease outlives the node where it is at home. A holder on another node goes on holding it, under the same token;
/// calls that are under way wait until it has moved, while the holder's time goes on; who waits, waits on, in no
/// particular order. A holder that has died with the home is followed at once. Where the job has only not heard of a
/// node any more, a rank of it may have held the lease: then the next holder comes a time to live and a thousandth
/// after the move. (Where a holder is cut off *together with* the home it may renew the lease there until it learns
/// that the job goes on without it. Then, as for whoever looks at its clock and writes later, the token fences:
/// [`super::Fenced`].)
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
    // Dropped before the courier's handle: when the place is another object's, nobody is to find this desk.
    desk: Arc<Desk>,
    courier: Courier,
}

/// What a rank's handles of a lease share.
#[derive(Debug, Default)]
struct Desk(Mutex<Slot>);

/// Where the rank's party is.
#[derive(Debug, Default)]
enum Slot {
    /// None has been made.
    #[default]
    Empty,
    /// Here: nobody acquires the lease or holds it.
    Kept(Box<Party>),
    /// With the thread that acquires it, or the request.
    Asking,
    /// With the guard, or the request that has found that it holds it.
    Holding,
    /// None, and what this rank has left at the home is to be taken back first.
    Left,
}

impl Desk {
    /// What there is, which then is with the caller, unless it is with somebody else, or something was left at the
    /// home.
    fn take(&self) -> Slot {
        let mut slot = self.lock();
        match *slot {
            Slot::Empty | Slot::Kept(_) => std::mem::replace(&mut *slot, Slot::Asking),
            Slot::Asking => Slot::Asking,
            Slot::Holding => Slot::Holding,
            Slot::Left => Slot::Left,
        }
    }

    fn put(&self, slot: Slot) {
        *self.lock() = slot;
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // No code panics while it holds it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// The lease of a name, the same for all ranks, which all name the same time to live, in whole microseconds: a
    /// millisecond at least, as which less counts. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`ObjectError::OtherParameter`]: another time to live, in microseconds.
    ///
    /// # Cost
    ///
    /// As [`counter`](Self::counter), without copies; in a job of several nodes a round trip more, by which it is known
    /// that the home has what earlier ones had.
    pub fn lease(&self, name: &str, ttl: Duration) -> Result<Lease, ObjectError> {
        let kind = ObjectKind::Lease;
        Lease::open(self.membership(), named(self.rank(), kind.name(), name)?, kind, ttl)
    }
}

impl Lease {
    /// The lease that is an object of this kind, or its part.
    pub(super) fn open(
        membership: &Arc<Membership>,
        name: Name,
        kind: ObjectKind,
        ttl: Duration,
    ) -> Result<Self, ObjectError> {
        let micros = u64::try_from(ttl.max(LEAST_TTL).as_micros()).unwrap_or(u64::MAX / 2000).min(u64::MAX / 2000);
        let handle = Arc::new(Handle::open_as(membership, name, Nature { kind, parameter: micros })?);
        let desk: Arc<Desk> = handle.membership.reach.uses.shared_at(handle.at.key());
        let lease = Self { courier: Courier::new(handle, Duration::from_micros(micros)), desk };
        lease.meet_home()?;
        Ok(lease)
    }

    pub(super) fn handle(&self) -> &Handle {
        self.courier.handle()
    }

    /// If this rank has been declared failed, it has neither the lease nor a claim.
    pub(super) fn look_at_oneself(&self) -> Result<(), LeaseError> {
        self.courier.look_at_oneself()
    }

    /// The lease's name.
    pub fn name(&self) -> &str {
        self.courier.name()
    }

    /// Its time to live.
    pub fn ttl(&self) -> Duration {
        self.courier.ttl()
    }

    /// Waits until this rank holds the lease, which it then renews by hand ([`LeaseGuard::renew`]).
    ///
    /// # Errors
    ///
    /// [`LeaseError::AlreadyHeld`], [`LeaseError::AlreadyRequested`], [`LeaseError::Unreachable`],
    /// [`LeaseError::NoRoom`], [`LeaseError::Excluded`].
    ///
    /// # Cost
    ///
    /// One or two round trips to the home, or their memory accesses, if it is free. Else until it is released, its
    /// holder ends, or its time is over.
    pub fn acquire(&self) -> Result<LeaseGuard<'_>, LeaseError> {
        self.obtain(Wish::Wait(None))
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`. After that this rank has no claim any more.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`LeaseError::TimedOut`].
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire); where the time is over a round trip or two more, by which the claim is taken
    /// back.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<LeaseGuard<'_>, LeaseError> {
        self.obtain(Wish::Wait(Some(timeout)))
    }

    /// Acquires the lease if nobody holds it, or who does has died, or has not renewed it for its time to live since
    /// this rank has first looked.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cost
    ///
    /// One or two round trips to the home, or their memory accesses.
    pub fn try_acquire(&self) -> Result<Option<LeaseGuard<'_>>, LeaseError> {
        match self.obtain(Wish::AtOnce) {
            Ok(guard) => Ok(Some(guard)),
            Err(LeaseError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the lease without waiting: this rank has its place among those who wait, or holds it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cost
    ///
    /// One or two round trips to the home, or their memory accesses, if it is free; else three.
    pub fn request(&self) -> Result<LeaseRequest<'_>, LeaseError> {
        LeaseRequest::new(self, self.take_party()?)
    }

    /// The ranks that wait for the lease, on all nodes, in their order; none where its home does not answer.
    pub(super) fn queue(&self) -> Vec<usize> {
        let reach = self.courier.reach();
        let home = Home::of(reach, &self.handle().at);
        let at = LeaseAt::of(&home.at, reach.topology.ranks(), false);
        let reads: Vec<Request> = (0..at.ranks).map(|rank| Request::Read { at: at.claim(rank) }).collect();
        let claims = home.site.ask(&reads).unwrap_or_default();
        let mut waiting: Vec<(u64, usize)> = claims.into_iter().zip(0..).filter(|(claim, _)| *claim != 0).collect();
        waiting.retain(|(_, rank)| !reach.has_ended(*rank));
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, rank)| rank).collect()
    }

    /// Waits until this rank holds the lease, and has a thread renew it, whenever a third of its time to live is over,
    /// until the guard is dropped. Whether that works the guard tells: [`LeaseGuard::is_expiring`].
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`LeaseError::NoThread`].
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire), and a thread is started; then, three times in each time to live, what
    /// [`LeaseGuard::renew`] costs, in that thread.
    pub fn hold(&self) -> Result<LeaseGuard<'_>, LeaseError> {
        let mut guard = self.acquire()?;
        guard.keep()?;
        Ok(guard)
    }

    /// Where no party is there: one that knows the home, as soon as that can be asked.
    fn meet_home(&self) -> Result<(), ObjectError> {
        if matches!(*self.desk.lock(), Slot::Empty) {
            let party = self.courier.party().map_err(|source| not_opened(self.courier.handle(), source))?;
            let mut slot = self.desk.lock();
            if matches!(*slot, Slot::Empty) {
                *slot = Slot::Kept(party);
            }
        }
        Ok(())
    }

    /// This rank's party, for the caller alone.
    fn take_party(&self) -> Result<Box<Party>, LeaseError> {
        match self.desk_after_errand()? {
            Slot::Kept(party) => Ok(party),
            Slot::Empty => self.courier.party().map_err(LeaseError::from).inspect_err(|_| self.desk.put(Slot::Empty)),
            Slot::Holding => Err(LeaseError::AlreadyHeld { rank: self.courier.rank(), name: self.name().to_owned() }),
            Slot::Asking | Slot::Left => {
                Err(LeaseError::AlreadyRequested { rank: self.courier.rank(), name: self.name().to_owned() })
            }
        }
    }

    /// This rank, which has the party, holds the lease.
    fn note_hold(&self) {
        self.desk.put(Slot::Holding);
    }

    /// It does not hold it yet, or not any more.
    fn note_request(&self) {
        self.desk.put(Slot::Asking);
    }

    /// Gives the party back, which has neither the lease nor a claim.
    fn put(&self, party: Box<Party>) {
        self.desk.put(Slot::Kept(party));
    }

    /// A call that had the party has failed.
    fn end(&self, party: Box<Party>, error: &LeaseError) {
        match party.lessee.is_idle() && matches!(error, LeaseError::TimedOut { .. }) {
            true => self.put(party),
            false => self.leave_behind(error),
        }
    }

    fn obtain(&self, wish: Wish) -> Result<LeaseGuard<'_>, LeaseError> {
        let mut party = self.take_party()?;
        let begun = Instant::now();
        let turn = wish.begin(&mut party);
        self.obtain_from(party, turn, wish, begun)
    }

    fn obtain_from(
        &self,
        mut party: Box<Party>,
        turn: Turn,
        wish: Wish,
        begun: Instant,
    ) -> Result<LeaseGuard<'_>, LeaseError> {
        match self.win(&mut party, turn, wish, begun) {
            Ok(hold) => {
                self.note_hold();
                Ok(LeaseGuard::new(self, party, hold))
            }
            Err(error) => {
                self.end(party, &error);
                Err(error)
            }
        }
    }

    /// What is on the desk, when what this rank has left at the home is taken back, if that is soon.
    fn desk_after_errand(&self) -> Result<Slot, LeaseError> {
        let (handle, begun) = (self.courier.handle(), Instant::now());
        loop {
            match self.desk.take() {
                Slot::Left => {}
                slot => return Ok(slot),
            }
            self.courier.look_at_oneself()?;
            errands::pause(&handle.membership, &handle.at, handle.name.text(), begun)?;
        }
    }

    /// The party has come to its end. Where the home has not answered, what this rank has there is taken back when it
    /// does.
    #[cold]
    fn leave_behind(&self, error: &LeaseError) {
        match error {
            LeaseError::Unreachable { .. } | LeaseError::TimedOut { .. } => {
                self.desk.put(Slot::Left);
                errands::leave(self.courier.reach(), Recalling::new(&self.courier, &self.desk));
            }
            // It may have been granted before: at the next home nobody is to wait for it.
            LeaseError::NoRoom { .. } => {
                self.courier.forget_hold();
                self.desk.put(Slot::Empty);
            }
            _ => self.desk.put(Slot::Empty),
        }
    }

    /// Has the party go on until it holds the lease.
    fn win(&self, party: &mut Party, mut turn: Turn, wish: Wish, begun: Instant) -> Result<Hold, LeaseError> {
        let mut vigil = Vigil::new(self.courier.handle(), wish.limit());
        loop {
            match self.courier.drive(party, turn, &mut vigil)? {
                Outcome::Held(hold) => {
                    if let Some(hold) = self.confirmed(party, hold, &mut vigil)? {
                        return Ok(hold);
                    }
                }
                Outcome::Free(holder) => {
                    let (rank, name) = (self.courier.rank(), self.name().to_owned());
                    return Err(LeaseError::TimedOut { rank, name, waited: begun.elapsed(), holder });
                }
                Outcome::Lost(_) => {}
            }
            turn = wish.begin(party);
        }
    }

    /// Has the party go on until it waits for others (`None`) or holds the lease.
    fn advance(&self, party: &mut Party, turn: Turn, vigil: &mut Vigil<'_>) -> Result<Option<Hold>, LeaseError> {
        let mut turn = turn;
        loop {
            match self.courier.advance(party, turn, vigil)? {
                None => return Ok(None),
                Some(Outcome::Held(hold)) => {
                    if let Some(hold) = self.confirmed(party, hold, vigil)? {
                        return Ok(Some(hold));
                    }
                }
                Some(Outcome::Free(_) | Outcome::Lost(_)) => {}
            }
            turn = party.lessee.acquire(now_ns());
        }
    }

    /// A hold that was found, unless it is lost by now.
    fn confirmed(&self, party: &mut Party, hold: Hold, vigil: &mut Vigil<'_>) -> Result<Option<Hold>, LeaseError> {
        if !self.courier.is_over(hold) {
            return Ok(Some(hold));
        }
        // This rank was named long ago: perhaps others have followed.
        let turn = party.lessee.renew(now_ns());
        match self.courier.drive(party, turn, vigil)? {
            Outcome::Held(hold) => Ok(Some(hold)),
            Outcome::Free(_) | Outcome::Lost(_) => Ok(None),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    AtOnce,
    Wait(Option<Duration>),
}

impl Wish {
    fn begin(self, party: &mut Party) -> Turn {
        match self {
            Self::Wait(_) => party.lessee.acquire(now_ns()),
            Self::AtOnce => party.lessee.try_acquire(now_ns()),
        }
    }

    fn limit(self) -> Option<Duration> {
        match self {
            Self::AtOnce => Some(Duration::ZERO),
            Self::Wait(limit) => limit,
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::coord::objects::lease::Note;
    use crate::job::pretended::{doubt, name_at, on_nodes};

    /// Its rank has left something at a home that does not answer, and leaves the job.
    #[test]
    fn what_is_left_at_a_silent_home_keeps_no_job() {
        let mut jobs = on_nodes(&[0, 1], &JobOptions::new());
        let lease = jobs[0].lease(&name_at(&[1], 2, 0), Duration::from_secs(600)).expect("room");
        doubt(&jobs[0], 1, true);
        let error = lease.acquire().map(drop);
        assert!(matches!(error, Err(LeaseError::Unreachable { node: 1, .. })), "{error:?}");
        assert!(errands::is_left(lease.courier.reach(), &lease.handle().at));
        let membership = Arc::downgrade(jobs[0].membership());
        drop((lease, jobs.remove(0)));
        assert!(membership.upgrade().is_none(), "it has not left the job");
    }

    /// It was granted, and noted, when its home was lost; the next one has no room.
    #[test]
    fn who_gives_up_as_there_is_no_room_has_noted_no_hold() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let lease = jobs[0].lease(&name_at(&[1], 2, 0), Duration::from_secs(600)).expect("room");
        let (reach, at) = (lease.courier.reach(), &lease.handle().at);
        let note = Note { number: 3, until: u64::MAX };
        lease.courier.write_note(note);
        assert!(is_held(reach, at, 0));
        lease.leave_behind(&LeaseError::NoRoom { rank: 0, name: lease.name().to_owned(), node: 1, places: 2 });
        assert!(!is_held(reach, at, 0), "the next home would be told of it");
    }
}
