//! The words of a group's members, on whichever node they live: for those who want to know who is missing, who named
//! what, and who waited how long.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Group;
use super::limit::Limit;
use crate::clock::Clock;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::contest::are_all_there;
use crate::coord::barrier::spanning::layout::{NodeWord, SpanLayout};
use crate::coord::barrier::spanning::{Schedule, Span, SpanNode};
use crate::coord::barrier::{Operation, arrivals_in, named_in};
use crate::coord::formation;
use crate::coord::reads::{Place, Reads};
use crate::coord::stats::{self, GroupStats, NodeClock, Record};
use crate::error::GroupError;
use crate::fabric::node::header;
use crate::fabric::{Memory, WordAt};
use crate::job::Membership;
use crate::sync::Ordering;

/// How long the words of other nodes are waited for, before their members count as unknown.
const READING_PATIENCE: Duration = Duration::from_millis(200);

/// How long after words could not be read they are read again.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Where the members of a group that spans nodes are.
#[derive(Debug)]
pub(crate) struct Abroad {
    layout: SpanLayout,
    span: Span,
    /// Each member's node, as an index in the span, and its place among that node's members.
    homes: Vec<(usize, usize)>,
    /// The local block of each node's members.
    blocks: Vec<GroupLayout>,
}

impl Abroad {
    /// The members of `ranks`, with the nodes' blocks as `span` says.
    pub(crate) fn new(membership: &Membership, layout: SpanLayout, span: Span, ranks: &[usize]) -> Self {
        let nodes = membership.nodes_of(ranks);
        let mut met = vec![0; nodes.len()];
        let home = |rank: &usize| {
            let node = membership.node_of(*rank);
            let index = nodes.iter().position(|known| *known == node).expect("the nodes of these ranks");
            met[index] += 1;
            (index, met[index] - 1)
        };
        let homes = ranks.iter().map(home).collect();
        let schedule: Schedule = *layout.schedule();
        let block = |index| SpanLayout::new(span.node(index).1, schedule, span.members(index)).local();
        let blocks = (0..span.len()).map(block).collect();
        Self { layout, span, homes, blocks }
    }

    /// As [`new`](Self::new), with the list of nodes in this node's block; `None` when it is corrupt.
    pub(super) fn read(membership: &Arc<Membership>, layout: SpanLayout, ranks: &[usize]) -> Option<Self> {
        let nodes = membership.nodes_of(ranks);
        let mut list = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let word = NodeWord(membership.segment.word(layout.node(index)).load(Ordering::Relaxed));
            let members = ranks.iter().filter(|rank| membership.node_of(**rank) == *node).count();
            let words = SpanLayout::words(layout.schedule(), members);
            let start = formation::checked_start(&membership.layout_of(*node), word.start().0 as u64, words)?;
            if word.node() != *node {
                return None;
            }
            list.push(SpanNode { node: *node, start, members });
        }
        Some(Self::new(membership, layout, Span::Some(list.into()), ranks))
    }

    /// This node's block.
    pub(crate) fn layout(&self) -> SpanLayout {
        self.layout
    }

    /// The group's nodes.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// A member's node, as an index in the span, and its place among that node's members.
    pub(crate) fn home_of(&self, member: usize) -> (usize, usize) {
        self.homes[member]
    }
}

impl Group {
    /// This member's place among its node's members.
    pub(super) fn local_index(&self) -> usize {
        self.abroad.as_ref().map_or(self.me, |abroad| abroad.home_of(self.me).1)
    }

    /// A member's node (in the job), the block of that node's members, and its place among them.
    pub(super) fn home_of(&self, member: usize) -> (usize, GroupLayout, usize) {
        match &self.abroad {
            None => (self.membership.here(), self.layout, member),
            Some(abroad) => {
                let (index, local) = abroad.home_of(member);
                (abroad.span.node(index).0, abroad.blocks[index], local)
            }
        }
    }

    /// The words `which` of every member, in one run of reads; `None` for a member whose node does not answer in time.
    fn words_of_members<const N: usize>(
        &self,
        which: impl Fn(GroupLayout, usize) -> [WordAt; N],
        patience: Duration,
    ) -> Vec<Option<[u64; N]>> {
        let everyone: Vec<usize> = (0..self.size()).collect();
        self.words_of_some(&everyone, which, patience)
    }

    /// As [`words_of_members`](Self::words_of_members), of some members.
    pub(super) fn words_of_some<const N: usize>(
        &self,
        members: &[usize],
        which: impl Fn(GroupLayout, usize) -> [WordAt; N],
        patience: Duration,
    ) -> Vec<Option<[u64; N]>> {
        let homes = self.homes_of(members.iter().copied(), which);
        let values = self.read_abroad(self.places_abroad(&homes), patience);
        self.words_at(&homes, &values)
    }

    /// Each member's node, and where its words `which` are.
    fn homes_of<const N: usize>(
        &self,
        members: impl Iterator<Item = usize>,
        which: impl Fn(GroupLayout, usize) -> [WordAt; N],
    ) -> Vec<(usize, [WordAt; N])> {
        let home = |member| self.home_of(member);
        members.map(home).map(|(node, layout, local)| (node, which(layout, local))).collect()
    }

    fn places_abroad<const N: usize>(&self, homes: &[(usize, [WordAt; N])]) -> Vec<Place> {
        let place = |node| move |at: &WordAt| Place { node, at: *at };
        let abroad = homes.iter().filter(|(node, _)| *node != self.membership.here());
        abroad.flat_map(|(node, words)| words.iter().map(place(*node))).collect()
    }

    /// The words of all members: this node's as they are, the others' as they have been read.
    fn words_at<const N: usize>(
        &self,
        homes: &[(usize, [WordAt; N])],
        values: &[Option<u64>],
    ) -> Vec<Option<[u64; N]>> {
        let here = self.membership.here();
        let mut values = values.chunks_exact(N);
        homes
            .iter()
            .map(|(node, words)| match *node == here {
                // Acquire: pairs with the publishing store of an arrival word, for all that its member wrote before.
                true => Some(words.map(|at| self.segment().word(at).load(Ordering::Acquire))),
                false => {
                    let read: Option<Vec<u64>> = values.next().expect("as many as wanted").iter().copied().collect();
                    read.map(|read| read.try_into().expect("as many as wanted"))
                }
            })
            .collect()
    }

    pub(super) fn read_abroad(&self, wanted: Vec<Place>, patience: Duration) -> Vec<Option<u64>> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut reads = Reads::new(wanted);
        // What has come when the time is over is the answer.
        self.poll_until(&mut reads, self.limit(Some(patience)));
        reads.into_values(self.membership.reach().fabric)
    }

    /// Whether all have come, or failed, in time.
    fn poll_until(&self, reads: &mut Reads, limit: Option<Limit>) -> bool {
        if reads.is_empty() {
            return true;
        }
        let fabric = self.membership.reach().fabric;
        let attempt = || match reads.poll(fabric) {
            Poll::Ready(()) => Some(()),
            Poll::Pending => None,
        };
        self.patiently(limit, attempt).is_ok()
    }

    /// The ranks that have not arrived at a barrier, and those whose node does not say.
    pub(super) fn missing_at(&self, sequence: u64) -> Vec<usize> {
        self.missing_within(sequence, READING_PATIENCE)
    }

    /// As [`missing_at`](Self::missing_at), waiting so long for other nodes' words, and then so long for the words of
    /// their members.
    pub(super) fn missing_within(&self, sequence: u64, patience: Duration) -> Vec<usize> {
        let nodes: Vec<usize> = (0..self.abroad.as_ref().map_or(1, |abroad| abroad.span.len())).collect();
        self.missing_on(sequence, &nodes, patience)
    }

    /// As [`missing_within`](Self::missing_within), of this node and some others, by their indices in the span.
    pub(super) fn missing_on(&self, sequence: u64, nodes: &[usize], patience: Duration) -> Vec<usize> {
        let unsure = self.unsure_members(sequence, nodes, patience);
        let arrivals = self.words_of_some(&unsure, |layout, index| [layout.arrival(index)], patience);
        let is_missing = |word: Option<[u64; 1]>| word.is_none_or(|[word]| arrivals_in(word) < sequence);
        let missing = unsure.iter().zip(arrivals).filter(|(_, word)| is_missing(*word));
        missing.map(|(member, _)| self.ranks[*member]).collect()
    }

    /// The other members of this node and of `nodes`, but for those of whose nodes one word says that all have arrived.
    fn unsure_members(&self, sequence: u64, nodes: &[usize], patience: Duration) -> Vec<usize> {
        let others = (0..self.size()).filter(|member| *member != self.me);
        let Some(abroad) = &self.abroad else { return others.collect() };
        let here = abroad.homes[self.me].0;
        let asked: Vec<usize> = nodes.iter().copied().filter(|index| *index != here).collect();
        let are_there = self.nodes_that_are_there(abroad, &asked, sequence, patience);
        let is_unsure = |index: usize| match asked.iter().position(|asked| *asked == index) {
            Some(at) => !are_there[at],
            None => index == here,
        };
        others.filter(|member| is_unsure(abroad.homes[*member].0)).collect()
    }

    /// Which of some nodes say that all of their members have arrived: one word of each, where nobody has contested the
    /// barrier.
    fn nodes_that_are_there(&self, abroad: &Abroad, asked: &[usize], sequence: u64, patience: Duration) -> Vec<bool> {
        let schedule = *abroad.layout.schedule();
        let block = |index| {
            let (node, start) = abroad.span.node(index);
            (node, SpanLayout::new(start, schedule, 0))
        };
        let (home, first) = block(0);
        let is_home_here = home == self.membership.here();
        let mut places: Vec<Place> = asked
            .iter()
            .map(|index| block(*index))
            .map(|(node, block)| Place { node, at: block.completion() })
            .collect();
        if !is_home_here {
            places.push(Place { node: home, at: first.contest() });
        }
        let mut words = self.read_abroad(places, patience);
        let contest = match is_home_here {
            // Acquire pairs with the fabric's compare-and-swap for whoever settles the contest, as where it is read
            // abroad.
            true => Some(self.segment().word(first.contest()).load(Ordering::Acquire)),
            false => words.pop().flatten(),
        };
        let is_there = |word: Option<u64>| matches!((word, contest), (Some(word), Some(contest)) if are_all_there(word, contest, sequence));
        words.into_iter().map(is_there).collect()
    }

    /// What each member named at the barrier that has just been passed.
    pub(super) fn named_at(&self, sequence: u64) -> Vec<(usize, Operation)> {
        let arrivals = self.words_of_members(|layout, index| [layout.arrival(index)], READING_PATIENCE);
        let named = |(rank, word): (&usize, Option<[u64; 1]>)| word.map(|[word]| (*rank, named_in(word, sequence)));
        self.ranks.iter().zip(arrivals).filter_map(named).collect()
    }

    /// What the members gave to the split at `sequence`: colour and key. Two buffers: nobody is more than one barrier
    /// ahead of this rank. After a time-out what is on its way stays in `asked`.
    pub(super) fn given_at(
        &self,
        sequence: u64,
        asked: &mut Option<Reads>,
        limit: Option<Limit>,
    ) -> Result<Vec<(u64, u64)>, GroupError> {
        let homes =
            self.homes_of(0..self.size(), |layout, index| [layout.color(index, sequence), layout.key(index, sequence)]);
        let limit = limit.or_else(|| self.limit(Some(super::forming::FORMING_PATIENCE)));
        loop {
            let reads = asked.get_or_insert_with(|| Reads::new(self.places_abroad(&homes)));
            let has_come = self.poll_until(reads, limit);
            let words = self.words_at(&homes, reads.values());
            let member = match words.iter().position(Option::is_none) {
                None => {
                    *asked = None;
                    return Ok(words.into_iter().flatten().map(|[color, key]| (color, key)).collect());
                }
                Some(index) => self.ranks[index],
            };
            if self.membership.has_lost_node(self.membership.node_of(member))
                && let Some(error) = self.fault_among(&self.ranks)
            {
                return Err(error.into());
            }
            if has_come {
                reads.try_again();
            }
            // A connection that has broken is made anew.
            if self.left(limit).is_none_or(|left| left.is_zero()) {
                let (rank, node) = (self.membership.rank, self.membership.node_of(member));
                return Err(GroupError::MemberUnreachable { rank, member, node, waited: self.waited(limit) });
            }
            std::thread::sleep(READ_AGAIN_AFTER);
        }
    }

    /// The record of all members.
    pub(super) fn read_stats(&self) -> GroupStats {
        let clock = *self.segment().clock();
        if self.abroad.is_none() {
            return stats::read(self.segment(), self.layout, &self.ranks, &clock);
        }
        let words = self.words_of_members(stats::record_words, READING_PATIENCE);
        let record = |(index, words): (usize, Option<_>)| {
            let (node, ..) = self.home_of(index);
            Some((words?, self.clock_of(node)?))
        };
        let records: Vec<Record> = words.into_iter().enumerate().map(record).collect();
        stats::assemble(&self.ranks, &records, clock.since_origin_ns(clock.now()))
    }

    /// A node's clock, set against this node's by what the two systems' clocks showed at their origins.
    fn clock_of(&self, node: usize) -> Option<NodeClock> {
        if node == self.membership.here() {
            return Some(NodeClock::here(*self.segment().clock()));
        }
        if let Some(clock) = self.membership.clocks().get(&node) {
            return Some(*clock);
        }
        let [source, tick, origin] = header::CLOCK;
        let places = [source, tick, origin, header::ORIGIN_TIME].map(|at| Place { node, at });
        let values: Option<Vec<u64>> = self.read_abroad(places.to_vec(), READING_PATIENCE).into_iter().collect();
        let values = values?;
        let own = self.segment().word(header::ORIGIN_TIME).load(Ordering::Relaxed);
        let clock = Clock::from_parts(values[0], values[1], values[2])?;
        let clock = NodeClock { clock, ahead_ns: values[3].wrapping_sub(own).cast_signed() };
        self.membership.clocks().insert(node, clock);
        Some(clock)
    }
}
