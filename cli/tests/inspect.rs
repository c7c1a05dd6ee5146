//! `phalanx inspect` with real jobs: this program as the ranks, under `phalanx run`, one of them stopped.
//!
//! Jobs of other tests run at the same time, so each test asks for its own by a pid.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use phalanx::coord::LAYOUT_HASH;
use phalanx::fabric::node::NodeLayout;
use phalanx::fabric::shm::Segment;
use phalanx::{BarrierError, Operation};
use serde_json::{Value, json};

/// No wait of these tests takes this long unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);
const ROLE: &str = "INSPECT_ROLE";
/// In the environment: the last rank is to stop itself once, after this many barriers.
const STOP_AFTER: &str = "INSPECT_STOP_AFTER";
/// In the environment: so does rank 0, but when it has arrived at the next barrier, and not before.
const STOP_ARRIVED: &str = "INSPECT_STOP_ARRIVED";

/// A rank that meets the others in barriers until rank 0's input ends. Says who it is first.
fn be_a_rank() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    println!("RANK {} {}", job.rank(), std::process::id());
    std::io::stdout().flush().expect("somebody reads");
    let (sender, ended) = std::sync::mpsc::channel::<()>();
    if job.rank() == 0 {
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(sender);
        });
    } else {
        std::mem::forget(sender);
    }
    // By itself and between two barriers, so that it has surely not arrived at one that the others wait in.
    let stops_arrived = std::env::var_os(STOP_ARRIVED).is_some() && job.rank() == 0;
    let stop_after = std::env::var(STOP_AFTER).ok().filter(|_| stops_arrived || job.rank() == job.size() - 1);
    let mut rounds_left = stop_after.map_or(u64::MAX, |rounds| rounds.parse().expect("a number"));
    let mut survivors = None;
    loop {
        let group = survivors.as_ref().unwrap_or(job.world());
        if rounds_left == 0 && !stops_arrived {
            stop_here();
        }
        let is_over = u64::from(ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected));
        let arrival = group.arrive_reduce(Operation::Or, is_over);
        if rounds_left == 0 && stops_arrived {
            stop_here();
        }
        rounds_left = rounds_left.wrapping_sub(1);
        match arrival.and_then(|arrival| arrival.wait()) {
            Ok(0) => {}
            Ok(_) => return,
            Err(BarrierError::RankFailed { .. }) => survivors = Some(group.shrink(LIMIT).expect("the others live")),
            Err(error) => panic!("{error}"),
        }
    }
}

fn stop_here() {
    // To this thread, which it reaches before it goes on; one to the process may reach another first.
    raise(Signal::SIGSTOP).expect("this thread is there");
}

/// A running job; killed when dropped.
struct Job {
    launcher: Child,
    input: Option<ChildStdin>,
    _output: BufReader<ChildStdout>,
    pids: Vec<u32>,
    /// What rank 0 says that it holds: a token, and a term.
    held: Option<(u64, u64)>,
}

impl Job {
    fn start(test: &str, ranks: usize, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = phalanx(&["run", "-n", &ranks.to_string()]);
        command.args(options).arg("--").arg(std::env::current_exe().expect("a program has a path"));
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, test)
            .envs(variables.iter().copied());
        // A rank that is stopped for as long as a test likes is not to be declared failed.
        command.env("PHALANX_FAILURE_TIMEOUT_MS", "600000");
        let mut launcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the launcher");
        let mut output = BufReader::new(launcher.stdout.take().expect("piped"));
        let input = launcher.stdin.take();
        let (mut pids, mut held) = (vec![None; ranks], None);
        let number = |text: &str| text.parse::<u64>().expect("a number");
        while pids.contains(&None) {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).expect("text"), 0, "the job ended early");
            // The test runner may have begun the line.
            if let Some((_, facts)) = line.split_once("HELD ") {
                held = facts.trim().split_once(' ').map(|(token, term)| (number(token), number(term)));
            }
            let Some((_, facts)) = line.split_once("RANK ") else { continue };
            let (rank, pid) = facts.trim().split_once(' ').expect("two numbers");
            pids[rank.parse::<usize>().expect("a rank")] = pid.parse::<u32>().ok();
        }
        Self { launcher, input, _output: output, pids: pids.into_iter().flatten().collect(), held }
    }

    fn send(&self, rank: usize, signal: Signal) {
        kill(Pid::from_raw(self.pids[rank].cast_signed()), signal).expect("the rank is there");
    }

    /// Looks at this job, by its rank 0, until what is seen is as it should be.
    fn look_until(&self, arguments: &[&str], is_as_wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let seen = inspect(&[&[self.pids[0].to_string().as_str()], arguments].concat());
            assert!(seen.status.success(), "{seen:?}");
            let text = String::from_utf8(seen.stdout).expect("text");
            if is_as_wanted(&text) {
                return text;
            }
            assert!(begun.elapsed() < LIMIT, "{text}");
            std::thread::yield_now();
        }
    }

    /// Ends the job, which must end well.
    fn finish(self) {
        let status = self.end();
        assert!(status.success(), "{status}");
    }

    /// Ends the job.
    fn end(mut self) -> ExitStatus {
        self.input.take();
        let begun = Instant::now();
        loop {
            match self.launcher.try_wait().expect("a child") {
                Some(status) => return status,
                None => assert!(begun.elapsed() < LIMIT, "the job does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

fn phalanx(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn inspect(arguments: &[&str]) -> Output {
    phalanx(&[&["inspect"], arguments].concat()).output().expect("start phalanx inspect")
}

/// The last rank of a job stops; looks who is named; then the job goes on.
fn a_stopped_rank_is_named(test: &str, ranks: usize, options: &[&str]) {
    let job = Job::start(test, ranks, options, &[(STOP_AFTER, "100")]);
    let stuck = ranks - 1;
    let first = format!("rank {stuck} (pid {}, stopped) holds up {} ranks for ", job.pids[stuck], ranks - 1);
    let page = job.look_until(&[], |page| page.starts_with(&first));
    for (rank, pid) in job.pids.iter().enumerate() {
        let row = page.lines().find(|line| line.split_whitespace().nth(2) == Some(&pid.to_string())).expect("a row");
        let fields: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            (fields[0], fields[3]),
            (&*rank.to_string(), if rank == stuck { "stopped" } else { "running" }),
            "{page}"
        );
        assert_eq!(row.ends_with(&format!("for rank {stuck}")), rank != stuck, "{page}");
    }
    // Waits that last are noted by those who wait.
    let page = job.look_until(&[], |page| page.matches("  in barrier 101 of group 0 for ").count() == ranks - 1);
    assert!(page.starts_with(&first), "{page}");

    let line = job.look_until(&["--json"], |line| line.contains("\"missing\":[") && !line.contains("\"missing\":[]"));
    let record: Value = serde_json::from_str(&line).expect("one object");
    assert_eq!(record["missing"], json!([stuck]));
    assert_eq!(record["ranks"].as_array().map(Vec::len), Some(ranks));
    assert_eq!(record["ranks"][stuck]["state"], "stopped");
    assert!(record["ranks"][0]["waits_ns"].as_u64().is_some_and(|span| span > 0), "{line}");
    let call = &record["ranks"][0]["call"];
    assert_eq!((&call["name"], &call["group"], &call["sequence"]), (&json!("barrier"), &json!(0), &json!(101)));
    assert!(call["inside"] == true && call["began_ns"].as_u64().is_some_and(|span| span >= 20_000_000), "{line}");
    assert_eq!((&record["ranks"][0]["end"], &record["epochs"]), (&json!(null), &json!([])));
    // The job is called by the beginning of its number, too.
    let number = &record["inspect"].as_str().expect("a number")[..8];
    let seen = inspect(&[number]);
    assert!(String::from_utf8_lossy(&seen.stdout).contains(&first), "{seen:?}");

    let completed = record["completed"].as_u64().expect("a count");
    job.send(stuck, Signal::SIGCONT);
    job.look_until(&["--json"], |line| {
        let record: Value = serde_json::from_str(line).expect("one object");
        record["completed"].as_u64().is_some_and(|now| now > completed + 1)
    });
    job.finish();
}

#[test]
fn a_stopped_rank_is_named_and_the_job_goes_on_after_it() {
    const TEST: &str = "a_stopped_rank_is_named_and_the_job_goes_on_after_it";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    a_stopped_rank_is_named(TEST, 4, &[]);
}

#[test]
fn nodes_on_one_machine_are_one_job() {
    const TEST: &str = "nodes_on_one_machine_are_one_job";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    a_stopped_rank_is_named(TEST, 4, &["--nodes", "2"]);
}

#[test]
fn a_rank_that_has_halted_behind_its_arrival_is_named() {
    const TEST: &str = "a_rank_that_has_halted_behind_its_arrival_is_named";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    // Node 0 has arrived, first, and nobody is there who could tell the other node when that one arrives.
    let variables = [(STOP_AFTER, "100"), (STOP_ARRIVED, "1"), ("PHALANX_RADIX", "star")];
    let job = Job::start(TEST, 2, &["--nodes", "2"], &variables);
    job.look_until(&[], |page| page.matches("  stopped ").count() == 2);
    job.send(1, Signal::SIGCONT);
    let first = format!("rank 0 (pid {}, stopped) holds up 1 rank for ", job.pids[0]);
    job.look_until(&[], |page| page.starts_with(&first) && page.contains("  in barrier 101 of group 0 for "));
    let line = job.look_until(&["--json"], |_| true);
    let record: Value = serde_json::from_str(&line).expect("one object");
    assert_eq!((&record["missing"], &record["completed"]), (&json!([0]), &json!(101)), "{line}");
    job.send(0, Signal::SIGCONT);
    job.finish();
}

#[test]
fn a_killed_rank_is_in_an_epoch_and_the_job_goes_on_without_it() {
    const TEST: &str = "a_killed_rank_is_in_an_epoch_and_the_job_goes_on_without_it";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    let job = Job::start(TEST, 3, &["--keep-going"], &[]);
    job.send(2, Signal::SIGKILL);
    let first = "the job goes on without rank 2; nobody waits in the world's barrier\n";
    let page = job.look_until(&[], |page| page.starts_with(first) && page.contains("\nepoch "));
    assert!(page.ends_with("\n\nepoch 1: rank 2, killed by signal 9 (SIGKILL)\n"), "{page}");
    assert!(
        page.lines().any(|row| row.contains(" dead ") && row.ends_with("  killed by signal 9 (SIGKILL)")),
        "{page}"
    );
    let record: Value = serde_json::from_str(&job.look_until(&["--json"], |_| true)).expect("one object");
    let epoch = json!({ "epoch": 1, "unit": "rank 2", "cause": "killed by signal 9 (SIGKILL)" });
    assert_eq!((&record["epochs"], &record["ranks"][2]["state"]), (&json!([epoch]), &json!("dead")));
    assert_eq!(record["ranks"][2]["end"], "killed by signal 9 (SIGKILL)");
    assert_eq!(job.end().code(), Some(128 + 9));
}

/// A rank of a job whose rank 0 holds a lock and leads, until its input ends, while the others wait in their order.
fn be_a_waiter() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    let (lock, election) = (job.lock("a lock").expect("room"), job.election("crown").expect("room"));
    let held = (job.rank() == 0).then(|| {
        let held = (lock.acquire().expect("it is free"), election.campaign().expect("nobody leads"));
        println!("HELD {} {}", held.0.token(), held.1.term());
        held
    });
    job.world().barrier().expect("rank 0 has it");
    if job.rank() == 1 {
        // One that leads is shown all the same.
        assert!(election.stand().expect("a place").withdraw());
    }
    let mut request = None;
    for rank in 1..job.size() {
        if job.rank() == rank {
            let mut place = lock.request().expect("a place in the queue");
            assert!(!place.test().expect("nobody fails"));
            request = Some(place);
        }
        job.world().barrier().expect("they come one after the other");
    }
    println!("RANK {} {}", job.rank(), std::process::id());
    std::io::stdout().flush().expect("somebody reads");
    match request {
        Some(place) => drop(place.wait().expect("its turn comes")),
        None => {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(held);
        }
    }
    job.world().barrier().expect("homes serve until all are through");
}

/// Looks at such a job: on how many nodes, and who waits on each.
fn a_held_lock_is_shown(test: &str, options: &[&str], waiting: &[&[u64]]) {
    let ranks = 4;
    let job = Job::start(test, ranks, options, &[]);
    let (token, term) = job.held.expect("rank 0 has said so");
    let is_settled = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("one object");
        // A node that waits at a home has asked first, and time passes.
        let objects = record["objects"].as_array().expect("a list");
        objects.len() == 2 * waiting.len() && !objects.iter().any(|object| object["tenure"] == "underway")
    };
    let record: Value = serde_json::from_str(&job.look_until(&["--json"], is_settled)).expect("one object");
    for (node, waiting) in waiting.iter().enumerate() {
        let [lock, election] = ["a lock", "crown"].map(|name| {
            let objects = record["objects"].as_array().expect("a list").iter();
            objects.clone().find(|object| object["name"] == name && object["node"] == node).expect("it is there")
        });
        assert_eq!((&lock["kind"], &election["kind"]), (&json!("lock"), &json!("election")));
        assert_eq!(lock["waiting"], json!(waiting), "{lock}");
        assert!(lock["home"].as_u64().is_some_and(|home| home < waiting.len().max(2) as u64), "{lock}");
        let (holders, tokens) = ([&lock["holder"], &election["holder"]], [&lock["token"], &election["token"]]);
        match node {
            0 => assert_eq!((holders, tokens), ([&json!(0); 2], [&json!(token), &json!(term)]), "{record}"),
            _ => assert_eq!((holders, tokens), ([&json!(null); 2], [&json!(null); 2]), "{record}"),
        }
        // Nobody waits for the election.
        for object in [lock, election] {
            assert_eq!(object["held_ns"].as_u64().is_some(), node == 0, "{object}");
        }
        assert_eq!(election["held_at_least"], false, "{election}");
        let tenures = if options.is_empty() { [json!(null), json!(null)] } else { [json!("held"), json!("waiting")] };
        assert_eq!(lock["tenure"], tenures[node], "{lock}");
        let at_home = if options.is_empty() { [json!(null), json!([])] } else { [json!(0), json!([1])] };
        assert_eq!([&lock["holder_node"], &lock["waiting_nodes"]], [&at_home[0], &at_home[1]], "{lock}");
    }
    let page = job.look_until(&[], |_| true);
    let row = page.lines().find(|row| row.starts_with("a lock ")).expect("a row of its own");
    let names: Vec<String> = waiting[0].iter().map(u64::to_string).collect();
    let elsewhere = if options.is_empty() { "" } else { "; node 1 at its home" };
    assert!(
        row.contains(&format!(" {token} ")) && row.ends_with(&format!(" {}{elsewhere}", names.join(", "))),
        "{page}"
    );
    job.finish();
}

#[test]
fn a_held_lock_is_shown_with_its_holder_and_who_waits() {
    const TEST: &str = "a_held_lock_is_shown_with_its_holder_and_who_waits";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_waiter();
    }
    a_held_lock_is_shown(TEST, &[], &[&[1, 2, 3]]);
}

#[test]
fn a_held_lock_is_shown_on_each_node() {
    const TEST: &str = "a_held_lock_is_shown_on_each_node";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_waiter();
    }
    a_held_lock_is_shown(TEST, &["--nodes", "2"], &[&[1], &[2, 3]]);
}

/// A rank of a job of four that share objects of all kinds, until rank 0's input ends; three wait meanwhile.
fn be_a_sharer() {
    let job = phalanx::Job::from_env().expect("started by phalanx run");
    let (table, ledger) = (job.rwlock("table").expect("room"), job.rwlock("ledger").expect("room"));
    let (slots, done) = (job.semaphore("slots", 4).expect("room"), job.counter("done").expect("room"));
    let lease = job.lease("lease", LIMIT).expect("room");
    let (lock, progress) = (job.lock("a lock").expect("room"), job.fenced::<u64>("progress").expect("room"));
    done.fetch_add(10).expect("nobody fails");
    let rank = job.rank();
    let permits = [2, 0, 0, 1][rank];
    let _permits = (permits > 0).then(|| slots.acquire(permits).expect("there are enough"));
    let _reads = rank.is_multiple_of(2).then(|| table.read().expect("nobody writes"));
    if rank == 1 {
        let guard = lock.acquire().expect("it is free");
        progress.write(guard.token(), 42).expect("no greater token was seen");
    }
    let held = (rank == 0).then(|| {
        let held = (ledger.write().expect("nobody reads"), lease.acquire().expect("it is free"));
        println!("HELD {} {}", held.0.token(), held.1.token());
        held
    });
    job.world().barrier().expect("nobody fails");
    println!("RANK {rank} {}", std::process::id());
    std::io::stdout().flush().expect("somebody reads");
    match rank {
        0 => drop(std::io::stdin().read_to_end(&mut Vec::new())),
        1 => drop(slots.acquire(3).expect("they are returned")),
        2 => drop(lease.acquire().expect("it is released")),
        _ => drop(ledger.read().expect("the writer is through")),
    }
    drop((held, _permits));
    job.world().barrier().expect("homes serve until all are through");
}

/// What its ranks share of each object, as `--json` has it in the row of a node with these ranks.
fn shared(ranks: &std::ops::Range<u64>) -> [(&'static str, Value); 6] {
    let own = |all: &[u64]| -> Vec<u64> { all.iter().copied().filter(|rank| ranks.contains(rank)).collect() };
    [
        ("table", json!({ "writer": null, "readers": own(&[0, 2]), "waiting": [] })),
        ("ledger", json!({ "writer": 0, "readers": [], "waiting": own(&[3]) })),
        (
            "slots",
            json!({
                "permits": 4,
                "taken": [{ "rank": 0, "permits": 2 }, { "rank": 3, "permits": 1 }],
                "waiting": { "rank": 1, "permits": 3 },
            }),
        ),
        ("lease", json!({ "holder": 0, "waiting": [2] })),
        ("a lock", json!(null)),
        ("done", json!(null)),
    ]
}

/// Looks at such a job, on so many nodes.
fn what_ranks_share_is_shown(test: &str, options: &[&str], nodes: usize) {
    let job = Job::start(test, 4, options, &[]);
    let (_, leased) = job.held.expect("rank 0 has said so");
    let shared: Vec<_> = match nodes {
        1 => vec![shared(&(0..4))],
        _ => vec![shared(&(0..2)), shared(&(2..4))],
    };
    let rows_of = |record: &Value, name: &str| -> Vec<Value> {
        let objects = record["objects"].as_array().expect("a list").iter();
        objects.filter(|object| object["name"] == name).cloned().collect()
    };
    let is_settled = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("one object");
        shared[0].iter().enumerate().all(|(index, (name, _))| {
            let rows = rows_of(&record, name);
            rows.len() == nodes && rows.iter().zip(&shared).all(|(row, shared)| row["shared"] == shared[index].1)
        })
    };
    let record: Value = serde_json::from_str(&job.look_until(&["--json"], is_settled)).expect("one object");
    for node in 0..nodes {
        assert_eq!(rows_of(&record, "done")[node]["value"], 40, "{record}");
        let written = &rows_of(&record, "progress")[node]["shared"];
        assert_eq!((&written["value"], &written["rank"]), (&json!(42), &json!(1)), "{record}");
        assert!(written["token"].as_u64().is_some_and(|token| token > 0), "{record}");
    }
    let lease = &rows_of(&record, "lease")[0];
    assert_eq!((&lease["holder"], &lease["token"]), (&json!(0), &json!(leased)), "{lease}");
    assert!(lease["held_ns"].as_u64().is_some_and(|span| span > 0), "{lease}");
    let page = job.look_until(&[], |_| true);
    let (table, ledger) = match nodes {
        1 => (["  read by ranks 0, 2"; 2], ["  then by rank 3"; 2]),
        _ => (["  read by rank 0", "  read by rank 2"], ["", "  then by rank 3"]),
    };
    let ends = [
        ("table ", table),
        ("ledger ", ledger),
        ("slots ", ["  3 of 4 permits: 2 by rank 0, 1 by rank 3; rank 1 waits until it has 3"; 2]),
        ("lease ", ["  rank 2"; 2]),
        ("done ", ["  is 40"; 2]),
        ("progress ", ["  is 42, by rank 1"; 2]),
    ];
    for (name, ends) in ends {
        let rows = page.lines().filter(|row| row.starts_with(name));
        assert_eq!(rows.clone().count(), nodes, "{name}: {page}");
        assert!(rows.zip(ends).all(|(row, end)| row.ends_with(end)), "{name}: {page}");
    }
    job.finish();
}

#[test]
fn what_ranks_share_is_shown_with_who_waits() {
    const TEST: &str = "what_ranks_share_is_shown_with_who_waits";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_sharer();
    }
    what_ranks_share_is_shown(TEST, &[], 1);
}

#[test]
fn what_ranks_share_is_shown_on_each_node() {
    const TEST: &str = "what_ranks_share_is_shown_on_each_node";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_sharer();
    }
    what_ranks_share_is_shown(TEST, &["--nodes", "2"], 2);
}

#[test]
fn watching_ends_with_the_job() {
    const TEST: &str = "watching_ends_with_the_job";
    if std::env::var(ROLE).is_ok_and(|role| role == TEST) {
        return be_a_rank();
    }
    let job = Job::start(TEST, 2, &[], &[]);
    let pid = job.pids[1].to_string();
    let mut watching = phalanx(&["inspect", "--watch", "--json", &pid]).stdout(Stdio::piped()).spawn().expect("start");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("the job runs").expect("text");
        assert!(line.contains(&pid), "{line}");
    }
    job.finish();
    // The last line is from before its end.
    assert!(lines.all(|line| line.is_ok()));
    assert!(watching.wait().expect("a child").success());
}

#[test]
fn a_job_of_another_version_is_one_line_and_none_for_whoever_asks_for_another() {
    // Two nodes of one job, both of them this process's.
    let segment = || Segment::create(NodeLayout::new(1, 4096), 77, !LAYOUT_HASH).expect("memory for a small segment");
    let _nodes = [segment(), segment()];
    let own = std::process::id().to_string();
    let seen = inspect(&[&own]);
    let text = String::from_utf8(seen.stderr).expect("text");
    assert_eq!((seen.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(
        text.starts_with(&format!("phalanx inspect: cannot read the job of process {own}: its layout hash")),
        "{text}"
    );
    assert!(text.ends_with("(remedy: use that job's own `phalanx`)\n"), "{text}");
    let text = String::from_utf8(inspect(&["999999999999999"]).stderr).expect("text");
    assert!(!text.contains("cannot read"), "{text}");
}

#[test]
fn without_a_job_it_says_so() {
    // No pid is as high, and a number begins with it once in 2^60 jobs.
    let seen = inspect(&["999999999999999"]);
    assert_eq!(seen.status.code(), Some(1));
    assert!(seen.stdout.is_empty());
    assert!(String::from_utf8_lossy(&seen.stderr).contains("no running job"), "{seen:?}");
}

#[test]
fn what_can_name_no_job_is_refused() {
    for text in ["", "x", "-1", "job", "99999999999999999"] {
        let seen = inspect(&[text]);
        assert_eq!(seen.status.code(), Some(2), "{text:?}");
        assert!(
            seen.stdout.is_empty() && String::from_utf8_lossy(&seen.stderr).contains("give the pid of a rank"),
            "{seen:?}"
        );
    }
}
