//! How every TCP connection of a job begins: both ends prove that they know the job's key, and neither says it.
//!
//! ```text
//!  client                                               server
//!    hello: who I claim to be, job tag, nonce   ──▶      refuses: no Phalanx, other version, other job, too busy
//!    checks the server's MAC                    ◀──      challenge: nonce, MAC("server", hello, challenge)
//!    proof: MAC("client", hello, challenge)     ──▶      checks the client's MAC, then what it claims
//!                                               ◀──      verdict: welcome or why not, MAC("verdict", all of it)
//! ```
//!
//! A MAC is HMAC-SHA256 under the job's key over a label of its role and every byte said so far. Both nonces are fresh,
//! so nothing recorded can be played again; the labels differ, so nothing can be reflected; every claim is under the
//! MACs, so nothing can be changed on the way. Messages have fixed sizes, and the first 24 bytes of a hello and of a
//! challenge mean the same in all versions. Who does not know the key learns that Phalanx is there and whether a job
//! tag is this job's, which tells nothing about the key. What follows on the connection is neither encrypted nor
//! authenticated: the key keeps strangers and other jobs out, not somebody who can change packets on the way.
//!
//! [`Client`] and [`Server`] are machines: bytes go in (`handle_bytes`) and come out (`poll_output`), and nothing in
//! them knows a socket or a clock. Whoever owns the socket owns the deadline too. [`prove`] is for clients that may
//! block. `key` is the secret and its MACs, `verdict` what a server can decide, `refusal_log` what is said of those
//! refused.

mod key;
mod refusal_log;
#[cfg(test)]
mod tests;
mod verdict;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use key::{CLIENT_LABEL, SERVER_LABEL, VERDICT_LABEL};
pub use key::{Key, random_bytes};
pub use refusal_log::{Refusal, RefusalLog};
pub use verdict::{HandshakeError, Verdict};

/// The version of the four messages.
pub const VERSION: u64 = 2;
/// The size of a hello in bytes.
pub const HELLO_BYTES: usize = 96;
/// The size of a challenge in bytes.
pub const CHALLENGE_BYTES: usize = 88;
/// The size of a proof in bytes.
pub const PROOF_BYTES: usize = 40;
/// The size of a verdict in bytes.
pub const VERDICT_BYTES: usize = 56;
/// Named as [`Claim::peer`] by who means a service and no rank.
pub const SERVICE: u64 = u64::MAX;

const HELLO_MAGIC: [u8; 8] = *b"PHX-hail";
const CHALLENGE_MAGIC: [u8; 8] = *b"PHX-chal";
const PROOF_MAGIC: [u8; 8] = *b"PHX-prov";
const VERDICT_MAGIC: [u8; 8] = *b"PHX-verd";
/// Magic, version, and (in a challenge) the verdict: what all versions have in common.
const HEAD_BYTES: usize = 24;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Meeting the job's other ranks.
    Rendezvous = 1,
    /// Words of a node, for a rank that speaks for itself only.
    Fabric = 2,
    /// Two nodes' traffic: the client is its node's agent. Whoever serves [`Fabric`](Self::Fabric) serves it, too.
    Agent = 3,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Rendezvous, Self::Fabric, Self::Agent];

    /// Whether a server of this purpose is what a client of that one looks for.
    fn serves(self, wanted: Self) -> bool {
        self == wanted || (self, wanted) == (Self::Fabric, Self::Agent)
    }
}

/// Who a client says that it is, and whom it means to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The client's rank.
    pub rank: u64,
    /// The job's ranks.
    pub size: u64,
    /// The rank that it means to reach, or [`SERVICE`].
    pub peer: u64,
}

/// What a server is, which a client's claim must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What connections are for here.
    pub purpose: Purpose,
    /// The job's ranks.
    pub size: u64,
    /// The rank that serves, or [`SERVICE`].
    pub peer: u64,
}

/// Whoever connects.
///
/// Bytes in by `handle_bytes`, bytes out by `poll_output`; `is_welcome` says when both are through.
#[derive(Debug)]
pub struct Client {
    key: Key,
    hello: [u8; HELLO_BYTES],
    /// Challenge and proof, once they are there.
    answered: Option<([u8; CHALLENGE_BYTES], [u8; PROOF_BYTES])>,
    received: Vec<u8>,
    output: Vec<u8>,
    is_welcome: bool,
}

impl Client {
    /// Begins, with a hello to send.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn new(key: &Key, claim: &Claim) -> std::io::Result<Self> {
        let hello = encode_hello(key, claim, &random_bytes()?);
        Ok(Self {
            key: key.clone(),
            hello,
            answered: None,
            received: Vec::new(),
            output: hello.to_vec(),
            is_welcome: false,
        })
    }

    /// How many bytes to read at most: what comes after them is not the handshake's.
    pub fn wanted(&self) -> usize {
        let message = if self.answered.is_none() { CHALLENGE_BYTES } else { VERDICT_BYTES };
        if self.is_welcome { 0 } else { message - self.received.len() }
    }

    /// Takes bytes from the server and returns how many of them were the handshake's.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]: the connection is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<usize, HandshakeError> {
        let mut taken = 0;
        // At most twice: a challenge, and a verdict right behind it.
        while taken < bytes.len() && self.wanted() > 0 {
            let part = &bytes[taken..bytes.len().min(taken + self.wanted())];
            self.received.extend_from_slice(part);
            taken += part.len();
            match self.answered {
                None => self.handle_challenge()?,
                Some((challenge, proof)) => self.handle_verdict(&challenge, &proof)?,
            }
        }
        Ok(taken)
    }

    /// Bytes to send, once each.
    pub fn poll_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the server has proved itself, and let this client in.
    pub fn is_welcome(&self) -> bool {
        self.is_welcome
    }

    /// Whether the proof has been made: from here on the server may have let this client in without its knowing.
    pub fn has_proved(&self) -> bool {
        self.answered.is_some()
    }

    fn handle_challenge(&mut self) -> Result<(), HandshakeError> {
        let bytes = &self.received;
        if !begins_with(bytes, CHALLENGE_MAGIC) {
            return Err(HandshakeError::NotPhalanx { sent: bytes[..bytes.len().min(8)].to_vec() });
        }
        if bytes.len() < HEAD_BYTES {
            return Ok(());
        }
        let (version, verdict) = (number(bytes, 8), Verdict::from_code(number(bytes, 16)));
        if version != VERSION {
            return Err(HandshakeError::OtherVersion { found: version });
        }
        if verdict != Some(Verdict::Welcome) {
            return Err(refused(verdict, None));
        }
        let Ok(challenge) = <[u8; CHALLENGE_BYTES]>::try_from(&bytes[..]) else { return Ok(()) };
        let (said, seal) = challenge.split_at(CHALLENGE_BYTES - 32);
        if !self.key.has_sealed(SERVER_LABEL, &[&self.hello, said], seal) {
            return Err(HandshakeError::Unproven);
        }
        let mut proof = [0; PROOF_BYTES];
        proof[..8].copy_from_slice(&PROOF_MAGIC);
        proof[8..].copy_from_slice(&self.key.seal(CLIENT_LABEL, &[&self.hello, &challenge]));
        self.output.extend_from_slice(&proof);
        self.answered = Some((challenge, proof));
        self.received.clear();
        Ok(())
    }

    fn handle_verdict(
        &mut self,
        challenge: &[u8; CHALLENGE_BYTES],
        proof: &[u8; PROOF_BYTES],
    ) -> Result<(), HandshakeError> {
        let bytes = &self.received;
        if !begins_with(bytes, VERDICT_MAGIC) {
            return Err(HandshakeError::NotPhalanx { sent: bytes[..bytes.len().min(8)].to_vec() });
        }
        if bytes.len() < VERDICT_BYTES {
            return Ok(());
        }
        let (said, seal) = bytes.split_at(VERDICT_BYTES - 32);
        if !self.key.has_sealed(VERDICT_LABEL, &[&self.hello, challenge, proof, said], seal) {
            return Err(HandshakeError::Unproven);
        }
        match Verdict::from_code(number(said, 8)) {
            Some(Verdict::Welcome) => self.is_welcome = true,
            verdict => return Err(refused(verdict, Some(number(said, 16)))),
        }
        Ok(())
    }
}

/// A verdict of a later version that this one does not know is a refusal all the same.
fn refused(verdict: Option<Verdict>, size: Option<u64>) -> HandshakeError {
    HandshakeError::Refused { verdict: verdict.unwrap_or(Verdict::Malformed), size }
}

/// What a server's owner has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send what is to be sent, and read on.
    Continue,
    /// The client has proved this claim, which fits the server. Now call [`Server::decide`].
    Proved(Claim),
    /// Send what is to be sent, and close.
    Refused(Verdict),
}

/// Whoever is connected to.
///
/// Bytes in by `handle_bytes`, bytes out by `poll_output`; once a claim is proved the owner decides.
#[derive(Debug)]
pub struct Server {
    key: Key,
    expected: Expected,
    nonce: [u8; 32],
    received: Vec<u8>,
    output: Vec<u8>,
    stage: Stage,
}

/// How far a client has come.
#[derive(Debug)]
enum Stage {
    Hello,
    Proof(Exchange),
    Proved(Exchange, [u8; PROOF_BYTES]),
    Over,
}

/// Hello and challenge.
#[derive(Clone, Debug)]
struct Exchange {
    hello: [u8; HELLO_BYTES],
    challenge: [u8; CHALLENGE_BYTES],
}

impl Server {
    /// Waits for a hello.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn new(key: &Key, expected: Expected) -> std::io::Result<Self> {
        Ok(Self {
            key: key.clone(),
            expected,
            nonce: random_bytes()?,
            received: Vec::new(),
            output: Vec::new(),
            stage: Stage::Hello,
        })
    }

    /// How many bytes to read at most: what comes after them is not the handshake's.
    pub fn wanted(&self) -> usize {
        match self.stage {
            Stage::Hello => HELLO_BYTES - self.received.len(),
            Stage::Proof(_) => PROOF_BYTES - self.received.len(),
            Stage::Proved(..) | Stage::Over => 0,
        }
    }

    /// Whether the client has shown this job's tag, and so is likely no stranger.
    pub fn has_heard_hello(&self) -> bool {
        matches!(self.stage, Stage::Proof(_) | Stage::Proved(..))
    }

    /// Whether the client has begun a hello and not finished it.
    pub fn is_in_hello(&self) -> bool {
        matches!(self.stage, Stage::Hello) && !self.received.is_empty()
    }

    /// Bytes to send, once each.
    pub fn poll_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the client. Returns how many of them were the handshake's, and what is to be done.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> (usize, Event) {
        let mut taken = 0;
        let mut event = Event::Continue;
        // At most twice: a hello, and a proof right behind it (which cannot be right, but is looked at).
        while event == Event::Continue && taken < bytes.len() && self.wanted() > 0 {
            let part = &bytes[taken..bytes.len().min(taken + self.wanted())];
            self.received.extend_from_slice(part);
            taken += part.len();
            event = match &self.stage {
                Stage::Hello => self.handle_hello(),
                Stage::Proof(exchange) => self.handle_proof(exchange.clone()),
                Stage::Proved(..) | Stage::Over => Event::Continue,
            };
        }
        (taken, event)
    }

    fn handle_hello(&mut self) -> Event {
        let bytes = &self.received;
        if !begins_with(bytes, HELLO_MAGIC) {
            return self.refuse(Verdict::Malformed);
        }
        if bytes.len() >= 16 && number(bytes, 8) != VERSION {
            return self.refuse(Verdict::OtherVersion);
        }
        let Ok(hello) = <[u8; HELLO_BYTES]>::try_from(&bytes[..]) else { return Event::Continue };
        if hello[48..64] != self.key.tag() {
            return self.refuse(Verdict::OtherJob);
        }
        let mut challenge = challenge_head(Verdict::Welcome);
        challenge[24..56].copy_from_slice(&self.nonce);
        let seal = self.key.seal(SERVER_LABEL, &[&hello, &challenge[..56]]);
        challenge[56..].copy_from_slice(&seal);
        self.output.extend_from_slice(&challenge);
        self.received.clear();
        self.stage = Stage::Proof(Exchange { hello, challenge });
        Event::Continue
    }

    fn handle_proof(&mut self, exchange: Exchange) -> Event {
        if !begins_with(&self.received, PROOF_MAGIC) {
            return self.refuse(Verdict::Malformed);
        }
        let Ok(proof) = <[u8; PROOF_BYTES]>::try_from(&self.received[..]) else { return Event::Continue };
        if !self.key.has_sealed(CLIENT_LABEL, &[&exchange.hello, &exchange.challenge], &proof[8..]) {
            return self.refuse(Verdict::WrongKey);
        }
        let claim = parse_claim(&exchange.hello);
        self.stage = Stage::Proved(exchange, proof);
        match claim.ok_or(Verdict::Malformed).and_then(|claim| self.judge(claim)) {
            Ok(claim) => Event::Proved(claim),
            Err(verdict) => self.refuse(verdict),
        }
    }

    fn judge(&self, claim: Claim) -> Result<Claim, Verdict> {
        let Expected { purpose, size, peer } = self.expected;
        match claim {
            _ if !purpose.serves(claim.purpose) || claim.peer != peer => Err(Verdict::WrongPeer),
            _ if claim.size != size => Err(Verdict::WrongSize),
            _ if claim.rank >= size => Err(Verdict::Malformed),
            _ => Ok(claim),
        }
    }

    /// Tells the client whether it is let in, when it has proved its claim; or turns it away, at any time before.
    pub fn decide(&mut self, verdict: Verdict) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Hello => self.output.extend_from_slice(&challenge_head(verdict)),
            // Who has not proved itself is told no size.
            Stage::Proof(exchange) => self.push_verdict(verdict, 0, &exchange, &[0; PROOF_BYTES]),
            Stage::Proved(exchange, proof) => self.push_verdict(verdict, self.expected.size, &exchange, &proof),
            Stage::Over => {}
        }
    }

    fn refuse(&mut self, verdict: Verdict) -> Event {
        self.decide(verdict);
        Event::Refused(verdict)
    }

    fn push_verdict(&mut self, verdict: Verdict, size: u64, exchange: &Exchange, proof: &[u8; PROOF_BYTES]) {
        let said = [VERDICT_MAGIC, (verdict as u64).to_le_bytes(), size.to_le_bytes()].concat();
        let seal = self.key.seal(VERDICT_LABEL, &[&exchange.hello, &exchange.challenge, proof, &said]);
        self.output.extend_from_slice(&said);
        self.output.extend_from_slice(&seal);
    }
}

/// A client's first message.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | magic "PHX-hail" |
/// | 8–15 | version |
/// | 16–23 | purpose: 1 rendezvous, 2 fabric, 3 agent |
/// | 24–31 | rank |
/// | 32–39 | size |
/// | 40–47 | the rank that is meant, or all ones |
/// | 48–63 | job tag: the beginning of a MAC over a label |
/// | 64–95 | nonce |
fn encode_hello(key: &Key, claim: &Claim, nonce: &[u8; 32]) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..8].copy_from_slice(&HELLO_MAGIC);
    let numbers = [VERSION, claim.purpose as u64, claim.rank, claim.size, claim.peer];
    for (chunk, number) in bytes[8..48].chunks_exact_mut(8).zip(numbers) {
        chunk.copy_from_slice(&number.to_le_bytes());
    }
    bytes[48..64].copy_from_slice(&key.tag());
    bytes[64..].copy_from_slice(nonce);
    bytes
}

fn parse_claim(hello: &[u8; HELLO_BYTES]) -> Option<Claim> {
    let purpose = Purpose::ALL.into_iter().find(|purpose| *purpose as u64 == number(hello, 16))?;
    Some(Claim { purpose, rank: number(hello, 24), size: number(hello, 32), peer: number(hello, 40) })
}

/// The server's answer to a hello; with a refusal nonce and MAC are zero.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | magic "PHX-chal" |
/// | 8–15 | version |
/// | 16–23 | verdict so far |
/// | 24–55 | nonce |
/// | 56–87 | MAC of hello and bytes 0–55 |
///
/// The other two messages:
///
/// | bytes of a proof | field |
/// | --- | --- |
/// | 0–7 | magic "PHX-prov" |
/// | 8–39 | MAC of hello and challenge |
///
/// | bytes of a verdict | field |
/// | --- | --- |
/// | 0–7 | magic "PHX-verd" |
/// | 8–15 | verdict |
/// | 16–23 | the job's size |
/// | 24–55 | MAC of hello, challenge, proof and bytes 0–23 |
fn challenge_head(verdict: Verdict) -> [u8; CHALLENGE_BYTES] {
    let mut bytes = [0; CHALLENGE_BYTES];
    bytes[..8].copy_from_slice(&CHALLENGE_MAGIC);
    bytes[8..16].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&(verdict as u64).to_le_bytes());
    bytes
}

/// Whether `bytes` are the magic, or the beginning of it.
fn begins_with(bytes: &[u8], magic: [u8; 8]) -> bool {
    let common = bytes.len().min(magic.len());
    bytes[..common] == magic[..common]
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Goes through the handshake as a client that may block, within `deadline` whatever the server does. Leaves the stream
/// blocking and without time-outs.
///
/// # Errors
///
/// [`HandshakeError`]: the connection is to be closed.
pub fn prove(mut stream: &TcpStream, client: &mut Client, deadline: Instant) -> Result<(), HandshakeError> {
    let mut bytes = [0; CHALLENGE_BYTES];
    loop {
        let output = client.poll_output();
        stream.set_write_timeout(Some(left_until(deadline)?))?;
        stream.write_all(&output).map_err(interpret)?;
        if client.is_welcome() {
            break;
        }
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        match stream.read(&mut bytes[..client.wanted()]) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(received) => client.handle_bytes(&bytes[..received])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(interpret(error)),
        };
    }
    stream.set_write_timeout(None)?;
    Ok(stream.set_read_timeout(None)?)
}

fn left_until(deadline: Instant) -> Result<Duration, HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(HandshakeError::TimedOut) } else { Ok(left) }
}

fn interpret(error: std::io::Error) -> HandshakeError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => HandshakeError::TimedOut,
        BrokenPipe | ConnectionReset => HandshakeError::Closed,
        _ => HandshakeError::System(error),
    }
}
