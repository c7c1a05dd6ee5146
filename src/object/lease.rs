//! The lease: a lock that ends by itself unless its holder renews it.
//!
//! A rank's *party* ([`Party`]) is what its threads and handles share of it: the machine that knows what to ask
//! ([`crate::coord::objects::lease`]), and the home that is asked. It is with one of them at a time: with whoever acquires,
//! then with the guard, there with the holder's thread or the one that renews.
//!
//! When the home is lost, whoever has the party and asks waits for the next home, as reader-writer locks do
//! ([`super::anchor`]), and begins anew there. What holders have noted on their nodes until then each node's steward has
//! told that home by [`carry_hold`]. A rank notes its hold before it goes by it, and then looks whether the home is lost: if
//! not, the steward will find the note.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::anchor::{self, Anchor, Answered};
use super::errands::{self, Errand};
use super::error::{LockError, ObjectError};
use super::homes::Home;
use super::reach::Reach;
use super::site::PATIENCE;
use super::vigil::Vigil;
use super::{Handle, ObjectKind, Token, not_opened};
use crate::cluster::view::{self, FailureCause, Unit};
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::lease::note::{Note, NoteAt};
use crate::coord::objects::lease::{Fates, Hold, HoldWord, LeaseAt, Lessee, Outcome, SOMEBODY, Turn};
use crate::coord::objects::word::SinceWord;
use crate::error::within;
use crate::fabric::{Memory, Request, WordAt};
use crate::job::Job;
use crate::sync::{AtomicU64, Ordering, full_fence};

/// The shortest time to live.
const LEAST_TTL: Duration = Duration::from_millis(1);
/// Between two looks whether this rank's errand is done.
const ERRAND_PAUSE: Duration = Duration::from_micros(100);
/// How often a rank that waits for the warning looks.
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
/// takes.
///
/// # The home's death
///
/// A lease outlives the node where it is at home. A holder on another node goes on holding it, under the same token; calls
/// that are under way wait until it has moved, while the holder's time goes on; who waits, waits on, in no particular order.
/// A holder that has died with the home is followed at once. Where the job has only not heard of a node any more, a rank of
/// it may have held the lease: then the next holder comes a time to live and a thousandth after the move. (Where a holder
/// is cut off *together with* the home it may renew the lease there until it learns that the job goes on without it. Then,
/// as for whoever looks at its clock and writes later, the token fences: [`super::Fenced`].)
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
    /// With the thread or the guard that does.
    Taken,
    /// None, and what this rank has left at the home is to be taken back first.
    Left,
}

impl Desk {
    /// What there is, which then is with the caller, unless something was left at the home.
    fn take(&self) -> Slot {
        let mut slot = self.lock();
        match *slot {
            Slot::Left => Slot::Left,
            _ => std::mem::replace(&mut *slot, Slot::Taken),
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

/// A rank's part in a lease.
#[derive(Debug)]
struct Party {
    lessee: Lessee,
    anchor: Anchor,
}

/// Carries requests to a lease's home, for its holder and the thread that renews.
#[derive(Clone, Debug)]
struct Courier {
    // Dropped before the handle: when the place is another object's, nobody is to find this desk.
    desk: Arc<Desk>,
    /// Kept while a thread renews the lease, also where nobody else has a handle any more.
    handle: Arc<Handle>,
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
    /// Nothing is heard of the lease's home, and the nodes that answer are too few to agree that it has failed. A hold that was to
    /// be renewed lasts until its time is over ([`LeaseGuard::remaining`]), and may be renewed if the home is heard again
    /// before. What this rank has left at the home otherwise is taken back then.
    #[error(
        "rank {rank} does not reach the lease {name:?}: node {node} cannot be reached{}, and too few of the nodes that are left answer this one to agree that it has failed (remedy: look whether the network between the nodes is up, and call again; start the job with `phalanx run`, whose launcher decides then; or end the job on the side that is cut off)", within(.waited)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// The node that is not heard.
        node: usize,
        /// How long this call has waited; zero where it failed at once.
        waited: Duration,
    },
    /// The home is lost, and the next one has no room. The lease moves as soon as there is room.
    #[error(
        "rank {rank}: no place for {name:?} on node {node}, its next home: that has {places} objects (remedy: JobOptions::objects of rank 0, or drop handles of other objects that are not used, and call again)"
    )]
    NoRoom {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// Its next home.
        node: usize,
        /// How many that has room for.
        places: usize,
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
        let handle = Arc::new(Handle::open(self.membership(), name, nature)?);
        let desk: Arc<Desk> = handle.membership.reach.uses.shared_at(handle.at.key());
        let lease = Lease { courier: Courier { desk, handle, ttl: Duration::from_micros(micros) } };
        lease.meet_home()?;
        Ok(lease)
    }
}

impl Lease {
    /// The lease's name.
    pub fn name(&self) -> &str {
        self.courier.handle.name.text()
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
    /// [`LeaseError::AlreadyHeld`], [`LeaseError::Unreachable`], [`LeaseError::Excluded`].
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

    /// Acquires the lease if nobody holds it, or who does has died, or has not renewed it for its time to live since this
    /// rank has first looked.
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

    /// Where no party is there: one that knows the home, as soon as that can be asked.
    fn meet_home(&self) -> Result<(), ObjectError> {
        if matches!(*self.courier.desk.lock(), Slot::Empty) {
            let party = self.courier.party().map_err(|source| not_opened(&self.courier.handle, source))?;
            let mut slot = self.courier.desk.lock();
            if matches!(*slot, Slot::Empty) {
                *slot = Slot::Kept(party);
            }
        }
        Ok(())
    }

    fn obtain(&self, wish: Wish) -> Result<LeaseGuard<'_>, LeaseError> {
        let party = match self.desk_after_errand()? {
            Slot::Kept(party) => Ok(party),
            Slot::Empty => {
                self.courier.party().map_err(LeaseError::from).inspect_err(|_| self.courier.desk.put(Slot::Empty))
            }
            Slot::Taken | Slot::Left => {
                Err(LeaseError::AlreadyHeld { rank: self.courier.rank(), name: self.name().to_owned() })
            }
        };
        let mut party = party?;
        match self.obtain_by(&mut party, wish) {
            Ok(hold) => Ok(self.guard(party, hold)),
            Err(error) => {
                match party.lessee.is_idle() && matches!(error, LeaseError::TimedOut { .. }) {
                    true => self.courier.desk.put(Slot::Kept(party)),
                    false => self.courier.leave_behind(&error),
                }
                Err(error)
            }
        }
    }

    /// What is on the desk, when what this rank has left at the home is taken back, if that is soon.
    fn desk_after_errand(&self) -> Result<Slot, LeaseError> {
        let (handle, begun) = (&self.courier.handle, Instant::now());
        loop {
            match self.courier.desk.take() {
                Slot::Left => {}
                slot => return Ok(slot),
            }
            self.courier.look_at_oneself()?;
            let reach = self.courier.reach();
            let is_over = begun.elapsed() >= PATIENCE;
            let home = is_over.then(|| Home::of(reach, &handle.at).site.home);
            if let Some(node) = reach.doubted().or(home) {
                return Err(anchor::unreachable(handle, node, begun.elapsed()).into());
            }
            std::thread::sleep(ERRAND_PAUSE);
        }
    }

    fn obtain_by(&self, party: &mut Party, wish: Wish) -> Result<Hold, LeaseError> {
        let courier = &self.courier;
        let begun = Instant::now();
        let mut vigil = Vigil::new(&courier.handle, wish.limit());
        loop {
            let turn = match wish {
                Wish::Wait(_) => party.lessee.acquire(now_ns()),
                Wish::AtOnce => party.lessee.try_acquire(now_ns()),
            };
            match courier.drive(party, turn, &mut vigil)? {
                Outcome::Held(hold) if courier.is_over(hold) => {
                    // It was named long ago: perhaps others have followed.
                    let turn = party.lessee.renew(now_ns());
                    if let Outcome::Held(hold) = courier.drive(party, turn, &mut vigil)? {
                        return Ok(hold);
                    }
                }
                Outcome::Held(hold) => return Ok(hold),
                Outcome::Free(holder) => {
                    let (rank, name) = (courier.rank(), self.name().to_owned());
                    return Err(LeaseError::TimedOut { rank, name, waited: begun.elapsed(), holder });
                }
                Outcome::Lost(_) => {}
            }
        }
    }

    fn guard(&self, party: Box<Party>, hold: Hold) -> LeaseGuard<'_> {
        let courier = self.courier.clone();
        let token = Token(hold.token);
        courier.show(token);
        let until = AtomicU64::new(hold.until(courier.ttl_ns()));
        let tenure = Tenure { courier, token, until, state: Mutex::new(TenureState::of(party)), bell: Condvar::new() };
        LeaseGuard { lease: self, tenure: Arc::new(tenure), keeper: None, is_open: true }
    }
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    AtOnce,
    Wait(Option<Duration>),
}

impl Wish {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::AtOnce => Some(Duration::ZERO),
            Self::Wait(limit) => limit,
        }
    }
}

impl Courier {
    fn rank(&self) -> usize {
        self.reach().rank
    }

    fn reach(&self) -> &Reach {
        &self.handle.membership.reach
    }

    fn ttl_ns(&self) -> u64 {
        u64::try_from(self.ttl.as_nanos()).expect("as `Job::lease` has it")
    }

    fn is_over(&self, hold: Hold) -> bool {
        now_ns() >= hold.until(self.ttl_ns())
    }

    fn party(&self) -> Result<Box<Party>, LockError> {
        let anchor = Anchor::of(&self.handle)?;
        let lessee = Lessee::new(self.at(&anchor), self.rank(), self.ttl_ns());
        Ok(Box::new(Party { lessee, anchor }))
    }

    /// Where the words are.
    fn at(&self, anchor: &Anchor) -> LeaseAt {
        LeaseAt::of(&anchor.words(), self.reach().topology.ranks(), anchor.is_first(&self.handle))
    }

    /// Does what a lessee wants until it has come to an end; gives its claim up when the vigil's time is over.
    fn drive(&self, party: &mut Party, mut turn: Turn, vigil: &mut Vigil<'_>) -> Result<Outcome, LeaseError> {
        let reach = self.reach();
        loop {
            if let Some(rank) = party.lessee.take_named() {
                reach.poke(rank);
            }
            turn = match turn {
                Turn::Over(outcome) if self.settle(party, outcome) => return Ok(outcome),
                Turn::Over(_) => self.begin_anew(party, vigil)?,
                Turn::Ask(requests) => {
                    // What is waited for is noted before it is looked at.
                    vigil.note();
                    let asked = party.anchor.try_ask_until(&self.handle, &requests, vigil.until());
                    match asked? {
                        Answered::All(answers) => party.lessee.answered(&answers, now_ns(), &Neighbours(reach)),
                        Answered::Broken => party.lessee.broken(),
                        Answered::HomeLost => self.begin_anew(party, vigil)?,
                    }
                }
                Turn::Wait => {
                    let follows = party.lessee.follows_at().map_or(u64::MAX, |time| time.saturating_sub(now_ns()));
                    match vigil.pause_at_most(&[], Duration::from_nanos(follows.max(1))) {
                        true => party.lessee.look(),
                        false => party.lessee.withdraw(),
                    }
                }
            };
        }
    }

    /// Notes what has come of it. Whether that counts: not where the home is lost before a hold was noted.
    fn settle(&self, party: &Party, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Held(hold) => {
                let note = Note { number: hold.word.number(), until: hold.until(self.ttl_ns()) };
                self.write_note(&party.anchor, note);
                // SYNC POINT: stake. After the note: this rank finds the home lost, or its steward finds the note.
                !party.anchor.is_lost()
            }
            Outcome::Free(_) | Outcome::Lost(_) => {
                self.clear_note(&party.anchor);
                true
            }
        }
    }

    /// This rank holds nothing, or is about to give it back.
    fn clear_note(&self, anchor: &Anchor) {
        let note = self.note_at().read(&*self.reach().segment);
        if note.until != 0 {
            self.write_note(anchor, Note { until: 0, ..note });
        }
    }

    /// Shows those who look from outside since when this rank holds the lease, and by which token.
    fn show(&self, token: Token) {
        let (segment, at) = (&*self.reach().segment, &self.handle.at);
        segment.word(at.held_token()).store(token.0, Ordering::Relaxed);
        let since = SinceWord::granted(self.reach().local(), segment.clock().now());
        // Release pairs with `src/inspect/objects.rs`, which looks at it first: the token before it is seen, too.
        segment.word(at.held_since()).store(since.0, Ordering::Release);
    }

    /// It does not hold it any more: another rank of the node may show its hold already.
    fn show_no_more(&self) {
        let shown = self.reach().segment.word(self.handle.at.held_since());
        let seen = shown.load(Ordering::Relaxed);
        if SinceWord(seen).holder() == Some(self.reach().local()) {
            // Relaxed: for those who look.
            let _ = shown.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A home that is this node is lost with this rank: then nobody asks for its notes.
    fn write_note(&self, anchor: &Anchor, note: Note) {
        if !anchor.is_here() {
            self.note_at().write(&*self.reach().segment, note);
        }
    }

    fn note_at(&self) -> NoteAt {
        NoteAt::of(&self.handle.at, self.reach().local())
    }

    /// The home is lost: goes on at the next one, as soon as that has what survivors held.
    #[cold]
    fn begin_anew(&self, party: &mut Party, vigil: &Vigil<'_>) -> Result<Turn, LeaseError> {
        party.anchor.await_next_until(&self.handle, vigil.until())?;
        let at = self.at(&party.anchor);
        Ok(party.lessee.restart(at))
    }

    /// The party has come to its end. Where the home has not answered, what this rank has there is taken back when it does.
    #[cold]
    fn leave_behind(&self, error: &LeaseError) {
        match error {
            LeaseError::Unreachable { .. } | LeaseError::TimedOut { .. } => {
                self.desk.put(Slot::Left);
                errands::leave(self.reach(), Recalling(self.clone()));
            }
            _ => self.desk.put(Slot::Empty),
        }
    }

    fn look_at_oneself(&self) -> Result<(), LeaseError> {
        Ok(anchor::look_at_oneself(&self.handle)?)
    }
}

impl From<LockError> for LeaseError {
    /// Nothing else happens to who asks a home.
    fn from(error: LockError) -> Self {
        match error {
            LockError::Excluded { rank, name, epoch, cause } => Self::Excluded { rank, name, epoch, cause },
            LockError::Unreachable { rank, name, node, waited } => Self::Unreachable { rank, name, node, waited },
            LockError::NoRoom { rank, name, node, places } => Self::NoRoom { rank, name, node, places },
            LockError::TimedOut { rank, name, waited, .. } => Self::TimedOut { rank, name, waited, holder: None },
            other => unreachable!("{other}"),
        }
    }
}

/// What a rank has at the home is to be taken back: its claim, and its hold.
#[derive(Debug)]
struct Recalling(Courier);

impl Errand for Recalling {
    fn object(&self) -> WordAt {
        self.0.handle.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        let Self(courier) = self;
        let (at, ranks) = (&courier.handle.at, reach.topology.ranks());
        let Some(home) = errands::home_now(reach, at) else { return Poll::Pending };
        let note = courier.note_at().read(&*reach.segment);
        courier.note_at().write(&*reach.segment, Note { until: 0, ..note });
        let mut lessee = Lessee::new(LeaseAt::of(&home.at, ranks, false), reach.rank, courier.ttl_ns());
        let mut turn = lessee.withdraw();
        while let Turn::Ask(requests) = turn {
            let Some(answers) = errands::ask(&home, &requests) else { return Poll::Pending };
            turn = lessee.answered(&answers, now_ns(), &Neighbours(reach));
        }
        lessee.take_named().into_iter().for_each(|rank| reach.poke(rank));
        if Home::of(reach, at).site.home != home.site.home {
            // What was noted before has moved with it.
            return Poll::Pending;
        }
        courier.desk.put(Slot::Empty);
        Poll::Ready(())
    }
}

/// Tells a new home of a lease the last hold of this node's ranks: the holder, if its time is not over. Before anybody asks that
/// home; done again where a steward has broken off.
pub(super) fn carry_hold(reach: &Reach, at: &ObjectAt, new: &Home) -> Result<(), SiteFault> {
    // SYNC POINT: stake. The home was seen lost before: pairs with the ranks that note a hold and then look for that.
    full_fence();
    let ranks = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let noted = ranks.map(|(local, rank)| (*rank, NoteAt::of(at, local).read(&*reach.segment)));
    // A later hold has a greater number.
    let Some((rank, note)) = noted.max_by_key(|(_, note)| note.number).filter(|(_, note)| note.number > 0) else {
        return Ok(());
    };
    // One that was stopped, and declared failed for that, goes by its clock.
    let is_held = note.until > now_ns() && !Neighbours(reach).is_dead(rank);
    let carried = HoldWord::carried(note.number, is_held.then_some(rank));
    let hold = LeaseAt::of(&new.at, reach.topology.ranks(), false).hold;
    let mut found = HoldWord(new.site.ask(&[Request::Read { at: hold }])?[0]);
    while found.number() < carried.number() {
        let swap = Request::CompareSwap { at: hold, expected: found.0, new: carried.0 };
        let swapped = HoldWord(new.site.ask(&[swap])?[0]);
        found = if swapped == found { carried } else { swapped };
    }
    Ok(())
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
        if rank == SOMEBODY {
            let topology = &self.0.topology;
            return (0..topology.ranks()).all(|rank| !self.0.has_lost(topology.node_of(rank)) || self.is_dead(rank));
        }
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
            self.courier.drive(&mut party, turn, &mut Vigil::new(&self.courier.handle, None))
        });
        let mut state = self.lock();
        let lost = match renewed {
            Ok(Outcome::Held(hold)) => {
                self.until.store(hold.until(self.courier.ttl_ns()), Ordering::Relaxed);
                state.party = Some(party);
                None
            }
            Ok(Outcome::Lost(holder) | Outcome::Free(holder)) => Some(self.expired(holder)),
            Err(error @ LeaseError::Unreachable { .. }) => {
                // What the home has granted lasts as long as it was to last, and may be renewed when that is heard again.
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
        self.courier.clear_note(&party.anchor);
        let turn = match party.lessee.held() {
            Some(_) => party.lessee.release(),
            // Whether it was renewed last time is not known.
            None => party.lessee.withdraw(),
        };
        match self.courier.drive(&mut party, turn, &mut Vigil::new(&self.courier.handle, None))? {
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
        self.remaining().saturating_sub(self.courier.ttl / WARNED_BEFORE)
    }

    fn expired(&self, holder: Option<usize>) -> LeaseError {
        let (rank, name) = (self.courier.rank(), self.courier.handle.name.text().to_owned());
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
            if !waited.timed_out() {
                return;
            }
            match self.renew() {
                Ok(()) | Err(LeaseError::Unreachable { .. }) => {}
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

impl LeaseGuard<'_> {
    /// The number of this grant: greater than that of each earlier one, also where the lease has moved to another home since,
    /// or has gone and was opened anew. It stays the same for as long as this guard holds the lease.
    pub fn token(&self) -> Token {
        self.tenure.token
    }

    /// For how long this rank surely holds the lease yet, by its own clock. Zero: others may have it.
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
    /// [`LeaseError::Expired`], [`LeaseError::Excluded`]: it is held no more. [`LeaseError::Unreachable`]: it was not renewed, and
    /// may be once more.
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
            let (rank, name) = (courier.rank(), courier.handle.name.text().to_owned());
            LeaseError::NoThread { rank, name, why: error.to_string() }
        })?);
        Ok(())
    }

    /// Releases the lease, and tells whether this rank held it to the end.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Expired`], [`LeaseError::Excluded`], [`LeaseError::Unreachable`]: it did not, or it cannot be told.
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
        let courier = &self.lease.courier;
        released.map(|party| courier.desk.put(Slot::Kept(party))).inspect_err(|error| courier.leave_behind(error))
    }
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.give_up();
    }
}
