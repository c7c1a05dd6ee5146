//! A round in which the launcher dies: nothing of its job may survive it.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use phalanx::cluster::environment::LAUNCHER_VARIABLES;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{Fault, Plan};
use super::round::Outcome;
use crate::doomed::rank::{Role, Task};
use crate::doomed::said::{Event, Said};
use crate::doomed::sockets::{Holdings, with_variable};
use crate::doomed::{DoomedError, RANK_COMMAND, await_end, listen_to, now_ns, system};

/// In the environment of all processes of such a round.
const MARK: &str = "PHALANX_CAMPAIGN_MARK";
/// How long ranks may take to begin, and to be gone.
const LIMIT: Duration = Duration::from_secs(20);

/// Does what the plan says.
///
/// # Errors
///
/// [`DoomedError`].
pub fn run(plan: &Plan, directory: &Path) -> Result<Outcome, DoomedError> {
    let mut outcome = Outcome { faults: 1, ..Outcome::default() };
    let mut launched = Launched::start(plan, directory)?;
    if let Err(ready) = launched.await_ready(plan.nodes.len()) {
        outcome.violations.push(format!("only {ready} ranks under `phalanx run` have met"));
    }
    std::thread::sleep(plan.calm);
    let mut holdings = Holdings::default();
    with_variable(&launched.mark).iter().filter_map(|pid| pid.parse().ok()).for_each(|pid| holdings.add(pid));
    let begun_ns = match launched.victim(plan.fault) {
        Some(victim) => {
            let at_ns = now_ns();
            kill_process(victim, Signal::KILL).map_err(system("kill the launcher"))?;
            at_ns
        }
        None => {
            outcome.violations.push("the launcher has no supervisor".to_owned());
            now_ns()
        }
    };
    let left = launched.await_end()?;
    outcome.detected_ns.push(now_ns() - begun_ns);
    outcome.violations.extend(left.iter().map(|pid| format!("process {pid} lives {LIMIT:?} after its launcher")));
    drop(launched);
    let left = holdings.left_at(Instant::now() + LIMIT);
    outcome.violations.extend(left.into_iter().map(|left| format!("left behind: {left}")));
    outcome.outcomes.push("had their launcher killed");
    Ok(outcome)
}

/// A job under `phalanx run`; killed when dropped.
struct Launched {
    front: Child,
    /// Held, and never written to: rank 0 has the other end, by which it ends when this process does.
    _leash: Option<ChildStdin>,
    heard: Receiver<Said>,
    /// The variable, with its value, that its processes have and no others.
    mark: String,
}

impl Launched {
    fn start(plan: &Plan, directory: &Path) -> Result<Self, DoomedError> {
        let task = Task {
            role: Role::Meets { records: directory.to_owned(), seed: plan.seed },
            wait: Some(plan.wait.to_owned()),
            fabric: None,
            engine: Some(plan.engine.to_owned()),
            timeout_ms: None,
            ends_with_parent: false,
        };
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let value = format!("{}-{}", std::process::id(), now_ns());
        let mut command = Command::new(&program);
        for name in LAUNCHER_VARIABLES {
            command.env_remove(name);
        }
        command.args(["run", "-n", &plan.nodes.len().to_string()]);
        if plan.node_count() > 1 {
            command.args(["--nodes", &plan.node_count().to_string()]);
        }
        command.arg("--").arg(&program).args([RANK_COMMAND, &serde_json::to_string(&task).expect("plain values")]);
        command.env(MARK, &value).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut front = command.spawn().map_err(system("start `phalanx run`"))?;
        let (say, heard) = channel();
        let (leash, stdout) = (front.stdin.take(), front.stdout.take().expect("piped"));
        listen_to(stdout, say);
        Ok(Self { front, _leash: leash, heard, mark: format!("{MARK}={value}") })
    }

    /// Waits until all ranks have met; how many have, if that are fewer.
    fn await_ready(&self, ranks: usize) -> Result<(), usize> {
        let limit = Instant::now() + LIMIT;
        let mut ready = 0;
        while ready < ranks {
            let said = self.heard.recv_timeout(limit.saturating_duration_since(Instant::now())).map_err(|_| ready)?;
            ready += usize::from(said.event == Event::Ready);
        }
        Ok(())
    }

    /// The process to be killed.
    fn victim(&self, fault: Fault) -> Option<Pid> {
        let pid = match fault {
            Fault::SupervisorKilled => {
                let processes = with_variable(&self.mark);
                processes.into_iter().find(|pid| parent_of(pid) == Some(self.front.id()))?
            }
            _ => self.front.id().to_string(),
        };
        pid.parse().ok().and_then(Pid::from_raw)
    }

    /// Waits until no process is left; those that are.
    fn await_end(&mut self) -> Result<Vec<String>, DoomedError> {
        let limit = Instant::now() + LIMIT;
        loop {
            // Our child, which is nobody else's to bury.
            self.front.try_wait().map_err(system("wait for `phalanx run`"))?;
            let left = with_variable(&self.mark);
            if left.is_empty() || Instant::now() >= limit {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        for pid in with_variable(&self.mark).iter().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = await_end(&mut self.front, Instant::now() + LIMIT);
    }
}

/// A process's parent.
fn parent_of(pid: &str) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may hold anything, is in parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
