//! The sharing, tried exhaustively ([`crate::coord::objects::trial`]): writers alone, readers beside readers only, each
//! side let in after one phase of the other, nobody forgotten.

use super::{Called, Member, PartWord, PhaseWord, Sharing, SharingAt, State, Turn};
use crate::coord::objects::trial::{Actor, Protocol, World, check};
use crate::fabric::WordAt;

const PHASE: usize = 0;
const PARTS: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Read,
    Write,
    /// Write, and then read without letting anybody write in between.
    Downgrade,
}

impl Sharing {
    fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }
}

impl Protocol for Sharing {
    type Act = Act;

    fn begins_with_lock(act: Act) -> bool {
        act != Act::Read
    }

    fn begin(&mut self, act: Act) -> Turn {
        match act {
            Act::Read => self.read(),
            Act::Write | Act::Downgrade => self.write(),
        }
    }

    fn look(&mut self) -> Turn {
        self.look()
    }

    fn give_up(&mut self, _act: Act) -> Turn {
        self.leave()
    }

    fn go_on(&mut self, act: Act) -> Turn {
        match act {
            Act::Downgrade if self.is_writing() => self.downgrade(),
            _ => self.leave(),
        }
    }

    fn answered(
        &mut self,
        _act: Act,
        answers: &[u64],
        has_ended: impl Fn(usize) -> bool,
        mut poke: impl FnMut(usize),
    ) -> Turn {
        let has_ended = |member| match member {
            Member::Rank(rank) => has_ended(rank),
            Member::Node(_) => unreachable!("no node has a part here"),
        };
        self.answered(answers, has_ended, |called| match called {
            Called::Rank(rank) => poke(rank),
            Called::Of { .. } => unreachable!("no node has a part here"),
        })
    }

    fn keeps_lock(&self) -> bool {
        self.is_writing()
    }

    fn check_entry(rank: usize, words: &[u64], ranks: &[Actor<Self>], inside: &[usize]) {
        let phase = PhaseWord(words[PHASE]);
        let is_alone = inside == [rank];
        if ranks[rank].part.is_writing() {
            assert!(is_alone, "rank {rank} writes beside {inside:?}");
            assert_eq!(phase.writer(), Some(rank));
            // One that says only that it reads may have found this writer, and is about to wait for it.
            let waited = |other: &usize| {
                let part = PartWord(words[PARTS + other]);
                !ranks[*other].is_dead && part != PartWord::READING && part.reads_in(phase.phase())
            };
            assert_eq!(
                (0..ranks.len()).find(waited),
                None,
                "rank {rank} writes before it, which waited for an earlier one"
            );
            return;
        }
        let writer = inside.iter().find(|other| **other != rank && ranks[**other].part.is_writing());
        assert_eq!(writer, None, "rank {rank} reads beside it");
        if ranks[rank].act == Act::Read {
            assert_ne!(ranks[rank].noted, phase.phase() + 1, "rank {rank} has passed a writer that was there before");
        }
    }

    /// The phase, plus 1, if a writer is there.
    fn note_beginning(words: &[u64]) -> u64 {
        let phase = PhaseWord(words[PHASE]);
        phase.writer().map_or(0, |_| phase.phase() + 1)
    }
}

fn world(acts: &[&[Act]]) -> World<Sharing> {
    // Those of nodes are tried in `shared_hold`.
    let nowhere = WordAt(usize::MAX);
    let (phase, parts, ranks) = (WordAt(PHASE), WordAt(PARTS), acts.len());
    let at = SharingAt { phase, parts, ranks, node_parts: nowhere, places: nowhere, nodes: 0 };
    let ranks = acts.iter().enumerate().map(|(rank, acts)| (Sharing::new(at, rank), acts.to_vec()));
    World::new(PARTS + acts.len(), ranks.collect())
}

use Act::{Downgrade, Read, Write};

#[test]
fn two_ranks_in_every_order() {
    for acts in [[[Read, Write], [Write, Read]], [[Write, Write], [Read, Read]], [[Downgrade, Read], [Read, Downgrade]]]
    {
        check(world(&[&acts[0], &acts[1]]));
    }
}

#[test]
fn three_ranks_in_every_order() {
    for acts in [[Read, Write, Write], [Read, Read, Write], [Downgrade, Write, Read]] {
        check(world(&[&acts[0..1], &acts[1..2], &acts[2..3]]));
    }
}

#[test]
fn ranks_that_look_though_nothing_is_wrong() {
    check(world(&[&[Read, Write], &[Write, Read]]).looking_early());
}

#[test]
fn ranks_that_give_up() {
    check(world(&[&[Read, Write], &[Write, Read]]).with_doubts());
    check(world(&[&[Read], &[Write], &[Write]]).with_doubts());
    check(world(&[&[Read], &[Read], &[Downgrade]]).with_doubts());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn one_dies_at_any_moment() {
    check(world(&[&[Read, Write], &[Write, Read]]).with_deaths(1));
    check(world(&[&[Read], &[Write], &[Write]]).with_deaths(1));
    check(world(&[&[Read], &[Downgrade], &[Read]]).with_deaths(1));
}

#[test]
#[ignore = "minutes: some ten million states"]
fn two_of_three_die_or_give_up_at_any_moment() {
    check(world(&[&[Read], &[Write], &[Write]]).with_deaths(2).with_doubts());
    check(world(&[&[Read, Read], &[Write], &[Write, Read]]).with_deaths(1));
}
