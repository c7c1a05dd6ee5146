//! How a process has ended that is no child of this one.
//!
//! The kernel gives an exit status to the parent, and to others in three places:
//!
//! - while the process is *ending*, its memory being freed or its core file written, the last field of `/proc/PID/stat`
//!   (Linux 5.17), to whoever may trace it: [`ProcessId::ending`];
//! - while the process is a *zombie*, its parent not having asked yet, the same field, to the same: the same
//!   user, in general;
//! - once it has been *reaped*, the pidfd itself, for whoever opened it before that (`PIDFD_GET_INFO`, Linux 6.15).
//!
//! A process goes from the first to the second at any moment, so the pidfd is asked again when the zombie has gone.
#![allow(unsafe_code, reason = "an ioctl that fills a structure")]

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::process::{ProcessId, ProcessState};

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// A signal has killed it.
    Killed {
        /// The signal's number.
        signal: u8,
    },
    /// It has ended by itself.
    Exited {
        /// Its exit status.
        status: u8,
    },
    /// Nobody can tell any more, or nobody tells this user.
    Unknown,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { signal } => write!(f, "killed by signal {signal}"),
            Self::Exited { status } => write!(f, "exited with status {status}"),
            Self::Unknown => f.write_str("dead, nobody knows how"),
        }
    }
}

impl End {
    /// From a status as `waitpid` gives it.
    ///
    /// | bits | meaning |
    /// | --- | --- |
    /// | 0–6 | the signal; 0: it has exited |
    /// | 7 | it has left a core file |
    /// | 8–15 | the exit status |
    pub(super) fn from_wait_status(status: u32) -> Self {
        let [low, high, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Exited { status: high },
            signal => Self::Killed { signal },
        }
    }
}

/// How a process has ended that is known to be dead. `pidfd` must be one of this very process.
pub fn end_of(pidfd: Option<BorrowedFd<'_>>, process: ProcessId) -> End {
    let by_pidfd = || pidfd.and_then(reaped_status);
    let status = by_pidfd().or_else(|| zombie_status(process)).or_else(by_pidfd);
    status.map_or(End::Unknown, End::from_wait_status)
}

/// The status of a zombie.
fn zombie_status(process: ProcessId) -> Option<u32> {
    let stat = process.stat().ok()??;
    if stat.state() != ProcessState::Gone {
        return None;
    }
    match stat.exit_code? {
        // What those read who may not know, too.
        0 => may_trace(process).then_some(0),
        status => Some(status),
    }
}

/// Whether the kernel lets this process read what it keeps from strangers. A zombie has no program any more, so that
/// the link to it cannot be read by anyone, but strangers are told another reason.
fn may_trace(process: ProcessId) -> bool {
    let program = std::fs::read_link(format!("/proc/{}/exe", process.pid));
    program.err().is_none_or(|error| Errno::from_io_error(&error) == Some(Errno::NOENT))
}

/// The status of a process that has been reaped since the pidfd was opened.
fn reaped_status(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let mut info = PidfdInfo { mask: PidfdInfo::EXIT, ..PidfdInfo::default() };
    // SAFETY: PIDFD_GET_INFO reads and writes a `struct pidfd_info`, whose first version `PidfdInfo` is; the kernel
    // takes the size from the number of the request, and writes no more than that.
    let request = unsafe { Updater::<{ PidfdInfo::GET }, PidfdInfo>::new(&mut info) };
    // SAFETY: as above. Any other kind of descriptor refuses the number (ENOTTY), as older kernels do.
    unsafe { ioctl(pidfd, request) }.ok()?;
    // The kernel has cleared the bit if it had nothing to tell.
    (info.mask & PidfdInfo::EXIT != 0).then_some(info.exit_code)
}

/// `struct pidfd_info` of linux/pidfd.h, as Linux 6.15 has it: 64 bytes, later versions append to it.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | mask: what is asked for, then what is there |
/// | 8–59 | cgroup, pids, users |
/// | 60–63 | exit status as `waitpid` gives it |
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pids_and_users: [u32; 11],
    exit_code: u32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64 && std::mem::offset_of!(PidfdInfo, exit_code) == 60);

impl PidfdInfo {
    /// `PIDFD_INFO_EXIT`.
    const EXIT: u64 = 1 << 3;
    /// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
    const GET: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_signals_or_exits() {
        assert_eq!(End::from_wait_status(0), End::Exited { status: 0 });
        assert_eq!(End::from_wait_status(3 << 8), End::Exited { status: 3 });
        assert_eq!(End::from_wait_status(255 << 8), End::Exited { status: 255 });
        assert_eq!(End::from_wait_status(9), End::Killed { signal: 9 });
        assert_eq!(End::from_wait_status(11 | 0x80), End::Killed { signal: 11 }, "with a core file");
        assert_eq!(End::from_wait_status(64), End::Killed { signal: 64 });
    }
}
