//! The leaders of a spanning group's nodes tell each other where their blocks are.
//!
//! Each has made its node's block and offered it abroad under a key that all members compute alike
//! ([`super::formation::offer_abroad`]). Each looks for the others' offers by one-sided reads, as often as it has to, and
//! thanks for what it has found by a fetch-add, so that the offer's place is free again. Nobody coordinates; two round
//! trips when all are there.

use std::task::Poll;

use crate::fabric::node::{NodeLayout, OFFERS};
use crate::fabric::{Fabric, PostError, Request, Ticket, WordAt};

/// Words read of each offer: key, value, group.
const WORDS: usize = 3;

/// A node whose block this one has to learn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its number in the job.
    pub node: usize,
    /// Its leader's place in its rank table.
    pub leader: usize,
    /// How its segment is divided.
    pub layout: NodeLayout,
}

/// What an offer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduced {
    /// The block's first word, unchecked, or [`super::formation::REFUSED`].
    pub start: u64,
    /// The number that the node gives to the group.
    pub group: u64,
}

/// All of a group's other nodes.
#[derive(Debug)]
pub struct Introductions {
    key: u64,
    strangers: Vec<(Stranger, State)>,
}

#[derive(Debug)]
enum State {
    /// To be asked, for the first time or again.
    Unasked,
    /// The reads of all the leader's offers.
    Asked(Vec<Ticket>),
    /// Found; the thanks are to be posted.
    Found(usize, Introduced),
    /// Found, and the thanks are on their way.
    Known(Introduced),
}

impl Introductions {
    /// Nobody is known yet.
    pub fn new(key: u64, strangers: Vec<Stranger>) -> Self {
        Self { key, strangers: strangers.into_iter().map(|stranger| (stranger, State::Unasked)).collect() }
    }

    /// Moves on; ready when all are known.
    pub fn poll(&mut self, fabric: &impl Fabric) -> Poll<()> {
        fabric.progress();
        let key = self.key;
        let mut is_complete = true;
        for (stranger, state) in &mut self.strangers {
            step(key, stranger, state, fabric);
            is_complete &= matches!(state, State::Known(_));
        }
        if is_complete { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The first node that is not known.
    pub fn missing(&self) -> Option<&Stranger> {
        self.strangers.iter().find(|(_, state)| !matches!(state, State::Known(_))).map(|(stranger, _)| stranger)
    }

    /// What the nodes have said, in the order in which they were given.
    ///
    /// # Panics
    ///
    /// Before all are known.
    pub fn introduced(&self) -> Vec<Introduced> {
        let known = |(_, state): &(Stranger, State)| match state {
            State::Known(introduced) => *introduced,
            State::Unasked | State::Asked(_) | State::Found(..) => panic!("not all nodes are known"),
        };
        self.strangers.iter().map(known).collect()
    }

    /// Gives up what is on its way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        for (_, state) in &mut self.strangers {
            if let State::Asked(tickets) = state {
                tickets.drain(..).for_each(|ticket| fabric.forget(ticket));
                *state = State::Unasked;
            }
        }
    }
}

fn step(key: u64, stranger: &Stranger, state: &mut State, fabric: &impl Fabric) {
    if let State::Unasked = state {
        ask(stranger, state, fabric);
    }
    if let State::Asked(tickets) = state
        && let Poll::Ready(last) = fabric.take(tickets[tickets.len() - 1])
    {
        let tickets = std::mem::take(tickets);
        *state = match understand(key, &tickets, last.ok(), fabric) {
            Some((offer, introduced)) => State::Found(offer, introduced),
            None => State::Unasked,
        };
    }
    if let State::Found(offer, introduced) = state {
        let at = stranger.layout.offer(stranger.leader, *offer).thanks();
        if let Ok(ticket) = fabric.fetch_add(stranger.node, at, 1) {
            fabric.forget(ticket);
            *state = State::Known(*introduced);
        }
    }
}

fn ask(stranger: &Stranger, state: &mut State, fabric: &impl Fabric) {
    let offers = (0..OFFERS).map(|index| stranger.layout.offer(stranger.leader, index));
    // Each key before what belongs to it: if the key is right, the rest was there before it.
    let words = offers.flat_map(|offer| -> [WordAt; WORDS] { [offer.key(), offer.value(), offer.group()] });
    let requests: Vec<Request> = words.map(|at| Request::Read { at }).collect();
    let mut tickets = Vec::with_capacity(requests.len());
    match fabric.post(stranger.node, &requests, &mut tickets) {
        Ok(()) => *state = State::Asked(tickets),
        // Asked again at the next poll: the node may be about to start.
        Err(PostError::Full { .. } | PostError::Unreachable { .. } | PostError::Invalid { .. }) => {}
    }
}

/// The offer of the key, if it is among those that were read. The last ticket has been taken: it gave `last`.
fn understand(key: u64, tickets: &[Ticket], last: Option<u64>, fabric: &impl Fabric) -> Option<(usize, Introduced)> {
    let (_, others) = tickets.split_last().expect("a leader has offers");
    let take = |ticket: &Ticket| match fabric.take(*ticket) {
        Poll::Ready(value) => value.ok(),
        Poll::Pending => {
            fabric.forget(*ticket);
            None
        }
    };
    let values: Vec<Option<u64>> = others.iter().map(take).chain([last]).collect();
    let mut offers = values.chunks_exact(WORDS).enumerate();
    offers.find_map(|(index, offer)| match offer {
        [Some(found), Some(start), Some(group)] if *found == key => {
            Some((index, Introduced { start: *start, group: *group }))
        }
        _ => None,
    })
}
