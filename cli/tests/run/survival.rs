//! No process survives its job: not when the launcher is killed, nor its supervisor, nor its whole process group, and
//! not by hiding in another session either.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::harness::{Job, eventually, is_alive, phalanx, send, state};

const RANKS: usize = 2;
/// Each rank prints four pids: its own, that of a child, of a child in a session of its own, and of an orphan in a
/// session of its own (its parent has ended).
const HIDERS: &str = "
    echo $$
    sleep 1000 & echo $!
    setsid sh -c 'echo $$; exec sleep 1000' &
    sh -c 'setsid sh -c \"echo \\$\\$; exec sleep 1000\" &'
    sleep 1000";
const PIDS: usize = 4 * RANKS;

/// A job that has hidden its processes as well as it can, and all its pids, the supervisor's first.
fn hidden_job() -> (Job, Vec<i32>) {
    let mut job = Job::start(RANKS, &[], HIDERS);
    let lines = job.lines(PIDS);
    let pids: Vec<i32> = lines.iter().map(|line| line.parse().expect("a pid")).collect();
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    let supervisor = job.supervisor();
    (job, [vec![supervisor], pids].concat())
}

fn expect_gone(pids: &[i32]) {
    for &pid in pids {
        eventually(&format!("process {pid} is gone"), || !is_alive(pid));
    }
}

#[test]
fn nothing_survives_the_launchers_sudden_death() {
    let (job, pids) = hidden_job();
    job.send(Signal::SIGKILL);
    expect_gone(&pids);
}

#[test]
fn nothing_survives_the_supervisors_sudden_death() {
    let (job, pids) = hidden_job();
    send(pids[0], Signal::SIGKILL);
    let outcome = job.finish();
    assert_eq!(outcome.code(), 137);
    assert!(outcome.stderr.contains("supervisor"), "{outcome:?}");
    // The launcher has waited for that.
    assert!(pids.iter().all(|&pid| !is_alive(pid)));
}

#[test]
fn nothing_survives_the_launchers_death_while_the_supervisor_is_stopped() {
    let (job, pids) = hidden_job();
    send(pids[0], Signal::SIGSTOP);
    job.send(Signal::SIGKILL);
    expect_gone(&pids);
}

#[test]
fn nothing_survives_a_killed_process_group() {
    let mut command = phalanx(&["run", "-n", &RANKS.to_string(), "--", "sh", "-c", HIDERS]);
    let mut job = Job::spawn(command.process_group(0));
    let pids: Vec<i32> = job.lines(PIDS).iter().map(|line| line.parse().expect("a pid")).collect();
    killpg(Pid::from_raw(job.pid()), Signal::SIGKILL).expect("kill the group");
    expect_gone(&pids);
}

#[test]
fn nothing_survives_a_launcher_that_is_killed_while_it_starts_ranks() {
    for patience in [0, 1, 3, 10] {
        let mut job = Job::start(64, &[], "echo $$; setsid sleep 1000 & exec sleep 1000");
        let started = job.lines(patience);
        job.send(Signal::SIGKILL);
        // The end of stdout is the death of the supervisor, which alone has it.
        let outcome = job.finish();
        let pids = started.iter().map(String::as_str).chain(outcome.stdout.lines());
        let pids: Vec<i32> = pids.filter_map(|line| line.parse().ok()).collect();
        expect_gone(&pids);
    }
}

#[test]
fn no_rank_survives_the_death_of_both_the_launcher_and_its_supervisor() {
    let mut job = Job::start(RANKS, &[], "echo $$; exec sleep 1000");
    let pids: Vec<i32> = job.lines(RANKS).iter().map(|line| line.parse().expect("a pid")).collect();
    let supervisor = job.supervisor();
    // Stopped, the launcher cannot do anything about its supervisor's death.
    job.send(Signal::SIGSTOP);
    send(supervisor, Signal::SIGKILL);
    job.send(Signal::SIGKILL);
    expect_gone(&pids);
}

#[test]
fn a_shells_other_jobs_are_left_alone() {
    // The shell becomes the launcher by exec, so that its background job becomes the launcher's child.
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!; exec \"$0\" run -n 1 -- sh -c 'echo $$; exec sleep 1000'";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_phalanx")]).stdin(Stdio::null());
    let mut job = Job::spawn(&mut command);
    let [stranger, rank] = [job.line(), job.line()].map(|line| line.parse::<i32>().expect("a pid"));
    let stranger = KillOnDrop(stranger);
    let supervisor = state(rank).expect("the rank runs").1;
    send(supervisor, Signal::SIGKILL);
    assert_eq!(job.finish().code(), 137);
    assert!(!is_alive(rank));
    assert!(is_alive(stranger.0), "the launcher has killed a process that is not its job's");
}

struct KillOnDrop(i32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}
