//! A node's lock: one word that says who holds it, a word for each rank's claim, and a first-come-first-served queue of
//! those claims.
//!
//! The holder is named in the word, so that everybody can see whose death frees the lock, and the word is changed by
//! compare-and-swap only: whoever was stopped in the middle of a call and comes back after others have gone on finds
//! another version there, and fails. There is no pointer from waiter to waiter that a death could cut (as in an MCS
//! lock): claims are words of their ranks, numbered in the order in which they came, and whoever releases looks for the
//! least.
//!
//! *Handing over.* The first in the queue says so in the word (`next`) if it waits on its CPU: with its claim, if no
//! other one waits. A release then hands over in one step, without a look at the claims. To a rank that sleeps
//! nothing is handed, since nobody could have the lock until it runs: it is *called*, the lock is free meanwhile, and
//! others may pass it by for a bounded time before they queue behind it; so do ranks that share their CPUs, though the
//! first is awake, since each handover among them costs more than it is worth. That bound, the caller's, is what first
//! come first served means here; between ranks that have a CPU each it is strict.
//!
//! *Nothing is forgotten.* Each claim that is made or taken back changes the word's version after it, so that a release
//! that has looked at the claims before fails and looks again. Who is about to sleep says so in its claim and then
//! looks at the word; who changes the word looks at the claim afterwards: one sees the other.
//!
//! (One that is stopped between calling and waking holds the others up until they look by themselves, as they do.)
//!
//! *Death.* A holder that has ended is followed by the first in the queue, by a compare-and-swap of its name. Who
//! waits looks for that when the node's alarm is raised; claims of ranks that have ended are passed over. A death is
//! known when the kernel has begun with it: the last instructions of the dead one, on another CPU, may be later than
//! the first of its follower. So what a lock guards is guarded by tokens, where that matters.
//!
//! Cost: free, two locked instructions on one line for lock and unlock together; handed over, two line transfers.

use std::cell::Cell;
use std::task::Poll;

use super::word::{ClaimWord, HoldWord};
use crate::fabric::{Memory, WordAt};
use crate::sync::{Ordering, full_fence, full_fence_after_rmw, publish};

/// Where a lock's words stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAt {
    /// Who holds it: [`HoldWord`].
    pub hold: WordAt,
    /// The upper bits of its tokens.
    pub high: WordAt,
    /// Numbers claims.
    pub arrivals: WordAt,
    /// The claim of the node's first rank, with the others' behind it: [`ClaimWord`].
    pub claims: WordAt,
    /// How often the node's first rank has passed others, with the other ranks' behind it.
    pub passings: WordAt,
    /// How many ranks the node has.
    pub ranks: usize,
}

/// This rank does not hold the lock (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld;

/// What becomes of a claim that is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is gone.
    Cancelled,
    /// Too late: the lock was granted.
    Granted(u64),
}

/// A claim that was the first in the queue, and is until it is granted or taken back: nobody is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Called {
    rank: usize,
    order: u64,
}

/// One rank's part in a node's lock. (Its claim is changed by read-modify-writes only, since others change it, too.)
/// One thread of the rank uses it at a time.
#[derive(Debug)]
pub struct QueueLock {
    at: QueueAt,
    me: usize,
    /// Whom this rank has called last, or found awake, as the first in the queue.
    called: Cell<Option<Called>>,
}

impl QueueLock {
    /// The part of the rank at place `me` of the node's rank table.
    pub const fn new(at: QueueAt, me: usize) -> Self {
        Self { at, me, called: Cell::new(None) }
    }

    /// Takes the lock if it is free; if others wait for it only where `may_pass` allows that, who is told how often
    /// this rank has done so in a row. Gives the token.
    #[inline]
    pub fn try_take(&self, memory: &impl Memory, may_pass: impl Fn(u64) -> bool) -> Option<u64> {
        let word = memory.word(self.at.hold);
        // Relaxed: the compare-and-swap decides.
        let mut seen = HoldWord(word.load(Ordering::Relaxed));
        loop {
            if seen.holder().is_some() || (seen.is_wanted() && !may_pass(self.passed(memory))) {
                return None;
            }
            let taken = seen.granted_to(self.me);
            // SYNC POINT: hold. Acquire pairs with the release of the last holder.
            match word.compare_exchange_weak(seen.0, taken.0, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    if seen.is_wanted() {
                        self.note_passing(memory);
                    }
                    return Some(self.token(memory, taken));
                }
                Err(found) => seen = HoldWord(found),
            }
        }
    }

    /// How often this rank has taken the lock while others waited, since it has waited itself.
    pub fn passed(&self, memory: &impl Memory) -> u64 {
        // Relaxed: written by this rank.
        memory.word(self.at.passings.plus(self.me)).load(Ordering::Relaxed)
    }

    fn note_passing(&self, memory: &impl Memory) {
        // Relaxed, and no read-modify-write: this rank's own.
        memory.word(self.at.passings.plus(self.me)).store(self.passed(memory) + 1, Ordering::Relaxed);
    }

    /// Whether this rank holds the lock.
    pub fn is_held(&self, memory: &impl Memory) -> bool {
        self.load(memory).holder() == Some(self.me)
    }

    /// Whether nobody has it, or a claim.
    pub fn is_idle(&self, memory: &impl Memory) -> bool {
        let seen = self.load(memory);
        seen.holder().is_none() && !seen.is_wanted()
    }

    /// Who holds it, and by which token, if nothing has happened since this rank's claim left the word like this, which
    /// was the only one.
    pub fn undisputed_hold(&self, memory: &impl Memory, claimed: HoldWord) -> Option<(usize, u64)> {
        let seen = self.load(memory);
        let is_same = seen.version() == claimed.version() && seen.holder() == claimed.holder();
        let holder = claimed.holder().filter(|_| is_same)?;
        // SYNC POINT: token. Acquire pairs with who has made it grow.
        let high = memory.word(self.at.high).load(Ordering::Acquire);
        let granted = claimed.before().token(high)?;
        // One that was named may have found the grant after the claim: then its token is a later one.
        let found = self.claim(memory, holder).last_token(high);
        Some((holder, found.map_or(granted, |found| found.max(granted))))
    }

    /// Whether this rank is the first in the queue.
    pub fn is_first(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> bool {
        self.first(memory, has_ended) == Some(self.me)
    }

    /// The word's version: it grows with each grant.
    pub fn version(&self, memory: &impl Memory) -> u64 {
        self.load(memory).version()
    }

    /// Whether some claims may be waiting.
    pub fn is_wanted(&self, memory: &impl Memory) -> bool {
        self.load(memory).is_wanted()
    }

    /// Whether this rank has a claim.
    pub fn has_claim(&self, memory: &impl Memory) -> bool {
        self.claim(memory, self.me).is_waiting()
    }

    /// Makes this rank's claim: it is behind all that were made before. The rank neither holds the lock nor has a
    /// claim. Where it `stays_awake`, and nobody else wants the lock, it is next at once. Gives the word as it left it,
    /// where nobody else did.
    pub fn request(&self, memory: &impl Memory, stays_awake: bool) -> Option<HoldWord> {
        let order = memory.word(self.at.arrivals).fetch_add(1, Ordering::Relaxed);
        // SYNC POINT: claim. Released by the change of the word, too; see `swap`.
        memory.word(self.claim_at(self.me)).swap(ClaimWord::waiting(order).0, Ordering::Release);
        loop {
            let seen = self.load(memory);
            let claimed = if stays_awake { seen.wanted_by(self.me) } else { seen.wanted() };
            if self.swap(memory, seen, claimed) {
                return (!seen.is_wanted()).then_some(claimed);
            }
        }
    }

    /// Whether the lock is this rank's now: the token. The rank has a claim.
    pub fn poll(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Poll<u64> {
        self.poll_unless_hot(memory, has_ended, |_| false)
    }

    /// As [`poll`](Self::poll), but leaves the lock to whoever passes this rank by for as long as `is_hot` says so, who
    /// is told the lock's version: it grows with each grant.
    pub fn poll_unless_hot(
        &self,
        memory: &impl Memory,
        has_ended: &impl Fn(usize) -> bool,
        is_hot: impl Fn(u64) -> bool,
    ) -> Poll<u64> {
        loop {
            let seen = self.load(memory);
            let wanted = match seen.holder() {
                holder if holder != Some(self.me) && is_hot(seen.version()) => return Poll::Pending,
                Some(holder) if holder == self.me => return Poll::Ready(self.take_granted(memory, seen)),
                Some(holder) if has_ended(holder) => self.after_death(memory, seen, has_ended),
                Some(_) => match seen.next() {
                    Some(next) if next == self.me || !has_ended(next) => return Poll::Pending,
                    _ => match self.first(memory, has_ended) {
                        Some(first) if first == self.me => seen.with_next(Some(self.me)),
                        _ => return Poll::Pending,
                    },
                },
                None => match self.first(memory, has_ended) {
                    Some(first) if first == self.me => seen.granted_to(self.me),
                    Some(first) => {
                        self.call(memory, first);
                        return Poll::Pending;
                    }
                    // This rank has been declared failed itself.
                    None => return Poll::Pending,
                },
            };
            self.swap(memory, seen, wanted);
        }
    }

    /// What follows when the holder has ended: this rank holds it, if it is first, or nobody does.
    fn after_death(&self, memory: &impl Memory, seen: HoldWord, has_ended: &impl Fn(usize) -> bool) -> HoldWord {
        match self.first(memory, has_ended) {
            Some(first) if first == self.me => seen.granted_to(self.me),
            _ => seen.freed(true).changed(),
        }
    }

    /// The lock has become this rank's.
    fn take_granted(&self, memory: &impl Memory, granted: HoldWord) -> u64 {
        let token = self.token(memory, granted);
        // Relaxed, both: this rank's own, and nobody looks at a claim but for the sake of a lock that is free. What is
        // 0 already is not stored: its line is that of others, too.
        if self.passed(memory) != 0 {
            memory.word(self.at.passings.plus(self.me)).store(0, Ordering::Relaxed);
        }
        memory.word(self.claim_at(self.me)).swap(ClaimWord::granted(token).0, Ordering::Relaxed);
        token
    }

    /// Takes this rank's claim back. What it held up goes on.
    pub fn withdraw(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Withdrawn {
        // SYNC POINT: claim. Released by the change of the word.
        memory.word(self.claim_at(self.me)).swap(0, Ordering::Release);
        let is_mine = |seen: HoldWord| seen.holder() == Some(self.me);
        let changed = self.change(memory, |seen| match seen.next() {
            _ if is_mine(seen) => None,
            Some(next) if next == self.me => Some(seen.unnamed().changed()),
            _ => Some(seen.changed()),
        });
        match changed {
            Err(granted) => Withdrawn::Granted(self.token(memory, granted)),
            Ok(left) => {
                if left.holder().is_none() && left.is_wanted() {
                    self.pass_on(memory, left, has_ended);
                }
                Withdrawn::Cancelled
            }
        }
    }

    /// A free lock that is wanted: whoever is first is called.
    fn pass_on(&self, memory: &impl Memory, seen: HoldWord, has_ended: &impl Fn(usize) -> bool) {
        match self.first(memory, has_ended) {
            Some(first) => self.call(memory, first),
            // Another claim makes another version.
            None => drop(self.swap(memory, seen, seen.freed(false))),
        }
    }

    /// Gives the lock up: to who waits on its CPU and is the first, or else it is free. `keeps_free` is asked if
    /// somebody waits; where it is so the lock is free in any case, for whoever comes first.
    ///
    /// # Errors
    ///
    /// [`NotHeld`]: this rank was declared failed, and another one has been granted the lock since.
    #[inline]
    pub fn release(
        &self,
        memory: &impl Memory,
        has_ended: &impl Fn(usize) -> bool,
        keeps_free: impl Fn(u64) -> bool,
    ) -> Result<(), NotHeld> {
        let seen = self.load(memory);
        if seen.holder() == Some(self.me) && !seen.is_wanted() && self.swap(memory, seen, seen.freed(false)) {
            return Ok(());
        }
        self.release_wanted(memory, has_ended, keeps_free(self.passed(memory)))
    }

    fn release_wanted(
        &self,
        memory: &impl Memory,
        has_ended: &impl Fn(usize) -> bool,
        keeps_free: bool,
    ) -> Result<(), NotHeld> {
        if keeps_free && self.release_to_called(memory, has_ended) {
            return Ok(());
        }
        self.release_to_first(memory, has_ended, keeps_free)
    }

    /// Gives the lock up, if whom this rank has called last waits awake, or is on its way: it looks at the lock itself,
    /// and calls the first if it is not that.
    fn release_to_called(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> bool {
        let seen = self.load(memory);
        let is_coming = |called: Called| {
            let claim = self.claim(memory, called.rank);
            let is_same = claim.is_waiting() && claim.order() == called.order;
            is_same && !claim.is_parked() && !has_ended(called.rank)
        };
        let Some(called) = self.called.get().filter(|called| is_coming(*called)) else { return false };
        let is_held = seen.holder() == Some(self.me);
        let left = seen.freed(true);
        if !is_held || !self.swap(memory, seen, left) {
            return false;
        }
        // SYNC POINT: parking. The word was changed before the claim is looked at; who has been called notes that it is
        // awake before it looks at the word.
        full_fence_after_rmw();
        if !is_coming(called) {
            self.called.set(None);
            self.pass_on(memory, left, has_ended);
        }
        true
    }

    #[cold]
    fn release_to_first(
        &self,
        memory: &impl Memory,
        has_ended: &impl Fn(usize) -> bool,
        keeps_free: bool,
    ) -> Result<(), NotHeld> {
        loop {
            let seen = self.load(memory);
            if seen.holder() != Some(self.me) {
                return Err(NotHeld);
            }
            // Who is named waits on its CPU, so its claim is not looked at, whose line it needs: before it sleeps it
            // takes its name back, and where that is too late it finds that it holds the lock.
            let named = seen.next().filter(|next| !keeps_free && !has_ended(*next));
            let first = named.or_else(|| self.first(memory, has_ended));
            let left = match first {
                None => seen.freed(false),
                Some(first) if named.is_some() => seen.granted_to(first),
                Some(first) if !keeps_free && self.is_awake(memory, first) => seen.granted_to(first),
                Some(_) => seen.freed(true),
            };
            if !self.swap(memory, seen, left) {
                continue;
            }
            if let Some(first) = first {
                if named.is_none() {
                    self.call(memory, first);
                }
                // Whoever has ended by now may have been missed by those who looked for its death before it was named.
                if left.holder().is_some() && has_ended(first) {
                    self.bury(memory, first, has_ended);
                }
            }
            return Ok(());
        }
    }

    /// Whether a rank that waits does not sleep, and was not called just now.
    fn is_awake(&self, memory: &impl Memory, rank: usize) -> bool {
        let claim = self.claim(memory, rank);
        !claim.is_parked() && !claim.is_called()
    }

    /// If a rank that has ended holds the lock, it does so no more: whoever is first is called.
    fn bury(&self, memory: &impl Memory, dead: usize, has_ended: &impl Fn(usize) -> bool) {
        let freed = self.change(memory, |seen| (seen.holder() == Some(dead)).then(|| seen.freed(true).changed()));
        if let Ok(left) = freed {
            self.pass_on(memory, left, has_ended);
        }
    }

    /// Frees the lock of those who have ended, its holder or who wait: for who has no claim.
    pub fn free_from_the_dead(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) {
        let seen = self.load(memory);
        match seen.holder() {
            Some(holder) if has_ended(holder) => self.bury(memory, holder, has_ended),
            None if seen.is_wanted() => self.pass_on(memory, seen, has_ended),
            _ => {}
        }
    }

    /// Before this rank sleeps on its claim: what the claim holds then; `None` if there is something to do.
    pub fn prepare_to_park(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Option<u64> {
        let claim = self.claim(memory, self.me).parked();
        // SYNC POINT: parking. The claim before the word; see `call`.
        publish(memory.word(self.claim_at(self.me)), claim.0);
        loop {
            let seen = self.load(memory);
            let is_waiting = match seen.holder() {
                Some(holder) if holder == self.me || has_ended(holder) => false,
                // To hand over to a rank that sleeps would keep the others waiting for it.
                Some(_) if seen.next() == Some(self.me) => {
                    self.swap(memory, seen, seen.unnamed());
                    continue;
                }
                Some(_) => true,
                None => match self.first(memory, has_ended) {
                    Some(first) if first != self.me => {
                        // Whoever has freed it may have relied on this rank.
                        self.call(memory, first);
                        true
                    }
                    _ => false,
                },
            };
            if is_waiting {
                return Some(claim.0);
            }
            self.note_awake(memory);
            return None;
        }
    }

    /// After it has slept.
    pub fn note_awake(&self, memory: &impl Memory) {
        // SYNC POINT: parking. Before this rank looks at the word; see `release_to_called`.
        memory.word(self.claim_at(self.me)).fetch_and(ClaimWord::AWAKE, Ordering::AcqRel);
        full_fence_after_rmw();
    }

    /// The word that this rank sleeps on.
    pub fn parking_place(&self) -> WordAt {
        self.claim_at(self.me)
    }

    /// Those who hold this rank's claim up: the holder, who is next, and who is first of those in the queue that have
    /// not ended.
    pub fn ahead(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Vec<usize> {
        let seen = self.load(memory);
        let ahead = [seen.holder(), seen.next(), self.first(memory, has_ended)];
        ahead.into_iter().flatten().filter(|rank| *rank != self.me).collect()
    }

    /// Who holds it.
    pub fn holder(&self, memory: &impl Memory) -> Option<usize> {
        self.load(memory).holder()
    }

    /// Those who wait and have not ended, the first of them first.
    pub fn queue(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Vec<usize> {
        let claims = (0..self.at.ranks).map(|rank| (self.claim(memory, rank), rank));
        let waiting = claims.filter(|(claim, rank)| claim.is_waiting() && !has_ended(*rank));
        let mut orders: Vec<(u64, usize)> = waiting.map(|(claim, rank)| (claim.order(), rank)).collect();
        orders.sort_unstable();
        orders.into_iter().map(|(_, rank)| rank).collect()
    }

    /// Wakes a rank that sleeps on its claim.
    fn call(&self, memory: &impl Memory, rank: usize) {
        // SYNC POINT: parking. The word was changed before the claim is looked at; `prepare_to_park` does it the other
        // way round.
        full_fence();
        let at = self.claim_at(rank);
        let claim = self.claim(memory, rank);
        // SYNC POINT: parking. Release: who is woken sees why.
        let called = claim.is_parked()
            && memory.word(at).compare_exchange(claim.0, claim.called().0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // Also one that is awake: it looks at the lock itself.
        self.called.set(Some(Called { rank, order: claim.order() }));
        if called {
            memory.wake(at);
        }
    }

    /// The first in the queue of those who have not ended.
    fn first(&self, memory: &impl Memory, has_ended: &impl Fn(usize) -> bool) -> Option<usize> {
        let claims = (0..self.at.ranks).map(|rank| (self.claim(memory, rank), rank));
        let waiting = claims.filter(|(claim, _)| claim.is_waiting());
        let (_, first) = waiting.clone().min_by_key(|(claim, _)| claim.order())?;
        if !has_ended(first) {
            return Some(first);
        }
        waiting.filter(|(_, rank)| !has_ended(*rank)).min_by_key(|(claim, _)| claim.order()).map(|(_, rank)| rank)
    }

    fn claim_at(&self, rank: usize) -> WordAt {
        self.at.claims.plus(rank)
    }

    fn claim(&self, memory: &impl Memory, rank: usize) -> ClaimWord {
        // SYNC POINT: claim. Acquire pairs with the claim's making.
        ClaimWord(memory.word(self.claim_at(rank)).load(Ordering::Acquire))
    }

    fn load(&self, memory: &impl Memory) -> HoldWord {
        // SYNC POINT: hold. Acquire pairs with whoever has changed it: its holder's last use, and the claims before it.
        HoldWord(memory.word(self.at.hold).load(Ordering::Acquire))
    }

    #[inline]
    fn swap(&self, memory: &impl Memory, seen: HoldWord, wanted: HoldWord) -> bool {
        let word = memory.word(self.at.hold);
        // SYNC POINT: hold. Release: the next holder sees what this one did, and who looks at the claims sees those
        // that were made before; acquire: this one sees what the last did.
        word.compare_exchange(seen.0, wanted.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Changes the word, whatever it is; the error is what it holds where it is not to be changed.
    fn change(
        &self,
        memory: &impl Memory,
        changed: impl Fn(HoldWord) -> Option<HoldWord>,
    ) -> Result<HoldWord, HoldWord> {
        loop {
            let seen = self.load(memory);
            let Some(wanted) = changed(seen) else { return Err(seen) };
            if self.swap(memory, seen, wanted) {
                return Ok(wanted);
            }
        }
    }

    /// The token of a grant to this rank. (Where another one has been granted the lock meanwhile, as this rank was
    /// declared failed, it is that of its own grant still, or one just as old.)
    #[inline]
    fn token(&self, memory: &impl Memory, granted: HoldWord) -> u64 {
        let word = memory.word(self.at.high);
        // SYNC POINT: token. Acquire pairs with who has made it grow.
        let high = word.load(Ordering::Acquire);
        granted.token(high).unwrap_or_else(|| self.token_of_another_half(memory, granted, high))
    }

    /// Once in 2^40 grants the upper bits have to grow, by whoever sees it first.
    #[cold]
    fn token_of_another_half(&self, memory: &impl Memory, granted: HoldWord, high: u64) -> u64 {
        if self.load(memory).holder() == Some(self.me) {
            // SYNC POINT: token. Release as above. It fails where others have gone on, and made it grow.
            let _ = memory.word(self.at.high).compare_exchange(high, high + 1, Ordering::AcqRel, Ordering::Relaxed);
            return granted.token(high + 1).expect("the other half");
        }
        granted.token(high.wrapping_sub(1)).expect("the other half")
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::coord::objects::layout::{ObjectAt, with_objects};
    use crate::fabric::node::{NodeLayout, ObjectTable};
    use crate::fabric::shm::Segment;

    const NOBODY: fn(usize) -> bool = |_| false;

    /// A lock of three ranks.
    fn room() -> (Segment, [QueueLock; 3]) {
        let layout = with_objects(NodeLayout::new(3, 1), 1);
        let at = ObjectAt::of(&layout, ObjectTable::Here, 1).queue();
        (Segment::create(layout, 1, 1).expect("memory"), [0, 1, 2].map(|me| QueueLock::new(at, me)))
    }

    fn is_called(segment: &Segment, lock: &QueueLock) -> bool {
        lock.claim(segment, lock.me).is_called()
    }

    /// Rank 1 is called, takes its claim back and makes another one, behind that of rank 2, which sleeps. Whoever
    /// releases the lock does not rely on rank 1 to come: it may be away for as long as it likes, and is not the first.
    #[test]
    fn a_call_is_of_one_claim_and_not_of_the_next_one_of_the_same_rank() {
        let (segment, [holder, called, second]) = room();
        let release = || holder.release(&segment, &NOBODY, |_| true).expect("it is held");
        let take = || holder.try_take(&segment, |_| true).expect("it is free");
        let claim = |lock: &QueueLock| lock.request(&segment, false);
        take();
        claim(&called);
        called.prepare_to_park(&segment, &NOBODY).expect("the lock is held");
        release();
        assert!(is_called(&segment, &called), "the lock is free, and wanted");
        called.note_awake(&segment);
        take();
        release();
        take();
        assert_eq!(called.withdraw(&segment, &NOBODY), Withdrawn::Cancelled);
        claim(&second);
        second.prepare_to_park(&segment, &NOBODY).expect("the lock is held");
        claim(&called);
        release();
        assert!(is_called(&segment, &second), "nobody else is before it, and nobody has called it");
    }

    /// Once it is known that the holder has ended: on a node that takes no message. One that is not the first, and
    /// looks before it, frees the lock for it.
    #[test]
    fn the_first_that_waits_follows_a_dead_holder_as_it_looks() {
        for is_passed_over in [false, true] {
            let (segment, [holder, first, second]) = room();
            let token = holder.try_take(&segment, |_| true).expect("it is free");
            first.request(&segment, true);
            second.request(&segment, true);
            assert!(first.poll(&segment, &NOBODY).is_pending() && second.poll(&segment, &NOBODY).is_pending());
            let is_dead = |rank: usize| rank == 0;
            if is_passed_over {
                assert!(second.poll(&segment, &is_dead).is_pending(), "it is not the first");
            }
            let followed = first.poll(&segment, &is_dead);
            assert!(matches!(followed, Poll::Ready(later) if later > token), "{followed:?} after {token}");
            assert_eq!(holder.release(&segment, &NOBODY, |_| false), Err(NotHeld), "the dead one comes back");
        }
    }
}
