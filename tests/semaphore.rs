//! Semaphores: never more permits out than there are, first come first served, returned by death. By threads, by
//! processes, and between nodes (pretended, on the loopback interface).
#![cfg(not(model))]

mod common;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::children::{Children, Launch, answer, await_line, role};
use common::nodes::{Across, Marks};
use common::ranks::{Gate, LIMIT, await_that, on_ranks};
use phalanx::{Job, JobOptions, LockError, ObjectError, ObjectKind, Semaphore, WaitPolicy};

const SHORT: Duration = Duration::from_millis(30);

/// Waits until somebody waits for permits, where one is left and nobody else takes it.
fn await_none_left(semaphore: &Semaphore) {
    await_that("nobody waits", || semaphore.try_acquire(1).expect("a semaphore").is_none());
}

fn join() -> Job {
    Job::from_env().expect("a job")
}

#[test]
fn there_are_never_more_out_than_there_are() {
    const PERMITS: u64 = 3;
    const ROUNDS: u64 = 1500;
    for options in [JobOptions::new(), JobOptions::new().wait(WaitPolicy::Park)] {
        let (out, most) = (AtomicU64::new(0), AtomicU64::new(0));
        on_ranks(4, &options, |job| {
            let semaphore = job.semaphore("few", PERMITS).expect("a semaphore");
            assert_eq!((semaphore.name(), semaphore.permits()), ("few", PERMITS));
            job.world().barrier().expect("all are there");
            for round in 0..ROUNDS {
                let count = (round + job.rank() as u64) % PERMITS + 1;
                let permits = match round % 5 {
                    0 => semaphore.try_acquire(count).expect("nobody fails"),
                    _ => Some(semaphore.acquire(count).expect("nobody fails")),
                };
                let Some(permits) = permits else { continue };
                assert_eq!(permits.count(), count);
                let now = out.fetch_add(count, Ordering::SeqCst) + count;
                most.fetch_max(now, Ordering::SeqCst);
                assert!(now <= PERMITS, "{now} of {PERMITS}");
                out.fetch_sub(count, Ordering::SeqCst);
                permits.release().expect("it had them");
            }
            job.world().barrier().expect("all are through");
            drop(semaphore.try_acquire(0).expect("a semaphore").expect("nobody wants any"));
            job.world().barrier().expect("all are through");
        });
    }
}

#[test]
fn who_wants_many_is_not_passed_by() {
    let (order, gate) = (Mutex::new(Vec::new()), Gate::new(3));
    let note = |rank: usize| order.lock().expect("nobody panics with it").push(rank);
    on_ranks(4, &JobOptions::new(), |job| {
        let semaphore = job.semaphore("three", 3).expect("a semaphore");
        let meet = || job.world().barrier().expect("all are there");
        meet();
        match job.rank() {
            0 => {
                let (first, second) = (semaphore.acquire(1).expect("three"), semaphore.acquire(1).expect("two"));
                meet();
                await_none_left(&semaphore);
                gate.wait();
                // Rank 1 wants all three, ranks 2 and 3 one each, of which one is left.
                await_that("ranks 2 and 3 do not wait", || semaphore.queue() == [2, 3]);
                drop(first);
                assert!(semaphore.try_acquire(1).expect("a semaphore").is_none(), "others wait");
                drop(second);
            }
            1 => {
                meet();
                let permits = semaphore.acquire(3).expect("nobody fails");
                note(1);
                drop(permits);
            }
            rank => {
                meet();
                gate.wait();
                await_that("those before it do not wait", || semaphore.queue().len() == rank - 2);
                let permits = semaphore.acquire(1).expect("nobody fails");
                note(rank);
                drop(permits);
            }
        }
        meet();
    });
    assert_eq!(order.lock().expect("nobody panics with it")[0], 1);
}

#[test]
fn too_many_and_other_numbers_are_refused() {
    on_ranks(1, &JobOptions::new(), |job| {
        let semaphore = job.semaphore("two", 2).expect("a semaphore");
        let error = semaphore.acquire(3).expect_err("there are two");
        assert_eq!(error, LockError::TooMany { rank: 0, name: "two".to_owned(), wanted: 3, permits: 2 });
        assert!(matches!(semaphore.try_acquire(u64::MAX), Err(LockError::TooMany { .. })));
        let other = job.semaphore("two", 3).expect_err("it has two");
        assert!(matches!(other, ObjectError::OtherParameter { wanted: 3, found: 2, .. }), "{other}");
        let other = job.rwlock("two").expect_err("another kind");
        assert!(matches!(other, ObjectError::OtherKind { found: ObjectKind::Semaphore, .. }), "{other}");
    });
}

#[test]
fn all_handles_of_a_rank_have_the_same_permits() {
    on_ranks(2, &JobOptions::new(), |job| {
        let semaphore = job.semaphore("two", 2).expect("a semaphore");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let permit = semaphore.acquire(1).expect("two");
            let same = job.semaphore("two", 2).expect("the same");
            let other = same.acquire(1).expect("one");
            assert!(same.try_acquire(1).expect("a semaphore").is_none());
            drop(permit);
            std::mem::forget(other);
            drop(same);
            // What was forgotten stays out, also where the rank comes with another handle.
            drop(semaphore);
            let again = job.semaphore("two", 2).expect("the same");
            let permit = again.acquire(1).expect("one is left");
            assert!(again.try_acquire(1).expect("a semaphore").is_none());
            drop(permit);
            assert!(again.try_acquire(2).expect("a semaphore").is_none());
        }
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn whoever_is_out_of_time_leaves_no_hole() {
    on_ranks(3, &JobOptions::new(), |job| {
        let semaphore = job.semaphore("two", 2).expect("a semaphore");
        let meet = || job.world().barrier().expect("all are there");
        meet();
        match job.rank() {
            0 => {
                let permit = semaphore.acquire(1).expect("two");
                meet();
                meet();
                drop(permit);
                meet();
            }
            1 => {
                meet();
                let error = semaphore.acquire_timeout(2, SHORT).expect_err("one is left");
                let LockError::TooFewLeft { wanted: 2, left: 1, waited, .. } = &error else { panic!("{error}") };
                assert!(*waited >= SHORT && error.to_string().contains("1 are left"), "{error}");
                assert!(semaphore.try_acquire(2).expect("a semaphore").is_none());
                drop(semaphore.try_acquire(1).expect("a semaphore").expect("one is left"));
                meet();
                drop(semaphore.acquire_timeout(2, LIMIT).expect("they are returned"));
                meet();
            }
            _ => {
                meet();
                meet();
                drop(semaphore.acquire_timeout(2, LIMIT).expect("they are returned"));
                meet();
            }
        }
    });
}

/// Who has permits is killed, and so is who waits at the head of the queue.
#[test]
fn permits_of_the_dead_are_returned() {
    const TEST: &str = "permits_of_the_dead_are_returned";
    if role().is_some() {
        let job = join();
        let semaphore = job.semaphore("two", 2).expect("a semaphore");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let _permits = semaphore.acquire(2).expect("two");
            answer("has");
            await_line();
        }
        assert_eq!(await_line(), "go on");
        if job.rank() == 2 {
            while semaphore.queue().is_empty() {
                let Err(LockError::TimedOut { .. }) = semaphore.acquire_timeout(1, Duration::from_millis(1)) else {
                    continue;
                };
                break;
            }
        }
        answer("asks");
        let permits = semaphore.acquire(2).expect("the others are dead");
        answer(permits.count());
        return;
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "has");
    for rank in [1, 2] {
        children.say(rank, "go on");
        assert_eq!(children.next_answer(rank), "asks");
    }
    children.kill(1);
    children.kill(0);
    assert_eq!(children.next_answer(2), "2");
    assert!(children.finish(2).1.success());
}

#[test]
fn a_stopped_holder_loses_its_permits_and_is_told() {
    const TEST: &str = "a_stopped_holder_loses_its_permits_and_is_told";
    if role().is_some() {
        let job = join();
        let semaphore = job.semaphore("one", 1).expect("a semaphore");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let permit = semaphore.acquire(1).expect("one");
            answer("has");
            // Stopped in here.
            assert_eq!(await_line(), "go on");
            let error = permit.release().expect_err("others have it");
            assert!(matches!(error, LockError::Excluded { rank: 0, .. }), "{error}");
            assert!(matches!(semaphore.acquire(1), Err(LockError::Excluded { .. })));
            return answer("refused");
        }
        assert_eq!(await_line(), "it is stopped");
        let permit = semaphore.acquire(1).expect("its holder has failed");
        answer("has");
        assert_eq!(await_line(), "go on");
        assert!(semaphore.try_acquire(1).expect("a semaphore").is_none());
        return permit.release().expect("it had it");
    }
    let mut children = Launch::new(2).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "has");
    children.stop(0);
    children.say(1, "it is stopped");
    assert_eq!(children.next_answer(1), "has");
    children.signal(0, rustix::process::Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "refused");
    children.say(1, "go on");
    assert!(children.finish(1).1.success());
}

/// Takes and returns permits as quickly as it can, with a file for each that it has: no more files than permits.
fn use_it_hotly(semaphore: &Semaphore, marks: &Marks, rank: usize) {
    let permits = usize::try_from(semaphore.permits()).expect("few");
    for round in 0_usize.. {
        let count = (round + rank) % permits + 1;
        let held = semaphore.acquire_timeout(count as u64, LIMIT).expect("whoever dies, the semaphore goes on");
        let file = |index| marks.0.join(format!("{}.{round}.{index}", std::process::id()));
        let mine: Vec<_> = (0..count).map(file).collect();
        mine.iter().for_each(|path| fs::write(path, "").expect("a file"));
        // Those that are there when all have been listed were so at one time: no two have one name.
        let listed: Vec<_> = fs::read_dir(&marks.0).expect("it is there").filter_map(Result::ok).collect();
        let out =
            listed.iter().filter(|entry| entry.path().exists() && lives(marks, &entry.file_name().to_string_lossy()));
        let out = out.count();
        assert!(out <= permits, "{out} of {permits} are out");
        mine.iter().for_each(|path| fs::remove_file(path).expect("this rank's"));
        drop(held);
        if round % 50 == 0 {
            answer("alive");
        }
    }
}

/// Whether a file of this name is one of a process that has not been killed.
fn lives(marks: &Marks, name: &str) -> bool {
    let pid = name.split_once('.').and_then(|(pid, _)| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !marks.0.join(format!("killed {pid}")).exists())
}

fn kill(across: &Across, children: &mut Children, victim: usize) {
    fs::write(across.marks.join(format!("killed {}", children.pid(victim))), "").expect("a file");
    children.kill(victim);
}

fn start_hot(across: &Across, test: &str, name: &str) -> Children {
    let mut children = Children::default();
    for rank in 0..across.nodes.len() {
        let mut command = match across.nodes.iter().any(|node| *node > 0) {
            true => across.rank(test, rank),
            false => across.launch.rank(test, "rank", rank),
        };
        command.env("ACROSS_MARKS", &across.marks).env("SEMAPHORE_NAME", name);
        children.start(command);
    }
    children
}

#[test]
fn whoever_is_killed_in_the_middle_holds_nobody_up() {
    const TEST: &str = "whoever_is_killed_in_the_middle_holds_nobody_up";
    if role().is_some() {
        let job = join();
        let name = std::env::var("SEMAPHORE_NAME").expect("the test has set it");
        let semaphore = job.semaphore(&name, 3).expect("a semaphore");
        job.world().barrier().expect("all are there");
        return use_it_hotly(&semaphore, &Marks::of_this_rank(), job.rank());
    }
    for (nodes, name) in
        [([0, 0, 0, 0], "a"), ([0, 0, 0, 0], "b"), ([0, 1, 0, 1], "a"), ([0, 1, 0, 1], "b"), ([0, 1, 0, 1], "c")]
    {
        let across = Across::new(&nodes);
        let mut children = start_hot(&across, TEST, name);
        for victim in [0, 1] {
            (victim..4).for_each(|rank| assert_eq!(children.next_answer(rank), "alive"));
            kill(&across, &mut children, victim);
        }
        (2..4).for_each(|rank| (0..4).for_each(|_| assert_eq!(children.next_answer(rank), "alive")));
        (2..4).for_each(|rank| kill(&across, &mut children, rank));
    }
}

#[test]
fn ranks_of_several_nodes_share_the_permits() {
    const TEST: &str = "ranks_of_several_nodes_share_the_permits";
    if role().is_some() {
        let job = join();
        let semaphores: Vec<_> =
            (0..3).map(|index| job.semaphore(&format!("s {index}"), 2).expect("a semaphore")).collect();
        let meet = || job.world().barrier().expect("all are there");
        for semaphore in &semaphores {
            meet();
            if job.rank() == 0 {
                let permits = semaphore.acquire(2).expect("two");
                meet();
                meet();
                drop(permits);
            } else {
                meet();
                let taken = semaphore.try_acquire(1).expect("a semaphore");
                assert!(taken.is_none(), "{taken:?}");
                let error = semaphore.acquire_timeout(1, SHORT).expect_err("rank 0 has them");
                assert!(matches!(error, LockError::TooFewLeft { .. } | LockError::TimedOut { .. }), "{error}");
                meet();
            }
            for round in 0..100 {
                let count = (round + job.rank() as u64) % 2 + 1;
                drop(semaphore.acquire_timeout(count, LIMIT).expect("it comes to all"));
            }
            meet();
        }
        return answer("done");
    }
    for nodes in [&[1, 2][..], &[1, 1, 1]] {
        Across::of_counts(nodes).run_to_done(TEST, &[]);
    }
}

/// The home is killed while permits are out, and while others wait for them.
#[test]
fn permits_are_out_still_when_the_home_is_lost() {
    const TEST: &str = "permits_are_out_still_when_the_home_is_lost";
    if role().is_some() {
        let job = join();
        let names = (0..).map(|index| format!("semaphore {index}"));
        let name = names.clone().find(|name| job.home_of(name) == Ok(2)).expect("some name is at home there");
        let semaphore = job.semaphore(&name, 3).expect("a semaphore");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let permits = semaphore.acquire(2).expect("three");
            answer("has");
            assert_eq!(await_line(), "the home is killed");
            // Rank 1 waits for three; it has not taken the one that is left.
            permits.release().expect("it had them");
            answer("released");
        }
        if job.rank() == 1 {
            assert_eq!(await_line(), "ask");
            let error = semaphore.acquire_timeout(3, SHORT).expect_err("one is left");
            assert!(matches!(error, LockError::TooFewLeft { left: 1, .. }), "{error}");
            answer("asks");
            // The home is killed in here.
            assert_eq!(semaphore.acquire_timeout(3, LIMIT).expect("they are returned").count(), 3);
            answer("had");
        }
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 2]);
    let mut children = across.start(TEST, &[]);
    assert_eq!(children.next_answer(0), "has");
    children.say(1, "ask");
    assert_eq!(children.next_answer(1), "asks");
    children.kill(2);
    children.say(0, "the home is killed");
    assert_eq!(children.next_answer(0), "released");
    assert_eq!(children.next_answer(1), "had");
}
