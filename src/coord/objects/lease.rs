//! A lock with a time to live, among the ranks of a job. Pure: whoever drives it asks the lease's home what it says,
//! hands the answers in, and tells the time.
//!
//! One word at the home, the *hold* (`lease/hold.rs`), says who holds the lease. It is changed by compare-and-swap
//! only, and each grant and each renewal gives it a number of its own. Who waits has a *claim*, a word that only it
//! writes; a new claim also changes the hold, so that whoever has looked at the claims in order to pass the lease on
//! looks again.
//!
//! | who | does | and holds the lease, or |
//! | --- | --- | --- |
//! | finds it free | changes the hold to name itself | – |
//! | finds it held | makes a claim: the next number at the home | waits |
//! | finds that the holder has ended, or has not renewed for long | changes the hold to name the first claim | waits |
//! | waits and finds itself named | changes the hold once more | takes its claim back |
//! | holds | changes the hold, from time to time | has lost it, if somebody else has changed it |
//! | releases | changes the hold to name the first claim, or nobody | – |
//!
//! # Time
//!
//! A holder counts its time to live, less a thousandth, from before it asked for the change of the hold that has made
//! or kept it the holder. The others count it, and a thousandth more, from when they first saw that change. So where no
//! clock runs wrong by more than 500 millionths, the holder knows that it holds no more before anybody else does.
//! Nothing is assumed of how long a message takes, or a rank is stopped: whoever does not come to look at the hold does
//! not take it over, and whoever does not look at its clock does not know that its time is over; what it writes
//! meanwhile is to be fenced by its token.
//!
//! A holder that is named by another rank's change does not know when that was; it changes the hold once more and
//! counts from then on. If it is not there to do so it loses the lease as every holder does. `exhaustive` tries every
//! order, and every tick of a clock.
//!
//! # The next home
//!
//! When the home is lost, so is the hold. Each rank *notes* on its own node what it holds ([`Note`]): the number, and
//! until when; after the home has named it and before it goes by that, and no longer than it holds. Before anybody may
//! ask the next home, each node that lives has told it the latest of its ranks' notes ([`LeaseWord::carried`]); the
//! greatest number stands there then, so numbers go on growing. Claims are made anew.
//!
//! A holder finds its hold there, or has lost it. Where there is none, a rank that the job has lost may have held the
//! lease, and go by its clock still: then *somebody* holds it, who never renews it, and is followed in time, or at once
//! where all whom the job has lost are surely dead. A rank whose time was over or that has released is no holder, but
//! does not tell whether somebody had it after it.
//!
//! # Tokens
//!
//! The token of a hold is the number with which it began, added to the home's *base*, which is read in the same
//! batch that makes the hold. The base of the next home, or of an object that is made under the same name when this one
//! has gone, is greater than all tokens before ([`super::directory`]).

pub use self::hold::{Hold, LeaseAt, LeaseWord, Note, SOMEBODY};
use crate::fabric::Request;

#[cfg(test)]
mod exhaustive;
mod hold;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ask the home, at once and in this order, and hand the answers in; or say that the connection broke.
    Ask(Vec<Request>),
    /// Wait for a moment, or until somebody has this rank look; then look.
    Wait,
    /// It is over.
    Over(Outcome),
}

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This rank holds the lease.
    Held(Hold),
    /// It does not, nor has it a claim. With the holder, where it was asked for in vain.
    Free(Option<usize>),
    /// It has lost the lease before.
    Lost(Option<usize>),
}

/// What is known of the other ranks.
pub trait Fates {
    /// Whether a rank takes part no more: it is not waited for.
    fn has_ended(&self, rank: usize) -> bool;

    /// Whether it surely does nothing any more: what it holds is free. Of one that was only not heard of this is not
    /// known. Of [`SOMEBODY`]: whether that is so of all ranks of nodes that the job has lost.
    fn is_dead(&self, rank: usize) -> bool;
}

/// One rank's part in a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lessee {
    at: LeaseAt,
    me: usize,
    ttl_ns: u64,
    goal: Goal,
    state: State,
    /// This rank's place among those who wait.
    order: Option<u64>,
    /// Its claim may be there.
    has_claim: bool,
    /// It is, and the hold was changed since.
    is_registered: bool,
    /// The last number that was seen while another rank held the lease, and when first. Kept from one attempt without
    /// waiting to the next.
    watch: Option<(u64, u64)>,
    /// A rank that was named, and should be told.
    named: Option<usize>,
    /// The hold as it was when nobody had it, by what this rank did last.
    freed: LeaseWord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Goal {
    Hold,
    TryHold,
    /// What it holds it is to go on holding.
    Keep,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    /// To name this rank: so it was asked at a time.
    Taking {
        seen: LeaseWord,
        next: LeaseWord,
        asked: u64,
    },
    /// That somebody may hold it, at a home where nobody has been named.
    Marking,
    /// For a place among those who wait.
    Ordering {
        seen: LeaseWord,
    },
    Claiming {
        seen: LeaseWord,
    },
    Waiting,
    Looking,
    /// The holder is no more: who has claims?
    Following {
        seen: LeaseWord,
    },
    /// To name another rank.
    Naming {
        seen: LeaseWord,
        first: usize,
    },
    /// The claim is taken back by one that holds.
    Clearing {
        hold: Hold,
    },
    /// And by one that gives up; the hold is changed as for a new claim.
    Withdrawing {
        seen: Option<LeaseWord>,
    },
    Held {
        hold: Hold,
    },
    Renewing {
        hold: Hold,
        asked: u64,
    },
    /// The hold is looked at after a break, or at the next home.
    RenewingAgain {
        hold: Hold,
    },
    Freeing {
        seen: LeaseWord,
    },
    /// Who has claims?
    Choosing {
        seen: LeaseWord,
    },
    HandingOver {
        seen: LeaseWord,
        first: usize,
    },
    ReleasingAgain {
        seen: LeaseWord,
    },
}

impl Lessee {
    /// One that does nothing yet.
    pub fn new(at: LeaseAt, me: usize, ttl_ns: u64) -> Self {
        let state = State::Idle;
        let (order, watch, named) = (None, None, None);
        let (has_claim, is_registered) = (false, false);
        Self {
            at,
            me,
            ttl_ns,
            goal: Goal::Nothing,
            state,
            order,
            has_claim,
            is_registered,
            watch,
            named,
            freed: LeaseWord(0),
        }
    }

    /// Begins to acquire the lease, as fast as may be if it is still as this rank has left it.
    pub fn acquire(&mut self, now: u64) -> Turn {
        self.begin(Goal::Hold, now)
    }

    /// Begins to acquire it if that is possible at once.
    pub fn try_acquire(&mut self, now: u64) -> Turn {
        self.begin(Goal::TryHold, now)
    }

    fn begin(&mut self, goal: Goal, now: u64) -> Turn {
        assert_eq!(self.state, State::Idle, "one thing at a time");
        self.goal = goal;
        let seen = self.freed;
        if self.may_be_held(seen) { self.look() } else { self.take(seen, seen.granted(self.me, false), now) }
    }

    /// Whether nobody is named, but may have been at the last home.
    fn may_be_held(&self, seen: LeaseWord) -> bool {
        seen == LeaseWord(0) && !self.at.is_first
    }

    /// The home is lost: begins anew at the next one, to which all that survivors held was carried.
    ///
    /// # Panics
    ///
    /// When nothing is under way: a bug of the caller.
    pub fn restart(&mut self, at: LeaseAt) -> Turn {
        self.at = at;
        (self.order, self.watch) = (None, None);
        (self.has_claim, self.is_registered) = (false, false);
        match self.state {
            State::Idle => panic!("only what is under way begins anew"),
            State::Renewing { .. }
            | State::RenewingAgain { .. }
            | State::Freeing { .. }
            | State::Choosing { .. }
            | State::HandingOver { .. }
            | State::ReleasingAgain { .. }
            | State::Withdrawing { .. } => self.broken(),
            State::Held { hold } if self.goal == Goal::Keep => self.look_for(hold),
            _ => self.look(),
        }
    }

    /// This rank waits, and looks.
    pub fn look(&mut self) -> Turn {
        self.state = State::Looking;
        Turn::Ask(vec![self.read_hold()])
    }

    /// A rank that waits changes its mind. Nothing is to be on its way.
    pub fn withdraw(&mut self) -> Turn {
        self.goal = Goal::Nothing;
        self.state = State::Withdrawing { seen: None };
        (self.has_claim, self.is_registered) = (false, false);
        Turn::Ask(vec![self.write_claim(0), self.read_hold()])
    }

    /// Whether nothing is under way or held.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether it waits to be named.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// The hold, if this rank has it and nothing is on its way.
    pub fn held(&self) -> Option<Hold> {
        match self.state {
            State::Held { hold } => Some(hold),
            _ => None,
        }
    }

    /// Begins to renew the hold.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn renew(&mut self, now: u64) -> Turn {
        let hold = self.held().expect("it is held");
        self.goal = Goal::Keep;
        self.renew_from(hold, now)
    }

    /// Begins to release it.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn release(&mut self) -> Turn {
        let hold = self.held().expect("it is held");
        self.goal = Goal::Nothing;
        self.free_or_choose(hold.word)
    }

    /// A rank that was named meanwhile, and should be told.
    pub fn take_named(&mut self) -> Option<usize> {
        self.named.take()
    }

    /// From when on the holder that is waited for can be followed, if it does not renew.
    pub fn follows_at(&self) -> Option<u64> {
        self.watch.map(|(_, since)| hold::followed_from(since, self.ttl_ns))
    }

    /// The answers have come, to all requests but writes.
    pub fn answered(&mut self, answers: &[u64], now: u64, fates: &impl Fates) -> Turn {
        let last = *answers.last().expect("each batch has an answer");
        let word = LeaseWord(last);
        match self.state {
            State::Idle | State::Waiting | State::Held { .. } => unreachable!("nothing was asked"),
            State::Taking { seen, next, asked } if word == seen => {
                // Read when the hold was as it was seen: nobody has come to a new base since.
                let token = answers[0] + next.number();
                self.took(Hold { word: next, since: asked, token })
            }
            State::Taking { .. } | State::Looking => self.found(word, now, fates),
            State::Marking => self.after_marking(word, now, fates),
            State::Ordering { seen } => {
                self.order = Some(last + 1);
                self.claim(seen)
            }
            State::Claiming { seen } => self.after_claiming(seen, word, now, fates),
            State::Following { seen } => self.follow(seen, answers, now, fates),
            State::Naming { seen, first } if word == seen => self.after_naming(seen, first, now),
            State::Naming { .. } => self.found(word, now, fates),
            State::Clearing { hold } => self.hold(hold),
            State::Withdrawing { seen } if seen == Some(word) => self.end(Outcome::Free(word.known_holder())),
            State::Withdrawing { .. } => self.withdrawing(word),
            State::Renewing { hold, asked } => self.after_renewing(hold, asked, word, now),
            // Nobody names one that has no claim.
            State::RenewingAgain { hold } if word.holder() == Some(self.me) => {
                self.renew_from(Hold { word, ..hold }, now)
            }
            State::RenewingAgain { .. } => self.end(Outcome::Lost(word.known_holder())),
            State::Choosing { seen } => self.choose(seen, answers, fates),
            State::Freeing { seen } | State::HandingOver { seen, .. } if word == seen => self.after_passing_on(seen),
            State::Freeing { seen } | State::HandingOver { seen, .. } | State::ReleasingAgain { seen } => {
                self.release_from(seen, word)
            }
        }
    }

    /// The connection broke before the answers came: what was asked for has taken effect up to some point.
    pub fn broken(&mut self) -> Turn {
        match self.state {
            State::Renewing { hold, .. } | State::RenewingAgain { hold } => self.look_for(hold),
            State::Freeing { seen }
            | State::Choosing { seen }
            | State::HandingOver { seen, .. }
            | State::ReleasingAgain { seen } => {
                self.state = State::ReleasingAgain { seen };
                Turn::Ask(vec![self.read_hold()])
            }
            State::Withdrawing { .. } => self.withdraw(),
            State::Clearing { hold } => self.clear(hold),
            _ => {
                // The claim is made again.
                self.is_registered &= !matches!(self.state, State::Claiming { .. });
                self.look()
            }
        }
    }

    /// Whether it is still this rank's.
    fn look_for(&mut self, hold: Hold) -> Turn {
        self.state = State::RenewingAgain { hold };
        Turn::Ask(vec![self.read_hold()])
    }

    /// What there is, for one that acquires.
    fn found(&mut self, word: LeaseWord, now: u64, fates: &impl Fates) -> Turn {
        match word.holder() {
            None if self.may_be_held(word) => {
                self.state = State::Marking;
                Turn::Ask(vec![self.swap(word, LeaseWord::carried(0, None))])
            }
            None => self.take(word, word.granted(self.me, false), now),
            Some(holder) if holder == self.me => self.take(word, word.renewed(), now),
            Some(_) if self.goal == Goal::Hold && !self.is_registered => match self.order {
                Some(_) => self.claim(word),
                None => {
                    self.state = State::Ordering { seen: word };
                    Turn::Ask(vec![Request::FetchAdd { at: self.at.orders, add: 1 }])
                }
            },
            Some(holder) => {
                let turn = self.wait(word, now);
                let is_over = self.follows_at().is_some_and(|time| now >= time);
                if !is_over && !fates.is_dead(holder) {
                    return match self.goal {
                        Goal::TryHold => self.end(Outcome::Free(word.known_holder())),
                        _ => turn,
                    };
                }
                self.state = State::Following { seen: word };
                Turn::Ask(self.read_claims())
            }
        }
    }

    fn after_marking(&mut self, word: LeaseWord, now: u64, fates: &impl Fates) -> Turn {
        let is_marked = word == LeaseWord(0);
        self.found(if is_marked { LeaseWord::carried(0, None) } else { word }, now, fates)
    }

    fn after_claiming(&mut self, seen: LeaseWord, word: LeaseWord, now: u64, fates: &impl Fates) -> Turn {
        if word != seen {
            return self.found_again(word, now, fates);
        }
        self.is_registered = true;
        self.found(seen.changed(), now, fates)
    }

    /// As [`found`](Self::found), where the claim's change of the hold came too late: it is there, but not everybody
    /// who passes the lease on may have seen it.
    fn found_again(&mut self, word: LeaseWord, now: u64, fates: &impl Fates) -> Turn {
        match word.holder() {
            Some(holder) if holder != self.me => self.claim(word),
            _ => self.found(word, now, fates),
        }
    }

    fn wait(&mut self, word: LeaseWord, now: u64) -> Turn {
        if self.watch.is_none_or(|(number, _)| number != word.number()) {
            self.watch = Some((word.number(), now));
        }
        self.state = State::Waiting;
        Turn::Wait
    }

    fn take(&mut self, seen: LeaseWord, next: LeaseWord, now: u64) -> Turn {
        self.state = State::Taking { seen, next, asked: now };
        Turn::Ask(vec![Request::Read { at: self.at.base }, self.swap(seen, next)])
    }

    fn took(&mut self, hold: Hold) -> Turn {
        if self.has_claim { self.clear(hold) } else { self.hold(hold) }
    }

    fn clear(&mut self, hold: Hold) -> Turn {
        self.state = State::Clearing { hold };
        Turn::Ask(vec![self.write_claim(0), self.read_hold()])
    }

    fn hold(&mut self, hold: Hold) -> Turn {
        (self.has_claim, self.is_registered) = (false, false);
        (self.order, self.watch) = (None, None);
        self.state = State::Held { hold };
        Turn::Over(Outcome::Held(hold))
    }

    fn claim(&mut self, seen: LeaseWord) -> Turn {
        self.has_claim = true;
        self.state = State::Claiming { seen };
        let order = self.order.expect("it has one");
        Turn::Ask(vec![self.write_claim(order), self.swap(seen, seen.changed())])
    }

    /// The holder is followed by the first who waits.
    fn follow(&mut self, seen: LeaseWord, claims: &[u64], now: u64, fates: &impl Fates) -> Turn {
        let (first, others_wait) = self.first(claims, seen.holder(), fates);
        match first {
            Some(first) if first != self.me => {
                self.state = State::Naming { seen, first };
                Turn::Ask(vec![self.swap(seen, seen.granted(first, others_wait))])
            }
            _ => self.take(seen, seen.granted(self.me, others_wait), now),
        }
    }

    /// The holder that was to be followed is, by another rank.
    fn after_naming(&mut self, seen: LeaseWord, first: usize, now: u64) -> Turn {
        self.named = Some(first);
        match self.goal {
            Goal::TryHold => self.end(Outcome::Free(Some(first))),
            _ => self.wait(seen.granted(first, false), now),
        }
    }

    fn withdrawing(&mut self, word: LeaseWord) -> Turn {
        // Whoever has seen the claim and goes by it finds another word than it has seen.
        match word.holder() {
            Some(holder) if holder == self.me => self.free_or_choose(word),
            None => self.end(Outcome::Free(None)),
            Some(_) => {
                self.state = State::Withdrawing { seen: Some(word) };
                Turn::Ask(vec![self.swap(word, word.changed())])
            }
        }
    }

    fn renew_from(&mut self, hold: Hold, now: u64) -> Turn {
        self.state = State::Renewing { hold, asked: now };
        Turn::Ask(vec![self.swap(hold.word, hold.word.renewed())])
    }

    fn after_renewing(&mut self, hold: Hold, asked: u64, word: LeaseWord, now: u64) -> Turn {
        if word == hold.word {
            return self.hold(Hold { word: word.renewed(), since: asked, ..hold });
        }
        match word.is_same_hold(hold.word) {
            true => self.renew_from(Hold { word, ..hold }, now),
            false => self.end(Outcome::Lost(word.known_holder())),
        }
    }

    fn free_or_choose(&mut self, seen: LeaseWord) -> Turn {
        if seen.claims() == 0 {
            return self.free(seen);
        }
        self.state = State::Choosing { seen };
        Turn::Ask(self.read_claims())
    }

    fn free(&mut self, seen: LeaseWord) -> Turn {
        self.state = State::Freeing { seen };
        Turn::Ask(vec![self.swap(seen, seen.freed())])
    }

    fn choose(&mut self, seen: LeaseWord, claims: &[u64], fates: &impl Fates) -> Turn {
        let (first, others_wait) = self.first(claims, Some(self.me), fates);
        let Some(first) = first else { return self.free(seen) };
        self.state = State::HandingOver { seen, first };
        Turn::Ask(vec![self.swap(seen, seen.granted(first, others_wait))])
    }

    /// The hold is freed, or another rank's.
    fn after_passing_on(&mut self, seen: LeaseWord) -> Turn {
        match self.state {
            State::HandingOver { first, .. } => self.named = Some(first),
            _ => self.freed = seen.freed(),
        }
        self.end(Outcome::Free(None))
    }

    fn release_from(&mut self, seen: LeaseWord, found: LeaseWord) -> Turn {
        if found.holder() == Some(self.me) {
            return self.free_or_choose(found);
        }
        // After a break, or at the next home: nobody else frees it.
        let is_freed = matches!(self.state, State::ReleasingAgain { .. })
            && found.number() == seen.number()
            && found.known_holder().is_none();
        self.end(if is_freed { Outcome::Free(None) } else { Outcome::Lost(found.known_holder()) })
    }

    fn end(&mut self, outcome: Outcome) -> Turn {
        self.state = State::Idle;
        self.order = None;
        self.watch = self.watch.filter(|_| self.goal == Goal::TryHold);
        Turn::Over(outcome)
    }

    /// The first of those who wait, and whether others do.
    fn first(&self, claims: &[u64], but_for: Option<usize>, fates: &impl Fates) -> (Option<usize>, bool) {
        let waits = |(rank, claim): &(usize, u64)| *claim != 0 && Some(*rank) != but_for && !fates.has_ended(*rank);
        let all = claims.iter().copied().enumerate();
        let waiting = all.filter(waits);
        let (mut first, mut count) = (None, 0);
        for (rank, claim) in waiting {
            count += 1;
            if first.is_none_or(|(_, least)| claim < least) {
                first = Some((rank, claim));
            }
        }
        (first.map(|(rank, _)| rank), count > 1)
    }

    fn swap(&self, expected: LeaseWord, new: LeaseWord) -> Request {
        Request::CompareSwap { at: self.at.hold, expected: expected.0, new: new.0 }
    }

    fn read_hold(&self) -> Request {
        Request::Read { at: self.at.hold }
    }

    fn write_claim(&self, claim: u64) -> Request {
        Request::Write { at: self.at.claim(self.me), value: claim }
    }

    fn read_claims(&self) -> Vec<Request> {
        (0..self.at.ranks).map(|rank| Request::Read { at: self.at.claim(rank) }).collect()
    }
}
