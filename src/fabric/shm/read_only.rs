//! A segment seen by somebody who is no rank: mapped so that it can be read and not written.
//!
//! A store would be a fault of this process, and a rank's words are none of its business; so no references to atomics
//! are handed out, only values.
#![allow(unsafe_code, reason = "turns positions in mapped memory into references to atomics")]

use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};

use super::segment::{Expected, SegmentError, check_clock, check_geometry, checked_length};
use crate::clock::Clock;
use crate::fabric::WordAt;
use crate::fabric::node::{NodeLayout, header};
use crate::sync::{AtomicU64, Ordering, full_fence};

/// A node's segment that this process can only read. The job does not notice.
pub struct ReadOnlySegment {
    map: MmapRaw,
    layout: NodeLayout,
    clock: Clock,
    job_id: u64,
}

impl ReadOnlySegment {
    /// Maps the segment behind a descriptor that is open for reading, of whatever job it is, after checking that it is
    /// one.
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`](super::Segment::attach), but for a job or a number of ranks that is not the expected one.
    pub fn attach(file: &OwnedFd, layout_hash: u64) -> Result<Self, SegmentError> {
        let length = checked_length(file)?;
        let map = MmapOptions::new().len(length).map_raw_read_only(file);
        let map = map.map_err(|source| SegmentError::Memory { step: "map", bytes: length, source })?;
        let read = |at| load(&map, at);
        // Each rank and each node has more bytes than one, so that this bounds what is computed of their numbers.
        let bounded = |at| usize::try_from(read(at)).unwrap_or(length).min(length);
        let [ranks, job_ranks, nodes] = [header::RANKS, header::JOB_RANKS, header::NODES].map(bounded);
        let job_id = read(header::JOB_ID);
        let expected = Expected { job_id, ranks, job_ranks, nodes, layout_hash };
        let layout = check_geometry(read, expected, length as u64)?;
        let clock = check_clock(read)?;
        Ok(Self { map, layout, clock, job_id })
    }

    /// The word at `at`, as an acquire load: whatever its writer had published before is seen by later loads.
    ///
    /// # Panics
    ///
    /// When `at` lies outside the segment.
    pub fn load(&self, at: WordAt) -> u64 {
        let value = load(&self.map, at);
        // Partner: the release store, or `publish`, of whichever rank wrote the word. A fence and not an acquire load,
        // which the language allows to be an instruction that writes.
        full_fence();
        value
    }

    /// How the segment is divided.
    pub fn layout(&self) -> NodeLayout {
        self.layout
    }

    /// The node's common clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The segment's random number.
    pub fn job_id(&self) -> u64 {
        self.job_id
    }
}

fn load(map: &MmapRaw, at: WordAt) -> u64 {
    assert!(at.0 < map.len() / 8, "word {} lies outside the segment", at.0);
    // SAFETY: the position is inside the mapping (checked above), which is page-aligned, lives as long as `map`, and
    // cannot shrink (sealed). It is accessed by atomics only, here by relaxed loads of 8 bytes, which do not write on
    // 64-bit targets.
    let word = unsafe { &*map.as_ptr().cast::<AtomicU64>().add(at.0) };
    word.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::super::segment::tests::{HASH, JOB, segment_of};
    use super::*;
    use crate::fabric::Memory;
    use crate::fabric::shm::Segment;

    /// Opened anew, for reading only, as a stranger does it.
    fn look_at(segment: &Segment) -> Result<ReadOnlySegment, SegmentError> {
        let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
        ReadOnlySegment::attach(&File::open(path).expect("a file of this process").into(), HASH)
    }

    #[test]
    fn it_shows_what_ranks_write() {
        let made = segment_of(3);
        let seen = look_at(&made).expect("a segment");
        let at = made.layout().unit(0);
        made.word(at).store(42, Ordering::Release);
        assert_eq!(seen.load(at), 42);
        assert_eq!((seen.layout(), seen.job_id()), (made.layout(), JOB));
        assert_eq!(seen.clock().to_parts(), made.clock().to_parts());
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has /proc");
        let is_ours = |line: &str| line.contains("r--s") && line.contains("memfd:phalanx");
        assert!(maps.lines().any(is_ours), "mapped for reading only");
    }

    #[test]
    fn nonsense_in_the_header_is_an_error() {
        let spoiled = |at, value| {
            let made = segment_of(3);
            made.word(at).store(value, Ordering::Relaxed);
            look_at(&made).err().expect("a spoiled header")
        };
        assert!(matches!(spoiled(header::MAGIC, 1), SegmentError::Magic { .. }));
        assert!(matches!(spoiled(header::LAYOUT_HASH, 1), SegmentError::Layout { .. }));
        for ranks in [0, 2, 4, 1 << 20, 1 << 40, u64::MAX] {
            assert!(matches!(spoiled(header::RANKS, ranks), SegmentError::Geometry { .. }), "{ranks} ranks");
        }
        for at in [header::JOB_RANKS, header::NODES] {
            for count in [1 << 20, 1 << 40, u64::MAX] {
                assert!(matches!(spoiled(at, count), SegmentError::Geometry { .. }), "{at:?} = {count}");
            }
        }
        assert!(matches!(spoiled(header::ARENA_UNITS, u64::MAX), SegmentError::Geometry { .. }));
        assert!(matches!(spoiled(header::CLOCK[0], 7), SegmentError::ClockMismatch { .. }));
    }
}
