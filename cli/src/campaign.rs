//! `phalanx campaign`: the command line of the campaign of faults. The work is `phalanx_bench::campaign`'s;
//! `scripts/campaign.sh` is the way to start it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use phalanx_bench::campaign::plan::{Fault, Wires};
use phalanx_bench::campaign::{self, Request};

use crate::numbers::{MINUTES_MAX, MINUTES_MIN, TIMES_MAX, fraction, whole};

/// Hurt jobs of real processes at random, and look whether what must hold does
#[derive(Args)]
pub struct Options {
    /// How long rounds are begun [default: 1, or as long as --rounds takes]
    #[arg(long, value_name = "N", value_parser = fraction(MINUTES_MIN..=MINUTES_MAX))]
    minutes: Option<f64>,
    /// Of the first round; each next one has the next [default: of the clock]
    #[arg(long, value_name = "S", value_parser = whole(0..=u64::MAX))]
    seed: Option<u64>,
    /// How many rounds at most
    #[arg(long, value_name = "N", value_parser = whole(1..=TIMES_MAX))]
    rounds: Option<usize>,
    /// Only shm, tcp or rdma
    #[arg(long, value_parser = parse_wires)]
    fabric: Option<Wires>,
    /// Only this fault: kill, stop-long, partition …; a wrong name lists all
    #[arg(long, value_parser = parse_fault)]
    fault: Option<Fault>,
}

fn parse_wires(text: &str) -> Result<Wires, String> {
    let found = Wires::ALL.into_iter().find(|wires| wires.name() == text);
    found.ok_or_else(|| format!("unknown fabric {text:?}; choose {}", Wires::ALL.map(Wires::name).join(", ")))
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    let found = Fault::ALL.into_iter().find(|fault| fault.name() == text);
    found.ok_or_else(|| format!("unknown fault {text:?}; choose {}", Fault::ALL.map(Fault::name).join(", ")))
}

/// Runs the campaign; fails on any violation.
pub fn main(options: &Options) -> ExitCode {
    let by_clock = || phalanx_bench::doomed::now_ns() / 1_000_000 * 1_000;
    let seed = options.seed.unwrap_or_else(by_clock);
    let minutes = options.minutes.unwrap_or(if options.rounds.is_some() { 60.0 } else { 1.0 });
    let span = Duration::from_secs_f64(minutes * 60.0);
    println!("seed {seed}");
    let request = Request { seed, span, rounds: options.rounds, wires: options.fabric, fault: options.fault };
    match campaign::run(&request, &mut |violation| eprintln!("{violation}")) {
        Ok(tally) => {
            print!("{}", tally.render());
            if tally.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("phalanx campaign: {error}");
            ExitCode::FAILURE
        }
    }
}
