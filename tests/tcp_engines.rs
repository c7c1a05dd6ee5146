//! Which engine of the TCP fabric is quicker, at 2, 8 and 32 nodes: the figures in docs/design.md, "Two engines for
//! TCP".
//!
//! ```text
//! cargo test --release --test tcp_engines -- --ignored --nocapture
//! ```
//!
//! Each node is a thread with a fabric of its own. In a meeting each writes to others and waits for what they write, by
//! the rules that barriers wait by. Two kinds: *rounds*, dissemination with one message at a time, and *mesh*, one
//! message to every other node at once. Both engines take turns in each of `PHALANX_ENGINE_ROUNDS` rounds (default 11).
#![cfg(not(model))]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use phalanx::TcpEngine;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::shm::Segment;
use phalanx::fabric::tcp::{Peer, Services, TcpFabric};
use phalanx::fabric::{Await, Fabric, Memory, Request, WordAt};
use phalanx::handshake::Key;

/// How long the threads of one measurement meet.
const SPAN: Duration = Duration::from_millis(250);
/// Meetings before the first that counts.
const WARM_UP: u64 = 50;
/// Between two looks at the network, where each node has a CPU.
const BETWEEN_LOOKS: Duration = Duration::from_nanos(300);
/// How long a node polls before it sleeps.
const POLLS_FOR: Duration = Duration::from_micros(200);

#[derive(Clone, Copy)]
enum Kind {
    Rounds,
    Mesh,
}

impl Kind {
    /// The distances to which a node writes, round by round.
    fn rounds(self, nodes: usize) -> Vec<Vec<usize>> {
        match self {
            Self::Mesh => vec![(1..nodes).collect()],
            Self::Rounds => (0..).map(|round| vec![1 << round]).take_while(|round| round[0] < nodes).collect(),
        }
    }
}

struct Node {
    fabric: TcpFabric,
    memory: Arc<Segment>,
    here: usize,
    first: WordAt,
    has_own_cpu: bool,
}

impl Node {
    /// A node with a CPU of its own stays there, as a launcher would have it.
    fn pin(&self) {
        if self.has_own_cpu {
            let allowed = rustix::thread::sched_getaffinity(None).expect("this thread has CPUs");
            let mut own = rustix::thread::CpuSet::new();
            let mut all = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
            own.set(all.nth(self.here).expect("as many CPUs as nodes"));
            rustix::thread::sched_setaffinity(None, &own).expect("one of its own CPUs");
        }
    }

    fn meet(&self, rounds: &[Vec<usize>], sequence: u64) {
        let nodes = self.fabric.nodes();
        for distances in rounds {
            for distance in distances {
                let request = Request::Write { at: self.first.plus(distance - 1), value: sequence };
                self.fabric.post_more((self.here + distance) % nodes, &[request], &mut Vec::new()).expect("room");
            }
            self.fabric.flush();
            distances.iter().for_each(|distance| self.await_word(self.first.plus(distance - 1), sequence));
        }
    }

    fn await_word(&self, at: WordAt, sequence: u64) {
        let begun = Instant::now();
        loop {
            let seen = self.memory.word(at).load(Ordering::Acquire);
            if seen >= sequence {
                return;
            }
            if begun.elapsed() > POLLS_FOR {
                self.fabric.sleep(at, seen, 0, None);
            } else if self.has_own_cpu {
                let until = Instant::now() + BETWEEN_LOOKS;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            } else {
                std::thread::yield_now();
            }
            self.fabric.progress();
        }
    }
}

fn nodes(count: usize, engine: TcpEngine) -> Vec<Node> {
    let layout = NodeLayout::new(1, 8 * UNIT_WORDS);
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let peer = |(rank, listener): (usize, &TcpListener)| {
        Peer::alone(rank, listener.local_addr().expect("an address"), layout.words())
    };
    let peers: Vec<Peer> = listeners.iter().enumerate().map(peer).collect();
    let key = Key::random().expect("random numbers");
    let has_own_cpu = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= count);
    let node = |(here, listener)| {
        let memory = Arc::new(Segment::create(layout, 1, 1).expect("memory"));
        let services = Services { rank: here, size: count, here, key: key.clone() };
        let served: Arc<Segment> = Arc::clone(&memory);
        let fabric = TcpFabric::with_engine(services, served, peers.clone(), Some(listener), engine);
        Node { fabric: fabric.expect("an engine"), memory, here, first: layout.unit(0), has_own_cpu }
    };
    listeners.into_iter().enumerate().map(node).collect()
}

/// What a meeting takes, in microseconds.
#[derive(Clone, Copy)]
struct Cost {
    /// Node 0's median.
    time: f64,
    /// The CPU time of all nodes together, which other programs on the machine disturb less.
    cpu: f64,
}

impl Cost {
    fn time(&self) -> f64 {
        self.time
    }

    fn cpu(&self) -> f64 {
        self.cpu
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a time that has passed")
}

fn measure(count: usize, engine: TcpEngine, kind: Kind) -> Cost {
    let rounds = kind.rounds(count);
    let (begin, last) = (Barrier::new(count), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        let run = |node: Node| {
            let (rounds, begin, last) = (&rounds, &begin, &last);
            scope.spawn(move || {
                node.pin();
                begin.wait();
                let cost = meet_for_a_while(&node, rounds, last);
                // Nobody leaves while others are at it.
                begin.wait();
                cost
            })
        };
        let threads: Vec<_> = nodes(count, engine).into_iter().map(run).collect();
        let costs: Vec<Cost> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        costs[0]
    })
}

/// Meets until node 0 has had enough. It says so before a meeting, so that all know it after that.
fn meet_for_a_while(node: &Node, rounds: &[Vec<usize>], last: &AtomicU64) -> Cost {
    (1..=WARM_UP).for_each(|sequence| node.meet(rounds, sequence));
    let (started, cpu) = (Instant::now(), cpu_time());
    let mut times = Vec::new();
    for sequence in WARM_UP + 1.. {
        if sequence > last.load(Ordering::SeqCst) {
            break;
        }
        if node.here == 0 && started.elapsed() >= SPAN {
            let _ = last.compare_exchange(u64::MAX, sequence + 1, Ordering::SeqCst, Ordering::SeqCst);
        }
        let begun = Instant::now();
        node.meet(rounds, sequence);
        times.push(begun.elapsed().as_nanos() as f64 / 1e3);
    }
    let cpu = (cpu_time() - cpu).as_nanos() as f64 / 1e3 / times.len() as f64;
    Cost { time: median(times), cpu }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The medians of both engines, and of what the ring takes for each unit of the sockets in the same round.
fn compare(costs: &[Vec<Cost>; 2], part: fn(&Cost) -> f64) -> String {
    let [sockets, ring] = costs.each_ref().map(|costs| median(costs.iter().map(part)));
    let ratio = median(costs[0].iter().zip(&costs[1]).map(|(sockets, ring)| part(ring) / part(sockets)));
    format!("{sockets:7.1} us by sockets, {ring:7.1} us by io-uring, ratio {ratio:.2}")
}

#[test]
#[ignore = "a measurement: takes a minute and wants the machine for itself"]
fn which_engine_is_quicker() {
    let rounds = std::env::var("PHALANX_ENGINE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(11);
    for (kind, name) in [(Kind::Rounds, "rounds"), (Kind::Mesh, "mesh")] {
        for count in [2, 8, 32] {
            let mut costs = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                let mut engines = [(0, TcpEngine::Sockets), (1, TcpEngine::IoUring)];
                engines.rotate_left(round % 2);
                engines.into_iter().for_each(|(index, engine)| costs[index].push(measure(count, engine, kind)));
            }
            println!("{name:6} {count:2} nodes, p50: {}", compare(&costs, Cost::time));
            println!("{name:6} {count:2} nodes, CPU: {}", compare(&costs, Cost::cpu));
        }
    }
}
