//! Long calls, noted in the node's table for those who look from outside.

use super::Group;
use crate::coord::activity::{self, Call, CallWord, NotedCall};
use crate::job::Membership;

/// A long call that is noted in the node's table until this is dropped.
pub(super) struct Noted<'membership> {
    membership: &'membership Membership,
    /// What it was in before: a shrink, say, of which this is a part.
    outer: NotedCall,
}

impl<'membership> Noted<'membership> {
    pub fn new(membership: &'membership Membership, call: Call, sequence: u64, group: u64, since: u64) -> Self {
        let (node, local) = (membership.segment.layout(), membership.local_of(membership.rank));
        let noted = NotedCall { call: CallWord::inside(call, sequence), group, since };
        Self { membership, outer: activity::enter(&*membership.segment, &node, local, noted) }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let (segment, local) = (&*self.membership.segment, self.membership.local_of(self.membership.rank));
        activity::leave(segment, &segment.layout(), local, self.outer);
    }
}

impl Group {
    /// Notes for those who look from outside that this rank is in a long call, until what it returns is dropped.
    pub(super) fn note_call(&self, call: Call) -> Noted<'_> {
        let since = self.membership.driver.clock.now();
        Noted::new(&self.membership, call, self.passed(), self.id(), since)
    }
}
