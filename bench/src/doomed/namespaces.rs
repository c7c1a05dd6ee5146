//! Network namespaces as nodes, joined by a bridge in this one, so that a node can be cut off in silence: its cable in
//! the switch, or one direction of what it says to another. Needs root and iproute2; where they are missing the reason
//! is told.
//!
//! Names hold this process's id. A process that sleeps until this one is gone, however it goes, takes them away; what
//! is left where that was killed, too, is taken away by the next.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{await_end, threads_of};

/// Prefix of all names. Interfaces' names are short.
const PREFIX: &str = "phx";
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:5e:00:53:99";
/// How long a tool may take: what it asks for may wait in the kernel for what others have asked for.
const TOOL_LIMIT: Duration = Duration::from_secs(20);
/// How long all may take that has to be done to take everything away.
const SWEEP_LIMIT: Duration = Duration::from_secs(60);

/// The hidden subcommand that takes a process's namespaces away once standard input ends, which is when that has ended.
pub const SWEEP_COMMAND: &str = "doomed-sweep";

/// Nodes, each with a network of its own.
#[derive(Debug)]
pub struct Namespaces {
    subnet: u8,
    sweeper: Child,
}

impl Namespaces {
    /// As many, all joined.
    ///
    /// # Errors
    ///
    /// The reason why this machine does not allow it.
    pub fn new(nodes: usize) -> Result<Self, String> {
        sweep();
        let owner = std::process::id();
        let subnet = u8::try_from(owner % 250).expect("below 250");
        let sweeper = start_sweeper(owner, nodes).map_err(|error| format!("cannot start who sweeps: {error}"))?;
        // Taken away again by the drop, however far it comes.
        let namespaces = Self { subnet, sweeper };
        let bridge = name(owner, "b");
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
        drop(self.sweeper.stdin.take());
        if !matches!(await_end(&mut self.sweeper, Instant::now() + SWEEP_LIMIT), Ok(Some(_))) {
            let doing = threads_of(self.sweeper.id());
            eprintln!("phalanx: who sweeps has not ended within {SWEEP_LIMIT:?}: {doing}");
        }
    }
}

fn start_sweeper(owner: u32, nodes: usize) -> std::io::Result<Child> {
    let mut sweeper = Command::new(std::env::current_exe()?);
    // A group of its own: the terminal's interrupt is not for it.
    sweeper.args([SWEEP_COMMAND, &owner.to_string(), &nodes.to_string()]).process_group(0);
    sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// The whole life of who sweeps behind a process: waits until standard input ends, and takes away what it had.
pub fn sweep_behind(owner: u32, nodes: usize) {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    (0..nodes).for_each(|node| remove_node(owner, node));
    remove_bridge(owner);
}

fn name(owner: u32, what: &str) -> String {
    format!("{PREFIX}{owner}{what}")
}

fn namespace(node: usize) -> String {
    name(std::process::id(), &format!("n{node}"))
}

/// The bridge's end of a node's cable.
fn port(node: usize) -> String {
    name(std::process::id(), &format!("p{node}"))
}

/// The cable first: the kernel takes its time with a namespace's own devices.
fn remove_node(owner: u32, node: usize) {
    let _ = ip(&["link", "del", &name(owner, &format!("p{node}"))]);
    let _ = ip(&["netns", "del", &name(owner, &format!("n{node}"))]);
}

fn remove_bridge(owner: u32) {
    let _ = ip(&["link", "del", &name(owner, "b")]);
}

/// Takes away what processes have left that are no more.
fn sweep() {
    for namespace in names_in("/run/netns") {
        let of_node = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split_once('n'));
        let Some((Ok(owner), Ok(node))) = of_node.map(|(owner, node)| (owner.parse(), node.parse())) else { continue };
        if is_gone(owner) {
            remove_node(owner, node);
        }
    }
    for interface in names_in("/sys/class/net") {
        let of_bridge = interface.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix('b'));
        if let Some(owner) = of_bridge.and_then(|owner| owner.parse().ok()).filter(|owner| is_gone(*owner)) {
            remove_bridge(owner);
        }
    }
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn is_gone(owner: u32) -> bool {
    !Path::new("/proc").join(owner.to_string()).exists()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a tool; the error is what it says, or that it does not end.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    // Where a user's PATH may not look.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(tool);
    command.args(arguments).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start {tool}: {error}"))?;
    let line = || format!("{tool} {}", arguments.join(" "));
    let end = await_end(&mut child, Instant::now() + TOOL_LIMIT).map_err(|error| format!("{}: {error}", line()))?;
    let Some(status) = end else {
        let doing = threads_of(child.id());
        // It is not waited for: what waits in the kernel does not die of a signal before it comes out.
        let _ = child.kill();
        return Err(format!("{} has not ended within {TOOL_LIMIT:?}: {doing}", line()));
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
    Err(format!("{}: {}", line(), said.lines().next().unwrap_or("it says nothing")))
}
