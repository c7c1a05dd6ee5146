//! The thread that learns first that another process of its node dies.
//!
//! It holds its own process's lifeline (`cluster::watch::lifeline`) and sleeps on those of the others. When one is cut,
//! `/proc` says how that process is ending, and the rank's end is noted: survivors have their errors while the kernel
//! still frees the dead one's memory. What the dead held is taken when its pidfd tells that it is gone
//! ([`super::Watcher`]).
//!
//! Where `/proc` does not say how (an exit with status 0; a kernel before 5.17), the pidfd is waited for. If the
//! process is still there after the failure time-out, it runs another program, or is long in dying: it has failed.
//!
//! The kernel wakes only one of those who sleep on a strand of a lifeline. On a job's only node the alarm that it
//! raises tells all others; where ranks sleep on connections, too, it wakes the others that sleep there, and each
//! rouses its own process.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::ClockId;

use super::super::failure::{Process, note_end};
use super::{Alert, cause_of, obituary_of, process_of};
use crate::cluster::view::{self, FailureCause};
use crate::cluster::watch::ProcessState;
use crate::cluster::watch::lifeline::{self, Lifeline, STRANDS};
use crate::fabric::Topology;
use crate::fabric::shm::{Segment, deadline, wait_for};
use crate::sync::{AtomicU32, Ordering};

/// How many words the kernel lets a thread sleep on.
const MOST_WORDS: usize = 128;

/// Holds and watches lifelines until it is dropped.
#[derive(Debug)]
pub(super) struct Vigil {
    is_over: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
pub(super) struct Lookout {
    pub segment: Arc<Segment>,
    pub topology: Arc<Topology>,
    pub here: usize,
    /// This rank's place on its node.
    pub local: usize,
    /// Whose lifelines are watched, by their places on the node.
    pub watched: Vec<usize>,
    /// How long a process may be there after its lifeline was cut, if nobody says how it ends.
    pub patience: Duration,
    /// Tells this process's other threads.
    pub alert: Alert,
}

impl Vigil {
    /// Begins. `Ok(None)` where the kernel cannot do it; pidfds then tell of all deaths.
    pub fn start(mut lookout: Lookout) -> std::io::Result<Option<Self>> {
        lookout.watched.truncate(MOST_WORDS - 1);
        let is_over = Arc::new(AtomicU32::new(0));
        if !can_sleep_on_many(&is_over) {
            return Ok(None);
        }
        let over = Arc::clone(&is_over);
        let (begun, has_begun) = channel();
        let thread =
            std::thread::Builder::new().name("phalanx-vigil".to_owned()).spawn(move || lookout.run(&over, &begun))?;
        // A rank that has met the others holds its lifeline.
        let _ = has_begun.recv();
        Ok(Some(Self { is_over, thread: Some(thread) }))
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        // Relaxed: nothing is told by it but itself.
        self.is_over.store(1, Ordering::Relaxed);
        lifeline::wake_all(&self.is_over);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether there is `futex_waitv` (Linux 5.16), and nothing forbids it.
fn can_sleep_on_many(word: &AtomicU32) -> bool {
    let other_than_seen = wait_for(word, 1);
    let slept = futex::waitv(&[other_than_seen], futex::WaitvFlags::empty(), None, ClockId::Monotonic);
    slept == Err(Errno::AGAIN)
}

/// A process whose lifeline was cut.
struct Suspect {
    local: usize,
    since: Instant,
}

impl Lookout {
    fn run(mut self, is_over: &AtomicU32, begun: &Sender<()>) {
        crate::scheduling::wake_soon();
        // The vigils of a node's processes on different CPUs: on one of them the kernel frees the dead one's memory,
        // and lets nobody run there meanwhile.
        crate::machine::stay_on_one_cpu(self.local);
        // A process whose own lifeline cannot be held is told of by its pidfd.
        let segment = Arc::clone(&self.segment);
        let strand = |index| segment.half(segment.layout().lifeline(self.local, index));
        let _own = Lifeline::hold(std::array::from_fn(strand));
        let _ = begun.send(());
        let mut suspects = Vec::new();
        while is_over.load(Ordering::Relaxed) == 0 {
            // Seen before they are looked at: what changes behind the look ends the sleep at once.
            // SYNC POINT: lifeline. Acquire pairs with the holder's store, and with the kernel's mark.
            let seen: Vec<u32> = self.watched.iter().map(|local| self.strand(*local).load(Ordering::Acquire)).collect();
            let since = Instant::now();
            let (cut, watched) = std::mem::take(&mut self.watched)
                .into_iter()
                .zip(&seen)
                .partition::<Vec<_>, _>(|(_, value)| lifeline::is_cut(**value));
            self.watched = watched.into_iter().map(|(local, _)| local).collect();
            if cut.is_empty() {
                let limit_of = |suspect: &Suspect| suspect.since.checked_add(self.patience);
                self.sleep(is_over, &seen, suspects.iter().filter_map(limit_of).min());
            }
            suspects.extend(cut.into_iter().map(|(local, _)| Suspect { local, since }));
            suspects.retain(|suspect| !self.has_judged(suspect));
        }
    }

    /// The strand of a process's lifeline that this one looks at.
    fn strand(&self, local: usize) -> &AtomicU32 {
        self.segment.half(self.segment.layout().lifeline(local, self.local % STRANDS))
    }

    /// Until a lifeline changes, this is over, or the time has come.
    fn sleep(&self, is_over: &AtomicU32, seen: &[u32], until: Option<Instant>) {
        let of_others =
            self.watched.iter().zip(seen).map(|(local, value)| wait_for(self.strand(*local), u64::from(*value)));
        let words: Vec<futex::Wait> = std::iter::once(wait_for(is_over, 0)).chain(of_others).collect();
        let until = until.and_then(|until| deadline(until.saturating_duration_since(Instant::now())));
        // Whatever ends it, the caller looks again.
        let _ = futex::waitv(&words, futex::WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic);
    }

    /// Notes how a suspect's process ends, if that can be said. Whether there is nothing more to do about it here.
    fn has_judged(&self, suspect: &Suspect) -> bool {
        let Suspect { local, since } = *suspect;
        let process = process_of(&self.segment, local);
        if view::has_ended(&*self.segment, &self.segment.layout(), local) {
            self.tell(local);
            return true;
        }
        // Read before the question: this process may be stopped between the two, and what it then heard is old.
        let is_patient = since.elapsed() < self.patience;
        let cause = match process.ending() {
            Ok(Some(end)) => cause_of(end),
            _ if is_patient => {
                return process.state().is_ok_and(|state| state == ProcessState::Gone);
            }
            _ => FailureCause::Died,
        };
        let obituary = obituary_of(&self.topology, self.here, local, cause);
        note_end(&self.segment, local, obituary, Process::MayAct);
        self.tell(local);
        true
    }

    fn tell(&self, local: usize) {
        if self.alert.raise() {
            lifeline::wake_all(self.strand(local));
        }
    }
}
