//! The sharing, tried exhaustively ([`crate::coord::objects::trial`]): writers alone, readers beside readers only, each
//! side let in after one phase of the other, nobody forgotten.

use super::{Called, Member, PartWord, PhaseWord, Sharing, SharingAt, State, Turn};
use crate::coord::objects::trial::{Actor, Moment, Protocol, World, check};
use crate::explorer::execute;
use crate::fabric::{Request, WordAt};

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

    fn check_end(rank: usize, words: &[u64]) {
        assert_eq!(PartWord(words[PARTS + rank]), PartWord::NOTHING, "rank {rank} reads no more");
        assert_ne!(PhaseWord(words[PHASE]).writer(), Some(rank), "rank {rank} writes no more");
    }

    /// The phase, plus 1, if a writer is there.
    fn note_beginning(words: &[u64]) -> u64 {
        let phase = PhaseWord(words[PHASE]);
        phase.writer().map_or(0, |_| phase.phase() + 1)
    }

    fn stake(&self, act: Act, moment: Moment) -> Option<u64> {
        match moment {
            Moment::Begins => (act == Act::Read).then_some(Self::READS),
            Moment::IsAnswered => None,
            Moment::IsIn => self.is_writing().then_some(Self::WRITES),
            Moment::GoesOn if act == Act::Downgrade && self.is_writing() => Some(Self::READS),
            Moment::GoesOn | Moment::GivesUp => Some(Self::NO_STAKE),
        }
    }

    fn carry(&self, rank: usize, stake: u64) -> Option<Request> {
        self.at.carry(rank, stake)
    }

    fn restart(&mut self, _act: Act) -> Turn {
        self.restart(self.at)
    }

    fn comes_in_by_stake(&self) -> bool {
        self.is_writing()
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
fn the_home_is_lost_at_any_moment() {
    check(world(&[&[Read], &[Write]]).losing_homes(1));
    check(world(&[&[Downgrade], &[Write]]).losing_homes(1));
    check(world(&[&[Read], &[Write]]).losing_homes(1).with_doubts());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn the_home_is_lost_and_one_dies() {
    check(world(&[&[Read], &[Write]]).losing_homes(1).with_deaths(1));
    check(world(&[&[Read, Write], &[Write, Read]]).losing_homes(1));
    check(world(&[&[Read], &[Write]]).losing_homes(2));
}

#[test]
#[ignore = "minutes: millions of states"]
fn the_home_of_three_is_lost() {
    check(world(&[&[Read], &[Write], &[Write]]).losing_homes(1));
    check(world(&[&[Read], &[Read], &[Downgrade]]).losing_homes(1));
    check(world(&[&[Downgrade], &[Write]]).losing_homes(2).with_deaths(1).with_doubts());
}

#[test]
#[ignore = "minutes: some ten million states"]
fn two_of_three_die_or_give_up_at_any_moment() {
    check(world(&[&[Read], &[Write], &[Write]]).with_deaths(2).with_doubts());
    check(world(&[&[Read, Read], &[Write], &[Write, Read]]).with_deaths(1));
}

/// How many round trips one needs that waits for another one, once it knows that that one has died.
fn rounds_to_follow(dead: Act, waits: Act) -> usize {
    let nowhere = WordAt(usize::MAX);
    let (phase, parts) = (WordAt(PHASE), WordAt(PARTS));
    let at = SharingAt { phase, parts, ranks: 2, node_parts: nowhere, places: nowhere, nodes: 0 };
    let mut words = vec![0; PARTS + 2];
    let mut ask = |part: &mut Sharing, mut turn: Turn, is_dead: bool| {
        let mut rounds = 0;
        while let Turn::Ask(requests) = turn {
            let answers = requests.into_iter().filter_map(|request| execute(&mut words, request));
            let answers: Vec<u64> = answers.collect();
            turn = part.answered(&answers, |member| is_dead && member == Member::Rank(0), |_| {});
            rounds += 1;
        }
        (turn, rounds)
    };
    let (mut first, mut second) = (Sharing::new(at, 0), Sharing::new(at, 1));
    let turn = Protocol::begin(&mut first, dead);
    assert_eq!(ask(&mut first, turn, false).0, Turn::In);
    let turn = Protocol::begin(&mut second, waits);
    assert_eq!(ask(&mut second, turn, false).0, Turn::Wait);
    let turn = second.look();
    let (turn, rounds) = ask(&mut second, turn, true);
    assert_eq!(turn, Turn::In);
    rounds
}

#[test]
fn a_reader_follows_a_dead_writer_after_two_round_trips_and_a_writer_a_dead_reader_after_one() {
    assert_eq!(rounds_to_follow(Write, Read), 2);
    assert_eq!(rounds_to_follow(Read, Write), 1);
}
