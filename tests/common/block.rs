//! A group's block laid out by hand, so that tests choose the algorithm and the shape of the tree.

use phalanx::coord::barrier::layout::{GroupLayout, MemberWord};
use phalanx::coord::barrier::{Algorithm, Operation};
use phalanx::fabric::{Memory, WordAt};
use phalanx::sync::Ordering;

/// The operations that carry a word.
pub const REDUCTIONS: [Operation; 4] = [Operation::And, Operation::Or, Operation::Min, Operation::Max];

/// A block for `parents.len()` members from the fabric's first word on; member `index` has rank `index`.
pub fn lay_out(memory: &impl Memory, algorithm: Algorithm, parents: &[Option<usize>]) -> GroupLayout {
    lay_out_at(memory, WordAt(0), algorithm, parents)
}

/// As [`lay_out`], somewhere else.
pub fn lay_out_at(memory: &impl Memory, start: WordAt, algorithm: Algorithm, parents: &[Option<usize>]) -> GroupLayout {
    let layout = GroupLayout::new(start, parents.len());
    let store = |at, value| memory.word(at).store(value, Ordering::Relaxed);
    store(layout.size_word(), parents.len() as u64);
    store(layout.algorithm(), algorithm as u64);
    for (index, parent) in parents.iter().enumerate() {
        store(layout.member(index), MemberWord::new(index, *parent).0);
    }
    layout
}

/// A chain: each member hangs under the one before it, so that all but the ends are inner nodes.
pub fn chain(size: usize) -> Vec<Option<usize>> {
    (0..size).map(|index| index.checked_sub(1)).collect()
}

/// All values reduced by an operation.
pub fn reduced(operation: Operation, values: &[u64]) -> u64 {
    values.iter().copied().reduce(|left, right| operation.combine(left, right)).unwrap_or(0)
}
