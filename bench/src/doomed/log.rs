//! At which barriers a rank has arrived and which it has passed: a file of records that survives its writer's death.
//!
//! A record is written by one call, before the barrier is called and after it has returned; it does not cross a page,
//! so that a process that is killed leaves whole ones.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Bytes of a record: a divisor of a page.
const RECORD_BYTES: usize = 32;
const ARRIVES: u64 = 1;
const PASSED: u64 = 2;

/// What a rank does at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is about to call it.
    Arrives,
    /// Its call has returned without an error.
    Passed,
}

/// One step at one barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub step: Step,
    /// Of which group.
    pub group: u64,
    /// Which barrier of it.
    pub sequence: u64,
    /// When, by `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl Record {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let step = match self.step {
            Step::Arrives => ARRIVES,
            Step::Passed => PASSED,
        };
        let mut bytes = [0; RECORD_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([step, self.group, self.sequence, self.at_ns]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"));
        let step = match word(0) {
            ARRIVES => Step::Arrives,
            PASSED => Step::Passed,
            _ => return None,
        };
        Some(Self { step, group: word(1), sequence: word(2), at_ns: word(3) })
    }
}

/// Writes a rank's records.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        File::create(path).map(Self)
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn add(&mut self, record: Record) -> std::io::Result<()> {
        self.0.write_all(&record.encode())
    }
}

/// The records of a file, in their order.
///
/// # Errors
///
/// The system's.
pub fn read(path: &Path) -> std::io::Result<Vec<Record>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(RECORD_BYTES).map_while(Record::decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_but_for_a_torn_one() {
        let path = std::env::temp_dir().join(format!("phalanx-doomed-log-{}", std::process::id()));
        let records = [(Step::Arrives, 7), (Step::Passed, 7), (Step::Arrives, 8)].map(|(step, sequence)| Record {
            step,
            group: 3,
            sequence,
            at_ns: u64::MAX - sequence,
        });
        let mut log = Log::create(&path).expect("a file");
        records.iter().for_each(|record| log.add(*record).expect("space"));
        log.0.write_all(&[1; RECORD_BYTES - 1]).expect("space");
        let found = read(&path).expect("a file");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(found, records);
    }
}
