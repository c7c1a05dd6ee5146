//! What goes wrong in groups and barriers, each case through the library's interface, with ranks as threads: time-outs,
//! abandonment, mismatches, arrivals in each other's way, groups that cannot be made; and what `stats` tells meanwhile.
//!
//! Ranks are brought into a situation by *gates*, so that nothing depends on how fast anybody is. Where a call must
//! time out, nothing can make it succeed.
#![cfg(not(model))]

mod common;

use std::time::Duration;

use common::ranks::{Gate, LIMIT, await_that, on_ranks};
use phalanx::{Abandoned, Algorithm, Arrival, BarrierError, Group, GroupError, Job, JobError, JobOptions, Operation};

/// A time-out that is meant to strike.
const SHORT: Duration = Duration::from_millis(20);

/// Runs `body` as `n` ranks with every algorithm. The gate stops all of them.
fn with_every_algorithm(n: usize, body: impl Fn(&Job, &Gate, Algorithm) + Sync) {
    for algorithm in Algorithm::ALL {
        let gate = Gate::new(n);
        on_ranks(n, &JobOptions::new().barrier(algorithm), |job| body(&job, &gate, algorithm));
    }
}

fn missing_in(result: Result<(), BarrierError>) -> Vec<usize> {
    match result {
        Err(BarrierError::TimedOut { missing, .. }) => missing,
        other => panic!("not a time-out: {other:?}"),
    }
}

fn is_outstanding<T>(result: Result<T, BarrierError>) -> bool {
    matches!(result, Err(BarrierError::ArrivalOutstanding { .. }))
}

#[test]
fn a_time_out_lists_exactly_the_missing_and_is_resumed() {
    with_every_algorithm(5, |job, gate, algorithm| {
        let world = job.world();
        world.barrier_timeout(LIMIT).expect("the first barrier");
        let arrival = [2, 4].contains(&job.rank()).then(|| world.arrive().expect("nothing outstanding"));
        gate.wait();
        if job.rank() == 0 {
            let error = world.barrier_timeout(SHORT).expect_err("1 and 3 stand at the gate");
            let BarrierError::TimedOut { rank, group, sequence, missing, .. } = &error else { panic!("{error}") };
            assert_eq!((*rank, *group, *sequence, missing.as_slice()), (0, 0, 2, &[1, 3][..]), "{algorithm}");
            assert!(error.to_string().contains("[1, 3]"), "{error}");
            assert_eq!(missing_in(world.barrier_timeout(Duration::ZERO)), [1, 3]);
            assert_eq!(world.passed(), 1);
        }
        gate.wait();
        match arrival {
            Some(arrival) => arrival.wait_timeout(LIMIT).expect("all come"),
            None => world.barrier_timeout(LIMIT).expect("resumed, or the first try"),
        }
        assert_eq!(world.passed(), 2);
        world.barrier_timeout(LIMIT).expect("the next barrier");
    });
}

#[test]
fn an_abandoned_arrival_does_not_release_the_other_rank() {
    with_every_algorithm(2, |job, gate, _| {
        let world = job.world();
        for round in 1..=3 {
            if job.rank() == 0 {
                assert_eq!(missing_in(world.barrier_timeout(SHORT)), [1]);
                assert_eq!(world.abandon(), Ok(Abandoned::Withdrawn));
                assert_eq!(world.abandon(), Ok(Abandoned::Nothing));
            }
            gate.wait();
            if job.rank() == 1 {
                assert_eq!(missing_in(world.barrier_timeout(SHORT)), [0], "the withdrawn arrival releases nobody");
            }
            gate.wait();
            world.barrier_timeout(LIMIT).expect("both come");
            assert_eq!(world.passed(), round);
        }
    });
}

#[test]
fn an_arrival_is_abandoned_though_others_have_arrived_already() {
    with_every_algorithm(3, |job, gate, algorithm| {
        let world = job.world();
        let mut arrival = (job.rank() > 0).then(|| world.arrive().expect("nothing outstanding"));
        gate.wait();
        if job.rank() == 1 {
            let taken = arrival.take().expect("an arrival").abandon();
            assert_eq!(taken, Ok(Abandoned::Withdrawn), "{algorithm}: rank 0 is not there");
        }
        gate.wait();
        match job.rank() {
            0 => assert_eq!(missing_in(world.barrier_timeout(SHORT)), [1], "{algorithm}"),
            2 => assert_eq!(
                missing_in(arrival.as_ref().expect("held").wait_timeout(SHORT)),
                missing_for_two(&world.stats())
            ),
            _ => {}
        }
        gate.wait();
        match arrival {
            Some(arrival) => arrival.wait_timeout(LIMIT).expect("all come"),
            None => world.barrier_timeout(LIMIT).expect("all come"),
        }
        assert_eq!(world.passed(), 1);
        gate.wait();
        assert!(job.rank() == 0 || missing_in(world.barrier_timeout(SHORT)).contains(&0), "{algorithm}: not left over");
        gate.wait();
        world.barrier_timeout(LIMIT).expect("the next barrier");
    });
}

/// Rank 0 may or may not have arrived when rank 2 times out; what the record says afterwards is at most that.
fn missing_for_two(stats: &phalanx::GroupStats) -> Vec<usize> {
    stats.missing.clone()
}

#[test]
fn abandoning_comes_too_late_when_all_have_arrived() {
    with_every_algorithm(3, |job, gate, algorithm| {
        let arrival = job.world().arrive().expect("nothing outstanding");
        gate.wait();
        assert_eq!(arrival.abandon(), Ok(Abandoned::Passed), "{algorithm}");
        assert_eq!(job.world().passed(), 1);
        job.world().barrier_timeout(LIMIT).expect("the next barrier");
    });
}

/// All abandon at once, again and again; whatever came of it, all meet.
#[test]
fn all_abandon_at_once_and_still_meet() {
    with_every_algorithm(4, |job, gate, _| {
        for round in 1..=100 {
            gate.wait();
            let arrival = job.world().arrive().expect("nothing outstanding");
            if arrival.abandon().expect("few withdrawals") == Abandoned::Withdrawn {
                job.world().barrier_timeout(LIMIT).expect("all come back");
            }
            assert_eq!(job.world().passed(), round);
        }
    });
}

#[test]
fn an_arrival_is_in_the_way_of_the_next() {
    with_every_algorithm(2, |job, gate, _| {
        let world = job.world();
        if job.rank() == 0 {
            let held = world.arrive().expect("nothing outstanding");
            assert!(is_outstanding(world.arrive().map(drop)));
            assert!(is_outstanding(world.barrier_timeout(SHORT)));
            assert!(is_outstanding(world.barrier_reduce_timeout(Operation::Or, 1, SHORT)));
            assert!(is_outstanding(world.abandon()), "the holder of the arrival abandons it");
            let split = world.split_timeout(0, 0, SHORT);
            assert!(matches!(split, Err(GroupError::Barrier(BarrierError::ArrivalOutstanding { .. }))));
            assert_eq!(held.test(), Ok(false));
            assert_eq!(held.abandon(), Ok(Abandoned::Withdrawn));
            assert_eq!(missing_in(world.barrier_timeout(SHORT)), [1]);
            assert!(
                is_outstanding(world.barrier_reduce_timeout(Operation::Or, 1, SHORT)),
                "another operation does not resume it"
            );
            assert!(is_outstanding(world.arrive().map(drop)));
        }
        gate.wait();
        world.barrier_timeout(LIMIT).expect("resumed, or the first try");
    });
}

#[test]
fn a_dropped_arrival_counts_and_is_finished_by_the_next_call() {
    with_every_algorithm(2, |job, gate, _| {
        let world = job.world();
        if job.rank() == 0 {
            drop(world.arrive());
            assert!(is_outstanding(world.arrive().map(drop)), "rank 1 has not come");
            assert_eq!(missing_in(world.barrier_timeout(SHORT)), [1], "the first of the two barriers");
        }
        gate.wait();
        world.barrier_timeout(LIMIT).expect("both are there");
        if job.rank() == 1 {
            world.barrier_timeout(LIMIT).expect("the barrier that rank 0 called for");
        }
        assert_eq!(world.passed(), 2);
    });
}

#[test]
fn a_finished_arrival_gives_the_same_answer_again() {
    with_every_algorithm(2, |job, _, _| {
        let arrival: Arrival<'_, u64> = job.world().arrive_reduce(Operation::Max, job.rank() as u64 + 3).expect("free");
        assert_eq!(arrival.wait_timeout(LIMIT), Ok(4));
        assert_eq!((arrival.wait(), arrival.test()), (Ok(4), Ok(true)));
        assert_eq!(arrival.abandon(), Ok(Abandoned::Passed));
    });
}

#[test]
fn a_mismatch_names_every_member_to_every_member() {
    with_every_algorithm(3, |job, _, algorithm| {
        let world = job.world();
        let named = [Operation::Barrier, Operation::Min, Operation::Max];
        for round in 1..=3u64 {
            let result = match job.rank() {
                0 => world.barrier_timeout(LIMIT).map(|()| 0),
                rank => world.barrier_reduce_timeout(named[rank], 1, LIMIT),
            };
            let error = result.expect_err("they disagree");
            let BarrierError::OperationMismatch { rank, sequence, named: found, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((*rank, *sequence), (job.rank(), 2 * round - 1), "{algorithm}");
            assert_eq!(*found, named.into_iter().enumerate().collect::<Vec<_>>(), "{algorithm}");
            assert!(error.to_string().contains("rank 2: max"), "{error}");
            assert_eq!(world.barrier_reduce_timeout(Operation::And, 6, LIMIT), Ok(6), "it counts as passed by all");
        }
    });
}

#[test]
fn a_split_against_a_barrier_is_a_mismatch() {
    with_every_algorithm(2, |job, _, _| {
        let error = match job.rank() {
            0 => job.world().barrier_timeout(LIMIT).expect_err("a mismatch"),
            _ => match job.world().split_timeout(0, 0, LIMIT) {
                Err(GroupError::Barrier(error)) => error,
                other => panic!("{other:?}"),
            },
        };
        let named = vec![(0, Operation::Barrier), (1, Operation::Split)];
        assert!(matches!(error, BarrierError::OperationMismatch { named: found, .. } if found == named));
        job.world().barrier_timeout(LIMIT).expect("the next barrier");
    });
}

#[test]
fn a_split_that_timed_out_is_resumed_with_the_same_words_only() {
    with_every_algorithm(3, |job, gate, _| {
        let world = job.world();
        if job.rank() == 2 {
            let timed_out = |result: Result<Group, GroupError>| match result {
                Err(GroupError::Barrier(error)) => missing_in(Err(error)),
                other => panic!("{other:?}"),
            };
            assert_eq!(timed_out(world.split_timeout(1, 0, SHORT)), [0, 1]);
            assert_eq!(timed_out(world.split_timeout(1, 0, SHORT)), [0, 1]);
            let other = world.split_timeout(2, 0, SHORT);
            assert!(matches!(other, Err(GroupError::Barrier(BarrierError::ArrivalOutstanding { .. }))));
            assert_eq!(world.abandon(), Ok(Abandoned::Withdrawn));
        }
        gate.wait();
        let group = world.split_timeout(7, 9 - job.rank() as u64, LIMIT).expect("all split");
        assert_eq!(group.ranks(), [2, 1, 0], "the words of the abandoned split do not count");
        group.barrier_timeout(LIMIT).expect("the new group meets");
    });
}

#[test]
fn overlapping_groups_are_independent() {
    with_every_algorithm(3, |job, gate, algorithm| {
        let world = job.world();
        let pair = |members: [usize; 2]| {
            members.contains(&job.rank()).then(|| world.subgroup(&members, LIMIT).expect("space and time"))
        };
        let (left, right) = (pair([0, 1]), pair([2, 1]));
        if let (Some(left), 1) = (&left, job.rank()) {
            assert_eq!(missing_in(left.barrier_timeout(SHORT)), [0], "rank 0 stands at the gate");
        }
        if let Some(right) = &right {
            for _ in 0..10 {
                right.barrier_timeout(LIMIT).expect("rank 1 waits in another group too, and is here nevertheless");
            }
        }
        gate.wait();
        if let Some(left) = &left {
            left.barrier_timeout(LIMIT).expect("both come");
            assert_eq!(left.passed(), 1, "{algorithm}");
        }
        assert_eq!(world.passed(), 0, "subgroups are made by their members only");
    });
}

#[test]
fn a_list_that_is_none_is_refused_at_once() {
    on_ranks(1, &JobOptions::new(), |job| {
        for list in [&[1][..], &[0, 0], &[], &[0, 7]] {
            let error = job.world().subgroup(list, LIMIT).expect_err("no list of members");
            assert!(matches!(&error, GroupError::BadList { rank: 0, list: found, .. } if found == list), "{error}");
        }
    });
}

/// A member that gave up on its leader can call again, and finds the group that the leader has made meanwhile.
#[test]
fn a_leader_that_does_not_come_is_named_and_the_call_can_be_repeated() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new(), |job| {
        for round in 0..3 {
            if job.rank() == 1 {
                for _ in 0..2 {
                    let error = job.world().subgroup(&[0, 1], SHORT).expect_err("rank 0 stands at the gate");
                    assert!(matches!(error, GroupError::LeaderMissing { rank: 1, leader: 0, node: 0, .. }), "{error}");
                }
            }
            gate.wait();
            let group = job.world().subgroup(&[0, 1], LIMIT).expect("both call");
            group.barrier_timeout(LIMIT).unwrap_or_else(|error| panic!("round {round}: {error}"));
            gate.wait();
        }
    });
}

/// A leader whose members do not come can offer so many groups and no more; the space of the one too many is free.
#[test]
fn a_leader_whose_members_do_not_come_is_told_and_can_repeat_the_call() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new(), |job| {
        let world = job.world();
        let offers = phalanx::fabric::node::OFFERS;
        let mut groups = Vec::new();
        if job.rank() == 0 {
            groups.extend((0..offers).map(|_| world.subgroup(&[0, 1], LIMIT).expect("a place for the offer")));
            let before = world.space();
            let error = world.subgroup(&[0, 1], SHORT).expect_err("no place for the offer");
            assert!(matches!(error, GroupError::OffersPending { rank: 0, .. }), "{error}");
            assert_eq!(world.space(), before);
        }
        gate.wait();
        if job.rank() == 1 {
            groups.extend((0..offers).map(|_| world.subgroup(&[0, 1], LIMIT).expect("offered")));
        }
        groups.push(world.subgroup(&[0, 1], LIMIT).expect("there is a place again"));
        groups.iter().for_each(|group| group.barrier_timeout(LIMIT).expect("both hold the same groups in order"));
    });
}

/// A split can also time out after its barrier, when the leader has no place for its offer. It is resumed, too.
#[test]
fn a_split_that_waits_for_its_leader_is_resumed() {
    let gate = Gate::new(3);
    on_ranks(3, &JobOptions::new(), |job| {
        let world = job.world();
        let offers = phalanx::fabric::node::OFFERS;
        let with_two = |_| world.subgroup(&[0, 2], LIMIT).expect("a place for the offer");
        let mut held: Vec<Group> = Vec::new();
        if job.rank() == 0 {
            held.extend((0..offers).map(with_two));
        }
        gate.wait();
        let color = u64::from(job.rank() == 2);
        if job.rank() == 2 {
            drop(world.split_timeout(color, 0, LIMIT).expect("alone"));
        } else {
            let error = world.split_timeout(color, 0, 10 * SHORT).expect_err("rank 2 does not take what is offered");
            let is_right = match job.rank() {
                0 => matches!(error, GroupError::OffersPending { .. }),
                _ => matches!(error, GroupError::LeaderMissing { leader: 0, .. }),
            };
            assert!(is_right, "{error}");
        }
        gate.wait();
        if job.rank() == 2 {
            held.extend((0..offers).map(with_two));
        } else {
            let group = world.split_timeout(color, 0, LIMIT).expect("resumed");
            assert_eq!(group.ranks(), [0, 1]);
            group.barrier_timeout(LIMIT).expect("both hold the same group");
        }
        world.barrier_timeout(LIMIT).expect("all have passed as many barriers");
        assert_eq!(world.passed(), 2);
    });
}

/// Hundreds of groups of two fill the segment; then the maker and the other are both told; what is dropped is free.
#[test]
fn a_full_segment_is_a_clear_error_and_dropped_groups_give_space_back() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new().groups(1), |job| {
        let world = job.world();
        let before = world.space();
        let mut groups = Vec::new();
        let error = loop {
            match world.split_timeout(0, 0, LIMIT) {
                Ok(group) => groups.push(group),
                Err(error) => break error,
            }
        };
        match (job.rank(), &error) {
            (0, GroupError::Exhausted { rank: 0, members: 2, needed_bytes, free_bytes }) => {
                assert!(free_bytes < needed_bytes, "{error}");
            }
            (1, GroupError::Refused { rank: 1, leader: 0, members: 2 }) => {}
            _ => panic!("rank {}: {error}", job.rank()),
        }
        assert!(error.to_string().contains("JobOptions::groups"), "{error}");
        assert!(groups.len() >= 300, "hundreds of groups: {}", groups.len());
        for group in groups.iter().step_by(37) {
            group.barrier_timeout(LIMIT).expect("all of them work");
        }
        gate.wait();
        groups.remove(groups.len() / 2);
        gate.wait();
        groups.push(world.split_timeout(0, 0, LIMIT).expect("one has been given back"));
        gate.wait();
        groups.clear();
        gate.wait();
        assert_eq!(world.space(), before, "all is given back");
        gate.wait();
        let last = world.split_timeout(0, 0, LIMIT);
        // Nobody leaves the job before the others have it.
        gate.wait();
        assert!(last.is_ok(), "{last:?}");
    });
}

/// A member alone does not give space back that another still uses.
#[test]
fn space_stays_taken_until_the_last_member_has_dropped() {
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new(), |job| {
        let before = job.world().space();
        let group = job.world().split_timeout(0, 0, LIMIT).expect("space");
        gate.wait();
        let with_group = job.world().space();
        assert!(with_group.0 > before.0);
        gate.wait();
        if job.rank() == 0 {
            drop(group);
            assert_eq!(job.world().space(), with_group);
            gate.wait();
            gate.wait();
        } else {
            gate.wait();
            drop(group);
            gate.wait();
        }
        assert_eq!(job.world().space(), before);
    });
}

#[test]
fn a_job_of_no_ranks_or_too_many_is_refused() {
    for n in [0, 1025, usize::MAX] {
        let error = Job::threads(n).expect_err("no such job");
        assert!(matches!(error, JobError::Size { asked, most: 1024 } if asked == n), "{error}");
    }
}

/// Rank 2 is missing; the others are stuck; any of them that looks sees who is missing and since when the rest waits.
#[test]
fn stats_tell_who_is_missing_while_others_are_stuck() {
    with_every_algorithm(3, |job, gate, algorithm| {
        let world = job.world();
        world.barrier_timeout(LIMIT).expect("the first barrier");
        // Others read what a rank notes at its arrivals, so all are through before anybody goes on.
        gate.wait();
        if job.rank() < 2 {
            let arrival = world.arrive().expect("nothing outstanding");
            gate.wait();
            assert!(missing_in(arrival.wait_timeout(SHORT)) == [2]);
            gate.wait();
            arrival.wait_timeout(LIMIT).expect("rank 2 comes");
        } else {
            gate.wait();
            let stats = world.stats();
            assert_eq!((stats.completed, stats.missing.as_slice()), (1, &[2][..]), "{algorithm}");
            let arrivals: Vec<u64> = stats.members.iter().map(|member| member.arrivals).collect();
            assert_eq!(arrivals, [2, 2, 1]);
            if cfg!(feature = "attribution") {
                let since = |member: &phalanx::MemberStats| member.arrived_at_ns.expect("it has arrived");
                assert!(stats.members.iter().all(|member| since(member) <= stats.now_ns));
                assert!(since(&stats.members[0]) > since(&stats.members[2]), "a barrier later");
            }
            gate.wait();
            world.barrier_timeout(LIMIT).expect("the others are there");
        }
        gate.wait();
        assert!(world.stats().missing.is_empty());
        assert_eq!(world.stats().completed, 2);
    });
}

#[test]
fn stats_name_the_last_and_count_the_others_waits() {
    if !cfg!(feature = "attribution") {
        return;
    }
    const LATE: Duration = Duration::from_millis(30);
    with_every_algorithm(3, |job, gate, algorithm| {
        let world = job.world();
        for round in 1..=3 {
            gate.wait();
            if job.rank() == 1 {
                await_that("the others do not arrive", || world.stats().missing == [1]);
                // Late on purpose: this is what the record is about.
                std::thread::sleep(LATE);
            }
            world.barrier_timeout(LIMIT).expect("all come");
            gate.wait();
            let stats = world.stats();
            assert_eq!(stats.last_arriver, Some(1), "{algorithm}, round {round}");
            assert!(stats.last_spread_ns.is_some_and(|spread| spread > 20_000_000), "{algorithm}: {stats:?}");
            let members = &stats.members;
            assert_eq!(
                members.iter().map(|member| member.times_last).collect::<Vec<_>>(),
                [0, round, 0],
                "{algorithm}"
            );
            assert!(members[0].waited_ns >= round * 20_000_000 && members[2].longest_wait_ns >= 20_000_000);
            assert!(members[1].waited_ns < members[0].waited_ns / 2, "{algorithm}: {stats:?}");
        }
    });
}

/// Rank 0 arrives first, and does other things until all have arrived: it did not come last.
#[test]
fn who_arrives_early_and_looks_late_did_not_come_last() {
    if !cfg!(feature = "attribution") {
        return;
    }
    with_every_algorithm(2, |job, gate, algorithm| {
        let world = job.world();
        if job.rank() == 0 {
            let arrival = world.arrive().expect("nothing outstanding");
            gate.wait();
            gate.wait();
            arrival.wait_timeout(LIMIT).expect("rank 1 has come");
        } else {
            gate.wait();
            world.barrier_timeout(LIMIT).expect("rank 0 is there");
            gate.wait();
        }
        gate.wait();
        let stats = world.stats();
        assert_eq!(stats.last_arriver, Some(1));
        assert_eq!(stats.members[0].times_last, 0, "{algorithm}: rank 0 came first");
        assert_eq!(stats.members[1].times_last, 1, "{algorithm}: rank 1 came last");
        gate.wait();
    });
}

/// A withdrawn arrival is none, also in the record.
#[test]
fn stats_do_not_count_an_abandoned_arrival() {
    with_every_algorithm(2, |job, gate, _| {
        if job.rank() == 0 {
            let arrival = job.world().arrive().expect("nothing outstanding");
            assert_eq!(job.world().stats().missing, [1]);
            assert_eq!(arrival.abandon(), Ok(Abandoned::Withdrawn));
            let stats = job.world().stats();
            assert_eq!((stats.missing.len(), stats.members[0].arrivals), (0, 0));
        }
        gate.wait();
    });
}

#[test]
fn splits_that_a_member_gives_up_leave_nothing_behind() {
    on_ranks(2, &JobOptions::new(), |job| {
        let world = job.world();
        let (before, _) = world.space();
        for _ in 0..200 {
            if job.rank() == 0 {
                drop(world.split(0, 0).expect("the leader makes the group"));
            } else {
                split_or_give_up(world);
            }
            world.barrier().expect("a barrier after a split, given up or not");
        }
        // The last call that makes a group settles what was given up.
        drop(world.split(0, 0).expect("a split of both"));
        world.barrier().expect("both have dropped");
        assert_eq!(world.space().0, before);
    });
}

/// Splits with no patience at all: sometimes the group is there, sometimes its leader is not that far.
fn split_or_give_up(world: &Group) {
    loop {
        match world.split_timeout(0, 0, Duration::ZERO) {
            Ok(_) => return,
            Err(GroupError::Barrier(BarrierError::TimedOut { .. })) => {}
            Err(GroupError::LeaderMissing { .. }) => {
                assert!(matches!(world.barrier(), Err(BarrierError::SplitUnfinished { .. })));
                assert!(matches!(world.split(1, 0), Err(GroupError::Barrier(BarrierError::SplitUnfinished { .. }))));
                assert_eq!(world.abandon(), Ok(Abandoned::Passed));
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn more_groups_than_any_segment_holds_are_refused() {
    for groups in [usize::MAX, usize::MAX / 2, 1 << 40] {
        let refused = Job::threads_with(2, &JobOptions::new().groups(groups)).expect_err("too many");
        assert!(matches!(refused, JobError::Groups { ranks: 2, .. }), "{refused}");
    }
}

#[test]
fn an_operation_that_reduces_nothing_is_refused() {
    let jobs = Job::threads(1).expect("a job of one");
    for operation in [Operation::Barrier, Operation::Split] {
        let refused = jobs[0].world().barrier_reduce(operation, 1);
        assert!(matches!(refused, Err(BarrierError::NoReduction { .. })));
    }
    jobs[0].world().barrier().expect("nothing is outstanding");
}
