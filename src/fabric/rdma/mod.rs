//! The fabric between nodes with RDMA devices: one-sided operations on reliable connections.
//!
//! A process registers its node's segment with a device ([`Region`]), and makes a queue pair for each node that it
//! reaches. The ends of a connection exchange an [`Offer`] each, by whatever channel the caller has, and connect; after
//! that nothing but the adapters takes part in serving a request. Everything here is reached through [`RdmaFabric`],
//! which fulfils the contract of [`crate::fabric`].
//!
//! | the contract's | is here |
//! | --- | --- |
//! | order | a reliable connection's, and a fence where that lets a request overtake a read or an atomic (`window`) |
//! | completion | completions of the connection's own queue; writes ask for one only now and then |
//! | back-pressure | a full ring of requests; the adapter itself holds back more reads and atomics than the peer serves |
//! | failure | a completion with an error ends the connection; so do a post that fails, and a completion without an answer (`marks`) |
//! | atomicity | the device's ([`AtomicCapability`]); the own node is reached through the device too |
//!
//! The pieces, from the bottom: `verbs` declares the C library and loads it; `device` lists and chooses devices;
//! `memory` registers memory; `endpoint` is a queue pair; `window` (which requests are under way) and `marks` (whether
//! an answer has landed) are plain bookkeeping without a device; `connection` puts them together; `fabric` has one for
//! each node. Beside them: `options`, what a user can choose, and errors; `offer`, what the ends exchange; `probe`
//! tries out what a device's atomics answer; `prepared` is a write whose work request is made once.
//!
//! A connection costs 3 KiB of this process's own memory: a word for each of its 128 places, and what each is used for.
//! The driver's queues come on top: some 16 KiB where a work request has 64 bytes, 60 KiB with soft-RoCE.

mod connection;
pub mod device;
mod endpoint;
mod fabric;
mod marks;
mod memory;
pub mod offer;
mod options;
mod prepared;
mod probe;
pub mod verbs;
mod window;

pub use device::{DeviceFacts, devices};
pub use fabric::{RdmaFabric, Served};
pub use memory::Region;
pub use offer::{AtomicCapability, LinkLayer, OFFER_BYTES, Offer, OfferError};
pub use options::{RdmaError, RdmaOptions};
pub use prepared::Prepared;
