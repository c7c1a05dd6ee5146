//! A group that spans simulated nodes, and its members, each a process of its own on unreliable wires: what the tests
//! have in common that step the barrier between nodes.

use std::task::Poll;

use phalanx::ExchangePattern;
use phalanx::coord::barrier::spanning::layout::SpanLayout;
use phalanx::coord::barrier::spanning::{Schedule, Span, SpanNode, Spanning};
use phalanx::coord::barrier::{Algorithm, Outcome};
use phalanx::coord::formation::{self, Member};
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::sim::{Seeded, SimNode};

use super::conduct::{Conduct, must_get};
use super::wires::Wires;

/// The blocks of a group, each on a node that has space for nothing else.
pub struct Spanned {
    pub nodes: Vec<SimNode>,
    pub layouts: Vec<SpanLayout>,
    pub span: Span,
}

impl Spanned {
    /// With so many members on each node, who meet there by these algorithms.
    pub fn new(schedule: Schedule, counts: &[usize], mut algorithm: impl FnMut() -> Algorithm) -> Self {
        let (mut nodes, mut layouts, mut list) = (Vec::new(), Vec::new(), Vec::new());
        for (node, count) in counts.iter().enumerate() {
            let layout = NodeLayout::new(*count, formation::units_spanning(&schedule, *count) * UNIT_WORDS);
            let memory = SimNode::new(layout.words());
            let made = formation::make_spanning(&memory, &layout, schedule, &members(*count), algorithm());
            let made = made.expect("space");
            list.push(SpanNode { node, start: made.start(), members: *count });
            layouts.push(made);
            nodes.push(memory);
        }
        Self { nodes, layouts, span: Span::Some(list.into()) }
    }
}

/// All ranks of a node.
pub fn members(count: usize) -> Vec<Member> {
    (0..count).map(|local| Member { rank: local, local }).collect()
}

/// A dissemination more often than a star.
pub fn any_pattern(most_radix: usize, random: &mut Seeded) -> ExchangePattern {
    match random.below(3) {
        0 => ExchangePattern::Star,
        _ => ExchangePattern::Dissemination { radix: 2 + random.below(most_radix - 1) },
    }
}

pub fn any_algorithm(random: &mut Seeded) -> Algorithm {
    Algorithm::ALL[random.below(3)]
}

/// One member of the group.
pub struct Actor {
    pub machine: Spanning,
    pub node: usize,
    pub conduct: Conduct,
}

impl Actor {
    /// All members, node by node; each one's place is its process's number, too.
    pub fn all(net: &Wires, layouts: &[SpanLayout], span: &Span) -> Vec<Self> {
        let mut actors = Vec::new();
        for (node, layout) in layouts.iter().enumerate() {
            for me in 0..layout.local().size() {
                let machine = Spanning::new(&net.nodes[node], *layout, span.clone(), node, me);
                actors.push(Self { machine, node, conduct: Conduct::new() });
            }
        }
        actors
    }

    /// The barrier that it is at.
    pub fn next(&self) -> u64 {
        self.machine.passed() + 1
    }

    /// Looks, the less it trusts in others the more thoroughly: 0 to 5.
    pub fn look(&mut self, net: &Wires, process: usize, distrust: usize) -> Poll<Outcome> {
        let (memory, fabric) = (&net.nodes[self.node], net.of(process, self.node));
        match distrust {
            0..3 => self.machine.poll(memory, &fabric),
            3 | 4 => self.machine.poll_thoroughly(memory, &fabric),
            _ => self.machine.repair(memory, &fabric),
        }
    }
}

/// Member `index` has just passed: the oracle on that.
pub fn pass(actors: &mut [Actor], index: usize, outcome: &Outcome) {
    actors[index].conduct.pass();
    let sequence = actors[index].machine.passed();
    let all = actors.iter().map(|actor| (actor.next(), &actor.conduct));
    // Who disagrees, members' own words tell.
    let agreed = must_get(all, index, sequence).ok();
    assert_eq!(outcome.as_ref().ok().copied(), agreed, "member {index} at barrier {sequence}: {outcome:?}");
}
