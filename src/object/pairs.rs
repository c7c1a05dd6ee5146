//! What of a fenced word is kept on a second node ([`super::second`]): the newest pair that is known there. And how the
//! machine of [`crate::coord::objects::fenced`] is driven, by whomever.
//!
//! A rank of the home copies what it has written or read before its call is over ([`super::fenced`]). Ranks of other
//! nodes note it on their own, from where their steward carries it. What only nodes knew that are lost, or have given
//! their handles back, a steward copies from the home.

use super::homes::Home;
use super::reach::Reach;
use super::site::Site;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::fenced::{Copied, FencedAt, Goal, Known, Operation, Turn};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::note::NoteAt;

/// What came of an operation.
pub(super) struct Ended {
    /// `Err`: a greater token was seen.
    pub result: Result<Known, u64>,
    /// The pair that is known to be current now.
    pub known: Option<Known>,
}

/// Where the words of an object are at a home, or on the node that has the copy.
pub(super) fn words(home: &Home) -> FencedAt {
    FencedAt::of(&home.at, home.site.reach.topology.ranks())
}

/// Has an author reach a goal.
pub(super) fn reach_goal(
    site: &Site,
    at: FencedAt,
    author: usize,
    goal: Goal,
    known: Option<Known>,
) -> Result<Ended, SiteFault> {
    let (mut operation, mut turn) = Operation::begin(at, author, goal, known);
    let result = loop {
        turn = match turn {
            Turn::Done(known) => break Ok(known),
            Turn::Refused(token) => break Err(token),
            Turn::Ask(requests) => match site.ask(&requests) {
                Ok(answers) => operation.answered(&answers),
                Err(SiteFault::Broken { .. }) => operation.broken(),
                Err(fault) => return Err(fault),
            },
        };
    };
    Ok(Ended { result, known: operation.known() })
}

/// Has a copy, or the next home, have the newest pair that this node's ranks have noted.
pub(super) fn carry(reach: &Reach, at: &ObjectAt, copy: &Home) -> Result<(), SiteFault> {
    let places = 0..reach.topology.ranks_of(reach.here()).len();
    let newest = places.filter_map(|local| Copied::noted(NoteAt::of(at, local), &*reach.segment)).max();
    newest.map_or(Ok(()), |pair| keep(reach, copy, pair))
}

/// Has a copy have the pair that is current at the home.
pub(super) fn copy(reach: &Reach, home: &Home, copy: &Home) -> Result<(), SiteFault> {
    let at = words(home);
    let current = reach_goal(&home.site, at, at.steward(reach.here()), Goal::Read, None)?.known;
    current.map_or(Ok(()), |known| keep(reach, copy, known.into()))
}

fn keep(reach: &Reach, copy: &Home, pair: Copied) -> Result<(), SiteFault> {
    let at = words(copy);
    reach_goal(&copy.site, at, at.steward(reach.here()), Goal::Keep(pair), None).map(drop)
}
