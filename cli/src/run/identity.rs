//! Who a rank is, and where it runs: the environment that makes a process a rank of this job, and the CPU it is
//! pinned to. `Job::from_env()` of the library is the reader of what is written here.

use std::fmt::Write;
use std::process::Command;

use rustix::io;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{CpuSet, sched_getaffinity};

use super::options::Bind;

/// The part of the environment that all ranks of a job share.
pub struct Identity {
    size: usize,
    /// An abstract UNIX socket's name: it leaves no file behind, and it is random so that two jobs never meet.
    bootstrap: String,
    /// The job's secret in hexadecimal. Only processes that have it may join.
    key: String,
}

impl Identity {
    /// A new job's identity. Every job has its own.
    pub fn random(size: usize) -> io::Result<Self> {
        Ok(Self { size, bootstrap: format!("unix:phalanx-{}", random_hex::<16>()?), key: random_hex::<32>()? })
    }

    /// Makes `command` rank `rank` of this job. An outer job's identity, if there is one, is replaced; everything
    /// else, such as `PHALANX_WAIT`, passes through.
    pub fn give(&self, command: &mut Command, rank: usize) {
        let (rank, size) = (rank.to_string(), self.size.to_string());
        command
            .env("PHALANX_RANK", &rank)
            .env("PHALANX_SIZE", &size)
            // One node so far: a rank's place on its node is its place in the job.
            .env("PHALANX_LOCAL_RANK", &rank)
            .env("PHALANX_LOCAL_SIZE", &size)
            .env("PHALANX_BOOTSTRAP", &self.bootstrap)
            .env("PHALANX_KEY", &self.key);
    }
}

fn random_hex<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; BYTES];
    // The kernel never gives less than asked for up to 256 bytes.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// Which CPU each rank is pinned to, if any.
///
/// The default pins when every rank can have a CPU of its own: ranks spin in barriers, so two of them stacked on one
/// CPU while another idles, or one moved in mid-barrier, cost far more than the kernel's balancing gains. With more
/// ranks than CPUs it is the other way round: some CPU holds two ranks anyway, and only the kernel can even that out
/// over time.
pub struct Placement {
    /// Empty when ranks are not pinned.
    cpus: Vec<usize>,
}

impl Placement {
    /// Places `ranks` ranks on the CPUs that the launcher itself may use.
    pub fn choose(bind: Option<Bind>, ranks: usize) -> io::Result<Self> {
        let unpinned = Self { cpus: Vec::new() };
        if bind == Some(Bind::None) {
            return Ok(unpinned);
        }
        let cpus = match (usable_cpus(), bind) {
            (Ok(cpus), _) => cpus,
            // Not asked for, so not worth failing for: the kernel has more CPUs than a `CpuSet` can name.
            (Err(_), None) => return Ok(unpinned),
            (Err(error), Some(_)) => return Err(error),
        };
        let pin = bind == Some(Bind::Core) || ranks <= cpus.len();
        Ok(if pin { Self { cpus } } else { unpinned })
    }

    /// The mask that rank `rank` is to run under.
    pub fn mask(&self, rank: usize) -> Option<CpuSet> {
        if self.cpus.is_empty() {
            return None;
        }
        let mut mask = CpuSet::new();
        mask.set(self.cpus[rank % self.cpus.len()]);
        Some(mask)
    }
}

fn usable_cpus() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect())
}
