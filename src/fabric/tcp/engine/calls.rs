//! Executes other nodes' requests, and notes for the layer above, under the engine's lock, that a watched word has
//! changed, that a connection has broken, that this process is excluded. When the lock has been given back `hooks.rs`,
//! outside the engine, takes the notes ([`Due`]) and calls whoever wants to know.
//!
//! Two calls are made here, under the lock, before a request takes effect: whether this process is given up, and for
//! words that a device changes.

use std::fmt;
use std::sync::Arc;

use super::{Engine, Memory, Request, StreamError, WordAt};
use crate::fabric::{execute, wake_sleepers};
use crate::sync::{AtomicU32, Ordering};

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

/// Tells by a word's value whether this process is given up.
pub type GivenUp = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// A word that says whether this process is given up: looked at before each request. One that is stopped, and comes
/// back when another speaks for its node, has requests that were lost with their connections, and made again, in its
/// sockets. At most one that was begun before that is executed after it.
struct Mandate {
    at: WordAt,
    is_over: GivenUp,
}

impl fmt::Debug for Mandate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mandate").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Does an addition or a swap, and gives the old value; `None` where it may have taken effect or not, but will not any
/// more. Called under the engine's lock: it must not wait for long, nor for anybody who may wait for the engine.
pub type WordChanger = Box<dyn Fn(Request) -> Option<u64> + Send + Sync>;

/// Words that are added to and swapped by a device alone.
struct Devices {
    /// They go on to the segment's end.
    begin: WordAt,
    change: WordChanger,
}

impl Devices {
    /// As [`execute`].
    #[cold]
    fn execute(&self, memory: &(impl Memory + ?Sized), request: Request) -> Result<(u64, bool), StreamError> {
        let value = (self.change)(request).ok_or(StreamError::Device)?;
        let has_changed = !matches!(request, Request::CompareSwap { expected, .. } if expected != value);
        if has_changed {
            wake_sleepers(memory, request.at());
        }
        Ok((value, has_changed))
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").field("begin", &self.begin).finish_non_exhaustive()
    }
}

/// What is watched, and what has been noted.
#[derive(Debug)]
pub(super) struct Calls {
    mandate: Option<Mandate>,
    words: [usize; MOST_WATCHED],
    bits: u8,
    excluded_by: Option<usize>,
    devices: Option<Devices>,
    /// Counts requests whose makers wait for an answer; for those who do not have the engine's lock.
    asked: Arc<AtomicU32>,
}

impl Calls {
    pub(super) fn new() -> Self {
        let asked = Arc::default();
        Self { mandate: None, words: [UNUSED; MOST_WATCHED], bits: 0, excluded_by: None, devices: None, asked }
    }

    /// Executes a request of another node.
    ///
    /// # Errors
    ///
    /// [`StreamError::GivenUp`]: it is not executed. [`StreamError::Device`]: nobody knows whether it has taken effect,
    /// and the other end is to learn just that: its connection is closed.
    #[inline]
    pub(super) fn execute(&mut self, memory: &(impl Memory + ?Sized), request: Request) -> Result<u64, StreamError> {
        if request.has_ticket() {
            // No read-modify-write: under the engine's lock.
            self.asked.store(self.asked.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        if let Some(mandate) = &self.mandate {
            // SYNC POINT: end. Acquire pairs with `view::note_end`: what the next one has executed since is seen.
            let word = memory.word(mandate.at).load(Ordering::Acquire);
            if word != 0 && (mandate.is_over)(word) {
                return Err(StreamError::GivenUp);
            }
        }
        let (value, has_changed) = match &self.devices {
            Some(devices) if request.is_atomic() && request.at() >= devices.begin => {
                devices.execute(memory, request)?
            }
            _ => execute(memory, request),
        };
        if has_changed {
            for (index, word) in self.words.iter().enumerate() {
                if *word == request.at().0 {
                    self.bits |= 1 << index;
                }
            }
        }
        Ok(value)
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

    /// From now on executes requests only as long as `is_over` does not say so of what a word holds, other than 0.
    pub fn serve_until(&mut self, at: WordAt, is_over: GivenUp) {
        self.calls.mandate = Some(Mandate { at, is_over });
    }

    /// From now on has words from `begin` on added to and swapped so.
    pub fn change_words_by(&mut self, begin: WordAt, change: WordChanger) {
        self.calls.devices = Some(Devices { begin, change });
    }

    /// The first node that has said that this process is excluded.
    pub fn excluded_by(&self) -> Option<usize> {
        self.calls.excluded_by
    }

    /// Counts the requests of other nodes that were waited for.
    pub fn asked(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.calls.asked)
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
