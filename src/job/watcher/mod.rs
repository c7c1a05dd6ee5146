//! The threads by which a process learns what becomes of the others of its node.
//!
//! One sleeps on a pidfd for each of them and uses no CPU meanwhile; another one ([`vigil`]) often knows of a death
//! before. A process that has ended without leaving the job has failed: its ranks' ends are noted in the node's table
//! and, in a job of one node, in the view log; the alarm wakes whoever waits. Every process does this, so that no
//! single death or stopped process can keep a failure from being seen; the first note stands, and the log holds each
//! rank once.
//!
//! In a job of several nodes the first also drives the rank's sentinel (`cluster::sentinel`).

mod driver;
mod vigil;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::driver::Driver;
use self::vigil::{Lookout, Vigil};
use super::failure::{FailureOptions, Process, note_end};
use crate::cluster::sentinel;
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::cluster::watch::{Added, Bell, Deaths, End, ProcessId, ProcessState, WatchError};
use crate::error::JobError;
use crate::fabric::network::Network;
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::shm::Segment;
use crate::fabric::{Await, Memory, Topology};
use crate::sync::{AtomicU32, Ordering};

/// How many processes each one watches: of a larger node those that follow it, so that each is watched by as many.
const MOST_WATCHED: usize = 128;

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    is_over: Arc<AtomicU32>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
    /// Ends first: before other threads of this process do, which is no death.
    vigil: Option<Vigil>,
}

/// What the thread works with.
struct Watch {
    segment: Arc<Segment>,
    topology: Arc<Topology>,
    here: usize,
    /// This rank's place on its node.
    local: usize,
    network: Option<Arc<Network>>,
    deaths: Deaths,
    is_over: Arc<AtomicU32>,
    sentinel: Option<Driver>,
    /// 1 when a connection has broken.
    has_breach: Arc<AtomicU32>,
}

/// Wakes those threads of this process that no alarm reaches.
#[derive(Clone)]
struct Alert {
    /// Whose sleep on connections is ended.
    network: Option<Arc<Network>>,
    /// Where there is a sentinel that has something to do now.
    bell: Option<Bell>,
}

/// What the thread watches, and for whom.
pub(crate) struct Post<'job> {
    pub rank: usize,
    pub segment: &'job Arc<Segment>,
    pub layouts: &'job Arc<[NodeLayout]>,
    pub topology: &'job Arc<Topology>,
    pub has_witness: bool,
    pub network: Option<&'job Arc<Network>>,
    pub options: FailureOptions,
}

impl Watcher {
    /// Watches the other processes of a rank's node, and other nodes. `None` when there are none.
    ///
    /// # Errors
    ///
    /// [`JobError::System`] when the kernel refuses a thread or a descriptor.
    pub fn start(post: &Post<'_>) -> Result<Option<Self>, JobError> {
        let Post { rank, segment, layouts, topology, has_witness, network, options } = *post;
        let system = |step| move |source| JobError::System { rank, step, source };
        let refused = |error| system("watch the other processes of its node")(std::io::Error::other(error));
        let of_nodes = network.filter(|_| topology.nodes() > 1);
        let FailureOptions { timeout, heartbeat } = options;
        let place = sentinel::Post {
            rank,
            layouts: Arc::clone(layouts),
            topology: Arc::clone(topology),
            has_witness,
            options: sentinel::SentinelOptions { timeout, heartbeat },
            seed: segment.job_id(),
        };
        let mut watch = Watch {
            segment: Arc::clone(segment),
            topology: Arc::clone(topology),
            here: topology.node_of(rank),
            local: topology.local_of(rank),
            network: network.map(Arc::clone),
            deaths: Deaths::new().map_err(refused)?,
            is_over: Arc::new(AtomicU32::new(0)),
            sentinel: of_nodes.map(|network| Driver::new(place, segment, network)),
            has_breach: Arc::new(AtomicU32::new(0)),
        };
        watch.listen();
        let watched = watch.add_neighbours().map_err(refused)?;
        if watched.is_empty() && watch.sentinel.is_none() {
            return Ok(None);
        }
        let vigil =
            watch.keep_vigil(watched, timeout).map_err(system("start the thread that learns first of deaths"))?;
        let (is_over, bell) = (Arc::clone(&watch.is_over), watch.deaths.bell());
        let thread = std::thread::Builder::new()
            .name("phalanx-watch".to_owned())
            .spawn(move || watch.run())
            .map_err(system("start the thread that watches its node"))?;
        Ok(Some(Self { is_over, bell, thread: Some(thread), vigil }))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.vigil.take();
        self.is_over.store(1, Ordering::Relaxed);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a process does, as far as others must do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It runs; or it is gone, and its pidfd tells.
    Runs,
    Stopped,
    /// It will run no more, but its end takes long: its core file is written.
    Ending(FailureCause),
}

/// What the process of a rank of this node does.
pub(super) fn condition_of(segment: &Segment, local: usize) -> Condition {
    let process = process_of(segment, local);
    match process.state() {
        Ok(ProcessState::Stopped | ProcessState::Traced) => Condition::Stopped,
        // Its lifeline is not cut while its core file is written, but by all of its threads when they have ended.
        Ok(ProcessState::Running) if process.is_dumping() => {
            process.ending().ok().flatten().map_or(Condition::Runs, |end| Condition::Ending(cause_of(end)))
        }
        _ => Condition::Runs,
    }
}

/// The word of a rank of this node that it has ended so.
fn obituary_of(topology: &Topology, here: usize, local: usize, cause: FailureCause) -> Obituary {
    Obituary { unit: Unit::Rank(topology.ranks_of(here)[local]), cause }
}

/// A rank's process, as it has entered it.
fn process_of(segment: &Segment, local: usize) -> ProcessId {
    let node = segment.layout();
    // Relaxed: written before the job was opened.
    let load = |at| segment.word(at).load(Ordering::Relaxed);
    let pid = u32::try_from(load(node.process(local))).unwrap_or(0);
    ProcessId { pid, start_ticks: load(node.started(local)) }
}

impl Watch {
    fn run(mut self) {
        crate::scheduling::wake_soon();
        // Relaxed: the bell is rung after it is stored, and its read is ordered behind.
        while self.is_over.load(Ordering::Relaxed) == 0 {
            let pause = self.sentinel.as_mut().and_then(Driver::run);
            // Without events nothing can be watched; the bell then has nobody to wake.
            let Ok(woken) = self.deaths.wait(pause) else { return };
            for death in woken.deaths {
                self.note_death(usize::try_from(death.key).unwrap_or(usize::MAX), death.end);
            }
            if self.has_breach.swap(0, Ordering::Relaxed) != 0
                && let Some(sentinel) = &mut self.sentinel
            {
                sentinel.handle_breach();
            }
        }
        if let Some(sentinel) = &mut self.sentinel {
            sentinel.end();
        }
    }

    /// Begins to watch other processes of this node, and notes the ends of those that are gone already. Their ranks, by
    /// their places on the node.
    fn add_neighbours(&mut self) -> Result<Vec<usize>, WatchError> {
        let ranks = self.topology.ranks_of(self.here).len();
        let mut watched = Vec::new();
        for step in 1..ranks.min(MOST_WATCHED + 1) {
            let other = (self.local + step) % ranks;
            let process = process_of(&self.segment, other);
            if process.pid == std::process::id() {
                continue;
            }
            watched.push(other);
            if let Added::DeadAlready(end) = self.deaths.add(other as u64, process)? {
                self.note_death(other, end);
            }
        }
        Ok(watched)
    }

    /// Has the bell rung when other nodes have something to say, or are gone.
    fn listen(&self) {
        let (Some(network), Some(_)) = (&self.network, &self.sentinel) else { return };
        let bell = self.deaths.bell();
        network.watch_word(header::ALARM, Box::new(move || bell.ring()));
        let (bell, has_breach) = (self.deaths.bell(), Arc::clone(&self.has_breach));
        network.when_broken(Box::new(move || {
            has_breach.store(1, Ordering::Relaxed);
            bell.ring();
        }));
        let (bell, segment) = (self.deaths.bell(), Arc::clone(&self.segment));
        let (layout, end) = (segment.layout(), segment.layout().end(self.local));
        let is_failure = |end: Obituary| end.cause != FailureCause::Left;
        // One that leaves serves until another does.
        network.serve_until(end, Box::new(move |word| Obituary::unpack_in(&layout, word).is_some_and(is_failure)));
        network.when_excluded(Box::new(move |_| {
            // A rank that its own node has given up is refused alone; its node goes on.
            // SYNC POINT: end. Acquire pairs with `view::note_end`; whoever heeds the alarm below sees it, too.
            if segment.word(end).load(Ordering::Acquire) == 0 {
                // Relaxed: the alarm publishes it (SYNC POINT: alarm), and who looks without one reads nothing else by
                // it.
                segment.word(header::EXCLUDED).store(1, Ordering::Relaxed);
            }
            view::raise_alarm(&*segment);
            bell.ring();
        }));
    }

    /// `None` where nobody shares this node, or the kernel cannot do it.
    fn keep_vigil(&self, watched: Vec<usize>, patience: Duration) -> std::io::Result<Option<Vigil>> {
        if watched.is_empty() {
            return Ok(None);
        }
        let alert = Alert { network: self.network.clone(), bell: self.sentinel.as_ref().map(|_| self.deaths.bell()) };
        Vigil::start(Lookout {
            segment: Arc::clone(&self.segment),
            topology: Arc::clone(&self.topology),
            here: self.here,
            local: self.local,
            watched,
            patience,
            alert,
        })
    }

    fn note_death(&self, local: usize, end: End) {
        let obituary = obituary_of(&self.topology, self.here, local, cause_of(end));
        note_end(&self.segment, local, obituary, Process::Gone);
        // Even if another process was quicker: whoever sleeps in this one is woken by this one.
        if let Some(network) = &self.network {
            network.rouse();
        }
    }
}

impl Alert {
    /// Whether other processes may have such threads, too.
    fn raise(&self) -> bool {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
        self.network.as_ref().inspect(|network| network.rouse()).is_some()
    }
}

fn cause_of(end: End) -> FailureCause {
    match end {
        End::Killed { signal } => FailureCause::Killed { signal },
        End::Exited { status } => FailureCause::Exited { status },
        End::Unknown => FailureCause::Died,
    }
}
