//! The record that each rank of a contest leaves: little-endian `u64`s, first the six of a [`Head`], then four for each
//! [`Possession`] that was recorded, then one for each batch of pairs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the names of records end with.
pub const EXTENSION: &str = "contest";
/// Bytes of a head.
pub const HEAD_BYTES: u64 = 48;
/// The bit of a possession's last word that says that it was shared.
const SHARED: u64 = 1 << 63;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is shorter or longer than its head says.
    #[error("{}: {words} words where its head says {expected}", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// How many words it has.
        words: usize,
        /// How many it should have.
        expected: u64,
    },
    /// Nobody came to hold anything.
    #[error("no possession was recorded")]
    Empty,
}

/// What a rank has counted, and what follows in its file. All zero for an idle rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Objects that it came to hold by the end, recorded or not.
    pub count: u64,
    /// Since when it was counted.
    pub start: u64,
    /// Until when.
    pub end: u64,
    /// Pairs of acquire and release in each batch.
    pub pairs_of_batch: u64,
}

/// One possession of one rank, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Possession {
    /// When the rank asked.
    pub request: u64,
    /// When it had it.
    pub acquired: u64,
    /// When it began to give it back.
    pub released: u64,
    /// The object's number.
    pub object: u64,
    /// Whether others could hold it too, as readers.
    pub is_shared: bool,
}

/// A rank's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What was counted.
    pub head: Head,
    /// What the rank came to hold: the first of it, if that is not all.
    pub possessions: Vec<Possession>,
    /// The ticks of each batch of pairs.
    pub batches: Vec<u64>,
}

fn path(directory: &Path, rank: usize) -> PathBuf {
    directory.join(format!("{rank}.{EXTENSION}"))
}

/// Writes a rank's record.
///
/// # Errors
///
/// [`RecordError::File`].
pub fn write(directory: &Path, rank: usize, record: &Record) -> Result<(), RecordError> {
    let Record { head, possessions, batches } = record;
    let counts = [possessions.len() as u64, batches.len() as u64];
    let mut words = vec![head.count, head.start, head.end, counts[0], counts[1], head.pairs_of_batch];
    for possession in possessions {
        let what = possession.object | if possession.is_shared { SHARED } else { 0 };
        words.extend([possession.request, possession.acquired, possession.released, what]);
    }
    words.extend(batches);
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let path = path(directory, rank);
    fs::write(&path, bytes).map_err(|source| RecordError::File { path, source })
}

/// Reads the records of all ranks.
///
/// # Errors
///
/// [`RecordError`].
pub fn read_all(directory: &Path, ranks: usize) -> Result<Vec<Record>, RecordError> {
    let records: Vec<Record> = (0..ranks).map(|rank| read(path(directory, rank))).collect::<Result<_, _>>()?;
    match records.iter().all(|record| record.possessions.is_empty()) {
        true => Err(RecordError::Empty),
        false => Ok(records),
    }
}

fn read(path: PathBuf) -> Result<Record, RecordError> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(RecordError::File { path, source }),
    };
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
    let Some((&[count, start, end, possessions, batches, pairs_of_batch], rest)) = words.split_first_chunk::<6>()
    else {
        return Err(RecordError::Length { path, words: words.len(), expected: HEAD_BYTES / 8 });
    };
    let expected = possessions.saturating_mul(4).saturating_add(batches);
    if rest.len() as u64 != expected {
        return Err(RecordError::Length { path, words: words.len(), expected: expected.saturating_add(6) });
    }
    let (possessions, batches) = rest.split_at(rest.len() - usize::try_from(batches).expect("no more than there are"));
    Ok(Record {
        head: Head { count, start, end, pairs_of_batch },
        possessions: possessions.chunks_exact(4).map(possession).collect(),
        batches: batches.to_vec(),
    })
}

fn possession(words: &[u64]) -> Possession {
    Possession {
        request: words[0],
        acquired: words[1],
        released: words[2],
        object: words[3] & !SHARED,
        is_shared: words[3] & SHARED != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_was_cut_off_is_not() {
        let directory = std::env::temp_dir().join(format!("phalanx-contest-record-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let possession = Possession { request: 5, acquired: 6, released: 9, object: 4, is_shared: true };
        let head = Head { count: 2, start: 1, end: 10, pairs_of_batch: 7 };
        let record = Record {
            head,
            possessions: vec![possession, Possession { is_shared: false, ..possession }],
            batches: vec![70, 71, 72],
        };
        write(&directory, 0, &record).unwrap();
        write(&directory, 1, &Record::default()).unwrap();
        assert_eq!(read_all(&directory, 2).unwrap(), [record, Record::default()]);
        assert!(matches!(read_all(&directory, 3), Err(RecordError::File { .. })));
        let bytes = fs::read(directory.join("0.contest")).unwrap();
        for length in [0, 40, 48, bytes.len() - 8] {
            fs::write(directory.join("1.contest"), &bytes[..length]).unwrap();
            assert!(matches!(read_all(&directory, 2), Err(RecordError::Length { .. })), "{length} bytes");
        }
        write(&directory, 0, &Record::default()).unwrap();
        assert!(matches!(read_all(&directory, 1), Err(RecordError::Empty)));
        fs::remove_dir_all(directory).unwrap();
    }
}
