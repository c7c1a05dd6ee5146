//! No banners: a comment line of nothing but rule characters says nothing, and a file that needs them needs splitting.

use crate::lex::lex;
use crate::tree::{Finding, Tree};

const RULES: &[char] = &['=', '-', '*', '/', '#', '~', '_', '!'];
const LENGTH_MAX: usize = 4;

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let comments = match file.kind() {
            "rs" | "c" | "h" => lex(&file.text).comments,
            "sh" | "py" | "toml" => {
                file.text.lines().map(|line| if is_comment(line) { line } else { "" }).collect::<Vec<_>>().join("\n")
            }
            _ => continue,
        };
        let banners = comments.lines().enumerate().filter(|(_, line)| is_banner(line));
        findings.extend(banners.map(|(index, _)| Finding::new(&file.path, index + 1, "banner", "drop the line")));
    }
    findings
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn is_banner(line: &str) -> bool {
    let text: Vec<char> = line.chars().filter(|c| !c.is_whitespace()).collect();
    text.len() > LENGTH_MAX && text.iter().all(|c| RULES.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn banners_are_reported() {
        assert_eq!(lines("src/a.rs", "// =====\n// Part\n// -----"), [1, 3]);
        assert_eq!(lines("src/a.rs", "//////////"), [1]);
        assert_eq!(lines("a.c", "/*********\n * x\n *********/"), [1, 3]);
        assert_eq!(lines("a.sh", "#######\n# ---- \necho -----"), [1, 2]);
    }

    #[test]
    fn tables_pictures_and_code_are_not() {
        assert!(lines("src/a.rs", "/// |---|---|\n/// +-----+\n//! - item\n//\nlet a = \"// -----\";").is_empty());
    }
}
