//! Who is measured against what: the benchmarks that have rivals, and their names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An object that ranks contend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Object {
    /// An exclusive lock.
    Lock,
    /// A lock with readers.
    RwLock,
    /// A counting semaphore.
    Semaphore,
    /// A counter, to which each adds one.
    Counter,
    /// An election: to be leader, and to resign.
    Election,
}

impl Object {
    /// All of them, in the order of the command line.
    pub const ALL: [Self; 5] = [Self::Lock, Self::RwLock, Self::Semaphore, Self::Counter, Self::Election];

    /// The name on the command line, in JSON, and for the rivals' programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::RwLock => "rwlock",
            Self::Semaphore => "semaphore",
            Self::Counter => "counter",
            Self::Election => "election",
        }
    }

    /// Whether it is held and given back.
    pub fn is_held(self) -> bool {
        self != Self::Counter
    }

    /// Whether one rank alone can hold it, readers excepted.
    pub fn excludes(self) -> bool {
        matches!(self, Self::Lock | Self::RwLock | Self::Election)
    }
}

/// A benchmark that has rivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bench {
    /// Barriers.
    Barrier,
    /// Objects that ranks contend for.
    Contest(Object),
}

impl Bench {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::Contest(object) => object.name(),
        }
    }

    /// Its rivals, in the order in which reports list them.
    pub fn rivals(self) -> &'static [Rival] {
        match self {
            Self::Barrier => &[
                Rival::OpenMpi,
                Rival::Mpich,
                Rival::Libgomp,
                Rival::PthreadBarrier,
                Rival::StdBarrier,
                Rival::GlooBarrier,
                Rival::GlooMonitoredBarrier,
            ],
            Self::Contest(Object::Lock) => &[
                Rival::OpenMpi,
                Rival::Mpich,
                Rival::RobustMutex,
                Rival::Flock,
                Rival::Redis,
                Rival::RedisPy,
                Rival::Etcd,
                Rival::ZooKeeper,
            ],
            Self::Contest(Object::RwLock) => {
                &[Rival::OpenMpi, Rival::Mpich, Rival::PthreadRwLock, Rival::Flock, Rival::ZooKeeper]
            }
            Self::Contest(Object::Semaphore) => &[Rival::PosixSemaphore, Rival::ZooKeeper],
            Self::Contest(Object::Counter) => &[Rival::OpenMpi, Rival::Mpich, Rival::Atomic, Rival::Redis],
            Self::Contest(Object::Election) => &[Rival::Etcd, Rival::ZooKeeper],
        }
    }

    /// Reads `all`, or names of its rivals separated by commas. A name said twice counts once.
    ///
    /// # Errors
    ///
    /// The names that there are.
    pub fn parse_rivals(self, text: &str) -> Result<Vec<Rival>, String> {
        if text.trim() == "all" {
            return Ok(self.rivals().to_vec());
        }
        let mut rivals = Vec::new();
        for name in text.split(',').map(str::trim) {
            let rival = self.rivals().iter().copied().find(|rival| rival.name() == name).ok_or_else(|| {
                let names: Vec<_> = self.rivals().iter().map(|rival| rival.name()).collect();
                format!("unknown rival {name:?}; choose all alone, or some of {}", names.join(", "))
            })?;
            if !rivals.contains(&rival) {
                rivals.push(rival);
            }
        }
        Ok(rivals)
    }
}

/// A system that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rival {
    /// Open MPI: `MPI_Barrier`, `MPI_Win_lock`, `MPI_Fetch_and_op`.
    OpenMpi,
    /// The same of MPICH.
    Mpich,
    /// `#pragma omp barrier` of GCC's OpenMP.
    Libgomp,
    /// `pthread_barrier_wait` on a process-shared barrier.
    PthreadBarrier,
    /// `std::sync::Barrier`.
    StdBarrier,
    /// `torch.distributed.barrier` over Gloo.
    GlooBarrier,
    /// `torch.distributed.monitored_barrier` over Gloo.
    GlooMonitoredBarrier,
    /// `pthread_mutex_lock` on a robust, process-shared mutex.
    RobustMutex,
    /// `pthread_rwlock_t`, process-shared.
    PthreadRwLock,
    /// `sem_t`, process-shared.
    PosixSemaphore,
    /// `flock` on a file.
    Flock,
    /// A processor's own addition to a word in shared memory.
    Atomic,
    /// Redis, over a raw socket: `SET NX PX` with a scripted release, `INCR`.
    Redis,
    /// The `Lock` of Redis's client for Python.
    RedisPy,
    /// etcd's lock and election services.
    Etcd,
    /// ZooKeeper's recipes, through kazoo.
    ZooKeeper,
}

impl Rival {
    /// The name on the command line and in JSON: unique among a benchmark's rivals.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
            Self::Libgomp => "libgomp",
            Self::PthreadBarrier | Self::RobustMutex | Self::PthreadRwLock => "pthread",
            Self::StdBarrier => "std",
            Self::GlooBarrier => "gloo",
            Self::GlooMonitoredBarrier => "gloo-monitored",
            Self::PosixSemaphore => "posix",
            Self::Flock => "flock",
            Self::Atomic => "atomic",
            Self::Redis => "redis",
            Self::RedisPy => "redis-py",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "zookeeper",
        }
    }

    /// The name in what people read.
    pub fn label(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::Libgomp => "libgomp",
            Self::PthreadBarrier => "pthread_barrier",
            Self::StdBarrier => "std::sync::Barrier",
            Self::GlooBarrier => "Gloo barrier",
            Self::GlooMonitoredBarrier => "Gloo monitored_barrier",
            Self::RobustMutex => "robust pthread mutex",
            Self::PthreadRwLock => "pthread_rwlock",
            Self::PosixSemaphore => "POSIX semaphore",
            Self::Flock => "flock",
            Self::Atomic => "processor's atomic",
            Self::Redis => "Redis",
            Self::RedisPy => "redis-py Lock",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "ZooKeeper (kazoo)",
        }
    }

    /// Whether ranks can only be threads of one process, and so are to be compared with Phalanx's `--threads`.
    pub fn uses_threads(self) -> bool {
        matches!(self, Self::Libgomp | Self::StdBarrier)
    }

    /// Whether it has a way between nodes, so that its ranks need not share memory.
    pub fn spans_nodes(self) -> bool {
        match self {
            Self::OpenMpi | Self::Mpich | Self::GlooBarrier | Self::GlooMonitoredBarrier => true,
            Self::Redis | Self::RedisPy | Self::Etcd | Self::ZooKeeper => true,
            Self::Libgomp | Self::PthreadBarrier | Self::StdBarrier => false,
            Self::RobustMutex | Self::PthreadRwLock | Self::PosixSemaphore | Self::Flock | Self::Atomic => false,
        }
    }

    pub(super) fn install_hint(self) -> &'static str {
        match self {
            Self::OpenMpi => "Debian: apt-get install openmpi-bin libopenmpi-dev gcc",
            Self::Mpich => "Debian: apt-get install mpich libmpich-dev gcc",
            Self::StdBarrier => "needs rustc and gcc",
            Self::GlooBarrier | Self::GlooMonitoredBarrier => {
                "Debian: apt-get install python3-torch, or scripts/compare.sh; PHALANX_RIVALS_PYTHON names the interpreter"
            }
            Self::Redis => "Debian: apt-get install redis-server gcc util-linux",
            Self::RedisPy => {
                "Debian: apt-get install redis-server python3-redis util-linux; PHALANX_RIVALS_PYTHON names the interpreter"
            }
            Self::Etcd => "Debian: apt-get install etcd-server gcc util-linux",
            Self::ZooKeeper => {
                "Debian: apt-get install zookeeper python3-kazoo util-linux, and for locks with readers kazoo 2.9 from PyPI, or \
                 scripts/compare.sh; PHALANX_RIVALS_PYTHON names the interpreter"
            }
            _ => "Debian: apt-get install gcc libc6-dev",
        }
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn benches() -> impl Iterator<Item = Bench> {
        std::iter::once(Bench::Barrier).chain(Object::ALL.map(Bench::Contest))
    }

    #[test]
    fn lists_of_names_are_read() {
        assert_eq!(Bench::Barrier.parse_rivals("std, openmpi,std"), Ok(vec![Rival::StdBarrier, Rival::OpenMpi]));
        assert_eq!(Bench::Contest(Object::Lock).parse_rivals("pthread"), Ok(vec![Rival::RobustMutex]));
        for bench in benches() {
            assert_eq!(bench.parse_rivals("all"), Ok(bench.rivals().to_vec()));
            for rival in bench.rivals() {
                assert_eq!(bench.parse_rivals(rival.name()), Ok(vec![*rival]), "a name of its own in {}", bench.name());
            }
        }
    }

    #[test]
    fn a_bad_name_is_answered_with_the_good_ones() {
        for bench in benches() {
            for text in ["", "etcd,,", "OpenMPI", "all,std"] {
                let message = bench.parse_rivals(text).expect_err(text);
                for rival in bench.rivals() {
                    assert!(message.contains(rival.name()), "{message}");
                }
            }
        }
    }
}
