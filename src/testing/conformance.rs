//! The conformance suite: what the contract in [`crate::fabric`] promises, checked on any fabric.
//!
//! A [`Rig`] is a few nodes in one process with a fabric between them. Each check is a function on a rig, made anew for
//! each, and panics with what it saw. The macro [`conformance!`](crate::conformance) makes a `#[test]` of every check:
//!
//! ```ignore
//! mod neighbours {
//!     phalanx::conformance!(super::NeighboursRig::new());
//!     phalanx::conformance!(threads: super::NeighboursRig::new());
//! }
//! ```
//!
//! The second line adds the checks with several threads, for fabrics that are `Sync`. Programs with a test runner of
//! their own take the lists from [`checks`] and [`checks_with_threads`].
//!
//! | room | promises |
//! | --- | --- |
//! | `operations` | each operation, at each place, and its neighbours untouched; batches; what is refused |
//! | `order` | requests to one node take effect in order, are releases, and never tear |
//! | `atomics` | sums are exact, a swap succeeds once, the scope is what it is said to be |
//! | `tickets` | any order, forgotten, spent, thousands of them |
//! | `failure` | a node that vanishes and comes back |
//! | `threads` | order, sums and tearing, with real concurrency |
//!
//! `trial` has the moves that checks are made of. No check waits for ever: a wait that takes longer than
//! [`Rig::patience`] panics with the check's name.

mod atomics;
mod failure;
mod operations;
mod order;
mod threads;
mod tickets;
mod trial;

use std::time::Duration;

use crate::fabric::{Fabric, Memory, WordAt};

pub use atomics::*;
pub use failure::*;
pub use operations::*;
pub use order::*;
pub use threads::*;
pub use tickets::*;

/// Words that a rig must leave to the checks at each node.
pub const RIG_WORDS: usize = 256;
/// Nodes that a rig must have.
pub const RIG_NODES: usize = 3;

/// Some nodes in one process, and a fabric between them.
pub trait Rig {
    /// One node's way to the others.
    type Fabric: Fabric;
    /// A node's words, as its own ranks see them.
    type Memory: Memory;

    /// How many nodes there are: [`RIG_NODES`] at least.
    fn nodes(&self) -> usize;

    /// The node's way to the others. Not asked for a node that has been killed.
    fn fabric(&self, node: usize) -> &Self::Fabric;

    /// The node's words. Not asked for a node that has been killed.
    fn memory(&self, node: usize) -> &Self::Memory;

    /// The first of the node's words that checks may use. It holds 0, as do those after it.
    fn base(&self, node: usize) -> WordAt;

    /// How many words checks may use, [`RIG_WORDS`] at least.
    fn words(&self) -> usize {
        RIG_WORDS
    }

    /// Lets time pass: a simulator goes on to its next event, others yield the CPU. Calls no fabric's `progress`.
    fn step(&mut self);

    /// The node vanishes, as by `kill -9` of all its processes.
    fn kill(&mut self, node: usize);

    /// A killed node comes back, with words that hold 0 or what they held. `false` where the rig cannot do that.
    fn restart(&mut self, node: usize) -> bool {
        let _ = node;
        false
    }

    /// The longest that anything may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// A check's name and its function.
pub type Check<R> = (&'static str, fn(&mut R));

/// All checks that take one thread.
pub fn checks<R: Rig>() -> Vec<Check<R>> {
    crate::conformance!(@single table R)
}

/// All checks that take several threads.
pub fn checks_with_threads<R: Rig>() -> Vec<Check<R>>
where
    R::Fabric: Sync,
    R::Memory: Sync,
{
    crate::conformance!(@several table R)
}

/// Makes a `#[test]` of each check, for the rig that the expression makes. See [`testing::conformance`](self).
#[macro_export]
macro_rules! conformance {
    (threads: $rig:expr) => { $crate::conformance!(@several tests $rig); };
    (@single $form:ident $given:tt) => {
        $crate::conformance! { @$form $given
            nodes_agree_who_is_who
            every_operation_does_what_it_says
            words_without_number_are_reached_in_their_own_place
            the_ends_of_a_segment_can_be_read
            adding_wraps_round
            batches_of_every_length_keep_their_order
            a_batch_appends_to_the_tickets_that_are_there
            what_is_invalid_is_refused_whole
            writes_need_nobody_to_poll
            a_request_sees_those_before_it_and_none_after
            order_holds_over_batches
            random_requests_do_what_an_array_would
            a_completion_covers_the_writes_before_it
            a_flag_publishes_its_payload
            words_are_never_torn
            sums_of_all_nodes_are_exact
            a_swap_succeeds_once_per_value
            the_atomic_scope_is_what_it_is_said_to_be
            thousands_outstanding_lose_nothing
            tickets_are_taken_in_any_order
            forgotten_tickets_free_their_room
            a_spent_ticket_panics_and_harms_nobody
            a_vanished_node_completes_every_ticket
            a_vanished_node_is_an_error_for_ever
            a_vanished_node_fills_no_tables
            others_go_on_when_a_node_vanishes
            a_node_that_comes_back_has_a_new_incarnation
        }
    };
    (@several $form:ident $given:tt) => {
        $crate::conformance! { @$form $given
            threads_of_all_nodes_add_up_exactly
            threads_that_swap_succeed_once_per_value
            threads_see_no_torn_word
            threads_that_see_a_flag_see_its_payload
            threads_that_write_and_then_read_do_not_both_miss
            threads_of_the_home_and_the_fabric_add_up_where_the_scope_says_so
        }
    };
    (@tests $rig:tt $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                $crate::testing::conformance::$check(&mut $rig);
            }
        )*
    };
    (@table $rig:tt $($check:ident)*) => {
        vec![$((stringify!($check), $crate::testing::conformance::$check::<$rig> as fn(&mut $rig))),*]
    };
    ($rig:expr) => { $crate::conformance!(@single tests $rig); };
}
