//! Frames: whatever is accepted is exactly what its parts would be packed to, and lies inside the segment.

use phalanx::fabric::sim::Seeded;
use phalanx::fabric::tcp::frame::{FRAME_BYTES, Frame};
use phalanx::fabric::{Request, WordAt};

use crate::mutation::{bytes, number, spoil};
use crate::{Target, ensure};

pub(crate) struct Frames;

/// A request to one of the first `words` words, of which there is at least one.
pub(crate) fn any_request(random: &mut Seeded, words: usize) -> Request {
    let at = WordAt(random.below(words));
    match random.below(4) {
        0 => Request::Write { at, value: number(random) },
        1 => Request::Read { at },
        2 => Request::FetchAdd { at, add: number(random) },
        _ => Request::CompareSwap { at, expected: number(random), new: number(random) },
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a tag is any number")]
fn any_frame(random: &mut Seeded, words: usize) -> Frame {
    let tag = random.number() as u32;
    match random.below(10) {
        0 | 1 => return Frame::Value { tag, value: number(random) },
        2 => return Frame::Part { index: tag % 3, words: std::array::from_fn(|_| number(random)) },
        _ => {}
    }
    let request = any_request(random, words);
    Frame::Request { tag: if request.has_ticket() { tag } else { 0 }, request }
}

impl Target for Frames {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let words = [1, 100, 1 << 20, usize::MAX][random.below(4)];
        let frame = any_frame(random, words);
        let valid = frame.encode();
        ensure(Frame::parse(&valid, words) == Ok(frame), || format!("{frame:?} is not what it was packed from"))?;
        let mut spoilt = if random.below(8) == 0 { bytes(random) } else { valid.to_vec() };
        spoil(random, &mut spoilt);
        spoilt.resize(FRAME_BYTES, 0);
        let spoilt: [u8; FRAME_BYTES] = spoilt.try_into().expect("as many bytes");
        let segment = [0, words, words / 2][random.below(3)];
        let Ok(parsed) = Frame::parse(&spoilt, segment) else { return Ok(()) };
        ensure(parsed.encode() == spoilt, || format!("{spoilt:?} is taken for {parsed:?}"))?;
        let is_inside = match parsed {
            Frame::Request { request, .. } => request.at().0 < segment,
            Frame::Value { .. } | Frame::Part { .. } => true,
        };
        ensure(is_inside, || format!("{parsed:?} is outside of {segment} words"))
    }
}
