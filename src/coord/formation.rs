//! Making a group, by its members only.
//!
//! The first member in the list is the *leader* for the purpose of making it: it claims a block of the arena,
//! initialises it, and *offers* it under a key that all members compute alike. The others look for the key among the
//! leader's offers and take it. Nobody else takes part, and groups that are made at the same time do not meet.
//!
//! How offers are made and taken: [`super::offers`]. A group that spans nodes has a leader and a block on each of them;
//! the leaders agree among themselves first ([`super::introductions`]), and then each offers its block at home.

use super::arena;
use super::barrier::choice::{Algorithm, tree_parents};
use super::barrier::layout::{GroupLayout, MemberWord};
use super::barrier::spanning::Schedule;
use super::barrier::spanning::layout::SpanLayout;
use crate::fabric::node::{NodeLayout, UNIT_WORDS, header};
use crate::fabric::{Memory, WordAt};
use crate::machine::Place;
use crate::sync::Ordering;

/// Units of the arena that a group of `size` members takes.
pub const fn units(size: usize) -> usize {
    GroupLayout::words(size).div_ceil(UNIT_WORDS)
}

/// Units of the arena that a node's block of a spanning group takes, with `members` on the node.
pub const fn units_spanning(schedule: &Schedule, members: usize) -> usize {
    SpanLayout::words(schedule, members).div_ceil(UNIT_WORDS)
}

/// Units of the arena that such a block has.
pub const fn units_of(layout: &SpanLayout) -> usize {
    units_spanning(layout.schedule(), layout.local().size())
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

/// The number of the next group, or attempt to make one, on this node.
pub fn next_number(memory: &impl Memory) -> u64 {
    memory.word(header::NEXT_GROUP).fetch_add(1, Ordering::Relaxed)
}

fn initialise(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, members: &[Member], algorithm: Algorithm) {
    let number = next_number(memory);
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
    leave_together(memory, node, layout, 1);
}

/// As [`leave`], for several members.
pub fn leave_together(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, holds: u64) {
    if are_last_to_leave(memory, layout, holds) {
        give_back(memory, node, layout.start(), units(layout.size()));
    }
}

/// Lets some members go, and tells whether they were the last of their node.
pub fn are_last_to_leave(memory: &impl Memory, layout: GroupLayout, holds: u64) -> bool {
    // SYNC POINT: references. Release: this member's last use of the block comes before; acquire: the one that gives
    // the block back has seen all others' last uses.
    memory.word(layout.references()).fetch_sub(holds, Ordering::AcqRel) == holds
}

/// Gives a block back that nobody uses: because nobody has seen it, or all have left.
pub fn give_back(memory: &impl Memory, node: &NodeLayout, start: WordAt, units: usize) {
    arena::release(memory, node, (start.0 - node.unit(0).0) / UNIT_WORDS, units);
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
