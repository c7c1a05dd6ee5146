//! Words under tokens, on one node and across several: a late write is refused, and a pair is read whole.
#![cfg(not(model))]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::children::{Launch, answer, await_line, role};
use common::cutting::cut_until;
use common::homes::{UNDISTURBED, meet, name_at};
use common::nodes::Across;
use common::ranks::{LIMIT, on_ranks};
use phalanx::{Fenced, FencedError, Job, JobOptions, ObjectError, ObjectKind, Token};
use rustix::process::Signal;

#[test]
fn a_lesser_token_is_refused() {
    on_ranks(2, &JobOptions::new(), |job| {
        let word = job.fenced::<i64>("value").expect("room");
        assert_eq!(word.name(), "value");
        meet(&job);
        if job.rank() == 0 {
            assert_eq!(word.read(), Ok((Token(0), 0)));
            word.write(Token(5), -7).expect("the first");
            word.write(Token(5), -8).expect("the same token");
            assert_eq!(word.read(), Ok((Token(5), -8)));
        }
        meet(&job);
        if job.rank() == 1 {
            let error = word.write(Token(4), 9).expect_err("5 was seen");
            let name = "value".to_owned();
            assert_eq!(error, FencedError::Refused { rank: 1, name, token: Token(4), seen: Token(5) });
            assert!(error.to_string().contains("remedy"), "{error}");
            assert_eq!(word.fence(Token(6)), Ok(-8));
            assert_eq!(word.read(), Ok((Token(6), -8)));
        }
        meet(&job);
        assert!(matches!(word.write(Token(5), 1), Err(FencedError::Refused { seen: Token(6), .. })));
        assert_eq!(word.read(), Ok((Token(6), -8)));
        meet(&job);
    });
}

#[test]
fn all_types_come_back_and_are_told_apart() {
    on_ranks(1, &JobOptions::new(), |job| {
        macro_rules! goes_round {
            ($($type:ty: $value:expr),*) => {
                $({
                    let word = job.fenced::<$type>(stringify!($type)).expect("room");
                    word.write(Token(1), $value).expect("the first");
                    assert_eq!(word.read(), Ok((Token(1), $value)));
                })*
            };
        }
        goes_round!(u64: u64::MAX, i64: i64::MIN, f64: -0.5, u32: u32::MAX, i32: -3, f32: 1.25, bool: true, [u8; 8]: *b"phalanx!");
        let _first = job.fenced::<u64>("one type").expect("room");
        let other = job.fenced::<f64>("one type").expect_err("it has another type");
        assert!(matches!(other, ObjectError::OtherParameter { kind: ObjectKind::Fenced, .. }), "{other}");
    });
}

/// Each value tells its token: `value = token × 1000 + a count`.
fn write_and_read(job: &Job, word: &Fenced<u64>, rounds: u64) {
    let (rank, size) = (job.rank() as u64, job.size() as u64);
    let mut last = 0;
    for round in 1..=rounds {
        let token = round * size + rank;
        for count in 0..2 {
            match word.write(Token(token), token * 1000 + count) {
                Ok(()) => {}
                Err(FencedError::Refused { seen, .. }) => assert!(seen.0 > token),
                Err(error) => panic!("{error}"),
            }
        }
        let (seen, value) = word.read().expect("in reach");
        assert_eq!(value / 1000, seen.0, "a pair that nobody has written");
        assert!(seen.0 >= last && seen.0 >= token, "{seen} after {last}, {token}");
        last = seen.0;
    }
}

#[test]
fn threads_read_whole_pairs_whose_tokens_grow() {
    on_ranks(4, &JobOptions::new(), |job| {
        let word = job.fenced::<u64>("pairs").expect("room");
        meet(&job);
        write_and_read(&job, &word, 2000);
        meet(&job);
    });
}

#[test]
fn nodes_read_whole_pairs_whose_tokens_grow_also_where_connections_break() {
    const TEST: &str = "nodes_read_whole_pairs_whose_tokens_grow_also_where_connections_break";
    if let Some(role) = role() {
        let job = Job::from_env().expect("a job across nodes");
        let words: Vec<_> = (0..4).map(|index| job.fenced::<u64>(&format!("pairs {index}")).expect("room")).collect();
        meet(&job);
        let is_over = AtomicBool::new(std::env::var("FENCED_CUTS").is_err());
        std::thread::scope(|scope| {
            let cutter = scope.spawn(|| cut_until(&is_over, Duration::from_micros(2700), 60));
            words.iter().for_each(|word| write_and_read(&job, word, 150));
            is_over.store(true, Ordering::Relaxed);
            println!("{role} {}: {} connections cut", job.rank(), cutter.join().expect("no panic"));
        });
        meet(&job);
        return answer("done");
    }
    for variables in [&[][..], &[("FENCED_CUTS", "1"), UNDISTURBED]] {
        Across::of_counts(&[2, 2]).run_to_done(TEST, variables);
    }
}

/// A holder that is stopped, declared failed and comes back writes under its old token: it is refused.
fn zombie(job: &Job, home: usize) {
    let lock = job.lock(&name_at(job, home, "lock")).expect("room");
    let word = job.fenced::<u64>(&name_at(job, home, "word")).expect("room");
    meet(job);
    if job.rank() == 0 {
        let guard = lock.acquire().expect("it is free");
        word.write(guard.token(), 1).expect("it is held");
        answer("holding");
        // Stopped in here.
        assert_eq!(await_line(), "go on");
        match word.write(guard.token(), 2) {
            Err(FencedError::Refused { token, seen, .. }) => assert!(token < seen),
            Err(FencedError::Excluded { .. }) => {}
            other => panic!("{other:?}"),
        }
        return answer("refused");
    }
    assert_eq!(await_line(), "it is stopped");
    let guard = lock.acquire().expect("its holder has failed");
    assert_eq!(word.fence(guard.token()), Ok(1));
    answer("fenced");
    assert_eq!(await_line(), "it has gone on");
    assert_eq!(word.read(), Ok((guard.token(), 1)));
    word.write(guard.token(), 3).expect("it is held");
    answer("written");
}

fn drive_zombie(mut children: common::children::Children, other: usize) {
    assert_eq!(children.next_answer(0), "holding");
    children.stop(0);
    children.say(other, "it is stopped");
    assert_eq!(children.next_answer(other), "fenced");
    children.signal(0, Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "refused");
    children.say(other, "it has gone on");
    assert_eq!(children.next_answer(other), "written");
}

#[test]
fn a_stopped_holders_late_write_is_refused() {
    const TEST: &str = "a_stopped_holders_late_write_is_refused";
    if role().is_some() {
        return zombie(&Job::from_env().expect("a job"), 0);
    }
    drive_zombie(Launch::new(2).start(TEST, "rank"), 1);
}

#[test]
fn a_stopped_nodes_late_write_is_refused() {
    const TEST: &str = "a_stopped_nodes_late_write_is_refused";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        if job.rank() == 2 {
            meet(&job);
            std::thread::sleep(LIMIT);
        }
        return zombie(&job, 2);
    }
    let across = Across::of_counts(&[1, 1, 1]);
    drive_zombie(across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "1000")]), 1);
}
