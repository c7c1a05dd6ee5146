//! Elections whose leader has a time to live: who does not renew its term is followed and told so, who does leads on,
//! also when the election's home is lost. By threads and by processes, on one node and across pretended ones.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, await_line, role};
use common::homes::{UNDISTURBED, meet};
use common::nodes::Across;
use common::ranks::{LIMIT, on_ranks};
use phalanx::{Election, FencedError, Job, JobOptions, Leader, Leadership, LockError, ObjectError, ObjectKind};
use rustix::process::Signal;

/// Longer than any test: it does not end by itself.
const LONG: Duration = Duration::from_secs(600);
/// One that ends while a test waits.
const SHORT: Duration = Duration::from_millis(200);
/// One that a thread renews, which gets a CPU in time.
const KEPT: Duration = Duration::from_secs(3);

/// Waits until a rank leads.
fn await_leader(election: &Election, rank: usize) -> Leader {
    let (begun, mut seen) = (Instant::now(), None);
    loop {
        seen = election.wait_for_change(seen, LIMIT).expect("the election goes on");
        match seen {
            Some(leader) if leader.rank == rank => return leader,
            _ => assert!(begun.elapsed() < LIMIT, "rank {rank} does not lead, but {seen:?}"),
        }
    }
}

fn await_candidates(election: &Election, count: usize) {
    while election.candidates().len() < count {
        std::thread::yield_now();
    }
}

fn await_end(leadership: &Leadership<'_>) {
    while leadership.remaining() != Some(Duration::ZERO) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A name for an object that is at home on the last node: on another one than rank 0, if there is one.
fn name_away(job: &Job, what: &str) -> String {
    let names = (0..64).map(|index| format!("{what} {index}"));
    names.max_by_key(|name| job.home_of(name).expect("a name")).expect("some")
}

#[test]
fn who_does_not_renew_is_followed_and_told() {
    on_ranks(3, &JobOptions::new(), |job| {
        let election = job.election_with_ttl("brief", SHORT).expect("an election");
        assert_eq!(election.ttl(), Some(SHORT));
        meet(&job);
        match job.rank() {
            0 => {
                let leadership = election.campaign().expect("nobody leads");
                meet(&job);
                meet(&job);
                assert_eq!(leadership.remaining(), Some(Duration::ZERO));
                assert!(leadership.is_expiring());
                let term = leadership.term();
                let is_told =
                    |ended: &LockError| matches!(ended, LockError::Expired { rank: 0, token, .. } if *token == term);
                assert!(leadership.check().is_err_and(|ended| is_told(&ended)));
                let ended = leadership.renew().expect_err("rank 1 leads");
                assert!(is_told(&ended) && ended.to_string().contains("rank 1 leads"), "{ended}");
                assert_eq!(leadership.resign(), Err(ended));
                // It has taken nothing from the next one.
                let leader = election.leader().expect("an election").expect("rank 1 leads");
                assert!(leader.rank == 1 && leader.term > term, "{leader:?} after {term}");
            }
            1 => {
                meet(&job);
                let leadership = election.campaign_timeout(LIMIT).expect("the time is over");
                meet(&job);
                meet(&job);
                // Nobody else stands.
                leadership.renew().expect("it leads, or leads again");
                return leadership.resign().expect("it led");
            }
            _ => {
                meet(&job);
                let first = await_leader(&election, 0);
                assert!(await_leader(&election, 1).term > first.term);
                meet(&job);
            }
        }
        meet(&job);
    });
}

#[test]
fn whom_nobody_follows_leads_again() {
    on_ranks(1, &JobOptions::new(), |job| {
        let election = job.election_with_ttl("own", SHORT).expect("an election");
        let leadership = election.campaign().expect("nobody leads");
        await_end(&leadership);
        assert!(matches!(leadership.check(), Err(LockError::Expired { holder: None, .. })));
        leadership.renew().expect("nobody has followed");
        leadership.check().expect("it leads");
        let leader = Leader { rank: 0, term: leadership.term() };
        assert_eq!(election.leader(), Ok(Some(leader)));
        leadership.resign().expect("it led");
        assert_eq!(election.leader(), Ok(None));
    });
}

#[test]
fn who_renews_leads_on() {
    on_ranks(2, &JobOptions::new(), |job| {
        let election = job.election_with_ttl("kept", KEPT).expect("an election");
        meet(&job);
        if job.rank() == 0 {
            let mut leadership = election.campaign().expect("nobody leads");
            leadership.keep().expect("a thread");
            meet(&job);
            let begun = Instant::now();
            while begun.elapsed() < KEPT * 2 {
                std::thread::sleep(KEPT / 10);
                leadership.check().expect("a thread renews it");
            }
            meet(&job);
            return leadership.resign().expect("it led");
        }
        meet(&job);
        let mut candidacy = election.stand().expect("a place");
        assert!(!candidacy.test().expect("a place"));
        meet(&job);
        let before = election.leader().expect("an election");
        let leadership = candidacy.wait_timeout(LIMIT).expect("rank 0 resigns");
        assert!(before.is_none_or(|before| before.term < leadership.term()));
    });
}

#[test]
fn candidates_are_elected_in_their_order_and_may_stand_back() {
    on_ranks(4, &JobOptions::new(), |job| {
        let election = job.election_with_ttl("queue", LONG).expect("an election");
        meet(&job);
        let leadership = (job.rank() == 0).then(|| election.campaign().expect("nobody leads"));
        meet(&job);
        if let Some(leadership) = leadership {
            assert!(matches!(election.campaign(), Err(LockError::AlreadyHeld { .. })));
            await_candidates(&election, 3);
            assert_eq!(election.candidates(), [1, 2, 3]);
            meet(&job);
            meet(&job);
            assert_eq!(election.candidates(), [1, 3]);
            meet(&job);
            return leadership.resign().expect("it led");
        }
        await_candidates(&election, job.rank() - 1);
        let mut candidacy = election.stand().expect("a place");
        assert!(!candidacy.test().expect("a place"));
        assert!(matches!(election.stand(), Err(LockError::AlreadyRequested { .. })));
        meet(&job);
        if job.rank() == 2 {
            assert!(candidacy.withdraw(), "it was not elected");
            let ended = election.campaign_timeout(Duration::ZERO).expect_err("rank 0 leads");
            assert!(matches!(ended, LockError::TimedOut { holder: Some(0), .. }), "{ended}");
            meet(&job);
            return meet(&job);
        }
        meet(&job);
        meet(&job);
        let mut elected = false;
        while !elected {
            elected = candidacy.test().expect("a place");
        }
        assert!(matches!(election.stand(), Err(LockError::AlreadyHeld { .. })));
        let leadership = candidacy.wait().expect("it is elected");
        assert!(matches!(election.campaign(), Err(LockError::AlreadyHeld { .. })));
        let expected = if job.rank() == 1 { &[3][..] } else { &[] };
        assert_eq!(election.candidates(), expected, "rank {}", job.rank());
        leadership.resign().expect("it led");
    });
}

#[test]
fn all_name_the_same_time_to_live() {
    on_ranks(1, &JobOptions::new(), |job| {
        let _election = job.election_with_ttl("head", LONG).expect("an election");
        let other = job.election_with_ttl("head", SHORT).expect_err("another time to live");
        assert!(other.to_string().contains("a time to live of 600s, not a time to live of 200ms"), "{other}");
        let without = job.election("head").expect_err("another kind");
        assert!(matches!(without, ObjectError::OtherKind { found: ObjectKind::LeasedElection, .. }), "{without}");
        job.world().election_with_ttl("head", SHORT).expect("the group's own");
    });
}

/// Rank 0 leads and is stopped, for less than the failure time-out; rank 1 follows it, which rank 2 sees. When rank 0
/// comes back it is told, and what it writes by its term is refused.
fn zombie(job: &Job) {
    let election = job.election_with_ttl(&name_away(job, "throne"), KEPT).expect("an election");
    let word = job.fenced::<u64>(&name_away(job, "word")).expect("room");
    meet(job);
    match job.rank() {
        0 => {
            let mut leadership = election.campaign().expect("nobody leads");
            leadership.keep().expect("a thread");
            word.write(leadership.term(), 1).expect("it leads");
            answer("leading");
            // Stopped in here.
            assert_eq!(await_line(), "go on");
            let is_told = |ended: &LockError| matches!(ended, LockError::Expired { .. });
            assert!(leadership.check().is_err_and(|ended| is_told(&ended)));
            let written = word.write(leadership.term(), 2).expect_err("another one leads");
            assert!(matches!(written, FencedError::Refused { .. }), "{written}");
            assert!(leadership.resign().is_err_and(|ended| is_told(&ended)));
            answer("told");
        }
        1 => {
            assert_eq!(await_line(), "it is stopped");
            let mut leadership = election.campaign().expect("the time is over");
            leadership.keep().expect("a thread");
            word.fence(leadership.term()).expect("it leads");
            answer("elected");
            assert_eq!(await_line(), "it has gone on");
            leadership.check().expect("it leads");
            assert_eq!(election.leader().expect("an election").map(|leader| leader.rank), Some(1));
            leadership.resign().expect("it led");
            answer("resigned");
        }
        _ => {
            let first = await_leader(&election, 0);
            answer("seen");
            assert!(await_leader(&election, 1).term > first.term);
            answer("seen");
        }
    }
    // The home serves until all are through.
    await_line();
}

fn drive_zombie(mut children: Children) {
    assert_eq!(children.next_answer(0), "leading");
    assert_eq!(children.next_answer(2), "seen");
    children.stop(0);
    children.say(1, "it is stopped");
    assert_eq!(children.next_answer(1), "elected");
    assert_eq!(children.next_answer(2), "seen");
    children.signal(0, Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "told");
    children.say(1, "it has gone on");
    assert_eq!(children.next_answer(1), "resigned");
    for rank in 0..3 {
        children.say(rank, "end");
        assert!(children.finish(rank).1.success(), "rank {rank}");
    }
}

#[test]
fn a_stopped_leader_is_followed_before_it_is_declared_failed() {
    const TEST: &str = "a_stopped_leader_is_followed_before_it_is_declared_failed";
    if role().is_some() {
        return zombie(&Job::from_env().expect("a job across nodes"));
    }
    // All on one node; two on one; each on its own.
    for counts in [&[3][..], &[2, 1], &[1, 1, 1]] {
        drive_zombie(Across::of_counts(counts).start(TEST, &[UNDISTURBED]));
    }
}

/// A leader that is killed is followed at once, and not when its time is over.
#[test]
fn a_killed_leader_is_followed_at_once() {
    const TEST: &str = "a_killed_leader_is_followed_at_once";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let election = job.election_with_ttl(&name_away(&job, "throne"), LONG).expect("an election");
        meet(&job);
        if job.rank() == 0 {
            let leadership = election.campaign().expect("nobody leads");
            answer(leadership.term());
            return std::thread::sleep(LIMIT);
        }
        assert_eq!(await_line(), "it leads");
        let leadership = election.campaign().expect("the leader is dead");
        answer(leadership.term());
        return drop(await_line());
    }
    let follow = |mut children: Children| {
        let before: u64 = children.next_answer(0).parse().expect("a term");
        children.say(1, "it leads");
        children.kill(0);
        assert!(children.next_answer(1).parse::<u64>().expect("a term") > before);
    };
    follow(Launch::new(2).start(TEST, "rank"));
    follow(Across::of_counts(&[1, 1]).start(TEST, &[]));
}

/// A node is killed where some elections are at home: the leader leads on, is found by those who look, renews its term
/// there, and is followed with a greater one.
#[test]
fn a_lost_home_changes_nothing_for_the_leader() {
    const TEST: &str = "a_lost_home_changes_nothing_for_the_leader";
    const ELECTIONS: usize = 6;
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let names = (0..ELECTIONS).map(|index| format!("kept {index}"));
        let elections: Vec<Election> =
            names.map(|name| job.election_with_ttl(&name, LONG).expect("an election")).collect();
        meet(&job);
        match job.rank() {
            0 => {
                let all: Vec<_> = elections.iter().map(|election| election.campaign().expect("nobody leads")).collect();
                meet(&job);
                answer("leads");
                await_line();
                for leadership in all {
                    leadership.renew().expect("it leads still");
                    leadership.check().expect("it leads still");
                    leadership.resign().expect("it led to the end");
                }
                answer("resigned");
            }
            1 => meet(&job),
            _ => {
                meet(&job);
                let leaders: Vec<Leader> = elections.iter().map(|election| await_leader(election, 0)).collect();
                answer("seen");
                await_line();
                for (election, leader) in elections.iter().zip(&leaders) {
                    assert_eq!(await_leader(election, 0), *leader, "{}", election.name());
                }
                answer("seen");
                for (election, leader) in elections.iter().zip(&leaders) {
                    let leadership = election.campaign_timeout(LIMIT).expect("the leader resigns");
                    assert!(leader.term < leadership.term());
                }
                answer("followed");
            }
        }
        return drop(await_line());
    }
    let mut children = Across::of_counts(&[1, 1, 1]).start(TEST, &[]);
    assert_eq!(children.next_answer(0), "leads");
    assert_eq!(children.next_answer(2), "seen");
    children.kill(1);
    children.say(2, "go on");
    assert_eq!(children.next_answer(2), "seen");
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "resigned");
    assert_eq!(children.next_answer(2), "followed");
}
