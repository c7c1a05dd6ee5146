//! The view log: which ranks and nodes the job has lost, one in each epoch.
//!
//! An *epoch* is the number of a membership view. Each declares exactly one *unit* failed, a rank or a whole node, and
//! what has been decided for an epoch never changes. All nodes hold the same log, so that whatever follows from a part
//! of it (who survives, which group is broken and by whom) is the same everywhere without further words.
//!
//! On the only node of a job whoever sees a death appends it ([`append`]), by compare-and-swap. Between nodes an epoch
//! is agreed on first (`cluster::agreement`), and then learnt ([`learn`]).
//!
//! Beside the log each rank's entry in its node's table says how that rank has ended ([`note_end`]): what its own node
//! knows before all agree.

use std::time::Duration;

use crate::fabric::node::{NodeLayout, header};
pub use crate::fabric::raise_alarm;
use crate::fabric::{Memory, WordAt};
use crate::sync::Ordering;

/// Why a rank takes part no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCause {
    /// A signal has killed its process.
    Killed {
        /// The signal's number.
        signal: u8,
    },
    /// Its process has exited without leaving the job.
    Exited {
        /// The status with which it has.
        status: u8,
    },
    /// Its process has ended, and the kernel does not say how; or it runs another program (`execve`).
    Died,
    /// Its thread has panicked.
    Panicked,
    /// It has left the job: its `Job` and all its groups were dropped.
    Left,
    /// Its process was stopped for longer than the failure time-out (SIGSTOP, a debugger).
    Stopped,
    /// Nothing was heard of its node for longer than the failure time-out; for four of them, where its kernel goes on
    /// acknowledging what is sent to it (its processes are stopped, or do not get a CPU).
    Silent,
    /// No process of its node is there any more: the node's kernel refuses connections to all of them.
    Gone,
}

impl FailureCause {
    fn to_bits(self) -> (u32, u32) {
        match self {
            Self::Killed { signal } => (1, u32::from(signal)),
            Self::Exited { status } => (2, u32::from(status)),
            Self::Died => (3, 0),
            Self::Panicked => (4, 0),
            Self::Left => (5, 0),
            Self::Stopped => (6, 0),
            Self::Silent => (7, 0),
            Self::Gone => (8, 0),
        }
    }

    fn from_bits(code: u32, status: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Killed { signal: status },
            2 => Self::Exited { status },
            3 => Self::Died,
            4 => Self::Panicked,
            5 => Self::Left,
            6 => Self::Stopped,
            7 => Self::Silent,
            8 => Self::Gone,
            _ => return None,
        })
    }

    /// Whether its process is known to do nothing any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Stopped | Self::Silent)
    }
}

impl std::fmt::Display for FailureCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Killed { signal } => write!(f, "killed by signal {signal}{}", name_of(*signal)),
            Self::Exited { status } => write!(f, "exited with status {status} without leaving the job"),
            Self::Died => f.write_str("its process has ended, or runs another program"),
            Self::Panicked => f.write_str("panicked"),
            Self::Left => f.write_str("has left the job"),
            Self::Stopped => f.write_str("was stopped for longer than the failure time-out"),
            Self::Silent => f.write_str("its node was silent for longer than the failure time-out"),
            Self::Gone => f.write_str("its node has no process any more"),
        }
    }
}

fn name_of(signal: u8) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// What an epoch declares failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A rank.
    Rank(usize),
    /// A node, with all its ranks.
    Node(usize),
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

/// A unit and why it failed: what an epoch decides.
///
/// As a word:
///
/// | bits | field |
/// | --- | --- |
/// | 0 | 1: there is one |
/// | 1 | 0 a rank, 1 a node |
/// | 2–18 | its number |
/// | 19–22 | cause |
/// | 23–30 | signal or status |
/// | 31–63 | 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Obituary {
    /// Who.
    pub unit: Unit,
    /// Why.
    pub cause: FailureCause,
}

impl Obituary {
    /// As a word's lower half; never 0.
    #[allow(clippy::cast_possible_truncation, reason = "a job has at most 2^16 ranks")]
    pub fn pack(self) -> u32 {
        let (kind, number) = match self.unit {
            Unit::Rank(rank) => (0, rank as u32),
            Unit::Node(node) => (1, node as u32),
        };
        let (code, status) = self.cause.to_bits();
        1 | kind << 1 | (number & 0x1_ffff) << 2 | code << 19 | status << 23
    }

    /// What a word says; `None` for 0, and for words that no version of this program writes.
    #[allow(clippy::cast_possible_truncation, reason = "eight bits")]
    pub fn unpack(word: u64) -> Option<Self> {
        let word = u32::try_from(word).ok().filter(|word| word & 1 == 1)?;
        let number = (word >> 2 & 0x1_ffff) as usize;
        let unit = if word >> 1 & 1 == 0 { Unit::Rank(number) } else { Unit::Node(number) };
        let cause = FailureCause::from_bits(word >> 19 & 0xf, (word >> 23 & 0xff) as u8)?;
        Some(Self { unit, cause })
    }

    /// What a word says that belongs to a node of a job; `None` also where that has no such rank or node. Other nodes
    /// write some of these words, and their readers have a place for each unit.
    pub fn unpack_in(node: &NodeLayout, word: u64) -> Option<Self> {
        Self::unpack(word).filter(|obituary| match obituary.unit {
            Unit::Rank(rank) => rank < node.job_ranks(),
            Unit::Node(lost) => lost < node.nodes(),
        })
    }
}

/// What the log says of an epoch; `None` while it is not known here.
pub fn obituary(memory: &impl Memory, node: &NodeLayout, epoch: u64) -> Option<Obituary> {
    if epoch == 0 || epoch > node.epochs() as u64 {
        return None;
    }
    // SYNC POINT: view log. Acquire pairs with whoever has decided or learnt the epoch.
    Obituary::unpack_in(node, memory.word(node.epoch(epoch).decided()).load(Ordering::Acquire))
}

/// The last epoch that this node's ranks may go by.
///
/// In a job of several nodes other nodes write the log, and the agent of this one drops its connections to the lost
/// before it lets its ranks know ([`open_to`]): nothing that comes late from there takes effect behind their backs.
pub fn epoch(memory: &impl Memory, node: &NodeLayout) -> u64 {
    match node.nodes() {
        1 => {
            let last = logged(memory, node);
            // SYNC POINT: open epoch. Release: who begins with this epoch in `logged` sees the entries up to it;
            // acquire as below.
            memory.word(header::EPOCH).fetch_max(last, Ordering::AcqRel);
            last
        }
        // SYNC POINT: open epoch. Acquire pairs with `open_to`: what the agent did before is done.
        _ => memory.word(header::EPOCH).load(Ordering::Acquire),
    }
}

/// The last epoch up to which all are in this node's log, whether its ranks may go by them yet or not.
pub fn logged(memory: &impl Memory, node: &NodeLayout) -> u64 {
    // SYNC POINT: open epoch. Acquire pairs with `open_to` and `epoch`: the entries up to it are seen.
    let mut last = memory.word(header::EPOCH).load(Ordering::Acquire);
    while obituary(memory, node, last + 1).is_some() {
        last += 1;
    }
    last
}

/// Lets this node's ranks go by the log up to `epoch`, and raises their alarm if that is news: the agent has shut out
/// whom it has lost. Whether it is news.
pub fn open_to(memory: &impl Memory, epoch: u64) -> bool {
    // SYNC POINT: open epoch. Release: whoever goes by it sees nothing come from the lost any more.
    let is_news = memory.word(header::EPOCH).fetch_max(epoch, Ordering::AcqRel) < epoch;
    if is_news {
        raise_alarm(memory);
    }
    is_news
}

/// Appends to the log of a job of one node, unless the unit is in it already; gives its epoch.
pub fn append(memory: &impl Memory, node: &NodeLayout, obituary: Obituary) -> u64 {
    for epoch in 1..=node.epochs() as u64 {
        let word = memory.word(node.epoch(epoch).decided());
        // SYNC POINT: view log. Acquire: of another's entry.
        let mut seen = word.load(Ordering::Acquire);
        if seen == 0 {
            // SYNC POINT: view log. Release: who reads it sees what this rank saw; acquire as above.
            match word.compare_exchange(0, u64::from(obituary.pack()), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    // Who has read it meanwhile has raised no alarm.
                    if !open_to(memory, epoch) {
                        raise_alarm(memory);
                    }
                    return epoch;
                }
                Err(found) => seen = found,
            }
        }
        if Obituary::unpack(seen).is_some_and(|earlier| earlier.unit == obituary.unit) {
            return epoch;
        }
    }
    unreachable!("each unit is in the log once, and there is room for all")
}

/// Notes what has been decided for an epoch; this node's ranks are told by [`open_to`]. Whether it is news here.
pub fn learn(memory: &impl Memory, node: &NodeLayout, epoch: u64, decided: Obituary) -> bool {
    let word = memory.word(node.epoch(epoch).decided());
    // SYNC POINT: view log. Whoever else writes it writes the same.
    word.swap(u64::from(decided.pack()), Ordering::AcqRel) == 0
}

/// Notes in its node's table how a rank has ended; the first word stands. Whether this was the first.
pub fn note_end(memory: &impl Memory, at: WordAt, end: Obituary) -> bool {
    // SYNC POINT: end. Release: what the rank did before it left is seen by who reads that it has.
    memory.word(at).compare_exchange(0, u64::from(end.pack()), Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// How a rank of this node has ended, as far as its own node knows.
pub fn end_of(memory: &impl Memory, node: &NodeLayout, local: usize) -> Option<Obituary> {
    // SYNC POINT: end. Acquire pairs with `note_end`: what the rank did before it left is seen.
    Obituary::unpack_in(node, memory.word(node.end(local)).load(Ordering::Acquire))
}

/// Whether a rank of this node has ended, as far as its own node knows.
#[inline]
pub fn has_ended(memory: &impl Memory, node: &NodeLayout, local: usize) -> bool {
    end_of(memory, node, local).is_some()
}

/// A rank that is late: how long ago it was last seen alive, and what it did then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// The rank.
    pub rank: usize,
    /// What is known of its process.
    pub state: LateState,
    /// How long ago it was last seen alive: zero for a process that runs; of a rank on another node, zero if that node
    /// has just answered, whatever its process does. `None` where it has not, and for who has left.
    pub seen_alive: Option<Duration>,
    /// Its last call into the library, where that is known.
    pub last_call: Option<LastCall>,
}

/// What is known of a late rank's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LateState {
    /// It runs: it computes, or waits for something else.
    Running,
    /// It is stopped (SIGSTOP, a debugger).
    Stopped,
    /// It is on another node, which answers.
    Remote,
    /// Its node does not answer.
    Unreachable,
    /// It has left the job.
    Left,
}

/// A rank's last call into the library, as its node's memory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCall {
    /// What it is, for people: "barrier".
    pub name: &'static str,
    /// The group's number.
    pub group: u64,
    /// Which barrier of the group, counted from 1; 0 before the first.
    pub sequence: u64,
    /// Whether it is in the call still.
    pub is_inside: bool,
    /// How long ago it began, where that was noted.
    pub began: Option<Duration>,
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} ", self.rank)?;
        match (self.state, self.seen_alive) {
            (LateState::Running, _) => f.write_str("runs")?,
            (LateState::Stopped, Some(ago)) => write!(f, "is stopped (last seen running {ago:.1?} ago)")?,
            (LateState::Stopped, None) => f.write_str("is stopped")?,
            (LateState::Remote, _) => f.write_str("is on a node that answers")?,
            (LateState::Unreachable, Some(ago)) => write!(f, "is on a node last heard of {ago:.1?} ago")?,
            (LateState::Unreachable, None) => f.write_str("is on a node that does not answer")?,
            (LateState::Left, _) => f.write_str("has left the job")?,
        }
        match &self.last_call {
            None => Ok(()),
            Some(call) => write!(f, ", {call}"),
        }
    }
}

impl std::fmt::Display for LastCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, group, sequence, is_inside, began } = self;
        let since = began.map_or(String::new(), |ago| format!(" {ago:.1?} ago"));
        match (is_inside, sequence) {
            (true, _) => write!(f, "waits in {name} {sequence} of group {group}, begun{since}"),
            (false, 0) => write!(f, "has called nothing of group {group}"),
            (false, _) => write!(f, "last called {name} {sequence} of group {group}{since}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::sim::SimNode;

    fn all_causes() -> Vec<FailureCause> {
        let whole = |code| FailureCause::from_bits(code, 200);
        (0..16).filter_map(whole).collect()
    }

    #[test]
    fn obituaries_are_read_as_they_were_packed_and_garbage_is_none() {
        for cause in all_causes() {
            for unit in [Unit::Rank(0), Unit::Rank(65_535), Unit::Node(0), Unit::Node(65_535)] {
                let obituary = Obituary { unit, cause };
                assert_eq!(Obituary::unpack(u64::from(obituary.pack())), Some(obituary));
            }
        }
        assert_eq!(all_causes().len(), 8);
        for word in [0, 2, 1, 1 | 15 << 19, 1 << 32 | 1, u64::MAX] {
            assert_eq!(Obituary::unpack(word), None, "{word:#x}");
        }
    }

    #[test]
    fn a_word_that_names_nobody_of_the_job_says_nothing() {
        let node = NodeLayout::new(2, 1).in_job(4, 2);
        let memory = SimNode::new(node.words());
        for (unit, is_of_job) in
            [(Unit::Rank(3), true), (Unit::Rank(4), false), (Unit::Node(1), true), (Unit::Node(2), false)]
        {
            let word = u64::from(Obituary { unit, cause: FailureCause::Died }.pack());
            memory.word(node.epoch(1).decided()).store(word, Ordering::Relaxed);
            memory.word(node.end(0)).store(word, Ordering::Relaxed);
            assert_eq!(obituary(&memory, &node, 1).is_some(), is_of_job, "{unit}");
            assert_eq!((logged(&memory, &node) == 1, end_of(&memory, &node, 0).is_some()), (is_of_job, is_of_job));
        }
    }

    #[test]
    fn each_unit_has_one_epoch_and_the_log_stays_as_it_is() {
        let node = NodeLayout::new(3, 1);
        let memory = SimNode::new(node.words());
        let killed = |rank| Obituary { unit: Unit::Rank(rank), cause: FailureCause::Killed { signal: 9 } };
        assert_eq!(epoch(&memory, &node), 0);
        assert_eq!(append(&memory, &node, killed(2)), 1);
        assert_eq!(append(&memory, &node, killed(0)), 2);
        let again = Obituary { unit: Unit::Rank(2), cause: FailureCause::Left };
        assert_eq!(append(&memory, &node, again), 1);
        assert_eq!((epoch(&memory, &node), obituary(&memory, &node, 1)), (2, Some(killed(2))));
        assert_eq!(memory.word(header::ALARM).load(Ordering::Relaxed), 2, "an alarm for each");
        assert_eq!(obituary(&memory, &node, 99), None);
    }

    #[test]
    fn an_epoch_counts_only_when_all_before_it_are_known_and_ranks_go_by_it_when_it_is_open() {
        let node = NodeLayout::new(2, 1).in_job(4, 2);
        let memory = SimNode::new(node.words());
        let gone = Obituary { unit: Unit::Node(1), cause: FailureCause::Gone };
        let left = Obituary { unit: Unit::Rank(1), cause: FailureCause::Left };
        assert!(learn(&memory, &node, 2, gone));
        assert_eq!(logged(&memory, &node), 0);
        assert!(learn(&memory, &node, 1, left) && !learn(&memory, &node, 1, left));
        assert_eq!((logged(&memory, &node), epoch(&memory, &node)), (2, 0));
        let alarm = || memory.word(header::ALARM).load(Ordering::Relaxed);
        assert_eq!(alarm(), 0, "nobody is told yet");
        assert!(open_to(&memory, 1) && !open_to(&memory, 1));
        assert_eq!((epoch(&memory, &node), alarm()), (1, 1));
        assert!(open_to(&memory, 2));
        assert_eq!((epoch(&memory, &node), alarm()), (2, 2));
    }

    #[test]
    fn the_first_end_of_a_rank_stands() {
        let node = NodeLayout::new(1, 1);
        let memory = SimNode::new(node.words());
        let left = Obituary { unit: Unit::Rank(0), cause: FailureCause::Left };
        assert!(note_end(&memory, node.end(0), left));
        assert!(!note_end(&memory, node.end(0), Obituary { cause: FailureCause::Died, ..left }));
        assert_eq!(end_of(&memory, &node, 0), Some(left));
    }
}
