//! What a person can ask of `phalanx run`, as typed values: whatever passes this file is a job that can be tried.
//! Everything else ends here with clap's usual message and exit status 2, before a process has been started.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::numbers::RANKS_MAX;

const DETAILS: &str = "\
Each rank finds its identity in its environment: PHALANX_RANK, PHALANX_SIZE, PHALANX_LOCAL_RANK,
PHALANX_LOCAL_SIZE, PHALANX_BOOTSTRAP (where rank 0 serves the others) and PHALANX_KEY (the job's random key).
With --nodes it also finds PHALANX_NODE (the node that it is to pretend to be on), PHALANX_RENDEZVOUS=served (the
launcher, and not rank 0, serves PHALANX_BOOTSTRAP, at a port of 127.0.0.1) and PHALANX_WITNESS (where the launcher
has a vote, beside the nodes, on which of them have failed).
Rank 0 has the launcher's stdin, the others read /dev/null.

When a rank fails, a line on stderr says which and why. Of a rank that uses Phalanx it also says where it was (its
last barrier, or the wait that it was in) and who waited for it, as far as its node's memory tells. A rank that lives
and that the others have declared failed (it was stopped for too long, say) has failed, as if SIGKILL had ended it;
with --keep-going it is killed then, and the others go on.

Output is passed on in whole lines. An unfinished last line is given its newline when another rank's line follows
it, and always with --tag-output. A line longer than 1 MiB is passed on in pieces of that size.

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP and SIGCONT are forwarded to every rank. After one of
the first four the ranks have 2 s to end before they are killed. When the job is over, whatever processes its ranks
left behind are killed too, daemons included.

Exit status:
  0            every rank ended with status 0
  1..255       the status of the first rank that failed, with --keep-going too; 128 + the signal's number if a
               signal ended it
  128+signal   the launcher was sent this signal, and the ranks ended because of it
  141          stdout or stderr was closed by its reader (as in `phalanx run ... | head`)
  124          --timeout passed
  125          the launcher itself failed (no memory, too few file descriptors, a full disk under stdout)
  126, 127     PROGRAM could not be executed, was not found
  2            a mistake in the command line

Examples:
  phalanx run -n 4 -- ./solver input.toml
  phalanx run -n 2 --tag-output -- sh -c 'echo rank $PHALANX_RANK of $PHALANX_SIZE'
  phalanx run -n 4 --nodes 2 -- ./solver
  phalanx run -n 64 --timeout 10m --keep-going -- ./sweep
";

/// Run N ranks of a program on this machine, as one job.
#[derive(Args, Debug)]
#[command(after_help = DETAILS, override_usage = "phalanx run -n <N> [OPTIONS] -- <PROGRAM> [ARGS]...")]
pub struct Options {
    /// How many ranks to start.
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = parse_ranks)]
    pub ranks: usize,

    /// Divide the ranks over M pretended nodes, in blocks: ranks of different nodes share no memory and meet over the
    /// network, as if each node were a machine of its own.
    #[arg(long, value_name = "M", value_parser = parse_nodes, default_value = "1", hide_default_value = true)]
    pub nodes: usize,

    /// Pin each rank to one CPU, or leave placement to the kernel [default: core if every rank can have a CPU
    /// of its own, else none].
    #[arg(long, value_name = "WHERE")]
    pub bind: Option<Bind>,

    /// How the ranks' TCP connections move bytes: auto, sockets or io-uring [default: PHALANX_TCP_ENGINE, else auto].
    #[arg(long, value_name = "ENGINE")]
    pub tcp_engine: Option<phalanx::TcpEngine>,

    /// Begin each line of output with the rank that wrote it: `[3] …`.
    #[arg(long)]
    pub tag_output: bool,

    /// End the whole job after this time: `30s`, `500ms`, `2m`, `1h`, or a number of seconds.
    #[arg(long, value_name = "D", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,

    /// Let the other ranks run to their end when one fails.
    #[arg(long)]
    pub keep_going: bool,

    /// The program, and its arguments.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Where ranks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bind {
    /// Rank r on the r-th usable CPU, counted round and round.
    Core,
    /// Wherever the kernel likes, within the launcher's own CPUs.
    None,
}

fn parse_ranks(text: &str) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(ranks @ 1..=RANKS_MAX) => Ok(ranks),
        Ok(0) => Err("a job needs at least one rank".to_owned()),
        Ok(_) => Err(format!("one machine runs at most {RANKS_MAX} ranks")),
        Err(_) => Err(format!("give a whole number from 1 to {RANKS_MAX}")),
    }
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(0) => Err("a job needs at least one node".to_owned()),
        Ok(nodes) => Ok(nodes),
        Err(_) => Err("give a whole number from 1 to the number of ranks".to_owned()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let help = "give a time such as 30s, 500ms, 2m, 1h, or a number of seconds";
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time; {help}")),
    };
    let number: f64 = number.trim_end().parse().map_err(|_| help.to_owned())?;
    match Duration::try_from_secs_f64(number * seconds_per_unit) {
        Ok(Duration::ZERO) => Err(format!("a job cannot end before it starts; {help}")),
        Ok(timeout) => Ok(timeout),
        Err(_) => Err(format!("out of range; {help}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_units() {
        assert_eq!(parse_timeout("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_timeout("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_timeout("0.5"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn nonsense_timeouts_are_refused() {
        for text in ["", "0", "0s", "-1", "s", "5 days", "1e400", "nan", "inf", "3x", "ms"] {
            assert!(parse_timeout(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn rank_counts_have_limits() {
        assert_eq!(parse_ranks("1"), Ok(1));
        assert_eq!(parse_ranks("4096"), Ok(4096));
        for text in ["0", "4097", "-1", "two", "", "99999999999999999999"] {
            assert!(parse_ranks(text).is_err(), "{text:?} was accepted");
        }
    }
}
