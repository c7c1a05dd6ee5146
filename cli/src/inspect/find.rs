//! Finding segments: each process that has part in a job keeps its node's open, a memory file called `phalanx`.
//!
//! The kernel shows open files in `/proc/PID/fd`, to the same user. Files are told from each other by inode, so that a
//! segment is found once however many processes have it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use phalanx::SegmentError;
use phalanx::coord;
use phalanx::fabric::shm::ReadOnlySegment;

/// What the kernel calls such a file.
const LINK: &str = "/memfd:phalanx (deleted)";

/// A segment, or why what looked like one is none.
pub struct Found {
    /// The processes that have it open, in order.
    pub holders: Vec<u32>,
    pub segment: Result<ReadOnlySegment, SegmentError>,
}

/// The segments of all processes of this user. Processes that end meanwhile are passed over.
pub fn segments() -> Vec<Found> {
    let mut by_inode: BTreeMap<(u64, u64), (PathBuf, Vec<u32>)> = BTreeMap::new();
    for pid in processes() {
        for path in memory_files(pid) {
            let Ok(facts) = fs::metadata(&path) else { continue };
            let (_, holders) = by_inode.entry((facts.dev(), facts.ino())).or_insert((path, Vec::new()));
            // A process may have it open several times: to pass it on, or as all the ranks of its threads.
            if holders.last() != Some(&pid) {
                holders.push(pid);
            }
        }
    }
    by_inode.into_values().filter_map(|(path, holders)| open(&path, holders)).collect()
}

/// `None` when the process has ended meanwhile.
fn open(path: &Path, holders: Vec<u32>) -> Option<Found> {
    let file = File::open(path).ok()?;
    Some(Found { holders, segment: ReadOnlySegment::attach(&file.into(), coord::LAYOUT_HASH) })
}

/// The pids of this user's processes but this one, in order.
fn processes() -> Vec<u32> {
    let (own, user) = (std::process::id(), rustix::process::geteuid().as_raw());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_user = entries.filter(|entry| entry.metadata().is_ok_and(|facts| facts.uid() == user));
    let mut pids: Vec<u32> = of_user.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.retain(|pid| *pid != own);
    pids.sort_unstable();
    pids
}

/// The process's open files that are called like a segment.
fn memory_files(pid: u32) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| fs::read_link(path).is_ok_and(|target| target == Path::new(LINK))).collect()
}
