//! The ranks' output: whole lines, tags, bytes, and readers that are slow or gone.

use std::collections::HashMap;
use std::fs::{self, File};

use nix::sys::signal::Signal;

use crate::harness::{Job, eventually, phalanx, run, state};

#[test]
fn tags_name_the_rank_on_both_streams() {
    let outcome = run(2, &["--tag-output"], "echo out $PHALANX_RANK; echo err $PHALANX_RANK >&2; printf open");
    assert_eq!(outcome.sorted_lines(), ["[0] open", "[0] out 0", "[1] open", "[1] out 1"]);
    let mut errors: Vec<&str> = outcome.stderr.lines().collect();
    errors.sort_unstable();
    assert_eq!(errors, ["[0] err 0", "[1] err 1"]);
    assert!(outcome.stdout.ends_with('\n'));
}

#[test]
fn lines_of_many_ranks_are_never_torn() {
    const RANKS: usize = 8;
    const LINES: usize = 150;
    // Longer than a pipe's atomic write, and of a length that no buffer's size is a multiple of.
    let script = format!(
        "line=$(printf %07001d $PHALANX_RANK); yes $line | head -n {LINES} >&2 & yes $line | head -n {LINES}; wait"
    );
    let outcome = run(RANKS, &["--tag-output"], &script);
    assert_eq!(outcome.code(), 0);
    for stream in [&outcome.stdout, &outcome.stderr] {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for line in stream.lines() {
            *counts.entry(line).or_default() += 1;
        }
        let expected: Vec<String> = (0..RANKS).map(|rank| format!("[{rank}] {rank:07001}")).collect();
        assert_eq!(counts.len(), RANKS, "some lines are torn");
        assert!(expected.iter().all(|line| counts[line.as_str()] == LINES));
    }
}

#[test]
fn an_unfinished_line_is_finished_for_another_rank_only() {
    assert_eq!(run(1, &[], "printf alone").stdout, "alone");
    let outcome = run(3, &[], "printf open");
    assert_eq!(outcome.stdout, "open\nopen\nopen");
}

#[test]
fn bytes_and_long_lines_pass_unchanged() {
    // 3 MB without a newline, then bytes that are no UTF-8, then no newline at the end.
    let script = r"head -c 3000000 /dev/zero; printf '\377\n\376'";
    let (status, bytes, _) = Job::start(1, &[], script).finish_bytes();
    assert!(status.success());
    assert_eq!(bytes.len(), 3_000_003);
    assert!(bytes[..3_000_000].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[3_000_000..], [0xff, b'\n', 0xfe]);
}

#[test]
fn a_reader_that_leaves_ends_the_job_quietly() {
    let mut job = Job::start(2, &[], "test $PHALANX_RANK = 0 && exec yes; exec sleep 1000");
    assert_eq!(job.line(), "y");
    job.close_stdout();
    let outcome = job.finish();
    assert_eq!(outcome.code(), 141);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_full_disk_is_named() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = phalanx(&["run", "-n", "1", "--", "echo", "lost"]).stdout(full).output().expect("run the launcher");
    assert_eq!(output.status.code(), Some(125));
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(stderr.starts_with("phalanx run: cannot write to stdout: no storage space"), "{stderr}");
}

/// A job whose rank 0 has filled everything between itself and the test, which does not read.
fn stuffed_job() -> Job {
    let script = "echo $$ >&2; test $PHALANX_RANK = 0 && exec yes; trap 'exit 7' USR1; while :; do sleep 0.01; done";
    let mut job = Job::start(2, &["--tag-output"], script);
    let announced = [job.error_line(), job.error_line()];
    let writer = announced.iter().find_map(|line| line.strip_prefix("[0] ")).expect("rank 0 announces itself");
    let writer: i32 = writer.parse().expect("a pid");
    // Asleep in its write for many looks in a row, and not just until the supervisor's next turn.
    let mut looks = 0;
    let mut written = None;
    eventually("rank 0 is stuck", || {
        let io = fs::read_to_string(format!("/proc/{writer}/io")).expect("rank 0 runs");
        let now = io.lines().find_map(|line| line.strip_prefix("wchar: ")).map(str::to_owned);
        let asleep = state(writer).is_some_and(|(state, _)| state == 'S');
        looks = if asleep && now == written { looks + 1 } else { 0 };
        written = now;
        looks > 50
    });
    job
}

#[test]
fn a_sleeping_reader_costs_no_memory_and_hides_no_death() {
    let mut job = stuffed_job();
    let status = fs::read_to_string(format!("/proc/{}/status", job.supervisor())).expect("the supervisor's status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 32 << 10, "the supervisor has grown to {kilobytes} kB");
    // Rank 0 dies of it, blocked as it is.
    job.send(Signal::SIGUSR1);
    let message = job.error_line();
    assert!(message.starts_with("phalanx run: rank "), "{message}");
    // All that was written before the end is still there to be read.
    let outcome = job.finish();
    assert!(matches!(outcome.code(), 7 | 138), "{}", outcome.status);
    assert!(outcome.stdout.lines().count() > 100_000);
    assert!(outcome.stdout.lines().all(|line| line == "[0] y" || line == "[0] "));
}

#[test]
fn a_sleeping_reader_does_not_keep_a_job_that_was_told_to_end() {
    let mut job = stuffed_job();
    job.send(Signal::SIGTERM);
    assert_eq!(job.wait().code(), Some(143));
}
