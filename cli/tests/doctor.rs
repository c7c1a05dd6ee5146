//! `phalanx doctor` as its users see it: the page, the JSON, and a machine that a folder pretends to be.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Every finding, in its order.
const NAMES: &[&str] = &[
    "cpus",
    "affinity",
    "quota",
    "clock",
    "shared_memory",
    "memlock",
    "huge_pages",
    "interfaces",
    "open_files",
    "io_uring",
    "rdma_devices",
    "rdma_libraries",
    "rdma_modules",
    "rdma_access",
    "rdma_ports",
    "rdma_gids",
    "rdma_atomics",
];

fn doctor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command.arg("doctor").args(arguments).stdin(Stdio::null());
    for name in ["PHALANX_BARRIER", "PHALANX_WAIT", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Runs the doctor and reads its objects, in the order of the lines.
fn objects(command: &mut Command) -> Vec<Value> {
    let text = text(&command.arg("--json").output().expect("the doctor"));
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (object["doctor"].as_str().expect("a name").to_owned(), object)).collect()
}

/// A folder that pretends to be a machine, gone with the value.
struct Pretended(PathBuf);

impl Pretended {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("phalanx-doctor-command-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a directory");
        Self(folder)
    }

    fn with(self, file: &str, text: &str) -> Self {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, format!("{text}\n")).expect("a file");
        self
    }

    /// A RoCE adapter with everything that it needs.
    fn with_adapter(self) -> Self {
        let device = "sys/class/infiniband/mlx5_0";
        let port = format!("{device}/ports/1");
        let machine = self
            .with(&format!("{device}/node_type"), "1: CA")
            .with(&format!("{device}/device/numa_node"), "0")
            .with(&format!("{port}/state"), "4: ACTIVE")
            .with(&format!("{port}/link_layer"), "Ethernet")
            .with(&format!("{port}/gids/0"), "0000:0000:0000:0000:0000:ffff:c000:0201")
            .with(&format!("{port}/gid_attrs/types/0"), "RoCE v2")
            .with(&format!("{port}/gid_attrs/ndevs/0"), "eth9")
            .with("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0")
            .with("dev/infiniband/uverbs0", "")
            .with("usr/lib64/libibverbs.so.1", "")
            .with("usr/lib64/libibverbs/libmlx5-rdmav34.so", "");
        symlink("../drivers/mlx5_core", machine.0.join(device).join("device/driver")).expect("a link");
        machine
    }

    /// The doctor of this machine, which finds no program but those that the machine has in `bin`.
    fn doctor(&self) -> Command {
        let mut command = doctor(&["--root", self.0.to_str().expect("a name")]);
        command.env("PATH", self.0.join("bin"));
        command
    }
}

impl Drop for Pretended {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn every_finding_is_an_object_with_all_fields() {
    let objects = objects(&mut doctor(&[]));
    let names: Vec<&str> = objects.iter().filter_map(|object| object["doctor"].as_str()).collect();
    assert_eq!(names, NAMES);
    for object in &objects {
        let fields: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["doctor", "facts", "found", "meaning", "remedy", "status"]);
        assert!(["ok", "note", "warning", "missing"].contains(&object["status"].as_str().expect("a word")), "{object}");
        assert!(object["found"].as_str().is_some_and(|found| !found.is_empty()), "{object}");
        assert!(object["facts"].is_object(), "{object}");
        let meaning = object["meaning"].as_str().expect("a sentence");
        assert!(meaning.ends_with('.'), "{object}");
        assert!(object["remedy"].is_null() || object["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));
    }
}

#[test]
fn the_page_is_narrow_and_has_no_colours_where_nobody_looks() {
    let page = text(&doctor(&[]).output().expect("the doctor"));
    assert!(page.starts_with("Phalanx works here."), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 100 && !line.ends_with(' ')), "{page}");
    assert!(!page.contains('\x1b'), "{page}");
    for title in ["CPUs and time", "Memory", "Network", "RDMA"] {
        assert!(page.lines().any(|line| line == title), "{title} in\n{page}");
    }
}

#[test]
fn a_machine_without_proc_and_sys_is_unknown_and_no_failure() {
    let machine = Pretended::new("empty");
    let found = by_name(objects(&mut machine.doctor()));
    assert_eq!(found.len(), NAMES.len());
    assert_eq!(found["cpus"]["facts"]["online"], Value::Null);
    assert!(found["quota"]["status"] == "note" || !found["quota"]["facts"]["cpus"].is_null(), "{}", found["quota"]);
    assert!(found["rdma_devices"]["found"].as_str().expect("text").starts_with("unknown"));
    assert_eq!(found["rdma_libraries"]["status"], "note", "no device needs it");
}

#[test]
fn a_pretended_adapter_is_found_with_its_port_and_its_address() {
    let machine = Pretended::new("adapter").with_adapter();
    let found = by_name(objects(&mut machine.doctor()));
    for name in ["rdma_devices", "rdma_libraries", "rdma_modules", "rdma_access", "rdma_ports", "rdma_gids"] {
        assert_eq!(found[name]["status"], "ok", "{}", found[name]);
    }
    assert_eq!(found["rdma_libraries"]["facts"]["libibverbs"], "/usr/lib64/libibverbs.so.1");
    assert_eq!(found["rdma_gids"]["found"], "mlx5_0 port 1: GID 0: 192.0.2.1; RoCE v2; eth9");
    assert_eq!(found["rdma_atomics"]["status"], "note", "nobody is there to ask");
    assert!(found["rdma_atomics"]["remedy"].as_str().is_some());
}

#[test]
fn what_ibv_devinfo_says_of_atomics_is_passed_on() {
    let script = "#!/bin/sh\nprintf 'hca_id:\\tmlx5_0\\n\\tmax_qp_rd_atom:\\t16\\n\\tatomic_cap:\\tATOMIC_HCA (1)\\n'";
    let machine = Pretended::new("devinfo").with_adapter().with("bin/ibv_devinfo", script);
    make_executable(&machine.0.join("bin/ibv_devinfo"));
    let found = by_name(objects(&mut machine.doctor()));
    assert_eq!(found["rdma_atomics"]["status"], "ok", "{}", found["rdma_atomics"]);
    assert_eq!(found["rdma_atomics"]["facts"]["devices"]["mlx5_0"]["atomic_cap"], "ATOMIC_HCA");
    assert_eq!(found["rdma_atomics"]["facts"]["devices"]["mlx5_0"]["max_qp_rd_atom"], 16);
}

#[test]
fn what_prevents_phalanx_is_the_exit_status() {
    let output = doctor(&[]).env("PHALANX_BARRIER", "none-such").output().expect("the doctor");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(page.starts_with("Phalanx does not work here: shared_memory."), "{page}");
    assert!(page.contains("none-such") && page.contains("mend: unset PHALANX_BARRIER"), "{page}");
}
