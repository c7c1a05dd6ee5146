//! Attribution: who came last, who waited how long, who is missing, read from the members' own words.
//!
//! Anybody who maps the segment can read them at any time, also while every member is stuck. Each word is written by
//! one member, so a reading is exact for each member and a few nanoseconds apart between members.

use super::barrier::layout::GroupLayout;
use crate::clock::Clock;
use crate::fabric::Memory;
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

/// Reads the record of the group of `ranks` at `layout`.
pub fn read(memory: &impl Memory, layout: GroupLayout, ranks: &[usize], clock: &Clock) -> GroupStats {
    let arrivals: Vec<u64> = (0..ranks.len()).map(|index| arrivals_of(memory, layout, index)).collect();
    let completed = arrivals.iter().copied().min().unwrap_or(0);
    let furthest = arrivals.iter().copied().max().unwrap_or(0);
    let members =
        ranks.iter().enumerate().map(|(index, rank)| member(memory, layout, index, *rank, arrivals[index], clock));
    let missing = ranks.iter().enumerate().filter(|(index, _)| arrivals[*index] < furthest).map(|(_, rank)| *rank);
    let last_times = times_at(memory, layout, completed);
    let (last_arriver, last_spread_ns) = match last_times {
        Some(times) => {
            let last = (0..times.len()).max_by_key(|index| times[*index]).map(|index| ranks[index]);
            let spread = times.iter().max().zip(times.iter().min()).map(|(last, first)| clock.ns(last - first));
            (last, spread)
        }
        None => (None, None),
    };
    GroupStats {
        completed,
        now_ns: clock.since_origin_ns(clock.now()),
        missing: missing.collect(),
        last_arriver,
        last_spread_ns,
        members: members.collect(),
    }
}

fn arrivals_of(memory: &impl Memory, layout: GroupLayout, index: usize) -> u64 {
    super::barrier::arrivals_in(memory.word(layout.arrival(index)).load(Ordering::Acquire))
}

fn member(
    memory: &impl Memory,
    layout: GroupLayout,
    index: usize,
    rank: usize,
    arrivals: u64,
    clock: &Clock,
) -> MemberStats {
    let read = |at| memory.word(at).load(Ordering::Relaxed);
    let arrived_at = read(layout.arrived_at(index, arrivals));
    MemberStats {
        rank,
        arrivals,
        arrived_at_ns: (arrivals > 0 && arrived_at > 0).then(|| clock.since_origin_ns(arrived_at)),
        waited_ns: clock.ns(read(layout.waited(index))),
        longest_wait_ns: clock.ns(read(layout.longest_wait(index))),
        times_last: read(layout.times_last(index)),
    }
}

/// All members' arrival times at a completed barrier; `None` without one, or without attribution. Two of them are
/// kept, and nobody is more than one barrier ahead, so they are there.
fn times_at(memory: &impl Memory, layout: GroupLayout, sequence: u64) -> Option<Vec<u64>> {
    let time = |index| memory.word(layout.arrived_at(index, sequence)).load(Ordering::Relaxed);
    let times: Vec<u64> = (0..layout.size()).map(time).collect();
    (sequence > 0 && times.iter().all(|ticks| *ticks > 0)).then_some(times)
}
