//! Two and more processes' worth of connections in one: who dials whom, what breaks, who is refused.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Peer, Services, TcpFabric};
use crate::fabric::node::NodeLayout;
use crate::fabric::shm::Segment;
use crate::fabric::{Await, Fabric, Memory, OperationError, PostError, Ticket, WordAt};
use crate::handshake::Key;
use crate::sync::Ordering;

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
    let peer = |(rank, listener): (usize, &TcpListener)| Peer {
        rank,
        addresses: vec![listener.local_addr().expect("an address")],
        words,
    };
    listeners.iter().enumerate().map(peer).collect()
}

fn nodes(count: usize) -> Vec<Node> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| listener()).collect();
    let memories: Vec<Arc<Segment>> = (0..count).map(|_| segment()).collect();
    let peers = peers_of(&listeners, memories[0].words());
    let node = |(here, (listener, memory)): (usize, (TcpListener, Arc<Segment>))| {
        let served: Arc<Segment> = Arc::clone(&memory);
        let fabric =
            TcpFabric::new(services(here, count, here), served, peers.clone(), Some(listener)).expect("a fabric");
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

#[test]
fn a_node_that_computes_is_served_by_its_thread() {
    let nodes = nodes(2);
    nodes[0].fabric.write(1, AT, 7).expect("room");
    let old = nodes[0].fabric.fetch_add(1, AT, 3).expect("room");
    assert_eq!(value(&nodes[0].fabric, old), Ok(7));
    assert_eq!(nodes[1].memory.word(AT).load(Ordering::Acquire), 10);
}

#[test]
fn both_may_dial_at_once() {
    for _ in 0..50 {
        let nodes = nodes(2);
        let tickets: Vec<Ticket> = (0..2).map(|me| nodes[me].fabric.fetch_add(1 - me, AT, 1).expect("room")).collect();
        for (me, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(value(&nodes[me].fabric, ticket), Ok(0));
        }
        assert_eq!((nodes[0].fabric.incarnation(1), nodes[1].fabric.incarnation(0)), (1, 1));
    }
}

#[test]
fn a_waiter_that_sleeps_is_woken_by_what_comes_in() {
    let nodes = nodes(2);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while nodes[1].memory.word(AT).load(Ordering::Acquire) == 0 {
                assert!(nodes[1].fabric.sleep(AT, 0, None), "this process speaks for its node");
                nodes[1].fabric.progress();
            }
        });
        nodes[0].fabric.write(1, AT, 1).expect("room");
        sleeper.join().expect("woken");
    });
}

#[test]
fn a_guest_asks_and_is_answered() {
    let nodes = nodes(2);
    let peers = nodes[0].fabric.shared.peers.to_vec();
    // Rank 2 lives on node 0 and speaks for nobody; its size is the others'.
    let guest = TcpFabric::new(services(1, 2, 0), segment(), peers, None).expect("a fabric");
    let ticket = guest.fetch_add(1, AT, 5).expect("room");
    // Rank 1 is node 1's own: it cannot be a link of another process too.
    assert_eq!(value(&guest, ticket), Ok(0));
    assert!(!guest.sleep(AT, 0, None), "nothing comes in by a guest's connections");
}

#[test]
fn what_is_outstanding_when_a_node_vanishes_is_lost_and_later_posts_fail() {
    let mut nodes = nodes(2);
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

#[test]
fn garbage_after_a_handshake_ends_that_connection_only() {
    let nodes = nodes(2);
    let ticket = nodes[0].fabric.read(1, AT).expect("room");
    assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    let address = nodes[1].fabric.shared.peers[1].addresses[0];
    let claim = crate::handshake::Claim { purpose: crate::handshake::Purpose::Fabric, rank: 1, size: 2, peer: 1 };
    let mut client = crate::handshake::Client::new(&Key::new([3; 32]), &claim).expect("random numbers");
    let mut stream = TcpStream::connect(address).expect("a listener");
    crate::handshake::prove(&stream, &mut client, Instant::now() + PATIENCE).expect("the right key");
    stream.write_all(&[0xff; 64]).expect("room");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    assert!(matches!(std::io::Read::read(&mut stream, &mut [0; 8]), Ok(0) | Err(_)), "closed");
    let ticket = nodes[0].fabric.fetch_add(1, AT, 1).expect("room");
    assert_eq!(value(&nodes[0].fabric, ticket), Ok(0));
    assert_eq!(nodes[0].fabric.incarnation(1), 1);
}
