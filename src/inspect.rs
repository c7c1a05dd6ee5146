//! A job seen from outside, by somebody who is none of its ranks: facts read from a node's segment.
//!
//! Nothing here writes, and no rank takes part, so that a job can be looked at that is stuck, and is not disturbed when
//! it is not. Each word is read by itself: facts about several ranks are a few nanoseconds apart.
//!
//! What a rank itself has entered in its node's table is read in one place, [`RankFacts`]; what it has done in the
//! world's barrier is its [`MemberStats`]; whom the job has lost is its view log, [`NodeFacts::losses`]; named objects
//! are in [`objects`], what ranks share of them in [`shared`].

pub mod objects;
pub mod shared;

use std::time::Duration;

use crate::cluster::view::{FailureCause, LastCall, Obituary, Unit};
use crate::cluster::watch::ProcessId;
use crate::coord::activity::CallWord;
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
    /// The nodes of the job.
    pub nodes: usize,
    /// This one's number among them.
    pub node: usize,
    /// The ranks of the job.
    pub job_ranks: usize,
    /// The number of the world, by which ranks' calls name it; `None` before the job is open.
    pub world: Option<u64>,
    /// Whom the job has lost, as far as this node knows: the first epoch's, the second's, and so on.
    pub losses: Vec<Obituary>,
    /// The named objects that its ranks have.
    pub objects: Vec<objects::ObjectFacts>,
    /// Those that are at home on it, in a job of several nodes.
    pub at_home: Vec<objects::HomeFacts>,
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
    /// Its last call that took long enough to be noted, whether it is in it still or not.
    pub call: Option<LastCall>,
    /// How it has ended, as far as its node knows.
    pub end: Option<FailureCause>,
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
        let rank = world.as_ref().map_or(local, |member| member.rank);
        RankFacts { rank, process, world, call: call_of(segment, local), end: end_of(segment, local) }
    };
    let ranks: Vec<RankFacts> = (0..segment.layout().ranks()).map(rank).collect();
    let losses = losses(segment);
    let has_ended = |rank: usize| {
        let is_it = |known: &RankFacts| known.rank == rank && known.end.is_some();
        losses.iter().any(|lost| lost.unit == Unit::Rank(rank)) || ranks.iter().any(is_it)
    };
    let (objects, at_home) = (objects::here(segment, &ranks, &has_ended), objects::at_home(segment, &has_ended));
    let clock = segment.clock();
    Ok(NodeFacts {
        family: segment.load(header::FAMILY),
        now_ns: clock.since_origin_ns(clock.now()),
        ranks,
        nodes: segment.layout().nodes(),
        node: usize::try_from(segment.load(header::NODE)).unwrap_or(usize::MAX),
        job_ranks: segment.layout().job_ranks(),
        world: world.map(|world| segment.load(world.id())),
        losses,
        objects,
        at_home,
    })
}

/// What the view log holds, up to the first epoch that is not known here. While nobody is lost that is one word, which
/// ranks seldom read and nobody writes: to look at it again and again disturbs nobody.
pub fn losses(segment: &ReadOnlySegment) -> Vec<Obituary> {
    let node = segment.layout();
    let lost = |epoch| Obituary::unpack(segment.load(node.epoch(epoch).decided()));
    (1..=node.epochs() as u64).map_while(lost).collect()
}

fn end_of(segment: &ReadOnlySegment, local: usize) -> Option<FailureCause> {
    Obituary::unpack(segment.load(segment.layout().end(local))).map(|end| end.cause)
}

fn call_of(segment: &ReadOnlySegment, local: usize) -> Option<LastCall> {
    let (node, clock) = (segment.layout(), segment.clock());
    let call = CallWord(segment.load(node.call(local)));
    let since = segment.load(node.call_since(local));
    call.is_one().then(|| LastCall {
        name: call.name(),
        group: segment.load(node.call_group(local)),
        sequence: call.sequence(),
        is_inside: call.is_inside(),
        began: Some(Duration::from_nanos(clock.ns(clock.now().saturating_sub(since)))),
    })
}

/// Whom the node's rank `local` has entered as its process. Its pid is there before its start is: then it joins just
/// now.
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
    use crate::cluster::view::{self, Unit};
    use crate::coord;
    use crate::coord::activity::{self, Call, NotedCall};
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
        assert_eq!(facts.ranks[2], RankFacts { rank: 2, process: None, world: None, call: None, end: None });
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
    fn calls_ends_and_losses_are_read_as_they_were_noted() {
        let segment = segment();
        let (seen, node) = (look_at(&segment), segment.layout());
        let noted = NotedCall { call: CallWord::inside(Call::Barrier, 42), group: 7, since: segment.clock().now() };
        let before = activity::enter(&segment, &node, 1, noted);
        let killed = Obituary { unit: Unit::Rank(2), cause: FailureCause::Killed { signal: 9 } };
        view::note_end(&segment, node.end(2), killed);
        view::append(&segment, &node, killed);
        let facts = read(&seen).expect("a sound segment");
        let call = facts.ranks[1].call.clone().expect("it is in one");
        assert_eq!((call.name, call.group, call.sequence, call.is_inside), ("barrier", 7, 42, true));
        assert!(call.began.is_some_and(|span| span < Duration::from_secs(60)), "{call:?}");
        assert_eq!((facts.ranks[0].call.as_ref(), facts.ranks[0].end), (None, None));
        assert_eq!((facts.ranks[2].end, facts.losses), (Some(killed.cause), vec![killed]));
        activity::leave(&segment, &node, 1, before);
        let call = read(&seen).expect("a sound segment").ranks[1].call.clone().expect("it was in one");
        assert_eq!((call.sequence, call.is_inside), (42, false));
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
