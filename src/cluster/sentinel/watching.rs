//! What a node sees of those that it watches: their heartbeats, and whether their ports refuse everybody.

use std::time::Duration;

use super::{FAREWELL, Post, SentinelOptions, Site, Surroundings, ring};
use crate::cluster::detector::{Detector, DetectorOptions, Event, HeartbeatWord, Verdict};
use crate::cluster::view::Unit;
use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;
use crate::sync::Ordering;

/// How long the ports of a node of several ranks must refuse before all its processes count as gone: the agent's role may
/// be on its way from one to another.
const ROLE_PASSES_IN: Duration = Duration::from_millis(60);
/// How long after a connection has broken its node's ports are looked at again and again.
const PROBING: Duration = Duration::from_millis(200);
/// The first heartbeat of a node that is newly watched, because another watcher has failed, is waited for this many
/// time-outs: it must have heard of the failure itself.
const GRACE_TIMEOUTS: u32 = 5;

/// Another node, as this one watches it.
#[derive(Debug)]
struct Watched {
    node: usize,
    detector: Detector,
    /// Until when its ports are looked at, because a connection has broken.
    probed_until: Option<Duration>,
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
    /// Nodes that were silent and are not any more.
    pub recovered: Vec<usize>,
}

/// Whether a node has said, to this one, that all of its ranks have left.
pub(super) fn has_left(memory: &impl Memory, layout: &NodeLayout, node: usize) -> bool {
    // Relaxed: nothing else is read by it.
    HeartbeatWord(memory.word(layout.heartbeat(node)).load(Ordering::Relaxed)).incarnation() == FAREWELL
}

impl Watching {
    pub fn new(options: SentinelOptions) -> Self {
        Self { options, watched: Vec::new(), has_begun: false }
    }

    /// Watches these nodes from now on, and no others. Who is new, after the beginning, is looked at at once: it may have
    /// gone together with those who watched it.
    pub fn follow_ring(&mut self, nodes: &[usize], surroundings: &impl Surroundings, now: Duration) {
        self.watched.retain(|known| nodes.contains(&known.node));
        for node in nodes {
            if self.watched.iter().any(|known| known.node == *node) {
                continue;
            }
            let Some(detector) = self.detector(now) else { continue };
            let probed_until = self.has_begun.then(|| now + PROBING);
            if self.has_begun {
                surroundings.probe(*node);
            }
            self.watched.push(Watched { node: *node, detector, probed_until });
        }
        self.has_begun = true;
    }

    fn detector(&self, now: Duration) -> Option<Detector> {
        let SentinelOptions { timeout, heartbeat } = self.options;
        let defaults = DetectorOptions::default();
        // At the beginning of a job nodes may come up late.
        let grace = if self.has_begun { timeout * GRACE_TIMEOUTS } else { defaults.grace.max(timeout) };
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
        let is_silent = |watched: &Watched| matches!(watched.detector.assess(Duration::ZERO), Verdict::Silent { .. });
        self.watched.iter().any(|watched| watched.node == node && is_silent(watched))
    }

    pub fn probe_all(&mut self, surroundings: &impl Surroundings, now: Duration) {
        for watched in &mut self.watched {
            watched.probed_until = Some(now + PROBING);
            surroundings.probe(watched.node);
        }
    }

    /// Looks which nodes have been heard.
    pub fn look(&mut self, memory: &impl Memory, layout: &NodeLayout, now: Duration) -> Looks {
        let mut looks = Looks::default();
        for at in 0..self.watched.len() {
            let watched = &mut self.watched[at];
            if has_left(memory, layout, watched.node) {
                continue;
            }
            let word = memory.word(layout.heartbeat(watched.node)).load(Ordering::Acquire);
            let event = watched.detector.observe(word, now);
            match event {
                Some(Event::HeardTooLate { .. } | Event::Reborn { .. }) => looks.recovered.push(watched.node),
                _ if matches!(watched.detector.assess(now), Verdict::Silent { .. }) => looks.silent.push(watched.node),
                _ => {}
            }
        }
        looks.recovered.iter().for_each(|node| self.begin_anew(*node, now));
        looks
    }

    /// A node that was silent has answered.
    pub fn begin_anew(&mut self, node: usize, now: Duration) {
        let Some(detector) = self.detector(now) else { return };
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.node == node) {
            watched.detector = detector;
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
            match site.surroundings.refused_by_all(watched.node) {
                _ if has_left(site.memory, &node, watched.node) => watched.probed_until = None,
                Some(lasts) if lasts >= role_passes_in(post, site.memory, watched.node) => {
                    watched.probed_until = None;
                    gone.push(watched.node);
                }
                _ if site.now >= until => watched.probed_until = None,
                _ => site.surroundings.probe(watched.node),
            }
        }
        gone
    }
}

/// How long all of a node's ports must refuse before its processes count as gone.
pub(super) fn role_passes_in(post: &Post, memory: &impl Memory, node: usize) -> Duration {
    let lives = |rank: &&usize| !ring::is_in_log(memory, &post.layout(), Unit::Rank(**rank));
    let living = post.topology.ranks_of(node).iter().filter(lives).count();
    if living <= 1 { Duration::ZERO } else { ROLE_PASSES_IN }
}
