//! Sentinels on a simulated network in trouble: nodes die with and without a word, ranks are killed and stopped, others
//! leave, links are cut one way and both, partitions come and heal. On some seeds the job's ranks meet at barriers
//! meanwhile. In every run an oracle, which knows what has happened, checks that
//!
//! - all nodes that know an epoch know the same, and it never changes;
//! - nobody is declared failed without a reason, and in calm nobody is at all, nor who has left before anybody missed
//!   it;
//! - every surviving node learns of every failure, within a bound, where enough nodes are left to agree;
//! - no rank goes by an epoch before its node has shut out whom that has lost;
//! - a minority decides nothing; what it doubts ends with the partition, unless it was excluded meanwhile;
//! - every wait at a barrier ends, and nobody passes one that a member had not reached.
//!
//! `PHALANX_SEEDS=N` runs N seeds of each test instead of the usual number, `PHALANX_SEED=S` one. For a night, with up
//! to 512 nodes: `PHALANX_SEEDS=4000 cargo test --release -p phalanx --test sentinel -- --include-ignored`.
//!
//! The job is made in `run.rs`, of ranks (`actor.rs`) in surroundings (`nature.rs`); `oracle.rs` judges.
#![cfg(not(model))]

mod actor;
mod arbiter;
#[path = "../common/mod.rs"]
mod common;
mod leaving;
mod nature;
mod oracle;
mod run;
mod sides;
mod times;
mod trouble;

/// `PHALANX_SEEDS` seeds, or as many as usual.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("PHALANX_SEEDS").map_or(usual, |text| text.parse().expect("PHALANX_SEEDS is a number"))
}
