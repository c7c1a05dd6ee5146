//! Real processes that live, stop and die. They end when their standard input does, hence also with this one.

use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::deaths::Way;
use super::*;

/// No wait of these tests takes this long unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);
/// What a test that starts this program again finds in its environment.
const ROLE: &str = "WATCH_ROLE";
const KEY: u64 = 7_000_000_000;

/// A started process, killed when dropped.
struct Started(Child);

impl Started {
    /// A shell whose input lasts until [`end_input`](Self::end_input), and that then runs `then`.
    fn shell(then: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("read line; {then}")]).stdin(Stdio::piped());
        Self(shell.spawn().expect("there is a shell"))
    }

    /// A process that ends well when the pipe does.
    fn reading(input: &PipeReader) -> Self {
        let input = input.try_clone().expect("a descriptor is left");
        Self(Command::new("cat").stdin(input).stdout(Stdio::null()).spawn().expect("there is cat"))
    }

    /// This program again, with one test and a role in its environment.
    fn role(test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.args([&format!("cluster::watch::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, test).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("the test program starts again"))
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id()).expect("Linux has /proc").expect("not reaped yet")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("a child can be signalled");
    }

    fn end_input(&mut self) {
        self.0.stdin.take();
    }

    /// Waits until it is a zombie, and leaves it one.
    fn await_zombie(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(self.pid()), options).expect("a child");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it prints first, without waiting for its end.
fn line_of(started: &mut Started) -> String {
    let stdout = started.0.stdout.as_mut().expect("piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("text");
    line.trim_end().to_owned()
}

fn watching(way: Way, started: &Started) -> Deaths {
    let mut deaths = Deaths::by(way).expect("descriptors are left");
    assert_eq!(deaths.add(KEY, started.id()).expect("watched"), Added::Watched, "{way:?}");
    deaths
}

/// Sleeps until somebody dies.
fn await_deaths(deaths: &mut Deaths) -> Vec<Death> {
    let begun = Instant::now();
    loop {
        let woken = deaths.wait(Some(LIMIT)).expect("waiting works");
        if !woken.deaths.is_empty() {
            return woken.deaths;
        }
        assert!(begun.elapsed() < LIMIT, "nobody dies");
    }
}

fn await_end(deaths: &mut Deaths) -> End {
    let died = await_deaths(deaths);
    assert_eq!(died.len(), 1);
    assert_eq!(died[0].key, KEY);
    assert_eq!(deaths.watched(), 0);
    died[0].end
}

/// Whether a pidfd tells of the end of a process that has been reaped.
fn kernel_remembers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux has /proc");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[test]
fn whoever_is_killed_is_told_of_with_the_signal() {
    for way in [Way::Pidfds, Way::Looks] {
        let started = Started::shell("exit 0");
        let mut deaths = watching(way, &started);
        started.signal(Signal::KILL);
        assert_eq!(await_end(&mut deaths), End::Killed { signal: 9 }, "{way:?}");
    }
}

#[test]
fn whoever_ends_is_told_of_with_the_status() {
    for (way, status) in [(Way::Pidfds, 0), (Way::Pidfds, 3), (Way::Looks, 0), (Way::Looks, 255)] {
        let mut started = Started::shell(&format!("exit {status}"));
        let mut deaths = watching(way, &started);
        started.end_input();
        assert_eq!(await_end(&mut deaths), End::Exited { status }, "{way:?}");
    }
}

#[test]
fn the_end_of_a_reaped_process_is_in_its_pidfd() {
    for (then, expected) in [("exit 3", End::Exited { status: 3 }), ("kill -9 $$", End::Killed { signal: 9 })] {
        let mut started = Started::shell(then);
        let mut deaths = watching(Way::Pidfds, &started);
        started.end_input();
        started.0.wait().expect("a child");
        let expected = if kernel_remembers() { expected } else { End::Unknown };
        assert_eq!(await_end(&mut deaths), expected);
    }
}

#[test]
fn a_reaped_process_is_missed_by_looking_too() {
    let mut started = Started::shell("exit 3");
    let mut deaths = watching(Way::Looks, &started);
    started.end_input();
    started.0.wait().expect("a child");
    assert_eq!(await_end(&mut deaths), End::Unknown);
}

/// The child's own child, whose parent ends at once: its zombie is init's, which reaps it when it likes.
#[test]
fn a_process_that_is_no_child_is_watched_as_well() {
    let (input, writer) = pipe().expect("a pipe");
    let mut shell = Command::new("sh");
    // A shell gives what it starts in the background no input of its own, unless told to.
    shell.args(["-c", "exec 3<&0; (read line <&3; exit 5) & echo $!"]).stdin(input).stdout(Stdio::piped());
    let mut shell = Started(shell.spawn().expect("there is a shell"));
    let grandchild =
        ProcessId::of(line_of(&mut shell).parse().expect("a pid")).expect("/proc").expect("it waits for its input");
    assert!(shell.0.wait().expect("a child").success());
    let mut deaths = Deaths::new().expect("descriptors are left");
    assert_eq!(deaths.add(KEY, grandchild).expect("watched"), Added::Watched);
    drop(writer);
    let end = await_end(&mut deaths);
    let is_known = end == End::Exited { status: 5 };
    assert!(is_known || !kernel_remembers() && end == End::Unknown, "{end}");
}

#[test]
fn stopped_processes_are_alive_and_known_as_stopped() {
    let mut started = Started::shell("exit 4");
    let process = started.id();
    let mut deaths = watching(Way::Pidfds, &started);
    let state = || process.state().expect("Linux has /proc");
    assert_eq!(state(), ProcessState::Running);
    started.signal(Signal::STOP);
    rustix::process::waitpid(Some(started.pid()), WaitOptions::UNTRACED).expect("a child");
    assert_eq!(state(), ProcessState::Stopped);
    assert_eq!(deaths.wait(Some(Duration::ZERO)).expect("waiting works"), Woken::default());
    started.signal(Signal::CONT);
    rustix::process::waitpid(Some(started.pid()), WaitOptions::CONTINUED).expect("a child");
    assert_eq!(state(), ProcessState::Running);
    started.end_input();
    assert_eq!(await_end(&mut deaths), End::Exited { status: 4 });
    assert_eq!(state(), ProcessState::Gone, "a zombie is");
    started.0.wait().expect("a child");
    assert_eq!(state(), ProcessState::Gone);
}

#[test]
fn another_start_than_noted_is_a_death() {
    for way in [Way::Pidfds, Way::Looks] {
        let started = Started::shell("exit 0");
        let noted = ProcessId { start_ticks: started.id().start_ticks - 1, ..started.id() };
        let mut deaths = Deaths::by(way).expect("descriptors are left");
        assert_eq!(deaths.add(KEY, noted).expect("looked at"), Added::DeadAlready(End::Unknown), "{way:?}");
        // Whoever has the pid now dies unnoticed.
        started.signal(Signal::KILL);
        started.await_zombie();
        assert_eq!(deaths.wait(Some(Duration::ZERO)).expect("waiting works"), Woken::default(), "{way:?}");
        assert_eq!(deaths.watched(), 0);
    }
}

#[test]
fn zombies_and_those_that_are_no_more_are_dead_already() {
    for way in [Way::Pidfds, Way::Looks] {
        let mut started = Started::shell("exit 6");
        let process = started.id();
        started.end_input();
        started.await_zombie();
        let mut deaths = Deaths::by(way).expect("descriptors are left");
        let mut add = |process| deaths.add(KEY, process).expect("looked at");
        assert_eq!(add(process), Added::DeadAlready(End::Exited { status: 6 }), "{way:?}");
        started.0.wait().expect("a child");
        assert_eq!(add(process), Added::DeadAlready(End::Unknown), "{way:?}");
        assert_eq!(add(ProcessId { pid: 0, ..process }), Added::DeadAlready(End::Unknown), "{way:?}");
        assert_eq!(add(ProcessId { pid: u32::MAX, ..process }), Added::DeadAlready(End::Unknown), "{way:?}");
        assert_eq!(deaths.watched(), 0);
    }
}

#[test]
fn two_hundred_that_die_at_once_are_told_of_once_each() {
    const COUNT: u64 = 200;
    for way in [Way::Pidfds, Way::Looks] {
        let (input, writer) = pipe().expect("a pipe");
        let started: Vec<Started> = (0..COUNT).map(|_| Started::reading(&input)).collect();
        let mut deaths = Deaths::by(way).expect("descriptors are left");
        for (key, started) in (0..).zip(&started) {
            assert_eq!(deaths.add(key, started.id()).expect("watched"), Added::Watched);
        }
        drop(writer);
        let mut keys = Vec::new();
        while deaths.watched() > 0 {
            for death in await_deaths(&mut deaths) {
                assert_eq!(death.end, End::Exited { status: 0 }, "{way:?}");
                assert_eq!(death.process, started[usize::try_from(death.key).expect("one of them")].id());
                keys.push(death.key);
            }
        }
        keys.sort_unstable();
        assert_eq!(keys, (0..COUNT).collect::<Vec<_>>(), "{way:?}");
    }
}

#[test]
fn deaths_are_told_in_their_order() {
    let mut started: Vec<Started> = (0..3).map(|_| Started::shell("exit 0")).collect();
    let mut deaths = Deaths::new().expect("descriptors are left");
    for (key, started) in (0..).zip(&started) {
        deaths.add(key, started.id()).expect("watched");
    }
    for index in [2, 0, 1] {
        started[index].end_input();
        started[index].await_zombie();
    }
    let woken = deaths.wait(None).expect("waiting works");
    assert_eq!(woken.deaths.iter().map(|death| death.key).collect::<Vec<_>>(), [2, 0, 1]);
}

#[test]
fn a_bell_ends_a_sleep_now_or_later() {
    for way in [Way::Pidfds, Way::Looks] {
        let started = Started::shell("exit 0");
        let mut deaths = watching(way, &started);
        let rung = Woken { deaths: Vec::new(), is_rung: true };
        let bell = deaths.bell();
        bell.ring();
        bell.ring();
        assert_eq!(deaths.wait(None).expect("waiting works"), rung, "{way:?}");
        assert_eq!(deaths.wait(Some(Duration::ZERO)).expect("waiting works"), Woken::default(), "{way:?}");
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring());
            assert_eq!(deaths.wait(None).expect("waiting works"), rung, "{way:?}");
        });
        let nap = Duration::from_millis(25);
        let begun = Instant::now();
        assert_eq!(deaths.wait(Some(nap)).expect("waiting works"), Woken::default(), "{way:?}");
        assert!(begun.elapsed() >= nap, "{way:?}");
    }
}

#[test]
fn more_than_the_open_files_allow_is_an_error_that_says_so() {
    const TEST: &str = "more_than_the_open_files_allow_is_an_error_that_says_so";
    if std::env::var(ROLE).is_err() {
        let mut alone = Started::role(TEST);
        let mut printed = String::new();
        alone.0.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
        assert!(alone.0.wait().expect("a child").success(), "{printed}");
        assert!(printed.contains("1 passed"), "{printed}");
        return;
    }
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum }).expect("less is allowed");
    let this = ProcessId::of_this_process().expect("Linux has /proc");
    let mut deaths = Deaths::new().expect("descriptors are left");
    let error = loop {
        match deaths.add(KEY, this) {
            Ok(added) => assert_eq!(added, Added::Watched),
            Err(error) => break error,
        }
    };
    let WatchError::OpenFiles { pid, watched, .. } = &error else { panic!("{error}") };
    assert_eq!((*pid, *watched), (this.pid, deaths.watched()));
    assert!(*watched > 20 && *watched < 40, "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    // Those watched before still are.
    assert_eq!(deaths.wait(Some(Duration::ZERO)).expect("waiting works"), Woken::default());
}

/// Ends its first thread, and the process when its input ends.
const HEADLESS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *second(void *first) {
    pthread_join(*(pthread_t *)first, NULL);
    puts("ended");
    fflush(stdout);
    while (getchar() != EOF) {}
    exit(8);
}
static pthread_t first;
int main(void) {
    pthread_t thread;
    first = pthread_self();
    pthread_create(&thread, NULL, second, &first);
    pthread_exit(NULL);
}
"#;

/// In C: a Rust program can hardly end its first thread alone.
#[test]
fn a_process_whose_first_thread_has_ended_lives() {
    let program = std::env::temp_dir().join(format!("phalanx-headless-{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-pthread", "-x", "c", "-", "-o"]).arg(&program).stdin(Stdio::piped());
    let mut compiler = compiler.spawn().expect("there is a linker, and it compiles C");
    compiler.stdin.take().expect("piped").write_all(HEADLESS.as_bytes()).expect("it reads");
    assert!(compiler.wait().expect("a child").success());
    let mut headless = Command::new(&program);
    headless.stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = [Way::Pidfds, Way::Looks].map(|way| (way, headless.spawn().map(Started)));
    std::fs::remove_file(&program).expect("it is there");

    for (way, started) in started {
        let mut started = started.expect("it has been compiled");
        assert_eq!(line_of(&mut started), "ended");
        let process = started.id();
        // Whoever joins a thread returns a moment before the kernel is done with it.
        let begun = Instant::now();
        while !std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).expect("Linux has /proc").contains(") Z ")
        {
            assert!(begun.elapsed() < LIMIT, "the first thread has not ended");
            std::thread::yield_now();
        }
        assert_eq!(process.state().expect("Linux has /proc"), ProcessState::Running);
        let mut deaths = watching(way, &started);
        assert_eq!(deaths.wait(Some(Duration::ZERO)).expect("waiting works"), Woken::default(), "{way:?}");
        started.end_input();
        assert_eq!(await_end(&mut deaths), End::Exited { status: 8 }, "{way:?}");
    }
}
