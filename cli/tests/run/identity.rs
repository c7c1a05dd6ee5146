//! What each rank is given: its environment, its stdin, its CPU.

use std::collections::HashSet;
use std::io::Write;
use std::process::Stdio;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::harness::{Job, phalanx, run};

#[test]
fn every_rank_has_its_identity() {
    let outcome = run(
        3,
        &[],
        "echo $PHALANX_RANK $PHALANX_SIZE $PHALANX_LOCAL_RANK $PHALANX_LOCAL_SIZE $PHALANX_BOOTSTRAP $PHALANX_KEY",
    );
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    let lines = outcome.sorted_lines();
    assert_eq!(lines.len(), 3);
    for (rank, line) in lines.iter().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields[..4], [&rank.to_string(), "3", &rank.to_string(), "3"]);
    }
    let shared: HashSet<&str> = lines.iter().map(|line| line.splitn(5, ' ').nth(4).expect("five fields")).collect();
    assert_eq!(shared.len(), 1, "all ranks have one bootstrap and one key");
}

#[test]
fn bootstrap_and_key_are_random_and_well_formed() {
    let identity = || {
        let outcome = run(1, &[], "echo $PHALANX_BOOTSTRAP $PHALANX_KEY");
        let (bootstrap, key) = outcome.stdout.trim().split_once(' ').expect("two words");
        (bootstrap.to_owned(), key.to_owned())
    };
    let (first, second) = (identity(), identity());
    let name = first.0.strip_prefix("unix:phalanx-").expect("an abstract socket");
    for (hex, digits) in [(name, 32), (&first.1, 64)] {
        assert_eq!(hex.len(), digits);
        assert!(hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hex}");
    }
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn an_outer_jobs_identity_is_replaced_and_options_pass() {
    let mut command =
        phalanx(&["run", "-n", "1", "--", "sh", "-c", "echo $PHALANX_RANK $PHALANX_SIZE $PHALANX_WAIT $PHALANX_KEY"]);
    command.env("PHALANX_RANK", "7").env("PHALANX_SIZE", "9").env("PHALANX_KEY", "stale").env("PHALANX_WAIT", "park");
    let outcome = Job::spawn(&mut command).finish();
    assert!(outcome.stdout.starts_with("0 1 park "), "{outcome:?}");
    assert!(!outcome.stdout.contains("stale"), "{outcome:?}");
}

#[test]
fn the_tcp_engine_is_passed_on() {
    let told = |arguments: &[&str]| {
        let all = [&["run", "-n", "1"], arguments, &["--", "sh", "-c", "echo ${PHALANX_TCP_ENGINE-none}"]].concat();
        Job::spawn(phalanx(&all).env("PHALANX_TCP_ENGINE", "sockets")).finish()
    };
    assert_eq!(told(&["--tcp-engine", "io-uring"]).stdout, "io-uring\n");
    assert_eq!(told(&[]).stdout, "sockets\n");
    assert!(told(&["--tcp-engine", "epoll"]).stderr.contains("none of auto, sockets, io-uring"));
}

#[test]
fn only_rank_0_has_the_launchers_stdin() {
    let arguments = ["run", "-n", "3", "--tag-output", "--", "sh", "-c", "cat; echo end"];
    let mut command = phalanx(&arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the launcher");
    child.stdin.take().expect("piped").write_all(b"hello\n").expect("write to rank 0");
    let output = child.wait_with_output().expect("wait for the launcher");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] end", "[0] hello", "[1] end", "[2] end"]);
}

/// The CPUs that this test, and so the launcher, may use.
fn usable_cpus() -> Vec<usize> {
    let mask = sched_getaffinity(None).expect("this process's CPUs");
    (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect()
}

/// What each rank may use, as the kernel writes it, in order of ranks.
fn masks(ranks: usize, options: &[&str]) -> Vec<String> {
    let script = "echo $PHALANX_RANK $(grep Cpus_allowed_list /proc/self/status)";
    let outcome = run(ranks, options, script);
    let mut masks: Vec<(usize, String)> = outcome.stdout.lines().map(parse_mask).collect();
    masks.sort_unstable();
    assert_eq!(masks.len(), ranks, "{outcome:?}");
    masks.into_iter().map(|(_, mask)| mask).collect()
}

fn parse_mask(line: &str) -> (usize, String) {
    let fields: Vec<&str> = line.split(' ').collect();
    (fields[0].parse().expect("a rank"), fields[2].to_owned())
}

#[test]
fn bind_core_goes_round_the_usable_cpus() {
    let cpus = usable_cpus();
    let ranks = cpus.len() + 1;
    let expected: Vec<String> = (0..ranks).map(|rank| cpus[rank % cpus.len()].to_string()).collect();
    assert_eq!(masks(ranks, &["--bind", "core"]), expected);
}

#[test]
fn bind_none_leaves_ranks_where_the_launcher_is() {
    let own = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a mask").trim();
    assert_eq!(masks(1, &["--bind", "none"]), [own]);
    // More ranks than CPUs are not pinned by default.
    assert_eq!(masks(usable_cpus().len() + 1, &[]), vec![own; usable_cpus().len() + 1]);
}

#[test]
fn ranks_that_fit_are_pinned_by_default() {
    assert_eq!(masks(1, &[]), [usable_cpus()[0].to_string()]);
}
