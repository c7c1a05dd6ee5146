//! One end of `phalanx bench fabric`: node 0, which asks and leaves the records, or node 1, which is asked.
//!
//! The loop that asks knows only the contract ([`Fabric`]), so that every fabric is measured by the same one. It checks
//! the values that come back: each fetch-and-add finds what the one before has left, each compare-and-swap too, and a
//! read finds the last write. Operations that are fast because they are lost do not count.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use phalanx::clock::Clock;
use phalanx::cluster::environment::{Environment, Identity};
use phalanx::cluster::rendezvous;
use phalanx::fabric::node::NodeLayout;
use phalanx::fabric::rdma::{Offer, RdmaError, RdmaFabric, RdmaOptions, Region};
use phalanx::fabric::shm::{Neighbourhood, Segment};
use phalanx::fabric::tcp::{self, Services, TcpFabric};
use phalanx::fabric::{BATCH_REQUESTS, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::{EnvironmentError, RendezvousError, SegmentError};

use super::{ENDPOINT_COMMAND, Operation, Peer, Task, WINDOWS, record_of};
use crate::rank::{RankError, pin};
use crate::samples::{self, Sample, SamplesError};
use crate::turn::{Meeting, Ranks, TurnError};

/// The node that is asked.
const PEER: usize = 1;
/// How long one record takes at most.
const RECORD_LIMIT: Duration = Duration::from_millis(50);
/// How long an answer may take before it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// The least operations of a record, however long they take.
const LEAST_OPERATIONS: usize = 10;
/// Operations before a record, a share of which is dropped: connections, caches, the scheduler's mind.
const WARMUP: usize = 200;

/// Why an end could not measure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The task is no task.
    #[error("the task of a benchmark's end cannot be read: {0}")]
    Task(String),
    /// The environment names no end.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The ends could not meet.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// No memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The system refuses something.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// No device, or no connection by it.
    #[error(transparent)]
    Rdma(#[from] RdmaError),
    /// The device chosen has no atomics.
    #[error("RDMA device {device} has no atomics to measure (remedy: --fabric tcp)")]
    NoAtomics {
        /// The device.
        device: String,
    },
    /// The fabric refuses requests.
    #[error(transparent)]
    Post(#[from] PostError),
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// No answer came.
    #[error("node 1 did not answer for {PATIENCE:?}")]
    Silent,
    /// An answer came that cannot be.
    #[error("{operation} found {found} where {expected} must have been")]
    Wrong {
        /// What was asked.
        operation: &'static str,
        /// The answer.
        found: u64,
        /// The right one.
        expected: u64,
    },
    /// A record could not be written.
    #[error(transparent)]
    Samples(#[from] SamplesError),
}

fn system(step: &'static str) -> impl Fn(std::io::Error) -> EndpointError {
    move |source| EndpointError::System { step, source }
}

/// A turn: starts the ends as processes and waits for them. In shared memory one process has both nodes mapped.
pub fn start(task: &Task) -> Result<(), TurnError> {
    let ends = if task.fabric == FabricKind::Shm.name() { 1 } else { 2 };
    std::fs::create_dir_all(&task.directory)
        .map_err(|source| TurnError::Directory { path: task.directory.display().to_string(), source })?;
    let meeting = Meeting::across(ends).map_err(|source| TurnError::Start { rank: 0, source })?;
    let text = serde_json::to_string(task).map_err(|error| RankError::Task(error.to_string()))?;
    let mut processes = Ranks::default();
    for end in 0..ends {
        processes.start(&[ENDPOINT_COMMAND, &text], meeting.variables_on_own_node(end))?;
    }
    processes.await_all()
}

/// The whole life of an end's process: `text` is its [`Task`].
///
/// # Errors
///
/// [`EndpointError`].
pub fn run_process(text: &str) -> Result<(), EndpointError> {
    // A benchmark that is killed takes its ends along.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let task: Task = serde_json::from_str(text).map_err(|error| EndpointError::Task(error.to_string()))?;
    let identity = Environment::of_this_process().identity()?;
    let identity = identity.ok_or_else(|| EndpointError::Task("its process has no identity".to_owned()))?;
    // Before the fabric starts its thread, which shares the CPU with whoever computes.
    if let Some(cpu) = task.cpus.get(identity.rank % task.cpus.len().max(1)) {
        pin(*cpu);
    }
    let memory = Arc::new(Segment::create(layout(), 1, 1)?);
    if task.fabric == FabricKind::Shm.name() {
        let other = Arc::new(Segment::create(layout(), 1, 1)?);
        return ask(&task, &Neighbourhood::new(vec![memory, other]).join(0));
    }
    let client =
        rendezvous::Client::connect(identity.rank, identity.size, &identity.bootstrap, &identity.key, PATIENCE)?;
    match task.fabric == FabricKind::Rdma.name() {
        true => run_by_rdma(&task, &identity, &memory, client),
        false => run_by_tcp(&task, &identity, &memory, client),
    }
}

/// Room for the few words that are asked for.
fn layout() -> NodeLayout {
    NodeLayout::new(1, 1 << 10)
}

/// A word of its own line for each operation, and one that ends the turn.
fn word(index: usize) -> WordAt {
    layout().unit(0).plus(index * phalanx::fabric::LINE_WORDS)
}

fn stop_word() -> WordAt {
    word(Operation::ALL.len())
}

fn run_by_tcp(
    task: &Task,
    identity: &Identity,
    memory: &Arc<Segment>,
    mut client: rendezvous::Client,
) -> Result<(), EndpointError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(system("listen for the other end"))?;
    let own = listener.local_addr().map_err(system("listen for the other end"))?;
    let brought = client.allgather(own.to_string().as_bytes(), PATIENCE)?;
    let peers = brought.iter().enumerate().map(|(rank, address)| peer(rank, address)).collect::<Result<_, _>>()?;
    let (rank, size) = (identity.rank, identity.size);
    let services = Services { rank, size, here: rank, key: identity.key.clone() };
    let served: Arc<Segment> = Arc::clone(memory);
    let fabric =
        TcpFabric::new(services, served, peers, Some(listener)).map_err(system("join the other end by TCP"))?;
    take_part(task, rank, &fabric, memory, client)
}

fn run_by_rdma(
    task: &Task,
    identity: &Identity,
    memory: &Arc<Segment>,
    mut client: rendezvous::Client,
) -> Result<(), EndpointError> {
    let (rank, other) = (identity.rank, 1 - identity.rank.min(1));
    let region = Region::of_segment(Arc::clone(memory));
    let fabric = RdmaFabric::new(RdmaOptions::default(), rank, identity.size, region)?;
    let brought = client.allgather(&fabric.offer(other)?.to_bytes(), PATIENCE)?;
    let offer = Offer::from_bytes(&brought[other]).map_err(|source| RdmaError::Offer { node: other, source })?;
    fabric.connect(other, &offer)?;
    if !fabric.has_atomics(other) {
        return Err(EndpointError::NoAtomics { device: fabric.choice().device.clone() });
    }
    // What is sent before the other end is connected is sent again after a while: that time is nobody's latency.
    client.allgather(&[], PATIENCE)?;
    take_part(task, rank, &fabric, memory, client)
}

/// Asks or is asked, until both are through.
fn take_part(
    task: &Task,
    rank: usize,
    fabric: &impl Fabric,
    memory: &Segment,
    mut client: rendezvous::Client,
) -> Result<(), EndpointError> {
    if rank == PEER {
        be_asked(task.peer, fabric, memory)
    } else {
        ask(task, fabric)?
    };
    // Nobody closes its connections before the other has had its answers.
    client.allgather(&[], PATIENCE)?;
    Ok(())
}

fn peer(rank: usize, address: &[u8]) -> Result<tcp::Peer, EndpointError> {
    let address = std::str::from_utf8(address).ok().and_then(|text| text.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| EndpointError::Task(format!("end {rank} brought no address")))?;
    Ok(tcp::Peer::alone(rank, address, layout().words()))
}

/// Node 1, until node 0 says that it is over.
fn be_asked(state: Peer, fabric: &impl Fabric, memory: &impl Memory) {
    let stop = memory.word(stop_word());
    while stop.load(Ordering::Acquire) == 0 {
        match state {
            Peer::Polling => fabric.progress(),
            Peer::Computing => compute(),
        }
    }
}

/// Some microseconds of work that needs nobody.
fn compute() {
    for number in 0..4096_u64 {
        std::hint::black_box(number);
    }
}

/// Node 0: every operation with every window, then the end.
fn ask(task: &Task, fabric: &impl Fabric) -> Result<(), EndpointError> {
    let clock = Clock::calibrate();
    for (index, operation) in Operation::ALL.into_iter().enumerate() {
        let mut asker = Asker { fabric, clock, operation, at: word(index), done: 0, tickets: Vec::new() };
        for outstanding in WINDOWS {
            asker.record(WARMUP, outstanding)?;
            let samples = asker.record(task.operations, outstanding)?;
            write(&record_of(&task.directory, operation, outstanding), &samples)?;
        }
    }
    let mut last = Asker { fabric, clock, operation: Operation::Write, at: stop_word(), done: 0, tickets: Vec::new() };
    last.record(1, 1)?;
    Ok(())
}

fn write(directory: &Path, samples: &[Sample]) -> Result<(), EndpointError> {
    let failed = |source| SamplesError::File { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    samples::write(directory, 0, samples)?;
    Ok(())
}

/// Asks for one operation on one word.
struct Asker<'f, F> {
    fabric: &'f F,
    clock: Clock,
    operation: Operation,
    at: WordAt,
    /// Operations so far, and for all but reads the word's value.
    done: u64,
    tickets: Vec<Ticket>,
}

impl<F: Fabric> Asker<'_, F> {
    /// As many operations as are asked for, or fit into the limit, with so many outstanding.
    fn record(&mut self, operations: usize, outstanding: usize) -> Result<Vec<Sample>, EndpointError> {
        let until = Instant::now() + RECORD_LIMIT;
        match self.operation {
            Operation::Write => self.write_windows(operations, outstanding, until),
            _ => self.slide(operations, outstanding, until),
        }
    }

    /// Windows of writes with a read behind each: all are done when the read is.
    fn write_windows(
        &mut self,
        operations: usize,
        outstanding: usize,
        until: Instant,
    ) -> Result<Vec<Sample>, EndpointError> {
        let mut samples = Vec::with_capacity(operations);
        while samples.len() < operations && (samples.len() < LEAST_OPERATIONS || Instant::now() < until) {
            let first = self.done + 1;
            self.done += outstanding as u64;
            let writes = (first..=self.done).map(|value| Request::Write { at: self.at, value });
            let requests: Vec<Request> = writes.chain([Request::Read { at: self.at }]).collect();
            let enter = self.clock.now();
            for batch in requests.chunks(BATCH_REQUESTS) {
                self.post_all(batch)?;
            }
            let ticket = self.tickets.pop().expect("a read has a ticket");
            let found = self.await_value(ticket)?;
            let exit = self.clock.now();
            self.expect(found, self.done)?;
            samples.extend(std::iter::repeat_n(Sample { enter, exit }, outstanding));
        }
        Ok(samples)
    }

    /// A window that is filled again as operations complete.
    fn slide(&mut self, operations: usize, outstanding: usize, until: Instant) -> Result<Vec<Sample>, EndpointError> {
        let mut samples = Vec::with_capacity(operations);
        let mut window = VecDeque::with_capacity(outstanding);
        let (mut posted, mut wanted) = (0, operations);
        while samples.len() < wanted {
            if posted >= LEAST_OPERATIONS && Instant::now() >= until {
                wanted = posted;
            }
            let room = (outstanding - window.len()).min(wanted - posted);
            if room > 0 {
                let requests: Vec<Request> =
                    (0..room as u64).map(|ahead| self.request(window.len() as u64 + ahead)).collect();
                let enter = self.clock.now();
                self.post_all(&requests)?;
                posted += room;
                window.extend(self.tickets.drain(..).map(|ticket| (ticket, enter)));
            }
            let Some((ticket, enter)) = window.pop_front() else { continue };
            let found = self.await_value(ticket)?;
            samples.push(Sample { enter, exit: self.clock.now() });
            self.check(found)?;
            self.collect(&mut window, &mut samples)?;
        }
        Ok(samples)
    }

    /// Takes what else has completed; requests to one node complete in order.
    fn collect(
        &mut self,
        window: &mut VecDeque<(Ticket, u64)>,
        samples: &mut Vec<Sample>,
    ) -> Result<(), EndpointError> {
        while let Some((ticket, enter)) = window.front().copied() {
            let Poll::Ready(value) = self.fabric.take(ticket) else { return Ok(()) };
            samples.push(Sample { enter, exit: self.clock.now() });
            window.pop_front();
            self.check(value?)?;
        }
        Ok(())
    }

    /// The operation that is `ahead` of the next to complete.
    fn request(&self, ahead: u64) -> Request {
        let (at, value) = (self.at, self.done + ahead);
        match self.operation {
            Operation::Write => Request::Write { at, value },
            Operation::Read => Request::Read { at },
            Operation::FetchAdd => Request::FetchAdd { at, add: 1 },
            Operation::CompareSwap => Request::CompareSwap { at, expected: value, new: value + 1 },
        }
    }

    /// Whether the next to complete has found what the ones before it have left.
    fn check(&mut self, found: u64) -> Result<(), EndpointError> {
        let expected = if self.operation == Operation::Read { 0 } else { self.done };
        self.done += 1;
        self.expect(found, expected)
    }

    fn expect(&self, found: u64, expected: u64) -> Result<(), EndpointError> {
        let operation = self.operation.name();
        if found == expected { Ok(()) } else { Err(EndpointError::Wrong { operation, found, expected }) }
    }

    fn post_all(&mut self, requests: &[Request]) -> Result<(), EndpointError> {
        let begun = Instant::now();
        loop {
            match self.fabric.post(PEER, requests, &mut self.tickets) {
                Err(PostError::Full { .. }) if begun.elapsed() < PATIENCE => self.fabric.progress(),
                result => return Ok(result?),
            }
        }
    }

    fn await_value(&self, ticket: Ticket) -> Result<u64, EndpointError> {
        let begun = Instant::now();
        let mut looks = 0_u32;
        loop {
            if let Poll::Ready(value) = self.fabric.take(ticket) {
                return Ok(value?);
            }
            self.fabric.progress();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1024) && begun.elapsed() >= PATIENCE {
                return Err(EndpointError::Silent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours() -> (Arc<Segment>, impl Fabric) {
        let memories: Vec<Arc<Segment>> =
            (0..2).map(|_| Arc::new(Segment::create(layout(), 1, 1).expect("memory"))).collect();
        (Arc::clone(&memories[1]), Neighbourhood::new(memories).join(0))
    }

    fn asker<F: Fabric>(fabric: &F, operation: Operation) -> Asker<'_, F> {
        Asker { fabric, clock: Clock::calibrate(), operation, at: word(0), done: 0, tickets: Vec::new() }
    }

    #[test]
    fn every_operation_and_window_takes_effect_as_often_as_it_is_recorded() {
        for operation in Operation::ALL {
            let (memory, fabric) = neighbours();
            let mut asker = asker(&fabric, operation);
            let mut recorded = 0;
            for outstanding in WINDOWS {
                let samples = asker.record(128, outstanding).expect("shared memory does not fail");
                assert!(samples.iter().all(|sample| sample.enter <= sample.exit));
                recorded += samples.len() as u64;
            }
            let expected = if operation == Operation::Read { 0 } else { recorded };
            assert_eq!(memory.word(word(0)).load(Ordering::Acquire), expected, "{operation:?}");
        }
    }

    #[test]
    fn an_operation_that_finds_something_else_is_an_error() {
        for operation in [Operation::Read, Operation::FetchAdd, Operation::CompareSwap] {
            let (memory, fabric) = neighbours();
            memory.word(word(0)).store(7, Ordering::Release);
            let error = asker(&fabric, operation).record(10, 1).expect_err("somebody else wrote");
            assert!(matches!(error, EndpointError::Wrong { found: 7, expected: 0, .. }), "{error}");
        }
    }
}
