//! How a job ends: statuses, messages, and what becomes of the other ranks.

use nix::sys::signal::Signal;

use crate::harness::{Job, Outcome, eventually, is_alive, phalanx, run, send, state};

#[test]
fn a_job_whose_ranks_succeed_succeeds_silently() {
    let outcome = run(4, &[], "exit 0");
    assert_eq!(outcome.code(), 0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
}

#[test]
fn a_failed_rank_is_named_and_ends_the_others() {
    let outcome = run(3, &[], "echo $$; if test $PHALANX_RANK = 1; then exit 42; fi; exec sleep 1000");
    assert_eq!(outcome.code(), 42);
    let message = outcome.stderr.strip_suffix('\n').expect("a line");
    let pid =
        message.strip_prefix("phalanx run: rank 1 (pid ").and_then(|rest| rest.strip_suffix(") exited with status 42"));
    let pid = pid.unwrap_or_else(|| panic!("{message:?}"));
    assert!(outcome.stdout.lines().any(|line| line == pid), "{outcome:?}");
    // Only one message: that the others were ended is no news.
    assert_eq!(outcome.stderr.lines().count(), 1);
    for pid in outcome.stdout.lines() {
        assert!(!is_alive(pid.parse().expect("a pid")));
    }
}

#[test]
fn a_rank_killed_by_a_signal_counts_128_more() {
    let outcome = run(2, &[], "test $PHALANX_RANK = 0 && kill -9 $$; exec sleep 1000");
    assert_eq!(outcome.code(), 137);
    assert!(outcome.stderr.starts_with("phalanx run: rank 0 (pid "), "{outcome:?}");
    assert!(outcome.stderr.ends_with(") was killed by signal 9 (SIGKILL)\n"), "{outcome:?}");
}

#[test]
fn a_signal_without_a_name_is_a_death_too() {
    let outcome = run(1, &[], "kill -40 $$");
    assert_eq!(outcome.code(), 168);
    assert!(outcome.stderr.ends_with(") was killed by signal 40\n"), "{outcome:?}");
}

#[test]
fn a_ranks_last_words_come_before_the_message_about_its_end() {
    let outcome = run(1, &["--tag-output"], "echo last words >&2; exit 3");
    assert!(outcome.stderr.starts_with("[0] last words\nphalanx run: rank 0 "), "{outcome:?}");
}

#[test]
fn the_first_to_die_is_blamed_and_not_the_first_by_number() {
    let mut job = Job::start(3, &[], "echo $PHALANX_RANK $$; exec sleep 1000");
    let mut lines = job.lines(3);
    lines.sort_unstable();
    let pids: Vec<i32> = lines.iter().map(|line| line[2..].parse().expect("a pid")).collect();
    // A supervisor that sees both deaths at once still has to tell which came first.
    send(job.supervisor(), Signal::SIGSTOP);
    eventually("the supervisor stops", || state(job.supervisor()).is_some_and(|(state, _)| state == 'T'));
    for (rank, signal) in [(2, Signal::SIGKILL), (0, Signal::SIGTERM)] {
        send(pids[rank], signal);
        eventually("the rank dies", || !is_alive(pids[rank]));
    }
    send(job.supervisor(), Signal::SIGCONT);
    let outcome = job.finish();
    assert_eq!(outcome.code(), 137);
    assert!(outcome.stderr.starts_with("phalanx run: rank 2 "), "{outcome:?}");
}

/// Two ranks that are ready before rank 0 fails: the other one answers SIGTERM with `answer`.
fn fail_beside(answer: &str) -> Outcome {
    let script = format!(
        "
        trap '{answer}' TERM
        if test $PHALANX_RANK = 0; then trap 'exit 2' USR1; else trap '' USR1; fi
        echo ready
        while :; do sleep 0.01; done"
    );
    let mut job = Job::start(2, &[], &script);
    assert_eq!(job.lines(2), ["ready"; 2]);
    job.send(Signal::SIGUSR1);
    job.finish()
}

#[test]
fn the_others_are_asked_to_end() {
    let outcome = fail_beside("echo asked; exit 0");
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (2, "asked\n"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

#[test]
fn a_rank_that_will_not_end_is_killed_and_named() {
    let outcome = fail_beside("");
    assert_eq!(outcome.code(), 2);
    assert!(outcome.stderr.ends_with("phalanx run: did not end when asked to, killed: rank 1\n"), "{outcome:?}");
}

#[test]
fn keep_going_lets_the_others_finish() {
    let script = "
        case $PHALANX_RANK in
            0) trap 'echo finished; exit 0' USR1; echo $$; while :; do sleep 0.01; done ;;
            *) exit $((10 + PHALANX_RANK)) ;;
        esac";
    let mut job = Job::start(3, &["--keep-going"], script);
    let pid: i32 = job.line().parse().expect("a pid");
    // Both failures are reported, and only then may rank 0 finish.
    let messages = [job.error_line(), job.error_line()];
    assert!(is_alive(pid));
    send(pid, Signal::SIGUSR1);
    let outcome = job.finish();
    let first = if messages[0].contains("rank 1 ") { 11 } else { 12 };
    assert_eq!(outcome.code(), first, "{messages:?}");
    assert_eq!(outcome.stdout, "finished\n");
}

#[test]
fn a_time_out_names_the_ranks_that_still_run() {
    let outcome = run(4, &["--timeout", "2s"], "test $PHALANX_RANK = 1 && exit 0; exec sleep 1000");
    assert_eq!(outcome.code(), 124);
    assert_eq!(outcome.stderr, "phalanx run: the job's time is over (--timeout); still running: ranks 0, 2, 3\n");
}

#[test]
fn what_ranks_leave_behind_ends_with_the_job() {
    let outcome = run(2, &[], "sleep 1000 >/dev/null 2>&1 & echo $!; setsid sleep 1000 & echo $!");
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 4);
    for pid in outcome.stdout.lines() {
        let pid = pid.parse().expect("a pid");
        eventually("the straggler is gone", || !is_alive(pid));
    }
}

#[test]
fn a_program_that_is_not_there_is_127() {
    let outcome = Job::spawn(&mut phalanx(&["run", "-n", "2", "--", "no-such-program-anywhere"])).finish();
    assert_eq!(outcome.code(), 127);
    assert!(outcome.stderr.starts_with("phalanx run: cannot start `no-such-program-anywhere`"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1);
}

#[test]
fn a_program_that_is_no_program_is_126() {
    for program in ["/dev/null", "/"] {
        let outcome = Job::spawn(&mut phalanx(&["run", "-n", "2", "--", program])).finish();
        assert_eq!(outcome.code(), 126, "{outcome:?}");
        assert!(outcome.stderr.contains(&format!("cannot start `{program}`")), "{outcome:?}");
    }
}
