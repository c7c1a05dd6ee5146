//! The `phalanx` command. This file knows the command line and nothing else: each subcommand's options and work
//! live in a module of its own name, which takes its parsed options and answers with the process's exit status.

mod bench;
mod campaign;
mod doctor;
mod inspect;
mod numbers;
mod progress;
mod run;
mod segments;
mod simulate;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  phalanx run -n 4 -- ./solver input.toml     four ranks of a program on this machine
  phalanx bench barrier                       how fast this machine's ranks meet
  phalanx doctor                              what this machine offers, and what to mend
  phalanx inspect                             what running jobs do: who waits, and for whom
  phalanx simulate barrier --nodes 65536      what they would cost between so many nodes
  phalanx simulate detector                   how often a time-out errs, and how soon it sees a death
  phalanx help run                            every option of the launcher
";

/// Coordination at the speed of the hardware that joins the ranks.
#[derive(Parser)]
#[command(name = "phalanx", version, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Run(run::Options),
    Bench(bench::Options),
    #[command(hide = true)]
    Campaign(campaign::Options),
    Doctor(doctor::Options),
    Inspect(inspect::Options),
    Simulate(simulate::Options),
    Trace(trace::Options),
    /// A rank of a benchmark: started by `bench`, not by people.
    #[command(name = phalanx_bench::turn::RANK_COMMAND, hide = true)]
    BenchRank {
        task: String,
    },
    /// A rank of a contest for locks: started by `bench`, not by people.
    #[command(name = phalanx_bench::contest::rank::CONTESTANT_COMMAND, hide = true)]
    BenchContestant {
        task: String,
    },
    /// An end of a benchmark of operations: started by `bench`, not by people.
    #[command(name = phalanx_bench::fabric::ENDPOINT_COMMAND, hide = true)]
    BenchFabricEnd {
        task: String,
    },
    /// A rank of a job that is hurt: started by `bench failure` and `campaign`, not by people.
    #[command(name = phalanx_bench::doomed::RANK_COMMAND, hide = true)]
    DoomedRank {
        task: String,
    },
    /// Takes pretended networks away: started by `bench failure` and `campaign`, not by people.
    #[command(name = phalanx_bench::doomed::namespaces::SWEEP_COMMAND, hide = true)]
    DoomedSweep {
        owner: u32,
        nodes: usize,
    },
    /// Clears up after a benchmark: started by `bench`, not by people.
    #[command(name = phalanx_bench::compare::SWEEP_COMMAND, hide = true)]
    BenchSweep {
        directory: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let matches = numbers::with_negative_numbers(CommandLine::command()).get_matches();
    let command_line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match command_line.task {
        Task::Run(options) => run::main(options),
        Task::Bench(options) => bench::main(options),
        Task::Campaign(options) => campaign::main(&options),
        Task::Doctor(options) => doctor::main(&options),
        Task::Inspect(options) => inspect::main(&options),
        Task::Simulate(options) => simulate::main(options),
        Task::Trace(options) => trace::main(&options),
        Task::BenchRank { task } => bench::rank(&task),
        Task::BenchContestant { task } => bench::contestant(&task),
        Task::BenchFabricEnd { task } => bench::fabric_end(&task),
        Task::DoomedRank { task } => bench::doomed_rank(&task),
        Task::DoomedSweep { owner, nodes } => {
            phalanx_bench::doomed::namespaces::sweep_behind(owner, nodes);
            ExitCode::SUCCESS
        }
        Task::BenchSweep { directory } => {
            phalanx_bench::compare::sweep(&directory);
            ExitCode::SUCCESS
        }
    }
}
