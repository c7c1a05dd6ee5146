//! Offers: how a leader tells others where a new group's block is.
//!
//! A leader has [`OFFERS`] places for them in its entry of the rank table. Members of its own node *take* what is
//! offered there, each once. Leaders of other nodes *read* it, as often as they like ([`super::introductions`]). A
//! place is free again when its takers have come and the leaders have agreed; nobody has to be thanked.
//!
//! An offer is found by its key and the number of the call: all members compute both alike. A member that finds a later
//! call of its key has missed its own, which is over.
//!
//! A refusal is an offer, too, but nothing hangs on it: when a place is needed the oldest refusal makes room.

use crate::fabric::node::{NodeLayout, OFFERS, OfferAt, hash};
use crate::fabric::{Memory, WordAt};
use crate::sync::{Ordering, full_fence};

/// The value of an offer that is none: the leader found no space.
pub const REFUSED: u64 = u64::MAX;

/// What an offer is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Of which group: parent, and members or colour.
    pub key: u64,
    /// The how many-th of that key, counted from 1.
    pub call: u64,
}

/// Who holds an offer's place, and who has still to take what it offers.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–15 | takers | members of the node that have not taken it |
/// | 16 | refused | it is a refusal |
/// | 17 | held | the leader fills it, or offers it to other nodes |
/// | 18–63 | use | how often the place has been used |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakersWord(pub u64);

impl TakersWord {
    const TAKERS: u64 = 0xffff;
    const REFUSED: u64 = 1 << 16;
    const HELD: u64 = 1 << 17;
    const USE: u32 = 18;

    const fn is_vacant(self) -> bool {
        self.0 & (Self::TAKERS | Self::HELD) == 0
    }

    const fn is_refusal(self) -> bool {
        self.0 & (Self::REFUSED | Self::HELD) == Self::REFUSED
    }

    const fn next_use(self) -> Self {
        Self(((self.0 >> Self::USE) + 1) << Self::USE | Self::HELD)
    }

    const fn same_use(self, other: Self) -> bool {
        self.0 >> Self::USE == other.0 >> Self::USE
    }

    const fn for_takers(self, takers: usize, is_refusal: bool) -> Self {
        let refused = if is_refusal { Self::REFUSED } else { 0 };
        Self(self.0 & !(Self::TAKERS | Self::REFUSED) | refused | takers as u64 & Self::TAKERS)
    }

    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    const fn takers(self) -> usize {
        (self.0 & Self::TAKERS) as usize
    }
}

/// How far a leader is with its attempt to make a group with other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its block is there.
    Offered = 0,
    /// It is about to vote for a ballot, and looks whether somebody has ended the attempt.
    Voting = 1,
    /// It votes for a ballot.
    Voted = 2,
    /// It knows that all have voted for a ballot.
    Agreed = 3,
    /// It has no space.
    Refused = 4,
}

/// A [`Stage`] with the ballot that it is about.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–2 | stage | as the enum's numbers |
/// | 3–63 | ballot | hash of all leaders' blocks and attempts; 0 before the first vote |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageWord(pub u64);

impl StageWord {
    /// Packs a stage and the ballot's upper 61 bits.
    pub const fn new(stage: Stage, ballot: u64) -> Self {
        Self(ballot & !7 | stage as u64)
    }

    /// The stage; `None` of a word that is none.
    pub const fn stage(self) -> Option<Stage> {
        match self.0 & 7 {
            0 => Some(Stage::Offered),
            1 => Some(Stage::Voting),
            2 => Some(Stage::Voted),
            3 => Some(Stage::Agreed),
            4 => Some(Stage::Refused),
            _ => None,
        }
    }

    /// Whether the leader votes for the ballot, for good.
    pub const fn is_for(self, ballot: u64) -> bool {
        self.0 == Self::new(Stage::Voted, ballot).0 || self.0 == Self::new(Stage::Agreed, ballot).0
    }
}

/// A place that this leader holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its words.
    pub at: OfferAt,
    used: TakersWord,
}

/// The leader offers `value` under a name to `takers` members of its node. `None` while all its places are in use.
pub fn offer(
    memory: &impl Memory,
    node: &NodeLayout,
    leader: usize,
    named: Named,
    value: u64,
    takers: usize,
) -> Option<Offered> {
    let offered = prepare(memory, node, leader, named, value)?;
    open(memory, offered, takers, value == REFUSED);
    let_go(memory, offered);
    Some(offered)
}

/// A place with an offer that nobody can see yet: to be [opened](open) and [let go](let_go).
pub fn prepare(memory: &impl Memory, node: &NodeLayout, leader: usize, named: Named, value: u64) -> Option<Offered> {
    let offered = claim(memory, node, leader)?;
    fill(memory, offered, named, value);
    Some(offered)
}

/// The leader offers its node's block to other nodes, as attempt `group`. `None` as in [`offer`].
pub fn offer_abroad(
    memory: &impl Memory,
    node: &NodeLayout,
    leader: usize,
    named: Named,
    (value, group): (u64, u64),
) -> Option<Offered> {
    let offered = claim(memory, node, leader)?;
    fill(memory, offered, named, value);
    publish_attempt(memory, offered, group, if value == REFUSED { Stage::Refused } else { Stage::Offered });
    Some(offered)
}

/// Another attempt in the same place, after the last one was ended.
pub fn begin_attempt(memory: &impl Memory, offered: Offered, group: u64, stage: Stage) {
    end_attempt(memory, offered);
    publish_attempt(memory, offered, group, stage);
}

fn publish_attempt(memory: &impl Memory, offered: Offered, group: u64, stage: Stage) {
    memory.word(offered.at.stage()).store(StageWord::new(stage, 0).0, Ordering::Relaxed);
    // SYNC POINT: attempt. Release: who reads the group, the rest, and then the same group again has read what belongs
    // to it, and the block is initialised.
    memory.word(offered.at.group()).store(group, Ordering::Release);
}

/// Nothing is offered to other nodes any more.
pub fn end_attempt(memory: &impl Memory, offered: Offered) {
    memory.word(offered.at.group()).store(0, Ordering::Relaxed);
    // SYNC POINT: attempt. Whoever sees what is stored after this sees that the attempt is over, if it looks again.
    full_fence();
}

/// Opens a place that is held to the node's members, too: they find what it offers, or a refusal.
pub fn open(memory: &impl Memory, offered: Offered, takers: usize, is_refusal: bool) {
    let word = memory.word(offered.at.takers());
    // While the place is held and not open, nobody else changes the word.
    let held = TakersWord(word.load(Ordering::Relaxed));
    // SYNC POINT: offer. Release: who takes it sees key, call, value and the initialised block.
    word.store(held.for_takers(takers, is_refusal).0, Ordering::Release);
}

/// Lets a held place go: it is free once its takers have come.
pub fn let_go(memory: &impl Memory, offered: Offered) {
    // SYNC POINT: offer. Release: what the leader has done with the place comes before its next use.
    memory.word(offered.at.takers()).fetch_and(!TakersWord::HELD, Ordering::Release);
}

/// Takes back what has not been taken; how many members can take it no more.
pub fn revoke(memory: &impl Memory, offered: Offered) -> usize {
    let mut revoked = 0;
    let shut = |word: u64| {
        let found = TakersWord(word);
        revoked = found.takers();
        (found.same_use(offered.used) && revoked > 0).then(|| found.for_takers(0, false).0)
    };
    // SYNC POINT: offer taken. Release pairs with the acquire of the place's next claim.
    match memory.word(offered.at.takers()).fetch_update(Ordering::AcqRel, Ordering::Relaxed, shut) {
        Ok(_) => revoked,
        Err(_) => 0,
    }
}

/// Takes back what a leader offers of the block that starts at `start`, up to `most` times; how many members can take
/// it no more. For whoever holds that block: no other is offered as `start` meanwhile.
pub fn revoke_of(memory: &impl Memory, node: &NodeLayout, leader: usize, start: WordAt, most: usize) -> usize {
    let mut revoked = 0;
    for at in (0..OFFERS).map(|index| node.offer(leader, index)) {
        let shut = |word: u64| {
            let found = TakersWord(word);
            let taken_back = found.takers().min(most);
            let is_it =
                found.0 & TakersWord::REFUSED == 0 && memory.word(at.value()).load(Ordering::Relaxed) == start.0 as u64;
            (is_it && taken_back > 0).then(|| found.for_takers(found.takers() - taken_back, false).0)
        };
        // SYNC POINT: offer taken, as in `revoke`; acquire first, for the value.
        if let Ok(before) = memory.word(at.takers()).fetch_update(Ordering::AcqRel, Ordering::Acquire, shut) {
            revoked += TakersWord(before).takers().min(most);
        }
    }
    revoked
}

/// Whether members of the node have still to take it.
pub fn is_untaken(memory: &impl Memory, offered: Offered) -> bool {
    let found = TakersWord(memory.word(offered.at.takers()).load(Ordering::Relaxed));
    found.same_use(offered.used) && found.takers() > 0
}

/// A free place, or that of the oldest refusal.
fn claim(memory: &impl Memory, node: &NodeLayout, leader: usize) -> Option<Offered> {
    let mut places: Vec<(u64, OfferAt, TakersWord)> = (0..OFFERS)
        .map(|index| node.offer(leader, index))
        .map(|at| (at, TakersWord(memory.word(at.takers()).load(Ordering::Relaxed))))
        .filter(|(_, word)| word.is_vacant() || word.is_refusal())
        // The number tells the refusals' order: what is not offered to other nodes has none.
        .map(|(at, word)| (memory.word(at.group()).load(Ordering::Relaxed), at, word))
        .collect();
    places.sort_by_key(|(group, _, word)| (!word.is_vacant(), *group));
    places.into_iter().find_map(|(_, at, word)| {
        let used = word.next_use();
        // SYNC POINT: offer taken. Acquire pairs with the last taker's release, or with the leader's: all have read the
        // place.
        let claimed = memory.word(at.takers()).compare_exchange(word.0, used.0, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok().then_some(Offered { at, used })
    })
}

fn fill(memory: &impl Memory, offered: Offered, named: Named, value: u64) {
    end_attempt(memory, offered);
    let store = |at: WordAt, value: u64| memory.word(at).store(value, Ordering::Relaxed);
    store(offered.at.key(), named.key);
    store(offered.at.call(), named.call);
    store(offered.at.value(), value);
}

/// Takes what the leader offers under a name, once; [`REFUSED`] if that is a refusal, or the call is over.
pub fn take(memory: &impl Memory, node: &NodeLayout, leader: usize, named: Named) -> Option<u64> {
    let places = || (0..OFFERS).map(|index| node.offer(leader, index));
    let exact = || places().find_map(|at| take_at(memory, at, named));
    exact().or_else(|| {
        let is_over = places().any(|at| is_of_later_call(memory, at, named));
        // What is offered later was not there when its place was looked at: if the own call is offered still, it can be
        // seen now.
        is_over.then(|| exact().unwrap_or(REFUSED))
    })
}

fn take_at(memory: &impl Memory, at: OfferAt, named: Named) -> Option<u64> {
    let takers = memory.word(at.takers());
    loop {
        // SYNC POINT: offer. Acquire pairs with the leader's opening.
        let found = TakersWord(takers.load(Ordering::Acquire));
        let load = |at: WordAt| memory.word(at).load(Ordering::Relaxed);
        if found.takers() == 0 || load(at.key()) != named.key || load(at.call()) != named.call {
            return None;
        }
        let value = if found.0 & TakersWord::REFUSED == 0 { load(at.value()) } else { REFUSED };
        // SYNC POINT: offer taken. Release: the words have been read. If the swap succeeds they belonged to this use.
        if takers.compare_exchange(found.0, found.0 - 1, Ordering::Release, Ordering::Relaxed).is_ok() {
            return Some(value);
        }
    }
}

fn is_of_later_call(memory: &impl Memory, at: OfferAt, named: Named) -> bool {
    // SYNC POINT: offer. As in `take_at`; a call that has been seen by halves is looked at again.
    let opened = memory.word(at.takers()).load(Ordering::Acquire);
    let load = |at: WordAt| memory.word(at).load(Ordering::Acquire);
    let is_later = load(at.key()) == named.key && load(at.call()) > named.call;
    is_later
        && TakersWord(opened).takers() > 0
        && TakersWord(memory.word(at.takers()).load(Ordering::Relaxed)).same_use(TakersWord(opened))
}

/// Hash over the packed words in this file.
pub const LAYOUT_HASH: u64 = hash(
    6,
    &[
        REFUSED,
        TakersWord::TAKERS,
        TakersWord::REFUSED,
        TakersWord::HELD,
        TakersWord::USE as u64,
        StageWord::new(Stage::Agreed, 8).0,
    ],
);
