//! Connections of this process that break while it uses them.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, Shutdown, getpeername, shutdown};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Ends every TCP connection of this process, as if the network had. How many there were.
pub fn cut_connections() -> usize {
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process");
    let entries = fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let sockets = entries.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    let numbers: Vec<i32> = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let own = this.as_raw_fd();
    let cut = numbers.into_iter().filter(|number| *number != own).filter(|number| {
        // It may have been closed meanwhile.
        let Ok(socket) = pidfd_getfd(&this, *number, PidfdGetfdFlags::empty()) else { return false };
        let is_tcp = getpeername(&socket)
            .ok()
            .flatten()
            .is_some_and(|peer| [AddressFamily::INET, AddressFamily::INET6].contains(&peer.address_family()));
        is_tcp && shutdown(&socket, Shutdown::Both).is_ok()
    });
    cut.count()
}

/// Cuts all connections again and again until `is_over`, at most so often: where each attempt to connect is cut off
/// nobody gets through. How many there were.
pub fn cut_until(is_over: &AtomicBool, pause: Duration, most: usize) -> usize {
    let mut cut = 0;
    for _ in 0..most {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        cut += cut_connections();
        std::thread::sleep(pause);
    }
    cut
}
