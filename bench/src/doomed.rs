//! Jobs that are started to be hurt: their ranks are processes of this program that say on their standard output what
//! becomes of them, and when. `phalanx bench failure` and `phalanx campaign` stand on them.
//!
//! All processes of a machine share `CLOCK_MONOTONIC`, so that a rank's times and those of whoever hurts it compare.
//!
//! No wait for a job is without a bound: what does not begin, or does not end, is an error that says what it was waited
//! for, and what the threads of whoever does not come are doing.

pub mod belongings;
mod calm;
pub mod deeds;
mod inheritance;
pub mod log;
pub mod namespaces;
pub mod rank;
pub mod said;
mod services;
pub mod sockets;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use phalanx::cluster::environment::{Identity, LAUNCHER_VARIABLES, LocalPlace};
use rustix::process::{Pid, Signal, kill_process};

use self::namespaces::Namespaces;
use self::rank::Task;
use self::said::{Event, Said};
use self::services::Services;

/// The hidden subcommand that makes this program a rank that is hurt; its argument is a [`Task`] as JSON.
pub const RANK_COMMAND: &str = "doomed-rank";
/// How long a job may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// How long processes that have been killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[allow(clippy::cast_sign_loss, reason = "CLOCK_MONOTONIC is never negative")]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Why a job could not be started, or hurt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoomedError {
    /// The system refuses.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// Ranks have not met.
    #[error("ranks {missing:?} of a job have not met the others within {BEGIN_LIMIT:?}: {doing}")]
    NotReady {
        /// Those that have not.
        missing: Vec<usize>,
        /// What their threads are doing.
        doing: String,
    },
    /// All ranks have ended before they had met.
    #[error("ranks {missing:?} of a job have ended before they had met the others: {ends}")]
    Ended {
        /// Those that had not met the others.
        missing: Vec<usize>,
        /// How they have ended.
        ends: String,
    },
    /// What has been told to end has not.
    #[error("{what} has not ended within {limit:?}: {doing}")]
    NotEnded {
        /// What.
        what: String,
        /// How long it was waited for.
        limit: Duration,
        /// What its threads are doing.
        doing: String,
    },
    /// A rank says that something is wrong before anything was done to it.
    #[error("rank {rank} of a job that nobody has hurt says {event:?}")]
    Spoilt {
        /// The rank.
        rank: usize,
        /// What it says.
        event: Event,
    },
}

/// For errors of the system.
pub(crate) fn system<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> DoomedError {
    move |source| DoomedError::System { step, source: source.into() }
}

/// Where the ranks of a job are.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Each rank's pretended node, in blocks; all on node 0: no node is pretended.
    pub nodes: &'a [usize],
    /// A network namespace for each node, instead of the loopback interface.
    pub namespaces: Option<&'a Namespaces>,
}

impl Place<'_> {
    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.nodes.last().map_or(1, |last| last + 1)
    }

    fn variables(&self, identity: &Identity, rank: usize) -> Vec<(&'static str, String)> {
        if self.count() == 1 {
            return identity.variables(rank);
        }
        let node = self.nodes[rank];
        let place = LocalPlace {
            pretended_node: u32::try_from(node).ok(),
            local_rank: rank - self.nodes.iter().position(|other| *other == node).unwrap_or(0),
            local_size: self.nodes.iter().filter(|other| **other == node).count(),
        };
        identity.variables_at(rank, place)
    }
}

/// A job's processes; killed when dropped.
pub struct DoomedJob {
    ranks: Vec<(Child, Option<ChildStdin>)>,
    heard: Receiver<Said>,
    key: String,
    services: Option<Services>,
    /// Whether its end has been waited for.
    is_over: bool,
}

impl DoomedJob {
    /// Starts a job and waits until all its ranks have met.
    ///
    /// # Errors
    ///
    /// [`DoomedError`]; no process is left behind.
    pub fn start(place: Place<'_>, task: &Task) -> Result<Self, DoomedError> {
        let (identity, services) = services::start(place)?;
        let text = serde_json::to_string(task).expect("plain values");
        let (say, heard) = channel();
        let key = identity.key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut job = Self { ranks: Vec::new(), heard, key, services, is_over: false };
        let program = std::env::current_exe().map_err(system("find this program"))?;
        for rank in 0..place.nodes.len() {
            let mut command = match place.namespaces {
                Some(namespaces) => namespaces.command(place.nodes[rank], &program),
                None => Command::new(&program),
            };
            for name in LAUNCHER_VARIABLES {
                command.env_remove(name);
            }
            command.args([RANK_COMMAND, &text]).envs(place.variables(&identity, rank));
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().map_err(system("start a rank"))?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
            job.ranks.push((child, stdin));
            listen_to(stdout, say.clone());
        }
        // The job's end is heard by the end of all who speak.
        drop(say);
        job.await_ready()?;
        Ok(job)
    }

    fn await_ready(&mut self) -> Result<(), DoomedError> {
        let limit = Instant::now() + BEGIN_LIMIT;
        let mut missing: Vec<usize> = (0..self.ranks.len()).collect();
        while !missing.is_empty() {
            match self.hear(limit) {
                Ok(Said { rank, event: Event::Ready, .. }) => missing.retain(|other| *other != rank),
                Ok(Said { rank, event, .. }) => return Err(DoomedError::Spoilt { rank, event }),
                Err(RecvTimeoutError::Timeout) => {
                    let doing = self.doing(&missing);
                    return Err(DoomedError::NotReady { missing, doing });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let ends = self.ends_of(&missing)?;
                    return Err(DoomedError::Ended { missing, ends });
                }
            }
        }
        Ok(())
    }

    /// How many ranks it has, hurt or not.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// The job's key, by which its processes can be told from all others.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A rank's process.
    pub fn pid(&self, rank: usize) -> u32 {
        self.ranks[rank].0.id()
    }

    /// What a rank's threads are doing, as the kernel sees it.
    pub fn threads(&self, rank: usize) -> String {
        threads_of(self.pid(rank))
    }

    /// What these ranks' threads are doing.
    pub fn doing(&self, ranks: &[usize]) -> String {
        ranks.iter().map(|rank| format!("rank {rank}: {}", self.threads(*rank))).collect::<Vec<_>>().join("; ")
    }

    /// How these ranks have ended, all of which have nothing more to say.
    fn ends_of(&mut self, ranks: &[usize]) -> Result<String, DoomedError> {
        let limit = Instant::now() + END_LIMIT;
        let mut ends = Vec::new();
        for rank in ranks {
            let end = self.end_of(*rank, limit)?.map_or_else(|| self.threads(*rank), |status| status.to_string());
            ends.push(format!("rank {rank}: {end}"));
        }
        Ok(ends.join("; "))
    }

    /// Sends a signal to these ranks' processes; the time just before.
    ///
    /// # Errors
    ///
    /// [`DoomedError::System`].
    pub fn signal(&self, ranks: &[usize], signal: Signal) -> Result<u64, DoomedError> {
        let pid = |rank: &usize| i32::try_from(self.pid(*rank)).ok().and_then(Pid::from_raw).expect("a process's id");
        let pids: Vec<Pid> = ranks.iter().map(pid).collect();
        let at = now_ns();
        pids.into_iter().try_for_each(|pid| kill_process(pid, signal)).map_err(system("send a signal to a rank"))?;
        Ok(at)
    }

    /// Says a line to a rank; one that has gone does not hear it.
    pub fn say(&mut self, rank: usize, line: &str) {
        if let Some(stdin) = &mut self.ranks[rank].1 {
            let _ = writeln!(stdin, "{line}");
        }
    }

    /// What any of them says next.
    ///
    /// # Errors
    ///
    /// `Timeout` after the limit; `Disconnected`, at once, when all processes have ended.
    pub fn hear(&self, limit: Instant) -> Result<Said, RecvTimeoutError> {
        self.heard.recv_timeout(limit.saturating_duration_since(Instant::now()))
    }

    /// How a rank has ended; `None` when it has not until the limit.
    ///
    /// # Errors
    ///
    /// [`DoomedError::System`].
    pub fn end_of(&mut self, rank: usize, limit: Instant) -> Result<Option<ExitStatus>, DoomedError> {
        await_end(&mut self.ranks[rank].0, limit).map_err(system("wait for a rank"))
    }
}

impl DoomedJob {
    /// Kills all that are left, and waits for their ends and for that of those who served them.
    ///
    /// # Errors
    ///
    /// [`DoomedError::NotEnded`].
    pub fn end(&mut self) -> Result<(), DoomedError> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        let ended = self.end_ranks();
        self.services.take().map_or(Ok(()), Services::end).and(ended)
    }

    fn end_ranks(&mut self) -> Result<(), DoomedError> {
        for (child, _) in &mut self.ranks {
            let _ = child.kill();
        }
        let limit = Instant::now() + END_LIMIT;
        let mut left = Vec::new();
        for rank in 0..self.ranks.len() {
            if self.end_of(rank, limit)?.is_none() {
                left.push(rank);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let what = format!("the killed process of ranks {left:?}");
        Err(DoomedError::NotEnded { what, limit: END_LIMIT, doing: self.doing(&left) })
    }
}

impl Drop for DoomedJob {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("phalanx: {error}");
        }
    }
}

/// How a process has ended; `None` when it has not until the limit.
pub(crate) fn await_end(child: &mut Child, limit: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        let end = child.try_wait()?;
        if end.is_some() || Instant::now() >= limit {
            return Ok(end);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a process's threads are doing, as the kernel sees it: each one's name, its state, and where it waits.
pub(crate) fn threads_of(pid: u32) -> String {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return "its process is gone".to_owned();
    };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let one = |thread: std::fs::DirEntry| {
        let stat = read(thread.path().join("stat"));
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        format!("{} {state} {}", read(thread.path().join("comm")), read(thread.path().join("wchan")))
    };
    threads.flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// Passes on what a process says, until its end.
pub(crate) fn listen_to(stdout: impl std::io::Read + Send + 'static, say: Sender<Said>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(said) = Said::parse(&line) {
                // Nobody listens to a job that has been given up.
                let _ = say.send(said);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::rank::Role;
    use super::*;

    /// This program knows no ranks: it finds no test of that name, and ends.
    #[test]
    fn ranks_that_end_before_they_have_met_are_told_of_at_once() {
        let task = Task {
            role: Role::Calm { seed: 1 },
            wait: None,
            fabric: None,
            engine: None,
            timeout_ms: None,
            ends_with_parent: true,
        };
        let begun = Instant::now();
        let started = DoomedJob::start(Place { nodes: &[0, 0, 1], namespaces: None }, &task);
        let error = started.err().expect("nobody has met");
        assert!(matches!(&error, DoomedError::Ended { missing, .. } if *missing == [0, 1, 2]), "{error}");
        assert!(error.to_string().contains("rank 1: exit status: 0"), "{error}");
        assert!(begun.elapsed() < BEGIN_LIMIT);
    }
}
