//! Read-modify-writes of several nodes: sums are exact and each swap succeeds once.

use std::collections::{HashSet, VecDeque};
use std::task::Poll;

use super::Rig;
use super::trial::{SURE_ROOM, Trial};
use crate::fabric::{AtomicScope, Fabric, Memory, Request, Ticket};
use crate::sync::Ordering;

/// All nodes, the home among them, add through the fabric, many at a time: no addition is lost, no old value given
/// twice.
pub fn sums_of_all_nodes_are_exact<R: Rig>(rig: &mut R) {
    const EACH: usize = 400;
    let mut trial = Trial::new(rig, "sums_of_all_nodes_are_exact");
    let nodes = trial.nodes();
    let at = trial.at(1, 9);
    let mut open: Vec<VecDeque<Ticket>> = vec![VecDeque::new(); nodes];
    let mut seen = HashSet::new();
    for _ in 0..EACH {
        for (node, open) in open.iter_mut().enumerate() {
            if open.len() == SURE_ROOM {
                let ticket = open.pop_front().expect("it is full");
                assert!(seen.insert(trial.value(node, ticket)), "an old value twice");
            }
            open.extend(trial.post(node, 1, &[Request::FetchAdd { at, add: 1 }]));
        }
    }
    for (node, tickets) in open.into_iter().enumerate() {
        for ticket in tickets {
            assert!(seen.insert(trial.value(node, ticket)), "an old value twice");
        }
    }
    let all = nodes * EACH;
    assert_eq!(seen.iter().max(), Some(&(all as u64 - 1)));
    assert_eq!((seen.len(), trial.load(1, 9)), (all, all as u64));
}

/// Nodes race to swap each value for the next: of all who try a value, one succeeds.
pub fn a_swap_succeeds_once_per_value<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_swap_succeeds_once_per_value");
    let at = trial.at(2, 0);
    for value in 0..200 {
        let swap = Request::CompareSwap { at, expected: value, new: value + 1 };
        let tickets: Vec<(usize, Vec<Ticket>)> =
            (0..trial.nodes()).map(|node| (node, trial.post(node, 2, &[swap, swap]))).collect();
        let mut successes = 0;
        for (node, tickets) in tickets {
            for ticket in tickets {
                let found = trial.value(node, ticket);
                assert!(found == value || found == value + 1, "{found} while {value} was swapped");
                successes += usize::from(found == value);
            }
        }
        assert_eq!(successes, 1, "swaps of {value}");
    }
    assert_eq!(trial.load(2, 0), 200);
}

/// Where the scope is the CPU's, the home's own additions and the fabric's add up. Where it is the fabric's, the home
/// goes through the fabric, which [`sums_of_all_nodes_are_exact`] has it do.
pub fn the_atomic_scope_is_what_it_is_said_to_be<R: Rig>(rig: &mut R) {
    const ROUNDS: u64 = 400;
    let mut trial = Trial::new(rig, "the_atomic_scope_is_what_it_is_said_to_be");
    for home in 0..trial.nodes() {
        let scope = trial.rig.fabric(home).atomic_scope(home);
        let poster = (home + 1) % trial.nodes();
        assert_eq!(trial.rig.fabric(poster).atomic_scope(home), scope, "two opinions of node {home}'s scope");
        if scope == AtomicScope::Fabric {
            continue;
        }
        let at = trial.at(home, 4);
        let mut open = VecDeque::new();
        for _ in 0..ROUNDS {
            if open.len() == SURE_ROOM {
                trial.value(poster, open.pop_front().expect("it is full"));
            }
            open.extend(trial.post(poster, home, &[Request::FetchAdd { at, add: 1 }]));
            trial.rig.memory(home).word(at).fetch_add(1, Ordering::Relaxed);
            trial.turn(poster);
        }
        for ticket in open {
            trial.until(poster, "an addition", |trial| matches!(trial.rig.fabric(poster).take(ticket), Poll::Ready(_)));
        }
        assert_eq!(trial.load(home, 4), 2 * ROUNDS, "additions were lost at node {home}");
    }
}
