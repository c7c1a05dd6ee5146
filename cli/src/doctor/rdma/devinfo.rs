//! What `ibv_devinfo` says, where it is installed: sysfs does not tell whether a device has atomics, only an opened
//! device does.
//!
//! Another program may hang (a driver in trouble does that to whoever opens its device), so it has a deadline, and
//! whatever it has started is killed then.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

const DEADLINE: Duration = Duration::from_millis(400);
/// More than a dozen devices with full GID tables print.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// What a device says of itself, by its name.
pub type Answers = BTreeMap<String, Answer>;

/// What of a device's attributes matters to atomics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `ATOMIC_NONE`, `ATOMIC_HCA` or `ATOMIC_GLOB`.
    pub atomics: Option<String>,
    /// Reads and atomics that may be under way on a queue pair.
    pub reads_under_way: Option<u32>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    NotInstalled,
    TimedOut,
    Failed(String),
}

/// Asks about all devices.
pub fn ask() -> Result<Answers, Silence> {
    run(Command::new("ibv_devinfo").arg("-v")).map(|text| parse(&text))
}

fn run(command: &mut Command) -> Result<String, Silence> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Silence::NotInstalled),
        Err(error) => return Err(Silence::Failed(error.to_string())),
    };
    let output = output_in_time(&mut child);
    end(&mut child);
    output
}

/// Everything that the child writes, if it closes its output in time.
fn output_in_time(child: &mut Child) -> Result<String, Silence> {
    let pipe = child.stdout.take().ok_or_else(|| Silence::Failed("no pipe".to_owned()))?;
    let (sender, receiver) = mpsc::channel();
    // The thread ends with the pipe's last writer, and at the latest with this process.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
    });
    match receiver.recv_timeout(DEADLINE) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(Silence::Failed(error.to_string())),
        Err(_) => Err(Silence::TimedOut),
    }
}

/// Kills what is left of the child's group. One that hangs in the kernel is not waited for.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    for _ in 0..20 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Paragraphs that begin with `hca_id: NAME`, with lines such as `atomic_cap: ATOMIC_HCA (1)`.
fn parse(text: &str) -> Answers {
    let mut answers = Answers::new();
    let mut device = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.split_whitespace().next().unwrap_or_default();
        if key.trim() == "hca_id" {
            device = Some(value.to_owned());
            answers.insert(value.to_owned(), Answer::default());
        }
        let Some(answer) = device.as_ref().and_then(|device| answers.get_mut(device)) else { continue };
        match key.trim() {
            "atomic_cap" => answer.atomics = Some(value.to_owned()),
            "max_qp_rd_atom" => answer.reads_under_way = value.parse().ok(),
            _ => (),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Result<String, Silence> {
        run(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn each_device_s_atomics_are_found() {
        let text = "hca_id:\tmlx5_0\n\ttransport:\t\t\tInfiniBand (0)\n\tmax_qp_rd_atom:\t\t\t16\n\
                    \tatomic_cap:\t\t\tATOMIC_HCA (1)\n\t\tport:\t1\n\nhca_id:\tsiw0\n\tatomic_cap:\tATOMIC_NONE (0)\n\
                    nonsense\nmax_qp_rd_atom: many\n";
        let answers = parse(text);
        let hca = Answer { atomics: Some("ATOMIC_HCA".to_owned()), reads_under_way: Some(16) };
        assert_eq!(answers["mlx5_0"], hca);
        assert_eq!(answers["siw0"], Answer { atomics: Some("ATOMIC_NONE".to_owned()), reads_under_way: None });
        assert!(parse("atomic_cap: ATOMIC_HCA (1)\n:::\n").is_empty());
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_has_started() {
        let start = Instant::now();
        // The reader of the fifo's other end is gone with the group: nothing holds the pipe for the hour.
        assert_eq!(shell("sleep 3600 & sleep 3600"), Err(Silence::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(shell("echo said"), Ok("said\n".to_owned()));
        assert_eq!(run(&mut Command::new("/nonexistent/ibv_devinfo")), Err(Silence::NotInstalled));
    }
}
