//! Runs one rival's processes: asleep while they are measured, bounded in time, and with nothing left behind.
//!
//! A launcher is the head of a tree: `mpirun` gives each rank a process group of its own, and MPICH's even a session,
//! so a signal to one group does not reach them all. The tree is therefore read from `/proc` before it is ended.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// How much of a log an error quotes.
const TAIL_BYTES: u64 = 4096;

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was ended at its limit.
    TimedOut,
}

/// Runs `command` with its output in the file `log`, for `limit` at most.
pub fn run(mut command: Command, log: &Path, limit: Duration) -> io::Result<End> {
    let log = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut tree = Tree { head: command.spawn()?, ended: false };
    match tree.wait_within(limit)? {
        Some(status) => Ok(End::Exited(status)),
        None => Ok(End::TimedOut),
    }
}

/// The end of a log, as text.
pub fn tail(log: &Path) -> String {
    read_tail(log).unwrap_or_default()
}

fn read_tail(log: &Path) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A child and all its descendants. Dropped before its head has ended, it takes them all down.
struct Tree {
    head: Child,
    ended: bool,
}

impl Tree {
    /// Sleeps until the head has ended. It has no timer that ticks meanwhile: that would wake the very CPUs on which
    /// the rival is measured.
    fn wait_within(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        let pidfd = pidfd_open(Pid::from_child(&self.head), PidfdFlags::empty())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(None),
                Ok(_) => break,
            }
        }
        let status = self.head.wait()?;
        self.ended = true;
        Ok(Some(status))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let head = Pid::from_child(&self.head);
        // Stopped, so that it cannot start another between the look and the kill. Each of these may fail because the
        // process has just ended, which is what is wanted.
        let _ = kill_process_group(head, Signal::STOP);
        let descendants = descendants_of(head);
        let _ = kill_process_group(head, Signal::KILL);
        for pid in descendants {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.head.wait();
    }
}

fn descendants_of(head: Pid) -> Vec<Pid> {
    let parents = parents_of_all();
    let mut family = vec![head];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    family.remove(0);
    family
}

/// Each process of the machine that can be seen, with its parent.
fn parents_of_all() -> Vec<(Pid, Pid)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let child = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // `pid (name) state parent …`, where the name may hold spaces and parentheses of its own.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((child, Pid::from_raw(parent.parse().ok()?)?))
        })
        .collect()
}
