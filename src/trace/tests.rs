//! Timelines without a job around them: losses, every kind of line, rings at their limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::drain::Track;
use super::ring::Ring;
use super::{Kind, Record, Remark, Settings, Trace, Unit, file_of};
use crate::clock::Clock;

/// A file that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("phalanx-{name}-{}.json", std::process::id())))
    }

    fn settings(&self) -> Settings {
        let clock = Clock::from_parts(2, 1.0f64.to_bits(), 0).expect("a nanosecond clock");
        Settings { path: self.0.clone(), rank: 3, node: 1, ranks: 4, clock, origin_time_ns: 1_700_000_000_123_456_789 }
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(file_of(&self.0, 3)).expect("the file");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(file_of(&self.0, 3));
    }
}

fn arrival(sequence: u64) -> Record {
    Record { ticks: 1_000 * sequence, kind: Kind::Arrival, group: 7, sequence, argument: 0 }
}

fn named<'events>(events: &'events [Value], name: &str) -> Vec<&'events Value> {
    events.iter().filter(|event| event["name"] == name).collect()
}

#[test]
fn the_rank_stands_before_the_extension() {
    let name = |path: &str, rank| file_of(Path::new(path), rank).display().to_string();
    assert_eq!(name("trace.json", 3), "trace.3.json");
    assert_eq!(name("/a.b/trace", 0), "/a.b/trace.0");
    assert_eq!(name("runs/day.one.json", 12), "runs/day.one.12.json");
    assert_eq!(name(".hidden", 1), ".hidden.1");
}

#[test]
fn what_a_full_ring_loses_is_counted_exactly() {
    let scratch = Scratch::new("losses");
    // Nobody drains this one.
    let track = Track::open(&scratch.settings(), 8).expect("a file");
    let kept = (1..=20).filter(|sequence| track.ring().push(arrival(*sequence).to_words()).is_some()).count();
    assert_eq!((kept, track.lost()), (8, 12));
    track.complete();
    let events = scratch.events();
    let written: Vec<_> = named(&events, "arrival").iter().map(|event| event["args"]["sequence"].clone()).collect();
    assert_eq!(written, (1..=8).map(Value::from).collect::<Vec<_>>(), "the oldest are kept");
    assert_eq!(named(&events, "events lost by rank 3")[0]["args"]["lost"], 12);
    assert_eq!(named(&events, "phalanx_trace_end")[0]["args"], json!({"rank": 3, "written": 8, "lost": 12}));
}

#[test]
fn nothing_is_lost_or_doubled_between_threads() {
    const PRODUCERS: usize = 3;
    const EACH: u64 = 20_000;
    let scratch = Scratch::new("threads");
    let trace = Trace::with_slots(&scratch.settings(), 64).expect("a file");
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let trace = &trace;
            scope.spawn(move || {
                (1..=EACH).for_each(|sequence| trace.record(&Record { group: producer as u64, ..arrival(sequence) }));
            });
        }
    });
    let lost = trace.lost();
    drop(trace);
    let events = scratch.events();
    let mut last = [0; PRODUCERS];
    let arrivals = named(&events, "arrival");
    for event in &arrivals {
        let [group, sequence] = ["group", "sequence"].map(|name| event["args"][name].as_u64().expect("a number"));
        let last = &mut last[usize::try_from(group).expect("small")];
        assert!(sequence > *last, "a producer's events are in order, none twice");
        assert_eq!(event["ts"].as_f64(), Some(sequence as f64), "all words are of one record");
        *last = sequence;
    }
    assert_eq!(arrivals.len() as u64 + lost, PRODUCERS as u64 * EACH);
    assert_eq!(named(&events, "phalanx_trace_end")[0]["args"]["lost"], lost);
}

#[test]
fn every_kind_has_its_line() {
    let scratch = Scratch::new("kinds");
    let trace = Trace::start(&scratch.settings()).expect("a file");
    trace.record(&arrival(2));
    trace.record(&Record { ticks: 2_750, kind: Kind::Release, argument: 2_000, ..arrival(2) });
    trace.record(&Record { kind: Kind::Withdrawal, ..arrival(3) });
    trace.record(&Record { kind: Kind::GroupLeft, ..arrival(4) });
    trace.remark(5_000, Remark::TimedOut { group: 7, sequence: 3, missing: (0..100).collect() });
    trace.remark(5_001, Remark::GroupMade { group: 7, ranks: vec![3, 1] });
    let cause = "killed by \"SIGKILL\" \\ (9)\n".to_owned();
    trace.remark(5_002, Remark::Death { unit: Unit::Rank(2), cause: cause.clone(), epoch: 1 });
    trace.remark(5_003, Remark::Death { unit: Unit::Node(0), cause: "silent".to_owned(), epoch: 2 });
    trace.remark(5_004, Remark::Alarm { alarms: 2, epoch: 2 });
    drop(trace);
    let events = scratch.events();
    let only = |name: &str| named(&events, name)[0].clone();
    let at = |ph: &str, ts: f64, name: &str, args: Value| match ph {
        "i" => json!({"ph": "i", "s": "t", "pid": 1, "tid": 3, "ts": ts, "name": name, "args": args}),
        _ => json!({"ph": ph, "pid": 1, "tid": 3, "ts": ts, "name": name, "args": args}),
    };
    assert_eq!(only("arrival"), at("i", 2.0, "arrival", json!({"group": 7, "sequence": 2})));
    let mut wait = at("X", 2.0, "barrier", json!({"group": 7, "sequence": 2}));
    wait["dur"] = json!(0.75);
    assert_eq!(only("barrier"), wait);
    assert_eq!(only("withdrawn"), at("i", 3.0, "withdrawn", json!({"group": 7, "sequence": 3})));
    assert_eq!(only("group left"), at("i", 4.0, "group left", json!({"group": 7, "sequence": 4})));
    assert_eq!(only("group made")["args"], json!({"group": 7, "size": 2, "ranks": [3, 1]}));
    let timed_out = &only("timed out")["args"];
    assert_eq!((timed_out["missing"].as_array().map(Vec::len), &timed_out["missing_ranks"]), (Some(64), &json!(100)));
    assert_eq!(only("rank 2 failed")["args"], json!({"rank": 2, "cause": cause, "epoch": 1}));
    assert_eq!(only("node 0 failed")["s"], "p");
    assert_eq!(only("alarm")["args"], json!({"alarms": 2, "epoch": 2}));
    let expected = json!({"rank": 3, "ranks": 4, "node": 1, "origin_time_ns": "1700000000123456789"});
    assert_eq!(only("phalanx_trace")["args"], expected);
    assert_eq!(only("phalanx_trace_end")["args"], json!({"rank": 3, "written": 9, "lost": 0}));
}

#[test]
fn a_full_disk_refuses_at_the_start() {
    let link = Scratch::new("full");
    std::os::unix::fs::symlink("/dev/full", file_of(&link.0, 3)).expect("a link");
    let refused = Track::open(&link.settings(), 8).expect_err("the file's beginning does not fit");
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_ring_can_be_filled_again_and_again() {
    let ring = Arc::new(Ring::new(4));
    for round in 0..100 {
        for place in 0..4 {
            assert_eq!(ring.push([round, place, 0, 0, 0]), Some(4 * round + place));
        }
        assert_eq!(ring.push([0; 5]), None);
        for place in 0..4 {
            assert_eq!(ring.pop(), Some([round, place, 0, 0, 0]));
        }
        assert_eq!(ring.pop(), None);
    }
    assert_eq!(ring.lost(), 100);
}
