//! Nodes of several ranks: the agent's role passes on, and whoever has failed is shut out. By each engine.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::{AT, PATIENCE, engines, segment, services, value};
use crate::fabric::shm::Segment;
use crate::fabric::tcp::link::DIAL_LIMIT;
use crate::fabric::tcp::{Candidate, Door, Peer, Ports, TcpEngine, TcpFabric};
use crate::fabric::{Await, Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use crate::handshake::{Claim, Client, HandshakeError, Key, Purpose, Verdict, prove};
use crate::sync::Ordering;

/// Ranks of several nodes in one process. Node 0's come first.
struct Job {
    memories: Vec<Arc<Segment>>,
    ranks: Vec<Option<TcpFabric>>,
    peers: Vec<Peer>,
}

impl Job {
    /// So many ranks on each node; the first of each is its agent.
    fn new(counts: &[usize], engine: TcpEngine) -> Self {
        Self::at(&[Ipv4Addr::LOCALHOST], counts, engine)
    }

    /// As others believe, each node is at all of some hosts. It is at 127.0.0.1.
    fn at(hosts: &[Ipv4Addr], counts: &[usize], engine: TcpEngine) -> Self {
        let hosts: Arc<[IpAddr]> = hosts.iter().copied().map(IpAddr::from).collect();
        let memories: Vec<Arc<Segment>> = counts.iter().map(|_| segment()).collect();
        let size = counts.iter().sum();
        let mut doors = Vec::new();
        let mut peers = Vec::new();
        for count in counts {
            let first = doors.len();
            doors.extend((0..*count).map(|_| Door::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port")));
            doors[first].open().expect("its own port");
            let candidate = |rank: usize| Candidate {
                rank,
                hosts: Arc::clone(&hosts),
                port: doors[rank].local_addr().expect("it is bound").port(),
            };
            peers.push(Peer { candidates: (first..doors.len()).map(candidate).collect(), words: memories[0].words() });
        }
        let nodes = counts.iter().enumerate().flat_map(|(node, count)| std::iter::repeat_n(node, *count));
        let join = |(rank, (door, node)): (usize, (Door, usize))| {
            let memory: Arc<Segment> = Arc::clone(&memories[node]);
            let fabric = TcpFabric::with_engine(services(rank, size, node), memory, peers.clone(), door, engine);
            Some(fabric.expect("a fabric"))
        };
        let ranks = doors.into_iter().zip(nodes).enumerate().map(join).collect();
        Self { memories, ranks, peers }
    }

    fn of(&self, rank: usize) -> &TcpFabric {
        self.ranks[rank].as_ref().expect("a rank that lives")
    }

    fn end(&mut self, rank: usize) {
        self.ranks[rank] = None;
    }

    fn word(&self, node: usize, at: WordAt) -> u64 {
        self.memories[node].word(at).load(Ordering::Acquire)
    }

    fn address_of(&self, node: usize, candidate: usize) -> SocketAddr {
        self.peers[node].candidates[candidate].addresses().next().expect("a host")
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// Adds 1 until a connection bears it; what it found.
fn add_at_last(fabric: &TcpFabric, node: usize) -> u64 {
    let begun = Instant::now();
    loop {
        let posted = fabric.fetch_add(node, AT, 1).map(|ticket| value(fabric, ticket));
        if let Ok(Ok(found)) = posted {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{posted:?}");
    }
}

fn add(fabric: &TcpFabric, node: usize) -> Result<u64, OperationError> {
    value(fabric, fabric.fetch_add(node, AT, 1).expect("room"))
}

fn is_unreachable(posted: Result<Ticket, PostError>, words: &str) -> bool {
    matches!(&posted, Err(PostError::Unreachable { why, .. }) if why.contains(words))
}

by_each_engine!(
    peers_follow_the_role_to_the_next_rank,
    what_is_posted_while_the_role_passes_on_is_executed_once_by_the_next,
    the_next_agent_keeps_what_it_has_on_its_way,
    a_new_agent_takes_the_place_of_one_that_does_not_answer,
    who_spoke_last_is_dialled_before_the_others,
    a_rank_that_is_not_agent_sends_everybody_away_at_once,
    a_rank_that_is_stopped_does_not_hold_up_the_search_for_the_agent,
    a_slow_agent_is_waited_for_though_others_are_tried_first,
    a_node_whose_ranks_are_gone_refuses_and_nothing_else_is_taken_for_that,
    what_an_excluded_guest_has_on_its_way_takes_no_effect,
    an_excluded_agent_is_left_for_the_next,
    an_agent_that_is_given_up_executes_nothing_of_what_it_finds,
    an_excluded_node_is_not_asked_and_not_heard,
    a_watched_word_calls_when_another_node_has_changed_it,
    a_forged_exclusion_is_not_believed,
);

/// Twice over, from rank to rank; the words stay, and so does the order.
fn peers_follow_the_role_to_the_next_rank(engine: TcpEngine) {
    let mut job = Job::new(&[3, 1], engine);
    for agent in 0..3 {
        job.of(agent).become_agent().expect("its own port");
        assert!(job.of(agent).is_agent() && (agent == 2 || !job.of(agent + 1).is_agent()));
        for _ in 0..10 {
            let found = add_at_last(job.of(3), 0);
            assert_eq!(found + 1, job.word(0, AT), "whatever was lost by the way, this was not");
        }
        assert_eq!(job.of(3).incarnation(0), agent as u64 + 1);
        job.end(agent);
    }
    // There is nobody left, and what waits is certainly without effect.
    let before = job.word(0, AT);
    until("refused", || !matches!(job.of(3).fetch_add(0, AT, 1).map(|ticket| value(job.of(3), ticket)), Ok(Ok(_))));
    assert_eq!(job.word(0, AT), before);
}

/// Between two agents nobody lets the peer in; it sees that somebody lives, and what it has posted waits.
fn what_is_posted_while_the_role_passes_on_is_executed_once_by_the_next(engine: TcpEngine) {
    const POSTED: u64 = 100;
    let mut job = Job::new(&[2, 1], engine);
    let peer = job.ranks[2].take().expect("it lives");
    assert_eq!(add(&peer, 0), Ok(0));
    job.end(0);
    // Nobody polls here any more: the background threads do all of it.
    peer.hand_over();
    until("it is seen that the connection broke", || {
        peer.probe(0);
        peer.ports(0) == Ports::Kept
    });
    // By now each attempt ends so.
    let mut tickets: Vec<Ticket> = Vec::new();
    for _ in 0..POSTED {
        let batch = [Request::Write { at: AT.plus(2), value: 7 }, Request::FetchAdd { at: AT, add: 1 }];
        peer.post(0, &batch, &mut tickets).expect("it waits");
    }
    // Longer than the pause after a link has failed.
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(peer.ports(0), Ports::Kept, "never taken for gone");
    job.of(1).become_agent().expect("its own port");
    until("all is executed", || job.word(0, AT) == 1 + POSTED);
    for (number, ticket) in (1..).zip(tickets) {
        assert_eq!(value(&peer, ticket), Ok(number));
    }
    assert_eq!((job.word(0, AT), job.word(0, AT.plus(2))), (1 + POSTED, 7));
    assert_eq!((peer.ports(0), peer.incarnation(0)), (Ports::Unknown, 2));
}

/// What a stranger at `door` is told; the reset may come before its `connect` has returned, or after.
fn hear_a_word(door: SocketAddr) -> std::io::Result<u8> {
    let mut stranger = TcpStream::connect(door)?;
    stranger.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0];
    stranger.read_exact(&mut word)?;
    Ok(word[0])
}

/// A stranger is told nothing, and kept nowhere.
fn a_rank_that_is_not_agent_sends_everybody_away_at_once(engine: TcpEngine) {
    let mut job = Job::new(&[2, 1], engine);
    for number in 0..200 {
        let sent_away = hear_a_word(job.address_of(0, 1)).expect_err("nothing is said");
        assert_eq!(sent_away.kind(), std::io::ErrorKind::ConnectionReset, "stranger {number}");
    }
    let claim = Claim { purpose: Purpose::Fabric, rank: 2, size: 3, peer: 1 };
    match TcpStream::connect(job.address_of(0, 1)) {
        Ok(stream) => {
            let mut client = Client::new(&Key::new([3; 32]), &claim).expect("numbers");
            let sent_away = prove(&stream, &mut client, Instant::now() + PATIENCE);
            assert!(matches!(sent_away, Err(HandshakeError::Closed)), "{sent_away:?}");
        }
        Err(sent_away) => assert_eq!(sent_away.kind(), std::io::ErrorKind::ConnectionReset),
    }
    // And once it is agent it lets in.
    job.end(0);
    job.of(1).become_agent().expect("it has a door");
    assert_eq!(add_at_last(job.of(2), 0), 0);
}

/// The first of three has ended, the second is stopped, the third is agent: found long before a dial is given up.
fn a_rank_that_is_stopped_does_not_hold_up_the_search_for_the_agent(engine: TcpEngine) {
    let mut job = Job::new(&[3, 1], engine);
    job.end(0);
    let stopped = job.of(1).shared.engine();
    job.of(2).become_agent().expect("it has a door");
    let begun = Instant::now();
    // The background threads do it.
    let ticket = job.of(3).fetch_add(0, AT, 1).expect("room");
    let mut taken = Poll::Pending;
    until("answered", || {
        taken = job.of(3).take(ticket);
        taken.is_ready()
    });
    assert_eq!(taken, Poll::Ready(Ok(0)));
    assert!(begun.elapsed() < DIAL_LIMIT, "the stopped one was waited for");
    drop(stopped);
}

/// The agent answers when it has been given up several times, as one does that is far away.
fn a_slow_agent_is_waited_for_though_others_are_tried_first(engine: TcpEngine) {
    let job = Job::new(&[2, 1], engine);
    let slow = job.of(0).shared.engine();
    let ticket = job.of(2).fetch_add(0, AT, 1).expect("room");
    let patience = || job.of(2).shared.engine().patience_with(0);
    let first = patience();
    until("it has more and more patience", || {
        job.of(2).progress();
        patience() >= first * 8
    });
    assert_eq!(job.of(2).ports(0), Ports::Kept);
    drop(slow);
    assert_eq!(value(job.of(2), ticket), Ok(0));
    assert_eq!((patience(), job.of(2).incarnation(0)), (first, 1));
}

/// It has been a guest of the other node's agent, and speaks to it by that connection, which loses nothing. The other
/// one makes its own. Letters go both ways.
fn the_next_agent_keeps_what_it_has_on_its_way(engine: TcpEngine) {
    for (counts, next, other, home, there) in [(&[2, 1], 1, 2, 0, 1), (&[1, 2], 2, 0, 1, 0)] {
        let mut job = Job::new(counts, engine);
        assert_eq!(add(job.of(other), home), Ok(0));
        assert_eq!(add(job.of(next), there), Ok(0));
        let held = job.of(other).shared.engine();
        let posted: Vec<Ticket> = (0..50).map(|_| job.of(next).fetch_add(there, AT, 1).expect("room")).collect();
        job.ranks[next].as_ref().expect("it lives").become_agent().expect("its own port");
        drop(held);
        job.end(if home == 0 { 0 } else { 1 });
        for (number, ticket) in (1..).zip(posted) {
            assert_eq!(value(job.of(next), ticket), Ok(number));
        }
        assert_eq!(add_at_last(job.of(other), home) + 1, job.word(home, AT));
        assert_eq!(add(job.of(next), there), Ok(51));
        assert_eq!((job.of(next).incarnation(there), job.of(other).incarnation(home)), (1, 2));

        let (sender, letters): (_, Receiver<(usize, usize, u64)>) = channel();
        for rank in [next, other] {
            let sender = sender.clone();
            job.of(rank).read_letters(Box::new(move |node, letter| {
                sender.send((rank, node, letter[8])).expect("the test waits");
                (letter[8] == 1).then_some([2; 9])
            }));
        }
        for (from, to, node) in [(next, other, there), (other, next, home)] {
            job.of(from).send_letter(node, &[1; 9]).expect("room");
            assert_eq!(letters.recv_timeout(PATIENCE), Ok((to, if from == next { home } else { there }, 1)));
            assert_eq!(letters.recv_timeout(PATIENCE), Ok((from, node, 2)));
        }
        assert_eq!((job.of(next).incarnation(there), job.of(other).incarnation(home)), (1, 2), "nothing broke");
    }
}

/// The old agent is stopped: its kernel keeps the connection, and answers nothing. The next one comes by itself.
fn a_new_agent_takes_the_place_of_one_that_does_not_answer(engine: TcpEngine) {
    // The peer once as the lower node and once as the higher one.
    for (counts, stopped, next, peer, home, there) in [(&[2, 1], 0, 1, 2, 0, 1), (&[1, 2], 1, 2, 0, 1, 0)] {
        let job = Job::new(counts, engine);
        assert_eq!(add(job.of(peer), home), Ok(0));
        let held = job.of(stopped).shared.engine();
        let asked = job.of(peer).fetch_add(home, AT, 1).expect("room");
        job.of(next).become_agent().expect("its own port");
        assert_eq!(add_uncrossed(job.of(next), there), 0, "let in, as agent");
        assert!(matches!(value(job.of(peer), asked), Err(OperationError::Lost { .. })));
        assert_eq!(add(job.of(peer), home), Ok(1), "what the old one has not read is not executed before it, or is");
        assert_eq!((job.of(peer).incarnation(home), job.of(next).incarnation(there)), (2, 1));
        drop(held);

        // And while the peer dials the old one: what waits goes to the next.
        let job = Job::new(counts, engine);
        let held = job.of(stopped).shared.engine();
        let asked = job.of(peer).fetch_add(home, AT, 1).expect("room");
        job.of(next).become_agent().expect("its own port");
        assert_eq!(add_uncrossed(job.of(next), there), 0);
        assert_eq!(value(job.of(peer), asked), Ok(0));
        assert_eq!((job.of(peer).incarnation(home), job.of(next).incarnation(there)), (1, 1));
        drop(held);
    }
}

/// Adds 1, with some of the node's candidates to be dialled and no others.
fn add_dialling(fabric: &TcpFabric, node: usize, candidates: &[usize]) -> u64 {
    let (ticket, begun) = (fabric.fetch_add(node, AT, 1).expect("room"), Instant::now());
    loop {
        let dialled = fabric.shared.engine().dials(node);
        assert!(dialled.is_none_or(|candidate| candidates.contains(&candidate)), "candidate {dialled:?} is dialled");
        fabric.progress();
        if let Poll::Ready(value) = fabric.take(ticket) {
            return value.expect("the connection holds");
        }
        assert!(begun.elapsed() < PATIENCE, "no answer");
    }
}

/// The first of three is stopped, the second has spoken and ends, the third speaks.
fn who_spoke_last_is_dialled_before_the_others(engine: TcpEngine) {
    let mut job = Job::new(&[3, 1], engine);
    let second = job.ranks[1].take().expect("it lives");
    let stopped = job.of(0).shared.engine();
    second.become_agent().expect("its own port");
    assert_eq!((add(&second, 1), add_dialling(job.of(3), 0, &[])), (Ok(0), 0));
    drop(second);
    until("the connection is seen to be broken", || {
        job.of(3).progress();
        !job.of(3).shared.engine().is_ready(0)
    });
    job.of(2).become_agent().expect("its own port");
    assert_eq!(add_dialling(job.of(3), 0, &[1, 2]), 1);
    drop(stopped);
}

/// Adds 1 without being taken for one whose connection crosses another.
fn add_uncrossed(fabric: &TcpFabric, node: usize) -> u64 {
    let (ticket, begun) = (fabric.fetch_add(node, AT, 1).expect("room"), Instant::now());
    loop {
        fabric.progress();
        assert!(!fabric.shared.engine().is_expecting(node), "refused as crossed");
        if let Poll::Ready(value) = fabric.take(ticket) {
            return value.expect("the connection holds");
        }
        assert!(begun.elapsed() < PATIENCE, "no answer");
    }
}

fn a_node_whose_ranks_are_gone_refuses_and_nothing_else_is_taken_for_that(engine: TcpEngine) {
    let mut job = Job::new(&[2, 1, 1, 1, 1], engine);
    let peer = job.ranks[2].take().expect("it lives");
    peer.probe(0);
    until("reached", || {
        peer.progress();
        peer.incarnation(0) == 1
    });
    assert_eq!(peer.ports(0), Ports::Unknown);
    peer.probe(0);
    assert_eq!(peer.incarnation(0), 1, "there is a connection");
    job.end(0);
    // Node 2's agent is stopped; at node 3's port nobody lets anybody in; node 4's drops every connection.
    job.end(4);
    let _silent = TcpListener::bind(job.address_of(3, 0)).expect("the port is free again");
    job.end(5);
    let closes = TcpListener::bind(job.address_of(4, 0)).expect("the port is free again");
    closes.set_nonblocking(true).expect("a socket");
    let held = job.of(3).shared.engine();
    (2..5).for_each(|node| peer.probe(node));
    until("one of two lives", || {
        // Without polls: an attempt goes on by itself.
        peer.probe(0);
        peer.ports(0) == Ports::Kept
    });
    let mut dropped = 0;
    until("dropped often", || {
        (0..5).filter(|node| *node != 1).for_each(|node| peer.probe(node));
        peer.progress();
        assert!([0, 2, 3, 4].into_iter().all(|node| !peer.refused_by_all(node)));
        dropped += u32::from(closes.accept().is_ok());
        dropped > 20
    });
    drop(held);
    // Gone for good, the second one too: what waits has its error at once, and so have others.
    let waits = peer.fetch_add(0, AT, 1).expect("the role may pass on");
    job.end(1);
    let ended = Instant::now();
    assert!(matches!(value(&peer, waits), Err(OperationError::NotSent { .. })));
    assert!(ended.elapsed() < DIAL_LIMIT);
    assert!(is_unreachable(peer.read(0, AT), "refused"));
    assert!(peer.refused_by_all(0));
}

fn what_an_excluded_guest_has_on_its_way_takes_no_effect(engine: TcpEngine) {
    let job = Job::new(&[2, 1], engine);
    let (guest, home) = (job.of(1), job.of(2));
    assert_eq!(add(guest, 1), Ok(0));
    assert_eq!(add(job.of(0), 1), Ok(1), "its agent goes on undisturbed");
    let (sender, told) = channel();
    guest.when_excluded(Box::new(move |node| sender.send(node).expect("the test waits")));
    {
        let mut held = home.shared.engine();
        (0..50).for_each(|_| guest.write(1, AT, 99).expect("room"));
        held.exclude_rank(1);
    }
    until("refused for good", || {
        guest.progress();
        is_unreachable(guest.read(1, AT), "declared this process failed")
    });
    assert_eq!((told.recv_timeout(PATIENCE), guest.excluded_by()), (Ok(1), Some(1)));
    assert_eq!((job.word(1, AT), add(job.of(0), 1)), (2, Ok(2)));
    assert_eq!((job.of(0).incarnation(1), job.of(0).excluded_by()), (1, None));
    // Whoever asks late is told at once.
    let (sender, told) = channel();
    let late = Job::new(&[1, 1], engine);
    late.of(1).exclude_rank(0);
    until("refused for good", || is_unreachable(late.of(0).read(1, AT), "declared this process failed"));
    late.of(0).when_excluded(Box::new(move |node| sender.send(node).expect("the test waits")));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(1));
}

fn an_excluded_agent_is_left_for_the_next(engine: TcpEngine) {
    let job = Job::new(&[2, 1], engine);
    let (peer, next) = (job.of(2), job.of(1));
    assert_eq!(add(peer, 0), Ok(0));
    // Stopped; and once more while it is dialled, which it does not answer either.
    let held = job.of(0).shared.engine();
    let asked = peer.fetch_add(0, AT, 1).expect("room");
    next.become_agent().expect("its own port");
    peer.exclude_rank(0);
    assert!(matches!(value(peer, asked), Err(OperationError::Lost { node: 0, ref why }) if why.contains("rank 0")));
    assert_eq!(add_dialling(peer, 0, &[1]), 1);
    drop(held);
    // It comes back, and is not let in.
    until("the old agent is told", || {
        job.of(0).progress();
        let _ = job.of(0).read(1, AT);
        job.of(0).excluded_by() == Some(1)
    });
    assert_eq!((peer.incarnation(0), peer.excluded_by()), (2, None));

    let dialling = Job::new(&[2, 1], engine);
    let held = dialling.of(0).shared.engine();
    let asked = dialling.of(2).fetch_add(0, AT, 1).expect("room");
    dialling.of(1).become_agent().expect("its own port");
    dialling.of(2).exclude_rank(0);
    assert_eq!(value(dialling.of(2), asked), Ok(0), "what has waited goes to the next");
    drop(held);
}

/// It was stopped, and has requests in its sockets that others make again of the next agent.
fn an_agent_that_is_given_up_executes_nothing_of_what_it_finds(engine: TcpEngine) {
    const END: WordAt = AT.plus(5);
    let job = Job::new(&[2, 1], engine);
    let (peer, old) = (job.of(2), job.of(0));
    old.serve_until(END, Box::new(|word| word == 2));
    assert_eq!(add(peer, 0), Ok(0));
    job.memories[0].word(END).store(1, Ordering::Release);
    assert_eq!(add(peer, 0), Ok(1), "that is no end");
    let stopped = old.shared.engine();
    let asked = peer.fetch_add(0, AT, 1).expect("room");
    peer.progress();
    job.of(1).become_agent().expect("its own port");
    job.memories[0].word(END).store(2, Ordering::Release);
    drop(stopped);
    let lost = value(peer, asked);
    assert!(matches!(lost, Err(OperationError::Lost { node: 0, .. })), "{lost:?}");
    assert_eq!(job.word(0, AT), 2);
    peer.exclude_rank(0);
    assert_eq!((add(peer, 0), job.word(0, AT)), (Ok(2), 3), "the next one executes");
}

fn an_excluded_node_is_not_asked_and_not_heard(engine: TcpEngine) {
    let job = Job::new(&[1, 2, 1], engine);
    let judge = job.of(0);
    assert_eq!(add(judge, 1), Ok(0));
    assert_eq!((add(job.of(1), 0), add(job.of(2), 0)), (Ok(0), Ok(1)));
    let asked = {
        let mut held = judge.shared.engine();
        [1, 2].into_iter().for_each(|rank| job.of(rank).write(0, AT, 99).expect("room"));
        let mut asked = Vec::new();
        let _stopped = job.of(1).shared.engine();
        let read = [Request::Read { at: AT }];
        held.post(1, &read, &mut asked, crate::fabric::tcp::engine::Follows::Nothing).expect("room");
        held.exclude_node(1);
        asked[0]
    };
    assert!(
        matches!(value(judge, asked), Err(OperationError::Lost { node: 1, ref why }) if why.contains("declared failed"))
    );
    for _ in 0..10 {
        assert!(is_unreachable(judge.read(1, AT), "declared failed"));
        judge.probe(1);
    }
    for rank in [1, 2] {
        until("told", || {
            let _ = job.of(rank).read(0, AT);
            job.of(rank).progress();
            job.of(rank).excluded_by() == Some(0)
        });
    }
    assert_eq!((job.word(0, AT), judge.excluded_by(), judge.ports(1)), (2, None, Ports::Unknown));
    assert_eq!((add(job.of(3), 0), add(judge, 2)), (Ok(2), Ok(0)), "others go on");
    assert_eq!(add(job.of(3), 1), Ok(1), "those who have not been told reach it still");
}

fn a_watched_word_calls_when_another_node_has_changed_it(engine: TcpEngine) {
    let job = Job::new(&[2, 1], engine);
    let (guest, home) = (job.of(1), job.of(2));
    let (sender, called) = channel();
    let memory = Arc::clone(&job.memories[1]);
    home.watch_word(
        AT,
        Box::new(move || sender.send(memory.word(AT).load(Ordering::Acquire)).expect("the test waits")),
    );
    let (other_sender, other_called) = channel();
    home.watch_word(AT.plus(1), Box::new(move || other_sender.send(()).expect("the test waits")));
    // No change; or a change by this node itself.
    for fabric in [guest, job.of(0)] {
        assert_eq!(value(fabric, fabric.read(1, AT).expect("room")), Ok(0));
        assert_eq!(value(fabric, fabric.compare_swap(1, AT, 5, 6).expect("room")), Ok(0));
        fabric.write(1, AT.plus(2), 1).expect("room");
        assert_eq!(value(fabric, fabric.read(1, AT.plus(2)).expect("room")), Ok(1));
    }
    home.write(1, AT.plus(1), 0).expect("room");
    home.progress();
    assert!(called.try_recv().is_err() && other_called.try_recv().is_err());
    // By a link and by a guest, with nobody who polls: each change is told after it.
    for (number, fabric) in (1..).zip([guest, job.of(0), guest, job.of(0)]) {
        fabric.write(1, AT, number).expect("room");
        until("told", || called.recv_timeout(PATIENCE).expect("a call") == number);
    }
    assert_eq!(value(guest, guest.compare_swap(1, AT, 4, 5).expect("room")), Ok(4));
    until("told", || called.recv_timeout(PATIENCE).expect("a call") == 5);
    assert!(other_called.try_recv().is_err());
    // One that is heard while somebody at home posts.
    assert_eq!(value(guest, guest.fetch_add(1, AT.plus(1), 1).expect("room")), Ok(0));
    other_called.recv_timeout(PATIENCE).expect("a call");
    let third = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| home.watch_word(AT, Box::new(|| {}))));
    assert!(third.is_err(), "there is no room for a third");
}

/// A challenge can say anything without a proof.
fn a_forged_exclusion_is_not_believed(engine: TcpEngine) {
    let mut job = Job::new(&[1, 1], engine);
    job.end(1);
    let forger = TcpListener::bind(job.address_of(1, 0)).expect("the port is free again");
    let ticket = job.of(0).read(1, AT).expect("room");
    let (mut socket, _) = forger.accept().expect("it dials");
    let mut server = crate::handshake::Server::new(
        &Key::new([1; 32]),
        crate::handshake::Expected { purpose: Purpose::Fabric, size: 2, peer: 1 },
    )
    .expect("random numbers");
    server.decide(Verdict::Excluded);
    std::io::Write::write_all(&mut socket, &server.poll_output()).expect("it reads");
    drop((socket, forger));
    assert!(value(job.of(0), ticket).is_err());
    assert_eq!(job.of(0).excluded_by(), None);
}

/// What others believe to be a host of the node may be nobody's, or somebody else's: their own, say.
#[test]
fn the_host_at_which_a_node_was_reached_is_the_one_that_counts() {
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    // Node 1 once dials, and is once let in.
    for dials in [true, false] {
        let mut job = Job::at(&[elsewhere, Ipv4Addr::LOCALHOST], &[2, 1, 1], TcpEngine::Sockets);
        let (from, to) = if dials { (2, 0) } else { (0, 1) };
        assert_eq!(add(job.of(from), to), Ok(0));
        let strange = |candidate| TcpListener::bind(job.address_of(0, candidate)).expect("nobody's port");
        let _strangers = [0, 1].map(strange);
        job.end(0);
        job.end(1);
        let (knows, new) = (job.of(2), job.of(3));
        until("refused by its own kernel", || {
            knows.probe(0);
            new.probe(0);
            knows.refused_by_all(0)
        });
        // Who has never reached it cannot know which host is its own.
        let dialled = new.shared.engine().dials(0);
        assert_eq!((dialled, new.ports(0)), (Some(0), Ports::Unknown));
    }
}

/// A machine that does not answer at all: not even the kernel has something to tell of it.
#[test]
fn a_dial_that_hears_nothing_is_given_up_though_nobody_polls() {
    let mut job = Job::new(&[1, 1], TcpEngine::Sockets);
    job.end(1);
    let full = TcpListener::from(
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket"),
    );
    sockopt::set_socket_reuseaddr(&full, true).expect("a socket");
    bind(&full, &job.address_of(1, 0)).expect("the port is free again");
    listen(&full, 0).expect("a bound socket");
    let _waits = TcpStream::connect(job.address_of(1, 0)).expect("there is room for one");
    job.of(0).hand_over();
    std::thread::sleep(Duration::from_millis(5));
    let ticket = job.of(0).read(1, AT).expect("room");
    let mut taken = Poll::Pending;
    until("given up", || {
        taken = job.of(0).take(ticket);
        taken.is_ready()
    });
    assert!(matches!(taken, Poll::Ready(Err(OperationError::NotSent { .. }))), "{taken:?}");
    assert_eq!(job.of(0).ports(1), Ports::Unknown);
}

/// What the rank's old connection has brought and nobody has read must not come after what its new one brings.
#[test]
fn a_guest_that_comes_back_as_agent_has_no_other_connection() {
    let job = Job::new(&[1, 1], TcpEngine::Sockets);
    let knock = |purpose| {
        let stream = TcpStream::connect(job.address_of(0, 0)).expect("it listens");
        let mut client =
            Client::new(&Key::new([3; 32]), &Claim { purpose, rank: 1, size: 2, peer: 0 }).expect("numbers");
        prove(&stream, &mut client, Instant::now() + PATIENCE).expect("let in");
        stream
    };
    let mut first = knock(Purpose::Fabric);
    let _second = knock(Purpose::Agent);
    first.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(first.read(&mut [0]).expect("closed, and not silent"), 0);
}

/// An agent is one of another node. Whoever says so falsely is told; a rank of no node is a guest at most.
#[test]
fn only_another_nodes_rank_is_let_in_as_agent() {
    let job = Job::new(&[2, 1], TcpEngine::Sockets);
    let knock = |purpose, rank| {
        let stream = TcpStream::connect(job.address_of(0, 0)).expect("it listens");
        let mut client = Client::new(&Key::new([3; 32]), &Claim { purpose, rank, size: 3, peer: 0 }).expect("numbers");
        prove(&stream, &mut client, Instant::now() + PATIENCE)
    };
    assert!(knock(Purpose::Agent, 2).is_ok() && knock(Purpose::Fabric, 1).is_ok());
    for rank in [0, 1] {
        let refused = knock(Purpose::Agent, rank);
        assert!(matches!(refused, Err(HandshakeError::Refused { verdict: Verdict::Malformed, .. })), "{refused:?}");
    }
}
