//! The exchange between nodes: what a driver posts, what it takes in, and what whoever misses a message reads instead.

use std::task::Poll;

use super::contest::{Brought, Look, Seen};
use super::layout::{ExchangeWord, SpanLayout};
use super::{Spanning, Stage};
use crate::coord::barrier::{Operation, Outcome};
use crate::coord::reads::{Place, Reads};
use crate::fabric::{Fabric, Memory, PostError, Request};
use crate::sync::Ordering;

/// How many nodes a node that waits asks, beside the senders of its round, for each time that it asks those.
const MOST_ASKED_PER_TURN: usize = 8;
/// The most times that it asks the senders alone: in a wait that takes about a second.
const MOST_TURNS: usize = 48;

/// How far the rounds have come.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) round: usize,
    /// How many of the round's messages have been posted.
    pub(super) posted: usize,
    /// Whether the round's outbox has been filled.
    is_announced: bool,
    /// A bit for each message of the round that has come, by its place.
    arrived: u64,
    pub(super) operations: u64,
    pub(super) value: u64,
    pub(super) has_waited: bool,
    pub(super) pulls: Vec<Pull>,
    /// Whether the round's last reads have found nothing.
    has_pulled_in_vain: bool,
    /// How often the round's senders have been asked since all those were of whom they would tell.
    senders_asked: usize,
    /// Why a message could not be posted, since the barrier began.
    pub(super) trouble: Option<PostError>,
    /// Thorough looks so far.
    pub(super) looks: u32,
    /// A look at the decision of a contested barrier.
    pub(super) look: Look,
    /// Whether a member of a closed node has begun one.
    pub(super) has_looked: bool,
}

/// A look into other nodes' outboxes that is on its way: together they hold what a missing message would have said.
#[derive(Debug)]
pub(super) struct Pull {
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
    /// Goes through the rounds as far as words have come.
    pub(super) fn exchange(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Outcome> {
        if let Some(brought) = self.see_contest(memory, fabric) {
            (self.exchange.operations, self.exchange.value) = (brought.operations, brought.value);
            self.let_reads_go(fabric);
            self.exchange.has_waited = true;
            return self.release(memory, true);
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
            (self.exchange.has_pulled_in_vain, self.exchange.senders_asked) = (false, 0);
            self.let_reads_go(fabric);
        }
        self.let_reads_go(fabric);
        self.release(memory, false)
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
    pub(super) fn announce(&mut self, memory: &impl Memory) {
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
    pub(super) fn post_round(&mut self, fabric: &impl Fabric) {
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
            // SYNC POINT: inbox. Acquire pairs with the fabric's release of a remote write: it brings the value, and
            // all that the sender's members did before they arrived.
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
    /// brought of whom the senders would tell: a sender may have arrived and not be able to go on. Those are asked the
    /// more seldom the more nodes there are: all nodes wait at once, and each would ask all others.
    pub(super) fn post_pulls(&mut self, fabric: &impl Fabric) {
        let schedule = *self.layout.schedule();
        let senders_asked = self.exchange.senders_asked;
        let is_missed = |place: usize| self.exchange.arrived & 1 << place == 0;
        let missed = schedule.hears(self.here, self.exchange.round).enumerate().filter(|(place, _)| is_missed(*place));
        let behind = missed.map(|(_, message)| schedule.behind(self.here, self.exchange.round, message.peer).count());
        let turns = (behind.sum::<usize>() / MOST_ASKED_PER_TURN).min(MOST_TURNS);
        let asks_all = self.exchange.has_pulled_in_vain && senders_asked >= turns;
        let round = if asks_all { 0 } else { self.exchange.round };
        self.exchange.has_pulled_in_vain = false;
        self.exchange.senders_asked = if asks_all { 0 } else { senders_asked + 1 };
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

    /// Gives up the reads that are on their way: nobody will take them.
    fn let_reads_go(&mut self, fabric: &impl Fabric) {
        self.exchange.look.abandon(fabric);
        for pull in self.exchange.pulls.drain(..) {
            drop(pull.reads.into_values(fabric));
        }
    }

    /// Gives up all that is on its way.
    pub fn let_go(&mut self, fabric: &impl Fabric) {
        self.let_reads_go(fabric);
        if let Some(parting) = self.parting.take() {
            parting.abandon(fabric);
        }
        if let Some(freeze) = self.freeze.take() {
            freeze.abandon(fabric);
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
