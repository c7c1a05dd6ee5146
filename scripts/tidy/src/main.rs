//! `cargo run -q -p phalanx-tidy`: the rules of this repository that no compiler checks.
//!
//! Every rule is a module with one `check` function from the tree to findings, and its own tests. A finding is
//! printed as `path:line: message (remedy)`; the exit status is 1 if there is any. The program has no dependencies,
//! so that it builds in seconds on a fresh machine: what it needs of Cargo it asks of `cargo tree`.

mod advisories;
mod atomics;
mod banners;
mod code_paths;
mod heads;
mod layers;
mod length;
mod lex;
mod libweight;
mod licences;
mod links;
mod map;
mod markdown;
mod markers;
mod paths;
mod spdx;
mod toml_subset;
mod tree;
mod unsafe_reason;
mod version;
mod width;

use std::process::ExitCode;

use tree::{Finding, Tree};

/// Each rule, with the name under which a reader finds its module.
const CHECKS: &[fn(&Tree) -> Vec<Finding>] = &[
    layers::check,
    atomics::check,
    length::check,
    width::check,
    links::check,
    code_paths::check,
    heads::check,
    map::check,
    markers::check,
    banners::check,
    unsafe_reason::check,
    licences::check,
    libweight::check,
    advisories::check,
];

fn main() -> ExitCode {
    let tree = match Tree::of_this_repository() {
        Ok(tree) => tree,
        Err(message) => {
            eprintln!("tidy: {message}");
            return ExitCode::from(2);
        }
    };
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(&tree)).collect();
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {}", advisories::database_report(&tree));
    println!("tidy: {} files, {} findings", tree.files.len(), findings.len());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
