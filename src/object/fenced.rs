//! Words that are written under a token: a write is refused once a greater token was seen, at the word's home.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ObjectError;
use super::{Handle, ObjectKind, Token};
use crate::cluster::view::FailureCause;
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::fenced::{FencedAt, Goal, Known, Operation, Turn};
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

/// A named word that is written under tokens ([`super::LockGuard::token`], or a lease's), as one rank holds it. It begins as
/// 0 under token 0.
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
    at: FencedAt,
    seen: Arc<Seen>,
    handle: Handle,
    word: PhantomData<fn(T) -> T>,
}

/// What a rank knows of a word: one of its threads at a time uses it, and its words at the home.
#[derive(Debug, Default)]
struct Seen(Mutex<Option<Known>>);

/// Why a word was not written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FencedError {
    /// A greater token was seen: whoever has it has come to hold what this one was given for. Where the connection broke
    /// meanwhile the value may have been there before that.
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
    /// The node where the word is at home is lost to the job, and with it what was written.
    #[error(
        "rank {rank}: the fenced word {name:?} is lost with its home, node {home} (remedy: drop the handle and open the name again: it then begins at 0 elsewhere)"
    )]
    HomeLost {
        /// This rank.
        rank: usize,
        /// The word.
        name: String,
        /// Where it was at home.
        home: usize,
    },
    /// This rank has been declared failed. What it wrote last may be there.
    #[error(
        "rank {rank} was declared failed in epoch {epoch} ({cause}), and does not reach the fenced word {name:?} (remedy: end this process; if it was only stopped, allow longer silences with PHALANX_FAILURE_TIMEOUT_MS)"
    )]
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
    /// The fenced word of a name, the same for all ranks; it is of the same type for all. It exists while some rank has a
    /// handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`ObjectError::OtherParameter`]: the types differ.
    pub fn fenced<T: FencedWord>(&self, name: &str) -> Result<Fenced<T>, ObjectError> {
        let handle = Handle::open(self.membership(), name, Nature { kind: ObjectKind::Fenced, parameter: T::KIND })?;
        let (at, seen) = (FencedAt::of(&handle.at_home), handle.site.reach.uses.shared_at(handle.at.key()));
        Ok(Fenced { at, seen, handle, word: PhantomData })
    }
}

impl<T: FencedWord> Fenced<T> {
    /// The word's name.
    pub fn name(&self) -> &str {
        self.handle.name.text()
    }

    /// Writes a value, unless a token greater than this one was seen.
    ///
    /// Cost: on the home's own node some memory accesses; from another one a round trip, and two more if another rank has
    /// written since this one last wrote or read.
    ///
    /// # Errors
    ///
    /// [`FencedError`].
    pub fn write(&self, token: Token, value: T) -> Result<(), FencedError> {
        self.put(token, Some(value.to_word())).map(drop)
    }

    /// Has this token seen, and gives the value that was written under lesser ones: from then on none of them writes. What
    /// a new holder does first.
    ///
    /// Cost: as [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// [`FencedError`].
    pub fn fence(&self, token: Token) -> Result<T, FencedError> {
        self.put(token, None).map(|known| T::from_word(known.value))
    }

    /// The value, and the token under which it was written: the pair that was there at one time during this call.
    ///
    /// Cost: as [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// [`FencedError::HomeLost`], [`FencedError::Excluded`].
    pub fn read(&self) -> Result<(Token, T), FencedError> {
        match self.operate(Goal::Read)? {
            Ok(known) => Ok((Token(known.token), T::from_word(known.value))),
            Err(_) => unreachable!("who reads is not refused"),
        }
    }

    fn put(&self, token: Token, value: Option<u64>) -> Result<Known, FencedError> {
        self.operate(Goal::Write { token: token.0, value })?.map_err(|seen| FencedError::Refused {
            rank: self.handle.site.reach.rank,
            name: self.name().to_owned(),
            token,
            seen: Token(seen),
        })
    }

    /// Does it; `Err`: refused for a greater token.
    fn operate(&self, goal: Goal) -> Result<Result<Known, u64>, FencedError> {
        let site = &self.handle.site;
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where this fails it is not known what became of the words.
        let (mut operation, mut turn) = Operation::begin(self.at, site.reach.rank, goal, seen.take());
        let done = loop {
            turn = match turn {
                Turn::Done(known) => break Ok(known),
                Turn::Refused(token) => break Err(token),
                Turn::Ask(requests) => match site.ask(&requests) {
                    Ok(answers) => operation.answered(&answers),
                    Err(SiteFault::Broken { .. }) => operation.broken(),
                    Err(fault) => return Err(self.error(fault)),
                },
            };
        };
        *seen = operation.known();
        Ok(done)
    }

    fn error(&self, fault: SiteFault) -> FencedError {
        let (rank, name) = (self.handle.site.reach.rank, self.name().to_owned());
        match fault {
            SiteFault::Lost { home } | SiteFault::Broken { home } => FencedError::HomeLost { rank, name, home },
            SiteFault::Excluded => {
                let (epoch, cause) = self.handle.site.reach.own_end().unwrap_or((0, FailureCause::Silent));
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
