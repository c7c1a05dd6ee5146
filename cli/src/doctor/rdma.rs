//! RDMA, from the library to the last port: whether Phalanx can join nodes by it, and what is in the way.
//!
//! libibverbs is loaded at run time and may be absent; what the kernel knows is in sysfs. A machine without a device
//! is as healthy as any: its nodes are joined by TCP.

mod devinfo;
mod library;
mod sysfs;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::check::{Area, Check, Status};
use super::root::Root;
use devinfo::{Answers, Silence};
use library::Libraries;
use sysfs::{Device, Port};

pub use sysfs::devices;

const MODULES: &[&str] = &["ib_core", "ib_uverbs", "rdma_rxe"];
/// The vendor whose network adapters all have RDMA: without a device, its driver's other half is not loaded.
const MELLANOX: &str = "0x15b3";

pub fn checks(root: &Root, devices: &[Device]) -> Vec<Check> {
    let libraries = library::find(root);
    let atomics = if devices.is_empty() { Ok(Answers::new()) } else { devinfo::ask() };
    let mut checks =
        vec![of_devices(root, devices), of_libraries(root, &libraries, devices), of_modules(root, devices)];
    let of_each = [of_access(root, devices), of_ports(devices), of_gids(devices), of_atomics(root, devices, &atomics)];
    checks.extend(of_each.map(|check| if devices.is_empty() { without_device(check) } else { check }));
    checks
}

fn check(name: &'static str) -> Check {
    Check::new(Area::Rdma, name)
}

/// What there is to say of a part of something that is not there.
fn without_device(check: Check) -> Check {
    let mut check = check.status(Status::Note);
    check.found = vec!["no RDMA device".to_owned()];
    check.remedy = None;
    check.meaning("Nodes are joined by TCP.").folded()
}

fn of_devices(root: &Root, devices: &[Device]) -> Check {
    let check = check("rdma_devices").fact("devices", devices.iter().map(to_json).collect::<Vec<_>>());
    if devices.is_empty() {
        return no_devices(root, check);
    }
    let check = devices.iter().fold(check, |check, device| check.found(describe(device)));
    if devices.iter().all(|device| !has_reliable_connections(device)) {
        return check.status(Status::Warning).meaning(
            "These adapters have no reliable connections with one-sided writes, so that nodes are joined by TCP.",
        );
    }
    if devices.iter().all(Device::is_software) {
        return check
            .status(Status::Note)
            .meaning("RDMA in software: good for trying Phalanx's RDMA, no faster than TCP.");
    }
    check.meaning("Nodes can be joined by one-sided RDMA; with several devices each rank takes the nearest.")
}

fn no_devices(root: &Root, check: Check) -> Check {
    if !root.exists("sys/class") {
        return check
            .status(Status::Note)
            .found("unknown: /sys is not there")
            .meaning("If there is a device, Phalanx finds it by libibverbs when RDMA is asked for.");
    }
    let check = check.found("none");
    if has_mellanox(root) {
        return check
            .status(Status::Warning)
            .found("but a Mellanox network adapter that could be one")
            .meaning("Nodes are joined by TCP until the RDMA half of the adapter's driver is loaded.")
            .remedy("sudo modprobe mlx5_ib ib_uverbs    # in a container: docker run --device /dev/infiniband …");
    }
    check
        .status(Status::Note)
        .meaning("Nodes are joined by TCP. An adapter that is there but not seen lacks its driver.")
        .remedy("scripts/soft-roce.sh    # RDMA in software, to try it with")
}

fn has_mellanox(root: &Root) -> bool {
    let devices = "sys/bus/pci/devices";
    let read = |device: &str, file| root.read(&format!("{devices}/{device}/{file}")).unwrap_or_default();
    // Class 02: network controllers.
    root.list(devices).iter().any(|name| read(name, "vendor") == MELLANOX && read(name, "class").starts_with("0x02"))
}

fn to_json(device: &Device) -> Value {
    json!({
        "name": device.name, "driver": device.driver, "node_type": device.node_type, "firmware": device.firmware,
        "numa_node": device.numa_node, "uverbs": device.uverbs, "ports": device.ports.len(),
    })
}

fn describe(device: &Device) -> String {
    let mut text = format!("{}: {}", device.name, device.driver.as_deref().unwrap_or("unknown driver"));
    if let Some(node_type) = &device.node_type {
        text += if node_type == "RNIC" { ", iWARP" } else { "" };
    }
    if let Some(firmware) = &device.firmware {
        text += &format!("; firmware {firmware}");
    }
    if let Some(node) = device.numa_node {
        text += &format!("; NUMA node {node}");
    }
    text + &format!("; {} port{}", device.ports.len(), if device.ports.len() == 1 { "" } else { "s" })
}

/// EFA and usNIC have datagrams only.
fn has_reliable_connections(device: &Device) -> bool {
    !matches!(device.driver.as_deref(), Some("efa" | "usnic_verbs" | "enic"))
}

fn of_libraries(root: &Root, libraries: &Libraries, devices: &[Device]) -> Check {
    let providers: Vec<&str> = libraries.providers.iter().map(String::as_str).collect();
    let check = check("rdma_libraries")
        .fact("libibverbs", libraries.path.clone())
        .fact("error", libraries.error.clone())
        .fact("providers", providers.clone());
    let Some(path) = &libraries.path else {
        return check
            .status(if devices.is_empty() { Status::Note } else { Status::Missing })
            .found(libraries.error.as_deref().unwrap_or("libibverbs.so.1: not found"))
            .meaning("Phalanx loads libibverbs when RDMA is asked for; without it nodes are joined by TCP.")
            .remedy(root.install("libibverbs1 ibverbs-providers", "libibverbs"));
    };
    let check = check.found(path).found(match providers.is_empty() {
        true => "no providers".to_owned(),
        false => format!("providers: {}", providers.join(", ")),
    });
    let lacking = devices.iter().find_map(|device| {
        let provider = library::provider_of(device.driver.as_deref()?);
        (!libraries.providers.contains(provider)).then_some((device, provider))
    });
    match lacking {
        Some((device, provider)) => check
            .status(Status::Warning)
            .meaning(format!("libibverbs does not open {} without its provider, {provider}.", device.name))
            .remedy(root.install("ibverbs-providers", "libibverbs")),
        None => check.meaning("Phalanx loads it when RDMA is asked for."),
    }
}

fn of_modules(root: &Root, devices: &[Device]) -> Check {
    let release = root.read("proc/sys/kernel/osrelease").unwrap_or_default();
    let list = |file| root.read(&format!("lib/modules/{release}/{file}"));
    let known = match (list("modules.dep"), list("modules.builtin")) {
        (None, None) => None,
        (loadable, built_in) => Some(loadable.unwrap_or_default() + "\n" + &built_in.unwrap_or_default()),
    };
    let state = |module: &str| match &known {
        _ if root.exists(&format!("sys/module/{module}")) => "loaded",
        Some(known) if known.contains(&format!("/{module}.ko")) => "available",
        Some(_) => "absent",
        None => "unknown",
    };
    let check = MODULES.iter().fold(check("rdma_modules"), |check, module| check.fact(module, state(module)));
    let states: Vec<String> = MODULES.iter().map(|module| format!("{module} {}", state(module))).collect();
    let check = check.found(states.join(", "));
    let has_verbs = root.exists("sys/module/ib_uverbs") || root.exists("sys/class/infiniband_verbs");
    if !devices.is_empty() && !has_verbs {
        return check
            .status(Status::Missing)
            .meaning("Without ib_uverbs no process can use an RDMA device, and nodes are joined by TCP.")
            .remedy("sudo modprobe ib_uverbs");
    }
    if devices.is_empty() && matches!(state("rdma_rxe"), "loaded" | "available") {
        return check
            .status(Status::Note)
            .meaning("RDMA in software (soft-RoCE) can be had from this kernel, to try Phalanx's RDMA with.")
            .remedy("sudo modprobe rdma_rxe && sudo rdma link add rxe0 type rxe netdev INTERFACE");
    }
    if devices.is_empty() {
        let meaning = match state("rdma_rxe") {
            "absent" => {
                "This kernel offers no soft-RoCE; to try RDMA here takes a virtual machine with its own kernel."
            }
            _ => "Whether this kernel offers soft-RoCE is not known: its modules are not to be seen.",
        };
        return check.status(Status::Note).meaning(meaning).folded();
    }
    check.meaning("Processes can use the devices.")
}

/// How a device's file can be opened.
fn reach(root: &Root, device: &Device) -> Result<String, (String, Errno)> {
    let file = format!("/dev/infiniband/{}", device.uverbs.as_deref().unwrap_or("uverbs?"));
    match access(root.path(&file), Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Ok(file),
        Err(error) => Err((file, error)),
    }
}

fn of_access(root: &Root, devices: &[Device]) -> Check {
    let reached: Vec<_> = devices.iter().map(|device| (device, reach(root, device))).collect();
    let facts: Value = reached.iter().map(|(device, reached)| (device.name.clone(), json!(reached.is_ok()))).collect();
    let mut check = check("rdma_access").fact("usable", facts);
    for (device, reached) in &reached {
        check = check.found(match reached {
            Ok(file) => format!("{}: {file} can be opened", device.name),
            Err((file, error)) => format!("{}: {file}: {error}", device.name),
        });
    }
    let Some((file, error)) = reached.iter().find_map(|(_, reached)| reached.as_ref().err()) else {
        return check.meaning("Ranks of this user can use the devices.");
    };
    let is_any_usable = reached.iter().any(|(_, reached)| reached.is_ok());
    check
        .status(if is_any_usable { Status::Warning } else { Status::Missing })
        .meaning("Ranks cannot use a device whose file they cannot open, and without any nodes are joined by TCP.")
        .remedy(match *error {
            Errno::ACCESS | Errno::PERM => {
                format!("sudo chmod 666 {file}    # to last: a udev rule with MODE=\"0666\"")
            }
            _ => "sudo modprobe ib_uverbs    # in a container: docker run --device /dev/infiniband …".to_owned(),
        })
}

fn ports(devices: &[Device]) -> impl Iterator<Item = (&Device, &Port)> {
    devices.iter().flat_map(|device| device.ports.iter().map(move |port| (device, port)))
}

fn of_ports(devices: &[Device]) -> Check {
    let mut check = check("rdma_ports")
        .fact("ports", ports(devices).map(|(device, port)| port_to_json(device, port)).collect::<Vec<_>>());
    for (device, port) in ports(devices) {
        check = check.found(describe_port(device, port));
    }
    let without_manager = ports(devices).find(|(_, port)| lacks_subnet_manager(port));
    if let Some((device, port)) = without_manager {
        return check
            .status(Status::Warning)
            .meaning(format!(
                "{} port {} has a link but no address: no subnet manager has set it up.",
                device.name, port.number
            ))
            .remedy("sudo systemctl start opensm    # on one node of the fabric, or on its switch");
    }
    if ports(devices).any(|(_, port)| port.is_active()) {
        return check.meaning("Phalanx joins nodes by the ports that are active.");
    }
    let check = check.status(Status::Warning);
    let check = if check.found.is_empty() { check.found("none") } else { check };
    check
        .meaning("No port is active, so that nodes are joined by TCP: look at the cable, or the interface is down.")
        .remedy(format!("sudo ip link set {} up", netdev(devices).unwrap_or("INTERFACE")))
}

/// Some interface that a port belongs to.
fn netdev(devices: &[Device]) -> Option<&str> {
    ports(devices).flat_map(|(_, port)| &port.gids).find_map(|gid| gid.netdev.as_deref())
}

fn lacks_subnet_manager(port: &Port) -> bool {
    let is_waiting = matches!(port.state.as_deref(), Some("INIT" | "ARMED"));
    port.is_infiniband() && (is_waiting || port.is_active() && port.lid == Some(0))
}

fn port_to_json(device: &Device, port: &Port) -> Value {
    json!({
        "device": device.name, "port": port.number, "state": port.state, "physical_state": port.physical_state,
        "rate": port.rate, "link_layer": port.link_layer, "lid": port.lid,
    })
}

fn describe_port(device: &Device, port: &Port) -> String {
    let mut text =
        format!("{} port {}: {}", device.name, port.number, port.state.as_deref().unwrap_or("unknown state"));
    for part in [&port.link_layer, &port.rate].into_iter().flatten() {
        text += &format!("; {part}");
    }
    match port.lid {
        Some(lid) if port.is_infiniband() => text + &format!("; LID {lid}"),
        _ => text,
    }
}

fn of_gids(devices: &[Device]) -> Check {
    let facts = ports(devices).flat_map(|(device, port)| {
        port.gids.iter().map(move |gid| json!({ "device": device.name, "port": port.number, "entry": gid }))
    });
    let mut check = check("rdma_gids").fact("gids", facts.collect::<Vec<_>>());
    for (device, port) in ports(devices).filter(|(_, port)| !port.gids.is_empty()) {
        check = check.found(describe_gids(device, port));
    }
    if check.found.is_empty() {
        check = check.found("none");
    }
    let active = || ports(devices).filter(|(_, port)| port.is_active() && !port.is_infiniband());
    let lacking = active().find(|(device, port)| !device.is_iwarp() && !port.gids.iter().any(sysfs::Gid::is_roce_v2));
    if let Some((device, port)) = lacking {
        return check
            .status(Status::Warning)
            .meaning(format!(
                "{} port {} has no RoCE v2 address, and Phalanx speaks no other RoCE.",
                device.name, port.number
            ))
            .remedy(format!("sudo ip address add ADDRESS/PREFIX dev {}", netdev(devices).unwrap_or("INTERFACE")));
    }
    let only_local = |(_, port): &(&Device, &Port)| best_gid(port).is_some_and(sysfs::Gid::is_link_local);
    if active().any(|place| !place.0.is_iwarp() && only_local(&place)) {
        return check
            .status(Status::Note)
            .meaning("A link-local RoCE address reaches the nodes of its own network only, not through a router.")
            .remedy(format!("sudo ip address add ADDRESS/PREFIX dev {}", netdev(devices).unwrap_or("INTERFACE")));
    }
    check.meaning("RoCE ports are found by the GID that is named here, InfiniBand ports by their LID.")
}

/// The entry by which others reach a port: RoCE v2 before v1, routed before link-local, IPv4 before IPv6.
fn best_gid(port: &Port) -> Option<&sysfs::Gid> {
    port.gids
        .iter()
        .min_by_key(|gid| (!gid.is_roce_v2(), gid.is_link_local(), gid.gid.to_ipv4_mapped().is_none(), gid.index))
}

fn describe_gids(device: &Device, port: &Port) -> String {
    let Some(gid) = best_gid(port) else { return String::new() };
    let mut text = format!("{} port {}: GID {}: {}", device.name, port.number, gid.index, gid.address());
    for part in [&gid.kind, &gid.netdev].into_iter().flatten() {
        text += &format!("; {part}");
    }
    match port.gids.len() - 1 {
        0 => text,
        others => text + &format!(" ({others} more)"),
    }
}

fn of_atomics(root: &Root, devices: &[Device], asked: &Result<Answers, Silence>) -> Check {
    let answer = |device: &Device| asked.as_ref().ok().and_then(|answers| answers.get(&device.name));
    let atomics = |device: &Device| match answer(device).and_then(|answer| answer.atomics.as_deref()) {
        None if device.is_iwarp() => Some("ATOMIC_NONE"),
        atomics => atomics,
    };
    let facts: Value = devices
        .iter()
        .map(|device| {
            let under_way = answer(device).and_then(|answer| answer.reads_under_way);
            (device.name.clone(), json!({ "atomic_cap": atomics(device), "max_qp_rd_atom": under_way }))
        })
        .collect();
    let mut check = check("rdma_atomics").fact("devices", facts);
    for device in devices {
        check = check.found(format!("{}: {}", device.name, atomics(device).unwrap_or("unknown until it is opened")));
    }
    if devices.iter().any(|device| atomics(device) == Some("ATOMIC_NONE")) {
        return check.status(Status::Warning).meaning(
            "Atomic operations on a node behind a device without them are executed by that node, over TCP; barriers \
             use only writes and are as fast as with them.",
        );
    }
    if devices.iter().all(|device| atomics(device).is_some()) {
        return check.meaning("Counters and locks on other nodes are changed by the adapter, without their CPUs.");
    }
    let check = check.status(Status::Note).meaning(match asked {
        Err(Silence::TimedOut) => "ibv_devinfo did not answer in time: a device or its driver may hang.".to_owned(),
        Err(Silence::Failed(why)) => format!("ibv_devinfo could not be run ({why}); Phalanx asks the device itself."),
        _ => "Phalanx asks the device when it opens it; without atomics their home executes them, over TCP.".to_owned(),
    });
    match asked {
        Err(Silence::NotInstalled) => check.remedy(root.install("ibverbs-utils", "libibverbs-utils")),
        _ => check,
    }
}

#[cfg(test)]
mod tests;
