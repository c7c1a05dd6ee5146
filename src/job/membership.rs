//! What all groups of a rank share: who and where it is, its node's memory, and its way to the other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::FailureOptions;
use super::watcher::Watcher;
use crate::cluster::view::FailureCause;
use crate::coord::barrier::Algorithm;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::Parting;
use crate::coord::barrier::spanning::layout::SpanLayout;
use crate::coord::barrier::spanning::schedule::{Costs, ExchangePattern, Schedule};
use crate::coord::drive::Driver;
use crate::coord::endings::Ending;
use crate::coord::formation;
use crate::coord::introductions::Introductions;
use crate::coord::offers::{Named, Offered};
use crate::coord::stats::NodeClock;
use crate::fabric::network::Network;
use crate::fabric::node::NodeLayout;
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, Topology};
use crate::object::{Reach, Steward};
use crate::sync::{AtomicU64, Ordering};
use crate::trace::Trace;

/// Groups that a rank remembers to have declined. Some of them are never made.
const MOST_DECLINED: usize = 64;

/// A rank's part in its job.
#[derive(Debug)]
pub(crate) struct Membership {
    pub segment: Arc<Segment>,
    pub rank: usize,
    /// The algorithm that this rank names for the groups that it makes.
    pub algorithm: Option<Algorithm>,
    /// Whether the ranks of this machine can each have a CPU, and how many there are.
    pub cpus: CpuShare,
    pub driver: Driver,
    pub topology: Arc<Topology>,
    /// How each node's segment is divided.
    pub layouts: Arc<[NodeLayout]>,
    pub exchange: Exchange,
    /// The way to the other nodes, if there are any.
    pub network: Option<Arc<Network>>,
    /// On how many nodes besides its home counters and fenced words are kept.
    pub durable_copies: usize,
    /// The timeline, if one was asked for.
    pub trace: Option<Trace>,
    /// The last epoch that its timeline has.
    pub traced_epoch: AtomicU64,
    /// What the alarm held when this rank last looked what the dead of its node hold of groups across nodes.
    pub buried: AtomicU64,
    /// The last epoch whose loss this process has shut out where it gives space back.
    pub shut_out_to: AtomicU64,
    /// Groups that this rank has dropped, and whose other nodes have not been seen to have what it has said there.
    parted: Mutex<Vec<Parted>>,
    /// What is left to do for groups that were made, given up, or left.
    endings: Mutex<Vec<Ending>>,
    /// What this rank has begun, as its node's leader, of spanning groups whose other leaders have not come: the oldest
    /// first.
    half_made: Mutex<Vec<Introductions>>,
    /// Groups that this rank has given up before they were there: to be taken and given back when they are.
    declined: Mutex<Vec<Declined>>,
    /// Groups that this rank has made and dropped, and others have not taken.
    untaken: Mutex<Vec<Untaken>>,
    /// What named objects need of all this.
    pub reach: Reach,
    /// The clocks of other nodes that have been asked for.
    clocks: Mutex<HashMap<usize, NodeClock>>,
    /// When somebody has failed.
    pub failure: FailureOptions,
    /// Watches the node's other processes.
    watcher: Mutex<Option<Watcher>>,
    /// Looks after named objects of those who have ended, in a job of several nodes.
    steward: Mutex<Option<Steward>>,
}

/// A group that a rank does not want any more, and that its node's leader may still offer.
#[derive(Debug)]
pub(crate) struct Declined {
    pub named: Named,
    pub ranks: Vec<usize>,
}

/// A member on its way out of a group, whose words have not been seen to arrive everywhere.
#[derive(Debug)]
pub(crate) struct Parted {
    pub parting: Parting,
    /// The block that it then leaves, and its place among its node's members: not of the world, whose block stays.
    pub leaves: Option<(SpanLayout, usize)>,
    /// The group's members.
    pub ranks: Vec<usize>,
}

/// A group that its maker has dropped and offers still.
#[derive(Debug)]
pub(crate) struct Untaken {
    pub offered: Offered,
    pub block: GroupBlock,
}

/// A group's block on this node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GroupBlock {
    Local(GroupLayout),
    Spanning(SpanLayout),
}

/// How nodes exchange messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exchange {
    /// The pattern that the job names, for all of its groups.
    pub pattern: Option<ExchangePattern>,
    /// What a message costs, the same numbers on all nodes.
    pub costs: Costs,
}

/// How the ranks of a machine share its CPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuShare {
    pub ranks: usize,
    pub cpus: usize,
    pub quota: Option<f64>,
    pub has_own_cpus: bool,
}

/// What [`Membership::new`] is made of.
pub(crate) struct Parts {
    pub segment: Arc<Segment>,
    pub rank: usize,
    pub algorithm: Option<Algorithm>,
    pub cpus: CpuShare,
    pub driver: Driver,
    pub topology: Arc<Topology>,
    pub layouts: Arc<[NodeLayout]>,
    pub exchange: Exchange,
    pub network: Option<Arc<Network>>,
    pub failure: FailureOptions,
    pub watcher: Option<Watcher>,
    pub trace: Option<Trace>,
    pub durable_copies: usize,
}

impl Membership {
    pub fn new(parts: Parts) -> Self {
        let Parts { segment, rank, algorithm, cpus, driver, topology, layouts, exchange, network, .. } = parts;
        let (failure, trace, watcher) = (parts.failure, parts.trace, Mutex::new(parts.watcher));
        let reach = Reach {
            segment: Arc::clone(&segment),
            rank,
            end_at: segment.layout().end(topology.local_of(rank)),
            topology: Arc::clone(&topology),
            layouts: Arc::clone(&layouts),
            network: network.clone(),
            plan: driver.plan,
            uses: Arc::default(),
            until: None,
        };
        Self {
            segment,
            rank,
            algorithm,
            cpus,
            driver,
            topology,
            layouts,
            exchange,
            network,
            durable_copies: parts.durable_copies,
            trace,
            traced_epoch: AtomicU64::new(0),
            buried: AtomicU64::new(0),
            shut_out_to: AtomicU64::new(0),
            parted: Mutex::default(),
            endings: Mutex::default(),
            half_made: Mutex::default(),
            declined: Mutex::default(),
            untaken: Mutex::default(),
            reach,
            clocks: Mutex::default(),
            failure,
            watcher,
            steward: Mutex::default(),
        }
    }

    /// Starts to look after named objects of those who have ended.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn start_steward(&self) -> std::io::Result<()> {
        *lock(&self.steward) = Some(Steward::start(&self.reach)?);
        Ok(())
    }

    /// Before this rank ends: the others are told that it has left, or, if a panic ends it, that it has failed.
    fn say_goodbye(&self) {
        let cause = if std::thread::panicking() { FailureCause::Panicked } else { FailureCause::Left };
        self.note_own_end(cause);
        drop(lock(&self.watcher).take());
    }

    /// This rank's node.
    pub fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }

    /// A rank's node.
    pub fn node_of(&self, rank: usize) -> usize {
        self.topology.node_of(rank)
    }

    /// A rank's place in its node's rank table.
    pub fn local_of(&self, rank: usize) -> usize {
        self.topology.local_of(rank)
    }

    /// How a node's segment is divided.
    pub fn layout_of(&self, node: usize) -> NodeLayout {
        self.layouts[node]
    }

    /// The nodes of some ranks, in the order of the first rank of each.
    pub fn nodes_of(&self, ranks: &[usize]) -> Vec<usize> {
        let mut is_known = vec![false; self.topology.nodes()];
        let nodes = ranks.iter().map(|rank| self.node_of(*rank));
        nodes.filter(|node| !std::mem::replace(&mut is_known[*node], true)).collect()
    }

    /// Those of some ranks that live on this node, in the same order.
    pub fn neighbours_among(&self, ranks: &[usize]) -> Vec<usize> {
        ranks.iter().copied().filter(|rank| self.node_of(*rank) == self.here()).collect()
    }

    /// Whether all of some ranks live on this node.
    pub fn is_on_one_node(&self, ranks: &[usize]) -> bool {
        ranks.iter().all(|rank| self.node_of(*rank) == self.here())
    }

    /// The exchange between so many nodes: the same on all of them.
    pub fn schedule_for(&self, nodes: usize) -> Schedule {
        self.exchange.schedule_for(nodes)
    }

    /// The number of a group whose block has been made here, different from all others of the job: the node's count of
    /// groups, and the node.
    pub fn group_id(&self, layout: GroupLayout) -> u64 {
        // Relaxed: written by this rank.
        self.numbered(self.segment.word(layout.id()).load(Ordering::Relaxed))
    }

    /// A number for another attempt to make a group, different from all others of the job.
    pub fn next_number(&self) -> u64 {
        self.numbered(formation::next_number(&*self.segment))
    }

    fn numbered(&self, number: u64) -> u64 {
        number | (self.here() as u64) << 32
    }

    /// Gives a group of this node alone its number.
    pub fn name_group(&self, layout: GroupLayout) {
        self.segment.word(layout.id()).store(self.group_id(layout), Ordering::Relaxed);
    }

    pub fn parted(&self) -> MutexGuard<'_, Vec<Parted>> {
        lock(&self.parted)
    }

    pub fn endings(&self) -> MutexGuard<'_, Vec<Ending>> {
        lock(&self.endings)
    }

    pub fn half_made(&self) -> MutexGuard<'_, Vec<Introductions>> {
        lock(&self.half_made)
    }

    pub fn declined(&self) -> MutexGuard<'_, Vec<Declined>> {
        lock(&self.declined)
    }

    /// Notes a group that is to be taken and left when it is there. What is forgotten for it is the oldest: its leader
    /// takes that back when it needs the room.
    pub fn decline(&self, declined: Declined) {
        let mut all = self.declined();
        if all.len() == MOST_DECLINED {
            all.remove(0);
        }
        all.push(declined);
    }

    pub fn untaken(&self) -> MutexGuard<'_, Vec<Untaken>> {
        lock(&self.untaken)
    }

    pub fn clocks(&self) -> MutexGuard<'_, HashMap<usize, NodeClock>> {
        lock(&self.clocks)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        drop(lock(&self.steward).take());
        if let Some(network) = &self.network {
            self.part();
            self.linger();
            for ending in &mut *self.endings() {
                ending.abandon(&**network);
            }
        }
        self.say_goodbye();
    }
}

impl Exchange {
    /// The schedule for so many nodes.
    pub fn schedule_for(&self, nodes: usize) -> Schedule {
        Schedule::new(nodes, self.pattern.unwrap_or_else(|| Schedule::cheapest(nodes, &self.costs)))
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
