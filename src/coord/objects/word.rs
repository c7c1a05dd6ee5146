//! The packed words of a node's lock. Each has its bit table here; docs/design.md draws where they stand.

/// Ranks that a word can name.
const MOST_RANKS: usize = 1 << NAME_BITS;
const NAME_BITS: u32 = 11;
const NAME: u64 = (1 << NAME_BITS) - 1;

const _: () = assert!(MOST_RANKS > 1024 + 1, "each rank of a node, and nobody");

/// Who holds a lock, and what its release has to do. Changed by compare-and-swap only.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–10 | holder | the holder's place in the node's rank table, plus 1; 0: free |
/// | 11 | others | some claims may be waiting besides that of `next`: who releases looks at them |
/// | 12–22 | next | who waits on its CPU and is the first in the queue, plus 1; 0: nobody. 0 while the lock is free |
/// | 23–63 | version | grows with each grant, and with each claim that is made or taken back; its lower 40 bits are a token's |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldWord(pub u64);

impl HoldWord {
    const OTHERS: u64 = 1 << NAME_BITS;
    const NEXT_AT: u32 = NAME_BITS + 1;
    const VERSION_AT: u32 = 2 * NAME_BITS + 1;
    /// Of the version, those that are the lower part of a token.
    pub const TOKEN_BITS: u32 = 40;

    /// The holder's place in the node's rank table.
    #[inline]
    pub const fn holder(self) -> Option<usize> {
        named(self.0 & NAME)
    }

    /// Who waits on its CPU and is first in the queue.
    #[inline]
    pub const fn next(self) -> Option<usize> {
        named(self.0 >> Self::NEXT_AT & NAME)
    }

    /// Whether some claims may be waiting.
    #[inline]
    pub const fn is_wanted(self) -> bool {
        self.0 & (Self::OTHERS | NAME << Self::NEXT_AT) != 0
    }

    /// How often it has changed hands, or its queue has changed.
    #[inline]
    pub const fn version(self) -> u64 {
        self.0 >> Self::VERSION_AT
    }

    /// The same with the version grown by one.
    #[inline]
    const fn grown(self) -> Self {
        Self(self.0.wrapping_add(1 << Self::VERSION_AT))
    }

    /// Free, and held by `holder` from now on.
    #[inline]
    #[must_use]
    pub const fn granted_to(self, holder: usize) -> Self {
        let next = self.0 >> Self::NEXT_AT & NAME;
        let holder = holder as u64 + 1;
        let rest = self.0 & !NAME & !(NAME << Self::NEXT_AT);
        let others = if next == 0 || next == holder { 0 } else { Self::OTHERS };
        Self(rest | others | holder).grown()
    }

    /// Free, and wanted by somebody or not.
    #[inline]
    #[must_use]
    pub const fn freed(self, is_wanted: bool) -> Self {
        let version = self.0 >> Self::VERSION_AT << Self::VERSION_AT;
        Self(version | if is_wanted { Self::OTHERS } else { 0 })
    }

    /// Wanted, with a new version: a claim has been made.
    #[inline]
    #[must_use]
    pub const fn wanted(self) -> Self {
        Self(self.0 | Self::OTHERS).grown()
    }

    /// The same by a rank that waits on its CPU, and is the next if nobody else wants a lock that is held.
    #[inline]
    #[must_use]
    pub const fn wanted_by(self, rank: usize) -> Self {
        if self.is_wanted() || self.holder().is_none() { self.wanted() } else { self.with_next(Some(rank)).grown() }
    }

    /// Whoever is next does not wait on its CPU any more, but waits.
    #[inline]
    #[must_use]
    pub const fn unnamed(self) -> Self {
        Self(self.with_next(None).0 | Self::OTHERS)
    }

    /// With somebody who waits on its CPU, or nobody.
    #[inline]
    #[must_use]
    pub const fn with_next(self, next: Option<usize>) -> Self {
        let rest = self.0 & !(NAME << Self::NEXT_AT);
        let next = match next {
            Some(next) => next as u64 + 1,
            None => 0,
        };
        Self(rest | next << Self::NEXT_AT)
    }

    /// With the version of before.
    #[inline]
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.wrapping_sub(1 << Self::VERSION_AT))
    }

    /// With a new version: a claim has been taken back.
    #[inline]
    #[must_use]
    pub const fn changed(self) -> Self {
        self.grown()
    }

    /// The token of the grant that made this word, where `high` is the object's word of the upper bits; `None` while
    /// that word has still to grow, as the version's upper bit tells.
    #[inline]
    pub const fn token(self, high: u64) -> Option<u64> {
        let version = self.version();
        if version >> Self::TOKEN_BITS & 1 != high & 1 {
            return None;
        }
        Some(high << Self::TOKEN_BITS | version & ((1 << Self::TOKEN_BITS) - 1))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "11 bits")]
const fn named(field: u64) -> Option<usize> {
    match field {
        0 => None,
        place => Some(place as usize - 1),
    }
}

/// A rank's place in a lock's queue. Its lower half is slept on.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0 | waiting | there is a claim |
/// | 1 | parked | its rank sleeps, or is about to |
/// | 2 | called | it was woken, and is on its way |
/// | 3–15 | 0 | |
/// | 16–63 | order | who has the least is first. Where there is no claim: the token that the last one was granted, as far as it fits |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimWord(pub u64);

impl ClaimWord {
    const WAITING: u64 = 1;
    const PARKED: u64 = 2;
    const CALLED: u64 = 4;
    const ORDER_AT: u32 = 16;

    /// A claim, in its order.
    pub const fn waiting(order: u64) -> Self {
        Self(order << Self::ORDER_AT | Self::WAITING)
    }

    /// None any more: it was granted, with this token.
    pub const fn granted(token: u64) -> Self {
        Self(token << Self::ORDER_AT)
    }

    /// The token that the last claim was granted, where the object's word of their upper bits holds `high`.
    pub const fn last_token(self, high: u64) -> Option<u64> {
        let fitting = u64::MAX >> Self::ORDER_AT;
        let token = (high << HoldWord::TOKEN_BITS) & !fitting | self.order();
        if self.is_waiting() || token == 0 || token >> HoldWord::TOKEN_BITS != high { None } else { Some(token) }
    }

    /// Whether there is one.
    pub const fn is_waiting(self) -> bool {
        self.0 & Self::WAITING != 0
    }

    /// Whether its rank sleeps, or is about to.
    pub const fn is_parked(self) -> bool {
        self.0 & Self::PARKED != 0
    }

    /// Whether its rank was woken and has not been seen since.
    pub const fn is_called(self) -> bool {
        self.0 & Self::CALLED != 0
    }

    /// Its place among the others.
    pub const fn order(self) -> u64 {
        self.0 >> Self::ORDER_AT
    }

    /// About to sleep.
    #[must_use]
    pub const fn parked(self) -> Self {
        Self(self.0 & !Self::CALLED | Self::PARKED)
    }

    /// What is left of a claim's word when its rank is awake.
    pub const AWAKE: u64 = !(Self::CALLED | Self::PARKED);

    /// Woken.
    #[must_use]
    pub const fn called(self) -> Self {
        Self(self.0 & !Self::PARKED | Self::CALLED)
    }
}

/// Since when a lock or a lease is held, for those who look from outside. 0: that was not noted (of a lock that nobody
/// has waited for it is not; of a lease always).
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–10 | holder | the holder's place in the node's rank table, plus 1: without meaning where another one holds it |
/// | 11 | at least | it was held before: that is when somebody was seen to wait for it; not of a lease |
/// | 12–63 | ticks | of the node's clock, less its lowest 12 bits |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinceWord(pub u64);

impl SinceWord {
    const AT_LEAST: u64 = 1 << NAME_BITS;
    const BELOW_TICKS: u64 = (1 << (NAME_BITS + 1)) - 1;

    /// Held since then.
    pub const fn granted(holder: usize, ticks: u64) -> Self {
        Self(ticks & !Self::BELOW_TICKS | (holder as u64 + 1))
    }

    /// Held by then.
    pub const fn waited_for(holder: usize, ticks: u64) -> Self {
        Self(Self::granted(holder, ticks).0 | Self::AT_LEAST)
    }

    /// Whose hold is meant.
    pub const fn holder(self) -> Option<usize> {
        named(self.0 & NAME)
    }

    /// Whether it was held before.
    pub const fn is_at_least(self) -> bool {
        self.0 & Self::AT_LEAST != 0
    }

    /// When that was.
    pub const fn ticks(self) -> u64 {
        self.0 & !Self::BELOW_TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_word_keeps_its_fields_apart() {
        let word = HoldWord(0).granted_to(1023);
        assert_eq!((word.holder(), word.next(), word.is_wanted(), word.version()), (Some(1023), None, false, 1));
        let word = word.wanted().with_next(Some(0));
        assert_eq!((word.holder(), word.next(), word.is_wanted(), word.version()), (Some(1023), Some(0), true, 2));
        assert!(!word.with_next(None).freed(false).is_wanted());
        let word = word.granted_to(0);
        assert_eq!((word.holder(), word.next(), word.is_wanted(), word.version()), (Some(0), None, true, 3));
        let word = word.freed(false);
        assert_eq!((word.holder(), word.next(), word.is_wanted(), word.version()), (None, None, false, 3));
        assert_eq!(word.freed(true), HoldWord(word.0 | HoldWord::OTHERS));
        assert_eq!(word.with_next(Some(7)).with_next(None), word);
    }

    #[test]
    fn the_only_one_that_wants_a_lock_which_is_held_is_next() {
        assert_eq!(HoldWord(0).wanted_by(5), HoldWord(0).wanted(), "it is free");
        let held = HoldWord(0).granted_to(1);
        let wanted = held.wanted_by(5);
        assert_eq!((wanted.holder(), wanted.next(), wanted.version()), (Some(1), Some(5), 2));
        assert!(wanted.is_wanted() && !wanted.granted_to(5).is_wanted() && !wanted.with_next(None).is_wanted());
        assert!(wanted.granted_to(6).is_wanted(), "by 5");
        assert!(wanted.unnamed().is_wanted() && wanted.unnamed().next().is_none());
        let by_others = wanted.wanted_by(6);
        assert_eq!((by_others.next(), by_others.granted_to(5).is_wanted()), (Some(5), true));
    }

    #[test]
    fn tokens_go_on_when_the_version_begins_anew() {
        let last = HoldWord(u64::MAX >> HoldWord::VERSION_AT << HoldWord::VERSION_AT);
        let below = last.token(1).expect("the upper half of the versions");
        let wrapped = last.granted_to(0);
        assert_eq!((wrapped.version(), wrapped.token(1)), (0, None), "the high word has to grow first");
        assert_eq!(wrapped.token(2), Some(below + 1));
        let half = HoldWord(((1 << HoldWord::TOKEN_BITS) - 1) << HoldWord::VERSION_AT);
        let below = half.token(0).expect("the lower half");
        assert_eq!(half.granted_to(3).token(0), None);
        assert_eq!(half.granted_to(3).token(1), Some(below + 1));
    }

    #[test]
    fn a_claim_says_whether_its_rank_sleeps() {
        let claim = ClaimWord::waiting(77);
        assert!(claim.is_waiting() && !claim.is_parked() && !claim.is_called());
        let parked = claim.parked();
        assert!(parked.is_parked() && parked.called().is_called() && !parked.called().is_parked());
        assert_eq!(parked.called().0 & ClaimWord::AWAKE, claim.0);
        assert_eq!((parked.order(), ClaimWord(0).is_waiting()), (77, false));
    }

    #[test]
    fn a_claim_that_was_granted_keeps_the_token() {
        for token in [1, 255, (1 << 40) + 3, u64::MAX] {
            let granted = ClaimWord::granted(token);
            assert!(!granted.is_waiting() && !granted.is_parked() && !granted.is_called());
            assert_eq!(granted.last_token(token >> 40), Some(token));
            assert_eq!(granted.last_token((token >> 40) + 1), None, "of another half");
        }
        assert_eq!((ClaimWord(0).last_token(0), ClaimWord::waiting(7).last_token(0)), (None, None));
    }

    #[test]
    fn since_when_is_told_with_whose_hold_it_is() {
        let since = SinceWord::granted(1023, 0x1234_5678);
        assert_eq!((since.holder(), since.is_at_least(), since.ticks()), (Some(1023), false, 0x1234_5000));
        let since = SinceWord::waited_for(0, u64::MAX);
        assert_eq!((since.holder(), since.is_at_least(), since.ticks()), (Some(0), true, u64::MAX << 12));
        assert_eq!(SinceWord(0).holder(), None);
    }
}
