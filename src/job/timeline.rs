//! The timeline that a job is asked for: where its ranks write it, and whether they can.

use std::path::{Path, PathBuf};

use super::JobOptions;
use crate::error::JobError;
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, Topology, node::header};
use crate::sync::Ordering;
use crate::trace::{Settings, Trace, file_of};

const VARIABLE: &str = "PHALANX_TRACE";

/// The file that is named: by the program, or else by the environment.
pub(super) fn named(by_program: Option<&PathBuf>, by_environment: Option<&str>) -> Result<Option<PathBuf>, JobError> {
    let path = match (by_program, by_environment) {
        (Some(path), _) => path.clone(),
        // What stands there was no UTF-8, and the file would not be the one that is meant.
        (None, Some(text)) if text.contains(char::REPLACEMENT_CHARACTER) => {
            return Err(JobError::Option { name: VARIABLE, why: "the name of a file in UTF-8 is needed".to_owned() });
        }
        (None, Some(text)) => PathBuf::from(text),
        (None, None) => return Ok(None),
    };
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if path.file_name().is_none() || is_folder {
        let why = format!("{} is no file's name; one such as trace.json is needed", path.display());
        return Err(JobError::Option { name: VARIABLE, why });
    }
    Ok(Some(path))
}

/// Whether this rank can write its file, found out before it meets the others.
pub(super) fn check(options: &JobOptions, rank: usize) -> Result<(), JobError> {
    match &options.trace {
        Some(path) => Trace::check(path, rank).map_err(|source| refused(path, rank, source)),
        None => Ok(()),
    }
}

/// Begins this rank's timeline, if one is asked for.
pub(super) fn start(
    options: &JobOptions,
    segment: &Segment,
    topology: &Topology,
    rank: usize,
) -> Result<Option<Trace>, JobError> {
    let Some(path) = &options.trace else { return Ok(None) };
    let settings = Settings {
        path: path.clone(),
        rank,
        node: topology.node_of(rank),
        ranks: topology.ranks(),
        clock: *segment.clock(),
        // Relaxed: written before the segment was passed on.
        origin_time_ns: segment.word(header::ORIGIN_TIME).load(Ordering::Relaxed),
    };
    Trace::start(&settings).map(Some).map_err(|source| refused(path, rank, source))
}

fn refused(path: &Path, rank: usize, source: std::io::Error) -> JobError {
    JobError::Trace { rank, path: file_of(path, rank), source }
}
