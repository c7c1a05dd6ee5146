//! A lock of this node, as one rank uses it: what turns its state machine into calls that block.
//!
//! A wait polls, and between polls spins or sleeps as the wait policy says. It is interrupted by the node's alarm,
//! since somebody's death may have freed the lock; by its limit; and now and then by itself, to look whether those who
//! hold it up still run: a rank that is stopped for longer than the failure time-out is declared failed by who waits
//! for it.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::catalogue;
use super::errands::{self, has_left_something};
use super::error::LockError;
use super::passing::{Heat, Passing};
use super::refusals;
use super::usage::{Usage, Use};
use super::waiting::{LOOK_EVERY, PROMPT_AFTER, SPIN_ON_SHARED, Wait, step_after};
use crate::coord::drive;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::queue::{NotHeld, QueueLock, Withdrawn};
use crate::coord::objects::tenure::{Tenure, TenureAt};
use crate::coord::objects::word::{HoldWord, SinceWord};
use crate::coord::wait::Step;
use crate::fabric::node::ObjectTable;
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, Park};
use crate::job::Membership;
use crate::scheduling::Prompt;
use crate::sync::{Ordering, spin_hint};

/// Who has waited for so long notes since when it holds the lock.
const NOTE_AFTER: Duration = Duration::from_micros(100);

/// Between two looks whether this rank's steward is through with a lock.
const SWEEP_PAUSE: Duration = Duration::from_micros(20);

/// How often a rank may take a lock before others that wait, where each has a CPU: while the first of them wakes up.
pub(super) const MOST_PASSED: u64 = 64;
/// Where ranks share CPUs: turns of the spin loop between two looks at the lock's word, each of which takes its line
/// away from whoever uses it.
const TURNS_PER_LOOK: u32 = 40;

/// One rank's use of a lock of its node.
#[derive(Debug)]
pub(super) struct NodeLock {
    membership: Arc<Membership>,
    queue: QueueLock,
    name: String,
    /// What this rank does with the lock, whichever of its threads and handles.
    usage: Arc<Usage>,
    /// Where it is noted since when the lock is held.
    at: ObjectAt,
    /// What the alarm held when this rank was seen not to have been declared failed.
    calm: Cell<u64>,
    /// Whether it may go on to take the lock before others that wait.
    passing: Passing,
    /// What its claim has made of the lock's word, where nobody else wanted it, until that has been noted.
    claimed: Cell<Option<HoldWord>>,
}

/// What came of taking a lock at once. It fits into registers, as no error does: whoever takes a free lock writes no
/// more memory than the lock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// With its token.
    Held(u64),
    /// Another rank has it, or comes before.
    Busy,
    /// This rank does something else with it, or has been declared failed: who tries it again is told.
    Refused,
}

fn ready(polled: Poll<u64>) -> Option<u64> {
    match polled {
        Poll::Ready(token) => Some(token),
        Poll::Pending => None,
    }
}

impl NodeLock {
    pub fn new(membership: &Arc<Membership>, at: &ObjectAt, name: &str, usage: Arc<Usage>) -> Self {
        let local = membership.local_of(membership.rank);
        let queue = QueueLock::new(at.queue(), local);
        // No alarm holds it.
        let calm = Cell::new(u64::MAX);
        Self {
            membership: Arc::clone(membership),
            queue,
            name: name.to_owned(),
            usage,
            at: *at,
            calm,
            passing: Passing::default(),
            claimed: Cell::new(None),
        }
    }

    /// The lock of the node's table of objects.
    pub fn of_table(membership: &Arc<Membership>) -> Self {
        let table = ObjectAt::of(&membership.segment.layout(), ObjectTable::Here, 0);
        let usage = membership.reach.uses.usage_at(table.key());
        Self::new(membership, &table, "the table of objects", usage)
    }

    /// Does something while it holds the lock, of which only one thread of this rank has use at a time; it waits so
    /// long for that. Where it was held to the end, all of it was done by this rank alone. Where a home did not answer
    /// meanwhile it is held until it does.
    pub fn during<T>(&self, limit: Option<Duration>, act: impl FnOnce() -> T) -> Result<T, LockError> {
        if self.try_take()?.is_none() {
            self.request()?;
            self.wait(&mut Wait::new(), limit)?;
        }
        let before = TenureAt(self.at).load(self.segment());
        let done = act();
        match has_left_something(&self.membership.reach, &self.at, before) {
            true => self.leave(),
            false => self.release()?,
        }
        Ok(done)
    }

    /// Keeps the lock, until what this node has at the home is given up: that did not answer.
    pub fn leave(&self) {
        errands::keep(&self.membership.reach, self.at, Arc::clone(&self.usage));
    }

    /// The error of a call that needs a node of which nothing is heard.
    pub fn unreachable(&self, node: usize, waited: Duration) -> LockError {
        refusals::unreachable(&self.membership, &self.name, node, waited)
    }

    /// The error of a call whose object cannot move to its next home.
    pub fn no_room(&self, home: usize) -> LockError {
        refusals::no_room(&self.membership, &self.name, home)
    }

    /// The home, if nothing is heard of it, and what this node has there is not known: ranks that have asked for
    /// something there, or wait there, keep the node's lock.
    fn silent_home(&self) -> Option<usize> {
        let reach = &self.membership.reach;
        let (home, _) = catalogue::noted_home(reach, &self.at).filter(|(home, _)| reach.is_doubtful(*home))?;
        let tenure = TenureAt(self.at).load(self.segment()).tenure();
        let is_open = matches!(tenure, Tenure::Underway(_) | Tenure::Waiting);
        is_open.then_some(home)
    }

    pub fn rank(&self) -> usize {
        self.membership.rank
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn segment(&self) -> &Segment {
        &self.membership.segment
    }

    /// Whether nobody has the lock, or a claim.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle(self.segment())
    }

    /// Whether others of the node wait.
    pub fn others_wait(&self) -> bool {
        self.queue.is_wanted(self.segment()) && !self.queue.queue(self.segment(), &self.has_ended()).is_empty()
    }

    /// The error of this rank where it has been declared failed.
    #[cold]
    pub fn excluded(&self) -> LockError {
        refusals::excluded(&self.membership, &self.name)
    }

    /// The error of a rank whose time is over, and that has no claim any more. A node other than this one may hold the
    /// lock.
    pub fn timed_out(&self, wait: &Wait, holder_node: Option<usize>) -> LockError {
        refusals::timed_out(self.rank(), &self.name, wait.waited(), holder_node)
    }

    /// Whether a rank of this node has ended.
    fn has_ended(&self) -> impl Fn(usize) -> bool {
        let reach = &self.membership.reach;
        move |local| reach.has_ended_here(local)
    }

    /// Takes the lock if that is possible at once.
    #[inline]
    pub fn try_take(&self) -> Result<Option<u64>, LockError> {
        match self.take_at_once() {
            Taken::Held(token) => Ok(Some(token)),
            Taken::Busy => Ok(None),
            Taken::Refused => self.take_later(),
        }
    }

    /// The same, where nothing is in the way of it: a call, whose answer comes in registers, so that what is inlined
    /// around it leaves no error's space to be filled and moved.
    #[inline(never)]
    pub fn take_at_once(&self) -> Taken {
        match self.usage.begin(Use::Held) {
            Ok(()) => self.take_begun(),
            Err(_) => Taken::Refused,
        }
    }

    #[cold]
    fn take_later(&self) -> Result<Option<u64>, LockError> {
        self.begin(Use::Held)?;
        if let Err(error) = self.look_at_oneself() {
            self.usage.set(Use::Nothing);
            return Err(error);
        }
        match self.take_begun() {
            Taken::Held(token) => Ok(Some(token)),
            Taken::Busy => Ok(None),
            Taken::Refused => Err(self.excluded()),
        }
    }

    /// As [`try_take`](Self::try_take), also from a holder that has ended.
    pub fn try_take_thoroughly(&self) -> Result<Option<u64>, LockError> {
        self.look_at_oneself()?;
        match self.try_take()? {
            None => {
                self.queue.free_from_the_dead(self.segment(), &self.has_ended());
                self.try_take()
            }
            taken => Ok(taken),
        }
    }

    /// Takes the lock that another rank has just now, if that soon gives it back, and this one may take it before those
    /// that wait: where ranks share CPUs, to wait in the queue is to sleep. A hot one is not to be had in this way.
    pub fn take_in_passing(&self) -> Result<Option<u64>, LockError> {
        if !self.membership.driver.plan.shares_cpus {
            return Ok(None);
        }
        let (heat, begun) = (Heat::default(), Instant::now());
        loop {
            let passed = self.queue.passed(self.segment());
            if !self.may_pass(passed) || begun.elapsed() >= SPIN_ON_SHARED {
                return Ok(None);
            }
            (0..TURNS_PER_LOOK).for_each(|_| spin_hint());
            let is_first_look = !heat.has_looked();
            if heat.feel(self.queue.version(self.segment()), Instant::now()) && !is_first_look {
                return Ok(None);
            }
            if let Some(token) = self.try_take()? {
                return Ok(Some(token));
            }
        }
    }

    /// Makes a claim.
    pub fn request(&self) -> Result<(), LockError> {
        self.look_at_oneself()?;
        self.begin(Use::Requested)?;
        let stays_awake = !self.membership.driver.plan.shares_cpus;
        self.claimed.set(self.queue.request(self.segment(), stays_awake));
        Ok(())
    }

    /// Who holds the lock that only this rank wants, and by which token, is noted: it is waited for a while.
    pub fn note_undisputed(&self) {
        let undisputed = self.claimed.take().and_then(|claimed| self.queue.undisputed_hold(self.segment(), claimed));
        if let Some((holder, token)) = undisputed {
            self.note_waited_for(holder, token);
        }
    }

    /// Whether the claim has been granted. Where this fails it is taken back.
    pub fn test(&self, wait: &mut Wait) -> Result<Option<u64>, LockError> {
        wait.look_at_the_clock();
        let granted = ready(self.queue.poll(self.segment(), &self.has_ended()));
        self.look_at_oneself().inspect_err(|_| self.usage.set(Use::Nothing))?;
        match granted {
            Some(_) => self.usage.set(Use::Held),
            None => {
                if let Some(home) = self.silent_home() {
                    return self.give_up_for(home, wait).inspect_err(|_| self.usage.set(Use::Nothing)).map(Some);
                }
                self.look_if_long(wait);
            }
        }
        Ok(granted)
    }

    /// Whether the claim is granted within some looks, between which this rank stays on its CPU and reads no clock: the
    /// token. Where ranks share CPUs it does not look. Where this fails the claim is taken back.
    pub fn watch(&self) -> Result<Option<u64>, LockError> {
        if self.membership.driver.plan.shares_cpus {
            return Ok(None);
        }
        let Some(token) = self.poll_a_few() else { return Ok(None) };
        let granted = self.look_at_oneself().map(|()| Some(token));
        self.usage.set(if granted.is_ok() { Use::Held } else { Use::Nothing });
        granted
    }

    /// Waits until the claim is granted. Where this fails it is taken back.
    pub fn wait(&self, wait: &mut Wait, limit: Option<Duration>) -> Result<u64, LockError> {
        let granted = self.wait_for_grant(wait, limit);
        self.usage.set(if granted.is_ok() { Use::Held } else { Use::Nothing });
        granted
    }

    /// This rank begins to do something with the lock.
    #[inline]
    fn begin(&self, what: Use) -> Result<(), LockError> {
        self.usage.begin(what).or_else(|found| self.begin_later(what, found))
    }

    #[cold]
    fn begin_later(&self, what: Use, mut found: u32) -> Result<(), LockError> {
        let begun = Instant::now();
        while found == Use::Swept as u32 || found == Use::Left as u32 {
            if found == Use::Left as u32 {
                self.look_at_oneself()?;
                errands::pause(&self.membership, &self.at, &self.name, begun)?;
            } else {
                std::thread::sleep(SWEEP_PAUSE);
            }
            match self.usage.begin(what) {
                Ok(()) => return Ok(()),
                Err(now) => found = now,
            }
        }
        let (rank, name) = (self.rank(), self.name.clone());
        match found == Use::Held as u32 {
            true => Err(LockError::AlreadyHeld { rank, name }),
            false => Err(LockError::AlreadyRequested { rank, name }),
        }
    }

    /// Takes the lock if it is free and this rank may.
    #[inline]
    fn take_begun(&self) -> Taken {
        let taken = match self.queue.try_take(self.segment(), |passed| self.may_pass(passed)) {
            Some(token) if self.is_calm() || self.look_at_oneself().is_ok() => return Taken::Held(token),
            Some(_) => Taken::Refused,
            None => Taken::Busy,
        };
        self.usage.set(Use::Nothing);
        taken
    }

    /// Whether this rank may have the lock before those that wait, after it has had it so often.
    fn may_pass(&self, passed: u64) -> bool {
        match self.membership.driver.plan.shares_cpus {
            true => self.passing.goes_on(passed),
            false => passed < MOST_PASSED,
        }
    }

    /// Whether the lock is to be free after this rank, which shares its CPU and may have it again.
    fn keeps_free(&self, passed: u64) -> bool {
        self.membership.driver.plan.shares_cpus && self.may_pass(passed)
    }

    /// Whether nothing has happened since this rank was seen not to have been declared failed.
    #[inline]
    fn is_calm(&self) -> bool {
        // The alarm may be raised some time after the rank's end is noted. Relaxed: whoever takes this rank for failed
        // does not wait for it to have seen that.
        let end = self.segment().word(self.membership.reach.end_at).load(Ordering::Relaxed);
        drive::alarm(self.segment()) == self.calm.get() && end == 0
    }

    fn wait_for_grant(&self, wait: &mut Wait, limit: Option<Duration>) -> Result<u64, LockError> {
        let mut alarm = drive::alarm(self.segment());
        let begun = wait.look_at_the_clock();
        let (mut awake_since, mut prompt) = (begun, None);
        let heat = Heat::default();
        loop {
            let polled =
                if self.membership.driver.plan.shares_cpus { self.poll_seldom(&heat) } else { self.poll_a_few() };
            if let Some(token) = polled {
                self.look_at_oneself()?;
                return Ok(token);
            }
            let raised = drive::alarm(self.segment());
            if raised != alarm {
                alarm = raised;
                continue;
            }
            self.look_at_oneself()?;
            if let Some(home) = self.silent_home() {
                return self.give_up_for(home, wait);
            }
            let now = wait.look_at_the_clock();
            let left = limit.map(|limit| limit.saturating_sub(now - begun));
            if left == Some(Duration::ZERO) {
                // Also a hot one.
                return match self.queue.poll(self.segment(), &self.has_ended()) {
                    Poll::Ready(token) => self.look_at_oneself().map(|()| token),
                    Poll::Pending => self.give_up(wait),
                };
            }
            self.look_if_long(wait);
            match step_after(&self.membership.driver.plan, now - awake_since) {
                Step::Spin => spin_hint(),
                // It will have the lock at once when that is no longer hot. (Others leave their CPUs to it.)
                Step::Park if self.is_first() && heat.was_felt(now, SPIN_ON_SHARED) => spin_hint(),
                Step::Yield => crate::machine::yield_cpu(),
                Step::Park => {
                    if wait.span() >= PROMPT_AFTER {
                        prompt.get_or_insert_with(Prompt::new);
                    }
                    self.park(alarm, left.into_iter().fold(LOOK_EVERY, Duration::min));
                    awake_since = wait.look_at_the_clock();
                    heat.forget();
                }
            }
        }
    }

    fn poll_seldom(&self, heat: &Heat) -> Option<u64> {
        (0..TURNS_PER_LOOK).for_each(|_| spin_hint());
        let is_hot = |version| heat.feel(version, Instant::now());
        ready(self.queue.poll_unless_hot(self.segment(), &self.has_ended(), is_hot))
    }

    fn poll_a_few(&self) -> Option<u64> {
        const POLLS: u32 = 64;
        for _ in 0..POLLS {
            if let Some(token) = ready(self.queue.poll(self.segment(), &self.has_ended())) {
                return Some(token);
            }
            spin_hint();
        }
        None
    }

    fn park(&self, alarm: u64, timeout: Duration) {
        let segment = self.segment();
        self.membership.hand_over();
        if let Some(seen) = self.queue.prepare_to_park(segment, &self.has_ended()) {
            segment.park_heeding(self.queue.parking_place(), seen, alarm, Some(timeout));
            self.queue.note_awake(segment);
        }
    }

    /// The time is over, unless the lock is granted just now.
    fn give_up(&self, wait: &Wait) -> Result<u64, LockError> {
        let (holder, ahead) = (self.queue.holder(self.segment()), self.ahead());
        let holder_node = holder.filter(|_| self.is_held_here()).map(|_| self.membership.here());
        match self.queue.withdraw(self.segment(), &self.has_ended()) {
            Withdrawn::Granted(token) => self.look_at_oneself().map(|()| token),
            Withdrawn::Cancelled => Err(LockError::TimedOut {
                rank: self.rank(),
                name: self.name.clone(),
                waited: wait.waited(),
                holder: holder.map(|local| self.rank_at(local)),
                holder_node,
                ahead,
            }),
        }
    }

    /// Whether who has the node's lock holds what that is a part of: not where it is on its way to the home, or waits
    /// there for another node.
    fn is_held_here(&self) -> bool {
        let tenure = || TenureAt(self.at).load(self.segment()).tenure();
        !self.membership.reach.spans_nodes() || matches!(tenure(), Tenure::Held(_))
    }

    /// The home is not heard, unless the lock is granted just now.
    fn give_up_for(&self, home: usize, wait: &Wait) -> Result<u64, LockError> {
        match self.queue.withdraw(self.segment(), &self.has_ended()) {
            Withdrawn::Granted(token) => self.look_at_oneself().map(|()| token),
            Withdrawn::Cancelled => Err(self.unreachable(home, wait.waited())),
        }
    }

    /// Takes the claim back. Where it is too late for that this rank has the lock.
    pub fn withdraw(&self) -> Withdrawn {
        let withdrawn = self.queue.withdraw(self.segment(), &self.has_ended());
        match withdrawn {
            Withdrawn::Granted(_) => self.usage.set(Use::Held),
            // It is not this rank's, nor is what is noted of its holder.
            Withdrawn::Cancelled => self.usage.set(Use::Nothing),
        }
        withdrawn
    }

    /// The same, unless the lock is this rank's for the asking: then it has it, too.
    pub fn look_and_withdraw(&self) -> Withdrawn {
        match ready(self.queue.poll(self.segment(), &self.has_ended())) {
            Some(_) if self.look_at_oneself().is_err() => {
                self.usage.set(Use::Nothing);
                Withdrawn::Cancelled
            }
            Some(token) => {
                self.usage.set(Use::Held);
                Withdrawn::Granted(token)
            }
            None => self.withdraw(),
        }
    }

    /// Takes the claim back, and what it has been granted. Whether it had not been granted.
    pub fn cancel(&self) -> bool {
        let is_granted = matches!(self.withdraw(), Withdrawn::Granted(_));
        if is_granted {
            // Fails where this rank has been declared failed: then there is nothing to release.
            let _ = self.release();
        }
        !is_granted
    }

    /// This rank has the lock, but has only asked for what that is a part of.
    pub fn note_request(&self) {
        self.usage.set(Use::Requested);
    }

    /// And that is granted.
    pub fn note_request_granted(&self) {
        self.usage.set(Use::Held);
    }

    /// Gives the lock up.
    #[inline]
    pub fn release(&self) -> Result<(), LockError> {
        match self.give_back() {
            Ok(()) => Ok(()),
            Err(NotHeld) => Err(self.excluded()),
        }
    }

    /// The same, as [`take_at_once`](Self::take_at_once) takes it.
    #[inline(never)]
    fn give_back(&self) -> Result<(), NotHeld> {
        self.clear_note();
        let released = self.queue.release(self.segment(), &self.has_ended(), |passed| self.keeps_free(passed));
        self.usage.set(Use::Nothing);
        released
    }

    /// Since when this rank holds the lock, and by which token, is noted for those who look from outside; gives the
    /// token back.
    pub fn noted(&self, token: u64) -> u64 {
        let ticks = self.segment().clock().now();
        self.note(SinceWord::granted(self.membership.local_of(self.rank()), ticks), token);
        token
    }

    /// The same if the lock was waited for, by the clock as it was read last: who is granted it reads none.
    pub fn noted_if_long(&self, token: u64, wait: &Wait) -> u64 {
        if wait.span() >= NOTE_AFTER { self.noted(token) } else { token }
    }

    /// Somebody holds the lock by now; its token is 0 where that is not known.
    fn note_waited_for(&self, holder: usize, token: u64) {
        // Relaxed: for those who look.
        let noted = SinceWord(self.segment().word(self.at.held_since()).load(Ordering::Relaxed));
        if noted.holder() != Some(holder) {
            self.note(SinceWord::waited_for(holder, self.segment().clock().now()), token);
        }
    }

    fn note(&self, since: SinceWord, token: u64) {
        show(self.segment(), &self.at, since, token);
    }

    /// Before the lock is released: what was noted is not of the next hold.
    #[inline]
    fn clear_note(&self) {
        // Relaxed: as above. Somebody may note it just now, and be wrong until the next one holds the lock.
        let noted = SinceWord(self.segment().word(self.at.held_since()).load(Ordering::Relaxed));
        if noted.0 != 0 {
            self.clear(noted);
        }
    }

    /// Where this rank was declared failed meanwhile what is noted may be of the one that has followed it.
    fn clear(&self, noted: SinceWord) {
        let is_own = noted.holder() == Some(self.membership.local_of(self.rank()));
        if is_own || self.queue.is_held(self.segment()) {
            // Relaxed: for those who look.
            self.segment().word(self.at.held_since()).store(0, Ordering::Relaxed);
        }
    }

    /// The ranks that wait, in their order.
    pub fn waiting_ranks(&self) -> Vec<usize> {
        self.queue.queue(self.segment(), &self.has_ended()).into_iter().map(|local| self.rank_at(local)).collect()
    }

    /// Those of them who have asked before this rank.
    fn ahead(&self) -> Vec<usize> {
        self.waiting_ranks().into_iter().take_while(|rank| *rank != self.rank()).collect()
    }

    /// Whether this rank waits, and nobody does who has asked before it.
    fn is_first(&self) -> bool {
        self.queue.is_first(self.segment(), &self.has_ended())
    }

    fn rank_at(&self, local: usize) -> usize {
        self.membership.topology.ranks_of(self.membership.here())[local]
    }

    /// If this rank has been declared failed, it has neither the lock nor a claim.
    pub fn look_at_oneself(&self) -> Result<(), LockError> {
        if self.is_calm() {
            return Ok(());
        }
        let alarm = drive::alarm(self.segment());
        if self.membership.reach.own_end().is_none() {
            self.calm.set(alarm);
            return Ok(());
        }
        // Perhaps of another thread of this rank, which will learn it as well.
        if self.queue.has_claim(self.segment()) {
            self.cancel();
        } else if self.queue.is_held(self.segment()) {
            let _ = self.release();
        }
        Err(refusals::excluded(&self.membership, &self.name))
    }

    fn look_if_long(&self, wait: &mut Wait) {
        wait.look_at(&self.membership, || {
            if let Some(holder) = self.queue.holder(self.segment()) {
                self.note_waited_for(holder, 0);
            }
            let ahead = self.queue.ahead(self.segment(), &self.has_ended());
            ahead.into_iter().map(|local| self.rank_at(local)).collect()
        });
    }
}

/// Shows those who look from outside since when a rank of this node holds an object, and by which token.
pub(super) fn show(segment: &Segment, at: &ObjectAt, since: SinceWord, token: u64) {
    segment.word(at.held_token()).store(token, Ordering::Relaxed);
    // Release pairs with `src/inspect/objects.rs`, which looks at it first: the token before it is seen, too.
    segment.word(at.held_since()).store(since.0, Ordering::Release);
}
