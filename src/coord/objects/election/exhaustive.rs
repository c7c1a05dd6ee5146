//! Elections, tried exhaustively: every order of the steps of candidates and of one that watches, of whom any may die
//! at any moment, as the home may be lost. The lock, or lease, is taken for granted: a queue, which goes on when its
//! holder has died, or its time to live is over, and whose tokens grow.
//!
//! Each rank is on a node of its own, whose steward announces it anew at the next home. In which order a rank announces
//! itself, keeps its copy and looks at the home is written down here as `src/object/election.rs` does it.
//!
//! Apart from that some announce themselves at the same time, as those may who were stopped and come back when others
//! have gone on ([`Latecomers`]), also where terms are great.

use std::collections::VecDeque;

use super::{Announced, Announcement, Announcer, Announcing, ElectionAt, KeptAt, LeaderWord};
use crate::explorer::{Model, execute, go_every_way};
use crate::fabric::{Request, WordAt};

const AT: ElectionAt = ElectionAt { term: WordAt(0), leader: WordAt(1), watched: WordAt(2) };
const KEPT: KeptAt = KeptAt { term: WordAt(0), leader: WordAt(1) };
/// The first of the ranks' words, which say who watches.
const WATCHERS: usize = 3;
/// Terms after the home was lost are greater than all before.
const LIFE: u64 = 1 << 44;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// For the lock.
    Queued,
    Announcing,
    /// It is announced, and writes the first, or the second word of its copy.
    Keeping(usize),
    /// It looks whether the home is lost.
    Checking,
    Leading,
    /// Its copy goes.
    Forgetting,
    Withdrawing,
    /// It has done so where the home is lost, and does it again at the next one.
    Returning,
    /// It reads who watches.
    Poking,
    /// It watches: asks, or sleeps.
    Looking,
    Sleeping,
}

#[derive(Clone, Debug, Hash)]
struct Rank {
    phase: Phase,
    /// How often it is still to be elected, and whether it resigns the last time.
    left: u8,
    resigns: bool,
    may_withdraw: bool,
    term: u64,
    /// Its time to live is over, and somebody may have followed it.
    is_over: bool,
    announcer: Option<Announcer>,
    is_watched: bool,
    asked: VecDeque<Request>,
    answers: Vec<u64>,
    /// Whom it has asked.
    to: usize,
    /// Its node's copy of its announcement.
    kept: [u64; 2],
    /// Where its node has the election at home.
    home: usize,
    knows_loss: bool,
    moving: Moving,
    is_dead: bool,
    /// Who it knows to have died.
    known: Vec<bool>,
    is_poked: bool,
    /// What it has seen last, as a watcher.
    seen: Option<(usize, u64)>,
    greatest: u64,
}

/// How far a node's steward is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Moving {
    Nothing,
    Announcing {
        leader: (usize, u64),
        announcer: Announcer,
        asked: VecDeque<Request>,
        answers: Vec<u64>,
    },
    /// It looks whether the copy is still there.
    Checking((usize, u64)),
    Withdrawing((usize, u64)),
    /// All is there: ranks go by the new home.
    Settling,
    Done,
}

#[derive(Clone, Debug, Hash)]
struct World {
    homes: [Vec<u64>; 2],
    ranks: Vec<Rank>,
    holder: Option<usize>,
    queue: Vec<usize>,
    is_lost: bool,
    last_term: u64,
    /// Who was elected, by which term.
    elected: Vec<(usize, u64)>,
    deaths: u8,
    losses: u8,
    expiries: u8,
    /// The home that is lost executes what it is asked.
    lives_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Stand(usize),
    /// The lock is this rank's.
    Grant(usize),
    /// The first of its requests takes effect.
    Execute(usize),
    /// It goes on by itself.
    GoOn(usize),
    /// It asks the next home what it has asked the lost one.
    Retry(usize),
    Resign(usize),
    Withdraw(usize),
    /// One that watches looks again.
    Look(usize),
    Steward(usize),
    LearnLoss(usize),
    /// Who learns of whose death.
    Learn(usize, usize),
    Die(usize),
    /// The holder's time to live is over.
    Expire(usize),
    Lose,
}

impl World {
    /// Candidates, each with how often it leads and whether it resigns in the end; and one that watches.
    fn new(candidates: &[(u8, bool)]) -> Self {
        let count = candidates.len() + 1;
        let rank = |(left, resigns): (u8, bool)| Rank {
            phase: Phase::Idle,
            left,
            resigns,
            may_withdraw: false,
            term: 0,
            is_over: false,
            announcer: None,
            is_watched: false,
            asked: VecDeque::new(),
            answers: Vec::new(),
            to: 0,
            kept: [0; 2],
            home: 0,
            knows_loss: false,
            moving: Moving::Nothing,
            is_dead: false,
            known: vec![false; count],
            is_poked: false,
            seen: None,
            greatest: 0,
        };
        let mut ranks: Vec<Rank> = candidates.iter().copied().chain([(0, true)]).map(rank).collect();
        let watcher = ranks.last_mut().expect("one watches");
        (watcher.phase, watcher.is_poked) = (Phase::Sleeping, true);
        let words = vec![0; WATCHERS + count];
        Self {
            homes: [words.clone(), words],
            ranks,
            holder: None,
            queue: Vec::new(),
            is_lost: false,
            last_term: 0,
            elected: Vec::new(),
            deaths: 0,
            losses: 0,
            expiries: 0,
            lives_on: false,
        }
    }

    fn with_expiry(self) -> Self {
        Self { expiries: 1, ..self }
    }

    fn with_deaths(self, deaths: u8) -> Self {
        Self { deaths, ..self }
    }

    fn with_loss(self) -> Self {
        Self { losses: 1, ..self }
    }

    /// It is only taken for lost.
    fn with_false_loss(self) -> Self {
        Self { losses: 1, lives_on: true, ..self }
    }

    fn with_doubts(mut self) -> Self {
        self.ranks.iter_mut().for_each(|rank| rank.may_withdraw = true);
        self
    }

    fn watcher(&self) -> usize {
        self.ranks.len() - 1
    }

    fn ask(&mut self, index: usize, requests: Vec<Request>) {
        let rank = &mut self.ranks[index];
        rank.to = rank.home;
        rank.asked = requests.into();
        rank.answers.clear();
    }

    /// Asks for what belongs to a rank's phase.
    fn begin(&mut self, index: usize, phase: Phase) {
        let ranks = self.ranks.len();
        let rank = &mut self.ranks[index];
        rank.phase = phase;
        let requests = match phase {
            Phase::Announcing => {
                let (announcer, requests) = Announcer::begin(AT, index, rank.term);
                rank.announcer = Some(announcer);
                requests
            }
            Phase::Withdrawing => AT.withdraw(index, rank.term).to_vec(),
            Phase::Poking => (0..ranks).map(|rank| Request::Read { at: WordAt(WATCHERS + rank) }).collect(),
            Phase::Looking => AT.look(Some(WordAt(WATCHERS + index))),
            _ => unreachable!("nothing is asked then"),
        };
        self.ask(index, requests);
    }

    /// All is answered.
    fn answered(&mut self, index: usize) {
        let rank = &mut self.ranks[index];
        let answers = std::mem::take(&mut rank.answers);
        match rank.phase {
            Phase::Announcing => match rank.announcer.as_mut().expect("it announces itself").answered(&answers) {
                Announced::Ask(requests) => self.ask(index, requests),
                Announced::Done { is_watched } => {
                    rank.is_watched |= is_watched;
                    rank.phase = Phase::Keeping(0);
                }
                Announced::Superseded if rank.is_over => rank.phase = Phase::Forgetting,
                Announced::Superseded => panic!("rank {index} was not followed"),
            },
            // What was announced at the next home is to be taken back there.
            Phase::Withdrawing if rank.knows_loss && rank.to == 0 => rank.phase = Phase::Returning,
            Phase::Withdrawing => {
                self.holder = self.holder.filter(|holder| *holder != index);
                let is_watched = answers[1] != 0;
                self.after_withdrawal(index, is_watched);
            }
            Phase::Poking => {
                for (other, watches) in answers.into_iter().enumerate() {
                    self.ranks[other].is_poked |= watches != 0;
                }
                self.after_poking(index);
            }
            Phase::Looking => self.see(index, [answers[0], answers[1]]),
            phase => unreachable!("nothing was asked: {phase:?}"),
        }
    }

    fn after_withdrawal(&mut self, index: usize, is_watched: bool) {
        self.ranks[index].term = 0;
        match is_watched {
            true => self.begin(index, Phase::Poking),
            false => self.ranks[index].phase = Phase::Idle,
        }
    }

    fn after_poking(&mut self, index: usize) {
        let rank = &mut self.ranks[index];
        rank.phase = if rank.term == 0 { Phase::Idle } else { Phase::Leading };
    }

    fn see(&mut self, index: usize, answers: [u64; 2]) {
        let rank = &mut self.ranks[index];
        let leader = Announcement::of(answers).leader().filter(|(leader, _)| !rank.known[*leader]);
        if let Some((leader, term)) = leader {
            assert!(self.elected.contains(&(leader, term)), "rank {leader} was not elected by term {term:#x}");
            assert!(rank.greatest <= term, "term {term:#x} is seen after {:#x}", rank.greatest);
            rank.greatest = term;
        }
        (rank.seen, rank.phase) = (leader, Phase::Sleeping);
    }

    fn go_on(&mut self, index: usize) {
        let rank = &mut self.ranks[index];
        match rank.phase {
            Phase::Keeping(word) => {
                match KEPT.keep(rank.kept, index, rank.term) {
                    Announcing::Ask(swaps) => drop(execute(&mut rank.kept, swaps[word])),
                    Announcing::Done => {}
                    Announcing::Superseded => panic!("no other rank of its node"),
                }
                rank.phase = if word == 0 { Phase::Keeping(1) } else { Phase::Checking };
            }
            Phase::Checking if rank.is_over => self.renew(index),
            Phase::Checking if rank.knows_loss && rank.to == 0 => self.begin(index, Phase::Announcing),
            Phase::Checking => {
                let is_watched = std::mem::take(&mut rank.is_watched);
                let leads = |other: &Rank| other.phase == Phase::Leading && !other.is_dead && !other.is_over;
                assert!(!self.ranks.iter().any(leads), "rank {index} leads beside another one");
                match is_watched {
                    true => self.begin(index, Phase::Poking),
                    false => self.ranks[index].phase = Phase::Leading,
                }
            }
            Phase::Forgetting => {
                execute(&mut rank.kept, KEPT.forget(index, rank.term));
                self.begin(index, Phase::Withdrawing);
            }
            Phase::Returning => self.begin(index, Phase::Withdrawing),
            phase => unreachable!("it waits: {phase:?}"),
        }
    }

    /// It finds that its time is over: goes on where nobody has followed it, or gives up.
    fn renew(&mut self, index: usize) {
        let rank = &mut self.ranks[index];
        if self.holder.is_none() && rank.term == self.last_term {
            rank.is_over = false;
            self.holder = Some(index);
        } else {
            rank.phase = Phase::Forgetting;
        }
    }

    fn kept(&self, index: usize) -> Option<(usize, u64)> {
        let rank = &self.ranks[index];
        Announcement::of(rank.kept).leader().filter(|_| !rank.is_dead && !rank.is_over)
    }

    /// A node's steward goes on: what its rank had announced is announced at the next home.
    fn go_on_moving(&mut self, index: usize) {
        let kept = self.kept(index);
        let next = match self.ranks[index].moving.clone() {
            Moving::Nothing => match kept {
                None => Moving::Settling,
                Some((rank, term)) => {
                    let (announcer, asked) = Announcer::begin(AT, rank, term);
                    let (asked, answers) = (asked.into(), Vec::new());
                    Moving::Announcing { leader: (rank, term), announcer, asked, answers }
                }
            },
            Moving::Announcing { leader, mut announcer, mut asked, mut answers } => {
                let request = asked.pop_front().expect("something is asked");
                answers.extend(execute(&mut self.homes[1], request));
                match asked.is_empty().then(|| announcer.answered(&answers)) {
                    None => Moving::Announcing { leader, announcer, asked, answers },
                    Some(Announced::Ask(requests)) => {
                        Moving::Announcing { leader, announcer, asked: requests.into(), answers: Vec::new() }
                    }
                    Some(Announced::Done { .. } | Announced::Superseded) => Moving::Checking(leader),
                }
            }
            Moving::Checking(leader) if kept == Some(leader) => Moving::Settling,
            Moving::Checking(leader) => Moving::Withdrawing(leader),
            Moving::Withdrawing((rank, term)) => {
                execute(&mut self.homes[1], AT.withdraw(rank, term)[0]);
                Moving::Settling
            }
            Moving::Settling => {
                self.ranks[index].home = 1;
                Moving::Done
            }
            Moving::Done => unreachable!("it is done"),
        };
        self.ranks[index].moving = next;
    }

    /// The lock can become this rank's.
    fn is_next(&self, index: usize) -> bool {
        let known = &self.ranks[index].known;
        let is_free = self.holder.is_none_or(|holder| known[holder]);
        is_free && self.queue.iter().find(|other| !known[**other]) == Some(&index)
    }

    fn events_of(&self, index: usize, events: &mut Vec<Event>) {
        let rank = &self.ranks[index];
        let is_served = rank.to == 1 || !self.is_lost || self.lives_on;
        if !rank.asked.is_empty() && is_served {
            events.push(Event::Execute(index));
        }
        // A node lives longer than its rank.
        if self.is_lost && !rank.knows_loss {
            events.push(Event::LearnLoss(index));
        }
        if rank.knows_loss && rank.moving != Moving::Done {
            events.push(Event::Steward(index));
        }
        if rank.is_dead {
            return;
        }
        let is_unknown = |other: &usize| self.ranks[*other].is_dead && !rank.known[*other];
        events.extend((0..self.ranks.len()).filter(is_unknown).map(|other| Event::Learn(index, other)));
        if !rank.asked.is_empty() && rank.to == 0 && rank.home == 1 {
            events.push(Event::Retry(index));
        }
        match rank.phase {
            Phase::Idle if rank.left > 0 => events.push(Event::Stand(index)),
            Phase::Queued if self.is_next(index) => events.push(Event::Grant(index)),
            Phase::Keeping(_) | Phase::Forgetting => events.push(Event::GoOn(index)),
            Phase::Returning if rank.home == 1 => events.push(Event::GoOn(index)),
            // It waits for the next home.
            Phase::Checking if rank.knows_loss && rank.to == 0 && rank.home == 0 => {}
            Phase::Checking => events.push(Event::GoOn(index)),
            Phase::Leading if rank.resigns || rank.left > 0 || rank.is_over => events.push(Event::Resign(index)),
            Phase::Sleeping if rank.is_poked => events.push(Event::Look(index)),
            _ => {}
        }
        if rank.may_withdraw && rank.phase == Phase::Queued {
            events.push(Event::Withdraw(index));
        }
        if self.expiries > 0 && self.holder == Some(index) {
            events.push(Event::Expire(index));
        }
        if self.deaths > 0 && index != self.watcher() {
            events.push(Event::Die(index));
        }
    }

    /// What has to happen if nobody dies or changes their mind.
    fn is_due(&self, event: Event) -> bool {
        match event {
            Event::Die(_) | Event::Expire(_) | Event::Lose | Event::Withdraw(_) => false,
            Event::Execute(index) => !self.ranks[index].is_dead,
            _ => true,
        }
    }

    fn due(&self) -> Option<Event> {
        self.events().into_iter().find(|event| self.is_due(*event))
    }

    /// Nothing more has to happen: nobody waits for what will not come, and who watches knows who leads.
    fn check_end(&self, way: &[Event]) {
        let leads = |rank: &Rank| rank.phase == Phase::Leading && !rank.is_dead && !rank.is_over;
        let leader = self.ranks.iter().position(leads);
        for (index, rank) in self.ranks.iter().enumerate().filter(|(_, rank)| !rank.is_dead) {
            let may_wait = rank.phase == Phase::Queued && leader.is_some();
            let is_at_rest = matches!(rank.phase, Phase::Idle | Phase::Leading | Phase::Sleeping);
            assert!(is_at_rest || may_wait, "rank {index} is stuck: {way:?}\n{self:#?}");
        }
        let mut world = self.clone();
        // A poke may be lost with who dies, or with the home: then it looks by itself after a while.
        if self.is_lost || self.ranks.iter().any(|rank| rank.is_dead) {
            let watcher = world.watcher();
            world.ranks[watcher].is_poked = true;
            while let Some(event) = world.due() {
                world.apply(event);
            }
        }
        let known = world.ranks[world.watcher()].seen;
        let leads = leader.map(|leader| (leader, self.ranks[leader].term));
        assert_eq!(known, leads, "a change was missed: {way:?}\n{self:#?}");
    }
}

impl Model for World {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.losses > 0 {
            events.push(Event::Lose);
        }
        (0..self.ranks.len()).for_each(|rank| self.events_of(rank, &mut events));
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Stand(index) => {
                self.ranks[index].left -= 1;
                self.ranks[index].phase = Phase::Queued;
                self.queue.push(index);
            }
            Event::Grant(index) => {
                let known = self.ranks[index].known.clone();
                self.queue.retain(|other| *other != index && !known[*other]);
                self.holder = Some(index);
                let least = if self.is_lost { LIFE } else { 0 };
                self.last_term = least.max(self.last_term + 1);
                self.elected.push((index, self.last_term));
                (self.ranks[index].term, self.ranks[index].is_over) = (self.last_term, false);
                self.begin(index, Phase::Announcing);
            }
            Event::Execute(index) => {
                let rank = &mut self.ranks[index];
                let request = rank.asked.pop_front().expect("it has asked");
                rank.answers.extend(execute(&mut self.homes[rank.to], request));
                if rank.asked.is_empty() && !rank.is_dead {
                    self.answered(index);
                }
            }
            Event::GoOn(index) => self.go_on(index),
            Event::Retry(index) => match self.ranks[index].phase {
                // Those who watch look by themselves.
                Phase::Poking => {
                    self.ranks[index].asked.clear();
                    self.after_poking(index);
                }
                // It asks at the next home only where it still leads.
                Phase::Announcing if self.ranks[index].is_over => {
                    self.renew(index);
                    if self.ranks[index].phase == Phase::Forgetting {
                        self.ranks[index].asked.clear();
                    }
                }
                phase => self.begin(index, phase),
            },
            Event::Resign(index) => self.ranks[index].phase = Phase::Forgetting,
            Event::Withdraw(index) => {
                let rank = &mut self.ranks[index];
                (rank.may_withdraw, rank.phase) = (false, Phase::Idle);
                self.queue.retain(|other| *other != index);
            }
            Event::Look(index) => {
                self.ranks[index].is_poked = false;
                self.begin(index, Phase::Looking);
            }
            Event::Steward(index) => self.go_on_moving(index),
            Event::LearnLoss(index) => {
                self.ranks[index].knows_loss = true;
                self.ranks[index].is_poked = true;
            }
            Event::Learn(index, other) => {
                self.ranks[index].known[other] = true;
                self.ranks[index].is_poked = true;
            }
            Event::Die(index) => {
                self.deaths -= 1;
                self.ranks[index].is_dead = true;
            }
            Event::Expire(index) => {
                self.expiries -= 1;
                self.ranks[index].is_over = true;
                self.holder = None;
            }
            Event::Lose => {
                self.losses -= 1;
                self.is_lost = true;
            }
        }
    }
}

fn check(world: World) {
    let (mut states, mut ends) = (0, 0);
    go_every_way(world, |world, way| {
        states += 1;
        if world.due().is_none() {
            ends += 1;
            world.check_end(way);
        }
    });
    assert!(ends > 0);
    println!("{states} states, {ends} of them ends");
}

#[test]
fn who_watches_misses_no_last_change() {
    check(World::new(&[(2, true), (1, false)]));
    check(World::new(&[(1, true), (1, true)]).with_doubts());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn a_leader_dies_at_any_moment_and_the_next_is_elected() {
    check(World::new(&[(1, false), (1, false)]).with_deaths(1));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn the_home_is_lost_at_any_moment() {
    check(World::new(&[(1, false)]).with_loss());
    check(World::new(&[(1, true)]).with_loss());
    check(World::new(&[(1, false)]).with_deaths(1).with_loss());
    check(World::new(&[(1, true)]).with_false_loss());
}

#[test]
fn who_has_let_its_time_pass_is_followed_and_spoils_nothing() {
    check(World::new(&[(1, false), (1, false)]).with_expiry());
    check(World::new(&[(2, false)]).with_expiry());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn the_home_is_lost_as_one_lets_its_time_pass() {
    check(World::new(&[(1, false)]).with_expiry().with_loss());
    check(World::new(&[(1, false), (1, false)]).with_expiry().with_deaths(1));
}

#[test]
#[ignore = "minutes without optimization, 28 million states"]
fn the_home_is_lost_as_one_follows_who_let_its_time_pass() {
    check(World::new(&[(1, false), (1, false)]).with_expiry().with_loss());
}

#[test]
#[ignore = "more than a minute without optimization, more than a million states"]
fn the_home_is_lost_as_one_follows_the_other() {
    check(World::new(&[(1, true), (1, false)]).with_loss());
    check(World::new(&[(1, true), (1, false)]).with_deaths(1));
}

/// One that has been elected, on its way to being announced.
#[derive(Clone, Debug, Hash)]
struct Elected {
    rank: usize,
    term: u64,
    announcer: Announcer,
    asked: VecDeque<Request>,
    answers: Vec<u64>,
    /// Whether it was announced, or superseded; `None` until then.
    end: Option<bool>,
}

impl Elected {
    fn new(rank: usize, term: u64) -> Self {
        let (announcer, asked) = Announcer::begin(AT, rank, term);
        Self { rank, term, announcer, asked: asked.into(), answers: Vec::new(), end: None }
    }

    /// One request takes effect.
    fn step(&mut self, words: &mut [u64; 3]) {
        self.answers.extend(execute(words, self.asked.pop_front().expect("it is not at its end")));
        if !self.asked.is_empty() {
            return;
        }
        match self.announcer.answered(&std::mem::take(&mut self.answers)) {
            Announced::Ask(requests) => self.asked = requests.into(),
            Announced::Done { .. } => self.end = Some(true),
            Announced::Superseded => self.end = Some(false),
        }
    }
}

/// Some who announce themselves at the same home at the same time, each of which may stop anywhere.
#[derive(Clone, Debug, Hash)]
struct Latecomers {
    words: [u64; 3],
    elected: Vec<Elected>,
}

impl Model for Latecomers {
    type Event = usize;

    fn events(&self) -> Vec<usize> {
        (0..self.elected.len()).filter(|index| self.elected[*index].end.is_none()).collect()
    }

    fn apply(&mut self, index: usize) {
        let before = self.words;
        self.elected[index].step(&mut self.words);
        assert!(before[0] <= self.words[0], "terms grow");
        // Who has read the first word before the step, and reads the second one now.
        let torn = Announcement::of([before[0], self.words[1]]).leader();
        let whole = [before, self.words].map(leader_in);
        assert!(torn.is_none() || whole.contains(&torn), "{torn:?}");
    }
}

impl Latecomers {
    fn check(&self) {
        let last = self.elected.iter().max_by_key(|one| one.term).expect("some");
        if last.end == Some(true) {
            assert_eq!(leader_in(self.words), Some((last.rank, last.term)), "nobody spoils the last announcement");
        }
        // Whatever the others have left, the last one is announced if it alone goes on.
        let (mut words, mut alone) = (self.words, last.clone());
        while alone.end.is_none() {
            alone.step(&mut words);
        }
        assert_eq!((alone.end, leader_in(words)), (Some(true), Some((alone.rank, alone.term))));
    }
}

fn leader_in(words: [u64; 3]) -> Option<(usize, u64)> {
    Announcement::of([words[0], words[1]]).leader()
}

/// Tries every order of their steps; gives the number of states.
fn announce_all(announced: [u64; 2], elected: Vec<Elected>) -> usize {
    let mut states = 0;
    go_every_way(Latecomers { words: [announced[0], announced[1], 0], elected }, |latecomers, _| {
        states += 1;
        latecomers.check();
    });
    states
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten seconds without optimization")]
fn whoever_is_late_spoils_nothing_in_all_orders_of_steps() {
    let lasts = [(1 << LeaderWord::TERM_BITS) - 2, 6, 41, (7 << 44) + 5];
    // Also after the home was lost, and where the lower bits begin anew.
    let steps = [[1, 2, 3], [1, LIFE, LIFE + 1], [LIFE - 3, 2 * LIFE, 3 * LIFE]];
    for (last, steps) in lasts.into_iter().flat_map(|last| steps.map(|steps| (last, steps))) {
        let announced = [last, LeaderWord::led_by(9, last).0];
        for words in [announced, [last, LeaderWord::resigned(last).0], [0, 0]] {
            let elected: Vec<_> = (1..4).zip(steps).map(|(rank, step)| Elected::new(rank, last + step)).collect();
            let states = announce_all(words, elected[..2].to_vec()) + announce_all(words, elected);
            assert!(states > 1000, "{states}");
        }
    }
    announce_all([0, 0], vec![Elected::new(0, 1), Elected::new(1, 2)]);
}
