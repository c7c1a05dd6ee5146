//! What all ranks share of a named object, at its home: who reads, who has permits, who holds a lease, what was written
//! last.
//!
//! Ranks that have ended count for nothing, as far as this node knows of it: of a lost node's ranks it does not know
//! which they are. Words that make no sense are left out.

use crate::coord::objects::directory::ObjectKind;
use crate::coord::objects::fenced::{CurrentWord, FencedAt};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::lease::{LeaseAt, LeaseWord};
use crate::coord::objects::permits::PermitsAt;
use crate::coord::objects::sharing::{PartWord, PhaseWord, SharingAt};
use crate::coord::objects::tally::TallyAt;
use crate::fabric::WordAt;
use crate::fabric::shm::ReadOnlySegment;

/// So often a word and what it names are read, until both belong together.
const LOOKS: u32 = 100;

/// What ranks have of an object together, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Of a reader-writer lock.
    Readers {
        /// Who writes, or waits until the readers are through.
        writer: Option<usize>,
        /// Who reads, or is about to.
        readers: Vec<usize>,
        /// Who reads when the writer is through.
        waiting: Vec<usize>,
    },
    /// Of a semaphore.
    Permits {
        /// How many there are.
        permits: u64,
        /// Who has how many of them, apart from the rank that waits.
        taken: Vec<(usize, u64)>,
        /// Who waits, with its turn, until it can have so many in all.
        waiting: Option<(usize, u64)>,
    },
    /// Of a lease.
    Lease {
        /// Who holds it, or held it until its time was over.
        holder: Option<usize>,
        /// Who waits, in their order.
        waiting: Vec<usize>,
    },
    /// Of a fenced word, what was written last.
    Written {
        /// Under which token.
        token: u64,
        /// The word.
        value: u64,
        /// By whom; `None` where that is not known any more.
        rank: Option<usize>,
    },
}

/// An object at its home, as a look at that node's memory shows it.
pub(super) struct AtHome<'a> {
    pub segment: &'a ReadOnlySegment,
    pub at: ObjectAt,
    /// Which ranks have ended.
    pub has_ended: &'a dyn Fn(usize) -> bool,
}

impl AtHome<'_> {
    fn load(&self, at: WordAt) -> u64 {
        self.segment.load(at)
    }

    fn job_ranks(&self) -> usize {
        self.segment.layout().job_ranks()
    }

    /// The ranks that have not ended.
    fn ranks(&self) -> impl Iterator<Item = usize> {
        (0..self.job_ranks()).filter(|rank| !(self.has_ended)(*rank))
    }

    /// A rank that there is.
    fn known(&self, rank: usize) -> Option<usize> {
        (rank < self.job_ranks()).then_some(rank)
    }

    /// What a counter holds: what was added here, and what was brought from earlier homes.
    pub fn count(&self) -> u64 {
        let tally = TallyAt(self.at);
        let carried = (0..self.job_ranks()).map(|rank| self.load(tally.carried(rank)));
        carried.fold(self.load(tally.value()), u64::wrapping_add)
    }

    /// What ranks have of an object of some kind; `permits`: what the object's parameter says.
    pub fn shared(&self, kind: ObjectKind, permits: u64) -> Option<Shared> {
        match kind {
            ObjectKind::RwLock => Some(self.readers()),
            ObjectKind::Semaphore => Some(self.permits(permits)),
            ObjectKind::Lease | ObjectKind::LeasedElection => Some(self.lease()),
            ObjectKind::Fenced => self.written(),
            ObjectKind::Lock | ObjectKind::Counter | ObjectKind::Election => None,
        }
    }

    fn readers(&self) -> Shared {
        let at = SharingAt::of(&self.at, self.job_ranks());
        let phase = PhaseWord(self.load(at.phase));
        let parts: Vec<(usize, PartWord)> =
            self.ranks().map(|rank| (rank, PartWord(self.load(at.parts.plus(rank))))).collect();
        let those = |is_one: &dyn Fn(PartWord) -> bool| {
            parts.iter().filter(|(_, part)| is_one(*part)).map(|(rank, _)| *rank).collect()
        };
        Shared::Readers {
            writer: phase.writer().and_then(|rank| self.known(rank)),
            readers: those(&|part| part.reads_in(phase.phase())),
            waiting: those(&|part| part.waits_for(phase.phase())),
        }
    }

    fn permits(&self, permits: u64) -> Shared {
        let at = PermitsAt::of(&self.at, self.job_ranks());
        let waiter = self.load(at.waiter);
        let counts = self.ranks().map(|rank| (rank, self.load(at.held.plus(rank)))).filter(|(_, count)| *count != 0);
        let (waiting, taken): (Vec<_>, _) = counts.partition(|(rank, _)| *rank as u64 + 1 == waiter);
        Shared::Permits { permits, taken, waiting: waiting.first().copied() }
    }

    fn lease(&self) -> Shared {
        let at = LeaseAt::of(&self.at, self.job_ranks(), true);
        let holder = LeaseWord(self.load(at.hold)).holder();
        let mut waiting: Vec<(u64, usize)> = self
            .ranks()
            .map(|rank| (self.load(at.claim(rank)), rank))
            .filter(|(order, rank)| *order != 0 && Some(*rank) != holder)
            .collect();
        waiting.sort_unstable();
        Shared::Lease {
            holder: holder.and_then(|rank| self.known(rank)).filter(|rank| !(self.has_ended)(*rank)),
            waiting: waiting.into_iter().map(|(_, rank)| rank).collect(),
        }
    }

    fn written(&self) -> Option<Shared> {
        let at = FencedAt::of(&self.at, self.job_ranks());
        for _ in 0..LOOKS {
            let current = CurrentWord(self.load(at.current));
            let Some((author, side)) = current.pair() else {
                return Some(Shared::Written { token: 0, value: 0, rank: None });
            };
            if author >= self.job_ranks() + self.segment.layout().nodes() {
                return None;
            }
            let [token, value] = at.pair(author, side).map(|at| self.load(at));
            // A side is written again only after the other one has become current.
            if self.load(at.current) == current.0 {
                return Some(Shared::Written { token, value, rank: self.known(author) });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coord::objects::directory::ObjectKind as Kind;
    use crate::coord::objects::layout::with_objects;
    use crate::fabric::Memory;
    use crate::fabric::node::{NodeLayout, ObjectTable};
    use crate::fabric::shm::Segment;
    use crate::inspect::objects::tests::look_at;
    use crate::sync::Ordering;

    const RANKS: usize = 5;

    /// What is seen of an object, after some words of it have been stored.
    fn seen(kind: Kind, has_ended: &dyn Fn(usize) -> bool, store: impl Fn(&Segment, ObjectAt)) -> Option<Shared> {
        let layout = with_objects(NodeLayout::new(2, 4096).in_job(RANKS, 3), 4);
        let segment = Segment::create(layout, 77, crate::coord::LAYOUT_HASH).expect("memory");
        let at = ObjectAt::of(&layout, ObjectTable::Home, 2);
        store(&segment, at);
        AtHome { segment: &look_at(&segment), at, has_ended }.shared(kind, 6)
    }

    fn put(segment: &Segment, at: WordAt, value: u64) {
        segment.word(at).store(value, Ordering::Relaxed);
    }

    #[test]
    fn readers_are_apart_from_those_who_wait_for_this_phase() {
        // Ranks: 0 reads; 1 waited for the phase before, and reads; 2 waits for this one; 3 does nothing; 4 has ended.
        let readers = seen(Kind::RwLock, &|rank| rank == 4, |segment, at| {
            let at = SharingAt::of(&at, RANKS);
            put(segment, at.phase, 8 << 21 | 4);
            let waits_for = |phase: u64| 2 | phase << 2;
            for (rank, part) in [1, waits_for(7), waits_for(8), 0, 1].into_iter().enumerate() {
                put(segment, at.parts.plus(rank), part);
            }
        });
        assert_eq!(readers, Some(Shared::Readers { writer: Some(3), readers: vec![0, 1], waiting: vec![2] }));
        let none = seen(Kind::RwLock, &|_| false, |segment, at| put(segment, SharingAt::of(&at, RANKS).phase, 99));
        assert_eq!(none, Some(Shared::Readers { writer: None, readers: vec![], waiting: vec![] }), "no such rank");
    }

    #[test]
    fn permits_are_those_of_ranks_that_live() {
        let permits = seen(Kind::Semaphore, &|rank| rank == 0, |segment, at| {
            let at = PermitsAt::of(&at, RANKS);
            put(segment, at.waiter, 3);
            for (rank, count) in [4, 1, 5, 0, 2].into_iter().enumerate() {
                put(segment, at.held.plus(rank), count);
            }
        });
        let expected = Shared::Permits { permits: 6, taken: vec![(1, 1), (4, 2)], waiting: Some((2, 5)) };
        assert_eq!(permits, Some(expected));
    }

    #[test]
    fn who_waits_for_a_lease_stands_in_the_order_of_the_claims() {
        for kind in [Kind::Lease, Kind::LeasedElection] {
            let lease = seen(kind, &|rank| rank == 3, |segment, at| {
                let at = LeaseAt::of(&at, RANKS, true);
                put(segment, at.hold, 2);
                for (rank, order) in [9, 8, 0, 2, 5].into_iter().enumerate() {
                    put(segment, at.claim(rank), order);
                }
            });
            assert_eq!(lease, Some(Shared::Lease { holder: Some(1), waiting: vec![4, 0] }));
        }
    }

    #[test]
    fn what_was_written_last_is_what_the_current_word_names() {
        let written = |author: u64| {
            seen(Kind::Fenced, &|_| false, |segment, at| {
                let at = FencedAt::of(&at, RANKS);
                put(segment, at.current, 3 << 19 | (author + 1) << 1 | 1);
                let words = usize::try_from(author).ok().filter(|author| *author < RANKS + 3);
                words.map(|author| at.pair(author, 1)).into_iter().for_each(|[token, value]| {
                    put(segment, token, 7);
                    put(segment, value, 42);
                });
            })
        };
        assert_eq!(written(4), Some(Shared::Written { token: 7, value: 42, rank: Some(4) }));
        assert_eq!(written(6), Some(Shared::Written { token: 7, value: 42, rank: None }), "a node's steward");
        assert_eq!(written(8), None, "nobody");
        let nothing = seen(Kind::Fenced, &|_| false, |_, _| ());
        assert_eq!(nothing, Some(Shared::Written { token: 0, value: 0, rank: None }));
    }
}
