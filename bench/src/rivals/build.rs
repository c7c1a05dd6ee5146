//! Builds the rivals on demand, from sources that are embedded in the binary, with the system's compilers.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::{self, Server};
use super::{Bench, Object, PreparedRival, Rival, Skipped};

/// Flags of every C program. `-Wall` is for whoever reads the log of a failed build on an unknown compiler.
const C_FLAGS: [&str; 4] = ["-O2", "-std=gnu11", "-Wall", "-pthread"];

/// What the programs in C share.
const HEADERS: [(&str, &str); 4] = [
    ("common.h", include_str!("../../rivals/common.h")),
    ("contest.h", include_str!("../../rivals/contest.h")),
    ("processes.h", include_str!("../../rivals/processes.h")),
    ("connection.h", include_str!("../../rivals/connection.h")),
];

/// Turns a rival into a [`PreparedRival`], or says why not.
pub struct Builder<'a> {
    /// Which one.
    pub rival: Rival,
    /// For which benchmark.
    pub bench: Bench,
    /// Where sources and programs go.
    pub build_dir: &'a Path,
}

impl Builder<'_> {
    pub fn build_mpi(&self) -> Result<PreparedRival, Skipped> {
        let mpi = find_mpi(self.rival).ok_or_else(|| self.skipped("its launcher is not installed"))?;
        let source = match self.bench {
            Bench::Barrier => self.write("mpi_barrier.c", include_str!("../../rivals/mpi_barrier.c"))?,
            Bench::Contest(_) => self.write("mpi_contest.c", include_str!("../../rivals/mpi_contest.c"))?,
        };
        let program = self.compile_c(&mpi.compiler, &[], &[&source])?;
        Ok(PreparedRival { launcher: Some(mpi.launcher), ..self.prepared(mpi.version, program) })
    }

    pub fn build_libgomp(&self) -> Result<PreparedRival, Skipped> {
        let version = self.first_line(Command::new("gcc").arg("-dumpfullversion"))?;
        let source = self.write("gomp_barrier.c", include_str!("../../rivals/gomp_barrier.c"))?;
        let program = self.compile_c("gcc", &["-fopenmp"], &[&source])?;
        Ok(self.prepared(format!("libgomp of GCC {version}"), program))
    }

    pub fn build_pthread(&self) -> Result<PreparedRival, Skipped> {
        let source = self.write("pthread_barrier.c", include_str!("../../rivals/pthread_barrier.c"))?;
        let program = self.compile_c("gcc", &[], &[&source])?;
        Ok(self.prepared(self.c_library(), program))
    }

    pub fn build_local(&self, system: &str) -> Result<PreparedRival, Skipped> {
        let source = self.write("local_contest.c", include_str!("../../rivals/local_contest.c"))?;
        let program = self.compile_c("gcc", &[], &[&source])?;
        let version = match self.rival {
            Rival::Flock => {
                format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim())
            }
            _ => self.c_library(),
        };
        Ok(PreparedRival { arguments: vec![system.into()], ..self.prepared(version, program) })
    }

    pub fn build_redis(&self) -> Result<PreparedRival, Skipped> {
        let source = self.write("redis_contest.c", include_str!("../../rivals/redis_contest.c"))?;
        let program = self.compile_c("gcc", &[], &[&source])?;
        Ok(PreparedRival {
            server: Some(self.start_server(server::Kind::Redis)?),
            ..self.prepared(self.redis()?, program)
        })
    }

    pub fn prepare_redis_py(&self) -> Result<PreparedRival, Skipped> {
        let (python, version) = self.python_with("redis")?;
        let script = self.write("redis_py_contest.py", include_str!("../../rivals/redis_py_contest.py"))?;
        Ok(PreparedRival {
            arguments: vec![script.into_os_string()],
            server: Some(self.start_server(server::Kind::Redis)?),
            ..self.prepared(format!("redis-py {version}, {}", self.redis()?), python)
        })
    }

    pub fn build_etcd(&self) -> Result<PreparedRival, Skipped> {
        // `etcd Version: 3.4.23`.
        let version = self.first_line(Command::new("etcd").arg("--version"))?.replace(" Version:", "");
        let source = self.write("etcd_contest.c", include_str!("../../rivals/etcd_contest.c"))?;
        let program = self.compile_c("gcc", &[], &[&source])?;
        Ok(PreparedRival { server: Some(self.start_server(server::Kind::Etcd)?), ..self.prepared(version, program) })
    }

    pub fn prepare_zookeeper(&self) -> Result<PreparedRival, Skipped> {
        let (python, version) = self.python_with("kazoo")?;
        if self.bench == Bench::Contest(Object::RwLock) && has_deadlocking_readers(&version) {
            return Err(self.skipped(format!("a reader and a writer of kazoo {version} wait for each other for ever")));
        }
        let script = self.write("zookeeper_contest.py", include_str!("../../rivals/zookeeper_contest.py"))?;
        Ok(PreparedRival {
            arguments: vec![script.into_os_string()],
            server: Some(self.start_server(server::Kind::ZooKeeper)?),
            ..self.prepared(format!("kazoo {version}"), python)
        })
    }

    /// `Redis server v=7.0.15 sha=…`.
    fn redis(&self) -> Result<String, Skipped> {
        let line = self.first_line(Command::new("redis-server").arg("--version"))?;
        let number = line.split_whitespace().find_map(|word| word.strip_prefix("v="));
        Ok(format!("Redis {}", number.unwrap_or("of unknown version")))
    }

    fn start_server(&self, kind: server::Kind) -> Result<Server, Skipped> {
        if let Some(missing) = kind.missing() {
            return Err(self.skipped(missing));
        }
        self.output_of(Command::new(kind.program()).arg(if kind == server::Kind::ZooKeeper {
            "-version"
        } else {
            "--version"
        }))?;
        let directory = self.build_dir.join(format!("{}-server", self.rival));
        Server::start(kind, &directory).map_err(|why| self.skipped(why))
    }

    /// An interpreter that has this module, and the module's version. What contests in Python share goes beside them.
    fn python_with(&self, module: &str) -> Result<(PathBuf, String), Skipped> {
        self.write("contest.py", include_str!("../../rivals/contest.py"))?;
        let probe = format!("import {module}; print({module}.__version__)");
        let mut missing = None;
        for python in rivals_pythons() {
            match self.first_line(Command::new(&python).args(["-c", &probe])) {
                Ok(version) => return Ok((python, version)),
                Err(why) => missing = Some(why),
            }
        }
        Err(missing.unwrap_or_else(|| self.skipped("there is no Python")))
    }

    fn c_library(&self) -> String {
        let version = self.first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"));
        version.unwrap_or_else(|_| "C library of unknown version".to_owned())
    }

    pub fn build_std(&self) -> Result<PreparedRival, Skipped> {
        let version = self.first_line(Command::new("rustc").arg("--version"))?;
        let barrier = self.write("std_barrier.rs", include_str!("../../rivals/std_barrier.rs"))?;
        let source = self.write("std_barrier.c", include_str!("../../rivals/std_barrier.c"))?;
        let library = self.build_output("libstd_barrier.a", |output| {
            let mut rustc = Command::new("rustc");
            rustc.args(["-O", "--edition", "2024", "--crate-type", "staticlib", "-C", "panic=abort"]);
            rustc.arg(&barrier).arg("-o").arg(output);
            rustc
        })?;
        let program = self.compile_c("gcc", &[], &[&source, &library])?;
        // `rustc 1.95.0 (59807616e 2026-04-14)`: the first two words say it.
        let version = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Ok(self.prepared(version, program))
    }

    pub fn prepare_gloo(&self) -> Result<PreparedRival, Skipped> {
        let python = rivals_pythons().remove(0);
        let probe = "import torch, torch.distributed as d; d.ProcessGroupGloo; print(torch.__version__)";
        let version = self.first_line(Command::new(&python).args(["-c", probe]))?;
        let script = self.write("gloo_barrier.py", include_str!("../../rivals/gloo_barrier.py"))?;
        let mut arguments = vec![script.into_os_string()];
        if self.rival == Rival::GlooMonitoredBarrier {
            arguments.push("--monitored".into());
        }
        Ok(PreparedRival { arguments, ..self.prepared(format!("torch {version}"), python) })
    }

    fn prepared(&self, version: String, program: PathBuf) -> PreparedRival {
        PreparedRival { rival: self.rival, version, launcher: None, program, arguments: Vec::new(), server: None }
    }

    fn skipped(&self, reason: impl Into<String>) -> Skipped {
        Skipped { rival: self.rival, reason: reason.into(), remedy: Some(self.rival.install_hint()) }
    }

    /// Compiles `inputs` and the headers into a program named after the rival.
    fn compile_c(&self, compiler: &str, flags: &[&str], inputs: &[&Path]) -> Result<PathBuf, Skipped> {
        for (name, text) in HEADERS {
            self.write(name, text)?;
        }
        self.build_output(&format!("{}_{}", self.rival, self.bench.name()), |output| {
            let mut command = Command::new(compiler);
            command.args(C_FLAGS).args(flags).args(inputs).args(["-lm", "-ldl", "-o"]).arg(output);
            command
        })
    }

    /// Runs the compiler into a file of its own and then renames, because another `phalanx bench` may be running the
    /// program of the same name.
    fn build_output(&self, name: &str, compiler: impl FnOnce(&Path) -> Command) -> Result<PathBuf, Skipped> {
        let output = self.build_dir.join(name);
        let unfinished = self.build_dir.join(format!("{name}.{}", std::process::id()));
        self.output_of(&mut compiler(&unfinished))?;
        fs::rename(&unfinished, &output)
            .map_err(|error| self.skipped(format!("cannot create {}: {error}", output.display())))?;
        Ok(output)
    }

    /// Writes an embedded source, by the same detour: another compiler may be reading the file.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Skipped> {
        let path = self.build_dir.join(name);
        let unfinished = self.build_dir.join(format!("{name}.{}", std::process::id()));
        fs::create_dir_all(self.build_dir)
            .and_then(|()| fs::write(&unfinished, text))
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| self.skipped(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }

    fn first_line(&self, command: &mut Command) -> Result<String, Skipped> {
        let output = self.output_of(command)?;
        Ok(output.lines().next().unwrap_or_default().trim().to_owned())
    }

    pub fn output_of(&self, command: &mut Command) -> Result<String, Skipped> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.skipped(format!("{program} is not installed")),
            _ => self.skipped(format!("{program} cannot be run: {error}")),
        })?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.trim_end().lines().last().unwrap_or_default().to_owned();
            return Err(self.skipped(format!("{program} failed: {last}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Up to 2.8 a reader waits for a writer that came after it and waits for it.
fn has_deadlocking_readers(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(2), Some(9))
}

/// An MPI's programs.
struct Mpi {
    compiler: String,
    launcher: String,
    version: String,
}

/// Finds an MPI by the names that Debian gives when several are installed, or else by the plain names if the one
/// behind them is the one that is meant.
fn find_mpi(rival: Rival) -> Option<Mpi> {
    let (suffix, marker) = match rival {
        Rival::OpenMpi => (".openmpi", "Open"),
        _ => (".mpich", "HYDRA"),
    };
    [suffix, ""].into_iter().find_map(|suffix| {
        let launcher = format!("mpirun{suffix}");
        let output = Command::new(&launcher).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Open MPI says `mpirun (Open MPI) 4.1.4`; MPICH's Hydra has a line `Version: 4.0.2` among others.
        let line = text.lines().find(|line| line.contains("Version:")).or_else(|| text.lines().next())?;
        let number = line.split_whitespace().last()?;
        text.contains(marker).then(|| Mpi {
            compiler: format!("mpicc{suffix}"),
            launcher,
            version: format!("{} {number}", rival.label()),
        })
    })
}

/// The interpreters that may have what a rival needs: the one named in the environment and no other, or else the one
/// that `scripts/compare.sh` made, the first of the path, and Debian's, which alone has Debian's modules.
fn rivals_pythons() -> Vec<PathBuf> {
    if let Some(python) = env::var_os("PHALANX_RIVALS_PYTHON") {
        return vec![PathBuf::from(python)];
    }
    let made_by_script = Path::new("target/rivals-venv/bin/python");
    let mut pythons = vec![PathBuf::from("python3"), PathBuf::from("/usr/bin/python3")];
    if made_by_script.exists() {
        pythons.insert(0, made_by_script.to_owned());
    }
    pythons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kazoos_readers_are_left_alone_until_they_are_mended() {
        let versions = ["1.9", "2.8.0", "2.9.0", "2.11.0", "3.0"];
        assert_eq!(versions.map(has_deadlocking_readers), [true, true, false, false, false]);
    }
}
