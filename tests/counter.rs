//! Counters, on one node and across several (pretended, on the loopback interface): nothing is lost or doubled, also
//! where connections break, and numbers are drawn once.
#![cfg(not(model))]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::children::{answer, await_line, role};
use common::cutting::cut_until;
use common::homes::{UNDISTURBED, meet, name_at};
use common::nodes::Across;
use common::ranks::{LIMIT, on_ranks};
use phalanx::{Counter, CounterError, Job, JobOptions};

fn join() -> Job {
    Job::from_env().expect("a job across nodes")
}

/// A counter that is at home on a node.
fn counter_at(job: &Job, home: usize, what: &str) -> Counter {
    job.counter(&name_at(job, home, what)).expect("room")
}

fn numbers_of(answers: &[Vec<String>]) -> Vec<u64> {
    let all = answers.iter().flatten().flat_map(|line| line.split_whitespace());
    all.flat_map(|run| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let number = |text: &str| text.parse::<u64>().expect("a number");
        number(first)..=number(last)
    })
    .collect()
}

/// Numbers as text, short enough for a pipe: `3-5 9`.
fn said(numbers: impl IntoIterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let said =
        runs.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    said.collect::<Vec<_>>().join(" ")
}

/// None is there twice.
fn assert_distinct(numbers: &[u64]) -> HashSet<u64> {
    let distinct: HashSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "a number was given out twice");
    distinct
}

#[test]
fn on_one_node_every_number_is_given_out_once() {
    const EACH: u64 = 5000;
    let all = on_ranks(4, &JobOptions::new(), |job| {
        let counter = job.counter("numbers").expect("room");
        meet(&job);
        let numbers: Vec<u64> = (0..EACH).map(|_| counter.fetch_add(1).expect("in memory")).collect();
        meet(&job);
        assert_eq!(counter.load(), Ok(4 * EACH));
        meet(&job);
        numbers
    });
    assert_distinct(&all.concat());
}

#[test]
fn it_can_be_compared_reserved_and_drawn() {
    on_ranks(1, &JobOptions::new(), |job| {
        let counter = job.counter("all of it").expect("room");
        assert_eq!(counter.name(), "all of it");
        assert_eq!(counter.compare_exchange(0, 7), Ok(Ok(0)));
        assert_eq!(counter.compare_exchange(0, 9), Ok(Err(7)));
        assert_eq!(counter.reserve(10), Ok(7..17));
        assert_eq!(counter.reserve(0), Ok(17..17));
        let too_many = CounterError::Exhausted { rank: 0, name: "all of it".to_owned(), first: 17 };
        assert_eq!(counter.reserve(u64::MAX - 2), Err(too_many), "17 numbers would come again");
        assert_eq!((counter.draw(100), counter.draw(100), counter.load()), (Ok(17), Ok(18), Ok(19)));
        assert_eq!(counter.fetch_add(u64::MAX), Ok(19), "it wraps round");
        assert_eq!(counter.compare_exchange(18, u64::MAX - 2), Ok(Ok(18)));
        let error = counter.reserve(5).expect_err("there are not so many");
        let expected = CounterError::Exhausted { rank: 0, name: "all of it".to_owned(), first: u64::MAX - 2 };
        assert!(error == expected && error.to_string().contains("remedy"), "{error}");
    });
}

#[test]
fn across_nodes_every_number_is_given_out_once() {
    const TEST: &str = "across_nodes_every_number_is_given_out_once";
    const EACH: u64 = 500;
    if role().is_some() {
        let job = join();
        let counters: Vec<Counter> = (0..job.nodes()).map(|home| counter_at(&job, home, "number")).collect();
        meet(&job);
        for counter in &counters {
            let numbers: Vec<u64> = (0..EACH).map(|_| counter.fetch_add(1).expect("in reach")).collect();
            answer(said(numbers));
        }
        meet(&job);
        for counter in &counters {
            let sum = EACH * job.size() as u64;
            assert_eq!(counter.load(), Ok(sum));
            meet(&job);
            if job.rank() == 0 {
                assert_eq!(counter.compare_exchange(sum, 3), Ok(Ok(sum)));
                assert_eq!(counter.compare_exchange(sum, 4), Ok(Err(3)));
                assert_eq!(counter.reserve(4), Ok(3..7));
            }
            meet(&job);
        }
        return;
    }
    for counts in [&[2, 2][..], &[1, 1, 1]] {
        let answers = Across::of_counts(counts).run(TEST, &[]);
        for index in 0..counts.len() {
            let of_one: Vec<Vec<String>> = answers.iter().map(|lines| vec![lines[index].clone()]).collect();
            assert_distinct(&numbers_of(&of_one));
        }
    }
}

/// The home's ranks add as fast as they can while others do, by whatever way: all change one word at the same time.
#[test]
fn what_the_home_and_others_add_at_the_same_time_is_one_sum() {
    const TEST: &str = "what_the_home_and_others_add_at_the_same_time_is_one_sum";
    const EACH: u64 = 2000;
    const TOGETHER: u64 = 16;
    if role().is_some() {
        let job = join();
        let (sum, through) = (counter_at(&job, 0, "sum"), counter_at(&job, 0, "through"));
        let others = job.size() as u64 / 2;
        meet(&job);
        let mut added = 0;
        if job.rank() < job.size() / 2 {
            while through.load().expect("in memory") < others {
                added += TOGETHER;
                for _ in 0..TOGETHER {
                    sum.fetch_add(1).expect("at home");
                }
            }
        } else {
            added += EACH;
            for _ in 0..EACH {
                sum.fetch_add(1).expect("in reach");
            }
            through.fetch_add(1).expect("in reach");
        }
        meet(&job);
        answer(format!("{added} {}", sum.load().expect("in reach")));
        meet(&job);
        return;
    }
    // Without copies an addition at the home is one instruction.
    let answers = Across::of_counts(&[2, 2]).run(TEST, &[("PHALANX_DURABLE_COPIES", "0")]);
    let said: Vec<Vec<u64>> = answers.iter().map(|lines| numbers_of(&[vec![lines[0].clone()]])).collect();
    let added: u64 = said.iter().map(|numbers| numbers[0]).sum();
    assert!(said.iter().all(|numbers| numbers[1] == added), "{said:?}");
}

/// Draws until there is no work left: `work` pieces, by blocks of `block`.
fn draw_all(counter: &Counter, work: u64, block: u64) -> Vec<u64> {
    std::iter::from_fn(|| Some(counter.draw(block).expect("in reach")).filter(|number| *number < work)).collect()
}

#[test]
fn all_work_is_drawn_once_by_blocks() {
    const TEST: &str = "all_work_is_drawn_once_by_blocks";
    const WORK: u64 = 10_000;
    if role().is_some() {
        let job = join();
        for (home, block) in [(0, 1), (0, 100), (1, 7), (1, u64::MAX)] {
            let counter = counter_at(&job, home, &format!("work by {block}"));
            meet(&job);
            answer(said(draw_all(&counter, WORK / if block == 1 { 20 } else { 1 }, block)));
            meet(&job);
        }
        return;
    }
    let answers = Across::of_counts(&[3, 2]).run(TEST, &[]);
    for (index, work) in [WORK / 20, WORK, WORK, WORK].into_iter().enumerate() {
        let drawn = numbers_of(&answers.iter().map(|lines| vec![lines[index].clone()]).collect::<Vec<_>>());
        let distinct = assert_distinct(&drawn);
        assert!((0..work).all(|piece| distinct.contains(&piece)), "case {index}: a piece of work was left out");
    }
}

/// Ranks that are killed while they draw take with them what they had drawn and not said, and a block at most.
#[test]
fn the_dead_take_only_what_they_had_drawn() {
    const TEST: &str = "the_dead_take_only_what_they_had_drawn";
    const WORK: u64 = 20_000;
    const BLOCK: u64 = 64;
    if role().is_some() {
        let job = join();
        let counter = counter_at(&job, 0, "work");
        meet(&job);
        if job.rank() == 1 {
            answer("drawing");
            while counter.draw(BLOCK).is_ok() {}
            return;
        }
        assert_eq!(await_line(), "draw");
        let drawn = draw_all(&counter, WORK, BLOCK);
        answer(said(drawn));
        // The home serves until all are through: the test ends them.
        return std::thread::sleep(LIMIT);
    }
    let across = Across::of_counts(&[1, 3]);
    let mut children = across.start(TEST, &[]);
    assert_eq!(children.next_answer(1), "drawing");
    (0..4).filter(|rank| *rank != 1).for_each(|rank| children.say(rank, "draw"));
    std::thread::sleep(Duration::from_millis(20));
    children.kill(1);
    let drawn = [0, 2, 3].map(|rank| vec![children.next_answer(rank)]);
    assert_distinct(&numbers_of(&drawn));
    drop(children);
}

/// Connections break all the time, at both ends; each addition counts once if it was acknowledged.
#[test]
fn nothing_is_lost_or_doubled_where_connections_break() {
    const TEST: &str = "nothing_is_lost_or_doubled_where_connections_break";
    const EACH: u64 = 3000;
    if role().is_some() {
        let job = join();
        let counter = counter_at(&job, 0, "cut");
        meet(&job);
        let is_over = AtomicBool::new(false);
        // Odd pauses, so that ends break apart from each other.
        let pause = Duration::from_micros([3100, 1700, 2300][job.rank()]);
        let (done, without_answer, uncertain, cut) = std::thread::scope(|scope| {
            let cutter = scope.spawn(|| cut_until(&is_over, pause, 150));
            let (mut done, mut without_answer, mut uncertain) = (Vec::new(), 0_u64, 0_u64);
            for round in 0..EACH {
                // Where there is a device: the way to the home breaks, also the home's own.
                for node in (0..job.nodes()).filter(|_| round % 97 == 0) {
                    job.break_rdma(node);
                }
                match counter.fetch_add(1) {
                    Ok(number) => done.push(number),
                    Err(CounterError::AnswerLost { .. }) => without_answer += 1,
                    Err(CounterError::Uncertain { .. }) => uncertain += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            is_over.store(true, Ordering::Relaxed);
            (done, without_answer, uncertain, cutter.join().expect("no panic"))
        });
        answer(said(done.iter().copied()));
        answer(format!("{} {without_answer} {uncertain} {cut}", done.len()));
        meet(&job);
        answer(counter.load().expect("in reach"));
        meet(&job);
        return;
    }
    let answers = Across::of_counts(&[1, 2]).run(TEST, &[UNDISTURBED]);
    let said = answers.iter().map(|lines| vec![lines[0].clone()]).collect::<Vec<_>>();
    assert_distinct(&numbers_of(&said));
    let counts: Vec<Vec<u64>> = answers.iter().map(|lines| numbers_of(&[vec![lines[1].clone()]])).collect();
    let sum = |index: usize| counts.iter().map(|count| count[index]).sum::<u64>();
    println!("acknowledged, without an answer, uncertain, connections cut: {:?}", [sum(0), sum(1), sum(2), sum(3)]);
    let value: u64 = answers[0][2].parse().expect("a number");
    assert!(answers.iter().all(|lines| lines[2] == answers[0][2]));
    let known = sum(0) + sum(1);
    assert_eq!(known + sum(2), 3 * EACH);
    assert!((known..=known + sum(2)).contains(&value), "{value}, but {known} were added, and perhaps {} more", sum(2));
    assert!(sum(3) > 10, "few connections have broken");
}

/// Nodes that open the same names at the same time, and give most of them up at once, have the same objects.
#[test]
fn nodes_that_open_a_name_at_once_have_the_same_object() {
    const TEST: &str = "nodes_that_open_a_name_at_once_have_the_same_object";
    if role().is_some() {
        let job = join();
        for round in 0..60 {
            let counter = counter_at(&job, 2, &format!("round {round}"));
            meet(&job);
            counter.fetch_add(1).expect("in reach");
            meet(&job);
            assert_eq!(counter.load(), Ok(3), "round {round}, {}: not all have the same", counter.name());
            meet(&job);
        }
        return answer("done");
    }
    Across::of_counts(&[1, 1, 1]).run_to_done(TEST, &[]);
}
