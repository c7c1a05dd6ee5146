//! The barriers that Phalanx is measured against, and how each is built and run.
//!
//! Each rival is a small program of `bench/rivals/`, embedded here so that an installed `phalanx` can build it too: its
//! source is written to a build directory and compiled there by the system's compiler when it is first asked for. All
//! take the same arguments and leave the same record, one `<rank>.samples` file for each rank. A rival whose compiler
//! or library is missing is [`Skipped`], with the package to install.
//!
//! Each runs at its best known settings: busy waiting while every rank has a CPU of its own, yielding when not. The
//! reasons stand where the settings are made.

mod build;
mod process;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::workload::Workload;

/// A barrier that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rival {
    /// `MPI_Barrier` of Open MPI.
    OpenMpi,
    /// `MPI_Barrier` of MPICH.
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
}

impl Rival {
    /// All rivals, in the order in which reports list them.
    pub const ALL: [Self; 7] = [
        Self::OpenMpi,
        Self::Mpich,
        Self::Libgomp,
        Self::PthreadBarrier,
        Self::StdBarrier,
        Self::GlooBarrier,
        Self::GlooMonitoredBarrier,
    ];

    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
            Self::Libgomp => "libgomp",
            Self::PthreadBarrier => "pthread",
            Self::StdBarrier => "std",
            Self::GlooBarrier => "gloo",
            Self::GlooMonitoredBarrier => "gloo-monitored",
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
        }
    }

    /// Reads `all`, or names separated by commas. A name said twice counts once.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text.trim() == "all" {
            return Ok(Self::ALL.to_vec());
        }
        let mut rivals = Vec::new();
        for name in text.split(',').map(str::trim) {
            let rival = Self::ALL.into_iter().find(|rival| rival.name() == name).ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("unknown rival {name:?}; choose all, or some of {names}")
            })?;
            if !rivals.contains(&rival) {
                rivals.push(rival);
            }
        }
        Ok(rivals)
    }

    /// Whether ranks can only be threads of one process, and so are to be compared with Phalanx's `--threads`.
    pub fn uses_threads(self) -> bool {
        matches!(self, Self::Libgomp | Self::StdBarrier)
    }

    /// Whether it has a way between nodes, so that its ranks need not share memory.
    pub fn spans_nodes(self) -> bool {
        matches!(self, Self::OpenMpi | Self::Mpich | Self::GlooBarrier | Self::GlooMonitoredBarrier)
    }

    /// Builds the rival's program in `build_dir`, which is created if need be. Several processes may use one directory
    /// at a time, but not several threads of one.
    pub fn prepare(self, build_dir: &Path) -> Result<PreparedRival, Skipped> {
        let builder = build::Builder { rival: self, build_dir };
        match self {
            Self::OpenMpi | Self::Mpich => builder.build_mpi(),
            Self::Libgomp => builder.build_libgomp(),
            Self::PthreadBarrier => builder.build_pthread(),
            Self::StdBarrier => builder.build_std(),
            Self::GlooBarrier | Self::GlooMonitoredBarrier => builder.prepare_gloo(),
        }
    }

    fn install_hint(self) -> &'static str {
        match self {
            Self::OpenMpi => "Debian: apt-get install openmpi-bin libopenmpi-dev gcc",
            Self::Mpich => "Debian: apt-get install mpich libmpich-dev gcc",
            Self::Libgomp | Self::PthreadBarrier => "Debian: apt-get install gcc libc6-dev",
            Self::StdBarrier => "needs rustc and gcc",
            Self::GlooBarrier | Self::GlooMonitoredBarrier => {
                "Debian: apt-get install python3-torch, or scripts/compare.sh; PHALANX_RIVALS_PYTHON names the interpreter"
            }
        }
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    /// The program ended well but its ranks' records are not there or not equally long.
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

    /// Runs one round, which leaves `<rank>.samples` in `out_dir` for each rank.
    ///
    /// The rival stops by itself after about `max_seconds`, with fewer iterations than asked for if need be, but with
    /// the same number on each rank. One that does not is ended.
    ///
    /// It inherits the caller's CPU affinity, so a caller that has pinned itself must undo that first.
    pub fn run(&self, workload: &Workload, max_seconds: f64, out_dir: &Path) -> Result<(), RivalError> {
        let start_and_end = if self.may_hang_at_its_end(workload) { 8.0 } else { 30.0 };
        let limit = Duration::from_secs_f64(max_seconds * 3.0 + start_and_end);
        self.run_within(limit, workload, max_seconds, out_dir)
    }

    fn run_within(
        &self,
        limit: Duration,
        workload: &Workload,
        max_seconds: f64,
        out_dir: &Path,
    ) -> Result<(), RivalError> {
        let rival = self.rival;
        let directory = |source| RivalError::Directory { rival, path: out_dir.to_owned(), source };
        fs::create_dir_all(out_dir).map_err(directory)?;
        remove_records(out_dir).map_err(directory)?;

        let mut command = self.command(workload);
        append_workload(&mut command, workload, max_seconds, out_dir);
        let program = command.get_program().to_string_lossy().into_owned();
        let end = process::run(command, &log_in(out_dir), limit).map_err(|source| RivalError::Start {
            rival,
            program,
            source,
        })?;
        self.conclude(end, workload, limit, out_dir)
    }

    /// What a run that has come to this end is worth.
    fn conclude(
        &self,
        end: process::End,
        workload: &Workload,
        limit: Duration,
        out_dir: &Path,
    ) -> Result<(), RivalError> {
        let (rival, log) = (self.rival, log_in(out_dir));
        let has_record = check_records(rival, workload.ranks, out_dir);
        match end {
            process::End::Exited(status) if status.success() => has_record,
            process::End::Exited(status) => {
                Err(RivalError::Failed { rival, status: status.to_string(), output: process::tail(&log) })
            }
            process::End::TimedOut if has_record.is_ok() && self.may_hang_at_its_end(workload) => Ok(()),
            process::End::TimedOut => Err(RivalError::TimedOut { rival, limit, output: process::tail(&log) }),
        }
    }

    /// MPICH 4.0.2 over UCX's TCP hangs in `MPI_Finalize` in one of four runs when its ranks share CPUs: after the ranks
    /// have written what they measured, which therefore counts.
    fn may_hang_at_its_end(&self, workload: &Workload) -> bool {
        self.rival == Rival::Mpich && workload.nodes > 1
    }

    fn command(&self, workload: &Workload) -> Command {
        let mut command = match &self.launcher {
            Some(launcher) => Command::new(launcher),
            None => Command::new(&self.program),
        };
        let oversubscribed = workload.ranks > usable_cpus(workload);
        match self.rival {
            Rival::OpenMpi => add_open_mpi_settings(&mut command, workload, oversubscribed),
            Rival::Mpich => add_mpich_settings(&mut command, workload),
            Rival::Libgomp => add_libgomp_settings(&mut command, oversubscribed),
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

/// How many CPUs the ranks have between them.
fn usable_cpus(workload: &Workload) -> usize {
    if workload.cpus.is_empty() {
        return std::thread::available_parallelism().map_or(1, usize::from);
    }
    let mut cpus = workload.cpus.clone();
    cpus.sort_unstable();
    cpus.dedup();
    cpus.len()
}

/// On one node the shared-memory transport and nothing else; across nodes TCP and nothing else, on the loopback
/// interface, also between ranks of one pretended node: they cannot be told from the others. No binding because ranks pin themselves, and `sched_yield` in the
/// progress loop exactly when ranks share CPUs: spinning then costs whole time slices, yielding otherwise costs system
/// calls.
fn add_open_mpi_settings(command: &mut Command, workload: &Workload, oversubscribed: bool) {
    let yields = if oversubscribed { "1" } else { "0" };
    command
        .args(["-n", &workload.ranks.to_string(), "--bind-to", "none", "--oversubscribe"])
        .args(["--mca", "pml", "ob1"])
        .args(match workload.nodes {
            1 => ["--mca", "btl", "self,vader"].as_slice(),
            _ => &["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"],
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
fn add_mpich_settings(command: &mut Command, workload: &Workload) {
    command.args(["-launcher", "fork", "-bind-to", "none", "-n", &workload.ranks.to_string()]);
    if workload.nodes > 1 {
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

fn append_workload(command: &mut Command, workload: &Workload, max_seconds: f64, out_dir: &Path) {
    let cpus: Vec<String> = workload.cpus.iter().map(usize::to_string).collect();
    let mut option = |name: &str, value: String| {
        command.args([name, &value]);
    };
    option("--ranks", workload.ranks.to_string());
    option("--iterations", workload.iterations.to_string());
    option("--warmup", workload.warmup.to_string());
    option("--arrival", workload.arrival.to_string());
    option("--late-ns", workload.late_ns.to_string());
    option("--period-ns", workload.period_ns.to_string());
    option("--seed", workload.seed.to_string());
    option("--ns-per-tick", workload.ns_per_tick.to_string());
    option("--cpus", cpus.join(","));
    option("--max-seconds", max_seconds.to_string());
    command.arg("--out").arg(out_dir);
}

/// Removes what an earlier round left, so that a rank that writes nothing is noticed.
fn remove_records(out_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(out_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "samples") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn check_records(rival: Rival, ranks: usize, out_dir: &Path) -> Result<(), RivalError> {
    let length =
        |rank: usize| fs::metadata(out_dir.join(format!("{rank}.samples"))).map_or(0, |metadata| metadata.len());
    let expected = length(0);
    if expected == 0 || expected % SAMPLE_BYTES != 0 {
        return Err(RivalError::Record { rival, rank: 0, bytes: expected, expected: SAMPLE_BYTES });
    }
    match (1..ranks).find(|&rank| length(rank) != expected) {
        Some(rank) => Err(RivalError::Record { rival, rank, bytes: length(rank), expected }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ArrivalPattern;
    use std::time::Instant;

    #[test]
    fn lists_of_names_are_read() {
        assert_eq!(Rival::parse_list("all"), Ok(Rival::ALL.to_vec()));
        assert_eq!(Rival::parse_list("std, openmpi,std"), Ok(vec![Rival::StdBarrier, Rival::OpenMpi]));
        for rival in Rival::ALL {
            assert_eq!(Rival::parse_list(rival.name()), Ok(vec![rival]));
        }
    }

    #[test]
    fn a_bad_name_is_answered_with_the_good_ones() {
        for text in ["", "openmpi,", "OpenMPI", "all,std"] {
            let message = Rival::parse_list(text).expect_err(text);
            for rival in Rival::ALL {
                assert!(message.contains(rival.name()), "{message}");
            }
        }
    }

    fn workload() -> Workload {
        Workload {
            ranks: 2,
            nodes: 1,
            cpus: Vec::new(),
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
        let across = Workload { nodes: 2, ..workload() };
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
        let across = Workload { nodes: 2, ..workload() };
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
        let builder = build::Builder { rival: Rival::Mpich, build_dir: Path::new("/nonexistent") };
        let skipped = builder.output_of(&mut Command::new("phalanx-no-such-compiler")).unwrap_err();
        let message = skipped.to_string();
        assert!(message.contains("MPICH is not run: phalanx-no-such-compiler is not installed"), "{message}");
        assert!(message.contains("libmpich-dev"), "{message}");
    }
}
