//! Places in nodes' tables of objects, of which there are few: they come back to all who want them, whoever has died
//! with a handle, and though the home does not answer when the last handle is given back.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::children::{answer, await_line, role};
use common::homes::name_at;
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::{Job, JobOptions, Lock, ObjectError};
use rustix::process::Signal;

/// Opens a lock that is at home on a node, when there is a place for it.
fn open_when_there_is_room(job: &Job, home: usize, what: &str) -> Lock {
    let (name, begun) = (name_at(job, home, what), Instant::now());
    loop {
        match job.lock(&name) {
            Ok(lock) => return lock,
            Err(error @ ObjectError::Exhausted { .. }) => assert!(begun.elapsed() < LIMIT, "{error}"),
            Err(error) => assert!(error.to_string().contains("nothing is heard") && begun.elapsed() < LIMIT, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_places_of_the_dead_come_back_on_other_nodes() {
    const TEST: &str = "the_places_of_the_dead_come_back_on_other_nodes";
    const PLACES: usize = 2;
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().objects(PLACES)).expect("a job");
        let open = |what: &str| job.lock(&name_at(&job, 1, what)).expect("room");
        if job.rank() == 1 {
            let locks = ["one", "another"].map(open);
            let held = locks[0].acquire().expect("it is free");
            answer("has all");
            await_line();
            drop(held);
        }
        if job.rank() == 2 {
            await_line();
            let refused = job.lock(&name_at(&job, 1, "third")).expect_err("all places are taken");
            assert!(matches!(refused, ObjectError::Exhausted { node: 1, places: PLACES, .. }), "{refused}");
            answer("refused");
            await_line();
            let locks = ["third", "fourth"].map(|what| open_when_there_is_room(&job, 1, what));
            assert!(locks.iter().all(|lock| lock.acquire().is_ok()));
            answer("has all");
        }
        await_line();
        return;
    }
    // Rank 0 lives on the node of the one that dies.
    let across = Across::new(&[0, 0, 1]);
    let mut children = across.start(TEST, &[]);
    assert_eq!(children.next_answer(1), "has all");
    children.say(2, "try");
    assert_eq!(children.next_answer(2), "refused");
    children.kill(1);
    children.say(2, "take all");
    assert_eq!(children.next_answer(2), "has all");
    [0, 2].into_iter().for_each(|rank| children.say(rank, "end"));
}

#[test]
fn a_place_that_is_given_back_to_a_silent_home_comes_back() {
    const TEST: &str = "a_place_that_is_given_back_to_a_silent_home_comes_back";
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().objects(1)).expect("a job");
        if job.rank() == 0 {
            let lock = job.lock(&name_at(&job, 1, "only")).expect("room");
            drop(lock.acquire().expect("it is free"));
            answer("ready");
            await_line();
            drop(lock);
            answer("dropped");
        } else {
            answer("ready");
            await_line();
            let lock = open_when_there_is_room(&job, 1, "next");
            answer("opened");
            drop(lock);
        }
        await_line();
        return;
    }
    let across = Across::new(&[0, 1]);
    let mut children = across.start(TEST, &[]);
    children.await_answers(&[0, 1], "ready");
    children.stop(1);
    children.say(0, "drop it");
    assert_eq!(children.next_answer(0), "dropped");
    children.signal(1, Signal::CONT);
    children.say(1, "open");
    assert_eq!(children.next_answer(1), "opened");
    (0..2).for_each(|rank| children.say(rank, "end"));
}
