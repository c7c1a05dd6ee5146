//! No crate in `Cargo.lock` that `scripts/advisories.toml` warns of.
//!
//! RustSec's database is not to be had from a package registry, so the list is kept by hand and is *not* a substitute
//! for it: it holds the advisories that concern this tree, and the crates that the project has decided against. Where
//! a machine has `cargo deny` and a copy of the database, that is asked too, and where it has not, the report says
//! that it was not.

use std::path::PathBuf;
use std::process::Command;

use crate::toml_subset::{self, Table};
use crate::tree::{Finding, Tree};
use crate::version::{Version, in_range};

const LIST: &str = "scripts/advisories.toml";
const LOCK: &str = "Cargo.lock";
const KEYS: &[&str] = &["crate", "affected", "id", "reason", "instead"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(list) = tree.text(LIST) else {
        return vec![Finding::new(LIST, 1, "the list of advisories is missing", "restore it")];
    };
    let Some(lock) = tree.text(LOCK) else {
        return vec![Finding::new(LOCK, 1, "no lock file to check", "commit it")];
    };
    let mut findings = hits(list, lock).unwrap_or_else(|finding| vec![*finding]);
    if let Some(Err(message)) = ask_database(tree) {
        findings.push(Finding::new(LOCK, 1, message, "see `cargo deny check advisories`"));
    }
    findings
}

/// One line on what became of RustSec's own database.
pub fn database_report(tree: &Tree) -> String {
    match ask_database(tree) {
        None => format!("RustSec not run: no `cargo deny` with a local database; only {LIST} was checked"),
        Some(Ok(())) => "RustSec's local database was checked with `cargo deny`".to_owned(),
        Some(Err(_)) => "RustSec's local database was checked with `cargo deny`, which reports".to_owned(),
    }
}

fn hits(list: &str, lock: &str) -> Result<Vec<Finding>, Box<Finding>> {
    let rules = toml_subset::parse(list).map_err(|message| Box::new(unreadable(LIST, 1, message)))?;
    let packages = toml_subset::parse(lock).map_err(|message| Box::new(unreadable(LOCK, 1, message)))?;
    let mut findings = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.name.is_empty()) {
        let (name, range) = read(rule).map_err(|message| Box::new(unreadable(LIST, rule.line, message)))?;
        for package in packages.iter().filter(|package| package.name == "package" && package.text("name") == Some(name))
        {
            let stated = package.text("version").unwrap_or("");
            let version = Version::parse(stated).ok_or_else(|| {
                Box::new(unreadable(LOCK, package.line, format!("cannot read the version of {name}")))
            })?;
            let hit = in_range(&version, range).map_err(|message| Box::new(unreadable(LIST, rule.line, message)))?;
            if hit {
                findings.push(report(rule, package.line, name, stated));
            }
        }
    }
    Ok(findings)
}

/// The crate and the range of a rule that has all it needs.
fn read(rule: &Table) -> Result<(&str, &str), String> {
    if !["advisory", "ban"].contains(&rule.name.as_str()) {
        return Err(format!("unknown table `{}`", rule.name));
    }
    if let Some(unknown) = rule.keys().find(|key| !KEYS.contains(key)) {
        return Err(format!("unknown key `{unknown}`"));
    }
    if rule.text("reason").is_none_or(str::is_empty) || rule.name == "advisory" && rule.text("id").is_none() {
        return Err("a rule needs a `reason`, and an advisory its `id`".to_owned());
    }
    // A range that cannot be read must not wait for the day when its crate comes in.
    let range = rule.text("affected").ok_or("no `affected`")?;
    in_range(&Version::parse("0.0.0").ok_or("no version")?, range)?;
    Ok((rule.text("crate").ok_or("no `crate`")?, range))
}

fn report(rule: &Table, line: usize, name: &str, version: &str) -> Finding {
    let what = rule.text("id").map_or_else(|| "is banned".to_owned(), |id| format!("has the advisory {id}"));
    let reason = rule.text("reason").unwrap_or_default();
    let remedy = rule.text("instead").unwrap_or("update it, or do without");
    Finding::new(LOCK, line, format!("{name} {version} {what}: {reason}"), remedy)
}

fn unreadable(path: &str, line: usize, message: impl Into<String>) -> Finding {
    Finding::new(path, line, message, "write it as the head of scripts/advisories.toml says")
}

/// What `cargo deny` says against a local copy of RustSec's database; nothing if either is missing.
fn ask_database(tree: &Tree) -> Option<Result<(), String>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut copies = std::fs::read_dir(home.join("advisory-dbs")).ok()?.flatten();
    copies.find(|copy| copy.path().is_dir())?;
    Command::new("cargo").args(["deny", "--version"]).output().ok().filter(|output| output.status.success())?;
    let mut deny = Command::new("cargo");
    deny.args(["deny", "--offline", "--color", "never", "check", "advisories"]).current_dir(&tree.root);
    let output = deny.output().ok()?;
    Some(if output.status.success() { Ok(()) } else { Err(complaint(&String::from_utf8_lossy(&output.stderr))) })
}

/// The titles and numbers of `cargo deny`'s report, on one line.
fn complaint(report: &str) -> String {
    let says = |line: &&str| line.contains("error") || line.contains("ERROR") || line.starts_with("ID:");
    let lines = report.lines().map(|line| line.trim_start_matches([' ', '│', '├', '╭', '╰']).trim());
    format!("cargo deny: {}", lines.filter(says).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKED: &str =
        "version = 4\n\n[[package]]\nname = \"memmap2\"\nversion = \"0.9.10\"\ndependencies = [\n \"libc\",\n]\n";

    fn advisory(affected: &str) -> String {
        format!(
            "[[advisory]]\ncrate = \"memmap2\"\naffected = \"{affected}\"\nid = \"RUSTSEC-2026-0186\"\nreason = \"unsound\"\n"
        )
    }

    #[test]
    fn a_version_within_the_range_is_reported() {
        let found = hits(&advisory("<0.9.11"), LOCKED).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
        assert!(found[0].message.contains("RUSTSEC-2026-0186"));
    }

    #[test]
    fn others_are_not() {
        assert!(hits(&advisory("<0.9.10"), LOCKED).unwrap().is_empty());
        let other = "[[ban]]\ncrate = \"sideway\"\naffected = \"*\"\nreason = \"GPL\"\n";
        assert!(hits(other, LOCKED).unwrap().is_empty());
    }

    #[test]
    fn a_banned_crate_is_reported_with_its_reason() {
        let ban = "[[ban]]\ncrate = \"memmap2\"\naffected = \"*\"\nreason = \"because\"\ninstead = \"use another\"\n";
        let found = hits(ban, LOCKED).unwrap();
        assert!(found[0].message.ends_with("is banned: because"));
        assert_eq!(found[0].remedy, "use another");
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_reported() {
        for bad in
            [advisory("^0.9"), advisory("*").replace("reason", "why"), advisory("*").replace("[[advisory]]", "[[x]]")]
        {
            assert!(hits(&bad, LOCKED).is_err(), "{bad}");
        }
    }
    #[test]
    fn a_report_becomes_one_line() {
        let report = "error[unsound]: Title\n   ┌─ Cargo.lock:1:1\n   ├ ID: RUSTSEC-2026-0001\n   ├ For one.\n\nadvisories FAILED\n";
        assert_eq!(complaint(report), "cargo deny: error[unsound]: Title; ID: RUSTSEC-2026-0001");
    }
}
