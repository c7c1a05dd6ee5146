//! Reader-writer locks, leases and elections, as a rank uses them.
//!
//! A lease is now renewed in the background, now by hand, and until when it lasts is recorded from before it was asked
//! for, so that the record promises no more than the library. Who leads looks who does, and whether it still does.
//! Both write a word under their tokens when they begin and before they end, as a holder does that was stopped in the
//! middle.

use std::time::Duration;

use phalanx::{Leader, LeaseError, LeaseGuard, LockError, Token};

use super::super::deeds::{Act, End};
use super::super::now_ns;
use super::{Belongings, Set, WordOf, end_of_lock, write_under, wrong};

/// How long a change of leaders is waited for.
const WATCHES_FOR: Duration = Duration::from_micros(500);

impl Belongings {
    /// Reads under a reader-writer lock.
    pub(super) fn enter(&mut self, number: usize, span: Duration, held: impl FnOnce()) -> std::io::Result<()> {
        let Self { rank, sets, deeds, .. } = self;
        let (object, shared) = (number as u64, &sets[number].shared);
        let guard = deeds.note(Act::Enter, object, || shared.read(), |got| end_of_step(*rank, got))?;
        let Ok(guard) = guard else { return Ok(()) };
        held();
        pause(span);
        drop(deeds.note(Act::Leave, object, || guard.release(), |left| end_of_step(*rank, left))?);
        Ok(())
    }

    /// Writes under a reader-writer lock, and sometimes reads on.
    pub(super) fn enter_alone(
        &mut self,
        number: usize,
        span: Duration,
        held: impl FnOnce(Token),
    ) -> std::io::Result<()> {
        let reads_on = self.random.below(3) == 0;
        let Self { rank, sets, deeds, .. } = self;
        let (object, shared) = (number as u64, &sets[number].shared);
        let guard = deeds.note(
            Act::EnterAlone,
            object,
            || shared.write(),
            |got| match got {
                Ok(guard) => Some(End::Granted(guard.token().0)),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        let Ok(guard) = guard else { return Ok(()) };
        held(guard.token());
        pause(span);
        if !reads_on {
            drop(deeds.note(Act::LeaveAlone, object, || guard.release(), |left| end_of_step(*rank, left))?);
            return Ok(());
        }
        let reads = deeds.note(Act::Downgrade, object, || guard.downgrade(), |got| end_of_step(*rank, got))?;
        let Ok(reads) = reads else { return Ok(()) };
        pause(span);
        drop(deeds.note(Act::Leave, object, || reads.release(), |left| end_of_step(*rank, left))?);
        Ok(())
    }

    /// Holds a lease.
    pub(super) fn rent(&mut self, number: usize, span: Duration, held: impl FnOnce(Token)) -> std::io::Result<()> {
        let is_kept = self.random.below(2) == 0;
        let Self { rank, sets, deeds, .. } = self;
        let (object, Set { lease, words, .. }) = (number as u64, &mut sets[number]);
        let guard = deeds.note(
            Act::Rent,
            object,
            || if is_kept { lease.hold() } else { lease.acquire() },
            |got| match got {
                Ok(guard) => Some(held_until(guard)),
                Err(error) => end_of_lease(*rank, error),
            },
        )?;
        let Ok(guard) = guard else { return Ok(()) };
        held(guard.token());
        write_under(guard.token(), WordOf::Lease, *rank, words, object, deeds)?;
        pause(span);
        let renew = || if is_kept { Ok(()) } else { guard.renew() };
        let renewed = deeds.note(Act::Renew, object, renew, |renewed| match renewed {
            Ok(()) => Some(held_until(&guard)),
            Err(error) => end_of_lease(*rank, error),
        })?;
        drop(renewed);
        // Also where it is lost: what is late is refused.
        write_under(guard.token(), WordOf::Lease, *rank, words, object, deeds)?;
        let vacated = deeds.note(
            Act::Vacate,
            object,
            || guard.release(),
            |vacated| match vacated {
                Ok(()) => Some(End::Done),
                Err(error) => end_of_lease(*rank, error),
            },
        )?;
        drop(vacated);
        Ok(())
    }

    /// Stands for an election until it is won, and leads.
    pub(super) fn lead(&mut self, number: usize, span: Duration, held: impl FnOnce(Token)) -> std::io::Result<()> {
        let is_split = self.random.below(3) == 0;
        let Self { rank, sets, deeds, .. } = self;
        let (object, Set { election, words, .. }) = (number as u64, &mut sets[number]);
        let leadership = deeds.note(
            Act::Stand,
            object,
            || if is_split { election.stand()?.wait() } else { election.campaign() },
            |got| match got {
                Ok(leadership) => Some(End::Granted(leadership.term().0)),
                Err(error) => end_of_lock(*rank, error),
            },
        )?;
        let Ok(leadership) = leadership else { return Ok(()) };
        let term = leadership.term();
        held(term);
        write_under(term, WordOf::Election, *rank, words, object, deeds)?;
        pause(span);
        drop(deeds.note(Act::Look, object, || election.leader(), |seen| end_of_look(*rank, seen))?);
        drop(deeds.note(Act::Check, object, || leadership.check(), |checked| end_of_step(*rank, checked))?);
        write_under(term, WordOf::Election, *rank, words, object, deeds)?;
        drop(deeds.note(Act::Resign, object, || leadership.resign(), |resigned| end_of_step(*rank, resigned))?);
        Ok(())
    }

    /// Looks who leads, and sometimes watches.
    pub(super) fn look(&mut self, number: usize) -> std::io::Result<()> {
        let watches = self.random.below(2) == 0;
        let Self { rank, sets, deeds, .. } = self;
        let (object, election) = (number as u64, &sets[number].election);
        let seen = deeds.note(Act::Look, object, || election.leader(), |seen| end_of_look(*rank, seen))?;
        let Ok(known) = seen else { return Ok(()) };
        if watches {
            let watch = || election.wait_for_change(known, WATCHES_FOR);
            drop(deeds.note(Act::Look, object, watch, |seen| match seen {
                // What has not changed may not have been looked at again.
                Ok(seen) if *seen == known => Some(End::Done),
                seen => end_of_look(*rank, seen),
            })?);
        }
        Ok(())
    }
}

fn pause(span: Duration) {
    if span > Duration::ZERO {
        std::thread::sleep(span);
    }
}

/// What is promised by a guard now.
fn held_until(guard: &LeaseGuard<'_>) -> End {
    let before_ns = now_ns();
    let left_ns = u64::try_from(guard.remaining().as_nanos()).unwrap_or(u64::MAX / 2);
    End::Held(guard.token().0, if left_ns > 0 { before_ns + left_ns } else { 0 })
}

fn end_of_step<T>(rank: usize, result: &Result<T, LockError>) -> Option<End> {
    match result {
        Ok(_) => Some(End::Done),
        Err(error) => end_of_lock(rank, error),
    }
}

fn end_of_look(rank: usize, seen: &Result<Option<Leader>, LockError>) -> Option<End> {
    match seen {
        Ok(Some(leader)) => Some(End::Led(leader.rank as u64, leader.term.0)),
        Ok(None) => Some(End::Nobody),
        Err(error) => end_of_lock(rank, error),
    }
}

fn end_of_lease(rank: usize, error: &LeaseError) -> Option<End> {
    match error {
        LeaseError::Excluded { .. } => Some(End::Excluded),
        LeaseError::Unreachable { .. } => Some(End::Unreachable),
        LeaseError::Expired { .. } => Some(End::Expired),
        other => wrong(rank, other),
    }
}
