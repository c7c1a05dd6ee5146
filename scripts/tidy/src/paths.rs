//! The paths that a Rust source uses, written out in full from the crate's root.
//!
//! `use` trees are expanded, `self` and `super` are resolved against the module that they stand in (inline modules
//! included), and the head of an inline path is replaced by what a `use` of the same file says it is. Names are not
//! resolved beyond that: macros and globs hide nothing that the rules ask for, because a glob of the crate's root or
//! of `std::sync` is itself refused.

use std::collections::HashMap;

use crate::lex::{Kind, Token};

/// A path as used, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedPath {
    pub segments: Vec<String>,
    pub line: usize,
    pub in_use: bool,
    /// Followed by `!`.
    pub is_macro: bool,
    /// Found through a `use` of this file, not written out here.
    pub through_use: bool,
}

impl UsedPath {
    /// The path below the root of this crate, if it is one of this crate's.
    pub fn below_root(&self) -> Option<&[String]> {
        match self.segments.first().map(String::as_str) {
            Some("crate" | "phalanx") => Some(&self.segments[1..]),
            _ => None,
        }
    }

    pub fn starts_with(&self, parts: &[&str]) -> bool {
        self.segments.len() >= parts.len() && self.segments.iter().zip(parts).all(|(a, b)| a == b)
    }
}

/// `[fabric, shm]` for `src/fabric/shm.rs` and `src/fabric/shm/mod.rs`; empty for `src/lib.rs`.
pub fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Every path in the tokens of a file whose module is `module`.
pub fn used_paths(tokens: &[Token], module: &[String]) -> Vec<UsedPath> {
    let mut walk = Walk { tokens, at: 0, module: module.to_vec(), open: Vec::new(), depth: 0, found: Vec::new() };
    while walk.at < tokens.len() {
        walk.step();
    }
    through_uses(walk.found)
}

/// A path together with the name that a `use` gives it.
struct Raw {
    path: UsedPath,
    name: Option<String>,
}

fn through_uses(found: Vec<Raw>) -> Vec<UsedPath> {
    let names: HashMap<String, Vec<String>> = found
        .iter()
        .filter_map(|raw| Some((raw.name.clone()?, raw.path.segments.clone())))
        .filter(|(name, segments)| segments.len() > 1 || segments.first() != Some(name))
        .collect();
    let replace = |raw: Raw| {
        let mut path = raw.path;
        if let Some(full) = path.segments.first().and_then(|head| names.get(head))
            && !path.in_use
        {
            path.segments.splice(..1, full.iter().cloned());
            path.through_use = true;
        }
        path
    };
    found.into_iter().map(replace).collect()
}

struct Walk<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    /// Brace depths at which inline modules opened.
    open: Vec<usize>,
    depth: usize,
    found: Vec<Raw>,
}

impl Walk<'_> {
    fn ident(&self, ahead: usize) -> Option<&str> {
        self.tokens.get(self.at + ahead).and_then(Token::ident)
    }

    fn is(&self, ahead: usize, kind: &Kind) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|token| token.kind == *kind)
    }

    fn step(&mut self) {
        let token = &self.tokens[self.at];
        match &token.kind {
            Kind::Punct('{') => self.depth += 1,
            Kind::Punct('}') => self.close(),
            Kind::Ident(word) if word == "mod" && self.is(2, &Kind::Punct('{')) => {
                return self.open_module();
            }
            // `use<'a>` is a bound, not an import.
            Kind::Ident(word) if word == "use" && !self.is(1, &Kind::Punct('<')) => {
                return self.import();
            }
            Kind::Ident(_) => return self.inline_path(),
            _ => {}
        }
        self.at += 1;
    }

    fn open_module(&mut self) {
        let name = self.ident(1).unwrap_or_default().to_owned();
        self.module.push(name);
        self.open.push(self.depth);
        self.depth += 1;
        self.at += 3;
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.open.last() == Some(&self.depth) {
            self.open.pop();
            self.module.pop();
        }
    }

    fn inline_path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = vec![self.ident(0).unwrap_or_default().to_owned()];
        self.at += 1;
        while self.is(0, &Kind::PathSep)
            && let Some(next) = self.ident(1)
        {
            segments.push(next.to_owned());
            self.at += 2;
        }
        if segments.len() > 1 {
            let is_macro = self.is(0, &Kind::Punct('!'));
            self.record(segments, line, false, is_macro, None);
        }
    }

    fn import(&mut self) {
        self.at += 1;
        self.use_tree(&[]);
    }

    /// One branch of a `use` tree; stops at the `,`, `}` or `;` that ends it.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let mut name = None;
        let mut line = self.tokens.get(self.at).map_or(0, |token| token.line);
        while let Some(token) = self.tokens.get(self.at) {
            match &token.kind {
                Kind::Punct('{') => return self.use_branches(&segments),
                Kind::Punct(',' | '}' | ';') => break,
                Kind::Punct('*') => segments.push("*".to_owned()),
                Kind::Ident(word) if word == "as" => {
                    name = self.ident(1).map(str::to_owned);
                    self.at += 1;
                }
                Kind::Ident(word) => {
                    segments.push(word.clone());
                    line = token.line;
                }
                _ => {}
            }
            self.at += 1;
        }
        // A trailing comma makes an empty branch, which imports nothing.
        if segments.len() > prefix.len() {
            if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
                segments.pop();
            }
            let name = name.or_else(|| segments.last().cloned());
            self.record(segments, line, true, false, name);
        }
    }

    fn use_branches(&mut self, prefix: &[String]) {
        while !self.is(0, &Kind::Punct('}')) && self.at < self.tokens.len() {
            self.at += 1;
            self.use_tree(prefix);
        }
        self.at += 1;
    }

    fn record(&mut self, segments: Vec<String>, line: usize, in_use: bool, is_macro: bool, name: Option<String>) {
        let segments = self.in_full(segments);
        let path = UsedPath { segments, line, in_use, is_macro, through_use: false };
        self.found.push(Raw { path, name });
    }

    /// `super::x` and `self::x` as `crate::…::x`; any other head is left as it is.
    fn in_full(&self, segments: Vec<String>) -> Vec<String> {
        if !matches!(segments[0].as_str(), "self" | "super") {
            return segments;
        }
        let mut full = vec!["crate".to_owned()];
        full.extend(self.module.iter().cloned());
        let mut rest = segments.into_iter().peekable();
        while let Some(step) = rest.next_if(|segment| segment == "self" || segment == "super") {
            if step == "super" && full.len() > 1 {
                full.pop();
            }
        }
        full.extend(rest);
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lex::lex;

    fn paths(text: &str, file: &str) -> Vec<String> {
        let found = used_paths(&lex(text).tokens, &module_of(file));
        found.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_expanded() {
        assert_eq!(
            paths("pub(crate) use crate::{coord::{self, Tree as T}, cluster::*}; use a;", "src/lib.rs"),
            ["crate::coord", "crate::coord::Tree", "crate::cluster::*", "a"]
        );
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(paths("use super::super::coord::X;", "src/fabric/shm/mod.rs"), ["crate::coord::X"]);
        assert_eq!(paths("use super::region;", "src/fabric/shm.rs"), ["crate::fabric::region"]);
        assert_eq!(
            paths("mod tests { use super::*; } use self::a::B;", "src/clock.rs"),
            ["crate::clock::*", "crate::clock::a::B"]
        );
    }

    #[test]
    fn inline_paths_follow_the_uses_of_the_file() {
        assert_eq!(
            paths("use std::sync; fn f() { sync::atomic::fence(o); x.y(); Vec::<u8>::new() }", "src/a.rs"),
            ["std::sync", "std::sync::atomic::fence"]
        );
        assert_eq!(paths("use core as c; type A = c::sync::X;", "src/a.rs"), ["core", "core::sync::X"]);
    }
}
