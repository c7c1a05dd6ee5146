//! A rank's part in a rendezvous: connects, and goes through round after round. Every call ends within its limit, and a
//! second more in which the server may say who is missing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::error::RendezvousError;
use super::message::{HEAD_BYTES, Head, Kind, MOST_BLOB_BYTES, frame, most_table_bytes, parse_ranks, parse_table};
use crate::cluster::address::Address;
use crate::handshake::{self, Claim, HandshakeError, Key, Purpose, SERVICE, Verdict};

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one of several addresses of a name may take before the next is tried.
const ADDRESS_LIMIT: Duration = Duration::from_secs(2);
/// How long the server may take to say who is missing.
const QUESTION_LIMIT: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 << 10;

/// A rank's connection to the rendezvous.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    rank: usize,
    size: usize,
    address: String,
    /// The last round that was begun.
    round: u64,
    /// What has come and is no whole frame yet.
    input: Vec<u8>,
    /// A round has failed, so that client and server may be at different ones.
    has_failed: bool,
}

/// An attempt to connect has failed.
enum Attempt {
    /// Trying again makes sense: the server may start later, or be busy.
    Again(RendezvousError),
    /// It does not.
    Never(RendezvousError),
}

impl Client {
    /// Connects as `rank` of `size` ranks, trying again until `limit`, because the server may start later.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`], one for each way to be refused.
    pub fn connect(
        rank: usize,
        size: usize,
        address: &Address,
        key: &Key,
        limit: Duration,
    ) -> Result<Self, RendezvousError> {
        let caller = Caller { rank, size, address: address.to_string(), begun: Instant::now(), limit };
        let mut pause = Duration::from_millis(1);
        loop {
            let error = match caller.attempt(address, key) {
                Ok(client) => return Ok(client),
                Err(Attempt::Never(error)) => return Err(error),
                Err(Attempt::Again(error)) => error,
            };
            let waited = caller.begun.elapsed();
            if waited >= limit {
                return Err(error);
            }
            std::thread::sleep(pause.min(limit - waited));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Brings `blob` to the next round and returns what all ranks have brought, in the order of ranks, once all have.
    /// Ranks that wait for one another call this equally often.
    ///
    /// # Errors
    ///
    /// [`RendezvousError::RanksMissing`] when `limit` is over, [`RendezvousError::RanksGone`] as soon as a rank has
    /// left that is needed, others when the server has ended. After an error this client is of no more use.
    pub fn allgather(&mut self, blob: &[u8], limit: Duration) -> Result<Vec<Vec<u8>>, RendezvousError> {
        let begun = Instant::now();
        let (rank, address) = (self.rank, self.address.clone());
        if self.has_failed {
            return Err(RendezvousError::Failed { rank, address });
        }
        if blob.len() > MOST_BLOB_BYTES {
            return Err(RendezvousError::BlobTooLarge { rank, bytes: blob.len(), most: MOST_BLOB_BYTES });
        }
        self.round += 1;
        let result = self.go_through_round(blob, begun, limit);
        self.has_failed = result.is_err();
        result
    }

    fn go_through_round(
        &mut self,
        blob: &[u8],
        begun: Instant,
        limit: Duration,
    ) -> Result<Vec<Vec<u8>>, RendezvousError> {
        self.send(Kind::Blob, blob, begun + limit)?;
        if let Some((kind, frame)) = self.next_frame(begun + limit)? {
            return self.interpret(kind, &frame[HEAD_BYTES..], begun);
        }
        let last_word = Instant::now() + QUESTION_LIMIT;
        self.send(Kind::WhoIsMissing, &[], last_word)?;
        match self.next_frame(last_word)? {
            Some((kind, frame)) => self.interpret(kind, &frame[HEAD_BYTES..], begun),
            None => Err(self.no_answer(begun)),
        }
    }

    /// Makes an answer of what ends a round.
    fn interpret(&self, kind: Kind, payload: &[u8], begun: Instant) -> Result<Vec<Vec<u8>>, RendezvousError> {
        let (rank, round, waited) = (self.rank, self.round, begun.elapsed());
        if kind == Kind::Table {
            return parse_table(payload, self.size).ok_or_else(|| self.protocol("sent a table that is none"));
        }
        let ranks = parse_ranks(payload, self.size).filter(|ranks| !ranks.is_empty());
        Err(match (kind, ranks) {
            (Kind::Missing, Some(missing)) => RendezvousError::RanksMissing { rank, round, missing, waited },
            (Kind::Gone, Some(gone)) => RendezvousError::RanksGone { rank, round, gone },
            _ => self.protocol("sent no answer to a round"),
        })
    }

    fn send(&mut self, kind: Kind, payload: &[u8], deadline: Instant) -> Result<(), RendezvousError> {
        let begun = Instant::now();
        self.stream.set_write_timeout(Some(left_until(deadline))).map_err(|error| self.system("prepare", error))?;
        let sent = self.stream.write_all(&frame(kind, self.round, payload));
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.no_answer(begun),
            _ => self.lost("send to", error),
        })
    }

    /// The next frame, with its head, which must be this round's; `None` at the deadline. What has come of it by then
    /// is kept.
    fn next_frame(&mut self, deadline: Instant) -> Result<Option<(Kind, Vec<u8>)>, RendezvousError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.system("prepare", error))?;
            let end = self.input.len();
            self.input.resize(end + CHUNK_BYTES, 0);
            let result = self.stream.read(&mut self.input[end..]);
            self.input.truncate(end + result.as_ref().map_or(0, |received| *received));
            match result {
                Ok(0) => return Err(self.lost("hear from", ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(self.lost("hear from", error)),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(Kind, Vec<u8>)>, RendezvousError> {
        let Some(head) = self.input.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let head = Head::parse(head).filter(|head| {
            let is_answer = matches!(head.kind, Kind::Table | Kind::Missing | Kind::Gone);
            is_answer && head.round == self.round && head.length <= most_table_bytes(self.size)
        });
        let Some(head) = head else { return Err(self.protocol("sent a frame that fits no round")) };
        if self.input.len() < HEAD_BYTES + head.length {
            return Ok(None);
        }
        // Tables can be large: they are not copied.
        let rest = self.input.split_off(HEAD_BYTES + head.length);
        Ok(Some((head.kind, std::mem::replace(&mut self.input, rest))))
    }

    fn no_answer(&self, begun: Instant) -> RendezvousError {
        RendezvousError::NoAnswer { rank: self.rank, address: self.address.clone(), waited: begun.elapsed() }
    }

    fn protocol(&self, what: &str) -> RendezvousError {
        RendezvousError::Protocol { rank: self.rank, address: self.address.clone(), what: what.to_owned() }
    }

    fn lost(&self, step: &'static str, error: std::io::Error) -> RendezvousError {
        if is_closing(&error) {
            return RendezvousError::ServerLost { rank: self.rank, address: self.address.clone() };
        }
        self.system(step, error)
    }

    fn system(&self, step: &'static str, source: std::io::Error) -> RendezvousError {
        RendezvousError::System { rank: self.rank, address: self.address.clone(), step, source }
    }
}

/// Who wants to connect, where, and until when.
struct Caller {
    rank: usize,
    size: usize,
    address: String,
    begun: Instant,
    limit: Duration,
}

impl Caller {
    fn attempt(&self, address: &Address, key: &Key) -> Result<Client, Attempt> {
        let resolved = address.resolve().map_err(|error| self.nobody(&error))?;
        let mut last = self.nobody(&ErrorKind::AddrNotAvailable.into());
        for socket in &resolved {
            // The last address may take all the time that is left.
            let most = if resolved.len() == 1 { self.limit } else { ADDRESS_LIMIT };
            match connect(*socket, left_until(self.begun + self.limit).min(most)) {
                Ok(stream) => return self.prove(stream, key),
                Err(error) => last = self.nobody(&error),
            }
        }
        Err(last)
    }

    fn prove(&self, stream: TcpStream, key: &Key) -> Result<Client, Attempt> {
        let system = |step| move |source| Attempt::Never(self.system(step, source));
        // Rounds are short messages, one at a time.
        stream.set_nodelay(true).map_err(system("prepare"))?;
        let (rank, size) = (self.rank as u64, self.size as u64);
        let claim = Claim { purpose: Purpose::Rendezvous, rank, size, peer: SERVICE };
        let mut proof = handshake::Client::new(key, &claim).map_err(system("find random numbers for"))?;
        let deadline = Instant::now() + left_until(self.begun + self.limit);
        handshake::prove(&stream, &mut proof, deadline).map_err(|error| self.refused(error))?;
        let (address, input) = (self.address.clone(), Vec::new());
        Ok(Client { stream, rank: self.rank, size: self.size, address, round: 0, input, has_failed: false })
    }

    fn refused(&self, error: HandshakeError) -> Attempt {
        let (rank, address) = (self.rank, self.address.clone());
        let what = match error {
            HandshakeError::TimedOut => {
                let waited = self.begun.elapsed();
                return Attempt::Again(RendezvousError::NoAnswer { rank, address, waited });
            }
            // Also after the proof: a server that closes has forgotten a rank that has brought nothing yet.
            HandshakeError::Closed => return self.nobody(&ErrorKind::ConnectionReset.into()),
            HandshakeError::System(source) => return Attempt::Never(self.system("prove this rank to", source)),
            HandshakeError::Refused { verdict: Verdict::TooBusy, .. } => {
                let what = "has too many connections at once".to_owned();
                return Attempt::Again(RendezvousError::Protocol { rank, address, what });
            }
            HandshakeError::Refused { verdict: Verdict::WrongKey | Verdict::OtherJob, .. } => {
                return Attempt::Never(RendezvousError::WrongKey { rank, address });
            }
            HandshakeError::Refused { verdict: Verdict::DuplicateRank, .. } => {
                return Attempt::Never(RendezvousError::DuplicateRank { rank, address });
            }
            HandshakeError::Refused { verdict: Verdict::WrongSize, size: Some(found) } => {
                let expected = self.size;
                return Attempt::Never(RendezvousError::SizeMismatch { rank, address, found, expected });
            }
            HandshakeError::Refused { verdict, .. } => format!("refused this rank: {verdict}"),
            HandshakeError::NotPhalanx { sent } => format!("is no Phalanx: it sent {}", sent.escape_ascii()),
            HandshakeError::OtherVersion { found } => {
                format!("speaks version {found} of the protocol, not {}", handshake::VERSION)
            }
            HandshakeError::Unproven => "cannot prove that it knows the job's key".to_owned(),
        };
        Attempt::Never(RendezvousError::Protocol { rank, address, what })
    }

    fn nobody(&self, error: &std::io::Error) -> Attempt {
        let (rank, address, waited) = (self.rank, self.address.clone(), self.begun.elapsed());
        Attempt::Again(RendezvousError::NobodyServes { rank, address, waited, last: error.to_string() })
    }

    fn system(&self, step: &'static str, source: std::io::Error) -> RendezvousError {
        RendezvousError::System { rank: self.rank, address: self.address.clone(), step, source }
    }
}

fn connect(address: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    // Where nobody listens at one of the ports from which connections are made, the kernel can join a connection to
    // itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// At least a moment: the kernel takes no time for no limit.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn is_closing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
