//! Which rank lives on which node.

/// The ranks of a job in their nodes. A node's number is its place in the order of the nodes' lowest ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    node_of: Vec<usize>,
    /// Each rank's place among its node's ranks.
    local_of: Vec<usize>,
    /// Each node's ranks, in order.
    ranks_of: Vec<Vec<usize>>,
}

impl Topology {
    /// All `ranks` on one node.
    pub fn single(ranks: usize) -> Self {
        Self::from_keys(&vec![(); ranks])
    }

    /// Ranks with equal keys form a node. `keys[rank]` is what says where a rank lives.
    pub fn from_keys<K: PartialEq>(keys: &[K]) -> Self {
        let mut topology = Self {
            node_of: Vec::with_capacity(keys.len()),
            local_of: Vec::with_capacity(keys.len()),
            ranks_of: vec![],
        };
        for (rank, key) in keys.iter().enumerate() {
            let known = topology.ranks_of.iter().position(|ranks: &Vec<usize>| keys[ranks[0]] == *key);
            let node = known.unwrap_or(topology.ranks_of.len());
            if known.is_none() {
                topology.ranks_of.push(Vec::new());
            }
            topology.node_of.push(node);
            topology.local_of.push(topology.ranks_of[node].len());
            topology.ranks_of[node].push(rank);
        }
        topology
    }

    /// The job's ranks.
    #[inline]
    pub fn ranks(&self) -> usize {
        self.node_of.len()
    }

    /// The job's nodes.
    #[inline]
    pub fn nodes(&self) -> usize {
        self.ranks_of.len()
    }

    /// The node on which a rank lives.
    #[inline]
    pub fn node_of(&self, rank: usize) -> usize {
        self.node_of[rank]
    }

    /// A rank's place among its node's ranks.
    #[inline]
    pub fn local_of(&self, rank: usize) -> usize {
        self.local_of[rank]
    }

    /// A node's ranks, in order.
    pub fn ranks_of(&self, node: usize) -> &[usize] {
        &self.ranks_of[node]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_make_a_node_and_nodes_follow_their_lowest_ranks() {
        let topology = Topology::from_keys(&["b", "a", "b", "c", "a"]);
        assert_eq!((topology.ranks(), topology.nodes()), (5, 3));
        assert_eq!([0, 1, 2, 3, 4].map(|rank| topology.node_of(rank)), [0, 1, 0, 2, 1]);
        assert_eq!([0, 1, 2, 3, 4].map(|rank| topology.local_of(rank)), [0, 0, 1, 0, 1]);
        assert_eq!(topology.ranks_of(1), [1, 4]);
        assert_eq!(Topology::single(3).ranks_of(0), [0, 1, 2]);
    }
}
