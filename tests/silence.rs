//! Named objects where nothing is heard of a node, and nobody can decide whether it has failed: every call ends, and
//! what it has left is put right when the node is heard again.
#![cfg(not(model))]

mod common;

use std::time::{Duration, Instant};

use common::children::{Children, answer, await_line, role};
use common::homes::{UNDISTURBED, meet, name_at};
use common::nodes::{Across, Marks};
use common::ranks::LIMIT;
use phalanx::{
    Counter, CounterError, Election, Fenced, FencedError, Job, Lease, LeaseError, Lock, LockError, ObjectError, RwLock,
    Semaphore, Token,
};
use rustix::process::Signal;

const PERMITS: u64 = 3;
const TTL: Duration = Duration::from_millis(300);

/// One of each kind, all at home on one node.
struct Objects {
    free: Lock,
    held: Lock,
    shared: RwLock,
    read: RwLock,
    permits: Semaphore,
    counter: Counter,
    fenced: Fenced<u64>,
    lease: Lease,
    leased: Lease,
    election: Election,
    led: Election,
}

impl Objects {
    fn open(job: &Job, home: usize) -> Self {
        let name = |what| name_at(job, home, what);
        Self {
            free: job.lock(&name("free")).expect("a lock"),
            held: job.lock(&name("held")).expect("a lock"),
            shared: job.rwlock(&name("shared")).expect("a lock"),
            read: job.rwlock(&name("read")).expect("a lock"),
            permits: job.semaphore(&name("permits"), PERMITS).expect("a semaphore"),
            counter: job.counter(&name("counter")).expect("a counter"),
            fenced: job.fenced(&name("fenced")).expect("a word"),
            lease: job.lease(&name("lease"), TTL).expect("a lease"),
            leased: job.lease(&name("leased"), TTL).expect("a lease"),
            election: job.election(&name("election")).expect("an election"),
            led: job.election(&name("led")).expect("an election"),
        }
    }

    /// All of it comes to this rank, and goes again.
    fn have_all(&self) {
        for lock in [&self.free, &self.held] {
            again(|| lock.acquire_timeout(LIMIT)).release().expect("it was held");
        }
        for lock in [&self.shared, &self.read] {
            again(|| lock.write_timeout(LIMIT)).release().expect("it was held");
            again(|| lock.read_timeout(LIMIT)).release().expect("it was held");
        }
        again(|| self.permits.acquire_timeout(PERMITS, LIMIT)).release().expect("they were held");
        for lease in [&self.lease, &self.leased] {
            again(|| lease.acquire_timeout(LIMIT)).release().expect("it was held");
        }
        for election in [&self.election, &self.led] {
            let leadership = again(|| election.campaign_timeout(LIMIT));
            let leader = election.leader().expect("in reach").expect("this rank leads");
            assert_eq!(leader.term, leadership.term());
            leadership.resign().expect("it led");
        }
    }
}

/// Calls again as long as a node is not heard.
fn again<T, E: std::fmt::Debug>(call: impl Fn() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match call() {
            Ok(value) => return value,
            Err(error) => {
                assert!(format!("{error:?}").starts_with("Unreachable") && begun.elapsed() < LIMIT, "{error:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Fails unless this says that a node is not heard.
#[track_caller]
fn in_vain<T, E: std::fmt::Debug>(ended: Result<T, E>, node: usize) {
    let Err(error) = ended else { panic!("node {node} is silent") };
    let error = format!("{error:?}");
    assert!(error.starts_with("Unreachable") && error.contains(&format!("node: {node},")), "{error}");
}

/// The ranks of node 0 use what is at home on node 1, whose only rank is stopped: neither is a majority.
#[test]
fn each_call_ends_where_nobody_can_decide_about_the_home_and_all_goes_on_when_it_is_heard_again() {
    const TEST: &str = "each_call_ends_where_nobody_can_decide_about_the_home_and_all_goes_on_when_it_is_heard_again";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let objects = Objects::open(&job, 1);
        meet(&job);
        if job.rank() == 0 {
            call_in_vain(&job, &objects);
        } else if job.rank() == 1 {
            answer("ready");
            await_line();
            // Its neighbour asks at the same time.
            in_vain(objects.free.acquire(), 1);
            in_vain(objects.free.acquire_timeout(LIMIT), 1);
            answer("done");
            await_line();
        } else {
            answer("ready");
            await_line();
        }
        meet(&job);
        objects.have_all();
        meet(&job);
        if job.rank() == 2 {
            let sum = objects.counter.load().expect("in reach");
            assert!((1..=2).contains(&sum), "{sum}");
        }
        meet(&job);
        return answer("all");
    }
    make_silent(TEST, &[0, 0, 1], &[]);
}

/// Stops the only rank of the last node while the others make their calls; then all go on.
fn make_silent(test: &str, nodes: &[usize], variables: &[(&str, &str)]) {
    let (ranks, stopped) = (nodes.len(), nodes.len() - 1);
    let across = Across::new(nodes);
    let mut children = across.start(test, variables);
    (0..ranks).for_each(|rank| assert_eq!(children.next_answer(rank), "ready", "rank {rank}"));
    children.stop(stopped);
    (0..stopped).for_each(|rank| children.say(rank, "go"));
    (0..stopped).for_each(|rank| assert_eq!(children.next_answer(rank), "done", "rank {rank}"));
    go_on(&mut children, stopped, ranks);
}

fn go_on(children: &mut Children, stopped: usize, ranks: usize) {
    children.signal(stopped, Signal::CONT);
    (0..ranks).for_each(|rank| children.say(rank, "again"));
    (0..ranks).for_each(|rank| assert_eq!(children.next_answer(rank), "all", "rank {rank}"));
}

fn call_in_vain(job: &Job, objects: &Objects) {
    let held = objects.held.acquire().expect("it is free");
    let reads = objects.read.read().expect("it is free");
    let permit = objects.permits.acquire(1).expect("they are there");
    let leased = objects.leased.acquire().expect("it is free");
    let leadership = objects.led.campaign().expect("nobody leads");
    objects.counter.fetch_add(1).expect("in reach");
    objects.fenced.write(Token(1), 1).expect("in reach");
    answer("ready");
    await_line();

    // Asked before anybody knows.
    in_vain(objects.free.acquire(), 1);
    in_vain(objects.free.acquire_timeout(LIMIT), 1);
    // The neighbour may have the node's lock at this moment.
    assert!(!matches!(objects.free.try_acquire(), Ok(Some(_))));
    let request = objects.free.request().map(|mut request| request.test());
    assert!(!matches!(request, Ok(Ok(true))), "{request:?}");
    in_vain(objects.shared.read(), 1);
    in_vain(objects.shared.read_timeout(LIMIT), 1);
    in_vain(objects.shared.try_read(), 1);
    in_vain(objects.shared.write(), 1);
    in_vain(objects.shared.write_timeout(LIMIT), 1);
    in_vain(objects.shared.try_write(), 1);
    in_vain(objects.permits.acquire(1), 1);
    in_vain(objects.permits.acquire_timeout(1, LIMIT), 1);
    in_vain(objects.permits.try_acquire(1), 1);
    let added = objects.counter.fetch_add(1);
    assert!(matches!(added, Err(CounterError::Unreachable { node: 1, .. })), "{added:?}");
    assert!(matches!(objects.counter.load(), Err(CounterError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.counter.compare_exchange(1, 5), Err(CounterError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.fenced.write(Token(2), 2), Err(FencedError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.fenced.read(), Err(FencedError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.lease.acquire(), Err(LeaseError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.lease.acquire_timeout(LIMIT), Err(LeaseError::Unreachable { node: 1, .. })));
    assert!(matches!(objects.lease.try_acquire(), Err(LeaseError::Unreachable { node: 1, .. })));
    in_vain(objects.election.campaign(), 1);
    in_vain(objects.election.leader(), 1);
    in_vain(objects.election.wait_for_change(None, LIMIT), 1);
    let refused = job.lock(&name_at(job, 1, "new")).expect_err("its home is silent");
    let is_silent = |source: &LockError| matches!(source, LockError::Unreachable { node: 1, .. });
    assert!(matches!(&refused, ObjectError::Table { source, .. } if is_silent(source)), "{refused}");
    // At home here, or only here: as ever.
    job.lock(&name_at(job, 0, "near")).expect("room").acquire().expect("it is free").release().expect("it was held");

    in_vain(leadership.check(), 1);
    in_vain(leadership.resign(), 1);
    in_vain(held.release(), 1);
    in_vain(reads.release(), 1);
    in_vain(permit.release(), 1);
    assert!(matches!(leased.renew(), Err(LeaseError::Unreachable { node: 1, .. })));
    assert!(matches!(leased.release(), Err(LeaseError::Unreachable { node: 1, .. })));
    answer("done");
    await_line();
}

/// As above, where each kind of call is the first one: it has asked, and waits for the answer, when nothing is heard
/// any more.
#[test]
fn a_call_in_the_middle_ends_when_nobody_can_decide() {
    const TEST: &str = "a_call_in_the_middle_ends_when_nobody_can_decide";
    const CALLS: [&str; 14] = [
        "lock",
        "release",
        "read",
        "write",
        "stop reading",
        "permits",
        "return",
        "add",
        "write word",
        "lease",
        "renew",
        "campaign",
        "resign",
        "open",
    ];
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let objects = Objects::open(&job, 1);
        meet(&job);
        let call = std::env::var("SILENCE_CALL").expect("the test has set it");
        if job.rank() == 0 {
            make_first(&job, &objects, &call);
        } else {
            answer("ready");
            await_line();
        }
        meet(&job);
        objects.have_all();
        meet(&job);
        return answer("all");
    }
    for call in CALLS {
        let across = Across::new(&[0, 1]);
        let mut children = across.start(TEST, &[("SILENCE_CALL", call)]);
        (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "ready", "rank {rank}: {call}"));
        children.stop(1);
        children.say(0, "go");
        let said = children.next_answer(0);
        let is_right = said.starts_with("Unreachable") && said.contains("node: 1");
        let is_open = said.starts_with("Uncertain") || said.starts_with("Table") && said.contains("Unreachable");
        assert!(is_right || is_open, "{call}: {said}");
        go_on(&mut children, 1, 2);
    }
}

fn make_first(job: &Job, objects: &Objects, call: &str) {
    let (held, reads) = (objects.held.acquire().expect("free"), objects.read.read().expect("free"));
    let (permit, leased) = (objects.permits.acquire(1).expect("left"), objects.leased.acquire().expect("free"));
    let leadership = objects.led.campaign().expect("nobody leads");
    assert_eq!(objects.counter.load(), Ok(0), "this rank knows where it is at home");
    answer("ready");
    await_line();
    let said = match call {
        "lock" => said(objects.free.acquire()),
        "release" => said(held.release()),
        "read" => said(objects.shared.read()),
        "write" => said(objects.shared.write()),
        "stop reading" => said(reads.release()),
        "permits" => said(objects.permits.acquire(1)),
        "return" => said(permit.release()),
        "add" => said(objects.counter.fetch_add(1)),
        "write word" => said(objects.fenced.write(Token(2), 2)),
        "lease" => said(objects.lease.acquire()),
        "renew" => said(leased.renew()),
        "campaign" => said(objects.election.campaign()),
        "resign" => said(leadership.resign()),
        _ => said(job.lock(&name_at(job, 1, "new"))),
    };
    answer(said);
    await_line();
}

fn said<T, E: std::fmt::Debug>(ended: Result<T, E>) -> String {
    ended.map_or_else(|error| format!("{error:?}"), |_| "done".to_owned())
}

/// Nothing is heard of the home for longer than the limits, and much shorter than would tell anybody: the limits end
/// the calls.
#[test]
fn a_limit_ends_a_call_whose_home_does_not_answer() {
    const TEST: &str = "a_limit_ends_a_call_whose_home_does_not_answer";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let objects = Objects::open(&job, 1);
        meet(&job);
        answer("ready");
        await_line();
        if job.rank() == 0 {
            end_in_time(&objects);
            answer("done");
            await_line();
        }
        meet(&job);
        objects.have_all();
        meet(&job);
        return answer("all");
    }
    make_silent(TEST, &[0, 1], &[UNDISTURBED]);
}

fn end_in_time(objects: &Objects) {
    const SHORT: Duration = Duration::from_millis(20);
    let is_over = |error: &LockError| matches!(error, LockError::TimedOut { .. });
    assert!(objects.free.try_acquire().expect("it is not known").is_none());
    assert!(objects.held.acquire_timeout(SHORT).is_err_and(|error| is_over(&error)));
    // What was asked before is not answered.
    let again = objects.held.acquire_timeout(SHORT);
    assert!(matches!(again, Err(LockError::Unreachable { node: 1, .. })), "{again:?}");
    assert!(objects.shared.read_timeout(SHORT).is_err_and(|error| is_over(&error)));
    assert!(objects.read.try_read().expect("it is not known").is_none());
    assert!(objects.permits.try_acquire(1).expect("it is not known").is_none());
    assert!(objects.election.campaign_timeout(SHORT).is_err_and(|error| is_over(&error)));
    assert_eq!(objects.led.wait_for_change(None, SHORT), Ok(None));
    let late = objects.lease.acquire_timeout(SHORT);
    assert!(matches!(late, Err(LeaseError::TimedOut { .. })), "{late:?}");
    assert!(objects.leased.try_acquire().expect("it is not known").is_none());
}

/// The home is here, and who has it all is on a node of which nothing is heard.
#[test]
fn a_wait_for_a_holder_that_nobody_can_decide_about_ends() {
    const TEST: &str = "a_wait_for_a_holder_that_nobody_can_decide_about_ends";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let objects = Objects::open(&job, 0);
        meet(&job);
        let marks = Marks::of_this_rank();
        if job.rank() == 1 {
            let held = (objects.free.acquire().expect("free"), objects.shared.read().expect("free"));
            let (written, permits) = (objects.read.write().expect("free"), objects.permits.acquire(PERMITS));
            let led = objects.led.campaign().expect("nobody leads");
            marks.set(&job, "held");
            answer("ready");
            await_line();
            drop((held, written, permits.expect("all are left"), led));
        } else {
            marks.wait([1], "held");
            answer("ready");
            await_line();
            in_vain(objects.free.acquire(), 1);
            in_vain(objects.free.acquire_timeout(LIMIT), 1);
            in_vain(objects.shared.write(), 1);
            in_vain(objects.read.read(), 1);
            in_vain(objects.read.write(), 1);
            in_vain(objects.permits.acquire(1), 1);
            in_vain(objects.led.campaign(), 1);
            answer("done");
            await_line();
        }
        meet(&job);
        objects.have_all();
        meet(&job);
        return answer("all");
    }
    make_silent(TEST, &[0, 1], &[]);
}
