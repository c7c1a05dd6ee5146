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
    /// Its words. Without the word of the instance before if it is known to know that.
    pub slot: Slot,
    /// What is to be posted there after the decided word: an epoch, an alarm.
    pub then: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is to be looked whether it knows the instance before.
    ToAsk,
    Asking {
        ticket: Ticket,
    },
    /// It does not, and is to be told of that first.
    Behind,
    /// Its word is to be closed; it held this last.
    ToClose(AcceptorWord),
    Closing {
        expected: AcceptorWord,
        ticket: Ticket,
    },
    /// All is written that is to be, and the decided word asked for behind it.
    Writing {
        ticket: Ticket,
    },
    Told,
    Missed,
}

/// Tells nodes a decision: closes each one's acceptor word, by compare-and-swap, and then writes its decided word. A
/// node that does not know the instance before is not told.
///
/// In this order, because what a process has posted may take effect after its node is gone, when the survivors have
/// gone on without it: a swap that finds a word of a later time does nothing then, and a plain write would contradict
/// them. A node whose acceptor word holds the decided value, by its own vote or closed, may be told by a plain write,
/// too.
///
/// Only a process that knows of the decision by its own [`Agreement`](super::Agreement) or by its own node's decided
/// word may announce it: its node's word has the value then, and those who go on without it know that it is gone.
///
/// Who is told has shown it: the decided word is asked for behind what is written, and found there. Where that answer
/// is lost, all is written again.
///
/// Two round trips for each node that has voted for the value, a round trip more for each change in between, and one
/// where it is to be looked first whether the node knows the instance before.
#[derive(Debug)]
pub struct Announcement {
    value: u32,
    vote: AcceptorWord,
    listeners: Vec<(Listener, Progress)>,
}

impl Announcement {
    /// Of a decision to some nodes.
    pub fn new(decision: Decision, listeners: Vec<Listener>) -> Self {
        let begin = |listener: Listener| {
            let progress =
                if listener.slot.before.is_some() { Progress::ToAsk } else { Progress::ToClose(decision.vote) };
            (listener, progress)
        };
        Self { value: decision.value, vote: decision.vote, listeners: listeners.into_iter().map(begin).collect() }
    }

    /// Moves on; ready when each node is told or missed. Never blocks.
    pub fn poll(&mut self, fabric: &impl Fabric) -> Poll<()> {
        fabric.progress();
        let closed = AcceptorWord::closed(self.value);
        let mut is_over = true;
        for (listener, progress) in &mut self.listeners {
            ask(listener, progress, self.vote, fabric);
            step(listener, progress, closed, fabric);
            is_over &= matches!(progress, Progress::Told | Progress::Missed | Progress::Behind);
        }
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The nodes that could not be reached, or not so far. They are told by another announcement, or never need to be.
    pub fn missed(&self) -> Vec<usize> {
        let is_missed = |(_, progress): &&(Listener, Progress)| *progress != Progress::Told;
        self.listeners.iter().filter(is_missed).map(|(listener, _)| listener.node).collect()
    }

    /// Whether a node was not told because it does not know the instance before.
    pub fn is_behind(&self, node: usize) -> bool {
        self.listeners.iter().any(|(listener, progress)| listener.node == node && *progress == Progress::Behind)
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        for (_, progress) in &mut self.listeners {
            if let Progress::Asking { ticket } | Progress::Closing { ticket, .. } | Progress::Writing { ticket } =
                *progress
            {
                fabric.forget(ticket);
                *progress = Progress::Missed;
            }
        }
    }
}

/// Looks whether a node knows the instance before.
fn ask(listener: &Listener, progress: &mut Progress, vote: AcceptorWord, fabric: &impl Fabric) {
    if let (Progress::ToAsk, Some(before)) = (*progress, listener.slot.before) {
        *progress = match fabric.read(listener.node, before) {
            Ok(ticket) => Progress::Asking { ticket },
            Err(crate::fabric::PostError::Full { .. }) => Progress::ToAsk,
            Err(_) => Progress::Missed,
        };
    }
    if let Progress::Asking { ticket } = *progress {
        let Poll::Ready(answer) = fabric.take(ticket) else { return };
        *progress = match answer {
            Ok(0) => Progress::Behind,
            Ok(_) => Progress::ToClose(vote),
            Err(_) => Progress::Missed,
        };
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
    if let Progress::Writing { ticket } = *progress {
        let Poll::Ready(answer) = fabric.take(ticket) else { return };
        *progress = match answer {
            Ok(decided) if decided == u64::from(closed.value()) => Progress::Told,
            // Memory gone wrong, as above.
            Ok(_) => Progress::Missed,
            // The writes may have been lost, too.
            Err(_) => Progress::ToClose(closed),
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

/// The word is closed: whatever is written late says the same. What is read behind it shows that it has been written.
fn write(listener: &Listener, closed: AcceptorWord, fabric: &impl Fabric) -> Progress {
    let at = listener.slot.decided;
    let mut requests = vec![Request::Write { at, value: u64::from(closed.value()) }];
    requests.extend_from_slice(&listener.then);
    requests.push(Request::Read { at });
    let mut tickets = Vec::new();
    match fabric.post(listener.node, &requests, &mut tickets) {
        Ok(()) => {
            let ticket = tickets.pop().expect("a ticket for each request");
            tickets.into_iter().for_each(|ticket| fabric.forget(ticket));
            Progress::Writing { ticket }
        }
        // Once more round, for room.
        Err(crate::fabric::PostError::Full { .. }) => Progress::ToClose(closed),
        Err(_) => Progress::Missed,
    }
}
