//! The fabric inside a node: shared memory.
//!
//! A node's segment is a memory file without a name (`segment`), mapped by every rank. Words are the CPU's atomics,
//! parking is the kernel's shared futex (`notify`). Where several nodes' memories are mapped into one process, they are a
//! fabric too (`neighbours`).

mod neighbours;
mod notify;
mod segment;

pub use neighbours::{Neighbourhood, Neighbours};
#[cfg(test)]
pub(crate) use segment::tests::segment_of;
pub use segment::{Expected, Segment, SegmentError};
