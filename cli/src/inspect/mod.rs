//! `phalanx inspect`: what the jobs on this machine do now, read from their shared memory.
//!
//! [`segments`] finds segments without anybody's help, [`view`] makes jobs of what they tell and sees who holds up
//! whom, [`objects`] who has which named object, and [`page`] prints it. No rank takes part or notices, so a job that
//! is stuck can be looked at like any other.

mod objects;
mod page;
mod view;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::segments;
use view::Job;

/// The time between two looks with `--watch`.
const PERIOD: Duration = Duration::from_secs(1);
/// Clears a terminal and begins at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

const DETAILS: &str = "\
The first line of each job says who holds it up. Below, for each rank:
  state     running (or waiting for something), stopped (SIGSTOP), traced (by a debugger), dead,
            left (has no part in the job any more), or absent (not joined yet)
  barriers  how many of the world's barriers it has arrived at
  last long call
            which wait of 20 ms or more it is in, and for how long, or was in last; group 0 is the world
  waits, end
            since when it waits in the world's barrier, and for which ranks; or how it has ended
Then whom the job has lost: one rank or node in each epoch, as all nodes have agreed.

Then its named objects, each once for every node whose ranks have it:
  home      the node where the words are that all nodes share
  tenure    what this node has to do with it there: nothing, underway (asking), waiting, or held; - in a job of one node
  holder, token
            the rank that holds it (of an election: leads; of a reader-writer lock: writes; of a semaphore: has its
            turn to take permits), and its token (its term; of a fenced word, that of the last write); - where that
            cannot be told
  held      for how long: of a lease or an election always; of a lock, or of who writes, where somebody waits or has
            waited for it (who takes what is free reads no clock), with ≥ since somebody was seen to wait; of readers,
            permits and those who wait it is not noted
  waiting, value
            what a counter or a fenced word holds; this node's ranks that wait, in their order; who of this node reads,
            and who does when the writer is through (readers on other machines: in the first row); who has how many
            permits; the nodes that wait at the home, in their order

With --json each job is an object on a line of its own:
  inspect, summary, nodes    the job's number, the first line, nodes seen on this machine
  completed, missing         barriers of the world that all have reached; the ranks that others wait for
  ranks     for each: rank, node, pid, state, barriers; waits, waits_ns; end (text, or null); and
            call (null, or name, group, sequence, inside, began_ns: how long ago it began)
  epochs    for each: epoch, unit (\"rank 3\", \"node 1\"), cause (text)
  objects   for each, once for every node: kind, name, node, home, tenure; holder, token, held_ns (null where they are
            not known), held_at_least (whether it may be longer), waiting (ranks), value (null but for counters);
            holder_node, waiting_nodes (at its home; null and none where that is not seen on this machine); shared, for
            all nodes alike (but for readers), by its kind; null where its home is not seen on this machine:
              \"lock\", \"counter\", \"election\"
                  always null
              \"reader-writer lock\"
                  writer; readers, waiting (to read): those of this node, in the object's first row also those of
                  nodes that have none here
              \"semaphore\"
                  permits (in all), taken (of each rank: rank, permits), waiting (null, or the rank whose turn it is,
                  and how many it is to have: rank, permits)
              \"lease\", \"leased election\"
                  holder, waiting
              \"fenced word\"
                  token, value, rank (that has written it; null where that is not known)

Jobs of the same user are seen, of programs built with this version of phalanx; a line on stderr names others. In a
container with a pid namespace of its own, jobs are to be inspected from within.

Exit status:
  0   a job was found
  1   none was
";

/// Look at running jobs: who waits, for whom, since when.
#[derive(Args)]
#[command(after_help = DETAILS)]
pub struct Options {
    /// One job: the pid of one of its ranks, or the beginning of its number [default: all of this user's]
    #[arg(value_parser = parse_job)]
    job: Option<String>,
    /// Look again each second, until the job has ended
    #[arg(long)]
    watch: bool,
    /// One JSON object for each job instead of the page
    #[arg(long)]
    json: bool,
}

/// Takes a pid or the beginning of a job's number, whose 16 digits are hexadecimal.
fn parse_job(text: &str) -> Result<String, String> {
    let may_be = (1..=16).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    may_be.then(|| text.to_owned()).ok_or_else(|| {
        "give the pid of a rank, or the beginning of a job's number (of up to 16 hexadecimal digits)".to_owned()
    })
}

/// Looks, and prints what it has seen.
pub fn main(options: &Options) -> ExitCode {
    match if options.watch { watch(options) } else { look_once(options) } {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads only the first lines has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("phalanx inspect: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn nothing_found(job: Option<&str>) -> String {
    match job {
        Some(job) => format!(
            "no running job of this user has a rank with pid {job}, or a number that begins with {job} (`phalanx inspect` shows all)"
        ),
        None => "no job of this user runs on this machine".to_owned(),
    }
}

/// Whether there was something to see.
fn look_once(options: &Options) -> io::Result<bool> {
    let (jobs, complaints) = look(options.job.as_deref());
    complaints.iter().for_each(|complaint| eprintln!("phalanx inspect: {complaint}"));
    if jobs.is_empty() && complaints.is_empty() {
        eprintln!("phalanx inspect: {}", nothing_found(options.job.as_deref()));
    }
    print(&render(&jobs, options.json))?;
    Ok(!jobs.is_empty())
}

/// Looks until there is nothing to see any more.
fn watch(options: &Options) -> io::Result<bool> {
    let is_screen = io::stdout().is_terminal() && !options.json;
    let mut told = BTreeSet::new();
    let mut has_seen = false;
    loop {
        let (jobs, complaints) = look(options.job.as_deref());
        for complaint in complaints {
            if told.insert(complaint.clone()) {
                eprintln!("phalanx inspect: {complaint}");
            }
        }
        if jobs.is_empty() {
            if !has_seen && told.is_empty() {
                eprintln!("phalanx inspect: {}", nothing_found(options.job.as_deref()));
            }
            return Ok(has_seen);
        }
        let before = match (is_screen, has_seen && !options.json) {
            (true, _) => CLEAR,
            // A page follows a page.
            (false, true) => "\n",
            (false, false) => "",
        };
        print(&format!("{before}{}", render(&jobs, options.json)))?;
        has_seen = true;
        std::thread::sleep(PERIOD);
    }
}

/// The jobs that are wanted, and what is to be said of those that could not be read.
fn look(wanted: Option<&str>) -> (Vec<Job>, Vec<String>) {
    let (nodes, unreadable) = view::read(segments::all());
    let jobs = view::jobs(nodes).into_iter().filter(|job| wanted.is_none_or(|wanted| job.is_called(wanted)));
    let unreadable = unreadable.iter().filter(|job| wanted.is_none_or(|wanted| job.is_called(wanted)));
    (jobs.collect(), unreadable.map(page::complaint).collect())
}

fn render(jobs: &[Job], is_json: bool) -> String {
    if is_json { page::json_lines(jobs) } else { page::page(jobs) }
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())
}

#[cfg(test)]
mod tests {
    use phalanx::ObjectKind;

    use super::DETAILS;

    #[test]
    fn the_help_names_every_kind_as_the_output_does() {
        let kinds: Vec<ObjectKind> = (1..).map_while(ObjectKind::from_number).collect();
        assert!(kinds.len() >= 8, "{kinds:?}");
        for kind in kinds {
            assert!(DETAILS.contains(&format!("\"{}\"", kind.name())), "{}", kind.name());
        }
    }
}
