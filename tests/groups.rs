//! Making and leaving groups across simulated nodes joined by unreliable wires: one thread steps leaders and wires in
//! an order drawn from a seed.
//!
//! Each *actor* is a process that leads its node in some groups. It comes late or never, runs out of patience and calls
//! again or gives up, finds no space, holds groups for a while, writes into the other nodes' blocks as a driver does,
//! and leaves. Reads and swaps are late, refused and lost. Actors die, and nodes; some are declared failed and live.
//! Each node comes to know of it when it likes, and shuts them out then: until that what they have sent may still take
//! effect. An oracle that knows every step checks that
//!
//! - leaders that agree agree on the same blocks, and where one has agreed no other is refused or ends without a group;
//! - a block stays its group's while any of its nodes holds it, and nothing is written into it that is another group's;
//! - in the end all space and all places for offers of those who survive are free, no ticket is left over, and all
//!   nodes can make a group.
#![cfg(not(model))]

mod common;

use std::collections::BTreeMap;
use std::task::Poll;

use common::seeds::for_each_seed;
use common::wires::Wires;
use phalanx::coord::barrier::Algorithm;
use phalanx::coord::barrier::spanning::Schedule;
use phalanx::coord::barrier::spanning::layout::{NodeWord, SpanLayout};
use phalanx::coord::endings::{Awaited, Ending, TakenBack, Why};
use phalanx::coord::farewell::Farewell;
use phalanx::coord::formation::{self, Member};
use phalanx::coord::introductions::{Introductions, Met, Own, Stranger};
use phalanx::coord::losses::Losses;
use phalanx::coord::offers::{self, Named, REFUSED, Stage, StageWord};
use phalanx::coord::{arena, burial};
use phalanx::fabric::node::{NodeLayout, OFFERS, UNIT_WORDS, header};
use phalanx::fabric::sim::{Seeded, SimNode};
use phalanx::fabric::{Fabric, Memory, WordAt};
use phalanx::sync::Ordering;

/// A group that some leaders are to make: by the index in the plan.
#[derive(Clone, Debug)]
struct Planned {
    /// The leaders, as indices of actors, each of another node.
    leaders: Vec<usize>,
    named: Named,
}

/// What a leader holds.
struct Held {
    plan: usize,
    block: SpanLayout,
}

/// A leader of a node, with what it has to do.
struct Actor {
    node: usize,
    /// Its place in its node's rank table.
    local: usize,
    /// Those of the plan that it has not been through with, in order.
    ahead: Vec<usize>,
    /// What it makes now.
    making: Option<Introductions>,
    /// What it has begun earlier and may go on with.
    begun: BTreeMap<usize, Introductions>,
    held: Vec<Held>,
    endings: Vec<Ending>,
    /// It does nothing before this step: others go through a lot meanwhile.
    asleep_until: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    /// Declared failed, with its node or alone, and alive.
    Lost,
    Dead,
}

/// What the job has lost, an epoch each.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Actor(usize),
    Node(usize),
}

/// What is known of a planned group.
#[derive(Default)]
struct Known {
    /// The list that was agreed on.
    agreed: Option<Vec<(usize, WordAt)>>,
    ballot: u64,
    /// A leader has been refused.
    is_refused: bool,
    /// Ballots that leaders have given up.
    void: Vec<u64>,
}

struct Play<'net> {
    net: &'net Wires,
    layout: NodeLayout,
    actors: Vec<Actor>,
    plan: Vec<Planned>,
    known: Vec<Known>,
    random: Seeded,
    numbers: u64,
    steps: u64,
    /// How likely a leader is to lose its patience, in per mille.
    unrest: usize,
    /// What the job has lost; how much of that each node knows stands in its memory.
    log: Vec<Unit>,
    /// How much it still loses.
    strikes: usize,
    /// How many steps it takes on average until some node knows of it.
    slowness: usize,
}

impl Play<'_> {
    fn step(&mut self) {
        self.steps += 1;
        self.suffer();
        if self.random.below(4) > 0 {
            self.net.step();
            return self.check_write();
        }
        let index = self.random.below(self.actors.len());
        if self.actors[index].asleep_until > self.steps || self.actors[index].state == State::Dead {
            return;
        }
        if self.random.below(100) == 0 {
            self.actors[index].asleep_until = self.steps + self.random.below(4000) as u64;
        }
        match self.random.below(5) {
            0 => self.settle(index),
            1 if !self.actors[index].held.is_empty() => self.use_or_leave(index),
            _ => self.make(index),
        }
        self.check();
    }

    fn memory(&self, index: usize) -> &SimNode {
        &self.net.nodes[self.actors[index].node]
    }

    /// Somebody fails, now and then; one that was declared failed dies; a node comes to know an epoch.
    fn suffer(&mut self) {
        if self.strikes > 0 && self.random.below(2000) == 0 {
            self.strikes -= 1;
            let any = self.random.below(self.actors.len());
            let is_busy = |index: &usize| !self.actors[*index].held.is_empty();
            let victim = (any..self.actors.len()).chain(0..any).find(is_busy).unwrap_or(any);
            self.strike(victim);
        }
        if self.random.below(1000) == 0 {
            let index = self.random.below(self.actors.len());
            if self.actors[index].state == State::Lost {
                self.actors[index].state = State::Dead;
            }
        }
        let node = self.random.below(self.net.nodes.len());
        if self.random.below(self.slowness) == 0 && self.known_by(node) < self.log.len() && !self.is_lost(node) {
            self.open(node);
        }
    }

    fn strike(&mut self, victim: usize) {
        let node = self.actors[victim].node;
        let is_another = |actor: &&Actor| actor.state == State::Alive && actor.node != node;
        if self.actors[victim].state != State::Alive || !self.actors.iter().any(|actor| is_another(&actor)) {
            return;
        }
        let neighbours = (0..self.actors.len()).filter(|index| self.actors[*index].node == node);
        let living: Vec<usize> = neighbours.filter(|index| self.actors[*index].state == State::Alive).collect();
        // In the midst of something, if it is in the midst of anything; and it may be long on its way.
        (0..self.actors[victim].held.len()).for_each(|which| self.write_abroad(victim, which));
        self.net.hold_up(victim, [0, 2000, 50_000][self.random.below(3)]);
        let state = if self.random.below(2) == 0 { State::Dead } else { State::Lost };
        if living.len() > 1 && self.random.below(3) > 0 {
            self.actors[victim].state = state;
            return self.log.push(Unit::Actor(victim));
        }
        living.into_iter().for_each(|index| self.actors[index].state = state);
        self.log.push(Unit::Node(node));
        if state == State::Dead {
            (0..self.actors.len()).for_each(|index| self.net.cut(index, node));
        }
    }

    /// The next epoch is known on a node: whom it has lost has been shut out, and is asked nothing any more.
    fn open(&mut self, node: usize) {
        let epoch = self.known_by(node);
        for (index, actor) in self.actors.iter().enumerate() {
            match self.log[epoch] {
                Unit::Actor(lost) if lost == index => self.net.cut(index, node),
                Unit::Node(lost) if lost == actor.node => self.net.cut(index, node),
                Unit::Node(lost) if actor.node == node => self.net.cut(index, lost),
                Unit::Actor(_) | Unit::Node(_) => {}
            }
        }
        self.net.nodes[node].word(header::EPOCH).store(epoch as u64 + 1, Ordering::Release);
    }

    /// How many epochs a node knows.
    fn known_by(&self, node: usize) -> usize {
        usize::try_from(self.net.nodes[node].word(header::EPOCH).load(Ordering::Acquire)).expect("a count")
    }

    /// Whether the job has lost a node, whoever knows it.
    fn is_lost(&self, node: usize) -> bool {
        self.log.iter().any(|unit| matches!(unit, Unit::Node(lost) if *lost == node))
    }

    fn losses(&self, node: usize) -> Losses {
        let epoch = self.known_by(node);
        let mut losses = Losses { epoch: epoch as u64, ..Losses::default() };
        for unit in &self.log[..epoch] {
            match *unit {
                Unit::Node(lost) => losses.nodes.push(lost),
                Unit::Actor(lost) => losses.ranks.push((self.actors[lost].node, self.actors[lost].local)),
            }
        }
        losses
    }

    /// Whether a node knows that a planned group has lost a leader.
    fn is_broken(&self, node: usize, plan: usize) -> bool {
        let losses = self.losses(node);
        let mut leaders = self.plan[plan].leaders.iter().map(|leader| &self.actors[*leader]);
        leaders.any(|leader| losses.has_ended(leader.node, leader.local))
    }

    /// What the dead of a node have held and left is let go and taken on by this neighbour of theirs.
    fn bury(&mut self, index: usize) {
        let (node, me) = (self.actors[index].node, self.actors[index].local);
        let memory = &self.net.nodes[node];
        let on_node = |local| self.actors.iter().position(|actor| actor.node == node && actor.local == local);
        let known = &self.log[..self.known_by(node)];
        let is_in_log = |actor| known.iter().any(|unit| matches!(unit, Unit::Actor(lost) if *lost == actor));
        let state = |actor: usize| self.actors[actor].state;
        let is_dead = |local| on_node(local).is_some_and(|actor| state(actor) == State::Dead && is_in_log(actor));
        let has_ended = |local| on_node(local).is_some_and(|actor| state(actor) != State::Alive) && local != me;
        let schedule_for = |nodes| Schedule::dissemination(nodes, 2);
        let mut departed = burial::bury_abroad(memory, &self.layout, schedule_for, me, is_dead);
        departed.extend(burial::inherit(memory, &self.layout, schedule_for, me, has_ended));
        let farewell = |block| Ending::Leaving(Farewell::of_departed(memory, block, me, node));
        let farewells: Vec<Ending> = departed.into_iter().map(farewell).collect();
        self.actors[index].endings.extend(farewells);
    }

    fn settle(&mut self, index: usize) {
        let node = self.actors[index].node;
        let losses = self.losses(node);
        if losses.epoch > 0 && self.actors[index].state == State::Alive {
            self.bury(index);
        }
        let (memory, fabric) = (&self.net.nodes[node], self.net.of(index, node));
        for ending in std::mem::take(&mut self.actors[index].endings) {
            let given_up = match &ending {
                Ending::GivingUp(introductions, _) => {
                    let ballot = memory.word(introductions.block().ballot()).load(Ordering::Relaxed);
                    Some((introductions.named(), ballot))
                }
                _ => None,
            };
            let mut left = Vec::new();
            ending.poll(memory, &self.layout, &fabric, &losses, &mut left);
            if let Some((named, ballot)) = given_up.filter(|_| left.is_empty()) {
                self.end_without_a_group(index, named, ballot);
            }
            self.actors[index].endings.extend(left);
        }
    }

    /// The oracle on giving up: the ballot that this leader may have voted for has won nowhere, and never will.
    fn end_without_a_group(&mut self, index: usize, named: Named, ballot: u64) {
        let plan = self.plan.iter().position(|planned| planned.named == named).expect("it is planned");
        let known = &mut self.known[plan];
        let has_won = known.agreed.is_some() && known.ballot == ballot;
        assert!(!has_won, "leader {index} has given {plan} up, which others have agreed on");
        known.void.push(ballot);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Begins, goes on with, or drops what is to be made next.
    fn make(&mut self, index: usize) {
        let Some(plan) = self.actors[index].ahead.first().copied() else { return };
        if self.is_broken(self.actors[index].node, plan) {
            let making = self.actors[index].making.take().map(|making| Ending::GivingUp(making, Why::Unwanted));
            self.actors[index].endings.extend(making);
            return self.is_through(index);
        }
        if self.actors[index].making.is_none() {
            match self.random.below(40) {
                // It never comes. But who has a part in a group that there is gets it.
                0 if self.known[plan].agreed.is_none() => return self.is_through(index),
                0..20 => return,
                _ => {}
            }
            self.actors[index].making = match self.take_up(index, plan) {
                Some(TakenBack::Begun(begun)) => Some(begun),
                Some(TakenBack::Missed) => return self.is_through(index),
                None => self.begin(index, plan),
            };
            return;
        }
        if self.random.below(1000) < self.unrest {
            return self.lose_patience(index, plan);
        }
        let node = self.actors[index].node;
        let fabric = self.net.of(index, node);
        let mut making = self.actors[index].making.take().expect("looked just now");
        let is_offered = making.is_offered();
        let met = making.poll(&self.net.nodes[node], &fabric);
        match met {
            Poll::Pending if !is_offered => self.make_room(index),
            Poll::Pending => {}
            Poll::Ready(Met::Ended) => making.begin_again(&self.net.nodes[node], self.number()),
            Poll::Ready(Met::Refused) => {
                let block = making.block();
                making.close(&self.net.nodes[node], &fabric, 0);
                formation::discard(&self.net.nodes[node], &self.layout, &block, self.actors[index].local);
                self.refuse(index, plan);
                return self.is_through(index);
            }
            Poll::Ready(Met::Agreed) => {
                making.open(&self.net.nodes[node], 0, false);
                let block = making.block();
                self.actors[index].endings.push(Ending::Acknowledging(making));
                self.agree(index, plan, block);
                self.actors[index].held.push(Held { plan, block });
                return self.is_through(index);
            }
        }
        self.actors[index].making = Some(making);
    }

    /// What was begun earlier, and may just be given up.
    fn take_up(&mut self, index: usize, plan: usize) -> Option<TakenBack> {
        let fabric = self.net.of(index, self.actors[index].node);
        let named = self.plan[plan].named;
        let Actor { begun, endings, .. } = &mut self.actors[index];
        begun.remove(&plan).map(TakenBack::Begun).or_else(|| Ending::take_back(endings, named, &fabric))
    }

    /// The leader will not ask for the next of its plan again.
    fn is_through(&mut self, index: usize) {
        let plan = self.actors[index].ahead.remove(0);
        let through = self.plan[plan].named;
        self.give_up(index, Why::Unwanted, |named| named == through);
    }

    /// What was begun, kept and missed before is given up for this reason.
    fn give_up(&mut self, index: usize, why: Why, is_meant: impl Fn(Named) -> bool) {
        let node = self.actors[index].node;
        let mut left = Vec::new();
        for ending in std::mem::take(&mut self.actors[index].endings) {
            match ending.may_be_asked_for() {
                Some((named, _)) if is_meant(named) => {
                    ending.give_up(why, &self.net.nodes[node], node, &mut left);
                }
                _ => left.push(ending),
            }
        }
        for (plan, begun) in std::mem::take(&mut self.actors[index].begun) {
            if is_meant(begun.named()) {
                left.push(Ending::GivingUp(begun, why));
            } else {
                self.actors[index].begun.insert(plan, begun);
            }
        }
        self.actors[index].endings = left;
    }

    /// The oracle on refusals.
    fn refuse(&mut self, index: usize, plan: usize) {
        let known = &mut self.known[plan];
        assert!(known.agreed.is_none(), "leader {index} is refused {plan}, which others have agreed on");
        known.is_refused = true;
    }

    fn begin(&mut self, index: usize, plan: usize) -> Option<Introductions> {
        let Planned { leaders, named } = self.plan[plan].clone();
        let (node, local) = (self.actors[index].node, self.actors[index].local);
        let schedule = Schedule::dissemination(leaders.len(), 2);
        let member = [Member { rank: local, local }];
        let made = formation::make_spanning(self.memory(index), &self.layout, schedule, &member, Algorithm::Flat);
        let number = self.number();
        let Ok(block) = made else {
            let refusal = (REFUSED, number);
            match offers::offer_abroad(self.memory(index), &self.layout, local, named, refusal) {
                Some(offered) => {
                    offers::open(self.memory(index), offered, 0, true);
                    offers::let_go(self.memory(index), offered);
                    self.refuse(index, plan);
                    self.is_through(index);
                }
                None => self.make_room(index),
            }
            self.give_up(index, Why::Space, |_| true);
            return None;
        };
        let position = leaders.iter().position(|leader| *leader == index).expect("it leads in it");
        let own = Own { node, leader: local, segment: self.layout, block, index: position, group: number, parent: 0 };
        let stranger = |leader: &usize| {
            let Actor { node, local, .. } = self.actors[*leader];
            Stranger { node, leader: local, layout: self.layout }
        };
        Some(Introductions::new(named, own, leaders.iter().filter(|leader| **leader != index).map(stranger).collect()))
    }

    fn make_room(&mut self, index: usize) {
        if let Some((_, oldest)) = self.actors[index].begun.pop_first() {
            self.actors[index].endings.push(Ending::GivingUp(oldest, Why::Place));
        }
        self.settle(index);
    }

    /// Keeps what it has begun for later, or gives it up and goes on with the next, or calls again.
    fn lose_patience(&mut self, index: usize, plan: usize) {
        let making = self.actors[index].making.take().expect("it makes something");
        match self.random.below(4) {
            0 | 1 => drop(self.actors[index].begun.insert(plan, making)),
            2 => self.actors[index].endings.push(Ending::GivingUp(making, Why::Place)),
            _ => self.actors[index].endings.push(Ending::GivingUp(making, Why::Space)),
        }
        if self.random.below(2) == 0 && self.known[plan].agreed.is_none() {
            self.is_through(index);
        }
    }

    /// The oracle on agreement.
    fn agree(&mut self, index: usize, plan: usize, block: SpanLayout) {
        let memory = self.memory(index);
        let load = |at| memory.word(at).load(Ordering::Relaxed);
        let nodes = (0..self.plan[plan].leaders.len()).map(|node| NodeWord(load(block.node(node))));
        let list: Vec<(usize, WordAt)> = nodes.map(|word| (word.node(), word.start())).collect();
        let ballot = load(block.ballot());
        let expected: Vec<usize> = self.plan[plan].leaders.iter().map(|leader| self.actors[*leader].node).collect();
        assert_eq!(list.iter().map(|(node, _)| *node).collect::<Vec<_>>(), expected);
        let known = &mut self.known[plan];
        assert!(!known.is_refused, "leader {index} has agreed on {plan}, which was refused");
        assert!(!known.void.contains(&ballot), "leader {index} has agreed on {plan}, which others have given up");
        match &known.agreed {
            Some(agreed) => assert_eq!((agreed, known.ballot), (&list, ballot), "leader {index} on {plan}"),
            None => (known.agreed, known.ballot) = (Some(list), ballot),
        }
    }

    /// Writes into other nodes' blocks, as a driver does; of a group that has lost somebody no barrier is tried.
    fn write_abroad(&mut self, index: usize, which: usize) {
        let (node, Held { plan, block }) = (self.actors[index].node, &self.actors[index].held[which]);
        let agreed = self.known[*plan].agreed.as_ref().expect("it is held");
        for (other, start) in agreed.iter().filter(|_| !self.is_broken(node, *plan)) {
            let at = SpanLayout::new(*start, *block.schedule(), 1).inbox(0, 0);
            let _ = self.net.of(index, node).write(*other, at, self.known[*plan].ballot);
        }
    }

    /// Writes into other nodes' blocks, or leaves.
    fn use_or_leave(&mut self, index: usize) {
        let which = self.random.below(self.actors[index].held.len());
        let node = self.actors[index].node;
        let block = self.actors[index].held[which].block;
        let leaves = self.random.below(6) == 0;
        self.write_abroad(index, which);
        if !leaves {
            return;
        }
        self.actors[index].held.swap_remove(which);
        let farewell = Farewell::of_member(self.memory(index), block, 0, self.actors[index].local, node);
        self.actors[index].endings.push(Ending::Leaving(farewell));
        self.settle(index);
    }

    /// The oracle on what takes effect: only in a block that is the group's still. (What is on a node that is lost
    /// nobody asks for.)
    fn check_write(&self) {
        let Some((node, at, ballot)) = self.net.last_write().filter(|(node, ..)| !self.is_lost(*node)) else { return };
        let known = self.known.iter().find(|known| known.ballot == ballot).expect("ballots alone are written");
        let list = known.agreed.as_ref().expect("its members write");
        let (_, start) = list.iter().find(|(member, _)| *member == node).expect("they write to each other");
        let block = SpanLayout::new(*start, Schedule::dissemination(list.len(), 2), 1);
        assert_eq!(at, block.inbox(0, 0));
        let found = self.net.nodes[node].word(block.ballot()).load(Ordering::Relaxed);
        assert!(self.is_taken(node, *start) && found == ballot, "{ballot} comes late to node {node}: {found} is there");
    }

    /// Whether the arena's unit is taken that begins at `start`.
    fn is_taken(&self, node: usize, start: WordAt) -> bool {
        let unit = (start.0 - self.layout.unit(0).0) / UNIT_WORDS;
        self.net.nodes[node].word(self.layout.bitmap(unit / 64)).load(Ordering::Relaxed) & 1 << (unit % 64) != 0
    }

    /// The oracle on blocks.
    fn check(&self) {
        for actor in self.actors.iter().filter(|actor| actor.state != State::Dead) {
            let memory = &self.net.nodes[actor.node];
            if let Some(making) = &actor.making {
                // Others may have agreed, and write already.
                let (block, inbox) = (making.block(), memory.word(making.block().inbox(0, 0)).load(Ordering::Relaxed));
                let ballot = memory.word(block.ballot()).load(Ordering::Relaxed);
                assert!([0, ballot].contains(&inbox), "{inbox} is in an inbox of what is made on {}", actor.node);
            }
            for Held { plan, block } in &actor.held {
                let known = &self.known[*plan];
                let agreed = known.agreed.as_ref().expect("it is held");
                // What is on a node that is lost nobody asks for, and who has shut another out does not keep anything
                // for it.
                for (node, start) in agreed.iter().filter(|(node, _)| !self.is_lost(*node) && !self.is_lost(actor.node))
                {
                    let memory = &self.net.nodes[*node];
                    assert!(self.is_taken(*node, *start), "the block of {plan} on node {node} was given back");
                    let theirs = SpanLayout::new(*start, *block.schedule(), 1);
                    let ballot = memory.word(theirs.ballot()).load(Ordering::Relaxed);
                    assert_eq!(ballot, known.ballot, "the block of {plan} on node {node} is another's");
                }
                let inbox = memory.word(block.inbox(0, 0)).load(Ordering::Relaxed);
                assert!([0, known.ballot].contains(&inbox), "{inbox} is in the inbox of {plan} on {}", actor.node);
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_through = |actor: &Actor| actor.ahead.is_empty() && actor.held.is_empty() && actor.endings.is_empty();
        let survivors = || self.actors.iter().filter(|actor| !self.is_lost(actor.node));
        survivors().all(|actor| match actor.state {
            State::Alive => is_through(actor),
            State::Lost => false,
            State::Dead => true,
        }) && survivors().all(|actor| {
            let memory = &self.net.nodes[actor.node];
            self.known_by(actor.node) == self.log.len() && arena::taken(memory, &self.layout) == 0
        })
    }

    fn run(&mut self) {
        for _ in 0..4_000_000u32 {
            if self.is_over() {
                return self.tidy_up();
            }
            self.step();
            // What nobody goes on with is given up at last.
            for index in 0..self.actors.len() {
                if self.actors[index].ahead.is_empty() && self.actors[index].state != State::Dead {
                    self.give_up(index, Why::Unwanted, |_| true);
                }
            }
        }
        panic!("it never ends:\n{}", self.situation());
    }

    fn tidy_up(&mut self) {
        self.net.settle();
        let survivors = self.actors.iter().enumerate().filter(|(_, actor)| actor.state == State::Alive);
        for (index, actor) in survivors {
            assert_eq!(self.net.tickets_of(index), 0, "leader {index} has left tickets behind");
            let memory = &self.net.nodes[actor.node];
            assert_eq!(arena::taken(memory, &self.layout), 0, "node {} has not got its space back", actor.node);
            let named = Named { key: u64::MAX, call: 1 };
            for _ in 0..OFFERS {
                assert!(offers::offer(memory, &self.layout, actor.local, named, 0, 1).is_some(), "a place is lost");
            }
            assert!(offers::offer(memory, &self.layout, actor.local, named, 0, 1).is_none());
        }
    }

    fn situation(&self) -> String {
        let line = |(index, actor): (usize, &Actor)| {
            let (ahead, held, endings) = (actor.ahead.len(), actor.held.len(), &actor.endings);
            let Actor { node, making, state, .. } = actor;
            let (known, taken) = (self.known_by(*node), arena::taken(&self.net.nodes[*node], &self.layout));
            format!(
                "{index} on {node}, {state:?}, knows {known} of {:?}, {taken} taken: {ahead} ahead, {held} held, {making:?}, {endings:#?}\n",
                self.log
            )
        };
        self.actors.iter().enumerate().map(line).collect()
    }
}

fn play(seed: u64, nodes: usize, groups: usize, strikes: usize) {
    let mut random = Seeded::new(seed ^ 0x6105);
    let ranks = if strikes > 0 { 1 + random.below(3) } else { 1 + random.below(2) };
    let units = [3, 6, 60][random.below(3)] * formation::units_spanning(&Schedule::dissemination(nodes, 2), 1);
    let layout = NodeLayout::new(ranks, units * UNIT_WORDS);
    let memories: Vec<SimNode> = (0..nodes).map(|_| SimNode::new(layout.words())).collect();
    for memory in &memories {
        (0..ranks).for_each(|rank| memory.word(layout.job_rank(rank)).store(rank as u64, Ordering::Relaxed));
    }
    let net = Wires::new(memories, nodes * ranks, [0, 5, 50][random.below(3)], random.number());
    let net = net.with_stalls([0, 5000][random.below(2)]);
    let mut plan: Vec<Planned> = Vec::new();
    for number in 0..groups {
        // The same leaders again, as a later call.
        let again = plan.last().filter(|last| last.named.call < 3 && random.below(3) == 0).cloned();
        let planned =
            again.map(|Planned { leaders, named }| Planned { leaders, named: Named { call: named.call + 1, ..named } });
        plan.push(planned.unwrap_or_else(|| {
            let some = (0..nodes).filter(|_| random.below(3) > 0).collect::<Vec<usize>>();
            let some = if some.len() < 2 { vec![0, 1] } else { some };
            let leaders = some.into_iter().map(|node| node * ranks + random.below(ranks)).collect();
            Planned { leaders, named: Named { key: 100 + number as u64, call: 1 } }
        }));
    }
    let actor = |index: usize| {
        let ahead = (0..groups).filter(|group| plan[*group].leaders.contains(&index)).collect();
        let (making, begun, held, endings) = (None, BTreeMap::new(), Vec::new(), Vec::new());
        let (node, local, state) = (index / ranks, index % ranks, State::Alive);
        Actor { node, local, ahead, making, begun, held, endings, asleep_until: 0, state }
    };
    let actors = (0..nodes * ranks).map(actor).collect();
    let known = plan.iter().map(|_| Known::default()).collect();
    let unrest = [5, 20, 80][random.below(3)];
    let (numbers, steps, log, slowness) = (0, 0, Vec::new(), [50, 1000, 10_000][random.below(3)]);
    Play { net: &net, layout, actors, plan, known, random, numbers, steps, unrest, log, strikes, slowness }.run();
}

#[test]
fn leaders_agree_or_give_up_and_nothing_is_lost() {
    for_each_seed("groups", "leaders_agree_or_give_up_and_nothing_is_lost", 0..150, |seed| {
        play(seed, 2 + Seeded::new(seed ^ 0x77).below(3), 12, 0);
    });
}

#[test]
fn survivors_get_all_back_and_nothing_comes_late() {
    for_each_seed("groups", "survivors_get_all_back_and_nothing_comes_late", 0..150, |seed| {
        let nodes = 2 + Seeded::new(seed ^ 0x77).below(3);
        play(seed, nodes, 12, 1 + Seeded::new(seed ^ 0x99).below(4));
    });
}

/// Polls until something has come of it.
fn until<T>(net: &Wires, mut poll: impl FnMut() -> Poll<T>) -> T {
    for _ in 0..100_000 {
        if let Poll::Ready(value) = poll() {
            return value;
        }
        net.step();
    }
    panic!("nothing comes of it");
}

/// A leader votes and gives the group up, for `why`; then the other agrees. What the first finds when it calls again.
fn call_again_after(why: Why) -> Option<TakenBack> {
    let schedule = Schedule::dissemination(2, 2);
    let layout = NodeLayout::new(1, 4 * formation::units_spanning(&schedule, 1) * UNIT_WORDS);
    let net = Wires::new((0..2).map(|_| SimNode::new(layout.words())).collect(), 2, 0, 7);
    let named = Named { key: 9, call: 1 };
    let member = [Member { rank: 0, local: 0 }];
    let begin = |node: usize| {
        let made = formation::make_spanning(&net.nodes[node], &layout, schedule, &member, Algorithm::Flat);
        let (block, group) = (made.expect("it is empty"), 1 + node as u64);
        let own = Own { node, leader: 0, segment: layout, block, index: node, group, parent: 5 };
        Introductions::new(named, own, vec![Stranger { node: 1 - node, leader: 0, layout }])
    };
    let (mut quick, mut slow) = (begin(0), begin(1));
    let stage = || StageWord(net.nodes[1].word(layout.offer(0, 0).stage()).load(Ordering::Relaxed)).stage();
    assert!(quick.poll(&net.nodes[0], &net.of(0, 0)).is_pending());
    until(&net, || {
        assert!(slow.poll(&net.nodes[1], &net.of(1, 1)).is_pending());
        if stage() == Some(Stage::Voted) { Poll::Ready(()) } else { Poll::Pending }
    });
    let mut endings = vec![Ending::GivingUp(slow, why)];
    assert_eq!(until(&net, || quick.poll(&net.nodes[0], &net.of(0, 0))), Met::Agreed);
    let mut others = vec![Ending::Acknowledging(quick)];
    // The place is free again, whatever is kept.
    until(&net, || {
        for (node, endings) in [&mut others, &mut endings].into_iter().enumerate() {
            for ending in std::mem::take(endings) {
                ending.poll(&net.nodes[node], &layout, &net.of(node, node), &Losses::default(), endings);
            }
        }
        let is_awaited = endings.iter().any(|ending| ending.awaited() == Awaited::ByLeaders);
        if others.is_empty() && !is_awaited { Poll::Ready(()) } else { Poll::Pending }
    });
    for _ in 0..OFFERS {
        assert!(offers::offer(&net.nodes[1], &layout, 0, named, 0, 1).is_some(), "a place is lost");
    }
    let back = Ending::take_back(&mut endings, named, &net.of(1, 1));
    endings.iter_mut().for_each(|ending| ending.abandon(&net.of(1, 1)));
    back
}

#[test]
fn a_group_that_is_made_while_its_leader_makes_room_is_there_when_it_calls_again() {
    let Some(TakenBack::Begun(mut half)) = call_again_after(Why::Place) else { panic!("the group is lost") };
    let net = Wires::new(vec![SimNode::new(1), SimNode::new(1)], 2, 0, 7);
    assert_eq!(half.poll(&net.nodes[1], &net.of(1, 1)), Poll::Ready(Met::Agreed));
    assert!(matches!(call_again_after(Why::Space), Some(TakenBack::Missed)));
    assert!(call_again_after(Why::Unwanted).is_none());
}

/// A leader has died with a message on its way, and its neighbour has let go what it held. The other node learns of
/// that later than it learns that all have departed.
#[test]
fn a_block_is_kept_while_somebody_dead_may_still_write_into_it() {
    let schedule_for = |nodes| Schedule::dissemination(nodes, 2);
    let layout = NodeLayout::new(2, 4 * formation::units_spanning(&schedule_for(2), 1) * UNIT_WORDS);
    let net = Wires::new((0..2).map(|_| SimNode::new(layout.words())).collect(), 3, 0, 7);
    for memory in &net.nodes {
        (0..2).for_each(|rank| memory.word(layout.job_rank(rank)).store(rank as u64, Ordering::Relaxed));
    }
    let member = [Member { rank: 0, local: 0 }];
    let begin = |node: usize| {
        let made = formation::make_spanning(&net.nodes[node], &layout, schedule_for(2), &member, Algorithm::Flat);
        let (block, group) = (made.expect("it is empty"), 1 + node as u64);
        let own = Own { node, leader: 0, segment: layout, block, index: node, group, parent: 5 };
        Introductions::new(Named { key: 9, call: 1 }, own, vec![Stranger { node: 1 - node, leader: 0, layout }])
    };
    let mut leaders = [begin(0), begin(1)];
    let blocks = leaders.each_ref().map(Introductions::block);
    until(&net, || {
        let met = [0, 1].map(|node| leaders[node].poll(&net.nodes[node], &net.of(node, node)));
        if met == [Poll::Ready(Met::Agreed); 2] { Poll::Ready(()) } else { Poll::Pending }
    });
    leaders.iter_mut().enumerate().for_each(|(node, leader)| leader.abandon(&net.of(node, node)));
    // The leader of node 1 says something, and dies. Its node knows it, and departs.
    net.of(1, 1).write(0, blocks[0].inbox(0, 0), 1).expect("it is reached");
    net.hold_up(1, 1_000_000);
    net.nodes[1].word(header::EPOCH).store(1, Ordering::Release);
    let departed = burial::bury_abroad(&net.nodes[1], &layout, schedule_for, 1, |local| local == 0);
    assert_eq!(departed, [blocks[1]]);
    let mut heir = Farewell::of_departed(&net.nodes[1], blocks[1], 1, 1);
    let mut leaver = Farewell::of_member(&net.nodes[0], blocks[0], 0, 0, 0);
    let of_node_1 = Losses { epoch: 1, ranks: vec![(1, 0)], ..Losses::default() };
    for _ in 0..1000 {
        assert!(leaver.poll(&net.nodes[0], &layout, &net.of(0, 0), &Losses::default()).is_pending());
        assert!(heir.poll(&net.nodes[1], &layout, &net.of(2, 1), &of_node_1).is_pending(), "node 0 knows less");
        net.step();
    }
    assert_ne!(arena::taken(&net.nodes[0], &layout), 0);
    // Node 0 learns of it.
    net.cut(1, 0);
    net.nodes[0].word(header::EPOCH).store(1, Ordering::Release);
    until(&net, || leaver.poll(&net.nodes[0], &layout, &net.of(0, 0), &of_node_1));
    until(&net, || heir.poll(&net.nodes[1], &layout, &net.of(2, 1), &of_node_1));
    (0..2).for_each(|node| assert_eq!(arena::taken(&net.nodes[node], &layout), 0));
}
