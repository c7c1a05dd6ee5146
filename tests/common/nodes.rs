//! Jobs of processes on pretended nodes, and marks by which a test holds their ranks together without the library.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use phalanx::{Job, Operation};

use super::children::{Children, Launch, free_port};
use super::ranks::LIMIT;

/// A job whose ranks live on these nodes, at a rendezvous that nobody else uses, and a directory for its marks.
pub struct Across {
    pub launch: Launch,
    pub nodes: Vec<usize>,
    /// Where the ranks meet.
    pub address: String,
    pub marks: PathBuf,
}

impl Across {
    pub fn new(nodes: &[usize]) -> Self {
        let marks = new_directory();
        let address = format!("127.0.0.1:{}", free_port());
        Self { launch: Launch::new(nodes.len()), nodes: nodes.to_vec(), address, marks }
    }

    /// So many ranks on each node.
    pub fn of_counts(counts: &[usize]) -> Self {
        let ranks = counts.iter().enumerate().flat_map(|(node, count)| std::iter::repeat_n(node, *count));
        Self::new(&ranks.collect::<Vec<usize>>())
    }

    /// Starts all ranks as `test`, with the same variables.
    pub fn start(&self, test: &str, variables: &[(&str, &str)]) -> Children {
        let mut children = Children::default();
        for rank in 0..self.nodes.len() {
            let mut command = self.rank(test, rank);
            command.envs(variables.iter().copied());
            children.start(command);
        }
        children
    }

    /// As [`start`](Self::start), with what each says on stderr in a file.
    pub fn start_logged(&self, test: &str) -> Children {
        let mut children = Children::default();
        for rank in 0..self.nodes.len() {
            let mut command = self.rank(test, rank);
            command.stderr(std::fs::File::create(self.log_of(rank)).expect("a file"));
            children.start(command);
        }
        children
    }

    /// Where a rank's stderr goes, if it goes into a file.
    pub fn log_of(&self, rank: usize) -> PathBuf {
        self.marks.join(format!("stderr.{rank}"))
    }

    pub fn rank(&self, test: &str, rank: usize) -> Command {
        let mut command = self.launch.rank(test, "rank", rank);
        command.env("PHALANX_BOOTSTRAP", &self.address).env("PHALANX_NODE", self.nodes[rank].to_string());
        command.env("ACROSS_MARKS", &self.marks);
        command
    }

    /// Runs all ranks to their ends; their answers.
    pub fn run(&self, test: &str, variables: &[(&str, &str)]) -> Vec<Vec<String>> {
        self.start(test, variables).answers()
    }

    /// The same, where each has no more to say than that it is done.
    pub fn run_to_done(&self, test: &str, variables: &[(&str, &str)]) {
        for (rank, answers) in self.run(test, variables).into_iter().enumerate() {
            assert_eq!(answers, ["done"], "rank {rank}");
        }
    }
}

/// A directory of this test's own: one that is there was left by a process with this one's number, which was killed.
fn new_directory() -> PathBuf {
    static JOBS: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = JOBS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("phalanx-across-{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path).expect("a directory"),
        }
    }
}

impl Drop for Across {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.marks);
    }
}

/// Ranks of one job, stopped where the test wants them, by files in the job's directory.
pub struct Marks(pub PathBuf);

impl Marks {
    pub fn of_this_rank() -> Self {
        Self(std::env::var_os("ACROSS_MARKS").expect("the test has set it").into())
    }

    /// This rank has come so far.
    pub fn set(&self, job: &Job, name: &str) {
        std::fs::write(self.0.join(format!("{name}.{}", job.rank())), "").expect("a file");
    }

    /// Waits until these ranks have come so far. Looks seldom: two CPUs are shared by all.
    pub fn wait(&self, ranks: impl IntoIterator<Item = usize>, name: &str) {
        let begun = Instant::now();
        for rank in ranks {
            while !self.0.join(format!("{name}.{rank}")).exists() {
                assert!(begun.elapsed() < LIMIT, "rank {rank} never comes to {name}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// All ranks have come so far, without any of the library's means.
    pub fn gate(&self, job: &Job, name: &str) {
        self.set(job, name);
        self.wait(0..job.size(), name);
    }
}

/// Makes groups of one until no more than `most` units are taken beyond `before` on any node: whoever was the last of
/// its node in a group gives the block back when it makes another, and the others have left.
pub fn wait_for_space(job: &Job, before: usize, most: u64) {
    let world = job.world();
    let begun = Instant::now();
    loop {
        drop(world.split_timeout(job.rank() as u64, 0, LIMIT).expect("a group of one"));
        world.barrier_timeout(LIMIT).expect("all have dropped theirs");
        let taken = world.space().0.saturating_sub(before) as u64;
        if world.barrier_reduce_timeout(Operation::Max, taken, LIMIT).expect("all come") <= most {
            return;
        }
        assert!(begun.elapsed() < LIMIT / 6, "{:?} units are taken, not {before}", world.space());
    }
}
