//! Jobs that span nodes, with ranks as processes on pretended nodes, joined by TCP over the loopback interface: the
//! barrier, what it reduces, what goes wrong in it, groups across nodes, and what is left behind.
//!
//! Ranks tell each other how far they are by what they give to reductions, and are brought into a situation by *marks*:
//! lines that they print and wait for the test to acknowledge by a file in a directory of its own.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::block::{REDUCTIONS, reduced};
use common::children::{answer, role};
use common::nodes::{Across, Marks, wait_for_space};
use common::ranks::LIMIT;
use phalanx::fabric::FabricKind;
use phalanx::{Abandoned, Algorithm, BarrierError, Group, GroupError, Job, Operation};
use rustix::process::Signal;

/// A time-out that is meant to strike.
const SHORT: Duration = Duration::from_millis(60);
/// Longer than any wait for ranks that have arrived, or that come at once; shorter than a rank that computes.
const PROMPT: Duration = Duration::from_secs(3);

fn join() -> Job {
    Job::from_env().expect("a job across nodes")
}

fn missing_in<T: std::fmt::Debug>(result: Result<T, BarrierError>) -> Vec<usize> {
    match result {
        Err(BarrierError::TimedOut { missing, .. }) => missing,
        other => panic!("not a time-out: {other:?}"),
    }
}

/// Barriers and reductions in which every rank shows how far it is: nobody can have passed one more than the slowest
/// has arrived at.
fn pass_many(job: &Job, rounds: u64) {
    let (world, size) = (job.world(), job.size() as u64);
    for round in 0..rounds {
        let own = round * 1000 + job.rank() as u64;
        match round % 5 {
            0 => world.barrier().expect("a barrier"),
            1 => assert_eq!(world.barrier_reduce(Operation::Min, own), Ok(round * 1000)),
            2 => assert_eq!(world.barrier_reduce(Operation::Max, own), Ok(round * 1000 + size - 1)),
            3 => {
                let words: Vec<u64> = (0..size).map(|rank| !(round << 8 ^ rank)).collect();
                let expected = reduced(Operation::And, &words);
                assert_eq!(world.barrier_reduce(Operation::And, words[job.rank()]), Ok(expected));
            }
            _ => {
                let words: Vec<u64> = (0..size).map(|rank| (round + 3) << rank).collect();
                let expected = reduced(Operation::Or, &words);
                assert_eq!(world.barrier_reduce(Operation::Or, words[job.rank()]), Ok(expected));
            }
        }
        assert_eq!(world.passed(), round + 1);
    }
}

fn rounds_of_this_run() -> u64 {
    std::env::var("ACROSS_ROUNDS").expect("the test has set it").parse().expect("a number")
}

/// Runs [`pass_many`] over nodes with so many ranks, for each exchange and algorithm.
fn all_pass(test: &str, counts: &[&[usize]], radices: &[&str], rounds: &str) {
    if role().is_some() {
        return pass_many(&join(), rounds_of_this_run());
    }
    for counts in counts {
        for (index, radix) in radices.iter().enumerate() {
            // Where each node has one rank all algorithms are one.
            let algorithms = if counts.iter().all(|count| *count == 1) { 1 } else { Algorithm::ALL.len() };
            for algorithm in (0..algorithms).filter(|algorithm| radices.len() > 1 || algorithm % 3 == index % 3) {
                let name = Algorithm::ALL[algorithm].name();
                let variables = [("PHALANX_RADIX", *radix), ("PHALANX_BARRIER", name), ("ACROSS_ROUNDS", rounds)];
                Across::of_counts(counts).run(test, &variables);
            }
        }
    }
}

#[test]
fn two_nodes_pass_together() {
    all_pass("two_nodes_pass_together", &[&[1, 1], &[2, 2]], &["2"], "1200");
}

/// Whether this machine has an RDMA device, which jobs then use.
fn has_rdma() -> bool {
    phalanx::fabric::rdma::devices().is_ok_and(|devices| !devices.is_empty())
}

/// Passes barriers until the other node is reached by RDMA on all nodes.
fn pass_until_mended(job: &Job) {
    let begun = Instant::now();
    loop {
        // Ranks that do not speak for their node have no connection to wait for.
        let is_mended = job.rank() != 0 && job.rank() != job.size() / 2 || job.fabric() == FabricKind::Rdma;
        let all = job.world().barrier_reduce(Operation::And, u64::from(is_mended)).expect("a barrier");
        if all == 1 {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "the connection is not mended");
    }
}

#[test]
fn an_rdma_connection_that_breaks_is_made_anew() {
    const TEST: &str = "an_rdma_connection_that_breaks_is_made_anew";
    const BREACHES: u64 = 6;
    if role().is_some() {
        let job = join();
        let (agents, mut breaches) = ([0, job.size() / 2], 0);
        for round in 0..BREACHES {
            pass_until_mended(&job);
            // One end after the other, and now and then both at once.
            let node = agents.iter().position(|agent| *agent == job.rank());
            if let Some(node) = node.filter(|node| round % 3 == 2 || round % 2 == *node as u64) {
                breaches += u64::from(job.break_rdma(1 - node));
            }
            for number in 0..50 {
                let own = number << 8 | job.rank() as u64;
                assert_eq!(job.world().barrier_reduce(Operation::Min, own), Ok(number << 8));
            }
        }
        pass_until_mended(&job);
        return answer(breaches);
    }
    if !has_rdma() {
        return phalanx::testing::not_run("this machine has no RDMA device");
    }
    let answers = Across::new(&[0, 0, 1, 1]).run(TEST, &[]);
    let breaches: u64 = answers.iter().flatten().map(|count| count.parse::<u64>().expect("a number")).sum();
    // Where both ends break it, one may have been told before to give it up.
    assert!((BREACHES..=BREACHES + BREACHES / 3).contains(&breaches), "{answers:?}");
}

#[test]
fn uneven_nodes_pass_together() {
    all_pass("uneven_nodes_pass_together", &[&[1, 3, 2]], &["2", "8", "star"], "250");
}

#[test]
fn many_nodes_pass_together() {
    all_pass("many_nodes_pass_together", &[&[1; 5], &[1; 8]], &["2", "3", "8", "star"], "100");
}

#[test]
#[ignore = "a minute: every shape with every exchange and algorithm, thousands of barriers each"]
fn every_shape_passes_together() {
    let shapes: &[&[usize]] = &[&[1, 1], &[2, 2], &[1, 3, 2], &[4, 1], &[1; 5], &[1; 8]];
    all_pass("every_shape_passes_together", shapes, &["2", "3", "8", "star"], "2000");
}

/// A rank may end as soon as it has passed: what others need of it is on its way.
#[test]
fn ranks_may_end_right_after_a_barrier() {
    const TEST: &str = "ranks_may_end_right_after_a_barrier";
    if role().is_some() {
        let job = join();
        return job.world().barrier_timeout(PROMPT * 5).expect("all have arrived");
    }
    for counts in [&[1; 5][..], &[1; 8], &[2, 1, 2], &[1; 6]] {
        for exchange in ["2", "star"] {
            Across::of_counts(counts).run(TEST, &[("PHALANX_RADIX", exchange)]);
        }
    }
}

/// The ranks that speak for their nodes end, and the next take their parts: groups of those that are
/// left go on, and new ones are made.
#[test]
fn groups_go_on_with_the_next_agents() {
    const TEST: &str = "groups_go_on_with_the_next_agents";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let group = job.world().split_timeout(u64::from(job.rank() % 3 > 0), 0, LIMIT).expect("all split");
        group.barrier_timeout(LIMIT).expect("all come");
        marks.gate(&job, "split");
        if job.rank() % 3 == 0 {
            drop((group, job));
            return answer("gone");
        }
        marks.wait([99], "go-on");
        for _ in 0..100 {
            group.barrier_timeout(LIMIT).expect("all are here");
        }
        let pair = group.split_timeout(job.rank() as u64 % 3, 0, LIMIT).expect("all split");
        for _ in 0..100 {
            pair.barrier_timeout(LIMIT).expect("both are here");
        }
        group.barrier_timeout(LIMIT).expect("all are here");
        // Whoever speaks for a node may not end before the others are through.
        marks.set(&job, "end");
        return marks.wait([1, 2, 4, 5], "end");
    }
    let across = Across::new(&[0, 0, 0, 1, 1, 1]);
    let mut children = across.start(TEST, &[]);
    assert_eq!((children.next_answer(0), children.next_answer(3)), ("gone".to_owned(), "gone".to_owned()));
    std::fs::write(across.marks.join("go-on.99"), "").expect("a file");
    children.answers();
}

/// The ranks that speak for their nodes end; the others have a group of their own and go on.
#[test]
fn groups_outlive_the_ranks_that_speak_for_their_nodes() {
    const TEST: &str = "groups_outlive_the_ranks_that_speak_for_their_nodes";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let group = job.world().split_timeout(job.rank() as u64 % 2, 0, LIMIT).expect("all split");
        group.barrier_timeout(LIMIT).expect("both come");
        marks.gate(&job, "split");
        if job.rank() % 2 == 0 {
            drop((group, job));
            return answer("gone");
        }
        marks.wait([99], "go-on");
        return group.barrier_timeout(PROMPT).expect("both are here");
    }
    let across = Across::new(&[0, 0, 1, 1]);
    let mut children = across.start(TEST, &[]);
    assert_eq!((children.next_answer(0), children.next_answer(2)), ("gone".to_owned(), "gone".to_owned()));
    std::fs::write(across.marks.join("go-on.99"), "").expect("a file");
    children.answers();
}

#[test]
fn a_mismatch_names_every_member_to_every_member() {
    const TEST: &str = "a_mismatch_names_every_member_to_every_member";
    if role().is_some() {
        let (job, named) = (join(), [Operation::Barrier, Operation::Min, Operation::Max, Operation::Min]);
        let world = job.world();
        for round in 1..=3u64 {
            let result = match job.rank() {
                0 => world.barrier_timeout(LIMIT).map(|()| 0),
                rank => world.barrier_reduce_timeout(named[rank], 1, LIMIT),
            };
            let error = result.expect_err("they disagree");
            let BarrierError::OperationMismatch { rank, sequence, named: found, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((*rank, *sequence), (job.rank(), 2 * round - 1));
            assert_eq!(*found, named.into_iter().enumerate().collect::<Vec<_>>());
            assert_eq!(world.barrier_reduce_timeout(Operation::And, 6, LIMIT), Ok(6), "it counts as passed by all");
        }
        return;
    }
    for algorithm in Algorithm::ALL {
        Across::new(&[0, 0, 1, 2]).run(TEST, &[("PHALANX_BARRIER", algorithm.name()), ("PHALANX_RADIX", "2")]);
    }
}

/// Ranks 1 and 4, on two nodes, stand at a gate; all others ask who is missing, by three different calls.
#[test]
fn a_time_out_names_exactly_the_missing_to_all_and_is_resumed() {
    const TEST: &str = "a_time_out_names_exactly_the_missing_to_all_and_is_resumed";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        world.barrier_timeout(LIMIT).expect("the first barrier");
        let is_late = [1, 4].contains(&job.rank());
        let arrival = (job.rank() == 2).then(|| world.arrive().expect("nothing outstanding"));
        if !is_late {
            let mut others = (0..job.size()).filter(|rank| ![1, 2, 4].contains(rank));
            let first = match &arrival {
                Some(arrival) => arrival.wait_timeout(SHORT),
                None => world.barrier_timeout(SHORT),
            };
            assert!([1, 4].iter().all(|late| missing_in(first.clone()).contains(late)));
            marks.set(&job, "arrived");
            marks.wait(others.by_ref(), "arrived");
            let again = match &arrival {
                Some(arrival) => arrival.wait_timeout(SHORT),
                None => world.barrier_timeout(Duration::ZERO),
            };
            let BarrierError::TimedOut { rank, sequence, missing, .. } = again.expect_err("two are at the gate") else {
                panic!("not a time-out")
            };
            assert_eq!((rank, sequence, missing.as_slice()), (job.rank(), 2, &[1, 4][..]));
            assert_eq!(world.stats().missing, [1, 4]);
        }
        marks.gate(&job, "asked");
        match arrival {
            Some(arrival) => arrival.wait_timeout(LIMIT).expect("all come"),
            None => world.barrier_timeout(LIMIT).expect("resumed, or the first try"),
        }
        assert_eq!(world.passed(), 2);
        return world.barrier_timeout(LIMIT).expect("the next barrier");
    }
    for (algorithm, radix) in [("flat", "2"), ("tree", "3"), ("central", "2"), ("flat", "star")] {
        Across::new(&[0, 0, 1, 1, 2]).run(TEST, &[("PHALANX_BARRIER", algorithm), ("PHALANX_RADIX", radix)]);
    }
}

#[test]
fn an_arrival_is_tested_dropped_and_abandoned() {
    const TEST: &str = "an_arrival_is_tested_dropped_and_abandoned";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        let is_first = job.rank() == 0;
        if is_first {
            let held = world.arrive().expect("nothing outstanding");
            assert_eq!(held.test(), Ok(false));
            assert!(matches!(world.arrive(), Err(BarrierError::ArrivalOutstanding { .. })));
            // Rank 1 of the same node has not come: nothing has been told.
            assert_eq!(held.abandon(), Ok(Abandoned::Withdrawn));
            assert_eq!(world.abandon(), Ok(Abandoned::Nothing));
        }
        marks.gate(&job, "withdrawn");
        let others_wait = job.rank() == 2;
        if others_wait {
            assert_eq!(missing_in(world.barrier_timeout(SHORT)), [0, 1, 3], "the withdrawn arrival counts for nothing");
        }
        marks.gate(&job, "missed");
        // Three ways to wait for a half-barrier.
        let arrival = (!others_wait).then(|| world.arrive_reduce(Operation::Max, 7).expect("nothing outstanding"));
        match arrival {
            None => {
                // A suspended barrier is not resumed by another operation.
                assert!(world.barrier_reduce_timeout(Operation::Max, 7, SHORT).is_err());
                let error = world.barrier_timeout(LIMIT).expect_err("the others reduce");
                assert!(matches!(error, BarrierError::OperationMismatch { .. }), "{error}");
            }
            Some(arrival) if job.rank() == 1 => {
                let begun = Instant::now();
                while arrival.test() == Ok(false) && begun.elapsed() < LIMIT {}
                assert!(matches!(arrival.test(), Err(BarrierError::OperationMismatch { .. })));
            }
            Some(arrival) => assert!(matches!(arrival.wait(), Err(BarrierError::OperationMismatch { .. }))),
        }
        // An arrival that is dropped counts, and is finished by the next call.
        drop(world.arrive());
        marks.gate(&job, "dropped");
        let last = loop {
            match world.arrive_reduce(Operation::Min, job.rank() as u64 + 3) {
                // All have arrived, so that the dropped one ends: trying is enough.
                Err(BarrierError::ArrivalOutstanding { .. }) => {}
                arrived => break arrived.expect("the dropped one is over"),
            }
        };
        marks.gate(&job, "arrived");
        if job.rank() == 3 {
            // Too late: the whole node has told the others, who may have passed.
            match last.abandon() {
                Ok(Abandoned::Passed) | Err(BarrierError::CannotAbandon { .. }) => {}
                other => panic!("{other:?}"),
            }
        } else {
            assert_eq!((last.wait(), last.wait()), (Ok(3), Ok(3)));
            assert_eq!((last.test(), last.abandon()), (Ok(true), Ok(Abandoned::Passed)));
        }
        world.barrier_timeout(LIMIT).expect("the next barrier");
        return assert_eq!(world.passed(), 4);
    }
    for algorithm in Algorithm::ALL {
        Across::new(&[0, 0, 1, 1]).run(TEST, &[("PHALANX_BARRIER", algorithm.name())]);
    }
}

/// Some ranks arrive and look away; the others pass meanwhile. `away` are the ranks that do.
fn others_pass_without(job: &Job, away: &[usize]) {
    let (world, marks) = (job.world(), Marks::of_this_rank());
    for round in 0..4u64 {
        // In turn the first, a middle, or the last to arrive.
        let is_away = away.contains(&job.rank());
        if is_away == (round % 2 == 0) {
            marks.gate(job, &format!("before-{round}"));
        }
        let arrival = world.arrive_reduce(Operation::Max, round * 100 + job.rank() as u64).expect("free");
        if is_away != (round % 2 == 0) {
            marks.gate(job, &format!("before-{round}"));
        }
        let expected = round * 100 + job.size() as u64 - 1;
        if is_away {
            // As a rank that computes: it does not look until all others are through.
            let others = (0..job.size()).filter(|rank| !away.contains(rank));
            marks.wait(others, &format!("passed-{round}"));
            assert_eq!(arrival.wait(), Ok(expected));
        } else {
            assert_eq!(arrival.wait_timeout(PROMPT), Ok(expected), "round {round}");
            marks.set(job, &format!("passed-{round}"));
        }
    }
    // Past a rank that looks away the others read what each of them has brought, so none ends before all have passed.
    marks.gate(job, "end");
}

#[test]
fn a_rank_that_has_arrived_and_computes_holds_nobody_up() {
    const TEST: &str = "a_rank_that_has_arrived_and_computes_holds_nobody_up";
    if role().is_some() {
        let away = std::env::var("ACROSS_AWAY").expect("the test has set it");
        let away: Vec<usize> = away.split(',').map(|rank| rank.parse().expect("a rank")).collect();
        return others_pass_without(&join(), &away);
    }
    // One rank on each node and several rounds; the driver of a node; whole nodes.
    let cases = [(&[0, 1, 2, 3, 4][..], "2", "1,3"), (&[0, 0, 1, 1], "2", "0"), (&[0, 0, 1, 1, 2], "2", "0,1,4")];
    for (nodes, radix, away) in cases {
        for algorithm in ["flat", "tree", "central"].iter().take(if nodes.len() == 5 { 1 } else { 3 }) {
            let variables = [("PHALANX_RADIX", radix), ("PHALANX_BARRIER", *algorithm), ("ACROSS_AWAY", away)];
            Across::new(nodes).run(TEST, &variables);
        }
    }
}

/// Whoever is stopped for as long as a test does it is only late.
const LONG_SILENCES: (&str, &str) = ("PHALANX_FAILURE_TIMEOUT_MS", "60000");

#[test]
fn a_stopped_rank_is_named_and_goes_on() {
    const TEST: &str = "a_stopped_rank_is_named_and_goes_on";
    if role().is_some() {
        let job = join();
        let world = job.world();
        let begun = Instant::now();
        // Rank 0 decides when all end: whoever is stopped anywhere in between is waited for.
        let mut timeouts = 0;
        loop {
            let over = u64::from(job.rank() == 0 && timeouts > 0 && world.passed() > 300);
            let max = loop {
                match world.barrier_reduce_timeout(Operation::Max, over, SHORT) {
                    Ok(max) => break max,
                    Err(BarrierError::TimedOut { missing, .. }) => {
                        if job.rank() == 0 && world.passed() >= 50 && missing.contains(&2) && timeouts == 0 {
                            timeouts = 1;
                            answer("missed");
                        }
                        assert!(begun.elapsed() < LIMIT, "rank {} never passes", job.rank());
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            if world.passed() == 50 && job.rank() == 0 {
                answer("under way");
            }
            if max == 1 {
                return;
            }
        }
    }
    let across = Across::new(&[0, 0, 1, 2]);
    let mut children = across.start(TEST, &[("PHALANX_RADIX", "2"), LONG_SILENCES]);
    assert_eq!(children.next_answer(0), "under way");
    children.signal(2, Signal::STOP);
    assert_eq!(children.next_answer(0), "missed");
    children.signal(2, Signal::CONT);
    children.answers();
}

/// What a group does to show that it is one: barriers, a reduction over its ranks, and its own name.
fn show(group: &Group, rank: usize) {
    for _ in 0..5 {
        group.barrier_timeout(LIMIT).expect("the members meet");
    }
    let ranks = group.ranks();
    assert_eq!(ranks[group.rank()], rank);
    let (least, most) = (ranks.iter().min().expect("some"), ranks.iter().max().expect("some"));
    assert_eq!(group.barrier_reduce_timeout(Operation::Min, rank as u64, LIMIT), Ok(*least as u64));
    assert_eq!(group.barrier_reduce_timeout(Operation::Max, rank as u64, LIMIT), Ok(*most as u64));
    assert_eq!(group.barrier_reduce_timeout(Operation::Min, group.id(), LIMIT), Ok(group.id()), "all agree on its id");
    assert_eq!(group.barrier_reduce_timeout(Operation::Max, group.id(), LIMIT), Ok(group.id()));
}

#[test]
fn groups_span_nodes_in_every_way() {
    const TEST: &str = "groups_span_nodes_in_every_way";
    if role().is_some() {
        let job = join();
        let (world, rank) = (job.world(), job.rank());
        let node = [0, 0, 1, 1, 2][rank];
        let split =
            |color: usize, key: usize| world.split_timeout(color as u64, key as u64, LIMIT).expect("all members split");
        let within = split(node, 0);
        assert_eq!(within.ranks(), [&[0, 1][..], &[2, 3], &[4]][node]);
        let across = split(rank % 2, 9 - rank);
        assert_eq!(across.ranks(), [&[4, 2, 0][..], &[3, 1]][rank % 2], "in the order of keys");
        let interleaved = split(rank / 3, rank);
        assert_eq!(interleaved.ranks(), [&[0, 1, 2][..], &[3, 4]][rank / 3]);
        let alone = split(rank, 0);
        assert_eq!(alone.ranks(), [rank]);
        let nested = interleaved.split_timeout(u64::from(rank == 1), 0, LIMIT).expect("all members split");
        assert_eq!(nested.ranks(), [&[0, 2][..], &[1], &[3, 4]][if rank < 3 { rank % 2 } else { 2 }]);
        let listed = world.subgroup(&[4, 1, 3, 0, 2], LIMIT).expect("all call");
        assert_eq!(listed.ranks(), [4, 1, 3, 0, 2]);
        let pair = across.subgroup(&[1, 0], LIMIT);
        assert_eq!(pair.is_ok(), rank != 0, "members 0 and 1 of it are listed");
        let mut groups = vec![within, across, interleaved, alone, nested, listed];
        groups.extend(pair);
        // Overlapping, in an order of each rank's own as far as that cannot lock: one after the other.
        groups.iter().for_each(|group| show(group, rank));
        let ids: Vec<String> = groups
            .iter()
            .map(|group| format!("{}={:?}", group.id(), group.ranks()))
            .chain(["0=world".into()])
            .collect();
        // Held in all groups at once: split-phase arrivals do not disturb each other.
        let arrivals: Vec<_> = groups.iter().map(|group| group.arrive().expect("free")).collect();
        arrivals.iter().rev().for_each(|arrival| arrival.wait_timeout(LIMIT).expect("all arrive everywhere"));
        drop(arrivals);
        world.barrier_timeout(LIMIT).expect("all are through");
        return answer(ids.join(";"));
    }
    let answers = Across::new(&[0, 0, 1, 1, 2]).run(TEST, &[]);
    let mut seen: Vec<(String, String)> = Vec::new();
    for line in answers.iter().flatten() {
        for (id, ranks) in line.split(';').map(|pair| pair.split_once('=').expect("a pair")) {
            match seen.iter().find(|(known, _)| known == id) {
                Some((_, members)) => assert_eq!(members, ranks, "group {id} is two groups"),
                None => seen.push((id.to_owned(), ranks.to_owned())),
            }
        }
    }
    // The world, three within nodes, two across, two interleaved, five of one, three nested, one listed, two pairs.
    assert_eq!(seen.len(), 1 + 3 + 2 + 2 + 5 + 3 + 1 + 2, "{seen:?}");
}

/// Makes and drops so many groups, and then waits until nothing is taken on any node but the world.
fn make_and_drop(job: &Job, rounds: u64) {
    let world = job.world();
    let (before, _) = world.space();
    world.barrier_timeout(LIMIT).expect("all have looked");
    for round in 0..rounds {
        let group = match round % 3 {
            0 => world.split(round % 2, 0).expect("space and time"),
            1 => world.split(job.rank() as u64 % 2, 0).expect("space and time"),
            _ => world.subgroup(&[1, 2, 0, 3], LIMIT).expect("space and time"),
        };
        if round % 5 == 0 {
            group.barrier_timeout(LIMIT).expect("all members");
        }
        drop(group);
        assert!(world.space().0 < before + 100, "{:?} units are taken in round {round}", world.space());
    }
    wait_for_space(job, before, 0);
}

#[test]
fn groups_across_nodes_leave_no_space_behind() {
    const TEST: &str = "groups_across_nodes_leave_no_space_behind";
    if role().is_some() {
        return make_and_drop(&join(), rounds_of_this_run());
    }
    Across::new(&[0, 0, 1, 1]).run(TEST, &[("ACROSS_ROUNDS", "300")]);
}

#[test]
#[ignore = "seconds: a thousand groups in each of three shapes"]
fn thousands_of_groups_leave_no_space_behind() {
    const TEST: &str = "thousands_of_groups_leave_no_space_behind";
    if role().is_some() {
        return make_and_drop(&join(), rounds_of_this_run());
    }
    for nodes in [[0, 0, 1, 1], [0, 1, 2, 3], [0, 1, 1, 0]] {
        Across::new(&nodes).run(TEST, &[("ACROSS_ROUNDS", "1000")]);
    }
}

/// Members that do not come, in a group across nodes: each caller is told who, and finds the group later.
#[test]
fn forming_that_timed_out_is_resumed() {
    const TEST: &str = "forming_that_timed_out_is_resumed";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        for round in 0..3 {
            let late = [0, 2, 3][round];
            if job.rank() != late {
                for _ in 0..2 {
                    match world.subgroup(&[0, 1, 2, 3], SHORT) {
                        Err(GroupError::LeaderMissing { rank, .. }) => assert_eq!(rank, job.rank()),
                        // The last to take what is there need not come for the others to have it.
                        Ok(group) => {
                            assert!(late == 3, "rank {late} leads its node and has not come");
                            return_later(&marks, &job, round, &group);
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            if !marks.0.join(format!("held-{round}.{}", job.rank())).exists() {
                marks.gate(&job, &format!("late-{round}"));
                let group = world.subgroup(&[0, 1, 2, 3], LIMIT).expect("all come");
                show(&group, job.rank());
                drop(group);
            }
            marks.gate(&job, &format!("through-{round}"));
        }
        // A split in which one is late: the same colour and key resume it, others do not.
        if job.rank() == 3 {
            marks.wait(0..3, "split");
        } else {
            let error = world.split_timeout(5, job.rank() as u64, SHORT).expect_err("rank 3 is late");
            let GroupError::Barrier(BarrierError::TimedOut { missing, .. }) = error else { panic!("{error}") };
            assert!(missing.contains(&3), "{missing:?}");
            let other = world.split_timeout(6, 0, SHORT).expect_err("it is another split");
            assert!(matches!(other, GroupError::Barrier(BarrierError::ArrivalOutstanding { .. })), "{other}");
            marks.set(&job, "split");
        }
        let group = world.split_timeout(5, job.rank() as u64, LIMIT).expect("all come");
        assert_eq!(group.ranks(), [0, 1, 2, 3]);
        return show(&group, job.rank());
    }
    Across::new(&[0, 0, 1, 1]).run(TEST, &[]);
}

/// A member has the group before the last one comes.
fn return_later(marks: &Marks, job: &Job, round: usize, group: &Group) {
    marks.set(job, &format!("held-{round}"));
    marks.gate(job, &format!("late-{round}"));
    show(group, job.rank());
}

#[test]
fn stats_tell_of_all_nodes() {
    const TEST: &str = "stats_tell_of_all_nodes";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        for round in 0..4 {
            // One rank, on each node in turn, comes well after the others, also where these are slow to come.
            let late = [2, 0, 3, 1][round];
            if job.rank() == late {
                marks.wait((0..4).filter(|rank| *rank != late), &format!("about-{round}"));
                std::thread::sleep(Duration::from_millis(200));
            } else {
                marks.set(&job, &format!("about-{round}"));
            }
            world.barrier_timeout(LIMIT).expect("all come");
            marks.gate(&job, &format!("passed-{round}"));
            let stats = world.stats();
            assert_eq!((stats.completed, stats.missing.as_slice()), (round as u64 + 1, &[][..]));
            assert_eq!(stats.last_arriver, Some(late), "{stats:?}");
            let spread = stats.last_spread_ns.expect("all are known");
            assert!((40_000_000..2_000_000_000).contains(&spread), "{spread} ns, {stats:?}");
            for member in &stats.members {
                assert_eq!(member.arrivals, round as u64 + 1, "{stats:?}");
                assert!(member.arrived_at_ns.is_some_and(|at| at <= stats.now_ns + 1_000_000), "{stats:?}");
                assert!(member.waited_ns >= member.longest_wait_ns, "{stats:?}");
                if round == 0 && member.rank != late {
                    assert!(member.longest_wait_ns >= 30_000_000, "rank {} has waited: {stats:?}", member.rank);
                }
            }
            marks.gate(&job, &format!("told-{round}"));
        }
        return;
    }
    for nodes in [&[0, 0, 1, 1][..], &[0, 1, 2, 3]] {
        Across::new(nodes).run(TEST, &[]);
    }
}

/// Open descriptors and threads of this process.
fn holdings() -> (usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).expect("Linux").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// The names of this process's threads.
fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
}

#[test]
fn a_job_that_is_dropped_leaves_nothing_behind() {
    const TEST: &str = "a_job_that_is_dropped_leaves_nothing_behind";
    if role().is_some() {
        let before = holdings();
        let job = join();
        let group = job.world().split(0, 0).expect("all split");
        group.barrier_timeout(LIMIT).expect("all");
        job.world().barrier_timeout(LIMIT).expect("all");
        assert!(holdings() > before);
        drop((group, job));
        // A thread that has been joined is listed until the kernel has put it away.
        let begun = Instant::now();
        while holdings() != before {
            assert!(begun.elapsed() < LIMIT, "{:?}, not {before:?}: {:?}", holdings(), thread_names());
            std::thread::yield_now();
        }
        return;
    }
    let across = Across::new(&[0, 0, 1, 2]);
    across.run(TEST, &[]);
    let port = across.address.rsplit(':').next().expect("a port").parse::<u16>().expect("a port");
    let tcp = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let listens = tcp.lines().any(|line| line.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")));
    assert!(!listens, "somebody listens at the rendezvous still");
}

#[test]
fn reductions_are_exact_at_the_edges() {
    const TEST: &str = "reductions_are_exact_at_the_edges";
    if role().is_some() {
        let job = join();
        let words = [0, u64::MAX, 1 << 63, 0x5a5a_5a5a_5a5a_5a5a, 1];
        for round in 0..200usize {
            for operation in REDUCTIONS {
                let given: Vec<u64> = (0..job.size()).map(|rank| words[(rank + round) % words.len()]).collect();
                let found = job.world().barrier_reduce(operation, given[job.rank()]);
                assert_eq!(found, Ok(reduced(operation, &given)), "{operation} of {given:?}");
            }
        }
        return;
    }
    Across::new(&[0, 1, 1, 2]).run(TEST, &[("PHALANX_RADIX", "3")]);
}
