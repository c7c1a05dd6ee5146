//! The limit by RDMA: a number written to and fro between two threads, each with a segment and a fabric of its own on
//! the device that ranks would choose.
//!
//! Both wait as ranks do, by looking at their own memory only; each write's work request is made once. So this is what
//! the device takes with nothing of the barrier around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phalanx::clock::Clock;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::rdma::{Prepared, RdmaError, RdmaFabric, RdmaOptions, Region};
use phalanx::fabric::shm::Segment;
use phalanx::fabric::{Fabric, Memory, PostError, WordAt};
use phalanx::{FabricChoice, SegmentError};

use crate::rank::pin;

/// Round trips of a number, at most.
const TRIPS: usize = 10_000;
/// Round trips before the record begins.
const WARMUP: usize = 200;
/// How long numbers may go to and fro, after the first has come back.
const LIMIT: Duration = Duration::from_millis(300);
/// How long a number may take: with a connection that is lost it never comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks at memory between two looks at everything else: longer than a device takes.
const LOOKS: u32 = 1 << 12;

/// Why there is no such limit.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdapterError {
    #[error(transparent)]
    Rdma(#[from] RdmaError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("no write of the other end came for {PATIENCE:?} by {}", FabricChoice::Rdma)]
    Silent,
}

/// The time of each round trip, in the clock's ticks.
pub(super) fn trips(first: usize, second: usize, clock: &Clock) -> Result<Vec<u64>, AdapterError> {
    let (near, far) = joined_ends()?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (near, far, is_over) = (&near, &far, &is_over);
        let echo = scope.spawn(move || {
            pin(second);
            far.echo(is_over)
        });
        let sender = scope.spawn(move || {
            pin(first);
            let trips = near.send(clock);
            // Relaxed: only the end is told by it.
            is_over.store(true, Ordering::Relaxed);
            trips
        });
        let trips = sender.join().expect("the sender ends");
        let echoed = echo.join().expect("the other end ends");
        trips.and_then(|trips| echoed.map(|()| trips))
    })
}

fn layout() -> NodeLayout {
    NodeLayout::new(1, UNIT_WORDS)
}

/// The word that each end waits at, in its own memory.
fn word() -> WordAt {
    layout().unit(0)
}

struct End {
    memory: Arc<Segment>,
    fabric: RdmaFabric,
}

/// Two ends on one device that are connected to each other.
fn joined_ends() -> Result<(End, End), AdapterError> {
    let near = End::new(RdmaOptions::default(), 0)?;
    let device = Some(near.fabric.choice().device.clone());
    let far = End::new(RdmaOptions { device, ..RdmaOptions::default() }, 1)?;
    let (to_far, to_near) = (near.fabric.offer(1)?, far.fabric.offer(0)?);
    near.fabric.connect(1, &to_near)?;
    far.fabric.connect(0, &to_far)?;
    Ok((near, far))
}

impl End {
    fn new(options: RdmaOptions, here: usize) -> Result<Self, AdapterError> {
        let memory = Arc::new(Segment::create(layout(), 1, 1)?);
        let fabric = RdmaFabric::new(options, here, 2, Region::of_segment(Arc::clone(&memory)))?;
        Ok(Self { memory, fabric })
    }

    fn send(&self, clock: &Clock) -> Result<Vec<u64>, AdapterError> {
        let mut write = self.prepare()?;
        let mut trips = Vec::with_capacity(WARMUP + TRIPS);
        let until = Instant::now() + LIMIT;
        let going_on = AtomicBool::new(false);
        let mut start = clock.now();
        while trips.len() < WARMUP + TRIPS && (trips.is_empty() || Instant::now() < until) {
            let number = trips.len() as u64 + 1;
            self.fabric.repost(&mut write, number)?;
            self.await_number(number, &going_on)?;
            let end = clock.now();
            trips.push(end - start);
            start = end;
        }
        let warm = WARMUP.min(trips.len() / 2);
        Ok(trips.split_off(warm))
    }

    /// Sends every number back until it is over.
    fn echo(&self, is_over: &AtomicBool) -> Result<(), AdapterError> {
        let mut write = self.prepare()?;
        let mut number = 1;
        while self.await_number(number, is_over)? {
            self.fabric.repost(&mut write, number)?;
            number += 1;
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Prepared, AdapterError> {
        let other = 1 - self.fabric.here();
        Ok(self.fabric.prepare(other, word())?)
    }

    /// Waits until the other end has written the number; `false` when it is over instead.
    fn await_number(&self, number: u64, is_over: &AtomicBool) -> Result<bool, AdapterError> {
        let own = self.memory.word(word());
        let begun = Instant::now();
        let mut looks = 0_u32;
        // SYNC POINT: fabric-request, the home's side.
        while own.load(Ordering::Acquire) < number {
            looks = looks.wrapping_add(1);
            if !looks.is_multiple_of(LOOKS) {
                continue;
            }
            if is_over.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if begun.elapsed() >= PATIENCE {
                return Err(AdapterError::Silent);
            }
            // A connection that has broken is noticed here, and the next post fails.
            self.fabric.progress();
        }
        Ok(true)
    }
}
