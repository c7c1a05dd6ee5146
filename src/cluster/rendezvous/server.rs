//! The thread that serves a rendezvous: sleeps in `poll` over all its sockets, none of which can block it.
//!
//! Strangers have five seconds to prove themselves, and there are 256 of them at most. When there are more, those that
//! have shown nothing yet make room, the oldest first, once they have had a fifth of a second: a crowd of silent
//! connections delays a rank by that much and no more. Ranks that come all at once wait in the socket's queue.
//!
//! Dropped, a server takes no more connections, and ends when the members have what was on its way to them, or after
//! two seconds.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::error::RendezvousError;
use super::peer::{Departed, Member, Progress, Said, Stranger};
use super::round::{Letter, Round};
use crate::cluster::address::Address;
use crate::handshake::{self, Claim, Expected, Key, Purpose, Refusal, RefusalLog, SERVICE, Verdict};

/// Connections that may be in the middle of the handshake.
const MOST_STRANGERS: usize = 256;
/// How long a stranger is safe from being put out for others.
const GRACE: Duration = Duration::from_millis(200);
/// Connections that wait to be accepted, if the system allows as many.
const BACKLOG: i32 = 4096;
/// How long accepting pauses when there are no descriptors: asking again at once would burn a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How long a server that is dropped goes on sending.
const LINGER: Duration = Duration::from_secs(2);

/// A rendezvous that is served. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the rendezvous of a job of `size` ranks. Rank 0 or a launcher does, and is not counted in for it: rank 0
    /// connects as the others do.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn start(listener: TcpListener, key: &Key, size: usize) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        // The standard library's queue is too short for a thousand ranks that come at once.
        rustix::net::listen(&listener, BACKLOG)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let service = Service {
            listener,
            stop: stop.try_clone()?,
            key: key.clone(),
            expected: Expected { purpose: Purpose::Rendezvous, size: size as u64, peer: SERVICE },
            strangers: Vec::new(),
            members: (0..size).map(|_| None).collect(),
            round: Round::new(size),
            accepts_from: None,
            log: RefusalLog::new(),
        };
        let thread = std::thread::Builder::new().name("phalanx-meet".to_owned()).spawn(move || service.run())?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Listens at the address that a job's ranks are given, for rank 0 to serve it.
///
/// # Errors
///
/// [`RendezvousError::System`]: the address is not this machine's, or is taken.
pub fn listen(address: &Address) -> Result<TcpListener, RendezvousError> {
    let failed = |source| RendezvousError::System { rank: 0, address: address.to_string(), step: "listen at", source };
    let resolved = address.resolve().map_err(failed)?;
    TcpListener::bind(&resolved[..]).map_err(failed)
}

struct Service {
    listener: TcpListener,
    stop: OwnedFd,
    key: Key,
    expected: Expected,
    strangers: Vec<Stranger>,
    /// By rank.
    members: Vec<Option<Member>>,
    round: Round,
    /// When accepting may go on.
    accepts_from: Option<Instant>,
    log: RefusalLog,
}

/// Whose socket is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Stop,
    Listener,
    Stranger(usize),
    Member(usize),
}

impl Service {
    fn run(mut self) {
        while let Some(ready) = self.sleep() {
            if ready.iter().any(|(socket, _)| *socket == Socket::Stop) {
                return self.linger();
            }
            for (socket, events) in &ready {
                if let Socket::Member(rank) = *socket {
                    self.attend_member(rank, *events);
                }
            }
            self.attend_strangers(&ready);
            self.expel_silent();
            if ready.iter().any(|(socket, _)| *socket == Socket::Listener) {
                self.accept();
            }
        }
    }

    /// Waits until there is something to do. `None` when the kernel says that waiting is impossible.
    fn sleep(&self) -> Option<Vec<(Socket, PollFlags)>> {
        let now = Instant::now();
        let mut sockets = vec![Socket::Stop];
        let mut watched = vec![PollFd::new(&self.stop, PollFlags::IN)];
        if self.may_accept_from(now).is_some_and(|from| from <= now) {
            sockets.push(Socket::Listener);
            watched.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for (index, stranger) in self.strangers.iter().enumerate() {
            sockets.push(Socket::Stranger(index));
            watched.push(PollFd::new(&stranger.stream, PollFlags::IN));
        }
        for (rank, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            let output = if member.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            sockets.push(Socket::Member(rank));
            watched.push(PollFd::new(&member.stream, PollFlags::IN | output));
        }
        match poll(&mut watched, self.timeout(now).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let happened = sockets.into_iter().zip(watched).map(|(socket, entry)| (socket, entry.revents()));
        Some(happened.filter(|(_, events)| !events.is_empty()).collect())
    }

    /// From when on a connection may be accepted: now, unless descriptors are short or there are too many strangers.
    /// `None` while all of those are ranks that have shown their tag.
    fn may_accept_from(&self, now: Instant) -> Option<Instant> {
        let pause = self.accepts_from.unwrap_or(now);
        if self.strangers.len() < MOST_STRANGERS {
            return Some(pause);
        }
        let oldest = self.expendable().map(|index| self.strangers[index].since + GRACE)?;
        Some(oldest.max(pause))
    }

    /// The oldest stranger that may be put out.
    fn expendable(&self) -> Option<usize> {
        let expendable = self.strangers.iter().enumerate().filter(|(_, stranger)| stranger.is_expendable());
        expendable.min_by_key(|(_, stranger)| stranger.since).map(|(index, _)| index)
    }

    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let limits = self.strangers.iter().map(|stranger| stranger.limit);
        let accepting = self.may_accept_from(now).filter(|from| *from > now);
        let next = limits.chain(accepting).min()?;
        let left = next.saturating_duration_since(now) + Duration::from_millis(1);
        Some(Timespec::try_from(left).expect("some seconds fit"))
    }

    fn accept(&mut self) {
        self.accepts_from = None;
        loop {
            if self.strangers.len() == MOST_STRANGERS && !self.make_room() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, address)) => {
                    let handshake = handshake::Server::new(&self.key, self.expected).ok();
                    self.strangers.extend(handshake.and_then(|handshake| Stranger::new(stream, address, handshake)));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // It has gone before it was accepted.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.accepts_from = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Puts the oldest expendable stranger out, if it has had its grace.
    fn make_room(&mut self) -> bool {
        let Some(index) = self.expendable() else { return false };
        if self.strangers[index].since.elapsed() < GRACE {
            return false;
        }
        let mut stranger = self.strangers.swap_remove(index);
        if stranger.is_silent() {
            self.log.report(stranger.address, Verdict::TooBusy);
            stranger.refuse(Verdict::TooBusy);
        }
        true
    }

    fn attend_strangers(&mut self, ready: &[(Socket, PollFlags)]) {
        // From the back, so that removing one leaves the places of those before it.
        for (socket, _) in ready.iter().rev() {
            let Socket::Stranger(index) = *socket else { continue };
            let address = self.strangers[index].address;
            match self.strangers[index].handle_readable() {
                Progress::Waiting => {}
                Progress::Over => drop(self.strangers.swap_remove(index)),
                Progress::WentAway => {
                    self.strangers.swap_remove(index);
                    self.log.report(address, Refusal::WentAway);
                }
                Progress::Refused(verdict) => self.log.report(address, verdict),
                Progress::Proved(claim) => self.admit(index, claim),
            }
        }
    }

    fn admit(&mut self, index: usize, claim: Claim) {
        let rank = usize::try_from(claim.rank).expect("the handshake has compared it with the size");
        if self.members[rank].is_some() || self.round.has_left(rank) {
            self.log.report(self.strangers[index].address, Verdict::DuplicateRank);
            self.strangers[index].refuse(Verdict::DuplicateRank);
            return;
        }
        self.members[rank] = self.strangers.swap_remove(index).welcome();
    }

    fn expel_silent(&mut self) {
        let now = Instant::now();
        let log = &mut self.log;
        self.strangers.retain(|stranger| {
            let stays = stranger.limit > now;
            if !stays && stranger.is_silent() {
                log.report(stranger.address, Refusal::Silent);
            }
            stays
        });
    }

    fn attend_member(&mut self, rank: usize, events: PollFlags) {
        // It may have gone since `poll` has looked: a letter could not be sent.
        let Some(member) = &mut self.members[rank] else { return };
        let mut said = Vec::new();
        let mut result = if events.contains(PollFlags::OUT) { member.flush() } else { Ok(()) };
        if result.is_ok() && events != PollFlags::OUT {
            result = member.handle_readable(&mut said);
        }
        // What it has said before it left counts.
        for said in said {
            let letters = match said {
                Said::Blob(round, blob) => self.round.handle_blob(rank, round, blob),
                Said::WhoIsMissing(round) => self.round.handle_question(rank, round).map(Vec::from_iter),
            };
            match letters {
                Ok(letters) => self.deliver(letters),
                Err(_) => result = Err(Departed::Broke),
            }
        }
        if let Err(departed) = result {
            self.part_with(rank, departed);
        }
    }

    fn deliver(&mut self, letters: Vec<Letter>) {
        for Letter { to, frame } in letters {
            let Some(Err(departed)) = self.members[to].as_mut().map(|member| member.send(frame)) else { continue };
            self.part_with(to, departed);
        }
    }

    /// Forgets a member, and tells those that wait for it. (Who cannot be told departs in its turn, which ends: there
    /// is one member fewer each time.)
    fn part_with(&mut self, rank: usize, departed: Departed) {
        let Some(member) = self.members[rank].take() else { return };
        if departed == Departed::Broke {
            self.log.report(member.address, Refusal::BrokeProtocol);
        }
        let letters = self.round.handle_departure(rank);
        self.deliver(letters);
    }

    /// Sends what is on its way, so that whoever serves may end when it has its own table.
    fn linger(mut self) {
        let limit = Instant::now() + LINGER;
        self.strangers.clear();
        drop(self.listener);
        let mut members: Vec<Member> = self.members.into_iter().flatten().collect();
        loop {
            members.retain_mut(|member| member.flush().is_ok() && member.has_output());
            let left = limit.saturating_duration_since(Instant::now());
            if members.is_empty() || left.is_zero() {
                return;
            }
            let mut watched: Vec<_> =
                members.iter().map(|member| PollFd::new(&member.stream, PollFlags::OUT)).collect();
            let timeout = Timespec::try_from(left).expect("some seconds fit");
            let _ = poll(&mut watched, Some(&timeout));
        }
    }
}
