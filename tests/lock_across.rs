//! Named locks between nodes (pretended, on the loopback interface): one holder, order, tokens, deaths.
#![cfg(not(model))]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::children::{Children, answer, await_line, role};
use common::homes::{holder_at, name_at, waiting_at};
use common::nodes::{Across, Marks};
use common::ranks::{LIMIT, await_that};
use phalanx::{Job, Lock, LockError, LockRequest};

fn join() -> Job {
    Job::from_env().expect("a job across nodes")
}

/// What is kept under the lock: the last token, and how often it was held. Whoever finds somebody else's file inside
/// fails.
fn enter(marks: &Path, token: u64) -> u64 {
    let (inside, log) = (marks.join("inside"), marks.join("log"));
    fs::OpenOptions::new().write(true).create_new(true).open(&inside).expect("somebody else is inside");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().expect("a number"));
    let (last, count) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    assert!(last < token, "token {token} after {last}");
    fs::write(&log, format!("{token} {}", count + 1)).expect("a file");
    fs::remove_file(&inside).expect("this rank's");
    count + 1
}

#[test]
fn one_holds_it_at_a_time_and_tokens_grow() {
    const TEST: &str = "one_holds_it_at_a_time_and_tokens_grow";
    const ROUNDS: u64 = 200;
    if role().is_some() {
        let job = join();
        let marks = Marks::of_this_rank();
        let locks: Vec<Lock> = (0..4).map(|index| job.lock(&format!("shared {index}")).expect("a lock")).collect();
        job.world().barrier().expect("all are there");
        for _ in 0..ROUNDS {
            for (index, lock) in locks.iter().enumerate() {
                let guard = lock.acquire().expect("nobody fails");
                let place = marks.0.join(format!("dir {index}"));
                let _ = fs::create_dir(&place);
                enter(&place, guard.token().0);
                guard.release().expect("it was held");
            }
        }
        job.world().barrier().expect("all are through");
        if job.rank() == 0 {
            for index in 0..locks.len() {
                let log = fs::read_to_string(marks.0.join(format!("dir {index}")).join("log")).expect("a file");
                let count: u64 = log.split_whitespace().nth(1).expect("two").parse().expect("a number");
                assert_eq!(count, ROUNDS * job.size() as u64);
            }
        }
        // Homes serve until all are through.
        job.world().barrier().expect("all are through");
        return answer("done");
    }
    for nodes in [&[2, 2][..], &[1, 1, 1], &[1, 2]] {
        Across::of_counts(nodes).run_to_done(TEST, &[]);
    }
}

/// A node that has a lock again and again goes on with its number; others find the lock free, also at the next home.
#[test]
fn a_node_that_has_it_again_and_again_draws_few_numbers() {
    const TEST: &str = "a_node_that_has_it_again_and_again_draws_few_numbers";
    const LOCKS: usize = 12;
    const TIMES: usize = 300;
    if role().is_some() {
        let job = join();
        let locks: Vec<Lock> = (0..LOCKS).map(|index| job.lock(&format!("again {index}")).expect("a lock")).collect();
        let once = |lock: &Lock| lock.try_acquire().expect("a lock").expect("nobody has it").token().0;
        let said = |tokens: Vec<u64>| answer(tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
        let all_once = || said(locks.iter().map(once).collect());
        let had_again = |lock: &Lock| {
            let tokens: Vec<u64> = (0..TIMES).map(|_| once(lock)).collect();
            assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
            let (first, last) = (tokens[0], tokens[TIMES - 1]);
            let draws_few = last - first < TIMES as u64 * 30;
            // At home on its own node, where its words are memory, a node draws a number each time.
            assert!(draws_few || last - first == (TIMES as u64 - 1) * 256, "{tokens:?}");
            (draws_few, last)
        };
        let all_again = || {
            let had: Vec<(bool, u64)> = locks.iter().map(had_again).collect();
            assert!(had.iter().any(|(draws_few, _)| *draws_few), "at home elsewhere");
            said(had.into_iter().map(|(_, last)| last).collect());
        };
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            all_again();
            // Meanwhile they are another node's.
            await_line();
            all_again();
        } else {
            await_line();
            all_once();
        }
        // A home is lost, at which words were kept.
        await_line();
        all_once();
        await_line();
        return;
    }
    let across = Across::of_counts(&[1, 1, 1]);
    let mut children = across.start(TEST, &[]);
    let tokens = |line: String| line.split(' ').map(|token| token.parse().expect("a token")).collect::<Vec<u64>>();
    let mut last = tokens(children.next_answer(0));
    let mut come = |children: &mut Children, rank: usize| {
        children.say(rank, "go on");
        let next = tokens(children.next_answer(rank));
        assert!(
            next.len() == LOCKS && last.iter().zip(&next).all(|(before, after)| before < after),
            "{last:?} {next:?}"
        );
        last = next;
    };
    for rank in [1, 0, 2] {
        come(&mut children, rank);
    }
    children.kill(2);
    for rank in [0, 1] {
        come(&mut children, rank);
    }
    for rank in [0, 1] {
        children.say(rank, "end");
    }
}

#[test]
fn try_time_out_and_cancel_leave_no_hole() {
    const TEST: &str = "try_time_out_and_cancel_leave_no_hole";
    if role().is_some() {
        let job = join();
        let locks: Vec<Lock> = (0..4).map(|index| job.lock(&format!("busy {index}")).expect("a lock")).collect();
        let meet = || job.world().barrier().expect("all are there");
        for lock in &locks {
            meet();
            if job.rank() == 0 {
                let guard = lock.try_acquire().expect("a lock").expect("it is free");
                meet();
                meet();
                drop(guard);
            } else {
                meet();
                assert!(lock.try_acquire().expect("a lock").is_none());
                let error = lock.acquire_timeout(Duration::from_millis(40)).expect_err("rank 0 has it");
                assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
                let mut request = lock.request().expect("a place");
                for _ in 0..100 {
                    assert!(!request.test().expect("a lock"));
                }
                assert!(request.cancel());
                assert!(matches!(lock.try_acquire(), Ok(None)));
                meet();
            }
            let guard = lock.acquire_timeout(LIMIT).expect("it comes to all");
            assert!(matches!(lock.acquire(), Err(LockError::AlreadyHeld { .. })));
            guard.release().expect("it was held");
            meet();
        }
        return answer("done");
    }
    Across::of_counts(&[1, 2]).run_to_done(TEST, &[]);
}

/// The holder is killed, with or without others of its node that wait; ranks of both nodes go on, with greater tokens.
#[test]
fn a_killed_holder_is_followed_on_its_node_and_on_others() {
    const TEST: &str = "a_killed_holder_is_followed_on_its_node_and_on_others";
    if role().is_some() {
        let job = join();
        let lock = job.lock(&std::env::var("LOCK_NAME").expect("the test has set it")).expect("a lock");
        let marks = Marks::of_this_rank();
        job.world().barrier().expect("all are there");
        if job.rank() == 3 {
            let guard = lock.acquire().expect("it is free");
            marks.set(&job, "held");
            answer(guard.token());
            await_line();
        }
        marks.wait([3], "held");
        let request = lock.request().expect("a place in the queue");
        marks.set(&job, "asked");
        answer("asked");
        let guard = request.wait().expect("the holder is dead");
        answer(guard.token());
        guard.release().expect("it was held");
        await_line();
        return;
    }
    for name in ["a", "b", "c", "d"] {
        let across = Across::new(&[0, 0, 1, 1]);
        let mut children = across.start(TEST, &[("LOCK_NAME", name)]);
        let token = |text: String| text.parse::<u64>().expect("a token");
        let first = token(children.next_answer(3));
        (0..3).for_each(|rank| assert_eq!(children.next_answer(rank), "asked"));
        children.kill(3);
        let mut tokens: Vec<u64> = (0..3).map(|rank| token(children.next_answer(rank))).collect();
        tokens.sort_unstable();
        assert!(first < tokens[0] && tokens[0] < tokens[1] && tokens[1] < tokens[2], "{first} {tokens:?}");
    }
}

/// Nobody of the holder's node waits, or lives.
#[test]
fn a_holder_that_nobody_of_its_node_waits_for_is_followed() {
    const TEST: &str = "a_holder_that_nobody_of_its_node_waits_for_is_followed";
    if role().is_some() {
        let job = join();
        let names = ["a", "b", "c", "d", "e", "f"];
        let marks = Marks::of_this_rank();
        let locks: Vec<Lock> = names.iter().map(|name| job.lock(name).expect("a lock")).collect();
        job.world().barrier().expect("all are there");
        if job.rank() == 2 {
            let held: Vec<_> = locks.iter().map(|lock| lock.acquire().expect("it is free")).collect();
            marks.set(&job, "held");
            answer(held.len());
            await_line();
        }
        marks.wait([2], "held");
        if job.rank() == 0 {
            let taken: Vec<String> = locks
                .iter()
                .map(|lock| match lock.acquire_timeout(LIMIT) {
                    Ok(_) => "had".to_owned(),
                    Err(error) => error.to_string(),
                })
                .collect();
            answer(taken.join(", "));
        }
        await_line();
        return;
    }
    for nodes in [&[0, 0, 1, 1][..], &[0, 0, 1]] {
        let across = Across::new(nodes);
        let mut children = across.start(TEST, &[]);
        assert_eq!(children.next_answer(2), "6");
        children.kill(2);
        let taken = children.next_answer(0);
        assert_eq!(taken, ["had"; 6].join(", "));
    }
}

/// One line of the log that the ranks keep together.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rank: usize,
    token: u64,
    enters: bool,
}

/// What the ranks have written, in the order in which they did.
fn entries(log: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let enters = words.next().expect("a word") == "in";
        let mut number = || words.next().expect("a number").parse::<u64>().expect("a number");
        Entry { enters, rank: usize::try_from(number()).expect("a rank"), token: number() }
    };
    text.lines().map(entry).collect()
}

/// Whoever enters does so with the greatest token, and after the one before it has left or was killed.
fn check(entries: &[Entry], killed: &[usize]) {
    let (mut last, mut inside): (u64, Option<Entry>) = (0, None);
    for entry in entries {
        if entry.enters {
            assert!(entry.token > last, "{entry:?} after {last}");
            assert!(inside.is_none_or(|other| killed.contains(&other.rank)), "{entry:?} beside {inside:?}");
            (last, inside) = (entry.token, Some(*entry));
        } else if inside.is_some_and(|other| other.rank == entry.rank) {
            inside = None;
        } else {
            assert!(killed.contains(&entry.rank), "{entry:?} beside {inside:?}");
        }
    }
}

/// Ranks are killed at random moments while they use a lock as quickly as they can, until a node is gone, and another
/// one; the others always go on, also where the home is lost.
#[test]
fn whoever_is_killed_in_the_middle_holds_nobody_up() {
    const TEST: &str = "whoever_is_killed_in_the_middle_holds_nobody_up";
    const NODES: [usize; 6] = [0, 0, 1, 1, 2, 2];
    const VICTIMS: [usize; 5] = [5, 3, 1, 4, 2];
    if role().is_some() {
        let job = join();
        let name = std::env::var("LOCK_NAME").expect("the test has set it");
        let marks = Marks::of_this_rank();
        let mut log = fs::OpenOptions::new().append(true).create(true).open(marks.0.join("log")).expect("a file");
        let lock = job.lock(&name).expect("a lock");
        job.world().barrier().expect("all are there");
        answer("ready");
        for round in 0_u64.. {
            let guard = lock.acquire_timeout(LIMIT).expect("whoever dies, the lock goes on");
            let (rank, token) = (job.rank(), guard.token());
            log.write_all(format!("in {rank} {token}\n").as_bytes()).expect("a line");
            log.write_all(format!("out {rank} {token}\n").as_bytes()).expect("a line");
            guard.release().expect("it was held");
            if round % 50 == 0 {
                answer("alive");
            }
        }
    }
    for turn in 0..6 {
        let across = Across::new(&NODES);
        let mut children = across.start(TEST, &[("LOCK_NAME", &format!("hot {turn}"))]);
        (0..NODES.len()).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
        for (count, victim) in VICTIMS.into_iter().enumerate() {
            let left = (0..NODES.len()).filter(|rank| !VICTIMS[..count].contains(rank));
            left.for_each(|rank| assert_eq!(children.next_answer(rank), "alive", "turn {turn}"));
            children.kill(victim);
        }
        (0..3).for_each(|_| assert_eq!(children.next_answer(0), "alive"));
        children.kill(0);
        check(&entries(&across.marks.join("log")), &VICTIMS);
    }
}

/// A node is killed where some locks are at home while another one holds them: whoever waits has them when they are
/// released, and not before.
#[test]
fn a_lost_home_changes_nothing_for_the_holder() {
    const TEST: &str = "a_lost_home_changes_nothing_for_the_holder";
    const LOCKS: usize = 12;
    if role().is_some() {
        let job = join();
        let locks: Vec<Lock> = (0..LOCKS).map(|index| job.lock(&format!("kept {index}")).expect("a lock")).collect();
        job.world().barrier().expect("all are there");
        let guards: Vec<_> = match job.rank() {
            0 => locks.iter().map(|lock| lock.acquire().expect("it is free")).collect(),
            _ => Vec::new(),
        };
        job.world().barrier().expect("all is held");
        answer("ready");
        await_line();
        if job.rank() == 0 {
            answer(guards.iter().map(|guard| guard.token().0.to_string()).collect::<Vec<_>>().join(" "));
            await_line();
            guards.into_iter().for_each(|guard| guard.release().expect("it was held all the time"));
            await_line();
            return;
        }
        for lock in &locks {
            let error = lock.acquire_timeout(Duration::from_millis(50)).expect_err("rank 0 has it");
            assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        }
        let mut requests: Vec<_> = locks.iter().map(|lock| lock.request().expect("a place")).collect();
        assert!(!requests.iter_mut().any(|request| request.test().expect("nobody fails")));
        answer("waiting");
        let guards = requests.into_iter().map(|request| request.wait().expect("it was released").token().0.to_string());
        answer(guards.collect::<Vec<_>>().join(" "));
        await_line();
        return;
    }
    let across = Across::new(&[0, 1, 1, 2]);
    let mut children = across.start(TEST, &[]);
    (0..4).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    children.kill(1);
    children.kill(2);
    children.say(3, "go on");
    assert_eq!(children.next_answer(3), "waiting");
    children.say(0, "go on");
    let tokens = |line: String| line.split(' ').map(|token| token.parse().expect("a token")).collect::<Vec<u64>>();
    let before = tokens(children.next_answer(0));
    children.say(0, "go on");
    let after = tokens(children.next_answer(3));
    assert_eq!((before.len(), after.len()), (LOCKS, LOCKS));
    assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?} {after:?}");
}

/// A holder that is stopped is followed after the failure time-out by a rank of another node; when it comes back its
/// release is refused.
#[test]
fn a_stopped_holder_is_followed_on_another_node_and_its_release_is_refused() {
    const TEST: &str = "a_stopped_holder_is_followed_on_another_node_and_its_release_is_refused";
    if role().is_some() {
        let job = join();
        let lock = job.lock("precious").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 3 {
            let guard = lock.acquire().expect("it is free");
            answer(guard.token());
            // Stopped in here.
            assert_eq!(await_line(), "go on");
            let error = guard.release().expect_err("others have it");
            assert!(matches!(error, LockError::Excluded { rank: 3, .. }), "{error}");
            assert!(matches!(lock.acquire(), Err(LockError::Excluded { .. })));
            return answer("refused");
        }
        if job.rank() == 0 {
            assert_eq!(await_line(), "it is stopped");
            let guard = lock.acquire_timeout(LIMIT).expect("its holder has failed");
            answer(guard.token());
            assert_eq!(await_line(), "go on");
            guard.release().expect("the one that came back has not taken it");
            answer("released");
        }
        await_line();
        return;
    }
    let across = Across::new(&[0, 0, 1, 1]);
    let mut children = across.start(TEST, &[]);
    let first: u64 = children.next_answer(3).parse().expect("a token");
    children.stop(3);
    children.say(0, "it is stopped");
    let second: u64 = children.next_answer(0).parse().expect("a token");
    assert!(first < second, "{first} {second}");
    children.signal(3, rustix::process::Signal::CONT);
    children.say(3, "go on");
    assert_eq!(children.next_answer(3), "refused");
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "released");
}

/// The holder is killed, and nobody else of its node has opened the names: who opens them then does not inherit its
/// hold.
#[test]
fn whoever_opens_what_only_a_dead_holder_had_open_can_have_it() {
    const TEST: &str = "whoever_opens_what_only_a_dead_holder_had_open_can_have_it";
    const LOCKS: usize = 8;
    if role().is_some() {
        let job = join();
        let open =
            || (0..LOCKS).map(|index| job.lock(&format!("left {index}")).expect("a lock")).collect::<Vec<Lock>>();
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let locks = open();
            let guards: Vec<_> = locks.iter().map(|lock| lock.acquire().expect("it is free")).collect();
            answer(guards.len());
            await_line();
        }
        if job.rank() == 1 {
            assert_eq!(await_line(), "open");
            let locks = open();
            for lock in &locks {
                drop(lock.acquire_timeout(LIMIT).expect("its holder is dead"));
            }
            answer("had all");
        }
        await_line();
        return;
    }
    for _ in 0..5 {
        let across = Across::new(&[0, 0, 1]);
        let mut children = across.start(TEST, &[]);
        assert_eq!(children.next_answer(0), LOCKS.to_string());
        children.kill(0);
        children.say(1, "open");
        assert_eq!(children.next_answer(1), "had all");
    }
}

/// Their home is lost, and the holder with it, or not.
#[test]
fn waiters_keep_their_order_when_the_home_is_lost() {
    const TEST: &str = "waiters_keep_their_order_when_the_home_is_lost";
    if role().is_some() {
        let job = join();
        let marks = Marks::of_this_rank();
        let lock = job.lock(&name_at(&job, 0, "queue")).expect("a lock");
        job.world().barrier().expect("all are there");
        let holder: usize = std::env::var("LOCK_HOLDER").expect("the test has set it").parse().expect("a rank");
        if job.rank() == holder {
            let guard = lock.acquire().expect("it is free");
            answer(lock.name());
            await_line();
            guard.release().expect("it was held to the end");
            answer("had");
            drop(await_line());
        } else if job.rank() == 0 {
            answer(lock.name());
            drop(await_line());
        } else {
            answer(lock.name());
            await_line();
            let guard = lock.acquire().expect("its turn comes");
            let mut log = fs::OpenOptions::new().append(true).create(true).open(marks.0.join("order")).expect("a file");
            write!(log, "{} ", job.rank()).expect("room");
            guard.release().expect("it was held");
            answer("had");
            drop(await_line());
        }
        return;
    }
    for (holder, order) in [(0, [3, 1, 2]), (0, [2, 3, 1]), (4, [3, 2, 1]), (4, [1, 3, 2])] {
        let across = Across::new(&[0, 1, 2, 3, 4]);
        let mut children = across.start(TEST, &[("LOCK_HOLDER", &holder.to_string())]);
        let mut names: Vec<String> = (0..5).map(|rank| children.next_answer(rank)).collect();
        let name = names.pop().expect("five");
        let order: Vec<usize> = if holder == 0 { order.into_iter().chain([4]).collect() } else { order.to_vec() };
        for (before, rank) in order.iter().enumerate() {
            children.say(*rank, "ask");
            await_that("it does not ask", || waiting_at(children.pid(0), &name).len() > before);
        }
        children.kill(0);
        if holder != 0 {
            children.say(holder, "release");
        }
        (1..5).for_each(|rank| assert_eq!(children.next_answer(rank), "had", "rank {rank}"));
        let had = fs::read_to_string(across.marks.join("order")).expect("a file");
        let had: Vec<usize> = had.split_whitespace().map(|rank| rank.parse().expect("a rank")).collect();
        assert_eq!(had, order);
    }
}

/// Does with a lock what the test says, one line after the other, and answers when it is done.
fn obey(job: &Job, lock: &Lock) {
    let (mut request, mut guard) = (None, None);
    loop {
        match await_line().as_str() {
            "request" => {
                request = Some(lock.request().expect("a place"));
                answer("asked");
            }
            "test" => answer(request.as_mut().is_some_and(|request: &mut LockRequest<'_>| request.test() == Ok(true))),
            "again" => {
                let refused = [lock.acquire().err(), lock.request().err()];
                let is_request = |error: &Option<LockError>| matches!(error, Some(LockError::AlreadyRequested { .. }));
                assert!(refused.iter().all(is_request), "{refused:?}");
                answer("refused");
            }
            "wait" => {
                guard = Some(request.take().expect("a request").wait().expect("its turn comes"));
                answer("had");
            }
            "acquire" => {
                guard = Some(lock.acquire().expect("its turn comes"));
                answer("had");
            }
            "wait a little" => {
                let error = lock.acquire_timeout(Duration::from_millis(30)).expect_err("it is not its turn");
                let LockError::TimedOut { holder, holder_node, .. } = &error else { panic!("{error}") };
                let text = error.to_string();
                let asked = text.contains("has asked for it before");
                answer(format!("holder {holder:?} on node {holder_node:?}, who has asked: {asked}"));
            }
            "cancel" => answer(request.take().expect("a request").cancel()),
            "try" => {
                // Released before that is said.
                let is_had = lock.try_acquire().expect("a lock").map(drop).is_some();
                answer(is_had);
            }
            "release" => {
                guard.take().expect("a guard").release().expect("it was held");
                answer("released");
            }
            "end" => return job.world().barrier().expect("homes serve until all are through"),
            other => panic!("{other}"),
        }
    }
}

/// A job whose ranks obey, as the lock at home on node 0; and that lock's name.
fn obedient(test: &str, nodes: &[usize]) -> (Children, String) {
    let mut children = Across::new(nodes).start(test, &[]);
    let names: Vec<String> = (0..nodes.len()).map(|rank| children.next_answer(rank)).collect();
    (children, names[0].clone())
}

fn obey_the_test() {
    let job = join();
    let lock = job.lock(&name_at(&job, 0, "obeyed")).expect("a lock");
    job.world().barrier().expect("all are there");
    answer(lock.name());
    obey(&job, &lock);
}

#[track_caller]
fn expect(children: &mut Children, rank: usize, order: &str, expected: &str) {
    children.say(rank, order);
    assert_eq!(children.next_answer(rank), expected, "{order} of rank {rank}");
}

fn end(mut children: Children, ranks: usize) {
    (0..ranks).for_each(|rank| children.say(rank, "end"));
    (0..ranks).for_each(|rank| assert!(children.finish(rank).1.success(), "rank {rank}"));
}

/// The nodes have a lock in the order in which they have asked for it, whether they wait, and who of them begins with
/// that.
#[test]
fn nodes_have_it_in_the_order_in_which_they_have_asked() {
    const TEST: &str = "nodes_have_it_in_the_order_in_which_they_have_asked";
    if role().is_some() {
        return obey_the_test();
    }
    let (mut children, name) = obedient(TEST, &[0, 1, 2, 3]);
    for (holder, order) in [(0, [2, 1, 3]), (3, [1, 0, 2])] {
        let is_there = |pid, before| await_that("it does not ask", || waiting_at(pid, &name).len() > before);
        // Those who wait.
        expect(&mut children, holder, "acquire", "had");
        for (before, rank) in order.into_iter().enumerate() {
            children.say(rank, "acquire");
            is_there(children.pid(0), before);
        }
        expect(&mut children, holder, "release", "released");
        for rank in order {
            assert_eq!(children.next_answer(rank), "had", "rank {rank} of {order:?}");
            expect(&mut children, rank, "release", "released");
        }
        // Those who ask, and then wait the other way round.
        expect(&mut children, holder, "acquire", "had");
        for rank in order {
            expect(&mut children, rank, "request", "asked");
            expect(&mut children, rank, "again", "refused");
        }
        let [first, second, last] = order;
        assert_eq!(waiting_at(children.pid(0), &name), order, "they have their places");
        [last, second].into_iter().for_each(|rank| children.say(rank, "wait"));
        expect(&mut children, holder, "release", "released");
        expect(&mut children, first, "wait", "had");
        expect(&mut children, first, "release", "released");
        for rank in [second, last] {
            assert_eq!(children.next_answer(rank), "had", "rank {rank} of {order:?}");
            expect(&mut children, rank, "release", "released");
        }
    }
    end(children, 4);
}

/// Whoever gives its place up is told whether it had the lock, also where nobody has told it so; nothing is left.
#[test]
fn who_cancels_is_told_whether_it_was_granted() {
    const TEST: &str = "who_cancels_is_told_whether_it_was_granted";
    if role().is_some() {
        return obey_the_test();
    }
    // At home on the holder's node, and on that of who cancels.
    for [holder, other] in [[0, 1], [1, 0]] {
        let (mut children, name) = obedient(TEST, &[0, 1, 1]);
        // It is not its turn.
        expect(&mut children, holder, "acquire", "had");
        expect(&mut children, other, "request", "asked");
        expect(&mut children, other, "cancel", "true");
        assert_eq!(waiting_at(children.pid(0), &name), [0; 0]);
        // It is, and it has not looked.
        expect(&mut children, other, "request", "asked");
        assert_eq!(waiting_at(children.pid(0), &name), [other]);
        expect(&mut children, holder, "release", "released");
        expect(&mut children, other, "cancel", "false");
        expect(&mut children, holder, "try", "true");
        // It has it at once.
        expect(&mut children, other, "request", "asked");
        expect(&mut children, other, "cancel", "false");
        expect(&mut children, holder, "try", "true");
        // It is its node's, by the claim that a neighbour has left it, and it has not looked.
        if holder == 0 {
            expect(&mut children, 0, "acquire", "had");
            expect(&mut children, 1, "request", "asked");
            expect(&mut children, 2, "request", "asked");
            expect(&mut children, 1, "cancel", "true");
            expect(&mut children, 0, "release", "released");
            expect(&mut children, 2, "cancel", "false");
            expect(&mut children, 0, "try", "true");
        }
        // A neighbour has it, and passes it on.
        expect(&mut children, 1, "acquire", "had");
        expect(&mut children, 2, "request", "asked");
        expect(&mut children, 1, "release", "released");
        expect(&mut children, 2, "cancel", "false");
        expect(&mut children, 0, "try", "true");
        end(children, 3);
    }
}

/// Requests keep their order at the next home, whether anybody looks at them or not.
#[test]
fn requests_that_nobody_looks_at_keep_their_order_when_the_home_is_lost() {
    const TEST: &str = "requests_that_nobody_looks_at_keep_their_order_when_the_home_is_lost";
    if role().is_some() {
        return obey_the_test();
    }
    let (mut children, _) = obedient(TEST, &[0, 1, 2, 3]);
    expect(&mut children, 1, "acquire", "had");
    expect(&mut children, 3, "request", "asked");
    expect(&mut children, 2, "request", "asked");
    children.kill(0);
    expect(&mut children, 1, "release", "released");
    // The second waits first.
    children.say(2, "wait");
    expect(&mut children, 3, "wait", "had");
    expect(&mut children, 3, "release", "released");
    assert_eq!(children.next_answer(2), "had");
}

/// Whoever has asked and looks no more, as it is dead, holds nobody up: neither before it is granted the lock nor
/// after.
#[test]
fn a_request_whose_rank_is_killed_holds_nobody_up() {
    const TEST: &str = "a_request_whose_rank_is_killed_holds_nobody_up";
    if role().is_some() {
        return obey_the_test();
    }
    // Its node lives on, or is lost with it.
    for nodes in [&[0, 1, 2, 1][..], &[0, 1, 2]] {
        for is_granted in [false, true] {
            let (mut children, name) = obedient(TEST, nodes);
            expect(&mut children, 0, "acquire", "had");
            expect(&mut children, 1, "request", "asked");
            expect(&mut children, 2, "request", "asked");
            if is_granted {
                expect(&mut children, 0, "release", "released");
                assert_eq!(holder_at(children.pid(0), &name), Some(1));
                children.kill(1);
            } else {
                children.kill(1);
                expect(&mut children, 0, "release", "released");
            }
            expect(&mut children, 2, "wait", "had");
        }
    }
}

/// Whose neighbour has asked and waits for another node is told so, and not that the neighbour holds it.
#[test]
fn who_waits_in_vain_behind_a_neighbour_is_told_that_it_has_asked() {
    const TEST: &str = "who_waits_in_vain_behind_a_neighbour_is_told_that_it_has_asked";
    if role().is_some() {
        return obey_the_test();
    }
    let (mut children, _) = obedient(TEST, &[0, 1, 1]);
    expect(&mut children, 0, "acquire", "had");
    expect(&mut children, 1, "request", "asked");
    expect(&mut children, 2, "wait a little", "holder Some(1) on node None, who has asked: true");
    expect(&mut children, 0, "release", "released");
    expect(&mut children, 1, "wait", "had");
    expect(&mut children, 2, "wait a little", "holder Some(1) on node Some(1), who has asked: false");
    expect(&mut children, 1, "release", "released");
    end(children, 3);
}

/// The holder's node is lost. Whoever finds that first, as it looks whether its request is granted, and then does
/// something else, holds nobody up who has asked before it.
#[test]
fn who_looks_once_and_finds_the_holder_lost_leaves_the_lock_to_the_first() {
    const TEST: &str = "who_looks_once_and_finds_the_holder_lost_leaves_the_lock_to_the_first";
    if role().is_some() {
        return obey_the_test();
    }
    let (mut children, name) = obedient(TEST, &[0, 1, 2, 3]);
    let [holder, first, second] = [1, 2, 3];
    expect(&mut children, holder, "acquire", "had");
    expect(&mut children, first, "request", "asked");
    expect(&mut children, second, "request", "asked");
    children.kill(holder);
    let begun = Instant::now();
    while holder_at(children.pid(0), &name) == Some(holder) {
        assert!(begun.elapsed() < LIMIT, "nobody follows the holder");
        // The home answers it nothing while it looks once, and all when it has: both pauses only make that likely.
        children.stop(0);
        children.say(second, "test");
        std::thread::sleep(Duration::from_millis(2));
        children.signal(0, rustix::process::Signal::CONT);
        assert_eq!(children.next_answer(second), "false");
        std::thread::sleep(Duration::from_millis(5));
    }
    expect(&mut children, first, "wait", "had");
    expect(&mut children, first, "release", "released");
    expect(&mut children, second, "wait", "had");
}

/// Two ranks of a node have a lock by turns while one of another node waits for it: they pass it on to each other so
/// often, and not once more.
#[test]
fn a_node_hands_the_lock_on_among_its_ranks_64_times_while_others_wait() {
    const TEST: &str = "a_node_hands_the_lock_on_among_its_ranks_64_times_while_others_wait";
    const MOST_HANDED_ON: u64 = 64;
    if role().is_some() {
        let job = join();
        let marks = Marks::of_this_rank();
        let lock = job.lock(&name_at(&job, 1, "hot")).expect("a lock");
        let grants = job.counter(&name_at(&job, 0, "grants")).expect("a counter");
        job.world().barrier().expect("all are there");
        if job.rank() == 2 {
            marks.wait([0], "held");
            let request = lock.request().expect("a place");
            marks.set(&job, "asked");
            let guard = request.wait().expect("the node passes it on so often, and no more");
            assert_eq!(grants.load().expect("in reach"), 1 + MOST_HANDED_ON);
            marks.set(&job, "had");
            drop(guard);
        } else {
            let has_had_it = || marks.0.join("had.2").exists();
            while !has_had_it() {
                if job.rank() == 1 {
                    marks.wait([0], "held");
                }
                let guard = lock.acquire().expect("nobody fails");
                if grants.fetch_add(1).expect("in reach") == 0 {
                    marks.set(&job, "held");
                    marks.wait([2], "asked");
                }
                // Whoever releases it finds that the other one waits.
                await_that("nobody else wants it", || !lock.queue().is_empty() || has_had_it());
                drop(guard);
            }
        }
        job.world().barrier().expect("homes serve until all are through");
        return answer("done");
    }
    Across::new(&[0, 0, 1]).run_to_done(TEST, &[]);
}
