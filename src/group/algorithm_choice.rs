//! Which algorithm a group uses, and why.

use crate::coord::barrier::Algorithm;
use crate::job::CpuShare;

/// The algorithm that a group uses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlgorithmChoice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Why, in words.
    pub reason: String,
}

impl AlgorithmChoice {
    pub(crate) fn new(asked: Option<Algorithm>, share: &CpuShare, members: usize) -> Self {
        match asked {
            Some(algorithm) => Self { algorithm, reason: "asked for by an option".to_owned() },
            None => Self::automatic(Algorithm::choose(members, share.has_own_cpus), share, members),
        }
    }

    fn automatic(algorithm: Algorithm, share: &CpuShare, members: usize) -> Self {
        let CpuShare { ranks, cpus, .. } = share;
        let reason = match (algorithm, share.quota) {
            (Algorithm::Flat, _) if members == 1 => "one member: nobody to wait for".to_owned(),
            (Algorithm::Flat, _) => format!("{members} members with a CPU each: one line transfer"),
            (Algorithm::Tree, _) => format!("{members} members with a CPU each: gather along the caches"),
            (Algorithm::Central, Some(quota)) if quota < *ranks as f64 => {
                format!("{ranks} ranks share a quota of {quota:.2} CPUs: yield and park")
            }
            (Algorithm::Central, _) => format!("{ranks} ranks share {cpus} CPUs: yield and park"),
        };
        Self { algorithm, reason }
    }
}
