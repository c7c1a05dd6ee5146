//! The barrier: nobody passes before all have arrived.
//!
//! [`Barrier`] is one member's side of it: a state machine over the words of a group's block that never blocks, never
//! reads a clock and never sleeps. [`arrive`](Barrier::arrive) publishes that this member is there;
//! [`poll`](Barrier::poll) tells whether all are. Blocking calls, deadlines and `test` are drivers over it
//! ([`crate::coord::drive`]). The same machine runs on shared memory, in the simulator and under the model checkers.
//!
//! Three algorithms, one semantics (docs/design.md, "Barriers", has the pictures and the proofs):
//!
//! - `flat`: every member writes its own line and reads the others'. One line transfer: the physical limit for few.
//! - `tree`: arrivals are gathered up a tree along caches and NUMA nodes, the release flows down it.
//! - `central`: one counter. For more members than CPUs, where a context switch costs more than any transfer.
//!
//! Sequences only grow. Every member has an *arrival word* that it alone writes, whatever the algorithm: who is
//! missing can be read by anybody at any time, and a rank that parks does so on the arrival word of a missing one.
//!
//! An arrival can be taken back ([`withdraw`](Barrier::withdraw)) until the barrier is decided, and never after: the
//! outcome is either "withdrawn", and then nobody has passed or will pass by it, or "passed", for all alike.

mod central;
pub mod choice;
mod flat;
pub mod layout;
pub mod spanning;
mod tree;
mod word;

use std::task::Poll;

use crate::fabric::{Memory, WordAt};
use crate::sync::{AtomicU64, Ordering, publish};
pub use choice::Algorithm;
use layout::GroupLayout;
pub use word::Operation;
use word::{ArrivalWord, DecisionWord, Phase};

/// What a member brings to a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// What is done; all members must say the same.
    pub operation: Operation,
    /// The member's value; ignored for operations without one.
    pub value: u64,
}

impl Contribution {
    /// A plain barrier.
    pub const NONE: Self = Self { operation: Operation::Barrier, value: 0 };
}

/// All have arrived, but they named different operations. Holds what each member named, by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement(pub Vec<Operation>);

/// How a passed barrier ended: the reduced value (0 for operations without one), or a disagreement.
pub type Outcome = Result<u64, Disagreement>;

/// What came of taking an arrival back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It is as if this member had never arrived: the barrier waits for it.
    Withdrawn,
    /// Too late: the barrier has been passed, for this member too.
    Passed(Outcome),
    /// The barrier has no room to count another withdrawal; the arrival stands and can be waited for.
    Exhausted,
}

/// What a member waits for when a poll is pending: what to park on, and whose CPU is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The word that will change.
    pub word: WordAt,
    /// Its value when the barrier was still pending.
    pub seen: u64,
    /// The count of ranks that are parked on it.
    pub sleepers: WordAt,
}

/// One member's side of a group's barrier.
///
/// Taxonomy: `arrive` and `withdraw` change what others see, `poll*` look and move on, the rest only look.
#[derive(Debug)]
pub struct Barrier {
    side: Side,
    algorithm: Machine,
    neighbours: central::Neighbours,
}

/// What all three algorithms share: whose side this is and how far it has come.
#[derive(Debug)]
struct Side {
    layout: GroupLayout,
    me: usize,
    /// Barriers that this member has passed.
    passed: u64,
    /// How often the arrival at the next one was taken back.
    attempt: u64,
    previous: Operation,
    contribution: Contribution,
    /// The arrival word that was published last.
    arrived_with: ArrivalWord,
    state: State,
    /// Whether a poll has been pending since the arrival: then this member was not the last.
    has_waited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not arrived at the next barrier.
    Idle,
    /// Arrived and not yet through.
    Arrived,
    /// Flat only: published that it may take the arrival back.
    Withdrawing,
}

#[derive(Debug)]
enum Machine {
    Flat(flat::Scan),
    Tree(tree::Node),
    Central,
}

/// How many barriers a member has arrived at, by its arrival word: one that is taken back does not count.
pub fn arrivals_in(word: u64) -> u64 {
    let word = ArrivalWord(word);
    if word.has_not_arrived(word.sequence()) { word.sequence().saturating_sub(1) } else { word.sequence() }
}

/// What a member named at a barrier, by its arrival word, which must be of that barrier or the next.
pub fn named_in(word: u64, sequence: u64) -> Operation {
    ArrivalWord(word).operation_at(sequence)
}

impl Barrier {
    /// Member `me` of the group at `layout`, whose block is initialised. The algorithm and the tree are read from it.
    pub fn new(memory: &impl Memory, layout: GroupLayout, me: usize) -> Self {
        let number = memory.word(layout.algorithm()).load(Ordering::Relaxed);
        let algorithm = match Algorithm::from_number(number).expect("whoever attaches a group checks its algorithm") {
            Algorithm::Flat => Machine::Flat(flat::Scan::new(layout.size())),
            Algorithm::Tree => Machine::Tree(tree::Node::read(memory, layout, me)),
            Algorithm::Central => Machine::Central,
        };
        let side = Side {
            layout,
            me,
            passed: 0,
            attempt: 0,
            previous: Operation::Barrier,
            contribution: Contribution::NONE,
            arrived_with: ArrivalWord(0),
            state: State::Idle,
            has_waited: false,
        };
        Self { side, algorithm, neighbours: central::Neighbours::default() }
    }

    /// How many barriers this member has passed.
    pub fn passed(&self) -> u64 {
        self.side.passed
    }

    /// Whether this member has arrived at a barrier that it has not passed.
    pub fn is_outstanding(&self) -> bool {
        self.side.state != State::Idle
    }

    /// What the outstanding arrival brought.
    pub fn contribution(&self) -> Contribution {
        self.side.contribution
    }

    /// The group's block.
    pub fn layout(&self) -> GroupLayout {
        self.side.layout
    }

    /// Arrives at the next barrier.
    ///
    /// `cpu` is where this member runs, if the driver knows; members that share it then yield to each other.
    ///
    /// # Panics
    ///
    /// When the last arrival is still outstanding; see [`is_outstanding`](Self::is_outstanding).
    ///
    /// # Cost
    ///
    /// One line of this member's own is taken back from its readers; a central counter is one more.
    #[inline]
    pub fn arrive(&mut self, memory: &impl Memory, contribution: Contribution, cpu: Option<usize>) {
        assert!(!self.is_outstanding(), "the last arrival is still outstanding");
        self.side.contribution = contribution;
        self.side.state = State::Arrived;
        self.side.has_waited = false;
        if contribution.operation.has_value() {
            let at = self.side.layout.value(self.side.me, self.side.next());
            // Relaxed: the arrival word published below carries it (SYNC POINT: arrival).
            memory.word(at).store(contribution.value, Ordering::Relaxed);
        }
        match &mut self.algorithm {
            Machine::Flat(scan) => scan.restart(),
            Machine::Tree(node) => node.restart(self.side.attempt > 0),
            Machine::Central => {}
        }
        if cpu.is_some() {
            self.side.note_cpu(memory, cpu);
        }
        self.side.publish_arrival(memory);
        if matches!(self.algorithm, Machine::Central) {
            central::count_in(&mut self.side, memory);
        }
    }

    /// Notes when this member arrived, for [`stats`](crate::coord::stats). Separate from [`arrive`](Self::arrive) so
    /// that a driver reads its clock after publishing, while the line travels.
    #[inline]
    pub fn note_arrival_time(&self, memory: &impl Memory, ticks: u64) {
        let side = &self.side;
        // Relaxed: statistics; a reader compares sequences around it.
        memory.word(side.layout.arrived_at(side.me, side.next())).store(ticks, Ordering::Relaxed);
    }

    /// Notes that others are missing, so that a member that arrives early and looks late is not taken for the last. For
    /// half-barriers: whoever polls right after arriving sees it anyway. Costs a look at the members' lines.
    pub fn note_missing(&mut self, memory: &impl Memory) {
        match &mut self.algorithm {
            Machine::Flat(_) => self.side.has_waited = self.awaited(memory).is_some(),
            Machine::Tree(node) => node.note_missing(&self.side, memory),
            Machine::Central => {}
        }
    }

    /// Adds a finished wait to this member's account. Only this member writes these words.
    #[inline]
    pub fn note_wait(&self, memory: &impl Memory, ticks: u64, came_last: bool) {
        let side = &self.side;
        let add = |at: WordAt, more: u64| {
            let word = memory.word(at);
            word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        if came_last {
            add(side.layout.times_last(side.me), 1);
        } else {
            add(side.layout.waited(side.me), ticks);
            let longest = memory.word(side.layout.longest_wait(side.me));
            if ticks > longest.load(Ordering::Relaxed) {
                longest.store(ticks, Ordering::Relaxed);
            }
        }
    }

    /// Whether all have arrived; moves on as far as it can without waiting.
    ///
    /// In a tree this alone may stay pending for ever while a member in between has arrived but does not poll: a
    /// driver also calls [`poll_thoroughly`](Self::poll_thoroughly).
    ///
    /// Once it is ready, this member has passed and the next [`arrive`](Self::arrive) is for the next barrier, also
    /// after a disagreement. Cost while pending: one load, a hit until a member arrives.
    ///
    /// # Panics
    ///
    /// When nothing is outstanding.
    #[inline]
    pub fn poll(&mut self, memory: &impl Memory) -> Poll<Outcome> {
        assert!(self.side.state == State::Arrived, "nothing to poll for");
        let polled = match &mut self.algorithm {
            Machine::Flat(scan) => scan.poll(&self.side, memory),
            Machine::Tree(node) => node.poll(&self.side, memory),
            Machine::Central => central::poll(&self.side, memory),
        };
        self.settle(polled)
    }

    /// As [`poll`](Self::poll), but trusts nobody else to be polling: in a tree, a member that computes between
    /// `arrive` and `wait` holds its subtree up, and this finds and decides a complete barrier over its head. Costs a
    /// look at every member's line; drivers call it now and then, and always before they park or give up.
    pub fn poll_thoroughly(&mut self, memory: &impl Memory) -> Poll<Outcome> {
        if let Machine::Tree(node) = &mut self.algorithm
            && let Poll::Ready(outcome) = node.decide_for_all(&self.side, memory)
        {
            return self.settle(Poll::Ready(outcome));
        }
        self.poll(memory)
    }

    #[inline]
    fn settle(&mut self, polled: Poll<Outcome>) -> Poll<Outcome> {
        match polled {
            Poll::Ready(_) => self.side.pass(),
            Poll::Pending => self.side.has_waited = true,
        }
        polled
    }

    /// After a ready poll: whether this member was seen to come last. Arrivals within one line transfer of each other
    /// may both be nobody's.
    #[inline]
    pub fn came_last(&self) -> bool {
        match &self.algorithm {
            Machine::Flat(_) | Machine::Central => !self.side.has_waited,
            Machine::Tree(node) => node.last() == Some(self.side.me),
        }
    }

    /// Takes the outstanding arrival back, if the barrier is not decided yet.
    ///
    /// Pending only while another member is in the middle of the same; call again. The next [`arrive`](Self::arrive)
    /// after [`Withdrawal::Withdrawn`] is for the same barrier.
    ///
    /// # Panics
    ///
    /// When nothing is outstanding.
    pub fn withdraw(&mut self, memory: &impl Memory) -> Poll<Withdrawal> {
        assert!(self.is_outstanding(), "nothing to withdraw");
        if self.side.state == State::Arrived
            && let Poll::Ready(outcome) = self.poll_thoroughly(memory)
        {
            return Poll::Ready(Withdrawal::Passed(outcome));
        }
        if self.side.state == State::Arrived && self.side.attempt == ArrivalWord::MAX_ATTEMPT {
            return Poll::Ready(Withdrawal::Exhausted);
        }
        match &mut self.algorithm {
            Machine::Flat(scan) => flat::withdraw(scan, &mut self.side, memory),
            Machine::Tree(_) => tree::withdraw(&mut self.side, memory),
            Machine::Central => central::withdraw(&mut self.side, memory),
        }
    }

    /// Whether others would wait for what a member has begun: it takes its arrival back.
    pub fn is_left_half_done(&self, memory: &impl Memory, member: usize) -> bool {
        matches!(self.algorithm, Machine::Flat(_)) && flat::withdraws(&self.side, memory, member)
    }

    /// A member's process is gone: what it may have left half done is settled, so that nobody waits for it.
    pub fn bury(&self, memory: &impl Memory, dead: usize) {
        if let Machine::Flat(_) = self.algorithm {
            flat::bury(&self.side, memory, dead);
        }
    }

    /// Gives a pending withdrawal up: the arrival stands again.
    pub fn insist(&mut self, memory: &impl Memory) {
        if self.side.state == State::Withdrawing {
            self.side.reinstate(memory);
        }
    }

    /// The members that have not arrived at the barrier that this member waits for, by index, in order.
    pub fn missing(&self, memory: &impl Memory) -> Vec<usize> {
        let side = &self.side;
        (0..side.layout.size())
            .filter(|index| *index != side.me && !side.arrival(memory, *index).has_arrived(side.next()))
            .collect()
    }

    /// What to park on: `None` when nothing is left to wait for, so that a thorough poll will be ready.
    pub fn awaited(&self, memory: &impl Memory) -> Option<Awaited> {
        let side = &self.side;
        if let Machine::Central = self.algorithm {
            return central::awaited(side, memory);
        }
        let size = side.layout.size();
        (1..size).map(|step| (side.me + step) % size).find_map(|index| side.awaited_member(memory, index))
    }

    /// This member's index.
    pub(super) fn index(&self) -> usize {
        self.side.me
    }

    /// Whether this member is the first: in a spanning group the one that speaks for its node. In a tree it is the
    /// root.
    fn is_leader(&self) -> bool {
        self.side.me == 0
    }

    /// Whether others depend on this member's polling, as on an inner member of a tree.
    fn is_relay(&self) -> bool {
        matches!(&self.algorithm, Machine::Tree(node) if node.has_children())
    }

    /// Whether a withdrawal is under way.
    fn is_withdrawing(&self) -> bool {
        self.side.state == State::Withdrawing
    }

    /// In a spanning group: the release says that all have arrived, whatever this member has seen by itself.
    fn catch_up(&mut self, passed: u64) {
        if self.side.passed < passed {
            self.side.pass();
        }
    }

    /// Whether a member that last arrived on `cpu` is still missing: then yielding the CPU helps it, spinning hinders.
    pub fn is_missing_on(&mut self, memory: &impl Memory, cpu: usize) -> bool {
        self.neighbours.is_missing(cpu, &self.side, memory)
    }
}

impl Side {
    /// The barrier that this member is at: arrived, or about to.
    #[inline]
    fn next(&self) -> u64 {
        self.passed + 1
    }

    fn pass(&mut self) {
        self.passed += 1;
        self.attempt = 0;
        self.previous = self.contribution.operation;
        self.state = State::Idle;
    }

    #[inline]
    fn word_for(&self, phase: Phase) -> ArrivalWord {
        ArrivalWord::new(self.next(), self.attempt, self.previous, self.contribution.operation, phase)
    }

    #[inline]
    fn arrival(&self, memory: &impl Memory, index: usize) -> ArrivalWord {
        // SYNC POINT: arrival. Acquire pairs with the publishing store of the member; it brings what the member wrote
        // before it arrived, its contribution included.
        ArrivalWord(memory.word(self.layout.arrival(index)).load(Ordering::Acquire))
    }

    /// Publishes the arrival and wakes those who sleep until it.
    #[inline]
    fn publish_arrival(&mut self, memory: &impl Memory) {
        self.arrived_with = self.word_for(Phase::Arrived);
        // SYNC POINT: arrival. Visible before the sleepers are counted: a rank that parks counts itself, fences, and
        // looks at this word again, so that one of the two sees the other.
        publish(memory.word(self.layout.arrival(self.me)), self.arrived_with.0);
        self.wake_sleepers(memory);
    }

    #[inline]
    fn wake_sleepers(&self, memory: &impl Memory) {
        if memory.word(self.layout.sleepers(self.me)).load(Ordering::Relaxed) != 0 {
            memory.wake(self.layout.arrival(self.me));
        }
    }

    fn note_cpu(&self, memory: &impl Memory, cpu: Option<usize>) {
        let word = memory.word(self.layout.cpu(self.me));
        let value = cpu.map_or(0, |cpu| cpu as u64 + 1);
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn awaited_member(&self, memory: &impl Memory, index: usize) -> Option<Awaited> {
        let seen = self.arrival(memory, index);
        let awaited = Awaited { word: self.layout.arrival(index), seen: seen.0, sleepers: self.layout.sleepers(index) };
        (!seen.has_arrived(self.next())).then_some(awaited)
    }

    /// The arrival, back in force after a withdrawal that came too late or has to be tried again.
    fn reinstate(&mut self, memory: &impl Memory) {
        self.attempt += 1;
        self.state = State::Arrived;
        self.publish_arrival(memory);
    }

    /// The outcome of a passed barrier, found in all members' own words.
    ///
    /// They stay as they are until this member arrives at the next barrier but one, because nobody passes the next
    /// without this member.
    fn outcome_by_scan(&self, memory: &impl Memory) -> Outcome {
        let (sequence, operation) = (self.next(), self.contribution.operation);
        let mut value = self.contribution.value;
        for index in (0..self.layout.size()).filter(|index| *index != self.me) {
            if self.arrival(memory, index).operation_at(sequence) != operation {
                return Err(self.disagreement(memory));
            }
            if operation.has_value() {
                value = operation.combine(value, self.value(memory, index));
            }
        }
        Ok(if operation.has_value() { value } else { 0 })
    }

    fn value(&self, memory: &impl Memory, index: usize) -> u64 {
        // Relaxed: an acquire load of the member's arrival word came before (SYNC POINT: arrival).
        memory.word(self.layout.value(index, self.next())).load(Ordering::Relaxed)
    }

    #[cold]
    fn disagreement(&self, memory: &impl Memory) -> Disagreement {
        let named = |index| match index == self.me {
            true => self.contribution.operation,
            false => self.arrival(memory, index).operation_at(self.next()),
        };
        Disagreement((0..self.layout.size()).map(named).collect())
    }

    fn decision<'f>(&self, memory: &'f impl Memory) -> &'f AtomicU64 {
        memory.word(self.layout.decision())
    }

    fn load_decision(&self, memory: &impl Memory) -> DecisionWord {
        // SYNC POINT: decision. Acquire pairs with the compare-and-swap that decides or withdraws.
        DecisionWord(self.decision(memory).load(Ordering::Acquire))
    }

    /// Swaps the decision word, unless somebody else was quicker.
    fn swap_decision(&self, memory: &impl Memory, from: DecisionWord, to: DecisionWord) -> bool {
        // SYNC POINT: decision. Release: who sees the new word sees all that this member saw before, the others'
        // arrivals included. Acquire: what the word's earlier writers had seen is seen from here on.
        self.decision(memory).compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
