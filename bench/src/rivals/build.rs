//! Builds the rivals on demand, from sources that are embedded in the binary, with the system's compilers.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PreparedRival, Rival, Skipped};

/// Flags of every C program. `-Wall` is for whoever reads the log of a failed build on an unknown compiler.
const C_FLAGS: [&str; 4] = ["-O2", "-std=gnu11", "-Wall", "-pthread"];

/// Turns a rival into a [`PreparedRival`], or says why not.
pub struct Builder<'a> {
    /// Which one.
    pub rival: Rival,
    /// Where sources and programs go.
    pub build_dir: &'a Path,
}

impl Builder<'_> {
    pub fn build_mpi(&self) -> Result<PreparedRival, Skipped> {
        let mpi = find_mpi(self.rival).ok_or_else(|| self.skipped("its launcher is not installed"))?;
        let source = self.write("mpi_barrier.c", include_str!("../../rivals/mpi_barrier.c"))?;
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
        let version = self.first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"));
        Ok(self.prepared(version.unwrap_or_else(|_| "C library of unknown version".to_owned()), program))
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
        let python = rivals_python();
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
        PreparedRival { rival: self.rival, version, launcher: None, program, arguments: Vec::new() }
    }

    fn skipped(&self, reason: impl Into<String>) -> Skipped {
        Skipped { rival: self.rival, reason: reason.into(), remedy: Some(self.rival.install_hint()) }
    }

    /// Compiles `inputs` and the common header into a program named after the rival.
    fn compile_c(&self, compiler: &str, flags: &[&str], inputs: &[&Path]) -> Result<PathBuf, Skipped> {
        self.write("common.h", include_str!("../../rivals/common.h"))?;
        self.build_output(&format!("{}_barrier", self.rival), |output| {
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

/// The interpreter that has torch: the one named in the environment, the one that `scripts/compare.sh` made, or the
/// system's.
fn rivals_python() -> PathBuf {
    if let Some(python) = env::var_os("PHALANX_RIVALS_PYTHON") {
        return PathBuf::from(python);
    }
    let made_by_script = Path::new("target/rivals-venv/bin/python");
    if made_by_script.exists() {
        return made_by_script.to_owned();
    }
    PathBuf::from("python3")
}
