//! The machine's RDMA devices: what there is, which one to use, and a device opened.
//!
//! What is there is asked of the library and of sysfs ([`devices`]), and comes as plain facts, so that the choice
//! ([`choose`]) is a function of facts and options, and a report can show the same facts.
#![allow(unsafe_code, reason = "calls libibverbs")]

use std::ffi::{CStr, c_int, c_uint};
use std::fs;
use std::io;
use std::sync::Arc;

use super::offer::{AtomicCapability, LinkLayer};
use super::options::{RdmaError, RdmaOptions};
use super::verbs::{self, Context, Device, DeviceAttr, Gid, GidBytes, PortAttr, ProtectionDomain, Verbs};
use crate::machine::{CpuSet, place_of};

const SYSFS: &str = "/sys/class/infiniband";
/// The vendor's number that soft-RoCE (`rdma_rxe`) gives.
const SOFT_ROCE_VENDOR: u32 = 0xff_ffff;

/// One RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// What its atomics are atomic against.
    pub atomics: AtomicCapability,
    /// How many reads and atomics one queue pair serves at once.
    pub served_at_once: u8,
    /// How many reads and atomics one queue pair may have under way.
    pub under_way: u8,
    /// Whether it is soft-RoCE, which bears no fences: with packets lost, a fenced request may wait for ever.
    pub is_soft_roce: bool,
    /// The NUMA node that it hangs on, where that is known.
    pub numa: Option<u16>,
    /// Its ports.
    pub ports: Vec<PortFacts>,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its number, from 1.
    pub number: u8,
    /// Whether it carries traffic.
    pub active: bool,
    /// Its network; `None` for one that is neither InfiniBand nor Ethernet.
    pub link_layer: Option<LinkLayer>,
    /// Its local identifier, on InfiniBand.
    pub lid: u16,
    /// The longest packet at present, as verbs count it.
    pub mtu: u8,
    /// Its global identifiers.
    pub gids: Vec<GidFacts>,
}

/// One entry of a port's table of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidFacts {
    /// Its place in the table.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// Whether packets to it are RoCE v2, which are routable UDP.
    pub is_roce_v2: bool,
    /// The network interface that it comes from, on Ethernet.
    pub interface: Option<String>,
}

/// A device, a port and an address to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The device's name.
    pub device: String,
    /// The port.
    pub port: u8,
    /// The port's network.
    pub link_layer: LinkLayer,
    /// The address's place in the port's table.
    pub gid_index: u8,
    /// The address, or zeroes on an InfiniBand port that needs none.
    pub gid: Gid,
    /// Whether packets carry a global header.
    pub is_global: bool,
    /// The port's local identifier.
    pub lid: u16,
    /// The longest packet, as verbs count it.
    pub mtu: u8,
}

/// The machine's devices; none is no error.
///
/// # Errors
///
/// [`RdmaError::Library`] without the library, [`RdmaError::Verbs`] where a device does not answer.
pub fn devices() -> Result<Vec<DeviceFacts>, RdmaError> {
    let list = DeviceList::get()?;
    list.devices().iter().map(|device| Domain::open(list.verbs, *device)?.facts()).collect()
}

/// The device, port and address to use: the ones that the options name, otherwise of those that can be used the
/// nearest to NUMA node `near`, of equally near ones one with atomics, then the first.
///
/// # Errors
///
/// [`RdmaError::NoDevice`], or [`RdmaError::NoneFits`] with what is against each.
pub fn choose(devices: &[DeviceFacts], options: &RdmaOptions, near: Option<u16>) -> Result<Choice, RdmaError> {
    if devices.is_empty() {
        return Err(RdmaError::NoDevice);
    }
    let mut refused = Vec::new();
    let mut found: Vec<(u32, bool, Choice)> = Vec::new();
    for device in devices {
        match choose_port(device, options) {
            Ok(choice) => {
                found.push((distance(near, device.numa), device.atomics == AtomicCapability::None, choice));
            }
            Err(why) => refused.push(format!("{}: {why}", device.name)),
        }
    }
    let best = found.into_iter().min_by_key(|(distance, lacks_atomics, _)| (*distance, *lacks_atomics));
    best.map(|(_, _, choice)| choice).ok_or(RdmaError::NoneFits { refused })
}

fn choose_port(device: &DeviceFacts, options: &RdmaOptions) -> Result<Choice, String> {
    if options.device.as_ref().is_some_and(|wanted| *wanted != device.name) {
        return Err("another one is asked for".to_owned());
    }
    let wanted = |port: &&PortFacts| options.port.is_none_or(|number| port.number == number);
    let mut why = "it has no such port".to_owned();
    for port in device.ports.iter().filter(wanted) {
        match choose_gid(port, options) {
            Ok((link_layer, gid)) => {
                let is_global = link_layer == LinkLayer::Ethernet || options.gid_index.is_some() || port.lid == 0;
                return Ok(Choice {
                    device: device.name.clone(),
                    port: port.number,
                    link_layer,
                    gid_index: gid.map_or(0, |gid| gid.index),
                    gid: gid.map_or([0; 16], |gid| gid.gid),
                    is_global,
                    lid: port.lid,
                    mtu: options.mtu().unwrap_or(port.mtu).min(port.mtu),
                });
            }
            Err(reason) => why = format!("port {}: {reason}", port.number),
        }
    }
    Err(why)
}

fn choose_gid<'a>(
    port: &'a PortFacts,
    options: &RdmaOptions,
) -> Result<(LinkLayer, Option<&'a GidFacts>), &'static str> {
    if !port.active {
        return Err("it is not active (remedy: look at `rdma link`)");
    }
    let link_layer = port.link_layer.ok_or("it is neither InfiniBand nor Ethernet")?;
    if let Some(index) = options.gid_index {
        let gid = port.gids.iter().find(|gid| gid.index == index);
        return Ok((link_layer, Some(gid.ok_or("there is no address at the `gid_index` asked for")?)));
    }
    if link_layer == LinkLayer::InfiniBand {
        return Ok((link_layer, port.gids.first()));
    }
    let of_interface = |gid: &&GidFacts| options.interface.is_none() || gid.interface == options.interface;
    let best = port.gids.iter().filter(of_interface).min_by_key(|gid| (!gid.is_roce_v2, gid_rank(&gid.gid), gid.index));
    Ok((link_layer, Some(best.ok_or("no address on the interface asked for (remedy: `ip addr`)")?)))
}

/// Which address is preferred: IPv4, then global IPv6, then link-local IPv6, which no router passes on.
fn gid_rank(gid: &Gid) -> u8 {
    match gid {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => 0,
        [0xfe, second, ..] if second & 0xc0 == 0x80 => 2,
        _ => 1,
    }
}

/// How far a device is, as the kernel counts (10 is here). One whose place is unknown counts as far.
fn distance(near: Option<u16>, numa: Option<u16>) -> u32 {
    const UNKNOWN: u32 = 1000;
    let (Some(near), Some(numa)) = (near, numa) else { return UNKNOWN };
    if near == numa {
        return 10;
    }
    let distances = fs::read_to_string(format!("/sys/devices/system/node/node{near}/distance"));
    let row = distances.unwrap_or_default();
    row.split_whitespace().nth(numa.into()).and_then(|field| field.parse().ok()).unwrap_or(UNKNOWN)
}

/// The library's list of devices, given back when dropped.
struct DeviceList {
    verbs: &'static Verbs,
    list: *mut *mut Device,
    count: usize,
}

impl DeviceList {
    fn get() -> Result<Self, RdmaError> {
        let verbs = Verbs::get().map_err(|why| RdmaError::Library { why: why.to_owned() })?;
        let mut count: c_int = 0;
        // SAFETY: the count is a place to write to.
        let list = unsafe { (verbs.get_device_list)(&raw mut count) };
        if list.is_null() {
            let source = io::Error::last_os_error();
            // A kernel without InfiniBand says so by this.
            if source.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) {
                return Ok(Self { verbs, list, count: 0 });
            }
            return Err(RdmaError::Verbs { device: "(all)".to_owned(), step: "list devices", source });
        }
        Ok(Self { verbs, list, count: usize::try_from(count).unwrap_or(0) })
    }

    fn devices(&self) -> &[*mut Device] {
        if self.count == 0 {
            return &[];
        }
        // SAFETY: the library made the list with this many entries, and it lives until `drop`.
        unsafe { std::slice::from_raw_parts(self.list, self.count) }
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        if !self.list.is_null() {
            // SAFETY: the library made it; devices that were opened stay.
            unsafe { (self.verbs.free_device_list)(self.list) };
        }
    }
}

/// An open device with a protection domain: what owns all else that is made on the device.
pub(super) struct Domain {
    pub verbs: &'static Verbs,
    pub context: *mut Context,
    pub domain: *mut ProtectionDomain,
    pub name: String,
}

// SAFETY: verbs may be called from any thread (ibv_*(3)); the pointers are never changed.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    fn open(verbs: &'static Verbs, device: *mut Device) -> Result<Self, RdmaError> {
        // SAFETY: the device is in a list that is alive; its name is a C string.
        let name = unsafe { CStr::from_ptr((verbs.get_device_name)(device)) }.to_string_lossy().into_owned();
        // SAFETY: as above.
        let context = unsafe { (verbs.open_device)(device) };
        if context.is_null() {
            let source = io::Error::last_os_error();
            return Err(RdmaError::Verbs { device: name, step: "open the device", source });
        }
        let mut opened = Self { verbs, context, domain: std::ptr::null_mut(), name };
        // SAFETY: the context is open.
        opened.domain = unsafe { (verbs.alloc_pd)(context) };
        if opened.domain.is_null() {
            return Err(opened.error("make a protection domain"));
        }
        Ok(opened)
    }

    /// Opens the device that the options and the place of this thread lead to.
    pub fn open_best(options: &RdmaOptions) -> Result<(Arc<Self>, DeviceFacts, Choice), RdmaError> {
        let list = DeviceList::get()?;
        let (mut opened, mut facts, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for device in list.devices() {
            match Self::open(list.verbs, *device).and_then(|domain| Ok((domain.facts()?, domain))) {
                Ok((found, domain)) => {
                    facts.push(found);
                    opened.push(domain);
                }
                Err(error) => errors.push(error),
            }
        }
        // A device that cannot be opened is in nobody's way as long as there is another.
        if opened.is_empty()
            && let Some(error) = errors.pop()
        {
            return Err(error);
        }
        let near = place_of(&CpuSet::of_this_thread()).numa;
        let choice = choose(&facts, options, Some(near))?;
        let index = opened.iter().position(|domain| domain.name == choice.device).expect("it was chosen among these");
        Ok((Arc::new(opened.swap_remove(index)), facts.swap_remove(index), choice))
    }

    /// The system's answer to a call that has just failed.
    pub fn error(&self, step: &'static str) -> RdmaError {
        RdmaError::Verbs { device: self.name.clone(), step, source: io::Error::last_os_error() }
    }

    /// What a call said that gives 0 or an error's number.
    pub fn checked(&self, step: &'static str, result: c_int) -> Result<(), RdmaError> {
        match result {
            0 => Ok(()),
            // Older calls give -1 and leave the number in errno.
            -1 => Err(self.error(step)),
            number => {
                let source = io::Error::from_raw_os_error(number);
                Err(RdmaError::Verbs { device: self.name.clone(), step, source })
            }
        }
    }

    fn facts(&self) -> Result<DeviceFacts, RdmaError> {
        // SAFETY: numbers and addresses only, for which zeroes are values.
        let mut attr: DeviceAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, the attributes a place to write to.
        self.checked("query the device", unsafe { (self.verbs.query_device)(self.context, &raw mut attr) })?;
        let ports = (1..=attr.phys_port_cnt).map(|number| self.port_facts(number)).collect::<Result<_, _>>()?;
        Ok(DeviceFacts {
            name: self.name.clone(),
            atomics: atomics_of(attr.atomic_cap),
            served_at_once: narrow(attr.max_qp_rd_atom),
            under_way: narrow(attr.max_qp_init_rd_atom),
            is_soft_roce: attr.vendor_id == SOFT_ROCE_VENDOR,
            numa: sysfs(&self.name, "device/numa_node").and_then(|text| text.parse().ok()),
            ports,
        })
    }

    fn port_facts(&self, number: u8) -> Result<PortFacts, RdmaError> {
        // SAFETY: as in `facts`. The library's own function fills all but the last field.
        let mut attr: PortAttr = unsafe { std::mem::zeroed() };
        // SAFETY: as in `facts`.
        self.checked("query a port", unsafe { (self.verbs.query_port)(self.context, number, &raw mut attr) })?;
        let link_layer = match attr.link_layer {
            verbs::LINK_LAYER_INFINIBAND => Some(LinkLayer::InfiniBand),
            verbs::LINK_LAYER_ETHERNET => Some(LinkLayer::Ethernet),
            _ => None,
        };
        let places = u8::try_from(attr.gid_tbl_len.max(0)).unwrap_or(u8::MAX);
        Ok(PortFacts {
            number,
            active: attr.state == verbs::PORT_ACTIVE,
            link_layer,
            lid: attr.lid,
            mtu: u8::try_from(attr.active_mtu).unwrap_or(1).clamp(1, 5),
            gids: (0..places).filter_map(|index| self.gid_facts(number, index)).collect(),
        })
    }

    /// One entry of the table of addresses; `None` where the table has a gap.
    fn gid_facts(&self, port: u8, index: u8) -> Option<GidFacts> {
        let mut gid = GidBytes::default();
        // SAFETY: as in `facts`.
        let result = unsafe { (self.verbs.query_gid)(self.context, port, index.into(), &raw mut gid) };
        let kind = sysfs(&self.name, &format!("ports/{port}/gid_attrs/types/{index}"));
        let interface = sysfs(&self.name, &format!("ports/{port}/gid_attrs/ndevs/{index}"));
        let is_set = result == 0 && gid.0[8..] != [0; 8];
        is_set.then(|| GidFacts { index, gid: gid.0, is_roce_v2: kind.as_deref() == Some("RoCE v2"), interface })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: what is made on the domain holds it by an `Arc`, so nothing of it is left.
        unsafe {
            if !self.domain.is_null() {
                (self.verbs.dealloc_pd)(self.domain);
            }
            (self.verbs.close_device)(self.context);
        }
    }
}

fn sysfs(device: &str, path: &str) -> Option<String> {
    Some(fs::read_to_string(format!("{SYSFS}/{device}/{path}")).ok()?.trim().to_owned())
}

fn atomics_of(capability: c_uint) -> AtomicCapability {
    match capability {
        verbs::ATOMIC_HCA => AtomicCapability::Device,
        verbs::ATOMIC_GLOB => AtomicCapability::Global,
        _ => AtomicCapability::None,
    }
}

fn narrow(count: c_int) -> u8 {
    u8::try_from(count.max(0)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    const LINK_LOCAL: Gid = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const GLOBAL: Gid = [0x20, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    fn gid(index: u8, gid: Gid, is_roce_v2: bool, interface: &str) -> GidFacts {
        GidFacts { index, gid, is_roce_v2, interface: Some(interface.to_owned()) }
    }

    fn roce(name: &str, numa: Option<u16>, gids: Vec<GidFacts>) -> DeviceFacts {
        let port = PortFacts { number: 1, active: true, link_layer: Some(LinkLayer::Ethernet), lid: 0, mtu: 3, gids };
        DeviceFacts {
            name: name.to_owned(),
            atomics: AtomicCapability::Device,
            served_at_once: 16,
            under_way: 16,
            is_soft_roce: false,
            numa,
            ports: vec![port],
        }
    }

    fn chosen(devices: &[DeviceFacts], options: &RdmaOptions) -> Choice {
        choose(devices, options, Some(0)).expect("a device to use")
    }

    #[test]
    fn a_routable_address_of_roce_v2_is_preferred_and_each_choice_can_be_overridden() {
        let device = roce(
            "r0",
            None,
            vec![
                gid(0, LINK_LOCAL, true, "eth0"),
                gid(1, V4, false, "eth0"),
                gid(2, GLOBAL, true, "eth1"),
                gid(3, V4, true, "eth0"),
            ],
        );
        let pick = |options: &RdmaOptions| chosen(std::slice::from_ref(&device), options).gid_index;
        let default = RdmaOptions::default();
        assert_eq!(pick(&default), 3);
        assert_eq!(pick(&RdmaOptions { interface: Some("eth1".to_owned()), ..default.clone() }), 2);
        assert_eq!(pick(&RdmaOptions { gid_index: Some(1), ..default.clone() }), 1);
        let nowhere = RdmaOptions { interface: Some("eth9".to_owned()), ..default };
        assert!(choose(&[device], &nowhere, None).expect_err("no such interface").to_string().contains("interface"));
    }

    #[test]
    fn the_near_device_is_preferred_then_one_with_atomics_then_the_first() {
        let gids = || vec![gid(0, V4, true, "eth0")];
        let mut lame = roce("lame", Some(0), gids());
        lame.atomics = AtomicCapability::None;
        let devices =
            [roce("unknown", None, gids()), lame, roce("near", Some(0), gids()), roce("twin", Some(0), gids())];
        assert_eq!(chosen(&devices, &RdmaOptions::default()).device, "near");
        assert_eq!(chosen(&devices[..2], &RdmaOptions::default()).device, "lame");
        let by_name = RdmaOptions { device: Some("unknown".to_owned()), ..RdmaOptions::default() };
        assert_eq!(chosen(&devices, &by_name).device, "unknown");
    }

    #[test]
    fn infiniband_goes_by_lid_unless_a_global_address_is_asked_for() {
        let mut device = roce("ib0", None, vec![gid(0, GLOBAL, false, "")]);
        (device.ports[0].link_layer, device.ports[0].lid) = (Some(LinkLayer::InfiniBand), 7);
        let choice = chosen(std::slice::from_ref(&device), &RdmaOptions::default());
        assert_eq!((choice.lid, choice.is_global), (7, false));
        let routed = RdmaOptions { gid_index: Some(0), ..RdmaOptions::default() };
        assert!(chosen(&[device], &routed).is_global);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        assert!(matches!(choose(&[], &RdmaOptions::default(), None), Err(RdmaError::NoDevice)));
        let mut down = roce("down", None, vec![gid(0, V4, true, "eth0")]);
        down.ports[0].active = false;
        let why = choose(&[down.clone()], &RdmaOptions::default(), None).expect_err("its port is down").to_string();
        assert!(why.contains("down: port 1: it is not active"), "{why}");
        let other = RdmaOptions { device: Some("else".to_owned()), ..RdmaOptions::default() };
        let why = choose(&[down], &other, None).expect_err("another device").to_string();
        assert!(why.contains("another one is asked for"), "{why}");
    }

    #[test]
    fn without_the_library_the_error_names_its_package() {
        match devices() {
            Err(RdmaError::Library { why }) => {
                assert!(RdmaError::Library { why }.to_string().contains("apt-get install libibverbs1"));
            }
            Err(other) => panic!("{other}"),
            Ok(found) => crate::testing::not_run(format!("libibverbs is here, with {} devices", found.len())),
        }
    }
}
