//! Who tells whom in which round.
//!
//! *Dissemination.* N nodes meet in ⌈log_k N⌉ rounds. In round `r` a node tells what it knows to the nodes `1·k^r`,
//! `2·k^r` … `(k−1)·k^r` places further on, and waits for the word of those as far behind. After it, each knows of the
//! `k^(r+1)` nodes up to itself, and after the last round of all. With k = 2 this is the dissemination barrier of
//! Hensgen, Finkel and Manber (1988); a greater radix sends more messages in fewer rounds, which pays when a message
//! costs less than the way it travels.
//!
//! *Star.* All tell the first node, and when it has heard of all it tells them. Its way is longer, but it sends the
//! fewest messages, 2(N−1) of all nodes together: where nodes share CPUs, it is those that cost.

use std::fmt;
use std::str::FromStr;

/// How nodes exchange what they know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangePattern {
    /// Each tells `radix − 1` others in each of ⌈log_radix N⌉ rounds.
    Dissemination {
        /// 2 to [`MAX_RADIX`].
        radix: usize,
    },
    /// All tell the first, and it tells all: two rounds. In groups of more than [`MAX_STAR`] nodes it is dissemination
    /// of the greatest radix.
    Star,
}

/// The greatest radix that is considered.
pub const MAX_RADIX: usize = 64;
/// The most nodes of a star.
pub const MAX_STAR: usize = 64;

impl ExchangePattern {
    /// A pattern for groups of so many nodes: as named, if that can be.
    const fn for_nodes(self, nodes: usize) -> Self {
        match self {
            Self::Star if nodes > MAX_STAR => Self::Dissemination { radix: MAX_RADIX },
            pattern => pattern,
        }
    }
}

impl fmt::Display for ExchangePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dissemination { radix } => write!(f, "dissemination of radix {radix}"),
            Self::Star => f.write_str("a star"),
        }
    }
}

impl FromStr for ExchangePattern {
    type Err = String;

    /// A radix, or `star`.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("star", _) => Ok(Self::Star),
            (_, Ok(radix @ 2..=MAX_RADIX)) => Ok(Self::Dissemination { radix }),
            _ => Err(format!("{text:?} is neither a whole number from 2 to {MAX_RADIX} nor star")),
        }
    }
}

/// The rounds of one group of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    nodes: usize,
    pattern: ExchangePattern,
    rounds: usize,
}

/// One message of a round, as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The other end.
    pub peer: usize,
    /// The receiver's inbox slot.
    pub slot: usize,
}

/// Which end of a message a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Sender,
    Receiver,
}

/// What one message and its way cost, for choosing the pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// From the end of a post to the receiver's seeing it, in nanoseconds.
    pub latency_ns: f64,
    /// What each message costs its sender, in nanoseconds.
    pub overhead_ns: f64,
    /// How many nodes there are for each CPU that their speakers share; at most 1 where none are shared.
    pub nodes_per_cpu: f64,
}

impl Costs {
    /// Of a job that has one node, and sends none.
    pub const NONE: Self = Self { latency_ns: 0.0, overhead_ns: 0.0, nodes_per_cpu: 0.0 };
}

impl Schedule {
    /// The star's node that all others tell.
    const HUB: usize = 0;

    /// The rounds for `nodes` nodes.
    pub const fn new(nodes: usize, pattern: ExchangePattern) -> Self {
        let pattern = pattern.for_nodes(nodes);
        let rounds = match pattern {
            ExchangePattern::Star if nodes > 1 => 2,
            ExchangePattern::Star => 0,
            ExchangePattern::Dissemination { radix } => {
                let (mut rounds, mut known) = (0, 1);
                while known < nodes {
                    known = known.saturating_mul(radix);
                    rounds += 1;
                }
                rounds
            }
        };
        Self { nodes, pattern, rounds }
    }

    /// Dissemination with a radix of at least 2.
    pub const fn dissemination(nodes: usize, radix: usize) -> Self {
        Self::new(nodes, ExchangePattern::Dissemination { radix })
    }

    /// The nodes.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// The pattern.
    pub const fn pattern(&self) -> ExchangePattern {
        self.pattern
    }

    /// How many rounds there are.
    pub const fn rounds(&self) -> usize {
        self.rounds
    }

    /// Inbox slots that a node has: one for each message that a node may get.
    pub const fn slots(&self) -> usize {
        match self.pattern {
            ExchangePattern::Dissemination { radix } => self.rounds * (radix - 1),
            // One for each of the others, for the hub; one for the hub, for the others.
            ExchangePattern::Star if self.nodes > 1 => self.nodes,
            ExchangePattern::Star => 0,
        }
    }

    /// The round of a slot's message.
    pub const fn round_of(&self, slot: usize) -> usize {
        match self.pattern {
            ExchangePattern::Dissemination { radix } => slot / (radix - 1),
            ExchangePattern::Star => (slot + 1 == self.nodes) as usize,
        }
    }

    /// Messages that one node sends for one barrier, at most.
    pub fn messages(&self) -> usize {
        let of_node = |node| (0..self.rounds).map(|round| self.count(node, round, End::Sender)).sum();
        // Of a dissemination all nodes are alike, and of a star all but the hub.
        (0..self.nodes.min(2)).map(of_node).max().unwrap_or(0)
    }

    /// What a node sends in a round.
    #[inline]
    pub fn sends(&self, node: usize, round: usize) -> impl Iterator<Item = Message> + use<> {
        self.of_round(node, round, End::Sender)
    }

    /// How many messages [`sends`](Self::sends) has.
    #[inline]
    pub fn sent(&self, node: usize, round: usize) -> usize {
        self.count(node, round, End::Sender)
    }

    /// What a node waits for in a round.
    #[inline]
    pub fn hears(&self, node: usize, round: usize) -> impl Iterator<Item = Message> + use<> {
        self.of_round(node, round, End::Receiver)
    }

    #[inline]
    fn of_round(&self, node: usize, round: usize, end: End) -> impl Iterator<Item = Message> + use<> {
        let schedule = *self;
        (0..schedule.count(node, round, end)).map(move |place| schedule.message(node, round, place, end))
    }

    #[inline]
    fn count(&self, node: usize, round: usize, end: End) -> usize {
        match self.pattern {
            // The last round may need fewer than the others.
            ExchangePattern::Dissemination { radix } => (radix - 1).min((self.nodes - 1) / self.known_before(round)),
            ExchangePattern::Star => match (round, end, node == Self::HUB) {
                (0, End::Sender, false) | (1, End::Receiver, false) => 1,
                (0, End::Receiver, true) | (1, End::Sender, true) => self.nodes - 1,
                _ => 0,
            },
        }
    }

    #[inline]
    fn message(&self, node: usize, round: usize, place: usize, end: End) -> Message {
        match self.pattern {
            ExchangePattern::Dissemination { radix } => {
                let distance = (place + 1) * self.known_before(round);
                let peer = match end {
                    End::Sender => node + distance,
                    End::Receiver => node + self.nodes - distance,
                };
                // Neither is as much as twice the nodes.
                let peer = if peer >= self.nodes { peer - self.nodes } else { peer };
                Message { peer, slot: round * (radix - 1) + place }
            }
            ExchangePattern::Star => {
                let (peer, other) = if node == Self::HUB { (place + 1, place + 1) } else { (Self::HUB, node) };
                Message { peer, slot: if round == 0 { other - 1 } else { self.nodes - 1 } }
            }
        }
    }

    /// In a dissemination, of how many nodes up to itself a node knows before a round.
    fn known_before(&self, round: usize) -> usize {
        match self.pattern {
            ExchangePattern::Dissemination { radix } => {
                radix.pow(u32::try_from(round).expect("a round's number is a logarithm"))
            }
            ExchangePattern::Star => 1,
        }
    }

    /// The nodes that together know, before the first round, what a node hears from `source` in a round: `source`, and
    /// of whom it has heard before.
    pub fn behind(&self, node: usize, round: usize, source: usize) -> impl Iterator<Item = usize> + use<> {
        let nodes = self.nodes;
        let (first, count) = match self.pattern {
            ExchangePattern::Dissemination { .. } => {
                let distance = (node + nodes - source) % nodes;
                // What is further away than all nodes is known here.
                (source + nodes, self.known_before(round).min(nodes - distance))
            }
            ExchangePattern::Star if round == 0 => (source + nodes, 1),
            ExchangePattern::Star => (node + nodes - 1, nodes - 1),
        };
        (0..count).map(move |further| (first - further) % nodes)
    }

    /// All nodes to which a node sends or from which it hears, in order.
    pub fn partners(&self, node: usize) -> Vec<usize> {
        let round = |round| self.sends(node, round).chain(self.hears(node, round));
        let mut partners: Vec<usize> = (0..self.rounds).flat_map(round).map(|message| message.peer).collect();
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// What a barrier costs when all arrive at once: its way, or, where nodes share CPUs, the work of each CPU if that
    /// takes longer.
    pub fn cost_ns(&self, costs: &Costs) -> f64 {
        let way = self.way_ns(costs);
        if costs.nodes_per_cpu <= 1.0 {
            return way;
        }
        // A message costs its receiver about as much as its sender.
        way.max(costs.nodes_per_cpu * self.messages_of_a_node() * 2.0 * costs.overhead_ns)
    }

    /// The way by the LogP model: in each round the last message leaves after all the round's overheads, and then
    /// travels.
    fn way_ns(&self, costs: &Costs) -> f64 {
        let most = |round| (0..self.nodes.min(2)).map(|node| self.sent(node, round)).max().unwrap_or(0);
        (0..self.rounds).map(|round| costs.latency_ns + costs.overhead_ns * most(round) as f64).sum()
    }

    /// Messages that a node sends for one barrier, on average.
    fn messages_of_a_node(&self) -> f64 {
        match self.pattern {
            ExchangePattern::Dissemination { .. } => self.messages() as f64,
            ExchangePattern::Star => 2.0 * (self.nodes - 1) as f64 / self.nodes as f64,
        }
    }

    /// The pattern of least cost; of equal ones that of the shortest way, and of those the one that sends the fewest
    /// messages.
    pub fn cheapest(nodes: usize, costs: &Costs) -> ExchangePattern {
        let radices = (2..=MAX_RADIX.min(nodes).max(2)).map(|radix| ExchangePattern::Dissemination { radix });
        // The hub of a star pays for receiving from all, too, so that its way is no gain.
        let star = (nodes > 2 && nodes <= MAX_STAR && costs.nodes_per_cpu > 1.0).then_some(ExchangePattern::Star);
        let key = |pattern: &ExchangePattern| {
            let schedule = Self::new(nodes, *pattern);
            (schedule.cost_ns(costs), schedule.way_ns(costs))
        };
        let order = |left: &_, right: &_| {
            let ((cost, way), (other_cost, other_way)) = (key(left), key(right));
            cost.total_cmp(&other_cost).then(way.total_cmp(&other_way))
        };
        radices.chain(star).min_by(order).expect("there is a radix of 2")
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    /// Dissemination of some radices, and the star where it can be.
    fn schedules(nodes: usize) -> impl Iterator<Item = Schedule> {
        let star = (nodes <= MAX_STAR).then(|| Schedule::new(nodes, ExchangePattern::Star));
        (2..10).map(move |radix| Schedule::dissemination(nodes, radix)).chain(star)
    }

    #[test]
    fn after_the_last_round_everybody_knows_of_everybody() {
        for schedule in (1..70).flat_map(schedules) {
            let nodes = schedule.nodes();
            let mut known: Vec<Vec<bool>> = (0..nodes).map(|me| (0..nodes).map(|node| node == me).collect()).collect();
            for round in 0..schedule.rounds() {
                let before = known.clone();
                for (node, knows) in known.iter_mut().enumerate() {
                    for message in schedule.hears(node, round) {
                        let back = Message { peer: node, slot: message.slot };
                        assert!(schedule.sends(message.peer, round).any(|sent| sent == back), "{schedule:?}");
                        knows.iter_mut().zip(&before[message.peer]).for_each(|(mine, theirs)| *mine |= theirs);
                        let behind: Vec<usize> = schedule.behind(node, round, message.peer).collect();
                        assert!(behind.contains(&message.peer) && !behind.contains(&node), "{schedule:?}");
                        let told = (0..nodes).filter(|other| before[message.peer][*other] && !before[node][*other]);
                        assert!(told.into_iter().all(|other| behind.contains(&other)), "{schedule:?}");
                    }
                    let sent = schedule.sends(node, round).filter(|sent| sent.peer != node).count();
                    assert_eq!(sent, schedule.sent(node, round));
                }
            }
            assert!(known.iter().flatten().all(|known| *known), "{schedule:?}");
        }
    }

    #[test]
    fn nobody_hears_two_messages_in_one_slot() {
        let large = [(64, 8), (1000, 7)].map(|(nodes, radix)| Schedule::dissemination(nodes, radix));
        for schedule in [2, 5, 16, 17, 64].into_iter().flat_map(schedules).chain(large) {
            for node in 0..schedule.nodes() {
                let heard = |round| schedule.hears(node, round).map(move |message| (message.slot, round));
                let mut slots: Vec<_> = (0..schedule.rounds()).flat_map(heard).collect();
                assert!(slots.iter().all(|(slot, round)| schedule.round_of(*slot) == *round));
                assert!(slots.iter().all(|(slot, _)| *slot < schedule.slots()));
                slots.sort_unstable();
                let count = slots.len();
                slots.dedup();
                assert_eq!(slots.len(), count, "{schedule:?}");
            }
        }
    }

    #[test]
    fn the_pattern_follows_the_costs() {
        let cheap = Costs { latency_ns: 900.0, overhead_ns: 10.0, nodes_per_cpu: 0.5 };
        let dear = Costs { latency_ns: 900.0, overhead_ns: 5000.0, nodes_per_cpu: 0.5 };
        let radix = |nodes, costs| match Schedule::cheapest(nodes, costs) {
            ExchangePattern::Dissemination { radix } => radix,
            ExchangePattern::Star => panic!("{nodes} nodes share no CPU"),
        };
        assert_eq!(radix(2, &cheap), 2);
        assert!(radix(64, &cheap) >= 8);
        assert_eq!(radix(64, &dear), 2);
        assert_eq!(Schedule::dissemination(64, 8).rounds(), 2);
        let crowded = Costs { latency_ns: 2500.0, overhead_ns: 2500.0, nodes_per_cpu: 4.0 };
        assert_eq!(Schedule::cheapest(8, &crowded), ExchangePattern::Star);
        assert_eq!(Schedule::cheapest(2, &crowded), ExchangePattern::Dissemination { radix: 2 });
        assert!(matches!(Schedule::cheapest(MAX_STAR + 1, &crowded), ExchangePattern::Dissemination { .. }));
    }

    #[test]
    fn patterns_parse_and_others_are_refused() {
        assert_eq!("star".parse(), Ok(ExchangePattern::Star));
        assert_eq!("64".parse(), Ok(ExchangePattern::Dissemination { radix: 64 }));
        for text in ["", "1", "65", "stars", "-2", "2.5"] {
            let error = text.parse::<ExchangePattern>().expect_err("no pattern");
            assert!(error.contains("from 2 to 64"), "{error}");
        }
        let large = Schedule::new(MAX_STAR + 1, ExchangePattern::Star);
        assert_eq!(large.pattern(), ExchangePattern::Dissemination { radix: MAX_RADIX });
    }
}
