//! `phalanx simulate` as its users see it, and beside the real barrier over TCP.

mod real;

use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test that measures, and by one that keeps the CPUs busy for long.
fn alone() -> MutexGuard<'static, ()> {
    static CPUS: Mutex<()> = Mutex::new(());
    CPUS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn simulate(arguments: &str) -> Output {
    simulate_any(&format!("barrier {arguments}"))
}

fn simulate_any(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .arg("simulate")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

#[test]
fn json_has_a_line_for_each_radix_and_documented_fields() {
    let output = simulate("--nodes 64 --ranks-per-node 2 --radix auto --jitter uniform:200ns --seed 7 --json");
    assert!(output.status.success(), "{output:?}");
    let reports: Vec<serde_json::Value> =
        lines(&output.stdout).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(reports.len(), 6);
    for report in &reports {
        for name in ["nodes", "ranks_per_node", "radix", "rounds", "messages_per_node", "words_per_node"] {
            assert!(report[name].as_f64().is_some_and(|number| number > 0.0), "{name}: {report}");
        }
        for name in ["bytes_per_node", "latency_ns_mean", "latency_ns_p50", "latency_ns_max", "model_ns", "seed"] {
            assert!(report[name].as_f64().is_some_and(|number| number > 0.0), "{name}: {report}");
        }
        assert_eq!((&report["simulate"], &report["seed"]), (&"barrier".into(), &7.into()));
    }
    assert_eq!(reports.iter().filter(|report| report["is_best"] == true).count(), 1);
}

#[test]
fn the_page_shows_the_best_radix_and_the_picture_is_written() {
    let file = std::env::temp_dir().join(format!("phalanx-simulate-{}.svg", std::process::id()));
    let output = simulate(&format!("--nodes 16 --plot {}", file.display()));
    let picture = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    assert!(output.status.success(), "{output:?}");
    assert!(picture.is_ok_and(|picture| picture.starts_with("<svg") && picture.contains("radix 16")));
    let page = lines(&output.stdout);
    assert_eq!(page.iter().filter(|line| line.ends_with("best")).count(), 1, "{page:?}");
    assert!(page.iter().any(|line| line.contains('█')), "{page:?}");
    let output = simulate("--nodes 16 --plot none");
    assert!(!lines(&output.stdout).iter().any(|line| line.contains('█')));
}

#[test]
fn the_detectors_table_and_json_say_the_same_and_repeat() {
    let arguments = "detector --load calm --load bursts --timeout 60ms --timeout 100ms --alive 600s --seed 5";
    let json = simulate_any(&format!("{arguments} --json"));
    assert!(json.status.success(), "{json:?}");
    assert_eq!(json.stdout, simulate_any(&format!("{arguments} --json")).stdout);
    let reports: Vec<serde_json::Value> =
        lines(&json.stdout).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(reports.len(), 8, "two loads, two time-outs, fixed and adaptive");
    for report in &reports {
        for name in ["timeout_ms", "interval_ms", "alive_hours", "deaths", "detection_ms_p50", "detection_ms_p99"] {
            assert!(report[name].as_f64().is_some_and(|number| number > 0.0), "{name}: {report}");
        }
        assert_eq!(report["simulate"], "detector");
        if report["load"] == "calm" {
            assert_eq!(report["false_alarms"], 0, "{report}");
        }
    }
    let alarms = |is_adaptive: bool| {
        let kind = reports.iter().filter(|report| report["load"] == "bursts" && report["is_adaptive"] == is_adaptive);
        kind.map(|report| report["false_alarms"].as_u64().expect("a count")).sum::<u64>()
    };
    assert!(alarms(true) * 10 < alarms(false), "{} adaptive, {} fixed", alarms(true), alarms(false));
    let page = lines(&simulate_any(arguments).stdout);
    assert_eq!(page.iter().filter(|line| line.starts_with("| calm |") || line.starts_with("| bursts |")).count(), 4);
    let refused = simulate_any("detector --timeout 2ms");
    assert!(!refused.status.success() && lines(&refused.stderr)[0].contains("remedy"), "{refused:?}");
}

/// A failing run says how to repeat it, and what it says repeats it.
#[test]
fn the_command_of_a_failure_fails_alike() {
    let first = simulate("--nodes 6 --radix 3 --faults 3 --leave-cut --seed 5 --barriers 4");
    assert!(!first.status.success(), "{first:?}");
    let said = lines(&first.stderr);
    let command = said.last().and_then(|line| line.strip_prefix("to repeat: phalanx simulate barrier "));
    let again = simulate(command.expect("a command"));
    assert_eq!((again.status, lines(&again.stderr)), (first.status, said));
}

/// What the issue asks for. The address space is limited to 4 GiB; the minute is
/// printed, since CI's cores are not always idle.
#[test]
#[ignore = "too slow in a debug build"]
fn sixty_five_thousand_nodes_need_less_than_four_gibibytes() {
    let _alone = alone();
    let started = std::time::Instant::now();
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 4194304; exec \"$0\" simulate barrier --nodes 65536", env!("CARGO_BIN_EXE_phalanx")])
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{output:?}");
    println!("65,536 nodes took {:?}:\n{}", started.elapsed(), String::from_utf8_lossy(&output.stdout));
}
