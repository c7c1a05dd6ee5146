//! Leases, on one node and across several: one holder at a time by everybody's own clock, what ends by itself, what
//! becomes of holders that die, are stopped, or are cut off, and of leases whose home is lost.
#![cfg(not(model))]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, await_line, role};
use common::cutting::cut_until;
use common::homes::{UNDISTURBED, meet, name_at};
use common::nodes::{Across, Marks};
use common::ranks::{LIMIT, on_ranks};
use phalanx::{FencedError, Job, JobOptions, Lease, LeaseError, LeaseGuard, ObjectError};
use rustix::process::Signal;

/// Longer than any test: it does not end by itself.
const LONG: Duration = Duration::from_secs(600);
/// One that ends while a test waits.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn one_holds_it_at_a_time_and_tokens_grow() {
    const ROUNDS: u64 = 300;
    let (inside, last) = (AtomicU64::new(0), AtomicU64::new(0));
    on_ranks(4, &JobOptions::new(), |job| {
        let lease = job.lease("shared", LONG).expect("room");
        assert_eq!((lease.name(), lease.ttl()), ("shared", LONG));
        meet(&job);
        for _ in 0..ROUNDS {
            let guard = lease.acquire().expect("nobody fails");
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else is inside");
            assert!(last.swap(guard.token().0, Ordering::SeqCst) < guard.token().0);
            assert!(guard.remaining() > LONG / 2 && !guard.is_expiring());
            inside.fetch_sub(1, Ordering::SeqCst);
            guard.release().expect("it was held");
        }
        meet(&job);
    });
}

#[test]
fn it_is_held_once_named_alike_and_not_waited_for_longer_than_wanted() {
    on_ranks(2, &JobOptions::new(), |job| {
        let (lease, same) = (job.lease("one", LONG).expect("room"), job.lease("one", LONG).expect("the same"));
        let other = job.lease("one", SHORT).expect_err("another time to live");
        assert!(matches!(other, ObjectError::OtherParameter { wanted: 200_000, .. }), "{other}");
        meet(&job);
        if job.rank() == 0 {
            let guard = lease.try_acquire().expect("in memory").expect("it is free");
            let again = same.acquire().expect_err("it is held");
            assert_eq!(again, LeaseError::AlreadyHeld { rank: 0, name: "one".to_owned() });
            meet(&job);
            meet(&job);
            guard.renew().expect("it is held");
            drop(guard);
            drop(same.acquire().expect("it is free"));
            meet(&job);
        } else {
            meet(&job);
            assert!(lease.try_acquire().expect("in memory").is_none());
            let error = lease.acquire_timeout(Duration::from_millis(50)).expect_err("rank 0 has it");
            assert!(matches!(error, LeaseError::TimedOut { holder: Some(0), .. }), "{error}");
            meet(&job);
            meet(&job);
            assert!(lease.try_acquire().expect("in memory").is_some());
        }
        meet(&job);
    });
}

#[test]
fn what_is_not_renewed_ends_and_its_holder_is_told() {
    on_ranks(2, &JobOptions::new(), |job| {
        let lease = job.lease("short", SHORT).expect("room");
        meet(&job);
        if job.rank() == 0 {
            let begun = Instant::now();
            let guard = lease.acquire().expect("it is free");
            meet(&job);
            assert!(guard.wait_for_warning(LIMIT) && guard.is_expiring());
            assert!(begun.elapsed() >= SHORT / 2, "the warning comes after three quarters");
            // Nobody else wants it yet. This rank may be kept from its CPU after it has renewed it.
            guard.renew().expect("nobody has had it");
            while guard.is_expiring() {
                guard.renew().expect("nobody has had it");
            }
            meet(&job);
            assert_eq!(guard.remaining(), Duration::ZERO, "rank 1 has it");
            let error = guard.renew().expect_err("others have had it");
            assert!(matches!(error, LeaseError::Expired { rank: 0, holder: Some(1), .. }), "{error}");
            assert!(error.to_string().contains("remedy"));
            assert_eq!(guard.release(), Err(error));
            meet(&job);
            return drop(lease.acquire().expect("rank 1 releases it"));
        }
        meet(&job);
        let guard = lease.acquire().expect("it ends");
        meet(&job);
        guard.renew().expect("it is held");
        meet(&job);
        drop(guard);
    });
}

#[test]
fn one_that_ended_and_that_nobody_wants_is_held_again() {
    on_ranks(1, &JobOptions::new(), |job| {
        let lease = job.lease("own", SHORT).expect("room");
        let guard = lease.acquire().expect("it is free");
        assert!(guard.wait_for_warning(LIMIT));
        while guard.remaining() > Duration::ZERO {
            std::thread::sleep(Duration::from_millis(1));
        }
        guard.renew().expect("nobody has had it");
        assert!(guard.remaining() > Duration::ZERO);
        guard.release().expect("it is held");
    });
}

#[test]
fn what_is_renewed_in_the_background_does_not_end() {
    on_ranks(2, &JobOptions::new(), |job| {
        let lease = job.lease("kept", KEPT).expect("room");
        meet(&job);
        if job.rank() == 0 {
            let guard = lease.hold().expect("it is free");
            meet(&job);
            (0..4).for_each(|_| await_renewal(&guard));
            let token = guard.token();
            guard.release().expect("it was held");
            meet(&job);
            assert!(lease.acquire().expect("rank 1 releases it").token() > token);
            return;
        }
        meet(&job);
        let guard = lease.acquire().expect("rank 0 releases it");
        meet(&job);
        drop(guard);
    });
}

/// Ranks that ask and do not wait have their places; who gives its own up is passed by.
fn ask_and_do_not_wait(job: &Job, name: &str) {
    let lease = job.lease(name, LONG).expect("room");
    meet(job);
    let mut request = match job.rank() {
        0 => {
            let mut request = lease.request().expect("it is free");
            assert!(request.test().expect("in reach"), "nobody else has asked");
            assert!(matches!(lease.request(), Err(LeaseError::AlreadyHeld { rank: 0, .. })));
            meet(job);
            request
        }
        rank => {
            (0..rank).for_each(|_| meet(job));
            let mut request = lease.request().expect("a place");
            assert!(!request.test().expect("in reach"));
            assert!(
                matches!(lease.request(), Err(LeaseError::AlreadyRequested { rank: asking, .. }) if asking == rank)
            );
            request
        }
    };
    (job.rank().max(1)..3).for_each(|_| meet(job));
    match job.rank() {
        // It has it: that is given back.
        0 => assert!(!request.cancel()),
        1 => {
            assert!(request.cancel(), "perhaps it was named, and had not looked");
            let late = lease.acquire_timeout(LIMIT).expect("rank 2 releases it");
            late.release().expect("it was held");
        }
        _ => {
            while !request.test().expect("in reach") {}
            let guard = request.wait().expect("it is this rank's");
            assert!(guard.remaining() > LONG / 2);
            guard.release().expect("it was held");
        }
    }
    meet(job);
    // Nobody is left who is waited for.
    if job.rank() == 1 {
        let guard = lease.request().expect("a place").wait_timeout(LIMIT).expect("it is free");
        guard.release().expect("it was held");
    }
    meet(job);
}

#[test]
fn who_asks_and_does_not_wait_has_its_place() {
    const TEST: &str = "who_asks_and_does_not_wait_has_its_place";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        ask_and_do_not_wait(&job, &name_at(&job, 1, "asked"));
        return answer("done");
    }
    on_ranks(3, &JobOptions::new(), |job| ask_and_do_not_wait(&job, "asked"));
    Across::of_counts(&[1, 2]).run_to_done(TEST, &[]);
}

/// The time to live of a lease that a thread renews: it gets a CPU in time.
const KEPT: Duration = Duration::from_secs(3);

/// Waits until somebody else renews it.
fn await_renewal(guard: &LeaseGuard<'_>) {
    let begun = Instant::now();
    let mut last = guard.remaining();
    while guard.remaining() <= last {
        assert!(last > Duration::ZERO && begun.elapsed() < LIMIT, "{last:?} are left after {:?}", begun.elapsed());
        last = guard.remaining();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A lease of each kind of life: its token is greater than the one before, also where the name has gone in between.
#[test]
fn tokens_grow_also_where_a_lease_has_gone_and_is_opened_anew() {
    const TEST: &str = "tokens_grow_also_where_a_lease_has_gone_and_is_opened_anew";
    const ROUNDS: usize = 5;
    let open_and_hold = |job: &Job, name: &str, last: &mut u64| {
        let lease = job.lease(name, LONG).expect("room");
        for round in 0..ROUNDS {
            let guard = lease.acquire().expect("it is free");
            let same = job.lease(name, LONG).expect("room");
            assert!(guard.token().0 > *last, "round {round}: {} after {last}", guard.token());
            *last = guard.token().0;
            drop((guard, same));
        }
    };
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let mut last = 0;
        for home in [0, 1, 0] {
            let name = name_at(&job, home, "brief");
            meet(&job);
            (0..ROUNDS).for_each(|_| {
                if job.rank() == 0 {
                    open_and_hold(&job, &name, &mut last)
                }
            });
            meet(&job);
            last = 0;
        }
        return answer("done");
    }
    on_ranks(1, &JobOptions::new(), |job| {
        let mut last = 0;
        (0..ROUNDS).for_each(|_| open_and_hold(&job, "brief", &mut last));
    });
    Across::of_counts(&[1, 1]).run_to_done(TEST, &[]);
}

/// What is under the lease: whoever finds somebody else's file inside fails.
fn enter(marks: &Marks, token: u64) {
    let (inside, log) = (marks.0.join("inside"), marks.0.join("log"));
    std::fs::File::create_new(&inside).expect("somebody else is inside");
    let last: u64 = std::fs::read_to_string(&log).map_or(0, |text| text.parse().expect("a number"));
    assert!(last < token, "token {token} after {last}");
    std::fs::write(&log, token.to_string()).expect("a file");
    std::fs::remove_file(&inside).expect("this rank's");
}

#[test]
fn across_nodes_one_holds_it_at_a_time_also_where_connections_break() {
    const TEST: &str = "across_nodes_one_holds_it_at_a_time_also_where_connections_break";
    const ROUNDS: u64 = 40;
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let marks = Marks::of_this_rank();
        let lease = job.lease(&name_at(&job, 0, "shared"), LONG).expect("room");
        meet(&job);
        let is_over = AtomicBool::new(std::env::var("LEASE_CUTS").is_err());
        std::thread::scope(|scope| {
            let cutter = scope.spawn(|| cut_until(&is_over, Duration::from_millis(11), 20));
            for _ in 0..ROUNDS {
                let guard = lease.acquire().expect("nobody fails");
                enter(&marks, guard.token().0);
                match guard.release() {
                    // Where a connection breaks it cannot always be told.
                    Ok(()) | Err(LeaseError::Expired { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            is_over.store(true, Ordering::Relaxed);
            println!("{} connections cut", cutter.join().expect("no panic"));
        });
        meet(&job);
        return answer("done");
    }
    for variables in [&[][..], &[("LEASE_CUTS", "1"), UNDISTURBED]] {
        Across::of_counts(&[1, 2]).run_to_done(TEST, variables);
    }
}

/// Rank 0 holds a long lease and is killed: the next has it, and does not wait for the lease's end.
fn is_followed(job: &Job, lease: &Lease) {
    meet(job);
    if job.rank() == 0 {
        let guard = lease.hold().expect("it is free");
        answer(guard.token());
        return std::thread::sleep(LIMIT);
    }
    assert_eq!(await_line(), "it is held");
    assert!(lease.try_acquire().expect("in reach").is_none());
    answer("asking");
    answer(lease.acquire().expect("its holder is dead").token());
    // The home serves until all are through: the test ends them.
    std::thread::sleep(LIMIT);
}

fn kill_the_holder(mut children: Children, others: std::ops::Range<usize>) {
    let mut last: u64 = children.next_answer(0).parse().expect("a token");
    others.clone().for_each(|rank| children.say(rank, "it is held"));
    others.clone().for_each(|rank| assert_eq!(children.next_answer(rank), "asking"));
    children.kill(0);
    let mut tokens: Vec<u64> = others.map(|rank| children.next_answer(rank).parse().expect("a token")).collect();
    tokens.sort_unstable();
    for token in tokens {
        assert!(last < token);
        last = token;
    }
}

#[test]
fn a_killed_holder_is_followed_at_once() {
    const TEST: &str = "a_killed_holder_is_followed_at_once";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        return is_followed(&job, &job.lease("long", LONG).expect("room"));
    }
    kill_the_holder(Launch::new(3).start(TEST, "rank"), 1..3);
}

#[test]
fn across_nodes_a_killed_holder_is_followed_at_once() {
    const TEST: &str = "across_nodes_a_killed_holder_is_followed_at_once";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let lease = job.lease(&name_at(&job, 1, "long"), LONG).expect("room");
        return is_followed(&job, &lease);
    }
    for counts in [&[1, 1, 1][..], &[2, 1]] {
        kill_the_holder(Across::of_counts(counts).start(TEST, &[]), 1..3);
    }
}

/// A holder is stopped, its lease ends, another one has it; when it comes back it is told, and its write is refused.
fn zombie(job: &Job, home: usize) {
    let lease = job.lease(&name_at(job, home, "short"), KEPT).expect("room");
    let word = job.fenced::<u64>(&name_at(job, home, "word")).expect("room");
    meet(job);
    if job.rank() == 0 {
        let guard = lease.hold().expect("it is free");
        word.write(guard.token(), 1).expect("it is held");
        answer("holding");
        // Stopped in here.
        assert_eq!(await_line(), "go on");
        assert_eq!(guard.remaining(), Duration::ZERO);
        assert!(guard.is_expiring());
        let is_told = |error: &LeaseError| matches!(error, LeaseError::Expired { .. } | LeaseError::Excluded { .. });
        assert!(guard.renew().is_err_and(|error| is_told(&error)));
        let written = word.write(guard.token(), 2).expect_err("another one has it");
        assert!(matches!(written, FencedError::Refused { .. } | FencedError::Excluded { .. }), "{written}");
        assert!(guard.release().is_err_and(|error| is_told(&error)));
        return answer("refused");
    }
    assert_eq!(await_line(), "it is stopped");
    let guard = lease.hold().expect("it ends");
    assert_eq!(word.fence(guard.token()), Ok(1));
    answer("fenced");
    assert_eq!(await_line(), "it has gone on");
    guard.renew().expect("it is held");
    word.write(guard.token(), 3).expect("it is held");
    assert_eq!(word.read(), Ok((guard.token(), 3)));
    guard.release().expect("it was held");
    answer("written");
}

fn drive_zombie(mut children: Children) {
    assert_eq!(children.next_answer(0), "holding");
    children.stop(0);
    children.say(1, "it is stopped");
    assert_eq!(children.next_answer(1), "fenced");
    children.signal(0, Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "refused");
    children.say(1, "it has gone on");
    assert_eq!(children.next_answer(1), "written");
}

#[test]
fn a_stopped_holder_loses_it_and_is_told() {
    const TEST: &str = "a_stopped_holder_loses_it_and_is_told";
    if role().is_some() {
        return zombie(&Job::from_env().expect("a job"), 0);
    }
    drive_zombie(Launch::new(2).start(TEST, "rank"));
}

#[test]
fn across_nodes_a_stopped_holder_loses_it_and_is_told() {
    const TEST: &str = "across_nodes_a_stopped_holder_loses_it_and_is_told";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        if job.rank() == 2 {
            meet(&job);
            return std::thread::sleep(LIMIT);
        }
        return zombie(&job, 2);
    }
    drive_zombie(Across::of_counts(&[1, 1, 1]).start(TEST, &[]));
}

/// A node that is stopped is declared failed long before its rank's lease has ended: that is waited for.
#[test]
fn who_was_only_not_heard_of_keeps_it_to_its_end() {
    const TEST: &str = "who_was_only_not_heard_of_keeps_it_to_its_end";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let lease = job.lease(&name_at(&job, 2, "long"), KEPT).expect("room");
        return is_outwaited(&job, &lease);
    }
    outwait(TEST);
}

/// The same where its node was the lease's home: nobody knows of the hold any more.
#[test]
fn who_was_only_not_heard_of_keeps_it_to_its_end_also_where_its_node_was_the_home() {
    const TEST: &str = "who_was_only_not_heard_of_keeps_it_to_its_end_also_where_its_node_was_the_home";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let lease = job.lease(&name_at(&job, 0, "long"), KEPT).expect("room");
        return is_outwaited(&job, &lease);
    }
    outwait(TEST);
}

/// Rank 0 holds the lease and is stopped; rank 1 has it, but not before rank 0 knows that it does not.
fn is_outwaited(job: &Job, lease: &Lease) {
    meet(job);
    // Before rank 0 has it.
    let begun = Instant::now();
    meet(job);
    match job.rank() {
        0 => {
            let guard = lease.acquire().expect("it is free");
            answer("holding");
            assert_eq!(await_line(), "go on");
            drop(guard);
        }
        1 => {
            assert_eq!(await_line(), "it is stopped");
            // Failed: the locks that it held would be released.
            while job.world().epoch() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let guard = lease.acquire().expect("it ends");
            assert!(begun.elapsed() >= lease.ttl(), "after {:?}", begun.elapsed());
            drop(guard);
            answer("followed");
        }
        _ => std::thread::sleep(LIMIT),
    }
}

fn outwait(test: &str) {
    let mut children = Across::of_counts(&[1, 1, 1]).start(test, &[("PHALANX_FAILURE_TIMEOUT_MS", "200")]);
    assert_eq!(children.next_answer(0), "holding");
    children.stop(0);
    children.say(1, "it is stopped");
    assert_eq!(children.next_answer(1), "followed");
}

fn keeps_it(lease: &Lease) {
    let guard = lease.acquire().expect("it is free");
    answer(guard.token());
    assert_eq!(await_line(), "the home is killed");
    assert!(guard.remaining() > LONG / 2);
    guard.renew().expect("it is held still");
    answer(guard.token());
    assert_eq!(await_line(), "release");
    guard.release().expect("it is held still");
    answer("released");
}

fn waits_for_it(lease: &Lease, comes_later: bool) {
    assert_eq!(await_line(), "ask");
    if comes_later {
        let error = lease.acquire_timeout(Duration::from_millis(100)).expect_err("rank 0 holds it");
        assert!(matches!(error, LeaseError::TimedOut { holder: Some(0), .. }), "{error}");
    } else {
        assert!(lease.try_acquire().expect("in reach").is_none());
    }
    answer("asks");
    let guard = lease.acquire().expect("it is released");
    answer(guard.token());
    guard.release().expect("it is held");
}

/// The home is killed while a rank of another node holds a lease and a third one waits for it, or comes to it later.
#[test]
fn a_holder_keeps_it_through_the_death_of_its_home() {
    const TEST: &str = "a_holder_keeps_it_through_the_death_of_its_home";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let lease = job.lease(&name_at(&job, 2, "moved"), LONG).expect("room");
        let comes_later = std::env::var("COMES_LATER").is_ok();
        meet(&job);
        match job.rank() {
            0 => keeps_it(&lease),
            1 => waits_for_it(&lease, comes_later),
            _ => answer("home"),
        }
        // The next home serves until all are through.
        await_line();
        return;
    }
    for comes_later in [false, true] {
        let variables = [("COMES_LATER", "1")];
        let mut children = Across::of_counts(&[1, 1, 1]).start(TEST, &variables[..usize::from(comes_later)]);
        let token: u64 = children.next_answer(0).parse().expect("a token");
        assert_eq!(children.next_answer(2), "home");
        if comes_later {
            children.kill(2);
        }
        children.say(1, "ask");
        assert_eq!(children.next_answer(1), "asks");
        if !comes_later {
            children.kill(2);
        }
        children.say(0, "the home is killed");
        assert_eq!(children.next_answer(0), token.to_string());
        children.say(0, "release");
        assert_eq!(children.next_answer(0), "released");
        let next: u64 = children.next_answer(1).parse().expect("a token");
        assert!(next > token, "{next} after {token}");
    }
}

#[test]
fn a_holder_that_dies_with_the_home_is_followed_at_once() {
    const TEST: &str = "a_holder_that_dies_with_the_home_is_followed_at_once";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let lease = job.lease(&name_at(&job, 0, "long"), LONG).expect("room");
        return is_followed(&job, &lease);
    }
    kill_the_holder(Across::of_counts(&[1, 1, 1]).start(TEST, &[]), 1..3);
}

/// Holds leases until two homes were killed; `after_first`: what is to be seen when one was.
fn renews_all(leases: &[Lease], kept: &Lease, after_first: impl Fn()) {
    let guard = kept.hold().expect("it is free");
    let guards: Vec<LeaseGuard<'_>> = leases.iter().map(|lease| lease.acquire().expect("free")).collect();
    let tokens: Vec<u64> = guards.iter().map(|guard| guard.token().0).collect();
    for next in ["the first home is killed", "the second home is killed"] {
        answer("holding");
        assert_eq!(await_line(), next);
        guards.iter().for_each(|guard| guard.renew().expect("it is held still"));
        // The first may have been asked for before.
        (0..2).for_each(|_| await_renewal(&guard));
        assert!(guards.iter().map(|guard| guard.token().0).eq(tokens.iter().copied()));
        if next == "the first home is killed" {
            after_first();
        }
    }
    answer("holding");
    assert_eq!(await_line(), "release");
    guards.into_iter().for_each(|guard| guard.release().expect("it is held still"));
    guard.release().expect("it is held still");
    answer(tokens.iter().max().expect("some"));
}

/// Finds them held, and then has them one after the other.
fn follows_in_all(leases: &[Lease], kept: &Lease) {
    assert_eq!(await_line(), "are they held?");
    assert!(leases.iter().chain([kept]).all(|lease| lease.try_acquire().expect("in reach").is_none()));
    answer("they are");
    let last: u64 = await_line().parse().expect("a token");
    for lease in leases {
        let guard = lease.acquire().expect("it is released");
        assert!(guard.token().0 > last, "{} after {last}", guard.token());
    }
    answer("had them");
}

/// Leases that a thread renews, and others that are renewed by hand, through the deaths of two homes, one after the
/// other.
#[test]
fn leases_are_renewed_through_the_deaths_of_their_homes() {
    const TEST: &str = "leases_are_renewed_through_the_deaths_of_their_homes";
    const LEASES: usize = 8;
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let names: Vec<String> = (0..LEASES).map(|index| name_at(&job, 4, &format!("lease {index}"))).collect();
        let open = |name: &String, ttl| job.lease(name, ttl).expect("room");
        let kept = open(&name_at(&job, 4, "kept"), KEPT);
        let leases: Vec<Lease> = names.iter().map(|name| open(name, LONG)).collect();
        meet(&job);
        let is_at_home_on = |node| names.iter().any(|name| job.home_of(name) == Ok(node));
        match job.rank() {
            0 => renews_all(&leases, &kept, || assert!(is_at_home_on(3), "other names are to be chosen")),
            1 => follows_in_all(&leases, &kept),
            _ => {}
        }
        await_line();
        return;
    }
    let mut children = Across::of_counts(&[1; 5]).start(TEST, &[]);
    for (home, next) in [(4, "the first home is killed"), (3, "the second home is killed")] {
        assert_eq!(children.next_answer(0), "holding");
        children.kill(home);
        children.say(0, next);
    }
    assert_eq!(children.next_answer(0), "holding");
    children.say(1, "are they held?");
    assert_eq!(children.next_answer(1), "they are");
    children.say(0, "release");
    let last = children.next_answer(0);
    children.say(1, &last);
    assert_eq!(children.next_answer(1), "had them");
}

/// As [`enter`], by a process that may be killed inside: whoever finds one there that was not killed fails.
fn enter_mortally(marks: &Marks, token: u64) {
    let me = std::process::id();
    let (inside, log, mine) = (marks.0.join("inside"), marks.0.join("log"), marks.0.join(format!("pid {me}")));
    std::fs::write(&mine, me.to_string()).expect("a file");
    while std::fs::hard_link(&mine, &inside).is_err() {
        let other = std::fs::read_to_string(&inside).expect("only its owner removes it");
        assert!(marks.0.join(format!("killed {other}")).exists(), "process {other} is inside");
        std::fs::remove_file(&inside).expect("one that was killed has left it");
    }
    let last: u64 = std::fs::read_to_string(&log).map_or(0, |text| text.parse().expect("a number"));
    assert!(last < token, "token {token} after {last}");
    let next = marks.0.join(format!("log {me}"));
    std::fs::write(&next, token.to_string()).expect("a file");
    std::fs::rename(&next, &log).expect("this rank's");
    std::fs::remove_file(&inside).expect("this rank's");
}

#[test]
fn homes_and_holders_are_killed_while_all_use_it() {
    const TEST: &str = "homes_and_holders_are_killed_while_all_use_it";
    if role().is_some() {
        let job = Job::from_env().expect("a job across nodes");
        let marks = Marks::of_this_rank();
        let lease = job.lease(&name_at(&job, 3, "hot"), LONG).expect("room");
        meet(&job);
        for round in 0_usize.. {
            let guard = lease.acquire().expect("whoever dies, the lease goes on");
            enter_mortally(&marks, guard.token().0);
            guard.renew().expect("it is held");
            match guard.release() {
                // Whether a release at a home that died just then took effect cannot always be told.
                Ok(()) | Err(LeaseError::Expired { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if round % 20 == 19 {
                answer("alive");
            }
        }
    }
    let across = Across::of_counts(&[1, 1, 1, 1, 2]);
    let mut children = across.start(TEST, &[]);
    let ranks = |killed: usize| (0..6).filter(move |rank| ![3, 4, 2][..killed].contains(rank));
    for (killed, victim) in [3, 4, 2].into_iter().enumerate() {
        ranks(killed).for_each(|rank| assert_eq!(children.next_answer(rank), "alive"));
        std::fs::write(across.marks.join(format!("killed {}", children.pid(victim))), "").expect("a file");
        children.kill(victim);
    }
    ranks(3).for_each(|rank| (0..3).for_each(|_| assert_eq!(children.next_answer(rank), "alive")));
}
