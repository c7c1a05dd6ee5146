//! The ways through a model's states: all of them, or one at random. Model checks of protocols go by it.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use crate::fabric::Request;
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

/// A request takes effect on a model's words; gives the word's old value, if it is no write.
pub fn execute(words: &mut [u64], request: Request) -> Option<u64> {
    let word = &mut words[request.at().0];
    let before = *word;
    match request {
        Request::Write { value, .. } => {
            *word = value;
            return None;
        }
        Request::Read { .. } => {}
        Request::FetchAdd { add, .. } => *word += add,
        Request::CompareSwap { expected, new, .. } if before == expected => *word = new,
        Request::CompareSwap { .. } => {}
    }
    Some(before)
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
