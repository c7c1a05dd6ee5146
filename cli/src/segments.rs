//! Finding segments: each process that has part in a job keeps its node's open, a memory file called `phalanx`.
//!
//! The kernel shows open files in `/proc/PID/fd`, to the same user. Files are told from each other by inode, so that a
//! segment is found once however many processes have it. `phalanx inspect` looks at all processes, `phalanx run` at one
//! of its ranks when another one has died.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use phalanx::SegmentError;
use phalanx::coord;
use phalanx::fabric::node::header;
use phalanx::fabric::shm::ReadOnlySegment;

/// How many open files of a process are looked at by whoever has no time. A segment is among a program's first files.
const HASTY_FILES: usize = 1024;
/// What the kernel calls such a file.
const LINK: &str = "/memfd:phalanx (deleted)";

/// A segment, or why what looked like one is none.
pub struct Found {
    /// The processes that have it open, in order.
    pub holders: Vec<u32>,
    pub segment: Result<ReadOnlySegment, SegmentError>,
    /// What stands where segments of this version have the number that all nodes of a job have in common.
    pub family: u64,
}

/// The segments of all processes of this user. Processes that end meanwhile are passed over.
pub fn all() -> Vec<Found> {
    let mut by_inode: BTreeMap<Inode, (Vec<PathBuf>, Vec<u32>)> = BTreeMap::new();
    for pid in processes() {
        for path in memory_files(pid, usize::MAX) {
            let Ok(facts) = fs::metadata(&path) else { continue };
            let (paths, holders) = by_inode.entry(inode(&facts)).or_default();
            // A process may have it open several times: to pass it on, or as all the ranks of its threads.
            if holders.last() != Some(&pid) {
                holders.push(pid);
            }
            paths.push(path);
        }
    }
    by_inode.into_iter().filter_map(|(of, (paths, holders))| open_any(&paths, of, holders)).collect()
}

/// Opens a segment at the first of some places where it still is. Who has it for a moment only, as somebody else who
/// looks at it, may have closed it again, while its ranks have it yet.
fn open_any(paths: &[PathBuf], of: Inode, holders: Vec<u32>) -> Option<Found> {
    let file = paths
        .iter()
        .filter_map(|path| open(path))
        .find(|file| file.metadata().is_ok_and(|facts| inode(&facts) == of))?;
    Some(found(file, holders))
}

/// The segments that one process has open, found in bounded time and without waiting for anything.
pub fn of_process(pid: u32) -> Vec<ReadOnlySegment> {
    let opened = memory_files(pid, HASTY_FILES).filter_map(|path| open(&path));
    opened.filter_map(|file| found(file, vec![pid]).segment.ok()).collect()
}

/// Tells files from each other: device and number.
type Inode = (u64, u64);

fn inode(facts: &Metadata) -> Inode {
    (facts.dev(), facts.ino())
}

/// `None` when the process has closed it, or has ended.
fn open(path: &Path) -> Option<File> {
    // Between the look at its name and this the descriptor may have become another file's, one that makes whoever opens
    // it wait.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

fn found(file: File, holders: Vec<u32>) -> Found {
    let mut family = [0; 8];
    // What is too short for that is no segment, as is found below.
    let _ = file.read_exact_at(&mut family, 8 * header::FAMILY.0 as u64);
    let segment = ReadOnlySegment::attach(&file.into(), coord::LAYOUT_HASH);
    Found { holders, segment, family: u64::from_ne_bytes(family) }
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

/// Those of the process's first `most` open files that are called like a segment.
fn memory_files(pid: u32, most: usize) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    files.take(most).filter(|path| fs::read_link(path).is_ok_and(|target| target == Path::new(LINK)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_one_process_has_closed_is_found_at_another_one() {
        let [wanted, other] = ["wanted", "other"].map(|name| {
            let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file");
            File::from(file)
        });
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let of = inode(&wanted.metadata().expect("it is open"));
        // Closed; become another file's; and still there.
        let paths = [PathBuf::from("/proc/self/fd/999999"), path(&other), path(&wanted)];
        assert_eq!(open_any(&paths, of, vec![1, 2]).expect("it is there").holders, [1, 2]);
        assert!(open_any(&paths[..2], of, vec![1, 2]).is_none());
    }
}
