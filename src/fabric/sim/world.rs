//! A simulated world: its nodes, its time, and the driver that polls machines as things arrive.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use super::fabric::number;
use super::network::{Event, Network};
use super::{Fault, Options, SimFabric, SimNode, Traffic};

/// Simulated nodes and the network between them.
///
/// Time moves by [`step`](Self::step), [`advance_to`](Self::advance_to) and [`run`](Self::run), and only by them.
#[derive(Debug)]
pub struct World {
    network: Rc<RefCell<Network>>,
    memories: Rc<[SimNode]>,
    fabrics: Vec<SimFabric>,
    runs: u32,
}

impl World {
    /// A world at time 0; all words hold 0.
    ///
    /// # Panics
    ///
    /// When the options ask for more nodes or requests than 32 bits can number, or for less room than a batch needs.
    pub fn new(options: Options) -> Self {
        let words = options.words;
        Self::with_words(options, |_| words)
    }

    /// A world whose nodes have different numbers of words.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_words(options: Options, words: impl Fn(usize) -> usize) -> Self {
        let memories: Rc<[SimNode]> = (0..options.nodes).map(|node| SimNode::new(words(node))).collect();
        let network = Rc::new(RefCell::new(Network::new(options, Rc::clone(&memories))));
        let fabric =
            |node| SimFabric { network: Rc::clone(&network), memories: Rc::clone(&memories), here: number(node) };
        let fabrics = (0..memories.len()).map(fabric).collect();
        Self { network, memories, fabrics, runs: 0 }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.memories.len()
    }

    /// The node's words.
    pub fn memory(&self, node: usize) -> &SimNode {
        &self.memories[node]
    }

    /// The node's way to the others.
    pub fn fabric(&self, node: usize) -> &SimFabric {
        &self.fabrics[node]
    }

    /// The time, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.network.borrow().now
    }

    /// What the node's adapter has carried.
    pub fn traffic(&self, node: usize) -> Traffic {
        self.network.borrow().nodes[node].traffic
    }

    /// How many requests have taken effect.
    pub fn delivered(&self) -> u64 {
        self.network.borrow().delivered
    }

    /// A hash over everything that has happened, in order: two runs with the same are the same.
    pub fn trace(&self) -> u64 {
        self.network.borrow().trace
    }

    /// Whether the node has not crashed.
    pub fn is_alive(&self, node: usize) -> bool {
        self.network.borrow().nodes[node].is_alive
    }

    /// A fault, now.
    pub fn apply(&mut self, fault: &Fault) {
        self.network.borrow_mut().apply(fault);
    }

    /// A fault, at a time that is to come.
    ///
    /// # Panics
    ///
    /// When that time is over.
    pub fn schedule(&mut self, at_ns: u64, fault: Fault) {
        let mut network = self.network.borrow_mut();
        let place = number(network.plan.len());
        network.plan.push(fault);
        network.queue.push(at_ns, Event::Fault(place));
    }

    /// Goes on to the next event. `false`: there is none, and nothing happens any more by itself.
    pub fn step(&mut self) -> bool {
        let mut network = self.network.borrow_mut();
        let Some((time, event)) = network.queue.pop() else { return false };
        network.now = time;
        network.handle(event);
        true
    }

    /// When the next event happens, if there is one.
    pub fn next_event_ns(&self) -> Option<u64> {
        self.network.borrow().queue.next_time()
    }

    /// Lets everything happen that happens until a time, and goes there.
    pub fn advance_to(&mut self, ns: u64) {
        while self.next_event_ns().is_some_and(|time| time <= ns) {
            self.step();
        }
        let mut network = self.network.borrow_mut();
        network.now = network.now.max(ns);
    }

    /// Polls every node's machine until it is ready: at first, whenever something has arrived at the node, and when its
    /// CPU is free again after posting. Gives the time at which each node was ready and had posted everything, `None`
    /// for those that crashed or that nothing can move any more.
    ///
    /// A machine may also ask to be polled ([`SimFabric::alarm`]) and make its CPU busy ([`SimFabric::compute`]).
    /// Events that are still to come when the last node is ready are left for later runs.
    pub fn run(&mut self, poll: impl FnMut(usize, &SimNode, &SimFabric) -> Poll<()>) -> Vec<Option<u64>> {
        self.run_until(u64::MAX, poll)
    }

    /// As [`run`](Self::run), but ends at a time: for machines that may never be ready.
    pub fn run_until(
        &mut self,
        limit_ns: u64,
        poll: impl FnMut(usize, &SimNode, &SimFabric) -> Poll<()>,
    ) -> Vec<Option<u64>> {
        self.runs = self.runs.wrapping_add(1);
        self.start(limit_ns);
        let mut run = Run { world: self, poll, ready: vec![None; self.nodes()], open: self.nodes() };
        run.go_on();
        run.ready
    }

    fn start(&self, limit_ns: u64) {
        let mut network = self.network.borrow_mut();
        let now = network.now;
        if limit_ns < u64::MAX {
            network.queue.push(limit_ns.max(now), Event::Stop(self.runs));
        }
        for node in 0..network.nodes.len() {
            let at = network.nodes[node].cpu_free.max(now);
            network.nodes[node].poll_at = Some(at);
            network.queue.push(at, Event::Poll(number(node)));
        }
    }
}

/// One call of [`World::run_until`].
struct Run<'world, F> {
    world: &'world World,
    poll: F,
    ready: Vec<Option<u64>>,
    /// How many nodes are not ready; crashed ones among them.
    open: usize,
}

impl<F: FnMut(usize, &SimNode, &SimFabric) -> Poll<()>> Run<'_, F> {
    fn go_on(&mut self) {
        while self.open > 0 {
            let mut network = self.world.network.borrow_mut();
            let Some((time, event)) = network.queue.pop() else { return };
            network.now = time;
            if matches!(event, Event::Stop(run) if run == self.world.runs) {
                return;
            }
            let Some(number) = network.handle(event) else { continue };
            let node = number as usize;
            if self.ready[node].is_some() || !network.nodes[node].is_alive {
                continue;
            }
            let entry = &mut network.nodes[node];
            if matches!(event, Event::Poll(_)) && entry.poll_at == Some(time) {
                entry.poll_at = None;
            }
            if entry.cpu_free > time {
                Self::look_when_free(&mut network, number);
                continue;
            }
            drop(network);
            self.look(number);
        }
    }

    fn look(&mut self, number: u32) {
        let node = number as usize;
        let world = self.world;
        let polled = (self.poll)(node, &world.memories[node], &world.fabrics[node]);
        let mut network = world.network.borrow_mut();
        let free_at = network.nodes[node].cpu_free.max(network.now);
        if polled.is_ready() {
            self.ready[node] = Some(free_at);
            self.open -= 1;
        } else if free_at > network.now {
            Self::look_when_free(&mut network, number);
        }
    }

    fn look_when_free(network: &mut Network, number: u32) {
        let entry = &mut network.nodes[number as usize];
        let at = entry.cpu_free;
        if entry.poll_at.is_none_or(|arranged| arranged > at) {
            entry.poll_at = Some(at);
            network.queue.push(at, Event::Poll(number));
        }
    }
}
