//! A node's hold of a lock that readers share ([`super::sharing`]): one part at the home for all ranks of the node that
//! read.
//!
//! The first of a node away from the home that reads opens the hold, with a round trip; others join it without asking
//! the home, and the last one that leaves closes it. Two sorts of words of the node say how it stands. The *hold* word
//! is changed by compare-and-swap, and never the same twice: nothing, opened by a rank, waiting for the end of a
//! writer's phase, open, closed by a rank, abandoned by a rank. Whoever opens or closes it is the only one that writes
//! the node's part meanwhile. And each rank has its *stake*, which it alone writes: whether it shares the hold or is
//! about to, or wants to later.
//!
//! | call | on the node | requests | round trips |
//! | --- | --- | --- | --- |
//! | read, the hold is open | write the stake; swap the hold | | 0 |
//! | read, there is none | write the stake; swap the hold before and after | write the node's part; read the phase | 1 |
//! | stop reading, others share it | write the stake; read the hold and the other stakes | | 0 |
//! | stop reading, as the last one | likewise; swap the hold before and after | write the node's part; read the phase; have its writer look | 1 |
//!
//! *Nobody is left out.* Who joins writes its stake and then swaps the hold; who closes reads the hold, then the
//! stakes, and then swaps what it has read: either it has seen the stake, or one of the two swaps fails, and its rank
//! begins anew. Who waits for the hold to change writes its stake and then reads the hold; who changes it reads the
//! stakes after that, and has those look that share it or want to.
//!
//! *A writer is there* when the hold is opened: its part waits for the end of that phase, and so do all that join it.
//! One of them is called when the phase is over, which opens the hold for all.
//!
//! *Fairness.* When [`MOST_JOINED`] have joined, the next one asks the home first. If a writer is there it does not
//! join but waits until the hold is closed, and then opens another one, for the time after that writer. So a writer
//! waits, of each node, for those who read when it comes and for [`MOST_JOINED`] more at most. That writer may give up
//! while the node reads on, and then has nobody look: so the reader that waits looks at the phase by itself, soon at
//! first, and each time after twice as long.
//!
//! *Aside.* Who meets a hold that is being opened or closed waits for that, but not for long ([`NEIGHBOUR_LIMIT`]): if
//! its rank is stopped, say, the waiting one reads by a part of its own, as if the node had no hold.
//!
//! *Death.* Stakes of ranks that have ended count for nothing. A hold that nobody shares any more, or that a rank was
//! opening or closing that has ended, is closed by the node's steward: after nothing of that rank can arrive at the
//! home any more. Only it does so, since others do not wait for it: they join, or go aside. What a rank does that was
//! declared failed and comes back fails, by the words that are never the same.
//!
//! *The home does not answer.* Who gives up while it asks clears its stake. If it was opening or closing the hold it
//! swaps it to abandoned, and has those look that wait: all go aside, until the home is heard. Then it clears the
//! node's part, behind all that it has asked before.
//!
//! *The home is lost.* The node's steward carries an open hold to the next home, and sets all others to nothing:
//! whoever was opening or closing one finds the word changed, and begins anew, or is through. A rank that has joined
//! before or after that swap has joined what was carried.
//!
//! The machine here posts nothing, and each of its steps is one access to a word of the node's memory. Its states are
//! in `shared_hold/state.rs`, the words in `shared_hold/word.rs`.

#[cfg(all(test, not(model)))]
mod exhaustive;
mod state;
mod word;

use std::time::Duration;

use self::state::{After, State, Then};
pub use self::word::{SharedAt, SharedWord, Stand};
use super::sharing::{Called, PartWord, PhaseWord, Sharing, SharingAt};
use crate::fabric::{Memory, Request};
use crate::sync::{Ordering, full_fence_after_rmw, publish};

/// So many join a hold before the home is asked whether a writer waits.
pub const MOST_JOINED: u64 = if cfg!(test) { 1 } else { 64 };

/// How long a rank waits at most for another one that opens or closes the hold.
pub const NEIGHBOUR_LIMIT: Duration = Duration::from_millis(20);

/// Who makes room for a writer looks after so long whether that is there yet.
pub const FIRST_LOOK: Duration = Duration::from_millis(1);

/// What a machine wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HoldTurn {
    /// To make its next step.
    Step,
    /// These requests to the home, in order, and then their answers.
    Ask(Vec<Request>),
    /// That nothing of this rank, by its place on the node, which has ended, can arrive at the home any more. Of
    /// stewards.
    Outlive(usize),
    /// Nothing, until this rank is to look.
    Wait,
    /// This rank reads.
    In,
    /// It has nothing to do with the hold, and is to read by a part of its own. Its stake says that already.
    Aside,
    /// It has nothing to do with the hold.
    Out,
}

/// What a rank waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The end of a phase, whose writer was seen to be this one.
    Phase(Option<usize>),
    /// That the rank at this place of the node has opened or closed the hold.
    Neighbour(usize),
    /// That the hold is closed, for this writer, or that it has given up.
    Room(Option<usize>),
}

impl Awaited {
    /// The rank of the job that is waited for, as far as that is known.
    pub const fn writer(self) -> Option<usize> {
        match self {
            Self::Phase(writer) | Self::Room(writer) => writer,
            Self::Neighbour(_) => None,
        }
    }

    /// After how long the rank is to look that has waited for this for so long, if nobody has it look before.
    pub fn patience(self, waited: Duration) -> Duration {
        match self {
            Self::Phase(_) => Duration::MAX,
            Self::Neighbour(_) => NEIGHBOUR_LIMIT.saturating_sub(waited),
            Self::Room(_) => waited.max(FIRST_LOOK),
        }
    }
}

/// One rank's share of its node's hold, or a steward's work on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedHold {
    at: SharedAt,
    me: usize,
    /// Whether it is the steward in the process of that rank.
    is_steward: bool,
    is_patient: bool,
    state: State,
    /// Who writes, as was seen last.
    writer: Option<usize>,
}

impl SharedHold {
    /// The share of the rank at place `me` of the node, which has none.
    pub const fn new(at: SharedAt, me: usize) -> Self {
        Self { at, me, is_steward: false, is_patient: true, state: State::Out, writer: None }
    }

    /// The beginning of what a steward does after deaths: a hold that nobody uses any more is closed.
    pub const fn sweep(at: SharedAt, me: usize) -> Self {
        Self { is_steward: true, state: State::Leaving { then: Then::Out }, ..Self::new(at, me) }
    }

    /// The beginning of what a steward does when the home is lost: the hold is carried to this one, `at` says where.
    pub const fn carry(at: SharedAt, me: usize) -> Self {
        Self { is_steward: true, state: State::Carrying, ..Self::new(at, me) }
    }

    /// Begins to read. The rank does not share the hold. Where it is not patient it does not wait for another rank of
    /// the node.
    pub fn read(&mut self, is_patient: bool) -> HoldTurn {
        self.is_patient = is_patient;
        self.go(State::Saying)
    }

    /// Begins to give up what the rank has or waits for.
    ///
    /// # Panics
    ///
    /// In the middle of something: a bug of the caller.
    pub fn leave(&mut self) -> HoldTurn {
        match self.state {
            State::Reading | State::Waiting | State::Beside { .. } | State::Yielded => {
                self.go(State::Unsaying { then: Then::Out })
            }
            _ => panic!("only who has something, or waits, gives it up"),
        }
    }

    /// Begins to give up where the answers have not come to what was asked: nobody knows how far that came. What is
    /// asked from now on comes behind it.
    ///
    /// # Panics
    ///
    /// When nothing was asked, or by who carries a hold: a bug of the caller.
    pub fn abandon(&mut self) -> HoldTurn {
        let state = match self.state {
            // A steward has no stake: what its rank has is another matter.
            State::Clearing { mine, .. } if self.is_steward => State::Abandoning { mine },
            State::Opening { mine } | State::Registering { mine, .. } | State::Clearing { mine, .. } => {
                State::Disowning { mine }
            }
            State::Inquiring { .. } | State::Watching { .. } | State::Following { .. } => {
                State::Unsaying { then: Then::Out }
            }
            _ => panic!("only what was asked is given up so"),
        };
        self.go(state)
    }

    /// Whether others wait for it to close the hold, which it is asking for: until it abandons that.
    pub const fn is_waited_for(&self) -> bool {
        matches!(self.state, State::Clearing { mine, .. } if matches!(mine.stand(), Stand::Closing(_)))
    }

    /// Looks, where it waits, and has waited for what it waits for so long.
    pub fn look(&mut self, waited: Duration) -> HoldTurn {
        match self.state {
            State::Waiting => self.go(State::Looking),
            State::Beside { seen } => self.go(State::Peering { seen, is_late: waited >= NEIGHBOUR_LIMIT }),
            State::Yielded => self.go(State::Saying),
            _ => HoldTurn::Wait,
        }
    }

    /// Whether this rank reads.
    pub fn is_reading(&self) -> bool {
        self.state == State::Reading
    }

    /// What it waits for, where it does.
    pub fn awaited(&self) -> Option<Awaited> {
        match self.state {
            State::Waiting => Some(Awaited::Phase(self.writer)),
            State::Beside { seen } => seen.stand().in_charge().map(Awaited::Neighbour),
            State::Yielded => Some(Awaited::Room(self.writer)),
            _ => None,
        }
    }

    /// Goes on where what was asked for is lost with its home, at the next one, to which the node's hold has been
    /// carried.
    ///
    /// # Panics
    ///
    /// When nothing was asked: a bug of the caller.
    pub fn restart(&mut self, home: SharingAt) -> HoldTurn {
        self.at.home = home;
        let state = match self.state {
            State::Opening { mine } | State::Registering { mine, .. } => State::Reopening { mine },
            State::Clearing { mine, then } => State::Reclosing { mine, then },
            State::Inquiring { .. } | State::Watching { .. } | State::Following { .. } => State::Finding,
            _ => panic!("only what was asked is lost"),
        };
        self.go(state)
    }

    /// As it is at the next home, while nothing is asked.
    pub const fn set_home(&mut self, home: SharingAt) {
        self.at.home = home;
    }

    /// Makes the next step: one access to a word of this node. `has_ended`: which ranks of it have, by their places;
    /// `poke` has a rank look.
    ///
    /// # Panics
    ///
    /// When no step is to be made: a bug of the caller.
    #[inline]
    pub fn step(
        &mut self,
        memory: &impl Memory,
        has_ended: impl Fn(usize) -> bool,
        poke: impl FnMut(Called),
    ) -> HoldTurn {
        match self.state {
            State::Saying => {
                self.say(memory, Sharing::SHARES);
                self.go(State::Finding)
            }
            State::Finding => {
                let seen = self.load(memory);
                self.found(seen, has_ended)
            }
            State::Joining { seen, joined } => self.join(memory, seen, joined),
            State::Unsaying { then } => {
                let stake = match then {
                    Then::Out => Sharing::NO_STAKE,
                    Then::Aside => Sharing::READS,
                    Then::Yield => Sharing::WANTS,
                };
                self.say(memory, stake);
                self.go(State::Leaving { then })
            }
            State::Leaving { then } => {
                let seen = self.load(memory);
                self.leave_as(seen, then, has_ended)
            }
            State::Counting { seen, next, then } => match self.shares(memory, next, has_ended) {
                true => self.left(then),
                false if next + 1 == self.at.ranks => self.go(State::Closing { seen, then }),
                false => self.go(State::Counting { seen, next: next + 1, then }),
            },
            _ => self.step_seldom(memory, has_ended, poke),
        }
    }

    #[cold]
    fn step_seldom(
        &mut self,
        memory: &impl Memory,
        has_ended: impl Fn(usize) -> bool,
        poke: impl FnMut(Called),
    ) -> HoldTurn {
        match self.state {
            State::Claiming { seen } => match self.swap(memory, seen, Stand::Opening(self.me)) {
                Some(mine) => self.open(mine),
                None => self.go(State::Finding),
            },
            State::Peering { seen, is_late } => match self.load(memory) {
                same if same == seen && is_late => self.go(State::Unsaying { then: Then::Aside }),
                other => self.found(other, has_ended),
            },
            State::Opened { mine, stand, after } => match self.swap(memory, mine, stand) {
                Some(_) => self.go(State::Calling { next: 0, after }),
                // It was carried to another home.
                None => self.go(State::Finding),
            },
            State::Reopening { mine } => match self.load(memory) == mine {
                true => self.open(mine),
                false => self.go(State::Finding),
            },
            State::Looking => {
                let seen = self.load(memory);
                match seen.stand() {
                    Stand::Open { .. } => self.read_on(),
                    Stand::Waiting => {
                        self.state = State::Watching { seen };
                        HoldTurn::Ask(vec![Request::Read { at: self.at.part() }, self.at.home.read_phase()])
                    }
                    Stand::Nothing | Stand::Opening(_) | Stand::Closing(_) | Stand::Abandoned(_) => {
                        self.found(seen, has_ended)
                    }
                }
            }
            State::Entering { seen } => match self.swap(memory, seen, Stand::Open { joined: 0 }) {
                Some(_) => self.go(State::Calling { next: 0, after: After::In }),
                None => self.go(State::Looking),
            },
            State::Calling { next, after } => self.call(memory, next, after, has_ended, poke),
            State::Closing { seen, then } => match self.swap(memory, seen, Stand::Closing(self.me)) {
                Some(mine) => self.clear(mine, then),
                None => self.go(State::Leaving { then }),
            },
            State::Closed { mine, then } => {
                // Unless it was carried.
                let _ = self.swap(memory, mine, Stand::Nothing);
                self.go(State::Calling { next: 0, after: After::Left(then) })
            }
            State::Disowning { mine } => {
                self.say(memory, Sharing::NO_STAKE);
                self.go(State::Abandoning { mine })
            }
            State::Abandoning { mine } => match self.swap(memory, mine, Stand::Abandoned(self.me)) {
                Some(mine) => self.go(State::Calling { next: 0, after: After::Reclose(mine) }),
                // It was carried to another home. There may be another one by now, whose sharers took this rank for one
                // of them before it wrote its stake.
                None => self.go(State::Leaving { then: Then::Out }),
            },
            State::Reclosing { mine, then } => match self.load(memory) == mine {
                true => self.clear(mine, then),
                // As above.
                false => self.go(State::Leaving { then }),
            },
            State::Carrying => {
                let seen = self.load(memory);
                match seen.stand() {
                    Stand::Open { .. } => self.go(State::Weighing { seen, next: 0 }),
                    _ => self.tell(seen, Stand::Nothing),
                }
            }
            State::Weighing { seen, next } => match self.shares(memory, next, has_ended) {
                true => self.tell(seen, seen.stand()),
                false if next + 1 == self.at.ranks => self.tell(seen, Stand::Nothing),
                false => self.go(State::Weighing { seen, next: next + 1 }),
            },
            State::Told { seen, stand } => match self.swap(memory, seen, stand) {
                Some(_) => self.go(State::Calling { next: 0, after: After::Left(Then::Out) }),
                None => self.go(State::Carrying),
            },
            _ => panic!("there is no step to be made"),
        }
    }

    /// Goes on with the answers to what was asked. `has_ended`: which ranks of the job have; `poke` has a rank look.
    ///
    /// # Panics
    ///
    /// When there are not as many answers as were asked for: a bug of the caller.
    pub fn answered(
        &mut self,
        answers: &[u64],
        has_ended: impl Fn(usize) -> bool,
        mut poke: impl FnMut(Called),
    ) -> HoldTurn {
        let phase = PhaseWord(*answers.last().expect("something was asked"));
        match self.state {
            State::Opening { mine } => {
                self.writer = phase.writer();
                if self.writer.is_none() {
                    let stand = Stand::Open { joined: 0 };
                    return self.go(State::Opened { mine, stand, after: After::In });
                }
                self.state = State::Registering { mine, seen: phase };
                let waits = PartWord::waiting_for(phase.phase()).calling(self.me);
                HoldTurn::Ask(vec![self.at.write_part(waits), self.at.home.read_phase()])
            }
            State::Registering { mine, seen } => {
                self.writer = phase.writer().filter(|_| phase.phase() == seen.phase());
                let Some(writer) = self.writer else {
                    let stand = Stand::Open { joined: 0 };
                    return self.go(State::Opened { mine, stand, after: After::In });
                };
                // It may have seen this node reading.
                poke(Called::Rank(writer));
                let after = if has_ended(writer) { After::Look } else { After::Wait };
                self.go(State::Opened { mine, stand: Stand::Waiting, after })
            }
            State::Inquiring { seen } => {
                self.writer = phase.writer();
                match self.writer {
                    None => self.go(State::Joining { seen, joined: 1 }),
                    Some(_) => self.go(State::Unsaying { then: Then::Yield }),
                }
            }
            State::Watching { seen } => {
                let part = PartWord(answers[0]);
                self.writer = phase.writer().filter(|_| part.waits_for(phase.phase()));
                match self.writer {
                    None => self.go(State::Entering { seen }),
                    Some(writer) if has_ended(writer) => {
                        self.state = State::Following { seen, phase };
                        HoldTurn::Ask(self.at.home.follow(phase))
                    }
                    Some(_) => {
                        self.state = State::Waiting;
                        HoldTurn::Wait
                    }
                }
            }
            State::Following { seen, phase } => {
                let me = usize::MAX;
                self.at.home.wake(me, phase, &answers[1..], poke);
                self.go(State::Entering { seen })
            }
            State::Clearing { mine, then } => {
                phase.writer().map(Called::Rank).into_iter().for_each(poke);
                self.go(State::Closed { mine, then })
            }
            State::Telling { seen, stand } => self.go(State::Told { seen, stand }),
            _ => unreachable!("nothing was asked"),
        }
    }

    /// Goes on where nothing of the rank can arrive at the home any more that was to be outlived.
    ///
    /// # Panics
    ///
    /// When none was: a bug of the caller.
    pub fn outlived(&mut self) -> HoldTurn {
        let State::Outliving { seen } = self.state else { panic!("nobody was to be outlived") };
        self.go(State::Closing { seen, then: Then::Out })
    }

    fn go(&mut self, state: State) -> HoldTurn {
        self.state = state;
        HoldTurn::Step
    }

    fn read_on(&mut self) -> HoldTurn {
        self.state = State::Reading;
        HoldTurn::In
    }

    #[inline]
    fn found(&mut self, seen: SharedWord, has_ended: impl Fn(usize) -> bool) -> HoldTurn {
        match seen.stand() {
            Stand::Open { joined } if joined < MOST_JOINED => self.go(State::Joining { seen, joined: joined + 1 }),
            Stand::Open { .. } => {
                self.state = State::Inquiring { seen };
                HoldTurn::Ask(vec![self.at.home.read_phase()])
            }
            Stand::Waiting => self.go(State::Joining { seen, joined: 0 }),
            Stand::Nothing => self.go(State::Claiming { seen }),
            Stand::Opening(local) | Stand::Closing(local) if !self.is_patient || has_ended(local) => {
                self.go(State::Unsaying { then: Then::Aside })
            }
            Stand::Abandoned(_) => self.go(State::Unsaying { then: Then::Aside }),
            Stand::Opening(_) | Stand::Closing(_) => {
                self.state = State::Beside { seen };
                HoldTurn::Wait
            }
        }
    }

    #[inline]
    fn join(&mut self, memory: &impl Memory, seen: SharedWord, joined: u64) -> HoldTurn {
        let is_open = matches!(seen.stand(), Stand::Open { .. });
        let stand = if is_open { Stand::Open { joined } } else { Stand::Waiting };
        match self.swap(memory, seen, stand) {
            Some(_) if is_open => self.read_on(),
            // Whoever does not wait for others of its node finds out itself whether the phase is over.
            Some(_) if !self.is_patient => self.go(State::Looking),
            Some(_) => {
                self.state = State::Waiting;
                HoldTurn::Wait
            }
            None => self.go(State::Finding),
        }
    }

    fn open(&mut self, mine: SharedWord) -> HoldTurn {
        self.state = State::Opening { mine };
        let part = self.at.write_part(PartWord::READING);
        HoldTurn::Ask(vec![self.at.write_place(), part, self.at.home.read_phase()])
    }

    fn clear(&mut self, mine: SharedWord, then: Then) -> HoldTurn {
        self.state = State::Clearing { mine, then };
        HoldTurn::Ask(vec![self.at.write_part(PartWord::NOTHING), self.at.home.read_phase()])
    }

    fn tell(&mut self, seen: SharedWord, stand: Stand) -> HoldTurn {
        self.state = State::Telling { seen, stand };
        let part = if stand == Stand::Nothing { PartWord::NOTHING } else { PartWord::READING };
        // The read's answer says that the writes have arrived.
        HoldTurn::Ask(vec![self.at.write_place(), self.at.write_part(part), self.at.home.read_phase()])
    }

    /// The hold is this, and this rank shares it no more.
    #[inline]
    fn leave_as(&mut self, seen: SharedWord, then: Then, has_ended: impl Fn(usize) -> bool) -> HoldTurn {
        match seen.stand() {
            Stand::Waiting | Stand::Open { .. } => self.go(State::Counting { seen, next: 0, then }),
            other => match other.in_charge().filter(|local| self.is_steward && has_ended(*local)) {
                Some(local) => {
                    self.state = State::Outliving { seen };
                    HoldTurn::Outlive(local)
                }
                // Closed by another rank, and perhaps opened: this one need not wait for that.
                None if then == Then::Yield => self.go(State::Saying),
                None => self.left(then),
            },
        }
    }

    fn left(&mut self, then: Then) -> HoldTurn {
        match then {
            Then::Out => {
                self.state = State::Out;
                HoldTurn::Out
            }
            Then::Aside => {
                self.state = State::Out;
                HoldTurn::Aside
            }
            Then::Yield => {
                self.state = State::Yielded;
                HoldTurn::Wait
            }
        }
    }

    /// Has the rank at a place look if it waits for the hold.
    fn call(
        &mut self,
        memory: &impl Memory,
        local: usize,
        after: After,
        has_ended: impl Fn(usize) -> bool,
        mut poke: impl FnMut(Called),
    ) -> HoldTurn {
        let stake = self.stake(memory, local);
        let waits = stake == Sharing::SHARES || stake == Sharing::WANTS;
        if waits && (local != self.me || self.is_steward) && !has_ended(local) {
            poke(Called::Of { node: self.at.node, local });
        }
        if local + 1 < self.at.ranks {
            return self.go(State::Calling { next: local + 1, after });
        }
        match after {
            After::In => self.read_on(),
            After::Look => self.go(State::Looking),
            After::Wait => {
                self.state = State::Waiting;
                HoldTurn::Wait
            }
            After::Reclose(mine) => self.go(State::Reclosing { mine, then: Then::Out }),
            After::Left(Then::Yield) => self.go(State::Saying),
            After::Left(then) => self.left(then),
        }
    }

    #[inline]
    fn shares(&self, memory: &impl Memory, local: usize, has_ended: impl Fn(usize) -> bool) -> bool {
        self.stake(memory, local) == Sharing::SHARES && !has_ended(local)
    }

    #[inline]
    fn stake(&self, memory: &impl Memory, local: usize) -> u64 {
        // SYNC POINT: shared hold, stake. Pairs with `say`; behind `load`, or the fence of `swap`.
        memory.word(self.at.stakes.plus(local)).load(Ordering::Acquire)
    }

    #[inline]
    fn say(&self, memory: &impl Memory, stake: u64) {
        // SYNC POINT: shared hold, stake. A full fence: this rank's next look at the hold comes after it. It releases
        // what this rank has read.
        publish(memory.word(self.at.stakes.plus(self.me)), stake);
    }

    #[inline]
    fn load(&self, memory: &impl Memory) -> SharedWord {
        // SYNC POINT: shared hold. Acquire pairs with `swap`, and holds back the stakes that are read after it.
        SharedWord(memory.word(self.at.word).load(Ordering::Acquire))
    }

    #[inline]
    fn swap(&self, memory: &impl Memory, seen: SharedWord, stand: Stand) -> Option<SharedWord> {
        let wanted = seen.then(stand);
        // SYNC POINT: shared hold. Acquire pairs with the last writer's end, as whoever opened the hold has seen it;
        // release with whoever joins or closes it. The fence: stakes are read after it.
        let swapped = memory.word(self.at.word).compare_exchange(seen.0, wanted.0, Ordering::AcqRel, Ordering::Relaxed);
        full_fence_after_rmw();
        swapped.is_ok().then_some(wanted)
    }
}
