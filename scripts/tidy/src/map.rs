//! Each file of the library is named by the map, docs/architecture.md, or by the head of the module that it belongs to.
//!
//! On the map it stands with its whole path, or by its name in a line that names its folder, too.

use crate::tree::{File, Finding, Tree};

const MAP: &str = "docs/architecture.md";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let map = tree.text(MAP).unwrap_or("");
    let unnamed = tree.files.iter().filter(|file| file.is_library() && !is_named(tree, map, file));
    let remedy = format!("name it in the head of the module above it, or in {MAP}");
    unnamed.map(|file| Finding::new(&file.path, 1, "no map leads to this file", remedy.clone())).collect()
}

fn is_named(tree: &Tree, map: &str, file: &File) -> bool {
    let Some((folder, name)) = file.path.rsplit_once('/') else { return true };
    if matches!(name, "mod.rs" | "lib.rs" | "tests.rs") {
        return true;
    }
    let beside = format!("`{name}`");
    let is_on_map = map.lines().any(|line| line.contains(&file.path) || has(line, &beside, folder));
    let above = [format!("{folder}/mod.rs"), format!("{folder}.rs"), format!("{folder}/lib.rs")];
    is_on_map || above.iter().filter_map(|path| tree.text(path)).any(|text| head_names(text, name))
}

fn has(line: &str, beside: &str, folder: &str) -> bool {
    line.contains(beside) && line.contains(&format!("{folder}/"))
}

/// Whether a module's head has a file as `name` (also in a link), or as `name.rs`.
fn head_names(text: &str, name: &str) -> bool {
    let in_backticks = format!("`{}`", name.trim_end_matches(".rs"));
    let is_name = |word: &str| word.trim_end_matches(['`', '.', ',', ';', ':', ')']).ends_with(name);
    let is_whole = |word: &str| is_name(word) && !word.contains(&format!("_{name}"));
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    head.into_iter().any(|line| line.contains(&in_backticks) || line.split_whitespace().any(is_whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(map: &str, head: &str) -> usize {
        check(&Tree::of(&[(MAP, map), ("src/a/mod.rs", head), ("src/a/b.rs", "//! It.\n")])).len()
    }

    #[test]
    fn files_to_which_a_map_leads() {
        assert_eq!(findings("| it | `src/a/b.rs` |", ""), 0);
        assert_eq!(findings("| it | `src/a/mod.rs`, and `b.rs` beside it |", ""), 0);
        for head in ["//! | [`b`] | it |\n", "//! Pieces: `b`.\n", "//! It is in `a/b.rs`.\n", "//! a.rs b.rs  it\n"] {
            assert_eq!(findings("", head), 0, "{head}");
        }
    }

    #[test]
    fn files_to_which_none_leads() {
        assert_eq!(findings("", ""), 1);
        assert_eq!(findings("| it | `src/c/mod.rs`, and `b.rs` beside it |", "//! Not [`B`].\n"), 1);
        assert_eq!(findings("", "//! It.\n\n/// `b`\nmod b;\n"), 1);
        assert_eq!(findings("", "//! `of_b.rs`\n"), 1);
    }
}
