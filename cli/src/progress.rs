//! Progress on standard error: a bar for runs that a person watches, and a line now and then for all others, so that
//! one that is slow can be told from one that is stuck.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use phalanx_bench::compare::Progress;

/// The bar. It is drawn only between turns, never while ranks are measured, and is gone when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// An empty bar.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("  {bar:32} {pos}/{len} {msg}").expect("a valid template");
        bar.set_style(style);
        Self(bar)
    }
}

impl Progress for Bar {
    fn turn(&mut self, done: usize, all: usize, next: &str) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
        self.0.set_message(next.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Lines where nobody sees a bar.
pub struct Lines<W> {
    out: W,
    every: Duration,
    last: Instant,
}

impl<W: Write> Lines<W> {
    /// None yet.
    pub fn new(out: W) -> Self {
        Self { out, every: LINE_EVERY, last: Instant::now() }
    }
}

impl<W: Write> Progress for Lines<W> {
    fn turn(&mut self, done: usize, all: usize, next: &str) {
        if self.last.elapsed() >= self.every {
            self.last = Instant::now();
            // Whoever has closed it wants to hear nothing.
            let _ = writeln!(self.out, "phalanx bench: {done} of {all} turns done, next {next}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_now_and_then() {
        let mut lines = Lines { every: Duration::from_secs(3600), ..Lines::new(Vec::new()) };
        lines.turn(1, 9, "kill-node");
        assert_eq!(lines.out, b"");
        lines.every = Duration::ZERO;
        lines.turn(2, 9, "kill-node");
        assert_eq!(lines.out, b"phalanx bench: 2 of 9 turns done, next kill-node\n");
    }
}
