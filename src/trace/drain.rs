//! Who empties the rings: one thread for all timelines of the process, asleep in between.
//!
//! It wakes every 10 ms, or when a ring is half full, writes what is there, in whole lines, and sleeps again. It lives
//! while there is a timeline. What is still in a ring when a timeline is dropped is written by whoever drops it, so
//! that nothing depends on when the thread runs last.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::lines::Lines;
use super::recorder::{Settings, file_of};
use super::ring::Ring;
use super::{Record, Remark};
use crate::clock::Clock;
use crate::sync::{AtomicU64, Ordering};

/// How long the thread sleeps.
const NAP: Duration = Duration::from_millis(10);
/// Remarks that may wait to be written; more are lost. A rank that polls with time-outs of zero makes many.
const MOST_REMARKS: usize = 4096;
/// Bytes that are written at once.
const CHUNK: usize = 1 << 18;

/// One rank's timeline between those who record and its file.
#[derive(Debug)]
pub struct Track {
    ring: Ring,
    half_of_ring: u64,
    remarks: Mutex<Vec<(u64, Remark)>>,
    remarks_lost: AtomicU64,
    /// `None` when the file is complete.
    sink: Mutex<Option<Sink>>,
}

/// The file's side, for one thread at a time.
#[derive(Debug)]
struct Sink {
    file: File,
    path: PathBuf,
    clock: Clock,
    lines: Lines,
    buffer: Vec<u8>,
    /// What ended the writing. What comes after is lost.
    failure: Option<io::Error>,
    unwritten: u64,
}

impl Track {
    /// Opens the file and writes its beginning.
    pub fn open(settings: &Settings, slots: usize) -> io::Result<Self> {
        let path = file_of(&settings.path, settings.rank);
        let mut file = File::create(&path)?;
        let mut buffer = Vec::with_capacity(CHUNK);
        let lines = Lines::begin(settings, &mut buffer);
        file.write_all(&buffer)?;
        buffer.clear();
        let sink = Sink { file, path, clock: settings.clock, lines, buffer, failure: None, unwritten: 0 };
        Ok(Self {
            ring: Ring::new(slots),
            half_of_ring: slots as u64 / 2,
            remarks: Mutex::default(),
            remarks_lost: AtomicU64::new(0),
            sink: Mutex::new(Some(sink)),
        })
    }

    #[inline]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    #[inline]
    pub fn half_of_ring(&self) -> u64 {
        self.half_of_ring
    }

    pub fn remark(&self, ticks: u64, remark: Remark) {
        let mut remarks = lock(&self.remarks);
        if remarks.len() < MOST_REMARKS {
            remarks.push((ticks, remark));
        } else {
            self.remarks_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events lost so far for want of room.
    pub fn lost(&self) -> u64 {
        self.ring.lost() + self.remarks_lost.load(Ordering::Relaxed)
    }

    /// Writes what is there.
    fn drain(&self) {
        if let Some(sink) = &mut *lock(&self.sink) {
            self.drain_into(sink);
        }
    }

    fn drain_into(&self, sink: &mut Sink) {
        // No more than one round, since others wait for this thread too.
        for _ in 0..2 * self.half_of_ring {
            let Some(words) = self.ring.pop() else { break };
            let record = Record::from_words(words).expect("made of a record");
            sink.add(|lines, buffer| lines.record(&record, buffer));
        }
        for (ticks, remark) in std::mem::take(&mut *lock(&self.remarks)) {
            sink.add(|lines, buffer| lines.remark(ticks, &remark, buffer));
        }
        let (now, lost) = (sink.clock.now(), self.lost() + sink.unwritten);
        sink.lines.lost(now, lost, &mut sink.buffer);
        sink.write();
    }

    /// Writes what is left, and the file's end.
    pub fn complete(&self) {
        let mut sink = lock(&self.sink);
        let Some(mut sink) = sink.take() else { return };
        self.drain_into(&mut sink);
        sink.lines.end(&mut sink.buffer);
        sink.write();
        if let Some(failure) = &sink.failure {
            let (path, lost) = (sink.path.display(), self.lost() + sink.unwritten);
            eprintln!("phalanx: the timeline {path} is incomplete, {lost} events were lost: {failure}");
        }
    }

    fn is_complete(&self) -> bool {
        lock(&self.sink).is_none()
    }
}

impl Sink {
    fn add(&mut self, append: impl FnOnce(&mut Lines, &mut Vec<u8>)) {
        if self.failure.is_some() {
            self.unwritten += 1;
            return;
        }
        append(&mut self.lines, &mut self.buffer);
        if self.buffer.len() >= CHUNK {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.failure.is_none() {
            self.failure = self.file.write_all(&self.buffer).err();
        }
        self.buffer.clear();
    }
}

/// The thread, as a timeline knows it.
#[derive(Clone, Debug)]
pub struct Drainer(Thread);

impl Drainer {
    /// Has it look now.
    #[cold]
    pub fn wake(&self) {
        self.0.unpark();
    }
}

/// The timelines of this process, and the thread that looks after them while there are any.
static ENLISTED: Mutex<Enlisted> = Mutex::new(Enlisted { thread: None, tracks: Vec::new() });

struct Enlisted {
    thread: Option<Thread>,
    tracks: Vec<Arc<Track>>,
}

/// Has the thread look after a timeline too, and starts it if there is none.
pub fn enlist(track: &Arc<Track>) -> io::Result<Drainer> {
    let mut enlisted = lock(&ENLISTED);
    let thread = match &enlisted.thread {
        Some(thread) => thread.clone(),
        None => {
            let builder = std::thread::Builder::new().name("phalanx-trace".to_owned());
            builder.spawn(look_after_all)?.thread().clone()
        }
    };
    enlisted.thread = Some(thread.clone());
    enlisted.tracks.push(Arc::clone(track));
    Ok(Drainer(thread))
}

fn look_after_all() {
    while let Some(tracks) = still_open() {
        tracks.iter().for_each(|track| track.drain());
        std::thread::park_timeout(NAP);
    }
}

/// The timelines that are not complete; `None`, and the thread is to end, when there are none.
fn still_open() -> Option<Vec<Arc<Track>>> {
    let mut enlisted = lock(&ENLISTED);
    enlisted.tracks.retain(|track| !track.is_complete());
    if enlisted.tracks.is_empty() {
        enlisted.thread = None;
        return None;
    }
    Some(enlisted.tracks.clone())
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
