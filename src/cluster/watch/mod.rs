//! The processes of this machine: who they are, whether they run, and learning of their deaths at once.
//!
//! Nothing here knows of ranks or jobs. A process is a pid together with the time at which it started, since a pid
//! alone is soon another process's.
//!
//! | file | what |
//! | --- | --- |
//! | [`process`] | a process, and its state now |
//! | [`end`] | how a process that is not a child of this one has ended |
//! | [`deaths`] | many processes watched by one sleeping thread |
//! | [`lifeline`] | learning that a process dies before it is dead |
//!
//! Pids and `/proc` are those of one pid namespace, and start times those of one time namespace. Ranks of one node
//! share both ([`node_key`](super::node_key)): in different time namespaces they would take each other's processes for
//! recycled ones.

pub mod deaths;
pub mod end;
pub mod lifeline;
pub mod process;

#[cfg(test)]
mod tests;

pub use deaths::{Added, Bell, Death, Deaths, WatchError, Woken};
pub use end::End;
pub use lifeline::Lifeline;
pub use process::{ProcessId, ProcessState};
