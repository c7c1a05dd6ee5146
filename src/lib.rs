//! Phalanx: coordination for HPC and ML-training jobs at the speed of the hardware that joins the ranks.
//!
//! A *job* is one run of a program on N *ranks*. Its ranks meet in *groups*; a group's members pass *barriers*
//! together. Everything that ranks share lies in their node's *segment*, shared memory made of `u64` words.
//!
//! ```
//! use phalanx::{Job, Operation};
//!
//! // Under `phalanx run -n 4 -- program` each process is one rank; without it this is a job of one rank.
//! let job = Job::from_env()?;
//! let world = job.world();
//! world.barrier()?;
//!
//! // A barrier can carry a word: have all ranks converged?
//! let all_done = world.barrier_reduce(Operation::And, 1)?;
//! assert_eq!(all_done, 1);
//!
//! // Half-barriers: say that you are there, compute, then wait for the others.
//! let arrival = world.arrive()?;
//! // … work that needs nobody …
//! arrival.wait()?;
//! # Ok::<(), phalanx::Error>(())
//! ```
//!
//! # The house
//!
//! ```text
//!   job.rs  group.rs  object.rs    what users call: identity, blocking barriers, locks; jobs from outside: inspect.rs
//!     /          \
//!  coord/      cluster/      the primitives          how ranks find each other
//!     \          /
//!       fabric/              the contract, and what fulfils it: shared memory, TCP, RDMA, the simulator
//!   sync.rs clock.rs machine.rs scheduling.rs interfaces.rs    atomics, time, CPUs and their scheduler, networks
//!   handshake.rs                            who may connect
//!   trace/                                  the timeline that a rank writes on request
//!   testing/                                with the feature `testing`: what every fabric must pass
//! ```
//!
//! The names re-exported here are the library's interface. The modules are public so that tests, model checkers and
//! curious readers can reach them; they may change with any version.

pub mod clock;
#[cfg(not(model))]
pub mod cluster;
pub mod coord;
#[cfg(not(model))]
pub mod error;
#[cfg(all(test, not(model)))]
mod explorer;
pub mod fabric;
#[cfg(not(model))]
mod group;
#[cfg(not(model))]
pub mod handshake;
#[cfg(not(model))]
pub mod inspect;
#[cfg(not(model))]
pub mod interfaces;
#[cfg(not(model))]
mod job;
pub mod machine;
#[cfg(not(model))]
mod object;
mod scheduling;
pub mod sync;
#[cfg(all(feature = "testing", not(model)))]
pub mod testing;
pub mod trace;

#[cfg(not(model))]
pub use cluster::view::{FailureCause, LastCall, LateState, Lateness};
pub use coord::barrier::spanning::schedule::ExchangePattern;
pub use coord::barrier::{Algorithm, Operation};
pub use coord::stats::{GroupStats, MemberStats};
pub use coord::wait::WaitPolicy;
#[cfg(not(model))]
pub use error::{
    BarrierError, BootstrapError, EnvironmentError, Error, GroupError, JobError, RendezvousError, SegmentError,
};
#[cfg(not(model))]
pub use fabric::tcp::TcpEngine;
#[cfg(not(model))]
pub use group::{Abandoned, AlgorithmChoice, Arrival, Group};
#[cfg(not(model))]
pub use job::{FabricChoice, Job, JobOptions};
#[cfg(not(model))]
pub use object::{
    Candidacy, Counter, CounterError, Election, Fenced, FencedError, FencedWord, Leader, Leadership, Lease, LeaseError,
    LeaseGuard, LeaseRequest, Lock, LockError, LockGuard, LockRequest, ObjectError, ObjectKind, Permits, ReadGuard,
    RwLock, Semaphore, Token, WriteGuard,
};
