//! Jobs that are started to be hurt: their ranks are processes of this program that say on their standard output what
//! becomes of them, and when. `phalanx bench failure` and `phalanx campaign` stand on them.
//!
//! All processes of a machine share `CLOCK_MONOTONIC`, so that a rank's times and those of whoever hurts it compare.

mod calm;
pub mod log;
pub mod namespaces;
pub mod rank;
pub mod said;
pub mod sockets;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use phalanx::cluster::environment::{Identity, LAUNCHER_VARIABLES, LocalPlace};
use phalanx::cluster::rendezvous;
use phalanx::cluster::witness::Witness;
use rustix::process::{Pid, Signal, kill_process};

use self::namespaces::Namespaces;
use self::rank::Task;
use self::said::{Event, Said};

/// The hidden subcommand that makes this program a rank that is hurt; its argument is a [`Task`] as JSON.
pub const RANK_COMMAND: &str = "doomed-rank";
/// How long a job may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);

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
    #[error("ranks {missing:?} of a job have not met the others within {BEGIN_LIMIT:?}")]
    NotReady {
        /// Those that have not.
        missing: Vec<usize>,
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
    _services: Option<(rendezvous::Server, Witness)>,
}

impl DoomedJob {
    /// Starts a job and waits until all its ranks have met.
    ///
    /// # Errors
    ///
    /// [`DoomedError`]; no process is left behind.
    pub fn start(place: Place<'_>, task: &Task) -> Result<Self, DoomedError> {
        let (identity, services) = meeting(place)?;
        let text = serde_json::to_string(task).expect("plain values");
        let (say, heard) = channel();
        let key = identity.key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut job = Self { ranks: Vec::new(), heard, key, _services: services };
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
        job.await_ready()?;
        Ok(job)
    }

    fn await_ready(&self) -> Result<(), DoomedError> {
        let limit = Instant::now() + BEGIN_LIMIT;
        let mut missing: Vec<usize> = (0..self.ranks.len()).collect();
        while !missing.is_empty() {
            match self.hear(limit) {
                Ok(Said { rank, event: Event::Ready, .. }) => missing.retain(|other| *other != rank),
                Ok(Said { rank, event, .. }) => return Err(DoomedError::Spoilt { rank, event }),
                Err(_) => return Err(DoomedError::NotReady { missing }),
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
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid(rank))) else {
            return "its process is gone".to_owned();
        };
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let one = |thread: std::fs::DirEntry| {
            let state = read(thread.path().join("stat"));
            let state = state.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]).to_owned();
            format!("{} {state} {}", read(thread.path().join("comm")), read(thread.path().join("wchan")))
        };
        threads.flatten().map(one).collect::<Vec<_>>().join(", ")
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
        loop {
            let end = self.ranks[rank].0.try_wait().map_err(system("wait for a rank"))?;
            if end.is_some() || Instant::now() >= limit {
                return Ok(end);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl DoomedJob {
    /// Kills all that are left, and waits for their ends.
    pub fn end_all(&mut self) {
        for (child, _) in &mut self.ranks {
            let _ = child.kill();
        }
        for (child, _) in &mut self.ranks {
            let _ = child.wait();
        }
    }
}

impl Drop for DoomedJob {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Who the ranks are, and who serves their meeting if they are on several nodes.
fn meeting(place: Place<'_>) -> Result<(Identity, Option<(rendezvous::Server, Witness)>), DoomedError> {
    let size = place.nodes.len();
    if place.count() == 1 {
        return Ok((Identity::random(size).map_err(system("draw a job's key"))?, None));
    }
    let host = place.namespaces.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |namespaces| namespaces.host());
    let listener = TcpListener::bind((host, 0)).map_err(system("serve a rendezvous"))?;
    let address = listener.local_addr().map_err(system("serve a rendezvous"))?;
    let identity = Identity::served_at(address, size).map_err(system("draw a job's key"))?;
    let server = rendezvous::Server::start(listener, &identity.key, size).map_err(system("serve a rendezvous"))?;
    let listener = TcpListener::bind((host, 0)).map_err(system("serve a witness"))?;
    let witness = Witness::start(listener, &identity.key, size, place.count()).map_err(system("serve a witness"))?;
    let identity = Identity { witness: Some(witness.address()), ..identity };
    Ok((identity, Some((server, witness))))
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
