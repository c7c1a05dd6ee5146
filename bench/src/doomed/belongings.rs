//! The named objects that a rank uses between barriers, with a record of each call.
//!
//! There are some of each kind, with the same numbers: who holds lock k fences and writes word k under its token, and
//! adds to counter k. Their names come from the round's seed, so that they are at home on one node or another. A call
//! waits as long as it takes: that it ends is what is to be seen. Where an object is lost with its home, the rank
//! leaves it alone from then on.

use std::path::Path;
use std::time::Duration;

use phalanx::fabric::sim::Seeded;
use phalanx::{
    Counter, CounterError, Fenced, FencedError, Job, Lock, LockError, LockGuard, ObjectError, Semaphore, Token,
};

use super::deeds::{Act, Deeds, End, deeds_of};
use super::rank::say;
use super::said::Event;

/// So many of each kind.
pub const OBJECTS: u64 = 3;
/// Of each semaphore.
pub const PERMITS: u64 = 2;
/// How long a rank keeps a lock that it was told to hold, so that something can be done to it or to who waits.
pub const HOLDS_FOR: Duration = Duration::from_millis(20);
/// How long a rank whose calls must fail waits for what it must not get.
const PATIENCE: Duration = Duration::from_millis(50);

struct Set {
    lock: Lock,
    counter: Option<Counter>,
    word: Option<Fenced<u64>>,
    semaphore: Semaphore,
}

/// The objects of one rank.
pub struct Belongings {
    rank: usize,
    sets: Vec<Set>,
    deeds: Deeds,
    random: Seeded,
}

impl Belongings {
    /// Opens all of them. `None` where this rank has been declared failed meanwhile, or is cut off.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn open(job: &Job, directory: &Path, seed: u64) -> std::io::Result<Option<Self>> {
        let rank = job.rank();
        let deeds = Deeds::create(&deeds_of(directory, rank))?;
        let opened: Result<Vec<Set>, ObjectError> = (0..OBJECTS).map(|number| Set::open(job, seed, number)).collect();
        let random = Seeded::new(seed.wrapping_mul(31).wrapping_add(rank as u64));
        Ok(match opened {
            Ok(sets) => Some(Self { rank, sets, deeds, random }),
            Err(ObjectError::Table { source, .. })
                if matches!(*source, LockError::Excluded { .. } | LockError::Unreachable { .. }) =>
            {
                None
            }
            Err(error) => {
                say(rank, Event::Wrong { what: error.to_string() });
                None
            }
        })
    }

    /// Does something with one of them, mostly.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn use_one(&mut self) -> std::io::Result<()> {
        let number = self.random.below(self.sets.len());
        match self.random.below(8) {
            0..=2 => {
                let span = Duration::from_micros(self.random_us());
                self.hold(number, span, |_| {})
            }
            3 => self.add(number),
            4 => self.load(number),
            5 => self.read(number),
            6 => self.take(number),
            _ => Ok(()),
        }
    }

    /// Now and then some microseconds.
    fn random_us(&mut self) -> u64 {
        if self.random.below(4) == 0 { self.random.below(300) as u64 } else { 0 }
    }

    /// Holds a lock for a while, and says so.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn hold_for_long(&mut self) -> std::io::Result<()> {
        let rank = self.rank;
        self.hold(0, HOLDS_FOR, |token| say(rank, Event::Holds { token: token.0 }))
    }

    /// Waits for the same lock, and says so.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn wait_for_long(&mut self) -> std::io::Result<()> {
        say(self.rank, Event::Queues);
        self.hold(0, Duration::ZERO, |_| {})
    }

    fn hold(&mut self, number: usize, span: Duration, held: impl FnOnce(Token)) -> std::io::Result<()> {
        let object = number as u64;
        let Self { rank, sets, deeds, .. } = self;
        let set = &mut sets[number];
        let guard = deeds.note(
            Act::Acquire,
            object,
            || set.lock.acquire(),
            |got| match got {
                Ok(guard) => Some(End::Granted(guard.token().0)),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        let Ok(guard) = guard else { return Ok(()) };
        held(guard.token());
        write_under(&guard, *rank, &mut set.word, object, deeds)?;
        if let Some(counter) = &set.counter
            && add_to(counter, *rank, 1, object, deeds)?
        {
            set.counter = None;
        }
        if span > Duration::ZERO {
            std::thread::sleep(span);
        }
        // Again, as a holder does that was stopped in the middle.
        write_under(&guard, *rank, &mut set.word, object, deeds)?;
        let released = deeds.note(
            Act::Release,
            object,
            || guard.release(),
            |released| match released {
                Ok(()) => Some(End::Done),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        drop(released);
        Ok(())
    }

    fn add(&mut self, number: usize) -> std::io::Result<()> {
        let add = 1 + self.random.below(5) as u64;
        let Self { rank, sets, deeds, .. } = self;
        let counter = &mut sets[number].counter;
        if let Some(there) = counter
            && add_to(there, *rank, add, number as u64, deeds)?
        {
            *counter = None;
        }
        Ok(())
    }

    fn load(&mut self, number: usize) -> std::io::Result<()> {
        let Self { rank, sets, deeds, .. } = self;
        let counter = &mut sets[number].counter;
        let Some(there) = counter else { return Ok(()) };
        let value = deeds.note(Act::Load, number as u64, || there.load(), |value| end_of_counter(*rank, value))?;
        if matches!(value, Err(CounterError::HomeLost { .. })) {
            *counter = None;
        }
        Ok(())
    }

    /// Reads all counters: what they have come to.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn load_all(&mut self) -> std::io::Result<()> {
        (0..self.sets.len()).try_for_each(|number| self.load(number))
    }

    fn read(&mut self, number: usize) -> std::io::Result<()> {
        let Self { rank, sets, deeds, .. } = self;
        let word = &mut sets[number].word;
        let Some(there) = word else { return Ok(()) };
        let pair = deeds.note(
            Act::Read,
            number as u64,
            || there.read(),
            |pair| match pair {
                Ok((token, value)) => Some(End::Pair(token.0, *value)),
                Err(error) => end_of_word(*rank, error),
            },
        )?;
        if matches!(pair, Err(FencedError::HomeLost { .. })) {
            *word = None;
        }
        Ok(())
    }

    fn take(&mut self, number: usize) -> std::io::Result<()> {
        let (count, span) = (1 + self.random.below(2) as u64, self.random_us());
        let Self { rank, sets, deeds, .. } = self;
        let (object, semaphore) = (number as u64, &sets[number].semaphore);
        let permits = deeds.note(
            Act::Take(count),
            object,
            || semaphore.acquire(count),
            |got| match got {
                Ok(_) => Some(End::Done),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        let Ok(permits) = permits else { return Ok(()) };
        std::thread::sleep(Duration::from_micros(span));
        let returned = deeds.note(
            Act::Return(count),
            object,
            || permits.release(),
            |returned| match returned {
                Ok(()) => Some(End::Done),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        drop(returned);
        Ok(())
    }

    /// Calls that must fail, as the others have gone on; those that do not, by name.
    pub fn succeeds_in(&self) -> Vec<&'static str> {
        let set = &self.sets[0];
        let calls: [(&str, bool); 3] = [
            ("a lock", set.lock.acquire_timeout(PATIENCE).is_ok()),
            ("an attempt at a lock", matches!(set.lock.try_acquire(), Ok(Some(_)))),
            ("a semaphore", set.semaphore.acquire_timeout(1, PATIENCE).is_ok()),
        ];
        calls.into_iter().filter(|(_, succeeds)| *succeeds).map(|(name, _)| name).collect()
    }
}

impl Set {
    fn open(job: &Job, seed: u64, number: u64) -> Result<Self, ObjectError> {
        let name = |kind: &str| format!("{kind} {number} of {seed}");
        Ok(Self {
            lock: job.lock(&name("lock"))?,
            counter: Some(job.counter(&name("counter"))?),
            word: Some(job.fenced(&name("word"))?),
            semaphore: job.semaphore(&name("semaphore"), PERMITS)?,
        })
    }
}

/// Fences a word and writes it, under the lock's token.
fn write_under(
    guard: &LockGuard<'_>,
    rank: usize,
    word: &mut Option<Fenced<u64>>,
    object: u64,
    deeds: &mut Deeds,
) -> std::io::Result<()> {
    let Some(there) = word else { return Ok(()) };
    let token = guard.token();
    let fenced = deeds.note(
        Act::Fence(token.0),
        object,
        || there.fence(token),
        |fenced| match fenced {
            Ok(value) => Some(End::Value(*value)),
            Err(error) => end_of_word(rank, error),
        },
    )?;
    if fenced.is_ok() {
        deeds
            .note(
                Act::Write(token.0),
                object,
                || there.write(token, token.0),
                |written| match written {
                    Ok(()) => Some(End::Done),
                    Err(error) => end_of_word(rank, error),
                },
            )?
            .ok();
    }
    if matches!(fenced, Err(FencedError::HomeLost { .. })) {
        *word = None;
    }
    Ok(())
}

/// Whether the counter is lost.
fn add_to(counter: &Counter, rank: usize, add: u64, object: u64, deeds: &mut Deeds) -> std::io::Result<bool> {
    let added = deeds.note(Act::Add(add), object, || counter.fetch_add(add), |added| end_of_counter(rank, added))?;
    Ok(matches!(added, Err(CounterError::HomeLost { .. })))
}

fn end_of_lock(rank: usize, error: &LockError) -> Option<End> {
    match error {
        LockError::Excluded { .. } => Some(End::Excluded),
        LockError::Unreachable { .. } => Some(End::Unreachable),
        other => wrong(rank, other),
    }
}

fn end_of_word(rank: usize, error: &FencedError) -> Option<End> {
    match error {
        FencedError::Excluded { .. } => Some(End::Excluded),
        FencedError::Unreachable { .. } => Some(End::Unreachable),
        FencedError::HomeLost { .. } => Some(End::HomeLost),
        FencedError::Refused { seen, .. } => Some(End::Refused(seen.0)),
        other => wrong(rank, other),
    }
}

fn end_of_counter(rank: usize, value: &Result<u64, CounterError>) -> Option<End> {
    match value {
        Ok(value) => Some(End::Value(*value)),
        Err(CounterError::AnswerLost { .. }) => Some(End::Unheard),
        Err(CounterError::Uncertain { .. }) => Some(End::Uncertain),
        Err(CounterError::HomeLost { .. }) => Some(End::HomeLost),
        Err(CounterError::Excluded { .. }) => Some(End::Excluded),
        Err(CounterError::Unreachable { .. }) => Some(End::Unreachable),
        Err(other) => wrong(rank, other),
    }
}

/// An error that no fault explains.
fn wrong(rank: usize, error: &dyn std::fmt::Display) -> Option<End> {
    say(rank, Event::Wrong { what: error.to_string() });
    None
}
