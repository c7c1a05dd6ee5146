//! A thread that writes one of the launcher's own output streams, so that a reader who has fallen asleep stops this
//! thread and nothing else: the supervisor goes on hearing signals and burying ranks.
//!
//! Between the two stands a queue with a bound. When it is full the supervisor stops reading the ranks' pipes, the
//! pipes fill, and the ranks block in their own writes: back-pressure, from end to end. After each write the thread
//! rings the supervisor's bell (an eventfd).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

/// From here on the queue counts as full. A single push may exceed it by one long line.
const QUEUE_MAX: usize = 1 << 20;

/// The supervisor's end of the queue.
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    bell: Arc<OwnedFd>,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes in `chunks` and in the thread's hands.
    pending: usize,
    /// Bytes that have been written; only grows.
    written: u64,
    /// Why no more can be written.
    failure: Option<io::ErrorKind>,
}

impl Writer {
    /// Starts the thread. `bell` is rung whenever it has made progress or failed.
    pub fn start(stream: impl AsFd, bell: Arc<OwnedFd>) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), bell });
        let writer = Self { shared: Arc::clone(&shared) };
        // Never joined: whoever exits while a reader sleeps must not wait for it.
        thread::Builder::new().name("writer".to_owned()).spawn(move || shared.write_for_ever(&file))?;
        Ok(writer)
    }

    /// Appends to the queue. After a failure everything is thrown away.
    pub fn push(&self, bytes: Vec<u8>) {
        let mut queue = self.shared.lock();
        if queue.failure.is_none() && !bytes.is_empty() {
            queue.pending += bytes.len();
            queue.chunks.push_back(bytes);
            self.shared.work.notify_one();
        }
    }

    /// Is there room, so that more may be read from the ranks?
    pub fn has_room(&self) -> bool {
        self.shared.lock().pending < QUEUE_MAX
    }

    /// Has everything been written, or can nothing more be?
    pub fn is_done(&self) -> bool {
        self.shared.lock().pending == 0
    }

    /// How many bytes have been written so far.
    pub fn progress(&self) -> u64 {
        self.shared.lock().written
    }

    /// Why writing has failed, if it has.
    pub fn failure(&self) -> Option<io::ErrorKind> {
        self.shared.lock().failure
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self, file: &File) {
        loop {
            let mut queue = self.lock();
            while queue.chunks.is_empty() {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let chunks = std::mem::take(&mut queue.chunks);
            drop(queue);
            for chunk in chunks {
                self.settle(chunk.len(), write_all(file, &chunk));
                let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
            }
        }
    }

    fn settle(&self, length: usize, result: io::Result<()>) {
        let mut queue = self.lock();
        queue.pending -= length;
        match result {
            Ok(()) => queue.written += length as u64,
            Err(error) => {
                queue.failure.get_or_insert(error.kind());
                let dropped: usize = queue.chunks.drain(..).map(|chunk| chunk.len()).sum();
                queue.pending -= dropped;
            }
        }
    }
}

/// Writes all of `bytes`, also to a stream that somebody else has made non-blocking: the flag belongs to the open
/// file, which the launcher shares with whoever else has it.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
