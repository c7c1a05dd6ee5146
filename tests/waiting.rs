//! What waiting ranks learn of those they wait for, whichever way they wait: by looking, with short time-outs, for a
//! new group; and that one of a node's ranks asks for all.

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, await_line, role};
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::{BarrierError, GroupError, Job, LateState, Lateness};
use rustix::process::Signal;

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
                Ok(()) | Err(BarrierError::TimedOut { .. } | BarrierError::Unsettled { .. }) => {
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
            children.signal(1, Signal::STOP);
            [0, 2, 3].iter().for_each(|rank| children.say(*rank, "look"));
            for rank in [0, 2, 3] {
                assert_eq!(children.next_answer(rank), "[1] [Stopped]", "rank {rank} {role} {nodes:?}");
            }
        }
    }
}

/// Whoever is to make the group, here or on another node, is stopped or has left: that ends the wait, and not its
/// deadline.
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
        children.signal(0, Signal::STOP);
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

/// One rank asks for all of its node, and all know since when the missing one is stopped; nobody who has come is
/// missed, on whichever node.
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
    children.signal(4, Signal::STOP);
    let others: Vec<usize> = (0..9).filter(|rank| *rank != 4).collect();
    others.iter().for_each(|rank| children.say(*rank, "meet"));
    for rank in &others {
        assert_eq!(children.next_answer(*rank), "[4] [true, true, true, true]", "rank {rank}");
    }
    children.signal(4, Signal::CONT);
    children.say(4, "meet");
    others.iter().for_each(|rank| children.say(*rank, "go on"));
    assert_eq!(children.next_answer(4), "met");
    assert!(others.iter().all(|rank| children.finish(*rank).1.success()));
}

/// Has rank 0 call with next to no time, again and again, until it is told that of rank 1.
fn look_until(job: &Job, is_seen: impl Fn(&Lateness) -> bool) {
    loop {
        let error = job.world().barrier_timeout(Duration::from_millis(100)).expect_err("rank 1 has not come");
        let BarrierError::TimedOut { late_by, .. } = &error else { panic!("{error}") };
        if late_by.iter().any(&is_seen) {
            return;
        }
    }
}

/// A debugger or a profiler stops a process now and then: what counts is for how long at one time.
#[test]
fn a_rank_that_is_stopped_for_a_short_time_twice_has_not_failed() {
    const TEST: &str = "a_rank_that_is_stopped_for_a_short_time_twice_has_not_failed";
    const TIMEOUT: Duration = Duration::from_secs(2);
    if role().is_some() {
        let job = join();
        await_line();
        for _ in 0..(1 - job.rank()) * 2 {
            look_until(&job, |late| late.state == LateState::Stopped && late.seen_alive.is_some());
            answer("stopped");
            let begun = Instant::now();
            look_until(&job, |late| late.state == LateState::Running && begun.elapsed() > TIMEOUT);
            answer("running");
        }
        job.world().barrier_timeout(LIMIT).expect("nobody has failed");
        return answer("met");
    }
    let launch = Launch::new(2);
    let mut children = Children::default();
    for rank in 0..2 {
        let mut command = launch.rank(TEST, "rank", rank);
        command.env("PHALANX_FAILURE_TIMEOUT_MS", TIMEOUT.as_millis().to_string());
        children.start(command);
    }
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.say(0, "look");
    for _ in 0..2 {
        children.signal(1, Signal::STOP);
        assert_eq!(children.next_answer(0), "stopped");
        children.signal(1, Signal::CONT);
        assert_eq!(children.next_answer(0), "running");
    }
    children.say(1, "meet");
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "met"));
}

fn await_epoch(job: &Job, mut meanwhile: impl FnMut()) {
    let begun = Instant::now();
    while job.world().epoch() == 0 {
        assert!(begun.elapsed() < LIMIT, "nobody is lost");
        meanwhile();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether it is lost hangs on a node that does not answer.
#[test]
fn a_call_behind_a_dropped_arrival_keeps_its_time_when_a_survivor_is_silent() {
    const TEST: &str = "a_call_behind_a_dropped_arrival_keeps_its_time_when_a_survivor_is_silent";
    if role().is_some() {
        let job = join();
        await_line();
        drop(job.world().arrive().expect("an arrival"));
        answer("detached");
        await_epoch(&job, || {});
        let begun = Instant::now();
        let outstanding = job.world().arrive().map(drop);
        assert!(matches!(outstanding, Err(BarrierError::ArrivalOutstanding { .. })), "{outstanding:?}");
        let error = job.world().barrier_timeout(Duration::from_millis(50)).expect_err("one is dead");
        assert!(begun.elapsed() < LIMIT / 4, "{:?}", begun.elapsed());
        let BarrierError::Unsettled { failed, ranks, nodes, .. } = &error else { panic!("{error}") };
        assert_eq!((&failed[..], &ranks[..], &nodes[..]), (&[3][..], &[1][..], &[1][..]), "{error}");
        answer("told");
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 2, 2]);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "60000")]);
    (0..4).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.stop(1);
    children.say(0, "detach");
    assert_eq!(children.next_answer(0), "detached");
    children.kill(3);
    assert_eq!(children.next_answer(0), "told");
}

/// Where one has left and another does not answer each look would ask, and none would know.
#[test]
fn who_only_looks_is_not_held_up_by_one_who_has_left() {
    const TEST: &str = "who_only_looks_is_not_held_up_by_one_who_has_left";
    const LOOKS: u32 = 200;
    if role().is_some() {
        let job = join();
        await_line();
        if job.rank() == 2 {
            drop(job);
            await_line();
            return;
        }
        let arrival = job.world().arrive().expect("an arrival");
        await_epoch(&job, || assert_eq!(arrival.test(), Ok(false)));
        answer("left");
        await_line();
        let begun = Instant::now();
        (0..LOOKS).for_each(|_| assert_eq!(arrival.test(), Ok(false)));
        assert!(begun.elapsed() < LOOKS * Duration::from_millis(20), "{:?}", begun.elapsed());
        answer("looked");
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 2]);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "60000")]);
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.say(0, "look");
    children.say(2, "leave");
    assert_eq!(children.next_answer(0), "left");
    children.signal(1, Signal::STOP);
    children.say(0, "look");
    assert_eq!(children.next_answer(0), "looked");
}

/// Rank 3 has left, and with it who could say where it had arrived. The first who has waited long enough for it closes
/// the barrier for all; then one that still waits for another member is not to wait on.
#[test]
fn a_barrier_that_others_have_closed_is_not_waited_for_any_more() {
    const TEST: &str = "a_barrier_that_others_have_closed_is_not_waited_for_any_more";
    if role().is_some() {
        let job = join();
        let world = job.world();
        match job.rank() {
            0 => {
                await_line();
                answer(failed(&world.barrier().expect_err("one has left")));
            }
            3 => {
                await_line();
                return;
            }
            _ => {
                let arrival = world.arrive().expect("an arrival");
                await_epoch(&job, || {});
                answer("knows");
                await_line();
                let early = arrival.wait_timeout(Duration::from_millis(50)).expect_err("one has left");
                answer(match early {
                    BarrierError::Unsettled { failed, ranks, .. } => format!("{failed:?} {ranks:?}"),
                    other => other.to_string(),
                });
                await_line();
                answer(failed(&arrival.wait().expect_err("one has left")));
            }
        }
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 2, 3]);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "60000")]);
    (0..4).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.say(3, "leave");
    assert!(children.finish(3).1.success());
    children.say(0, "wait");
    children.await_answers(&[1, 2], "knows");
    assert_eq!(children.next_answer(0), "[3] [Left]");
    // Now rank 2 is missing, for all that rank 1 can see, and nobody will say that it has failed.
    children.stop(2);
    children.say(1, "wait");
    assert_eq!(children.next_answer(1), "[3] [2]", "it does not know that the barrier is closed");
    children.signal(2, Signal::CONT);
    children.say(1, "wait");
    assert_eq!(children.next_answer(1), "[3] [Left]");
}
