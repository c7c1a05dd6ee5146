//! A member's barrier, wherever the group's members live, and the driver on it.

use std::time::{Duration, Instant};

use crate::coord::barrier::spanning::Spanning;
use crate::coord::barrier::{Barrier, Contribution, Outcome, Withdrawal};
use crate::coord::drive::{self, Arrived, Bounds, Reach, Waited};
use crate::fabric::Await;
use crate::fabric::network::Network;
use crate::fabric::shm::Segment;
use crate::job::Membership;

/// So long whoever waits for other nodes looks without a pause: some round trips.
const BUSY_FOR: Duration = Duration::from_micros(500);
/// The first pause after that.
const LEAST_NAP: Duration = Duration::from_micros(20);
/// The longest.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// The machine of a group's barrier.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the barrier of one node is the one that counts nanoseconds")]
pub(super) enum Meeting {
    /// All members live on this node.
    Local(Barrier),
    /// They live on several.
    Spanning(Box<Spanning>),
}

/// A member of this node whose process has ended, or is ending.
pub(super) struct Dead {
    /// Its place among the group's members of this node.
    pub index: usize,
    /// Its rank in the job.
    pub rank: usize,
}

impl Meeting {
    /// How many barriers this member has passed.
    #[inline]
    pub fn passed(&self) -> u64 {
        match self {
            Self::Local(barrier) => barrier.passed(),
            Self::Spanning(barrier) => barrier.passed(),
        }
    }

    /// Whether this member has arrived at a barrier that it has not passed.
    #[inline]
    pub fn is_outstanding(&self) -> bool {
        match self {
            Self::Local(barrier) => barrier.is_outstanding(),
            Self::Spanning(barrier) => barrier.is_outstanding(),
        }
    }

    /// What the outstanding arrival brought.
    pub fn contribution(&self) -> Contribution {
        match self {
            Self::Local(barrier) => barrier.contribution(),
            Self::Spanning(barrier) => barrier.contribution(),
        }
    }

    #[inline]
    pub fn arrive(&mut self, membership: &Membership, contribution: Contribution) -> Arrived {
        match self {
            Self::Local(barrier) => membership.driver.arrive(barrier, &*membership.segment, contribution),
            Self::Spanning(barrier) => membership.driver.arrive(&mut **barrier, &membership.reach(), contribution),
        }
    }

    pub fn test(&mut self, membership: &Membership) -> Option<Outcome> {
        match self {
            Self::Local(barrier) => membership.driver.test(barrier, &*membership.segment),
            Self::Spanning(barrier) => membership.driver.test(&mut **barrier, &membership.reach()),
        }
    }

    #[inline]
    pub fn wait(&mut self, membership: &Membership, arrived: &Arrived, bounds: Bounds) -> Waited {
        match self {
            Self::Local(barrier) => membership.driver.wait(barrier, &*membership.segment, arrived, bounds),
            Self::Spanning(barrier) => membership.driver.wait(&mut **barrier, &membership.reach(), arrived, bounds),
        }
    }

    /// Goes on with a wait that was interrupted; it began at `since`.
    pub fn resume(&mut self, membership: &Membership, arrived: &Arrived, bounds: Bounds, since: u64) -> Waited {
        let driver = &membership.driver;
        match self {
            Self::Local(barrier) => driver.resume(barrier, &*membership.segment, arrived, bounds, since),
            Self::Spanning(barrier) => driver.resume(&mut **barrier, &membership.reach(), arrived, bounds, since),
        }
    }

    /// Leaves a barrier that cannot be passed, because some members are gone for good; `dead` are the
    /// members of this node that have died. `Some` if it had been passed before.
    pub fn give_up(&mut self, membership: &Membership, dead: &[Dead]) -> Option<Outcome> {
        self.bury(membership, dead);
        match self {
            Self::Local(barrier) => match membership.driver.withdraw(barrier, &*membership.segment) {
                Withdrawal::Passed(outcome) => Some(outcome),
                Withdrawal::Withdrawn | Withdrawal::Exhausted => None,
            },
            Self::Spanning(barrier) => {
                let reach = membership.reach();
                barrier.give_up(reach.memory, reach.fabric);
                None
            }
        }
    }

    /// Settles what the dead have left half done.
    fn bury(&self, membership: &Membership, dead: &[Dead]) {
        let barrier = match self {
            Self::Local(barrier) => barrier,
            Self::Spanning(barrier) => barrier.local(),
        };
        let (segment, begun) = (&*membership.segment, Instant::now());
        for Dead { index, rank } in dead.iter().filter(|dead| barrier.is_left_half_done(segment, dead.index)) {
            membership.await_stillness(*rank, begun);
            barrier.bury(segment, *index);
        }
    }

    pub fn withdraw(&mut self, membership: &Membership) -> Withdrawal {
        match self {
            Self::Local(barrier) => membership.driver.withdraw(barrier, &*membership.segment),
            Self::Spanning(barrier) => membership.driver.withdraw(&mut **barrier, &membership.reach()),
        }
    }

    /// After an arrival that is not waited for at once: what others need of this member before it looks again.
    pub fn after_arrival(&mut self, membership: &Membership) {
        match self {
            Self::Local(barrier) if cfg!(feature = "attribution") => barrier.note_missing(&*membership.segment),
            Self::Local(_) => {}
            // Of a node whose last member this is, the others are told now.
            Self::Spanning(barrier) => {
                let reach = membership.reach();
                barrier.begin(reach.memory, reach.fabric);
            }
        }
    }

    /// Before it is dropped: what it has asked of other nodes will not be taken.
    pub fn let_go(&mut self, membership: &Membership) {
        if let Self::Spanning(barrier) = self {
            barrier.let_go(membership.reach().fabric);
        }
    }
}

impl Membership {
    /// This node's words, and the way to the others'.
    pub fn reach(&self) -> Reach<'_, Segment, Network> {
        Reach { memory: &self.segment, fabric: self.network.as_ref().expect("a group that spans nodes has a network") }
    }

    /// Leaves the connections to the thread in the background.
    pub fn hand_over(&self) {
        if let Some(network) = &self.network {
            network.hand_over();
        }
    }

    /// Sleeps for so long, or until something has come in from other nodes.
    pub fn nap(&self, timeout: Duration) {
        match &self.network {
            Some(network) => network.nap(drive::alarm(&*self.segment), timeout),
            None => std::thread::sleep(timeout),
        }
    }
}

/// A wait for other nodes, by one who looks again and again: without a pause at first, then more and more seldom.
#[derive(Debug)]
pub(super) struct Patience {
    begun: Instant,
    nap: Duration,
}

impl Patience {
    pub fn new() -> Self {
        Self { begun: Instant::now(), nap: Duration::ZERO }
    }

    pub fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Between two looks.
    pub fn pause(&mut self, membership: &Membership) {
        if self.waited() < BUSY_FOR {
            return crate::machine::yield_cpu();
        }
        self.nap = (self.nap * 2).clamp(LEAST_NAP, LONGEST_NAP);
        membership.nap(self.nap);
    }
}
