//! The model check of two epochs, one after the other, whose voters differ: the first one's decision says who votes on
//! the second. The real [`Proposer`]s go every way, to the bounds of a trial, or thousands of random ones.
//!
//! As in `exhaustive.rs`, whose events these are; what is added:
//!
//! - a node that knows the first epoch proposes in the second, unless it is lost itself;
//! - who asks a node for its part in the second epoch that does not know the first tells it of that;
//! - what an announcement closes, it says in the decided word as well, at once.
//!
//! In each state all that is decided for an epoch, *on acceptors that are not gone*, is one value; and an acceptor that
//! has voted on the second epoch, or had its word closed, knows the first.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use super::electorate::Electorate;
use super::explorer::{self, Model, advance, after_pauses};
use super::proposer::{Proposal, Proposer, Swap};
use super::word::AcceptorWord;

const EPOCHS: usize = 2;
/// Ways to go in each trial.
const WALKS: u64 = 1000;

/// What a trial starts with, and how much goes wrong. Nobody is silent for good: who is lost may live.
#[derive(Clone, Debug)]
struct Trial {
    nodes: usize,
    has_witness: bool,
    /// Whom each node declares lost in the first epoch, if it proposes anybody.
    accused: Vec<Option<usize>>,
    /// All nodes but the last know from the start that this is lost in the first epoch; the witness does not.
    is_half_known: bool,
    /// Whether the second epoch is announced, too.
    announces_last: bool,
    losses: u32,
    pauses: u32,
    crashes: u32,
    /// Of a random way.
    seed: u64,
}

impl Trial {
    fn acceptors(&self) -> usize {
        self.nodes + usize::from(self.has_witness)
    }
}

/// That a node is lost, as a value.
fn value_of(node: usize) -> u32 {
    u32::try_from(node + 1).expect("few nodes")
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    node: usize,
    to: usize,
    epoch: usize,
    swap: Swap,
    /// What it found, and whether the acceptor knew the epoch before, and what of this one, if it has taken effect.
    found: Option<(AcceptorWord, bool, u32)>,
    /// The round that waits for the answer; none if it was given up.
    awaited: Option<u32>,
    is_announcement: bool,
}

#[derive(Clone, Hash)]
struct Actor {
    proposer: Option<Proposer>,
    epoch: usize,
    round: u32,
    pauses: u32,
    knows_gone: Vec<bool>,
}

impl Actor {
    fn now(&self) -> Duration {
        after_pauses(self.pauses)
    }
}

#[derive(Clone, Hash)]
struct State {
    nodes: usize,
    words: Vec<[AcceptorWord; EPOCHS]>,
    decided: Vec<[u32; EPOCHS]>,
    is_gone: Vec<bool>,
    actors: Vec<Actor>,
    accused: Vec<Option<usize>>,
    flights: Vec<Flight>,
    announces_last: bool,
    losses: u32,
    pauses: u32,
    crashes: u32,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Effect { flight: usize },
    Answer { flight: usize },
    Loss { flight: usize },
    Pause { node: usize },
    Crash { one: usize },
    Knows { node: usize, gone: usize },
}

impl State {
    fn new(trial: &Trial) -> Self {
        let acceptors = trial.acceptors();
        let actor = Actor { proposer: None, epoch: 0, round: 0, pauses: 0, knows_gone: vec![false; acceptors] };
        let mut state = Self {
            nodes: trial.nodes,
            words: vec![[AcceptorWord::EMPTY; EPOCHS]; acceptors],
            decided: vec![[0; EPOCHS]; acceptors],
            is_gone: vec![false; acceptors],
            actors: vec![actor; trial.nodes],
            accused: trial.accused.clone(),
            flights: Vec::new(),
            announces_last: trial.announces_last,
            losses: trial.losses,
            pauses: trial.pauses,
            crashes: trial.crashes,
        };
        if trial.is_half_known {
            let value = value_of(trial.nodes - 1);
            for one in 0..trial.nodes - 1 {
                (state.decided[one][0], state.words[one][0]) = (value, AcceptorWord::closed(value));
            }
        }
        (0..trial.nodes).for_each(|node| state.go_on(node));
        state
    }

    /// How many epochs an acceptor knows.
    fn known(&self, one: usize) -> usize {
        self.decided[one].iter().take_while(|value| **value != 0).count()
    }

    fn take_effect(&mut self, index: usize) {
        let flight = &mut self.flights[index];
        let Flight { to, epoch, swap, .. } = *flight;
        let found = self.words[to][epoch];
        if found == swap.expected {
            self.words[to][epoch] = swap.new;
        }
        let knew = epoch == 0 || self.decided[to][epoch - 1] != 0;
        if flight.is_announcement && self.words[to][epoch] == swap.new {
            self.decided[to][epoch] = swap.new.value();
        }
        flight.found = Some((found, knew, self.decided[to][epoch]));
    }

    fn take_answer(&mut self, index: usize, has_come: bool) {
        let Flight { node, to, epoch, swap, found, awaited, is_announcement } = self.flights[index].clone();
        self.flights[index].awaited = None;
        let Some(round) = awaited else { return };
        let found = found.filter(|_| has_come);
        if is_announcement {
            if let Some((word, ..)) = found
                && word != swap.expected
                && word.decided().is_none()
            {
                self.announce(node, to, epoch, word);
            }
            return;
        }
        let now = self.actors[node].now();
        let Some(proposer) = &mut self.actors[node].proposer else { return };
        let is_behind = found.is_some_and(|(_, knew, _)| !knew);
        if is_behind {
            proposer.note_behind(round, to);
        }
        proposer.handle(round, to, found.map(|(word, ..)| word), found.map(|(.., decided)| decided), now);
        if is_behind {
            self.announce(node, to, epoch - 1, self.words[node][epoch - 1]);
        }
        self.go_on(node);
    }

    /// Tells an acceptor, if the teller is not doing so; and of the epoch before, if it does not know that.
    fn announce(&mut self, node: usize, to: usize, epoch: usize, expected: AcceptorWord) {
        if epoch > 0 && self.decided[to][epoch - 1] == 0 {
            return self.announce(node, to, epoch - 1, self.words[node][epoch - 1]);
        }
        let is_same = |flight: &Flight| (flight.node, flight.to, flight.epoch) == (node, to, epoch);
        if self.flights.iter().any(|flight| flight.is_announcement && flight.awaited.is_some() && is_same(flight)) {
            return;
        }
        let swap = Swap { expected, new: AcceptorWord::closed(self.decided[node][epoch]) };
        let flight = Flight { node, to, epoch, swap, found: None, awaited: Some(0), is_announcement: true };
        self.flights.push(flight);
    }

    /// What the shell does after each event, and the sentinel after each decision.
    fn go_on(&mut self, node: usize) {
        loop {
            let epoch = self.known(node);
            if epoch > self.actors[node].epoch || self.actors[node].proposer.is_none() {
                self.give_up(node);
                self.actors[node].epoch = epoch;
                self.actors[node].proposer = self.next_proposer(node, epoch);
            }
            let actor = &mut self.actors[node];
            let now = actor.now();
            let Some(proposer) = &mut actor.proposer else { return };
            advance(proposer, &mut actor.round, now, || forget_asks(&mut self.flights, node));
            let Some(decision) = proposer.decision() else { break };
            self.decided[node][epoch] = decision.value;
            let is_announced = epoch + 1 < EPOCHS || self.announces_last;
            for to in (0..self.words.len()).filter(|to| *to != node && is_announced) {
                self.announce(node, to, epoch, decision.vote);
            }
        }
        let actor = &mut self.actors[node];
        let (now, epoch, awaited) = (actor.now(), actor.epoch, Some(actor.round));
        let mut asks = Vec::new();
        actor.proposer.iter_mut().for_each(|proposer| proposer.asks(now, &mut asks));
        let flight = |to, swap| Flight { node, to, epoch, swap, found: None, awaited, is_announcement: false };
        self.flights.extend(asks.into_iter().map(|ask| flight(ask.node, ask.swap)));
    }

    fn give_up(&mut self, node: usize) {
        forget_asks(&mut self.flights, node);
        self.actors[node].round = 0;
    }

    fn next_proposer(&self, node: usize, epoch: usize) -> Option<Proposer> {
        let lost = self.decided[node][0];
        let is_lost: Vec<bool> = (0..self.nodes).map(|other| value_of(other) == lost).collect();
        if epoch == EPOCHS || is_lost[node] {
            return None;
        }
        let accused = match epoch {
            0 => self.accused[node]?,
            _ => (0..self.nodes).find(|other| *other != node && !is_lost[*other])?,
        };
        let mut proposer = Proposer::new(Proposal {
            electorate: Electorate::new(&is_lost, self.words.len() > self.nodes),
            here: node,
            value: NonZeroU32::new(value_of(accused))?,
            pause: Duration::from_nanos(1),
            seed: 0,
        });
        let gone = &self.actors[node].knows_gone;
        (0..self.words.len()).filter(|one| gone[*one]).for_each(|one| proposer.note_gone(one));
        Some(proposer)
    }

    /// Drops what makes no difference any more, and puts the rest in one order.
    fn settle(&mut self) {
        let Self { flights, words, is_gone, .. } = self;
        flights.retain(|flight| {
            let is_awaited = flight.awaited.is_some() && !is_gone[flight.node];
            let word = words[flight.to][flight.epoch];
            let may_take_effect = flight.found.is_none() && !is_gone[flight.to] && word.0 <= flight.swap.expected.0;
            is_awaited || may_take_effect
        });
        flights.sort_unstable();
    }

    /// What is known to be decided for an epoch on acceptors that are not gone.
    fn decisions(&self, epoch: usize) -> HashSet<u32> {
        let living = (0..self.words.len()).filter(|one| !self.is_gone[*one]);
        let both = living.flat_map(|one| [self.words[one][epoch].decided().unwrap_or(0), self.decided[one][epoch]]);
        both.filter(|value| *value != 0).collect()
    }

    fn check(&self, way: &[Event], trial: &Trial) {
        for epoch in 0..EPOCHS {
            let decisions = self.decisions(epoch);
            assert!(decisions.len() <= 1, "epoch {epoch}: {decisions:?} are decided, in {trial:?}, by {way:?}");
        }
        for one in (0..self.words.len()).filter(|one| !self.is_gone[*one]) {
            let [first, second] = self.words[one];
            let knows = self.decided[one][0] != 0 || first.decided().is_some();
            assert!(second.accepted() == 0 || knows, "{one} voted too soon, in {trial:?}, by {way:?}");
        }
    }
}

impl Model for State {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (flight, one) in self.flights.iter().enumerate() {
            let is_gone = self.is_gone[one.to];
            let is_awaited = one.awaited.is_some() && !self.is_gone[one.node];
            match one.found {
                None if !is_gone => events.push(Event::Effect { flight }),
                Some(_) if is_awaited => events.push(Event::Answer { flight }),
                _ => {}
            }
            if is_awaited && (is_gone || self.losses > 0) {
                events.push(Event::Loss { flight });
            }
        }
        for (node, actor) in self.actors.iter().enumerate().filter(|(node, _)| !self.is_gone[*node]) {
            let waits = actor.proposer.as_ref().is_some_and(|proposer| proposer.wake_at().is_some());
            if self.pauses > 0 && waits {
                events.push(Event::Pause { node });
            }
            let is_news = |one: &usize| self.is_gone[*one] && !actor.knows_gone[*one];
            events.extend((0..self.words.len()).filter(is_news).map(|gone| Event::Knows { node, gone }));
        }
        if self.crashes > 0 {
            let living = (0..self.words.len()).filter(|one| !self.is_gone[*one]);
            events.extend(living.map(|one| Event::Crash { one }));
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Effect { flight } => self.take_effect(flight),
            Event::Answer { flight } => self.take_answer(flight, true),
            Event::Loss { flight } => {
                self.losses -= u32::from(!self.is_gone[self.flights[flight].to]);
                self.take_answer(flight, false);
            }
            Event::Pause { node } => {
                self.pauses -= 1;
                self.actors[node].pauses += 1;
                self.go_on(node);
            }
            Event::Crash { one } => {
                self.crashes -= 1;
                self.is_gone[one] = true;
            }
            Event::Knows { node, gone } => {
                self.actors[node].knows_gone[gone] = true;
                if let Some(proposer) = &mut self.actors[node].proposer {
                    proposer.note_gone(gone);
                }
                self.go_on(node);
            }
        }
        // Who was told of an epoch goes on by itself.
        for node in (0..self.nodes).filter(|node| !self.is_gone[*node]).collect::<Vec<usize>>() {
            if self.known(node) > self.actors[node].epoch {
                self.go_on(node);
            }
        }
        self.settle();
    }
}

/// A node's proposer waits for none of its answers any more.
fn forget_asks(flights: &mut [Flight], node: usize) {
    let own = |flight: &&mut Flight| flight.node == node && !flight.is_announcement;
    flights.iter_mut().filter(own).for_each(|flight| flight.awaited = None);
}

/// What was decided somewhere in some state, for each epoch.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    decided: [HashSet<u32>; EPOCHS],
}

impl Found {
    fn look(&mut self, state: &State, way: &[Event], trial: &Trial) {
        self.states += 1;
        state.check(way, trial);
        (0..EPOCHS).for_each(|epoch| self.decided[epoch].extend(state.decisions(epoch)));
    }
}

/// Tries everything. Fails with the way to a state that is wrong.
fn explore(trial: &Trial) -> Found {
    let mut found = Found::default();
    explorer::go_every_way(State::new(trial), |state, way| found.look(state, way, trial));
    println!("{found:?} for {trial:?}");
    found
}

/// Goes one way at random, to its end; whether both epochs were decided.
fn walk(trial: &Trial) -> bool {
    let mut found = Found::default();
    let is_trouble = |event| matches!(event, Event::Loss { .. } | Event::Crash { .. } | Event::Pause { .. });
    explorer::go_one_way(State::new(trial), trial.seed, is_trouble, |state, way| found.look(state, way, trial));
    found.decided.iter().all(|values| !values.is_empty())
}

fn trial(accused: &[Option<usize>], has_witness: bool) -> Trial {
    let (accused, nodes) = (accused.to_vec(), accused.len());
    let (is_half_known, announces_last) = (false, true);
    let (losses, pauses, crashes, seed) = (0, 0, 0, 0);
    Trial { nodes, has_witness, accused, is_half_known, announces_last, losses, pauses, crashes, seed }
}

/// The third node of three is lost, and each of the two that are left would lose the other. They tell the witness of
/// the first epoch while they ask it about the second.
fn two_left_of_three() -> Trial {
    Trial { is_half_known: true, announces_last: false, ..trial(&[None; 3], true) }
}

#[test]
#[ignore = "two minutes without optimization"]
fn the_two_that_are_left_of_three_and_the_witness() {
    let found = explore(&two_left_of_three());
    assert_eq!(found.decided, [HashSet::from([3]), HashSet::from([1, 2])], "each of the two can win");
}

/// The first epoch is contended: who is lost, and so who votes on the second, is open until the end.
#[test]
fn many_ways_through_two_epochs_end_in_one_log() {
    let troubled = Trial { losses: 3, pauses: 24, crashes: 2, ..trial(&[], false) };
    let of = |accused: &[Option<usize>], has_witness| {
        let (nodes, accused) = (accused.len(), accused.to_vec());
        Trial { nodes, accused, has_witness, ..troubled.clone() }
    };
    let trials = [
        of(&[Some(2), None, Some(0)], true),
        of(&[Some(2), Some(2), Some(0)], true),
        of(&[Some(3), Some(3), Some(0), Some(1)], true),
        of(&[Some(2), Some(2), Some(1)], false),
        Trial { crashes: 3, ..of(&[Some(4), Some(3), Some(0), Some(1), None], true) },
    ];
    for trial in trials {
        let is_good = |seed: &u64| walk(&Trial { seed: *seed, ..trial.clone() });
        let good = (0..WALKS).filter(is_good).count();
        println!("{good} of {WALKS} ways decide both epochs: {trial:?}");
        assert!(good > 100, "{good} of {WALKS}: {trial:?}");
    }
}
