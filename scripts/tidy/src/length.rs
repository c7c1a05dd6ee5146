//! No file over 1,000 lines without a reason at its head.
//!
//! A file that long is rarely one idea. Where it is, its first 20 lines say so on a line with the words of `REASON`.

use crate::tree::{Finding, Tree};

const LINES_MAX: usize = 1000;
const HEAD: usize = 20;
const KINDS: &[&str] = &["rs", "sh", "py", "c", "h", "md"];
const REASON: &str = "Why so long:";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| KINDS.contains(&file.kind())) {
        let lines = file.text.lines().count();
        let excused = file.text.lines().take(HEAD).any(|line| line.contains(REASON));
        if lines > LINES_MAX && !excused && !file.is_generated() {
            let message = format!("{lines} lines, more than {LINES_MAX}");
            let remedy = format!("split it, or give the reason on a line `{REASON} …` among its first {HEAD}");
            findings.push(Finding::new(&file.path, LINES_MAX + 1, message, remedy));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, head: &str, lines: usize) -> usize {
        let text = format!("{head}\n{}", "x\n".repeat(lines - 1));
        check(&Tree::of(&[(path, &text)])).len()
    }

    #[test]
    fn long_files_need_a_reason() {
        assert_eq!(count("src/a.rs", "//! A.", 1001), 1);
        assert_eq!(count("src/a.rs", "//! Why so long: it is a table.", 1001), 0);
        assert_eq!(count("src/a.rs", "//! A.", 1000), 0);
    }

    #[test]
    fn what_is_not_source_may_be_long() {
        assert_eq!(count("Cargo.lock", "x", 2000), 0);
        assert_eq!(count("bench/results/all.md", "x", 2000), 0);
    }
}
