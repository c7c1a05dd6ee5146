//! Telling nodes what was decided.

use std::task::Poll;

use super::proposer::Decision;
use super::word::{AcceptorWord, Slot};
use crate::fabric::{Fabric, Request, Ticket};

/// A node that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The node.
    pub node: usize,
    /// Its words.
    pub slot: Slot,
    /// What is to be posted there after the decided word: an epoch, an alarm.
    pub then: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its word is to be closed; it held this last.
    ToClose(AcceptorWord),
    Closing {
        expected: AcceptorWord,
        ticket: Ticket,
    },
    Told,
    Missed,
}

/// Tells nodes a decision: closes each one's acceptor word, by compare-and-swap, and then writes its decided word.
///
/// In this order, because what a process has posted may take effect after its node is gone, when the survivors have gone
/// on without it: a swap that finds a word of a later time does nothing then, and a plain write would contradict them. A
/// node whose acceptor word holds the decided value, by its own vote or closed, may be told by a plain write, too.
///
/// Only a process that knows of the decision by its own [`Agreement`](super::Agreement) or by its own node's decided word
/// may announce it: its node's word has the value then, and those who go on without it know that it is gone.
///
/// A round trip and a half for each node that has voted for the value, a round trip more for each change in between.
#[derive(Debug)]
pub struct Announcement {
    value: u32,
    listeners: Vec<(Listener, Progress)>,
}

impl Announcement {
    /// Of a decision to some nodes.
    pub fn new(decision: Decision, listeners: Vec<Listener>) -> Self {
        let to_close = |listener| (listener, Progress::ToClose(decision.vote));
        Self { value: decision.value, listeners: listeners.into_iter().map(to_close).collect() }
    }

    /// Moves on; ready when each node is told or missed. Never blocks.
    pub fn poll(&mut self, fabric: &impl Fabric) -> Poll<()> {
        fabric.progress();
        let closed = AcceptorWord::closed(self.value);
        let mut is_over = true;
        for (listener, progress) in &mut self.listeners {
            step(listener, progress, closed, fabric);
            is_over &= matches!(progress, Progress::Told | Progress::Missed);
        }
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The nodes that could not be reached, or not so far. They are told by another announcement, or never need to be.
    pub fn missed(&self) -> Vec<usize> {
        let is_missed = |(_, progress): &&(Listener, Progress)| *progress != Progress::Told;
        self.listeners.iter().filter(is_missed).map(|(listener, _)| listener.node).collect()
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        for (_, progress) in &mut self.listeners {
            if let Progress::Closing { ticket, .. } = *progress {
                fabric.forget(ticket);
                *progress = Progress::Missed;
            }
        }
    }
}

/// As far as a node's telling goes now.
fn step(listener: &Listener, progress: &mut Progress, closed: AcceptorWord, fabric: &impl Fabric) {
    if let Progress::Closing { expected, ticket } = *progress {
        let Poll::Ready(answer) = fabric.take(ticket) else { return };
        *progress = match answer.map(AcceptorWord) {
            Ok(found) if found == expected || found == closed => write(listener, closed, fabric),
            // Two values in closed words: memory gone wrong, and not mended by a third hand.
            Ok(found) if found.is_sound() && found.decided().is_some() => Progress::Missed,
            Ok(found) => Progress::ToClose(found),
            Err(_) => Progress::Missed,
        };
    }
    if let Progress::ToClose(expected) = *progress {
        *progress = match fabric.compare_swap(listener.node, listener.slot.acceptor, expected.0, closed.0) {
            Ok(ticket) => Progress::Closing { expected, ticket },
            Err(crate::fabric::PostError::Full { .. }) => Progress::ToClose(expected),
            Err(_) => Progress::Missed,
        };
    }
}

/// The word is closed: whatever is written late says the same.
fn write(listener: &Listener, closed: AcceptorWord, fabric: &impl Fabric) -> Progress {
    let mut requests = vec![Request::Write { at: listener.slot.decided, value: u64::from(closed.value()) }];
    requests.extend_from_slice(&listener.then);
    let mut tickets = Vec::new();
    match fabric.post(listener.node, &requests, &mut tickets) {
        Ok(()) => {
            tickets.into_iter().for_each(|ticket| fabric.forget(ticket));
            Progress::Told
        }
        // Once more round, for room.
        Err(crate::fabric::PostError::Full { .. }) => Progress::ToClose(closed),
        Err(_) => Progress::Missed,
    }
}
