//! What a server can decide, and what a client makes of it: each with what a person can do about it.

use super::VERSION;

/// What a server decides about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Let in; in a challenge: go on.
    Welcome = 0,
    /// The right job tag, but a MAC that the key has not made.
    WrongKey = 1,
    /// Another job tag: another key.
    OtherJob = 2,
    /// Another version of these messages.
    OtherVersion = 3,
    /// Somebody has been let in as this rank.
    DuplicateRank = 4,
    /// The server's job has another number of ranks.
    WrongSize = 5,
    /// No handshake of Phalanx.
    Malformed = 6,
    /// Two nodes have connected to each other at once, and the other connection is kept.
    Crossed = 7,
    /// More strangers than the server looks at together; try again.
    TooBusy = 8,
    /// The server is not whom the client means, or serves something else.
    WrongPeer = 9,
    /// The job has declared the client's rank failed.
    Excluded = 10,
}

impl Verdict {
    const ALL: [Self; 11] = [
        Self::Welcome,
        Self::WrongKey,
        Self::OtherJob,
        Self::OtherVersion,
        Self::DuplicateRank,
        Self::WrongSize,
        Self::Malformed,
        Self::Crossed,
        Self::TooBusy,
        Self::WrongPeer,
        Self::Excluded,
    ];

    pub(super) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| *verdict as u64 == code)
    }

    /// What a person can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Welcome => "none needed",
            Self::WrongKey | Self::OtherJob => "give all ranks of the job the same PHALANX_KEY",
            Self::OtherVersion => "build all ranks' programs with the same version of phalanx",
            Self::DuplicateRank => "give each rank its own PHALANX_RANK",
            Self::WrongSize => "give all ranks the same PHALANX_SIZE",
            Self::Malformed => "keep other programs away from this port",
            Self::Crossed => "none needed: the other connection is used",
            Self::TooBusy => "try again, and look who else connects to this port",
            Self::WrongPeer => "look whether another process has taken over this address",
            Self::Excluded => {
                "end this process, the others go on without it; if it was only stopped or cut off, allow longer silences"
            }
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Welcome => "welcome",
            Self::WrongKey => "wrong key",
            Self::OtherJob => "the key of another job",
            Self::OtherVersion => "another version of the protocol",
            Self::DuplicateRank => "a rank that has been taken",
            Self::WrongSize => "another number of ranks",
            Self::Malformed => "no handshake of Phalanx",
            Self::Crossed => "crossed by a connection the other way",
            Self::TooBusy => "too many connections at once",
            Self::WrongPeer => "meant for somebody else",
            Self::Excluded => "a rank that has been declared failed",
        })
    }
}

/// Why a client could not make its connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The server says no. From a stranger's challenge this is not authenticated: it can be wrong, never harmful. Only
    /// whoever knows the key tells a size.
    #[error("refused: {verdict} (remedy: {})", verdict.remedy())]
    Refused {
        /// Its reason.
        verdict: Verdict,
        /// The server's number of ranks, where it tells.
        size: Option<u64>,
    },
    /// What answers is no Phalanx.
    #[error("what answers is no Phalanx: it sent {sent:02x?} (remedy: look what listens at this address)")]
    NotPhalanx {
        /// The first bytes of it.
        sent: Vec<u8>,
    },
    /// The server has another version of these messages.
    #[error(
        "the server speaks version {found} of the protocol, not {VERSION} (remedy: build all ranks' programs with the same version of phalanx)"
    )]
    OtherVersion {
        /// The server's.
        found: u64,
    },
    /// The server does not know the key, or somebody changes what is said on the way.
    #[error("the server cannot prove that it knows the job's key (remedy: look what listens at this address)")]
    Unproven,
    /// The server has ended the connection in the middle.
    #[error("the server closed the connection in the middle of the handshake (remedy: look whether it still runs)")]
    Closed,
    /// The server has not answered in time.
    #[error("the server did not answer the handshake in time (remedy: look whether it is stopped)")]
    TimedOut,
    /// The kernel refused something.
    #[error("the handshake failed: {0}")]
    System(#[from] std::io::Error),
}
