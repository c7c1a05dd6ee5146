//! Each operation, at each place; batches; and what is refused.

use super::Rig;
use super::trial::Trial;
use crate::fabric::{BATCH_REQUESTS, Fabric, Memory, PostError, Request, Ticket, WordAt};

const PATTERN: u64 = 0x5eed_0000_0000_0000;

/// Numbers, sizes, kinds and scopes are the same wherever they are asked.
pub fn nodes_agree_who_is_who<R: Rig>(rig: &mut R) {
    let trial = Trial::new(rig, "nodes_agree_who_is_who");
    for node in 0..trial.nodes() {
        let fabric = trial.rig.fabric(node);
        assert_eq!((fabric.here(), fabric.nodes()), (node, trial.nodes()));
        for peer in 0..trial.nodes() {
            assert_eq!(fabric.words_of(peer), trial.rig.memory(peer).words(), "words of {peer}, seen from {node}");
            assert_eq!(fabric.atomic_scope(peer), trial.rig.fabric(peer).atomic_scope(peer), "{peer} from {node}");
            assert!(!fabric.kind_of(peer).name().is_empty());
            assert!(trial.at(peer, trial.rig.words() - 1).0 < fabric.words_of(peer));
        }
    }
}

/// From every node to every node, the own one included.
pub fn every_operation_does_what_it_says<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "every_operation_does_what_it_says");
    for from in 0..trial.nodes() {
        for to in 0..trial.nodes() {
            for value in [1, u64::MAX, 0x0102_0304_0506_0708, 1 << 63, 0] {
                operations_between(&mut trial, from, to, value);
            }
        }
    }
}

fn operations_between<R: Rig>(trial: &mut Trial<'_, R>, from: usize, to: usize, value: u64) {
    let at = trial.at(to, 3);
    trial.write(from, to, 3, value);
    assert_eq!(trial.read(from, to, 3), value, "read after write, {from} to {to}");
    assert_eq!(trial.load(to, 3), value, "what the home sees of a write that has been read");
    assert_eq!(trial.ask(from, to, Request::FetchAdd { at, add: 5 }), value, "the value before adding");
    let sum = value.wrapping_add(5);
    assert_eq!(trial.load(to, 3), sum);
    let miss = Request::CompareSwap { at, expected: value ^ 0x8000_0000_0000_0001, new: 77 };
    assert_eq!(trial.ask(from, to, miss), sum, "a failed swap gives what is there");
    assert_eq!(trial.load(to, 3), sum, "a failed swap changes nothing");
    assert_eq!(trial.ask(from, to, Request::CompareSwap { at, expected: sum, new: !value }), sum);
    assert_eq!(trial.load(to, 3), !value, "a swap that succeeds");
    trial.store(to, 3, 99);
    assert_eq!(trial.read(from, to, 3), 99, "what the home stored");
}

/// Every operation on every word changes that word and no other.
pub fn words_without_number_are_reached_in_their_own_place<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "words_without_number_are_reached_in_their_own_place");
    let words = trial.rig.words();
    let last = trial.nodes() - 1;
    let mut expected: Vec<u64> = (0..words as u64).map(|index| PATTERN | index).collect();
    (0..words).for_each(|index| trial.store(last, index, expected[index]));
    for index in 0..words {
        let at = trial.at(last, index);
        let before = expected[index];
        let (request, value) = match index % 3 {
            0 => (Request::Write { at, value: !before }, !before),
            1 => (Request::FetchAdd { at, add: 1 << 32 }, before + (1 << 32)),
            _ => (Request::CompareSwap { at, expected: before, new: before << 8 }, before << 8),
        };
        let tickets = trial.post(index % last, last, &[request]);
        assert!(tickets.into_iter().all(|ticket| trial.value(index % last, ticket) == before));
        expected[index] = value;
        assert_eq!(trial.read(index % last, last, index), value, "word {index} after {request:?}");
        let wrong = (0..words).find(|other| trial.load(last, *other) != expected[*other]);
        assert_eq!(wrong, None, "a word that {request:?} was not for has changed");
    }
    for node in 0..last {
        assert!((0..words).all(|index| trial.load(node, index) == 0), "words of node {node}, which none was for");
    }
}

/// The first and the last word that the segment has at all.
pub fn the_ends_of_a_segment_can_be_read<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "the_ends_of_a_segment_can_be_read");
    for to in 0..trial.nodes() {
        for at in [WordAt(0), WordAt(trial.rig.memory(to).words() - 1)] {
            let value = trial.rig.memory(to).word(at).load(crate::sync::Ordering::Relaxed);
            assert_eq!(trial.ask(0, to, Request::Read { at }), value, "{at:?} of node {to}");
            // Changes nothing, and proves that the word can be changed.
            assert_eq!(trial.ask(0, to, Request::FetchAdd { at, add: 0 }), value, "{at:?} of node {to}");
        }
    }
}

/// Adding is modulo 2^64, so that adding the complement subtracts.
pub fn adding_wraps_round<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "adding_wraps_round");
    let at = trial.at(1, 0);
    trial.store(1, 0, u64::MAX);
    assert_eq!(trial.ask(0, 1, Request::FetchAdd { at, add: 3 }), u64::MAX);
    assert_eq!(trial.ask(0, 1, Request::FetchAdd { at, add: u64::MAX }), 2);
    assert_eq!(trial.ask(0, 1, Request::FetchAdd { at, add: 1 << 63 }), 1);
    assert_eq!(trial.ask(0, 1, Request::FetchAdd { at, add: 1 << 63 }), 1 | 1 << 63);
    assert_eq!(trial.load(1, 0), 1);
}

/// From none to the most, mixed; each request with a ticket gets one, in the batch's order.
pub fn batches_of_every_length_keep_their_order<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "batches_of_every_length_keep_their_order");
    let at = trial.at(2, 7);
    let mut counter = 0;
    for length in 0..=BATCH_REQUESTS {
        let mut expected = Vec::new();
        let requests: Vec<Request> = (0..length)
            .map(|place| {
                if place % 3 == 2 {
                    return Request::Write { at: WordAt(at.0 + 1), value: place as u64 };
                }
                expected.push(counter);
                counter += 1;
                Request::FetchAdd { at, add: 1 }
            })
            .collect();
        let tickets = trial.post(0, 2, &requests);
        assert_eq!(tickets.len(), expected.len(), "tickets of a batch of {length}");
        let values: Vec<u64> = tickets.into_iter().map(|ticket| trial.value(0, ticket)).collect();
        assert_eq!(values, expected, "values of a batch of {length}");
    }
}

/// The caller's vector may hold tickets already.
pub fn a_batch_appends_to_the_tickets_that_are_there<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_batch_appends_to_the_tickets_that_are_there");
    let at = [trial.at(1, 0), trial.at(2, 0)];
    let mut tickets = trial.post(0, 1, &[Request::FetchAdd { at: at[0], add: 1 }]);
    let first = tickets[0];
    let patience = trial.patience();
    while let Err(error) = trial.rig.fabric(0).post(2, &[Request::FetchAdd { at: at[1], add: 1 }], &mut tickets) {
        assert!(matches!(error, PostError::Full { .. }), "{error}");
        patience.look("room for a request");
        trial.turn(0);
    }
    assert_eq!((tickets.len(), tickets[0]), (2, first));
    assert_ne!(tickets[0], tickets[1], "requests to two nodes are told apart by their tickets");
    tickets.into_iter().for_each(|ticket| assert_eq!(trial.value(0, ticket), 0));
}

/// A node or a word that is not there, a batch that is too long: refused, nothing done, no ticket given.
pub fn what_is_invalid_is_refused_whole<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "what_is_invalid_is_refused_whole");
    for to in 0..trial.nodes() {
        let at = trial.at(to, 0);
        let outside = WordAt(trial.rig.fabric(0).words_of(to));
        let add = Request::FetchAdd { at, add: 1 };
        for far in [outside, WordAt(usize::MAX), WordAt(usize::MAX / 8)] {
            refused(&trial, to, &[Request::Write { at: far, value: 1 }]);
            refused(&trial, to, &[add, Request::Write { at, value: 9 }, Request::Read { at: far }]);
            refused(&trial, to, &[add, Request::FetchAdd { at: far, add: 1 }, add]);
            refused(&trial, to, &[add, Request::CompareSwap { at: far, expected: 0, new: 1 }]);
        }
        refused(&trial, to, &[add; BATCH_REQUESTS + 1]);
        assert_eq!(trial.read(0, to, 0), 0, "a refused batch had an effect on node {to}");
    }
    let at = trial.at(0, 0);
    for nobody in [trial.nodes(), usize::MAX] {
        refused(&trial, nobody, &[Request::Read { at }]);
    }
}

fn refused<R: Rig>(trial: &Trial<'_, R>, to: usize, requests: &[Request]) {
    let mut tickets = vec![Ticket { slot: 7, generation: 7 }];
    match trial.rig.fabric(0).post(to, requests, &mut tickets) {
        Err(PostError::Invalid { node, why }) => assert!(node == to && !why.is_empty(), "it names node {node}: {why}"),
        other => panic!("a batch that is invalid at node {to} gave {other:?}"),
    }
    assert_eq!(tickets.len(), 1, "a refused batch gave tickets");
}

/// Fire and forget: a posted write arrives though nobody, neither its poster nor its home, calls `progress`.
pub fn writes_need_nobody_to_poll<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "writes_need_nobody_to_poll");
    for to in 1..trial.nodes() {
        trial.write(0, to, 1, 42);
        let patience = trial.patience();
        while trial.load(to, 1) != 42 {
            patience.look("a write that nobody polls for");
            trial.rig.step();
        }
    }
}
