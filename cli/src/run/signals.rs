//! Which signals the launcher listens to, how it reads them, and what it calls them.
//!
//! All of them are blocked and read from a signalfd, so that nothing ever interrupts the launcher in the middle of
//! something. Whoever sent a signal matters: the terminal's driver sends Ctrl-C to the whole foreground process group,
//! and the ranks are in that group, so what comes from the kernel they have already; what comes from a process
//! (`kill`, a batch system) was meant for the launcher alone, and the launcher has to pass it on.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::error::RunError;

/// `si_code` of a signal that the kernel itself sent: for ours, the terminal's driver.
const SI_KERNEL: i32 = 0x80;

/// What a user may send to a job. SIGTSTP and SIGCONT are among them so that Ctrl-Z and `fg` work.
pub const FORWARDED: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Does this signal ask the job to end?
pub fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
}

/// Who sent a signal, which decides who has it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The terminal: every process of the foreground group has it.
    Terminal,
    /// A process: only the launcher has it.
    Process,
}

/// A signal that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// To be passed on.
    Forward(Signal, Origin),
    /// A child has changed its state.
    Child,
}

/// Signals as a file descriptor.
pub struct Signals {
    fd: SignalFd,
    ignored: u64,
}

impl Signals {
    /// Blocks the signals and listens to them. SIGTTOU is blocked as well: the supervisor writes to the terminal
    /// from a process group in the background, which `stty tostop` would otherwise stop it for.
    pub fn listen() -> Result<Self, RunError> {
        let ignored = ignored_signals();
        let mut heard: SigSet = FORWARDED.into_iter().collect();
        heard.add(Signal::SIGCHLD);
        let mut blocked = heard;
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block().map_err(RunError::system("block signals"))?;
        let fd = SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(RunError::system("listen to signals"))?;
        Ok(Self { fd, ignored })
    }

    /// The next signal that has arrived, if any.
    pub fn next(&self) -> Option<Arrived> {
        while let Ok(Some(info)) = self.fd.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            let origin = if info.ssi_code == SI_KERNEL { Origin::Terminal } else { Origin::Process };
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) => return Some(Arrived::Child),
                Ok(signal) if !self.stays_ignored(signal, origin) => return Some(Arrived::Forward(signal, origin)),
                _ => {}
            }
        }
        None
    }

    /// A launcher that was started with a signal ignored (`nohup`, a script's background job) keeps ignoring it when
    /// the terminal sends it. A hang-up it ignores from anybody, since shells send that one too; any other signal
    /// from a process is somebody's explicit wish.
    fn stays_ignored(&self, signal: Signal, origin: Origin) -> bool {
        let ignored = self.ignored & (1 << (signal as u32 - 1)) != 0;
        ignored && (signal == Signal::SIGHUP || origin == Origin::Terminal)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Stops this process as Ctrl-Z would have, had the signal not been blocked; returns when it is continued.
pub fn stop_here() {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTSTP);
    // With its default action the signal stops the process, unless nobody is there who could continue it.
    let _ = stop.thread_unblock();
    let _ = raise(Signal::SIGTSTP);
    let _ = stop.thread_block();
}

/// The mask of signals that this process was started with ignored. Without /proc: none.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A signal as messages call it: `signal 9 (SIGKILL)`. Real-time signals have no name.
pub fn describe(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("signal {number} ({signal})"),
        Err(_) => format!("signal {number}"),
    }
}

/// The exit status that stands for a death by signal. Signals' numbers end at 64.
pub fn exit_status(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_where_they_can() {
        assert_eq!(describe(9), "signal 9 (SIGKILL)");
        assert_eq!(describe(40), "signal 40");
    }

    #[test]
    fn statuses_of_signals() {
        assert_eq!(exit_status(15), 143);
        assert_eq!(exit_status(64), 192);
    }
}
