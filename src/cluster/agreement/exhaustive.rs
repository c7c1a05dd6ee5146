//! The model check: the real [`Proposer`]s in every order of events, to the bounds of a trial.
//!
//! A state is the acceptors' words, the proposers, and the swaps under way. From each state every event is tried that
//! can happen:
//!
//! - a swap takes effect: in no order with others, even of the same proposer, and also long after it was given up (that
//!   it never does needs no event: the states before are checked, too);
//! - its answer comes at once, or later (so often as the trial allows), when its sender may have gone on without it; or
//!   the proposer hears that it is lost, whether the swap has taken effect, will, or neither;
//! - a proposer's pauses are over;
//! - a node is gone, with its word and all its processes; a proposer gets to know that.
//!
//! A proposer that dies alone needs no event either: it is one that is not looked at any more. Who has decided
//! announces it, as [`Announcement`](super::Announcement) does: closes other nodes' words, beginning with the vote that
//! it expects and trying again with what it finds.
//!
//! Trials that are too large for this go thousands of random ways instead.
//!
//! In each state all decisions and all closed words *on nodes that are not gone* are one value.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use super::electorate::Electorate;
use super::explorer::{self, Model, advance, after_pauses};
use super::proposer::{Ask, Proposal, Proposer, Swap};
use super::word::AcceptorWord;

/// Ways to go in each trial.
const WALKS: u64 = 1500;

/// What a trial starts with, and how much goes wrong.
#[derive(Clone, Debug)]
struct Trial {
    nodes: usize,
    /// The last of the acceptors is a witness, where nobody proposes.
    has_witness: bool,
    /// The node of each proposer; the first proposes 1, the next 2.
    proposers: Vec<usize>,
    /// What the acceptors' words hold at first, if not nothing.
    words: Vec<AcceptorWord>,
    /// How many nodes the proposers know to be gone from the start, the last ones.
    gone: usize,
    /// Answers that come later than their swaps take effect.
    delays: u32,
    losses: u32,
    pauses: u32,
    crashes: u32,
    announces: bool,
    /// Of a random way.
    seed: u64,
}

impl Trial {
    /// With a witness, which is counted in `acceptors`.
    fn with_witness(acceptors: usize, proposers: &[usize]) -> Self {
        Self { has_witness: true, ..Self::new(acceptors, proposers) }
    }

    fn electorate(&self) -> Electorate {
        let nodes = self.nodes - usize::from(self.has_witness);
        Electorate::new(&vec![false; nodes], self.has_witness)
    }

    fn new(nodes: usize, proposers: &[usize]) -> Self {
        Self {
            nodes,
            has_witness: false,
            proposers: proposers.to_vec(),
            words: vec![AcceptorWord::EMPTY; nodes],
            gone: 0,
            delays: 0,
            losses: 0,
            pauses: 0,
            crashes: 0,
            announces: false,
            seed: 0,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    proposer: usize,
    node: usize,
    swap: Swap,
    /// What it found, if it has taken its turn.
    found: Option<AcceptorWord>,
    /// The round that waits for the answer; none if it was given up.
    awaited: Option<u32>,
    is_announcement: bool,
}

#[derive(Clone, Hash)]
struct Actor {
    proposer: Proposer,
    node: usize,
    pauses: u32,
    round: u32,
    knows_gone: Vec<bool>,
    has_announced: bool,
}

impl Actor {
    fn now(&self) -> Duration {
        after_pauses(self.pauses)
    }
}

#[derive(Clone, Hash)]
struct State {
    words: Vec<AcceptorWord>,
    is_gone: Vec<bool>,
    actors: Vec<Actor>,
    flights: Vec<Flight>,
    delays: u32,
    losses: u32,
    pauses: u32,
    crashes: u32,
    announces: bool,
}

/// What can happen. Flights are named by their place in the state's list.
#[derive(Clone, Copy, Debug)]
enum Event {
    Effect { flight: usize, is_delayed: bool },
    Answer { flight: usize },
    Loss { flight: usize },
    Pause { proposer: usize },
    Crash { node: usize },
    Knows { proposer: usize, gone: usize },
}

impl State {
    fn new(trial: &Trial) -> Self {
        let is_gone: Vec<bool> = (0..trial.nodes).map(|node| node >= trial.nodes - trial.gone).collect();
        let actors = trial.proposers.iter().enumerate().map(|(index, node)| Actor {
            proposer: Proposer::new(Proposal {
                electorate: trial.electorate(),
                here: *node,
                value: NonZeroU32::MIN.saturating_add(u32::try_from(index).expect("few proposers")),
                pause: Duration::from_nanos(1),
                seed: 0,
            }),
            node: *node,
            pauses: 0,
            round: 0,
            knows_gone: vec![false; trial.nodes],
            has_announced: false,
        });
        let mut state = Self {
            words: trial.words.clone(),
            is_gone: is_gone.clone(),
            actors: actors.collect(),
            flights: Vec::new(),
            delays: trial.delays,
            losses: trial.losses,
            pauses: trial.pauses,
            crashes: trial.crashes,
            announces: trial.announces,
        };
        for proposer in 0..state.actors.len() {
            for node in (0..trial.nodes).filter(|node| is_gone[*node]) {
                state.actors[proposer].knows_gone[node] = true;
                state.actors[proposer].proposer.note_gone(node);
            }
            state.go_on(proposer);
        }
        state
    }

    fn take_effect(&mut self, index: usize, is_delayed: bool) {
        let flight = &mut self.flights[index];
        let word = &mut self.words[flight.node];
        let found = *word;
        flight.found = Some(found);
        if found == flight.swap.expected {
            *word = flight.swap.new;
        }
        if is_delayed {
            self.delays -= 1;
        } else {
            self.take_answer(index, Some(found));
        }
    }

    fn take_answer(&mut self, index: usize, found: Option<AcceptorWord>) {
        let Flight { proposer, node, swap, awaited, is_announcement, .. } = self.flights[index];
        self.flights[index].awaited = None;
        let Some(round) = awaited.filter(|_| !self.is_gone[self.actors[proposer].node]) else { return };
        if is_announcement {
            if let Some(found) = found.filter(|found| *found != swap.expected && found.decided().is_none()) {
                self.announce(proposer, node, found);
            }
            return;
        }
        let now = self.actors[proposer].now();
        self.actors[proposer].proposer.handle(round, node, found, None, now);
        self.go_on(proposer);
    }

    /// What the shell does after each event.
    fn go_on(&mut self, proposer: usize) {
        let actor = &mut self.actors[proposer];
        let now = actor.now();
        let mut asks = Vec::new();
        let own = |flight: &&mut Flight| flight.proposer == proposer && !flight.is_announcement;
        let forget = || self.flights.iter_mut().filter(own).for_each(|flight| flight.awaited = None);
        advance(&mut actor.proposer, &mut actor.round, now, forget);
        actor.proposer.asks(now, &mut asks);
        let awaited = Some(actor.round);
        self.flights.extend(asks.into_iter().map(|ask| Flight {
            proposer,
            node: ask.node,
            swap: ask.swap,
            found: None,
            awaited,
            is_announcement: false,
        }));
        let is_to_announce = self.announces && !actor.has_announced;
        if let Some(decision) = actor.proposer.decision().filter(|_| is_to_announce) {
            actor.has_announced = true;
            let here = actor.node;
            (0..self.words.len())
                .filter(|node| *node != here)
                .for_each(|node| self.announce(proposer, node, decision.vote));
        }
    }

    fn announce(&mut self, proposer: usize, node: usize, expected: AcceptorWord) {
        let decision = self.actors[proposer].proposer.decision().expect("it announces");
        let swap = Swap { expected, new: AcceptorWord::closed(decision.value) };
        self.flights.push(Flight { proposer, node, swap, found: None, awaited: Some(0), is_announcement: true });
    }

    /// Drops what makes no difference any more, and puts the rest in one order.
    fn settle(&mut self) {
        let Self { flights, words, is_gone, actors, .. } = self;
        flights.retain(|flight| {
            let is_awaited = flight.awaited.is_some() && !is_gone[actors[flight.proposer].node];
            let may_take_effect =
                flight.found.is_none() && !is_gone[flight.node] && words[flight.node].0 <= flight.swap.expected.0;
            is_awaited || may_take_effect
        });
        flights.sort_unstable();
    }

    /// What is known to be decided on nodes that are not gone.
    fn decisions(&self) -> impl Iterator<Item = u32> {
        let closed = |(node, word): (usize, &AcceptorWord)| word.decided().filter(|_| !self.is_gone[node]);
        let decided = |actor: &Actor| actor.proposer.decision().filter(|_| !self.is_gone[actor.node]);
        let by_words = self.words.iter().enumerate().filter_map(closed);
        by_words.chain(self.actors.iter().filter_map(decided).map(|decision| decision.value))
    }
}

impl Model for State {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (flight, one) in self.flights.iter().enumerate() {
            let is_gone = self.is_gone[one.node];
            let is_awaited = one.awaited.is_some() && !self.is_gone[self.actors[one.proposer].node];
            if one.found.is_none() && !is_gone {
                events.push(Event::Effect { flight, is_delayed: false });
                if is_awaited && self.delays > 0 {
                    events.push(Event::Effect { flight, is_delayed: true });
                }
            }
            if is_awaited && one.found.is_some() {
                events.push(Event::Answer { flight });
            }
            // From who is gone no answer comes, and that costs nothing.
            if is_awaited && (is_gone || self.losses > 0) {
                events.push(Event::Loss { flight });
            }
        }
        for (proposer, actor) in self.actors.iter().enumerate().filter(|(_, actor)| !self.is_gone[actor.node]) {
            if self.pauses > 0 && actor.proposer.wake_at().is_some() {
                events.push(Event::Pause { proposer });
            }
            let is_news = |node: &usize| self.is_gone[*node] && !actor.knows_gone[*node];
            events.extend((0..self.words.len()).filter(is_news).map(|gone| Event::Knows { proposer, gone }));
        }
        if self.crashes > 0 {
            let living = (0..self.words.len()).filter(|node| !self.is_gone[*node]);
            events.extend(living.map(|node| Event::Crash { node }));
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Effect { flight, is_delayed } => self.take_effect(flight, is_delayed),
            Event::Answer { flight } => self.take_answer(flight, self.flights[flight].found),
            Event::Loss { flight } => {
                self.losses -= u32::from(!self.is_gone[self.flights[flight].node]);
                self.take_answer(flight, None);
            }
            Event::Pause { proposer } => {
                self.pauses -= 1;
                self.actors[proposer].pauses += 1;
                self.go_on(proposer);
            }
            Event::Crash { node } => {
                self.crashes -= 1;
                self.is_gone[node] = true;
            }
            Event::Knows { proposer, gone } => {
                self.actors[proposer].knows_gone[gone] = true;
                self.actors[proposer].proposer.note_gone(gone);
                self.go_on(proposer);
            }
        }
        self.settle();
    }
}

/// What a search has come across.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    decided: HashSet<u32>,
    /// States in which all proposers that live, and one does, have decided.
    ends: usize,
}

impl Found {
    /// Looks at a state, which the events `way` have led to.
    fn look(&mut self, state: &State, way: &[Event], trial: &Trial) {
        self.states += 1;
        let decisions: HashSet<u32> = state.decisions().collect();
        assert!(decisions.len() <= 1, "{decisions:?} are decided, in {trial:?}, by {way:?}");
        self.decided.extend(decisions);
        let mut living = state.actors.iter().filter(|actor| !state.is_gone[actor.node]).peekable();
        let is_end = living.peek().is_some() && living.all(|actor| actor.proposer.decision().is_some());
        self.ends += usize::from(is_end);
    }
}

/// Tries everything. Fails with the way to a state that is wrong.
fn explore(trial: &Trial) {
    let mut found = Found::default();
    explorer::go_every_way(State::new(trial), |state, way| found.look(state, way, trial));
    println!("{found:?} for {trial:?}");
    let values = (1..).take(trial.proposers.len()).collect::<HashSet<u32>>();
    assert_eq!(found.decided, values, "each can win: {trial:?}");
    assert!(found.ends > 0, "all can learn: {trial:?}");
}

/// Goes one way at random, to its end.
fn walk(trial: &Trial) -> Found {
    let mut found = Found::default();
    let is_trouble = |event| !matches!(event, Event::Effect { .. });
    explorer::go_one_way(State::new(trial), trial.seed, is_trouble, |state, way| found.look(state, way, trial));
    found
}

#[test]
fn two_proposers_on_two_nodes() {
    explore(&Trial { pauses: 2, delays: 1, ..Trial::new(2, &[0, 1]) });
}

#[test]
fn two_proposers_on_two_nodes_with_losses_and_announcements() {
    explore(&Trial { pauses: 1, losses: 1, announces: true, ..Trial::new(2, &[0, 1]) });
}

#[test]
fn two_proposers_on_two_nodes_of_which_one_crashes() {
    explore(&Trial { pauses: 1, crashes: 1, ..Trial::new(2, &[0, 1]) });
}

#[test]
fn two_proposers_of_one_node() {
    explore(&Trial { pauses: 2, ..Trial::new(2, &[0, 0]) });
}

#[test]
fn two_nodes_and_the_witness() {
    explore(&Trial::with_witness(3, &[0, 1]));
}

/// As in [`two_nodes_and_the_witness`], with the witness or a node gone at any time.
#[test]
#[ignore = "half a minute without optimization"]
fn two_nodes_and_the_witness_of_which_one_crashes() {
    explore(&Trial { crashes: 1, ..Trial::with_witness(3, &[0, 1]) });
}

/// The witness does not vote, is looked at, and is asked with the one that is left when two of the three nodes are
/// gone.
#[test]
fn the_last_of_three_nodes_and_the_witness() {
    explore(&Trial { crashes: 2, ..Trial::with_witness(4, &[0]) });
}

#[test]
fn two_survivors_of_four_nodes() {
    explore(&Trial { pauses: 1, losses: 1, gone: 2, ..Trial::new(4, &[0, 1]) });
}

#[test]
fn two_proposers_on_three_nodes() {
    explore(&Trial::new(3, &[0, 1]));
}

#[test]
#[ignore = "half a minute without optimization"]
fn two_proposers_on_three_nodes_of_which_one_crashes() {
    explore(&Trial { crashes: 1, ..Trial::new(3, &[0, 1]) });
}

#[test]
#[ignore = "a minute without optimization"]
fn two_proposers_on_three_nodes_with_second_rounds() {
    explore(&Trial { pauses: 1, ..Trial::new(3, &[0, 1]) });
}

/// What is too much for trying everything.
#[test]
fn many_proposers_go_random_ways() {
    let trials = [
        Trial { pauses: 12, losses: 3, delays: 4, announces: true, ..Trial::new(3, &[0, 1, 2]) },
        Trial { pauses: 12, losses: 2, delays: 4, crashes: 2, announces: true, ..Trial::new(3, &[0, 1, 1]) },
        Trial { pauses: 12, losses: 2, delays: 4, crashes: 2, announces: true, ..Trial::new(4, &[0, 1, 2, 3]) },
        Trial { pauses: 12, losses: 2, delays: 4, crashes: 1, announces: true, ..Trial::with_witness(3, &[0, 1, 1]) },
        Trial { pauses: 12, losses: 2, delays: 4, crashes: 2, announces: true, ..Trial::with_witness(4, &[0, 1, 2]) },
        Trial { pauses: 16, losses: 3, delays: 6, crashes: 3, announces: true, ..Trial::new(5, &[0, 1, 2, 3]) },
    ];
    for trial in trials {
        let is_good = |seed: &u64| walk(&Trial { seed: *seed, ..trial.clone() }).ends > 0;
        let good = (0..WALKS).filter(is_good).count();
        println!("{good} of {WALKS} ways end well: {trial:?}");
        assert!(good > 100, "{good} of {WALKS}: {trial:?}");
    }
}

/// A proposer whose swaps take effect, and are answered, when the test says so.
struct Led {
    proposer: Proposer,
    round: u32,
    asks: Vec<Ask>,
    now: Duration,
}

impl Led {
    fn new(here: usize, value: u32) -> Self {
        Self::among(Electorate::of_all(5), here, value)
    }

    fn among(electorate: Electorate, here: usize, value: u32) -> Self {
        let value = NonZeroU32::new(value).expect("not 0");
        let proposal = Proposal { electorate, here, value, pause: Duration::from_nanos(1), seed: 0 };
        let mut led = Self { proposer: Proposer::new(proposal), round: 0, asks: Vec::new(), now: Duration::ZERO };
        led.go_on();
        led
    }

    fn go_on(&mut self) {
        advance(&mut self.proposer, &mut self.round, self.now, || self.asks.clear());
        self.proposer.asks(self.now, &mut self.asks);
    }

    /// One swap at each of these nodes, where one is under way.
    fn reach(&mut self, words: &mut [AcceptorWord], nodes: &[usize]) {
        for node in nodes {
            let Some(place) = self.asks.iter().position(|ask| ask.node == *node) else { continue };
            let swap = self.asks.remove(place).swap;
            let found = words[*node];
            if found == swap.expected {
                words[*node] = swap.new;
            }
            self.proposer.handle(self.round, *node, Some(found), None, self.now);
            self.go_on();
        }
    }

    fn pause(&mut self) {
        self.now += Duration::from_secs(3600);
        self.go_on();
    }

    fn lose(&mut self, gone: &[usize]) {
        gone.iter().for_each(|node| self.proposer.note_gone(*node));
        self.go_on();
    }

    fn decide(&mut self, words: &mut [AcceptorWord], nodes: &[usize]) -> u32 {
        for _ in 0..20 {
            if let Some(decision) = self.proposer.decision() {
                return decision.value;
            }
            self.reach(words, nodes);
            self.pause();
        }
        panic!("no decision at {nodes:?}: {words:x?}");
    }
}

/// Condition (i): votes from before the others were gone are no survivors' votes.
#[test]
fn survivors_begin_again_when_the_others_are_gone() {
    let mut words = [AcceptorWord::EMPTY; 5];
    let mut survivor = Led::new(3, 1);
    survivor.reach(&mut words, &[0, 3, 4]);
    survivor.reach(&mut words, &[3, 4]);
    assert_eq!((words[3], words[4]), (AcceptorWord::new(1, 1, 1), AcceptorWord::new(1, 1, 1)));
    // Two votes are not enough, and a majority without them decides.
    assert_eq!(Led::new(0, 2).decide(&mut words, &[0, 1, 2]), 2);
    // Another survivor finds that while it can.
    assert_eq!(Led::new(4, 3).decide(&mut words, &[2, 3, 4]), 2);
    survivor.lose(&[0, 1, 2]);
    assert_eq!(survivor.decide(&mut words, &[3, 4]), 2);
}

/// Condition (ii): what is left of a majority that is gone does not outvote the survivors.
#[test]
fn ballots_of_survivors_are_above_all_others() {
    let mut words = [AcceptorWord::EMPTY; 5];
    words[..3].fill(AcceptorWord::new(10, 10, 2));
    let mut late = Led::new(4, 3);
    late.reach(&mut words, &[2]);
    late.pause();
    late.reach(&mut words, &[2]);
    assert_eq!(words[2], AcceptorWord::new(11, 10, 2));
    // The others are gone, and one survivor knows; the rest of the other's swaps comes after its decision.
    let mut survivor = Led::new(3, 1);
    survivor.lose(&[0, 1, 2]);
    assert_eq!(survivor.decide(&mut words, &[3, 4]), 1);
    (0..4).for_each(|_| late.reach(&mut words, &[3, 4]));
    late.lose(&[0, 1, 2]);
    assert_eq!(late.decide(&mut words, &[3, 4]), 1);
}

/// Among three nodes the witness has no vote; whoever reaches none of the others learns from it what they have decided.
#[test]
fn the_witness_is_looked_at_where_it_does_not_vote() {
    let mut words = [AcceptorWord::EMPTY; 4];
    words[3] = AcceptorWord::closed(2);
    let mut alone = Led::among(Electorate::new(&[false; 3], true), 2, 1);
    assert_eq!(alone.decide(&mut words, &[2, 3]), 2);
}
