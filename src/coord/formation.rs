//! Making a group, by its members only.
//!
//! The first member in the list is the *leader* for the purpose of making it: it claims a block of the arena,
//! initialises it, and *offers* it under a key that all members compute alike. The others look for the key among the
//! leader's offers and take it. Nobody else takes part, and groups that are made at the same time do not meet.
//!
//! *Holds.* A block stays for as long as somebody holds it: its leader from the beginning, the members of its node from
//! when it is offered to them. Whoever lets the last hold go gives the block back. That of a group that spans nodes is
//! *departed* first: other nodes may still use it, and one rank of the node, its *heir*, gives it back when they do not
//! ([`super::farewell`]). What a rank held that is dead, [`burial`] lets go.
//!
//! [`burial`]: super::burial
//!
//! How offers are made and taken: [`super::offers`]. A group that spans nodes has a leader and a block on each of them;
//! the leaders agree among themselves first ([`super::introductions`]), and then each offers its block at home.

use super::arena;
use super::barrier::choice::{Algorithm, tree_parents};
use super::barrier::layout::{GroupLayout, MemberWord};
use super::barrier::spanning::Schedule;
use super::barrier::spanning::layout::SpanLayout;
use crate::fabric::node::{NodeLayout, UNIT_WORDS, hash, header};
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

/// Who holds a block, and what it takes to find its members: in the table beside the arena.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–15 | holds | members of the node that hold it or may take it, and those who look at it; 0: nobody, it is no block |
/// |      |       | of a departed block: the heir's place in the rank table |
/// | 16–31 | members | of the group, on this node |
/// | 32–62 | nodes | of the group |
/// | 63 | departed | nobody of this node uses it any more |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldsWord(pub u64);

impl HoldsWord {
    const HOLDS: u64 = 0xffff;
    const MEMBERS_AT: u32 = 16;
    const MEMBERS: u64 = 0xffff;
    const NODES_AT: u32 = 32;
    const DEPARTED: u64 = 1 << 63;

    /// One hold on a block for so many members of this node, of a group on so many nodes.
    pub const fn first(members: usize, nodes: usize) -> Self {
        Self(1 | (members as u64 & Self::MEMBERS) << Self::MEMBERS_AT | (nodes as u64) << Self::NODES_AT)
    }

    /// How many hold it.
    pub const fn holds(self) -> u64 {
        if self.0 & Self::DEPARTED == 0 { self.0 & Self::HOLDS } else { 0 }
    }

    /// The same block, departed, with an heir.
    pub const fn left_to(self, heir: usize) -> Self {
        Self(self.0 & !Self::HOLDS | Self::DEPARTED | heir as u64 & Self::HOLDS)
    }

    /// The rank that gives a departed block back.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    pub const fn heir(self) -> Option<usize> {
        if self.0 & Self::DEPARTED == 0 { None } else { Some((self.0 & Self::HOLDS) as usize) }
    }

    /// The group's members on this node.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    pub const fn members(self) -> usize {
        (self.0 >> Self::MEMBERS_AT & Self::MEMBERS) as usize
    }

    /// The group's nodes.
    #[allow(clippy::cast_possible_truncation, reason = "31 bits after the shift")]
    pub const fn nodes(self) -> usize {
        ((self.0 & !Self::DEPARTED) >> Self::NODES_AT) as usize
    }
}

/// What a member has of its group's block: in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It has not taken it.
    NotTaken = 0,
    /// It holds it.
    Held = 1,
    /// It has let it go, or somebody has for it.
    LetGo = 2,
}

/// Claims and initialises a block for the group of `ranks`, in the group's order, in a job of one node, and lets all of
/// them hold it.
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
    let layout = make_for(memory, node, &members, algorithm)?;
    share(memory, node, layout.start(), members.len() - 1);
    Ok(layout)
}

/// Claims and initialises a block for a group whose members all live on this node. The first of them holds it.
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
    hold_first(memory, node, layout.start(), HoldsWord::first(members.len(), 1));
    Ok(layout)
}

/// Claims and initialises this node's block of a group that spans nodes, for its `members` here. The first of them
/// holds it.
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
    hold_first(memory, node, start, HoldsWord::first(members.len(), schedule.nodes()));
    Ok(layout)
}

fn hold_first(memory: &impl Memory, node: &NodeLayout, start: WordAt, holds: HoldsWord) {
    // SYNC POINT: holds. Release: who looks at the block because of this finds it initialised.
    memory.word(node.holds(node.unit_at(start))).store(holds.0, Ordering::Release);
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
    let places: Vec<Option<Place>> = members.iter().map(|member| place_of(memory, node, member.local)).collect();
    for (index, parent) in tree_parents(&places).into_iter().enumerate() {
        store(layout.member(index), MemberWord::new(members[index].rank, parent).0);
    }
    store(layout.hold(0), Hold::Held as u64);
    set_algorithm(memory, layout, algorithm);
}

/// Names the group's algorithm; before any member uses it.
pub fn set_algorithm(memory: &impl Memory, layout: GroupLayout, algorithm: Algorithm) {
    memory.word(layout.algorithm()).store(algorithm as u64, Ordering::Relaxed);
}

fn place_of(memory: &impl Memory, node: &NodeLayout, rank: usize) -> Option<Place> {
    Place::unpack(memory.word(node.place(rank)).load(Ordering::Relaxed))
}

/// Lets so many more hold a block that somebody holds: before it is offered to them.
pub fn share(memory: &impl Memory, node: &NodeLayout, start: WordAt, holds: usize) {
    // Relaxed: the offer publishes it (SYNC POINT: offer), and whoever gives the block back has seen all holds.
    memory.word(node.holds(node.unit_at(start))).fetch_add(holds as u64, Ordering::Relaxed);
}

/// Notes that a member has taken what was offered to it.
pub fn note_taken(memory: &impl Memory, layout: GroupLayout, member: usize) {
    // Relaxed: read by others only when this member is dead.
    memory.word(layout.hold(member)).store(Hold::Held as u64, Ordering::Relaxed);
}

/// Takes a member's hold away, so that it is let go once: by the caller. What it was.
pub fn take_away(memory: &impl Memory, layout: GroupLayout, member: usize) -> Hold {
    // Relaxed: the swap alone decides.
    match memory.word(layout.hold(member)).swap(Hold::LetGo as u64, Ordering::Relaxed) {
        0 => Hold::NotTaken,
        1 => Hold::Held,
        _ => Hold::LetGo,
    }
}

/// Lets one member of a group of this node alone go; the last one gives the block back.
pub fn leave(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, member: usize) {
    if take_away(memory, layout, member) != Hold::LetGo {
        let_go(memory, node, layout, 1);
    }
}

/// Lets holds on the block of a group of this node alone go that were taken away or back; the last gives the block
/// back.
pub fn let_go(memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, holds: u64) {
    if were_last(memory, node, layout.start(), holds) {
        give_back(memory, node, layout.start(), units(layout.size()));
    }
}

/// Lets some holds go, and tells whether they were the last on this node.
pub fn were_last(memory: &impl Memory, node: &NodeLayout, start: WordAt, holds: u64) -> bool {
    // SYNC POINT: holds. Release: these holders' last use of the block comes before; acquire: the one that gives the
    // block back has seen all others' last uses.
    let before = memory.word(node.holds(node.unit_at(start))).fetch_sub(holds, Ordering::AcqRel);
    HoldsWord(before).holds() == holds
}

/// Holds the block that begins at a unit, if one does and it is meant, for a look at it.
pub fn hold_to_look(
    memory: &impl Memory,
    node: &NodeLayout,
    unit: usize,
    is_meant: impl Fn(HoldsWord) -> bool,
) -> Option<HoldsWord> {
    let more = |word: u64| {
        let found = HoldsWord(word);
        ((1..HoldsWord::HOLDS).contains(&found.holds()) && is_meant(found)).then_some(word + 1)
    };
    // SYNC POINT: holds. Acquire pairs with the block's making: what it says of itself is seen. Nobody gives it back
    // from here on but who lets this hold go.
    let held = memory.word(node.holds(unit)).fetch_update(Ordering::Acquire, Ordering::Relaxed, more);
    held.ok().map(HoldsWord)
}

/// Lets holds on a node's block of a spanning group go. `true`: they were the last, the block is departed, and `heir`
/// has to see to it.
pub fn let_go_spanning(memory: &impl Memory, node: &NodeLayout, layout: &SpanLayout, holds: u64, heir: usize) -> bool {
    let word = memory.word(node.holds(node.unit_at(layout.start())));
    let fewer = |word: u64| {
        let found = HoldsWord(word);
        Some(if found.holds() == holds { found.left_to(heir).0 } else { word - holds })
    };
    // SYNC POINT: holds. As in `were_last`. In one step: who dies here always leaves a hold or an heir.
    let before = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fewer);
    before.is_ok_and(|before| HoldsWord(before).holds() == holds)
}

/// Whether some block of the node is departed and not given back.
pub fn has_departed(memory: &impl Memory, node: &NodeLayout) -> bool {
    let heir = |unit| HoldsWord(memory.word(node.holds(unit)).load(Ordering::Relaxed)).heir();
    arena::taken_units(memory, node).any(|unit| heir(unit).is_some())
}

/// Becomes the heir of the departed block that begins at a unit, if there is one and its heir has ended.
pub fn inherit(
    memory: &impl Memory,
    node: &NodeLayout,
    unit: usize,
    heir: usize,
    has_ended: impl Fn(usize) -> bool,
) -> Option<HoldsWord> {
    let mine = |word: u64| {
        let found = HoldsWord(word);
        found.heir().is_some_and(&has_ended).then(|| found.left_to(heir).0)
    };
    // SYNC POINT: holds. Acquire pairs with the last holder's release: what the block says of itself is seen.
    memory.word(node.holds(unit)).fetch_update(Ordering::AcqRel, Ordering::Relaxed, mine).ok().map(HoldsWord)
}

/// Gives a departed block back, unless it has another heir by now.
pub fn give_back_departed(memory: &impl Memory, node: &NodeLayout, layout: &SpanLayout, heir: usize) {
    let nobody = |word: u64| (HoldsWord(word).heir() == Some(heir)).then_some(0);
    let word = memory.word(node.holds(node.unit_at(layout.start())));
    // SYNC POINT: holds. Only one succeeds: an heir that was stopped, and has been followed by another, fails here.
    if word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, nobody).is_ok() {
        give_back(memory, node, layout.start(), units_of(layout));
    }
}

/// Gives a node's block of a spanning group back of which there will be no group, and which nobody but its leader
/// holds.
pub fn discard(memory: &impl Memory, node: &NodeLayout, layout: &SpanLayout, leader: usize) {
    // Relaxed: who reads it learns that this node waits for nobody, and wants nothing.
    memory.word(layout.ballot()).store(0, Ordering::Relaxed);
    // Whoever has a look at it now inherits it.
    if let_go_spanning(memory, node, layout, 1, leader) {
        give_back_departed(memory, node, layout, leader);
    }
}

/// Gives a block back that nobody holds.
pub fn give_back(memory: &impl Memory, node: &NodeLayout, start: WordAt, units: usize) {
    arena::release(memory, node, node.unit_at(start), units);
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

/// Hash over the packed words in this file.
pub const LAYOUT_HASH: u64 =
    hash(7, &[HoldsWord::first(1, 1).0, HoldsWord::HOLDS, Hold::LetGo as u64, HoldsWord::DEPARTED]);
