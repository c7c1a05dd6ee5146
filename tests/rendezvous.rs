//! Meeting across nodes, with ranks as threads: everybody gets everybody's bytes, each way to be refused is its own
//! error, missing ranks are named exactly, and strangers at the port disturb nobody. All traffic is on the loopback.
#![cfg(not(model))]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use common::ranks::{Gate, LIMIT};
use common::seeds::{Named, fresh_seed};
use phalanx::RendezvousError;
use phalanx::cluster::address::Address;
use phalanx::cluster::rendezvous::{Client, MOST_BLOB_BYTES, Server, listen};
use phalanx::fabric::sim::Seeded;
use phalanx::handshake::{self, Claim, Key, Purpose, SERVICE};
use phalanx::testing::not_run;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For what is meant to fail by time.
const SHORT: Duration = Duration::from_millis(300);

fn key() -> Key {
    Key::new([0x5a; 32])
}

fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")
}

/// A server of a job of `size` ranks, and where it is.
fn serve(size: usize) -> (Server, Address) {
    let server = Server::start(loopback(), &key(), size).expect("a server");
    let address = server.address().into();
    (server, address)
}

fn connect(rank: usize, size: usize, address: &Address) -> Client {
    Client::connect(rank, size, address, &key(), LIMIT).expect("the server lets this rank in")
}

/// What a rank brings to a round.
fn blob(rank: usize, round: usize) -> Vec<u8> {
    format!("{rank} in {round}").into_bytes()
}

fn blobs(size: usize, round: usize) -> Vec<Vec<u8>> {
    (0..size).map(|rank| blob(rank, round)).collect()
}

/// All ranks meet twice.
fn meet(size: usize, address: &Address) {
    scope(|scope| {
        for rank in 0..size {
            // A thousand threads of the usual size would be a lot of address space.
            let thread = Builder::new().stack_size(128 << 10);
            let ranks_part = move || {
                let mut client = connect(rank, size, address);
                for round in 0..2 {
                    let table = client.allgather(&blob(rank, round), LIMIT).expect("all ranks come");
                    assert_eq!(table, blobs(size, round));
                }
            };
            thread.spawn_scoped(scope, ranks_part).expect("a thread");
        }
    });
}

#[test]
fn a_thousand_ranks_meet_in_seconds() {
    const RANKS: usize = 1000;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < 3 * RANKS as u64) {
        let needed = 3 * RANKS;
        return not_run(format!("{RANKS} ranks in one process need {needed} open files, the limit is {limit:?}"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("within the limit");
    let (_server, address) = serve(RANKS);
    let begun = Instant::now();
    meet(RANKS, &address);
    println!("{RANKS} ranks (threads) have met and gone through two rounds in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(30), "seconds, not {:?}", begun.elapsed());
}

#[test]
fn ranks_meet_by_name_and_over_ipv6() {
    let (server, _) = serve(3);
    meet(3, &Address::Tcp { host: "localhost".to_owned(), port: server.address().port() });
    let address = Address::parse("[::1]:1").expect("an address");
    let Ok(probe) = TcpListener::bind(("::1", 0)) else {
        println!("not run: this machine has no IPv6 loopback");
        assert!(matches!(listen(&address), Err(RendezvousError::System { step: "listen at", .. })));
        return;
    };
    let server = Server::start(probe, &key(), 3).expect("a server");
    assert!(server.address().is_ipv6());
    meet(3, &server.address().into());
    let taken = listen(&server.address().into()).expect_err("another listens there");
    assert!(matches!(taken, RendezvousError::System { rank: 0, step: "listen at", .. }), "{taken}");
}

#[test]
fn the_server_may_start_later() {
    // A port that is taken, and at which nobody listens yet.
    let early = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&early, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address: SocketAddr = getsockname(&early).expect("an address").try_into().expect("IPv4");
    let missed = Client::connect(0, 1, &address.into(), &key(), SHORT).expect_err("nobody listens");
    let RendezvousError::NobodyServes { rank: 0, address: named, waited, last } = &missed else { panic!("{missed}") };
    assert_eq!(named, &address.to_string());
    assert!(*waited >= SHORT && last.contains("refused"), "{missed}");
    let about_to_connect = Gate::new(2);
    let server = scope(|scope| {
        scope.spawn(|| {
            about_to_connect.wait();
            let table = connect(0, 1, &address.into()).allgather(b"here", LIMIT);
            assert_eq!(table.expect("alone"), [b"here"]);
        });
        about_to_connect.wait();
        // The rank has tried by now, or is about to; both must do.
        std::thread::yield_now();
        rustix::net::listen(&early, 1).expect("the port is free");
        Server::start(early.into(), &key(), 1).expect("a server")
    });
    drop(server);
}

#[test]
fn each_way_to_be_refused_is_its_own_error_and_the_job_still_forms() {
    let (_server, address) = serve(3);
    let first = connect(1, 3, &address);
    let refused = |rank, size, key: &Key| Client::connect(rank, size, &address, key, LIMIT).expect_err("refused");
    let error = refused(2, 3, &Key::new([1; 32]));
    assert!(matches!(error, RendezvousError::WrongKey { rank: 2, .. }), "{error}");
    let error = refused(2, 4, &key());
    assert!(matches!(error, RendezvousError::SizeMismatch { rank: 2, found: 3, expected: 4, .. }), "{error}");
    let error = refused(1, 3, &key());
    assert!(matches!(error, RendezvousError::DuplicateRank { rank: 1, .. }), "{error}");
    // A rank that has not brought anything yet may come again.
    drop(first);
    let begun = Instant::now();
    while Client::connect(1, 3, &address, &key(), LIMIT).is_err() {
        assert!(begun.elapsed() < LIMIT, "its place is free again");
    }
    meet_after_retries(3, &address);
}

/// As [`meet`], where the places may not be free yet.
fn meet_after_retries(size: usize, address: &Address) {
    scope(|scope| {
        for rank in 0..size {
            scope.spawn(move || {
                let begun = Instant::now();
                let mut client = loop {
                    match Client::connect(rank, size, address, &key(), LIMIT) {
                        Err(RendezvousError::DuplicateRank { .. }) if begun.elapsed() < LIMIT => {}
                        connected => break connected.expect("let in"),
                    }
                };
                assert_eq!(client.allgather(&blob(rank, 0), LIMIT).expect("all come"), blobs(size, 0));
            });
        }
    });
}

#[test]
fn ranks_that_do_not_come_are_named_by_those_that_did() {
    let (_server, address) = serve(5);
    let entered = Gate::new(3);
    let named = Mutex::new(Vec::new());
    scope(|scope| {
        for rank in [0, 1, 3] {
            let (address, entered, named) = (&address, &entered, &named);
            scope.spawn(move || {
                let mut client = connect(rank, 5, address);
                entered.wait();
                // Different patience, and the same answer.
                let error =
                    client.allgather(&[], SHORT * u32::try_from(rank + 1).expect("small")).expect_err("missing");
                let RendezvousError::RanksMissing { missing, round: 1, .. } = error else { panic!("{error}") };
                named.lock().expect("no panic").push(missing);
                let again = client.allgather(&[], SHORT).expect_err("it has failed");
                assert!(matches!(again, RendezvousError::Failed { .. }), "{again}");
            });
        }
    });
    assert_eq!(named.into_inner().expect("no panic"), [[2, 4], [2, 4], [2, 4]]);
}

#[test]
fn a_rank_that_vanishes_between_rounds_is_named_at_once() {
    let (_server, address) = serve(4);
    let begun = Instant::now();
    scope(|scope| {
        for rank in 0..4 {
            let address = &address;
            scope.spawn(move || {
                let mut client = connect(rank, 4, address);
                client.allgather(&[], LIMIT).expect("all come");
                if rank == 2 {
                    return;
                }
                let error = client.allgather(&[], LIMIT).expect_err("rank 2 has gone");
                let RendezvousError::RanksGone { rank: own, round: 2, gone } = &error else { panic!("{error}") };
                // Whoever comes last may find that others have been told and have gone too.
                assert!(*own == rank && gone.contains(&2), "{error}");
                let late = Client::connect(2, 4, address, &key(), LIMIT).expect_err("rank 2 has had its place");
                assert!(matches!(late, RendezvousError::DuplicateRank { .. }), "{late}");
            });
        }
    });
    assert!(begun.elapsed() < LIMIT / 2, "nobody waits for its limit");
}

/// Rank 0 may end right after its own last round: what is on its way to the others arrives, also where it fills
/// sockets.
#[test]
fn a_server_that_ends_sends_what_is_on_its_way() {
    const RANKS: usize = 64;
    let listener = loopback();
    // Accepted sockets inherit it: a table takes the server many steps.
    sockopt::set_socket_send_buffer_size(&listener, 4096).expect("a socket");
    let server = Server::start(listener, &key(), RANKS).expect("a server");
    let address: Address = server.address().into();
    let server = Mutex::new(Some(server));
    let brought = vec![7; MOST_BLOB_BYTES];
    scope(|scope| {
        for rank in 0..RANKS {
            let (address, server, brought) = (&address, &server, &brought);
            scope.spawn(move || {
                let mut client = connect(rank, RANKS, address);
                let table = client.allgather(brought, LIMIT).expect("all come");
                assert!(table.len() == RANKS && table.iter().all(|blob| blob == brought));
                drop(server.lock().expect("no panic").take());
            });
        }
    });
}

#[test]
fn a_server_that_ends_without_a_table_is_lost() {
    let (server, address) = serve(2);
    let mut client = connect(0, 2, &address);
    drop(server);
    let error = client.allgather(&[], LIMIT).expect_err("nobody is there");
    assert!(matches!(error, RendezvousError::ServerLost { rank: 0, .. }), "{error}");
}

#[test]
fn a_blob_has_a_limit() {
    let (_server, address) = serve(1);
    let mut client = connect(0, 1, &address);
    let error = client.allgather(&[0; MOST_BLOB_BYTES + 1], LIMIT).expect_err("too much");
    assert!(matches!(error, RendezvousError::BlobTooLarge { bytes: 8193, most: MOST_BLOB_BYTES, .. }), "{error}");
    assert_eq!(client.allgather(&[3; MOST_BLOB_BYTES], LIMIT).expect("alone"), [[3; MOST_BLOB_BYTES]]);
}

/// Reads until the server closes.
fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        ended => drop(ended.expect("the server closes in time")),
    }
    bytes
}

fn raw(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).expect("it listens")
}

#[test]
fn silent_half_open_and_talking_strangers_disturb_nobody() {
    let (server, address) = serve(8);
    let seed = fresh_seed();
    let _named = Named::new("rendezvous", "silent_half_open_and_talking_strangers_disturb_nobody", seed);
    let mut random = Seeded::new(seed);
    // More than the server looks at together, and none of them goes away.
    let silent: Vec<TcpStream> = (0..300).map(|_| raw(&server)).collect();
    let mut web = raw(&server);
    web.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").expect("it reads");
    for _ in 0..100 {
        let mut stranger = raw(&server);
        let bytes: Vec<u8> = (0..random.below(300)).map(|_| random.number().to_le_bytes()[0]).collect();
        stranger.write_all(&bytes).expect("it reads");
        let _ = stranger.shutdown(std::net::Shutdown::Write);
    }
    let begun = Instant::now();
    meet(8, &address);
    assert!(begun.elapsed() < Duration::from_secs(4), "the ranks have waited for strangers: {:?}", begun.elapsed());
    let said = until_closed(web);
    assert!(said.starts_with(b"PHX-chal"), "a stranger is told that this is Phalanx: {said:?}");
    assert!(said.len() <= handshake::CHALLENGE_BYTES && said[24..].iter().all(|byte| *byte == 0), "and no more");
    // Each within five seconds, or as soon as others come.
    silent.into_iter().for_each(|stranger| assert!(until_closed(stranger).len() <= handshake::CHALLENGE_BYTES));
}

/// Somebody who knows the key, and what it sends after the handshake.
fn member(rank: u64, size: u64, server: &Server) -> TcpStream {
    let stream = raw(server);
    let claim = Claim { purpose: Purpose::Rendezvous, rank, size, peer: SERVICE };
    let mut proof = handshake::Client::new(&key(), &claim).expect("random numbers");
    handshake::prove(&stream, &mut proof, Instant::now() + LIMIT).expect("the server lets it in");
    stream
}

#[test]
fn a_member_that_breaks_the_protocol_is_ended() {
    let frame = |kind: u32, length: u32, round: u64| {
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), &round.to_le_bytes(), &[0; 20]].concat()
    };
    let cases = [frame(1, 8193, 1), frame(1, 0, 2), frame(3, 0, 1), frame(2, 1, 1), frame(2, 0, 2), frame(9, 0, 1)];
    for bytes in cases {
        let (server, address) = serve(2);
        let mut rogue = member(1, 2, &server);
        rogue.write_all(&bytes).expect("it reads");
        until_closed(rogue);
        // It had brought nothing: a better one may come.
        meet_after_retries(2, &address);
    }
    let (server, address) = serve(2);
    let mut rogue = member(1, 2, &server);
    rogue.write_all(&[frame(1, 20, 1), frame(1, 20, 1)].concat()).expect("it reads");
    until_closed(rogue);
    let error = connect(0, 2, &address).allgather(&[], LIMIT).expect_err("a blob twice");
    assert!(matches!(&error, RendezvousError::RanksGone { gone, .. } if *gone == [1]), "{error}");
}

#[test]
fn random_bytes_of_a_member_disturb_nobody() {
    let seed = fresh_seed();
    let _named = Named::new("rendezvous", "random_bytes_of_a_member_disturb_nobody", seed);
    let mut random = Seeded::new(seed);
    let (server, address) = serve(2);
    for _ in 0..50 {
        let mut rogue = loop_until_member(&server);
        let mut bytes: Vec<u8> = (0..16 + random.below(3000)).map(|_| random.number().to_le_bytes()[0]).collect();
        // A kind that is one, half of the time, but never a whole blob of round 1.
        bytes[..4].copy_from_slice(&[u8::try_from(random.below(10)).expect("small"), 0, 0, 0]);
        bytes[15] |= 1;
        let _ = rogue.write_all(&bytes);
        let _ = rogue.shutdown(std::net::Shutdown::Write);
        until_closed(rogue);
    }
    meet_after_retries(2, &address);
}

/// Rank 1, as soon as its place is free again.
fn loop_until_member(server: &Server) -> TcpStream {
    let begun = Instant::now();
    loop {
        let stream = raw(server);
        let claim = Claim { purpose: Purpose::Rendezvous, rank: 1, size: 2, peer: SERVICE };
        let mut proof = handshake::Client::new(&key(), &claim).expect("random numbers");
        match handshake::prove(&stream, &mut proof, Instant::now() + LIMIT) {
            Ok(()) => return stream,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
        }
    }
}

#[test]
fn servers_that_are_none_have_their_own_errors() {
    let listener = loopback();
    let address: Address = listener.local_addr().expect("an address").into();
    let refused = || Client::connect(1, 2, &address, &key(), SHORT).expect_err("no server of Phalanx");
    let error = refused();
    assert!(matches!(error, RendezvousError::NoAnswer { rank: 1, .. }), "the kernel alone: {error}");
    drop(listener.accept().expect("that rank"));
    let answers: [(&[u8], &str); 2] = [
        (b"HTTP/1.1 400 Bad Request", "it sent HTTP/1.1"),
        (b"PHX-chal\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "version 3"),
    ];
    for (answer, part) in answers {
        let error = scope(|scope| {
            scope.spawn(|| {
                let (mut peer, _) = listener.accept().expect("a rank comes");
                peer.write_all(answer).expect("it reads");
                until_closed(peer);
            });
            refused()
        });
        assert!(matches!(error, RendezvousError::Protocol { .. }) && error.to_string().contains(part), "{error}");
    }
}
