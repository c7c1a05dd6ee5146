//! Counters whose home is killed, and the node that has the copies, while all add, compare and exchange, or draw: what
//! was acknowledged to anybody, also to the dead, counts once, and no number is given out twice.
#![cfg(not(model))]

mod common;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::children::{Children, answer, await_line, role};
use common::dying::{Trial, Witness, lines_of};
use common::homes::{meet, name_at};
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::{Counter, CounterError, Job, ObjectError};

/// Takes numbers, some at a time, until it is over; each of them is in this rank's file when it is acknowledged. How
/// many were counted without a number, or perhaps.
fn take_numbers(counter: &Counter, file: &Path, is_over: &AtomicBool) -> [u64; 2] {
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("a file");
    let [mut without_answer, mut uncertain] = [0; 2];
    for count in (1..=7).cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        match counter.reserve(count) {
            Ok(Range { start, end }) => writeln!(file, "{start} {end}").expect("room"),
            Err(CounterError::AnswerLost { .. }) => without_answer += count,
            Err(CounterError::Uncertain { .. }) => uncertain += count,
            Err(error) => panic!("{error}"),
        }
    }
    [without_answer, uncertain]
}

/// Makes the value greater by one, by comparing and exchanging it, until it is over; each value that it has exchanged
/// is in this rank's file. How often nobody knows whether it was.
fn exchange(counter: &Counter, file: &Path, is_over: &AtomicBool) -> [u64; 2] {
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("a file");
    let [mut without_answer, mut uncertain] = [0; 2];
    let mut value = load(counter);
    while !is_over.load(Ordering::Relaxed) {
        match counter.compare_exchange(value, value + 1) {
            Ok(Ok(before)) => {
                assert_eq!(before, value);
                writeln!(file, "{value} {}", value + 1).expect("room");
                value += 1;
                continue;
            }
            Ok(Err(found)) => value = found,
            Err(error) => {
                match error {
                    CounterError::AnswerLost { .. } => without_answer += 1,
                    CounterError::Uncertain { .. } => uncertain += 1,
                    error => assert_not_made(&error),
                }
                value = load(counter);
            }
        }
    }
    [without_answer, uncertain]
}

/// How many numbers a node takes at once to draw from.
const BLOCK: u64 = 8;

/// Draws numbers until it is over; each is in this rank's file. How many are lost with answers, or perhaps.
fn draw(counter: &Counter, file: &Path, is_over: &AtomicBool) -> [u64; 2] {
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("a file");
    let [mut without_answer, mut uncertain] = [0; 2];
    while !is_over.load(Ordering::Relaxed) {
        match counter.draw(BLOCK) {
            Ok(number) => writeln!(file, "{number} {}", number + 1).expect("room"),
            Err(CounterError::AnswerLost { .. }) => without_answer += BLOCK,
            Err(CounterError::Uncertain { .. }) => uncertain += BLOCK,
            Err(error) => assert_not_made(&error),
        }
    }
    [without_answer, uncertain]
}

/// What the ranks of a trial do all the time.
type Work = fn(&Counter, &Path, &AtomicBool) -> [u64; 2];

/// A rank: works, and does what it is told.
fn serve(job: &Job, what: &str, work: Work) {
    let counter = job.counter(&name_at(job, 1, what)).expect("room");
    let file = lines_of(job.rank());
    let witness = Witness::of(job);
    meet(job);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| work(&counter, &file, &is_over));
        witness.stand_by(counter.name(), || job.counter(counter.name()));
        is_over.store(true, Ordering::Relaxed);
        let [without_answer, uncertain] = taker.join().expect("no panic");
        answer(format!("{without_answer} {uncertain}"));
    });
    while await_line() == "load" {
        answer(counter.load().expect("in reach"));
    }
}

/// On a busy machine a node may not be heard for a while, and too few others to decide about it: then nothing was done.
fn assert_not_made(error: &CounterError) {
    assert!(matches!(error, CounterError::Unreachable { .. }), "{error}");
}

/// The value, as soon as its home is heard.
fn load(counter: &Counter) -> u64 {
    let begun = Instant::now();
    loop {
        match counter.load() {
            Ok(value) => return value,
            Err(error) => assert_not_made(&error),
        }
        assert!(begun.elapsed() < LIMIT, "nothing is heard of the home");
    }
}

/// What ranks have had acknowledged: the lines of their files.
fn acknowledged(trial: &Trial, rank: usize) -> Vec<Range<u64>> {
    trial
        .lines(rank)
        .iter()
        .map(|line| {
            let (start, end) = line.split_once(' ').expect("two numbers");
            start.parse().expect("a number")..end.parse().expect("a number")
        })
        .collect()
}

/// What must be so in the end.
struct Verdict {
    /// No number was given out twice. (A value may be exchanged twice: an exchange that others have seen is as if it
    /// had not been if the home is lost before the rank that made it has had its answer.)
    is_distinct: bool,
    /// How many a call adds at most.
    most_at_once: u64,
    /// How many may be left over besides, without a fault.
    left_over: u64,
}

/// All stop; the value is compared with what was acknowledged.
fn judge(mut trial: Trial, verdict: &Verdict) {
    let mut unsaid = 0;
    for rank in &trial.living {
        trial.children.say(*rank, "over");
        let said = trial.children.next_answer(*rank);
        unsaid += said.split(' ').map(|count| count.parse::<u64>().expect("a number")).sum::<u64>();
    }
    let ranges = (0..trial.across.nodes.len()).flat_map(|rank| acknowledged(&trial, rank));
    let numbers: Vec<u64> = ranges.flatten().collect();
    let distinct: HashSet<u64> = numbers.iter().copied().collect();
    assert!(!verdict.is_distinct || distinct.len() == numbers.len(), "a number was given out twice");
    let least = numbers.len() as u64;
    // Who was killed may have been adding, and may have lost an answer with each home before that.
    let dead = (trial.across.nodes.len() - trial.living.len()) as u64;
    let most = least + unsaid + verdict.most_at_once * dead * u64::from(trial.deaths) + verdict.left_over;
    for rank in &trial.living {
        trial.children.say(*rank, "load");
        let value: u64 = trial.children.next_answer(*rank).parse().expect("a number");
        assert!((least..=most).contains(&value), "{value} is not from {least} to {most}");
        let is_within = |number: &u64| !verdict.is_distinct || *number < value;
        assert!(numbers.iter().all(is_within), "a number beyond the value was given out");
    }
    println!("{least} numbers, {} of them distinct, {unsaid} without an answer", distinct.len());
    trial.living.iter().for_each(|rank| trial.children.say(*rank, "end"));
}

/// Of ranks that take up to 7 numbers at once.
const TAKEN: Verdict = Verdict { is_distinct: true, most_at_once: 7, left_over: 0 };

/// Kills the node of somebody who is neither home nor second, or the second; then homes, one after the other.
fn kill_some(trial: &mut Trial) {
    trial.lose_node(4);
    for _ in 0..2 {
        let home = trial.home();
        trial.lose_node(home);
    }
}

#[test]
fn what_was_acknowledged_outlives_homes_one_after_the_other() {
    const TEST: &str = "what_was_acknowledged_outlives_homes_one_after_the_other";
    if role().is_some() {
        return serve(&Job::from_env().expect("a job across nodes"), "outlives", take_numbers);
    }
    let mut trial = Trial::start(TEST, &[2, 2, 1, 2, 1]);
    kill_some(&mut trial);
    judge(trial, &TAKEN);
}

/// Each exchange that was acknowledged counts once, whatever home is lost.
#[test]
fn what_was_exchanged_counts_once_while_homes_are_lost() {
    const TEST: &str = "what_was_exchanged_counts_once_while_homes_are_lost";
    if role().is_some() {
        return serve(&Job::from_env().expect("a job across nodes"), "exchanged", exchange);
    }
    let mut trial = Trial::start(TEST, &[2, 2, 1, 2, 1]);
    kill_some(&mut trial);
    judge(trial, &Verdict { is_distinct: false, most_at_once: 1, left_over: 0 });
}

/// No number is drawn twice, and none is missing but what is left of blocks, what the dead had drawn or were fetching,
/// and blocks whose answer was lost.
#[test]
fn what_is_drawn_is_drawn_once_while_homes_are_lost() {
    const TEST: &str = "what_is_drawn_is_drawn_once_while_homes_are_lost";
    if role().is_some() {
        return serve(&Job::from_env().expect("a job across nodes"), "drawn", draw);
    }
    let mut trial = Trial::start(TEST, &[2, 2, 1, 2, 1]);
    kill_some(&mut trial);
    let dead = (trial.across.nodes.len() - trial.living.len()) as u64;
    let left_over = 5 * (BLOCK - 1) + dead;
    judge(trial, &Verdict { is_distinct: true, most_at_once: BLOCK, left_over });
}

#[test]
fn the_home_of_two_nodes_is_followed_by_the_other() {
    const TEST: &str = "the_home_of_two_nodes_is_followed_by_the_other";
    if role().is_some() {
        return serve(&Job::from_env().expect("a job across nodes"), "two", take_numbers);
    }
    // Node 0 has the first rank, and so goes on.
    let mut trial = Trial::start(TEST, &[2, 2]);
    trial.lose_node(1);
    judge(trial, &TAKEN);
}

/// A rank with a counter that is at home on node 1, which does what it is told.
fn obey() {
    let job = Job::from_env().expect("a job across nodes");
    let name = name_at(&job, 1, "obeyed");
    let open = || job.counter(&name).expect("room");
    let mut counter = Some(open());
    meet(&job);
    loop {
        match await_line().as_str() {
            "add" => answer(counter.as_ref().expect("open").fetch_add(10).expect("in reach")),
            "subtract" => answer(counter.as_ref().expect("open").fetch_add(3_u64.wrapping_neg()).expect("in reach")),
            "exchange" => {
                let counter = counter.as_ref().expect("open");
                let value = counter.load().expect("in reach");
                answer(counter.compare_exchange(value, 100).expect("in reach").expect("nobody else changes it"));
            }
            "load" => answer(counter.as_ref().expect("open").load().expect("in reach")),
            "close" => answer(counter.take().map_or("closed already", |_| "closed")),
            "open" => answer(counter.replace(open()).map_or("opened", |_| "opened again")),
            _ => return,
        }
    }
}

/// What nodes have added that gave their handles back counts, before and after they open the name again.
#[test]
fn who_has_given_its_handle_back_has_added_what_it_has_added() {
    const TEST: &str = "who_has_given_its_handle_back_has_added_what_it_has_added";
    if role().is_some() {
        return obey();
    }
    let across = Across::of_counts(&[1, 1, 1, 1, 1]);
    let mut children = across.start(TEST, &[]);
    let mut ask = |rank: usize, what: &str, expected: &str| {
        children.say(rank, what);
        assert_eq!(children.next_answer(rank), expected, "{what}, of rank {rank}");
    };
    ask(0, "add", "0");
    ask(1, "add", "10");
    ask(2, "add", "20");
    ask(2, "close", "closed");
    ask(2, "open", "opened");
    ask(2, "subtract", "30");
    ask(2, "close", "closed");
    // The home's own rank has it no more, and comes back.
    ask(1, "close", "closed");
    ask(3, "add", "27");
    ask(1, "open", "opened");
    ask(1, "exchange", "37");
    ask(0, "load", "100");
    children.kill(1);
    let mut ask = |rank: usize, what: &str, expected: &str| {
        children.say(rank, what);
        assert_eq!(children.next_answer(rank), expected, "{what}, of rank {rank}, without the first home");
    };
    ask(0, "load", "100");
    ask(2, "open", "opened");
    ask(2, "add", "100");
    ask(3, "exchange", "110");
    ask(4, "load", "100");
    (0..5).filter(|rank| *rank != 1).for_each(|rank| children.say(rank, "end"));
}

/// A node whose last handle goes when the home has just been killed, seen or not, has added what it has added.
#[test]
fn a_handle_that_is_given_back_as_the_home_dies_takes_nothing_along() {
    const TEST: &str = "a_handle_that_is_given_back_as_the_home_dies_takes_nothing_along";
    if role().is_some() {
        return obey();
    }
    for _ in 0..3 {
        let across = Across::of_counts(&[1, 1, 1, 1]);
        let mut children = across.start(TEST, &[]);
        children.say(2, "add");
        assert_eq!(children.next_answer(2), "0");
        children.kill(1);
        children.say(2, "close");
        assert_eq!(children.next_answer(2), "closed");
        for (rank, what, expected) in [(0, "load", "10"), (2, "open", "opened"), (2, "add", "10"), (3, "load", "20")] {
            children.say(rank, what);
            assert_eq!(children.next_answer(rank), expected, "{what}, of rank {rank}");
        }
        [0, 2, 3].into_iter().for_each(|rank| children.say(rank, "end"));
    }
}

/// Without copies a counter says that its home is lost, and goes on with what the others have added for who opens it
/// again.
#[test]
fn without_copies_a_lost_home_is_said() {
    const TEST: &str = "without_copies_a_lost_home_is_said";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let name = name_at(&job, 1, "no copies");
        let counter = job.counter(&name).expect("room");
        meet(&job);
        counter.fetch_add(1 + job.rank() as u64).expect("in reach");
        answer("added");
        assert_eq!(await_line(), "go on");
        // One that is under way when the home is lost may count, where that goes on.
        let mut error = counter.fetch_add(100).expect_err("its home is lost");
        if let CounterError::AnswerLost { .. } = error {
            error = counter.fetch_add(100).expect_err("its home is lost");
        }
        assert!(matches!(&error, CounterError::HomeLost { name: found, .. } if *found == name), "{error}");
        assert!(matches!(counter.load(), Err(CounterError::HomeLost { .. })));
        drop(counter);
        answer("dropped");
        assert_eq!(await_line(), "open");
        answer(job.counter(&name).expect("room").load().expect("it goes on"));
        await_line();
        return;
    }
    let across = Across::of_counts(&[1, 1, 1]);
    let mut children = across.start(TEST, &[("PHALANX_DURABLE_COPIES", "0")]);
    children.await_answers(&[0, 1, 2], "added");
    children.kill(1);
    [0, 2].into_iter().for_each(|rank| children.say(rank, "go on"));
    children.await_answers(&[0, 2], "dropped");
    for rank in [0, 2] {
        children.say(rank, "open");
        assert_eq!(children.next_answer(rank), "0", "nobody had a handle any more");
    }
    [0, 2].into_iter().for_each(|rank| children.say(rank, "end"));
}

#[test]
fn ranks_that_want_other_numbers_of_copies_are_told() {
    const TEST: &str = "ranks_that_want_other_numbers_of_copies_are_told";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let first = (job.rank() == 0).then(|| job.counter("copies").expect("room"));
        meet(&job);
        if job.rank() == 1 {
            let error = job.counter("copies").expect_err("the other wants none");
            assert!(matches!(error, ObjectError::OtherParameter { wanted: 1, found: 0, .. }), "{error}");
        }
        meet(&job);
        drop(first);
        return;
    }
    let across = Across::of_counts(&[1, 1]);
    let mut children = Children::default();
    for copies in ["0", "1"] {
        let mut command = across.rank(TEST, usize::from(copies == "1"));
        command.env("PHALANX_DURABLE_COPIES", copies);
        children.start(command);
    }
    children.answers();
}
