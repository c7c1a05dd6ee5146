//! The fabric: what joins the ranks. This is the contract; each implementation is a sibling folder.
//!
//! A job's shared state is made of *words*: aligned `u64`s in a node's segment. Everything that another rank can see is
//! a word, and every primitive is built from a few operations on words:
//!
//! | operation | meaning | cost in shared memory |
//! | --- | --- | --- |
//! | [`Fabric::word`] | the word itself: load, store, exchange, compare-and-swap, fetch-add | one line transfer when another CPU wrote last |
//! | [`Fabric::wake`] | ends the sleep of everyone parked on a word | a system call |
//! | [`Park::park`] | sleeps until a word changes | a system call and a context switch |
//!
//! # What the contract promises
//!
//! - **Ordering.** Words are atomics and follow the language's memory model: a load with acquire ordering that sees a
//!   value stored with release ordering sees everything that the storing rank did before. Publishing and then looking
//!   at another word needs [`crate::sync::publish`].
//! - **No tearing.** A word is read and written whole.
//! - **Failure.** Operations on the node's own words cannot fail. A rank that dies leaves its words as they are.
//! - **Waking.** `wake` after a store that the sleeper compares against is never lost: `park` returns at once when the
//!   word no longer holds the value that the caller has seen. `park` may also return for no reason.
//!
//! # Who blocks
//!
//! Primitives take `&impl Fabric` and never block. Only drivers ([`crate::coord::drive`]) take `&impl Park`.
//!
//! Implementations: [`shm`] is a node's shared memory. [`sim`] is a node in one thread under a seeded scheduler, for
//! tests that must replay. Model checkers use `model`.

#[cfg(model)]
pub mod model;
pub mod node;
#[cfg(not(model))]
pub mod shm;
#[cfg(not(model))]
pub mod sim;

use std::time::Duration;

use crate::sync::AtomicU64;

/// Bytes from one writer's words to the next writer's: two 64-byte lines, because x86 fetches lines in pairs and some
/// CPUs have lines of 128 bytes.
pub const LINE_BYTES: usize = 128;
/// Words in [`LINE_BYTES`].
pub const LINE_WORDS: usize = LINE_BYTES / 8;

/// Where a word stands in its segment, counted in words from the segment's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WordAt(pub usize);

impl WordAt {
    /// The word `words` further on.
    #[inline]
    pub const fn plus(self, words: usize) -> Self {
        Self(self.0 + words)
    }
}

/// A node's words. See the module for the contract.
pub trait Fabric {
    /// The word at `at`.
    ///
    /// # Panics
    ///
    /// When `at` lies outside the segment: a bug of the caller, since positions are checked when a segment or a group
    /// is attached.
    fn word(&self, at: WordAt) -> &AtomicU64;

    /// How many words there are.
    fn words(&self) -> usize;

    /// Wakes every rank that is parked on the word.
    fn wake(&self, at: WordAt);
}

/// A fabric whose caller may sleep.
pub trait Park: Fabric {
    /// Sleeps until the word at `at` differs from `seen` in its lower 32 bits and someone called
    /// [`Fabric::wake`], or until `timeout` has passed, or for no reason at all. Callers look again after it.
    ///
    /// Only the lower half is compared (a Linux futex has 32 bits). A word that differs in its upper half only would
    /// be slept on; the words that ranks park on change their lower half with every change.
    fn park(&self, at: WordAt, seen: u64, timeout: Option<Duration>);
}

/// The lower half of a word, which a sleeper compares.
#[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub const fn lower_half(word: u64) -> u32 {
    word as u32
}
