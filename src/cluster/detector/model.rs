//! Heartbeats in virtual time: an agent that sends them and a watcher that looks, both as late as a machine's load
//! makes them. For tests of the [`Detector`], and for `phalanx simulate detector`.
//!
//! A [`Load`] says how late a process comes to run when its timer has rung. A [`Trial`] has a watcher and a node that
//! lives for a while and then dies, again and again, and counts what the detector says of it. All times are
//! nanoseconds; a run is a function of its seed.

use std::time::Duration;

use super::{Detector, DetectorOptions, DetectorOptionsError, Event, HeartbeatWord};
use crate::fabric::sim::Seeded;

/// How late a process runs when it is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// By 50 µs on the average, exponentially distributed, and no more than 2 ms.
    Calm,
    /// By anything up to so much.
    Uniform {
        /// The most.
        most_ns: u64,
    },
    /// Log-normally: most by about the median, few by many times that.
    LogNormal {
        /// The median.
        median_ns: u64,
        /// The deviation of the logarithm.
        sigma: f64,
        /// No more than this.
        most_ns: u64,
    },
    /// It shares a CPU with other processes that compute, in turns.
    Shared {
        /// All of them, this one included.
        processes: usize,
        /// How long a turn is.
        slice_ns: u64,
    },
    /// The same, but for bursts of 5 s on the average, as long apart; calm between them.
    Bursts {
        /// All of them, this one included.
        processes: usize,
        /// How long a turn is.
        slice_ns: u64,
    },
    /// Calm, but every so often, on the average, all stands still: lengths have Pareto's distribution (of exponent 2).
    Pauses {
        /// From one to the next.
        every_ns: u64,
        /// The shortest.
        least_ns: u64,
        /// The longest.
        most_ns: u64,
    },
}

/// How long a burst of load, and a calm between two, is on the average.
const BURST_NS: f64 = 5e9;

/// A process with a periodic timer, under a load. A timer that rings while the process has not run yet rings once.
#[derive(Clone, Debug)]
struct Process {
    due_ns: u64,
    period_ns: u64,
    load: Load,
    /// When the next pause begins, or the burst or the calm ends.
    changes_ns: u64,
    is_burst: bool,
    /// Until when it does not run.
    paused_ns: u64,
    random: Seeded,
}

impl Process {
    fn new(first_ns: u64, period_ns: u64, load: Load, seed: u64) -> Self {
        let random = Seeded::new(seed);
        let mut process =
            Self { due_ns: first_ns, period_ns, load, changes_ns: first_ns, is_burst: true, paused_ns: 0, random };
        process.due_ns += process.random.number() % period_ns;
        process
    }

    /// When it runs next.
    fn run(&mut self) -> u64 {
        self.change();
        let late_ns = self.late_ns();
        let at_ns = self.due_ns.max(self.paused_ns) + late_ns;
        let periods = (at_ns - self.due_ns) / self.period_ns + 1;
        self.due_ns += periods * self.period_ns;
        at_ns
    }

    /// Bursts and pauses that have begun by the time it is due.
    fn change(&mut self) {
        while self.changes_ns <= self.due_ns {
            let at_ns = self.changes_ns;
            match self.load {
                Load::Bursts { .. } => {
                    self.is_burst = !self.is_burst;
                    self.changes_ns += 1 + whole(self.random.exponential() * BURST_NS);
                }
                Load::Pauses { every_ns, least_ns, most_ns } => {
                    let length_ns = whole(float(least_ns) / self.random.fraction().sqrt()).min(most_ns);
                    self.paused_ns = at_ns + length_ns;
                    self.changes_ns += length_ns + 1 + whole(self.random.exponential() * float(every_ns));
                }
                _ => self.changes_ns = u64::MAX,
            }
        }
    }

    fn late_ns(&mut self) -> u64 {
        match self.load {
            Load::Uniform { most_ns } => self.random.number() % most_ns.saturating_add(1).max(1),
            Load::LogNormal { median_ns, sigma, most_ns } => {
                whole(float(median_ns) * exponential_function(sigma * self.normal())).min(most_ns)
            }
            Load::Shared { processes, slice_ns } => self.turn_ns(processes, slice_ns),
            Load::Bursts { processes, slice_ns } if self.is_burst => self.turn_ns(processes, slice_ns),
            Load::Calm | Load::Bursts { .. } | Load::Pauses { .. } => {
                whole(self.random.exponential() * 5e4).min(2_000_000)
            }
        }
    }

    /// The rest of another's turn, and the turns of some more before its own.
    fn turn_ns(&mut self, processes: usize, slice_ns: u64) -> u64 {
        let before = self.random.below(processes.max(1)) as u64;
        let rest_ns = self.random.number() % slice_ns.max(1);
        if before == 0 { 0 } else { (before - 1) * slice_ns + rest_ns }
    }

    /// Normally distributed, nearly: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.fraction()).sum::<f64>() - 6.0
    }
}

/// e to the power of a small number, to three digits, the same on every machine.
fn exponential_function(power: f64) -> f64 {
    (0..16).fold(1.0 + power / 65536.0, |result, _| result * result)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts from floats saturate")]
fn whole(ns: f64) -> u64 {
    ns as u64
}

#[allow(clippy::cast_precision_loss, reason = "random times need no more")]
fn float(ns: u64) -> f64 {
    ns as f64
}

/// What is tried: the detector's options, and the load of both ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The detector's.
    pub options: DetectorOptions,
    /// Of the node that is watched.
    pub node: Load,
    /// Of the watcher.
    pub watcher: Load,
    /// How much faster the node's clock runs than the watcher's, in millionths; negative: slower.
    pub drift_per_million: i32,
    /// How long the node has lived when the trial ends, all lives together. At most [`Trial::MOST_ALIVE`].
    pub alive: Duration,
    /// What all random numbers come from.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How long the node has lived, all lives together.
    pub alive: Duration,
    /// How often a living node was called silent.
    pub false_alarms: u64,
    /// From each death until it was seen; sorted.
    pub detections: Vec<Duration>,
    /// The longest time-out that was in use at a death.
    pub longest_timeout: Duration,
}

impl Outcome {
    /// False alarms in an hour of a node's life.
    pub fn false_alarms_per_hour(&self) -> f64 {
        self.false_alarms as f64 * 3600.0 / self.alive.as_secs_f64()
    }

    /// The time within which so many per cent of all deaths were seen; zero when nobody has died.
    pub fn detection(&self, per_cent: usize) -> Duration {
        let last = self.detections.len().saturating_sub(1);
        self.detections.get(last * per_cent.min(100) / 100).copied().unwrap_or_default()
    }
}

/// From the node's memory to the watcher's.
const FLIGHT_NS: u64 = 50_000;
/// How long a life is: this, and up to twice that on top.
const LIFE_NS: u64 = 10_000_000_000;
/// Between a death that was seen and the next life.
const BETWEEN_LIVES_NS: u64 = 100_000_000;

impl Trial {
    /// As many lives, of the shortest kind, as there are incarnations.
    pub const MOST_ALIVE: Duration = Duration::from_nanos(LIFE_NS * u16::MAX as u64);

    /// A trial of so much life, of one load on both ends.
    pub fn new(options: DetectorOptions, load: Load, alive: Duration, seed: u64) -> Self {
        Self { options, node: load, watcher: load, drift_per_million: 0, alive, seed }
    }

    /// Runs it. After each death that was seen the node comes back as another incarnation to the same detector; after a
    /// false alarm to one that has forgotten what it measured, because a real job would not have its node back.
    ///
    /// # Errors
    ///
    /// [`DetectorOptionsError`].
    pub fn run(&self) -> Result<Outcome, DetectorOptionsError> {
        let mut run = Run::new(self)?;
        while run.outcome.alive < self.alive {
            run.live();
        }
        run.outcome.detections.sort_unstable();
        Ok(run.outcome)
    }

    fn interval_ns(&self) -> u64 {
        let interval_ns = i128::from(super::ns(self.options.interval));
        let drifted = interval_ns * 1_000_000 / (1_000_000 + i128::from(self.drift_per_million.max(-999_999)));
        u64::try_from(drifted).unwrap_or(u64::MAX).max(1)
    }
}

struct Run<'trial> {
    trial: &'trial Trial,
    detector: Detector,
    watcher: Process,
    word: HeartbeatWord,
    now_ns: u64,
    lives: u16,
    random: Seeded,
    outcome: Outcome,
}

impl<'trial> Run<'trial> {
    fn new(trial: &'trial Trial) -> Result<Self, DetectorOptionsError> {
        Ok(Self {
            trial,
            detector: Detector::new(trial.options, Duration::ZERO)?,
            watcher: Process::new(0, super::ns(trial.options.tick), trial.watcher, trial.seed ^ 0x5eed),
            word: HeartbeatWord(0),
            now_ns: 0,
            lives: 0,
            random: Seeded::new(trial.seed),
            outcome: Outcome::default(),
        })
    }

    /// One life, from the first heartbeat to the end that the detector sees.
    fn live(&mut self) {
        self.lives += 1;
        let born_ns = self.now_ns + BETWEEN_LIVES_NS;
        let dies_ns = born_ns + LIFE_NS + self.random.number() % (2 * LIFE_NS);
        let seed = self.random.number();
        let mut node = Process::new(born_ns, self.trial.interval_ns(), self.trial.node, seed);
        let mut next = HeartbeatWord::new(self.lives, 1);
        let mut next_ns = node.run() + FLIGHT_NS;
        self.detector.reset(Duration::from_nanos(self.now_ns));
        loop {
            self.now_ns = self.watcher.run().max(self.now_ns);
            while next_ns <= self.now_ns && next_ns < dies_ns + FLIGHT_NS {
                (self.word, next) = (next, next.next());
                next_ns = node.run() + FLIGHT_NS;
            }
            let timeout = self.detector.timeout();
            let event = self.detector.observe(self.word.0, Duration::from_nanos(self.now_ns));
            if matches!(event, Some(Event::Silent { .. })) {
                return self.end(born_ns, dies_ns, timeout);
            }
        }
    }

    fn end(&mut self, born_ns: u64, dies_ns: u64, timeout: Duration) {
        let lived_ns = self.now_ns.min(dies_ns).saturating_sub(born_ns);
        self.outcome.alive += Duration::from_nanos(lived_ns);
        if self.now_ns < dies_ns {
            self.outcome.false_alarms += 1;
            let now = Duration::from_nanos(self.now_ns);
            self.detector = Detector::new(self.trial.options, now).expect("options that were checked before");
            // Not what the node of before has left.
            self.word = HeartbeatWord(0);
            return;
        }
        self.outcome.detections.push(Duration::from_nanos(self.now_ns - dies_ns));
        self.outcome.longest_timeout = self.outcome.longest_timeout.max(timeout);
    }
}
