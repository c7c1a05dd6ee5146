//! Where an object is at home, for kinds of which ranks have something there: a word (reader-writer locks, semaphores),
//! a hold (leases), or what is kept on a second node, too (counters, fenced words: [`find`]).
//!
//! What a rank has at the home it also notes on its own node, its *stake*: before it asks for it, and no longer than it
//! has it. When the home is lost, its node's steward writes the stakes of its living ranks to the next home, before
//! anybody may ask that one ([`super::homes`]). A rank that has noted its stake and finds the home lost after that,
//! begins anew at the next home; one that does not find it lost knows that the steward will find the stake.

use std::cell::{Ref, RefCell};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Handle;
use super::error::LockError;
use super::homes::{self, Completion, Home, MOVING_PAUSE, lost_before};
use super::refusals;
use crate::coord::objects::copies::{self, CopyAt};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::publish;

/// What has come of requests.
pub(super) enum Answered {
    /// The answers.
    All(Vec<u64>),
    /// The connection broke: they have been done up to some point.
    Broken,
    /// The home is lost, and what was done there counts for nothing.
    HomeLost,
}

/// An object's home, as one handle of a rank has seen it last.
#[derive(Debug)]
pub(super) struct Anchor {
    home: RefCell<Home>,
    spans_nodes: bool,
}

impl Anchor {
    /// The home of an object, as soon as it can be asked.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`], [`LockError::Unreachable`].
    pub fn of(handle: &Handle) -> Result<Self, LockError> {
        let reach = &handle.membership.reach;
        let anchor = Self { home: RefCell::new(Home::of(reach, &handle.at)), spans_nodes: reach.spans_nodes() };
        if anchor.spans_nodes {
            anchor.await_next(handle)?;
        }
        Ok(anchor)
    }

    /// The object's words there.
    pub fn words(&self) -> ObjectAt {
        self.home().at
    }

    /// Whether the home is this node: then its words are this node's memory.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.home().site.is_here()
    }

    /// The node that is the home.
    pub fn node(&self) -> usize {
        self.home().site.home
    }

    fn home(&self) -> Ref<'_, Home> {
        self.home.borrow()
    }

    /// Whether the home is lost.
    pub fn is_lost(&self) -> bool {
        let home = self.home();
        self.spans_nodes && home.site.reach.has_lost(home.site.home)
    }

    /// Notes what this rank has at the home, in a word of its own node: before it asks for it.
    #[inline]
    pub fn note_stake(&self, handle: &Handle, stake: u64) {
        if self.spans_nodes {
            // SYNC POINT: stake. A full fence pairs with the steward's: it finds this, or this rank finds the home
            // lost.
            publish(handle.segment().word(handle.at.stake(handle.membership.reach.local())), stake);
        }
    }

    /// Does some requests at the home, which may be done several times, and waits for their answers; `None`: it is
    /// lost, and what it did counts for nothing.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]; [`LockError::Unreachable`]: they may take effect yet, and what they have left is to be
    /// taken back by an errand ([`super::errands`]).
    ///
    /// # Cost
    ///
    /// A round trip for every 64 requests; on the home itself, their memory accesses.
    pub fn ask(&self, handle: &Handle, requests: &[Request]) -> Result<Option<Vec<u64>>, LockError> {
        self.ask_until(handle, requests, None)
    }

    /// As [`ask`](Self::ask), until a time at the latest.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), and [`LockError::TimedOut`]: the answers have not come.
    pub fn ask_until(
        &self,
        handle: &Handle,
        requests: &[Request],
        until: Option<Instant>,
    ) -> Result<Option<Vec<u64>>, LockError> {
        loop {
            match self.try_ask_until(handle, requests, until)? {
                Answered::All(answers) => return Ok(Some(answers)),
                // They may have been done or not: once more.
                Answered::Broken => {}
                Answered::HomeLost => return Ok(None),
            }
        }
    }

    /// As [`ask_until`](Self::ask_until), where it matters to the caller how often they are done.
    ///
    /// # Errors
    ///
    /// As [`ask_until`](Self::ask_until).
    pub fn try_ask_until(
        &self,
        handle: &Handle,
        requests: &[Request],
        until: Option<Instant>,
    ) -> Result<Answered, LockError> {
        let begun = Instant::now();
        let asked = self.home().site.ask_until(requests, until);
        look_at_oneself(handle)?;
        match asked {
            Ok(_) if self.is_lost() => Ok(Answered::HomeLost),
            Ok(answers) => Ok(Answered::All(answers)),
            Err(SiteFault::Broken { .. }) => Ok(Answered::Broken),
            Err(SiteFault::Lost { .. }) => Ok(Answered::HomeLost),
            Err(SiteFault::Silent { node }) => Err(unreachable(handle, node, begun.elapsed())),
            Err(SiteFault::Late { .. }) => Err(timed_out(handle, begun.elapsed())),
            Err(SiteFault::NoRoom { .. }) => unreachable!("only who waits for the next home finds that"),
            // This node was, and with it this rank.
            Err(SiteFault::Excluded) => Err(refusals::excluded(&handle.membership, handle.name.text())),
        }
    }

    /// Whether no node that the job has lost was the object's home before, or would have been.
    pub fn is_first(&self, handle: &Handle) -> bool {
        let home = self.home();
        !self.spans_nodes || lost_before(&home.site.reach, &handle.at, home.site.home).is_empty()
    }

    /// Waits until there is a home that has all that survivors had at those before it; the object's words there.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`], [`LockError::Unreachable`], [`LockError::NoRoom`].
    pub fn await_next(&self, handle: &Handle) -> Result<ObjectAt, LockError> {
        self.await_next_until(handle, None)
    }

    /// As [`await_next`](Self::await_next), until a time at the latest.
    ///
    /// # Errors
    ///
    /// As [`await_next`](Self::await_next), and [`LockError::TimedOut`]: there is none yet.
    pub fn await_next_until(&self, handle: &Handle, until: Option<Instant>) -> Result<ObjectAt, LockError> {
        let (reach, begun) = (&handle.membership.reach, Instant::now());
        let mut asked: Option<(Home, Completion)> = None;
        loop {
            look_at_oneself(handle)?;
            let home = Home::of(reach, &handle.at);
            let (asking, completion) = match asked.take() {
                Some(asked) if asked.0.site.home == home.site.home => asked,
                _ => (home, Completion::default()),
            };
            let (asking, completion) = asked.insert((asking, completion));
            let is_lost = reach.has_lost(asking.site.home);
            if is_lost && let Some(home) = homes::without_room(reach, &handle.at) {
                return Err(refusals::no_room(&handle.membership, handle.name.text(), home));
            }
            let polled = if is_lost { Poll::Pending } else { completion.poll(asking, &handle.at) };
            match polled {
                Poll::Ready(Ok(())) => {
                    let words = asking.at;
                    *self.home.borrow_mut() = asking.clone();
                    return Ok(words);
                }
                Poll::Ready(Err(SiteFault::NoRoom { home })) => {
                    return Err(refusals::no_room(&handle.membership, handle.name.text(), home));
                }
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
            if let Some(node) = reach.doubted() {
                return Err(unreachable(handle, node, begun.elapsed()));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(timed_out(handle, begun.elapsed()));
            }
            std::thread::sleep(MOVING_PAUSE);
        }
    }
}

/// The home of an object that is kept on a second node, and what is found there.
pub(super) struct Found {
    pub home: Home,
    /// Whether nothing of the object is lost with nodes.
    pub is_whole: bool,
    pub words: Vec<u64>,
}

/// The home of an object that is kept on a second node, and what `words` of it hold there. `None`: it is lost, too.
///
/// Nothing is lost if each node that is lost either had told the home before what it had (it says so in a word for each
/// lost home), or was lost when the copy was last completed.
///
/// # Errors
///
/// [`LockError::Excluded`], [`LockError::Unreachable`].
pub(super) fn find(handle: &Handle, words: impl FnOnce(ObjectAt) -> Vec<WordAt>) -> Result<Option<Found>, LockError> {
    let (anchor, reach) = (Anchor::of(handle)?, &handle.membership.reach);
    let (at, node) = (anchor.words(), anchor.home().site.home);
    let before = homes::lost_before(reach, &handle.at, node);
    let lost = (0..reach.topology.nodes()).filter(|lost| !before.is_empty() && reach.has_lost(*lost));
    let others = |lost: usize| before.iter().copied().filter(move |home| *home != lost);
    let told: Vec<(usize, usize)> = lost.flat_map(|lost| others(lost).map(move |home| (lost, home))).collect();
    let layout = reach.layouts[node];
    let bits = told.iter().map(|(lost, home)| layout.moved(*lost, home / 64));
    let all = std::iter::once(CopyAt(at).complete()).chain(bits).chain(words(at));
    let Some(mut found) = anchor.ask(handle, &all.map(|at| Request::Read { at }).collect::<Vec<Request>>())? else {
        return Ok(None);
    };
    let words = found.split_off(1 + told.len());
    let answer_of = |node, home| told.iter().zip(&found[1..]).find(|(pair, _)| **pair == (node, home));
    let has_told =
        |node: usize, home: usize| answer_of(node, home).is_some_and(|(_, word)| word >> (home % 64) & 1 != 0);
    let mut lost: Vec<usize> = told.iter().map(|(node, _)| *node).collect();
    lost.dedup();
    let is_whole = copies::is_whole(lost.into_iter(), &before, has_told, found[0]);
    Ok(Some(Found { home: anchor.home.into_inner(), is_whole, words }))
}

/// Fails where this rank has been declared failed.
#[inline]
pub(super) fn look_at_oneself(handle: &Handle) -> Result<(), LockError> {
    match handle.membership.reach.own_end() {
        Some(_) => Err(refusals::excluded(&handle.membership, handle.name.text())),
        None => Ok(()),
    }
}

/// The error of a call that needs a node of which nothing is heard.
pub(super) fn unreachable(handle: &Handle, node: usize, waited: Duration) -> LockError {
    refusals::unreachable(&handle.membership, handle.name.text(), node, waited)
}

/// The error of a call whose time is over while the home has not answered.
fn timed_out(handle: &Handle, waited: Duration) -> LockError {
    refusals::timed_out(handle.membership.rank, handle.name.text(), waited, None)
}
