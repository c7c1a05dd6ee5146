//! Reading many words of other nodes: post as many reads as there is room for, take what comes, go on.

use std::task::Poll;

use crate::fabric::{BATCH_REQUESTS, Fabric, PostError, Request, Ticket, WordAt};

/// Reads on their way together: a part of what a fabric has room for, so that others have some, too, while a leader's
/// eight offers each rest with a survey half done.
const MOST_ON_THEIR_WAY: usize = 1024;

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
    /// Those of `wanted` before this one have been posted, or have a value from an earlier attempt.
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
        while self.posted < self.wanted.len() && self.on_their_way.len() < MOST_ON_THEIR_WAY && self.post_batch(fabric)
        {
        }
        if self.posted == self.wanted.len() && self.on_their_way.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// How many words are wanted.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether a word has no value: after [`poll`](Self::poll) is ready, one that has failed.
    pub fn has_failed(&self) -> bool {
        self.values.iter().any(Option::is_none)
    }

    /// Whether a word of one of these nodes has none.
    pub fn lacks_any(&self, is_meant: impl Fn(usize) -> bool) -> bool {
        self.wanted.iter().zip(&self.values).any(|(place, value)| value.is_none() && is_meant(place.node))
    }

    /// The value of a word, if it has come.
    pub fn value(&self, index: usize) -> Option<u64> {
        self.values[index]
    }

    /// After [`poll`](Self::poll) is ready: takes these for failed, too.
    pub fn discard(&mut self, indices: std::ops::Range<usize>) {
        self.values[indices].fill(None);
    }

    /// After [`poll`](Self::poll) is ready: reads those that have failed again.
    pub fn try_again(&mut self) {
        self.posted = 0;
    }

    /// Posts the next words of one node. `false`: there is no room now.
    fn post_batch(&mut self, fabric: &impl Fabric) -> bool {
        let node = self.wanted[self.posted].node;
        let batch = self.wanted[self.posted..].iter().take(BATCH_REQUESTS).take_while(|place| place.node == node);
        let end = self.posted + batch.count();
        let missing: Vec<usize> = (self.posted..end).filter(|index| self.values[*index].is_none()).collect();
        let requests: Vec<Request> = missing.iter().map(|index| Request::Read { at: self.wanted[*index].at }).collect();
        self.post(node, end, missing, &requests, fabric)
    }

    fn post(
        &mut self,
        node: usize,
        end: usize,
        missing: Vec<usize>,
        requests: &[Request],
        fabric: &impl Fabric,
    ) -> bool {
        let mut tickets = Vec::with_capacity(requests.len());
        // What an earlier attempt has brought is not asked for again.
        let posted = if requests.is_empty() { Ok(()) } else { fabric.post(node, requests, &mut tickets) };
        match posted {
            Ok(()) => self.on_their_way.extend(missing.into_iter().zip(tickets)),
            Err(PostError::Full { .. }) => return false,
            // Words that cannot be reached have no values.
            Err(_) => {}
        }
        self.posted = end;
        true
    }

    /// What has come so far, in the order of what was wanted.
    pub fn values(&self) -> &[Option<u64>] {
        &self.values
    }

    /// What has come so far, in the order of what was wanted; `None` for what has not, or failed. Gives up the rest.
    pub fn into_values(self, fabric: &impl Fabric) -> Vec<Option<u64>> {
        self.on_their_way.iter().for_each(|(_, ticket)| fabric.forget(*ticket));
        self.values
    }
}
