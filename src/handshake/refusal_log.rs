//! What is said about connections that were refused: once for each reason and address, and not for ever.
//!
//! A stranger that knocks a million times must fill neither the job's log nor its memory, and must not stop the thread
//! that refuses it: a line that the log cannot take at once is dropped.

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Verdict;

/// Lines in all, and so pairs of reason and address remembered.
const MOST_LINES: usize = 32;

/// Why a connection was not accepted, or was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// By the handshake.
    Verdict(u64),
    /// It has not said in time who it is.
    Silent,
    /// It went away before it had said who it is.
    WentAway,
    /// It is a rank of the job, and broke the protocol.
    BrokeProtocol,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict as u64)
    }
}

impl Refusal {
    fn describe(self) -> (String, &'static str) {
        match self {
            Self::Verdict(code) => {
                let verdict = Verdict::from_code(code).unwrap_or(Verdict::Malformed);
                (verdict.to_string(), verdict.remedy())
            }
            Self::Silent => ("it did not say in time who it is".to_owned(), "keep other programs away from this port"),
            Self::WentAway => ("it went away before saying who it is".to_owned(), "none needed"),
            Self::BrokeProtocol => {
                ("it broke the protocol".to_owned(), "build all ranks' programs with the same version of phalanx")
            }
        }
    }
}

/// One server's log.
#[derive(Debug, Default)]
pub struct RefusalLog {
    said: HashSet<(Refusal, IpAddr)>,
}

impl RefusalLog {
    /// Nothing has been said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Prints a line on stderr, if it is news and stderr can take it.
    pub fn report(&mut self, peer: SocketAddr, refusal: impl Into<Refusal>) {
        let Some(line) = self.line(peer, refusal.into()) else { return };
        let stderr = std::io::stderr();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A pipe that is ready takes a page, which is more than a line.
        if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)) == Ok(1) {
            // Whoever has closed stderr wants to hear nothing.
            let _ = stderr.lock().write_all(line.as_bytes());
        }
    }

    /// The line, if it is news.
    pub fn line(&mut self, peer: SocketAddr, refusal: Refusal) -> Option<String> {
        if self.said.len() == MOST_LINES || !self.said.insert((refusal, peer.ip())) {
            return None;
        }
        let (why, remedy) = refusal.describe();
        let last = if self.said.len() == MOST_LINES { "; more will not be reported" } else { "" };
        Some(format!("phalanx: refused a connection from {peer}: {why} (remedy: {remedy}){last}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], port))
    }

    #[test]
    fn a_reason_and_an_address_are_said_once() {
        let mut log = RefusalLog::new();
        let line = log.line(peer(1, 5555), Verdict::WrongKey.into()).expect("news");
        assert_eq!(
            line,
            "phalanx: refused a connection from 127.0.0.1:5555: wrong key (remedy: give all ranks of the job the same PHALANX_KEY)\n"
        );
        assert_eq!(log.line(peer(1, 5556), Verdict::WrongKey.into()), None, "another port is no news");
        assert!(log.line(peer(1, 5555), Refusal::Silent).is_some(), "another reason is");
        assert!(log.line(peer(2, 5555), Refusal::Silent).is_some(), "another address is");
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut log = RefusalLog::new();
        let lines: Vec<String> = (0..=255).filter_map(|last| log.line(peer(last, 1), Refusal::Silent)).collect();
        assert_eq!(lines.len(), MOST_LINES);
        assert!(lines[MOST_LINES - 1].ends_with("more will not be reported\n"));
        assert_eq!(log.said.len(), MOST_LINES);
    }
}
