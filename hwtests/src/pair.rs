//! Two machines joined by a link, of which one dies without a goodbye. Runs on both, under `scripts/soft-roce.sh pair`.
//!
//! The offers go over TCP on the link itself. Machine 1 posts while it is cut off, and comes back: what it has posted
//! arrives then, unless machine 0 has ended the connection meanwhile. Machine 0 works on machine 1's words while the
//! link loses packets: all must stay in order, and what is answered must be answered right. Then it has machine 1
//! killed in the midst, and must see all that was under way end as lost, in bounded time.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use phalanx::fabric::{BATCH_REQUESTS, Fabric, Memory, OperationError, PostError, Request};
use phalanx::sync::Ordering;

use crate::channel::Channel;
use crate::checks::{batches_stay_in_order, fetch_adds_tell_what_they_added_to};
use crate::end::{End, PATIENCE};

const PORT: u16 = 7000;
/// How many packets the link loses, each way.
const LOSS: &str = "10%";
/// Asks the other machine to write while nothing of it comes through.
const CUT_OFF: &str = "cut off";
/// Such writes, one after the other to one word.
const LATE_WRITES: u64 = 8;
/// The word.
const LATE: usize = 9;
/// Asks the other machine for a new connection.
const AGAIN: &str = "again";
/// So many batches go to the other machine in each of the two checks on a link that loses packets.
const BATCHES: u64 = 150;
/// In so many of them the connection may break. On soft-RoCE it does when a completion brings no answer.
const MOST_BREACHES: u64 = 30;

/// One of the two machines, as `scripts/soft-roce.sh pair` describes it.
pub struct Place {
    pub here: usize,
    pub own: String,
    pub peer: String,
    exchange: PathBuf,
}

impl Place {
    pub fn of_this_machine() -> Self {
        let variable =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/soft-roce.sh pair"));
        Self {
            here: variable("SOFT_ROCE_GUEST").parse().expect("a number"),
            own: variable("SOFT_ROCE_ADDRESS"),
            peer: variable("SOFT_ROCE_PEER"),
            exchange: variable("SOFT_ROCE_EXCHANGE").into(),
        }
    }

    /// Makes an empty file that the host, and the other machine, see: `kill-1` is a wish that the host grants.
    pub fn wish(&self, name: &str) {
        // In one step, for whoever sees it may take it away at once.
        let draft = self.exchange.join(format!(".{name}"));
        std::fs::write(&draft, "").expect("a file");
        std::fs::rename(&draft, self.exchange.join(name)).expect("a file");
    }

    /// Takes it away again.
    fn withdraw(&self, name: &str) {
        std::fs::remove_file(self.exchange.join(name)).expect("it is there");
    }

    /// Waits until somebody has made such a file.
    fn await_wish(&self, name: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.exchange.join(name).exists() {
            assert!(Instant::now() < end, "nobody makes {name}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A connection between the machines.
pub fn meet(place: &Place) -> Channel {
    let stream = if place.here == 0 {
        let listener = TcpListener::bind((place.own.as_str(), PORT)).expect("a port");
        listener.accept().expect("the other machine").0
    } else {
        dial(&place.peer)
    };
    Channel::new(stream.try_clone().expect("a socket"), stream)
}

/// Plays this machine's part; `true` if all is well.
pub fn run(device: &str) -> bool {
    let place = Place::of_this_machine();
    let channel = meet(&place);
    if place.here == 0 {
        survive(device, channel, &place)
    } else {
        serve(device, channel, &place);
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

fn serve(device: &str, mut channel: Channel, place: &Place) {
    let end = End::new(device, 1, 2);
    end.connect(0, &mut channel);
    channel.send("ready");
    while channel.receive() == CUT_OFF {
        post_while_cut_off(&end, &mut channel, place);
        end.connect(0, &mut channel);
        channel.send("ready");
    }
    // Answers are lost too. The connection by which this was told survives it.
    set_loss("add", LOSS);
    // Until this machine is killed.
    while channel.receive() == AGAIN {
        end.connect(0, &mut channel);
        channel.send("ready");
    }
}

/// Posts while nothing of this machine reaches the other, so that all is on its way for as long as the adapter repeats
/// it.
fn post_while_cut_off(end: &End, channel: &mut Channel, place: &Place) {
    assert!(set_loss("add", "100%"), "`tc` has done it before");
    let mut requests: Vec<Request> =
        (1..=LATE_WRITES).map(|value| Request::Write { at: End::at(LATE), value }).collect();
    requests.push(Request::Read { at: End::at(LATE) });
    let tickets = end.post(0, &requests).expect("a connection");
    place.wish("posted");
    assert_eq!(channel.receive(), "come back");
    end.fabric.progress();
    let is_in_time = end.fabric.is_connected(0);
    set_loss("del", "100%");
    let outcome = if end.outcome(tickets[0]).is_ok() { "arrived" } else { "lost" };
    channel.send(if is_in_time { outcome } else { "too late" });
}

/// What another machine has on its way when the connection to it is ended takes no effect, though the machine comes
/// back in time; without that it does.
fn lets_nothing_in_that_comes_back(end: &End, channel: &mut Channel, place: &Place) {
    if !set_loss("add", "0%") {
        println!("not run: writes of a machine that was cut off: `tc` cannot cut it off");
        return channel.send("next");
    }
    set_loss("del", "0%");
    for (is_ended, expected, value) in [(false, "arrived", LATE_WRITES), (true, "lost", 0)] {
        // SYNC POINT: none; nobody else writes it now.
        end.segment.word(End::at(LATE)).store(0, Ordering::SeqCst);
        channel.send(CUT_OFF);
        place.await_wish("posted");
        place.withdraw("posted");
        assert_eq!(end.load(LATE), 0, "nothing comes through");
        if is_ended {
            end.fabric.disconnect(1, "it has been declared failed");
        }
        channel.send("come back");
        assert_eq!(channel.receive(), expected);
        assert_eq!(end.load(LATE), value, "writes of a machine that was cut off, ended: {is_ended}");
        end.connect(1, channel);
        assert_eq!(channel.receive(), "ready");
    }
    channel.send("next");
    println!("{LATE_WRITES} writes of a machine that was cut off: none once its connection was ended");
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

fn survive(device: &str, mut channel: Channel, place: &Place) -> bool {
    let end = End::new(device, 0, 2);
    end.connect(1, &mut channel);
    assert_eq!(channel.receive(), "ready");
    let request = Request::FetchAdd { at: End::at(1), add: 1 };
    for number in 0..200 {
        assert_eq!(end.ask(1, request), number);
    }
    println!("200 atomics across the link");
    lets_nothing_in_that_comes_back(&end, &mut channel, place);
    let loses = set_loss("add", LOSS);
    if loses {
        lose_no_value(&end, &mut channel);
        set_loss("del", LOSS);
    } else {
        println!("not run: batches in order with packets lost: `tc` cannot make the link lose any");
    }
    place.wish("kill-1");
    outlives(&end)
}

/// The other machine has been wished dead: whether its silence is noticed, and what was asked for is lost from some
/// point on.
fn outlives(end: &End) -> bool {
    let request = Request::FetchAdd { at: End::at(1), add: 1 };
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
