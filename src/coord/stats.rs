//! Attribution: who came last, who waited how long, who is missing, read from the members' own words.
//!
//! Anybody who maps the segment can read them at any time, and other nodes by one-sided reads, also while every member
//! is stuck. Each word is written by one member, so a reading is exact for each member and a few nanoseconds (between
//! nodes: a round trip) apart between members.

use super::barrier::arrivals_in;
use super::barrier::layout::{GroupLayout, parity};
use crate::clock::Clock;
use crate::fabric::{Memory, WordAt};
use crate::sync::Ordering;

/// One member's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStats {
    /// The member's rank in the job.
    pub rank: usize,
    /// How many barriers it has arrived at.
    pub arrivals: u64,
    /// When it last arrived, in nanoseconds since the job's start; `None` before its first arrival, and where the
    /// library was built without attribution.
    pub arrived_at_ns: Option<u64>,
    /// How long it has waited in this group's barriers, in all, in nanoseconds. Counted when a wait ends.
    pub waited_ns: u64,
    /// Its longest wait, in nanoseconds.
    pub longest_wait_ns: u64,
    /// How often it came last, as far as was seen: a member that finds all others arrived at its first look counts
    /// itself. Members that arrive within a line transfer of each other, or are held up between arriving and looking,
    /// may all count, or none; [`GroupStats::last_arriver`] goes by the times.
    pub times_last: u64,
}

/// A group's record at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Barriers that all members have reached.
    pub completed: u64,
    /// The moment, in nanoseconds since the job's start: the clock of `arrived_at_ns`.
    pub now_ns: u64,
    /// The ranks that have not arrived at the barrier that others have: empty when none is in progress.
    pub missing: Vec<usize>,
    /// The rank that came last to the last completed barrier, by its arrival time. A time is noted just after the
    /// arrival is published, so a reader that has passed at that very moment may still see an older one.
    pub last_arriver: Option<usize>,
    /// The time between the first and the last arrival at the last completed barrier, in nanoseconds.
    pub last_spread_ns: Option<u64>,
    /// Each member, in the group's order.
    pub members: Vec<MemberStats>,
}

/// The words of a member's record.
pub const RECORD_WORDS: usize = 6;

/// A node's clock as seen from this node.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    /// The node's clock.
    pub clock: Clock,
    /// How much later its origin is than this node's, in nanoseconds.
    pub ahead_ns: i64,
}

impl NodeClock {
    /// A clock with the same origin as this node's.
    pub fn here(clock: Clock) -> Self {
        Self { clock, ahead_ns: 0 }
    }

    fn since_start_ns(&self, ticks: u64) -> u64 {
        self.clock.since_origin_ns(ticks).saturating_add_signed(self.ahead_ns)
    }
}

/// A member's record as it was read: its words, and its node's clock. `None` where its node could not be reached.
pub type Record = Option<([u64; RECORD_WORDS], NodeClock)>;

/// Where the words of a member's record stand.
pub fn record_words(layout: GroupLayout, index: usize) -> [WordAt; RECORD_WORDS] {
    [
        layout.arrival(index),
        layout.arrived_at(index, 0),
        layout.arrived_at(index, 1),
        layout.waited(index),
        layout.longest_wait(index),
        layout.times_last(index),
    ]
}

/// Reads the record of the group of `ranks` at `layout`, all of whose members live on this node.
pub fn read(memory: &impl Memory, layout: GroupLayout, ranks: &[usize], clock: &Clock) -> GroupStats {
    let record = |index| {
        // SYNC POINT: arrival. Acquire pairs with the member's own arriving, for the arrival word, the first: what it
        // noted before is seen. The others need no more than that.
        let words = record_words(layout, index).map(|at| memory.word(at).load(Ordering::Acquire));
        Some((words, NodeClock::here(*clock)))
    };
    let records: Vec<Record> = (0..ranks.len()).map(record).collect();
    assemble(ranks, &records, clock.since_origin_ns(clock.now()))
}

/// Makes a group's record of its members'. Those that could not be reached are missing.
pub fn assemble(ranks: &[usize], records: &[Record], now_ns: u64) -> GroupStats {
    let arrivals: Vec<Option<u64>> =
        records.iter().map(|record| record.as_ref().map(|(words, _)| arrivals_in(words[0]))).collect();
    let completed = arrivals.iter().flatten().copied().min().unwrap_or(0);
    let furthest = arrivals.iter().flatten().copied().max().unwrap_or(0);
    let is_missing = |index: &usize| arrivals[*index].is_none_or(|arrivals| arrivals < furthest);
    let (last_arriver, last_spread_ns) = match times_at(records, completed) {
        Some(times) => {
            let last = (0..times.len()).max_by_key(|index| times[*index]).map(|index| ranks[index]);
            let spread = times.iter().max().zip(times.iter().min()).map(|(last, first)| last - first);
            (last, spread)
        }
        None => (None, None),
    };
    GroupStats {
        completed,
        now_ns,
        missing: (0..ranks.len()).filter(is_missing).map(|index| ranks[index]).collect(),
        last_arriver,
        last_spread_ns,
        members: ranks.iter().zip(records).map(|(rank, record)| member(*rank, record)).collect(),
    }
}

/// Which of the two arrival times of a record belongs to a barrier.
fn time_of(words: &[u64; RECORD_WORDS], sequence: u64) -> u64 {
    words[1 + parity(sequence)]
}

fn member(rank: usize, record: &Record) -> MemberStats {
    let Some((words, clock)) = record else {
        return MemberStats { rank, arrivals: 0, arrived_at_ns: None, waited_ns: 0, longest_wait_ns: 0, times_last: 0 };
    };
    let arrivals = arrivals_in(words[0]);
    let arrived_at = time_of(words, arrivals);
    MemberStats {
        rank,
        arrivals,
        arrived_at_ns: (arrivals > 0 && arrived_at > 0).then(|| clock.since_start_ns(arrived_at)),
        waited_ns: clock.clock.ns(words[3]),
        longest_wait_ns: clock.clock.ns(words[4]),
        times_last: words[5],
    }
}

/// All members' arrival times at a completed barrier, in nanoseconds since the job's start; `None` without one, without
/// attribution, or with a member that could not be reached. Two of them are kept, and nobody is more than one barrier
/// ahead, so they are there.
fn times_at(records: &[Record], sequence: u64) -> Option<Vec<u64>> {
    let time = |record: &Record| match record {
        Some((words, clock)) if time_of(words, sequence) > 0 => Some(clock.since_start_ns(time_of(words, sequence))),
        _ => None,
    };
    if sequence > 0 { records.iter().map(time).collect() } else { None }
}
