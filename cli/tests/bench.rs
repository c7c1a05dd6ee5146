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
        return phalanx::testing::not_run("this machine has an RDMA device");
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
        (&["--nodes", "0"][..], "from 1 to 256"),
        (&["--nodes", "3", "--ranks", "2"], "each node needs a rank"),
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

const SHORT_TURNS: [&str; 6] = ["--seconds", "0.05", "--warmup", "5", "--rounds", "2"];

fn contest(arguments: &[&str]) -> Command {
    let (object, rest) = arguments.split_first().expect("an object");
    bench(&[&[*object], &SHORT_TURNS[..], rest].concat())
}

#[test]
fn contests_are_reported_with_the_same_fields_whatever_ranks_contend_for() {
    // What is in the histograms differs.
    let names = |line: &str| -> Vec<String> {
        let parts = line.split(',').map(|part| part.split(':').next().unwrap_or_default().to_owned());
        parts.filter(|part| part.contains('"')).collect()
    };
    let mut known: Option<Vec<String>> = None;
    for (object, rival, more) in [
        ("lock", "pthread", &["--hold-ns", "1000"][..]),
        ("rwlock", "pthread", &["--readers", "0.5"]),
        ("semaphore", "posix", &["--permits", "2"]),
        ("counter", "atomic", &["--objects", "3"]),
    ] {
        let arguments = [&[object, "--ranks", "2", "--vs", rival, "--json"], more].concat();
        let (is_well, stdout, stderr) = output(&mut contest(&arguments));
        assert!(is_well, "{stderr}");
        for line in stdout.lines() {
            assert_eq!(known.get_or_insert_with(|| names(line)), &names(line));
            assert_eq!((field(line, "bench"), field(line, "busy")), (&*format!("\"{object}\""), "2"));
            assert!(number(line, "acquisitions") > 0.0 && number(line, "throughput_per_s") > 0.0, "{line}");
            assert!(number(line, "acquire_p999_ns") >= number(line, "acquire_p50_ns"), "{line}");
            assert!((0.5..=1.0).contains(&number(line, "jain")), "of two ranks: {line}");
            assert_eq!((field(line, "overlaps"), field(line, "pair_ns")), ("0", "null"));
            for (histogram, counted) in [("acquire_histogram", None), ("handover_histogram", Some("handovers"))] {
                let buckets = buckets(line, histogram);
                let all: u64 = buckets.iter().map(|bucket| bucket[1]).sum();
                assert!(buckets.is_sorted_by(|one, next| one[0] < next[0]), "{line}");
                let is_counted = counted.map_or(all > 0, |counted| all as f64 == number(line, counted));
                assert!(is_counted && buckets.iter().all(|bucket| bucket[1] > 0), "{histogram}: {line}");
            }
            assert_eq!(field(line, "readers"), if object == "rwlock" { "0.5" } else { "null" });
            assert_eq!(field(line, "permits"), if object == "semaphore" { "2" } else { "null" });
        }
        let last = stdout.lines().last().unwrap_or_default();
        assert_eq!(field(last, "system"), format!("\"{rival}\""), "the rival comes last: {stderr}");
    }
}

/// A histogram of a JSON object: upper bounds, and how many.
fn buckets(line: &str, name: &str) -> Vec<[u64; 2]> {
    let (_, rest) = line.split_once(&format!("\"{name}\":[")).unwrap_or_else(|| panic!("no {name} in {line}"));
    let text = rest.split("]]").next().filter(|_| rest.starts_with('[')).unwrap_or_default();
    let numbers = |pair: &str| -> Vec<u64> {
        pair.split(',').map(|number| number.parse().unwrap_or_else(|_| panic!("{pair} in {line}"))).collect()
    };
    let pairs = text.trim_start_matches('[').split("],[").filter(|pair| !pair.is_empty());
    pairs.map(|pair| numbers(pair).try_into().expect("a bound and a count")).collect()
}

#[test]
fn one_busy_rank_has_pairs_and_nobody_to_hand_over_to() {
    let (is_well, stdout, stderr) = output(&mut contest(&["lock", "--busy", "1", "--vs", "pthread,flock", "--json"]));
    assert!(is_well, "{stderr}");
    for line in stdout.lines() {
        assert!(number(line, "pair_ns") > 0.0, "{line}");
        assert_eq!((field(line, "handovers"), field(line, "handover_p50_ns")), ("0", "null"));
        assert_eq!(field(line, "jain"), "1.0");
    }
}

#[test]
fn a_contests_page_names_what_was_asked_for_and_what_is_left_out() {
    let arguments = ["rwlock", "--ranks", "3", "--busy", "2", "--hold-ns", "500", "--readers", "0.25", "--vs", "flock"];
    let (is_well, page, stderr) = output(&mut contest(&arguments));
    assert!(is_well, "{stderr}");
    for part in ["One lock with readers among 2 of 3 processes", ", 25 % readers, held for 500 ns", "flock", "Jain"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains('█'), "nobody has asked for histograms: {page}");
    let (is_well, page, stderr) = output(&mut contest(&["lock", "--ranks", "2", "--hold-ns", "1000", "--histogram"]));
    assert!(is_well, "{stderr}");
    for part in ["acquisitions of Phalanx (each row: up to", "handovers of Phalanx", "█"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    let across = ["lock", "--nodes", "2", "--vs", "flock,openmpi,mpich,redis"];
    let (is_well, page, stderr) = output(&mut contest(&across));
    if is_well {
        assert!(page.contains("flock is not run: it needs shared memory"), "{page}");
        assert!(page.contains("2 nodes by"), "{page}");
    } else {
        assert!(stderr.contains("nothing to measure"), "{stderr}");
    }
}

#[test]
fn a_contest_that_cannot_be_is_refused() {
    for (arguments, part) in [
        (&["lock", "--ranks", "2", "--busy", "3"][..], "1 to 2 can contend, not 3"),
        (&["lock", "--ranks", "2", "--nodes", "3"], "--nodes 3: each node needs a rank, and --ranks is 2"),
        (&["lock", "--nodes", "2000"], "give a whole number from 1 to 256"),
        (&["lock", "--ranks", "2000"], "--ranks 2000: a node has at most 1024 (remedy: fewer ranks, or --nodes 2"),
        (&["counter", "--vs", "etcd"], "openmpi, mpich, atomic, redis"),
        (&["counter", "--hold-ns", "5"], "--hold-ns"),
    ] {
        let (object, rest) = arguments.split_first().expect("an object");
        let (is_well, stdout, stderr) = output(&mut bench(&[&[*object], rest].concat()));
        assert!(!is_well && stderr.contains(part) && stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

/// What is no number, or too small or too great, of every benchmark.
#[test]
fn a_number_that_cannot_be_is_answered_with_what_it_can_be() {
    let ranges = [
        ("lock", "--ranks", "4096"),
        ("lock", "--nodes", "256"),
        ("lock", "--busy", "4096"),
        ("lock", "--objects", "1024"),
        ("lock", "--iterations", "1000000000"),
        ("lock", "--rounds", "1000000"),
        ("semaphore", "--permits", "4294967295"),
        ("election", "--seconds", "3600"),
        ("barrier", "--ranks", "4096"),
        ("barrier", "--iterations", "1000000000"),
        ("barrier", "--period-ns", "3600000000000"),
        ("fabric", "--operations", "10000000"),
        ("failure", "--faults", "1000000"),
        ("calm", "--minutes", "1000000"),
        ("calm", "--nodes", "256"),
    ];
    for (what, option, most) in ranges {
        for text in ["0", "-1", "99999999999999999999", "", "some", "nan", "inf"] {
            refuses_number(what, option, text, &format!(" to {most}\n"));
        }
    }
    for (what, option, most) in [
        ("counter", "--warmup", "1000000000"),
        ("rwlock", "--readers", "1"),
        ("rwlock", "--hold-ns", "3600000000000"),
        ("barrier", "--seed", "18446744073709551615"),
        ("calm", "--load", "1024"),
    ] {
        for text in ["-1", "-0.1", "99999999999999999999", "", "some"] {
            refuses_number(what, option, text, &format!(" from 0 to {most}\n"));
        }
    }
}

/// Looks that a benchmark is not begun with a number.
fn refuses_number(what: &str, option: &str, text: &str, answer: &str) {
    let (is_well, stdout, stderr) = output(&mut bench(&[what, option, text]));
    let names_both = stderr.starts_with(&format!("error: invalid value '{text}' for '{option} <"));
    assert!(!is_well && stdout.is_empty(), "{what} {option} {text}: {stdout}");
    assert!(
        names_both && stderr.contains("number from ") && stderr.contains(answer),
        "{what} {option} {text}: {stderr}"
    );
}

/// Which of a process's children runs a program of this name in a benchmark's directory, and which that is.
fn server_of(parent: u32, name: &str) -> Option<(String, std::path::PathBuf)> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().find_map(|pid| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let files = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let is_server = comm.trim() == name && files.to_string_lossy().contains("phalanx-bench-");
        is_server.then(|| (format!("/proc/{pid}"), files))
    })
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_benchmark_that_is_killed_takes_its_servers_along() {
    // A rival that is not there is left out, and the benchmark goes on without it.
    if Command::new("redis-server").arg("--version").output().is_err() {
        return phalanx::testing::not_run("there is no Redis here");
    }
    let mut arguments = bench(&["lock", "--vs", "redis", "--seconds", "600", "--rounds", "1"]);
    let mut child = arguments.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let (process, files) = wait_for("a server", || server_of(child.id(), "redis-server"));
    assert!(files.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the server ends", || (!std::path::Path::new(&process).exists()).then_some(()));
    wait_for("its files go", || (!files.exists()).then_some(()));
}
