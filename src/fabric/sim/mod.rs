//! Simulated nodes: the same contract in one thread and in virtual time, for tests that must replay.
//!
//! [`SimNode`] is one node's words. A test that owns the schedule polls ranks' machines on it in an order drawn from a
//! seed, so that a failing run is named by its seed and repeats exactly. (Interleavings inside one poll are the model
//! checkers' business.)
//!
//! [`World`] is many nodes and the network between them. Its time is virtual, in nanoseconds, and moves from one event
//! to the next; each node's way to the others is a [`SimFabric`]. Messages cost what [`Costs`] say. Between two nodes
//! they keep their order; messages of different pairs overtake each other as jitter has it. [`Fault`]s and [`Rates`]
//! make nodes crash, links break, completions fail and writes repeat. Where the network's atomics are an adapter's
//! ([`Atomics::Adapter`]), a read-modify-write takes time between its read and its write, and what the home's CPU
//! changes meanwhile is lost: a primitive that mixes the two domains loses updates here as it would on the wire.
//!
//! The same seed gives the same run, event by event: [`World::trace`] is a hash over all of them.
//!
//! | room | holds |
//! | --- | --- |
//! | `world` | [`World`]: time, faults, [`World::run`] which polls machines as things arrive |
//! | `fabric` | [`SimFabric`]: posting and taking |
//! | `network` | messages from the adapter that sends them to the word that they change, and back |
//! | `connections` | what each pair of nodes knows of its connection |
//! | `options` | what a network is made with, and what it counts |
//! | `costs`, `faults` | what messages cost; what goes wrong |
//! | `time`, `random` | the queue of events; the seed |
//! | `node` | a node's words |

mod connections;
mod costs;
mod fabric;
mod faults;
mod network;
mod node;
mod options;
mod random;
mod time;
mod world;

pub use costs::{Costs, Jitter, Level, Placement};
pub use fabric::SimFabric;
pub use faults::{Fault, Rates, random_plan};
pub use node::SimNode;
pub use options::{Atomics, Options, Traffic};
pub use random::Seeded;
pub use world::World;
