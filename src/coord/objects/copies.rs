//! Words by which an object is kept on a second node, whatever it is, and what they say of the next home: whether it
//! has all. See `src/object/second.rs`; tried with counters, in `tally/exhaustive.rs`.

use super::layout::ObjectAt;
use crate::fabric::WordAt;

/// What a node notes of its copies, in the table of objects that its ranks have.
#[derive(Clone, Copy, Debug)]
pub struct CopiesAt(pub ObjectAt);

impl CopiesAt {
    /// Which node has the copies: [`PlaceWord`](super::tenure::PlaceWord); 0: none has all of them now.
    pub const fn second(self) -> WordAt {
        self.0.own(10)
    }

    /// How many nodes were lost when they were made or looked after last, plus 1.
    pub const fn looked_after(self) -> WordAt {
        self.0.own(11)
    }
}

/// How far a copy is, in the table of the node that has it.
#[derive(Clone, Copy, Debug)]
pub struct CopyAt(pub ObjectAt);

impl CopyAt {
    /// How many nodes were lost when the copy had come to have all that it should, plus 1.
    pub const fn complete(self) -> WordAt {
        self.0.own(5)
    }

    /// The home, plus 1, whose own ranks' part is all here.
    pub const fn told(self) -> WordAt {
        self.0.own(6)
    }

    /// At a home: the number of the object that was made there. A name that has gone and is opened anew has another
    /// one.
    pub const fn made(self) -> WordAt {
        self.0.own(7)
    }

    /// Of which object this is the copy: its number, and its home, plus 1.
    pub const fn of(self) -> [WordAt; 2] {
        [self.0.own(8), self.0.own(9)]
    }
}

/// Whether a home that came after lost ones (`before`) has all that was kept there: whether each lost node either had
/// told it before what its ranks had done at each of those homes (`has_told(node, home)`), or had been lost already
/// when the copy was completed, of which it has been so for as many nodes as [`CopyAt::complete`] counts.
pub fn is_whole(
    lost: impl Iterator<Item = usize>,
    before: &[usize],
    has_told: impl Fn(usize, usize) -> bool,
    complete: u64,
) -> bool {
    let is_untold = |node: &usize| before.iter().any(|home| home != node && !has_told(*node, *home));
    before.is_empty() || (lost.filter(is_untold).count() as u64) < complete
}

/// Whether a copy has all, once what the home has of the others is copied: when the home had shut out all that are
/// lost, so that what was copied of them is final, and the home's own ranks' part is there, where its node has the
/// object.
pub const fn may_be_complete(has_shut_out: bool, home: usize, home_has_it: bool, told: u64) -> bool {
    has_shut_out && (!home_has_it || told == home as u64 + 1)
}
