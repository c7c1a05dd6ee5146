//! What must hold in every run of a simulated job: checked after each slice of time, and at the end. The oracle sees
//! all nodes' words at once, and knows what has happened to whom.

use phalanx::FailureCause;
use phalanx::cluster::agreement::Electorate;
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::fabric::Memory;
use phalanx::fabric::node::{NodeLayout, header};
use phalanx::fabric::sim::SimNode;
use phalanx::sync::Ordering;

use crate::actor::{Leaving, Stand};
use crate::nature::Nature;
use crate::run::Run;

/// No rank goes by an epoch as long as something may come in from whom it has lost.
pub fn check_told(memory: &SimNode, layout: &NodeLayout, here: usize, nature: &Nature) {
    for epoch in 1..=view::epoch(memory, layout) {
        if let Some(Obituary { unit: Unit::Node(lost), cause }) = view::obituary(memory, layout, epoch)
            && cause != FailureCause::Left
            && lost != here
        {
            let is_shut_out = nature.excluded.contains(&(here, lost));
            assert!(is_shut_out, "the ranks of node {here} go by the loss of node {lost}, which is not shut out");
        }
    }
}

impl Run {
    /// All know the same: what is new on each node since the last slice of time.
    pub fn check_news(&mut self) {
        for node in 0..self.layouts.len() {
            let known = self.logs[node].len() as u64;
            for epoch in known + 1..=view::epoch(self.world.memory(node), &self.layouts[node]) {
                let word = self.decided(node, epoch);
                self.logs[node].push(word);
                let at = usize::try_from(epoch - 1).expect("few");
                match self.agreed.get(at) {
                    Some(agreed) => assert_eq!(*agreed, word, "node {node} knows another epoch {epoch}"),
                    None => self.note_agreed(word),
                }
            }
        }
    }

    fn note_agreed(&mut self, word: u64) {
        let lost = Obituary::unpack(word).expect("an obituary");
        assert!(self.has_reason(lost), "{lost:?} for no reason");
        assert!(self.log().iter().all(|earlier| earlier.unit != lost.unit), "{lost:?} for the second time");
        self.agreed.push(word);
    }

    /// Whoever leaves is no loss before somebody misses it. Where the farewell of a node does not reach all who come to
    /// watch it, because others die or are cut off, it may be found gone, or silent.
    fn has_reason(&self, lost: Obituary) -> bool {
        if self.reasons.contains_key(&lost.unit) {
            return true;
        }
        let has_left = match lost.unit {
            Unit::Rank(rank) => self.actors[rank].leaving != Leaving::Stays,
            Unit::Node(node) => self.topology.ranks_of(node).iter().all(|rank| self.actors[*rank].is_dead),
        };
        let is_calm = self.reasons.is_empty() && !self.loses_messages;
        has_left
            && match lost.cause {
                FailureCause::Left => self.nature.borrow().asked.contains(&lost.unit),
                FailureCause::Gone | FailureCause::Silent => !is_calm,
                _ => false,
            }
    }

    fn decided(&self, node: usize, epoch: u64) -> u64 {
        self.world.memory(node).word(self.layouts[node].epoch(epoch).decided()).load(Ordering::Relaxed)
    }

    /// What was decided has stayed, on each node.
    pub fn check_logs(&self) {
        for (node, log) in self.logs.iter().enumerate() {
            for (epoch, word) in (1..).zip(log) {
                assert_eq!(*word, self.decided(node, epoch), "epoch {epoch} has changed on node {node}");
            }
        }
    }

    /// Units in the log, as far as anybody knows it.
    pub fn log(&self) -> Vec<Obituary> {
        self.agreed.iter().filter_map(|word| Obituary::unpack(*word)).collect()
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
            for actor in self.actors.iter().filter(|actor| actor.is_dead && actor.leaving != Leaving::Left) {
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
                Stand::Computing(_) => actor.leaving != Leaving::Stays,
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
