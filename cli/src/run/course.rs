//! The course of a job, as a state machine without any IO: what has happened goes in with the time at which it
//! happened (`handle_*`), and what is to be done about the ranks comes out (`poll`).
//!
//! ```text
//!             a rank failed                200 ms                    2 s
//!  Running ────────────────────▶ Grace ──────────────▶ Terminating ───────▶ Killing
//!     │   time-out, start failed, output closed: SIGTERM    ▲                  ▲
//!     ├─────────────────────────────────────────────────────┤                  │
//!     │   the user's SIGINT, SIGTERM, …: that one, forwarded│                  │
//!     └─────────────────────────────────────────────────────┘  the front died ─┘
//! ```
//!
//! The first thing that ends a job is its verdict, and the verdict is the exit status; what follows from it (ranks
//! that fail because another has failed) changes nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use phalanx::FailureCause;

use super::signals;

/// How long ranks may take to notice by themselves that another has failed: a barrier's error is a better last word
/// than SIGTERM.
const GRACE: Duration = Duration::from_millis(200);
/// From SIGTERM, or whatever the user has sent, to SIGKILL.
const TERMINATION: Duration = Duration::from_secs(2);

/// How a rank ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal.
    Killed(i32),
    /// For the job, while its process lives: the others have declared it failed.
    Declared(FailureCause),
}

impl End {
    fn failure_status(self) -> Option<u8> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(status) => Some(status),
            Self::Killed(signal) => Some(signals::exit_status(signal)),
            // Which is what will end it, unless it does so by itself.
            Self::Declared(_) => Some(signals::exit_status(Signal::SIGKILL as i32)),
        }
    }

    /// The middle of a sentence that begins with the rank.
    pub fn describe(self) -> String {
        match self {
            Self::Exited(status) => format!("exited with status {status}"),
            Self::Killed(signal) => format!("was killed by {}", signals::describe(signal)),
            Self::Declared(cause) => format!("was declared failed: {cause}"),
        }
    }
}

/// Where the job is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// A rank has failed; the others may end by themselves.
    Grace {
        until: Instant,
    },
    /// The ranks have been asked to end.
    Terminating {
        until: Instant,
    },
    /// The ranks are to be killed.
    Killing,
}

/// What decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Success,
    Failed { status: u8 },
    TimedOut,
    Interrupted { signal: Signal },
    OutputClosed,
    LauncherFailed { status: u8 },
    Abandoned,
}

/// What is to be done about the ranks that still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say that the time is over, and send SIGTERM.
    TimeOut,
    /// Send SIGTERM.
    Terminate,
    /// Kill them.
    Kill,
}

/// One job's course. `handle_*` takes what has happened, `poll` gives what is due.
pub struct Course {
    phase: Phase,
    verdict: Verdict,
    keep_going: bool,
    /// The end of `--timeout`.
    time_out: Option<Instant>,
    /// Has every rank so far ended with status 0?
    all_well: bool,
    /// SIGTERM is due since something other than the clock asked for it.
    terminate_due: bool,
}

impl Course {
    /// A job that starts now.
    pub fn new(now: Instant, timeout: Option<Duration>, keep_going: bool) -> Self {
        Self {
            phase: Phase::Running,
            verdict: Verdict::Success,
            keep_going,
            // A time-out beyond what the clock can count is none.
            time_out: timeout.and_then(|timeout| now.checked_add(timeout)),
            all_well: true,
            terminate_due: false,
        }
    }

    /// A rank has ended. True if that is worth a message: it failed, and not because the job was ending anyway.
    pub fn handle_end(&mut self, now: Instant, end: End) -> bool {
        let Some(status) = end.failure_status() else { return false };
        self.all_well = false;
        let news = self.phase == Phase::Running;
        if news && self.verdict == Verdict::Success {
            self.verdict = Verdict::Failed { status };
        }
        if news && !self.keep_going {
            self.phase = Phase::Grace { until: now + GRACE };
        }
        news
    }

    /// The user has sent a signal, which is being forwarded.
    pub fn handle_signal(&mut self, now: Instant, signal: Signal) {
        if signals::asks_to_end(signal) {
            // With --keep-going a rank may have failed long ago: the job still ends because of the signal, but its
            // status is that rank's.
            self.set_verdict(Verdict::Interrupted { signal });
            self.begin_termination(now);
        }
    }

    /// Nobody reads the output any more.
    pub fn handle_output_closed(&mut self, now: Instant) {
        self.handle_stop(now, Verdict::OutputClosed);
    }

    /// The launcher cannot go on; the message has been said.
    pub fn handle_failure(&mut self, now: Instant, status: u8) {
        self.handle_stop(now, Verdict::LauncherFailed { status });
    }

    /// The front has died: nobody waits for this job, so nothing is worth a delay.
    pub fn handle_abandonment(&mut self) {
        self.verdict = Verdict::Abandoned;
        self.phase = Phase::Killing;
    }

    fn handle_stop(&mut self, now: Instant, verdict: Verdict) {
        self.set_verdict(verdict);
        self.terminate_due |= matches!(self.phase, Phase::Running | Phase::Grace { .. });
        self.begin_termination(now);
    }

    fn set_verdict(&mut self, verdict: Verdict) {
        if self.verdict == Verdict::Success {
            self.verdict = verdict;
        }
    }

    fn begin_termination(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Running | Phase::Grace { .. }) {
            self.phase = Phase::Terminating { until: now + TERMINATION };
        }
    }

    /// What is due by now.
    pub fn poll(&mut self, now: Instant) -> Option<Order> {
        if std::mem::take(&mut self.terminate_due) {
            return Some(Order::Terminate);
        }
        match self.phase {
            Phase::Running if self.time_out.is_some_and(|end| now >= end) => {
                self.set_verdict(Verdict::TimedOut);
                self.begin_termination(now);
                Some(Order::TimeOut)
            }
            Phase::Grace { until } if now >= until => {
                self.begin_termination(now);
                Some(Order::Terminate)
            }
            Phase::Terminating { until } if now >= until => {
                self.phase = Phase::Killing;
                Some(Order::Kill)
            }
            _ => None,
        }
    }

    /// When `poll` will have something to say if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => self.time_out,
            Phase::Grace { until } | Phase::Terminating { until } => Some(until),
            Phase::Killing => None,
        }
    }

    /// Should ranks still be started?
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Are the ranks to be killed without further waiting?
    pub fn is_killing(&self) -> bool {
        self.phase == Phase::Killing
    }

    /// May the output wait for a slow reader as long as it takes? Not when the job has been cut short.
    pub fn is_patient(&self) -> bool {
        matches!(self.verdict, Verdict::Success | Verdict::Failed { .. } | Verdict::LauncherFailed { .. })
    }

    /// The job's exit status, once it is over. `complete` says whether every rank was started and has ended by itself.
    pub fn status(&self, complete: bool) -> u8 {
        match self.verdict {
            Verdict::Success => 0,
            Verdict::Failed { status } | Verdict::LauncherFailed { status } => status,
            Verdict::TimedOut => 124,
            // All ranks took the signal as a wish to finish, and finished.
            Verdict::Interrupted { .. } if complete && self.all_well => 0,
            Verdict::Interrupted { signal } => signals::exit_status(signal as i32),
            Verdict::OutputClosed => signals::exit_status(Signal::SIGPIPE as i32),
            Verdict::Abandoned => signals::exit_status(Signal::SIGKILL as i32),
        }
    }
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
