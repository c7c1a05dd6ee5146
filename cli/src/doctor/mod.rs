//! `phalanx doctor`: what this machine offers to Phalanx, what that means, and the command that mends what is wrong.
//!
//! Each area's file looks, and judges by functions that take what was seen as values. What lies in files is read
//! through a [`Root`], so that tests can show it a machine that is not there. Nothing is changed, nothing needs a
//! privilege, nothing is sent; what cannot be found out is said to be unknown.

mod check;
mod cpu;
mod io_uring;
mod memory;
mod network;
mod rdma;
mod report;
mod root;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use check::Check;
use root::Root;

const DETAILS: &str = "\
Each finding is ok; a note (good to know); a warning (costs speed, or fails in use); or missing (a part that is
needed is not there). With --json each is an object on a line of its own:
  doctor   the finding's name       found    what was found, as text
  status   ok, note, warning,       facts    what was found, as an object
           missing                  meaning  what it means for Phalanx
                                    remedy   the command that mends it, or null

Exit status:
  0   Phalanx works here, as well as it is said
  1   something prevents Phalanx from working at all
";

/// Examine this machine: CPUs, memory limits, network, RDMA; what each means for Phalanx, and how to mend it.
#[derive(Args)]
#[command(after_help = DETAILS)]
pub struct Options {
    /// One JSON object for each finding instead of the page.
    #[arg(long)]
    json: bool,
    /// Read files below this folder instead of /; what system calls tell remains this machine's. For tests.
    #[arg(long, value_name = "DIRECTORY", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Examines, and prints what it has found.
pub fn main(options: &Options) -> ExitCode {
    let checks = examine(&Root::new(&options.root));
    let text = if options.json { report::json_lines(&checks) } else { report::page(&checks, colours_wanted()) };
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        // Whoever reads only the first lines has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("phalanx doctor: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ if checks.iter().any(|check| check.prevents) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn examine(root: &Root) -> Vec<Check> {
    let devices = rdma::devices(root);
    let mut checks = cpu::checks(root);
    checks.extend(memory::checks(root, !devices.is_empty()));
    checks.extend(network::checks());
    checks.push(io_uring::check(root));
    checks.extend(rdma::checks(root, &devices));
    checks
}

/// On a terminal, unless the user has said that colours are not wanted (see no-color.org).
fn colours_wanted() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
