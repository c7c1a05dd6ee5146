//! `phalanx trace merge` as it is used: on what a job has written, and on files that are none of that.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A folder that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("phalanx-merge-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder of this test's own");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("a file");
    }

    fn phalanx(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
        command.args(arguments).current_dir(&self.0).env("PHALANX_TRACE", "job.json");
        command.output().expect("the command runs")
    }

    fn merge(&self, files: &[&str]) -> Output {
        self.phalanx(&[&["trace", "merge", "-o", "all.json"], files].concat())
    }

    fn merged(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.0.join("all.json")).expect("the output")).expect("JSON")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A rank's file whose node's clock began at `origin`, with one event after 1.5 µs.
fn timeline(rank: u64, ranks: u64, origin: u64, end: &str) -> String {
    format!(
        r#"[
{{"ph":"M","pid":{rank},"tid":{rank},"name":"phalanx_trace","args":{{"rank":{rank},"ranks":{ranks},"node":{rank},"origin_time_ns":"{origin}"}}}},
{{"ph":"M","pid":{rank},"tid":{rank},"name":"thread_name","args":{{"name":"rank {rank}"}}}},
{{"ph":"C","pid":{rank},"tid":{rank},"ts":1.400,"name":"events lost by rank {rank}","args":{{"lost":2}}}},
{{"ph":"i","s":"t","pid":{rank},"tid":{rank},"ts":1.501,"name":"arrival","args":{{"group":0,"sequence":1}}}},
{end}"#
    )
}

const END: &str = r#"{"ph":"M","pid":0,"tid":0,"name":"phalanx_trace_end","args":{"rank":0,"written":1,"lost":5}}
]
"#;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn nodes_are_set_against_each_other_and_losses_added() {
    let folder = Folder::new("nodes");
    let origin = 1_700_000_000_123_456_789;
    folder.write("t.0.json", &timeline(0, 2, origin + 2_000_007, END));
    // Killed in the midst of a line.
    folder.write("t.1.json", &timeline(1, 2, origin, "{\"ph\":\"i\",\"s"));
    let output = folder.merge(&["t.0.json", "t.1.json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("2 ranks, 6 events, 7 lost, 1 files broken off"), "{}", said(&output));
    let merged = folder.merged();
    assert_eq!(merged["otherData"]["lost"], 7);
    assert_eq!(merged["otherData"]["origin_time_ns"], origin.to_string());
    let events = merged["traceEvents"].as_array().expect("events");
    let time_of = |rank| {
        events.iter().find(|event| event["name"] == "arrival" && event["tid"] == rank).expect("one")["ts"].as_f64()
    };
    assert_eq!((time_of(0), time_of(1)), (Some(2001.508), Some(1.501)));
}

#[test]
fn what_a_job_has_written_is_merged() {
    let folder = Folder::new("job");
    let bench = folder.phalanx(&["bench", "barrier", "--nodes", "2", "--ranks", "2", "--iterations", "10"]);
    assert!(bench.status.success(), "{}", said(&bench));
    let output = folder.merge(&["job.0.json", "job.1.json"]);
    assert!(said(&output).contains("2 ranks, ") && said(&output).contains(" 0 lost, 0 files broken off"), "{output:?}");
    let merged = folder.merged();
    for rank in [0, 1] {
        let events = merged["traceEvents"].as_array().expect("events");
        let of_rank = events.iter().filter(|event| event["tid"] == rank && event["name"] == "barrier");
        assert!(of_rank.clone().count() >= 10, "rank {rank}");
        assert!(of_rank.clone().all(|event| event["pid"] == rank && event["dur"].as_f64() >= Some(0.0)));
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let folder = Folder::new("refused");
    folder.write("t.0.json", &timeline(0, 2, 1, END));
    folder.write("t.1.json", &timeline(1, 3, 1, END));
    folder.write("corrupt.json", &timeline(1, 2, 1, &format!("nonsense,\n{END}")));
    folder.write("foreign.json", "{}\n");
    for (files, expected) in [
        (&["t.0.json", "t.0.json"][..], "t.0.json: rank 0 of 2, but another file"),
        (&["t.0.json", "t.1.json"], "t.1.json: rank 1 of 3, but another file"),
        (&["t.0.json", "corrupt.json"], "corrupt.json, line 6: "),
        (&["foreign.json"], "foreign.json: it does not begin"),
        (&["nowhere.json"], "nowhere.json: No such file"),
    ] {
        let output = folder.merge(files);
        assert!(!output.status.success() && said(&output).contains(expected), "{files:?}: {}", said(&output));
    }
    let output = folder.phalanx(&["trace", "merge", "-o", "./t.0.json", "t.0.json"]);
    assert!(!output.status.success() && said(&output).contains("one of the files"), "{}", said(&output));
    assert!(fs::metadata(folder.0.join("t.0.json")).expect("a file").len() > 0, "it is left alone");
}
