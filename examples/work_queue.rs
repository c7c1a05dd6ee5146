//! A directory of files, each of them processed once, by whichever rank is free, while ranks are killed.
//!
//! A lock for each file says who is at it. A rank takes whatever file nobody else is at; when none is left it waits for
//! those that others are at, in case one of them dies. A result appears whole and once, by a link that fails where
//! there is one: a file whose rank dies in the middle is processed anew by another one, and a rank that was stopped,
//! taken for dead, and comes back adds nothing.
//!
//! ```text
//! cargo run --release --example work_queue
//! cargo run --release -- run -n 4 --keep-going -- target/release/examples/work_queue texts results 200
//! ```
//!
//! The first is a job of one rank. In the second each file takes 200 ms more, so that there is time to kill a rank
//! (`phalanx inspect` names their processes, and who is at which file); by `--keep-going` the others go on then.
//!
//! It counts the words of the files in a directory (plain files of text, with names of at most 90 bytes), or of some
//! that it makes, and prints how many files each rank has done. Each result says whose it is, also of a rank that was
//! killed: `sort results/* | cut -d, -f2 | sort | uniq -c`. Results stay: run again it finds nothing left to do.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use phalanx::{Job, Token};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (texts, results) = (arguments.next(), arguments.next().unwrap_or_else(|| "work-queue-results".to_owned()));
    let pause = arguments.next().map_or(Ok(0), |pause| pause.parse()).map(Duration::from_millis);
    let (Ok(pause), false) = (pause, texts.as_ref().is_some_and(|texts| texts.starts_with('-'))) else {
        eprintln!("usage: work_queue [TEXTS [RESULTS [MS]]]    (default: work-queue-texts work-queue-results 0)");
        return ExitCode::from(2);
    };
    match run(texts.as_deref(), results.as_ref(), pause) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("work_queue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(texts: Option<&str>, results: &Path, pause: Duration) -> Fallible<()> {
    let job = Job::from_env()?;
    let texts = Path::new(texts.unwrap_or("work-queue-texts"));
    if !texts.exists() {
        make_samples(&job, texts)?;
    }
    let done = work(&job, texts, results, |path| {
        std::thread::sleep(pause);
        Ok(format!("{} words, by rank {}\n", count_words(path)?, job.rank()))
    })?;
    println!("rank {}: {done} of {} files", job.rank(), names_in(texts)?.len());
    Ok(())
}

/// Returns when each file of `inbox` has a result in `outbox`, with how many of them are this rank's. A file's name may
/// have up to 90 bytes.
pub(crate) fn work(
    job: &Job,
    inbox: &Path,
    outbox: &Path,
    mut process: impl FnMut(&Path) -> Fallible<String>,
) -> Fallible<usize> {
    fs::create_dir_all(outbox)?;
    let mut names = names_in(inbox)?;
    // Each rank begins somewhere else, so that they seldom ask for the same file.
    let first = names.len() * job.rank() / job.size();
    names.rotate_left(first);
    let mut done = 0;
    for waits_for_others in [false, true] {
        for name in &names {
            let result = outbox.join(name);
            if result.exists() {
                continue;
            }
            let lock = job.lock(&format!("file {name}"))?;
            let guard = if waits_for_others { Some(lock.acquire()?) } else { lock.try_acquire()? };
            let Some(guard) = guard else { continue };
            // Nobody else is at it now; somebody may have been.
            if !result.exists() {
                let text = process(&inbox.join(name))?;
                done += usize::from(publish(outbox, name, job.rank(), guard.token(), &text)?);
            }
            // An error if this rank was taken for dead meanwhile: others go on without it.
            guard.release()?;
        }
    }
    Ok(done)
}

/// Has a result appear, whole, unless there is one. Whether it did.
fn publish(outbox: &Path, name: &str, rank: usize, token: Token, text: &str) -> io::Result<bool> {
    // Nobody else's: a rank has a token once.
    let unfinished = outbox.join(format!(".{name}.{rank}.{token}"));
    fs::write(&unfinished, text)?;
    let linked = match fs::hard_link(&unfinished, outbox.join(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    };
    fs::remove_file(&unfinished)?;
    linked
}

/// The files of a directory that are not hidden, in the order of their names.
pub(crate) fn names_in(directory: &Path) -> Fallible<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().into_string().map_err(|name| format!("{} is no UTF-8", name.display()))?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn count_words(path: &Path) -> io::Result<usize> {
    Ok(fs::read_to_string(path)?.split_whitespace().count())
}

/// Something to work on, made by one rank while the others wait.
fn make_samples(job: &Job, directory: &Path) -> Fallible<()> {
    let lock = job.lock("samples")?;
    let guard = lock.acquire()?;
    if !directory.exists() {
        let unfinished = directory.with_extension(format!("{}.{}", job.rank(), guard.token()));
        fs::create_dir_all(&unfinished)?;
        for number in 0..60 {
            fs::write(unfinished.join(format!("text-{number:02}")), "one two three ".repeat(1 + number % 7))?;
        }
        fs::rename(unfinished, directory)?;
    }
    Ok(guard.release()?)
}
