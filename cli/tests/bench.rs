//! `phalanx bench` as its users see it: what it prints of a few iterations, and what it refuses. How fast anything is,
//! is not looked at.

use std::process::{Command, Output};

/// The command with these arguments, alone on this machine as far as it knows.
fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command.arg("bench").args(arguments).env_remove("PHALANX_FABRIC");
    command
}

fn output(command: &mut Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("start the command");
    (status.success(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

const SHORT: [&str; 6] = ["--iterations", "60", "--warmup", "5", "--rounds", "2"];

fn barrier(arguments: &[&str]) -> Command {
    bench(&[&["barrier"], &SHORT[..], arguments].concat())
}

/// The text of a field of a JSON object without nesting.
fn field<'text>(line: &'text str, name: &str) -> &'text str {
    let (_, rest) = line.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split([',', '}']).next().expect("a value")
}

fn number(line: &str, name: &str) -> f64 {
    field(line, name).parse().unwrap_or_else(|_| panic!("{name} is no number in {line}"))
}

#[test]
fn a_barrier_across_nodes_has_the_fields_of_one_on_a_node() {
    let (is_well, alone, stderr) = output(&mut barrier(&["--ranks", "2", "--json"]));
    assert!(is_well, "{stderr}");
    for (nodes, ranks) in [("2", "2"), ("2", "3"), ("3", "3")] {
        let (is_well, stdout, stderr) = output(&mut barrier(&["--nodes", nodes, "--ranks", ranks, "--json"]));
        assert!(is_well, "{stderr}");
        let names = |text: &str| -> Vec<String> {
            text.split(',').map(|part| part.split(':').next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(names(&stdout), names(&alone));
        assert_eq!((field(&stdout, "nodes"), field(&stdout, "ranks")), (nodes, ranks));
        assert_eq!((field(&stdout, "fabric"), field(&stdout, "iterations")), ("\"tcp\"", "60"));
        assert!(number(&stdout, "p50_ns") > 0.0);
    }
    assert_eq!((field(&alone, "nodes"), field(&alone, "fabric")), ("1", "\"shm\""));
}

#[test]
fn a_page_across_nodes_names_them_and_what_joins_them() {
    let (is_well, page, stderr) = output(&mut barrier(&["--nodes", "2", "--fabric", "auto", "--vs", "libgomp"]));
    assert!(is_well, "{stderr}");
    for part in ["on 2 nodes by tcp", "between 2 nodes dissemination of radix", "libgomp is not run: its ranks share"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
}

fn has_rdma_device() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

#[test]
fn a_fabric_that_is_not_there_is_refused_by_option_and_by_variable() {
    if has_rdma_device() {
        return println!("not run: this machine has an RDMA device");
    }
    let across = ["--nodes", "2", "--ranks", "2"];
    let by_option = output(&mut barrier(&[&across[..], &["--fabric", "rdma"]].concat()));
    let by_variable = output(barrier(&across).env("PHALANX_FABRIC", "rdma"));
    for (is_well, _, stderr) in [by_option, by_variable] {
        assert!(!is_well && stderr.contains("no RDMA") && stderr.contains("PHALANX_FABRIC=tcp"), "{stderr}");
    }
    let (is_well, _, stderr) = output(barrier(&across).env("PHALANX_FABRIC", "pigeon"));
    assert!(!is_well && stderr.contains("PHALANX_FABRIC") && stderr.contains("auto, tcp, rdma"), "{stderr}");
    let (is_well, _, stderr) =
        output(barrier(&[&across[..], &["--fabric", "tcp"]].concat()).env("PHALANX_FABRIC", "rdma"));
    assert!(is_well, "the option counts: {stderr}");
}

#[test]
fn nodes_that_make_no_job_are_refused() {
    for (arguments, part) in [
        (&["--nodes", "0"][..], "not on 0"),
        (&["--nodes", "3", "--ranks", "2"], "2 ranks can be on 1 to 2 nodes"),
        (&["--nodes", "2", "--ranks", "2", "--threads"], "on one node"),
        (&["--nodes", "2", "--fabric", "shm"], "auto, tcp, rdma"),
    ] {
        let (is_well, stdout, stderr) = output(&mut barrier(arguments));
        assert!(!is_well && stderr.contains(part) && stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn operations_are_reported_for_each_peer_and_window() {
    for (fabric, states) in [("tcp", &["\"polling\"", "\"computing\""][..]), ("shm", &["\"computing\""])] {
        let arguments = ["fabric", "--fabric", fabric, "--operations", "70", "--rounds", "1", "--json"];
        let (is_well, stdout, stderr) = output(&mut bench(&arguments));
        assert!(is_well, "{stderr}");
        let mut lines = stdout.lines();
        for state in states {
            for operation in ["write", "read", "fetch_add", "compare_swap"] {
                for outstanding in ["1", "2", "4", "8", "16", "32", "64"] {
                    let line = lines.next().expect("a result");
                    assert_eq!(field(line, "operation"), format!("\"{operation}\""));
                    assert_eq!((field(line, "outstanding"), field(line, "peer")), (outstanding, *state));
                    assert_eq!(
                        (field(line, "bench"), field(line, "fabric")),
                        ("\"fabric\"", &*format!("\"{fabric}\""))
                    );
                    assert!(number(line, "rate_per_s") > 0.0 && number(line, "p999_ns") >= number(line, "p50_ns"));
                }
            }
        }
        assert_eq!(lines.next(), None);
    }
    let (is_well, _, stderr) = output(&mut bench(&["fabric", "--fabric", "pigeon"]));
    assert!(!is_well && stderr.contains("tcp, shm or rdma"), "{stderr}");
}

#[test]
fn operations_by_rdma_are_measured_or_refused_with_a_remedy() {
    let (is_well, lines, stderr) = output(&mut bench(&["fabric", "--fabric", "rdma", "--rounds", "1", "--json"]));
    if !has_rdma_device() {
        return assert!(!is_well && stderr.contains("rdma") && stderr.contains("--fabric tcp"), "{stderr}");
    }
    assert!(is_well, "{stderr}");
    // Four operations in seven windows.
    assert_eq!(lines.lines().count(), 28, "{lines}");
    assert!(lines.lines().all(|line| field(line, "fabric") == "\"rdma\""), "{lines}");
}
