//! What the agent of a node does so that all nodes know who has failed: it sends heartbeats and watches those of other
//! nodes, proposes epochs for the failures that it sees, and passes on what is decided.
//!
//! ```text
//!   a rank's end in the table ─┐
//!   a node's silence ──────────┼─▶ wanted ─▶ Agreement ─▶ decided here ─▶ Announcement to other nodes
//!   all its ports refuse ──────┘              │ too few answer                 │ those that were not reached
//!                                             ▼                                ▼
//!                                     doubt: waits end as Unreachable      again at the next beat
//! ```
//!
//! Nothing here blocks: [`Agent::step`] moves everything on, and says when it wants to be called again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::super::failure::{FailureOptions, note_end, shut_out};
use super::{process_of, ring};
use crate::cluster::agreement::{Agreement, AgreementError, Announcement, Decision, Listener, Proposal, Slot};
use crate::cluster::detector::{Detector, DetectorOptions, HeartbeatWord, Verdict};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::cluster::watch::ProcessState;
use crate::fabric::network::Network;
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::shm::Segment;
use crate::fabric::tcp::TcpFabric;
use crate::fabric::{Fabric, Memory, Request, Topology};
use crate::sync::Ordering;

/// The incarnation in the last heartbeat of a node whose ranks have all left.
const FAREWELL: u16 = u16::MAX;
/// The pause between two looks while something is under way.
const BUSY_PAUSE: Duration = Duration::from_micros(200);
/// How long something that is under way is polled without a pause.
const BUSY_FOR: Duration = Duration::from_micros(500);
/// About a round trip: the shortest pause of a proposer that is disturbed.
const AGREEMENT_PAUSE: Duration = Duration::from_micros(200);
/// How long the ports of a node of several ranks must refuse before all its processes count as gone: the agent's role may
/// be on its way from one to another.
const ROLE_PASSES_IN: Duration = Duration::from_millis(60);
/// How long after a connection has broken its node's ports are looked at again and again.
const PROBING: Duration = Duration::from_millis(200);
/// So many nodes are told by the one that has proposed; of more each tells some that come after it.
const TOLD_DIRECTLY: usize = 16;
/// Nodes that each node tells in a larger job.
const BRANCHES: usize = 8;

/// Another node, as this one watches it.
struct Watched {
    node: usize,
    detector: Detector,
    /// Until when its ports are looked at, because a connection has broken.
    probed_until: Option<Duration>,
}

/// What an agent has under way.
pub(super) struct Agent {
    segment: Arc<Segment>,
    layouts: Arc<[NodeLayout]>,
    topology: Arc<Topology>,
    network: Arc<Network>,
    here: usize,
    /// This rank's place on its node.
    local: usize,
    options: FailureOptions,
    begun: Instant,
    heartbeat: HeartbeatWord,
    next_beat: Duration,
    watched: Vec<Watched>,
    /// Failures that are to be decided.
    wanted: Vec<Obituary>,
    proposal: Option<(u64, Agreement)>,
    announcements: Vec<(u64, Announcement)>,
    /// Nodes that are still to be told of an epoch.
    untold: Vec<(u64, usize)>,
    /// The last epoch that this agent has acted on.
    seen: u64,
    /// Nodes that have no process any more.
    gone: Vec<usize>,
    /// How often each rank of this node had been asked after, and since when it is seen stopped.
    asked: Vec<(u64, Option<Duration>)>,
    is_doubtful: bool,
}

impl Agent {
    pub fn new(
        rank: usize,
        segment: &Arc<Segment>,
        layouts: &Arc<[NodeLayout]>,
        topology: &Arc<Topology>,
        network: &Arc<Network>,
        options: FailureOptions,
    ) -> Self {
        let (here, local) = (topology.node_of(rank), topology.local_of(rank));
        let incarnation = u16::try_from(local + 1).unwrap_or(FAREWELL - 1);
        let ranks = topology.ranks_of(here).len();
        Self {
            segment: Arc::clone(segment),
            layouts: Arc::clone(layouts),
            topology: Arc::clone(topology),
            network: Arc::clone(network),
            here,
            local,
            options,
            begun: Instant::now(),
            heartbeat: HeartbeatWord::new(incarnation, 0),
            next_beat: Duration::ZERO,
            watched: Vec::new(),
            wanted: Vec::new(),
            proposal: None,
            announcements: Vec::new(),
            untold: Vec::new(),
            seen: 0,
            gone: Vec::new(),
            asked: vec![(0, None); ranks],
            is_doubtful: false,
        }
    }

    fn layout(&self) -> NodeLayout {
        self.layouts[self.here]
    }

    fn fabric(&self) -> &TcpFabric {
        self.network.by_sockets()
    }

    fn load(&self, at: crate::fabric::WordAt) -> u64 {
        self.segment.word(at).load(Ordering::Acquire)
    }

    /// The rank of this node that speaks for it: the lowest that has not ended.
    fn speaker(&self) -> Option<usize> {
        let node = self.layout();
        (0..node.ranks()).find(|local| view::end_of(&*self.segment, &node, *local).is_none())
    }

    /// Moves everything on. After how long it wants to be called again, if nothing happens before; `None`: not at all.
    pub fn step(&mut self) -> Option<Duration> {
        let now = self.begun.elapsed();
        if self.speaker() != Some(self.local) {
            return self.follow(now);
        }
        if !self.network.is_agent() && self.network.become_agent().is_err() {
            // Perhaps for want of descriptors: it is tried again.
            return Some(self.options.heartbeat);
        }
        self.act_on_epochs();
        if now >= self.next_beat {
            self.next_beat = now + self.options.heartbeat;
            self.beat(now);
        }
        self.look_at_ports(now);
        self.collect(now);
        self.propose(now);
        self.announce();
        let is_busy = self.proposal.is_some() || !self.announcements.is_empty();
        let is_probing = self.watched.iter().any(|watched| watched.probed_until.is_some());
        match (is_busy, is_probing) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(BUSY_PAUSE),
            (false, false) => Some(self.next_beat.saturating_sub(self.begun.elapsed())),
        }
    }

    /// As [`step`](Self::step), again and again for as long as something is under way, but not for long.
    pub fn run(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        loop {
            match self.step() {
                Some(Duration::ZERO) if begun.elapsed() < BUSY_FOR => crate::machine::yield_cpu(),
                Some(Duration::ZERO) => return Some(BUSY_PAUSE),
                pause => return pause,
            }
        }
    }

    /// Not the agent: its successor looks whether the agent has been stopped.
    fn follow(&mut self, now: Duration) -> Option<Duration> {
        let node = self.layout();
        let speaker = self.speaker()?;
        let lives = |local: &usize| view::end_of(&*self.segment, &node, *local).is_none();
        if (speaker + 1..node.ranks()).find(lives) != Some(self.local) {
            return None;
        }
        let word = self.load(node.heartbeat(self.here));
        if self.asked[speaker].0 != word {
            self.asked[speaker] = (word, Some(now));
        }
        let since = self.asked[speaker].1.unwrap_or(now);
        if now.saturating_sub(since) >= self.options.timeout / 2 && self.is_stopped(speaker) {
            // Sooner than other nodes would give this one up for its silence.
            self.note_stopped(speaker);
            return Some(Duration::ZERO);
        }
        Some(self.options.heartbeat)
    }

    fn is_stopped(&self, local: usize) -> bool {
        let state = process_of(&self.segment, local).state();
        matches!(state, Ok(ProcessState::Stopped | ProcessState::Traced))
    }

    fn note_stopped(&self, local: usize) {
        let unit = Unit::Rank(self.topology.ranks_of(self.here)[local]);
        note_end(&self.segment, local, Obituary { unit, cause: FailureCause::Stopped });
    }

    /// A connection has broken: perhaps somebody is gone.
    pub fn handle_breach(&mut self) {
        let until = self.begun.elapsed() + PROBING;
        for watched in &mut self.watched {
            watched.probed_until = Some(until);
            self.network.probe(watched.node);
        }
    }

    /// Takes in the epochs that are new here.
    fn act_on_epochs(&mut self) {
        let node = self.layout();
        let last = view::epoch(&*self.segment, &node);
        while self.seen < last {
            let epoch = self.seen + 1;
            let Some(obituary) = view::obituary(&*self.segment, &node, epoch) else { return };
            self.seen = epoch;
            shut_out(&self.network, self.here, obituary);
            if let Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone | FailureCause::Left } = obituary {
                self.gone.push(lost);
            }
            self.wanted.retain(|wanted| wanted.unit != obituary.unit);
            let told = self.to_be_told(epoch);
            self.untold.extend(told.into_iter().map(|other| (epoch, other)));
        }
    }

    /// Whom this node tells of an epoch: everybody in a small job. In a larger one those below it in a tree whose root
    /// changes from epoch to epoch, and its neighbours, so that a node in between that is lost keeps nobody from hearing.
    fn to_be_told(&self, epoch: u64) -> Vec<usize> {
        let nodes = self.layout().nodes();
        let others = (0..nodes).filter(|other| *other != self.here);
        if nodes <= TOLD_DIRECTLY {
            return others.collect();
        }
        let shift = usize::try_from(epoch).unwrap_or(0) % nodes;
        let place = (self.here + nodes - shift) % nodes;
        let below = (BRANCHES * place + 1..=BRANCHES * place + BRANCHES).filter(|below| *below < nodes);
        let mut told: Vec<usize> = below.map(|below| (below + shift) % nodes).collect();
        told.push(shift);
        told.extend([1, nodes - 1].map(|step| (self.here + step) % nodes));
        told.sort_unstable();
        told.dedup();
        told.retain(|other| *other != self.here);
        told
    }

    /// Says that this node lives, and looks which others have said so.
    fn beat(&mut self, now: Duration) {
        let node = self.layout();
        self.heartbeat = self.heartbeat.next();
        self.say(self.heartbeat);
        let watched = ring::watched_by(&*self.segment, &node, self.here);
        self.watched.retain(|known| watched.contains(&known.node));
        for other in watched {
            if self.watched.iter().all(|known| known.node != other) {
                let tick = self.options.heartbeat;
                let options = DetectorOptions {
                    interval: tick,
                    tick,
                    timeout: self.options.timeout,
                    ..DetectorOptions::default()
                };
                // Checked when the options were made.
                let Ok(detector) = Detector::new(options, now) else { continue };
                self.watched.push(Watched { node: other, detector, probed_until: None });
            }
        }
        let mut silent = Vec::new();
        let mut is_any_heard = false;
        for watched in &mut self.watched {
            let word = self.segment.word(node.heartbeat(watched.node)).load(Ordering::Acquire);
            if HeartbeatWord(word).incarnation() == FAREWELL {
                continue;
            }
            watched.detector.observe(word, now);
            match watched.detector.assess(now) {
                Verdict::Silent { .. } => silent.push(watched.node),
                Verdict::Healthy => is_any_heard = true,
                Verdict::Unheard | Verdict::Late { .. } => {}
            }
        }
        if self.is_doubtful && silent.is_empty() && is_any_heard {
            self.end_doubts();
        }
        for lost in silent {
            self.want(Obituary { unit: Unit::Node(lost), cause: FailureCause::Silent });
        }
        self.tell_again();
    }

    /// Writes a heartbeat into the memory of those who watch this node, and into its own.
    fn say(&self, heartbeat: HeartbeatWord) {
        let node = self.layout();
        self.segment.word(node.heartbeat(self.here)).store(heartbeat.0, Ordering::Release);
        for watcher in ring::watchers_of(&*self.segment, &node, self.here) {
            // A node that cannot be reached now is told at the next beat.
            let _ = self.fabric().write(watcher, self.layouts[watcher].heartbeat(self.here), heartbeat.0);
        }
    }

    /// The last rank of this node leaves.
    pub fn say_farewell(&self) {
        if self.speaker().is_none() && self.network.is_agent() {
            self.say(HeartbeatWord::new(FAREWELL, self.heartbeat.counter().wrapping_add(1)));
        }
    }

    /// After a connection has broken: whether the processes of the nodes that this one watches are all gone.
    fn look_at_ports(&mut self, now: Duration) {
        let node = self.layout();
        let mut gone = Vec::new();
        for watched in &mut self.watched {
            let Some(until) = watched.probed_until else { continue };
            let has_left = HeartbeatWord(self.segment.word(node.heartbeat(watched.node)).load(Ordering::Acquire))
                .incarnation()
                == FAREWELL;
            match self.network.refused_by_all(watched.node) {
                _ if has_left || now >= until => watched.probed_until = None,
                Some(lasts) => {
                    let lives = |rank: &&usize| !ring::is_in_log(&*self.segment, &node, Unit::Rank(**rank));
                    let living = self.topology.ranks_of(watched.node).iter().filter(lives).count();
                    if living <= 1 || lasts >= ROLE_PASSES_IN {
                        watched.probed_until = None;
                        gone.push(watched.node);
                    } else {
                        self.network.probe(watched.node);
                    }
                }
                None => self.network.probe(watched.node),
            }
        }
        for lost in gone {
            if !self.gone.contains(&lost) {
                self.gone.push(lost);
            }
            if let Some((_, agreement)) = &mut self.proposal {
                agreement.note_gone(lost);
            }
            self.want(Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone });
        }
    }

    /// Looks for ends of this node's ranks that are not decided, and after those that somebody waits for.
    fn collect(&mut self, now: Duration) {
        let node = self.layout();
        for local in 0..node.ranks() {
            let asked = self.load(node.asked_after(local));
            match view::end_of(&*self.segment, &node, local) {
                // Whoever leaves after its work is nobody's loss; whoever is waited for is.
                Some(end) if end.cause != FailureCause::Left || asked > 0 => self.want(end),
                Some(_) => {}
                None if asked != self.asked[local].0 => self.look_whether_stopped(local, asked, now),
                None => {}
            }
        }
        for other in 0..node.nodes() {
            let has_left = || HeartbeatWord(self.load(node.heartbeat(other))).incarnation() == FAREWELL;
            if self.load(node.missed(other)) > 0 && has_left() {
                self.gone.push(other);
                self.want(Obituary { unit: Unit::Node(other), cause: FailureCause::Left });
            }
        }
    }

    fn look_whether_stopped(&mut self, local: usize, asked: u64, now: Duration) {
        let since = match self.is_stopped(local) {
            true => Some(*self.asked[local].1.get_or_insert(now)),
            false => None,
        };
        self.asked[local] = (asked, since);
        if since.is_some_and(|since| now.saturating_sub(since) >= self.options.timeout) {
            self.note_stopped(local);
        }
    }

    fn want(&mut self, obituary: Obituary) {
        let node = self.layout();
        let home = match obituary.unit {
            Unit::Rank(rank) => self.topology.node_of(rank),
            Unit::Node(lost) => lost,
        };
        let is_known =
            ring::is_in_log(&*self.segment, &node, obituary.unit) || ring::has_failed(&*self.segment, &node, home);
        if !is_known && self.wanted.iter().all(|wanted| wanted.unit != obituary.unit) {
            self.wanted.push(obituary);
        }
    }

    /// Has the next wanted failure decided.
    fn propose(&mut self, now: Duration) {
        if self.proposal.is_none() {
            self.begin_proposal(now);
        }
        let Some((epoch, agreement)) = &mut self.proposal else { return };
        let Poll::Ready(ended) = agreement.poll(self.network.by_sockets(), now) else { return };
        let epoch = *epoch;
        self.proposal = None;
        match ended {
            Ok(decision) => self.decided(epoch, decision),
            Err(error) => self.doubt(&error),
        }
    }

    fn begin_proposal(&mut self, now: Duration) {
        let node = self.layout();
        let epoch = view::epoch(&*self.segment, &node) + 1;
        let Some(value) = self.wanted.first().and_then(|wanted| NonZeroU32::new(wanted.pack())) else { return };
        let slot = |layout: &NodeLayout| {
            let at = layout.epoch(epoch);
            Slot { acceptor: at.acceptor(), decided: at.decided() }
        };
        let slots = self.layouts.iter().map(slot).collect();
        let seed = self.segment.job_id() ^ epoch;
        let proposal = Proposal { nodes: node.nodes(), here: self.here, value, pause: AGREEMENT_PAUSE, seed };
        let deadline = now + (self.options.timeout / 5).max(Duration::from_millis(10));
        let mut agreement = Agreement::new(proposal, slots, Some(deadline));
        self.gone.iter().for_each(|lost| agreement.note_gone(*lost));
        self.proposal = Some((epoch, agreement));
    }

    fn decided(&mut self, epoch: u64, decision: Decision) {
        let Some(obituary) = Obituary::unpack(u64::from(decision.value)) else { return };
        let node = self.layout();
        // Nobody of this node is told before the connections are dropped.
        shut_out(&self.network, self.here, obituary);
        view::learn(&*self.segment, &node, epoch, obituary);
        self.network_rouse();
        self.end_doubts();
        self.act_on_epochs();
        let untold: Vec<usize> =
            self.untold.extract_if(.., |(untold, _)| *untold == epoch).map(|(_, other)| other).collect();
        self.begin_announcement(epoch, decision, untold);
    }

    fn network_rouse(&self) {
        crate::fabric::Await::rouse(&*self.network);
    }

    fn begin_announcement(&mut self, epoch: u64, decision: Decision, nodes: Vec<usize>) {
        let listener = |other: usize| {
            let at = self.layouts[other].epoch(epoch);
            let slot = Slot { acceptor: at.acceptor(), decided: at.decided() };
            Listener { node: other, slot, then: vec![Request::FetchAdd { at: header::ALARM, add: 1 }] }
        };
        let is_there = |other: &usize| !ring::has_failed(&*self.segment, &self.layout(), *other);
        let listeners: Vec<Listener> = nodes.into_iter().filter(is_there).map(listener).collect();
        if !listeners.is_empty() {
            self.announcements.push((epoch, Announcement::new(decision, listeners)));
        }
    }

    fn announce(&mut self) {
        let fabric = self.network.by_sockets();
        let mut missed = Vec::new();
        self.announcements.retain_mut(|(epoch, announcement)| match announcement.poll(fabric) {
            Poll::Pending => true,
            Poll::Ready(()) => {
                missed.extend(announcement.missed().into_iter().map(|other| (*epoch, other)));
                false
            }
        });
        self.untold.extend(missed);
    }

    /// Tells those that have not been told, or not reached.
    fn tell_again(&mut self) {
        let node = self.layout();
        for (epoch, other) in std::mem::take(&mut self.untold) {
            let Some(obituary) = view::obituary(&*self.segment, &node, epoch) else { continue };
            let is_under_way = self.announcements.iter().any(|(known, _)| *known == epoch);
            if is_under_way {
                self.untold.push((epoch, other));
            } else {
                let vote = crate::cluster::agreement::AcceptorWord(self.load(node.epoch(epoch).acceptor()));
                let decision = Decision { value: obituary.pack(), was_mine: false, vote };
                self.begin_announcement(epoch, decision, vec![other]);
            }
        }
    }

    /// Too few nodes have answered: those that have not are doubtful, and waits for them end.
    fn doubt(&mut self, error: &AgreementError) {
        let AgreementError::NoQuorum { unreachable, silent, .. } = error else { return };
        let node = self.layout();
        let mut is_news = false;
        for other in unreachable.iter().chain(silent) {
            is_news |= self.segment.word(node.doubt(*other)).swap(1, Ordering::AcqRel) == 0;
        }
        self.is_doubtful = true;
        if is_news {
            view::raise_alarm(&*self.segment);
            self.network_rouse();
        }
    }

    fn end_doubts(&mut self) {
        if std::mem::take(&mut self.is_doubtful) {
            let node = self.layout();
            for other in 0..node.nodes() {
                self.segment.word(node.doubt(other)).store(0, Ordering::Release);
            }
            view::raise_alarm(&*self.segment);
        }
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self) {
        let fabric = self.network.by_sockets();
        if let Some((_, agreement)) = &mut self.proposal {
            agreement.abandon(fabric);
        }
        self.announcements.iter_mut().for_each(|(_, announcement)| announcement.abandon(fabric));
    }
}
