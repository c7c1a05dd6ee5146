//! Signals: from a process, which the launcher forwards, and from a terminal, which the ranks have already.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{Job, eventually, phalanx, send, state, undisturbed};

/// Prints `ready`, and then what it is sent. Only TERM ends it.
const LISTENER: &str = "
    for signal in INT HUP QUIT USR1 USR2; do trap \"echo $signal\" $signal; done
    trap 'echo TERM; exit 0' TERM
    echo ready
    while :; do sleep 0.01; done";

#[test]
fn user_signals_reach_every_rank_and_end_nothing() {
    let mut job = Job::start(3, &[], LISTENER);
    job.lines(3);
    for (signal, name) in [(Signal::SIGUSR1, "USR1"), (Signal::SIGUSR2, "USR2")] {
        job.send(signal);
        assert_eq!(job.lines(3), [name; 3]);
    }
    job.send(Signal::SIGTERM);
    let outcome = job.finish();
    // Every rank took SIGTERM as a wish to finish, and finished well.
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (0, "TERM\nTERM\nTERM\n"), "{outcome:?}");
}

#[test]
fn a_job_ended_by_a_signal_says_so_in_its_status() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut job = Job::start(2, &[], "echo ready; exec sleep 1000");
        job.lines(2);
        job.send(signal);
        let outcome = job.finish();
        assert_eq!(outcome.code(), 128 + signal as i32, "{signal}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{signal}");
    }
}

#[test]
fn a_rank_that_ignores_the_signal_is_killed() {
    let mut job = Job::start(2, &[], "test $PHALANX_RANK = 1 && trap '' INT; echo ready; exec sleep 1000");
    job.lines(2);
    job.send(Signal::SIGINT);
    let outcome = job.finish();
    assert_eq!(outcome.code(), 130);
    assert_eq!(outcome.stderr, "phalanx run: did not end when asked to, killed: rank 1\n");
}

#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored() {
    let script = "trap '' HUP; exec \"$0\" run -n 1 -- sh -c 'trap \"echo USR1; exit 0\" USR1; echo ready; while :; do sleep 0.01; done'";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_phalanx")]).stdin(Stdio::null());
    let mut job = Job::spawn(&mut command);
    assert_eq!(job.line(), "ready");
    job.send(Signal::SIGHUP);
    job.send(Signal::SIGUSR1);
    let outcome = job.finish();
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (0, "USR1\n"), "{outcome:?}");
}

#[test]
fn stop_and_continue_reach_the_ranks_and_the_launcher() {
    let mut job = Job::start(1, &[], "echo $$; exec sleep 1000");
    let rank: i32 = job.line().parse().expect("a pid");
    let is_stopped = |pid| state(pid).is_some_and(|(state, _)| state == 'T');
    // The test's process group may be an orphaned one, in which SIGTSTP stops nobody: SIGSTOP for the rank's part.
    job.send(Signal::SIGSTOP);
    eventually("the launcher stops", || is_stopped(job.pid()));
    send(rank, Signal::SIGSTOP);
    eventually("the rank stops", || is_stopped(rank));
    job.send(Signal::SIGCONT);
    eventually("both go on", || !is_stopped(job.pid()) && !is_stopped(rank));
    job.send(Signal::SIGTERM);
    assert_eq!(job.finish().code(), 143);
}

/// A terminal of the test's own, with the launcher as the leader of its session.
fn start_on_terminal(script: &str) -> (Job, File, BufReader<File>) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("a terminal of our own");
    unlockpt(&master).expect("an open terminal");
    let name = ptsname(&master, Vec::new()).expect("a terminal's name").into_string().expect("UTF-8");
    let terminal = File::options().read(true).write(true).open(name).expect("open the terminal");
    let mut command = undisturbed();
    command.args([
        "setsid",
        "--ctty",
        env!("CARGO_BIN_EXE_phalanx"),
        "run",
        "-n",
        "2",
        "--timeout",
        "60s",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.stdin(terminal);
    let master = File::from(master);
    let screen = BufReader::new(master.try_clone().expect("a second handle"));
    (Job::spawn(&mut command), master, screen)
}

#[test]
fn ctrl_c_reaches_each_rank_once() {
    // A trap that runs twice would print twice. The second line of each rank proves that the first was not followed
    // by another of its kind.
    let script = "
        trap 'echo INT' INT; trap 'echo USR1; exit 3' USR1; echo ready
        while :; do sleep 0.01; done";
    let (mut job, mut keyboard, _screen) = start_on_terminal(script);
    assert_eq!(job.lines(2), ["ready"; 2]);
    keyboard.write_all(b"\x03").expect("press Ctrl-C");
    assert_eq!(job.lines(2), ["INT"; 2]);
    job.send(Signal::SIGUSR1);
    let outcome = job.finish();
    assert_eq!(outcome.stdout, "USR1\nUSR1\n");
    assert_eq!(outcome.code(), 130, "{outcome:?}");
}

#[test]
fn rank_0_reads_from_the_terminal() {
    let script = "if test $PHALANX_RANK = 0; then read word; echo got $word; fi";
    let (mut job, mut keyboard, mut screen) = start_on_terminal(script);
    keyboard.write_all(b"hello\n").expect("type a line");
    assert_eq!(job.line(), "got hello");
    assert_eq!(job.finish().code(), 0);
    let mut echo = String::new();
    screen.read_line(&mut echo).expect("read the terminal's echo");
    assert_eq!(echo.trim_end(), "hello");
}

#[test]
fn no_signal_is_left_blocked_or_ignored_in_a_rank() {
    let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status";
    let outcome = Job::spawn(&mut phalanx(&["run", "-n", "1", "--", "sh", "-c", script])).finish();
    assert!(outcome.stdout.contains("SigBlk:\t0000000000000000"), "{outcome:?}");
    let sigpipe_ignored = outcome.stdout.lines().any(|line| {
        let mask = line.strip_prefix("SigIgn:\t").and_then(|mask| u64::from_str_radix(mask, 16).ok());
        mask.is_some_and(|mask| mask & (1 << (Signal::SIGPIPE as u32 - 1)) != 0)
    });
    assert!(!sigpipe_ignored, "{outcome:?}");
}
