//! What a node does so that all nodes know who has failed: it sends heartbeats and watches those of other nodes,
//! proposes epochs for the failures that it sees, and passes on what is decided.
//!
//! ```text
//!   a rank's end in the table ─┐             ┌── the next attempt ◀─ others were quicker, or may yet answer ─┐
//!   a node's silence ──────────┼─▶ wanted ─▶ Agreement ────────────────────────────────────────────────────┤
//!   all its ports refuse ──────┘      ▲        │ decided                     too few will answer ────────────┤
//!                                     │        ▼                                                             ▼
//!   told by another node ─▶ learnt: shut out, log, alarm ─▶ told to others      Survey: waits end as Unreachable;
//!                                     └────────────────────── enough answer ◀── all are asked again
//! ```
//!
//! Each rank has a [`Sentinel`]. That of its node's *agent*, the lowest rank that has not ended, does all of this; the
//! next one in line looks whether the agent has been stopped, and the others whether that one is needed, and stopped.
//!
//! | where a rank's sentinel stands | what it does |
//! | --- | --- |
//! | it is the agent | everything above |
//! | it is the next in line | declares the agent stopped, when it is, before other nodes give the whole node up |
//! | it is further behind | the same, while the agent's heart does not beat and all between are stopped: these, too |
//! | it has ended | nothing |
//! | all have ended, and it was given up when it was stopped, and runs again | what an agent does: nobody else is left |
//! | its node has been declared failed, or refused by others | nothing any more |
//!
//! A machine without input or output: time, memory, fabric and what else there is ([`Surroundings`]) come with each
//! call, as a [`Site`]. [`Sentinel::step`] moves everything on, never blocks, and says when it wants to be called
//! again. The driver is a thread (`src/job/watcher`), or the simulator (`tests/sentinel/`).
//!
//! | room | holds |
//! | --- | --- |
//! | `watching` | heartbeats heard, ports that refuse |
//! | `questions` | who is asked after, and has been stopped for too long; how often may be asked |
//! | `telling` | who is told of an epoch by whom |
//! | `farewell` | who has left, told to those next to it |
//! | `survey` | doubts: who answers while too few do |
//! | `ring` | who watches whom |

mod farewell;
mod questions;
pub mod ring;
mod survey;
mod telling;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use self::farewell::Farewells;
use self::questions::Asked;
pub use self::questions::{ASK_AT_LEAST_EVERY, ASK_EVERY, QUESTIONS_MISSED, shortest_question};
use self::survey::Survey;
use self::telling::Messenger;
use self::watching::Watching;
pub use self::watching::has_left;
use super::agreement::{Agreement, AgreementError, Decision, Electorate, Proposal, Seat, Slot};
use super::detector::HeartbeatWord;
use super::stopped::StoppedSince;
use super::view::{self, FailureCause, Obituary, Unit};
use super::witness;
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::tcp::Ports;
use crate::fabric::{Fabric, Memory, Request, Topology};
use crate::sync::Ordering;

/// The incarnation in the last heartbeat of a node whose ranks have all left.
const FAREWELL: u16 = u16::MAX;
/// The pause between two looks while a node's ports are probed.
pub const BUSY_PAUSE: Duration = Duration::from_micros(200);
/// About a round trip: the shortest pause of a proposer that is disturbed.
const AGREEMENT_PAUSE: Duration = Duration::from_micros(200);
/// The least time for one attempt to agree.
const LEAST_ATTEMPT: Duration = Duration::from_millis(10);
/// So many attempts to agree fit into a failure time-out.
const ATTEMPTS: u32 = 5;
/// Whoever follows the agent and has not looked for so many heartbeats, as it was stopped itself, say, begins anew.
const FOLLOWING_LAPSE: u32 = 3;
/// About as long as an epoch takes in a large job, with its telling: one node's turn to propose after the last one.
const TURN: Duration = Duration::from_millis(2);

/// What a sentinel needs of the machine beside words.
pub trait Surroundings {
    /// Whether this process serves its node's words to other nodes.
    fn is_agent(&self) -> bool;
    /// Serves them from now on; whether it can.
    fn become_agent(&self) -> bool;
    /// Whether a rank of this node is stopped (SIGSTOP, a debugger).
    fn is_stopped(&self, local: usize) -> bool;
    /// Looks whether a node lets anybody in.
    fn probe(&self, node: usize);
    /// What the last look has shown of a node's processes.
    fn ports(&self, node: usize) -> Ports;
    /// How long ago the kernel of a node has acknowledged something, whether its processes run or not; `None` where
    /// that is not known.
    fn acknowledged(&self, node: usize) -> Option<Duration>;
    /// Has nothing take effect any more that comes from a unit that has failed.
    fn shut_out(&self, lost: Obituary);
    /// Wakes those of this process that sleep on connections.
    fn rouse(&self);
}

/// What a step works with.
#[derive(Debug)]
pub struct Site<'site, M, F, S> {
    /// This node's words.
    pub memory: &'site M,
    /// The way to other nodes by which failures are talked about.
    pub fabric: &'site F,
    /// Whatever else there is.
    pub surroundings: &'site S,
    /// The time since any origin, the same for all steps of a sentinel.
    pub now: Duration,
}

/// When somebody has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentinelOptions {
    /// How long a rank that is stopped, or a node that is silent, is late before it has failed.
    pub timeout: Duration,
    /// How often nodes tell each other that they live.
    pub heartbeat: Duration,
}

/// Where a sentinel stands in its job. Never changes.
#[derive(Clone, Debug)]
pub struct Post {
    /// The rank that it speaks for.
    pub rank: usize,
    /// The division of each node's words.
    pub layouts: Arc<[NodeLayout]>,
    /// Which rank lives where.
    pub topology: Arc<Topology>,
    /// Whether the job has a witness ([`super::witness`]). Known alike by all.
    pub has_witness: bool,
    /// Times.
    pub options: SentinelOptions,
    /// What random pauses are drawn from; the same for all.
    pub seed: u64,
}

impl Post {
    fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }

    fn local(&self) -> usize {
        self.topology.local_of(self.rank)
    }

    fn layout(&self) -> NodeLayout {
        self.layouts[self.here()]
    }

    fn nodes(&self) -> usize {
        self.layouts.len()
    }

    /// The witness, by its number among those that vote.
    fn witness(&self) -> Option<usize> {
        self.has_witness.then_some(self.nodes())
    }

    /// How many there are that vote in one epoch or another: the nodes, and the witness behind them.
    fn acceptors(&self) -> usize {
        self.nodes() + usize::from(self.has_witness)
    }

    fn slot(&self, acceptor: usize, epoch: u64) -> Slot {
        let of_witness = witness::layout(self.topology.ranks(), self.nodes());
        let layout = self.layouts.get(acceptor).copied().unwrap_or(of_witness);
        let before = (epoch > 1).then(|| layout.epoch(epoch - 1).decided());
        let at = layout.epoch(epoch);
        Slot { acceptor: at.acceptor(), decided: at.decided(), before }
    }

    /// Who votes on the epoch after `last`, up to which all are known here.
    fn electorate(&self, memory: &impl Memory, last: u64) -> Electorate {
        Electorate::new(&ring::failed_by(memory, &self.layout(), last), self.has_witness)
    }

    /// Who votes on the epoch after the last one that is known here.
    fn next_electorate(&self, memory: &impl Memory) -> Electorate {
        self.electorate(memory, view::epoch(memory, &self.layout()))
    }

    /// The rank of this node that speaks for it: the lowest that has not ended.
    fn speaker(&self, memory: &impl Memory) -> Option<usize> {
        let node = self.layout();
        (0..node.ranks()).find(|local| !view::has_ended(memory, &node, *local))
    }

    /// Whether this rank speaks for its node. Where all have ended, one that was given up when it was stopped, and runs
    /// again, does: nobody else is left to say who has died after it, and its node would answer, and be heard of, for
    /// ever.
    fn is_speaker(&self, memory: &impl Memory) -> bool {
        match self.speaker(memory) {
            Some(speaker) => speaker == self.local(),
            None => view::end_of(memory, &self.layout(), self.local()).is_some_and(|end| !end.cause.is_final()),
        }
    }
}

/// An attempt to have an epoch decided.
#[derive(Debug)]
struct Attempt {
    epoch: u64,
    agreement: Agreement,
    /// Those that did not know the epoch before, and are being told.
    behind: Vec<usize>,
}

/// See the module.
#[derive(Debug)]
pub struct Sentinel {
    post: Post,
    heartbeat: HeartbeatWord,
    next_beat: Duration,
    watching: Watching,
    /// Failures that are to be decided; none of them is in the log.
    wanted: Vec<Obituary>,
    attempt: Option<Attempt>,
    /// Since when attempts have failed for want of answers.
    failing_since: Option<Duration>,
    /// No attempt before.
    rests_until: Duration,
    survey: Option<Survey>,
    /// How often somebody had missed a node, at the last beat.
    rumours: u64,
    messenger: Messenger,
    /// The last epoch that has been acted on.
    seen: u64,
    /// Nodes that have no process any more, and never will; and whether that is so of the witness.
    gone: Vec<bool>,
    asked: Vec<Asked>,
    /// How often each node had been missed when it was seen to have left.
    missed_at_end: Vec<Option<u64>>,
    /// This rank has spoken for its node.
    has_spoken: bool,
    /// As one behind the agent: that, its heartbeat that was seen last, and since when that stands still.
    followed: Option<(usize, u64, StoppedSince)>,
    /// Those between the agent and this one that were found stopped at each look since its heartbeat stands still.
    stopped_between: BTreeMap<usize, StoppedSince>,
    is_lost: bool,
    farewells: Farewells,
    /// Since when the node's own farewell is being said.
    leaves_since: Option<Duration>,
}

impl Sentinel {
    /// A sentinel that has done nothing yet.
    pub fn new(post: Post) -> Self {
        let incarnation = u16::try_from(post.local() + 1).unwrap_or(FAREWELL - 1);
        let (acceptors, ranks) = (post.acceptors(), post.layout().ranks());
        Self {
            heartbeat: HeartbeatWord::new(incarnation, 0),
            next_beat: Duration::ZERO,
            watching: Watching::new(post.options),
            wanted: Vec::new(),
            attempt: None,
            failing_since: None,
            rests_until: Duration::ZERO,
            survey: None,
            rumours: 0,
            messenger: Messenger::default(),
            seen: 0,
            gone: vec![false; acceptors],
            asked: vec![Asked::default(); ranks],
            missed_at_end: vec![None; post.nodes()],
            has_spoken: false,
            followed: None,
            stopped_between: BTreeMap::new(),
            is_lost: false,
            farewells: Farewells::default(),
            leaves_since: None,
            post,
        }
    }

    /// Moves everything on. After how long it wants to be called again if nothing happens before: zero while an answer
    /// may come at any moment; `None`: not at all.
    pub fn step<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) -> Option<Duration> {
        // Relaxed: nothing else is read by it.
        if !self.is_lost && site.memory.word(header::EXCLUDED).load(Ordering::Relaxed) != 0 {
            self.is_lost = true;
            // Whoever has written that may have been cut off before its alarm.
            view::raise_alarm(site.memory);
            site.surroundings.rouse();
        }
        if self.is_lost {
            self.abandon(site.fabric);
            return None;
        }
        if !self.post.is_speaker(site.memory) {
            self.stand_down(site.fabric);
            let is_telling = self.finish(site).is_pending();
            let pause = self.follow(site);
            return if is_telling { Some(Duration::ZERO) } else { pause };
        }
        if !site.surroundings.is_agent() && !site.surroundings.become_agent() {
            // Perhaps for want of descriptors: it is tried again.
            return Some(self.post.options.heartbeat);
        }
        self.begin_as_speaker(site);
        self.act_on_epochs(site);
        if self.is_lost {
            self.abandon(site.fabric);
            return None;
        }
        if site.now >= self.next_beat {
            self.next_beat = site.now + self.post.options.heartbeat;
            self.beat(site);
        }
        self.look_at_ports(site);
        self.collect(site);
        self.propose(site);
        self.messenger.poll(&self.post, &self.gone, site);
        Some(self.pause(site.now))
    }

    fn pause(&self, now: Duration) -> Duration {
        if self.attempt.is_some() || self.messenger.is_busy(now) {
            return Duration::ZERO;
        }
        let to_turn = self.rests_until.checked_sub(now).filter(|turn| !turn.is_zero() && !self.wanted.is_empty());
        let pause = self.next_beat.saturating_sub(now).min(to_turn.unwrap_or(Duration::MAX));
        if self.watching.is_probing() { BUSY_PAUSE.min(pause) } else { pause }
    }

    /// The doubts of the agent before this one ended with it: this one has its own, if any.
    fn begin_as_speaker<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        if !std::mem::replace(&mut self.has_spoken, true) {
            self.set_doubts(site, &vec![false; self.post.nodes()]);
        }
    }

    /// Not the agent: the first behind it that runs looks whether the agent has been stopped.
    fn follow<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) -> Option<Duration> {
        let (speaker, node, options) = (self.post.speaker(site.memory)?, self.post.layout(), self.post.options);
        if view::has_ended(site.memory, &node, self.post.local()) {
            return None;
        }
        // SYNC POINT: heartbeat. Acquire pairs with the agent's, in `say` and `say_farewell`.
        let word = site.memory.word(node.heartbeat(self.post.here())).load(Ordering::Acquire);
        let stands = self.followed.is_some_and(|(_, seen, _)| seen == word);
        let before = self.followed.filter(|(of, ..)| stands && *of == speaker);
        let still = StoppedSince::seen(before.map(|(.., still)| still), site.now, self.following_lapse());
        self.followed = Some((speaker, word, still));
        if !self.is_first_that_runs(site, speaker, stands) {
            return Some(options.timeout / 2);
        }
        if still.span() >= options.timeout / 2 && site.surroundings.is_stopped(speaker) {
            // Sooner than other nodes would give this one up for its silence.
            self.note_stopped(site, speaker);
            // Each would have its own half of the time-out, and the node be given up if they are many.
            let too_long = self.stopped_between.iter().filter(|(_, stopped)| stopped.span() >= options.timeout);
            too_long.for_each(|(local, _)| self.note_stopped(site, *local));
            return Some(Duration::ZERO);
        }
        Some(options.heartbeat)
    }

    /// Whether all between the agent and this one are found stopped, if there are any. Nobody is looked at where
    /// the agent's heart has beaten since this one's last step.
    fn is_first_that_runs<M: Memory, F, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        speaker: usize,
        stands: bool,
    ) -> bool {
        let (node, lapse) = (self.post.layout(), self.following_lapse());
        let before = std::mem::take(&mut self.stopped_between);
        let between = speaker + 1..self.post.local();
        for local in between.rev().filter(|local| !view::has_ended(site.memory, &node, *local)) {
            if !stands || !site.surroundings.is_stopped(local) {
                self.stopped_between.clear();
                return false;
            }
            let seen = StoppedSince::seen(before.get(&local).copied(), site.now, lapse);
            self.stopped_between.insert(local, seen);
        }
        true
    }

    fn following_lapse(&self) -> Duration {
        self.post.options.heartbeat * FOLLOWING_LAPSE
    }

    fn note_stopped<M: Memory, F, S>(&self, site: &Site<'_, M, F, S>, local: usize) {
        let unit = Unit::Rank(self.post.topology.ranks_of(self.post.here())[local]);
        let stopped = Obituary { unit, cause: FailureCause::Stopped };
        if view::note_end(site.memory, self.post.layout().end(local), stopped) {
            view::raise_alarm(site.memory);
        }
    }

    /// A connection has broken: perhaps somebody is gone.
    pub fn handle_breach<M, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        self.watching.probe_all(site.surroundings, site.now);
    }

    /// Takes in the epochs that are new here.
    fn act_on_epochs<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let node = self.post.layout();
        let last = view::logged(site.memory, &node);
        while self.seen < last {
            let Some(obituary) = view::obituary(site.memory, &node, self.seen + 1) else { return };
            self.seen += 1;
            // No rank of this node is told before the connections are dropped.
            site.surroundings.shut_out(obituary);
            if view::open_to(site.memory, self.seen) {
                site.surroundings.rouse();
            }
            match obituary {
                Obituary { unit: Unit::Node(lost), .. } if lost == self.post.here() => self.is_lost = true,
                Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone | FailureCause::Left } => {
                    self.note_gone(lost);
                }
                _ => {}
            }
            self.messenger.note_learnt(&self.post, site.memory, self.seen, self.next_beat);
            self.await_turn(site, obituary.unit);
            self.follow_ring(site);
        }
        let post = &self.post;
        self.wanted.retain(|wanted| !is_settled(post, site.memory, wanted.unit));
    }

    /// Whoever wants the next epoch proposes in its turn, so that one at a time asks everybody. Where they are few, all
    /// may.
    fn await_turn<M: Memory, F, S>(&mut self, site: &Site<'_, M, F, S>, lost: Unit) {
        let at = match lost {
            Unit::Rank(rank) => self.post.topology.node_of(rank),
            Unit::Node(node) => node,
        };
        let turns = ring::turns_after(&self.absent(site.memory), at, self.post.here());
        self.rests_until = site.now + TURN * turns;
    }

    /// A node surely has no process any more: its vote is neither waited for nor needed.
    fn note_gone(&mut self, node: usize) {
        self.gone[node] = true;
        if let Some(attempt) = &mut self.attempt {
            attempt.agreement.note_gone(node);
        }
    }

    /// Says that this node lives, and looks which others have said so.
    fn beat<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        self.note_left(site.memory);
        self.heartbeat = self.heartbeat.next();
        let absent = self.absent(site.memory);
        self.say(site, &absent);
        self.watching.follow_ring(&ring::behind(&absent, self.post.here()).near, site);
        self.farewells.spread(&self.post, site, &absent);
        self.look_after_witness(site);
        self.look_at_the_stopped(site);
        let looks = self.watching.look(&self.post, site);
        for node in looks.acquitted {
            self.acquit(node);
        }
        for node in looks.silent {
            self.want(site.memory, Obituary { unit: Unit::Node(node), cause: FailureCause::Silent });
        }
        if self.survey.is_some() {
            self.look_at_survey(site);
        }
        self.heed_rumours(site);
    }

    /// Notes who has said that it leaves.
    fn note_left(&mut self, memory: &impl Memory) {
        let layout = self.post.layout();
        for node in 0..self.post.nodes() {
            if !self.gone[node] && watching::has_left(memory, &layout, node) {
                self.note_gone(node);
                // Whoever waits for it says so.
                self.acquit(node);
            }
        }
    }

    /// The nodes that the ring passes over.
    fn absent(&self, memory: &impl Memory) -> Vec<bool> {
        let mut absent = ring::absent(memory, &self.post.layout());
        absent.iter_mut().zip(&self.gone).for_each(|(is_absent, is_gone)| *is_absent |= is_gone);
        absent
    }

    /// A witness whose port refuses is gone, and whoever has started the job with it: its vote is not waited for.
    fn look_after_witness<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let Some(witness) = self.post.witness().filter(|witness| !self.gone[*witness]) else { return };
        if site.surroundings.ports(witness) == Ports::Closed {
            return self.note_gone(witness);
        }
        let electorate = self.post.next_electorate(site.memory);
        if electorate.is_asked(witness, electorate.rule(|acceptor| self.gone[acceptor])) {
            // Connected before its vote is needed: the handshake would be part of every detection.
            site.surroundings.probe(witness);
        }
    }

    fn follow_ring<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let absent = self.absent(site.memory);
        self.watching.follow_ring(&ring::behind(&absent, self.post.here()).near, site);
    }

    /// Writes a heartbeat into the memory of those who watch this node, and into its own.
    fn say<M: Memory, F: Fabric, S>(&self, site: &Site<'_, M, F, S>, absent: &[bool]) {
        let (here, heartbeat) = (self.post.here(), self.heartbeat.0);
        // SYNC POINT: heartbeat. Release pairs with the look of the next in line.
        site.memory.word(self.post.layout().heartbeat(here)).store(heartbeat, Ordering::Release);
        let is_nudged = |watcher: &usize| self.watching.is_nudged(*watcher);
        for watcher in ring::before(absent, here).near.into_iter().filter(|watcher| !is_nudged(watcher)) {
            // A node that cannot be reached now is told at the next beat.
            let _ = site.fabric.write(watcher, self.post.layouts[watcher].heartbeat(here), heartbeat);
        }
    }

    /// If this is the last rank of its node: says that the node has left. Any of its processes may say so. Ready when
    /// those next to the node in the ring have heard, or after some time. A rank that was stopped counts as ended, and
    /// its process may live all the same: then nothing is said, and its ports tell. So do they where a rank has failed
    /// and that has not been decided: who speaks ends, and the others would take the node for one that has left as it
    /// should.
    pub fn say_farewell<M: Memory, F: Fabric, S>(&mut self, site: &Site<'_, M, F, S>) -> Poll<()> {
        let node = self.post.layout();
        let is_told = |end: Obituary| end.cause == FailureCause::Left || is_settled(&self.post, site.memory, end.unit);
        let ends =
            |local| view::end_of(site.memory, &node, local).is_some_and(|end| end.cause.is_final() && is_told(end));
        if !(0..node.ranks()).all(ends) {
            return Poll::Ready(());
        }
        site.fabric.progress();
        if self.leaves_since.is_none() {
            let own = site.memory.word(self.post.layout().heartbeat(self.post.here()));
            let farewell = HeartbeatWord::new(FAREWELL, self.heartbeat.counter().wrapping_add(1));
            // SYNC POINT: heartbeat. Release pairs with the look of the next in line.
            own.store(farewell.0, Ordering::Release);
        }
        let since = *self.leaves_since.get_or_insert(site.now);
        let absent = self.absent(site.memory);
        if self.farewells.spread(&self.post, site, &absent) || site.now.saturating_sub(since) >= telling::FINISHING {
            self.farewells.abandon(site.fabric);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// After a connection has broken: whether the processes of the nodes that this one watches are all gone.
    fn look_at_ports<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        for lost in self.watching.look_at_ports(&self.post, site) {
            self.note_gone(lost);
            self.want(site.memory, Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone });
        }
    }

    /// Looks for ends of this node's ranks that are not decided, and after those that somebody waits for.
    fn collect<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let node = self.post.layout();
        // Relaxed: counts, compared with themselves.
        let load = |at| site.memory.word(at).load(Ordering::Relaxed);
        for local in 0..node.ranks() {
            let asked = load(node.asked_after(local));
            match view::end_of(site.memory, &node, local) {
                Some(end) if end.cause != FailureCause::Left => self.want(site.memory, end),
                // Whoever leaves after its work is nobody's loss; whoever is waited for is. Who waits still asks again.
                Some(end) if asked != *self.asked[local].at_end.get_or_insert(asked) => self.want(site.memory, end),
                Some(_) => {}
                None if asked != self.asked[local].count => self.look_whether_stopped(site, local, asked),
                None => {}
            }
        }
        for other in 0..node.nodes() {
            if !watching::has_left(site.memory, &node, other) {
                continue;
            }
            let missed = load(node.missed(other));
            if missed != *self.missed_at_end[other].get_or_insert(missed) {
                self.note_gone(other);
                self.want(site.memory, Obituary { unit: Unit::Node(other), cause: FailureCause::Left });
            }
        }
    }

    fn want(&mut self, memory: &impl Memory, obituary: Obituary) {
        if let Some(known) = self.wanted.iter_mut().find(|wanted| wanted.unit == obituary.unit) {
            // What is known for sure is better than what was thought.
            if !known.cause.is_final() {
                *known = obituary;
            }
            return;
        }
        if !is_settled(&self.post, memory, obituary.unit) {
            self.wanted.push(obituary);
        }
    }

    /// A node that was silent is not, before that was decided. What has been proposed already goes on, since others may
    /// hold votes for it: nothing more is.
    fn acquit(&mut self, node: usize) {
        self.wanted.retain(|wanted| *wanted != Obituary { unit: Unit::Node(node), cause: FailureCause::Silent });
    }

    /// Has the next wanted failure decided.
    fn propose<M: Memory, F: Fabric, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let next = view::epoch(site.memory, &self.post.layout()) + 1;
        if let Some(mut overtaken) = self.attempt.take_if(|attempt| attempt.epoch < next) {
            // Others were quicker, and have told this node.
            overtaken.agreement.abandon(site.fabric);
            self.failing_since = None;
        }
        let has_doubts = self.survey.as_ref().is_some_and(|survey| survey.has_doubts(next));
        if self.attempt.is_none() && !has_doubts && site.now >= self.rests_until {
            self.attempt = self.begin_attempt(site.memory, site.now);
        }
        let Some(Attempt { epoch, agreement, behind }) = &mut self.attempt else { return };
        let ended = agreement.poll(site.fabric, site.now);
        let epoch = *epoch;
        for node in agreement.take_informed() {
            self.messenger.note_informed(node, epoch - 1);
        }
        for node in agreement.behind() {
            if !behind.contains(&node) {
                behind.push(node);
                self.messenger.hurry(self.post.here(), node, epoch - 1);
            }
        }
        match ended {
            Poll::Pending => {}
            Poll::Ready(Ok(decision)) => self.take_decision(site, epoch, decision),
            Poll::Ready(Err(error)) => {
                self.attempt = None;
                self.take_refusal(site, &error);
            }
        }
    }

    fn begin_attempt(&self, memory: &impl Memory, now: Duration) -> Option<Attempt> {
        let node = self.post.layout();
        let epoch = view::epoch(memory, &node) + 1;
        let wanted = *self.wanted.first()?;
        let value = NonZeroU32::new(wanted.pack())?;
        if epoch > node.epochs() as u64 {
            return None;
        }
        let slots = (0..self.post.acceptors()).map(|other| self.post.slot(other, epoch)).collect();
        let seed = self.post.seed ^ epoch;
        // By the same epoch: the log may have been opened further meanwhile.
        let electorate = self.post.electorate(memory, epoch - 1);
        if electorate.seat(self.post.here()) != Seat::Voter {
            return None;
        }
        let proposal = Proposal { electorate, here: self.post.here(), value, pause: AGREEMENT_PAUSE, seed };
        let deadline = now + (self.post.options.timeout / ATTEMPTS).max(LEAST_ATTEMPT);
        let mut agreement = Agreement::new(proposal, slots, Some(deadline));
        if let Obituary { unit: Unit::Node(accused), cause: FailureCause::Silent } = wanted {
            agreement = agreement.accusing(accused);
        }
        (0..self.post.acceptors()).filter(|other| self.gone[*other]).for_each(|other| agreement.note_gone(other));
        Some(Attempt { epoch, agreement, behind: Vec::new() })
    }

    fn take_decision<M: Memory, F: Fabric, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        epoch: u64,
        decision: Decision,
    ) {
        self.attempt = None;
        let Some(obituary) = Obituary::unpack_in(&self.post.layout(), u64::from(decision.value)) else { return };
        self.failing_since = None;
        self.tell_the_lost(site, obituary);
        // This node's acceptor word holds the value, so a plain store will do.
        view::learn(site.memory, &self.post.layout(), epoch, obituary);
        self.act_on_epochs(site);
        if !self.is_lost {
            self.messenger.announce(&self.post, &self.gone, site, epoch, decision);
        }
    }

    /// A node that was silent may come back when all who could refuse it have ended: what is posted now waits for it.
    fn tell_the_lost<M, F: Fabric, S>(&self, site: &Site<'_, M, F, S>, lost: Obituary) {
        let Obituary { unit: Unit::Node(node), cause: FailureCause::Silent } = lost else { return };
        if node == self.post.here() {
            return;
        }
        let requests =
            [Request::Write { at: header::EXCLUDED, value: 1 }, Request::FetchAdd { at: header::ALARM, add: 1 }];
        let mut tickets = Vec::new();
        // If it cannot be reached it will be refused.
        let _ = site.fabric.post(node, &requests, &mut tickets);
        tickets.into_iter().for_each(|ticket| site.fabric.forget(ticket));
    }

    /// Nothing was decided. Where others may yet answer, or were quicker, the next attempt begins at once.
    fn take_refusal<M: Memory, F: Fabric, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        error: &AgreementError,
    ) {
        let (unreachable, silent) = match error {
            AgreementError::NoQuorum { unreachable, silent, .. } => (unreachable, silent),
            AgreementError::Contended { .. } => return,
            // A node that answers is not silent, and must not help to declare itself failed.
            AgreementError::Answered { node } => {
                self.watching.note_life(*node, site.now);
                return self.acquit(*node);
            }
            AgreementError::Exhausted { .. } | AgreementError::Invalid { .. } => {
                self.rests_until = self.next_beat;
                return;
            }
        };
        unreachable.iter().for_each(|node| site.surroundings.probe(*node));
        let since = *self.failing_since.get_or_insert(site.now);
        // This thread itself had no time to look.
        if unreachable.iter().chain(silent).any(|node| *node == self.post.here()) {
            return;
        }
        let is_doubtful = |node: &usize| self.is_doubtful(*node, since, site.now);
        let doubtful: Vec<usize> = unreachable.iter().chain(silent).copied().filter(is_doubtful).collect();
        if !self.can_decide(site.memory, |acceptor| !doubtful.contains(&acceptor)) {
            self.begin_survey(site, &doubtful);
        }
    }

    /// Whether those that answer, of those that are not gone, are enough to decide the next epoch.
    fn can_decide(&self, memory: &impl Memory, answers: impl Fn(usize) -> bool) -> bool {
        let electorate = self.post.next_electorate(memory);
        let is_gone = |acceptor: usize| self.gone[acceptor];
        let rule = electorate.rule(is_gone);
        let votes =
            |acceptor: &usize| electorate.is_asked(*acceptor, rule) && !is_gone(*acceptor) && answers(*acceptor);
        (0..self.post.acceptors()).filter(votes).count() >= electorate.needed(rule, is_gone)
    }

    /// Whether a node that has not answered `since` then is to be doubted. Of one that is watched, its silence tells.
    fn is_doubtful(&self, node: usize, since: Duration, now: Duration) -> bool {
        match self.watching.is_watched(node) {
            true => self.watching.is_silent(node),
            false => now.saturating_sub(since) >= self.post.options.timeout,
        }
    }

    /// Tells those that are being told, and begins nothing new. A decision that this rank's end follows from would
    /// otherwise be known here alone.
    pub fn finish<M: Memory, F: Fabric, S>(&mut self, site: &Site<'_, M, F, S>) -> Poll<()> {
        self.messenger.finish(site)
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.stand_down(fabric);
        self.messenger.abandon(fabric);
    }

    /// The role has passed on.
    fn stand_down(&mut self, fabric: &impl Fabric) {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.agreement.abandon(fabric);
        }
        if let Some(mut survey) = self.survey.take() {
            survey.abandon(fabric);
        }
        self.watching.abandon(fabric);
        self.farewells.abandon(fabric);
    }
}

/// Whether the log says already that a unit takes part no more.
fn is_settled(post: &Post, memory: &impl Memory, unit: Unit) -> bool {
    let node = post.layout();
    let home = match unit {
        Unit::Rank(rank) => post.topology.node_of(rank),
        Unit::Node(lost) => lost,
    };
    ring::is_in_log(memory, &node, unit) || ring::has_failed(memory, &node, home)
}
