//! The ranks as processes: starting them, learning of their deaths, sending them signals.
//!
//! Deaths are learnt from one pidfd per rank in an epoll set, not from `wait` alone. The set reports them in the
//! order in which they happened, and that order is how the rank that failed first is told from those that failed
//! because of it; `wait` would report them in the order in which they were started.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd;
use phalanx::cluster::environment::LAUNCHER_VARIABLES;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, WaitOptions, WaitStatus, getrlimit, pidfd_open, setrlimit, wait, waitpid,
};

use super::course::End;
use super::error::RunError;
use super::nodes::Nodes;
use super::options::Options;
use super::placement::Placement;
use super::signals::Origin;
use super::spawn::{self, Birth};

const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How to start a rank.
pub struct Recipe<'a> {
    options: &'a Options,
    nodes: Nodes,
    placement: Placement,
    /// The process group of the launcher, which is the terminal's foreground group while the launcher is.
    group: Pid,
    open_files: Rlimit,
}

impl<'a> Recipe<'a> {
    /// Decides all that ranks have in common, and makes room for their file descriptors.
    pub fn new(options: &'a Options, group: Pid) -> Result<Self, RunError> {
        let open_files = getrlimit(Resource::Nofile);
        // If this fails, starting rank after rank will tell when there is no room.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: open_files.maximum, maximum: open_files.maximum });
        let nodes = Nodes::new(options.nodes, options.ranks)
            .map_err(RunError::system("make the job's key, or serve its rendezvous on 127.0.0.1"))?;
        let placement = Placement::choose(options.bind, options.ranks)
            .map_err(RunError::system("find out which CPUs may be used (--bind none does without)"))?;
        Ok(Self { options, nodes, placement, group, open_files })
    }

    /// Starts rank `rank`: a process, with our ends of its stdout and stderr.
    fn start(&self, rank: usize) -> Result<(Pid, OwnedFd, OwnedFd), RunError> {
        let (program, arguments) = self.options.command.split_first().expect("clap requires a program");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(if rank == 0 { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(self.group.as_raw_pid());
        for name in LAUNCHER_VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.nodes.variables(rank));
        command.envs(self.options.tcp_engine.map(|engine| ("PHALANX_TCP_ENGINE", engine.name())));
        let birth = Birth { mask: self.placement.mask(rank), open_files: self.open_files };
        spawn::prepare(&mut command, birth);
        let mut child = command.spawn().map_err(|cause| RunError::spawn(program, rank, cause))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        Ok((Pid::from_child(&child), stdout.into(), stderr.into()))
    }
}

/// A rank that was started. Its pid is its own until the supervisor has seen its end.
struct Rank {
    pid: Pid,
    /// `None` once its end has been seen.
    pidfd: Option<OwnedFd>,
}

/// The end of a rank.
pub struct Death {
    pub rank: usize,
    pub pid: Pid,
    pub end: End,
}

/// All ranks that were started so far.
pub struct Ranks {
    all: Vec<Rank>,
    running: usize,
    /// An epoll set: readable when a rank has died.
    deaths: OwnedFd,
    group: Pid,
}

impl Ranks {
    /// No rank yet.
    pub fn new(group: Pid) -> io::Result<Self> {
        let deaths = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { all: Vec::new(), running: 0, deaths, group })
    }

    /// Starts the next rank and returns our ends of its stdout and stderr.
    pub fn start_next(&mut self, recipe: &Recipe<'_>) -> Result<(OwnedFd, OwnedFd), RunError> {
        let rank = self.all.len();
        let (pid, stdout, stderr) = recipe.start(rank)?;
        let watch = |cause: rustix::io::Errno| RunError::NoResources { rank, cause: cause.into() };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(watch)?;
        let data = epoll::EventData::new_u64(rank as u64);
        epoll::add(&self.deaths, &pidfd, data, epoll::EventFlags::IN).map_err(watch)?;
        self.all.push(Rank { pid, pidfd: Some(pidfd) });
        self.running += 1;
        Ok((stdout, stderr))
    }

    /// How many have been started.
    pub fn started(&self) -> usize {
        self.all.len()
    }

    /// How many have been started and not ended.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Becomes readable when a rank has died.
    pub fn deaths(&self) -> BorrowedFd<'_> {
        self.deaths.as_fd()
    }

    /// The ranks that have died since the last call, in the order of their deaths.
    pub fn take_dead(&mut self) -> Vec<Death> {
        let mut events = Vec::with_capacity(self.running.max(1));
        // An error is an interruption: the set stays readable.
        let _ = epoll::wait(&self.deaths, spare_capacity(&mut events), Some(&NO_WAIT));
        let ranks = events.into_iter().filter_map(|event| usize::try_from(event.data.u64()).ok());
        ranks.filter_map(|rank| self.bury(rank)).collect()
    }

    fn bury(&mut self, rank: usize) -> Option<Death> {
        let pid = self.all.get(rank)?.pid;
        let (_, status) = waitpid(Some(pid), WaitOptions::NOHANG).ok()??;
        self.note_end(rank, status)
    }

    fn note_end(&mut self, rank: usize, status: WaitStatus) -> Option<Death> {
        let end = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, Some(signal)) => End::Killed(signal),
            (None, None) => return None,
        };
        self.all[rank].pidfd.take()?;
        self.running -= 1;
        Some(Death { rank, pid: self.all[rank].pid, end })
    }

    /// Reaps orphans that the supervisor has inherited from the ranks. A rank may die between `take_dead` and this,
    /// so that its death is found here.
    pub fn reap_orphans(&mut self) -> Vec<Death> {
        let mut dead = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let rank = self.all.iter().position(|rank| rank.pid == pid && rank.pidfd.is_some());
            dead.extend(rank.and_then(|rank| self.note_end(rank, status)));
        }
        dead
    }

    /// Sends a signal to every running rank that does not have it already.
    pub fn send(&self, signal: Signal, origin: Origin) {
        for rank in self.all.iter().filter(|rank| rank.pidfd.is_some()) {
            let pid = unistd::Pid::from_raw(rank.pid.as_raw_pid());
            let in_group = || unistd::getpgid(Some(pid)).is_ok_and(|group| group.as_raw() == self.group.as_raw_pid());
            if origin == Origin::Process || !in_group() {
                let _ = kill(pid, signal);
            }
        }
    }

    /// Kills a rank if it runs.
    pub fn kill(&self, rank: usize) {
        if let Some(process) = self.all.get(rank).filter(|process| process.pidfd.is_some()) {
            let _ = kill(unistd::Pid::from_raw(process.pid.as_raw_pid()), Signal::SIGKILL);
        }
    }

    /// The running ranks and their processes, in order.
    pub fn survivors(&self) -> impl Iterator<Item = (usize, Pid)> {
        let running = self.all.iter().enumerate().filter(|(_, rank)| rank.pidfd.is_some());
        running.map(|(rank, process)| (rank, process.pid))
    }

    /// The running ranks, for a message: `ranks 0-3, 7`.
    pub fn describe_running(&self) -> String {
        describe(&self.survivors().map(|(rank, _)| rank).collect::<Vec<_>>())
    }
}

/// Ranks for a message: `ranks 0-3, 7`.
pub fn describe(ranks: &[usize]) -> String {
    let mut text = String::from(if ranks.len() == 1 { "rank " } else { "ranks " });
    for (index, run) in ranks.chunk_by(|before, after| before + 1 == *after).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let (first, last) = (run[0], run[run.len() - 1]);
        // Writing to a string cannot fail.
        let _ = match run.len() {
            1 => write!(text, "{separator}{first}"),
            2 => write!(text, "{separator}{first}, {last}"),
            _ => write!(text, "{separator}{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn ranks_are_listed_in_runs() {
        assert_eq!(describe(&[4]), "rank 4");
        assert_eq!(describe(&[0, 1]), "ranks 0, 1");
        assert_eq!(describe(&[0, 1, 2, 3, 7, 9, 10]), "ranks 0-3, 7, 9, 10");
    }
}
