//! What is told of a rank of a Phalanx job that dies: this program as the ranks.

use std::collections::BTreeMap;
use std::io::Write;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Job, eventually, phalanx, send};

const ROLE: &str = "LAST_WORDS_ROLE";
/// Barriers that the ranks pass.
const ROUNDS: u64 = 40;

/// A rank that passes some barriers with the others; then the last rank computes, and the others wait for it in the next.
/// Whoever's wait fails stays, as one that has much to put in order does.
fn be_a_rank() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    println!("RANK {} {}", job.rank(), std::process::id());
    std::io::stdout().flush().expect("somebody reads");
    for _ in 0..ROUNDS {
        job.world().barrier().expect("nobody has died");
    }
    if job.rank() < job.size() - 1 {
        let _ = job.world().barrier();
    }
    loop {
        std::thread::park();
    }
}

/// A job of such ranks, and their processes.
fn start(test: &str, ranks: usize, options: &[&str]) -> (Job, BTreeMap<usize, i32>) {
    let mut command = phalanx(&["run", "-n", &ranks.to_string()]);
    command.args(options).arg("--").arg(std::env::current_exe().expect("a program has a path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, test);
    // On a busy machine a node may be silent for a while, and is not to be given up for that.
    command.env("PHALANX_FAILURE_TIMEOUT_MS", "600000");
    let mut job = Job::spawn(&mut command);
    let mut pids = BTreeMap::new();
    while pids.len() < ranks {
        // The test runner may have begun the line.
        let line = job.line();
        let Some((_, facts)) = line.split_once("RANK ") else { continue };
        let (rank, pid) = facts.split_once(' ').expect("two numbers");
        pids.insert(rank.parse().expect("a rank"), pid.parse().expect("a pid"));
    }
    (job, pids)
}

/// Waits until so many ranks wait in the last barrier, for so long that it has been noted.
fn await_waiting(pid: i32, count: usize) {
    eventually("ranks wait in the last barrier", || {
        let seen = phalanx(&["inspect", "--json", &pid.to_string()]).output().expect("start phalanx inspect");
        let record: Value = serde_json::from_slice(&seen.stdout).unwrap_or_default();
        let ranks = record["ranks"].as_array().cloned().unwrap_or_default();
        let is_there = |rank: &&Value| rank["call"]["inside"] == true && rank["call"]["sequence"] == ROUNDS + 1;
        ranks.iter().filter(is_there).count() == count
    });
}

/// Kills a rank of a job in which the others wait for the last one, and gives what is said of it.
fn killed(test: &str, ranks: usize, options: &[&str], victim: usize) -> String {
    if std::env::var(ROLE).is_ok_and(|role| role == test) {
        be_a_rank();
    }
    let (mut job, pids) = start(test, ranks, options);
    await_waiting(pids[&0], ranks - 1);
    send(pids[&victim], Signal::SIGKILL);
    let line = job.error_line();
    let head = format!("phalanx run: rank {victim} (pid {}) was killed by signal 9 (SIGKILL)", pids[&victim]);
    let clause = line.strip_prefix(&head).unwrap_or_else(|| panic!("{line:?}")).to_owned();
    let outcome = job.finish();
    assert_eq!(outcome.code(), 128 + 9, "{outcome:?}");
    // It is the only line of the launcher's; ranks may have written something.
    assert!(!outcome.stderr.contains("phalanx run: rank"), "{outcome:?}");
    clause
}

#[test]
fn a_dead_rank_is_told_of_with_where_it_was_and_who_waits_for_it() {
    const TEST: &str = "last_words::a_dead_rank_is_told_of_with_where_it_was_and_who_waits_for_it";
    let clause = killed(TEST, 4, &[], 3);
    assert_eq!(clause, " in its application code, last seen at barrier 40 of group 0; ranks 0-2 wait for it");
}

#[test]
fn ranks_of_pretended_nodes_wait_for_it_too() {
    const TEST: &str = "last_words::ranks_of_pretended_nodes_wait_for_it_too";
    let clause = killed(TEST, 4, &["--nodes", "2"], 3);
    assert_eq!(clause, " in its application code, last seen at barrier 40 of group 0; ranks 0-2 wait for it");
}

#[test]
fn one_that_waited_itself_is_told_of_with_whom_it_waited_for() {
    const TEST: &str = "last_words::one_that_waited_itself_is_told_of_with_whom_it_waited_for";
    let clause = killed(TEST, 3, &[], 1);
    let span = clause.strip_prefix(" while it waited in barrier 41 of group 0 for ");
    let span = span.and_then(|rest| rest.strip_suffix(" s, for rank 2")).unwrap_or_else(|| panic!("{clause:?}"));
    assert!(span.parse::<f64>().is_ok(), "{clause:?}");
}

#[test]
fn where_nobody_is_left_on_its_node_nothing_more_is_told() {
    const TEST: &str = "last_words::where_nobody_is_left_on_its_node_nothing_more_is_told";
    assert_eq!(killed(TEST, 2, &["--nodes", "2"], 1), "");
}
