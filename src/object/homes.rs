//! Homes, one after the other: where an object is at home now, and whether that node has all it must have.
//!
//! When a home is lost, the next one by the hash takes its place. Each node's steward moves what its own ranks hold to it,
//! and then says so to all nodes, in a word for each lost node ([`NodeLayout::moved`]). A new home can be asked for
//! something only once all nodes that live have said so of all homes that came before it: otherwise it would take a lock
//! for free that a rank holds whose node has not come to it yet.
//!
//! [`NodeLayout::moved`]: crate::fabric::node::NodeLayout::moved

use std::task::Poll;

use super::catalogue;
use super::reach::Reach;
use super::site::{Asked, Site};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::Name;
use crate::fabric::Request;

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
    /// Which bit of which answer.
    bits: Vec<u64>,
    asked: Asked,
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
        let has_all = answers.map(|answers| answers.iter().zip(&asking.bits).all(|(word, bit)| word & bit != 0));
        self.asked = None;
        match has_all {
            Ok(true) => Poll::Ready(Ok(())),
            // One that nobody hears may never say so, and nobody may decide that it need not.
            Ok(false) => {
                home.site.reach.doubted().map_or(Poll::Pending, |node| Poll::Ready(Err(SiteFault::Silent { node })))
            }
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }
}

fn begin(home: &Home, at: &ObjectAt) -> Option<Asking> {
    let (reach, layout) = (&home.site.reach, home.site.reach.layouts[home.site.home]);
    let lost = lost_before(reach, at, home.site.home);
    if lost.is_empty() {
        return None;
    }
    let (mut bits, mut reads) = (Vec::new(), Vec::new());
    for node in reach.live_nodes() {
        for lost in &lost {
            bits.push(1 << (lost % 64));
            reads.push(Request::Read { at: layout.moved(node, lost / 64) });
        }
    }
    Some(Asking { bits, asked: home.site.begin(&reads) })
}
