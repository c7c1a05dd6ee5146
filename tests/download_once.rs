//! The example of a data set that one rank of each node fetches: whole for all, and once, though who fetches it is
//! killed.
#![cfg(not(model))]

mod common;

#[allow(dead_code, reason = "the example's `main` is the program's")]
#[path = "../examples/download_once.rs"]
mod download_once;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use common::children::{Children, answer, await_line, role};
use common::nodes::{Across, Marks};
use common::ranks::on_ranks;
use download_once::{MARKER, PARTS, download, make_ready, sum};
use phalanx::{Job, JobOptions};

/// A folder that is gone when the test ends, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("phalanx-download-once-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All parts, and the marker, and nothing else.
fn assert_whole(directory: &Path) {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).expect("a folder").map(|entry| entry.expect("a file").file_name()).collect();
    names.sort();
    assert_eq!(names.len(), PARTS + 1, "{names:?}");
    assert!(names.contains(&MARKER.into()), "{names:?}");
    let other = Folder::new();
    for part in 0..PARTS {
        let mut file = std::fs::File::create(other.0.join(download_once::name_of(part))).expect("a file");
        download(part, &mut file).expect("a part");
    }
    assert_eq!(sum(directory).expect("all parts"), sum(&other.0).expect("all parts"));
}

#[test]
fn one_rank_fetches_and_the_others_find_it() {
    let folder = Folder::new();
    for round in 0..2 {
        let fetched = on_ranks(4, &JobOptions::new(), |job| {
            let fetched = make_ready(&job, &folder.0, download).expect("a data set");
            assert_whole(&folder.0);
            fetched
        });
        assert_eq!(fetched.iter().sum::<usize>(), if round == 0 { PARTS } else { 0 }, "{fetched:?}");
        assert!(fetched.iter().filter(|count| **count > 0).count() <= 1, "{fetched:?}");
    }
}

/// A rank that goes on when it is told, and stops for ever before a part that the test names.
fn be_a_rank() {
    let job = Job::from_env().expect("a job");
    let directory = Marks::of_this_rank().0.join(format!("node-{}", job.node()));
    job.world().barrier().expect("all are there");
    answer("there");
    let last: usize = await_line().parse().expect("a number");
    let fetched = make_ready(&job, &directory, |part, file| {
        if part == last {
            answer(format!("before {part}"));
            await_line();
        }
        download(part, file)
    });
    assert_whole(&directory);
    answer(format!("fetched {}", fetched.expect("a data set")));
    await_line();
}

/// `first` is killed before part 3, `second`, which waits for it, before part 5; `third` finishes.
fn kill_two(children: &mut Children, [first, second, third]: [usize; 3]) {
    children.say(first, "3");
    assert_eq!(children.next_answer(first), "before 3");
    children.say(second, "5");
    children.kill(first);
    assert_eq!(children.next_answer(second), "before 5");
    children.say(third, &PARTS.to_string());
    children.kill(second);
    assert_eq!(children.next_answer(third), format!("fetched {}", PARTS - 5));
}

#[test]
fn whoever_is_killed_half_way_is_followed_by_one_that_finishes() {
    const TEST: &str = "whoever_is_killed_half_way_is_followed_by_one_that_finishes";
    if role().is_some() {
        return be_a_rank();
    }
    let across = Across::new(&[0, 0, 0, 0]);
    let mut children = across.start(TEST, &[]);
    children.await_answers(&[0, 1, 2, 3], "there");
    kill_two(&mut children, [2, 0, 1]);
    children.say(3, "0");
    assert_eq!(children.next_answer(3), "fetched 0");
    assert_whole(&across.marks.join("node-0"));
}

#[test]
fn each_node_has_it_fetched_by_one_of_its_own_ranks() {
    const TEST: &str = "each_node_has_it_fetched_by_one_of_its_own_ranks";
    if role().is_some() {
        return be_a_rank();
    }
    let across = Across::new(&[0, 0, 0, 1, 1]);
    let mut children = across.start(TEST, &[]);
    children.await_answers(&[0, 1, 2, 3, 4], "there");
    // Node 1 fetches on its own, in the middle of what befalls node 0.
    children.say(3, "5");
    assert_eq!(children.next_answer(3), "before 5");
    kill_two(&mut children, [0, 1, 2]);
    children.say(3, "go on");
    assert_eq!(children.next_answer(3), format!("fetched {PARTS}"));
    children.say(4, "0");
    assert_eq!(children.next_answer(4), "fetched 0");
    (0..2).for_each(|node| assert_whole(&across.marks.join(format!("node-{node}"))));
}
