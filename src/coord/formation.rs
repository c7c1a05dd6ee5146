//! Making a group, by its members only.
//!
//! The first member in the list is the *leader* for the purpose of making it: it claims a block of the arena,
//! initialises it, and *offers* it under a key that all members compute alike. The others look for the key among the
//! leader's offers and take it. Nobody else takes part, and groups that are made at the same time do not meet.
//!
//! An offer is three words in the leader's entry of the rank table: key, value, and how many members still have to
//! take it. A leader has [`OFFERS`] of them; one is free again when all have taken it.

use super::arena;
use super::barrier::choice::{Algorithm, tree_parents};
use super::barrier::layout::{GroupLayout, MemberWord};
use crate::fabric::node::{NodeLayout, OFFERS, UNIT_WORDS, header};
use crate::fabric::{Memory, WordAt};
use crate::machine::Place;
use crate::sync::Ordering;

/// The value of an offer that is none: the leader found no space.
pub const REFUSED: u64 = u64::MAX;

/// Units of the arena that a group of `size` members takes.
pub const fn units(size: usize) -> usize {
    GroupLayout::words(size).div_ceil(UNIT_WORDS)
}

/// No run of units in the arena is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace {
    /// Units needed in a row.
    pub needed: usize,
    /// Units free in all.
    pub free: usize,
}

/// Claims and initialises a block for the group of `ranks` (in the job's numbers, in the group's order).
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
    let needed = units(ranks.len());
    let Some(unit) = arena::claim(memory, node, needed) else {
        let free = node.arena_units() - arena::taken(memory, node);
        return Err(NoSpace { needed, free });
    };
    let layout = GroupLayout::new(node.unit(unit), ranks.len());
    for offset in 0..needed * UNIT_WORDS {
        // Relaxed, here and below: whoever else sees the block has taken an offer (SYNC POINT: offer) or joined the
        // job after its making.
        memory.word(layout.start().plus(offset)).store(0, Ordering::Relaxed);
    }
    let number = memory.word(header::NEXT_GROUP).fetch_add(1, Ordering::Relaxed);
    let store = |at: WordAt, value: u64| memory.word(at).store(value, Ordering::Relaxed);
    store(layout.id(), number);
    store(layout.size_word(), ranks.len() as u64);
    store(layout.references(), ranks.len() as u64);
    let places: Vec<Option<Place>> = ranks.iter().map(|rank| place_of(memory, node, *rank)).collect();
    for (index, parent) in tree_parents(&places).into_iter().enumerate() {
        store(layout.member(index), MemberWord::new(ranks[index], parent).0);
    }
    set_algorithm(memory, layout, algorithm);
    Ok(layout)
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
    // SYNC POINT: references. Release: this member's last use of the block comes before; acquire: the one that gives
    // the block back has seen all others' last uses.
    if memory.word(layout.references()).fetch_sub(1, Ordering::AcqRel) == 1 {
        let unit = (layout.start().0 - node.unit(0).0) / UNIT_WORDS;
        arena::release(memory, node, unit, units(layout.size()));
    }
}

/// The leader offers `value` under `key` to `takers` members. `false` while all its offers are still to be taken.
pub fn offer(memory: &impl Memory, node: &NodeLayout, leader: usize, key: u64, value: u64, takers: usize) -> bool {
    for index in 0..OFFERS {
        let [key_at, value_at, takers_at] = node.offer(leader, index);
        // SYNC POINT: offer taken. Acquire pairs with the last taker's decrement: it has read the value.
        if memory.word(takers_at).load(Ordering::Acquire) != 0 {
            continue;
        }
        memory.word(takers_at).store(takers as u64, Ordering::Relaxed);
        memory.word(value_at).store(value, Ordering::Relaxed);
        // SYNC POINT: offer. Release: who finds the key sees the value and the initialised block.
        memory.word(key_at).store(key, Ordering::Release);
        return true;
    }
    false
}

/// Takes what the leader offers under `key`, once.
pub fn take(memory: &impl Memory, node: &NodeLayout, leader: usize, key: u64) -> Option<u64> {
    (0..OFFERS).map(|index| node.offer(leader, index)).find_map(|[key_at, value_at, takers_at]| {
        // SYNC POINT: offer. Acquire pairs with the leader's release. A key of an earlier offer whose takers are all
        // gone is never looked for again.
        if memory.word(key_at).load(Ordering::Acquire) != key {
            return None;
        }
        let value = memory.word(value_at).load(Ordering::Relaxed);
        // SYNC POINT: offer taken.
        memory.word(takers_at).fetch_sub(1, Ordering::Release);
        Some(value)
    })
}

/// The block of `size` members at a position that came out of shared memory, if it can be one.
pub fn checked_block(memory: &impl Memory, node: &NodeLayout, start: u64, size: usize) -> Option<GroupLayout> {
    let start = WordAt(usize::try_from(start).ok()?);
    let first = node.unit(0);
    let end = start.0.checked_add(GroupLayout::words(size))?;
    if start < first || !(start.0 - first.0).is_multiple_of(UNIT_WORDS) || end > memory.words() {
        return None;
    }
    let layout = GroupLayout::new(start, size);
    let number = memory.word(layout.algorithm()).load(Ordering::Relaxed);
    let is_sound = memory.word(layout.size_word()).load(Ordering::Relaxed) == size as u64
        && Algorithm::from_number(number).is_some();
    is_sound.then_some(layout)
}

/// The members of a colour, in the order of their keys and then of their indices in the parent.
pub fn members_of(color: u64, given: &[(u64, u64)]) -> Vec<usize> {
    let mut members: Vec<usize> = (0..given.len()).filter(|index| given[*index].0 == color).collect();
    members.sort_by_key(|index| (given[*index].1, *index));
    members
}
