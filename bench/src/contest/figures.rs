//! From a turn's records to figures, and from rounds' figures to a result: medians over rounds, as for barriers.

use std::collections::BTreeMap;

use crate::contest::Contest;
use crate::contest::record::{Possession, Record};
use crate::figures::{Spread, median_of};

/// The figures of one turn of one system, times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How often the ranks together came to hold something.
    pub acquisitions: u64,
    /// How long acquiring took, of all ranks.
    pub acquire: Spread,
    /// The same of those possessions that were shared.
    pub shared: Option<Spread>,
    /// From when an owner began to give back until the next one had it that was waiting already.
    pub handover: Option<Spread>,
    /// A pair of acquire and release by one rank alone, without a clock's reads: the median over batches.
    pub pair: Option<f64>,
    /// Possessions of all ranks in a second.
    pub throughput: f64,
    /// Jain's index over the busy ranks' counts: 1 where all have the same, `1 / ranks` where one has all.
    pub jain: f64,
    /// How often somebody held what another had not given back. Of what excludes, any is too many.
    pub overlaps: u64,
}

impl Figures {
    /// The figures of one turn.
    ///
    /// # Panics
    ///
    /// For records without a possession, which nobody reads: see [`crate::contest::record::read_all`].
    pub fn of_round(records: &[Record], contest: &Contest) -> Self {
        let ns = |ticks: u64| ticks as f64 * contest.ns_per_tick;
        let busy = &records[..contest.busy];
        let counts: Vec<u64> = busy.iter().map(|record| record.head.count).collect();
        let latency = |possession: &Possession| ns(possession.acquired.saturating_sub(possession.request));
        let possessions = || busy.iter().flat_map(|record| &record.possessions);
        let owners = if contest.object.excludes() { succession(busy) } else { Succession::default() };
        Self {
            acquisitions: counts.iter().sum(),
            acquire: Spread::of(possessions().map(latency)).expect("a record has possessions"),
            shared: Spread::of(possessions().filter(|possession| possession.is_shared).map(latency)),
            handover: Spread::of(owners.handovers.into_iter().map(ns)),
            pair: pair_ns(&busy[0], contest.ns_per_tick),
            throughput: counts.iter().sum::<u64>() as f64 * 1e9 / ns(time_of(busy)).max(1.0),
            jain: jain(&counts),
            overlaps: owners.overlaps,
        }
    }

    /// The median over rounds of each figure; extremes, and what is counted, over all of them.
    ///
    /// # Panics
    ///
    /// For no rounds.
    pub fn of_rounds(rounds: &[Self]) -> Self {
        let middle = |figure: fn(&Self) -> f64| median_of(rounds.iter().map(figure));
        let pairs: Vec<f64> = rounds.iter().filter_map(|round| round.pair).collect();
        Self {
            acquisitions: rounds.iter().map(|round| round.acquisitions).sum(),
            acquire: Spread::of_rounds(rounds.iter().map(|round| &round.acquire)).expect("there was a round"),
            shared: Spread::of_rounds(rounds.iter().filter_map(|round| round.shared.as_ref())),
            handover: Spread::of_rounds(rounds.iter().filter_map(|round| round.handover.as_ref())),
            pair: (!pairs.is_empty()).then(|| median_of(pairs.into_iter())),
            throughput: middle(|round| round.throughput),
            jain: middle(|round| round.jain),
            overlaps: rounds.iter().map(|round| round.overlaps).sum(),
        }
    }
}

/// From the first rank's start to the last one's end.
fn time_of(busy: &[Record]) -> u64 {
    let start = busy.iter().map(|record| record.head.start).min().unwrap_or(0);
    busy.iter().map(|record| record.head.end).max().unwrap_or(0).saturating_sub(start)
}

fn pair_ns(record: &Record, ns_per_tick: f64) -> Option<f64> {
    let pairs = record.head.pairs_of_batch.max(1) as f64;
    let batches = record.batches.iter().map(|ticks| *ticks as f64 * ns_per_tick / pairs);
    (!record.batches.is_empty()).then(|| median_of(batches))
}

/// Jain's fairness index: the square of the sum over the number times the sum of squares. 1 where nobody has anything.
pub fn jain(counts: &[u64]) -> f64 {
    let sum: f64 = counts.iter().map(|count| *count as f64).sum();
    let squares: f64 = counts.iter().map(|count| (*count as f64).powi(2)).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (counts.len() as f64 * squares) }
}

/// Who followed whom.
#[derive(Debug, Default, PartialEq, Eq)]
struct Succession {
    /// Ticks of each handover to somebody who was waiting.
    handovers: Vec<u64>,
    overlaps: u64,
}

/// What is known of one object while its possessions go by in the order of their beginnings.
#[derive(Default)]
struct Past {
    /// When the last exclusive owner began to give back.
    exclusive: u64,
    /// When the last of all owners did.
    any: u64,
}

/// Finds each object's owners in the order in which they were.
///
/// A reader follows the last owner that was alone, an owner that is alone follows everybody. Only as much of the time
/// counts as all ranks have recorded: where one stopped for want of room, the next owner of which there is a record may
/// not be the next that there was.
fn succession(busy: &[Record]) -> Succession {
    let until = busy.iter().map(recorded_until).min().unwrap_or(0);
    let mut all: Vec<&Possession> =
        busy.iter().flat_map(|record| &record.possessions).filter(|possession| possession.acquired <= until).collect();
    all.sort_unstable_by_key(|possession| possession.acquired);
    let mut objects: BTreeMap<u64, Past> = BTreeMap::new();
    let mut found = Succession::default();
    for possession in all {
        let past = objects.entry(possession.object).or_default();
        let before = if possession.is_shared { past.exclusive } else { past.any };
        if possession.acquired < before {
            found.overlaps += 1;
        } else if possession.request < before {
            found.handovers.push(possession.acquired - before);
        }
        past.any = past.any.max(possession.released);
        if !possession.is_shared {
            past.exclusive = past.exclusive.max(possession.released);
        }
    }
    found
}

/// The end, or the last possession of a record that has no room for more.
fn recorded_until(record: &Record) -> u64 {
    let is_full = (record.possessions.len() as u64) < record.head.count;
    let last = record.possessions.last().map_or(0, |possession| possession.acquired);
    if is_full { last.min(record.head.end) } else { record.head.end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::record::Head;
    use crate::contest::{Object, tests::contest};

    fn alone(request: u64, acquired: u64, released: u64) -> Possession {
        Possession { request, acquired, released, object: 0, is_shared: false }
    }

    fn shared(request: u64, acquired: u64, released: u64) -> Possession {
        Possession { is_shared: true, ..alone(request, acquired, released) }
    }

    fn record(possessions: &[Possession]) -> Record {
        let head = Head { count: possessions.len() as u64, start: 0, end: 1000, pairs_of_batch: 0 };
        Record { head, possessions: possessions.to_vec(), batches: Vec::new() }
    }

    #[test]
    fn jains_index_is_one_for_equals_and_a_share_for_one_who_has_all() {
        assert_eq!(jain(&[7, 7, 7, 7]), 1.0);
        assert_eq!(jain(&[9, 0, 0, 0]), 0.25);
        assert_eq!(jain(&[1, 3]), 0.8);
        assert_eq!(jain(&[0, 0]), 1.0);
    }

    #[test]
    fn the_next_owner_is_found_by_time_and_counts_where_it_was_waiting() {
        let one = record(&[alone(0, 10, 20), alone(25, 43, 50)]);
        // Waiting at 20, and at 40 the other is. The last one asks when nobody holds it.
        let other = record(&[alone(5, 22, 40), alone(60, 61, 62)]);
        assert_eq!(succession(&[one, other]), Succession { handovers: vec![2, 3], overlaps: 0 });
    }

    #[test]
    fn objects_are_looked_at_one_by_one_and_two_owners_at_once_are_counted() {
        let one = record(&[alone(0, 10, 30)]);
        let other = record(&[alone(5, 22, 40)]);
        assert_eq!(succession(&[one.clone(), other.clone()]), Succession { handovers: vec![], overlaps: 1 });
        let elsewhere = record(&[Possession { object: 1, ..other.possessions[0] }]);
        assert_eq!(succession(&[one, elsewhere]), Succession::default());
    }

    #[test]
    fn readers_follow_a_writer_and_a_writer_the_last_of_them() {
        let writer = record(&[alone(0, 10, 20), alone(24, 55, 60)]);
        let readers = [record(&[shared(12, 25, 50)]), record(&[shared(13, 26, 40)])];
        let found = succession(&[writer.clone(), readers[0].clone(), readers[1].clone()]);
        assert_eq!(found, Succession { handovers: vec![5, 6, 5], overlaps: 0 });
        let early = record(&[shared(12, 19, 50)]);
        assert_eq!(succession(&[writer, early]).overlaps, 1);
    }

    #[test]
    fn what_came_after_the_end_or_after_a_full_record_is_no_handover() {
        let mut full = record(&[alone(0, 10, 20)]);
        full.head.count = 2;
        let other = record(&[alone(5, 22, 40)]);
        assert_eq!(succession(&[full, other.clone()]), Succession::default());
        let mut ended = record(&[alone(0, 10, 20)]);
        ended.head.end = 21;
        assert_eq!(succession(&[ended, other]), Succession::default());
    }

    #[test]
    fn figures_are_those_of_all_busy_ranks() {
        let mut records = vec![record(&[alone(0, 10, 20)]), record(&[alone(5, 22, 40), alone(41, 71, 72)])];
        records[0].batches = vec![500, 300, 400];
        records[0].head.pairs_of_batch = 10;
        records.push(Record::default());
        let contest = Contest { ns_per_tick: 2.0, ..contest(Object::Lock) };
        let figures = Figures::of_round(&records, &contest);
        assert_eq!((figures.acquisitions, figures.acquire.count), (3, 3));
        assert_eq!((figures.acquire.min, figures.acquire.p50, figures.acquire.max), (20.0, 34.0, 60.0));
        assert_eq!((figures.handover.map(|handover| handover.max), figures.pair), (Some(4.0), Some(80.0)));
        assert_eq!((figures.throughput, figures.jain, figures.overlaps), (3.0 * 1e9 / 2000.0, 0.9, 0));
        assert!(figures.shared.is_none());
    }

    #[test]
    fn a_semaphore_has_no_succession_and_rounds_are_summed_up_by_medians() {
        let records = [record(&[alone(0, 10, 30)]), record(&[alone(5, 22, 40)])];
        let one = Figures::of_round(&records, &contest(Object::Semaphore));
        assert_eq!((one.overlaps, one.handover.is_none()), (0, true));
        let rounds = [one.clone(), Figures { throughput: 5.0, jain: 0.1, ..one.clone() }, one.clone()];
        let all = Figures::of_rounds(&rounds);
        assert_eq!((all.throughput, all.jain, all.acquisitions), (one.throughput, 1.0, 6));
        assert_eq!(all.pair, None);
    }
}
