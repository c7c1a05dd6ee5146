//! Numbers on the command line: whatever one may not be is answered with what it may be.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::Command;
use phalanx::cluster::address::MAX_NODE_RANKS;

/// More ranks than this on one machine is a typing mistake; each costs three file descriptors and a process.
pub const RANKS_MAX: usize = 4096;
/// More pretended nodes than this on one machine is one, too: each has a process, and connections to all others.
pub const NODES_MAX: usize = 256;
/// Below a tenth of a second nothing is loaded; above is more than a year.
pub const MINUTES_MIN: f64 = 0.001;
/// See [`MINUTES_MIN`].
pub const MINUTES_MAX: f64 = 1e6;
/// The most of what is done again and again: more would not end, or not fit into sums.
pub const TIMES_MAX: usize = 1_000_000_000;

/// Parses a whole number of this range.
pub fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| within(&range, "whole number", text)
}

/// Parses a number of this range, which may have a fraction.
pub fn fraction(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| within(&range, "number", text)
}

fn within<T: FromStr + PartialOrd + Display>(range: &RangeInclusive<T>, noun: &str, text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("give a {noun} from {} to {}", range.start(), range.end()))
}

/// Whether so many ranks (as many as are right, if `None`) can be on so many pretended nodes; if not, why.
pub fn check_nodes(ranks: Option<usize>, nodes: usize) -> Result<(), String> {
    let Some(ranks) = ranks else { return Ok(()) };
    if nodes > ranks {
        return Err(format!("--nodes {nodes}: each node needs a rank, and --ranks is {ranks}"));
    }
    if ranks.div_ceil(nodes) > MAX_NODE_RANKS {
        let least = ranks.div_ceil(MAX_NODE_RANKS);
        return Err(format!(
            "--ranks {ranks}: a node has at most {MAX_NODE_RANKS} (remedy: fewer ranks, or --nodes {least} at least)"
        ));
    }
    Ok(())
}

/// The same command, which takes `-1` for a number, so that whoever gives it is told what is allowed.
pub fn with_negative_numbers(command: Command) -> Command {
    let takes_values = |arg: &clap::Arg| arg.get_action().takes_values() && !arg.is_trailing_var_arg_set();
    command
        .mut_args(|arg| if takes_values(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(with_negative_numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_number_of_the_range_is_answered_with_the_range() {
        let parse = whole(1..=12_usize);
        assert_eq!((parse("1"), parse("12")), (Ok(1), Ok(12)));
        for text in ["0", "13", "-1", "", "x", "1.5", "1e1", " 1", "nan", "99999999999999999999999999"] {
            assert_eq!(parse(text), Err("give a whole number from 1 to 12".to_owned()), "{text:?}");
        }
        let parse = fraction(0.5..=2.0);
        assert_eq!((parse("0.5"), parse("2"), parse("1e0")), (Ok(0.5), Ok(2.0), Ok(1.0)));
        for text in ["0.4", "2.1", "-1", "", "x", "1,5", "nan", "NaN", "inf", "-inf", "1e300"] {
            assert_eq!(parse(text), Err("give a number from 0.5 to 2".to_owned()), "{text:?}");
        }
    }

    #[test]
    fn each_node_needs_a_rank_and_has_no_more_than_its_memory_has_places_for() {
        for (ranks, nodes) in [(None, 3), (Some(3), 3), (Some(1024), 1), (Some(2048), 2), (Some(2049), 3)] {
            assert_eq!(check_nodes(ranks, nodes), Ok(()), "{ranks:?} on {nodes}");
        }
        for (ranks, nodes, part) in [(2, 3, "--ranks is 2"), (1025, 1, "--nodes 2 at"), (2049, 2, "--nodes 3 at")] {
            let why = check_nodes(Some(ranks), nodes).expect_err(part);
            assert!(why.contains(part), "{why}");
        }
    }
}
