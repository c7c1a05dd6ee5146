//! A semaphore: so many permits, of which each acquisition takes some, first come first served, whatever it takes.
//!
//! There is no word that counts what is left: a rank that died between taking and noting that it has taken would leave
//! it wrong. Each rank of the job has a word at the object's home, which only that rank writes: how many permits it
//! has. What is left is the difference, without the words of ranks that have ended: death returns permits.
//!
//! Ranks claim permits one after another, as they come to hold the object's exclusive lock ([`super::queue`],
//! [`super::home`]), in whose queue they wait: the one that holds it adds what it wants to its own word and reads all
//! words. If that is too much it waits, at the head of the queue, until others have returned enough. So nobody is
//! passed by who wants many, and two that claim at once cannot both go back on it.
//!
//! | call | requests | round trips |
//! | --- | --- | --- |
//! | claim, enough are left | write the own word; read all | 1 for each 63 ranks, and the exclusive lock |
//! | claim, too few are left | then: write who waits, read all; wait until that is to be done again; clear who waits | 2, and as many for each look |
//! | return | write the own word; read who waits, and have that rank look | 1 |
//!
//! *Nothing is forgotten.* Who waits writes so and then reads the words, who returns writes its word and then reads who
//! waits: one sees the other. All is idempotent: where a connection breaks, the same requests are asked again.
//!
//! The machine here posts nothing itself, like that of [`super::home`].

#[cfg(all(test, not(model)))]
mod exhaustive;

use super::layout::ObjectAt;
use super::sharing::Turn;
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::{Ordering, publish};

/// Where the words of a semaphore stand at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PermitsAt {
    /// The rank, plus 1, that waits for permits to be returned; 0: none.
    pub waiter: WordAt,
    /// How many permits rank 0 has or claims, with the others' behind it.
    pub held: WordAt,
    /// The job's ranks.
    pub ranks: usize,
}

impl PermitsAt {
    /// In an object's place at its home, in a job of so many ranks. (The waiter's word is another one than what other
    /// kinds use: what a rank that has died has asked for may come late, when the place is another object's.)
    pub const fn of(home: &ObjectAt, ranks: usize) -> Self {
        Self { waiter: home.own(1), held: home.part(0), ranks }
    }

    /// What says at a new home, where nobody has asked for anything, what a rank had at the last one.
    pub fn carry(&self, rank: usize, stake: u64) -> Option<Request> {
        (stake > 0).then(|| Request::Write { at: self.held.plus(rank), value: stake })
    }
}

/// What the answers to come belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Nothing is to come.
    Idle,
    /// The claim is written, and all words are being read.
    Claiming { is_patient: bool },
    /// So is that this rank waits.
    Announcing,
    /// For permits to be returned.
    Waiting,
    /// All words are being read once more.
    Looking,
    /// That this rank waits is being taken back: it has what it claimed.
    Settling,
    /// The claim is being taken back.
    Withdrawing,
    /// Permits have been returned; reading who waits.
    Returning,
}

/// One rank's part in a semaphore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permits {
    at: PermitsAt,
    me: usize,
    /// How many there are.
    permits: u64,
    state: State,
    /// How many the others had when they were counted last.
    others: u64,
    /// Who they were, if they had too many.
    holders: Vec<usize>,
}

impl Permits {
    /// The part of a rank, of so many permits in all.
    pub const fn new(at: PermitsAt, me: usize, permits: u64) -> Self {
        Self { at, me, permits, state: State::Idle, others: 0, holders: Vec::new() }
    }

    /// How many there are.
    pub const fn permits(&self) -> u64 {
        self.permits
    }

    /// How many the others had when they were counted last.
    pub const fn others(&self) -> u64 {
        self.others
    }

    /// Who had some, where there were too few left for this rank.
    pub fn holders(&self) -> &[usize] {
        &self.holders
    }

    /// Begins to claim permits: this rank will have `own` with those that it has. It holds the exclusive lock, until
    /// this is over. Where it is not patient it is over as [`Turn::Wait`] when there are too few: then it is to
    /// [`withdraw`](Self::withdraw).
    pub fn claim(&mut self, own: u64, is_patient: bool) -> Turn {
        self.state = State::Claiming { is_patient };
        Turn::Ask(std::iter::once(self.write(own)).chain(self.read_all()).collect())
    }

    /// As [`claim`](Self::claim), on the home's own node: whether there are enough. If not this rank goes on with
    /// `claim`.
    #[inline]
    pub fn claim_here(&mut self, memory: &impl Memory, own: u64, has_ended: impl Fn(usize) -> bool) -> bool {
        // SYNC POINT: permits. Pairs with `return_here`, as in the requests.
        publish(memory.word(self.own_at()), own);
        let held = |rank| memory.word(self.at.held.plus(rank)).load(Ordering::SeqCst);
        self.others = self.sum((0..self.at.ranks).map(held), has_ended);
        self.others.saturating_add(own) <= self.permits
    }

    /// Begins to take a claim back that has not come about; `own` is what the rank has without it.
    pub fn withdraw(&mut self, own: u64) -> Turn {
        let was_announced = std::mem::replace(&mut self.state, State::Withdrawing) == State::Waiting;
        let clear = was_announced.then_some(Request::Write { at: self.at.waiter, value: 0 });
        Turn::Ask([self.write(own)].into_iter().chain(clear).chain([self.read_waiter()]).collect())
    }

    /// What tells the home that this rank has `own` permits and waits for none, whatever it has asked for before.
    pub fn tell(&self, own: u64) -> Vec<Request> {
        vec![self.write(own), Request::CompareSwap { at: self.at.waiter, expected: self.me as u64 + 1, new: 0 }]
    }

    /// Begins to return permits; `own` is what the rank has then, and claims.
    pub fn give_back(&mut self, own: u64) -> Turn {
        self.state = State::Returning;
        Turn::Ask(vec![self.write(own), self.read_waiter()])
    }

    /// As [`give_back`](Self::give_back), on the home's own node: the rank that is to look.
    #[inline]
    pub fn return_here(&self, memory: &impl Memory, own: u64) -> Option<usize> {
        // SYNC POINT: permits. A full fence: this rank sees who waits, or that one sees that these are returned.
        publish(memory.word(self.own_at()), own);
        self.waiter(memory.word(self.at.waiter).load(Ordering::SeqCst))
    }

    /// Begins anew what is under way, as its home is lost, at the next one; `own` is what the rank has, with its claim.
    ///
    /// # Panics
    ///
    /// When nothing is under way: a bug of the caller.
    pub fn restart(&mut self, at: PermitsAt, own: u64) -> Turn {
        self.at = at;
        match self.state {
            State::Claiming { is_patient } => self.claim(own, is_patient),
            State::Announcing | State::Waiting | State::Looking | State::Settling => self.claim(own, true),
            State::Withdrawing => self.withdraw(own),
            State::Returning => self.give_back(own),
            State::Idle => panic!("only what is under way begins anew"),
        }
    }

    /// Looks, where it waits.
    pub fn look(&mut self) -> Turn {
        if self.state != State::Waiting {
            return Turn::Wait;
        }
        self.state = State::Looking;
        Turn::Ask(self.read_all().collect())
    }

    /// Goes on with the answers to what was asked; `own` is what the rank has with its claim. `has_ended`: which ranks
    /// have; `poke` has a rank look.
    ///
    /// # Panics
    ///
    /// When there are not as many answers as were asked for: a bug of the caller.
    pub fn answered(
        &mut self,
        answers: &[u64],
        own: u64,
        has_ended: impl Fn(usize) -> bool,
        poke: impl FnMut(usize),
    ) -> Turn {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Claiming { is_patient } => match self.is_enough(answers, own, has_ended) {
                true => Turn::In,
                false if is_patient => {
                    self.state = State::Announcing;
                    let announced = Request::Write { at: self.at.waiter, value: self.me as u64 + 1 };
                    Turn::Ask(std::iter::once(announced).chain(self.read_all()).collect())
                }
                false => Turn::Wait,
            },
            State::Announcing | State::Looking => match self.is_enough(answers, own, has_ended) {
                true => {
                    self.state = State::Settling;
                    Turn::Ask(vec![Request::Write { at: self.at.waiter, value: 0 }, self.read_waiter()])
                }
                false => {
                    self.state = State::Waiting;
                    Turn::Wait
                }
            },
            State::Settling => Turn::In,
            State::Withdrawing => Turn::Out,
            State::Returning => {
                self.waiter(answers[0]).into_iter().for_each(poke);
                Turn::Out
            }
            State::Idle | State::Waiting => unreachable!("nothing was asked"),
        }
    }

    fn is_enough(&mut self, held: &[u64], own: u64, has_ended: impl Fn(usize) -> bool) -> bool {
        self.others = self.sum(held.iter().copied(), &has_ended);
        let is_enough = self.others.saturating_add(own) <= self.permits;
        let holders =
            held.iter().enumerate().filter(|(rank, held)| **held > 0 && *rank != self.me && !has_ended(*rank));
        self.holders = if is_enough { Vec::new() } else { holders.map(|(rank, _)| rank).collect() };
        is_enough
    }

    /// What the others have, without those that have ended.
    fn sum(&self, held: impl Iterator<Item = u64>, has_ended: impl Fn(usize) -> bool) -> u64 {
        let counts = |(rank, held): &(usize, u64)| *held > 0 && *rank != self.me && !has_ended(*rank);
        held.enumerate().filter(counts).fold(0, |sum, (_, held)| held.saturating_add(sum))
    }

    /// The rank that waits, by what the word holds.
    #[allow(clippy::cast_possible_truncation, reason = "a rank")]
    fn waiter(&self, word: u64) -> Option<usize> {
        (word as usize).checked_sub(1).filter(|rank| *rank < self.at.ranks && *rank != self.me)
    }

    fn own_at(&self) -> WordAt {
        self.at.held.plus(self.me)
    }

    fn write(&self, own: u64) -> Request {
        Request::Write { at: self.own_at(), value: own }
    }

    fn read_waiter(&self) -> Request {
        Request::Read { at: self.at.waiter }
    }

    fn read_all(&self) -> impl Iterator<Item = Request> + use<> {
        let held = self.at.held;
        (0..self.at.ranks).map(move |rank| Request::Read { at: held.plus(rank) })
    }
}
