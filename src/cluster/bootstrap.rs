//! Passing the segment's descriptor to the job's ranks, and to nobody else.
//!
//! Rank 0 (in a job across nodes: each node's first rank) makes the segment and serves an abstract UNIX socket from
//! a thread that sleeps; every other rank of the node connects, says who it is, and gets the descriptor (`SCM_RIGHTS`)
//! or a refusal with its reason. Both ends first ask the kernel for the other's user: a process of another user gets no
//! word. Then the job's key must match, so that a rank of another job of the same user is told so. The thread serves
//! until the job is dropped, so that a late duplicate gets an answer instead of a refused connection.
//!
//! Messages are whole packets of fixed size (`SOCK_SEQPACKET`), with their tables below. A peer that sends garbage is
//! answered once and dropped; one that sends nothing is dropped after a second and delays nobody meanwhile.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recv, recvmsg, sendmsg,
    socket_with, sockopt,
};

use super::environment::{Address, Identity};

const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"PHXhello");
const ANSWER_MAGIC: u64 = u64::from_le_bytes(*b"PHXanswr");
/// The version of the two messages.
const PROTOCOL_VERSION: u64 = 1;
const HELLO_BYTES: usize = 64;
const ANSWER_BYTES: usize = 32;
/// How long a peer may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// Peers that may be about to say hello at once; more wait in the socket's queue.
const PENDING_PEERS: usize = 64;

/// Why a rank could not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Nobody answers at the bootstrap address.
    #[error(
        "rank {rank}: nobody serves the bootstrap at {address} (waited {waited:?}; remedy: start rank 0 too, or raise PHALANX_BOOTSTRAP_TIMEOUT_MS if it starts slowly)"
    )]
    NobodyServes {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// The server answers, but not in time.
    #[error(
        "rank {rank}: the server of the bootstrap at {address} did not answer within {waited:?} (remedy: look whether rank 0 is stopped)"
    )]
    NoAnswer {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The server knows another key.
    #[error("rank {rank}: wrong key for the job at {address} (remedy: give all ranks the same PHALANX_KEY)")]
    WrongKey {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// Somebody has joined as this rank already.
    #[error(
        "rank {rank} of the job at {address} has been taken by another process (remedy: give each rank its own PHALANX_RANK)"
    )]
    DuplicateRank {
        /// The rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// The server's job has another number of ranks.
    #[error(
        "rank {rank}: the job at {address} has {found} ranks, PHALANX_SIZE says {expected} (remedy: give all ranks the same PHALANX_SIZE)"
    )]
    SizeMismatch {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// The server's size.
        found: u64,
        /// Ours.
        expected: usize,
    },
    /// The server speaks another version, or is no Phalanx.
    #[error(
        "rank {rank}: the server at {address} {what} (remedy: build all ranks' programs with the same version of phalanx)"
    )]
    Protocol {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// What it did.
        what: String,
    },
    /// The socket belongs to another user.
    #[error(
        "rank {rank}: the bootstrap at {address} is served by user {found}, not by {expected} (remedy: run all ranks as one user)"
    )]
    OtherUser {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// The server's user.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Not all ranks have joined in time.
    #[error(
        "rank {rank}: ranks {missing:?} have not joined the job within {waited:?} (remedy: look why they did not start, or raise PHALANX_BOOTSTRAP_TIMEOUT_MS)"
    )]
    RanksMissing {
        /// This rank.
        rank: usize,
        /// Those that have not.
        missing: Vec<usize>,
        /// How long it was waited.
        waited: Duration,
    },
    /// All ranks have joined, but rank 0 has not opened the job.
    #[error(
        "rank {rank}: all ranks have joined, but rank 0 has not opened the job within {waited:?} (remedy: look whether rank 0 is stopped)"
    )]
    NotOpened {
        /// This rank.
        rank: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// The kernel refused something.
    #[error("rank {rank}: cannot {step} the bootstrap at {address}: {source}")]
    System {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Welcome = 0,
    WrongKey = 1,
    DuplicateRank = 2,
    SizeMismatch = 3,
    OtherVersion = 4,
    Malformed = 5,
}

/// A rank's first and only message.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | magic "PHXhello" |
/// | 8–15 | protocol version |
/// | 16–23 | rank |
/// | 24–31 | size |
/// | 32–63 | key |
struct Hello {
    version: u64,
    rank: u64,
    size: u64,
    key: [u8; 32],
}

impl Hello {
    fn encode(identity: &Identity) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&HELLO_MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&(identity.rank as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&(identity.size as u64).to_le_bytes());
        bytes[32..].copy_from_slice(identity.key.bytes());
        bytes
    }

    /// Parses a packet of a peer that may be anything; `None` for what is no hello.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HELLO_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let key = bytes[32..].try_into().expect("thirty-two bytes");
        (number(0) == HELLO_MAGIC).then(|| Self { version: number(8), rank: number(16), size: number(24), key })
    }
}

/// The server's answer; with a welcome the segment's descriptor comes along.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | magic "PHXanswr" |
/// | 8–15 | verdict |
/// | 16–23 | job id |
/// | 24–31 | size of the job |
fn encode_answer(verdict: Verdict, job_id: u64, size: usize) -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    let words = [ANSWER_MAGIC, verdict as u64, job_id, size as u64];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Rank 0's service. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the descriptor `segment` of the job `job_id` at the identity's address.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::DuplicateRank`] when the address is in use: another rank 0 lives.
    pub fn start(identity: &Identity, job_id: u64, segment: OwnedFd) -> Result<Self, BootstrapError> {
        let failed = failed(identity);
        let listener = new_socket().map_err(failed("open a socket for"))?;
        let address = socket_address(identity).map_err(failed("name"))?;
        match bind(&listener, &address) {
            Err(Errno::ADDRINUSE) => return Err(duplicate(identity)),
            other => other.map_err(failed("bind"))?,
        }
        listen(&listener, i32::try_from(identity.size.max(16)).unwrap_or(i32::MAX)).map_err(failed("listen at"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("prepare"))?;
        let stop_of_service = stop.try_clone().map_err(|error| system(identity, "prepare", error))?;
        let mut admitted = vec![false; identity.size];
        admitted[identity.rank] = true;
        let service = Service {
            identity: identity.clone(),
            listener,
            stop: stop_of_service,
            segment,
            job_id,
            admitted,
            pending: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("phalanx-boot".to_owned())
            .spawn(move || service.run())
            .map_err(|error| system(identity, "start the thread of", error))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A full counter cannot be: it is written once.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server thread's state.
struct Service {
    identity: Identity,
    listener: OwnedFd,
    stop: OwnedFd,
    segment: OwnedFd,
    job_id: u64,
    admitted: Vec<bool>,
    /// Peers that have not said hello yet, and until when they may.
    pending: Vec<(OwnedFd, Instant)>,
}

impl Service {
    fn run(mut self) {
        loop {
            let Some(ready) = self.sleep() else { return };
            if ready.stop {
                return;
            }
            // From the back, so that removing one leaves the others' places.
            for index in ready.peers.into_iter().rev() {
                let (peer, _) = self.pending.swap_remove(index);
                self.answer(&peer);
            }
            let now = Instant::now();
            self.pending.retain(|(_, limit)| *limit > now);
            if ready.listener {
                self.accept();
            }
        }
    }

    /// Waits until there is something to do. `None` when the kernel says that waiting is impossible.
    fn sleep(&self) -> Option<Ready> {
        let mut watched = vec![PollFd::new(&self.stop, PollFlags::IN)];
        watched.extend(self.pending.iter().map(|(peer, _)| PollFd::new(peer, PollFlags::IN)));
        if self.pending.len() < PENDING_PEERS {
            watched.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let next_limit = self.pending.iter().map(|(_, limit)| *limit).min();
        let timeout = next_limit.map(|limit| {
            let left = limit.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).expect("a second fits")
        });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let happened: Vec<bool> = watched.iter().map(|entry| !entry.revents().is_empty()).collect();
        let peers = (0..self.pending.len()).filter(|index| happened[index + 1]).collect();
        let listener = happened.get(self.pending.len() + 1).copied().unwrap_or(false);
        Some(Ready { stop: happened[0], peers, listener })
    }

    fn accept(&mut self) {
        let Ok(peer) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            // Out of descriptors, say: the peer stays in the queue, and asking again at once would burn a CPU.
            std::thread::sleep(Duration::from_millis(10));
            return;
        };
        // A process of another user is dropped without a word.
        if sockopt::socket_peercred(&peer).is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
            self.pending.push((peer, Instant::now() + HELLO_LIMIT));
        }
    }

    fn answer(&mut self, peer: &OwnedFd) {
        let mut bytes = [0; HELLO_BYTES + 1];
        let Ok((received, _)) = recv(peer, &mut bytes[..], RecvFlags::DONTWAIT) else { return };
        let hello = Hello::parse(&bytes[..received]);
        let verdict = match &hello {
            Some(hello) => self.judge(hello),
            None => Verdict::Malformed,
        };
        let is_sent = self.send(peer, verdict);
        if let (Some(hello), Verdict::Welcome, true) = (hello, verdict, is_sent) {
            self.admitted[usize::try_from(hello.rank).expect("judged to be in range")] = true;
        }
    }

    fn judge(&self, hello: &Hello) -> Verdict {
        if hello.version != PROTOCOL_VERSION {
            return Verdict::OtherVersion;
        }
        if !self.identity.key.matches(&hello.key) {
            return Verdict::WrongKey;
        }
        if hello.size != self.identity.size as u64 {
            return Verdict::SizeMismatch;
        }
        match usize::try_from(hello.rank).ok().and_then(|rank| self.admitted.get(rank)) {
            None => Verdict::Malformed,
            Some(true) => Verdict::DuplicateRank,
            Some(false) => Verdict::Welcome,
        }
    }

    fn send(&self, peer: &OwnedFd, verdict: Verdict) -> bool {
        // A peer that has the wrong key learns nothing about the job.
        let knows_key = !matches!(verdict, Verdict::WrongKey | Verdict::Malformed | Verdict::OtherVersion);
        let (job_id, size) = if knows_key { (self.job_id, self.identity.size) } else { (0, 0) };
        let bytes = encode_answer(verdict, job_id, size);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.segment.as_fd()];
        if verdict == Verdict::Welcome {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(peer, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }
}

struct Ready {
    stop: bool,
    peers: Vec<usize>,
    listener: bool,
}

/// A rank's welcome.
#[derive(Debug)]
pub struct Welcome {
    /// The segment's descriptor.
    pub segment: OwnedFd,
    /// The job's random number.
    pub job_id: u64,
}

/// Joins as a rank other than 0: connects (and tries again until `limit`, because rank 0 may start later), says hello,
/// and takes the answer.
///
/// # Errors
///
/// [`BootstrapError`], one for each way to be refused.
pub fn join(identity: &Identity, limit: Duration) -> Result<Welcome, BootstrapError> {
    let start = Instant::now();
    let peer = connect_until(identity, start, limit)?;
    let failed = failed(identity);
    let server = sockopt::socket_peercred(&peer).map_err(failed("examine"))?;
    let own = rustix::process::geteuid();
    if server.uid != own {
        let (found, expected) = (server.uid.as_raw(), own.as_raw());
        let (rank, address) = (identity.rank, identity.bootstrap.to_string());
        return Err(BootstrapError::OtherUser { rank, address, found, expected });
    }
    rustix::net::send(&peer, &Hello::encode(identity), SendFlags::NOSIGNAL).map_err(failed("say hello to"))?;
    let left = limit.saturating_sub(start.elapsed()).max(Duration::from_millis(10));
    sockopt::set_socket_timeout(&peer, sockopt::Timeout::Recv, Some(left)).map_err(failed("prepare"))?;
    receive_answer(identity, &peer, start)
}

fn connect_until(identity: &Identity, start: Instant, limit: Duration) -> Result<OwnedFd, BootstrapError> {
    let failed = failed(identity);
    let address = socket_address(identity).map_err(failed("name"))?;
    let mut pause = Duration::from_micros(200);
    loop {
        let peer = new_socket().map_err(failed("open a socket for"))?;
        // Connecting waits while the server's queue is full: as long as a send would.
        let left = limit.saturating_sub(start.elapsed()).max(Duration::from_millis(10));
        sockopt::set_socket_timeout(&peer, sockopt::Timeout::Send, Some(left)).map_err(failed("prepare"))?;
        match connect(&peer, &address) {
            Ok(()) => return Ok(peer),
            // Not there yet, or its queue is full.
            Err(Errno::CONNREFUSED | Errno::NOENT | Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(failed("connect to")(error)),
        }
        let waited = start.elapsed();
        if waited >= limit {
            let (rank, address) = (identity.rank, identity.bootstrap.to_string());
            return Err(BootstrapError::NobodyServes { rank, address, waited });
        }
        std::thread::sleep(pause.min(limit - waited));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn receive_answer(identity: &Identity, peer: &OwnedFd, start: Instant) -> Result<Welcome, BootstrapError> {
    let mut bytes = [0; ANSWER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(peer, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let (rank, address) = (identity.rank, identity.bootstrap.to_string());
                return Err(BootstrapError::NoAnswer { rank, address, waited: start.elapsed() });
            }
            other => break other.map_err(failed(identity)("hear from"))?.bytes,
        }
    };
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if received != ANSWER_BYTES || number(0) != ANSWER_MAGIC {
        return Err(protocol(identity, format!("sent {received} bytes that are no answer of Phalanx")));
    }
    let (rank, address) = (identity.rank, identity.bootstrap.to_string());
    match (number(8), descriptor) {
        (0, Some(segment)) => Ok(Welcome { segment, job_id: number(16) }),
        (0, None) => Err(protocol(identity, "sent no segment with its welcome".to_owned())),
        (1, _) => Err(BootstrapError::WrongKey { rank, address }),
        (2, _) => Err(duplicate(identity)),
        (3, _) => Err(BootstrapError::SizeMismatch { rank, address, found: number(24), expected: identity.size }),
        (4, _) => Err(protocol(identity, "speaks another version of the protocol".to_owned())),
        (verdict, _) => Err(protocol(identity, format!("refused this rank with verdict {verdict}"))),
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn socket_address(identity: &Identity) -> Result<SocketAddrUnix, Errno> {
    match &identity.bootstrap {
        Address::Unix { name } => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        Address::Tcp { .. } => Err(Errno::AFNOSUPPORT),
    }
}

fn duplicate(identity: &Identity) -> BootstrapError {
    BootstrapError::DuplicateRank { rank: identity.rank, address: identity.bootstrap.to_string() }
}

fn protocol(identity: &Identity, what: String) -> BootstrapError {
    BootstrapError::Protocol { rank: identity.rank, address: identity.bootstrap.to_string(), what }
}

fn system(identity: &Identity, step: &'static str, source: std::io::Error) -> BootstrapError {
    BootstrapError::System { rank: identity.rank, address: identity.bootstrap.to_string(), step, source }
}

fn failed(identity: &Identity) -> impl Fn(&'static str) -> Box<dyn Fn(Errno) -> BootstrapError> {
    let identity = identity.clone();
    move |step| {
        let identity = identity.clone();
        Box::new(move |error| system(&identity, step, error.into()))
    }
}
