//! What waiting ranks learn of those they wait for, whichever way they wait: by looking, with short time-outs, for a new
//! group; and that one of a node's ranks asks for all.

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, await_line, role};
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::{BarrierError, GroupError, Job, LateState};
use rustix::process::{Pid, Signal, kill_process};

fn signal(children: &Children, index: usize, signal: Signal) {
    let pid = i32::try_from(children.pid(index)).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("the child is there");
}

/// Whom an error names as failed, and why.
fn failed(error: &BarrierError) -> String {
    match error {
        BarrierError::RankFailed { ranks, causes, .. } => format!("{ranks:?} {causes:?}"),
        other => other.to_string(),
    }
}

/// Ranks on one node, or on several: each has passed a barrier and says that it is ready.
fn start(test: &str, role: &str, nodes: Option<&[usize]>, ranks: usize) -> (Option<Across>, Children) {
    let (launch, across) = (Launch::new(ranks), nodes.map(Across::new));
    let mut children = Children::default();
    for rank in 0..ranks {
        let mut command = match &across {
            Some(across) => across.rank(test, rank),
            None => launch.rank(test, role, rank),
        };
        children.start({
            command.env("EVIDENCE_ROLE", role);
            command
        });
    }
    (0..ranks).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    (across, children)
}

fn join() -> Job {
    let job = Job::from_env().expect("a job");
    job.world().barrier().expect("all are there");
    answer("ready");
    job
}

/// A program may only ever look, or come again and again with hardly any time.
#[test]
fn who_only_looks_learns_of_a_stopped_rank() {
    const TEST: &str = "who_only_looks_learns_of_a_stopped_rank";
    if let Some(role) = role() {
        let job = join();
        await_line();
        let begun = Instant::now();
        let arrival = (role == "looks").then(|| job.world().arrive().expect("an arrival"));
        let error = loop {
            assert!(begun.elapsed() < LIMIT, "nobody tells it");
            let ended = match &arrival {
                Some(arrival) => arrival.test().map(|has_ended| assert!(!has_ended)),
                None => job.world().barrier_timeout(Duration::from_micros(100)),
            };
            match ended {
                // In hardly any time other nodes may not have said how far they have come; then, too, it comes again.
                Ok(()) | Err(BarrierError::TimedOut { .. } | BarrierError::Unreachable { .. }) => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => break error,
            }
        };
        return answer(failed(&error));
    }
    for role in ["looks", "has no time"] {
        for nodes in [None, Some(&[0, 0, 1, 2][..])] {
            let (_across, mut children) = start(TEST, role, nodes, 4);
            signal(&children, 1, Signal::STOP);
            [0, 2, 3].iter().for_each(|rank| children.say(*rank, "look"));
            for rank in [0, 2, 3] {
                assert_eq!(children.next_answer(rank), "[1] [Stopped]", "rank {rank} {role} {nodes:?}");
            }
        }
    }
}

/// Whoever is to make the group, here or on another node, is stopped or has left: that ends the wait, and not its deadline.
#[test]
fn who_waits_for_a_leader_that_is_stopped_or_has_left_is_told() {
    const TEST: &str = "who_waits_for_a_leader_that_is_stopped_or_has_left_is_told";
    if let Some(role) = role() {
        let job = join();
        let line = await_line();
        if line == "leave" {
            drop(job);
            await_line();
            return;
        }
        let error = match role.as_str() {
            "lists" => job.world().subgroup(&[0, 1, 2, 3], LIMIT * 4),
            _ => job.world().shrink(LIMIT * 4),
        };
        return match error.expect_err("its leader does not come") {
            GroupError::Barrier(error) => answer(failed(&error)),
            other => answer(other),
        };
    }
    for nodes in [None, Some(&[0, 0, 1, 2][..]), Some(&[0, 1, 1, 2][..])] {
        let (_across, mut children) = start(TEST, "lists", nodes, 4);
        signal(&children, 0, Signal::STOP);
        (1..4).for_each(|rank| children.say(rank, "make it"));
        (1..4).for_each(|rank| {
            let told = children.next_answer(rank);
            let is_told = told == "[0] [Stopped]" || (nodes.is_some() && told == "[0] [Silent]");
            assert!(is_told, "rank {rank}: {told} {nodes:?}");
        });
        let (_across, mut children) = start(TEST, "lists", nodes, 4);
        children.say(0, "leave");
        (1..4).for_each(|rank| children.say(rank, "make it"));
        (1..4).for_each(|rank| {
            let told = children.next_answer(rank);
            assert!(told == "[0] [Left]" || told == "[0] [Gone]", "rank {rank}: {told} {nodes:?}");
        });
    }
}

/// One rank asks for all of its node, and all know since when the missing one is stopped; nobody who has come is missed,
/// on whichever node.
#[test]
fn whoever_times_out_names_exactly_the_missing_and_since_when_they_are_stopped() {
    const TEST: &str = "whoever_times_out_names_exactly_the_missing_and_since_when_they_are_stopped";
    const NODES: [usize; 9] = [0, 0, 0, 1, 1, 1, 2, 2, 2];
    if role().is_some() {
        let job = join();
        await_line();
        if job.rank() == 4 {
            job.world().barrier_timeout(LIMIT).expect("all come");
            return answer("met");
        }
        let error = job.world().barrier_timeout(Duration::from_secs(2)).expect_err("one is stopped");
        let BarrierError::TimedOut { missing, late_by, .. } = &error else { panic!("{error}") };
        let late = &late_by[0];
        let is_here = job.rank() / 3 == 1;
        let seen: Vec<bool> = vec![
            late_by.len() == 1,
            late.last_call.as_ref().is_some_and(|call| call.sequence == 1),
            if is_here { late.state == LateState::Stopped } else { late.state == LateState::Remote },
            !is_here || late.seen_alive.is_some_and(|ago| ago > Duration::from_secs(1)),
        ];
        answer(format!("{missing:?} {seen:?}"));
        await_line();
        return job.world().barrier_timeout(LIMIT).expect("all have come");
    }
    let across = Across::new(&NODES);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "60000")]);
    (0..9).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    signal(&children, 4, Signal::STOP);
    let others: Vec<usize> = (0..9).filter(|rank| *rank != 4).collect();
    others.iter().for_each(|rank| children.say(*rank, "meet"));
    for rank in &others {
        assert_eq!(children.next_answer(*rank), "[4] [true, true, true, true]", "rank {rank}");
    }
    signal(&children, 4, Signal::CONT);
    children.say(4, "meet");
    others.iter().for_each(|rank| children.say(*rank, "go on"));
    assert_eq!(children.next_answer(4), "met");
    assert!(others.iter().all(|rank| children.finish(*rank).1.success()));
}
