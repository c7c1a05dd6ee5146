//! Finding and ending all descendants of this process, whatever they have done to hide: become a daemon, started a
//! session of their own, lost their parents.
//!
//! This works because the process is a *subreaper* (`PR_SET_CHILD_SUBREAPER`): a descendant whose parent dies becomes
//! its child, not init's. So every descendant hangs on a chain of living parents that ends here, and "no child left"
//! means "no descendant left". /proc shows a tree that changes while it is read, and processes may fork faster than
//! they are killed; therefore the tree is read and killed again and again until the kernel says that no child is left.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// A process that has not died this long after SIGKILL is beyond reach: stuck in the kernel, or another user's.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// Children that this process already had when it started, because a shell with background jobs became it by `exec`.
/// They and theirs are none of the job's business.
pub struct Strangers(HashSet<Pid>);

impl Strangers {
    /// A process that was forked a moment ago has none.
    pub fn none() -> Self {
        Self(HashSet::new())
    }

    /// All children there are now, before the job has started.
    pub fn present() -> Self {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => Self::none(),
            _ => Self(read_tree().remove(&getpid()).unwrap_or_default().into_iter().collect()),
        }
    }
}

/// Kills and reaps every descendant that is not a stranger's. The error lists those that would not die.
pub fn end_descendants(strangers: &Strangers) -> Result<(), Vec<Pid>> {
    let begun = Instant::now();
    // A single reading of /proc misses a process that changes parents during it; two in a row do not.
    let mut empty_readings = 0;
    while !reap_all() && empty_readings < 2 {
        let living = descendants(strangers);
        empty_readings = if living.is_empty() && !strangers.0.is_empty() { empty_readings + 1 } else { 0 };
        for &pid in &living {
            // It may be gone by now, or not ours to kill: the next reading tells.
            let _ = kill_process(pid, Signal::KILL);
        }
        if begun.elapsed() > PATIENCE {
            return Err(living);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Collects the statuses of all dead children; true if there is no child left, dead or alive.
fn reap_all() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn descendants(strangers: &Strangers) -> Vec<Pid> {
    let tree = read_tree();
    let mut found = Vec::new();
    let mut parents = vec![getpid()];
    while let Some(parent) = parents.pop() {
        let children = tree.get(&parent).into_iter().flatten().filter(|child| !strangers.0.contains(child));
        for &child in children {
            found.push(child);
            parents.push(child);
        }
    }
    found
}

/// The processes of this machine by their parents. (`/proc/PID/task/TID/children` would be quicker, but not
/// every kernel is built with it.)
fn read_tree() -> HashMap<Pid, Vec<Pid>> {
    let mut tree: HashMap<Pid, Vec<Pid>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw) {
        // It is normal that a process is gone before it could be looked at.
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        if let Some(parent) = parse_parent(&String::from_utf8_lossy(&stat)) {
            tree.entry(parent).or_default().push(pid);
        }
    }
    tree
}

/// The parent in `PID (NAME) STATE PPID …`. NAME may hold anything, brackets included. The state does not matter: what
/// looks like a zombie may be a process whose first thread has ended and whose others run on.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let parent = after_name.split_ascii_whitespace().nth(1)?;
    Pid::from_raw(parent.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_behind_any_name() {
        assert_eq!(parse_parent("12 (sh) S 7 12 12 0"), Pid::from_raw(7));
        assert_eq!(parse_parent("12 (a) Z 1 (b)) R 7 12 12 0"), Pid::from_raw(7));
        assert_eq!(parse_parent(""), None);
    }

    #[test]
    fn this_process_is_among_its_parents_children() {
        let parent = rustix::process::getppid().expect("a test has a parent");
        assert!(read_tree()[&parent].contains(&getpid()));
    }
}
