//! How an object's words are divided, and where in a node's table of objects they stand. Positions only.
//!
//! Each object has a place of the same size, whatever it is: the ranks that open it under a name find it by that name
//! ([`super::directory`]). The picture stands in docs/design.md, "Objects".

use super::block::{BlockWord, block_of};
use super::copies::{CopiesAt, CopyAt};
use super::directory::KeyWord;
use super::election::{ElectionAt, LeaderWord};
use super::fenced::{CurrentWord, FencedAt};
use super::home::{GlobalWord, HomeAt, NodeClaim};
use super::lease::LeaseWord;
use super::queue::QueueAt;
use super::shared_hold::{MOST_JOINED, SharedWord, Stand};
use super::sharing::{PartWord, PhaseWord};
use super::tally::TallyAt;
use super::tenure::{PlaceWord, Tenure, TenureAt, TenureWord};
use super::word::{self, ClaimWord, SinceWord};
use crate::fabric::node::{NodeLayout, ObjectTable, hash};
use crate::fabric::{LINE_WORDS, WordAt};

/// The longest name of an object, in bytes.
pub const NAME_BYTES: usize = 96;
/// Words of a name.
pub const NAME_WORDS: usize = NAME_BYTES / 8;
/// Words before the name: the check, two parameters, and since when the object is held.
const FACTS: usize = 4;

const _: () = assert!(FACTS + NAME_WORDS <= LINE_WORDS);

/// Lines of an object, besides those with a word for each member: who it is, its state, what each kind uses as it
/// likes.
const LINES: usize = 3;
/// Words for each member: its claim, how often it has passed others, how many handles it has, its stake, and its notes.
const MEMBER_WORDS: usize = 4 + NOTE_WORDS;
/// Words of a member's notes: two pairs, as of a value with a token.
pub const NOTE_WORDS: usize = 4;
/// Words of each rank of the job, in the home's table: two pairs, for values with a token each.
pub const RANK_WORDS: usize = 4;

/// The most objects that a node can have room for.
pub const MOST_OBJECTS: usize = 1 << 20;

/// Words of one object in each of a node's tables. Where it is used its members are the node's ranks; at its home they
/// are the job's nodes, and each rank of the job has some words besides.
pub const fn object_words(node: &NodeLayout) -> [usize; 2] {
    let of_ranks = (RANK_WORDS * node.job_ranks()).next_multiple_of(LINE_WORDS);
    [words_of_members(node.ranks()), words_of_members(node.nodes()) + of_ranks + words_of_parts(node)]
}

const fn words_of_parts(node: &NodeLayout) -> usize {
    node.job_ranks().next_multiple_of(LINE_WORDS)
}

const fn words_of_members(members: usize) -> usize {
    LINES * LINE_WORDS + MEMBER_WORDS * members.next_multiple_of(LINE_WORDS)
}

/// A node's division with places for so many objects.
pub const fn with_objects(node: NodeLayout, objects: usize) -> NodeLayout {
    node.with_objects(objects, object_words(&node))
}

/// Where the words of one object stand, in one of a node's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectAt {
    key: WordAt,
    start: WordAt,
    members: usize,
    /// Words of it in all.
    words: usize,
    /// Its place in the table.
    index: usize,
    /// Where its ranks' parts begin, in the home's table.
    parts: usize,
}

impl ObjectAt {
    /// The object at place `index` of a node's table. Place 0 is the table's own: its lock guards the others' names.
    ///
    /// # Panics
    ///
    /// When there is no such place.
    pub const fn of(node: &NodeLayout, table: ObjectTable, index: usize) -> Self {
        assert!(index <= node.objects(), "there is no such object");
        let members = match table {
            ObjectTable::Here => node.ranks(),
            ObjectTable::Home => node.nodes(),
        };
        let (key, start) = (node.object_key(table, index), node.object(table, index));
        let words = node.object_words()[table as usize];
        let parts = words.saturating_sub(words_of_parts(node));
        Self { key, start, members, words, index, parts }
    }

    /// Its place in the table.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Whose place it is; see [`super::directory::KeyWord`].
    pub const fn key(&self) -> WordAt {
        self.key
    }

    /// The rest of the name's hash: two names with the same key differ here.
    pub const fn check(&self) -> WordAt {
        self.start
    }

    /// Parameter 0 or 1: what kind of object it is, and what the kind wants.
    pub const fn parameter(&self, index: usize) -> WordAt {
        self.start.plus(1 + index)
    }

    /// Word `index` of the name, for people who look.
    pub const fn name(&self, index: usize) -> WordAt {
        self.start.plus(FACTS + index)
    }

    /// A counter's value; what a lock counts is in [`queue`](Self::queue).
    pub const fn value(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 2)
    }

    /// Word `index` of those that each kind of object uses as it likes.
    pub const fn own(&self, index: usize) -> WordAt {
        assert!(index < LINE_WORDS, "a line of them");
        self.start.plus(2 * LINE_WORDS + index)
    }

    /// The first of a rank's [`RANK_WORDS`] words: only it writes there, but in what was carried of a counter
    /// ([`super::tally`]). In the home's table.
    pub const fn of_rank(&self, job_rank: usize) -> WordAt {
        self.start.plus(words_of_members(self.members) + RANK_WORDS * job_rank)
    }

    /// In place 0: the greatest number of the table's objects that have gone, or how many there have been; see
    /// [`super::directory`].
    pub const fn greatest(&self) -> WordAt {
        self.own(LINE_WORDS - 1)
    }

    /// A rank's part in what all share: one more word that only it writes, beside those of the other ranks, so that all
    /// are read together. Not one of the above: a late write of one that has died is not another kind's. In the home's
    /// table.
    pub const fn part(&self, job_rank: usize) -> WordAt {
        self.start.plus(self.parts + job_rank)
    }

    /// The part of a node in what all share, which its ranks have together ([`super::shared_hold`]): in the home's
    /// table, where no other kind has anything there.
    pub const fn node_part(&self, node: usize) -> WordAt {
        self.stake(node)
    }

    /// Where a node that has a part has the object in its own table: likewise.
    pub const fn node_place(&self, node: usize) -> WordAt {
        self.of_members(1).plus(node)
    }

    /// The hold that a node's ranks share: in the table of the objects that they have.
    pub const fn shared_hold(&self) -> WordAt {
        self.own(13)
    }

    /// The lock between nodes, in the home's table.
    pub const fn home(&self) -> HomeAt {
        let queue = self.queue();
        HomeAt { hold: queue.hold, numbers: queue.high, claims: queue.claims, nodes: self.members }
    }

    /// The lock of one node's ranks, in the table of the objects that they have.
    pub const fn queue(&self) -> QueueAt {
        QueueAt {
            hold: self.start.plus(LINE_WORDS),
            high: self.start.plus(LINE_WORDS + 1),
            arrivals: self.start.plus(LINE_WORDS + 3),
            claims: self.of_members(0),
            passings: self.of_members(1),
            ranks: self.members,
        }
    }

    /// Since when the object is held: [`super::word::SinceWord`]. For those who look from outside, and noted only where
    /// somebody waits (of a lease: always); in a line that is seldom written, as each release looks whether there is
    /// something to clear.
    pub const fn held_since(&self) -> WordAt {
        self.start.plus(3)
    }

    /// The token of the hold that is noted there; 0 where it is not known.
    pub const fn held_token(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 4)
    }

    /// How many handles a member has of the object.
    pub const fn handles(&self, member: usize) -> WordAt {
        self.of_members(2).plus(member)
    }

    /// What a rank of the node has at the object's home, as its kind says that: for whoever moves it to the next home.
    pub const fn stake(&self, member: usize) -> WordAt {
        self.of_members(3).plus(member)
    }

    /// Word `index` of what a rank of the node notes besides its stake, for the same. In the home's table: of the pairs
    /// that a node's steward writes of a fenced word.
    pub const fn note(&self, member: usize, index: usize) -> WordAt {
        assert!(index < NOTE_WORDS, "so many for each member");
        self.of_members(4).plus(NOTE_WORDS * member + index)
    }

    /// The first of the members' words of a sort.
    const fn of_members(&self, sort: usize) -> WordAt {
        self.start.plus(LINES * LINE_WORDS + sort * self.members.next_multiple_of(LINE_WORDS))
    }

    /// How many members it has: the node's ranks, or the job's nodes.
    pub const fn members(&self) -> usize {
        self.members
    }

    /// All words of the object that are 0 when it is new: those behind who it is.
    pub fn state(&self) -> impl Iterator<Item = WordAt> {
        let start = self.start;
        (LINE_WORDS..self.words).map(move |offset| start.plus(offset))
    }
}

/// Hash over the positions in this file and in those of the kinds, and over what kinds pack into words.
pub const LAYOUT_HASH: u64 = {
    let at = ObjectAt { key: WordAt(10), start: WordAt(1000), members: 3, words: 0, index: 1, parts: 500 };
    hash(
        9,
        &[
            words_of_members(3) as u64,
            at.own(1).0 as u64,
            at.of_rank(1).0 as u64,
            at.parameter(1).0 as u64,
            at.name(1).0 as u64,
            at.value().0 as u64,
            at.queue().high.0 as u64,
            at.queue().arrivals.0 as u64,
            at.queue().claims.0 as u64,
            at.queue().passings.0 as u64,
            at.held_since().0 as u64,
            at.held_token().0 as u64,
            at.handles(1).0 as u64,
            at.stake(1).0 as u64,
            at.note(1, 1).0 as u64,
            at.part(1).0 as u64,
            at.greatest().0 as u64,
            at.node_part(1).0 as u64,
            at.node_place(1).0 as u64,
            at.shared_hold().0 as u64,
            CopiesAt(at).second().0 as u64,
            CopiesAt(at).looked_after().0 as u64,
            CopyAt(at).complete().0 as u64,
            CopyAt(at).told().0 as u64,
            CopyAt(at).made().0 as u64,
            CopyAt(at).of()[1].0 as u64,
            block_of(&at).0 as u64,
            TallyAt(at).added(1).0 as u64,
            TallyAt(at).carried(1).0 as u64,
            FencedAt::of(&at, 3).nodes.0 as u64,
            ElectionAt::of(&at).leader.0 as u64,
            ElectionAt::watches(&at, 1).0 as u64,
            TenureAt(at).streak().0 as u64,
            CurrentWord::VERSION_AT as u64,
            LeaseWord::NUMBER_AT as u64,
            TenureWord::VERSION_AT as u64,
            PlaceWord::NODE_AT as u64,
            hash(9, &EXAMPLES),
        ],
    )
};

/// Packed words, for the hash: bits that are elsewhere, or mean something else, make other words.
const EXAMPLES: [u64; 22] = [
    word::HoldWord(0).granted_to(1).with_next(Some(2)).0,
    word::HoldWord(0).granted_to(1).freed(true).0,
    ClaimWord::waiting(3).parked().called().0,
    ClaimWord::granted(3).0,
    SinceWord::granted(1, 2).0,
    KeyWord(0).filled_by(1).live(2).0,
    GlobalWord::held(1, 2, true).0,
    GlobalWord::KEPT,
    NodeClaim::waiting(1, 2).0,
    LeaderWord::led_by(1, 2).0,
    TenureWord(0).then(Tenure::Kept).0,
    TenureWord(0).then(Tenure::Underway(1)).0,
    TenureWord(0).then(Tenure::Held(1)).0,
    LeaseWord::carried(1, Some(2)).0,
    PhaseWord(0).with_writer(1).0,
    PartWord::waiting_for(1).calling(2).0,
    SharedWord(0).then(Stand::Opening(1)).0,
    SharedWord(0).then(Stand::Waiting).0,
    SharedWord(0).then(Stand::Open { joined: 1 }).then(Stand::Closing(1)).0,
    SharedWord(0).then(Stand::Open { joined: MOST_JOINED }).0,
    SharedWord(0).then(Stand::Abandoned(1)).0,
    BlockWord::fetched(1).0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_object_do_not_overlap() {
        for ranks in [1, 2, 16, 17, 1000] {
            let node = with_objects(NodeLayout::new(ranks, 1).in_job(ranks + 7, 3), 3);
            for table in [ObjectTable::Here, ObjectTable::Home] {
                let at = ObjectAt::of(&node, table, 2);
                let (queue, members) = (at.queue(), at.members());
                assert!(at.name(NAME_WORDS - 1) < queue.hold && queue.high < at.value() && at.value() < queue.arrivals);
                assert!(at.parameter(1) < at.held_since() && at.held_since() < at.name(0));
                assert!(queue.arrivals < at.held_token() && at.held_token() < at.own(0));
                assert!(at.own(LINE_WORDS - 1) < queue.claims);
                assert!(queue.claims.plus(members - 1) < queue.passings);
                assert!(queue.passings.plus(members - 1) < at.handles(0));
                assert!(at.handles(members - 1) < at.stake(0));
                assert!(at.stake(members - 1) < at.note(0, 0));
                let last_note = at.note(members - 1, NOTE_WORDS - 1);
                let next = ObjectAt::of(&node, table, 3);
                let last = |at: ObjectAt| match table {
                    ObjectTable::Here => at.note(at.members() - 1, NOTE_WORDS - 1),
                    ObjectTable::Home => at.part(ranks + 6),
                };
                assert!(last_note < at.of_rank(0) && last(at) < next.check());
                assert!(last(next).0 < node.words());
                assert!(next.key() < ObjectAt::of(&node, table, 0).check() && at.key() < next.key());
                assert_eq!((at.check().0 % LINE_WORDS, queue.claims.0 % LINE_WORDS), (0, 0));
            }
            let last = ObjectAt::of(&node, ObjectTable::Here, 3).note(ranks - 1, NOTE_WORDS - 1);
            assert!(last < ObjectAt::of(&node, ObjectTable::Home, 0).key());
        }
    }
}
