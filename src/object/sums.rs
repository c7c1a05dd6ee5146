//! What of a counter is kept on a second node ([`super::second`]): the sums of its ranks, of which those who are left
//! would not know if the home were lost.
//!
//! | ranks | their sums are written to the second node by |
//! | --- | --- |
//! | of the home | themselves, before each addition; by the home's steward when another node becomes the second |
//! | of nodes that have the object | nobody: they have them in their own memory, and their steward carries them |
//! | of nodes that have had it | their node when it gives its last handle back; others when another becomes the second |
//! | of lost nodes | a steward, when the home has shut them out |

use super::homes::Home;
use super::reach::Reach;
use super::second::reads;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::tally::{TallyAt, sum_at_home};
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::Ordering;

/// What this node's ranks have added before, when it opens a counter anew: as the home has it.
pub(super) fn recall(reach: &Reach, at: &ObjectAt, home: &Home) -> Result<(), SiteFault> {
    let sums = at_home(home, reach.topology.ranks_of(reach.here()))?;
    for (local, sum) in sums.into_iter().enumerate() {
        // Relaxed: published by the home's word.
        reach.segment.word(TallyAt::sum(at, local)).store(sum, Ordering::Relaxed);
    }
    Ok(())
}

/// What ranks have added, as the home has it.
fn at_home(home: &Home, ranks: &[usize]) -> Result<Vec<u64>, SiteFault> {
    let tally = TallyAt(home.at);
    let words: Vec<WordAt> = ranks.iter().flat_map(|rank| [tally.carried(*rank), tally.added(*rank)]).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let words = home.site.ask(&reads(&words))?;
    Ok(words.chunks_exact(2).map(|pair| sum_at_home([pair[0], pair[1]])).collect())
}

/// Has a copy, or the next home, have the sums of this node's ranks, as they have noted them. Where this node is the
/// home, they add nothing before it is noted who has the copies.
pub(super) fn of_own(reach: &Reach, at: &ObjectAt, copy: ObjectAt) -> Vec<Request> {
    let ranks = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let sum = |local| reach.load(TallyAt::sum(at, local));
    ranks.map(|(local, rank)| Request::Write { at: TallyAt(copy).carried(*rank), value: sum(local) }).collect()
}

/// Has a copy have the sums of some ranks, as the home has them.
pub(super) fn of_others(home: &Home, copy: ObjectAt, ranks: &[usize]) -> Result<Vec<Request>, SiteFault> {
    let sums = ranks.iter().zip(at_home(home, ranks)?);
    Ok(sums.map(|(rank, value)| Request::Write { at: TallyAt(copy).carried(*rank), value }).collect())
}

/// Has the home have the sums of this node's ranks, whoever of them has died in the middle of an addition.
pub(super) fn settled(reach: &Reach, at: &ObjectAt, home: &Home) -> Result<Vec<Request>, SiteFault> {
    let (tally, ranks) = (TallyAt(home.at), reach.topology.ranks_of(reach.here()));
    let carried: Vec<WordAt> = ranks.iter().map(|rank| tally.carried(*rank)).collect();
    let carried = home.site.ask(&reads(&carried))?;
    let added = ranks.iter().zip(&carried).enumerate().map(|(local, (rank, carried))| {
        let sum = reach.load(TallyAt::sum(at, local));
        Request::Write { at: tally.added(*rank), value: sum.wrapping_sub(*carried) }
    });
    Ok(added.collect())
}
