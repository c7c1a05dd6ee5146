//! One process's connections: dialling, letting in, executing what comes in, sending what waits.
//!
//! All of it never blocks. Whoever holds the engine's lock takes a *turn*: looks at the links that are ready to carry
//! frames, and now and then at everything else that the kernel has to tell. `dialling` makes connections, `strangers`
//! lets them in; `guests` serves processes that do not speak for a node; `by_ring` moves many connections' bytes at
//! once; `exclusion` shuts ranks and nodes out; `calls` notes what the layer above wants to be told.

mod by_ring;
mod calls;
mod dialling;
mod exclusion;
mod guests;
pub mod sleepers;
mod strangers;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use self::calls::Calls;
pub use self::calls::{Due, GivenUp, MOST_WATCHED, WordChanger};
use self::dialling::{advance, outcome_of};
use self::guests::Guest;
use self::sleepers::{Sleep, Sleepers};
use self::strangers::Stranger;
use super::attention::Attention;
use super::frame::{Frame, Letter};
use super::link::{Dial, Link, LinkState, Outcome};
use super::stream::{Outgoing, Stream, StreamError, answer};
use super::uring::{Carrier, Ring, Serial};
use super::{Door, Peer, Services};
use crate::fabric::tickets::TicketTable;
use crate::fabric::{Memory, PostError, Request, Ticket, WordAt, execute};
use crate::handshake::{HandshakeError, Purpose, Refusal, RefusalLog, Verdict};
use crate::sync::{AtomicU32, Ordering};

/// Values on their way or not taken, at most.
const MOST_TICKETS: usize = 1 << 14;
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
    /// Of those who sleep.
    Bell,
    Listener,
    Link(usize),
    Guest(u32),
    Stranger(u32),
}

impl Token {
    const KINDS: u64 = 8;

    fn pack(self) -> EventData {
        let (kind, index) = match self {
            Self::Bell => (0, 0),
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
            0 => Self::Bell,
            1 => Self::Listener,
            2 => Self::Link(index as usize),
            3 => Self::Guest(index as u32),
            _ => Self::Stranger(index as u32),
        }
    }
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
    door: Door,
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
    attention: Attention,
    calls: Calls,
    /// Ranks that are shut out.
    excluded: HashSet<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("ready", &self.ready).field("guests", &self.guests.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Serves `memory`; `epoll` is what others sleep on.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(
        services: Services,
        memory: Arc<dyn Memory + Send + Sync>,
        peers: Arc<[Peer]>,
        door: Door,
        epoll: OwnedFd,
        ring: Option<Ring>,
    ) -> io::Result<Self> {
        let sleepers = Sleepers::new()?;
        epoll::add(&epoll, &sleepers.bell, Token::Bell.pack(), EventFlags::IN)?;
        let engine = Self {
            services,
            memory,
            peers,
            epoll,
            door,
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
            attention: Attention::default(),
            calls: Calls::new(),
            excluded: HashSet::new(),
        };
        engine.let_knock()?;
        Ok(engine)
    }

    /// Speaks for this node from now on, and lets in who knocks. Connections that there are already, as a guest's, stay
    /// as they are, so that nothing that is on them is lost; what is dialled from now on is an agent's.
    ///
    /// # Errors
    ///
    /// There is no door.
    pub fn become_agent(&mut self) -> io::Result<()> {
        if self.is_agent() {
            return Ok(());
        }
        self.door.open()
    }

    /// Whether this process speaks for its node.
    pub fn is_agent(&self) -> bool {
        self.door.is_open()
    }

    /// Has the kernel tell who knocks, if there is a door.
    fn let_knock(&self) -> io::Result<()> {
        let Some(listener) = self.door.listener() else { return Ok(()) };
        listener.set_nonblocking(true)?;
        Ok(epoll::add(&self.epoll, listener, Token::Listener.pack(), EventFlags::IN)?)
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
            let (value, _) = execute(&*self.memory, *request);
            if request.has_ticket() {
                let ticket = self.tickets.issue();
                given.push(ticket);
                self.tickets.complete(ticket, Ok(value));
            }
        }
        Ok(())
    }

    /// How often the connections have been polled.
    #[cfg(test)]
    pub fn turns(&self) -> u32 {
        self.turns
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
                Token::Bell => {}
                Token::Listener => self.let_in(),
                Token::Link(node) => self.attend(node),
                Token::Guest(id) => self.serve(id),
                Token::Stranger(id) => self.examine(id),
            }
        }
        self.end_what_is_late();
    }

    /// For how long the connections are polled by who would sleep on them, where things come closely one after another.
    pub fn set_attention(&mut self, span: Duration) {
        self.attention.set_span(span);
    }

    /// Somebody is about to sleep: until when it is to poll instead, if so.
    pub fn begin_attention(&mut self) -> Option<Instant> {
        // Where another one sleeps already, what comes wakes that one in any case.
        if !self.attention.is_wanted() || self.sleepers.asleep > 0 {
            return None;
        }
        self.attention.begin(self.sleepers.heard, Instant::now())
    }

    /// It has polled, and something has come, or not.
    pub fn end_attention(&mut self, has_come: bool) {
        self.attention.end(has_come);
    }

    /// How often something has been taken in, as far as that has been told.
    pub fn heard(&self) -> u64 {
        self.sleepers.heard
    }

    /// Somebody is about to sleep until `epoll` has something to tell, or [`peals`](Self::peals) changes, whichever the
    /// returned [`Sleep`] names; or until its limit.
    pub fn fall_asleep(&mut self) -> Sleep {
        let limit = self.next_limit();
        self.sleepers.begin(limit)
    }

    /// What to sleep on while the bell rings for others.
    pub fn peals(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.sleepers.peals)
    }

    /// After a sleep that an event has ended, or nothing: takes in what has come.
    pub fn wake_up(&mut self, sleep: &Sleep) {
        self.sleepers.end(sleep);
        // The others rely on this one's limit.
        self.sleepers.has_news |= self.sleepers.asleep > 0 && self.sleepers.limit.is_some();
        if self.ring.is_some() {
            self.turn_by_ring();
        }
        self.look_around();
    }

    /// Wakes those who sleep, if something has been taken in: the kernel has nothing to tell them of it any more.
    pub fn tell_sleepers(&mut self) {
        self.sleepers.tell();
    }

    /// Wakes those who sleep, whatever has come in.
    pub fn rouse(&mut self) {
        self.sleepers.has_news = true;
        self.sleepers.tell();
    }

    /// Whether a word of this node's memory holds something else.
    pub fn holds_other(&self, at: WordAt, seen: u64) -> bool {
        // SYNC POINT: inbox, alarm. Acquire pairs with `execute`, by which other nodes change words of this one, and
        // with `raise_alarm`.
        self.memory.word(at).load(Ordering::Acquire) != seen
    }

    /// When something has to be given up, if nothing happens before.
    pub fn next_limit(&self) -> Option<Instant> {
        let strangers = self.strangers.values().map(|stranger| stranger.until);
        let links = self.links.values().filter_map(|link| link.state.limit());
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
        let is_late = |link: &&Link| link.state.limit().is_some_and(|limit| limit <= now);
        let late: Vec<usize> = self.links.values().filter(is_late).map(|link| link.node).collect();
        for node in late {
            self.end_silence(node);
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
        let (memory, letters, calls) = (&*self.memory, &mut self.letters, &mut self.calls);
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
                let value = calls.execute(memory, request)?;
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
        self.conclude(node, values, received.err());
    }

    /// After what a link had was taken in: the values that were asked for are handed out, and what waits is sent.
    fn conclude(&mut self, node: usize, values: Vec<(u32, u64)>, mut failed: Option<StreamError>) {
        let link = self.links.get_mut(node).expect("it has carried something");
        for (tag, value) in values {
            match link.answered(tag) {
                Some(ticket) => self.tickets.complete(ticket, Ok(value)),
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
        let (memory, calls) = (&*self.memory, &mut self.calls);
        let mut values = Vec::new();
        let mut hear = |frame| {
            match frame {
                Frame::Value { tag, value } => values.push((tag, value)),
                Frame::Request { request, .. } => drop(calls.execute(memory, request)?),
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
            LinkState::Ready(_) | LinkState::Dialing(_) | LinkState::Expecting { .. } | LinkState::PassingOn { .. } => {
                link.outgoing.waiting_bytes() > 0
            }
            LinkState::Idle | LinkState::Failed { .. } | LinkState::Shut { .. } => false,
        };
        self.links.values().any(waits)
    }

    fn break_off(&mut self, node: usize, error: &StreamError) {
        self.ready.retain(|ready| *ready != node);
        self.calls.note_breach();
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
                    // Once it is connected there is less time.
                    self.note_limit();
                }
                Ok(true) => self.dialled(node),
                Err(HandshakeError::Refused { verdict: Verdict::Crossed, .. }) => {
                    link.state = LinkState::Expecting { until: Instant::now() + EXPECT_LIMIT };
                }
                // Only with a size has it been said by somebody who knows the key.
                Err(HandshakeError::Refused { verdict: Verdict::Excluded, size: Some(_) }) => {
                    self.handle_exclusion(node);
                }
                Err(error) => self.dial_on(node, &error.to_string(), outcome_of(&error)),
            },
            LinkState::Idle
            | LinkState::Failed { .. }
            | LinkState::Expecting { .. }
            | LinkState::PassingOn { .. }
            | LinkState::Shut { .. } => {}
        }
    }

    /// A proved connection to one of a node's candidates, which is registered with the kernel already. `purpose`: what
    /// this process is to the other end.
    fn open(&mut self, node: usize, candidate: usize, purpose: Purpose, socket: TcpStream) {
        watch(&self.epoll, &socket, Token::Link(node), false);
        if !self.watches_links {
            let _ = epoll::delete(&self.epoll, &socket);
        }
        let stream = Stream::new(socket, Serial::new(self.fresh_id()));
        self.links.of(node).open(stream, candidate, purpose);
        self.ready.push(node);
        self.outside.extend(self.ring.is_some().then_some(Carrier::Link(node)));
        self.send(node);
    }

    fn fresh_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}

/// Asks the kernel to tell when a socket has something, and, if `room`, when it has room. A socket that cannot be
/// watched any more has an error, which the next use of it shows.
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
