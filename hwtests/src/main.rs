//! Tests and measurements on the devices that this machine has, as one program that needs no Cargo where it runs.
//!
//! Built on any machine, run on one with devices, or in a guest that has one:
//!
//! ```sh
//! cargo build --release -p phalanx-hwtests
//! scripts/soft-roce.sh run  -- target/release/phalanx-hwtests check --require rdma
//! scripts/soft-roce.sh run  -- target/release/phalanx-hwtests latency
//! scripts/soft-roce.sh pair -- target/release/phalanx-hwtests pair
//! scripts/soft-roce.sh pair -- target/release/phalanx-hwtests lost
//! ```
//!
//! Without a device it prints `not run: …` and succeeds, unless `--require rdma` says that there must be one.

mod channel;
mod checks;
mod end;
mod latency;
mod lost;
mod pair;
mod peer;
mod report;
mod rig;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use phalanx::fabric::rdma::{RdmaError, devices};

/// Tests and measurements of Phalanx on this machine's devices.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Fail where there is no such device, instead of saying that nothing was run.
    #[arg(long, global = true)]
    require: Option<Kind>,
    /// The device. Without it, checks run on every active one.
    #[arg(long, global = true)]
    device: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Rdma,
}

#[derive(Subcommand)]
enum Command {
    /// Every promise of the fabric's contract, and what only RDMA has (the default).
    Check {
        /// Only checks whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Latencies of writes, reads and atomics between two processes.
    Latency {
        /// Measured operations of each kind.
        #[arg(long, default_value_t = 5000)]
        iterations: usize,
    },
    /// Two machines, of which one is killed: under `scripts/soft-roce.sh pair`.
    Pair,
    /// How soon survivors know that a machine of their job is lost: under `scripts/soft-roce.sh pair`.
    Lost {
        /// How it is lost.
        #[arg(long, value_enum, default_value_t = lost::How::Pause)]
        how: lost::How,
        /// How often, if it is paused.
        #[arg(long, default_value_t = 20)]
        faults: usize,
        /// The failure time-out in milliseconds.
        #[arg(long, default_value_t = 500)]
        timeout_ms: u64,
    },
    /// A rank of a job of which a machine is lost.
    #[command(hide = true)]
    Rank {
        /// The failure time-out in milliseconds.
        timeout_ms: u64,
    },
    /// The other process of a check or a measurement.
    #[command(hide = true)]
    Peer {
        /// What it does.
        role: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Peer { role }) = &arguments.command {
        peer::run(role, arguments.device.as_deref());
        return ExitCode::SUCCESS;
    }
    if let Some(Command::Rank { timeout_ms }) = arguments.command {
        lost::rank(Duration::from_millis(timeout_ms));
        return ExitCode::SUCCESS;
    }
    let names = match active_devices(arguments.device.as_deref()) {
        Ok(names) => names,
        Err(why) => return not_run(&why, arguments.require),
    };
    let passed = match arguments.command.unwrap_or(Command::Check { only: String::new() }) {
        Command::Check { only } => checks::run(&names, &only),
        Command::Latency { iterations } => latency::run(&names[0], iterations),
        Command::Pair => pair::run(&names[0]),
        Command::Lost { how, faults, timeout_ms } => {
            let faults = if how == lost::How::Kill { 1 } else { faults.max(1) };
            lost::run(lost::Request { how, faults, timeout: Duration::from_millis(timeout_ms) })
        }
        Command::Peer { .. } | Command::Rank { .. } => unreachable!("handled above"),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The names of the devices to use, or why there is none.
fn active_devices(wanted: Option<&str>) -> Result<Vec<String>, String> {
    let found = match devices() {
        Ok(found) => found,
        Err(error @ RdmaError::Library { .. }) => return Err(error.to_string()),
        Err(error) => return Err(format!("the RDMA devices cannot be listed: {error}")),
    };
    let is_active = |device: &&phalanx::fabric::rdma::DeviceFacts| device.ports.iter().any(|port| port.active);
    let is_wanted = |device: &&phalanx::fabric::rdma::DeviceFacts| wanted.is_none_or(|name| device.name == name);
    let names: Vec<_> = found.iter().filter(is_active).filter(is_wanted).map(|device| device.name.clone()).collect();
    if names.is_empty() { Err("no RDMA device".to_owned()) } else { Ok(names) }
}

fn not_run(why: &str, required: Option<Kind>) -> ExitCode {
    if required.is_some() {
        println!("FAILED: {why}, and --require rdma was given");
        return ExitCode::FAILURE;
    }
    println!("not run: {why}");
    ExitCode::SUCCESS
}
