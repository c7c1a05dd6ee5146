//! The front: the process whose pid the user knows. It does almost nothing, so that almost nothing can go wrong with
//! it: it forks the supervisor, passes signals on to it, waits for it, and exits with its status.
//!
//! The two guard each other. The front tells the supervisor about signals through a pipe of which the front alone
//! holds the writing end, so that its death, however sudden, is the pipe's end: the supervisor then kills the job.
//! If it is the supervisor that dies, its ranks die with it (`PR_SET_PDEATHSIG`) and what they leave behind becomes the
//! front's children, which the front kills.

use std::os::fd::OwnedFd;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process, waitpid};

use super::error::RunError;
use super::family::{self, Strangers};
use super::options::Options;
use super::signals::{self, Arrived, Origin, Signals};
use super::spawn::{self, Forked};
use super::{say, supervisor};

/// Runs a job and returns its exit status. Returns in both processes: as the front, and as the supervisor.
pub fn run(options: &Options) -> Result<u8, RunError> {
    let Options { nodes, ranks, .. } = *options;
    if nodes > ranks {
        return Err(RunError::MoreNodesThanRanks { nodes, ranks });
    }
    spawn::listen_to_children().map_err(RunError::system("listen to children"))?;
    prctl::set_child_subreaper(true).map_err(RunError::system("adopt orphaned processes"))?;
    let strangers = Strangers::present();
    let signals = Signals::listen()?;
    let (word_out, word_in) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(RunError::system("make a pipe"))?;
    match spawn::fork().map_err(RunError::system("make a process"))? {
        Forked::Child => {
            drop(word_in);
            // Inherited, but a signalfd gives each process its own signals.
            supervisor::run(options, word_out, signals)
        }
        Forked::Parent { child } => {
            drop(word_out);
            Ok(Front { supervisor: child, word_in, signals, strangers }.wait())
        }
    }
}

struct Front {
    supervisor: Pid,
    word_in: OwnedFd,
    signals: Signals,
    strangers: Strangers,
}

impl Front {
    fn wait(&self) -> u8 {
        loop {
            let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], None);
            while let Some(arrived) = self.signals.next() {
                match arrived {
                    Arrived::Forward(signal, origin) => self.forward(signal, origin),
                    Arrived::Child => {
                        if let Ok(Some((_, status))) = waitpid(Some(self.supervisor), WaitOptions::NOHANG) {
                            return self.finish(status);
                        }
                    }
                }
            }
        }
    }

    fn forward(&self, signal: Signal, origin: Origin) {
        Word::Forward(signal, origin).write(&self.word_in);
        if signals::asks_to_end(signal) {
            // Somebody may have stopped the supervisor, and the job is to end all the same.
            let _ = kill_process(self.supervisor, rustix::process::Signal::CONT);
        }
        if signal == Signal::SIGTSTP {
            signals::stop_here();
        }
    }

    fn finish(&self, status: WaitStatus) -> u8 {
        if let Some(code) = status.exit_status() {
            return u8::try_from(code).unwrap_or(u8::MAX);
        }
        let signal = status.terminating_signal().unwrap_or(0);
        let pid = self.supervisor.as_raw_pid();
        say(&format!(
            "the job's supervisor (pid {pid}) was killed by {}; its ranks are ended",
            signals::describe(signal)
        ));
        if family::end_descendants(&self.strangers).is_err() {
            say("some processes of the job could not be killed");
        }
        signals::exit_status(signal)
    }
}

/// What the supervisor hears from the front: two bytes for a signal, and the end of the pipe for the front's death.
pub enum Word {
    Nothing,
    Forward(Signal, Origin),
    Dead,
}

impl Word {
    /// Never blocks: a supervisor that is stopped for so long that the pipe is full misses signals, which is what
    /// signals do.
    fn write(&self, pipe: &OwnedFd) {
        if let Self::Forward(signal, origin) = *self {
            let number = u8::try_from(signal as i32).unwrap_or(0);
            let _ = rustix::io::write(pipe, &[number, u8::from(origin == Origin::Terminal)]);
        }
    }

    /// The front's next word. Two bytes are written at once, and so they are read.
    pub fn read(pipe: &OwnedFd) -> Self {
        let mut bytes = [0_u8; 2];
        match rustix::io::read(pipe, &mut bytes) {
            Ok(0) => Self::Dead,
            Ok(_) => {
                let origin = if bytes[1] == 1 { Origin::Terminal } else { Origin::Process };
                Signal::try_from(i32::from(bytes[0])).map_or(Self::Nothing, |signal| Self::Forward(signal, origin))
            }
            Err(_) => Self::Nothing,
        }
    }
}
