//! Places in nodes' tables of objects, of which there are few: they come back to all who want them, whoever has died
//! with a handle, and though the home does not answer when the last handle is given back. And what stands in them is
//! not lost with one node.
#![cfg(not(model))]

mod common;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::children::{answer, await_line, role};
use common::dying::{Trial, lines_of};
use common::homes::{meet, name_at};
use common::nodes::Across;
use common::ranks::LIMIT;
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::sim::Seeded;
use phalanx::{CounterError, Error, Job, JobOptions, Lock, ObjectError};
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

/// Though silence is allowed for longer than this test, and the first rank to leave is its node's agent. What it had is
/// given back by its neighbour when the home is heard again.
#[test]
fn whoever_leaves_does_not_wait_for_a_silent_home() {
    const TEST: &str = "whoever_leaves_does_not_wait_for_a_silent_home";
    const PLACES: usize = 5;
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().objects(PLACES)).expect("a job");
        let name = |what: &str| name_at(&job, 1, what);
        if job.rank() == 0 {
            let lease = job.lease(&name("lease"), Duration::from_secs(600)).expect("room");
            let objects = (job.lock(&name("lock")), job.rwlock(&name("shared")), job.semaphore(&name("permits"), 2));
            let (lock, shared, permits) =
                (objects.0.expect("room"), objects.1.expect("room"), objects.2.expect("room"));
            let counter = job.counter(&name("counter")).expect("room");
            drop(lock.acquire().expect("it is free"));
            drop(shared.read().expect("it is free"));
            drop(permits.acquire(1).expect("they are free"));
            counter.fetch_add(1).expect("in reach");
            answer("ready");
            await_line();
            // What it has left there is to be taken back.
            assert!(lease.acquire_timeout(Duration::from_millis(50)).is_err());
            drop((lock, shared, permits, counter, lease));
            drop(job);
            answer("left");
            return;
        }
        answer("ready");
        await_line();
        if job.rank() == 1 && job.size() == 3 {
            let locks = ["one", "two", "three", "four", "five"].map(|what| open_when_there_is_room(&job, 1, what));
            assert!(locks.iter().all(|lock| lock.acquire().is_ok()));
            answer("has all");
            await_line();
        }
        return;
    }
    for (nodes, silent) in [(&[0, 0, 1][..], 2), (&[0, 1], 1)] {
        let across = Across::new(nodes);
        let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "600000")]);
        (0..nodes.len()).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
        children.stop(silent);
        children.say(0, "leave");
        assert_eq!(children.next_answer(0), "left");
        children.signal(silent, Signal::CONT);
        if silent == 2 {
            children.say(1, "take all");
            assert_eq!(children.next_answer(1), "has all");
            children.say(1, "end");
        }
        children.say(silent, "end");
    }
}

/// Opens one of a few names, uses it, and gives it back.
fn use_one(job: &Job, which: usize) -> Result<(), Error> {
    let name = format!("{which} comes and goes");
    match which % 6 {
        0 => job.lock(&name)?.acquire_timeout(LIMIT)?.release()?,
        1 => drop(job.counter(&name)?.draw(4)?),
        2 => job.rwlock(&name)?.read_timeout(LIMIT)?.release()?,
        3 => job.semaphore(&name, 3)?.acquire_timeout(2, LIMIT)?.release()?,
        4 => drop(job.fenced::<u64>(&name)?.read()?),
        _ => job.election(&name)?.campaign_timeout(LIMIT)?.resign()?,
    }
    Ok(())
}

/// Does so again and again, in a random order, and writes a line each time.
fn use_all(job: &Job, is_over: &AtomicBool) {
    let seed = fresh_seed();
    let _named = Named::new("places", "names_come_and_go_while_their_homes_are_killed", seed);
    let mut random = Seeded::new(seed.wrapping_add(job.rank() as u64));
    let mut file = OpenOptions::new().append(true).create(true).open(lines_of(job.rank())).expect("a file");
    while !is_over.load(Ordering::Relaxed) {
        let which = random.below(18);
        match use_one(job, which) {
            Ok(()) | Err(Error::Counter(CounterError::AnswerLost { .. } | CounterError::Uncertain { .. })) => {}
            Err(error) => panic!("{which}: {error}"),
        }
        writeln!(file, "{which}").expect("room");
    }
}

/// Names are opened and given back while their homes are killed: in the end all places are there again.
#[test]
fn names_come_and_go_while_their_homes_are_killed() {
    const TEST: &str = "names_come_and_go_while_their_homes_are_killed";
    const PLACES: usize = 20;
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().objects(PLACES)).expect("a job");
        meet(&job);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                await_line();
                is_over.store(true, Ordering::Relaxed);
            });
            use_all(&job, &is_over);
        });
        answer("through");
        await_line();
        if job.rank() == 0 {
            let homes = (0..).map(|number| format!("{number} of all")).filter(|name| job.home_of(name) == Ok(0));
            let begun = Instant::now();
            let names: Vec<String> = homes.take(PLACES).collect();
            while let Err(error) = names.iter().map(|name| job.lock(name)).collect::<Result<Vec<Lock>, _>>() {
                assert!(begun.elapsed() < LIMIT, "{error}");
            }
            answer("has all");
        }
        await_line();
        return;
    }
    let mut trial = Trial::start(TEST, &[1, 2, 1, 2, 1]);
    // Whoever opens a name after a death finds it with a copy, so that no two deaths are one.
    for node in [4, 1, 3] {
        trial.kill_node(node);
        trial.await_progress();
    }
    for what in ["stop", "take all"] {
        trial.living.iter().for_each(|rank| trial.children.say(*rank, what));
        let asked = if what == "stop" { &trial.living[..] } else { &[0] };
        let expected = if what == "stop" { "through" } else { "has all" };
        trial.children.await_answers(asked, expected);
    }
    trial.living.iter().for_each(|rank| trial.children.say(*rank, "end"));
}
