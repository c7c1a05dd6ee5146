//! How a node's hold stands, as a word of the node says; and where the words are.

use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::sharing::{PartWord, Sharing, SharingAt};
use crate::fabric::{Request, WordAt};

/// How a node's hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stand {
    /// There is none.
    Nothing,
    /// A rank, by its place on the node, opens it.
    Opening(usize),
    /// It waits for the end of a phase.
    Waiting,
    /// Those who share it read.
    Open {
        /// How many have joined it since the home was asked.
        joined: u64,
    },
    /// A rank, by its place on the node, closes it.
    Closing(usize),
    /// A rank has opened or closed it, by its place on the node, and given up while it asked the home: it closes it
    /// when that is heard again.
    Abandoned(usize),
}

impl Stand {
    /// The rank that alone writes the node's part now, by its place on the node.
    pub const fn in_charge(self) -> Option<usize> {
        match self {
            Self::Opening(rank) | Self::Closing(rank) | Self::Abandoned(rank) => Some(rank),
            Self::Nothing | Self::Waiting | Self::Open { .. } => None,
        }
    }
}

/// A [`Stand`], packed.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–2 | state | 0 nothing, 1 opened, 2 waiting, 3 open, 4 closed, 5 abandoned |
/// | 3–13 | rank | opened, closed, abandoned: by whom, as a place on the node |
/// | 14–20 | joined | open: how many have joined |
/// | 21–63 | version | grows with each change |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedWord(pub u64);

impl SharedWord {
    const RANK_AT: u32 = 3;
    const RANK: u64 = 0x7ff;
    const JOINED_AT: u32 = 14;
    const JOINED: u64 = 0x7f;
    const VERSION_AT: u32 = 21;

    /// What it says.
    #[allow(clippy::cast_possible_truncation, reason = "11 bits")]
    pub const fn stand(self) -> Stand {
        let rank = (self.0 >> Self::RANK_AT & Self::RANK) as usize;
        match self.0 & 7 {
            1 => Stand::Opening(rank),
            2 => Stand::Waiting,
            3 => Stand::Open { joined: self.0 >> Self::JOINED_AT & Self::JOINED },
            4 => Stand::Closing(rank),
            5 => Stand::Abandoned(rank),
            _ => Stand::Nothing,
        }
    }

    /// The next word.
    #[must_use]
    pub const fn then(self, stand: Stand) -> Self {
        let version = (self.0 >> Self::VERSION_AT).wrapping_add(1) << Self::VERSION_AT;
        let state = match stand {
            Stand::Nothing => 0,
            Stand::Opening(rank) => 1 | (rank as u64 & Self::RANK) << Self::RANK_AT,
            Stand::Waiting => 2,
            Stand::Open { joined } => 3 | (joined & Self::JOINED) << Self::JOINED_AT,
            Stand::Closing(rank) => 4 | (rank as u64 & Self::RANK) << Self::RANK_AT,
            Stand::Abandoned(rank) => 5 | (rank as u64 & Self::RANK) << Self::RANK_AT,
        };
        Self(version | state)
    }

    /// The places of those who share the hold, or are in charge of it, where their stakes are these: for whoever waits
    /// for them, or looks from outside.
    pub fn sharers(self, stakes: &[u64]) -> Vec<usize> {
        let in_charge = self.stand().in_charge();
        let shares = |(local, stake): &(usize, &u64)| **stake == Sharing::SHARES || Some(*local) == in_charge;
        stakes.iter().enumerate().filter(shares).map(|(local, _)| local).collect()
    }
}

/// Where a node's hold stands, and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedAt {
    /// The hold: [`SharedWord`].
    pub word: WordAt,
    /// The stake of the node's first rank, with the others' behind it.
    pub stakes: WordAt,
    /// The node's ranks.
    pub ranks: usize,
    /// The node.
    pub node: usize,
    /// The object's place in the node's table.
    pub place: usize,
    /// The lock at its home.
    pub home: SharingAt,
}

impl SharedAt {
    /// Of an object in its node's table, whose home has it there.
    pub const fn of(here: &ObjectAt, node: usize, home: SharingAt) -> Self {
        let (word, stakes) = (here.shared_hold(), here.stake(0));
        Self { word, stakes, ranks: here.members(), node, place: here.index(), home }
    }

    pub(super) const fn part(&self) -> WordAt {
        self.home.node_parts.plus(self.node)
    }

    pub(super) const fn write_part(&self, part: PartWord) -> Request {
        Request::Write { at: self.part(), value: part.0 }
    }

    pub(super) const fn write_place(&self) -> Request {
        Request::Write { at: self.home.places.plus(self.node), value: self.place as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_is_read_as_it_was_packed_and_each_word_is_new() {
        let open = |joined| Stand::Open { joined };
        let all = [
            Stand::Nothing,
            Stand::Opening(1023),
            Stand::Waiting,
            open(0),
            open(64),
            Stand::Closing(7),
            Stand::Abandoned(9),
        ];
        let mut word = SharedWord(u64::MAX << SharedWord::VERSION_AT);
        for stand in all.into_iter().chain(all) {
            let next = word.then(stand);
            assert_eq!(next.stand(), stand);
            assert_ne!(next.0 >> SharedWord::VERSION_AT, word.0 >> SharedWord::VERSION_AT);
            word = next;
        }
    }

    #[test]
    fn those_who_share_a_hold_are_named_with_whoever_is_in_charge() {
        let stakes = [Sharing::SHARES, Sharing::READS, Sharing::WANTS, Sharing::NO_STAKE, Sharing::SHARES];
        let word = |stand| SharedWord(0).then(stand);
        assert_eq!(word(Stand::Open { joined: 3 }).sharers(&stakes), [0, 4]);
        assert_eq!(word(Stand::Closing(3)).sharers(&stakes), [0, 3, 4]);
        assert_eq!(word(Stand::Abandoned(1)).sharers(&stakes), [0, 1, 4]);
        assert_eq!(word(Stand::Opening(0)).sharers(&stakes), [0, 4]);
    }
}
