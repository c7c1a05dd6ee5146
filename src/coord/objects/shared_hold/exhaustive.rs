//! The shared hold, tried exhaustively: ranks of one node that read, writers elsewhere, the node's steward, in every
//! order of their accesses and requests. Some change their minds, also in the middle of asking, some die at any moment,
//! and the home may be lost.
//!
//! Writers are alone and readers beside readers only; so many join a hold while a writer waits; nobody is forgotten;
//! and in the end the node has nothing at the home. The exclusive lock of writers is taken for granted: a queue, which
//! is not lost.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Awaited, HoldTurn, MOST_JOINED, NEIGHBOUR_LIMIT, SharedAt, SharedHold, SharedWord, Stand, State};
use crate::coord::objects::sharing::{Called, Member, PhaseWord, Sharing, SharingAt, Turn};
use crate::explorer::{Model, execute, go_every_way};
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::{AtomicU64, Ordering};

const PHASE: usize = 0;
/// The node's part, and where it would say where it has the object.
const NODE_PART: usize = 1;
const PLACE: usize = 2;
const PARTS: usize = 3;
/// Ranks of all jobs tried here.
const MOST_RANKS: usize = 5;
/// The node's own words are not lost with the home.
const HOLD: usize = PARTS + MOST_RANKS;
const STAKES: usize = HOLD + 1;
const WORDS: usize = STAKES + MOST_RANKS;

struct Words(Vec<AtomicU64>);

impl Memory for Words {
    fn word(&self, at: WordAt) -> &AtomicU64 {
        &self.0[at.0]
    }

    fn words(&self) -> usize {
        self.0.len()
    }

    fn wake(&self, _at: WordAt) {}
}

#[derive(Clone, Debug, Hash)]
enum Task {
    /// A rank of the node: it shares the hold, or has a part of its own.
    Shares(SharedHold),
    Own(Sharing),
    Writes(Sharing),
    Sweeps(SharedHold),
    Carries(SharedHold),
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Outside,
    /// For the exclusive lock.
    Queued,
    Busy,
    Inside,
    Leaving,
}

#[derive(Clone, Debug, Hash)]
struct Actor {
    task: Task,
    phase: Phase,
    /// How often it is still to do what it does.
    left: u8,
    asked: VecDeque<Request>,
    /// What it has asked before, and waits for no more: done before all the rest, as far as it is not dropped.
    abandoned: VecDeque<Request>,
    answers: Vec<u64>,
    /// The home that it knows.
    home: u8,
    wants_step: bool,
    is_asking: bool,
    is_waiting: bool,
    is_poked: bool,
    /// It has waited for long.
    is_late: bool,
    may_give_up: bool,
    /// It has given up in the middle of asking, and the home is not heard yet.
    is_unheard: bool,
    is_patient: bool,
    is_dead: bool,
    /// A steward whom a death has called.
    is_called: bool,
    /// Of a steward: a rank that is to be outlived.
    outlives: Option<usize>,
}

#[derive(Clone, Debug, Hash)]
struct World {
    words: Vec<u64>,
    /// The node's ranks, then writers, then the node's stewards.
    actors: Vec<Actor>,
    readers: usize,
    writers: usize,
    queue: Vec<usize>,
    holder: Option<usize>,
    deaths: u8,
    has_doubts: bool,
    /// How often somebody gives up in the middle of asking, and whether somebody has.
    silences: u8,
    was_silent: bool,
    /// Who the node knows to be dead, and who the home does, with the writers.
    known: [Vec<bool>; 2],
    losses: u8,
    home: u8,
    /// Up to which home all has been carried.
    carried: u8,
    looks_early: bool,
    /// In which phase so many have joined while its writer waited.
    joined: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Begin(usize),
    Grant(usize),
    Step(usize),
    Execute(usize),
    /// What it has asked is lost with the home, and the next one can be asked.
    Restart(usize),
    Look(usize),
    /// It has waited for long.
    Delay(usize),
    GoOn(usize),
    GiveUp(usize),
    /// In the middle of asking.
    Abandon(usize),
    /// What was abandoned is dropped with its connection.
    Drop(usize),
    Die(usize),
    /// The node, or all others, learn of a death.
    Learn(usize, usize),
    Sweep(usize),
    Outlive(usize),
    Lose,
    Carry(usize),
}

fn sharing_at(ranks: usize) -> SharingAt {
    let (phase, parts) = (WordAt(PHASE), WordAt(PARTS));
    SharingAt { phase, parts, ranks, node_parts: WordAt(NODE_PART), places: WordAt(PLACE), nodes: 1 }
}

impl World {
    /// Readers with how often each reads, and writers likewise.
    fn new(readers: &[u8], writers: &[u8]) -> Self {
        let count = readers.len() + writers.len();
        let actor = |left: u8| Actor {
            task: Task::Idle,
            phase: Phase::Outside,
            left,
            asked: VecDeque::new(),
            abandoned: VecDeque::new(),
            answers: Vec::new(),
            home: 0,
            wants_step: false,
            is_asking: false,
            is_waiting: false,
            is_poked: false,
            is_late: false,
            may_give_up: false,
            is_unheard: false,
            is_patient: true,
            is_dead: false,
            is_called: false,
            outlives: None,
        };
        let actors: Vec<Actor> = readers.iter().chain(writers).copied().chain([0]).map(actor).collect();
        assert!(count <= MOST_RANKS);
        Self {
            words: vec![0; WORDS],
            readers: readers.len(),
            writers: writers.len(),
            queue: Vec::new(),
            holder: None,
            deaths: 0,
            has_doubts: false,
            silences: 0,
            was_silent: false,
            known: [vec![false; count + 2], vec![false; count + 2]],
            losses: 0,
            home: 0,
            carried: 0,
            looks_early: false,
            joined: (0, 0),
            actors,
        }
    }

    fn with_deaths(self, deaths: u8) -> Self {
        Self { deaths, ..self }
    }

    fn with_doubts(mut self) -> Self {
        let ranks = self.ranks();
        self.actors[..ranks].iter_mut().for_each(|actor| actor.may_give_up = true);
        Self { has_doubts: true, ..self }
    }

    fn with_silences(self, silences: u8) -> Self {
        Self { silences, ..self }
    }

    fn impatient(mut self) -> Self {
        self.actors[0].is_patient = false;
        self
    }

    fn with_another_steward(mut self) -> Self {
        self.actors.push(self.actors.last().expect("there is one").clone());
        self
    }

    fn losing_the_home(self) -> Self {
        Self { losses: 1, ..self }
    }

    fn looking_early(self) -> Self {
        Self { looks_early: true, ..self }
    }

    fn ranks(&self) -> usize {
        self.readers + self.writers
    }

    fn is_of_node(&self, index: usize) -> bool {
        index < self.readers || index >= self.ranks()
    }

    fn shared_at(&self) -> SharedAt {
        let (word, stakes) = (WordAt(HOLD), WordAt(STAKES));
        SharedAt { word, stakes, ranks: self.readers, node: 0, place: 0, home: sharing_at(self.ranks()) }
    }

    /// A steward is named as if it were a rank of its own.
    fn name_of(&self, index: usize) -> usize {
        if index < self.readers { index } else { index + 100 - self.ranks() }
    }

    fn actor_named(&self, local: usize) -> usize {
        if local < 100 { local } else { local - 100 + self.ranks() }
    }

    fn knows(&self, side: usize, index: usize) -> bool {
        self.known[side][index]
    }

    fn poke(&mut self, all: Vec<Called>) {
        for called in all {
            match called {
                Called::Rank(index) | Called::Of { local: index, .. } => self.actors[index].is_poked = true,
            }
        }
    }

    /// What a sharing of the hold wants next.
    fn turn(&mut self, index: usize, turn: HoldTurn) {
        let actor = &mut self.actors[index];
        actor.is_waiting = turn == HoldTurn::Wait;
        match turn {
            HoldTurn::Step => actor.wants_step = true,
            HoldTurn::Wait => {}
            HoldTurn::Ask(requests) => self.ask(index, requests),
            HoldTurn::Outlive(local) => actor.outlives = Some(local),
            HoldTurn::In => self.enter(index),
            HoldTurn::Aside => {
                let is_urged = !actor.is_patient || actor.is_late || self.was_silent;
                assert!(is_urged || self.actors.iter().any(|other| other.is_dead), "it need not wait\n{self:#?}");
                let mut own = Sharing::new(sharing_at(self.ranks()), index);
                let turn = own.read();
                self.actors[index].task = Task::Own(own);
                self.turn_of_own(index, turn);
            }
            HoldTurn::Out => {
                actor.phase = Phase::Outside;
                if let Task::Carries(_) = actor.task {
                    self.carried = self.home;
                }
                self.actors[index].task = Task::Idle;
            }
        }
    }

    /// What a rank with a part of its own, or a writer, wants next.
    fn turn_of_own(&mut self, index: usize, turn: Turn) {
        let actor = &mut self.actors[index];
        actor.is_waiting = turn == Turn::Wait;
        match turn {
            Turn::Ask(requests) => self.ask(index, requests),
            Turn::Wait => {}
            Turn::In => self.enter(index),
            Turn::Out => {
                actor.phase = Phase::Outside;
                if index < self.readers {
                    actor.task = Task::Idle;
                }
                if self.holder == Some(index) {
                    self.holder = None;
                }
            }
        }
    }

    fn ask(&mut self, index: usize, requests: Vec<Request>) {
        let actor = &mut self.actors[index];
        // Nobody goes by it here.
        actor.asked = requests.into_iter().filter(|request| request.at() != WordAt(PLACE)).collect();
        (actor.is_asking, actor.is_poked) = (true, false);
        actor.answers.clear();
    }

    fn enter(&mut self, index: usize) {
        self.actors[index].phase = Phase::Inside;
        let is_inside = |other: &usize| {
            let actor = &self.actors[*other];
            *other != index && actor.phase == Phase::Inside && !actor.is_dead
        };
        let writes = |other: usize| other >= self.readers;
        let wrong = (0..self.ranks()).filter(is_inside).find(|other| writes(index) || writes(*other));
        assert_eq!(wrong, None, "rank {index} comes in beside it\n{self:#?}");
    }

    /// Somebody has joined an open hold.
    fn count_join(&mut self) {
        let phase = PhaseWord(self.words[PHASE]);
        let is_waiting = |writer: &usize| self.actors[*writer].phase != Phase::Inside && !self.actors[*writer].is_dead;
        if phase.writer().filter(is_waiting).is_some() {
            let before = if self.joined.0 == phase.phase() { self.joined.1 } else { 0 };
            self.joined = (phase.phase(), before + 1);
            assert!(before < MOST_JOINED, "a writer waits for too many\n{self:#?}");
        }
    }

    fn step(&mut self, index: usize) {
        self.actors[index].wants_step = false;
        let words = Words(self.words.iter().map(|word| AtomicU64::new(*word)).collect());
        let mut poked = Vec::new();
        let known: Vec<bool> = (0..200).map(|local| self.is_known_here(local)).collect();
        let (Task::Shares(hold) | Task::Sweeps(hold) | Task::Carries(hold)) = &mut self.actors[index].task else {
            unreachable!("it makes steps")
        };
        let joins = matches!(hold.state, State::Joining { .. });
        let mut turn = hold.step(&words, |local| known[local], |called| poked.push(called));
        // What follows from a swap at once: others look then or later.
        while turn == HoldTurn::Step && matches!(hold.state, State::Calling { .. }) {
            turn = hold.step(&words, |local| known[local], |called| poked.push(called));
        }
        self.words = words.0.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        if joins && turn == HoldTurn::In {
            self.count_join();
        }
        self.poke(poked);
        self.turn(index, turn);
    }

    fn is_known_here(&self, local: usize) -> bool {
        let index = self.actor_named(local);
        let there_is = local < self.readers || (local >= 100 && index < self.actors.len());
        there_is && self.knows(0, index)
    }

    fn finish_asking(&mut self, index: usize) {
        let answers = std::mem::take(&mut self.actors[index].answers);
        self.actors[index].is_asking = false;
        let side = usize::from(!self.is_of_node(index));
        let known = self.known[side].clone();
        let mut poked = Vec::new();
        let poke = |called| poked.push(called);
        match &mut self.actors[index].task {
            Task::Shares(hold) | Task::Sweeps(hold) | Task::Carries(hold) => {
                let turn = hold.answered(&answers, |rank| known[rank], poke);
                self.poke(poked);
                self.turn(index, turn);
            }
            Task::Own(own) | Task::Writes(own) => {
                let has_ended = |member| matches!(member, Member::Rank(rank) if known[rank]);
                let turn = own.answered(&answers, has_ended, poke);
                self.poke(poked);
                self.turn_of_own(index, turn);
            }
            Task::Idle => unreachable!("it has asked"),
        }
    }

    fn restart(&mut self, index: usize) {
        let at = sharing_at(self.ranks());
        let actor = &mut self.actors[index];
        (actor.home, actor.is_asking, actor.is_unheard) = (self.home, false, false);
        actor.asked.clear();
        actor.abandoned.clear();
        match &mut actor.task {
            Task::Shares(hold) => {
                let turn = hold.restart(at);
                self.turn(index, turn);
            }
            Task::Own(own) | Task::Writes(own) => {
                let turn = own.restart(at);
                self.turn_of_own(index, turn);
            }
            Task::Sweeps(_) | Task::Carries(_) | Task::Idle => unreachable!("it begins something else"),
        }
    }

    /// The home is lost; what ranks had there by themselves is written to the next one.
    fn lose_home(&mut self) {
        self.losses -= 1;
        self.home += 1;
        self.words[..HOLD].fill(0);
        // A writer that waits begins anew, too.
        self.joined = (0, 0);
        for writer in self.readers..self.ranks() {
            let actor = &self.actors[writer];
            if actor.phase == Phase::Inside && !actor.is_dead {
                let carried = sharing_at(self.ranks()).carry(writer, Sharing::WRITES).expect("it writes");
                execute(&mut self.words, carried);
            }
        }
    }

    /// A steward begins to carry what its node has.
    fn begin_to_carry(&mut self, index: usize) {
        for reader in 0..self.readers {
            let carried = sharing_at(self.ranks()).carry(reader, self.words[STAKES + reader]);
            if let Some(carried) = carried.filter(|_| !self.knows(0, reader)) {
                execute(&mut self.words, carried);
            }
        }
        let hold = SharedHold::carry(self.shared_at(), self.name_of(index));
        let actor = &mut self.actors[index];
        (actor.home, actor.is_asking, actor.is_unheard, actor.outlives) = (self.home, false, false, None);
        actor.asked.clear();
        actor.abandoned.clear();
        actor.is_called |= matches!(actor.task, Task::Sweeps(_));
        (actor.task, actor.wants_step) = (Task::Carries(hold), true);
    }

    fn go_on(&mut self, index: usize) {
        self.actors[index].phase = Phase::Leaving;
        match &mut self.actors[index].task {
            Task::Shares(hold) => {
                let turn = hold.leave();
                self.turn(index, turn);
            }
            Task::Own(own) => {
                let turn = own.leave();
                self.words[STAKES + index] = Sharing::NO_STAKE;
                self.turn_of_own(index, turn);
            }
            Task::Writes(own) => {
                let turn = own.leave();
                self.turn_of_own(index, turn);
            }
            Task::Sweeps(_) | Task::Carries(_) | Task::Idle => unreachable!("nobody is inside"),
        }
    }

    /// Whether it is in the middle of asking, and may give up so. A writer's part, or one of its own, is taken back by
    /// other means ([`Sharing::take_back`]).
    fn may_abandon(&self, index: usize) -> bool {
        let actor = &self.actors[index];
        self.silences > 0 && actor.is_asking && matches!(actor.task, Task::Shares(_) | Task::Sweeps(_))
    }

    fn abandon(&mut self, index: usize) {
        self.silences -= 1;
        self.was_silent = true;
        let actor = &mut self.actors[index];
        let asked = std::mem::take(&mut actor.asked);
        actor.abandoned.extend(asked);
        (actor.is_asking, actor.is_unheard, actor.phase) = (false, true, Phase::Leaving);
        let (Task::Shares(hold) | Task::Sweeps(hold)) = &mut actor.task else { unreachable!("it is looked at before") };
        let turn = hold.abandon();
        self.turn(index, turn);
    }

    fn begin(&mut self, index: usize) {
        let (at, shared_at) = (sharing_at(self.ranks()), self.shared_at());
        let is_patient = self.actors[index].is_patient;
        let actor = &mut self.actors[index];
        (actor.left, actor.is_late) = (actor.left - 1, false);
        if index >= self.readers {
            actor.phase = Phase::Queued;
            if let Task::Idle = actor.task {
                actor.task = Task::Writes(Sharing::new(at, index));
            }
            return self.queue.push(index);
        }
        actor.phase = Phase::Busy;
        let mut hold = SharedHold::new(shared_at, index);
        let turn = hold.read(is_patient);
        actor.task = Task::Shares(hold);
        self.turn(index, turn);
    }

    /// Whether the exclusive lock can become this writer's.
    fn is_next(&self, index: usize) -> bool {
        let is_free = self.holder.is_none_or(|holder| self.knows(1, holder));
        is_free && self.queue.iter().find(|other| !self.knows(1, **other)) == Some(&index)
    }

    fn needs_carrying(&self) -> bool {
        self.carried < self.home
    }

    /// What can happen to a rank, or a steward, that is alive.
    fn events_of(&self, index: usize, events: &mut Vec<Event>) {
        let actor = &self.actors[index];
        let is_steward = index >= self.ranks();
        if self.deaths > 0 && (!is_steward || index + 1 < self.actors.len()) {
            events.push(Event::Die(index));
        }
        if actor.wants_step {
            return events.push(Event::Step(index));
        }
        if self.may_abandon(index) {
            events.push(Event::Abandon(index));
        }
        if is_steward {
            let is_first = (self.ranks()..index).all(|before| self.knows(0, before));
            if self.needs_carrying() && is_first && !matches!(actor.task, Task::Carries(_)) {
                return events.push(Event::Carry(index));
            }
            if actor.outlives.is_some_and(|local| self.knows(1, self.actor_named(local))) {
                events.push(Event::Outlive(index));
            }
            if actor.is_called && is_first && matches!(actor.task, Task::Idle) {
                events.push(Event::Sweep(index));
            }
            return;
        }
        if actor.is_asking && actor.home < self.home && !self.needs_carrying() {
            events.push(Event::Restart(index));
        }
        match actor.phase {
            Phase::Outside if actor.left > 0 => events.push(Event::Begin(index)),
            Phase::Queued if self.is_next(index) => events.push(Event::Grant(index)),
            Phase::Inside => events.push(Event::GoOn(index)),
            _ => {}
        }
        if actor.is_waiting && (actor.is_poked || self.looks_early) {
            events.push(Event::Look(index));
        }
        if actor.is_waiting && !actor.is_late && self.looks_early {
            events.push(Event::Delay(index));
        }
        if actor.may_give_up && (actor.is_waiting || actor.phase == Phase::Queued) {
            events.push(Event::GiveUp(index));
        }
    }

    /// What has to happen if nobody dies or changes their mind, nor looks for no reason.
    fn is_due(&self, event: Event) -> bool {
        match event {
            Event::Die(_) | Event::GiveUp(_) | Event::Abandon(_) | Event::Drop(_) | Event::Lose | Event::Delay(_) => {
                false
            }
            Event::Execute(index) => !self.actors[index].is_dead && !self.actors[index].is_unheard,
            Event::Look(index) => self.actors[index].is_poked,
            _ => true,
        }
    }

    fn due(&self) -> Option<Event> {
        self.events().into_iter().find(|event| self.is_due(*event))
    }

    fn unfinished(&self) -> Vec<usize> {
        let is_there = |index: &usize| !self.actors[*index].is_dead && self.actors[*index].phase != Phase::Outside;
        (0..self.ranks()).filter(is_there).collect()
    }

    /// What is wrong where nothing more happens: who is forgotten, or what is left at the home.
    fn flaw(&self) -> Option<String> {
        let forgotten = self.unfinished();
        if !forgotten.is_empty() {
            return Some(format!("{forgotten:?} are forgotten"));
        }
        let is_left = SharedWord(self.words[HOLD]).stand() != Stand::Nothing || self.words[NODE_PART] != 0;
        is_left.then(|| "the hold is left".to_owned())
    }

    /// Who waits for one that has given up, until the home is heard.
    fn waits_for_the_home(&self) -> Option<usize> {
        let is_abandoned = matches!(SharedWord(self.words[HOLD]).stand(), Stand::Abandoned(_));
        let waits = |index: &usize| {
            let actor = &self.actors[*index];
            !actor.is_dead && actor.is_waiting && matches!(actor.task, Task::Shares(_))
        };
        (0..self.readers).find(waits).filter(|_| is_abandoned)
    }

    /// Where nothing more has to happen, all look now and then: how that ends.
    fn after_looks(&self) -> Self {
        let mut world = self.clone();
        for _ in 0..4 {
            for index in world.unfinished() {
                let actor = &mut world.actors[index];
                (actor.is_poked, actor.is_late) = (actor.is_poked || actor.is_waiting, actor.is_waiting);
            }
            while let Some(event) = world.due() {
                world.apply(event);
            }
        }
        world
    }
}

impl Model for World {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.losses > 0 {
            events.push(Event::Lose);
        }
        for (index, actor) in self.actors.iter().enumerate() {
            if !(actor.asked.is_empty() && actor.abandoned.is_empty()) && actor.home == self.home {
                events.push(Event::Execute(index));
            }
            if !actor.abandoned.is_empty() {
                events.push(Event::Drop(index));
            }
            if actor.is_dead {
                events.extend((0..2).filter(|side| !self.knows(*side, index)).map(|side| Event::Learn(side, index)));
                continue;
            }
            self.events_of(index, &mut events);
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(index) => self.begin(index),
            Event::Grant(index) => {
                self.holder = Some(index);
                self.queue.retain(|other| *other != index);
                let actor = &mut self.actors[index];
                actor.phase = Phase::Busy;
                let Task::Writes(own) = &mut actor.task else { unreachable!("it writes") };
                let turn = own.write();
                self.turn_of_own(index, turn);
            }
            Event::Step(index) => self.step(index),
            Event::Execute(index) => {
                self.actors[index].is_unheard = false;
                if let Some(request) = self.actors[index].abandoned.pop_front() {
                    let _ = execute(&mut self.words, request);
                    return;
                }
                let request = self.actors[index].asked.pop_front().expect("it has asked");
                let answer = execute(&mut self.words, request);
                let actor = &mut self.actors[index];
                actor.answers.extend(answer);
                // A rank that has been declared failed looks for that before it goes on.
                if actor.asked.is_empty() && !actor.is_dead {
                    self.finish_asking(index);
                }
            }
            Event::Restart(index) => self.restart(index),
            Event::Look(index) => {
                let actor = &mut self.actors[index];
                actor.is_poked = false;
                match &mut actor.task {
                    Task::Shares(hold) => {
                        let waited = if actor.is_late { NEIGHBOUR_LIMIT } else { Duration::ZERO };
                        let turn = hold.look(waited);
                        self.turn(index, turn);
                    }
                    Task::Own(own) | Task::Writes(own) => {
                        let turn = own.look();
                        self.turn_of_own(index, turn);
                    }
                    Task::Sweeps(_) | Task::Carries(_) | Task::Idle => unreachable!("it waits for nobody"),
                }
            }
            Event::Delay(index) => (self.actors[index].is_poked, self.actors[index].is_late) = (true, true),
            Event::GoOn(index) => self.go_on(index),
            Event::GiveUp(index) => {
                let actor = &mut self.actors[index];
                actor.may_give_up = false;
                self.queue.retain(|other| *other != index);
                if actor.phase == Phase::Queued {
                    actor.phase = Phase::Outside;
                } else {
                    self.go_on(index);
                }
            }
            Event::Abandon(index) => self.abandon(index),
            Event::Drop(index) => self.actors[index].abandoned.clear(),
            Event::Die(index) => {
                self.deaths -= 1;
                let actor = &mut self.actors[index];
                (actor.is_dead, actor.wants_step) = (true, false);
            }
            Event::Learn(side, dead) => {
                self.known[side][dead] = true;
                if side == 1 {
                    // The home shuts it out.
                    self.actors[dead].asked.clear();
                    self.actors[dead].abandoned.clear();
                }
                let is_of_node: Vec<bool> = (0..self.actors.len()).map(|index| self.is_of_node(index)).collect();
                for (actor, is_of_node) in self.actors.iter_mut().zip(is_of_node) {
                    if is_of_node == (side == 0) {
                        (actor.is_poked, actor.is_called) = (true, true);
                    }
                }
            }
            Event::Sweep(index) => {
                let (at, name) = (self.shared_at(), self.name_of(index));
                let home = self.home;
                let actor = &mut self.actors[index];
                (actor.is_called, actor.wants_step, actor.home) = (false, true, home);
                actor.task = Task::Sweeps(SharedHold::sweep(at, name));
            }
            Event::Outlive(index) => {
                let actor = &mut self.actors[index];
                actor.outlives = None;
                let Task::Sweeps(hold) = &mut actor.task else { unreachable!("it sweeps") };
                let turn = hold.outlived();
                self.turn(index, turn);
            }
            Event::Lose => self.lose_home(),
            Event::Carry(index) => self.begin_to_carry(index),
        }
    }
}

fn check(world: World) {
    let (mut states, mut ends) = (0, 0);
    go_every_way(world, |world, way| {
        states += 1;
        if world.due().is_some() {
            return;
        }
        ends += 1;
        if world.actors.iter().any(|actor| actor.is_unheard && !actor.is_dead) {
            assert_eq!(world.waits_for_the_home(), None, "nobody has it look: {way:?}\n{world:#?}");
            return;
        }
        // A death, a loss, or a rank that has given up may have taken a poke with it; then those who wait look by
        // themselves.
        let may_miss = world.home > 0 || world.actors.iter().any(|actor| actor.is_dead || !actor.is_patient);
        let gave_up = world.has_doubts && world.actors[..world.readers].iter().any(|actor| !actor.may_give_up);
        let last = if may_miss || gave_up || world.was_silent { world.after_looks() } else { world.clone() };
        if let Some(flaw) = last.flaw() {
            panic!("{flaw}: {way:?}\n{world:#?}");
        }
    });
    assert!(ends > 0);
    println!("{states} states, {ends} of them ends");
}

/// Has one go on until that is so.
fn go_on_until(world: &mut World, index: usize, is_so: impl Fn(&Actor) -> bool) {
    while !is_so(&world.actors[index]) {
        let is_its = |event: &Event| {
            let (Event::Begin(of) | Event::Grant(of) | Event::Step(of) | Event::Execute(of)) = event else {
                return false;
            };
            *of == index
        };
        let event = world.events().into_iter().find(is_its).expect("it can go on");
        world.apply(event);
    }
}

/// The second reader joins twice, the second time beside a writer, which gives up then.
#[test]
fn who_makes_room_for_a_writer_that_gives_up_reads_when_it_looks_which_is_soon() {
    let mut world = World::new(&[1, 2], &[1]).with_doubts();
    let is_inside = |actor: &Actor| actor.phase == Phase::Inside;
    go_on_until(&mut world, 0, is_inside);
    go_on_until(&mut world, 1, is_inside);
    world.apply(Event::GoOn(1));
    go_on_until(&mut world, 1, |actor| actor.phase == Phase::Outside);
    go_on_until(&mut world, 2, |actor| actor.is_waiting);
    go_on_until(&mut world, 1, |actor| actor.is_waiting);
    world.apply(Event::GiveUp(2));
    go_on_until(&mut world, 2, |actor| actor.phase == Phase::Outside);
    assert!(!world.actors[1].is_poked, "nobody knows of it");
    let Task::Shares(hold) = &world.actors[1].task else { panic!("it waits with the others") };
    let awaited = hold.awaited().expect("it waits for something");
    assert_eq!(awaited, Awaited::Room(Some(2)));
    let after = [0, 1, 4].map(|waited| awaited.patience(Duration::from_millis(waited)).as_millis());
    assert_eq!(after, [1, 1, 4], "milliseconds");
    world.apply(Event::Look(1));
    go_on_until(&mut world, 1, is_inside);
    assert!(is_inside(&world.actors[0]), "its neighbour reads on");
}

#[test]
fn two_readers_of_a_node_and_a_writer() {
    check(World::new(&[2, 1], &[1]));
    check(World::new(&[1, 1], &[2]));
}

#[test]
#[ignore = "minutes: millions of states"]
fn three_readers_of_a_node_and_a_writer() {
    check(World::new(&[1, 1, 1], &[1]));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten seconds without optimization")]
fn readers_that_look_though_nothing_is_wrong() {
    check(World::new(&[1, 1], &[1]).looking_early());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten seconds without optimization")]
fn readers_that_give_up_or_do_not_wait() {
    check(World::new(&[1, 1], &[1]).with_doubts());
    check(World::new(&[2, 1], &[1]).impatient());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn one_gives_up_while_it_asks() {
    check(World::new(&[1, 1], &[1]).with_silences(1));
    check(World::new(&[2, 1], &[]).with_silences(2));
    check(World::new(&[1, 1], &[]).with_silences(1).losing_the_home());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn one_dies_at_any_moment() {
    check(World::new(&[1], &[1]).with_deaths(1));
    check(World::new(&[1, 1], &[]).with_deaths(1));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn the_home_is_lost_at_any_moment() {
    check(World::new(&[1], &[1]).losing_the_home());
    check(World::new(&[1, 1], &[]).losing_the_home());
}

#[test]
#[ignore = "minutes: millions of states"]
fn one_of_three_dies_or_the_home_is_lost_at_any_moment() {
    check(World::new(&[1, 1], &[1]).losing_the_home());
    check(World::new(&[1, 1], &[1]).with_deaths(1));
}

#[test]
#[ignore = "a minute: millions of states"]
fn two_die_at_any_moment_one_of_them_a_steward() {
    check(World::new(&[1], &[1]).with_another_steward().with_deaths(2));
    check(World::new(&[1, 1], &[]).with_another_steward().with_deaths(2));
}

#[test]
#[ignore = "minutes: some ten million states"]
fn somebody_dies_and_others_give_up() {
    check(World::new(&[1, 1], &[1]).with_doubts().with_deaths(1));
    check(World::new(&[1, 1], &[]).with_silences(2).with_deaths(1));
    check(World::new(&[1], &[1]).with_silences(2).with_deaths(1));
}

#[test]
#[ignore = "a minute: millions of states"]
fn the_home_is_lost_and_somebody_dies_or_gives_up() {
    check(World::new(&[2, 1], &[1]).losing_the_home());
    check(World::new(&[1, 1], &[]).losing_the_home().with_deaths(1));
    check(World::new(&[1], &[1]).losing_the_home().with_deaths(1));
    check(World::new(&[1], &[1]).losing_the_home().with_doubts());
}

#[test]
#[ignore = "a minute: millions of states"]
fn somebody_gives_up_while_it_asks_and_the_home_is_lost() {
    check(World::new(&[2, 1], &[1]).with_silences(1));
    check(World::new(&[1, 1], &[1]).with_silences(2));
    check(World::new(&[1, 1], &[]).with_silences(2).losing_the_home());
    check(World::new(&[1], &[1]).with_silences(2).losing_the_home());
    check(World::new(&[1, 1], &[1]).with_silences(1).losing_the_home());
}

#[test]
#[ignore = "a minute: millions of states"]
fn readers_that_come_again_and_again() {
    check(World::new(&[2, 2], &[1]));
    check(World::new(&[2, 1], &[1]).looking_early());
}
