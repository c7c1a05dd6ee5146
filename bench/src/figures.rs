//! From a round's record to figures, and from rounds' figures to a result.
//!
//! A round's figures come from the histogram of all its ranks' waits. A result has the *median over rounds* of each
//! figure (its least and greatest excepted: those are over all rounds), because these machines change speed under a
//! measurement: a round disturbed by somebody else must not shift the whole, and ratios between systems are formed
//! round by round.

use hdrhistogram::Histogram;

use crate::samples::Sample;

/// The longest wait that a histogram tells apart from longer ones: ten minutes.
const LONGEST_NS: u64 = 600_000_000_000;

/// How times are spread, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// The shortest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// All of them.
    pub histogram: Histogram<u64>,
}

impl Spread {
    /// The spread of times in nanoseconds; `None` of none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds are positive and fit")]
    pub fn of(times: impl Iterator<Item = f64>) -> Option<Self> {
        let mut histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("valid bounds");
        let mut sum = 0.0;
        for time in times {
            sum += time;
            histogram.saturating_record((time.round() as u64).max(1));
        }
        if histogram.is_empty() {
            return None;
        }
        let quantile = |q| histogram.value_at_quantile(q) as f64;
        Some(Self {
            count: histogram.len(),
            mean: sum / histogram.len() as f64,
            min: histogram.min() as f64,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: histogram.max() as f64,
            histogram,
        })
    }

    /// How many times are of each length: an upper bound in nanoseconds, and how many come up to that and not to the
    /// bound before. Bounds are four to each doubling, the same for all; those that nothing comes up to are left out.
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for recorded in self.histogram.iter_recorded() {
            let (bound, count) = (bound_above(recorded.value_iterated_to()), recorded.count_since_last_iteration());
            match buckets.last_mut() {
                Some(last) if last.0 == bound => last.1 += count,
                _ => buckets.push((bound, count)),
            }
        }
        buckets
    }

    /// The median over rounds of each figure; the extremes over all of them; `None` of none.
    pub fn of_rounds<'round>(rounds: impl Iterator<Item = &'round Self>) -> Option<Self> {
        let rounds: Vec<&Self> = rounds.collect();
        let middle = |figure: fn(&Self) -> f64| median_of(rounds.iter().map(|round| figure(round)));
        let mut histogram = rounds.first()?.histogram.clone();
        for round in &rounds[1..] {
            histogram.add(&round.histogram).expect("equal bounds");
        }
        Some(Self {
            count: rounds.iter().map(|round| round.count).sum(),
            mean: middle(|round| round.mean),
            min: rounds.iter().map(|round| round.min).fold(f64::INFINITY, f64::min),
            p50: middle(|round| round.p50),
            p90: middle(|round| round.p90),
            p99: middle(|round| round.p99),
            p999: middle(|round| round.p999),
            max: rounds.iter().map(|round| round.max).fold(0.0, f64::max),
            histogram,
        })
    }
}

/// Bounds of buckets from one power of two to the next.
const BOUNDS_PER_DOUBLING: u32 = 4;

/// The least bound of a bucket that a time comes up to: a power of two, or one of those between, rounded up.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below ten minutes in nanoseconds")]
fn bound_above(ns: u64) -> u64 {
    let power = ns.max(1).ilog2();
    let bounds = (0..=BOUNDS_PER_DOUBLING).map(|step| {
        let factor = (f64::from(step) / f64::from(BOUNDS_PER_DOUBLING)).exp2();
        ((1_u64 << power) as f64 * factor).ceil() as u64
    });
    bounds.into_iter().find(|bound| *bound >= ns).expect("the next power of two is greater")
}

/// The figures of one round of barriers.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The waits of all ranks.
    pub waits: Spread,
    /// Iterations of each rank.
    pub iterations: usize,
    /// Median over iterations of last exit minus last entry.
    pub span_p50: f64,
}

impl Figures {
    /// The figures of a record.
    ///
    /// # Panics
    ///
    /// For an empty record, which nobody reads: see [`crate::samples::read_all`].
    pub fn of_round(ranks: &[Vec<Sample>], ns_per_tick: f64) -> Self {
        let ns = |ticks: u64| ticks as f64 * ns_per_tick;
        let waits = ranks.iter().flatten().map(|sample| ns(sample.exit.saturating_sub(sample.enter)));
        Self {
            waits: Spread::of(waits).expect("a record has samples"),
            iterations: ranks[0].len(),
            span_p50: ns(median(spans(ranks))),
        }
    }

    /// The median over rounds of each figure; the extremes over all of them.
    ///
    /// # Panics
    ///
    /// For no rounds.
    pub fn of_rounds(rounds: &[Self]) -> Self {
        Self {
            waits: Spread::of_rounds(rounds.iter().map(|round| &round.waits)).expect("there was a round"),
            iterations: rounds.iter().map(|round| round.iterations).sum(),
            span_p50: median_of(rounds.iter().map(|round| round.span_p50)),
        }
    }
}

/// For each iteration the time from the last entry to the last exit: what the barrier itself took, on the common
/// clock, whoever was late.
fn spans(ranks: &[Vec<Sample>]) -> Vec<u64> {
    (0..ranks[0].len())
        .map(|iteration| {
            let last = |time: fn(&Sample) -> u64| ranks.iter().map(|rank| time(&rank[iteration])).max().unwrap_or(0);
            last(|sample| sample.exit).saturating_sub(last(|sample| sample.enter))
        })
        .collect()
}

fn median(mut values: Vec<u64>) -> u64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}

/// The median of numbers, the mean of the middle two for an even count; 0 for none.
pub fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(waits: &[u64]) -> Vec<Sample> {
        let mut now = 1000;
        let mut samples = Vec::new();
        for wait in waits {
            samples.push(Sample { enter: now, exit: now + wait });
            now += wait;
        }
        samples
    }

    #[test]
    fn figures_are_those_of_all_ranks_waits() {
        let figures = Figures::of_round(&[record(&[10, 20, 30]), record(&[10, 20, 30])], 2.0);
        let waits = &figures.waits;
        assert_eq!((waits.count, figures.iterations), (6, 3));
        assert_eq!((waits.min, waits.p50, waits.max, waits.mean), (20.0, 40.0, 60.0, 40.0));
    }

    #[test]
    fn buckets_hold_all_times_and_have_the_same_bounds_whatever_is_in_them() {
        let spread = Spread::of([1.0, 15.0, 16.0, 17.0, 17.4, 1000.0].into_iter()).expect("some");
        // 16 times the fourth root of two is 19.03, 512 times its cube 861.1.
        assert_eq!(spread.buckets(), [(1, 1), (16, 2), (20, 2), (1024, 1)]);
        let bounds: Vec<u64> = (1..200).map(bound_above).collect();
        assert!(bounds.is_sorted() && bounds.iter().zip(1..).all(|(bound, ns)| *bound >= ns));
        assert_eq!(bounds[32..64].iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "to each doubling");
        let many = Spread::of((1..=5000).map(|ns| f64::from(ns) * 37.0)).expect("some").buckets();
        assert_eq!(many.iter().map(|(_, count)| count).sum::<u64>(), 5000);
        assert!(many.is_sorted_by(|one, next| one.0 < next.0) && many.iter().all(|(_, count)| *count > 0));
    }

    #[test]
    fn a_span_runs_from_the_last_entry_to_the_last_exit() {
        let early = vec![Sample { enter: 0, exit: 110 }];
        let late = vec![Sample { enter: 100, exit: 105 }];
        assert_eq!(spans(&[early, late]), [10]);
    }

    #[test]
    fn rounds_are_summed_up_by_medians_and_extremes() {
        let rounds: Vec<Figures> =
            [[10, 10], [12, 12], [500, 500]].iter().map(|waits| Figures::of_round(&[record(waits)], 1.0)).collect();
        let waits = Figures::of_rounds(&rounds).waits;
        assert_eq!((waits.p50, waits.min, waits.max, waits.count), (12.0, 10.0, 500.0, 6));
        assert_eq!(median_of([1.0, 4.0].into_iter()), 2.5);
        assert_eq!(median_of(std::iter::empty()), 0.0);
    }
}
