//! What tests of several programs share, behind the cargo feature `testing`: no part of a user's build.
//!
//! [`conformance`] is the suite that every [`Fabric`](crate::fabric::Fabric) must pass. [`seeds`] names the seed of a
//! random test that fails.

pub mod conformance;
pub mod seeds;
