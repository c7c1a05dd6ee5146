//! Groups across nodes that come to nothing, by ranks as processes on pretended nodes: whatever is refused, given up or
//! not answered, nothing is used up, and the next group is made.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::children::{answer, role};
use common::nodes::{Across, Marks, wait_for_space};
use common::ranks::LIMIT;
use phalanx::{Abandoned, BarrierError, Group, GroupError, Job, JobOptions};
use rustix::process::Signal;

/// A time-out that is meant to strike.
const SHORT: Duration = Duration::from_millis(3);
/// Longer than what needs no more than a few round trips.
const PROMPT: Duration = Duration::from_secs(5);
/// Two nodes of two ranks.
const NODES: [usize; 4] = [0, 0, 1, 1];

fn join() -> Job {
    Job::from_env().expect("a job across nodes")
}

/// Groups of all ranks, one after the other, each made at once.
fn make_promptly(world: &Group, groups: u64) {
    for _ in 0..groups {
        let group = world.split_timeout(0, 0, PROMPT).expect("nothing is in the way");
        group.barrier_timeout(PROMPT).expect("all have it");
    }
}

/// All orders of the four ranks.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for number in 0..256 {
        let order = [number / 64, number / 16 % 4, number / 4 % 4, number % 4];
        if (0..4).all(|rank| order.contains(&rank)) {
            orders.push(order);
        }
    }
    orders
}

/// Every rank names another list, hundreds of times: leaders wait in vain, here and there some of them find each other.
#[test]
fn hundreds_of_lists_that_differ_use_nothing_up() {
    const TEST: &str = "hundreds_of_lists_that_differ_use_nothing_up";
    if role().is_some() {
        let job = join();
        let world = job.world();
        let (before, _) = world.space();
        let orders = orders();
        let mut failures = 0;
        for round in 0..300 {
            match world.subgroup(&orders[(round * 5 + job.rank()) % orders.len()], SHORT) {
                Ok(group) => drop(group),
                Err(
                    GroupError::LeaderMissing { .. } | GroupError::OffersPending { .. } | GroupError::Refused { .. },
                ) => failures += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(failures >= 100, "{failures} failures of rank {}", job.rank());
        make_promptly(world, 20);
        // Some have been through a call of this list that others have not: those are refused until they have caught up.
        let group = loop {
            match world.subgroup(&[0, 1, 2, 3], LIMIT) {
                Err(GroupError::Refused { .. }) => {}
                made => break made.expect("all call"),
            }
        };
        group.barrier_timeout(LIMIT).expect("all have it");
        drop(group);
        // A leader keeps what it can still go on with, in its eight places.
        return wait_for_space(&job, before, 150);
    }
    Across::new(&NODES).run(TEST, &[]);
}

/// One node has no space: everybody is told, hundreds of times, and the next group is made.
#[test]
fn hundreds_of_refusals_use_nothing_up() {
    const TEST: &str = "hundreds_of_refusals_use_nothing_up";
    if role().is_some() {
        let job = Job::from_env_with(&JobOptions::new().groups(1)).expect("a job across nodes");
        let (world, marks) = (job.world(), Marks::of_this_rank());
        let (before, _) = world.space();
        let mut filling = Vec::new();
        if job.rank() == 3 {
            // A group of one needs one unit, which is the least that there is.
            filling.extend(std::iter::from_fn(|| world.subgroup(&[3], LIMIT).ok()));
        }
        marks.gate(&job, "full");
        for round in 0..300 {
            let error = match round % 2 {
                0 => world.split_timeout(0, 0, PROMPT),
                _ => world.subgroup(&[1, 2, 0, 3], PROMPT),
            };
            match (job.rank(), error.expect_err("there is no space")) {
                (2, GroupError::Exhausted { rank: 2, members: 4, .. }) => {}
                (0 | 1 | 3, GroupError::Refused { members: 4, .. }) => {}
                (rank, error) => panic!("rank {rank} in round {round}: {error}"),
            }
        }
        marks.gate(&job, "refused");
        drop(filling);
        make_promptly(world, 20);
        return wait_for_space(&job, before, 0);
    }
    Across::new(&NODES).run(TEST, &[]);
}

/// What has been begun in a group is given up with it, or when its caller says so.
#[test]
fn groups_that_are_given_up_half_made_leave_nothing_behind() {
    const TEST: &str = "groups_that_are_given_up_half_made_leave_nothing_behind";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        let (before, _) = world.space();
        for round in 0..10 {
            let parent = world.split_timeout(0, 0, PROMPT).expect("all split");
            // One of the two that lead their nodes in all of these lists.
            let absent = round % 2 * 2;
            if job.rank() != absent {
                for list in [&[0, 1, 2, 3][..], &[2, 3, 0, 1], &[0, 2, 3, 1]] {
                    let error = parent.subgroup(list, SHORT).expect_err("a leader does not come");
                    let GroupError::LeaderMissing { leader, node, .. } = error else { panic!("{error}") };
                    assert_eq!(node, NODES[leader], "{error}");
                    assert!(error.to_string().contains(&format!("rank {leader} on node {node}")), "{error}");
                }
            }
            marks.gate(&job, &format!("waited-{round}"));
            drop(parent);
            // A split whose members come one after the other, each giving up before the next comes.
            let parent = world.split_timeout(0, 0, PROMPT).expect("all split");
            match parent.split_timeout(7, 0, Duration::ZERO) {
                Err(GroupError::Barrier(BarrierError::TimedOut { .. })) => {
                    assert!(parent.abandon().is_ok() || parent.barrier_timeout(Duration::ZERO).is_err());
                }
                Err(GroupError::LeaderMissing { .. } | GroupError::MemberUnreachable { .. }) => {
                    assert_eq!(parent.abandon(), Ok(Abandoned::Passed));
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
            marks.gate(&job, &format!("split-{round}"));
        }
        make_promptly(world, 10);
        return wait_for_space(&job, before, 0);
    }
    Across::new(&NODES).run(TEST, &[]);
}

/// Whoever has a group may drop it, and its job, and end at once: the others find it made all the same.
#[test]
fn ranks_may_end_right_after_a_group_is_made() {
    const TEST: &str = "ranks_may_end_right_after_a_group_is_made";
    if role().is_some() {
        let job = join();
        job.world().barrier_timeout(LIMIT).expect("all come");
        let group = job.world().split_timeout(0, 0, PROMPT).expect("all split");
        assert_eq!(group.ranks(), [0, 1, 2]);
        return;
    }
    for _ in 0..20 {
        Across::new(&[0, 1, 2]).run(TEST, &[]);
    }
}

/// Calls that give up before any answer can have come get on, as long as they are repeated.
#[test]
fn calls_with_no_time_left_get_on() {
    const TEST: &str = "calls_with_no_time_left_get_on";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        let repeat = |call: &dyn Fn() -> Result<Group, GroupError>| {
            let begun = Instant::now();
            loop {
                match call() {
                    Ok(group) => return group,
                    Err(error) => assert!(begun.elapsed() < PROMPT, "{error}"),
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        for _ in 0..3 {
            let listed = repeat(&|| world.subgroup(&[0, 1], Duration::ZERO));
            listed.barrier_timeout(LIMIT).expect("both have it");
            let split = repeat(&|| world.split_timeout(0, 0, Duration::ZERO));
            split.barrier_timeout(LIMIT).expect("both have it");
        }
        return marks.gate(&job, "end");
    }
    Across::new(&[0, 1]).run(TEST, &[]);
}

/// The members of a split have met, but one node does not say what its members want: called again, the split goes on.
#[test]
fn a_split_whose_members_do_not_answer_is_resumed() {
    const TEST: &str = "a_split_whose_members_do_not_answer_is_resumed";
    if role().is_some() {
        let (job, marks) = (join(), Marks::of_this_rank());
        let world = job.world();
        world.barrier_timeout(LIMIT).expect("all come");
        let color = 1 + job.rank() as u64 / 3;
        if job.rank() == 0 {
            while world.stats().members.iter().any(|member| member.rank != 0 && member.arrivals < 2) {}
            answer("the others wait");
            marks.wait([99], "stopped");
            for _ in 0..2 {
                let error = world.split_timeout(color, 0, Duration::from_millis(300)).expect_err("a node is silent");
                let is_right = matches!(error, GroupError::MemberUnreachable { rank: 0, member: 2 | 3, node: 1, .. });
                assert!(is_right && error.to_string().contains("node 1"), "{error}");
                let error = world.barrier().expect_err("the split is not finished");
                assert!(matches!(error, BarrierError::SplitUnfinished { .. }), "{error}");
            }
            answer("not answered");
        }
        let group = world.split_timeout(color, 0, LIMIT).expect("all answer");
        assert_eq!(group.ranks(), if job.rank() < 3 { &[0, 1, 2][..] } else { &[3] });
        group.barrier_timeout(LIMIT).expect("all have it");
        return world.barrier_timeout(LIMIT).expect("all have passed as many barriers");
    }
    let across = Across::new(&NODES);
    // Whoever is stopped is only late.
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "60000")]);
    assert_eq!(children.next_answer(0), "the others wait");
    // Rank 2, which speaks for its node, tells the other node at once: it looks for nothing else.
    std::thread::sleep(Duration::from_millis(500));
    children.stop(2);
    std::fs::write(across.marks.join("stopped.99"), "").expect("a file");
    assert_eq!(children.next_answer(0), "not answered");
    children.signal(2, Signal::CONT);
    children.answers();
}
