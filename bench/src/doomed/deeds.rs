//! What a rank does with named objects: a file of records that survives its writer's death, as [`super::log`]'s does.
//!
//! A record is written before each call and one after it, so that what a killed rank was doing is known. It does not
//! cross a page.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::now_ns;

/// Bytes of a record: a divisor of a page.
const RECORD_BYTES: usize = 64;
const RECORD_WORDS: usize = RECORD_BYTES / 8;

/// A call of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Of a lock.
    Acquire,
    /// Of a lock.
    Release,
    /// To a counter.
    Add(u64),
    /// Of a counter.
    Load,
    /// Of a fenced word, which a rank writes that holds what gives out its tokens: the value is the token.
    Write(u64),
    /// Of a fenced word, under this token.
    Fence(u64),
    /// Of a fenced word.
    Read,
    /// Of a semaphore's permits.
    Take(u64),
    /// Of a semaphore's permits.
    Return(u64),
    /// To read under a reader-writer lock.
    Enter,
    /// To read under it no more.
    Leave,
    /// To write under a reader-writer lock.
    EnterAlone,
    /// To write under it no more.
    LeaveAlone,
    /// To go over from writing to reading.
    Downgrade,
    /// Of a lease.
    Rent,
    /// Of a lease: by hand, or a look at what the thread that renews it has come to.
    Renew,
    /// Of a lease: to give it back.
    Vacate,
    /// In an election, until it is won.
    Stand,
    /// Whether this rank leads still.
    Check,
    /// To lead no more.
    Resign,
    /// Who leads.
    Look,
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has done what it should.
    Done,
    /// With this token.
    Granted(u64),
    /// A counter's value, before what was added.
    Value(u64),
    /// A fenced word's token and value.
    Pair(u64, u64),
    /// It has taken effect, and its answer is lost.
    Unheard,
    /// It has taken effect once, or not at all.
    Uncertain,
    /// A greater token was seen, this one.
    Refused(u64),
    /// The object is lost with its home.
    HomeLost,
    /// The others have gone on without this rank.
    Excluded,
    /// Nothing is heard of a node that was needed, and nobody can decide whether it has failed.
    Unreachable,
    /// A lease, with this token, until this time by `CLOCK_MONOTONIC` at least; 0 where its time is over.
    Held(u64, u64),
    /// A lease was not renewed in time, and others have had it.
    Expired,
    /// This rank leads, by this term.
    Led(u64, u64),
    /// Nobody leads.
    Nobody,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub act: Act,
    /// Of which object of its kind.
    pub object: u64,
    /// When it began, by `CLOCK_MONOTONIC`.
    pub begun_ns: u64,
    /// When it ended, and how; `None` where its rank was killed in it.
    pub ended: Option<(u64, End)>,
}

impl Act {
    fn words(self) -> [u64; 2] {
        match self {
            Self::Acquire => [1, 0],
            Self::Release => [2, 0],
            Self::Add(add) => [3, add],
            Self::Load => [4, 0],
            Self::Write(token) => [5, token],
            Self::Fence(token) => [6, token],
            Self::Read => [7, 0],
            Self::Take(count) => [8, count],
            Self::Return(count) => [9, count],
            Self::Enter => [10, 0],
            Self::Leave => [11, 0],
            Self::EnterAlone => [12, 0],
            Self::LeaveAlone => [13, 0],
            Self::Downgrade => [14, 0],
            Self::Rent => [15, 0],
            Self::Renew => [16, 0],
            Self::Vacate => [17, 0],
            Self::Stand => [18, 0],
            Self::Check => [19, 0],
            Self::Resign => [20, 0],
            Self::Look => [21, 0],
        }
    }

    fn from_words(kind: u64, number: u64) -> Option<Self> {
        Some(match kind {
            1 => Self::Acquire,
            2 => Self::Release,
            3 => Self::Add(number),
            4 => Self::Load,
            5 => Self::Write(number),
            6 => Self::Fence(number),
            7 => Self::Read,
            8 => Self::Take(number),
            9 => Self::Return(number),
            10 => Self::Enter,
            11 => Self::Leave,
            12 => Self::EnterAlone,
            13 => Self::LeaveAlone,
            14 => Self::Downgrade,
            15 => Self::Rent,
            16 => Self::Renew,
            17 => Self::Vacate,
            18 => Self::Stand,
            19 => Self::Check,
            20 => Self::Resign,
            21 => Self::Look,
            _ => return None,
        })
    }

    /// What kind of object it is a call of, in a word.
    pub fn of_what(self) -> &'static str {
        match self {
            Self::Acquire | Self::Release => "locks",
            Self::Add(_) | Self::Load => "counters",
            Self::Write(_) | Self::Fence(_) | Self::Read => "fenced words",
            Self::Take(_) | Self::Return(_) => "semaphores",
            Self::Enter | Self::Leave | Self::EnterAlone | Self::LeaveAlone | Self::Downgrade => "reader-writer locks",
            Self::Rent | Self::Renew | Self::Vacate => "leases",
            Self::Stand | Self::Check | Self::Resign | Self::Look => "elections",
        }
    }
}

/// Ends have greater numbers than calls.
impl End {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Done => [101, 0, 0],
            Self::Granted(token) => [102, token, 0],
            Self::Value(value) => [103, value, 0],
            Self::Pair(token, value) => [104, token, value],
            Self::Unheard => [105, 0, 0],
            Self::Uncertain => [106, 0, 0],
            Self::Refused(seen) => [107, seen, 0],
            Self::HomeLost => [108, 0, 0],
            Self::Excluded => [109, 0, 0],
            Self::Unreachable => [110, 0, 0],
            Self::Held(token, until_ns) => [111, token, until_ns],
            Self::Expired => [112, 0, 0],
            Self::Led(rank, term) => [113, rank, term],
            Self::Nobody => [114, 0, 0],
        }
    }

    fn from_words(kind: u64, first: u64, second: u64) -> Option<Self> {
        Some(match kind {
            101 => Self::Done,
            102 => Self::Granted(first),
            103 => Self::Value(first),
            104 => Self::Pair(first, second),
            105 => Self::Unheard,
            106 => Self::Uncertain,
            107 => Self::Refused(first),
            108 => Self::HomeLost,
            109 => Self::Excluded,
            110 => Self::Unreachable,
            111 => Self::Held(first, second),
            112 => Self::Expired,
            113 => Self::Led(first, second),
            114 => Self::Nobody,
            _ => return None,
        })
    }
}

/// The file of a rank's deeds.
pub fn deeds_of(directory: &Path, rank: usize) -> PathBuf {
    directory.join(format!("deeds.{rank}"))
}

/// Writes a rank's deeds.
#[derive(Debug)]
pub struct Deeds(File);

impl Deeds {
    /// An empty file of them.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        File::create(path).map(Self)
    }

    /// Makes a call, with a record before it and one behind it. `end` says how it has ended.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn note<T>(
        &mut self,
        act: Act,
        object: u64,
        call: impl FnOnce() -> T,
        end: impl FnOnce(&T) -> Option<End>,
    ) -> std::io::Result<T> {
        let [kind, number] = act.words();
        self.write([kind, object, number, 0])?;
        let value = call();
        if let Some(end) = end(&value) {
            let [kind, first, second] = end.words();
            self.write([kind, object, first, second])?;
        }
        Ok(value)
    }

    fn write(&mut self, [kind, object, first, second]: [u64; 4]) -> std::io::Result<()> {
        let mut bytes = [0; RECORD_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([kind, object, first, second, now_ns()]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        self.0.write_all(&bytes)
    }
}

/// The deeds of a file, in their order; none where there is no such file.
///
/// # Errors
///
/// The system's.
pub fn read(path: &Path) -> std::io::Result<Vec<Deed>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let mut deeds: Vec<Deed> = Vec::new();
    for record in bytes.chunks_exact(RECORD_BYTES) {
        let mut words = [0; RECORD_WORDS];
        for (word, chunk) in words.iter_mut().zip(record.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        }
        let [kind, object, first, second, at_ns, ..] = words;
        if let Some(act) = Act::from_words(kind, first) {
            deeds.push(Deed { act, object, begun_ns: at_ns, ended: None });
        } else if let (Some(end), Some(deed)) = (End::from_words(kind, first, second), deeds.last_mut()) {
            deed.ended = Some((at_ns, end));
        }
    }
    Ok(deeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_are_read_as_they_were_done_but_for_what_was_torn() {
        let path = std::env::temp_dir().join(format!("phalanx-doomed-deeds-{}", std::process::id()));
        let all = [
            (Act::Acquire, End::Granted(7)),
            (Act::Fence(7), End::Value(3)),
            (Act::Write(7), End::Refused(9)),
            (Act::Read, End::Pair(9, 9)),
            (Act::Release, End::Excluded),
            (Act::Add(2), End::Unheard),
            (Act::Add(3), End::Uncertain),
            (Act::Load, End::HomeLost),
            (Act::Take(1), End::Done),
            (Act::Enter, End::Done),
            (Act::Leave, End::Excluded),
            (Act::EnterAlone, End::Granted(4)),
            (Act::Downgrade, End::Done),
            (Act::LeaveAlone, End::Unreachable),
            (Act::Rent, End::Held(5, 1 << 50)),
            (Act::Renew, End::Expired),
            (Act::Vacate, End::Done),
            (Act::Stand, End::Granted(6)),
            (Act::Check, End::Done),
            (Act::Look, End::Led(3, 6)),
            (Act::Look, End::Nobody),
            (Act::Resign, End::Done),
        ];
        let mut deeds = Deeds::create(&path).expect("a file");
        for (number, (act, end)) in all.into_iter().enumerate() {
            deeds.note(act, number as u64, || (), |()| Some(end)).expect("space");
        }
        deeds.note(Act::Return(1), 4, || (), |()| None).expect("space");
        deeds.0.write_all(&[1; RECORD_BYTES - 1]).expect("space");
        let found = read(&path).expect("a file");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(found.len(), all.len() + 1);
        for (number, (deed, (act, end))) in found.iter().zip(all).enumerate() {
            assert_eq!((deed.act, deed.object), (act, number as u64));
            assert!(deed.ended.is_some_and(|(at_ns, found)| found == end && at_ns >= deed.begun_ns), "{deed:?}");
        }
        let last = found.last().expect("there are some");
        assert_eq!((last.act, last.object, last.ended), (Act::Return(1), 4, None));
        assert_eq!(read(&path).expect("no file is no deeds"), []);
    }
}
