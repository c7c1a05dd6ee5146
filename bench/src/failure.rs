//! `phalanx bench failure`: how long after a fault *every* survivor has its error, or the next one a dead
//! holder's lock.
//!
//! For each fault a new job of this program's processes is started, so that all faults of a kind meet the same job: one
//! that has lost members has fewer who must agree. Its survivors wait in a barrier that the victims never come to. The
//! parent reads the clock, does the harm, and takes the last survivor's error as the fault's result; a survivor reads
//! the clock when its call returns.
//!
//! | kind | job | harm | survivors that count |
//! | --- | --- | --- | --- |
//! | `kill-local` | 4 ranks on a node | SIGKILL for one of them, each in turn | all |
//! | `kill-remote` | 2 nodes of 2 | SIGKILL for the last rank of node 1, not its agent | those of node 0 |
//! | `kill-agent` | 2 nodes of 2 | SIGKILL for the first rank of node 1, its agent | those of node 0 |
//! | `kill-node` | 3 nodes of 1 | SIGKILL for node 2's only rank | all |
//! | `stop-node` | 3 nodes of 1 | SIGSTOP for node 2's only rank: its node is silent | all |
//! | `partition` | 3 nodes of 1, in network namespaces | node 2 is cut off, both directions | those of nodes 0 and 1 |
//!
//! Others ask how long after its *holder's* death a lock is the next one's. The victim holds it, others wait for it;
//! the fault's result is when the first of them has it, and a token greater than the victim's.
//!
//! | kind | job | harm | who waits | the lock's home |
//! | --- | --- | --- | --- | --- |
//! | `holder-local` | 4 ranks on a node | SIGKILL for the holder, each in turn | the others | their node |
//! | `holder-remote` | 2 nodes of 2 | SIGKILL for the last rank of node 1, not its agent | those of node 0 | node 0 |
//! | `holder-home` | 2 nodes of 2 | the same | those of node 0 | node 1 |
//! | `holder-third` | 2 nodes of 2, and 1 | the same | those of node 0 | node 2 |
//! | `holder-agent` | 2 nodes of 2 | SIGKILL for the first rank of node 1, its agent | those of node 0 | node 0 |
//! | `holder-node` | 3 nodes of 1 | SIGKILL for node 2's only rank | the others | node 0 |
//! | `holder-with-home` | 3 nodes of 1 | the same | the others | node 2, lost with the holder |
//!
//! Rivals have nothing to compare: when a process of an MPI job dies, its launcher kills the others, and none of them
//! gets an error; a process that is stopped, or cut off, is waited for without an end.

pub mod calm;
mod inheritance;
mod page;

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::Signal;
use serde::Serialize;

pub use self::page::{json_lines, render};
use crate::build;
use crate::compare::Progress;
use crate::doomed::namespaces::Namespaces;
use crate::doomed::rank::{Role, Task};
use crate::doomed::said::{Event, Said, Told};
use crate::doomed::{DoomedError, DoomedJob, Place, now_ns};

/// How long an error may take before it counts as never.
const NEVER: Duration = Duration::from_secs(10);
/// How long survivors have been waiting when it happens, at least: parked, if they park.
const SETTLED: Duration = Duration::from_millis(8);

/// A kind of fault; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process of the same node is killed.
    KillLocal,
    /// A process of another node, not its agent, is killed.
    KillRemote,
    /// The agent of another node is killed.
    KillAgent,
    /// The only process of a node is killed.
    KillNode,
    /// All processes of a node are stopped.
    StopNode,
    /// A node is cut off the network.
    Partition,
    /// A lock's holder is killed, others of its node wait.
    HolderLocal,
    /// A lock's holder on another node than those who wait is killed, not its node's agent; the home is theirs.
    HolderRemote,
    /// The same, and the home is the holder's node.
    HolderHome,
    /// The same, and the home is a third node.
    HolderThird,
    /// The holder is its node's agent; the home is the node of those who wait.
    HolderAgent,
    /// The holder is its node's only process.
    HolderNode,
    /// The same, and the home is lost with it.
    HolderWithHome,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::KillLocal,
        Self::KillRemote,
        Self::KillAgent,
        Self::KillNode,
        Self::StopNode,
        Self::Partition,
        Self::HolderLocal,
        Self::HolderRemote,
        Self::HolderHome,
        Self::HolderThird,
        Self::HolderAgent,
        Self::HolderNode,
        Self::HolderWithHome,
    ];

    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillLocal => "kill-local",
            Self::KillRemote => "kill-remote",
            Self::KillAgent => "kill-agent",
            Self::KillNode => "kill-node",
            Self::StopNode => "stop-node",
            Self::Partition => "partition",
            Self::HolderLocal => "holder-local",
            Self::HolderRemote => "holder-remote",
            Self::HolderHome => "holder-home",
            Self::HolderThird => "holder-third",
            Self::HolderAgent => "holder-agent",
            Self::HolderNode => "holder-node",
            Self::HolderWithHome => "holder-with-home",
        }
    }

    /// Kinds from names separated by commas.
    ///
    /// # Errors
    ///
    /// What would be valid.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let one = |name: &str| {
            let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
            let names = Self::ALL.map(Self::name).join(", ");
            found.ok_or_else(|| format!("unknown kind of fault {name:?}; there are {names}"))
        };
        text.split(',').map(one).collect()
    }

    fn nodes(self) -> &'static [usize] {
        match self {
            Self::KillLocal | Self::HolderLocal => &[0, 0, 0, 0],
            Self::KillRemote | Self::KillAgent => &[0, 0, 1, 1],
            Self::HolderRemote | Self::HolderHome | Self::HolderAgent => &[0, 0, 1, 1],
            Self::HolderThird => &[0, 0, 1, 1, 2],
            Self::KillNode | Self::StopNode | Self::Partition => &[0, 1, 2],
            Self::HolderNode | Self::HolderWithHome => &[0, 1, 2],
        }
    }

    /// Whom fault number `turn` meets.
    fn victim(self, turn: usize) -> usize {
        match self {
            Self::KillLocal | Self::HolderLocal => turn % 4,
            Self::KillRemote | Self::HolderRemote | Self::HolderHome | Self::HolderThird => 3,
            Self::KillAgent | Self::KillNode | Self::StopNode | Self::Partition => 2,
            Self::HolderAgent | Self::HolderNode | Self::HolderWithHome => 2,
        }
    }

    /// Those whose errors count, or who wait for the victim's lock.
    fn witnesses(self, victim: usize) -> Vec<usize> {
        match self {
            Self::KillRemote | Self::KillAgent => vec![0, 1],
            Self::HolderRemote | Self::HolderHome | Self::HolderThird | Self::HolderAgent => vec![0, 1],
            _ => (0..self.nodes().len()).filter(|rank| *rank != victim).collect(),
        }
    }

    /// The home of the lock that the victim holds, where it holds one.
    fn home(self) -> Option<usize> {
        match self {
            Self::HolderLocal | Self::HolderRemote | Self::HolderAgent | Self::HolderNode => Some(0),
            Self::HolderHome => Some(1),
            Self::HolderThird | Self::HolderWithHome => Some(2),
            _ => None,
        }
    }

    /// What the time until is measured, in a word: "error" or "lock".
    fn until(self) -> &'static str {
        if self.home().is_some() { "lock" } else { "error" }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Faults of each kind.
    pub faults: usize,
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// The wait policy, or the default.
    pub wait: Option<String>,
    /// What joins the nodes, or the library's choice.
    pub fabric: Option<String>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureError {
    /// A number makes no measurement.
    #[error("{0}")]
    Request(String),
    /// A job could not be started, or hurt.
    #[error(transparent)]
    Doomed(#[from] DoomedError),
    /// A survivor has no error, or not the one that it should have.
    #[error("{kind}, fault {turn} of rank {victim}: {what}")]
    Wrong {
        /// The kind of fault.
        kind: &'static str,
        /// Which fault of this kind.
        turn: usize,
        /// Whom it met.
        victim: usize,
        /// What is wrong.
        what: String,
    },
}

/// One result. The field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark: "failure".
    pub bench: &'static str,
    /// "phalanx".
    pub system: &'static str,
    /// Its version.
    pub system_version: &'static str,
    /// The kind of fault.
    pub kind: &'static str,
    /// What ends the time: "error", the last survivor has its error; "lock", a survivor has the victim's lock.
    pub until: &'static str,
    /// Why it was not run; the figures are then `null`.
    pub not_run: Option<String>,
    /// The job's ranks.
    pub ranks: usize,
    /// And nodes.
    pub nodes: usize,
    /// The wait policy that was asked for, or "default".
    pub wait: String,
    /// Faults measured.
    pub faults: u64,
    /// From a fault to the last survivor's error, or to the next one's lock: the shortest.
    pub min_ns: Option<u64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
    /// The commit that measured.
    pub commit: &'static str,
}

/// Measures.
///
/// # Errors
///
/// [`FailureError`]; nothing is left behind.
pub fn run(request: &Request, progress: &mut dyn Progress) -> Result<Vec<Report>, FailureError> {
    if request.faults == 0 || request.kinds.is_empty() {
        return Err(FailureError::Request("faults and kinds must be at least 1".to_owned()));
    }
    let mut reports = Vec::new();
    for (index, kind) in request.kinds.iter().enumerate() {
        let namespaces = match kind {
            Kind::Partition => Namespaces::new(kind.nodes().len()).map(Some),
            _ => Ok(None),
        };
        let namespaces = match namespaces {
            Ok(namespaces) => namespaces,
            Err(why) => {
                reports.push(report(request, *kind, None, Some(why)));
                continue;
            }
        };
        let mut times = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds");
        for turn in 0..request.faults {
            progress.turn(index * request.faults + turn, request.kinds.len() * request.faults, kind.name());
            times.saturating_record(fault(request, *kind, turn, namespaces.as_ref())?);
        }
        reports.push(report(request, *kind, Some(&times), None));
    }
    Ok(reports)
}

/// One job, one fault; nanoseconds until the last survivor has its error, or another one the lock.
fn fault(request: &Request, kind: Kind, turn: usize, namespaces: Option<&Namespaces>) -> Result<u64, FailureError> {
    let victim = kind.victim(turn);
    let role = match kind.home() {
        Some(home) => Role::Inherits { holder: victim, heirs: kind.witnesses(victim), home },
        None => Role::Waits { idle: vec![victim] },
    };
    let task = Task {
        role,
        wait: request.wait.clone(),
        fabric: request.fabric.clone().filter(|_| namespaces.is_none()),
        engine: None,
        timeout_ms: None,
        ends_with_parent: true,
    };
    let mut job = DoomedJob::start(Place { nodes: kind.nodes(), namespaces }, &task)?;
    let wrong = |what: String| FailureError::Wrong { kind: kind.name(), turn, victim, what };
    let token = match kind.home() {
        Some(_) => Some(inheritance::await_queue(&mut job, kind.witnesses(victim), victim).map_err(wrong)?),
        None => None,
    };
    // Not always at the same place of a heartbeat.
    std::thread::sleep(SETTLED + Duration::from_micros(turn as u64 * 7_919 % 20_000));
    let begun = harm(&job, kind, victim, namespaces).map_err(wrong)?;
    let ended = match token {
        Some(token) => inheritance::await_heir(&job, &kind.witnesses(victim), token),
        None => await_errors(&job, kind.witnesses(victim), victim),
    };
    if let Some(namespaces) = namespaces {
        namespaces.mend(kind.nodes()[victim]).map_err(wrong)?;
    }
    let ended = ended.map_err(wrong)?;
    job.end()?;
    Ok(ended.saturating_sub(begun).max(1))
}

/// Does it; the time just before.
fn harm(job: &DoomedJob, kind: Kind, victim: usize, namespaces: Option<&Namespaces>) -> Result<u64, String> {
    let signal = match (kind, namespaces) {
        (Kind::Partition, Some(namespaces)) => {
            let at = now_ns();
            return namespaces.cut(kind.nodes()[victim]).map(|()| at);
        }
        (Kind::StopNode, _) => Signal::STOP,
        _ => Signal::KILL,
    };
    job.signal(&[victim], signal).map_err(|error| error.to_string())
}

/// Waits until all these have errors that name the victim; when the last has.
fn await_errors(job: &DoomedJob, mut missing: Vec<usize>, victim: usize) -> Result<u64, String> {
    let limit = Instant::now() + NEVER;
    let mut last = 0;
    while !missing.is_empty() {
        let Ok(Said { rank, at_ns, event }) = job.hear(limit) else {
            return Err(format!("ranks {missing:?} still have no error after {NEVER:?}: {}", job.doing(&missing)));
        };
        if !missing.contains(&rank) {
            continue;
        }
        match event {
            Event::Failed { told: Told::RankFailed { ranks, .. }, .. } if ranks == [victim] => {}
            other => return Err(format!("rank {rank} says {other:?}")),
        }
        missing.retain(|other| *other != rank);
        last = last.max(at_ns);
    }
    Ok(last)
}

fn report(request: &Request, kind: Kind, times: Option<&Histogram<u64>>, not_run: Option<String>) -> Report {
    let quantile = |q: f64| times.map(|times| times.value_at_quantile(q));
    Report {
        bench: "failure",
        system: "phalanx",
        system_version: build::VERSION,
        kind: kind.name(),
        until: kind.until(),
        not_run,
        ranks: kind.nodes().len(),
        nodes: Place { nodes: kind.nodes(), namespaces: None }.count(),
        wait: request.wait.clone().unwrap_or_else(|| "default".to_owned()),
        faults: times.map_or(0, Histogram::len),
        min_ns: times.map(Histogram::min),
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p99_ns: quantile(0.99),
        max_ns: times.map(Histogram::max),
        commit: build::COMMIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_and_what_is_none_is_refused_with_their_names() {
        let all = Kind::ALL.map(Kind::name).join(",");
        assert_eq!(Kind::parse_list(&all), Ok(Kind::ALL.to_vec()));
        let error = Kind::parse_list("kill-local,hug").expect_err("there is no such kind");
        assert!(error.contains("hug") && error.contains("stop-node"), "{error}");
    }

    #[test]
    fn each_kind_hurts_a_rank_that_is_there_and_no_witness() {
        for kind in Kind::ALL {
            for turn in 0..8 {
                let victim = kind.victim(turn);
                assert!(victim < kind.nodes().len());
                assert!(!kind.witnesses(victim).is_empty() && !kind.witnesses(victim).contains(&victim));
                assert!(kind.home().is_none_or(|home| kind.nodes().contains(&home)));
            }
        }
    }
}
