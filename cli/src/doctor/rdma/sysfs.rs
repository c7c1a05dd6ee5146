//! RDMA devices as sysfs shows them: ports, states, GIDs.
//!
//! ```text
//! /sys/class/infiniband/DEVICE/
//!     device/driver -> …/mlx5_core      node_type   "1: CA"        node_desc   fw_ver
//!     parent                            rxe only: the interface it runs on
//!     ports/1/
//!         state "4: ACTIVE"   phys_state "5: LinkUp"   rate "100 Gb/sec (4X EDR)"   link_layer   lid   sm_lid
//!         gids/0              gid_attrs/types/0 "RoCE v2"          gid_attrs/ndevs/0 "eth0"
//! /sys/class/infiniband_verbs/uverbs0/ibdev     the device that /dev/infiniband/uverbs0 opens
//! ```

use std::net::Ipv6Addr;

use serde::Serialize;

use crate::doctor::root::Root;

const DEVICES: &str = "sys/class/infiniband";
const VERBS: &str = "sys/class/infiniband_verbs";

/// An RDMA device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    pub name: String,
    /// The kernel's driver: `mlx5_core`, `rxe`.
    pub driver: Option<String>,
    /// `CA`, or `RNIC` for iWARP.
    pub node_type: Option<String>,
    pub firmware: Option<String>,
    pub numa_node: Option<u32>,
    /// Its file in /dev/infiniband.
    pub uverbs: Option<String>,
    pub ports: Vec<Port>,
}

/// A port of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub number: u32,
    /// `ACTIVE`, `INIT`, `DOWN`.
    pub state: Option<String>,
    pub physical_state: Option<String>,
    pub rate: Option<String>,
    pub link_layer: Option<String>,
    /// Its address on an InfiniBand network; 0 where there is none.
    pub lid: Option<u16>,
    pub gids: Vec<Gid>,
}

/// An entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gid {
    pub index: u32,
    pub gid: Ipv6Addr,
    /// `RoCE v2`, `IB/RoCE v1`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub netdev: Option<String>,
}

impl Device {
    pub fn is_iwarp(&self) -> bool {
        self.node_type.as_deref() == Some("RNIC")
    }

    /// Soft-RoCE, or software iWARP.
    pub fn is_software(&self) -> bool {
        matches!(self.driver.as_deref(), Some("rxe" | "siw"))
    }
}

impl Port {
    pub fn is_active(&self) -> bool {
        self.state.as_deref() == Some("ACTIVE")
    }

    pub fn is_infiniband(&self) -> bool {
        self.link_layer.as_deref() == Some("InfiniBand")
    }
}

impl Gid {
    pub fn is_roce_v2(&self) -> bool {
        self.kind.as_deref() == Some("RoCE v2")
    }

    /// Of this link only: the same GID may exist on another one.
    pub fn is_link_local(&self) -> bool {
        self.gid.is_unicast_link_local()
    }

    /// As an address, IPv4 where it stands for one.
    pub fn address(&self) -> String {
        self.gid.to_ipv4_mapped().map_or_else(|| self.gid.to_string(), |ip| ip.to_string())
    }
}

/// Every device, in the order of their names.
pub fn devices(root: &Root) -> Vec<Device> {
    root.list(DEVICES)
        .into_iter()
        .filter(|name| root.exists(&format!("{DEVICES}/{name}/ports")))
        .map(|name| device(root, name))
        .collect()
}

fn device(root: &Root, name: String) -> Device {
    let folder = format!("{DEVICES}/{name}");
    let ports = root.list(&format!("{folder}/ports"));
    let is_of_this = |file: &String| root.read(&format!("{VERBS}/{file}/ibdev")).as_deref() == Some(&name);
    Device {
        driver: driver(root, &folder),
        node_type: root.read(&format!("{folder}/node_type")).map(after_number),
        firmware: root.read(&format!("{folder}/fw_ver")).filter(|version| !version.is_empty()),
        // -1 where there is one node only.
        numa_node: root.number(&format!("{folder}/device/numa_node")),
        uverbs: root.list(VERBS).into_iter().find(is_of_this),
        ports: ports.iter().filter_map(|number| port(root, &folder, number.parse().ok()?)).collect(),
        name,
    }
}

fn driver(root: &Root, folder: &str) -> Option<String> {
    let description = root.read(&format!("{folder}/node_desc")).unwrap_or_default();
    if root.exists(&format!("{folder}/parent")) || description == "rxe" {
        Some("rxe".to_owned())
    } else if description.starts_with("Software iWARP") {
        Some("siw".to_owned())
    } else {
        root.link_name(&format!("{folder}/device/driver"))
    }
}

fn port(root: &Root, device: &str, number: u32) -> Option<Port> {
    let folder = format!("{device}/ports/{number}");
    let read = |file: &str| root.read(&format!("{folder}/{file}"));
    root.exists(&folder).then(|| Port {
        number,
        state: read("state").map(after_number),
        physical_state: read("phys_state").map(after_number),
        rate: read("rate"),
        link_layer: read("link_layer"),
        lid: read("lid").and_then(|lid| u16::from_str_radix(lid.strip_prefix("0x")?, 16).ok()),
        gids: root
            .list(&format!("{folder}/gids"))
            .iter()
            .filter_map(|index| gid(root, &folder, index.parse().ok()?))
            .collect(),
    })
}

/// An entry of the table; `None` if it is empty.
fn gid(root: &Root, port: &str, index: u32) -> Option<Gid> {
    let gid: Ipv6Addr = root.number(&format!("{port}/gids/{index}"))?;
    (!gid.is_unspecified()).then(|| Gid {
        index,
        gid,
        kind: root.read(&format!("{port}/gid_attrs/types/{index}")),
        netdev: root.read(&format!("{port}/gid_attrs/ndevs/{index}")),
    })
}

/// `ACTIVE` of `4: ACTIVE`.
fn after_number(text: String) -> String {
    text.split_once(": ").map_or(text.clone(), |(_, name)| name.to_owned())
}
