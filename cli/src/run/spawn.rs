//! The three places where the launcher does what Rust cannot check: it forks, it runs code between fork and exec,
//! and it changes a signal's disposition.
#![allow(unsafe_code, reason = "fork, pre_exec and sigaction have no safe form")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{self, ForkResult};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getpid, getppid, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Which of the two processes this is after [`fork`].
pub enum Forked {
    Parent { child: Pid },
    Child,
}

/// Makes two processes of this one. To be called while it has only one thread.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: The launcher starts its first thread in the supervisor, after this call (see `nodes.rs`, `writer.rs`), so
    // no other thread can hold a lock that the child would find locked for ever.
    match unsafe { unistd::fork() }? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { child } => {
            let child = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Forked::Parent { child })
        }
    }
}

/// Undoes an inherited `SIGCHLD` set to ignored, under which the kernel would throw exit statuses away.
pub fn listen_to_children() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: No handler is installed, so no code can run in a signal's context.
    unsafe { sigaction(Signal::SIGCHLD, &default) }.map(drop)
}

/// What a rank's process is told between fork and exec.
pub struct Birth {
    /// The CPU that it is pinned to.
    pub mask: Option<CpuSet>,
    /// The limit on open files as the user has set it; the supervisor has raised its own.
    pub open_files: Rlimit,
}

/// Arranges that `command`, once spawned, dies with the process that spawns it, hears all signals, and starts as
/// `birth` says.
pub fn prepare(command: &mut Command, birth: Birth) {
    let supervisor = getpid();
    let before_exec = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Had the supervisor died before the line above, nobody would send that signal any more.
        if getppid() != Some(supervisor) {
            return Err(Errno::SRCH.into());
        }
        SigSet::empty().thread_set_mask()?;
        setrlimit(Resource::Nofile, birth.open_files)?;
        match &birth.mask {
            Some(mask) => Ok(sched_setaffinity(None, mask)?),
            None => Ok(()),
        }
    };
    // SAFETY: The closure makes system calls only, all of them async-signal-safe; it neither allocates nor takes a
    // lock, and its errors are plain numbers.
    unsafe { command.pre_exec(before_exec) };
}
