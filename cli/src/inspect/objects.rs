//! Named objects of a job: what its nodes tell of each, put together.

use phalanx::ObjectKind;
use phalanx::coord::objects::tenure::Tenure;
use phalanx::inspect::NodeFacts;
use phalanx::inspect::objects::ObjectFacts;
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
}

/// The objects of a job's nodes, in the order of their names.
pub fn of_nodes(nodes: &[&NodeFacts]) -> Vec<Object> {
    let of_node = |(index, node): (usize, &&NodeFacts)| {
        let object = |facts: &ObjectFacts| Object::new(index, node.nodes, facts, value_of(nodes, facts));
        node.objects.iter().map(object).collect::<Vec<_>>()
    };
    let mut objects: Vec<Object> = nodes.iter().enumerate().flat_map(of_node).collect();
    objects.sort_by(|one, other| (&one.name, one.node).cmp(&(&other.name, other.node)));
    objects
}

/// What an object counts, as any of the nodes seen here tells where it is at home. (A node that was its home and is lost does
/// not run any more, and is not seen.)
fn value_of(nodes: &[&NodeFacts], facts: &ObjectFacts) -> Option<u64> {
    let is_it = |kind: ObjectKind, name: &str| kind == facts.kind && name == facts.name;
    let at_homes = nodes.iter().flat_map(|node| &node.at_home);
    facts.value.or_else(|| at_homes.filter(|object| is_it(object.kind, &object.name)).find_map(|object| object.value))
}

impl Object {
    fn new(node: usize, nodes: usize, facts: &ObjectFacts, value: Option<u64>) -> Self {
        // Whoever has its node's lock holds the object once its node does; until then it waits, as the first of its node.
        let holds = nodes == 1 || matches!(facts.tenure, Tenure::Held(_));
        let first = facts.holder.filter(|_| !holds);
        let held = facts.held.filter(|_| holds);
        Self {
            kind: facts.kind.name(),
            name: facts.name.clone(),
            node,
            home: facts.home,
            tenure: (nodes > 1).then(|| tenure_name(facts.tenure)),
            holder: facts.holder.filter(|_| holds),
            token: facts.token,
            held_ns: held.map(|held| u64::try_from(held.span.as_nanos()).unwrap_or(u64::MAX)),
            held_at_least: held.is_some_and(|held| held.is_at_least),
            waiting: first.into_iter().chain(facts.queue.iter().copied()).collect(),
            value,
        }
    }
}

fn tenure_name(tenure: Tenure) -> &'static str {
    match tenure {
        Tenure::Nothing => "nothing",
        Tenure::Underway(_) => "underway",
        Tenure::Waiting => "waiting",
        Tenure::Held(_) => "held",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phalanx::inspect::objects::{Held, HomeFacts};

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
        let home = |kind, value| HomeFacts { kind, name: "c".to_owned(), holder: None, queue: vec![], value };
        nodes[1].facts.at_home = vec![home(ObjectKind::Lock, None), home(ObjectKind::Counter, Some(7))];
        let objects = of_nodes(&[&nodes[0].facts, &nodes[1].facts]);
        let seen: Vec<_> = objects.iter().map(|object| (&*object.name, object.node, object.value)).collect();
        assert_eq!(seen, [("b", 0, None), ("b", 1, None), ("c", 0, Some(7)), ("c", 1, Some(7))]);
    }
}
