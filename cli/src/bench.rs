//! `phalanx bench`: the command line of the benchmarks. The work is `phalanx_bench`'s.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use phalanx::fabric::FabricKind;
use phalanx::{Algorithm, FabricChoice, WaitPolicy};
use phalanx_bench::compare::{self, Progress, Request};
use phalanx_bench::contest::{self, OBJECTS_MAX, Object, SECONDS_MAX};
use phalanx_bench::rivals::{Bench, Rival};
use phalanx_bench::workload::ArrivalPattern;
use phalanx_bench::{fabric, failure, page};

use crate::numbers::{MINUTES_MAX, MINUTES_MIN, NODES_MAX, RANKS_MAX, TIMES_MAX, check_nodes, fraction, whole};
use crate::progress::{Bar, Lines};

/// More rounds than one waits for.
const ROUNDS_MAX: usize = 1_000_000;
/// An hour.
const NS_MAX: u64 = 3_600_000_000_000;
/// The shortest turn in which anything happens.
const SECONDS_MIN: f64 = 0.001;
/// So many operations' times fit into memory.
const OPERATIONS_MAX: usize = 10_000_000;
/// Each fault takes a good part of a second.
const FAULTS_MAX: usize = 1_000_000;
/// More threads than a machine is busy with.
const LOAD_MAX: usize = 1024;

const EXAMPLES: &str = "\
Examples:
  phalanx bench barrier                          as many ranks as usable CPUs, a few seconds
  phalanx bench barrier --ranks 8 --vs all       beside every rival that is installed, in the same rounds
  phalanx bench barrier --arrival rotate-late    one rank is late, another one each time
  phalanx bench barrier --json --vs openmpi      one JSON object for each system
  phalanx bench barrier --nodes 2 --ranks 2      across two pretended nodes, by TCP
";

const LOCK_EXAMPLES: &str = "\
Examples:
  phalanx bench lock                             every rank contends for one lock
  phalanx bench lock --busy 1                    one rank has it to itself: what a pair of acquire and release costs
  phalanx bench lock --ranks 16 --vs pthread     more ranks than CPUs, beside a robust mutex in the same rounds
  phalanx bench lock --nodes 2 --busy 1 --vs openmpi,redis,etcd    from another node, by TCP
  phalanx bench lock --objects 1000 --hold-ns 2000 --json          many locks; one JSON object for each system
  phalanx bench lock --vs pthread --histogram    how many acquisitions and handovers took how long
";

const RWLOCK_EXAMPLES: &str = "\
Examples:
  phalanx bench rwlock --readers 0.99            one in a hundred writes
  phalanx bench rwlock --ranks 8 --vs all --json
";

const SEMAPHORE_EXAMPLES: &str = "\
Examples:
  phalanx bench semaphore --ranks 8 --permits 2  eight ranks, of which two go on
  phalanx bench semaphore --vs posix,zookeeper
";

const COUNTER_EXAMPLES: &str = "\
Examples:
  phalanx bench counter --busy 1 --vs atomic     what adding costs, beside the processor's own addition
  phalanx bench counter --nodes 2 --vs openmpi,redis
";

const ELECTION_EXAMPLES: &str = "\
Examples:
  phalanx bench election --ranks 4               all want to be leader, and resign at once
  phalanx bench election --nodes 3 --vs etcd,zookeeper
";

const FABRIC_EXAMPLES: &str = "\
Examples:
  phalanx bench fabric                           write, read, fetch_add and compare_swap by TCP, some seconds
  phalanx bench fabric --fabric shm --json       one JSON object for each operation and number outstanding
";

const FAILURE_EXAMPLES: &str = "\
Examples:
  phalanx bench failure                          200 faults of each kind, some minutes
  phalanx bench failure --kinds kill-local,kill-remote --wait park
  phalanx bench failure --kinds holder-local,holder-remote         a lock's holder is killed: when has the next one it?
  phalanx bench failure --faults 20 --json       one JSON object for each kind
";

const CALM_EXAMPLES: &str = "\
Examples:
  phalanx bench calm --minutes 60 --load 8       an hour of a loaded machine: no false alarm?
  phalanx bench calm --minutes 0.1 --json        one JSON object
";

/// Measure, beside rivals if asked for
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Barrier(BarrierOptions),
    Lock(LockOptions),
    #[command(name = "rwlock")]
    RwLock(RwLockOptions),
    Semaphore(SemaphoreOptions),
    Counter(CounterOptions),
    Election(ElectionOptions),
    Fabric(FabricOptions),
    Failure(FailureOptions),
    Calm(CalmOptions),
}

/// Measure barriers between ranks on this machine
#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct BarrierOptions {
    /// Ranks that meet [default: as many as usable CPUs, and one a node at least]
    #[arg(long, value_name = "N", value_parser = whole(1..=RANKS_MAX))]
    ranks: Option<usize>,
    /// Pretended nodes that the ranks are spread over, in blocks: ranks of different nodes do not share memory
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = whole(1..=NODES_MAX))]
    nodes: usize,
    /// auto, flat, tree or central
    #[arg(long, default_value = "auto", value_parser = parse_algorithm)]
    algorithm: AlgorithmOption,
    #[command(flatten)]
    means: Means,
    /// Iterations of each rank, over all rounds [default: as many as fit into a few seconds]
    #[arg(long, value_name = "N", value_parser = whole(1..=TIMES_MAX))]
    iterations: Option<usize>,
    /// Iterations before each round's record begins
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole(0..=TIMES_MAX))]
    warmup: usize,
    /// When ranks arrive: back-to-back, rotate-late, random-late or open-loop
    #[arg(long, value_name = "PATTERN", default_value = "back-to-back", value_parser = parse_arrival)]
    arrival: ArrivalPattern,
    /// How late the late patterns are, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 20_000, value_parser = whole(1..=NS_MAX))]
    late_ns: u64,
    /// Period of the open loop, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 10_000, value_parser = whole(1..=NS_MAX))]
    period_ns: u64,
    /// Ranks as threads of one process
    #[arg(long)]
    threads: bool,
    /// One JSON object for each system instead of the page
    #[arg(long)]
    json: bool,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = parse_rivals)]
    vs: Option<RivalList>,
    /// Rounds in which every system has its turn
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = whole(1..=ROUNDS_MAX))]
    rounds: usize,
    /// Seed of the random delays
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(0..=u64::MAX))]
    seed: u64,
}

/// Measure exclusive locks: how soon acquired, handed over, how many a second, how fairly
#[derive(Args)]
#[command(after_help = LOCK_EXAMPLES)]
struct LockOptions {
    #[command(flatten)]
    contest: ContestOptions,
    /// How long each possession lasts, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 0, value_parser = whole(0..=NS_MAX))]
    hold_ns: u64,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = |text: &str| parse_rivals_of(Object::Lock, text))]
    vs: Option<RivalList>,
}

/// Measure locks with readers
#[derive(Args)]
#[command(after_help = RWLOCK_EXAMPLES)]
struct RwLockOptions {
    #[command(flatten)]
    contest: ContestOptions,
    /// How long each possession lasts, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 0, value_parser = whole(0..=NS_MAX))]
    hold_ns: u64,
    /// The share of readers, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = fraction(0.0..=1.0))]
    readers: f64,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = |text: &str| parse_rivals_of(Object::RwLock, text))]
    vs: Option<RivalList>,
}

/// Measure counting semaphores
#[derive(Args)]
#[command(after_help = SEMAPHORE_EXAMPLES)]
struct SemaphoreOptions {
    #[command(flatten)]
    contest: ContestOptions,
    /// How long each possession lasts, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 0, value_parser = whole(0..=NS_MAX))]
    hold_ns: u64,
    /// How many may hold it at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=u32::MAX))]
    permits: u32,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = |text: &str| parse_rivals_of(Object::Semaphore, text))]
    vs: Option<RivalList>,
}

/// Measure counters, to which ranks add
#[derive(Args)]
#[command(after_help = COUNTER_EXAMPLES)]
struct CounterOptions {
    #[command(flatten)]
    contest: ContestOptions,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = |text: &str| parse_rivals_of(Object::Counter, text))]
    vs: Option<RivalList>,
}

/// Measure elections: to become leader, and to resign
#[derive(Args)]
#[command(after_help = ELECTION_EXAMPLES)]
struct ElectionOptions {
    #[command(flatten)]
    contest: ContestOptions,
    /// How long each leads, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 0, value_parser = whole(0..=NS_MAX))]
    hold_ns: u64,
    /// Rivals to measure in the same rounds: names separated by commas, or "all"
    #[arg(long, value_name = "LIST", value_parser = |text: &str| parse_rivals_of(Object::Election, text))]
    vs: Option<RivalList>,
}

// What ranks that contend for objects have in common. (No doc comment: clap would show it as the command's.)
#[derive(Args)]
struct ContestOptions {
    /// Ranks of the job [default: as many as usable CPUs, and one a node at least]
    #[arg(long, value_name = "N", value_parser = whole(1..=RANKS_MAX))]
    ranks: Option<usize>,
    /// Pretended nodes that the ranks are spread over, in blocks: ranks of different nodes do not share memory.
    /// Acquisitions by an object's own node and by others are in one distribution (`--busy 1`: by another one only)
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = whole(1..=NODES_MAX))]
    nodes: usize,
    /// How many ranks contend, from the first; the others are idle [default: all]
    #[arg(long, value_name = "N", value_parser = whole(1..=RANKS_MAX))]
    busy: Option<usize>,
    /// Objects that each rank draws from, at random: number k lives on the k-th node from the last
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = whole(1..=OBJECTS_MAX))]
    objects: usize,
    /// How long a rank waits after it has given back, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = 0, value_parser = whole(0..=NS_MAX))]
    think_ns: u64,
    /// The length of a turn
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = fraction(SECONDS_MIN..=SECONDS_MAX))]
    seconds: f64,
    /// The most possessions of each rank in a turn [default: as many as the time allows]
    #[arg(long, value_name = "N", value_parser = whole(1..=TIMES_MAX))]
    iterations: Option<usize>,
    /// Possessions of each rank before each turn's record begins
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole(0..=TIMES_MAX))]
    warmup: usize,
    #[command(flatten)]
    means: Means,
    /// One JSON object for each system instead of the page, with histograms (README names the fields)
    #[arg(long)]
    json: bool,
    /// Histograms of how long acquiring and handovers took on the page, too
    #[arg(long, conflicts_with = "json")]
    histogram: bool,
    /// Rounds in which every system has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole(1..=ROUNDS_MAX))]
    rounds: usize,
    /// Seed of what is drawn at random
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(0..=u64::MAX))]
    seed: u64,
}

/// Measure single operations on another node's words: latency, and rate with 1 to 64 outstanding
#[derive(Args)]
#[command(after_help = FABRIC_EXAMPLES)]
struct FabricOptions {
    /// What joins the two nodes: tcp, shm or rdma
    #[arg(long, default_value = "tcp", value_parser = parse_measured_fabric)]
    fabric: FabricKind,
    /// One JSON object for each result instead of the page
    #[arg(long)]
    json: bool,
    /// perftest: the programs of that name on this machine's RDMA device
    #[arg(long, value_name = "RIVAL", value_parser = ["perftest"])]
    vs: Option<String>,
    /// The most operations of each record
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = whole(1..=OPERATIONS_MAX))]
    operations: usize,
    /// Rounds in which everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole(1..=ROUNDS_MAX))]
    rounds: usize,
}

/// Measure how long after a fault every survivor has its error, or the next one the lock of the dead
#[derive(Args)]
#[command(after_help = FAILURE_EXAMPLES)]
struct FailureOptions {
    /// Faults of each kind
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole(1..=FAULTS_MAX))]
    faults: usize,
    /// Kinds, separated by commas: kill-local, kill-remote, kill-agent, kill-node, stop-node, partition, holder-local,
    /// holder-remote, holder-home, holder-third, holder-agent, holder-node, holder-with-home [default: all]
    #[arg(long, value_name = "LIST", value_parser = parse_kinds)]
    kinds: Option<KindList>,
    #[command(flatten)]
    means: Means,
    /// One JSON object for each kind instead of the page
    #[arg(long)]
    json: bool,
}

/// Pass barriers on a loaded machine, and count false alarms: nobody fails
#[derive(Args)]
#[command(after_help = CALM_EXAMPLES)]
struct CalmOptions {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = fraction(MINUTES_MIN..=MINUTES_MAX))]
    minutes: f64,
    /// Busy threads beside the job
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = whole(0..=LOAD_MAX))]
    load: usize,
    /// Ranks of the job
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = whole(1..=RANKS_MAX))]
    ranks: usize,
    /// Pretended nodes that the ranks are spread over, in blocks
    #[arg(long, value_name = "M", default_value_t = 3, value_parser = whole(1..=NODES_MAX))]
    nodes: usize,
    #[command(flatten)]
    means: Means,
    /// One JSON object instead of the page
    #[arg(long)]
    json: bool,
}

// How the ranks of a measured job wait, and meet. (No doc comment: clap would show it as the command's.)
#[derive(Args)]
struct Means {
    /// spin, adaptive or park [default: adaptive]
    #[arg(long, value_parser = parse_wait)]
    wait: Option<WaitPolicy>,
    /// What joins the nodes: auto, tcp or rdma [default: PHALANX_FABRIC, or auto]
    #[arg(long, value_parser = parse_fabric)]
    fabric: Option<FabricChoice>,
}

impl Means {
    fn wait(&self) -> Option<String> {
        self.wait.map(|policy| policy.name().to_owned())
    }

    fn fabric(&self) -> Option<String> {
        self.fabric.map(|fabric| fabric.name().to_owned())
    }
}

#[derive(Clone)]
struct KindList(Vec<failure::Kind>);

#[derive(Clone)]
struct RivalList(Vec<Rival>);

/// An algorithm, or the library's own choice.
#[derive(Clone, Copy)]
struct AlgorithmOption(Option<Algorithm>);

fn parse_algorithm(text: &str) -> Result<AlgorithmOption, String> {
    match text {
        "auto" => Ok(AlgorithmOption(None)),
        _ => text
            .parse()
            .map(|algorithm| AlgorithmOption(Some(algorithm)))
            .map_err(|why: String| format!("{why}, or auto")),
    }
}

fn parse_wait(text: &str) -> Result<WaitPolicy, String> {
    text.parse()
}

fn parse_fabric(text: &str) -> Result<FabricChoice, String> {
    text.parse()
}

fn parse_measured_fabric(text: &str) -> Result<FabricKind, String> {
    let kinds = [FabricKind::Tcp, FabricKind::Shm, FabricKind::Rdma];
    let kind = kinds.into_iter().find(|kind| kind.name() == text);
    kind.ok_or_else(|| format!("unknown fabric {text:?}; choose tcp, shm or rdma"))
}

fn parse_kinds(text: &str) -> Result<KindList, String> {
    failure::Kind::parse_list(text).map(KindList)
}

fn parse_arrival(text: &str) -> Result<ArrivalPattern, String> {
    text.parse()
}

fn parse_rivals(text: &str) -> Result<RivalList, String> {
    Bench::Barrier.parse_rivals(text).map(RivalList)
}

fn parse_rivals_of(object: Object, text: &str) -> Result<RivalList, String> {
    Bench::Contest(object).parse_rivals(text).map(RivalList)
}

/// Runs the benchmark that the options name.
pub fn main(options: Options) -> ExitCode {
    match options.what {
        What::Barrier(options) => barrier(options),
        What::Lock(options) => {
            let request =
                contest::compare::Request { hold_ns: options.hold_ns, ..options.contest.request(Object::Lock) };
            contend(&options.contest, request, options.vs)
        }
        What::RwLock(options) => {
            let (hold_ns, readers) = (options.hold_ns, options.readers);
            let request = contest::compare::Request { hold_ns, readers, ..options.contest.request(Object::RwLock) };
            contend(&options.contest, request, options.vs)
        }
        What::Semaphore(options) => {
            let (hold_ns, permits) = (options.hold_ns, options.permits);
            let request = contest::compare::Request { hold_ns, permits, ..options.contest.request(Object::Semaphore) };
            contend(&options.contest, request, options.vs)
        }
        What::Counter(options) => contend(&options.contest, options.contest.request(Object::Counter), options.vs),
        What::Election(options) => {
            let hold_ns = options.hold_ns;
            let request = contest::compare::Request { hold_ns, ..options.contest.request(Object::Election) };
            contend(&options.contest, request, options.vs)
        }
        What::Fabric(options) => fabric(options),
        What::Failure(options) => failure(options),
        What::Calm(options) => calm(options),
    }
}

fn barrier(options: BarrierOptions) -> ExitCode {
    if let Err(why) = check_nodes(options.ranks, options.nodes) {
        return refuse(&why);
    }
    let request = Request {
        ranks: options.ranks,
        nodes: options.nodes,
        fabric: options.means.fabric(),
        algorithm: options.algorithm.0.map(|algorithm| algorithm.name().to_owned()),
        wait: options.means.wait(),
        iterations: options.iterations,
        warmup: options.warmup,
        arrival: options.arrival,
        late_ns: options.late_ns,
        period_ns: options.period_ns,
        threads: options.threads,
        rivals: options.vs.map_or_else(Vec::new, |list| list.0),
        rounds: options.rounds,
        seed: options.seed,
    };
    show(watched(|bar| compare::run(&request, bar)), |comparison| {
        if !options.json {
            return print(&page::render(&comparison));
        }
        comparison.skipped.iter().for_each(skipped);
        print(&page::json_lines(&comparison.reports))
    })
}

impl ContestOptions {
    /// What is asked for, but for what one object alone has, and the rivals.
    fn request(&self, object: Object) -> contest::compare::Request {
        contest::compare::Request {
            object,
            ranks: self.ranks,
            nodes: self.nodes,
            busy: self.busy,
            objects: self.objects,
            hold_ns: 0,
            think_ns: self.think_ns,
            readers: 0.0,
            permits: 1,
            seconds: self.seconds,
            iterations: self.iterations,
            warmup: self.warmup,
            wait: self.means.wait(),
            fabric: self.means.fabric(),
            rivals: Vec::new(),
            rounds: self.rounds,
            seed: self.seed,
        }
    }
}

fn contend(options: &ContestOptions, request: contest::compare::Request, vs: Option<RivalList>) -> ExitCode {
    if let Err(why) = check_nodes(options.ranks, options.nodes) {
        return refuse(&why);
    }
    let request = contest::compare::Request { rivals: vs.map_or_else(Vec::new, |list| list.0), ..request };
    show(watched(|bar| contest::compare::run(&request, bar)), |comparison| {
        if !options.json {
            return print(&contest::render(&comparison, options.histogram));
        }
        comparison.skipped.iter().for_each(skipped);
        print(&contest::json_lines(&comparison.reports))
    })
}

fn fabric(options: FabricOptions) -> ExitCode {
    let request = fabric::Request {
        fabric: options.fabric,
        operations: options.operations,
        rounds: options.rounds,
        with_perftest: options.vs.is_some(),
    };
    show(watched(|bar| fabric::run(&request, bar)), |measured| {
        if !options.json {
            return print(&fabric::render(&measured));
        }
        measured.skipped.iter().for_each(skipped);
        print(&fabric::json_lines(&measured.reports))
    })
}

fn failure(options: FailureOptions) -> ExitCode {
    let request = failure::Request {
        faults: options.faults,
        kinds: options.kinds.map_or_else(|| failure::Kind::ALL.to_vec(), |list| list.0),
        wait: options.means.wait(),
        fabric: options.means.fabric(),
    };
    show(watched(|bar| failure::run(&request, bar)), |reports| {
        print(&if options.json { failure::json_lines(&reports) } else { failure::render(&reports) })
    })
}

fn calm(options: CalmOptions) -> ExitCode {
    if let Err(why) = check_nodes(Some(options.ranks), options.nodes) {
        return refuse(&why);
    }
    let request = failure::calm::Request {
        lasts: Duration::from_secs_f64(options.minutes * 60.0),
        load: options.load,
        ranks: options.ranks,
        nodes: options.nodes,
        wait: options.means.wait(),
        fabric: options.means.fabric(),
    };
    show(watched(|bar| failure::calm::run(&request, bar)), |report| {
        let text = if options.json { failure::calm::json_line(&report) } else { failure::calm::render(&report) };
        let printed = print(&text);
        if report.false_alarms > 0 { ExitCode::FAILURE } else { printed }
    })
}

/// Says why what was asked for cannot be.
fn refuse(why: &str) -> ExitCode {
    eprintln!("phalanx bench: {why}");
    ExitCode::from(2)
}

/// Measures, under a bar where somebody watches, and with lines where nobody does.
fn watched<T>(measure: impl FnOnce(&mut dyn Progress) -> T) -> T {
    let mut progress: Box<dyn Progress> =
        if stderr().is_terminal() { Box::new(Bar::new()) } else { Box::new(Lines::new(stderr())) };
    measure(&mut *progress)
}

/// Shows what was measured, or says why it was not.
fn show<T>(measured: Result<T, impl std::fmt::Display>, show: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match measured {
        Ok(measured) => show(measured),
        Err(error) => {
            eprintln!("phalanx bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says what was left out, where the page is no place for it.
fn skipped(what: impl std::fmt::Display) {
    eprintln!("phalanx bench: skipped: {what}");
}

/// Is a rank of a benchmark.
pub fn rank(task: &str) -> ExitCode {
    exit(phalanx_bench::rank::run_process(task))
}

/// Is a rank of a contest.
pub fn contestant(task: &str) -> ExitCode {
    exit(contest::rank::run_process(task))
}

/// Is an end of a benchmark of operations.
pub fn fabric_end(task: &str) -> ExitCode {
    exit(fabric::run_process(task))
}

/// Is a rank of a job that is hurt.
pub fn doomed_rank(task: &str) -> ExitCode {
    exit(phalanx_bench::doomed::rank::run_process(task))
}

fn exit(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints; a reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("phalanx bench: cannot write the result: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
