//! What strangers, and ranks that are no better, do to the ports of a running job across nodes: the rendezvous and the
//! nodes' listeners. Ranks pass barriers meanwhile; none is held up, and each reason is said once on stderr.
//!
//! All connections are on the loopback interface, to ports of ranks that the test has started.
#![cfg(not(model))]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::children::{Children, answer, role};
use common::nodes::{Across, Marks, wait_for_space};
use common::ranks::LIMIT;
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::sim::Seeded;
use phalanx::fabric::tcp::frame::Frame;
use phalanx::fabric::{Request, WordAt};
use phalanx::handshake::{self, Claim, HandshakeError, Key, Purpose, SERVICE, Verdict, prove};
use phalanx::{Group, Job, Operation};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No barrier may take as long, whatever strangers do.
const HELD_UP: Duration = Duration::from_secs(4);
/// Two nodes of two ranks.
const NODES: [usize; 4] = [0, 0, 1, 1];
/// The rank that speaks for the second node.
const AGENT: usize = 2;

/// A rank of a job under attack: passes barriers until the test says that it is enough, and answers how long the
/// longest took.
fn pass_until_told() {
    let (job, marks) = (Job::from_env().expect("a job across nodes"), Marks::of_this_rank());
    marks.set(&job, "here");
    pass_in(job.world(), &marks);
}

fn pass_in(group: &Group, marks: &Marks) {
    let mut longest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let is_enough = group.rank() == 0 && marks.0.join("enough").exists();
        let agreed = group.barrier_reduce_timeout(Operation::Or, u64::from(is_enough), LIMIT);
        longest = longest.max(begun.elapsed());
        if agreed.expect("nobody is held up") == 1 {
            return answer(format!("{} {}", group.passed(), longest.as_millis()));
        }
        // The attackers need a CPU, too.
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A running job, the files with what its ranks say on stderr, and its ports.
struct Target {
    across: Across,
    children: Children,
}

impl Target {
    fn start(test: &str) -> Self {
        let across = Across::new(&NODES);
        let children = across.start_logged(test);
        let marks = Marks(across.marks.clone());
        marks.wait(0..NODES.len(), "here");
        Self { across, children }
    }

    fn rendezvous(&self) -> SocketAddr {
        self.across.address.parse().expect("an address")
    }

    /// Where a node's agent listens.
    fn listener_of(&self, rank: usize) -> SocketAddr {
        let ports = listening_ports(self.children.pid(rank));
        let other = ports.into_iter().find(|port| *port != self.rendezvous().port());
        SocketAddr::from(([127, 0, 0, 1], other.expect("an agent listens")))
    }

    fn key(&self) -> Key {
        Key::parse(&self.across.launch.key).expect("a key")
    }

    fn claim(purpose: Purpose, rank: u64) -> Claim {
        let peer = if purpose == Purpose::Rendezvous { SERVICE } else { AGENT as u64 };
        Claim { purpose, rank, size: NODES.len() as u64, peer }
    }

    /// Somebody who knows the key and says this of itself.
    fn prove(&self, address: SocketAddr, key: &Key, claim: &Claim) -> Result<TcpStream, HandshakeError> {
        let stream = dial(address);
        let mut client = handshake::Client::new(key, claim).expect("random numbers");
        prove(&stream, &mut client, Instant::now() + LIMIT).map(|()| stream)
    }

    fn refusal(&self, address: SocketAddr, key: &Key, claim: &Claim) -> Verdict {
        match self.prove(address, key, claim) {
            Err(HandshakeError::Refused { verdict, .. }) => verdict,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn all_logs(&self) -> String {
        let log = |rank| std::fs::read_to_string(self.across.log_of(rank)).unwrap_or_default();
        (0..NODES.len()).map(|rank| format!("\nrank {rank} says: {}", log(rank))).collect()
    }

    /// Ends the job well, and returns what `rank` has said about its visitors.
    fn finish(mut self, rank: usize) -> Vec<String> {
        std::fs::write(self.across.marks.join("enough"), "").expect("a file");
        for rank in 0..NODES.len() {
            let (answers, status) = self.children.finish(rank);
            assert!(status.success(), "rank {rank}: {status}, {answers:?}, {}", self.all_logs());
            let numbers: Vec<u64> = answers[0].split(' ').map(|number| number.parse().expect("a number")).collect();
            assert!(numbers[0] > 0, "rank {rank} has passed no barrier");
            assert!(u128::from(numbers[1]) < HELD_UP.as_millis(), "rank {rank} was held up for {} ms", numbers[1]);
        }
        let said = std::fs::read_to_string(self.across.log_of(rank)).expect("its stderr");
        let refusals =
            said.lines().filter_map(|line| line.strip_prefix("phalanx: refused a connection from 127.0.0.1:"));
        let mut reasons: Vec<String> = refusals.map(reason_of).collect();
        reasons.sort();
        reasons
    }
}

/// The reason in `PORT: REASON (remedy: …)`.
fn reason_of(line: &str) -> String {
    let (_, reason) = line.split_once(": ").expect("a port and a reason");
    reason.split(" (remedy").next().expect("a reason").to_owned()
}

/// The TCP ports of the loopback interface at which a process listens.
fn listening_ports(pid: u32) -> Vec<u16> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a child of this test");
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let own: Vec<String> = targets.filter_map(|target| target.to_str().map(str::to_owned)).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_own = *fields.get(3)? == "0A" && own.contains(&format!("socket:[{}]", fields.get(9)?));
        let (_, port) = fields[1].split_once(':')?;
        is_own.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    };
    table.lines().filter_map(listening).collect()
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    stream.set_write_timeout(Some(LIMIT)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// What the server says before it closes, within its own limits.
fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        ended => drop(ended.expect("the server closes in time")),
    }
    said
}

/// Says something and hears how it ends. A server that closes early is no error.
fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = dial(address);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    until_closed(stream)
}

/// A hello of the job's, as a rank of it would say it.
fn hello(target: &Target, claim: &Claim) -> Vec<u8> {
    handshake::Client::new(&target.key(), claim).expect("random numbers").poll_output()
}

/// Everything that can be wrong with a handshake; whoever serves `purpose` at `address` says each reason once.
fn knock_in_every_way(target: &Target, address: SocketAddr, purpose: Purpose) {
    let seed = fresh_seed();
    let _named = Named::new("strangers", "strangers_", seed);
    let mut random = Seeded::new(seed);
    let claim = Target::claim(purpose, 1);
    for _ in 0..2 {
        say(address, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
        for _ in 0..30 {
            let bytes: Vec<u8> = (0..1 + random.below(300)).map(|_| random.number().to_le_bytes()[0]).collect();
            say(address, &bytes);
        }
        // Half a hello, and a hello with a wrong bit.
        let good = hello(target, &claim);
        assert_eq!(say(address, &good[..40]), b"");
        for bit in [8 * 8, 8 * 50] {
            let mut spoiled = good.clone();
            spoiled[bit / 8] ^= 1;
            say(address, &spoiled);
        }
        // The job's tag, and no proof.
        let mut guess = dial(address);
        guess.write_all(&good).expect("it reads");
        guess.read_exact(&mut [0; handshake::CHALLENGE_BYTES]).expect("a challenge");
        guess.write_all(&[&b"PHX-prov"[..], &[7; 32]].concat()).expect("it reads");
        until_closed(guess);
        // What a rank has said once, said again.
        let mut client = handshake::Client::new(&target.key(), &claim).expect("random numbers");
        let mut first = dial(address);
        let mut recorded = client.poll_output();
        first.write_all(&recorded).expect("it reads");
        let mut challenge = [0; handshake::CHALLENGE_BYTES];
        first.read_exact(&mut challenge).expect("a challenge");
        client.handle_bytes(&challenge).expect("the server knows the key");
        recorded.extend(client.poll_output());
        drop(first);
        let said = say(address, &recorded);
        assert!(said.len() > handshake::CHALLENGE_BYTES, "the replayed proof has a verdict");
        let verdict = u64::from_le_bytes(said[handshake::CHALLENGE_BYTES + 8..][..8].try_into().expect("eight bytes"));
        assert_eq!(verdict, Verdict::WrongKey as u64);
        assert_eq!(target.refusal(address, &Key::new([1; 32]), &claim), Verdict::OtherJob);
        assert_eq!(target.refusal(address, &target.key(), &Claim { size: 5, ..claim }), Verdict::WrongSize);
        assert_eq!(target.refusal(address, &target.key(), &Claim { peer: 77, ..claim }), Verdict::WrongPeer);
    }
}

const KNOCKED: [&str; 7] = [
    "another number of ranks",
    "another version of the protocol",
    "it went away before saying who it is",
    "meant for somebody else",
    "no handshake of Phalanx",
    "the key of another job",
    "wrong key",
];

#[test]
fn strangers_at_the_rendezvous_disturb_nobody() {
    const TEST: &str = "strangers_at_the_rendezvous_disturb_nobody";
    if role().is_some() {
        return pass_until_told();
    }
    let target = Target::start(TEST);
    let address = target.rendezvous();
    knock_in_every_way(&target, address, Purpose::Rendezvous);
    for rank in 0..4 {
        let claim = Target::claim(Purpose::Rendezvous, rank);
        assert_eq!(target.refusal(address, &target.key(), &claim), Verdict::DuplicateRank);
    }
    let mut expected = KNOCKED.to_vec();
    expected.push("a rank that has been taken");
    expected.sort_unstable();
    assert_eq!(target.finish(0), expected);
}

#[test]
fn strangers_at_a_node_disturb_nobody() {
    const TEST: &str = "strangers_at_a_node_disturb_nobody";
    if role().is_some() {
        return pass_until_told();
    }
    let target = Target::start(TEST);
    knock_in_every_way(&target, target.listener_of(AGENT), Purpose::Fabric);
    assert_eq!(target.finish(AGENT), KNOCKED);
}

/// Pairs of ranks. Ranks 1 and 3, whose processes have not talked to the other node, make theirs under the flood.
fn pair_up_under_the_flood() {
    let (job, marks) = (Job::from_env().expect("a job across nodes"), Marks::of_this_rank());
    let partner = (job.rank() + 2) % NODES.len();
    let list = [partner.min(job.rank()), partner.max(job.rank())];
    marks.set(&job, "here");
    if job.rank() % 2 == 1 {
        marks.wait([99], "flood");
    }
    let group = job.world().subgroup(&list, LIMIT).expect("both call");
    group.barrier_timeout(LIMIT).expect("both meet");
    marks.set(&job, "paired");
    pass_in(&group, &marks);
    // Whoever speaks for a node may not end before its neighbours are through.
    marks.gate(&job, "end");
}

/// More silent connections than a node looks at together, renewed as they are closed, while processes that have not
/// talked to the node before have to connect.
#[test]
fn a_flood_keeps_no_rank_out() {
    const TEST: &str = "a_flood_keeps_no_rank_out";
    if role().is_some() {
        return pair_up_under_the_flood();
    }
    let target = Target::start(TEST);
    let addresses = [target.listener_of(AGENT), target.listener_of(0), target.rendezvous()];
    let mut flood: Vec<TcpStream> = Vec::new();
    let renew = |flood: &mut Vec<TcpStream>| {
        flood.retain(|stream| {
            stream.set_nonblocking(true).expect("a socket");
            matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        for _ in flood.len()..400 {
            flood.push(dial(addresses[flood.len() % 3]));
        }
    };
    renew(&mut flood);
    std::fs::write(target.across.marks.join("flood.99"), "").expect("a file");
    let begun = Instant::now();
    while !target.across.marks.join("paired.3").exists() || !target.across.marks.join("paired.1").exists() {
        assert!(begun.elapsed() < HELD_UP, "ranks are kept out by a flood");
        renew(&mut flood);
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = target.finish(AGENT);
    assert_eq!(said, ["too many connections at once"], "once");
}

/// Those who know the key and then talk nonsense, or do not stop, or do not listen.
#[test]
fn a_guest_that_breaks_the_protocol_is_ended() {
    const TEST: &str = "a_guest_that_breaks_the_protocol_is_ended";
    if role().is_some() {
        return pass_until_told();
    }
    let target = Target::start(TEST);
    let address = target.listener_of(AGENT);
    // As the agent's neighbour, which has no connection of its own to it: a rank's new connection ends its old one.
    let guest = || target.prove(address, &target.key(), &Target::claim(Purpose::Fabric, 3)).expect("let in");
    let frame = |request, tag| Frame::Request { tag, request }.encode();
    let mut cases: Vec<Vec<u8>> = [WordAt(1 << 40), WordAt(usize::MAX)]
        .iter()
        .flat_map(|at| [Request::Read { at: *at }, Request::Write { at: *at, value: 1 }])
        .map(|request| frame(request, 0).to_vec())
        .collect();
    cases.push(Frame::Value { tag: 0, value: 5 }.encode().to_vec());
    cases.push([9; 32].to_vec());
    let mut unused = frame(Request::Read { at: WordAt(0) }, 1);
    unused[2] = 1;
    cases.push(unused.to_vec());
    for bytes in cases {
        let mut guest = guest();
        guest.write_all(&bytes).expect("it reads");
        assert_eq!(until_closed(guest), b"", "{bytes:?}");
    }
    // Asks without end and reads nothing.
    let mut greedy = guest();
    greedy.set_write_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let asked = frame(Request::Read { at: WordAt(0) }, 1).repeat(4096);
    let begun = Instant::now();
    while greedy.write_all(&asked).is_ok() {
        assert!(begun.elapsed() < LIMIT, "it is served for ever");
    }
    // Half a frame and nothing more; a proper question at a snail's pace.
    let mut half = guest();
    half.write_all(&[2, 0, 0]).expect("it reads");
    let mut slow = guest();
    for byte in frame(Request::Read { at: WordAt(0) }, 7) {
        slow.write_all(&[byte]).expect("it reads");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut answered = [0; 32];
    slow.read_exact(&mut answered).expect("an answer");
    assert_eq!((answered[0], answered[4]), (5, 7));
    assert_eq!(target.finish(AGENT), ["it broke the protocol"]);
}

/// A handshake at a snail's pace is a handshake.
#[test]
fn a_slow_rank_is_let_in() {
    const TEST: &str = "a_slow_rank_is_let_in";
    if role().is_some() {
        return pass_until_told();
    }
    let target = Target::start(TEST);
    let mut stream = dial(target.listener_of(AGENT));
    let claim = Target::claim(Purpose::Fabric, 1);
    let mut client = handshake::Client::new(&target.key(), &claim).expect("random numbers");
    while !client.is_welcome() {
        for byte in client.poll_output() {
            stream.write_all(&[byte]).expect("it reads");
            std::thread::sleep(Duration::from_millis(3));
        }
        let mut bytes = vec![0; client.wanted()];
        stream.read_exact(&mut bytes).expect("it answers");
        client.handle_bytes(&bytes).expect("it knows the key");
    }
    assert_eq!(target.finish(AGENT), Vec::<String>::new());
}

/// A second process with the identity of a node's agent takes the place of the true one's connection, again and again:
/// writes are lost, connections are made anew, and barriers go on.
#[test]
fn connections_that_are_overtaken_are_mended() {
    const TEST: &str = "connections_that_are_overtaken_are_mended";
    if role().is_some() {
        return pass_until_told();
    }
    let target = Target::start(TEST);
    let address = target.listener_of(AGENT);
    let mut welcomes = 0;
    for round in 0..40 {
        let impostor = target.prove(address, &target.key(), &Target::claim(Purpose::Agent, 0));
        welcomes += usize::from(impostor.is_ok());
        if let (Ok(mut impostor), true) = (impostor, round % 2 == 0) {
            let _ = impostor.write_all(&[9; 64]);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(welcomes > 10, "{welcomes} were let in");
    let said = target.finish(AGENT);
    assert_eq!(said, ["it broke the protocol"]);
}

/// As the test before, while the ranks make and drop groups: whatever is lost with a connection, all places and
/// all space come back.
#[test]
fn groups_are_made_though_connections_are_overtaken() {
    const TEST: &str = "groups_are_made_though_connections_are_overtaken";
    if role().is_some() {
        let (job, marks) = (Job::from_env().expect("a job across nodes"), Marks::of_this_rank());
        let world = job.world();
        let (before, _) = world.space();
        marks.set(&job, "here");
        let mut longest = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let is_enough = job.rank() == 0 && marks.0.join("enough").exists();
            let agreed = world.barrier_reduce_timeout(Operation::Or, u64::from(is_enough), 2 * HELD_UP);
            if agreed.expect("nobody is held up") == 1 {
                break;
            }
            let group = world.split_timeout(0, 0, HELD_UP).expect("the group is made");
            group.barrier_timeout(2 * HELD_UP).expect("its members meet");
            longest = longest.max(begun.elapsed());
        }
        wait_for_space(&job, before, 0);
        // Whoever speaks for a node may not end before the others are through.
        marks.gate(&job, "end");
        return answer(format!("{} {}", world.passed(), longest.as_millis()));
    }
    let target = Target::start(TEST);
    for _ in 0..200 {
        drop(target.prove(target.listener_of(AGENT), &target.key(), &Target::claim(Purpose::Agent, 0)));
        std::thread::sleep(Duration::from_millis(5));
    }
    target.finish(AGENT);
}

/// The lowest number of a descriptor that this process does not have.
fn next_descriptor() -> u64 {
    let next = std::fs::File::open("/dev/null").expect("Linux");
    u64::try_from(next.as_raw_fd()).expect("a number")
}

/// Lets this process open nothing more, or as much as it may.
fn allow_descriptors(most: Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.or(limit.maximum), ..limit }).expect("below the hard limit");
}

/// The CPU time that a process has used, in the kernel's ticks of 10 ms.
fn ticks_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a child of this test");
    let (_, fields) = stat.rsplit_once(") ").expect("after the name");
    let ticks =
        |index: usize| fields.split(' ').nth(index).and_then(|field| field.parse::<u64>().ok()).expect("a number");
    ticks(11) + ticks(12)
}

/// A node that can open no more descriptors leaves those that knock waiting, without spinning, and says so once.
#[test]
fn a_node_without_descriptors_rests() {
    const TEST: &str = "a_node_without_descriptors_rests";
    if role().is_some() {
        let (job, marks) = (Job::from_env().expect("a job across nodes"), Marks::of_this_rank());
        marks.set(&job, "here");
        if job.rank() == AGENT {
            allow_descriptors(Some(next_descriptor()));
            std::fs::write(marks.0.join("unused"), "").expect_err("no descriptor is left");
            answer("full");
        }
        // The others wait for it in the first barrier. Looking for a file takes no descriptor.
        if job.rank() == AGENT {
            while !marks.0.join("measured").exists() {
                std::thread::sleep(Duration::from_millis(20));
            }
            allow_descriptors(None);
        }
        return pass_in(job.world(), &marks);
    }
    let mut target = Target::start(TEST);
    let address = target.listener_of(AGENT);
    assert_eq!(target.children.next_answer(AGENT), "full");
    let mut waiting = dial(address);
    waiting.write_all(&hello(&target, &Target::claim(Purpose::Fabric, 1))).expect("it is not accepted yet");
    let before = ticks_of(target.children.pid(AGENT));
    std::thread::sleep(Duration::from_millis(600));
    let used = ticks_of(target.children.pid(AGENT)) - before;
    std::fs::write(target.across.marks.join("measured"), "").expect("a file");
    assert!(used < 15, "{} ms of CPU time in 600 ms", used * 10);
    // There is room again: it is let in.
    waiting.read_exact(&mut [0; handshake::CHALLENGE_BYTES]).expect("a challenge");
    drop(waiting);
    let said = std::fs::read_to_string(target.across.log_of(AGENT)).expect("its stderr");
    assert_eq!(said.matches("cannot let other nodes connect now").count(), 1, "{said}");
    target.finish(AGENT);
}
