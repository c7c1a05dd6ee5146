//! A data set that each node needs on its own disk: one rank of a node fetches it, the node's other ranks wait, and if
//! the one that fetches it is killed half-way, the next one finishes.
//!
//! A lock for each node says who may fetch: if its holder dies, the next in its queue has it. What the dead one had
//! fetched whole is kept: each part is written under a name of its own, with the lock's token in it, and renamed when
//! it is whole. The marker `READY` comes last, and can be made only once. A rank that was stopped in the middle, taken
//! for dead, and comes back when others are through, puts at most one part there again, which is the same.
//!
//! ```text
//! cargo run --release --example download_once
//! cargo run --release -- run -n 4 --keep-going -- target/release/examples/download_once /tmp/data-set 500
//! ```
//!
//! In the second each part takes 500 ms more, so that there is time to kill the rank that fetches them (`phalanx
//! inspect` names its process: it has the lock); by `--keep-going` the others go on then. It prints what each rank has
//! fetched, and the sum over what each rank then reads. Run again it finds all there.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use phalanx::{Job, Token};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Parts of the data set.
pub(crate) const PARTS: usize = 8;
/// Bytes of a part.
const PART_BYTES: usize = 1 << 16;
/// There when all parts are; says who has fetched the last of them, by which token.
pub(crate) const MARKER: &str = "READY";

fn main() -> ExitCode {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "data-set".to_owned());
    let pause = std::env::args().nth(2).map_or(Ok(0), |pause| pause.parse()).map(Duration::from_millis);
    let (Ok(pause), false) = (pause, directory.starts_with('-')) else {
        eprintln!("usage: download_once [DIRECTORY [MS]]    (default: data-set 0)");
        return ExitCode::from(2);
    };
    match run(directory.as_ref(), pause) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("download_once: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, pause: Duration) -> Fallible<()> {
    let job = Job::from_env()?;
    // Nodes have disks of their own; where some share one this keeps them apart.
    let directory = directory.join(format!("node-{}", job.node()));
    let fetched = make_ready(&job, &directory, |part, file| {
        std::thread::sleep(pause);
        download(part, file)
    })?;
    println!("rank {}: fetched {fetched} of {PARTS} parts, their sum is {:#x}", job.rank(), sum(&directory)?);
    Ok(())
}

/// Returns when the data set is whole, with how many parts of it this rank has fetched.
pub(crate) fn make_ready(
    job: &Job,
    directory: &Path,
    fetch: impl FnMut(usize, &mut File) -> io::Result<()>,
) -> Fallible<usize> {
    let lock = job.lock(&format!("data set of node {}", job.node()))?;
    // All but one of the node's ranks wait here, until that one is through, or dead.
    let guard = lock.acquire()?;
    let fetched = match directory.join(MARKER).exists() {
        true => 0,
        false => prepare(directory, job.rank(), guard.token(), fetch)?,
    };
    // An error if this rank was taken for dead meanwhile: others go on without it.
    guard.release()?;
    Ok(fetched)
}

/// Fetches what is missing, and sets the marker.
fn prepare(
    directory: &Path,
    rank: usize,
    token: Token,
    mut fetch: impl FnMut(usize, &mut File) -> io::Result<()>,
) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let mut fetched = 0;
    for part in 0..PARTS {
        let whole = directory.join(name_of(part));
        // By one that has died: it was renamed when it was whole.
        if whole.exists() {
            continue;
        }
        let unfinished = directory.join(format!("{}.{rank}.{token}", name_of(part)));
        write_whole(&unfinished, |file| fetch(part, file))?;
        fs::rename(unfinished, whole)?;
        fetched += 1;
    }
    let marker = directory.join(format!("{MARKER}.{rank}.{token}"));
    write_whole(&marker, |file| writeln!(file, "rank {rank}, token {token}"))?;
    // Unlike a rename, a link fails where there is one already: then this rank was followed by another one.
    match fs::hard_link(marker, directory.join(MARKER)) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // This rank's own, and what those before it have left: of a later one nothing.
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let of = name.to_string_lossy().rsplit_once('.').and_then(|(_, token)| token.parse::<u64>().ok());
        if of.is_some_and(|of| of <= token.0) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(fetched)
}

/// Writes a file that is nobody else's, and has it on the disk.
fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::create(path)?;
    write(&mut file)?;
    file.sync_all()
}

pub(crate) fn name_of(part: usize) -> String {
    format!("part-{part:03}")
}

/// Stands for what takes long in a real program: part of a download, of an unpacking.
pub(crate) fn download(part: usize, file: &mut File) -> io::Result<()> {
    let bytes = (0..PART_BYTES).map(|index| u8::try_from((index * 31 + part * 7) % 251).expect("below 251"));
    file.write_all(&bytes.collect::<Vec<u8>>())
}

/// What a rank does with the data set.
pub(crate) fn sum(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for part in 0..PARTS {
        sum += fs::read(directory.join(name_of(part)))?.into_iter().map(u64::from).sum::<u64>();
    }
    Ok(sum)
}
