//! `phalanx-fuzz [--seconds N] [--cases N] [--seed S] [TARGET…]`: see the library for what the targets are.
//!
//! Without a target it takes all of them, each for its share of the time. The seed is of the clock where none is given;
//! it is printed, and so is the command that repeats a failure.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use phalanx_fuzz::{Limit, TARGETS, run, target};

struct Options {
    limit: Option<u64>,
    seconds: u64,
    seed: u64,
    targets: Vec<String>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let by_clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()));
    let mut options = Options { limit: None, seconds: 10, seed: by_clock << 20, targets: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().ok_or(format!("{argument} needs a number"))?;
            text.parse().map_err(|_| format!("{argument} needs a number, not `{text}`"))
        };
        match argument.as_str() {
            "--seconds" => options.seconds = number()?,
            "--cases" => options.limit = Some(number()?),
            "--seed" => options.seed = number()?,
            name if TARGETS.contains(&name) => options.targets.push(argument),
            name => return Err(format!("`{name}` is no target; there are {}", TARGETS.join(", "))),
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.map(str::to_owned).to_vec();
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("phalanx-fuzz: {message}\nusage: phalanx-fuzz [--seconds N] [--cases N] [--seed S] [TARGET…]");
            return ExitCode::from(2);
        }
    };
    println!("seed {}", options.seed);
    let count = u32::try_from(options.targets.len()).unwrap_or(1);
    let limit = options.limit.map_or(Limit::Time(Duration::from_secs(options.seconds) / count), Limit::Cases);
    for name in &options.targets {
        let mut target = target(name).expect("its name was checked");
        match run(name, &mut *target, options.seed, limit) {
            Ok(cases) => println!("{name}: {cases} cases"),
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
