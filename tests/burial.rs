//! The space of broken groups: what dead ranks held is given back when the survivors have dropped what they held.

mod common;

use std::time::Instant;

use common::children::{Launch, answer, await_line, role};
use common::nodes::Across;
use common::ranks::{LIMIT, await_that, on_ranks, space_before};
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::sim::Seeded;
use phalanx::{BarrierError, Group, Job, JobOptions};
use rustix::process::Signal;

/// Waits until no more is taken than was. What the dead held is let go by whoever notices, who may be just about to.
fn await_space(world: &Group, before: usize) {
    await_that("what the dead held is never let go", || world.space().0 == before);
}

/// Fails at the group's barriers, and goes on with those who are left.
fn outlive(group: &Group) -> Group {
    loop {
        match group.barrier() {
            Ok(()) => {}
            Err(BarrierError::RankFailed { .. }) => return group.shrink(LIMIT).expect("some are left"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The lowest and the highest in turn, so that leaders die as well as others.
#[test]
fn processes_that_die_one_after_the_other_leave_no_space_taken() {
    const TEST: &str = "processes_that_die_one_after_the_other_leave_no_space_taken";
    const RANKS: usize = 6;
    const DEATHS: [usize; 4] = [0, 5, 1, 4];
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        // Those who survive drop this one before anybody is dead, and cannot let go what the dead held by dropping it.
        let early = world.subgroup(&(0..RANKS).collect::<Vec<_>>(), LIMIT).expect("a group");
        let early = DEATHS.contains(&job.rank()).then_some(early);
        let mut group = world.split(0, 0).expect("a group");
        answer("ready");
        for _ in DEATHS {
            group = outlive(&group);
            answer(format!("{:?}", group.ranks()));
        }
        drop((group, early));
        await_space(world, before);
        return answer("nothing is left");
    }
    let mut children = Launch::new(RANKS).start(TEST, "rank");
    let mut alive: Vec<usize> = (0..RANKS).collect();
    children.await_answers(&alive, "ready");
    for dead in DEATHS {
        children.kill(dead);
        alive.retain(|rank| *rank != dead);
        children.await_answers(&alive, &format!("{alive:?}"));
    }
    children.await_answers(&alive, "nothing is left");
}

/// Threads drop their groups when they panic or leave, but what they have not taken by then is not theirs to drop.
#[test]
fn threads_that_end_one_after_the_other_leave_no_space_taken() {
    const RANKS: usize = 6;
    on_ranks(RANKS, &JobOptions::new(), |job| {
        let rank = job.rank();
        let before = space_before(job.world());
        let mut group = job.world().split(0, 0).expect("a group");
        // Ranks 1 and 3 never take these. Of the first all others drop theirs before anybody has ended; of the second
        // the leader ends before the one that it is made for.
        let early = (rank == 0 || rank == 2).then(|| job.world().subgroup(&[0, 1, 2], LIMIT).expect("a group"));
        drop(early);
        let late = (rank == 2).then(|| job.world().subgroup(&[2, 3], LIMIT).expect("a group"));
        job.world().barrier().expect("all have what they want");
        for last in 1..RANKS - 1 {
            if rank == last && rank % 2 == 0 {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _held = (job, group, late);
                    panic!("on purpose");
                }));
                return drop(ended);
            }
            if rank == last {
                return;
            }
            group = outlive(&group);
        }
        drop(group);
        await_space(job.world(), before);
    });
}

/// A stopped rank may come back and write into its line: what it holds stays until it is dead.
#[test]
fn what_a_stopped_rank_holds_is_kept_until_it_is_dead() {
    const TEST: &str = "what_a_stopped_rank_holds_is_kept_until_it_is_dead";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        let group = world.split(0, 0).expect("a group");
        answer("ready");
        await_line();
        let rest = outlive(&group);
        drop((group, rest));
        answer(world.space().0 > before);
        await_space(world, before);
        return answer("nothing is left");
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    children.await_answers(&[0, 1, 2], "ready");
    children.signal(0, Signal::STOP);
    [1, 2].iter().for_each(|rank| children.say(*rank, "go on"));
    children.await_answers(&[1, 2], "true");
    children.kill(0);
    children.await_answers(&[1, 2], "nothing is left");
}

/// As [`await_space`], in a job across nodes: what is left to do there is done along with other calls.
fn await_space_across(job: &Job, before: usize) {
    let begun = Instant::now();
    while job.world().space().0 != before {
        assert!(begun.elapsed() < LIMIT, "{} units are taken, not {before}", job.world().space().0);
        go_on_with_what_is_left(job);
    }
}

fn go_on_with_what_is_left(job: &Job) {
    drop(job.world().subgroup(&[job.rank()], LIMIT).expect("a group of one"));
}

/// Ranks die one after the other, with one node as a whole and the agents of the others among them. What broken groups
/// held on the survivors' nodes is there again soon, and in the end all of it.
#[test]
fn a_job_that_breaks_again_and_again_runs_out_of_nothing() {
    const TEST: &str = "a_job_that_breaks_again_and_again_runs_out_of_nothing";
    const COUNTS: [usize; 3] = [18, 18, 18];
    const SURVIVORS: [usize; 4] = [16, 17, 34, 35];
    const DEATHS: usize = 50;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        let mut group = world.split(0, 0).expect("a group");
        let block = world.space().0 - before;
        group.barrier().expect("all have looked again");
        // Those who survive drop this one before anybody is dead.
        let early = world.split(0, 0).expect("a group");
        let early = (!SURVIVORS.contains(&job.rank())).then_some(early);
        answer("ready");
        for _ in 0..DEATHS {
            group = outlive(&group);
            answer(format!("{:?}", group.ranks()));
            let taken = world.space().0 - before;
            assert!(taken <= 8 * block, "{taken} units are taken, and a group takes {block}");
        }
        drop((group, early));
        await_space_across(&job, before);
        answer("nothing is left");
        await_line();
        return;
    }
    let seed = fresh_seed();
    let _named = Named::new("burial", TEST, seed);
    let across = Across::of_counts(&COUNTS);
    // A death is seen at once; a machine that has too much to do is to lose nobody else.
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "10000")]);
    let mut alive: Vec<usize> = (0..across.nodes.len()).collect();
    alive.iter().for_each(|rank| assert_eq!(children.next_answer(*rank), "ready"));
    let mut random = Seeded::new(seed);
    for _ in 0..DEATHS {
        let mortal: Vec<usize> = alive.iter().copied().filter(|rank| !SURVIVORS.contains(rank)).collect();
        let dead = mortal[random.below(mortal.len())];
        children.kill(dead);
        alive.retain(|rank| *rank != dead);
        alive.iter().for_each(|rank| assert_eq!(children.next_answer(*rank), format!("{alive:?}"), "{dead} died"));
    }
    alive.iter().for_each(|rank| assert_eq!(children.next_answer(*rank), "nothing is left"));
    alive.iter().for_each(|rank| children.say(*rank, "leave"));
}

/// An agent that is stopped may hold what another node has sent long ago, and execute it when it comes back.
#[test]
fn nothing_is_given_back_while_a_stopped_agent_may_let_something_in() {
    const TEST: &str = "nothing_is_given_back_while_a_stopped_agent_may_let_something_in";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        let pair = (job.rank() > 0).then(|| world.subgroup(&[1, 2], LIMIT).expect("a group"));
        pair.iter().for_each(|pair| pair.barrier().expect("both are there"));
        answer("ready");
        await_line();
        let rest = outlive(world);
        drop((pair, rest));
        if job.rank() == 1 {
            answer("dropped");
            await_line();
            (0..100).for_each(|_| go_on_with_what_is_left(&job));
            answer(world.space().0 > before);
        }
        await_space_across(&job, before);
        answer("nothing is left");
        await_line();
        return;
    }
    let across = Across::new(&[0, 0, 1]);
    let mut children = across.start(TEST, &[]);
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.signal(0, Signal::STOP);
    [1, 2].iter().for_each(|rank| children.say(*rank, "go on"));
    assert_eq!(children.next_answer(1), "dropped");
    assert_eq!(children.next_answer(2), "nothing is left");
    children.say(1, "look");
    assert_eq!(children.next_answer(1), "true", "what the other node has given back this one keeps");
    children.kill(0);
    assert_eq!(children.next_answer(1), "nothing is left");
    [1, 2].iter().for_each(|rank| children.say(*rank, "leave"));
}

/// A node that neither answers nor refuses keeps whoever drops groups no longer than a moment, for all of them
/// together; what is left to do is done when it is there again.
#[test]
fn who_drops_groups_does_not_wait_for_a_node_that_says_nothing() {
    const TEST: &str = "who_drops_groups_does_not_wait_for_a_node_that_says_nothing";
    const TIMEOUT_MS: u64 = 5000;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let before = space_before(world);
        let groups: Vec<Group> = (0..8).map(|_| world.subgroup(&[0, 1], LIMIT).expect("a group")).collect();
        groups.iter().for_each(|group| group.barrier().expect("both are there"));
        answer("ready");
        await_line();
        let begun = Instant::now();
        drop(groups);
        answer(begun.elapsed().as_millis());
        world.barrier().expect("both live");
        await_space_across(&job, before);
        answer("nothing is left");
        await_line();
        return;
    }
    let across = Across::new(&[0, 1]);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", &TIMEOUT_MS.to_string())]);
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.signal(1, Signal::STOP);
    children.say(0, "drop them");
    let took: u64 = children.next_answer(0).parse().expect("a time");
    children.signal(1, Signal::CONT);
    children.say(1, "drop them");
    let _ = children.next_answer(1);
    assert!(took < TIMEOUT_MS, "it has waited for {took} ms");
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "nothing is left"));
    (0..2).for_each(|rank| children.say(rank, "leave"));
}
