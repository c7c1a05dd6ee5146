//! Histories: which call began and returned when; whether one is linearizable; how one is kept in a file.
//!
//! A call is noted before it begins and after it has returned, by a line each, so that of a rank that is killed in the
//! middle it is known what it was doing. Times are taken outside of the call: that makes it longer, and the judge no
//! stricter than it may be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::specs::{Call, Object, Op, Ret};

/// One call. Of one that has not returned, the rank goes on as another one, for the judge.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub call: Call,
    pub begun_ns: u64,
    pub ended: Option<(u64, Ret)>,
}

/// The calls of one object.
#[derive(Clone, Debug, Default)]
pub struct History(pub Vec<Entry>);

/// Deaths, and ends of leases, are calls of ranks from here on.
const REAPERS: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
enum Edge {
    Begin(Call),
    End(Ret),
}

impl History {
    /// Whether it is linearizable, of an object that begins like this, and nobody was refused for no reason.
    pub fn judge(&self, object: Object) -> Result<(), String> {
        let is_busy = |entry: &&Entry| matches!(entry.ended, Some((_, Ret::Busy)));
        if let Some(refused) = self.0.iter().filter(is_busy).find(|refused| !self.is_in_use(refused)) {
            return Err(format!("nobody had it or wanted it at {refused:?}:\n{}", self.render()));
        }
        let mut tester = LinearizabilityTester::new(object.clone());
        for (thread, edge) in self.edges() {
            let noted = match edge {
                Edge::Begin(call) => tester.on_invoke(thread, call).map(drop),
                Edge::End(ret) => tester.on_return(thread, ret).map(drop),
            };
            noted.map_err(|why| format!("no history: {why}"))?;
        }
        if tester.is_consistent() {
            Ok(())
        } else {
            Err(format!("{object:?} cannot have done this:\n{}", self.render()))
        }
    }

    /// Whether at some time of a call another rank held the lock, or was about to: from when it began to ask for it
    /// until it had released it.
    fn is_in_use(&self, refused: &Entry) -> bool {
        let end_of = |entry: &Entry| entry.ended.map_or(u64::MAX, |(at_ns, _)| at_ns);
        let is_next_of = |rank: usize, since_ns: u64| {
            let is_release =
                move |entry: &&Entry| entry.call == Call { rank, op: Op::Release } && entry.begun_ns >= since_ns;
            self.0.iter().filter(is_release).map(end_of).min()
        };
        self.0.iter().any(|entry| {
            let rank = entry.call.rank;
            let asks = matches!(entry.call.op, Op::Acquire | Op::TryAcquire) && rank != refused.call.rank;
            let until_ns = match entry.ended {
                Some((at_ns, Ret::Busy)) => at_ns,
                _ => is_next_of(rank, entry.begun_ns).unwrap_or(u64::MAX),
            };
            asks && entry.begun_ns <= end_of(refused) && refused.begun_ns <= until_ns
        })
    }

    /// Beginnings and ends in their order, each with its thread; of those at the same time the beginnings first.
    fn edges(&self) -> Vec<((usize, usize), Edge)> {
        let mut lives: BTreeMap<usize, usize> = BTreeMap::new();
        let mut edges = Vec::new();
        let mut entries = self.0.clone();
        entries.sort_by_key(|entry| entry.begun_ns);
        for (number, entry) in entries.iter().enumerate() {
            let place = if is_fate(entry.call.op) { REAPERS } else { 0 } + entry.call.rank;
            let life = lives.entry(place).or_insert(0);
            edges.push(((entry.begun_ns, 0, number), (place, *life), Edge::Begin(entry.call)));
            match entry.ended {
                Some((at_ns, ret)) => edges.push(((at_ns, 1, number), (place, *life), Edge::End(ret))),
                None => *life += 1,
            }
        }
        edges.sort_by_key(|(at, ..)| *at);
        edges.into_iter().map(|(_, thread, edge)| (thread, edge)).collect()
    }

    fn render(&self) -> String {
        let mut text = String::new();
        let first = self.0.iter().map(|entry| entry.begun_ns).min().unwrap_or(0);
        let mut entries = self.0.clone();
        entries.sort_by_key(|entry| entry.begun_ns);
        for Entry { call, begun_ns, ended } in entries {
            let begun = begun_ns - first;
            let ended = ended.map_or("never heard of".to_owned(), |(at, ret)| format!("{} ns: {ret:?}", at - first));
            let _ = writeln!(text, "  rank {} {:?}  {begun} .. {ended}", call.rank, call.op);
        }
        text
    }
}

/// Whether it befalls a rank, and is no call of its own.
pub fn is_fate(op: Op) -> bool {
    matches!(op, Op::Die | Op::Expire(_))
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[allow(clippy::cast_sign_loss, reason = "CLOCK_MONOTONIC is never negative")]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Op {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Add(add) => [0, add, 0],
            Self::Load => [1, 0, 0],
            Self::Exchange { current, new } => [2, current, new],
            Self::Write { token, value } => [3, token, value],
            Self::Fence(token) => [4, token, 0],
            Self::Read => [5, 0, 0],
            Self::Acquire => [6, 0, 0],
            Self::TryAcquire => [7, 0, 0],
            Self::Release => [8, 0, 0],
            Self::Take(count) => [9, count, 0],
            Self::Return(count) => [10, count, 0],
            Self::Enter => [11, 0, 0],
            Self::Leave => [12, 0, 0],
            Self::Downgrade => [13, 0, 0],
            Self::Die => [14, 0, 0],
            Self::Renew => [15, 0, 0],
            Self::Expire(token) => [16, token, 0],
            Self::Check => [17, 0, 0],
            Self::Look => [18, 0, 0],
        }
    }

    fn from_words([kind, a, b]: [u64; 3]) -> Self {
        match kind {
            0 => Self::Add(a),
            1 => Self::Load,
            2 => Self::Exchange { current: a, new: b },
            3 => Self::Write { token: a, value: b },
            4 => Self::Fence(a),
            5 => Self::Read,
            6 => Self::Acquire,
            7 => Self::TryAcquire,
            8 => Self::Release,
            9 => Self::Take(a),
            10 => Self::Return(a),
            11 => Self::Enter,
            12 => Self::Leave,
            13 => Self::Downgrade,
            14 => Self::Die,
            15 => Self::Renew,
            16 => Self::Expire(a),
            17 => Self::Check,
            18 => Self::Look,
            _ => panic!("{kind} is no call"),
        }
    }
}

impl Ret {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Value(value) => [0, value, 0],
            Self::Differs(value) => [1, value, 0],
            Self::Pair(token, value) => [2, token, value],
            Self::Refused(seen) => [3, seen, 0],
            Self::Granted(token) => [4, token, 0],
            Self::Busy => [5, 0, 0],
            Self::Done => [6, 0, 0],
            Self::Unheard => [7, 0, 0],
            Self::Lost => [8, 0, 0],
            Self::Led(rank, term) => [9, rank as u64, term],
            Self::Nobody => [10, 0, 0],
        }
    }

    fn from_words([kind, a, b]: [u64; 3]) -> Self {
        match kind {
            0 => Self::Value(a),
            1 => Self::Differs(a),
            2 => Self::Pair(a, b),
            3 => Self::Refused(a),
            4 => Self::Granted(a),
            5 => Self::Busy,
            6 => Self::Done,
            7 => Self::Unheard,
            8 => Self::Lost,
            9 => Self::Led(usize::try_from(a).expect("a rank"), b),
            10 => Self::Nobody,
            _ => panic!("{kind} is no end of a call"),
        }
    }
}

const BEGINS: u64 = 0;
const ENDS: u64 = 1;

/// A rank's notes of what it calls: a line for each beginning and end.
pub struct Notes {
    rank: usize,
    file: File,
    /// Which history.
    pub number: u64,
}

impl Notes {
    /// Goes on with the file of a rank.
    pub fn of(directory: &Path, rank: usize) -> Self {
        let path = directory.join(format!("notes.{rank}"));
        let file = File::options().append(true).create(true).open(path).expect("a directory of this test's own");
        Self { rank, file, number: 0 }
    }

    fn line(&mut self, kind: u64, words: [u64; 3]) {
        self.line_at(now_ns(), kind, words);
    }

    fn line_at(&mut self, at_ns: u64, kind: u64, words: [u64; 3]) {
        let [a, b, c] = words;
        let line = format!("{kind} {} {at_ns} {a} {b} {c}\n", self.number);
        self.file.write_all(line.as_bytes()).expect("space");
    }

    /// Makes a call and notes it; `ret` says how it has ended, `None` where that is not known.
    pub fn call<T>(&mut self, op: Op, call: impl FnOnce() -> T, ret: impl FnOnce(&T) -> Option<Ret>) -> T {
        self.line(BEGINS, op.words());
        let value = call();
        if let Some(ret) = ret(&value) {
            self.line(ENDS, ret.words());
        }
        value
    }

    /// The hold of a lease may have come to its end since a time.
    pub fn expire(&mut self, token: u64, since_ns: u64) {
        self.line_at(since_ns, BEGINS, Op::Expire(token).words());
    }

    /// This rank is about to be killed.
    pub fn die(&mut self) {
        self.line(BEGINS, Op::Die.words());
    }

    /// The histories that all ranks have noted, by their numbers.
    pub fn read(directory: &Path, ranks: usize) -> BTreeMap<u64, History> {
        let mut histories: BTreeMap<u64, History> = BTreeMap::new();
        for rank in 0..ranks {
            let text = std::fs::read_to_string(directory.join(format!("notes.{rank}"))).unwrap_or_default();
            // The last line of a rank that was killed may be torn.
            for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                let words: Vec<u64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
                let [kind, number, at_ns, a, b, c] = words[..] else { panic!("no line of notes: {line}") };
                let History(entries) = histories.entry(number).or_default();
                if kind == BEGINS {
                    let call = Call { rank, op: Op::from_words([a, b, c]) };
                    entries.push(Entry { call, begun_ns: at_ns, ended: None });
                    continue;
                }
                // A death is noted by another thread, in the middle of a call.
                let is_open = |entry: &&mut Entry| entry.call.rank == rank && !is_fate(entry.call.op);
                let open = entries.iter_mut().rfind(is_open).expect("what ends has begun");
                open.ended = Some((at_ns, Ret::from_words([a, b, c])));
            }
        }
        histories
    }
}

impl Notes {
    /// Notes of the same rank, for another of its threads.
    pub fn again(&self, directory: &Path) -> Self {
        Self { number: self.number, ..Self::of(directory, self.rank) }
    }
}
