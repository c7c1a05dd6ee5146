//! What a rank has left to do at homes that did not answer in time.
//!
//! A call that ends before its answers have come, as its time is over or as nobody can decide whether the home lives,
//! leaves nobody knows what there. Its rank takes that back as soon as the home is heard again: an *errand*, run by the
//! thread that every process has for objects ([`super::steward`]). Until then the rank does nothing else with the
//! object ([`Use::Left`]), and keeps its node's lock of it where it has that: nobody of the node goes on from words
//! that may change yet. What an errand asks comes behind all that the process has asked before ([`super::site`]), so
//! nothing of that takes effect later.
//!
//! If the home is lost first, so is what was left there: the next one is told nothing of it. If the rank ends first, or
//! leaves the job, others of its node follow it as one that has ended in the middle of a call.
//!
//! [`Use::Left`]: super::usage::Use::Left

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::catalogue;
use super::climb::{Ascent, Climb};
use super::error::LockError;
use super::homes::Home;
use super::reach::Reach;
use super::refusals;
use super::site::{PATIENCE, Site};
use super::steward::with_table;
use super::usage::Usage;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::queue::QueueLock;
use crate::coord::objects::tenure::{Tenure, TenureAt, TenureWord};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Request, WordAt};
use crate::job::Membership;
use crate::sync::{AtomicU32, Ordering};

/// Between two looks of a call whether its rank's errand is done.
const PAUSE: Duration = Duration::from_micros(100);
/// How long a call waits for that: longer than a home is slow where machines are busy.
const DONE_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer is waited for.
const MOMENT: Duration = Duration::from_millis(20);

/// Something that is left to do.
pub(super) trait Errand: fmt::Debug + Send {
    /// The object, by its key: what is left of one is done in its order.
    fn object(&self) -> WordAt;

    /// Whether it needs the node's table of objects: where one does not get it the others need not try.
    fn needs_table(&self) -> bool {
        false
    }

    /// Does what can be done now, and does not wait for a home that does not answer.
    fn run(&mut self, reach: &Reach) -> Poll<()>;
}

/// A pause of a call whose rank has an errand at the object, for its end; it has waited for that since `begun`. Fails
/// where that is not soon.
///
/// # Errors
///
/// [`LockError::Unreachable`].
pub(super) fn pause(membership: &Membership, at: &ObjectAt, name: &str, begun: Instant) -> Result<(), LockError> {
    let reach = &membership.reach;
    let is_over = begun.elapsed() >= DONE_WITHIN;
    // The table's own is noted while it is used.
    let home = || catalogue::noted_home(reach, at).map_or(reach.here(), |(home, _)| home);
    if let Some(node) = reach.doubted().or_else(|| is_over.then(home)) {
        return Err(refusals::unreachable(membership, name, node, begun.elapsed()));
    }
    std::thread::sleep(PAUSE);
    Ok(())
}

/// A rank's errands, in their order.
#[derive(Default)]
pub(super) struct Errands {
    all: Mutex<All>,
    /// Whether objects could not go with their last handles.
    is_untidy: AtomicU32,
}

#[derive(Default)]
struct All {
    waiting: Vec<Box<dyn Errand>>,
    /// The objects of those that are being tried at the moment.
    tried: Vec<WordAt>,
}

impl fmt::Debug for Errands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").field("left", &self.lock().waiting.len()).finish()
    }
}

impl Errands {
    fn lock(&self) -> MutexGuard<'_, All> {
        // No code panics while it holds it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something before any of them is done.
    #[cfg(all(test, not(model)))]
    pub fn held_up<T>(&self, act: impl FnOnce() -> T) -> T {
        let _held = self.lock();
        act()
    }

    /// They are done no more: others see to what this rank has left.
    pub fn give_up(&self) {
        self.lock().waiting.clear();
    }
}

/// Leaves something to this rank's thread for that.
pub(super) fn leave(reach: &Reach, errand: impl Errand + 'static) {
    reach.uses.errands.lock().waiting.push(Box::new(errand));
    // It sleeps on that.
    reach.segment.wake(header::ALARM);
}

/// Whether something is left to do at an object: then a handle of it is given back behind that, or the place might be
/// another object's by then.
pub(super) fn is_left(reach: &Reach, at: &ObjectAt) -> bool {
    let all = reach.uses.errands.lock();
    all.tried.contains(&at.key()) || all.waiting.iter().any(|errand| errand.object() == at.key())
}

/// Whether a handle is to be given back as soon as the node's table is to be had, or this rank keeps that until a home
/// answers: then others need not wait for it, too.
pub(super) fn await_table(reach: &Reach) -> bool {
    let all = reach.uses.errands.lock();
    let table = table_of(reach);
    all.tried.contains(&table) || all.waiting.iter().any(|errand| errand.needs_table() || errand.object() == table)
}

fn table_of(reach: &Reach) -> WordAt {
    ObjectAt::of(&reach.segment.layout(), ObjectTable::Here, 0).key()
}

/// An object cannot go with its last handle, as its home is not heard: it goes later.
pub(super) fn tidy_later(reach: &Reach) {
    // Relaxed: read by the rank's own thread, now or soon.
    reach.uses.errands.is_untidy.store(1, Ordering::Relaxed);
}

/// Does what can be done. Whether something is left.
pub(super) fn run(reach: &Reach) -> bool {
    let own = &reach.uses.errands;
    let mut errands = {
        let mut all = own.lock();
        all.tried = all.waiting.iter().map(|errand| errand.object()).collect();
        std::mem::take(&mut all.waiting)
    };
    let before = errands.len();
    let (table, mut is_open) = (table_of(reach), HashSet::new());
    errands.retain_mut(|errand| {
        let is_open_before = is_open.contains(&errand.object()) || errand.needs_table() && is_open.contains(&table);
        let is_left = is_open_before || errand.run(reach).is_pending();
        if is_left {
            is_open.insert(if errand.needs_table() { table } else { errand.object() });
        }
        is_left
    });
    if errands.len() < before {
        tidy_later(reach);
    }
    let is_untidy = own.is_untidy.load(Ordering::Relaxed) != 0 && !tidy(reach);
    let mut all = own.lock();
    // Some may have come meanwhile.
    errands.append(&mut all.waiting);
    (all.waiting, all.tried) = (errands, Vec::new());
    is_untidy || !all.waiting.is_empty()
}

/// Lets objects go that nobody has a handle of; whether that was done.
fn tidy(reach: &Reach) -> bool {
    if reach.doubted().is_some() {
        return false;
    }
    reach.uses.errands.is_untidy.store(0, Ordering::Relaxed);
    let is_done = with_table(reach, || catalogue::here(&reach.within(PATIENCE)).free_unused()).is_ok();
    if !is_done {
        tidy_later(reach);
    }
    is_done
}

/// The home of an object, if it has one that can be asked now.
pub(super) fn home_now(reach: &Reach, at: &ObjectAt) -> Option<Home> {
    let (home, at) = catalogue::noted_home(reach, at)?;
    // While it is lost the object is about to move.
    let site = Site { reach: reach.clone(), home };
    (!reach.has_lost(home) && !reach.is_doubtful(home)).then_some(Home { site, at })
}

/// Asks a home, for a moment at most. What may be asked again is, by the next run.
pub(super) fn ask(home: &Home, requests: &[Request]) -> Option<Vec<u64>> {
    home.site.ask_until(requests, Some(Instant::now() + MOMENT)).ok()
}

/// This rank has its node's lock of an object, or of the table, and is to give up what the node has at the home: after
/// that the node's lock.
#[derive(Debug)]
pub(super) struct Settling {
    at: ObjectAt,
    usage: Arc<Usage>,
    way: Option<(Climb, Ascent)>,
}

impl Settling {
    /// `usage`: of the lock, which stays as it is until this is done.
    pub fn new(at: ObjectAt, usage: Arc<Usage>) -> Self {
        Self { at, usage, way: None }
    }

    fn climb(&self, reach: &Reach) -> Option<Climb> {
        let (home, _) = catalogue::noted_home(reach, &self.at)?;
        let site = || Site { reach: reach.clone(), home };
        Some(if self.at.index() == 0 { Climb::of_table(&site()) } else { Climb::new(reach, self.at) })
    }

    fn ascend(&mut self, reach: &Reach) -> Poll<()> {
        if self.way.is_none() {
            self.way = self.climb(reach).map(|climb| {
                let ascent = climb.begin_to_leave();
                (climb, ascent)
            });
        }
        let Some((climb, ascent)) = &mut self.way else { return Poll::Ready(()) };
        match climb.poll(ascent) {
            // From where it is then.
            Poll::Pending | Poll::Ready(Err(SiteFault::Silent { .. } | SiteFault::Late { .. })) => Poll::Pending,
            Poll::Ready(Err(SiteFault::Lost { .. })) => {
                // Fails where another rank has followed this one.
                let _ = climb.forget_home();
                Poll::Ready(())
            }
            Poll::Ready(_) => Poll::Ready(()),
        }
    }
}

impl Errand for Settling {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        if self.ascend(reach).is_pending() {
            return Poll::Pending;
        }
        let segment = &*reach.segment;
        // Relaxed: for those who look from outside.
        segment.word(self.at.held_since()).store(0, Ordering::Relaxed);
        let has_ended = |local| reach.has_ended_here(local);
        // Fails where this rank has been declared failed: then others have followed it.
        let _ = QueueLock::new(self.at.queue(), reach.local()).release(segment, &has_ended, |_| false);
        self.usage.end_errand();
        Poll::Ready(())
    }
}

/// A handle that could not be given back, as the node's table was not to be had, or something else was left to do
/// first.
#[derive(Debug)]
pub(super) struct Closing(pub ObjectAt);

impl Errand for Closing {
    fn object(&self) -> WordAt {
        self.0.key()
    }

    fn needs_table(&self) -> bool {
        true
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        match with_table(reach, || catalogue::close(&reach.within(PATIENCE), &self.0)) {
            Err(SiteFault::Late { .. }) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

/// A rank keeps a lock of its node, until what the node has at the home is given up: that did not answer.
pub(super) fn keep(reach: &Reach, at: ObjectAt, usage: Arc<Usage>) {
    note_open(reach, &at);
    usage.leave();
    leave(reach, Settling::new(at, usage));
}

/// Before that: what the node holds there the rank is about to give up, and nobody of the node is to wait for it as for
/// one that holds the lock.
fn note_open(reach: &Reach, at: &ObjectAt) {
    let (tenure, segment) = (TenureAt(*at), &*reach.segment);
    let seen = tenure.load(segment);
    if let Tenure::Held(_) = seen.tenure() {
        // Fails where this rank has been declared failed, or the steward moves the lock.
        let _ = tenure.change(segment, seen, Tenure::Underway(reach.local()));
    }
}

/// Whether who has the node's lock has left something at the home since its tenure was `before`, as that did not
/// answer: then it keeps the node's lock.
pub(super) fn has_left_something(reach: &Reach, at: &ObjectAt, before: TenureWord) -> bool {
    let now = TenureAt(*at).load(&*reach.segment);
    let is_engaged = now != before && now.tenure().is_engaged();
    let home = catalogue::noted_home(reach, at).filter(|(home, _)| is_engaged && !reach.has_lost(*home));
    home.is_some() && reach.own_end().is_none()
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};
    use crate::object::node_lock::NodeLock;
    use crate::object::site::Asked;
    use crate::object::waiting::Wait;
    use crate::{Job, JobOptions};

    /// Its place may have been given back since it was left.
    #[test]
    fn an_errand_finds_no_home_of_an_object_that_has_gone() {
        let job = Job::threads(1).expect("memory").remove(0);
        let reach = &job.membership().reach;
        let at = ObjectAt::of(&reach.segment.layout(), ObjectTable::Here, 1);
        assert!(home_now(reach, &at).is_none(), "nobody has opened it");
        let lock = job.lock("here").expect("room");
        assert_eq!(lock.handle().at, at, "the first place");
        assert_eq!(home_now(reach, &at).map(|home| home.site.home), Some(0));
    }

    /// The last handle is given back while something is at the home that cannot be given back just now.
    #[test]
    fn an_object_that_cannot_go_with_its_last_handle_goes_later() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let reach = &jobs[0].membership().reach;
        let lock = jobs[0].lock(&name_at(&[1], 2, 0)).expect("room");
        let (at, segment) = (lock.handle().at, &*reach.segment);
        let (tenure, usage) = (TenureAt(at), reach.uses.usage_at(at.key()));
        assert!(usage.begin_sweeping(), "this rank does nothing with it");
        tenure.change(segment, tenure.load(segment), Tenure::Underway(0)).expect("nobody else changes it");
        drop(lock);
        let objects = || catalogue::here(reach).all().expect("this node's memory").len();
        assert_eq!(objects(), 1, "what was asked at its home may take effect yet");
        tenure.change(segment, tenure.load(segment), Tenure::Nothing).expect("nobody else changes it");
        usage.end_sweeping();
        await_that("it stays for ever", || objects() == 0);
        let at_home = ObjectAt::of(&reach.layouts[1], ObjectTable::Home, 1);
        let handles = jobs[1].membership().reach.load(at_home.handles(0));
        assert_eq!(handles, 0, "its home has it, too");
    }

    /// A rank was about to give up what its node holds at a home, of a lock or of the table there, when that was not
    /// heard any more. Who waits for it on its node does not wait for ever.
    #[test]
    fn who_waits_for_one_that_waits_for_a_silent_home_is_told_so() {
        const LONG: Duration = Duration::from_secs(20);
        let jobs = on_nodes(&[0, 0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let locks = [0, 1].map(|rank: usize| jobs[rank].lock(&name).expect("room"));
        let reach = &jobs[0].membership().reach;
        let guard = locks[0].acquire().expect("it is free");
        doubt(&jobs[0], 1, true);
        let released = guard.release();
        assert!(matches!(released, Err(LockError::Unreachable { node: 1, .. })), "{released:?}");
        let waited = locks[1].acquire_timeout(LONG).map(drop);
        assert!(matches!(waited, Err(LockError::Unreachable { node: 1, .. })), "{waited:?}");
        doubt(&jobs[0], 1, false);
        await_that("it is not given up", || !is_left(reach, &locks[0].handle().at));
        locks[1].acquire_timeout(LONG).expect("it is free").release().expect("it was held");

        let [table, next] = [0, 1].map(|rank: usize| NodeLock::of_table(jobs[rank].membership()));
        let held = table.during(None, || {
            let climb = Climb::of_table(&Site { reach: reach.clone(), home: 1 });
            climb.acquire_alone().expect("it is free");
            doubt(&jobs[0], 1, true);
            climb.release_alone()
        });
        assert_eq!(held, Ok(Err(SiteFault::Silent { node: 1 })));
        next.request().expect("this rank does nothing with it");
        let waited = next.wait(&mut Wait::new(), Some(LONG));
        assert!(matches!(waited, Err(LockError::Unreachable { node: 1, .. })), "{waited:?}");
        doubt(&jobs[0], 1, false);
        let new = name_at(&[1], 2, 1);
        await_that("the table is kept", || jobs[1].lock(&new).is_ok());
    }

    /// A rank has left the job in the middle of a call. Whoever follows it asks the home whether that has done what
    /// came from it, and the connection breaks: nothing was answered.
    #[test]
    fn a_question_that_a_broken_connection_has_swallowed_is_asked_again() {
        let mut jobs = on_nodes(&[0, 0, 1], &JobOptions::new());
        let lock = jobs[0].lock(&name_at(&[1], 2, 0)).expect("room");
        let (reach, at) = (jobs[0].membership().reach.clone(), lock.handle().at);
        drop(jobs.remove(1));
        await_that("it does not leave", || reach.has_ended(1));
        let (climb, site) = (Climb::new(&reach, at), Site { reach: reach.clone(), home: 1 });
        let mut asked = Some(Asked::cut_off());
        assert_eq!(climb.outlive(&site, 1, &mut asked), Poll::Pending);
        await_that("the home does not answer", || climb.outlive(&site, 1, &mut asked) == Poll::Ready(Ok(())));
    }
}
