//! An election's announcement: who leads, by which term, as it stands at the object's home. Written by whoever holds
//! the election's lock, whose token is the term.
//!
//! Two words, since a term does not fit beside a rank: the whole term, and a word with the leader and an excerpt of the
//! term ([`LeaderWord`]). There is a leader where both are of the same term. A leader changes the second word first,
//! then the first, each by compare-and-swap from what it has read there before, and only where neither is of a later
//! term: one that was stopped on the way and comes back when others have gone on changes nothing, or what the later one
//! puts right before it takes itself for announced. The terms that are read only grow.
//!
//! The leader keeps a copy on its own node, in two words that it changes in the same way, from which that node's
//! steward announces it anew where the object moves when its home is lost. It looks whether the home is lost when it
//! has changed them: it finds that it is, and announces itself at the next one, or the steward finds the copy.
//!
//! A leader that has a time to live may have been followed without having ended. Then a steward passes its copy by,
//! since the next one's announcement may be lost with the home: terms that are seen would fall.
//!
//! `exhaustive` tries every order of steps of some who announce themselves, and all of it, with those who watch, whom a
//! death or a loss of the home befalls.

use super::layout::ObjectAt;
use crate::fabric::{Request, WordAt};

#[cfg(test)]
mod exhaustive;

/// Where the words of an election stand, at its home: behind those of a lease, which one with a time to live has
/// there, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElectionAt {
    /// The last term.
    pub term: WordAt,
    /// [`LeaderWord`].
    pub leader: WordAt,
    /// Whether somebody watches, or has: then the ranks' words say who.
    pub watched: WordAt,
}

impl ElectionAt {
    /// The words of an object at its home.
    pub const fn of(at_home: &ObjectAt) -> Self {
        Self { term: at_home.own(2), leader: at_home.own(3), watched: at_home.own(4) }
    }

    /// Where a rank says that it watches: behind its claim to a lease.
    pub const fn watches(at_home: &ObjectAt, rank: usize) -> WordAt {
        at_home.of_rank(rank).plus(1)
    }

    /// What an [`Announcement`] is made of. In this order: who finds a leader in the second word has found its term in
    /// the first, or nothing that fits.
    pub const fn reads(self) -> [Request; 2] {
        [Request::Read { at: self.term }, Request::Read { at: self.leader }]
    }

    /// What a rank asks that looks who leads: an [`Announcement`]. By its own word, if it watches, it is to be told of
    /// changes from now on: that is written before the look, since an announcement is made the other way round.
    pub fn look(self, watches: Option<WordAt>) -> Vec<Request> {
        let noted = watches.into_iter().flat_map(|own| [own, self.watched]);
        noted.map(|at| Request::Write { at, value: 1 }).chain(self.reads()).collect()
    }

    /// Takes a rank's announcement back, if it is the last one. The second answer: whether somebody watches.
    pub const fn withdraw(self, rank: usize, term: u64) -> [Request; 2] {
        let (mine, none) = (LeaderWord::led_by(rank, term), LeaderWord::resigned(term));
        [Request::CompareSwap { at: self.leader, expected: mine.0, new: none.0 }, Request::Read { at: self.watched }]
    }
}

/// Where a leader's copy of its announcement stands, on its own node. The words before it tell what the node has to do
/// with the object's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptAt {
    term: WordAt,
    leader: WordAt,
}

impl KeptAt {
    /// The words of an object on its leader's node.
    pub const fn of(here: &ObjectAt) -> Self {
        Self { term: here.own(8), leader: here.own(9) }
    }

    /// What makes an [`Announcement`] of the copy.
    pub const fn reads(self) -> [Request; 2] {
        [Request::Read { at: self.term }, Request::Read { at: self.leader }]
    }

    /// What a rank does once it is announced, by the answers to [`reads`](Self::reads); when that is nothing any more,
    /// it looks whether the home is lost.
    pub fn keep(self, found: [u64; 2], rank: usize, term: u64) -> Announcing {
        Announcement::of(found).announce(self.term, self.leader, rank, term)
    }

    /// What it does before it takes its announcement back, so that a steward that announces it anew sees that it is not
    /// to: nothing where the copy is another one's.
    pub const fn forget(self, rank: usize, term: u64) -> Request {
        Request::CompareSwap { at: self.leader, expected: LeaderWord::led_by(rank, term).0, new: 0 }
    }
}

/// Who leads. 0: nobody ever has.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–23 | leader | its rank in the job, plus 1; 0: it has resigned |
/// | 24–63 | term | of the term, its lower 40 bits plus the upper 24 times 2^30 |
///
/// The excerpts of two terms that are announced at the same time differ, and that of the later one is less than half of
/// all ahead: terms grow by some at a time, and by 2^44 for each node that is lost. (Which of two is later that are
/// further apart, as a copy is on a node that had no leader for long, the whole term tells.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaderWord(pub u64);

impl LeaderWord {
    const RANK_BITS: u32 = 24;
    const TERM_BITS: u32 = u64::BITS - Self::RANK_BITS;
    const TERM: u64 = (1 << Self::TERM_BITS) - 1;

    /// What is upper in a term counts so much in its excerpt.
    const UPPER_AT: u32 = 30;

    /// A rank leads.
    pub const fn led_by(rank: usize, term: u64) -> Self {
        Self((rank as u64 + 1) | Self::excerpt(term) << Self::RANK_BITS)
    }

    /// The leader of a term has resigned.
    pub const fn resigned(term: u64) -> Self {
        Self(Self::excerpt(term) << Self::RANK_BITS)
    }

    const fn excerpt(term: u64) -> u64 {
        term.wrapping_add(term >> Self::TERM_BITS << Self::UPPER_AT) & Self::TERM
    }

    #[allow(clippy::cast_possible_truncation, reason = "24 bits")]
    const fn leader(self) -> Option<usize> {
        match self.0 & ((1 << Self::RANK_BITS) - 1) {
            0 => None,
            rank => Some(rank as usize - 1),
        }
    }

    const fn is_of(self, term: u64) -> bool {
        self.0 >> Self::RANK_BITS == Self::excerpt(term)
    }

    /// Whether it is of a later term than this one.
    const fn is_after(self, term: u64) -> bool {
        let ahead = (self.0 >> Self::RANK_BITS).wrapping_sub(Self::excerpt(term)) & Self::TERM;
        self.0 != 0 && ahead != 0 && ahead < 1 << (Self::TERM_BITS - 1)
    }
}

/// What was read of an election's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    term: u64,
    leader: LeaderWord,
}

/// What one that has been elected does next with the two words of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcing {
    /// These requests; then it reads again.
    Ask([Request; 2]),
    /// Nothing: all who look find it.
    Done,
    /// Nothing: another one has been elected since.
    Superseded,
}

impl Announcement {
    /// By the answers to [`ElectionAt::reads`].
    pub const fn of(answers: [u64; 2]) -> Self {
        Self { term: answers[0], leader: LeaderWord(answers[1]) }
    }

    /// Who leads, and by which term.
    pub const fn leader(self) -> Option<(usize, u64)> {
        match self.leader.leader() {
            Some(rank) if self.leader.is_of(self.term) => Some((rank, self.term)),
            _ => None,
        }
    }

    /// How a rank announces that it leads, by a term, where the two words stand there.
    fn announce(self, term_at: WordAt, leader_at: WordAt, rank: usize, term: u64) -> Announcing {
        // Where both words are of one term that tells, however many homes were lost since.
        if self.term > term || !self.leader.is_of(self.term) && self.leader.is_after(term) {
            return Announcing::Superseded;
        }
        let leader = LeaderWord::led_by(rank, term);
        if self == (Self { term, leader }) {
            return Announcing::Done;
        }
        Announcing::Ask([
            Request::CompareSwap { at: leader_at, expected: self.leader.0, new: leader.0 },
            Request::CompareSwap { at: term_at, expected: self.term, new: term },
        ])
    }
}

/// One that has been elected, on its way to being announced at a home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announcer {
    at: ElectionAt,
    rank: usize,
    term: u64,
    is_watched: bool,
}

/// What it does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Asks the home, in this order, and hands the answers in.
    Ask(Vec<Request>),
    /// Nothing: all who look find it.
    Done {
        /// Whether somebody watches, or has.
        is_watched: bool,
    },
    /// Nothing: another one has been elected since.
    Superseded,
}

impl Announcer {
    /// Begins, with what is to be asked.
    pub fn begin(at: ElectionAt, rank: usize, term: u64) -> (Self, Vec<Request>) {
        let announcer = Self { at, rank, term, is_watched: false };
        let reads = announcer.reads().collect();
        (announcer, reads)
    }

    /// Who watches is looked for after the swaps: one that notes itself later looks later, too, and finds the
    /// announcement.
    fn reads(&self) -> impl Iterator<Item = Request> + use<> {
        [Request::Read { at: self.at.watched }].into_iter().chain(self.at.reads())
    }

    /// The answers have come.
    pub fn answered(&mut self, answers: &[u64]) -> Announced {
        let [.., watched, term, leader] = *answers else { unreachable!("three reads at least") };
        self.is_watched |= watched != 0;
        match Announcement::of([term, leader]).announce(self.at.term, self.at.leader, self.rank, self.term) {
            Announcing::Done => Announced::Done { is_watched: self.is_watched },
            Announcing::Superseded => Announced::Superseded,
            Announcing::Ask(swaps) => Announced::Ask(swaps.into_iter().chain(self.reads()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_leader_of_long_ago_is_no_later_one() {
        let kept = KeptAt { term: WordAt(0), leader: WordAt(1) };
        for lives in [1, 33, 40, 63, 64, 1000] {
            let found = [5, LeaderWord::led_by(1, 5).0];
            assert!(matches!(kept.keep(found, 2, (lives << 44) + 7), Announcing::Ask(_)), "{lives} homes later");
        }
        assert_eq!(kept.keep([9, LeaderWord::led_by(1, 9).0], 2, 8), Announcing::Superseded);
    }

    #[test]
    fn a_leader_is_read_as_it_was_announced() {
        assert_eq!(Announcement::of([0, 0]).leader(), None);
        for term in [1, 255, 1 << 40, u64::MAX] {
            let read = |leader: LeaderWord| Announcement::of([term, leader.0]).leader();
            assert_eq!(read(LeaderWord::led_by(1 << 23, term)), Some((1 << 23, term)));
            assert_eq!((read(LeaderWord::resigned(term)), read(LeaderWord::led_by(0, term - 1))), (None, None));
        }
    }
}
