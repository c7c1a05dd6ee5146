//! Fenced words whose home is killed while all write and read: a token that was seen by anybody, also by the dead, is
//! seen by all who look later, with its value.
#![cfg(not(model))]

mod common;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use common::children::{answer, await_line, role};
use common::dying::{Trial, Witness, lines_of};
use common::homes::{meet, name_at};
use common::nodes::Across;
use phalanx::{Counter, Fenced, FencedError, Job, Token};
use rustix::time::{ClockId, clock_gettime};

/// The same for all processes of the machine.
fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// The value that is written under a token.
fn value_of(token: u64) -> u64 {
    token.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes under new tokens, and reads, until it is over; when each call began and ended, and the greatest token that it
/// has seen, is a line in this rank's file.
fn write_and_read(word: &Fenced<u64>, tokens: &Counter, rank: usize, is_over: &AtomicBool) {
    let mut file = OpenOptions::new().append(true).create(true).open(lines_of(rank)).expect("a file");
    let mut writes = (0..3).map(|index| index != rank % 3).cycle();
    while !is_over.load(Ordering::Relaxed) {
        // A number whose answer was lost is a token that nobody has.
        let Ok(number) = tokens.fetch_add(1) else { continue };
        let begun = now_ns();
        let seen = if writes.next().expect("for ever") {
            match word.write(Token(number + 1), value_of(number + 1)) {
                Ok(()) => number + 1,
                Err(FencedError::Refused { seen, .. }) => seen.0,
                Err(error) => panic!("{error}"),
            }
        } else {
            let (token, value) = word.read().expect("in reach");
            assert_eq!(value, value_of(token.0), "{token:?} has another's value");
            token.0
        };
        writeln!(file, "{begun} {} {seen}", now_ns()).expect("room");
    }
}

fn serve(job: &Job, what: &str) {
    let word = job.fenced::<u64>(&name_at(job, 1, what)).expect("room");
    let tokens = job.counter(&format!("tokens of {what}")).expect("room");
    let witness = Witness::of(job);
    meet(job);
    let rank = job.rank();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_and_read(&word, &tokens, rank, &is_over));
        witness.stand_by(word.name(), || {
            job.counter(tokens.name())?;
            job.fenced::<u64>(word.name())
        });
        is_over.store(true, Ordering::Relaxed);
        writer.join().expect("no panic");
        answer("over");
    });
    await_line();
    let begun = now_ns();
    let (token, value) = word.read().expect("in reach");
    assert_eq!(value, value_of(token.0));
    answer(format!("{begun} {} {}", now_ns(), token.0));
    await_line();
}

/// All stop, and read. Whoever began to look after another had seen a token sees it or a greater one.
fn judge(mut trial: Trial) {
    for rank in &trial.living {
        trial.children.say(*rank, "over");
        assert_eq!(trial.children.next_answer(*rank), "over");
    }
    let mut lines: Vec<String> = (0..trial.across.nodes.len()).flat_map(|rank| trial.lines(rank)).collect();
    for rank in &trial.living {
        trial.children.say(*rank, "read");
        lines.push(trial.children.next_answer(*rank));
    }
    let calls = lines.iter().map(|line| {
        let numbers: Vec<i64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        <[i64; 3]>::try_from(numbers).expect("three numbers")
    });
    let mut by_begin: Vec<[i64; 3]> = calls.collect();
    let mut by_end = by_begin.clone();
    by_begin.sort_unstable();
    by_end.sort_unstable_by_key(|[_, ended, _]| *ended);
    let (mut ended_before, mut greatest) = (by_end.iter().peekable(), 0);
    for [begun, _, seen] in by_begin {
        while let Some([_, _, before]) = ended_before.next_if(|[_, ended, _]| *ended < begun) {
            greatest = greatest.max(*before);
        }
        assert!(seen >= greatest, "token {seen} was current after {greatest} had been seen");
    }
    println!("{} calls", lines.len());
    trial.living.iter().for_each(|rank| trial.children.say(*rank, "end"));
}

#[test]
fn what_was_seen_outlives_homes_one_after_the_other() {
    const TEST: &str = "what_was_seen_outlives_homes_one_after_the_other";
    if role().is_some() {
        return serve(&Job::from_env().expect("a job across nodes"), "outlives");
    }
    let mut trial = Trial::start(TEST, &[2, 2, 1, 2, 1]);
    trial.lose_node(4);
    for _ in 0..2 {
        let home = trial.home();
        trial.lose_node(home);
    }
    judge(trial);
}

/// Only the home's own rank has written, or only one that has given its handle back: the next home has it.
#[test]
fn what_only_one_has_written_is_found_at_the_next_home() {
    const TEST: &str = "what_only_one_has_written_is_found_at_the_next_home";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let name = name_at(&job, 1, "only one");
        let mut word = Some(job.fenced::<u64>(&name).expect("room"));
        meet(&job);
        loop {
            let line = await_line();
            match line.split_once(' ') {
                Some(("write", token)) => {
                    let token = Token(token.parse().expect("a token"));
                    let written = word.as_ref().expect("open").write(token, value_of(token.0));
                    answer(written.map_or_else(|error| error.to_string(), |()| "written".to_owned()));
                }
                None if line == "close" => answer(word.take().map_or("closed already", |_| "closed")),
                None if line == "read" => {
                    let (token, value) = word.as_ref().expect("open").read().expect("in reach");
                    assert_eq!(value, value_of(token.0));
                    answer(token.0);
                }
                _ => return,
            }
        }
    }
    for (writer, closes) in [(1, false), (2, true)] {
        let across = Across::of_counts(&[1, 1, 1, 1]);
        let mut children = across.start(TEST, &[]);
        children.say(writer, "write 7");
        assert_eq!(children.next_answer(writer), "written");
        if closes {
            children.say(writer, "close");
            assert_eq!(children.next_answer(writer), "closed");
        }
        children.kill(1);
        children.say(0, "read");
        assert_eq!(children.next_answer(0), "7", "written by {writer}");
        children.say(3, "write 6");
        let refused = children.next_answer(3);
        assert!(refused.contains("7 was seen"), "{refused}");
        [0, 2, 3].into_iter().for_each(|rank| children.say(rank, "end"));
    }
}
