//! A death is known before the kernel has taken the dead one down: survivors have their errors while it still exists,
//! what it holds is kept until it does not, and a process that goes on as another program has failed, too.
#![allow(unsafe_code, reason = "a process is held in its end by ptrace")]

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use common::children::{Children, Launch, answer, await_line, role};
use common::nodes::Across;
use common::ranks::{LIMIT, await_that, space_before};
use phalanx::{BarrierError, Job};

/// A process whose first thread stays in its end until this is dropped: its memory and its files are all there, and no
/// pidfd says that it is dead.
struct HeldInItsEnd {
    pid: libc::pid_t,
}

impl HeldInItsEnd {
    /// Kills a process, and returns when it is on its way out.
    fn kill(pid: u32) -> Self {
        let pid = libc::pid_t::try_from(pid).expect("a pid");
        // SAFETY: no memory is passed.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_TRACEEXIT) };
        assert_eq!(seized, 0, "a child can be traced: {}", std::io::Error::last_os_error());
        // SAFETY: no memory is passed.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        let mut status = 0;
        // SAFETY: the status is written to a variable.
        let stopped = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!((stopped, status >> 16), (pid, libc::PTRACE_EVENT_EXIT), "it is held in its end");
        Self { pid }
    }
}

impl Drop for HeldInItsEnd {
    fn drop(&mut self) {
        // SAFETY: no memory is passed.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.pid, 0, 0) };
    }
}

#[test]
fn survivors_are_told_while_the_dead_one_is_still_there_and_has_its_space_until_it_is_gone() {
    const TEST: &str = "survivors_are_told_while_the_dead_one_is_still_there_and_has_its_space_until_it_is_gone";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        let group = world.split(0, 0).expect("a group");
        answer("ready");
        if job.rank() == 1 {
            std::thread::sleep(LIMIT);
        }
        match group.barrier() {
            Err(BarrierError::RankFailed { ranks, causes, .. }) => answer(format!("{ranks:?} {causes:?}")),
            other => panic!("{other:?}"),
        }
        drop(group);
        answer(if world.space().0 == before { "free" } else { "taken" });
        await_line();
        await_that("what the dead one held is never let go", || world.space().0 == before);
        return answer("free");
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    let held = HeldInItsEnd::kill(children.pid(1));
    for rank in [0, 2] {
        assert_eq!(children.next_answer(rank), "[1] [Killed { signal: 9 }]");
        assert_eq!(children.next_answer(rank), "taken");
    }
    drop(held);
    children.kill(1);
    for rank in [0, 2] {
        children.say(rank, "it is gone");
        assert_eq!(children.next_answer(rank), "free");
    }
}

/// The agent of node 1 sees it, and tells node 0.
#[test]
fn other_nodes_are_told_too_while_the_dead_one_is_still_there() {
    const TEST: &str = "other_nodes_are_told_too_while_the_dead_one_is_still_there";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        job.world().barrier().expect("all are there");
        answer("ready");
        if job.rank() == 3 {
            std::thread::sleep(LIMIT);
        }
        let Err(BarrierError::RankFailed { ranks, causes, .. }) = job.world().barrier() else { panic!("one is dead") };
        answer(format!("{ranks:?} {causes:?}"));
        await_line();
        return;
    }
    let across = Across::new(&[0, 0, 1, 1]);
    let mut children = across.start(TEST, &[]);
    (0..4).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    let held = HeldInItsEnd::kill(children.pid(3));
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "[3] [Killed { signal: 9 }]"));
    drop(held);
    (0..3).for_each(|rank| children.say(rank, "that is all"));
}

/// No pidfd tells of that: the process is still there.
#[test]
fn a_rank_that_runs_another_program_has_failed() {
    const TEST: &str = "a_rank_that_runs_another_program_has_failed";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        job.world().barrier().expect("both are there");
        if job.rank() == 1 {
            panic!("{}", Command::new("sleep").arg("60").exec());
        }
        let Err(BarrierError::RankFailed { ranks, causes, .. }) = job.world().barrier() else {
            panic!("nobody else is there")
        };
        return answer(format!("{ranks:?} {causes:?}"));
    }
    let mut children = Launch::new(2).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "[1] [Died]");
}

/// The kernel says signals of a traced process where it says how one ends.
#[test]
fn a_rank_that_a_debugger_looks_at_is_late_and_has_not_failed() {
    const TEST: &str = "a_rank_that_a_debugger_looks_at_is_late_and_has_not_failed";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        job.world().barrier().expect("both are there");
        answer("ready");
        if job.rank() == 1 {
            await_line();
            return job.world().barrier().expect("nobody has failed");
        }
        await_line();
        // Long enough for some questions.
        let waited = job.world().barrier_timeout(Duration::from_millis(300));
        answer(matches!(waited, Err(BarrierError::TimedOut { .. })));
        return job.world().barrier().expect("nobody has failed");
    }
    let launch = Launch::new(2);
    let mut children = Children::default();
    for rank in 0..2 {
        let mut command = launch.rank(TEST, "rank", rank);
        command.env("PHALANX_FAILURE_TIMEOUT_MS", "60000");
        children.start(command);
    }
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    let pid = libc::pid_t::try_from(children.pid(1)).expect("a pid");
    let (mut status, none) = (0, std::ptr::null_mut::<libc::c_void>());
    // SAFETY: no memory is passed.
    let traced = unsafe {
        [libc::ptrace(libc::PTRACE_SEIZE, pid, none, none), libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none)]
    };
    assert_eq!(traced, [0, 0], "a child can be traced: {}", std::io::Error::last_os_error());
    // Not waited for yet: so the kernel keeps the signal.
    children.say(0, "wait for it");
    assert_eq!(children.next_answer(0), "true");
    // SAFETY: the status is written to a variable; nothing else is passed.
    unsafe {
        assert_eq!(libc::waitpid(pid, &raw mut status, libc::__WALL), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, none, none), 0);
    }
    children.say(1, "go on");
    children.answers();
}
