//! One process's connections: dialling, letting in, executing what comes in, sending what waits.
//!
//! All of it never blocks. Whoever holds the engine's lock takes a *turn*: looks at the links that are ready to carry
//! frames, and now and then at everything else that the kernel has to tell (a listener, handshakes, guests). A
//! *guest* is a connection from a process that does not speak for a node: it asks and is answered, and this end never
//! asks it.

mod by_ring;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::frame::{Frame, Letter};
use super::link::{Dial, Link, LinkState};
use super::stream::{Outgoing, Stream, StreamError, answer};
use super::uring::{Carrier, Ring, Serial};
use super::{Peer, Services};
use crate::fabric::node::header;
use crate::fabric::tickets::TicketTable;
use crate::fabric::{Memory, PostError, Request, Ticket, WordAt};
use crate::handshake::{self, Claim, Event, Expected, HandshakeError, Purpose, Refusal, RefusalLog, Verdict};
use crate::sync::{Ordering, publish};

/// How long a listener without room for another connection is left alone.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Values on their way or not taken, at most.
const MOST_TICKETS: usize = 1 << 14;
/// Connections that have not proved themselves, at most.
const MOST_STRANGERS: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long one address is tried.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// How long the other end may take to connect after it has refused this end's connection as crossed.
const EXPECT_LIMIT: Duration = Duration::from_millis(20);
/// So often in a row.
const MOST_CROSSINGS: u32 = 250;
/// So many links are looked at by receiving; of more the kernel is asked first which have something.
const LOOK_AT_EACH: usize = 4;
/// Turns between two looks at everything, while few links are looked at one by one.
const LOOK_AROUND_EVERY: u32 = 16;
/// So many turns after somebody has slept on the links, the kernel is relieved of them.
const TURNS_ALONE: u32 = 64;
/// Letters that nobody has taken, at most: further ones are lost.
const MOST_LETTERS: usize = 1 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// What an event of the kernel's is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Kick,
    Listener,
    Link(usize),
    Guest(u32),
    Stranger(u32),
}

impl Token {
    const KINDS: u64 = 8;

    fn pack(self) -> EventData {
        let (kind, index) = match self {
            Self::Kick => (0, 0),
            Self::Listener => (1, 0),
            Self::Link(node) => (2, node as u64),
            Self::Guest(id) => (3, u64::from(id)),
            Self::Stranger(id) => (4, u64::from(id)),
        };
        EventData::new_u64(index * Self::KINDS + kind)
    }

    #[allow(clippy::cast_possible_truncation, reason = "packed from the same types")]
    fn unpack(data: EventData) -> Self {
        let (kind, index) = (data.u64() % Self::KINDS, data.u64() / Self::KINDS);
        match kind {
            0 => Self::Kick,
            1 => Self::Listener,
            2 => Self::Link(index as usize),
            3 => Self::Guest(index as u32),
            _ => Self::Stranger(index as u32),
        }
    }
}

/// A connection that has not proved itself yet.
#[derive(Debug)]
struct Stranger {
    socket: TcpStream,
    address: SocketAddr,
    server: handshake::Server,
    output: Vec<u8>,
    until: Instant,
}

/// A connection from a process that does not speak for a node.
#[derive(Debug)]
struct Guest {
    stream: Stream,
    address: SocketAddr,
    outgoing: Outgoing,
    watches_room: bool,
}

/// What comes after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Perhaps nothing: the batch is sent now.
    Nothing,
    /// More batches, and then [`Engine::flush`].
    More,
}

/// The links that there have been need of, by the nodes' numbers.
#[derive(Debug, Default)]
struct Links(Vec<Option<Box<Link>>>);

impl Links {
    #[inline]
    fn get(&self, node: usize) -> Option<&Link> {
        self.0.get(node)?.as_deref()
    }

    #[inline]
    fn get_mut(&mut self, node: usize) -> Option<&mut Link> {
        self.0.get_mut(node)?.as_deref_mut()
    }

    /// The link to a node, which is made if there has been none.
    #[inline]
    fn of(&mut self, node: usize) -> &mut Link {
        if self.0.len() <= node {
            self.0.resize_with(node + 1, || None);
        }
        self.0[node].get_or_insert_with(|| Box::new(Link::new(node)))
    }

    fn values(&self) -> impl Iterator<Item = &Link> {
        self.0.iter().filter_map(Option::as_deref)
    }
}

/// The state behind the lock.
pub struct Engine {
    services: Services,
    memory: Arc<dyn Memory + Send + Sync>,
    peers: Arc<[Peer]>,
    epoll: OwnedFd,
    listener: Option<TcpListener>,
    /// Until when the listener is left alone, because there was no room for another connection.
    rests_until: Option<Instant>,
    /// Whether that has been said.
    has_rested: bool,
    links: Links,
    /// Nodes whose links carry frames.
    ready: Vec<usize>,
    /// Whether the kernel is asked about the links, too. It costs each message that comes in, so that links which are
    /// looked at one by one all the time are taken out.
    watches_links: bool,
    /// Turns since that was so.
    turns_alone: u32,
    guests: HashMap<u32, Guest>,
    strangers: HashMap<u32, Stranger>,
    next_id: u32,
    turns: u32,
    tickets: TicketTable,
    /// Letters that have come in, with their senders.
    letters: Vec<(usize, Letter)>,
    log: RefusalLog,
    /// What moves many connections' bytes at once; see `by_ring`.
    ring: Option<Box<Ring>>,
    /// Connections that may have something to send.
    unsent: Vec<Carrier>,
    /// Connections that the ring does not receive from yet.
    outside: Vec<Carrier>,
    /// What is to be sent waits in `unsent` instead of being sent one by one.
    gathers: bool,
    sleepers: Sleepers,
}

/// Those of this process who sleep on the connections, while another of its threads may poll them.
#[derive(Debug)]
struct Sleepers {
    asleep: u32,
    /// How often they have been told that something was taken in.
    news: u64,
    /// Sleepers that have not woken since.
    unaware: u32,
    /// What they are told by: can be read, for as long as one of them is unaware.
    bell: OwnedFd,
    /// Something has been taken in since they were told last.
    has_news: bool,
}

impl Sleepers {
    fn tell(&mut self) {
        if std::mem::take(&mut self.has_news) && self.asleep > 0 {
            self.news += 1;
            self.unaware = self.asleep;
            // The counter cannot be full: it is read when all have woken.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    fn leave(&mut self, told: u64) {
        self.asleep -= 1;
        if told == self.news {
            return;
        }
        self.unaware -= 1;
        if self.unaware == 0 {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("ready", &self.ready).field("guests", &self.guests.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Serves `memory`; `kick` is what ends the sleep of whoever sleeps on `epoll`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(
        services: Services,
        memory: Arc<dyn Memory + Send + Sync>,
        peers: Arc<[Peer]>,
        listener: Option<TcpListener>,
        epoll: OwnedFd,
        kick: &OwnedFd,
        ring: Option<Ring>,
    ) -> io::Result<Self> {
        epoll::add(&epoll, kick, Token::Kick.pack(), EventFlags::IN)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, Token::Kick.pack(), EventFlags::IN)?;
        let sleepers = Sleepers { asleep: 0, news: 0, unaware: 0, bell, has_news: false };
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            epoll::add(&epoll, listener, Token::Listener.pack(), EventFlags::IN)?;
        }
        Ok(Self {
            services,
            memory,
            peers,
            epoll,
            listener,
            rests_until: None,
            has_rested: false,
            links: Links::default(),
            ready: Vec::new(),
            watches_links: true,
            turns_alone: 0,
            guests: HashMap::new(),
            strangers: HashMap::new(),
            next_id: 0,
            turns: 0,
            tickets: TicketTable::new(MOST_TICKETS),
            letters: Vec::new(),
            log: RefusalLog::new(),
            ring: ring.map(Box::new),
            unsent: Vec::new(),
            outside: Vec::new(),
            gathers: false,
            sleepers,
        })
    }

    /// The tickets.
    pub fn tickets(&mut self) -> &mut TicketTable {
        &mut self.tickets
    }

    /// Connections to the node so far.
    pub fn incarnation(&self, node: usize) -> u64 {
        self.links.get(node).map_or(0, |link| link.incarnation)
    }

    /// Posts a checked batch.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    pub fn post(
        &mut self,
        node: usize,
        requests: &[Request],
        given: &mut Vec<Ticket>,
        follows: Follows,
    ) -> Result<(), PostError> {
        if node == self.services.here {
            return self.post_here(requests, given);
        }
        let link = self.links.of(node);
        let needs_dial = link.needs_dial()?;
        link.queue(requests, &mut self.tickets, given)?;
        if needs_dial {
            self.dial(node);
        } else if follows == Follows::More && self.ring.is_some() {
            self.unsent.push(Carrier::Link(node));
        } else {
            self.send(node);
        }
        Ok(())
    }

    /// Sends a letter to a node's agent. It is lost if the connection breaks.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    pub fn send_letter(&mut self, node: usize, letter: &Letter) -> Result<(), PostError> {
        let link = self.links.of(node);
        let needs_dial = link.needs_dial()?;
        link.queue_letter(letter)?;
        if needs_dial {
            self.dial(node);
        } else {
            self.send(node);
        }
        Ok(())
    }

    /// Whether letters have come in.
    #[inline]
    pub fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// The letters that have come in, with the nodes that have sent them.
    pub fn take_letters(&mut self) -> Vec<(usize, Letter)> {
        std::mem::take(&mut self.letters)
    }

    fn post_here(&mut self, requests: &[Request], given: &mut Vec<Ticket>) -> Result<(), PostError> {
        let with_tickets = requests.iter().filter(|request| request.has_ticket()).count();
        if self.tickets.room() < with_tickets {
            return Err(PostError::Full { node: self.services.here });
        }
        self.sleepers.has_news = true;
        for request in requests {
            let value = execute(&*self.memory, *request);
            if request.has_ticket() {
                let ticket = self.tickets.issue();
                given.push(ticket);
                self.tickets.complete(ticket, Ok(value));
            }
        }
        Ok(())
    }

    /// Moves on what can move without waiting.
    pub fn turn(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        let has_looked = self.ring.is_some() && self.turn_by_ring() && !self.ready.is_empty();
        let looks_at_each = has_looked || self.ready.len() <= LOOK_AT_EACH && !self.ready.is_empty();
        if looks_at_each && !has_looked {
            self.look_alone();
            for index in (0..self.ready.len()).rev() {
                // A link that breaks leaves the list; what moves up in its place has been looked at.
                if let Some(node) = self.ready.get(index).copied() {
                    self.receive(node);
                }
            }
        }
        if !looks_at_each {
            self.watch_links();
        }
        if !looks_at_each || self.turns.is_multiple_of(LOOK_AROUND_EVERY) {
            self.look_around();
        }
    }

    /// Takes the links out of the kernel's care, once they have been looked at one by one for a while.
    fn look_alone(&mut self) {
        self.turns_alone = self.turns_alone.saturating_add(1);
        if !self.watches_links || self.sleepers.asleep > 0 || self.turns_alone < TURNS_ALONE {
            return;
        }
        self.watches_links = false;
        for node in &self.ready {
            if let Some(Link { state: LinkState::Ready(stream), .. }) = self.links.get(*node) {
                let _ = epoll::delete(&self.epoll, stream.socket());
            }
        }
    }

    /// Has the kernel tell of the links again: before anybody sleeps on all of them.
    pub fn watch_links(&mut self) {
        self.turns_alone = 0;
        if self.watches_links {
            return;
        }
        self.watches_links = true;
        for node in &self.ready {
            if let Some(Link { state: LinkState::Ready(stream), watches_room, .. }) = self.links.get(*node) {
                let flags = if *watches_room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                // A socket that cannot be watched has an error, which the next use of it shows.
                let _ = epoll::add(&self.epoll, stream.socket(), Token::Link(*node).pack(), flags);
            }
        }
    }

    /// Does all that the kernel has to tell of, and what time has come for.
    pub fn look_around(&mut self) {
        self.send_unsent();
        let mut events = Vec::with_capacity(EVENTS);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted look finds everything next time.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now));
        for event in events {
            match Token::unpack(event.data) {
                Token::Kick => {}
                Token::Listener => self.let_in(),
                Token::Link(node) => self.attend(node),
                Token::Guest(id) => self.serve(id),
                Token::Stranger(id) => self.examine(id),
            }
        }
        self.end_what_is_late();
    }

    /// Somebody is about to sleep until `epoll` has something to tell. What it has been told of so far.
    pub fn fall_asleep(&mut self) -> u64 {
        self.sleepers.asleep += 1;
        self.sleepers.news
    }

    /// After a sleep that an event has ended, or nothing: takes in what has come. `told` is what it was told before.
    pub fn wake_up(&mut self, told: u64) {
        self.sleepers.leave(told);
        if self.ring.is_some() {
            self.turn_by_ring();
        }
        self.look_around();
    }

    /// Wakes those who sleep, if something has been taken in: the kernel has nothing to tell them of it any more.
    pub fn tell_sleepers(&mut self) {
        self.sleepers.tell();
    }

    /// Whether a word of this node's memory holds something else.
    pub fn holds_other(&self, at: WordAt, seen: u64) -> bool {
        self.memory.word(at).load(Ordering::Acquire) != seen
    }

    /// When something has to be given up, if nothing happens before.
    pub fn next_limit(&self) -> Option<Instant> {
        let strangers = self.strangers.values().map(|stranger| stranger.until);
        let links = self.links.values().filter_map(|link| match &link.state {
            LinkState::Dialing(dial) => Some(dial.until),
            LinkState::Expecting { until } => Some(*until),
            LinkState::Idle | LinkState::Failed { .. } | LinkState::Ready(_) => None,
        });
        strangers.chain(links).chain(self.rests_until).min()
    }

    fn end_what_is_late(&mut self) {
        if self.next_limit().is_none_or(|limit| limit > Instant::now()) {
            return;
        }
        let now = Instant::now();
        self.end_rest(now);
        let late: Vec<u32> = self.strangers.iter().filter(|(_, who)| who.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            let stranger = self.strangers.remove(&id).expect("found just now");
            self.log.report(stranger.address, Refusal::Silent);
        }
        let is_late = |link: &Link| match &link.state {
            LinkState::Dialing(dial) => dial.until <= now,
            LinkState::Expecting { until } => *until <= now,
            LinkState::Idle | LinkState::Failed { .. } | LinkState::Ready(_) => false,
        };
        let late: Vec<usize> = self.links.values().filter(|link| is_late(link)).map(|link| link.node).collect();
        for node in late {
            self.dial_on(node, "it does not answer");
        }
    }

    /// Receives what a ready link has, executes and answers it, and sends what waits.
    fn receive(&mut self, node: usize) {
        self.take_in(node, None);
    }

    /// As [`receive`](Self::receive), of `bytes` that have been received already, or else of what the socket has.
    fn take_in(&mut self, node: usize, bytes: Option<&[u8]>) {
        let words = self.memory.words();
        let Some(Link { state: LinkState::Ready(stream), outgoing, parts, .. }) = self.links.get_mut(node) else {
            return;
        };
        let (memory, tickets, letters) = (&*self.memory, &mut self.tickets, &mut self.letters);
        let mut values = Vec::new();
        let has_news = &mut self.sleepers.has_news;
        let handle = |frame| match frame {
            Frame::Value { tag, value } => {
                *has_news = true;
                values.push((tag, value));
                Ok(())
            }
            Frame::Request { tag, request } => {
                *has_news = true;
                let value = execute(memory, request);
                if request.has_ticket() { answer(outgoing, tag, value) } else { Ok(()) }
            }
            Frame::Part { index, words } => {
                let letter = parts.add(index, words)?;
                letters.extend(letter.filter(|_| letters.len() < MOST_LETTERS).map(|letter| (node, letter)));
                Ok(())
            }
        };
        let received = match bytes {
            None => stream.receive(words, handle).map(drop),
            Some(bytes) => stream.take_in(bytes, words, handle),
        };
        let link = self.links.get_mut(node).expect("found above");
        let mut failed = received.err();
        for (tag, value) in values {
            match link.answered(tag) {
                Some(ticket) => tickets.complete(ticket, Ok(value)),
                None => failed = Some(StreamError::Answer),
            }
        }
        match failed {
            None if link.outgoing.waiting_bytes() > 0 => self.send(node),
            None => {}
            Some(error) => self.break_off(node, &error),
        }
    }

    /// Sends what waits; what the kernel does not take now is sent when it has room.
    fn send(&mut self, node: usize) {
        if self.gathers {
            return self.unsent.push(Carrier::Link(node));
        }
        let Some(link) = self.links.get_mut(node) else { return };
        let LinkState::Ready(stream) = &mut link.state else { return };
        if let Err(error) = stream.send(&mut link.outgoing) {
            // An end that is gone may have said something before.
            self.hear_out(node);
            return self.break_off(node, &error);
        }
        watch_room(&self.epoll, link);
    }

    /// Takes in what has come by a link that is about to be given up; nothing is answered any more.
    fn hear_out(&mut self, node: usize) {
        let words = self.memory.words();
        let Some(link) = self.links.get_mut(node) else { return };
        let LinkState::Ready(stream) = &mut link.state else { return };
        let memory = &*self.memory;
        let mut values = Vec::new();
        let mut hear = |frame| {
            match frame {
                Frame::Value { tag, value } => values.push((tag, value)),
                Frame::Request { request, .. } => drop(execute(memory, request)),
                // Whoever sent it says it again.
                Frame::Part { .. } => {}
            }
            Ok(())
        };
        while matches!(stream.receive(words, &mut hear), Ok(true)) {}
        self.sleepers.has_news = true;
        for (tag, value) in values {
            if let Some(ticket) = link.answered(tag) {
                self.tickets.complete(ticket, Ok(value));
            }
        }
    }

    /// Whether something waits to be sent that may still be: by a link that is there, or is being made.
    pub fn has_unsent(&self) -> bool {
        let waits = |link: &Link| match &link.state {
            LinkState::Ready(_) | LinkState::Dialing(_) | LinkState::Expecting { .. } => {
                link.outgoing.waiting_bytes() > 0
            }
            LinkState::Idle | LinkState::Failed { .. } => false,
        };
        self.links.values().any(waits)
    }

    fn break_off(&mut self, node: usize, error: &StreamError) {
        self.ready.retain(|ready| *ready != node);
        if let Some(link) = self.links.get_mut(node) {
            if let (
                LinkState::Ready(stream),
                StreamError::Frame(_) | StreamError::Answer | StreamError::Letter | StreamError::TooMany,
            ) = (&link.state, error)
                && let Ok(address) = stream.socket().peer_addr()
            {
                self.log.report(address, Refusal::BrokeProtocol);
            }
            link.fail(&error.to_string(), &mut self.tickets);
        }
    }

    /// Begins to connect to a node, by the first of its addresses.
    fn dial(&mut self, node: usize) {
        let mut others = self.peers[node].addresses.clone();
        others.reverse();
        self.dial_next(node, others, "it has no address");
    }

    /// Tries the last of `others`; gives up when there is none.
    fn dial_next(&mut self, node: usize, mut others: Vec<SocketAddr>, why: &str) {
        let mut why = why.to_owned();
        while let Some(address) = others.pop() {
            match self.begin_dial(node, address, others.clone()) {
                Ok(dial) => {
                    let link = self.links.get_mut(node).expect("whoever dials has a link");
                    link.state = LinkState::Dialing(Box::new(dial));
                    return;
                }
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        let link = self.links.get_mut(node).expect("whoever dials has a link");
        link.fail(&why, &mut self.tickets);
    }

    fn begin_dial(&self, node: usize, address: SocketAddr, others: Vec<SocketAddr>) -> io::Result<Dial> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
        socket.set_nodelay(true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let claim = Claim {
            purpose: Purpose::Fabric,
            rank: self.services.rank as u64,
            size: self.services.size as u64,
            peer: self.peers[node].rank as u64,
        };
        let mut client = handshake::Client::new(&self.services.key, &claim)?;
        let output = client.poll_output();
        epoll::add(&self.epoll, &socket, Token::Link(node).pack(), EventFlags::IN | EventFlags::OUT)?;
        let until = Instant::now() + DIAL_LIMIT;
        Ok(Dial { socket, client, is_connected: false, output, others, address, until })
    }

    /// One address has failed: tries the next.
    fn dial_on(&mut self, node: usize, why: &str) {
        let Some(link) = self.links.get_mut(node) else { return };
        match std::mem::replace(&mut link.state, LinkState::Idle) {
            LinkState::Dialing(dial) => self.dial_next(node, dial.others, &format!("{}: {why}", dial.address)),
            LinkState::Expecting { .. } if link.crossings < MOST_CROSSINGS => {
                link.crossings += 1;
                self.dial(node);
            }
            _ => link.fail(why, &mut self.tickets),
        }
    }

    /// An event of a link: of its handshake, or its frames.
    fn attend(&mut self, node: usize) {
        let Some(link) = self.links.get_mut(node) else { return };
        match &mut link.state {
            LinkState::Ready(_) => {
                self.send(node);
                self.receive(node);
            }
            LinkState::Dialing(dial) => match advance(dial) {
                Ok(false) => {
                    let waits_for_room = !dial.is_connected || !dial.output.is_empty();
                    watch(&self.epoll, &dial.socket, Token::Link(node), waits_for_room);
                }
                Ok(true) => self.dialled(node),
                Err(HandshakeError::Refused { verdict: Verdict::Crossed, .. }) => {
                    link.state = LinkState::Expecting { until: Instant::now() + EXPECT_LIMIT };
                }
                Err(error) => self.dial_on(node, &error.to_string()),
            },
            LinkState::Idle | LinkState::Failed { .. } | LinkState::Expecting { .. } => {}
        }
    }

    fn dialled(&mut self, node: usize) {
        let link = self.links.get_mut(node).expect("it was attended to");
        let LinkState::Dialing(dial) = std::mem::replace(&mut link.state, LinkState::Idle) else { return };
        self.open(node, dial.socket);
    }

    /// A proved connection to a node, which is registered with the kernel already.
    fn open(&mut self, node: usize, socket: TcpStream) {
        watch(&self.epoll, &socket, Token::Link(node), false);
        if !self.watches_links {
            let _ = epoll::delete(&self.epoll, &socket);
        }
        let stream = Stream::new(socket, Serial::new(self.fresh_id()));
        self.links.of(node).open(stream);
        self.ready.push(node);
        self.outside.extend(self.ring.is_some().then_some(Carrier::Link(node)));
        self.send(node);
    }

    /// Lets in who knocks.
    fn let_in(&mut self) {
        let Some(listener) = &self.listener else { return };
        let (socket, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_out_of_room(&error) => return self.rest(&error),
            // Nobody knocks any more.
            Err(_) => return,
        };
        let expected =
            Expected { purpose: Purpose::Fabric, size: self.services.size as u64, peer: self.services.rank as u64 };
        let Ok(server) = handshake::Server::new(&self.services.key, expected) else { return };
        if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
            return;
        }
        let until = Instant::now() + HANDSHAKE_LIMIT;
        let stranger = Stranger { socket, address, server, output: Vec::new(), until };
        if self.strangers.len() >= MOST_STRANGERS {
            match self.expendable() {
                Some(id) => self.put_out(id),
                None => return self.turn_away(stranger),
            }
        }
        let id = self.fresh_id();
        if epoll::add(&self.epoll, &stranger.socket, Token::Stranger(id).pack(), EventFlags::IN).is_ok() {
            self.strangers.insert(id, stranger);
        }
    }

    /// There is no room for another connection: leaves those that knock waiting for a while. They would be told of again
    /// and again, and nothing else would be done.
    fn rest(&mut self, error: &io::Error) {
        let Some(listener) = &self.listener else { return };
        let _ = epoll::delete(&self.epoll, listener);
        self.rests_until = Some(Instant::now() + ACCEPT_REST);
        if !std::mem::replace(&mut self.has_rested, true) {
            let here = self.services.here;
            eprintln!(
                "phalanx: node {here}: cannot let other nodes connect now: {error} (remedy: more open files, ulimit -n)"
            );
        }
    }

    /// Looks again who knocks, after a rest.
    fn end_rest(&mut self, now: Instant) {
        if let (Some(listener), Some(_)) = (&self.listener, self.rests_until.take_if(|until| *until <= now)) {
            // What cannot be watched now is tried again later.
            if epoll::add(&self.epoll, listener, Token::Listener.pack(), EventFlags::IN).is_err() {
                self.rests_until = Some(now + ACCEPT_REST);
            }
        }
    }

    /// The oldest stranger that has not shown the job's tag: a rank shows it as soon as it is let in, so that a flood of
    /// others keeps none out.
    fn expendable(&self) -> Option<u32> {
        let silent = self.strangers.iter().filter(|(_, stranger)| !stranger.server.has_heard_hello());
        silent.min_by_key(|(_, stranger)| stranger.until).map(|(id, _)| *id)
    }

    fn put_out(&mut self, id: u32) {
        if let Some(stranger) = self.strangers.remove(&id) {
            self.turn_away(stranger);
        }
    }

    fn turn_away(&mut self, mut stranger: Stranger) {
        stranger.server.decide(Verdict::TooBusy);
        self.log.report(stranger.address, Verdict::TooBusy);
        // It fits into an empty socket buffer, and is lost with a peer that is gone.
        let _ = stranger.send();
    }

    fn fresh_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// A stranger says something.
    fn examine(&mut self, id: u32) {
        let Some(mut stranger) = self.strangers.remove(&id) else { return };
        match stranger.listen() {
            Ok(Event::Continue) => {
                if stranger.send().is_ok() {
                    self.strangers.insert(id, stranger);
                }
            }
            Ok(Event::Refused(verdict)) => {
                self.log.report(stranger.address, verdict);
                let _ = stranger.send();
            }
            Ok(Event::Proved(claim)) => self.welcome(stranger, claim),
            // Whoever says nothing, or shows the job's tag and then thinks better of it, is none to report: of two
            // nodes that dial each other at once, one does so.
            Err(_) if stranger.server.is_in_hello() => self.log.report(stranger.address, Refusal::WentAway),
            Err(_) => {}
        }
    }

    /// A process of the job: the one that speaks for its node, or a guest.
    fn welcome(&mut self, mut stranger: Stranger, claim: Claim) {
        let speaks_for = self.peers.iter().position(|peer| peer.rank as u64 == claim.rank);
        let node = speaks_for.filter(|node| *node != self.services.here);
        let is_crossed = node.is_some_and(|node| self.is_crossed(node));
        stranger.server.decide(if is_crossed { Verdict::Crossed } else { Verdict::Welcome });
        if stranger.send().is_err() || is_crossed {
            return;
        }
        let Some(node) = node else { return self.receive_guest(stranger) };
        // A new connection of the same process: the old one is dead, whether this end has noticed or not.
        if self.ready.contains(&node) {
            self.break_off(node, &StreamError::Closed);
        }
        self.open(node, stranger.socket);
    }

    /// Whether a connection that another node has dialled crosses one that this end has dialled, and is the worse one.
    fn is_crossed(&mut self, node: usize) -> bool {
        if self.services.here > node {
            return false;
        }
        match self.links.get_mut(node) {
            Some(Link { state: LinkState::Dialing(_), .. }) => true,
            Some(Link { state: LinkState::Ready(_), has_refused, .. }) => !std::mem::replace(has_refused, true),
            _ => false,
        }
    }

    fn receive_guest(&mut self, stranger: Stranger) {
        let id = self.fresh_id();
        watch(&self.epoll, &stranger.socket, Token::Guest(id), false);
        let (stream, address) = (Stream::new(stranger.socket, Serial::new(id)), stranger.address);
        self.outside.extend(self.ring.is_some().then_some(Carrier::Guest(id)));
        self.guests.insert(id, Guest { stream, address, outgoing: Outgoing::default(), watches_room: false });
    }

    /// Executes and answers what a guest asks.
    fn serve(&mut self, id: u32) {
        self.take_in_of_guest(id, None);
    }

    /// As [`serve`](Self::serve), of `bytes` that have been received already, or else of what the socket has.
    fn take_in_of_guest(&mut self, id: u32, bytes: Option<&[u8]>) {
        let words = self.memory.words();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let (memory, outgoing) = (&*self.memory, &mut guest.outgoing);
        let has_news = &mut self.sleepers.has_news;
        let handle = |frame| match frame {
            Frame::Value { .. } => Err(StreamError::Answer),
            // Only agents have letters to send.
            Frame::Part { .. } => Err(StreamError::Letter),
            Frame::Request { tag, request } => {
                *has_news = true;
                let value = execute(memory, request);
                if request.has_ticket() { answer(outgoing, tag, value) } else { Ok(()) }
            }
        };
        let received = match bytes {
            None => guest.stream.receive(words, handle).map(drop),
            Some(bytes) => guest.stream.take_in(bytes, words, handle),
        };
        let sent = match received {
            Ok(()) if self.gathers => return self.unsent.push(Carrier::Guest(id)),
            Ok(()) => guest.stream.send(&mut guest.outgoing),
            Err(error) => Err(error),
        };
        self.end_service(id, sent);
    }

    /// After sending to a guest: waits for room, or breaks off.
    fn end_service(&mut self, id: u32, sent: Result<(), StreamError>) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let waits = guest.outgoing.waiting_bytes() > 0;
        match sent {
            Ok(()) if waits == guest.watches_room => {}
            Ok(()) => {
                guest.watches_room = waits;
                watch(&self.epoll, guest.stream.socket(), Token::Guest(id), waits);
            }
            Err(error) => {
                if let StreamError::Frame(_) | StreamError::Answer | StreamError::Letter | StreamError::TooMany = error
                {
                    self.log.report(guest.address, Refusal::BrokeProtocol);
                }
                self.guests.remove(&id);
            }
        }
    }
}

impl Stranger {
    /// Reads what is there, and no byte beyond the handshake.
    fn listen(&mut self) -> Result<Event, StreamError> {
        let mut bytes = [0; handshake::HELLO_BYTES];
        loop {
            let wanted = self.server.wanted();
            if wanted == 0 {
                return Ok(Event::Continue);
            }
            match self.socket.read(&mut bytes[..wanted]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(received) => {
                    let (_, event) = self.server.handle_bytes(&bytes[..received]);
                    if event != Event::Continue {
                        return Ok(event);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Event::Continue),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what the handshake has to say: some hundred bytes, which an empty socket buffer takes whole.
    fn send(&mut self) -> Result<(), StreamError> {
        self.output.extend(self.server.poll_output());
        let sent = self.socket.write(&self.output);
        let is_whole = matches!(sent, Ok(sent) if sent == self.output.len());
        self.output.clear();
        if is_whole { Ok(()) } else { Err(StreamError::Closed) }
    }
}

/// Goes on with a dial as far as the other end lets it; whether it is through.
fn advance(dial: &mut Dial) -> Result<bool, HandshakeError> {
    if !dial.is_connected {
        match sockopt::socket_error(&dial.socket).map_err(io::Error::from)? {
            Ok(()) => {}
            Err(error) => return Err(HandshakeError::System(error.into())),
        }
        if dial.socket.peer_addr().is_err() {
            return Ok(false);
        }
        dial.is_connected = true;
    }
    let mut bytes = [0; handshake::CHALLENGE_BYTES];
    loop {
        if !send_output(dial)? {
            return Ok(false);
        }
        if dial.client.is_welcome() {
            return Ok(true);
        }
        let wanted = dial.client.wanted();
        match dial.socket.read(&mut bytes[..wanted]) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(received) => {
                dial.client.handle_bytes(&bytes[..received])?;
                dial.output.extend(dial.client.poll_output());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(HandshakeError::System(error)),
        }
    }
}

/// Whether all has been sent.
fn send_output(dial: &mut Dial) -> Result<bool, HandshakeError> {
    while !dial.output.is_empty() {
        match dial.socket.write(&dial.output) {
            Ok(sent) => drop(dial.output.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(HandshakeError::System(error)),
        }
    }
    Ok(true)
}

/// Asks the kernel to tell when a socket has something, and, if `room`, when it has room. A socket that cannot be watched
/// any more has an error, which the next use of it shows.
fn watch(epoll: &OwnedFd, socket: &TcpStream, token: Token, room: bool) {
    let flags = if room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
    let _ = epoll::modify(epoll, socket.as_fd(), token.pack(), flags);
}

/// After sending: asks the kernel to tell when a link has room for the rest, if there is any.
#[inline]
fn watch_room(epoll: &OwnedFd, link: &mut Link) {
    let LinkState::Ready(stream) = &link.state else { return };
    let waits = link.outgoing.waiting_bytes() > 0;
    if waits != link.watches_room {
        link.watches_room = waits;
        watch(epoll, stream.socket(), Token::Link(link.node), waits);
    }
}

/// Executes a request on this node's memory and gives the word's old value (0 for a write).
fn execute(memory: &(impl Memory + ?Sized), request: Request) -> u64 {
    let word = memory.word(request.at());
    let (value, has_changed) = match request {
        Request::Write { value, .. } => {
            // SYNC POINT: inbox, fabric sleepers. A full fence: it releases all that came in before, and is visible
            // before the sleepers are counted.
            publish(word, value);
            (0, true)
        }
        // SYNC POINT: outbox, gate. Pairs with the release of whoever of this node wrote the word; and a word that is
        // read after another has been changed is read after it.
        Request::Read { .. } => (word.load(Ordering::SeqCst), false),
        Request::FetchAdd { add, .. } => (word.fetch_add(add, Ordering::SeqCst), true),
        Request::CompareSwap { expected, new, .. } => {
            let found = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::Acquire);
            (found.unwrap_or_else(|found| found), found.is_ok())
        }
    };
    if has_changed {
        wake_sleepers(memory, request.at());
    }
    value
}

/// Ends the sleep of those who wait for another node's word, if there are any.
fn wake_sleepers(memory: &(impl Memory + ?Sized), at: WordAt) {
    // SYNC POINT: fabric sleepers. A rank that parks counts itself, fences, and looks at the word again.
    if memory.word(header::FABRIC_SLEEPERS).load(Ordering::Relaxed) != 0 {
        memory.wake(at);
    }
}

/// Whether accepting a connection has failed for want of descriptors or memory.
fn is_out_of_room(error: &io::Error) -> bool {
    let none_left = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| none_left.contains(&error))
}
