//! Whether another node still lives, judged by its heartbeats: a score for each watched node, adaptive to how evenly
//! they come, so that a busy machine is called late and not dead.
//!
//! Each node's agent adds one to its [`HeartbeatWord`] every [`DetectorOptions::interval`] and pushes it into the
//! memory of the few nodes that watch it. A watcher looks at the word at its own ticks and tells a [`Detector`]
//! ([`Detector::observe`]), which answers with what has changed, for a log, and at any time with a [`Verdict`]
//! ([`Detector::assess`]). There is no clock, no socket and no thread in here: `now` is a time since any origin.
//! Heartbeats for tests and simulations are drawn by `model`.
//!
//! # When silence counts
//!
//! ```text
//! time-out used = max(timeout, mean + 6 · deviation, 1.5 · recent maximum), at most `stretch` · timeout
//! ```
//!
//! of the gaps between heartbeats as the watcher sees them. In calm it is `timeout`: with a heartbeat and a look every
//! 20 ms, gaps are 20 to 40 ms, and none of the other terms comes to 100.
//!
//! - From Chen, Toueg and Aguilera (*On the quality of service of failure detectors*, IEEE Transactions on Computers,
//!   2002): the time until which the next heartbeat is waited for is the time at which it is expected by those before,
//!   plus a margin. Their margin is a constant that the user derives from the network's behaviour; here `timeout` holds
//!   it, and it is a floor, so that a user who reads `timeout` may rely on it in calm.
//! - From Hayashibara and others (*The φ accrual failure detector*, SRDS 2004): the margin grows with the measured
//!   deviation. Under their normal distribution, six deviations are φ = 9: one alarm in 10⁹ gaps. The full accrual is
//!   not taken: a view of the members needs a yes or no, and one threshold on φ is a number of deviations.
//! - Neither's distribution has the tail of a CPU that is shared, whose rare pauses hardly move a deviation. So the
//!   largest gap of the last [`DetectorOptions::window`] (up to twice that) counts half again. As it is forgotten, the
//!   time-out shrinks back.
//! - Mean and variance are weighted exponentially (1/64), for a fixed size; Hayashibara's window has 1,000 gaps.
//!
//! # The watcher's own stalls
//!
//! A heartbeat may lie unread in a socket while the watcher's process does not run. So silence is *watched* time: the
//! time between two looks counts as one tick where it is longer than two. And after such a stall nothing is called
//! silent before a second look, an interval after the first, by when what lay there has been read. (The second look may
//! itself come late, up to the longest time-out, or else a watcher that never gets its CPU in time would never judge.)
//! Since only looks show silence, time alone never makes a node silent: [`Detector::observe`] does.
//!
//! # Words that make no sense
//!
//! Whatever changes the word is a sign of life, also a counter that jumps or goes back, but for an incarnation less
//! than the one believed: that is an agent of before, which is no news of this one. A greater incarnation is believed
//! when it has been seen to count on, so that a garbled word does not turn all right ones into old ones.
//!
//! # Costs
//!
//! 256 bytes or less for each watched node, whatever happens. A look is a few additions, and a square root where the
//! word has changed.

pub mod model;

use std::time::Duration;

/// How many deviations above the mean a gap may be.
const DEVIATIONS: f64 = 6.0;
/// How much of one gap goes into mean and variance.
const WEIGHT: f64 = 1.0 / 64.0;
/// A look that comes after more than this many ticks is a stall of the watcher.
const STALL_TICKS: u64 = 2;

const _: () = assert!(size_of::<Detector>() <= 256, "the size of a watched node, as documented");

/// A node's heartbeat, in the memory of those who watch it. Written by the node's agent; the last one, its
/// farewell, is passed on by others, too.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–47 | counter | heartbeats of this agent, counted from 1; 2^48 of them at 1 ms each take 8,900 years |
/// | 48–63 | incarnation | which of the node's agents; grows when another process takes the role |
///
/// The whole word is 0 before the first heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatWord(pub u64);

impl HeartbeatWord {
    const COUNTER_BITS: u32 = 48;
    const COUNTER_MASK: u64 = (1 << Self::COUNTER_BITS) - 1;
    const NONE: Self = Self(0);

    /// An agent's heartbeat; of the counter, the lower 48 bits.
    pub fn new(incarnation: u16, counter: u64) -> Self {
        Self(u64::from(incarnation) << Self::COUNTER_BITS | counter & Self::COUNTER_MASK)
    }

    /// Which agent.
    #[allow(clippy::cast_possible_truncation, reason = "the upper 16 bits of 64")]
    pub fn incarnation(self) -> u16 {
        (self.0 >> Self::COUNTER_BITS) as u16
    }

    /// Its how-manieth heartbeat.
    pub fn counter(self) -> u64 {
        self.0 & Self::COUNTER_MASK
    }

    /// The agent's next heartbeat.
    #[must_use]
    pub fn next(self) -> Self {
        Self::new(self.incarnation(), self.counter().wrapping_add(1))
    }
}

/// How heartbeats are sent and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorOptions {
    /// From one heartbeat to the next.
    pub interval: Duration,
    /// From one of the watcher's looks to the next.
    pub tick: Duration,
    /// After how much silence a node is given up, in calm.
    pub timeout: Duration,
    /// How many times as long the time-out may become where heartbeats come unevenly; with 1 it is fixed.
    pub stretch: u32,
    /// How long the largest gap is remembered, at least; at most twice as long.
    pub window: Duration,
    /// How long the first heartbeat is waited for.
    pub grace: Duration,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(20),
            tick: Duration::from_millis(20),
            timeout: Duration::from_millis(100),
            stretch: 10,
            window: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// Options that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DetectorOptionsError {
    /// Heartbeats too often or too seldom.
    #[error("heartbeats every {interval:?} (remedy: an interval of 1 ms to 1 minute)")]
    Interval {
        /// The interval.
        interval: Duration,
    },
    /// One late heartbeat would be an alarm.
    #[error(
        "a time-out of {timeout:?} for heartbeats every {interval:?} (remedy: a time-out of {least:?} at least and an hour at most, or a shorter interval)",
        least = .interval.saturating_mul(DetectorOptions::LEAST_INTERVALS)
    )]
    Timeout {
        /// The time-out.
        timeout: Duration,
        /// The interval.
        interval: Duration,
    },
    /// The watcher looks too seldom to tell.
    #[error(
        "looks every {tick:?} for a time-out of {timeout:?} (remedy: a tick of 1 ms at least and a third of the time-out at most)"
    )]
    Tick {
        /// The tick.
        tick: Duration,
        /// The time-out.
        timeout: Duration,
    },
    /// No stretch at all, or one without end.
    #[error("a time-out stretched up to {stretch} times (remedy: 1 to 100 times)")]
    Stretch {
        /// The stretch.
        stretch: u32,
    },
    /// Too short a memory for gaps.
    #[error("gaps remembered for {window:?} with a time-out of {timeout:?} (remedy: no less than the time-out)")]
    Window {
        /// The window.
        window: Duration,
        /// The time-out.
        timeout: Duration,
    },
    /// A node that begins would have less time than one that runs.
    #[error(
        "a first heartbeat waited for {grace:?} with a time-out of {timeout:?} (remedy: no less than the time-out)"
    )]
    Grace {
        /// The grace.
        grace: Duration,
        /// The time-out.
        timeout: Duration,
    },
}

impl DetectorOptions {
    /// The least time-out, in intervals.
    pub const LEAST_INTERVALS: u32 = 3;
    const LEAST: Duration = Duration::from_millis(1);
    const MOST_INTERVAL: Duration = Duration::from_secs(60);
    const MOST_TIMEOUT: Duration = Duration::from_secs(3600);
    const MOST_STRETCH: u32 = 100;

    /// Whether they can work.
    ///
    /// # Errors
    ///
    /// [`DetectorOptionsError`] names the first that cannot.
    pub fn check(&self) -> Result<(), DetectorOptionsError> {
        let Self { interval, tick, timeout, stretch, window, grace } = *self;
        if !(Self::LEAST..=Self::MOST_INTERVAL).contains(&interval) {
            return Err(DetectorOptionsError::Interval { interval });
        }
        if !(interval * Self::LEAST_INTERVALS..=Self::MOST_TIMEOUT).contains(&timeout) {
            return Err(DetectorOptionsError::Timeout { timeout, interval });
        }
        if !(Self::LEAST..=timeout / 3).contains(&tick) {
            return Err(DetectorOptionsError::Tick { tick, timeout });
        }
        if !(1..=Self::MOST_STRETCH).contains(&stretch) {
            return Err(DetectorOptionsError::Stretch { stretch });
        }
        if window < timeout {
            return Err(DetectorOptionsError::Window { window, timeout });
        }
        if grace < timeout {
            return Err(DetectorOptionsError::Grace { grace, timeout });
        }
        Ok(())
    }

    /// The longest that the time-out is ever stretched to.
    pub fn longest_timeout(&self) -> Duration {
        self.timeout.saturating_mul(self.stretch)
    }
}

/// What is thought of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not been heard yet, and need not have been.
    Unheard,
    /// Its heartbeats come.
    Healthy,
    /// Some do not.
    Late {
        /// How many have been missed in a row.
        missed: u64,
    },
    /// None has come for the time-out. Stays so until [`Detector::reset`] or until another agent counts on.
    Silent {
        /// When the word was last seen to change, or when the wait for the first heartbeat began.
        since: Duration,
    },
}

/// What a look has changed; for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first heartbeat.
    Heard {
        /// Which agent's.
        incarnation: u16,
    },
    /// A heartbeat is missed: the node is late from now on.
    Late {
        /// How many are missed.
        missed: u64,
    },
    /// More are missed.
    Missed {
        /// How many are missed in a row by now.
        missed: u64,
    },
    /// A late node's heartbeat has come.
    Recovered {
        /// How many were missed.
        missed: u64,
        /// How long the word had stood still, so far as it was watched.
        after: Duration,
    },
    /// The node is silent.
    Silent {
        /// When its word was last seen to change, or when the wait for the first heartbeat began.
        since: Duration,
        /// The time-out that has passed.
        timeout: Duration,
    },
    /// A silent node's word has changed, too late. Reported once for a silence.
    HeardTooLate {
        /// Which agent's.
        incarnation: u16,
    },
    /// Another agent has taken over and counts on. Ends a silence.
    Reborn {
        /// The new agent.
        incarnation: u16,
    },
    /// The counter went backwards; taken for a sign of life.
    Backwards {
        /// From here.
        from: u64,
        /// To here.
        to: u64,
    },
    /// An agent of before has written; ignored. Reported once for each in a row.
    Ignored {
        /// The word.
        word: u64,
    },
}

/// What has been counted since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Looks that found the word changed.
    pub heard: u64,
    /// Heartbeats that were not there when they should have been.
    pub missed: u64,
    /// Times that a late node has recovered.
    pub recovered: u64,
    /// Stalls of the watcher itself.
    pub stalls: u64,
}

/// One watched node.
///
/// - A look goes in by [`observe`](Self::observe); it alone changes the verdict.
/// - Out come the look's [`Event`], and by getters the [`Verdict`], the time-out now in use and the [`Score`].
/// - [`reset`](Self::reset) is the caller's word that the node begins anew.
#[derive(Clone, Debug)]
pub struct Detector {
    pace: Pace,
    least_ns: u64,
    grace_ns: u64,
    state: State,
    heartbeat: Heartbeat,
    looks: Looks,
    gaps: Gaps,
    score: Score,
}

/// The times that looks are measured by.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval_ns: u64,
    tick_ns: u64,
    longest_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Unheard,
    Healthy,
    Late { missed: u64 },
    Silent { is_heard_again: bool },
}

impl Detector {
    /// Begins to watch a node that has `grace` from `now` on to be heard.
    ///
    /// # Errors
    ///
    /// [`DetectorOptionsError`].
    pub fn new(options: DetectorOptions, now: Duration) -> Result<Self, DetectorOptionsError> {
        options.check()?;
        let (interval_ns, least_ns) = (ns(options.interval), ns(options.timeout));
        Ok(Self {
            pace: Pace { interval_ns, tick_ns: ns(options.tick), longest_ns: ns(options.longest_timeout()) },
            least_ns,
            grace_ns: ns(options.grace),
            state: State::Unheard,
            heartbeat: Heartbeat::NONE,
            looks: Looks::new(ns(now)),
            gaps: Gaps::new(interval_ns, least_ns, ns(options.window), ns(now)),
            score: Score::default(),
        })
    }

    /// A look at the node's word, changed or not.
    pub fn observe(&mut self, word: u64, now: Duration) -> Option<Event> {
        let now_ns = ns(now);
        if self.looks.look(now_ns, self.pace) {
            self.score.stalls += 1;
        }
        let news = self.heartbeat.read(HeartbeatWord(word));
        match news {
            News::Nothing => self.judge(),
            News::Ignored { word } => self.judge().or(Some(Event::Ignored { word })),
            _ => self.hear(news, now_ns),
        }
    }

    /// What is thought of the node at `now`. Between looks a node may become late by time alone, but never silent.
    pub fn assess(&self, now: Duration) -> Verdict {
        let unseen_ns = self.looks.counted(ns(now), self.pace);
        match self.state {
            State::Unheard => Verdict::Unheard,
            State::Silent { .. } => Verdict::Silent { since: Duration::from_nanos(self.looks.changed_ns) },
            State::Healthy | State::Late { .. } => match self.missed(self.looks.watched_ns.saturating_add(unseen_ns)) {
                0 => Verdict::Healthy,
                missed => Verdict::Late { missed },
            },
        }
    }

    /// The node begins anew: it has its grace from `now` on. What has been measured, and which agents are of before,
    /// stays known.
    pub fn reset(&mut self, now: Duration) {
        self.state = State::Unheard;
        self.looks = Looks::new(ns(now));
    }

    /// The node has shown otherwise that it lives, by an answer: its silence begins anew, also if it had been called
    /// silent. How evenly its heartbeats come is another matter.
    pub fn note_life(&mut self, now: Duration) {
        self.looks.change(ns(now));
        if !matches!(self.state, State::Unheard) {
            self.state = State::Healthy;
        }
    }

    /// After how much watched silence the node would now be given up.
    pub fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout_ns())
    }

    /// What has been counted.
    pub fn score(&self) -> Score {
        self.score
    }

    fn timeout_ns(&self) -> u64 {
        match self.state {
            State::Unheard => self.grace_ns,
            _ => self.gaps.timeout_ns.clamp(self.least_ns, self.pace.longest_ns),
        }
    }

    /// A gap may be two intervals when all is well: a heartbeat that comes just before a look, one just after one.
    fn missed(&self, watched_ns: u64) -> u64 {
        (watched_ns / self.pace.interval_ns).saturating_sub(1)
    }

    /// The word has changed.
    fn hear(&mut self, news: News, now_ns: u64) -> Option<Event> {
        if let State::Silent { is_heard_again } = &mut self.state {
            return match news {
                News::Confirmed { incarnation, .. } => {
                    self.revive(now_ns);
                    Some(Event::Reborn { incarnation })
                }
                _ if std::mem::replace(is_heard_again, true) => None,
                _ => Some(Event::HeardTooLate { incarnation: self.heartbeat.latest.incarnation() }),
            };
        }
        let before = std::mem::replace(&mut self.state, State::Healthy);
        let silence = self.looks.change(now_ns);
        self.score.heard += 1;
        let is_first = matches!(before, State::Unheard);
        // From one agent's last to another's first heartbeat is no gap between heartbeats.
        if !is_first && news != News::Newcomer {
            self.gaps.add(silence, now_ns, self.pace.longest_ns);
        }
        match before {
            State::Unheard => Some(Event::Heard { incarnation: self.heartbeat.latest.incarnation() }),
            State::Late { missed } => {
                self.score.recovered += 1;
                Some(Event::Recovered { missed, after: Duration::from_nanos(silence.watched_ns) })
            }
            State::Healthy | State::Silent { .. } => news.event(),
        }
    }

    fn revive(&mut self, now_ns: u64) {
        self.state = State::Healthy;
        self.looks.change(now_ns);
        self.score.heard += 1;
    }

    /// The word has stood still.
    fn judge(&mut self) -> Option<Event> {
        let watched_ns = self.looks.watched_ns;
        if matches!(self.state, State::Silent { .. }) {
            return None;
        }
        let timeout_ns = self.timeout_ns();
        if watched_ns >= timeout_ns && self.looks.stalled_ns.is_none() {
            self.state = State::Silent { is_heard_again: false };
            let since = Duration::from_nanos(self.looks.changed_ns);
            return Some(Event::Silent { since, timeout: Duration::from_nanos(timeout_ns) });
        }
        let missed = self.missed(watched_ns);
        match self.state {
            State::Healthy if missed > 0 => {
                self.score.missed = self.score.missed.saturating_add(missed);
                self.state = State::Late { missed };
                Some(Event::Late { missed })
            }
            State::Late { missed: before } if missed > before => {
                self.score.missed = self.score.missed.saturating_add(missed - before);
                self.state = State::Late { missed };
                Some(Event::Missed { missed })
            }
            _ => None,
        }
    }
}

/// The watcher's looks since the word last changed.
#[derive(Clone, Copy, Debug)]
struct Looks {
    last_ns: u64,
    changed_ns: u64,
    /// Time without a change, stalls discounted.
    watched_ns: u64,
    /// The first look after a stall, until a second has followed an interval later.
    stalled_ns: Option<u64>,
    /// Whether `watched_ns` leaves something out.
    has_stalled: bool,
}

/// How long the word stood still.
#[derive(Clone, Copy, Debug)]
struct Silence {
    watched_ns: u64,
    has_stalled: bool,
}

impl Looks {
    fn new(now_ns: u64) -> Self {
        Self { last_ns: now_ns, changed_ns: now_ns, watched_ns: 0, stalled_ns: None, has_stalled: false }
    }

    /// Another look; whether the watcher has stalled before it.
    fn look(&mut self, now_ns: u64, pace: Pace) -> bool {
        let span_ns = now_ns.saturating_sub(self.last_ns);
        let is_stall = is_stall(span_ns, pace);
        self.watched_ns = self.watched_ns.saturating_add(self.counted(now_ns, pace));
        self.has_stalled |= is_stall;
        self.last_ns = self.last_ns.max(now_ns);
        let is_second = self.stalled_ns.is_some_and(|first_ns| now_ns.saturating_sub(first_ns) >= pace.interval_ns);
        match () {
            () if is_second && span_ns <= pace.longest_ns => self.stalled_ns = None,
            () if is_stall => self.stalled_ns = Some(now_ns),
            () => {}
        }
        is_stall
    }

    /// How much of the time from the last look to `now_ns` counts.
    fn counted(&self, now_ns: u64, pace: Pace) -> u64 {
        let span_ns = now_ns.saturating_sub(self.last_ns);
        if is_stall(span_ns, pace) { pace.tick_ns } else { span_ns }
    }

    /// The word has changed: how long it had not.
    fn change(&mut self, now_ns: u64) -> Silence {
        let silence = Silence { watched_ns: self.watched_ns, has_stalled: self.has_stalled };
        (self.watched_ns, self.has_stalled) = (0, false);
        self.changed_ns = self.changed_ns.max(now_ns);
        silence
    }
}

fn is_stall(span_ns: u64, pace: Pace) -> bool {
    span_ns > STALL_TICKS * pace.tick_ns
}

/// What has been read in the word.
#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    /// The last of the agent that is believed to be the node's.
    believed: HeartbeatWord,
    /// The last of a later agent, which has not been seen to count on yet.
    candidate: Option<HeartbeatWord>,
    /// The last sign of life, of either.
    latest: HeartbeatWord,
    /// Whose words were ignored last.
    ignored: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The word is as it was; or an agent of before goes on writing.
    Nothing,
    /// An agent of before has written.
    Ignored { word: u64 },
    /// The believed agent has counted on.
    Counted,
    /// It has counted back.
    Backwards { from: u64, to: u64 },
    /// A later agent has written, or so it seems.
    Newcomer,
    /// It has counted on: it is believed.
    Confirmed { incarnation: u16, is_first: bool },
}

impl News {
    fn event(self) -> Option<Event> {
        match self {
            Self::Backwards { from, to } => Some(Event::Backwards { from, to }),
            Self::Confirmed { incarnation, is_first: false } => Some(Event::Reborn { incarnation }),
            _ => None,
        }
    }
}

impl Heartbeat {
    const NONE: Self =
        Self { believed: HeartbeatWord::NONE, candidate: None, latest: HeartbeatWord::NONE, ignored: None };

    fn read(&mut self, word: HeartbeatWord) -> News {
        if word == self.believed || Some(word) == self.candidate {
            return News::Nothing;
        }
        let (incarnation, believed) = (word.incarnation(), self.believed.incarnation());
        // Nobody writes the empty word; so it is no counting back of incarnation 0.
        if incarnation < believed || word == HeartbeatWord::NONE {
            let is_known = self.ignored.replace(incarnation) == Some(incarnation);
            return if is_known { News::Nothing } else { News::Ignored { word: word.0 } };
        }
        self.latest = word;
        if incarnation == believed {
            return self.count(word);
        }
        let before = self.candidate.replace(word);
        let counts_on =
            |before: HeartbeatWord| before.incarnation() == incarnation && before.counter() < word.counter();
        if !before.is_some_and(counts_on) {
            return News::Newcomer;
        }
        let is_first = self.believed == HeartbeatWord::NONE;
        *self = Self { believed: word, latest: word, ..Self::NONE };
        News::Confirmed { incarnation, is_first }
    }

    fn count(&mut self, word: HeartbeatWord) -> News {
        let from = std::mem::replace(&mut self.believed, word).counter();
        let to = word.counter();
        if to < from { News::Backwards { from, to } } else { News::Counted }
    }
}

/// The gaps between heartbeats, as the watcher sees them.
#[derive(Clone, Copy, Debug)]
struct Gaps {
    mean_ns: f64,
    variance: f64,
    /// The largest of the window that runs, and of the one before.
    largest_ns: [u64; 2],
    window_began_ns: u64,
    window_ns: u64,
    /// What the measures say, before it is bounded.
    timeout_ns: u64,
}

impl Gaps {
    fn new(interval_ns: u64, least_ns: u64, window_ns: u64, now_ns: u64) -> Self {
        let mean_ns = as_float(interval_ns);
        Self { mean_ns, variance: 0.0, largest_ns: [0; 2], window_began_ns: now_ns, window_ns, timeout_ns: least_ns }
    }

    /// A gap with a stall of the watcher in it was this long at least: that is news of the largest only.
    fn add(&mut self, gap: Silence, now_ns: u64, longest_ns: u64) {
        let gap_ns = gap.watched_ns.min(longest_ns);
        self.turn_window(now_ns);
        self.largest_ns[0] = self.largest_ns[0].max(gap_ns);
        if !gap.has_stalled {
            let above = as_float(gap_ns) - self.mean_ns;
            self.mean_ns += WEIGHT * above;
            self.variance = (1.0 - WEIGHT) * (self.variance + WEIGHT * above * above);
        }
        let expected_ns = as_whole(self.mean_ns + DEVIATIONS * self.variance.sqrt());
        let largest_ns = self.largest_ns[0].max(self.largest_ns[1]);
        self.timeout_ns = expected_ns.max(largest_ns.saturating_add(largest_ns / 2));
    }

    fn turn_window(&mut self, now_ns: u64) {
        let age_ns = now_ns.saturating_sub(self.window_began_ns);
        if age_ns < self.window_ns {
            return;
        }
        let is_next = age_ns < self.window_ns.saturating_mul(2);
        self.largest_ns = [0, if is_next { self.largest_ns[0] } else { 0 }];
        self.window_began_ns = now_ns;
    }
}

/// Saturating: 584 years are enough.
fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "a measure, not a count")]
fn as_float(ns: u64) -> f64 {
    ns as f64
}

/// What a cast of a negative number or too large a one gives is the bound next to it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts from floats saturate")]
fn as_whole(ns: f64) -> u64 {
    ns as u64
}

#[cfg(test)]
mod tests;
