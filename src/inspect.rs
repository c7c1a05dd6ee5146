//! A job seen from outside, by somebody who is none of its ranks: facts read from a node's segment.
//!
//! Nothing here writes, and no rank takes part, so that a job can be looked at that is stuck, and is not disturbed when it
//! is not. Each word is read by itself: facts about several ranks are a few nanoseconds apart.
//!
//! What a rank itself has entered in its node's table is read in one place, [`RankFacts`]; what it has done in the world's
//! barrier is its [`MemberStats`].

use crate::cluster::watch::ProcessId;
use crate::coord::barrier::layout::{GroupLayout, MemberWord};
use crate::coord::stats::{self, MemberStats, NodeClock, Record};
use crate::error::SegmentError;
use crate::fabric::WordAt;
use crate::fabric::node::header;
use crate::fabric::shm::ReadOnlySegment;

/// What a node's segment tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The number that all nodes of the job have in common.
    pub family: u64,
    /// The moment, in nanoseconds since the segment was made: the clock of [`MemberStats::arrived_at_ns`].
    pub now_ns: u64,
    /// The node's ranks, in their order.
    pub ranks: Vec<RankFacts>,
}

/// What a node's segment tells of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankFacts {
    /// Its rank in the job. Before the job is open: its place among the node's ranks.
    pub rank: usize,
    /// Its process, as it entered it when it joined; `None` while it has not.
    pub process: Option<ProcessId>,
    /// Its record in the world's barrier; `None` before the job is open.
    pub world: Option<MemberStats>,
}

/// Reads a node's segment.
///
/// # Errors
///
/// [`SegmentError::World`] when the world is where none can be.
pub fn read(segment: &ReadOnlySegment) -> Result<NodeFacts, SegmentError> {
    let world = world_of(segment)?;
    let mut members = world.map(|world| members_of(segment, world)).unwrap_or_default().into_iter();
    let rank = |local| {
        let world = members.next();
        let process = process_of(segment, local);
        RankFacts { rank: world.as_ref().map_or(local, |member| member.rank), process, world }
    };
    let ranks = (0..segment.layout().ranks()).map(rank).collect();
    let clock = segment.clock();
    Ok(NodeFacts { family: segment.load(header::FAMILY), now_ns: clock.since_origin_ns(clock.now()), ranks })
}

/// Whom the node's rank `local` has entered as its process. Its pid is there before its start is: then it joins just now.
fn process_of(segment: &ReadOnlySegment, local: usize) -> Option<ProcessId> {
    let node = segment.layout();
    let (pid, start_ticks) = (segment.load(node.process(local)), segment.load(node.started(local)));
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0 && start_ticks != 0)?;
    Some(ProcessId { pid, start_ticks })
}

/// The block of the world's members on this node; `None` before the job is open.
fn world_of(segment: &ReadOnlySegment) -> Result<Option<GroupLayout>, SegmentError> {
    // SYNC POINT: ready. Acquire pairs with the release of who has opened the job.
    if segment.load(header::READY) == 0 {
        return Ok(None);
    }
    let (node, found) = (segment.layout(), segment.load(header::WORLD));
    let ranks = node.ranks();
    let fits = |start: &WordAt| {
        let end = start.0.checked_add(GroupLayout::words(ranks));
        *start >= node.unit(0) && end.is_some_and(|end| end <= node.words())
    };
    let start = usize::try_from(found).ok().map(WordAt).filter(fits);
    let world = start.map(|start| GroupLayout::new(start, ranks));
    let world = world.filter(|world| segment.load(world.size_word()) == ranks as u64);
    world.map(Some).ok_or(SegmentError::World { found, ranks })
}

/// The world's members on this node.
fn members_of(segment: &ReadOnlySegment, world: GroupLayout) -> Vec<MemberStats> {
    let clock = *segment.clock();
    let ranks: Vec<usize> =
        (0..world.size()).map(|index| MemberWord(segment.load(world.member(index))).rank()).collect();
    let words = |index| stats::record_words(world, index).map(|at| segment.load(at));
    let records: Vec<Record> = (0..world.size()).map(|index| Some((words(index), NodeClock::here(clock)))).collect();
    stats::assemble(&ranks, &records, clock.since_origin_ns(clock.now())).members
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::cluster::membership;
    use crate::coord;
    use crate::coord::barrier::Algorithm;
    use crate::coord::formation::{self, Member};
    use crate::fabric::Memory;
    use crate::fabric::node::NodeLayout;
    use crate::fabric::shm::Segment;
    use crate::machine::CpuSet;
    use crate::sync::Ordering;

    const RANKS: usize = 3;

    fn segment() -> Segment {
        Segment::create(NodeLayout::new(RANKS, 4096), 77, coord::LAYOUT_HASH).expect("memory for a small segment")
    }

    fn look_at(segment: &Segment) -> ReadOnlySegment {
        let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
        let file = File::open(path).expect("a file of this process").into();
        ReadOnlySegment::attach(&file, coord::LAYOUT_HASH).expect("a segment")
    }

    #[test]
    fn ranks_are_known_as_they_join_and_have_records_once_the_job_is_open() {
        let segment = segment();
        let (seen, node) = (look_at(&segment), segment.layout());
        let facts = read(&seen).expect("a sound segment");
        assert_eq!(facts.ranks[2], RankFacts { rank: 2, process: None, world: None });
        membership::enter(&segment, &node, 1, 1, &CpuSet::of_this_thread());
        assert_eq!(read(&seen).expect("a sound segment").ranks[1].process, ProcessId::of_this_process().ok());

        // This node's ranks are 10, 11 and 12 of the job.
        let members: Vec<Member> = (0..RANKS).map(|local| Member { rank: 10 + local, local }).collect();
        let world = formation::make_for(&segment, &node, &members, Algorithm::Flat).expect("an empty arena");
        membership::open(&segment, world.start());
        let facts = read(&seen).expect("a sound segment");
        assert_eq!(facts.ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>(), [10, 11, 12]);
        assert!(facts.ranks.iter().all(|rank| rank.world.as_ref().is_some_and(|record| record.arrivals == 0)));
    }

    #[test]
    fn a_world_where_none_can_be_is_an_error() {
        let segment = segment();
        let seen = look_at(&segment);
        membership::open(&segment, segment.layout().unit(0));
        assert!(matches!(read(&seen), Err(SegmentError::World { ranks: RANKS, .. })), "nothing is there");
        for found in [0, 1, segment.words() as u64 - 1, u64::MAX] {
            segment.word(header::WORLD).store(found, Ordering::Relaxed);
            assert!(matches!(read(&seen), Err(SegmentError::World { .. })), "{found}");
        }
    }
}
