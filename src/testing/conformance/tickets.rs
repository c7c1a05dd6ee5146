//! Tickets: thousands of them, in any order, forgotten, spent.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Rig;
use super::trial::{SURE_ROOM, Trial};
use crate::fabric::sim::Seeded;
use crate::fabric::{Fabric, PostError, Request, Ticket};

/// Posts as fast as it is let, to all nodes: where there is no room the batch is refused whole and posted again, so
/// that everything is executed exactly once.
pub fn thousands_outstanding_lose_nothing<R: Rig>(rig: &mut R) {
    const BATCHES: usize = 3000;
    const LENGTH: usize = 8;
    let mut trial = Trial::new(rig, "thousands_outstanding_lose_nothing");
    let nodes = trial.nodes();
    let mut open: VecDeque<(usize, Ticket)> = VecDeque::new();
    let mut expected = vec![0_u64; nodes];
    for batch in 0..BATCHES {
        let to = batch % nodes;
        let requests = [Request::FetchAdd { at: trial.at(to, 30), add: 1 }; LENGTH];
        let mut tickets = Vec::new();
        while let Err(error) = trial.rig.fabric(0).post(to, &requests, &mut tickets) {
            assert_eq!(error, PostError::Full { node: to });
            assert!(tickets.is_empty(), "a refused batch gave tickets");
            let Some((node, oldest)) = open.pop_front() else {
                trial.turn(0);
                continue;
            };
            assert_eq!(trial.value(0, oldest), expected[node], "requests to node {node} in order, each once");
            expected[node] += 1;
        }
        open.extend(tickets.into_iter().map(|ticket| (to, ticket)));
    }
    for (node, ticket) in open {
        assert_eq!(trial.value(0, ticket), expected[node], "requests to node {node} in order, each once");
        expected[node] += 1;
    }
    assert_eq!(expected.iter().sum::<u64>(), (BATCHES * LENGTH) as u64);
    assert!((0..nodes).all(|node| trial.load(node, 30) == expected[node]), "{expected:?}");
}

/// Values wait for whoever takes them, in whatever order.
pub fn tickets_are_taken_in_any_order<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "tickets_are_taken_in_any_order");
    let mut random = Seeded::new(5);
    for round in 0..20 {
        let mut open = Vec::new();
        for number in 0..SURE_ROOM {
            let (to, index) = (number % trial.nodes(), number);
            trial.store(to, index, round * 100 + number as u64);
            let at = trial.at(to, index);
            let tickets = trial.post(0, to, &[Request::Read { at }]);
            open.extend(tickets.into_iter().map(|ticket| (ticket, round * 100 + number as u64)));
        }
        while !open.is_empty() {
            let last = open.len() - 1;
            let (ticket, value) = open.swap_remove(if round % 2 == 0 { last } else { random.below(last + 1) });
            assert_eq!(trial.value(0, ticket), value, "round {round}");
        }
    }
}

/// Far more forgotten tickets than any table holds: their room comes back, and their requests are executed.
pub fn forgotten_tickets_free_their_room<R: Rig>(rig: &mut R) {
    const FORGOTTEN: u64 = 30_000;
    let mut trial = Trial::new(rig, "forgotten_tickets_free_their_room");
    let at = trial.at(1, 0);
    let mut posted = 0;
    while posted < FORGOTTEN {
        let tickets = trial.post(0, 1, &[Request::FetchAdd { at, add: 1 }; 40]);
        posted += tickets.len() as u64;
        // Some while they are under way, some when they may have completed.
        if posted % 3 == 0 {
            trial.turn(0);
        }
        tickets.into_iter().for_each(|ticket| trial.rig.fabric(0).forget(ticket));
    }
    assert_eq!(trial.read(0, 1, 0), posted);
}

/// A ticket is taken once. Afterwards it panics, also when its place has a new user, who is not disturbed.
pub fn a_spent_ticket_panics_and_harms_nobody<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_spent_ticket_panics_and_harms_nobody");
    let at = trial.at(1, 0);
    trial.store(1, 0, 7);
    let spent = trial.post(0, 1, &[Request::Read { at }])[0];
    assert_eq!(trial.value(0, spent), 7);
    assert!(panics(&trial, spent), "a spent ticket was taken again");
    let next = trial.post(0, 1, &[Request::Read { at }; SURE_ROOM / 2]);
    assert!(!next.contains(&spent), "a ticket was given out twice");
    assert!(panics(&trial, spent), "a spent ticket was taken again, for another request's value");
    for ticket in next {
        assert_eq!(trial.value(0, ticket), 7);
    }
}

fn panics<R: Rig>(trial: &Trial<'_, R>, ticket: Ticket) -> bool {
    let fabric = trial.rig.fabric(0);
    catch_unwind(AssertUnwindSafe(|| drop(fabric.take(ticket)))).is_err()
}
