//! A node's hold of a reader-writer lock, which its ranks share: what drives the machine of
//! [`crate::coord::objects::shared_hold`], whosever it is, and what a steward does with holds.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::catalogue;
use super::climb::Climb;
use super::homes::Home;
use super::reach::Reach;
use super::site::Site;
use crate::cluster::view;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::shared_hold::{SharedAt, SharedHold, SharedWord, Stand, Turn};
use crate::coord::objects::sharing::{Called, Member, SharingAt};
use crate::fabric::node::ObjectTable;
use crate::fabric::{Request, WordAt};

/// How long it is waited at once until nothing of a rank that has ended can arrive at the home.
const OUTLIVING_LIMIT: Duration = Duration::from_millis(20);
/// How long another node is asked which of its ranks read.
const ASKING_LIMIT: Duration = Duration::from_millis(20);

/// Where this node's hold of an object stands, whose home has it there.
pub(super) fn place_of(reach: &Reach, at: &ObjectAt, at_home: SharingAt) -> SharedAt {
    SharedAt::of(at, reach.here(), at_home)
}

/// The rank at a place of this node's rank table.
pub(super) fn rank_at(reach: &Reach, local: usize) -> usize {
    reach.topology.ranks_of(reach.here())[local]
}

fn has_ended(reach: &Reach, local: usize) -> bool {
    view::end_of(&*reach.segment, &reach.segment.layout(), local).is_some()
}

/// Has a rank look.
pub(super) fn call(reach: &Reach, called: Called) {
    match called {
        Called::Rank(rank) => reach.poke(rank),
        Called::Of { node, local } => {
            reach.topology.ranks_of(node).get(local).into_iter().for_each(|rank| reach.poke(*rank));
        }
    }
}

/// Makes a machine's next step.
#[inline]
pub(super) fn step(reach: &Reach, hold: &mut SharedHold) -> Turn {
    hold.step(&*reach.segment, |local| has_ended(reach, local), |called| call(reach, called))
}

/// Gives a machine its answers.
pub(super) fn answered(reach: &Reach, hold: &mut SharedHold, answers: &[u64]) -> Turn {
    hold.answered(answers, |rank| reach.has_ended(rank), |called| call(reach, called))
}

/// After deaths, or before an object of this node goes: closes a hold that nobody uses any more. Whether there is none now.
pub(super) fn settle(reach: &Reach, at: &ObjectAt) -> bool {
    let Some((home, at_home)) = catalogue::noted_home(reach, at) else { return true };
    let home = Home { site: Site { reach: reach.clone(), home }, at: at_home };
    let place = place_of(reach, at, SharingAt::of(&home.at, reach.topology.ranks()));
    let is_over = |turn| matches!(turn, Ok(Turn::Out));
    is_over(drive(reach, SharedHold::sweep(place, reach.local()), &home, at))
        && SharedWord(reach.load(at.shared_hold())).stand() == Stand::Nothing
}

/// The home is lost: carries a hold to the next one.
pub(super) fn carry(reach: &Reach, at: &ObjectAt, new: &Home) -> Result<(), SiteFault> {
    let place = place_of(reach, at, SharingAt::of(&new.at, reach.topology.ranks()));
    drive(reach, SharedHold::carry(place, reach.local()), new, at).map(drop)
}

/// Does a steward's work to its end, or until somebody has to be outlived who is not yet.
fn drive(reach: &Reach, mut hold: SharedHold, home: &Home, at: &ObjectAt) -> Result<Turn, SiteFault> {
    let mut turn = Turn::Step;
    loop {
        turn = match turn {
            Turn::Step => step(reach, &mut hold),
            Turn::Ask(requests) => match home.site.ask(&requests) {
                Ok(answers) => answered(reach, &mut hold, &answers),
                // They may have been done or not: once more.
                Err(SiteFault::Broken { .. }) => Turn::Ask(requests),
                Err(fault) => return Err(fault),
            },
            Turn::Outlive(local) => match outlive(&Climb::new(reach, *at), home, local)? {
                true => hold.outlived(),
                false => return Ok(Turn::Outlive(local)),
            },
            Turn::Wait | Turn::In | Turn::Aside | Turn::Out => return Ok(turn),
        }
    }
}

/// Whether nothing of a rank of this node that has ended can arrive at the home any more.
fn outlive(climb: &Climb, home: &Home, local: usize) -> Result<bool, SiteFault> {
    let (begun, mut asked) = (Instant::now(), None);
    loop {
        match climb.outlive(&home.site, local, &mut asked) {
            Poll::Ready(outlived) => return outlived.map(|()| true),
            Poll::Pending if begun.elapsed() >= OUTLIVING_LIMIT => return Ok(false),
            Poll::Pending => home.site.pause(begun.elapsed()),
        }
    }
}

/// The words of a node's hold of an object, and of its ranks' stakes.
fn words_of(at: &ObjectAt) -> impl Iterator<Item = WordAt> {
    let at = *at;
    std::iter::once(at.shared_hold()).chain((0..at.members()).map(move |local| at.stake(local)))
}

/// The places of the ranks that share a hold, by its words.
fn sharers(words: &[u64]) -> Vec<usize> {
    SharedWord(words[0]).sharers(&words[1..])
}

/// Ranks of those who are waited for, to be looked after: of other nodes any one, since they look at all of theirs.
pub(super) fn to_be_asked_after(reach: &Reach, at: &ObjectAt, awaited: &[Member]) -> Vec<usize> {
    let ranks = |member: &Member| match member {
        Member::Rank(rank) => vec![*rank],
        Member::Node(node) if *node == reach.here() => {
            let words: Vec<u64> = words_of(at).map(|at| reach.load(at)).collect();
            sharers(&words).into_iter().map(|local| rank_at(reach, local)).collect()
        }
        Member::Node(node) => reach.topology.ranks_of(*node).iter().take(1).copied().collect(),
    };
    awaited.iter().flat_map(ranks).collect()
}

/// Which ranks of a node read, where it shares a hold; `place`: where the node has the object, as its home says. If it does not
/// answer soon: all that may.
pub(super) fn readers_on(reach: &Reach, node: usize, place: Option<u64>) -> Vec<usize> {
    let ranks = reach.topology.ranks_of(node);
    let layout = reach.layouts[node];
    let place = place.and_then(|place| usize::try_from(place).ok()).filter(|place| *place <= layout.objects());
    let words = place.and_then(|place| ask_soon(reach, node, &ObjectAt::of(&layout, ObjectTable::Here, place)));
    let locals = words.map_or_else(|| (0..ranks.len()).collect(), |words| sharers(&words));
    locals.into_iter().map(|local| ranks[local]).filter(|rank| !reach.has_ended(*rank)).collect()
}

fn ask_soon(reach: &Reach, node: usize, at: &ObjectAt) -> Option<Vec<u64>> {
    if node == reach.here() {
        return Some(words_of(at).map(|at| reach.load(at)).collect());
    }
    let site = Site { reach: reach.clone(), home: node };
    let mut asked = site.begin(&words_of(at).map(|at| Request::Read { at }).collect::<Vec<Request>>());
    let begun = Instant::now();
    while begun.elapsed() < ASKING_LIMIT {
        if let Poll::Ready(answers) = site.poll(&mut asked) {
            return answers.ok();
        }
        site.pause(begun.elapsed());
    }
    site.abandon(&mut asked);
    None
}
