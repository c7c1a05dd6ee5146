//! The barrier of a group that spans nodes: a half-barrier on each node, an exchange between them, a half-barrier back.
//!
//! 1. *Gather.* The node's members arrive by the local barrier ([`Barrier`]) of their node's block. Only its *driver*,
//!    the local member of index 0, needs to see that all have.
//! 2. *Exchange.* The driver tells other nodes by writes into their inboxes, in the rounds of a [`Schedule`], and waits
//!    for the words of others in its own node's inbox. Nobody reads and nobody adds: a round is half a round trip.
//! 3. *Release.* Whichever of the node's members sees the end first, as a rule the driver, raises the node's release
//!    word by `fetch_max`; all others of the node wait on that. After a failure survivors may have frozen it: then they
//!    decide.
//!
//! | file | is |
//! | --- | --- |
//! | `layout.rs` | where the words of a block stand, and what is in them |
//! | `span.rs` | which nodes the group spans, and which members are on them |
//! | `schedule.rs` | who sends to whom in which round |
//! | `exchange.rs` | step 2, and how one that is held up is repaired |
//! | `contest.rs` | an arrival that was told to other nodes is taken back |
//! | `freeze.rs` | whether the barrier at which a failure breaks the group is passed |
//! | `parting.rs` | a member leaves: its node's last words have arrived |
//!
//! # When the usual way is held up
//!
//! What a node sends in a round it first stores in its own *outbox*. So nothing depends on a single message or a single
//! process: whoever waits for long ([`Spanning::repair`]) *reads* the outboxes of the nodes that it misses. That mends
//! writes lost with a broken connection. And it helps past a driver that has arrived but computes instead of polling:
//! any other member that waits for long takes the exchange on by itself, by reading only, and fills the outboxes that
//! other nodes read. Only the driver ever writes to other nodes, so that no late write can meet a newer one. Where
//! nobody on a node polls, its outbox of the first round is filled all the same, right after the last arrival
//! ([`Spanning::begin`]): whoever misses its word in a later round reads the first round's outboxes of all the nodes of
//! which that word would have told.
//!
//! An arrival that has been told to other nodes can still be taken back: [`contest`] has the way. Where a failure
//! breaks the group, [`freeze`] has its survivors pass the last barrier together, or fail at it together. Who leaves
//! for good sees to it that its words have arrived ([`Spanning::part`]).
//!
//! Contributions flow with the words: a mask of the operations that were named, and the reduced value. AND, OR, MIN and
//! MAX are idempotent, so that it does no harm when a node's value reaches another twice.

pub mod contest;
mod exchange;
pub mod freeze;
pub mod layout;
mod parting;
pub mod schedule;
mod span;

use std::task::Poll;

use super::word::{ArrivalWord, Phase};
use super::{Awaited, Barrier, Contribution, Disagreement, Operation, Outcome, Withdrawal};
use crate::fabric::{Fabric, Memory, PostError, WordAt};
use crate::sync::{Ordering, full_fence_after_rmw, publish};
use contest::{Field, Retreat, Step};
use exchange::Exchange;
use freeze::Freeze;
pub use freeze::Settled;
use layout::{ExchangeWord, ReleaseWord, SpanLayout};
pub use parting::Parting;
pub use schedule::Schedule;
pub use span::{Span, SpanNode};

/// Thorough looks after which one is a repair, too.
const LOOKS_TO_A_REPAIR: u32 = 1024;

/// One member's side of a spanning group's barrier. Taxonomy as in [`Barrier`].
#[derive(Debug)]
pub struct Spanning {
    local: Barrier,
    layout: SpanLayout,
    span: Span,
    /// This node's index in the group.
    here: usize,
    passed: u64,
    contribution: Contribution,
    stage: Stage,
    exchange: Exchange,
    came_last: bool,
    /// What this member named at the barrier before.
    previous: Operation,
    /// How often an arrival at this barrier was taken back after it had been told to other nodes.
    retreats: u64,
    /// The attempt at which the local barrier was passed.
    local_attempts: u64,
    retreat: Retreat,
    /// Whether this member's own word says that it has withdrawn, and nobody has counted it yet.
    has_marked: bool,
    /// What is left to be seen before this member leaves.
    parting: Option<Parting>,
    /// How the barrier ends at which a failure has broken the group, while that is being found out.
    freeze: Option<Freeze>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not arrived at the next barrier.
    Idle,
    /// Arrived; local members may be missing.
    Gathering,
    /// All local members have arrived, and this member knows it.
    Exchanging,
    /// As [`Stage::Exchanging`], but the usual way is closed: the barrier is contested.
    Contesting,
}

impl Spanning {
    /// Local member `me` of the node of index `here`. The node's block is initialised.
    pub fn new(memory: &impl Memory, layout: SpanLayout, span: Span, here: usize, me: usize) -> Self {
        Self {
            local: Barrier::new(memory, layout.local(), me),
            layout,
            span,
            here,
            passed: 0,
            contribution: Contribution::NONE,
            stage: Stage::Idle,
            exchange: Exchange::default(),
            came_last: false,
            previous: Operation::Barrier,
            retreats: 0,
            local_attempts: 0,
            retreat: Retreat::default(),
            has_marked: false,
            parting: None,
            freeze: None,
        }
    }

    /// How many barriers this member has passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Whether this member has arrived at a barrier that it has not passed.
    pub fn is_outstanding(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// What the outstanding arrival brought.
    pub fn contribution(&self) -> Contribution {
        self.contribution
    }

    /// The node's block.
    pub fn layout(&self) -> SpanLayout {
        self.layout
    }

    /// The group's nodes.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The local barrier, for what concerns this node alone.
    pub fn local(&self) -> &Barrier {
        &self.local
    }

    /// Why the last messages could not be posted, if they could not.
    pub fn trouble(&self) -> Option<&PostError> {
        self.exchange.trouble.as_ref()
    }

    fn is_driver(&self) -> bool {
        self.local.is_leader()
    }

    fn next(&self) -> u64 {
        self.passed + 1
    }

    /// Arrives at the next barrier.
    ///
    /// # Panics
    ///
    /// When the last arrival is still outstanding.
    ///
    /// # Cost
    ///
    /// As the local barrier's.
    pub fn arrive(&mut self, memory: &impl Memory, contribution: Contribution, cpu: Option<usize>) {
        assert!(!self.is_outstanding(), "the last arrival is still outstanding");
        self.contribution = contribution;
        debug_assert!(self.exchange.pulls.is_empty(), "whoever passes lets its reads go");
        self.exchange = Exchange::default();
        if self.retreats > 0 {
            return self.come_back(memory);
        }
        self.stage = Stage::Gathering;
        self.local.arrive(memory, contribution, cpu);
    }

    /// Arrives again at a barrier that this member has left after its node had told the others.
    fn come_back(&mut self, memory: &impl Memory) {
        self.local.side.previous = self.contribution.operation;
        self.stage = Stage::Contesting;
        if self.contribution.operation.has_value() {
            let at = self.layout.local().value(self.local.index(), self.next());
            memory.word(at).store(self.contribution.value, Ordering::Relaxed);
        }
        self.publish_own(memory, Phase::Arrived);
    }

    /// Stores this member's own arrival word, which its local barrier has done with.
    fn publish_own(&self, memory: &impl Memory, phase: Phase) {
        let operation = self.contribution.operation;
        let word = ArrivalWord::new(self.next(), self.attempts(), self.previous, operation, phase);
        // SYNC POINT: arrival. Visible before the decision word and the others' words are read.
        publish(memory.word(self.layout.local().arrival(self.local.index())), word.0);
        self.local.side.wake_sleepers(memory);
    }

    /// The attempt of the arrival word. The local barrier has used some of them up.
    fn attempts(&self) -> u64 {
        self.local_attempts + self.retreats
    }

    /// What this member must know to go through a contest.
    fn field(&self) -> Field<'_> {
        let (schedule, operation) = (*self.layout.schedule(), self.contribution.operation);
        Field { span: &self.span, schedule, sequence: self.next(), operation }
    }

    /// Notes when this member arrived; see [`Barrier::note_arrival_time`].
    pub fn note_arrival_time(&self, memory: &impl Memory, ticks: u64) {
        if self.stage == Stage::Gathering {
            self.local.note_arrival_time(memory, ticks);
        }
    }

    /// Adds a finished wait to this member's account.
    pub fn note_wait(&self, memory: &impl Memory, ticks: u64, came_last: bool) {
        self.local.note_wait(memory, ticks, came_last);
    }

    /// After a ready poll: whether this member was seen to come last of all.
    pub fn came_last(&self) -> bool {
        self.came_last
    }

    /// Right after an arrival that is not waited for: if this was the last of its node, the others can know it from now
    /// on, though nobody here may look for long. The driver tells them; any other member fills the outbox.
    pub fn begin(&mut self, memory: &impl Memory, fabric: &impl Fabric) {
        if self.stage == Stage::Gathering {
            self.gather(memory, Barrier::poll_thoroughly);
        }
        if self.stage == Stage::Exchanging && self.layout.schedule().rounds() > 0 {
            self.announce(memory);
            if self.is_driver() {
                self.post_round(fabric);
            }
        }
    }

    /// Whether all have arrived; moves on as far as it can without waiting, and the fabric with it.
    ///
    /// Cost while pending: a load, and for the driver a look at the fabric.
    ///
    /// # Panics
    ///
    /// When nothing is outstanding.
    pub fn poll(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        assert!(self.is_outstanding(), "nothing to poll for");
        if let Some(outcome) = self.see_release(memory, fabric) {
            self.let_go(fabric);
            return Poll::Ready(outcome);
        }
        if self.stage == Stage::Gathering && (self.is_driver() || self.local.is_relay()) {
            self.gather(memory, Barrier::poll);
        }
        match self.is_driver() {
            true => self.drive(memory, fabric),
            false => Poll::Pending,
        }
    }

    /// As [`poll`](Self::poll), but trusts no other member of this node to be polling; see
    /// [`Barrier::poll_thoroughly`].
    pub fn poll_thoroughly(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        if let ready @ Poll::Ready(_) = self.poll(memory, fabric) {
            return ready;
        }
        if self.stage == Stage::Gathering {
            self.gather(memory, Barrier::poll_thoroughly);
            if self.stage == Stage::Gathering {
                return Poll::Pending;
            }
        }
        // Whoever only tests never repairs by the clock.
        self.exchange.looks = self.exchange.looks.wrapping_add(1);
        if self.exchange.looks.is_multiple_of(LOOKS_TO_A_REPAIR) {
            self.look_abroad(fabric);
        }
        // A member that releases the node over the driver's head knows as well that others were waited for.
        let exchanged = self.exchange(memory, fabric);
        self.exchange.has_waited |= exchanged.is_pending();
        exchanged
    }

    /// For a wait that lasts suspiciously long: as [`poll_thoroughly`](Self::poll_thoroughly), and reads the outboxes
    /// of the nodes whose messages have not come.
    ///
    /// # Cost
    ///
    /// A round trip for each of them, which a later poll picks up.
    pub fn repair(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        if let ready @ Poll::Ready(_) = self.poll_thoroughly(memory, fabric) {
            return ready;
        }
        self.look_abroad(fabric);
        Poll::Pending
    }

    /// Posts what may tell why nothing comes: reads of outboxes, and of the decision of a contest.
    fn look_abroad(&mut self, fabric: &impl Fabric) {
        if self.stage == Stage::Exchanging && self.exchange.pulls.is_empty() {
            self.post_pulls(fabric);
        }
        if matches!(self.stage, Stage::Exchanging | Stage::Contesting) {
            let mut look = std::mem::take(&mut self.exchange.look);
            look.begin(&self.field(), fabric);
            self.exchange.look = look;
        }
    }

    fn drive(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        let is_told = |stage| matches!(stage, Stage::Exchanging | Stage::Contesting);
        if is_told(self.stage)
            && let ready @ Poll::Ready(_) = self.exchange(memory, fabric)
        {
            return ready;
        }
        fabric.progress();
        if !is_told(self.stage) {
            return Poll::Pending;
        }
        let exchanged = self.exchange(memory, fabric);
        self.exchange.has_waited |= exchanged.is_pending();
        exchanged
    }

    /// Looks whether all local members have arrived.
    fn gather<M: Memory>(&mut self, memory: &M, poll: impl FnOnce(&mut Barrier, &M) -> Poll<Outcome>) {
        let attempts = self.local.side.attempt;
        if let Poll::Ready(outcome) = poll(&mut self.local, memory) {
            self.local_attempts = attempts;
            self.take_in_gathered(memory, outcome);
        }
    }

    /// All local members have arrived: what they brought is what this node brings.
    fn take_in_gathered(&mut self, memory: &impl Memory, outcome: Outcome) {
        let named = self.contribution.operation.bit();
        (self.exchange.operations, self.exchange.value) = match outcome {
            Ok(value) => (named, value),
            Err(Disagreement(all)) => (all.iter().fold(named, |mask, operation| mask | operation.bit()), 0),
        };
        let goes_the_usual_way = contest::complete(memory, self.layout, self.next());
        self.stage = if goes_the_usual_way { Stage::Exchanging } else { Stage::Contesting };
    }

    /// Tells the node's other members, and passes; unless survivors of a failure have closed this way before.
    fn release(&mut self, memory: &impl Memory, was_contested: bool) -> Poll<Outcome> {
        let last = self.last_of_all(memory);
        let (operations, value) = (self.exchange.operations, self.exchange.value);
        memory.word(self.layout.release_value()).store(value, Ordering::Relaxed);
        memory.word(self.layout.release_last()).store(last.map_or(0, |last| last as u64 + 1), Ordering::Relaxed);
        // SYNC POINT: release. Release: it carries the two words above and all that this member has seen. Members
        // that get here at the same time store the same. On a node of one member it is stored for survivors alone, of
        // whom one may freeze it at this very moment.
        let word = ReleaseWord::new(self.next(), operations, was_contested);
        let found = ReleaseWord(memory.word(self.layout.release()).fetch_max(word.0, Ordering::AcqRel));
        if found.is_frozen() && !found.has_released(self.next()) {
            return Poll::Pending;
        }
        if self.local.layout().size() > 1 {
            // SYNC POINT: release sleepers. The release is visible before the sleepers are counted; a rank that parks
            // counts itself, fences, and looks at the release again.
            full_fence_after_rmw();
            self.wake_those_released(memory);
        }
        Poll::Ready(self.pass(operations, value, last))
    }

    fn wake_those_released(&self, memory: &impl Memory) {
        if memory.word(self.layout.release_sleepers()).load(Ordering::Relaxed) != 0 {
            memory.wake(self.layout.release());
        }
    }

    /// The local member that came last of all, if it was this node that all the others had waited for.
    fn last_of_all(&self, memory: &impl Memory) -> Option<usize> {
        if self.exchange.has_waited {
            return None;
        }
        let size = self.local.layout().size();
        // Relaxed: statistics.
        let time =
            |index, sequence| memory.word(self.local.layout().arrived_at(index, sequence)).load(Ordering::Relaxed);
        // A member notes its time after it has arrived: one whose time is none of this barrier's has arrived just now.
        let key = |index: &usize| {
            let (now, before) = (time(*index, self.next()), time(*index, self.passed));
            (now <= before, now)
        };
        (0..size).max_by_key(key)
    }

    fn see_release(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Option<Outcome> {
        if self.local.layout().size() == 1 {
            return None;
        }
        // SYNC POINT: release. Acquire pairs with the releasing member's exchange.
        let word = ReleaseWord(memory.word(self.layout.release()).load(Ordering::Acquire));
        // A frozen word is looked at only now: it is above all open ones.
        if word.0 < ReleaseWord::new(self.next(), 0, false).0 || !word.has_released(self.next()) {
            return None;
        }
        Some(self.pass_as_released(memory, fabric, word))
    }

    /// Passes with what the release says.
    fn pass_as_released(&mut self, memory: &impl Memory, fabric: &impl Fabric, word: ReleaseWord) -> Outcome {
        let load = |at| memory.word(at).load(Ordering::Relaxed);
        let last = usize::try_from(load(self.layout.release_last())).unwrap_or(0).checked_sub(1);
        let value = load(self.layout.release_value());
        // Where survivors have settled it, they find out by themselves.
        if !word.was_contested() && !word.is_frozen() {
            self.tell_the_rest(fabric, word.operations(), value);
        }
        self.pass(word.operations(), value, last)
    }

    /// A driver over whose head the node was released: others wait for its messages, and may find nobody to read from
    /// when this node's processes have ended. What all together brought says as much as what a round would have told.
    /// Not so at a contested barrier: what other nodes have told earlier may have been taken back since.
    fn tell_the_rest(&mut self, fabric: &impl Fabric, operations: u64, value: u64) {
        if !self.is_driver() {
            return;
        }
        (self.exchange.operations, self.exchange.value) = (operations, value);
        while self.exchange.round < self.layout.schedule().rounds() {
            self.post_round(fabric);
            (self.exchange.round, self.exchange.posted) = (self.exchange.round + 1, 0);
        }
    }

    fn pass(&mut self, operations: u64, value: u64, last: Option<usize>) -> Outcome {
        self.local.catch_up(self.passed + 1);
        self.passed += 1;
        (self.previous, self.retreats, self.retreat) = (self.contribution.operation, 0, Retreat::default());
        self.stage = Stage::Idle;
        self.came_last = last == Some(self.local.index());
        match operations.count_ones() > 1 {
            // Whoever wants to know who named what asks the members' own words.
            true => Err(Disagreement(Vec::new())),
            false => Ok(if self.contribution.operation.has_value() { value } else { 0 }),
        }
    }

    /// Takes the outstanding arrival back, if the barrier is not decided yet.
    ///
    /// While a member of this node is missing this costs nothing abroad; after that, some round trips.
    ///
    /// # Panics
    ///
    /// When nothing is outstanding.
    pub fn withdraw(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Withdrawal> {
        assert!(self.is_outstanding(), "nothing to withdraw");
        if self.local.is_withdrawing() {
            return self.withdraw_locally(memory);
        }
        if !self.retreat.is_under_way()
            && let Poll::Ready(outcome) = self.poll_thoroughly(memory, fabric)
        {
            return Poll::Ready(Withdrawal::Passed(outcome));
        }
        match self.stage {
            Stage::Gathering => self.withdraw_locally(memory),
            _ => self.withdraw_abroad(memory, fabric),
        }
    }

    fn withdraw_locally(&mut self, memory: &impl Memory) -> Poll<Withdrawal> {
        let attempts = self.local.side.attempt;
        match self.local.withdraw(memory) {
            Poll::Pending => Poll::Pending,
            // A neighbour that has withdrawn abroad looks to the local barrier like one that has not arrived; but then
            // this member's withdrawal must be counted, too.
            Poll::Ready(Withdrawal::Withdrawn) if contest::is_complete(memory, self.layout, self.next()) => {
                self.local.catch_up(self.next());
                self.local_attempts = attempts;
                self.stage = Stage::Contesting;
                self.has_marked = true;
                self.retreat.marked();
                Poll::Pending
            }
            Poll::Ready(Withdrawal::Withdrawn) => {
                self.stage = Stage::Idle;
                Poll::Ready(Withdrawal::Withdrawn)
            }
            Poll::Ready(Withdrawal::Exhausted) => Poll::Ready(Withdrawal::Exhausted),
            // All of this node have arrived: that has been told, or is about to be.
            Poll::Ready(Withdrawal::Passed(outcome)) => {
                // It may have tried several times before it passed.
                self.local_attempts = attempts.max(self.local.side.attempt) + 1;
                self.take_in_gathered(memory, outcome);
                Poll::Pending
            }
        }
    }

    fn withdraw_abroad(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Withdrawal> {
        if self.attempts() >= ArrivalWord::MAX_ATTEMPT {
            return Poll::Ready(Withdrawal::Exhausted);
        }
        fabric.progress();
        let is_closed = self.stage == Stage::Contesting;
        let mut retreat = std::mem::take(&mut self.retreat);
        let mut step = retreat.step(&self.field(), is_closed, fabric);
        if step == Step::Mark {
            self.exchange.look.abandon(fabric);
            self.stage = Stage::Contesting;
            self.publish_own(memory, Phase::Withdrawn);
            self.has_marked = true;
            retreat.marked();
            step = Step::Wait;
        }
        self.retreat = retreat;
        match step {
            Step::Wait | Step::Mark => Poll::Pending,
            Step::Withdrawn => {
                self.let_go(fabric);
                (self.retreats, self.has_marked) = (self.retreats + 1, false);
                self.stage = Stage::Idle;
                Poll::Ready(Withdrawal::Withdrawn)
            }
            Step::Passed => {
                self.stand_again(memory);
                self.look_abroad(fabric);
                Poll::Pending
            }
            Step::Impossible => {
                self.stand_again(memory);
                Poll::Ready(Withdrawal::Exhausted)
            }
        }
    }

    /// The arrival stands after all: the withdrawal came too late, or cannot be made.
    fn stand_again(&mut self, memory: &impl Memory) {
        if self.has_marked {
            self.has_marked = false;
            self.retreats += 1;
            self.publish_own(memory, Phase::Arrived);
        }
        self.exchange.has_looked = false;
    }

    /// Leaves a barrier that cannot be passed any more, because a member of another node will never arrive: while
    /// members of this node are missing by taking the arrival back, and otherwise by looking no more.
    pub fn give_up(&mut self, memory: &impl Memory, fabric: &impl Fabric) {
        self.let_go(fabric);
        if self.retreat.is_under_way() {
            self.retreat.abandon(fabric);
        }
        if self.stage == Stage::Gathering {
            // Who cannot take it back in one step leaves it standing: the barrier is lost in either case.
            let _ = self.withdraw_locally(memory);
        }
    }

    /// Gives a pending withdrawal up: the arrival stands again.
    pub fn insist(&mut self, memory: &impl Memory, fabric: &impl Fabric) {
        self.local.insist(memory);
        if self.retreat.is_under_way() {
            self.retreat.abandon(fabric);
            self.stand_again(memory);
        }
    }

    /// What to park on in this node's memory; `None` when a thorough poll has something to do.
    pub fn awaited(&self, memory: &impl Memory) -> Option<Awaited> {
        if !self.is_driver() {
            // SYNC POINT: release. Acquire pairs with the releasing member's exchange.
            let seen = memory.word(self.layout.release()).load(Ordering::Acquire);
            let awaited = Awaited { word: self.layout.release(), seen, sleepers: self.layout.release_sleepers() };
            return (!ReleaseWord(seen).has_released(self.next())).then_some(awaited);
        }
        match self.stage {
            Stage::Gathering => self.local.awaited(memory),
            _ => None,
        }
    }

    /// The inbox word that the driver misses, with its value: what it waits for when it waits for another node. At a
    /// contested barrier it is the hint that that is decided.
    pub fn awaited_from_afar(&self, memory: &impl Memory) -> Option<(WordAt, u64)> {
        if self.stage == Stage::Contesting {
            let at = self.layout.verdict();
            // Acquire pairs with the fabric's release of a remote write. It is a hint: the decision is read by itself.
            return Some((at, memory.word(at).load(Ordering::Acquire)));
        }
        if self.stage != Stage::Exchanging || self.exchange.round >= self.layout.schedule().rounds() {
            return None;
        }
        let schedule = self.layout.schedule();
        let round = self.exchange.round;
        schedule.hears(self.here, round).find_map(|message| {
            let at = self.layout.inbox(message.slot, self.next());
            // SYNC POINT: inbox. Acquire pairs with the fabric's release of a remote write.
            let seen = memory.word(at).load(Ordering::Acquire);
            (ExchangeWord(seen).sequence() < self.next()).then_some((at, seen))
        })
    }

    /// Whether yielding the CPU may help: a member of this node that shares it is missing, or another process is
    /// awaited.
    pub fn is_missing_on(&mut self, memory: &impl Memory, cpu: usize) -> bool {
        match self.stage {
            Stage::Gathering => !self.is_driver() || self.local.is_missing_on(memory, cpu),
            _ => true,
        }
    }
}
