//! Groups: ordered sets of ranks that synchronise together, and the blocking calls on their barriers.
//!
//! A [`Group`] drives one member's [`Barrier`] machine. It remembers what became of the last arrival, because a
//! time-out leaves it standing: the next blocking call resumes it.

mod arrival;
mod endings;
mod failures;
mod forming;
mod meeting;
mod members;
mod parting;
mod shrinking;
mod timeline;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::arrival::Looks;
pub use self::arrival::{Arrival, Carried};

use self::failures::{Failures, Stay};
use self::forming::Forming;
use self::meeting::Meeting;
pub(crate) use self::members::Abroad;
pub(crate) use self::parting::Parted;
use crate::coord::activity::{self, Call, CallWord, NotedCall};
use crate::coord::arena;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::Spanning;
use crate::coord::barrier::{Algorithm, Barrier, Contribution, Operation, Outcome, Withdrawal};
use crate::coord::drive::{self, Arrived, Waited};
use crate::coord::endings::Why;
use crate::coord::formation;
use crate::coord::offers::Offered;
use crate::coord::stats::GroupStats;
use crate::error::{BarrierError, GroupError};
use crate::fabric::Memory;
use crate::job::{CpuShare, Membership};
use crate::sync::Ordering;

/// How long a time-out waits for an arrival that is published but not counted yet, rather than name nobody.
const COUNTING_PATIENCE: Duration = Duration::from_millis(10);

/// How long a rank that does not wait gives other nodes to say who is missing.
const LOOKING_PATIENCE: Duration = Duration::from_millis(2);

/// An ordered set of ranks that synchronise together, as one of its members holds it.
///
/// A group belongs to one thread at a time: it can be sent to another, not shared. Dropping it gives this member's
/// hold back; the space is free when the last member has dropped.
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

/// The bound of a blocking call, in ticks.
#[derive(Clone, Copy, Debug)]
struct Limit {
    start: u64,
    deadline: u64,
    /// What the alarm holds, for steps that end when it is raised.
    alarm: Option<u64>,
}

/// Who answers for the outstanding arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// There is none.
    Nothing,
    /// A blocking call that timed out; the next such call resumes it.
    Suspended,
    /// An [`Arrival`] that the caller holds.
    Held,
    /// An [`Arrival`] that was dropped; the next blocking call finishes it first.
    Detached,
    /// A split whose barrier timed out, with its colour and key.
    Splitting(u64, u64),
    /// A split whose barrier is passed, but whose group is not there yet: see [`Core::forming`].
    Forming,
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

/// The algorithm that a group uses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlgorithmChoice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Why, in words.
    pub reason: String,
}

impl AlgorithmChoice {
    pub(crate) fn new(asked: Option<Algorithm>, share: &CpuShare, members: usize) -> Self {
        match asked {
            Some(algorithm) => Self { algorithm, reason: "asked for by an option".to_owned() },
            None => Self::automatic(Algorithm::choose(members, share.has_own_cpus), share, members),
        }
    }

    fn automatic(algorithm: Algorithm, share: &CpuShare, members: usize) -> Self {
        let CpuShare { ranks, cpus, .. } = share;
        let reason = match (algorithm, share.quota) {
            (Algorithm::Flat, _) if members == 1 => "one member: nobody to wait for".to_owned(),
            (Algorithm::Flat, _) => format!("{members} members with a CPU each: one line transfer"),
            (Algorithm::Tree, _) => format!("{members} members with a CPU each: gather along the caches"),
            (Algorithm::Central, Some(quota)) if quota < *ranks as f64 => {
                format!("{ranks} ranks share a quota of {quota:.2} CPUs: yield and park")
            }
            (Algorithm::Central, _) => format!("{ranks} ranks share {cpus} CPUs: yield and park"),
        };
        Self { algorithm, reason }
    }
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
    /// Cost with a CPU for each rank: one transfer of a cache line. Resumes a call that timed out.
    ///
    /// # Errors
    ///
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
    /// As [`barrier`](Self::barrier), and [`BarrierError::TimedOut`] with exactly the ranks that have not arrived.
    pub fn barrier_timeout(&self, timeout: Duration) -> Result<(), BarrierError> {
        self.meet(Contribution::NONE, self.limit(Some(timeout))).map(drop)
    }

    /// A barrier that carries a word: returns all members' `value`s reduced by `operation` (AND, OR, MIN or MAX).
    ///
    /// # Errors
    ///
    /// As [`barrier`](Self::barrier). Members that named another operation, or a plain barrier, make it
    /// [`BarrierError::OperationMismatch`] for all.
    pub fn barrier_reduce(&self, operation: Operation, value: u64) -> Result<u64, BarrierError> {
        self.meet(self.reduction(operation, value)?, None)
    }

    /// As [`barrier_reduce`](Self::barrier_reduce), for at most `timeout` in all. Resume it with the same value.
    ///
    /// # Errors
    ///
    /// As [`barrier_reduce`](Self::barrier_reduce) and [`barrier_timeout`](Self::barrier_timeout).
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
    /// [`BarrierError::ArrivalOutstanding`] while the last arrival is not finished.
    pub fn arrive(&self) -> Result<Arrival<'_>, BarrierError> {
        self.begin_arrival(Contribution::NONE)
    }

    /// As [`arrive`](Self::arrive), with a word to reduce; waiting returns the result.
    ///
    /// # Errors
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

    /// Who came last, who waited how long, who is missing: as all members have noted it. Works while others are stuck,
    /// and costs a look at each member's lines.
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
    pub fn split(&self, color: u64, key: u64) -> Result<Group, GroupError> {
        self.split_by(color, key, None)
    }

    /// As [`split`](Self::split), for at most `timeout`. After a time-out, or when a member's node did not answer, call
    /// again with the same colour and key, or [`abandon`](Self::abandon).
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split), and time-outs.
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

    /// The bound of a call that begins now.
    fn limit(&self, timeout: Option<Duration>) -> Option<Limit> {
        let clock = &self.membership.driver.clock;
        let start = clock.now();
        let deadline = |timeout| start.saturating_add(clock.ticks(timeout));
        timeout.map(|timeout| Limit { start, deadline: deadline(timeout), alarm: None })
    }

    /// Notes for those who look from outside that this rank is in a long call, until what it returns is dropped.
    fn note_call(&self, call: Call) -> Noted<'_> {
        let since = self.membership.driver.clock.now();
        Noted::new(&self.membership, call, self.passed(), self.id(), since)
    }

    /// What is left of a bound.
    fn left(&self, limit: Option<Limit>) -> Option<Duration> {
        let clock = &self.membership.driver.clock;
        limit.map(|limit| Duration::from_nanos(clock.ns(limit.deadline.saturating_sub(clock.now()))))
    }

    /// How long ago something was, by the clock.
    fn since(&self, ticks: u64) -> Duration {
        let clock = &self.membership.driver.clock;
        Duration::from_nanos(clock.ns(clock.now().saturating_sub(ticks)))
    }

    fn waited(&self, limit: Option<Limit>) -> Duration {
        let clock = &self.membership.driver.clock;
        Duration::from_nanos(limit.map_or(0, |limit| clock.ns(clock.now().saturating_sub(limit.start))))
    }

    #[inline]
    fn meet(&self, contribution: Contribution, limit: Option<Limit>) -> Result<u64, BarrierError> {
        let mut core = self.core.borrow_mut();
        self.begin_call(&mut core, Stay::Until(limit))?;
        if core.standing != Standing::Nothing {
            self.settle_earlier(&mut core, contribution, limit)?;
        }
        self.arrive_unless_arrived(&mut core, contribution);
        self.finish(&mut core, limit, Standing::Suspended)
    }

    /// Before each call: whether something has happened since the last one that makes it impossible.
    #[inline]
    fn begin_call(&self, core: &mut Core, stay: Stay) -> Result<(), BarrierError> {
        match core.failures.are_none(drive::alarm(self.segment())) {
            true => Ok(()),
            false => self.look_before(core, stay),
        }
    }

    /// Something has happened since the last call: whether the next barrier can still be passed. Where that is not known
    /// at once, the arrival that it hangs on stands.
    #[cold]
    fn look_before(&self, core: &mut Core, stay: Stay) -> Result<(), BarrierError> {
        match core.standing {
            Standing::Nothing | Standing::Forming => self.heed(core, core.barrier.passed() + 1, stay),
            // It may be passed, and whoever waits for it is to know: it is that wait that looks.
            Standing::Suspended | Standing::Splitting(..) | Standing::Held => {
                core.failures.look_at_once();
                Ok(())
            }
            Standing::Detached => match self.heed_while_waiting(core, stay) {
                None => Ok(()),
                Some(ended) => {
                    core.standing = standing_after(&ended, core.standing);
                    ended?;
                    self.heed(core, core.barrier.passed() + 1, stay)
                }
            },
        }
    }

    /// Before the wait for an arrival that the caller holds.
    fn look_first(&self, core: &mut Core) {
        if !core.failures.are_none(drive::alarm(self.segment())) {
            core.failures.look_at_once();
        }
    }

    #[inline]
    fn arrive_unless_arrived(&self, core: &mut Core, contribution: Contribution) {
        if !core.barrier.is_outstanding() {
            core.arrived = core.barrier.arrive(&self.membership, contribution);
            self.trace_arrival(core);
        }
    }

    /// Before a blocking call arrives: a suspended arrival of the same kind is the call's own; a dropped one is
    /// finished first; any other is in the way.
    #[cold]
    fn settle_earlier(
        &self,
        core: &mut Core,
        contribution: Contribution,
        limit: Option<Limit>,
    ) -> Result<(), BarrierError> {
        match core.standing {
            Standing::Suspended if core.barrier.contribution() == contribution => Ok(()),
            // Whoever dropped it does not want to know how it ended.
            Standing::Detached => match self.finish(core, limit, Standing::Detached) {
                Ok(_) | Err(BarrierError::OperationMismatch { .. }) => Ok(()),
                Err(error) => Err(error),
            },
            _ => Err(self.outstanding(core)),
        }
    }

    /// Waits for the outstanding arrival; after a time-out it stands as `otherwise` says.
    #[inline]
    fn finish(&self, core: &mut Core, limit: Option<Limit>, otherwise: Standing) -> Result<u64, BarrierError> {
        let Core { barrier, arrived, failures, .. } = &mut *core;
        let bounds = failures.bounds(limit.map(|limit| limit.deadline), failures::ASK_AFTER);
        match barrier.wait(&self.membership, arrived, bounds) {
            Waited::Passed(outcome) => {
                core.standing = Standing::Nothing;
                self.trace_release(core);
                self.result(core, outcome)
            }
            interrupted => {
                let ended = self.finish_long(core, limit, otherwise, interrupted);
                if ended.is_err() {
                    // The caller may not come back soon, and others still ask what has happened here.
                    self.membership.hand_over();
                }
                ended
            }
        }
    }

    /// Goes on waiting after something has interrupted it: an alarm, the time to ask after those who are missing, or the
    /// end of the time.
    #[cold]
    fn finish_long(
        &self,
        core: &mut Core,
        limit: Option<Limit>,
        otherwise: Standing,
        mut interrupted: Waited,
    ) -> Result<u64, BarrierError> {
        let mut note = None;
        loop {
            let since = match interrupted {
                Waited::Passed(outcome) => {
                    core.standing = Standing::Nothing;
                    self.trace_release(core);
                    return self.result(core, outcome);
                }
                Waited::Alarmed { since } => {
                    if let Some(ended) = self.heed_while_waiting(core, Stay::Until(limit)) {
                        core.standing = standing_after(&ended, otherwise);
                        return self.having_waited(ended, since);
                    }
                    since
                }
                Waited::TimedOut => {
                    drop(note);
                    // Whoever comes again and again, each time with next to no time, learns of what happens, too.
                    let sequence = core.barrier.passed() + 1;
                    let since = core.looks.since(sequence, || self.membership.driver.clock.now());
                    if let Some(ended) = self.ask_if_long(core, since) {
                        core.standing = standing_after(&ended, otherwise);
                        return self.having_waited(ended, since);
                    }
                    let ended = self.look_again(core, limit, otherwise);
                    return ended.inspect_err(|error| self.trace_time_out(error));
                }
                Waited::Long { since } => {
                    let sequence = core.barrier.passed() + 1;
                    note.get_or_insert_with(|| Noted::new(&self.membership, Call::Barrier, sequence, self.id(), since));
                    self.ask_after_missing(core, self.since(since), failures::ASK_EVERY);
                    if self.has_more_to_heed(&core.failures)
                        && let Some(ended) = self.heed_while_waiting(core, Stay::Until(limit))
                    {
                        core.standing = standing_after(&ended, otherwise);
                        return self.having_waited(ended, since);
                    }
                    since
                }
            };
            let waited = self.since(since);
            let patience = failures::ASK_AFTER.max(waited + self.next_question(waited));
            let Core { barrier, arrived, failures, .. } = &mut *core;
            let bounds = failures.bounds(limit.map(|limit| limit.deadline), patience);
            interrupted = barrier.resume(&self.membership, arrived, bounds, since);
        }
    }

    /// After a time-out: the last ranks may have come since the last look, and an error that names nobody helps nobody.
    /// When nobody is missing the barrier is as good as passed: only a rank that has published its arrival has to
    /// count it, too.
    #[cold]
    fn look_again(&self, core: &mut Core, limit: Option<Limit>, otherwise: Standing) -> Result<u64, BarrierError> {
        core.standing = otherwise;
        let start = Instant::now();
        loop {
            let error = self.timed_out(core, limit);
            let names_somebody = matches!(&error, BarrierError::TimedOut { missing, .. } if !missing.is_empty());
            if names_somebody {
                return Err(error);
            }
            if let Some(outcome) = self.test_outstanding(core) {
                core.standing = Standing::Nothing;
                return self.result(core, outcome);
            }
            if start.elapsed() > COUNTING_PATIENCE {
                return Err(error);
            }
            crate::machine::yield_cpu();
        }
    }

    #[inline]
    fn result(&self, core: &Core, outcome: Outcome) -> Result<u64, BarrierError> {
        outcome.map_err(|_| self.mismatch(core))
    }

    #[cold]
    fn mismatch(&self, core: &Core) -> BarrierError {
        let sequence = core.barrier.passed();
        BarrierError::OperationMismatch {
            rank: self.ranks[self.me],
            group: self.id(),
            sequence,
            named: self.named_at(sequence),
        }
    }

    #[cold]
    fn timed_out(&self, core: &Core, limit: Option<Limit>) -> BarrierError {
        let sequence = core.barrier.passed() + 1;
        let missing = self.missing_at(sequence);
        BarrierError::TimedOut {
            rank: self.ranks[self.me],
            group: self.id(),
            sequence,
            waited: self.waited(limit),
            late_by: self.lateness_of(sequence, &missing),
            missing,
        }
    }

    #[cold]
    fn outstanding(&self, core: &Core) -> BarrierError {
        let (rank, group) = (self.ranks[self.me], self.id());
        match core.standing {
            Standing::Forming => BarrierError::SplitUnfinished { rank, group },
            _ => BarrierError::ArrivalOutstanding { rank, group, sequence: core.barrier.passed() + 1 },
        }
    }

    fn begin_arrival<T: Carried>(&self, contribution: Contribution) -> Result<Arrival<'_, T>, BarrierError> {
        let mut core = self.core.borrow_mut();
        self.begin_call(&mut core, Stay::Glance)?;
        if core.standing == Standing::Detached && self.test_outstanding(&mut core).is_some() {
            core.standing = Standing::Nothing;
        }
        if core.standing != Standing::Nothing {
            return Err(self.outstanding(&core));
        }
        self.arrive_unless_arrived(&mut core, contribution);
        core.barrier.after_arrival(&self.membership);
        core.standing = Standing::Held;
        Ok(Arrival::new(self))
    }

    fn test_outstanding(&self, core: &mut Core) -> Option<Outcome> {
        core.barrier.test(&self.membership).inspect(|_| self.trace_release(core))
    }

    /// As [`test_outstanding`](Self::test_outstanding), for one who does not wait: whether the arrival has come to an end.
    fn look_whether_ended(&self, core: &mut Core) -> Option<Result<u64, BarrierError>> {
        if let Some(outcome) = self.test_outstanding(core) {
            return Some(self.result(core, outcome));
        }
        let sequence = core.barrier.passed() + 1;
        if core.failures.are_looked_at(drive::alarm(self.segment()))
            && let Some(ended) = self.heed_while_waiting(core, Stay::Glance)
        {
            let since = core.looks.since(sequence, || self.membership.driver.clock.now());
            return Some(self.having_waited(ended, since));
        }
        let since = core.looks.one_more(sequence, || self.membership.driver.clock.now())?;
        self.ask_if_long(core, since).map(|ended| self.having_waited(ended, since))
    }

    /// A rank that has looked for the others since then without waiting asks after them, as one that waits does.
    fn ask_if_long(&self, core: &mut Core, since: u64) -> Option<Result<u64, BarrierError>> {
        let waited = self.since(since);
        if waited < failures::ASK_AFTER {
            return None;
        }
        self.ask_after_missing(core, waited, LOOKING_PATIENCE);
        let clock = &self.membership.driver.clock;
        let period = clock.ticks(self.next_question(waited));
        let is_time = !core.failures.asks_abroad() || core.looks.take_turn(clock.now(), period);
        match is_time && self.has_more_to_heed(&core.failures) {
            true => self.heed_while_waiting(core, Stay::Glance),
            false => None,
        }
    }

    /// How a wait that began at `since` has ended: with how long it was, where the error does not know.
    fn having_waited(&self, mut ended: Result<u64, BarrierError>, since: u64) -> Result<u64, BarrierError> {
        if let Err(BarrierError::Unreachable { waited, .. }) = &mut ended
            && waited.is_zero()
        {
            *waited = self.since(since);
        }
        ended
    }

    fn give_up(&self, core: &mut Core) -> Result<Abandoned, BarrierError> {
        match core.barrier.withdraw(&self.membership) {
            Withdrawal::Withdrawn => {
                core.standing = Standing::Nothing;
                self.trace_withdrawal(core);
                Ok(Abandoned::Withdrawn)
            }
            Withdrawal::Passed(outcome) => {
                core.standing = Standing::Nothing;
                self.trace_release(core);
                self.result(core, outcome).map(|_| Abandoned::Passed)
            }
            Withdrawal::Exhausted => Err(BarrierError::CannotAbandon {
                rank: self.ranks[self.me],
                group: self.id(),
                sequence: core.barrier.passed() + 1,
            }),
        }
    }

    /// Units of the segment's arena that are taken, of all: for tests and for those who look for leaks.
    pub fn space(&self) -> (usize, usize) {
        let node = self.segment().layout();
        (arena::taken(self.segment(), &node), node.arena_units())
    }
}

/// Who answers for an arrival when the wait for it has ended.
fn standing_after(ended: &Result<u64, BarrierError>, otherwise: Standing) -> Standing {
    match ended {
        Err(BarrierError::Unreachable { .. }) => otherwise,
        _ => Standing::Nothing,
    }
}

/// A long call that is noted in the node's table until this is dropped.
struct Noted<'membership> {
    membership: &'membership Membership,
    /// What it was in before: a shrink, say, of which this is a part.
    outer: NotedCall,
}

impl<'membership> Noted<'membership> {
    fn new(membership: &'membership Membership, call: Call, sequence: u64, group: u64, since: u64) -> Self {
        let (node, local) = (membership.segment.layout(), membership.local_of(membership.rank));
        let noted = NotedCall { call: CallWord::inside(call, sequence), group, since };
        Self { membership, outer: activity::enter(&*membership.segment, &node, local, noted) }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let (segment, local) = (&*self.membership.segment, self.membership.local_of(self.membership.rank));
        activity::leave(segment, &segment.layout(), local, self.outer);
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
