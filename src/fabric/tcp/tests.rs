//! Two and more processes' worth of connections in one: who dials whom, what breaks, who is refused. All by each
//! engine. `agents` has nodes of several ranks.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Peer, Services, TcpEngine, TcpFabric};
use crate::fabric::node::NodeLayout;
use crate::fabric::shm::Segment;
use crate::fabric::{Await, Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use crate::handshake::Key;
use crate::sync::{AtomicU64, Ordering};

/// A word that tests may use.
const AT: WordAt = WordAt(4096);
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    fabric: TcpFabric,
    memory: Arc<Segment>,
}

fn segment() -> Arc<Segment> {
    Arc::new(Segment::create(NodeLayout::new(1, 1 << 14), 1, 1).expect("memory"))
}

fn services(rank: usize, size: usize, here: usize) -> Services {
    Services { rank, size, here, key: Key::new([3; 32]) }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn peers_of(listeners: &[TcpListener], words: usize) -> Vec<Peer> {
    let peer =
        |(rank, listener): (usize, &TcpListener)| Peer::alone(rank, listener.local_addr().expect("an address"), words);
    listeners.iter().enumerate().map(peer).collect()
}

fn nodes(count: usize, engine: TcpEngine) -> Vec<Node> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| listener()).collect();
    let memories: Vec<Arc<Segment>> = (0..count).map(|_| segment()).collect();
    let peers = peers_of(&listeners, memories[0].words());
    let node = |(here, (listener, memory)): (usize, (TcpListener, Arc<Segment>))| {
        let served: Arc<Segment> = Arc::clone(&memory);
        let fabric = TcpFabric::with_engine(services(here, count, here), served, peers.clone(), Some(listener), engine)
            .expect("a fabric");
        Node { fabric, memory }
    };
    listeners.into_iter().zip(memories).enumerate().map(node).collect()
}

fn value(fabric: &TcpFabric, ticket: Ticket) -> Result<u64, OperationError> {
    let start = Instant::now();
    loop {
        fabric.progress();
        if let Poll::Ready(value) = fabric.take(ticket) {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "no answer");
    }
}

/// The engines of this machine.
fn engines() -> Vec<TcpEngine> {
    match TcpEngine::IoUring.probe() {
        Ok(()) => vec![TcpEngine::Sockets, TcpEngine::IoUring],
        Err(error) => {
            println!("not run: {error}");
            vec![TcpEngine::Sockets]
        }
    }
}

macro_rules! by_each_engine {
    ($($test:ident),* $(,)?) => {
        mod by_each_engine {
            $(#[test]
            fn $test() {
                super::engines().into_iter().for_each(super::$test);
            })*
        }
    };
}

// Behind the macro, which it uses, too.
mod agents;

by_each_engine!(
    a_node_that_computes_is_served_by_its_thread,
    agents_send_each_other_letters,
    both_may_dial_at_once,
    a_waiter_that_sleeps_is_woken_by_what_comes_in,
    sleepers_are_told_what_another_thread_has_taken_in,
    who_is_asked_again_and_again_stays_awake,
    who_stays_awake_sees_what_others_change,
    who_stays_awake_goes_on_when_its_time_is_over,
    a_guest_asks_and_is_answered,
    what_is_outstanding_when_a_node_vanishes_is_lost_and_later_posts_fail,
    garbage_after_a_handshake_ends_that_connection_only,
    threads_that_poll_by_turns_lose_nothing,
    a_fan_out_leaves_when_it_is_flushed,
    what_nobody_reads_waits_and_comes_whole,
    a_ring_that_breaks_loses_nothing,
);

/// Letters are read in order and answered by the threads of nodes that compute.
fn agents_send_each_other_letters(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    let (sender, received) = std::sync::mpsc::channel();
    nodes[1].fabric.read_letters(Box::new(move |node, letter| {
        assert_eq!(node, 0);
        Some(letter.map(|word| !word))
    }));
    nodes[0].fabric.read_letters(Box::new(move |node, letter| {
        sender.send((node, *letter)).expect("the test waits");
        None
    }));
    let letter = |number: u64| std::array::from_fn(|index| number << 8 | index as u64);
    for number in 0..100 {
        nodes[0].fabric.send_letter(1, &letter(number)).expect("room");
        nodes[0].fabric.write(1, AT, number).expect("room");
    }
    for number in 0..100 {
        let answer = letter(number).map(|word| !word);
        assert_eq!(received.recv_timeout(PATIENCE), Ok((1, answer)), "letter {number}");
    }
    await_word(&nodes[1], 99);
}

fn a_node_that_computes_is_served_by_its_thread(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    nodes[0].fabric.write(1, AT, 7).expect("room");
    let old = nodes[0].fabric.fetch_add(1, AT, 3).expect("room");
    assert_eq!(value(&nodes[0].fabric, old), Ok(7));
    assert_eq!(nodes[1].memory.word(AT).load(Ordering::Acquire), 10);
}

fn both_may_dial_at_once(engine: TcpEngine) {
    for _ in 0..50 {
        let nodes = nodes(2, engine);
        let tickets: Vec<Ticket> = (0..2).map(|me| nodes[me].fabric.fetch_add(1 - me, AT, 1).expect("room")).collect();
        for (me, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(value(&nodes[me].fabric, ticket), Ok(0));
        }
        assert_eq!((nodes[0].fabric.incarnation(1), nodes[1].fabric.incarnation(0)), (1, 1));
    }
}

fn a_waiter_that_sleeps_is_woken_by_what_comes_in(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while nodes[1].memory.word(AT).load(Ordering::Acquire) == 0 {
                assert!(nodes[1].fabric.sleep(AT, 0, 0, None), "this process speaks for its node");
                nodes[1].fabric.progress();
            }
        });
        nodes[0].fabric.write(1, AT, 1).expect("room");
        sleeper.join().expect("woken");
    });
}

/// Two threads of a process sleep, each on a word of its own, while a third polls all the time and takes everything in.
fn sleepers_are_told_what_another_thread_has_taken_in(engine: TcpEngine) {
    tell_sleepers(engine, Duration::ZERO);
    tell_sleepers(engine, Duration::from_micros(50));
}

fn tell_sleepers(engine: TcpEngine, attention: Duration) {
    const ROUNDS: u64 = 300;
    let nodes = nodes(2, engine);
    nodes[1].fabric.stay_awake_for(attention);
    let (is_over, started) = (AtomicU64::new(0), Instant::now());
    let wait_for = |at: WordAt, round: u64| {
        let begun = Instant::now();
        loop {
            let seen = nodes[1].memory.word(at).load(Ordering::Acquire);
            if seen >= round {
                return;
            }
            assert!(nodes[1].fabric.sleep(at, seen, 0, Some(PATIENCE)), "this process speaks for its node");
            assert!(begun.elapsed() < PATIENCE / 2, "word {at:?} of round {round} has come long ago");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while is_over.load(Ordering::Relaxed) < 2 && started.elapsed() < 3 * PATIENCE {
                nodes[1].fabric.progress();
                std::thread::yield_now();
            }
        });
        for index in 0..2 {
            let (wait_for, is_over, fabric) = (&wait_for, &is_over, &nodes[1].fabric);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    wait_for(AT.plus(index), round);
                    // The other node goes on when both have seen it.
                    fabric.write(0, AT.plus(index), round).expect("room");
                }
                is_over.fetch_add(1, Ordering::Relaxed);
            });
        }
        for round in 1..=ROUNDS {
            for index in 0..2 {
                nodes[0].fabric.write(1, AT.plus(index), round).expect("room");
            }
            let begun = Instant::now();
            while (0..2).any(|index| nodes[0].memory.word(AT.plus(index)).load(Ordering::Acquire) < round) {
                nodes[0].fabric.progress();
                assert!(begun.elapsed() < 2 * PATIENCE, "round {round} is not answered");
            }
        }
    });
}

/// As often as a node looks at its connections: while it sleeps, not at all.
fn looks(node: &Node) -> u32 {
    node.fabric.shared.engine().turns()
}

/// Asks a node, which is asleep or about to be, until it goes on looking by itself. Whether it does.
fn can_be_kept_awake(nodes: &[Node]) -> bool {
    const LOOKS: u32 = 1000;
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < PATIENCE {
        let old = nodes[0].fabric.fetch_add(1, AT, 1).expect("room");
        assert_eq!(value(&nodes[0].fabric, old), Ok(asked));
        asked += 1;
        let (seen, calm) = (looks(&nodes[1]), Instant::now());
        // Who is woken looks a few times.
        while calm.elapsed() < Duration::from_millis(5) {
            if looks(&nodes[1]).wrapping_sub(seen) > LOOKS {
                return true;
            }
        }
    }
    false
}

fn is_so_before_long(is_so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    is_so()
}

fn who_is_asked_again_and_again_stays_awake(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    nodes[1].fabric.stay_awake_for(PATIENCE * 1000);
    let (end, fabric) = (AT.plus(1), &nodes[1].fabric);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while nodes[1].memory.word(end).load(Ordering::Acquire) == 0 {
                assert!(fabric.sleep(end, 0, 0, None), "this process speaks for its node");
            }
        });
        let is_awake = can_be_kept_awake(&nodes);
        nodes[0].fabric.write(1, end, 1).expect("room");
        assert!(is_awake, "it sleeps, whatever it is asked");
    });
}

fn who_stays_awake_sees_what_others_change(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    nodes[1].fabric.stay_awake_for(PATIENCE * 1000);
    let (end, fabric) = (AT.plus(1), &nodes[1].fabric);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while nodes[1].memory.word(end).load(Ordering::Acquire) == 0 {
                assert!(fabric.sleep(end, 0, 0, None), "this process speaks for its node");
            }
        });
        let is_awake = can_be_kept_awake(&nodes);
        // By another rank of its node: no connection tells of it.
        nodes[1].memory.word(end).store(1, Ordering::Release);
        let has_seen = is_so_before_long(|| sleeper.is_finished());
        fabric.rouse();
        assert!(is_awake && has_seen, "it stays awake: {is_awake}; it sees the word: {has_seen}");
    });
}

fn who_stays_awake_goes_on_when_its_time_is_over(engine: TcpEngine) {
    const NAP: Duration = Duration::from_millis(500);
    let nodes = nodes(2, engine);
    nodes[1].fabric.stay_awake_for(PATIENCE * 1000);
    let (is_over, naps) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while is_over.load(Ordering::Acquire) == 0 {
                nodes[1].fabric.nap(0, NAP);
                naps.fetch_add(1, Ordering::Release);
            }
        });
        let is_awake = can_be_kept_awake(&nodes);
        let before = naps.load(Ordering::Acquire);
        let has_ended = is_so_before_long(|| naps.load(Ordering::Acquire) > before);
        is_over.store(1, Ordering::Release);
        nodes[1].fabric.rouse();
        assert!(is_awake && has_ended, "it stays awake: {is_awake}; its nap ends: {has_ended}");
    });
}

fn a_guest_asks_and_is_answered(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    let peers = nodes[0].fabric.shared.peers.to_vec();
    // Rank 2 lives on node 0 and speaks for nobody; its size is the others'.
    let guest = TcpFabric::with_engine(services(1, 2, 0), segment(), peers, None, engine).expect("a fabric");
    let ticket = guest.fetch_add(1, AT, 5).expect("room");
    // Rank 1 is node 1's own: it cannot be a link of another process too.
    assert_eq!(value(&guest, ticket), Ok(0));
    assert!(!guest.sleep(AT, 0, 0, None), "nothing comes in by a guest's connections");
}

fn what_is_outstanding_when_a_node_vanishes_is_lost_and_later_posts_fail(engine: TcpEngine) {
    let mut nodes = nodes(2, engine);
    let ticket = nodes[0].fabric.read(1, AT).expect("room");
    assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    // The other end's thread holds still while its lock is held.
    let gone = nodes.pop().expect("two nodes");
    let ticket = {
        let _held = gone.fabric.shared.engine();
        nodes[0].fabric.read(1, AT).expect("room")
    };
    drop(gone);
    match value(&nodes[0].fabric, ticket) {
        Ok(0) | Err(OperationError::Lost { node: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    loop {
        match nodes[0].fabric.read(1, AT) {
            Err(PostError::Unreachable { node: 1, why }) => break assert!(!why.is_empty()),
            Err(other) => panic!("{other:?}"),
            Ok(ticket) => assert!(value(&nodes[0].fabric, ticket).is_err()),
        }
        assert!(start.elapsed() < PATIENCE);
    }
}

fn garbage_after_a_handshake_ends_that_connection_only(engine: TcpEngine) {
    let nodes = nodes(2, engine);
    let ticket = nodes[0].fabric.read(1, AT).expect("room");
    assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    let address = nodes[1].fabric.shared.peers[1].candidates[0].addresses().next().expect("one");
    let claim = crate::handshake::Claim { purpose: crate::handshake::Purpose::Fabric, rank: 1, size: 2, peer: 1 };
    let mut client = crate::handshake::Client::new(&Key::new([3; 32]), &claim).expect("random numbers");
    let mut stream = TcpStream::connect(address).expect("a listener");
    crate::handshake::prove(&stream, &mut client, Instant::now() + PATIENCE).expect("the right key");
    // A ring receives from it, and refers to the socket.
    nodes[1].fabric.progress();
    stream.write_all(&[0xff; 64]).expect("room");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // A ring's work on its owner's behalf interrupts the owner's calls.
    let read = loop {
        match std::io::Read::read(&mut stream, &mut [0; 8]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    match read {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
    let ticket = nodes[0].fabric.fetch_add(1, AT, 1).expect("room");
    assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    assert_eq!(nodes[0].fabric.incarnation(1), 1);
}

/// A ring has one owner: what it, other threads and the background thread take in must still be one stream.
fn threads_that_poll_by_turns_lose_nothing(engine: TcpEngine) {
    (0..2).for_each(|first| poll_by_turns(engine, first));
}

/// Of two kinds of threads the ones of kind 0 go on living.
fn poll_by_turns(engine: TcpEngine, first: u64) {
    const EACH: u64 = 40;
    let nodes = nodes(2, engine);
    for turn in 0..30 {
        let ask = || {
            for step in 0..EACH {
                let ticket = nodes[0].fabric.fetch_add(1, AT, 1).expect("room");
                assert_eq!(value(&nodes[0].fabric, ticket), Ok(turn * EACH + step));
                if step % 7 == turn % 7 {
                    nodes[usize::from(step % 2 == 1)].fabric.hand_over();
                }
                if step % 3 == 0 {
                    nodes[1].fabric.progress();
                }
            }
        };
        // The first that asks becomes the ring's owner: one that goes on living, or one that ends at once.
        match (turn + first) % 2 {
            0 => ask(),
            _ => std::thread::scope(|scope| scope.spawn(ask).join().expect("no panic")),
        }
    }
    assert_eq!((nodes[0].fabric.incarnation(1), nodes[1].fabric.incarnation(0)), (1, 1));
}

fn await_word(node: &Node, expected: u64) {
    let start = Instant::now();
    while node.memory.word(AT).load(Ordering::Acquire) != expected {
        assert!(start.elapsed() < PATIENCE, "{} instead of {expected}", node.memory.word(AT).load(Ordering::Acquire));
        std::thread::yield_now();
    }
}

/// Without anybody polling.
fn a_fan_out_leaves_when_it_is_flushed(engine: TcpEngine) {
    let nodes = nodes(4, engine);
    for node in 1..4 {
        let ticket = nodes[0].fabric.read(node, AT).expect("room");
        assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    }
    for step in 1..20 {
        for node in 1..4 {
            // Twice to each: what waits is sent once.
            for _ in 0..2 {
                let mut tickets = Vec::new();
                let add = Request::FetchAdd { at: AT, add: 1 };
                nodes[0].fabric.post_more(node, &[add], &mut tickets).expect("room");
                nodes[0].fabric.forget(tickets[0]);
            }
        }
        nodes[0].fabric.flush();
        nodes[1..].iter().for_each(|node| await_word(node, 2 * step));
    }
}

fn what_nobody_reads_waits_and_comes_whole(engine: TcpEngine) {
    const WORDS: u64 = 4096;
    let word_of = |value: u64| AT.plus(usize::try_from(value % WORDS).expect("small"));
    let nodes = nodes(3, engine);
    for node in 1..3 {
        let ticket = nodes[0].fabric.read(node, AT).expect("room");
        assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    }
    let mut posted = [0; 2];
    {
        let _held = (nodes[1].fabric.shared.engine(), nodes[2].fabric.shared.engine());
        let mut is_full = false;
        while !is_full {
            is_full = true;
            for node in 1..3 {
                // As much as may wait, so that the kernel takes a part of it in the end.
                loop {
                    let value = |more| posted[node - 1] + more;
                    let write = |more| Request::Write { at: word_of(value(more)), value: value(more) };
                    let batch: Vec<Request> = (1..=64).map(write).collect();
                    match nodes[0].fabric.post_more(node, &batch, &mut Vec::new()) {
                        Ok(()) => (posted[node - 1], is_full) = (posted[node - 1] + 64, false),
                        Err(PostError::Full { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            nodes[0].fabric.flush();
        }
    }
    for node in 1..3 {
        let (start, last) = (Instant::now(), posted[node - 1]);
        while nodes[node].memory.word(word_of(last)).load(Ordering::Acquire) != last {
            assert!(start.elapsed() < PATIENCE, "the last of {last} writes");
            nodes[0].fabric.progress();
        }
        assert!(last > WORDS);
        for value in last - WORDS + 1..=last {
            assert_eq!(nodes[node].memory.word(word_of(value)).load(Ordering::Relaxed), value);
        }
    }
    assert_eq!(nodes[0].fabric.incarnation(1), 1);
}

fn a_ring_that_breaks_loses_nothing(engine: TcpEngine) {
    let nodes = nodes(3, engine);
    for step in 0..100 {
        if step == 50 {
            nodes[0].fabric.shared.engine().break_ring();
        }
        let mut tickets = Vec::new();
        for node in 1..3 {
            let add = Request::FetchAdd { at: AT, add: 1 };
            nodes[0].fabric.post_more(node, &[add], &mut tickets).expect("room");
        }
        nodes[0].fabric.flush();
        nodes[1..].iter().for_each(|node| await_word(node, step + 1));
        tickets.into_iter().for_each(|ticket| assert_eq!(value(&nodes[0].fabric, ticket), Ok(step)));
    }
    assert_eq!((nodes[0].fabric.incarnation(1), nodes[0].fabric.incarnation(2)), (1, 1));
}
