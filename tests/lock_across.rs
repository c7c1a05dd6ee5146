//! Named locks between nodes (pretended, on the loopback interface): one holder, order, tokens, deaths.
#![cfg(not(model))]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::children::{answer, await_line, role};
use common::nodes::{Across, Marks};
use common::ranks::LIMIT;
use phalanx::{Job, Lock, LockError};

fn join() -> Job {
    Job::from_env().expect("a job across nodes")
}

/// What is kept under the lock: the last token, and how often it was held. Whoever finds somebody else's file inside fails.
fn enter(marks: &Path, token: u64) -> u64 {
    let (inside, log) = (marks.join("inside"), marks.join("log"));
    fs::OpenOptions::new().write(true).create_new(true).open(&inside).expect("somebody else is inside");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().expect("a number"));
    let (last, count) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    assert!(last < token, "token {token} after {last}");
    fs::write(&log, format!("{token} {}", count + 1)).expect("a file");
    fs::remove_file(&inside).expect("this rank's");
    count + 1
}

#[test]
fn one_holds_it_at_a_time_and_tokens_grow() {
    const TEST: &str = "one_holds_it_at_a_time_and_tokens_grow";
    const ROUNDS: u64 = 200;
    if role().is_some() {
        let job = join();
        let marks = Marks::of_this_rank();
        let locks: Vec<Lock> = (0..4).map(|index| job.lock(&format!("shared {index}")).expect("a lock")).collect();
        job.world().barrier().expect("all are there");
        for _ in 0..ROUNDS {
            for (index, lock) in locks.iter().enumerate() {
                let guard = lock.acquire().expect("nobody fails");
                let place = marks.0.join(format!("dir {index}"));
                let _ = fs::create_dir(&place);
                enter(&place, guard.token().0);
                guard.release().expect("it was held");
            }
        }
        job.world().barrier().expect("all are through");
        if job.rank() == 0 {
            for index in 0..locks.len() {
                let log = fs::read_to_string(marks.0.join(format!("dir {index}")).join("log")).expect("a file");
                let count: u64 = log.split_whitespace().nth(1).expect("two").parse().expect("a number");
                assert_eq!(count, ROUNDS * job.size() as u64);
            }
        }
        // Homes serve until all are through.
        job.world().barrier().expect("all are through");
        return answer("done");
    }
    for nodes in [&[2, 2][..], &[1, 1, 1], &[1, 2]] {
        for answers in Across::of_counts(nodes).run(TEST, &[]) {
            assert_eq!(answers, ["done"]);
        }
    }
}

#[test]
fn try_time_out_and_cancel_leave_no_hole() {
    const TEST: &str = "try_time_out_and_cancel_leave_no_hole";
    if role().is_some() {
        let job = join();
        let locks: Vec<Lock> = (0..4).map(|index| job.lock(&format!("busy {index}")).expect("a lock")).collect();
        let meet = || job.world().barrier().expect("all are there");
        for lock in &locks {
            meet();
            if job.rank() == 0 {
                let guard = lock.try_acquire().expect("a lock").expect("it is free");
                meet();
                meet();
                drop(guard);
            } else {
                meet();
                assert!(lock.try_acquire().expect("a lock").is_none());
                let error = lock.acquire_timeout(Duration::from_millis(40)).expect_err("rank 0 has it");
                let LockError::TimedOut { holder_node, holder, .. } = &error else { panic!("{error}") };
                assert!(*holder_node == Some(0) || holder.is_some(), "{error}");
                let mut request = lock.request().expect("a place");
                for _ in 0..100 {
                    assert!(!request.test().expect("a lock"));
                }
                assert!(request.cancel());
                assert!(matches!(lock.try_acquire(), Ok(None)));
                meet();
            }
            let guard = lock.acquire_timeout(LIMIT).expect("it comes to all");
            assert!(matches!(lock.acquire(), Err(LockError::AlreadyHeld { .. })));
            guard.release().expect("it was held");
            meet();
        }
        return answer("done");
    }
    for answers in Across::of_counts(&[1, 2]).run(TEST, &[]) {
        assert_eq!(answers, ["done"]);
    }
}

/// The holder is killed, with or without others of its node that wait; ranks of both nodes go on, with greater tokens.
#[test]
fn a_killed_holder_is_followed_on_its_node_and_on_others() {
    const TEST: &str = "a_killed_holder_is_followed_on_its_node_and_on_others";
    if role().is_some() {
        let job = join();
        let lock = job.lock(&std::env::var("LOCK_NAME").expect("the test has set it")).expect("a lock");
        let marks = Marks::of_this_rank();
        job.world().barrier().expect("all are there");
        if job.rank() == 3 {
            let guard = lock.acquire().expect("it is free");
            marks.set(&job, "held");
            answer(guard.token());
            await_line();
        }
        marks.wait([3], "held");
        let request = lock.request().expect("a place in the queue");
        marks.set(&job, "asked");
        answer("asked");
        let guard = request.wait().expect("the holder is dead");
        answer(guard.token());
        guard.release().expect("it was held");
        await_line();
        return;
    }
    for name in ["a", "b", "c", "d"] {
        let across = Across::new(&[0, 0, 1, 1]);
        let mut children = across.start(TEST, &[("LOCK_NAME", name)]);
        let token = |text: String| text.parse::<u64>().expect("a token");
        let first = token(children.next_answer(3));
        (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "asked"));
        children.kill(3);
        let mut tokens: Vec<u64> = (0..3).map(|rank| token(children.next_answer(rank))).collect();
        tokens.sort_unstable();
        assert!(first < tokens[0] && tokens[0] < tokens[1] && tokens[1] < tokens[2], "{first} {tokens:?}");
    }
}

/// Nobody of the holder's node waits, or lives.
#[test]
fn a_holder_that_nobody_of_its_node_waits_for_is_followed() {
    const TEST: &str = "a_holder_that_nobody_of_its_node_waits_for_is_followed";
    if role().is_some() {
        let job = join();
        let names = ["a", "b", "c", "d", "e", "f"];
        let marks = Marks::of_this_rank();
        let locks: Vec<Lock> = names.iter().map(|name| job.lock(name).expect("a lock")).collect();
        job.world().barrier().expect("all are there");
        if job.rank() == 2 {
            let held: Vec<_> = locks.iter().map(|lock| lock.acquire().expect("it is free")).collect();
            marks.set(&job, "held");
            answer(held.len());
            await_line();
        }
        marks.wait([2], "held");
        if job.rank() == 0 {
            let taken: Vec<String> = locks
                .iter()
                .map(|lock| match lock.acquire_timeout(LIMIT) {
                    Ok(_) => "had".to_owned(),
                    Err(LockError::HomeLost { home: 1, .. }) => "home lost".to_owned(),
                    Err(error) => error.to_string(),
                })
                .collect();
            answer(taken.join(", "));
        }
        await_line();
        return;
    }
    for nodes in [&[0, 0, 1, 1][..], &[0, 0, 1]] {
        let across = Across::new(nodes);
        let mut children = across.start(TEST, &[]);
        assert_eq!(children.next_answer(2), "6");
        children.kill(2);
        let taken = children.next_answer(0);
        let lost_with_home = nodes.len() == 3;
        for one in taken.split(", ") {
            assert!(one == "had" || (lost_with_home && one == "home lost"), "{taken}");
        }
        assert!(taken.contains("had"), "{taken}");
    }
}
