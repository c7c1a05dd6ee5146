//! A progress bar on standard error, for runs that a person watches.

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
