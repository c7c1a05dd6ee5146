//! The wait at an object's home for what other ranks do there: they have this one look, by its word for that
//! ([`Reach::poke`]).
//!
//! A poke can be lost with the rank or the connection that carried it, so the wait ends by itself now and then, and
//! when the node's alarm is raised. After a while it is looked whether those run who are waited for, as with locks.

use std::time::{Duration, Instant};

use super::error::LockError;
use super::site::PATIENCE;
use super::waiting::{PROMPT_AFTER, Wait, step_after};
use super::{Handle, Reach, anchor};
use crate::coord::wait::Step;
use crate::fabric::Fabric;
use crate::scheduling::Prompt;
use crate::sync::spin_hint;

/// After so long without a poke the rank looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One call's wait, in which it may sleep several times.
pub(super) struct Vigil<'handle> {
    handle: &'handle Handle,
    limit: Option<(Instant, Duration)>,
    /// Since it has begun to wait.
    wait: Option<Wait>,
    prompt: Option<Prompt>,
    /// What the word and the alarm held before this rank looked last.
    seen: (u64, u64),
    /// A node that was waited for, and that nobody hears or can declare failed.
    silent: Option<usize>,
}

impl<'handle> Vigil<'handle> {
    /// For at most so long, from now on.
    pub fn new(handle: &'handle Handle, limit: Option<Duration>) -> Self {
        let limit = limit.map(|limit| (Instant::now(), limit));
        Self { handle, limit, wait: None, prompt: None, seen: (0, 0), silent: None }
    }

    fn reach(&self) -> &'handle Reach {
        &self.handle.membership.reach
    }

    fn now(&self) -> (u64, u64) {
        (self.reach().load(self.reach().poked_at()), self.reach().alarm())
    }

    /// When a wait that has a limit began.
    pub fn begun(&self) -> Option<Instant> {
        self.limit.map(|(begun, _)| begun)
    }

    /// What is left of the limit.
    pub fn left(&self) -> Option<Duration> {
        self.limit.map(|(begun, limit)| limit.saturating_sub(begun.elapsed()))
    }

    /// Until when answers are waited for.
    pub fn until(&self) -> Option<Instant> {
        self.limit.and_then(|(begun, limit)| begun.checked_add(limit.saturating_add(PATIENCE)))
    }

    /// The error of a wait that has ended as it would have no end: for a rank of a node of which nothing is heard.
    pub fn in_vain(&self) -> Option<LockError> {
        self.silent.map(|node| anchor::unreachable(self.handle, node, self.waited()))
    }

    /// How long it has lasted.
    pub fn waited(&self) -> Duration {
        match (self.limit, &self.wait) {
            (Some((begun, _)), _) => begun.elapsed(),
            (None, Some(wait)) => wait.waited(),
            (None, None) => Duration::ZERO,
        }
    }

    /// Before this rank looks: what changes from now on ends the next sleep.
    pub fn note(&mut self) {
        self.seen = self.now();
    }

    /// Sleeps until this rank is to look; `false`: the time is over, or the wait would have no end
    /// ([`in_vain`](Self::in_vain)). `awaited`: ranks that are waited for.
    pub fn pause(&mut self, awaited: &[usize]) -> bool {
        self.pause_at_most(awaited, LOOK_EVERY)
    }

    /// As [`pause`](Self::pause), where this rank is to look after so long at the latest.
    pub fn pause_at_most(&mut self, awaited: &[usize], longest: Duration) -> bool {
        if self.left() == Some(Duration::ZERO) {
            return false;
        }
        let since = Instant::now();
        let (reach, membership) = (&self.handle.membership.reach, &self.handle.membership);
        let mut nodes = awaited.iter().map(|rank| membership.node_of(*rank));
        self.silent = nodes.find(|node| reach.is_doubtful(*node) && !reach.has_lost(*node));
        if self.silent.is_some() {
            return false;
        }
        let wait = self.wait.get_or_insert_with(Wait::new);
        wait.look_at_the_clock();
        // It looks seldom, and late. One on another node that is stopped is declared failed there.
        wait.look_at(membership, || {
            let mut nodes: Vec<usize> = awaited.iter().map(|rank| membership.node_of(*rank)).collect();
            nodes.dedup();
            nodes.into_iter().for_each(|node| reach.ask_after(node));
            awaited.to_vec()
        });
        if wait.waited() >= PROMPT_AFTER {
            self.prompt.get_or_insert_with(Prompt::new);
        }
        while self.now() == self.seen {
            let (waited, left) = (since.elapsed(), self.left());
            let longest = longest.min(LOOK_EVERY);
            if waited >= longest || left == Some(Duration::ZERO) {
                // Where the time is over this rank looks once more, and then is told so.
                return true;
            }
            self.step(waited, left.map_or(longest - waited, |left| left.min(longest - waited)));
        }
        true
    }

    fn step(&self, waited: Duration, longest: Duration) {
        let reach = self.reach();
        if let Some(network) = &reach.network {
            network.progress();
        }
        match step_after(&reach.plan, waited) {
            Step::Spin => spin_hint(),
            Step::Yield => crate::machine::yield_cpu(),
            Step::Park => {
                let (poked, alarm) = self.seen;
                reach.sleep(reach.poked_at(), poked, alarm, longest);
            }
        }
    }
}
