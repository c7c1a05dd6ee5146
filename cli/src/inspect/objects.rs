//! Named objects of a job: what its nodes tell of each, put together.

use std::collections::BTreeMap;

use phalanx::coord::objects::tenure::Tenure;
use phalanx::inspect::NodeFacts;
use phalanx::inspect::objects::{HomeFacts, ObjectFacts};
use phalanx::inspect::shared;
use serde::Serialize;

/// An object, as the ranks of one node have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    pub kind: &'static str,
    pub name: String,
    /// The node's place in the order of the nodes' lowest ranks.
    pub node: usize,
    /// The node where it is at home, by its number in the job.
    pub home: Option<usize>,
    /// What the node has to do with it there; nothing to tell in a job of one node.
    pub tenure: Option<&'static str>,
    /// The rank that holds it.
    pub holder: Option<usize>,
    pub token: Option<u64>,
    pub held_ns: Option<u64>,
    /// Whether it may be held for longer.
    pub held_at_least: bool,
    /// The node's ranks that wait, in their order.
    pub waiting: Vec<usize>,
    /// What it counts.
    pub value: Option<u64>,
    /// The node that holds it at its home.
    pub holder_node: Option<usize>,
    /// The nodes that wait there, in their order.
    pub waiting_nodes: Vec<usize>,
    /// What ranks of all nodes have of it.
    pub shared: Option<Shared>,
}

/// What ranks of all nodes have of an object, by its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Shared {
    /// Of a reader-writer lock: who writes, wherever, and this node's readers.
    Readers { writer: Option<usize>, readers: Vec<usize>, waiting: Vec<usize> },
    /// Of a semaphore.
    Permits { permits: u64, taken: Vec<Taken>, waiting: Option<Taken> },
    /// Of a lease.
    Lease { holder: Option<usize>, waiting: Vec<usize> },
    /// Of a fenced word.
    Written { token: u64, value: u64, rank: Option<usize> },
}

/// A rank's permits, or those that it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    pub rank: usize,
    pub permits: u64,
}

impl Shared {
    fn new(facts: &shared::Shared) -> Self {
        match facts.clone() {
            shared::Shared::Readers { writer, readers, waiting } => Self::Readers { writer, readers, waiting },
            shared::Shared::Permits { permits, taken, waiting } => {
                let of_rank = |(rank, permits)| Taken { rank, permits };
                Self::Permits {
                    permits,
                    taken: taken.into_iter().map(of_rank).collect(),
                    waiting: waiting.map(of_rank),
                }
            }
            shared::Shared::Lease { holder, waiting } => Self::Lease { holder, waiting },
            shared::Shared::Written { token, value, rank } => Self::Written { token, value, rank },
        }
    }
}

/// The objects of a job's nodes, in the order of their names.
pub fn of_nodes(nodes: &[&NodeFacts]) -> Vec<Object> {
    let ranks = |(index, node): (usize, &&NodeFacts)| node.ranks.iter().map(move |rank| (rank.rank, index)).collect();
    let node_of: BTreeMap<usize, usize> = nodes.iter().enumerate().flat_map::<Vec<_>, _>(ranks).collect();
    let of_node = |(index, node): (usize, &&NodeFacts)| {
        let object = |facts: &ObjectFacts| {
            let mut object = Object::new(index, node.nodes, facts, home_of(nodes, facts));
            object.own_readers(nodes, facts, &node_of);
            object
        };
        node.objects.iter().map(object).collect::<Vec<_>>()
    };
    let mut objects: Vec<Object> = nodes.iter().enumerate().flat_map(of_node).collect();
    objects.sort_by(|one, other| (&one.name, one.node).cmp(&(&other.name, other.node)));
    objects
}

/// An object as its home has it, if that is seen here.
fn home_of<'a>(nodes: &[&'a NodeFacts], facts: &ObjectFacts) -> Option<&'a HomeFacts> {
    let home = nodes.iter().find(|node| Some(node.node) == facts.home)?;
    home.at_home.iter().find(|object| object.kind == facts.kind && object.name == facts.name)
}

impl Object {
    /// Leaves this node's readers in its row, with those who read together with others of it, of whom the home knows
    /// but the node. Readers of nodes that have no row here are in the object's first one.
    fn own_readers(&mut self, nodes: &[&NodeFacts], facts: &ObjectFacts, node_of: &BTreeMap<usize, usize>) {
        let Some(Shared::Readers { readers, waiting, .. }) = &mut self.shared else { return };
        let same = |object: &&ObjectFacts| object.kind == facts.kind && object.name == facts.name;
        let has_row: Vec<bool> = nodes.iter().map(|node| node.objects.iter().any(|object| same(&object))).collect();
        let first = has_row.iter().position(|has_row| *has_row);
        let row_of = |rank: &usize| node_of.get(rank).copied().filter(|node| has_row[*node]).or(first);
        for ranks in [&mut *readers, &mut *waiting] {
            ranks.retain(|rank| row_of(rank) == Some(self.node));
        }
        let Some(together) = &facts.together else { return };
        let ranks = if together.wait { waiting } else { readers };
        ranks.extend(&together.ranks);
        ranks.sort_unstable();
        ranks.dedup();
    }

    fn new(node: usize, nodes: usize, facts: &ObjectFacts, home: Option<&HomeFacts>) -> Self {
        // Whoever has its node's lock holds the object once its node does; until then it waits, as the first of its
        // node.
        let shared = facts.shared.as_ref().or_else(|| home?.shared.as_ref()).map(Shared::new);
        let holds = match &shared {
            // Who was stopped may not know that it holds it no more.
            Some(Shared::Lease { holder, .. }) => holder.is_some() && *holder == facts.holder,
            _ => nodes == 1 || facts.kind.has_ttl() || matches!(facts.tenure, Tenure::Held(_)),
        };
        let first = facts.holder.filter(|_| !holds && !facts.kind.has_ttl());
        let held = facts.held.filter(|_| holds);
        Self {
            kind: facts.kind.name(),
            name: facts.name.clone(),
            node,
            home: facts.home,
            tenure: (nodes > 1).then(|| tenure_name(facts.tenure)),
            holder: facts.holder.filter(|_| holds),
            token: facts.token.filter(|_| holds || !facts.kind.has_ttl()),
            held_ns: held.map(|held| u64::try_from(held.span.as_nanos()).unwrap_or(u64::MAX)),
            held_at_least: held.is_some_and(|held| held.is_at_least),
            waiting: first.into_iter().chain(facts.queue.iter().copied()).collect(),
            value: facts.value.or_else(|| home?.value),
            holder_node: home.and_then(|home| home.holder),
            waiting_nodes: home.map(|home| home.queue.clone()).unwrap_or_default(),
            shared,
        }
    }
}

fn tenure_name(tenure: Tenure) -> &'static str {
    match tenure {
        Tenure::Nothing | Tenure::Kept => "nothing",
        Tenure::Underway(_) => "underway",
        Tenure::Waiting => "waiting",
        Tenure::Held(_) => "held",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phalanx::ObjectKind;
    use phalanx::inspect::objects::{Held, Together};

    use super::super::view::Node;
    use super::super::view::tests::{node, rank};
    use super::*;

    fn lock(name: &str, tenure: Tenure) -> ObjectFacts {
        let held = Some(Held { span: Duration::from_secs(2), is_at_least: false });
        ObjectFacts {
            kind: ObjectKind::Lock,
            name: name.to_owned(),
            home: Some(1),
            tenure,
            holder: Some(3),
            token: Some(9),
            held,
            queue: vec![5, 4],
            value: None,
            shared: None,
            together: None,
        }
    }

    #[test]
    fn who_has_its_nodes_lock_waits_until_the_node_has_the_object() {
        let of = |nodes, tenure| {
            let mut one = node(1, vec![rank(0, 0)]);
            (one.facts.nodes, one.facts.objects) = (nodes, vec![lock("a", tenure)]);
            of_nodes(&[&one.facts]).remove(0)
        };
        let held = of(2, Tenure::Held(1));
        assert_eq!((held.holder, held.held_ns, &held.waiting), (Some(3), Some(2_000_000_000), &vec![5, 4]));
        assert_eq!((held.tenure, held.token, held.home), (Some("held"), Some(9), Some(1)));
        for (tenure, name) in
            [(Tenure::Waiting, "waiting"), (Tenure::Underway(0), "underway"), (Tenure::Nothing, "nothing")]
        {
            let waits = of(2, tenure);
            assert_eq!((waits.holder, waits.held_ns, waits.tenure), (None, None, Some(name)));
            assert_eq!(waits.waiting, [3, 5, 4]);
        }
        let alone = of(1, Tenure::Nothing);
        assert_eq!((alone.holder, alone.tenure, &alone.waiting), (Some(3), None, &vec![5, 4]));
    }

    #[test]
    fn objects_stand_in_the_order_of_their_names_and_counters_have_the_value_of_their_home() {
        let mut nodes = [node(1, vec![rank(0, 0)]), node(1, vec![rank(1, 0)])];
        let counter = ObjectFacts { kind: ObjectKind::Counter, ..lock("c", Tenure::Nothing) };
        for node in &mut nodes {
            (node.facts.nodes, node.facts.objects) = (2, vec![counter.clone(), lock("b", Tenure::Nothing)]);
        }
        let home =
            |kind, value| HomeFacts { kind, name: "c".to_owned(), holder: None, queue: vec![], value, shared: None };
        // Where its copies are.
        nodes[0].facts.at_home = vec![home(ObjectKind::Counter, Some(5))];
        nodes[1].facts.at_home = vec![home(ObjectKind::Lock, None), home(ObjectKind::Counter, Some(7))];
        nodes[1].facts.node = 1;
        let objects = of_nodes(&[&nodes[0].facts, &nodes[1].facts]);
        let seen: Vec<_> = objects.iter().map(|object| (&*object.name, object.node, object.value)).collect();
        assert_eq!(seen, [("b", 0, None), ("b", 1, None), ("c", 0, Some(7)), ("c", 1, Some(7))]);
    }

    /// Two nodes with ranks 0, 1, 2 and 3, 4, 5, which all have a lock at home on node 1, as that has it with readers.
    fn shared_by_two_nodes(readers: Vec<usize>, waiting: Vec<usize>) -> [Node; 2] {
        let mut nodes = [0, 3].map(|first| node(1, (first..first + 3).map(|index| rank(index, 0)).collect()));
        let object = ObjectFacts { kind: ObjectKind::RwLock, ..lock("table", Tenure::Waiting) };
        for (number, node) in nodes.iter_mut().enumerate() {
            (node.facts.nodes, node.facts.node, node.facts.objects) = (2, number, vec![object.clone()]);
        }
        nodes[1].facts.at_home = vec![HomeFacts {
            kind: ObjectKind::RwLock,
            name: "table".to_owned(),
            holder: Some(1),
            queue: vec![0],
            value: None,
            shared: Some(shared::Shared::Readers { writer: Some(3), readers, waiting }),
        }];
        nodes
    }

    #[test]
    fn what_the_home_tells_stands_on_each_row_and_readers_on_that_of_their_node() {
        let rows = |nodes: &[Node; 2]| of_nodes(&[&nodes[0].facts, &nodes[1].facts]);
        let readers = |readers: &[usize], waiting: &[usize]| {
            let (readers, waiting) = (readers.to_vec(), waiting.to_vec());
            Some(Shared::Readers { writer: Some(3), readers, waiting })
        };
        let mut nodes = shared_by_two_nodes(vec![1, 2, 5], vec![4]);
        for (row, shared) in rows(&nodes).into_iter().zip([readers(&[1, 2], &[]), readers(&[5], &[4])]) {
            assert_eq!((row.holder_node, row.waiting_nodes, row.shared), (Some(1), vec![0], shared));
        }
        nodes[0].facts.objects[0].together = Some(Together { ranks: vec![0, 1], wait: false });
        nodes[1].facts.objects[0].together = Some(Together { ranks: vec![3], wait: true });
        let shared: Vec<_> = rows(&nodes).into_iter().map(|row| row.shared).collect();
        assert_eq!(shared, [readers(&[0, 1, 2], &[]), readers(&[5], &[3, 4])]);
        let unseen = of_nodes(&[&nodes[0].facts]).remove(0);
        assert_eq!((unseen.holder_node, unseen.shared), (None, None));
    }

    #[test]
    fn readers_of_nodes_without_a_row_are_in_the_first() {
        // Rank 9 is on another machine; the handles of ranks 1 and 2 have been dropped before their guards.
        let mut nodes = shared_by_two_nodes(vec![1, 9], vec![2, 8]);
        nodes[0].facts.objects.clear();
        let rows = of_nodes(&[&nodes[0].facts, &nodes[1].facts]);
        let all = Shared::Readers { writer: Some(3), readers: vec![1, 9], waiting: vec![2, 8] };
        assert_eq!(rows.iter().map(|row| (row.node, row.shared.clone())).collect::<Vec<_>>(), [(1, Some(all))]);
    }

    #[test]
    fn a_lease_is_held_by_whom_its_home_names() {
        let of = |holder| {
            let mut one = node(1, vec![rank(0, 0)]);
            let shared = Some(shared::Shared::Lease { holder, waiting: vec![] });
            let lease = ObjectFacts { kind: ObjectKind::Lease, queue: vec![], shared, ..lock("a", Tenure::Nothing) };
            (one.facts.nodes, one.facts.objects) = (2, vec![lease]);
            of_nodes(&[&one.facts]).remove(0)
        };
        let held = of(Some(3));
        assert_eq!((held.holder, held.token, held.held_ns), (Some(3), Some(9), Some(2_000_000_000)));
        for other in [None, Some(5)] {
            let lost = of(other);
            assert_eq!((lost.holder, lost.token, lost.held_ns, lost.waiting), (None, None, None, vec![]));
        }
    }
}
