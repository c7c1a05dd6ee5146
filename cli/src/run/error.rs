//! What can go wrong with the launcher itself, as opposed to with the ranks it runs. Each error says what to do
//! about it and has the exit status that shells and batch systems expect.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::io::Errno;

/// The launcher failed, before or after it had started ranks.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Looked for along `PATH`, or at the path given.
    #[error(
        "cannot start `{}`: no such program{}", program.display(),
        if looks_like_path(program) { " (or the interpreter in its first line does not exist)" }
        else { " in PATH; for one in this directory write `./` before its name" }
    )]
    NotFound { program: OsString },

    /// It is there, but the kernel will not execute it.
    #[error("cannot start `{}`: {cause}; is it an executable file for this machine (chmod +x)?", program.display())]
    NotExecutable { program: OsString, cause: io::Error },

    /// The program is not to blame.
    #[error(
        "cannot start rank {rank}: {cause}; raise the limits on open files and processes (ulimit -n, -u) or start fewer ranks"
    )]
    NoResources { rank: usize, cause: io::Error },

    /// The command line contradicts itself.
    #[error("--nodes {nodes}: each node needs a rank, and -n starts only {ranks}; give --nodes 1 to {ranks}")]
    MoreNodesThanRanks { nodes: usize, ranks: usize },

    /// Something that an ordinary Linux since 5.4 always grants.
    #[error("cannot {what}: {cause}; phalanx run needs Linux 5.4 or newer, and a sandbox must not forbid it")]
    System { what: &'static str, cause: io::Error },
}

impl RunError {
    /// A system call that does not fail on an ordinary machine.
    pub fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::System { what, cause: cause.into() }
    }

    /// Why `Command::spawn` failed.
    pub fn spawn(program: &OsStr, rank: usize, cause: io::Error) -> Self {
        let program = program.to_owned();
        match cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Self::NotFound { program },
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Self::NoResources { rank, cause },
            _ => Self::NotExecutable { program, cause },
        }
    }

    /// The exit status, as `env`, `nohup` and `timeout` use them.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::MoreNodesThanRanks { .. } => 2,
            Self::NoResources { .. } | Self::System { .. } => 125,
        }
    }
}

fn looks_like_path(program: &OsStr) -> bool {
    program.as_encoded_bytes().contains(&b'/')
}
