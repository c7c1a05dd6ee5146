//! Reader-writer locks whose readers of one node share one hold at the home: joined without asking it, released by
//! death, carried to the next home, left for later where that does not answer. Between pretended nodes, on the loopback
//! interface.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, answer, await_line, role};
use common::homes::{UNDISTURBED, name_at};
use common::nodes::Across;
use common::ranks::{LIMIT, await_that};
use phalanx::{Job, LockError, RwLock};
use rustix::process::Signal;

/// Longer than a stopped home has to be missed for, in a job that waits patiently.
const PATIENT: (&str, &str) = ("PHALANX_FAILURE_TIMEOUT_MS", "200000");
/// How long a writer waits that is to learn who reads.
const SHORT: Duration = Duration::from_millis(60);

fn open(job: &Job) -> RwLock {
    let home = std::env::var("HOME_NODE").expect("the test has set it").parse().expect("a node");
    let what = std::env::var("LOCK").unwrap_or_else(|_| "lock".to_owned());
    job.rwlock(&name_at(job, home, &what)).expect("a lock")
}

fn join() -> (Job, RwLock) {
    let job = Job::from_env().expect("a job across nodes");
    let lock = open(&job);
    job.world().barrier().expect("all are there");
    (job, lock)
}

/// Does what the test says, line by line, and answers.
fn obey(lock: &RwLock) {
    let (mut read, mut written) = (None, None);
    loop {
        match &*await_line() {
            "read" => {
                read = Some(heard_again(|| lock.read_timeout(LIMIT)));
                answer("reads");
            }
            "ready" => answer("ready"),
            "join" => answer(matches!(lock.try_read(), Ok(Some(_)))),
            "leave" => {
                read.take().expect("it reads").release().expect("it has read to the end");
                answer("left");
            }
            "let go" => {
                drop(read.take());
                answer("gone");
            }
            "leave unheard" => {
                let error = read.take().expect("it reads").release().expect_err("the home is silent");
                assert!(matches!(error, LockError::Unreachable { node: 1, .. }), "{error}");
                answer("not known");
            }
            "read unheard" => {
                let error = lock.read().expect_err("the home is silent");
                assert!(matches!(error, LockError::Unreachable { node: 1, .. }), "{error}");
                answer("not known");
            }
            "read shortly" => {
                let error = lock.read_timeout(SHORT).expect_err("the home does not answer");
                assert!(matches!(error, LockError::TimedOut { holder: None, .. }), "{error}");
                answer("late");
            }
            "leave in vain" => {
                let error = read.take().expect("it has read").release().expect_err("others have it");
                assert!(matches!(error, LockError::Excluded { .. }), "{error}");
                assert!(matches!(lock.read(), Err(LockError::Excluded { .. })));
                answer("refused");
            }
            "try to read" => answer(if lock.try_read().expect("a lock").is_some() { "can" } else { "cannot" }),
            "who reads" => answer(format!("{:?}", readers_of(lock))),
            "write" => {
                answer("waits");
                written = Some(heard_again(|| lock.write_timeout(LIMIT)));
                answer("writes");
            }
            "stop writing" => {
                written.take().expect("it writes").release().expect("it has written to the end");
                answer("through");
            }
            "downgrade" => {
                read = Some(written.take().expect("it writes").downgrade().expect("it has written to the end"));
                answer("reads");
            }
            "end" => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Has what nobody else has for long, though a node may not be heard for a while.
fn heard_again<T: std::fmt::Debug>(call: impl Fn() -> Result<T, LockError>) -> T {
    let begun = Instant::now();
    loop {
        match call() {
            Err(LockError::Unreachable { .. }) if begun.elapsed() < LIMIT => std::thread::yield_now(),
            ended => return ended.expect("others leave, or die"),
        }
    }
}

/// Who reads, as a writer learns that waits for them in vain; it may take a while until it is the one that does.
fn readers_of(lock: &RwLock) -> Vec<usize> {
    let begun = Instant::now();
    loop {
        match lock.write_timeout(SHORT) {
            Err(LockError::StillRead { readers, .. }) => return readers,
            Err(LockError::TimedOut { .. } | LockError::Unreachable { .. }) if begun.elapsed() < LIMIT => {}
            other => panic!("{:?}", other.map(|guard| guard.token())),
        }
    }
}

fn start(test: &str, nodes: &[usize], home: &str, variables: &[(&str, &str)]) -> (Across, Children) {
    let across = Across::new(nodes);
    let variables: Vec<(&str, &str)> = variables.iter().copied().chain([("HOME_NODE", home)]).collect();
    let children = across.start(test, &variables);
    (across, children)
}

fn order(children: &mut Children, rank: usize, line: &str, expected: &str) {
    children.say(rank, line);
    assert_eq!(children.next_answer(rank), expected, "rank {rank}, told to {line}");
}

/// A rank waits for the lock, and then writes.
fn write(children: &mut Children, rank: usize) {
    order(children, rank, "write", "waits");
    assert_eq!(children.next_answer(rank), "writes");
}

/// All processes of the home are stopped: another reader comes and goes all the same.
#[test]
fn the_second_reader_of_a_node_asks_nobody() {
    const TEST: &str = "the_second_reader_of_a_node_asks_nobody";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 1, 1], "0", &[PATIENT]);
    order(&mut children, 1, "read", "reads");
    children.stop(0);
    order(&mut children, 2, "read", "reads");
    order(&mut children, 1, "leave", "left");
    order(&mut children, 1, "read", "reads");
    order(&mut children, 2, "leave", "left");
    order(&mut children, 2, "try to read", "can");
    children.signal(0, Signal::CONT);
    order(&mut children, 0, "who reads", "[1]");
    order(&mut children, 2, "read", "reads");
    order(&mut children, 0, "who reads", "[1, 2]");
    order(&mut children, 1, "leave", "left");
    order(&mut children, 0, "who reads", "[2]");
    order(&mut children, 2, "leave", "left");
    write(&mut children, 0);
    order(&mut children, 0, "stop writing", "through");
    (0..3).for_each(|rank| children.say(rank, "end"));
    (0..3).for_each(|rank| assert!(children.finish(rank).1.success()));
}

/// Who has opened the hold is killed, and then the last one that shares it: a writer waits for those who live.
#[test]
fn readers_that_are_killed_hold_no_writer_up() {
    const TEST: &str = "readers_that_are_killed_hold_no_writer_up";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 1, 1, 1], "0", &[]);
    order(&mut children, 1, "read", "reads");
    order(&mut children, 2, "read", "reads");
    order(&mut children, 0, "who reads", "[1, 2]");
    children.kill(1);
    order(&mut children, 0, "who reads", "[2]");
    order(&mut children, 0, "write", "waits");
    children.kill(2);
    assert_eq!(children.next_answer(0), "writes");
    order(&mut children, 3, "try to read", "cannot");
    order(&mut children, 0, "stop writing", "through");
    order(&mut children, 3, "read", "reads");
    order(&mut children, 3, "leave", "left");
}

/// A node's readers wait for a writer of another node together. Who was to look for them is killed, or all but one.
#[test]
fn readers_that_wait_together_go_on_without_those_that_are_killed() {
    const TEST: &str = "readers_that_wait_together_go_on_without_those_that_are_killed";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 1, 1, 1], "0", &[]);
    write(&mut children, 0);
    order(&mut children, 1, "try to read", "cannot");
    (1..4).for_each(|rank| children.say(rank, "read"));
    children.kill(1);
    order(&mut children, 0, "stop writing", "through");
    (2..4).for_each(|rank| assert_eq!(children.next_answer(rank), "reads"));
    children.kill(3);
    order(&mut children, 2, "leave", "left");
    write(&mut children, 2);
    // By its own part.
    order(&mut children, 2, "downgrade", "reads");
    order(&mut children, 0, "who reads", "[2]");
    order(&mut children, 2, "leave", "left");
    write(&mut children, 0);
}

/// A reader that is stopped is passed by, whether or not others of its node read with it; its release is refused.
#[test]
fn a_stopped_reader_is_passed_by() {
    const TEST: &str = "a_stopped_reader_is_passed_by";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 1, 1, 1], "0", &[]);
    order(&mut children, 1, "read", "reads");
    order(&mut children, 2, "read", "reads");
    children.stop(2);
    order(&mut children, 0, "write", "waits");
    order(&mut children, 1, "leave", "left");
    assert_eq!(children.next_answer(0), "writes");
    children.signal(2, Signal::CONT);
    order(&mut children, 2, "leave in vain", "refused");
    order(&mut children, 0, "stop writing", "through");
    order(&mut children, 3, "read", "reads");
    order(&mut children, 1, "read", "reads");
    order(&mut children, 0, "who reads", "[1, 3]");
}

/// The home falls silent, and the nodes that are left are too few to say that it has failed: those who share the hold
/// come and go; the last one cannot tell the home, and others that come then read nothing; when it is heard again the
/// hold is closed.
#[test]
fn a_hold_that_cannot_be_closed_is_closed_when_the_home_is_heard_again() {
    const TEST: &str = "a_hold_that_cannot_be_closed_is_closed_when_the_home_is_heard_again";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 0, 1], "1", &[]);
    order(&mut children, 0, "read", "reads");
    children.stop(2);
    order(&mut children, 1, "read", "reads");
    order(&mut children, 0, "leave", "left");
    order(&mut children, 1, "leave unheard", "not known");
    order(&mut children, 0, "read unheard", "not known");
    order(&mut children, 1, "read unheard", "not known");
    children.signal(2, Signal::CONT);
    use_it_again(&mut children);
}

/// All have it, one after the other, and two share a hold again, as soon as the last one is closed: the second one asks
/// nobody.
fn use_it_again(children: &mut Children) {
    write(children, 2);
    order(children, 2, "stop writing", "through");
    await_that("the hold is left", || can_share(children, [0, 1, 2]));
    order(children, 0, "read", "reads");
    children.stop(2);
    order(children, 1, "read", "reads");
    children.signal(2, Signal::CONT);
    order(children, 2, "who reads", "[0, 1]");
    order(children, 1, "let go", "gone");
    order(children, 2, "write", "waits");
    order(children, 0, "let go", "gone");
    assert_eq!(children.next_answer(2), "writes");
    order(children, 2, "stop writing", "through");
    (0..3).for_each(|rank| children.say(rank, "end"));
    (0..3).for_each(|rank| assert!(children.finish(rank).1.success()));
}

/// Nothing is heard of the home for longer than a reader waits: it leaves the hold that it was opening, and others of
/// its node do not wait for it.
#[test]
fn a_hold_that_was_given_up_while_it_was_opened_is_closed_when_the_home_answers() {
    const TEST: &str = "a_hold_that_was_given_up_while_it_was_opened_is_closed_when_the_home_answers";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 0, 1], "1", &[UNDISTURBED]);
    (0..3).for_each(|rank| order(&mut children, rank, "try to read", "can"));
    children.stop(2);
    order(&mut children, 0, "read shortly", "late");
    order(&mut children, 1, "try to read", "cannot");
    children.signal(2, Signal::CONT);
    use_it_again(&mut children);
}

/// The last one that shares a hold leaves the job before the home is heard: its node's steward closes the hold.
#[test]
fn who_leaves_the_job_while_it_closes_a_hold_holds_nobody_up() {
    const TEST: &str = "who_leaves_the_job_while_it_closes_a_hold_holds_nobody_up";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 0, 0, 1], "1", &[]);
    order(&mut children, 0, "read", "reads");
    (0..4).for_each(|rank| order(&mut children, rank, "ready", "ready"));
    children.stop(3);
    order(&mut children, 0, "leave unheard", "not known");
    children.say(0, "end");
    assert!(children.finish(0).1.success());
    children.signal(3, Signal::CONT);
    write(&mut children, 3);
    order(&mut children, 3, "stop writing", "through");
    await_that("the hold is left", || can_share(&mut children, [1, 2, 3]));
}

/// A rank leaves the job that was opening a hold, and for long nothing is heard of the home: when it answers, though
/// nobody dies or leaves then, the hold is closed.
#[test]
fn a_hold_that_was_left_in_the_middle_is_closed_however_late_the_home_answers() {
    const TEST: &str = "a_hold_that_was_left_in_the_middle_is_closed_however_late_the_home_answers";
    /// For longer than a steward sweeps after somebody has left: 20 times, each 100 ms.
    const LONG: Duration = Duration::from_secs(3);
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 0, 0, 1], "1", &[PATIENT]);
    (0..4).for_each(|rank| order(&mut children, rank, "try to read", "can"));
    children.stop(3);
    order(&mut children, 1, "read shortly", "late");
    children.say(1, "end");
    assert!(children.finish(1).1.success());
    std::thread::sleep(LONG);
    children.signal(3, Signal::CONT);
    write(&mut children, 3);
    order(&mut children, 3, "stop writing", "through");
    await_that("the hold is left", || can_share(&mut children, [0, 2, 3]));
}

/// Whether two ranks of a node can share a hold: the second one reads while the home is stopped.
fn can_share(children: &mut Children, [first, second, home]: [usize; 3]) -> bool {
    order(children, first, "read", "reads");
    children.stop(home);
    children.say(second, "join");
    let can = children.next_answer(second) == "true";
    children.signal(home, Signal::CONT);
    order(children, first, "let go", "gone");
    can
}

/// A rank that has read by its own part, as its neighbour was opening the hold, gives up, too, drops its handle, and is
/// stopped before the home answers; its neighbour drops the last handle then. The lock goes only when that rank has
/// seen to its part.
#[test]
fn a_lock_goes_behind_what_was_left_to_do_with_it() {
    const TEST: &str = "a_lock_goes_behind_what_was_left_to_do_with_it";
    if role().is_some() {
        let (job, lock) = join();
        obey(&lock);
        drop(lock);
        answer("dropped");
        assert_eq!(await_line(), "open");
        let lock = open(&job);
        answer("open");
        return obey(&lock);
    }
    let (_across, mut children) = start(TEST, &[0, 0, 1], "1", &[UNDISTURBED]);
    (0..3).for_each(|rank| order(&mut children, rank, "try to read", "can"));
    children.stop(2);
    order(&mut children, 0, "read shortly", "late");
    order(&mut children, 1, "try to read", "cannot");
    order(&mut children, 1, "end", "dropped");
    children.stop(1);
    children.signal(2, Signal::CONT);
    order(&mut children, 0, "read", "reads");
    order(&mut children, 0, "leave", "left");
    order(&mut children, 0, "end", "dropped");
    children.signal(1, Signal::CONT);
    order(&mut children, 2, "end", "dropped");
    (0..3).for_each(|rank| order(&mut children, rank, "open", "open"));
    // It sees to what it leaves, as ever.
    children.stop(2);
    order(&mut children, 1, "read shortly", "late");
    children.signal(2, Signal::CONT);
    use_it_again(&mut children);
}

/// The home is killed while two ranks share a hold; the next home is theirs, or another node.
#[test]
fn a_hold_goes_on_when_the_home_is_lost() {
    const TEST: &str = "a_hold_goes_on_when_the_home_is_lost";
    if role().is_some() {
        let (_job, lock) = join();
        return obey(&lock);
    }
    // Names whose next homes are not all the same.
    for lock in ["lock", "key", "bolt", "latch"] {
        let (_across, mut children) = start(TEST, &[0, 1, 1, 2, 3], "2", &[("LOCK", lock)]);
        order(&mut children, 1, "read", "reads");
        order(&mut children, 2, "read", "reads");
        children.kill(3);
        order(&mut children, 0, "who reads", "[1, 2]");
        order(&mut children, 1, "leave", "left");
        order(&mut children, 4, "who reads", "[2]");
        order(&mut children, 1, "read", "reads");
        order(&mut children, 0, "write", "waits");
        order(&mut children, 2, "leave", "left");
        order(&mut children, 1, "leave", "left");
        assert_eq!(children.next_answer(0), "writes");
        order(&mut children, 1, "try to read", "cannot");
        order(&mut children, 0, "stop writing", "through");
        order(&mut children, 2, "read", "reads");
        order(&mut children, 4, "who reads", "[2]");
        order(&mut children, 2, "leave", "left");
    }
}
