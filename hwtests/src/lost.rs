//! How soon the survivors of a job know that one of its machines is lost. Runs on both machines, under
//! `scripts/soft-roce.sh pair`.
//!
//! Fault after fault a job of three nodes is started: two on machine 0, so that they are a majority, and one on machine
//! 1; by RDMA. Its ranks meet as fast as they can. Then machine 1 is lost at once, without a goodbye: its emulator is
//! stopped (and goes on later, so that the next fault finds it), or killed.
//!
//! Machine 0 cannot see that instant. But machine 1 sends it a datagram every other millisecond, with its own time in
//! it; the last that came tells when machine 1 was there still: by the least difference of the two clocks that any
//! datagram of this fault has shown. That is early by one transit and two milliseconds at most, and never late.
//!
//! After each fault both survivors must name the one rank, and what has come back must find itself excluded.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phalanx::cluster::environment::{Identity, LocalPlace};
use phalanx::cluster::rendezvous;
use phalanx::{BarrierError, FabricChoice, Job, JobOptions};

use crate::channel::Channel;
use crate::end::PATIENCE;
use crate::pair::{Place, meet};

/// Ranks, and nodes: one each.
const RANKS: usize = 3;
/// The one on machine 1.
const VICTIM: usize = 2;
const BEAT_PORT: u16 = 7001;
const BEAT_EVERY: Duration = Duration::from_millis(2);
/// How long a job has met before its machine is lost.
const SETTLED: Duration = Duration::from_millis(400);
/// Before the first word of a line of a rank's that is meant for this program.
const MARK: &str = "RANK ";

/// How a machine is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// It stands still, and goes on after the survivors have gone on without it.
    Pause,
    /// It is gone for good. There is one fault then.
    Kill,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub how: How,
    pub faults: usize,
    /// The failure time-out.
    pub timeout: Duration,
}

/// Plays this machine's part; `true` if every survivor had its error within the time-out and a half.
pub fn run(request: Request) -> bool {
    let place = Place::of_this_machine();
    let channel = meet(&place);
    match place.here {
        0 => survive(request, &place, channel),
        _ => {
            serve(request, &place, channel);
            true
        }
    }
}

/// A rank's whole life: it meets the others until that fails.
pub fn rank(timeout: Duration) {
    let options = JobOptions::new().fabric(FabricChoice::Rdma).failure_timeout(timeout);
    let job = Job::from_env_with(&options).expect("a job");
    let say = |text: &str| println!("{MARK}{} {text}", job.rank());
    job.world().barrier().expect("all are there");
    say("ready");
    let told = loop {
        match job.world().barrier() {
            Ok(()) => {}
            Err(BarrierError::RankFailed { ranks, causes, .. }) => break format!("lost {ranks:?} {causes:?}"),
            Err(BarrierError::Excluded { .. }) => break "excluded".to_owned(),
            Err(other) => break other.to_string(),
        }
    };
    say(&told);
    // The others may have an epoch to agree on still, and need this node's vote.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A rank's process, killed when dropped.
struct Rank {
    child: Child,
    said: Receiver<(Instant, String)>,
}

impl Rank {
    fn start(variables: &[(String, String)], timeout: Duration) -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(program);
        command.args(["rank", &timeout.as_millis().to_string()]).envs(variables.iter().cloned());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let (say, said) = channel();
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, text)) = line.strip_prefix(MARK).and_then(|line| line.split_once(' ')) {
                    let _ = say.send((Instant::now(), text.to_owned()));
                }
            }
        });
        Self { child, said }
    }

    fn next(&self) -> (Instant, String) {
        self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| (Instant::now(), "nothing".to_owned()))
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the datagrams of the other machine tell.
#[derive(Default)]
struct Beats {
    /// The least difference between this clock and the other's, in nanoseconds.
    offset: Option<i128>,
    /// The other's time in the last one.
    last: i128,
}

/// Takes the other machine's datagrams in, for good.
fn listen_for_beats(address: IpAddr, origin: Instant) -> Arc<Mutex<Beats>> {
    let socket = UdpSocket::bind((address, BEAT_PORT)).expect("a port");
    let beats = Arc::new(Mutex::new(Beats::default()));
    let shared = Arc::clone(&beats);
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        while let Ok(16) = socket.recv(&mut bytes) {
            let (now, sent) = (nanoseconds(origin.elapsed()), i128::from_le_bytes(bytes));
            let mut beats = shared.lock().unwrap_or_else(PoisonError::into_inner);
            beats.offset = Some(beats.offset.map_or(now - sent, |least| least.min(now - sent)));
            beats.last = sent;
        }
    });
    beats
}

fn nanoseconds(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).expect("years")
}

/// What machine 0 works with.
struct Survivor<'run> {
    request: Request,
    place: &'run Place,
    own: IpAddr,
    channel: Channel,
    /// Where its clock begins.
    origin: Instant,
    beats: Arc<Mutex<Beats>>,
}

fn survive(request: Request, place: &Place, channel: Channel) -> bool {
    let own: IpAddr = place.own.parse().expect("an address");
    let origin = Instant::now();
    let beats = listen_for_beats(own, origin);
    let mut survivor = Survivor { request, place, own, channel, origin, beats };
    let mut times: Vec<Duration> = (0..request.faults).map(|fault| survivor.suffer(fault)).collect();
    survivor.channel.send("");
    summarise(&mut times, request)
}

impl Survivor<'_> {
    /// One job, one fault: how long after it the last survivor had its error.
    fn suffer(&mut self, fault: usize) -> Duration {
        let listener = TcpListener::bind((self.own, 0)).expect("a port");
        let identity = Identity::served_at(listener.local_addr().expect("bound"), RANKS).expect("randomness");
        let _server = rendezvous::Server::start(listener, &identity.key, RANKS).expect("a rendezvous");
        self.channel.send(&line_of(&variables(&identity, VICTIM)));
        let start = |rank| Rank::start(&variables(&identity, rank), self.request.timeout);
        let ranks: Vec<Rank> = (0..VICTIM).map(start).collect();
        let ready: Vec<String> = ranks.iter().map(|rank| rank.next().1).collect();
        assert!(ready.iter().all(|said| said == "ready"), "fault {fault}: {ready:?}");
        assert_eq!(self.channel.receive(), "ready", "fault {fault}");
        self.beats().offset = None;
        // Not always at the same place of a heartbeat.
        std::thread::sleep(SETTLED + Duration::from_micros(fault as u64 * 7_919 % 40_000));
        self.place.wish(if self.request.how == How::Kill { "kill-1" } else { "pause-1" });
        let told: Vec<(Instant, String)> = ranks.iter().map(Rank::next).collect();
        let took = self.since_the_last_beat(told.iter().map(|(at, _)| *at).max().expect("survivors"));
        println!("fault {fault}: {took:.1?}, {}", told[0].1);
        let is_right = |(_, said): &(Instant, String)| said.starts_with(&format!("lost [{VICTIM}]"));
        assert!(told.iter().all(is_right), "fault {fault}: {told:?}");
        if self.request.how == How::Pause {
            self.place.wish("resume-1");
            assert_eq!(self.channel.receive(), "excluded", "fault {fault}: who comes back");
        }
        took
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since_the_last_beat(&self, at: Instant) -> Duration {
        let beats = self.beats();
        let last = beats.last + beats.offset.expect("datagrams have come");
        let took = nanoseconds(at.duration_since(self.origin)) - last;
        Duration::from_nanos(u64::try_from(took).unwrap_or(0))
    }
}

fn summarise(times: &mut [Duration], Request { how, timeout, .. }: Request) -> bool {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    let limit = timeout + timeout / 2;
    let late = times.iter().filter(|time| **time > limit).count();
    println!(
        "{} faults ({how:?}), time-out {timeout:?}: min {:.1?}, p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, max {:.1?}; {late} later than {limit:?}",
        times.len(),
        at(0),
        at(50),
        at(90),
        at(99),
        at(100)
    );
    late == 0
}

/// Starts the victim of each fault, until there are no more.
fn serve(request: Request, place: &Place, mut channel: Channel) {
    send_beats(&place.peer);
    loop {
        let line = channel.receive();
        if line.is_empty() {
            return;
        }
        let victim = Rank::start(&variables_of(&line), request.timeout);
        let (_, said) = victim.next();
        channel.send(&said);
        // Until it comes back, and finds that the others have gone on.
        let (_, said) = victim.next();
        channel.send(&said);
    }
}

/// Says again and again that this machine is there, for good.
fn send_beats(peer: &str) {
    let to: SocketAddr = (peer.parse::<IpAddr>().expect("an address"), BEAT_PORT).into();
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
    let origin = Instant::now();
    std::thread::spawn(move || {
        loop {
            let _ = socket.send_to(&nanoseconds(origin.elapsed()).to_le_bytes(), to);
            std::thread::sleep(BEAT_EVERY);
        }
    });
}

fn variables(identity: &Identity, rank: usize) -> Vec<(String, String)> {
    let place = LocalPlace { pretended_node: u32::try_from(rank).ok(), local_rank: 0, local_size: 1 };
    identity.variables_at(rank, place).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn line_of(variables: &[(String, String)]) -> String {
    variables.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn variables_of(line: &str) -> Vec<(String, String)> {
    let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
