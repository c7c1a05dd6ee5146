//! What this machine offers to a rank: the CPUs that it may use, how much of them, and how they hang together.
//!
//! Read from the affinity mask, from the control group's CPU quota (versions 1 and 2), and from sysfs. Nothing here is
//! cached: it is asked when a job is joined and when a group is made.

use std::fs;
use std::path::{Path, PathBuf};

/// CPUs that a set can name.
pub const MASK_CPUS: usize = 1024;

/// A set of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet {
    words: [u64; MASK_CPUS / 64],
}

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self { words: [0; MASK_CPUS / 64] };

    /// The CPUs that the calling thread may run on.
    pub fn of_this_thread() -> Self {
        let mut set = Self::EMPTY;
        if let Ok(mask) = rustix::thread::sched_getaffinity(None) {
            (0..MASK_CPUS).filter(|cpu| mask.is_set(*cpu)).for_each(|cpu| set.insert(cpu));
        }
        set
    }

    /// A set from its words.
    pub fn from_words(words: [u64; MASK_CPUS / 64]) -> Self {
        Self { words }
    }

    /// The set's words, CPU 0 in the lowest bit of the first.
    pub fn words(&self) -> &[u64; MASK_CPUS / 64] {
        &self.words
    }

    /// Adds a CPU; beyond [`MASK_CPUS`] it is ignored.
    pub fn insert(&mut self, cpu: usize) {
        if cpu < MASK_CPUS {
            self.words[cpu / 64] |= 1 << (cpu % 64);
        }
    }

    /// Whether a CPU is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        cpu < MASK_CPUS && self.words[cpu / 64] & 1 << (cpu % 64) != 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MASK_CPUS).filter(|cpu| self.contains(*cpu))
    }

    /// The only CPU of a set of one.
    pub fn only(&self) -> Option<usize> {
        (self.count() == 1).then(|| self.iter().next()).flatten()
    }
}

/// Where a rank runs, as far as it is held there.
///
/// | bits | field |
/// | --- | --- |
/// | 0–15 | last-level cache: the lowest CPU that shares it |
/// | 16–31 | NUMA node |
/// | 32 | 1: known |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// NUMA node.
    pub numa: u16,
    /// The lowest CPU that shares the last-level cache.
    pub cache: u16,
}

impl Place {
    /// The packed word.
    pub fn pack(self) -> u64 {
        1 << 32 | u64::from(self.numa) << 16 | u64::from(self.cache)
    }

    /// The place in a packed word; `None` where none was written.
    #[allow(clippy::cast_possible_truncation, reason = "fields are cut out by shifting")]
    pub fn unpack(word: u64) -> Option<Self> {
        (word >> 32 == 1).then_some(Self { numa: (word >> 16) as u16, cache: word as u16 })
    }
}

/// Whether each rank can have a CPU of its own, given which ones it may use: a matching of ranks to CPUs, found by
/// augmenting paths.
pub fn can_have_own_cpus(masks: &[CpuSet]) -> bool {
    let mut holder: Vec<Option<usize>> = vec![None; MASK_CPUS];
    (0..masks.len()).all(|rank| give_cpu(rank, masks, &mut holder, &mut CpuSet::EMPTY.clone()))
}

fn give_cpu(rank: usize, masks: &[CpuSet], holder: &mut [Option<usize>], tried: &mut CpuSet) -> bool {
    for cpu in masks[rank].iter() {
        if tried.contains(cpu) {
            continue;
        }
        tried.insert(cpu);
        let is_free = match holder[cpu] {
            None => true,
            Some(other) => give_cpu(other, masks, holder, tried),
        };
        if is_free {
            holder[cpu] = Some(rank);
            return true;
        }
    }
    false
}

/// The control group's CPU quota in CPUs, the tightest on the way to the root; `None` without one.
pub fn cpu_quota() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().filter_map(quota_of_line).min_by(f64::total_cmp)
}

/// A line of /proc/self/cgroup: `0::/path` (version 2), or `3:cpu,cpuacct:/path` (version 1).
fn quota_of_line(line: &str) -> Option<f64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = path.trim_start_matches('/');
    if controllers.is_empty() {
        return ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().find_map(|root| tightest(root, path, quota_v2));
    }
    if !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    [format!("/sys/fs/cgroup/{controllers}"), "/sys/fs/cgroup/cpu".to_owned()]
        .iter()
        .find_map(|root| tightest(root, path, quota_v1))
}

fn tightest(root: &str, path: &str, read: fn(&Path) -> Option<f64>) -> Option<f64> {
    let root = PathBuf::from(root);
    let mut directory = root.join(path);
    let mut least: Option<f64> = None;
    while directory.starts_with(&root) {
        if let Some(quota) = read(&directory) {
            least = Some(least.map_or(quota, |least| least.min(quota)));
        }
        if !directory.pop() {
            break;
        }
    }
    least
}

/// `cpu.max`: "max 100000", or "150000 100000".
fn quota_v2(directory: &Path) -> Option<f64> {
    parse_quota_v2(&fs::read_to_string(directory.join("cpu.max")).ok()?)
}

fn parse_quota_v2(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `cpu.cfs_quota_us` (-1: none) over `cpu.cfs_period_us`.
fn quota_v1(directory: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<f64>().ok();
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// Where a rank with this mask runs: the cache and NUMA node of its CPUs if they share them, otherwise those of the
/// CPU on which it runs now.
pub fn place_of(mask: &CpuSet) -> Place {
    let places: Vec<Place> = mask.iter().map(place_of_cpu).collect();
    match places.split_first() {
        Some((first, rest)) if rest.iter().all(|place| place == first) => *first,
        _ => place_of_cpu(current_cpu()),
    }
}

fn place_of_cpu(cpu: usize) -> Place {
    let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    Place { numa: narrow(numa_node(cpu).unwrap_or(0)), cache: narrow(last_level_cache(cpu).unwrap_or(0)) }
}

fn numa_node(cpu: usize) -> Option<usize> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The lowest CPU that shares the last-level cache of `cpu`.
fn last_level_cache(cpu: usize) -> Option<usize> {
    let shared = |index: usize| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}/shared_cpu_list")).ok()
    };
    let list = (0..8).rev().find_map(shared)?;
    list.trim().split([',', '-']).next()?.parse().ok()
}

/// The CPU that the calling thread runs on.
#[inline]
pub fn current_cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// Has the calling thread run only on one of the CPUs that it may use: `turn` counts around them. Where the kernel
/// refuses, nothing changes.
pub fn stay_on_one_cpu(turn: usize) {
    let mask = CpuSet::of_this_thread();
    let Some(cpu) = mask.iter().nth(turn % mask.count().max(1)) else { return };
    let mut one = rustix::thread::CpuSet::new();
    one.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &one);
}

/// Lets another thread of this CPU run.
#[inline]
pub fn yield_cpu() {
    rustix::thread::sched_yield();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        cpus.iter().for_each(|cpu| set.insert(*cpu));
        set
    }

    #[test]
    fn ranks_have_own_cpus_exactly_if_they_can_be_matched() {
        assert!(can_have_own_cpus(&[set(&[0, 1]), set(&[0])]));
        assert!(can_have_own_cpus(&[set(&[0, 1]), set(&[0, 2]), set(&[0, 1])]));
        assert!(!can_have_own_cpus(&[set(&[0]), set(&[0]), set(&[1, 2])]));
        assert!(!can_have_own_cpus(&[set(&[0, 1]), set(&[0, 1]), set(&[0, 1])]));
        assert!(!can_have_own_cpus(&[CpuSet::EMPTY]));
        assert!(can_have_own_cpus(&[]));
    }

    #[test]
    fn sets_know_their_members() {
        let mut cpus = set(&[3, 64, 1023]);
        cpus.insert(5000);
        assert_eq!(cpus.iter().collect::<Vec<_>>(), [3, 64, 1023]);
        assert_eq!((cpus.count(), cpus.only(), set(&[7]).only()), (3, None, Some(7)));
        assert!(CpuSet::of_this_thread().count() > 0);
    }

    #[test]
    fn quotas_are_read_in_both_forms() {
        assert_eq!(parse_quota_v2("150000 100000\n"), Some(1.5));
        assert_eq!(parse_quota_v2("max 100000\n"), None);
        let directory = std::env::temp_dir().join(format!("phalanx-quota-{}", std::process::id()));
        let inner = directory.join("inner");
        fs::create_dir_all(&inner).expect("a directory");
        fs::write(directory.join("cpu.max"), "50000 100000").expect("a file");
        fs::write(inner.join("cpu.max"), "max 100000").expect("a file");
        let found = tightest(directory.to_str().expect("a name"), "inner", quota_v2);
        fs::write(inner.join("cpu.cfs_quota_us"), "-1").expect("a file");
        fs::write(inner.join("cpu.cfs_period_us"), "100000").expect("a file");
        let none = quota_v1(&inner);
        fs::remove_dir_all(&directory).expect("its removal");
        assert_eq!(found, Some(0.5));
        assert_eq!(none, None);
    }

    #[test]
    fn a_place_survives_packing() {
        let place = Place { numa: 3, cache: 1023 };
        assert_eq!(Place::unpack(place.pack()), Some(place));
        assert_eq!(Place::unpack(0), None);
    }
}
