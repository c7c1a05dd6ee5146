//! Agreement: processes of different nodes settle on one value, though some of them die meanwhile.
//!
//! Single-decree Paxos whose acceptors are words, changed by one-sided compare-and-swap: nobody's program runs at an
//! acceptor, so a node takes part as long as any of its processes serves its words. One instance is one word on each
//! node ([`AcceptorWord`]), empty at first; a decided instance is never used again. Instances follow each other as the
//! epochs of a log do, and who votes in one follows from those before.
//!
//! After L. Lamport, *The Part-Time Parliament* (1998), and E. Gafni and L. Lamport, *Disk Paxos* (2003), whose
//! acceptors are passive, too; that one word and one swap a phase are enough is from *Velos: One-sided Paxos for RDMA
//! applications* (R. Guerraoui, A. Murat, A. Xygkis, 2021). What differs is [`Rule::Survivors`].
//!
//! # Protocol
//!
//! A proposer draws a ballot `b` above all that it has seen.
//!
//! 1. *Prepare.* At every node it swaps `{p, a, v}`, with `p < b`, for `{b, a, v}`; a swap that finds another word is
//!    tried again with that one while `p < b`. The first swap expects an empty word, so that nothing is read in
//!    advance.
//! 2. *Choose.* When a quorum has promised, its own node among it, it takes the value with the highest `a` among those
//!    that promised, or its own if there is none.
//! 3. *Accept.* At those nodes it swaps exactly what its promise has left, `{b, a, v}`, for `{b, b, value}`. The value
//!    is decided once a quorum, its own node among it, has taken that.
//!
//! Refused by higher ballots, it pauses and begins again with a higher one. Two round trips where nobody disturbs it.
//!
//! *Ballots are nobody's.* Two proposers may use the same `b`. A word is swapped to `b` once at most, since it must
//! have promised less, so at each acceptor one swap owns `b`; a promise counts only for who knows that its own swap
//! succeeded. Quorums intersect, so one proposer at most has a quorum of promises for `b`, and only it swaps in values
//! with that ballot. A promise whose answer was lost counts for nobody; a vote whose answer was lost is asked for
//! again, and found there if it was given, because nobody but the owner of the promise can have given it.
//!
//! *Coming late.* A promise that comes after the choice is used if what it had accepted is not of a higher ballot than
//! what was chosen: then the choice would have been the same.
//!
//! # Quorums
//!
//! Of `n` voters a quorum is `n/2 + 1`. Who votes says an [`Electorate`]: the nodes, and the *witness*, a word that
//! belongs to no node, where that makes their number odd. Some voters may be *gone*: surely without any process, for
//! good. Their words cannot be asked, and nobody there knows anything. When those left are no majority, a proposer
//! votes by [`Rule::Survivors`]: its quorum is *all* that are not gone, the witness among them if there is one, voter
//! or not, with these conditions:
//!
//! - (i) it prepares after all others are gone (when the set grows, it begins again);
//! - (ii) its ballots are above all those by a majority;
//! - (iii) every quorum, of either rule, contains the proposer's own node.
//!
//! **Claim.** When two proposers decide, at different times, and the node of the one with the lower ballot still lives
//! when the other decides, they decide the same. (If it does not live, nobody on it knows of its decision.)
//!
//! *Proof.* Let the lower be `L` at node `l`, with ballot `b`, value `v` and quorum `Q`. As in Paxos it is enough that
//! each proposal with a higher ballot from which the other decision can stem was prepared at a node of `Q`. Then its
//! swap there came after `L`'s vote (or `L`'s would have failed) and saw `v` or a later value, which is `v` by
//! induction. Such a proposal by a majority: then `b`, being lower, is by a majority, too, by (ii), and majorities
//! intersect. By survivors: `l` has not been gone while it was prepared, so it was prepared at `l`, which is in `Q` by
//! (iii). Two quorums with the same ballot intersect likewise, and one swap only owns the ballot there. ∎
//!
//! The witness is an acceptor like the others in this; it has no proposer, so that (iii) asks nothing of it.
//!
//! Without (i) a survivor's old promises could miss what a majority, since gone, did between; without (ii) what is left
//! of such a majority could outvote the survivors.
//!
//! # One instance after the other
//!
//! Who votes on an epoch follows from the log before it, so all that propose for it must know that log alike. Those
//! that live do, as will be shown; those that are gone may have known another one, which survivors of theirs have not
//! found, and so other voters: their quorums need not intersect those of the survivors. Hence one condition more:
//!
//! - (iv) an acceptor takes a vote, and its word is closed, only if it knows the instance before: a proposer counts a
//!   promise only if the read that goes with it has found the decided word of that instance, and who announces looks
//!   first.
//!
//! **Claim.** At any time all that live, nodes and the witness, agree on each instance that they know, and a word of a
//! living acceptor holds only votes of proposers whose log up to there was the same as that of whoever lives and knows
//! it.
//!
//! *Proof.* By induction over the instances; let it hold for those before `e`. An acceptor with a vote on `e` knows
//! those before, by (iv) again and again. When the promise was counted, its proposer lived and so did the acceptor, and
//! they agreed on all those instances. What an acceptor knows it knows for good; so whoever reads the vote, and lives
//! and knows the same instances, agrees with the acceptor on them, and so with the vote's proposer, though that may be
//! gone by then. This is the second half. For the first half take two decisions of `e` as above, of `L` and of another
//! that decides while `l` lives: their logs are the same, by induction. Each proposal from which the other one stems
//! has left a vote that was read at a living acceptor, so its log was the same, too, and its voters. The proof above
//! then holds, with the voters for nodes. ∎
//!
//! For the survivors' rule this needs the witness in their quorum even where it does not vote: it may hold votes on
//! later instances, and knows those before.
//!
//! In between, an acceptor may have promised for another log. A promise says nothing of values; it only makes others
//! draw a higher ballot.
//!
//! # Learning
//!
//! What is decided is learned without a vote of one's own from a *closed* word, from a decided word that is not 0, or
//! from a majority of voters' words with the same vote (by a majority's ballot). An observer, which has no vote, is
//! looked at for this. The one from whom it is learned may be gone a
//! moment later, and then survivors may decide anew; so who learns swaps its own node's word, *as it was known before
//! it asked*, for the closed word, and only then knows. If that succeeds no survivors can have prepared since: they
//! would have needed this word after the others were gone. If it fails, what was seen may be old, and everything begins
//! again. A closed word on its own node, or a decided word there, is the decision at once.
//!
//! For the same reason whoever spreads the decision closes words before it writes them: see [`Announcement`].
//!
//! # Rooms
//!
//! | room | holds |
//! | --- | --- |
//! | `proposer` | one proposer, as a machine that posts nothing |
//! | `word` | an acceptor's word, and where its words are |
//! | `electorate` | who votes, and how many must |
//! | `announcement` | telling nodes what was decided |
//! | `exhaustive` | tests: one instance, through all orders of events |
//! | `epochs` | tests: instances one after the other, through all orders of events |

mod announcement;
mod electorate;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod explorer;
mod proposer;
mod word;

use std::task::Poll;
use std::time::Duration;

pub use announcement::{Announcement, Listener};
pub use electorate::{Electorate, Rule, Seat};
pub use proposer::{Ask, Decision, Proposal, Proposer, Swap};
pub use word::{AcceptorWord, Slot};

use crate::fabric::{Fabric, PostError, Request, Ticket};

/// Why nothing was agreed on. (It may be yet, by others.)
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgreementError {
    /// Too few nodes answered before the deadline.
    #[error(
        "node {here} got answers from {answered} nodes and needs {needed}; cannot be reached: {unreachable:?}, do not \
         answer: {silent:?} (remedy: look whether their ranks run and the network between is up)"
    )]
    NoQuorum {
        /// This node.
        here: usize,
        /// How many nodes have answered in the last attempt.
        answered: usize,
        /// How many must.
        needed: usize,
        /// The nodes that could not be reached.
        unreachable: Vec<usize>,
        /// The nodes that were reached and have not answered.
        silent: Vec<usize>,
    },
    /// Enough nodes answered, but other proposers, or words that no proposer makes, were in the way until the deadline.
    #[error("node {here} tried {attempts} times and others were always quicker (remedy: try again)")]
    Contended {
        /// This node.
        here: usize,
        /// How often it has tried.
        attempts: u32,
    },
    /// There is no higher ballot: tens of thousands of attempts, or memory gone wrong.
    #[error("node {here} has no ballot left for this decision (remedy: none; the job's memory may be damaged)")]
    Exhausted {
        /// This node.
        here: usize,
    },
    /// The node that is accused of silence has answered, before any vote was asked for.
    #[error("node {node} is not silent: it answers (remedy: none is needed)")]
    Answered {
        /// The node.
        node: usize,
    },
    /// Where a node's words are to be there is none: a mistake of the caller.
    #[error("node {node} has no words for this decision: {why}")]
    Invalid {
        /// The node.
        node: usize,
        /// What is wrong.
        why: String,
    },
}

/// The answers to one node's swap and to the reads of its decided words that go with it.
#[derive(Debug)]
struct UnderWay {
    node: usize,
    swap: Ticket,
    /// Of the instance before.
    before: Option<Ticket>,
    decided: Ticket,
}

impl UnderWay {
    fn forget(self, fabric: &impl Fabric) {
        [Some(self.swap), self.before, Some(self.decided)].into_iter().flatten().for_each(|it| fabric.forget(it));
    }
}

/// What has come of a request, if that is known: the word that it found.
fn answer_to(ticket: Ticket, fabric: &impl Fabric) -> Option<u64> {
    match fabric.take(ticket) {
        Poll::Ready(answer) => answer.ok(),
        Poll::Pending => {
            fabric.forget(ticket);
            None
        }
    }
}

/// A proposer at work: posts what [`Proposer`] wants, and gives it what comes.
///
/// To be polled until ready, or given up by [`abandon`](Self::abandon).
#[derive(Debug)]
pub struct Agreement {
    proposer: Proposer,
    slots: Vec<Slot>,
    deadline: Option<Duration>,
    under_way: Vec<UnderWay>,
    /// The round that these belong to.
    round: u32,
    asks: Vec<Ask>,
    /// A batch was refused for lack of room.
    wants_room: bool,
    /// Who has shown that it knows the instance before.
    informed: Vec<usize>,
    /// Whose answer ends this.
    accused: Option<usize>,
    /// Votes have been asked for: who gave up now would leave them.
    has_asked_for_votes: bool,
}

impl Agreement {
    /// Begins. `slots`: where each acceptor's words are, by its number. `deadline`: on the clock of
    /// [`poll`](Self::poll)'s `now`; without one it goes on until there is a decision.
    ///
    /// # Panics
    ///
    /// When there is not one slot for each acceptor, or `here` is no voter: mistakes of the caller.
    pub fn new(proposal: Proposal, slots: Vec<Slot>, deadline: Option<Duration>) -> Self {
        assert_eq!(slots.len(), proposal.electorate.acceptors(), "a slot for each acceptor");
        Self {
            proposer: Proposer::new(proposal),
            slots,
            deadline,
            under_way: Vec::new(),
            round: 0,
            asks: Vec::new(),
            wants_room: false,
            informed: Vec::new(),
            accused: None,
            has_asked_for_votes: false,
        }
    }

    /// What is proposed is that this node is silent. If it answers before votes are asked for, nothing is proposed any
    /// more ([`AgreementError::Answered`]). Afterwards its answer is one like the others'.
    #[must_use]
    pub fn accusing(self, node: usize) -> Self {
        Self { accused: Some(node), ..self }
    }

    /// Notes that a node is *gone*: surely without any process, for good (a node that is only silent is not). It is not
    /// asked any more.
    pub fn note_gone(&mut self, node: usize) {
        self.proposer.note_gone(node);
    }

    /// Moves on. `now`: the time on any clock that does not go back. Never blocks.
    ///
    /// Costs two round trips to all nodes if nobody else proposes, one and a request to the own node if it is decided
    /// already; a decision that this node has been told of, one request to the own node.
    ///
    /// # Errors
    ///
    /// [`AgreementError`]. What was under way is given up then.
    pub fn poll(&mut self, fabric: &impl Fabric, now: Duration) -> Poll<Result<Decision, AgreementError>> {
        fabric.progress();
        self.take(fabric, now);
        if let Some(node) = self.accused.filter(|node| self.proposer.has_answered(*node))
            && !self.has_asked_for_votes
        {
            self.abandon(fabric);
            return Poll::Ready(Err(AgreementError::Answered { node }));
        }
        // Each turn of the loop begins or ends a round, or is the last.
        loop {
            self.proposer.advance(now);
            if self.proposer.round() == self.round {
                break;
            }
            self.abandon(fabric);
            self.round = self.proposer.round();
        }
        self.has_asked_for_votes |= self.proposer.has_chosen();
        if let Err(error) = self.post(fabric, now) {
            self.abandon(fabric);
            return Poll::Ready(Err(error));
        }
        match self.end(now) {
            None => Poll::Pending,
            Some(end) => {
                self.abandon(fabric);
                Poll::Ready(end)
            }
        }
    }

    /// When it is to be polled although nothing has come in, if at all.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        let room = self.wants_room.then(|| now.saturating_add(self.proposer.pause()));
        self.proposer.wake_at().into_iter().chain(room).chain(self.deadline).min()
    }

    /// Gives up what is under way. The machine is not to be polled after that.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.under_way.drain(..).for_each(|open| open.forget(fabric));
    }

    /// The nodes that have shown since the last call that they know the instance before.
    pub fn take_informed(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.informed)
    }

    /// The nodes that have answered in this round and did not know the instance before. Until somebody has told them of
    /// that ([`Announcement`]) they have no part.
    pub fn behind(&self) -> Vec<usize> {
        self.proposer.behind().collect()
    }

    fn take(&mut self, fabric: &impl Fabric, now: Duration) {
        let (round, proposer, informed) = (self.round, &mut self.proposer, &mut self.informed);
        self.under_way.retain(|open| {
            // This read was posted last and completes last.
            let Poll::Ready(decided) = fabric.take(open.decided) else { return true };
            let mut swapped = answer_to(open.swap, fabric).map(AcceptorWord);
            match open.before.map(|before| answer_to(before, fabric)) {
                Some(Some(0)) => proposer.note_behind(round, open.node),
                Some(Some(_)) => informed.push(open.node),
                // Whether it knows the instance before has not been seen: its promise does not count, by (iv).
                Some(None) => swapped = None,
                None => {}
            }
            let decided = decided.ok().and_then(|word| u32::try_from(word).ok());
            proposer.handle(round, open.node, swapped, decided, now);
            false
        });
    }

    fn post(&mut self, fabric: &impl Fabric, now: Duration) -> Result<(), AgreementError> {
        self.wants_room = false;
        let mut asks = std::mem::take(&mut self.asks);
        self.proposer.asks(now, &mut asks);
        let mut posted = Ok(());
        for Ask { node, swap } in asks.drain(..) {
            let slot = self.slots[node];
            let mut requests =
                vec![Request::CompareSwap { at: slot.acceptor, expected: swap.expected.0, new: swap.new.0 }];
            requests.extend(slot.before.map(|at| Request::Read { at }));
            requests.push(Request::Read { at: slot.decided });
            let mut tickets = Vec::with_capacity(requests.len());
            match fabric.post_more(node, &requests, &mut tickets) {
                Ok(()) => self.under_way.push(UnderWay {
                    node,
                    swap: tickets[0],
                    before: slot.before.map(|_| tickets[1]),
                    decided: tickets[tickets.len() - 1],
                }),
                Err(PostError::Full { .. }) => {
                    self.wants_room = true;
                    self.proposer.put_back(node);
                }
                Err(PostError::Unreachable { .. }) => self.proposer.handle(self.round, node, None, None, now),
                Err(PostError::Invalid { why, .. }) => posted = Err(AgreementError::Invalid { node, why }),
            }
        }
        fabric.flush();
        self.asks = asks;
        posted
    }

    fn end(&self, now: Duration) -> Option<Result<Decision, AgreementError>> {
        if let Some(decision) = self.proposer.decision() {
            return Some(Ok(decision));
        }
        let here = self.proposer.here();
        if self.proposer.is_exhausted() {
            return Some(Err(AgreementError::Exhausted { here }));
        }
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        let (answered, needed) = (self.proposer.answered(), self.proposer.needed());
        if answered >= needed {
            return Some(Err(AgreementError::Contended { here, attempts: self.proposer.failed() + 1 }));
        }
        let (unreachable, silent) = self.proposer.unanswered();
        Some(Err(AgreementError::NoQuorum { here, answered, needed, unreachable, silent }))
    }
}
