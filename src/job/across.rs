//! Joining a job that may span nodes.
//!
//! Everything is said in five rounds of an all-gather at the rendezvous ([`rendezvous`]):
//!
//! 1. Each rank brings its [`RankCard`]. Ranks with equal node keys form a node; the lowest of them, its *agent*, makes
//!    the segment and passes it to the others over a UNIX socket as in a job of one node. The agent lets other nodes in
//!    from then on; the others listen, too, for any of them may become agent, and send everybody away.
//! 2. Each agent brings its [`NodeCard`]: now all know how all segments are divided, and can connect.
//! 3. Rank 0 brings what a message costs, and the pattern of the exchange if one has been named; otherwise it follows
//!    from the costs. They are measured over TCP to another node, and assumed where rank 0 has an RDMA device.
//! 4. (`across/adapters.rs`) Each agent with an RDMA device brings an offer for each node with which it will exchange
//!    the world's messages; where RDMA was asked for, for all nodes; so does each other rank then, and all say by which
//!    device they change words of objects.
//! 5. Agents answer the offers of other nodes' ranks that are no agents: these become their *guests*, each with an end
//!    of a connection that the agent serves for it, and so reach words of objects by RDMA, too
//!    ([`crate::fabric::network`]); whoever gets no answer goes by TCP. Once this round is over, the world's block and
//!    the connections are there on every node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::membership::{Exchange, Parts};
use super::watcher::{Post, Watcher};
use super::{
    Job, JobOptions, Membership, attach, cpu_share, create, driver, node_layout, serve, timeline, with_objects,
};
use crate::cluster::address::{Address, MAX_NODE_RANKS};
use crate::cluster::card::{MOST_ADDRESSES, NodeCard, RankCard};
use crate::cluster::environment::Identity;
use crate::cluster::node_key::node_key;
use crate::cluster::{bootstrap, membership as ranks, rendezvous, witness};
use crate::coord;
use crate::coord::barrier::spanning::layout::SpanLayout;
use crate::coord::barrier::spanning::schedule::{Costs, ExchangePattern, MAX_RADIX, Schedule};
use crate::coord::barrier::spanning::{Span, SpanNode};
use crate::coord::formation::{self, Member};
use crate::error::{BootstrapError, JobError};
use crate::fabric::network::Network;
use crate::fabric::node::{NodeLayout, UNIT_WORDS, hash, header};
use crate::fabric::rdma::RdmaFabric;
use crate::fabric::shm::Segment;
use crate::fabric::tcp::{Candidate, Door, Peer, Services, TcpEngine, TcpFabric};
use crate::fabric::{Fabric, Memory, Topology, WordAt};
use crate::group::{Abroad, AlgorithmChoice, Group};
use crate::interfaces;
use crate::machine::CpuSet;
use crate::sync::Ordering;

mod adapters;

/// What a message is taken to cost where nothing could be measured: a fast adapter's figures.
const ASSUMED: Costs = Costs { latency_ns: 1_500.0, overhead_ns: 150.0, nodes_per_cpu: 0.0 };
/// Reads of another node's word by which the costs are measured.
const SAMPLES: usize = 21;
/// How long measuring may take.
const MEASURING_LIMIT: Duration = Duration::from_secs(2);

/// Joins the job at a rendezvous.
pub(super) fn join(identity: &Identity, options: &JobOptions) -> Result<Job, JobError> {
    let rank = identity.rank;
    options.fabric.unwrap_or_default().check(rank)?;
    let server = serve_rendezvous(identity)?;
    let address = &identity.bootstrap;
    let mut client = rendezvous::Client::connect(rank, identity.size, address, &identity.key, options.limit())?;
    let mut door = bind(identity)?;
    let card = own_card(identity, &door, options)?;
    let mut gather = |blob: &[u8]| client.allgather(blob, options.limit());
    let cards = parse_cards(rank, &gather(&card.encode())?, RankCard::parse)?;
    let place = Place::new(identity, &cards)?;
    if place.is_agent() {
        // Before the next round, after which others connect.
        door.open().map_err(system(rank, "let other nodes in"))?;
    }

    let (segment, segment_server) = place.share_segment(identity, &cards, options)?;
    let own = NodeCard { arena_units: segment.layout().arena_units() };
    let brought = gather(&if place.is_agent() { own.encode() } else { Vec::new() })?;
    let layouts = place.layouts(&cards, &brought)?;
    let engine = options.tcp_engine.unwrap_or_default();
    let tcp = place.connect(identity, &cards, &layouts, &segment, door, engine)?;

    let adapter = place.open_adapter(options, &segment)?;
    let nodes_per_cpu = place.nodes_per_cpu(&cards, identity.pretended_node.is_some());
    let costs = Costs { nodes_per_cpu, ..message_costs(rank, place.topology.nodes(), &tcp, adapter.as_deref()) };
    let exchange = place.agree(&gather(&encode_exchange(&Exchange { pattern: options.pattern, costs }))?)?;
    if place.is_agent() {
        place.make_world(&segment, &exchange, options, &cards);
    }
    ranks::await_open(&*segment, &segment.layout(), place.local(), options.limit())?;
    let partners = place.schedule(&exchange).partners(place.here());
    let brought = gather(&place.introduce_adapter(adapter.as_deref(), &partners, options))?;
    let network = Arc::new(place.join_adapters(tcp, adapter.as_ref(), &layouts, &partners, &brought, options)?);
    let answers = gather(&place.receive_guests(adapter.as_deref(), &network, &brought))?;
    place.visit_agents(&network, &answers);
    let membership = place.membership(segment, layouts, exchange, network, options, &cards)?;
    let world = place.world(identity, membership)?;
    Ok(Job { world, _server: segment_server, _rendezvous: server })
}

/// Rank 0 serves the rendezvous, unless a launcher does.
fn serve_rendezvous(identity: &Identity) -> Result<Option<rendezvous::Server>, JobError> {
    if identity.rank != 0 || identity.is_served {
        return Ok(None);
    }
    let listener = rendezvous::listen(&identity.bootstrap)?;
    let server = rendezvous::Server::start(listener, &identity.key, identity.size);
    server.map(Some).map_err(system(0, "serve the rendezvous"))
}

/// Where this rank can be reached by other nodes once it speaks for its own. A job that meets on the loopback interface
/// stays there.
fn bind(identity: &Identity) -> Result<Door, JobError> {
    let resolved = identity.bootstrap.resolve().map_err(system(identity.rank, "resolve the rendezvous' address"))?;
    let first = resolved.first().map(SocketAddr::ip);
    let bound = match first {
        Some(address) if address.is_loopback() => Door::bind((address, 0).into()),
        _ => Door::bind((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| Door::bind((Ipv4Addr::UNSPECIFIED, 0).into())),
    };
    bound.map_err(system(identity.rank, "bind a socket for other nodes"))
}

fn own_card(identity: &Identity, door: &Door, options: &JobOptions) -> Result<RankCard, JobError> {
    let rank = identity.rank;
    let node_key = node_key(identity.pretended_node).map_err(system(rank, "tell which node this is"))?;
    let own = door.local_addr().map_err(system(rank, "bind a socket for other nodes"))?;
    let random = Identity::random(1).map_err(system(rank, "draw random numbers"))?;
    let Address::Unix { name: socket } = random.bootstrap else { unreachable!("a job on one node has a UNIX socket") };
    Ok(RankCard {
        layout_hash: coord::LAYOUT_HASH,
        groups: options.wanted_groups() as u64,
        objects: options.wanted_objects() as u64,
        node_key,
        socket,
        addresses: addresses_of(own),
        witness: identity.witness,
        mask: CpuSet::of_this_thread(),
    })
}

/// The addresses at which a socket can be reached: its own, or every usable interface's.
fn addresses_of(own: SocketAddr) -> Vec<SocketAddr> {
    if !own.ip().is_unspecified() {
        return vec![own];
    }
    let usable = interfaces::usable().unwrap_or_default();
    let addresses = usable.iter().flat_map(|interface| interface.addresses.iter().map(|address| address.ip));
    let reachable = addresses.filter(|ip: &IpAddr| ip.is_ipv4() || own.is_ipv6());
    reachable.take(MOST_ADDRESSES).map(|ip| SocketAddr::new(ip, own.port())).collect()
}

fn parse_cards<T>(
    rank: usize,
    brought: &[Vec<u8>],
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Vec<T>, JobError> {
    let card = |(other, bytes): (usize, &Vec<u8>)| parse(bytes).map_err(|what| JobError::Card { rank, other, what });
    brought.iter().enumerate().map(card).collect()
}

/// Where this rank stands in the job.
struct Place {
    rank: usize,
    topology: Arc<Topology>,
    /// Where the witness is, if there is one: what rank 0 says, so that all know alike.
    witness: Option<SocketAddr>,
}

impl Place {
    fn new(identity: &Identity, cards: &[RankCard]) -> Result<Self, JobError> {
        let rank = identity.rank;
        if let Some(other) = cards.iter().position(|card| card.layout_hash != coord::LAYOUT_HASH) {
            return Err(JobError::Card { rank, other, what: "another layout of memory".to_owned() });
        }
        let keys: Vec<_> = cards.iter().map(|card| card.node_key).collect();
        let topology = Arc::new(Topology::from_keys(&keys));
        let largest = (0..topology.nodes()).map(|node| topology.ranks_of(node).len()).max().unwrap_or(0);
        if largest > MAX_NODE_RANKS {
            return Err(JobError::NodeTooLarge { rank, ranks: largest, most: MAX_NODE_RANKS });
        }
        // One node agrees with itself.
        let witness = cards[0].witness.filter(|_| topology.nodes() > 1);
        Ok(Self { rank, topology, witness })
    }

    fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }

    fn local(&self) -> usize {
        self.topology.local_of(self.rank)
    }

    fn is_agent(&self) -> bool {
        self.local() == 0
    }

    fn neighbours(&self) -> &[usize] {
        self.topology.ranks_of(self.here())
    }

    /// Makes the node's segment and serves it, or takes it from the rank that does; and enters this rank.
    fn share_segment(
        &self,
        identity: &Identity,
        cards: &[RankCard],
        options: &JobOptions,
    ) -> Result<(Arc<Segment>, Option<bootstrap::Server>), JobError> {
        let agent = self.neighbours()[0];
        let local = Identity {
            rank: self.local(),
            size: self.neighbours().len(),
            bootstrap: Address::Unix { name: cards[agent].socket.clone() },
            ..identity.clone()
        };
        let mask = CpuSet::of_this_thread();
        if !self.is_agent() {
            let segment = Arc::new(attach(&local, (identity.size, self.topology.nodes()), options)?);
            if !ranks::enter(&*segment, &segment.layout(), self.local(), self.rank, &mask) {
                let address = local.bootstrap.to_string();
                return Err(BootstrapError::DuplicateRank { rank: self.rank, address }.into());
            }
            return Ok((segment, None));
        }
        let segment = Arc::new(create(self.rank, self.segment_layout(&cards[0])?)?);
        // Relaxed: the socket that passes the segment on orders this before every attach.
        segment.word(header::FAMILY).store(family(&cards[0]), Ordering::Relaxed);
        segment.word(header::NODE).store(self.here() as u64, Ordering::Relaxed);
        let server = serve(&local, &segment)?;
        ranks::enter(&*segment, &segment.layout(), 0, self.rank, &mask);
        ranks::await_all(&*segment, &segment.layout(), 0, options.limit())?;
        Ok((segment, Some(server)))
    }

    /// How this node's segment is to be divided: by what rank 0 wants, whatever exchange it will name.
    fn segment_layout(&self, rank_0: &RankCard) -> Result<NodeLayout, JobError> {
        let (members, nodes) = (self.neighbours().len(), self.topology.nodes());
        let radices = (2..=MAX_RADIX).map(|radix| Schedule::dissemination(nodes, radix));
        let all = radices.chain([Schedule::new(nodes, ExchangePattern::Star)]);
        let schedule = all.max_by_key(|schedule| schedule.slots() + schedule.rounds()).expect("there is a star");
        let groups = usize::try_from(rank_0.groups).unwrap_or(usize::MAX);
        let layout = node_layout(members, formation::units_spanning(&schedule, members), groups)?;
        self.with_objects(layout.in_job(self.topology.ranks(), nodes), rank_0)
    }

    /// The same with space for as many named objects as rank 0 wants.
    fn with_objects(&self, layout: NodeLayout, rank_0: &RankCard) -> Result<NodeLayout, JobError> {
        with_objects(layout, usize::try_from(rank_0.objects).unwrap_or(usize::MAX))
    }

    /// How all nodes' segments are divided, by what their agents have brought.
    fn layouts(&self, cards: &[RankCard], brought: &[Vec<u8>]) -> Result<Arc<[NodeLayout]>, JobError> {
        let layout = |node: usize| {
            let ranks = self.topology.ranks_of(node);
            let (rank, other) = (self.rank, ranks[0]);
            let card = NodeCard::parse(&brought[other]).map_err(|what| JobError::Card { rank, other, what })?;
            let layout = NodeLayout::new(ranks.len(), card.arena_units * UNIT_WORDS);
            self.with_objects(layout.in_job(self.topology.ranks(), self.topology.nodes()), &cards[0])
        };
        (0..self.topology.nodes()).map(layout).collect()
    }

    fn connect(
        &self,
        identity: &Identity,
        cards: &[RankCard],
        layouts: &[NodeLayout],
        segment: &Arc<Segment>,
        door: Door,
        engine: TcpEngine,
    ) -> Result<TcpFabric, JobError> {
        let peer = |node: usize| {
            let candidates = candidates(self.topology.ranks_of(node), cards);
            Peer { candidates, words: layouts[node].words() }
        };
        let (ranks, nodes) = (self.topology.ranks(), self.topology.nodes());
        let witness = self
            .witness
            .map(|address| Peer::alone(witness::rank(ranks), address, witness::layout(ranks, nodes).words()));
        let peers = (0..nodes).map(peer).chain(witness).collect();
        let services = Services { rank: self.rank, size: identity.size, here: self.here(), key: identity.key.clone() };
        let memory: Arc<Segment> = Arc::clone(segment);
        TcpFabric::with_engine(services, memory, peers, door, engine)
            .map_err(system(self.rank, "join the nodes by TCP"))
    }

    /// What rank 0 has decided about the exchange.
    fn agree(&self, brought: &[Vec<u8>]) -> Result<Exchange, JobError> {
        let error = || JobError::Card { rank: self.rank, other: 0, what: "costs of messages that are none".to_owned() };
        parse_exchange(&brought[0]).ok_or_else(error)
    }

    fn schedule(&self, exchange: &Exchange) -> Schedule {
        exchange.schedule_for(self.topology.nodes())
    }

    /// Makes this node's block of the world, and opens the segment to its ranks.
    fn make_world(&self, segment: &Segment, exchange: &Exchange, options: &JobOptions, cards: &[RankCard]) {
        let member = |(local, rank): (usize, &usize)| Member { rank: *rank, local };
        let members: Vec<Member> = self.neighbours().iter().enumerate().map(member).collect();
        let choice = AlgorithmChoice::new(options.barrier, &self.cpu_share(cards), members.len());
        let (layout, schedule) = (segment.layout(), self.schedule(exchange));
        let world = formation::make_spanning(segment, &layout, schedule, &members, choice.algorithm)
            .expect("an empty arena holds the world");
        formation::share(segment, &layout, world.start(), members.len() - 1);
        ranks::open(segment, world.local().start());
    }

    /// How the ranks of this machine share it, on whatever nodes they pretend to be.
    fn cpu_share(&self, cards: &[RankCard]) -> super::CpuShare {
        let own = cards[self.rank].machine();
        let masks: Vec<CpuSet> = cards.iter().filter(|card| card.machine() == own).map(|card| card.mask).collect();
        cpu_share(&masks)
    }

    /// How many of this machine's nodes there are for each CPU that their agents may use. The quota counts where the
    /// nodes are pretended: containers each have their own.
    fn nodes_per_cpu(&self, cards: &[RankCard], is_pretended: bool) -> f64 {
        let own = cards[self.rank].machine();
        let agents = (0..self.topology.nodes()).map(|node| &cards[self.topology.ranks_of(node)[0]]);
        let masks: Vec<CpuSet> = agents.filter(|card| card.machine() == own).map(|card| card.mask).collect();
        let share = cpu_share(&masks);
        let quota = share.quota.filter(|_| is_pretended).unwrap_or(f64::INFINITY);
        masks.len() as f64 / quota.min(share.cpus as f64).max(1.0)
    }

    /// Of everything that the rounds have brought.
    fn membership(
        &self,
        segment: Arc<Segment>,
        layouts: Arc<[NodeLayout]>,
        exchange: Exchange,
        network: Arc<Network>,
        options: &JobOptions,
        cards: &[RankCard],
    ) -> Result<Arc<Membership>, JobError> {
        let cpus = self.cpu_share(cards);
        let failure = options.failure()?;
        let watcher = Watcher::start(&Post {
            rank: self.rank,
            segment: &segment,
            layouts: &layouts,
            topology: &self.topology,
            has_witness: self.witness.is_some(),
            network: Some(&network),
            options: failure,
        })?;
        let driver = driver(&segment, &cpus, &cards[self.rank].mask, options);
        network.stay_awake_for(driver.plan.attention());
        Ok(Arc::new(Membership::new(Parts {
            failure,
            watcher,
            rank: self.rank,
            algorithm: options.barrier,
            cpus,
            driver,
            topology: Arc::clone(&self.topology),
            layouts,
            exchange,
            network: Some(network),
            durable_copies: options.wanted_copies(),
            trace: timeline::start(options, &segment, &self.topology, self.rank)?,
            segment,
        })))
    }

    fn world(&self, identity: &Identity, membership: Arc<Membership>) -> Result<Group, JobError> {
        let schedule = self.schedule(&membership.exchange);
        let starts: Vec<WordAt> = membership.layouts.iter().map(|layout| layout.unit(0)).collect();
        let layout = SpanLayout::new(starts[self.here()], schedule, self.neighbours().len());
        let everyone: Vec<usize> = (0..identity.size).collect();
        if self.topology.nodes() == 1 {
            return Ok(Group::attach(membership, layout.local(), everyone));
        }
        membership.start_steward().map_err(system(self.rank, "start the thread that looks after named objects"))?;
        let abroad = Abroad::new(&membership, layout, self.span_of_all(starts), &everyone);
        Ok(Group::attach_spanning(membership, abroad, everyone))
    }

    /// All nodes, whose blocks begin there.
    fn span_of_all(&self, starts: Vec<WordAt>) -> Span {
        let members = |node: usize| self.topology.ranks_of(node).len();
        let is_uniform = (0..starts.len()).all(|node| starts[node] == starts[0] && members(node) == members(0));
        let node = |(node, start)| SpanNode { node, start, members: members(node) };
        match is_uniform {
            true => Span::All { nodes: starts.len(), start: starts[0], members: members(0) },
            false => Span::Some(starts.into_iter().enumerate().map(node).collect()),
        }
    }
}

/// What all nodes of the job call it: rank 0 has drawn its socket's name at random, for this job only.
fn family(rank_0: &RankCard) -> u64 {
    let name: Vec<u64> = rank_0.socket.bytes().map(u64::from).collect();
    hash(5, &name)
}

/// A node's ranks, as its agents. They have the same interfaces, and so, nearly always, the same hosts.
fn candidates(ranks: &[usize], cards: &[RankCard]) -> Vec<Candidate> {
    let mut hosts: Arc<[IpAddr]> = Arc::new([]);
    let candidate = |rank: &usize| {
        let addresses = &cards[*rank].addresses;
        if !addresses.iter().map(SocketAddr::ip).eq(hosts.iter().copied()) {
            hosts = addresses.iter().map(SocketAddr::ip).collect();
        }
        let port = addresses.first().map_or(0, SocketAddr::port);
        Candidate { rank: *rank, hosts: Arc::clone(&hosts), port }
    };
    ranks.iter().map(candidate).collect()
}

/// What a message costs, if rank 0 can tell: nobody else is asked.
fn message_costs(rank: usize, nodes: usize, tcp: &TcpFabric, adapter: Option<&RdmaFabric>) -> Costs {
    if rank == 0 && adapter.is_none() && nodes > 1 { measure(tcp) } else { ASSUMED }
}

/// What a message to another node costs, by reading one of its words again and again.
fn measure(network: &TcpFabric) -> Costs {
    let limit = Instant::now() + MEASURING_LIMIT;
    let other = 1;
    let mut posts = Vec::new();
    let mut trips = Vec::new();
    while trips.len() < SAMPLES && Instant::now() < limit {
        let begun = Instant::now();
        let Ok(ticket) = network.read(other, WordAt(0)) else { return ASSUMED };
        let posted = begun.elapsed();
        while network.take(ticket).is_pending() {
            if Instant::now() >= limit {
                network.forget(ticket);
                return ASSUMED;
            }
            network.progress();
        }
        posts.push(posted);
        trips.push(begun.elapsed());
    }
    let median = |spans: &mut Vec<Duration>| {
        spans.sort_unstable();
        spans.get(spans.len() / 2).map_or(0.0, |span| span.as_nanos() as f64)
    };
    let (post, trip) = (median(&mut posts), median(&mut trips));
    if trip == 0.0 {
        ASSUMED
    } else {
        Costs { latency_ns: (trip / 2.0 - post).max(1.0), overhead_ns: post.max(1.0), ..ASSUMED }
    }
}

/// Rank 0's words on the exchange.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | 0: no pattern named; 1: star; otherwise the radix |
/// | 8–15 | latency in nanoseconds, as bits of an `f64` |
/// | 16–23 | overhead in nanoseconds, as bits of an `f64` |
/// | 24–31 | nodes for each CPU, as bits of an `f64` |
fn encode_exchange(exchange: &Exchange) -> Vec<u8> {
    let pattern = match exchange.pattern {
        None => 0,
        Some(ExchangePattern::Star) => 1,
        Some(ExchangePattern::Dissemination { radix }) => radix as u64,
    };
    let Costs { latency_ns, overhead_ns, nodes_per_cpu } = exchange.costs;
    let numbers = [pattern, latency_ns.to_bits(), overhead_ns.to_bits(), nodes_per_cpu.to_bits()];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn parse_exchange(bytes: &[u8]) -> Option<Exchange> {
    let bytes: &[u8; 32] = bytes.try_into().ok()?;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let pattern = match usize::try_from(number(0)).ok()? {
        0 => None,
        1 => Some(ExchangePattern::Star),
        radix @ 2..=MAX_RADIX => Some(ExchangePattern::Dissemination { radix }),
        _ => return None,
    };
    let [latency_ns, overhead_ns, nodes_per_cpu] = [8, 16, 24].map(|at| f64::from_bits(number(at)));
    let are_sound = [latency_ns, overhead_ns, nodes_per_cpu].iter().all(|cost| cost.is_finite() && *cost >= 0.0);
    are_sound.then_some(Exchange { pattern, costs: Costs { latency_ns, overhead_ns, nodes_per_cpu } })
}

fn system(rank: usize, step: &'static str) -> impl Fn(std::io::Error) -> JobError {
    move |source| JobError::System { rank, step, source }
}
