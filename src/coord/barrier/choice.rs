//! Which algorithm a group uses, and the shape of its tree.

use std::str::FromStr;

use crate::machine::Place;

/// The largest group that exchanges flat. Every member reads every other's line, so the cost grows with the group
/// while a tree's grows with its logarithm; up to one last-level cache's worth of cores the lines travel in parallel.
const FLAT_MEMBERS: usize = 8;
/// Children that a node of the tree waits for at most.
const FAN_IN: usize = 8;

/// A barrier algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Every member writes its own line and reads all others'.
    Flat = 1,
    /// Gather up a tree along caches and NUMA nodes, release down it.
    Tree = 2,
    /// One counter, for more members than CPUs.
    Central = 3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flat, Self::Tree, Self::Central];

    /// The algorithm with this number in a group's block.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| *algorithm as u64 == number)
    }

    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Tree => "tree",
            Self::Central => "central",
        }
    }

    /// The algorithm for a group of `members`, which have CPUs of their own or not.
    pub fn choose(members: usize, have_own_cpus: bool) -> Self {
        if !have_own_cpus {
            Self::Central
        } else if members <= FLAT_MEMBERS {
            Self::Flat
        } else {
            Self::Tree
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| format!("{text:?} is no barrier algorithm; choose flat, tree or central"))
    }
}

/// Each member's parent in the tree, `None` for the root, from where the members run.
///
/// Members that share a last-level cache gather at the lowest of them, caches of a NUMA node at the lowest of theirs,
/// and nodes at the lowest of all. A member whose place is unknown counts as one in a place of its own kind.
pub fn tree_parents(places: &[Option<Place>]) -> Vec<Option<usize>> {
    let mut parents = vec![None; places.len()];
    let everyone: Vec<usize> = (0..places.len()).collect();
    let mut node_leaders = Vec::new();
    for node in grouped_by(&everyone, |index| places[index].map(|place| place.numa)) {
        let mut cache_leaders = Vec::new();
        for cache in grouped_by(&node, |index| places[index].map(|place| place.cache)) {
            hang(&cache, &mut parents);
            cache_leaders.push(cache[0]);
        }
        hang(&cache_leaders, &mut parents);
        node_leaders.push(cache_leaders[0]);
    }
    hang(&node_leaders, &mut parents);
    parents
}

/// The members in groups of equal keys, each in order, groups in the order of their first members.
fn grouped_by<K: PartialEq>(members: &[usize], key: impl Fn(usize) -> K) -> Vec<Vec<usize>> {
    let mut groups: Vec<(K, Vec<usize>)> = Vec::new();
    for member in members.iter().copied() {
        let found = key(member);
        match groups.iter_mut().find(|(known, _)| *known == found) {
            Some((_, group)) => group.push(member),
            None => groups.push((found, vec![member])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Hangs all but the first under the first, with at most [`FAN_IN`] children a node.
fn hang(members: &[usize], parents: &mut [Option<usize>]) {
    let Some((root, rest)) = members.split_first() else { return };
    if rest.is_empty() {
        return;
    }
    for branch in rest.chunks(rest.len().div_ceil(FAN_IN)) {
        parents[branch[0]] = Some(*root);
        hang(branch, parents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_others_are_refused() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(Algorithm::from_number(algorithm as u64), Some(algorithm));
        }
        assert!("ring".parse::<Algorithm>().expect_err("no such algorithm").contains("flat, tree or central"));
        assert_eq!(Algorithm::from_number(0), None);
    }

    #[test]
    fn choice_follows_cpus_and_size() {
        assert_eq!(Algorithm::choose(2, true), Algorithm::Flat);
        assert_eq!(Algorithm::choose(64, true), Algorithm::Tree);
        assert_eq!(Algorithm::choose(3, false), Algorithm::Central);
    }

    /// Walks from every member to the root and returns the longest way; fails on a cycle or a second root.
    fn depth(parents: &[Option<usize>]) -> usize {
        assert_eq!(parents.iter().filter(|parent| parent.is_none()).count(), 1, "one root: {parents:?}");
        let way = |mut member: usize| {
            let mut steps = 0;
            while let Some(parent) = parents[member] {
                member = parent;
                steps += 1;
                assert!(steps <= parents.len(), "a cycle: {parents:?}");
            }
            steps
        };
        (0..parents.len()).map(way).max().expect("a member")
    }

    #[test]
    fn trees_are_shallow_and_narrow() {
        for size in 1..300 {
            let parents = tree_parents(&vec![None; size]);
            assert!(depth(&parents) <= 3, "{size} members");
            for index in 0..size {
                assert!(parents.iter().filter(|parent| **parent == Some(index)).count() <= FAN_IN);
            }
        }
    }

    #[test]
    fn members_of_a_cache_hang_together() {
        let place = |numa, cache| Some(Place { numa, cache });
        let places: Vec<_> = (0..32).map(|index| place(index % 2, (index % 4) * 8)).collect();
        let parents = tree_parents(&places);
        assert!(depth(&parents) <= 4);
        let crossing = (0..32).filter(|index| parents[*index].is_some_and(|parent| places[parent] != places[*index]));
        // Four caches: three of them hang under another one's leader, and nobody else crosses.
        assert_eq!(crossing.count(), 3);
    }
}
