//! The same promises with real concurrency: threads of several nodes, and of one.

use std::collections::HashSet;
use std::task::Poll;
use std::thread;

use super::Rig;
use super::trial::{Patience, Trial};
use crate::fabric::{AtomicScope, Fabric, Memory, PostError, Request, Ticket, WordAt};
use crate::sync::Ordering;

/// Threads at each node: that a fabric is `Sync` is a promise too.
const THREADS: usize = 2;

/// A thread's hands on its node's fabric.
struct Hand<'a, F> {
    fabric: &'a F,
    patience: &'a Patience,
}

impl<F: Fabric> Hand<'_, F> {
    fn pause(&self, what: &str) {
        self.patience.look(what);
        self.fabric.progress();
        thread::yield_now();
    }

    fn post(&self, to: usize, requests: &[Request]) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while let Err(error) = self.fabric.post(to, requests, &mut tickets) {
            assert!(matches!(error, PostError::Full { .. }), "{error}");
            self.pause("room for a batch");
        }
        tickets
    }

    fn value(&self, ticket: Ticket) -> u64 {
        loop {
            match self.fabric.take(ticket) {
                Poll::Ready(value) => return value.expect("nothing broke"),
                Poll::Pending => self.pause("a ticket to complete"),
            }
        }
    }

    fn ask(&self, to: usize, request: Request) -> u64 {
        self.value(self.post(to, &[request])[0])
    }
}

/// Runs `body` in [`THREADS`] threads of each node, and gives what they gave.
fn in_threads<R: Rig, T: Send>(
    trial: &Trial<'_, R>,
    body: impl Fn(&Hand<'_, R::Fabric>, usize, usize) -> T + Sync,
) -> Vec<T>
where
    R::Fabric: Sync,
{
    let patience = trial.patience();
    let (body, patience) = (&body, &patience);
    thread::scope(|scope| {
        let places = (0..trial.nodes()).flat_map(|node| (0..THREADS).map(move |number| (node, number)));
        let running: Vec<_> = places
            .map(|(node, number)| {
                let fabric = trial.rig.fabric(node);
                scope.spawn(move || body(&Hand { fabric, patience }, node, number))
            })
            .collect();
        running.into_iter().map(|one| one.join().expect("a thread of the check panicked")).collect()
    })
}

/// Several threads of several nodes: no addition is lost, no old value given twice.
pub fn threads_of_all_nodes_add_up_exactly<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
{
    const ROUNDS: usize = 100;
    let trial = Trial::new(rig, "threads_of_all_nodes_add_up_exactly");
    let add = Request::FetchAdd { at: trial.at(1, 9), add: 1 };
    let seen = in_threads(&trial, |hand, _, _| {
        let batch = |_| hand.post(1, &[add; 4]).into_iter().map(|ticket| hand.value(ticket)).collect::<Vec<_>>();
        (0..ROUNDS).flat_map(batch).collect::<Vec<_>>()
    });
    let all = seen.concat();
    let each_once: HashSet<u64> = all.iter().copied().collect();
    assert_eq!((each_once.len(), trial.load(1, 9)), (all.len(), all.len() as u64));
    assert!(seen.iter().all(|mine| mine.is_sorted()), "a thread's own requests are in order");
}

/// A lock made of one word: who swaps it in is alone until it writes it back.
pub fn threads_that_swap_succeed_once_per_value<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
{
    const ROUNDS: u64 = 200;
    let trial = Trial::new(rig, "threads_that_swap_succeed_once_per_value");
    let at = trial.at(2, 0);
    let successes = in_threads(&trial, |hand, _, _| {
        let mut successes = 0;
        let mut expected = 0;
        while expected < ROUNDS {
            let found = hand.ask(2, Request::CompareSwap { at, expected, new: expected + 1 });
            successes += u64::from(found == expected);
            expected = if found == expected { expected + 1 } else { found };
        }
        successes
    });
    assert_eq!((successes.iter().sum::<u64>(), trial.load(2, 0)), (ROUNDS, ROUNDS), "{successes:?}");
}

/// Words with equal halves, written by some, read by others through the fabric and by the home itself.
pub fn threads_see_no_torn_word<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
    R::Memory: Sync,
{
    const ROUNDS: u64 = 500;
    let trial = Trial::new(rig, "threads_see_no_torn_word");
    let at = trial.at(1, 0);
    let memory = trial.rig.memory(1);
    let check = |value: u64| assert_eq!(value >> 32, value & 0xffff_ffff, "{value:#x} is torn");
    in_threads(&trial, |hand, node, number| {
        for round in 0..ROUNDS {
            let half = ((round << 8 | (number as u64) << 4 | 5) * 0x1001) & 0xffff_ffff;
            match node {
                0 => drop(hand.post(1, &[Request::Write { at, value: half << 32 | half }])),
                1 => check(memory.word(at).load(Ordering::Relaxed)),
                _ => check(hand.ask(1, Request::Read { at })),
            }
        }
    });
}

/// The home polls its words while others write: a flag that is seen comes with its payload.
pub fn threads_that_see_a_flag_see_its_payload<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
    R::Memory: Sync,
{
    const ROUNDS: u64 = 300;
    const PAYLOAD: usize = 20;
    let trial = Trial::new(rig, "threads_that_see_a_flag_see_its_payload");
    let memory = trial.rig.memory(1);
    // Each writer has words of its own; the home's threads watch one writer each.
    let words: Vec<WordAt> = (0..THREADS).map(|writer| trial.at(1, writer * 32)).collect();
    let load = |at: WordAt| memory.word(at).load(Ordering::Acquire);
    in_threads(&trial, |hand, node, number| {
        let first = words[number];
        if node == 0 {
            for value in 1..=ROUNDS {
                let writes: Vec<Request> =
                    (0..=PAYLOAD).map(|index| Request::Write { at: first.plus(index), value }).collect();
                writes.chunks(1 + number * 13).for_each(|batch| drop(hand.post(1, batch)));
            }
        }
        if node == 1 {
            let mut seen = 0;
            while seen < ROUNDS {
                hand.patience.look("a flag");
                seen = load(first.plus(PAYLOAD));
                assert!((0..PAYLOAD).all(|index| load(first.plus(index)) >= seen), "flag {seen} came first");
            }
        }
    });
}

/// Two nodes write a word each at a third, then read the other's: one of them sees the other's write.
pub fn threads_that_write_and_then_read_do_not_both_miss<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
{
    const ROUNDS: usize = 400;
    let trial = Trial::new(rig, "threads_that_write_and_then_read_do_not_both_miss");
    let at = [trial.at(2, 0), trial.at(2, 16)];
    let meeting = trial.at(2, 32);
    let seen = in_threads(&trial, |hand, node, number| {
        if node > 1 || number > 0 {
            return Vec::new();
        }
        let round = |round: usize| {
            // Both start a round together, so that they have a chance to miss each other.
            hand.ask(2, Request::FetchAdd { at: meeting, add: 1 });
            while hand.ask(2, Request::Read { at: meeting }) < 2 * (round as u64 + 1) {
                hand.pause("the other's start");
            }
            let write = Request::Write { at: at[node], value: round as u64 + 1 };
            let tickets = hand.post(2, &[write, Request::Read { at: at[1 - node] }]);
            hand.value(tickets[0])
        };
        (0..ROUNDS).map(round).collect()
    });
    let (one, other) = (&seen[0], &seen[THREADS]);
    let missed = (0..ROUNDS).find(|round| one[*round] <= *round as u64 && other[*round] <= *round as u64);
    assert_eq!(missed, None, "both read before the other's write, though each had written first");
}

/// With the CPU's scope, the home's own additions go past the fabric and still none is lost.
pub fn threads_of_the_home_and_the_fabric_add_up_where_the_scope_says_so<R: Rig>(rig: &mut R)
where
    R::Fabric: Sync,
    R::Memory: Sync,
{
    const ROUNDS: u64 = 300;
    let trial = Trial::new(rig, "threads_of_the_home_and_the_fabric_add_up_where_the_scope_says_so");
    let at = trial.at(1, 0);
    let memory = trial.rig.memory(1);
    let by_cpu = trial.rig.fabric(1).atomic_scope(1) == AtomicScope::Cpu;
    in_threads(&trial, |hand, node, _| {
        for _ in 0..ROUNDS {
            if node == 1 && by_cpu {
                memory.word(at).fetch_add(1, Ordering::Relaxed);
            } else {
                hand.ask(1, Request::FetchAdd { at, add: 1 });
            }
        }
    });
    assert_eq!(trial.load(1, 0), ROUNDS * (trial.nodes() * THREADS) as u64);
}
