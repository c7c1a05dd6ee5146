//! RDMA devices of a job across nodes: what ranks say of theirs when they join (rounds 4 and 5), who connects to whom,
//! and by what words of objects are changed at each home.

use std::sync::Arc;

use super::Place;
use crate::error::JobError;
use crate::fabric::network::Network;
use crate::fabric::network::home_words::{DeviceWord, HomeWords};
use crate::fabric::node::{NodeLayout, ObjectTable, hash};
use crate::fabric::rdma::{OFFER_BYTES, Offer, RdmaFabric, Region};
use crate::fabric::shm::Segment;
use crate::fabric::tcp::TcpFabric;
use crate::job::{FabricChoice, JobOptions};

/// The most offers that a round of the rendezvous carries; further partners are reached by TCP.
const MOST_OFFERS: usize = 120;

/// In a job of so many nodes agents have connections by RDMA to all of them.
const MOST_REACHED: usize = 64;
const _: () = assert!(MOST_REACHED <= MOST_OFFERS);

impl Place {
    /// This rank's RDMA device, if there is to be one and there is one. Agents have one for messages; where RDMA was
    /// asked for all ranks have one for words of objects, if they can.
    pub(super) fn open_adapter(
        &self,
        options: &JobOptions,
        segment: &Arc<Segment>,
    ) -> Result<Option<Arc<RdmaFabric>>, JobError> {
        let choice = options.fabric.unwrap_or_default();
        let has_use = self.is_agent() || choice == FabricChoice::Rdma;
        if choice == FabricChoice::Tcp || !has_use || self.topology.nodes() == 1 {
            return Ok(None);
        }
        let region = Region::of_segment(Arc::clone(segment));
        match RdmaFabric::new(options.rdma.clone().unwrap_or_default(), self.here(), self.topology.nodes(), region) {
            Ok(adapter) => Ok(Some(Arc::new(adapter))),
            Err(error) if choice == FabricChoice::Rdma && self.is_agent() => Err(no_rdma(self.rank, error.to_string())),
            // Nodes without a device are joined by TCP.
            Err(_) => Ok(None),
        }
    }

    /// What this rank says of its device; see [`introduction`].
    pub(super) fn introduce_adapter(
        &self,
        adapter: Option<&RdmaFabric>,
        partners: &[usize],
        options: &JobOptions,
    ) -> Vec<u8> {
        let Some(adapter) = adapter else { return Vec::new() };
        let is_asked_for = options.fabric == Some(FabricChoice::Rdma);
        let device = if is_asked_for { device_word(adapter) } else { DeviceWord::NONE };
        let nodes = if self.is_agent() { self.reached_by_rdma(partners, options) } else { self.visited(options) };
        introduction(device, adapter, &nodes)
    }

    /// The nodes whose agents a rank that is none offers to be a guest of: in a small job all others.
    fn visited(&self, options: &JobOptions) -> Vec<usize> {
        let (nodes, ranks) = (self.topology.nodes(), self.topology.ranks());
        let is_small = nodes <= MOST_REACHED && ranks <= MOST_OFFERS;
        let visits = options.fabric == Some(FabricChoice::Rdma) && is_small;
        (0..nodes).filter(|node| visits && *node != self.here()).collect()
    }

    /// An agent's answers to the offers of other nodes' ranks that are no agents; see [`answer`].
    pub(super) fn receive_guests(
        &self,
        adapter: Option<&RdmaFabric>,
        network: &Network,
        brought: &[Vec<u8>],
    ) -> Vec<u8> {
        let Some(adapter) = adapter.filter(|_| self.is_agent()) else { return Vec::new() };
        let here = self.here();
        let is_guest = |rank: &usize| self.topology.node_of(*rank) != here && self.topology.local_of(*rank) != 0;
        let serve = |rank: usize| {
            let offer = Offer::from_bytes(offer_for(here, offers_of(&brought[rank]))?).ok()?;
            let node = self.topology.node_of(rank);
            // Whom this one cannot serve has TCP.
            let (end, own) = adapter.serve(node, &offer).ok()?;
            network.keep_guest(node, rank, end);
            Some(answer(rank, &own))
        };
        (0..brought.len()).filter(is_guest).filter_map(serve).take(MOST_OFFERS).flatten().collect()
    }

    /// A rank that is no agent connects to those that serve it.
    pub(super) fn visit_agents(&self, network: &Network, answers: &[Vec<u8>]) {
        for node in (0..self.topology.nodes()).filter(|_| !self.is_agent()) {
            let agent = self.topology.ranks_of(node)[0];
            let answer = offer_for(self.rank, &answers[agent]).and_then(|offer| Offer::from_bytes(offer).ok());
            // Without a connection the node is reached by TCP.
            let _ = answer.map(|offer| network.visit(node, &offer));
        }
    }

    /// The nodes to which an agent makes a connection by RDMA: those with which it exchanges the world's messages, and
    /// for words of objects, which may be at home anywhere, all others of a small job.
    fn reached_by_rdma(&self, partners: &[usize], options: &JobOptions) -> Vec<usize> {
        let nodes = self.topology.nodes();
        let reaches_all = options.fabric == Some(FabricChoice::Rdma) && nodes <= MOST_REACHED;
        let others = (0..nodes).filter(|node| reaches_all && *node != self.here() && !partners.contains(node));
        partners.iter().copied().chain(others).collect()
    }

    /// Connects the adapter to those nodes that have offered a connection, too.
    pub(super) fn join_adapters(
        &self,
        tcp: TcpFabric,
        adapter: Option<&Arc<RdmaFabric>>,
        layouts: &[NodeLayout],
        partners: &[usize],
        brought: &[Vec<u8>],
        options: &JobOptions,
    ) -> Result<Network, JobError> {
        let some_have_adapters = brought.iter().any(|introduced| !offers_of(introduced).is_empty());
        let home_words = self.home_words(layouts, brought, adapter);
        let Some(adapter) = adapter.cloned() else {
            return Ok(Network::by_tcp(tcp, some_have_adapters, home_words));
        };
        if !self.is_agent() {
            return Ok(Network::as_guest(tcp, adapter, self.visited(options), home_words));
        }
        let mut is_complete = true;
        for node in self.reached_by_rdma(partners, options) {
            let agent = self.topology.ranks_of(node)[0];
            let connected = match offer_for(self.here(), offers_of(&brought[agent])) {
                Some(offer) => Offer::from_bytes(offer)
                    .map_err(|error| error.to_string())
                    .and_then(|offer| adapter.connect(node, &offer).map_err(|error| error.to_string())),
                None => Err(format!("node {node} has no RDMA device")),
            };
            match connected {
                Ok(()) => {}
                Err(_) if !partners.contains(&node) => {}
                Err(why) if options.fabric == Some(FabricChoice::Rdma) => return Err(no_rdma(self.rank, why)),
                Err(_) => is_complete = false,
            }
        }
        Ok(Network::with_rdma(tcp, adapter, is_complete, home_words))
    }

    /// By what words of objects are changed at each home, from what all ranks have said of their devices.
    fn home_words(&self, layouts: &[NodeLayout], brought: &[Vec<u8>], adapter: Option<&Arc<RdmaFabric>>) -> HomeWords {
        let begin = layouts.iter().map(|layout| layout.object_key(ObjectTable::Home, 0)).collect();
        let together = |node| {
            let said = self.topology.ranks_of(node).iter().map(|rank| device_of(&brought[*rank]));
            DeviceWord::together(&said.collect::<Vec<_>>())
        };
        HomeWords::new(begin, (0..layouts.len()).map(together).collect(), self.here(), adapter)
    }
}

fn no_rdma(rank: usize, why: String) -> JobError {
    JobError::Fabric { rank, fabric: FabricChoice::Rdma.name(), why }
}

/// What a rank says of its adapter, with offers to some nodes. A rank without one says nothing.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | [`DeviceWord`] |
/// | then, for each offer, 0–7 | the node that it is for |
/// | 8–63 | [`Offer`] |
fn introduction(device: DeviceWord, adapter: &RdmaFabric, nodes: &[usize]) -> Vec<u8> {
    let mut bytes = device.0.to_le_bytes().to_vec();
    for node in nodes.iter().take(MOST_OFFERS) {
        // Without an offer the other end will not connect either, and TCP serves.
        if let Ok(offer) = adapter.offer(*node) {
            bytes.extend_from_slice(&(*node as u64).to_le_bytes());
            bytes.extend_from_slice(&offer.to_bytes());
        }
    }
    bytes
}

/// What all ranks of a node say alike that have the same device.
fn device_word(adapter: &RdmaFabric) -> DeviceWord {
    let name: Vec<u64> = adapter.choice().device.bytes().map(u64::from).collect();
    DeviceWord::new(adapter.atomics(), hash(6, &name))
}

/// The device of whoever has brought an introduction.
fn device_of(introduced: &[u8]) -> DeviceWord {
    introduced.first_chunk().map_or(DeviceWord::NONE, |bytes| DeviceWord(u64::from_le_bytes(*bytes)))
}

/// The offers in an introduction.
fn offers_of(introduced: &[u8]) -> &[u8] {
    introduced.get(8..).unwrap_or_default()
}

/// What an agent answers a rank whose end it has made.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | the rank |
/// | 8–63 | [`Offer`] |
fn answer(rank: usize, own: &Offer) -> [u8; 8 + OFFER_BYTES] {
    let mut bytes = [0; 8 + OFFER_BYTES];
    bytes[..8].copy_from_slice(&(rank as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&own.to_bytes());
    bytes
}

/// The offer for a node, or the answer for a rank, among those that another one has brought.
fn offer_for(whom: usize, offers: &[u8]) -> Option<&[u8]> {
    let is_for_it = |offer: &&[u8]| offer[..8] == (whom as u64).to_le_bytes();
    offers.chunks_exact(8 + OFFER_BYTES).find(is_for_it).map(|offer| &offer[8..])
}
