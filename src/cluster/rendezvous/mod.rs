//! Meeting across nodes: every rank brings a few bytes and takes everybody's home, as often as they need.
//!
//! One [`Server`] (rank 0's, or the launcher's) and a [`Client`] in every rank. Each connection begins with the
//! handshake of `src/handshake.rs`. Then come rounds: a rank sends its blob of the round, and when all have, everybody
//! gets the table of all blobs. The server knows who has not come, and says so to whoever asks, so that a time-out
//! names exactly the missing ranks; and when a rank goes away that others wait for, it tells them at once.
//!
//! ```text
//!  client                               server
//!    blob, round n           ──▶         … until all `size` blobs are there
//!                            ◀──         table, round n: made once, the same bytes for everybody
//!    who is missing?         ──▶         only after a time-out
//!                            ◀──         missing, round n: a set of ranks
//!                            ◀──         gone: a set of ranks, unasked, when the round cannot end any more
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `message.rs` | the frames |
//! | `server.rs` | the thread that serves |
//! | `peer.rs` | the two kinds of connections that it has: strangers and members |
//! | `round.rs` | what has been collected, and who has gone; no sockets |
//! | `client.rs` | a rank's part, blocking |
//! | `error.rs` | what can go wrong with it |

mod client;
mod error;
pub mod message;
mod peer;
mod round;
mod server;

pub use client::Client;
pub use error::RendezvousError;
pub use message::MOST_BLOB_BYTES;
pub use server::{Server, listen};
