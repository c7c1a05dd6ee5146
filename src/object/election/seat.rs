//! What candidates want and a leader has: a lock, or a lease where leaders have a time to live.

use std::time::Duration;

use crate::object::error::LockError;
use crate::object::lease::{Lease, LeaseError, LeaseGuard, LeaseRequest};
use crate::object::lock::{Lock, LockGuard, LockRequest};
use crate::object::{Handle, Token};

/// Of one election, on this rank.
#[derive(Debug)]
pub(super) enum Seat {
    Lock(Box<Lock>),
    Lease(Lease),
}

impl Seat {
    pub fn handle(&self) -> &Handle {
        match self {
            Self::Lock(lock) => lock.handle(),
            Self::Lease(lease) => lease.handle(),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Lock(lock) => lock.name(),
            Self::Lease(lease) => lease.name(),
        }
    }

    pub fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Lock(_) => None,
            Self::Lease(lease) => Some(lease.ttl()),
        }
    }

    /// Waits for it, for at most so long.
    pub fn acquire(&self, limit: Option<Duration>) -> Result<Mandate<'_>, LockError> {
        match (self, limit) {
            (Self::Lock(lock), None) => of_lock(lock, lock.acquire()),
            (Self::Lock(lock), Some(limit)) => of_lock(lock, lock.acquire_timeout(limit)),
            (Self::Lease(lease), None) => of_lease(lease, lease.acquire()),
            (Self::Lease(lease), Some(limit)) => of_lease(lease, lease.acquire_timeout(limit)),
        }
    }

    /// Asks for it without waiting for other ranks.
    pub fn request(&self) -> Result<Claim<'_>, LockError> {
        match self {
            Self::Lock(lock) => Ok(Claim::Lock { lock, request: lock.request()? }),
            Self::Lease(lease) => {
                let request = lease.request().map_err(|error| error_of(lease, error))?;
                Ok(Claim::Lease { lease, request })
            }
        }
    }

    /// Who waits for it.
    pub fn queue(&self) -> Vec<usize> {
        match self {
            Self::Lock(lock) => lock.queue(),
            Self::Lease(lease) => lease.queue(),
        }
    }
}

/// A candidate's place.
#[derive(Debug)]
pub(super) enum Claim<'seat> {
    Lock { lock: &'seat Lock, request: LockRequest<'seat> },
    Lease { lease: &'seat Lease, request: LeaseRequest<'seat> },
}

impl<'seat> Claim<'seat> {
    pub fn test(&mut self) -> Result<bool, LockError> {
        match self {
            Self::Lock { request, .. } => request.test(),
            Self::Lease { lease, request } => request.test().map_err(|error| error_of(lease, error)),
        }
    }

    pub fn wait(self, limit: Option<Duration>) -> Result<Mandate<'seat>, LockError> {
        match (self, limit) {
            (Self::Lock { lock, request }, None) => of_lock(lock, request.wait()),
            (Self::Lock { lock, request }, Some(limit)) => of_lock(lock, request.wait_timeout(limit)),
            (Self::Lease { lease, request }, None) => of_lease(lease, request.wait()),
            (Self::Lease { lease, request }, Some(limit)) => of_lease(lease, request.wait_timeout(limit)),
        }
    }

    pub fn cancel(self) -> bool {
        match self {
            Self::Lock { request, .. } => request.cancel(),
            Self::Lease { request, .. } => request.cancel(),
        }
    }
}

/// A leader's.
#[derive(Debug)]
pub(super) enum Mandate<'seat> {
    Lock { lock: &'seat Lock, guard: LockGuard<'seat> },
    Lease { lease: &'seat Lease, guard: LeaseGuard<'seat> },
}

impl Mandate<'_> {
    pub fn token(&self) -> Token {
        match self {
            Self::Lock { guard, .. } => guard.token(),
            Self::Lease { guard, .. } => guard.token(),
        }
    }

    /// Fails where this rank has it no more, as far as can be said without asking.
    pub fn look_at_oneself(&self) -> Result<(), LockError> {
        match self {
            Self::Lock { lock, .. } => lock.look_at_oneself(),
            Self::Lease { lease, guard } => {
                lease.look_at_oneself().map_err(|error| error_of(lease, error))?;
                match guard.remaining().is_zero() {
                    true => Err(expired(lease, guard.token())),
                    false => Ok(()),
                }
            }
        }
    }

    /// Fails where this rank has it no more; where its time to live is over that is asked for, and it begins anew if
    /// nobody has followed.
    pub fn assure(&self) -> Result<(), LockError> {
        match self.look_at_oneself() {
            Err(LockError::Expired { .. }) => self.renew(),
            looked => looked,
        }
    }

    /// Has its time to live begin anew. What has none goes on anyway.
    pub fn renew(&self) -> Result<(), LockError> {
        match self {
            Self::Lock { .. } => Ok(()),
            Self::Lease { lease, guard } => guard.renew().map_err(|error| error_of(lease, error)),
        }
    }

    /// Has a thread renew it.
    pub fn keep(&mut self) -> Result<(), LockError> {
        match self {
            Self::Lock { .. } => Ok(()),
            Self::Lease { lease, guard } => guard.keep().map_err(|error| error_of(lease, error)),
        }
    }

    /// For how long it lasts; `None`: it has no end.
    pub fn remaining(&self) -> Option<Duration> {
        match self {
            Self::Lock { .. } => None,
            Self::Lease { guard, .. } => Some(guard.remaining()),
        }
    }

    pub fn is_expiring(&self) -> bool {
        match self {
            Self::Lock { .. } => false,
            Self::Lease { guard, .. } => guard.is_expiring(),
        }
    }

    pub fn release(self) -> Result<(), LockError> {
        match self {
            Self::Lock { guard, .. } => guard.release(),
            Self::Lease { lease, guard } => guard.release().map_err(|error| error_of(lease, error)),
        }
    }
}

fn of_lock<'seat>(
    lock: &'seat Lock,
    acquired: Result<LockGuard<'seat>, LockError>,
) -> Result<Mandate<'seat>, LockError> {
    acquired.map(|guard| Mandate::Lock { lock, guard })
}

fn of_lease<'seat>(
    lease: &'seat Lease,
    acquired: Result<LeaseGuard<'seat>, LeaseError>,
) -> Result<Mandate<'seat>, LockError> {
    acquired.map(|guard| Mandate::Lease { lease, guard }).map_err(|error| error_of(lease, error))
}

fn expired(lease: &Lease, token: Token) -> LockError {
    let (rank, name) = (lease.handle().membership.rank, lease.name().to_owned());
    LockError::Expired { rank, name, token, holder: None }
}

fn error_of(lease: &Lease, error: LeaseError) -> LockError {
    match error {
        LeaseError::AlreadyHeld { rank, name } => LockError::AlreadyHeld { rank, name },
        LeaseError::AlreadyRequested { rank, name } => LockError::AlreadyRequested { rank, name },
        LeaseError::TimedOut { rank, name, waited, holder } => {
            let topology = &lease.handle().membership.reach.topology;
            let holder_node = holder.map(|holder| topology.node_of(holder));
            LockError::TimedOut { rank, name, waited, holder, holder_node, ahead: Vec::new() }
        }
        LeaseError::Expired { rank, name, token, holder } => LockError::Expired { rank, name, token, holder },
        LeaseError::Unreachable { rank, name, node, waited } => LockError::Unreachable { rank, name, node, waited },
        LeaseError::NoRoom { rank, name, node, places } => LockError::NoRoom { rank, name, node, places },
        LeaseError::Excluded { rank, name, epoch, cause } => LockError::Excluded { rank, name, epoch, cause },
        LeaseError::NoThread { rank, name, why } => LockError::NoThread { rank, name, why },
    }
}
