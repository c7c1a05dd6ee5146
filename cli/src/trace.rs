//! `phalanx trace merge`: the timelines of a job's ranks in one file.
//!
//! A rank writes its times by its node's clock, and when that clock began (docs/design.md, "The timeline"); here they
//! are set against each other. Files are read line by line, since each event is one, so that long ones need no memory;
//! one that breaks off, because its rank was killed, is taken as far as it goes.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Work on the timelines that ranks write when PHALANX_TRACE names a file.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put the timelines of a job's ranks into one file, for https://ui.perfetto.dev or chrome://tracing.
    Merge(Merge),
}

#[derive(Args)]
struct Merge {
    /// The ranks' files: trace.*.json, say.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file to write. What it holds is gone.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Why timelines could not be merged.
#[derive(Debug, thiserror::Error)]
enum MergeError {
    #[error("{}: {source}", .path.display())]
    System {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: it does not begin as a rank's timeline does (remedy: give the files that ranks have written)", .path.display())]
    Foreign { path: PathBuf },
    #[error("{}, line {line}: {why} (remedy: give the file as the rank has written it)", .path.display())]
    Corrupt { path: PathBuf, line: usize, why: String },
    #[error("{}: rank {rank} of {ranks}, but another file has that rank or is of a job of another size (remedy: give the files of one job, each once)", .path.display())]
    Mixed { path: PathBuf, rank: u64, ranks: u64 },
    #[error("{}: it is one of the files that are merged (remedy: name another one)", .path.display())]
    Overwritten { path: PathBuf },
}

/// Does what is asked for.
pub fn main(options: &Options) -> ExitCode {
    let Task::Merge(options) = &options.task;
    match merge(options) {
        Ok(merged) => {
            println!("{merged}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("phalanx trace merge: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a rank's file says of itself in its first event.
struct Head {
    path: PathBuf,
    origin_time_ns: i64,
}

fn merge(options: &Merge) -> Result<String, MergeError> {
    let heads = heads(&options.files)?;
    let output = &options.output;
    let same = |head: &Head| is_same_file(&head.path, output);
    if heads.iter().any(same) {
        return Err(MergeError::Overwritten { path: output.clone() });
    }
    let first = heads.iter().map(|head| head.origin_time_ns).min().unwrap_or(0);
    let file = File::create(output).map_err(at(output))?;
    let mut merging = Merging { out: BufWriter::new(file), output, events: 0, lost: 0, broken_off: 0 };
    merging.write("{\"traceEvents\":[")?;
    for head in &heads {
        merging.add(head, head.origin_time_ns - first)?;
    }
    let Merging { events, lost, broken_off, .. } = merging;
    let other =
        json!({"origin_time_ns": first.to_string(), "ranks": heads.len(), "lost": lost, "broken_off": broken_off});
    merging.write(&format!("\n],\n\"otherData\":{other}}}\n"))?;
    merging.out.flush().map_err(at(output))?;
    let ranks = heads.len();
    Ok(format!("{}: {ranks} ranks, {events} events, {lost} lost, {broken_off} files broken off", output.display()))
}

/// The files' heads, which must be of different ranks of one job.
fn heads(files: &[PathBuf]) -> Result<Vec<Head>, MergeError> {
    let (mut seen, mut size) = (HashSet::new(), None);
    let mut heads = Vec::new();
    for path in files {
        let foreign = || MergeError::Foreign { path: path.clone() };
        let mut lines = BufReader::new(File::open(path).map_err(at(path))?).lines();
        let mut next = || lines.next().and_then(Result::ok).ok_or_else(foreign);
        if next()? != "[" {
            return Err(foreign());
        }
        let event = event_in(&next()?).map_err(|_| foreign())?;
        let args = event.get("args").filter(|_| event["name"] == "phalanx_trace").ok_or_else(foreign)?;
        let number = |name: &str| args[name].as_u64().ok_or_else(foreign);
        let (rank, ranks) = (number("rank")?, number("ranks")?);
        if !seen.insert(rank) || *size.get_or_insert(ranks) != ranks {
            return Err(MergeError::Mixed { path: path.clone(), rank, ranks });
        }
        let origin = args["origin_time_ns"].as_str().and_then(|text| text.parse().ok());
        heads.push(Head { path: path.clone(), origin_time_ns: origin.ok_or_else(foreign)? });
    }
    Ok(heads)
}

/// The merged file as it is written.
struct Merging<'output> {
    out: BufWriter<File>,
    output: &'output Path,
    events: u64,
    lost: u64,
    broken_off: u64,
}

impl Merging<'_> {
    /// Adds a rank's events, so much later than its own clock says.
    fn add(&mut self, head: &Head, later_ns: i64) -> Result<(), MergeError> {
        let path = &head.path;
        let mut lines = BufReader::new(File::open(path).map_err(at(path))?).lines().enumerate().skip(1).peekable();
        let (mut is_complete, mut lost) = (false, 0);
        while let Some((index, line)) = lines.next() {
            let line = line.map_err(at(path))?;
            if line == "]" {
                is_complete = true;
                break;
            }
            let mut event = match event_in(&line) {
                Ok(event) => event,
                // The rank was killed while it wrote this.
                Err(_) if lines.peek().is_none() => break,
                Err(why) => return Err(MergeError::Corrupt { path: path.clone(), line: index + 1, why }),
            };
            // Where a file breaks off the counter is the last that is known.
            lost = event["args"]["lost"].as_u64().unwrap_or(lost);
            if event["name"].as_str().is_some_and(|name| name.starts_with("phalanx_trace")) {
                continue;
            }
            if let Some(microseconds) = event["ts"].as_f64() {
                event["ts"] = json!(later(microseconds, later_ns));
            }
            let separator = if self.events == 0 { "\n" } else { ",\n" };
            self.write(&format!("{separator}{event}"))?;
            self.events += 1;
        }
        self.lost += lost;
        self.broken_off += u64::from(!is_complete);
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), MergeError> {
        self.out.write_all(text.as_bytes()).map_err(at(self.output))
    }
}

/// The event on a line.
fn event_in(line: &str) -> Result<Value, String> {
    let event: Value =
        serde_json::from_str(line.strip_suffix(',').unwrap_or(line)).map_err(|error| error.to_string())?;
    if event.is_object() { Ok(event) } else { Err("no event".to_owned()) }
}

/// A time in microseconds, so many nanoseconds later, and exact to one.
#[allow(clippy::cast_possible_truncation, reason = "a job of 285 years is no concern")]
fn later(microseconds: f64, later_ns: i64) -> f64 {
    let ns = (microseconds * 1000.0).round() as i64 + later_ns;
    ns as f64 / 1000.0
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

fn at(path: &Path) -> impl Fn(io::Error) -> MergeError + '_ {
    |source| MergeError::System { path: path.to_owned(), source }
}
