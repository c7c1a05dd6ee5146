//! Timelines as their readers find them: jobs of threads, of processes and across pretended nodes write one for each
//! rank, and every event is in it, in the right place; also where a rank is killed in the midst.
#![cfg(not(model))]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::children::{Children, Launch, answer, role};
use common::nodes::{Across, Marks};
use common::ranks::{Gate, LIMIT, on_ranks};
use phalanx::trace::file_of;
use phalanx::{Abandoned, Algorithm, Job, JobError, JobOptions};
use serde_json::Value;

/// A folder that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("phalanx-timelines-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a folder of this test's own");
        Self(path)
    }

    fn timeline(&self) -> PathBuf {
        self.0.join("timeline.json")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A rank's timeline, complete.
fn events_of(path: &Path, rank: usize) -> Vec<Value> {
    let text = std::fs::read_to_string(file_of(path, rank)).expect("the rank's file");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("rank {rank}: {error}:\n{text}"))
}

/// What a name's events say: where, of which group and barrier.
fn named(events: &[Value], name: &str) -> Vec<(u64, u64, u64, u64)> {
    let is_named = |event: &&Value| event["name"] == name;
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {value}"));
    let facts = |event: &Value| {
        let args = &event["args"];
        (number(&event["pid"]), number(&event["tid"]), number(&args["group"]), number(&args["sequence"]))
    };
    events.iter().filter(is_named).map(facts).collect()
}

fn only<'events>(events: &'events [Value], name: &str) -> &'events Value {
    let mut found = events.iter().filter(|event| event["name"] == name);
    let event = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} twice");
    event
}

/// Times as a reader sees them: none negative, a wait beginning where its arrival is.
fn check_times(events: &[Value]) {
    let float = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no time: {value}"));
    for event in events.iter().filter(|event| event["ph"] != "M") {
        assert!(float(&event["ts"]) > 0.0, "{event}");
    }
    for wait in events.iter().filter(|event| event["ph"] == "X") {
        assert!(float(&wait["dur"]) >= 0.0, "{wait}");
        let is_its_arrival = |event: &&Value| event["name"] == "arrival" && event["args"] == wait["args"];
        let arrival = events.iter().rfind(is_its_arrival).unwrap_or_else(|| panic!("{wait} without an arrival"));
        assert_eq!(arrival["ts"], wait["ts"]);
    }
}

fn head(events: &[Value]) -> &Value {
    &only(events, "phalanx_trace")["args"]
}

fn tail(events: &[Value]) -> &Value {
    let last = events.last().expect("an event");
    assert_eq!(last["name"], "phalanx_trace_end");
    &last["args"]
}

#[test]
fn threads_write_every_arrival_and_release() {
    const RANKS: usize = 3;
    const BARRIERS: u64 = 50;
    for algorithm in Algorithm::ALL {
        let folder = Folder::new();
        let options = JobOptions::new().barrier(algorithm).trace(folder.timeline());
        let numbers = on_ranks(RANKS, &options, |job| {
            (0..BARRIERS).for_each(|_| job.world().barrier_timeout(LIMIT).expect("all come"));
            let pair = job.world().split_timeout(job.rank() as u64 / 2, 0, LIMIT).expect("a group");
            pair.barrier_timeout(LIMIT).expect("both come");
            pair.id()
        });
        assert_eq!(numbers[0], numbers[1]);
        for (rank, group) in numbers.iter().enumerate() {
            let events = events_of(&folder.timeline(), rank);
            let place = (0, rank as u64);
            let of = |group, sequence| (place.0, place.1, group, sequence);
            // The split is a barrier, too.
            let expected: Vec<_> = (1..=BARRIERS + 1).map(|sequence| of(0, sequence)).chain([of(*group, 1)]).collect();
            assert_eq!(named(&events, "arrival"), expected, "{algorithm}");
            assert_eq!(named(&events, "barrier"), expected, "{algorithm}");
            assert_eq!(named(&events, "group left"), [of(*group, 1), of(0, BARRIERS + 1)]);
            let made = |event: &&Value| event["name"] == "group made" && event["args"]["group"] == *group;
            let made = events.iter().find(made).expect("the group was made");
            assert_eq!(made["args"]["ranks"], serde_json::json!(if rank == 2 { vec![2] } else { vec![0, 1] }));
            check_times(&events);
            assert_eq!(head(&events)["rank"], rank);
            assert_eq!(head(&events)["ranks"], RANKS);
            assert_eq!(tail(&events)["lost"], 0);
            let of_rank = events.iter().filter(|event| event["ph"] != "M").count();
            assert_eq!(tail(&events)["written"], of_rank);
        }
    }
}

#[test]
fn time_outs_and_arrivals_taken_back_are_told() {
    let folder = Folder::new();
    let gate = Gate::new(2);
    on_ranks(2, &JobOptions::new().trace(folder.timeline()), |job| {
        let world = job.world();
        if job.rank() == 0 {
            world.barrier_timeout(Duration::ZERO).expect_err("rank 1 stands at the gate");
            world.barrier_timeout(Duration::ZERO).expect_err("rank 1 stands at the gate");
            assert_eq!(world.abandon(), Ok(Abandoned::Withdrawn));
        }
        gate.wait();
        let arrival = world.arrive().expect("nothing outstanding");
        arrival.wait_timeout(LIMIT).expect("both come");
    });
    let events = events_of(&folder.timeline(), 0);
    let first = (0, 0, 0, 1);
    assert_eq!(named(&events, "arrival"), [first, first]);
    assert_eq!(named(&events, "timed out"), [first, first]);
    assert_eq!(named(&events, "withdrawn"), [first]);
    assert_eq!(named(&events, "barrier"), [first]);
    for event in events.iter().filter(|event| event["name"] == "timed out") {
        assert_eq!(event["args"]["missing"], serde_json::json!([1]));
    }
    check_times(&events);
    let others = events_of(&folder.timeline(), 1);
    assert_eq!(named(&others, "arrival"), [(0, 1, 0, 1)]);
    assert!(named(&others, "timed out").is_empty());
}

#[test]
fn waits_that_cross_stand_on_tracks_of_their_own() {
    let folder = Folder::new();
    on_ranks(2, &JobOptions::new().trace(folder.timeline()), |job| {
        let other = job.world().subgroup(&[1, 0], LIMIT).expect("a group");
        let first = job.world().arrive().expect("nothing outstanding");
        let second = other.arrive().expect("nothing outstanding");
        first.wait_timeout(LIMIT).expect("both come");
        second.wait_timeout(LIMIT).expect("both come");
    });
    for rank in [0, 1] {
        let events = events_of(&folder.timeline(), rank);
        let tracks: Vec<u64> = named(&events, "barrier").iter().map(|(_, track, ..)| *track).collect();
        assert_eq!(tracks, [rank as u64, (1 << 20) + rank as u64]);
        let names: BTreeSet<_> = events
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| &event["args"]["name"])
            .map(Value::to_string)
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[test]
fn processes_write_where_their_environment_says() {
    const TEST: &str = "processes_write_where_their_environment_says";
    const BARRIERS: u64 = 20;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        return (0..BARRIERS).for_each(|_| job.world().barrier_timeout(LIMIT).expect("all come"));
    }
    let (folder, launch, mut children) = (Folder::new(), Launch::new(2), Children::default());
    for rank in 0..2 {
        let mut command = launch.rank(TEST, "rank", rank);
        command.env("PHALANX_TRACE", folder.timeline());
        children.start(command);
    }
    children.answers();
    for rank in 0..2 {
        let events = events_of(&folder.timeline(), rank);
        let expected: Vec<_> = (1..=BARRIERS).map(|sequence| (0, rank as u64, 0, sequence)).collect();
        assert_eq!(named(&events, "arrival"), expected);
        assert_eq!(named(&events, "barrier"), expected);
        check_times(&events);
    }
}

#[test]
fn nodes_are_processes_and_say_when_their_clocks_began() {
    const TEST: &str = "nodes_are_processes_and_say_when_their_clocks_began";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        job.world().barrier_timeout(LIMIT).expect("all come");
        let group = job.world().split_timeout(job.rank() as u64 % 2, 0, LIMIT).expect("a group");
        group.barrier_timeout(LIMIT).expect("both come");
        answer(group.id());
        // A node's first rank serves the others until they are done.
        return Marks::of_this_rank().gate(&job, "done");
    }
    let across = Across::of_counts(&[2, 2]);
    let timeline = across.marks.join("timeline.json");
    let answers = across.run(TEST, &[("PHALANX_TRACE", timeline.to_str().expect("UTF-8"))]);
    let mut origins = BTreeSet::new();
    for (rank, said) in answers.iter().enumerate() {
        let (events, node) = (events_of(&timeline, rank), rank as u64 / 2);
        let group: u64 = said[0].parse().expect("a number");
        let expected = [(node, rank as u64, 0, 1), (node, rank as u64, 0, 2), (node, rank as u64, group, 1)];
        assert_eq!(named(&events, "barrier"), expected);
        check_times(&events);
        assert_eq!(only(&events, "process_name")["args"]["name"], format!("node {node}"));
        origins.insert((node, head(&events)["origin_time_ns"].as_str().expect("a text").to_owned()));
    }
    assert_eq!(origins.len(), 2, "one clock for each node: {origins:?}");
}

#[test]
fn a_killed_rank_leaves_what_it_had_written() {
    const TEST: &str = "a_killed_rank_leaves_what_it_had_written";
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        job.world().barrier_timeout(LIMIT).expect("all come");
        let marks = Marks::of_this_rank();
        marks.set(&job, "passed");
        // Until it is killed.
        loop {
            std::thread::park();
        }
    }
    let across = Across::new(&[0]);
    let timeline = across.marks.join("timeline.json");
    let mut children = across.start(TEST, &[("PHALANX_TRACE", timeline.to_str().expect("UTF-8"))]);
    Marks(across.marks.clone()).wait([0], "passed");
    let text = || std::fs::read_to_string(file_of(&timeline, 0)).expect("the rank's file");
    let begun = std::time::Instant::now();
    while !text().contains(r#""name":"barrier""#) {
        assert!(begun.elapsed() < LIMIT, "nothing is written: {}", text());
        std::thread::sleep(Duration::from_millis(1));
    }
    children.kill(0);
    let text = text();
    let whole = text.strip_suffix(",\n").unwrap_or_else(|| panic!("no whole lines: {text}"));
    let events: Vec<Value> = serde_json::from_str(&format!("{whole}]")).expect("an array that was broken off");
    assert_eq!(named(&events, "barrier"), [(0, 0, 0, 1)]);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_of_the_job() {
    let folder = Folder::new();
    let refused = |path: PathBuf| Job::threads_with(2, &JobOptions::new().trace(path)).expect_err("no such folder");
    let error = refused(folder.0.join("nowhere").join("timeline.json"));
    let JobError::Trace { rank: 0, path, .. } = &error else { panic!("{error}") };
    assert_eq!(path, &folder.0.join("nowhere").join("timeline.0.json"));
    assert!(error.to_string().contains("PHALANX_TRACE"), "{error}");
    for nonsense in ["", "/", "..", "folder/"] {
        let error = refused(PathBuf::from(nonsense));
        assert!(matches!(error, JobError::Option { name: "PHALANX_TRACE", .. }), "{nonsense:?}: {error}");
    }
}

#[test]
fn a_process_that_cannot_write_says_so_before_it_meets_the_others() {
    const TEST: &str = "a_process_that_cannot_write_says_so_before_it_meets_the_others";
    if role().is_some() {
        return answer(Job::from_env().expect_err("no such folder"));
    }
    let (folder, launch, mut children) = (Folder::new(), Launch::new(2), Children::default());
    // Rank 0 is never started.
    let mut command = launch.rank(TEST, "rank", 1);
    command.env("PHALANX_TRACE", folder.0.join("nowhere").join("timeline.json"));
    let child = children.start(command);
    let (said, _) = children.finish(child);
    assert!(said[0].contains("rank 1: cannot write the timeline") && said[0].contains("timeline.1.json"), "{said:?}");
}
