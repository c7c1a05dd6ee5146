//! What the kernel knows of a connection's other end: when that end's kernel last acknowledged something.
//!
//! A kernel acknowledges what comes in whether its process reads it or not, within 40 ms; so an acknowledgement shows
//! that the other machine and the way there and back live, and nothing of the process.

#![allow(unsafe_code, reason = "rustix does not read this option of a socket")]

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How long ago. `None` where the kernel does not say.
pub(super) fn last_seen(socket: &TcpStream) -> Option<Duration> {
    // SAFETY: all zeros are a valid `tcp_info`, which is plain numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the kernel writes at most `size` bytes, which are the struct's, and the number of those into `size`.
    let read = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut info).cast(), &raw mut size) };
    let is_told = read == 0 && size as usize > std::mem::offset_of!(libc::tcp_info, tcpi_last_ack_recv);
    is_told.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}
