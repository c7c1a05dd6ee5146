//! One check at work on a rig: the few moves that checks are made of, each with a bound on its waiting.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::{RIG_NODES, RIG_WORDS, Rig};
use crate::fabric::{Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use crate::sync::Ordering;

/// Tickets that any fabric has room for, once none is in use.
pub const SURE_ROOM: usize = crate::fabric::BATCH_REQUESTS;

/// How long a check still waits for something.
pub struct Patience {
    check: &'static str,
    end: Instant,
}

impl Patience {
    pub fn new(check: &'static str, limit: Duration) -> Self {
        Self { check, end: Instant::now() + limit }
    }

    pub fn look(&self, what: &str) {
        assert!(Instant::now() < self.end, "{}: nothing came of waiting for {what}", self.check);
    }
}

/// A check's hands on its rig.
pub struct Trial<'rig, R: Rig> {
    pub rig: &'rig mut R,
    check: &'static str,
}

impl<'rig, R: Rig> Trial<'rig, R> {
    pub fn new(rig: &'rig mut R, check: &'static str) -> Self {
        assert!(rig.nodes() >= RIG_NODES, "{check}: a rig has {RIG_NODES} nodes at least");
        assert!(rig.words() >= RIG_WORDS, "{check}: a rig has {RIG_WORDS} words at least");
        Self { rig, check }
    }

    pub fn nodes(&self) -> usize {
        self.rig.nodes()
    }

    pub fn patience(&self) -> Patience {
        Patience::new(self.check, self.rig.patience())
    }

    /// The node's word `index` of those that checks may use.
    pub fn at(&self, node: usize, index: usize) -> WordAt {
        assert!(index < self.rig.words(), "{}: word {index} is not for checks", self.check);
        self.rig.base(node).plus(index)
    }

    /// What the node's own ranks see.
    pub fn load(&self, node: usize, index: usize) -> u64 {
        // SYNC POINT: fabric-request, the home's side.
        self.rig.memory(node).word(self.at(node, index)).load(Ordering::Acquire)
    }

    /// Sets a word from its home, while nobody else touches it.
    pub fn store(&self, node: usize, index: usize, value: u64) {
        self.rig.memory(node).word(self.at(node, index)).store(value, Ordering::Release);
    }

    /// Lets the node, which waits, and time go on.
    pub fn turn(&mut self, node: usize) {
        self.rig.fabric(node).progress();
        self.rig.step();
    }

    /// Waits at `node` for something.
    pub fn until(&mut self, node: usize, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let patience = self.patience();
        while !is_so(self) {
            patience.look(what);
            self.turn(node);
        }
    }

    /// Posts as soon as there is room. Anything but `Full` fails the check.
    pub fn post(&mut self, from: usize, to: usize, requests: &[Request]) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let check = self.check;
        self.until(from, "room for a batch", |trial| match trial.rig.fabric(from).post(to, requests, &mut tickets) {
            Ok(()) => true,
            Err(PostError::Full { .. }) => false,
            Err(error) => panic!("{check}: node {from} cannot post: {error}"),
        });
        tickets
    }

    /// Waits for a request's outcome.
    pub fn outcome(&mut self, node: usize, ticket: Ticket) -> Result<u64, OperationError> {
        let mut outcome = None;
        self.until(node, "a ticket to complete", |trial| match trial.rig.fabric(node).take(ticket) {
            Poll::Ready(value) => {
                outcome = Some(value);
                true
            }
            Poll::Pending => false,
        });
        outcome.expect("`until` ends with one")
    }

    /// Waits for a request's value.
    pub fn value(&mut self, node: usize, ticket: Ticket) -> u64 {
        let check = self.check;
        self.outcome(node, ticket).unwrap_or_else(|error| panic!("{check}: a request failed: {error}"))
    }

    /// Posts one request with a ticket and waits for its value.
    pub fn ask(&mut self, from: usize, to: usize, request: Request) -> u64 {
        let tickets = self.post(from, to, &[request]);
        assert_eq!(tickets.len(), 1, "{}: {request:?} has one ticket", self.check);
        self.value(from, tickets[0])
    }

    /// Posts a write.
    pub fn write(&mut self, from: usize, to: usize, index: usize, value: u64) {
        let at = self.at(to, index);
        let tickets = self.post(from, to, &[Request::Write { at, value }]);
        assert!(tickets.is_empty(), "{}: a write has no ticket", self.check);
    }

    /// Reads a word through the fabric.
    pub fn read(&mut self, from: usize, to: usize, index: usize) -> u64 {
        let at = self.at(to, index);
        self.ask(from, to, Request::Read { at })
    }

    /// Asks until the node answers, whatever goes wrong before: a connection is made anew.
    pub fn reconnect(&mut self, from: usize, to: usize) {
        let at = self.at(to, 0);
        let patience = self.patience();
        loop {
            patience.look("a node to be reached again");
            if let Ok(ticket) = self.rig.fabric(from).read(to, at)
                && self.outcome(from, ticket).is_ok()
            {
                return;
            }
            self.turn(from);
        }
    }
}
