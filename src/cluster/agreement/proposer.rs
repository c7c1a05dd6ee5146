//! One proposer as a pure machine: what to ask of the acceptors, and what follows from their answers.
//!
//! It posts nothing and reads no clock. [`Proposer::asks`] says which swaps are to be posted, [`Proposer::handle`]
//! takes what came of one, and [`Proposer::advance`] draws the conclusions. `mod.rs` has the protocol and its argument;
//! the model check (`exhaustive.rs`) drives this very code through all orders of events.

use std::num::NonZeroU32;
use std::time::Duration;

use super::electorate::{Electorate, Rule, Seat};
use super::word::AcceptorWord;

/// The last ballot by a majority; the next one is the first by all survivors.
const LAST_BY_MAJORITY: u16 = 0x7fff;
/// The last ballot by all survivors; the number after it closes a word.
const LAST_BY_SURVIVORS: u16 = u16::MAX - 1;
/// Pauses double so many times at most.
const DOUBLINGS_MAX: u32 = 8;
/// A round is given up, when another could do better, after so many of the pauses that would follow it.
const PATIENCE_PAUSES: u32 = 8;

/// What a proposer is made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Who votes.
    pub electorate: Electorate,
    /// This process's node.
    pub here: usize,
    /// What is proposed.
    pub value: NonZeroU32,
    /// The shortest pause before something is tried again: about a round trip. Pauses double, up to 256 times this.
    pub pause: Duration,
    /// What the pauses' lengths are drawn from, with the node's number.
    pub seed: u64,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The value; the same for all.
    pub value: u32,
    /// Whether it is what this proposer proposed. (Others may have proposed the same.)
    pub was_mine: bool,
    /// What a node's acceptor word holds that has voted for it and not been told: what an
    /// [`Announcement`](super::Announcement) expects to find.
    pub vote: AcceptorWord,
}

/// A compare-and-swap to be posted on a node's acceptor word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Swap {
    /// What it expects.
    pub expected: AcceptorWord,
    /// What it puts in its place. The same: it only looks.
    pub new: AcceptorWord,
}

/// A request of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Of whom.
    pub node: usize,
    /// What.
    pub swap: Swap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Standing {
    /// Its promise is wanted.
    ToPrepare,
    /// It has promised, by this proposer's own swap.
    Prepared,
    /// Its vote is wanted.
    ToAccept,
    /// It has voted.
    Accepted,
    /// It has no part in this round.
    Out,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Acceptor {
    standing: Standing,
    /// The swap under way.
    asked: Option<Swap>,
    /// The word that it held last, as far as is known.
    known: AcceptorWord,
    /// What it has shown by an answer that was asked for after this node's own word was known, if it has answered in
    /// this round. What its decided word says counts as a closed word.
    shown: Option<AcceptorWord>,
    /// What is under way was posted after this node's own word was known.
    is_fresh: bool,
    has_answered: bool,
    is_gone: bool,
    /// It is asked in this round.
    is_asked: bool,
    /// It does not vote, and its word is only looked at in this round: it may know what was decided.
    is_looked_at: bool,
    /// It did not know the epoch before when it answered in this round: its promise does not count.
    is_behind: bool,
    /// Attempts since it was last reached.
    failures: u32,
    not_before: Duration,
}

impl Acceptor {
    fn look_again(&mut self) {
        if self.is_out() {
            self.standing = Standing::ToPrepare;
        }
    }

    /// It has refused or cannot be counted; another round may have it.
    fn is_out(&self) -> bool {
        self.standing == Standing::Out && self.is_asked && !self.is_gone
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Choice {
    /// The highest ballot that had been accepted among those who promised.
    adopted: u16,
    value: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Until then, others may finish.
    Resting(Duration),
    /// Promises and votes are asked for.
    Voting,
    /// Others have decided: this node's own word is being closed.
    Closing(u32),
    Done(Decision),
    Exhausted,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    proposal: Proposal,
    acceptors: Vec<Acceptor>,
    stage: Stage,
    rule: Rule,
    round: u32,
    ballot: u16,
    choice: Option<Choice>,
    /// The highest promises seen, by rule.
    highest: [u16; 2],
    /// Rounds that have failed.
    failed: u32,
    patience_ends: Duration,
}

impl Proposer {
    /// A proposer that has asked nobody yet.
    ///
    /// # Panics
    ///
    /// When `here` is no voter: a mistake of the caller.
    pub fn new(proposal: Proposal) -> Self {
        let Proposal { electorate, here, .. } = &proposal;
        assert!(*here < electorate.acceptors() && electorate.seat(*here) == Seat::Voter, "node {here} does not vote");
        let acceptor = Acceptor {
            standing: Standing::Out,
            asked: None,
            known: AcceptorWord::EMPTY,
            shown: None,
            is_fresh: true,
            has_answered: false,
            is_gone: false,
            is_asked: false,
            is_looked_at: false,
            is_behind: false,
            failures: 0,
            not_before: Duration::ZERO,
        };
        Self {
            acceptors: vec![acceptor; proposal.electorate.acceptors()],
            proposal,
            stage: Stage::Resting(Duration::ZERO),
            rule: Rule::Majority,
            round: 0,
            ballot: 0,
            choice: None,
            highest: [0, LAST_BY_MAJORITY],
            failed: 0,
            patience_ends: Duration::ZERO,
        }
    }

    /// Notes that a node has surely no process any more, nor will ever have one.
    ///
    /// This node itself is not gone, whatever is said: its process is running this.
    pub fn note_gone(&mut self, node: usize) {
        if node == self.proposal.here || std::mem::replace(&mut self.acceptors[node].is_gone, true) {
            return;
        }
        let had_rule = self.rule;
        self.rule = self.proposal.electorate.rule(|one| self.acceptors[one].is_gone);
        match self.stage {
            // All survivors promise after all others are gone: whoever votes by this rule starts again.
            Stage::Voting if self.rule == Rule::Survivors => self.rest_until(Duration::ZERO),
            Stage::Voting if self.acceptors[node].standing != Standing::Accepted => {
                self.acceptors[node].standing = Standing::Out;
            }
            Stage::Resting(_) if self.rule != had_rule => self.rest_until(Duration::ZERO),
            _ => {}
        }
    }

    /// Takes what came of a swap of a round: the word that it found, if its answer has come (if not it may have taken
    /// effect, or may yet), and what the node's decided word held, if that is known. Answers to earlier rounds are
    /// passed over. Of a node that does not know the epoch before, say so first: [`note_behind`](Self::note_behind).
    pub fn handle(
        &mut self,
        round: u32,
        node: usize,
        found: Option<AcceptorWord>,
        decided: Option<u32>,
        now: Duration,
    ) {
        if round != self.round {
            return;
        }
        let Some(swap) = self.acceptors[node].asked.take() else { return };
        match found {
            None => self.take_failure(node, now),
            Some(word) if word.is_sound() => {
                self.note_answer(node);
                self.take_word(node, swap, word);
            }
            Some(_) => {
                self.note_answer(node);
                self.acceptors[node].standing = Standing::Out;
            }
        }
        if let Some(value) = decided.filter(|value| *value != 0) {
            self.show(node, AcceptorWord::closed(value));
        }
    }

    /// Notes that a node did not know the epoch before when it was asked: its promise does not count in this round, and
    /// so its vote is not asked for.
    pub fn note_behind(&mut self, round: u32, node: usize) {
        if round == self.round && self.acceptors[node].standing == Standing::ToPrepare {
            self.acceptors[node].is_behind = true;
        }
    }

    /// There was no room to post what this node was to be asked: it is asked later.
    pub fn put_back(&mut self, node: usize) {
        self.acceptors[node].asked = None;
    }

    /// Notes what an acceptor has shown. What was asked for before this node's own word was known is asked for again,
    /// if it matters.
    fn show(&mut self, node: usize, word: AcceptorWord) {
        let is_own = node == self.proposal.here;
        let acceptor = &mut self.acceptors[node];
        if acceptor.is_fresh || is_own {
            acceptor.shown = Some(word);
        } else if word.decided().is_some() {
            acceptor.look_again();
        }
    }

    fn note_answer(&mut self, node: usize) {
        self.acceptors[node].has_answered = true;
        self.acceptors[node].failures = 0;
    }

    fn take_word(&mut self, node: usize, swap: Swap, found: AcceptorWord) {
        let ballot = self.ballot;
        self.see(found.promised());
        let standing = self.acceptors[node].standing;
        // Only who owns the promise can have put in the vote: an earlier attempt, whose answer was lost, has.
        let has_voted = standing == Standing::ToAccept && found == swap.new;
        let is_done = found == swap.expected || has_voted;
        let known = if is_done { swap.new } else { found };
        if node == self.proposal.here && !is_done {
            self.forget_what_was_shown();
        }
        let has_promised = found == swap.expected && swap.new != swap.expected;
        self.acceptors[node].known = known;
        self.acceptors[node].standing = match standing {
            Standing::ToPrepare if self.acceptors[node].is_behind => Standing::Out,
            Standing::ToPrepare if has_promised => match self.choice {
                None => Standing::Prepared,
                // It comes late, and its vote is good if the choice would have been the same with it.
                Some(choice) if self.rule == Rule::Majority && found.accepted() <= choice.adopted => Standing::ToAccept,
                Some(_) => Standing::Out,
            },
            Standing::ToPrepare if found.promised() < ballot => Standing::ToPrepare,
            Standing::ToAccept if is_done => Standing::Accepted,
            _ => Standing::Out,
        };
        self.show(node, known);
    }

    /// A promise that may have been given cannot be told from another proposer's, since ballots are nobody's: if it
    /// was, the next attempt finds it and counts the acceptor out.
    fn take_failure(&mut self, node: usize, now: Duration) {
        let pause = self.pause_after(self.acceptors[node].failures, node);
        let acceptor = &mut self.acceptors[node];
        acceptor.failures = (acceptor.failures + 1).min(DOUBLINGS_MAX);
        acceptor.not_before = now.saturating_add(pause);
    }

    /// This node's own word is known only from now on: what others showed may be older.
    fn forget_what_was_shown(&mut self) {
        for acceptor in &mut self.acceptors {
            acceptor.is_fresh = false;
            if acceptor.shown.take().and_then(AcceptorWord::decided).is_some() {
                acceptor.look_again();
            }
        }
    }

    fn see(&mut self, promised: u16) {
        if promised <= LAST_BY_MAJORITY {
            self.highest[0] = self.highest[0].max(promised);
        } else if promised <= LAST_BY_SURVIVORS {
            self.highest[1] = self.highest[1].max(promised);
        }
    }

    /// Draws the conclusions from what has come in. A change of [`round`](Self::round) means that what is under way is
    /// not waited for any more.
    pub fn advance(&mut self, now: Duration) {
        match self.stage {
            Stage::Resting(until) if now >= until => self.begin_round(now),
            Stage::Voting => self.count(now),
            Stage::Closing(_) => self.look_at_own_word(now),
            Stage::Resting(_) | Stage::Done(_) | Stage::Exhausted => {}
        }
    }

    fn begin_round(&mut self, now: Duration) {
        let (highest, last) = match self.rule {
            Rule::Majority => (self.highest[0], LAST_BY_MAJORITY),
            Rule::Survivors => (self.highest[1], LAST_BY_SURVIVORS),
        };
        if highest == last {
            self.stage = Stage::Exhausted;
            return;
        }
        self.ballot = highest + 1;
        self.see(self.ballot);
        self.choice = None;
        self.start_stage(Stage::Voting);
        self.patience_ends = now.saturating_add(self.longest_pause(self.failed).saturating_mul(PATIENCE_PAUSES));
        for (one, acceptor) in self.acceptors.iter_mut().enumerate() {
            acceptor.is_asked = !acceptor.is_gone && self.proposal.electorate.is_asked(one, self.rule);
            let is_observer = self.proposal.electorate.seat(one) == Seat::Observer;
            acceptor.is_looked_at = is_observer && !acceptor.is_asked && !acceptor.is_gone;
            acceptor.standing = if acceptor.is_asked { Standing::ToPrepare } else { Standing::Out };
            acceptor.is_behind = false;
            acceptor.has_answered = false;
            acceptor.shown = None;
        }
    }

    /// What is under way is of the stage before.
    fn start_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.round += 1;
        self.acceptors.iter_mut().for_each(|acceptor| acceptor.asked = None);
    }

    fn rest_until(&mut self, until: Duration) {
        self.start_stage(Stage::Resting(until));
    }

    fn rest(&mut self, now: Duration) {
        let pause = self.pause_after(self.failed, self.proposal.here);
        self.failed += 1;
        self.rest_until(now.saturating_add(pause));
    }

    /// Where a round stands.
    fn count(&mut self, now: Duration) {
        let own = &self.acceptors[self.proposal.here];
        if let Some(value) = own.known.decided().or_else(|| own.shown.and_then(AcceptorWord::decided)) {
            return self.finish(value);
        }
        let (own_standing, is_own_known) = (own.standing, own.asked.is_none());
        let needed = self.needed();
        let in_standing = |wanted| self.acceptors.iter().filter(|acceptor| acceptor.standing == wanted).count();
        if let Some(choice) = self.choice
            && own_standing == Standing::Accepted
            && in_standing(Standing::Accepted) >= needed
        {
            return self.finish(choice.value);
        }
        if is_own_known && let Some(value) = self.decided_by_others() {
            return self.close(value);
        }
        let is_stuck = own_standing == Standing::Out || self.acceptors() - in_standing(Standing::Out) < needed;
        if is_stuck || (now >= self.patience_ends && self.acceptors.iter().any(Acceptor::is_out)) {
            return self.rest(now);
        }
        if self.choice.is_none() && own_standing == Standing::Prepared && in_standing(Standing::Prepared) >= needed {
            self.choose();
        }
    }

    /// A quorum has promised: the value is what was accepted by the highest ballot among them, or this proposer's own.
    fn choose(&mut self) {
        let prepared = self.acceptors.iter_mut().filter(|acceptor| acceptor.standing == Standing::Prepared);
        let mut highest = AcceptorWord::EMPTY;
        for acceptor in prepared {
            acceptor.standing = Standing::ToAccept;
            if acceptor.known.accepted() > highest.accepted() {
                highest = acceptor.known;
            }
        }
        let value = if highest.accepted() == 0 { self.proposal.value.get() } else { highest.value() };
        self.choice = Some(Choice { adopted: highest.accepted(), value });
    }

    /// What has been decided already, as closed words show, or a majority that has accepted the same.
    fn decided_by_others(&self) -> Option<u32> {
        let seats = (0..self.acceptors()).map(|one| self.proposal.electorate.seat(one));
        let voters = self.acceptors.iter().zip(seats.map(|seat| seat == Seat::Voter));
        let shown = || voters.clone().filter_map(|(acceptor, is_voter)| acceptor.shown.filter(|_| is_voter));
        let closed = |acceptor: &Acceptor| acceptor.shown.and_then(AcceptorWord::decided);
        if let Some(value) = self.acceptors.iter().find_map(closed) {
            return Some(value);
        }
        // The vote of a majority, if there is one, is what is left when unequal votes cancel each other out.
        let vote = |word: AcceptorWord| (word.accepted(), word.value());
        let mut candidate = (0, 0);
        let mut lead = 0_usize;
        for word in shown() {
            match lead {
                0 => (candidate, lead) = (vote(word), 1),
                _ if vote(word) == candidate => lead += 1,
                _ => lead -= 1,
            }
        }
        let is_vote = (1..=LAST_BY_MAJORITY).contains(&candidate.0);
        let votes = shown().filter(|word| vote(*word) == candidate).count();
        (is_vote && votes >= self.majority()).then_some(candidate.1)
    }

    fn close(&mut self, value: u32) {
        self.start_stage(Stage::Closing(value));
        self.acceptors[self.proposal.here].standing = Standing::Prepared;
    }

    fn look_at_own_word(&mut self, now: Duration) {
        let own = &self.acceptors[self.proposal.here];
        let closed = own.known.decided().or_else(|| own.shown.and_then(AcceptorWord::decided));
        match closed {
            Some(value) => self.finish(value),
            // It has changed meanwhile: what others showed may be of a time before that.
            None if own.standing == Standing::Out => self.rest(now),
            None => {}
        }
    }

    fn finish(&mut self, value: u32) {
        let vote = self.acceptors[self.proposal.here].known;
        self.start_stage(Stage::Done(Decision { value, was_mine: value == self.proposal.value.get(), vote }));
    }

    /// The swaps that are to be posted now; they count as under way from here on.
    pub fn asks(&mut self, now: Duration, asks: &mut Vec<Ask>) {
        let nodes = match self.stage {
            Stage::Voting => 0..self.acceptors(),
            Stage::Closing(_) => self.proposal.here..self.proposal.here + 1,
            Stage::Resting(_) | Stage::Done(_) | Stage::Exhausted => return,
        };
        for node in nodes {
            let acceptor = &self.acceptors[node];
            if acceptor.asked.is_some() || acceptor.is_gone || acceptor.not_before > now {
                continue;
            }
            let Some(new) = self.wanted(acceptor) else { continue };
            let swap = Swap { expected: acceptor.known, new };
            let acceptor = &mut self.acceptors[node];
            acceptor.asked = Some(swap);
            acceptor.is_fresh = true;
            asks.push(Ask { node, swap });
        }
    }

    /// What the acceptor's word is to become.
    fn wanted(&self, acceptor: &Acceptor) -> Option<AcceptorWord> {
        let known = acceptor.known;
        match (&self.stage, acceptor.standing) {
            (Stage::Closing(value), _) => Some(AcceptorWord::closed(*value)),
            // A word that is too far to promise is looked at.
            (_, Standing::ToPrepare) if known.promised() >= self.ballot => Some(known),
            (_, Standing::ToPrepare) => Some(known.promising(self.ballot)),
            (_, Standing::ToAccept) => {
                self.choice.map(|choice| AcceptorWord::new(self.ballot, self.ballot, choice.value))
            }
            (_, Standing::Out) => (acceptor.is_looked_at && acceptor.shown.is_none()).then_some(known),
            (_, Standing::Prepared | Standing::Accepted) => None,
        }
    }

    /// When something is to be done even if no answer comes; `None`: only answers help.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.stage {
            Stage::Resting(until) => Some(until),
            Stage::Done(_) | Stage::Exhausted => None,
            Stage::Voting | Stage::Closing(_) => {
                let due = |acceptor: &&Acceptor| acceptor.asked.is_none() && self.wanted(acceptor).is_some();
                let asks = self.acceptors.iter().filter(due).map(|acceptor| acceptor.not_before).min();
                let patience = self.acceptors.iter().any(Acceptor::is_out).then_some(self.patience_ends);
                asks.into_iter().chain(patience).min()
            }
        }
    }

    fn acceptors(&self) -> usize {
        self.acceptors.len()
    }

    fn majority(&self) -> usize {
        self.proposal.electorate.majority()
    }

    /// How many promises, and votes, it takes.
    pub fn needed(&self) -> usize {
        self.proposal.electorate.needed(self.rule, |one| self.acceptors[one].is_gone)
    }

    /// The shortest pause.
    pub fn pause(&self) -> Duration {
        self.proposal.pause
    }

    /// This proposer's node.
    pub fn here(&self) -> usize {
        self.proposal.here
    }

    /// Which attempt this is: answers are for one of them.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// The ballot of the round.
    pub fn ballot(&self) -> u16 {
        self.ballot
    }

    /// How many rounds have failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// The decision, once there is one.
    pub fn decision(&self) -> Option<Decision> {
        match self.stage {
            Stage::Done(decision) => Some(decision),
            _ => None,
        }
    }

    /// Whether no ballot is left.
    pub fn is_exhausted(&self) -> bool {
        self.stage == Stage::Exhausted
    }

    /// How many nodes have answered in this round.
    pub fn answered(&self) -> usize {
        self.acceptors.iter().filter(|acceptor| acceptor.has_answered && acceptor.is_asked).count()
    }

    /// Whether votes are asked for in this round.
    pub fn has_chosen(&self) -> bool {
        self.choice.is_some()
    }

    /// The nodes that have answered in this round and did not know the epoch before.
    pub fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.acceptors()).filter(|node| self.acceptors[*node].is_behind)
    }

    /// Whether a node has answered in this round.
    pub fn has_answered(&self, node: usize) -> bool {
        self.acceptors[node].has_answered
    }

    /// The nodes that could not be reached, and those that were and have not answered.
    pub fn unanswered(&self) -> (Vec<usize>, Vec<usize>) {
        let open = (0..self.acceptors()).filter(|node| {
            let acceptor = &self.acceptors[*node];
            !acceptor.has_answered && acceptor.is_asked && !acceptor.is_gone
        });
        open.partition(|node| self.acceptors[*node].failures > 0)
    }

    fn longest_pause(&self, failures: u32) -> Duration {
        self.proposal.pause.saturating_mul(1 << failures.min(DOUBLINGS_MAX))
    }

    /// A length up to the longest, drawn from the seed, this node's number, and what is paused for.
    fn pause_after(&self, failures: u32, of: usize) -> Duration {
        let longest = self.longest_pause(failures);
        let drawn = scatter(self.proposal.seed, [self.proposal.here as u64, of as u64, u64::from(failures)]);
        longest / 4 + longest.mul_f64(0.75 * f64::from(drawn) / f64::from(u16::MAX))
    }
}

/// A number that looks random, of a seed and what it is for (SplitMix64's finish).
fn scatter(seed: u64, what: [u64; 3]) -> u16 {
    let mix = |mixed: u64, number: u64| {
        let mixed = mixed.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let mixed = what.into_iter().fold(seed, mix);
    u16::try_from(mixed >> 48).expect("16 bits are left")
}
