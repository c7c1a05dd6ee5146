//! Who votes on an epoch.
//!
//! All that propose for an epoch know the log up to the one before, and who votes follows from that: the nodes that it
//! has not lost, and, where that number is even and the job has a *witness*, the witness. So a majority shrinks with
//! the job: of three nodes two decide that the third is lost, and then one of them and the witness what becomes of the
//! other.

/// What an acceptor is in an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// It counts in a majority.
    Voter,
    /// The witness where the number of nodes is odd: asked for its vote only where all that are left are, and otherwise
    /// only whether it knows what was decided.
    Observer,
    /// The log has lost it: it is not asked.
    Lost,
}

/// Whose votes decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// More than half of the voters.
    Majority,
    /// All voters, and the observer, that are not gone: for when no majority is left.
    Survivors,
}

/// The seats of an instance, by the acceptors' numbers: the nodes, and after them the witness if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Electorate(Vec<Seat>);

impl Electorate {
    /// Of a job of which `is_lost` are lost, by node.
    pub fn new(is_lost: &[bool], has_witness: bool) -> Self {
        let seat = |is_lost: &bool| if *is_lost { Seat::Lost } else { Seat::Voter };
        let mut seats: Vec<Seat> = is_lost.iter().map(seat).collect();
        let left = seats.iter().filter(|seat| **seat == Seat::Voter).count();
        if has_witness {
            seats.push(if left.is_multiple_of(2) { Seat::Voter } else { Seat::Observer });
        }
        Self(seats)
    }

    /// Of a job that has lost nobody and has no witness.
    pub fn of_all(nodes: usize) -> Self {
        Self::new(&vec![false; nodes], false)
    }

    /// How many acceptors there are, whatever they are.
    pub fn acceptors(&self) -> usize {
        self.0.len()
    }

    /// What an acceptor is.
    pub fn seat(&self, acceptor: usize) -> Seat {
        self.0[acceptor]
    }

    /// How many voters are a majority.
    pub fn majority(&self) -> usize {
        self.0.iter().filter(|seat| **seat == Seat::Voter).count() / 2 + 1
    }

    /// By which rule is decided when these are gone.
    pub fn rule(&self, is_gone: impl Fn(usize) -> bool) -> Rule {
        let left = (0..self.acceptors()).filter(|one| self.seat(*one) == Seat::Voter && !is_gone(*one)).count();
        if left < self.majority() { Rule::Survivors } else { Rule::Majority }
    }

    /// Whether an acceptor that is not gone is asked for its vote.
    pub fn is_asked(&self, acceptor: usize, rule: Rule) -> bool {
        match self.seat(acceptor) {
            Seat::Voter => true,
            Seat::Observer => rule == Rule::Survivors,
            Seat::Lost => false,
        }
    }

    /// How many promises, and votes, it takes.
    pub fn needed(&self, rule: Rule, is_gone: impl Fn(usize) -> bool) -> usize {
        let is_asked = |one: &usize| self.is_asked(*one, rule) && !is_gone(*one);
        match rule {
            Rule::Majority => self.majority(),
            Rule::Survivors => (0..self.acceptors()).filter(is_asked).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: fn(usize) -> bool = |_| false;

    #[test]
    fn the_witness_votes_where_the_number_of_nodes_is_even_and_majorities_shrink_with_the_log() {
        let needed =
            |is_lost: &[bool], has_witness| Electorate::new(is_lost, has_witness).needed(Rule::Majority, NOBODY);
        assert_eq!((needed(&[false; 2], true), needed(&[false; 2], false)), (2, 2));
        assert_eq!((needed(&[false; 3], true), needed(&[false; 3], false)), (2, 2));
        assert_eq!((needed(&[false; 4], true), needed(&[false; 4], false)), (3, 3));
        assert_eq!((needed(&[false, true, false], true), needed(&[false, true, true], true)), (2, 1));
        let two = Electorate::new(&[false, true, false], true);
        let seats: Vec<Seat> = (0..two.acceptors()).map(|one| two.seat(one)).collect();
        assert_eq!(seats, [Seat::Voter, Seat::Lost, Seat::Voter, Seat::Voter]);
        assert_eq!(Electorate::new(&[false; 3], true).seat(3), Seat::Observer);
    }

    #[test]
    fn any_two_majorities_have_a_voter_in_common() {
        for nodes in 1..12 {
            for lost in 0..nodes {
                for has_witness in [false, true] {
                    let is_lost: Vec<bool> = (0..nodes).map(|node| node < lost).collect();
                    let electorate = Electorate::new(&is_lost, has_witness);
                    let is_voter = |one: &usize| electorate.seat(*one) == Seat::Voter;
                    let voters = (0..electorate.acceptors()).filter(is_voter).count();
                    assert!(2 * electorate.majority() > voters, "{electorate:?}");
                    assert!(!has_witness || voters % 2 == 1, "no vote is a draw: {electorate:?}");
                }
            }
        }
    }

    #[test]
    fn where_no_majority_is_left_the_observer_is_asked_too() {
        let three = Electorate::new(&[false; 3], true);
        let is_gone = |one| one < 2;
        assert_eq!((three.rule(NOBODY), three.rule(is_gone)), (Rule::Majority, Rule::Survivors));
        assert!(three.is_asked(3, Rule::Survivors) && !three.is_asked(3, Rule::Majority));
        assert_eq!(three.needed(Rule::Survivors, is_gone), 2);
        // The witness makes a majority with the last of two nodes.
        assert_eq!(Electorate::new(&[false; 2], true).rule(|one| one == 1), Rule::Majority);
    }
}
