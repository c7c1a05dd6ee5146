//! Doubts: too few nodes answer to decide anything. Those that do not are doubtful, and waits for them end; all are
//! asked again, at every beat in a small job, and when enough answer the doubts end. A node that answers has not
//! failed, so that a partition that heals before anybody could decide anything leaves nothing behind.
//!
//! Where the job has a witness, that may know what was decided without those who doubt: then they learn it from there.
//!
//! A node that watches none of those that are cut off from it would doubt nobody. So whoever doubts says so to those
//! next to it in the ring that answer ([`NodeLayout::missed`]), and who is told asks all for itself.
//!
//! [`NodeLayout::missed`]: crate::fabric::node::NodeLayout::missed

use std::task::Poll;
use std::time::Duration;

use super::{Sentinel, Site, Surroundings, ring};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::fabric::node::header;
use crate::fabric::tcp::Ports;
use crate::fabric::{Fabric, Memory, Ticket, WordAt};
use crate::sync::Ordering;

/// Where the witness says what was decided for the next epoch.
#[derive(Clone, Copy, Debug)]
struct NextAtWitness {
    witness: usize,
    epoch: u64,
    at: WordAt,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
struct Question {
    ticket: Ticket,
    /// Of the witness: what was decided for this epoch.
    epoch: Option<u64>,
}

/// Reads of a word of each node, each renewed in a later round when its answer has come or been lost.
#[derive(Debug)]
pub(super) struct Survey {
    asked: Vec<Option<Question>>,
    /// Whether each node has answered when it was asked last.
    answered: Vec<bool>,
    rounds: Rounds,
    /// Since when each node has not answered.
    since: Vec<Duration>,
    doubtful: Vec<bool>,
    /// Whether so many are doubtful, or were, that nothing can be decided. Until then nobody is told of a doubt:
    /// answers may be on their way.
    is_stuck: bool,
    /// The last epoch that the witness is known to know, of those that this node did not know when it asked.
    news: Option<u64>,
}

/// When all are asked again. In a large job, where many ask many, ever more seldom.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    next: Duration,
    pause: Duration,
    longest: Duration,
}

impl Rounds {
    /// Whether the next round begins.
    fn begins(&mut self, now: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}

impl Survey {
    /// Takes the answers that have come since the last call, and asks anew whom no question is under way to, if it is
    /// time. The witness is asked in each call, for what was decided for the next epoch: `next`. Which nodes have
    /// answered in this call.
    fn turn(&mut self, fabric: &impl Fabric, now: Duration, next: Option<NextAtWitness>) -> Vec<usize> {
        fabric.progress();
        let (begins, here, mut fresh) = (self.rounds.begins(now), fabric.here(), Vec::new());
        for node in (0..self.asked.len()).filter(|node| *node != here) {
            let of_witness = next.filter(|next| next.witness == node);
            if let Some(Question { ticket, epoch }) = self.asked[node] {
                let Poll::Ready(answer) = fabric.take(ticket) else {
                    self.answered[node] = false;
                    continue;
                };
                (self.asked[node], self.answered[node]) = (None, answer.is_ok());
                fresh.extend(answer.is_ok().then_some(node));
                if answer.is_ok_and(|word| word != 0) {
                    self.news = epoch.or(self.news);
                }
            }
            if begins || of_witness.is_some() {
                let at = of_witness.map_or(header::EPOCH, |next| next.at);
                let question = |ticket| Question { ticket, epoch: of_witness.map(|next| next.epoch) };
                self.asked[node] = fabric.read(node, at).ok().map(question);
                self.answered[node] &= self.asked[node].is_some();
            }
        }
        fresh
    }

    /// Whether nodes are doubted, so that nothing can be decided, and the `next` epoch has not been, so that it could
    /// be learnt.
    pub fn has_doubts(&self, next: u64) -> bool {
        self.is_stuck && self.news != Some(next)
    }

    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.asked.iter_mut().filter_map(Option::take).for_each(|question| fabric.forget(question.ticket));
    }
}

impl Sentinel {
    /// Too few nodes will answer, for these do not.
    pub(super) fn begin_survey<M: Memory, F: Fabric, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        doubtful: &[usize],
    ) {
        self.ask_all(site, doubtful, true);
    }

    /// Asks all nodes whether they are there.
    fn ask_all<M: Memory, F: Fabric, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        doubtful: &[usize],
        is_stuck: bool,
    ) {
        if let Some(mut earlier) = self.survey.take() {
            earlier.abandon(site.fabric);
        }
        let acceptors = self.post.acceptors();
        let is_small = ring::is_small(&self.absent(site.memory));
        let (pause, longest) = match is_small {
            true => (Duration::ZERO, Duration::ZERO),
            false => (self.post.options.heartbeat, self.post.options.timeout),
        };
        let here = self.post.here();
        let mut survey = Survey {
            asked: vec![None; acceptors],
            answered: (0..acceptors).map(|one| one == here).collect(),
            rounds: Rounds { next: site.now, pause, longest },
            since: vec![site.now; acceptors],
            doubtful: (0..acceptors).map(|one| doubtful.contains(&one)).collect(),
            is_stuck,
            news: None,
        };
        survey.turn(site.fabric, site.now, self.next_at_witness(site.memory));
        self.show_doubts(site, &survey);
        self.survey = Some(survey);
    }

    fn show_doubts<M: Memory, F: Fabric, S: Surroundings>(&self, site: &Site<'_, M, F, S>, survey: &Survey) {
        if survey.is_stuck {
            self.set_doubts(site, &self.with_accused(&survey.doubtful));
        }
    }

    /// Where the witness says what was decided for the next epoch.
    fn next_at_witness(&self, memory: &impl Memory) -> Option<NextAtWitness> {
        let epoch = view::epoch(memory, &self.post.layout()) + 1;
        let witness = self.post.witness().filter(|_| epoch <= self.post.layout().epochs() as u64)?;
        Some(NextAtWitness { witness, epoch, at: self.post.slot(witness, epoch).decided })
    }

    /// Those whose failure this node knows of are as much in doubt as those that do not answer: nobody can decide it.
    fn with_accused(&self, doubtful: &[bool]) -> Vec<bool> {
        let mut doubtful = doubtful.to_vec();
        for wanted in &self.wanted {
            if let Unit::Node(node) = wanted.unit {
                doubtful[node] = true;
            }
        }
        doubtful
    }

    /// At a beat while there are doubts.
    pub(super) fn look_at_survey<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let Some(mut survey) = self.survey.take() else { return };
        let fresh = survey.turn(site.fabric, site.now, self.next_at_witness(site.memory));
        fresh.into_iter().for_each(|node| self.hear(site, node));
        let answered = survey.answered.clone();
        for (node, has_answered) in answered.iter().enumerate() {
            if *has_answered {
                survey.since[node] = site.now;
            } else if !self.gone[node] {
                self.look_whether_gone(site, node);
            }
            let is_doubtful = survey.doubtful[node] || self.is_doubtful(node, survey.since[node], site.now);
            survey.doubtful[node] = is_doubtful && !has_answered && !self.gone[node];
        }
        if !self.can_decide(site.memory, |acceptor| answered[acceptor]) {
            survey.is_stuck |= !self.can_decide(site.memory, |acceptor| !survey.doubtful[acceptor]);
            self.show_doubts(site, &survey);
            self.spread_doubts(site.fabric, &survey.doubtful, &answered);
            self.survey = Some(survey);
            return;
        }
        survey.abandon(site.fabric);
        self.failing_since = None;
        self.set_doubts(site, &vec![false; self.post.nodes()]);
    }

    /// Tells the neighbours that answer of one that does not.
    fn spread_doubts(&self, fabric: &impl Fabric, doubtful: &[bool], answered: &[bool]) {
        let doubted = (0..self.post.nodes()).find(|node| doubtful[*node]);
        let Some(doubted) = doubted else { return };
        let (here, nodes) = (self.post.here(), self.post.nodes());
        // The witness waits for nobody: it is no neighbour.
        let behind = (1..nodes).map(|step| (here + step) % nodes).filter(|node| answered[*node]);
        let before = (1..nodes).map(|step| (here + nodes - step) % nodes).filter(|node| answered[*node]);
        for node in behind.take(ring::WATCHERS).chain(before.take(ring::WATCHERS)) {
            if let Ok(ticket) = fabric.fetch_add(node, self.post.layouts[node].missed(doubted), 1) {
                fabric.forget(ticket);
            }
        }
    }

    /// Somebody misses nodes that are not known to have left or failed: whether they answer this one.
    pub(super) fn heed_rumours<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let layout = self.post.layout();
        let failed = ring::failed(site.memory, &layout);
        let is_open = |node: &usize| !self.gone[*node] && !failed[*node];
        // Relaxed: a count, compared with itself.
        let count = |node| site.memory.word(layout.missed(node)).load(Ordering::Relaxed);
        let rumours = (0..self.post.nodes()).filter(is_open).map(count).fold(0, u64::wrapping_add);
        if std::mem::replace(&mut self.rumours, rumours) < rumours && self.survey.is_none() {
            self.ask_all(site, &[], false);
        }
    }

    /// A node has answered, and had been silent perhaps.
    fn hear<M: Memory, F, S>(&mut self, site: &Site<'_, M, F, S>, node: usize) {
        if self.wanted.contains(&Obituary { unit: Unit::Node(node), cause: FailureCause::Silent }) {
            self.watching.note_life(node, site.now);
            self.acquit(node);
        }
    }

    /// A node does not answer, and may have left or died, though nobody who watched it is left to say so.
    fn look_whether_gone<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>, node: usize) {
        if Some(node) == self.post.witness() {
            site.surroundings.probe(node);
            return self.look_after_witness(site);
        }
        if site.surroundings.ports(node) == Ports::Closed {
            self.note_gone(node);
            self.want(site.memory, Obituary { unit: Unit::Node(node), cause: FailureCause::Gone });
        } else {
            site.surroundings.probe(node);
        }
    }

    pub(super) fn set_doubts<M: Memory, F, S: Surroundings>(&self, site: &Site<'_, M, F, S>, doubtful: &[bool]) {
        let layout = self.post.layout();
        let mut is_news = false;
        for (node, is_doubtful) in doubtful.iter().enumerate().take(self.post.nodes()) {
            let doubt = u64::from(*is_doubtful);
            // Acquire and Release have no partner of their own: who looks for doubts (`Membership::is_doubtful`,
            // `Reach::is_doubtful`) does so by Relaxed loads, after it has seen the alarm that is raised below. SYNC
            // POINT: alarm. Release: the doubt comes before that.
            is_news |= site.memory.word(layout.doubt(node)).swap(doubt, Ordering::AcqRel) != doubt;
        }
        if is_news {
            view::raise_alarm(site.memory);
            site.surroundings.rouse();
        }
    }
}
