//! How far a rank, or a steward, is with its node's hold: the states of [`super::SharedHold`].

use super::word::{SharedWord, Stand};
use crate::coord::objects::sharing::PhaseWord;

/// What comes after a rank has left a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    Out,
    Aside,
    /// It waits for another hold.
    Yield,
}

/// What comes after others have been called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum After {
    In,
    Wait,
    /// To look at the phase: its writer has ended.
    Look,
    Left(Then),
    /// To close the hold that it has abandoned.
    Reclose(SharedWord),
}

/// What is to be done next, or what the answers to come belong to, or what this rank has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Out,
    /// To write in the stake that this rank shares the hold.
    Saying,
    /// To read the hold.
    Finding,
    /// There was none: to swap it.
    Claiming {
        seen: SharedWord,
    },
    /// To join it, so that so many have.
    Joining {
        seen: SharedWord,
        joined: u64,
    },
    /// Many have joined: the phase is being read.
    Inquiring {
        seen: SharedWord,
    },
    /// Until another rank has opened or closed it.
    Beside {
        seen: SharedWord,
    },
    /// To look whether it has.
    Peering {
        seen: SharedWord,
        is_late: bool,
    },
    /// The part says that the node reads; the phase is being read.
    Opening {
        mine: SharedWord,
    },
    /// The part says that it waits for the end of a phase; the phase is being read.
    Registering {
        mine: SharedWord,
        seen: PhaseWord,
    },
    /// To swap the hold to how it stands at the home.
    Opened {
        mine: SharedWord,
        stand: Stand,
        after: After,
    },
    /// The home is lost: to look whether the hold is still to be opened.
    Reopening {
        mine: SharedWord,
    },
    /// For the end of a phase, with others.
    Waiting,
    /// To look at the hold.
    Looking,
    /// The part and the phase are being read.
    Watching {
        seen: SharedWord,
    },
    /// The phase's writer has ended: swapping it to the next, reading who waits.
    Following {
        seen: SharedWord,
        phase: PhaseWord,
    },
    /// The phase is over: to open the hold for all that wait.
    Entering {
        seen: SharedWord,
    },
    /// To have those look who wait for the hold, from the rank at this place on.
    Calling {
        next: usize,
        after: After,
    },
    Reading,
    /// To write in the stake that this rank shares the hold no more.
    Unsaying {
        then: Then,
    },
    /// To read the hold.
    Leaving {
        then: Then,
    },
    /// To read the stakes, from that of the rank at this place on.
    Counting {
        seen: SharedWord,
        next: usize,
        then: Then,
    },
    /// Nobody shares the hold: to swap it.
    Closing {
        seen: SharedWord,
        then: Then,
    },
    /// The part is being cleared, the phase read.
    Clearing {
        mine: SharedWord,
        then: Then,
    },
    /// To swap the hold to nothing.
    Closed {
        mine: SharedWord,
        then: Then,
    },
    /// This rank gives up in the middle of opening or closing the hold: to write in the stake that it does not share
    /// it.
    Disowning {
        mine: SharedWord,
    },
    /// The same: to swap the hold.
    Abandoning {
        mine: SharedWord,
    },
    /// The home is lost, or has not answered: to look whether the hold is still to be closed.
    Reclosing {
        mine: SharedWord,
        then: Then,
    },
    /// Until the hold is closed, since a writer waits.
    Yielded,
    /// A rank that has ended was in the middle of opening or closing the hold.
    Outliving {
        seen: SharedWord,
    },
    /// A steward carries the hold to the next home: to read it.
    Carrying,
    /// To read the stakes, from that of the rank at this place on.
    Weighing {
        seen: SharedWord,
        next: usize,
    },
    /// It is being written at the next home how the hold stands.
    Telling {
        seen: SharedWord,
        stand: Stand,
    },
    /// To swap it to that.
    Told {
        seen: SharedWord,
        stand: Stand,
    },
}
