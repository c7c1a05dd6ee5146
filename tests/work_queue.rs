//! The example of a directory of files that ranks process: each file has one result, though ranks are killed in the
//! middle.
#![cfg(not(model))]

mod common;

#[allow(dead_code, reason = "the example's `main` is the program's")]
#[path = "../examples/work_queue.rs"]
mod work_queue;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::children::{answer, await_line, role};
use common::nodes::{Across, Marks};
use common::ranks::on_ranks;
use phalanx::{Job, JobOptions};
use work_queue::{names_in, work};

const FILES: usize = 40;

/// Files that say their own numbers.
fn make_files(inbox: &Path) {
    fs::create_dir(inbox).expect("a new folder");
    for number in 0..FILES {
        fs::write(inbox.join(format!("file {number}")), number.to_string()).expect("a file");
    }
}

/// Each file has its result, and nothing else is there.
fn assert_done(outbox: &Path) {
    let names = names_in(outbox).expect("a folder");
    assert_eq!(names.len(), FILES, "{names:?}");
    for number in 0..FILES {
        let result = fs::read_to_string(outbox.join(format!("file {number}"))).expect("a result");
        assert_eq!(result, format!("{number} squared is {}", number * number));
    }
}

fn square(path: &Path) -> String {
    let number: usize = fs::read_to_string(path).expect("a file").parse().expect("its number");
    format!("{number} squared is {}", number * number)
}

#[test]
fn each_file_is_processed_once() {
    // For its folder.
    let across = Across::new(&[0]);
    let (inbox, outbox) = (across.marks.join("in"), across.marks.join("out"));
    make_files(&inbox);
    let begun: Mutex<HashMap<PathBuf, usize>> = Mutex::default();
    let done = on_ranks(4, &JobOptions::new(), |job| {
        let square = |path: &Path| {
            *begun.lock().expect("nobody panics with it").entry(path.to_owned()).or_default() += 1;
            Ok(square(path))
        };
        work(&job, &inbox, &outbox, square).expect("nobody fails")
    });
    assert_eq!(done.iter().sum::<usize>(), FILES, "{done:?}");
    assert_done(&outbox);
    let begun = begun.into_inner().expect("nobody panics with it");
    assert!(begun.len() == FILES && begun.values().all(|times| *times == 1), "{begun:?}");
    assert_eq!(fs::read_dir(&outbox).expect("a folder").count(), FILES, "nothing unfinished is left");
}

/// Ranks 0 to 2 are killed in the middle of a file each, their third; rank 3, which has stopped in the middle of its
/// first one until then, does the rest.
fn others_do_what_the_dead_have_left(test: &str, nodes: &[usize]) {
    const VICTIMS: usize = 3;
    if role().is_some() {
        let job = Job::from_env().expect("a job");
        let folder = Marks::of_this_rank().0;
        job.world().barrier().expect("all are there");
        let mut begun = 0;
        let done = work(&job, &folder.join("in"), &folder.join("out"), |path| {
            begun += 1;
            if job.rank() < VICTIMS && begun == 3 {
                answer(path.file_name().expect("a name").display());
                await_line();
            }
            if job.rank() == VICTIMS && begun == 1 {
                await_line();
            }
            Ok(square(path))
        });
        answer(format!("{} files", done.expect("nobody else fails")));
        await_line();
        return;
    }
    let across = Across::new(nodes);
    make_files(&across.marks.join("in"));
    let mut children = across.start(test, &[]);
    let outbox = across.marks.join("out");
    for victim in 0..VICTIMS {
        let name = children.next_answer(victim);
        assert!(!outbox.join(&name).exists(), "{name} is not done");
    }
    children.say(VICTIMS, "go on");
    (0..VICTIMS).for_each(|victim| children.kill(victim));
    let done = children.next_answer(VICTIMS);
    assert_eq!(done, format!("{} files", FILES - 2 * VICTIMS), "two each were done before");
    assert_done(&outbox);
}

#[test]
fn what_the_dead_have_left_is_done_by_others() {
    const TEST: &str = "what_the_dead_have_left_is_done_by_others";
    others_do_what_the_dead_have_left(TEST, &[0, 0, 0, 0]);
}

#[test]
fn what_the_dead_of_other_nodes_have_left_is_done_by_others() {
    const TEST: &str = "what_the_dead_of_other_nodes_have_left_is_done_by_others";
    others_do_what_the_dead_have_left(TEST, &[0, 1, 1, 0]);
}
