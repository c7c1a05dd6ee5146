//! One rank of Phalanx under measurement: the same loop as the rivals' (`bench/rivals/common.h`), around
//! `Group::barrier`.

use std::fs;
use std::path::{Path, PathBuf};

use phalanx::clock::Clock;
use phalanx::{Algorithm, BarrierError, FabricChoice, Group, Job, JobOptions, Operation, WaitPolicy};
use serde::{Deserialize, Serialize};

use crate::samples::{self, Sample, SamplesError};
use crate::workload::{ArrivalPattern, Placement, Workload};

/// What a rank is told: handed to a rank's process as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RankTask {
    /// What to measure.
    pub workload: Workload,
    /// The algorithm, or the library's own choice.
    pub algorithm: Option<String>,
    /// The wait policy, or the default.
    pub wait: Option<String>,
    /// What is to join the nodes, or the library's own choice.
    pub fabric: Option<String>,
    /// Where the record goes.
    pub directory: PathBuf,
}

/// What the library has chosen: told by rank 0, beside its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The algorithm of the world.
    pub algorithm: String,
    /// Why.
    pub reason: String,
    /// What joins the nodes.
    pub fabric: String,
}

impl Choice {
    const FILE: &str = "choice.json";

    pub(crate) fn of(job: &Job) -> Self {
        let chosen = job.world().algorithm();
        let reason = match job.exchange() {
            None => chosen.reason,
            Some(pattern) => format!("{}; between {} nodes {pattern}", chosen.reason, job.nodes()),
        };
        Self { algorithm: chosen.algorithm.name().to_owned(), reason, fabric: job.fabric().name().to_owned() }
    }

    pub(crate) fn write(&self, directory: &Path) -> Result<(), RankError> {
        let text = serde_json::to_string(self).expect("texts");
        let path = directory.join(Self::FILE);
        fs::write(&path, text).map_err(|source| SamplesError::File { path, source }.into())
    }

    /// What rank 0 has left in a directory.
    ///
    /// # Errors
    ///
    /// [`RankError`] when it has not.
    pub fn read(directory: &Path) -> Result<Self, RankError> {
        let path = directory.join(Self::FILE);
        let text = fs::read_to_string(&path).map_err(|source| SamplesError::File { path, source })?;
        serde_json::from_str(&text).map_err(|error| RankError::Task(error.to_string()))
    }
}

/// Why a rank could not measure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// The task is no task.
    #[error("the task of a benchmark's rank cannot be read: {0}")]
    Task(String),
    /// The job could not be joined.
    #[error(transparent)]
    Job(#[from] phalanx::JobError),
    /// A barrier failed.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The record could not be written.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// What ranks contend for failed.
    #[error("{object}: {why}")]
    Object {
        /// What it is.
        object: &'static str,
        /// What the library said.
        why: String,
    },
}

impl RankTask {
    /// The options for the job.
    ///
    /// # Errors
    ///
    /// [`RankError::Task`] for names that mean nothing.
    pub fn options(&self) -> Result<JobOptions, RankError> {
        let options = job_options(self.wait.as_deref(), self.fabric.as_deref())?;
        Ok(match &self.algorithm {
            Some(name) => options.barrier(name.parse::<Algorithm>().map_err(RankError::Task)?),
            None => options,
        })
    }

    /// Pins the calling thread as rank `rank` is to be pinned.
    pub fn pin_rank(&self, rank: usize) {
        pin_in(&self.workload.placement, rank);
    }

    /// Measures as a rank of `job` and leaves the record.
    ///
    /// # Errors
    ///
    /// [`RankError`].
    pub fn run(&self, job: &Job) -> Result<(), RankError> {
        let clock = Clock::calibrate();
        let mut rank = Rank::new(&self.workload, job.world(), clock);
        rank.warm_up()?;
        let samples = rank.measure()?;
        samples::write(&self.directory, job.rank(), &samples)?;
        if job.rank() == 0 {
            Choice::of(job).write(&self.directory)?;
        }
        Ok(())
    }
}

/// The whole life of a rank's process: `text` is its [`RankTask`].
///
/// # Errors
///
/// [`RankError`].
pub fn run_process(text: &str) -> Result<(), RankError> {
    // A benchmark that is killed takes its ranks along.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let task: RankTask = serde_json::from_str(text).map_err(|error| RankError::Task(error.to_string()))?;
    let rank = std::env::var("PHALANX_RANK").ok().and_then(|rank| rank.parse().ok()).unwrap_or(0);
    task.pin_rank(rank);
    let job = Job::from_env_with(&task.options()?)?;
    task.run(&job)
}

/// The options of a measured job, whichever of its settings are not the library's own choice.
///
/// # Errors
///
/// [`RankError::Task`] for names that mean nothing.
pub(crate) fn job_options(wait: Option<&str>, fabric: Option<&str>) -> Result<JobOptions, RankError> {
    let mut options = JobOptions::new();
    if let Some(name) = wait {
        options = options.wait(name.parse::<WaitPolicy>().map_err(RankError::Task)?);
    }
    if let Some(name) = fabric {
        options = options.fabric(name.parse::<FabricChoice>().map_err(RankError::Task)?);
    }
    Ok(options)
}

/// Pins the calling thread as this rank is to be pinned.
pub(crate) fn pin_in(placement: &Placement, rank: usize) {
    let cpus = &placement.cpus;
    if !cpus.is_empty() {
        pin(cpus[rank % cpus.len()]);
    }
}

/// Pins the calling thread to a CPU. Where that is not allowed, it runs where the system lets it.
pub fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

struct Rank<'job> {
    workload: &'job Workload,
    world: &'job Group,
    clock: Clock,
    random: Random,
    start: u64,
}

impl<'job> Rank<'job> {
    fn new(workload: &'job Workload, world: &'job Group, clock: Clock) -> Self {
        let random = Random(workload.seed.wrapping_add(world.rank() as u64));
        Self { workload, world, clock, random, start: 0 }
    }

    fn warm_up(&mut self) -> Result<(), RankError> {
        for _ in 0..self.workload.warmup {
            self.world.barrier()?;
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<Vec<Sample>, RankError> {
        // Written, not only reserved, so that no page is first touched while the clock runs.
        let mut samples = vec![Sample { enter: 1, exit: 1 }; self.workload.iterations];
        // All begin at one moment, a little from now.
        let soon = self.clock.now() + self.ticks(1_000_000.0);
        self.start = self.world.barrier_reduce(Operation::Max, soon)?;
        match self.workload.arrival {
            ArrivalPattern::BackToBack => self.back_to_back(&mut samples)?,
            _ => self.with_delays(&mut samples)?,
        }
        Ok(samples)
    }

    /// Leaving is entering: one clock read an iteration.
    fn back_to_back(&self, samples: &mut [Sample]) -> Result<(), BarrierError> {
        let mut enter = self.clock.now();
        for sample in samples {
            self.world.barrier()?;
            let exit = self.clock.now();
            *sample = Sample { enter, exit };
            enter = exit;
        }
        Ok(())
    }

    fn with_delays(&mut self, samples: &mut [Sample]) -> Result<(), BarrierError> {
        let counts_from_due = self.workload.arrival == ArrivalPattern::OpenLoop;
        let mut left = self.clock.now();
        for (iteration, sample) in samples.iter_mut().enumerate() {
            let due = self.entry_due(iteration, left);
            let entered = self.spin_until(due);
            self.world.barrier()?;
            left = self.clock.now();
            *sample = Sample { enter: if counts_from_due { due } else { entered }, exit: left };
        }
        Ok(())
    }

    /// The moment at which an iteration is to be entered by a rank that left the one before at `left`.
    fn entry_due(&mut self, iteration: usize, left: u64) -> u64 {
        let late = self.ticks(self.workload.late_ns as f64);
        match self.workload.arrival {
            ArrivalPattern::BackToBack => left,
            ArrivalPattern::RotateLate if iteration % self.workload.placement.ranks == self.world.rank() => left + late,
            ArrivalPattern::RotateLate => left,
            ArrivalPattern::RandomLate => left + self.random.below(late),
            ArrivalPattern::OpenLoop => self.start + self.ticks(iteration as f64 * self.workload.period_ns as f64),
        }
    }

    fn spin_until(&self, due: u64) -> u64 {
        loop {
            let now = self.clock.now();
            if now >= due {
                return now;
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "spans of a benchmark fit")]
    fn ticks(&self, ns: f64) -> u64 {
        (ns / self.workload.ns_per_tick) as u64
    }
}

/// SplitMix64, the rivals' generator, so that every system meets the same delays.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the upper half of a product is below the bound")]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
