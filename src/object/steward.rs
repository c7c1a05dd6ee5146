//! A node's steward: what becomes of the locks of ranks that have ended, and of objects whose home is lost.
//!
//! In a job of several nodes each process has a thread for this, which sleeps on the alarm; that of the process that
//! speaks for its node is the steward. Whenever somebody has failed or left it looks for objects whose lock on this
//! node is idle or held by one that has ended, and gives back what the node has at their homes. (Where ranks of the
//! node wait they do so themselves.)
//!
//! Objects whose home is lost it moves to the next one: what its node holds it notes there. Objects of which something
//! is copied it gives a second node again when theirs is lost, or has not all ([`super::second`]). Objects that only
//! the dead have left go, so that their homes have room for others. When all are moved it says so to all nodes
//! ([`super::homes`]). The same thread runs its own rank's errands ([`super::errands`]). A steward that ends in the
//! middle is followed by another one, which begins anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::catalogue::{self, Refused};
use super::climb::Climb;
use super::election;
use super::errands::{self, Settling, has_left_something};
use super::homes::{Home, bit_of, name_of};
use super::lease;
use super::node_lock::MOST_PASSED;
use super::reach::Reach;
use super::second;
use super::shared_hold;
use super::site::Site;
use crate::cluster::view::{self, FailureCause};
use crate::coord::objects::directory::{DirectoryFault, Nature, ObjectKind, SiteFault};
use crate::coord::objects::home::HomeLock;
use crate::coord::objects::home::moving::{Change, LastHome, MoveTurn, Moving, least_number};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::permits::PermitsAt;
use crate::coord::objects::queue::QueueLock;
use crate::coord::objects::sharing::SharingAt;
use crate::coord::objects::tenure::{PlaceWord, TenureAt};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Park, Request, WordAt, raise_alarm};
use crate::job::is_dead;
use crate::sync::{AtomicU32, Ordering, full_fence};

/// How often it is looked whether this process has come to speak for its node, and whether something is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked after copies that could not all be made.
const TEND_EVERY: Duration = Duration::from_millis(2);
/// While the table of objects is waited for.
const TABLE_PAUSE: Duration = Duration::from_micros(100);
/// How long it is waited for at a time.
const TABLE_LIMIT: Duration = Duration::from_millis(100);
/// How often what could not be given back at once is tried again.
const SWEEPS: u32 = 20;

/// At work until it is dropped.
#[derive(Debug)]
pub(crate) struct Steward {
    reach: Reach,
    is_over: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Steward {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn start(reach: &Reach) -> std::io::Result<Self> {
        let is_over = Arc::new(AtomicU32::new(0));
        let (own, flag) = (reach.clone(), Arc::clone(&is_over));
        let thread = std::thread::Builder::new().name("phalanx-steward".to_owned()).spawn(move || run(&own, &flag))?;
        Ok(Self { reach: reach.clone(), is_over, thread: Some(thread) })
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.is_over.store(1, Ordering::Relaxed);
        // It may wait for a home that does not answer.
        self.reach.uses.leave();
        let Some(thread) = self.thread.take() else { return };
        // It may be about to fall asleep, and then nobody wakes it but once more.
        while !thread.is_finished() {
            self.reach.segment.wake(header::ALARM);
            std::thread::sleep(Duration::from_micros(50));
        }
        let _ = thread.join();
    }
}

fn run(reach: &Reach, is_over: &AtomicU32) {
    let (mut swept, mut left) = (None, 0_u32);
    let (mut is_tended, mut is_moved) = (true, true);
    let mut tried = Instant::now();
    let mut said = Said::default();
    while is_over.load(Ordering::Relaxed) == 0 {
        let alarm = reach.alarm();
        let speaks = reach.network.as_ref().is_some_and(|network| network.is_agent());
        let lives = reach.own_end().is_none();
        if speaks && lives && has_relics(reach) {
            errands::tidy_later(reach);
        }
        let has_errands = lives && errands::run(reach);
        if speaks && lives {
            // Until all have heard of it: some may not be reached now.
            is_moved = said.move_all(reach);
            let is_due = tried.elapsed() >= LOOK_EVERY && second::are_stranded(reach);
            if is_due {
                tried = Instant::now();
            }
            is_tended =
                second::are_tended(reach) && !is_due || with_table(reach, || second::tend_all(reach)) == Ok(true);
            if swept != Some(alarm) || left > 0 {
                let is_new = swept.replace(alarm) != Some(alarm);
                left = if is_new { SWEEPS } else { left - 1 };
                if sweep(reach) {
                    left = 0;
                }
            }
        }
        let longest = if is_tended && is_moved && !has_errands { LOOK_EVERY } else { TEND_EVERY };
        reach.segment.park(header::ALARM, alarm, Some(longest));
    }
    reach.uses.errands.give_up();
}

/// Whether this node has an object that only the dead have left: its home has a handle of it, and it may be that others
/// have no room there.
fn has_relics(reach: &Reach) -> bool {
    let dead: Vec<usize> =
        (0..reach.segment.layout().ranks()).filter(|local| is_dead(&reach.segment, *local)).collect();
    if dead.is_empty() {
        return false;
    }
    let here = catalogue::here(reach);
    let was_theirs = |at: &ObjectAt| dead.iter().any(|local| reach.load(at.handles(*local)) > 0);
    let is_relic = |at: &ObjectAt| was_theirs(at) && !here.is_used(at).unwrap_or(true);
    here.all().unwrap_or_default().iter().any(is_relic)
}

/// Gives back what this node has at homes and has no use of. Whether nothing is left there.
fn sweep(reach: &Reach) -> bool {
    let table = ObjectAt::of(&reach.segment.layout(), ObjectTable::Here, 0);
    let objects = catalogue::here(reach).all().unwrap_or_default();
    let unsettled = std::iter::once(table).chain(objects).filter(|at| !settle(reach, at));
    unsettled.count() == 0
}

/// Gives back what this node has at the home of an object and has no use of. Whether it has nothing there now.
pub(super) fn settle(reach: &Reach, at: &ObjectAt) -> bool {
    let is_shared = reach.load(at.parameter(0)) == ObjectKind::RwLock as u64;
    let is_closed = !is_shared || shared_hold::settle(reach, at);
    settle_lock(reach, at) && is_closed
}

/// Likewise the lock, if none of the node's ranks has or wants that.
fn settle_lock(reach: &Reach, at: &ObjectAt) -> bool {
    let climb = match catalogue::noted_home(reach, at) {
        None => return true,
        Some((home, _)) if at.index() == 0 => Climb::of_table(&Site { reach: reach.clone(), home }),
        Some(_) => Climb::new(reach, *at),
    };
    let (segment, has_ended) = (&*reach.segment, |local| reach.has_ended_here(local));
    let queue = QueueLock::new(at.queue(), reach.local());
    queue.free_from_the_dead(segment, &has_ended);
    // Where this rank uses the lock itself, it looks after it.
    let usage = reach.uses.usage_at(at.key());
    if !queue.is_idle(segment) || !climb.is_engaged() || !usage.begin_sweeping() {
        return !climb.is_engaged();
    }
    if queue.try_take(segment, |_| false).is_some() {
        // The object may have gone before: now it stays, since whoever lets it go has this lock, too.
        if climb.is_engaged() && catalogue::noted_home(reach, at).is_some() {
            // Fails where this rank has been declared failed, as the rest does; or the object moves.
            if let Err(SiteFault::Silent { .. } | SiteFault::Late { .. }) = climb.settle()
                && climb.is_engaged()
            {
                usage.leave();
                errands::leave(reach, Settling::new(*at, usage));
                return false;
            }
        }
        let _ = queue.release(segment, &has_ended, |_| false);
    }
    usage.end_sweeping();
    !climb.is_engaged()
}

/// What this steward has said of lost nodes: their objects have moved, but for some. By the nodes that it has said it
/// to.
#[derive(Debug, Default)]
struct Said {
    to: HashMap<usize, (Vec<u64>, u64)>,
    /// When it was last tried to move those that had no room at their next homes, and which these were: a bit of each,
    /// by the home.
    tried: Option<Instant>,
    stranded: Vec<u64>,
}

impl Said {
    /// Moves what was at home at lost nodes, and says so to all that live. Whether that is done.
    fn move_all(&mut self, reach: &Reach) -> bool {
        let layout = reach.segment.layout();
        let mut lost = vec![0; layout.moved_words()];
        (0..layout.nodes()).filter(|node| reach.has_lost(*node)).for_each(|node| lost[node / 64] |= 1 << (node % 64));
        let is_due =
            self.stranded.iter().any(|bits| *bits != 0) && self.tried.is_none_or(|tried| tried.elapsed() >= LOOK_EVERY);
        if lost.iter().all(|word| *word == 0) || !is_due && self.unsaid(reach, &lost).is_empty() {
            return true;
        }
        // What they wrote here last comes now or never: when this node has said that it has moved, nothing changes any
        // more of what was copied here.
        reach.shut_out_the_lost();
        match move_objects(reach) {
            Ok(stranded) => self.stranded = stranded,
            Err(_) => return false,
        }
        self.tried = Some(Instant::now());
        let unsaid = self.unsaid(reach, &lost);
        for node in &unsaid {
            let stranded = self.stranded[*node];
            if say(reach, *node, &lost, stranded).is_ok() {
                self.to.insert(*node, (lost.clone(), stranded));
            }
        }
        if !unsaid.is_empty() {
            // Those who wait for it on this node look again.
            raise_alarm(&*reach.segment);
        }
        self.unsaid(reach, &lost).is_empty()
    }

    /// Those to whom it is to be said, or to be said anew.
    fn unsaid(&self, reach: &Reach, lost: &[u64]) -> Vec<usize> {
        let stranded = |node: usize| self.stranded.get(node).copied().unwrap_or(0);
        let knows = |node: &usize| self.to.get(node).is_some_and(|said| said.0 == lost && said.1 == stranded(*node));
        reach.live_nodes().filter(|node| !knows(node)).collect()
    }
}

/// Adds to what this node has said to another one that has moved, after which objects have not. None of it is taken
/// back by a steward that was stopped and comes back: it knows less than the one that has followed it.
fn say(reach: &Reach, node: usize, lost: &[u64], stranded: u64) -> Result<(), SiteFault> {
    let site = Site { reach: reach.clone(), home: node };
    await_shutting_out(&site)?;
    let layout = reach.layouts[node];
    change(&site, layout.stranded(reach.here()), |_| stranded)?;
    for (index, lost) in lost.iter().enumerate() {
        change(&site, layout.moved(reach.here(), index), |found| found | lost)?;
    }
    Ok(())
}

/// Changes a word that only this node changes.
fn change(site: &Site, at: WordAt, wanted: impl Fn(u64) -> u64) -> Result<(), SiteFault> {
    let mut change = Change::of(at);
    let mut next = Err(change.begin());
    while let Err(request) = next {
        next = change.answered(site.ask(&[request])?[0], &wanted);
    }
    Ok(())
}

/// Why an object was not moved.
enum Unmoved {
    /// Its next home has no room for it.
    NoRoom { home: usize, bit: u64 },
    /// It is to be tried again.
    Later(SiteFault),
}

impl From<SiteFault> for Unmoved {
    fn from(fault: SiteFault) -> Self {
        Self::Later(fault)
    }
}

/// Moves all objects of this node whose home is lost. Gives those for which there is no room, a bit of each, by the
/// home.
fn move_objects(reach: &Reach) -> Result<Vec<u64>, SiteFault> {
    with_table(reach, || {
        let objects = catalogue::here(reach).all().unwrap_or_default();
        let is_homeless =
            |at: &&ObjectAt| catalogue::noted_home(reach, at).is_some_and(|(home, _)| reach.has_lost(home));
        let (mut stranded, mut later) = (vec![0; reach.topology.nodes()], None);
        for at in objects.iter().filter(is_homeless) {
            match move_object(reach, at) {
                Ok(()) => {}
                Err(Unmoved::NoRoom { home, bit }) => {
                    stranded[home] |= bit;
                    // Relaxed: the alarm that is raised then has waiters look.
                    let word = reach.segment.word(TenureAt(*at).complete_home());
                    word.store(TenureAt::NO_ROOM | (home as u64 + 1), Ordering::Relaxed);
                }
                // The others do not wait for it.
                Err(Unmoved::Later(fault)) => later = Some(fault),
            }
        }
        later.map_or(Ok(stranded), Err)
    })?
}

/// Does something while this rank has its node's table of objects for itself.
pub(super) fn with_table<T>(reach: &Reach, act: impl FnOnce() -> T) -> Result<T, SiteFault> {
    let _turn = reach.uses.table();
    let begun = Instant::now();
    let (segment, has_ended) = (&*reach.segment, |local| reach.has_ended_here(local));
    let at = ObjectAt::of(&segment.layout(), ObjectTable::Here, 0);
    let table = QueueLock::new(at.queue(), reach.local());
    while table.try_take(segment, |passed| passed < MOST_PASSED).is_none() {
        if reach.own_end().is_some() {
            return Err(SiteFault::Excluded);
        }
        // Somebody may keep it for a home that does not answer.
        if begun.elapsed() >= TABLE_LIMIT {
            return Err(SiteFault::Late { home: reach.here() });
        }
        table.free_from_the_dead(segment, &has_ended);
        std::thread::sleep(TABLE_PAUSE);
    }
    let before = TenureAt(at).load(segment);
    let done = act();
    if has_left_something(reach, &at, before) {
        let usage = reach.uses.usage_at(at.key());
        errands::keep(reach, at, usage);
        return Ok(done);
    }
    table.release(segment, &has_ended, |_| false).map_err(|_| SiteFault::Excluded)?;
    Ok(done)
}

/// Moves an object to the first of its homes that lives. The caller has this node's table.
fn move_object(reach: &Reach, at: &ObjectAt) -> Result<(), Unmoved> {
    let found = [at.parameter(0), at.parameter(1)].map(|at| reach.load(at));
    let nature = ObjectKind::from_number(found[0]).map(|kind| Nature { kind, parameter: found[1] });
    // Nobody can use what is none.
    let (Some(name), Some(nature)) = (name_of(reach, at), nature) else { return Ok(()) };
    let (home, at_home) = match catalogue::open_at_home(reach, &name, nature) {
        Ok(opened) => opened,
        Err(Refused { fault: DirectoryFault::Away(fault), .. }) => return Err(fault.into()),
        Err(Refused { fault: DirectoryFault::Overtaken, node }) => return Err(SiteFault::Broken { home: node }.into()),
        Err(Refused { node, .. }) => return Err(Unmoved::NoRoom { home: node, bit: bit_of(&name) }),
    };
    let new = Home { site: Site { reach: reach.clone(), home }, at: at_home };
    let tenure = TenureAt(*at);
    await_shutting_out(&new.site)?;
    let mut moving = Moving::new(HomeLock::new(new.at.home(), reach.here(), at.index()));
    let raised = moving.raise(least_number(reach.load(tenure.number()), reach.lives()));
    drive(&new.site, &mut moving, raised)?;
    // Before the object counts as moved: what fails here is done again.
    carry_stakes(reach, at, nature.kind, &new)?;
    second::carry(reach, at, nature.kind, &new)?;
    if nature.kind == ObjectKind::RwLock {
        shared_hold::carry(reach, at, &new)?;
    }
    if nature.kind.is_election() {
        election::move_announcement(reach, at, nature.kind, &new)?;
    }
    if nature.kind.has_ttl() {
        lease::carry_hold(reach, at, &new)?;
    }
    loop {
        let last = LastHome::of(tenure, &*reach.segment);
        let carry = moving.carry(&last);
        let MoveTurn::Carried(carried) = drive(&new.site, &mut moving, carry)? else {
            return Err(SiteFault::Broken { home }.into());
        };
        let place = PlaceWord::new(home, at_home.index());
        let is_overtaken = reach.own_end().is_some() || !last.note(tenure, &*reach.segment, place, carried);
        if is_overtaken {
            return Err(SiteFault::Broken { home }.into());
        }
        if tenure.change(&*reach.segment, last.seen, last.kept()).is_some() {
            return Ok(());
        }
    }
}

/// Asks the next home what the machine wants, until that has come to the end of its step.
fn drive(site: &Site, moving: &mut Moving, mut turn: MoveTurn) -> Result<MoveTurn, SiteFault> {
    while let MoveTurn::Ask(requests) = turn {
        turn = moving.answered(&site.ask(&requests)?, |node| site.reach.has_lost(node));
    }
    Ok(turn)
}

/// Before a home is told anything: what a rank of this node has sent there that has ended, a steward perhaps, must not
/// arrive after that. `Err`: it may yet.
fn await_shutting_out(site: &Site) -> Result<(), SiteFault> {
    let (reach, home) = (&site.reach, site.home);
    if site.is_here() {
        return Ok(());
    }
    let (segment, layout) = (&*reach.segment, reach.segment.layout());
    let ranks = reach.topology.ranks_of(reach.here()).iter().enumerate();
    // One that has left had said all that it had to say before.
    let has_failed = |local| view::end_of(segment, &layout, local).is_some_and(|end| end.cause != FailureCause::Left);
    let failed = ranks.filter(|(local, _)| has_failed(*local));
    let mut needed = 0;
    for (_, rank) in failed {
        needed = needed.max(reach.epoch_of(*rank).ok_or(SiteFault::Broken { home })?);
    }
    match needed > 0 && site.ask(&[Request::Read { at: header::EPOCH }])?[0] < needed {
        true => Err(SiteFault::Broken { home }),
        false => Ok(()),
    }
}

/// Tells a new home what ranks of this node had at the last one.
fn carry_stakes(reach: &Reach, at: &ObjectAt, kind: ObjectKind, new: &Home) -> Result<(), SiteFault> {
    let ranks = reach.topology.ranks();
    // SYNC POINT: stake. The home was seen lost before: pairs with the ranks that note a stake and then look for that.
    full_fence();
    let all = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let living = all.filter(|(local, _)| !reach.has_ended_here(*local));
    let carried = living.filter_map(|(local, rank)| {
        let stake = reach.load(at.stake(local));
        match kind {
            ObjectKind::RwLock => SharingAt::of(&new.at, ranks).carry(*rank, stake),
            ObjectKind::Semaphore => PermitsAt::of(&new.at, ranks).carry(*rank, stake),
            ObjectKind::Lock
            | ObjectKind::Counter
            | ObjectKind::Fenced
            | ObjectKind::Lease
            | ObjectKind::Election
            | ObjectKind::LeasedElection => None,
        }
    });
    // The read's answer says that all has arrived.
    let requests: Vec<Request> = carried.chain([Request::Read { at: new.at.key() }]).collect();
    new.site.ask(&requests).map(drop)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::coord::objects::home::moving::Carried;
    use crate::coord::objects::home::{GlobalWord, NodeClaim};
    use crate::coord::objects::tenure::Tenure;
    use crate::job::pretended::{await_that, name_at, on_nodes};
    use crate::{Job, JobOptions};

    /// How far the node is at the home that is lost, with its claim.
    fn put(reach: &Reach, tenure: TenureAt, far: Tenure, claim: NodeClaim) {
        let memory = &*reach.segment;
        memory.word(tenure.claim()).store(claim.0, Ordering::Relaxed);
        tenure.change(memory, tenure.load(memory), far).expect("nobody else changes it");
    }

    /// Notes that the lock is at home at a node; whether nobody else has.
    fn note(reach: &Reach, last: &LastHome, tenure: TenureAt, node: usize, hold: GlobalWord, claim: u64) -> bool {
        let claim = NodeClaim::waiting(claim, tenure.0.index());
        last.note(tenure, &*reach.segment, PlaceWord::new(node, 1), Carried { hold, claim })
    }

    /// A steward is stopped when it has told the next home all, and comes back when another one has moved the object,
    /// and the node has gone on; also when that home is lost, too.
    #[test]
    fn a_steward_that_comes_back_takes_nothing_back() {
        let job = Job::threads(1).expect("memory").remove(0);
        let reach = &job.membership().reach;
        for far in [Tenure::Nothing, Tenure::Kept, Tenure::Underway(0), Tenure::Waiting, Tenure::Held(3)] {
            let lock = job.lock("moved").expect("room");
            let (at, memory) = (lock.handle().at, &*reach.segment);
            let (tenure, place) = (TenureAt(at), at.index());
            let words = || -> Vec<u64> { (0..8).map(|index| reach.load(at.own(index))).collect() };
            put(reach, tenure, far, NodeClaim::waiting(7, place));
            let late = LastHome::of(tenure, memory);
            for (home, claim) in [(1, 8), (2, 9)] {
                let last = LastHome::of(tenure, memory);
                let hold = if last.kept() == Tenure::Held(3) { GlobalWord::held(0, 5, true) } else { GlobalWord::FREE };
                assert!(note(reach, &last, tenure, home, hold, claim), "{far:?}: nobody else does");
                tenure.change(memory, last.seen, last.kept()).expect("nobody has gone on meanwhile");
                let before = words();
                assert!(!note(reach, &late, tenure, 1, hold, 8), "{far:?}");
                assert_eq!(words(), before, "{far:?}, from home {home}");
                assert_eq!(tenure.change(memory, late.seen, late.kept()), None, "{far:?}");
            }
        }
    }

    /// The next home is the node of a steward that was stopped and is followed. Nobody shuts it out there: it looks
    /// itself.
    #[test]
    fn a_steward_that_comes_back_tells_its_own_node_nothing() {
        let mut jobs = on_nodes(&[0, 0, 1], &JobOptions::new());
        let name = name_at(&[1, 0], 2, 0);
        let open = |rank: usize, jobs: &[Job]| jobs[rank].counter(&name).expect("room");
        let counters = [open(0, &jobs), open(1, &jobs)];
        assert_eq!([counters[0].fetch_add(1), counters[1].fetch_add(2)], [Ok(0), Ok(1)]);
        let (reach, at) = (jobs[0].membership().reach.clone(), counters[0].handle.at);
        jobs[1].membership().declare_stopped(0);
        drop(jobs.pop());
        await_that("the object does not move", || {
            catalogue::noted_home(&reach, &at).is_some_and(|(home, _)| home == 0)
        });
        assert_eq!(counters[1].fetch_add(4), Ok(3));
        let new = Home::of(&reach, &at);
        let words = || -> Vec<u64> { new.at.state().map(|at| reach.load(at)).collect() };
        let before = words();
        let excluded = Err(SiteFault::Excluded);
        assert_eq!(second::carry(&reach, &at, ObjectKind::Counter, &new), excluded);
        assert_eq!(carry_stakes(&reach, &at, ObjectKind::Semaphore, &new), excluded);
        let mut moving = Moving::new(HomeLock::new(new.at.home(), reach.here(), at.index()));
        let raised = moving.raise(least_number(u64::MAX >> 9, 0));
        assert_eq!(drive(&new.site, &mut moving, raised).map(drop), excluded);
        let carry = moving.carry(&LastHome::of(TenureAt(at), &*reach.segment));
        assert_eq!(drive(&new.site, &mut moving, carry).map(drop), excluded);
        assert_eq!(words(), before);
        assert_eq!(counters[1].load(), Ok(7));
    }
}
