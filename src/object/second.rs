//! The second node of an object: the one that would be its home next, by the hash. What would be lost with the home is
//! copied there while both live: of a counter `sums.rs` says what that is, of a fenced word `pairs.rs`.
//!
//! Each node whose ranks have the object has a handle of it there, too. Whoever opens an object, and its node's steward
//! when a node was lost, see to it that it has a second node that has all it should: nobody comes to have a handle
//! before that, unless the second node is silent, or has no room while this node has the object already (then the
//! steward tries again, ten times a second). What others have done there whose nodes have given their handles back, or
//! are lost, is copied under the lock of the home's table, under which nodes come and go, too. A copy says itself
//! whether it has all ([`CopyAt::complete`]): one node's steward is enough.
//!
//! When the home is lost each node's steward adds what its own ranks have noted. Where the copy had not all that it
//! should, because the home was lost with another node, say, whoever looks for the next home finds that out
//! ([`super::anchor::find`]).

use std::time::{Duration, Instant};

use super::catalogue::{self, Refused};
use super::errands;
use super::error::LockError;
use super::homes::{Home, name_of};
use super::reach::Reach;
use super::site::Site;
use super::{Handle, anchor, pairs, sums};
use crate::cluster::view;
use crate::coord::objects::copies::{self, CopiesAt, CopyAt};
use crate::coord::objects::directory::{DirectoryFault, Nature, ObjectKind, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::Name;
use crate::coord::objects::tenure::PlaceWord;
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::Ordering;

/// Between two looks whether there is a second node.
const SEEKING_PAUSE: Duration = Duration::from_micros(100);

/// Who has an object's copies.
#[derive(Debug)]
enum Second {
    /// No other node lives.
    Nobody,
    /// Nobody yet: the steward sees to it.
    Sought,
    /// This node.
    At(Home),
}

/// In the parameter of a fenced word: where the number of its copies begins. Of a counter it is all of it.
pub(super) const COPIES_AT: u32 = 32;

/// Whether objects of a nature are copied.
pub(super) fn is_wanted(reach: &Reach, nature: Nature) -> bool {
    let copies = match nature.kind {
        ObjectKind::Counter => nature.parameter,
        ObjectKind::Fenced => nature.parameter >> COPIES_AT,
        _ => 0,
    };
    reach.spans_nodes() && copies > 0
}

/// Who has the copies of an object of this node.
fn of(reach: &Reach, at: &ObjectAt) -> Second {
    let word = PlaceWord(reach.load(CopiesAt(*at).second()));
    match (word, place(reach, word)) {
        (PlaceWord::NOWHERE, _) => Second::Nobody,
        (_, Some(second)) if Some(second.site.home) != home_of(reach, at) && !reach.has_lost(second.site.home) => {
            Second::At(second)
        }
        _ => Second::Sought,
    }
}

/// The same, for a rank of the home, which waits while nobody has them; `None`: no other node lives.
///
/// # Errors
///
/// [`LockError::Excluded`], [`LockError::Unreachable`].
pub(super) fn await_copy(handle: &Handle) -> Result<Option<Home>, LockError> {
    let begun = Instant::now();
    loop {
        match of(&handle.membership.reach, &handle.at) {
            Second::Nobody => return Ok(None),
            Second::At(second) => return Ok(Some(second)),
            Second::Sought => {
                std::thread::sleep(SEEKING_PAUSE);
                anchor::look_at_oneself(handle)?;
                if let Some(node) = handle.membership.reach.doubted() {
                    return Err(anchor::unreachable(handle, node, begun.elapsed()));
                }
            }
        }
    }
}

fn home_of(reach: &Reach, at: &ObjectAt) -> Option<usize> {
    catalogue::noted_home(reach, at).map(|(home, _)| home)
}

fn place(reach: &Reach, word: PlaceWord) -> Option<Home> {
    let (home, index) = word.place()?;
    let at = ObjectAt::of(&reach.layouts[home], ObjectTable::Home, index);
    Some(Home { site: Site { reach: reach.clone(), home }, at })
}

/// Notes who has the copies, as it was seen when so many nodes were lost.
fn note(reach: &Reach, at: &ObjectAt, second: PlaceWord, lives: u64) {
    let looked_after = reach.segment.word(CopiesAt(*at).looked_after());
    // Relaxed: only who has the table reads it.
    looked_after.store(lives + 1, Ordering::Relaxed);
    // Release pairs with `load`: whoever finds the second node finds there what it should have.
    reach.segment.word(CopiesAt(*at).second()).store(second.0, Ordering::Release);
}

/// Sees to it that all of this node's objects that are copied have a second node that has all it should. `false`: some
/// may have it soon. (One whose directory has no room for it will not.) The caller has this node's table.
pub(super) fn tend_all(reach: &Reach) -> bool {
    let objects = catalogue::here(reach).all().unwrap_or_default();
    let untended = objects.iter().filter(|at| !is_tended(reach, at) || is_stranded(reach, at));
    let is_soon = |at: &&ObjectAt| {
        let lives = reach.lives();
        match tend(reach, at) {
            Ok(is_tended) => !is_tended,
            Err(Refused { fault: DirectoryFault::Away(_) | DirectoryFault::Overtaken, .. }) => true,
            // There is no room for it: it goes on without a copy. The next home will see that something is missing.
            Err(_) => {
                note(reach, at, PlaceWord::NOWHERE, lives);
                false
            }
        }
    };
    let is_later = untended.filter(is_soon).count() > 0;
    // What could not go with its last handle, as its home was lost.
    let _ = catalogue::here(reach).free_unused();
    !is_later
}

/// Whether an object of this node goes without a copy as the node that should have it had no room.
fn is_stranded(reach: &Reach, at: &ObjectAt) -> bool {
    is_copied(reach, at) && matches!(of(reach, at), Second::Nobody) && reach.live_nodes().nth(1).is_some()
}

/// Whether one of them does: there may be room by now.
pub(super) fn are_stranded(reach: &Reach) -> bool {
    catalogue::here(reach).all().unwrap_or_default().iter().any(|at| is_stranded(reach, at))
}

/// Whether all of this node's objects that are copied are looked after.
pub(super) fn are_tended(reach: &Reach) -> bool {
    let here = catalogue::here(reach);
    let is_used = |at: &ObjectAt| !is_copied(reach, at) || here.is_used(at).unwrap_or(true);
    here.all().unwrap_or_default().iter().all(|at| is_tended(reach, at) && is_used(at))
}

/// Whether an object of this node is copied.
pub(super) fn is_copied(reach: &Reach, at: &ObjectAt) -> bool {
    nature_of(reach, at).is_some_and(|nature| is_wanted(reach, nature))
}

/// Whether an object of this node needs a second node, and it is not known yet which one that is.
pub(super) fn is_sought(reach: &Reach, at: &ObjectAt) -> bool {
    is_copied(reach, at) && matches!(of(reach, at), Second::Sought)
}

/// Whether an object of this node has a second node that has all it should, or needs none, or has to move first.
pub(super) fn is_tended(reach: &Reach, at: &ObjectAt) -> bool {
    // Before it is noted the object is being opened.
    let Some(home) = home_of(reach, at).filter(|home| is_copied(reach, at) && !reach.has_lost(*home)) else {
        return true;
    };
    let is_looked_after = reach.load(CopiesAt(*at).looked_after()) == reach.lives() + 1;
    match of(reach, at) {
        Second::Nobody => is_looked_after,
        Second::Sought => false,
        Second::At(second) => second.site.home != home && is_looked_after,
    }
}

fn nature_of(reach: &Reach, at: &ObjectAt) -> Option<Nature> {
    let kind = ObjectKind::from_number(reach.load(at.parameter(0)))?;
    Some(Nature { kind, parameter: reach.load(at.parameter(1)) })
}

/// Sees to one object. `false`: its home's own node is not so far yet, or the home has not shut all out that are lost.
///
/// # Errors
///
/// What the second node's directory says, or that one of the two is out of reach.
pub(super) fn tend(reach: &Reach, at: &ObjectAt) -> Result<bool, Refused> {
    let (Some(name), Some(nature)) = (name_of(reach, at), nature_of(reach, at)) else { return Ok(true) };
    if !is_wanted(reach, nature) || catalogue::noted_home(reach, at).is_none() {
        return Ok(true);
    }
    let (home, lives) = (Home::of(reach, at), reach.lives());
    let others = reach.live_nodes().filter(|node| *node != home.site.home);
    let Some(node) = name.home(others) else {
        note(reach, at, PlaceWord::NOWHERE, lives);
        return Ok(true);
    };
    let refused = |fault| Refused { fault, node };
    let known = match of(reach, at) {
        Second::At(known) if known.site.home == node => Some(known),
        _ => None,
    };
    let away = |fault: SiteFault| refused(fault.into());
    let second = match known {
        Some(known) => known,
        None => {
            let second = open_at(reach, &name, nature, &home, node).map_err(refused)?;
            if home.site.is_here() {
                tell_own(reach, at, nature.kind, &second).map_err(away)?;
            }
            second
        }
    };
    // Another node may have seen to it.
    let is_complete = second.site.ask(&reads(&[CopyAt(second.at).complete()])).map_err(away)? == [lives + 1]
        || catalogue::with_home(&home.site, |_| Ok(copy_others(reach, nature.kind, &home, &second, lives)?))
            .map_err(refused)?;
    if is_complete {
        note(reach, at, PlaceWord::new(node, second.at.index()), lives);
    }
    Ok(is_complete)
}

/// Opens an object on another node than its home, which is to have the copies.
fn open_at(reach: &Reach, name: &Name, nature: Nature, home: &Home, node: usize) -> Result<Home, DirectoryFault> {
    let made = home.site.ask(&reads(&[CopyAt(home.at).made()]))?[0];
    let site = Site { reach: reach.clone(), home: node };
    let at = catalogue::with_home(&site, |directory| {
        let at = directory.open(name, nature)?;
        begin_copy(&site, &at, made, home.site.home)?;
        Ok(at)
    })?;
    Ok(Home { at, site })
}

/// This node is the home: tells a new second node what its ranks have noted here, and that it has.
fn tell_own(reach: &Reach, at: &ObjectAt, kind: ObjectKind, second: &Home) -> Result<(), SiteFault> {
    let own = if kind == ObjectKind::Counter { sums::of_own(reach, at, second.at) } else { Vec::new() };
    let is_told = Request::Write { at: CopyAt(second.at).told(), value: reach.here() as u64 + 1 };
    tell(second, own.into_iter().chain([is_told]).collect())
}

/// Has a copy be of one object, which was made at a home with a number: what there is of another one of the same name,
/// whose last handle is just being given back, is no part of it. The caller has the table of the copy's node.
fn begin_copy(site: &Site, at: &ObjectAt, made: u64, home: usize) -> Result<(), SiteFault> {
    let of = CopyAt(*at).of();
    let wanted = [made, home as u64 + 1];
    let found = site.ask(&reads(&of))?;
    if found == wanted {
        return Ok(());
    }
    let handles = (0..at.members()).map(|member| at.handles(member));
    let kept: Vec<WordAt> = handles.chain([at.home().numbers, CopyAt(*at).made()]).collect();
    // Of a new place there is nothing to wipe.
    let is_other = found != [0, 0];
    let wiped = at.state().filter(|word| is_other && !kept.contains(word)).map(|at| Request::Write { at, value: 0 });
    let named = of.into_iter().zip(wanted).map(|(at, value)| Request::Write { at, value });
    tell(&Home { site: site.clone(), at: *at }, wiped.chain(named).collect())
}

/// Copies what others have done at the home whose nodes have no handle. `false`: not all of it is final, or the part of
/// the home's ranks is not there yet. The caller has the table of the home.
fn copy_others(reach: &Reach, kind: ObjectKind, home: &Home, second: &Home, lives: u64) -> Result<bool, SiteFault> {
    let (nodes, copy) = (0..reach.topology.nodes(), CopyAt(second.at));
    let handles = nodes.clone().map(|node| home.at.handles(node));
    let facts: Vec<WordAt> = [header::EPOCH].into_iter().chain(handles).collect();
    let facts = home.site.ask(&reads(&facts))?;
    let has_shut_out = facts[0] >= view::epoch(&*reach.segment, &reach.segment.layout());
    let has_it = |node: usize| facts[1 + node] > 0 && !reach.has_lost(node);
    let told = second.site.ask(&reads(&[copy.told()]))?[0];
    let has_shut_out = has_shut_out || reach.lives() == 0;
    if !copies::may_be_complete(has_shut_out, home.site.home, has_it(home.site.home), told) {
        return Ok(false);
    }
    match kind {
        ObjectKind::Counter => {
            let ranks = nodes.filter(|node| !has_it(*node)).flat_map(|node| reach.topology.ranks_of(node)).copied();
            tell(second, sums::of_others(home, second.at, &ranks.collect::<Vec<usize>>())?)?;
        }
        _ => pairs::copy(reach, home, second)?,
    }
    tell(second, vec![Request::Write { at: copy.complete(), value: lives + 1 }])?;
    Ok(true)
}

pub(super) fn reads(at: &[WordAt]) -> Vec<Request> {
    at.iter().map(|at| Request::Read { at: *at }).collect()
}

/// Writes, and waits until that is done.
pub(super) fn tell(home: &Home, mut requests: Vec<Request>) -> Result<(), SiteFault> {
    requests.push(Request::Read { at: home.at.key() });
    loop {
        match home.site.ask(&requests) {
            // They may be written again.
            Err(SiteFault::Broken { .. }) => {}
            told => return told.map(drop),
        }
    }
}

/// Before this node gives its handle at a home back, whose table the caller has: what its ranks have done there is
/// noted on the second node, whoever of them has died in the middle of what. (One that is sought is sought before:
/// whoever finds a copy complete does not look at what nodes have done that have left.)
pub(super) fn leave(reach: &Reach, at: &ObjectAt, home: &Home) -> Result<(), SiteFault> {
    let Some(nature) = nature_of(reach, at).filter(|nature| is_wanted(reach, *nature)) else { return Ok(()) };
    if nature.kind == ObjectKind::Counter {
        tell(home, sums::settled(reach, at, home)?)?;
    }
    // A second node that is lost is no copy; the next one has it from the home.
    let Second::At(second) = of(reach, at) else { return Ok(()) };
    let told = match nature.kind {
        ObjectKind::Counter => tell(&second, sums::of_own(reach, at, second.at)),
        _ => pairs::carry(reach, at, &second),
    };
    if let Err(SiteFault::Lost { .. }) = told { Ok(()) } else { told }
}

/// After that: the handle on the second node is given back. `false`: it does not answer; the handle is noted still.
pub(super) fn close(reach: &Reach, at: &ObjectAt) -> bool {
    let Second::At(second) = of(reach, at) else { return true };
    let word = reach.segment.word(CopiesAt(*at).second());
    // Relaxed, here and below: only who has the table reads it now.
    word.store(0, Ordering::Relaxed);
    match catalogue::close_at(reach, at, &second, || Ok(())) {
        Err(DirectoryFault::Away(SiteFault::Silent { .. } | SiteFault::Late { .. })) => {
            word.store(PlaceWord::new(second.site.home, second.at.index()).0, Ordering::Relaxed);
            errands::tidy_later(reach);
            false
        }
        _ => true,
    }
}

/// Adds what this node's ranks have done to the next home.
pub(super) fn carry(reach: &Reach, at: &ObjectAt, kind: ObjectKind, new: &Home) -> Result<(), SiteFault> {
    match kind {
        ObjectKind::Counter => tell(new, sums::of_own(reach, at, new.at)),
        ObjectKind::Fenced => pairs::carry(reach, at, new),
        _ => Ok(()),
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;

    /// The node that should have the copies has no room for them, and has some later.
    #[test]
    fn what_goes_without_a_copy_has_one_when_there_is_room() {
        const PLACES: usize = 2;
        let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new().objects(PLACES));
        let full = [0, 1].map(|index| jobs[1].lock(&name_at(&[1], 3, index)).expect("room"));
        let counter = jobs[0].counter(&name_at(&[0, 2], 3, 0)).expect("room");
        let (reach, at) = (jobs[0].membership().reach.clone(), counter.handle.at);
        assert!(matches!(of(&reach, &at), Second::At(second) if second.site.home == 2));
        drop(jobs.remove(2));
        await_that("it has a copy", || matches!(of(&reach, &at), Second::Nobody));
        drop(full);
        await_that("it has none", || matches!(of(&reach, &at), Second::At(second) if second.site.home == 1));
    }
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// A node that has added gives its handle back when nothing is heard of the second node, which it knows or seeks;
    /// when that is heard again the home is lost.
    #[test]
    fn what_a_node_has_added_that_leaves_while_the_second_is_silent_is_not_lost_with_the_home() {
        for is_known in [true, false] {
            let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new());
            let name = name_at(&[1, 2], 3, 0);
            let open = |job: &crate::Job| job.counter(&name).expect("room");
            let (counter, _home, other) = (open(&jobs[0]), open(&jobs[1]), open(&jobs[2]));
            assert_eq!(counter.fetch_add(10), Ok(0));
            let (reach, at) = (jobs[0].membership().reach.clone(), counter.handle.at);
            doubt(&jobs[0], 2, true);
            if !is_known {
                reach.segment.word(CopiesAt(at).second()).store(0, Ordering::Relaxed);
            }
            drop(counter);
            doubt(&jobs[0], 2, false);
            await_that("it does not go", || catalogue::here(&reach).all().expect("this node's memory").is_empty());
            drop((_home, jobs.remove(1)));
            await_that("the home does not leave", || other.handle.membership.reach.has_lost(1));
            assert_eq!(other.load(), Ok(10), "{is_known}");
            assert_eq!(open(&jobs[0]).fetch_add(1), Ok(10), "{is_known}");
        }
    }
}
