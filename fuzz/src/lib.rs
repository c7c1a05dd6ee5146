//! Structured random bytes, and random sequences of operations, against everything that parses what others send.
//!
//! A [`Target`] makes one case from a seed: it builds something valid, spoils it more or less ([`mutation`]), hands it
//! to the parser, and compares what comes out with what it knows: nothing panics, what is accepted means itself, what
//! is refused disturbs nobody. [`run`] does that with one seed after the other. No coverage guides it; what makes it
//! reach deep is that most of a case is right.
//!
//! | target | parses |
//! | --- | --- |
//! | `frame` | the frames of a TCP connection |
//! | `note` | what the two ends of an RDMA connection say to each other |
//! | `handshake-server`, `handshake-client` | the four messages that begin one |
//! | `card` | what ranks and nodes bring to the rendezvous |
//! | `rendezvous` | the frames of the rendezvous |
//! | `environment` | the variables of a rank, and addresses |
//! | `connection` | whole connections to a node that serves another one, too, over the loopback |
//!
//! A case is a function of its seed, but for the random numbers that the handshake takes from the kernel, and the
//! times at which packets arrive.

mod cards;
mod connection;
mod environment;
mod frames;
mod handshake;
pub mod mutation;
mod notes;
mod rendezvous;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use phalanx::fabric::sim::Seeded;

/// Something that is fuzzed.
pub trait Target {
    /// One case: `Err` says which promise was broken. A panic counts as one.
    ///
    /// # Errors
    ///
    /// In words.
    fn case(&mut self, random: &mut Seeded) -> Result<(), String>;
}

/// The names of all targets.
pub const TARGETS: [&str; 8] =
    ["frame", "note", "handshake-server", "handshake-client", "card", "rendezvous", "environment", "connection"];

/// A target by its name.
pub fn target(name: &str) -> Option<Box<dyn Target>> {
    Some(match name {
        "frame" => Box::new(frames::Frames),
        "note" => Box::new(notes::Notes),
        "handshake-server" => Box::new(handshake::AtServer),
        "handshake-client" => Box::new(handshake::AtClient),
        "card" => Box::new(cards::Cards),
        "rendezvous" => Box::new(rendezvous::Messages),
        "environment" => Box::new(environment::Variables),
        "connection" => Box::new(connection::Connections::new()),
        _ => return None,
    })
}

/// A case that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The target.
    pub target: String,
    /// The case's seed.
    pub seed: u64,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, seed, what } = self;
        write!(
            f,
            "{target}, seed {seed}: {what}\nto repeat: cargo run -p phalanx-fuzz -- --cases 1 --seed {seed} {target}"
        )
    }
}

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// For so long.
    Time(Duration),
    /// For so many cases.
    Cases(u64),
}

/// Runs cases with seeds from `seed` on; how many there were.
///
/// # Errors
///
/// The first [`Failure`].
pub fn run(name: &str, target: &mut dyn Target, seed: u64, limit: Limit) -> Result<u64, Failure> {
    let start = Instant::now();
    let mut cases = 0;
    loop {
        let is_over = match limit {
            Limit::Time(span) => start.elapsed() >= span,
            Limit::Cases(most) => cases >= most,
        };
        if is_over {
            return Ok(cases);
        }
        let seed = seed.wrapping_add(cases);
        let case = catch_unwind(AssertUnwindSafe(|| target.case(&mut Seeded::new(seed))));
        let failure = |what| Failure { target: name.to_owned(), seed, what };
        match case {
            Ok(Ok(())) => cases += 1,
            Ok(Err(what)) => return Err(failure(what)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of an unknown kind");
                return Err(failure(format!("a panic: {text}")));
            }
        }
    }
}

/// `Err` with a text unless a condition holds.
pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
