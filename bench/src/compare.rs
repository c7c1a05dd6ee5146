//! Rounds: in each, the limit is measured and every system has one turn, so that whatever the machine does in between
//! it does to all alike.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use phalanx::clock::Clock;
use phalanx::machine::CpuSet;

use crate::figures::{Figures, median_of};
use crate::limit;
use crate::rank::{Choice, RankTask};
use crate::report::{Common, Ratios, Report, System};
use crate::rivals::{Bench, PreparedRival, Rival, RivalError, Skipped};
use crate::samples::{self, SamplesError};
use crate::turn::{self, TurnError};
use crate::workload::{ArrivalPattern, Placement, Workload};

/// How long a system's turn lasts when no number of iterations is asked for.
const TURN: Duration = Duration::from_millis(400);
/// The most samples that one turn records over all ranks: 16 bytes each.
const MOST_SAMPLES: usize = 8_000_000;
/// Iterations of the trial that tells how many fit into a turn.
const TRIAL_ITERATIONS: usize = 500;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Ranks; as many as usable CPUs when left open.
    pub ranks: Option<usize>,
    /// Nodes that the ranks pretend to be on.
    pub nodes: usize,
    /// What joins the nodes, or the library's choice.
    pub fabric: Option<String>,
    /// Phalanx's algorithm, or its own choice.
    pub algorithm: Option<String>,
    /// Phalanx's wait policy, or its default.
    pub wait: Option<String>,
    /// Iterations of each rank over all rounds, or as many as fit.
    pub iterations: Option<usize>,
    /// Iterations before each turn's record.
    pub warmup: usize,
    /// When ranks arrive.
    pub arrival: ArrivalPattern,
    /// The lateness of late patterns.
    pub late_ns: u64,
    /// The period of the open loop.
    pub period_ns: u64,
    /// Ranks as threads.
    pub threads: bool,
    /// Who else is measured.
    pub rivals: Vec<Rival>,
    /// How many rounds.
    pub rounds: usize,
    /// Seed of random delays.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Comparison {
    /// One for each system, Phalanx first.
    pub reports: Vec<Report>,
    /// Who they are, in the same order.
    pub systems: Vec<System>,
    /// All rounds' figures summed up, in the same order.
    pub figures: Vec<Figures>,
    /// Rivals that are not installed.
    pub skipped: Vec<Skipped>,
    /// What was measured.
    pub workload: Workload,
    /// Phalanx's algorithm, and why.
    pub choice: Choice,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A number asked for makes no measurement.
    #[error("{0}")]
    Request(String),
    /// A turn of Phalanx failed.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A turn of a rival failed.
    #[error(transparent)]
    Rival(#[from] RivalError),
    /// A record cannot be used.
    #[error("{system}: {source}")]
    Samples {
        /// Whose.
        system: String,
        /// What is wrong with it.
        #[source]
        source: SamplesError,
    },
    /// A directory for records cannot be made.
    #[error("cannot make a directory for records: {0}")]
    Directory(std::io::Error),
}

/// Told of every turn, for a progress bar.
pub trait Progress {
    /// `done` of `all` turns are over; the next is `next`.
    fn turn(&mut self, done: usize, all: usize, next: &str);
}

/// Measures.
///
/// # Errors
///
/// [`CompareError`]; nothing is left behind.
pub fn run(request: &Request, progress: &mut dyn Progress) -> Result<Comparison, CompareError> {
    let clock = Clock::calibrate();
    let mut workload = plan(request, &clock)?;
    let directory = Directory::new().map_err(CompareError::Directory)?;
    let (rivals, mut skipped) = prepare(request, &directory.path);
    let mut task = RankTask {
        workload: workload.clone(),
        algorithm: request.algorithm.clone(),
        wait: request.wait.clone(),
        fabric: request.fabric.clone(),
        directory: directory.path.join("phalanx"),
    };
    let (choice, fit) = trial(&task, request)?;
    if request.iterations.is_none() {
        workload.iterations = fit;
        task.workload.iterations = fit;
    }
    let systems = systems(request, &choice, &rivals);
    let mut rounds = Rounds { limits: Vec::new(), figures: vec![Vec::new(); systems.len()] };
    let mut is_out = vec![false; systems.len()];
    let turns = request.rounds * systems.len();
    for round in 0..request.rounds {
        // The limit before and after would be the same cores seconds apart; once a round is enough.
        rounds.limits.push(limit::one_way_ns(&choice.fabric, &workload.placement.cpus, &clock));
        for (index, system) in systems.iter().enumerate() {
            if is_out[index] {
                continue;
            }
            progress.turn(round * systems.len() + index, turns, &system.label);
            let rival = index.checked_sub(1).map(|rival| &rivals[rival]);
            match turn_of(rival, &task, request.threads, &directory.path)? {
                Err(why) => {
                    skipped.push(why);
                    is_out[index] = true;
                }
                Ok(records) => {
                    let record = samples::read_all(&records, workload.placement.ranks)
                        .map_err(|source| CompareError::Samples { system: system.label.clone(), source })?;
                    rounds.figures[index].push(Figures::of_round(&record, workload.ns_per_tick));
                }
            }
        }
    }
    progress.turn(turns, turns, "done");
    let measured: Vec<usize> = (0..systems.len()).filter(|index| !is_out[*index]).collect();
    let systems: Vec<System> = measured.iter().map(|index| systems[*index].clone()).collect();
    let figures: Vec<Figures> = measured.iter().map(|index| Figures::of_rounds(&rounds.figures[*index])).collect();
    let (fabric, limit_ns, clock_overhead_ns) = (choice.fabric.clone(), rounds.limit(), clock.overhead_ns());
    let common = Common { workload: workload.clone(), fabric, clock_overhead_ns, rounds: request.rounds, limit_ns };
    let report = |at: usize| Report::new(&common, &systems[at], &figures[at], rounds.ratios(measured[at]));
    let reports = (0..systems.len()).map(report).collect();
    Ok(Comparison { reports, systems, figures, skipped, workload, choice })
}

/// A system's turn; `rival`: none is Phalanx itself. The directory of its records, or why it takes no more part.
fn turn_of(
    rival: Option<&PreparedRival>,
    task: &RankTask,
    are_threads: bool,
    directory: &Path,
) -> Result<Result<PathBuf, Skipped>, CompareError> {
    let Some(rival) = rival else {
        turn::run(task, are_threads)?;
        return Ok(Ok(task.directory.clone()));
    };
    let records = directory.join(rival.rival().name());
    match rival.run(&task.workload, TURN.as_secs_f64() * 2.0, &records) {
        Ok(()) => Ok(Ok(records)),
        // Ranks that spin while they share CPUs may take for ever: the others still count.
        Err(RivalError::TimedOut { rival, limit, .. }) => {
            let reason = format!("a turn of it did not end within {limit:?}");
            Ok(Err(Skipped { rival, reason, remedy: None }))
        }
        Err(error) => Err(error.into()),
    }
}

fn plan(request: &Request, clock: &Clock) -> Result<Workload, CompareError> {
    let refuse = |text: &str| Err(CompareError::Request(text.to_owned()));
    let cpus: Vec<usize> = CpuSet::of_this_thread().iter().collect();
    let ranks = request.ranks.unwrap_or(cpus.len().max(request.nodes));
    if ranks == 0 {
        return refuse("a barrier needs at least 1 rank");
    }
    if request.nodes == 0 || request.nodes > ranks {
        return Err(CompareError::Request(format!(
            "{ranks} ranks can be on 1 to {ranks} nodes, not on {}",
            request.nodes
        )));
    }
    if request.nodes > 1 && request.threads {
        return refuse("ranks that are threads of one process are on one node");
    }
    if request.rounds == 0 || request.iterations == Some(0) {
        return refuse("rounds and iterations must be at least 1");
    }
    if request.late_ns == 0 || request.period_ns == 0 {
        return refuse("lateness and period must be at least 1 ns");
    }
    let per_round = request.iterations.map_or(TRIAL_ITERATIONS, |all| all.div_ceil(request.rounds));
    if per_round.saturating_mul(ranks) > MOST_SAMPLES {
        return Err(CompareError::Request(format!(
            "{per_round} iterations a round for {ranks} ranks are more than {MOST_SAMPLES} samples: ask for fewer"
        )));
    }
    Ok(Workload {
        placement: Placement { ranks, nodes: request.nodes, cpus: cpus.into_iter().take(ranks).collect() },
        iterations: per_round,
        warmup: request.warmup,
        arrival: request.arrival,
        late_ns: request.late_ns,
        period_ns: request.period_ns,
        seed: request.seed,
        ns_per_tick: clock.ns_per_tick(),
    })
}

fn prepare(request: &Request, directory: &Path) -> (Vec<PreparedRival>, Vec<Skipped>) {
    let (mut rivals, mut skipped) = (Vec::new(), Vec::new());
    for rival in &request.rivals {
        if request.nodes > 1 && !rival.spans_nodes() {
            let reason = "its ranks share memory, so it has no way between nodes".to_owned();
            skipped.push(Skipped { rival: *rival, reason, remedy: None });
            continue;
        }
        match rival.prepare(Bench::Barrier, &directory.join("build")) {
            Ok(prepared) if request.threads => rivals.push(prepared.with_threads()),
            Ok(prepared) => rivals.push(prepared),
            Err(missing) => skipped.push(missing),
        }
    }
    (rivals, skipped)
}

fn systems(request: &Request, choice: &Choice, rivals: &[PreparedRival]) -> Vec<System> {
    let phalanx = System {
        name: "phalanx".to_owned(),
        label: "Phalanx".to_owned(),
        version: crate::build::VERSION.to_owned(),
        algorithm: Some(choice.algorithm.clone()),
        wait: Some(request.wait.clone().unwrap_or_else(|| phalanx::WaitPolicy::default().name().to_owned())),
        threads: request.threads,
    };
    let system = |rival: &PreparedRival| System {
        name: rival.rival().name().to_owned(),
        label: rival.rival().label().to_owned(),
        version: rival.version().to_owned(),
        algorithm: None,
        wait: None,
        threads: rival.rival().uses_threads() || (request.threads && rival.rival() == Rival::PthreadBarrier),
    };
    std::iter::once(phalanx).chain(rivals.iter().map(system)).collect()
}

/// A short trial tells what the library chooses for such a job, and how many iterations a turn has time for.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of iterations is small and positive"
)]
fn trial(task: &RankTask, request: &Request) -> Result<(Choice, usize), CompareError> {
    let mut task = task.clone();
    task.workload.iterations = task.workload.iterations.min(TRIAL_ITERATIONS);
    turn::run(&task, request.threads)?;
    let choice = Choice::read(&task.directory).map_err(TurnError::Rank)?;
    let record = samples::read_all(&task.directory, task.workload.placement.ranks)
        .map_err(|source| CompareError::Samples { system: "Phalanx".to_owned(), source })?;
    let (first, last) = (record[0][0], record[0][record[0].len() - 1]);
    let took = last.exit.saturating_sub(first.enter) as f64 * task.workload.ns_per_tick / record[0].len() as f64;
    let fit = (TURN.as_nanos() as f64 / took.max(1.0)) as usize;
    Ok((choice, fit.clamp(100, MOST_SAMPLES / task.workload.placement.ranks / 4).max(1)))
}

/// Each system's figures in each round, Phalanx first.
struct Rounds {
    limits: Vec<Option<f64>>,
    figures: Vec<Vec<Figures>>,
}

impl Rounds {
    fn limit(&self) -> Option<f64> {
        let limits: Vec<f64> = self.limits.iter().copied().flatten().collect();
        (!limits.is_empty()).then(|| median_of(limits.into_iter()))
    }

    fn ratios(&self, index: usize) -> Ratios {
        let own = &self.figures[index];
        let of = |figure: fn(&Figures) -> f64| {
            let ratio = |(phalanx, own): (&Figures, &Figures)| figure(phalanx) / figure(own).max(1.0);
            median_of(self.figures[0].iter().zip(own).map(ratio))
        };
        let to_limit =
            || median_of(own.iter().zip(&self.limits).filter_map(|(own, limit)| Some(own.waits.p50 / (*limit)?)));
        Ratios {
            limit: self.limit().map(|_| to_limit()),
            p50: of(|round| round.waits.p50),
            mean: of(|round| round.waits.mean),
        }
    }
}

/// The hidden subcommand that removes a directory when the benchmark is gone; its argument is the directory.
pub const SWEEP_COMMAND: &str = "bench-sweep";

/// A directory for records, removed with all that is in it: by a process that sleeps until this one is gone, however
/// it goes. (The rivals' programs need a path, so memory without a name will not do.)
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    sweeper: Option<Child>,
}

impl Directory {
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        // Memory where there is some: a disk that is written to while ranks run disturbs them.
        let parent = Path::new("/dev/shm");
        let parent = if parent.is_dir() { parent.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("phalanx-bench-{:016x}", u64::from_le_bytes(random)));
        // A group of its own: the terminal's interrupt is not for it.
        let mut sweeper = Command::new(std::env::current_exe()?);
        sweeper.arg(SWEEP_COMMAND).arg(&path).process_group(0);
        sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let sweeper = sweeper.spawn()?;
        let directory = Self { path, sweeper: Some(sweeper) };
        std::fs::create_dir(&directory.path)?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let Some(mut sweeper) = self.sweeper.take() else { return };
        drop(sweeper.stdin.take());
        let _ = sweeper.wait();
    }
}

/// Removes `directory` once standard input ends, which is when the benchmark has ended.
pub fn sweep(directory: &Path) {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // A rank or a rival that is just being killed may still write: once more if need be.
    for _ in 0..100 {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}
