//! From the ranks' pipes to the launcher's stdout and stderr.
//!
//! Each of the two streams has an epoll set with its end of every rank's pipe, the [`Joiner`] that makes one stream of
//! their lines, and the [`Writer`] that writes it. A rank's pipe is read only while the writer has room, one read at
//! a time and in the order in which the kernel reports them ready, so no rank can crowd out the others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::{Errno, ioctl_fionbio};

use super::lines::{Author, Joiner, Partial};
use super::writer::Writer;

/// The capacity of a pipe, unless somebody has changed it.
const READ_SIZE: usize = 64 << 10;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Both output streams.
pub struct Console {
    bell: Arc<OwnedFd>,
    out: Stream,
    err: Stream,
}

impl Console {
    /// Starts to write to the launcher's stdout and stderr.
    pub fn open(tags: bool) -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let out = Stream::open(Writer::start(io::stdout(), Arc::clone(&bell))?, tags)?;
        let err = Stream::open(Writer::start(io::stderr(), Arc::clone(&bell))?, tags)?;
        Ok(Self { bell, out, err })
    }

    /// Takes over the reading ends of a rank's pipes. Ranks come in order, from 0.
    pub fn add_rank(&mut self, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<()> {
        self.out.add(stdout)?;
        self.err.add(stderr)
    }

    /// Becomes readable when the writers have made progress.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Makes the bell silent until the next progress.
    pub fn quieten_bell(&self) {
        let _ = rustix::io::read(&*self.bell, &mut [0_u8; 8]);
    }

    /// What to poll for output of the ranks: nothing while it could not be passed on.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.out, &self.err].into_iter().filter(|stream| stream.writer.has_room()).map(|stream| stream.ready.as_fd())
    }

    /// Passes on some of what the ranks have written; never blocks.
    pub fn pump(&mut self) {
        self.out.pump();
        self.err.pump();
    }

    /// Passes on what a rank wrote before it ended, so that its last words come before the message about its end.
    pub fn pump_rank(&mut self, rank: usize) {
        self.out.pump_rank(rank);
        self.err.pump_rank(rank);
    }

    /// Says something on stderr in the launcher's name.
    pub fn say(&mut self, message: &str) {
        let line = format!("phalanx run: {message}\n");
        self.err.pass_on(Author::Launcher, line.as_bytes());
    }

    /// The first stream that cannot be written to any more.
    pub fn failure(&self) -> Option<(&'static str, io::ErrorKind)> {
        let failure_of = |name, stream: &Stream| stream.writer.failure().map(|kind| (name, kind));
        failure_of("stdout", &self.out).or_else(|| failure_of("stderr", &self.err))
    }

    /// To be called again and again when no process is left that could write more: passes on some of the rest.
    pub fn drain(&mut self) -> Drained {
        let out = self.out.drain();
        let err = self.err.drain();
        out.min(err)
    }

    /// A number that grows with every byte written.
    pub fn progress(&self) -> u64 {
        self.out.writer.progress() + self.err.writer.progress()
    }
}

/// How far the last output has come. Two streams together are as far as the one that is less far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drained {
    /// There may be more to read at once. (Sleeping now could be for ever: pipes that have all come to their end wake
    /// nobody.)
    More,
    /// The bell will ring when there is progress.
    Waiting,
    /// All has reached the launcher's stdout and stderr.
    All,
}

struct Stream {
    /// An epoll set: readable when any of `sources` is.
    ready: OwnedFd,
    /// By rank.
    sources: Vec<Source>,
    joiner: Joiner,
    writer: Writer,
}

/// One rank's pipe.
struct Source {
    /// `None` after its end.
    pipe: Option<OwnedFd>,
    partial: Partial,
}

/// What a look at a stream's pipes has found.
enum Pumped {
    /// There was something, and there may be more.
    Some,
    /// All pipes are empty.
    Nothing,
    /// The writer has no room. The bell rings when it has.
    Full,
}

impl Stream {
    fn open(writer: Writer, tags: bool) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { ready, sources: Vec::new(), joiner: Joiner::new(tags), writer })
    }

    fn add(&mut self, pipe: OwnedFd) -> io::Result<()> {
        // The reading end's flag is ours alone: the rank's end is another open file.
        ioctl_fionbio(&pipe, true)?;
        let rank = epoll::EventData::new_u64(self.sources.len() as u64);
        epoll::add(&self.ready, &pipe, rank, epoll::EventFlags::IN)?;
        self.sources.push(Source { pipe: Some(pipe), partial: Partial::default() });
        Ok(())
    }

    fn pump(&mut self) -> Pumped {
        if !self.writer.has_room() {
            return Pumped::Full;
        }
        let mut events = Vec::with_capacity(64);
        if epoll::wait(&self.ready, spare_capacity(&mut events), Some(&NO_WAIT)).is_err() || events.is_empty() {
            return Pumped::Nothing;
        }
        for event in events {
            let rank = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if self.writer.has_room() {
                self.read(rank);
            }
        }
        Pumped::Some
    }

    fn pump_rank(&mut self, rank: usize) {
        while self.writer.has_room() && self.read(rank) {}
    }

    /// Reads once from a rank's pipe; true if there was something.
    fn read(&mut self, rank: usize) -> bool {
        let Some(Source { pipe: Some(pipe), partial }) = self.sources.get_mut(rank) else { return false };
        let searched = partial.buffer().len();
        partial.buffer().reserve(READ_SIZE);
        match rustix::io::read(pipe, spare_capacity(partial.buffer())) {
            Ok(0) => self.close(rank),
            Ok(_) => {
                let (joiner, writer) = (&mut self.joiner, &self.writer);
                partial.take_ready(searched, |lines| writer.push(joiner.join(Author::Rank(rank), lines)));
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(rank),
        }
        false
    }

    /// Forgets a rank's pipe (which takes it out of the epoll set) and passes on the rank's unfinished line.
    fn close(&mut self, rank: usize) {
        let source = &mut self.sources[rank];
        source.pipe = None;
        let rest = source.partial.take_rest();
        if !rest.is_empty() {
            self.pass_on(Author::Rank(rank), &rest);
        }
    }

    fn pass_on(&mut self, author: Author, text: &[u8]) {
        self.writer.push(self.joiner.join(author, text));
    }

    fn drain(&mut self) -> Drained {
        match self.pump() {
            Pumped::Some => return Drained::More,
            Pumped::Full => return Drained::Waiting,
            Pumped::Nothing => {}
        }
        // A pipe may still be open: a process outside of the job may have been given its end.
        for rank in 0..self.sources.len() {
            self.close(rank);
        }
        self.writer.push(self.joiner.finish());
        if self.writer.is_done() { Drained::All } else { Drained::Waiting }
    }
}
