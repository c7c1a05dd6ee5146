//! Histories of real jobs: ranks are processes, on one node and on pretended ones.
//!
//! A job makes many histories, each with an object of its own, whose home the name's hash chooses. All ranks begin at
//! once, and pause for some random microseconds between calls. In the last history of a job a thread of one rank kills
//! its process: in the middle of a call, or between two. That rank's node keeps another one, so that no home is lost.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use phalanx::fabric::sim::Seeded;
use phalanx::{
    Counter, CounterError, Election, Fenced, FencedError, Job, Lease, LeaseError, LeaseGuard, Lock, LockError,
    LockGuard, RwLock, Semaphore, Token,
};
use rustix::process::{Signal, getpid, kill_process};

use super::common::children::{answer, await_line, role};
use super::common::nodes::{Across, Marks};
use super::common::ranks::LIMIT;
use super::common::seeds::for_each_seed;
use super::history::{History, Notes, now_ns};
use super::seeds;
use super::specs::{Object, Op, Ret};

const PERMITS: u64 = 3;
/// Of a lease; some holders sleep for longer.
const TIME_TO_LIVE: Duration = Duration::from_millis(2);
/// Histories of a job in which nobody is killed.
const CALM: u64 = 40;
/// Calls of a rank in a history, or pairs of them.
const CALLS: usize = 3;
/// An attempt that took longer may not have been answered by the home.
const ANSWERED_WITHIN: Duration = Duration::from_millis(150);
/// Two ranks on each node that loses one.
const PLACES: [&[usize]; 4] = [&[0, 0, 0], &[0, 0, 1, 1], &[0, 0, 1], &[0, 1, 1, 2]];

/// What ranks call in a job.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Fenced,
    Lock,
    Semaphore,
    RwLock,
    Lease,
    Election,
}

impl Kind {
    fn object(self) -> Object {
        match self {
            Self::Counter => Object::Counter(0),
            Self::Fenced => Object::Fenced { token: 0, value: 0 },
            Self::Lock => Object::lock(),
            Self::Semaphore => Object::semaphore(PERMITS),
            Self::RwLock => Object::rwlock(),
            Self::Lease => Object::lease(),
            Self::Election => Object::election(),
        }
    }
}

/// A rank that makes histories.
struct Caller<'job> {
    job: &'job Job,
    random: Seeded,
    notes: Notes,
}

impl Caller<'_> {
    /// One history, of an object with this name.
    fn make(&mut self, kind: Kind, name: &str, begin: impl FnOnce()) {
        match kind {
            Kind::Counter => {
                let counter = self.job.counter(name).expect("room");
                begin();
                self.count(&counter);
                self.part(counter);
            }
            Kind::Fenced => {
                let word = self.job.fenced::<u64>(name).expect("room");
                begin();
                self.write(&word);
                self.part(word);
            }
            Kind::Lock => {
                let lock = self.job.lock(name).expect("room");
                begin();
                self.hold(&lock);
                self.part(lock);
            }
            Kind::Semaphore => {
                let semaphore = self.job.semaphore(name, PERMITS).expect("room");
                begin();
                self.take(&semaphore);
                self.part(semaphore);
            }
            Kind::RwLock => {
                let lock = self.job.rwlock(name).expect("room");
                begin();
                self.share(&lock);
                self.part(lock);
            }
            Kind::Lease => {
                let lease = self.job.lease(name, TIME_TO_LIVE).expect("room");
                begin();
                self.rent(&lease);
                self.part(lease);
            }
            Kind::Election => {
                let election = self.job.election(name).expect("room");
                begin();
                self.lead(&election);
                self.part(election);
            }
        }
    }

    /// The object stays until all are through with it. Where one has been killed its parent says so.
    fn part<T>(&self, object: T) {
        if self.notes.number < CALM {
            self.job.world().barrier().expect("all are through");
        } else {
            answer("through");
            await_line();
        }
        drop(object);
    }

    fn pause(&mut self) {
        let span = Duration::from_micros(self.random.below(20) as u64);
        let begun = Instant::now();
        while begun.elapsed() < span {
            std::hint::spin_loop();
        }
    }

    fn give_back(&mut self, op: Op, release: impl FnOnce() -> Result<(), LockError>) {
        self.notes.call(op, || release().expect("nobody is declared failed"), |()| Some(Ret::Done));
    }

    fn count(&mut self, counter: &Counter) {
        let mut last = 0;
        for _ in 0..CALLS {
            self.pause();
            let number = |value: &Result<u64, CounterError>| match value {
                Ok(value) => Some(Ret::Value(*value)),
                Err(CounterError::AnswerLost { .. }) => Some(Ret::Unheard),
                Err(_) => None,
            };
            let found = match self.random.below(4) {
                0 => self.notes.call(Op::Load, || counter.load(), number),
                1 => {
                    let (current, new) = (last, self.random.number() % 100);
                    let call = || counter.compare_exchange(current, new);
                    let exchanged = self.notes.call(Op::Exchange { current, new }, call, |found| match found {
                        Ok(Ok(value)) => Some(Ret::Value(*value)),
                        Ok(Err(value)) => Some(Ret::Differs(*value)),
                        // It says only that the two were compared.
                        Err(_) => None,
                    });
                    exchanged.map(|found| found.map_or_else(|value| value, |_| new))
                }
                _ => {
                    let add = 1 + self.random.below(3) as u64;
                    let found = self.notes.call(Op::Add(add), || counter.fetch_add(add), number);
                    found.map(|before| before + add)
                }
            };
            last = found.unwrap_or(last);
        }
    }

    fn write(&mut self, word: &Fenced<u64>) {
        for number in 0..CALLS {
            self.pause();
            // Tokens that no other rank has, as a lock gives them out.
            let token = ((1 + self.random.below(4)) * self.job.size() + self.job.rank()) as u64;
            let (rank, refused) = (self.job.rank(), |error: &FencedError| match error {
                FencedError::Refused { seen, .. } => Some(Ret::Refused(seen.0)),
                _ => None,
            });
            match self.random.below(3) {
                0 => drop(self.notes.call(
                    Op::Read,
                    || word.read(),
                    |found| found.as_ref().ok().map(|(token, value)| Ret::Pair(token.0, *value)),
                )),
                1 => drop(self.notes.call(
                    Op::Fence(token),
                    || word.fence(Token(token)),
                    |found| match found {
                        Ok(value) => Some(Ret::Value(*value)),
                        Err(error) => refused(error),
                    },
                )),
                _ => {
                    let value = (100 * (rank + 1) + number) as u64;
                    let call = || word.write(Token(token), value);
                    drop(self.notes.call(Op::Write { token, value }, call, |found| match found {
                        Ok(()) => Some(Ret::Done),
                        Err(error) => refused(error),
                    }));
                }
            }
        }
    }

    fn hold(&mut self, lock: &Lock) {
        for _ in 0..CALLS {
            self.pause();
            let guard = match self.random.below(3) {
                0 => self.try_to_hold(lock),
                _ => Some(self.notes.call(
                    Op::Acquire,
                    || lock.acquire_timeout(LIMIT).expect("it comes to all"),
                    |guard| Some(Ret::Granted(guard.token().0)),
                )),
            };
            self.pause();
            if let Some(guard) = guard {
                self.give_back(Op::Release, || guard.release());
            }
        }
    }

    fn try_to_hold<'lock>(&mut self, lock: &'lock Lock) -> Option<LockGuard<'lock>> {
        let begun = Instant::now();
        // One that took long may have gone without the lock since the home did not answer in time: that says nothing of
        // others.
        let busy = || (begun.elapsed() < ANSWERED_WITHIN).then_some(Ret::Busy);
        self.notes.call(
            Op::TryAcquire,
            || lock.try_acquire().expect("nobody is declared failed"),
            |guard| guard.as_ref().map_or_else(busy, |guard| Some(Ret::Granted(guard.token().0))),
        )
    }

    fn take(&mut self, semaphore: &Semaphore) {
        for _ in 0..CALLS {
            self.pause();
            let count = 1 + self.random.below(2) as u64;
            let permits = self.notes.call(
                Op::Take(count),
                || semaphore.acquire_timeout(count, LIMIT).expect("some are returned"),
                |_| Some(Ret::Done),
            );
            self.pause();
            self.give_back(Op::Return(count), || permits.release());
        }
    }

    fn share(&mut self, lock: &RwLock) {
        for _ in 0..CALLS {
            self.pause();
            if self.random.below(2) == 0 {
                let guard = self.notes.call(
                    Op::Enter,
                    || lock.read_timeout(LIMIT).expect("writers leave"),
                    |_| Some(Ret::Done),
                );
                self.pause();
                self.give_back(Op::Leave, || guard.release());
                continue;
            }
            let guard = self.notes.call(
                Op::Acquire,
                || lock.write_timeout(LIMIT).expect("all leave"),
                |guard| Some(Ret::Granted(guard.token().0)),
            );
            self.pause();
            if self.random.below(3) > 0 {
                self.give_back(Op::Release, || guard.release());
                continue;
            }
            let reads = self.notes.call(
                Op::Downgrade,
                || guard.downgrade().expect("nobody is declared failed"),
                |_| Some(Ret::Done),
            );
            self.pause();
            self.give_back(Op::Leave, || reads.release());
        }
    }
}

impl Caller<'_> {
    fn rent(&mut self, lease: &Lease) {
        for _ in 0..CALLS {
            self.pause();
            let asked_ns = now_ns();
            let guard = match self.random.below(3) {
                0 => self.try_to_rent(lease),
                _ => Some(self.notes.call(Op::Acquire, || obtain(lease), |guard| Some(Ret::Granted(guard.token().0)))),
            };
            self.pause();
            if let Some(guard) = guard {
                self.end_hold(guard, asked_ns);
            }
        }
    }

    fn try_to_rent<'lease>(&mut self, lease: &'lease Lease) -> Option<LeaseGuard<'lease>> {
        let begun = Instant::now();
        let busy = || (begun.elapsed() < ANSWERED_WITHIN).then_some(Ret::Busy);
        self.notes.call(
            Op::TryAcquire,
            || lease.try_acquire().expect("nobody is declared failed"),
            |guard| guard.as_ref().map_or_else(busy, |guard| Some(Ret::Granted(guard.token().0))),
        )
    }

    /// Renews a lease or not, in time or too late, and gives it back. Where it was lost, that was when the holder had
    /// known that it would be, and not before.
    fn end_hold(&mut self, guard: LeaseGuard<'_>, asked_ns: u64) {
        let (token, mut until_ns, mut is_lost) = (guard.token().0, surely_until(&guard, asked_ns), false);
        if self.random.below(4) == 0 {
            std::thread::sleep(TIME_TO_LIVE * 3 / 2);
        }
        if self.random.below(2) == 0 {
            let asked_ns = now_ns();
            let renewed = self.notes.call(Op::Renew, || guard.renew(), |renewed| Some(kept_or_lost(renewed)));
            is_lost = renewed.is_err();
            // An end before that has done nothing.
            until_ns = if is_lost { until_ns } else { surely_until(&guard, asked_ns) };
        }
        let released = self.notes.call(Op::Release, || guard.release(), |released| Some(kept_or_lost(released)));
        if is_lost || released.is_err() {
            self.notes.expire(token, until_ns);
        }
    }

    fn lead(&mut self, election: &Election) {
        for _ in 0..CALLS {
            self.pause();
            if self.random.below(3) == 0 {
                self.look(election);
                continue;
            }
            let leadership = self.notes.call(
                Op::Acquire,
                || election.campaign_timeout(LIMIT).expect("it comes to all"),
                |leadership| Some(Ret::Granted(leadership.term().0)),
            );
            self.pause();
            if self.random.below(2) == 0 {
                self.give_back(Op::Check, || leadership.check());
            }
            self.give_back(Op::Release, || leadership.resign());
        }
    }

    fn look(&mut self, election: &Election) {
        let may_die = self.notes.number == CALM;
        self.notes.call(
            Op::Look,
            || election.leader().expect("nobody is declared failed"),
            |leader| match leader {
                Some(leader) => Some(Ret::Led(leader.rank, leader.term.0)),
                // Not all nodes hear at the same time that a leader is dead.
                None => (!may_die).then_some(Ret::Nobody),
            },
        );
    }
}

/// Waits for a lease. Where the home was late to answer this rank's last attempt, that is to be taken back first.
fn obtain(lease: &Lease) -> LeaseGuard<'_> {
    let begun = Instant::now();
    loop {
        match lease.acquire_timeout(LIMIT) {
            Err(LeaseError::Unreachable { .. }) if begun.elapsed() < LIMIT => {}
            obtained => return obtained.expect("it comes to all"),
        }
    }
}

/// Until when a holder knows that it has a lease, which it has not asked for before a time.
fn surely_until(guard: &LeaseGuard<'_>, asked_ns: u64) -> u64 {
    let (now_ns, left) = (now_ns(), guard.remaining());
    // Where its time is over already it is not told since when.
    let lasts = if left.is_zero() { TIME_TO_LIVE - TIME_TO_LIVE / 1000 } else { left };
    let from_ns = if left.is_zero() { asked_ns } else { now_ns };
    from_ns + u64::try_from(lasts.as_nanos()).expect("milliseconds")
}

fn kept_or_lost(kept: &Result<(), LeaseError>) -> Ret {
    match kept {
        Ok(()) => Ret::Done,
        Err(LeaseError::Expired { .. }) => Ret::Lost,
        Err(error) => panic!("nobody is declared failed: {error}"),
    }
}

/// After a while this process kills itself.
fn die_soon(notes: &Notes, marks: &Path, random: &mut Seeded) {
    let mut notes = notes.again(marks);
    let span = Duration::from_micros(random.below(300) as u64);
    std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < span {
            std::hint::spin_loop();
        }
        notes.die();
        let _ = kill_process(getpid(), Signal::KILL);
    });
}

/// A rank's whole life.
fn live(kind: Kind) {
    let variable = |name| std::env::var(name).expect("the test has set it");
    let seed: u64 = variable("LINEAR_SEED").parse().expect("a number");
    let victim: usize = variable("LINEAR_VICTIM").parse().expect("a rank");
    let (job, marks) = (Job::from_env().expect("a job"), Marks::of_this_rank());
    let random = Seeded::new(seed * 64 + job.rank() as u64);
    let mut caller = Caller { job: &job, random, notes: Notes::of(&marks.0, job.rank()) };
    for number in 0..=CALM {
        caller.notes.number = number;
        let mut delay = Seeded::new(seed);
        let again = caller.notes.again(&marks.0);
        caller.make(kind, &format!("{seed}: {number}"), || {
            job.world().barrier().expect("all are there");
            if number == CALM && job.rank() == victim {
                die_soon(&again, &marks.0, &mut delay);
            }
        });
    }
}

/// One of those whose node has another rank.
fn draw_victim(nodes: &[usize], seed: u64) -> usize {
    let has_another = |rank: &usize| nodes.iter().filter(|node| **node == nodes[*rank]).count() > 1;
    let all: Vec<usize> = (0..nodes.len()).filter(has_another).collect();
    all[Seeded::new(seed).below(all.len())]
}

/// Jobs of a kind, in processes of `test`; the histories of each are judged.
fn check(test: &str, kind: Kind) {
    if role().is_some() {
        return live(kind);
    }
    for_each_seed("linearizability", test, seeds(2 * PLACES.len() as u64), |seed| {
        let nodes = PLACES[usize::try_from(seed).expect("a small one") % PLACES.len()];
        let victim = draw_victim(nodes, seed);
        let across = Across::new(nodes);
        // A death is heard of at once. A machine that is busy with other things is not to pass for a silent node.
        let patience = ("PHALANX_FAILURE_TIMEOUT_MS", "5000".to_owned());
        let variables = [("LINEAR_SEED", seed.to_string()), ("LINEAR_VICTIM", victim.to_string()), patience];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut children = across.start(test, &variables);
        let survivors: Vec<usize> = (0..nodes.len()).filter(|rank| *rank != victim).collect();
        children.await_answers(&survivors, "through");
        assert_eq!(children.finish(victim).1.signal(), Some(Signal::KILL.as_raw()), "it has killed itself");
        for survivor in survivors {
            children.say(survivor, "that was all");
            assert!(children.finish(survivor).1.success(), "rank {survivor}");
        }
        let histories = Notes::read(&across.marks, nodes.len());
        assert_eq!(histories.len() as u64, CALM + 1);
        for (number, history) in &histories {
            judge(kind, *number, history);
        }
    });
}

fn judge(kind: Kind, number: u64, history: &History) {
    let dies = history.0.iter().any(|entry| entry.call.op == Op::Die);
    assert_eq!(dies, number == CALM, "history {number}");
    if let Err(why) = history.judge(kind.object()) {
        panic!("history {number} of a {kind:?}: {why}");
    }
}

#[test]
fn counters_of_real_jobs() {
    check("real::counters_of_real_jobs", Kind::Counter);
}

#[test]
fn fenced_words_of_real_jobs() {
    check("real::fenced_words_of_real_jobs", Kind::Fenced);
}

#[test]
fn locks_of_real_jobs() {
    check("real::locks_of_real_jobs", Kind::Lock);
}

#[test]
fn semaphores_of_real_jobs() {
    check("real::semaphores_of_real_jobs", Kind::Semaphore);
}

#[test]
fn shared_locks_of_real_jobs() {
    check("real::shared_locks_of_real_jobs", Kind::RwLock);
}

#[test]
fn leases_of_real_jobs() {
    check("real::leases_of_real_jobs", Kind::Lease);
}

#[test]
fn elections_of_real_jobs() {
    check("real::elections_of_real_jobs", Kind::Election);
}
