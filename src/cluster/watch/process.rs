//! A process of this machine, by its pid and its start, and its state by one look at `/proc`.

use std::fs::File;
use std::io::{self, Read};

use rustix::io::Errno;

use super::end::End;

/// More than the kernel ever writes into `/proc/PID/stat`: a name of 64 bytes and 52 numbers.
const STAT_BYTES: usize = 2048;

/// No process ends by them.
const STOP_SIGNALS: [libc::c_int; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// A process, for ever: its pid may be another process's later, but not with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The pid.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub start_ticks: u64,
}

/// What a process does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs, or waits for something and will run when that comes.
    Running,
    /// Stopped by a signal (SIGSTOP, SIGTSTP, …) until SIGCONT.
    Stopped,
    /// Held by whoever traces it, a debugger most often.
    Traced,
    /// It is dead, whether its parent has noticed or not.
    Gone,
}

impl ProcessId {
    /// The process that calls this.
    ///
    /// # Errors
    ///
    /// When there is no `/proc`, or one of another pid namespace, in which other processes' pids are none of ours.
    pub fn of_this_process() -> io::Result<Self> {
        let stat = Stat::read_from("/proc/self/stat")?.ok_or_else(|| io::Error::from(Errno::NOENT))?;
        if stat.pid != std::process::id() {
            let message = format!("/proc is of another pid namespace: it calls this process {}", stat.pid);
            return Err(io::Error::other(message));
        }
        Ok(Self { pid: stat.pid, start_ticks: stat.start_ticks })
    }

    /// The process that has this pid now, a zombie included. `None` when there is none.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let stat = Stat::read(pid)?;
        Ok(stat.map(|stat| Self { pid, start_ticks: stat.start_ticks }))
    }

    /// What it does now, by one read of `/proc/PID/stat`.
    ///
    /// A process whose first thread has ended while others live is [`ProcessState::Running`], also when those are
    /// stopped: the kernel tells of the first thread only.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read, which says nothing about the process: this process may have too many open files.
    pub fn state(&self) -> io::Result<ProcessState> {
        Ok(self.stat()?.map_or(ProcessState::Gone, |stat| stat.state()))
    }

    /// How it is ending, if that is known otherwise: while the kernel takes it down, or writes its core file. `None`
    /// when it is dead, and where nobody says: also of one that exits with status 0. (Of a process that lives, and that
    /// a debugger looks at, there may be any signal.)
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub fn ending(&self) -> io::Result<Option<End>> {
        let status = self.stat()?.and_then(|stat| stat.ending_status());
        Ok(status.map(End::from_wait_status))
    }

    /// Whether the kernel writes its core file. All its threads are past their last instruction then.
    pub fn is_dumping(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        // Since Linux 4.15.
        status.lines().any(|line| line.split_ascii_whitespace().eq(["CoreDumping:", "1"]))
            && self.stat().is_ok_and(|stat| stat.is_some())
    }

    /// What the kernel tells of it; `None` when it is no more, or the pid is another process's.
    pub(super) fn stat(&self) -> io::Result<Option<Stat>> {
        let stat = Stat::read(self.pid)?;
        Ok(stat.filter(|stat| stat.start_ticks == self.start_ticks))
    }
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pid: u32,
    letter: u8,
    threads: u64,
    start_ticks: u64,
    /// As `waitpid` would give it; 0 for whoever may not trace the process. Since Linux 3.5.
    pub exit_code: Option<u32>,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Option<Self>> {
        Self::read_from(&format!("/proc/{pid}/stat"))
    }

    fn read_from(path: &str) -> io::Result<Option<Self>> {
        let mut bytes = [0; STAT_BYTES];
        // One read: the kernel composes the line anew for each that starts at its beginning.
        let length = match File::open(path).and_then(|mut file| file.read(&mut bytes)) {
            Ok(length) => length,
            // ESRCH: it has been reaped between open and read.
            Err(error) if [Some(Errno::NOENT), Some(Errno::SRCH)].contains(&Errno::from_io_error(&error)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let stat = Self::parse(&bytes[..length]);
        stat.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("cannot make sense of {path}")))
    }

    /// The line, whose second field is a name in parentheses that may contain any byte, blanks, line feeds and
    /// parentheses too. No other field does, so the name ends at the last `)`.
    fn parse(line: &[u8]) -> Option<Self> {
        let name_end = line.iter().rposition(|byte| *byte == b')')?;
        let pid = line.split(|byte| *byte == b' ').next()?;
        let rest = std::str::from_utf8(&line[name_end + 1..]).ok()?;
        // proc(5) counts from 1, and the first of these is its third.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            pid: std::str::from_utf8(pid).ok()?.parse().ok()?,
            letter: *field(3)?.as_bytes().first()?,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
            exit_code: field(52).and_then(|code| code.parse().ok()),
        })
    }

    /// What the letter means.
    pub(super) fn state(&self) -> ProcessState {
        match self.letter {
            b'T' => ProcessState::Stopped,
            b't' => ProcessState::Traced,
            // Other threads still run, or are still on their way out; a dead process's zombie is its first thread only.
            b'Z' if self.threads > 1 => ProcessState::Running,
            b'Z' | b'X' | b'x' => ProcessState::Gone,
            _ => ProcessState::Running,
        }
    }

    /// The status that the process will have ended with. From Linux 5.17 on it is there as soon as the end has begun.
    fn ending_status(&self) -> Option<u32> {
        // Of a process that is stopped the kernel puts the signal there that has stopped it.
        let is_stop = |code: &u32| STOP_SIGNALS.contains(&code.cast_signed());
        self.exit_code.filter(|code| *code != 0 && !is_stop(code) && self.state() != ProcessState::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of the kernel's form with these fields.
    fn line(name: &str, letter: char, threads: u64, exit_code: &str) -> Vec<u8> {
        let before = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        let between = (24..=51).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        format!("77 ({name}) {letter} {before} {threads} 0 4711 23 {between} {exit_code}\n").into_bytes()
    }

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        for name in ["sleep", "tmux: server", "a) Z (b", "(sd-pam)", "", ") R 1 2 3", "two\nlines", ")"] {
            let stat = Stat::parse(&line(name, 'S', 5, "9")).unwrap_or_else(|| panic!("{name:?} is a name"));
            let expected = Stat { pid: 77, letter: b'S', threads: 5, start_ticks: 4711, exit_code: Some(9) };
            assert_eq!(stat, expected, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_such_line_is_refused() {
        for text in ["", ")", "77 (sleep", "77 (sleep) S 1 2 3", "x (sleep) S"] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
        let whole = line("sleep", 'S', 1, "0");
        let start = whole.windows(4).position(|window| window == b"4711").expect("it is there");
        for length in 0..start {
            assert_eq!(Stat::parse(&whole[..length]), None, "cut after {length} bytes");
        }
    }

    #[test]
    fn letters_are_states() {
        let state = |letter, threads| Stat::parse(&line("a b", letter, threads, "0")).expect("a line").state();
        for letter in ['R', 'S', 'D', 'I', 'P', 'W', 'K'] {
            assert_eq!(state(letter, 1), ProcessState::Running, "{letter}");
        }
        assert_eq!(state('T', 3), ProcessState::Stopped);
        assert_eq!(state('t', 3), ProcessState::Traced);
        assert_eq!(state('Z', 1), ProcessState::Gone);
        assert_eq!(state('Z', 2), ProcessState::Running);
        assert_eq!(state('X', 0), ProcessState::Gone);
    }

    #[test]
    fn who_is_ending_is_told_from_who_is_stopped() {
        let ending = |letter, code| Stat::parse(&line("a b", letter, 3, code)).expect("a line").ending_status();
        assert_eq!(ending('R', "9"), Some(9));
        assert_eq!(ending('D', "139"), Some(139), "its core file is being written");
        assert_eq!(ending('Z', "256"), Some(256), "its first thread has ended, others have not");
        assert_eq!(ending('S', "0"), None);
        assert_eq!(ending('t', "9"), Some(9), "a debugger holds it in its end");
        assert_eq!(ending('T', "19"), None);
        assert_eq!(ending('R', "19"), None, "a debugger lets it run");
    }

    #[test]
    fn this_process_runs_and_is_found_by_its_pid() {
        let this = ProcessId::of_this_process().expect("Linux has /proc");
        assert_eq!(this.pid, std::process::id());
        assert_eq!(this.state().expect("/proc can be read"), ProcessState::Running);
        assert_eq!(ProcessId::of(this.pid).expect("/proc can be read"), Some(this));
    }

    #[test]
    fn another_start_is_another_process() {
        let this = ProcessId::of_this_process().expect("Linux has /proc");
        let recycled = ProcessId { start_ticks: this.start_ticks + 1, ..this };
        assert_eq!(recycled.state().expect("/proc can be read"), ProcessState::Gone);
        let nobody = ProcessId { pid: u32::MAX, ..this };
        assert_eq!(nobody.state().expect("/proc can be read"), ProcessState::Gone);
        assert_eq!(ProcessId::of(u32::MAX).expect("/proc can be read"), None);
    }
}
