//! A connection whose ends have proved themselves: frames in, frames out, never blocking.
//!
//! Outgoing frames gather in a buffer and leave in one system call. Incoming bytes are cut into frames as they come.
//! Both buffers are bounded, so that a peer that does not read, or that asks without end, costs a fixed amount of
//! memory.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::frame::{FRAME_BYTES, Frame, FrameError};
use super::uring::Serial;

/// Frames of requests that wait to be sent, at most; after them posting is refused.
pub const MOST_UNSENT: usize = 512;
/// Requests of one end that wait to be answered, at most.
pub const MOST_UNANSWERED: usize = 512;
/// Bytes that are received at once.
const IN_BYTES: usize = 8 << 10;
/// Answers to all that a peer may ask, behind requests of this end's own.
const OUT_BYTES: usize = (MOST_UNSENT + MOST_UNANSWERED) * FRAME_BYTES;

/// Why a connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other end has closed it.
    #[error("the other end has closed the connection")]
    Closed,
    /// The kernel says so.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The other end sends what is no frame.
    #[error("the other end broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The other end sends an answer that nobody waits for.
    #[error("the other end broke the protocol: an answer to nothing")]
    Answer,
    /// The other end sends a part of a letter that is not the next one, or may send none.
    #[error("the other end broke the protocol: a part of a letter out of its place")]
    Letter,
    /// The other end asks more than it may before it reads answers.
    #[error("the other end broke the protocol: more than {MOST_UNANSWERED} unanswered requests")]
    TooMany,
    /// This process has been given up by its node, and another one speaks for that: what comes here is executed no
    /// more.
    #[error("this process speaks for its node no more")]
    GivenUp,
    /// This node's device did not do what the other end has asked for.
    #[error("this node's RDMA device did not change a word for the other end")]
    Device,
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether a batch of `frames` requests has room.
    pub fn has_room_for(&self, frames: usize) -> bool {
        self.waiting_bytes() + frames * FRAME_BYTES <= MOST_UNSENT * FRAME_BYTES
    }

    /// What waits.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So much of it has been sent.
    pub fn note_sent(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.bytes.len());
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame) {
        if self.sent == self.bytes.len() {
            self.clear();
        } else if self.sent >= OUT_BYTES / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(&frame.encode());
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

/// The two ways of one connection.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    received: Box<[u8; IN_BYTES]>,
    /// Bytes of `received` that are there.
    end: usize,
    /// Tells the connection from others of its owner, for a ring.
    pub serial: Serial,
    /// A ring receives from the socket, too.
    pub is_in_ring: bool,
}

impl Stream {
    /// Over a connected, non-blocking socket.
    pub fn new(socket: TcpStream, serial: Serial) -> Self {
        Self { socket, received: Box::new([0; IN_BYTES]), end: 0, serial, is_in_ring: false }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends what waits, as far as the kernel takes it.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub fn send(&mut self, outgoing: &mut Outgoing) -> Result<(), StreamError> {
        while outgoing.waiting_bytes() > 0 {
            match self.socket.write(&outgoing.bytes[outgoing.sent..]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(sent) => outgoing.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives once, and hands each whole frame to `handle`. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// [`StreamError`], also what `handle` returns; frames before it have been handled.
    pub fn receive(
        &mut self,
        words: usize,
        handle: impl FnMut(Frame) -> Result<(), StreamError>,
    ) -> Result<bool, StreamError> {
        let received = loop {
            match self.socket.read(&mut self.received[self.end..]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(received) => break received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.end += received;
        let is_full = self.end == IN_BYTES;
        self.cut(words, handle)?;
        Ok(is_full)
    }

    /// As [`receive`](Self::receive), of bytes that a ring has received from the socket.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn take_in(
        &mut self,
        mut bytes: &[u8],
        words: usize,
        mut handle: impl FnMut(Frame) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            // There is room: what is left of a cut is less than a frame.
            let (now, later) = bytes.split_at(bytes.len().min(IN_BYTES - self.end));
            self.received[self.end..self.end + now.len()].copy_from_slice(now);
            self.end += now.len();
            self.cut(words, &mut handle)?;
            bytes = later;
        }
        Ok(())
    }

    /// Hands each whole frame that is there to `handle`.
    #[inline]
    fn cut(
        &mut self,
        words: usize,
        mut handle: impl FnMut(Frame) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        let whole = self.end - self.end % FRAME_BYTES;
        for bytes in self.received[..whole].chunks_exact(FRAME_BYTES) {
            handle(Frame::parse(bytes.try_into().expect("a frame's size"), words)?)?;
        }
        self.received.copy_within(whole..self.end, 0);
        self.end -= whole;
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_in_ring {
            // The ring has a reference to the socket, so that closing this one's would not tell the other end.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}

/// Answers a request, if there is room: a peer that asks more than it may is not served.
///
/// # Errors
///
/// [`StreamError::TooMany`].
pub fn answer(outgoing: &mut Outgoing, tag: u32, value: u64) -> Result<(), StreamError> {
    if outgoing.waiting_bytes() + FRAME_BYTES > OUT_BYTES {
        return Err(StreamError::TooMany);
    }
    outgoing.push(&Frame::Value { tag, value });
    Ok(())
}
