//! Numbers of a counter that a node has taken at once, and that its ranks draw from.

use std::time::{Duration, Instant};

use super::counter::{Counter, CounterError};
use crate::coord::objects::block::{Block, BlockWord, MOST_LEFT, block_of};
use crate::fabric::{Memory, Request};
use crate::sync::Ordering;

/// How long a rank waits for a block that a neighbour fetches, before it asks the home itself for one number.
const PATIENCE: Duration = Duration::from_millis(2);

impl Counter {
    /// Draws one number, for work that whoever is free does next. The node's ranks draw from a block that one of them
    /// takes from the home, at least `block` numbers (at most 65,534) at a time: no two ranks of the job draw the same.
    ///
    /// All numbers from 0 on are drawn but for: what is left of a block when the last of its node's ranks draws no
    /// more; the block that a rank was fetching when it died; what [`fetch_add`](Self::fetch_add) and its like take of
    /// them, with which this goes well together. So who draws until a number is greater than the last piece of work
    /// leaves nothing undone but what the dead had drawn or were fetching.
    ///
    /// # Errors
    ///
    /// As [`fetch_add`](Self::fetch_add), for the whole block, and [`CounterError::Exhausted`]: numbers are less than
    /// 2⁴⁸.
    ///
    /// # Cost
    ///
    /// On a job's only node as [`fetch_add`](Self::fetch_add), without a block. Otherwise a compare-and-swap, and a
    /// round trip for each block. Ranks that come while a neighbour fetches one wait for it, 2 ms at most.
    #[inline]
    pub fn draw(&self, block: u64) -> Result<u64, CounterError> {
        if self.is_alone() {
            return self.fetch_add(1);
        }
        let word = self.handle.segment().word(block_of(&self.handle.at));
        // SYNC POINT: block. Acquire pairs with who has changed it.
        let mut seen = BlockWord(word.load(Ordering::Acquire));
        while let Some((number, rest)) = seen.drawn() {
            match word.compare_exchange_weak(seen.0, rest.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(number),
                Err(found) => seen = BlockWord(found),
            }
        }
        self.draw_from_new(block)
    }

    /// Draws when the node's block is used up.
    #[cold]
    fn draw_from_new(&self, block: u64) -> Result<u64, CounterError> {
        let reach = &self.handle.membership.reach;
        let (at, begun) = (block_of(&self.handle.at), Instant::now());
        loop {
            let alarm = reach.alarm();
            let seen = BlockWord(reach.load(at));
            let wanted = match seen.block() {
                Block::Left { .. } => seen.drawn().expect("some are left").1,
                Block::Fetched { by } if !reach.has_ended_here(by) => {
                    // It may be stopped, or far away: nobody has to wait for it.
                    if begun.elapsed() >= PATIENCE {
                        return self.fetch_add(1);
                    }
                    reach.sleep(at, seen.0, alarm, PATIENCE);
                    continue;
                }
                Block::Empty | Block::Fetched { .. } => BlockWord::fetched(reach.local()),
            };
            if !self.swap_block(seen, wanted) {
                continue;
            }
            return match seen.drawn() {
                Some((number, _)) => Ok(number),
                None => self.fetch(block, wanted),
            };
        }
    }

    /// Takes a block from the home, and the first number of it. The node's word says that this rank does so.
    fn fetch(&self, block: u64, fetching: BlockWord) -> Result<u64, CounterError> {
        let count = block.clamp(1, MOST_LEFT + 1);
        let fetched = self.reserve(count).and_then(|numbers| {
            let rest = BlockWord::left(numbers.end, count - 1).ok_or_else(|| self.exhausted(numbers.start))?;
            Ok((numbers.start, rest))
        });
        let rest = fetched.as_ref().map_or(BlockWord(0), |(_, rest)| *rest);
        // Fails where this rank has been declared failed and a neighbour fetches another block: these are drawn by
        // nobody.
        self.swap_block(fetching, rest);
        fetched.map(|(number, _)| number)
    }

    fn swap_block(&self, seen: BlockWord, wanted: BlockWord) -> bool {
        let at = block_of(&self.handle.at);
        // Wakes those who wait for it.
        self.handle.membership.reach.execute(Request::CompareSwap { at, expected: seen.0, new: wanted.0 }) == seen.0
    }
}
