//! What befalls a simulated job, and what kernels and connections know of it: a node's way to the others, and the
//! surroundings that its sentinels see.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::task::Poll;
use std::time::Duration;

use phalanx::FailureCause;
use phalanx::cluster::sentinel::Surroundings;
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::fabric::node::{NodeLayout, header};
use phalanx::fabric::sim::{SimFabric, SimNode};
use phalanx::fabric::tcp::Ports;
use phalanx::fabric::{Fabric, Memory, OperationError, PostError, Request, Ticket, Topology};
use phalanx::sync::Ordering;

use crate::common::sieve::all_but_post_and_take;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// All processes of a node end: its kernel refuses whoever connects.
    Gone(usize),
    /// A machine dies.
    Silent(usize),
    /// A process of a node that others of its node survive.
    Killed(usize),
    /// A rank leaves as it should, as soon as it waits for nobody.
    Leaves(usize),
    Stopped(usize),
    Continued(usize),
    Cut(usize, usize),
    Mend(usize, usize),
    Partition(Vec<u32>),
    Unite,
}

/// What kernels and connections know, outside of the nodes' words.
#[derive(Default)]
pub struct Nature {
    /// Nodes all of whose processes have ended, and when. No other node's ports are closed.
    pub refuses: HashMap<usize, u64>,
    /// Who has found whose ports closed.
    pub refused: HashSet<(usize, usize)>,
    /// Who has shut out whom.
    pub excluded: HashSet<(usize, usize)>,
    /// Those since the last slice of time.
    pub newly_excluded: Vec<(usize, usize)>,
    pub stopped: HashSet<usize>,
    pub agents: HashSet<usize>,
    /// How many ranks leave or have left.
    pub leaving: usize,
    /// Units that somebody has asked after.
    pub asked: HashSet<Unit>,
    pub sides: Option<Vec<u32>>,
    pub cuts: HashSet<(usize, usize)>,
}

impl Nature {
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        let is_one_side = self.sides.as_ref().is_none_or(|sides| sides[from] == sides[to]);
        is_one_side && !self.cuts.contains(&(from, to)) && !self.cuts.contains(&(to, from))
    }
}

/// A node's way to the others, which keeps out whoever was shut out.
pub struct Gate<'run> {
    pub fabric: &'run SimFabric,
    pub memory: &'run SimNode,
    pub nature: &'run RefCell<Nature>,
}

impl Fabric for Gate<'_> {
    all_but_post_and_take!();

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        let nature = self.nature.borrow();
        let unreachable = |why: &str| Err(PostError::Unreachable { node, why: why.to_owned() });
        if nature.excluded.contains(&(self.here(), node)) {
            return unreachable("it has been declared failed");
        }
        if nature.excluded.contains(&(node, self.here())) && nature.is_open(self.here(), node) {
            if self.memory.word(header::EXCLUDED).swap(1, Ordering::Relaxed) == 0 {
                view::raise_alarm(self.memory);
            }
            return unreachable("it has declared this node failed");
        }
        self.fabric.post(node, requests, tickets)
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        self.fabric.take(ticket)
    }
}

/// A rank's surroundings.
pub struct Place<'run> {
    pub memory: &'run SimNode,
    pub nature: &'run RefCell<Nature>,
    pub topology: &'run Topology,
    pub layouts: &'run [NodeLayout],
    pub rank: usize,
}

impl Place<'_> {
    pub fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }

    pub fn layout(&self) -> NodeLayout {
        self.layouts[self.here()]
    }
}

impl Surroundings for Place<'_> {
    fn is_agent(&self) -> bool {
        self.nature.borrow().agents.contains(&self.rank)
    }

    fn become_agent(&self) -> bool {
        self.nature.borrow_mut().agents.insert(self.rank)
    }

    fn is_stopped(&self, local: usize) -> bool {
        self.nature.borrow().stopped.contains(&self.topology.ranks_of(self.here())[local])
    }

    fn probe(&self, node: usize) {
        let mut nature = self.nature.borrow_mut();
        let link = (self.here(), node);
        if nature.refuses.contains_key(&node) && nature.is_open(link.0, link.1) {
            nature.refused.insert(link);
        } else {
            nature.refused.remove(&link);
        }
    }

    fn ports(&self, node: usize) -> Ports {
        let is_refused = self.nature.borrow().refused.contains(&(self.here(), node));
        if is_refused { Ports::Closed } else { Ports::Unknown }
    }

    fn acknowledged(&self, node: usize) -> Option<Duration> {
        let nature = self.nature.borrow();
        let is_stopped = self.topology.ranks_of(node).iter().any(|rank| nature.stopped.contains(rank));
        let is_open = nature.is_open(self.here(), node) && nature.is_open(node, self.here());
        (is_stopped && is_open).then_some(Duration::ZERO)
    }

    fn shut_out(&self, lost: Obituary) {
        if let Unit::Node(node) = lost.unit
            && node != self.here()
            && lost.cause != FailureCause::Left
        {
            let mut nature = self.nature.borrow_mut();
            if !nature.excluded.insert((self.here(), node)) {
                return;
            }
            nature.newly_excluded.push((self.here(), node));
            let layout = self.layout();
            let open = 1..=view::epoch(self.memory, &layout);
            let mut told = open.filter_map(|epoch| view::obituary(self.memory, &layout, epoch));
            let is_told = told.any(|told| told.unit == lost.unit);
            assert!(!is_told, "the ranks of node {} know of {lost:?} before it is shut out", self.here());
        }
    }

    fn rouse(&self) {}
}
