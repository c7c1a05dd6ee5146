//! A rank's membership in its job: joining by the environment a launcher made, or making a job of threads.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::bootstrap::{self, Server};
use crate::cluster::environment::{Environment, Identity, MAX_NODE_RANKS};
use crate::cluster::membership;
use crate::coord;
use crate::coord::barrier::Algorithm;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::drive::{CpuHint, Driver};
use crate::coord::formation;
use crate::coord::wait::{WaitPlan, WaitPolicy};
use crate::error::{BootstrapError, JobError};
use crate::fabric::node::{NodeLayout, UNIT_WORDS};
use crate::fabric::shm::{Expected, Segment};
use crate::group::{AlgorithmChoice, Group};
use crate::machine::{self, CpuSet};

/// How long ranks wait for each other to join, unless told otherwise.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Groups as large as the world for which a segment has space, unless told otherwise.
const GROUPS: usize = 64;
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
    bootstrap_timeout: Option<Duration>,
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

    /// How long ranks wait for each other to join (`PHALANX_BOOTSTRAP_TIMEOUT_MS`; default 30 s).
    #[must_use]
    pub fn bootstrap_timeout(mut self, timeout: Duration) -> Self {
        self.bootstrap_timeout = Some(timeout);
        self
    }

    /// Fills what is open from the environment.
    fn completed_by(&self, environment: &Environment) -> Result<Self, JobError> {
        let set = environment.options()?;
        let option = |name| move |why| JobError::Option { name, why };
        let barrier = match set.barrier.as_deref() {
            None | Some("auto") => None,
            Some(text) => Some(text.parse().map_err(|why| option("PHALANX_BARRIER")(format!("{why}, or auto")))?),
        };
        let wait = set.wait.as_deref().map(str::parse).transpose().map_err(option("PHALANX_WAIT"))?;
        Ok(Self {
            barrier: self.barrier.or(barrier),
            wait: self.wait.or(wait),
            groups: self.groups,
            bootstrap_timeout: self.bootstrap_timeout.or(set.bootstrap_timeout),
        })
    }

    fn limit(&self) -> Duration {
        self.bootstrap_timeout.unwrap_or(BOOTSTRAP_TIMEOUT)
    }
}

/// This rank's part in its job.
#[derive(Debug)]
pub struct Job {
    world: Group,
    /// Rank 0 of a launched job: serves the segment until the job is dropped.
    _server: Option<Server>,
}

/// What all groups of a rank share.
#[derive(Debug)]
pub(crate) struct Membership {
    pub segment: Arc<Segment>,
    pub rank: usize,
    /// The algorithm that this rank names for the groups that it makes.
    pub algorithm: Option<Algorithm>,
    /// Whether the node's ranks can each have a CPU, and how many there are.
    pub cpus: CpuShare,
    pub driver: Driver,
}

/// How the ranks of a node share its CPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuShare {
    pub ranks: usize,
    pub cpus: usize,
    pub quota: Option<f64>,
    pub has_own_cpus: bool,
}

impl Job {
    /// Joins the job that the environment names (see README.md for the variables; `phalanx run` sets them), or makes a
    /// job of one rank when it names none. Collective: returns when all ranks have joined.
    ///
    /// # Errors
    ///
    /// [`JobError`], within the bootstrap time-out: half an environment, a rank out of range or taken, a wrong key,
    /// nobody serving, ranks missing, a segment that does not fit.
    pub fn from_env() -> Result<Self, JobError> {
        Self::from_env_with(&JobOptions::new())
    }

    /// As [`from_env`](Self::from_env), with options.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_env_with(options: &JobOptions) -> Result<Self, JobError> {
        let environment = Environment::of_this_process();
        let identity = environment.identity()?;
        let options = options.completed_by(&environment)?;
        match identity {
            None => Ok(single(threads(1, &options)?)),
            Some(identity) if identity.rank == 0 => found(&identity, &options),
            Some(identity) => join(&identity, &options),
        }
    }

    /// Makes a job of `n` ranks in this process, to be handed to as many threads.
    ///
    /// # Errors
    ///
    /// [`JobError::Size`] for 0 or too many ranks; an option of the environment that means nothing; no memory.
    pub fn threads(n: usize) -> Result<Vec<Self>, JobError> {
        Self::threads_with(n, &JobOptions::new())
    }

    /// As [`threads`](Self::threads), with options.
    ///
    /// # Errors
    ///
    /// As [`threads`](Self::threads).
    pub fn threads_with(n: usize, options: &JobOptions) -> Result<Vec<Self>, JobError> {
        threads(n, &options.completed_by(&Environment::of_this_process())?)
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

    /// The size of the node's segment in bytes.
    pub fn segment_bytes(&self) -> usize {
        self.world.membership().segment.layout().words() * 8
    }
}

fn single(jobs: Vec<Job>) -> Job {
    jobs.into_iter().next().expect("a job of one rank has a rank")
}

fn node_layout(ranks: usize, options: &JobOptions) -> Result<NodeLayout, JobError> {
    let groups = options.groups.unwrap_or(GROUPS).max(1);
    let block = formation::units(ranks) * UNIT_WORDS;
    match block.checked_mul(groups) {
        Some(arena) if arena <= MOST_ARENA_WORDS => Ok(NodeLayout::new(ranks, arena.max(LEAST_ARENA_WORDS))),
        _ => Err(JobError::Groups { groups, ranks }),
    }
}

fn create(rank: usize, ranks: usize, options: &JobOptions) -> Result<Segment, JobError> {
    let mut id = [0; 8];
    // The kernel's generator cannot fail once it is seeded, and a failure only makes the job's number less random.
    let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    Segment::create(node_layout(ranks, options)?, u64::from_le_bytes(id), coord::LAYOUT_HASH)
        .map_err(|source| JobError::Segment { rank, source })
}

/// Makes the world's block, the first of the arena.
fn make_world(segment: &Segment) {
    let everyone: Vec<usize> = (0..segment.layout().ranks()).collect();
    formation::make(segment, &segment.layout(), &everyone, Algorithm::Flat).expect("an empty arena holds the world");
}

fn world_layout(segment: &Segment) -> GroupLayout {
    let node = segment.layout();
    GroupLayout::new(node.unit(0), node.ranks())
}

fn threads(n: usize, options: &JobOptions) -> Result<Vec<Job>, JobError> {
    if n == 0 || n > MAX_NODE_RANKS {
        return Err(JobError::Size { asked: n, most: MAX_NODE_RANKS });
    }
    let segment = Arc::new(create(0, n, options)?);
    let mask = CpuSet::of_this_thread();
    for rank in 0..n {
        membership::enter(&*segment, &segment.layout(), rank, &mask);
    }
    open_world(&segment, options);
    Ok((0..n).map(|rank| Job { world: world_of(&segment, rank, &mask, options), _server: None }).collect())
}

/// Rank 0: makes the segment, serves it, and opens the job when all have joined.
fn found(identity: &Identity, options: &JobOptions) -> Result<Job, JobError> {
    let segment = Arc::new(create(0, identity.size, options)?);
    let descriptor = rustix::io::fcntl_dupfd_cloexec(segment.fd(), 0).map_err(|error| BootstrapError::System {
        rank: 0,
        address: identity.bootstrap.to_string(),
        step: "pass the segment to",
        source: error.into(),
    })?;
    let server = Server::start(identity, segment.job_id(), descriptor)?;
    let mask = CpuSet::of_this_thread();
    membership::enter(&*segment, &segment.layout(), 0, &mask);
    membership::await_all(&*segment, &segment.layout(), 0, options.limit())?;
    open_world(&segment, options);
    Ok(Job { world: world_of(&segment, 0, &mask, options), _server: Some(server) })
}

fn join(identity: &Identity, options: &JobOptions) -> Result<Job, JobError> {
    let rank = identity.rank;
    let welcome = bootstrap::join(identity, options.limit())?;
    let expected = Expected { job_id: welcome.job_id, ranks: identity.size, layout_hash: coord::LAYOUT_HASH };
    let segment = Segment::attach(welcome.segment, expected).map_err(|source| JobError::Segment { rank, source })?;
    let (segment, mask) = (Arc::new(segment), CpuSet::of_this_thread());
    if !membership::enter(&*segment, &segment.layout(), rank, &mask) {
        return Err(BootstrapError::DuplicateRank { rank, address: identity.bootstrap.to_string() }.into());
    }
    membership::await_open(&*segment, &segment.layout(), rank, options.limit())?;
    Ok(Job { world: world_of(&segment, rank, &mask, options), _server: None })
}

/// Makes the world's group, now that everybody's place is known, and lets everybody in.
fn open_world(segment: &Segment, options: &JobOptions) {
    make_world(segment);
    let share = cpu_share(segment);
    let choice = AlgorithmChoice::new(options.barrier, &share, segment.layout().ranks());
    formation::set_algorithm(segment, world_layout(segment), choice.algorithm);
    membership::open(segment);
}

fn cpu_share(segment: &Segment) -> CpuShare {
    let node = segment.layout();
    let masks: Vec<CpuSet> = (0..node.ranks()).map(|rank| membership::mask_of(segment, &node, rank)).collect();
    let mut union = CpuSet::EMPTY;
    masks.iter().flat_map(CpuSet::iter).for_each(|cpu| union.insert(cpu));
    let quota = machine::cpu_quota();
    let quota_allows = quota.is_none_or(|quota| quota >= node.ranks() as f64);
    CpuShare {
        ranks: node.ranks(),
        cpus: union.count(),
        quota,
        has_own_cpus: quota_allows && machine::can_have_own_cpus(&masks),
    }
}

fn world_of(segment: &Arc<Segment>, rank: usize, mask: &CpuSet, options: &JobOptions) -> Group {
    let cpus = cpu_share(segment);
    let plan = WaitPlan::new(options.wait.unwrap_or_default(), !cpus.has_own_cpus);
    let hint = mask.only().map_or(CpuHint::Floating, CpuHint::Pinned);
    let driver = Driver::new(*segment.clock(), plan, hint);
    let membership = Membership { segment: Arc::clone(segment), rank, algorithm: options.barrier, cpus, driver };
    let everyone = (0..segment.layout().ranks()).collect();
    Group::attach(Arc::new(membership), world_layout(segment), everyone)
}
