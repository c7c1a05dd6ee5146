//! A lock between nodes: one word at the object's home says which node holds it, a word for each node says that it
//! waits.
//!
//! What [`super::queue`] is to the ranks of a node, this is to nodes, by requests to the home: the word names the
//! holder and is changed by compare-and-swap only, so that each step can be told after a death to have happened or not,
//! and a late one fails. (A ticket drawn by fetch-and-add would be quicker to hand over, but one whose answer is lost
//! with the rank that drew it is a hole in the queue that nobody can find.) One rank of a node acts for it at a time:
//! the holder of the node's own lock.
//!
//! | call | requests | round trips |
//! | --- | --- | --- |
//! | acquire, kept | swap the word from the kept one to this node | 1 |
//! | acquire, free | swap the word from 0 to this node; draw a number | 1 |
//! | acquire, kept for another node | then: swap the word from what was found; draw a number | 2 |
//! | acquire, held | then: write the claim, count it in the word; wait for the mailbox | 2 |
//! | release, nobody waits | swap the word to 0, or to a kept one | 1 |
//! | release, somebody waits | then: read the claims; swap the word to the first of them, draw a number; write its mailbox | 3, and half of one until it has it |
//! | wait, the holder's node is lost | read the word; swap it to this node, read the claims; draw a number, clear the claim, if it is first: else the first is told, as by a release | 3 |
//! | take a claim back | write it, and count that in the word | 1 |
//!
//! *Numbers.* Each acquisition draws a number at the home: as an order if it has to wait, for its first token if not. A
//! number stands for [`TOKENS`] tokens: those of a node's ranks that have the lock from each other.
//!
//! *Kept words.* A node that has had the lock again and again may leave a word that says not only that the lock is
//! free, but also that nobody has had it since that node's token so-and-so. To all others it is as good as 0. But if
//! the node itself finds it there, no token has been granted since its own last one: it goes on with what is left of
//! its number and draws none, which on an adapter is a second atomic, behind the first. Tokens grow, so no two kept
//! words are alike: a node that takes another token for its last does not find the word. Whoever expects 0 and finds a
//! kept word tries once more, from that; if it misses again, it makes a claim, so that a node that takes its own lock
//! again and again passes nobody by.
//!
//! *Nothing is forgotten.* Each claim that is made or taken back is counted in the word after it, so that a release
//! that has read the claims before fails and reads them again. (It is counted by fetch-and-add, which cannot fail
//! however often the word changes hands meanwhile; once too often does no harm.) Whoever counts it in a word that names
//! nobody, or a lost node, takes the lock for the first, and hands it over. (To give it to the first at once would not
//! do: a word that names nobody has nothing by which it is told from the same one later.) A mailbox that was not
//! written, as its writer died, is missed by who waits for it: it reads the word now and then, and finds itself named.
//!
//! The machines here post nothing themselves: a turn takes the answers to the last one's requests and says what is
//! next.

#[cfg(all(test, not(model)))]
mod exhaustive;
pub mod moving;

use crate::fabric::{Request, WordAt};

/// Tokens for each number that is drawn: a node's ranks may hand the lock to each other as often, less one.
pub const TOKENS: u64 = 256;

/// With so many tokens left of a number, less one, a hold is resumed; with fewer the next one draws another number.
/// What ranks of a node pass on among them takes one each time.
pub const LEAST_LEFT: u64 = TOKENS / 2;

/// Marks the stamps of acquisitions that found the lock free.
const AT_ONCE: u32 = 1 << 31;
/// What else a stamp has.
const STAMP: u32 = (1 << 30) - 1;

/// The stamp of an acquisition that finds the lock free.
const fn at_once(stamp: u32) -> u32 {
    stamp & STAMP | AT_ONCE
}

/// Where the words of a lock stand at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HomeAt {
    /// Which node holds it: [`GlobalWord`].
    pub hold: WordAt,
    /// The next number, times [`TOKENS`].
    pub numbers: WordAt,
    /// The claim of node 0, with the others' behind it: [`NodeClaim`].
    pub claims: WordAt,
    /// The job's nodes.
    pub nodes: usize,
}

/// Which node holds a lock. 0: nobody, and nobody waits.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–15 | holder | the node, plus 1 |
/// | 16–31 | changes | grows when a claim is made or taken back; 0 where nobody waits |
/// | 32–61 | stamp | which of the holder's acquisitions it is; where it was kept: the lower bits of its last token |
/// | 62 | kept | nobody holds it, or has held it since that token |
/// | 63 | at once | the acquisition found the lock free |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GlobalWord(pub u64);

impl GlobalWord {
    /// Nobody holds it.
    pub const FREE: Self = Self(0);
    const HOLDER: u64 = 0xffff;
    const CHANGE: u64 = 1 << 16;
    const CHANGES: u64 = 0xffff;
    const STAMP_AT: u32 = 32;
    pub(super) const KEPT: u64 = 1 << 62;

    /// Held by a node, which acquires it as `stamp` says.
    pub const fn held(node: usize, stamp: u32, is_wanted: bool) -> Self {
        let changes = if is_wanted { Self::CHANGE } else { 0 };
        Self((node as u64 + 1) | changes | (stamp as u64) << Self::STAMP_AT)
    }

    /// Free, and nobody has held it since a node, whose last token this is.
    const fn kept(node: usize, last: u64) -> Self {
        Self((node as u64 + 1) | (last & STAMP as u64) << Self::STAMP_AT | Self::KEPT)
    }

    /// Whether nobody holds it, and nobody waits.
    const fn is_idle(self) -> bool {
        self.holder().is_none() && !self.is_wanted()
    }

    /// The node that holds it.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    pub const fn holder(self) -> Option<usize> {
        match self.0 & Self::HOLDER {
            _ if self.0 & Self::KEPT != 0 => None,
            0 => None,
            node => Some(node as usize - 1),
        }
    }

    /// Whether a node holds it by this acquisition.
    pub fn is_held_by(self, node: usize, stamp: u32) -> bool {
        self.holder() == Some(node) && self.stamp() == stamp
    }

    #[allow(clippy::cast_possible_truncation, reason = "the upper half")]
    const fn stamp(self) -> u32 {
        (self.0 >> Self::STAMP_AT) as u32
    }

    /// Whether some nodes may have claims.
    const fn is_wanted(self) -> bool {
        self.changes() != 0
    }

    const fn changes(self) -> u64 {
        (self.0 / Self::CHANGE) & Self::CHANGES
    }

    /// After a claim has been made or taken back.
    const fn changed(self) -> Self {
        Self(self.0.wrapping_add(Self::CHANGE))
    }

    /// Whether it has been changed so often that it should be [`folded`](Self::folded).
    const fn is_full(self) -> bool {
        self.changes() > Self::CHANGES / 2
    }

    /// The same, as if it had been changed once.
    const fn folded(self) -> Self {
        Self(self.0 & !(Self::CHANGES * Self::CHANGE) | Self::CHANGE)
    }

    /// Held by nobody, and wanted as it was.
    const fn given_up(self) -> Self {
        Self(self.0 & (Self::CHANGES * Self::CHANGE))
    }

    /// Whether the same acquisition holds it, or in both cases none.
    const fn is_of_same(self, other: Self) -> bool {
        self.0 & Self::HOLDER == other.0 & Self::HOLDER && self.stamp() == other.stamp()
    }
}

/// A node's claim.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0 | waiting | there is one |
/// | 1–24 | place | of the object in the table of that node, where its mailbox is |
/// | 25–63 | order | the number that it has drawn; of two the later is the one less than half of all ahead |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeClaim(pub u64);

impl NodeClaim {
    const PLACE_BITS: u32 = 24;
    const ORDER_AT: u32 = Self::PLACE_BITS + 1;
    const ORDER_BITS: u32 = 64 - Self::ORDER_AT;

    /// A claim.
    pub const fn waiting(order: u64, place: usize) -> Self {
        Self(1 | (place as u64 & ((1 << Self::PLACE_BITS) - 1)) << 1 | order << Self::ORDER_AT)
    }

    /// Whether there is one.
    pub const fn is_waiting(self) -> bool {
        self.0 & 1 == 1
    }

    /// Where the node has the object.
    #[allow(clippy::cast_possible_truncation, reason = "24 bits")]
    pub const fn place(self) -> usize {
        (self.0 >> 1 & ((1 << Self::PLACE_BITS) - 1)) as usize
    }

    /// Its order, as far as it fits.
    pub const fn order(self) -> u64 {
        self.0 >> Self::ORDER_AT
    }

    /// Whether it was made before another one.
    fn is_before(self, other: Self) -> bool {
        let ahead = other.order().wrapping_sub(self.order()) & ((1 << Self::ORDER_BITS) - 1);
        ahead < 1 << (Self::ORDER_BITS - 1)
    }

    /// What tells this acquisition of its node from others: never one of those that did not wait.
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub const fn stamp(self) -> u32 {
        self.order() as u32 & STAMP
    }
}

/// What a machine wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// These requests to the home, in one batch, and then their answers.
    Ask(Vec<Request>),
    /// The mailbox of a waiting node is to be written; then go on.
    Mail(Mail),
    /// Nothing, until the mailbox has something or it is time to look.
    Wait,
    /// It is over.
    Over(Outcome),
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This node holds the lock. Its tokens are those behind this number, up to the next multiple of [`TOKENS`].
    Granted(u64),
    /// It does not hold it any more, or its claim is taken back. [`HomeLock::kept`] tells whether the word was kept for
    /// it.
    Free,
    /// Another node has it: this one was declared failed.
    Lost,
}

/// What a waiting node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mail {
    /// Which node.
    pub node: usize,
    /// Its claim: which acquisition is meant, and where its mailbox is.
    pub claim: NodeClaim,
    /// Its first token.
    pub number: u64,
}

/// How a node tries to have the lock at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    mine: GlobalWord,
    /// Whether it waits where it cannot.
    is_patient: bool,
    /// Whether it makes no other one, from the word that this one finds.
    is_last: bool,
}

impl Attempt {
    const fn again(self) -> Self {
        Self { is_last: true, ..self }
    }
}

/// What the answers to come belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    /// As above, and the word was kept for this node, whose last token this is.
    Kept {
        last: u64,
    },
    /// Swapping the word from the kept one.
    Resuming {
        last: u64,
        attempt: Attempt,
    },
    /// Swapping the word from one that is free; drawing a number.
    Trying {
        seen: GlobalWord,
        attempt: Attempt,
    },
    /// The claim is being written, and counted in the word.
    Registering {
        claim: NodeClaim,
    },
    /// For the mailbox.
    Waiting {
        claim: NodeClaim,
    },
    /// The mailbox has come: taking the claim away, before another rank of this node can make the next.
    Receiving {
        claim: NodeClaim,
        number: u64,
    },
    /// Reading the word, since nothing has come for long, or folding its count.
    Looking {
        claim: NodeClaim,
    },
    /// Nobody holds it, or a lost node: swapping the word to this one, reading the claims.
    Seizing {
        claim: NodeClaim,
        seen: GlobalWord,
    },
    /// It is this node's for whoever is first: reading the claims.
    Following {
        claim: NodeClaim,
        seen: GlobalWord,
    },
    /// Swapping the word to the first of them; drawing a number.
    Appointing {
        claim: NodeClaim,
        seen: GlobalWord,
        first: (usize, NodeClaim),
    },
    /// The word names this node, and nobody has said so: drawing a number, taking the claim away.
    Drawing {
        claim: NodeClaim,
    },
    Held {
        word: GlobalWord,
    },
    /// Swapping the word to one that is free.
    Freeing {
        seen: GlobalWord,
    },
    /// Reading the claims.
    Choosing {
        seen: GlobalWord,
    },
    /// Swapping the word to the first of them; drawing a number.
    HandingOver {
        seen: GlobalWord,
        first: (usize, NodeClaim),
    },
    /// Taking the claim away, or whatever this node has there; counting that in the word.
    Withdrawing {
        stamp: u32,
        is_any: bool,
    },
    /// Nobody holds the lock though some may want it: swapping the word to this node, which then releases it.
    Clearing {
        stamp: u32,
        seen: GlobalWord,
    },
    /// Folding the word's count; then it is over.
    Folding,
}

/// A node's part in a lock between nodes, as the rank has it that acts for the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HomeLock {
    at: HomeAt,
    me: usize,
    /// Where this node has the object.
    place: usize,
    state: State,
    /// The last token of the hold that is being given up, where the word is to be kept for this node.
    last: Option<u64>,
}

impl HomeLock {
    /// The part of node `me`, which has the object at `place` of its table.
    pub const fn new(at: HomeAt, me: usize, place: usize) -> Self {
        Self::in_state(at, me, place, State::Idle)
    }

    /// As it stands where this node holds the lock by this word.
    pub const fn holding(at: HomeAt, me: usize, place: usize, word: GlobalWord) -> Self {
        Self::in_state(at, me, place, State::Held { word })
    }

    /// As it stands where this node has a claim.
    pub const fn waiting(at: HomeAt, me: usize, place: usize, claim: NodeClaim) -> Self {
        Self::in_state(at, me, place, State::Waiting { claim })
    }

    /// As it stands where the word was kept for this node when it gave the lock up after this token.
    pub const fn keeping(at: HomeAt, me: usize, place: usize, last: u64) -> Self {
        Self::in_state(at, me, place, State::Kept { last })
    }

    const fn in_state(at: HomeAt, me: usize, place: usize, state: State) -> Self {
        Self { at, me, place, state, last: None }
    }

    /// Begins to acquire; `stamp` differs from those of this node's other acquisitions that may still be on their way.
    pub fn acquire(&mut self, stamp: u32) -> Turn {
        self.begin(stamp, true)
    }

    /// Acquires the lock if it is free: it is over as [`Outcome::Free`] if not.
    pub fn try_acquire(&mut self, stamp: u32) -> Turn {
        self.begin(stamp, false)
    }

    fn begin(&mut self, stamp: u32, is_patient: bool) -> Turn {
        let mine = GlobalWord::held(self.me, at_once(stamp), false);
        let attempt = Attempt { mine, is_patient, is_last: false };
        self.last = None;
        match self.kept() {
            Some(last) if leaves_enough(last) => {
                self.state = State::Resuming { last, attempt };
                Turn::Ask(vec![self.swap(GlobalWord::kept(self.me, last), mine)])
            }
            Some(last) => self.attempt(GlobalWord::kept(self.me, last), attempt),
            None => self.attempt(GlobalWord::FREE, attempt),
        }
    }

    fn attempt(&mut self, seen: GlobalWord, attempt: Attempt) -> Turn {
        self.state = State::Trying { seen, attempt };
        Turn::Ask(vec![self.swap(seen, attempt.mine), self.draw()])
    }

    /// Begins to release. If nobody waits, and `last` says which token of this hold was the last, the word is kept for
    /// this node.
    ///
    /// # Panics
    ///
    /// When this node does not hold the lock, as far as the machine knows: a bug of the caller.
    pub fn release(&mut self, last: Option<u64>) -> Turn {
        let State::Held { word } = self.state else { panic!("only who holds a lock releases it") };
        self.last = last;
        self.free_or_choose(word)
    }

    /// Begins to take the claim back, of a machine that waits.
    ///
    /// # Panics
    ///
    /// When it does not wait: a bug of the caller.
    pub fn withdraw(&mut self) -> Turn {
        let State::Waiting { claim } = self.state else { panic!("only who waits can change its mind") };
        self.withdraw_any(claim.stamp(), false)
    }

    /// Begins to take back whatever this node has there: what a rank has left that ended in the middle of a call, or a
    /// connection that broke. Nothing of that may still be on its way. `stamp` as for [`acquire`](Self::acquire).
    pub fn recover(&mut self, stamp: u32) -> Turn {
        self.withdraw_any(at_once(stamp), true)
    }

    fn withdraw_any(&mut self, stamp: u32, is_any: bool) -> Turn {
        self.last = None;
        self.state = State::Withdrawing { stamp, is_any };
        Turn::Ask(vec![self.write_claim(0), self.count()])
    }

    /// Whether the answers to come tell what has become of a claim that is taken back.
    pub const fn is_withdrawing(&self) -> bool {
        matches!(self.state, State::Withdrawing { .. })
    }

    /// Whether the word is this node's, and is being given up.
    pub const fn is_releasing(&self) -> bool {
        matches!(self.state, State::Freeing { .. } | State::Choosing { .. } | State::HandingOver { .. })
    }

    /// What has a home, which nobody has asked for anything, have the claim that this node had at the last one, or
    /// none. Its order is one more than there: less than all that are drawn here, and not that of what was granted
    /// there.
    pub fn carry(&self, claim: Option<NodeClaim>) -> (NodeClaim, Vec<Request>) {
        let carried = claim.map_or(NodeClaim(0), |claim| NodeClaim::waiting(claim.order() + 1, claim.place()));
        let counted = claim.map(|_| self.count());
        let read = Request::Read { at: self.at.hold };
        (carried, std::iter::once(self.write_claim(carried.0)).chain(counted).chain([read]).collect())
    }

    /// Reads the word, of a machine that waits: nothing has come for long, or somebody has failed.
    pub fn look(&mut self) -> Turn {
        let State::Waiting { claim } = self.state else { return Turn::Wait };
        self.state = State::Looking { claim };
        Turn::Ask(vec![Request::Read { at: self.at.hold }])
    }

    /// What the mailbox holds, of a machine that waits: which order was granted, and its first token.
    pub fn receive(&mut self, order: u64, number: u64) -> Turn {
        match self.state {
            State::Waiting { claim } if claim.order() == order => {
                self.state = State::Receiving { claim, number };
                Turn::Ask(vec![self.write_claim(0), Request::Read { at: self.at.hold }])
            }
            _ => Turn::Wait,
        }
    }

    /// The claim, of a machine that waits for its mailbox.
    pub const fn claim(&self) -> Option<NodeClaim> {
        match self.state {
            State::Waiting { claim } => Some(claim),
            _ => None,
        }
    }

    /// The word, of a machine that holds the lock.
    pub const fn held(&self) -> Option<GlobalWord> {
        match self.state {
            State::Held { word } => Some(word),
            _ => None,
        }
    }

    /// This node's last token, of a machine that has given the lock up, so that the word was kept, and has begun
    /// nothing since.
    pub const fn kept(&self) -> Option<u64> {
        match self.state {
            State::Kept { last } => Some(last),
            _ => None,
        }
    }

    /// The mail is on its way.
    pub fn mailed(&mut self) -> Turn {
        match self.state {
            State::Waiting { .. } => Turn::Wait,
            _ => self.end(Outcome::Free),
        }
    }

    /// Goes on with the answers to what was asked. `is_lost`: which nodes the job has lost.
    ///
    /// # Panics
    ///
    /// When there are not as many answers as were asked for: a bug of the caller.
    pub fn answered(&mut self, answers: &[u64], is_lost: impl Fn(usize) -> bool) -> Turn {
        let word = GlobalWord(answers[0]);
        match self.state {
            State::Resuming { last, attempt } if word == GlobalWord::kept(self.me, last) => {
                self.hold(attempt.mine, last)
            }
            State::Resuming { attempt, .. } => self.missed(attempt, word, None, &is_lost),
            State::Trying { seen, attempt } if word == seen => self.hold(attempt.mine, answers[1]),
            State::Trying { attempt, .. } => self.missed(attempt, word, Some(answers[1]), &is_lost),
            State::Registering { claim } => self.registered(claim, word.changed(), &is_lost),
            // Nobody has said so for long.
            State::Looking { claim } if word.is_held_by(self.me, claim.stamp()) => self.take(claim),
            State::Looking { claim } => self.looked(claim, word, &is_lost),
            State::Seizing { claim, seen } if word == seen => {
                self.followed(claim, self.seized(claim), &answers[1..], &is_lost)
            }
            State::Seizing { claim, .. } => self.looked(claim, word, &is_lost),
            State::Following { claim, seen } => self.followed(claim, seen, answers, &is_lost),
            State::Appointing { claim, seen, first } if word == seen => self.appointed(claim, first, answers[1]),
            State::Appointing { claim, seen, .. } if word.is_of_same(seen) => self.follow(claim, word),
            State::Appointing { claim, .. } => self.looked(claim, word, &is_lost),
            // As if nobody had a claim: where that is not so, the release finds another word.
            State::Drawing { claim } => self.hold(GlobalWord::held(self.me, claim.stamp(), false), answers[0]),
            State::Receiving { claim, number } if word.is_held_by(self.me, claim.stamp()) => self.hold(word, number),
            // It was meant for an object that was in the same place before.
            State::Receiving { claim, .. } => self.register(claim),
            State::Freeing { seen } if word == seen => self.freed(),
            State::Choosing { seen } => match self.first(answers, &|node| node == self.me || is_lost(node)) {
                Some(first) => self.hand_over(seen, first, answers),
                None => self.free(seen),
            },
            State::HandingOver { seen, first } if word == seen => {
                let (node, claim) = first;
                Turn::Mail(Mail { node, claim, number: answers[1] })
            }
            State::Freeing { seen } | State::HandingOver { seen, .. } => self.refused(seen, word),
            State::Withdrawing { stamp, is_any } => self.withdrawn(stamp, is_any, word.changed()),
            State::Clearing { stamp, seen } => self.cleared(stamp, seen, word),
            State::Folding => self.end(Outcome::Free),
            State::Idle | State::Kept { .. } | State::Waiting { .. } | State::Held { .. } => {
                unreachable!("nothing was asked")
            }
        }
    }

    /// The lock was not to be had by the word that was expected. `number`: what was drawn all the same.
    fn missed(
        &mut self,
        attempt: Attempt,
        found: GlobalWord,
        number: Option<u64>,
        is_lost: &impl Fn(usize) -> bool,
    ) -> Turn {
        match (found.holder(), number) {
            _ if found.is_idle() && !attempt.is_last => self.attempt(found, attempt.again()),
            (_, Some(number)) if attempt.is_patient => {
                let claim = NodeClaim::waiting(number / TOKENS, self.place);
                self.register(claim)
            }
            (_, None) if attempt.is_patient => self.attempt(GlobalWord::FREE, attempt.again()),
            (Some(holder), _) if !is_lost(holder) => self.end(Outcome::Free),
            // Others take it, and leave it kept, again and again.
            _ if found.is_idle() => self.end(Outcome::Free),
            // It is nobody's: the next attempt has it, if no claim comes before.
            _ => self.clear(attempt.mine.stamp(), found),
        }
    }

    fn register(&mut self, claim: NodeClaim) -> Turn {
        self.state = State::Registering { claim };
        Turn::Ask(vec![self.write_claim(claim.0), self.count()])
    }

    /// The claim is where everybody finds it.
    fn registered(&mut self, claim: NodeClaim, word: GlobalWord, is_lost: &impl Fn(usize) -> bool) -> Turn {
        if word.is_full() {
            self.state = State::Looking { claim };
            return Turn::Ask(vec![self.swap(word, word.folded())]);
        }
        self.looked(claim, word, is_lost)
    }

    fn looked(&mut self, claim: NodeClaim, word: GlobalWord, is_lost: &impl Fn(usize) -> bool) -> Turn {
        match word.holder() {
            // It is this node's, and whoever has given it to it says so: what is said late would hide what is said
            // next.
            Some(_) if word.is_held_by(self.me, claim.stamp()) => self.wait(claim),
            Some(holder) if holder != self.me && !is_lost(holder) => self.wait(claim),
            _ => {
                self.state = State::Seizing { claim, seen: word };
                let swap = self.swap(word, self.seized(claim));
                Turn::Ask(std::iter::once(swap).chain(self.read_claims()).collect())
            }
        }
    }

    fn wait(&mut self, claim: NodeClaim) -> Turn {
        self.state = State::Waiting { claim };
        Turn::Wait
    }

    /// The word of this node that holds the lock by its claim, for whoever is first.
    fn seized(&self, claim: NodeClaim) -> GlobalWord {
        GlobalWord::held(self.me, claim.stamp(), true)
    }

    fn follow(&mut self, claim: NodeClaim, seen: GlobalWord) -> Turn {
        self.state = State::Following { claim, seen };
        Turn::Ask(self.read_claims())
    }

    /// The claims have been read, of a word that is this node's for whoever is first.
    fn followed(
        &mut self,
        claim: NodeClaim,
        seen: GlobalWord,
        claims: &[u64],
        is_lost: &impl Fn(usize) -> bool,
    ) -> Turn {
        match self.first(claims, is_lost) {
            Some((node, _)) if node == self.me => self.take(claim),
            Some(first) => self.appoint(claim, seen, first, claims),
            None => unreachable!("this node has a claim"),
        }
    }

    /// The word names this node.
    fn take(&mut self, claim: NodeClaim) -> Turn {
        self.state = State::Drawing { claim };
        Turn::Ask(vec![self.write_claim(0), self.draw()])
    }

    fn appoint(&mut self, claim: NodeClaim, seen: GlobalWord, first: (usize, NodeClaim), claims: &[u64]) -> Turn {
        self.state = State::Appointing { claim, seen, first };
        Turn::Ask(vec![self.swap(seen, granted_to(first, claims)), self.draw()])
    }

    fn appointed(&mut self, claim: NodeClaim, first: (usize, NodeClaim), number: u64) -> Turn {
        let (node, granted) = first;
        self.state = State::Waiting { claim };
        Turn::Mail(Mail { node, claim: granted, number })
    }

    fn hold(&mut self, word: GlobalWord, number: u64) -> Turn {
        self.state = State::Held { word };
        Turn::Over(Outcome::Granted(number))
    }

    fn free_or_choose(&mut self, seen: GlobalWord) -> Turn {
        if !seen.is_wanted() {
            return self.free(seen);
        }
        self.state = State::Choosing { seen };
        Turn::Ask(self.read_claims())
    }

    fn free(&mut self, seen: GlobalWord) -> Turn {
        self.state = State::Freeing { seen };
        let free = self.last.map_or(GlobalWord::FREE, |last| GlobalWord::kept(self.me, last));
        Turn::Ask(vec![self.swap(seen, free)])
    }

    fn freed(&mut self) -> Turn {
        self.state = self.last.map_or(State::Idle, |last| State::Kept { last });
        Turn::Over(Outcome::Free)
    }

    fn hand_over(&mut self, seen: GlobalWord, first: (usize, NodeClaim), claims: &[u64]) -> Turn {
        self.state = State::HandingOver { seen, first };
        Turn::Ask(vec![self.swap(seen, granted_to(first, claims)), self.draw()])
    }

    /// The word is another one than was seen: claims have been made or taken back, or somebody else has gone on.
    fn refused(&mut self, seen: GlobalWord, found: GlobalWord) -> Turn {
        match found.is_of_same(seen) {
            true => self.free_or_choose(found),
            false => self.end(Outcome::Lost),
        }
    }

    fn withdrawn(&mut self, stamp: u32, is_any: bool, word: GlobalWord) -> Turn {
        let is_mine = if is_any { word.holder() == Some(self.me) } else { word.is_held_by(self.me, stamp) };
        if is_mine {
            return self.free_or_choose(word);
        }
        if word.holder().is_none() {
            return self.clear(stamp, word);
        }
        if word.is_full() {
            self.state = State::Folding;
            return Turn::Ask(vec![self.swap(word, word.folded())]);
        }
        self.end(Outcome::Free)
    }

    fn clear(&mut self, stamp: u32, seen: GlobalWord) -> Turn {
        self.state = State::Clearing { stamp, seen };
        Turn::Ask(vec![self.swap(seen, GlobalWord::held(self.me, stamp, true))])
    }

    fn cleared(&mut self, stamp: u32, seen: GlobalWord, found: GlobalWord) -> Turn {
        match found {
            _ if found == seen => self.free_or_choose(GlobalWord::held(self.me, stamp, true)),
            _ if found.holder().is_none() && found.is_wanted() => self.clear(stamp, found),
            _ => self.end(Outcome::Free),
        }
    }

    fn end(&mut self, outcome: Outcome) -> Turn {
        self.state = State::Idle;
        Turn::Over(outcome)
    }

    /// The first of the claims, without those of lost nodes.
    fn first(&self, claims: &[u64], is_lost: &impl Fn(usize) -> bool) -> Option<(usize, NodeClaim)> {
        let claims = claims.iter().enumerate().map(|(node, claim)| (node, NodeClaim(*claim)));
        // Of its own loss it hears elsewhere.
        let is_lost = |node: usize| node != self.me && is_lost(node);
        let waiting = claims.filter(|(node, claim)| claim.is_waiting() && !is_lost(*node));
        waiting.reduce(|first, other| if first.1.is_before(other.1) { first } else { other })
    }

    fn swap(&self, expected: GlobalWord, new: GlobalWord) -> Request {
        Request::CompareSwap { at: self.at.hold, expected: expected.0, new: new.0 }
    }

    fn count(&self) -> Request {
        Request::FetchAdd { at: self.at.hold, add: GlobalWord::CHANGE }
    }

    fn draw(&self) -> Request {
        Request::FetchAdd { at: self.at.numbers, add: TOKENS }
    }

    fn write_claim(&self, claim: u64) -> Request {
        Request::Write { at: self.at.claims.plus(self.me), value: claim }
    }

    fn read_claims(&self) -> Vec<Request> {
        (0..self.at.nodes).map(|node| Request::Read { at: self.at.claims.plus(node) }).collect()
    }
}

/// Whether another hold can do with the tokens that a number has left behind this one.
fn leaves_enough(last: u64) -> bool {
    (1..=TOKENS - LEAST_LEFT).contains(&(last % TOKENS))
}

/// The word that names the first of the claims, and says whether there are others.
fn granted_to((node, claim): (usize, NodeClaim), claims: &[u64]) -> GlobalWord {
    let others = claims.iter().enumerate().any(|(other, claim)| other != node && NodeClaim(*claim).is_waiting());
    GlobalWord::held(node, claim.stamp(), others)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::explorer::execute;

    const HOLD: usize = 0;
    const CLAIMS: usize = 2;

    /// Some nodes, whose requests and mails take one round each, all at the same time.
    struct Room {
        words: Vec<u64>,
        parts: Vec<HomeLock>,
        asked: Vec<Vec<Request>>,
        mails: Vec<Mail>,
        granted: Vec<usize>,
    }

    impl Room {
        fn new(nodes: usize) -> Self {
            let at = HomeAt { hold: WordAt(HOLD), numbers: WordAt(1), claims: WordAt(CLAIMS), nodes };
            let parts = (0..nodes).map(|node| HomeLock::new(at, node, 1)).collect();
            let asked = vec![Vec::new(); nodes];
            Self { words: vec![0; CLAIMS + nodes], parts, asked, mails: Vec::new(), granted: Vec::new() }
        }

        fn turn(&mut self, node: usize, turn: Turn) {
            match turn {
                Turn::Ask(requests) => self.asked[node] = requests,
                Turn::Mail(mail) => {
                    self.mails.push(mail);
                    let turn = self.parts[node].mailed();
                    self.turn(node, turn);
                }
                Turn::Wait => {}
                Turn::Over(Outcome::Granted(_)) => self.granted.push(node),
                Turn::Over(outcome) => panic!("nobody gives anything up: {outcome:?}"),
            }
        }

        /// One round: what was asked is done, in the order of `nodes`, and what was written arrives.
        fn round(&mut self, nodes: &[usize], lost: usize) {
            let mails = std::mem::take(&mut self.mails);
            let asked: Vec<_> = nodes.iter().map(|node| (*node, std::mem::take(&mut self.asked[*node]))).collect();
            for (node, requests) in asked.into_iter().filter(|(_, requests)| !requests.is_empty()) {
                let answers = requests.into_iter().filter_map(|request| execute(&mut self.words, request));
                let answers: Vec<u64> = answers.collect();
                let turn = self.parts[node].answered(&answers, |node| node == lost);
                self.turn(node, turn);
            }
            for mail in mails {
                let turn = self.parts[mail.node].receive(mail.claim.order(), mail.number);
                self.turn(mail.node, turn);
            }
        }

        fn acquire(&mut self, node: usize) {
            let turn = self.parts[node].acquire(1);
            self.turn(node, turn);
            (0..4).for_each(|_| self.round(&[node], usize::MAX));
        }
    }

    /// How many rounds it takes until the first of those who wait has the lock of a lost node; all look at once, and
    /// their requests are done in this order.
    fn rounds_to_follow(waiting: &[usize], order: &[usize]) -> usize {
        let mut room = Room::new(1 + waiting.len());
        room.acquire(0);
        waiting.iter().for_each(|node| room.acquire(*node));
        assert_eq!(room.granted, [0], "the others wait");
        for node in waiting {
            let turn = room.parts[*node].look();
            room.turn(*node, turn);
        }
        let rounds = (1..20).find(|_| {
            room.round(order, 0);
            room.granted.len() > 1
        });
        assert_eq!(room.granted[1], waiting[0], "the first");
        rounds.expect("somebody has it")
    }

    /// From when it is known that the holder's node is lost, in round trips.
    #[test]
    fn who_waits_follows_a_lost_node_after_three_round_trips_and_after_five_beside_others() {
        assert_eq!(rounds_to_follow(&[1], &[1]), 3);
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
            for waiting in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
                let rounds = rounds_to_follow(&waiting, &order);
                assert!(rounds <= 5, "{rounds} rounds, where {waiting:?} wait, in the order {order:?}");
            }
        }
    }
}
