//! Whole connections. A victim serves an honest node; a third party that knows the key connects too, as its node's
//! agent or as another rank of it, speaks well for a while, and then does not.
//!
//! While the third party speaks well, every answer is checked against an oracle of the words that it alone uses. What
//! it says after that is spoilt frames, and what it does is to close, to say no more, or to go on without reading. The
//! victim must then still answer the honest node, on the same connection, and admit the next third party. Whoever
//! claims to speak for the victim's own node, or has been excluded, is let in never.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use phalanx::fabric::node::NodeLayout;
use phalanx::fabric::shm::Segment;
use phalanx::fabric::sim::Seeded;
use phalanx::fabric::tcp::frame::{FRAME_BYTES, Frame};
use phalanx::fabric::tcp::{Candidate, Peer, Services, TcpFabric};
use phalanx::fabric::{Fabric, Memory, Request, WordAt};
use phalanx::handshake::{Claim, Client, HandshakeError, Key, Purpose, Verdict, prove};

use crate::frames::any_request;
use crate::mutation::{bytes, pieces, spoil};
use crate::{Target, ensure};

/// No answer for so long is none.
const PATIENCE: Duration = Duration::from_secs(20);
const VICTIM: usize = 1;
/// Ranks: the honest node's, the victim's, and two of the third party's node, the second of which is excluded.
const RANKS: usize = 4;
const THIRD: usize = 2;
const EXCLUDED: usize = 3;
/// The word that the honest node counts in, outside of what third parties aim at.
const COUNTER: WordAt = WordAt(4096);
/// The words that third parties use while they speak well.
const WORDS: usize = 8;
const FIRST: usize = 4200;

/// What is served, made once.
pub(crate) struct Connections {
    world: Option<World>,
}

struct World {
    honest: TcpFabric,
    /// Serves by its thread alone.
    _victim: TcpFabric,
    address: SocketAddr,
    counted: u64,
}

fn key() -> Key {
    Key::new([9; 32])
}

impl World {
    fn new() -> Self {
        let listeners: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port of the loopback")).collect();
        let segment = || Arc::new(Segment::create(NodeLayout::new(1, 1 << 14), 1, 1).expect("memory"));
        let segments = [segment(), segment()];
        let peer = |(rank, listener): (usize, &TcpListener)| {
            Peer::alone(rank, listener.local_addr().expect("an address"), segments[0].words())
        };
        let mut peers: Vec<Peer> = listeners.iter().enumerate().map(peer).collect();
        // Nobody ever connects to the third party.
        let hosts: Arc<[IpAddr]> = Arc::new([Ipv4Addr::LOCALHOST.into()]);
        let candidate = |rank| Candidate { rank, hosts: Arc::clone(&hosts), port: 1 };
        peers.push(Peer { candidates: [THIRD, EXCLUDED].map(candidate).to_vec(), words: segments[0].words() });
        let address = peers[VICTIM].candidates[0].addresses().next().expect("a host");
        let mut fabrics = listeners.into_iter().zip(&segments).enumerate().map(|(here, (listener, segment))| {
            let services = Services { rank: here, size: RANKS, here, key: key() };
            let memory: Arc<Segment> = Arc::clone(segment);
            TcpFabric::new(services, memory, peers.clone(), Some(listener)).expect("a fabric")
        });
        let (honest, victim) = (fabrics.next().expect("two"), fabrics.next().expect("two"));
        drop(fabrics);
        victim.exclude_rank(EXCLUDED);
        Self { honest, _victim: victim, address, counted: 0 }
    }

    /// Whether the honest node is served as ever.
    fn check_service(&mut self) -> Result<(), String> {
        let ticket = self.honest.fetch_add(VICTIM, COUNTER, 1).map_err(|error| format!("not served: {error}"))?;
        let start = Instant::now();
        let value = loop {
            self.honest.progress();
            if let Poll::Ready(value) = self.honest.take(ticket) {
                break value.map_err(|error| format!("not served: {error}"))?;
            }
            ensure(start.elapsed() < PATIENCE, || "no answer to an honest node".to_owned())?;
        };
        ensure(value >= self.counted, || format!("counted {}, found {value}", self.counted))?;
        self.counted = value + 1;
        let incarnation = self.honest.incarnation(VICTIM);
        ensure(incarnation == 1, || format!("the honest node had to connect {incarnation} times"))
    }

    fn prove(&self, purpose: Purpose, rank: usize) -> Result<TcpStream, HandshakeError> {
        let stream = TcpStream::connect(self.address)?;
        let claim = Claim { purpose, rank: rank as u64, size: RANKS as u64, peer: VICTIM as u64 };
        let mut client = Client::new(&key(), &claim)?;
        prove(&stream, &mut client, Instant::now() + PATIENCE)?;
        Ok(stream)
    }

    fn connect(&self, purpose: Purpose) -> Result<TcpStream, String> {
        let proved = match self.prove(purpose, THIRD) {
            // The victim has not noticed yet that the last one is gone, and takes this one for overtaken, once.
            Err(HandshakeError::Refused { verdict: Verdict::Crossed, .. }) => self.prove(purpose, THIRD),
            proved => proved,
        };
        let stream = proved.map_err(|error| format!("not let in: {error}"))?;
        let text = |what| move |error: &dyn std::fmt::Display| format!("{what}: {error}");
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| text("no time-out")(&error))?;
        stream.set_nodelay(true).map_err(|error| text("not without delay")(&error))?;
        Ok(stream)
    }

    /// Those who are let in never.
    fn check_door(&self, purpose: Purpose) -> Result<(), String> {
        let cases = [(purpose, EXCLUDED, Verdict::Excluded), (Purpose::Agent, VICTIM, Verdict::Malformed)];
        for (purpose, rank, expected) in cases {
            let refused = self.prove(purpose, rank);
            let is_told = matches!(&refused, Err(HandshakeError::Refused { verdict, .. }) if *verdict == expected);
            ensure(is_told, || format!("{refused:?} for rank {rank}, {purpose:?}"))?;
        }
        Ok(())
    }
}

impl Connections {
    pub fn new() -> Self {
        Self { world: None }
    }
}

impl Target for Connections {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let world = self.world.get_or_insert_with(World::new);
        world.check_service()?;
        let purpose = [Purpose::Fabric, Purpose::Agent][random.below(2)];
        if random.below(4) == 0 {
            world.check_door(purpose)?;
        }
        let mut stream = world.connect(purpose)?;
        speak_well(random, &mut stream)?;
        misbehave(random, &mut stream);
        world.check_service()
    }
}

/// Valid requests, and the answers that an oracle expects.
fn speak_well(random: &mut Seeded, stream: &mut TcpStream) -> Result<(), String> {
    let mut words = [0_u64; WORDS];
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for (at, word) in words.iter().enumerate() {
        sent.extend(Frame::Request { tag: 0, request: write_at(at, *word) }.encode());
    }
    for tag in 0..u32::try_from(random.below(60)).unwrap_or(0) {
        let request = moved(any_request(random, WORDS));
        let tag = if request.has_ticket() { tag } else { 0 };
        let word = &mut words[request.at().0 - FIRST];
        if request.has_ticket() {
            expected.push(Frame::Value { tag, value: *word });
        }
        match request {
            Request::Write { value, .. } => *word = value,
            Request::FetchAdd { add, .. } => *word = word.wrapping_add(add),
            Request::CompareSwap { expected, new, .. } if *word == expected => *word = new,
            Request::Read { .. } | Request::CompareSwap { .. } => {}
        }
        sent.extend(Frame::Request { tag, request }.encode());
    }
    for piece in pieces(random, &sent) {
        stream.write_all(piece).map_err(|error| format!("cannot send: {error}"))?;
    }
    for frame in expected {
        let mut answer = [0; FRAME_BYTES];
        stream.read_exact(&mut answer).map_err(|error| format!("no answer: {error}"))?;
        let answer = Frame::parse(&answer, 0);
        ensure(answer == Ok(frame), || format!("{answer:?} instead of {frame:?}"))?;
    }
    Ok(())
}

fn write_at(at: usize, value: u64) -> Request {
    Request::Write { at: WordAt(FIRST + at), value }
}

/// The same request to the third parties' words.
fn moved(request: Request) -> Request {
    let there = |at: WordAt| at.plus(FIRST);
    match request {
        Request::Write { at, value } => Request::Write { at: there(at), value },
        Request::Read { at } => Request::Read { at: there(at) },
        Request::FetchAdd { at, add } => Request::FetchAdd { at: there(at), add },
        Request::CompareSwap { at, expected, new } => Request::CompareSwap { at: there(at), expected, new },
    }
}

/// Whatever a peer may do that has gone mad. The victim may close at any point of it.
fn misbehave(random: &mut Seeded, stream: &mut TcpStream) {
    let mut sent = Vec::new();
    for _ in 0..random.below(40) {
        let mut frame = Frame::Request { tag: 0, request: write_at(random.below(WORDS), 1) }.encode().to_vec();
        spoil(random, &mut frame);
        // Whole frames that change the words of the honest node are a right, and no fault that could be found.
        let is_aimed = frame.get(8..16).is_some_and(|at| at == (COUNTER.0 as u64).to_le_bytes());
        if !is_aimed {
            sent.extend(frame);
        }
    }
    let is_flood = random.below(4) == 0;
    if is_flood {
        let read = Frame::Request { tag: 1, request: Request::Read { at: WordAt(FIRST) } }.encode();
        // The greater one is more than the kernel buffers on both ways.
        sent = read.repeat([2000, 500_000][random.below(2)]);
    } else if random.below(4) == 0 {
        sent = bytes(random);
    }
    // A victim that does not read any more must not hold this up.
    let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
    let parts = if is_flood { vec![&sent[..]] } else { pieces(random, &sent) };
    for piece in parts {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    if random.below(2) == 0 {
        let _ = stream.shutdown(Shutdown::Write);
    }
}
