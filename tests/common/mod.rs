//! What several test programs share. Each program uses a part of it.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]

pub mod block;
#[cfg(not(model))]
pub mod children;
#[cfg(not(model))]
pub mod conduct;
#[cfg(not(model))]
pub mod cutting;
#[cfg(not(model))]
pub mod dissemination;
#[cfg(not(model))]
pub mod dying;
#[cfg(not(model))]
pub mod homes;
#[cfg(not(model))]
pub mod nodes;
#[cfg(not(model))]
pub mod ranks;
#[cfg(not(model))]
pub mod seeds;
#[cfg(not(model))]
pub mod sieve;
#[cfg(not(model))]
pub mod spanned;
pub mod turns;
#[cfg(not(model))]
pub mod wires;
