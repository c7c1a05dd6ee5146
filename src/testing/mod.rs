//! What tests of several programs share, behind the cargo feature `testing`: no part of a user's build.
//!
//! [`conformance`] is the suite that every [`Fabric`](crate::fabric::Fabric) must pass. [`seeds`] names the seed of a
//! random test that fails. [`not_run`] is what a test says that finds nothing to try.

use std::fmt::Display;
use std::io::Write;

pub mod conformance;
pub mod seeds;

/// The calling test lacks something that this machine has not, and has tried nothing: says so where
/// `scripts/test.sh` sees it, which then counts the test as skipped, although its runner calls it passed. Once in a
/// test; not by one that has tried a part.
pub fn not_run(why: impl Display) {
    let thread = std::thread::current();
    let line = format!("test not run: {}: {why}\n", thread.name().unwrap_or("main"));
    // Not by `eprintln!`, of which the runner keeps to itself what a test says that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn what_was_not_run_is_told_though_the_runner_calls_it_passed() {
        const TEST: &str = "testing::tests::what_was_not_run_is_told_though_the_runner_calls_it_passed";
        const IN_VAIN: &str = "TESTING_IN_VAIN";
        if std::env::var_os(IN_VAIN).is_some() {
            return super::not_run("there is nothing");
        }
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        let output = command.args([TEST, "--exact"]).env(IN_VAIN, "1").output().expect("start the tests again");
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        let is_told = |line: &str| line.starts_with("test not run: ") && line.ends_with(": there is nothing");
        assert_eq!(errors.lines().filter(|line| is_told(line)).count(), 1, "{errors}");
    }
}
