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
    /// Of a fenced word, which a rank writes that holds the lock of the same number: the value is the token.
    Write(u64),
    /// Of a fenced word, under this token.
    Fence(u64),
    /// Of a fenced word.
    Read,
    /// Of a semaphore's permits.
    Take(u64),
    /// Of a semaphore's permits.
    Return(u64),
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
            _ => return None,
        })
    }
}

/// Ends have greater numbers than calls.
impl End {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Done => [11, 0, 0],
            Self::Granted(token) => [12, token, 0],
            Self::Value(value) => [13, value, 0],
            Self::Pair(token, value) => [14, token, value],
            Self::Unheard => [15, 0, 0],
            Self::Uncertain => [16, 0, 0],
            Self::Refused(seen) => [17, seen, 0],
            Self::HomeLost => [18, 0, 0],
            Self::Excluded => [19, 0, 0],
            Self::Unreachable => [20, 0, 0],
        }
    }

    fn from_words(kind: u64, first: u64, second: u64) -> Option<Self> {
        Some(match kind {
            11 => Self::Done,
            12 => Self::Granted(first),
            13 => Self::Value(first),
            14 => Self::Pair(first, second),
            15 => Self::Unheard,
            16 => Self::Uncertain,
            17 => Self::Refused(first),
            18 => Self::HomeLost,
            19 => Self::Excluded,
            20 => Self::Unreachable,
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
