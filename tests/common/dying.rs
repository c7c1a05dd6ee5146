//! Jobs whose nodes are killed one after the other while their ranks work, and write down what they have done.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::children::Children;
use super::nodes::{Across, Marks};
use super::ranks::LIMIT;

/// How many lines each rank writes between two deaths, at least.
const PROGRESS: usize = 30;

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
