//! `phalanx run`: starts the ranks of a job on this machine, passes their output and the user's signals through, and
//! sees to it that nothing of the job outlives the launcher.
//!
//! ```text
//!  user ── signals ──▶ front ── pipe ──▶ supervisor ──▶ rank 0, rank 1, …      processes
//!                     front.rs          supervisor.rs   ranks.rs
//!                                          │  ▲
//!                            course.rs ◀───┘  └──── output.rs ◀─ the ranks' stdout and stderr
//!                      what happens when           lines.rs: whole lines; writer.rs: slow readers
//! ```
//!
//! Of a rank that has died the supervisor tells what the job's shared memory says of it (`last_seen.rs`), and there it
//! also sees when a rank that lives has been declared failed by the others (`declared.rs`).
//!
//! With `--nodes` the supervisor also serves the rendezvous at which ranks of different nodes meet (`nodes.rs`).
//!
//! Two processes, because one could not promise that no process survives it: who is killed with SIGKILL cleans nothing
//! up. The *front* is the one that the user starts and knows; the *supervisor* does the work. Each notices the other's
//! death at once and ends the job. Both are subreapers, so that no descendant of a rank can slip away (`family.rs`).
//! Only when both are killed in the same instant do the ranks' own children remain; the ranks themselves never do.

mod course;
mod declared;
mod error;
mod family;
mod front;
mod last_seen;
mod lines;
mod nodes;
mod options;
mod output;
mod placement;
mod ranks;
mod signals;
mod spawn;
mod supervisor;
mod writer;

use std::io::{self, Write};
use std::process::ExitCode;

pub use options::Options;

/// Runs a job to its end.
pub fn main(options: Options) -> ExitCode {
    match front::run(&options) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(error.status())
        }
    }
}

/// Says something on stderr, for a process that passes no output on. A closed stderr is no reason to fail.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "phalanx run: {message}");
}
