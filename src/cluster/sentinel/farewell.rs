//! What the last rank of a node says before it ends: that the node has left, to those who watch it.
//!
//! It ends when they have heard it. Otherwise its ports could be found closed while its farewell is on its way, and a node
//! that has left as it should be declared gone, with the barriers that others are about to pass.

use std::task::Poll;
use std::time::Duration;

use super::telling::FINISHING;
use super::{Post, Site, ring};
use crate::cluster::detector::HeartbeatWord;
use crate::fabric::node::header;
use crate::fabric::{Fabric, Memory, PostError, Request, Ticket};
use crate::sync::Ordering;

/// A farewell under way.
#[derive(Debug)]
pub(super) struct Farewell {
    heartbeat: HeartbeatWord,
    since: Duration,
    /// Those who have not heard it, each with the question that shows whether it has.
    unheard: Vec<(usize, Option<Ticket>)>,
}

impl Farewell {
    /// Begins, and says it on this node itself. `heartbeat` says that the node has left.
    pub fn new<M: Memory, F, S>(post: &Post, site: &Site<'_, M, F, S>, heartbeat: HeartbeatWord) -> Self {
        let (node, here) = (post.layout(), post.here());
        // SYNC POINT: heartbeat. Release pairs with the look of the next in line.
        site.memory.word(node.heartbeat(here)).store(heartbeat.0, Ordering::Release);
        let watchers = ring::watchers_of(site.memory, &node, here);
        Self { heartbeat, since: site.now, unheard: watchers.into_iter().map(|watcher| (watcher, None)).collect() }
    }

    /// Moves on; ready when all have heard it that can be reached, or after some time. Never blocks.
    pub fn poll<M, F: Fabric, S>(&mut self, post: &Post, site: &Site<'_, M, F, S>) -> Poll<()> {
        site.fabric.progress();
        self.unheard.retain_mut(|(watcher, question)| {
            let at = post.layouts[*watcher].heartbeat(post.here());
            let says = [Request::Write { at, value: self.heartbeat.0 }, Request::Read { at: header::EPOCH }];
            say(*watcher, question, &says, site.fabric).is_pending()
        });
        if self.unheard.is_empty() {
            return Poll::Ready(());
        }
        if site.now.saturating_sub(self.since) < FINISHING {
            return Poll::Pending;
        }
        self.unheard.drain(..).filter_map(|(_, question)| question).for_each(|ticket| site.fabric.forget(ticket));
        Poll::Ready(())
    }
}

/// Says it to one node, again if its answer was lost. What is asked behind a write is answered after the write.
fn say(watcher: usize, question: &mut Option<Ticket>, says: &[Request], fabric: &impl Fabric) -> Poll<()> {
    if let Some(ticket) = *question {
        let Poll::Ready(answer) = fabric.take(ticket) else { return Poll::Pending };
        *question = None;
        if answer.is_ok() {
            return Poll::Ready(());
        }
    }
    let mut tickets = Vec::new();
    match fabric.post(watcher, says, &mut tickets) {
        Ok(()) => *question = tickets.pop(),
        Err(PostError::Full { .. }) => {}
        // It has left, too, or is shut out, or cut off.
        Err(_) => return Poll::Ready(()),
    }
    Poll::Pending
}
