//! One rank of Phalanx in a contest: the same loop as the rivals' (`bench/rivals/contest.h`).

use std::path::PathBuf;

use phalanx::clock::Clock;
use phalanx::{Group, Job, Operation};
use serde::{Deserialize, Serialize};

pub use crate::contest::phalanx::{Contestant, is_there};
use crate::contest::record::{self, Head, Possession, Record};
use crate::contest::{Contest, OBJECTS_MAX, phalanx as objects};
use crate::rank::{Choice, Random, RankError, job_options, pin_in};

/// The hidden subcommand that makes a program a rank; its argument is a [`ContestTask`] as JSON.
pub const CONTESTANT_COMMAND: &str = "bench-contestant";

/// The share of a turn that the warm-up may take on top of it.
const WARMUP_SHARE: f64 = 0.2;
/// How long before the start all are told of it.
const HEAD_START_NS: f64 = 2e6;
/// How long a batch of pairs is to last: the clock's reads are then no part of it.
const BATCH_NS: f64 = 20_000.0;
/// At most so many batches are recorded.
const MOST_BATCHES: usize = 65_536;

/// What a rank is told: handed to a rank's process as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContestTask {
    /// What to measure.
    pub contest: Contest,
    /// The wait policy, or the default.
    pub wait: Option<String>,
    /// What is to join the nodes, or the library's own choice.
    pub fabric: Option<String>,
    /// Where the record goes.
    pub directory: PathBuf,
}

/// The whole life of a rank's process: `text` is its [`ContestTask`].
///
/// # Errors
///
/// [`RankError`].
pub fn run_process(text: &str) -> Result<(), RankError> {
    // A benchmark that is killed takes its ranks along.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let task: ContestTask = serde_json::from_str(text).map_err(|error| RankError::Task(error.to_string()))?;
    let rank = std::env::var("PHALANX_RANK").ok().and_then(|rank| rank.parse().ok()).unwrap_or(0);
    pin_in(&task.contest.placement, rank);
    let options = job_options(task.wait.as_deref(), task.fabric.as_deref())?.objects(OBJECTS_MAX);
    let job = Job::from_env_with(&options)?;
    let mut place = Place::new(&task.contest, job.world());
    objects::contend(&job, &task.contest, &mut place)?;
    let write_error = |error: record::RecordError| RankError::Task(error.to_string());
    record::write(&task.directory, job.rank(), &place.record).map_err(write_error)?;
    if job.rank() == 0 {
        Choice::of(&job).write(&task.directory)?;
    }
    Ok(())
}

/// A rank's place in a contest.
#[derive(Debug)]
pub struct Place<'job> {
    contest: &'job Contest,
    world: &'job Group,
    clock: Clock,
    random: Random,
    /// A random number up to this one makes a reader; `None`: there are none.
    readers: Option<u64>,
    record: Record,
}

impl<'job> Place<'job> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of all numbers")]
    fn new(contest: &'job Contest, world: &'job Group) -> Self {
        let random = Random(contest.seed.wrapping_add(world.rank() as u64));
        let readers = (contest.readers > 0.0).then_some((contest.readers * 2f64.powi(64)) as u64);
        Self { contest, world, clock: Clock::calibrate(), random, readers, record: Record::default() }
    }

    /// Warms up, begins together with the others, contends, and meets them at the end. The record is then complete.
    ///
    /// # Errors
    ///
    /// [`RankError`].
    pub fn run<C: Contestant>(&mut self, mut contestant: C) -> Result<(), RankError> {
        let contest = self.contest;
        let is_busy = self.world.rank() < contest.busy;
        let span = self.ticks(contest.seconds * 1e9);
        if is_busy {
            // Written, not only reserved, so that no page is first touched while the clock runs.
            self.record.possessions = vec![Possession { request: 1, ..Possession::default() }; contest.most_samples];
        }
        let warm_until = self.agree(self.ticks(contest.seconds * 1e9 * WARMUP_SHARE))?;
        if is_busy {
            self.hold_until(warm_until, contest.warmup, &mut contestant)?;
        }
        let start = self.agree(self.ticks(HEAD_START_NS))?;
        while self.clock.now() < start {
            std::thread::yield_now();
        }
        if is_busy {
            let share = if contest.is_uncontended() { span / 2 } else { span };
            let recorded = self.hold_until(start + share, contest.iterations, &mut contestant)?;
            self.record.possessions.truncate(recorded);
        }
        if is_busy && contest.is_uncontended() {
            self.time_pairs(start + span, &mut contestant)?;
        }
        self.world.barrier()?;
        Ok(())
    }

    /// A moment that all agree on, so far from now.
    fn agree(&self, ticks_from_now: u64) -> Result<u64, RankError> {
        Ok(self.world.barrier_reduce(Operation::Max, self.clock.now() + ticks_from_now)?)
    }

    /// Holds one object after another until the deadline, or as often as is asked for, but once at least, also where
    /// the time was over before this rank had a CPU. Returns how much of it was recorded.
    #[inline]
    fn hold_until<C: Contestant>(
        &mut self,
        deadline: u64,
        times: usize,
        contestant: &mut C,
    ) -> Result<usize, RankError> {
        let (hold, think) = (self.ticks(self.contest.hold_ns as f64), self.ticks(self.contest.think_ns as f64));
        let mut request = self.clock.now();
        let mut head = Head { start: request, ..Head::default() };
        let mut done = 0;
        while done == 0 || (done < times && request < deadline) {
            let (object, is_shared) = self.draw();
            let held = contestant.acquire(object, is_shared)?;
            await_all_before();
            let acquired = self.clock.now();
            let released = if hold > 0 { self.spin_until(acquired + hold) } else { acquired };
            C::release(held)?;
            head.count += u64::from(acquired <= deadline);
            if let Some(possession) = self.record.possessions.get_mut(done) {
                *possession = Possession { request, acquired, released, object: object as u64, is_shared };
            }
            done += 1;
            request = match think {
                0 if C::IS_HELD => self.clock.now(),
                0 => acquired,
                _ => self.spin_until(self.clock.now() + think),
            };
        }
        head.end = request.min(deadline).max(head.start);
        self.record.head = head;
        Ok(done.min(self.record.possessions.len()))
    }

    /// Times batches of pairs until the deadline.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    fn time_pairs<C: Contestant>(&mut self, deadline: u64, contestant: &mut C) -> Result<(), RankError> {
        let head = self.record.head;
        let held_ns = (head.end - head.start) as f64 * self.contest.ns_per_tick;
        let pairs = (BATCH_NS * head.count as f64 / held_ns.max(1.0)).max(1.0) as u64;
        self.record.head.pairs_of_batch = pairs;
        let mut begin = self.clock.now();
        while begin < deadline && self.record.batches.len() < MOST_BATCHES {
            for _ in 0..pairs {
                let (object, is_shared) = self.draw();
                C::release(contestant.acquire(object, is_shared)?)?;
            }
            let end = self.clock.now();
            self.record.batches.push(end - begin);
            begin = end;
        }
        Ok(())
    }

    /// What comes next: which object, and whether to share it.
    #[allow(clippy::cast_possible_truncation, reason = "below the number of objects")]
    fn draw(&mut self) -> (usize, bool) {
        let object = match self.contest.objects {
            1 => 0,
            objects => self.random.below(objects as u64) as usize,
        };
        (object, self.readers.is_some_and(|readers| self.random.next() <= readers))
    }

    fn spin_until(&self, due: u64) -> u64 {
        loop {
            let now = self.clock.now();
            if now >= due {
                return now;
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "spans of a benchmark fit")]
    fn ticks(&self, ns: f64) -> u64 {
        (ns / self.contest.ns_per_tick) as u64
    }
}

/// Waits until all instructions before are over: a counter may otherwise be read while the acquisition is under way.
#[inline]
#[allow(unsafe_code, reason = "waiting for instructions is an instruction")]
fn await_all_before() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `lfence` is part of x86-64 and has no precondition.
    unsafe {
        core::arch::x86_64::_mm_lfence();
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `isb` is part of AArch64 and has no precondition.
    unsafe {
        core::arch::asm!("isb", options(nostack));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;
    use crate::contest::figures::Figures;
    use crate::contest::{Object, tests::contest};

    /// A lock: a message that one owner takes out of a channel and puts back.
    struct Channels<'all>(&'all [(SyncSender<()>, Mutex<Receiver<()>>)]);

    impl Contestant for Channels<'_> {
        const IS_HELD: bool = true;
        type Held<'own>
            = &'own SyncSender<()>
        where
            Self: 'own;

        fn acquire(&mut self, object: usize, _is_shared: bool) -> Result<Self::Held<'_>, RankError> {
            let (sender, receiver) = &self.0[object];
            receiver.lock().unwrap().recv().unwrap();
            Ok(sender)
        }

        fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
        where
            Self: 'own,
        {
            held.send(()).unwrap();
            Ok(())
        }
    }

    fn run(contest: &Contest) -> Vec<Record> {
        let channels: Vec<_> = (0..contest.objects)
            .map(|_| {
                let (sender, receiver) = sync_channel(1);
                sender.send(()).unwrap();
                (sender, Mutex::new(receiver))
            })
            .collect();
        let jobs = Job::threads(contest.placement.ranks).unwrap();
        std::thread::scope(|scope| {
            let start = |job: Job| {
                let channels = &channels;
                scope.spawn(move || {
                    let mut place = Place::new(contest, job.world());
                    place.run(Channels(channels)).unwrap();
                    place.record
                })
            };
            let threads: Vec<_> = jobs.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_contend_and_their_records_fit_together() {
        let clock = Clock::calibrate();
        let contest = Contest { ns_per_tick: clock.ns_per_tick(), objects: 3, hold_ns: 500, ..contest(Object::Lock) };
        let records = run(&contest);
        let figures = Figures::of_round(&records, &contest);
        assert!(figures.acquisitions > 1 && figures.throughput > 0.0, "{figures:?}");
        assert_eq!(figures.overlaps, 0);
        for possession in records.iter().flat_map(|record| &record.possessions) {
            assert!(possession.request <= possession.acquired && possession.object < 3, "{possession:?}");
            let held_ns = (possession.released - possession.acquired) as f64 * contest.ns_per_tick;
            assert!(held_ns >= 499.0, "held for {held_ns} ns");
        }
    }

    #[test]
    fn one_busy_rank_times_pairs_and_the_idle_leave_nothing() {
        let clock = Clock::calibrate();
        let contest = Contest {
            busy: 1,
            readers: 0.5,
            most_samples: 5,
            ns_per_tick: clock.ns_per_tick(),
            ..contest(Object::RwLock)
        };
        let records = run(&contest);
        assert_eq!(records[1], Record::default());
        assert!(records[0].possessions.len() <= 5 && records[0].head.count > 5, "{:?}", records[0].head);
        assert!(Figures::of_round(&records, &contest).pair.is_some_and(|pair| pair > 0.0));
    }

    #[test]
    fn so_many_iterations_are_done_and_no_more() {
        let clock = Clock::calibrate();
        let contest = Contest {
            iterations: 4,
            think_ns: 1000,
            seconds: 60.0,
            ns_per_tick: clock.ns_per_tick(),
            ..contest(Object::Lock)
        };
        let records = run(&contest);
        assert!(records.iter().all(|record| record.head.count == 4 && record.possessions.len() == 4));
    }
}
