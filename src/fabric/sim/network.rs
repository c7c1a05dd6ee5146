//! Messages, from the adapter that sends them to the word that they change, and back.
//!
//! A posted request becomes a message in a slab and an event at the time of its arrival. When it arrives it takes
//! effect, and if it has a ticket the same message goes back as its reply; then its place in the slab is free. Nothing
//! is allocated for a message once slab and queue have grown.
//!
//! ```text
//! post ── Arrive ─┬─ effect ──────────────────────┬─ (write) done
//!                 ├─ waits, the adapter is busy ──┤
//!                 ├─ reads … Finish: writes ──────┴─ Reply ── ticket has its value
//!                 └─ lost: the connection is doomed ── Break, Fail ── ticket has its error
//! ```
//!
//! An adapter is busy while a read-modify-write is between its two halves, and for the receive gap; what arrives
//! meanwhile waits in line, so that requests of one source keep their order.

use std::collections::VecDeque;
use std::rc::Rc;

use super::connections::Connections;
use super::faults::Links;
use super::time::Queue;
use super::{Atomics, Fault, Options, Seeded, SimNode, Traffic};
use crate::fabric::tickets::TicketTable;
use crate::fabric::{Memory, OperationError, PostError, Request, Ticket};
use crate::sync::Ordering;

/// What happens at a time. Numbers are of messages where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The message comes to its target.
    Arrive(u32),
    /// The reply comes to its source.
    Reply(u32),
    /// The adapter, if busy with this token, writes what it has read and changed.
    Finish(u32, u32),
    /// The adapter of this node, if busy with this token, can go on.
    Free(u32, u32),
    /// The poster's ticket has an error.
    Fail(u32),
    /// This source knows that this connection is broken.
    Break(u32, u32),
    /// This node looks.
    Poll(u32),
    /// This fault of the plan.
    Fault(u32),
    /// This run ends.
    Stop(u32),
}

/// A request under way, and then its reply.
#[derive(Clone, Copy, Debug)]
struct Message {
    source: u32,
    target: u32,
    request: Request,
    /// Of a request that has one.
    ticket: Ticket,
    /// Its number, and the number among those between the same two nodes.
    connection: u32,
    incarnation: u32,
    /// Which life of its source it is of.
    boot: u32,
    departs: u64,
    /// The word's value before.
    value: u64,
    /// A duplicate, which nobody waits for.
    is_copy: bool,
    /// It takes effect, but its completion fails.
    is_unheard: bool,
}

/// The messages under way, each in a place that is used again.
#[derive(Debug, Default)]
struct Slab {
    messages: Vec<Message>,
    free: Vec<u32>,
}

impl Slab {
    fn insert(&mut self, message: Message) -> u32 {
        if let Some(id) = self.free.pop() {
            self.messages[id as usize] = message;
            return id;
        }
        self.messages.push(message);
        u32::try_from(self.messages.len() - 1).expect("fewer messages under way than 32 bits can number")
    }

    fn get(&self, id: u32) -> Message {
        self.messages[id as usize]
    }

    fn get_mut(&mut self, id: u32) -> &mut Message {
        &mut self.messages[id as usize]
    }

    fn remove(&mut self, id: u32) {
        self.free.push(id);
    }
}

/// An adapter's incoming side.
#[derive(Debug, Default)]
struct Inbound {
    /// The token of the event that ends what it is busy with.
    busy: Option<u32>,
    waiting: VecDeque<u32>,
}

/// A node, without its words.
#[derive(Debug)]
pub struct Node {
    pub is_alive: bool,
    /// How often it has restarted.
    pub boots: u32,
    /// When it crashed last.
    crashed_at: u64,
    /// Until when its CPU is busy.
    pub cpu_free: u64,
    /// Until when its adapter is: sending requests, and sending replies.
    sender_free: u64,
    replier_free: u64,
    /// When the driver is to look at it next, if that is arranged.
    pub poll_at: Option<u64>,
    /// A batch was refused for lack of room.
    wants_room: bool,
    in_flight: usize,
    pub tickets: TicketTable,
    inbound: Inbound,
    pub traffic: Traffic,
}

/// Everything but the nodes' words.
#[derive(Debug)]
pub struct Network {
    pub now: u64,
    pub queue: Queue<Event>,
    pub nodes: Vec<Node>,
    pub plan: Vec<Fault>,
    /// A hash over all that has happened.
    pub trace: u64,
    pub delivered: u64,
    pub options: Options,
    pub random: Seeded,
    memories: Rc<[SimNode]>,
    connections: Connections,
    links: Links,
    messages: Slab,
    tokens: u32,
    /// Nothing has ever gone wrong, so that nothing needs to be looked up for it.
    is_calm: bool,
}

impl Network {
    pub fn new(options: Options, memories: Rc<[SimNode]>) -> Self {
        options.check();
        let node = |_| Node {
            is_alive: true,
            boots: 0,
            crashed_at: u64::MAX,
            cpu_free: 0,
            sender_free: 0,
            replier_free: 0,
            poll_at: None,
            wants_room: false,
            in_flight: 0,
            tickets: TicketTable::new(options.requests_max),
            inbound: Inbound::default(),
            traffic: Traffic::default(),
        };
        Self {
            now: 0,
            queue: Queue::new(),
            nodes: (0..options.nodes).map(node).collect(),
            plan: Vec::new(),
            trace: 0,
            delivered: 0,
            random: Seeded::new(options.seed),
            memories,
            connections: Connections::new(options.nodes),
            links: Links::default(),
            messages: Slab::default(),
            tokens: 0,
            is_calm: options.rates.are_zero(),
            options,
        }
    }

    /// See [`crate::fabric::Fabric::post`]; the batch has been checked.
    pub fn post(
        &mut self,
        source: u32,
        target: u32,
        requests: &[Request],
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), PostError> {
        let number = self.connect(source, target)?;
        let wanted = requests.iter().filter(|request| request.has_ticket()).count();
        let node = &mut self.nodes[source as usize];
        if node.in_flight + requests.len() > self.options.requests_max || wanted > node.tickets.room() {
            node.wants_room = true;
            return Err(PostError::Full { node: target as usize });
        }
        node.in_flight += requests.len();
        for request in requests {
            tickets.extend(self.launch(source, target, number, *request));
        }
        Ok(())
    }

    /// Hands a request to the adapter, on a connection that is up; its ticket, if it is answered.
    fn launch(&mut self, source: u32, target: u32, number: u32, request: Request) -> Option<Ticket> {
        let costs = &self.options.costs;
        let connection = self.connections.get_mut(number);
        let node = &mut self.nodes[source as usize];
        node.cpu_free = node.cpu_free.max(self.now) + costs.overhead_ns;
        let departs = node.cpu_free.max(node.sender_free);
        node.sender_free = departs + costs.gap_ns;
        node.traffic.sent += 1;
        node.traffic.sent_bytes += costs.header_bytes + payload_bytes(request);
        let flight = costs.flight_ns(source as usize, target as usize, &mut self.random);
        connection.last_request = connection.last_request.max(departs + flight);
        let ticket = request.has_ticket().then(|| node.tickets.issue());
        let mut message = Message {
            source,
            target,
            request,
            ticket: ticket.unwrap_or(Ticket { slot: 0, generation: 0 }),
            connection: number,
            incarnation: connection.incarnation,
            boot: node.boots,
            departs,
            value: 0,
            is_copy: false,
            is_unheard: false,
        };
        self.queue.push(connection.last_request, Event::Arrive(self.messages.insert(message)));
        if ticket.is_none() && self.random.happens(self.options.rates.duplicated_per_million) {
            message.is_copy = true;
            connection.last_request += costs.flight_ns(source as usize, target as usize, &mut self.random);
            self.queue.push(connection.last_request, Event::Arrive(self.messages.insert(message)));
        }
        ticket
    }

    /// The connection's number. Makes sure that it is up, as far as the source can know.
    fn connect(&mut self, source: u32, target: u32) -> Result<u32, PostError> {
        let boots = [self.nodes[source as usize].boots, self.nodes[target as usize].boots];
        let is_alive = self.nodes[source as usize].is_alive;
        let number = self.connections.between(source, target);
        let connection = self.connections.get(number);
        if connection.is_up && connection.boots[0] == boots[0] && is_alive {
            return Ok(number);
        }
        if let Some(why) = self.obstacle(source as usize, target as usize) {
            return Err(PostError::Unreachable { node: target as usize, why: why.to_owned() });
        }
        let connection = self.connections.get_mut(number);
        connection.incarnation += 1;
        connection.boots = boots;
        connection.is_up = true;
        connection.is_doomed = false;
        Ok(number)
    }

    fn obstacle(&self, source: usize, target: usize) -> Option<&'static str> {
        if !self.nodes[source].is_alive {
            return Some("this node itself has crashed");
        }
        if !self.nodes[target].is_alive {
            return Some("it has crashed");
        }
        let is_cut = self.links.is_cut(source, target) || self.links.is_cut(target, source);
        is_cut.then_some("the link is cut")
    }

    pub fn incarnation(&self, source: u32, target: u32) -> u64 {
        self.connections.find(source, target).map_or(0, |number| u64::from(self.connections.get(number).incarnation))
    }

    /// Lets an event happen. The node that has something new to look at, if there is one.
    pub fn handle(&mut self, event: Event) -> Option<u32> {
        match event {
            Event::Arrive(id) => self.arrive(id),
            Event::Reply(id) => self.reply(id),
            Event::Finish(id, token) => self.finish(id, token),
            Event::Free(node, token) => self.free(node, token),
            Event::Fail(id) => self.fail(id),
            Event::Break(source, connection) => self.break_up(source, connection),
            Event::Poll(node) => Some(node),
            Event::Fault(number) => {
                let fault = self.plan[number as usize].clone();
                self.apply(&fault)
            }
            Event::Stop(_) => None,
        }
    }

    fn note(&mut self, what: u64, who: u32, value: u64) {
        let words = [self.now, what << 32 | u64::from(who), value];
        self.trace = words
            .iter()
            .fold(self.trace, |trace, word| (trace.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95));
    }

    fn arrive(&mut self, id: u32) -> Option<u32> {
        let message = self.messages.get(id);
        self.leave_flight(&message);
        if !self.is_calm {
            match self.fate(&message) {
                Fate::Heard => {}
                Fate::Unheard => self.messages.get_mut(id).is_unheard = true,
                Fate::Lost => {
                    self.lose(id);
                    return None;
                }
                Fate::NeverSent => {
                    self.messages.remove(id);
                    return None;
                }
            }
        }
        let inbound = &mut self.nodes[message.target as usize].inbound;
        if inbound.busy.is_some() {
            inbound.waiting.push_back(id);
            return None;
        }
        self.serve(id)
    }

    /// Its source has room for one more. If it waited for that, it looks.
    fn leave_flight(&mut self, message: &Message) {
        let node = &mut self.nodes[message.source as usize];
        if message.is_copy || message.boot != node.boots {
            return;
        }
        node.in_flight -= 1;
        if std::mem::take(&mut node.wants_room) {
            self.queue.push(self.now, Event::Poll(message.source));
        }
    }

    fn fate(&mut self, message: &Message) -> Fate {
        let (source, target) = (&self.nodes[message.source as usize], &self.nodes[message.target as usize]);
        let is_orphan = !source.is_alive || source.boots != message.boot;
        if is_orphan && message.departs > source.crashed_at {
            return Fate::NeverSent;
        }
        let connection = self.connections.get_mut(message.connection);
        let is_old = connection.incarnation != message.incarnation || connection.is_doomed;
        let is_gone = !target.is_alive || target.boots != connection.boots[1];
        let (from, to) = (message.source as usize, message.target as usize);
        if is_old || is_gone || self.links.is_cut(from, to) {
            return Fate::Lost;
        }
        if self.random.happens(self.options.rates.failed_per_million) {
            return if self.random.below(2) == 0 { Fate::Lost } else { Fate::Unheard };
        }
        if self.links.is_cut(to, from) { Fate::Unheard } else { Fate::Heard }
    }

    /// The adapter executes it, or the first half of it.
    fn serve(&mut self, id: u32) -> Option<u32> {
        let message = self.messages.get(id);
        let word = self.memories[message.target as usize].word(message.request.at());
        // One thread: the order of events is the order of everything, and no ordering is needed.
        let before = word.load(Ordering::Relaxed);
        self.messages.get_mut(id).value = before;
        let is_change = matches!(message.request, Request::FetchAdd { .. } | Request::CompareSwap { .. });
        if let Atomics::Adapter { apart_ns } = self.options.atomics
            && is_change
            && apart_ns > 0
        {
            let token = self.occupy(message.target);
            self.queue.push(self.now + apart_ns, Event::Finish(id, token));
            return None;
        }
        if let Some(after) = outcome(message.request, before) {
            word.store(after, Ordering::Relaxed);
        }
        self.complete(id);
        Some(message.target)
    }

    fn occupy(&mut self, node: u32) -> u32 {
        self.tokens = self.tokens.wrapping_add(1);
        self.nodes[node as usize].inbound.busy = Some(self.tokens);
        self.tokens
    }

    /// The second half of a read-modify-write: what was read is changed and written, whatever the word holds by now.
    fn finish(&mut self, id: u32, token: u32) -> Option<u32> {
        let message = self.messages.get(id);
        let inbound = &mut self.nodes[message.target as usize].inbound;
        if inbound.busy != Some(token) {
            self.lose(id);
            return None;
        }
        inbound.busy = None;
        if let Some(after) = outcome(message.request, message.value) {
            self.memories[message.target as usize].word(message.request.at()).store(after, Ordering::Relaxed);
        }
        self.complete(id);
        self.serve_waiting(message.target);
        Some(message.target)
    }

    fn free(&mut self, node: u32, token: u32) -> Option<u32> {
        let inbound = &mut self.nodes[node as usize].inbound;
        if inbound.busy != Some(token) {
            return None;
        }
        inbound.busy = None;
        self.serve_waiting(node)
    }

    fn serve_waiting(&mut self, node: u32) -> Option<u32> {
        let mut served = None;
        while self.nodes[node as usize].inbound.busy.is_none() {
            let Some(id) = self.nodes[node as usize].inbound.waiting.pop_front() else { break };
            served = self.serve(id).or(served);
        }
        served
    }

    /// It has taken effect: the home's CPU and adapter pay, and the reply goes back.
    fn complete(&mut self, id: u32) {
        let message = self.messages.get(id);
        self.note(1, message.target, message.value ^ (message.request.at().0 as u64) << 32 ^ u64::from(message.source));
        self.delivered += 1;
        let costs = &self.options.costs;
        let (gap, overhead) = (costs.receive_gap_ns, costs.receive_overhead_ns);
        let node = &mut self.nodes[message.target as usize];
        node.traffic.received += 1;
        if overhead > 0 {
            node.cpu_free = node.cpu_free.max(self.now) + overhead;
        }
        if gap > 0 {
            let token = self.occupy(message.target);
            self.queue.push(self.now + gap, Event::Free(message.target, token));
        }
        if message.is_unheard {
            self.lose(id);
        } else if message.request.has_ticket() {
            self.send_back(id, &message);
        } else {
            self.messages.remove(id);
        }
    }

    fn send_back(&mut self, id: u32, message: &Message) {
        let costs = &self.options.costs;
        let node = &mut self.nodes[message.target as usize];
        let ready = if costs.receive_overhead_ns > 0 { node.cpu_free } else { self.now };
        let departs = ready.max(node.replier_free);
        node.replier_free = departs + costs.gap_ns;
        node.traffic.sent += 1;
        node.traffic.sent_bytes += costs.header_bytes + WORD_BYTES;
        let flight = costs.flight_ns(message.target as usize, message.source as usize, &mut self.random);
        let connection = self.connections.get_mut(message.connection);
        connection.last_reply = connection.last_reply.max(departs + flight);
        self.queue.push(connection.last_reply, Event::Reply(id));
    }

    fn reply(&mut self, id: u32) -> Option<u32> {
        let message = self.messages.get(id);
        if !self.is_calm {
            let connection = self.connections.get_mut(message.connection);
            let is_old = connection.incarnation != message.incarnation || connection.is_doomed;
            if is_old || self.links.is_cut(message.target as usize, message.source as usize) {
                self.lose(id);
                return None;
            }
        }
        self.settle(id, Ok(message.value))
    }

    fn fail(&mut self, id: u32) -> Option<u32> {
        let node = self.messages.get(id).target as usize;
        self.settle(id, Err(OperationError::Lost { node, why: "its answer did not come".to_owned() }))
    }

    /// The poster has its outcome, if it still lives.
    fn settle(&mut self, id: u32, value: Result<u64, OperationError>) -> Option<u32> {
        let message = self.messages.get(id);
        self.messages.remove(id);
        self.note(2, message.source, *value.as_ref().unwrap_or(&u64::MAX));
        let node = &mut self.nodes[message.source as usize];
        if !node.is_alive || node.boots != message.boot {
            return None;
        }
        node.traffic.received += u64::from(value.is_ok());
        node.tickets.complete(message.ticket, value);
        Some(message.source)
    }

    /// The message, or its reply, gets nowhere: its connection is doomed, and its poster will know.
    fn lose(&mut self, id: u32) {
        let message = self.messages.get(id);
        self.note(3, message.target, u64::from(message.source));
        if message.is_copy {
            return self.messages.remove(id);
        }
        let connection = self.connections.get_mut(message.connection);
        let mut known_at = self.now;
        if connection.incarnation == message.incarnation {
            if !connection.is_doomed {
                connection.is_doomed = true;
                connection.breaks_at = self.now + self.options.detection_ns;
                self.queue.push(connection.breaks_at, Event::Break(message.source, message.connection));
            }
            known_at = known_at.max(connection.breaks_at);
        }
        if message.request.has_ticket() {
            self.queue.push(known_at, Event::Fail(id));
        } else {
            self.messages.remove(id);
        }
    }

    fn break_up(&mut self, source: u32, number: u32) -> Option<u32> {
        let connection = self.connections.get_mut(number);
        if !connection.is_doomed || connection.breaks_at != self.now {
            return None;
        }
        connection.is_up = false;
        self.note(4, source, u64::from(number));
        Some(source)
    }

    /// A fault takes effect. The node that has something new to look at, if there is one.
    pub fn apply(&mut self, fault: &Fault) -> Option<u32> {
        self.is_calm = false;
        match *fault {
            Fault::Crash { node } => self.crash(node),
            Fault::Restart { node } => return self.restart(node),
            Fault::Cut { from, to } => self.links.cut(from, to),
            Fault::Mend { from, to } => self.links.mend(from, to),
            Fault::Partition { ref sides } => self.links.divide(Some(sides.clone())),
            Fault::Unite => self.links.divide(None),
        }
        None
    }

    fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if !node.is_alive {
            return;
        }
        node.is_alive = false;
        node.crashed_at = self.now;
        let inbound = std::mem::take(&mut node.inbound);
        inbound.waiting.into_iter().for_each(|id| self.lose(id));
        self.note(5, 0, number as u64);
    }

    fn restart(&mut self, number: usize) -> Option<u32> {
        let node = &mut self.nodes[number];
        if node.is_alive {
            return None;
        }
        node.is_alive = true;
        node.boots += 1;
        node.cpu_free = self.now;
        (node.sender_free, node.replier_free) = (self.now, self.now);
        (node.in_flight, node.wants_room) = (0, false);
        node.tickets = TicketTable::new(self.options.requests_max);
        self.memories[number].clear();
        self.note(6, 0, number as u64);
        u32::try_from(number).ok()
    }
}

/// What becomes of a message that comes to its target.
enum Fate {
    /// It takes effect and its poster hears of it.
    Heard,
    /// It takes effect, but its completion fails.
    Unheard,
    /// It has no effect, and its completion fails.
    Lost,
    /// Its source had crashed before it left.
    NeverSent,
}

const WORD_BYTES: u64 = 8;

fn payload_bytes(request: Request) -> u64 {
    match request {
        Request::Read { .. } => 0,
        Request::Write { .. } | Request::FetchAdd { .. } => WORD_BYTES,
        Request::CompareSwap { .. } => 2 * WORD_BYTES,
    }
}

/// What the word holds afterwards, if the request changes it.
fn outcome(request: Request, before: u64) -> Option<u64> {
    match request {
        Request::Write { value, .. } => Some(value),
        Request::Read { .. } => None,
        Request::FetchAdd { add, .. } => Some(before.wrapping_add(add)),
        Request::CompareSwap { expected, new, .. } => (before == expected).then_some(new),
    }
}
