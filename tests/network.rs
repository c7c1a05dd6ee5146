//! The simulated network: its costs to the nanosecond, its faults, and that a seed repeats a run.
#![cfg(not(model))]

mod common;

use std::task::Poll;

use common::dissemination::Dissemination;
use phalanx::fabric::sim::{Atomics, Costs, Fault, Jitter, Level, Options, Placement, Rates, World};
use phalanx::fabric::{AtomicScope, Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::sync::Ordering;

const AT: WordAt = WordAt(0);

fn load(world: &World, node: usize, at: usize) -> u64 {
    world.memory(node).word(WordAt(at)).load(Ordering::Relaxed)
}

fn drain(world: &mut World) {
    while world.step() {}
}

fn value(world: &mut World, node: usize, ticket: Ticket) -> Result<u64, OperationError> {
    loop {
        match world.fabric(node).take(ticket) {
            Poll::Ready(value) => return value,
            Poll::Pending => assert!(world.step(), "nothing happens any more"),
        }
    }
}

/// When each of these words first changes, by stepping through everything.
fn changes(world: &mut World, places: &[(usize, usize)]) -> Vec<u64> {
    let mut seen = vec![None; places.len()];
    loop {
        for (time, (node, at)) in seen.iter_mut().zip(places) {
            if load(world, *node, *at) != 0 && time.is_none() {
                *time = Some(world.now_ns());
            }
        }
        if !world.step() {
            return seen.into_iter().map(|time| time.expect("each word is written")).collect();
        }
    }
}

#[test]
fn a_message_costs_what_the_model_says() {
    let mut options = Options::new(64, 8);
    let levels = vec![Level { nodes: 8, extra_ns: 300 }];
    options.costs = Costs { latency_ns: 1000, overhead_ns: 50, gap_ns: 70, ..Costs::default() };
    options.costs.placement = Placement { levels };
    let mut world = World::new(options);
    for at in 0..3 {
        world.fabric(0).write(1, WordAt(at), 1).expect("room");
    }
    world.fabric(0).write(63, AT, 1).expect("room");
    world.fabric(0).write(0, AT, 1).expect("room");
    // The CPU is done at 50, 100, … 250. The adapter needs 70 each: it sends at 50, 120, 190, 260, 330.
    assert_eq!(world.fabric(0).busy_until_ns(), 250);
    assert_eq!(changes(&mut world, &[(1, 0), (1, 1), (1, 2), (63, 0), (0, 0)]), [1050, 1120, 1190, 1560, 730]);
    let traffic = world.traffic(0);
    assert_eq!((traffic.sent, traffic.sent_bytes, world.traffic(1).received), (5, 5 * 86, 3));
}

#[test]
fn a_round_trip_is_two_latencies() {
    let mut world = World::new(Options::new(2, 8));
    let ticket = world.fabric(0).read(1, AT).expect("room");
    assert_eq!(value(&mut world, 0, ticket), Ok(0));
    assert_eq!(world.now_ns(), 40 + 900 + 900);
    assert_eq!((world.traffic(1).sent, world.traffic(1).received, world.traffic(0).received), (1, 1, 1));
}

#[test]
fn replies_leave_a_gap_apart() {
    let mut options = Options::new(3, 8);
    options.costs.gap_ns = 70;
    let mut world = World::new(options);
    let tickets = [1, 2].map(|node| (node, world.fabric(node).read(0, AT).expect("room")));
    let times = tickets.map(|(node, ticket)| {
        assert_eq!(value(&mut world, node, ticket), Ok(0));
        world.now_ns()
    });
    assert_eq!(times, [1840, 1910]);
}

#[test]
fn a_receiver_that_pays_serves_one_after_the_other() {
    let mut options = Options::new(4, 8);
    options.costs.receive_gap_ns = 500;
    options.costs.receive_overhead_ns = 100;
    let mut world = World::new(options);
    for node in 1..4 {
        world.fabric(node).write(0, WordAt(node), 1).expect("room");
    }
    assert_eq!(changes(&mut world, &[(0, 1), (0, 2), (0, 3)]), [940, 1440, 1940]);
    assert_eq!(world.fabric(0).busy_until_ns(), 2440, "the gap after the last, in which its CPU is not busy");
}

/// One message per round and node: a round is an overhead and a latency.
#[test]
fn dissemination_takes_its_rounds() {
    let mut options = Options::new(64, 8);
    options.costs = Costs { latency_ns: 900, overhead_ns: 40, ..Costs::default() };
    let mut world = World::new(options);
    let ready = Dissemination::run(&mut world, 1);
    assert_eq!(ready, vec![Some(6 * 940); 64]);
    assert_eq!(world.delivered(), 64 * 6);
}

/// The home's CPU has to serve what arrives before it can look at it.
#[test]
fn a_receiver_that_pays_looks_later() {
    let mut options = Options::new(64, 8);
    options.costs.receive_overhead_ns = 100;
    let ready = Dissemination::run(&mut World::new(options), 1);
    assert_eq!(ready, vec![Some(6 * 1040); 64]);
}

#[test]
fn a_machine_is_polled_again_when_its_cpu_is_free() {
    let mut world = World::new(Options::new(2, 8));
    let mut left = [3, 5];
    let ready = world.run(|node, _, fabric| {
        fabric.compute(100);
        left[node] -= 1;
        if left[node] == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    assert_eq!(ready, [Some(300), Some(500)]);
}

/// Three barriers, one of whose nodes comes late to the second: nobody passes that before it.
#[test]
fn nobody_passes_before_a_node_that_computes() {
    let mut world = World::new(Options::new(100, 8));
    world.fabric(17).compute(1_000_000);
    let ready = Dissemination::run(&mut world, 3);
    assert!(
        ready.iter().all(|time| time.is_some_and(|time| (1_000_000 + 940..1_030_000).contains(&time))),
        "{ready:?}"
    );
}

fn noisy(seed: u64) -> World {
    let mut options = Options::new(40, 8);
    options.seed = seed;
    options.costs.jitter = Jitter::HeavyTail { mean_ns: 300, most_ns: 1_000_000 };
    options.rates = Rates { duplicated_per_million: 100_000, failed_per_million: 0 };
    World::new(options)
}

#[test]
fn a_seed_repeats_a_run() {
    let trace = |seed| {
        let mut world = noisy(seed);
        let ready = Dissemination::run(&mut world, 20);
        (ready, world.trace())
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5).1, trace(6).1);
}

#[test]
fn peers_overtake_each_other_and_a_peer_itself_never() {
    let mut world = noisy(3);
    let mut overtakes = 0;
    for value in 1..200 {
        for peer in [1, 2] {
            world.fabric(0).write(peer, AT, value).expect("room");
        }
        world.fabric(0).write(1, WordAt(1), value).expect("room");
    }
    let mut last = 0;
    while world.step() {
        let (first, second, other) = (load(&world, 1, 0), load(&world, 1, 1), load(&world, 2, 0));
        assert!(first >= last && first >= second, "node 1 saw its messages out of order");
        last = first;
        overtakes += usize::from(other > first);
    }
    assert!(overtakes > 0, "no message of another peer came earlier");
}

#[test]
fn a_duplicate_takes_effect_again_and_before_what_follows() {
    let mut world = noisy(1);
    let mut repeated = 0;
    for value in 1..200 {
        world.fabric(0).write(1, AT, value).expect("room");
        let ticket = world.fabric(0).read(1, WordAt(1)).expect("room");
        while world.fabric(0).take(ticket).is_pending() {
            // The home consumes what it has seen.
            repeated += u64::from(load(&world, 1, 0) == value);
            world.memory(1).word(AT).store(0, Ordering::Relaxed);
            assert!(world.step());
        }
        assert_eq!(load(&world, 1, 0), 0, "the duplicate of {value} came after the read that was posted later");
    }
    assert!((210..250).contains(&repeated), "one in ten of 199 writes is repeated: {repeated}");
}

/// The home adds by CPU while others add through the network.
fn sum_with_the_homes_own(atomics: Atomics, home_uses_the_fabric: bool) -> u64 {
    const ROUNDS: u64 = 100;
    let mut options = Options::new(3, 8);
    options.atomics = atomics;
    let mut world = World::new(options);
    let mut left = [ROUNDS; 3];
    let ready = world.run(|node, memory, fabric| {
        if left[node] == 0 {
            return Poll::Ready(());
        }
        left[node] -= 1;
        if node == 0 && !home_uses_the_fabric {
            memory.word(AT).fetch_add(1, Ordering::Relaxed);
        } else {
            let ticket = fabric.fetch_add(0, AT, 1).expect("room");
            fabric.forget(ticket);
        }
        fabric.compute(37 + node as u64);
        Poll::Pending
    });
    assert!(ready.iter().all(Option::is_some));
    drain(&mut world);
    load(&world, 0, 0)
}

#[test]
fn mixing_the_atomic_domains_loses_updates() {
    let adapter = Atomics::Adapter { apart_ns: 30 };
    assert!(sum_with_the_homes_own(adapter, false) < 300, "the home added past its adapter and nothing was lost");
    assert_eq!(sum_with_the_homes_own(adapter, true), 300);
    assert_eq!(sum_with_the_homes_own(Atomics::Cpu, false), 300);
    let scope = |atomics| World::new(Options { atomics, ..Options::new(2, 1) }).fabric(1).atomic_scope(0);
    assert_eq!((scope(adapter), scope(Atomics::Cpu)), (AtomicScope::Fabric, AtomicScope::Cpu));
}

#[test]
fn a_crash_keeps_what_has_not_left_the_adapter() {
    let mut options = Options::new(2, 64);
    options.costs.overhead_ns = 100;
    let mut world = World::new(options);
    let writes: Vec<Request> = (0..10).map(|at| Request::Write { at: WordAt(at), value: 1 }).collect();
    world.fabric(0).post(1, &writes, &mut Vec::new()).expect("room");
    world.schedule(450, Fault::Crash { node: 0 });
    drain(&mut world);
    assert_eq!((0..10).filter(|at| load(&world, 1, *at) == 1).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(!world.is_alive(0) && world.is_alive(1));
    assert!(matches!(world.fabric(0).write(1, AT, 1), Err(PostError::Unreachable { node: 1, .. })));
}

#[test]
fn a_restarted_node_has_forgotten_everything() {
    let mut world = World::new(Options::new(2, 8));
    world.fabric(0).write(1, AT, 5).expect("room");
    drain(&mut world);
    world.apply(&Fault::Crash { node: 1 });
    world.apply(&Fault::Restart { node: 1 });
    assert_eq!((load(&world, 1, 0), world.fabric(1).boots()), (0, 1));
    // Node 0 does not know yet: what it posts on the old connection is lost.
    let ticket = world.fabric(0).fetch_add(1, AT, 1).expect("it does not know");
    assert!(matches!(value(&mut world, 0, ticket), Err(OperationError::Lost { node: 1, .. })));
    assert_eq!(world.fabric(0).incarnation(1), 1);
    let ticket = world.fabric(0).fetch_add(1, AT, 1).expect("a new connection");
    assert_eq!((value(&mut world, 0, ticket), world.fabric(0).incarnation(1)), (Ok(0), 2));
}

/// Its former life's requests may take effect while it is down, but their answers are for nobody, and once it has
/// connected anew none of them takes effect.
#[test]
fn a_restarted_node_is_not_its_former_self() {
    let mut world = World::new(Options::new(2, 8));
    world.memory(1).word(AT).store(5, Ordering::Relaxed);
    let former = world.fabric(0).read(1, AT).expect("room");
    world.advance_to(500);
    world.fabric(0).write(1, WordAt(1), 1).expect("room");
    world.advance_to(600);
    world.apply(&Fault::Crash { node: 0 });
    world.apply(&Fault::Restart { node: 0 });
    let ticket = world.fabric(0).read(1, WordAt(2)).expect("room");
    assert_eq!(ticket, former, "the tables are as new: only lives tell the tickets apart");
    assert_eq!((value(&mut world, 0, ticket), world.fabric(0).incarnation(1)), (Ok(0), 2));
    drain(&mut world);
    assert_eq!(load(&world, 1, 1), 0, "a write of the former connection came after the new one was made");
}

#[test]
fn writes_are_refused_when_too_many_are_under_way() {
    let mut options = Options::new(2, 8);
    options.requests_max = 64;
    let mut world = World::new(options);
    let post_all = |world: &World| (0..200).take_while(|value| world.fabric(0).write(1, AT, *value).is_ok()).count();
    assert_eq!(post_all(&world), 64);
    assert_eq!(world.fabric(0).write(1, AT, 1), Err(PostError::Full { node: 1 }));
    drain(&mut world);
    assert_eq!(post_all(&world), 64);
}

fn lost(world: &mut World, from: usize, to: usize) {
    let ticket = world.fabric(from).fetch_add(to, AT, 1).expect("it does not know");
    assert!(matches!(value(world, from, ticket), Err(OperationError::Lost { .. })));
    let refused = world.fabric(from).fetch_add(to, AT, 1);
    assert!(matches!(refused, Err(PostError::Unreachable { .. })), "{refused:?}");
}

#[test]
fn a_link_that_is_cut_one_way_carries_requests_the_other() {
    let mut world = World::new(Options::new(3, 8));
    for (from, to) in [(0, 1), (1, 0)] {
        world.fabric(from).write(to, WordAt(1), 1).expect("room");
    }
    drain(&mut world);
    world.apply(&Fault::Cut { from: 0, to: 1 });
    lost(&mut world, 0, 1);
    lost(&mut world, 1, 0);
    assert_eq!((load(&world, 1, 0), load(&world, 0, 0)), (0, 1), "only node 1 could reach the other");
    let ticket = world.fabric(0).fetch_add(2, AT, 1).expect("room");
    assert_eq!(value(&mut world, 0, ticket), Ok(0));
    world.apply(&Fault::Mend { from: 0, to: 1 });
    let ticket = world.fabric(0).fetch_add(1, AT, 1).expect("mended");
    assert_eq!((value(&mut world, 0, ticket), world.fabric(0).incarnation(1)), (Ok(0), 2));
}

/// Nobody hears that it took effect, so its connection breaks all the same.
#[test]
fn a_write_without_a_way_back_takes_effect_and_breaks_its_connection() {
    let mut world = World::new(Options::new(2, 8));
    world.fabric(0).write(1, AT, 1).expect("room");
    drain(&mut world);
    world.apply(&Fault::Cut { from: 1, to: 0 });
    world.fabric(0).write(1, AT, 2).expect("it does not know");
    drain(&mut world);
    assert_eq!(load(&world, 1, 0), 2);
    assert!(matches!(world.fabric(0).write(1, AT, 3), Err(PostError::Unreachable { .. })));
    world.apply(&Fault::Mend { from: 1, to: 0 });
    world.fabric(0).write(1, AT, 3).expect("mended");
    drain(&mut world);
    assert_eq!((load(&world, 1, 0), world.fabric(0).incarnation(1)), (3, 2));
}

#[test]
fn a_partition_divides_and_ends() {
    let mut world = World::new(Options::new(4, 8));
    assert_eq!(Dissemination::run(&mut world, 1).iter().flatten().count(), 4);
    world.apply(&Fault::Partition { sides: vec![0, 0, 1, 1] });
    lost(&mut world, 0, 2);
    let ticket = world.fabric(2).read(3, WordAt(7)).expect("room");
    assert_eq!(value(&mut world, 2, ticket), Ok(0));
    world.apply(&Fault::Unite);
    let ticket = world.fabric(0).read(2, WordAt(7)).expect("united");
    assert_eq!(value(&mut world, 0, ticket), Ok(0));
}

#[test]
fn a_run_ends_when_nothing_moves_and_at_its_limit() {
    let mut world = World::new(Options::new(3, 8));
    world.apply(&Fault::Crash { node: 2 });
    assert_eq!(Dissemination::run(&mut world, 1), [None; 3]);
    let ended = world.now_ns();
    let mut polls = 0;
    let ready = world.run_until(ended + 10_000, |node, _, fabric| {
        polls += 1;
        fabric.alarm(fabric.now_ns() + 1000);
        if node == 1 && fabric.now_ns() > ended + 4500 { Poll::Ready(()) } else { Poll::Pending }
    });
    assert_eq!((world.now_ns(), ready), (ended + 10_000, vec![None, Some(ended + 5000), None]));
    assert_eq!(polls, 10 + 6, "every 1,000 ns, of a node that is alive and not ready");
}

#[test]
fn a_full_node_is_polled_when_there_is_room() {
    const WRITES: u64 = 1000;
    let mut options = Options::new(2, 8);
    options.requests_max = 64;
    // Longer under way than the CPU is busy with a full adapter's worth: only the arrivals make room.
    options.costs.latency_ns = 1_000_000;
    let mut world = World::new(options);
    let mut next = 1;
    let ready = world.run(|node, _, fabric| {
        while node == 0 && next <= WRITES {
            match fabric.write(1, AT, next) {
                Ok(()) => next += 1,
                Err(PostError::Full { .. }) => return Poll::Pending,
                Err(error) => panic!("{error}"),
            }
        }
        Poll::Ready(())
    });
    assert!(ready.iter().all(Option::is_some));
    drain(&mut world);
    assert_eq!(load(&world, 1, 0), WRITES);
}

/// What the issue asks for: 65,536 nodes in under a minute. Prints what it took; the bound is asserted loosely, since
/// this machine may have other work.
#[test]
#[ignore = "too slow in a debug build"]
fn sixty_five_thousand_nodes_are_no_trouble() {
    let mut world = World::new(Options::new(1 << 16, 1000));
    let start = std::time::Instant::now();
    let ready = Dissemination::run(&mut world, 4);
    let took = start.elapsed();
    assert_eq!(ready, vec![Some(4 * 16 * 940); 1 << 16]);
    println!("{} messages in {took:?}", world.delivered());
    assert!(took.as_secs() < 60, "{took:?}");
}
