//! No line of prose over 120 columns: comments, and Markdown.
//!
//! As wide as the code beside it (`rustfmt.toml`), so that one window shows both. Rows of tables may be longer, and so
//! may what cannot be broken, a link, say; in Markdown also what a fenced block shows.

use crate::lex::lex;
use crate::markdown;
use crate::tree::{File, Finding, Tree};

const COLUMNS_MAX: usize = 120;
/// What begins a comment, or an item of a list.
const MARKS: &[char] = &['/', '!', '*', '#', '-', '>', ' '];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| !file.is_generated()) {
        for (index, line) in prose(file).iter().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && can_be_broken(line) {
                let message = format!("{columns} columns, more than {COLUMNS_MAX}");
                findings.push(Finding::new(&file.path, index + 1, message, "break the line"));
            }
        }
    }
    findings
}

/// The file line by line, without what is no prose; what is keeps its place in its line.
fn prose(file: &File) -> Vec<String> {
    let text = &file.text;
    match file.kind() {
        "rs" | "c" | "h" => lex(text).comments.lines().map(|line| line.trim_end().to_owned()).collect(),
        "sh" | "py" | "toml" => {
            text.lines().map(|line| if line.trim_start().starts_with('#') { line } else { "" }.to_owned()).collect()
        }
        "md" => {
            let prose = markdown::parse(text).prose;
            text.lines().zip(prose).map(|(line, prose)| if prose.is_empty() { "" } else { line }.to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

fn can_be_broken(line: &str) -> bool {
    let words = line.trim_start_matches(MARKS);
    !words.starts_with('|') && words.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    /// So many columns of words.
    fn words(columns: usize) -> String {
        format!("{}x", "x ".repeat(columns)).split_off(columns + 1)
    }

    #[test]
    fn wide_comments_are_reported() {
        let (fits, wide) = (words(116), words(117));
        assert_eq!(lines("src/a.rs", &format!("//! {fits}\n//! {wide}\n/// {wide}\n    // {fits}\n")), [2, 3, 4]);
        assert_eq!(lines("src/a.rs", &format!("let a = 1; // {fits}\n/* {wide}\n   {wide} */\n")), [1, 3]);
        assert_eq!(lines("a.sh", &format!("#!/bin/sh\n# {fits}\n#   {wide}\n")), [3]);
        assert_eq!(lines("a.md", &format!("{fits}\n\n- {fits}   {fits}\n")), [3]);
    }

    #[test]
    fn characters_count_and_not_their_bytes() {
        assert!(lines("src/a.rs", &format!("// {}", "─ ".repeat(58))).is_empty());
    }

    #[test]
    fn code_tables_links_and_what_programs_write_may_be_wide() {
        let wide = words(130);
        assert!(lines("src/a.rs", &format!("let a = \"{wide}\";\n/// | {wide} |\n")).is_empty());
        assert!(lines("src/a.rs", &format!("//! https://example.org/{}\n", "x".repeat(120))).is_empty());
        assert!(lines("a.md", &format!("| {wide} |\n\n- [x](x.md#{})\n", "x".repeat(120))).is_empty());
        assert!(lines("a.md", &format!("```text\n{wide}\n```\n")).is_empty());
        assert!(lines("bench/results/a.md", &wide).is_empty());
        assert!(lines("a.sh", &format!("echo {wide}\n")).is_empty());
    }
}
