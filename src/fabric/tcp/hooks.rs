//! Calls to the layer above, made by whichever thread has looked at the connections, without the engine's lock, so that
//! who is called may use the fabric: for letters that have come, and for what the engine has noted in
//! `engine/calls.rs`.

use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};

use super::Shared;
use super::engine::{Due, Engine, MOST_WATCHED};
use super::frame::Letter;

/// Takes in a letter of a node's agent, and may answer it.
pub type LetterHandler = Box<dyn Fn(usize, &Letter) -> Option<Letter> + Send + Sync>;

/// Who reads letters.
#[derive(Default)]
pub(super) struct Reader {
    pub handler: OnceLock<LetterHandler>,
    /// Held while letters are read, so that they are read in their order.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("is_there", &self.handler.get().is_some()).finish_non_exhaustive()
    }
}

/// Called when a word has been changed.
pub type WordHook = Box<dyn Fn() + Send + Sync>;

/// Called with the first node that has said that it has declared this process failed.
pub type ExclusionHook = Box<dyn Fn(usize) + Send + Sync>;

/// What the layer above wants to be told.
#[derive(Default)]
pub(super) struct Hooks {
    pub words: [OnceLock<WordHook>; MOST_WATCHED],
    pub breach: OnceLock<WordHook>,
    pub exclusion: OnceLock<ExclusionHook>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let watched = self.words.iter().filter(|hook| hook.get().is_some()).count();
        f.debug_struct("Hooks").field("watched", &watched).finish_non_exhaustive()
    }
}

impl Shared {
    /// Tells those who sleep on the connections what has come in, and, without the engine's lock, those above what they
    /// want to know.
    #[inline]
    pub(super) fn deliver(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.tell_sleepers();
        if engine.has_calls() {
            drop(engine);
            self.call();
        }
    }

    /// As [`deliver`](Self::deliver), for a caller that may hold what a hook or a reader of letters waits for: it is
    /// the background thread that tells those above, unless somebody polls.
    #[inline]
    pub(super) fn leave(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.tell_sleepers();
        if engine.has_calls() {
            drop(engine);
            self.call_thread();
        }
    }

    #[cold]
    fn call_thread(&self) {
        // Where it does not serve, whoever does looks by itself, or the thread when it does again.
        self.kick_server();
    }

    /// Tells those above what has come in until there is nothing, unless somebody else reads letters. Nobody waits for
    /// a reader: it may take long.
    #[cold]
    fn call(&self) {
        loop {
            let due = self.engine().take_due();
            self.call_hooks(due);
            match self.reader.turn.try_lock() {
                Ok(_turn) => self.read_those_there(),
                // As in `engine`: a panic in a reader must not keep the others from reading.
                Err(TryLockError::Poisoned(_)) => {
                    self.reader.turn.clear_poison();
                    continue;
                }
                // Its holder looks again when it has given the turn back, and finds what this thread has taken in
                // before.
                Err(TryLockError::WouldBlock) => return,
            }
            if !self.engine().has_calls() {
                return;
            }
        }
    }

    fn call_hooks(&self, due: Due) {
        let changed = self.hooks.words.iter().enumerate().filter(|(index, _)| due.is_changed(*index));
        changed.filter_map(|(_, hook)| hook.get()).for_each(|hook| hook());
        if let Some(hook) = self.hooks.breach.get().filter(|_| due.is_broken()) {
            hook();
        }
        if let (Some(node), Some(hook)) = (due.excluded_by, self.hooks.exclusion.get()) {
            hook(node);
        }
    }

    fn read_those_there(&self) {
        let letters = self.engine().take_letters();
        let Some(handler) = self.reader.handler.get() else { return };
        for (node, letter) in letters {
            if let Some(answer) = handler(node, &letter) {
                // Whoever has sent the letter sends it again, or goes on without an answer.
                let _ = self.engine().send_letter(node, &answer);
            }
        }
    }
}
