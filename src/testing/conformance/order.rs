//! Requests of one node to another take effect in the order posted, each is a release, and no word is ever torn.

use super::Rig;
use super::trial::{SURE_ROOM, Trial};
use crate::fabric::sim::Seeded;
use crate::fabric::{BATCH_REQUESTS, Request, Ticket, WordAt};
use crate::testing::seeds::for_each_seed;

/// Each kind of request before each other kind, on one word, in one batch and in two.
pub fn a_request_sees_those_before_it_and_none_after<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_request_sees_those_before_it_and_none_after");
    let at = trial.at(1, 5);
    let kinds = |value: u64| {
        [
            Request::Write { at, value },
            Request::Read { at },
            Request::FetchAdd { at, add: value },
            Request::CompareSwap { at, expected: value - 1, new: value },
        ]
    };
    for first in kinds(11) {
        for second in kinds(12) {
            for is_one_batch in [true, false] {
                trial.store(1, 5, 10);
                let mut oracle = Oracle(vec![10]);
                let expected: Vec<u64> = [first, second].iter().filter_map(|r| oracle.apply(0, *r)).collect();
                let tickets = if is_one_batch {
                    trial.post(0, 1, &[first, second])
                } else {
                    let mut tickets = trial.post(0, 1, &[first]);
                    tickets.extend(trial.post(0, 1, &[second]));
                    tickets
                };
                let values: Vec<u64> = tickets.into_iter().map(|ticket| trial.value(0, ticket)).collect();
                assert_eq!(values, expected, "{first:?}, then {second:?}");
                assert_eq!(trial.read(0, 1, 5), oracle.0[0], "after {first:?}, then {second:?}");
            }
        }
    }
}

/// What the words would hold if the requests were executed one by one.
struct Oracle(Vec<u64>);

impl Oracle {
    fn apply(&mut self, index: usize, request: Request) -> Option<u64> {
        let word = &mut self.0[index];
        let before = *word;
        match request {
            Request::Write { value, .. } => *word = value,
            Request::Read { .. } => {}
            Request::FetchAdd { add, .. } => *word = before.wrapping_add(add),
            Request::CompareSwap { expected, new, .. } if before == expected => *word = new,
            Request::CompareSwap { .. } => {}
        }
        request.has_ticket().then_some(before)
    }
}

/// Many small batches without waiting: reads between the writes see each its own.
pub fn order_holds_over_batches<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "order_holds_over_batches");
    let at = trial.at(1, 0);
    for round in 0..40 {
        let mut tickets = Vec::new();
        for step in 0..SURE_ROOM as u64 {
            let value = round * 1000 + step;
            trial.write(0, 1, 0, value);
            tickets.extend(trial.post(0, 1, &[Request::Read { at }]).into_iter().map(|ticket| (ticket, value)));
        }
        for (ticket, value) in tickets {
            assert_eq!(trial.value(0, ticket), value, "in round {round}");
        }
    }
}

/// Random batches to all nodes at once, against an array for each.
pub fn random_requests_do_what_an_array_would<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "random_requests_do_what_an_array_would");
    for_each_seed("random_requests_do_what_an_array_would", 0..20, |seed| random_requests(&mut trial, seed));
}

fn random_requests<R: Rig>(trial: &mut Trial<'_, R>, seed: u64) {
    const WORDS: usize = 6;
    let mut random = Seeded::new(seed);
    let nodes = trial.nodes();
    let mut oracles: Vec<Oracle> = (0..nodes).map(|_| Oracle(vec![0; WORDS])).collect();
    (0..nodes).for_each(|node| (0..WORDS).for_each(|index| trial.store(node, index, 0)));
    let poster = random.below(nodes);
    let mut open: Vec<(Ticket, u64)> = Vec::new();
    for _ in 0..60 {
        let to = random.below(nodes);
        let mut expected = Vec::new();
        let mut batch = Vec::new();
        for _ in 0..1 + random.below(BATCH_REQUESTS / 2) {
            let index = random.below(WORDS);
            let request = random_request(&mut random, trial.at(to, index), oracles[to].0[index]);
            expected.extend(oracles[to].apply(index, request));
            batch.push(request);
        }
        // Only what any fabric has room for stays open, and what is taken is taken in any order.
        while open.len() + expected.len() > SURE_ROOM {
            let (ticket, value) = open.swap_remove(random.below(open.len()));
            assert_eq!(trial.value(poster, ticket), value, "seed {seed}");
        }
        open.extend(trial.post(poster, to, &batch).into_iter().zip(expected));
    }
    for (ticket, value) in open {
        assert_eq!(trial.value(poster, ticket), value, "seed {seed}");
    }
    for (node, oracle) in oracles.iter().enumerate() {
        let held: Vec<u64> = (0..WORDS).map(|index| trial.read(poster, node, index)).collect();
        assert_eq!(held, oracle.0, "node {node} at the end, seed {seed}");
    }
}

/// Swaps expect the right value half of the time.
fn random_request(random: &mut Seeded, at: WordAt, held: u64) -> Request {
    match random.below(8) {
        0..3 => Request::Write { at, value: random.number() },
        3 | 4 => Request::Read { at },
        5 => Request::FetchAdd { at, add: random.number() },
        6 => Request::CompareSwap { at, expected: held, new: random.number() },
        _ => Request::CompareSwap { at, expected: random.number(), new: random.number() },
    }
}

/// Once a later request to the node has completed, the home sees the writes before it.
pub fn a_completion_covers_the_writes_before_it<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "a_completion_covers_the_writes_before_it");
    for round in 1..=50 {
        for index in 0..16 {
            trial.write(0, 2, index, round);
        }
        let at = trial.at(2, 20);
        trial.ask(0, 2, Request::FetchAdd { at, add: 1 });
        assert!((0..16).all(|index| trial.load(2, index) == round), "round {round}");
    }
}

/// A rank that polls its own words and sees a flag sees all that was posted before it, in the same batch or earlier.
pub fn a_flag_publishes_its_payload<R: Rig>(rig: &mut R) {
    const PAYLOAD: usize = 40;
    const FLAG: usize = 100;
    let mut trial = Trial::new(rig, "a_flag_publishes_its_payload");
    for (round, parts) in (1..=60).zip([1, 2, 5, PAYLOAD + 1].into_iter().cycle()) {
        let write = |at: WordAt| Request::Write { at, value: round };
        let mut batch: Vec<Request> = (0..PAYLOAD).map(|index| write(trial.at(1, index))).collect();
        batch.push(write(trial.at(1, FLAG)));
        for part in batch.chunks(batch.len().div_ceil(parts)) {
            trial.post(0, 1, part);
        }
        trial.until(0, "a flag", |trial| {
            let is_up = trial.load(1, FLAG) >= round;
            assert!(!is_up || (0..PAYLOAD).all(|index| trial.load(1, index) >= round), "the flag came first: {round}");
            is_up
        });
    }
}

/// A word that is written with equal halves is never seen with unequal ones, by its home or through the fabric.
pub fn words_are_never_torn<R: Rig>(rig: &mut R) {
    let mut trial = Trial::new(rig, "words_are_never_torn");
    let whole = |value: u64| value >> 32 == value & 0xffff_ffff;
    for round in 0..400_u64 {
        let half = if round % 2 == 0 { round } else { 0xffff_ffff - round };
        trial.write(0, 1, 0, half << 32 | half);
        assert!(whole(trial.load(1, 0)), "torn at home");
        if round % 5 == 0 {
            assert!(whole(trial.read(2, 1, 0)), "torn through the fabric");
        }
    }
}
