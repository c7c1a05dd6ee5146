//! Rounds of a contest: in each, the limit is measured and every system has one turn, as for barriers.

use std::fs;
use std::path::Path;

use phalanx::clock::Clock;
use phalanx::fabric::FabricKind;
use phalanx::machine::CpuSet;

use crate::build;
use crate::compare::{Directory, Progress};
use crate::contest::figures::Figures;
use crate::contest::rank::{CONTESTANT_COMMAND, ContestTask, is_there};
use crate::contest::record::{self, RecordError};
use crate::contest::report::{About, Ratios, Report};
use crate::contest::{Contest, Object, SECONDS_MAX};
use crate::figures::median_of;
use crate::limit;
use crate::rank::{Choice, RankError};
use crate::rivals::{Bench, PreparedRival, Rival};
use crate::turn::{self, TurnError, directory_error};
use crate::workload::Placement;

/// The most possessions that one turn records over all ranks: 32 bytes each.
const MOST_SAMPLES: usize = 2_000_000;
/// The length of the turn that tells what the library joins the nodes by.
const TRIAL_SECONDS: f64 = 0.01;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is contended for.
    pub object: Object,
    /// Ranks; as many as usable CPUs when left open.
    pub ranks: Option<usize>,
    /// Nodes that the ranks pretend to be on.
    pub nodes: usize,
    /// How many ranks contend; all when left open.
    pub busy: Option<usize>,
    /// How many objects there are.
    pub objects: usize,
    /// How long a possession lasts.
    pub hold_ns: u64,
    /// How long a rank waits between possessions.
    pub think_ns: u64,
    /// The share of readers.
    pub readers: f64,
    /// A semaphore's permits.
    pub permits: u32,
    /// The length of a turn.
    pub seconds: f64,
    /// The most possessions of each rank in a turn.
    pub iterations: Option<usize>,
    /// Possessions before each turn's record.
    pub warmup: usize,
    /// Phalanx's wait policy, or its default.
    pub wait: Option<String>,
    /// What joins the nodes, or the library's choice.
    pub fabric: Option<String>,
    /// Who else is measured.
    pub rivals: Vec<Rival>,
    /// How many rounds.
    pub rounds: usize,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Comparison {
    /// One for each system that was measured, Phalanx first.
    pub reports: Vec<Report>,
    /// Their names for people, in the same order.
    pub labels: Vec<&'static str>,
    /// Who was not measured, and why.
    pub skipped: Vec<String>,
    /// What was measured.
    pub contest: Contest,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContestError {
    /// A number asked for makes no measurement.
    #[error("{0}")]
    Request(String),
    /// A turn of Phalanx failed.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A record cannot be used.
    #[error("{system}: {source}")]
    Record {
        /// Whose.
        system: &'static str,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// A directory for records cannot be made.
    #[error("cannot make a directory for records: {0}")]
    Directory(std::io::Error),
    /// Nobody is there to be measured.
    #[error("nothing to measure: {0}")]
    Nobody(String),
}

/// Who has a turn.
enum System {
    Phalanx(ContestTask),
    Rival(PreparedRival),
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            Self::Phalanx(_) => "phalanx",
            Self::Rival(rival) => rival.rival().name(),
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Phalanx(_) => "Phalanx",
            Self::Rival(rival) => rival.rival().label(),
        }
    }

    fn version(&self) -> String {
        match self {
            Self::Phalanx(_) => build::VERSION.to_owned(),
            Self::Rival(rival) => rival.version().to_owned(),
        }
    }
}

/// A system's results, one a round.
struct Measured {
    system: System,
    rounds: Vec<Figures>,
    /// Why it takes no more part: nothing of it counts then.
    is_out: bool,
}

impl Measured {
    /// One round's.
    fn take_turn(
        &mut self,
        contest: &Contest,
        directory: &Path,
        skipped: &mut Vec<String>,
    ) -> Result<(), ContestError> {
        match turn(&self.system, contest, directory)? {
            Ok(figures) => self.rounds.push(figures),
            Err(why) => {
                skipped.push(format!("{} is not compared: {why}", self.system.label()));
                self.is_out = true;
            }
        }
        Ok(())
    }
}

/// Measures.
///
/// # Errors
///
/// [`ContestError`]; nothing is left behind.
pub fn run(request: &Request, progress: &mut dyn Progress) -> Result<Comparison, ContestError> {
    let clock = Clock::calibrate();
    let contest = plan(request, &clock)?;
    // Declared before the systems, so that it goes after them: servers have their files in it.
    let directory = Directory::new().map_err(ContestError::Directory)?;
    let mut skipped = Vec::new();
    let mut measured = systems(request, &contest, &directory.path, &mut skipped);
    if measured.is_empty() {
        return Err(ContestError::Nobody(skipped.join("; ")));
    }
    let fabric = fabric(&contest, measured.first().map(|first| &first.system))?;
    let (mut limits, systems) = (Vec::new(), measured.len());
    let turns = request.rounds * systems;
    for round in 0..request.rounds {
        limits.push(limit_ns(&fabric, &contest.placement, &clock));
        for (index, one) in measured.iter_mut().enumerate().filter(|(_, one)| !one.is_out) {
            progress.turn(round * systems + index, turns, one.system.label());
            one.take_turn(&contest, &directory.path, &mut skipped)?;
        }
    }
    progress.turn(turns, turns, "done");
    measured.retain(|one| !one.is_out);
    let about = About {
        contest: contest.clone(),
        fabric,
        wait: request.wait.clone().unwrap_or_else(|| phalanx::WaitPolicy::default().name().to_owned()),
        clock_overhead_ns: clock.overhead_ns(),
        rounds: request.rounds,
        limits,
    };
    let phalanx = measured.iter().find(|one| one.system.name() == "phalanx").map(|one| &one.rounds[..]);
    let report = |one: &Measured| {
        let ratios = Ratios::of(phalanx, &one.rounds, &about.limits);
        Report::new(&about, one.system.name(), one.system.version(), &Figures::of_rounds(&one.rounds), ratios)
    };
    let reports = measured.iter().map(report).collect();
    Ok(Comparison { reports, labels: measured.iter().map(|one| one.system.label()).collect(), skipped, contest })
}

fn plan(request: &Request, clock: &Clock) -> Result<Contest, ContestError> {
    let refuse = |text: String| Err(ContestError::Request(text));
    let cpus: Vec<usize> = CpuSet::of_this_thread().iter().collect();
    let ranks = request.ranks.unwrap_or(cpus.len().max(request.nodes));
    let busy = request.busy.unwrap_or(ranks);
    let numbers = [
        ("ranks", ranks),
        ("nodes", request.nodes),
        ("rounds", request.rounds),
        ("iterations", request.iterations.unwrap_or(1)),
        ("objects", request.objects),
        ("permits", request.permits as usize),
    ];
    if let Some((name, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
        return refuse(format!("{name} must be at least 1"));
    }
    if request.nodes > ranks {
        return refuse(format!("{ranks} ranks cannot be on {} nodes: each node needs one", request.nodes));
    }
    if busy == 0 || busy > ranks {
        return refuse(format!("of {ranks} ranks 1 to {ranks} can contend, not {busy}"));
    }
    if !(request.seconds > 0.0 && request.seconds <= SECONDS_MAX) {
        return refuse(format!("turns of {} seconds make no measurement", request.seconds));
    }
    if !(0.0..=1.0).contains(&request.readers) {
        return refuse(format!("the share of readers is 0 to 1, not {}", request.readers));
    }
    let iterations = request.iterations.unwrap_or(usize::MAX);
    Ok(Contest {
        object: request.object,
        placement: Placement { ranks, nodes: request.nodes, cpus: cpus.into_iter().take(ranks).collect() },
        busy,
        objects: request.objects,
        hold_ns: request.hold_ns,
        think_ns: request.think_ns,
        readers: request.readers,
        permits: request.permits,
        seconds: request.seconds,
        iterations,
        warmup: request.warmup,
        most_samples: (MOST_SAMPLES / busy).min(iterations),
        seed: request.seed,
        ns_per_tick: clock.ns_per_tick(),
    })
}

/// Phalanx, and the rivals that can be had here. Why others cannot is added to `skipped`.
fn systems(request: &Request, contest: &Contest, directory: &Path, skipped: &mut Vec<String>) -> Vec<Measured> {
    let mut systems = Vec::new();
    if is_there(contest.object) {
        systems.push(System::Phalanx(ContestTask {
            contest: contest.clone(),
            wait: request.wait.clone(),
            fabric: request.fabric.clone(),
            directory: directory.join("phalanx"),
        }));
    } else {
        skipped.push(format!("Phalanx is not run: this version has no {}", contest.object.name()));
    }
    for rival in &request.rivals {
        if contest.placement.nodes > 1 && !rival.spans_nodes() {
            skipped
                .push(format!("{} is not run: it needs shared memory, so it has no way between nodes", rival.label()));
            continue;
        }
        match rival.prepare(Bench::Contest(contest.object), &directory.join("build")) {
            Ok(prepared) => systems.push(System::Rival(prepared)),
            Err(missing) => skipped.push(missing.to_string()),
        }
    }
    systems.into_iter().map(|system| Measured { system, rounds: Vec::new(), is_out: false }).collect()
}

/// What joins the ranks: a short turn of Phalanx tells; without it rivals between nodes have TCP.
fn fabric(contest: &Contest, first: Option<&System>) -> Result<String, ContestError> {
    match first {
        _ if contest.placement.nodes == 1 => Ok(FabricKind::Shm.name().to_owned()),
        Some(System::Phalanx(task)) => {
            let mut trial = task.clone();
            trial.contest.seconds = TRIAL_SECONDS;
            run_phalanx(&trial)?;
            Ok(Choice::read(&trial.directory).map_err(TurnError::Rank)?.fabric)
        }
        _ => Ok(FabricKind::Tcp.name().to_owned()),
    }
}

/// A cache line's way on one node, a round trip across nodes: what an acquisition there cannot do without.
fn limit_ns(fabric: &str, placement: &Placement, clock: &Clock) -> Option<f64> {
    match placement.nodes {
        1 => limit::one_way_ns(fabric, &placement.cpus, clock),
        _ => limit::round_trip_ns(fabric, &placement.cpus, clock),
    }
}

/// A turn of one system: its figures, or why a rival has none.
fn turn(system: &System, contest: &Contest, directory: &Path) -> Result<Result<Figures, String>, ContestError> {
    let records = match system {
        System::Phalanx(task) => {
            run_phalanx(task)?;
            task.directory.clone()
        }
        System::Rival(rival) => {
            let records = directory.join(rival.rival().name());
            // Ranks that spin while they share CPUs may take for ever, and servers may fail them: the others still
            // count.
            if let Err(error) = rival.run(contest, contest.seconds, &records) {
                return Ok(Err(error.to_string()));
            }
            records
        }
    };
    let record = record::read_all(&records, contest.placement.ranks)
        .map_err(|source| ContestError::Record { system: system.label(), source })?;
    Ok(Ok(Figures::of_round(&record, contest)))
}

fn run_phalanx(task: &ContestTask) -> Result<(), TurnError> {
    fs::create_dir_all(&task.directory).map_err(|source| directory_error(&task.directory, source))?;
    let text = serde_json::to_string(task).map_err(|error| RankError::Task(error.to_string()))?;
    turn::run_ranks(&task.contest.placement, &[CONTESTANT_COMMAND, &text])
}

impl Ratios {
    /// Formed round by round, where both have the figure; the median over rounds.
    fn of(phalanx: Option<&[Figures]>, own: &[Figures], limits: &[Option<f64>]) -> Self {
        let to_phalanx = |figure: fn(&Figures) -> Option<f64>| {
            let pairs = phalanx.unwrap_or_default().iter().zip(own);
            median(pairs.filter_map(|(phalanx, own)| Some(figure(phalanx)? / figure(own)?)))
        };
        let to_limit = |figure: fn(&Figures) -> Option<f64>| {
            median(own.iter().zip(limits).filter_map(|(own, limit)| Some(figure(own)? / (*limit)?)))
        };
        let handover = |figures: &Figures| figures.handover.as_ref().map(|handover| handover.p50);
        Self {
            acquire_limit: to_limit(|figures| Some(figures.acquire.p50)),
            handover_limit: to_limit(handover),
            pair: to_phalanx(|figures| figures.pair),
            acquire: to_phalanx(|figures| Some(figures.acquire.p50)),
            handover: to_phalanx(handover),
            throughput: to_phalanx(|figures| Some(figures.throughput)),
        }
    }
}

fn median(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let finite: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
    (!finite.is_empty()).then(|| median_of(finite.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::record::{Head, Possession, Record};
    use crate::contest::tests::contest;

    fn figures(wait: u64) -> Figures {
        let possession = Possession { request: 0, acquired: wait, released: wait, object: 0, is_shared: false };
        let head = Head { count: 1, start: 0, end: 1000, pairs_of_batch: 1 };
        Figures::of_round(
            &[Record { head, possessions: vec![possession], batches: vec![wait * 2] }],
            &Contest { busy: 1, ..contest(Object::Lock) },
        )
    }

    #[test]
    fn ratios_are_formed_round_by_round() {
        // In the third round the machine was ten times slower for both.
        let phalanx = [figures(10), figures(20), figures(300)];
        let rival = [figures(100), figures(100), figures(1000)];
        let ratios = Ratios::of(Some(&phalanx), &rival, &[Some(50.0), None, Some(100.0)]);
        assert_eq!((ratios.acquire, ratios.pair, ratios.throughput), (Some(0.2), Some(0.2), Some(1.0)));
        assert_eq!((ratios.acquire_limit, ratios.handover, ratios.handover_limit), (Some(6.0), None, None));
        assert_eq!(Ratios::of(None, &rival, &[]).acquire, None);
    }
}
