//! `phalanx run` as its users see it: the command itself, with small shell programs as ranks, or with this
//! program where they are to use Phalanx.
//!
//! Every test waits for something that happens (a line that a rank prints, a process that disappears), never for time
//! to pass; the deadlines are there for the day when it does not happen. Each test kills what it has started, also
//! when it fails.

mod endings;
mod harness;
mod identity;
mod last_words;
mod nodes;
mod output;
mod signals;
mod survival;
mod usage;
mod witness;
