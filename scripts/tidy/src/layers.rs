//! The order of the layers: who may name whom.
//!
//! `coord` and `cluster` stand on `fabric` and not on each other, the base modules on nothing, and only the modules
//! of the API see everything. The rule is a list of what a layer *may* use, so that a flat re-export at the crate's
//! root (`crate::Group`) is no way round it, and a new module has to be placed before a layer can use it.

use crate::lex::{Kind, Source, lex};
use crate::paths::{UsedPath, module_of, used_paths};
use crate::tree::{File, Finding, Tree};

/// Modules that stand on nothing but each other. Any layer may use them.
const BASE: &[&str] = &["sync", "clock", "machine", "interfaces", "scheduling", "handshake", "trace", "error"];

/// What tests of any layer say that lack something: it stands on nothing.
const SAID_BY_TESTS: [&str; 2] = ["testing", "not_run"];

/// Each layer, with the layers below it. A top-level module that is neither here nor in `BASE` belongs to the API.
const LAYERS: &[(&str, &[&str])] = &[
    ("fabric", &[]),
    ("explorer", &["fabric"]),
    ("coord", &["fabric", "explorer"]),
    ("cluster", &["fabric", "explorer"]),
];

/// Members that stand on the library, and the folders that must not know of them.
const ABOVE: &[(&str, &[&str])] = &[("phalanx_cli", &["src/", "bench/"]), ("phalanx_bench", &["src/"])];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let source = lex(&file.text);
        findings.extend(members_above(file, &source));
        if file.is_library() {
            findings.extend(disguises(file, &source));
            findings.extend(upward_uses(file, &source));
        }
    }
    findings
}

fn upward_uses(file: &File, source: &Source) -> Vec<Finding> {
    let module = module_of(&file.path);
    let Some(home) = module.first().filter(|home| is_layered(home)) else {
        return Vec::new();
    };
    let forbidden = |path: UsedPath| {
        let below = path.below_root()?;
        if path.through_use || path.is_macro && below.len() == 1 || may_use(home, below) {
            return None;
        }
        let message = format!("`{home}` uses `{}`", path.segments.join("::"));
        Some(Finding::new(&file.path, path.line, message, remedy(home)))
    };
    used_paths(&source.tokens, &module).into_iter().filter_map(forbidden).collect()
}

fn is_layered(module: &str) -> bool {
    BASE.contains(&module) || LAYERS.iter().any(|(layer, _)| *layer == module)
}

fn may_use(home: &str, below_root: &[String]) -> bool {
    let Some(target) = below_root.first() else {
        return false;
    };
    if target == home || BASE.contains(&target.as_str()) || below_root == SAID_BY_TESTS {
        return true;
    }
    if home == "error" {
        // The superset of all errors wraps those of the layers, names operations, and needs nothing else of theirs.
        // What errors are about, and are named with.
        let named = ["Operation", "FailureCause", "Lateness"];
        let is_its_own = |segment: &String| segment.ends_with("Error") || named.contains(&segment.as_str());
        // The errors of named objects stand beside them.
        let has_errors = is_layered(target) || target == "object";
        return has_errors && below_root.iter().any(is_its_own);
    }
    LAYERS.iter().any(|(layer, below)| *layer == home && below.contains(&target.as_str()))
}

fn remedy(home: &str) -> String {
    let below = LAYERS.iter().find(|(layer, _)| *layer == home).map_or(&[][..], |(_, below)| below);
    let allowed = below.iter().chain(BASE).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let errors = if home == "error" {
        " and the layers' `…Error` types, `Operation`, `FailureCause` and `Lateness`"
    } else {
        ""
    };
    format!(
        "it may name itself, {allowed}{errors}; pass the rest in as values, or place a new module in scripts/tidy/src/layers.rs"
    )
}

/// Ways to bring a module in under another name, which would make the rule above blind.
fn disguises(file: &File, source: &Source) -> Vec<Finding> {
    let tokens = &source.tokens;
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1);
        let relocated = token.ident() == Some("path")
            && next.is_some_and(|next| next.is('='))
            && at >= 2
            && tokens[at - 1].is('[')
            && tokens[at - 2].is('#');
        let included = token.ident() == Some("include") && next.is_some_and(|next| next.is('!'));
        if relocated || included {
            let what = if relocated { "#[path = …]" } else { "include!" };
            let message = format!("`{what}` hides which layer the code belongs to");
            findings.push(Finding::new(&file.path, token.line, message, "put the module where its path says"));
        }
    }
    findings
}

fn members_above(file: &File, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (member, folders) in ABOVE {
        if !folders.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        let named = source.tokens.iter().filter(|token| token.kind == Kind::Ident((*member).to_owned()));
        findings.extend(named.map(|token| {
            let message = format!("`{member}` stands above this code and is named in it");
            Finding::new(&file.path, token.line, message, "move what is shared down")
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_layer_may_use_what_is_below_it() {
        assert!(lines("src/coord/barrier.rs", "use crate::{fabric::Fabric, sync::AtomicU64, error};").is_empty());
        assert!(lines("src/cluster/mod.rs", "use super::clock::Instant; fn f() { crate::fabric::go() }").is_empty());
        assert!(lines("src/fabric/shm.rs", "use super::region; use crate::clock;").is_empty());
        assert!(lines("src/job.rs", "use crate::{coord, cluster};").is_empty());
        assert!(lines("src/fabric/shm.rs", "fn f() { crate::testing::not_run(1) }").is_empty());
    }

    #[test]
    fn a_layer_may_not_use_what_is_beside_or_above_it() {
        assert_eq!(lines("src/fabric/mod.rs", "\nuse crate::coord::X;"), [2]);
        assert_eq!(lines("src/coord/mod.rs", "use crate::{\n fabric,\n cluster::Y,\n};"), [3]);
        assert_eq!(lines("src/cluster/a.rs", "fn f() {\n crate::coord::go() }"), [2]);
        assert_eq!(lines("src/coord/a.rs", "use crate::group::Group;"), [1]);
        assert_eq!(lines("src/sync.rs", "use crate::fabric::F;"), [1]);
        assert_eq!(lines("src/fabric/mod.rs", "use crate::testing::seeds;"), [1]);
    }

    #[test]
    fn evasions_are_seen() {
        assert_eq!(lines("src/fabric/shm/mod.rs", "use super::super::coord::X;"), [1]);
        assert_eq!(lines("src/fabric/mod.rs", "use super::*;"), [1], "glob of the root");
        assert_eq!(lines("src/fabric/mod.rs", "use crate as root;"), [1], "the root renamed");
        assert_eq!(lines("src/fabric/mod.rs", "use crate::Group;"), [1], "a flat re-export");
        assert_eq!(lines("src/fabric/mod.rs", "use phalanx::coord::X;"), [1], "by the crate's own name");
        assert_eq!(lines("src/fabric/mod.rs", "#[path = \"../coord/x.rs\"] mod x;"), [1]);
        assert_eq!(lines("src/fabric/mod.rs", "mod tests { use super::super::coord::X; }"), [1]);
    }

    #[test]
    fn comments_strings_and_macros_are_no_uses() {
        assert!(
            lines("src/fabric/mod.rs", "// crate::coord::x\nfn f() { g(\"crate::coord\"); crate::ensure!(x) }")
                .is_empty()
        );
        assert!(lines("src/fabric/mod.rs", "pub(crate) fn f() {} pub(in crate::fabric) fn g() {}").is_empty());
    }

    #[test]
    fn error_wraps_the_errors_of_the_layers_only() {
        assert!(
            lines("src/error.rs", "use crate::fabric::FabricError; use crate::cluster::bootstrap::JoinError;")
                .is_empty()
        );
        assert_eq!(lines("src/error.rs", "use crate::fabric::Fabric;"), [1]);
        assert_eq!(lines("src/error.rs", "use crate::group::GroupError;"), [1]);
    }

    #[test]
    fn the_library_knows_no_member_above_it() {
        assert_eq!(lines("src/lib.rs", "use phalanx_cli::x;"), [1]);
        assert_eq!(lines("bench/src/lib.rs", "fn f() { phalanx_cli::x() }"), [1]);
        assert_eq!(lines("src/lib.rs", "extern crate phalanx_bench;"), [1]);
        assert!(lines("cli/src/main.rs", "use phalanx_bench::x;").is_empty());
    }
}
