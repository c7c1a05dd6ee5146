//! Words by which an object is kept on a second node, whatever it is. Positions only; see `src/object/second.rs`.

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
