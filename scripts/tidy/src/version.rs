//! Versions and ranges of them, as advisories write them.
//!
//! A range is a comma-separated list of comparisons that must all hold (`>=0.9.0, <0.9.3`), or `*`. Pre-releases sort
//! before their release; build metadata is ignored.

/// A version in the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u64; 3],
    /// False sorts first: a pre-release comes before its release.
    released: bool,
}

impl Version {
    /// Missing parts are zero, so that `0.9` is `0.9.0`.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim().split('+').next()?;
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let mut version = Version { numbers: [0; 3], released: pre.is_none() };
        let mut parts = numbers.split('.');
        for (index, number) in version.numbers.iter_mut().enumerate() {
            match parts.next() {
                Some(part) => *number = part.parse().ok()?,
                None if index > 0 => break,
                None => return None,
            }
        }
        parts.next().is_none().then_some(version)
    }
}

/// Whether the version is in the range; an error if the range cannot be read.
pub fn in_range(version: &Version, range: &str) -> Result<bool, String> {
    if range.trim() == "*" {
        return Ok(true);
    }
    let mut result = true;
    for comparison in range.split(',') {
        result &= holds(version, comparison.trim()).ok_or_else(|| format!("cannot read the range `{range}`"))?;
    }
    Ok(result)
}

fn holds(version: &Version, comparison: &str) -> Option<bool> {
    let operator = comparison.trim_end_matches(|c: char| !matches!(c, '<' | '>' | '='));
    let bound = Version::parse(&comparison[operator.len()..])?;
    match operator {
        "<" => Some(*version < bound),
        "<=" => Some(*version <= bound),
        ">" => Some(*version > bound),
        ">=" => Some(*version >= bound),
        "=" => Some(*version == bound),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(version: &str, range: &str) -> Result<bool, String> {
        in_range(&Version::parse(version).unwrap(), range)
    }

    #[test]
    fn ranges() {
        assert_eq!(ask("0.9.10", "<0.9.11"), Ok(true));
        assert_eq!(ask("0.9.11", "<0.9.11"), Ok(false));
        assert_eq!(ask("0.10.0", ">=0.9.0, <0.9.3"), Ok(false));
        assert_eq!(ask("0.9.2", ">=0.9.0, <0.9.3"), Ok(true));
        assert_eq!(ask("0.15.0", "=0.15.0"), Ok(true));
        assert_eq!(ask("1.0.0-rc.1", "<1.0"), Ok(true));
        assert_eq!(ask("0.11.1+wasi-snapshot", "*"), Ok(true));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(ask("1.0.0", "^1").is_err());
        assert!(ask("1.0.0", "1.0").is_err());
        assert_eq!(Version::parse(""), None);
        assert_eq!(Version::parse("1.2.3.4"), None);
    }
}
