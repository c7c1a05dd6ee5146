//! What survivors are told when ranks and nodes fail in a job across nodes (pretended, on the loopback interface).

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, answer, await_line, role};
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::{BarrierError, FailureCause, Group, Job};
use rustix::process::Signal;

/// What a survivor says of a failure: the same text from all of them, but for the barrier.
fn told(error: &BarrierError) -> String {
    match error {
        BarrierError::RankFailed { ranks, causes, epoch, .. } => format!("{ranks:?} {causes:?} epoch {epoch}"),
        other => format!("{other:?}"),
    }
}

/// A rank that meets the others until that fails, and then goes on with those that are left. One whom the role names
/// sits idle, and is told by its parent when to look.
fn meet_until_somebody_fails() {
    let job = Job::from_env().expect("a job");
    let world = job.world();
    world.barrier().expect("all are there");
    answer("ready");
    let is_idle = role().is_some_and(|role| role == format!("idle {}", job.rank()));
    if is_idle {
        await_line();
    }
    let error = (0..).find_map(|_| world.barrier().err()).expect("some barrier fails");
    if matches!(error, BarrierError::Excluded { .. }) {
        // What it asks of other nodes is refused.
        let _ = world.stats();
    }
    answer(told(&error));
    if matches!(error, BarrierError::RankFailed { .. }) {
        let rest = world.shrink(LIMIT).expect("some are left");
        for _ in 0..50 {
            rest.barrier().expect("all of them live");
        }
        answer(format!("{:?}", rest.ranks()));
        await_line();
        rest.barrier().expect("they live still");
        answer("still there");
    }
}

/// Starts a job on these nodes; all have met once.
fn start(test: &str, nodes: &[usize], role: &str) -> (Across, Children) {
    let across = Across::new(nodes);
    let mut children = Children::default();
    for rank in 0..nodes.len() {
        let mut command = across.rank(test, rank);
        command.env("EVIDENCE_ROLE", role);
        children.start(command);
    }
    (0..nodes.len()).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    (across, children)
}

/// All survivors say the same, and go on together.
fn survive(children: &mut Children, survivors: &[usize], expected: &str) {
    children.await_answers(survivors, expected);
    children.await_answers(survivors, &format!("{survivors:?}"));
}

/// A rank that meets the others in many groups at a time until that fails in each, and says at which barriers. Where in
/// a barrier a death strikes is chance: the more barriers are under way, the likelier one of them has been passed by
/// some.
fn meet_in_many_groups_and_say_where_each_ends() {
    let job = Job::from_env().expect("a job");
    let all: Vec<usize> = (0..job.size()).collect();
    let groups: Vec<Group> = (0..GROUPS).map(|_| job.world().subgroup(&all, LIMIT).expect("a group")).collect();
    job.world().barrier().expect("all are there");
    answer("ready");
    let mut ends: Vec<Option<String>> = vec![None; GROUPS];
    while ends.contains(&None) {
        let going = groups.iter().zip(&mut ends).filter(|(_, end)| end.is_none());
        let arrivals: Vec<_> = going.map(|(group, end)| (group.arrive(), end)).collect();
        for (arrival, end) in arrivals {
            *end = arrival.and_then(|arrival| arrival.wait()).err().map(|error| told_with_barrier(&error));
        }
    }
    answer(format!("{ends:?}"));
    await_line();
}

fn told_with_barrier(error: &BarrierError) -> String {
    let BarrierError::RankFailed { sequence, .. } = error else { panic!("{error}") };
    format!("{} at barrier {sequence}", told(error))
}

/// How many groups a rank meets the others in.
const GROUPS: usize = 16;

/// Ranks die while all meet as quickly as they can, alone, together, and with their nodes: what some had been told of
/// the last barrier others had not.
#[test]
fn all_survivors_fail_at_the_same_barrier() {
    const TEST: &str = "all_survivors_fail_at_the_same_barrier";
    if role().is_some() {
        return meet_in_many_groups_and_say_where_each_ends();
    }
    let jobs: [(&[usize], &[usize]); 6] = [
        (&[0, 0, 1, 1], &[3]),
        (&[0, 0, 1, 1], &[2]),
        (&[0, 0, 1, 1], &[0]),
        (&[0, 1, 2], &[1]),
        (&[0, 0, 1, 1, 2], &[2, 4]),
        (&[0, 0, 1, 2, 3, 4], &[2, 4]),
    ];
    for (nodes, victims) in jobs.into_iter().cycle().take(18) {
        let (_across, mut children) = start(TEST, nodes, "meet");
        victims.iter().for_each(|victim| children.kill(*victim));
        let survivors: Vec<usize> = (0..nodes.len()).filter(|rank| !victims.contains(rank)).collect();
        let said: Vec<String> = survivors.iter().map(|rank| children.next_answer(*rank)).collect();
        assert!(said[0].contains("epoch 1 at barrier"), "{said:?}");
        assert!(said.iter().all(|other| *other == said[0]), "{nodes:?} without {victims:?}: {said:?}");
        survivors.iter().for_each(|rank| children.say(*rank, "leave"));
    }
}

#[test]
fn a_killed_rank_is_told_of_on_all_nodes() {
    const TEST: &str = "a_killed_rank_is_told_of_on_all_nodes";
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    // The second rank of a node; the one that speaks for it; and the one that all nodes exchange messages by.
    for victim in [3, 2, 0] {
        let (_across, mut children) = start(TEST, &[0, 0, 1, 1], "meet");
        children.kill(victim);
        let survivors: Vec<usize> = (0..4).filter(|rank| *rank != victim).collect();
        survive(&mut children, &survivors, &format!("[{victim}] [Killed {{ signal: 9 }}] epoch 1"));
    }
}

#[test]
fn a_node_whose_only_process_is_killed_is_gone() {
    const TEST: &str = "a_node_whose_only_process_is_killed_is_gone";
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    for nodes in [2, 3, 5] {
        let list: Vec<usize> = (0..nodes).collect();
        let (_across, mut children) = start(TEST, &list, "meet");
        children.kill(1);
        let survivors: Vec<usize> = (0..nodes).filter(|rank| *rank != 1).collect();
        survive(&mut children, &survivors, "[1] [Gone] epoch 1");
    }
}

/// A process that is stopped says nothing: its node is given up for its silence, by the majority. When it comes back it
/// is told so.
#[test]
fn a_silent_node_is_given_up_by_the_majority_and_finds_itself_excluded() {
    const TEST: &str = "a_silent_node_is_given_up_by_the_majority_and_finds_itself_excluded";
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    let (_across, mut children) = start(TEST, &[0, 1, 2], "idle 2");
    children.signal(2, Signal::STOP);
    survive(&mut children, &[0, 1], "[2] [Silent] epoch 1");
    children.signal(2, Signal::CONT);
    children.say(2, "look");
    let said = children.next_answer(2);
    assert!(said.starts_with("Excluded { rank: 2") && said.contains("Silent"), "{said}");
}

/// A rank that meets the others whenever its parent says so, until that fails.
fn meet_when_told() {
    let job = Job::from_env().expect("a job");
    let world = job.world();
    world.barrier().expect("all are there");
    answer("ready");
    loop {
        await_line();
        let Err(error) = world.barrier() else {
            answer("met");
            continue;
        };
        answer(told(&error));
        if matches!(error, BarrierError::RankFailed { .. }) {
            let rest = world.shrink(LIMIT).expect("some are left");
            rest.barrier().expect("all of them live");
            answer(format!("{:?}", rest.ranks()));
        }
        return drop(await_line());
    }
}

/// A node's only process is stopped while its kernel acknowledges: nobody gives it up before the fourth time-out, and
/// then they do. Time is what this is about: the process cannot tell of its own stop, so it lasts as long as the test
/// says.
#[test]
fn a_node_stopped_for_two_time_outs_is_waited_for_and_one_stopped_for_good_is_given_up_after_four() {
    const TEST: &str = "a_node_stopped_for_two_time_outs_is_waited_for_and_one_stopped_for_good_is_given_up_after_four";
    const TIMEOUT: Duration = Duration::from_secs(1);
    if role().is_some() {
        return meet_when_told();
    }
    let across = Across::new(&[0, 1, 2]);
    let timeout = TIMEOUT.as_millis().to_string();
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", &timeout)]);
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.signal(2, Signal::STOP);
    (0..2).for_each(|rank| children.say(rank, "meet"));
    std::thread::sleep(TIMEOUT * 2);
    children.signal(2, Signal::CONT);
    children.say(2, "meet");
    (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "met", "rank {rank}"));

    // What it was stopped for before does not count.
    let stopped = Instant::now();
    children.signal(2, Signal::STOP);
    (0..2).for_each(|rank| children.say(rank, "meet"));
    survive(&mut children, &[0, 1], "[2] [Silent] epoch 1");
    let lasted = stopped.elapsed();
    assert!(lasted >= TIMEOUT * 7 / 2, "it was given up after {lasted:?}, with a time-out of {TIMEOUT:?}");
    children.signal(2, Signal::CONT);
    children.say(2, "meet");
    let said = children.next_answer(2);
    assert!(said.starts_with("Excluded { rank: 2") && said.contains("Silent"), "{said}");
}

/// Of two nodes neither is a majority: nobody may say that the other has failed. When that comes back, all go on.
#[test]
fn where_no_majority_is_left_the_silent_node_is_unreachable_until_it_comes_back() {
    const TEST: &str = "where_no_majority_is_left_the_silent_node_is_unreachable_until_it_comes_back";
    if role().is_some() {
        return meet_again();
    }
    let (_across, mut children) = start(TEST, &[0, 1], "idle 1");
    children.signal(1, Signal::STOP);
    let said = children.next_answer(0);
    assert!(said.starts_with("Unreachable { rank: 0") && said.contains("ranks: [1], nodes: [1]"), "{said}");
    children.signal(1, Signal::CONT);
    children.say(1, "look");
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "met again", "rank {rank}"));
    (0..2).for_each(|rank| children.say(rank, "leave"));
}

/// As long as others cannot be reached, tries again.
fn meet_again() {
    let job = Job::from_env().expect("a job");
    let world = job.world();
    world.barrier().expect("all are there");
    answer("ready");
    if role().is_some_and(|role| role == format!("idle {}", job.rank())) {
        await_line();
    }
    let mut has_told = false;
    let begun = Instant::now();
    loop {
        match world.barrier() {
            Ok(()) => break,
            Err(error @ BarrierError::Unreachable { .. }) => {
                if !std::mem::replace(&mut has_told, true) {
                    answer(told(&error));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < LIMIT, "it never comes back");
    }
    answer("met again");
    // Who left now would have ended before the other had seen it come back.
    await_line();
}

#[test]
fn a_rank_of_another_node_that_is_stopped_has_failed_after_the_time_out() {
    const TEST: &str = "a_rank_of_another_node_that_is_stopped_has_failed_after_the_time_out";
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    // One that others of its node wait for; and the one that speaks for its node.
    for victim in [3, 2] {
        let (_across, mut children) = start(TEST, &[0, 0, 1, 1], &format!("idle {victim}"));
        children.signal(victim, Signal::STOP);
        let survivors: Vec<usize> = (0..4).filter(|rank| *rank != victim).collect();
        survive(&mut children, &survivors, &format!("[{victim}] [Stopped] epoch 1"));
        children.signal(victim, Signal::CONT);
        children.say(victim, "look");
        let said = children.next_answer(victim);
        assert!(said.starts_with(&format!("Excluded {{ rank: {victim}")), "{said}");
        // It alone is refused, not its node.
        survivors.iter().for_each(|rank| children.say(*rank, "go on"));
        children.await_answers(&survivors, "still there");
    }
}

/// A node's agent and the next one behind it are stopped, and its last rank waits for nobody.
#[test]
fn the_rank_behind_two_that_are_stopped_saves_its_node() {
    const TEST: &str = "the_rank_behind_two_that_are_stopped_saves_its_node";
    if role().is_some() {
        return meet_when_told();
    }
    let across = Across::new(&[0, 1, 2, 2, 2]);
    let mut children = across.start(TEST, &[("PHALANX_FAILURE_TIMEOUT_MS", "500")]);
    (0..5).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    [2, 3].iter().for_each(|rank| children.signal(*rank, Signal::STOP));
    (0..2).for_each(|rank| children.say(rank, "meet"));
    for rank in 0..2 {
        let said = children.next_answer(rank);
        assert!(said.starts_with("[2") && said.contains("[Stopped"), "{said}");
    }
    children.say(4, "meet");
    let said = children.next_answer(4);
    assert!(said.starts_with("[2") && said.contains("[Stopped"), "{said}");
    children.await_answers(&[0, 1, 4], "[0, 1, 4]");
}

/// Those who wait for a rank that has left are told so, on whatever node, and be it the last of its node.
#[test]
fn whoever_waits_for_a_rank_that_has_left_is_told() {
    const TEST: &str = "whoever_waits_for_a_rank_that_has_left_is_told";
    if let Some(leaver) = role() {
        let job = Job::from_env().expect("a job");
        job.world().barrier().expect("all are there");
        if job.rank().to_string() == leaver {
            return answer("left");
        }
        let error = job.world().barrier_timeout(Duration::from_secs(20)).expect_err("one has left");
        let BarrierError::RankFailed { causes, .. } = &error else { panic!("{error}") };
        assert_eq!(causes, &[FailureCause::Left]);
        return answer(told(&error));
    }
    for (nodes, leaver) in [(&[0, 0, 1, 1][..], 3), (&[0, 0, 1, 1], 2), (&[0, 1, 2], 2), (&[0, 1], 0)] {
        let across = Across::new(nodes);
        let mut children = Children::default();
        for rank in 0..nodes.len() {
            let mut command = across.rank(TEST, rank);
            command.env("EVIDENCE_ROLE", leaver.to_string());
            children.start(command);
        }
        for rank in (0..nodes.len()).filter(|rank| *rank != leaver) {
            assert_eq!(children.next_answer(rank), format!("[{leaver}] [Left] epoch 1"), "rank {rank} of {nodes:?}");
        }
    }
}

/// Rank 2 passes and leaves, and with it its node. That it had arrived is on the way to rank 0 by rank 3, which
/// computes between its arrival and its wait: rank 0 waits for it, and is not told that rank 2 has left.
#[test]
fn a_barrier_that_a_rank_has_passed_before_it_left_is_passed_by_all() {
    const TEST: &str = "a_barrier_that_a_rank_has_passed_before_it_left_is_passed_by_all";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        world.barrier().expect("all are there");
        let held = matches!(job.rank(), 0 | 3).then(|| world.arrive().expect("an arrival"));
        answer("arrived");
        let ended = match held {
            Some(arrival) => {
                await_line();
                // Before it waits; whoever hears it knows that it waits, or is about to.
                answer("waits");
                arrival.wait()
            }
            None => world.barrier(),
        };
        answer(format!("{ended:?}"));
        if job.rank() != 2 {
            await_line();
        }
        return;
    }
    let across = Across::new(&[0, 1, 2, 3, 4]);
    let mut children = across.start(TEST, &[("PHALANX_RADIX", "2")]);
    (0..5).for_each(|rank| assert_eq!(children.next_answer(rank), "arrived"));
    [1, 2, 4].into_iter().for_each(|rank| assert_eq!(children.next_answer(rank), "Ok(())", "rank {rank}"));
    assert!(children.finish(2).1.success());
    children.say(0, "wait");
    assert_eq!(children.next_answer(0), "waits");
    // Long enough for rank 0 to miss rank 2, and for the others to agree that it has left.
    std::thread::sleep(Duration::from_millis(300));
    children.say(3, "wait");
    assert_eq!(children.next_answer(3), "waits");
    [3, 0].into_iter().for_each(|rank| assert_eq!(children.next_answer(rank), "Ok(())", "rank {rank}"));
}

/// Who waits far away in the ring is not told who has left, neither of the rank that it misses nor of those who watched
/// that one's node: it finds closed ports, and asks those before them.
#[test]
fn whoever_waits_far_away_asks_those_who_are_left_to_watch() {
    const TEST: &str = "whoever_waits_far_away_asks_those_who_are_left_to_watch";
    const NODES: usize = 13;
    const MISSED: usize = 6;
    const WATCHERS: [usize; 2] = [5, 4];
    const WAITING: usize = 11;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let world = job.world();
        let is_member = matches!(job.rank(), MISSED | WAITING);
        let pair = is_member.then(|| world.subgroup(&[MISSED, WAITING], LIMIT).expect("a group of the two"));
        world.barrier().expect("all are there");
        answer("ready");
        await_line();
        if job.rank() == WAITING {
            let error = pair.expect("a member").barrier_timeout(LIMIT / 3).expect_err("the other has left");
            answer(told(&error));
        }
        return;
    }
    let across = Across::new(&(0..NODES).collect::<Vec<_>>());
    let mut children = across.start(TEST, &[]);
    (0..NODES).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    for leaver in [WATCHERS[0], WATCHERS[1], MISSED] {
        children.say(leaver, "leave");
        assert!(children.finish(leaver).1.success());
    }
    children.say(WAITING, "wait");
    assert_eq!(children.next_answer(WAITING), format!("[{MISSED}] [Left] epoch 1"));
}
