//! What survivors are told when nodes fail in a job with a witness, as `phalanx run --nodes` keeps one: also where the
//! nodes that are left are no majority of themselves. Here the test keeps it, in its own process.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use common::children::{Children, answer, await_line, role};
use common::nodes::Across;
use common::ranks::LIMIT;
use phalanx::cluster::environment::Key;
use phalanx::cluster::witness::Witness;
use phalanx::{BarrierError, Job};
use rustix::process::Signal;

/// A job with a witness.
struct Witnessed {
    _across: Across,
    children: Children,
    witness: Option<Witness>,
}

impl Witnessed {
    /// Starts a job on these nodes; all have met once. Those in `idle` wait then for their parent's word.
    fn start(test: &str, nodes: &[usize], idle: &[usize]) -> Self {
        let across = Across::new(nodes);
        let key = Key::parse(&across.launch.key).expect("a key");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let count = nodes.iter().max().map_or(0, |last| last + 1);
        let witness = Witness::start(listener, &key, nodes.len(), count).expect("a witness");
        let mut children = Children::default();
        for rank in 0..nodes.len() {
            let mut command = across.rank(test, rank);
            command.env("EVIDENCE_ROLE", if idle.contains(&rank) { "idle" } else { "meet" });
            command.env("PHALANX_WITNESS", witness.address().to_string());
            children.start(command);
        }
        (0..nodes.len()).for_each(|rank| assert_eq!(children.next_answer(rank), "ready"));
        Self { _across: across, children, witness: Some(witness) }
    }

    fn signal(&self, ranks: &[usize], signal: Signal) {
        ranks.iter().for_each(|rank| self.children.signal(*rank, signal));
    }

    /// These say the same of the others, and go on together.
    fn survive(&mut self, survivors: &[usize], expected: &str) {
        self.children.await_answers(survivors, expected);
        self.children.await_answers(survivors, &format!("{survivors:?}"));
    }

    /// These were stopped, and go on: they are told that they are lost.
    fn come_back(&mut self, ranks: &[usize]) {
        self.signal(ranks, Signal::CONT);
        for rank in ranks {
            self.children.say(*rank, "look");
        }
        for rank in ranks {
            let said = self.children.next_answer(*rank);
            assert!(said.starts_with(&format!("Excluded {{ rank: {rank}")) && said.contains("Silent"), "{said}");
        }
    }
}

/// What a survivor says of a failure: the same text from all of them, but for the barrier.
fn told(error: &BarrierError) -> String {
    match error {
        BarrierError::RankFailed { ranks, causes, epoch, .. } => format!("{ranks:?} {causes:?} epoch {epoch}"),
        other => format!("{other:?}"),
    }
}

/// A rank that meets the others until that fails, and goes on with those that are left, again and again.
fn meet_for_as_long_as_somebody_is_left() {
    let job = Job::from_env().expect("a job");
    job.world().barrier().expect("all are there");
    answer("ready");
    if role().is_some_and(|role| role == "idle") {
        await_line();
    }
    let mut rest = None;
    loop {
        let group = rest.as_ref().unwrap_or_else(|| job.world());
        let error = (0..).find_map(|_| group.barrier().err()).expect("some barrier fails");
        answer(told(&error));
        if !matches!(error, BarrierError::RankFailed { .. }) {
            return drop(await_line());
        }
        let fewer = group.shrink(LIMIT).expect("some are left");
        fewer.barrier().expect("all of them live");
        answer(format!("{:?}", fewer.ranks()));
        if fewer.size() == 1 {
            return drop(await_line());
        }
        rest = Some(fewer);
    }
}

/// Of two nodes one is stopped: the other and the witness decide, whichever it is, and whoever comes back is told.
#[test]
fn of_two_nodes_the_silent_one_is_given_up_and_finds_itself_excluded() {
    const TEST: &str = "of_two_nodes_the_silent_one_is_given_up_and_finds_itself_excluded";
    if role().is_some() {
        return meet_for_as_long_as_somebody_is_left();
    }
    for (nodes, lost) in [(&[0, 1][..], &[1][..]), (&[0, 1], &[0]), (&[0, 0, 1, 1], &[2, 3])] {
        let mut job = Witnessed::start(TEST, nodes, lost);
        job.signal(lost, Signal::STOP);
        let survivors: Vec<usize> = (0..nodes.len()).filter(|rank| !lost.contains(rank)).collect();
        let causes = vec!["Silent"; lost.len()].join(", ");
        job.survive(&survivors, &format!("{lost:?} [{causes}] epoch 1"));
        job.come_back(lost);
    }
}

/// Whoever has decided it ends, and leaves nobody who could refuse the one that comes back: it learns it from the
/// witness.
#[test]
fn who_comes_back_when_all_others_have_ended_learns_it_from_the_witness() {
    const TEST: &str = "who_comes_back_when_all_others_have_ended_learns_it_from_the_witness";
    if role().is_some() {
        return meet_for_as_long_as_somebody_is_left();
    }
    let mut job = Witnessed::start(TEST, &[0, 1], &[1]);
    job.signal(&[1], Signal::STOP);
    job.survive(&[0], "[1] [Silent] epoch 1");
    job.children.kill(0);
    job.come_back(&[1]);
}

/// Of three nodes two decide that one is lost, and then one of them and the witness what becomes of the other.
#[test]
fn of_three_nodes_one_after_the_other_is_given_up() {
    const TEST: &str = "of_three_nodes_one_after_the_other_is_given_up";
    if role().is_some() {
        return meet_for_as_long_as_somebody_is_left();
    }
    let mut job = Witnessed::start(TEST, &[0, 1, 2], &[1, 2]);
    job.signal(&[2], Signal::STOP);
    // It waits for the two others, and is told of one first.
    assert_eq!(job.children.next_answer(0), "[2] [Silent] epoch 1");
    job.children.say(1, "meet");
    assert_eq!(job.children.next_answer(1), "[2] [Silent] epoch 1");
    (0..2).for_each(|rank| assert_eq!(job.children.next_answer(rank), "[0, 1]", "rank {rank}"));
    job.signal(&[1], Signal::STOP);
    job.survive(&[0], "[1] [Silent] epoch 2");
    job.signal(&[1], Signal::CONT);
    let said = job.children.next_answer(1);
    assert!(said.starts_with("Excluded { rank: 1"), "{said}");
    job.come_back(&[2]);
}

/// Without its witness the rest of two nodes is what it was: no majority. A node without any process needs no vote.
#[test]
fn without_the_witness_a_silent_node_is_unreachable_and_a_dead_one_is_gone() {
    const TEST: &str = "without_the_witness_a_silent_node_is_unreachable_and_a_dead_one_is_gone";
    if role().is_some() {
        return meet_for_as_long_as_somebody_is_left();
    }
    let mut job = Witnessed::start(TEST, &[0, 1], &[1]);
    job.witness = None;
    job.signal(&[1], Signal::STOP);
    let said = job.children.next_answer(0);
    assert!(said.starts_with("Unreachable { rank: 0") && said.contains("ranks: [1], nodes: [1]"), "{said}");
    let mut job = Witnessed::start(TEST, &[0, 1], &[1]);
    job.witness = None;
    job.children.kill(1);
    job.survive(&[0], "[1] [Gone] epoch 1");
}

/// Bytes that prove nothing change nothing at the witness, and keep nobody from it.
#[test]
fn strangers_at_the_witness_are_put_out() {
    const TEST: &str = "strangers_at_the_witness_are_put_out";
    if role().is_some() {
        return meet_for_as_long_as_somebody_is_left();
    }
    let mut job = Witnessed::start(TEST, &[0, 1], &[1]);
    let address = job.witness.as_ref().expect("it is there").address();
    let mut strangers: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let byte = u8::try_from(31 * number).expect("eight strangers");
        stranger.write_all(&[byte; 4096]).expect("the kernel takes it");
    }
    job.signal(&[1], Signal::STOP);
    job.survive(&[0], "[1] [Silent] epoch 1");
    // Each is told that it is refused, or hung up on; nobody is answered a word.
    for stranger in &mut strangers {
        stranger.set_read_timeout(Some(LIMIT)).expect("a time");
        let mut said = Vec::new();
        let ended = stranger.read_to_end(&mut said);
        let is_open = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_open && said.len() < 256, "{} bytes, and it is still connected: {is_open}", said.len());
    }
}
