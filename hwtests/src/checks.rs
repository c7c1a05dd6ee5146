//! The checks: the conformance suite on each device, and what only RDMA has.

use std::time::Instant;

use phalanx::fabric::rdma::{AtomicCapability, Offer, RdmaError, RdmaOptions};
use phalanx::fabric::{AtomicScope, BATCH_REQUESTS, Fabric, FabricKind, OperationError, PostError, Request};
use phalanx::testing::conformance::{checks, checks_with_threads};

use crate::end::{End, PATIENCE, options};
use crate::peer::Peer;
use crate::report::Report;
use crate::rig::RdmaRig;

/// Runs them on each device; `true` if all is well.
pub fn run(devices: &[String], only: &str) -> bool {
    // Some checks panic on purpose, and a failed one says where: no backtraces between the results.
    std::panic::set_hook(Box::new(|panic| eprintln!("  {panic}")));
    let mut report = Report::new(only);
    for device in devices {
        println!("device {device}");
        let has_atomics = End::new(device, 0, 1).fabric.has_atomics(0);
        for (name, check) in checks::<RdmaRig>().into_iter().chain(checks_with_threads::<RdmaRig>()) {
            if has_atomics {
                report.check(name, || check(&mut RdmaRig::new(device)));
            } else {
                report.skip(name, "the device has no atomics, which the suite uses throughout");
            }
        }
        for (name, needs_atomics, check) in own_checks() {
            if needs_atomics && !has_atomics {
                report.skip(name, "the device has no atomics");
            } else {
                report.check(name, || check(device));
            }
        }
    }
    report.finish()
}

type OwnCheck = (&'static str, bool, fn(&str));

macro_rules! own {
    ($($needs_atomics:literal $check:ident)*) => { vec![$((stringify!($check), $needs_atomics, $check as fn(&str))),*] };
}

fn own_checks() -> Vec<OwnCheck> {
    own![
        false the_device_is_described
        false an_option_that_cannot_be_is_an_error
        false processes_reach_each_others_words
        true atomics_of_two_processes_add_up
        true a_killed_process_loses_what_is_under_way
        false a_wrong_key_breaks_the_connection_and_a_new_one_mends_it
        false an_end_that_nobody_has_is_lost_and_not_waited_for
        false a_flood_of_writes_is_refused_and_never_lost
        true more_atomics_than_the_adapter_takes_are_held_back
        false a_prepared_write_outlives_its_connection
        false nothing_comes_in_once_a_connection_has_been_ended
        false a_process_is_served_without_being_reached
        false atomics_are_refused_where_there_are_none
        false a_connection_costs_at_most_64_kib
        false an_offer_is_good_for_one_connection
        true what_a_fence_orders_stays_in_order
    ]
}

fn the_device_is_described(device: &str) {
    let end = End::new(device, 0, 1);
    let choice = end.fabric.choice();
    println!("  {choice:?}, atomics: {}", end.fabric.has_atomics(0));
    assert_eq!(choice.device, device);
    assert_eq!((end.fabric.kind_of(0), end.fabric.here(), end.fabric.nodes()), (FabricKind::Rdma, 0, 1));
    let facts = phalanx::fabric::rdma::devices().expect("devices");
    let facts = facts.iter().find(|facts| facts.name == device).expect("this device");
    let is_global = facts.atomics == AtomicCapability::Global;
    assert_eq!(end.fabric.atomic_scope(0), if is_global { AtomicScope::Cpu } else { AtomicScope::Fabric });
}

fn an_option_that_cannot_be_is_an_error(device: &str) {
    let good = options(device);
    for bad in [
        RdmaOptions { device: Some("none-such".to_owned()), ..good.clone() },
        RdmaOptions { port: Some(99), ..good.clone() },
        RdmaOptions { gid_index: Some(250), ..good.clone() },
        RdmaOptions { retries: 9, ..good },
    ] {
        let region = phalanx::fabric::rdma::Region::of_segment(crate::end::segment());
        let error = phalanx::fabric::rdma::RdmaFabric::new(bad.clone(), 0, 1, region).expect_err("a bad option");
        assert!(matches!(error, RdmaError::NoneFits { .. } | RdmaError::Option { .. }), "{bad:?}: {error}");
    }
}

/// Starts a peer process and connects to it, as node 0 of two.
fn with_peer(device: &str, role: &str) -> (End, Peer) {
    let end = End::new(device, 0, 2);
    let mut peer = Peer::start(role, device);
    end.connect(1, &mut peer.channel);
    (end, peer)
}

fn processes_reach_each_others_words(device: &str) {
    let (end, _peer) = with_peer(device, "serve");
    for round in 0..200 {
        let at = End::at(round % 64);
        let value = 0x0123_4567_89ab_0000 + round as u64;
        assert!(end.post(1, &[Request::Write { at, value }]).expect("a connection").is_empty());
        assert_eq!(end.ask(1, Request::Read { at }), value);
    }
    assert_eq!(end.load(0), 0, "this process's own words are not touched");
}

fn atomics_of_two_processes_add_up(device: &str) {
    const TIMES: u64 = 2000;
    let (end, mut peer) = with_peer(device, "add");
    peer.channel.send(&TIMES.to_string());
    // The home's own rank goes through the device too.
    for _ in 0..TIMES {
        end.ask(0, Request::FetchAdd { at: End::at(0), add: 1 });
    }
    assert_eq!(peer.channel.receive(), "done");
    assert_eq!(end.load(0), 2 * TIMES);
}

fn a_killed_process_loses_what_is_under_way(device: &str) {
    let (end, mut peer) = with_peer(device, "serve");
    let request = Request::FetchAdd { at: End::at(0), add: 1 };
    assert_eq!(end.ask(1, request), 0);
    let incarnation = end.fabric.incarnation(1);
    peer.kill();
    // The whole queue is full of requests that nobody answers.
    let mut tickets = Vec::new();
    let refused = loop {
        if let Err(error) = end.fabric.post(1, &[request; BATCH_REQUESTS / 2], &mut tickets) {
            break error;
        }
    };
    assert_eq!(refused, PostError::Full { node: 1 });
    assert!(tickets.len() >= BATCH_REQUESTS, "{}", tickets.len());
    let started = Instant::now();
    for ticket in tickets {
        match end.outcome(ticket) {
            Err(OperationError::Lost { node: 1, why }) => assert!(why.contains("retry"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    println!("  lost after {:?}", started.elapsed());
    assert!(matches!(end.fabric.write(1, End::at(0), 1), Err(PostError::Unreachable { node: 1, .. })));
    assert!(!end.fabric.is_connected(1));
    assert!(end.fabric.incarnation(1) > incarnation, "a lost connection shows");
    let mut peer = Peer::start("serve", device);
    end.connect(1, &mut peer.channel);
    assert_eq!(end.ask(1, request), 0, "the new process has new words");
}

/// Two ends in this process, connected; the first one's offer of the second is changed by `change` before it is used.
fn joined(device: &str, change: impl Fn(&mut Offer)) -> (End, End) {
    let (end, other) = (End::new(device, 0, 2), End::new(device, 1, 2));
    let mine = end.fabric.offer(1).expect("an offer");
    let mut theirs = other.fabric.offer(0).expect("an offer");
    change(&mut theirs);
    end.fabric.connect(1, &theirs).expect("a connection");
    other.fabric.connect(0, &mine).expect("a connection");
    (end, other)
}

fn a_wrong_key_breaks_the_connection_and_a_new_one_mends_it(device: &str) {
    let (end, other) = joined(device, |offer| offer.key ^= 0x5500);
    let incarnation = end.fabric.incarnation(1);
    let at = End::at(3);
    let read = end.post(1, &[Request::Write { at, value: 1 }, Request::Read { at }]).expect("a connection")[0];
    match end.outcome(read) {
        Err(OperationError::Lost { node: 1, why }) => assert!(why.contains("access"), "{why}"),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(other.load(3), 0, "nothing was written");
    match end.fabric.write(1, at, 1) {
        Err(PostError::Unreachable { node: 1, why }) => assert!(why.contains("access"), "{why}"),
        outcome => panic!("{outcome:?}"),
    }
    end.join(&other);
    assert!(end.fabric.incarnation(1) > incarnation);
    end.post(1, &[Request::Write { at, value: 7 }]).expect("a connection");
    assert_eq!(end.ask(1, Request::Read { at }), 7);
}

fn an_end_that_nobody_has_is_lost_and_not_waited_for(device: &str) {
    let (end, _other) = joined(device, |offer| offer.queue_pair = 0xff_fff0);
    let read = end.post(1, &[Request::Read { at: End::at(0) }]).expect("a connection")[0];
    assert!(matches!(end.outcome(read), Err(OperationError::Lost { node: 1, .. })));
}

fn a_flood_of_writes_is_refused_and_never_lost(device: &str) {
    const WRITES: u64 = 20_000;
    let (end, other) = joined(device, |_| ());
    let mut refusals = 0;
    for value in 1..=WRITES {
        // No progress is called: posting alone makes room.
        while let Err(error) = end.fabric.write(1, End::at(0), value) {
            assert_eq!(error, PostError::Full { node: 1 });
            refusals += 1;
        }
    }
    assert_eq!(end.ask(1, Request::Read { at: End::at(0) }), WRITES);
    assert_eq!((other.load(0), end.fabric.incarnation(1)), (WRITES, 1));
    println!("  {WRITES} writes, refused {refusals} times");
}

fn more_atomics_than_the_adapter_takes_are_held_back(device: &str) {
    const BATCHES: usize = 40;
    // A peer that serves one at a time.
    let (end, other) = joined(device, |offer| offer.served_at_once = 1);
    let request = Request::FetchAdd { at: End::at(0), add: 1 };
    let mut tickets = Vec::new();
    for _ in 0..BATCHES {
        tickets.extend(end.post(1, &[request; BATCH_REQUESTS]).expect("a connection"));
    }
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(end.outcome(ticket), Ok(number as u64));
    }
    assert_eq!(other.load(0), (BATCHES * BATCH_REQUESTS) as u64);
}

fn a_prepared_write_outlives_its_connection(device: &str) {
    let (end, other) = joined(device, |_| ());
    let mut prepared = end.fabric.prepare(1, End::at(5)).expect("a connection");
    for value in 1..=500 {
        while let Err(error) = end.fabric.repost(&mut prepared, value) {
            assert_eq!(error, PostError::Full { node: 1 });
        }
    }
    other.wait_for(5, 500);
    end.fabric.disconnect(1, "for a test");
    match end.fabric.repost(&mut prepared, 501) {
        Err(PostError::Unreachable { node: 1, why }) => assert_eq!(why, "for a test"),
        outcome => panic!("{outcome:?}"),
    }
    // Another segment, at another place, with another key.
    let successor = End::new(device, 1, 2);
    end.join(&successor);
    end.fabric.repost(&mut prepared, 502).expect("a connection");
    successor.wait_for(5, 502);
    assert_eq!(other.load(5), 500);
    let beyond = phalanx::fabric::WordAt(end.fabric.words_of(1));
    assert!(matches!(end.fabric.prepare(1, beyond), Err(PostError::Invalid { node: 1, .. })));
}

/// Whoever is given up may be in the midst of writing, or be stopped there and come back.
fn nothing_comes_in_once_a_connection_has_been_ended(device: &str) {
    for is_stopped in [false, true] {
        let (end, mut peer) = with_peer(device, "flood");
        let limit = Instant::now() + PATIENCE;
        while end.load(0) < 100 {
            assert!(Instant::now() < limit, "only {} writes have come", end.load(0));
        }
        if is_stopped {
            peer.signal("STOP");
        }
        end.fabric.disconnect(1, "it has been declared failed");
        let seen = end.load(0);
        if is_stopped {
            peer.signal("CONT");
        }
        let posted: u64 = peer.channel.receive().parse().expect("a number");
        assert!(posted > seen, "the last of {posted} writes has come, too");
        assert_eq!(end.load(0), seen, "of {posted} writes some have come late");
    }
}

fn a_process_is_served_without_being_reached(device: &str) {
    let home = End::new(device, 1, 2);
    let clients: Vec<End> = (0..3).map(|_| End::new(device, 0, 2)).collect();
    let mut served = Vec::new();
    for client in &clients {
        let offer = client.fabric.offer(1).expect("an offer");
        let (serving, answer) = home.fabric.serve(0, &offer).expect("a place");
        client.fabric.connect(1, &answer).expect("a connection");
        served.push(serving);
    }
    assert!(!home.fabric.is_connected(0));
    for (index, client) in clients.iter().enumerate() {
        client.post(1, &[Request::Write { at: End::at(index), value: 9 }]).expect("a connection");
        assert_eq!(client.ask(1, Request::Read { at: End::at(index) }), 9);
    }
    // One is given up: its client is lost, the others stay.
    served.remove(0);
    let read = clients[0].post(1, &[Request::Read { at: End::at(0) }]).expect("nothing known yet")[0];
    assert!(clients[0].outcome(read).is_err());
    assert_eq!(clients[1].ask(1, Request::Read { at: End::at(1) }), 9);
}

fn atomics_are_refused_where_there_are_none(device: &str) {
    let (end, _other) = joined(device, |offer| offer.atomics = AtomicCapability::None);
    assert!(!end.fabric.has_atomics(1));
    let add = Request::FetchAdd { at: End::at(0), add: 1 };
    let write = Request::Write { at: End::at(0), value: 1 };
    match end.fabric.post(1, &[write, add], &mut Vec::new()) {
        Err(PostError::Invalid { node: 1, why }) => assert!(why.contains("TCP"), "{why}"),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(end.ask(1, Request::Read { at: End::at(0) }), 0, "none of the batch was posted");
}

/// What this process has mapped, in KiB. What is resident would miss a driver's queues that the kernel has mapped in.
fn mapped_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("VmSize:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|field| field.parse().ok()).expect("a number")
}

fn a_connection_costs_at_most_64_kib(device: &str) {
    const PEERS: usize = 48;
    let (end, other) = (End::new(device, 0, PEERS + 1), End::new(device, 0, PEERS + 1));
    let mut sizes = Vec::new();
    for node in 1..=PEERS {
        let (mine, theirs) = (end.fabric.offer(node).expect("an offer"), other.fabric.offer(node).expect("an offer"));
        end.fabric.connect(node, &theirs).expect("a connection");
        other.fabric.connect(node, &mine).expect("a connection");
        // Use the whole ring, so that all of it is there.
        for _ in 0..4 {
            let tickets = end.post(node, &[Request::Read { at: End::at(0) }; BATCH_REQUESTS]).expect("a connection");
            tickets.into_iter().for_each(|ticket| assert_eq!(end.outcome(ticket), Ok(0)));
        }
        sizes.push(mapped_kib());
    }
    // Most connections only pay for themselves; some also for what all share. Each has two ends here.
    let mut growth: Vec<_> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    growth.sort_unstable();
    let kib = growth[growth.len() / 2].div_ceil(2);
    println!("  {kib} KiB for an end of a connection, the driver's queues included");
    assert!(kib <= 64, "{kib} KiB");
}

fn an_offer_is_good_for_one_connection(device: &str) {
    let (end, other) = joined(device, |_| ());
    let offer = other.fabric.offer(0).expect("an offer");
    assert!(matches!(end.fabric.connect(1, &offer), Err(RdmaError::NotOffered { node: 1 })));
    assert!(matches!(end.fabric.offer(2), Err(RdmaError::NoNode { node: 2, nodes: 2 })));
}

fn what_a_fence_orders_stays_in_order(device: &str) {
    let (end, _other) = joined(device, |_| ());
    batches_stay_in_order(&end, 400, || panic!("nothing is lost inside a machine"));
}

/// Batches to node 1 of all kinds of requests to one word, whose values tell in which order they took effect. Without a
/// fence that is needed, a read whose answer was lost is executed again and sees a later value: on a link that loses
/// packets, this finds it. A connection may break there, and requests then be lost, but no value may be wrong; `mend`
/// connects again. Gives how often.
pub fn batches_stay_in_order(end: &End, rounds: u64, mut mend: impl FnMut()) -> u64 {
    let at = End::at(0);
    let mut breaches = 0;
    for round in 0..rounds {
        let value = round * 10;
        let batch = [
            Request::Write { at, value },
            Request::Read { at },
            Request::Write { at, value: value + 1 },
            Request::FetchAdd { at, add: 1 },
            Request::Read { at },
            Request::CompareSwap { at, expected: value + 2, new: value + 5 },
            Request::Write { at, value: value + 9 },
            Request::Read { at },
        ];
        let expected = [value, value + 1, value + 2, value + 2, value + 9].map(Ok);
        if !outcomes_are(end, &batch, &expected, round) {
            breaches += 1;
            mend();
        }
    }
    breaches
}

/// Writes to node 1 with a fetch-add behind each, whose values tell which have taken effect. Soft-RoCE completes a
/// fetch-add without its answer when that and the write's acknowledgement are lost: it then counts as lost, and no
/// value may be wrong. Gives how often the connection broke, after which `mend` connects again.
pub fn fetch_adds_tell_what_they_added_to(end: &End, rounds: u64, mut mend: impl FnMut()) -> u64 {
    let (beside, at) = (End::at(3), End::at(2));
    // What the word may hold: what is lost may have taken effect or not.
    let (mut least, mut most) = (0, 0);
    let mut breaches = 0;
    for round in 0..rounds {
        let batch = [Request::Write { at: beside, value: round }, Request::FetchAdd { at, add: 1 }];
        let outcome = match end.post(1, &batch) {
            Ok(tickets) => end.outcome(tickets[0]),
            Err(PostError::Unreachable { node, why }) => Err(OperationError::NotSent { node, why }),
            Err(error) => panic!("round {round}: {error}"),
        };
        match outcome {
            Ok(value) => {
                assert!((least..=most).contains(&value), "round {round}: {value}, not {least} to {most}");
                (least, most) = (value + 1, value + 1);
            }
            Err(why) => {
                println!("  round {round}: {why}");
                most += 1;
                breaches += 1;
                mend();
            }
        }
    }
    breaches
}

/// Posts a batch to node 1 and compares its outcomes; `false` if the connection broke: then the first ones are as they
/// ought to be, and the others lost.
fn outcomes_are(end: &End, batch: &[Request], expected: &[Result<u64, OperationError>], round: u64) -> bool {
    let tickets = match end.post(1, batch) {
        Ok(tickets) => tickets,
        Err(PostError::Unreachable { node: 1, .. }) => return false,
        Err(error) => panic!("round {round}: {error}"),
    };
    let outcomes: Vec<_> = tickets.into_iter().map(|ticket| end.outcome(ticket)).collect();
    let answered = outcomes.iter().position(Result::is_err).unwrap_or(outcomes.len());
    assert_eq!(outcomes[..answered], expected[..answered], "round {round}: {outcomes:?}");
    assert!(outcomes[answered..].iter().all(Result::is_err), "round {round}: {outcomes:?}");
    if let Some(Err(why)) = outcomes.get(answered) {
        println!("  round {round}: {why}");
    }
    answered == outcomes.len()
}
