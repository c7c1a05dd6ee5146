//! The primitives: sans-IO state machines over a fabric's words, and the thin drivers that block on them.
//!
//! | file | what |
//! | --- | --- |
//! | [`barrier`] | the barrier and its three algorithms |
//! | [`formation`] | making groups: space, members, who holds them |
//! | [`burial`] | what the dead held is let go |
//! | [`losses`] | what the job has lost, for those who give space back |
//! | [`offers`] | how a leader tells others where a new group's block is |
//! | [`introductions`] | the leaders of a spanning group agree on where their blocks are |
//! | [`farewell`] | when a spanning group's block can be given back |
//! | [`endings`] | what is left to do for groups that are made, given up, or left |
//! | [`reads`] | reading many words of other nodes |
//! | [`activity`] | what a rank is doing, for those who look from outside |
//! | [`arena`] | the space that groups are cut from |
//! | [`objects`] | named objects: locks, counters |
//! | [`stats`] | who came last, who waited how long, who is missing |
//! | [`wait`] | the wait policy: spin, yield, park |
//! | [`drive`] | blocking on a barrier: the only place here that reads a clock or sleeps |

pub mod activity;
pub mod arena;
pub mod barrier;
pub mod burial;
pub mod drive;
pub mod endings;
pub mod farewell;
pub mod formation;
pub mod introductions;
pub mod losses;
pub mod objects;
pub mod offers;
pub mod reads;
pub mod stats;
pub mod wait;

/// Hash over every position and packed word that ranks share.
pub const LAYOUT_HASH: u64 = crate::fabric::node::hash(
    4,
    &[
        crate::fabric::node::LAYOUT_HASH,
        barrier::layout::LAYOUT_HASH,
        barrier::spanning::layout::LAYOUT_HASH,
        offers::LAYOUT_HASH,
        formation::LAYOUT_HASH,
        objects::layout::LAYOUT_HASH,
    ],
);
