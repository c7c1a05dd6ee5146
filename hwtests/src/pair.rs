//! Two machines joined by a link, of which one dies without a goodbye. Runs on both, under `scripts/soft-roce.sh pair`.
//!
//! The offers go over TCP on the link itself. Machine 0 works on machine 1's words while the link loses packets: all must
//! stay in order, and what is answered must be answered right. Then it has machine 1 killed in the midst, and must see
//! all that was under way end as lost, in bounded time.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use phalanx::fabric::{BATCH_REQUESTS, OperationError, PostError, Request};

use crate::channel::Channel;
use crate::checks::{batches_stay_in_order, fetch_adds_tell_what_they_added_to};
use crate::end::{End, PATIENCE};

const PORT: u16 = 7000;
/// How many packets the link loses, each way.
const LOSS: &str = "10%";
/// Asks the other machine for a new connection.
const AGAIN: &str = "again";
/// So many batches go to the other machine in each of the two checks on a link that loses packets.
const BATCHES: u64 = 150;
/// In so many of them the connection may break. On soft-RoCE it does when a completion brings no answer.
const MOST_BREACHES: u64 = 30;

/// Plays this machine's part; `true` if all is well.
pub fn run(device: &str) -> bool {
    let variable =
        |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/soft-roce.sh pair"));
    let (here, own, peer) = (variable("SOFT_ROCE_GUEST"), variable("SOFT_ROCE_ADDRESS"), variable("SOFT_ROCE_PEER"));
    if here == "0" {
        let listener = TcpListener::bind((own, PORT)).expect("a port");
        let (stream, _) = listener.accept().expect("the other machine");
        survive(device, Channel::new(stream.try_clone().expect("a socket"), stream), &variable("SOFT_ROCE_EXCHANGE"))
    } else {
        let stream = dial(&peer);
        serve(device, Channel::new(stream.try_clone().expect("a socket"), stream));
        true
    }
}

/// The other machine may be slower to start.
fn dial(peer: &str) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((peer, PORT)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{peer} does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn serve(device: &str, mut channel: Channel) {
    let end = End::new(device, 1, 2);
    end.connect(0, &mut channel);
    channel.send("ready");
    // Answers are lost too. The connection by which this was told survives it.
    set_loss("add", LOSS);
    // Until this machine is killed.
    while channel.receive() == AGAIN {
        end.connect(0, &mut channel);
        channel.send("ready");
    }
}

/// What must hold on a link that loses packets.
fn lose_no_value(end: &End, channel: &mut Channel) {
    let mut mend = || {
        channel.send(AGAIN);
        end.connect(1, channel);
        assert_eq!(channel.receive(), "ready");
    };
    let sent = sent_packets();
    let breaches =
        [batches_stay_in_order(end, BATCHES, &mut mend), fetch_adds_tell_what_they_added_to(end, BATCHES, &mut mend)];
    let sent = sent_packets() - sent;
    println!("2 x {BATCHES} batches with {LOSS} of the packets lost, {sent} packets sent, {breaches:?} breaches");
    assert!(breaches.iter().all(|breaches| *breaches <= MOST_BREACHES), "the connection breaks too often");
}

/// Makes this end of the link lose packets, or lose none again; `false` if it cannot.
fn set_loss(action: &str, share: &str) -> bool {
    let arguments = ["qdisc", action, "dev", "roce0", "root", "netem", "loss", share];
    Command::new("tc").args(arguments).status().is_ok_and(|status| status.success())
}

/// What the device counts.
fn sent_packets() -> u64 {
    let text = std::fs::read_to_string("/sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn survive(device: &str, mut channel: Channel, exchange: &str) -> bool {
    let end = End::new(device, 0, 2);
    end.connect(1, &mut channel);
    assert_eq!(channel.receive(), "ready");
    let request = Request::FetchAdd { at: End::at(1), add: 1 };
    for number in 0..200 {
        assert_eq!(end.ask(1, request), number);
    }
    println!("200 atomics across the link");
    let loses = set_loss("add", LOSS);
    if loses {
        lose_no_value(&end, &mut channel);
        set_loss("del", LOSS);
    } else {
        println!("not run: batches in order with packets lost: `tc` cannot make the link lose any");
    }
    std::fs::write(format!("{exchange}/kill-1"), "").expect("a file");
    let (mut answered, mut lost) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match end.post(1, &[request; BATCH_REQUESTS / 4]) {
            Ok(tickets) => {
                for ticket in tickets {
                    match end.outcome(ticket) {
                        Ok(_) if lost == 0 => answered += 1,
                        Err(OperationError::Lost { node: 1, .. }) => lost += 1,
                        other => panic!("{other:?} after {lost} lost ones"),
                    }
                }
            }
            Err(PostError::Unreachable { node: 1, why }) => {
                println!(
                    "{answered} more answered, {lost} lost, then unreachable after {:?}: {why}",
                    started.elapsed()
                );
                return lost > 0;
            }
            Err(other) => panic!("{other}"),
        }
    }
    println!("FAILED: the other machine still answers");
    false
}
