//! Ranks as processes: the test program starts itself again with one test's name and a role in the environment.
//!
//! A test that has roles begins with `if let Some(role) = role() { … return; }`. What a child has to say it prints by
//! [`answer`]; the parent collects it with [`Children::answers`]. A child ends with its parent: it watches its standard
//! input, whose other end the parent holds, and the guard kills what is left when it is dropped. By the same pipe the
//! parent can say something ([`Children::say`], [`await_line`]).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{LazyLock, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::ranks::{LIMIT, await_that};

const ROLE: &str = "EVIDENCE_ROLE";
const ANSWER: &str = "ANSWER ";

/// The role of this process, if a test has started it as a child. Such a process ends when its parent does.
pub fn role() -> Option<String> {
    let role = std::env::var(ROLE).ok()?;
    std::thread::spawn(|| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = SAID.0.send(line);
        }
        // The end of input is the parent's end.
        std::process::exit(3);
    });
    Some(role)
}

/// What the parent has said to this process.
static SAID: LazyLock<(Sender<String>, Mutex<Receiver<String>>)> = LazyLock::new(|| {
    let (said, heard) = channel();
    (said, Mutex::new(heard))
});

/// Waits until the parent says something: one line.
pub fn await_line() -> String {
    SAID.1.lock().expect("nobody panics with it").recv_timeout(LIMIT).expect("the parent says something")
}

/// Says something to the parent: one line.
pub fn answer(text: impl std::fmt::Display) {
    println!("\n{ANSWER}{text}");
}

/// The identity of a job that nobody else uses.
#[derive(Clone, Debug)]
pub struct Launch {
    pub name: String,
    pub key: String,
    pub size: usize,
}

impl Launch {
    pub fn new(size: usize) -> Self {
        static JOBS: AtomicU64 = AtomicU64::new(0);
        let number = JOBS.fetch_add(1, Ordering::Relaxed);
        // With an end, so that no name is the beginning of another.
        let name = format!("phalanx-evidence-{}-{number}-end", std::process::id());
        Self { name, key: "5a".repeat(32), size }
    }

    /// The command that runs `test` of this program as `rank` in a role.
    pub fn rank(&self, test: &str, role: &str, rank: usize) -> Command {
        let mut command = bare(test, role);
        command
            .env("PHALANX_RANK", rank.to_string())
            .env("PHALANX_SIZE", self.size.to_string())
            .env("PHALANX_BOOTSTRAP", format!("unix:{}", self.name))
            .env("PHALANX_KEY", &self.key);
        command
    }

    /// Starts all ranks, to run `test` in a role.
    pub fn start(&self, test: &str, role: &str) -> Children {
        let mut children = Children::default();
        for rank in 0..self.size {
            children.start(self.rank(test, role, rank));
        }
        children
    }

    /// Whether a socket of the job's name is open anywhere on the machine.
    pub fn has_socket(&self) -> bool {
        std::fs::read_to_string("/proc/net/unix").expect("Linux").contains(&self.name)
    }
}

/// A port of the loopback interface at which nobody listens, nor will before this process ends, but for whom it is
/// given to. It is below those that the kernel gives to whoever connects. Each test process tries another part of them
/// first, and claims what it gives by a socket's name, which the kernel lets one process have and forgets with it.
pub fn free_port() -> u16 {
    static TRIED: AtomicU64 = AtomicU64::new(0);
    static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    loop {
        let number = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (u64::from(std::process::id()) * 64 + number) % 20_000;
        let port = u16::try_from(port).expect("below 30,000");
        let name = SocketAddr::from_abstract_name(format!("phalanx-test-port-{port}")).expect("a short name");
        let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            CLAIMED.lock().expect("nobody panics with it").push(claim);
            return port;
        }
    }
}

/// The command that runs `test` of this program in a role, as no rank of any job.
pub fn bare(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PHALANX_") && name != "PHALANX_FABRIC" {
            command.env_remove(name);
        }
    }
    command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Started processes, killed when dropped.
#[derive(Default)]
pub struct Children {
    children: Vec<(Child, Option<ChildStdin>)>,
}

impl Children {
    pub fn start(&mut self, mut command: Command) -> usize {
        let mut child = command.spawn().expect("the test program starts again");
        let stdin = child.stdin.take();
        self.children.push((child, stdin));
        self.children.len() - 1
    }

    pub fn pid(&self, index: usize) -> u32 {
        self.children[index].0.id()
    }

    /// Says a line to one.
    pub fn say(&mut self, index: usize, line: &str) {
        let stdin = self.children[index].1.as_mut().expect("piped");
        writeln!(stdin, "{line}").expect("the child reads");
    }

    /// Kills one (SIGKILL) and waits for its end.
    pub fn kill(&mut self, index: usize) {
        let child = &mut self.children[index].0;
        let _ = child.kill();
        let _ = child.wait();
    }

    pub fn signal(&self, index: usize, signal: Signal) {
        send(self.pid(index), signal).expect("the child is there");
    }

    /// Stops one, and waits until all its threads are stopped: one of them might answer still.
    pub fn stop(&self, index: usize) {
        self.signal(index, Signal::STOP);
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a task").path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
        };
        let tasks = format!("/proc/{}/task", self.pid(index));
        await_that("it is not stopped", || std::fs::read_dir(&tasks).expect("it lives").all(is_stopped));
    }

    /// Waits until each of these answers, and that is what they say.
    pub fn await_answers(&mut self, indices: &[usize], expected: &str) {
        for index in indices {
            assert_eq!(self.next_answer(*index), expected, "child {index}");
        }
    }

    /// Waits until one answers, and returns that line.
    pub fn next_answer(&mut self, index: usize) -> String {
        let child = &mut self.children[index].0;
        let pid = child.id();
        let stdout = child.stdout.as_mut().expect("piped");
        within_limit(pid, || read_answer(stdout))
            .unwrap_or_else(|last| panic!("child {index} ended without an answer: {last}"))
    }

    /// Waits until one ends.
    pub fn finish(&mut self, index: usize) -> (Vec<String>, ExitStatus) {
        let child = &mut self.children[index].0;
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let answers = within_limit(child.id(), || {
            let lines = lines.map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix(ANSWER).map(str::to_owned)).collect()
        });
        (answers, child.wait().expect("a child"))
    }

    /// Waits until all end well; each one's answers.
    pub fn answers(mut self) -> Vec<Vec<String>> {
        (0..self.children.len())
            .map(|index| {
                let (answers, status) = self.finish(index);
                assert!(status.success(), "child {index}: {status}, {answers:?}");
                answers
            })
            .collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal)
}

/// Waits for something that a process does, and kills it if that takes too long, which ends the wait.
fn within_limit<T>(pid: u32, wait: impl FnOnce() -> T) -> T {
    let (done, end) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("process {pid} takes too long and is killed");
                let _ = send(pid, Signal::KILL);
            }
        });
        let value = wait();
        drop(done);
        value
    })
}

/// The next answer, or the last line before the end.
fn read_answer(stdout: &mut ChildStdout) -> Result<String, String> {
    loop {
        // Byte by byte, so that nothing of a later answer is read ahead and lost.
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).expect("a pipe") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line);
        match text.strip_prefix(ANSWER) {
            Some(answer) => return Ok(answer.to_owned()),
            None if byte[0] != b'\n' => return Err(text.into_owned()),
            None => {}
        }
    }
}
