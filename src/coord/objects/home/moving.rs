//! How a node's part in a lock goes from a home that is lost to the next one, as the node's steward does it.
//!
//! | step | requests to the next home |
//! | --- | --- |
//! | [`Moving::raise`] | read the numbers; swap them, where they are less than those of the last home |
//! | [`LastHome::of`] | none: what the node had is read on the node |
//! | [`Moving::carry`] | read the word; swap it, where it does not say whether this node holds the lock; write the claim, count it, read |
//! | [`LastHome::note`] | none: it is noted on the node where the lock is now, and how far the node is there |
//! | [`Survey`] | none of the steward's: whoever wants to use the home reads whether all nodes that live have moved |
//!
//! *A steward that comes late.* It may have been declared failed with its node, and its requests come as long as the
//! home has not heard of that; others, who have, may use the lock meanwhile. So it never writes over the hold of a node
//! that lives, as it sees it: whoever finds such a one has been declared failed itself.
//!
//! The machine posts nothing itself, like that of [`super`].

#[cfg(all(test, not(model)))]
mod exhaustive;

use super::{GlobalWord, HomeLock, NodeClaim, TOKENS};
use crate::coord::objects::tenure::{PlaceWord, Tenure, TenureAt, TenureWord};
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::Ordering;

/// Where the count of lost nodes begins in a lock's numbers.
pub const LIFE_AT: u32 = 44;

/// With what a home's numbers begin at least, where the node had this number at the last one and has seen so many nodes
/// lost. No number of a home before it was as great. (A node that has left may not be known to all.)
pub fn least_number(last: u64, lost: u64) -> u64 {
    let next_life = (last >> LIFE_AT) + 1;
    (next_life.max(lost) << LIFE_AT).next_multiple_of(TOKENS)
}

/// A word that is swapped until it holds what is wanted of it. What is wanted of that is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    at: WordAt,
    /// What it is being swapped from, and to.
    swapping: Option<(u64, u64)>,
}

impl Change {
    /// Of this word.
    pub const fn of(at: WordAt) -> Self {
        Self { at, swapping: None }
    }

    /// What is to be asked first.
    pub const fn begin(self) -> Request {
        Request::Read { at: self.at }
    }

    /// What the word holds, if it is as it should be; else what is to be asked next.
    ///
    /// # Errors
    ///
    /// No error: the next request.
    pub fn answered(&mut self, answer: u64, wanted: impl Fn(u64) -> u64) -> Result<u64, Request> {
        let found = match self.swapping {
            Some((expected, new)) if answer == expected => new,
            _ => answer,
        };
        let new = wanted(found);
        if new == found {
            return Ok(found);
        }
        self.swapping = Some((found, new));
        Err(Request::CompareSwap { at: self.at, expected: found, new })
    }
}

/// What the move of a lock wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MoveTurn {
    /// These requests to the next home, and then their answers.
    Ask(Vec<Request>),
    /// Its numbers are raised.
    Raised,
    /// It has what this node had.
    Carried(Carried),
    /// A node that lives holds the lock there: this one has been declared failed.
    Overtaken,
}

/// What a node has at the next home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Carried {
    /// The word by which it holds the lock, if it does.
    pub hold: GlobalWord,
    /// Its claim, if it has one.
    pub claim: NodeClaim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Raising { change: Change, least: u64 },
    TakingOver { change: Change, claim: Option<NodeClaim>, holds: bool },
    Claiming(Carried),
}

/// The move of a node's part in a lock, to one home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Moving {
    lock: HomeLock,
    state: State,
}

impl Moving {
    /// To the home of which this is the node's part, as it stands where it has nothing there.
    pub const fn new(lock: HomeLock) -> Self {
        Self { lock, state: State::Idle }
    }

    /// Begins to have the numbers there begin with this one, or a later one.
    pub fn raise(&mut self, least: u64) -> MoveTurn {
        let change = Change::of(self.lock.at.numbers);
        self.state = State::Raising { change, least };
        MoveTurn::Ask(vec![change.begin()])
    }

    /// Begins to carry there what the node has: the hold, or the claim.
    pub fn carry(&mut self, last: &LastHome) -> MoveTurn {
        let change = Change::of(self.lock.at.hold);
        let holds = matches!(last.kept(), Tenure::Held(_));
        self.state = State::TakingOver { change, claim: last.waits(), holds };
        MoveTurn::Ask(vec![change.begin()])
    }

    /// Goes on with the answers to what was asked. `is_lost`: which nodes the job has lost.
    ///
    /// # Panics
    ///
    /// When nothing was asked: a bug of the caller.
    pub fn answered(&mut self, answers: &[u64], is_lost: impl Fn(usize) -> bool) -> MoveTurn {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Raising { mut change, least } => match change.answered(answers[0], |found| found.max(least)) {
                Ok(_) => MoveTurn::Raised,
                Err(next) => self.ask(State::Raising { change, least }, next),
            },
            State::TakingOver { mut change, claim, holds } => {
                let me = self.lock.me;
                let wanted = |found| taken_over(GlobalWord(found), me, holds).0;
                match change.answered(answers[0], wanted).map(GlobalWord) {
                    Ok(hold) => self.carry_claim(if holds { hold } else { GlobalWord::FREE }, claim),
                    Err(Request::CompareSwap { expected, .. }) if is_others(GlobalWord(expected), me, &is_lost) => {
                        MoveTurn::Overtaken
                    }
                    Err(next) => self.ask(State::TakingOver { change, claim, holds }, next),
                }
            }
            State::Claiming(carried) => MoveTurn::Carried(carried),
            State::Idle => panic!("nothing was asked"),
        }
    }

    fn ask(&mut self, state: State, next: Request) -> MoveTurn {
        self.state = state;
        MoveTurn::Ask(vec![next])
    }

    fn carry_claim(&mut self, hold: GlobalWord, claim: Option<NodeClaim>) -> MoveTurn {
        let (claim, requests) = self.lock.carry(claim);
        self.state = State::Claiming(Carried { hold, claim });
        MoveTurn::Ask(requests)
    }
}

/// What a home's word becomes, which is to say that a node holds the lock, or that it does not. (Others only count
/// their claims in it meanwhile, and whoever holds the lock looks for them when it releases it.)
const fn taken_over(found: GlobalWord, me: usize, holds: bool) -> GlobalWord {
    match (holds, found.holder()) {
        (true, Some(holder)) if holder == me => found,
        (true, _) => GlobalWord::held(me, 0, true),
        (false, Some(holder)) if holder == me => found.given_up(),
        (false, _) => found,
    }
}

/// Whether another node that lives holds the lock.
fn is_others(found: GlobalWord, me: usize, is_lost: &impl Fn(usize) -> bool) -> bool {
    found.holder().is_some_and(|holder| holder != me && !is_lost(holder))
}

/// What a node has of a lock whose home is lost, as a steward has seen it before it asked the next home for anything.
/// Where another steward follows that one meanwhile, what it does late fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LastHome {
    place: u64,
    hold: u64,
    claim: u64,
    /// How far it was.
    pub seen: TenureWord,
}

impl LastHome {
    /// As it is now.
    pub fn of(tenure: TenureAt, memory: &impl Memory) -> Self {
        // SYNC POINT: tenure. Acquire pairs with whoever has changed them.
        let load = |at| memory.word(at).load(Ordering::Acquire);
        let (place, hold) = (load(tenure.home()), load(tenure.hold()));
        let seen = tenure.load(memory);
        // A claim is stored before the word says that the node waits.
        Self { place, hold, claim: load(tenure.claim()), seen }
    }

    /// How far the node is at the next home.
    pub fn kept(&self) -> Tenure {
        match self.seen.tenure() {
            Tenure::Held(passed) => Tenure::Held(passed),
            // In the place that it had.
            Tenure::Waiting => Tenure::Waiting,
            // Whoever is on its way begins anew. A word that was kept is lost with the home.
            Tenure::Nothing | Tenure::Kept | Tenure::Underway(_) => Tenure::Nothing,
        }
    }

    fn waits(&self) -> Option<NodeClaim> {
        (self.kept() == Tenure::Waiting).then_some(NodeClaim(self.claim))
    }

    /// Notes where the lock is at home now; whether no other steward has done so. Then the node's tenure is to be
    /// changed to what is [kept](Self::kept); if that fails it has gone on meanwhile, and all is to be read again.
    pub fn note(&self, tenure: TenureAt, memory: &impl Memory, place: PlaceWord, carried: Carried) -> bool {
        (self.waits().is_none() || swap(memory, tenure.claim(), self.claim, carried.claim.0))
            && swap(memory, tenure.hold(), self.hold, carried.hold.0)
            && swap(memory, tenure.home(), self.place, place.0)
    }
}

/// Changes a word of this node that holds what was seen in it; whether it did.
fn swap(memory: &impl Memory, at: WordAt, seen: u64, wanted: u64) -> bool {
    // SYNC POINT: home. Release pairs with `Reach::load`: whoever finds the home finds the object there, and the hold.
    memory.word(at).compare_exchange(seen, wanted, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// What a home is asked by whoever wants to use it: whether all nodes that live have moved what they had at the homes
/// before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Survey {
    /// Which bit of which answer; the other answers tell of objects without room.
    bits: Vec<u64>,
    name: u64,
}

/// What it has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surveyed {
    /// All have.
    Complete,
    /// Somebody has not.
    Incomplete,
    /// All have but for some objects that had no room there, of which this may be one.
    Stranded,
}

impl Survey {
    /// Of an object, whose name has this bit: which words are to be read. `live` are the nodes that live, `lost` the
    /// lost ones where it was at home before. `moved`: the word of a node that says of 64 lost nodes, the first of them
    /// being as many times 64, that it has moved what it had there; `stranded`: its word of objects that had no room.
    /// `None` where no home was before this one, which then needs no survey.
    pub fn of(
        live: &[usize],
        lost: &[usize],
        name: u64,
        moved: impl Fn(usize, usize) -> WordAt,
        stranded: impl Fn(usize) -> WordAt,
    ) -> Option<(Self, Vec<Request>)> {
        if lost.is_empty() {
            return None;
        }
        let of_both = || live.iter().flat_map(|node| lost.iter().map(move |lost| (*node, *lost)));
        let bits = of_both().map(|(_, lost)| 1 << (lost % 64)).collect();
        let reads = of_both().map(|(node, lost)| moved(node, lost / 64)).chain(live.iter().map(|node| stranded(*node)));
        let requests = reads.map(|at| Request::Read { at }).collect();
        Some((Self { bits, name }, requests))
    }

    /// By the answers.
    pub fn judge(&self, answers: &[u64]) -> Surveyed {
        let (moved, stranded) = answers.split_at(self.bits.len());
        match moved.iter().zip(&self.bits).all(|(word, bit)| word & bit != 0) {
            true if stranded.iter().any(|word| word & self.name != 0) => Surveyed::Stranded,
            true => Surveyed::Complete,
            false => Surveyed::Incomplete,
        }
    }
}
