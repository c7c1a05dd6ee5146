//! How an object is found: in this node's directory, and in that of its home, where each node counts as one.
//!
//! Whoever has this node's table to itself does both, so that the home's handle of this node is taken with the first of
//! the node's handles and given back with the last. The home's table is guarded by the lock between nodes of its
//! place 0. Which home that is, is noted before: where a rank ends in between, or is not answered, the home has a handle
//! of this node too many only until the object goes here, or the name is opened again. An object that only the dead have left does not go before what they held at its home is given
//! back. Objects that are copied have a handle at a second node, too, taken and given back likewise
//! ([`super::second`]).

use std::cell::Cell;
use std::time::Duration;

use super::climb::Climb;
use super::errands;
use super::homes::{self, Home};
use super::reach::Reach;
use super::second;
use super::site::Site;
use super::sums;
use crate::coord::objects::directory::{Directory, DirectoryFault, Nature, ObjectKind, SiteFault};
use crate::coord::objects::home::moving::LIFE_AT;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::Name;
use crate::coord::objects::tenure::{PlaceWord, TenureAt};
use crate::coord::objects::word::HoldWord;
use crate::fabric::node::ObjectTable;
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, Request};
use crate::job::is_dead;
use crate::sync::Ordering;

/// An object that was found.
pub(super) struct Opened {
    pub at: ObjectAt,
    pub home: usize,
    pub at_home: ObjectAt,
}

/// An object was not opened.
pub(super) struct Refused {
    pub fault: DirectoryFault,
    /// By the directory of which node.
    pub node: usize,
}

/// How often a second node is sought before this node's table is given up for a moment.
const SECOND_TRIES: u32 = 20;
/// And between two times.
const SECOND_PAUSE: Duration = Duration::from_micros(200);

/// Opens an object, whose name may be new. The caller has this node's table.
pub(super) fn open(reach: &Reach, name: &Name, nature: Nature) -> Result<Opened, Refused> {
    let refused = |node| move |fault| Refused { fault, node };
    let here = here(reach);
    let at = here.open(name, nature).map_err(refused(reach.here()))?;
    if !reach.spans_nodes() {
        let at_home = ObjectAt::of(&reach.segment.layout(), ObjectTable::Home, at.index());
        home_of_one(reach, &at, &at_home);
        return Ok(Opened { at, home: 0, at_home });
    }
    let known = noted_home(reach, &at);
    let found = match known {
        // Its steward moves it; see `super::steward`.
        Some((home, _)) if reach.has_lost(home) => Err(match homes::without_room(reach, &at) {
            Some(next) => Refused { fault: DirectoryFault::Full, node: next },
            None => Refused { fault: SiteFault::Lost { home }.into(), node: home },
        }),
        Some(known) => Ok(known),
        None => open_noting(reach, &at, name, nature).and_then(|(home, at_home)| {
            let fault = |fault: SiteFault| Refused { fault: fault.into(), node: home };
            note_numbers(reach, &at, home, &at_home).map_err(fault)?;
            let known = Home { site: Site { reach: reach.clone(), home }, at: at_home };
            if nature.kind == ObjectKind::Counter {
                sums::recall(reach, &at, &known).map_err(fault)?;
            }
            note_home(reach, &at, home, &at_home);
            Ok((home, at_home))
        }),
    };
    // Who has a handle may count on it that the next node's death loses nothing.
    let sought = found.and_then(|found| match seek_second(reach, &at) {
        // Others have it already, and go on without a copy.
        Err(Refused { fault: DirectoryFault::Full, .. }) if known.is_some() => Ok(found),
        sought => sought.map(|()| found),
    });
    match sought {
        Ok((home, at_home)) => Ok(Opened { at, home, at_home }),
        Err(refused) => {
            let _ = here.close(&at);
            Err(refused)
        }
    }
}

/// Opens an object of this node at its home, which is noted before it counts this node's handle: whoever finds that this
/// was not brought to its end takes the handle back ([`take_back`]).
fn open_noting(reach: &Reach, at: &ObjectAt, name: &Name, nature: Nature) -> Result<(usize, ObjectAt), Refused> {
    let (home, noted) = (first_home(reach, name), reach.segment.word(TenureAt(*at).home()));
    // Relaxed: only who has the table reads it, until the place is known.
    noted.store(PlaceWord::sought_at(home).0, Ordering::Relaxed);
    let opened = open_at(reach, home, name, nature);
    let by_home = |fault: &DirectoryFault| !matches!(fault, DirectoryFault::Away(_) | DirectoryFault::Overtaken);
    if opened.as_ref().is_err_and(|refused| by_home(&refused.fault)) {
        noted.store(0, Ordering::Relaxed);
    }
    Ok((home, opened?))
}

/// Before an object of this node goes of which it is not known whether its home has counted a handle, since whoever
/// opened it there has ended, or was not answered: if it has, that is given back. Whether this is done.
fn take_back(reach: &Reach, at: &ObjectAt) -> bool {
    let noted = reach.segment.word(TenureAt(*at).home());
    // Relaxed: only who has the table reads it.
    let sought = PlaceWord(noted.load(Ordering::Relaxed)).sought();
    let (Some(home), Some(name)) = (sought.filter(|home| !reach.has_lost(*home)), homes::name_of(reach, at)) else {
        return true;
    };
    let site = Site { reach: reach.clone(), home };
    let closed = loop {
        match with_home(&site, |directory| directory.close_named(&name)) {
            Err(DirectoryFault::Away(SiteFault::Broken { .. })) => {}
            closed => break closed,
        }
    };
    if let Err(DirectoryFault::Away(SiteFault::Silent { .. } | SiteFault::Late { .. })) = closed {
        errands::tidy_later(reach);
        return false;
    }
    noted.store(0, Ordering::Relaxed);
    true
}

/// Has an object of this node a second node that has all it should, if it needs one. One that is silent is not waited
/// for.
///
/// # Errors
///
/// [`SiteFault::Late`]: there is none yet, and this node's steward may want the table meanwhile.
/// [`SiteFault::Lost`]: the home, or the second node. What else the second node's directory says.
fn seek_second(reach: &Reach, at: &ObjectAt) -> Result<(), Refused> {
    if second::is_tended(reach, at) {
        return Ok(());
    }
    for _ in 0..SECOND_TRIES {
        match second::tend(reach, at) {
            // The steward finds another one, as soon as it is known to be lost.
            Ok(true) | Err(Refused { fault: DirectoryFault::Away(SiteFault::Silent { .. }), .. }) => return Ok(()),
            // The home's node opens it, too, at this moment, or does not know yet who is lost; or a connection broke.
            Ok(false)
            | Err(Refused {
                fault: DirectoryFault::Overtaken | DirectoryFault::Away(SiteFault::Broken { .. }), ..
            }) => {
                std::thread::sleep(SECOND_PAUSE);
            }
            Err(refused) => return Err(refused),
        }
    }
    let node = reach.here();
    Err(Refused { fault: SiteFault::Late { home: node }.into(), node })
}

/// Gives a handle back. The caller has this node's table.
pub(super) fn close(reach: &Reach, at: &ObjectAt) -> Result<(), DirectoryFault> {
    here(reach).close(at).map(drop)
}

/// Before an object of this node goes, of which only the dead have handles, or nobody: what the node has at its home,
/// as one of them held it, say, is given back, and then the node's handle. Whether the object may go: not while the
/// node has something there.
fn leave_home(reach: &Reach, at: &ObjectAt) -> bool {
    if !reach.spans_nodes() {
        return true;
    }
    if !super::steward::settle(reach, at) {
        errands::tidy_later(reach);
        return false;
    }
    let Some((home, at_home)) = noted_home(reach, at) else {
        return take_back(reach, at) && second::close(reach, at);
    };
    let is_copied = second::is_copied(reach, at);
    if reach.has_lost(home) {
        // What this node's ranks have done there is to be told to the next home first, by the steward, who lets it go
        // then.
        return !is_copied;
    }
    if reach.is_doubtful(home) {
        errands::tidy_later(reach);
        return false;
    }
    // Before the node leaves: what it has added is to be copied.
    let _ = seek_second(reach, at);
    if second::is_sought(reach, at) {
        errands::tidy_later(reach);
        return false;
    }
    // Before the handle is given back: the place may be another object's then. If this rank ends in between, what is
    // left is found by its name.
    // Relaxed: only who has the table reads it, once the lock is idle.
    reach.segment.word(TenureAt(*at).home()).store(PlaceWord::sought_at(home).0, Ordering::Relaxed);
    let home = Home { site: Site { reach: reach.clone(), home }, at: at_home };
    give_back(reach, at, &home, is_copied) && second::close(reach, at)
}

/// Gives the node's handle at a home back, if that is not lost. `false`: it is, and what this node's ranks have done
/// there may not be on the second node yet; or one of the two does not answer. The home is noted again.
fn give_back(reach: &Reach, at: &ObjectAt, home: &Home, is_copied: bool) -> bool {
    let has_left = Cell::new(false);
    let leave = || second::leave(reach, at, home).inspect(|()| has_left.set(true));
    match close_at(reach, at, home, leave) {
        Err(DirectoryFault::Away(SiteFault::Lost { .. })) if is_copied && !has_left.get() => {}
        Err(DirectoryFault::Away(SiteFault::Silent { .. } | SiteFault::Late { .. })) => errands::tidy_later(reach),
        // A home that is lost meanwhile has nothing to give back.
        _ => return true,
    }
    note_home(reach, at, home.site.home, &home.at);
    false
}

/// Gives the node's handle of an object back where it has one besides its own table's, and does something before. Once,
/// also where an earlier attempt has done so, and was not answered.
pub(super) fn close_at(
    reach: &Reach,
    at: &ObjectAt,
    there: &Home,
    before: impl Fn() -> Result<(), SiteFault>,
) -> Result<(), DirectoryFault> {
    let (name, is_begun) = (homes::name_of(reach, at), Cell::new(false));
    let close = || {
        with_home(&there.site, |directory| {
            if !is_begun.get() {
                let has_handle = |name| directory.has_handle(&there.at, name);
                // The place may be another object's by now.
                if !name.as_ref().map_or(Ok(true), has_handle)? {
                    return Ok(());
                }
                before()?;
                is_begun.set(true);
            }
            directory.close(&there.at).map(drop)
        })
    };
    loop {
        match close() {
            Err(DirectoryFault::Away(SiteFault::Broken { .. })) => {}
            closed => return closed,
        }
    }
}

/// Where an object of this node is at home, by what was noted when it was opened first.
pub(super) fn noted_home(reach: &Reach, at: &ObjectAt) -> Option<(usize, ObjectAt)> {
    let word = PlaceWord(reach.load(TenureAt(*at).home()));
    // The table's own is in the first place.
    let (home, index) = word.place().filter(|_| at.index() == 0 || word.sought().is_none())?;
    Some((home, ObjectAt::of(&reach.layouts[home], ObjectTable::Home, index)))
}

/// Notes where an object of this node is at home from now on.
pub(super) fn note_home(reach: &Reach, at: &ObjectAt, home: usize, at_home: &ObjectAt) {
    let word = PlaceWord::new(home, at_home.index());
    // Release pairs with `load`: whoever finds the home finds the object there.
    reach.segment.word(TenureAt(*at).home()).store(word.0, Ordering::Release);
}

/// On a job's only node an object has the same place at its home.
fn home_of_one(reach: &Reach, at: &ObjectAt, at_home: &ObjectAt) {
    if reach.load(TenureAt(*at).home()) == 0 {
        at_home.state().for_each(|at| reach.segment.word(at).store(0, Ordering::Relaxed));
        // No other object that this node has had has the same upper bits: numbers of one that has gone are less.
        let numbers = reach.load(at.queue().high) << HoldWord::TOKEN_BITS;
        reach.segment.word(at_home.home().numbers).store(numbers, Ordering::Relaxed);
        note_home(reach, at, 0, at_home);
    }
}

/// Opens an object at the first of its homes that lives. The caller has this node's table.
pub(super) fn open_at_home(reach: &Reach, name: &Name, nature: Nature) -> Result<(usize, ObjectAt), Refused> {
    let home = first_home(reach, name);
    Ok((home, open_at(reach, home, name, nature)?))
}

fn first_home(reach: &Reach, name: &Name) -> usize {
    name.home(reach.live_nodes()).expect("this node")
}

fn open_at(reach: &Reach, home: usize, name: &Name, nature: Nature) -> Result<ObjectAt, Refused> {
    let site = Site { reach: reach.clone(), home };
    with_home(&site, |directory| directory.open(name, nature)).map_err(|fault| Refused { fault, node: home })
}

/// Notes the numbers of a lock that this node has opened at its home: greater than all that were granted before.
fn note_numbers(reach: &Reach, at: &ObjectAt, home: usize, at_home: &ObjectAt) -> Result<(), SiteFault> {
    let site = Site { reach: reach.clone(), home };
    let numbers = site.ask(&[Request::Read { at: at_home.home().numbers }])?;
    // Relaxed: published by the home's word.
    reach.segment.word(TenureAt(*at).number()).store(numbers[0], Ordering::Relaxed);
    Ok(())
}

/// This node's directory. Who opens and closes by it has this node's table.
pub(super) fn here(reach: &Reach) -> Directory<'_, &Segment, impl Fn(usize) -> bool> {
    let segment = &*reach.segment;
    let is_gone = |local| is_dead(segment, local);
    let directory = Directory::new(segment, segment.layout(), ObjectTable::Here, reach.local(), is_gone);
    directory.before_freeing(|at| leave_home(reach, at))
}

/// Does something with the directory of a home, while this node has its table.
pub(super) fn with_home<T>(
    site: &Site,
    act: impl FnOnce(&Directory<'_, &Site, &dyn Fn(usize) -> bool>) -> Result<T, DirectoryFault>,
) -> Result<T, DirectoryFault> {
    let reach = &site.reach;
    let layout = reach.layouts[site.home];
    let lock = Climb::of_table(site);
    lock.acquire_alone()?;
    let is_gone = |node: usize| reach.has_lost(node);
    let directory = Directory::new(site, layout, ObjectTable::Home, reach.here(), &is_gone as &dyn Fn(usize) -> bool)
        .numbering_from(reach.lives() << LIFE_AT);
    let done = act(&directory);
    lock.release_alone()?;
    done
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::coord::objects::tally::Goal;
    use crate::job::pretended::{await_that, name_at, on_nodes};
    use crate::object::Handle;
    use crate::object::custody::Custody;
    use crate::object::tally::Tally;

    /// The home has counted a handle, and whoever opened the object got no answer, or has ended.
    #[test]
    fn a_handle_that_was_opened_halfway_is_taken_back() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let (reach, name) = (&jobs[0].membership().reach, Name::new(&name_at(&[1], 2, 0)).expect("a name"));
        let nature = Nature { kind: ObjectKind::Lock, parameter: 0 };
        let halfway = || {
            let at = here(reach).open(&name, nature).unwrap_or_else(|_| unreachable!("there is room"));
            (at, open_noting(reach, &at, &name, nature).unwrap_or_else(|_| unreachable!("there is room")).1)
        };
        let (at, at_home) = super::super::steward::with_table(reach, halfway).expect("nobody else has it");
        let handles = || jobs[1].membership().reach.load(at_home.handles(0));
        assert_eq!((handles(), noted_home(reach, &at)), (1, None));
        super::super::steward::with_table(reach, || close(reach, &at)).expect("nobody else has it").expect("in reach");
        assert_eq!((handles(), here(reach).all().expect("this node's memory")), (0, Vec::new()));
        let lock = jobs[0].lock(name.text()).expect("room");
        assert!(lock.acquire().is_ok());
    }

    /// The home is lost while another node opens a counter there, before the second node has what it should.
    #[test]
    fn whoever_opens_an_object_whose_home_is_lost_before_there_is_a_copy_has_it_at_the_next_home() {
        let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new());
        let name = name_at(&[1, 2], 3, 0);
        let (reach, home) = (jobs[0].membership().reach.clone(), jobs.remove(1));
        let table = Climb::of_table(&Site { reach: jobs[1].membership().reach.clone(), home: 2 });
        table.acquire_alone().expect("nobody else has it");
        let nature = Nature { kind: ObjectKind::Counter, parameter: 1 };
        let handle = std::thread::scope(|scope| {
            let member = jobs[0].membership();
            let opening = scope.spawn(move || Handle::open(member, &name, nature));
            let at = ObjectAt::of(&reach.segment.layout(), ObjectTable::Here, 1);
            await_that("it is not opened at home", || noted_home(&reach, &at).is_some_and(|(home, _)| home == 1));
            drop(home);
            await_that("the home does not leave", || reach.has_lost(1));
            table.release_alone().expect("this node has it");
            opening.join().expect("no panic").expect("room")
        });
        let added = Tally::default().reach(&handle, Custody::of(&handle, nature), Goal::Add(1));
        assert_eq!(added, Ok(0));
    }
}
