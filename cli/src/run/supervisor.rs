//! The supervisor: the process that starts the ranks, passes their output on and ends them. One loop waits for all
//! that can happen (the front's word or death, signals, ranks' deaths, output, the clock), tells the [`Course`], and
//! does what the course orders. It never blocks anywhere else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getpgrp, setpgid};

use super::course::{Course, End, Order};
use super::declared::Declarations;
use super::error::RunError;
use super::family::{self, Strangers};
use super::front::Word;
use super::last_seen::{self, Placed};
use super::nodes;
use super::options::Options;
use super::output::{Console, Drained};
use super::ranks::{Death, Ranks, Recipe};
use super::signals::{self, Arrived, Origin, Signals};

/// How long the reader of a job that has been cut short may sleep before the rest of its output is given up.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the job, in the process that the front has forked for it. `front` is the pipe on which the front speaks.
pub fn run(options: &Options, front: OwnedFd, signals: Signals) -> Result<u8, RunError> {
    let group = become_supervisor()?;
    let recipe = Recipe::new(options, group)?;
    let mut supervisor = Supervisor {
        front,
        signals,
        ranks: Ranks::new(group).map_err(RunError::system("watch processes"))?,
        console: Console::open(options.tag_output).map_err(RunError::system("open the output"))?,
        course: Course::new(Instant::now(), options.timeout, options.keep_going),
        size: options.ranks,
        nodes: options.nodes,
        declarations: Declarations::new(Instant::now(), options.nodes),
        output_failed: false,
    };
    supervisor.start_ranks(options.ranks, &recipe);
    supervisor.attend_ranks();
    let complete = supervisor.ranks.started() == options.ranks && supervisor.ranks.running() == 0;
    supervisor.end_descendants();
    // Nobody is left to meet.
    drop(recipe);
    let interrupted = supervisor.drain_output();
    let status = supervisor.course.status(complete);
    Ok(match interrupted {
        Some(signal) if status == 0 => signals::exit_status(signal as i32),
        _ => status,
    })
}

/// Sets this process apart from the front, and returns the front's process group, to which the ranks shall belong.
fn become_supervisor() -> Result<Pid, RunError> {
    let group = getpgrp();
    prctl::set_child_subreaper(true).map_err(RunError::system("adopt orphaned processes"))?;
    // A group of its own: `kill -9 -GROUP` takes the front and the ranks, but what the ranks have hidden elsewhere is
    // still found and killed.
    setpgid(None, None).map_err(RunError::system("make a process group"))?;
    // For the same reason `pkill -9 phalanx` shall not match this process's name.
    prctl::set_name(c"job-supervisor").map_err(RunError::system("name a process"))?;
    // Should somebody have stopped this process, the front's death lets it go on, to its own end. (The kernel continues
    // what is stopped in a group that becomes an orphan, but not what is about to stop.)
    prctl::set_pdeathsig(Signal::SIGCONT).map_err(RunError::system("watch the front"))?;
    Ok(group)
}

struct Supervisor {
    front: OwnedFd,
    signals: Signals,
    ranks: Ranks,
    console: Console,
    course: Course,
    /// The job's ranks and nodes.
    size: usize,
    nodes: usize,
    declarations: Declarations,
    /// Has it been noticed that the output cannot be written?
    output_failed: bool,
}

/// What may cut the last output short.
enum Heard {
    Nothing,
    End(Signal),
    FrontDied,
}

/// How long a turn of the loop may wait.
enum Wait {
    Not,
    Until(Option<Instant>),
}

impl Supervisor {
    fn start_ranks(&mut self, count: usize, recipe: &Recipe<'_>) {
        while self.ranks.started() < count && self.course.is_running() {
            if let Err(error) = self.start_next(recipe) {
                self.console.say(&error.to_string());
                self.course.handle_failure(Instant::now(), error.status());
            }
            // Thousands of ranks take seconds to start; the first may fail meanwhile.
            self.turn(Wait::Not);
        }
    }

    fn start_next(&mut self, recipe: &Recipe<'_>) -> Result<(), RunError> {
        let (stdout, stderr) = self.ranks.start_next(recipe)?;
        self.console.add_rank(stdout, stderr).map_err(RunError::system("read a rank's output"))
    }

    fn attend_ranks(&mut self) {
        while self.ranks.running() > 0 && !self.course.is_killing() {
            let deadline = self.course.next_deadline().into_iter().chain(self.next_look()).min();
            self.turn(Wait::Until(deadline));
            self.hear_declarations();
        }
    }

    /// Waits for something to happen, and deals with all that has.
    fn turn(&mut self, wait: Wait) {
        self.sleep(wait);
        self.hear_front();
        let died = self.ranks.take_dead();
        self.report(died);
        while let Some(arrived) = self.signals.next() {
            match arrived {
                Arrived::Forward(signal, origin) => self.forward(signal, origin),
                Arrived::Child => {
                    let died = self.ranks.reap_orphans();
                    self.report(died);
                }
            }
        }
        self.console.quieten_bell();
        self.console.pump();
        self.notice_closed_output();
        while let Some(order) = self.course.poll(Instant::now()) {
            self.obey(order);
        }
    }

    fn sleep(&self, wait: Wait) {
        let timeout = match wait {
            Wait::Not => Some(Duration::ZERO),
            Wait::Until(deadline) => deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
        };
        // A time beyond what the kernel can count is no limit.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let own = [self.front.as_fd(), self.signals.as_fd(), self.ranks.deaths(), self.console.bell()];
        let watched = own.into_iter().chain(self.console.sources());
        let mut watched: Vec<_> = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // Interrupted or not, the turn looks at everything.
        let _ = poll(&mut watched, timeout.as_ref());
    }

    fn hear_front(&mut self) {
        loop {
            match Word::read(&self.front) {
                Word::Nothing => return,
                Word::Forward(signal, origin) => self.forward(signal, origin),
                Word::Dead => return self.course.handle_abandonment(),
            }
        }
    }

    fn forward(&mut self, signal: Signal, origin: Origin) {
        self.course.handle_signal(Instant::now(), signal);
        self.ranks.send(signal, origin);
    }

    fn report(&mut self, deaths: Vec<Death>) {
        for Death { rank, pid, end } in deaths {
            self.console.pump_rank(rank);
            self.declarations.note_end(Instant::now());
            // Of one that was declared failed all has been said.
            if !self.declarations.has_told(rank) {
                self.report_end(rank, pid, end);
            }
        }
    }

    /// Gives a rank's end to the course, and says it if it is news.
    fn report_end(&mut self, rank: usize, pid: Pid, end: End) {
        if self.course.handle_end(Instant::now(), end) {
            let clause = self.last_seen(rank, pid, end);
            self.console.say(&format!("rank {rank} (pid {}) {}{clause}", pid.as_raw_pid(), end.describe()));
        }
    }

    /// When to look for ranks that have been declared failed. When the job is ending they end with it.
    fn next_look(&self) -> Option<Instant> {
        self.course.is_running().then(|| self.declarations.next_look())
    }

    /// Looks, if it is time, whether ranks that run have been declared failed: for the job they have ended. Where it
    /// goes on without them they are killed, since they can do nothing in it any more.
    fn hear_declarations(&mut self) {
        let now = Instant::now();
        if self.next_look().is_none_or(|next_look| now < next_look) {
            return;
        }
        let survivors = self.survivors();
        for (Placed { rank, pid, .. }, cause) in self.declarations.look(now, &survivors) {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a rank's pid");
            self.console.pump_rank(rank);
            self.report_end(rank, pid, End::Declared(cause));
            if self.course.is_running() {
                self.ranks.kill(rank);
            }
        }
    }

    /// What the job's memory tells of a rank that has ended.
    fn last_seen(&self, rank: usize, pid: Pid, end: End) -> String {
        last_seen::clause(self.placed((rank, pid)), end, &self.survivors(), self.declarations.kept())
            .unwrap_or_default()
    }

    fn placed(&self, (rank, pid): (usize, Pid)) -> Placed {
        let pid = pid.as_raw_pid().cast_unsigned();
        Placed { rank, node: nodes::node_of(rank, self.nodes, self.size), pid }
    }

    fn survivors(&self) -> Vec<Placed> {
        self.ranks.survivors().map(|survivor| self.placed(survivor)).collect()
    }

    /// Ends the job when its output can go nowhere. True if that is news.
    fn notice_closed_output(&mut self) -> bool {
        let Some((stream, kind)) = self.console.failure().filter(|_| !self.output_failed) else { return false };
        self.output_failed = true;
        if kind == io::ErrorKind::BrokenPipe {
            self.course.handle_output_closed(Instant::now());
        } else {
            self.console.say(&format!("cannot write to {stream}: {kind}; the job is ended"));
            self.course.handle_failure(Instant::now(), 125);
        }
        true
    }

    fn obey(&mut self, order: Order) {
        let running = self.ranks.describe_running();
        match order {
            Order::TimeOut => {
                self.console.say(&format!("the job's time is over (--timeout); still running: {running}"));
                self.ranks.send(Signal::SIGTERM, Origin::Process);
            }
            Order::Terminate => self.ranks.send(Signal::SIGTERM, Origin::Process),
            // `end_descendants` does it, since now the loop ends.
            Order::Kill => self.console.say(&format!("did not end when asked to, killed: {running}")),
        }
    }

    fn end_descendants(&mut self) {
        if let Err(immortal) = family::end_descendants(&Strangers::none()) {
            let pids: Vec<String> = immortal.iter().map(|pid| pid.as_raw_pid().to_string()).collect();
            self.console.say(&format!("could not kill these processes of the job: {}", pids.join(", ")));
        }
    }

    /// Passes on what is left of the ranks' output. The time limit is the ranks' and does not count here: whoever
    /// reads a finished job's output in a pager may take an hour. Returns the signal with which the user has cut that
    /// short.
    fn drain_output(&mut self) -> Option<Signal> {
        let mut progress = self.console.progress();
        let mut patience_ends = Instant::now() + READER_PATIENCE;
        loop {
            let drained = self.console.drain();
            if !self.notice_closed_output() && drained == Drained::All {
                return None;
            }
            let impatient = !self.course.is_patient();
            match drained {
                Drained::Waiting => self.sleep(Wait::Until(impatient.then_some(patience_ends))),
                Drained::More | Drained::All => {}
            }
            self.console.quieten_bell();
            match self.hear_end() {
                Heard::Nothing => {}
                Heard::End(signal) => return Some(signal),
                Heard::FrontDied => return None,
            }
            let now = Instant::now();
            if progress != self.console.progress() {
                progress = self.console.progress();
                patience_ends = now + READER_PATIENCE;
            } else if impatient && now >= patience_ends {
                return None;
            }
        }
    }

    /// Has anybody lost patience, now that there are no ranks to forward a signal to?
    fn hear_end(&self) -> Heard {
        loop {
            match Word::read(&self.front) {
                Word::Forward(signal, _) if signals::asks_to_end(signal) => return Heard::End(signal),
                Word::Forward(..) => {}
                Word::Dead => return Heard::FrontDied,
                Word::Nothing => break,
            }
        }
        while let Some(arrived) = self.signals.next() {
            match arrived {
                Arrived::Forward(signal, _) if signals::asks_to_end(signal) => return Heard::End(signal),
                _ => {}
            }
        }
        Heard::Nothing
    }
}
