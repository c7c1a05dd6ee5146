//! `phalanx bench calm`: whether anybody is declared failed, or doubted, on a machine that has too much to do and in
//! which nobody fails.
//!
//! A job with default options across pretended nodes passes barriers all the while, with moments of rest in between,
//! beside busy threads that take its CPUs away. Whatever its ranks are told but that they have passed is a false alarm;
//! so is each epoch that the job's log has in the end. The busy threads belong to this process, so that nothing is left
//! of them whatever ends it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::FailureError;
use crate::build;
use crate::compare::Progress;
use crate::doomed::rank::{Role, Task};
use crate::doomed::said::{Event, Said, Told};
use crate::doomed::{DoomedJob, Place};
use crate::page::{machine, ns};

/// How long the ranks may take to end when they are asked to.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How often progress is shown.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// For how long.
    pub lasts: Duration,
    /// Busy threads beside the job.
    pub load: usize,
    /// Its ranks.
    pub ranks: usize,
    /// And nodes.
    pub nodes: usize,
    /// The wait policy, or the default.
    pub wait: Option<String>,
    /// What joins the nodes, or the library's choice.
    pub fabric: Option<String>,
}

/// What has happened. The field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark: "calm".
    pub bench: &'static str,
    /// "phalanx".
    pub system: &'static str,
    /// Its version.
    pub system_version: &'static str,
    /// The job's ranks.
    pub ranks: usize,
    /// And nodes.
    pub nodes: usize,
    /// Busy threads beside it.
    pub load: usize,
    /// The wait policy that was asked for, or "default".
    pub wait: String,
    /// How long it has lasted.
    pub seconds: f64,
    /// Barriers that all have passed.
    pub barriers: u64,
    /// The longest time that a rank has waited in one.
    pub longest_wait_ns: u64,
    /// Epochs of the job's log, and errors of its ranks where it has none.
    pub false_alarms: u64,
    /// The first error that a rank was given.
    pub error: Option<String>,
    /// The commit that measured.
    pub commit: &'static str,
}

/// What ranks have said in the end.
#[derive(Debug, Default)]
struct Tally {
    barriers: Option<u64>,
    longest_wait_ns: u64,
    epochs: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn take(&mut self, said: Said) {
        match said.event {
            Event::Calm { barriers, longest_wait_ns, epochs } => {
                self.barriers = Some(self.barriers.map_or(barriers, |least| least.min(barriers)));
                self.longest_wait_ns = self.longest_wait_ns.max(longest_wait_ns);
                self.epochs = self.epochs.max(epochs);
            }
            Event::Failed { told, sequence, .. } => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| describe(said.rank, sequence, &told));
            }
            _ => {}
        }
    }
}

fn describe(rank: usize, sequence: u64, told: &Told) -> String {
    format!("rank {rank} at barrier {sequence}: {}", serde_json::to_string(told).expect("plain values"))
}

/// Threads that use up CPUs until this is dropped.
struct Load {
    is_over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = |_| {
            let is_over = Arc::clone(&is_over);
            // Relaxed: nothing is read by it.
            std::thread::spawn(move || while !is_over.load(Ordering::Relaxed) {})
        };
        Self { threads: (0..count).map(thread).collect(), is_over }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Runs the job for as long as is asked for.
///
/// # Errors
///
/// [`FailureError`], also when a rank ends without a word; a false alarm is no error.
pub fn run(request: &Request, progress: &mut dyn Progress) -> Result<Report, FailureError> {
    if request.lasts.is_zero() || request.nodes == 0 || request.ranks < request.nodes {
        let text = "there must be a time, a node, and a rank for each node, at least".to_owned();
        return Err(FailureError::Request(text));
    }
    let task = Task {
        role: Role::Calm { seed: 1 },
        wait: request.wait.clone(),
        fabric: request.fabric.clone(),
        engine: None,
        timeout_ms: None,
        ends_with_parent: true,
    };
    let nodes: Vec<usize> = (0..request.ranks).map(|rank| rank * request.nodes / request.ranks).collect();
    let mut job = DoomedJob::start(Place { nodes: &nodes, namespaces: None }, &task)?;
    let load = Load::start(request.load);
    let begun = Instant::now();
    let mut tally = Tally::default();
    while begun.elapsed() < request.lasts && tally.errors == 0 {
        let next = Instant::now() + LOOK_EVERY.min(request.lasts.saturating_sub(begun.elapsed()));
        match job.hear(next) {
            Ok(said) => tally.take(said),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.turn(whole_seconds(begun.elapsed()), whole_seconds(request.lasts), "calm");
    }
    let seconds = begun.elapsed().as_secs_f64();
    await_ends(&mut job, &mut tally)?;
    drop(load);
    job.end()?;
    Ok(report(request, seconds, tally))
}

fn whole_seconds(span: Duration) -> usize {
    usize::try_from(span.as_secs()).unwrap_or(usize::MAX)
}

/// Asks all ranks to end, and hears what each has to say.
fn await_ends(job: &mut DoomedJob, tally: &mut Tally) -> Result<(), FailureError> {
    (0..job.size()).for_each(|rank| job.say(rank, "end"));
    let limit = Instant::now() + END_LIMIT;
    let mut missing: Vec<usize> = (0..job.size()).collect();
    while !missing.is_empty() {
        let said = job.hear(limit).map_err(|silence| match silence {
            RecvTimeoutError::Timeout => format!("ranks {missing:?} have not ended within {END_LIMIT:?}"),
            RecvTimeoutError::Disconnected => format!("ranks {missing:?} have ended without a word"),
        });
        let said = said.map_err(FailureError::Request)?;
        if said.event == Event::Bye {
            missing.retain(|other| *other != said.rank);
        }
        tally.take(said);
    }
    Ok(())
}

fn report(request: &Request, seconds: f64, tally: Tally) -> Report {
    Report {
        bench: "calm",
        system: "phalanx",
        system_version: build::VERSION,
        ranks: request.ranks,
        nodes: request.nodes,
        load: request.load,
        wait: request.wait.clone().unwrap_or_else(|| "default".to_owned()),
        seconds,
        barriers: tally.barriers.unwrap_or(0),
        longest_wait_ns: tally.longest_wait_ns,
        false_alarms: tally.epochs.max(u64::from(tally.errors > 0)),
        error: tally.first_error,
        commit: build::COMMIT,
    }
}

/// The page for people.
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    let _ = writeln!(page, "\nA job in which nobody fails, on a loaded machine");
    let _ = writeln!(page, "  machine        {}", machine());
    let _ = writeln!(page, "  job            {} ranks on {} nodes, wait {}", report.ranks, report.nodes, report.wait);
    let _ = writeln!(page, "  beside it      {} busy threads, for {:.1} s", report.load, report.seconds);
    let _ = writeln!(page, "  barriers       {}", report.barriers);
    let _ = writeln!(page, "  longest wait   {}", ns(report.longest_wait_ns as f64));
    let _ = writeln!(page, "  false alarms   {}", report.false_alarms);
    if let Some(error) = &report.error {
        let _ = writeln!(page, "  first error    {error}");
    }
    page.push('\n');
    page
}

/// One JSON object.
pub fn json_line(report: &Report) -> String {
    serde_json::to_string(report).expect("plain values") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rank: usize, event: Event) -> Said {
        Said { rank, at_ns: 0, event }
    }

    #[test]
    fn an_epoch_is_a_false_alarm_and_so_is_an_error_without_one() {
        let request = Request { lasts: Duration::from_secs(1), load: 0, ranks: 2, nodes: 2, wait: None, fabric: None };
        let calm = |barriers, epochs| Event::Calm { barriers, longest_wait_ns: barriers * 10, epochs };
        let mut tally = Tally::default();
        tally.take(said(0, calm(7, 0)));
        tally.take(said(1, calm(6, 0)));
        let good = report(&request, 1.0, tally);
        assert_eq!((good.barriers, good.longest_wait_ns, good.false_alarms, good.error), (6, 70, 0, None));
        let mut tally = Tally::default();
        let told = Told::Unreachable { ranks: vec![1] };
        tally.take(said(0, Event::Failed { group: 0, sequence: 8, told }));
        tally.take(said(0, calm(7, 0)));
        let doubtful = report(&request, 1.0, tally);
        assert_eq!(doubtful.false_alarms, 1);
        assert!(doubtful.error.is_some_and(|error| error.contains("rank 0 at barrier 8")));
        let mut tally = Tally::default();
        tally.take(said(0, calm(7, 2)));
        assert_eq!(report(&request, 1.0, tally).false_alarms, 2);
    }
}
