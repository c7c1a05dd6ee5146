//! The heat example: every job gives the serial solver's field, bit for bit, and only because of the barrier.

#![cfg(not(model))]

#[allow(dead_code, reason = "the example's `main` and options are the program's")]
#[path = "../examples/heat.rs"]
mod heat;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heat::plate::{self, Solution};
use heat::{Grid, Options};
use phalanx::{Group, Job, Operation};

/// A plate that a debug build sweeps quickly, with rows left over for every number of ranks that is tested.
const SIZE: usize = 41;
const SWEEPS: usize = 60;
/// Longer than anything here takes on a busy machine: a defect shall fail and not hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tells a process started by `ranks_as_processes_give_the_serial_field` that it is a rank.
const IS_RANK: &str = "HEAT_TEST_IS_RANK";

fn options() -> Options {
    Options { size: SIZE, sweeps: SWEEPS, tolerance: 0.0, ..Options::default() }
}

fn on_ranks<T: Send>(n: usize, body: impl Fn(Job) -> T + Sync) -> Vec<T> {
    let jobs = Job::threads(n).expect("a job of threads");
    let _watch = watch();
    std::thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || body(job))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

/// Ends this process unless what it returns is dropped in time: a thread that waits for ever in a barrier cannot be
/// ended alone.
fn watch() -> mpsc::Sender<()> {
    let (alive, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(2 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a job of threads still waits after {:?}", 2 * PATIENCE);
            std::process::abort();
        }
    });
    alive
}

fn bits(field: &[f64]) -> Vec<u64> {
    field.iter().map(|cell| cell.to_bits()).collect()
}

/// Compared by bits: `==` takes 0.0 for -0.0.
#[track_caller]
fn assert_same(found: &Solution, expected: &Solution) {
    assert_eq!((found.sweeps, found.change.to_bits()), (expected.sweeps, expected.change.to_bits()));
    assert!(bits(&found.field) == bits(&expected.field), "the fields differ");
}

/// A folder of the test's own, removed when the test ends, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("phalanx-heat-test-{test}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).expect("a folder").count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn ranks_as_threads_give_the_serial_field() {
    let serial = plate::solve_serial(SIZE, SWEEPS, 0.0);
    assert_eq!(serial.sweeps, SWEEPS);
    for n in [1, 2, 3, 5, 8] {
        for outcome in on_ranks(n, |job| heat::simulate(&job, &options()).expect("a solution")) {
            assert_same(&outcome.solution, &serial);
        }
    }
}

#[test]
fn all_ranks_settle_in_the_same_sweep_as_the_serial_solver() {
    let options = Options { tolerance: 2e-4, sweeps: 100_000, size: 21, ..options() };
    let serial = plate::solve_serial(options.size, options.sweeps, options.tolerance);
    assert!(serial.sweeps < options.sweeps && serial.change <= options.tolerance, "{} sweeps", serial.sweeps);
    // More ranks than rows, too: some sweep nothing, and still settle with the others.
    for n in [2, 3, 24] {
        for outcome in on_ranks(n, |job| heat::simulate(&job, &options).expect("a solution")) {
            assert_same(&outcome.solution, &serial);
        }
    }
}

#[test]
fn every_row_inside_has_one_owner() {
    for ranks in 1..=50 {
        let rows: Vec<usize> = (0..ranks).flat_map(|rank| heat::rows_of(rank, ranks, SIZE)).collect();
        assert_eq!(rows, (1..SIZE - 1).collect::<Vec<_>>(), "{ranks} ranks");
    }
}

/// A rank that lags as far behind as it can: it begins each sweep only when the others can get no further without it.
struct Laggard<'job> {
    group: &'job Group,
    finished: &'job AtomicUsize,
    rank: usize,
}

impl Laggard<'_> {
    fn lag(&self) {
        if self.group.rank() != self.rank {
            return;
        }
        let limit = Instant::now() + PATIENCE;
        while !self.others_are_done() && self.group.stats().missing != [self.rank] {
            assert!(Instant::now() < limit, "the others neither finish nor arrive");
            std::thread::yield_now();
        }
    }

    // Acquire, with the release of the one who finished: their rows are in place when this rank reads them.
    fn others_are_done(&self) -> bool {
        self.finished.load(Ordering::Acquire) == self.group.size() - 1
    }
}

/// Three ranks, of which the middle one lags. Returns what each found, and who the barrier's record says came last.
fn solve_with_laggard(has_barrier: bool) -> Vec<(Solution, Option<usize>)> {
    let finished = AtomicUsize::new(0);
    on_ranks(3, |job| {
        let group = job.world();
        let laggard = Laggard { group, finished: &finished, rank: 1 };
        let grid = Grid::share(group, SIZE, None).expect("a grid");
        laggard.lag();
        let meet = |change: f64| {
            let largest = match has_barrier {
                true => group.barrier_reduce_timeout(Operation::Max, change.to_bits(), PATIENCE).map(f64::from_bits),
                false => Ok(change),
            };
            laggard.lag();
            largest
        };
        let (sweeps, change) = heat::solve(&grid, group, SWEEPS, f64::NEG_INFINITY, meet).expect("no time-out");
        finished.fetch_add(1, Ordering::Release);
        let last = group.stats().last_arriver;
        group.barrier_timeout(PATIENCE).expect("all finish");
        (Solution { field: grid.field(sweeps), sweeps, change }, last)
    })
}

#[test]
fn with_the_barrier_a_rank_that_lags_changes_nothing() {
    let serial = plate::solve_serial(SIZE, SWEEPS, f64::NEG_INFINITY);
    let found = solve_with_laggard(true);
    found.iter().for_each(|(solution, _)| assert_same(solution, &serial));
    if cfg!(feature = "attribution") {
        assert_eq!(found[1].1, Some(1), "the record names the rank that lags");
    }
}

#[test]
fn without_the_barrier_a_rank_that_lags_spoils_the_field() {
    let serial = plate::solve_serial(SIZE, SWEEPS, f64::NEG_INFINITY);
    let (spoilt, _) = &solve_with_laggard(false)[0];
    let differing = bits(&spoilt.field).iter().zip(bits(&serial.field)).filter(|(a, b)| **a != *b).count();
    assert_eq!(spoilt.sweeps, serial.sweeps);
    assert!(differing > SIZE, "stale rows spread: {differing} cells differ");
}

#[test]
fn shares_of_time_in_barriers_are_plausible() {
    for n in [1, 2, 5] {
        for outcome in on_ranks(n, |job| heat::simulate(&job, &options()).expect("a solution")) {
            assert_eq!(outcome.waits.len(), n);
            assert!(outcome.waits.iter().all(|(share, _)| (0.0..=1.0).contains(share)), "{:?}", outcome.waits);
            // Not their sum: a rank held up between arriving and looking counts as last beside the one that was.
            assert!(outcome.waits.iter().all(|(_, last)| *last <= SWEEPS as u64), "{:?}", outcome.waits);
            let has_waited = outcome.waits.iter().any(|(share, _)| *share > 0.0);
            assert!(has_waited || n == 1 || cfg!(not(feature = "attribution")), "{:?}", outcome.waits);
        }
    }
}

#[test]
fn the_picture_has_a_pixel_for_each_cell() {
    let folder = Folder::new("picture");
    let path = folder.0.join("heat.png");
    plate::write_png(&path, SIZE, &plate::solve_serial(SIZE, SWEEPS, 0.0).field).expect("a picture");
    let file = std::io::BufReader::new(std::fs::File::open(&path).expect("a file"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a small picture")];
    let frame = reader.next_frame(&mut pixels).expect("an image");
    assert_eq!((frame.width as usize, frame.height as usize), (SIZE, SIZE));
    assert_eq!(frame.color_type, png::ColorType::Rgb);
    assert_eq!(pixels[..3], [0, 0, 4], "the upper edge is cold");
    let hot = pixels[3 * SIZE * (SIZE - 1)..].chunks(3).map(|pixel| pixel[0]).max();
    assert!(hot > Some(240), "the lower edge is not: {hot:?}");
}

#[test]
fn a_grid_that_cannot_be_made_fails_on_all_ranks() {
    let folder = Folder::new("no-grid");
    let options = Options { grid: Some(folder.0.join("no/such/folder")), ..options() };
    let errors = on_ranks(3, |job| heat::simulate(&job, &options).err().expect("no grid").to_string());
    assert!(errors[0].contains("no/such/folder: No such file"), "{errors:?}");
    assert!(errors[1..].iter().all(|error| error.contains("rank 0 could not make")), "{errors:?}");
}

#[test]
fn a_named_grid_is_kept() {
    let folder = Folder::new("named");
    let path = folder.0.join("grid");
    let options = Options { grid: Some(path.clone()), ..options() };
    let outcomes = on_ranks(2, |job| heat::simulate(&job, &options).expect("a solution"));
    let words = std::fs::read(path).expect("the grid");
    let buffer = &words[SWEEPS % 2 * SIZE * SIZE * 8..][..SIZE * SIZE * 8];
    let kept: Vec<u64> = buffer.chunks(8).map(|cell| u64::from_ne_bytes(cell.try_into().expect("8 bytes"))).collect();
    assert!(kept == bits(&outcomes[0].solution.field));
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
    assert_eq!(parse("--size 7 --threads 2"), Ok(Options { size: 7, threads: Some(2), ..Options::default() }));
    for line in ["--size 2", "--size", "--size x", "--sweeps 0", "--tolerance nan", "--threads 0", "--speed 9", "7"] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(line.split_whitespace().next().expect("a word")), "{error}");
    }
}

/// A rank in a process of its own, ended with the test.
struct Rank(Child);

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ranks_as_processes_give_the_serial_field() {
    if std::env::var_os(IS_RANK).is_some() {
        return be_a_rank();
    }
    let folder = Folder::new("processes");
    for n in [1, 2, 5] {
        let mut ranks: Vec<Rank> = (0..n).map(|rank| start_rank(rank, n, &folder)).collect();
        let limit = Instant::now() + PATIENCE;
        for (rank, process) in ranks.iter_mut().enumerate() {
            assert!(is_success(&mut process.0, limit), "rank {rank} of {n}: its own failure is above");
        }
        assert_eq!(folder.files(), 0, "the grid file is gone");
    }
}

fn be_a_rank() {
    let job = Job::from_env().expect("a job");
    assert_eq!(job.size().to_string(), std::env::var("PHALANX_SIZE").expect("a size"));
    let outcome = heat::simulate(&job, &options()).expect("a solution");
    assert_same(&outcome.solution, &plate::solve_serial(SIZE, SWEEPS, 0.0));
}

fn start_rank(rank: usize, size: usize, folder: &Folder) -> Rank {
    let mut command = Command::new(std::env::current_exe().expect("this test's program"));
    command.args(["--exact", "ranks_as_processes_give_the_serial_field", "--nocapture"]);
    command.stdout(Stdio::null()).env(IS_RANK, "1").env("TMPDIR", &folder.0);
    command.env("PHALANX_RANK", rank.to_string()).env("PHALANX_SIZE", size.to_string());
    command.env_remove("PHALANX_LOCAL_RANK").env_remove("PHALANX_LOCAL_SIZE");
    command.env("PHALANX_BOOTSTRAP", format!("unix:heat-test-{}-{size}", std::process::id()));
    command.env("PHALANX_KEY", "5ca1ab1e".repeat(8));
    Rank(command.spawn().expect("a process"))
}

fn is_success(process: &mut Child, limit: Instant) -> bool {
    loop {
        if let Some(status) = process.try_wait().expect("a child") {
            return status.success();
        }
        if Instant::now() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
