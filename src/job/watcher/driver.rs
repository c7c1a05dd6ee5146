//! The driver of a rank's [`Sentinel`]: real time, the segment, the network and /proc.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Condition, condition_of, obituary_of};
use crate::cluster::sentinel::{BUSY_PAUSE, Post, Sentinel, Site, Surroundings};
use crate::cluster::view::{self, Obituary};
use crate::coord::drive;
use crate::fabric::network::Network;
use crate::fabric::shm::Segment;
use crate::fabric::tcp::{Ports, TcpFabric};
use crate::fabric::{Await, Topology};

use super::super::failure::{Process, note_end, shut_out};

/// How long something that is under way is waited for before deaths and the bell are looked at again.
const BUSY_FOR: Duration = Duration::from_millis(2);
/// The longest sleep meanwhile. Answers end it.
const BUSY_NAP: Duration = Duration::from_millis(1);

/// What a sentinel sees of its machine.
struct Machine {
    segment: Arc<Segment>,
    network: Arc<Network>,
    topology: Arc<Topology>,
    here: usize,
}

/// A sentinel at work.
pub(super) struct Driver {
    sentinel: Sentinel,
    machine: Machine,
    begun: Instant,
}

impl Driver {
    pub fn new(post: Post, segment: &Arc<Segment>, network: &Arc<Network>) -> Self {
        let here = post.topology.node_of(post.rank);
        let (segment, network, topology) = (Arc::clone(segment), Arc::clone(network), Arc::clone(&post.topology));
        let machine = Machine { segment, network, topology, here };
        Self { sentinel: Sentinel::new(post), machine, begun: Instant::now() }
    }

    /// Moves everything on, again and again for as long as something is under way, but not for long. After how long it
    /// wants to be called again, if nothing happens before; `None`: not at all.
    pub fn run(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        let mut has_napped = false;
        let pause = loop {
            let pause = self.sentinel.step(&self.machine.site(self.begun));
            if pause != Some(Duration::ZERO) || begun.elapsed() >= BUSY_FOR {
                break pause;
            }
            self.machine.network.nap(drive::alarm(&*self.machine.segment), BUSY_NAP);
            has_napped = true;
        };
        if has_napped && pause != Some(Duration::ZERO) {
            // Nobody may look at the connections for a while, and others may have something to ask.
            self.machine.network.hand_over();
        }
        pause
    }

    /// A connection has broken.
    pub fn handle_breach(&mut self) {
        self.sentinel.handle_breach(&self.machine.site(self.begun));
    }

    /// This rank leaves, or its process ends.
    pub fn end(&mut self) {
        // Both have an end by themselves.
        while self.sentinel.finish(&self.machine.site(self.begun)).is_pending() {
            std::thread::sleep(BUSY_PAUSE);
        }
        while self.sentinel.say_farewell(&self.machine.site(self.begun)).is_pending() {
            std::thread::sleep(BUSY_PAUSE);
        }
        self.sentinel.abandon(self.machine.network.by_sockets());
    }
}

impl Machine {
    /// All failure traffic goes by TCP, which every job has.
    fn site(&self, begun: Instant) -> Site<'_, Segment, TcpFabric, Self> {
        Site { memory: &self.segment, fabric: self.network.by_sockets(), surroundings: self, now: begun.elapsed() }
    }
}

impl Surroundings for Machine {
    fn is_agent(&self) -> bool {
        self.network.is_agent()
    }

    fn become_agent(&self) -> bool {
        // Whom the agent before has shut out this one never lets in.
        let node = self.segment.layout();
        let lost =
            (1..=view::logged(&*self.segment, &node)).filter_map(|epoch| view::obituary(&*self.segment, &node, epoch));
        lost.for_each(|lost| self.shut_out(lost));
        self.network.become_agent().is_ok()
    }

    fn is_stopped(&self, local: usize) -> bool {
        match condition_of(&self.segment, local) {
            Condition::Runs => false,
            Condition::Stopped => true,
            Condition::Ending(cause) => {
                let obituary = obituary_of(&self.topology, self.here, local, cause);
                note_end(&self.segment, local, obituary, Process::MayAct);
                false
            }
        }
    }

    fn probe(&self, node: usize) {
        self.network.probe(node);
    }

    fn ports(&self, node: usize) -> Ports {
        self.network.ports(node)
    }

    fn acknowledged(&self, node: usize) -> Option<Duration> {
        self.network.acknowledged(node)
    }

    fn shut_out(&self, lost: Obituary) {
        shut_out(&self.network, self.here, lost);
    }

    fn rouse(&self) {
        self.network.rouse();
    }
}
