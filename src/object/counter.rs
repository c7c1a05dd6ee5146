//! The counter: a word at the object's home that all ranks add to. In a job of several nodes what each has added is
//! kept on two of them ([`super::tally`]). Numbers that are drawn: `drawing.rs`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::custody::{self, Custody};
use super::error::ObjectError;
use super::tally::Tally;
use super::{Handle, ObjectKind};
use crate::cluster::view::FailureCause;
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::tally::Goal;
use crate::error::{declared_failed, no_next_place, unheard};
use crate::fabric::{Memory, WordAt};
use crate::job::Job;
use crate::sync::Ordering;

/// Of more numbers than this it is looked first whether there are as many: no job counts so far one by one.
const LOOKED_AT_FROM: u64 = 1 << 32;

/// A named counter, as one rank holds it: 64 bits, from 0, wrapping round.
///
/// Its value stands on its home node. Whoever sees a sum sees what those did before who have added to it.
///
/// What was added, and acknowledged, is not lost with one node, whichever: see
/// [`JobOptions::durable_copies`](crate::JobOptions::durable_copies).
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
    /// The value, where it is this node's memory for good, and nobody else's.
    alone: Option<WordAt>,
    tally: Arc<Tally>,
    custody: Custody,
    pub(super) handle: Handle,
}

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
    /// The connection broke in the middle of it, or nothing was heard of the home any more, or of the node that has the
    /// copies: it took effect once, or not at all, or does so when the home is heard again, or lost.
    #[error(
        "rank {rank}: the connection to node {home} broke, or nothing was heard of it, or of the node with the copies, any more while the counter {name:?} was being changed: that takes effect once or not at all (remedy: do not repeat it: it may come to count when the home is lost; compare the value with what the ranks have added)"
    )]
    Uncertain {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Where it is at home.
        home: usize,
    },
    /// The numbers that were asked for go beyond 2^64, or those drawn by blocks beyond 2^48. The counter has gone on by
    /// as many all the same where they were at most 2^32, or others have added at the same time.
    #[error(
        "rank {rank}: the counter {name:?} has come to {first}, and has not as many numbers as were asked for (remedy: another counter; numbers that are drawn by blocks must be less than 2^48)"
    )]
    Exhausted {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// The first of the numbers that were asked for.
        first: u64,
    },
    /// What ranks of lost nodes have added to the counter is lost with its home, as there was no copy: either none was
    /// wanted ([`durable_copies`](crate::JobOptions::durable_copies)), or two nodes were lost at the same time, or one
    /// so soon after the other that no third one had the copy yet.
    #[error(
        "rank {rank}: of the counter {name:?}, which has come to node {home}, what ranks of lost nodes had added is lost: no node that lives had a copy of it yet (remedy: drop the handle and open the name again, to go on with what the others have added)"
    )]
    HomeLost {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Where it is at home now.
        home: usize,
    },
    /// Nothing is heard of a node that this call needs, the counter's home or the one that has the copies, and the
    /// nodes that answer are too few to agree that it has failed. What was asked for was not done.
    #[error(
        "rank {rank} does not reach the counter {name:?}: {}", unheard(.node, &Duration::ZERO)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// The node that is not heard.
        node: usize,
    },
    /// The home is lost, and the next one has no room. The counter moves as soon as there is room.
    #[error("{}", no_next_place(*.rank, .name, *.node, *.places))]
    NoRoom {
        /// This rank.
        rank: usize,
        /// The counter.
        name: String,
        /// Its next home.
        node: usize,
        /// How many that has room for.
        places: usize,
    },
    /// This rank has been declared failed. What it asked for last may have taken effect.
    #[error("{}", declared_failed(*.rank, *.epoch, *.cause, "does not reach the counter", .name))]
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
    /// As [`lock`](Self::lock); [`ObjectError::OtherParameter`] where it was opened with another number of
    /// [`durable_copies`](crate::JobOptions::durable_copies).
    ///
    /// # Cost
    ///
    /// The node's table of names is locked and looked through; for the node's first handle also the home's and that of
    /// the node that will have the copies, some round trips each. Where nodes are lost meanwhile, until the copy has
    /// all that it should.
    pub fn counter(&self, name: &str) -> Result<Counter, ObjectError> {
        let membership = self.membership();
        let nature = Nature { kind: ObjectKind::Counter, parameter: membership.durable_copies as u64 };
        let handle = Handle::open(membership, name, nature)?;
        let custody = Custody::of(&handle, nature);
        let alone = (!custody.is_copied && handle.site.is_memory()).then(|| handle.at_home.value());
        let tally = membership.reach.uses.shared_at(handle.at.key());
        Ok(Counter { alone, tally, custody, handle })
    }
}

impl Counter {
    /// The counter's name.
    pub fn name(&self) -> &str {
        self.handle.name.text()
    }

    /// Adds, and gives the value before. What is beyond 2^64 wraps round: to subtract `n`, add
    /// `n.wrapping_neg()`.
    ///
    /// # Errors
    ///
    /// [`CounterError`], in a job of several nodes. Each says whether the addition counts.
    ///
    /// # Cost
    ///
    /// On a job's only node one locked instruction; otherwise a round trip: from another node to the home, on the
    /// home's own to the node that has the copies (without copies none). Where the home's device changes words
    /// ([`FabricChoice::Rdma`](crate::FabricChoice::Rdma)), its own ranks have a round trip through that besides.
    #[inline]
    pub fn fetch_add(&self, add: u64) -> Result<u64, CounterError> {
        if let Some(value) = self.alone {
            // SYNC POINT: counter. Who sees the sum sees what those did before who have added to it, also through a
            // fabric.
            return Ok(self.handle.segment().word(value).fetch_add(add, Ordering::AcqRel));
        }
        self.reach(Goal::Add(add))
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// [`CounterError::HomeLost`], [`CounterError::Unreachable`], [`CounterError::NoRoom`], [`CounterError::Excluded`].
    ///
    /// # Cost
    ///
    /// On the home's own node a load, from another one a round trip.
    #[inline]
    pub fn load(&self) -> Result<u64, CounterError> {
        if let Some(value) = self.alone {
            // SYNC POINT: counter. As above.
            return Ok(self.handle.segment().word(value).load(Ordering::Acquire));
        }
        self.reach(Goal::Load)
    }

    /// Sets it to `new` if it is `current`. The inner result is `Ok` with the value before if it did, `Err` with what
    /// it is if not; the outer one is an error where the counter could not be asked.
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add); [`CounterError::AnswerLost`] says only that the two were compared. What was
    /// set by a call that is not over, or ended with an error, is undone if the home is lost, though others may have
    /// seen it.
    ///
    /// # Cost
    ///
    /// As [`fetch_add`](Self::fetch_add), and from another node one round trip more if it did.
    #[inline]
    pub fn compare_exchange(&self, current: u64, new: u64) -> Result<Result<u64, u64>, CounterError> {
        if let Some(value) = self.alone {
            let word = self.handle.segment().word(value);
            // SYNC POINT: counter. As above.
            return Ok(word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire));
        }
        let found = self.reach(Goal::Swap { current, new })?;
        Ok(if found == current { Ok(found) } else { Err(found) })
    }

    /// Takes the next `count` numbers for the caller alone: no other call of [`fetch_add`](Self::fetch_add), `reserve`
    /// or [`draw`](Self::draw) gives any of them, as long as all add less than 2^64 together. A count of more than
    /// 2^32 for which there is no room adds nothing, unless others add at the same time.
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add), and [`CounterError::Exhausted`].
    ///
    /// # Cost
    ///
    /// As [`fetch_add`](Self::fetch_add), for all of them together; of more than 2^32 numbers a look at the value
    /// before.
    pub fn reserve(&self, count: u64) -> Result<Range<u64>, CounterError> {
        if count > LOOKED_AT_FROM {
            // A count that was computed wrong, most likely: the numbers of others are not to come again.
            let value = self.load()?;
            value.checked_add(count).ok_or_else(|| self.exhausted(value))?;
        }
        let first = self.fetch_add(count)?;
        let end = first.checked_add(count).ok_or_else(|| self.exhausted(first))?;
        Ok(first..end)
    }

    /// Whether its words are this node's memory, and nobody else's.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    #[cold]
    fn reach(&self, goal: Goal) -> Result<u64, CounterError> {
        self.tally.reach(&self.handle, self.custody, goal)
    }

    pub(super) fn exhausted(&self, first: u64) -> CounterError {
        CounterError::Exhausted { rank: self.handle.membership.rank, name: self.name().to_owned(), first }
    }
}

impl CounterError {
    /// Of a counter whose words could not be reached.
    pub(super) fn of(handle: &Handle, fault: SiteFault) -> Self {
        let reach = &handle.membership.reach;
        let (rank, name) = (reach.rank, handle.name.text().to_owned());
        match fault {
            SiteFault::Lost { home } => Self::HomeLost { rank, name, home },
            SiteFault::Broken { home } | SiteFault::Late { home } => Self::Uncertain { rank, name, home },
            SiteFault::NoRoom { home: node } => {
                let places = handle.membership.layout_of(node).objects();
                Self::NoRoom { rank, name, node, places }
            }
            SiteFault::Silent { node } => Self::Unreachable { rank, name, node },
            SiteFault::Excluded => {
                let (epoch, cause) = custody::own_end(reach);
                Self::Excluded { rank, name, epoch, cause }
            }
        }
    }
}
