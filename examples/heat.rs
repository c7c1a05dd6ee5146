//! The heat equation on a plate, solved by all ranks together on one grid file that each of them maps.
//!
//! A Jacobi sweep replaces each cell by the mean of its four neighbours, reading one buffer and writing the other.
//! Each rank sweeps a block of rows and meets the others in a barrier after each sweep: before it, its neighbours may
//! still read the rows that its next sweep overwrites, and may not have written those that it will read. The same
//! barrier carries the largest change of the sweep, so all ranks know at once whether the plate has settled. The result
//! is that of a serial solver, bit for bit, for any number of ranks; `--check` compares them. `--without-barrier` shows
//! what becomes of it otherwise.
//!
//! ```text
//! cargo run --release --example heat
//! cargo run --release -- run -n 4 -- target/release/examples/heat
//! cargo run --release --example heat -- --threads 2 --without-barrier
//! ```
//!
//! It writes a picture of the plate, `heat.png`, and prints the sweeps per second and the share of its time that each
//! rank spent waiting in barriers, which the library notes anyway. The second command needs the first to have built it.

#![allow(unsafe_code, reason = "cells in a file that other processes map are reached by its address")]

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use phalanx::{BarrierError, Group, Job, MemberStats, Operation};

#[path = "heat/plate.rs"]
pub(crate) mod plate;

use plate::Solution;

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: heat [--size N] [--sweeps MAX] [--tolerance T] [--output PNG] [--grid FILE] [--threads N]
            [--check] [--without-barrier]

  --size N           cells along each side of the plate (default 256)
  --sweeps MAX       stop after so many sweeps (default 20000)
  --tolerance T      stop when no cell changes by more in a sweep (default 2e-6)
  --output PNG       where the picture goes (default heat.png)
  --grid FILE        keep the grid in this file (default: one in the temporary folder, removed)
  --threads N        run N ranks as threads of this process
  --check            compare the result with a serial solver's
  --without-barrier  leave the barriers out, and check";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(std::env::args().skip(1)).map_err(Into::into).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heat: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) size: usize,
    pub(crate) sweeps: usize,
    pub(crate) tolerance: f64,
    pub(crate) output: PathBuf,
    pub(crate) grid: Option<PathBuf>,
    pub(crate) threads: Option<usize>,
    pub(crate) is_checked: bool,
    pub(crate) has_barrier: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: 256,
            sweeps: 20_000,
            tolerance: 2e-6,
            output: "heat.png".into(),
            grid: None,
            threads: None,
            is_checked: false,
            has_barrier: true,
        }
    }
}

impl Options {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut options, mut arguments) = (Self::default(), arguments.into_iter());
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} needs a value\n{USAGE}"));
            match name.as_str() {
                "--size" => options.size = number(&name, &value()?, 3..=16_384)?,
                "--sweeps" => options.sweeps = number(&name, &value()?, 1..=usize::MAX)?,
                "--tolerance" => options.tolerance = number(&name, &value()?, 0.0..=1.0)?,
                "--threads" => options.threads = Some(number(&name, &value()?, 1..=1024)?),
                "--output" => options.output = value()?.into(),
                "--grid" => options.grid = Some(value()?.into()),
                "--check" => options.is_checked = true,
                "--without-barrier" => (options.has_barrier, options.is_checked) = (false, true),
                _ => return Err(format!("no such option: {name}\n{USAGE}")),
            }
        }
        if !options.has_barrier {
            // Only together can the ranks know that all of them have settled.
            options.tolerance = f64::NEG_INFINITY;
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Debug>(
    name: &str,
    text: &str,
    valid: std::ops::RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| valid.contains(number));
    number.ok_or(format!("{name} {text}: a number in {valid:?} is needed"))
}

fn run(options: &Options) -> Fallible<()> {
    let Some(threads) = options.threads else { return run_rank(&Job::from_env()?, options) };
    let jobs = Job::threads(threads)?;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || run_rank(&job, options))).collect();
        ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank gives its errors back"))
    })
}

/// Solves with the others. Rank 0 tells of it.
fn run_rank(job: &Job, options: &Options) -> Fallible<()> {
    let outcome = simulate(job, options)?;
    if job.rank() != 0 {
        return Ok(());
    }
    print!("{}", description(&outcome, options));
    if options.is_checked {
        let serial = plate::solve_serial(options.size, options.sweeps, options.tolerance);
        let differing = serial.field.iter().zip(&outcome.solution.field).filter(|(a, b)| a.to_bits() != b.to_bits());
        println!("{} of {} cells differ from the serial solver's", differing.count(), serial.field.len());
    }
    plate::write_png(&options.output, options.size, &outcome.solution.field)
        .map_err(|error| format!("{}: {error}", options.output.display()))?;
    println!("wrote {}", options.output.display());
    Ok(())
}

pub(crate) struct Outcome {
    pub(crate) solution: Solution,
    pub(crate) algorithm: String,
    pub(crate) elapsed: Duration,
    /// For each rank, the share of the time that it waited in barriers, and how often it came last.
    pub(crate) waits: Vec<(f64, u64)>,
}

/// Solves the equation as one rank of a job; all ranks return the whole field.
pub(crate) fn simulate(job: &Job, options: &Options) -> Fallible<Outcome> {
    let world = job.world();
    let grid = Grid::share(world, options.size, options.grid.as_deref())?;
    // A group of its own, so that its record holds the waits of the sweeps and of nothing else.
    let group = world.split(0, 0)?;
    let started_ns = group.stats().now_ns;
    let (sweeps, change) = solve(&grid, &group, options.sweeps, options.tolerance, |change| {
        if options.has_barrier { largest(&group, change) } else { Ok(change) }
    })?;
    // When all are here, all have noted their waits. The ranks share a clock, so that the first start counts.
    let started_ns = world.barrier_reduce(Operation::Min, started_ns)?;
    let stats = group.stats();
    let elapsed_ns = (stats.now_ns - started_ns).max(1);
    let wait = |member: &MemberStats| (member.waited_ns as f64 / elapsed_ns as f64, member.times_last);
    Ok(Outcome {
        solution: Solution { field: grid.field(sweeps), sweeps, change },
        algorithm: group.algorithm().reason,
        elapsed: Duration::from_nanos(elapsed_ns),
        waits: stats.members.iter().map(wait).collect(),
    })
}

fn description(outcome: &Outcome, options: &Options) -> String {
    let Outcome { solution, algorithm, elapsed, waits } = outcome;
    let settled = if solution.change <= options.tolerance { "settled" } else { "stopped" };
    let (size, rate) = (options.size, solution.sweeps as f64 / elapsed.as_secs_f64());
    let mut text = format!("{size} x {size} cells, ranks: {} ({algorithm})\n", waits.len());
    text += &format!("{settled} after {} sweeps, largest change {:.2e}\n", solution.sweeps, solution.change);
    text += &format!("{rate:.0} sweeps/s in {:.2} s\n", elapsed.as_secs_f64());
    for (rank, (share, last)) in waits.iter().enumerate() {
        text += &format!("rank {rank}: {:.1}% of the time in barriers, last to come {last} times\n", 100.0 * share);
    }
    text
}

/// The barrier between sweeps. Bits of floats that are not negative order as the floats do.
pub(crate) fn largest(group: &Group, change: f64) -> Result<f64, BarrierError> {
    group.barrier_reduce(Operation::Max, change.to_bits()).map(f64::from_bits)
}

/// Sweeps this rank's rows until `meet`, which gets a sweep's largest change here and gives back that of all ranks,
/// says that the plate has settled. Returns the sweeps done and the last change.
pub(crate) fn solve(
    grid: &Grid,
    group: &Group,
    sweeps: usize,
    tolerance: f64,
    mut meet: impl FnMut(f64) -> Result<f64, BarrierError>,
) -> Result<(usize, f64), BarrierError> {
    let rows = rows_of(group.rank(), group.size(), grid.size);
    let is_held: Vec<bool> = rows.clone().flat_map(|row| plate::held_row(grid.size, row)).collect();
    let mut change = f64::INFINITY;
    for sweep in 0..sweeps {
        change = meet(grid.sweep(sweep, rows.clone(), &is_held))?;
        if change <= tolerance {
            return Ok((sweep + 1, change));
        }
    }
    Ok((sweeps, change))
}

/// A rank's rows, of those inside the plate's edges; none where there are more ranks than rows.
pub(crate) fn rows_of(rank: usize, ranks: usize, size: usize) -> Range<usize> {
    let first_of = |rank| 1 + (size - 2) * rank / ranks;
    first_of(rank)..first_of(rank + 1)
}

/// Two buffers of `size` by `size` cells, side by side in a file that all ranks map.
pub(crate) struct Grid {
    map: MmapRaw,
    size: usize,
}

impl Grid {
    /// Rank 0 makes the file, all map it. Collective; fails on all ranks if it fails on one.
    pub(crate) fn share(world: &Group, size: usize, named: Option<&Path>) -> Fallible<Self> {
        let made = (world.rank() == 0).then(|| GridFile::create(size, named)).transpose();
        // A barrier tells all ranks the file's number; there is none if it could not be made.
        let number = made.as_ref().map_or(0, |file| file.as_ref().map_or(0, |file| file.number));
        let number = world.barrier_reduce(Operation::Or, number)?;
        let file = made?;
        if number == 0 {
            return Err("rank 0 could not make the grid file".into());
        }
        let grid = Self::open(&GridFile::path(named, number), size);
        let is_everybodys = world.barrier_reduce(Operation::And, u64::from(grid.is_ok()))? == 1;
        // Now that all have mapped it, it needs no name: however the job ends, nothing is left.
        drop(file);
        if is_everybodys { grid } else { grid.and(Err("another rank could not map the grid file".into())) }
    }

    fn open(path: &Path, size: usize) -> Fallible<Self> {
        let named = |error| format!("{}: {error}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(named)?;
        let bytes = 2 * size * size * 8;
        if file.metadata()?.len() != bytes as u64 {
            return Err(format!("{}: not a grid of {size} by {size} cells", path.display()).into());
        }
        Ok(Self { map: MmapOptions::new().len(bytes).map_raw(&file).map_err(named)?, size })
    }

    /// The buffer that sweep `sweep` reads, and the next one writes.
    fn buffer(&self, sweep: usize) -> &[AtomicU64] {
        let cells = self.size * self.size;
        // SAFETY: the mapping is page-aligned, has two buffers of `cells` words (`open` checked the file's length) and
        // lives as long as `self`; nobody shortens the file. Every rank reaches the words by atomics only.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>().add(sweep % 2 * cells), cells) }
    }

    /// One sweep over `rows`; returns the largest change. Relaxed: the barrier between sweeps orders the cells.
    fn sweep(&self, sweep: usize, rows: Range<usize>, is_held: &[bool]) -> f64 {
        let (from, to, size) = (self.buffer(sweep), self.buffer(sweep + 1), self.size);
        let cell = |at: usize| f64::from_bits(from[at].load(Ordering::Relaxed));
        let mut change = 0.0;
        let first = rows.start * size;
        for at in (first..rows.end * size).filter(|at| !is_held[at - first]) {
            let swept = plate::mean(cell(at - size), cell(at + size), cell(at - 1), cell(at + 1));
            change = plate::larger(change, (swept - cell(at)).abs());
            to[at].store(swept.to_bits(), Ordering::Relaxed);
        }
        change
    }

    /// A copy of the field after so many sweeps.
    pub(crate) fn field(&self, sweeps: usize) -> Vec<f64> {
        self.buffer(sweeps).iter().map(|cell| f64::from_bits(cell.load(Ordering::Relaxed))).collect()
    }
}

/// The grid's file as rank 0 holds it: removed when dropped, unless the user named it.
struct GridFile {
    number: u64,
    path: PathBuf,
    is_named: bool,
}

impl GridFile {
    fn path(named: Option<&Path>, number: u64) -> PathBuf {
        named.map_or_else(|| std::env::temp_dir().join(format!("phalanx-heat-{number:016x}")), Path::to_path_buf)
    }

    fn create(size: usize, named: Option<&Path>) -> Fallible<Self> {
        let number = RandomState::new().build_hasher().finish() | 1;
        let path = Self::path(named, number);
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).create(named.is_some()).truncate(named.is_some()).create_new(named.is_none());
        let failed = |error| format!("{}: {error}", path.display());
        let file = options.open(&path).map_err(failed)?;
        let made = Self { number, path: path.clone(), is_named: named.is_some() };
        // Written and not only given a length: a full disk is an error here, and a fatal signal in a mapping.
        write_twice(&file, &plate::initial_field(size)).map_err(failed)?;
        Ok(made)
    }
}

impl Drop for GridFile {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_twice(file: &File, field: &[f64]) -> std::io::Result<()> {
    let mut writer = BufWriter::new(file);
    for cell in field.iter().chain(field) {
        writer.write_all(&cell.to_ne_bytes())?;
    }
    writer.flush()
}
