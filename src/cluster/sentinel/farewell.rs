//! Who has left, told to those next to it in the ring.
//!
//! A node that has left is in no log before somebody asks after it. But whoever came next to it must know: those behind
//! it are watched by others now, and those before it watch others. So what the last rank of a node says before it ends,
//! the node's *farewell*, goes to the two before it and to the two behind it; and every node tells its own neighbours
//! of all that have left between them and a little beyond, as soon as it has news for one of them, or a new neighbour.
//!
//! ```text
//!   6   7   8   9  10      8 leaves: it tells 6, 7, 9 and 10. These watch each other now: 6 ▶ 7, 9   7 ▶ 9, 10
//!   6   7   ×   9  10      9 leaves: it tells 6, 7, 10 and 11 of 8, and then of itself
//! ```
//!
//! A node that leaves ends when they have heard it. Otherwise its ports could be found closed while its farewell is on
//! its way, and a node that has left as it should be declared gone, with the barriers that others are about to pass.
//! With each answer comes the listener's own heartbeat. If that is a farewell, too, the listener may have said it to
//! others before it heard this one; they then are told from here. If not, it will say both, its own last. So nobody
//! believes that it has a new neighbour before it knows of those that left before.

use std::task::Poll;

use super::{FAREWELL, Post, Site, has_left, ring};
use crate::cluster::detector::HeartbeatWord;
use crate::fabric::{Fabric, Memory, PostError, Request, Ticket};
use crate::sync::Ordering;

/// So many nodes a node that leaves tells at most, where those next to it leave with it, and those next to these.
const LISTENERS_MAX: usize = 32;
/// So many farewells are told at once.
const TOLD_AT_ONCE: usize = 64;

/// A node that is told who has left.
#[derive(Debug)]
struct Listener {
    node: usize,
    /// By node: whether it has heard that this one has left.
    has_heard: Vec<bool>,
    /// What is being told, and the question that shows whether it was heard.
    under_way: Option<(Ticket, Vec<usize>)>,
}

/// What one node tells those next to it.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    listeners: Vec<Listener>,
    /// How many have been added since this node itself began to leave.
    added_leaving: usize,
}

impl Farewells {
    /// Tells those next to this node whatever they have not heard; whether they have heard all, or cannot be reached.
    /// Never blocks.
    pub fn spread<M: Memory, F: Fabric, S>(&mut self, post: &Post, site: &Site<'_, M, F, S>, absent: &[bool]) -> bool {
        let (layout, here) = (post.layout(), post.here());
        let (before, behind) = (ring::before(absent, here), ring::behind(absent, here));
        let is_leaving = has_left(site.memory, &layout, here);
        let mut left = [before.passed, behind.passed].concat();
        left.sort_unstable();
        left.dedup();
        left.retain(|node| has_left(site.memory, &layout, *node));
        // Whoever hears this node's own farewell knows the others.
        left.extend(Some(here).filter(|_| is_leaving));
        self.turn_to(&[before.near, behind.near].concat(), absent.len(), is_leaving, site.fabric);
        // All are told, though one has not heard.
        let has_heard = self.listeners.iter_mut().map(|listener| listener.tell(post, site, &left));
        has_heard.filter(|has_heard| !has_heard).count() == 0
    }

    /// From now on tells these nodes, and no others.
    fn turn_to(&mut self, near: &[usize], nodes: usize, is_leaving: bool, fabric: &impl Fabric) {
        let others = self.listeners.extract_if(.., |known| !near.contains(&known.node));
        others.for_each(|mut other| other.let_go(fabric));
        for node in near {
            let is_known = self.listeners.iter().any(|known| known.node == *node);
            if is_known || is_leaving && self.added_leaving == LISTENERS_MAX {
                continue;
            }
            self.added_leaving += usize::from(is_leaving);
            self.listeners.push(Listener { node: *node, has_heard: vec![false; nodes], under_way: None });
        }
    }

    /// Gives up what is under way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        self.listeners.iter_mut().for_each(|listener| listener.let_go(fabric));
    }
}

impl Listener {
    /// Tells it that these have left, again if its answer was lost; whether it has heard all.
    fn tell<M: Memory, F: Fabric, S>(&mut self, post: &Post, site: &Site<'_, M, F, S>, left: &[usize]) -> bool {
        if let Some((ticket, said)) = self.under_way.take() {
            match site.fabric.take(ticket) {
                Poll::Pending => {
                    self.under_way = Some((ticket, said));
                    return false;
                }
                Poll::Ready(Ok(heartbeat)) => {
                    said.into_iter().for_each(|node| self.has_heard[node] = true);
                    if HeartbeatWord(heartbeat).incarnation() == FAREWELL {
                        // Others come next to this node. Relaxed: nothing else is read by it.
                        site.memory.word(post.layout().heartbeat(self.node)).store(heartbeat, Ordering::Relaxed);
                        return false;
                    }
                }
                Poll::Ready(Err(_)) => {}
            }
        }
        let unheard = left.iter().copied().filter(|node| !self.has_heard[*node]);
        let unheard: Vec<usize> = unheard.take(TOLD_AT_ONCE).collect();
        unheard.is_empty() || self.say(post, site, unheard)
    }

    /// Whether it cannot be told.
    fn say<M: Memory, F: Fabric, S>(&mut self, post: &Post, site: &Site<'_, M, F, S>, left: Vec<usize>) -> bool {
        let (layout, there) = (post.layout(), post.layouts[self.node]);
        // Relaxed: nothing else is read by it.
        let farewell = |node| site.memory.word(layout.heartbeat(node)).load(Ordering::Relaxed);
        let writes = left.iter().map(|node| Request::Write { at: there.heartbeat(*node), value: farewell(*node) });
        // What is asked behind a write is answered after the write.
        let says: Vec<Request> = writes.chain([Request::Read { at: there.heartbeat(self.node) }]).collect();
        let mut tickets = Vec::new();
        match site.fabric.post(self.node, &says, &mut tickets) {
            Ok(()) => self.under_way = tickets.pop().map(|ticket| (ticket, left)),
            Err(PostError::Full { .. }) => {}
            // It has left, too, or is shut out, or cut off.
            Err(_) => return true,
        }
        false
    }

    fn let_go(&mut self, fabric: &impl Fabric) {
        if let Some((ticket, _)) = self.under_way.take() {
            fabric.forget(ticket);
        }
    }
}
