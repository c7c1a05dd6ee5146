//! Latencies between two processes, in the manner of perftest, so that the two can be put side by side.
//!
//! A write's latency is half a round trip: each end writes the next number to the other's word as soon as it sees the
//! last one in its own, spinning on memory. Everything else is measured from the call to the value.

use std::time::Instant;

use phalanx::fabric::{Fabric, Request};

use crate::channel::Channel;
use crate::end::End;
use crate::peer::Peer;

const WARM_UP: usize = 200;

/// Measures, and prints a line for each kind of operation.
pub fn run(device: &str, iterations: usize) -> bool {
    let end = End::new(device, 0, 2);
    let mut peer = Peer::start("echo", device);
    end.connect(1, &mut peer.channel);
    println!("device {device}, {iterations} operations of each kind between two processes");
    print_line("write, one way", &write_latency(&end, &mut peer, iterations));
    let at = End::at(1);
    print_line("read", &latencies(&end, iterations, |_| Request::Read { at }));
    if end.fabric.has_atomics(1) {
        print_line("fetch_add", &latencies(&end, iterations, |_| Request::FetchAdd { at, add: 1 }));
        let swap = |number: u64| Request::CompareSwap { at, expected: number, new: number + 1 };
        print_line("compare_swap", &latencies(&end, iterations, swap));
    } else {
        println!("atomics: not run: the device has none");
    }
    true
}

/// Half of each round trip, in nanoseconds.
fn write_latency(end: &End, peer: &mut Peer, iterations: usize) -> Vec<u64> {
    let rounds = WARM_UP + iterations;
    peer.channel.send(&rounds.to_string());
    assert_eq!(peer.channel.receive(), "ready");
    let mut prepared = end.fabric.prepare(1, End::at(0)).expect("a connection");
    let mut half_trips = Vec::with_capacity(rounds);
    let mut started = Instant::now();
    for round in 1..=rounds as u64 {
        end.fabric.repost(&mut prepared, round).expect("a connection with room");
        end.wait_for(0, round);
        half_trips.push(lap(&mut started) / 2);
    }
    half_trips.split_off(WARM_UP)
}

/// The other end of `write_latency`.
pub fn echo(end: &End, channel: &mut Channel) {
    let rounds: u64 = channel.receive().parse().expect("a number");
    let mut prepared = end.fabric.prepare(0, End::at(0)).expect("a connection");
    channel.send("ready");
    for round in 1..=rounds {
        end.wait_for(0, round);
        end.fabric.repost(&mut prepared, round).expect("a connection with room");
    }
}

fn latencies(end: &End, iterations: usize, request: impl Fn(u64) -> Request) -> Vec<u64> {
    let mut tickets = Vec::with_capacity(1);
    let mut measured = Vec::with_capacity(WARM_UP + iterations);
    let mut started = Instant::now();
    for number in 0..(WARM_UP + iterations) as u64 {
        end.fabric.post(1, &[request(number)], &mut tickets).expect("a connection with room");
        let ticket = tickets.pop().expect("a ticket");
        end.outcome(ticket).expect("a value");
        measured.push(lap(&mut started));
    }
    measured.split_off(WARM_UP)
}

/// Nanoseconds since `started`, which is set to now: one reading of the clock for each operation, as perftest does it.
fn lap(started: &mut Instant) -> u64 {
    let now = Instant::now();
    let elapsed = now - std::mem::replace(started, now);
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

fn print_line(what: &str, latencies: &[u64]) {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = |thousandths: usize| sorted[(sorted.len() - 1) * thousandths / 1000] as f64 / 1000.0;
    println!("{what:<16} p50 {:8.2} us   p99 {:8.2} us   min {:8.2} us", at(500), at(990), at(0));
}
