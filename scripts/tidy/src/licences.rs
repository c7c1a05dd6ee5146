//! Every dependency's licence is one that the allow-list of `deny.toml` satisfies.
//!
//! The whole resolved graph counts, on every platform and with every feature, test and model dependencies included:
//! what a contributor downloads should be free to keep. The list has one home, `deny.toml`, where `cargo deny` reads
//! it too.

use crate::spdx;
use crate::toml_subset;
use crate::tree::{Finding, Tree};

const LIST: &str = "deny.toml";
const TREE: &[&str] =
    &["tree", "--workspace", "--all-features", "--target", "all", "-e", "normal,build,dev", "--prefix", "none"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let allowed = match allowed(tree) {
        Ok(allowed) => allowed,
        Err(message) => {
            return vec![Finding::new(LIST, 1, message, "give `[licenses]` an `allow` list")];
        }
    };
    let mut arguments = TREE.to_vec();
    arguments.extend(["--format", "{p} | {l}"]);
    match tree.cargo(&arguments) {
        Ok(listing) => refused(&listing, &allowed),
        Err(message) => vec![Finding::new("Cargo.lock", 1, message, "run `cargo fetch --locked`")],
    }
}

fn allowed(tree: &Tree) -> Result<Vec<String>, String> {
    let text = tree.text(LIST).ok_or("no allow-list of licences")?;
    let tables = toml_subset::parse(text)?;
    let table = tables.iter().find(|table| table.name == "licenses").ok_or("no table `[licenses]`")?;
    table.list("allow").map(<[String]>::to_vec).ok_or_else(|| "`[licenses]` has no `allow`".to_owned())
}

/// `listing` has lines `name vVERSION | EXPRESSION`; workspace members have their folder after the version.
fn refused(listing: &str, allowed: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for line in listing.lines() {
        let Some((package, rest)) = line.split_once(" | ") else {
            continue;
        };
        let expression = rest.trim_end_matches("(*)").trim();
        if package.contains(" (/") {
            continue;
        }
        let problem = match spdx::satisfied(expression, allowed) {
            Ok(true) => continue,
            Ok(false) => format!("{package} has the licence `{expression}`"),
            Err(_) if expression.is_empty() => format!("{package} states no licence"),
            Err(message) => format!("{package}: {message}"),
        };
        findings.push(Finding::new("Cargo.lock", 1, problem, format!("do without it, or argue for it in {LIST}")));
    }
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_outside_the_list_is_reported_once() {
        let listing = "phalanx v0.1.0 (/work/main) | \na v1.0.0 | MIT OR GPL-2.0\nb v1.0.0 | GPL-3.0\nc v1.0.0 (proc-macro) | \nb v1.0.0 | GPL-3.0 (*)\n";
        let found: Vec<String> =
            refused(listing, &["MIT".to_owned()]).into_iter().map(|finding| finding.message).collect();
        assert_eq!(found, ["b v1.0.0 has the licence `GPL-3.0`", "c v1.0.0 (proc-macro) states no licence"]);
    }

    #[test]
    fn the_list_is_read_from_the_configuration() {
        let tree = Tree::of(&[(LIST, "# Why.\n[licenses]\nallow = [\n    \"MIT\", # fine\n    \"ISC\",\n]\n")]);
        assert_eq!(allowed(&tree).unwrap(), ["MIT", "ISC"]);
        assert!(allowed(&Tree::of(&[])).is_err());
    }
}
