//! What a rank adds to a counter of a job with several nodes: once, and so that no node's death loses it.
//!
//! The words are those of [`crate::coord::objects::tally`]. A rank's *sum*, what it has added in all, is on two nodes:
//! at the home, as a part of the value, and in the rank's own node's memory; a rank of the home's node writes its sum
//! to the second node ([`super::second`]) instead. It has its sum there before its addition can be seen at the home. So
//! when the home is lost, the sums of all ranks are found on the nodes that live, and with them everything that anybody
//! has seen: the next home has them from the stewards, before it is asked for anything.
//!
//! # Once, over a connection that breaks
//!
//! An addition from another node, or on the home itself where its device changes words, is a batch of four requests,
//! which the home executes in their order, in one round trip. What is added is noted there before it can be seen, as it
//! is on this node: a steward may copy it from there when this node is lost.
//!
//! ```text
//! write journal = begun n │ write added = what this rank has added here │ add to the value │ write journal = done n
//! ```
//!
//! What was not executed when the connection broke is dropped at the latest when the next one is welcomed, by which the
//! journal is read:
//!
//! | the home has | the addition | and the call |
//! | --- | --- | --- |
//! | an earlier journal | had no effect | repeats it |
//! | begun n | was the last or the next thing that was executed | [`CounterError::Uncertain`] |
//! | done n | took effect, once; the old value is lost | [`CounterError::AnswerLost`] |
//!
//! Where nothing is heard of the home, and nobody can decide whether it has failed, the journal cannot be read: then a
//! call that has sent its batch is [`CounterError::Uncertain`], too, and one that has not is
//! [`CounterError::Unreachable`].
//!
//! The second can only be found where the cut fell between two frames of 32 bytes that are sent by one call and
//! executed in one go: where the stream was cut up just there, or the process that serves the home was killed just
//! then. The old value cannot be had again by any request that there is: nothing at the home copies it anywhere.
//!
//! # When the home is lost
//!
//! A rank in the middle of an addition waits for the next home, and reads what the steward has carried there for it. Is
//! that the sum with the addition, then it counts, whether or not the last home had come to it; is it the sum without
//! it, then it was not sent, since it is noted before that, and it is made there.
//!
//! To compare and exchange is an addition whose amount is known only afterwards. Its amount is added to the sum when
//! the answer has come, one round trip later. If the home is lost before that, or later where the answer never came, it
//! is as if it had not been, though others may have seen it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Handle;
use super::counter::CounterError;
use super::custody::{self, AtHome, Bound, Custody};
use super::reach::Reach;
use super::site::Site;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::tally::TallyAt;
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::{Ordering, publish};

/// What a rank's handles of a counter share: one of its threads at a time changes it.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Option<Bound<Sums>>>);

/// What was added before the home became that. It stays as it is.
#[derive(Debug)]
struct Sums {
    /// By all ranks.
    base: u64,
    /// By this one.
    carried: u64,
}

impl AtHome for Sums {
    fn words(reach: &Reach, at: ObjectAt) -> Vec<WordAt> {
        // Where no node was lost, nothing was carried. (Asked when there is a home: one may be lost before.)
        let ranks = if reach.lives() == 0 { 0 } else { reach.topology.ranks() };
        (0..ranks).map(|rank| TallyAt(at).carried(rank)).collect()
    }

    fn of(reach: &Reach, carried: &[u64]) -> Self {
        let base = carried.iter().fold(0, |sum: u64, carried| sum.wrapping_add(*carried));
        Self { base, carried: carried.get(reach.rank).copied().unwrap_or(0) }
    }
}

/// What is to be done to the value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// This is added.
    Add(u64),
    /// If it is `current` it becomes `new`.
    Swap { current: u64, new: u64 },
}

/// How far a change came.
enum Made {
    /// It was made; the value before.
    Done(u64),
    /// It was not, as the home is lost: it is to be made at the next one.
    Again,
}

/// One handle's use of its rank's part.
struct Use<'call> {
    handle: &'call Handle,
    bound: MutexGuard<'call, Option<Bound<Sums>>>,
    custody: Custody,
}

impl Tally {
    /// Changes the value, once, and gives the one before.
    pub fn change(&self, handle: &Handle, custody: Custody, change: Change) -> Result<u64, CounterError> {
        let mut using = self.begin(handle, custody);
        loop {
            using.bind()?;
            let made = match change {
                Change::Add(0) => return using.load(),
                Change::Add(add) => using.add(add)?,
                Change::Swap { current, new } => using.swap(current, new)?,
            };
            if let Made::Done(value) = made {
                return Ok(value);
            }
        }
    }

    /// The value.
    pub fn load(&self, handle: &Handle, custody: Custody) -> Result<u64, CounterError> {
        self.begin(handle, custody).load()
    }

    fn begin<'call>(&'call self, handle: &'call Handle, custody: Custody) -> Use<'call> {
        // No code panics while it holds it.
        let bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Use { handle, bound, custody }
    }
}

impl Use<'_> {
    /// Finds the home, if it is not known or lost, and whether it has all that it should.
    fn bind(&mut self) -> Result<(), CounterError> {
        self.custody.bind(self.handle, &mut self.bound).map_err(|fault| self.error(fault))
    }

    /// Finds the home, if it is not known or lost.
    fn bind_anew(&mut self) -> Result<(), CounterError> {
        let bound = custody::bind_anew(self.handle, &mut self.bound).map(drop);
        bound.map_err(|fault| self.error(fault))
    }

    fn bound(&self) -> &Bound<Sums> {
        self.bound.as_ref().expect("bound before")
    }

    fn sums(&self) -> &Sums {
        &self.bound().kept
    }

    fn words(&self) -> TallyAt {
        TallyAt(self.bound().home.at)
    }

    fn site(&self) -> &Site {
        &self.bound().home.site
    }

    fn load(&mut self) -> Result<u64, CounterError> {
        loop {
            self.bind()?;
            let at = self.words().value();
            if self.site().is_here() {
                // SYNC POINT: counter. Acquire pairs with those who have changed it.
                let value = self.handle.segment().word(at).load(Ordering::Acquire);
                return Ok(value.wrapping_add(self.sums().base));
            }
            match self.ask_home(&[Request::Read { at }]) {
                Ok(value) => return Ok(value.wrapping_add(self.sums().base)),
                Err(SiteFault::Broken { .. } | SiteFault::Lost { .. }) => {}
                Err(fault) => return Err(self.error(fault)),
            }
        }
    }

    fn add(&mut self, add: u64) -> Result<Made, CounterError> {
        let sum = self.sum().wrapping_add(add);
        match (self.site().is_here(), self.site().is_memory()) {
            (_, true) => self.add_here(add, sum),
            (false, _) => self.add_there(add, sum),
            // The value is the device's, which may fail as a connection may.
            (true, false) => {
                self.note(sum);
                self.copy(sum).inspect_err(|_| self.note(sum.wrapping_sub(add)))?;
                self.add_there(add, sum)
            }
        }
    }

    /// On the home's own node: the second node has the sum first.
    fn add_here(&mut self, add: u64, sum: u64) -> Result<Made, CounterError> {
        self.note(sum);
        // Then it is not made; if the second node has heard of it, that is put right by the next one.
        self.copy(sum).inspect_err(|_| self.note(sum.wrapping_sub(add)))?;
        let (words, rank, base) = (self.words(), self.rank(), self.sums().base);
        let segment = self.handle.segment();
        // SYNC POINT: counter. Who sees the sum sees what those did before who have added to it, also through a fabric.
        let found = segment.word(words.value()).fetch_add(add, Ordering::AcqRel);
        // Relaxed: read by others once this rank has ended, or has no handle.
        segment.word(words.added(rank)).store(sum.wrapping_sub(self.sums().carried), Ordering::Relaxed);
        Ok(Made::Done(found.wrapping_add(base)))
    }

    fn add_there(&mut self, add: u64, sum: u64) -> Result<Made, CounterError> {
        let (words, rank) = (self.words(), self.rank());
        let added = sum.wrapping_sub(self.sums().carried);
        self.note(sum);
        loop {
            let begun = self.handle.membership.reach.uses.next_number() << 1;
            let done = begun | 1;
            let batch = [
                Request::Write { at: words.journal(rank), value: begun },
                Request::Write { at: words.added(rank), value: added },
                Request::FetchAdd { at: words.value(), add },
                Request::Write { at: words.journal(rank), value: done },
            ];
            let found = match self.ask_home(&batch) {
                Err(SiteFault::Broken { .. }) => self.read_again([words.journal(rank)]),
                Ok(value) => return Ok(Made::Done(value.wrapping_add(self.sums().base))),
                Err(silent @ SiteFault::Silent { .. }) => {
                    // Nothing was sent.
                    self.note(sum.wrapping_sub(add));
                    return Err(self.error(silent));
                }
                Err(fault) => Err(fault),
            };
            match found {
                Ok([found]) if found == done => return Err(self.answer_lost()),
                Ok([found]) if found == begun => return Err(self.uncertain()),
                // It may take effect yet.
                Err(SiteFault::Silent { .. }) => return Err(self.uncertain()),
                Ok(_) => {}
                Err(SiteFault::Lost { .. }) => return self.after_loss(add, sum),
                Err(fault) => return Err(self.error(fault)),
            }
        }
    }

    /// The home was lost in the middle of an addition: whether the next one counts it.
    fn after_loss(&mut self, add: u64, sum: u64) -> Result<Made, CounterError> {
        self.bind_anew()?;
        if self.sums().carried == sum {
            return Err(self.answer_lost());
        }
        self.note(sum.wrapping_sub(add));
        Ok(Made::Again)
    }

    fn swap(&mut self, current: u64, new: u64) -> Result<Made, CounterError> {
        let base = self.sums().base;
        let (expected, wanted) = (current.wrapping_sub(base), new.wrapping_sub(base));
        let found = match self.site().is_memory() {
            true => {
                let word = self.handle.segment().word(self.words().value());
                // SYNC POINT: counter. As above.
                word.compare_exchange(expected, wanted, Ordering::AcqRel, Ordering::Acquire)
                    .unwrap_or_else(|found| found)
            }
            false => match self.swap_there(expected, wanted)? {
                Some(found) => found,
                None => return Ok(Made::Again),
            },
        };
        if found == expected && current != new {
            self.confirm(self.sum().wrapping_add(new.wrapping_sub(current)))?;
        }
        Ok(Made::Done(found.wrapping_add(base)))
    }

    /// Has the home compare and exchange, once; `None`: it is lost, and did not.
    fn swap_there(&mut self, expected: u64, new: u64) -> Result<Option<u64>, CounterError> {
        let (words, rank) = (self.words(), self.rank());
        loop {
            let begun = self.handle.membership.reach.uses.next_number() << 1;
            let done = begun | 1;
            let batch = [
                Request::Write { at: words.journal(rank), value: begun },
                Request::CompareSwap { at: words.value(), expected, new },
                Request::Write { at: words.journal(rank), value: done },
            ];
            let found = match self.ask_home(&batch) {
                Err(SiteFault::Broken { .. }) => self.read_again([words.journal(rank)]),
                Ok(value) => return Ok(Some(value)),
                // Nothing was sent.
                Err(silent @ SiteFault::Silent { .. }) => return Err(self.error(silent)),
                Err(fault) => Err(fault),
            };
            match found {
                Ok([found]) if found == done => return Err(self.answer_lost()),
                Ok([found]) if found == begun => return Err(self.uncertain()),
                Ok(_) => {}
                Err(SiteFault::Lost { .. } | SiteFault::Silent { .. }) => return Err(self.uncertain()),
                Err(fault) => return Err(self.error(fault)),
            }
        }
    }

    /// What was exchanged is a part of this rank's sum: there before the call is over.
    fn confirm(&mut self, sum: u64) -> Result<(), CounterError> {
        self.note(sum);
        let (at, value) = (self.words().added(self.rank()), sum.wrapping_sub(self.sums().carried));
        if self.site().is_here() {
            // Relaxed: as in `add_here`.
            self.handle.segment().word(at).store(value, Ordering::Relaxed);
            return self.copy(sum).map_err(|error| self.unconfirmed(error));
        }
        loop {
            match self.ask_home(&[Request::Write { at, value }, Request::Read { at }]) {
                Ok(_) => return Ok(()),
                Err(SiteFault::Broken { .. }) => {}
                Err(SiteFault::Lost { .. }) => {
                    self.bind_anew()?;
                    let carried = self.sums().carried;
                    self.note(carried);
                    return if carried == sum { Ok(()) } else { Err(self.uncertain()) };
                }
                Err(fault) => return Err(self.unconfirmed(self.error(fault))),
            }
        }
    }

    /// Writes this rank's sum to the second node, if there is one: this node is the home.
    fn copy(&self, sum: u64) -> Result<(), CounterError> {
        let rank = self.rank();
        let copied = self.custody.copy(self.handle, |second| {
            let at = TallyAt(second.at).carried(rank);
            ask(&second.site, &[Request::Write { at, value: sum }, Request::Read { at }]).map(drop)
        });
        copied.map_err(|fault| self.error(fault))
    }

    fn ask_home(&self, batch: &[Request]) -> Result<u64, SiteFault> {
        ask(self.site(), batch)
    }

    /// Reads words of the home after the connection broke.
    fn read_again<const N: usize>(&mut self, at: [WordAt; N]) -> Result<[u64; N], SiteFault> {
        let reads = at.map(|at| Request::Read { at });
        loop {
            match self.site().ask(&reads) {
                Err(SiteFault::Broken { .. }) => {}
                found => return found.map(|words| words.try_into().expect("as many as were asked for")),
            }
        }
    }

    /// What this rank has added, with what it was about to add last.
    fn sum(&self) -> u64 {
        let (handle, reach) = (self.handle, &self.handle.membership.reach);
        reach.load(TallyAt::sum(&handle.at, reach.local()))
    }

    /// Notes it on this node.
    fn note(&self, sum: u64) {
        let (handle, reach) = (self.handle, &self.handle.membership.reach);
        // SYNC POINT: stake. A full fence pairs with the steward's: it finds this, or this rank finds the home lost.
        publish(handle.segment().word(TallyAt::sum(&handle.at, reach.local())), sum);
    }

    fn rank(&self) -> usize {
        self.handle.membership.rank
    }

    /// What was exchanged stands at the home, and may be lost with it.
    fn unconfirmed(&self, error: CounterError) -> CounterError {
        if let CounterError::Unreachable { .. } = error { self.uncertain() } else { error }
    }

    fn answer_lost(&self) -> CounterError {
        let (rank, name, home) = (self.rank(), self.handle.name.text().to_owned(), self.site().home);
        CounterError::AnswerLost { rank, name, home }
    }

    fn uncertain(&self) -> CounterError {
        self.error(SiteFault::Broken { home: self.site().home })
    }

    fn error(&self, fault: SiteFault) -> CounterError {
        CounterError::of(self.handle, fault)
    }
}

/// One batch, of which one request is answered, unless the home is lost or this rank was declared failed.
fn ask(site: &Site, batch: &[Request]) -> Result<u64, SiteFault> {
    if site.reach.has_lost(site.home) {
        return Err(SiteFault::Lost { home: site.home });
    }
    if site.reach.own_end().is_some() {
        return Err(SiteFault::Excluded);
    }
    site.ask(batch).map(|answers| answers[0])
}
