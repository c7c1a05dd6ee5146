//! The launcher's vote: a job of two nodes under `phalanx run`, with this program as the ranks.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;
use phalanx::BarrierError;

use crate::harness::{Job, phalanx, send};

const TEST: &str = "witness::of_two_nodes_the_one_that_is_stopped_is_given_up_by_the_other_and_the_launcher";
const ROLE: &str = "WITNESS_ROLE";

fn say(text: &str) {
    println!("\nSAYS {text}");
    std::io::stdout().flush().expect("somebody reads");
}

/// A rank that meets the other one until that fails, and then goes on alone.
fn be_a_rank() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    job.world().barrier().expect("both are there");
    say(&format!("{} is {}", job.rank(), std::process::id()));
    let error = (0..).find_map(|_| job.world().barrier().err()).expect("some barrier fails");
    match &error {
        BarrierError::RankFailed { ranks, .. } => {
            let rest = job.world().shrink(Duration::from_secs(60)).expect("one is left");
            rest.barrier().expect("it is alone");
            say(&format!("{} has lost {ranks:?} and goes on with {:?}", job.rank(), rest.ranks()));
        }
        other => say(&format!("{} {other:?}", job.rank())),
    }
}

/// The next line that a rank says.
fn heard(job: &mut Job) -> String {
    loop {
        let line = job.line();
        if let Some((_, said)) = line.split_once("SAYS ") {
            return said.to_owned();
        }
    }
}

#[test]
fn of_two_nodes_the_one_that_is_stopped_is_given_up_by_the_other_and_the_launcher() {
    if std::env::var(ROLE).is_ok() {
        return be_a_rank();
    }
    for (lost, left) in [(1, 0), (0, 1)] {
        let mut command = phalanx(&["run", "-n", "2", "--nodes", "2", "--"]);
        command.arg(std::env::current_exe().expect("a program has a path"));
        command.args([TEST, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, "rank");
        let mut job = Job::spawn(&mut command);
        let mut pids = BTreeMap::new();
        while pids.len() < 2 {
            let said = heard(&mut job);
            let (rank, pid) = said.split_once(" is ").unwrap_or_else(|| panic!("{said}"));
            pids.insert(rank.parse::<usize>().expect("a rank"), pid.parse::<i32>().expect("a pid"));
        }
        send(pids[&lost], Signal::SIGSTOP);
        assert_eq!(heard(&mut job), format!("{left} has lost [{lost}] and goes on with [{left}]"));
        let line = job.error_line();
        let begin = format!("phalanx run: rank {lost} (pid {}) was declared failed: ", pids[&lost]);
        assert!(line.starts_with(&begin), "{line}");
        assert_eq!(job.finish().code(), 128 + 9);
    }
}
