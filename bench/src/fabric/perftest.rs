//! perftest beside us: `ib_write_lat`, `ib_read_lat` and `ib_atomic_lat` on this machine's first RDMA device, both ends
//! on this machine and on the same CPUs as ours.
//!
//! Their latencies are not all of one kind: a read's and an atomic's is a round trip, as ours; a write's is half of
//! one, since the other end writes back. They tell no rate and no 90th percentile.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Operation, Report};
use crate::build;

/// Where the kernel lists RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";
/// Iterations of each measurement.
const ITERATIONS: u32 = 5000;
/// How long one measurement may take.
const LIMIT: Duration = Duration::from_secs(30);

/// One report for each operation.
///
/// # Errors
///
/// Why there are none, in words.
pub fn run(cpus: &[usize]) -> Result<Vec<Report>, String> {
    let device = first_device().ok_or("perftest is not run: this machine has no RDMA device")?;
    let version = version()?;
    Operation::ALL.into_iter().map(|operation| measure(&device, &version, operation, cpus)).collect()
}

fn first_device() -> Option<String> {
    let mut names: Vec<String> =
        fs::read_dir(DEVICES).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().next()
}

fn version() -> Result<String, String> {
    let output = Command::new("ib_write_lat").arg("--version").output();
    let output = output.map_err(|error| format!("perftest is not run: {error} (Debian: apt-get install perftest)"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(format!("perftest {}", text.split_whitespace().last().unwrap_or("of unknown version")))
}

/// The program that measures an operation, and what makes it that operation.
fn program_of(operation: Operation) -> (&'static str, &'static [&'static str]) {
    match operation {
        Operation::Write => ("ib_write_lat", &[]),
        Operation::Read => ("ib_read_lat", &[]),
        Operation::FetchAdd => ("ib_atomic_lat", &["-A", "FETCH_AND_ADD"]),
        Operation::CompareSwap => ("ib_atomic_lat", &["-A", "CMP_AND_SWAP"]),
    }
}

/// An end, killed when dropped before it has ended.
struct End(Child);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(device: &str, version: &str, operation: Operation, cpus: &[usize]) -> Result<Report, String> {
    let (program, own) = program_of(operation);
    let failed = |what: String| format!("perftest is not run: {program} {what}");
    let port = free_port().map_err(|error| failed(error.to_string()))?;
    let command = |end: usize| {
        // Pinned as our ends are: node 1 is the one that is asked.
        let mut command = match cpus.get(end) {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string(), program]);
                command
            }
            None => Command::new(program),
        };
        command.args(["-d", device, "-p", &port.to_string(), "-n", &ITERATIONS.to_string(), "-F"]).args(own);
        if !matches!(operation, Operation::FetchAdd | Operation::CompareSwap) {
            command.args(["-s", "8"]);
        }
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let server = command(1).stdout(Stdio::null()).spawn().map_err(|error| failed(error.to_string()))?;
    let _server = End(server);
    let until = Instant::now() + LIMIT;
    // The server says nothing when it listens: the client tries until it is let in.
    let text = loop {
        let output = command(0).arg("127.0.0.1").output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            break String::from_utf8_lossy(&output.stdout).into_owned();
        }
        if Instant::now() >= until {
            return Err(failed(format!("ended with {}", output.status)));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let figures = parse(&text).ok_or_else(|| failed("printed no figures".to_owned()))?;
    Ok(report(version, operation, &figures, cpus))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Microseconds, as perftest prints them.
#[derive(Debug, PartialEq)]
struct Printed {
    iterations: u64,
    min: f64,
    max: f64,
    typical: f64,
    average: f64,
    p99: f64,
    p999: f64,
}

/// The line of figures: `bytes iterations min max typical average stdev p99 p99.9`.
fn parse(text: &str) -> Option<Printed> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("#bytes"));
    let figures: Vec<f64> = lines
        .nth(1)?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|all: &Vec<f64>| all.len() >= 9)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let iterations = figures[1] as u64;
    let [min, max, typical, average] = figures[2..6] else { return None };
    Some(Printed { iterations, min, max, typical, average, p99: figures[7], p999: figures[8] })
}

fn report(version: &str, operation: Operation, printed: &Printed, cpus: &[usize]) -> Report {
    let ns = |us: f64| (us * 10_000.0).round() / 10.0;
    Report {
        bench: "fabric",
        system: "perftest",
        system_version: version.to_owned(),
        fabric: "rdma",
        peer: None,
        operation: operation.name(),
        outstanding: 1,
        operations: printed.iterations,
        rate_per_s: None,
        mean_ns: ns(printed.average),
        min_ns: ns(printed.min),
        p50_ns: ns(printed.typical),
        p90_ns: None,
        p99_ns: ns(printed.p99),
        p999_ns: ns(printed.p999),
        max_ns: ns(printed.max),
        clock_overhead_ns: None,
        limit_ns: None,
        limit_ratio: None,
        cpus: cpus.len(),
        commit: build::COMMIT,
        rounds: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_figures_is_read() {
        let text = " local address: LID 0000\n-----\n #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] \n 8       5000          4.16           26.07        4.35     \t       4.41        \t0.35   \t\t5.81    \t\t 9.90   \n-----\n";
        let printed =
            Printed { iterations: 5000, min: 4.16, max: 26.07, typical: 4.35, average: 4.41, p99: 5.81, p999: 9.9 };
        assert_eq!(parse(text), Some(printed));
        assert_eq!(parse("Couldn't connect"), None);
        assert_eq!(parse(" #bytes #iterations\n 8 5000 few\n"), None);
        assert_eq!(parse(" #bytes #iterations\n"), None);
    }
}
