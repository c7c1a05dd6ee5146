//! A node's segment: making it, attaching to it, reaching its words.
//!
//! The segment is a `memfd`: memory with a file descriptor and no name, so that nothing is left behind in a file
//! system, whichever process dies when. Its size is sealed before anyone else sees it, so that no rank can be killed
//! by another one's truncation. One rank makes it; the others get the descriptor over a UNIX socket (`cluster`), check
//! the header against what they expect, and map it.
#![allow(unsafe_code, reason = "turns positions in mapped memory into references to atomics")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

use super::notify;
use crate::clock::Clock;
use crate::fabric::node::{NodeLayout, ObjectTable, header};
use crate::fabric::{Memory, WordAt};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The first word of every segment: "PHALANX" and a line feed.
const MAGIC: u64 = u64::from_le_bytes(*b"PHALANX\n");
/// The version of the segment's format. Grows when the header itself changes; the layout hash covers the rest.
const FORMAT_VERSION: u64 = 1;
/// A segment at least this large asks for huge pages: a smaller one would waste most of its only page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why a segment could not be made or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The kernel refused memory for the segment.
    #[error("cannot {step} a node segment of {bytes} bytes: {source} (remedy: check memory limits with `ulimit -a`)")]
    Memory {
        /// What was being done.
        step: &'static str,
        /// The segment's size.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file is shorter than a header.
    #[error("the segment has {bytes} bytes, fewer than a header's {needed} (remedy: give all ranks the same job)")]
    TooShort {
        /// Its size.
        bytes: u64,
        /// The least size.
        needed: usize,
    },
    /// The file's size can still be changed, so that it cannot be trusted.
    #[error("the segment's size is not sealed: it was not made by Phalanx (remedy: give all ranks the same job)")]
    NotSealed,
    /// The first word is wrong.
    #[error("not a segment of Phalanx: its first word is {found:#018x} (remedy: give all ranks the same job)")]
    Magic {
        /// The word found.
        found: u64,
    },
    /// The format's version differs.
    #[error("the segment has format version {found}, this program knows {expected} (remedy: {REBUILD})")]
    Version {
        /// The segment's version.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// The version is the same, but positions or packed words differ.
    #[error("the segment's layout hash is {found:#018x}, this program's {expected:#018x} (remedy: {REBUILD})")]
    Layout {
        /// The segment's hash.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// The segment belongs to another job.
    #[error(
        "the segment belongs to job {found:016x}, this rank to job {expected:016x} (remedy: give all ranks the same PHALANX_BOOTSTRAP and PHALANX_KEY)"
    )]
    Job {
        /// The segment's job.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Ranks, size or arena do not fit each other or this job.
    #[error("the segment's {what} is {found}, expected {expected} (remedy: give all ranks the same PHALANX_SIZE)")]
    Geometry {
        /// Which number.
        what: &'static str,
        /// The segment's.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The world's block stands where none can.
    #[error(
        "the segment's world is said to be at word {found}, where no group of {ranks} ranks is (remedy: {REBUILD})"
    )]
    World {
        /// The position in the header.
        found: u64,
        /// The node's ranks.
        ranks: usize,
    },
    /// The common clock in the header is none.
    #[error("the segment's clock (source {source_number}) is none of this machine (remedy: {REBUILD})")]
    ClockMismatch {
        /// The source's number in the header.
        source_number: u64,
    },
}

const REBUILD: &str = "build all ranks' programs with the same version of phalanx";

/// What a rank expects of the segment that it attaches.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The job's random number.
    pub job_id: u64,
    /// Ranks of the node.
    pub ranks: usize,
    /// Ranks of the whole job.
    pub job_ranks: usize,
    /// Nodes of the job.
    pub nodes: usize,
    /// Hash over all positions that ranks share.
    pub layout_hash: u64,
}

/// A mapped segment.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    file: OwnedFd,
    layout: NodeLayout,
    clock: Clock,
    job_id: u64,
}

impl Segment {
    /// Makes a segment, writes its header, and faults in what barriers use, so that none meets a page fault.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Memory`] when the kernel has no memory for it.
    pub fn create(layout: NodeLayout, job_id: u64, layout_hash: u64) -> Result<Self, SegmentError> {
        let bytes = layout.words() * 8;
        let memory =
            |step| move |source: rustix::io::Errno| SegmentError::Memory { step, bytes, source: source.into() };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels from 6.3 want to hear that memory is not for code; older ones do not know the flag.
        let file = memfd_create("phalanx", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create("phalanx", flags))
            .map_err(memory("create"))?;
        ftruncate(&file, bytes as u64).map_err(memory("size"))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(memory("seal"))?;
        let map = map(&file, bytes)?;
        populate(&map, &layout);
        let segment = Self { map, file, layout, clock: Clock::calibrate(), job_id };
        segment.write_header(layout_hash);
        Ok(segment)
    }

    fn write_header(&self, layout_hash: u64) {
        let (source, tick, origin) = self.clock.to_parts();
        let words = [
            (header::VERSION, FORMAT_VERSION),
            (header::LAYOUT_HASH, layout_hash),
            (header::JOB_ID, self.job_id),
            (header::RANKS, self.layout.ranks() as u64),
            (header::WORDS, self.layout.words() as u64),
            (header::ARENA_UNITS, self.layout.arena_units() as u64),
            (header::CLOCK[0], source),
            (header::CLOCK[1], tick),
            (header::CLOCK[2], origin),
            (header::ORIGIN_TIME, self.origin_time()),
            // Until somebody who knows of other nodes says otherwise.
            (header::FAMILY, self.job_id),
            (header::JOB_RANKS, self.layout.job_ranks() as u64),
            (header::NODES, self.layout.nodes() as u64),
            (header::OBJECTS, self.layout.objects() as u64),
            (header::OBJECT_WORDS[0], self.layout.object_words()[0] as u64),
            (header::OBJECT_WORDS[1], self.layout.object_words()[1] as u64),
            (header::MAGIC, MAGIC),
        ];
        for (at, value) in words {
            // Relaxed: the descriptor is passed on by a socket, which orders these stores before every attach.
            self.word(at).store(value, Ordering::Relaxed);
        }
    }

    /// What the system's clock showed at the origin of the node's, by the reading of both that took the least time: in
    /// the midst of one this process may lose its CPU.
    fn origin_time(&self) -> u64 {
        const READINGS: usize = 16;
        let reading = || {
            let before = self.clock.now();
            let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let after = self.clock.now();
            (after.saturating_sub(before), before, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        };
        let best = (0..READINGS).map(|_| reading()).min().expect("some readings");
        best.2.saturating_sub(self.clock.since_origin_ns(best.1))
    }

    /// Maps the segment behind a descriptor after checking that it is the expected one.
    ///
    /// # Errors
    ///
    /// One of [`SegmentError`] for each way in which it may not be.
    pub fn attach(file: OwnedFd, expected: Expected) -> Result<Self, SegmentError> {
        let length = checked_length(&file)?;
        let map = map(&file, length)?;
        // A clock and a layout to stand in until the header is known to be sound.
        let (layout, clock) = (NodeLayout::new(1, 1), Clock::from_parts(2, 1f64.to_bits(), 0));
        let clock = clock.expect("a nanosecond clock is a clock");
        let mut segment = Self { map, file, layout, clock, job_id: expected.job_id };
        let read = |at| segment.word(at).load(Ordering::Relaxed);
        let (layout, clock) = (check_geometry(read, expected, length as u64)?, check_clock(read)?);
        (segment.layout, segment.clock) = (layout, clock);
        populate(&segment.map, &layout);
        Ok(segment)
    }

    /// How the segment is divided.
    pub fn layout(&self) -> NodeLayout {
        self.layout
    }

    /// The node's common clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The job's random number.
    pub fn job_id(&self) -> u64 {
        self.job_id
    }

    /// The descriptor, to pass on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The lower half of a word of which nobody uses more, and nobody otherwise.
    pub(crate) fn half(&self, at: WordAt) -> &AtomicU32 {
        self.futex(at)
    }

    /// The lower half of a word, as the kernel wants it for a futex.
    pub(super) fn futex(&self, at: WordAt) -> &AtomicU32 {
        let word: *const AtomicU64 = self.word(at);
        let lower = if cfg!(target_endian = "little") { 0 } else { 1 };
        // SAFETY: the word is 8 bytes of the mapping, aligned to 8, so each half is a valid, aligned u32 that lives as
        // long as the mapping. The reference is given to the kernel only, which reads it atomically and whole, or
        // (`half`) all access to the word is by this half, so that no mixed-size atomic access happens.
        unsafe { &*word.cast::<AtomicU32>().add(lower) }
    }
}

impl Memory for Segment {
    #[inline]
    fn word(&self, at: WordAt) -> &AtomicU64 {
        assert!(at.0 < self.map.len() / 8, "word {} lies outside the segment", at.0);
        // SAFETY: the position is inside the mapping (checked above), the mapping is page-aligned so the word is
        // aligned to 8, lives as long as `self`, and cannot shrink (sealed). All ranks access it through atomics only.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(at.0) }
    }

    fn words(&self) -> usize {
        self.map.len() / 8
    }

    #[inline]
    fn wake(&self, at: WordAt) {
        notify::wake(self, at);
    }
}

/// The size in bytes of a segment's file, which nobody can change any more and which holds a header at least.
pub(super) fn checked_length(file: &OwnedFd) -> Result<usize, SegmentError> {
    let bytes = file_bytes(file)?;
    let least = NodeLayout::new(1, 1).words() * 8;
    let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(SegmentError::NotSealed);
    }
    let length = usize::try_from(bytes).ok().filter(|length| *length >= least);
    length.ok_or(SegmentError::TooShort { bytes, needed: least })
}

/// How a segment of so many bytes is divided, if its header says what is expected.
pub(super) fn check_geometry(
    read: impl Fn(WordAt) -> u64,
    expected: Expected,
    bytes: u64,
) -> Result<NodeLayout, SegmentError> {
    let found = read(header::MAGIC);
    if found != MAGIC {
        return Err(SegmentError::Magic { found });
    }
    let found = read(header::VERSION);
    if found != FORMAT_VERSION {
        return Err(SegmentError::Version { found, expected: FORMAT_VERSION });
    }
    let found = read(header::LAYOUT_HASH);
    if found != expected.layout_hash {
        return Err(SegmentError::Layout { found, expected: expected.layout_hash });
    }
    let found = read(header::JOB_ID);
    if found != expected.job_id {
        return Err(SegmentError::Job { found, expected: expected.job_id });
    }
    let equal = |what, found, expected| {
        if found == expected { Ok(()) } else { Err(SegmentError::Geometry { what, found, expected }) }
    };
    equal("number of ranks", read(header::RANKS), expected.ranks as u64)?;
    equal("number of the job's ranks", read(header::JOB_RANKS), expected.job_ranks as u64)?;
    equal("number of nodes", read(header::NODES), expected.nodes as u64)?;
    equal("size in words", read(header::WORDS), bytes / 8)?;
    // The units are bounded by the size that was just checked, so that the products below cannot overflow.
    let units = read(header::ARENA_UNITS).min(bytes);
    let bounded = |at| usize::try_from(read(at).min(1 << 20)).unwrap_or(usize::MAX);
    let layout = NodeLayout::new(
        expected.ranks,
        usize::try_from(units).unwrap_or(usize::MAX).saturating_mul(crate::fabric::node::UNIT_WORDS),
    )
    .in_job(expected.job_ranks, expected.nodes)
    .with_objects(bounded(header::OBJECTS), header::OBJECT_WORDS.map(bounded));
    equal("arena in units", read(header::ARENA_UNITS), layout.arena_units() as u64)?;
    equal("size in words", layout.words() as u64, bytes / 8)?;
    Ok(layout)
}

/// The clock in a segment's header.
pub(super) fn check_clock(read: impl Fn(WordAt) -> u64) -> Result<Clock, SegmentError> {
    let [source, tick, origin] = header::CLOCK.map(read);
    Clock::from_parts(source, tick, origin).ok_or(SegmentError::ClockMismatch { source_number: source })
}

fn file_bytes(file: &OwnedFd) -> Result<u64, SegmentError> {
    let file =
        File::from(file.try_clone().map_err(|source| SegmentError::Memory { step: "examine", bytes: 0, source })?);
    let facts = file.metadata().map_err(|source| SegmentError::Memory { step: "examine", bytes: 0, source })?;
    Ok(facts.len())
}

fn map(file: &OwnedFd, bytes: usize) -> Result<MmapRaw, SegmentError> {
    let memory = |source| SegmentError::Memory { step: "map", bytes, source };
    let map = MmapOptions::new().len(bytes).map_raw(file).map_err(memory)?;
    if bytes >= HUGE_PAGE_BYTES {
        // Only a hint: where the system offers none (`shmem_enabled` is "never"), small pages serve.
        let _ = map.advise(Advice::HugePage);
    }
    Ok(map)
}

/// Faults in what barriers use. Named objects, which stand last, take no memory before they are used: there is room for
/// many more of them than most jobs have.
fn populate(map: &MmapRaw, layout: &NodeLayout) {
    let words = layout.object_key(ObjectTable::Here, 0).0;
    // Kernels before 5.14 cannot populate on request; touching each page does the same there.
    if map.advise_range(Advice::PopulateWrite, 0, words * 8).is_err() {
        touch_pages(map, words);
    }
}

/// Faults every page in by an atomic addition of nothing, which changes no word that another rank may be using.
fn touch_pages(map: &MmapRaw, words: usize) {
    let page_words = rustix::param::page_size() / 8;
    for index in (0..words).step_by(page_words) {
        // SAFETY: inside the mapping and aligned, as in `word`.
        let word = unsafe { &*map.as_ptr().cast::<AtomicU64>().add(index) };
        word.fetch_add(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    pub(in super::super) const JOB: u64 = 77;
    pub(in super::super) const HASH: u64 = 99;

    pub(crate) fn segment_of(ranks: usize) -> Segment {
        Segment::create(NodeLayout::new(ranks, 4096), JOB, HASH).expect("memory for a small segment")
    }

    fn attach(segment: &Segment, expected: Expected) -> Result<Segment, SegmentError> {
        Segment::attach(segment.file.try_clone().expect("a descriptor"), expected)
    }

    const EXPECTED: Expected = Expected { job_id: JOB, ranks: 3, job_ranks: 3, nodes: 1, layout_hash: HASH };

    #[test]
    fn an_attached_segment_shows_the_same_words() {
        let made = segment_of(3);
        let attached = attach(&made, EXPECTED).expect("the expected segment");
        let at = made.layout().unit(0);
        made.word(at).store(42, Ordering::Release);
        assert_eq!(attached.word(at).load(Ordering::Acquire), 42);
        assert_eq!(attached.layout(), made.layout());
        assert_eq!(attached.clock().to_parts(), made.clock().to_parts());
    }

    #[test]
    fn objects_take_no_memory_before_they_are_used() {
        let layout = NodeLayout::new(3, 4096).with_objects(1 << 16, [96, 96]);
        let segment = Segment::create(layout, JOB, HASH).expect("memory for a segment");
        let file = File::from(segment.file.try_clone().expect("a descriptor"));
        let taken = file.metadata().expect("its size").blocks() * 512;
        let size = layout.words() as u64 * 8;
        assert!(taken >= layout.unit(0).0 as u64 * 8 && taken < size / 4, "{taken} of {size} bytes");
    }

    /// Spoils one word of a good segment and returns what attaching says.
    fn spoiled(at: WordAt, value: u64) -> SegmentError {
        let made = segment_of(3);
        made.word(at).store(value, Ordering::Relaxed);
        attach(&made, EXPECTED).expect_err("a spoiled header")
    }

    #[test]
    fn each_mismatch_is_its_own_error() {
        assert!(matches!(spoiled(header::MAGIC, 1), SegmentError::Magic { found: 1 }));
        assert!(matches!(spoiled(header::VERSION, 9), SegmentError::Version { found: 9, .. }));
        assert!(matches!(spoiled(header::LAYOUT_HASH, 5), SegmentError::Layout { found: 5, .. }));
        assert!(matches!(spoiled(header::JOB_ID, 6), SegmentError::Job { found: 6, .. }));
        for (at, value) in
            [(header::RANKS, 4), (header::WORDS, 8), (header::ARENA_UNITS, u64::MAX), (header::ARENA_UNITS, 1)]
        {
            assert!(matches!(spoiled(at, value), SegmentError::Geometry { .. }), "{at:?} = {value}");
        }
        assert!(matches!(spoiled(header::CLOCK[0], 7), SegmentError::ClockMismatch { source_number: 7 }));
    }

    #[test]
    fn a_file_that_could_shrink_or_is_too_short_is_refused() {
        let loose = memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
        ftruncate(&loose, 1 << 20).expect("a size");
        assert!(matches!(Segment::attach(loose, EXPECTED), Err(SegmentError::NotSealed)));
        let short = memfd_create("short", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
        ftruncate(&short, 8).expect("a size");
        fcntl_add_seals(&short, SealFlags::SHRINK | SealFlags::GROW).expect("seals");
        assert!(matches!(Segment::attach(short, EXPECTED), Err(SegmentError::TooShort { bytes: 8, .. })));
    }

    #[test]
    #[should_panic(expected = "outside the segment")]
    fn a_word_outside_is_refused() {
        let segment = segment_of(1);
        segment.word(WordAt(segment.words()));
    }
}
