//! How a node's words are divided: a header, a table with an entry per rank, the view log, and an arena that groups are
//! cut from, with a bitmap of what is taken and a table of who holds it, and a table of named objects.
//!
//! Positions only, no memory: shared memory, the simulator and the model checkers all divide their words by this one
//! map. The picture stands in docs/design.md, "The segment".

use super::{LINE_WORDS, WordAt};
use crate::machine::MASK_CPUS;

/// Words of the header: three lines, the first written once, the second counters, the third what a failure changes.
pub const HEADER_WORDS: usize = 3 * LINE_WORDS;
/// Words of a rank's entry: one line of facts, one of its CPU mask, four of offers.
pub const RANK_WORDS: usize = 6 * LINE_WORDS;
/// Words of the arena's unit of allocation.
pub const UNIT_WORDS: usize = 4 * LINE_WORDS;
/// Offers that a rank can have open at once.
pub const OFFERS: usize = 8;
/// Words of a rank's lifeline, its *strands*.
pub const STRANDS: usize = 4;
/// The first of them, from the beginning of the rank's entry.
const FIRST_STRAND: usize = 10;
/// Words of an offer; see [`OfferAt`].
pub const OFFER_WORDS: usize = 7;

const _: () = assert!(OFFERS * OFFER_WORDS <= 4 * LINE_WORDS);
const _: () = assert!(FIRST_STRAND + STRANDS < LINE_WORDS);
const _: () = assert!(MASK_CPUS == 64 * LINE_WORDS);

/// The header's words.
pub mod header {
    use super::WordAt;

    /// `MAGIC`: this is a segment of Phalanx.
    pub const MAGIC: WordAt = WordAt(0);
    /// The version of the format.
    pub const VERSION: WordAt = WordAt(1);
    /// Hash over every position and packed word that ranks share.
    pub const LAYOUT_HASH: WordAt = WordAt(2);
    /// The job's random number.
    pub const JOB_ID: WordAt = WordAt(3);
    /// Geometry: ranks of the node.
    pub const RANKS: WordAt = WordAt(4);
    /// Geometry: words of the whole segment.
    pub const WORDS: WordAt = WordAt(5);
    /// Geometry: units of the arena.
    pub const ARENA_UNITS: WordAt = WordAt(6);
    /// The common clock: source, length of a tick, origin.
    pub const CLOCK: [WordAt; 3] = [WordAt(7), WordAt(8), WordAt(9)];
    /// How many ranks have joined. Only grows.
    pub const JOINED: WordAt = WordAt(16);
    /// 1 once the world group can be used.
    pub const READY: WordAt = WordAt(17);
    /// The number of the next group. Only grows.
    pub const NEXT_GROUP: WordAt = WordAt(18);
    /// Ranks that sleep until `READY` or `JOINED` changes.
    pub const SLEEPERS: WordAt = WordAt(19);
    /// Ranks that sleep until another node writes something.
    pub const FABRIC_SLEEPERS: WordAt = WordAt(20);
    /// The system's time at the clock's origin, in nanoseconds since 1970: sets the clocks of several nodes against
    /// each other.
    pub const ORIGIN_TIME: WordAt = WordAt(10);
    /// Geometry: ranks of the whole job.
    pub const JOB_RANKS: WordAt = WordAt(11);
    /// Geometry: nodes of the job.
    pub const NODES: WordAt = WordAt(12);
    /// Geometry: places for named objects.
    pub const OBJECTS: WordAt = WordAt(13);
    /// Geometry: words of a named object, and of one that is at home here.
    pub const OBJECT_WORDS: [WordAt; 2] = [WordAt(21), WordAt(22)];
    /// A number that all nodes of the job have in common.
    pub const FAMILY: WordAt = WordAt(14);
    /// This node's number in the job.
    pub const NODE: WordAt = WordAt(23);
    /// Where the block of the world's members of this node stands; for those who look from outside, and know nothing of
    /// the schedule that comes before it in a job of several nodes. 0 until the world is made.
    pub const WORLD: WordAt = WordAt(15);
    /// Grows whenever those who wait must look at something: a rank has failed or left. Ranks that park sleep on it,
    /// too.
    pub const ALARM: WordAt = WordAt(32);
    /// The last epoch that is open to this node's ranks: whom it has lost is shut out. Only grows.
    pub const EPOCH: WordAt = WordAt(33);
    /// 1 once other nodes have refused this one as declared failed.
    pub const EXCLUDED: WordAt = WordAt(34);
}

/// Where the words of an offer stand: a rank tells others, who know the key, where a new group's block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferAt(WordAt);

impl OfferAt {
    /// What it is found by.
    pub const fn key(self) -> WordAt {
        self.0
    }

    /// The block's first word.
    pub const fn value(self) -> WordAt {
        self.0.plus(1)
    }

    /// Who holds the place, and how many ranks of this node still have to take what it offers. Changed by this node's
    /// CPUs only; see [`crate::coord::offers::TakersWord`].
    pub const fn takers(self) -> WordAt {
        self.0.plus(2)
    }

    /// The number that the node gives to the group: the attempt to make it. 0 while nothing is offered to other nodes.
    pub const fn group(self) -> WordAt {
        self.0.plus(3)
    }

    /// Which group of the key it is.
    pub const fn call(self) -> WordAt {
        self.0.plus(4)
    }

    /// How far the offering rank is with the attempt; see [`crate::coord::offers::StageWord`]. Written by it only.
    pub const fn stage(self) -> WordAt {
        self.0.plus(5)
    }

    /// The last attempt in this place that another node wants to see ended. Changed through the fabric only; only
    /// grows.
    pub const fn doom(self) -> WordAt {
        self.0.plus(6)
    }
}

/// Where the words of an epoch's entry in the view log stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochAt(WordAt);

impl EpochAt {
    /// The node's part in deciding it: an acceptor's word; see [`crate::cluster::agreement`].
    pub const fn acceptor(self) -> WordAt {
        self.0
    }

    /// What was decided; see [`crate::cluster::view::Obituary`]. 0 while that is not known here.
    pub const fn decided(self) -> WordAt {
        self.0.plus(1)
    }
}

/// Which of a node's tables of named objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectTable {
    /// Those that its ranks have.
    Here = 0,
    /// Those that are at home on it.
    Home = 1,
}

/// Words of an epoch's entry.
const EPOCH_WORDS: usize = 2;

/// The division of one node's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    ranks: usize,
    arena_units: usize,
    objects: usize,
    /// Words of an object in each of the two tables.
    object_words: [usize; 2],
    /// Ranks and nodes of the whole job.
    job_ranks: usize,
    nodes: usize,
}

impl NodeLayout {
    /// The only node of a job of `ranks` ranks, with an arena of at least `arena_words`.
    pub const fn new(ranks: usize, arena_words: usize) -> Self {
        let arena_units = arena_words.div_ceil(UNIT_WORDS);
        Self { ranks, arena_units, objects: 0, object_words: [0; 2], job_ranks: ranks, nodes: 1 }
    }

    /// The same with places for so many named objects, besides the table's own, in each of two tables: those that the
    /// node's ranks have, and those that are at home here. An object has so many words there and there.
    #[must_use]
    pub const fn with_objects(self, objects: usize, object_words: [usize; 2]) -> Self {
        Self { objects, object_words, ..self }
    }

    /// The same as one of `nodes` nodes of a job of `ranks` ranks.
    #[must_use]
    pub const fn in_job(self, ranks: usize, nodes: usize) -> Self {
        Self { job_ranks: ranks, nodes, ..self }
    }

    /// The ranks of the whole job.
    pub const fn job_ranks(&self) -> usize {
        self.job_ranks
    }

    /// The nodes of the job.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// The ranks of the node.
    pub const fn ranks(&self) -> usize {
        self.ranks
    }

    /// Units of the arena.
    pub const fn arena_units(&self) -> usize {
        self.arena_units
    }

    /// The first word of a rank's entry.
    const fn entry(&self, rank: usize) -> WordAt {
        WordAt(HEADER_WORDS + rank * RANK_WORDS)
    }

    /// The process that a rank is: its pid; 0 while nobody has joined as this rank.
    pub const fn process(&self, rank: usize) -> WordAt {
        self.entry(rank)
    }

    /// Where a rank runs; see [`crate::machine::Place`].
    pub const fn place(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(1)
    }

    /// When the rank's process was started, in the kernel's ticks: tells it from a later process with the same pid.
    pub const fn started(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(2)
    }

    /// How the rank has ended, as its node knows it; see [`crate::cluster::view::Obituary`]. 0 while it lives.
    pub const fn end(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(3)
    }

    /// Which rank of the job it is.
    pub const fn job_rank(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(4)
    }

    /// What the rank is doing in the library; see [`crate::coord::activity::CallWord`].
    pub const fn call(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(5)
    }

    /// The number of the group that the call is about.
    pub const fn call_group(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(6)
    }

    /// When the call began, in ticks.
    pub const fn call_since(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(7)
    }

    /// Counts how often other nodes have asked whether the rank still runs. Written through the fabric.
    pub const fn asked_after(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(8)
    }

    /// 1 once the rank does nothing any more: it has left, or its process is gone. Its end may be known before that.
    pub const fn gone(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(9)
    }

    /// Strand `strand` of the rank's lifeline, held by a thread of its process for as long as that lives; see
    /// [`crate::cluster::watch::lifeline`].
    pub const fn lifeline(&self, rank: usize, strand: usize) -> WordAt {
        self.entry(rank).plus(FIRST_STRAND + strand)
    }

    /// Counts how often somebody has had the rank look at a named object that it waits for. Changed through the fabric,
    /// too.
    pub const fn poked(&self, rank: usize) -> WordAt {
        self.entry(rank).plus(FIRST_STRAND + STRANDS)
    }

    /// Word `index` of the mask of CPUs that a rank may use.
    pub const fn mask(&self, rank: usize, index: usize) -> WordAt {
        self.entry(rank).plus(LINE_WORDS + index)
    }

    /// Offer `index` of a rank.
    pub const fn offer(&self, rank: usize, index: usize) -> OfferAt {
        OfferAt(self.entry(rank).plus(2 * LINE_WORDS + index * OFFER_WORDS))
    }

    /// How many epochs the view log has room for: each rank and each node fails once.
    pub const fn epochs(&self) -> usize {
        self.job_ranks + self.nodes
    }

    /// An epoch's entry in the view log; they count from 1.
    ///
    /// # Panics
    ///
    /// When there is no such epoch.
    #[allow(clippy::cast_possible_truncation, reason = "there are not more epochs than words")]
    pub const fn epoch(&self, epoch: u64) -> EpochAt {
        assert!(epoch >= 1 && epoch <= self.epochs() as u64, "there is no such epoch");
        EpochAt(self.entry(self.ranks).plus((epoch as usize - 1) * EPOCH_WORDS))
    }

    /// The last heartbeat of a node that has been heard here; see [`crate::cluster::detector`].
    pub const fn heartbeat(&self, node: usize) -> WordAt {
        self.entry(self.ranks).plus(self.epochs() * EPOCH_WORDS + node)
    }

    /// 1 while nothing is heard of a node, and too few nodes can be reached to agree that it has failed.
    pub const fn doubt(&self, node: usize) -> WordAt {
        self.heartbeat(self.nodes + node)
    }

    /// Counts how often somebody has missed a node that does not answer. Kept at the nodes that watch it.
    pub const fn missed(&self, node: usize) -> WordAt {
        self.heartbeat(2 * self.nodes + node)
    }

    /// Word `index` of what a node has said here of lost nodes, one bit for each: what its ranks had of objects that
    /// were at home there has been moved. Written by that node only.
    pub const fn moved(&self, node: usize, index: usize) -> WordAt {
        self.heartbeat(3 * self.nodes + node * self.moved_words() + index)
    }

    /// Words of such a set of nodes.
    pub const fn moved_words(&self) -> usize {
        self.nodes.div_ceil(64)
    }

    /// Of which objects at home here a node has said that it has something of them from the last home, and found no
    /// room: a bit for each, of the name's key, which others may share. Written by that node only.
    pub const fn stranded(&self, node: usize) -> WordAt {
        self.heartbeat((3 + self.moved_words()) * self.nodes + node)
    }

    const fn bitmap_start(&self) -> WordAt {
        let of_nodes = (4 + self.moved_words()) * self.nodes;
        let words = (self.epochs() * EPOCH_WORDS + of_nodes).div_ceil(LINE_WORDS) * LINE_WORDS;
        self.entry(self.ranks).plus(words)
    }

    /// Words of the arena's bitmap, one bit a unit.
    pub const fn bitmap_words(&self) -> usize {
        self.arena_units.div_ceil(64)
    }

    /// Word `index` of the arena's bitmap.
    pub const fn bitmap(&self, index: usize) -> WordAt {
        self.bitmap_start().plus(index)
    }

    /// Who holds the block that begins at a unit of the arena; see [`crate::coord::formation::HoldsWord`]. It stands
    /// outside of the block, so that it can be asked without a hold.
    pub const fn holds(&self, unit: usize) -> WordAt {
        self.bitmap_start().plus(self.bitmap_words().next_multiple_of(LINE_WORDS) + unit)
    }

    /// The first word of a unit of the arena.
    pub const fn unit(&self, unit: usize) -> WordAt {
        self.holds(self.arena_units.next_multiple_of(LINE_WORDS)).plus(unit * UNIT_WORDS)
    }

    /// The unit of the arena that begins at a word.
    pub const fn unit_at(&self, start: WordAt) -> usize {
        (start.0 - self.unit(0).0) / UNIT_WORDS
    }

    /// Places for named objects, besides the table's own.
    pub const fn objects(&self) -> usize {
        self.objects
    }

    /// Words of an object in each table.
    pub const fn object_words(&self) -> [usize; 2] {
        self.object_words
    }

    /// Whose place `index` of a table of objects is; see [`crate::coord::objects`]. Place 0 is the table's own.
    pub const fn object_key(&self, table: ObjectTable, index: usize) -> WordAt {
        let start = match table {
            ObjectTable::Here => self.unit(self.arena_units),
            ObjectTable::Home => self.object(ObjectTable::Here, self.objects + 1),
        };
        start.plus(index)
    }

    /// The first word of the object at place `index` of a table.
    pub const fn object(&self, table: ObjectTable, index: usize) -> WordAt {
        let first = self.object_key(table, (self.objects + 1).next_multiple_of(LINE_WORDS));
        first.plus(index * self.object_words[table as usize])
    }

    /// Words of the whole segment.
    pub const fn words(&self) -> usize {
        match self.object_words {
            [0, _] => self.unit(self.arena_units).0,
            _ => self.object(ObjectTable::Home, self.objects + 1).0,
        }
    }
}

/// Hash of bytes (FNV-1a, 64 bits), usable in constants: for the layout hash and for keys that all ranks must compute
/// alike whatever their compiler.
pub const fn hash(seed: u64, numbers: &[u64]) -> u64 {
    let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
    let mut index = 0;
    while index < numbers.len() {
        let bytes = numbers[index].to_le_bytes();
        let mut byte = 0;
        while byte < 8 {
            state = (state ^ bytes[byte] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            byte += 1;
        }
        index += 1;
    }
    state
}

/// Hash over the positions in this file.
pub const LAYOUT_HASH: u64 = hash(
    1,
    &[
        HEADER_WORDS as u64,
        RANK_WORDS as u64,
        UNIT_WORDS as u64,
        OFFERS as u64,
        OFFER_WORDS as u64,
        header::CLOCK[0].0 as u64,
        header::JOINED.0 as u64,
        header::SLEEPERS.0 as u64,
        header::FABRIC_SLEEPERS.0 as u64,
        header::FAMILY.0 as u64,
        header::NODE.0 as u64,
        header::WORLD.0 as u64,
        header::ALARM.0 as u64,
        NodeLayout::new(3, 1000).lifeline(1, 3).0 as u64,
        NodeLayout::new(3, 1000).gone(1).0 as u64,
        EPOCH_WORDS as u64,
        LINE_WORDS as u64,
        NodeLayout::new(3, 1000).holds(1).0 as u64,
        NodeLayout::new(3, 1000).with_objects(5, [32, 64]).object(ObjectTable::Home, 1).0 as u64,
        NodeLayout::new(3, 1000).poked(1).0 as u64,
        NodeLayout::new(3, 1000).moved(0, 0).0 as u64,
        NodeLayout::new(3, 1000).in_job(9, 3).stranded(0).0 as u64,
        header::OBJECTS.0 as u64,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_each_other_without_overlap() {
        for ranks in [1, 2, 3, 64, 128, 1000] {
            for arena_words in [1, 511, 513, 100_000] {
                let layout = NodeLayout::new(ranks, arena_words);
                assert!(layout.process(0).0 >= HEADER_WORDS);
                for rank in 1..ranks {
                    let last_of_previous = layout.offer(rank - 1, OFFERS - 1).doom();
                    assert!(last_of_previous < layout.process(rank));
                }
                let layout = layout.in_job(3 * ranks, 3);
                assert!(layout.offer(ranks - 1, OFFERS - 1).doom() < layout.epoch(1).acceptor());
                let last = layout.epochs() as u64;
                assert!(layout.epoch(last).decided() < layout.heartbeat(0));
                assert!(layout.heartbeat(2) < layout.doubt(0) && layout.doubt(2) < layout.missed(0));
                assert!(layout.missed(2) < layout.moved(0, 0) && layout.moved(2, 0) < layout.stranded(0));
                assert!(layout.stranded(2) < layout.bitmap(0));
                assert!(layout.bitmap(layout.bitmap_words() - 1) < layout.holds(0));
                assert!(layout.holds(layout.arena_units() - 1) < layout.unit(0));
                assert_eq!(layout.unit_at(layout.unit(layout.arena_units() - 1)), layout.arena_units() - 1);
                assert_eq!(layout.unit(0).0 % LINE_WORDS, 0);
                assert!(layout.arena_units() * UNIT_WORDS >= arena_words);
                assert_eq!(layout.words(), layout.unit(layout.arena_units() - 1).0 + UNIT_WORDS);
            }
        }
    }
}
