//! `phalanx simulate detector`: what a time-out costs. The library's own failure detector on generated heartbeats, calm
//! and loaded: how often a living node is called silent, and how long a dead one goes unseen, with the time-out as it
//! is and stretched by what is measured.
//!
//! A row of the table is one [`Case`], tried twice from the same seed, so with the same heartbeats up to the first
//! verdict that differs.

use std::fmt::Write;
use std::time::Duration;

use phalanx::cluster::detector::model::{Load, Outcome, Trial};
use phalanx::cluster::detector::{DetectorOptions, DetectorOptionsError};
use serde::Serialize;

/// The time-outs that are tried when none is asked for, in milliseconds.
pub const TIMEOUTS_MS: [u64; 8] = [40, 60, 80, 100, 150, 200, 300, 400];
/// Heartbeats for a time-out, at least: time-outs shorter than four of the default's intervals have shorter ones.
const INTERVALS: u32 = 4;

/// What a machine may be like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedLoad {
    /// On the command line and in the table.
    pub name: &'static str,
    /// In words.
    pub about: &'static str,
    /// Of the node and of its watcher.
    pub load: Load,
}

/// All that are tried when none is asked for.
pub const LOADS: [NamedLoad; 4] = [
    NamedLoad { name: "calm", about: "50 µs late on the average, 2 ms at most", load: Load::Calm },
    NamedLoad {
        name: "shared",
        about: "8 processes take turns of 4 ms on a CPU",
        load: Load::Shared { processes: 8, slice_ns: 4_000_000 },
    },
    NamedLoad {
        name: "bursts",
        about: "24 processes take turns of 4 ms, for 5 s on the average, then calm for 5 s",
        load: Load::Bursts { processes: 24, slice_ns: 4_000_000 },
    },
    NamedLoad {
        name: "pauses",
        about: "every 10 s all stands still, for 20 ms at least and 400 ms at most (Pareto)",
        load: Load::Pauses { every_ns: 10_000_000_000, least_ns: 20_000_000, most_ns: 400_000_000 },
    },
];

/// A load and a time-out, with everything else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// The load.
    pub load: NamedLoad,
    /// The time-out.
    pub timeout: Duration,
    /// How long nodes live, all together.
    pub alive: Duration,
    /// The seed.
    pub seed: u64,
}

/// One case with one kind of time-out, in machine-readable form. The field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorReport {
    /// What is simulated: "detector".
    pub simulate: &'static str,
    /// The load.
    pub load: &'static str,
    /// The time-out.
    pub timeout_ms: f64,
    /// From heartbeat to heartbeat, and from look to look.
    pub interval_ms: f64,
    /// Whether the time-out is stretched.
    pub is_adaptive: bool,
    /// How long nodes have lived.
    pub alive_hours: f64,
    /// Living nodes called silent.
    pub false_alarms: u64,
    /// The same for each hour.
    pub false_alarms_per_hour: f64,
    /// Deaths.
    pub deaths: usize,
    /// From a death until it is seen: the median.
    pub detection_ms_p50: f64,
    /// Of 99 in 100.
    pub detection_ms_p99: f64,
    /// Of all.
    pub detection_ms_max: f64,
    /// The longest time-out at a death.
    pub longest_timeout_ms: f64,
    /// The seed.
    pub seed: u64,
    /// The command that repeats the case.
    pub command: String,
}

impl Case {
    /// Tries it with the time-out fixed, then stretched.
    ///
    /// # Errors
    ///
    /// [`DetectorOptionsError`], of a time-out that cannot be.
    pub fn run(&self) -> Result<[DetectorReport; 2], DetectorOptionsError> {
        let fixed = DetectorOptions { stretch: 1, ..self.options() };
        Ok([self.report(fixed)?, self.report(self.options())?])
    }

    /// The detector's options: the defaults, but for what a short or a long time-out needs.
    pub fn options(&self) -> DetectorOptions {
        let default = DetectorOptions::default();
        let interval = default.interval.min(self.timeout / INTERVALS);
        let least = |time: Duration| time.max(self.timeout);
        DetectorOptions {
            interval,
            tick: interval,
            timeout: self.timeout,
            window: least(default.window),
            grace: least(default.grace),
            ..default
        }
    }

    fn report(&self, options: DetectorOptions) -> Result<DetectorReport, DetectorOptionsError> {
        let outcome = Trial::new(options, self.load.load, self.alive, self.seed).run()?;
        let detection_ms = |per_cent| ms(outcome.detection(per_cent));
        Ok(DetectorReport {
            simulate: "detector",
            load: self.load.name,
            timeout_ms: ms(options.timeout),
            interval_ms: ms(options.interval),
            is_adaptive: options.stretch > 1,
            alive_hours: hundredth(outcome.alive.as_secs_f64() / 3600.0),
            false_alarms: outcome.false_alarms,
            false_alarms_per_hour: hundredth(Outcome::false_alarms_per_hour(&outcome)),
            deaths: outcome.detections.len(),
            detection_ms_p50: detection_ms(50),
            detection_ms_p99: detection_ms(99),
            detection_ms_max: detection_ms(100),
            longest_timeout_ms: ms(outcome.longest_timeout),
            seed: self.seed,
            command: self.command(),
        })
    }

    /// The command that repeats it.
    pub fn command(&self) -> String {
        format!(
            "phalanx simulate detector --load {} --timeout {}ns --alive {}ns --seed {}",
            self.load.name,
            self.timeout.as_nanos(),
            self.alive.as_nanos(),
            self.seed
        )
    }
}

fn ms(time: Duration) -> f64 {
    hundredth(time.as_secs_f64() * 1e3)
}

fn hundredth(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The table, as Markdown, and what its loads are.
pub fn page(reports: &[[DetectorReport; 2]]) -> String {
    let mut page = String::from("\n");
    page.push_str(
        "| load | time-out | fixed: false alarms/h | seen p50 | p99 | adaptive: false alarms/h | seen p50 | p99 |\n",
    );
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for [fixed, adaptive] in reports {
        let _ = write!(page, "| {} | {} ms |", fixed.load, fixed.timeout_ms);
        for report in [fixed, adaptive] {
            let _ = write!(
                page,
                " {} | {} | {} |",
                report.false_alarms_per_hour,
                whole_ms(report, report.detection_ms_p50),
                whole_ms(report, report.detection_ms_p99)
            );
        }
        page.push('\n');
    }
    page.push('\n');
    for named in LOADS.iter().filter(|named| reports.iter().any(|[fixed, _]| fixed.load == named.name)) {
        let _ = writeln!(page, "{}: {}", named.name, named.about);
    }
    page
}

/// Where a node never lived long enough to die there is no figure.
fn whole_ms(report: &DetectorReport, ms: f64) -> String {
    if report.deaths == 0 { "–".to_owned() } else { format!("{ms:.0} ms") }
}

/// One line of JSON for each report.
///
/// # Panics
///
/// Never: a report has only numbers and texts.
pub fn json_lines(reports: &[[DetectorReport; 2]]) -> String {
    reports.iter().flatten().map(|report| serde_json::to_string(report).expect("numbers and texts") + "\n").collect()
}
