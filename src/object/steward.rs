//! A node's steward: what becomes of the locks of ranks that have ended, and of objects whose home is lost.
//!
//! In a job of several nodes each process has a thread for this, which sleeps on the alarm; that of the process that speaks
//! for its node is the steward. Whenever somebody has failed or left it looks for objects whose lock on this node is idle or
//! held by one that has ended, and gives back what the node has at their homes. (Where ranks of the node wait they do so
//! themselves.)
//!
//! Objects whose home is lost it moves to the next one: what its node holds it notes there. Objects of which something is
//! copied it gives a second node again when theirs is lost, or has not all ([`super::second`]). When all are moved it says so to
//! all nodes ([`super::homes`]). A steward that ends in the middle is followed by another one, which begins anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::catalogue;
use super::climb::Climb;
use super::election;
use super::homes::{Home, name_of};
use super::lease;
use super::reach::{LIFE_AT, Reach};
use super::second;
use super::shared_hold;
use super::site::Site;
use crate::cluster::view;
use crate::coord::objects::directory::{Nature, ObjectKind, SiteFault};
use crate::coord::objects::home::{GlobalWord, TOKENS};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::permits::PermitsAt;
use crate::coord::objects::queue::QueueLock;
use crate::coord::objects::sharing::SharingAt;
use crate::coord::objects::tenure::{Tenure, TenureAt};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Park, Request, raise_alarm};
use crate::sync::{AtomicU32, Ordering, full_fence};

/// How often it is looked whether this process has come to speak for its node, and whether something is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked after copies that could not all be made.
const TEND_EVERY: Duration = Duration::from_millis(2);
/// While the table of objects is waited for.
const TABLE_PAUSE: Duration = Duration::from_micros(100);
/// How often what could not be given back at once is tried again.
const SWEEPS: u32 = 20;
/// How often it is taken before others.
const MOST_PASSED: u64 = 64;

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
    let mut is_tended = true;
    let mut said = Said::default();
    while is_over.load(Ordering::Relaxed) == 0 {
        let alarm = reach.alarm();
        let speaks = reach.network.as_ref().is_some_and(|network| network.is_agent());
        if speaks && reach.own_end().is_none() {
            // Until all have heard of it: some may not be reached now.
            said.move_all(reach);
            is_tended = second::are_tended(reach) || with_table(reach, || second::tend_all(reach)) == Ok(true);
            if swept != Some(alarm) || left > 0 {
                let is_new = swept.replace(alarm) != Some(alarm);
                left = if is_new { SWEEPS } else { left - 1 };
                if sweep(reach) {
                    left = 0;
                }
            }
        }
        let longest = if is_tended { LOOK_EVERY } else { TEND_EVERY };
        reach.segment.park(header::ALARM, alarm, Some(longest));
    }
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
    let (segment, layout) = (&*reach.segment, reach.segment.layout());
    let has_ended = |local| view::end_of(segment, &layout, local).is_some();
    let queue = QueueLock::new(at.queue(), reach.local());
    queue.free_from_the_dead(segment, &has_ended);
    // Where this rank uses the lock itself, it looks after it.
    let turn = reach.uses.turn_at(at.key());
    if !queue.is_idle(segment) || !climb.is_engaged() || !turn.begin_sweeping() {
        return !climb.is_engaged();
    }
    if queue.try_take(segment, |_| false).is_some() {
        // The object may have gone before: now it stays, since whoever lets it go has this lock, too.
        if climb.is_engaged() && catalogue::noted_home(reach, at).is_some() {
            // Fails where this rank has been declared failed, as the rest does; or the object moves.
            let _ = climb.settle();
        }
        let _ = queue.release(segment, &has_ended, |_| false);
    }
    turn.end_sweeping();
    !climb.is_engaged()
}

/// What this steward has said of lost nodes: their objects have moved. By the nodes that it has said it to.
#[derive(Debug, Default)]
struct Said(HashMap<usize, Vec<u64>>);

impl Said {
    /// Moves what was at home at lost nodes, and says so to all that live.
    fn move_all(&mut self, reach: &Reach) {
        let layout = reach.segment.layout();
        let mut lost = vec![0; layout.moved_words()];
        (0..layout.nodes()).filter(|node| reach.has_lost(*node)).for_each(|node| lost[node / 64] |= 1 << (node % 64));
        let unsaid: Vec<usize> = reach.live_nodes().filter(|node| self.0.get(node) != Some(&lost)).collect();
        if lost.iter().all(|word| *word == 0) || unsaid.is_empty() {
            return;
        }
        // What they wrote here last comes now or never: when this node has said that it has moved, nothing changes any more
        // of what was copied here.
        reach.shut_out_the_lost();
        if move_objects(reach).is_err() {
            return;
        }
        for node in unsaid {
            if say(reach, node, &lost).is_ok() {
                self.0.insert(node, lost.clone());
            }
        }
        // Those who wait for it on this node look again.
        raise_alarm(&*reach.segment);
    }
}

fn say(reach: &Reach, node: usize, lost: &[u64]) -> Result<(), SiteFault> {
    let at = |index| reach.layouts[node].moved(reach.here(), index);
    let writes = lost.iter().enumerate().map(|(index, word)| Request::Write { at: at(index), value: *word });
    // The read's answer says that the writes have arrived.
    let requests: Vec<Request> = writes.chain([Request::Read { at: at(0) }]).collect();
    Site { reach: reach.clone(), home: node }.ask(&requests).map(drop)
}

/// Moves all objects of this node whose home is lost.
fn move_objects(reach: &Reach) -> Result<(), SiteFault> {
    with_table(reach, || {
        let objects = catalogue::here(reach).all().unwrap_or_default();
        let is_homeless =
            |at: &&ObjectAt| catalogue::noted_home(reach, at).is_some_and(|(home, _)| reach.has_lost(home));
        objects.iter().filter(is_homeless).try_for_each(|at| move_object(reach, at))
    })?
}

/// Does something while this rank has its node's table of objects for itself.
fn with_table<T>(reach: &Reach, act: impl FnOnce() -> T) -> Result<T, SiteFault> {
    let _turn = reach.uses.table();
    let (segment, layout) = (&*reach.segment, reach.segment.layout());
    let has_ended = |local| view::end_of(segment, &layout, local).is_some();
    let table = QueueLock::new(ObjectAt::of(&layout, ObjectTable::Here, 0).queue(), reach.local());
    while table.try_take(segment, |passed| passed < MOST_PASSED).is_none() {
        if reach.own_end().is_some() {
            return Err(SiteFault::Excluded);
        }
        table.free_from_the_dead(segment, &has_ended);
        std::thread::sleep(TABLE_PAUSE);
    }
    let done = act();
    table.release(segment, &has_ended, |_| false).map_err(|_| SiteFault::Excluded)?;
    Ok(done)
}

/// Moves an object to the first of its homes that lives. The caller has this node's table.
fn move_object(reach: &Reach, at: &ObjectAt) -> Result<(), SiteFault> {
    let found = [at.parameter(0), at.parameter(1)].map(|at| reach.load(at));
    let nature = ObjectKind::from_number(found[0]).map(|kind| Nature { kind, parameter: found[1] });
    // Nobody can use what is none.
    let (Some(name), Some(nature)) = (name_of(reach, at), nature) else { return Ok(()) };
    let Ok((home, at_home)) = catalogue::open_at_home(reach, &name, nature) else {
        return Err(SiteFault::Lost { home: reach.here() });
    };
    let new = Home { site: Site { reach: reach.clone(), home }, at: at_home };
    let tenure = TenureAt(*at);
    // No number of a home before this one was greater; see `Reach::lives`. (A node that has left may not be known to all.)
    let next_life = (reach.load(tenure.number()) >> LIFE_AT) + 1;
    raise_numbers(&new, next_life.max(reach.lives()) << LIFE_AT)?;
    // Before the object counts as moved: what fails here is done again.
    carry_stakes(reach, at, nature.kind, &new)?;
    second::carry(reach, at, nature.kind, &new)?;
    if nature.kind == ObjectKind::RwLock {
        shared_hold::carry(reach, at, &new)?;
    }
    if nature.kind == ObjectKind::Election {
        election::move_announcement(reach, at, &new)?;
    }
    if nature.kind == ObjectKind::Lease {
        lease::carry_hold(reach, at, &new)?;
    }
    loop {
        let seen = tenure.load(&*reach.segment);
        let kept = match seen.tenure() {
            Tenure::Held(passed) => Tenure::Held(passed),
            // Whoever is on its way begins anew.
            Tenure::Nothing | Tenure::Underway(_) | Tenure::Waiting => Tenure::Nothing,
        };
        let hold = take_over(&new, kept != Tenure::Nothing)?;
        // Relaxed: published by the tenure's word.
        reach.segment.word(tenure.hold()).store(hold.0, Ordering::Relaxed);
        catalogue::note_home(reach, at, home, &at_home);
        if tenure.change(&*reach.segment, seen, kept).is_some() {
            return Ok(());
        }
    }
}

/// Tells a new home what ranks of this node had at the last one.
fn carry_stakes(reach: &Reach, at: &ObjectAt, kind: ObjectKind, new: &Home) -> Result<(), SiteFault> {
    let (segment, layout, ranks) = (&*reach.segment, reach.segment.layout(), reach.topology.ranks());
    // SYNC POINT: stake. The home was seen lost before: pairs with the ranks that note a stake and then look for that.
    full_fence();
    let all = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let living = all.filter(|(local, _)| view::end_of(segment, &layout, *local).is_none());
    let carried = living.filter_map(|(local, rank)| {
        let stake = reach.load(at.stake(local));
        match kind {
            ObjectKind::RwLock => SharingAt::of(&new.at, ranks).carry(*rank, stake),
            ObjectKind::Semaphore => PermitsAt::of(&new.at, ranks).carry(*rank, stake),
            ObjectKind::Lock | ObjectKind::Counter | ObjectKind::Fenced | ObjectKind::Lease | ObjectKind::Election => {
                None
            }
        }
    });
    // The read's answer says that all has arrived.
    let requests: Vec<Request> = carried.chain([Request::Read { at: new.at.key() }]).collect();
    new.site.ask(&requests).map(drop)
}

/// Has a lock's numbers at a home begin with this one, or a later one.
fn raise_numbers(home: &Home, least: u64) -> Result<(), SiteFault> {
    let at = home.at.home().numbers;
    let least = least.next_multiple_of(TOKENS);
    let mut found = home.site.ask(&[Request::Read { at }])?[0];
    while found < least {
        let swapped = home.site.ask(&[Request::CompareSwap { at, expected: found, new: least }])?[0];
        found = if swapped == found { least } else { swapped };
    }
    Ok(())
}

/// Has the home say that this node holds the lock, or that it does not. Nobody else changes that now.
fn take_over(home: &Home, holds: bool) -> Result<GlobalWord, SiteFault> {
    let (here, at) = (home.site.reach.here(), home.at.home().hold);
    let found = GlobalWord(home.site.ask(&[Request::Read { at }])?[0]);
    let wanted = match (holds, found.holder()) {
        (true, Some(holder)) if holder == here => return Ok(found),
        (true, _) => GlobalWord::held(here, 0, false),
        (false, Some(holder)) if holder == here => GlobalWord::FREE,
        (false, _) => return Ok(GlobalWord::FREE),
    };
    home.site.ask(&[Request::CompareSwap { at, expected: found.0, new: wanted.0 }])?;
    Ok(wanted)
}
