//! Many processes watched by one thread that sleeps until one dies.
//!
//! A *pidfd* is readable once the whole process is dead, its last thread included, whoever its parent is; an epoll set
//! of them costs nothing while all live. Where there are no pidfds (Linux before 5.3, or a sandbox that forbids
//! `pidfd_open`), [`Deaths::wait`] looks at `/proc` every 10 ms instead: a process that is reaped between two looks is
//! noticed, but not how it ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::end::{End, end_of};
use super::process::{ProcessId, ProcessState};

/// The time between two looks at processes that have no pidfd.
const LOOK_PERIOD: Duration = Duration::from_millis(10);
/// The longest single sleep; longer ones are several. Kernels before 5.11 take no time-out of more than 24 days.
const NAP_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How many events one call takes from the kernel. The others are still there at the next.
const EVENTS: usize = 128;
/// The token of the bell; those of processes follow.
const BELL_TOKEN: u64 = 0;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Why processes cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// This process has as many open files as it may have.
    #[error(
        "cannot watch process {pid} beside {watched} others: {source} (remedy: allow more open files with `ulimit -n`)"
    )]
    OpenFiles {
        /// The process that cannot be watched.
        pid: u32,
        /// How many are.
        watched: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses something else.
    #[error("cannot {step} to watch processes: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What has become of a process that was to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It lives, and its death will be told.
    Watched,
    /// It is dead, and will not be told of again.
    DeadAlready(End),
}

/// A watched process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// What the caller calls it.
    pub key: u64,
    /// The process.
    pub process: ProcessId,
    /// How.
    pub end: End,
}

/// Why a sleep has ended. Neither, when its time is over or a signal came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Who has died, in the order in which the kernel noticed.
    pub deaths: Vec<Death>,
    /// Somebody has rung the bell.
    pub is_rung: bool,
}

/// Ends a sleep from elsewhere: another thread, or a hook that may do no more than one system call.
#[derive(Clone, Debug)]
pub struct Bell {
    counter: Arc<OwnedFd>,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { counter: Arc::new(counter) })
    }

    /// Ends the sleep, or the next one if nobody sleeps now. One `write`, which never blocks.
    pub fn ring(&self) {
        // It fails when the counter is full: it is rung then.
        let _ = rustix::io::write(&*self.counter, &1_u64.to_ne_bytes());
    }

    /// Whether it has been rung since the last time that this was asked.
    fn take(&self) -> bool {
        rustix::io::read(&*self.counter, &mut [0_u8; 8]).is_ok()
    }
}

/// The watched processes.
#[derive(Debug)]
pub struct Deaths {
    epoll: OwnedFd,
    bell: Bell,
    way: Way,
    /// By token, which the kernel gives back with an event. A token is never used again.
    watched: BTreeMap<u64, Watched>,
    next_token: u64,
}

/// How deaths are learnt of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By pidfds as long as there are any.
    Pidfds,
    /// By looking, whatever there is.
    Looks,
}

#[derive(Debug)]
struct Watched {
    key: u64,
    process: ProcessId,
    /// `None`: it has to be looked at.
    pidfd: Option<OwnedFd>,
}

impl Deaths {
    /// Watches nobody yet.
    ///
    /// # Errors
    ///
    /// When this process can have no more open files.
    pub fn new() -> Result<Self, WatchError> {
        Self::by(Way::Pidfds)
    }

    pub(super) fn by(way: Way) -> Result<Self, WatchError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|errno| system("make an epoll set", errno))?;
        let bell = Bell::new().map_err(|source| WatchError::System { step: "make an eventfd", source })?;
        epoll::add(&epoll, &*bell.counter, EventData::new_u64(BELL_TOKEN), EventFlags::IN)
            .map_err(|errno| system("watch an eventfd", errno))?;
        Ok(Self { epoll, bell, way, watched: BTreeMap::new(), next_token: BELL_TOKEN + 1 })
    }

    /// What ends a sleep from elsewhere.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// How many are watched.
    pub fn watched(&self) -> usize {
        self.watched.len()
    }

    /// Watches one more, which [`wait`](Self::wait) will call by `key`. A key may stand for several processes.
    ///
    /// # Errors
    ///
    /// [`WatchError`]; the others are still watched.
    pub fn add(&mut self, key: u64, process: ProcessId) -> Result<Added, WatchError> {
        let pidfd = match self.open(process)? {
            Opened::Nobody => return Ok(Added::DeadAlready(End::Unknown)),
            Opened::No => None,
            Opened::Pidfd(pidfd) => Some(pidfd),
        };
        // Looked at after the pidfd is open: who has this pid now, and had it when its start was noted, had it also in
        // between, so that the pidfd is of no other process.
        let stat = process.stat().map_err(|source| self.refused(process, "read /proc", source))?;
        let Some(stat) = stat else {
            return Ok(Added::DeadAlready(End::Unknown));
        };
        if stat.state() == ProcessState::Gone {
            return Ok(Added::DeadAlready(end_of(pidfd.as_ref().map(AsFd::as_fd), process)));
        }
        let token = self.next_token;
        if let Some(pidfd) = &pidfd {
            epoll::add(&self.epoll, pidfd, EventData::new_u64(token), EventFlags::IN)
                .map_err(|errno| system("add a pidfd to an epoll set", errno))?;
        }
        self.next_token += 1;
        self.watched.insert(token, Watched { key, process, pidfd });
        Ok(Added::Watched)
    }

    /// Sleeps until somebody dies, the bell is rung, or the time is over (never, without one). A signal that this
    /// thread handles may end it early.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait, which no use of this type brings about.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken, WatchError> {
        let must_look = self.watched.values().any(|watched| watched.pidfd.is_none());
        let nap_max = if must_look { LOOK_PERIOD } else { NAP_MAX };
        // A time-out too long for the clock is for ever.
        let limit = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = limit.map_or(Duration::MAX, |limit| limit.saturating_duration_since(Instant::now()));
            let mut woken = Woken::default();
            if must_look {
                woken.deaths = self.look();
            }
            let nap = if woken.deaths.is_empty() { left.min(nap_max) } else { Duration::ZERO };
            let was_interrupted = self.sleep(nap, &mut woken)?;
            if was_interrupted || woken.is_rung || !woken.deaths.is_empty() || left.is_zero() {
                return Ok(woken);
            }
        }
    }

    /// One sleep of the kernel's; what it brought is added to `woken`. Whether a signal has ended it.
    fn sleep(&mut self, nap: Duration, woken: &mut Woken) -> Result<bool, WatchError> {
        let nap = Timespec::try_from(nap).expect("no longer than NAP_MAX");
        let mut events = Vec::with_capacity(EVENTS);
        // Not by the wait for the events, which would be in whole milliseconds.
        let slept = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&nap));
        let look = |_| epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&NOW));
        match slept.and_then(look) {
            Err(Errno::INTR) => return Ok(true),
            Err(errno) => return Err(system("wait for events", errno)),
            Ok(_) => {}
        }
        for event in events {
            match event.data.u64() {
                BELL_TOKEN => woken.is_rung |= self.bell.take(),
                token => woken.deaths.extend(self.bury(token)),
            }
        }
        Ok(false)
    }

    /// Those without a pidfd that have died. One that cannot be looked at now has not, as far as anybody knows.
    fn look(&mut self) -> Vec<Death> {
        let is_dead = |watched: &Watched| {
            watched.pidfd.is_none() && watched.process.state().is_ok_and(|state| state == ProcessState::Gone)
        };
        let dead: Vec<u64> =
            self.watched.iter().filter(|(_, watched)| is_dead(watched)).map(|(token, _)| *token).collect();
        dead.into_iter().filter_map(|token| self.bury(token)).collect()
    }

    /// Watches no longer a process that has died, and tells how.
    fn bury(&mut self, token: u64) -> Option<Death> {
        let Watched { key, process, pidfd } = self.watched.remove(&token)?;
        if let Some(pidfd) = &pidfd {
            // Not left to the closing of the pidfd, which a forked process may hold open too.
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        Some(Death { key, process, end: end_of(pidfd.as_ref().map(AsFd::as_fd), process) })
    }

    fn open(&self, process: ProcessId) -> Result<Opened, WatchError> {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            return Ok(Opened::Nobody);
        };
        if self.way == Way::Looks {
            return Ok(Opened::No);
        }
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Opened::Pidfd(pidfd)),
            Err(Errno::SRCH) => Ok(Opened::Nobody),
            Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(Opened::No),
            Err(errno) => Err(self.refused(process, "open a pidfd", errno.into())),
        }
    }

    fn refused(&self, process: ProcessId, step: &'static str, source: io::Error) -> WatchError {
        match Errno::from_io_error(&source) {
            Some(Errno::MFILE) => WatchError::OpenFiles { pid: process.pid, watched: self.watched.len(), source },
            _ => WatchError::System { step, source },
        }
    }
}

/// What came of opening a pidfd.
enum Opened {
    Pidfd(OwnedFd),
    /// There are no pidfds here.
    No,
    /// There is no such process.
    Nobody,
}

fn system(step: &'static str, errno: Errno) -> WatchError {
    WatchError::System { step, source: errno.into() }
}
