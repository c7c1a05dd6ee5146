//! Jobs whose nodes are killed one after the other while their ranks work, and write down what they have done.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use phalanx::Job;

use super::children::{Children, answer, await_line};
use super::nodes::{Across, Marks};
use super::ranks::{LIMIT, await_that};

/// How many lines each rank writes between two deaths, at least.
const PROGRESS: usize = 30;

/// A rank of such a job, as it answers.
pub struct Witness<'job> {
    job: &'job Job,
    /// For each node a name that is at home there.
    names: HashMap<usize, String>,
}

impl<'job> Witness<'job> {
    /// Of a job that has lost none of its nodes.
    pub fn of(job: &'job Job) -> Self {
        let names = (0..256).map(|index| format!("anything {index}"));
        Self { job, names: names.map(|name| (job.home_of(&name).expect("a name"), name)).collect() }
    }

    /// Answers to `home` where an object is, and to `made up N` when the losses are made up for that N, a node, was the
    /// last of; until something else is said.
    pub fn stand_by<T, E: Display>(&self, name: &str, open: impl Fn() -> Result<T, E>) {
        loop {
            let said = await_line();
            match said.strip_prefix("made up ") {
                Some(node) => answer(self.make_up(node.parse().expect("a node"), &open)),
                None if said == "home" => answer(self.job.home_of(name).expect("a name")),
                None => return,
            }
        }
    }

    /// Waits until the job goes on without a node, and then until the object can be opened: it has a copy of all again
    /// before anybody has a new handle of it.
    fn make_up<T, E: Display>(&self, node: usize, open: impl Fn() -> Result<T, E>) -> &'static str {
        await_that("the job goes on without it", || self.job.home_of(&self.names[&node]).expect("a name") != node);
        let begun = Instant::now();
        while let Err(error) = open() {
            assert!(begun.elapsed() < LIMIT, "{error}");
        }
        "made up"
    }
}

/// One such job.
pub struct Trial {
    pub across: Across,
    pub children: Children,
    pub living: Vec<usize>,
    /// How many nodes were killed.
    pub deaths: u32,
}

/// The file in which this rank writes a line for each thing that it has done.
pub fn lines_of(rank: usize) -> PathBuf {
    Marks::of_this_rank().0.join(format!("lines.{rank}"))
}

impl Trial {
    /// Starts ranks, so many on each node, and waits until all are at work.
    pub fn start(test: &str, counts: &[usize]) -> Self {
        let across = Across::of_counts(counts);
        let children = across.start(test, &[]);
        let living = (0..across.nodes.len()).collect();
        let trial = Self { across, children, living, deaths: 0 };
        trial.await_progress();
        trial
    }

    /// What a rank has written.
    pub fn lines(&self, rank: usize) -> Vec<String> {
        let text = std::fs::read_to_string(self.across.marks.join(format!("lines.{rank}"))).unwrap_or_default();
        // It may be killed in the middle of the last one.
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        whole.map(str::to_owned).collect()
    }

    /// Waits until all that live have done some more.
    pub fn await_progress(&self) {
        let before: Vec<usize> = self.living.iter().map(|rank| self.lines(*rank).len()).collect();
        let begun = Instant::now();
        for (rank, before) in self.living.iter().zip(before) {
            while self.lines(*rank).len() < before + PROGRESS {
                assert!(begun.elapsed() < LIMIT, "rank {rank} does nothing any more");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Kills all ranks of a node, and waits until the others have made up for that: a node that is lost before is one
    /// of two that are lost together. The first that lives answers to `made up N`, where N is the node: [`Witness`].
    pub fn lose_node(&mut self, node: usize) {
        self.kill_node(node);
        let first = self.living[0];
        self.children.say(first, &format!("made up {node}"));
        assert_eq!(self.children.next_answer(first), "made up");
        self.await_progress();
    }

    /// Kills all ranks of a node.
    pub fn kill_node(&mut self, node: usize) {
        let of_it = |rank: &usize| self.across.nodes[*rank] == node;
        let ranks: Vec<usize> = self.living.iter().copied().filter(of_it).collect();
        assert!(!ranks.is_empty(), "node {node} is dead already");
        ranks.iter().for_each(|rank| self.children.kill(*rank));
        self.living.retain(|rank| !ranks.contains(rank));
        self.deaths += 1;
    }

    /// Where the object is at home now, as a rank answers to `home`.
    pub fn home(&mut self) -> usize {
        let first = self.living[0];
        self.children.say(first, "home");
        self.children.next_answer(first).parse().expect("a node")
    }
}
