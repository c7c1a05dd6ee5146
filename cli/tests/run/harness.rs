//! What the tests share: a running launcher that is killed when the test ends, and a look at other processes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Generous: machines that run tests are busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The launcher with these arguments, without a job around it.
pub fn phalanx(arguments: &[&str]) -> Command {
    let mut command = undisturbed();
    command.arg(env!("CARGO_BIN_EXE_phalanx")).args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program that its arguments name. What a shell in the background has its programs ignore, Ctrl-C for one, is
/// not ignored by that.
pub fn undisturbed() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal");
    command
}

/// Runs a shell program as `ranks` ranks, to its end, with more options before it.
pub fn run(ranks: usize, options: &[&str], script: &str) -> Outcome {
    Job::start(ranks, options, script).finish()
}

/// What a launcher that has ended leaves.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The launcher's exit status. It never dies of a signal unless a test kills it.
    pub fn code(&self) -> i32 {
        self.status.code().expect("the launcher was killed")
    }

    /// Lines of stdout, sorted, since ranks come in any order.
    pub fn sorted_lines(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }
}

/// A launcher that is running. Dropped, it is killed, and takes its ranks along.
pub struct Job {
    child: Child,
    /// `None` once a test has stopped reading.
    stdout: Option<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    /// Dropped together with the job, which tells the watchdog that all is well.
    _watchdog: Sender<()>,
}

impl Job {
    /// Starts `sh -c script` as `ranks` ranks.
    pub fn start(ranks: usize, options: &[&str], script: &str) -> Self {
        let ranks = ranks.to_string();
        let arguments = [&["run", "-n", &ranks], options, &["--", "sh", "-c", script]].concat();
        Self::spawn(&mut phalanx(&arguments))
    }

    /// Starts what `command` says, with its output piped here.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the launcher");
        let stdout = Some(BufReader::new(child.stdout.take().expect("piped")));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let watchdog = watch(Pid::from_raw(i32::try_from(child.id()).expect("a pid")));
        Self { child, stdout, stderr, _watchdog: watchdog }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The next line of stdout.
    pub fn line(&mut self) -> String {
        next_line(self.stdout.as_mut().expect("stdout is still read"))
    }

    /// The next line of stderr.
    pub fn error_line(&mut self) -> String {
        next_line(&mut self.stderr)
    }

    /// Stops reading, as `head` does when it has seen enough.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// As many lines as there are ranks, say.
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Takes the rest of the output and the exit status.
    pub fn finish(self) -> Outcome {
        let (status, stdout, stderr) = self.finish_bytes();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Outcome { status, stdout: text(stdout), stderr: text(stderr) }
    }

    /// `finish`, for output that is no text.
    pub fn finish_bytes(mut self) -> (ExitStatus, Vec<u8>, Vec<u8>) {
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        // Both at once, or the launcher might wait for one while this waits for the other.
        thread::scope(|scope| {
            scope.spawn(|| self.stderr.read_to_end(&mut stderr).expect("read stderr"));
            if let Some(reader) = &mut self.stdout {
                reader.read_to_end(&mut stdout).expect("read stdout");
            }
        });
        (self.child.wait().expect("wait for the launcher"), stdout, stderr)
    }

    /// Waits for the exit status without reading any output.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the launcher ends", || {
            status = self.child.try_wait().expect("wait for the launcher");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// The process that does the launcher's work.
    pub fn supervisor(&self) -> i32 {
        let children = children_of(self.pid());
        assert_eq!(children.len(), 1, "the front has one child, its supervisor");
        children[0]
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a launcher that takes too long, so that a test which waits for its output fails and does not hang.
fn watch(launcher: Pid) -> Sender<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if receiver.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill(launcher, Signal::SIGKILL);
        }
    });
    sender
}

/// Sends a signal to a process that must be there.
pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("send a signal");
}

/// A line without its end; panics where the stream ends instead.
fn next_line(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("read a line");
    assert!(line.ends_with('\n'), "the output ended early, after {line:?}");
    line.trim_end().to_owned()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// State and parent of a process, if it exists.
pub fn state(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Does this process still run? A zombie that nobody has reaped yet does not.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|(state, _)| state != 'Z')
}

fn children_of(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| state(pid).is_some_and(|(_, of)| of == parent)).collect()
}
