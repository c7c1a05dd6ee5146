//! The named objects that a rank uses between barriers, with a record of each call.
//!
//! There are some of each kind, with the same numbers: who holds lock k fences and writes word k under its token, and
//! adds to counter k; leases and elections have words of their own. Their names come from the round's seed, so that
//! they are at home on one node or another. A call waits as long as it takes: that it ends is what is to be seen. Where
//! an object is lost with its home, the rank leaves it alone from then on.
//!
//! Reader-writer locks, leases and elections: `belongings/tenures.rs`.

use std::path::Path;
use std::time::Duration;

use phalanx::fabric::sim::Seeded;
use phalanx::{
    Counter, CounterError, Election, Fenced, FencedError, Job, Lease, Lock, LockError, ObjectError, RwLock, Semaphore,
    Token,
};

use super::deeds::{Act, Deeds, End, deeds_of};
use super::rank::say;
use super::said::Event;

mod tenures;

/// So many of each kind, and of words three times as many.
pub const OBJECTS: u64 = 3;
/// What is to be added to a lease's number for that of its word.
pub const WORDS_OF_LEASES: u64 = OBJECTS;
/// What is to be added to an election's number for that of its word.
pub const WORDS_OF_ELECTIONS: u64 = 2 * OBJECTS;
/// Of all leases of a round: shorter than any failure time-out, or longer.
const TIMES_TO_LIVE: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(400)];
/// Of each semaphore.
pub const PERMITS: u64 = 2;
/// How long a rank keeps what it was told to hold, so that something can be done to it or to who waits.
pub const HOLDS_FOR: Duration = Duration::from_millis(20);
/// How long a rank whose calls must fail waits for what it must not get.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a rank can hold or wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A lock.
    Lock,
    /// A reader-writer lock, to read.
    Reading,
    /// The same, to write.
    Writing,
    /// A lease.
    Lease,
    /// An election.
    Leadership,
}

impl Thing {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lock, Self::Reading, Self::Writing, Self::Lease, Self::Leadership];

    /// What a rank is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Reading => "reading",
            Self::Writing => "writing",
            Self::Lease => "lease",
            Self::Leadership => "leadership",
        }
    }

    /// What another rank has while this is to be waited for.
    pub fn opposite(self) -> Self {
        match self {
            Self::Reading => Self::Writing,
            Self::Writing => Self::Reading,
            alone => alone,
        }
    }

    /// The one that a rank was told.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|thing| thing.name() == name)
    }
}

/// The lock's, the lease's, the election's; none where it is lost.
type Words = [Option<Fenced<u64>>; 3];

struct Set {
    lock: Lock,
    counter: Option<Counter>,
    words: Words,
    semaphore: Semaphore,
    shared: RwLock,
    lease: Lease,
    election: Election,
}

/// Whose words there are.
#[derive(Clone, Copy)]
enum WordOf {
    Lock,
    Lease,
    Election,
}

impl WordOf {
    /// The number of a word.
    fn number(self, object: u64) -> u64 {
        match self {
            Self::Lock => object,
            Self::Lease => object + WORDS_OF_LEASES,
            Self::Election => object + WORDS_OF_ELECTIONS,
        }
    }
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
        let span = Duration::from_micros(self.random_us());
        match self.random.below(20) {
            0..=3 => self.hold(number, span, |_| {}),
            4 | 5 => self.add(number),
            6 => self.load(number),
            7 | 8 => self.read(number),
            9 => self.take(number),
            10 | 11 => self.enter(number, span, || {}),
            12 => self.enter_alone(number, span, |_| {}),
            13 | 14 => self.rent(number, span, |_| {}),
            15 | 16 => self.lead(number, span, |_| {}),
            17 => self.look(number),
            _ => Ok(()),
        }
    }

    /// Now and then some microseconds.
    fn random_us(&mut self) -> u64 {
        if self.random.below(4) == 0 { self.random.below(300) as u64 } else { 0 }
    }

    /// Holds something for a while, and says so.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn hold_for_long(&mut self, thing: Thing) -> std::io::Result<()> {
        let rank = self.rank;
        self.have(thing, HOLDS_FOR, |token| say(rank, Event::Holds { token: token.0 }))
    }

    /// Waits for the same, and says so.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn wait_for_long(&mut self, thing: Thing) -> std::io::Result<()> {
        say(self.rank, Event::Queues);
        self.have(thing, Duration::ZERO, |_| {})
    }

    fn have(&mut self, thing: Thing, span: Duration, held: impl FnOnce(Token)) -> std::io::Result<()> {
        match thing {
            Thing::Lock => self.hold(0, span, held),
            Thing::Reading => self.enter(0, span, || held(Token(0))),
            Thing::Writing => self.enter_alone(0, span, held),
            Thing::Lease => self.rent(0, span, held),
            Thing::Leadership => self.lead(0, span, held),
        }
    }

    /// Has each thing once that one can have: nothing of those who have failed stands in the way.
    ///
    /// # Errors
    ///
    /// The system's, of the file.
    pub fn have_all(&mut self) -> std::io::Result<()> {
        for number in 0..self.sets.len() {
            self.hold(number, Duration::ZERO, |_| {})?;
            self.enter(number, Duration::ZERO, || {})?;
            self.enter_alone(number, Duration::ZERO, |_| {})?;
            self.rent(number, Duration::ZERO, |_| {})?;
            self.lead(number, Duration::ZERO, |_| {})?;
            self.look(number)?;
        }
        Ok(())
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
        write_under(guard.token(), WordOf::Lock, *rank, &mut set.words, object, deeds)?;
        if let Some(counter) = &set.counter
            && add_to(counter, *rank, 1, object, deeds)?
        {
            set.counter = None;
        }
        if span > Duration::ZERO {
            std::thread::sleep(span);
        }
        // Again, as a holder does that was stopped in the middle.
        write_under(guard.token(), WordOf::Lock, *rank, &mut set.words, object, deeds)?;
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
        let of = [WordOf::Lock, WordOf::Lease, WordOf::Election][self.random.below(3)];
        let Self { rank, sets, deeds, .. } = self;
        let word = &mut sets[number].words[of as usize];
        let Some(there) = word else { return Ok(()) };
        let pair = deeds.note(
            Act::Read,
            of.number(number as u64),
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
        let calls: [(&str, bool); 10] = [
            ("a lock", set.lock.acquire_timeout(PATIENCE).is_ok()),
            ("an attempt at a lock", matches!(set.lock.try_acquire(), Ok(Some(_)))),
            ("a semaphore", set.semaphore.acquire_timeout(1, PATIENCE).is_ok()),
            ("reading", set.shared.read_timeout(PATIENCE).is_ok()),
            ("an attempt to read", matches!(set.shared.try_read(), Ok(Some(_)))),
            ("writing", set.shared.write_timeout(PATIENCE).is_ok()),
            ("a lease", set.lease.acquire_timeout(PATIENCE).is_ok()),
            ("an attempt at a lease", matches!(set.lease.try_acquire(), Ok(Some(_)))),
            ("an election", set.election.campaign_timeout(PATIENCE).is_ok()),
            ("a look at the leader", set.election.leader().is_ok()),
        ];
        calls.into_iter().filter(|(_, succeeds)| *succeeds).map(|(name, _)| name).collect()
    }
}

impl Set {
    fn open(job: &Job, seed: u64, number: u64) -> Result<Self, ObjectError> {
        let name = |kind: &str| format!("{kind} {number} of {seed}");
        let time_to_live = TIMES_TO_LIVE[usize::from(seed.is_multiple_of(2))];
        Ok(Self {
            lock: job.lock(&name("lock"))?,
            counter: Some(job.counter(&name("counter"))?),
            words: [
                Some(job.fenced(&name("word"))?),
                Some(job.fenced(&name("word of lease"))?),
                Some(job.fenced(&name("word of election"))?),
            ],
            semaphore: job.semaphore(&name("semaphore"), PERMITS)?,
            shared: job.rwlock(&name("shared lock"))?,
            lease: job.lease(&name("lease"), time_to_live)?,
            election: job.election(&name("election"))?,
        })
    }
}

/// Fences a word and writes it, under a token.
fn write_under(
    token: Token,
    of: WordOf,
    rank: usize,
    words: &mut Words,
    object: u64,
    deeds: &mut Deeds,
) -> std::io::Result<()> {
    let (word, object) = (&mut words[of as usize], of.number(object));
    let Some(there) = word else { return Ok(()) };
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
