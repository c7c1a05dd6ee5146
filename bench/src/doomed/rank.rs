//! A rank of a job that is hurt.
//!
//! One that *waits* meets the others once, then waits in a barrier that the idle ones never come to, and says when that
//! ends. One that *meets* passes barriers in all the ways there are, with a record of each arrival and passing, uses
//! named objects between them (`belongings.rs`), goes on with the survivors when members fail, and leaves when its
//! parent wants, at the same barrier as all others. One that is *calm* passes barriers, and nobody is hurt:
//! `calm.rs`. One that *inherits* waits for a lock whose holder is to die: `inheritance.rs`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use phalanx::fabric::sim::Seeded;
use phalanx::{BarrierError, FabricChoice, Group, Job, JobOptions, Operation, TcpEngine, WaitPolicy};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::belongings::{Belongings, Thing};
use super::calm::pass_barriers;
use super::inheritance::Inheritance;
use super::log::{Log, Record, Step};
use super::now_ns;
use super::said::{Event, Said};
use crate::rank::RankError;
use crate::samples::SamplesError;

/// How long survivors may take to make a group.
pub const SHRINK_LIMIT: Duration = Duration::from_secs(5);
/// Has a rank hold something for a moment: a thing's name follows.
pub const HOLD: &str = "hold";
/// Has a rank wait for the same.
pub const WAIT: &str = "wait";
/// Has a rank leave, with all others.
pub const END: &str = "end";
/// No wait of a rank that meets others is to come to this.
const LONG: Duration = Duration::from_secs(300);

/// What a rank is told: handed to its process as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// What it does.
    pub role: Role,
    /// The wait policy, or the default.
    pub wait: Option<String>,
    /// What is to join the nodes, or the library's own choice.
    pub fabric: Option<String>,
    /// What moves the bytes of TCP, or the library's own choice.
    pub engine: Option<String>,
    /// The failure time-out in milliseconds, or the default.
    pub timeout_ms: Option<u64>,
    /// Whether it is killed when its parent ends. Under a launcher that is the launcher's business.
    pub ends_with_parent: bool,
}

/// What a rank does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Waits, but for these.
    Waits {
        /// Those that do nothing.
        idle: Vec<usize>,
    },
    /// Holds a lock, or waits for it.
    Inherits {
        /// The one that holds it.
        holder: usize,
        /// Those who wait for it.
        heirs: Vec<usize>,
        /// The node where it is to be at home.
        home: usize,
    },
    /// Meets the others again and again.
    Meets {
        /// The directory of the records.
        records: PathBuf,
        /// Of its pauses.
        seed: u64,
    },
    /// Meets the others again and again, and keeps no record: nobody is hurt.
    Calm {
        /// Of its pauses.
        seed: u64,
    },
}

/// What a rank does. When it says that it is ready it may be killed, and its records are looked for.
type Part = Box<dyn FnOnce(&Job) -> Result<(), SamplesError>>;

impl Role {
    /// Opens what the role needs.
    fn prepare(&self, rank: usize, wishes: Receiver<String>) -> Result<Part, SamplesError> {
        match self {
            Self::Waits { idle } => Ok(waiting(rank, !idle.contains(&rank), wishes)),
            Self::Inherits { holder, heirs, home } => {
                let part = Inheritance { holds: rank == *holder, waits: heirs.contains(&rank), home: *home };
                Ok(inheriting(rank, part, wishes))
            }
            Self::Meets { records, seed } => meeting(rank, records, *seed, wishes),
            Self::Calm { seed } => Ok(calm(rank, *seed, wishes)),
        }
    }
}

fn waiting(rank: usize, waits: bool, wishes: Receiver<String>) -> Part {
    Box::new(move |job| {
        say(rank, Event::Ready);
        if waits {
            wait(job.world());
        }
        let _ = wishes.recv();
        Ok(())
    })
}

fn inheriting(rank: usize, part: Inheritance, wishes: Receiver<String>) -> Part {
    Box::new(move |job| {
        say(rank, Event::Ready);
        if let Err(error) = part.run(job, &wishes) {
            say(rank, Event::Undead { call: error.to_string() });
        }
        Ok(())
    })
}

fn meeting(rank: usize, records: &Path, seed: u64, wishes: Receiver<String>) -> Result<Part, SamplesError> {
    let path = records_of(records, rank);
    let log = Log::create(&path).map_err(|source| SamplesError::File { path: path.clone(), source })?;
    let random = Seeded::new(seed.wrapping_add(rank as u64));
    let mut meeting = Meeting { rank, log, random, wishes, belongings: None };
    let place = (records.to_owned(), seed);
    Ok(Box::new(move |job| meeting.run(job, place).map_err(|source| SamplesError::File { path, source })))
}

fn calm(rank: usize, seed: u64, wishes: Receiver<String>) -> Part {
    Box::new(move |job| {
        say(rank, Event::Ready);
        pass_barriers(job.world(), seed, &wishes);
        Ok(())
    })
}

/// The file of a rank's records.
pub fn records_of(directory: &std::path::Path, rank: usize) -> PathBuf {
    directory.join(format!("records.{rank}"))
}

impl Task {
    fn options(&self) -> Result<JobOptions, RankError> {
        let mut options = JobOptions::new();
        if let Some(name) = &self.wait {
            options = options.wait(name.parse::<WaitPolicy>().map_err(RankError::Task)?);
        }
        if let Some(name) = &self.fabric {
            options = options.fabric(name.parse::<FabricChoice>().map_err(RankError::Task)?);
        }
        if let Some(name) = &self.engine {
            options = options.tcp_engine(name.parse::<TcpEngine>().map_err(RankError::Task)?);
        }
        if let Some(timeout) = self.timeout_ms {
            options = options.failure_timeout(Duration::from_millis(timeout));
        }
        Ok(options)
    }
}

/// The whole life of a rank's process: `text` is its [`Task`].
///
/// # Errors
///
/// [`RankError`].
pub fn run_process(text: &str) -> Result<(), RankError> {
    let task: Task = serde_json::from_str(text).map_err(|error| RankError::Task(error.to_string()))?;
    if task.ends_with_parent {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
    let wishes = wishes_of_parent();
    let job = Job::from_env_with(&task.options()?)?;
    let rank = job.rank();
    job.world().barrier()?;
    let part = task.role.prepare(rank, wishes)?;
    part(&job)?;
    drop(job);
    say(rank, Event::Bye);
    Ok(())
}

pub(super) fn say(rank: usize, event: Event) {
    Said { rank, at_ns: now_ns(), event }.print();
}

/// What the parent says, line by line; hung up where there is none to say anything.
///
/// A parent that speaks by a pipe holds it for as long as it lives. Its end is this process's end, whatever it is
/// doing: the kernel's signal does not come where the parent had gone before it was asked for, and not to those whom a
/// launcher has started.
fn wishes_of_parent() -> Receiver<String> {
    let (say, heard) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
        if is_pipe(std::io::stdin()) {
            std::process::exit(1);
        }
    });
    heard
}

fn is_pipe(descriptor: impl std::os::fd::AsFd) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Waits in a barrier that is not passed.
fn wait(world: &Group) {
    let result = world.barrier();
    let at_ns = now_ns();
    let event = match result {
        Ok(()) => Event::Undead { call: "a barrier to which somebody never came".to_owned() },
        Err(error) => Event::Failed { group: 0, sequence: world.passed() + 1, told: (&error).into() },
    };
    Said { rank: world.rank(), at_ns, event }.print();
}

/// A rank that meets others.
struct Meeting {
    rank: usize,
    log: Log,
    random: Seeded,
    wishes: Receiver<String>,
    belongings: Option<Belongings>,
}

/// How it goes on.
enum Next {
    /// With those who survive.
    Shrink,
    /// Not at all.
    End,
}

impl Meeting {
    /// With where to keep records of the objects that it uses, and their seed.
    fn run(&mut self, job: &Job, (directory, seed): (PathBuf, u64)) -> std::io::Result<()> {
        // With some seeds it may be killed while it opens its objects, with others it has them by then.
        let opens_first = seed % 4 != 0;
        if !opens_first {
            say(self.rank, Event::Ready);
        }
        self.belongings = Belongings::open(job, &directory, seed)?;
        if opens_first {
            say(self.rank, Event::Ready);
        }
        let mut shrunk: Option<Group> = None;
        loop {
            let group = shrunk.as_ref().unwrap_or(job.world());
            match self.meet(group)? {
                Next::End => return Ok(()),
                Next::Shrink => {}
            }
            let result = group.shrink(SHRINK_LIMIT);
            let at_ns = now_ns();
            let event = match &result {
                Ok(rest) => Event::Shrunk { group: rest.id(), ranks: rest.ranks().to_vec() },
                Err(error) => Event::NotShrunk { group: group.id(), told: error.into() },
            };
            Said { rank: self.rank, at_ns, event }.print();
            match result {
                Ok(rest) => shrunk = Some(rest),
                Err(_) => {
                    let _ = self.wishes.recv();
                    return Ok(());
                }
            }
        }
    }

    /// Meets until a barrier fails, or all have agreed to end.
    fn meet(&mut self, group: &Group) -> std::io::Result<Next> {
        let mut is_wanted = false;
        loop {
            is_wanted = self.heed_wishes()? || is_wanted;
            let sequence = group.passed() + 1;
            self.note(Step::Arrives, group, sequence)?;
            let result = pass(group, sequence, is_wanted);
            let at_ns = now_ns();
            match result {
                Ok(is_over) => {
                    self.note(Step::Passed, group, sequence)?;
                    if is_over {
                        self.part(group)?;
                        return Ok(Next::End);
                    }
                }
                Err(error) => {
                    let event = Event::Failed { group: group.id(), sequence, told: (&error).into() };
                    Said { rank: self.rank, at_ns, event }.print();
                    return Ok(self.after(group, &error));
                }
            }
            if let Some(belongings) = &mut self.belongings {
                belongings.use_one()?;
            }
            self.pause();
        }
    }

    /// Does what the parent has said; whether that was to end.
    fn heed_wishes(&mut self) -> std::io::Result<bool> {
        let mut is_wanted = false;
        while let Ok(wish) = self.wishes.try_recv() {
            let (verb, thing) = wish.split_once(' ').unwrap_or((&wish, ""));
            match (verb, Thing::named(thing), &mut self.belongings) {
                (HOLD, Some(thing), Some(belongings)) => belongings.hold_for_long(thing)?,
                (WAIT, Some(thing), Some(belongings)) => belongings.wait_for_long(thing)?,
                (HOLD | WAIT, ..) => {}
                _ => is_wanted = true,
            }
        }
        Ok(is_wanted)
    }

    /// Has everything once more, and reads what the counters have come to. Nobody leaves before all have.
    fn part(&mut self, group: &Group) -> std::io::Result<()> {
        let Some(belongings) = &mut self.belongings else { return Ok(()) };
        belongings.have_all()?;
        belongings.load_all()?;
        // Whoever fails now was not to be hurt, and is missed by the parent.
        let _ = group.barrier();
        Ok(())
    }

    fn note(&mut self, step: Step, group: &Group, sequence: u64) -> std::io::Result<()> {
        self.log.add(Record { step, group: group.id(), sequence, at_ns: now_ns() })
    }

    fn after(&mut self, group: &Group, error: &BarrierError) -> Next {
        match error {
            BarrierError::RankFailed { .. } => return Next::Shrink,
            BarrierError::Excluded { .. } => self.stay_out(group),
            _ => {}
        }
        let _ = self.wishes.recv();
        Next::End
    }

    /// From now on no call of this rank may succeed.
    fn stay_out(&self, group: &Group) {
        let calls: [(&str, &dyn Fn() -> bool); 4] = [
            ("barrier", &|| group.barrier_timeout(LONG).is_ok()),
            ("reduction", &|| group.barrier_reduce_timeout(Operation::Or, 1, LONG).is_ok()),
            ("arrival", &|| group.arrive().is_ok()),
            ("shrink", &|| group.shrink(SHRINK_LIMIT).is_ok()),
        ];
        let objects = self.belongings.iter().flat_map(Belongings::succeeds_in);
        let calls = calls.into_iter().filter(|(_, call)| call()).map(|(name, _)| name);
        for name in calls.chain(objects) {
            say(self.rank, Event::Undead { call: name.to_owned() });
        }
    }

    /// Computes for a moment, sometimes.
    fn pause(&mut self) {
        let us = match self.random.below(16) {
            0 => self.random.below(1_000) as u64,
            1..=3 => 50 + self.random.below(100) as u64,
            _ => return,
        };
        std::thread::sleep(Duration::from_micros(us));
    }
}

/// Passes a barrier, in one of the ways there are: by its number, so that all members take the same. Whether all are to
/// end.
fn pass(group: &Group, sequence: u64, is_wanted: bool) -> Result<bool, BarrierError> {
    match sequence % 4 {
        0 => group.barrier().map(|()| false),
        1 => group.barrier_timeout(LONG).map(|()| false),
        2 => group.arrive()?.wait().map(|()| false),
        _ => group.barrier_reduce(Operation::Or, u64::from(is_wanted)).map(|any| any != 0),
    }
}
