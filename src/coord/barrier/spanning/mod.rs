//! The barrier of a group that spans nodes: a half-barrier on each node, an exchange between them, a half-barrier back.
//!
//! 1. *Gather.* The node's members arrive by the local barrier ([`Barrier`]) of their node's block. Only its *driver*,
//!    the local member of index 0, needs to see that all have.
//! 2. *Exchange.* The driver tells other nodes by writes into their inboxes, in the rounds of a [`Schedule`], and waits
//!    for the words of others in its own node's inbox. Nobody reads and nobody adds: a round is half a round trip.
//! 3. *Release.* The driver stores the release word, on which all other members of the node wait.
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
//! An arrival that has been told to other nodes can still be taken back: [`contest`] has the way.
//!
//! Contributions flow with the words: a mask of the operations that were named, and the reduced value. AND, OR, MIN and
//! MAX are idempotent, so that it does no harm when a node's value reaches another twice.

pub mod contest;
pub mod layout;
pub mod schedule;

use std::sync::Arc;
use std::task::Poll;

use super::word::{ArrivalWord, Phase};
use super::{Awaited, Barrier, Contribution, Disagreement, Operation, Outcome, Withdrawal};
use crate::coord::reads::{Place, Reads};
use crate::fabric::{Fabric, Memory, PostError, Request, WordAt};
use crate::sync::{Ordering, full_fence_after_rmw, publish};
use contest::{Brought, Field, Look, Retreat, Seen, Step};
use layout::{ExchangeWord, SpanLayout};
pub use schedule::Schedule;

/// Thorough looks after which one is a repair, too.
const LOOKS_TO_A_REPAIR: u32 = 1024;

/// The nodes of a group, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of the job's nodes in their own order, with their blocks at the same position: the world.
    All {
        /// How many there are.
        nodes: usize,
        /// The first word of each node's block.
        start: WordAt,
        /// The members of each node.
        members: usize,
    },
    /// Some nodes.
    Some(Arc<[SpanNode]>),
}

/// A node of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanNode {
    /// Its number in the job.
    pub node: usize,
    /// The first word of its block.
    pub start: WordAt,
    /// Its members.
    pub members: usize,
}

impl Span {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::All { nodes, .. } => *nodes,
            Self::Some(list) => list.len(),
        }
    }

    /// Never: a group has at least the node of its member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node's number in the job and the first word of its block.
    pub fn node(&self, index: usize) -> (usize, WordAt) {
        match self {
            Self::All { start, .. } => (index, *start),
            Self::Some(list) => (list[index].node, list[index].start),
        }
    }

    /// How many members the node of an index has.
    pub fn members(&self, index: usize) -> usize {
        match self {
            Self::All { members, .. } => *members,
            Self::Some(list) => list[index].members,
        }
    }
}

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

/// How far the rounds have come.
#[derive(Debug, Default)]
struct Exchange {
    round: usize,
    /// How many of the round's messages have been posted.
    posted: usize,
    /// Whether the round's outbox has been filled.
    is_announced: bool,
    /// A bit for each message of the round that has come, by its place.
    arrived: u64,
    operations: u64,
    value: u64,
    has_waited: bool,
    pulls: Vec<Pull>,
    /// Whether the round's last reads have found nothing.
    has_pulled_in_vain: bool,
    /// Why a message could not be posted, since the barrier began.
    trouble: Option<PostError>,
    /// Thorough looks so far.
    looks: u32,
    /// A look at the decision of a contested barrier.
    look: Look,
    /// Whether a member of a closed node has begun one.
    has_looked: bool,
}

/// A look into other nodes' outboxes that is on its way: together they hold what a missing message would have said.
#[derive(Debug)]
struct Pull {
    place: usize,
    /// Of each outbox the word, and then the value.
    reads: Reads,
}

/// What a [`Pull`] has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulled {
    Pending,
    /// One of the outboxes does not say what it should, or not yet, or could not be read.
    InVain,
    Found {
        operations: u64,
        value: u64,
    },
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

    /// Arrives at the next barrier. Cost: as the local barrier's.
    ///
    /// # Panics
    ///
    /// When the last arrival is still outstanding.
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
    /// of the nodes whose messages have not come. Cost: a round trip for each of them, which a later poll picks up.
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

    /// Goes through the rounds as far as words have come.
    fn exchange(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        if let Some(brought) = self.see_contest(memory, fabric) {
            (self.exchange.operations, self.exchange.value) = (brought.operations, brought.value);
            self.let_go(fabric);
            self.exchange.has_waited = true;
            return Poll::Ready(self.release(memory, true));
        }
        if self.stage == Stage::Contesting {
            return Poll::Pending;
        }
        self.take_pulled(fabric);
        while self.exchange.round < self.layout.schedule().rounds() {
            self.announce(memory);
            if self.is_driver() {
                self.post_round(fabric);
            }
            if !self.see_round(memory) {
                return Poll::Pending;
            }
            if self.is_driver() && !self.has_posted_round() {
                return Poll::Pending;
            }
            self.exchange.round += 1;
            (self.exchange.posted, self.exchange.is_announced, self.exchange.arrived) = (0, false, 0);
            self.exchange.has_pulled_in_vain = false;
            self.let_go(fabric);
        }
        self.let_go(fabric);
        Poll::Ready(self.release(memory, false))
    }

    /// What all brought, if a contest is decided.
    fn see_contest(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Option<Brought> {
        // Whoever knows of a contest looks at it once at least without waiting for a repair, and again when it is told.
        // Relaxed: what is read then is ordered by itself.
        let is_told = memory.word(self.layout.verdict()).load(Ordering::Relaxed) >= self.next();
        let is_new = self.stage == Stage::Contesting && !self.exchange.has_looked;
        if is_told || is_new {
            self.exchange.has_looked = true;
            self.look_abroad(fabric);
        }
        if !self.exchange.look.is_under_way() {
            return None;
        }
        fabric.progress();
        let mut look = std::mem::take(&mut self.exchange.look);
        let seen = look.poll(&self.field(), self.is_driver(), fabric);
        self.exchange.look = look;
        match seen {
            Poll::Ready(Seen::Passed(brought)) => Some(brought),
            Poll::Ready(Seen::NoContest | Seen::Undecided) | Poll::Pending => None,
        }
    }

    /// Fills the round's outbox, once.
    fn announce(&mut self, memory: &impl Memory) {
        if self.exchange.is_announced {
            return;
        }
        self.exchange.is_announced = true;
        let at = self.layout.outbox(self.exchange.round, self.next());
        memory.word(SpanLayout::value_of(at)).store(self.exchange.value, Ordering::Relaxed);
        let word = ExchangeWord::new(self.next(), self.exchange.operations);
        // SYNC POINT: outbox. Release: whoever reads the word, by the fabric in order, may read the value after it. All
        // local members that get here store the same.
        memory.word(at).fetch_max(word.0, Ordering::Release);
    }

    fn has_posted_round(&self) -> bool {
        self.exchange.posted >= self.layout.schedule().sent(self.here, self.exchange.round)
    }

    /// Sends what of the round has not been sent. What cannot be posted is tried again at the next poll.
    fn post_round(&mut self, fabric: &impl Fabric) {
        if !self.has_posted_round() {
            self.post_messages(fabric);
            fabric.flush();
        }
    }

    fn post_messages(&mut self, fabric: &impl Fabric) {
        let schedule = *self.layout.schedule();
        let (round, sequence) = (self.exchange.round, self.next());
        let word = ExchangeWord::new(sequence, self.exchange.operations);
        let value = self.exchange.value;
        for (place, message) in schedule.sends(self.here, round).enumerate().skip(self.exchange.posted) {
            let (node, start) = self.span.node(message.peer);
            let at = SpanLayout::new(start, schedule, 0).inbox(message.slot, sequence);
            let flag = Request::Write { at, value: word.0 };
            let posted = match self.contribution.operation.has_value() {
                true => {
                    let payload = Request::Write { at: SpanLayout::value_of(at), value };
                    fabric.post_more(node, &[payload, flag], &mut Vec::new())
                }
                false => fabric.post_more(node, &[flag], &mut Vec::new()),
            };
            match posted {
                Ok(()) => self.exchange.posted = place + 1,
                Err(error @ PostError::Full { .. }) => {
                    self.exchange.trouble = Some(error);
                    return;
                }
                // The other node reads the outbox when it misses the message.
                Err(error) => {
                    self.exchange.trouble = Some(error);
                    self.exchange.posted = place + 1;
                }
            }
        }
    }

    /// Takes in the round's words that have come; whether all have.
    fn see_round(&mut self, memory: &impl Memory) -> bool {
        let schedule = *self.layout.schedule();
        let round = self.exchange.round;
        let mut is_complete = true;
        for (place, message) in schedule.hears(self.here, round).enumerate() {
            if self.exchange.arrived & 1 << place != 0 {
                continue;
            }
            let at = self.layout.inbox(message.slot, self.next());
            // SYNC POINT: inbox. Acquire pairs with the fabric's release of a remote write: it brings the value, and all
            // that the sender's members did before they arrived.
            let word = ExchangeWord(memory.word(at).load(Ordering::Acquire));
            if word.sequence() < self.next() {
                is_complete = false;
                continue;
            }
            // Relaxed: the acquire load above came before.
            let value = memory.word(SpanLayout::value_of(at)).load(Ordering::Relaxed);
            self.take_in(place, word, value);
        }
        is_complete
    }

    fn take_in(&mut self, place: usize, word: ExchangeWord, value: u64) {
        self.exchange.arrived |= 1 << place;
        self.exchange.operations |= word.operations();
        self.exchange.value = self.contribution.operation.combine(self.exchange.value, value);
    }

    /// Posts reads of what is missing: first the outboxes of the round's senders, then, in turn, what all those nodes
    /// brought of whom the senders would tell: a sender may have arrived and not be able to go on.
    fn post_pulls(&mut self, fabric: &impl Fabric) {
        let schedule = *self.layout.schedule();
        let asks_all = self.exchange.has_pulled_in_vain;
        let round = if asks_all { 0 } else { self.exchange.round };
        self.exchange.has_pulled_in_vain = false;
        for (place, message) in schedule.hears(self.here, self.exchange.round).enumerate() {
            if self.exchange.arrived & 1 << place != 0 {
                continue;
            }
            let asked: Vec<usize> = match asks_all {
                true => schedule.behind(self.here, self.exchange.round, message.peer).collect(),
                false => vec![message.peer],
            };
            let mut reads = self.reads_of(round, &asked);
            let _ = reads.poll(fabric);
            self.exchange.pulls.push(Pull { place, reads });
        }
    }

    /// Reads of some nodes' outboxes of a round.
    fn reads_of(&self, round: usize, asked: &[usize]) -> Reads {
        let schedule = *self.layout.schedule();
        let words = asked.iter().flat_map(|index| {
            let (node, start) = self.span.node(*index);
            let at = SpanLayout::new(start, schedule, 0).outbox(round, self.next());
            // The word first: if it is of this barrier, the value that is read after it is, too.
            [at, SpanLayout::value_of(at)].map(|at| Place { node, at })
        });
        Reads::new(words.collect())
    }

    /// Takes in what earlier reads of outboxes have brought.
    fn take_pulled(&mut self, fabric: &impl Fabric) {
        for mut pull in std::mem::take(&mut self.exchange.pulls) {
            match pull.look(fabric, self.next(), self.contribution.operation) {
                Pulled::Pending => self.exchange.pulls.push(pull),
                Pulled::InVain => {
                    drop(pull.reads.into_values(fabric));
                    self.exchange.has_pulled_in_vain = true;
                }
                Pulled::Found { operations, value } if self.exchange.arrived & 1 << pull.place == 0 => {
                    self.take_in(pull.place, ExchangeWord::new(self.next(), operations), value);
                }
                Pulled::Found { .. } => {}
            }
        }
    }

    /// Gives up what is on its way: nobody will take it.
    pub fn let_go(&mut self, fabric: &impl Fabric) {
        self.exchange.look.abandon(fabric);
        for pull in self.exchange.pulls.drain(..) {
            drop(pull.reads.into_values(fabric));
        }
    }

    /// Tells the node's other members, and passes.
    fn release(&mut self, memory: &impl Memory, was_contested: bool) -> Outcome {
        let last = self.last_of_all(memory);
        let (operations, value) = (self.exchange.operations, self.exchange.value);
        if self.local.layout().size() > 1 {
            memory.word(self.layout.release_value()).store(value, Ordering::Relaxed);
            memory.word(self.layout.release_last()).store(last.map_or(0, |last| last as u64 + 1), Ordering::Relaxed);
            // SYNC POINT: release. Release: it carries the two words above and all that this member has seen. Members
            // that get here at the same time store the same.
            let word = ExchangeWord::new(self.next(), operations).with_contest(was_contested);
            memory.word(self.layout.release()).fetch_max(word.0, Ordering::AcqRel);
            // SYNC POINT: release sleepers. The release is visible before the sleepers are counted; a rank that parks
            // counts itself, fences, and looks at the release again.
            full_fence_after_rmw();
            if memory.word(self.layout.release_sleepers()).load(Ordering::Relaxed) != 0 {
                memory.wake(self.layout.release());
            }
        }
        self.pass(operations, value, last)
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
        let word = ExchangeWord(memory.word(self.layout.release()).load(Ordering::Acquire));
        if word.sequence() < self.next() {
            return None;
        }
        let load = |at| memory.word(at).load(Ordering::Relaxed);
        let last = usize::try_from(load(self.layout.release_last())).unwrap_or(0).checked_sub(1);
        let value = load(self.layout.release_value());
        if !word.was_contested() {
            self.tell_the_rest(fabric, word.operations(), value);
        }
        Some(self.pass(word.operations(), value, last))
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

    /// Leaves a barrier that cannot be passed any more, because a member of another node will never arrive: while members
    /// of this node are missing by taking the arrival back, and otherwise by looking no more.
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
            let seen = memory.word(self.layout.release()).load(Ordering::Acquire);
            let awaited = Awaited { word: self.layout.release(), seen, sleepers: self.layout.release_sleepers() };
            return (ExchangeWord(seen).sequence() < self.next()).then_some(awaited);
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
            return Some((at, memory.word(at).load(Ordering::Acquire)));
        }
        if self.stage != Stage::Exchanging || self.exchange.round >= self.layout.schedule().rounds() {
            return None;
        }
        let schedule = self.layout.schedule();
        let round = self.exchange.round;
        schedule.hears(self.here, round).find_map(|message| {
            let at = self.layout.inbox(message.slot, self.next());
            let seen = memory.word(at).load(Ordering::Acquire);
            (ExchangeWord(seen).sequence() < self.next()).then_some((at, seen))
        })
    }

    /// Whether yielding the CPU may help: a member of this node that shares it is missing, or another process is awaited.
    pub fn is_missing_on(&mut self, memory: &impl Memory, cpu: usize) -> bool {
        match self.stage {
            Stage::Gathering => !self.is_driver() || self.local.is_missing_on(memory, cpu),
            _ => true,
        }
    }
}

impl Pull {
    /// Takes in what has come.
    fn look(&mut self, fabric: &impl Fabric, sequence: u64, operation: Operation) -> Pulled {
        let is_complete = self.reads.poll(fabric).is_ready();
        let (mut operations, mut sum) = (0, None);
        for index in (0..self.reads.len()).step_by(2) {
            let word = self.reads.value(index).map(ExchangeWord);
            match (word, self.reads.value(index + 1)) {
                (Some(word), _) if word.sequence() < sequence => return Pulled::InVain,
                (Some(word), Some(value)) => {
                    operations |= word.operations();
                    sum = Some(sum.map_or(value, |earlier| operation.combine(earlier, value)));
                }
                _ if is_complete => return Pulled::InVain,
                _ => {}
            }
        }
        match is_complete {
            true => Pulled::Found { operations, value: sum.unwrap_or(0) },
            false => Pulled::Pending,
        }
    }
}
