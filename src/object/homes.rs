//! Homes, one after the other: where an object is at home now, and whether that node has all it must have.
//!
//! When a home is lost, the next one by the hash takes its place. Each node's steward moves what its own ranks hold to
//! it, and then says so to all nodes, in a word for each lost node ([`NodeLayout::moved`]). A new home can be asked for
//! something only once all nodes that live have said so of all homes that came before it: otherwise it would take a
//! lock for free that a rank holds whose node has not come to it yet.
//!
//! A new home may have no room for an object. Then the steward that finds that leaves the object where it was, and
//! tells the new home a bit of the name ([`NodeLayout::stranded`]) before it says that all is moved: nobody uses that
//! object there, as what this node's ranks hold is not known there. It tries again from time to time.
//!
//! [`NodeLayout::moved`]: crate::fabric::node::NodeLayout::moved
//! [`NodeLayout::stranded`]: crate::fabric::node::NodeLayout::stranded

use std::task::Poll;
use std::time::Duration;

use super::catalogue;
use super::reach::Reach;
use super::site::{Asked, Site};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::home::moving::{Survey, Surveyed};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::Name;
use crate::coord::objects::tenure::TenureAt;

/// Between two looks whether the next home has all that the survivors had at the last one, or attempts to open what
/// moves to it.
pub(super) const MOVING_PAUSE: Duration = Duration::from_micros(100);

/// Where an object is at home.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub site: Site,
    pub at: ObjectAt,
}

impl Home {
    /// The home of an object that this node has.
    pub fn of(reach: &Reach, at: &ObjectAt) -> Self {
        let (home, at_home) = catalogue::noted_home(reach, at).expect("it was noted when the object was opened");
        Self { site: Site { reach: reach.clone(), home }, at: at_home }
    }

    /// Whether it is still where an object of this node is at home.
    pub fn is_still_of(&self, at: &ObjectAt) -> bool {
        let now = catalogue::noted_home(&self.site.reach, at);
        now.is_some_and(|(home, at_home)| home == self.site.home && at_home.index() == self.at.index())
    }
}

/// The lost nodes where an object of this node was at home, or would have been, before its present home.
pub(super) fn lost_before(reach: &Reach, at: &ObjectAt, home: usize) -> Vec<usize> {
    let Some(name) = name_of(reach, at) else { return Vec::new() };
    let nodes = 0..reach.topology.nodes();
    name.homes_before(home, nodes).filter(|node| reach.has_lost(*node)).collect()
}

/// The name of an object that this node has.
pub(super) fn name_of(reach: &Reach, at: &ObjectAt) -> Option<Name> {
    Name::from_words((0..crate::coord::objects::layout::NAME_WORDS).map(|index| reach.load(at.name(index))))
}

/// Whether all nodes that live have moved what they had at some lost nodes: as it is being asked for.
#[derive(Debug, Default)]
pub(super) struct Completion {
    asked: Option<Asking>,
}

#[derive(Debug)]
struct Asking {
    survey: Survey,
    asked: Asked,
}

/// What stands for an object among those that a node could not move.
pub(super) fn bit_of(name: &Name) -> u64 {
    1 << (name.key() % 64)
}

/// The next home of an object of this node whose home is lost, if it has no room for it.
pub(super) fn without_room(reach: &Reach, at: &ObjectAt) -> Option<usize> {
    let word = reach.load(TenureAt(*at).complete_home());
    let next =
        word & TenureAt::NO_ROOM != 0 && catalogue::noted_home(reach, at).is_some_and(|(home, _)| reach.has_lost(home));
    next.then(|| usize::try_from(word & !TenureAt::NO_ROOM).expect("a node") - 1)
}

impl Completion {
    /// Whether a home is complete, for an object of this node. It is asked again until it is.
    pub fn poll(&mut self, home: &Home, at: &ObjectAt) -> Poll<Result<(), SiteFault>> {
        let Some(asking) = &mut self.asked else {
            self.asked = begin(home, at);
            // Without a home before it, a home is complete.
            return if self.asked.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
        };
        let Poll::Ready(answers) = home.site.poll(&mut asking.asked) else { return Poll::Pending };
        let found = answers.map(|answers| asking.survey.judge(&answers));
        self.asked = None;
        match found {
            // As it was moved by nodes that had found room, and not by another one.
            Ok(Surveyed::Stranded) => Poll::Ready(Err(SiteFault::NoRoom { home: home.site.home })),
            Ok(Surveyed::Complete) => Poll::Ready(Ok(())),
            // One that nobody hears may never say so, and nobody may decide that it need not.
            Ok(Surveyed::Incomplete) => {
                home.site.reach.doubted().map_or(Poll::Pending, |node| Poll::Ready(Err(SiteFault::Silent { node })))
            }
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }
}

fn begin(home: &Home, at: &ObjectAt) -> Option<Asking> {
    let (reach, layout) = (&home.site.reach, home.site.reach.layouts[home.site.home]);
    let live: Vec<usize> = reach.live_nodes().collect();
    let lost = lost_before(reach, at, home.site.home);
    let name = name_of(reach, at).map_or(0, |name| bit_of(&name));
    let moved = |node, index| layout.moved(node, index);
    let (survey, reads) = Survey::of(&live, &lost, name, moved, |node| layout.stranded(node))?;
    Some(Asking { survey, asked: home.site.begin(&reads) })
}
