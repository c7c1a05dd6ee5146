//! What is told of a rank of a Phalanx job that dies: this program as the ranks.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Job, eventually, is_alive, phalanx, send, state};

const ROLE: &str = "LAST_WORDS_ROLE";
/// In the environment: what whoever's wait fails does, `leave` at once or `shrink` and then leave. Without it, it
/// stays, as one that has much to put in order does.
const THEN: &str = "LAST_WORDS_THEN";
/// Barriers that the ranks pass.
const ROUNDS: u64 = 40;

/// A rank that passes some barriers with the others; then the last rank computes, and the others wait for it in the
/// next.
fn be_a_rank() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    println!("RANK {} {}", job.rank(), std::process::id());
    std::io::stdout().flush().expect("somebody reads");
    for _ in 0..ROUNDS {
        job.world().barrier().expect("nobody has died");
    }
    if job.rank() < job.size() - 1 {
        let _ = job.world().barrier();
        match std::env::var(THEN).as_deref() {
            Ok("leave") => return,
            Ok("shrink") => {
                job.world().shrink(Duration::from_secs(60)).expect("the others live").barrier().expect("they meet");
                return;
            }
            _ => {}
        }
    }
    loop {
        std::thread::park();
    }
}

/// A job of such ranks, and their processes.
fn start(test: &str, ranks: usize, options: &[&str], variables: &[(&str, &str)]) -> (Job, BTreeMap<usize, i32>) {
    let mut command = phalanx(&["run", "-n", &ranks.to_string()]);
    command.args(options).arg("--").arg(std::env::current_exe().expect("a program has a path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, test);
    // On a busy machine a node may be silent for a while, and is not to be given up for that.
    command.env("PHALANX_FAILURE_TIMEOUT_MS", "600000").envs(variables.iter().copied());
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

/// Waits until the launcher has found the memory of so many nodes, as it does soon, and keeps it: it sleeps then. While
/// it looks for some it has memory mapped that it may find not to be what it wants yet.
fn await_found(job: &Job, nodes: usize) {
    let supervisor = job.supervisor();
    eventually("the launcher finds the job's memory", || {
        let before = sleeps_for(supervisor);
        let maps = std::fs::read_to_string(format!("/proc/{supervisor}/maps")).unwrap_or_default();
        let found = maps.lines().filter(|line| line.contains("memfd:phalanx")).count();
        found == nodes && before.is_some() && before == sleeps_for(supervisor)
    });
}

/// The how many-th time a process sleeps, if it does.
fn sleeps_for(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if !field("State")?.starts_with('S') {
        return None;
    }
    field("voluntary_ctxt_switches")?.parse().ok()
}

/// Kills a rank of a job in which the others wait for the last one, and gives what is said of it.
fn killed(test: &str, ranks: usize, options: &[&str], victim: usize) -> String {
    if std::env::var(ROLE).is_ok_and(|role| role == test) {
        be_a_rank();
    }
    let (mut job, pids) = start(test, ranks, options, &[]);
    await_waiting(pids[&0], ranks - 1);
    await_found(&job, if options.is_empty() { 1 } else { 2 });
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
    assert_eq!(clause, " in its application code, last seen at barrier 40 of group 0; ranks 0-2 waited for it");
}

#[test]
fn ranks_of_pretended_nodes_wait_for_it_too() {
    const TEST: &str = "last_words::ranks_of_pretended_nodes_wait_for_it_too";
    let clause = killed(TEST, 4, &["--nodes", "2"], 3);
    assert_eq!(clause, " in its application code, last seen at barrier 40 of group 0; ranks 0-2 waited for it");
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
fn one_of_whose_node_nobody_is_left_is_told_of() {
    const TEST: &str = "last_words::one_of_whose_node_nobody_is_left_is_told_of";
    let clause = killed(TEST, 2, &["--nodes", "2"], 1);
    assert_eq!(clause, " in its application code, last seen at barrier 40 of group 0; rank 0 waited for it");
}

#[test]
fn survivors_that_are_gone_when_the_launcher_looks_are_told_of() {
    const TEST: &str = "last_words::survivors_that_are_gone_when_the_launcher_looks_are_told_of";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    let (mut job, pids) = start(TEST, 3, &[], &[(THEN, "leave")]);
    await_waiting(pids[&0], 2);
    await_found(&job, 1);
    let supervisor = job.supervisor();
    send(supervisor, Signal::SIGSTOP);
    eventually("the supervisor stops", || state(supervisor).is_some_and(|(state, _)| state == 'T'));
    send(pids[&2], Signal::SIGKILL);
    eventually("all ranks end", || pids.values().all(|pid| !is_alive(*pid)));
    send(supervisor, Signal::SIGCONT);
    let line = job.error_line();
    let end = " in its application code, last seen at barrier 40 of group 0; ranks 0, 1 waited for it";
    assert!(line.starts_with("phalanx run: rank 2 ") && line.ends_with(end), "{line}");
    assert_eq!(job.finish().code(), 128 + 9);
}

/// Stops the last rank of a job for good; the job and its processes when the launcher has said what it must.
fn given_up(test: &str, options: &[&str]) -> (Job, BTreeMap<usize, i32>) {
    let variables = [(THEN, "shrink"), ("PHALANX_FAILURE_TIMEOUT_MS", "300")];
    let (mut job, pids) = start(test, 3, options, &variables);
    await_waiting(pids[&0], 2);
    send(pids[&2], Signal::SIGSTOP);
    let line = job.error_line();
    let begin = format!("phalanx run: rank 2 (pid {}) was declared failed: was stopped for longer than the", pids[&2]);
    assert!(line.starts_with(&begin) && line.contains(", last seen at barrier 40 of group 0"), "{line}");
    (job, pids)
}

#[test]
fn a_rank_that_lives_and_was_given_up_by_the_others_ends_the_job() {
    const TEST: &str = "last_words::a_rank_that_lives_and_was_given_up_by_the_others_ends_the_job";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    let (job, pids) = given_up(TEST, &[]);
    let outcome = job.finish();
    assert_eq!(outcome.code(), 128 + 9, "{outcome:?}");
    assert!(pids.values().all(|pid| !is_alive(*pid)));
}

#[test]
fn when_the_others_go_on_without_it_it_is_killed() {
    const TEST: &str = "last_words::when_the_others_go_on_without_it_it_is_killed";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    let (job, pids) = given_up(TEST, &["--keep-going"]);
    eventually("it is killed", || !is_alive(pids[&2]));
    let outcome = job.finish();
    assert_eq!((outcome.code(), &*outcome.stderr), (128 + 9, ""), "nothing more is said");
}
