//! Frames: what goes over a connection once both ends have proved that they know the job's key.
//!
//! All frames have 32 bytes, little-endian, so that a receiver cuts the stream without looking at it. Requests are
//! executed in the order in which they come, and answered in that order, so an answer needs no address, only its tag
//! as a check.
//!
//! | bytes | field | write | read | fetch-add | compare-swap | value | part of a letter |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | 0 | kind | 1 | 2 | 3 | 4 | 5 | 6 |
//! | 1–3 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |
//! | 4–7 | tag | 0 | of the request | of the request | of the request | of the request it answers | which: 0, 1, 2 |
//! | 8–15 | word's position | yes | yes | yes | yes | 0 | a word |
//! | 16–23 | first operand | value | 0 | added | expected | the word's old value | a word |
//! | 24–31 | second operand | 0 | 0 | 0 | new | 0 | a word |
//!
//! A *letter* is what one node's agent has to say to another's beside all requests: nine words in three frames, one
//! after the other.

use crate::fabric::{Request, WordAt};

/// Bytes of every frame.
pub const FRAME_BYTES: usize = 32;

/// Words of a letter.
pub const LETTER_WORDS: usize = 9;
/// Words of each of its parts.
pub const PART_WORDS: usize = 3;
/// Parts of a letter.
pub const LETTER_PARTS: usize = LETTER_WORDS / PART_WORDS;

/// A letter's words, which mean nothing to the connection.
pub type Letter = [u64; LETTER_WORDS];

/// A frame, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A request, and the tag that its answer is to carry.
    Request {
        /// 0 for a write, which is not answered.
        tag: u32,
        /// What is asked for.
        request: Request,
    },
    /// The answer to a request.
    Value {
        /// The request's tag.
        tag: u32,
        /// The word's old value.
        value: u64,
    },
    /// A part of a letter.
    Part {
        /// Which.
        index: u32,
        /// Its words.
        words: [u64; PART_WORDS],
    },
}

/// Why bytes are no frame: whoever sent them does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first byte is no kind.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A field that has no meaning in this kind of frame is not 0.
    #[error("a frame of kind {0} with something in an unused field")]
    Unused(u8),
    /// The word lies outside the segment.
    #[error("a request for word {at} of a segment of {words}")]
    Outside {
        /// The word.
        at: u64,
        /// The segment's words.
        words: usize,
    },
}

impl Frame {
    /// As bytes.
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        match *self {
            Self::Value { tag, value } => pack(5, tag, 0, value, 0),
            Self::Part { index, words: [first, second, third] } => pack(6, index, first, second, third),
            Self::Request { tag, request } => match request {
                Request::Write { at, value } => pack(1, tag, at.0 as u64, value, 0),
                Request::Read { at } => pack(2, tag, at.0 as u64, 0, 0),
                Request::FetchAdd { at, add } => pack(3, tag, at.0 as u64, add, 0),
                Request::CompareSwap { at, expected, new } => pack(4, tag, at.0 as u64, expected, new),
            },
        }
    }

    /// Parses what came from a socket, for a segment of `words` words.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the connection is to be closed.
    pub fn parse(bytes: &[u8; FRAME_BYTES], words: usize) -> Result<Self, FrameError> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let kind = bytes[0];
        let tag = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        let (position, first, second) = (number(8), number(16), number(24));
        let is_clean = match kind {
            1 => tag == 0 && second == 0,
            2 => first == 0 && second == 0,
            3 => second == 0,
            4 => true,
            5 => position == 0 && second == 0,
            6 => (tag as usize) < LETTER_PARTS,
            _ => return Err(FrameError::Kind(kind)),
        };
        if !is_clean || bytes[1..4] != [0; 3] {
            return Err(FrameError::Unused(kind));
        }
        if kind == 5 {
            return Ok(Self::Value { tag, value: first });
        }
        if kind == 6 {
            return Ok(Self::Part { index: tag, words: [position, first, second] });
        }
        let outside = FrameError::Outside { at: position, words };
        let at = usize::try_from(position).ok().filter(|at| *at < words).map(WordAt).ok_or(outside)?;
        let request = match kind {
            1 => Request::Write { at, value: first },
            2 => Request::Read { at },
            3 => Request::FetchAdd { at, add: first },
            _ => Request::CompareSwap { at, expected: first, new: second },
        };
        Ok(Self::Request { tag, request })
    }
}

fn pack(kind: u8, tag: u32, position: u64, first: u64, second: u64) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&tag.to_le_bytes());
    bytes[8..16].copy_from_slice(&position.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    bytes[24..32].copy_from_slice(&second.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_request() -> impl Strategy<Value = Request> {
        let at = (0usize..100).prop_map(WordAt);
        prop_oneof![
            (at.clone(), any::<u64>()).prop_map(|(at, value)| Request::Write { at, value }),
            at.clone().prop_map(|at| Request::Read { at }),
            (at.clone(), any::<u64>()).prop_map(|(at, add)| Request::FetchAdd { at, add }),
            (at, any::<u64>(), any::<u64>()).prop_map(|(at, expected, new)| Request::CompareSwap { at, expected, new }),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_is_parsed_as_it_was_packed(request in any_request(), tag: u32, value: u64, index in 0u32..3) {
            let tag = if request.has_ticket() { tag } else { 0 };
            let part = Frame::Part { index, words: [value, !value, value << 7] };
            for frame in [Frame::Request { tag, request }, Frame::Value { tag, value }, part] {
                prop_assert_eq!(Frame::parse(&frame.encode(), 100), Ok(frame));
            }
        }

        /// Whatever parses is exactly what its parts would be packed to: no two byte strings mean the same.
        #[test]
        fn garbage_is_refused_or_means_itself(mut bytes: [u8; FRAME_BYTES], kind in 0u8..9, short: bool) {
            bytes[0] = kind;
            if short {
                bytes[1..4].fill(0);
                bytes[9..16].fill(0);
            }
            if let Ok(frame) = Frame::parse(&bytes, 100) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }

    #[test]
    fn each_fault_is_named() {
        let good = Frame::Request { tag: 0, request: Request::Write { at: WordAt(9), value: 1 } }.encode();
        assert_eq!(Frame::parse(&good, 9), Err(FrameError::Outside { at: 9, words: 9 }));
        let with = |at: usize, byte| {
            let mut bytes = good;
            bytes[at] = byte;
            Frame::parse(&bytes, 10)
        };
        assert_eq!(with(0, 7), Err(FrameError::Kind(7)));
        let mut part = Frame::Part { index: 2, words: [1, 2, 3] }.encode();
        part[4] = 3;
        assert_eq!(Frame::parse(&part, 10), Err(FrameError::Unused(6)));
        assert_eq!(with(2, 1), Err(FrameError::Unused(1)));
        assert_eq!(with(31, 1), Err(FrameError::Unused(1)));
    }
}
