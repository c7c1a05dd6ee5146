//! The files under check, and what a check reports about them.
//!
//! The tree is what a clone would have: everything git tracks plus what is new and not ignored. A link to an ignored
//! file is therefore dead here too, as it would be for whoever clones.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What programs write.
const GENERATED: &[&str] = &["bench/results/"];

/// One violation. The order of the fields is the order in which findings are sorted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub message: String,
    pub remedy: String,
}

impl Finding {
    pub fn new(path: &str, line: usize, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({})", self.path, self.line, self.message, self.remedy)
    }
}

/// A text file, with its path relative to the root of the repository and `/` between the parts.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// `rs` of `src/lib.rs`; `sh` for a script known only by its first line, such as `.ci/run`; else empty.
    pub fn kind(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        if let Some((stem, extension)) = name.rsplit_once('.')
            && !stem.is_empty()
        {
            return extension;
        }
        let first = self.text.lines().next().unwrap_or("");
        if first.starts_with("#!") && first.contains("sh") { "sh" } else { "" }
    }

    /// Rust sources, with their path.
    pub fn is_rust(&self) -> bool {
        self.kind() == "rs"
    }

    /// Written by programs, not by people.
    pub fn is_generated(&self) -> bool {
        GENERATED.iter().any(|folder| self.path.starts_with(folder))
    }

    /// Sources of the library itself.
    pub fn is_library(&self) -> bool {
        self.is_rust() && self.path.starts_with("src/")
    }
}

/// The repository, read once.
pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<File>,
    /// Every file and folder of a clone, binary files included.
    pub paths: BTreeSet<String>,
}

impl Tree {
    /// The repository around the manifest that `cargo run` was given, or around the working directory.
    ///
    /// Asked when it runs: a path baked in at build time would be another clone's where two share a target folder.
    pub fn of_this_repository() -> Result<Tree, String> {
        let start = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let root = PathBuf::from(git(&start, &["rev-parse", "--show-toplevel"])?.trim_end());
        let mut files = Vec::new();
        for path in list(&root)? {
            // A tracked file that was just deleted is still listed; binary files have no lines to check.
            let Ok(bytes) = std::fs::read(root.join(&path)) else {
                continue;
            };
            files.push((path, String::from_utf8(bytes).ok()));
        }
        Ok(Tree::assemble(root, files))
    }

    /// A tree of the given texts, for tests.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))).collect();
        Tree::assemble(PathBuf::from("/nonexistent"), files)
    }

    fn assemble(root: PathBuf, contents: Vec<(String, Option<String>)>) -> Tree {
        let mut paths = BTreeSet::from([String::new()]);
        let mut files = Vec::new();
        for (path, text) in contents {
            for (slash, _) in path.match_indices('/') {
                paths.insert(path[..slash].to_owned());
            }
            paths.insert(path.clone());
            if let Some(text) = text {
                files.push(File { path, text });
            }
        }
        Tree { root, files, paths }
    }

    /// The text of one file, if it is there.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    /// What `cargo ARGS` prints, run at the root, offline, with the lock file as it is.
    pub fn cargo(&self, args: &[&str]) -> Result<String, String> {
        // RUSTFLAGS could hold `--cfg model=…`, which would pull the model checkers into the tree.
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(args)
            .args(["--offline", "--locked"])
            .env_remove("RUSTFLAGS")
            .current_dir(&self.root)
            .output()
            .map_err(|e| format!("cargo {}: {e}", args.join(" ")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
    }
}

fn list(root: &Path) -> Result<Vec<String>, String> {
    let names = git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn git(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(args).current_dir(folder).output().map_err(|e| format!("git: {e}"))?;
    if !output.status.success() {
        return Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_path_line_message_remedy() {
        let finding = Finding::new("src/a.rs", 3, "bad", "make it good");
        assert_eq!(finding.to_string(), "src/a.rs:3: bad (make it good)");
    }

    #[test]
    fn a_script_without_extension_is_known_by_its_first_line() {
        let tree = Tree::of(&[(".ci/run", "#!/usr/bin/env bash\n"), ("LICENSE-MIT", "MIT\n"), ("a/b.rs", "")]);
        let kinds: Vec<&str> = tree.files.iter().map(File::kind).collect();
        assert_eq!(kinds, ["sh", "", "rs"]);
    }

    #[test]
    fn folders_are_paths_too() {
        let tree = Tree::of(&[("a/b/c.rs", "")]);
        assert!(tree.paths.contains("a") && tree.paths.contains("a/b") && !tree.paths.contains("b"));
    }
}
