//! Groups: ordered sets of ranks that synchronise together, and the blocking calls on their barriers.
//!
//! A [`Group`] drives one member's [`Barrier`] machine. It remembers what became of the last arrival, because a
//! time-out leaves it standing: the next blocking call resumes it.
//!
//! Here is what users call. The rest has its rooms:
//!
//! | file | is |
//! | --- | --- |
//! | `waiting.rs` | a blocking call, from its beginning to its end |
//! | `arrival.rs` | an arrival that is not waited for at once: looked at, finished, taken back |
//! | `meeting.rs` | the machine of the group's barrier, on one node or several, and the driver on it |
//! | `limit.rs`, `noted.rs`, `timeline.rs` | a call's bound; long calls noted for those who look from outside; the timeline |
//! | `members.rs` | the words of members on all nodes: who is missing, who named what |
//! | `asking.rs`, `lateness.rs` | asking after those who are missing; what is known of the late |
//! | `failures.rs` | what failures make impossible, and what survivors are told |
//! | `shrinking.rs` | who survives, and a new group of them |
//! | `forming.rs`, `algorithm_choice.rs` | groups out of a group, and the algorithm that they use |
//! | `parting.rs`, `endings.rs` | before a group is dropped; what is left to do after that |

mod algorithm_choice;
mod arrival;
mod asking;
mod endings;
mod failures;
mod forming;
mod lateness;
mod limit;
mod meeting;
mod members;
mod noted;
mod parting;
mod shrinking;
#[cfg(test)]
mod tests;
mod timeline;
mod waiting;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::algorithm_choice::AlgorithmChoice;
pub use self::arrival::Arrival;
use self::asking::Looks;
use self::failures::Failures;
use self::forming::Forming;
use self::meeting::Meeting;
pub(crate) use self::members::Abroad;
use self::waiting::Standing;
use crate::coord::arena;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::Spanning;
use crate::coord::barrier::{Algorithm, Barrier, Contribution, Operation};
use crate::coord::drive::Arrived;
use crate::coord::endings::Why;
use crate::coord::formation;
use crate::coord::offers::Offered;
use crate::coord::stats::GroupStats;
use crate::error::{BarrierError, GroupError};
use crate::fabric::Memory;
use crate::job::Membership;
use crate::sync::Ordering;

/// An ordered set of ranks that synchronise together, as one of its members holds it.
///
/// A group belongs to one thread at a time: it can be sent to another, not shared. Dropping it gives this member's
/// hold back; the space is free when the last member has dropped.
///
/// Cost of dropping: no wait on one node. Across nodes up to 20 ms until what was said has arrived, and 100 ms until
/// reads have come back; what is left then is done by later calls that make or drop groups, or at the rank's end.
pub struct Group {
    membership: Arc<Membership>,
    /// The block of this node's members.
    layout: GroupLayout,
    /// Where the others are, in a group that spans nodes.
    abroad: Option<Abroad>,
    ranks: Vec<usize>,
    me: usize,
    /// Where this member has offered the group to its node's other members, if it has made it.
    offered: Option<Offered>,
    core: RefCell<Core>,
}

/// What changes as barriers are passed.
#[derive(Debug)]
struct Core {
    barrier: Meeting,
    arrived: Arrived,
    standing: Standing,
    /// How often this member has made a group of each list, by the list's hash.
    lists_made: HashMap<u64, u64>,
    /// A split whose barrier is passed, but whose group is not there yet.
    forming: Option<Forming>,
    failures: Failures,
    looks: Looks,
}

/// What came of abandoning an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It is as if this rank had not arrived: the barrier waits for it, and its next arrival is for the same barrier.
    Withdrawn,
    /// Too late: all had arrived, and the barrier is passed for this rank too.
    Passed,
    /// Nothing was outstanding.
    Nothing,
}

impl Core {
    fn new(barrier: Meeting) -> Self {
        Self {
            barrier,
            arrived: Arrived::default(),
            standing: Standing::Nothing,
            lists_made: HashMap::new(),
            forming: None,
            failures: Failures::default(),
            looks: Looks::default(),
        }
    }
}

fn position(ranks: &[usize], rank: usize) -> usize {
    ranks.iter().position(|member| *member == rank).expect("a group is attached by its members")
}

impl Group {
    /// This member's hold on an initialised block. `ranks` are the members in order, this rank among them, all of them
    /// of this node.
    pub(crate) fn attach(membership: Arc<Membership>, layout: GroupLayout, ranks: Vec<usize>) -> Self {
        let me = position(&ranks, membership.rank);
        formation::note_taken(&*membership.segment, layout, me);
        let barrier = Meeting::Local(Barrier::new(&*membership.segment, layout, me));
        let core = RefCell::new(Core::new(barrier));
        Self { membership, layout, abroad: None, ranks, me, offered: None, core }.traced()
    }

    /// As [`attach`](Self::attach), for members of several nodes.
    pub(crate) fn attach_spanning(membership: Arc<Membership>, abroad: Abroad, ranks: Vec<usize>) -> Self {
        let me = position(&ranks, membership.rank);
        let (here, local) = abroad.home_of(me);
        formation::note_taken(&*membership.segment, abroad.layout().local(), local);
        let barrier = Spanning::new(&*membership.segment, abroad.layout(), abroad.span().clone(), here, local);
        let (layout, barrier) = (abroad.layout().local(), Meeting::Spanning(Box::new(barrier)));
        let core = RefCell::new(Core::new(barrier));
        Self { membership, layout, abroad: Some(abroad), ranks, me, offered: None, core }.traced()
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn shared(&self) -> &Arc<Membership> {
        &self.membership
    }

    fn segment(&self) -> &crate::fabric::shm::Segment {
        &self.membership.segment
    }

    /// This rank's number in the group, `0..size`.
    pub fn rank(&self) -> usize {
        self.me
    }

    /// The group's members.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// The members' ranks in the job, in the group's order.
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// The group's number in the job; the world is 0.
    pub fn id(&self) -> u64 {
        self.segment().word(self.layout.id()).load(Ordering::Relaxed)
    }

    /// How many barriers this rank has passed in this group.
    pub fn passed(&self) -> u64 {
        self.core.borrow().barrier.passed()
    }

    /// The barrier algorithm, and why it was chosen.
    pub fn algorithm(&self) -> AlgorithmChoice {
        let number = self.segment().word(self.layout.algorithm()).load(Ordering::Relaxed);
        let used = Algorithm::from_number(number).expect("checked when the group was attached");
        let choice = AlgorithmChoice::new(self.membership.algorithm, &self.membership.cpus, self.layout.size());
        match choice.algorithm == used {
            true => choice,
            false => AlgorithmChoice { algorithm: used, reason: format!("rank {} chose it", self.ranks[0]) },
        }
    }

    /// Waits until all members have arrived. What any member wrote before it arrived, every member sees after it has
    /// passed (in shared memory of their own too): arriving releases, passing acquires.
    ///
    /// Cost with a CPU for each rank: one transfer of a cache line; across nodes also half a round trip for each round
    /// in which they tell each other ([`crate::ExchangePattern`]). Resumes a call that timed out.
    ///
    /// # Errors
    ///
    /// [`BarrierError::RankFailed`] when a member has failed; [`BarrierError::Excluded`] when this rank is declared
    /// failed itself; [`BarrierError::Unreachable`] while too few nodes answer to agree who has failed;
    /// [`BarrierError::OperationMismatch`], [`BarrierError::ArrivalOutstanding`].
    #[inline]
    pub fn barrier(&self) -> Result<(), BarrierError> {
        self.meet(Contribution::NONE, None).map(drop)
    }

    /// As [`barrier`](Self::barrier), for at most `timeout` in all. After a time-out the arrival stands: call again to
    /// resume, or [`abandon`](Self::abandon).
    ///
    /// # Errors
    ///
    /// As [`barrier`](Self::barrier), and [`BarrierError::TimedOut`] with exactly the ranks that have not arrived, or
    /// [`BarrierError::Unsettled`] when a member has failed and other survivors' nodes do not answer in time.
    ///
    /// # Cost
    ///
    /// As [`barrier`](Self::barrier), and a look at the clock.
    pub fn barrier_timeout(&self, timeout: Duration) -> Result<(), BarrierError> {
        self.meet(Contribution::NONE, self.limit(Some(timeout))).map(drop)
    }

    /// A barrier that carries a word: returns all members' `value`s reduced by `operation` (AND, OR, MIN or MAX).
    ///
    /// # Errors
    ///
    /// As [`barrier`](Self::barrier). Members that named another operation, or a plain barrier, make it
    /// [`BarrierError::OperationMismatch`] for all.
    ///
    /// # Cost
    ///
    /// As [`barrier`](Self::barrier): the word lies in the arrival's cache line, and goes to other nodes with it.
    pub fn barrier_reduce(&self, operation: Operation, value: u64) -> Result<u64, BarrierError> {
        self.meet(self.reduction(operation, value)?, None)
    }

    /// As [`barrier_reduce`](Self::barrier_reduce), for at most `timeout` in all. Resume it with the same value.
    ///
    /// # Errors
    ///
    /// As [`barrier_reduce`](Self::barrier_reduce) and [`barrier_timeout`](Self::barrier_timeout).
    ///
    /// # Cost
    ///
    /// As [`barrier_timeout`](Self::barrier_timeout).
    pub fn barrier_reduce_timeout(
        &self,
        operation: Operation,
        value: u64,
        timeout: Duration,
    ) -> Result<u64, BarrierError> {
        self.meet(self.reduction(operation, value)?, self.limit(Some(timeout)))
    }

    /// Arrives without waiting. The returned [`Arrival`] finishes the barrier; dropping it leaves this rank arrived.
    ///
    /// # Errors
    ///
    /// [`BarrierError::ArrivalOutstanding`] while the last arrival is not finished; [`BarrierError::RankFailed`],
    /// [`BarrierError::Excluded`] and [`BarrierError::Unreachable`] as for [`barrier`](Self::barrier).
    ///
    /// # Cost
    ///
    /// A write to this rank's own cache line, which the others fetch, or where ranks share CPUs to one that all write
    /// to. Across nodes the last one of a node sends the messages of the first round.
    pub fn arrive(&self) -> Result<Arrival<'_>, BarrierError> {
        self.begin_arrival(Contribution::NONE)
    }

    /// As [`arrive`](Self::arrive), with a word to reduce; waiting returns the result.
    ///
    /// # Errors
    ///
    /// As [`arrive`](Self::arrive).
    ///
    /// # Cost
    ///
    /// As [`arrive`](Self::arrive).
    pub fn arrive_reduce(&self, operation: Operation, value: u64) -> Result<Arrival<'_, u64>, BarrierError> {
        self.begin_arrival(self.reduction(operation, value)?)
    }

    /// Gives up the arrival of a blocking call that timed out.
    ///
    /// Either this rank is as if it had never arrived, or the barrier had been passed: never something between, and
    /// never a later barrier released early.
    ///
    /// # Errors
    ///
    /// [`BarrierError::CannotAbandon`]: the arrival stands. [`BarrierError::OperationMismatch`] when it was passed so.
    ///
    /// # Cost
    ///
    /// A few transfers of cache lines; once all of this node have arrived at a barrier across nodes, also some round
    /// trips.
    pub fn abandon(&self) -> Result<Abandoned, BarrierError> {
        let mut core = self.core.borrow_mut();
        match core.standing {
            Standing::Nothing => Ok(Abandoned::Nothing),
            // The barrier of a split that did not find its group was passed.
            Standing::Forming => {
                core.standing = Standing::Nothing;
                self.decline_forming(&mut core);
                drop(core);
                self.membership.settle();
                Ok(Abandoned::Passed)
            }
            Standing::Held => Err(self.outstanding(&core)),
            Standing::Suspended | Standing::Detached | Standing::Splitting(..) => self.give_up(&mut core),
        }
    }

    /// Who came last, who waited how long, who is missing: as all members have noted it. Works while others are stuck.
    ///
    /// # Cost
    ///
    /// Two transfers of a cache line for each member on this node, and as many when these members write there next. For
    /// those on other nodes a round trip for all together, and the first time one more to each node, for its clock; 200
    /// ms at most for nodes that do not answer.
    pub fn stats(&self) -> GroupStats {
        self.read_stats()
    }

    /// Splits the group: members that give the same `color` form a new group, in the order of their `key`s (members
    /// with equal keys keep their order). Every member of this group calls it; each new group is made by its own
    /// members.
    ///
    /// # Errors
    ///
    /// [`GroupError`]: as a barrier on this group, or no space for the new one.
    ///
    /// # Cost
    ///
    /// A barrier of this group; for each member then a transfer of a cache line from each other one on its node, and a
    /// round trip for all on other nodes together; and what a [`subgroup`](Self::subgroup) costs.
    pub fn split(&self, color: u64, key: u64) -> Result<Group, GroupError> {
        self.split_by(color, key, None)
    }

    /// As [`split`](Self::split), for at most `timeout`. After a time-out, or when a member's node did not answer, call
    /// again with the same colour and key, or [`abandon`](Self::abandon).
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split), and time-outs.
    ///
    /// # Cost
    ///
    /// As [`split`](Self::split).
    pub fn split_timeout(&self, color: u64, key: u64, timeout: Duration) -> Result<Group, GroupError> {
        self.split_by(color, key, Some(timeout))
    }

    /// Makes a group of the listed members (their numbers in this group, in the new group's order). Only they call it,
    /// all with the same list; nobody else takes part. Waits for the first in the list, who makes it. After a time-out
    /// call again with the same list.
    ///
    /// # Errors
    ///
    /// [`GroupError::BadList`], no space, or the first member missing for `timeout`.
    ///
    /// # Cost
    ///
    /// On each node the first of the members there writes some 200 bytes for each of them; each other one reads its
    /// offers, seven cache lines of 64 bytes at most, swaps a word there, and reads two or three lines of what was
    /// made. Across nodes these first ones ask each other before that, each all others: two round trips at least from
    /// when the last of them has come. Who waits for more than 0.1 ms sleeps between two looks, up to 1 ms.
    pub fn subgroup(&self, members: &[usize], timeout: Duration) -> Result<Group, GroupError> {
        if let Some(why) = self.fault_in(members) {
            return Err(GroupError::BadList { rank: self.ranks[self.me], list: members.to_vec(), why });
        }
        self.form_list(members.iter().map(|member| self.ranks[*member]).collect(), timeout)
    }

    fn reduction(&self, operation: Operation, value: u64) -> Result<Contribution, BarrierError> {
        match operation.has_value() {
            true => Ok(Contribution { operation, value }),
            false => Err(BarrierError::NoReduction { rank: self.ranks[self.me], group: self.id(), operation }),
        }
    }

    fn fault_in(&self, members: &[usize]) -> Option<&'static str> {
        let has_twice = |list: &[usize]| (1..list.len()).any(|index| list[..index].contains(&list[index]));
        if members.iter().any(|member| *member >= self.size()) {
            Some("a number is not below the group's size")
        } else if has_twice(members) {
            Some("a member is listed twice")
        } else if !members.contains(&self.me) {
            Some("the caller is not in it")
        } else {
            None
        }
    }

    /// Units of the segment's arena that are taken, of all: for tests and for those who look for leaks.
    ///
    /// # Cost
    ///
    /// A look at each word of the arena's bitmap on this node, of 64 units each.
    pub fn space(&self) -> (usize, usize) {
        let node = self.segment().layout();
        (arena::taken(self.segment(), &node), node.arena_units())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        self.trace_leaving(&core);
        let parted = self.see_words_off(&mut core);
        core.barrier.let_go(&self.membership);
        self.decline_forming(&mut core);
        drop(core);
        self.membership.give_up_half_made(Why::Unwanted, |_, parent| parent == self.id());
        self.leave(parted);
        self.membership.settle();
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id())
            .field("ranks", &self.ranks)
            .field("rank", &self.me)
            .field("passed", &self.passed())
            .finish_non_exhaustive()
    }
}
