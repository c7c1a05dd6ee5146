//! Workloads, rivals, histograms and reports of `phalanx bench`.

pub mod rivals;
pub mod workload;
