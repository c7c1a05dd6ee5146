//! Paths in backticks in the documents must exist.
//!
//! A file that moves takes its links with it, because a dead link is reported; a path in backticks is the same promise
//! to a reader. Only spans that look like a path of this repository are asked: no globs, no placeholders.

use crate::markdown::parse;
use crate::tree::{Finding, Tree};

const FOLDERS: &[&str] = &["src/", "scripts/", "docs/", "cli/", "bench/", "tests/", "examples/", ".ci/"];
/// Written by programs, from runs of other commits.
const GENERATED: &str = "bench/results/";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.kind() == "md" && !file.path.starts_with(GENERATED)) {
        for (line, span) in parse(&file.text).spans {
            let Some(path) = path_of(&span).filter(|path| !tree.paths.contains(path.trim_end_matches('/'))) else {
                continue;
            };
            let message = format!("`{path}` does not exist");
            findings.push(Finding::new(&file.path, line, message, "name the file where it is now"));
        }
    }
    findings
}

/// The path that a span names: its first word, without a line number or anchor.
fn path_of(span: &str) -> Option<&str> {
    let word = span.split_whitespace().next()?;
    let word = word.strip_prefix("./").unwrap_or(word);
    let path = word.split([':', '#']).next()?;
    let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-'));
    (plain && !path.contains("..") && FOLDERS.iter().any(|folder| path.starts_with(folder))).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let tree = Tree::of(&[("README.md", text), ("src/lib.rs", ""), ("scripts/test.sh", "")]);
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn paths_that_exist() {
        let text = "`src/lib.rs` `src/lib.rs:12` `src/` `./scripts/test.sh --quick` `src/*.rs` `docs/…` `bench/<name>`\n```\nsrc/gone.rs\n```";
        assert_eq!(messages(text), Vec::<String>::new());
    }

    #[test]
    fn paths_that_do_not() {
        assert_eq!(messages("see `src/gone.rs`"), ["`src/gone.rs` does not exist"]);
        assert_eq!(messages("run `scripts/gone.sh --fast`"), ["`scripts/gone.sh` does not exist"]);
    }
}
