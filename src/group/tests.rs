//! What only some orders of steps lead to, a death within a microsecond or two say, brought about by hand: all ranks
//! are one thread's, and what others would have written stands in the node's memory.

use std::time::Duration;

use super::Group;
use super::failures::Stay;
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::coord::barrier::{Algorithm, Contribution};
use crate::coord::burial;
use crate::error::BarrierError;
use crate::fabric::Memory;
use crate::job::{Job, JobOptions};
use crate::sync::Ordering;

const LIMIT: Duration = Duration::from_secs(60);

fn ranks(count: usize) -> Vec<Job> {
    Job::threads(count).expect("a job")
}

fn ranks_by(algorithm: Algorithm, count: usize) -> Vec<Job> {
    Job::threads_with(count, &JobOptions::new().barrier(algorithm)).expect("a job")
}

fn killed(rank: usize) -> Obituary {
    Obituary { unit: Unit::Rank(rank), cause: FailureCause::Killed { signal: 9 } }
}

/// A rank of the node dies, and the log has it.
fn die(world: &Group, rank: usize) {
    let (segment, node) = (world.segment(), world.segment().layout());
    assert!(view::note_end(segment, node.end(rank), killed(rank)));
    assert_eq!(view::append(segment, &node, killed(rank)), 1);
}

/// Too few nodes answer to agree whether this one has failed, or that is over.
fn doubt(world: &Group, is_doubtful: bool) {
    let (segment, node) = (world.segment(), world.segment().layout());
    segment.word(node.doubt(0)).store(u64::from(is_doubtful), Ordering::Relaxed);
    view::raise_alarm(segment);
}

fn is_unreachable<T>(ended: &Result<T, BarrierError>) -> bool {
    matches!(ended, Err(BarrierError::Unreachable { .. }))
}

/// Its own arrival would stand beside the dead one's, and let somebody pass who has looked before the death.
#[test]
fn whoever_is_told_of_a_failure_has_taken_its_arrival_back() {
    for algorithm in Algorithm::ALL {
        let jobs = ranks_by(algorithm, 3);
        let [first, late, dead] = [0, 1, 2].map(|rank| jobs[rank].world());
        let _stands = dead.arrive().expect("an arrival");
        let held = first.arrive().expect("an arrival");
        die(first, 2);
        let told = held.test();
        assert!(matches!(told, Err(BarrierError::RankFailed { .. })), "{algorithm}: {told:?}");
        let mut core = late.core.borrow_mut();
        late.arrive_unless_arrived(&mut core, Contribution::NONE);
        assert_eq!(late.test_outstanding(&mut core), None, "{algorithm}: it passes what another has failed at");
    }
}

/// All have arrived, and one has died, between a member's last look at the barrier and its look at the log.
#[test]
fn a_barrier_that_is_found_passed_when_it_is_given_up_is_passed() {
    for algorithm in Algorithm::ALL {
        let jobs = ranks_by(algorithm, 3);
        let world = jobs[0].world();
        let arrivals: Vec<_> = jobs.iter().map(|job| job.world().arrive().expect("an arrival")).collect();
        die(world, 2);
        let mut core = world.core.borrow_mut();
        assert_eq!(world.heed_while_waiting(&mut core, Stay::Glance), Some(Ok(0)), "{algorithm}");
        assert_eq!(core.barrier.passed(), 1, "{algorithm}");
        let next = world.heed(&mut core, 2, Stay::Glance);
        assert!(matches!(next, Err(BarrierError::RankFailed { sequence: 2, .. })), "{algorithm}: {next:?}");
        drop(core);
        drop(arrivals);
    }
}

/// The alarm has been heeded, and the arrival stands: whoever waits for it must look all the same before its time is
/// over.
#[test]
fn a_wait_for_an_arrival_that_an_error_has_left_standing_looks_at_once() {
    let jobs = ranks(2);
    let [world, other] = [0, 1].map(|rank| jobs[rank].world());
    let held = world.arrive().expect("an arrival");
    doubt(world, true);
    assert!(is_unreachable(&held.test()));
    let waited = held.wait_timeout(Duration::ZERO);
    assert!(is_unreachable(&waited), "{waited:?}");
    doubt(world, false);
    let theirs = other.arrive().expect("an arrival");
    assert_eq!((held.wait(), theirs.wait()), (Ok(()), Ok(())), "it stood");
    drop((held, theirs));

    let early = world.barrier_timeout(Duration::ZERO);
    assert!(matches!(early, Err(BarrierError::TimedOut { .. })), "{early:?}");
    doubt(world, true);
    for _ in 0..2 {
        let resumed = world.barrier_timeout(Duration::ZERO);
        assert!(is_unreachable(&resumed), "{resumed:?}");
    }
}

/// A death that its node knows of, and the log does not, as long as other nodes have not agreed: the group is made, and
/// whoever has buried the dead has come too early.
#[test]
fn what_was_offered_to_a_dead_member_is_given_back_by_whoever_leaves() {
    for order in [[0, 1], [1, 0]] {
        let jobs = ranks(3);
        let world = jobs[0].world();
        let (segment, node) = (world.segment(), world.segment().layout());
        let before = world.space().0;
        assert!(view::note_end(segment, node.end(2), killed(2)));
        segment.word(node.gone(2)).store(1, Ordering::Release);
        view::raise_alarm(segment);
        burial::bury(segment, &node, |local| local == 2);
        let mut groups = [0, 1].map(|rank| Some(jobs[rank].world().subgroup(&[0, 1, 2], LIMIT).expect("a group")));
        for rank in order {
            drop(groups[rank].take());
        }
        assert_eq!(world.space().0, before, "left in the order {order:?}");
    }
}
