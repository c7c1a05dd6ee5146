//! 64 ranks on whatever CPUs there are, with everything at once: late arrivals, time-outs, resumed and abandoned
//! waits, half-barriers, reductions, and groups by `split` and `subgroup` that overlap and live for a while.
//!
//! All ranks follow one *plan*, drawn from the seed step by step, so that collective calls meet; how each gets through
//! a step it draws for itself. Each checks the invariant by a *board* that it shares with the others: a rank stamps
//! the board before it arrives and after it has taken an arrival back, and nobody may pass a step while a stamp is
//! older than the step or says "taken back".
#![cfg(not(model))]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::block::{REDUCTIONS, reduced};
use common::children::{Children, Launch, role};
use common::ranks::{LIMIT, on_ranks};
use common::seeds::{Named, fresh_seed};
use phalanx::fabric::node::hash;
use phalanx::fabric::sim::Seeded;
use phalanx::{Abandoned, Algorithm, BarrierError, Group, Job, JobOptions, WaitPolicy};

/// What ranks tell each other, apart from the library: two numbers a rank.
trait Board: Sync {
    fn write(&self, at: usize, number: u64);
    fn read(&self, at: usize) -> u64;

    /// Even: about to arrive, or arrived. Odd: taken back.
    fn stamp(&self, rank: usize, number: u64) {
        self.write(2 * rank, number);
    }

    /// The last step that a rank has passed.
    fn note_passed(&self, rank: usize, step: u64) {
        self.write(2 * rank + 1, step);
    }
}

/// The board of threads.
struct Words(Vec<AtomicU64>);

impl Board for Words {
    fn write(&self, at: usize, number: u64) {
        self.0[at].store(number, Ordering::Relaxed);
    }

    fn read(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Relaxed)
    }
}

/// The board of processes: a file, which the kernel keeps the same for all of them.
struct Pages(File);

impl Board for Pages {
    fn write(&self, at: usize, number: u64) {
        self.0.write_all_at(&number.to_le_bytes(), at as u64 * 8).expect("a file in the temporary folder");
    }

    fn read(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at as u64 * 8).expect("a file in the temporary folder");
        u64::from_le_bytes(bytes)
    }
}

/// Stamps per step: each attempt takes two.
const STAMPS: u64 = 64;

/// One rank's way through the plan.
struct Walk<'walk> {
    world: &'walk Group,
    board: &'walk dyn Board,
    seed: u64,
    own: Seeded,
    kept: Vec<Group>,
}

impl<'walk> Walk<'walk> {
    fn new(job: &'walk Job, board: &'walk dyn Board, seed: u64) -> Self {
        let own = Seeded::new(hash(seed, &[job.rank() as u64]));
        Self { world: job.world(), board, seed, own, kept: Vec::new() }
    }

    fn me(&self) -> usize {
        self.world.rank()
    }

    fn take(&mut self, steps: u64) {
        for step in 1..=steps {
            let mut plan = Seeded::new(hash(self.seed, &[step]));
            match plan.below(8) {
                0 => self.split(step, &mut plan),
                1 => self.list(&mut plan),
                2 => self.reduce(step, &mut plan),
                _ => {}
            }
            self.cross(step);
            if plan.below(6) == 0 {
                self.kept.clear();
            }
        }
    }

    /// Late on purpose, sometimes, so that others wait, time out and give up meanwhile.
    fn dawdle(&mut self) {
        match self.own.below(40) {
            0 => std::thread::sleep(Duration::from_micros(self.own.below(3000) as u64)),
            1..6 => std::thread::yield_now(),
            _ => {}
        }
    }

    /// Passes one barrier of the world, perhaps after giving it up some times.
    fn cross(&mut self, step: u64) {
        for attempt in 0.. {
            self.dawdle();
            let stamp = step * STAMPS + 2 * attempt;
            self.board.stamp(self.me(), stamp);
            let is_patient = attempt >= STAMPS / 2 - 1;
            let is_passed = match self.own.below(6) {
                0 if !is_patient => self.try_blocking(),
                1 if !is_patient => self.try_in_halves(),
                _ => {
                    self.world.barrier_timeout(LIMIT).expect("all come in time");
                    true
                }
            };
            if is_passed {
                break;
            }
            self.board.stamp(self.me(), stamp + 1);
            self.assert_nobody_passed(step);
        }
        self.board.note_passed(self.me(), step);
        self.assert_all_arrived(step);
    }

    fn short(&mut self) -> Duration {
        Duration::from_micros(self.own.below(400) as u64)
    }

    /// A blocking call that may time out, and is then resumed or abandoned. Whether it was passed.
    fn try_blocking(&mut self) -> bool {
        let short = self.short();
        match self.world.barrier_timeout(short) {
            Ok(()) => return true,
            Err(BarrierError::TimedOut { missing, .. }) => assert!(!missing.contains(&self.me())),
            Err(error) => panic!("{error}"),
        }
        let gives_up = self.own.below(2) == 0;
        match if gives_up { self.world.abandon() } else { Ok(Abandoned::Nothing) } {
            Ok(Abandoned::Withdrawn) => false,
            Ok(Abandoned::Passed) => true,
            // Not tried, or another rank was stopped in the middle of the same for long: the arrival stands.
            Ok(Abandoned::Nothing) | Err(BarrierError::CannotAbandon { .. }) => {
                self.world.barrier_timeout(LIMIT).expect("resumed");
                true
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The same in halves.
    fn try_in_halves(&mut self) -> bool {
        let (short, gives_up) = (self.short(), self.own.below(2) == 0);
        let arrival = self.world.arrive().expect("nothing is outstanding");
        for _ in 0..self.own.below(20) {
            if arrival.test().expect("all agree") {
                return true;
            }
        }
        if arrival.wait_timeout(short).is_ok() {
            return true;
        }
        if !gives_up {
            arrival.wait_timeout(LIMIT).expect("resumed");
            return true;
        }
        match arrival.abandon() {
            Ok(Abandoned::Withdrawn) => false,
            Ok(Abandoned::Passed) => true,
            Ok(Abandoned::Nothing) => panic!("there was an arrival"),
            // Another rank was stopped in the middle of the same for long. The arrival stands, but is not held any
            // more.
            Err(_) => loop {
                match self.world.abandon() {
                    Ok(Abandoned::Withdrawn) => return false,
                    Ok(Abandoned::Passed) => return true,
                    Ok(Abandoned::Nothing) => panic!("there was an arrival"),
                    Err(BarrierError::CannotAbandon { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            },
        }
    }

    fn assert_all_arrived(&self, step: u64) {
        for other in 0..self.world.size() {
            let stamp = self.board.read(2 * other);
            let is_here = stamp / STAMPS > step || (stamp / STAMPS == step && stamp.is_multiple_of(2));
            assert!(is_here, "rank {} passed step {step}, rank {other} is at stamp {stamp}", self.me());
        }
    }

    fn assert_nobody_passed(&self, step: u64) {
        for other in 0..self.world.size() {
            let passed = self.board.read(2 * other + 1);
            assert!(passed < step, "rank {} took back its arrival at {step}, rank {other} passed", self.me());
        }
    }

    fn reduce(&mut self, step: u64, plan: &mut Seeded) {
        let operation = REDUCTIONS[plan.below(4)];
        let word = |rank: usize| hash(self.seed, &[step, rank as u64, 7]);
        let words: Vec<u64> = (0..self.world.size()).map(word).collect();
        let result = self.world.barrier_reduce_timeout(operation, words[self.me()], LIMIT);
        assert_eq!(result, Ok(reduced(operation, &words)), "{operation} at step {step}");
    }

    fn split(&mut self, step: u64, plan: &mut Seeded) {
        let colors = 1 + plan.below(9) as u64;
        let color = |rank: usize| hash(self.seed, &[step, rank as u64]) % colors;
        let key = |rank: usize| hash(self.seed, &[step, rank as u64]) % 5;
        let me = self.me();
        let group = self.world.split_timeout(color(me), key(me), LIMIT).expect("space and time");
        let mut members: Vec<usize> = (0..self.world.size()).filter(|rank| color(*rank) == color(me)).collect();
        members.sort_by_key(|rank| (key(*rank), *rank));
        assert_eq!(group.ranks(), members, "step {step}");
        self.kept.push(group);
        self.meet_in_kept();
    }

    /// Two lists that may overlap, made one after the other by their members only.
    fn list(&mut self, plan: &mut Seeded) {
        for _ in 0..2 {
            let size = self.world.size();
            let mut pool: Vec<usize> = (0..size).collect();
            let members: Vec<usize> =
                (0..1 + plan.below(size)).map(|_| pool.swap_remove(plan.below(pool.len()))).collect();
            if members.contains(&self.me()) {
                let group = self.world.subgroup(&members, LIMIT).expect("space and time");
                assert_eq!(group.ranks(), members);
                meet(&group);
            }
        }
    }

    fn meet_in_kept(&mut self) {
        self.kept.iter().for_each(meet);
    }
}

/// All members and nobody else: each brings a bit of its own.
fn meet(group: &Group) {
    let bit = |rank: usize| 1 << (rank % 64);
    let all = group.ranks().iter().fold(0, |sum, rank| sum | bit(*rank));
    let mine = group.ranks()[group.rank()];
    let result = group.barrier_reduce_timeout(phalanx::Operation::Or, bit(mine), LIMIT);
    assert_eq!(result, Ok(all));
}

fn stress_threads(test: &str, ranks: usize, steps: u64, options: &JobOptions) {
    let seed = fresh_seed();
    let _named = Named::new("stress", test, seed);
    eprintln!("{test}: seed {seed}, {options:?}");
    let board = Words((0..2 * ranks).map(|_| AtomicU64::new(0)).collect());
    on_ranks(ranks, options, |job| {
        let mut walk = Walk::new(&job, &board, seed);
        walk.take(steps);
        drop(walk);
        job.world().barrier_timeout(LIMIT).expect("the end");
        assert_eq!(job.world().space().0, formation_units(ranks), "all space but the world's is given back");
        job.world().barrier_timeout(LIMIT).expect("the end");
    });
}

fn formation_units(ranks: usize) -> usize {
    phalanx::coord::formation::units(ranks)
}

#[test]
fn sixty_four_threads_with_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let options = JobOptions::new().barrier(algorithm).wait(WaitPolicy::Adaptive);
        stress_threads("sixty_four_threads_with_every_algorithm", 64, 60, &options);
    }
}

#[test]
fn sixty_four_threads_that_park_at_once() {
    for algorithm in Algorithm::ALL {
        let options = JobOptions::new().barrier(algorithm).wait(WaitPolicy::Park);
        stress_threads("sixty_four_threads_that_park_at_once", 64, 40, &options);
    }
}

/// Spinning ranks keep each other from their CPUs for a time slice at a time, so few of them make few steps.
#[test]
fn six_threads_that_only_spin() {
    for algorithm in Algorithm::ALL {
        let options = JobOptions::new().barrier(algorithm).wait(WaitPolicy::Spin);
        stress_threads("six_threads_that_only_spin", 6, 15, &options);
    }
}

/// The library's own choice, small jobs, many steps.
#[test]
fn two_to_five_threads_left_to_choose() {
    for ranks in 2..=5 {
        stress_threads("two_to_five_threads_left_to_choose", ranks, 300, &JobOptions::new());
    }
}

/// A file in the temporary folder that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(launch: &Launch) -> Self {
        Self(std::env::temp_dir().join(&launch.name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn walk_as_process(role: &str) {
    let (seed, path) = role.split_once(' ').expect("seed and path");
    let file = File::options().read(true).write(true).open(Path::new(path)).expect("the board");
    let job = Job::from_env().expect("a rank of the job");
    let board = Pages(file);
    Walk::new(&job, &board, seed.parse().expect("a number")).take(40);
    job.world().barrier_timeout(LIMIT).expect("the end");
}

fn stress_processes(algorithm: Algorithm, wait: WaitPolicy) {
    const TEST: &str = "sixty_four_processes";
    let seed = fresh_seed();
    let _named = Named::new("stress", TEST, seed);
    eprintln!("{TEST}: seed {seed}, {algorithm}, {wait}");
    let launch = Launch::new(64);
    let board = Scratch::new(&launch);
    std::fs::write(&board.0, [0; 64 * 16]).expect("a file in the temporary folder");
    let role = format!("{seed} {}", board.0.display());
    let mut children = Children::default();
    for rank in 0..64 {
        let mut command = launch.rank(TEST, &role, rank);
        command.env("PHALANX_BARRIER", algorithm.name()).env("PHALANX_WAIT", wait.name());
        children.start(command);
    }
    children.answers();
    assert!(!launch.has_socket(), "the socket is gone");
}

#[test]
fn sixty_four_processes() {
    if let Some(role) = role() {
        return walk_as_process(&role);
    }
    stress_processes(Algorithm::Central, WaitPolicy::Adaptive);
    stress_processes(Algorithm::Tree, WaitPolicy::Park);
    stress_processes(Algorithm::Flat, WaitPolicy::Adaptive);
}

/// The CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// A rank that waits 100 ms for a late one uses less than 5% of a CPU over that wait: a bound on work done, not on the
/// time that it takes. The median of several, because the first wait of a thread pays for its page faults.
#[test]
fn waiting_for_a_late_rank_costs_little_cpu() {
    const LATE: Duration = Duration::from_millis(100);
    for algorithm in Algorithm::ALL {
        for wait in [WaitPolicy::Adaptive, WaitPolicy::Park] {
            let options = JobOptions::new().barrier(algorithm).wait(wait);
            let used = on_ranks(3, &options, |job| {
                let mut used: Vec<Duration> = (0..5).map(|_| wait_for_the_last(&job, LATE)).collect();
                used.sort();
                used[2]
            });
            for (rank, used) in used[..2].iter().enumerate() {
                assert!(*used < LATE / 20, "rank {rank}, {algorithm}, {wait}: {used:?} of CPU in {LATE:?}");
            }
        }
    }
}

/// Rank 2 is late on purpose; the CPU time that the wait for it takes.
fn wait_for_the_last(job: &Job, late: Duration) -> Duration {
    job.world().barrier_timeout(LIMIT).expect("all are there");
    if job.rank() == 2 {
        std::thread::sleep(late);
    }
    let before = cpu_time();
    job.world().barrier_timeout(LIMIT).expect("all come");
    cpu_time() - before
}
