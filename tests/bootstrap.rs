//! Joining a job, with ranks as processes: each way to be refused is its own error within a bounded time, strangers at
//! the socket disturb nobody, and nothing is left behind by ranks that are killed.
#![cfg(not(model))]

mod common;

use std::collections::HashSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use common::children::{Children, Launch, answer, bare, role};
use common::ranks::{LIMIT, await_that};
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::sim::Seeded;
use phalanx::{BarrierError, Job};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept, bind, connect, listen, recv, sendmsg, socket_with,
};

/// What a rank's time-out is set to where it must strike.
const SHORT_MS: &str = "300";
/// Within this, every refusal must have come: far more than the time-out, far less than for ever.
const BOUND: Duration = Duration::from_secs(20);

/// Joins, meets, and answers with the size of the job, or with the error.
fn join_and_meet() {
    match Job::from_env() {
        Ok(job) => {
            job.world().barrier_timeout(LIMIT).expect("all ranks are there");
            answer(format!("joined as {} of {}", job.rank(), job.size()));
        }
        Err(error) => answer(format!("{error:?} // {error}")),
    }
}

/// Starts a rank whose time-out is short and returns what it says.
fn said_by(command: Command) -> String {
    let start = Instant::now();
    let mut children = Children::default();
    let index = children.start(command);
    let said = children.next_answer(index);
    assert!(start.elapsed() < BOUND, "took {:?}: {said}", start.elapsed());
    said
}

fn with_short_timeout(mut command: Command) -> Command {
    command.env("PHALANX_BOOTSTRAP_TIMEOUT_MS", SHORT_MS);
    command
}

/// For ranks that are meant to meet, and not to wait long for those that were killed.
fn with_a_second(mut command: Command) -> Command {
    command.env("PHALANX_BOOTSTRAP_TIMEOUT_MS", "1000");
    command
}

#[test]
fn without_an_environment_a_program_is_a_job_of_one() {
    const TEST: &str = "without_an_environment_a_program_is_a_job_of_one";
    if role().is_some() {
        return join_and_meet();
    }
    assert_eq!(said_by(bare(TEST, "join")), "joined as 0 of 1");
}

#[test]
fn an_environment_that_means_nothing_is_refused_by_name() {
    const TEST: &str = "an_environment_that_means_nothing_is_refused_by_name";
    if role().is_some() {
        return join_and_meet();
    }
    let cases: &[(&str, Option<&str>, &[&str])] = &[
        ("PHALANX_RANK", None, &["Incomplete", "PHALANX_RANK missing", "phalanx run"]),
        ("PHALANX_SIZE", None, &["Incomplete", "PHALANX_SIZE missing"]),
        ("PHALANX_BOOTSTRAP", None, &["Incomplete", "PHALANX_BOOTSTRAP missing"]),
        ("PHALANX_KEY", None, &["Incomplete", "PHALANX_KEY missing"]),
        ("PHALANX_RANK", Some("2"), &["RankOutOfRange { rank: 2, size: 2 }", "ranks 0 to 1"]),
        ("PHALANX_RANK", Some("x"), &["Invalid", "PHALANX_RANK", "whole number"]),
        ("PHALANX_SIZE", Some("0"), &["Invalid", "PHALANX_SIZE"]),
        ("PHALANX_SIZE", Some("4096"), &["Invalid", "1 to 1024"]),
        ("PHALANX_BOOTSTRAP", Some("tcp:here"), &["Invalid", "unix:NAME"]),
        ("PHALANX_KEY", Some("secret"), &["Invalid", "64 hexadecimal digits"]),
        ("PHALANX_LOCAL_SIZE", Some("1"), &["Invalid", "PHALANX_LOCAL_SIZE"]),
        ("PHALANX_BARRIER", Some("ring"), &["Option", "PHALANX_BARRIER", "flat, tree or central"]),
        ("PHALANX_WAIT", Some("sleep"), &["Option", "PHALANX_WAIT", "spin, adaptive or park"]),
        ("PHALANX_TCP_ENGINE", Some("epoll"), &["Option", "PHALANX_TCP_ENGINE", "auto, sockets, io-uring"]),
        ("PHALANX_TRACE", Some("folder/"), &["Option", "PHALANX_TRACE", "no file's name"]),
        ("PHALANX_BOOTSTRAP_TIMEOUT_MS", Some("soon"), &["Invalid", "PHALANX_BOOTSTRAP_TIMEOUT_MS"]),
    ];
    for (name, value, expected) in cases {
        let mut command = Launch::new(2).rank(TEST, "join", 1);
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let said = said_by(command);
        assert!(expected.iter().all(|part| said.contains(part)), "{name}={value:?}: {said}");
        assert!(!said.contains("secret"), "the key is not repeated: {said}");
    }
}

#[test]
fn a_bootstrap_that_nobody_serves_is_a_time_out() {
    const TEST: &str = "a_bootstrap_that_nobody_serves_is_a_time_out";
    if role().is_some() {
        return join_and_meet();
    }
    let launch = Launch::new(2);
    let said = said_by(with_short_timeout(launch.rank(TEST, "join", 1)));
    assert!(said.contains("NobodyServes { rank: 1") && said.contains(&launch.name), "{said}");
    let said = said_by(with_short_timeout(launch.rank(TEST, "join", 0)));
    assert!(said.contains("RanksMissing { rank: 0, missing: [1]"), "{said}");
    assert!(!launch.has_socket());
}

#[test]
fn ranks_that_do_not_come_are_named_by_those_that_did() {
    const TEST: &str = "ranks_that_do_not_come_are_named_by_those_that_did";
    if role().is_some() {
        return join_and_meet();
    }
    let launch = Launch::new(5);
    let mut children = Children::default();
    let started = [0, 1, 3].map(|rank| {
        let mut command = launch.rank(TEST, "join", rank);
        // Long enough that all three have entered when the first gives up.
        command.env("PHALANX_BOOTSTRAP_TIMEOUT_MS", "4000");
        children.start(command)
    });
    for index in started {
        let said = children.next_answer(index);
        assert!(said.contains("RanksMissing") && said.contains("missing: [2, 4]"), "{said}");
    }
}

/// A job of two whose rank 0 runs and waits for rank 1; `visit` does something to it, and then it must still form.
fn around_a_forming_job(test: &str, visit: impl FnOnce(&Launch)) {
    let launch = Launch::new(2);
    let mut children = Children::default();
    children.start(launch.rank(test, "join", 0));
    await_socket(&launch);
    visit(&launch);
    children.start(launch.rank(test, "join", 1));
    let answers = children.answers();
    assert_eq!(answers, [["joined as 0 of 2"], ["joined as 1 of 2"]]);
    assert!(!launch.has_socket(), "the socket is gone with rank 0");
}

/// Waits until rank 0 serves.
fn await_socket(launch: &Launch) {
    await_that("nobody serves", || launch.has_socket());
}

#[test]
fn a_second_rank_0_is_refused_and_the_first_serves_on() {
    const TEST: &str = "a_second_rank_0_is_refused_and_the_first_serves_on";
    if role().is_some() {
        return join_and_meet();
    }
    around_a_forming_job(TEST, |launch| {
        let said = said_by(launch.rank(TEST, "join", 0));
        assert!(said.contains("DuplicateRank { rank: 0"), "{said}");
    });
}

#[test]
fn a_second_rank_1_is_refused_while_the_job_lives() {
    const TEST: &str = "a_second_rank_1_is_refused_while_the_job_lives";
    match role().as_deref() {
        Some("hold") => {
            let _job = match Job::from_env() {
                Err(error) => return answer(format!("{error:?}")),
                Ok(job) => job,
            };
            answer("here");
            // Until the parent ends it.
            loop {
                std::thread::park();
            }
        }
        Some(_) => return join_and_meet(),
        None => {}
    }
    let launch = Launch::new(3);
    let mut children = Children::default();
    let first = [0, 1].map(|rank| children.start(launch.rank(TEST, "hold", rank)));
    await_socket(&launch);
    // Whichever of the two ranks 1 comes second is refused while the job forms; rank 2 then completes it.
    let twin = children.start(launch.rank(TEST, "hold", 1));
    let refused = loop {
        let one = [first[1], twin].into_iter().find(|index| has_ended(children.pid(*index)));
        match one {
            Some(index) => break index,
            None => std::thread::yield_now(),
        }
    };
    let (said, _) = children.finish(refused);
    assert!(said[0].contains("DuplicateRank { rank: 1"), "{said:?}");
    let last = children.start(launch.rank(TEST, "hold", 2));
    assert_eq!(children.next_answer(first[0]), "here");
    assert_eq!(children.next_answer(last), "here");
    let said = said_by(launch.rank(TEST, "join", 1));
    assert!(said.contains("DuplicateRank { rank: 1"), "also once the job runs: {said}");
}

/// Whether a child has ended (and not been waited for): it is a zombie then.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("not waited for yet");
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn a_wrong_key_and_a_wrong_size_are_refused_and_the_job_still_forms() {
    const TEST: &str = "a_wrong_key_and_a_wrong_size_are_refused_and_the_job_still_forms";
    if role().is_some() {
        return join_and_meet();
    }
    around_a_forming_job(TEST, |launch| {
        let stranger = Launch { key: "00".repeat(32), ..launch.clone() };
        let said = said_by(stranger.rank(TEST, "join", 1));
        assert!(said.contains("WrongKey { rank: 1"), "{said}");
        let larger = Launch { size: 3, ..launch.clone() };
        let said = said_by(larger.rank(TEST, "join", 1));
        assert!(said.contains("SizeMismatch { rank: 1") && said.contains("found: 2, expected: 3"), "{said}");
    });
}

fn new_socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
}

fn address(launch: &Launch) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(launch.name.as_bytes()).expect("a short name")
}

/// Connects to rank 0, which may have bound its name and not be listening yet.
fn visitor(launch: &Launch) -> OwnedFd {
    let start = Instant::now();
    loop {
        let peer = new_socket();
        match connect(&peer, &address(launch)) {
            Err(Errno::CONNREFUSED) if start.elapsed() < LIMIT => std::thread::yield_now(),
            connected => {
                connected.expect("rank 0 serves");
                return peer;
            }
        }
    }
}

/// Sends a packet and returns the verdict that comes back, if any does.
fn verdict_on(launch: &Launch, packet: &[u8]) -> Option<u64> {
    let peer = visitor(launch);
    rustix::net::send(&peer, packet, SendFlags::NOSIGNAL).expect("the server has not closed");
    let mut answer = [0; 64];
    let (received, _) = recv(&peer, &mut answer[..], RecvFlags::empty()).expect("an answer or the end");
    (received == 32).then(|| u64::from_le_bytes(answer[8..16].try_into().expect("eight bytes")))
}

/// A hello as docs/design.md draws it.
fn hello(magic: &[u8; 8], numbers: [u64; 3], key: u8) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend([key; 32]);
    bytes
}

#[test]
fn strange_packets_are_answered_once_and_disturb_nobody() {
    const TEST: &str = "strange_packets_are_answered_once_and_disturb_nobody";
    const MALFORMED: Option<u64> = Some(5);
    if role().is_some() {
        return join_and_meet();
    }
    around_a_forming_job(TEST, |launch| {
        let good = hello(b"PHXhello", [1, 1, 2], 0x5a);
        for length in [1, 8, 63, 65, 4096] {
            let mut packet = good.clone();
            packet.resize(length, 7);
            assert_eq!(verdict_on(launch, &packet), MALFORMED, "{length} bytes");
        }
        assert_eq!(verdict_on(launch, &hello(b"GET / HT", [1, 1, 2], 0x5a)), MALFORMED);
        assert_eq!(verdict_on(launch, &hello(b"PHXhello", [2, 1, 2], 0x5a)), Some(4), "another version");
        assert_eq!(verdict_on(launch, &hello(b"PHXhello", [1, 1, 2], 0x5b)), Some(1), "another key");
        assert_eq!(verdict_on(launch, &hello(b"PHXhello", [1, u64::MAX, 2], 0x5a)), MALFORMED, "no such rank");
        assert_eq!(verdict_on(launch, &hello(b"PHXhello", [1, 1, u64::MAX], 0x5a)), Some(3), "another size");
        assert_eq!(verdict_on(launch, &hello(b"PHXhello", [1, 0, 2], 0x5a)), Some(2), "rank 0 is taken");
    });
}

#[test]
fn random_packets_disturb_nobody() {
    const TEST: &str = "random_packets_disturb_nobody";
    if role().is_some() {
        return join_and_meet();
    }
    let seed = fresh_seed();
    let _named = Named::new("bootstrap", TEST, seed);
    let mut random = Seeded::new(seed);
    around_a_forming_job(TEST, |launch| {
        for _ in 0..500 {
            let mut packet = hello(b"PHXhello", [1, 1, 2], 0x5a);
            let spoiled = random.below(packet.len());
            packet[spoiled] ^= 1 << random.below(8);
            packet.truncate(1 + random.below(70));
            assert!(verdict_on(launch, &packet).is_some_and(|verdict| verdict > 0), "{packet:?} was let in");
        }
    });
}

/// Peers that say nothing, go away at once, or send a descriptor: more of them than the server looks at together.
#[test]
fn silent_and_vanishing_peers_disturb_nobody() {
    const TEST: &str = "silent_and_vanishing_peers_disturb_nobody";
    if role().is_some() {
        return join_and_meet();
    }
    let mut silent = Vec::new();
    around_a_forming_job(TEST, |launch| {
        for _ in 0..100 {
            drop(visitor(launch));
        }
        send_descriptor(&visitor(launch));
        silent.extend((0..70).map(|_| visitor(launch)));
    });
    drop(silent);
}

fn send_descriptor(peer: &OwnedFd) {
    let file = fs::File::open("/dev/null").expect("there is one");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let bytes = std::io::IoSlice::new(b"take this");
    sendmsg(peer, &[bytes], &mut control, SendFlags::NOSIGNAL).expect("the server has not closed");
}

/// A server that is none: what a joining rank says about it.
fn said_about(test: &str, launch: &Launch, serve: impl FnOnce(OwnedFd) + Send) -> String {
    let listener = new_socket();
    bind(&listener, &address(launch)).expect("a free name");
    listen(&listener, 0).expect("a socket that listens");
    std::thread::scope(|scope| {
        scope.spawn(|| serve(listener));
        said_by(with_short_timeout(launch.rank(test, "join", 1)))
    })
}

/// Accepts one peer, hears its hello, answers with `packet`, and waits until it has gone.
fn answer_with(listener: &OwnedFd, packet: &[u8]) {
    let peer = accept(listener).expect("a rank comes");
    let mut bytes = [0; 128];
    let (received, _) = recv(&peer, &mut bytes[..], RecvFlags::empty()).expect("its hello");
    assert_eq!(received, 64);
    if !packet.is_empty() {
        rustix::net::send(&peer, packet, SendFlags::NOSIGNAL).expect("it listens");
        let _ = recv(&peer, &mut bytes[..], RecvFlags::empty());
    }
}

#[test]
fn a_server_that_is_none_is_refused_by_the_rank() {
    const TEST: &str = "a_server_that_is_none_is_refused_by_the_rank";
    if role().is_some() {
        return join_and_meet();
    }
    let answer = |verdict: u64| {
        let mut bytes = b"PHXanswr".to_vec();
        [verdict, 9, 2].iter().for_each(|number: &u64| bytes.extend(number.to_le_bytes()));
        bytes
    };
    let cases: [(Vec<u8>, &str); 6] = [
        (vec![], "sent 0 bytes"),
        (b"HTTP/1.1 400".to_vec(), "no answer of Phalanx"),
        (vec![0; 32], "no answer of Phalanx"),
        (answer(0), "sent no segment"),
        (answer(4), "another version"),
        (answer(99), "verdict 99"),
    ];
    for (packet, expected) in cases {
        let said = said_about(TEST, &Launch::new(2), |listener| answer_with(&listener, &packet));
        assert!(said.contains("Protocol { rank: 1") && said.contains(expected), "{said}");
    }
}

/// Rank 0 is stopped, say: the kernel takes connections for it until its queue is full, and nobody answers.
#[test]
fn a_server_that_does_not_answer_is_a_time_out_also_with_a_full_queue() {
    const TEST: &str = "a_server_that_does_not_answer_is_a_time_out_also_with_a_full_queue";
    if role().is_some() {
        return join_and_meet();
    }
    let launch = Launch::new(2);
    let listener = new_socket();
    bind(&listener, &address(&launch)).expect("a free name");
    listen(&listener, 0).expect("a socket that listens");
    let said = said_by(with_short_timeout(launch.rank(TEST, "join", 1)));
    assert!(said.contains("NoAnswer { rank: 1"), "{said}");
    // That connection still stands in the queue, and the queue has room for one.
    let said = said_by(with_short_timeout(launch.rank(TEST, "join", 1)));
    assert!(said.contains("NobodyServes { rank: 1") || said.contains("NoAnswer { rank: 1"), "{said}");
}

/// A rank of the killing test: meets without end, and ends when somebody is missing.
fn meet_until_someone_is_missing() {
    let Ok(job) = Job::from_env() else { return answer("not joined") };
    answer(segment_of_this_process());
    loop {
        match job.world().barrier_timeout(Duration::from_millis(300)) {
            Ok(()) => {}
            Err(BarrierError::TimedOut { missing, .. }) => return answer(format!("missing {missing:?}")),
            Err(BarrierError::RankFailed { ranks, .. }) => return answer(format!("failed {ranks:?}")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Device and inode of the segment that this process maps: a memory file, which has no name to be left behind.
fn segment_of_this_process() -> String {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    assert!(!maps.contains("/dev/shm/"), "a named segment");
    segments_in("/proc/self/maps").into_iter().next().expect("a rank maps its segment")
}

fn segments_in(maps: &str) -> HashSet<String> {
    let text = fs::read_to_string(maps).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains("/memfd:phalanx"));
    // Address, rights, offset, device, inode, name.
    lines.map(|line| line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join("/")).collect()
}

fn all_mapped_segments() -> HashSet<String> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    processes.flat_map(|process| segments_in(&process.path().join("maps").display().to_string())).collect()
}

/// Ranks are killed at random moments, some while the job still forms. The others end by themselves; then there is no
/// socket and no mapping of the segment, which has no name in any file system.
#[test]
fn ranks_killed_at_random_moments_leave_nothing_behind() {
    const TEST: &str = "ranks_killed_at_random_moments_leave_nothing_behind";
    const RANKS: usize = 4;
    if role().is_some() {
        return meet_until_someone_is_missing();
    }
    let seed = fresh_seed();
    let _named = Named::new("bootstrap", TEST, seed);
    let mut random = Seeded::new(seed);
    for _ in 0..8 {
        let launch = Launch::new(RANKS);
        let mut children = Children::default();
        let indices: Vec<usize> =
            (0..RANKS).map(|rank| children.start(with_a_second(launch.rank(TEST, "meet", rank)))).collect();
        let is_formed = random.below(2) == 0;
        let segment = is_formed.then(|| children.next_answer(indices[1]));
        // A random moment, not a wait for anything.
        std::thread::sleep(Duration::from_micros(random.below(30_000) as u64));
        let victims: HashSet<usize> = (0..1 + random.below(RANKS)).map(|_| random.below(RANKS)).collect();
        victims.iter().for_each(|rank| children.kill(indices[*rank]));
        for rank in (0..RANKS).filter(|rank| !victims.contains(rank)) {
            let (_, status) = children.finish(indices[rank]);
            assert!(status.success(), "rank {rank} ends by itself: {status}");
        }
        assert!(!launch.has_socket(), "a socket is left");
        if let Some(segment) = segment {
            assert!(!all_mapped_segments().contains(&segment), "segment {segment} is still mapped");
        }
    }
}
