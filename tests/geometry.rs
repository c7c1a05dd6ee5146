//! The geometry of groups, by random cases against oracles: who is in a split's groups, the shape of trees, where the
//! words of a block stand, and what the arena gives out. proptest prints the smallest failing case and keeps its seed.
#![cfg(not(model))]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use phalanx::coord::barrier::choice::tree_parents;
use phalanx::coord::barrier::layout::GroupLayout;
use phalanx::coord::{arena, formation};
use phalanx::fabric::node::{NodeLayout, OFFER_WORDS, OFFERS, OfferAt, UNIT_WORDS};
use phalanx::fabric::sim::SimNode;
use phalanx::fabric::{LINE_WORDS, WordAt};
use phalanx::machine::Place;
use proptest::prelude::*;

/// Colours and keys from few values, so that equal ones are common.
fn given() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..4u64, prop_oneof![0..3u64, Just(u64::MAX)]), 1..200)
}

/// The oracle of a split: all at once, by sorting.
fn split_of(given: &[(u64, u64)]) -> BTreeMap<u64, Vec<usize>> {
    let sorted: BTreeSet<(u64, u64, usize)> =
        given.iter().enumerate().map(|(index, (color, key))| (*color, *key, index)).collect();
    let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    sorted.into_iter().for_each(|(color, _, index)| groups.entry(color).or_default().push(index));
    groups
}

fn places() -> impl Strategy<Value = Vec<Option<Place>>> {
    let place = (0..4u16, 0..8u16).prop_map(|(numa, cache)| Place { numa, cache });
    prop::collection::vec(prop::option::of(place), 1..130)
}

/// A member's ancestors, itself first; `None` when they go round in a circle.
fn way_up(member: usize, parents: &[Option<usize>]) -> Option<Vec<usize>> {
    let mut way = vec![member];
    while let Some(parent) = parents[*way.last().expect("never empty")] {
        way.push(parent);
        if way.len() > parents.len() {
            return None;
        }
    }
    Some(way)
}

/// Every word that a block's layout names, with two sequences for what has two buffers.
fn all_words(layout: GroupLayout) -> Vec<WordAt> {
    let mut words = vec![
        layout.id(),
        layout.size_word(),
        layout.algorithm(),
        layout.question(),
        layout.decision(),
        layout.decision_sleepers(),
        layout.result(),
        layout.result_last(),
    ];
    for index in 0..layout.size() {
        words.extend(hot_words(layout, index));
        words.extend([layout.member(index), layout.sleepers(index)]);
        words.extend([layout.waited(index), layout.longest_wait(index), layout.times_last(index)]);
        words.extend([layout.hold(index), layout.stopped(index)]);
        words.extend([1, 2].map(|sequence| layout.arrived_at(index, sequence)));
    }
    words
}

/// What others read while they wait for a member.
fn hot_words(layout: GroupLayout, index: usize) -> Vec<WordAt> {
    let mut words = vec![layout.arrival(index), layout.cpu(index), layout.gathered(index)];
    words.extend([layout.gathered_value(index), layout.released(index), layout.released_value(index)]);
    for sequence in [1, 2] {
        let buffered = [layout.value(index, sequence), layout.color(index, sequence), layout.key(index, sequence)];
        words.extend(buffered);
    }
    words
}

fn lines_of(words: &[WordAt]) -> HashSet<usize> {
    words.iter().map(|word| word.0 / LINE_WORDS).collect()
}

/// Two members alone may share one line for their arrivals and values, and then nothing else stands in it; what else is
/// hot stands in a line of each one's own.
#[test]
fn a_pair_shares_at_most_a_line_for_its_arrivals_and_values() {
    let layout = GroupLayout::new(WordAt(0), 2);
    let exchanged = |index| vec![layout.arrival(index), layout.value(index, 1), layout.value(index, 2)];
    let [left, right] = [0, 1].map(|index| {
        let own = hot_words(layout, index).into_iter().filter(|word| !exchanged(index).contains(word));
        lines_of(&own.collect::<Vec<_>>())
    });
    assert!(left.len() == 1 && right.len() == 1 && left != right);
    let both = [exchanged(0), exchanged(1)].concat();
    let others: Vec<WordAt> = all_words(layout).into_iter().filter(|word| !both.contains(word)).collect();
    let is_paired = lines_of(&both).len() == 1 && lines_of(&both).is_disjoint(&lines_of(&others));
    let is_apart = lines_of(&exchanged(0)) == left && lines_of(&exchanged(1)) == right;
    assert!(is_paired || is_apart);
}

fn words_of(offer: OfferAt) -> [WordAt; OFFER_WORDS] {
    [offer.key(), offer.value(), offer.takers(), offer.group(), offer.call(), offer.stage(), offer.doom()]
}

/// What a test of the arena does next.
#[derive(Clone, Debug)]
enum Move {
    Claim(usize),
    Release(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![(1..90usize).prop_map(Move::Claim), (0..100usize).prop_map(Move::Release)];
    prop::collection::vec(one, 1..200)
}

/// Whether `units` units in a row are free.
fn has_run(taken: &BTreeSet<usize>, of: usize, units: usize) -> bool {
    (0..(of + 1).saturating_sub(units)).any(|start| taken.range(start..start + units).next().is_none())
}

proptest! {
    #[test]
    fn a_split_is_a_partition_in_the_order_of_keys(given in given()) {
        let groups = split_of(&given);
        let mut seen = 0;
        for (color, expected) in &groups {
            let members = formation::members_of(*color, &given);
            prop_assert_eq!(&members, expected);
            seen += members.len();
        }
        prop_assert_eq!(seen, given.len(), "everybody is in exactly one group");
        prop_assert!(formation::members_of(77, &given).is_empty());
    }

    #[test]
    fn parents_make_one_narrow_tree_along_the_places(places in places()) {
        let parents = tree_parents(&places);
        prop_assert_eq!(parents.len(), places.len());
        prop_assert_eq!(parents.iter().filter(|parent| parent.is_none()).count(), 1, "one root");
        for member in 0..places.len() {
            let way = way_up(member, &parents);
            prop_assert!(way.is_some_and(|way| way.last() == Some(&0)), "member {} hangs under the first", member);
            // Eight within a cache, eight caches, eight nodes: no line has more readers than that.
            let children = parents.iter().filter(|parent| **parent == Some(member)).count();
            prop_assert!(children <= 24, "member {} has {} children", member, children);
        }
        // Lines cross between places only where whole places hang together.
        let kinds: BTreeSet<_> = places.iter().collect();
        let crossing = parents.iter().zip(&places).filter(|(parent, place)| parent.is_some_and(|p| places[p] != **place));
        prop_assert!(crossing.count() < kinds.len());
    }

    #[test]
    fn no_two_words_of_a_block_coincide(size in 1..130usize, start in 0..1000usize) {
        let layout = GroupLayout::new(WordAt(start), size);
        let words = all_words(layout);
        let distinct: HashSet<WordAt> = words.iter().copied().collect();
        prop_assert_eq!(distinct.len(), words.len());
        let end = start + GroupLayout::words(size);
        prop_assert!(words.iter().all(|word| (start..end).contains(&word.0)));
    }

    #[test]
    fn no_two_writers_share_a_hot_line(size in prop_oneof![Just(1), 3..70usize]) {
        let layout = GroupLayout::new(WordAt(0), size);
        let lines: Vec<HashSet<usize>> = (0..size).map(|index| lines_of(&hot_words(layout, index))).collect();
        prop_assert!(lines.iter().all(|lines| lines.len() == 1), "a member has one hot line");
        prop_assert_eq!(lines.iter().flatten().collect::<HashSet<_>>().len(), size, "and it alone");
        let hot: HashSet<WordAt> = (0..size).flat_map(|index| hot_words(layout, index)).collect();
        let hot_lines: HashSet<usize> = lines.into_iter().flatten().collect();
        let others: Vec<WordAt> = all_words(layout).into_iter().filter(|word| !hot.contains(word)).collect();
        prop_assert!(hot_lines.is_disjoint(&lines_of(&others)), "nothing else stands there");
    }

    #[test]
    fn a_node_has_room_for_its_ranks_and_units(ranks in 1..130usize, arena_words in 1..100_000usize) {
        let layout = NodeLayout::new(ranks, arena_words);
        let entries: HashSet<WordAt> = (0..ranks)
            .flat_map(|rank| (0..OFFERS).flat_map(move |index| words_of(layout.offer(rank, index))).chain([layout.process(rank)]))
            .collect();
        prop_assert_eq!(entries.len(), ranks * (OFFERS * OFFER_WORDS + 1));
        prop_assert!(entries.iter().all(|word| *word < layout.bitmap(0)));
        prop_assert!(layout.bitmap(layout.bitmap_words() - 1) < layout.unit(0));
        prop_assert!(layout.arena_units() * UNIT_WORDS >= arena_words);
        prop_assert_eq!(layout.unit(0).0 % LINE_WORDS, 0);
    }

    #[test]
    fn the_arena_gives_out_what_is_free_and_takes_it_back(of in 1..200usize, moves in moves()) {
        let layout = NodeLayout::new(1, of * UNIT_WORDS);
        let node = SimNode::new(layout.words());
        let mut held: Vec<(usize, usize)> = Vec::new();
        let mut taken = BTreeSet::new();
        for one in moves {
            match one {
                Move::Claim(units) => match arena::claim(&node, &layout, units) {
                    Some(start) => {
                        prop_assert!(start + units <= of);
                        prop_assert!((start..start + units).all(|unit| taken.insert(unit)), "given out twice");
                        held.push((start, units));
                    }
                    None => prop_assert!(!has_run(&taken, of, units), "{} units in a row are free", units),
                },
                Move::Release(which) if !held.is_empty() => {
                    let (start, units) = held.swap_remove(which % held.len());
                    arena::release(&node, &layout, start, units);
                    (start..start + units).for_each(|unit| { taken.remove(&unit); });
                }
                Move::Release(_) => {}
            }
            prop_assert_eq!(arena::taken(&node, &layout), taken.len());
        }
    }
}
