//! The second node of an object: the one that would be its home next, by the hash. What would be lost with the home is
//! copied there while both live.
//!
//! Each node whose ranks have the object has a handle of it there, too, and each steward sees to it that its own node's
//! objects have a second node that has all it should: when the object is opened, and when a node was lost. Of a counter
//! that is what ranks have added that would not tell it themselves ([`super::tally`]) if the home were lost:
//!
//! | ranks | their sums are written to the second node by |
//! | --- | --- |
//! | of the home | themselves, before each addition; by the home's steward when another node becomes the second |
//! | of nodes that have the object | nobody: they have them in their own memory, and their steward carries them |
//! | of nodes that have had it | their node when it gives its last handle back; others when another becomes the second |
//! | of lost nodes | the stewards of all, when the home has shut them out |
//!
//! Whoever copies what others have added does so under the lock of the home's table, under which nodes come and go, too.

use super::catalogue::{self, HOME_NODE_AT, Refused};
use super::homes::{Home, name_of};
use super::reach::Reach;
use super::site::Site;
use crate::cluster::view;
use crate::coord::objects::directory::{DirectoryFault, Nature, ObjectKind, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::tally::{CopiesAt, TallyAt};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::Ordering;

/// Noted instead of a second node where no other node lives.
const NOBODY: u64 = 1;

/// Who has an object's copies.
#[derive(Debug)]
pub(super) enum Second {
    /// No other node lives.
    Nobody,
    /// Nobody yet: the steward sees to it.
    Sought,
    /// This node.
    At(Home),
}

/// Whether objects of a nature are copied.
pub(super) fn is_wanted(reach: &Reach, nature: Nature) -> bool {
    reach.spans_nodes() && nature.kind == ObjectKind::Counter && nature.parameter > 0
}

/// Who has the copies of an object of this node.
pub(super) fn of(reach: &Reach, at: &ObjectAt) -> Second {
    let word = reach.load(CopiesAt(*at).second());
    match (word, place(reach, word)) {
        (NOBODY, _) => Second::Nobody,
        (_, Some(second)) if Some(second.site.home) != home_of(reach, at) && !reach.has_lost(second.site.home) => {
            Second::At(second)
        }
        _ => Second::Sought,
    }
}

fn home_of(reach: &Reach, at: &ObjectAt) -> Option<usize> {
    catalogue::noted_home(reach, at).map(|(home, _)| home)
}

#[allow(clippy::cast_possible_truncation, reason = "packed by `note`")]
fn place(reach: &Reach, word: u64) -> Option<Home> {
    let home = (word >> HOME_NODE_AT).checked_sub(1)? as usize;
    let index = (word & ((1 << HOME_NODE_AT) - 1)) as usize;
    let at = ObjectAt::of(&reach.layouts[home], ObjectTable::Home, index);
    Some(Home { site: Site { reach: reach.clone(), home }, at })
}

fn note(reach: &Reach, at: &ObjectAt, second: u64) {
    let looked_after = reach.segment.word(CopiesAt(*at).looked_after());
    // Relaxed: only who has the table reads it.
    looked_after.store(reach.lives() + 1, Ordering::Relaxed);
    // Release pairs with `load`: whoever finds the second node finds there what it should have.
    reach.segment.word(CopiesAt(*at).second()).store(second, Ordering::Release);
}

/// What this node's ranks have added to a counter before, when it opens it anew: as the home has it.
pub(super) fn recall(reach: &Reach, at: &ObjectAt, nature: Nature, home: &Home) -> Result<(), SiteFault> {
    if !is_wanted(reach, nature) {
        return Ok(());
    }
    let tally = TallyAt(home.at);
    let ranks = reach.topology.ranks_of(reach.here());
    let sums = sums_at(home, tally, ranks)?;
    for (local, sum) in sums.into_iter().enumerate() {
        // Relaxed: published by the home's word.
        reach.segment.word(CopiesAt(*at).sum(local)).store(sum, Ordering::Relaxed);
    }
    Ok(())
}

/// What ranks have added, as the home has it.
fn sums_at(home: &Home, tally: TallyAt, ranks: &[usize]) -> Result<Vec<u64>, SiteFault> {
    let reads = ranks.iter().flat_map(|rank| [tally.carried(*rank), tally.added(*rank)]);
    let reads: Vec<Request> = reads.map(|at| Request::Read { at }).collect();
    if reads.is_empty() {
        return Ok(Vec::new());
    }
    let words = home.site.ask(&reads)?;
    Ok(words.chunks_exact(2).map(|pair| pair[0].wrapping_add(pair[1])).collect())
}

/// Sees to it that all of this node's objects that are copied have a second node that has all it should. Whether they have.
/// The caller has this node's table.
pub(super) fn tend_all(reach: &Reach) -> bool {
    let objects = catalogue::here(reach).all().unwrap_or_default();
    let untended = objects.iter().filter(|at| !is_tended(reach, at));
    untended.filter(|at| !tend(reach, at).unwrap_or(false)).count() == 0
}

/// Whether all of this node's objects that are copied are looked after.
pub(super) fn are_tended(reach: &Reach) -> bool {
    catalogue::here(reach).all().unwrap_or_default().iter().all(|at| is_tended(reach, at))
}

fn is_tended(reach: &Reach, at: &ObjectAt) -> bool {
    let is_wanted = nature_of(reach, at).is_some_and(|nature| is_wanted(reach, nature));
    // Before it is noted the object is being opened; where it is lost, the object has to move first.
    let Some(home) = home_of(reach, at).filter(|home| is_wanted && !reach.has_lost(*home)) else { return true };
    match of(reach, at) {
        Second::Nobody => true,
        Second::Sought => false,
        Second::At(second) => second.site.home != home && reach.load(CopiesAt(*at).looked_after()) == reach.lives() + 1,
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
    let home = Home::of(reach, at);
    let others = reach.live_nodes().filter(|node| *node != home.site.home);
    let Some(node) = name.home(others) else {
        note(reach, at, NOBODY);
        return Ok(true);
    };
    let refused = |fault| Refused { fault, node };
    let known = match of(reach, at) {
        Second::At(known) if known.site.home == node => Some(known),
        _ => None,
    };
    let is_new = known.is_none();
    let second = match known {
        Some(known) => known,
        None => {
            let site = Site { reach: reach.clone(), home: node };
            let opened = catalogue::with_home(&site, |directory| directory.open(&name, nature));
            Home { at: opened.map_err(refused)?, site }
        }
    };
    let away = |fault: SiteFault| refused(fault.into());
    if is_new && home.site.is_here() {
        tell_own(reach, at, &second).map_err(away)?;
    }
    // Another node may have seen to it.
    let is_complete = second.site.ask(&reads(&[TallyAt(second.at).complete()])).map_err(away)? == [reach.lives() + 1]
        || catalogue::with_home(&home.site, |_| Ok(copy_others(reach, &home, &second)?)).map_err(refused)?;
    if is_complete {
        note(reach, at, (node as u64 + 1) << HOME_NODE_AT | second.at.index() as u64);
    }
    Ok(is_complete)
}

/// Tells a new second node what the ranks of this one, the home, have added. They add nothing before it is noted.
fn tell_own(reach: &Reach, at: &ObjectAt, second: &Home) -> Result<(), SiteFault> {
    let tally = TallyAt(second.at);
    let mut requests = sums_of_own(reach, at, tally);
    requests.push(Request::Write { at: tally.told(), value: reach.here() as u64 + 1 });
    tell(second, requests)
}

/// What this node's ranks have added, to be written.
fn sums_of_own(reach: &Reach, at: &ObjectAt, tally: TallyAt) -> Vec<Request> {
    let ranks = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let sum = |local| reach.load(CopiesAt(*at).sum(local));
    ranks.map(|(local, rank)| Request::Write { at: tally.carried(*rank), value: sum(local) }).collect()
}

/// Writes, and waits until that is done.
fn tell(home: &Home, mut requests: Vec<Request>) -> Result<(), SiteFault> {
    requests.push(Request::Read { at: home.at.key() });
    loop {
        match home.site.ask(&requests) {
            // They may be written again.
            Err(SiteFault::Broken { .. }) => {}
            told => return told.map(drop),
        }
    }
}

/// Copies what ranks have added whose nodes have no handle. `false`: not all of it is final, or what the home's ranks have
/// added is not there yet. The caller has the table of the home.
fn copy_others(reach: &Reach, home: &Home, second: &Home) -> Result<bool, SiteFault> {
    let lives = reach.lives();
    let (nodes, tally) = (0..reach.topology.nodes(), TallyAt(home.at));
    let handles = nodes.clone().map(|node| home.at.handles(node));
    let facts: Vec<WordAt> = [header::EPOCH].into_iter().chain(handles).collect();
    let facts = home.site.ask(&reads(&facts))?;
    let has_shut_out = facts[0] >= view::epoch(&*reach.segment, &reach.segment.layout());
    if nodes.clone().any(|node| reach.has_lost(node)) && !has_shut_out {
        return Ok(false);
    }
    let has_it = |node: usize| facts[1 + node] > 0 && !reach.has_lost(node);
    if has_it(home.site.home) && second.site.ask(&reads(&[TallyAt(second.at).told()]))? != [home.site.home as u64 + 1] {
        return Ok(false);
    }
    let ranks = nodes.filter(|node| !has_it(*node)).flat_map(|node| reach.topology.ranks_of(node)).copied();
    let ranks: Vec<usize> = ranks.collect();
    let sums = ranks.iter().zip(sums_at(home, tally, &ranks)?).filter(|(_, sum)| *sum != 0);
    let copy = TallyAt(second.at);
    let sums = sums.map(|(rank, value)| Request::Write { at: copy.carried(*rank), value });
    tell(second, sums.chain([Request::Write { at: copy.complete(), value: lives + 1 }]).collect())?;
    Ok(true)
}

fn reads(at: &[WordAt]) -> Vec<Request> {
    at.iter().map(|at| Request::Read { at: *at }).collect()
}

/// Before this node gives its handle at a home back, whose table the caller has: what its ranks have added is noted there
/// and on the second node, whoever of them has died in the middle of what. (One that is sought is sought before: whoever
/// finds it complete does not look at what nodes have added that have left.)
pub(super) fn leave(reach: &Reach, at: &ObjectAt, home: &Home) -> Result<(), SiteFault> {
    if !nature_of(reach, at).is_some_and(|nature| is_wanted(reach, nature)) {
        return Ok(());
    }
    let (tally, ranks) = (TallyAt(home.at), reach.topology.ranks_of(reach.here()));
    let carried: Vec<WordAt> = ranks.iter().map(|rank| tally.carried(*rank)).collect();
    let carried = home.site.ask(&reads(&carried))?;
    let added = ranks.iter().zip(&carried).enumerate().map(|(local, (rank, carried))| {
        let sum = reach.load(CopiesAt(*at).sum(local));
        Request::Write { at: tally.added(*rank), value: sum.wrapping_sub(*carried) }
    });
    tell(home, added.collect())?;
    match of(reach, at) {
        // One that is lost is no copy; the next one has it from the home.
        Second::At(second) => match tell(&second, sums_of_own(reach, at, TallyAt(second.at))) {
            Err(SiteFault::Lost { .. }) => Ok(()),
            told => told,
        },
        Second::Nobody | Second::Sought => Ok(()),
    }
}

/// After that: the handle on the second node is given back.
pub(super) fn close(reach: &Reach, at: &ObjectAt) {
    let Second::At(second) = of(reach, at) else { return };
    // Relaxed: only who has the table reads it now.
    reach.segment.word(CopiesAt(*at).second()).store(0, Ordering::Relaxed);
    let close = || catalogue::with_home(&second.site, |directory| directory.close(&second.at));
    while let Err(DirectoryFault::Away(SiteFault::Broken { .. })) = close() {}
}

/// What ranks of this node have added, for the next home. Where that was not the second node, or did not have all that it
/// should, sums are missing there, and it is told so.
///
/// What it should have is said in [`TallyAt::complete`], with the count of nodes that were lost before the home.
pub(super) fn carry(reach: &Reach, at: &ObjectAt, new: &Home) -> Result<Vec<Request>, SiteFault> {
    if !nature_of(reach, at).is_some_and(|nature| nature.kind == ObjectKind::Counter) {
        return Ok(Vec::new());
    }
    let lives = reach.lives();
    let tally = TallyAt(new.at);
    let mut requests = sums_of_own(reach, at, tally);
    if new.site.ask(&reads(&[tally.complete()]))?[0] < lives {
        requests.push(Request::Write { at: tally.missing(), value: lives });
    }
    Ok(requests)
}
