//! The network interfaces of this node: by which addresses other nodes may find it, the likeliest first.
//!
//! Addresses, and whether an interface runs, are the kernel's own word (`getifaddrs`). MTU, speed and what an
//! interface stands on come from sysfs, which a container may lack, or may have from another network namespace: where
//! the index there is not the interface's, nothing of it is believed. Nothing is cached.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// Where the kernel shows interfaces.
const SYSFS: &str = "/sys/class/net";
/// The kernel gives this index to each network namespace's loopback device, and to no other.
const LOOPBACK_INDEX: u32 = 1;
/// A VLAN on a bond on a bridge is three deep; a loop of links ends here.
const STACK_DEPTH: usize = 4;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name: `eth0`.
    pub name: String,
    /// The kernel's number for it, which is also the scope of its link-local addresses.
    pub index: u32,
    /// Its addresses, best first. IPv6 link-local ones are left out: without a scope that only this node knows, they
    /// lead nowhere.
    pub addresses: Vec<Address>,
    /// Up, and with a carrier where it has one.
    pub is_running: bool,
    /// The loopback device.
    pub is_loopback: bool,
    /// Hardware, or something on top of hardware (a bond, a VLAN, a bridge with a port that leads out), as opposed to
    /// a bridge among this machine's containers.
    pub is_physical: bool,
    /// The largest packet in bytes.
    pub mtu: Option<u32>,
    /// In Mbit/s, where the driver knows.
    pub speed_mbit: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix in bits.
    pub prefix: u8,
}

impl Interface {
    /// Whether another process can reach this node by it: it runs, and has an address.
    pub fn is_usable(&self) -> bool {
        self.is_running && !self.addresses.is_empty()
    }

    /// Whether only this machine can reach it: no address but those of 127.0.0.0/8 and `::1`. (The loopback device
    /// may have others, where routes lead to the host instead of to its links.)
    pub fn is_local_only(&self) -> bool {
        self.addresses.iter().all(|address| address.ip.is_loopback())
    }

    /// Smaller is better.
    fn order(&self) -> impl Ord + use<> {
        let reach = self.addresses.iter().map(Address::reach).min().unwrap_or(Reach::None);
        let slowness = std::cmp::Reverse(self.speed_mbit.unwrap_or(0));
        (reach, self.is_loopback, !self.is_physical, slowness, self.index)
    }
}

/// How far an address leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Routed,
    /// 169.254.0.0/16: one network, often only the board's own management controller.
    Link,
    Machine,
    None,
}

impl Address {
    fn reach(&self) -> Reach {
        match self.ip {
            ip if ip.is_loopback() => Reach::Machine,
            IpAddr::V4(ip) if ip.is_link_local() => Reach::Link,
            _ => Reach::Routed,
        }
    }

    fn is_worth_telling(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
        }
    }
}

/// The interfaces by which other processes can reach this node, the best first: routed addresses before link-local
/// ones before loopback, hardware before software, fast before slow.
pub fn usable() -> io::Result<Vec<Interface>> {
    let mut interfaces = all()?;
    interfaces.retain(Interface::is_usable);
    Ok(interfaces)
}

/// Every interface of this network namespace, usable ones or not, in the order of [`usable`].
///
/// One that has no address at all is known from sysfs only.
pub fn all() -> io::Result<Vec<Interface>> {
    let listed = if_addrs::get_if_addrs()?.into_iter().map(Listed::from);
    let mut interfaces = gather(listed);
    add_those_without_address(&mut interfaces, Path::new(SYSFS));
    Ok(finish(interfaces, Path::new(SYSFS)))
}

/// One address, as the kernel lists it.
struct Listed {
    name: String,
    index: u32,
    is_running: bool,
    address: Address,
}

impl From<if_addrs::Interface> for Listed {
    fn from(listed: if_addrs::Interface) -> Self {
        let prefix = match &listed.addr {
            if_addrs::IfAddr::V4(address) => address.prefixlen,
            if_addrs::IfAddr::V6(address) => address.prefixlen,
        };
        Self {
            index: listed.index.unwrap_or(0),
            is_running: listed.is_oper_up(),
            address: Address { ip: listed.ip(), prefix },
            name: listed.name,
        }
    }
}

/// Interfaces by index. An address may bear a label of its own (`eth0:1`), so names do not tell them apart.
fn gather(listed: impl Iterator<Item = Listed>) -> BTreeMap<u32, Interface> {
    let mut interfaces = BTreeMap::new();
    for Listed { name, index, is_running, address } in listed {
        let interface = interfaces.entry(index).or_insert_with(|| Interface::new(unlabelled(&name), index));
        interface.is_running |= is_running;
        if address.is_worth_telling() {
            interface.addresses.push(address);
        }
    }
    interfaces
}

fn unlabelled(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

impl Interface {
    fn new(name: &str, index: u32) -> Self {
        Self {
            name: name.to_owned(),
            index,
            addresses: Vec::new(),
            is_running: false,
            is_loopback: index == LOOPBACK_INDEX,
            is_physical: false,
            mtu: None,
            speed_mbit: None,
        }
    }
}

fn add_those_without_address(interfaces: &mut BTreeMap<u32, Interface>, sysfs: &Path) {
    let Ok(entries) = fs::read_dir(sysfs) else { return };
    let Ok(probe) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(index) = netdevice::name_to_index(&probe, &name) {
            interfaces
                .entry(index)
                .or_insert_with(|| Interface { is_running: is_running(&entry.path()), ..Interface::new(&name, index) });
        }
    }
}

/// Whether an interface of sysfs is up and has a carrier.
fn is_running(directory: &Path) -> bool {
    read(directory, "operstate").is_some_and(|state| matches!(state.as_str(), "up" | "unknown"))
        && read(directory, "flags")
            .and_then(|flags| u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok())
            .is_some_and(|flags| flags & 1 != 0)
}

fn finish(interfaces: BTreeMap<u32, Interface>, sysfs: &Path) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = interfaces.into_values().collect();
    for interface in &mut interfaces {
        describe(interface, sysfs);
        interface.addresses.sort_by_key(|address| (address.reach(), *address));
    }
    interfaces.sort_by_key(Interface::order);
    interfaces
}

/// Adds what sysfs knows, if it is the sysfs of this network namespace.
fn describe(interface: &mut Interface, sysfs: &Path) {
    let directory = sysfs.join(&interface.name);
    if number(&directory, "ifindex") != Some(interface.index) {
        return;
    }
    interface.mtu = number(&directory, "mtu");
    // -1, or an error, where the driver cannot tell; 0 from some that have no carrier.
    interface.speed_mbit = number(&directory, "speed").filter(|speed| (1..u32::MAX).contains(speed));
    interface.is_physical = leads_out(&directory, STACK_DEPTH);
}

fn leads_out(directory: &Path, depth: usize) -> bool {
    if directory.join("device").exists() {
        return true;
    }
    let Ok(entries) = fs::read_dir(directory) else { return false };
    depth > 0
        && entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("lower_"))
            .any(|entry| leads_out(&entry.path(), depth - 1))
}

fn number(directory: &Path, file: &str) -> Option<u32> {
    read(directory, file)?.parse().ok()
}

fn read(directory: &Path, file: &str) -> Option<String> {
    Some(fs::read_to_string(directory.join(file)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, index: u32, ip: &str) -> Listed {
        let address = Address { ip: ip.parse().expect("an address"), prefix: 24 };
        Listed { name: name.to_owned(), index, is_running: true, address }
    }

    fn names(interfaces: &[Interface]) -> Vec<&str> {
        interfaces.iter().map(|interface| interface.name.as_str()).collect()
    }

    /// A folder like /sys/class/net, gone with the value.
    struct Sysfs(std::path::PathBuf);

    impl Sysfs {
        fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("phalanx-interfaces-{test}-{}", std::process::id()));
            fs::create_dir_all(&root).expect("a directory");
            Self(root)
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
            self
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn this_machine_s_loopback_is_usable_and_last() {
        let interfaces = usable().expect("a list");
        let Some(last) = interfaces.last() else {
            return crate::testing::not_run("no interface is up, not even loopback");
        };
        assert!(interfaces.iter().all(Interface::is_usable));
        let first_local = interfaces.iter().position(Interface::is_local_only).unwrap_or(interfaces.len());
        assert!(interfaces[first_local..].iter().all(Interface::is_local_only), "{:?}", names(&interfaces));
        assert_eq!(last.is_loopback, interfaces.iter().any(|interface| interface.index == LOOPBACK_INDEX));
    }

    #[test]
    fn hardware_and_speed_come_first_and_loopback_last() {
        let sysfs = Sysfs::new("order")
            .with("lo/ifindex", "1\n")
            .with("lo/mtu", "65536\n")
            .with("docker0/ifindex", "2\n")
            .with("docker0/speed", "100000\n")
            .with("docker0/lower_veth1/ifindex", "9\n")
            .with("eth0/ifindex", "3\n")
            .with("eth0/speed", "1000\n")
            .with("eth0/device/vendor", "0x8086\n")
            .with("bond0/ifindex", "4\n")
            .with("bond0/speed", "200000\n")
            .with("bond0/mtu", "9000\n")
            .with("bond0/lower_hsn0/device/vendor", "0x15b3\n")
            .with("usb0/ifindex", "5\n")
            .with("usb0/device/vendor", "0x1234\n");
        let interfaces = gather(
            [
                listed("lo", 1, "127.0.0.1"),
                listed("docker0", 2, "172.17.0.1"),
                listed("usb0", 5, "169.254.3.1"),
                listed("eth0", 3, "192.0.2.1"),
                listed("bond0", 4, "198.51.100.1"),
            ]
            .into_iter(),
        );
        let interfaces = finish(interfaces, &sysfs.0);
        assert_eq!(names(&interfaces), ["bond0", "eth0", "docker0", "usb0", "lo"]);
        assert_eq!((interfaces[0].mtu, interfaces[0].speed_mbit), (Some(9000), Some(200_000)));
        assert!(interfaces[4].is_loopback && !interfaces[0].is_loopback);
    }

    #[test]
    fn addresses_are_one_interface_s_best_first_and_link_local_ones_are_left_out() {
        let addresses = [
            listed("lo", 1, "::1"),
            listed("lo", 1, "203.0.113.7"),
            listed("eth0", 2, "fe80::1"),
            listed("eth0", 2, "2001:db8::1"),
            listed("eth0:1", 2, "192.0.2.2"),
            listed("eth1", 3, "fe80::2"),
        ];
        let interfaces = finish(gather(addresses.into_iter()), Path::new("/nonexistent"));
        assert_eq!(names(&interfaces), ["eth0", "lo", "eth1"]);
        let ips = |at: usize| interfaces[at].addresses.iter().map(|address| address.ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ips(1), ["203.0.113.7", "::1"], "a routed address makes loopback more than local");
        assert_eq!(ips(0), ["192.0.2.2", "2001:db8::1"]);
        assert!(!interfaces[2].is_usable(), "only a link-local address");
    }

    #[test]
    fn the_sysfs_of_another_network_namespace_and_nonsense_are_not_believed() {
        let sysfs = Sysfs::new("foreign")
            .with("eth0/ifindex", "7\n")
            .with("eth0/mtu", "9000\n")
            .with("eth1/ifindex", "3\n")
            .with("eth1/mtu", "many\n")
            .with("eth1/speed", "-1\n");
        let interfaces = gather([listed("eth0", 2, "192.0.2.1"), listed("eth1", 3, "192.0.2.2")].into_iter());
        let interfaces = finish(interfaces, &sysfs.0);
        assert!(interfaces.iter().all(|interface| interface.mtu.is_none() && interface.speed_mbit.is_none()));
    }

    #[test]
    fn an_interface_runs_if_it_is_up_and_has_a_carrier() {
        let sysfs = Sysfs::new("running")
            .with("up/operstate", "up\n")
            .with("up/flags", "0x1003\n")
            .with("cut/operstate", "lowerlayerdown\n")
            .with("cut/flags", "0x1003\n")
            .with("down/operstate", "unknown\n")
            .with("down/flags", "0x1002\n");
        let running = ["up", "cut", "down", "absent"].map(|name| is_running(&sysfs.0.join(name)));
        assert_eq!(running, [true, false, false, false]);
    }
}
