//! Workloads, rivals, histograms and reports of `phalanx bench`.

pub mod workload;
