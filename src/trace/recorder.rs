//! A rank's handle on its timeline, and where the timeline goes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::drain::{self, Drainer, Track};
use super::{Record, Remark};
use crate::clock::Clock;

/// Slots of a rank's ring: 512 KiB. A rank that passes 100,000 barriers a second fills a quarter of it in 10 ms.
const SLOTS: usize = 1 << 13;

/// Whose timeline it is, and where it goes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file as the user has named it; see [`file_of`].
    pub path: PathBuf,
    /// The rank.
    pub rank: usize,
    /// Its node.
    pub node: usize,
    /// The job's ranks.
    pub ranks: usize,
    /// The clock by which it records.
    pub clock: Clock,
    /// The system's time at that clock's origin, in nanoseconds since 1970.
    pub origin_time_ns: u64,
}

/// The file of one rank's timeline: the rank stands before the extension, as in `trace.3.json`.
pub fn file_of(path: &Path, rank: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{rank}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// One rank's timeline. Dropping it completes the file.
#[derive(Debug)]
pub struct Trace {
    track: Arc<Track>,
    drainer: Drainer,
}

impl Trace {
    /// Whether the file can be written, found out before others rely on this rank. Makes it if it is not there.
    ///
    /// # Errors
    ///
    /// The system's answer.
    pub fn check(path: &Path, rank: usize) -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).open(file_of(path, rank)).map(drop)
    }

    /// Begins a timeline; what the file held before is gone.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or no thread be started.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        Self::with_slots(settings, SLOTS)
    }

    /// As [`start`](Self::start), with a ring of a power of two of slots.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_slots(settings: &Settings, slots: usize) -> io::Result<Self> {
        let track = Arc::new(Track::open(settings, slots)?);
        let drainer = drain::enlist(&track)?;
        Ok(Self { track, drainer })
    }

    /// Records. Never blocks; what the ring has no room for is lost and counted.
    #[inline]
    pub fn record(&self, record: &Record) {
        let half = self.track.half_of_ring();
        if self.track.ring().push(record.to_words()).is_some_and(|number| number & (half - 1) == half - 1) {
            self.drainer.wake();
        }
    }

    /// Remarks. May wait for whoever else remarks something at this moment.
    pub fn remark(&self, ticks: u64, remark: Remark) {
        self.track.remark(ticks, remark);
    }

    /// Events lost so far.
    pub fn lost(&self) -> u64 {
        self.track.lost()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.track.complete();
        self.drainer.wake();
    }
}
