//! No raw atomics in the library outside `src/sync.rs`.
//!
//! An atomic that does not come from the shim is invisible to loom and shuttle, and a model that passes over it proves
//! nothing. Clippy's `disallowed-types` cannot say this: it sees through the re-export and refuses the shim's own
//! types wherever they are used.

use crate::lex::lex;
use crate::paths::{UsedPath, module_of, used_paths};
use crate::tree::{Finding, Tree};

const SHIM: &[&str] = &["src/sync.rs", "src/sync/"];
const ROOTS: &[&str] = &["core", "std", "loom", "shuttle"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_library()) {
        if SHIM.iter().any(|shim| file.path.starts_with(shim)) {
            continue;
        }
        let paths = used_paths(&lex(&file.text).tokens, &module_of(&file.path));
        // Once is enough: a use that is reported is not reported again where the name it brought in is used.
        let whole: Vec<&UsedPath> = paths.iter().filter(|path| path.in_use && is_raw(path)).collect();
        let repeats =
            |path: &UsedPath| path.through_use && whole.iter().any(|seen| path.segments.starts_with(&seen.segments));
        for path in paths.iter().filter(|path| is_raw(path) && !repeats(path)) {
            let message = format!("raw atomic `{}`", path.segments.join("::"));
            findings.push(Finding::new(
                &file.path,
                path.line,
                message,
                "take it from `crate::sync`, which the models replace",
            ));
        }
    }
    findings
}

fn is_raw(path: &UsedPath) -> bool {
    ROOTS.iter().any(|root| path.starts_with(&[root, "sync", "atomic"]) || path.starts_with(&[root, "sync", "*"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn raw_atomics_are_reported() {
        assert_eq!(lines("src/a.rs", "use std::sync::{Arc,\n atomic::AtomicU64};"), [2]);
        assert_eq!(lines("src/a.rs", "fn f(x: &core::sync::atomic::AtomicU64) {}"), [1]);
        assert_eq!(lines("src/a.rs", "use std::sync;\nfn f() { sync::atomic::fence(o) }"), [2]);
        assert_eq!(lines("src/a.rs", "use core as c;\ntype A = c::sync::atomic::AtomicU8;"), [2]);
        assert_eq!(lines("src/a.rs", "use std::sync::*;"), [1]);
        assert_eq!(lines("src/a.rs", "fn f() {}\nmod tests {\n use std::sync::atomic::AtomicBool;\n}"), [3]);
        assert_eq!(lines("src/a.rs", "use loom::sync::atomic::AtomicU64;"), [1]);
    }

    #[test]
    fn an_import_is_reported_once() {
        assert_eq!(lines("src/a.rs", "use std::sync::atomic;\nfn f(x: atomic::AtomicU64) {}"), [1]);
    }

    #[test]
    fn the_shim_and_the_other_members_are_free() {
        assert!(lines("src/sync.rs", "pub use core::sync::atomic::AtomicU64;").is_empty());
        assert!(lines("bench/src/lib.rs", "use std::sync::atomic::AtomicU64;").is_empty());
        assert!(
            lines("src/a.rs", "use crate::sync::AtomicU64; use std::sync::Arc; // std::sync::atomic::X").is_empty()
        );
    }
}
