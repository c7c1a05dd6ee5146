//! Making a group, by its members only.
//!
//! The first member in the list is the *leader* for the purpose of making it: it claims a block of the arena,
//! initialises it, and *offers* it under a key that all members compute alike. The others look for the key among the
//! leader's offers and take it. Nobody else takes part, and groups that are made at the same time do not meet.
//!
//! An offer is a few words in the leader's entry of the rank table: key, value, and how many members still have to
//! take it. A leader has [`OFFERS`] of them; one is free again when all have taken it.
//!
//! A group that spans nodes has a leader and a block on each of them. The leaders introduce themselves to each other
//! first, by offers that are read through the fabric ([`super::introductions`]), and then each makes its offer at home.

use super::arena;
use super::barrier::choice::{Algorithm, tree_parents};
use super::barrier::layout::{GroupLayout, MemberWord};
use super::barrier::spanning::Schedule;
use super::barrier::spanning::layout::SpanLayout;
use crate::fabric::node::{NodeLayout, OFFERS, OfferAt, UNIT_WORDS, header};
use crate::fabric::{Memory, WordAt};
use crate::machine::Place;
use crate::sync::Ordering;

/// The value of an offer that is none: the leader found no space.
pub const REFUSED: u64 = u64::MAX;

/// Units of the arena that a group of `size` members takes.
pub const fn units(size: usize) -> usize {
    GroupLayout::words(size).div_ceil(UNIT_WORDS)
}

/// Units of the arena that a node's block of a spanning group takes, with `members` on the node.
pub const fn units_spanning(schedule: &Schedule, members: usize) -> usize {
    SpanLayout::words(schedule, members).div_ceil(UNIT_WORDS)
}

/// No run of units in the arena is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace {
    /// Units needed in a row.
    pub needed: usize,
    /// Units free in all.
    pub free: usize,
}

/// A member, as its own node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its rank in the job.
    pub rank: usize,
    /// Its place in its node's rank table.
    pub local: usize,
}

/// Claims and initialises a block for the group of `ranks`, in the group's order, in a job of one node.
///
/// # Errors
///
/// [`NoSpace`] when the arena is full.
pub fn make(
    memory: &impl Memory,
    node: &NodeLayout,
    ranks: &[usize],
    algorithm: Algorithm,
) -> Result<GroupLayout, NoSpace> {
    let members: Vec<Member> = ranks.iter().map(|rank| Member { rank: *rank, local: *rank }).collect();
    make_for(memory, node, &members, algorithm)
}

/// Claims and initialises a block for a group whose members all live on this node.
///
/// # Errors
///
/// [`NoSpace`] when the arena is full.
pub fn make_for(
    memory: &impl Memory,
    node: &NodeLayout,
    members: &[Member],
    algorithm: Algorithm,
) -> Result<GroupLayout, NoSpace> {
    let layout = GroupLayout::new(claim_zeroed(memory, node, units(members.len()))?, members.len());
    initialise(memory, node, layout, members, algorithm);
    Ok(layout)
}

/// Claims and initialises this node's block of a group that spans nodes, for its `members` here.
///
/// # Errors
///
/// [`NoSpace`] when the arena is full.
pub fn make_spanning(
    memory: &impl Memory,
    node: &NodeLayout,
    schedule: Schedule,
    members: &[Member],
    algorithm: Algorithm,
) -> Result<SpanLayout, NoSpace> {
    let start = claim_zeroed(memory, node, units_spanning(&schedule, members.len()))?;
    let layout = SpanLayout::new(start, schedule, members.len());
    initialise(memory, node, layout.local(), members, algorithm);
    Ok(layout)
}

fn claim_zeroed(memory: &impl Memory, node: &NodeLayout, needed: usize) -> Result<WordAt, NoSpace> {
    let Some(unit) = arena::claim(memory, node, needed) else {
        let free = node.arena_units() - arena::taken(memory, node);
        return Err(NoSpace { needed, free });
    };
    let start = node.unit(unit);
    for offset in 0..needed * UNIT_WORDS {
        // Relaxed, here and below: whoever else sees the block has taken an offer (SYNC POINT: offer) or joined the
        // job after its making.
        memory.word(start.plus(offset)).store(0, Ordering::Relaxed);
    }
    Ok(start)
}

fn initialise(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, members: &[Member], algorithm: Algorithm) {
    let number = memory.word(header::NEXT_GROUP).fetch_add(1, Ordering::Relaxed);
    let store = |at: WordAt, value: u64| memory.word(at).store(value, Ordering::Relaxed);
    store(layout.id(), number);
    store(layout.size_word(), members.len() as u64);
    store(layout.references(), members.len() as u64);
    let places: Vec<Option<Place>> = members.iter().map(|member| place_of(memory, node, member.local)).collect();
    for (index, parent) in tree_parents(&places).into_iter().enumerate() {
        store(layout.member(index), MemberWord::new(members[index].rank, parent).0);
    }
    set_algorithm(memory, layout, algorithm);
}

/// Names the group's algorithm; before any member uses it.
pub fn set_algorithm(memory: &impl Memory, layout: GroupLayout, algorithm: Algorithm) {
    memory.word(layout.algorithm()).store(algorithm as u64, Ordering::Relaxed);
}

fn place_of(memory: &impl Memory, node: &NodeLayout, rank: usize) -> Option<Place> {
    Place::unpack(memory.word(node.place(rank)).load(Ordering::Relaxed))
}

/// Lets one member go; the last one gives the block back.
pub fn leave(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout) {
    if is_last_to_leave(memory, layout) {
        give_back(memory, node, layout.start(), units(layout.size()));
    }
}

/// Lets one member go, and tells whether it was the last of its node.
pub fn is_last_to_leave(memory: &impl Memory, layout: GroupLayout) -> bool {
    // SYNC POINT: references. Release: this member's last use of the block comes before; acquire: the one that gives
    // the block back has seen all others' last uses.
    memory.word(layout.references()).fetch_sub(1, Ordering::AcqRel) == 1
}

/// Gives a spanning group's block back, if all the other nodes have said twice that they will touch it no more.
pub fn release_spanning(memory: &impl Memory, node: &NodeLayout, layout: SpanLayout) -> bool {
    // SYNC POINT: departures. Acquire pairs with the fabric's additions, which come after all that their processes wrote.
    let departures = memory.word(layout.departures()).load(Ordering::Acquire);
    let is_free = departures >= 2 * (layout.schedule().nodes() as u64 - 1);
    if is_free {
        give_back(memory, node, layout.start(), units_spanning(layout.schedule(), layout.local().size()));
    }
    is_free
}

/// Gives a block back that nobody has seen.
pub fn give_back(memory: &impl Memory, node: &NodeLayout, start: WordAt, units: usize) {
    arena::release(memory, node, (start.0 - node.unit(0).0) / UNIT_WORDS, units);
}

/// The leader offers `value` under `key` to `takers` members of its node. `false` while all its offers are still to be
/// taken.
pub fn offer(memory: &impl Memory, node: &NodeLayout, leader: usize, key: u64, value: u64, takers: usize) -> bool {
    let Some(offer) = free_offer(memory, node, leader) else { return false };
    memory.word(offer.takers()).store(takers as u64, Ordering::Relaxed);
    publish_offer(memory, offer, key, value);
    true
}

/// The leader offers its node's block of group `group` under `key` to `askers` other nodes. `false` as in [`offer`].
pub fn offer_abroad(
    memory: &impl Memory,
    node: &NodeLayout,
    leader: usize,
    key: u64,
    (value, group): (u64, u64),
    askers: usize,
) -> bool {
    let Some(offer) = free_offer(memory, node, leader) else { return false };
    let due = memory.word(offer.thanks_due());
    due.store(due.load(Ordering::Relaxed) + askers as u64, Ordering::Relaxed);
    memory.word(offer.group()).store(group, Ordering::Relaxed);
    publish_offer(memory, offer, key, value);
    true
}

/// A place for an offer: everybody has taken the one that was there.
fn free_offer(memory: &impl Memory, node: &NodeLayout, leader: usize) -> Option<OfferAt> {
    (0..OFFERS).map(|index| node.offer(leader, index)).find(|offer| {
        // SYNC POINT: offer taken. Acquire pairs with the last taker's decrement, or with the fabric's addition: it has
        // read the value.
        let load = |at| memory.word(at).load(Ordering::Acquire);
        load(offer.takers()) == 0 && load(offer.thanks()) == load(offer.thanks_due())
    })
}

fn publish_offer(memory: &impl Memory, offer: OfferAt, key: u64, value: u64) {
    memory.word(offer.value()).store(value, Ordering::Relaxed);
    // SYNC POINT: offer. Release: who finds the key sees the value and the initialised block.
    memory.word(offer.key()).store(key, Ordering::Release);
}

/// Takes what the leader offers under `key`, once.
pub fn take(memory: &impl Memory, node: &NodeLayout, leader: usize, key: u64) -> Option<u64> {
    (0..OFFERS).map(|index| node.offer(leader, index)).find_map(|offer| {
        // SYNC POINT: offer. Acquire pairs with the leader's release. A key of an earlier offer whose takers are all
        // gone is never looked for again.
        if memory.word(offer.key()).load(Ordering::Acquire) != key {
            return None;
        }
        let value = memory.word(offer.value()).load(Ordering::Relaxed);
        // SYNC POINT: offer taken.
        memory.word(offer.takers()).fetch_sub(1, Ordering::Release);
        Some(value)
    })
}

/// The block of `size` members at a position that came out of shared memory, if it can be one.
pub fn checked_block(memory: &impl Memory, node: &NodeLayout, start: u64, size: usize) -> Option<GroupLayout> {
    let start = checked_start(node, start, GroupLayout::words(size))?;
    let layout = GroupLayout::new(start, size);
    is_sound(memory, layout).then_some(layout)
}

/// As [`checked_block`], for a spanning group with `members` on this node.
pub fn checked_spanning_block(
    memory: &impl Memory,
    node: &NodeLayout,
    start: u64,
    schedule: Schedule,
    members: usize,
) -> Option<SpanLayout> {
    let start = checked_start(node, start, SpanLayout::words(&schedule, members))?;
    let layout = SpanLayout::new(start, schedule, members);
    is_sound(memory, layout.local()).then_some(layout)
}

/// A position of a node's segment, this one's or another's, at which a block of `words` words can stand.
pub fn checked_start(node: &NodeLayout, start: u64, words: usize) -> Option<WordAt> {
    let start = WordAt(usize::try_from(start).ok()?);
    let first = node.unit(0);
    let end = start.0.checked_add(words)?;
    let can_be = start >= first && (start.0 - first.0).is_multiple_of(UNIT_WORDS) && end <= node.words();
    can_be.then_some(start)
}

fn is_sound(memory: &impl Memory, layout: GroupLayout) -> bool {
    let number = memory.word(layout.algorithm()).load(Ordering::Relaxed);
    memory.word(layout.size_word()).load(Ordering::Relaxed) == layout.size() as u64
        && Algorithm::from_number(number).is_some()
}

/// The members of a colour, in the order of their keys and then of their indices in the parent.
pub fn members_of(color: u64, given: &[(u64, u64)]) -> Vec<usize> {
    let mut members: Vec<usize> = (0..given.len()).filter(|index| given[*index].0 == color).collect();
    members.sort_by_key(|index| (given[*index].1, *index));
    members
}
