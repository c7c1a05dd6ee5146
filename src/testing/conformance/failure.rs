//! A node that vanishes: everything completes, nothing hangs, nobody else notices.

use std::collections::HashSet;

use super::Rig;
use super::trial::{SURE_ROOM, Trial};
use crate::fabric::{Fabric, OperationError, PostError, Request, Ticket};

/// The node vanishes while requests are under way, sooner or later after they were posted: each completes, with a value
/// or an error, and no value after the first error.
pub fn a_vanished_node_completes_every_ticket<R: Rig>(rig: &mut R) {
    const ROUNDS: usize = 12;
    let mut trial = Trial::new(rig, "a_vanished_node_completes_every_ticket");
    let victim = trial.nodes() - 1;
    for round in 0..ROUNDS {
        (0..victim).for_each(|node| trial.reconnect(node, victim));
        let at = trial.at(victim, 0);
        let mut open: Vec<Vec<Ticket>> = vec![Vec::new(); victim];
        for batch in 0..SURE_ROOM / 4 {
            for (node, tickets) in open.iter_mut().enumerate() {
                // Refused for lack of room is as good: then there is enough under way.
                let posted = trial.rig.fabric(node).post(victim, &[Request::FetchAdd { at, add: 1 }; 4], tickets);
                assert!(matches!(posted, Ok(()) | Err(PostError::Full { .. })), "{posted:?} in batch {batch}");
            }
        }
        (0..round * round).for_each(|_| trial.rig.step());
        trial.rig.kill(victim);
        let mut seen = HashSet::new();
        for (node, tickets) in open.into_iter().enumerate() {
            let outcomes: Vec<_> = tickets.into_iter().map(|ticket| trial.outcome(node, ticket)).collect();
            let values = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
            assert!(outcomes[values..].iter().all(is_named_error(victim)), "round {round}: {outcomes:?}");
            assert!(outcomes.iter().flatten().all(|value| seen.insert(*value)), "an old value twice: {outcomes:?}");
        }
        if !trial.rig.restart(victim) {
            return;
        }
    }
}

/// An error that says which node was not reached, or lost.
fn is_named_error(victim: usize) -> impl Fn(&Result<u64, OperationError>) -> bool {
    move |outcome| match outcome {
        Err(OperationError::Lost { node, why } | OperationError::NotSent { node, why }) => {
            *node == victim && !why.is_empty()
        }
        Ok(_) => false,
    }
}

/// What is posted after the node has vanished never has a value, and fails within a bound, again and again.
pub fn a_vanished_node_is_an_error_for_ever<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_vanished_node_is_an_error_for_ever");
    let victim = trial.nodes() - 1;
    // One that knows the node, and one that never talked to it.
    trial.reconnect(0, victim);
    let at = trial.at(victim, 1);
    trial.rig.kill(victim);
    for node in 0..2 {
        for _ in 0..20 {
            for request in [
                Request::Write { at, value: 1 },
                Request::Read { at },
                Request::FetchAdd { at, add: 1 },
                Request::CompareSwap { at, expected: 0, new: 1 },
            ] {
                fails(&mut trial, node, victim, request);
            }
        }
    }
}

fn fails<R: Rig>(trial: &mut Trial<'_, R>, node: usize, victim: usize, request: Request) {
    let patience = trial.patience();
    let mut tickets = Vec::new();
    loop {
        match trial.rig.fabric(node).post(victim, &[request], &mut tickets) {
            Ok(()) => break,
            Err(PostError::Unreachable { node, why }) => {
                assert!(node == victim && !why.is_empty(), "it names node {node}: {why:?}");
                break;
            }
            Err(PostError::Full { .. }) => trial.turn(node),
            Err(error) => panic!("{request:?} gave {error}"),
        }
        patience.look("room for a request to a node that is gone");
    }
    // A lost write is silent.
    for ticket in tickets {
        let outcome = trial.outcome(node, ticket);
        assert!(is_named_error(victim)(&outcome), "{request:?} to a node that is gone gave {outcome:?}");
    }
}

/// Requests to a dead node, forgotten, leave no room taken.
pub fn a_vanished_node_fills_no_tables<R: Rig>(rig: &mut R) {
    const FORGOTTEN: usize = 5000;
    let mut trial = Trial::new(rig, "a_vanished_node_fills_no_tables");
    let victim = trial.nodes() - 1;
    trial.reconnect(0, victim);
    let at = trial.at(victim, 0);
    trial.rig.kill(victim);
    let mut tickets = Vec::new();
    for _ in 0..FORGOTTEN {
        let patience = trial.patience();
        while let Err(error) = trial.rig.fabric(0).post(victim, &[Request::Read { at }; 4], &mut tickets) {
            if matches!(error, PostError::Unreachable { .. }) {
                break;
            }
            patience.look("room for requests to a node that is gone");
            trial.turn(0);
        }
        tickets.drain(..).for_each(|ticket| trial.rig.fabric(0).forget(ticket));
    }
    assert_eq!(trial.read(0, 1, 0), 0);
}

/// The others' requests to each other, under way and later, have their values.
pub fn others_go_on_when_a_node_vanishes<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "others_go_on_when_a_node_vanishes");
    let victim = trial.nodes() - 1;
    let at = [trial.at(1, 2), trial.at(victim, 2)];
    let before = trial.rig.fabric(0).incarnation(1);
    trial.reconnect(0, 1);
    let connected = trial.rig.fabric(0).incarnation(1);
    assert!(connected >= before);
    let mut open = Vec::new();
    for _ in 0..SURE_ROOM / 2 {
        trial.rig.fabric(0).write(victim, at[1], 3).expect("room for a write");
        open.extend(trial.post(0, 1, &[Request::FetchAdd { at: at[0], add: 1 }]));
    }
    trial.rig.kill(victim);
    for (number, ticket) in open.into_iter().enumerate() {
        assert_eq!(trial.value(0, ticket), number as u64);
    }
    for number in 0..100 {
        trial.write(0, 1, 3, number);
        assert_eq!(trial.read(1, 0, 2), 0);
        assert_eq!(trial.read(0, 1, 3), number);
    }
    assert_eq!(trial.rig.fabric(0).incarnation(1), connected, "the connection to node 1 has not broken");
}

/// A connection that is made anew is told from the one before; one that stays keeps its number.
pub fn a_node_that_comes_back_has_a_new_incarnation<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_node_that_comes_back_has_a_new_incarnation");
    let victim = trial.nodes() - 1;
    trial.reconnect(0, victim);
    let mut incarnation = trial.rig.fabric(0).incarnation(victim);
    for round in 0..5 {
        for value in 0..10 {
            trial.write(0, victim, 0, value);
            assert_eq!(trial.read(0, victim, 0), value);
        }
        assert_eq!(trial.rig.fabric(0).incarnation(victim), incarnation, "nothing broke in round {round}");
        trial.rig.kill(victim);
        if !trial.rig.restart(victim) {
            return;
        }
        trial.reconnect(0, victim);
        let anew = trial.rig.fabric(0).incarnation(victim);
        assert!(anew > incarnation, "{anew} after {incarnation} in round {round}");
        incarnation = anew;
        assert!(trial.rig.fabric(victim).here() == victim && trial.read(victim, 0, 0) == 0);
    }
}
