//! Marks where answers are to land, so that a request that completes without an answer is not given what lay there
//! before.
//!
//! Soft-RoCE completes a read or an atomic without its answer when packets are lost in an unlucky order
//! (docs/design.md, "RDMA"). The answer's word then holds what was stored there before the post: a mark. A mark differs
//! from request to request and begins at a random number that never leaves this process, so that a true answer is
//! mistaken for it once in 2^64, whatever others write. Making one costs a multiplication; checking it makes it again,
//! instead of keeping it.

/// Odd, with its bits well mixed: its multiples meet each number once before they repeat.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A connection's marks.
pub(super) struct Marks {
    first: u64,
}

impl Marks {
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // Without randomness marks still differ from each other, and the address is another one in each process.
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK).is_err() {
            bytes = ((&raw const bytes).addr() as u64).wrapping_mul(STEP).to_ne_bytes();
        }
        Self { first: u64::from_ne_bytes(bytes) }
    }

    /// What is put where the answer of request number `count` is to land.
    #[inline]
    pub fn of(&self, count: u64) -> u64 {
        self.first.wrapping_add(count.wrapping_mul(STEP))
    }

    /// The answer of a request that has completed, by what its word then holds; `None` if nothing has landed there.
    #[inline]
    pub fn answer(&self, count: u64, landed: u64) -> Option<u64> {
        (landed != self.of(count)).then_some(landed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_there_is_no_answer_and_all_else_is() {
        let marks = Marks::new();
        for count in (0..1000).chain([u64::MAX - 1, u64::MAX]) {
            let mark = marks.of(count);
            assert_eq!(marks.answer(count, mark), None, "request {count}");
            // An earlier user's mark or answer included: that word was stored over.
            for landed in [0, 1, u64::MAX, mark ^ 1, mark.swap_bytes() ^ 1, marks.of(count.wrapping_sub(128))] {
                assert_eq!(marks.answer(count, landed), Some(landed), "request {count}");
            }
        }
    }

    #[test]
    fn two_connections_have_different_marks() {
        let marks: std::collections::HashSet<u64> = (0..64).map(|_| Marks::new().of(0)).collect();
        assert_eq!(marks.len(), 64);
    }
}
