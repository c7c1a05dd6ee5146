//! The physical limit: how long a cache line takes from one core to another, one way.
//!
//! Two threads on the cores of ranks 0 and 1 send a number to and fro, each through a line that it alone writes: the
//! barrier's own traffic without the barrier. The time of each round trip is recorded as a rank's waits are, with one
//! clock read each, and halved.
//!
//! The waiter spins without a pause, as is usual for this figure (it sees the line as soon as it can). One that pauses
//! disturbs the line less on its way and sometimes gets it sooner: on one last-level cache of a Zen 5, 58 ns without
//! and 25 to 50 ns with a pause, changing from run to run; across two caches there was no difference.

use std::sync::atomic::{AtomicU64, Ordering};

use phalanx::clock::Clock;

use crate::rank::pin;

const ROUND_TRIPS: usize = 50_000;

#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// The median one-way time of a line between two CPUs, in nanoseconds; `None` with fewer than two.
pub fn one_way_ns(cpus: &[usize], clock: &Clock) -> Option<f64> {
    let (Some(first), Some(second)) = (cpus.first(), cpus.get(1)) else { return None };
    Some(ping_pong(*first, *second, clock))
}

fn ping_pong(first: usize, second: usize, clock: &Clock) -> f64 {
    let (ping, pong) = (Line::default(), Line::default());
    let (ping, pong) = (&ping.0, &pong.0);
    let await_number = |line: &AtomicU64, number| {
        while line.load(Ordering::Acquire) < number {}
    };
    let mut trips = std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(second);
            for number in 1..=ROUND_TRIPS as u64 {
                await_number(ping, number);
                pong.store(number, Ordering::Release);
            }
        });
        let sender = scope.spawn(move || {
            pin(first);
            let mut trips = vec![0; ROUND_TRIPS];
            let mut start = clock.now();
            for (index, trip) in trips.iter_mut().enumerate() {
                ping.store(index as u64 + 1, Ordering::Release);
                await_number(pong, index as u64 + 1);
                let end = clock.now();
                *trip = end - start;
                start = end;
            }
            trips
        });
        sender.join().expect("the sender ends")
    });
    trips.sort_unstable();
    trips[trips.len() / 2] as f64 * clock.ns_per_tick() / 2.0
}
