//! The space of broken groups: what dead ranks held is given back when the survivors have dropped what they held.

mod common;

use std::time::Instant;

use common::children::{Launch, answer, await_line, role};
use common::ranks::{LIMIT, on_ranks};
use phalanx::{BarrierError, Group, Job, JobOptions};
use rustix::process::Signal;

/// What is taken before anybody has made a group.
fn space_before(world: &Group) -> usize {
    world.barrier().expect("all are there");
    let before = world.space().0;
    world.barrier().expect("all have looked");
    before
}

/// Waits until no more is taken than was. What the dead held is let go by whoever notices, who may be just about to.
fn await_space(world: &Group, before: usize) {
    let begun = Instant::now();
    while world.space().0 != before {
        assert!(begun.elapsed() < LIMIT, "{} units are taken, not {before}", world.space().0);
        std::thread::yield_now();
    }
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
        // Ranks 1 and 3 never take these. Of the first all others drop theirs before anybody has ended; of the second the
        // leader ends before the one that it is made for.
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
