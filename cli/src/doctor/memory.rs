//! What a node's shared memory needs: that it can be had at all, that adapters may pin it, and its pages.

use phalanx::{BarrierError, Job, JobError};
use rustix::process::{Resource, Rlimit, getrlimit};

use super::check::{self, Area, Check, Status};
use super::root::Root;

const HUGE: &str = "sys/kernel/mm/transparent_hugepage";
/// What a rank may have to pin: the node's segment, and 64 KiB for each of a thousand peers.
const PINNED_BYTES: u64 = 64 << 20;
/// `CAP_IPC_LOCK`, to which the limit does not apply.
const CAPABILITY_TO_LOCK: u32 = 14;

pub fn checks(root: &Root, has_rdma: bool) -> Vec<Check> {
    let memlock = memlock(getrlimit(Resource::Memlock), may_lock_anything(root), has_rdma);
    vec![shared_memory(&meet()), memlock, huge_pages(root)]
}

/// Why ranks cannot meet here.
#[derive(Debug)]
enum Obstacle {
    /// A variable of the environment means nothing, and would mean nothing to any rank.
    Variable(&'static str, String),
    /// The kernel does not give, or share, memory.
    Memory(String),
}

impl From<JobError> for Obstacle {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Option { name, .. } => Self::Variable(name, error.to_string()),
            _ => Self::Memory(error.to_string()),
        }
    }
}

/// Two ranks of this process meet in a segment: the library itself says whether it works here.
fn meet() -> Result<usize, Obstacle> {
    let ranks = Job::threads(2)?;
    let barrier = |error: BarrierError| Obstacle::Memory(error.to_string());
    let arrival = ranks[0].world().arrive().map_err(barrier)?;
    ranks[1].world().barrier().map_err(barrier)?;
    arrival.wait().map_err(barrier)?;
    Ok(ranks[0].segment_bytes())
}

fn shared_memory(met: &Result<usize, Obstacle>) -> Check {
    let check = Check::new(Area::Memory, "shared_memory");
    match met {
        Ok(bytes) => check
            .fact("segment_bytes", *bytes)
            .fact("error", None::<String>)
            .found(format!("two ranks have met in a segment of {}", size(*bytes as u64)))
            .meaning("Ranks of this machine meet in memory that vanishes with them."),
        Err(Obstacle::Variable(name, error)) => obstructed(check, error)
            .meaning("Every rank that finds this in its environment refuses to start.")
            .remedy(format!("unset {name}")),
        Err(Obstacle::Memory(error)) => obstructed(check, error)
            .meaning("Phalanx needs a sealed memfd and cannot do without.")
            .remedy("free some memory; in a container, allow memfd_create, mmap and futex in its seccomp profile"),
    }
}

fn obstructed(check: Check, error: &str) -> Check {
    check.fact("segment_bytes", None::<usize>).fact("error", error).status(Status::Missing).found(error).prevents()
}

fn memlock(limit: Rlimit, is_exempt: bool, has_rdma: bool) -> Check {
    let check = Check::new(Area::Memory, "memlock")
        .fact("soft_bytes", limit.current)
        .fact("hard_bytes", limit.maximum)
        .fact("exempt", is_exempt);
    let found = check::limit(limit.current, limit.maximum, size);
    if is_exempt || limit.current.is_none_or(|bytes| bytes >= PINNED_BYTES) {
        let why = if is_exempt { ", which does not bind this user (CAP_IPC_LOCK)" } else { "" };
        return check.found(format!("{found}{why}")).meaning("RDMA adapters can pin as much memory as Phalanx needs.");
    }
    let can_be_raised = limit.maximum.is_none_or(|bytes| bytes >= PINNED_BYTES);
    check
        .status(if has_rdma { Status::Warning } else { Status::Note })
        .found(found)
        .meaning(format!(
            "RDMA adapters pin the segment and the queues: a large job needs up to {} a rank. TCP needs none.",
            size(PINNED_BYTES)
        ))
        .remedy(match can_be_raised {
            true => {
                format!("ulimit -l {}", limit.maximum.map_or_else(|| "unlimited".to_owned(), |b| (b >> 10).to_string()))
            }
            false => {
                "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/phalanx.conf    # then log in anew; \
                      systemd: LimitMEMLOCK=infinity; Docker: --ulimit memlock=-1"
                    .to_owned()
            }
        })
}

/// Whether this process has the capability, in the user namespace whose word the kernel takes for it: the first.
fn may_lock_anything(root: &Root) -> bool {
    let has_capability = root
        .field("proc/self/status", "CapEff")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask & 1 << CAPABILITY_TO_LOCK != 0);
    let in_first_namespace =
        root.read("proc/self/uid_map").is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    has_capability && in_first_namespace
}

fn huge_pages(root: &Root) -> Check {
    let transparent = chosen(root, "enabled");
    let shared = chosen(root, "shmem_enabled");
    let pools = pools(root);
    let unknown = || "unknown".to_owned();
    let mut check = Check::new(Area::Memory, "huge_pages")
        .fact("transparent", transparent.clone())
        .fact("shared_memory", shared.clone())
        .fact("pools", pools.iter().map(Pool::to_json).collect::<Vec<_>>())
        .found(format!(
            "transparent: {}; for shared memory: {}",
            transparent.clone().unwrap_or_else(unknown),
            shared.clone().unwrap_or_else(unknown)
        ));
    for pool in pools.iter().filter(|pool| pool.pages > 0) {
        check = check.found(format!("a pool of {} pages of {}, {} free", pool.pages, size(pool.bytes), pool.free));
    }
    match shared.as_deref() {
        Some("never" | "deny") => check
            .status(Status::Note)
            .meaning(
                "Segments of 2 MiB and more (nodes of many ranks) ask for huge pages and do not get them: a little \
                 more translation in large barriers. Smaller ones never ask.",
            )
            .remedy(format!("echo advise | sudo tee /{HUGE}/shmem_enabled")),
        Some(_) => check.meaning("Segments of 2 MiB and more (nodes of many ranks) ask for huge pages and get them."),
        None => check
            .status(Status::Note)
            .meaning("Whether large segments get huge pages is not known; small ones never ask."),
    }
}

/// The word in brackets of `always [madvise] never`.
fn chosen(root: &Root, file: &str) -> Option<String> {
    let text = root.read(&format!("{HUGE}/{file}"))?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Huge pages of one size that the administrator has put aside.
struct Pool {
    bytes: u64,
    pages: u64,
    free: u64,
}

impl Pool {
    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "page_bytes": self.bytes, "pages": self.pages, "free": self.free })
    }
}

fn pools(root: &Root) -> Vec<Pool> {
    let folder = "sys/kernel/mm/hugepages";
    let pool = |name: &String| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file| root.number(&format!("{folder}/{name}/{file}"));
        Some(Pool { bytes: kib.checked_mul(1024)?, pages: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    root.list(folder).iter().filter_map(pool).collect()
}

/// A number of bytes with its unit.
fn size(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1024 => return format!("{bytes} bytes"),
        1024..1_048_576 => (bytes as f64 / 1024.0, "KiB"),
        1_048_576..1_073_741_824 => (bytes as f64 / 1_048_576.0, "MiB"),
        _ => (bytes as f64 / 1_073_741_824.0, "GiB"),
    };
    let rounded = format!("{value:.1}");
    format!("{} {unit}", rounded.strip_suffix(".0").unwrap_or(&rounded))
}

#[cfg(test)]
mod tests {
    use super::super::root::made_up::Machine;
    use super::*;

    #[test]
    fn ranks_meet_here_and_if_they_could_not_nothing_would_work() {
        let check = shared_memory(&meet());
        assert_eq!((check.status, check.prevents), (Status::Ok, false), "{:?}", check.found);
        let check = shared_memory(&Err(Obstacle::Memory("no memory".to_owned())));
        assert_eq!((check.status, check.prevents), (Status::Missing, true));
    }

    #[test]
    fn a_small_limit_is_a_warning_only_with_an_adapter_and_only_if_it_binds() {
        let of = |current, maximum| Rlimit { current, maximum };
        let small = of(Some(8 << 20), Some(8 << 20));
        assert_eq!(memlock(small, false, true).status, Status::Warning);
        assert_eq!(memlock(small, false, false).status, Status::Note);
        assert_eq!(memlock(small, true, true).status, Status::Ok);
        assert_eq!(memlock(of(None, None), false, true).status, Status::Ok);
        assert_eq!(memlock(of(Some(64 << 20), None), false, true).status, Status::Ok);
        let remedy = |limit| memlock(limit, false, true).remedy.expect("one");
        assert!(remedy(small).contains("limits.d"));
        assert_eq!(remedy(of(Some(65536), None)), "ulimit -l unlimited");
        assert_eq!(remedy(of(Some(65536), Some(128 << 20))), "ulimit -l 131072");
    }

    #[test]
    fn a_capability_counts_in_the_first_user_namespace_only() {
        let with = |test, mask, map| {
            let status = format!("Name:\tx\nCapEff:\t{mask}");
            may_lock_anything(&Machine::new(test).with("proc/self/status", &status).with("proc/self/uid_map", map).root)
        };
        assert!(with("capable", "000001ffffffffff", "         0          0 4294967295"));
        assert!(!with("contained", "000001ffffffffff", "         0     100000      65536"));
        assert!(!with("incapable", "0000000000000000", "         0          0 4294967295"));
        assert!(!may_lock_anything(&Machine::new("no-proc").root));
    }

    #[test]
    fn huge_pages_are_what_the_kernel_has_chosen() {
        let machine = Machine::new("huge")
            .with(&format!("{HUGE}/enabled"), "always [madvise] never")
            .with(&format!("{HUGE}/shmem_enabled"), "always within_size advise [never] deny force")
            .with("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "16")
            .with("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12")
            .with("sys/kernel/mm/hugepages/hugepages-99999999999999999999kB/nr_hugepages", "1");
        let check = huge_pages(&machine.root);
        assert_eq!(check.status, Status::Note);
        assert_eq!(check.found[1], "a pool of 16 pages of 2 MiB, 12 free");
        assert_eq!(check.facts["pools"][0]["page_bytes"], 2 << 20);
        let unknown = huge_pages(&Machine::new("no-huge").root);
        assert_eq!(unknown.found, ["transparent: unknown; for shared memory: unknown"]);
    }
}
