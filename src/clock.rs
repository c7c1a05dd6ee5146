//! The node's common clock, cheap enough to be read at every barrier.
//!
//! On x86-64, where the kernel itself keeps time by the time-stamp counter (so it is invariant and in step on all
//! CPUs), a reading is one `rdtsc`; on AArch64 it is the virtual counter; elsewhere it is `CLOCK_MONOTONIC`. Readings
//! are in *ticks*; the rank that makes the segment measures the length of a tick once and writes it into the header,
//! so that all ranks convert alike. Primitives never read a clock: drivers do, and pass the reading in.

use std::time::{Duration, Instant};

/// Where ticks come from. The numbers stand in the segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// The CPU's counter: `rdtsc`, or `cntvct_el0`.
    Counter = 1,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    Monotonic = 2,
}

/// A clock that all ranks of a node share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: ClockSource,
    ns_per_tick: f64,
    /// The reading at which the job's time is zero.
    origin: u64,
}

impl Clock {
    /// Chooses the source and measures its tick: about 5 ms with the CPU's counter.
    pub fn calibrate() -> Self {
        let source = if counter_is_the_kernels_clock() { ClockSource::Counter } else { ClockSource::Monotonic };
        let ns_per_tick = match source {
            ClockSource::Counter => measure_counter(Duration::from_millis(5)),
            ClockSource::Monotonic => 1.0,
        };
        Self { source, ns_per_tick, origin: read(source) }
    }

    /// The clock that another rank has calibrated, from its three numbers.
    ///
    /// Returns `None` when the numbers make no clock of this machine (a corrupt or foreign header).
    pub fn from_parts(source: u64, ns_per_tick_bits: u64, origin: u64) -> Option<Self> {
        let source = match source {
            1 if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) => ClockSource::Counter,
            2 => ClockSource::Monotonic,
            _ => return None,
        };
        let ns_per_tick = f64::from_bits(ns_per_tick_bits);
        let plausible = ns_per_tick.is_finite() && (1e-3..=1e6).contains(&ns_per_tick);
        plausible.then_some(Self { source, ns_per_tick, origin })
    }

    /// The three numbers that [`from_parts`](Self::from_parts) takes.
    pub fn to_parts(self) -> (u64, u64, u64) {
        (self.source as u64, self.ns_per_tick.to_bits(), self.origin)
    }

    /// Where its ticks come from.
    pub fn source(&self) -> ClockSource {
        self.source
    }

    /// The reading now, in ticks.
    #[inline]
    pub fn now(&self) -> u64 {
        read(self.source)
    }

    /// Nanoseconds since the job's segment was made, for a reading.
    pub fn since_origin_ns(&self, ticks: u64) -> u64 {
        self.ns(ticks.saturating_sub(self.origin))
    }

    /// The length of a span of ticks in nanoseconds.
    #[allow(clippy::cast_possible_truncation, reason = "float to integer saturates, which is what a clock wants")]
    pub fn ns(&self, ticks: u64) -> u64 {
        (ticks as f64 * self.ns_per_tick) as u64
    }

    /// The number of ticks in a span, at least one for a span that is not zero.
    #[allow(clippy::cast_possible_truncation, reason = "float to integer saturates: a huge time-out is for ever")]
    pub fn ticks(&self, span: Duration) -> u64 {
        let ticks = (span.as_nanos() as f64 / self.ns_per_tick) as u64;
        if span.is_zero() { 0 } else { ticks.max(1) }
    }

    /// The length of a tick in nanoseconds.
    pub fn ns_per_tick(&self) -> f64 {
        self.ns_per_tick
    }

    /// What a reading costs, in nanoseconds: the median of many short runs.
    pub fn overhead_ns(&self) -> f64 {
        const READS: u32 = 256;
        let mut runs: Vec<u64> = (0..101)
            .map(|_| {
                let start = self.now();
                for _ in 0..READS {
                    std::hint::black_box(self.now());
                }
                self.now() - start
            })
            .collect();
        runs.sort_unstable();
        runs[runs.len() / 2] as f64 * self.ns_per_tick / f64::from(READS)
    }
}

#[inline]
fn read(source: ClockSource) -> u64 {
    match source {
        ClockSource::Counter => read_counter(),
        ClockSource::Monotonic => read_monotonic(),
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "reading the time-stamp counter is an intrinsic")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: `rdtsc` is part of x86-64 and has no precondition; Linux does not disable it for user code by default,
    // and a process that has (PR_SET_TSC) also has a clock source other than "tsc" for its purposes.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code, reason = "reading the virtual counter takes an instruction")]
#[inline]
fn read_counter() -> u64 {
    let ticks: u64;
    // SAFETY: Linux lets user code read `cntvct_el0` on every AArch64 system; the read has no side effect.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn read_counter() -> u64 {
    read_monotonic()
}

#[allow(clippy::cast_sign_loss, reason = "CLOCK_MONOTONIC is never negative")]
fn read_monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether the kernel keeps its own time by the counter that user code can read: the kernel's word that the counter
/// neither stops, nor changes speed, nor differs between CPUs.
fn counter_is_the_kernels_clock() -> bool {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let Ok(name) = std::fs::read_to_string(path) else { return false };
    match name.trim() {
        "tsc" => cfg!(target_arch = "x86_64"),
        "arch_sys_counter" => cfg!(target_arch = "aarch64"),
        _ => false,
    }
}

/// The length of a tick. Both ends of the span are the readings that took the least time: in the midst of one this
/// process may lose its CPU, and what that adds would grow with each second that the clock measures later.
fn measure_counter(span: Duration) -> f64 {
    let (start_time, start) = read_both();
    while start_time.elapsed() < span {}
    loop {
        let (end_time, end) = read_both();
        let (elapsed, ticks) = (end_time - start_time, end.saturating_sub(start));
        if ticks > 0 {
            return elapsed.as_nanos() as f64 / ticks as f64;
        }
    }
}

/// The time and the counter at one moment, as nearly as can be had.
fn read_both() -> (Instant, u64) {
    const READINGS: usize = 16;
    let reading = || {
        let before = read_counter();
        let time = Instant::now();
        let took = read_counter().saturating_sub(before);
        (took, time, before + took / 2)
    };
    let (_, time, counter) = (0..READINGS).map(|_| reading()).min().expect("some readings");
    (time, counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_the_length_that_the_kernel_says() {
        let clock = Clock::calibrate();
        let (start, start_time) = (clock.now(), Instant::now());
        while start_time.elapsed() < Duration::from_millis(20) {}
        let (counted, elapsed) = (clock.ns(clock.now() - start), start_time.elapsed());
        let ratio = counted as f64 / elapsed.as_nanos() as f64;
        assert!((0.9..1.1).contains(&ratio), "the clock says {counted} ns, the kernel {elapsed:?}");
    }

    #[test]
    fn parts_make_the_same_clock_and_nonsense_makes_none() {
        let clock = Clock::calibrate();
        let (source, tick, origin) = clock.to_parts();
        let again = Clock::from_parts(source, tick, origin).expect("its own parts");
        assert_eq!(again.since_origin_ns(origin + 1000), clock.since_origin_ns(origin + 1000));
        assert!(Clock::from_parts(0, tick, origin).is_none());
        assert!(Clock::from_parts(3, tick, origin).is_none());
        assert!(Clock::from_parts(source, f64::NAN.to_bits(), origin).is_none());
        assert!(Clock::from_parts(source, (-1.0f64).to_bits(), origin).is_none());
    }

    #[test]
    fn spans_convert_both_ways_and_saturate() {
        let clock = Clock::from_parts(2, 1.0f64.to_bits(), 0).expect("a nanosecond clock");
        assert_eq!(clock.ticks(Duration::from_micros(5)), 5000);
        assert_eq!(clock.ns(5000), 5000);
        assert_eq!(clock.ticks(Duration::ZERO), 0);
        assert_eq!(clock.ticks(Duration::MAX), u64::MAX);
        assert_eq!(clock.since_origin_ns(0), 0);
    }
}
