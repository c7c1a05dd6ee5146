//! Reader-writer locks: readers together, writers alone, by turns; released by death. By threads, by processes, and
//! between nodes (pretended, on the loopback interface).
#![cfg(not(model))]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::children::{Children, Launch, answer, await_line, role};
use common::nodes::{Across, Marks};
use common::ranks::{Gate, LIMIT, on_ranks};
use phalanx::{Job, JobOptions, LockError, ObjectError, ObjectKind, RwLock, WaitPolicy};

const SHORT: Duration = Duration::from_millis(30);

/// Waits until a writer is there: until nobody can come to read.
fn await_writer(lock: &RwLock) {
    while let Some(guard) = lock.try_read().expect("a lock") {
        drop(guard);
        std::thread::yield_now();
    }
}

fn await_queue(lock: &RwLock, length: usize) {
    while lock.queue().len() < length {
        std::thread::yield_now();
    }
}

/// Who is inside, as threads see it.
#[derive(Default)]
struct Inside {
    readers: AtomicU64,
    writers: AtomicU64,
    most_readers: AtomicU64,
}

impl Inside {
    fn read(&self) {
        let readers = self.readers.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_readers.fetch_max(readers, Ordering::SeqCst);
        assert_eq!(self.writers.load(Ordering::SeqCst), 0, "somebody writes");
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }

    fn write(&self) {
        assert_eq!(self.writers.fetch_add(1, Ordering::SeqCst), 0, "somebody else writes");
        assert_eq!(self.readers.load(Ordering::SeqCst), 0, "somebody reads");
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn writers_are_alone_and_their_tokens_grow() {
    const ROUNDS: u64 = 1500;
    for options in [JobOptions::new(), JobOptions::new().wait(WaitPolicy::Park)] {
        let (inside, last) = (Inside::default(), AtomicU64::new(0));
        on_ranks(4, &options, |job| {
            let lock = job.rwlock("shared").expect("a lock");
            job.world().barrier().expect("all are there");
            for round in 0..ROUNDS {
                match (round + job.rank() as u64) % 4 {
                    0 => {
                        let guard = lock.write().expect("nobody fails");
                        inside.write();
                        assert!(last.swap(guard.token().0, Ordering::SeqCst) < guard.token().0);
                        guard.release().expect("it was held");
                    }
                    1 if round % 2 == 0 => {
                        let guard = lock.write().expect("nobody fails");
                        inside.write();
                        let guard = guard.downgrade().expect("nobody fails");
                        inside.read();
                        drop(guard);
                    }
                    _ => {
                        let guard = lock.read().expect("nobody fails");
                        inside.read();
                        guard.release().expect("it was held");
                    }
                }
            }
            job.world().barrier().expect("all are through");
        });
    }
}

#[test]
fn readers_read_together() {
    let gate = Gate::new(3);
    on_ranks(3, &JobOptions::new(), |job| {
        let lock = job.rwlock("together").expect("a lock");
        let guard = lock.read().expect("nobody writes");
        gate.wait();
        assert!(lock.name() == "together" && matches!(lock.try_write(), Err(LockError::UpgradeRefused { .. })));
        gate.wait();
        drop(guard);
        job.world().barrier().expect("all are through");
    });
}

/// Whether the others ever let this one in.
fn is_let_in(others_write: bool) {
    let (is_over, inside) = (AtomicBool::new(false), Inside::default());
    on_ranks(4, &JobOptions::new(), |job| {
        let lock = job.rwlock("busy").expect("a lock");
        job.world().barrier().expect("all are there");
        let write = || {
            let guard = lock.write().expect("nobody fails");
            inside.write();
            drop(guard);
        };
        let read = || {
            let guard = lock.read().expect("nobody fails");
            inside.read();
            drop(guard);
        };
        if job.rank() == 0 {
            (0..200).for_each(|_| if others_write { read() } else { write() });
            is_over.store(true, Ordering::SeqCst);
        } else {
            while !is_over.load(Ordering::SeqCst) {
                if others_write { write() } else { read() }
            }
        }
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn a_writer_gets_in_while_readers_keep_coming() {
    is_let_in(false);
}

#[test]
fn a_reader_gets_in_while_writers_keep_coming() {
    is_let_in(true);
}

/// Who asks to read after a writer has come waits for that one; who asks while a writer writes has it before the next
/// one.
#[test]
fn the_two_sides_take_turns() {
    // Rank 1 is waiting when the others meet once more.
    let (order, gate, others) = (Mutex::new(Vec::new()), Gate::new(4), Gate::new(3));
    let note = |what: &'static str| order.lock().expect("nobody panics with it").push(what);
    on_ranks(4, &JobOptions::new(), |job| {
        let lock = job.rwlock("turns").expect("a lock");
        job.world().barrier().expect("all are there");
        match job.rank() {
            0 => {
                let guard = lock.read().expect("it is free");
                gate.wait();
                // Rank 1 is there, and rank 2 has been refused.
                others.wait();
                note("first reader leaves");
                drop(guard);
            }
            1 => {
                gate.wait();
                let guard = lock.write().expect("nobody fails");
                note("writer");
                await_queue(&lock, 1);
                drop(guard);
            }
            2 => {
                gate.wait();
                await_writer(&lock);
                let error = lock.read_timeout(SHORT).expect_err("a writer is there");
                assert!(matches!(error, LockError::TimedOut { holder: Some(1), holder_node: Some(0), .. }), "{error}");
                others.wait();
                let guard = lock.read().expect("nobody fails");
                note("second reader");
                drop(guard);
            }
            _ => {
                gate.wait();
                await_writer(&lock);
                others.wait();
                let guard = lock.write().expect("nobody fails");
                note("second writer");
                drop(guard);
            }
        }
        job.world().barrier().expect("all are through");
    });
    let order = order.into_inner().expect("nobody panics with it");
    let place = |what| order.iter().position(|noted| *noted == what).expect("noted");
    assert!(place("first reader leaves") < place("writer") && place("writer") < place("second reader"), "{order:?}");
    assert!(place("writer") < place("second writer"), "{order:?}");
}

#[test]
fn what_a_rank_has_it_does_not_have_twice_and_an_upgrade_is_refused() {
    on_ranks(1, &JobOptions::new(), |job| {
        let (lock, same) = (job.rwlock("mine").expect("a lock"), job.rwlock("mine").expect("the same"));
        let (rank, name) = (0, "mine".to_owned());
        let guard = lock.read().expect("it is free");
        let refused = LockError::UpgradeRefused { rank, name: name.clone() };
        assert_eq!(same.write().expect_err("it reads"), refused);
        assert_eq!(same.write_timeout(SHORT).expect_err("it reads"), refused);
        assert!(refused.to_string().contains("downgrade"));
        let refused = LockError::AlreadyReading { rank, name: name.clone() };
        assert_eq!(same.read().expect_err("it reads"), refused);
        assert_eq!(same.try_read().expect_err("it reads"), refused);
        drop(guard);
        let guard = same.write().expect("it is free");
        let refused = LockError::AlreadyHeld { rank, name };
        assert_eq!(lock.read().expect_err("it writes"), refused);
        assert_eq!(lock.write().expect_err("it writes"), refused);
        let guard = guard.downgrade().expect("it writes");
        assert!(matches!(lock.read(), Err(LockError::AlreadyReading { .. })));
        guard.release().expect("it reads");
        assert!(lock.try_write().expect("a lock").is_some());
        let other = job.lock("mine").expect_err("another kind");
        assert!(matches!(other, ObjectError::OtherKind { found: ObjectKind::RwLock, .. }), "{other}");
    });
}

#[test]
fn nobody_writes_between_a_writer_and_its_downgrade() {
    let value = AtomicU64::new(0);
    on_ranks(3, &JobOptions::new(), |job| {
        let lock = job.rwlock("downgraded").expect("a lock");
        job.world().barrier().expect("all are there");
        match job.rank() {
            0 => {
                let guard = lock.write().expect("it is free");
                value.store(1, Ordering::SeqCst);
                job.world().barrier().expect("it writes");
                await_queue(&lock, 1);
                let guard = guard.downgrade().expect("it writes");
                // The writer that waits has the writers' lock now, and waits for this rank.
                while !lock.queue().is_empty() {
                    std::thread::yield_now();
                }
                assert_eq!(value.load(Ordering::SeqCst), 1);
                drop(guard);
            }
            1 => {
                job.world().barrier().expect("rank 0 writes");
                let guard = lock.write().expect("nobody fails");
                value.store(2, Ordering::SeqCst);
                drop(guard);
            }
            _ => {
                job.world().barrier().expect("rank 0 writes");
                let guard = lock.read().expect("nobody fails");
                assert!((1..=2).contains(&value.load(Ordering::SeqCst)));
                drop(guard);
            }
        }
        job.world().barrier().expect("all are through");
    });
}

#[test]
fn whoever_is_out_of_time_learns_who_has_it_and_leaves_no_hole() {
    on_ranks(2, &JobOptions::new(), |job| {
        let lock = job.rwlock("busy").expect("a lock");
        let meet = || job.world().barrier().expect("all are there");
        meet();
        if job.rank() == 0 {
            let guard = lock.read().expect("it is free");
            meet();
            meet();
            drop(guard);
            let guard = lock.write_timeout(LIMIT).expect("nobody reads");
            meet();
            meet();
            drop(guard);
        } else {
            meet();
            let error = lock.write_timeout(SHORT).expect_err("rank 0 reads");
            let LockError::StillRead { readers, waited, .. } = &error else { panic!("{error}") };
            assert!(*readers == [0] && *waited >= SHORT && error.to_string().contains("[0]"), "{error}");
            assert!(lock.try_write().expect("a lock").is_none());
            // Its claim is gone: others come to read at once.
            lock.try_read().expect("a lock").expect("nobody writes").release().expect("it reads");
            meet();
            meet();
            let error = lock.read_timeout(SHORT).expect_err("rank 0 writes");
            assert!(matches!(error, LockError::TimedOut { holder: Some(0), .. }), "{error}");
            assert!(lock.try_read().expect("a lock").is_none() && lock.try_write().expect("a lock").is_none());
            assert!(matches!(lock.write_timeout(SHORT), Err(LockError::TimedOut { holder: Some(0), .. })));
            meet();
            drop(lock.write().expect("it comes to this one"));
        }
        meet();
    });
}

fn join() -> Job {
    Job::from_env().expect("a job")
}

/// A rank that reads and one that writes are killed while others wait; they go on.
#[test]
fn a_killed_reader_and_a_killed_writer_hold_nobody_up() {
    const TEST: &str = "a_killed_reader_and_a_killed_writer_hold_nobody_up";
    if role().is_some() {
        let job = join();
        let lock = job.rwlock("precious").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let _guard = lock.read().expect("it is free");
            answer("reads");
            await_line();
        }
        assert_eq!(await_line(), "go on");
        if job.rank() == 1 {
            let guard = lock.write().expect("the reader is dead");
            answer(guard.token());
            await_line();
        }
        if job.rank() == 2 {
            await_writer(&lock);
            answer("waits");
            let guard = lock.read().expect("the writer is dead");
            answer("reads");
            await_line();
            drop(guard);
            return;
        }
        await_writer(&lock);
        answer("waits");
        let guard = lock.write().expect("the writer is dead, and the reader leaves");
        answer(guard.token());
        return;
    }
    let mut children = Launch::new(4).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "reads");
    children.say(1, "go on");
    children.say(2, "go on");
    assert_eq!(children.next_answer(2), "waits");
    children.kill(0);
    let first: u64 = children.next_answer(1).parse().expect("a token");
    children.say(3, "go on");
    assert_eq!(children.next_answer(3), "waits");
    children.kill(1);
    assert_eq!(children.next_answer(2), "reads");
    children.say(2, "leave");
    let second: u64 = children.next_answer(3).parse().expect("a token");
    assert!(first < second);
    assert!((2..4).all(|rank| children.finish(rank).1.success()));
}

/// A reader that is stopped is passed by after the failure time-out; when it comes back it learns that it holds
/// nothing.
#[test]
fn a_stopped_reader_is_passed_by_and_its_release_is_refused() {
    const TEST: &str = "a_stopped_reader_is_passed_by_and_its_release_is_refused";
    if role().is_some() {
        let job = join();
        let lock = job.rwlock("precious").expect("a lock");
        job.world().barrier().expect("all are there");
        if job.rank() == 0 {
            let guard = lock.read().expect("it is free");
            answer("reads");
            // Stopped in here.
            assert_eq!(await_line(), "go on");
            let error = guard.release().expect_err("others have it");
            assert!(matches!(error, LockError::Excluded { rank: 0, .. }), "{error}");
            assert!(matches!(lock.read(), Err(LockError::Excluded { .. })));
            assert!(matches!(lock.write(), Err(LockError::Excluded { .. })));
            return answer("refused");
        }
        assert_eq!(await_line(), "it is stopped");
        let guard = lock.write().expect("the reader has failed");
        answer("writes");
        assert_eq!(await_line(), "go on");
        return guard.release().expect("the one that came back has not taken it");
    }
    let mut children = Launch::new(2).start(TEST, "rank");
    assert_eq!(children.next_answer(0), "reads");
    children.stop(0);
    children.say(1, "it is stopped");
    assert_eq!(children.next_answer(1), "writes");
    children.signal(0, rustix::process::Signal::CONT);
    children.say(0, "go on");
    assert_eq!(children.next_answer(0), "refused");
    children.say(1, "go on");
    assert!(children.finish(1).1.success());
}

/// Readers and writers as quickly as they can, with files for those who are inside; says that it lives now and then.
fn use_it_hotly(lock: &RwLock, directory: &Path, rank: usize) {
    let (written, mine) = (directory.join("writer"), directory.join(format!("reader.{}", std::process::id())));
    let last = directory.join(format!("token.{rank}"));
    for round in 0_usize.. {
        if (round + rank).is_multiple_of(3) {
            let guard = lock.write_timeout(LIMIT).expect("whoever dies, the lock goes on");
            fs::write(&written, rank.to_string()).expect("a file");
            let readers = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("a file").path());
            let readers = readers.filter(|path| path.to_string_lossy().contains("reader."));
            let readers: Vec<_> = readers.filter(|path| lives(directory, path)).collect();
            assert!(readers.is_empty(), "{readers:?} read while rank {rank} writes");
            assert_eq!(fs::read_to_string(&written).expect("a file"), rank.to_string(), "somebody else writes");
            let tokens = fs::read_to_string(&last).unwrap_or_default();
            assert!(tokens.parse().is_ok_and(|last: u64| last < guard.token().0) || tokens.is_empty());
            fs::write(&last, guard.token().to_string()).expect("a file");
            drop(guard);
        } else {
            let guard = lock.read_timeout(LIMIT).expect("whoever dies, the lock goes on");
            fs::write(&mine, "").expect("a file");
            let writer = fs::read_to_string(&written).unwrap_or_default();
            assert_eq!(
                fs::read_to_string(&written).unwrap_or_default(),
                writer,
                "somebody writes while rank {rank} reads"
            );
            fs::remove_file(&mine).expect("this rank's");
            drop(guard);
        }
        if round % 50 == 0 {
            answer("alive");
        }
    }
}

/// Whether a reader's file is one of a process that has not been killed.
fn lives(directory: &Path, reader: &Path) -> bool {
    let pid = reader.extension().expect("a process").to_string_lossy();
    !directory.join(format!("killed {pid}")).exists()
}

fn kill(across: &Across, children: &mut Children, victim: usize) {
    fs::write(across.marks.join(format!("killed {}", children.pid(victim))), "").expect("a file");
    children.kill(victim);
}

/// Kills all but the last rank, one after another; the others go on.
fn kill_one_after_another(across: &Across, children: &mut Children, ranks: usize) {
    for victim in 0..ranks - 1 {
        for rank in victim..ranks {
            (0..2).for_each(|_| assert_eq!(children.next_answer(rank), "alive"));
        }
        kill(across, children, victim);
    }
    (0..3).for_each(|_| assert_eq!(children.next_answer(ranks - 1), "alive"));
}

#[test]
fn whoever_is_killed_in_the_middle_holds_nobody_up() {
    const TEST: &str = "whoever_is_killed_in_the_middle_holds_nobody_up";
    if role().is_some() {
        let job = join();
        let lock = job.rwlock("hot").expect("a lock");
        job.world().barrier().expect("all are there");
        return use_it_hotly(&lock, &Marks::of_this_rank().0, job.rank());
    }
    for _ in 0..3 {
        let marks = Across::of_counts(&[4]);
        let mut children = Children::default();
        for rank in 0..4 {
            let mut command = marks.launch.rank(TEST, "rank", rank);
            command.env("ACROSS_MARKS", &marks.marks);
            children.start(command);
        }
        kill_one_after_another(&marks, &mut children, 4);
    }
}

/// The last ranks of each node die, but never a whole node: what becomes of homes is another matter.
#[test]
fn whoever_is_killed_in_the_middle_holds_nobody_up_on_other_nodes() {
    const TEST: &str = "whoever_is_killed_in_the_middle_holds_nobody_up_on_other_nodes";
    if role().is_some() {
        let job = join();
        let name = std::env::var("LOCK_NAME").unwrap_or_else(|_| name_at(&job, 1));
        let lock = job.rwlock(&name).expect("a lock");
        job.world().barrier().expect("all are there");
        return use_it_hotly(&lock, &Marks::of_this_rank().0, job.rank());
    }
    let named = ["a", "b", "c"].map(|name| ([0, 1, 0, 1], Some(("LOCK_NAME", name))));
    // At home on the last node: the others share the hold of theirs, and die in the middle of whatever they do with it.
    let shared = [([0, 0, 0, 1], None), ([0, 0, 1, 0], None)];
    for (nodes, name) in named.into_iter().chain(shared) {
        let across = Across::new(&nodes);
        let mut children = across.start(TEST, name.as_slice());
        for victim in [0, 1] {
            (victim..4).for_each(|rank| assert_eq!(children.next_answer(rank), "alive"));
            kill(&across, &mut children, victim);
        }
        (2..4).for_each(|rank| (0..4).for_each(|_| assert_eq!(children.next_answer(rank), "alive")));
    }
}

#[test]
fn readers_and_writers_of_several_nodes_exclude_each_other() {
    const TEST: &str = "readers_and_writers_of_several_nodes_exclude_each_other";
    const ROUNDS: usize = 150;
    if role().is_some() {
        let job = join();
        let locks: Vec<RwLock> = (0..3).map(|index| job.rwlock(&format!("shared {index}")).expect("a lock")).collect();
        let marks = Marks::of_this_rank();
        job.world().barrier().expect("all are there");
        for round in 0..ROUNDS {
            for (index, lock) in locks.iter().enumerate() {
                let file = marks.0.join(format!("value {index}"));
                let value = || fs::read_to_string(&file).unwrap_or_else(|_| "0".to_owned());
                if (round + job.rank()).is_multiple_of(4) {
                    let guard = lock.write().expect("nobody fails");
                    let next = value().parse::<usize>().expect("whole") + 1;
                    // Not at once: who reads in between finds nothing.
                    fs::write(&file, "").expect("a file");
                    fs::write(&file, next.to_string()).expect("a file");
                    if round % 8 == 0 {
                        let guard = guard.downgrade().expect("nobody fails");
                        assert_eq!(value(), next.to_string());
                        guard.release().expect("it reads");
                    } else {
                        guard.release().expect("it writes");
                    }
                } else {
                    let guard = lock.read().expect("nobody fails");
                    value().parse::<usize>().expect("nobody writes");
                    guard.release().expect("it reads");
                }
            }
        }
        job.world().barrier().expect("all are through");
        let written: usize =
            (0..job.size()).map(|rank| (0..ROUNDS).filter(|round| (round + rank) % 4 == 0).count()).sum();
        for index in 0..locks.len() {
            let value = fs::read_to_string(marks.0.join(format!("value {index}"))).expect("a file");
            assert_eq!(value, written.to_string());
        }
        job.world().barrier().expect("all are through");
        return answer("done");
    }
    for nodes in [&[2, 2][..], &[1, 1, 1], &[1, 2]] {
        for answers in Across::of_counts(nodes).run(TEST, &[]) {
            assert_eq!(answers, ["done"]);
        }
    }
}

#[test]
fn attempts_and_time_outs_between_nodes_leave_no_hole() {
    const TEST: &str = "attempts_and_time_outs_between_nodes_leave_no_hole";
    if role().is_some() {
        let job = join();
        let locks: Vec<RwLock> = (0..3).map(|index| job.rwlock(&format!("busy {index}")).expect("a lock")).collect();
        let meet = || job.world().barrier().expect("all are there");
        for lock in &locks {
            meet();
            if job.rank() == 0 {
                let guard = lock.read().expect("it is free");
                meet();
                meet();
                drop(guard);
                let guard = lock.write_timeout(LIMIT).expect("nobody reads");
                meet();
                meet();
                drop(guard);
            } else {
                meet();
                assert!(lock.try_write().expect("a lock").is_none());
                let error = lock.write_timeout(SHORT).expect_err("rank 0 reads");
                assert!(matches!(error, LockError::StillRead { .. } | LockError::TimedOut { .. }), "{error}");
                lock.read_timeout(LIMIT).expect("nobody stays to write").release().expect("it reads");
                meet();
                meet();
                assert!(lock.try_read().expect("a lock").is_none());
                let error = lock.read_timeout(SHORT).expect_err("rank 0 writes");
                assert!(matches!(error, LockError::TimedOut { holder: Some(0), holder_node: Some(0), .. }), "{error}");
                meet();
                drop(lock.write_timeout(LIMIT).expect("it comes to all"));
            }
            meet();
        }
        return answer("done");
    }
    for answers in Across::of_counts(&[1, 2]).run(TEST, &[]) {
        assert_eq!(answers, ["done"]);
    }
}

/// A name of a lock that is at home on this node.
fn name_at(job: &Job, home: usize) -> String {
    (0..).map(|index| format!("lock {index}")).find(|name| job.home_of(name) == Ok(home)).expect("some name is")
}

/// The home is killed while one reads, then while one writes: at the next home others find that.
#[test]
fn who_reads_or_writes_does_so_still_when_the_home_is_lost() {
    const TEST: &str = "who_reads_or_writes_does_so_still_when_the_home_is_lost";
    const LONG: Duration = Duration::from_millis(400);
    if role().is_some() {
        let job = join();
        let writes = std::env::var("WRITES").is_ok();
        let lock = job.rwlock(&name_at(&job, 2)).expect("a lock");
        job.world().barrier().expect("all are there");
        match (job.rank(), writes) {
            (0, false) => {
                let guard = lock.read().expect("it is free");
                answer("has it");
                assert_eq!(await_line(), "leave");
                guard.release().expect("it reads still");
            }
            (0, true) => {
                let guard = lock.write().expect("it is free");
                answer("has it");
                assert_eq!(await_line(), "leave");
                let guard = guard.downgrade().expect("it writes still");
                guard.release().expect("it reads");
            }
            (1, _) => {
                assert_eq!(await_line(), "the home is killed");
                if writes {
                    let error = lock.read_timeout(LONG).expect_err("rank 0 writes");
                    assert!(matches!(error, LockError::TimedOut { holder: Some(0), .. }), "{error}");
                } else {
                    let error = lock.write_timeout(LONG).expect_err("rank 0 reads");
                    assert!(matches!(&error, LockError::StillRead { readers, .. } if *readers == [0]), "{error}");
                    lock.read_timeout(LIMIT).expect("nobody writes").release().expect("it reads");
                }
                answer("waits");
                lock.write_timeout(LIMIT).expect("rank 0 leaves").release().expect("it writes");
                drop(lock.read_timeout(LIMIT).expect("nobody writes"));
                answer("had it");
            }
            _ => answer("home"),
        }
        await_line();
        return;
    }
    for variables in [&[][..], &[("WRITES", "1")]] {
        let across = Across::new(&[0, 1, 2]);
        let mut children = across.start(TEST, variables);
        assert_eq!(children.next_answer(0), "has it");
        assert_eq!(children.next_answer(2), "home");
        children.kill(2);
        children.say(1, "the home is killed");
        assert_eq!(children.next_answer(1), "waits");
        children.say(0, "leave");
        assert_eq!(children.next_answer(1), "had it");
    }
}
