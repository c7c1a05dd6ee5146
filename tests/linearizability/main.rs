//! Whether named objects are linearizable: whether each history of calls by several ranks, of which some overlap, could
//! have come of one call after the other, in an order that agrees with the clock.
//!
//! The judge is not ours: stateright's `LinearizabilityTester`. It is told what each kind of object does when called by
//! one rank after the other (`specs.rs`), and when each call began and returned, by `CLOCK_MONOTONIC`, which the
//! processes of a machine share (`history.rs`). It tries orders until one fits, so histories are short and many.
//!
//! | room | histories |
//! | --- | --- |
//! | `real.rs` | of processes on one node and across nodes by TCP; at the end of each job a rank is killed in the middle |
//! | `simulated/` | of the machines of counters, of fenced words, of leases, of locks between nodes, and of what stands on those (elections on either), on the simulated network, in virtual time, with the atomics of CPUs or of adapters |
//! | `refused.rs` | that are wrong on purpose, or judged by what is wrong: the judge must refuse them |
//!
//! A call whose end nobody has seen (its rank was killed, its answer lost) may have taken effect at any time since, or
//! never. A death is a call of its own, of a rank that nobody is: it gives back what the dead one has. So is the end of
//! a lease that its holder has lost: it may have come at any time since its holder knew that it would.
//!
//! `PHALANX_SEEDS=N` runs N seeds of each test instead of the usual number, `PHALANX_SEED=S` one.
#![cfg(not(model))]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod real;
mod refused;
mod simulated;
mod specs;

/// Seeds `0..n`: `PHALANX_SEEDS`, or as many as usual.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("PHALANX_SEEDS").map_or(usual, |text| text.parse().expect("PHALANX_SEEDS is a number"))
}
