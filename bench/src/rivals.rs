//! What Phalanx is measured against, and how each rival is built and run; who they are: [`Rival`].
//!
//! Each rival is a small program of `bench/rivals/`, embedded here so that an installed `phalanx` can build it too: its
//! source is written to a build directory and compiled there by the system's compiler when it is first asked for. All
//! take the same arguments and leave the same record, one file for each rank. A rival whose compiler, library or server
//! is missing is [`Skipped`], with the package to install.
//!
//! Each runs at its best known settings: busy waiting while every rank has a CPU of its own, yielding when not. The
//! reasons stand where the settings are made.

mod build;
mod process;
mod roster;
mod server;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use self::roster::{Bench, Object, Rival};
use self::server::Server;
use crate::workload::{Placement, Workload};

/// What a rival is to do: says it to the rival's program, and knows the record that the program leaves.
pub trait Task {
    /// The ranks, and where they are.
    fn placement(&self) -> &Placement;

    /// What the names of records end with.
    fn record_extension(&self) -> &'static str;

    /// Adds the arguments that say what to do, all but `--out`.
    fn append_to(&self, command: &mut Command, max_seconds: f64);

    /// Whether the lengths of all ranks' records are sound.
    ///
    /// # Errors
    ///
    /// [`RivalError::Record`].
    fn check_lengths(&self, rival: Rival, lengths: &[u64]) -> Result<(), RivalError>;
}

impl Rival {
    /// Makes the rival ready for a benchmark: builds its program in `build_dir`, which is created if need be, and
    /// starts its server if it has one. Several processes may use one directory at a time, but not several threads of
    /// one.
    ///
    /// # Errors
    ///
    /// [`Skipped`] when something is missing.
    pub fn prepare(self, bench: Bench, build_dir: &Path) -> Result<PreparedRival, Skipped> {
        let builder = build::Builder { rival: self, bench, build_dir };
        match self {
            Self::OpenMpi | Self::Mpich => builder.build_mpi(),
            Self::Libgomp => builder.build_libgomp(),
            Self::PthreadBarrier => builder.build_pthread(),
            Self::StdBarrier => builder.build_std(),
            Self::GlooBarrier | Self::GlooMonitoredBarrier => builder.prepare_gloo(),
            Self::RobustMutex => builder.build_local("robust"),
            Self::PthreadRwLock => builder.build_local("rwlock"),
            Self::PosixSemaphore => builder.build_local("semaphore"),
            Self::Flock => builder.build_local("flock"),
            Self::Atomic => builder.build_local("atomic"),
            Self::Redis => builder.build_redis(),
            Self::RedisPy => builder.prepare_redis_py(),
            Self::Etcd => builder.build_etcd(),
            Self::ZooKeeper => builder.prepare_zookeeper(),
        }
    }
}

/// Why a rival is not measured on this machine.
#[derive(Debug, thiserror::Error)]
#[error("{} is not run: {reason}{}", .rival.label(), .remedy.map(|remedy| format!(" ({remedy})")).unwrap_or_default())]
pub struct Skipped {
    /// Which one.
    pub rival: Rival,
    /// What is missing, or what went wrong while it was built.
    pub reason: String,
    /// What helps, where anything does.
    pub remedy: Option<&'static str>,
}

/// Why a round of a rival has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RivalError {
    /// The directory for its record cannot be used.
    #[error("{rival}: cannot use {}: {source}", .path.display())]
    Directory {
        /// Which one.
        rival: Rival,
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be started or waited for.
    #[error("{rival}: cannot run {program}: {source}")]
    Start {
        /// Which one.
        rival: Rival,
        /// The program or its launcher.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed.
    #[error("{rival}: {status}\n{output}")]
    Failed {
        /// Which one.
        rival: Rival,
        /// Its exit status, in words.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// The program hung and was ended, with all the processes that it had started.
    #[error("{rival}: not finished after {limit:?}, so it was ended\n{output}")]
    TimedOut {
        /// Which one.
        rival: Rival,
        /// How long it was given.
        limit: Duration,
        /// The end of what it printed.
        output: String,
    },
    /// The program ended well but its ranks' records are not there or of a wrong length.
    #[error("{rival}: rank {rank} left a record of {bytes} bytes where {expected} were expected")]
    Record {
        /// Which one.
        rival: Rival,
        /// Whose record it is.
        rank: usize,
        /// Its length; 0 if there is none.
        bytes: u64,
        /// Rank 0's length, or for rank 0 itself one sample's.
        expected: u64,
    },
}

/// Bytes of one sample: two `u64`, entry and exit.
const SAMPLE_BYTES: u64 = 16;

/// A rival that is built and can be run.
#[derive(Debug)]
pub struct PreparedRival {
    rival: Rival,
    version: String,
    /// `mpirun`, for the rivals that need one.
    launcher: Option<String>,
    program: PathBuf,
    /// What stands before the common arguments.
    arguments: Vec<OsString>,
    server: Option<Server>,
}

impl PreparedRival {
    /// Which one it is.
    pub fn rival(&self) -> Rival {
        self.rival
    }

    /// What was built, for instance `Open MPI 4.1.4` or `glibc 2.36`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Makes the ranks threads where the rival can have both, which is [`Rival::PthreadBarrier`] alone.
    pub fn with_threads(mut self) -> Self {
        if self.rival == Rival::PthreadBarrier {
            self.arguments.push("--threads".into());
        }
        self
    }

    /// Runs one round, which leaves a record in `out_dir` for each rank.
    ///
    /// The rival stops by itself after about `max_seconds`, with fewer iterations than asked for if need be, but at
    /// barriers with the same number on each rank. One that does not is ended.
    ///
    /// It inherits the caller's CPU affinity, so a caller that has pinned itself must undo that first.
    pub fn run(&self, task: &impl Task, max_seconds: f64, out_dir: &Path) -> Result<(), RivalError> {
        let start_and_end = if self.may_hang_at_its_end(task) { 8.0 } else { 30.0 };
        let limit = Duration::from_secs_f64(max_seconds * 3.0 + start_and_end);
        self.run_within(limit, task, max_seconds, out_dir)
    }

    fn run_within(
        &self,
        limit: Duration,
        task: &impl Task,
        max_seconds: f64,
        out_dir: &Path,
    ) -> Result<(), RivalError> {
        let rival = self.rival;
        let directory = |source| RivalError::Directory { rival, path: out_dir.to_owned(), source };
        fs::create_dir_all(out_dir).map_err(directory)?;
        remove_records(out_dir, task.record_extension()).map_err(directory)?;

        let mut command = self.command(task);
        task.append_to(&mut command, max_seconds);
        if let Some(server) = &self.server {
            command.args(["--port", &server.port().to_string()]);
        }
        command.arg("--out").arg(out_dir);
        let program = command.get_program().to_string_lossy().into_owned();
        let _awake = self.server.as_ref().map(Server::awake);
        let end = process::run(command, &log_in(out_dir), limit).map_err(|source| RivalError::Start {
            rival,
            program,
            source,
        })?;
        self.conclude(end, task, limit, out_dir)
    }

    /// What a run that has come to this end is worth.
    fn conclude(&self, end: process::End, task: &impl Task, limit: Duration, out_dir: &Path) -> Result<(), RivalError> {
        let (rival, log) = (self.rival, log_in(out_dir));
        let has_record = check_records(rival, task, out_dir);
        match end {
            process::End::Exited(status) if status.success() => has_record,
            process::End::Exited(status) => {
                Err(RivalError::Failed { rival, status: status.to_string(), output: process::tail(&log) })
            }
            process::End::TimedOut if has_record.is_ok() && self.may_hang_at_its_end(task) => Ok(()),
            process::End::TimedOut => Err(RivalError::TimedOut { rival, limit, output: process::tail(&log) }),
        }
    }

    /// MPICH 4.0.2 over UCX's TCP hangs in `MPI_Finalize` in one of four runs when its ranks share CPUs: after the
    /// ranks have written what they measured, which therefore counts.
    fn may_hang_at_its_end(&self, task: &impl Task) -> bool {
        self.rival == Rival::Mpich && task.placement().nodes > 1
    }

    fn command(&self, task: &impl Task) -> Command {
        let mut command = match &self.launcher {
            Some(launcher) => Command::new(launcher),
            None => Command::new(&self.program),
        };
        let placement = task.placement();
        match self.rival {
            Rival::OpenMpi => add_open_mpi_settings(&mut command, placement),
            Rival::Mpich => add_mpich_settings(&mut command, placement),
            Rival::Libgomp => add_libgomp_settings(&mut command, placement.is_oversubscribed()),
            _ => {}
        }
        if self.launcher.is_some() {
            command.arg(&self.program);
        }
        command.args(&self.arguments);
        command
    }
}

/// Where a run's output goes.
fn log_in(out_dir: &Path) -> PathBuf {
    out_dir.join("rival.log")
}

/// On one node the shared-memory transport and nothing else; across nodes TCP and nothing else, on the loopback
/// interface, also between ranks of one pretended node: they cannot be told from the others. Windows are then of the
/// component that has only messages: the others share memory between processes of one machine, whatever they are told.
/// No binding because ranks pin themselves, and `sched_yield` in the progress loop exactly when ranks share CPUs:
/// spinning then costs whole time slices, yielding otherwise costs system calls.
fn add_open_mpi_settings(command: &mut Command, placement: &Placement) {
    let yields = if placement.is_oversubscribed() { "1" } else { "0" };
    command
        .args(["-n", &placement.ranks.to_string(), "--bind-to", "none", "--oversubscribe"])
        .args(["--mca", "pml", "ob1"])
        .args(match placement.nodes {
            1 => ["--mca", "btl", "self,vader"].as_slice(),
            _ => &["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo", "--mca", "osc", "pt2pt"],
        })
        .args(["--mca", "mpi_yield_when_idle", yields])
        // Containers and CI run as root, which Open MPI refuses unless told twice.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
}

/// Nothing is known to help: neither the yielding, the shared-memory nor the barrier variables of MPICH 4.0.2 change
/// its time when ranks share CPUs, which is some time slices.
///
/// Across nodes: MPICH has no TCP of its own. Debian's goes through UCX, others' through libfabric; each is told to use
/// TCP on the loopback interface, and the one that is not there does not look. `NOLOCAL` keeps MPICH itself out of
/// shared memory.
fn add_mpich_settings(command: &mut Command, placement: &Placement) {
    command.args(["-launcher", "fork", "-bind-to", "none", "-n", &placement.ranks.to_string()]);
    if placement.nodes > 1 {
        command.envs([
            ("MPIR_CVAR_NOLOCAL", "1"),
            ("UCX_TLS", "tcp,self"),
            ("UCX_NET_DEVICES", "lo"),
            ("FI_PROVIDER", "tcp"),
            ("FI_TCP_IFACE", "lo"),
        ]);
    }
}

/// Busy waiting while each thread has a CPU, the library's own short spinning when not (`active` is then three times
/// slower, `passive` equal). Whatever the caller's environment says about OpenMP would override placement or waiting.
fn add_libgomp_settings(command: &mut Command, oversubscribed: bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("OMP_") || name.starts_with("GOMP_")) {
            command.env_remove(name);
        }
    }
    if !oversubscribed {
        command.env("OMP_WAIT_POLICY", "active");
    }
}

impl Task for Workload {
    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn record_extension(&self) -> &'static str {
        "samples"
    }

    fn append_to(&self, command: &mut Command, max_seconds: f64) {
        append_placement(command, &self.placement);
        let mut option = |name: &str, value: String| {
            command.args([name, &value]);
        };
        option("--iterations", self.iterations.to_string());
        option("--warmup", self.warmup.to_string());
        option("--arrival", self.arrival.to_string());
        option("--late-ns", self.late_ns.to_string());
        option("--period-ns", self.period_ns.to_string());
        option("--seed", self.seed.to_string());
        option("--ns-per-tick", self.ns_per_tick.to_string());
        option("--max-seconds", max_seconds.to_string());
    }

    fn check_lengths(&self, rival: Rival, lengths: &[u64]) -> Result<(), RivalError> {
        let expected = lengths[0];
        if expected == 0 || !expected.is_multiple_of(SAMPLE_BYTES) {
            return Err(RivalError::Record { rival, rank: 0, bytes: expected, expected: SAMPLE_BYTES });
        }
        match lengths.iter().position(|length| *length != expected) {
            Some(rank) => Err(RivalError::Record { rival, rank, bytes: lengths[rank], expected }),
            None => Ok(()),
        }
    }
}

/// The arguments that say where ranks are; how many nodes, only who must know is told.
pub(crate) fn append_placement(command: &mut Command, placement: &Placement) {
    let cpus: Vec<String> = placement.cpus.iter().map(usize::to_string).collect();
    command.args(["--ranks", &placement.ranks.to_string(), "--cpus", &cpus.join(",")]);
}

/// Removes what an earlier round left, so that a rank that writes nothing is noticed.
fn remove_records(out_dir: &Path, extension: &str) -> io::Result<()> {
    for entry in fs::read_dir(out_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn check_records(rival: Rival, task: &impl Task, out_dir: &Path) -> Result<(), RivalError> {
    let path = |rank: usize| out_dir.join(format!("{rank}.{}", task.record_extension()));
    let length = |rank| fs::metadata(path(rank)).map_or(0, |metadata| metadata.len());
    let lengths: Vec<u64> = (0..task.placement().ranks).map(length).collect();
    task.check_lengths(rival, &lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ArrivalPattern;
    use std::time::Instant;

    fn workload() -> Workload {
        Workload {
            placement: Placement { ranks: 2, nodes: 1, cpus: Vec::new() },
            iterations: 10,
            warmup: 1,
            arrival: ArrivalPattern::BackToBack,
            late_ns: 0,
            period_ns: 0,
            seed: 1,
            ns_per_tick: 1.0,
        }
    }

    fn stub(script: &str) -> PreparedRival {
        PreparedRival {
            rival: Rival::PthreadBarrier,
            version: "stub".to_owned(),
            launcher: None,
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            server: None,
        }
    }

    fn scratch(name: &str) -> PathBuf {
        env::temp_dir().join(format!("phalanx-rivals-{name}-{}", std::process::id()))
    }

    fn is_running(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; only its parent has not asked yet.
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn a_rival_that_hangs_is_ended_with_all_that_it_started() {
        let out = scratch("hang");
        fs::create_dir_all(&out).unwrap();
        let pid_file = out.join("grandchild");
        // A grandchild in a session of its own, as MPICH's launcher makes them, which no signal to the group reaches.
        let script = format!("echo stuck >&2; setsid sleep 600 & echo $! > {}; wait", pid_file.display());
        let begin = Instant::now();
        let limit = Duration::from_millis(500);
        let error = stub(&script).run_within(limit, &workload(), 1.0, &out).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(matches!(&error, RivalError::TimedOut { output, .. } if output.contains("stuck")), "{error}");
        let grandchild = fs::read_to_string(&pid_file).unwrap().trim().to_owned();
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_running(&grandchild) {
            assert!(Instant::now() < deadline, "{grandchild} survived");
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(out).unwrap();
    }

    #[test]
    fn only_who_is_known_to_hang_at_its_end_is_forgiven() {
        let out = scratch("finalize");
        fs::create_dir_all(&out).unwrap();
        let across = Workload { placement: Placement { ranks: 2, nodes: 2, cpus: Vec::new() }, ..workload() };
        let conclude = |rival: Rival, workload: &Workload| {
            let rival = PreparedRival { rival, ..stub("") };
            rival.conclude(process::End::TimedOut, workload, Duration::from_secs(1), &out)
        };
        fs::write(out.join("0.samples"), [0; 16]).unwrap();
        assert!(conclude(Rival::Mpich, &across).is_err(), "rank 1 has left nothing");
        fs::write(out.join("1.samples"), [0; 16]).unwrap();
        assert!(conclude(Rival::Mpich, &across).is_ok());
        for (rival, workload) in [(Rival::Mpich, &workload()), (Rival::OpenMpi, &across)] {
            let error = conclude(rival, workload).expect_err("it does not hang there");
            assert!(matches!(error, RivalError::TimedOut { .. }), "{error}");
        }
        fs::remove_dir_all(out).unwrap();
    }

    #[test]
    fn across_nodes_nobody_is_left_a_way_through_shared_memory() {
        let across = Workload { placement: Placement { ranks: 2, nodes: 2, cpus: Vec::new() }, ..workload() };
        let text = |rival: Rival, workload: &Workload| {
            let rival = PreparedRival { rival, launcher: Some("mpirun".to_owned()), ..stub("") };
            format!("{:?}", rival.command(workload))
        };
        let open_mpi = text(Rival::OpenMpi, &across);
        assert!(open_mpi.contains("self,tcp") && !open_mpi.contains("vader"), "{open_mpi}");
        assert!(text(Rival::OpenMpi, &workload()).contains("vader"));
        let mpich = text(Rival::Mpich, &across);
        assert!(mpich.contains("MPIR_CVAR_NOLOCAL") && mpich.contains("tcp,self"), "{mpich}");
        assert!(!text(Rival::Mpich, &workload()).contains("UCX_TLS"));
    }

    #[test]
    fn a_rival_that_fails_is_quoted() {
        let out = scratch("fail");
        let error = stub("echo no such fabric >&2; exit 3").run(&workload(), 1.0, &out).unwrap_err();
        assert!(
            matches!(&error, RivalError::Failed { status, output, .. }
                if status.contains('3') && output.contains("no such fabric")),
            "{error}"
        );
        fs::remove_dir_all(out).unwrap();
    }

    #[test]
    fn a_rank_without_a_record_is_named() {
        let out = scratch("record");
        fs::create_dir_all(&out).unwrap();
        // Left by an earlier round, so it must not count.
        fs::write(out.join("1.samples"), [0; 16]).unwrap();
        let script = format!("printf 0123456789abcdef > {}/0.samples", out.display());
        let error = stub(&script).run(&workload(), 1.0, &out).unwrap_err();
        assert!(matches!(error, RivalError::Record { rank: 1, bytes: 0, expected: 16, .. }), "{error}");
        fs::remove_dir_all(out).unwrap();
    }

    #[test]
    fn what_is_missing_is_said_with_the_package_to_install() {
        let builder =
            build::Builder { rival: Rival::Mpich, bench: Bench::Barrier, build_dir: Path::new("/nonexistent") };
        let skipped = builder.output_of(&mut Command::new("phalanx-no-such-compiler")).unwrap_err();
        let message = skipped.to_string();
        assert!(message.contains("MPICH is not run: phalanx-no-such-compiler is not installed"), "{message}");
        assert!(message.contains("libmpich-dev"), "{message}");
    }
}
