//! The packed words of a barrier. Each has its bit table here; docs/design.md draws where they stand.

/// What members do together at a barrier. All members of a group must name the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A plain barrier.
    Barrier = 0,
    /// Bitwise AND of all contributions.
    And = 1,
    /// Bitwise OR of all contributions.
    Or = 2,
    /// The least contribution.
    Min = 3,
    /// The greatest contribution.
    Max = 4,
    /// The library's own barrier inside `split`.
    Split = 5,
}

impl Operation {
    const ALL: [Self; 6] = [Self::Barrier, Self::And, Self::Or, Self::Min, Self::Max, Self::Split];

    fn from_code(code: u64) -> Self {
        Self::ALL.into_iter().find(|operation| *operation as u64 == code).unwrap_or(Self::Barrier)
    }

    /// Whether members contribute a value.
    pub fn has_value(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Min | Self::Max)
    }

    /// Two contributions made one.
    pub fn combine(self, left: u64, right: u64) -> u64 {
        match self {
            Self::And => left & right,
            Self::Or => left | right,
            Self::Min => left.min(right),
            Self::Max => left.max(right),
            Self::Barrier | Self::Split => 0,
        }
    }

    /// This operation's bit in a mask of operations.
    pub(super) fn bit(self) -> u64 {
        1 << self as u64
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::And => "and",
            Self::Or => "or",
            Self::Min => "min",
            Self::Max => "max",
            Self::Split => "split",
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a member has gone with the barrier that its arrival word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has arrived.
    Arrived = 1,
    /// It has arrived, wants to take that back, and looks whether it still can.
    Withdrawing = 2,
    /// It has taken its arrival back: it has not arrived.
    Withdrawn = 3,
}

/// A member's arrival. Written by that member only; only grows.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | phase | 0 never arrived, 1 arrived, 2 withdrawing, 3 withdrawn |
/// | 2–4 | operation | of this sequence |
/// | 5–7 | previous | the operation of the sequence before: a member may be one barrier ahead of a reader |
/// | 8–15 | attempt | how often an arrival at this sequence was taken back |
/// | 16–63 | sequence | which barrier, counted from 1; at 50 ns each, 2^48 of them take 163 days |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArrivalWord(pub u64);

impl ArrivalWord {
    pub const MAX_ATTEMPT: u64 = 255;
    const ATTEMPT: u64 = 0xff << 8;

    pub fn new(sequence: u64, attempt: u64, previous: Operation, operation: Operation, phase: Phase) -> Self {
        Self(sequence << 16 | attempt << 8 | (previous as u64) << 5 | (operation as u64) << 2 | phase as u64)
    }

    pub fn sequence(self) -> u64 {
        self.0 >> 16
    }

    pub fn is_withdrawing(self) -> bool {
        self.0 & 3 == Phase::Withdrawing as u64
    }

    /// Whether the member has arrived at `sequence`, or is already beyond it.
    #[inline]
    pub fn has_arrived(self, sequence: u64) -> bool {
        self.sequence() > sequence || (self.sequence() == sequence && self.0 & 3 == Phase::Arrived as u64)
    }

    /// Whether the member has surely not arrived at `sequence`: it is behind, or has finished taking its arrival back.
    pub fn has_not_arrived(self, sequence: u64) -> bool {
        self.sequence() < sequence || (self.sequence() == sequence && self.0 & 3 == Phase::Withdrawn as u64)
    }

    /// What the member named at `sequence`; the word must be of that sequence or the next.
    pub fn operation_at(self, sequence: u64) -> Operation {
        let shift = if self.sequence() == sequence { 2 } else { 5 };
        Operation::from_code(self.0 >> shift & 7)
    }

    /// The same arrival, taken back, or standing again: for one who can do neither any more.
    pub fn settled(self, stands: bool) -> Self {
        let word = Self(self.0 & !3);
        if stands { Self((word.0 | Phase::Arrived as u64) + (1 << 8)) } else { Self(word.0 | Phase::Withdrawn as u64) }
    }

    /// Equal but for the attempt: the quick proof that two members named the same operation.
    #[inline]
    pub fn agrees_with(self, other: Self) -> bool {
        (self.0 ^ other.0) & !Self::ATTEMPT == 0
    }
}

/// The one word by which a tree or a central counter decides that a barrier has been passed. Changed by
/// compare-and-swap only; the sequence only grows.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–5 | operations | central: a bit for each operation named so far at the next barrier |
/// | 6 | scan | the members of the last barrier passed find its outcome in each other's words |
/// | 7–17 | count | central: arrivals at the next barrier. tree: withdrawals from it |
/// | 18–63 | sequence | barriers passed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecisionWord(pub u64);

impl DecisionWord {
    pub const MAX_COUNT: u64 = (1 << 11) - 1;

    pub fn new(sequence: u64, count: u64, scan: bool, operations: u64) -> Self {
        Self(sequence << 18 | count << 7 | u64::from(scan) << 6 | operations)
    }

    pub fn sequence(self) -> u64 {
        self.0 >> 18
    }

    pub fn count(self) -> u64 {
        self.0 >> 7 & Self::MAX_COUNT
    }

    pub fn scan(self) -> bool {
        self.0 & 1 << 6 != 0
    }

    pub fn operations(self) -> u64 {
        self.0 & 0x3f
    }

    pub fn with_count(self, count: u64) -> Self {
        Self(self.0 & !(Self::MAX_COUNT << 7) | count << 7)
    }
}

/// What a tree's member passes up (all below me have arrived) or down (the barrier is passed). Written by that member
/// only; only its sequence is compared, and that only grows.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–2 | operation | up: what everybody below named |
/// | 3 | scan | up: they disagree. down: find the outcome in the members' words |
/// | 4–14 | last | index of the member that was seen to come last |
/// | 15 | – | 0 |
/// | 16–63 | sequence | which barrier |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TreeWord(pub u64);

impl TreeWord {
    pub fn new(sequence: u64, last: usize, scan: bool, operation: Operation) -> Self {
        Self(sequence << 16 | (last as u64 & 0x7ff) << 4 | u64::from(scan) << 3 | operation as u64)
    }

    pub fn sequence(self) -> u64 {
        self.0 >> 16
    }

    #[allow(clippy::cast_possible_truncation, reason = "eleven bits")]
    pub fn last(self) -> usize {
        (self.0 >> 4 & 0x7ff) as usize
    }

    pub fn scan(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    pub fn operation(self) -> Operation {
        Operation::from_code(self.0 & 7)
    }
}

/// Hash over the tables above, for the layout hash.
pub(super) const LAYOUT_HASH: u64 =
    crate::fabric::node::hash(3, &[16, 8, 5, 2, 18, 7, 6, 16, 4, 3, Operation::Split as u64]);

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: u64 = (1 << 46) - 1;

    #[test]
    fn arrival_words_keep_their_fields_and_grow_with_every_step() {
        let word = |attempt, phase| ArrivalWord::new(SEQUENCE, attempt, Operation::Split, Operation::Max, phase);
        let steps = [
            word(0, Phase::Arrived),
            word(0, Phase::Withdrawing),
            word(0, Phase::Withdrawn),
            word(1, Phase::Arrived),
            word(255, Phase::Withdrawn),
            ArrivalWord::new(SEQUENCE + 1, 0, Operation::Max, Operation::Barrier, Phase::Arrived),
        ];
        assert!(steps.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(steps[0].sequence(), SEQUENCE);
        assert_eq!(steps[0].operation_at(SEQUENCE), Operation::Max);
        assert_eq!(steps[5].operation_at(SEQUENCE), Operation::Max);
        assert_eq!(steps[5].operation_at(SEQUENCE + 1), Operation::Barrier);
        assert_eq!((steps[1].settled(false), steps[1].settled(true)), (steps[2], steps[3]));
        assert!(steps[0].agrees_with(steps[3]) && !steps[0].agrees_with(steps[1]));
    }

    #[test]
    fn only_an_arrived_or_later_word_has_arrived() {
        let word = |sequence, phase| ArrivalWord::new(sequence, 0, Operation::Barrier, Operation::Barrier, phase);
        assert!(word(5, Phase::Arrived).has_arrived(5));
        assert!(!word(5, Phase::Withdrawing).has_arrived(5) && !word(5, Phase::Withdrawing).has_not_arrived(5));
        assert!(!word(5, Phase::Withdrawn).has_arrived(5) && word(5, Phase::Withdrawn).has_not_arrived(5));
        assert!(word(6, Phase::Withdrawn).has_arrived(5));
        assert!(!word(4, Phase::Arrived).has_arrived(5) && word(4, Phase::Arrived).has_not_arrived(5));
        assert!(!ArrivalWord(0).has_arrived(1) && ArrivalWord(0).has_not_arrived(1));
    }

    #[test]
    fn decision_and_tree_words_keep_their_fields() {
        let word = DecisionWord::new(SEQUENCE, 2047, true, 0x3f);
        assert_eq!((word.sequence(), word.count(), word.scan(), word.operations()), (SEQUENCE, 2047, true, 0x3f));
        let word = word.with_count(3);
        assert_eq!((word.sequence(), word.count(), word.scan(), word.operations()), (SEQUENCE, 3, true, 0x3f));
        let word = TreeWord::new(SEQUENCE, 2047, true, Operation::Split);
        assert_eq!(
            (word.sequence(), word.last(), word.scan(), word.operation()),
            (SEQUENCE, 2047, true, Operation::Split)
        );
    }
}
