//! What must hold in every run of a simulated job: checked after each slice of time, and at the end. The oracle sees all
//! nodes' words at once, and knows what has happened to whom.

use std::collections::HashSet;

use phalanx::cluster::agreement::Electorate;
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::fabric::Memory;
use phalanx::fabric::node::header;
use phalanx::sync::Ordering;

use crate::actor::Stand;
use crate::run::Run;

impl Run {
    /// All know the same, and it stays.
    pub fn check_logs(&mut self) {
        for node in 0..self.layouts.len() {
            let layout = self.layouts[node];
            let memory = self.world.memory(node);
            let epochs = view::epoch(memory, &layout);
            for epoch in 1..=epochs {
                let word = memory.word(layout.epoch(epoch).decided()).load(Ordering::Relaxed);
                let at = usize::try_from(epoch - 1).expect("few");
                match self.logs[node].get(at) {
                    Some(before) => assert_eq!(*before, word, "epoch {epoch} has changed on node {node}"),
                    None => self.logs[node].push(word),
                }
            }
        }
        let longest = self.logs.iter().max_by_key(|log| log.len()).expect("nodes").clone();
        for (node, log) in self.logs.iter().enumerate() {
            assert_eq!(log[..], longest[..log.len()], "node {node} knows other epochs");
        }
        for word in &longest {
            let lost = Obituary::unpack(*word).expect("an obituary");
            assert!(self.reasons.contains_key(&lost.unit), "{lost:?} for no reason");
        }
        let units: HashSet<Unit> =
            longest.iter().filter_map(|word| Obituary::unpack(*word)).map(|lost| lost.unit).collect();
        assert_eq!(units.len(), longest.len(), "each unit once");
    }

    /// Units in the log, as far as anybody knows it.
    pub fn log(&self) -> Vec<Obituary> {
        let longest = self.logs.iter().max_by_key(|log| log.len()).expect("nodes");
        longest.iter().filter_map(|word| Obituary::unpack(*word)).collect()
    }

    pub fn has_failed(&self, unit: Unit) -> bool {
        let home = match unit {
            Unit::Rank(rank) => self.topology.node_of(rank),
            Unit::Node(node) => node,
        };
        self.log().iter().any(|lost| lost.unit == unit || lost.unit == Unit::Node(home))
    }

    /// Nodes that live and have not been declared failed.
    pub fn survivors(&self) -> Vec<usize> {
        let lives = |node: &usize| self.world.is_alive(*node) && !self.has_failed(Unit::Node(*node));
        (0..self.layouts.len()).filter(lives).collect()
    }

    /// Whether these can decide anything.
    pub fn can_decide(&self, nodes: &[usize]) -> bool {
        let witness = self.layouts.len();
        let log = self.log();
        let is_lost = |node| log.iter().any(|lost| lost.unit == Unit::Node(node));
        let is_lost: Vec<bool> = (0..witness).map(is_lost).collect();
        let electorate = Electorate::new(&is_lost, self.has_witness);
        let is_gone = |one: usize| self.nature.borrow().refuses.contains_key(&one);
        let rule = electorate.rule(is_gone);
        let answers = |one: &usize| nodes.contains(one) || *one == witness && self.world.is_alive(witness);
        let votes = |one: &usize| electorate.is_asked(*one, rule) && !is_gone(*one) && answers(one);
        let votes = (0..electorate.acceptors()).filter(votes).count();
        !nodes.is_empty() && votes >= electorate.needed(rule, is_gone)
    }

    pub fn doubts(&self, node: usize) -> Vec<usize> {
        let load =
            |other: &usize| self.world.memory(node).word(self.layouts[node].doubt(*other)).load(Ordering::Relaxed);
        (0..self.layouts.len()).filter(|other| load(other) != 0).collect()
    }

    pub fn is_excluded(&self, node: usize) -> bool {
        self.world.memory(node).word(header::EXCLUDED).load(Ordering::Relaxed) != 0
    }

    /// At the end, when no link is cut any more.
    pub fn check_end(&self) {
        let survivors = self.survivors();
        let log = self.log();
        if self.can_decide(&survivors) {
            for node in &survivors {
                assert_eq!(self.logs[*node].len(), log.len(), "node {node} has not heard all: {log:?}");
                assert_eq!(self.doubts(*node), [0_usize; 0], "node {node} doubts still");
            }
            for actor in self.actors.iter().filter(|actor| actor.is_dead) {
                let is_known = self.has_failed(Unit::Rank(actor.rank));
                assert!(is_known, "nobody has noticed that rank {} is dead: {log:?}", actor.rank);
            }
        }
        for node in (0..self.layouts.len()).filter(|node| self.world.is_alive(*node)) {
            let is_lost = self.has_failed(Unit::Node(node));
            if is_lost && !survivors.is_empty() {
                assert!(
                    self.is_excluded(node) || self.knows_of_itself(node),
                    "node {node} does not know that it is lost"
                );
            }
            assert!(is_lost || !self.is_excluded(node), "node {node} is excluded for no reason");
        }
        self.check_waits(self.can_decide(&survivors));
    }

    pub fn knows_of_itself(&self, node: usize) -> bool {
        self.logs[node].iter().any(|word| Obituary::unpack(*word).is_some_and(|lost| lost.unit == Unit::Node(node)))
    }

    pub fn check_waits(&self, has_quorum: bool) {
        for actor in self.actors.iter().filter(|actor| !actor.is_dead) {
            let Some(meeting) = &actor.meeting else { continue };
            let has_ended = match &meeting.stand {
                Stand::Done | Stand::Failed | Stand::Excluded => true,
                Stand::Computing(_) => false,
                Stand::Waiting { .. } => meeting.is_doubtful && !has_quorum,
            };
            let what = &meeting.stand;
            let log = self.log();
            assert!(
                has_ended,
                "rank {} on node {} is left: {what:?}, passed {}, {log:?}",
                actor.rank,
                actor.node,
                meeting.machine.passed()
            );
        }
    }

    /// From a failure until the last surviving node knew of it.
    pub fn detection(&self, unit: Unit, since: u64) -> Option<u64> {
        let home = match unit {
            Unit::Rank(rank) => Unit::Node(self.topology.node_of(rank)),
            node => node,
        };
        let at = self.log().iter().position(|lost| lost.unit == unit || lost.unit == home)?;
        let known = self.known.borrow();
        self.survivors().iter().map(|node| known[*node][at].saturating_sub(since)).max()
    }
}
