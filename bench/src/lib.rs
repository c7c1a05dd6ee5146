//! Workloads, rivals, histograms and reports of `phalanx bench`.
//!
//! The way of one measurement: [`compare`] plans rounds in which every system has its turn; a turn of Phalanx starts
//! ranks that run the loop of [`rank`], a turn of a rival starts its program ([`rivals`]); both leave the same record
//! ([`samples`]), which becomes figures ([`figures`]) and in the end a page ([`page`]) or JSON ([`report`]).
//! [`contest`] does the same for locks and their family, where ranks contend for objects for a fixed time.
//! [`limit`] measures what the hardware allows in the same rounds. [`fabric`] does the same for single operations on
//! another node's words. [`failure`] measures how soon survivors are told of a fault,
//! and [`campaign`] hurts jobs at random and judges what comes of it; both start theirs by [`doomed`].

pub mod build;
pub mod campaign;
pub mod compare;
pub mod contest;
pub mod doomed;
pub mod fabric;
pub mod failure;
pub mod figures;
pub mod limit;
pub mod page;
pub mod rank;
pub mod report;
pub mod rivals;
pub mod samples;
pub mod simulate;
pub mod turn;
pub mod workload;
