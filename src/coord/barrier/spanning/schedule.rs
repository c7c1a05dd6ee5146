//! k-ary dissemination: who sends to whom in which round.
//!
//! N nodes meet in ⌈log_k N⌉ rounds. In round `r` a node tells what it knows to the nodes `1·k^r`, `2·k^r` …
//! `(k−1)·k^r` places further on, and waits for the word of those as far behind. After it, each knows of the `k^(r+1)`
//! nodes up to itself, and after the last round of all. With k = 2 this is the dissemination barrier of Hensgen, Finkel
//! and Manber (1988); a greater radix sends more messages in fewer rounds, which pays when a message costs less than
//! the way it travels.

/// The rounds of one group of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    nodes: usize,
    radix: usize,
    rounds: usize,
}

/// What one message and its way cost, for choosing the radix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// From the end of a post to the receiver's seeing it, in nanoseconds.
    pub latency_ns: f64,
    /// What each message costs its sender, in nanoseconds.
    pub overhead_ns: f64,
}

/// The greatest radix that is considered.
pub const MAX_RADIX: usize = 64;

impl Schedule {
    /// The rounds for `nodes` nodes with a radix of at least 2.
    pub const fn new(nodes: usize, radix: usize) -> Self {
        let (mut rounds, mut known) = (0, 1);
        while known < nodes {
            known = known.saturating_mul(radix);
            rounds += 1;
        }
        Self { nodes, radix, rounds }
    }

    /// The nodes.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// The radix.
    pub const fn radix(&self) -> usize {
        self.radix
    }

    /// How many rounds there are.
    pub const fn rounds(&self) -> usize {
        self.rounds
    }

    /// Inbox slots that a node has: one for each message of each round.
    pub const fn slots(&self) -> usize {
        self.rounds * (self.radix - 1)
    }

    /// Messages that a node sends, and receives, for one barrier.
    pub fn messages(&self) -> usize {
        (0..self.rounds).map(|round| self.distances(round).count()).sum()
    }

    /// The distances of a round's messages. The last round may need fewer than the others.
    pub fn distances(&self, round: usize) -> impl Iterator<Item = usize> + use<> {
        let step = self.known_before(round);
        let nodes = self.nodes;
        (1..self.radix).map(move |factor| factor * step).take_while(move |distance| *distance < nodes)
    }

    /// Of how many nodes up to itself a node knows before a round.
    pub fn known_before(&self, round: usize) -> usize {
        self.radix.pow(u32::try_from(round).expect("a round's number is a logarithm"))
    }

    /// The slot of a round's message, by its place among the round's distances.
    pub const fn slot(&self, round: usize, place: usize) -> usize {
        round * (self.radix - 1) + place
    }

    /// Where a node's message over `distance` goes.
    pub const fn target(&self, node: usize, distance: usize) -> usize {
        (node + distance) % self.nodes
    }

    /// Who sends to a node over `distance`.
    pub const fn source(&self, node: usize, distance: usize) -> usize {
        (node + self.nodes - distance) % self.nodes
    }

    /// All nodes to which a node sends or from which it hears, in order.
    pub fn partners(&self, node: usize) -> Vec<usize> {
        let distances = (0..self.rounds).flat_map(|round| self.distances(round));
        let mut partners: Vec<usize> =
            distances.flat_map(|far| [self.target(node, far), self.source(node, far)]).collect();
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// What a barrier costs by the LogP model when all arrive at once: in each round the last message leaves after all
    /// the round's overheads, and then travels.
    pub fn cost_ns(&self, costs: &Costs) -> f64 {
        let round = |round| costs.latency_ns + costs.overhead_ns * self.distances(round).count() as f64;
        (0..self.rounds).map(round).sum()
    }

    /// The radix of least cost; of equal ones the least, because it sends the fewest messages.
    pub fn cheapest_radix(nodes: usize, costs: &Costs) -> usize {
        let cost = |radix: &usize| Self::new(nodes, *radix).cost_ns(costs);
        let most = MAX_RADIX.min(nodes).max(2);
        (2..=most).min_by(|left, right| cost(left).total_cmp(&cost(right))).unwrap_or(2)
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn after_the_last_round_everybody_knows_of_everybody() {
        for nodes in 1..70 {
            for radix in 2..10 {
                let schedule = Schedule::new(nodes, radix);
                let mut known: Vec<Vec<bool>> =
                    (0..nodes).map(|me| (0..nodes).map(|node| node == me).collect()).collect();
                for round in 0..schedule.rounds() {
                    let before = known.clone();
                    for (node, knows) in known.iter_mut().enumerate() {
                        for distance in schedule.distances(round) {
                            let source = schedule.source(node, distance);
                            assert_eq!(schedule.target(source, distance), node);
                            knows.iter_mut().zip(&before[source]).for_each(|(mine, theirs)| *mine |= theirs);
                        }
                    }
                }
                assert!(known.iter().flatten().all(|known| *known), "{nodes} nodes, radix {radix}");
            }
        }
    }

    #[test]
    fn no_round_sends_to_a_node_twice_and_slots_do_not_collide() {
        for (nodes, radix) in [(2, 8), (5, 3), (16, 4), (17, 4), (64, 8), (1000, 7)] {
            let schedule = Schedule::new(nodes, radix);
            let mut slots = Vec::new();
            for round in 0..schedule.rounds() {
                let distances: Vec<usize> = schedule.distances(round).collect();
                assert!(!distances.is_empty() && distances.len() < radix);
                assert!(distances.windows(2).all(|pair| pair[0] < pair[1]) && distances.iter().all(|far| *far < nodes));
                slots.extend((0..distances.len()).map(|place| schedule.slot(round, place)));
            }
            slots.sort_unstable();
            let count = slots.len();
            slots.dedup();
            assert_eq!((slots.len(), count), (count, schedule.messages()));
            assert!(slots.iter().all(|slot| *slot < schedule.slots()));
        }
    }

    #[test]
    fn the_radix_follows_the_costs() {
        let cheap = Costs { latency_ns: 900.0, overhead_ns: 10.0 };
        let dear = Costs { latency_ns: 900.0, overhead_ns: 5000.0 };
        assert_eq!(Schedule::cheapest_radix(2, &cheap), 2);
        assert!(Schedule::cheapest_radix(64, &cheap) >= 8);
        assert_eq!(Schedule::cheapest_radix(64, &dear), 2);
        assert_eq!(Schedule::new(64, 8).rounds(), 2);
    }
}
