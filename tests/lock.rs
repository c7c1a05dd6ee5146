//! Named locks on one node: first come first served, bounded, fenced, and released by death. By threads and by
//! processes.

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::children::{Launch, answer, await_line, role};
use common::ranks::{LIMIT, await_that, on_ranks};
use phalanx::{Job, JobOptions, Lock, LockError, ObjectError, ObjectKind};

/// Waits until somebody else has a claim or holds the lock: until it cannot be had.
fn await_taken(lock: &Lock) {
    await_that("nobody wants it", || lock.try_acquire().expect("a lock").is_none());
}

fn await_queue(lock: &Lock, length: usize) {
    await_that("too few wait", || lock.queue().len() >= length);
}

#[test]
fn one_holds_it_at_a_time_and_tokens_grow() {
    const ROUNDS: u64 = 2000;
    let (inside, last, sum) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(0));
    for options in [JobOptions::new(), JobOptions::new().wait(phalanx::WaitPolicy::Park)] {
        last.store(0, Ordering::SeqCst);
        on_ranks(4, &options, |job| {
            let lock = job.lock("shared").expect("a lock");
            // All have it before the first drops it: the tokens are one lock's.
            job.world().barrier().expect("all are there");
            for _ in 0..ROUNDS {
                let guard = lock.acquire().expect("nobody fails");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else is inside");
                assert!(last.swap(guard.token().0, Ordering::SeqCst) < guard.token().0);
                *sum.lock().expect("nobody panics with it") += 1;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().expect("it was held");
            }
            job.world().barrier().expect("all are through");
        });
    }
    assert_eq!(*sum.lock().expect("nobody panics with it"), 2 * 4 * ROUNDS);
}

#[test]
fn those_who_ask_are_served_in_their_order() {
    const RANKS: usize = 5;
    let order = Mutex::new(Vec::new());
    on_ranks(RANKS, &JobOptions::new(), |job| {
        let lock = job.lock("queue").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.acquire().expect("it is free");
            job.world().barrier().expect("it is held");
            await_queue(&lock, RANKS - 1);
            drop(guard);
        } else {
            job.world().barrier().expect("it is held");
            await_queue(&lock, job.rank() - 1);
            let guard = lock.acquire().expect("in turn");
            order.lock().expect("nobody panics with it").push(job.rank());
            drop(guard);
        }
        job.world().barrier().expect("all are through");
    });
    assert_eq!(*order.lock().expect("nobody panics with it"), [1, 2, 3, 4]);
}

#[test]
fn what_one_holds_or_has_asked_for_is_not_had_twice() {
    on_ranks(1, &JobOptions::new(), |job| {
        let (lock, same) = (job.lock("mine").expect("a lock"), job.lock("mine").expect("the same"));
        let guard = lock.acquire().expect("it is free");
        for again in [lock.acquire().err(), same.acquire().err(), same.try_acquire().err(), same.request().err()] {
            assert_eq!(again, Some(LockError::AlreadyHeld { rank: 0, name: "mine".to_owned() }));
        }
        drop(guard);
        let mut request = lock.request().expect("it is free");
        assert!(request.test().expect("nobody fails"));
        assert!(matches!(lock.acquire(), Err(LockError::AlreadyHeld { .. })));
        let guard = request.wait().expect("it is granted");
        guard.release().expect("it was held");
        assert!(lock.try_acquire().expect("it is free").is_some());
    });
}

#[test]
fn whoever_is_out_of_time_learns_who_holds_it_and_leaves_no_hole() {
    on_ranks(3, &JobOptions::new(), |job| {
        let lock = job.lock("busy").expect("a lock");
        job.world().barrier().expect("all are there");
        match job.rank() {
            0 => {
                let guard = lock.acquire().expect("it is free");
                job.world().barrier().expect("it is held");
                job.world().barrier().expect("rank 1 has given up");
                await_queue(&lock, 1);
                drop(guard);
            }
            1 => {
                job.world().barrier().expect("it is held");
                let error = lock.acquire_timeout(Duration::from_millis(30)).expect_err("rank 0 has it");
                let LockError::TimedOut { holder, ahead, waited, .. } = &error else { panic!("{error}") };
                assert_eq!((*holder, ahead.as_slice()), (Some(0), &[][..]), "{error}");
                assert!(*waited >= Duration::from_millis(30) && error.to_string().contains("rank 0 holds it"));
                let request = lock.request().expect("a place in the queue");
                assert!(matches!(lock.request(), Err(LockError::AlreadyRequested { rank: 1, .. })));
                assert!(request.cancel());
                assert_eq!(lock.queue(), [0; 0]);
                job.world().barrier().expect("it has given up");
            }
            _ => {
                job.world().barrier().expect("it is held");
                job.world().barrier().expect("rank 1 has given up");
                drop(lock.acquire().expect("it comes to this one"));
            }
        }
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn names_have_their_errors() {
    on_ranks(1, &JobOptions::new().objects(2), |job| {
        assert!(matches!(job.lock(""), Err(ObjectError::Name { kind: "lock", .. })));
        assert!(job.lock(&"x".repeat(97)).expect_err("too long").to_string().contains("1 to 96 bytes"));
        let _lock = job.lock("a").expect("room");
        let other = job.counter("a").expect_err("it is a lock");
        assert!(matches!(other, ObjectError::OtherKind { found: ObjectKind::Lock, kind: ObjectKind::Counter, .. }));
        let counter = job.counter("b").expect("room");
        assert_eq!((counter.fetch_add(5), counter.fetch_add(2), counter.load()), (Ok(0), Ok(5), Ok(7)));
        let full = job.lock("c").expect_err("two places");
        assert!(matches!(full, ObjectError::Exhausted { places: 2, .. }) && full.to_string().contains("JobOptions"));
        drop(counter);
        let again = job.counter("c").expect("a place is free again");
        assert_eq!(again.load(), Ok(0), "another object");
    });
}

/// A holder is killed; the next in the queue has the lock, with a greater token, though it slept.
#[test]
fn a_killed_holder_is_followed_by_the_first_in_the_queue() {
    const TEST: &str = "a_killed_holder_is_followed_by_the_first_in_the_queue";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let lock = job.lock("precious").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.acquire().expect("it is free");
            job.world().barrier().expect("it is held");
            await_queue(&lock, 2);
            answer(guard.token());
            std::thread::sleep(LIMIT);
        }
        job.world().barrier().expect("it is held");
        await_queue(&lock, job.rank() - 1);
        let guard = lock.acquire().expect("its holder is dead");
        answer(guard.token());
        if job.rank() == 1 {
            assert_eq!(await_line(), "go on");
        }
        return guard.release().expect("it was held");
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    let token = |text: String| text.parse::<u64>().expect("a token");
    let first = token(children.next_answer(0));
    children.kill(0);
    let second = token(children.next_answer(1));
    children.say(1, "go on");
    let third = token(children.next_answer(2));
    assert!(first < second && second < third, "{first} {second} {third}");
    assert!((1..3).all(|index| children.finish(index).1.success()));
}

/// A holder that is stopped is followed after the failure time-out; when it comes back it learns that it holds nothing.
#[test]
fn a_stopped_holder_is_followed_and_its_release_is_refused() {
    const TEST: &str = "a_stopped_holder_is_followed_and_its_release_is_refused";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let lock = job.lock("precious").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.acquire().expect("it is free");
            answer(guard.token());
            // Stopped in here.
            assert_eq!(await_line(), "go on");
            let error = guard.release().expect_err("others have it");
            assert!(matches!(error, LockError::Excluded { rank: 0, epoch: 1, .. }), "{error}");
            assert!(matches!(lock.acquire(), Err(LockError::Excluded { .. })));
            assert!(matches!(lock.try_acquire(), Err(LockError::Excluded { .. })));
            return answer("refused");
        }
        await_taken(&lock);
        assert_eq!(await_line(), "it is stopped");
        let guard = lock.acquire().expect("its holder has failed");
        answer(guard.token());
        assert_eq!(await_line(), "go on");
        guard.release().expect("the one that came back has not taken it");
        return drop(lock.acquire().expect("it is free"));
    }
    let mut children = Launch::new(2).start(TEST, "rank");
    let first: u64 = children.next_answer(0).parse().expect("a token");
    children.stop(0);
    children.say(1, "it is stopped");
    let second: u64 = children.next_answer(1).parse().expect("a token");
    assert!(first < second);
    children.signal(0, rustix::process::Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "refused");
    children.say(1, "go on");
    assert!(children.finish(1).1.success());
}

#[test]
fn a_rank_with_a_claim_does_not_pass_itself_by() {
    on_ranks(2, &JobOptions::new(), |job| {
        let lock = job.lock("claimed").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.acquire().expect("it is free");
            job.world().barrier().expect("it is held");
            await_queue(&lock, 1);
            drop(guard);
            return job.world().barrier().expect("all are through");
        }
        job.world().barrier().expect("it is held");
        let request = lock.request().expect("a place in the queue");
        for _ in 0..1000 {
            assert!(matches!(lock.acquire(), Err(LockError::AlreadyRequested { .. })));
        }
        drop(request.wait().expect("it is granted"));
        drop(lock.acquire().expect("it is free"));
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn threads_of_one_rank_open_and_close_side_by_side() {
    on_ranks(1, &JobOptions::new(), |job| {
        let handles: Vec<Lock> = (0..200).map(|index| job.lock(&format!("lock {index}")).expect("room")).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(handles));
            (0..200).for_each(|index| drop(job.lock(&format!("lock {index}")).expect("room")));
        });
        let token = |lock: &Lock| lock.acquire().expect("it is free").token();
        let first = token(&job.lock("lock 7").expect("a new one"));
        assert!(first < token(&job.lock("lock 7").expect("another one")), "tokens grow though the lock has gone");
    });
}

/// Behind a holder wait one that is killed and one that is stopped: the last of the queue has the lock in the end, and
/// the stopped one, when it comes back, is told.
#[test]
fn a_stopped_waiter_is_passed_by_after_the_time_out_also_behind_a_dead_one() {
    const TEST: &str = "a_stopped_waiter_is_passed_by_after_the_time_out_also_behind_a_dead_one";
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().wait(phalanx::WaitPolicy::Park)).expect("a job");
        let lock = job.lock("queue").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.acquire().expect("it is free");
            job.world().barrier().expect("it is held");
            await_queue(&lock, 3);
            answer("queued");
            assert_eq!(await_line(), "go on");
            guard.release().expect("it was held");
            answer("released");
            await_line();
            return;
        }
        job.world().barrier().expect("it is held");
        await_queue(&lock, job.rank() - 1);
        match lock.acquire() {
            Ok(guard) => answer(format!("{} {}", job.rank(), guard.release().is_ok())),
            Err(error) => answer(matches!(error, LockError::Excluded { rank: 2, .. })),
        }
        return;
    }
    let mut children = Launch::new(4).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "queued");
    children.kill(1);
    children.stop(2);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "released");
    assert_eq!(children.next_answer(3), "3 true");
    children.signal(2, rustix::process::Signal::CONT);
    assert_eq!(children.next_answer(2), "true");
}

/// Ranks are killed at random moments while they use the lock as quickly as they can; the others always go on.
#[test]
fn whoever_is_killed_in_the_middle_holds_nobody_up() {
    const TEST: &str = "whoever_is_killed_in_the_middle_holds_nobody_up";
    const RANKS: usize = 4;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let lock = job.lock("hot").expect("a lock");
        job.world().barrier().expect("all are there");
        answer("ready");
        let mut last = 0;
        for round in 0_u64.. {
            let guard = lock.acquire_timeout(LIMIT).expect("whoever dies, the lock goes on");
            assert!(guard.token().0 > last);
            last = guard.token().0;
            drop(guard);
            if round % 1000 == 0 {
                answer("alive");
            }
        }
    }
    for turn in 0..8 {
        let mut children = Launch::new(RANKS).start(TEST, "rank");
        children.await_answers(&[0, 1, 2, 3], "ready");
        for victim in 0..RANKS - 1 {
            (victim..RANKS).for_each(|rank| assert_eq!(children.next_answer(rank), "alive", "turn {turn}"));
            children.kill(victim);
        }
        (0..3).for_each(|_| assert_eq!(children.next_answer(RANKS - 1), "alive"));
    }
}
