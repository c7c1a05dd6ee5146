//! Runs checks by name and sums them up in the form of Rust's own test runner, which `scripts/test.sh` counts.

use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Default)]
pub struct Report {
    only: String,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Report {
    /// A report of the checks whose name contains `only`.
    pub fn new(only: &str) -> Self {
        Self { only: only.to_owned(), ..Self::default() }
    }

    /// Runs a check. It fails by panicking, with its reason on standard error.
    pub fn check(&mut self, name: &str, check: impl FnOnce()) {
        if !name.contains(&self.only) {
            return;
        }
        let verdict = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(()) => {
                self.passed += 1;
                "ok"
            }
            Err(_) => {
                self.failed.push(name.to_owned());
                "FAILED"
            }
        };
        println!("test {name} ... {verdict}");
    }

    /// Says that a check was not run.
    pub fn skip(&mut self, name: &str, why: &str) {
        if name.contains(&self.only) {
            println!("test {name} ... not run: {why}");
            self.skipped += 1;
        }
    }

    /// Prints the sum; `true` if all is well and something was run.
    pub fn finish(self) -> bool {
        let well = self.failed.is_empty() && self.passed > 0;
        if self.passed == 0 && self.failed.is_empty() {
            println!("no check has such a name");
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        let word = if well { "ok" } else { "FAILED" };
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped);
        println!("test result: {word}. {passed} passed; {failed} failed; {skipped} ignored");
        well
    }
}
