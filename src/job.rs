//! A rank's membership in its job: joining by the environment a launcher made, or making a job of threads.
//!
//! A job on one node is joined over its node's UNIX socket alone (here); one that may span nodes begins with a
//! rendezvous over TCP (`job/across.rs`).

mod across;
mod fabric_choice;
mod failure;
mod membership;
#[cfg(all(test, not(model)))]
pub(crate) mod pretended;
mod timeline;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::address::{Address, MAX_NODE_RANKS};
use crate::cluster::bootstrap::{self, Server};
use crate::cluster::environment::{Environment, Identity};
use crate::cluster::{membership as ranks, rendezvous};
use crate::coord;
use crate::coord::barrier::Algorithm;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::schedule::{Costs, ExchangePattern, MAX_RADIX};
use crate::coord::drive::{CpuHint, Driver};
use crate::coord::formation::{self, Member};
use crate::coord::objects;
use crate::coord::objects::layout::{MOST_OBJECTS, object_words};
use crate::coord::wait::{WaitPlan, WaitPolicy};
use crate::error::{BootstrapError, JobError};
use crate::fabric::node::{NodeLayout, UNIT_WORDS};
use crate::fabric::rdma::RdmaOptions;
use crate::fabric::shm::{Expected, Segment};
use crate::fabric::tcp::TcpEngine;
use crate::fabric::{Fabric as _, FabricKind, Topology};
use crate::group::{AlgorithmChoice, Group};
use crate::machine::{self, CpuSet};
pub use fabric_choice::FabricChoice;
pub(crate) use failure::{FailureOptions, Sight, is_dead, shut_out};
pub(crate) use membership::{CpuShare, Declined, GroupBlock, Membership, Parted, Untaken};
use membership::{Exchange, Parts};
use watcher::{Post, Watcher};

/// How long ranks wait for each other to join, unless told otherwise.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Groups as large as the world for which a segment has space, unless told otherwise.
const GROUPS: usize = 64;
/// Named objects for which a segment has space, unless told otherwise.
const OBJECTS: usize = 1024;
/// The most words of all named objects of a node: 64 GiB.
const MOST_OBJECT_WORDS: usize = 1 << 33;
/// The least arena, in words: 512 KiB, some hundred small groups also in a small job.
const LEAST_ARENA_WORDS: usize = 1 << 16;
/// The greatest, in words: 64 GiB.
const MOST_ARENA_WORDS: usize = 1 << 33;

/// Choices of a program for its job. What is left open is taken from the environment, then from the defaults.
///
/// ```
/// use phalanx::{Algorithm, Job, JobOptions, WaitPolicy};
///
/// let options = JobOptions::new().barrier(Algorithm::Central).wait(WaitPolicy::Park);
/// let job = Job::from_env_with(&options)?;
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    barrier: Option<Algorithm>,
    wait: Option<WaitPolicy>,
    groups: Option<usize>,
    objects: Option<usize>,
    durable_copies: Option<usize>,
    pattern: Option<ExchangePattern>,
    fabric: Option<FabricChoice>,
    rdma: Option<RdmaOptions>,
    tcp_engine: Option<TcpEngine>,
    bootstrap_timeout: Option<Duration>,
    failure_timeout: Option<Duration>,
    heartbeat: Option<Duration>,
    trace: Option<PathBuf>,
}

impl JobOptions {
    /// Everything left open.
    pub fn new() -> Self {
        Self::default()
    }

    /// The barrier algorithm of all groups (`PHALANX_BARRIER`; default: chosen for each group). The rank that makes a
    /// group decides for its members: rank 0 for the world, the first member for others.
    #[must_use]
    pub fn barrier(mut self, algorithm: Algorithm) -> Self {
        self.barrier = Some(algorithm);
        self
    }

    /// How this rank waits (`PHALANX_WAIT`; default: adaptive).
    #[must_use]
    pub fn wait(mut self, policy: WaitPolicy) -> Self {
        self.wait = Some(policy);
        self
    }

    /// For how many groups as large as the world the segment has space (default 64). Smaller groups take less. Rank 0
    /// decides.
    #[must_use]
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = Some(groups);
        self
    }

    /// For how many named objects (locks, counters) that exist at the same time the segment has space (default 1024).
    /// One takes 784 bytes of address space, 64 for each rank of the node and each node in steps of 16, and 40 for each
    /// rank of the job; of that only what is used becomes memory. Rank 0 decides.
    #[must_use]
    pub fn objects(mut self, objects: usize) -> Self {
        self.objects = Some(objects);
        self
    }

    /// On how many nodes besides its home what was added to a counter, or written to a fenced word, is kept
    /// (`PHALANX_DURABLE_COPIES`; default 1), so that no node's death loses it: 0 or 1, the same for all ranks. With 0
    /// changes on the home's own node cost no round trip, and are lost with it: who uses the object then is told so. In
    /// a job of one node nothing is copied.
    #[must_use]
    pub fn durable_copies(mut self, copies: usize) -> Self {
        self.durable_copies = Some(copies);
        self
    }

    /// How nodes exchange what they know in a barrier between them (`PHALANX_RADIX`, a radix of 2 to 64 or `star`;
    /// default: chosen by what a message costs, and by how many nodes share a CPU). Rank 0 decides.
    #[must_use]
    pub fn exchange(mut self, pattern: ExchangePattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// What joins the nodes of a job that has several (`PHALANX_FABRIC`; default: RDMA between nodes that have devices,
    /// TCP between others). All ranks must name the same.
    #[must_use]
    pub fn fabric(mut self, fabric: FabricChoice) -> Self {
        self.fabric = Some(fabric);
        self
    }

    /// Which RDMA device, port and address are used, and how (`PHALANX_RDMA_DEVICE` and `PHALANX_RDMA_GID_INDEX` name
    /// the first two of them; default: the nearest active device). Of the first rank of each node.
    #[must_use]
    pub fn rdma(mut self, options: RdmaOptions) -> Self {
        self.rdma = Some(options);
        self
    }

    /// How this rank moves the bytes of its connections to other nodes (`PHALANX_TCP_ENGINE`; default: the
    /// one that measurements have shown to be quicker).
    #[must_use]
    pub fn tcp_engine(mut self, engine: TcpEngine) -> Self {
        self.tcp_engine = Some(engine);
        self
    }

    /// How long ranks wait for each other to join (`PHALANX_BOOTSTRAP_TIMEOUT_MS`; default 30 s).
    #[must_use]
    pub fn bootstrap_timeout(mut self, timeout: Duration) -> Self {
        self.bootstrap_timeout = Some(timeout);
        self
    }

    /// How long a rank that is stopped, or a node of which nothing is heard, is late before it is declared failed
    /// (`PHALANX_FAILURE_TIMEOUT_MS`; default 100 ms, at least three heartbeats). A node whose kernel acknowledges what
    /// is sent to it while its processes say nothing has four times as long: they are stopped, or do not get a CPU. A
    /// process that has ended is noticed at once, whatever this is; one that goes on as another program has failed
    /// after this time. It also bounds how long a rank's end waits until other nodes have what it has said to them.
    #[must_use]
    pub fn failure_timeout(mut self, timeout: Duration) -> Self {
        self.failure_timeout = Some(timeout);
        self
    }

    /// How often nodes tell each other that they live (`PHALANX_HEARTBEAT_MS`; default 20 ms). The same for all ranks.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Has each rank write its timeline to a file (`PHALANX_TRACE`; default: none), for a viewer such as
    /// <https://ui.perfetto.dev>. The rank is put before the extension: rank 3 of `trace.json` writes `trace.3.json`.
    #[must_use]
    pub fn trace(mut self, path: impl Into<PathBuf>) -> Self {
        self.trace = Some(path.into());
        self
    }

    /// Fills what is open from the environment.
    fn completed_by(&self, environment: &Environment) -> Result<Self, JobError> {
        let set = environment.options()?;
        let barrier = match set.barrier.as_deref() {
            None | Some("auto") => None,
            Some(text) => Some(text.parse().map_err(|why| option("PHALANX_BARRIER")(format!("{why}, or auto")))?),
        };
        let wait = set.wait.as_deref().map(str::parse).transpose().map_err(option("PHALANX_WAIT"))?;
        let fabric = set.fabric.as_deref().map(str::parse).transpose().map_err(option("PHALANX_FABRIC"))?;
        let durable_copies = self.durable_copies.or(set.durable_copies);
        if durable_copies.is_some_and(|copies| copies > 1) {
            return Err(option("PHALANX_DURABLE_COPIES")("it is 0 or 1".to_owned()));
        }
        let tcp_engine = set.tcp_engine.as_deref().map(str::parse).transpose().map_err(option("PHALANX_TCP_ENGINE"))?;
        Ok(Self {
            barrier: self.barrier.or(barrier),
            wait: self.wait.or(wait),
            groups: self.groups,
            objects: self.objects,
            durable_copies,
            pattern: self.pattern_or(set.radix.as_deref())?,
            fabric: self.fabric.or(fabric),
            rdma: Some(match &self.rdma {
                Some(rdma) => rdma.clone(),
                None => rdma_options(set.rdma_device, set.rdma_gid_index)?,
            }),
            tcp_engine: self.tcp_engine.or(tcp_engine),
            bootstrap_timeout: self.bootstrap_timeout.or(set.bootstrap_timeout),
            failure_timeout: self.failure_timeout.or(set.failure_timeout),
            heartbeat: self.heartbeat.or(set.heartbeat),
            trace: timeline::named(self.trace.as_ref(), set.trace.as_deref())?,
        })
    }

    /// The pattern that is named here, or else in the environment.
    fn pattern_or(&self, set: Option<&str>) -> Result<Option<ExchangePattern>, JobError> {
        let refused = option("PHALANX_RADIX");
        match (self.pattern, set) {
            (Some(ExchangePattern::Dissemination { radix }), _) if !(2..=MAX_RADIX).contains(&radix) => {
                Err(refused(format!("a radix is a whole number from 2 to {MAX_RADIX}")))
            }
            (None, Some(text)) => text.parse().map(Some).map_err(refused),
            (named, _) => Ok(named),
        }
    }

    fn failure(&self) -> Result<FailureOptions, JobError> {
        FailureOptions::new(self.failure_timeout, self.heartbeat).map_err(option("PHALANX_FAILURE_TIMEOUT_MS"))
    }

    fn wanted_groups(&self) -> usize {
        self.groups.unwrap_or(GROUPS).max(1)
    }

    fn wanted_objects(&self) -> usize {
        self.objects.unwrap_or(OBJECTS)
    }

    fn wanted_copies(&self) -> usize {
        self.durable_copies.unwrap_or(1)
    }

    fn limit(&self) -> Duration {
        self.bootstrap_timeout.unwrap_or(BOOTSTRAP_TIMEOUT)
    }
}

/// The error of an option that cannot be as it is set.
fn option(name: &'static str) -> impl Fn(String) -> JobError + Copy {
    move |why| JobError::Option { name, why }
}

/// As the environment has them.
fn rdma_options(device: Option<String>, gid_index: Option<usize>) -> Result<RdmaOptions, JobError> {
    let gid_index = gid_index.map(u8::try_from).transpose();
    let refused = |_| option("PHALANX_RDMA_GID_INDEX")("a place in a table of addresses is 0 to 255".to_owned());
    Ok(RdmaOptions { device, gid_index: gid_index.map_err(refused)?, ..RdmaOptions::default() })
}

/// This rank's part in its job.
#[derive(Debug)]
pub struct Job {
    world: Group,
    /// The first rank of a launched job's node: serves the segment until the job is dropped.
    _server: Option<Server>,
    /// Rank 0 of a job across nodes: answers late ranks until the job is dropped.
    _rendezvous: Option<rendezvous::Server>,
}

impl Job {
    /// Joins the job that the environment names (see README.md for the variables; `phalanx run` sets them), or makes a
    /// job of one rank when it names none. Collective: returns when all ranks have joined.
    ///
    /// # Errors
    ///
    /// [`JobError`], within the bootstrap time-out: half an environment, a rank out of range or taken, a wrong key,
    /// nobody serving, ranks missing, a segment that does not fit.
    ///
    /// # Cost
    ///
    /// On one node a message to rank 0 and its answer, and the segment is mapped. Across nodes five rounds in which all
    /// tell each other something through one server; connections by TCP are made when they are first used.
    pub fn from_env() -> Result<Self, JobError> {
        Self::from_env_with(&JobOptions::new())
    }

    /// As [`from_env`](Self::from_env), with options.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    ///
    /// # Cost
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_env_with(options: &JobOptions) -> Result<Self, JobError> {
        let environment = Environment::of_this_process();
        let identity = environment.identity()?;
        let options = options.completed_by(&environment)?;
        timeline::check(&options, identity.as_ref().map_or(0, |identity| identity.rank))?;
        match identity {
            None => Ok(single(threads(1, &options)?)),
            Some(identity) if matches!(identity.bootstrap, Address::Tcp { .. }) => across::join(&identity, &options),
            Some(identity) if identity.rank == 0 => found(&identity, &options),
            Some(identity) => join(&identity, &options),
        }
    }

    /// Makes a job of `n` ranks in this process, to be handed to as many threads.
    ///
    /// # Errors
    ///
    /// [`JobError::Size`] for 0 or too many ranks; an option of the environment that means nothing; no memory.
    ///
    /// # Cost
    ///
    /// A segment is made and mapped.
    pub fn threads(n: usize) -> Result<Vec<Self>, JobError> {
        Self::threads_with(n, &JobOptions::new())
    }

    /// As [`threads`](Self::threads), with options.
    ///
    /// # Errors
    ///
    /// As [`threads`](Self::threads).
    ///
    /// # Cost
    ///
    /// As [`threads`](Self::threads).
    pub fn threads_with(n: usize, options: &JobOptions) -> Result<Vec<Self>, JobError> {
        threads(n, &options.completed_by(&Environment::of_this_process())?)
    }

    /// Leaves the job: as dropping it, and said where a reader sees it. This rank has left, and has not failed, once
    /// the groups that it has made are dropped as well.
    ///
    /// # Cost
    ///
    /// On one node it waits for no other rank. Across nodes for some round trips as a rule, in which the others are
    /// seen to have what this rank has said last. For nodes that do not answer it waits for the failure time-out at
    /// most; and for 3 s at most where another node's leader may still find a group made that this rank's node is to be
    /// in, and again until all that it has posted is sent.
    pub fn finalize(self) {
        drop(self);
    }

    /// What this rank's groups and objects share.
    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.world.shared()
    }

    /// The group of all ranks.
    pub fn world(&self) -> &Group {
        &self.world
    }

    /// This rank, `0..size`.
    pub fn rank(&self) -> usize {
        self.world.rank()
    }

    /// The job's ranks.
    pub fn size(&self) -> usize {
        self.world.size()
    }

    /// The nodes that the job's ranks are on.
    pub fn nodes(&self) -> usize {
        self.world.membership().topology.nodes()
    }

    /// This rank's node, `0..nodes()`.
    pub fn node(&self) -> usize {
        self.world.membership().here()
    }

    /// By what this rank reaches the job's other nodes; shared memory when there are none.
    pub fn fabric(&self) -> FabricKind {
        let membership = self.world.membership();
        let other = usize::from(membership.here() == 0);
        membership.network.as_ref().filter(|_| self.nodes() > 1).map_or(FabricKind::Shm, |way| way.kind_of(other))
    }

    /// Has the RDMA device break this rank's connection to a node, as if by itself; for tests. `false` where there is
    /// none.
    #[cfg(feature = "testing")]
    pub fn break_rdma(&self, node: usize) -> bool {
        self.world.membership().network.as_ref().is_some_and(|network| network.break_rdma(node))
    }

    /// How the nodes exchange what they know in the world's barrier; `None` in a job of one node.
    pub fn exchange(&self) -> Option<ExchangePattern> {
        let nodes = self.nodes();
        (nodes > 1).then(|| self.world.membership().schedule_for(nodes).pattern())
    }

    /// The size of the node's segment in bytes.
    pub fn segment_bytes(&self) -> usize {
        self.world.membership().segment.layout().words() * 8
    }
}

fn single(jobs: Vec<Job>) -> Job {
    jobs.into_iter().next().expect("a job of one rank has a rank")
}

/// A segment's division, for groups whose blocks have `block_units` units.
fn node_layout(ranks: usize, block_units: usize, groups: usize) -> Result<NodeLayout, JobError> {
    match (block_units * UNIT_WORDS).checked_mul(groups) {
        Some(arena) if arena <= MOST_ARENA_WORDS => Ok(NodeLayout::new(ranks, arena.max(LEAST_ARENA_WORDS))),
        _ => Err(JobError::Groups { groups, ranks }),
    }
}

/// The same with space for so many named objects.
fn with_objects(layout: NodeLayout, objects: usize) -> Result<NodeLayout, JobError> {
    let words_of_one: usize = object_words(&layout).into_iter().sum();
    let words = objects.checked_add(1).and_then(|places| places.checked_mul(words_of_one));
    match words {
        Some(words) if words <= MOST_OBJECT_WORDS && objects <= MOST_OBJECTS => {
            Ok(objects::layout::with_objects(layout, objects))
        }
        _ => Err(JobError::Objects { objects, ranks: layout.ranks() }),
    }
}

fn create(rank: usize, layout: NodeLayout) -> Result<Segment, JobError> {
    let mut id = [0; 8];
    // The kernel's generator cannot fail once it is seeded, and a failure only makes the job's number less random.
    let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    Segment::create(layout, u64::from_le_bytes(id), coord::LAYOUT_HASH)
        .map_err(|source| JobError::Segment { rank, source })
}

/// A new segment for a job on one node.
fn create_alone(ranks: usize, options: &JobOptions) -> Result<Segment, JobError> {
    let layout = node_layout(ranks, formation::units(ranks), options.wanted_groups())?;
    create(0, with_objects(layout, options.wanted_objects())?)
}

/// Serves a segment to the ranks of its node.
fn serve(identity: &Identity, segment: &Segment) -> Result<Server, JobError> {
    let descriptor = rustix::io::fcntl_dupfd_cloexec(segment.fd(), 0).map_err(|error| BootstrapError::System {
        rank: identity.rank,
        address: identity.bootstrap.to_string(),
        step: "pass the segment to",
        source: error.into(),
    })?;
    Ok(Server::start(identity, segment.job_id(), descriptor)?)
}

/// Takes the node's segment from the rank that serves it, as the rank in `identity` says, in a job of so many ranks and
/// nodes.
fn attach(identity: &Identity, (job_ranks, nodes): (usize, usize), options: &JobOptions) -> Result<Segment, JobError> {
    let rank = identity.rank;
    let welcome = bootstrap::join(identity, options.limit())?;
    let layout_hash = coord::LAYOUT_HASH;
    let expected = Expected { job_id: welcome.job_id, ranks: identity.size, job_ranks, nodes, layout_hash };
    Segment::attach(welcome.segment, expected).map_err(|source| JobError::Segment { rank, source })
}

fn threads(n: usize, options: &JobOptions) -> Result<Vec<Job>, JobError> {
    if n == 0 || n > MAX_NODE_RANKS {
        return Err(JobError::Size { asked: n, most: MAX_NODE_RANKS });
    }
    let segment = Arc::new(create_alone(n, options)?);
    let mask = CpuSet::of_this_thread();
    for rank in 0..n {
        ranks::enter(&*segment, &segment.layout(), rank, rank, &mask);
    }
    open_world(&segment, options);
    (0..n).map(|rank| alone(&segment, rank, &mask, options, None)).collect()
}

/// Rank 0: makes the segment, serves it, and opens the job when all have joined.
fn found(identity: &Identity, options: &JobOptions) -> Result<Job, JobError> {
    let segment = Arc::new(create_alone(identity.size, options)?);
    let server = serve(identity, &segment)?;
    let mask = CpuSet::of_this_thread();
    ranks::enter(&*segment, &segment.layout(), 0, 0, &mask);
    ranks::await_all(&*segment, &segment.layout(), 0, options.limit())?;
    open_world(&segment, options);
    alone(&segment, 0, &mask, options, Some(server))
}

fn join(identity: &Identity, options: &JobOptions) -> Result<Job, JobError> {
    let rank = identity.rank;
    let (segment, mask) = (Arc::new(attach(identity, (identity.size, 1), options)?), CpuSet::of_this_thread());
    if !ranks::enter(&*segment, &segment.layout(), rank, rank, &mask) {
        return Err(BootstrapError::DuplicateRank { rank, address: identity.bootstrap.to_string() }.into());
    }
    ranks::await_open(&*segment, &segment.layout(), rank, options.limit())?;
    alone(&segment, rank, &mask, options, None)
}

/// Makes the world's group of a job on one node, now that everybody's place is known, and lets everybody in.
fn open_world(segment: &Segment, options: &JobOptions) {
    let node = segment.layout();
    let choice = AlgorithmChoice::new(options.barrier, &share_of_node(segment), node.ranks());
    let everyone: Vec<Member> = (0..node.ranks()).map(|rank| Member { rank, local: rank }).collect();
    let world =
        formation::make_for(segment, &node, &everyone, choice.algorithm).expect("an empty arena holds the world");
    formation::share(segment, &node, world.start(), everyone.len() - 1);
    ranks::open(segment, world.start());
}

fn share_of_node(segment: &Segment) -> CpuShare {
    let node = segment.layout();
    let masks: Vec<CpuSet> = (0..node.ranks()).map(|rank| ranks::mask_of(segment, &node, rank)).collect();
    cpu_share(&masks)
}

/// How ranks with these masks share a machine.
fn cpu_share(masks: &[CpuSet]) -> CpuShare {
    let mut union = CpuSet::EMPTY;
    masks.iter().flat_map(CpuSet::iter).for_each(|cpu| union.insert(cpu));
    let quota = machine::cpu_quota();
    let quota_allows = quota.is_none_or(|quota| quota >= masks.len() as f64);
    let has_own_cpus = quota_allows && machine::can_have_own_cpus(masks);
    CpuShare { ranks: masks.len(), cpus: union.count(), quota, has_own_cpus }
}

fn driver(segment: &Segment, cpus: &CpuShare, mask: &CpuSet, options: &JobOptions) -> Driver {
    let plan = WaitPlan::new(options.wait.unwrap_or_default(), !cpus.has_own_cpus);
    Driver::new(*segment.clock(), plan, mask.only().map_or(CpuHint::Floating, CpuHint::Pinned))
}

/// A rank of a job on one node that is open.
fn alone(
    segment: &Arc<Segment>,
    rank: usize,
    mask: &CpuSet,
    options: &JobOptions,
    server: Option<Server>,
) -> Result<Job, JobError> {
    let node = segment.layout();
    let cpus = share_of_node(segment);
    let topology = Arc::new(Topology::single(node.ranks()));
    let (layouts, failure): (Arc<[NodeLayout]>, _) = (Arc::new([node]), options.failure()?);
    let post = Post {
        rank,
        segment,
        layouts: &layouts,
        topology: &topology,
        has_witness: false,
        network: None,
        options: failure,
    };
    let membership = Membership::new(Parts {
        failure,
        durable_copies: options.wanted_copies(),
        watcher: Watcher::start(&post)?,
        trace: timeline::start(options, segment, &topology, rank)?,
        segment: Arc::clone(segment),
        rank,
        algorithm: options.barrier,
        cpus,
        driver: driver(segment, &cpus, mask, options),
        topology: Arc::clone(&topology),
        layouts: Arc::clone(&layouts),
        exchange: Exchange { pattern: options.pattern, costs: Costs::NONE },
        network: None,
    });
    let (layout, everyone) = (GroupLayout::new(node.unit(0), node.ranks()), (0..node.ranks()).collect());
    let world = Group::attach(Arc::new(membership), layout, everyone);
    Ok(Job { world, _server: server, _rendezvous: None })
}
