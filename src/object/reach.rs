//! What a rank can reach for the sake of named objects: its node's words, the other nodes, and who of the job has
//! ended.
//!
//! A part of the membership, so that the steward's thread ([`super::steward`]) can have it, too.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use super::errands::Errands;
use super::site::PATIENCE;
use super::{Holding, Turn};
use crate::cluster::sentinel::{self, ring};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::coord::drive;
use crate::coord::wait::WaitPlan;
use crate::fabric::network::Network;
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::shm::Segment;
use crate::fabric::tcp::Ports;
use crate::fabric::{Await, Fabric, Memory, Park, Request, Topology, WordAt, execute};
use crate::job::shut_out;
use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence};

/// Between two looks whether another thread of this rank still uses the table.
const TURN_PAUSE: Duration = Duration::from_micros(100);
/// How many ranks of a node are asked after at most.
const MOST_ASKED_AFTER: usize = 64;

/// A rank's way to everything that named objects are made of.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub segment: Arc<Segment>,
    pub rank: usize,
    /// Where it is noted how this rank has ended.
    pub end_at: WordAt,
    pub topology: Arc<Topology>,
    /// How each node's segment is divided.
    pub layouts: Arc<[NodeLayout]>,
    /// The way to the other nodes, if there are any.
    pub network: Option<Arc<Network>>,
    /// How to wait.
    pub plan: WaitPlan,
    pub uses: Arc<Uses>,
    /// Homes that have not answered by then are waited for no more.
    pub until: Option<Instant>,
}

/// What this rank does with objects, whichever of its threads and handles.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// By the places of their keys.
    turns: Mutex<HashMap<WordAt, Weak<Turn>>>,
    /// Permits, likewise.
    holdings: Mutex<HashMap<WordAt, Weak<Mutex<Holding>>>>,
    /// Held by the thread of this rank that uses its node's table of objects.
    table: Mutex<()>,
    /// What its handles of an object share besides, likewise.
    shared: Mutex<HashMap<WordAt, Weak<dyn Any + Send + Sync>>>,
    /// Numbers that it has given to what it does at homes.
    numbers: AtomicU64,
    /// To whom of those that the job has lost this process's connections are dropped: up to this epoch.
    shut_out_to: AtomicU64,
    /// Up to this epoch the log is known to say nothing of this rank's node.
    clear_to: AtomicU64,
    /// What it has left to do at homes that did not answer in time.
    pub(super) errands: Errands,
    /// Whether this rank is leaving the job.
    is_leaving: AtomicU32,
}

impl Uses {
    /// What this rank does with the lock whose key stands at a place: one for all of its handles.
    pub fn turn_at(&self, key: WordAt) -> Arc<Turn> {
        shared_at(&self.turns, key)
    }

    /// What this rank has of the semaphore whose key stands at a place.
    pub fn holding_at(&self, key: WordAt) -> Arc<Mutex<Holding>> {
        shared_at(&self.holdings, key)
    }

    /// What this rank's handles share of the object whose key stands at a place: one for all of them.
    pub fn shared_at<T: Any + Send + Sync + Default>(&self, key: WordAt) -> Arc<T> {
        let mut shared = lock(&self.shared);
        let known = shared.get(&key).and_then(Weak::upgrade).and_then(|known| known.downcast::<T>().ok());
        if let Some(known) = known {
            return known;
        }
        shared.retain(|_, known| known.strong_count() > 0);
        let new: Arc<T> = Arc::default();
        let weak: Weak<T> = Arc::downgrade(&new);
        shared.insert(key, weak);
        new
    }

    /// This rank is leaving the job: no home is waited for long any more.
    pub fn leave(&self) {
        // Relaxed: whoever waits looks again and again.
        self.is_leaving.store(1, Ordering::Relaxed);
    }

    /// A number that this rank has not had before.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Taken by the thread of this rank that is to use the table.
    pub fn table(&self) -> MutexGuard<'_, ()> {
        lock(&self.table)
    }

    /// As [`table`](Self::table), within so long: another thread may use it while a home does not answer.
    pub fn table_within(&self, limit: Option<Duration>) -> Option<MutexGuard<'_, ()>> {
        let Some(limit) = limit else { return Some(self.table()) };
        let begun = Instant::now();
        loop {
            match self.table.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= limit => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_PAUSE),
            }
        }
    }
}

impl Reach {
    /// The same, by which homes are waited for so long, all of what they are asked together.
    pub fn within(&self, limit: Duration) -> Self {
        Self { until: Some(Instant::now() + limit), ..self.clone() }
    }

    /// Whether a home that was asked at a time is waited for no more, though the call that asks has no limit: the time
    /// of [`within`](Self::within) is over, or this rank is leaving the job.
    pub fn gives_up(&self, asked: Instant) -> bool {
        // Relaxed: see `leave`.
        let is_leaving = || self.uses.is_leaving.load(Ordering::Relaxed) != 0 && asked.elapsed() >= PATIENCE;
        self.until.is_some_and(|until| Instant::now() >= until) || is_leaving()
    }

    /// This rank's node.
    pub fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }

    /// This rank's place in its node's rank table.
    pub fn local(&self) -> usize {
        self.topology.local_of(self.rank)
    }

    /// Whether the job has several nodes.
    pub fn spans_nodes(&self) -> bool {
        self.topology.nodes() > 1
    }

    /// Whether a node is lost to the job: it has been declared failed, or all of its ranks have left.
    pub fn has_lost(&self, node: usize) -> bool {
        let layout = self.segment.layout();
        ring::has_failed(&*self.segment, &layout, node) || sentinel::has_left(&*self.segment, &layout, node)
    }

    /// The nodes that are not lost.
    pub fn live_nodes(&self) -> impl Iterator<Item = usize> {
        (0..self.topology.nodes()).filter(|node| !self.has_lost(*node))
    }

    /// Whether nothing is heard of a node, and too few others are left to agree that it has failed.
    pub fn is_doubtful(&self, node: usize) -> bool {
        // Relaxed: the alarm that is raised after it has waiters look.
        self.segment.word(self.segment.layout().doubt(node)).load(Ordering::Relaxed) != 0
    }

    /// A node of which that is so.
    pub fn doubted(&self) -> Option<usize> {
        (0..self.topology.nodes()).find(|node| self.is_doubtful(*node))
    }

    /// Whether a rank of the job has ended, as this node's ranks go by it.
    pub fn has_ended(&self, rank: usize) -> bool {
        let node = self.topology.node_of(rank);
        if node == self.here() {
            return self.has_ended_here(self.topology.local_of(rank));
        }
        self.has_lost(node) || self.epoch_of(rank).is_some()
    }

    /// Whether a rank of this node has ended, by its place in the node's rank table.
    #[inline]
    pub fn has_ended_here(&self, local: usize) -> bool {
        view::has_ended(&*self.segment, &self.segment.layout(), local)
    }

    /// The epoch in which the job has lost a rank.
    pub fn epoch_of(&self, rank: usize) -> Option<u64> {
        let (segment, layout) = (&*self.segment, self.segment.layout());
        let is_of = |epoch: &u64| matches!(view::obituary(segment, &layout, *epoch), Some(lost) if lost.unit == Unit::Rank(rank));
        (1..=view::epoch(segment, &layout)).find(is_of)
    }

    /// Drops this process's connections to whoever the job has lost: what waits for an agent that is stopped is lost
    /// with them, and asked of the next one.
    pub fn shut_out_the_lost(&self) {
        let Some(network) = &self.network else { return };
        let (segment, layout) = (&*self.segment, self.segment.layout());
        let epoch = self.epoch();
        // Relaxed: once is enough, and again does no harm.
        let known = self.uses.shut_out_to.fetch_max(epoch, Ordering::Relaxed);
        let lost = (known + 1..=epoch).filter_map(|epoch| view::obituary(segment, &layout, epoch));
        lost.for_each(|lost| shut_out(network, self.here(), lost));
    }

    /// The last epoch that this node's ranks go by.
    pub fn epoch(&self) -> u64 {
        view::epoch(&*self.segment, &self.segment.layout())
    }

    /// How many nodes the job has lost: an object has had no more homes, besides the first. The numbers of each begin
    /// with this count in the bits above [`LIFE_AT`], so that they are greater than those before: whoever knows of a
    /// loss knows of one more than whoever began the home that is lost by it.
    ///
    /// [`LIFE_AT`]: crate::coord::objects::home::moving::LIFE_AT
    pub fn lives(&self) -> u64 {
        (0..self.topology.nodes()).filter(|node| self.has_lost(*node)).count() as u64
    }

    /// How this rank has ended, in the eyes of the others, and in which epoch; 0 where that is not known.
    #[inline]
    pub fn own_end(&self) -> Option<(u64, FailureCause)> {
        if self.nothing_is_noted() { None } else { self.find_own_end() }
    }

    /// Whether none of the words that tell of this rank's end says anything new: two words of its node's; in a job of
    /// several nodes a third one, which is compared with how far this rank has read the log.
    #[inline]
    fn nothing_is_noted(&self) -> bool {
        // Relaxed, all of them: whoever finds something looks again.
        let word = |at: WordAt| self.segment.word(at).load(Ordering::Relaxed);
        let has_read_all = || word(header::EPOCH) <= self.uses.clear_to.load(Ordering::Relaxed);
        (!self.spans_nodes() || has_read_all()) && word(self.end_at) == 0 && word(header::EXCLUDED) == 0
    }

    /// Reads the log; once for each epoch, where this rank has not ended.
    #[cold]
    fn find_own_end(&self) -> Option<(u64, FailureCause)> {
        let (segment, layout) = (&*self.segment, self.segment.layout());
        // Before the log is looked at: an epoch that comes while it is being read is one that has not been read, and is
        // looked for at the next call.
        let epoch = self.epoch();
        let noted = view::end_of(segment, &layout, self.local());
        // Relaxed: the alarm that was raised after it is what tells.
        let is_shut_out = || segment.word(header::EXCLUDED).load(Ordering::Relaxed) != 0;
        // It may have been told of the epoch alone, where little of what others say gets through.
        let is_lost = || view::epoch(segment, &layout) > 0 && ring::has_failed(segment, &layout, self.here());
        if noted.is_none() && !is_shut_out() && !is_lost() {
            // Relaxed: it keeps this rank's threads from reading again what never changes, and says nothing of other
            // words. `fetch_max`: another thread of the rank may have read more of it.
            self.uses.clear_to.fetch_max(epoch, Ordering::Relaxed);
            return None;
        }
        let is_mine = |lost: &Obituary| lost.unit == Unit::Rank(self.rank) || lost.unit == Unit::Node(self.here());
        let epochs = 1..=view::epoch(segment, &layout);
        let mut lost = epochs.filter_map(|epoch| Some((epoch, view::obituary(segment, &layout, epoch)?)));
        let logged = lost.find(|(_, lost)| is_mine(lost)).map(|(epoch, lost)| (epoch, lost.cause));
        Some(logged.unwrap_or((0, noted.map_or(FailureCause::Silent, |end| end.cause))))
    }

    /// What the alarm holds.
    pub fn alarm(&self) -> u64 {
        drive::alarm(&*self.segment)
    }

    /// A request to a word of this node, which is no other nodes' but by way of its CPUs: of an object that is at home
    /// here see [`Site`](super::site::Site).
    pub fn execute(&self, request: Request) -> u64 {
        execute(&*self.segment, request).0
    }

    /// Has a rank look at what it waits for.
    pub fn poke(&self, rank: usize) {
        let node = self.topology.node_of(rank);
        let at = self.layouts[node].poked(self.topology.local_of(rank));
        if node == self.here() {
            self.execute(Request::FetchAdd { at, add: 1 });
        } else {
            self.hint(node, at);
        }
    }

    /// Adds to a word of another node by which it is asked to look at something. By sockets, because that word is its
    /// CPUs'. In order with nothing else: whoever comes too soon looks again.
    fn hint(&self, node: usize, at: WordAt) {
        let sockets = self.network.as_deref().map(Network::by_sockets);
        if let Some(sockets) = sockets
            && let Ok(ticket) = sockets.fetch_add(node, at, 1)
        {
            sockets.forget(ticket);
        }
    }

    /// Tells another node that somebody waits for its ranks: those that are stopped hold others up.
    pub fn ask_after(&self, node: usize) {
        if node == self.here() {
            return;
        }
        let layout = self.layouts[node];
        (0..layout.ranks().min(MOST_ASKED_AFTER)).for_each(|local| self.hint(node, layout.asked_after(local)));
    }

    /// Tells those who watch a node that somebody misses it: they know whether it has left. One that turns out to have
    /// left itself is passed over when the question is repeated.
    pub fn ask_watchers_of(&self, home: usize) {
        let Some(network) = self.network.as_deref() else { return };
        let (here, node) = (self.here(), self.segment.layout());
        let is_gone = |other| other != here && network.ports(other) == Ports::Closed;
        for watcher in ring::watchers_of(&*self.segment, &node, home, is_gone) {
            let at = self.layouts[watcher].missed(home);
            if watcher == here {
                self.segment.word(at).fetch_add(1, Ordering::Relaxed);
            } else {
                self.hint(watcher, at);
            }
        }
    }

    /// The word by which others have this rank look.
    pub fn poked_at(&self) -> WordAt {
        self.segment.layout().poked(self.local())
    }

    /// What a word of this node holds.
    pub fn load(&self, at: WordAt) -> u64 {
        // SYNC POINT: poke. Acquire pairs with who has changed it, here or through a fabric.
        self.segment.word(at).load(Ordering::Acquire)
    }

    /// Sleeps while a word of this node, which others change through the fabric or by [`execute`](Self::execute), holds
    /// what was seen in it; not while the alarm differs from `alarm`, and not for longer than `timeout`.
    pub fn sleep(&self, at: WordAt, seen: u64, alarm: u64, timeout: Duration) {
        let longest = self.network.as_deref().and_then(Await::longest_nap).unwrap_or(timeout);
        if let Some(network) = &self.network {
            network.hand_over();
        }
        let sleepers = self.segment.word(header::FABRIC_SLEEPERS);
        sleepers.fetch_add(1, Ordering::Relaxed);
        // SYNC POINT: fabric sleepers. Counted before the word is compared (by the kernel); `execute` does it the other
        // way round.
        full_fence();
        self.segment.park_heeding(at, seen, alarm, Some(timeout.min(longest)));
        sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all handles of a rank share of an object.
fn shared_at<T: Default>(all: &Mutex<HashMap<WordAt, Weak<T>>>, key: WordAt) -> Arc<T> {
    let mut all = lock(all);
    if let Some(shared) = all.get(&key).and_then(Weak::upgrade) {
        return shared;
    }
    all.retain(|_, shared| shared.strong_count() > 0);
    let shared = Arc::default();
    all.insert(key, Arc::downgrade(&shared));
    shared
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::coord::LAYOUT_HASH;
    use crate::coord::wait::WaitPolicy;

    /// Rank 1, the only one on the second of three nodes, none of which is there but for its words.
    fn reach() -> Reach {
        let layout = NodeLayout::new(1, 4096).in_job(3, 3);
        let segment = Arc::new(Segment::create(layout, 77, LAYOUT_HASH).expect("memory for a small segment"));
        Reach {
            segment,
            rank: 1,
            end_at: layout.end(0),
            topology: Arc::new(Topology::from_keys(&[0, 1, 2])),
            layouts: [layout; 3].into(),
            network: None,
            plan: WaitPlan::new(WaitPolicy::Park, true),
            uses: Arc::default(),
            until: None,
        }
    }

    /// The job loses a node in the next epoch; gives which one that is.
    fn lose(reach: &Reach, node: usize) -> u64 {
        let lost = Obituary { unit: Unit::Node(node), cause: FailureCause::Silent };
        let epoch = view::append(&*reach.segment, &reach.segment.layout(), lost);
        view::open_to(&*reach.segment, epoch);
        epoch
    }

    #[test]
    fn the_log_is_read_once_for_each_epoch() {
        let reach = reach();
        assert!(reach.nothing_is_noted());
        for node in [2, 0] {
            lose(&reach, node);
            assert!(!reach.nothing_is_noted(), "that node {node} is lost was not looked at");
            assert_eq!(reach.own_end(), None);
            assert!(reach.nothing_is_noted(), "each call reads the log, from when node {node} is lost");
        }
        let epoch = lose(&reach, reach.here());
        for _ in 0..2 {
            assert_eq!(reach.own_end(), Some((epoch, FailureCause::Silent)));
        }
    }
}
