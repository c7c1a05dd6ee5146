//! A counter's words: its value, and what each rank has added to it, which is kept on two nodes. Positions only; who writes
//! what and when is told in `src/object/tally.rs`.
//!
//! The value of a counter is what its ranks have added, of whatever sign: 64 bits, wrapping round. In the time of one home
//! the value word there takes it all; what was added in the time of the homes before it stands beside, for each rank, and
//! does not change any more:
//!
//! ```text
//!   value of the counter = value word + Σ carried(rank)          rank's sum = carried(rank) + added(rank)
//! ```
//!
//! | word at the home | holds | written by |
//! | --- | --- | --- |
//! | value | what was added here | all, by read-modify-writes |
//! | of each rank: journal | the last change that it began, and whether it was done | that rank |
//! | of each rank: added | what it has added here | that rank |
//! | of each rank: carried | at the home: its sum when this became the home. Before that, as the copy: its sum | see there |
//! | missing | how many nodes had been lost when sums were lost with them; 0: none were | stewards |
//! | complete | at the copy: how many nodes were lost when it had come to have all that it should, plus 1 | stewards |
//! | told | likewise: the home whose ranks' sums are all here, plus 1 | that home's steward |

use super::layout::ObjectAt;
use crate::fabric::WordAt;

/// Where the words stand, in the table of a home, or of the node that has the copies.
#[derive(Clone, Copy, Debug)]
pub struct TallyAt(pub ObjectAt);

impl TallyAt {
    /// What was added in this home's time.
    pub const fn value(self) -> WordAt {
        self.0.value()
    }

    /// A rank's journal.
    pub const fn journal(self, rank: usize) -> WordAt {
        self.0.of_rank(rank)
    }

    /// What a rank has added in this home's time.
    pub const fn added(self, rank: usize) -> WordAt {
        self.0.of_rank(rank).plus(1)
    }

    /// A rank's sum when this became the home.
    pub const fn carried(self, rank: usize) -> WordAt {
        self.0.of_rank(rank).plus(2)
    }

    /// How many nodes had been lost when sums were lost with them.
    pub const fn missing(self) -> WordAt {
        self.0.own(0)
    }

    /// How many nodes were lost when the copy had come to have all that it should, plus 1.
    pub const fn complete(self) -> WordAt {
        self.0.own(2)
    }

    /// The home, plus 1, that has told this node, which has the copies, what its own ranks have added.
    pub const fn told(self) -> WordAt {
        self.0.own(1)
    }
}

/// What a node notes of its copies, in the table of objects that its ranks have.
#[derive(Clone, Copy, Debug)]
pub struct CopiesAt(pub ObjectAt);

impl CopiesAt {
    /// Which node has the copies, as the word of the home does; 0: none has all of them now.
    pub const fn second(self) -> WordAt {
        self.0.own(10)
    }

    /// How many nodes were lost when they were made or looked after last, plus 1.
    pub const fn looked_after(self) -> WordAt {
        self.0.own(11)
    }

    /// A rank's sum, by its place on the node: with what it is about to add.
    pub const fn sum(self, local: usize) -> WordAt {
        self.0.stake(local)
    }
}
