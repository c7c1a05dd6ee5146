//! Elections: one leader at a time, terms that grow, watchers that learn of each change, and what a leader's death does
//! to them. By threads and by processes, on one node and across pretended ones.
#![cfg(not(model))]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, await_line, role};
use common::homes::{name_at, waiting_at};
use common::nodes::{Across, Marks};
use common::ranks::{LIMIT, on_ranks};
use phalanx::{Election, Job, JobOptions, Leader, LockError, ObjectError, ObjectKind, Token};

/// Waits until somebody leads that is not known.
fn await_leader(election: &Election, known: Option<Leader>) -> Leader {
    let begun = Instant::now();
    let mut seen = known;
    loop {
        seen = election.wait_for_change(seen, LIMIT).expect("the election goes on");
        match seen {
            Some(leader) if Some(leader) != known => return leader,
            _ => assert!(begun.elapsed() < LIMIT, "nobody is elected but {known:?}"),
        }
    }
}

fn await_candidates(election: &Election, count: usize) {
    while election.candidates().len() < count {
        std::thread::yield_now();
    }
}

#[test]
fn one_leads_at_a_time_and_terms_grow() {
    const ROUNDS: usize = 300;
    let (leaders, last) = (AtomicU64::new(0), AtomicU64::new(0));
    on_ranks(4, &JobOptions::new(), |job| {
        let election = job.election("crown").expect("an election");
        job.world().barrier().expect("all are there");
        for _ in 0..ROUNDS {
            let leadership = election.campaign().expect("nobody fails");
            assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0, "somebody else leads");
            let term = leadership.term();
            assert!(last.swap(term.0, Ordering::SeqCst) < term.0);
            assert_eq!(election.leader(), Ok(Some(Leader { rank: job.rank(), term })));
            leadership.check().expect("it leads");
            leaders.fetch_sub(1, Ordering::SeqCst);
            leadership.resign().expect("it led");
        }
        job.world().barrier().expect("all are through");
        assert_eq!(election.leader(), Ok(None));
        // All have looked before the first comes again.
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn candidates_are_elected_in_their_order_and_may_stand_back() {
    const RANKS: usize = 4;
    let order = Mutex::new(Vec::new());
    on_ranks(RANKS, &JobOptions::new(), |job| {
        let election = job.election("queue").expect("an election");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let leadership = election.campaign().expect("nobody leads");
            assert!(matches!(election.campaign(), Err(LockError::AlreadyHeld { .. })));
            job.world().barrier().expect("rank 0 leads");
            await_candidates(&election, RANKS - 1);
            job.world().barrier().expect("all stand");
            job.world().barrier().expect("rank 2 has stood back");
            return drop(leadership);
        }
        job.world().barrier().expect("rank 0 leads");
        await_candidates(&election, job.rank() - 1);
        let mut candidacy = election.stand().expect("a place");
        assert!(!candidacy.test().expect("a place"));
        assert!(matches!(election.stand(), Err(LockError::AlreadyRequested { .. })));
        job.world().barrier().expect("all stand");
        if job.rank() == 2 {
            assert!(candidacy.withdraw(), "it was not elected");
            assert!(matches!(election.campaign_timeout(Duration::ZERO), Err(LockError::TimedOut { .. })));
            return job.world().barrier().expect("it has stood back");
        }
        job.world().barrier().expect("rank 2 has stood back");
        let leadership = candidacy.wait_timeout(LIMIT).expect("its turn comes");
        order.lock().expect("nobody panics with it").push(job.rank());
        leadership.resign().expect("it led");
    });
    assert_eq!(*order.lock().expect("nobody panics with it"), [1, 3]);
}

#[test]
fn watchers_learn_of_each_leader_and_of_the_want_of_one() {
    on_ranks(3, &JobOptions::new(), |job| {
        let election = job.election("watched").expect("an election");
        let world = job.world();
        world.barrier().expect("all are there");
        let mut known = None;
        for _ in 0..20 {
            let leadership = (job.rank() == 0).then(|| election.campaign().expect("nobody leads"));
            let leader = await_leader(&election, known);
            assert!(leader.rank == 0 && known.is_none_or(|known| known.term < leader.term));
            assert_eq!(election.wait_for_change(Some(leader), Duration::from_millis(1)), Ok(Some(leader)));
            world.barrier().expect("all know the leader");
            drop(leadership);
            assert_eq!(election.wait_for_change(Some(leader), LIMIT), Ok(None), "it has resigned");
            world.barrier().expect("all know that nobody leads");
            known = Some(leader);
        }
    });
}

/// A watcher is poked: it does not first find out when it looks by itself, or only now and then.
#[test]
fn watchers_are_poked() {
    const ROUNDS: usize = 20;
    let took = Mutex::new(Vec::new());
    on_ranks(2, &JobOptions::new(), |job| {
        let election = job.election("prompt").expect("an election");
        let world = job.world();
        for _ in 0..ROUNDS {
            world.barrier().expect("both are there");
            let begun = Instant::now();
            if job.rank() == 0 {
                // The other one sleeps by then, and has just looked: more than half of its pause is left.
                std::thread::sleep(Duration::from_millis(5));
                let leadership = election.campaign().expect("nobody leads");
                world.barrier().expect("the other one knows");
                drop(leadership);
            } else {
                await_leader(&election, None);
                took.lock().expect("nobody panics with it").push(begun.elapsed());
                world.barrier().expect("this one knows");
            }
        }
    });
    let took = took.into_inner().expect("nobody panics with it");
    let prompt = took.iter().filter(|took| **took < Duration::from_millis(15)).count();
    assert!(prompt > ROUNDS / 2, "{took:?}");
}

/// Each half of the job has a leader of its own; the job itself has none of that name.
fn lead_each_half(job: &Job) {
    let half = job.world().split(job.rank() as u64 % 2, 0).expect("a group");
    let (own, all) = (half.election("head").expect("an election"), job.election("head").expect("another one"));
    // A name that a user may give.
    let same = job.election(&format!("head of group {}", half.id())).expect("another one");
    assert_eq!(own.name(), same.name(), "as they are shown");
    if half.rank() == 0 {
        let leadership = own.campaign().expect("one of each group leads");
        half.barrier().expect("it leads");
        assert_eq!((all.leader(), same.leader()), (Ok(None), Ok(None)));
        half.barrier().expect("all know");
        leadership.resign().expect("it led");
    } else {
        half.barrier().expect("it leads");
        let leader = own.leader().expect("an election").expect("the first of the group");
        assert_eq!(leader.rank, half.ranks()[0]);
        half.barrier().expect("all know");
        let leadership = own.campaign_timeout(LIMIT).expect("it resigns");
        assert!(leader.term < leadership.term());
    }
    assert!(matches!(job.lock("head"), Err(ObjectError::OtherKind { found: ObjectKind::Election, .. })));
    job.world().barrier().expect("all are through");
}

#[test]
fn each_group_has_elections_of_its_own() {
    on_ranks(4, &JobOptions::new(), |job| lead_each_half(&job));
}

#[test]
fn each_group_has_elections_of_its_own_across_nodes() {
    const TEST: &str = "each_group_has_elections_of_its_own_across_nodes";
    if role().is_some() {
        lead_each_half(&Job::from_env().expect("a job across nodes"));
        return answer("done");
    }
    // Each half is on both nodes; one of them is, and the other one on its own.
    for nodes in [[0, 0, 1, 1], [0, 1, 2, 1]] {
        Across::new(&nodes).run_to_done(TEST, &[]);
    }
}

/// Ranks of other nodes stand one after the other, and take that up the other way round.
#[test]
fn who_stands_has_its_place_among_candidates_of_other_nodes() {
    const TEST: &str = "who_stands_has_its_place_among_candidates_of_other_nodes";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let election = job.election(&name_at(&job, 0, "stood")).expect("an election");
        job.world().barrier().expect("all are there");
        answer(election.name());
        await_line();
        if job.rank() == 0 {
            let leadership = election.campaign().expect("nobody leads");
            answer("leads");
            await_line();
            leadership.resign().expect("it led");
            answer("resigned");
        } else {
            let candidacy = election.stand().expect("a place");
            assert!(matches!(election.stand(), Err(LockError::AlreadyRequested { .. })));
            answer("stands");
            await_line();
            let leadership = candidacy.wait_timeout(LIMIT).expect("its turn comes");
            answer("leads");
            await_line();
            leadership.resign().expect("it led");
            answer("resigned");
        }
        return job.world().barrier().expect("homes serve until all are through");
    }
    let mut children = Across::new(&[0, 1, 2]).start(TEST, &[]);
    let names: Vec<String> = (0..3).map(|rank| children.next_answer(rank)).collect();
    children.say(0, "lead");
    assert_eq!(children.next_answer(0), "leads");
    for rank in [2, 1] {
        children.say(rank, "stand");
        assert_eq!(children.next_answer(rank), "stands");
    }
    assert_eq!(waiting_at(children.pid(0), &names[0]), [2, 1]);
    children.say(1, "wait");
    children.say(0, "resign");
    assert_eq!(children.next_answer(0), "resigned");
    children.say(2, "wait");
    for rank in [2, 1] {
        assert_eq!(children.next_answer(rank), "leads");
        children.say(rank, "resign");
        assert_eq!(children.next_answer(rank), "resigned");
    }
    (0..3).for_each(|rank| assert!(children.finish(rank).1.success(), "rank {rank}"));
}

/// A rank that leads, stands, or watches, as the test has it; the life of one in the tests of deaths.
fn take_part(job: &Job) {
    let election = job.election("throne").expect("an election");
    job.world().barrier().expect("all are there");
    answer("ready");
    loop {
        match await_line().as_str() {
            "lead" => {
                let leadership = election.campaign_timeout(LIMIT).expect("its turn comes");
                leadership.check().expect("it leads");
                answer(leadership.term());
                match await_line().as_str() {
                    "resign" => leadership.resign().expect("it led"),
                    "check" => {
                        let error = leadership.check().expect_err("others have gone on");
                        assert!(matches!(error, LockError::Excluded { .. }), "{error}");
                        assert!(matches!(leadership.resign(), Err(LockError::Excluded { .. })));
                        assert!(matches!(election.leader(), Err(LockError::Excluded { .. })));
                        answer("excluded");
                    }
                    other => panic!("{other}"),
                }
            }
            "watch" => {
                let mut known = None;
                for _ in 0..2 {
                    let leader = await_leader(&election, known);
                    answer(format!("{} {}", leader.rank, leader.term));
                    known = Some(leader);
                }
            }
            "vacancy" => {
                let leader = await_leader(&election, None);
                answer(leader.rank);
                assert_eq!(election.wait_for_change(Some(leader), LIMIT), Ok(None));
                answer("nobody");
            }
            "end" => return,
            other => panic!("{other}"),
        }
    }
}

fn term(text: &str) -> Token {
    Token(text.parse().expect("a term"))
}

/// Of ranks that are ready `first` leads, `second` follows it, and `watcher` sees both; the end of the first is made by
/// `end`.
fn follow(children: &mut Children, [first, second, watcher]: [usize; 3], end: impl FnOnce(&mut Children)) {
    children.say(first, "lead");
    let before = term(&children.next_answer(first));
    children.say(watcher, "watch");
    assert_eq!(children.next_answer(watcher), format!("{first} {before}"));
    children.say(second, "lead");
    end(children);
    let after = term(&children.next_answer(second));
    assert!(before < after, "{before} {after}");
    assert_eq!(children.next_answer(watcher), format!("{second} {after}"));
}

#[test]
fn a_killed_leader_is_followed_and_watchers_see_it() {
    const TEST: &str = "a_killed_leader_is_followed_and_watchers_see_it";
    if role().is_some() {
        return take_part(&Job::from_env().expect("a job"));
    }
    let mut children = Launch::new(4).start(TEST, "rank");
    children.await_answers(&[0, 1, 2, 3], "ready");
    follow(&mut children, [0, 1, 2], |children| children.kill(0));
    children.say(1, "resign");
    // And again, with who has watched before.
    follow(&mut children, [1, 2, 3], |children| children.kill(1));
    children.say(2, "resign");
    for index in [2, 3] {
        children.say(index, "end");
        assert!(children.finish(index).1.success());
    }
}

/// Nobody stands: watchers learn that nobody leads any more, here and on another node.
#[test]
fn a_killed_leader_leads_no_more() {
    const TEST: &str = "a_killed_leader_leads_no_more";
    if role().is_some() {
        return take_part(&Job::from_env().expect("a job"));
    }
    let see_it_end = |mut children: Children| {
        children.await_answers(&[0, 1, 2], "ready");
        children.say(0, "lead");
        children.next_answer(0);
        (1..3).for_each(|watcher| children.say(watcher, "vacancy"));
        children.await_answers(&[1, 2], "0");
        children.kill(0);
        children.await_answers(&[1, 2], "nobody");
        (1..3).for_each(|watcher| children.say(watcher, "end"));
        assert!((1..3).all(|watcher| children.finish(watcher).1.success()));
    };
    see_it_end(Launch::new(3).start(TEST, "rank"));
    // The leader's node lives on with rank 1.
    see_it_end(Across::new(&[0, 0, 1]).start(TEST, &[]));
}

#[test]
fn a_stopped_leader_is_followed_and_learns_that_it_leads_no_more() {
    const TEST: &str = "a_stopped_leader_is_followed_and_learns_that_it_leads_no_more";
    if role().is_some() {
        return take_part(&Job::from_env().expect("a job"));
    }
    let mut children = Launch::new(3).start(TEST, "rank");
    children.await_answers(&[0, 1, 2], "ready");
    follow(&mut children, [0, 1, 2], |children| children.stop(0));
    children.signal(0, rustix::process::Signal::CONT);
    children.say(0, "check");
    assert_eq!(children.next_answer(0), "excluded");
    children.say(1, "resign");
    for index in [1, 2] {
        children.say(index, "end");
        assert!(children.finish(index).1.success());
    }
}

#[test]
fn a_killed_leader_of_another_node_is_followed() {
    const TEST: &str = "a_killed_leader_of_another_node_is_followed";
    if role().is_some() {
        return take_part(&Job::from_env().expect("a job across nodes"));
    }
    // The next one on the same node, on another; the watcher here and there; nodes that live on.
    for (nodes, parts) in [([0, 0, 1, 1], [0, 1, 2]), ([0, 0, 1, 1], [2, 0, 1]), ([0, 1, 1, 0], [1, 3, 2])] {
        let across = Across::new(&nodes);
        let mut children = across.start(TEST, &[]);
        children.await_answers(&[0, 1, 2, 3], "ready");
        follow(&mut children, parts, |children| children.kill(parts[0]));
        children.say(parts[1], "resign");
        for index in (0..4).filter(|index| *index != parts[0]) {
            children.say(index, "end");
        }
        for index in (0..4).filter(|index| *index != parts[0]) {
            assert!(children.finish(index).1.success(), "{index} of {nodes:?}");
        }
    }
}

#[test]
fn a_stopped_leader_of_another_node_is_followed() {
    const TEST: &str = "a_stopped_leader_of_another_node_is_followed";
    if role().is_some() {
        return take_part(&Job::from_env().expect("a job across nodes"));
    }
    for parts in [[0, 2, 3], [3, 1, 0]] {
        let across = Across::new(&[0, 0, 1, 1]);
        let mut children = across.start(TEST, &[]);
        children.await_answers(&[0, 1, 2, 3], "ready");
        follow(&mut children, parts, |children| children.stop(parts[0]));
        children.signal(parts[0], rustix::process::Signal::CONT);
        children.say(parts[0], "check");
        assert_eq!(children.next_answer(parts[0]), "excluded");
        children.say(parts[1], "resign");
        for index in (0..4).filter(|index| *index != parts[0]) {
            children.say(index, "end");
        }
        for index in (0..4).filter(|index| *index != parts[0]) {
            assert!(children.finish(index).1.success(), "{index} of {parts:?}");
        }
    }
}

#[test]
fn one_leads_at_a_time_across_nodes() {
    const TEST: &str = "one_leads_at_a_time_across_nodes";
    const ROUNDS: usize = 50;
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let marks = Marks::of_this_rank();
        let election = job.election("crown").expect("an election");
        job.world().barrier().expect("all are there");
        let (file, mut last) = (marks.0.join("leader"), None);
        for _ in 0..ROUNDS {
            let leadership = election.campaign_timeout(LIMIT).expect("nobody fails");
            assert!(last < Some(leadership.term()));
            last = Some(leadership.term());
            std::fs::OpenOptions::new().write(true).create_new(true).open(&file).expect("somebody else leads");
            leadership.check().expect("it leads");
            std::fs::remove_file(&file).expect("this rank's");
            leadership.resign().expect("it led");
        }
        job.world().barrier().expect("all are through");
        assert_eq!(election.leader(), Ok(None));
        // Homes serve until all are through.
        job.world().barrier().expect("all are through");
        return answer("done");
    }
    for nodes in [&[2, 2][..], &[1, 1, 1]] {
        Across::of_counts(nodes).run_to_done(TEST, &[]);
    }
}

fn lead_through_losses(job: &Job, elections: &[Election]) {
    let all = elections.iter().map(|election| election.campaign().expect("nobody leads"));
    let all: Vec<_> = all.collect();
    job.world().barrier().expect("rank 0 leads");
    answer("ready");
    await_line();
    all.into_iter().for_each(|leadership| {
        leadership.check().expect("it leads still");
        leadership.resign().expect("it led to the end");
    });
}

fn look_and_follow(job: &Job, elections: &[Election]) {
    job.world().barrier().expect("rank 0 leads");
    let leaders: Vec<Leader> = elections.iter().map(|election| await_leader(election, None)).collect();
    answer("ready");
    await_line();
    for (election, leader) in elections.iter().zip(&leaders) {
        assert_eq!(await_leader(election, None), *leader, "{}", election.name());
    }
    answer("led");
    for (election, leader) in elections.iter().zip(&leaders) {
        let leadership = election.campaign_timeout(LIMIT).expect("the leader resigns");
        assert!(leader.term < leadership.term());
        assert_eq!(election.leader(), Ok(Some(Leader { rank: job.rank(), term: leadership.term() })));
    }
    answer("followed");
}

/// A node is killed where some elections are at home: the leader leads on, is found by those who look, and is followed
/// with a greater term.
#[test]
fn a_lost_home_changes_nothing_for_the_leader() {
    const TEST: &str = "a_lost_home_changes_nothing_for_the_leader";
    const ELECTIONS: usize = 12;
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let names = (0..ELECTIONS).map(|index| format!("kept {index}"));
        let elections: Vec<Election> = names.map(|name| job.election(&name).expect("an election")).collect();
        job.world().barrier().expect("all are there");
        match job.rank() {
            0 => lead_through_losses(&job, &elections),
            _ => look_and_follow(&job, &elections),
        }
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 1, 2]);
    let mut children = across.start(TEST, &[]);
    children.await_answers(&[0, 1, 2, 3], "ready");
    children.kill(1);
    children.kill(2);
    children.say(3, "go on");
    assert_eq!(children.next_answer(3), "led");
    children.say(0, "go on");
    assert_eq!(children.next_answer(3), "followed");
    for index in [0, 3] {
        children.say(index, "end");
        assert!(children.finish(index).1.success());
    }
}
