//! Seeds for random tests: every failure names its own, and `PHALANX_SEED` replays it.

use std::ops::Range;

/// Runs `body` for each of `seeds`, or only for the one in `PHALANX_SEED`. When `body` panics, prints the command that
/// repeats it for `test`, the name of the test as `cargo test` filters it.
///
/// # Panics
///
/// When `PHALANX_SEED` is no number.
pub fn for_each_seed(test: &str, seeds: Range<u64>, mut body: impl FnMut(u64)) {
    let seeds = match std::env::var("PHALANX_SEED") {
        Ok(text) => {
            let seed = text.parse().expect("PHALANX_SEED is a number");
            seed..seed + 1
        }
        Err(_) => seeds,
    };
    for seed in seeds {
        let _named = Named { test, seed };
        body(seed);
    }
}

struct Named<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat: PHALANX_SEED={} cargo test -p phalanx {}", self.seed, self.test);
        }
    }
}
