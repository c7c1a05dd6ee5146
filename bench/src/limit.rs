//! The physical limit: how long the bare means that joins two ranks takes from one to the other, one way.
//!
//! Two threads on the CPUs of ranks 0 and 1 send something to and fro: a barrier's own traffic without the barrier.
//! The time of each round trip is recorded as a rank's waits are, with one clock read each, and halved.
//!
//! | ranks joined by | what goes to and fro |
//! | --- | --- |
//! | shared memory | a number, each through a cache line that it alone writes |
//! | TCP | messages of 32 bytes over the loopback interface, by sockets that never block and do not delay |
//! | RDMA | a number, written into the other's memory by the device that ranks would choose (`adapter`) |
//!
//! The waiter spins without a pause, as is usual for this figure (it sees the line as soon as it can). One that pauses
//! disturbs the line less on its way and sometimes gets it sooner: on one last-level cache of a Zen 5, 58 ns without
//! and 25 to 50 ns with a pause, changing from run to run; across two caches there was no difference. With sockets it
//! spins on `recv`.

mod adapter;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use phalanx::clock::Clock;
use phalanx::fabric::FabricKind;

use crate::rank::pin;

/// Round trips of a cache line.
const LINE_TRIPS: usize = 50_000;
/// Round trips of a message.
const SOCKET_TRIPS: usize = 10_000;
/// Round trips before the record begins.
const SOCKET_WARMUP: usize = 500;
/// How long messages may go to and fro: on CPUs that others use too, each end often waits for the other's turn.
const SOCKET_LIMIT: Duration = Duration::from_millis(300);
/// Bytes of a message: as many as a barrier's messages between nodes.
const MESSAGE_BYTES: usize = 32;

#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// The median one-way time of what joins two CPUs by a fabric of this name, in nanoseconds; `None` with fewer than two
/// CPUs, or where there is no such measurement.
pub fn one_way_ns(fabric: &str, cpus: &[usize], clock: &Clock) -> Option<f64> {
    round_trip_ns(fabric, cpus, clock).map(|trip| trip / 2.0)
}

/// The same there and back.
pub fn round_trip_ns(fabric: &str, cpus: &[usize], clock: &Clock) -> Option<f64> {
    let (Some(first), Some(second)) = (cpus.first(), cpus.get(1)) else { return None };
    let trips = match fabric {
        name if name == FabricKind::Shm.name() => line_trips(*first, *second, clock),
        name if name == FabricKind::Tcp.name() => socket_trips(*first, *second, clock).ok()?,
        name if name == FabricKind::Rdma.name() => adapter::trips(*first, *second, clock).ok()?,
        _ => return None,
    };
    Some(median(trips) as f64 * clock.ns_per_tick())
}

fn median(mut trips: Vec<u64>) -> u64 {
    trips.sort_unstable();
    trips[trips.len() / 2]
}

fn line_trips(first: usize, second: usize, clock: &Clock) -> Vec<u64> {
    let (ping, pong) = (Line::default(), Line::default());
    let (ping, pong) = (&ping.0, &pong.0);
    // SYNC POINT: ping and pong. Acquire pairs with the other thread's release stores below: what a rank hands over
    // with a word is seen with it.
    let await_number = |line: &AtomicU64, number| {
        while line.load(Ordering::Acquire) < number {}
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(second);
            for number in 1..=LINE_TRIPS as u64 {
                await_number(ping, number);
                // SYNC POINT: ping and pong. Release pairs with the sender's wait.
                pong.store(number, Ordering::Release);
            }
        });
        let sender = scope.spawn(move || {
            pin(first);
            let mut trips = vec![0; LINE_TRIPS];
            let mut start = clock.now();
            for (index, trip) in trips.iter_mut().enumerate() {
                // SYNC POINT: ping and pong. Release pairs with the other thread's wait.
                ping.store(index as u64 + 1, Ordering::Release);
                await_number(pong, index as u64 + 1);
                let end = clock.now();
                *trip = end - start;
                start = end;
            }
            trips
        });
        sender.join().expect("the sender ends")
    })
}

fn socket_trips(first: usize, second: usize, clock: &Clock) -> io::Result<Vec<u64>> {
    let (near, far) = socket_pair()?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            pin(second);
            let mut message = [0; MESSAGE_BYTES];
            // Until the sender has had enough and closes its end.
            while receive(&far, &mut message).is_ok() && (&far).write_all(&message).is_ok() {}
        });
        let sender = scope.spawn(move || {
            pin(first);
            let mut message = [0; MESSAGE_BYTES];
            let mut trips = Vec::with_capacity(SOCKET_WARMUP + SOCKET_TRIPS);
            let until = Instant::now() + SOCKET_LIMIT;
            while trips.len() < SOCKET_WARMUP + SOCKET_TRIPS && (trips.is_empty() || Instant::now() < until) {
                let start = clock.now();
                (&near).write_all(&message)?;
                receive(&near, &mut message)?;
                trips.push(clock.now() - start);
            }
            let warm = SOCKET_WARMUP.min(trips.len() / 2);
            Ok(trips.split_off(warm))
        });
        let trips = sender.join().expect("the sender ends");
        echo.join().expect("the other end ends");
        trips
    })
}

/// Two ends of a connection over the loopback interface that never block. One message at a time is under way, so that
/// there is always room to send.
fn socket_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    let far = loop {
        let (socket, address) = listener.accept()?;
        if address == own {
            break socket;
        }
    };
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok((near, far))
}

fn receive(mut socket: &TcpStream, message: &mut [u8; MESSAGE_BYTES]) -> io::Result<()> {
    let mut filled = 0;
    while filled < message.len() {
        match socket.read(&mut message[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_messages_take_their_time_and_an_unknown_fabric_has_none() {
        let clock = Clock::calibrate();
        let cpus: Vec<usize> = phalanx::machine::CpuSet::of_this_thread().iter().collect();
        let (Some(line), Some(message)) = (one_way_ns("shm", &cpus, &clock), one_way_ns("tcp", &cpus, &clock)) else {
            assert!(cpus.len() < 2, "there are two CPUs");
            return phalanx::testing::not_run("the limit needs two CPUs");
        };
        assert!(line > 0.0 && message > 0.0, "a line takes {line} ns, a message {message} ns");
        assert_eq!(one_way_ns("pigeon", &cpus, &clock), None);
        assert_eq!(one_way_ns("tcp", &cpus[..1], &clock), None);
    }

    #[test]
    fn an_adapter_takes_its_time() {
        let has_device = phalanx::fabric::rdma::devices().is_ok_and(|devices| !devices.is_empty());
        let clock = Clock::calibrate();
        let cpus: Vec<usize> = phalanx::machine::CpuSet::of_this_thread().iter().collect();
        let limit = one_way_ns("rdma", &cpus, &clock);
        if !has_device || cpus.len() < 2 {
            assert_eq!(limit, None);
            return println!("not run: this limit needs an RDMA device and two CPUs");
        }
        assert!(limit.is_some_and(|limit| limit > 0.0), "{limit:?}");
    }
}
