//! The fabric inside a node: shared memory.
//!
//! A node's segment is a memory file without a name (`segment`), mapped by every rank. Words are the CPU's atomics,
//! parking is the kernel's shared futex (`notify`).

mod notify;
mod segment;

pub use segment::{Expected, Segment, SegmentError};
