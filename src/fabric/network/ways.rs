//! The ways to nodes that are reached by RDMA, or were: by what each is reached now, and what follows when its
//! connection breaks ([`Mending`]). What is to be said to the other end the caller sends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::BY_RDMA;
use super::kept_writes::KeptWrites;
use crate::fabric::mending::{Mending, Note, OFFER_WORDS, Step, What, answer_without_end};
use crate::fabric::rdma::{OFFER_BYTES, Offer, RdmaError, RdmaFabric};
use crate::fabric::{Fabric, PostError, Ticket};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How long nothing is posted to a node to which a guest's connection has broken: what its end has sent arrives within
/// a few milliseconds, or never, as there is no end any more that would send it again.
const PACKET_LIFE: Duration = Duration::from_millis(100);

/// A guest's own end of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestEnd {
    Whole,
    Broken { since: Instant },
}

/// This process's connections by RDMA.
#[derive(Debug)]
pub(super) struct Rdma {
    pub fabric: Arc<RdmaFabric>,
    /// 1 while all nodes with which barriers' messages are exchanged have a connection by RDMA, or are to have one
    /// again.
    pub reaches_all_partners: AtomicU32,
    /// The nodes that had one.
    pub reached: Box<[usize]>,
    ways: Vec<Mutex<Way>>,
    /// Nodes whose connection is being mended.
    mended_now: AtomicU32,
    /// The breaches that have been looked at.
    breaches_seen: AtomicU64,
    polls: AtomicU32,
}

/// By what a node was reached last.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub by_rdma: bool,
    /// Whether something has been posted since the last time when all was known to have arrived.
    pub is_used: bool,
    /// The read after which the way may be changed.
    pub leaving: Option<Ticket>,
    /// The connection by RDMA, if there was one in the beginning.
    mending: Option<Mending>,
    /// Likewise, where this process is a guest.
    guest: Option<GuestEnd>,
    /// Whether it counts among those that are mended.
    is_counted: bool,
    /// Whether it was held when that was looked at last.
    was_held: bool,
    /// Why a note could not be sent since it has been held.
    pub trouble: Option<PostError>,
    /// Writes that are posted again and again.
    pub kept: KeptWrites,
}

impl Way {
    /// Whether requests may go by RDMA.
    pub fn is_whole(&self) -> bool {
        self.guest == Some(GuestEnd::Whole) || self.mending.as_ref().is_some_and(Mending::is_whole)
    }

    /// Whether what has been posted by a guest's connection may still be on its way, though that has broken.
    pub fn is_settling(&self) -> bool {
        matches!(self.guest, Some(GuestEnd::Broken { since }) if since.elapsed() < PACKET_LIFE)
    }

    /// Why nothing may be posted to its node `node`, if that is held.
    pub fn refusal(&self, node: usize) -> Option<PostError> {
        let mending = self.mending.as_ref().filter(|mending| mending.is_held())?;
        Some(refusal(node, mending.is_unanswered(Instant::now()), self.trouble.as_ref()))
    }
}

impl Rdma {
    /// Ways to all nodes, of which `reached` have a connection, or are to have one; `mending` makes it anew.
    pub fn new(
        fabric: Arc<RdmaFabric>,
        nodes: usize,
        reached: Box<[usize]>,
        reaches_all_partners: bool,
        mending: impl Fn(usize) -> Option<Mending>,
    ) -> Self {
        let way = |node| {
            let mending = reached.contains(&node).then(|| mending(node)).flatten();
            Mutex::new(Way { mending, ..Way::default() })
        };
        let ways = (0..nodes).map(way).collect();
        let breaches_seen = AtomicU64::new(fabric.breaches());
        let (mended_now, polls) = (AtomicU32::new(0), AtomicU32::new(0));
        let reaches_all_partners = AtomicU32::new(u32::from(reaches_all_partners));
        Self { fabric, reaches_all_partners, reached, ways, mended_now, breaches_seen, polls }
    }

    /// The way to a node, once nobody else is at work on it.
    #[inline]
    pub fn way(&self, node: usize) -> MutexGuard<'_, Way> {
        // Nothing panics while it holds a way.
        self.ways[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way, unless somebody is at work on it.
    pub fn try_way(&self, node: usize) -> Option<MutexGuard<'_, Way>> {
        match self.ways[node].try_lock() {
            Ok(way) => Some(way),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether a connection has broken since somebody looked, or is being mended.
    #[inline]
    pub fn has_trouble(&self) -> bool {
        let is_mending = self.mended_now.load(Ordering::Relaxed) != 0;
        is_mending || self.breaches_seen.load(Ordering::Relaxed) != self.fabric.breaches()
    }

    /// How often somebody has polled before this one. Roughly: others may poll at the same time.
    #[inline]
    pub fn count_poll(&self) -> u32 {
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        polls
    }

    /// Finishes a guest's connection to a node whose agent serves it.
    pub fn visit(&self, node: usize, offer: &Offer) -> Result<(), RdmaError> {
        let mut way = self.way(node);
        self.fabric.connect(node, offer)?;
        way.guest = Some(GuestEnd::Whole);
        Ok(())
    }

    /// Gives the connection to a node up for good.
    pub fn leave(&self, node: usize, why: &str) {
        // At once, and not only when whoever connects to the node just now is done. What it connects then is ended
        // below.
        self.fabric.disconnect(node, why);
        let mut way = self.way(node);
        self.fabric.disconnect(node, why);
        (way.mending, way.guest) = (None, None);
        self.draw_conclusions(&mut way);
        self.leave_way(&mut way);
        // Whatever comes from there, comes by sockets.
        self.reaches_all_partners.store(0, Ordering::Relaxed);
    }

    /// Looks after all connections that are being mended, by `mend`.
    #[cold]
    pub fn mend_all(&self, mend: impl Fn(&mut Way, usize)) {
        let breaches = self.fabric.breaches();
        let mut has_seen_all = true;
        for node in &self.reached {
            // Somebody connects to the node, which may take long, or posts to it: nobody waits here for that.
            match self.try_way(*node) {
                Some(mut way) => mend(&mut way, *node),
                None => has_seen_all = false,
            }
        }
        if has_seen_all {
            self.breaches_seen.store(breaches, Ordering::Relaxed);
        }
    }

    /// Notes a breach of a node's connection, and does what mending it asks for by now; gives what is to be said.
    pub fn mend(&self, way: &mut Way, node: usize) -> Option<Note> {
        let now = Instant::now();
        self.see_guest(way, node, now);
        let mending = way.mending.as_mut()?;
        self.see(mending, node, now);
        let step = mending.poll(now);
        let said = self.take_step(mending, node, step);
        self.draw_conclusions(way);
        said
    }

    /// A node has said something of its connection; gives the answer.
    pub fn hear(&self, node: usize, note: Note) -> Option<Note> {
        let mut way = self.way(node);
        let now = Instant::now();
        let Some(mending) = way.mending.as_mut() else {
            // A node that this one could not connect to in the beginning, but that has connected; or one whose
            // connection is given up for good.
            let answer = answer_without_end(note)?;
            if way.guest.is_some() {
                // It asks after the agent before this one, whose end is gone.
                return Some(answer);
            }
            self.fabric.disconnect(node, "there is to be no connection to it");
            return Some(answer);
        };
        let was_whole = mending.is_whole();
        let step = mending.handle(note, now);
        if was_whole && !mending.is_whole() {
            self.report(node, "is given up by the other end; it is made anew");
        }
        let said = self.take_step(mending, node, step);
        if !was_whole && mending.is_whole() {
            self.report(node, "is there again");
        }
        // It may have broken while the other end's word was waited for, when nobody looked.
        self.see(mending, node, now);
        self.draw_conclusions(&mut way);
        said
    }

    /// Looks whether a connection that is taken for whole is there.
    fn see(&self, mending: &mut Mending, node: usize, now: Instant) {
        if mending.is_whole() && mending.handle_sight(self.fabric.is_connected(node), now) {
            self.report(node, "broke; it is made anew");
        }
    }

    /// The same of a guest's connection, which is given up if it is not.
    fn see_guest(&self, way: &mut Way, node: usize, now: Instant) {
        if way.guest == Some(GuestEnd::Whole) && !self.fabric.is_connected(node) {
            way.guest = Some(GuestEnd::Broken { since: now });
            self.leave_way(way);
            self.report(node, "broke; it is reached by TCP from now on");
        }
    }

    fn take_step(&self, mending: &mut Mending, node: usize, step: Step) -> Option<Note> {
        let done = match step {
            Step::Rest => return None,
            Step::Say(note) => return Some(note),
            Step::GiveUp(note) => {
                self.fabric.disconnect(node, "the connection is given up, to be made anew");
                return Some(note);
            }
            Step::Offer => self.fabric.offer(node).map(|own| What::Offer(words_of(&own))).ok(),
            Step::Answer(offer) => self.answer(node, &offer).map(|own| What::Answer(words_of(&own))),
            Step::Connect(offer) => {
                offer_of(&offer).filter(|offer| self.fabric.connect(node, offer).is_ok()).map(|_| {
                    mending.handle_connected(Instant::now());
                    What::Ready
                })
            }
        };
        match done {
            Some(what) => Some(mending.note(what)),
            None => {
                let step = mending.handle_failure(Instant::now());
                self.take_step(mending, node, step)
            }
        }
    }

    /// An end of this node's, connected to an offer.
    fn answer(&self, node: usize, offer: &[u64; OFFER_WORDS]) -> Option<Offer> {
        let offer = offer_of(offer)?;
        let own = self.fabric.offer(node).ok()?;
        self.fabric.connect(node, &offer).ok()?;
        Some(own)
    }

    /// What follows for a way, whatever has changed its connection's state.
    fn draw_conclusions(&self, way: &mut Way) {
        let is_mended = way.mending.as_ref().is_some_and(|mending| !mending.is_whole());
        let is_held = way.mending.as_ref().is_some_and(Mending::is_held);
        match (way.is_counted, is_mended) {
            (false, true) => drop(self.mended_now.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.mended_now.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if is_held && !way.was_held {
            way.trouble = None;
        }
        (way.is_counted, way.was_held) = (is_mended, is_held);
        if is_mended {
            // Nothing is on that connection any more once the node is not held, and nothing has been posted on the
            // next.
            self.leave_way(way);
        }
    }

    /// The node is reached by TCP, if its connection by RDMA is no more.
    fn leave_way(&self, way: &mut Way) {
        if way.by_rdma {
            (way.by_rdma, way.is_used) = (false, false);
            if let Some(ticket) = way.leaving.take() {
                self.forget(ticket);
            }
        }
    }

    fn forget(&self, ticket: Ticket) {
        self.fabric.forget(Ticket { slot: ticket.slot & !BY_RDMA, ..ticket });
    }

    #[cold]
    fn report(&self, node: usize, what: &str) {
        eprintln!("phalanx: node {}: the RDMA connection to node {node} {what}", self.fabric.here());
    }
}

/// Why nothing is posted to a node that is held. Once it is unreachable it stays so until it is held no more: without a
/// way for questions, and after one that it has not answered in time.
fn refusal(node: usize, is_unanswered: bool, trouble: Option<&PostError>) -> PostError {
    let why = "its RDMA connection broke, and it has not said yet that it has given up its own end of it".to_owned();
    match trouble {
        Some(error @ PostError::Unreachable { .. }) => error.clone(),
        _ if is_unanswered => PostError::Unreachable { node, why },
        _ => PostError::Full { node },
    }
}

fn words_of(offer: &Offer) -> [u64; OFFER_WORDS] {
    let bytes = offer.to_bytes();
    let (words, []) = bytes.as_chunks::<8>() else { unreachable!("an offer has whole words") };
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

fn offer_of(words: &[u64; OFFER_WORDS]) -> Option<Offer> {
    let mut bytes = [0; OFFER_BYTES];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    Offer::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_held_has_no_room_at_first_and_is_then_unreachable() {
        let node = 3;
        assert_eq!(refusal(node, false, None), PostError::Full { node });
        assert_eq!(refusal(node, false, Some(&PostError::Full { node })), PostError::Full { node });
        let said = refusal(node, true, None).to_string();
        assert!(said.contains("node 3") && said.contains("has given up") && said.contains("remedy"), "{said}");
        assert_eq!(refusal(node, true, Some(&PostError::Full { node })), refusal(node, true, None));
        let trouble = PostError::Unreachable { node, why: "refused".to_owned() };
        for is_unanswered in [false, true] {
            assert_eq!(refusal(node, is_unanswered, Some(&trouble)), trouble);
        }
    }
}
