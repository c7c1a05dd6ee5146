//! Tracks for waits. A viewer shows what overlaps on one track only where one lies within the other, and waits need
//! not: a rank can arrive in two groups and then pass them in the same order, or use its groups in several threads.
//!
//! The first lane that can show a wait gets it. Nearly always that is lane 0, the rank's own track.

/// Waits that a lane remembers one by one. Older ones run together into one, which may send a wait to another lane that
/// this one could have shown.
const REMEMBERED: usize = 64;

/// The lanes of one rank.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
}

/// The waits on a track that lie within no other: their beginnings and ends, in order.
#[derive(Debug, Default)]
struct Lane(Vec<(u64, u64)>);

impl Lanes {
    /// The lane that shows a wait. Waits come in the order of their ends, or nearly so.
    pub fn place(&mut self, start: u64, end: u64) -> usize {
        let fitting = self.lanes.iter_mut().position(|lane| lane.take(start, end));
        fitting.unwrap_or_else(|| {
            self.lanes.push(Lane(vec![(start, end)]));
            self.lanes.len() - 1
        })
    }
}

impl Lane {
    /// Takes a wait, if every earlier one lies within it or beside it.
    fn take(&mut self, start: u64, end: u64) -> bool {
        let within = self.0.iter().rev().take_while(|earlier| earlier.0 >= start && earlier.1 <= end).count();
        let beside = self.0.len() - within;
        if beside > 0 && self.0[beside - 1].1 > start {
            return false;
        }
        self.0.truncate(beside);
        self.0.push((start, end));
        if self.0.len() > REMEMBERED {
            let (oldest, _) = self.0.remove(0);
            self.0[0].0 = oldest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(waits: &[(u64, u64)]) -> Vec<usize> {
        let mut lanes = Lanes::default();
        waits.iter().map(|(start, end)| lanes.place(*start, *end)).collect()
    }

    #[test]
    fn waits_one_after_the_other_or_within_each_other_share_a_lane() {
        assert_eq!(places(&[(1, 2), (2, 5), (6, 7), (5, 8), (1, 9), (9, 9)]), [0; 6]);
    }

    #[test]
    fn waits_that_cross_do_not() {
        assert_eq!(places(&[(1, 5), (3, 8), (4, 9), (9, 10)]), [0, 1, 2, 0]);
        // Out of order: the second one ended earlier.
        assert_eq!(places(&[(1, 9), (2, 8)]), [0, 1]);
    }

    #[test]
    fn what_is_forgotten_is_not_crossed_either() {
        let mut lanes = Lanes::default();
        for start in 0..1000 {
            assert_eq!(lanes.place(10 * start, 10 * start + 5), 0);
        }
        assert_eq!(lanes.place(13, 10_000), 1, "it begins within the second wait");
        assert_eq!(lanes.lanes[0].0.len(), REMEMBERED);
        assert_eq!(lanes.place(0, 10_000), 0, "all lie within it");
    }
}
