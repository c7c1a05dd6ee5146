//! A write that is posted again and again with another value, as barriers do: its work request is made once.
#![allow(unsafe_code, reason = "a work request has pointers, which are empty between posts")]

use super::verbs::SendWorkRequest;
use crate::fabric::WordAt;

/// Made by [`RdmaFabric::prepare`](super::RdmaFabric::prepare), posted by
/// [`RdmaFabric::repost`](super::RdmaFabric::repost). Outlives its connection: posted on a later one it is made anew.
pub struct Prepared {
    node: usize,
    at: WordAt,
    incarnation: u64,
    work: SendWorkRequest,
}

// SAFETY: the work request's pointers are set anew by every post and not followed after it.
unsafe impl Send for Prepared {}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("node", &self.node).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Prepared {
    pub(super) fn new(node: usize, at: WordAt, incarnation: u64, work: SendWorkRequest) -> Self {
        Self { node, at, incarnation, work }
    }

    /// The node that it writes to.
    pub fn node(&self) -> usize {
        self.node
    }

    /// The word that it writes.
    pub fn at(&self) -> WordAt {
        self.at
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn work(&mut self) -> &mut SendWorkRequest {
        &mut self.work
    }
}
