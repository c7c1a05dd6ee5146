//! A counter's words: its value, and what each rank has added to it, which is kept on two nodes. Positions only; who
//! writes what and when is told in `src/object/tally.rs`.
//!
//! The value of a counter is what its ranks have added, of whatever sign: 64 bits, wrapping round. In the time of one
//! home the value word there takes it all; what was added in the time of the homes before it stands beside, for each
//! rank, and does not change any more:
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

    /// A rank's sum on its own node, by its place there: with what it is about to add. In the table of objects that the
    /// node's ranks have.
    pub const fn sum(here: &ObjectAt, local: usize) -> WordAt {
        here.stake(local)
    }
}
