//! Who is told of an epoch by whom.
//!
//! In a small job whoever has decided tells everybody, and whoever has learnt tells everybody again at its next beat.
//! In a larger one they form a tree of the nodes that the log has not lost by then, whose root changes from epoch to
//! epoch:
//!
//! ```text
//!   who has decided ──▶ root ──▶ its branches ──▶ theirs …        at once
//!   everybody       ──▶ the two neighbours in the ring            at the next beat
//! ```
//!
//! Who cannot be reached is tried again, ever more seldom, until the log has lost it; meanwhile whoever tried tells
//! those below it. A branch that has died silently keeps its own from hearing until that is known; they hear from
//! neighbours.

use std::collections::HashMap;
use std::task::Poll;
use std::time::Duration;

use super::{Post, Site, ring};
use crate::cluster::agreement::{AcceptorWord, Announcement, Decision, Listener};
use crate::cluster::view::{self, Unit};
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::{Fabric, Memory, Request};
use crate::sync::Ordering;

/// So many nodes are told by the one that has decided; of more each tells some that come after it.
const TOLD_DIRECTLY: usize = 16;
/// Nodes that each node tells in a larger job.
const BRANCHES: usize = 8;
/// For so long an answer may come at any moment.
const SOON: Duration = Duration::from_millis(5);
/// So long a rank that ends goes on telling.
pub(super) const FINISHING: Duration = Duration::from_millis(200);
/// The pause before a node is told again doubles so many times.
const DOUBLINGS_MAX: u32 = 4;

/// A node that is being told.
#[derive(Debug)]
struct Telling {
    epoch: u64,
    node: usize,
    announcement: Announcement,
    since: Duration,
    failures: u32,
}

/// A node that is to be told.
#[derive(Clone, Copy, Debug)]
struct Untold {
    epoch: u64,
    node: usize,
    due: Duration,
    failures: u32,
}

/// What is to be told, and is being told.
#[derive(Debug, Default)]
pub(super) struct Messenger {
    under_way: Vec<Telling>,
    untold: Vec<Untold>,
    /// The last epoch that each acceptor, by its number, is known to know, with all before it.
    knows: HashMap<usize, u64>,
}

/// The nodes that an epoch leaves, as a tree.
struct Tree {
    living: Vec<usize>,
    root: usize,
}

impl Tree {
    fn of(memory: &impl Memory, layout: &NodeLayout, epoch: u64) -> Self {
        let mut lives = vec![true; layout.nodes()];
        for known in 1..=epoch {
            if let Some(Unit::Node(lost)) = view::obituary(memory, layout, known).map(|obituary| obituary.unit) {
                lives[lost] = false;
            }
        }
        let living: Vec<usize> = (0..lives.len()).filter(|node| lives[*node]).collect();
        let root = usize::try_from(epoch).unwrap_or(0) % living.len().max(1);
        Self { living, root }
    }

    fn is_small(&self) -> bool {
        self.living.len() <= TOLD_DIRECTLY
    }

    fn root(&self) -> Option<usize> {
        self.living.get(self.root).copied()
    }

    fn below(&self, node: usize) -> impl Iterator<Item = usize> {
        let count = self.living.len();
        let place = self.living.iter().position(|other| *other == node);
        let place = place.filter(|_| !self.is_small()).map(|at| (at + count - self.root) % count);
        let places = place.map_or(0..0, |place| BRANCHES * place + 1..BRANCHES * place + BRANCHES + 1);
        places.filter(move |below| *below < count).map(move |below| self.living[(below + self.root) % count])
    }

    fn neighbours(&self, node: usize) -> Vec<usize> {
        let count = self.living.len();
        let Some(at) = self.living.iter().position(|other| *other == node) else { return Vec::new() };
        [1, count - 1].map(|step| self.living[(at + step) % count]).to_vec()
    }

    /// Whom a node tells for good measure: all of a few, or its neighbours.
    fn around(&self, node: usize) -> Vec<usize> {
        if self.is_small() { self.living.clone() } else { self.neighbours(node) }
    }
}

impl Messenger {
    /// Notes an epoch that is known here: whom this node tells at once, and at its next beat.
    pub fn note_learnt(&mut self, post: &Post, memory: &impl Memory, epoch: u64, next_beat: Duration) {
        let (tree, here) = (Tree::of(memory, &post.layout(), epoch), post.here());
        tree.below(here).for_each(|node| self.add(here, Untold { epoch, node, due: Duration::ZERO, failures: 0 }));
        let around = tree.around(here);
        // The root, or each of a few, tells the witness.
        let to_witness = tree.is_small() || tree.root() == Some(here);
        let around = around.into_iter().chain(post.witness().filter(|_| to_witness));
        around.for_each(|node| self.add(here, Untold { epoch, node, due: next_beat, failures: 0 }));
    }

    /// An acceptor knows an epoch, and so all before it.
    pub fn note_informed(&mut self, node: usize, epoch: u64) {
        let last = self.knows.entry(node).or_default();
        *last = epoch.max(*last);
    }

    /// An acceptor does not know an epoch that it is to know: it is told at once.
    pub fn hurry(&mut self, here: usize, node: usize, epoch: u64) {
        match self.untold.iter_mut().find(|known| (known.epoch, known.node) == (epoch, node)) {
            Some(untold) => untold.due = Duration::ZERO,
            None => self.add(here, Untold { epoch, node, due: Duration::ZERO, failures: 0 }),
        }
    }

    fn add(&mut self, here: usize, untold: Untold) {
        let Untold { epoch, node, .. } = untold;
        let is_under_way = self.under_way.iter().any(|known| (known.epoch, known.node) == (epoch, node));
        let is_known = self.untold.iter().any(|known| (known.epoch, known.node) == (epoch, node));
        if node != here && !is_under_way && !is_known {
            self.untold.push(untold);
        }
    }

    /// This node has had an epoch decided: whom it tells is told at once, and the tree's root too.
    pub fn announce<M: Memory, F: Fabric, S>(
        &mut self,
        post: &Post,
        gone: &[bool],
        site: &Site<'_, M, F, S>,
        epoch: u64,
        decision: Decision,
    ) {
        let here = post.here();
        for node in Tree::of(site.memory, &post.layout(), epoch).root().into_iter().chain(post.witness()) {
            self.add(here, Untold { epoch, node, due: Duration::ZERO, failures: 0 });
        }
        let now: Vec<Untold> = self.untold.extract_if(.., |untold| untold.epoch == epoch).collect();
        now.into_iter().for_each(|untold| self.begin(post, gone, site, untold, decision));
    }

    /// Whether an answer may come at any moment.
    pub fn is_busy(&self, now: Duration) -> bool {
        self.under_way.iter().any(|telling| now.saturating_sub(telling.since) < SOON)
    }

    /// Moves on.
    pub fn poll<M: Memory, F: Fabric, S>(&mut self, post: &Post, gone: &[bool], site: &Site<'_, M, F, S>) {
        self.tell_due(post, gone, site);
        let (mut missed, mut behind, mut told) = (Vec::new(), Vec::new(), Vec::new());
        self.under_way.retain_mut(|telling| {
            let &mut Telling { epoch, node, failures, .. } = telling;
            if telling.announcement.poll(site.fabric) == Poll::Pending {
                return true;
            }
            match telling.announcement.missed().is_empty() {
                true => told.push((epoch, node)),
                false if telling.announcement.is_behind(node) => behind.push((epoch, node)),
                false => missed.push((epoch, node, failures)),
            }
            false
        });
        for (epoch, node) in told {
            self.note_informed(node, epoch);
            // What waited for this.
            let next = self.untold.iter_mut().find(|untold| (untold.epoch, untold.node) == (epoch + 1, node));
            next.into_iter().for_each(|untold| untold.due = Duration::ZERO);
        }
        for (epoch, node) in behind {
            self.hurry(post.here(), node, epoch - 1);
            let due = site.now + post.options.heartbeat;
            self.add(post.here(), Untold { epoch, node, due, failures: 0 });
        }
        for (epoch, node, failures) in missed {
            let pause = post.options.heartbeat * (1 << failures.min(DOUBLINGS_MAX));
            self.add(post.here(), Untold { epoch, node, due: site.now + pause, failures: failures + 1 });
            if failures == 0 {
                self.stand_in_for(post, site.memory, epoch, node);
            }
        }
    }

    fn tell_due<M: Memory, F: Fabric, S>(&mut self, post: &Post, gone: &[bool], site: &Site<'_, M, F, S>) {
        let due: Vec<Untold> = self.untold.extract_if(.., |untold| untold.due <= site.now).collect();
        for untold in due {
            let at = post.layout().epoch(untold.epoch);
            let Some(obituary) = view::obituary(site.memory, &post.layout(), untold.epoch) else { continue };
            // SYNC POINT: view log. What this node's own word holds is a good guess of what another's does.
            let vote = AcceptorWord(site.memory.word(at.acceptor()).load(Ordering::Acquire));
            let decision = Decision { value: obituary.pack(), was_mine: false, vote };
            self.begin(post, gone, site, untold, decision);
        }
    }

    /// Tells those below a node that cannot be told.
    fn stand_in_for(&mut self, post: &Post, memory: &impl Memory, epoch: u64, node: usize) {
        for below in Tree::of(memory, &post.layout(), epoch).below(node) {
            self.add(post.here(), Untold { epoch, node: below, due: Duration::ZERO, failures: 0 });
        }
    }

    fn begin<M: Memory, F, S>(
        &mut self,
        post: &Post,
        gone: &[bool],
        site: &Site<'_, M, F, S>,
        untold: Untold,
        decision: Decision,
    ) {
        let Untold { epoch, node, failures, .. } = untold;
        if gone[node] || ring::has_failed(site.memory, &post.layout(), node) {
            return self.stand_in_for(post, site.memory, epoch, node);
        }
        let then = vec![Request::FetchAdd { at: header::ALARM, add: 1 }];
        let mut slot = post.slot(node, epoch);
        slot.before = slot.before.filter(|_| self.knows.get(&node).is_none_or(|last| *last + 1 < epoch));
        let listener = Listener { node, slot, then };
        let announcement = Announcement::new(decision, vec![listener]);
        self.under_way.push(Telling { epoch, node, announcement, since: site.now, failures });
    }

    /// Goes on with what is under way, and drops what is to be told: the next agent of this node tells all again.
    pub fn finish<M, F: Fabric, S>(&mut self, site: &Site<'_, M, F, S>) -> Poll<()> {
        self.untold.clear();
        self.under_way.retain_mut(|telling| {
            let is_recent = site.now.saturating_sub(telling.since) < FINISHING;
            if !is_recent {
                telling.announcement.abandon(site.fabric);
            }
            is_recent && telling.announcement.poll(site.fabric).is_pending()
        });
        if self.under_way.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives up what is under way, and what is to be told.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.under_way.drain(..).for_each(|mut telling| telling.announcement.abandon(fabric));
        self.untold.clear();
    }
}
