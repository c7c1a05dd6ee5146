//! Whether the TCP engine on io_uring can run here: a ring is really set up, and really receives.
//!
//! The features that matter came one by one: provided buffer rings with 5.19, multishot receive and `SINGLE_ISSUER`
//! with 6.0, `DEFER_TASKRUN` with 6.1. Distributions port them back and sandboxes leave them out, so that a kernel's
//! version proves nothing.

#![allow(unsafe_code, reason = "the kernel writes into a ring and a buffer that this file hands to it")]

use std::alloc::{Layout, alloc_zeroed};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::check::{Area, Check, Status};
use super::root::Root;

/// The largest page of any architecture: a buffer ring begins at a page.
const PAGE: usize = 64 << 10;
/// Where the buffer lies in the page that begins with the ring.
const BUFFER_OFFSET: usize = 1024;
const BUFFER_BYTES: u32 = 64;
const GROUP: u16 = 0;

/// What the kernel offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    single_issuer: bool,
    defer_taskrun: bool,
    buffer_rings: bool,
    multishot_receive: bool,
}

impl Features {
    fn are_complete(self) -> bool {
        self.single_issuer && self.defer_taskrun && self.buffer_rings && self.multishot_receive
    }

    fn named(self) -> [(&'static str, bool); 4] {
        [
            ("single_issuer", self.single_issuer),
            ("defer_taskrun", self.defer_taskrun),
            ("buffer_rings", self.buffer_rings),
            ("multishot_receive", self.multishot_receive),
        ]
    }
}

pub fn check(root: &Root) -> Check {
    judge(root, probe())
}

fn probe() -> Result<Features, Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut features = Features::default();
    let best = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2);
    let mut ring = if let Ok(ring) = best {
        features.single_issuer = true;
        features.defer_taskrun = true;
        ring
    } else if let Ok(ring) = IoUring::builder().setup_single_issuer().build(2) {
        features.single_issuer = true;
        ring
    } else {
        IoUring::builder().build(2).map_err(errno)?
    };
    features.buffer_rings = register_buffer(&ring).is_ok();
    features.multishot_receive = features.buffer_rings && receives(&mut ring).unwrap_or(false);
    Ok(features)
}

/// Gives the kernel a buffer ring with one buffer in it.
fn register_buffer(ring: &IoUring) -> io::Result<()> {
    let layout = Layout::from_size_align(PAGE, PAGE).map_err(io::Error::other)?;
    // SAFETY: the layout's size is not zero.
    let page = unsafe { alloc_zeroed(layout) };
    if page.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let entry = page.cast::<BufRingEntry>();
    // SAFETY: the page is never freed (the kernel takes rings down at its leisure; this process ends soon), it is
    // aligned and zeroed, and two entries of 16 bytes lie in it below the buffer, so the first may be written, and its
    // tail, which is a field of it. Nobody else knows the page before it is registered, and afterwards only the kernel.
    unsafe {
        (*entry).set_addr(page.add(BUFFER_OFFSET) as u64);
        (*entry).set_len(BUFFER_BYTES);
        (*entry).set_bid(0);
        ring.submitter().register_buf_ring_with_flags(page as u64, 2, GROUP, 0)?;
        BufRingEntry::tail(entry).cast_mut().write_volatile(1);
    }
    Ok(())
}

/// Whether a multishot receive on a socket pair delivers a byte.
fn receives(ring: &mut IoUring) -> io::Result<bool> {
    let (mut sender, receiver) = UnixStream::pair()?;
    sender.write_all(b"x")?;
    let receive = opcode::RecvMulti::new(Fd(receiver.as_raw_fd()), GROUP).build();
    // SAFETY: the entry names a socket that is open until this function returns, and a group whose only buffer is
    // never freed.
    unsafe { ring.submission().push(&receive) }.map_err(io::Error::other)?;
    let patience = Timespec::new().nsec(100_000_000);
    ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience))?;
    Ok(ring.completion().next().is_some_and(|completion| completion.result() == 1))
}

fn judge(root: &Root, probed: Result<Features, Errno>) -> Check {
    let check = Check::new(Area::Network, "io_uring")
        .fact("kernel", root.read("proc/sys/kernel/osrelease"))
        .fact("disabled", root.number::<u32>("proc/sys/kernel/io_uring_disabled"));
    let features = match probed {
        Ok(features) => features,
        Err(error) => return refused(root, check, error),
    };
    let check = features.named().into_iter().fold(check.fact("usable", true), |check, (name, is)| check.fact(name, is));
    if features.are_complete() {
        return check
            .found("works, with DEFER_TASKRUN, SINGLE_ISSUER and multishot receive into buffer rings")
            .meaning("TCP can run on io_uring, where that is faster on this machine.");
    }
    let lacking: Vec<&str> = features.named().iter().filter(|(_, is)| !is).map(|(name, _)| *name).collect();
    check
        .status(Status::Note)
        .found(format!("works, but without {}", lacking.join(", ")))
        .meaning("TCP runs on plain sockets here: its engine on io_uring needs Linux 6.1.")
}

/// A ring could not be set up: by whom?
fn refused(root: &Root, check: Check, error: Errno) -> Check {
    let features = Features::default().named();
    let check = features.into_iter().fold(check.fact("usable", false), |check, (name, is)| check.fact(name, is));
    let check = check.status(Status::Note).fact("errno", error.raw_os_error());
    let sysctl: u32 = root.number("proc/sys/kernel/io_uring_disabled").unwrap_or(0);
    let is_filtered = root.field("proc/self/status", "Seccomp").is_some_and(|mode| mode == "2");
    let (found, remedy) = match error {
        Errno::NOSYS => ("not in this kernel, or hidden by a sandbox (ENOSYS)".to_owned(), None),
        Errno::PERM | Errno::ACCESS if sysctl > 0 => (
            format!("forbidden by the administrator (kernel.io_uring_disabled = {sysctl})"),
            Some("sudo sysctl kernel.io_uring_disabled=0"),
        ),
        Errno::PERM | Errno::ACCESS if is_filtered => (
            "forbidden by a seccomp filter, as containers have it (EPERM)".to_owned(),
            Some(
                "docker run --security-opt seccomp=PROFILE …    # a profile that allows io_uring_setup, _enter, _register",
            ),
        ),
        Errno::PERM | Errno::ACCESS => ("forbidden, by a security module perhaps (EPERM)".to_owned(), None),
        Errno::NOMEM => ("refused for want of lockable memory (ENOMEM)".to_owned(), Some("ulimit -l 65536")),
        other => (format!("refused: {other}"), None),
    };
    let check = check
        .found(found)
        .meaning("TCP runs on plain sockets, which is fine; only its engine on io_uring is not to be had.");
    match remedy {
        Some(remedy) => check.remedy(remedy),
        None => check,
    }
}

#[cfg(test)]
mod tests {
    use super::super::root::made_up::Machine;
    use super::*;

    const ALL: Features =
        Features { single_issuer: true, defer_taskrun: true, buffer_rings: true, multishot_receive: true };

    #[test]
    fn features_build_on_each_other_on_a_real_kernel() {
        match probe() {
            Ok(features) => {
                assert!(!features.defer_taskrun || features.single_issuer, "{features:?}");
                assert!(!features.defer_taskrun || features.multishot_receive, "Linux 6.1 has all: {features:?}");
            }
            Err(error) => phalanx::testing::not_run(format!("no io_uring here: {error}")),
        }
    }

    #[test]
    fn who_refuses_is_told_apart() {
        let open = Machine::new("uring-open").with("proc/sys/kernel/io_uring_disabled", "0");
        let closed = Machine::new("uring-closed").with("proc/sys/kernel/io_uring_disabled", "2");
        let filtered = Machine::new("uring-filtered").with("proc/self/status", "Name:\tx\nSeccomp:\t2");
        let found = |machine: &Machine, error| judge(&machine.root, Err(error)).found[0].clone();
        assert!(found(&open, Errno::NOSYS).contains("ENOSYS"));
        assert!(found(&closed, Errno::PERM).contains("io_uring_disabled = 2"));
        assert!(found(&filtered, Errno::PERM).contains("seccomp"));
        assert!(found(&open, Errno::PERM).contains("security module"));
        let check = judge(&closed.root, Err(Errno::PERM));
        assert_eq!((check.status, check.prevents), (Status::Note, false));
        assert_eq!(check.remedy.as_deref(), Some("sudo sysctl kernel.io_uring_disabled=0"));
    }

    #[test]
    fn what_lacks_is_named() {
        let nothing = Machine::new("uring-features");
        assert_eq!(judge(&nothing.root, Ok(ALL)).status, Status::Ok);
        let old = judge(&nothing.root, Ok(Features { defer_taskrun: false, ..ALL }));
        assert_eq!(old.found, ["works, but without defer_taskrun"]);
        assert_eq!((old.status, old.facts["single_issuer"].as_bool()), (Status::Note, Some(true)));
    }
}
