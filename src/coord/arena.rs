//! The arena: space for groups, cut from the segment in units and given back.
//!
//! A bitmap with a bit for each unit. Claiming sets a run of clear bits, word by word with compare-and-swap, and takes
//! back what it has set when another rank was quicker; so no lock exists that a dying rank could leave held. (A rank
//! that dies in the middle of a claim leaks those units until the job ends.)

use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;
use crate::sync::Ordering;

/// Claims `units` units in a row; returns the first, or `None` when no such run is free.
pub fn claim(memory: &impl Memory, layout: &NodeLayout, units: usize) -> Option<usize> {
    let mut start = 0;
    while start + units <= layout.arena_units() {
        match last_taken(memory, layout, start, units) {
            Some(taken) => start = taken + 1,
            None if set_run(memory, layout, start, units) => return Some(start),
            // Another rank took a part of it meanwhile: look again from here.
            None => {}
        }
    }
    None
}

/// Gives a run back that [`claim`] returned.
pub fn release(memory: &impl Memory, layout: &NodeLayout, start: usize, units: usize) {
    for (word, mask) in masks(start, units) {
        // SYNC POINT: arena. Release pairs with the acquire of the next claim: the last use of the units happens
        // before their next.
        memory.word(layout.bitmap(word)).fetch_and(!mask, Ordering::Release);
    }
}

/// The units that are taken, in order.
pub fn taken_units(memory: &impl Memory, layout: &NodeLayout) -> impl Iterator<Item = usize> {
    let bits = |word| memory.word(layout.bitmap(word)).load(Ordering::Relaxed);
    let set = move |word| (0..64).filter(move |bit| bits(word) >> bit & 1 == 1).map(move |bit| word * 64 + bit);
    (0..layout.bitmap_words()).filter(move |word| bits(*word) != 0).flat_map(set)
}

/// How many units are taken.
pub fn taken(memory: &impl Memory, layout: &NodeLayout) -> usize {
    let count = |word| memory.word(layout.bitmap(word)).load(Ordering::Relaxed).count_ones() as usize;
    (0..layout.bitmap_words()).map(count).sum()
}

fn last_taken(memory: &impl Memory, layout: &NodeLayout, start: usize, units: usize) -> Option<usize> {
    (start..start + units)
        .rev()
        .find(|unit| memory.word(layout.bitmap(unit / 64)).load(Ordering::Relaxed) & 1 << (unit % 64) != 0)
}

fn set_run(memory: &impl Memory, layout: &NodeLayout, start: usize, units: usize) -> bool {
    let mut done = 0;
    for (word, mask) in masks(start, units) {
        if !set_mask(memory, layout, word, mask) {
            release(memory, layout, start, done);
            return false;
        }
        done += mask.count_ones() as usize;
    }
    true
}

fn set_mask(memory: &impl Memory, layout: &NodeLayout, word: usize, mask: u64) -> bool {
    let word = memory.word(layout.bitmap(word));
    let set = |bits: u64| (bits & mask == 0).then_some(bits | mask);
    // SYNC POINT: arena. Acquire pairs with the release of the unit's last holder.
    word.fetch_update(Ordering::Acquire, Ordering::Relaxed, set).is_ok()
}

/// The bitmap's words that a run touches, each with the run's bits in it.
fn masks(start: usize, units: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = start + units;
    let words = start / 64..end.div_ceil(64);
    words.filter(move |_| units > 0).map(move |word| {
        let from = start.max(word * 64) - word * 64;
        let to = end.min(word * 64 + 64) - word * 64;
        let below = |bit: usize| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
        (word, below(to) & !below(from))
    })
}
