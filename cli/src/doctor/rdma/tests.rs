//! Made-up machines with RDMA devices, good and bad.

use super::super::root::made_up::Machine;
use super::devinfo::Answer;
use super::*;

const GID_ZERO: &str = "0000:0000:0000:0000:0000:0000:0000:0000";
const GID_LOCAL: &str = "fe80:0000:0000:0000:0e42:a1ff:fe00:0001";

impl Machine {
    fn with_device(self, name: &str, driver: &str, node_type: &str) -> Self {
        let folder = format!("sys/class/infiniband/{name}");
        self.with(&format!("{folder}/node_type"), node_type)
            .with(&format!("{folder}/fw_ver"), "20.31.1014")
            .with(&format!("{folder}/device/numa_node"), "1")
            .with_link(&format!("{folder}/device/driver"), &format!("../../../bus/pci/drivers/{driver}"))
    }

    fn with_port(self, device: &str, port: u32, state: &str, link_layer: &str, lid: &str) -> Self {
        let folder = format!("sys/class/infiniband/{device}/ports/{port}");
        self.with(&format!("{folder}/state"), state)
            .with(&format!("{folder}/phys_state"), "5: LinkUp")
            .with(&format!("{folder}/rate"), "100 Gb/sec (4X EDR)")
            .with(&format!("{folder}/link_layer"), link_layer)
            .with(&format!("{folder}/lid"), lid)
    }

    fn with_gid(self, device: &str, port: u32, index: u32, gid: &str, kind: &str, netdev: &str) -> Self {
        let folder = format!("sys/class/infiniband/{device}/ports/{port}");
        self.with(&format!("{folder}/gids/{index}"), gid)
            .with(&format!("{folder}/gid_attrs/types/{index}"), kind)
            .with(&format!("{folder}/gid_attrs/ndevs/{index}"), netdev)
    }

    fn devices(&self) -> Vec<Device> {
        devices(&self.root)
    }
}

fn of(name: &str, machine: &Machine) -> Check {
    let found = checks(&machine.root, &machine.devices()).into_iter().find(|check| check.name == name);
    found.expect("a finding of this name")
}

/// A RoCE adapter with two ports, the second without a cable.
fn mlx5(test: &str) -> Machine {
    Machine::new(test)
        .with_device("mlx5_0", "mlx5_core", "1: CA")
        .with_port("mlx5_0", 1, "4: ACTIVE", "Ethernet", "0x0")
        .with_gid("mlx5_0", 1, 0, GID_LOCAL, "IB/RoCE v1", "eth2")
        .with_gid("mlx5_0", 1, 1, GID_LOCAL, "RoCE v2", "eth2")
        .with_gid("mlx5_0", 1, 2, "0000:0000:0000:0000:0000:ffff:c000:0207", "IB/RoCE v1", "eth2")
        .with_gid("mlx5_0", 1, 3, "0000:0000:0000:0000:0000:ffff:c000:0207", "RoCE v2", "eth2")
        .with_gid("mlx5_0", 1, 4, GID_ZERO, "", "")
        .with_port("mlx5_0", 2, "1: DOWN", "Ethernet", "0x0")
        .with("sys/class/infiniband_verbs/abi_version", "6")
        .with("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0")
        .with("dev/infiniband/uverbs0", "")
        .with("sys/module/ib_uverbs/refcnt", "1")
}

#[test]
fn an_mlx5_with_one_cable_is_fine() {
    let machine = mlx5("mlx5")
        .with("usr/lib/x86_64-linux-gnu/libibverbs.so.1", "")
        .with("usr/lib/x86_64-linux-gnu/libibverbs/libmlx5-rdmav34.so", "");
    let devices = machine.devices();
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].ports.len(), devices[0].numa_node), (2, Some(1)));
    let device = of("rdma_devices", &machine);
    assert_eq!(
        (device.status, &*device.found[0]),
        (Status::Ok, "mlx5_0: mlx5_core; firmware 20.31.1014; NUMA node 1; 2 ports")
    );
    let ports = of("rdma_ports", &machine);
    assert_eq!(ports.status, Status::Ok);
    assert_eq!(ports.found[0], "mlx5_0 port 1: ACTIVE; Ethernet; 100 Gb/sec (4X EDR)");
    assert_eq!(ports.facts["ports"][1]["state"], "DOWN");
    let gids = of("rdma_gids", &machine);
    assert_eq!((gids.status, &*gids.found[0]), (Status::Ok, "mlx5_0 port 1: GID 3: 192.0.2.7; RoCE v2; eth2 (3 more)"));
    assert_eq!(gids.facts["gids"].as_array().map(Vec::len), Some(4), "the empty entry is none");
    assert_eq!(gids.facts["gids"][3]["entry"]["type"], "RoCE v2");
    assert_eq!(of("rdma_libraries", &machine).status, Status::Ok);
    assert_eq!(of("rdma_access", &machine).status, Status::Ok);
    assert_eq!(of("rdma_modules", &machine).status, Status::Ok);
}

#[test]
fn a_device_without_its_library_provider_file_or_module_says_so() {
    let machine = mlx5("halves");
    let libraries = of("rdma_libraries", &machine);
    assert_eq!(libraries.status, Status::Missing);
    assert!(libraries.remedy.expect("one").contains("libibverbs"));
    let machine = machine.with("usr/lib64/libibverbs.so.1", "").with("usr/lib64/libibverbs/librxe-rdmav34.so", "");
    let libraries = of("rdma_libraries", &machine);
    assert_eq!(libraries.status, Status::Warning);
    assert!(libraries.meaning.contains("mlx5_0") && libraries.meaning.contains("provider, mlx5"));
    std::fs::remove_file(machine.root.path("dev/infiniband/uverbs0")).expect("its removal");
    let access = of("rdma_access", &machine);
    assert_eq!((access.status, &access.facts["usable"]["mlx5_0"]), (Status::Missing, &json!(false)));
    std::fs::remove_dir_all(machine.root.path("sys/class/infiniband_verbs")).expect("its removal");
    std::fs::remove_dir_all(machine.root.path("sys/module")).expect("its removal");
    let modules = of("rdma_modules", &machine);
    assert_eq!((modules.status, modules.remedy.as_deref()), (Status::Missing, Some("sudo modprobe ib_uverbs")));
    assert!(!modules.prevents, "TCP works");
}

#[test]
fn an_rxe_is_rdma_in_software() {
    let machine = Machine::new("rxe")
        .with("sys/class/infiniband/rxe0/node_type", "1: CA")
        .with("sys/class/infiniband/rxe0/node_desc", "some-host")
        .with("sys/class/infiniband/rxe0/parent", "eth0")
        .with_port("rxe0", 1, "4: ACTIVE", "Ethernet", "0x0")
        .with_gid("rxe0", 1, 0, GID_LOCAL, "RoCE v2", "eth0");
    assert_eq!(machine.devices()[0].driver.as_deref(), Some("rxe"));
    let device = of("rdma_devices", &machine);
    assert_eq!((device.status, &*device.found[0]), (Status::Note, "rxe0: rxe; 1 port"));
    let gids = of("rdma_gids", &machine);
    assert_eq!(gids.status, Status::Note, "link-local only");
    assert_eq!(gids.remedy.as_deref(), Some("sudo ip address add ADDRESS/PREFIX dev eth0"));
}

#[test]
fn an_infiniband_port_needs_a_subnet_manager_and_no_roce_gid() {
    let with_lid = |test, state, lid| {
        Machine::new(test)
            .with_device("ibp1s0", "mlx5_core", "1: CA")
            .with_port("ibp1s0", 1, state, "InfiniBand", lid)
            .with_gid("ibp1s0", 1, 0, "fe80:0000:0000:0000:0002:c903:0000:0001", "IB/RoCE v1", "")
    };
    let good = with_lid("ib", "4: ACTIVE", "0x2a");
    let ports = of("rdma_ports", &good);
    assert_eq!(
        (ports.status, &*ports.found[0]),
        (Status::Ok, "ibp1s0 port 1: ACTIVE; InfiniBand; 100 Gb/sec (4X EDR); LID 42")
    );
    assert_eq!(of("rdma_gids", &good).status, Status::Ok);
    let bad = of("rdma_ports", &with_lid("ib-init", "2: INIT", "0x0"));
    assert_eq!(bad.status, Status::Warning);
    assert!(bad.remedy.expect("one").contains("opensm"));
}

#[test]
fn ports_that_lead_nowhere_are_warned_of() {
    let down = Machine::new("down")
        .with_device("mlx5_0", "mlx5_core", "1: CA")
        .with_port("mlx5_0", 1, "1: DOWN", "Ethernet", "0x0")
        .with_gid("mlx5_0", 1, 0, GID_LOCAL, "RoCE v2", "hsn0");
    let ports = of("rdma_ports", &down);
    assert_eq!((ports.status, ports.remedy.as_deref()), (Status::Warning, Some("sudo ip link set hsn0 up")));
    let version_1 = Machine::new("version-1")
        .with_device("mlx4_0", "mlx4_core", "1: CA")
        .with_port("mlx4_0", 1, "4: ACTIVE", "Ethernet", "0x0")
        .with_gid("mlx4_0", 1, 0, GID_LOCAL, "IB/RoCE v1", "eth3");
    assert_eq!(of("rdma_gids", &version_1).status, Status::Warning);
    let datagrams = Machine::new("efa").with_device("efa_0", "efa", "7: unspecified").with_port(
        "efa_0",
        1,
        "4: ACTIVE",
        "Unspecified",
        "0x0",
    );
    assert_eq!(of("rdma_devices", &datagrams).status, Status::Warning);
}

#[test]
fn irregular_files_are_unknown_and_no_reason_to_fail() {
    let long = "x".repeat(3 << 20);
    let machine = Machine::new("irregular")
        .with("sys/class/infiniband/not_a_device", "a file")
        .with("sys/class/infiniband/bare/ports/one/state", "4: ACTIVE")
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/state/folder", "")
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/lid", "2a")
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/rate", &long)
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/gids/0", "fe80::1::2")
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/gids/99999999999", GID_LOCAL)
        .with("sys/class/infiniband/odd\x1b[31m/ports/1/gids/2", GID_LOCAL)
        .with_link("sys/class/infiniband/loop", "loop")
        .with_link("sys/class/infiniband/gone", "/nonexistent/device");
    let devices = machine.devices();
    assert_eq!(devices.iter().map(|device| device.ports.len()).collect::<Vec<_>>(), [0, 1]);
    let port = &devices[1].ports[0];
    assert_eq!((port.state.as_deref(), port.lid, port.gids.len()), (None, None, 1));
    for check in checks(&machine.root, &devices) {
        assert!(check.found.iter().all(|line| !line.contains('\x1b')), "{}", check.name);
    }
}

#[test]
fn without_a_device_nodes_are_joined_by_tcp() {
    let machine = Machine::new("none").with("sys/class/net/lo/ifindex", "1");
    let found = checks(&machine.root, &[]);
    assert!(found.iter().all(|check| check.status == Status::Note && !check.prevents));
    let device = of("rdma_devices", &machine);
    assert!(device.meaning.contains("TCP") && device.remedy.expect("one").contains("scripts/soft-roce.sh"));
    let folded = found.iter().filter(|check| check.is_folded).count();
    assert_eq!(folded, 5, "one word about it is enough for people");
    assert!(of("rdma_devices", &Machine::new("no-sys")).found[0].starts_with("unknown"));
}

#[test]
fn what_could_be_an_adapter_has_a_remedy_of_its_own() {
    let machine = Machine::new("half-driver")
        .with("sys/class/net/lo/ifindex", "1")
        .with("sys/bus/pci/devices/0000:01:00.0/vendor", "0x15b3")
        .with("sys/bus/pci/devices/0000:01:00.0/class", "0x020000");
    let device = of("rdma_devices", &machine);
    assert_eq!(device.status, Status::Warning);
    assert!(device.remedy.expect("one").contains("modprobe mlx5_ib"));
    let module = Machine::new("rxe-available")
        .with("proc/sys/kernel/osrelease", "6.1.0")
        .with("lib/modules/6.1.0/modules.dep", "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz: kernel/x.ko");
    let modules = of("rdma_modules", &module);
    assert_eq!(modules.facts["rdma_rxe"], "available");
    assert_eq!(modules.facts["ib_uverbs"], "absent");
    assert!(modules.remedy.expect("one").contains("modprobe rdma_rxe"));
}

#[test]
fn atomics_are_the_device_s_own_word_or_unknown() {
    let machine = mlx5("atomics");
    let devices = machine.devices();
    let judged = |asked: &Result<Answers, Silence>| of_atomics(&machine.root, &devices, asked);
    let says = |atomics: &str| {
        let answer = Answer { atomics: Some(atomics.to_owned()), reads_under_way: Some(16) };
        Ok(Answers::from([("mlx5_0".to_owned(), answer)]))
    };
    let with = judged(&says("ATOMIC_HCA"));
    assert_eq!((with.status, &*with.found[0]), (Status::Ok, "mlx5_0: ATOMIC_HCA"));
    assert_eq!(with.facts["devices"]["mlx5_0"]["max_qp_rd_atom"], 16);
    assert_eq!(judged(&says("ATOMIC_NONE")).status, Status::Warning);
    let unknown = judged(&Err(Silence::NotInstalled));
    assert_eq!((unknown.status, &*unknown.found[0]), (Status::Note, "mlx5_0: unknown until it is opened"));
    assert!(unknown.remedy.expect("one").contains("ibverbs-utils"));
    assert!(judged(&Err(Silence::TimedOut)).meaning.contains("in time"));
    let iwarp = Machine::new("iwarp").with_device("siw0", "siw", "4: RNIC").with_port(
        "siw0",
        1,
        "4: ACTIVE",
        "Ethernet",
        "0x0",
    );
    let check = of_atomics(&iwarp.root, &iwarp.devices(), &Err(Silence::NotInstalled));
    assert_eq!(check.status, Status::Warning, "iWARP has none");
    assert_eq!(of("rdma_gids", &iwarp).status, Status::Ok, "and needs no RoCE address");
}
