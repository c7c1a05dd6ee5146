//! What a message costs: the LogGP model, where the nodes stand, and jitter.
//!
//! | letter | here | who is busy |
//! | --- | --- | --- |
//! | L | [`Costs::latency_ns`], more over switches ([`Placement`]), and [`Jitter`] | nobody: the wire |
//! | o | [`Costs::overhead_ns`] a message; [`Costs::receive_overhead_ns`] where the home's CPU serves | the CPU |
//! | g | [`Costs::gap_ns`] between two messages; [`Costs::receive_gap_ns`] | the adapter |
//! | G | none: every message carries one word | |
//!
//! A CPU that posts `k` messages at `t` hands the `i`-th (from 0) to its adapter at `t + (i + 1) o` and is busy until
//! the last. The adapter sends it then, or when the gap after the message before is over; it arrives a latency later.

use super::Seeded;

/// The costs of messages. The defaults are those of an RDMA network of today.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// From one adapter to another, below one switch.
    pub latency_ns: u64,
    /// From a node's adapter to itself.
    pub loopback_ns: u64,
    /// CPU time to post a message.
    pub overhead_ns: u64,
    /// CPU time of the node that a message arrives at; 0 where its adapter serves without the CPU.
    pub receive_overhead_ns: u64,
    /// From one message to the next that an adapter sends.
    pub gap_ns: u64,
    /// From one message to the next that an adapter receives; 0 where it never is the bottleneck.
    pub receive_gap_ns: u64,
    /// What a message has on the wire beside its word: for counting bytes. (RoCE v2: 78.)
    pub header_bytes: u64,
    /// Where the nodes stand.
    pub placement: Placement,
    /// What comes on top of the latency at random.
    pub jitter: Jitter,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            latency_ns: 900,
            loopback_ns: 400,
            overhead_ns: 40,
            receive_overhead_ns: 0,
            gap_ns: 10,
            receive_gap_ns: 0,
            header_bytes: 78,
            placement: Placement::default(),
            jitter: Jitter::None,
        }
    }
}

impl Costs {
    /// How long a message is under way.
    pub(super) fn flight_ns(&self, from: usize, to: usize, random: &mut Seeded) -> u64 {
        if from == to {
            return self.loopback_ns;
        }
        self.latency_ns + self.placement.extra_ns(from, to) + self.jitter.sample_ns(random)
    }
}

/// Which nodes are near each other: levels of switches. Without any, all nodes are equally far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// From the lowest level up.
    pub levels: Vec<Level>,
}

/// Switches of one level, each with the same number of nodes below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Nodes below one switch of this level: `0..nodes` are below the first. 0 is taken as 1.
    pub nodes: usize,
    /// What leaving the switch adds to a message's way.
    pub extra_ns: u64,
}

impl Placement {
    fn extra_ns(&self, from: usize, to: usize) -> u64 {
        let leaves = |level: &&Level| from / level.nodes.max(1) != to / level.nodes.max(1);
        self.levels.iter().filter(leaves).map(|level| level.extra_ns).sum()
    }
}

/// What is added to each message's latency at random.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Jitter {
    /// Nothing.
    #[default]
    None,
    /// From 0 to the most, all alike.
    Uniform {
        /// The most.
        most_ns: u64,
    },
    /// Small mostly, sometimes several times the mean.
    Exponential {
        /// The mean.
        mean_ns: u64,
    },
    /// A Pareto distribution (Lomax, shape 2): rarely, but not that rarely, very long.
    HeavyTail {
        /// The mean.
        mean_ns: u64,
        /// Where it is cut off.
        most_ns: u64,
    },
}

impl Jitter {
    /// A number of this distribution.
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds far below 2^53")]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole nanoseconds are meant")]
    pub fn sample_ns(self, random: &mut Seeded) -> u64 {
        match self {
            Self::None => 0,
            Self::Uniform { most_ns } => random.number() % most_ns.saturating_add(1).max(1),
            Self::Exponential { mean_ns } => (random.exponential() * mean_ns as f64) as u64,
            Self::HeavyTail { mean_ns, most_ns } => {
                let times = 1.0 / random.fraction().sqrt() - 1.0;
                ((times * mean_ns as f64) as u64).min(most_ns)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(jitter: Jitter) -> f64 {
        let mut random = Seeded::new(3);
        (0..200_000).map(|_| jitter.sample_ns(&mut random) as f64).sum::<f64>() / 200_000.0
    }

    #[test]
    fn jitter_has_the_mean_that_it_says() {
        assert_eq!(mean(Jitter::None), 0.0);
        assert!((mean(Jitter::Uniform { most_ns: 1000 }) - 500.0).abs() < 5.0);
        assert!((mean(Jitter::Exponential { mean_ns: 1000 }) - 1000.0).abs() < 10.0);
        assert!((mean(Jitter::HeavyTail { mean_ns: 1000, most_ns: u64::MAX }) - 1000.0).abs() < 100.0);
    }

    #[test]
    fn a_heavy_tail_is_heavier_and_ends() {
        let mut random = Seeded::new(4);
        let mut longest = |jitter: Jitter| (0..100_000).map(|_| jitter.sample_ns(&mut random)).max();
        let exponential = longest(Jitter::Exponential { mean_ns: 1000 });
        assert!(longest(Jitter::HeavyTail { mean_ns: 1000, most_ns: u64::MAX }) > exponential.map(|most| 3 * most));
        assert_eq!(longest(Jitter::HeavyTail { mean_ns: 1000, most_ns: 50_000 }), Some(50_000));
        assert_eq!(longest(Jitter::Uniform { most_ns: 7 }), Some(7));
    }

    #[test]
    fn each_switch_on_the_way_adds_its_own() {
        let levels = vec![Level { nodes: 4, extra_ns: 100 }, Level { nodes: 16, extra_ns: 1000 }];
        let placement = Placement { levels };
        let extras: Vec<u64> = [1, 4, 15, 16, 40].into_iter().map(|to| placement.extra_ns(0, to)).collect();
        assert_eq!(extras, [0, 100, 100, 1100, 1100]);
        assert_eq!(Placement::default().extra_ns(0, 40), 0);
    }
}
