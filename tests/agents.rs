//! The agent's role passes from process to process: each is killed in the midst of what another node asks of it, and
//! the next goes on with the same memory. What was asked is executed once and in order, or its loss is told. As long as
//! one of the processes lives, agent or not, the node is not taken for gone; when none does, that is known at once.
#![cfg(not(model))]

mod common;

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::children::{Children, answer, await_line, bare, role};
use common::nodes::Across;
use common::ranks::LIMIT;
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::shm::{Expected, Segment};
use phalanx::fabric::sim::Seeded;
use phalanx::fabric::tcp::{Candidate, Door, Peer, Ports, Services, TcpFabric};
use phalanx::fabric::{Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::handshake::Key;
use phalanx::{BarrierError, Job, TcpEngine};
use rustix::process::Signal;

/// Ranks of node 0, each of which is its agent in turn.
const RANKS: usize = 4;
/// The one rank of node 1, which asks.
const ASKS: usize = RANKS;
/// How many requests of an agent's are executed, at least, before it is killed.
const SERVED: u64 = 300;
/// Requests on their way, at most.
const MOST_ASKED: usize = 200;

fn layout() -> NodeLayout {
    NodeLayout::new(RANKS, 4 * UNIT_WORDS)
}

/// Written in this order by each batch; the second never shows a batch that the first has not seen.
fn first_word() -> WordAt {
    layout().unit(0)
}

fn second_word() -> WordAt {
    first_word().plus(1)
}

/// Counts batches.
fn count_word() -> WordAt {
    first_word().plus(2)
}

/// How many agents there have been: the rank of that number is the next.
fn turn_word() -> WordAt {
    first_word().plus(3)
}

fn services(rank: usize, here: usize) -> Services {
    Services { rank, size: RANKS + 1, here, key: Key::new([4; 32]) }
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("the test has set it")
}

/// A rank of node 0: waits for its turn, and serves until it is killed.
fn serve_in_turn() {
    let rank: usize = variable("AGENTS_RANK").parse().expect("a number");
    let asks: SocketAddr = variable("AGENTS_ASKS").parse().expect("an address");
    let engine: TcpEngine = variable("AGENTS_ENGINE").parse().expect("an engine");
    let file = OpenOptions::new().read(true).write(true).open(variable("AGENTS_MEMORY")).expect("the test's memory");
    let expected = Expected { job_id: 1, ranks: RANKS, job_ranks: RANKS, nodes: 1, layout_hash: 1 };
    let memory = Arc::new(Segment::attach(file.into(), expected).expect("the test's memory"));
    let door = Door::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let port = door.local_addr().expect("it is bound").port();
    let own = Peer { candidates: Vec::new(), words: memory.words() };
    let peers = vec![own, Peer::alone(ASKS, asks, memory.words())];
    let served: Arc<Segment> = Arc::clone(&memory);
    let fabric = TcpFabric::with_engine(services(rank, 0), served, peers, door, engine).expect("a fabric");
    answer(port);
    while memory.word(turn_word()).load(Ordering::Acquire) != rank as u64 {
        std::thread::sleep(Duration::from_micros(200));
    }
    fabric.become_agent().expect("its own port");
    loop {
        // An application that computes: the background thread serves. It ends with the test.
        std::thread::sleep(LIMIT);
    }
}

/// What has become of the batches that were posted.
#[derive(Default)]
struct Tally {
    batches: u64,
    answered: u64,
    lost: u64,
    not_sent: u64,
    last: Option<u64>,
}

impl Tally {
    fn note(&mut self, result: Result<u64, OperationError>) {
        match result {
            Ok(found) => {
                assert!(self.last.is_none_or(|last| last < found), "{found} after {:?}", self.last);
                self.last = Some(found);
                self.answered += 1;
            }
            Err(OperationError::Lost { .. }) => self.lost += 1,
            Err(OperationError::NotSent { .. }) => self.not_sent += 1,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Posts batches, whatever becomes of them, until it is over and all have their answers.
fn ask(fabric: &TcpFabric, is_over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut asked: VecDeque<Ticket> = VecDeque::new();
    while !is_over.load(Ordering::Relaxed) || !asked.is_empty() {
        fabric.progress();
        while let Some(Poll::Ready(result)) = asked.front().map(|ticket| fabric.take(*ticket)) {
            asked.pop_front();
            tally.note(result);
        }
        if is_over.load(Ordering::Relaxed) || asked.len() >= MOST_ASKED {
            continue;
        }
        tally.batches += 1;
        let write = |at| Request::Write { at, value: tally.batches };
        let batch = [write(first_word()), write(second_word()), Request::FetchAdd { at: count_word(), add: 1 }];
        let mut tickets = Vec::new();
        match fabric.post(0, &batch, &mut tickets) {
            Ok(()) => asked.extend(tickets),
            Err(PostError::Full { .. } | PostError::Unreachable { .. }) => tally.batches -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    tally
}

/// Looks at the memory until so many batches are counted: no word ever goes back, and none overtakes another.
fn watch_until(memory: &Segment, count: u64) {
    let (begun, mut seen) = (Instant::now(), [0; 3]);
    while seen[2] < count {
        // The later word first.
        let now = [second_word(), first_word(), count_word()].map(|at| memory.word(at).load(Ordering::Acquire));
        assert!(now[0] <= now[1], "{now:?}");
        assert!(seen.iter().zip(now).all(|(before, now)| *before <= now), "{now:?} after {seen:?}");
        seen = now;
        assert!(begun.elapsed() < LIMIT, "nothing is executed any more: {now:?}, {count} wanted");
    }
}

/// The ranks of node 0, which share this memory.
fn start_ranks(test: &str, engine: TcpEngine, memory: &Segment, asks: SocketAddr) -> Children {
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.fd().as_raw_fd());
    let mut children = Children::default();
    for rank in 0..RANKS {
        let mut command = bare(test, "rank");
        command.env("AGENTS_MEMORY", &path).env("AGENTS_RANK", rank.to_string()).env("AGENTS_ENGINE", engine.name());
        command.env("AGENTS_ASKS", asks.to_string());
        children.start(command);
    }
    children
}

fn kill_each_agent_in_turn(test: &str, engine: TcpEngine, random: &mut Seeded) {
    let memory = Arc::new(Segment::create(layout(), 1, 1).expect("memory"));
    let mut door = Door::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    door.open().expect("its own port");
    let mut children = start_ranks(test, engine, &memory, door.local_addr().expect("it is bound"));
    let hosts: Arc<[IpAddr]> = Arc::new([Ipv4Addr::LOCALHOST.into()]);
    let candidate = |rank: usize| {
        let port = children.next_answer(rank).parse().expect("a port");
        Candidate { rank, hosts: Arc::clone(&hosts), port }
    };
    let node_0 = Peer { candidates: (0..RANKS).map(candidate).collect(), words: layout().words() };
    let own = Peer::alone(ASKS, door.local_addr().expect("it is bound"), layout().words());
    let unused = Arc::new(Segment::create(layout(), 1, 1).expect("memory"));
    let fabric = TcpFabric::with_engine(services(ASKS, 1), unused, vec![node_0, own], door, engine).expect("a fabric");
    let is_over = AtomicBool::new(false);
    let tally = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&fabric, &is_over));
        let mut count = 0;
        for rank in 0..RANKS {
            count += SERVED + random.below(500) as u64;
            watch_until(&memory, count);
            if rank + 1 < RANKS {
                children.kill(rank);
                // The next is told while batches wait for it, and sometimes after longer than a link fails for.
                look_at_ports(&fabric, Duration::from_millis([0, 0, 2, 30, 150][random.below(5)]));
                count = memory.word(count_word()).load(Ordering::Acquire);
                memory.word(turn_word()).store(rank as u64 + 1, Ordering::Release);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        asking.join().expect("no panic")
    });
    let count = memory.word(count_word()).load(Ordering::Acquire);
    let Tally { batches, answered, lost, not_sent, last } = tally;
    println!("{engine}: {batches} batches: {answered} answered, {lost} lost, {not_sent} not sent; {count} counted");
    assert_eq!((batches, not_sent), (answered + lost, 0), "what waits for the next agent is kept");
    assert!((answered..=answered + lost).contains(&count), "{count} counted");
    assert_eq!(last, Some(count - 1), "the last one was answered");
    assert_eq!([first_word(), second_word()].map(|at| memory.word(at).load(Ordering::Acquire)), [batches; 2]);
    assert_eq!(fabric.incarnation(0), RANKS as u64);
    assert!(lost <= (RANKS as u64 - 1) * MOST_ASKED as u64);
    children.kill(RANKS - 1);
    println!("{engine}: found gone after {} µs", await_end(&fabric).as_micros());
}

/// Waits until nobody is left who answers for node 0; how long.
fn await_end(fabric: &TcpFabric) -> Duration {
    let killed = Instant::now();
    while fabric.ports(0) != Ports::Closed {
        assert!(killed.elapsed() < LIMIT, "none is left, and that is not seen: {:?}", fabric.ports(0));
        fabric.probe(0);
        fabric.progress();
    }
    killed.elapsed()
}

/// Nobody has the agent's role, and somebody lives.
fn look_at_ports(fabric: &TcpFabric, span: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < span {
        fabric.probe(0);
        assert_ne!(fabric.ports(0), Ports::Closed, "somebody lives");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn agents_are_killed_and_what_was_asked_is_executed_once_and_in_order() {
    const TEST: &str = "agents_are_killed_and_what_was_asked_is_executed_once_and_in_order";
    if role().is_some() {
        return serve_in_turn();
    }
    let seed = fresh_seed();
    println!("seed {seed}");
    let _named = Named::new("agents", TEST, seed);
    let mut random = Seeded::new(seed);
    for engine in [TcpEngine::Sockets, TcpEngine::IoUring] {
        match engine.probe() {
            Ok(()) => (0..3).for_each(|_| kill_each_agent_in_turn(TEST, engine, &mut random)),
            Err(error) => println!("not run: {error}"),
        }
    }
}

/// A rank that meets the others until that fails, says how, and meets those that are left.
fn meet_until_somebody_fails() {
    let job = Job::from_env().expect("a job");
    let world = job.world();
    world.barrier().expect("all are there");
    answer("ready");
    match (0..).find_map(|_| world.barrier().err()).expect("some barrier fails") {
        BarrierError::RankFailed { ranks, causes, .. } => answer(format!("{ranks:?} {causes:?}")),
        other => answer(format!("{other:?}")),
    }
    let rest = world.shrink(LIMIT).expect("some are left");
    rest.barrier().expect("all of them live");
    answer(format!("{:?}", rest.ranks()));
    await_line();
}

/// Two nodes of two ranks, all of which have met.
fn two_nodes_of_two(test: &str, timeout_ms: u32) -> (Across, Children) {
    let across = Across::new(&[0, 0, 1, 1]);
    let mut children = across.start(test, &[("PHALANX_FAILURE_TIMEOUT_MS", &timeout_ms.to_string())]);
    (0..4).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
    (across, children)
}

/// Though silence is allowed for longer than this test: closed ports are a proof.
#[test]
fn a_node_of_several_ranks_that_are_all_killed_is_gone_before_any_time_out() {
    const TEST: &str = "a_node_of_several_ranks_that_are_all_killed_is_gone_before_any_time_out";
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    let (_across, mut children) = two_nodes_of_two(TEST, 600_000);
    // The one is not to say that the other is dead.
    children.stop(3);
    let killed = Instant::now();
    [2, 3].into_iter().for_each(|rank| children.kill(rank));
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "[2, 3] [Gone, Gone]"));
    println!("told after {} ms", killed.elapsed().as_millis());
    (0..2).for_each(|rank| assert_eq!(children.next_answer(rank), "[0, 1]"));
    (0..2).for_each(|rank| children.say(rank, "leave"));
}

/// The agent is killed while the next in line is stopped, for longer than the time-out.
#[test]
fn a_node_whose_role_takes_long_to_pass_is_not_taken_for_gone() {
    const TEST: &str = "a_node_whose_role_takes_long_to_pass_is_not_taken_for_gone";
    const TIMEOUT_MS: u32 = 2_000;
    if role().is_some() {
        return meet_until_somebody_fails();
    }
    let (_across, mut children) = two_nodes_of_two(TEST, TIMEOUT_MS);
    children.stop(3);
    children.kill(2);
    // After twice the time-out it would be silent.
    std::thread::sleep(Duration::from_millis(u64::from(TIMEOUT_MS) * 5 / 4));
    children.signal(3, Signal::CONT);
    for expected in ["[2] [Killed { signal: 9 }]", "[0, 1, 3]"] {
        [0, 1, 3].into_iter().for_each(|rank| assert_eq!(children.next_answer(rank), expected, "rank {rank}"));
    }
    [0, 1, 3].into_iter().for_each(|rank| children.say(rank, "leave"));
}
