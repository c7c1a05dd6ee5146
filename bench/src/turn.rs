//! A turn of Phalanx: ranks as processes of this program, or as threads of this process, that leave their record.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use phalanx::Job;
use phalanx::cluster::environment::{Identity, LAUNCHER_VARIABLES, LocalPlace};
use phalanx::cluster::rendezvous;

use crate::rank::{RankError, RankTask};
use crate::workload::Placement;

/// The hidden subcommand that makes this program a rank; its argument is a [`RankTask`] as JSON.
pub const RANK_COMMAND: &str = "bench-rank";

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// A rank could not be started.
    #[error("cannot start rank {rank} of the benchmark: {source}")]
    Start {
        /// The rank.
        rank: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A rank's process failed.
    #[error("rank {rank} of the benchmark ended with {status}: {output}")]
    Failed {
        /// The rank.
        rank: usize,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// A rank's thread failed.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The directory for the record cannot be used.
    #[error("cannot use {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Runs a turn; the record is in the task's directory afterwards.
///
/// # Errors
///
/// [`TurnError`]; no process is left behind.
pub fn run(task: &RankTask, as_threads: bool) -> Result<(), TurnError> {
    fs::create_dir_all(&task.directory).map_err(|source| directory_error(&task.directory, source))?;
    if as_threads { run_threads(task) } else { run_processes(task) }
}

pub(crate) fn directory_error(path: &Path, source: std::io::Error) -> TurnError {
    TurnError::Directory { path: path.display().to_string(), source }
}

/// Ranks as threads. The job is made before they are pinned: it notes that its ranks may run wherever this thread may.
fn run_threads(task: &RankTask) -> Result<(), TurnError> {
    let jobs = Job::threads_with(task.workload.placement.ranks, &task.options()?).map_err(RankError::Job)?;
    std::thread::scope(|scope| {
        let start = |job: Job| {
            scope.spawn(move || {
                task.pin_rank(job.rank());
                task.run(&job)
            })
        };
        let threads: Vec<_> = jobs.into_iter().map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a rank does not panic"))
    })?;
    Ok(())
}

/// The processes of a turn, killed when dropped before they have ended.
#[derive(Default)]
pub(crate) struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where the ranks of a turn meet.
pub(crate) struct Meeting {
    identity: Identity,
    /// Serves their rendezvous when they are on several nodes.
    _rendezvous: Option<rendezvous::Server>,
}

impl Meeting {
    fn new(placement: &Placement) -> std::io::Result<Self> {
        if placement.nodes == 1 {
            return Ok(Self { identity: Identity::random(placement.ranks)?, _rendezvous: None });
        }
        Self::across(placement.ranks)
    }

    /// For ranks of several nodes.
    pub(crate) fn across(ranks: usize) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let identity = Identity::served_at(listener.local_addr()?, ranks)?;
        let server = rendezvous::Server::start(listener, &identity.key, ranks)?;
        Ok(Self { identity, _rendezvous: Some(server) })
    }

    /// What makes a process a rank that is alone on its node.
    pub(crate) fn variables_on_own_node(&self, rank: usize) -> Vec<(&'static str, String)> {
        let place = LocalPlace { pretended_node: u32::try_from(rank).ok(), local_rank: 0, local_size: 1 };
        self.identity.variables_at(rank, place)
    }

    fn variables(&self, placement: &Placement, rank: usize) -> Vec<(&'static str, String)> {
        if placement.nodes == 1 {
            return self.identity.variables(rank);
        }
        let node = placement.node_of(rank);
        let neighbours = placement.ranks_of(node);
        let place = LocalPlace {
            pretended_node: u32::try_from(node).ok(),
            local_rank: rank - neighbours.start,
            local_size: neighbours.len(),
        };
        self.identity.variables_at(rank, place)
    }
}

fn run_processes(task: &RankTask) -> Result<(), TurnError> {
    let text = serde_json::to_string(task).map_err(|error| RankError::Task(error.to_string()))?;
    run_ranks(&task.workload.placement, &[RANK_COMMAND, &text])
}

/// Runs a job whose ranks are this program with these arguments, until all have ended well or one has not.
///
/// # Errors
///
/// [`TurnError`]; no process is left behind.
pub(crate) fn run_ranks(placement: &Placement, arguments: &[&str]) -> Result<(), TurnError> {
    let meeting = Meeting::new(placement).map_err(|source| TurnError::Start { rank: 0, source })?;
    let mut ranks = Ranks::default();
    for rank in 0..placement.ranks {
        ranks.start(arguments, meeting.variables(placement, rank))?;
    }
    ranks.await_all()
}

impl Ranks {
    /// Starts the next rank: this program, with these arguments and variables.
    pub(crate) fn start(
        &mut self,
        arguments: &[&str],
        variables: Vec<(&'static str, String)>,
    ) -> Result<(), TurnError> {
        let rank = self.0.len();
        let start_error = |source| TurnError::Start { rank, source };
        let mut command = Command::new(std::env::current_exe().map_err(start_error)?);
        for name in LAUNCHER_VARIABLES {
            command.env_remove(name);
        }
        command.args(arguments).envs(variables);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.0.push(command.spawn().map_err(start_error)?);
        Ok(())
    }

    /// Waits until all have ended well, or one has not; the others are then killed by the drop.
    pub(crate) fn await_all(mut self) -> Result<(), TurnError> {
        let mut remaining: Vec<usize> = (0..self.0.len()).collect();
        while !remaining.is_empty() {
            let mut index = 0;
            while index < remaining.len() {
                let rank = remaining[index];
                match self.0[rank].try_wait() {
                    Ok(None) => index += 1,
                    Ok(Some(status)) if status.success() => drop(remaining.swap_remove(index)),
                    Ok(Some(status)) => return Err(self.failure(rank, status)),
                    Err(source) => return Err(TurnError::Start { rank, source }),
                }
            }
            // Rare enough not to disturb the ranks, which run on the same CPUs.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }

    fn failure(&mut self, rank: usize, status: std::process::ExitStatus) -> TurnError {
        let mut output = String::new();
        let _ = self.0[rank].stderr.take().map(|mut stderr| stderr.read_to_string(&mut output));
        TurnError::Failed { rank, status: status.to_string(), output: output.trim().to_owned() }
    }
}
