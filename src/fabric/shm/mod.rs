//! The fabric inside a node: shared memory.
//!
//! A node's segment is a memory file without a name (`segment`), mapped by every rank. Words are the CPU's atomics,
//! parking is the kernel's shared futex (`notify`). Who is no rank may look but not touch (`read_only`). Where several
//! nodes' memories are mapped into one process, they are a fabric too (`neighbours`).

mod neighbours;
mod notify;
mod read_only;
mod segment;

pub use neighbours::{Neighbourhood, Neighbours};
pub(crate) use notify::{deadline, wait_for};
pub use read_only::ReadOnlySegment;
#[cfg(test)]
pub(crate) use segment::tests::segment_of;
pub use segment::{Expected, Segment, SegmentError};
