//! Where ranks run: the CPU that each is pinned to, if any.

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::options::Bind;

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
