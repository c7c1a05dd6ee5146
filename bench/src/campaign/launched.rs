//! A round in which the launcher dies: nothing of its job may survive it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use phalanx::cluster::environment::LAUNCHER_VARIABLES;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{Fault, Plan};
use super::round::Outcome;
use crate::doomed::rank::{Role, Task};
use crate::doomed::said::Event;
use crate::doomed::sockets::{Holdings, with_variable};
use crate::doomed::{DoomedError, RANK_COMMAND, listen_to, now_ns, system};

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
    let task = Task {
        role: Role::Meets { records: directory.to_owned(), seed: plan.seed },
        wait: Some(plan.wait.to_owned()),
        fabric: None,
        engine: Some(plan.engine.to_owned()),
        timeout_ms: None,
        ends_with_parent: false,
    };
    let program = std::env::current_exe().map_err(system("find this program"))?;
    let mark = format!("{MARK}={}-{}", std::process::id(), now_ns());
    let mut command = Command::new(&program);
    for name in LAUNCHER_VARIABLES {
        command.env_remove(name);
    }
    command.args(["run", "-n", &plan.nodes.len().to_string()]);
    if plan.node_count() > 1 {
        command.args(["--nodes", &plan.node_count().to_string()]);
    }
    command.arg("--").arg(&program).args([RANK_COMMAND, &serde_json::to_string(&task).expect("plain values")]);
    command.env(MARK, mark.split_once('=').expect("it has one").1);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut front = command.spawn().map_err(system("start `phalanx run`"))?;
    let (say, heard) = channel();
    listen_to(front.stdout.take().expect("piped"), say);

    let mut outcome = Outcome { faults: 1, ..Outcome::default() };
    let limit = Instant::now() + LIMIT;
    let mut ready = 0;
    while ready < plan.nodes.len() {
        match heard.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(said) => ready += usize::from(said.event == Event::Ready),
            Err(_) => {
                outcome.violations.push(format!("only {ready} ranks under `phalanx run` have met"));
                break;
            }
        }
    }
    std::thread::sleep(plan.calm);
    let processes = with_variable(&mark);
    let mut holdings = Holdings::default();
    processes.iter().filter_map(|pid| pid.parse().ok()).for_each(|pid| holdings.add(pid));
    let victim = match plan.fault {
        Fault::SupervisorKilled => processes.iter().find(|pid| parent_of(pid) == Some(front.id())).cloned(),
        _ => Some(front.id().to_string()),
    };
    let begun = now_ns();
    match victim.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) {
        Some(pid) => kill_process(pid, Signal::KILL).map_err(system("kill the launcher"))?,
        None => outcome.violations.push("the launcher has no supervisor".to_owned()),
    }
    let limit = Instant::now() + LIMIT;
    while !with_variable(&mark).iter().all(|pid| *pid == front.id().to_string()) && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    outcome.detected_ns.push(now_ns() - begun);
    if plan.fault == Fault::LauncherKilled {
        let _ = front.wait();
    }
    while front.try_wait().map_err(system("wait for `phalanx run`"))?.is_none() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    for pid in with_variable(&mark) {
        outcome.violations.push(format!("process {pid} lives {LIMIT:?} after its launcher"));
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = front.wait();
    outcome.violations.extend(holdings.left().into_iter().map(|left| format!("left behind: {left}")));
    outcome.outcomes.push("nothing survived the launcher");
    Ok(outcome)
}

/// A process's parent.
fn parent_of(pid: &str) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may hold anything, is in parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
