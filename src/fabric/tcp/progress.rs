//! Progress stealing: who looks at the connections, a background thread or the ranks that wait.
//!
//! In each process a background thread serves the connections while the application computes. A rank that waits polls
//! them itself ([`Fabric::progress`](crate::fabric::Fabric::progress)): a message then needs no wake-up and no change
//! of threads. Both at once would fight: each message would wake the thread. So the first poll *steals* the progress:
//! the thread leaves the sockets and sleeps on a word of memory, and looks now and then whether somebody still polls.
//! When nobody has for a while, or when the rank goes to sleep ([`Await::hand_over`](crate::fabric::Await::hand_over)),
//! it takes the sockets back.
//!
//! ```text
//!              progress()                        nobody polled for STEAL_LASTS, or hand_over()
//!   Served ─────────────────▶ Stolen ────────────────────────────────────────────────────▶ Served
//!   thread in epoll_wait      thread asleep on the word `nap`
//! ```
//!
//! A rank that is through with its wait leaves the connections to the thread at once where others ask things of its
//! process, or serves them in passing (`pace`).
//!
//! Where requests follow each other closely a rank that would sleep on the connections polls them a little longer
//! (`attention`; [`TcpFabric::stay_awake_for`](super::TcpFabric::stay_awake_for)).

use std::os::fd::AsFd;
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::thread::futex;

use super::Shared;
use super::engine::Engine;
use super::pace::{Duty, Pace};
use crate::sync::{Ordering, spin_hint};

/// How long after the last poll the background thread takes the connections back. A request from another node that
/// comes in meanwhile waits as long.
const STEAL_LASTS: Duration = Duration::from_millis(2);

/// How long a process that polls instead of sleeping leaves the connections alone between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_nanos(100);

/// How long a fabric that is dropped sends what waits.
const LINGER: Duration = Duration::from_secs(3);
/// The longest time between two looks meanwhile.
const LINGERING_NAP: Duration = Duration::from_millis(1);

/// Who serves the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The background thread.
    Served = 0,
    /// Ranks that wait.
    Stolen = 1,
    /// Nobody any more: the thread is to end.
    Over = 2,
}

impl Shared {
    /// The background thread.
    pub(super) fn serve(&self) {
        loop {
            // SYNC POINT: progress. Relaxed: the lock of the engine orders what the turns do.
            match self.progress.load(Ordering::Relaxed) {
                progress if progress == Progress::Over as u32 => return,
                progress if progress == Progress::Stolen as u32 => {
                    self.quiet_kick();
                    self.sleep_while_stolen();
                }
                _ => self.serve_once(),
            }
        }
    }

    /// Waits for the next event, unless somebody steals the progress, and does what it asks for.
    fn serve_once(&self) {
        let is_served = || self.progress.load(Ordering::Relaxed) == Progress::Served as u32;
        let mut engine = self.engine();
        if !is_served() {
            return;
        }
        engine.watch_links();
        // No event tells of letters that a ring has taken in before.
        self.deliver(engine);
        let limit = self.engine().next_limit();
        let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
        self.wait_for_events_or_kick(left);
        self.quiet_kick();
        // Looked at under the lock: whoever steals the progress and then takes the lock knows that nothing comes in
        // behind its back any more.
        let mut engine = self.engine();
        if is_served() {
            engine.look_around();
            self.deliver(engine);
        }
    }

    /// Sleeps for as long as somebody polls or sleeps on the connections, and then takes them back.
    fn sleep_while_stolen(&self) {
        let seen = self.polls.load(Ordering::Relaxed);
        // SYNC POINT: nap. Before the two looks below; whoever changes what they see does so before it looks at the
        // nap.
        self.nap.store(1, Ordering::SeqCst);
        let is_stolen = self.progress.load(Ordering::SeqCst) == Progress::Stolen as u32;
        if is_stolen {
            let somebody_sleeps = self.asleep.load(Ordering::SeqCst) != 0;
            let span = Timespec::try_from(STEAL_LASTS).expect("milliseconds fit");
            let timeout = if somebody_sleeps { None } else { Some(&span) };
            let _ = futex::wait(&self.nap, futex::Flags::PRIVATE, 1, timeout);
        }
        self.nap.store(0, Ordering::Relaxed);
        let is_idle = self.polls.load(Ordering::Relaxed) == seen && self.asleep.load(Ordering::Relaxed) == 0;
        if is_idle {
            let (stolen, served) = (Progress::Stolen as u32, Progress::Served as u32);
            // Relaxed, unlike where a rank does it (`hand_over`): this thread looks at its own nap no more, and the
            // lock of the engine orders what it does next. A rank that begins to sleep just now is told what comes
            // in, as by any thread that takes something in.
            let _ = self.progress.compare_exchange(stolen, served, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Sleeps until something comes in by this process's connections, or somebody rouses those who sleep, or for no
    /// reason; not where `has_changed` says that what is waited for is there.
    pub(super) fn sleep_unless(&self, has_changed: impl Fn(&Engine) -> bool, timeout: Option<Duration>) {
        if self.has_heard_by_polling(&has_changed, timeout) {
            return;
        }
        // SYNC POINT: nap. The thread looks at it after it has begun its nap, which then lasts until it is woken; if it
        // has looked before, the nap has an end.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        self.steal();
        // From here on the thread takes nothing in. Another rank's thread that polls tells those who sleep; what has
        // come before is seen.
        let sleep = {
            let mut engine = self.engine();
            engine.watch_links();
            // Whoever raises the alarm rouses those who sleep after it, under the same lock; and so does who sets a
            // limit.
            (!has_changed(&engine)).then(|| engine.fall_asleep())
        };
        if let Some(sleep) = sleep {
            // The thread does not look at limits meanwhile.
            let left = sleep.limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            let timeout = timeout.into_iter().chain(left).min();
            match sleep.peals {
                None => self.wait_for_events(timeout),
                Some(peals) => self.wait_for_quiet(peals, timeout),
            }
            let mut engine = self.engine();
            engine.wake_up(&sleep);
            self.deliver(engine);
        }
        // SYNC POINT: nap. Before `wake_thread` looks at the nap: a nap that is not seen there has not looked at this
        // yet.
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        self.wake_thread();
    }

    /// Polls for a while instead of sleeping, where things come closely one after another ([`super::attention`]).
    /// `true`: nobody need sleep: something has come, what is waited for is there, or the time is over.
    fn has_heard_by_polling(&self, has_changed: impl Fn(&Engine) -> bool, timeout: Option<Duration>) -> bool {
        let mut engine = self.engine();
        let Some(until) = engine.begin_attention() else { return false };
        let limit = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let heard = engine.heard();
        loop {
            self.steal();
            let has_come = engine.heard() != heard;
            let now = Instant::now();
            let is_over = limit.is_some_and(|limit| now >= limit);
            if has_come || now >= until {
                engine.end_attention(has_come);
                return has_come;
            }
            if is_over || has_changed(&engine) {
                return true;
            }
            self.turn(engine);
            pause_between_looks();
            engine = self.engine();
        }
    }

    /// Looks what has come in, unless somebody else does so.
    pub(super) fn poll(&self) {
        self.steal();
        match self.engine.try_lock() {
            Ok(engine) => self.turn(engine),
            // As in `engine`: a panic elsewhere must not stop the connections.
            Err(TryLockError::Poisoned(poisoned)) => self.turn(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// A rank polls: the background thread must not. One system call, and only when it has been serving.
    #[inline]
    pub(super) fn steal(&self) {
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        if self.progress.load(Ordering::Relaxed) == Progress::Served as u32 {
            let (served, stolen) = (Progress::Served as u32, Progress::Stolen as u32);
            if self.progress.compare_exchange(served, stolen, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.kick();
            }
        }
    }

    fn kick(&self) {
        // The counter cannot be full: it is read whenever it is not 0.
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Has the background thread look around, if it is the one that serves.
    pub(super) fn kick_server(&self) {
        if self.progress.load(Ordering::Relaxed) == Progress::Served as u32 {
            self.kick();
        }
    }

    /// Gives the progress back to the background thread.
    pub(super) fn hand_over(&self) {
        // SYNC POINT: nap. Whoever sleeps on the connections looks at them, and has the thread take over when it wakes
        // up and goes. Two that wait for the same events would wake for each other's, again and again.
        if self.asleep.load(Ordering::SeqCst) != 0 {
            return;
        }
        let (served, stolen) = (Progress::Served as u32, Progress::Stolen as u32);
        if self.progress.compare_exchange(stolen, served, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            self.wake_thread();
        }
    }

    /// The same by a rank that is through with a wait, which began then, if others are better off so ([`super::pace`]).
    pub(super) fn hand_over_if_asked(&self, begun: Instant) {
        // Relaxed, here and below: what is missed is seen at the next call.
        let asked = self.asked.load(Ordering::Relaxed);
        let mut pace = self.pace();
        let hands_over = pace.ends_wait(asked, begun, Instant::now());
        self.is_paced.store(u32::from(pace.is_asked()), Ordering::Relaxed);
        drop(pace);
        if hands_over {
            self.hand_over();
        }
    }

    /// By a rank that need not wait: it serves the connections where it had better.
    #[inline]
    pub(super) fn serve_in_passing(&self) {
        if self.is_paced.load(Ordering::Relaxed) != 0 {
            self.serve_if_due();
        }
    }

    fn serve_if_due(&self) {
        let now = Instant::now();
        let mut pace = self.pace();
        let duty = pace.passes(now);
        self.is_paced.store(u32::from(pace.is_asked()), Ordering::Relaxed);
        drop(pace);
        match duty {
            Duty::Nothing => {}
            Duty::Serve => {
                self.poll();
                let asked = self.asked.load(Ordering::Relaxed);
                self.pace().note(asked, now);
            }
            Duty::HandOver => self.hand_over(),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // Whoever has panicked has left no half of it.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the background thread end.
    pub(super) fn end_thread(&self) {
        // SYNC POINT: nap. Before `wake_thread` looks at the nap; the thread looks at this after it has begun its nap.
        self.progress.store(Progress::Over as u32, Ordering::SeqCst);
        self.wake_thread();
        self.kick();
    }

    fn quiet_kick(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.kick, &mut count);
    }

    /// Ends the thread's nap, if it has one.
    fn wake_thread(&self) {
        // SYNC POINT: nap.
        if self.nap.swap(0, Ordering::SeqCst) == 1 {
            let _ = futex::wake(&self.nap, futex::Flags::PRIVATE, 1);
        }
    }

    /// Sends what is on its way: whoever has passed a barrier may end, and others wait for what it has posted, perhaps
    /// to a node to which it is only just connecting.
    pub(super) fn linger(&self) {
        let limit = Instant::now() + LINGER;
        loop {
            let next = {
                let mut engine = self.engine();
                engine.look_around();
                if !engine.has_unsent() {
                    return;
                }
                let next = engine.next_limit().map_or(limit, |next| next.min(limit));
                self.deliver(engine);
                next
            };
            let now = Instant::now();
            if now >= limit {
                return;
            }
            // The other thread may be told of it first, and then looks around itself.
            self.wait_for_events(Some(next.saturating_duration_since(now).min(LINGERING_NAP)));
        }
    }

    /// Sleeps until those have woken for whom the bell rings. They are about to look around.
    fn wait_for_quiet(&self, peals: u32, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let _ = futex::wait(&self.peals, futex::Flags::PRIVATE, peals, timeout.as_ref());
    }

    /// As [`wait_for_events`](Self::wait_for_events), for the background thread, until it is kicked. A kick is none of
    /// the events: it would keep those awake who sleep on the connections, and have stolen them, until this thread has
    /// a CPU.
    fn wait_for_events_or_kick(&self, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let waits = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let _ = poll(&mut [waits(self.epoll.as_fd()), waits(self.kick.as_fd())], timeout.as_ref());
    }

    /// Sleeps until the kernel has something to tell of a connection; it stays to be told.
    fn wait_for_events(&self, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let mut events = Vec::with_capacity(1);
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
    }
}

/// Leaves the engine to others for a moment.
fn pause_between_looks() {
    let until = Instant::now() + BETWEEN_LOOKS;
    while Instant::now() < until {
        spin_hint();
    }
}

/// A time-out for the kernel. One too long for its type is for ever.
fn timespec(timeout: Option<Duration>) -> Option<Timespec> {
    timeout.and_then(|span| Timespec::try_from(span).ok())
}
