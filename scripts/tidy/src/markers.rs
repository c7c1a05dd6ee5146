//! No notes to oneself: what is not done goes into an issue, where somebody will see it.
//!
//! The words are looked for in comments and prose only; the macros, in code.

use crate::lex::{Source, lex};
use crate::markdown;
use crate::tree::{File, Finding, Tree};

const WORDS: &[&str] = &["TODO", "FIXME", "XXX"];
const MACROS: &[&str] = &["todo", "unimplemented"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        match file.kind() {
            "rs" => {
                let source = lex(&file.text);
                findings.extend(words(file, &source.comments));
                findings.extend(macros(file, &source));
            }
            "c" | "h" => findings.extend(words(file, &lex(&file.text).comments)),
            "sh" | "py" | "toml" => findings.extend(words(file, &hash_comments(&file.text))),
            "md" => findings.extend(words(file, &markdown::parse(&file.text).prose.join("\n"))),
            _ => {}
        }
    }
    findings
}

fn words(file: &File, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = line.split(|c: char| !c.is_alphanumeric() && c != '_').find(|word| WORDS.contains(word));
        if let Some(word) = found {
            findings.push(Finding::new(
                &file.path,
                index + 1,
                format!("`{word}` in a comment"),
                "do it, or open an issue",
            ));
        }
    }
    findings
}

fn macros(file: &File, source: &Source) -> Vec<Finding> {
    let called = source.tokens.windows(2).filter(|pair| pair[1].is('!'));
    let unfinished =
        called.filter_map(|pair| Some((pair[0].line, pair[0].ident().filter(|name| MACROS.contains(name))?)));
    unfinished
        .map(|(line, name)| Finding::new(&file.path, line, format!("`{name}!`"), "finish it, or return a typed error"))
        .collect()
}

/// Comments of scripts and TOML: a `#` at the start of a line or after a blank. A `#` in a string may count as one.
fn hash_comments(text: &str) -> String {
    let comment = |line: &str| {
        let start = if line.starts_with('#') { Some(0) } else { line.find(" #") };
        start.map_or_else(String::new, |start| line[start..].to_owned())
    };
    text.lines().map(comment).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn notes_are_reported() {
        assert_eq!(lines("src/a.rs", "fn f() {}\n// TODO: more"), [2]);
        assert_eq!(lines("src/a.rs", "/* FIXME */ fn f() { todo!() }"), [1, 1]);
        assert_eq!(lines("src/a.rs", "fn f() {\n std::unimplemented!(\"x\") }"), [2]);
        assert_eq!(lines("a.sh", "x=1 # XXX why"), [1]);
        assert_eq!(lines("README.md", "TODO"), [1]);
    }

    #[test]
    fn the_words_elsewhere_are_not() {
        assert!(lines("src/a.rs", "const W: &str = \"TODO\"; fn todo() {} // XXXXXX").is_empty());
        assert!(lines("a.sh", "mktemp /tmp/a.XXX").is_empty());
        assert!(lines("README.md", "no `TODO` here").is_empty());
    }
}
