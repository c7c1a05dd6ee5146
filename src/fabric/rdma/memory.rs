//! Memory that the adapter may reach: a node's segment, and the words that requests send from and answers land in.
//!
//! Each connection has a ring of such words. Several rings share one registered piece of memory ([`Rings`]), because
//! the adapter keeps a table of its own for every registration.
#![allow(unsafe_code, reason = "registers memory with libibverbs, and turns places in it into references to atomics")]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use super::device::Domain;
use super::options::RdmaError;
use super::verbs::{self, MemoryRegion};
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, WordAt};
use crate::sync::AtomicU64;

/// Words of a piece that rings share, unless a ring is larger.
const PIECE_WORDS: usize = 2048;

/// Memory to be registered: a node's segment. Holds on to whatever keeps it mapped.
pub struct Region {
    start: *mut u8,
    bytes: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: only the address is used, and only by the kernel and the adapter; the owner may be sent and shared.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory that `owner` keeps mapped.
    ///
    /// # Safety
    ///
    /// The memory is mapped, readable and writable, for as long as `owner` lives, is aligned to 8, and is only
    /// accessed as atomic words: other nodes change it at any time.
    pub unsafe fn new(start: *mut u8, bytes: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, bytes, _owner: owner }
    }

    /// A node's segment.
    pub fn of_segment(segment: Arc<Segment>) -> Self {
        let first: *const AtomicU64 = segment.word(WordAt(0));
        let bytes = segment.words() * 8;
        // SAFETY: a segment is mapped as a whole from its first word on, page-aligned, while it lives, and reached by
        // atomics only.
        unsafe { Self::new(first.cast::<u8>().cast_mut(), bytes, segment) }
    }

    /// How many words it has.
    pub fn words(&self) -> usize {
        self.bytes / 8
    }

    pub(super) fn base(&self) -> u64 {
        self.start.addr() as u64
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("start", &self.start).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A region known to the adapter.
pub(super) struct Registration {
    region: *mut MemoryRegion,
    domain: Arc<Domain>,
    memory: Region,
}

// SAFETY: verbs may be called from any thread, and the keys never change.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    pub fn new(domain: &Arc<Domain>, memory: Region, with_atomics: bool) -> Result<Self, RdmaError> {
        let atomics = if with_atomics { verbs::ACCESS_REMOTE_ATOMIC } else { 0 };
        let access = verbs::ACCESS_LOCAL_WRITE | verbs::ACCESS_REMOTE_WRITE | verbs::ACCESS_REMOTE_READ | atomics;
        let start = memory.start.cast();
        // SAFETY: the memory is mapped (`Region::new`) and stays so at least until `drop`.
        let region = unsafe { (domain.verbs.reg_mr)(domain.domain, start, memory.bytes, access.cast_signed()) };
        if region.is_null() {
            return Err(domain.error("register memory"));
        }
        Ok(Self { region, domain: Arc::clone(domain), memory })
    }

    pub fn memory(&self) -> &Region {
        &self.memory
    }

    /// The key for this process's own requests.
    pub fn local_key(&self) -> u32 {
        // SAFETY: alive until `drop`.
        unsafe { (*self.region).lkey }
    }

    /// The key for others' requests.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: alive until `drop`.
        unsafe { (*self.region).rkey }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by this library, and not used after this.
        unsafe { (self.domain.verbs.dereg_mr)(self.region) };
    }
}

/// Rings of one length, made a piece at a time and used again.
pub(super) struct Rings {
    domain: Arc<Domain>,
    /// Words of a ring.
    depth: usize,
    with_atomics: bool,
    pieces: Mutex<Vec<Arc<Piece>>>,
}

struct Piece {
    registration: Registration,
    /// The first words of the rings that nobody has.
    free: Mutex<Vec<usize>>,
}

impl Piece {
    fn take(&self) -> Option<usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Rings {
    /// Rings of `depth` words, which others' atomics may reach or not.
    pub fn new(domain: &Arc<Domain>, depth: usize, with_atomics: bool) -> Self {
        Self { domain: Arc::clone(domain), depth, with_atomics, pieces: Mutex::default() }
    }

    /// A ring that nobody has.
    pub fn get(&self) -> Result<Ring, RdmaError> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pieces.iter().find_map(|piece| Some((Arc::clone(piece), piece.take()?)));
        if let Some((piece, first)) = found {
            return Ok(Ring::new(piece, first, self.depth));
        }
        let piece = Arc::new(self.piece()?);
        let first = piece.take().expect("a new piece has free rings");
        pieces.push(Arc::clone(&piece));
        Ok(Ring::new(piece, first, self.depth))
    }

    fn piece(&self) -> Result<Piece, RdmaError> {
        let rings = (PIECE_WORDS / self.depth).max(1);
        let bytes = rings * self.depth * 8;
        let map = MmapOptions::new().len(bytes).map_anon().map(MmapRaw::from);
        let map = Arc::new(map.map_err(|source| RdmaError::Verbs {
            device: self.domain.name.clone(),
            step: "get memory for requests",
            source,
        })?);
        // SAFETY: the map holds this memory, page-aligned, while it lives; `Ring::word` gives atomics only.
        let region = unsafe { Region::new(map.as_mut_ptr(), bytes, map) };
        let registration = Registration::new(&self.domain, region, self.with_atomics)?;
        Ok(Piece { registration, free: Mutex::new((0..rings).map(|ring| ring * self.depth).collect()) })
    }
}

/// Words that the adapter reads values from and puts answers into. Goes back when dropped, by when no queue pair may
/// use it any more.
pub(super) struct Ring {
    words: *const AtomicU64,
    depth: usize,
    local_key: u32,
    first: usize,
    piece: Arc<Piece>,
}

// SAFETY: the pointer leads into the piece, which may be sent and shared, and to atomics only.
unsafe impl Send for Ring {}

impl Ring {
    fn new(piece: Arc<Piece>, first: usize, depth: usize) -> Self {
        // SAFETY: the ring lies inside the piece.
        let words = unsafe { piece.registration.memory.start.cast::<AtomicU64>().add(first) };
        Self { words, depth, local_key: piece.registration.local_key(), first, piece }
    }

    #[inline]
    pub fn word(&self, place: usize) -> &AtomicU64 {
        assert!(place < self.depth, "a place outside the ring");
        // SAFETY: inside the ring (checked), aligned, alive with the piece, and reached by atomics only.
        unsafe { &*self.words.add(place) }
    }

    #[inline]
    pub fn address(&self, place: usize) -> u64 {
        self.words.addr() as u64 + 8 * place as u64
    }

    #[inline]
    pub fn local_key(&self) -> u32 {
        self.local_key
    }

    /// The registration that the ring is part of.
    pub fn registration(&self) -> &Registration {
        &self.piece.registration
    }

    /// Where in the registration its first word is.
    pub fn at(&self) -> WordAt {
        WordAt(self.first)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.piece.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.first);
    }
}
