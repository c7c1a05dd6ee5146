//! An object whose next home has no room for it: its users are told so, all others move, and it follows when there is
//! room.
#![cfg(not(model))]

mod common;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use common::children::{answer, await_line, role};
use common::homes::meet;
use common::nodes::Across;
use common::ranks::{LIMIT, await_that};
use phalanx::{Election, Job, JobOptions, Lease, Lock, RwLock, Semaphore};

/// Places in each table.
const OBJECTS: usize = 12;
const TTL: Duration = Duration::from_millis(200);

enum Object {
    Lock(Lock),
    RwLock(RwLock),
    Semaphore(Semaphore),
    Lease(Lease),
    Election(Election),
}

impl Object {
    fn open(job: &Job, index: usize, name: &str) -> Self {
        match index % 5 {
            0 => Self::Lock(job.lock(name).expect("room")),
            1 => Self::RwLock(job.rwlock(name).expect("room")),
            2 => Self::Semaphore(job.semaphore(name, 2).expect("room")),
            3 => Self::Lease(job.lease(name, TTL).expect("room")),
            _ => Self::Election(job.election(name).expect("room")),
        }
    }

    /// Has it and gives it back; what went wrong, and the token, if there is one.
    fn have(&self) -> Result<u64, String> {
        match self {
            Self::Lock(lock) => lock.acquire().map(|guard| guard.token().0).map_err(text),
            Self::RwLock(lock) => {
                drop(lock.read().map_err(text)?);
                lock.write().map(|guard| guard.token().0).map_err(text)
            }
            Self::Semaphore(semaphore) => semaphore.acquire(2).map(|_| u64::MAX).map_err(text),
            Self::Lease(lease) => lease.acquire().map(|guard| guard.token().0).map_err(text),
            Self::Election(election) => election.campaign().map(|leads| leads.term().0).map_err(text),
        }
    }
}

fn text(error: impl Debug) -> String {
    format!("{error:?}")
}

/// The first names that are at home on a node.
fn names_at(job: &Job, home: usize, what: &str) -> Vec<String> {
    let names = (0..).map(|index| format!("{what} {index}"));
    names.filter(|name| job.home_of(name) == Ok(home)).take(OBJECTS).collect()
}

#[test]
fn objects_without_room_at_their_next_home_say_so_and_hold_nothing_else_up() {
    const TEST: &str = "objects_without_room_at_their_next_home_say_so_and_hold_nothing_else_up";
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().objects(OBJECTS)).expect("a job");
        return match job.rank() {
            0 => {
                meet(&job);
                answer("ready");
                drop(await_line());
            }
            1 => use_all(&job),
            _ => take_all_room(&job),
        };
    }
    let across = Across::new(&[0, 1, 2]);
    let mut children = across.start(TEST, &[]);
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "ready", "rank {rank}"));
    children.kill(0);
    children.say(1, "go");
    assert_eq!(children.next_answer(1), "told");
    children.say(2, "give room");
    assert_eq!(children.next_answer(2), "given");
    children.say(1, "go");
    assert_eq!(children.next_answer(1), "had all");
    (1..3).for_each(|rank| children.say(rank, "end"));
}

/// All that is at home on node 1.
fn take_all_room(job: &Job) {
    let locks: Vec<Lock> = names_at(job, 1, "other").iter().map(|name| job.lock(name).expect("room")).collect();
    meet(job);
    answer("ready");
    await_line();
    drop(locks);
    answer("given");
    await_line();
}

fn use_all(job: &Job) {
    let names = names_at(job, 0, "moving");
    let objects: Vec<Object> = names.iter().enumerate().map(|(index, name)| Object::open(job, index, name)).collect();
    let tokens: Vec<u64> = objects.iter().map(|object| object.have().expect("nobody else has it")).collect();
    let held = objects.iter().map(|object| if let Object::Lock(lock) = object { lock.acquire().ok() } else { None });
    let held: Vec<_> = held.collect();
    meet(job);
    answer("ready");
    await_line();
    await_that("node 0 is dead", || job.home_of(&names[0]) != Ok(0));
    for guard in held.into_iter().flatten() {
        guard.release().expect("it was held to the end");
    }
    let next = |name: &str| job.home_of(name).expect("a name");
    assert!(names.iter().any(|name| next(name) == 1) && names.iter().any(|name| next(name) == 2), "{names:?}");
    for ((name, object), token) in names.iter().zip(&objects).zip(&tokens) {
        match (next(name), object.have()) {
            (1, Err(error)) => assert!(error.starts_with("NoRoom") && error.contains("node: 1,"), "{name}: {error}"),
            (2, Ok(later)) => assert!(later > *token || later == u64::MAX, "{name}: {later} after {token}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    answer("told");
    await_line();
    let begun = Instant::now();
    for ((name, object), token) in names.iter().zip(&objects).zip(&tokens) {
        let later = loop {
            match object.have() {
                Ok(later) => break later,
                Err(error) => assert!(error.starts_with("NoRoom") && begun.elapsed() < LIMIT, "{name}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(later > *token || later == u64::MAX, "{name}: {later} after {token}");
    }
    answer("had all");
    await_line();
}
