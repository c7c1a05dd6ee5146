//! Simulated nodes joined by wires of which each has a will of its own: one thread, everything drawn from a seed.
//!
//! Each process has a wire to each node. Requests take effect in the order posted, each as late as the schedule likes,
//! and answers come back as late. A wire can be full, or unreachable, or break: then what waits is lost.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Poll;

use phalanx::fabric::sim::{Seeded, SimNode};
use phalanx::fabric::tickets::TicketTable;
use phalanx::fabric::{
    AtomicScope, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, WordAt, check_batch,
};
use phalanx::sync::Ordering;

/// The nodes, and all that is between them.
pub struct Wires {
    pub nodes: Vec<SimNode>,
    state: RefCell<State>,
}

struct State {
    random: Seeded,
    /// How likely a wire is to fail when it is used, in per mille.
    faults: usize,
    /// By process and node.
    wires: BTreeMap<(usize, usize), Wire>,
    tickets: Vec<TicketTable>,
    /// The longest time, in steps, for which a wire may carry nothing; 0 for never.
    longest_stall: usize,
    steps: usize,
    /// Wires that are no more, by process and node.
    cut: BTreeSet<(usize, usize)>,
    /// The write that the last step has let take effect: node, word, value.
    last_write: Option<(usize, WordAt, u64)>,
}

#[derive(Default)]
struct Wire {
    requests: VecDeque<(Request, Option<Ticket>)>,
    answers: VecDeque<(Ticket, u64)>,
    breaks: u64,
    stalls_until: usize,
    held_until: usize,
}

impl Wires {
    pub fn new(nodes: Vec<SimNode>, processes: usize, faults: usize, seed: u64) -> Self {
        let tickets = (0..processes).map(|_| TicketTable::new(4096)).collect();
        let (random, wires) = (Seeded::new(seed), BTreeMap::new());
        let (cut, last_write) = (BTreeSet::new(), None);
        let state = State { random, faults, wires, tickets, longest_stall: 0, steps: 0, cut, last_write };
        Self { nodes, state: RefCell::new(state) }
    }

    /// The same, with wires that carry nothing for up to so many steps now and then.
    pub fn with_stalls(mut self, longest: usize) -> Self {
        self.state.get_mut().longest_stall = longest;
        self
    }

    /// Breaks a process's wire to a node: what is on its way by it is lost.
    pub fn break_off(&self, process: usize, node: usize) {
        let State { wires, tickets, .. } = &mut *self.state.borrow_mut();
        if let Some(wire) = wires.get_mut(&(process, node)) {
            wire.break_off(node, &mut tickets[process]);
        }
    }

    /// The same for good: the process has ended or is shut out, or the node has no process any more.
    pub fn cut(&self, process: usize, node: usize) {
        self.break_off(process, node);
        self.state.borrow_mut().cut.insert((process, node));
    }

    /// A process's wires carry nothing for so many steps, though nothing else be on its way.
    pub fn hold_up(&self, process: usize, longest: usize) {
        let State { wires, steps, .. } = &mut *self.state.borrow_mut();
        let own = wires.iter_mut().filter(|((from, _), _)| *from == process);
        own.for_each(|(_, wire)| wire.held_until = *steps + longest);
    }

    /// One process's end.
    pub fn of(&self, process: usize, here: usize) -> Process<'_> {
        Process { net: self, process, here }
    }

    /// Lets one thing happen on a wire: a request takes effect, an answer comes in, a wire breaks. `false`: all is
    /// quiet.
    pub fn step(&self) -> bool {
        let State { random, faults, wires, tickets, longest_stall, steps, last_write, .. } =
            &mut *self.state.borrow_mut();
        *steps += 1;
        *last_write = None;
        let mut busy: Vec<(usize, usize)> = Vec::new();
        busy.extend(wires.iter().filter(|(_, wire)| wire.is_busy()).map(|(ends, _)| *ends));
        if busy.is_empty() {
            return false;
        }
        busy.retain(|ends| wires[ends].held_until <= *steps);
        if busy.is_empty() {
            return true;
        }
        if busy.iter().any(|ends| wires[ends].stalls_until <= *steps) {
            busy.retain(|ends| wires[ends].stalls_until <= *steps);
        }
        let (process, node) = busy[random.below(busy.len())];
        let wire = wires.get_mut(&(process, node)).expect("chosen among them");
        if *longest_stall > 0 && random.below(500) == 0 {
            wire.stalls_until = *steps + random.below(*longest_stall);
            return true;
        }
        if random.below(1000) < *faults {
            wire.break_off(node, &mut tickets[process]);
        } else if wire.requests.is_empty() || (!wire.answers.is_empty() && random.below(2) == 0) {
            let (ticket, value) = wire.answers.pop_front().expect("it is busy");
            tickets[process].complete(ticket, Ok(value));
        } else {
            let (request, ticket) = wire.requests.pop_front().expect("looked just now");
            let value = execute(&self.nodes[node], request);
            if let Request::Write { at, value } = request {
                *last_write = Some((node, at, value));
            }
            wire.answers.extend(ticket.map(|ticket| (ticket, value)));
        }
        true
    }

    /// The write that the last step has let take effect, if it was one: node, word, value.
    pub fn last_write(&self) -> Option<(usize, WordAt, u64)> {
        self.state.borrow().last_write
    }

    /// Lets everything happen that is on its way.
    pub fn settle(&self) {
        while self.step() {}
    }

    /// Tickets of a process that are neither taken nor forgotten.
    pub fn tickets_of(&self, process: usize) -> usize {
        self.state.borrow().tickets[process].used()
    }
}

impl Wire {
    fn is_busy(&self) -> bool {
        !self.requests.is_empty() || !self.answers.is_empty()
    }

    /// What has not taken effect never will, and nobody learns what has.
    fn break_off(&mut self, node: usize, tickets: &mut TicketTable) {
        self.breaks += 1;
        let asked = self.requests.drain(..).filter_map(|(_, ticket)| ticket);
        for ticket in self.answers.drain(..).map(|(ticket, _)| ticket).chain(asked) {
            tickets.complete(ticket, Err(OperationError::Lost { node, why: "the seed says so".to_owned() }));
        }
    }
}

/// Executes a request by a node's CPU; gives the word's old value.
pub fn execute(node: &SimNode, request: Request) -> u64 {
    let word = node.word(request.at());
    match request {
        Request::Write { value, .. } => word.swap(value, Ordering::SeqCst),
        Request::Read { .. } => word.load(Ordering::SeqCst),
        Request::FetchAdd { add, .. } => word.fetch_add(add, Ordering::SeqCst),
        Request::CompareSwap { expected, new, .. } => {
            let swapped = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
            swapped.unwrap_or_else(|found| found)
        }
    }
}

/// One process, as a fabric.
#[derive(Clone, Copy)]
pub struct Process<'net> {
    net: &'net Wires,
    process: usize,
    here: usize,
}

impl Fabric for Process<'_> {
    fn here(&self) -> usize {
        self.here
    }

    fn nodes(&self) -> usize {
        self.net.nodes.len()
    }

    fn words_of(&self, node: usize) -> usize {
        self.net.nodes[node].words()
    }

    fn kind_of(&self, _node: usize) -> FabricKind {
        FabricKind::Sim
    }

    fn atomic_scope(&self, _node: usize) -> AtomicScope {
        AtomicScope::Cpu
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.net.state.borrow().wires.get(&(self.process, node)).map_or(0, |wire| wire.breaks + 1)
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        check_batch(self, node, requests)?;
        let State { random, faults, wires, tickets: tables, cut, .. } = &mut *self.net.state.borrow_mut();
        if cut.contains(&(self.process, node)) {
            return Err(PostError::Unreachable { node, why: "it is gone".to_owned() });
        }
        match random.below(2000) {
            number if number < *faults => return Err(PostError::Full { node }),
            number if number < 2 * *faults => {
                return Err(PostError::Unreachable { node, why: "the seed says so".to_owned() });
            }
            _ => {}
        }
        let wire = wires.entry((self.process, node)).or_default();
        for request in requests {
            let ticket = request.has_ticket().then(|| tables[self.process].issue());
            tickets.extend(ticket);
            wire.requests.push_back((*request, ticket));
        }
        Ok(())
    }

    fn progress(&self) {}

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        self.net.state.borrow_mut().tickets[self.process].take(ticket).expect("a ticket is spent once")
    }

    fn forget(&self, ticket: Ticket) {
        self.net.state.borrow_mut().tickets[self.process].forget(ticket);
    }
}
