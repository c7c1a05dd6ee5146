//! Sockets and shared memory of other processes, as `/proc` shows them: which ports they listen at, and what of them is
//! left when they are gone.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The kernel's number for a TCP socket that listens.
const LISTENS: &str = "0A";

/// What processes hold that has to go with them.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Sockets, by inode.
    sockets: HashSet<String>,
    /// Segments, by inode.
    segments: HashSet<String>,
}

impl Holdings {
    /// Adds what a process holds now.
    pub fn add(&mut self, pid: u32) {
        self.sockets.extend(sockets_of(pid));
        self.segments.extend(segments_of(&pid.to_string()));
    }

    /// What is still there at the limit, of processes that are gone: listening or named sockets, and processes that map
    /// a segment. (The kernel takes a process's memory away before its sockets, and its environment is in its memory.)
    pub fn left_at(&self, limit: Instant) -> Vec<String> {
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() >= limit {
                return left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for inode in listeners("/proc").into_iter().map(|(_, inode)| inode) {
            if self.sockets.contains(&inode) {
                left.push(format!("a listening TCP socket, inode {inode}"));
            }
        }
        let unix = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        for fields in unix.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            if fields.get(6).is_some_and(|inode| self.sockets.contains(*inode)) {
                left.push(format!("the UNIX socket {}", fields.get(7).unwrap_or(&"(no name)")));
            }
        }
        for pid in processes() {
            if segments_of(&pid).iter().any(|inode| self.segments.contains(inode)) {
                left.push(format!("process {pid}, which maps the segment"));
            }
        }
        left
    }
}

/// The addresses at which a process listens for TCP connections on the loopback interface.
pub fn listening(pid: u32) -> Vec<SocketAddr> {
    let own = sockets_of(pid);
    let open = listeners(&format!("/proc/{pid}"));
    let ports = open.into_iter().filter(|(_, inode)| own.contains(inode)).map(|(port, _)| port);
    ports.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).collect()
}

/// Processes with this text in their environment.
pub fn with_variable(text: &str) -> Vec<String> {
    let has_it = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(text.len()).any(|window| window == text.as_bytes())
    };
    processes().into_iter().filter(has_it).collect()
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("Linux");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

fn sockets_of(pid: u32) -> HashSet<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| {
        let text = target.to_str()?.strip_prefix("socket:[")?;
        text.strip_suffix(']').map(str::to_owned)
    };
    targets.filter_map(inode).collect()
}

fn segments_of(pid: &str) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let of_segments = maps.lines().filter(|line| line.contains("memfd:phalanx"));
    of_segments.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect()
}

/// Port and inode of each listening socket in a process's network.
fn listeners(process: &str) -> Vec<(u16, String)> {
    let read = |table| fs::read_to_string(format!("{process}/net/{table}")).unwrap_or_default();
    let tables = [read("tcp"), read("tcp6")];
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.split_once(':')?.1, 16).ok()?;
        (*state == LISTENS).then(|| (port, (*inode).to_owned()))
    };
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_holds_is_found_until_it_is_dropped() {
        let pid = std::process::id();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        assert!(listening(pid).contains(&address));
        let mut holdings = Holdings::default();
        holdings.add(pid);
        assert!(holdings.left().iter().any(|left| left.contains("listening TCP socket")), "{:?}", holdings.left());
        let going = std::thread::spawn(move || drop(listener));
        assert_eq!(holdings.left_at(Instant::now() + Duration::from_secs(60)), Vec::<String>::new());
        going.join().expect("it only drops");
        assert!(!listening(pid).contains(&address));
    }
}
