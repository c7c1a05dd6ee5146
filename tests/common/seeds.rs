//! Seeds for random tests: every failure names its own and the command that repeats it.

/// From so many seeds on a debug build tries a part of them.
const MANY: u64 = 20;
/// Each fifth: so no remainder of 2, 3 or 4 is left out. A release build, in which `scripts/test.sh` runs all of these
/// tests once more, tries every seed.
const DEBUG_STEP: usize = 5;

/// Runs `body` for each of `seeds`, or for the one in `PHALANX_SEED`; where they are many, a debug build runs it for each
/// fifth of them, as it takes ten times as long for one. `program` and `test` make the replay command.
pub fn for_each_seed(program: &str, test: &str, seeds: std::ops::Range<u64>, body: impl Fn(u64)) {
    let seeds = match std::env::var("PHALANX_SEED") {
        Ok(text) => {
            let seed = text.parse().expect("PHALANX_SEED is a number");
            seed..seed + 1
        }
        Err(_) => seeds,
    };
    let is_part = cfg!(debug_assertions) && seeds.end - seeds.start >= MANY && std::env::var("PHALANX_SEEDS").is_err();
    for seed in seeds.step_by(if is_part { DEBUG_STEP } else { 1 }) {
        let _named = Named::new(program, test, seed);
        body(seed);
    }
}

/// A seed of the clock, or the one in `PHALANX_SEED`, for runs that are never twice the same.
pub fn fresh_seed() -> u64 {
    let by_clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    };
    std::env::var("PHALANX_SEED").map_or_else(|_| by_clock(), |text| text.parse().expect("PHALANX_SEED is a number"))
}

/// Prints the replay command when the test panics while it lives.
pub struct Named {
    command: String,
}

impl Named {
    pub fn new(program: &str, test: &str, seed: u64) -> Self {
        Self { command: format!("PHALANX_SEED={seed} cargo test -p phalanx --test {program} {test}") }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat: {}", self.command);
        }
    }
}
