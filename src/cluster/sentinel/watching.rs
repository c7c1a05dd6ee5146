//! What a node sees of those that it watches: their heartbeats, their answers, and whether their ports refuse
//! everybody.
//!
//! Silence means neither heartbeats nor answers. A node that has missed some heartbeats, or has not been heard yet, is
//! asked for a word of its memory, once a beat: on a machine that has too much to do, the thread that says them may be
//! late while its node works. So a node is silent that has answered nothing that was asked since its last heartbeat.
//!
//! Where its *kernel* still acknowledges what is sent to it, the machine and the network live, and the node is
//! *stalled*: its process is stopped, or does not get a CPU. (A virtual CPU that its host does not run for a quarter of
//! a second holds up all threads that wait for it.) That is no death that others must hear of at once; it has
//! [`STALLED_TIMEOUTS`] times as long before it counts as silent. And a watcher that did not run itself has sent nothing
//! that could be acknowledged: then the kernel has [`ACKNOWLEDGED_WITHIN`], from what is sent to it next.

use std::task::Poll;
use std::time::Duration;

use super::{FAREWELL, Post, SentinelOptions, Site, Surroundings};
use crate::cluster::detector::{Detector, DetectorOptions, Event, HeartbeatWord, Verdict};
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::tcp::Ports;
use crate::fabric::{Fabric, Memory, Ticket, WordAt};
use crate::sync::Ordering;

/// How long after a connection has broken its node's ports are looked at again and again, beside its time-out.
const PROBING: Duration = Duration::from_millis(100);
/// So many heartbeats are missed before a node is asked.
const MISSED_UNASKED: u64 = 2;

/// So many time-outs a node is stalled before it counts as silent.
const STALLED_TIMEOUTS: u32 = 4;

/// So many times in a time-out a node that does not answer is sent something.
const NUDGES: u32 = 5;
/// A kernel acknowledges what is sent to it within this time, some more than it may put that off by.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(60);

/// What a node's kernel has beside its usual time, because this node has paused: it had been sent nothing meanwhile that
/// it could have acknowledged.
#[derive(Clone, Copy, Debug)]
enum Extra {
    /// Nothing: there was no pause since the node was heard.
    Nothing,
    /// There was, and nothing has been sent since.
    Owed,
    /// [`ACKNOWLEDGED_WITHIN`], from the first that was sent since.
    From(Duration),
}

/// Another node, as this one watches it.
#[derive(Debug)]
struct Watched {
    node: usize,
    detector: Detector,
    /// A read of one of its words.
    question: Option<Ticket>,
    /// It is newly watched, and asked until it is heard.
    is_new: bool,
    /// It has answered since it was heard last.
    has_answered: bool,
    /// Until when its ports are looked at, because a connection has broken.
    probed_until: Option<Duration>,
    /// How long it has said nothing beyond its time-out, as far as this node has watched it.
    stalled_for: Duration,
    /// When it was sent something last, while it has not answered.
    nudged_at: Option<Duration>,
    /// When it was looked at last.
    looked_at: Duration,
    /// How much longer its kernel is waited for.
    extra: Extra,
    /// It says nothing, but its kernel acknowledges, and it has not done so for too long.
    is_stalled: bool,
}

impl Watched {
    fn is_silent(&self) -> bool {
        self.says_nothing() && !self.is_stalled
    }

    /// Whether neither heartbeats nor answers have come for the time-out.
    fn says_nothing(&self) -> bool {
        // Time alone makes nobody silent.
        matches!(self.detector.assess(Duration::ZERO), Verdict::Silent { .. })
    }

    /// At each look, before the node's word is read: whether this node has not looked for long, nor sent anything. Its
    /// kernel then has time to acknowledge what is sent to it next; once, until something comes.
    fn note_pause(&mut self, surroundings: &impl Surroundings, now: Duration, options: SentinelOptions) {
        let span = now.saturating_sub(std::mem::replace(&mut self.looked_at, now));
        let verdict = self.detector.assess(now);
        let timeout = if verdict == Verdict::Unheard { options.timeout } else { self.detector.timeout() };
        // Where heartbeats are few for the time-out, from one to the next is no pause.
        let has_paused = span > (timeout / 3).max(options.heartbeat * 3 / 2);
        let acknowledged_since =
            |at: Duration| surroundings.acknowledged(self.node).is_some_and(|ago| now.saturating_sub(ago) >= at);
        self.extra = match self.extra {
            Extra::From(at) if has_paused && !acknowledged_since(at) => Extra::From(at),
            _ if has_paused => Extra::Owed,
            _ if verdict == Verdict::Healthy => Extra::Nothing,
            extra => extra,
        };
    }

    /// Something is sent, for its kernel to acknowledge.
    fn note_sent(&mut self, now: Duration) {
        if matches!(self.extra, Extra::Owed) {
            self.extra = Extra::From(now);
        }
    }

    /// A node that says nothing is stalled while its kernel acknowledges, but not for ever.
    fn note_stall(&mut self, surroundings: &impl Surroundings, now: Duration, beat: Duration) {
        let timeout = self.detector.timeout();
        let says_nothing = self.says_nothing();
        self.stalled_for = if says_nothing { self.stalled_for + beat } else { Duration::ZERO };
        let may_be_stalled = says_nothing && self.stalled_for < timeout * (STALLED_TIMEOUTS - 1);
        self.is_stalled = may_be_stalled && self.is_acknowledged(surroundings, now);
    }

    /// Whether its kernel acknowledges, as far as it has had time to.
    fn is_acknowledged(&self, surroundings: &impl Surroundings, now: Duration) -> bool {
        let Some(ago) = surroundings.acknowledged(self.node) else { return false };
        let has_time = match self.extra {
            Extra::Nothing => false,
            Extra::Owed => true,
            Extra::From(at) => now < at + ACKNOWLEDGED_WITHIN,
        };
        has_time || ago <= self.detector.timeout() * 3 / 4
    }

    fn probe(&mut self, surroundings: &impl Surroundings, now: Duration) {
        self.probed_until = Some(now + self.detector.timeout() + PROBING);
        surroundings.probe(self.node);
    }

    /// Takes the answer, if one has come, and asks anew a node that is late. One that has not answered is sent
    /// something all the same (`own`: this node's heartbeat, and where it has its place there), for its kernel to
    /// acknowledge: not more than needed, since what nobody reads fills that kernel's buffer until it acknowledges
    /// nothing more.
    ///
    /// So is one that has never been heard, if there is a connection to it: at the end of its grace it counts whether
    /// its kernel acknowledges.
    fn ask(
        &mut self,
        site: &Site<'_, impl Memory, impl Fabric, impl Surroundings>,
        own: (WordAt, u64),
        pause: Duration,
    ) {
        let (fabric, now) = (site.fabric, site.now);
        if let Some(ticket) = self.question {
            let Poll::Ready(answer) = fabric.take(ticket) else {
                if self.nudged_at.is_none_or(|at| now.saturating_sub(at) >= pause) {
                    self.nudged_at = Some(now);
                    self.note_sent(now);
                    // Where it cannot be sent there is nothing to be acknowledged, either.
                    let _ = fabric.write(self.node, own.0, own.1);
                }
                return;
            };
            self.question = None;
            self.nudged_at = None;
            self.has_answered |= answer.is_ok();
        }
        let is_late = match self.detector.assess(now) {
            Verdict::Late { missed } => missed >= MISSED_UNASKED,
            Verdict::Silent { .. } => true,
            Verdict::Unheard => self.is_new || site.surroundings.acknowledged(self.node).is_some(),
            Verdict::Healthy => false,
        };
        if is_late {
            self.note_sent(now);
            self.question = fabric.read(self.node, header::EPOCH).ok();
        }
    }

    fn let_go(&mut self, fabric: &impl Fabric) {
        if let Some(ticket) = self.question.take() {
            fabric.forget(ticket);
        }
        self.nudged_at = None;
    }
}

/// The nodes that this one watches.
#[derive(Debug)]
pub(super) struct Watching {
    options: SentinelOptions,
    watched: Vec<Watched>,
    has_begun: bool,
}

/// What a look at the heartbeats has shown.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub silent: Vec<usize>,
    /// Nodes that are not: they may have been, and are heard again, or their kernels acknowledge after all.
    pub acquitted: Vec<usize>,
}

/// Whether a node has said, to this one, that all of its ranks have left.
pub fn has_left(memory: &impl Memory, layout: &NodeLayout, node: usize) -> bool {
    // Relaxed: nothing else is read by it.
    HeartbeatWord(memory.word(layout.heartbeat(node)).load(Ordering::Relaxed)).incarnation() == FAREWELL
}

impl Watching {
    pub fn new(options: SentinelOptions) -> Self {
        Self { options, watched: Vec::new(), has_begun: false }
    }

    /// Watches these nodes from now on, and no others. Who is new, after the beginning, is looked at at once: it may
    /// have gone together with those who watched it.
    pub fn follow_ring<M, F: Fabric, S: Surroundings>(&mut self, nodes: &[usize], site: &Site<'_, M, F, S>) {
        let others = self.watched.extract_if(.., |known| !nodes.contains(&known.node));
        others.for_each(|mut other| other.let_go(site.fabric));
        for node in nodes {
            if self.watched.iter().any(|known| known.node == *node) {
                continue;
            }
            let Some(detector) = self.detector(site.now) else { continue };
            let mut watched = Watched {
                node: *node,
                detector,
                question: None,
                is_new: self.has_begun,
                has_answered: false,
                probed_until: None,
                stalled_for: Duration::ZERO,
                nudged_at: None,
                looked_at: site.now,
                extra: Extra::Nothing,
                is_stalled: false,
            };
            if self.has_begun {
                watched.probe(site.surroundings, site.now);
            }
            self.watched.push(watched);
        }
        self.has_begun = true;
    }

    fn detector(&self, now: Duration) -> Option<Detector> {
        let SentinelOptions { timeout, heartbeat } = self.options;
        let defaults = DetectorOptions::default();
        // At the beginning of a job nodes may come up late. Later a node that lives answers, though it may not know yet
        // that it is watched from here.
        let grace = if self.has_begun { timeout } else { defaults.grace.max(timeout) };
        let window = defaults.window.max(timeout);
        let options = DetectorOptions { interval: heartbeat, tick: heartbeat, timeout, grace, window, ..defaults };
        // The times were checked when the job was opened.
        Detector::new(options, now).ok()
    }

    pub fn is_probing(&self) -> bool {
        self.watched.iter().any(|watched| watched.probed_until.is_some())
    }

    /// Whether nothing is heard of a node that is watched here.
    pub fn is_silent(&self, node: usize) -> bool {
        self.watched.iter().any(|watched| watched.node == node && watched.is_silent())
    }

    /// Whether a node does not answer, and is sent a heartbeat now and then for that.
    pub fn is_nudged(&self, node: usize) -> bool {
        self.watched.iter().any(|watched| watched.node == node && watched.nudged_at.is_some())
    }

    /// Whether a node is watched here.
    pub fn is_watched(&self, node: usize) -> bool {
        self.watched.iter().any(|watched| watched.node == node)
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.watched.iter_mut().for_each(|watched| watched.let_go(fabric));
    }

    pub fn probe_all(&mut self, surroundings: &impl Surroundings, now: Duration) {
        self.watched.iter_mut().for_each(|watched| watched.probe(surroundings, now));
    }

    /// Looks which nodes have been heard, or have answered.
    pub fn look<M: Memory, F: Fabric, S: Surroundings>(&mut self, post: &Post, site: &Site<'_, M, F, S>) -> Looks {
        let (layout, here) = (&post.layout(), post.here());
        // Relaxed: this process has stored it.
        let own = site.memory.word(layout.heartbeat(here)).load(Ordering::Relaxed);
        let mut looks = Looks::default();
        for watched in &mut self.watched {
            if has_left(site.memory, layout, watched.node) {
                continue;
            }
            watched.note_pause(site.surroundings, site.now, self.options);
            // SYNC POINT: heartbeat. Acquire pairs with the fabric's release of the other node's write.
            let word = site.memory.word(layout.heartbeat(watched.node)).load(Ordering::Acquire);
            let event = watched.detector.observe(word, site.now);
            watched.note_stall(site.surroundings, site.now, self.options.heartbeat);
            let place = post.layouts[watched.node].heartbeat(here);
            watched.ask(site, (place, own), self.options.timeout / NUDGES);
            if matches!(watched.detector.assess(site.now), Verdict::Healthy) {
                watched.has_answered = false;
            }
            let is_heard = matches!(event, Some(Event::HeardTooLate { .. } | Event::Reborn { .. }));
            if is_heard || watched.says_nothing() && watched.has_answered {
                watched.has_answered = false;
                watched.detector.note_life(site.now);
                looks.acquitted.push(watched.node);
            } else if watched.is_stalled {
                looks.acquitted.push(watched.node);
            } else if watched.is_silent() {
                looks.silent.push(watched.node);
            }
        }
        looks
    }

    /// A node that was silent has answered.
    pub fn note_life(&mut self, node: usize, now: Duration) {
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.node == node) {
            watched.detector.note_life(now);
        }
    }

    /// The nodes whose processes are surely gone, of those that are being probed.
    pub fn look_at_ports<M: Memory, F, S: Surroundings>(
        &mut self,
        post: &Post,
        site: &Site<'_, M, F, S>,
    ) -> Vec<usize> {
        let node = post.layout();
        let mut gone = Vec::new();
        for watched in &mut self.watched {
            let Some(until) = watched.probed_until else { continue };
            match site.surroundings.ports(watched.node) {
                _ if has_left(site.memory, &node, watched.node) => watched.probed_until = None,
                Ports::Closed => {
                    watched.probed_until = None;
                    gone.push(watched.node);
                }
                _ if site.now >= until => watched.probed_until = None,
                ports => {
                    // One of its processes lives, and the role may be on its way: how long that takes is what counts
                    // now.
                    if ports == Ports::Kept {
                        watched.detector.note_life(site.now);
                    }
                    site.surroundings.probe(watched.node);
                }
            }
        }
        gone
    }
}
