//! No dead relative links and no dead anchors in any Markdown file.
//!
//! Links to other hosts are not followed: CI has no network, and a check that fails with somebody else's server is one
//! that people learn to ignore.

use crate::markdown::{Page, attributes, parse};
use crate::tree::{Finding, Tree};

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.kind() == "md") {
        let page = parse(&file.text);
        for (index, line) in page.prose.iter().enumerate() {
            for target in targets(line) {
                if let Err((message, remedy)) = resolve(tree, &file.path, &page, &target) {
                    findings.push(Finding::new(&file.path, index + 1, message, remedy));
                }
            }
        }
    }
    findings
}

/// The targets of a line: inline links and images, reference definitions, HTML attributes.
fn targets(line: &str) -> Vec<String> {
    let mut found: Vec<String> = line.split("](").skip(1).map(until_closed).collect();
    found.extend(definition(line));
    found.extend(["href=\"", "src=\""].iter().flat_map(|key| attributes(line, key)));
    let cleaned = found.iter().map(|target| clean(target));
    cleaned.filter(|target| !target.is_empty() && !is_elsewhere(target)).collect()
}

/// Up to the parenthesis that closes the link, counting those within.
fn until_closed(rest: &str) -> String {
    let mut depth = 0_u32;
    let inside = |c: &char| match c {
        '(' => {
            depth += 1;
            true
        }
        ')' if depth == 0 => false,
        ')' => {
            depth -= 1;
            true
        }
        _ => true,
    };
    rest.chars().take_while(inside).collect()
}

/// `[name]: target` at the start of a line.
fn definition(line: &str) -> Option<String> {
    let (name, target) = line.trim_start().strip_prefix('[')?.split_once("]:")?;
    (!name.contains(']') && !name.starts_with('^')).then(|| target.trim().to_owned())
}

/// Without a title, angle brackets and percent-encoded blanks.
fn clean(target: &str) -> String {
    let target = target.trim();
    if let Some(rest) = target.strip_prefix('<') {
        return rest.split('>').next().unwrap_or("").to_owned();
    }
    target.split_whitespace().next().unwrap_or("").replace("%20", " ")
}

fn is_elsewhere(target: &str) -> bool {
    let scheme = target.split([':', '/', '#']).next().unwrap_or("");
    target.starts_with("//") || target[scheme.len()..].starts_with(':')
}

fn resolve(tree: &Tree, from: &str, page: &Page, target: &str) -> Result<(), (String, String)> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let full = if path.is_empty() { Some(from.to_owned()) } else { join(from, path) };
    let Some(full) = full.filter(|full| tree.paths.contains(full.as_str())) else {
        return Err((format!("dead link `{target}`"), "correct the path; it is relative to this file".to_owned()));
    };
    match anchor {
        Some(anchor) if !has_anchor(tree, from, page, &full, anchor) => Err((
            format!("dead anchor `#{anchor}` in `{full}`"),
            "use the anchor of a heading that is there".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// `../a/b` seen from a file; nothing if it leaves the repository. An absolute path starts at the repository's root.
fn join(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if path.starts_with('/') {
        parts.clear();
    }
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn has_anchor(tree: &Tree, from: &str, page: &Page, full: &str, anchor: &str) -> bool {
    if full == from {
        return page.anchors.iter().any(|own| own == anchor);
    }
    let Some(text) = tree.text(full) else {
        return false;
    };
    if full.ends_with(".md") {
        return parse(text).anchors.iter().any(|other| other == anchor);
    }
    // In a source, `#L12` or `#L12-L20`.
    let lines = anchor.split('-').map(|part| part.strip_prefix('L').and_then(|number| number.parse::<usize>().ok()));
    lines.into_iter().all(|line| line.is_some_and(|line| line <= text.lines().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let files = [("docs/a.md", text), ("docs/b.md", "# The end\n"), ("src/x.rs", "1\n2\n"), ("README.md", "")];
        check(&Tree::of(&files)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn living_links() {
        let text = "# Top\n[b](b.md) [b](./b.md#the-end) [r](../README.md \"title\") ![s](/src/) [t](#top)\n\
                    [x](../src/x.rs#L2) [w](https://a.example/x) <a href=\"b.md\">b</a> [m](mailto:x@y.z)\n\n[id]: b.md\n`[no](link)`";
        assert_eq!(messages(text), Vec::<String>::new());
    }

    #[test]
    fn dead_links() {
        assert_eq!(messages("[c](c.md)"), ["dead link `c.md`"]);
        assert_eq!(messages("[c]: c.md"), ["dead link `c.md`"]);
        assert_eq!(messages("<img src=\"c.png\">"), ["dead link `c.png`"]);
        assert_eq!(messages("[up](../../etc/passwd)"), ["dead link `../../etc/passwd`"]);
        assert_eq!(messages("[b](b.md#nowhere)"), ["dead anchor `#nowhere` in `docs/b.md`"]);
        assert_eq!(messages("[t](#top)"), ["dead anchor `#top` in `docs/a.md`"]);
        assert_eq!(messages("[x](../src/x.rs#L3)"), ["dead anchor `#L3` in `src/x.rs`"]);
    }
}
