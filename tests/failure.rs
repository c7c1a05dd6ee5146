//! What survivors are told when a rank fails, on one node: by processes that are killed, exit, stop, or leave.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::children::{Launch, answer, role};
use common::ranks::{Gate, LIMIT, await_that, on_ranks};
use phalanx::{Algorithm, BarrierError, FailureCause, Group, Job, JobOptions, LateState};
use rustix::process::Signal;

/// What a survivor says of a failure: the same text from all of them.
fn told(error: &BarrierError) -> String {
    match error {
        BarrierError::RankFailed { ranks, causes, epoch, sequence, group, .. } => {
            format!("{ranks:?} {causes:?} epoch {epoch} barrier {sequence} of {group}")
        }
        other => panic!("{other}"),
    }
}

/// The ranks in the job that leave this one out.
fn all_but(left_out: usize, size: usize) -> Vec<usize> {
    (0..size).filter(|rank| *rank != left_out).collect()
}

#[test]
fn all_survivors_of_a_killed_rank_are_told_the_same_and_go_on_without_it() {
    const TEST: &str = "all_survivors_of_a_killed_rank_are_told_the_same_and_go_on_without_it";
    const RANKS: usize = 4;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        world.barrier().expect("all are there");
        let apart = (job.rank() != 2).then(|| world.subgroup(&all_but(2, RANKS), LIMIT).expect("a group without it"));
        answer("ready");
        if job.rank() == 2 {
            std::thread::sleep(LIMIT);
        }
        let error = world.barrier().expect_err("one is dead");
        answer(told(&error));
        assert_eq!(world.barrier().expect_err("it is dead still"), error);
        assert!(world.arrive().is_err() && world.split(0, 0).is_err());
        assert_eq!(world.survivors(), all_but(2, RANKS));
        apart.expect("a survivor").barrier().expect("another group is not disturbed");
        let rest = world.shrink(LIMIT).expect("three are left");
        assert_eq!(rest.ranks(), all_but(2, RANKS));
        for _ in 0..100 {
            rest.barrier().expect("all of them live");
        }
        return answer("done");
    }
    let mut children = Launch::new(RANKS).start(TEST, "rank");
    children.await_answers(&[0, 1, 2, 3], "ready");
    children.kill(2);
    let expected = "[2] [Killed { signal: 9 }] epoch 1 barrier 2 of 0";
    for index in all_but(2, RANKS) {
        assert_eq!(children.next_answer(index), expected, "rank {index}");
        let (answers, status) = children.finish(index);
        assert!(status.success(), "rank {index}: {status}");
        assert_eq!(answers, ["done"]);
    }
}

/// Each way to end, and what the other rank is told. One that exits without leaving has failed, whatever its status.
#[test]
fn a_rank_that_ends_is_told_of_with_its_cause() {
    const TEST: &str = "a_rank_that_ends_is_told_of_with_its_cause";
    if let Some(way) = role() {
        let job = Job::from_env().expect("a job");
        job.world().barrier().expect("both are there");
        if job.rank() == 1 {
            match way.as_str() {
                "exits" => std::process::exit(7),
                "exits well" => std::process::exit(0),
                "aborts" => std::process::abort(),
                _ => return drop(job),
            }
        }
        return answer(told(&job.world().barrier().expect_err("nobody else is there")));
    }
    let ways = [
        ("exits", "Exited { status: 7 }"),
        ("exits well", "Exited { status: 0 }"),
        ("aborts", "Killed { signal: 6 }"),
        ("leaves", "Left"),
    ];
    for (way, cause) in ways {
        let mut children = Launch::new(2).start(TEST, way);
        assert_eq!(children.next_answer(0), format!("[1] [{cause}] epoch 1 barrier 2 of 0"), "{way}");
    }
}

/// A stopped rank is late at first, and says so; then it has failed; and when it comes back each of its calls fails.
#[test]
fn a_stopped_rank_is_late_then_failed_and_is_told_so_when_it_comes_back() {
    const TEST: &str = "a_stopped_rank_is_late_then_failed_and_is_told_so_when_it_comes_back";
    if role().is_some() {
        let options = JobOptions::new().failure_timeout(Duration::from_secs(2));
        let job = Job::from_env_with(&options).expect("a job");
        let world = job.world();
        world.barrier().expect("all are there");
        answer("ready");
        if job.rank() == 1 {
            // Stopped in here.
            common::children::await_line();
            let error = world.barrier().expect_err("the others have gone on");
            answer(matches!(error, BarrierError::Excluded { rank: 1, epoch: 1, cause: FailureCause::Stopped }));
            assert_eq!(world.barrier(), Err(error));
            assert!(world.shrink(LIMIT).is_err());
            return;
        }
        common::children::await_line();
        let error = world.barrier_timeout(Duration::from_millis(300)).expect_err("one is stopped");
        let BarrierError::TimedOut { missing, late_by, .. } = &error else { panic!("{error}") };
        assert_eq!(missing, &[1]);
        assert_eq!((late_by[0].rank, late_by[0].state), (1, LateState::Stopped), "{error}");
        assert!(error.to_string().contains("rank 1 is stopped"), "{error}");
        let error = world.barrier().expect_err("it has been stopped for too long");
        answer(told(&error));
        return world.shrink(LIMIT).expect("two are left").barrier().expect("both live");
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    children.await_answers(&[0, 1, 2], "ready");
    children.signal(1, Signal::STOP);
    children.say(0, "stopped");
    children.say(2, "stopped");
    children.await_answers(&[0, 2], "[1] [Stopped] epoch 1 barrier 2 of 0");
    children.signal(1, Signal::CONT);
    children.say(1, "go on");
    assert_eq!(children.next_answer(1), "true");
    assert!((0..3).all(|index| children.finish(index).1.success()));
}

/// Under each algorithm: two die at once, and all survivors are told the same of the same barrier.
#[test]
fn two_that_die_at_once_are_told_of_alike() {
    const TEST: &str = "two_that_die_at_once_are_told_of_alike";
    const RANKS: usize = 6;
    if let Some(algorithm) = role() {
        let options = JobOptions::new().barrier(algorithm.parse().expect("an algorithm"));
        let job = Job::from_env_with(&options).expect("a job");
        answer("ready");
        let error = (0..).find_map(|_| job.world().barrier().err()).expect("some barrier fails");
        answer(told(&error));
        let mut rest = job.world().shrink(LIMIT).expect("four are left");
        // Where whoever kills them was held up between the two, the others may have gone on with the second one.
        while rest.ranks().contains(&3) {
            (0..).find_map(|_| rest.barrier().err()).expect("some barrier fails");
            rest = rest.shrink(LIMIT).expect("four are left");
        }
        answer(format!("{:?}", rest.ranks()));
        return;
    }
    for algorithm in Algorithm::ALL {
        let mut children = Launch::new(RANKS).start(TEST, algorithm.name());
        children.await_answers(&[0, 1, 2, 3, 4, 5], "ready");
        children.signal(0, Signal::KILL);
        children.signal(3, Signal::KILL);
        let first = children.next_answer(1);
        children.await_answers(&[2, 4, 5], &first);
        children.await_answers(&[1, 2, 4, 5], "[1, 2, 4, 5]");
    }
}

#[test]
fn a_thread_that_leaves_is_told_of_and_its_arrival_before_counts() {
    let told = on_ranks(3, &JobOptions::new(), |job| {
        let world = job.world();
        match job.rank() {
            0 => {
                await_survivors(world, 2);
                world.barrier().expect("all arrive at the first");
                let error = world.barrier().expect_err("one has left");
                let BarrierError::RankFailed { ranks, causes, .. } = error else { panic!("{error}") };
                Some((ranks, causes))
            }
            1 => {
                // The others come to the barrier at which it has arrived when they know that it has left.
                drop(world.arrive().expect("an arrival"));
                None
            }
            _ => {
                await_survivors(world, 2);
                world.barrier().expect("all arrive at the first");
                // Half a barrier: whoever only looks is told, too.
                let arrival = world.arrive();
                let error = loop {
                    match arrival.as_ref().map(|arrival| arrival.test()) {
                        Ok(Ok(true)) => panic!("one has left"),
                        Ok(Ok(false)) => std::thread::yield_now(),
                        Ok(Err(error)) => break error,
                        Err(error) => break error.clone(),
                    }
                };
                let BarrierError::RankFailed { ranks, causes, .. } = error else { panic!("{error}") };
                Some((ranks, causes))
            }
        }
    });
    assert_eq!(told[0], Some((vec![1], vec![FailureCause::Left])));
    assert_eq!(told[2], told[0]);
}

#[test]
fn a_thread_that_panics_has_failed() {
    let mut jobs = Job::threads(2).expect("a job");
    let panicking = jobs.pop().expect("two ranks");
    let thread = std::thread::spawn(move || {
        let _job = panicking;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    let error = jobs[0].world().barrier().expect_err("nobody else is there");
    assert!(
        matches!(&error, BarrierError::RankFailed { causes, .. } if *causes == [FailureCause::Panicked]),
        "{error}"
    );
}

/// Waits until this member knows that no more than so many survive.
fn await_survivors(group: &Group, count: usize) {
    await_that("too many survive", || group.survivors().len() <= count);
}

/// The ranks that a call was refused for.
fn failed_ranks<T>(ended: Result<T, BarrierError>) -> Vec<usize> {
    match ended {
        Err(BarrierError::RankFailed { ranks, .. }) => ranks,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nobody is left to pass it with"),
    }
}

/// Where a killed rank was in its arrival nobody can tell, so it counts for nobody: all survivors lose the same
/// barrier.
#[test]
fn what_a_killed_rank_had_arrived_at_is_lost_for_all() {
    const TEST: &str = "what_a_killed_rank_had_arrived_at_is_lost_for_all";
    if let Some(algorithm) = role() {
        let options = JobOptions::new().barrier(algorithm.parse().expect("an algorithm"));
        let job = Job::from_env_with(&options).expect("a job");
        let world = job.world();
        world.barrier().expect("all are there");
        if job.rank() == 2 {
            let _arrival = world.arrive().expect("an arrival");
            answer("ready");
            std::thread::sleep(LIMIT);
        }
        // One of the others has arrived before, and one comes later.
        let arrival = (job.rank() == 0).then(|| world.arrive().expect("an arrival"));
        answer("ready");
        await_survivors(world, 2);
        let ended = arrival.map_or_else(|| world.barrier(), |arrival| arrival.wait());
        return answer(told(&ended.expect_err("one is dead")));
    }
    for algorithm in Algorithm::ALL {
        let mut children = Launch::new(3).start(TEST, algorithm.name());
        children.await_answers(&[0, 1, 2], "ready");
        children.kill(2);
        children.await_answers(&[0, 1], "[2] [Killed { signal: 9 }] epoch 1 barrier 2 of 0");
    }
}

/// Asking who survives is not looking after the arrival that one holds.
#[test]
fn the_wait_for_a_held_arrival_ends_after_a_look_at_the_survivors() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new(), |job| {
        let world = job.world();
        world.barrier().expect("both are there");
        if job.rank() == 0 {
            let arrival = world.arrive().expect("an arrival");
            gate.wait();
            await_survivors(world, 1);
            return assert_eq!(failed_ranks(arrival.wait_timeout(LIMIT)), [1]);
        }
        gate.wait();
    });
}

#[test]
fn calls_after_a_failure_leave_a_held_arrival_alone_and_settle_a_dropped_one() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new(), |job| {
        let world = job.world();
        let other = world.subgroup(&[0, 1], LIMIT).expect("another group");
        world.barrier().expect("both are there");
        if job.rank() == 0 {
            let held = world.arrive().expect("an arrival");
            drop(other.arrive().expect("an arrival"));
            gate.wait();
            await_survivors(world, 1);
            assert!(matches!(world.barrier(), Err(BarrierError::ArrivalOutstanding { .. })));
            assert_eq!(failed_ranks(held.test()), [1]);
            assert_eq!(failed_ranks(held.wait()), [1]);
            assert_eq!(failed_ranks(world.barrier()), [1]);
            assert_eq!(failed_ranks(other.barrier()), [1]);
            return assert_eq!(failed_ranks(other.arrive()), [1]);
        }
        gate.wait();
    });
}

/// It was passed before the failure, so the call that resumes it says so; the next one fails.
#[test]
fn a_barrier_that_was_passed_before_a_failure_is_passed_for_who_resumes_it() {
    for algorithm in Algorithm::ALL {
        let gate = Gate::new(2);
        on_ranks(2, &JobOptions::new().barrier(algorithm), |job| {
            if job.rank() == 1 {
                gate.wait();
                job.world().barrier().expect("the other one has arrived");
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _job = job;
                    panic!("on purpose");
                }));
                return drop(ended);
            }
            let world = job.world();
            let early = world.barrier_timeout(Duration::ZERO);
            assert!(matches!(early, Err(BarrierError::TimedOut { .. })), "{early:?}");
            gate.wait();
            await_survivors(world, 1);
            assert_eq!(world.barrier(), Ok(()), "{algorithm}");
            let next = world.barrier();
            assert!(matches!(&next, Err(BarrierError::RankFailed { sequence: 2, .. })), "{algorithm}: {next:?}");
        });
    }
}

/// Members that have seen different epochs meet, if these differ by somebody else's failure only.
#[test]
fn survivors_meet_though_one_has_seen_a_stranger_fail_and_the_other_has_not() {
    let (may_leave, both_know) = (AtomicBool::new(false), Gate::new(2));
    on_ranks(4, &JobOptions::new(), |job| {
        let world = job.world();
        let group = (job.rank() < 3).then(|| world.subgroup(&[0, 1, 2], LIMIT).expect("a group"));
        world.barrier().expect("all are there");
        let Some(group) = group else {
            await_that("it may never leave", || may_leave.load(Ordering::Acquire));
            return;
        };
        if job.rank() == 2 {
            return;
        }
        await_survivors(&group, 2);
        let (taken, _) = group.space();
        if job.rank() == 1 {
            both_know.wait();
            // The other one has begun.
            await_that("the other one does not begin", || group.space().0 > taken);
            may_leave.store(true, Ordering::Release);
            await_survivors(world, 2);
        } else {
            both_know.wait();
        }
        let rest = group.shrink(Duration::from_secs(20)).expect("two survive");
        assert_eq!(rest.ranks(), [0, 1]);
        rest.barrier().expect("both are there");
    });
}
