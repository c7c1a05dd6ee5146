//! Words that are written under a token: a write is refused once a greater token was seen, at the word's home.
//!
//! In a job of several nodes a pair that a call returns, or has written, is on two of them before that: the home, and
//! the rank's own, which notes it, or where that is the home the second node ([`super::pairs`]). If the home is lost in
//! the middle of a call, the call begins anew at the next one. A value may so be written twice, and nobody sees a
//! difference: what was written in between under the same token came from the same rank, and under a greater one
//! refuses it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::custody::{self, AtHome, Bound, Custody};
use super::error::ObjectError;
use super::homes::Home;
use super::pairs::{self, Ended};
use super::reach::Reach;
use super::second::COPIES_AT;
use super::{Handle, ObjectKind, Token};
use crate::cluster::view::FailureCause;
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::fenced::{Copied, Goal, Known};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::note::NoteAt;
use crate::error::{declared_failed, no_next_place, unheard};
use crate::fabric::WordAt;
use crate::job::Job;

/// A type that a fenced word can have: plain, of at most 8 bytes.
pub trait FencedWord: Copy + sealed::Sealed {}

mod sealed {
    /// As 8 bytes and back.
    pub trait Sealed {
        /// Tells the types apart, for all ranks that open a name.
        const KIND: u64;

        fn to_word(self) -> u64;
        fn from_word(word: u64) -> Self;
    }
}

macro_rules! fenced_words {
    ($($type:ty, $kind:literal, $to:expr, $from:expr;)*) => {
        $(impl FencedWord for $type {}

        impl sealed::Sealed for $type {
            const KIND: u64 = $kind;

            #[inline]
            fn to_word(self) -> u64 {
                let to: fn($type) -> u64 = $to;
                to(self)
            }

            #[inline]
            #[allow(clippy::cast_possible_truncation, reason = "made from the same type")]
            fn from_word(word: u64) -> Self {
                let from: fn(u64) -> $type = $from;
                from(word)
            }
        })*
    };
}

fenced_words! {
    u64, 1, |value| value, |word| word;
    i64, 2, i64::cast_unsigned, u64::cast_signed;
    f64, 3, f64::to_bits, f64::from_bits;
    u32, 4, u64::from, |word| word as u32;
    i32, 5, |value| u64::from(value.cast_unsigned()), |word| (word as u32).cast_signed();
    f32, 6, |value| u64::from(value.to_bits()), |word| f32::from_bits(word as u32);
    bool, 7, u64::from, |word| word != 0;
    [u8; 8], 8, u64::from_le_bytes, u64::to_le_bytes;
}

/// A named word that is written under tokens ([`super::LockGuard::token`], or a lease's), as one rank holds it. It
/// begins as 0 under token 0.
///
/// What a holder writes late, when another one has come to hold the lock and has written or [fenced](Self::fence), is
/// refused, whatever became of the late one meanwhile. The check is made at the word's home, in one step with the
/// write. A token belongs to one rank: where two ranks write under one token, the later write stays.
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let (lock, progress) = (job.lock("step")?, job.fenced::<u64>("progress")?);
/// let guard = lock.acquire()?;
/// // From here on nobody who held the lock before writes any more.
/// let done = progress.fence(guard.token())?;
/// progress.write(guard.token(), done + 1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Fenced<T> {
    seen: Arc<Seen>,
    custody: Custody,
    handle: Handle,
    word: PhantomData<fn(T) -> T>,
}

/// What a rank knows of a word: one of its threads at a time uses it, and its words at the home.
#[derive(Debug, Default)]
struct Seen(Mutex<Option<Bound<Knowledge>>>);

/// What it knows of a home.
#[derive(Debug, Default)]
struct Knowledge {
    /// The pair that was current there.
    known: Option<Known>,
    /// The node that has the copy, where the home is this one, and what is current there.
    copy: Option<(usize, Known)>,
}

impl AtHome for Knowledge {
    fn words(_: &Reach, _: ObjectAt) -> Vec<WordAt> {
        Vec::new()
    }

    fn of(_: &Reach, _: &[u64]) -> Self {
        Self::default()
    }
}

/// Why a word was not written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FencedError {
    /// A greater token was seen: whoever has it has come to hold what this one was given for. Where the connection
    /// broke meanwhile the value may have been there before that.
    #[error(
        "rank {rank}: {name:?} was not written under token {token}: {seen} was seen (remedy: acquire the lock or lease anew; somebody else has it)"
    )]
    Refused {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// Under which it was to be written.
        token: Token,
        /// The greatest.
        seen: Token,
    },
    /// What was written may be lost with the word's home, as there was no copy: either none was wanted
    /// ([`durable_copies`](crate::JobOptions::durable_copies)), or two nodes were lost at the same time, or one so soon
    /// after the other that no third one had the copy yet.
    #[error(
        "rank {rank}: of the fenced word {name:?}, which has come to node {home}, what was written last may be lost with the home: no node that lives had a copy of it yet (remedy: drop the handle and open the name again, to go on with what the others have seen)"
    )]
    HomeLost {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// Where it is at home now.
        home: usize,
    },
    /// Nothing is heard of a node that this call needs, the word's home or the one that has the copy, and the nodes
    /// that answer are too few to agree that it has failed. What was to be written may come to be there, under its
    /// token.
    #[error(
        "rank {rank} does not reach the fenced word {name:?}: {}", unheard(.node, &Duration::ZERO)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// The node that is not heard.
        node: usize,
    },
    /// The home is lost, and the next one has no room. The word moves as soon as there is room.
    #[error("{}", no_next_place(*.rank, .name, *.node, *.places))]
    NoRoom {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// Its next home.
        node: usize,
        /// How many that has room for.
        places: usize,
    },
    /// This rank has been declared failed. What it wrote last may be there.
    #[error("{}", declared_failed(*.rank, *.epoch, *.cause, "does not reach the fenced word", .name))]
    Excluded {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// The epoch; 0 where it is not known.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
}

impl Job {
    /// The fenced word of a name, the same for all ranks; it is of the same type for all. It exists while some rank has
    /// a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`ObjectError::OtherParameter`]: the types differ, or the numbers of
    /// [`durable_copies`](crate::JobOptions::durable_copies).
    ///
    /// # Cost
    ///
    /// As [`counter`](Self::counter).
    pub fn fenced<T: FencedWord>(&self, name: &str) -> Result<Fenced<T>, ObjectError> {
        let membership = self.membership();
        let copies = membership.durable_copies as u64;
        let nature = Nature { kind: ObjectKind::Fenced, parameter: copies << COPIES_AT | T::KIND };
        let handle = Handle::open(membership, name, nature)?;
        let (custody, seen) = (Custody::of(&handle, nature), membership.reach.uses.shared_at(handle.at.key()));
        Ok(Fenced { seen, custody, handle, word: PhantomData })
    }
}

impl<T: FencedWord> Fenced<T> {
    /// The word's name.
    pub fn name(&self) -> &str {
        self.handle.name.text()
    }

    /// Writes a value, unless a token greater than this one was seen.
    ///
    /// # Errors
    ///
    /// [`FencedError`].
    ///
    /// # Cost
    ///
    /// On a job's only node some memory accesses; from another node than the home a round trip, and two more if another
    /// rank has written since this one last wrote or read. On the home's own one as much, to the node that has the copy
    /// (without copies none).
    pub fn write(&self, token: Token, value: T) -> Result<(), FencedError> {
        self.put(token, Some(value.to_word())).map(drop)
    }

    /// Has this token seen, and gives the value that was written under lesser ones: from then on none of them writes.
    /// What a new holder does first.
    ///
    /// # Errors
    ///
    /// [`FencedError`].
    ///
    /// # Cost
    ///
    /// As [`write`](Self::write).
    pub fn fence(&self, token: Token) -> Result<T, FencedError> {
        self.put(token, None).map(|known| T::from_word(known.value))
    }

    /// The value, and the token under which it was written: the pair that was there at one time during this call.
    ///
    /// # Errors
    ///
    /// [`FencedError::HomeLost`], [`FencedError::Unreachable`], [`FencedError::NoRoom`], [`FencedError::Excluded`].
    ///
    /// # Cost
    ///
    /// As [`write`](Self::write).
    pub fn read(&self) -> Result<(Token, T), FencedError> {
        match self.operate(Goal::Read)? {
            Ok(known) => Ok((Token(known.token), T::from_word(known.value))),
            Err(_) => unreachable!("who reads is not refused"),
        }
    }

    fn put(&self, token: Token, value: Option<u64>) -> Result<Known, FencedError> {
        self.operate(Goal::Write { token: token.0, value })?.map_err(|seen| FencedError::Refused {
            rank: self.handle.membership.rank,
            name: self.name().to_owned(),
            token,
            seen: Token(seen),
        })
    }

    /// Does it; `Err`: refused for a greater token.
    fn operate(&self, goal: Goal) -> Result<Result<Known, u64>, FencedError> {
        // No code panics while it holds it.
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |fault| self.error(fault);
        loop {
            self.custody.bind(&self.handle, &mut seen).map_err(error)?;
            let Bound { home, kept, .. } = seen.as_mut().expect("bound");
            // Where this fails it is not known what became of the words.
            let known = kept.known.take();
            match pairs::reach_goal(&home.site, pairs::words(home), self.handle.membership.rank, goal, known) {
                Ok(Ended { result, known }) => {
                    kept.known = known;
                    if self.keep(home, kept).map_err(error)? {
                        return Ok(result);
                    }
                }
                // Once more, at the next home.
                Err(SiteFault::Lost { .. }) => {}
                Err(fault) => return Err(error(fault)),
            }
        }
    }

    /// Before a call is over: has a second node have what it has come to know. `false`: the home is lost, and the next
    /// one may not know it.
    fn keep(&self, home: &Home, kept: &mut Knowledge) -> Result<bool, SiteFault> {
        let reach = &self.handle.membership.reach;
        let Some(known) = kept.known else { return Ok(true) };
        if home.site.is_here() {
            return self.copy(&mut kept.copy, known).map(|()| true);
        }
        Copied::from(known).note(NoteAt::of(&self.handle.at, reach.local()), self.handle.segment());
        Ok(!reach.has_lost(home.site.home))
    }

    /// Has the second node have a pair, if there is one: this node is the home.
    fn copy(&self, copy: &mut Option<(usize, Known)>, known: Known) -> Result<(), SiteFault> {
        let rank = self.handle.membership.rank;
        self.custody.copy(&self.handle, |second| {
            let there = copy.filter(|(node, _)| *node == second.site.home).map(|(_, there)| there);
            if there.is_none_or(|there| there.word.version() < known.word.version()) {
                let goal = Goal::Keep(known.into());
                let ended = pairs::reach_goal(&second.site, pairs::words(second), rank, goal, there)?;
                *copy = ended.known.map(|there| (second.site.home, there));
            }
            Ok(())
        })
    }

    fn error(&self, fault: SiteFault) -> FencedError {
        let (reach, name) = (&self.handle.membership.reach, self.name().to_owned());
        let rank = reach.rank;
        match fault {
            SiteFault::Lost { home } | SiteFault::Broken { home } => FencedError::HomeLost { rank, name, home },
            SiteFault::NoRoom { home: node } => {
                let places = self.handle.membership.layout_of(node).objects();
                FencedError::NoRoom { rank, name, node, places }
            }
            SiteFault::Silent { node } | SiteFault::Late { home: node } => {
                FencedError::Unreachable { rank, name, node }
            }
            SiteFault::Excluded => {
                let (epoch, cause) = custody::own_end(reach);
                FencedError::Excluded { rank, name, epoch, cause }
            }
        }
    }
}

impl<T> fmt::Debug for Fenced<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fenced").field("handle", &self.handle).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_types_of_words() {
        fn named<T: FencedWord>(name: &str) {
            let text = ObjectKind::Fenced.parameter_text(T::KIND);
            assert!(text.starts_with(&format!("a value of type {name} and")), "{text}");
        }
        named::<u64>("u64");
        named::<i64>("i64");
        named::<f64>("f64");
        named::<u32>("u32");
        named::<i32>("i32");
        named::<f32>("f32");
        named::<bool>("bool");
        named::<[u8; 8]>("[u8; 8]");
    }
}
