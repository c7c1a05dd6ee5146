//! `phalanx bench failure` and `phalanx campaign` as their users see them: what they print of a few faults, what they
//! refuse, and that nothing of them is left. How soon anything is noticed, is not looked at.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use phalanx_bench::doomed::sockets::with_variable;
use phalanx_bench::failure::Kind;
use rustix::process::{Pid, Signal, kill_process};

/// The command with these arguments, alone on this machine as far as it knows.
fn output(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    let Output { status, stdout, stderr } =
        command.args(arguments).env_remove("PHALANX_FABRIC").output().expect("start the command");
    (status.success(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

#[test]
fn each_kind_of_fault_has_its_line_of_json() {
    let (is_well, stdout, stderr) = output(&["bench", "failure", "--faults", "2", "--json"]);
    assert!(is_well, "{stderr}");
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, Kind::ALL.map(Kind::name));
    for line in &lines {
        assert_eq!(line["bench"], "failure");
        let of_lock = line["kind"].as_str().is_some_and(|kind| kind.starts_with("holder-"));
        assert_eq!(line["until"], if of_lock { "lock" } else { "error" });
        if let Some(why) = line["not_run"].as_str() {
            println!("not run: {}: {why}", line["kind"]);
            assert!(line["kind"] == "partition" && line["p99_ns"].is_null(), "{line}");
            continue;
        }
        let figure = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"));
        assert_eq!(figure("faults"), 2);
        assert!(0 < figure("min_ns") && figure("min_ns") <= figure("p50_ns"), "{line}");
        assert!(figure("p50_ns") <= figure("p99_ns") && figure("p99_ns") <= figure("max_ns"), "{line}");
    }
}

/// A few seconds, beside more busy threads than there may be CPUs: nobody is declared failed, and nobody doubted.
#[test]
fn calm_has_its_line_of_json_and_no_false_alarm() {
    let (is_well, stdout, stderr) = output(&["bench", "calm", "--minutes", "0.05", "--load", "3", "--json"]);
    assert!(is_well, "{stdout}{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("one object");
    let figure = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert_eq!((figure("ranks"), figure("nodes"), figure("load")), (6, 3, 3));
    assert!(report["bench"] == "calm" && report["error"].is_null() && figure("false_alarms") == 0, "{report}");
    assert!(figure("barriers") > 0 && figure("longest_wait_ns") > 0, "{report}");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds >= 3.0), "{report}");
}

#[test]
fn a_campaign_counts_its_faults_and_names_its_seed() {
    let (is_well, stdout, stderr) =
        output(&["campaign", "--rounds", "3", "--seed", "5", "--fabric", "shm", "--fault", "kill"]);
    assert!(is_well, "{stdout}{stderr}");
    assert!(stdout.starts_with("seed 5\n") && stdout.contains("in 3 rounds, 0 violations"), "{stdout}");
    assert!(stdout.contains("kill over shm") && stdout.contains("went on with the survivors"), "{stdout}");
    let kinds = ["locks", "counters", "fenced words", "semaphores", "reader-writer locks", "leases", "elections"];
    for kind in kinds {
        assert!(stdout.contains(&format!(" of {kind}")), "none of {kind}: {stdout}");
    }
}

/// Whoever it has started itself, and whoever a launcher has started for it.
#[test]
fn nothing_is_left_of_a_campaign_that_is_killed() {
    for fault in ["kill", "launcher-killed"] {
        let mark = format!("{}-{fault}", std::process::id());
        let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
        command
            .args(["campaign", "--minutes", "5", "--fabric", "shm", "--fault", fault])
            .env("PHALANX_TEST_MARK", &mark);
        let mut campaign = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the command");
        let left = || with_variable(&format!("PHALANX_TEST_MARK={mark}"));
        // It, who sweeps behind it, and the ranks of a job.
        while left().len() < 5 {
            assert_eq!(campaign.try_wait().expect("a child"), None, "it runs for five minutes");
        }
        campaign.kill().expect("a child");
        campaign.wait().expect("a child");
        let limit = Instant::now() + Duration::from_secs(20);
        while !left().is_empty() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = left();
        for pid in left.iter().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        assert_eq!(left, Vec::<String>::new(), "processes of a campaign of {fault} that is no more");
    }
}

#[test]
fn no_network_is_left_of_a_benchmark_that_is_killed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command.args(["bench", "failure", "--kinds", "partition", "--faults", "100000"]);
    let mut bench = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the command");
    let prefix = format!("phx{}", bench.id());
    let left = || -> Vec<String> {
        let entries = ["/run/netns", "/sys/class/net"].map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&prefix)).collect()
    };
    // Three namespaces, two cables at least, and the bridge.
    while left().len() < 6 {
        if bench.try_wait().expect("a child").is_some() {
            return phalanx::testing::not_run("no namespaces here");
        }
    }
    bench.kill().expect("a child");
    bench.wait().expect("a child");
    let limit = Instant::now() + Duration::from_secs(30);
    while !left().is_empty() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(left(), Vec::<String>::new(), "the next one takes them away");
}

#[test]
fn what_is_no_fault_and_no_fabric_is_refused_with_what_there_is() {
    for (arguments, expected) in [
        (&["campaign", "--fault", "hug"][..], "stop-long"),
        (&["campaign", "--fabric", "string"], "rdma"),
        (&["bench", "failure", "--kinds", "hug"], "kill-local"),
        (&["bench", "calm", "--ranks", "1"], "each node needs a rank, and --ranks is 1"),
        (&["campaign", "--rounds", "0"], "from 1 to 1000000000"),
        (&["campaign", "--minutes", "-1"], "from 0.001 to 1000000"),
        (&["campaign", "--fabric", "shm", "--fault", "partition"], "nothing can be run"),
    ] {
        let (is_well, stdout, stderr) = output(arguments);
        assert!(!is_well && stderr.contains(expected), "{arguments:?}: {stdout}{stderr}");
    }
}
