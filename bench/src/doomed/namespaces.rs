//! Network namespaces as nodes, joined by a bridge in this one, so that a node can be cut off in silence: its cable in the
//! switch, or one direction of what it says to another. Needs root and iproute2; where they are missing the reason is told.
//!
//! Names hold this process's id; what a process that was killed has left is taken away by the next.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

/// Prefix of all names. Interfaces' names are short.
const PREFIX: &str = "phx";
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:5e:00:53:99";

/// Nodes, each with a network of its own.
#[derive(Debug)]
pub struct Namespaces {
    nodes: usize,
    subnet: u8,
}

impl Namespaces {
    /// As many, all joined.
    ///
    /// # Errors
    ///
    /// The reason why this machine does not allow it.
    pub fn new(nodes: usize) -> Result<Self, String> {
        sweep();
        let subnet = u8::try_from(std::process::id() % 250).expect("below 250");
        // Taken away again by the drop, however far it comes.
        let namespaces = Self { nodes, subnet };
        let bridge = name("b");
        let host = format!("{}/24", namespaces.host());
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &host, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            let (namespace, port) = (namespace(node), port(node));
            let address = format!("{}/24", namespaces.address(node));
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["link", "set", &port, "master", &bridge, "up"])?;
            ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        // What cuts is tried once, so that it does not fail in the midst of a run.
        namespaces.cut(0)?;
        namespaces.mend(0)?;
        Ok(namespaces)
    }

    /// This namespace's address on the bridge.
    pub fn host(&self) -> IpAddr {
        Ipv4Addr::new(198, 18, self.subnet, 254).into()
    }

    fn address(&self, node: usize) -> IpAddr {
        Ipv4Addr::new(198, 18, self.subnet, u8::try_from(node + 1).expect("few nodes")).into()
    }

    /// How a program is started on a node.
    pub fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(node)]).arg(program);
        command
    }

    /// Cuts a node off, both directions: the bridge drops all, and no kernel of a node notices.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn cut(&self, node: usize) -> Result<(), String> {
        run("bridge", &["link", "set", "dev", &port(node), "state", "0"])
    }

    /// Ends the cut of a node.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn mend(&self, node: usize) -> Result<(), String> {
        run("bridge", &["link", "set", "dev", &port(node), "state", "3"])
    }

    /// Nothing that `from` says reaches `to` any more; the other direction stays.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<(), String> {
        let to = self.address(to).to_string();
        ip(&["-n", &namespace(from), "neigh", "replace", &to, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"])
    }

    /// Ends a cut of one direction.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn mend_one_way(&self, from: usize, to: usize) -> Result<(), String> {
        let to = self.address(to).to_string();
        ip(&["-n", &namespace(from), "neigh", "del", &to, "dev", "eth0"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        (0..self.nodes).for_each(|node| remove(&port(node), &namespace(node)));
        let _ = ip(&["link", "del", &name("b")]);
    }
}

fn name(what: &str) -> String {
    format!("{PREFIX}{}{what}", std::process::id())
}

fn namespace(node: usize) -> String {
    name(&format!("n{node}"))
}

/// The bridge's end of a node's cable.
fn port(node: usize) -> String {
    name(&format!("p{node}"))
}

/// The cable first: the kernel takes its time with a namespace's own devices.
fn remove(port: &str, namespace: &str) {
    let _ = ip(&["link", "del", port]);
    let _ = ip(&["netns", "del", namespace]);
}

/// Takes away what processes have left that are no more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for namespace in names {
        let Some(rest) = namespace.strip_prefix(PREFIX) else { continue };
        let Some((pid, node)) = rest.split_once('n') else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            remove(&format!("{PREFIX}{pid}p{node}"), &namespace);
            let _ = ip(&["link", "del", &format!("{PREFIX}{pid}b")]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a tool; the error is what it says.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    // Where a user's PATH may not look.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot start {tool}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it says nothing");
    output.status.success().then_some(()).ok_or_else(|| format!("{tool} {}: {said}", arguments.join(" ")))
}
