//! Who survives, and going on without those who have failed: a new group of a group's survivors.
//!
//! Who survives follows from the view log, which is the same for all; so all that is left to agree on is how much of
//! it. A member proposes the survivors that it knows, under a name that says which epoch has last taken one from them.
//! If one of them fails meanwhile, or a member knows of a later epoch, there is no such group, and all who come to know
//! it try again with theirs. Whoever gets a group passes one barrier of it before it is given to the caller: all
//! survivors have passed it, or none has, so that all have the group, or none keeps it.

use std::time::Duration;

use super::failures::Failures;
use super::limit::Limit;
use super::{Abandoned, Group};
use crate::cluster::view;
use crate::coord::activity::Call;
use crate::coord::offers::Named;
use crate::error::{BarrierError, GroupError};
use crate::fabric::node::hash;

/// The kind of key under which groups of survivors are offered.
const SHRINK_KEY: u64 = 3;

impl Group {
    /// The members that survive, by the last epoch that is known here: their ranks in the job, in the group's order.
    ///
    /// Survivors that know the same epoch give the same answer.
    ///
    /// # Cost
    ///
    /// This node's log is read, as far as it is new.
    pub fn survivors(&self) -> Vec<usize> {
        let mut core = self.core.borrow_mut();
        self.read_log(&mut core.failures);
        self.survivors_in(&core.failures).1
    }

    /// The epoch that [`survivors`](Self::survivors) goes by: it grows with each rank or node that the job loses.
    ///
    /// # Cost
    ///
    /// A look at a word of this node.
    pub fn epoch(&self) -> u64 {
        view::epoch(self.segment(), &self.segment().layout())
    }

    /// Makes a group of those members that have not failed, in the same order. All of them call it; within `deadline`
    /// it gives all of them the same group, or each an error. Works whether this group is broken or not, and leaves it
    /// as it is.
    ///
    /// # Errors
    ///
    /// [`GroupError`] as of [`subgroup`](Self::subgroup); [`BarrierError::Excluded`] for a rank that has been declared
    /// failed itself;
    /// [`BarrierError::TimedOut`] or [`GroupError::LeaderMissing`] when a survivor did not call it in time;
    /// [`BarrierError::Unreachable`] on the side of a partition whose nodes are too few to agree;
    /// [`BarrierError::Unsettled`] when another one has failed meanwhile, and a survivor's node did not answer in time.
    ///
    /// # Cost
    ///
    /// As [`subgroup`](Self::subgroup), and a barrier of the new group.
    pub fn shrink(&self, deadline: Duration) -> Result<Group, GroupError> {
        let limit = self.limit(Some(deadline));
        let _noted = self.note_call(Call::Shrink);
        self.membership.settle();
        loop {
            let (epoch, ranks) = self.known_survivors()?;
            let key = hash(SHRINK_KEY, &[self.id(), epoch]);
            let call = self.core.borrow().lists_made.get(&key).copied().unwrap_or(0) + 1;
            match self.form(ranks, Named { key, call }, limit).and_then(|group| self.confirm(group, limit)) {
                Ok(group) => {
                    self.core.borrow_mut().lists_made.insert(key, call);
                    return Ok(group);
                }
                // Another one has failed: there is a later epoch.
                Err(GroupError::Barrier(BarrierError::RankFailed { .. })) if self.epoch() > epoch => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Who survives by all that is known here, and the last epoch that has made a difference to that: members that know
    /// the one alike know the other alike.
    ///
    /// # Errors
    ///
    /// This rank does not.
    fn known_survivors(&self) -> Result<(u64, Vec<usize>), BarrierError> {
        let mut core = self.core.borrow_mut();
        self.read_log(&mut core.failures);
        match self.own_exclusion(&core.failures) {
            Some(error) => Err(error),
            None => Ok(self.survivors_in(&core.failures)),
        }
    }

    /// Who survives, and the last epoch that has made a difference to that.
    fn survivors_in(&self, failures: &Failures) -> (u64, Vec<usize>) {
        let survivors =
            (0..self.size()).filter(|member| !failures.has_failed(*member)).map(|member| self.ranks[member]);
        (failures.last_of_members(), survivors.collect())
    }

    /// Passes a barrier of the new group, so that its members have it.
    fn confirm(&self, group: Group, limit: Option<Limit>) -> Result<Group, GroupError> {
        let left = self.left(limit).unwrap_or_default();
        match group.barrier_timeout(left) {
            Ok(()) => Ok(group),
            // Either it is passed after all, for all members, or it will not be.
            Err(error @ BarrierError::TimedOut { .. }) => match group.abandon() {
                Ok(Abandoned::Passed) => Ok(group),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}
