//! The record that every system leaves: one file a rank, pairs of little-endian `u64`s, when the rank entered a
//! barrier and when it left it, in ticks of the common clock, one pair for each recorded iteration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplesError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is no list of pairs, or ranks have lists of different lengths.
    #[error("rank {rank} left {pairs} samples, rank 0 left {expected}: the ranks did not meet equally often")]
    Uneven {
        /// The rank.
        rank: usize,
        /// Its samples.
        pairs: usize,
        /// Rank 0's.
        expected: usize,
    },
    /// Nothing was recorded.
    #[error("no samples were recorded")]
    Empty,
}

/// One iteration of one rank, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When the rank entered the barrier.
    pub enter: u64,
    /// When it left it.
    pub exit: u64,
}

/// Where a rank's record is kept.
pub fn path(directory: &Path, rank: usize) -> PathBuf {
    directory.join(format!("{rank}.samples"))
}

/// Writes a rank's record.
///
/// # Errors
///
/// [`SamplesError::File`].
pub fn write(directory: &Path, rank: usize, samples: &[Sample]) -> Result<(), SamplesError> {
    let mut bytes = Vec::with_capacity(samples.len() * 16);
    for sample in samples {
        bytes.extend_from_slice(&sample.enter.to_le_bytes());
        bytes.extend_from_slice(&sample.exit.to_le_bytes());
    }
    let path = path(directory, rank);
    fs::write(&path, bytes).map_err(|source| SamplesError::File { path, source })
}

/// Reads the records of all ranks: a list for each, all of one length.
///
/// # Errors
///
/// [`SamplesError`] for files that are missing, uneven or empty.
pub fn read_all(directory: &Path, ranks: usize) -> Result<Vec<Vec<Sample>>, SamplesError> {
    let all: Vec<Vec<Sample>> = (0..ranks).map(|rank| read(&path(directory, rank))).collect::<Result<_, _>>()?;
    let expected = all.first().map_or(0, Vec::len);
    if expected == 0 {
        return Err(SamplesError::Empty);
    }
    match all.iter().position(|samples| samples.len() != expected) {
        Some(rank) => Err(SamplesError::Uneven { rank, pairs: all[rank].len(), expected }),
        None => Ok(all),
    }
}

fn read(path: &Path) -> Result<Vec<Sample>, SamplesError> {
    let bytes = fs::read(path).map_err(|source| SamplesError::File { path: path.to_owned(), source })?;
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    Ok(bytes.chunks_exact(16).map(|pair| Sample { enter: number(&pair[..8]), exit: number(&pair[8..]) }).collect())
}
