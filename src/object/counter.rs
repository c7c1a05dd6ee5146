//! The counter: a word at the object's home that all ranks add to.
//!
//! # Once, over a connection that breaks
//!
//! An addition whose answer is lost with its connection may have taken effect or not. So that this can be told, each rank
//! has a word at the counter's home that only it writes, its *journal*, and sends with each addition what it begins and what
//! it has done; the home executes the three in their order:
//!
//! ```text
//! write journal = begun n │ add to the value │ write journal = done n          one batch, one round trip
//! ```
//!
//! What was not executed when the connection broke is dropped at the latest when the next one is welcomed, by which the
//! journal is read:
//!
//! | the journal has | the addition | and the call |
//! | --- | --- | --- |
//! | something before | had no effect | repeats it |
//! | begun n | was the last or the next thing that was executed | [`CounterError::Uncertain`] |
//! | done n | took effect, once; the old value is lost | [`CounterError::AnswerLost`] |
//!
//! The second can only be found where the cut fell between two frames of 32 bytes that are sent by one call and executed in
//! one go: where the stream was cut up just there, or the process that serves the home was killed just then. The old value
//! cannot be had again by any request that there is: nothing at the home copies it anywhere. So a sum is exact as long as
//! the home lives and nobody is told `Uncertain`; numbers that were handed out are given to nobody else in any case, but
//! those of an `AnswerLost` are nobody's.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::error::ObjectError;
use super::{Handle, ObjectKind};
use crate::cluster::view::{self, FailureCause};
use crate::coord::objects::block::{Block, BlockWord, MOST_LEFT};
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::fabric::{Fabric, Memory, Request, Ticket, WordAt};
use crate::job::Job;
use crate::sync::Ordering;

/// Where the node's block stands among an object's own words: behind those of a lock.
const BLOCK_AT: usize = 8;

/// The word of a node's block, of a counter that this node has.
pub(super) const fn block_of(at: &ObjectAt) -> WordAt {
    at.own(BLOCK_AT)
}

/// How long a rank waits for a block that a neighbour fetches, before it asks the home itself for one number.
const PATIENCE: Duration = Duration::from_millis(2);

/// A named counter, as one rank holds it: 64 bits, from 0, wrapping round.
///
/// Its value stands on its home node. Whoever sees a sum sees what those did before who have added to it.
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let tickets = job.counter("tickets")?;
/// let mine = tickets.fetch_add(1)?;
/// assert!(tickets.load()? > mine);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Counter {
    value: WordAt,
    is_here: bool,
    journal: Arc<Journal>,
    handle: Handle,
}

/// What a rank's handles of a counter share: one of its threads at a time uses its journal. With room for a ticket.
#[derive(Debug, Default)]
struct Journal(Mutex<Vec<Ticket>>);

/// Why a counter did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// It took effect, once, and its answer was lost with a connection: nobody has the number that it gave.
    #[error(
        "rank {rank}: the counter {name:?} on node {home} was changed once, as was asked, but the connection broke before it said what it held (remedy: do not repeat it if only the sum counts; otherwise take another number)"
    )]
    AnswerLost {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Where it is at home.
        home: usize,
    },
    /// The connection broke in the middle of it: it took effect once, or not at all.
    #[error(
        "rank {rank}: the connection to node {home} broke while the counter {name:?} was being changed: that took effect once or not at all (remedy: compare the value with what the ranks have added)"
    )]
    Uncertain {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Where it is at home.
        home: usize,
    },
    /// The numbers that were asked for are more than there are.
    #[error(
        "rank {rank}: the counter {name:?} has come to {first}, and has not as many numbers as were asked for (remedy: another counter; numbers that are drawn by blocks must be less than 2^48)"
    )]
    Exhausted {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// The first of them.
        first: u64,
    },
    /// The node where the counter is at home is lost to the job, and its value with it.
    #[error(
        "rank {rank}: the counter {name:?} is lost with its home, node {home} (remedy: drop the handle and open the name again: it then begins at 0 elsewhere)"
    )]
    HomeLost {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Where it was at home.
        home: usize,
    },
    /// This rank has been declared failed. What it asked for last may have taken effect.
    #[error(
        "rank {rank} was declared failed in epoch {epoch} ({cause}), and does not reach the counter {name:?} (remedy: end this process; if it was only stopped, allow longer silences with PHALANX_FAILURE_TIMEOUT_MS)"
    )]
    Excluded {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// The epoch; 0 where it is not known.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
}

impl Job {
    /// The counter of a name, the same for all ranks. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn counter(&self, name: &str) -> Result<Counter, ObjectError> {
        let handle = Handle::open(self.membership(), name, Nature { kind: ObjectKind::Counter, parameter: 0 })?;
        let (value, is_here) = (handle.at_home.value(), handle.site.is_here());
        let journal = handle.site.reach.uses.shared_at(handle.at.key());
        Ok(Counter { value, is_here, journal, handle })
    }
}

impl Counter {
    /// The counter's name.
    pub fn name(&self) -> &str {
        self.handle.name.text()
    }

    /// Adds, and gives the value before.
    ///
    /// Cost: on the home's own node one locked instruction, from another one a round trip.
    ///
    /// # Errors
    ///
    /// [`CounterError`]: only where the home is another node. Each says whether the addition counts.
    #[inline]
    pub fn fetch_add(&self, add: u64) -> Result<u64, CounterError> {
        if self.is_here {
            // SYNC POINT: counter. Who sees the sum sees what those did before who have added to it, also through a fabric.
            return Ok(self.handle.segment().word(self.value).fetch_add(add, Ordering::AcqRel));
        }
        self.change(Request::FetchAdd { at: self.value, add })
    }

    /// The value.
    ///
    /// Cost: on the home's own node a load, from another one a round trip.
    ///
    /// # Errors
    ///
    /// [`CounterError::HomeLost`], [`CounterError::Excluded`].
    #[inline]
    pub fn load(&self) -> Result<u64, CounterError> {
        if self.is_here {
            // SYNC POINT: counter. As above.
            return Ok(self.handle.segment().word(self.value).load(Ordering::Acquire));
        }
        self.read(self.value)
    }

    /// Sets it to `new` if it is `current`. `Ok` with the value before if it did, `Err` with what it is if not.
    ///
    /// Cost: as [`fetch_add`](Self::fetch_add).
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add); [`CounterError::AnswerLost`] says only that the two were compared.
    #[inline]
    pub fn compare_exchange(&self, current: u64, new: u64) -> Result<Result<u64, u64>, CounterError> {
        if self.is_here {
            let word = self.handle.segment().word(self.value);
            // SYNC POINT: counter. As above.
            return Ok(word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire));
        }
        let found = self.change(Request::CompareSwap { at: self.value, expected: current, new })?;
        Ok(if found == current { Ok(found) } else { Err(found) })
    }

    /// Takes the next `count` numbers for the caller alone.
    ///
    /// Cost: as [`fetch_add`](Self::fetch_add), for all of them together.
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add), and [`CounterError::Exhausted`].
    pub fn reserve(&self, count: u64) -> Result<Range<u64>, CounterError> {
        let first = self.fetch_add(count)?;
        let end = first.checked_add(count).ok_or_else(|| self.exhausted(first))?;
        Ok(first..end)
    }

    /// Draws one number, for work that whoever is free does next. The node's ranks draw from a block that one of them takes
    /// from the home, at least `block` numbers (at most 65,534) at a time: no two ranks of the job draw the same.
    ///
    /// All numbers from 0 on are drawn but for: what is left of a block when the last of its node's ranks draws no more; the
    /// block that a rank was fetching when it died; what [`fetch_add`](Self::fetch_add) and its like take of them, with
    /// which this goes well together. So who draws until a number is greater than the last piece of work leaves nothing
    /// undone but what the dead had drawn or were fetching.
    ///
    /// Cost: on the home's node as [`fetch_add`](Self::fetch_add), without a block. On another one a compare-and-swap, and a
    /// round trip for each block. Ranks that come while a neighbour fetches one wait for it, 2 ms at most.
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add), for the whole block, and [`CounterError::Exhausted`]: numbers are less than
    /// 2⁴⁸.
    #[inline]
    pub fn draw(&self, block: u64) -> Result<u64, CounterError> {
        if self.is_here {
            return self.fetch_add(1);
        }
        let word = self.handle.segment().word(block_of(&self.handle.at));
        // SYNC POINT: block. Acquire pairs with who has changed it.
        let mut seen = BlockWord(word.load(Ordering::Acquire));
        while let Some((number, rest)) = seen.drawn() {
            match word.compare_exchange_weak(seen.0, rest.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(number),
                Err(found) => seen = BlockWord(found),
            }
        }
        self.draw_from_new(block)
    }

    /// Draws when the node's block is used up.
    #[cold]
    fn draw_from_new(&self, block: u64) -> Result<u64, CounterError> {
        let reach = &self.handle.site.reach;
        let (at, begun) = (block_of(&self.handle.at), Instant::now());
        loop {
            let alarm = reach.alarm();
            let seen = BlockWord(reach.load(at));
            let wanted = match seen.block() {
                Block::Left { .. } => seen.drawn().expect("some are left").1,
                Block::Fetched { by } if !self.has_ended(by) => {
                    // It may be stopped, or far away: nobody has to wait for it.
                    if begun.elapsed() >= PATIENCE {
                        return self.fetch_add(1);
                    }
                    reach.sleep(at, seen.0, alarm, PATIENCE);
                    continue;
                }
                Block::Empty | Block::Fetched { .. } => BlockWord::fetched(reach.local()),
            };
            if !self.swap_block(seen, wanted) {
                continue;
            }
            return match seen.drawn() {
                Some((number, _)) => Ok(number),
                None => self.fetch(block, wanted),
            };
        }
    }

    /// Takes a block from the home, and the first number of it. The node's word says that this rank does so.
    fn fetch(&self, block: u64, fetching: BlockWord) -> Result<u64, CounterError> {
        let count = block.clamp(1, MOST_LEFT + 1);
        let fetched = self.reserve(count).and_then(|numbers| {
            let rest = BlockWord::left(numbers.end, count - 1).ok_or_else(|| self.exhausted(numbers.start))?;
            Ok((numbers.start, rest))
        });
        let rest = fetched.as_ref().map_or(BlockWord(0), |(_, rest)| *rest);
        // Fails where this rank has been declared failed and a neighbour fetches another block: these are drawn by nobody.
        self.swap_block(fetching, rest);
        fetched.map(|(number, _)| number)
    }

    fn swap_block(&self, seen: BlockWord, wanted: BlockWord) -> bool {
        let at = block_of(&self.handle.at);
        // Wakes those who wait for it.
        self.handle.site.reach.execute(Request::CompareSwap { at, expected: seen.0, new: wanted.0 }) == seen.0
    }

    fn has_ended(&self, local: usize) -> bool {
        let segment = self.handle.segment();
        view::end_of(segment, &segment.layout(), local).is_some()
    }

    /// Has the home change the value, once.
    #[cold]
    fn change(&self, request: Request) -> Result<u64, CounterError> {
        let site = &self.handle.site;
        let journal = self.handle.at_home.of_rank(site.reach.rank);
        let mut tickets = self.journal.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let begun = site.reach.uses.next_number() << 1;
            let done = begun | 1;
            let batch =
                [Request::Write { at: journal, value: begun }, request, Request::Write { at: journal, value: done }];
            match self.ask(&batch, &mut tickets) {
                Ok(value) => return Ok(value),
                Err(SiteFault::Broken { .. }) => {}
                Err(fault) => return Err(self.error(fault)),
            }
            let found = self.read_with(journal, &mut tickets)?;
            let (rank, name, home) = (site.reach.rank, self.name().to_owned(), site.home);
            if found == done {
                return Err(CounterError::AnswerLost { rank, name, home });
            }
            if found == begun {
                return Err(CounterError::Uncertain { rank, name, home });
            }
        }
    }

    #[cold]
    fn read(&self, at: WordAt) -> Result<u64, CounterError> {
        self.read_with(at, &mut self.journal.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a word at the home, again where the connection breaks.
    fn read_with(&self, at: WordAt, tickets: &mut Vec<Ticket>) -> Result<u64, CounterError> {
        loop {
            match self.ask(&[Request::Read { at }], tickets) {
                Err(SiteFault::Broken { .. }) => {}
                other => return other.map_err(|fault| self.error(fault)),
            }
        }
    }

    /// One batch to the home, another node, of which one request is answered. As [`super::site::Site::ask`], without
    /// memory of its own.
    fn ask(&self, batch: &[Request], tickets: &mut Vec<Ticket>) -> Result<u64, SiteFault> {
        let site = &self.handle.site;
        let network = site.reach.network.as_deref().expect("the home is another node");
        let begun = Instant::now();
        tickets.clear();
        // There is no room now, or no connection: one may be had in a moment, or the home is declared failed.
        while network.post(site.home, batch, tickets).is_err() {
            network.progress();
            self.look_around()?;
            site.pause(begun.elapsed());
        }
        let ticket = tickets.pop().expect("one of them is answered");
        loop {
            network.progress();
            match network.take(ticket) {
                Poll::Ready(Ok(value)) => return Ok(value),
                Poll::Ready(Err(_)) => return self.look_around().and(Err(SiteFault::Broken { home: site.home })),
                Poll::Pending => {}
            }
            self.look_around().inspect_err(|_| network.forget(ticket))?;
            site.pause(begun.elapsed());
        }
    }

    fn look_around(&self) -> Result<(), SiteFault> {
        let (reach, home) = (&self.handle.site.reach, self.handle.site.home);
        if reach.has_lost(home) {
            return Err(SiteFault::Lost { home });
        }
        if reach.own_end().is_some() { Err(SiteFault::Excluded) } else { Ok(()) }
    }

    fn error(&self, fault: SiteFault) -> CounterError {
        let (rank, name) = (self.handle.site.reach.rank, self.name().to_owned());
        match fault {
            SiteFault::Lost { home } => CounterError::HomeLost { rank, name, home },
            SiteFault::Broken { home } => CounterError::Uncertain { rank, name, home },
            SiteFault::Excluded => {
                let (epoch, cause) = self.handle.site.reach.own_end().unwrap_or((0, FailureCause::Silent));
                CounterError::Excluded { rank, name, epoch, cause }
            }
        }
    }

    fn exhausted(&self, first: u64) -> CounterError {
        CounterError::Exhausted { rank: self.handle.site.reach.rank, name: self.name().to_owned(), first }
    }
}
