//! The failure detector on generated heartbeats, in virtual time, and on recorded ones (`tests/traces/`); and the
//! recorder.
//!
//! A recorded trace has two threads: an agent that sleeps 20 ms and beats, and a watcher that sleeps 20 ms and looks.
//! Its file has comments (`#`), then a line for each beat, `b`, and each look, `l`, with the microseconds since the one
//! before of its kind. `calm.txt` was recorded with no load of its own, `loaded.txt` with four busy threads for each
//! CPU. To record them anew: `cargo test -p phalanx --test detector -- --ignored --nocapture`; the machine should have
//! nothing else to do.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use phalanx::cluster::detector::model::{Load, Outcome, Trial};
use phalanx::cluster::detector::{Detector, DetectorOptions, Event, HeartbeatWord};
use phalanx::testing::seeds::for_each_seed;

const TICK: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn try_out(name: &str, load: Load, hours: u32) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for_each_seed(name, 1..3, |seed| {
        let trial = Trial::new(DetectorOptions::default(), load, HOUR * hours / 2, seed);
        let outcome = trial.run().expect("good options");
        println!(
            "{load:?}, seed {seed}: {} false alarms in {:?}; {} deaths seen in {:?} (half), {:?} (99 %), {:?} (all)",
            outcome.false_alarms,
            outcome.alive,
            outcome.detections.len(),
            outcome.detection(50),
            outcome.detection(99),
            outcome.detection(100)
        );
        assert_eq!(outcome.false_alarms, 0, "{load:?}");
        outcomes.push(outcome);
    });
    outcomes
}

#[test]
fn in_calm_there_is_no_false_alarm_in_hours_and_deaths_are_seen_within_150_ms() {
    for load in [Load::Calm, Load::Uniform { most_ns: 0 }, Load::Uniform { most_ns: 5_000_000 }] {
        for outcome in try_out("in_calm_there_is_no_false_alarm", load, 4) {
            assert!(outcome.detection(99) <= ms(150), "{load:?}: {:?}", outcome.detection(99));
            assert_eq!(outcome.longest_timeout, ms(100), "{load:?}");
        }
    }
}

#[test]
fn under_load_there_is_no_false_alarm_in_hours_and_deaths_are_seen() {
    let shared = |processes| Load::Shared { processes, slice_ns: 4_000_000 };
    let bursts = Load::Bursts { processes: 8, slice_ns: 4_000_000 };
    let uneven = Load::LogNormal { median_ns: 1_000_000, sigma: 1.2, most_ns: 50_000_000 };
    for load in [shared(2), shared(8), shared(12), bursts, uneven, Load::Uniform { most_ns: 40_000_000 }] {
        for outcome in try_out("under_load_there_is_no_false_alarm", load, 4) {
            assert!(outcome.detection(100) <= ms(1000), "{load:?}: {:?}", outcome.detection(100));
        }
    }
}

#[test]
fn a_watcher_that_stalls_calls_nobody_silent_who_lives() {
    let stalls = Load::Pauses { every_ns: 1_000_000_000, least_ns: 50_000_000, most_ns: 5_000_000_000 };
    for_each_seed("a_watcher_that_stalls", 1..3, |seed| {
        let calm = Trial::new(DetectorOptions::default(), Load::Calm, 2 * HOUR, seed);
        let outcome = Trial { watcher: stalls, ..calm }.run().expect("good options");
        assert_eq!((outcome.false_alarms, outcome.longest_timeout), (0, ms(100)));
    });
}

#[test]
fn clocks_that_drift_are_no_silence() {
    for_each_seed("clocks_that_drift", 1..3, |seed| {
        for drift_per_million in [-200_000, -500, 500, 200_000] {
            let calm = Trial::new(DetectorOptions::default(), Load::Calm, HOUR, seed);
            let outcome = Trial { drift_per_million, ..calm }.run().expect("good options");
            assert_eq!((outcome.false_alarms, outcome.longest_timeout), (0, ms(100)), "{drift_per_million}");
            assert!(outcome.detection(99) <= ms(150), "{drift_per_million}: {:?}", outcome.detection(99));
        }
    });
}

/// Where pauses have a heavy tail, no time-out is long enough; the stretch spares most alarms that a fixed one gives.
#[test]
fn the_stretch_spares_most_false_alarms_where_pauses_are_long() {
    let node = Load::Pauses { every_ns: 500_000_000, least_ns: 20_000_000, most_ns: 400_000_000 };
    for_each_seed("the_stretch_spares", 1..3, |seed| {
        let adaptive = Trial::new(DetectorOptions::default(), node, HOUR, seed);
        let fixed = Trial { options: DetectorOptions { stretch: 1, ..adaptive.options }, ..adaptive };
        let [adaptive, fixed] = [adaptive, fixed].map(|trial| trial.run().expect("good options").false_alarms);
        println!("seed {seed}: {adaptive} false alarms adaptive, {fixed} fixed");
        assert!(fixed > 50 && adaptive * 2 < fixed, "{adaptive} against {fixed}");
    });
}

/// The microseconds of all beats and of all looks, from the same origin.
struct Trace {
    beats: Vec<u64>,
    looks: Vec<u64>,
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name)
}

impl Trace {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(file(name)).expect("a trace that was committed");
        let times = |kind| {
            let lines = text.lines().filter_map(move |line| line.strip_prefix(kind));
            let spans = lines.map(|span| span.parse::<u64>().expect("microseconds"));
            spans.scan(0, |at, span| {
                *at += span;
                Some(*at)
            })
        };
        let trace = Self { beats: times("b ").collect(), looks: times("l ").collect() };
        assert!(trace.beats.len() > 500 && trace.looks.len() > 500, "{name} is no trace");
        trace
    }

    fn text(&self, about: &str) -> String {
        let mut text = format!("# {about}\n");
        for (kind, times) in [("b", &self.beats), ("l", &self.looks)] {
            let mut before = 0;
            for at in times {
                let _ = writeln!(text, "{kind} {}", at - before);
                before = *at;
            }
        }
        text
    }

    /// Has a detector look as the watcher did, at a node that dies at `dies`; when it was called silent.
    fn replay(&self, options: DetectorOptions, dies: u64) -> (Option<u64>, Detector) {
        let mut detector = Detector::new(options, Duration::ZERO).expect("good options");
        for look in &self.looks {
            let beats = self.beats.partition_point(|beat| beat <= look && *beat < dies) as u64;
            let word = if beats == 0 { HeartbeatWord(0) } else { HeartbeatWord::new(1, beats) };
            let event = detector.observe(word.0, Duration::from_micros(*look));
            if matches!(event, Some(Event::Silent { .. })) {
                return (Some(*look), detector);
            }
        }
        (None, detector)
    }

    /// From many deaths to the look that called them, sorted.
    fn detections(&self, options: DetectorOptions) -> Vec<u64> {
        let (first, last) = (self.looks[0] + 2_000_000, self.looks[self.looks.len() - 1] - 2_000_000);
        let deaths = (first..last).step_by(97_000);
        let mut detections: Vec<u64> = deaths
            .map(|dies| {
                let silent = self.replay(options, dies).0;
                let silent = silent.unwrap_or_else(|| panic!("the death at {dies} µs was not seen"));
                assert!(silent >= dies, "called silent at {silent} µs, which died at {dies} µs");
                silent - dies
            })
            .collect();
        detections.sort_unstable();
        detections
    }
}

fn judge(name: &str) -> Vec<u64> {
    let trace = Trace::read(name);
    let options = DetectorOptions::default();
    let (silent, detector) = trace.replay(options, u64::MAX);
    assert_eq!(silent, None, "{name}: a false alarm at so many µs");
    let detections = trace.detections(options);
    println!(
        "{name}: {} beats, {} looks; {:?}; time-out in the end {:?}; {} deaths seen after {} µs (half), {} µs (all)",
        trace.beats.len(),
        trace.looks.len(),
        detector.score(),
        detector.timeout(),
        detections.len(),
        detections[detections.len() / 2],
        detections[detections.len() - 1]
    );
    detections
}

#[test]
fn a_calm_machine_gives_no_false_alarm_and_a_death_is_seen_within_150_ms() {
    let detections = judge("calm.txt");
    let most = detections[detections.len() * 99 / 100];
    assert!(most <= 150_000, "{most} µs");
}

#[test]
fn a_machine_with_four_busy_threads_for_each_cpu_gives_no_false_alarm() {
    let detections = judge("loaded.txt");
    let most = detections[detections.len() - 1];
    assert!(most <= 1_200_000, "{most} µs");
}

#[test]
#[ignore = "records the traces anew: takes a minute, all CPUs, and overwrites files of the repository"]
fn the_traces_are_recorded_anew() {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for (name, busy) in [("calm.txt", 0), ("loaded.txt", 4 * cpus)] {
        let trace = record_one(busy, Duration::from_secs(40));
        let about = format!("{cpus} CPUs, {busy} busy threads; beats and looks every 20 ms; microseconds");
        let text = trace.text(&about);
        println!("{name}: {about}; {} bytes", text.len());
        std::fs::write(file(name), text).expect("the repository can be written");
    }
}

fn record_one(busy: usize, length: Duration) -> Trace {
    let (is_over, start) = (&AtomicBool::new(false), &Barrier::new(2));
    let origin = Instant::now();
    let periodic = move || {
        start.wait();
        let mut times = Vec::new();
        while origin.elapsed() < length {
            thread::sleep(TICK);
            times.push(u64::try_from(origin.elapsed().as_micros()).expect("a minute"));
        }
        times
    };
    thread::scope(|scope| {
        for _ in 0..busy {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let (agent, watcher) = (scope.spawn(periodic), scope.spawn(periodic));
        let trace = Trace { beats: agent.join().expect("no panic"), looks: watcher.join().expect("no panic") };
        is_over.store(true, Ordering::Relaxed);
        trace
    })
}
