//! Which of the two engines moves the bytes.

use std::str::FromStr;

use super::uring::Ring;

/// How a process moves the bytes of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpEngine {
    /// The one that measurements have shown to be quicker: sockets (docs/design.md, "Two engines for TCP").
    #[default]
    Auto,
    /// A system call for each connection.
    Sockets,
    /// A system call for many connections, by a ring of the kernel's: Linux 6.1, where `io_uring` is allowed.
    IoUring,
}

impl TcpEngine {
    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sockets => "sockets",
            Self::IoUring => "io-uring",
        }
    }

    /// Whether this kernel lets this process have it.
    ///
    /// # Errors
    ///
    /// Why not, and what helps.
    pub fn probe(self) -> std::io::Result<()> {
        self.ring().map(drop).map_err(std::io::Error::other)
    }

    /// A ring, if there is to be one.
    pub(super) fn ring(self) -> Result<Option<Ring>, RingError> {
        match self {
            Self::Auto | Self::Sockets => Ok(None),
            Self::IoUring => Ring::new().map(Some).map_err(RingError),
        }
    }
}

impl std::fmt::Display for TcpEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TcpEngine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Sockets, Self::IoUring];
        let named = all.into_iter().find(|engine| engine.name() == text);
        named.ok_or_else(|| format!("{text:?} is none of auto, sockets, io-uring"))
    }
}

/// The engine on a ring was asked for by name, and there is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no io_uring for the TCP engine of that name: {0} (remedy: PHALANX_TCP_ENGINE=auto or sockets; or Linux 6.1, \
     /proc/sys/kernel/io_uring_disabled at 0, and a container whose seccomp profile allows io_uring_setup)"
)]
pub(super) struct RingError(#[source] std::io::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_named_as_it_is_parsed_and_one_that_is_refused_says_what_helps() {
        for engine in [TcpEngine::Auto, TcpEngine::Sockets, TcpEngine::IoUring] {
            assert_eq!(engine.name().parse(), Ok(engine));
        }
        assert!("epoll".parse::<TcpEngine>().is_err_and(|why| why.contains("io-uring")));
        let refused = RingError(std::io::Error::from(std::io::ErrorKind::PermissionDenied)).to_string();
        assert!(refused.contains("permission denied") && refused.contains("PHALANX_TCP_ENGINE"), "{refused}");
        assert!(TcpEngine::Auto.probe().is_ok());
    }
}
