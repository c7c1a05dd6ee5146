//! An opt-in to unsafe code says why the file needs it.
//!
//! The workspace denies `unsafe_code`; the attribute that lifts this for a file is the first thing that a reviewer
//! looks for, and `reason = "…"` is where it answers.

use crate::lex::{Token, lex};
use crate::tree::{Finding, Tree};

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let tokens = lex(&file.text).tokens;
        for (at, token) in tokens.iter().enumerate() {
            let lifts = matches!(token.ident(), Some("allow" | "expect" | "warn"));
            if !lifts || !tokens.get(at + 1).is_some_and(|next| next.is('(')) {
                continue;
            }
            let inside: Vec<&str> = until_closed(&tokens[at + 2..]).iter().filter_map(Token::ident).collect();
            if inside.contains(&"unsafe_code") && !inside.contains(&"reason") {
                let remedy = "write `#![allow(unsafe_code, reason = \"…\")]`";
                findings.push(Finding::new(&file.path, token.line, "unsafe code allowed without a reason", remedy));
            }
        }
    }
    findings
}

/// The tokens up to the `)` that closes an attribute's list.
fn until_closed(tokens: &[Token]) -> &[Token] {
    let end = tokens.iter().position(|token| token.is(')')).unwrap_or(tokens.len());
    &tokens[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        check(&Tree::of(&[("src/a.rs", text)])).len()
    }

    #[test]
    fn a_bare_opt_in_is_reported() {
        assert_eq!(count("#![allow(unsafe_code)]"), 1);
        assert_eq!(count("#[allow(dead_code, unsafe_code)] fn f() {}"), 1);
        assert_eq!(count("#![cfg_attr(test, allow(unsafe_code))]"), 1);
    }

    #[test]
    fn one_with_a_reason_is_not() {
        assert_eq!(count("#![allow(unsafe_code, reason = \"maps the segment\")]"), 0);
        assert_eq!(count("#![allow(\n    unsafe_code,\n    reason = \"futex\"\n)]"), 0);
        assert_eq!(count("#![deny(unsafe_code)] #[allow(dead_code)] // #![allow(unsafe_code)]"), 0);
    }
}
