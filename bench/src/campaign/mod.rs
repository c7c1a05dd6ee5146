//! `phalanx campaign`: real processes, random faults, and what must hold after each of them.
//!
//! Round after round a job is started ([`crate::doomed`]), its ranks meet as fast as they can, something is done to it
//! ([`plan`]), and what its ranks say and record is judged ([`verdict`]): every wait ends, nobody passes a barrier
//! alone, survivors agree and go on, nothing is left behind. Between barriers they use named objects, which nobody may
//! have together with another one, or lose anything of (`custody.rs`). All that is chance in a round is drawn from its
//! seed, but for what the machine's scheduler does: a round that fails is tried again by one command, and may need
//! several tries.
//!
//! What the machine does not allow is counted as not run, with the reason.

mod custody;
mod launched;
pub mod plan;
mod round;
mod strangers;
pub mod verdict;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use phalanx::fabric::rdma;
use phalanx::fabric::sim::Seeded;
use phalanx::machine::CpuSet;

use self::plan::{Fault, NAMESPACES, Plan, Wires};
use self::round::Outcome;
use crate::compare::Directory;
use crate::doomed::DoomedError;
use crate::doomed::namespaces::Namespaces;
use crate::page::ns;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of the first round; each next one has the next.
    pub seed: u64,
    /// How long rounds are begun.
    pub span: Duration,
    /// How many rounds at most.
    pub rounds: Option<usize>,
    /// Only these wires.
    pub wires: Option<Wires>,
    /// Only this fault.
    pub fault: Option<Fault>,
}

/// Why there was no campaign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// Nothing of what was asked for can be run here.
    #[error("nothing can be run: {0}")]
    Nothing(String),
    /// A directory for records cannot be made.
    #[error("cannot make a directory for records: {0}")]
    Directory(#[from] std::io::Error),
    /// A job could not be started, or hurt.
    #[error("{replay}: {source}")]
    Doomed {
        /// The command that repeats it.
        replay: String,
        /// Why.
        #[source]
        source: DoomedError,
    },
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// For each kind of wires and fault.
    kinds: BTreeMap<(Wires, Fault), OfKind>,
    /// What was not run, and why.
    not_run: Vec<(Wires, Fault, String)>,
    /// What must not be, and was.
    pub violations: usize,
    rounds: usize,
    /// Calls of named objects of each kind.
    calls: BTreeMap<&'static str, usize>,
    outcomes: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
struct OfKind {
    faults: usize,
    detected: Histogram<u64>,
}

/// The command that repeats a round.
fn replay(plan: &Plan) -> String {
    let (seed, wires, fault) = (plan.seed, plan.wires.name(), plan.fault.name());
    format!("scripts/campaign.sh --rounds 1 --seed {seed} --fabric {wires} --fault {fault}")
}

/// Runs rounds until the time is up. Tells of what was wrong in a round at once by `tell`.
///
/// # Errors
///
/// [`CampaignError`]; nothing is left behind.
pub fn run(request: &Request, tell: &mut dyn FnMut(&str)) -> Result<Tally, CampaignError> {
    let needs_namespaces = wanted(request).iter().any(|(_, fault)| fault.needs_namespaces());
    let namespaces = needs_namespaces.then(|| Namespaces::new(NAMESPACES)).transpose();
    let can_reset = strangers::can_reset();
    let Menu { kinds, not_run } = menu(request, namespaces.as_ref().err(), can_reset.err().as_ref());
    if kinds.is_empty() {
        let why = not_run.iter().map(|(wires, fault, why)| format!("{} over {}: {why}", fault.name(), wires.name()));
        return Err(CampaignError::Nothing(why.collect::<Vec<_>>().join("; ")));
    }
    let mut tally = Tally { not_run, ..Tally::default() };
    let (directory, cpus) = (Directory::new()?, CpuSet::of_this_thread().count());
    let (mut deck, mut random) = (Vec::new(), Seeded::new(request.seed));
    let end = Instant::now() + request.span;
    while Instant::now() < end && request.rounds.is_none_or(|most| tally.rounds < most) {
        if deck.is_empty() {
            deck.clone_from(&kinds);
        }
        // Each kind once before any comes again, in an order that is another each time.
        let (wires, fault) = deck.swap_remove(random.below(deck.len()));
        let plan = Plan::draw(request.seed.wrapping_add(tally.rounds as u64), wires, fault, cpus);
        let place = directory.path.join("round");
        std::fs::create_dir(&place)?;
        let outcome = match fault.is_of_launcher() {
            true => launched::run(&plan, &place),
            false => {
                let namespaces = namespaces.as_ref().ok().and_then(Option::as_ref);
                round::run(&plan, namespaces.filter(|_| fault.needs_namespaces()), &place)
            }
        };
        std::fs::remove_dir_all(&place)?;
        let outcome = outcome.or_else(of_job);
        tally.take(&plan, outcome.map_err(|source| CampaignError::Doomed { replay: replay(&plan), source })?, tell);
    }
    Ok(tally)
}

/// A job that does not begin, or does not end, is none that the machine has not let us start: it is what is looked for.
fn of_job(error: DoomedError) -> Result<Outcome, DoomedError> {
    match error {
        DoomedError::System { .. } => Err(error),
        error => Ok(Outcome { violations: vec![error.to_string()], ..Outcome::default() }),
    }
}

/// What was asked for, as far as it means anything.
fn wanted(request: &Request) -> Vec<(Wires, Fault)> {
    let wires = Wires::ALL.into_iter().filter(|wires| request.wires.is_none_or(|only| only == *wires));
    let all = wires.flat_map(|wires| Fault::ALL.map(|fault| (wires, fault)));
    all.filter(|(wires, fault)| fault.suits(*wires) && request.fault.is_none_or(|only| only == *fault)).collect()
}

/// What was asked for.
struct Menu {
    /// What can be run here.
    kinds: Vec<(Wires, Fault)>,
    /// What cannot, and why.
    not_run: Vec<(Wires, Fault, String)>,
}

fn menu(request: &Request, no_namespaces: Option<&String>, no_reset: Option<&String>) -> Menu {
    let no_device = match rdma::devices() {
        Ok(devices) if !devices.is_empty() => None,
        Ok(_) => Some("no RDMA device (remedy: scripts/soft-roce.sh run -- scripts/campaign.sh …)".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let (mut kinds, mut not_run) = (Vec::new(), Vec::new());
    for (wires, fault) in wanted(request) {
        let why_not = match (wires, fault) {
            (Wires::Rdma, _) if no_device.is_some() => no_device.clone(),
            (_, Fault::Reset) => no_reset.cloned(),
            _ if fault.needs_namespaces() => no_namespaces.cloned(),
            _ => None,
        };
        match why_not {
            Some(why) => not_run.push((wires, fault, why)),
            None => kinds.push((wires, fault)),
        }
    }
    Menu { kinds, not_run }
}

impl Tally {
    fn take(&mut self, plan: &Plan, outcome: Outcome, tell: &mut dyn FnMut(&str)) {
        self.rounds += 1;
        outcome.calls.iter().for_each(|(kind, calls)| *self.calls.entry(kind).or_default() += calls);
        let empty = || Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds");
        let kind =
            self.kinds.entry((plan.wires, plan.fault)).or_insert_with(|| OfKind { faults: 0, detected: empty() });
        kind.faults += outcome.faults;
        outcome.detected_ns.iter().for_each(|ns| kind.detected.saturating_record((*ns).max(1)));
        outcome.outcomes.iter().for_each(|word| *self.outcomes.entry(word).or_default() += 1);
        if !outcome.violations.is_empty() {
            let violations: String = outcome.violations.iter().map(|what| format!("violation: {what}\n")).collect();
            tell(&format!("{violations}  {plan}\n{}  again: {}", outcome.history, replay(plan)));
            self.violations += outcome.violations.len();
        }
    }

    /// The whole page.
    pub fn render(&self) -> String {
        let mut page = String::new();
        let faults: usize = self.kinds.values().map(|kind| kind.faults).sum();
        let _ = writeln!(page, "\n{faults} faults in {} rounds, {} violations", self.rounds, self.violations);
        let _ = writeln!(page, "{} calls of named objects", self.calls.values().sum::<usize>());
        let of_kinds: Vec<String> = self.calls.iter().map(|(kind, calls)| format!("{calls} of {kind}")).collect();
        let _ = writeln!(page, "  {}\n", of_kinds.join(", "));
        let _ = write!(page, "  {:<26}{:>8}{:>10}", "fault", "faults", "detected");
        for column in ["p50", "p90", "p99", "max"] {
            let _ = write!(page, "{column:>10}");
        }
        page.push('\n');
        for ((wires, fault), kind) in &self.kinds {
            let name = format!("{} over {}", fault.name(), wires.name());
            let _ = write!(page, "  {name:<26}{:>8}{:>10}", kind.faults, kind.detected.len());
            for quantile in [0.5, 0.9, 0.99, 1.0] {
                let value = || ns(kind.detected.value_at_quantile(quantile) as f64);
                let _ = write!(page, "{:>10}", if kind.detected.is_empty() { "-".to_owned() } else { value() });
            }
            page.push('\n');
        }
        page.push_str("\n  ranks that\n");
        for (word, count) in &self.outcomes {
            let _ = writeln!(page, "  {count:>8}  {word}");
        }
        let mut not_run: BTreeMap<(Wires, &str), Vec<&str>> = BTreeMap::new();
        for (wires, fault, why) in &self.not_run {
            not_run.entry((*wires, why)).or_default().push(fault.name());
        }
        for ((wires, why), faults) in not_run {
            let _ = writeln!(page, "  not run over {}: {}: {why}", wires.name(), faults.join(", "));
        }
        page
    }
}
