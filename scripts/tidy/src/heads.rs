//! Every source starts with a comment that says what it is for.
//!
//! In Rust that is a `//!` on the first line; in a script, the comment (or Python's docstring) after the `#!` line; in
//! C, a comment.

use crate::tree::{File, Finding, Tree};

pub fn check(tree: &Tree) -> Vec<Finding> {
    let headless = tree.files.iter().filter(|file| !has_head(file));
    headless.map(|file| Finding::new(&file.path, 1, "no comment at its head", remedy(file))).collect()
}

fn remedy(file: &File) -> String {
    let how = if file.is_rust() { "with `//!` on the first line" } else { "in a comment before the first code" };
    format!("say what the file is for, {how}")
}

fn has_head(file: &File) -> bool {
    let openings: &[&str] = match file.kind() {
        "rs" => return says_something(file.text.lines().next().unwrap_or(""), &["//!"]),
        "sh" => &["#"],
        "py" => &["#", "\"\"\"", "r\"\"\""],
        "c" | "h" => &["//", "/*"],
        _ => return true,
    };
    let mut lines = file.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    lines.next().is_some_and(|line| says_something(line, openings) || line.trim() == "/*" || line.trim() == "\"\"\"")
}

fn says_something(line: &str, openings: &[&str]) -> bool {
    let text = openings.iter().find_map(|opening| line.strip_prefix(opening));
    text.is_some_and(|text| text.chars().any(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(path: &str, text: &str) -> bool {
        check(&Tree::of(&[(path, text)])).is_empty()
    }

    #[test]
    fn sources_with_a_head() {
        assert!(passes("src/a.rs", "//! What it is.\n"));
        assert!(passes("a.sh", "#!/bin/sh\n# What it is.\n"));
        assert!(passes("a.py", "#!/usr/bin/env python3\n\"\"\"What it is.\"\"\"\n"));
        assert!(passes("a.c", "/*\n * What it is.\n */\n"));
        assert!(passes("a.c", "// What it is.\n"));
        assert!(passes("Cargo.toml", "[package]\n"));
    }

    #[test]
    fn sources_without() {
        assert!(!passes("src/a.rs", "use x;\n"));
        assert!(!passes("src/a.rs", "//!\nuse x;\n"));
        assert!(!passes("src/a.rs", "/// Not of the file.\nfn f() {}\n"));
        assert!(!passes("src/a.rs", ""));
        assert!(!passes("a.sh", "#!/bin/sh\nset -e\n"));
        assert!(!passes(".ci/run", "#!/bin/sh\nset -e\n"));
        assert!(!passes("a.py", "import os\n"));
        assert!(!passes("a.c", "#include <stdio.h>\n"));
    }
}
