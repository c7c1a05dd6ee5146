//! What must hold of those who have something alone: holders of locks, those who write under a reader-writer lock,
//! holders of leases, leaders; and of those who read.
//!
//! - Nobody writes under a reader-writer lock while others read or write.
//! - A lease is nobody else's before the time is over until which its holder surely has it, by what that was told
//!   before it was hurt: also where it was stopped, or cut off, but not where it was killed. Nobody is told that its
//!   lease is over, or refused for a later one, before that time.
//! - Whoever leads all the while somebody looks is seen; unless a home may have been lost. Nobody is seen that has not
//!   stood, has resigned, was followed by one that is elected, or has failed as far as who looks was told.

use super::{Court, Done, Hold, has_lost_a_node};
use crate::doomed::deeds::{Act, Deed, End};
use crate::doomed::said::{Event, Told};

impl Court<'_> {
    pub(super) fn locks(&self) -> Vec<String> {
        let holds = self.holds(|deed| granted(deed, Act::Acquire), |deed| deed.act == Act::Release);
        self.alone("lock", holds)
    }

    pub(super) fn sharing(&self) -> Vec<String> {
        let stops = |deed: &Deed| matches!(deed.act, Act::LeaveAlone | Act::Downgrade);
        let writers = self.holds(|deed| granted(deed, Act::EnterAlone), stops);
        let mut violations = self.alone("reader-writer lock", writers.clone());
        for reader in self.readers() {
            let is_other = |writer: &&Hold| writer.rank != reader.rank;
            for writer in writers.iter().filter(is_other).filter(|writer| overlap(writer, &reader)) {
                violations.push(self.of("reader-writer lock", format!("had both: {reader:?}, {writer:?}")));
            }
            let Some(left) = reader.since.last().filter(|deed| affirms(deed)) else { continue };
            let follows = |writer: &&Hold| reader.from_ns < writer.from_ns && writer.from_ns < left.begun_ns;
            if let Some(writer) = writers.iter().filter(is_other).find(follows).filter(|_| self.may_know(&reader)) {
                let what = format!("was read to the end by one that was followed: {reader:?}, {writer:?}");
                violations.push(self.of("reader-writer lock", what));
            }
        }
        violations
    }

    /// Who has read, also those that have written before: from when they began to go over.
    fn readers(&self) -> Vec<Hold> {
        let reads = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Enter | Act::Downgrade, Some((_, End::Done))) => Some(0),
            _ => None,
        };
        let mut readers = self.holds(reads, |deed| deed.act == Act::Leave);
        for reader in readers.iter_mut().filter(|reader| reader.given.act == Act::Downgrade) {
            reader.from_ns = reader.given.begun_ns;
        }
        readers
    }

    /// `words`: what was done with the lease's word.
    pub(super) fn leases(&self, words: &[Done]) -> Vec<String> {
        let rented = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Rent, Some((_, End::Held(token, _)))) => Some(token),
            _ => None,
        };
        let mut holds = self.holds(rented, |deed| deed.act == Act::Vacate);
        let mut violations = Vec::new();
        for hold in &mut holds {
            let surely_ns = self.surely_until(hold);
            violations.extend(self.lost_early(hold, surely_ns, words));
            // Who is stopped holds it by its clock all the same.
            let given_back = hold.since.last().filter(|deed| deed.act == Act::Vacate);
            hold.until_ns = given_back.map_or(u64::MAX, |deed| deed.begun_ns).min(surely_ns);
        }
        violations.extend(self.alone("lease", holds));
        violations
    }

    /// Until when a holder has a lease by what it was told before it was hurt.
    fn surely_until(&self, hold: &Hold) -> u64 {
        let hurt_ns = self.hurt_ns(hold.rank);
        let held = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Rent | Act::Renew, Some((at_ns, End::Held(_, until_ns)))) if at_ns < hurt_ns => Some(until_ns),
            _ => None,
        };
        let told = std::iter::once(&hold.given).chain(&hold.since).filter_map(held).max().unwrap_or(0);
        match self.evidence.killed.contains(&hold.rank) {
            true => told.min(hurt_ns),
            false => told,
        }
    }

    /// Whether somebody was told that its lease is over, or refused for a later one, before that could be.
    fn lost_early(&self, hold: &Hold, surely_ns: u64, words: &[Done]) -> Vec<String> {
        let is_own_word = |(rank, deed): &&Done| {
            *rank == hold.rank && matches!(deed.act, Act::Write(token) | Act::Fence(token) if token == hold.number)
        };
        let of_words = words.iter().filter(is_own_word).map(|(_, deed)| deed);
        let is_early = |deed: &&Deed| match deed.ended {
            Some((at_ns, End::Expired | End::Refused(_))) => at_ns < surely_ns,
            _ => false,
        };
        let early = hold.since.iter().filter(|deed| matches!(deed.act, Act::Renew | Act::Vacate)).chain(of_words);
        let early = early.filter(is_early).filter(|_| self.may_know(hold));
        early.map(|deed| self.of("lease", format!("was lost before {surely_ns}, as {deed:?} says: {hold:?}"))).collect()
    }

    pub(super) fn elections(&self) -> Vec<String> {
        let leaders = self.holds(|deed| granted(deed, Act::Stand), |deed| deed.act == Act::Resign);
        let mut violations = self.alone("election", leaders.clone());
        for (rank, deed) in self.deeds.iter().filter(|(_, deed)| deed.act == Act::Look) {
            // Who was hurt may look at what the others have left.
            let Some((at_ns, end)) = deed.ended.filter(|_| self.counts(&(*rank, *deed))) else { continue };
            let seen = match end {
                End::Led(leader, term) => Some((usize::try_from(leader).unwrap_or(usize::MAX), term)),
                End::Nobody => None,
                _ => continue,
            };
            let why = match seen {
                Some(seen) => self.wrongly_seen(*rank, deed, seen, &leaders),
                None => self.overlooked(deed.begun_ns, at_ns, &leaders),
            };
            violations
                .extend(why.map(|why| self.of("election", format!("was seen as {deed:?} by rank {rank}: {why}"))));
        }
        violations
    }

    /// Why somebody cannot have been the leader when it was seen.
    fn wrongly_seen(&self, by: usize, look: &Deed, (leader, term): (usize, u64), leaders: &[Hold]) -> Option<String> {
        let ended_ns = look.ended.map_or(u64::MAX, |(at_ns, _)| at_ns);
        // Of a call that was broken off nobody knows the term.
        let may_be = |deed: &Deed| granted(deed, Act::Stand).is_none_or(|own| own == term);
        let has_stood = |(rank, deed): &&Done| {
            *rank == leader && deed.act == Act::Stand && deed.begun_ns < ended_ns && may_be(deed)
        };
        if !self.deeds.iter().any(|done| has_stood(&done)) {
            return Some("it has not stood".to_owned());
        }
        let has_resigned = |hold: &&Hold| {
            let resigned = hold.since.last().filter(|deed| deed.act == Act::Resign && affirms(deed));
            (hold.rank, hold.number) == (leader, term)
                && resigned.and_then(|deed| deed.ended).is_some_and(|(at_ns, _)| at_ns < look.begun_ns)
        };
        if let Some(hold) = leaders.iter().find(has_resigned) {
            return Some(format!("it had resigned: {hold:?}"));
        }
        // Of one that was hurt it is not known whether the others have heard of it.
        let later =
            |hold: &&Hold| hold.number > term && hold.from_ns < look.begun_ns && hold.from_ns < self.hurt_ns(hold.rank);
        if let Some(hold) = leaders.iter().find(later) {
            return Some(format!("it was followed: {hold:?}"));
        }
        let was_told = self.evidence.said.iter().any(|said| {
            let failed = match &said.event {
                Event::Failed { told: Told::RankFailed { ranks, .. }, .. } => ranks.contains(&leader),
                _ => false,
            };
            failed && said.rank == by && said.at_ns < look.begun_ns
        });
        was_told.then(|| "it was told before that this one has failed".to_owned())
    }

    /// Why somebody must have been seen.
    fn overlooked(&self, begun_ns: u64, ended_ns: u64, leaders: &[Hold]) -> Option<String> {
        let leads = |hold: &&Hold| hold.from_ns < begun_ns && ended_ns < hold.until_ns;
        let leader = leaders.iter().find(leads).filter(|_| !has_lost_a_node(self.evidence, ended_ns));
        leader.map(|leader| format!("there was one: {leader:?}"))
    }

    /// Of what only one rank has at a time.
    fn alone(&self, kind: &str, mut holds: Vec<Hold>) -> Vec<String> {
        holds.sort_by_key(|hold| hold.number);
        let mut violations = Vec::new();
        for pair in holds.windows(2).filter(|pair| pair[0].number == pair[1].number) {
            violations.push(self.of(kind, format!("was given twice with one token: {:?}, {:?}", pair[0], pair[1])));
        }
        violations.extend(self.late_calls(kind, &holds));
        // What was granted to one that was hurt before it has noted that may be long over.
        holds.retain(|hold| hold.from_ns < hold.until_ns);
        for pair in holds.windows(2).filter(|pair| pair[1].from_ns < pair[0].until_ns) {
            violations.push(self.of(kind, format!("was granted before it was given up: {:?}, {:?}", pair[0], pair[1])));
        }
        violations
    }

    /// Calls that say that a rank has something yet, though somebody else has come to have it. `holds`: in the order of
    /// tokens.
    fn late_calls(&self, kind: &str, holds: &[Hold]) -> Vec<String> {
        let mut violations = Vec::new();
        for (index, hold) in holds.iter().enumerate().filter(|(_, hold)| self.may_know(hold)) {
            for deed in hold.since.iter().filter(|deed| affirms(deed)) {
                if let Some(next) = holds[index + 1..].iter().find(|next| next.from_ns < deed.begun_ns) {
                    let what = format!("was released or kept by one that was followed: {deed:?} of {hold:?}, {next:?}");
                    violations.push(self.of(kind, what));
                }
            }
        }
        violations
    }

    /// Whether a holder can know that others have followed: who is cut off with the home, or passes what it has on to a
    /// neighbour, does not know of those who follow elsewhere.
    fn may_know(&self, hold: &Hold) -> bool {
        !(self.evidence.is_cut && self.evidence.is_hurt(hold.rank))
    }
}

/// The token of a call that gives something.
fn granted(deed: &Deed, act: Act) -> Option<u64> {
    match deed.ended {
        Some((_, End::Granted(token))) if deed.act == act => Some(token),
        _ => None,
    }
}

/// Whether a call has said that its rank has, or has had to the end, what it was granted.
fn affirms(deed: &Deed) -> bool {
    match (deed.act, deed.ended) {
        (Act::Renew, Some((_, End::Held(_, until_ns)))) => until_ns > deed.begun_ns,
        (
            Act::Release | Act::Leave | Act::LeaveAlone | Act::Downgrade | Act::Vacate | Act::Check | Act::Resign,
            Some((_, End::Done)),
        ) => true,
        _ => false,
    }
}

fn overlap(one: &Hold, other: &Hold) -> bool {
    one.from_ns.max(other.from_ns) < one.until_ns.min(other.until_ns)
}

#[cfg(test)]
mod tests {
    use super::super::{AllDeeds, judge};
    use super::*;
    use crate::campaign::verdict::Evidence;
    use crate::doomed::belongings::WORDS_OF_LEASES;
    use crate::doomed::said::Said;

    fn deed(act: Act, begun_ns: u64, ended_ns: u64, end: End) -> Deed {
        Deed { act, object: 0, begun_ns, ended: Some((ended_ns, end)) }
    }

    /// Three ranks, two of them on node 0; rank 2 is stopped at 100.
    const STOPPED: Evidence<'_> =
        Evidence { nodes: &[0, 0, 1], said: &[], records: &[], hurt: &[(2, 100)], killed: &[], is_cut: false };
    const KILLED: Evidence<'_> = Evidence { killed: &[2], ..STOPPED };
    const CUT: Evidence<'_> = Evidence { is_cut: true, ..STOPPED };

    fn words_of(evidence: &Evidence<'_>, deeds: [Vec<Deed>; 3]) -> String {
        let deeds: AllDeeds<'_> = &deeds;
        judge(evidence, deeds).join("; ")
    }

    fn words(deeds: [Vec<Deed>; 3]) -> String {
        words_of(&STOPPED, deeds)
    }

    fn assert_found(deeds: [Vec<Deed>; 3], part: &str) {
        let found = words(deeds);
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }

    fn reads(from_ns: u64, until_ns: u64) -> Vec<Deed> {
        let left = deed(Act::Leave, until_ns, until_ns + 1, End::Done);
        vec![deed(Act::Enter, from_ns - 1, from_ns, End::Done), left]
    }

    fn writes(token: u64, from_ns: u64, until_ns: u64) -> Vec<Deed> {
        let left = deed(Act::LeaveAlone, until_ns, until_ns + 1, End::Done);
        vec![deed(Act::EnterAlone, from_ns - 1, from_ns, End::Granted(token)), left]
    }

    /// Writes from 10 on, goes over to reading from 20 to 22, and reads until 40.
    fn goes_over() -> Vec<Deed> {
        let entered = deed(Act::EnterAlone, 9, 10, End::Granted(1));
        vec![entered, deed(Act::Downgrade, 20, 22, End::Done), deed(Act::Leave, 40, 41, End::Done)]
    }

    #[test]
    fn readers_are_together_and_writers_are_not() {
        assert_eq!(words([reads(10, 30), reads(20, 40), writes(1, 50, 60)]), "");
        assert_eq!(words([goes_over(), reads(21, 60), writes(2, 70, 80)]), "");
        assert_found([writes(1, 10, 30), writes(2, 20, 40), vec![]], "granted before it was given up");
        assert_found([writes(2, 10, 20), writes(1, 30, 40), vec![]], "granted before it was given up");
        assert_found([writes(2, 10, 20), writes(2, 30, 40), vec![]], "given twice with one token");
        assert_found([reads(10, 30), writes(1, 20, 40), vec![]], "had both");
        assert_found([writes(1, 10, 30), reads(20, 40), vec![]], "had both");
        assert_found([goes_over(), writes(2, 30, 35), vec![]], "had both");
        assert_found([goes_over(), reads(15, 18), vec![]], "had both");
    }

    #[test]
    fn a_reader_or_writer_that_was_given_up_and_does_not_know_is_found() {
        // What it has done before it was hurt counts, and no more.
        assert_eq!(words([writes(2, 110, 120), vec![], reads(50, 105)]), "");
        assert_found([writes(2, 90, 120), vec![], reads(50, 105)], "had both");
        assert_found([writes(2, 110, 120), vec![], reads(50, 200)], "read to the end by one that was followed");
        assert_eq!(words_of(&CUT, [writes(2, 110, 120), vec![], reads(50, 200)]), "");
        assert_found([writes(2, 110, 120), vec![], writes(1, 50, 200)], "released or kept by one that was followed");
        let mut over = goes_over();
        (over[1].begun_ns, over[1].ended) = (200, Some((201, End::Done)));
        over[2].begun_ns = 210;
        over[2].ended = Some((211, End::Excluded));
        assert_found([writes(2, 110, 120), vec![], over], "released or kept by one that was followed");
    }

    fn rents(token: u64, from_ns: u64, until_ns: u64) -> Deed {
        deed(Act::Rent, from_ns - 1, from_ns, End::Held(token, until_ns))
    }

    fn renews(token: u64, at_ns: u64, until_ns: u64) -> Deed {
        deed(Act::Renew, at_ns - 1, at_ns, End::Held(token, until_ns))
    }

    fn vacates(at_ns: u64, end: End) -> Deed {
        deed(Act::Vacate, at_ns, at_ns + 1, end)
    }

    #[test]
    fn a_lease_is_its_holders_until_it_gives_it_back_or_its_time_is_over() {
        let second = vec![rents(2, 60, 90), vacates(70, End::Done)];
        // It has given it back; its time was over, and it knows.
        assert_eq!(words([vec![rents(1, 10, 80), vacates(50, End::Done)], second.clone(), vec![]]), "");
        assert_eq!(words([vec![rents(1, 10, 55), vacates(80, End::Expired)], second.clone(), vec![]]), "");
        let late = renews(1, 85, 0);
        assert_eq!(words([vec![rents(1, 10, 55), late, vacates(95, End::Expired)], second.clone(), vec![]]), "");

        let early = "granted before it was given up";
        assert_found([vec![rents(1, 10, 80), vacates(70, End::Done)], second.clone(), vec![]], early);
        let renewed = vec![rents(1, 10, 40), renews(1, 35, 65), vacates(66, End::Done)];
        assert_found([renewed, second.clone(), vec![]], early);
        assert_found([vec![rents(2, 10, 20)], second.clone(), vec![]], "given twice with one token");
        assert_found([vec![rents(3, 10, 70)], second.clone(), vec![]], early);
        let kept = vec![rents(1, 10, 55), renews(1, 75, 120), vacates(80, End::Expired)];
        assert_found([kept, second.clone(), vec![]], "released or kept by one that was followed");
        let released = vec![rents(1, 10, 55), vacates(75, End::Done)];
        assert_found([released, second, vec![]], "released or kept by one that was followed");
    }

    #[test]
    fn who_is_stopped_holds_its_lease_by_its_clock_and_who_is_killed_does_not() {
        let holder = vec![rents(1, 50, 80), renews(1, 70, 150)];
        let heir = |at_ns| vec![rents(2, at_ns, at_ns + 50), vacates(at_ns + 10, End::Done)];
        assert_found([heir(140), vec![], holder.clone()], "granted before it was given up");
        assert_eq!(words([heir(151), vec![], holder.clone()]), "");
        assert_eq!(words_of(&KILLED, [heir(101), vec![], holder.clone()]), "");
        assert!(words_of(&KILLED, [heir(99), vec![], holder.clone()]).contains("granted before it was given up"));
        // What it does when it is back does not count.
        let back = [&holder[..], &[renews(1, 300, 400)]].concat();
        assert!(words_of(&CUT, [heir(140), vec![], back.clone()]).contains("granted before it was given up"));
        assert_eq!(words_of(&CUT, [heir(160), vec![], back.clone()]), "");
        assert_found([heir(160), vec![], back], "released or kept by one that was followed");
    }

    #[test]
    fn a_lease_that_is_lost_before_its_time_is_found() {
        let lost = |at_ns| vec![rents(1, 10, 60), vacates(at_ns, End::Expired)];
        assert_eq!(words([lost(60), vec![], vec![]]), "");
        assert_found([lost(40), vec![], vec![]], "was lost before 60");
        let word = |at_ns, end| {
            let object = WORDS_OF_LEASES;
            let write = Deed { object, ..deed(Act::Write(1), at_ns - 1, at_ns, end) };
            vec![rents(1, 10, 60), write, vacates(95, End::Expired)]
        };
        let later = || {
            let object = WORDS_OF_LEASES;
            vec![Deed { object, ..deed(Act::Fence(2), 65, 66, End::Value(0)) }]
        };
        assert_eq!(words([word(70, End::Refused(2)), later(), vec![]]), "");
        assert_found([word(59, End::Refused(2)), vec![], vec![]], "was lost before 60");
        assert_found([word(70, End::Done), later(), vec![]], "took");
    }

    fn leads(term: u64, from_ns: u64, until_ns: u64) -> Vec<Deed> {
        let resigned = deed(Act::Resign, until_ns, until_ns + 1, End::Done);
        let checked = deed(Act::Check, from_ns + 1, from_ns + 2, End::Done);
        vec![deed(Act::Stand, from_ns - 5, from_ns, End::Granted(term)), checked, resigned]
    }

    fn looks(at_ns: u64, end: End) -> Vec<Deed> {
        vec![deed(Act::Look, at_ns, at_ns + 1, end)]
    }

    #[test]
    fn two_leaders_and_terms_that_come_again_are_found() {
        assert_eq!(words([leads(1, 10, 20), leads(2, 30, 40), vec![]]), "");
        assert_found([leads(1, 10, 20), leads(1, 30, 40), vec![]], "given twice with one token");
        assert_found([leads(1, 10, 35), leads(2, 30, 40), vec![]], "granted before it was given up");
        assert_found([leads(2, 10, 20), leads(1, 30, 40), vec![]], "granted before it was given up");
        let mut zombie = leads(1, 50, 200);
        zombie[1] = deed(Act::Check, 180, 181, End::Done);
        zombie[2].ended = Some((201, End::Excluded));
        assert_found([leads(2, 110, 120), vec![], zombie.clone()], "released or kept by one that was followed");
        zombie[1].ended = Some((181, End::Excluded));
        assert_eq!(words([leads(2, 110, 120), vec![], zombie]), "");
        let forgotten = Deed { ended: None, ..deed(Act::Stand, 10, 0, End::Done) };
        assert_found([vec![forgotten], vec![], vec![]], "rank 0 was not hurt");
    }

    #[test]
    fn leaders_that_are_overlooked_or_are_none_are_found() {
        let seen = |at_ns, end| [leads(1, 10, 30), looks(at_ns, end), vec![]];
        assert_eq!(words(seen(20, End::Led(0, 1))), "");
        // It may be announced before it knows, and have withdrawn before it is through.
        assert_eq!(words(seen(7, End::Led(0, 1))), "");
        assert_eq!(words(seen(7, End::Nobody)), "");
        assert_eq!(words(seen(30, End::Led(0, 1))), "");
        assert_eq!(words(seen(40, End::Nobody)), "");
        assert_found(seen(20, End::Nobody), "there was one");
        assert_found(seen(3, End::Led(0, 1)), "it has not stood");
        assert_found(seen(20, End::Led(0, 2)), "it has not stood");
        assert_found(seen(20, End::Led(2, 1)), "it has not stood");
        assert_found(seen(40, End::Led(0, 1)), "it had resigned");
    }

    #[test]
    fn a_leader_that_was_followed_or_is_known_to_have_failed_is_not_to_be_seen() {
        let dead = vec![deed(Act::Stand, 45, 50, End::Granted(1))];
        let look = |at_ns| looks(at_ns, End::Led(2, 1));
        assert_eq!(words([leads(2, 110, 120), look(105), dead.clone()]), "");
        assert_found([leads(2, 110, 120), look(115), dead.clone()], "it was followed");
        let told = Told::RankFailed { ranks: vec![2], causes: vec!["killed".to_owned()], epoch: 1 };
        let said = [Said { rank: 1, at_ns: 104, event: Event::Failed { group: 0, sequence: 2, told } }];
        let evidence = Evidence { said: &said, ..KILLED };
        assert_eq!(words_of(&evidence, [vec![], look(103), dead.clone()]), "");
        assert_eq!(words_of(&evidence, [look(105), vec![], dead.clone()]), "");
        assert!(words_of(&evidence, [vec![], look(105), dead]).contains("this one has failed"));
    }
}
