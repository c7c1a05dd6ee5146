//! `phalanx simulate`: the command line of the simulator. The work is `phalanx_bench::simulate`'s.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use phalanx::cluster::detector::model::Trial;
use phalanx::fabric::sim::{Costs, Jitter, Level, Placement};
use phalanx_bench::simulate::detector::{self, Case, LOADS, NamedLoad, TIMEOUTS_MS};
use phalanx_bench::simulate::{Scenario, page, study, svg};

use crate::numbers::whole;

/// The most nodes that can be simulated.
const NODES_MAX: usize = 1 << 24;

const DETAILS: &str = "\
Times are whole numbers or fractions with a unit: 900ns, 1.5us, 2ms.
Distributions: none, uniform:MOST, exponential:MEAN, tail:MEAN or tail:MEAN:MOST (Pareto, cut off at MOST).

The barrier is the library's own; only the network is simulated. A run is a function of its options: the same seed
gives the same run on every machine. A run that fails prints the command that repeats it.

Examples:
  phalanx simulate barrier --nodes 1024
  phalanx simulate barrier --nodes 65536 --latency 900ns --overhead 40ns --plot latency.svg
  phalanx simulate barrier --nodes 256 --ranks-per-node 8 --jitter tail:300ns --skew uniform:5us --barriers 50
  phalanx simulate barrier --nodes 12 --radix 3 --faults 5 --seed 17
";

const DETECTOR_DETAILS: &str = "\
Loads, of the node and of its watcher alike: calm; shared (8 processes take turns of 4 ms on a CPU); bursts (24, now and
then); pauses (all stands still for 20 to 400 ms, every 10 s).

The detector is the library's own; heartbeats and looks are made up, in virtual time. Nodes live for 10 to 30 s and then
die. The same seed gives the same table on every machine.

Examples:
  phalanx simulate detector
  phalanx simulate detector --load pauses --timeout 200ms --alive 36000s --seed 3 --json
";

/// Run the real machines on a simulated network
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Barrier(BarrierOptions),
    Detector(DetectorOptions),
}

/// How often a time-out gives a false alarm, and how soon it sees a death
#[derive(Args)]
#[command(after_help = DETECTOR_DETAILS)]
struct DetectorOptions {
    /// A load; several: each [default: all]
    #[arg(long = "load", value_name = "LOAD", value_parser = parse_load)]
    loads: Vec<NamedLoad>,
    /// A time-out; several: each [default: from 40ms to 400ms]
    #[arg(long = "timeout", value_name = "TIME", value_parser = parse_time)]
    timeouts: Vec<u64>,
    /// How long nodes live for each row, all lives together
    #[arg(long, value_name = "TIME", default_value = "14400s", value_parser = parse_life)]
    alive: u64,
    /// What all random numbers come from
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    /// One JSON object for each row and kind of time-out instead of the table
    #[arg(long)]
    json: bool,
}

/// Which radix is best for barriers between N nodes, and what they cost
#[derive(Args)]
#[command(after_help = DETAILS)]
struct BarrierOptions {
    /// Nodes
    #[arg(long, value_name = "N", value_parser = whole(1..=NODES_MAX))]
    nodes: usize,
    /// Ranks on each node
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = whole(1..=1024_usize))]
    ranks_per_node: usize,
    /// From one node's adapter to another's
    #[arg(long, value_name = "TIME", default_value = "900ns", value_parser = parse_time)]
    latency: u64,
    /// CPU time to post a message
    #[arg(long, value_name = "TIME", default_value = "40ns", value_parser = parse_time)]
    overhead: u64,
    /// CPU time of the node that a message comes to (TCP; an adapter needs none)
    #[arg(long, value_name = "TIME", default_value = "0ns", value_parser = parse_time)]
    receive_overhead: u64,
    /// From one message to the next that an adapter sends
    #[arg(long, value_name = "TIME", default_value = "10ns", value_parser = parse_time)]
    gap: u64,
    /// What a rank's arrival costs its node's first rank, and the release costs a rank
    #[arg(long, value_name = "TIME", default_value = "100ns", value_parser = parse_time)]
    local: u64,
    /// What nodes of different groups of N have on top of the latency; several: switches above switches
    #[arg(long = "level", value_name = "N:TIME", value_parser = parse_level)]
    levels: Vec<Level>,
    /// What comes on top of the latency at random
    #[arg(long, value_name = "DISTRIBUTION", default_value = "none", value_parser = parse_distribution)]
    jitter: Jitter,
    /// How late each rank arrives, at random
    #[arg(long, value_name = "DISTRIBUTION", default_value = "none", value_parser = parse_distribution)]
    skew: Jitter,
    /// A radix of 2 to 64, or auto: all that are worth trying
    #[arg(long, value_name = "K", default_value = "auto", value_parser = parse_radix)]
    radix: RadixOption,
    /// Barriers, back to back
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = whole(1..=1_000_000_000_u64))]
    barriers: u64,
    /// CPUs that all nodes share [default: each has its own]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX))]
    cpus: Option<usize>,
    /// Links cut and mended, networks divided and united; completions then fail and writes repeat, too
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole(0..=usize::MAX))]
    faults: usize,
    /// One link is never mended: the barrier cannot be passed, and the run fails
    #[arg(long, hide = true)]
    leave_cut: bool,
    /// What all random numbers come from
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    /// One JSON object for each radix instead of the page
    #[arg(long)]
    json: bool,
    /// Latency over nodes as a picture in a file; none: not in the page either
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct RadixOption(Option<usize>);

fn parse_radix(text: &str) -> Result<RadixOption, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(RadixOption(None)),
        (_, Ok(radix @ 2..=64)) => Ok(RadixOption(Some(radix))),
        _ => Err("give a number from 2 to 64, or auto".to_owned()),
    }
}

fn parse_load(text: &str) -> Result<NamedLoad, String> {
    let names = LOADS.map(|named| named.name).join(", ");
    LOADS.into_iter().find(|named| named.name == text).ok_or_else(|| format!("give one of {names}"))
}

fn parse_life(text: &str) -> Result<u64, String> {
    parse_time_to(text, Trial::MOST_ALIVE)
}

fn parse_time(text: &str) -> Result<u64, String> {
    // An hour: more would overflow the sums of a long run.
    parse_time_to(text, Duration::from_secs(3600))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn parse_time_to(text: &str, most: Duration) -> Result<u64, String> {
    let help = || format!("`{text}` is no time; give one such as 900ns, 1.5us, 2ms");
    let unit_at = text.find(|c: char| c.is_alphabetic()).ok_or_else(help)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_ns = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(help()),
    };
    let ns = f64::from_str(number).map_err(|_| help())? * unit_ns;
    let most_ns = most.as_nanos() as f64;
    if (0.0..=most_ns).contains(&ns) { Ok(ns.round() as u64) } else { Err(help()) }
}

fn parse_level(text: &str) -> Result<Level, String> {
    let (nodes, extra) = text.split_once(':').ok_or("give N:TIME, such as 32:300ns")?;
    let nodes = nodes.parse().ok().filter(|nodes| *nodes > 0).ok_or("N is a number of nodes")?;
    Ok(Level { nodes, extra_ns: parse_time(extra)? })
}

fn parse_distribution(text: &str) -> Result<Jitter, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or("");
    let times = parts.map(parse_time).collect::<Result<Vec<_>, _>>()?;
    match (name, times[..].as_ref()) {
        ("none", []) => Ok(Jitter::None),
        ("uniform", [most_ns]) => Ok(Jitter::Uniform { most_ns: *most_ns }),
        ("exponential", [mean_ns]) => Ok(Jitter::Exponential { mean_ns: *mean_ns }),
        ("tail", [mean_ns]) => Ok(Jitter::HeavyTail { mean_ns: *mean_ns, most_ns: mean_ns.saturating_mul(1000) }),
        ("tail", [mean_ns, most_ns]) => Ok(Jitter::HeavyTail { mean_ns: *mean_ns, most_ns: *most_ns }),
        _ => Err("give none, uniform:MOST, exponential:MEAN, tail:MEAN or tail:MEAN:MOST".to_owned()),
    }
}

/// Runs the simulation that the options name.
pub fn main(options: Options) -> ExitCode {
    let done = match options.what {
        What::Barrier(options) => barrier(&options),
        What::Detector(options) => compare_timeouts(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("phalanx simulate: {message}");
            ExitCode::FAILURE
        }
    }
}

impl BarrierOptions {
    fn scenario(&self) -> Scenario {
        Scenario {
            ranks_per_node: self.ranks_per_node,
            costs: Costs {
                latency_ns: self.latency,
                overhead_ns: self.overhead,
                receive_overhead_ns: self.receive_overhead,
                gap_ns: self.gap,
                placement: Placement { levels: self.levels.clone() },
                jitter: self.jitter,
                ..Costs::default()
            },
            local_ns: self.local,
            skew: self.skew,
            barriers: self.barriers,
            cpus: self.cpus,
            seed: self.seed,
            faults: self.faults,
            leaves_cut: self.leave_cut,
            ..Scenario::new(self.nodes, self.radix.0.unwrap_or(2))
        }
    }
}

fn barrier(options: &BarrierOptions) -> Result<(), String> {
    let scenario = options.scenario();
    let reports = study::compare(&scenario, options.radix.0).map_err(|error| error.to_string())?;
    if options.json {
        print(&page::json_lines(&reports))?;
    } else {
        print(&page::radixes(&scenario, &reports))?;
    }
    let file = options.plot.as_ref().filter(|path| path.as_os_str() != "none");
    let is_wanted = file.is_some() || (options.plot.is_none() && !options.json);
    if !is_wanted {
        return Ok(());
    }
    let sizes = study::over_nodes(&scenario, options.radix.0, &reports).map_err(|error| error.to_string())?;
    if !options.json {
        print(&page::growth(&sizes))?;
    }
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, svg::picture(&sizes)).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

impl DetectorOptions {
    fn cases(&self) -> Vec<Case> {
        let loads = if self.loads.is_empty() { LOADS.to_vec() } else { self.loads.clone() };
        let timeouts = match self.timeouts[..] {
            [] => TIMEOUTS_MS.map(Duration::from_millis).to_vec(),
            ref some => some.iter().copied().map(Duration::from_nanos).collect(),
        };
        let alive = Duration::from_nanos(self.alive);
        let of_load =
            |load| timeouts.iter().map(move |timeout| Case { load, timeout: *timeout, alive, seed: self.seed });
        loads.into_iter().flat_map(of_load).collect()
    }
}

fn compare_timeouts(options: &DetectorOptions) -> Result<(), String> {
    let reports: Result<Vec<_>, _> = options.cases().iter().map(Case::run).collect();
    let reports = reports.map_err(|error| error.to_string())?;
    print(&if options.json { detector::json_lines(&reports) } else { detector::page(&reports) })
}

/// Prints; a reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the result: {error}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        options: BarrierOptions,
    }

    #[derive(Parser)]
    struct DetectorAlone {
        #[command(flatten)]
        options: DetectorOptions,
    }

    #[test]
    fn the_command_of_a_case_means_that_case() {
        for (load, timeout) in LOADS.into_iter().zip([40, 100, 250, 3_600_000]) {
            let timeout = Duration::from_millis(timeout);
            let case = Case { load, timeout, alive: Trial::MOST_ALIVE, seed: 9 };
            let command = case.command();
            let words = command.strip_prefix("phalanx simulate ").expect("a command").split(' ');
            assert_eq!(DetectorAlone::parse_from(words).options.cases(), [case], "{command}");
        }
    }

    #[test]
    fn times_have_units() {
        let times = ["900ns", "1.5us", "2ms", "0ns", "1s"].map(parse_time);
        assert_eq!(times, [Ok(900), Ok(1500), Ok(2_000_000), Ok(0), Ok(1_000_000_000)]);
        for text in ["", "900", "ns", "-1ns", "1h", "infs", "nans", "1e30s", "5 ns x"] {
            assert!(parse_time(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn nonsense_distributions_are_refused() {
        for text in ["", "none:1ns", "uniform", "uniform:3", "tail", "gauss:1ns", "tail:1ns:2ns:3ns"] {
            assert!(parse_distribution(text).is_err(), "{text:?} was accepted");
        }
    }

    /// What a failure tells people to run is exactly what ran.
    #[test]
    fn the_command_of_a_scenario_means_that_scenario() {
        let mut scenario = Scenario::new(12, 3);
        scenario.ranks_per_node = 2;
        scenario.costs.receive_overhead_ns = 7;
        scenario.costs.jitter = Jitter::HeavyTail { mean_ns: 300, most_ns: 9000 };
        scenario.costs.placement.levels = vec![Level { nodes: 4, extra_ns: 300 }];
        scenario.skew = Jitter::Uniform { most_ns: 5 };
        (scenario.cpus, scenario.faults, scenario.leaves_cut, scenario.seed) = (Some(2), 5, true, 17);
        for scenario in [scenario, Scenario::new(2, 2)] {
            let command = scenario.command();
            let words = command.strip_prefix("phalanx simulate ").expect("a command").split(' ');
            let parsed = Alone::parse_from(words);
            let parsed = Scenario { radix: parsed.options.radix.0.expect("one radix"), ..parsed.options.scenario() };
            assert_eq!(parsed, scenario, "{command}");
        }
    }
}
