//! The library alone stays light: at most 30 crates in its own tree, itself included.
//!
//! Counted is what `cargo build -p phalanx` compiles on this machine with default features. The command, the
//! benchmarks and the tests may need more; a user's build does not see that.

use crate::tree::{Finding, Tree};

const CRATES_MAX: usize = 30;
const TREE: &[&str] = &["tree", "-p", "phalanx", "-e", "normal,build", "--prefix", "none", "--format", "{p}"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    match tree.cargo(TREE) {
        Ok(listing) => too_heavy(&listing).into_iter().collect(),
        Err(message) => vec![Finding::new("Cargo.lock", 1, message, "run `cargo fetch --locked`")],
    }
}

fn too_heavy(listing: &str) -> Option<Finding> {
    let mut crates: Vec<&str> =
        listing.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty()).collect();
    crates.sort_unstable();
    crates.dedup();
    let message =
        format!("the library's tree has {} crates, more than {CRATES_MAX}: {}", crates.len(), crates.join(", "));
    let heavy = crates.len() > CRATES_MAX;
    heavy
        .then(|| Finding::new("Cargo.toml", 1, message, "drop a dependency, or move what needs it into another member"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(crates: usize) -> String {
        (0..crates).map(|n| format!("c{n} v1.0.0\nc{n} v1.0.0 (*)\n")).collect()
    }

    #[test]
    fn the_limit_counts_each_crate_once() {
        assert!(too_heavy(&listing(30)).is_none());
        assert!(too_heavy(&listing(31)).is_some());
    }
}
