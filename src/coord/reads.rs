//! Reading many words of other nodes: post as many reads as there is room for, take what comes, go on.

use std::task::Poll;

use crate::fabric::{BATCH_REQUESTS, Fabric, PostError, Request, Ticket, WordAt};

/// A word of some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: usize,
    /// The word.
    pub at: WordAt,
}

/// Words on their way.
#[derive(Debug)]
pub struct Reads {
    wanted: Vec<Place>,
    posted: usize,
    on_their_way: Vec<(usize, Ticket)>,
    values: Vec<Option<u64>>,
}

impl Reads {
    /// Reads of `wanted`, none of which is posted yet. Words of one node should follow each other: they share batches.
    pub fn new(wanted: Vec<Place>) -> Self {
        let values = vec![None; wanted.len()];
        Self { wanted, posted: 0, on_their_way: Vec::new(), values }
    }

    /// Moves on; ready when all have come or failed.
    pub fn poll(&mut self, fabric: &impl Fabric) -> Poll<()> {
        fabric.progress();
        let values = &mut self.values;
        self.on_their_way.retain(|(index, ticket)| match fabric.take(*ticket) {
            Poll::Pending => true,
            Poll::Ready(value) => {
                values[*index] = value.ok();
                false
            }
        });
        while self.posted < self.wanted.len() && self.post_batch(fabric) {}
        if self.posted == self.wanted.len() && self.on_their_way.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Posts the next words of one node. `false`: there is no room now.
    fn post_batch(&mut self, fabric: &impl Fabric) -> bool {
        let rest = &self.wanted[self.posted..];
        let node = rest[0].node;
        let batch: Vec<Request> = rest
            .iter()
            .take(BATCH_REQUESTS)
            .take_while(|place| place.node == node)
            .map(|place| Request::Read { at: place.at })
            .collect();
        let mut tickets = Vec::with_capacity(batch.len());
        match fabric.post(node, &batch, &mut tickets) {
            Ok(()) => self.on_their_way.extend((self.posted..).zip(tickets)),
            Err(PostError::Full { .. }) => return false,
            // Words that cannot be reached have no values.
            Err(_) => {}
        }
        self.posted += batch.len();
        true
    }

    /// What has come so far, in the order of what was wanted; `None` for what has not, or failed. Gives up the rest.
    pub fn into_values(self, fabric: &impl Fabric) -> Vec<Option<u64>> {
        self.on_their_way.iter().for_each(|(_, ticket)| fabric.forget(*ticket));
        self.values
    }
}
