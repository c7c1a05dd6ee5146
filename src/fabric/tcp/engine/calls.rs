//! What the layer above is told without its asking: words that other nodes have changed, connections that have broken,
//! and its own exclusion.
//!
//! What has happened is noted under the engine's lock, and told when that has been given back
//! ([`super::super::Shared`]).

use super::{Engine, Memory, Request, WordAt};
use crate::fabric::execute;

/// Words that can be watched.
pub const MOST_WATCHED: usize = 2;
/// No word has this position.
const UNUSED: usize = usize::MAX;
/// Bits of what is noted: a bit for each watched word, and three more.
const BROKEN: u8 = 1 << 5;
const EXCLUDED: u8 = 1 << 6;
const NEW_LIMIT: u8 = 1 << 7;
const _: () = assert!(MOST_WATCHED < 5);

/// What has been noted and not been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    bits: u8,
    /// The node that has said that this process is excluded, if that is news.
    pub excluded_by: Option<usize>,
}

impl Due {
    /// Whether a watched word has been changed.
    pub fn is_changed(&self, index: usize) -> bool {
        self.bits & 1 << index != 0
    }

    /// Whether a connection to another node's agent has broken.
    pub fn is_broken(&self) -> bool {
        self.bits & BROKEN != 0
    }
}

/// What is watched, and what has been noted.
#[derive(Debug)]
pub(super) struct Calls {
    words: [usize; MOST_WATCHED],
    bits: u8,
    excluded_by: Option<usize>,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self { words: [UNUSED; MOST_WATCHED], bits: 0, excluded_by: None }
    }

    /// Executes a request of another node.
    #[inline]
    pub(super) fn execute(&mut self, memory: &(impl Memory + ?Sized), request: Request) -> u64 {
        let (value, has_changed) = execute(memory, request);
        if has_changed {
            for (index, word) in self.words.iter().enumerate() {
                if *word == request.at().0 {
                    self.bits |= 1 << index;
                }
            }
        }
        value
    }

    /// There may be less time until the next limit than those know who sleep.
    pub(super) fn note_limit(&mut self) {
        self.bits |= NEW_LIMIT;
    }

    /// A connection to another node's agent has broken.
    pub(super) fn note_breach(&mut self) {
        self.bits |= BROKEN;
    }

    /// A node has said that this process is excluded.
    pub(super) fn note_exclusion(&mut self, by: usize) {
        if self.excluded_by.is_none() {
            self.excluded_by = Some(by);
            self.bits |= EXCLUDED;
        }
    }
}

impl Engine {
    /// From now on notes changes of a word by other nodes.
    pub fn watch_word(&mut self, index: usize, at: WordAt) {
        self.calls.words[index] = at.0;
    }

    /// The first node that has said that this process is excluded.
    pub fn excluded_by(&self) -> Option<usize> {
        self.calls.excluded_by
    }

    /// Whether somebody is to be told something: the readers of letters included.
    #[inline]
    pub fn has_calls(&self) -> bool {
        self.calls.bits != 0 || self.has_letters()
    }

    /// What is to be told, once.
    pub fn take_due(&mut self) -> Due {
        let bits = std::mem::take(&mut self.calls.bits);
        Due { bits, excluded_by: self.calls.excluded_by.filter(|_| bits & EXCLUDED != 0) }
    }
}
