//! The ways through a model's states: all of them, or one at random. The model checks beside this file go by it.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::Duration;

use super::proposer::Proposer;
use crate::fabric::sim::Seeded;

/// A state of a model, and what can happen in it.
pub trait Model: Clone + Hash {
    /// Something that happens.
    type Event: Copy + Debug;

    /// What can happen now.
    fn events(&self) -> Vec<Self::Event>;

    /// It happens.
    fn apply(&mut self, event: Self::Event);
}

/// Tries everything. `look` sees each state once, with the events that have led to it, and panics at one that is wrong.
/// States are told apart by a hash of 64 bits.
pub fn go_every_way<M: Model>(start: M, mut look: impl FnMut(&M, &[M::Event])) {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    look(&start, &[]);
    let mut seen = HashSet::from([hasher.hash_one(&start)]);
    let mut way = Vec::new();
    let mut open = vec![(start.events(), start)];
    while let Some((events, state)) = open.last_mut() {
        let Some(event) = events.pop() else {
            open.pop();
            way.pop();
            continue;
        };
        let mut next = state.clone();
        next.apply(event);
        if seen.insert(hasher.hash_one(&next)) {
            way.push(event);
            look(&next, &way);
            open.push((next.events(), next));
        }
    }
}

/// Goes one way at random, to its end; `look` as in [`go_every_way`]. With too much trouble nobody gets far: an event
/// that is some is drawn again, once.
pub fn go_one_way<M: Model>(
    start: M,
    seed: u64,
    is_trouble: impl Fn(M::Event) -> bool,
    mut look: impl FnMut(&M, &[M::Event]),
) {
    let mut random = Seeded::new(seed);
    let (mut state, mut way) = (start, Vec::new());
    loop {
        look(&state, &way);
        let events = state.events();
        if events.is_empty() {
            return;
        }
        let mut event = events[random.below(events.len())];
        if is_trouble(event) {
            event = events[random.below(events.len())];
        }
        way.push(event);
        state.apply(event);
    }
}

/// When so many pauses are over, the longest that there can be.
pub fn after_pauses(pauses: u32) -> Duration {
    Duration::from_secs(3600 * u64::from(pauses))
}

/// Has a proposer go on as far as it can by itself, as its shell does; at the beginning of each of its rounds, of which
/// `round` is the one that its shell knows, `forget` gives up what the one before has asked.
pub fn advance(proposer: &mut Proposer, round: &mut u32, now: Duration, mut forget: impl FnMut()) {
    loop {
        proposer.advance(now);
        if proposer.round() == *round {
            return;
        }
        *round = proposer.round();
        forget();
    }
}
