//! Which ranks can share memory: those with equal node keys.
//!
//! Equal are the booted kernel, the user, and the namespaces in which a descriptor is passed (network: an abstract
//! socket's name) and a process is known (pid; time, from whose zero its start is counted). Containers on one machine
//! are nodes of their own, unless they share these. A launcher can pretend more nodes than there are (`PHALANX_NODE`).

use std::io;
use std::os::unix::fs::MetadataExt;

/// The size of a node key.
pub const NODE_KEY_BYTES: usize = 48;

/// This process's node.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–15 | boot id |
/// | 16–23 | effective user |
/// | 24–31 | inode of the network namespace |
/// | 32–35 | inode of the pid namespace |
/// | 36–39 | inode of the time namespace, 0 where there is none (before Linux 5.6) |
/// | 40–47 | 1 + the pretended node's number, 0 without one |
///
/// # Errors
///
/// When there is no `/proc` that tells.
pub fn node_key(pretended: Option<u32>) -> io::Result<[u8; NODE_KEY_BYTES]> {
    let namespace = |name: &str| std::fs::metadata(format!("/proc/self/ns/{name}")).map(|entry| entry.ino());
    let user = u64::from(rustix::process::geteuid().as_raw());
    let node = pretended.map_or(0, |node| u64::from(node) + 1);
    let processes = combined(namespace("pid")?, namespace("time").unwrap_or(0));
    let numbers = [user, namespace("net")?, processes, node];
    let mut key = [0; NODE_KEY_BYTES];
    key[..16].copy_from_slice(&boot_id()?);
    for (chunk, number) in key[16..].chunks_exact_mut(8).zip(numbers) {
        chunk.copy_from_slice(&number.to_le_bytes());
    }
    Ok(key)
}

/// Two namespaces' inodes in a word. The kernel's numbers have 32 bits; should they ever have more, their halves mix.
fn combined(low: u64, high: u64) -> u64 {
    low ^ high.rotate_left(32)
}

fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number =
        u128::from_str_radix(&digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_key_and_one_more_for_each_pretended_node() {
        let key = |node| node_key(node).expect("Linux has /proc");
        assert_eq!(key(None), key(None));
        assert_eq!(key(Some(1)), key(Some(1)));
        assert_ne!(key(None), key(Some(0)));
        assert_ne!(key(Some(0)), key(Some(1)));
        assert_ne!(key(None)[..16], [0; 16], "this boot has an id");
    }

    #[test]
    fn processes_are_known_where_pid_and_time_namespace_are_the_same() {
        let inode = |name: &str| std::fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |entry| entry.ino());
        let half = |inode: u64| u32::try_from(inode).expect("the kernel's numbers have 32 bits").to_le_bytes();
        let key = node_key(None).expect("Linux has /proc");
        assert_eq!((&key[32..36], &key[36..40]), (&half(inode("pid"))[..], &half(inode("time"))[..]));
        // Each of them makes a difference, the two exchanged too, and a kernel without time namespaces has 0 there.
        let all = [combined(5, 6), combined(6, 5), combined(5, 7), combined(5, 0)];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!((distinct.len(), all[3]), (4, 5));
    }
}
