//! Pretended nodes: what their ranks are given, and that the rendezvous is there as long as the job is.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{DEADLINE, Job, eventually, phalanx, run, send};

const PLACE: &str = "echo $PHALANX_RANK $PHALANX_SIZE $PHALANX_NODE $PHALANX_LOCAL_RANK $PHALANX_LOCAL_SIZE";
const MEETING: &str = "echo $PHALANX_RENDEZVOUS $PHALANX_BOOTSTRAP $PHALANX_KEY";

#[test]
fn ranks_are_divided_over_nodes_in_blocks() {
    let outcome = run(5, &["--nodes", "2"], PLACE);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    // Rank, size, node, and the last two again within the node.
    assert_eq!(outcome.sorted_lines(), ["0 5 0 0 3", "1 5 0 1 3", "2 5 0 2 3", "3 5 1 0 2", "4 5 1 1 2"]);
    let outcome = run(2, &["--nodes", "2"], PLACE);
    assert_eq!(outcome.sorted_lines(), ["0 2 0 0 1", "1 2 1 0 1"]);
}

#[test]
fn all_ranks_meet_at_one_address_that_the_launcher_serves() {
    let outcome = run(4, &["--nodes", "2"], MEETING);
    let lines: HashSet<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 1, "{outcome:?}");
    let fields: Vec<&str> = outcome.stdout.lines().next().expect("a line").split(' ').collect();
    let port: u16 = fields[1].strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok()).expect("a port");
    assert!(fields[0] == "served" && port != 0 && fields[2].len() == 64, "{outcome:?}");
}

#[test]
fn one_node_stays_as_it_is_also_inside_a_job_of_many() {
    let script = "echo \"<$PHALANX_RENDEZVOUS$PHALANX_NODE$PHALANX_WITNESS>\" $PHALANX_BOOTSTRAP";
    for options in [&["--nodes", "1"][..], &[]] {
        let arguments = [&["run", "-n", "1"], options, &["--", "sh", "-c", script]].concat();
        let mut command = phalanx(&arguments);
        command.env("PHALANX_RENDEZVOUS", "served").env("PHALANX_NODE", "7").env("PHALANX_WITNESS", "127.0.0.1:9");
        let outcome = Job::spawn(&mut command).finish();
        assert!(outcome.stdout.starts_with("<> unix:phalanx-"), "{outcome:?}");
    }
}

/// A job whose ranks have said where they meet, and wait.
fn waiting_job() -> (Job, String) {
    let mut job = Job::start(2, &["--nodes", "2"], "echo $PHALANX_BOOTSTRAP; exec sleep 1000");
    let addresses: HashSet<String> = job.lines(2).into_iter().collect();
    (job, addresses.into_iter().next().expect("an address"))
}

#[test]
fn a_stranger_at_the_rendezvous_is_refused_and_reported_and_the_job_goes_on() {
    let (mut job, address) = waiting_job();
    let mut stranger = TcpStream::connect(address).expect("the launcher serves");
    stranger.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
    let mut said = Vec::new();
    stranger.read_to_end(&mut said).expect("it closes");
    assert!(said.starts_with(b"PHX-chal"), "{said:?}");
    let line = job.error_line();
    assert!(line.starts_with("phalanx: refused a connection from 127.0.0.1:"), "{line}");
    job.send(Signal::SIGTERM);
    assert_eq!(job.finish().code(), 128 + 15);
}

#[test]
fn the_rendezvous_ends_with_the_launcher_whoever_is_killed() {
    let is_served = |address: &str| {
        let address = address.parse().expect("an address");
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    };
    let killings: [fn(&Job); 2] = [|job| send(job.supervisor(), Signal::SIGKILL), |job| job.send(Signal::SIGKILL)];
    for kill in killings {
        let (mut job, address) = waiting_job();
        assert!(is_served(&address));
        kill(&job);
        job.wait();
        eventually("the rendezvous is gone", || !is_served(&address));
    }
}
