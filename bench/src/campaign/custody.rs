//! What must hold of named objects in a round, judged from what ranks have recorded of their calls.
//!
//! - No two ranks hold a lock at the same time, no token is given twice, and a later holder's is greater. So it is with
//!   those who write under a reader-writer lock, hold a lease, or lead.
//! - Who was given up and followed does not release, nor write under its token, with success.
//! - What else holds of readers, leases and leaders: `custody/tenures.rs`.
//! - Under a fenced word's token nothing lesser is read later, and no write that was acknowledged is lost.
//! - No two additions to a counter were given the same numbers; what it holds is at least what was acknowledged, and at
//!   most that and what nobody knows about.
//! - Never more permits are out than there are.
//! - Every call has ended, and nobody was told of a home that was not lost, or of an exclusion or a silence that nobody
//!   has caused.
//!
//! All of it holds also where a network is cut: whoever is cut off counts as hurt from then on, and what it is granted
//! on its side has a token of its own.
//!
//! Records are written inside of what they tell of: a hold is longer than from its first record to its last. What a
//! rank that was hurt did after that is judged by what others see of it only: it may not know that it was given up.

use std::collections::HashMap;

use super::verdict::Evidence;
use crate::doomed::belongings::{OBJECTS, PERMITS, WORDS_OF_ELECTIONS, WORDS_OF_LEASES};
use crate::doomed::deeds::{Act, Deed, End};

mod tenures;

/// Deeds, by rank.
pub type AllDeeds<'a> = &'a [Vec<Deed>];

/// What does not hold, in words.
pub fn judge(evidence: &Evidence<'_>, deeds: AllDeeds<'_>) -> Vec<String> {
    let mut violations = unfounded_ends(evidence, deeds);
    let court = |object| Court { evidence, object, deeds: of_object(deeds, object) };
    for object in 0..OBJECTS {
        let (court, leased) = (court(object), court(object + WORDS_OF_LEASES));
        violations.extend(court.locks());
        violations.extend(court.sharing());
        violations.extend(court.leases(&leased.deeds));
        violations.extend(court.elections());
        violations.extend(court.counters());
        violations.extend(court.permits());
    }
    for object in (0..OBJECTS).flat_map(|number| [number, number + WORDS_OF_LEASES, number + WORDS_OF_ELECTIONS]) {
        violations.extend(court(object).words());
    }
    violations
}

/// What became of calls that did not simply succeed, in a word for each.
pub fn words(deeds: AllDeeds<'_>) -> impl Iterator<Item = &'static str> {
    deeds.iter().flatten().filter_map(|deed| {
        Some(match deed.ended?.1 {
            End::Refused(_) => "had a late write refused",
            End::Excluded if gives_back(deed) => "had a late release refused",
            End::Expired => "had a lease that others have had since",
            End::HomeLost => "lost an object with its home",
            End::Unheard => "added, and do not know to what",
            End::Uncertain => "do not know whether they have added",
            End::Unreachable => "were told that an object is out of reach",
            _ => return None,
        })
    })
}

/// A deed and its rank.
type Done = (usize, Deed);

fn of_object(deeds: AllDeeds<'_>, object: u64) -> Vec<Done> {
    let of_rank = |(rank, deeds): (usize, &Vec<Deed>)| -> Vec<Done> {
        deeds.iter().filter(|deed| deed.object == object).map(|deed| (rank, *deed)).collect()
    };
    deeds.iter().enumerate().flat_map(of_rank).collect()
}

fn gives_back(deed: &Deed) -> bool {
    matches!(deed.act, Act::Release | Act::Leave | Act::LeaveAlone | Act::Downgrade | Act::Vacate | Act::Resign)
}

/// Whether it is a call of a lease's word: who has not renewed in time, for whatever reason, is refused there.
fn is_leased(deed: &Deed) -> bool {
    let is_of_word = matches!(deed.act, Act::Write(_) | Act::Fence(_));
    is_of_word && (WORDS_OF_LEASES..WORDS_OF_LEASES + OBJECTS).contains(&deed.object)
}

/// Calls that have not ended, and ends that nothing explains.
fn unfounded_ends(evidence: &Evidence<'_>, deeds: AllDeeds<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for (rank, of_rank) in deeds.iter().enumerate() {
        for deed in of_rank {
            let is_right = match deed.ended {
                None => evidence.is_hurt(rank),
                // Whether its time was over: `Court::leases`.
                Some((_, End::Refused(_))) if is_leased(deed) => true,
                Some((at_ns, End::Excluded | End::Refused(_))) => evidence.was_hurt(rank, at_ns),
                // Also of those whom the fault has left alone: too few of them may answer each other for a while.
                Some((at_ns, End::Unreachable)) => evidence.hurt.iter().any(|(_, since_ns)| *since_ns <= at_ns),
                Some((at_ns, End::HomeLost)) => evidence.is_hurt(rank) || has_lost_a_node(evidence, at_ns),
                Some(_) => true,
            };
            if !is_right {
                violations.push(format!("rank {rank} was not hurt, and of its calls one ended so: {deed:?}"));
            }
        }
    }
    violations
}

/// Whether all ranks of some node had been hurt by then.
fn has_lost_a_node(evidence: &Evidence<'_>, at_ns: u64) -> bool {
    evidence.nodes.iter().any(|node| is_lost(evidence, *node, at_ns))
}

fn is_lost(evidence: &Evidence<'_>, node: usize, at_ns: u64) -> bool {
    let ranks = (0..evidence.nodes.len()).filter(|rank| evidence.nodes[*rank] == node);
    ranks.into_iter().all(|rank| evidence.was_hurt(rank, at_ns))
}

/// Time in which a rank has something, as far as that is certain.
#[derive(Clone, Debug)]
struct Hold {
    rank: usize,
    /// A token, or how many permits.
    number: u64,
    from_ns: u64,
    until_ns: u64,
    /// The call that gave it.
    given: Deed,
    /// The rank's calls since then, of all objects with this number, up to the one that gave it back if there was one.
    since: Vec<Deed>,
}

/// What there is to judge of the objects with one number.
struct Court<'a> {
    evidence: &'a Evidence<'a>,
    object: u64,
    deeds: Vec<Done>,
}

impl Court<'_> {
    /// When a rank was hurt, if it was.
    fn hurt_ns(&self, rank: usize) -> u64 {
        let of_rank = self.evidence.hurt.iter().filter(|(hurt, _)| *hurt == rank);
        of_rank.map(|(_, since_ns)| *since_ns).min().unwrap_or(u64::MAX)
    }

    /// Whether a call has ended before its rank was hurt, so that all others must see what it has done.
    fn counts(&self, (rank, deed): &Done) -> bool {
        deed.ended.is_some_and(|(at_ns, _)| at_ns < self.hurt_ns(*rank))
    }

    /// What ranks have had, of those calls that give something and the ones that give it back.
    fn holds(&self, gives: impl Fn(&Deed) -> Option<u64>, takes_back: impl Fn(&Deed) -> bool) -> Vec<Hold> {
        let mut holds = Vec::new();
        for (index, (rank, deed)) in self.deeds.iter().enumerate() {
            let (Some(number), Some((from_ns, _))) = (gives(deed), deed.ended) else { continue };
            let own = self.deeds[index + 1..].iter().filter(|(other, _)| other == rank).map(|(_, deed)| *deed);
            let mut since: Vec<Deed> = own.collect();
            let given_back = since.iter().position(&takes_back);
            since.truncate(given_back.map_or(usize::MAX, |index| index + 1));
            let until_ns = given_back.map_or(u64::MAX, |index| since[index].begun_ns).min(self.hurt_ns(*rank));
            holds.push(Hold { rank: *rank, number, from_ns, until_ns, given: *deed, since });
        }
        holds
    }

    fn words(&self) -> Vec<String> {
        let token_of = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Write(token), Some((_, End::Done))) | (Act::Fence(token), Some((_, End::Value(_)))) => Some(token),
            _ => None,
        };
        let value_of = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Write(token), Some((_, End::Done))) => Some(token),
            _ => None,
        };
        let (tokens, values) = (self.greatest(token_of), self.greatest(value_of));
        let mut violations = Vec::new();
        for done in &self.deeds {
            let (rank, deed) = done;
            let least = greatest_before(&tokens, deed.begun_ns);
            // A word on a node that is lost is nobody's but its ranks', who may not know.
            let is_seen = !is_lost(self.evidence, self.evidence.nodes[*rank], u64::MAX);
            if token_of(deed).is_some_and(|token| token < least) && is_seen {
                violations.push(self.of("word", format!("took {deed:?} of rank {rank} after token {least}")));
            }
            let Some((at_ns, End::Pair(token, value))) = deed.ended else { continue };
            let least_value = greatest_before(&values, deed.begun_ns);
            let was_written = |(_, other): &Done| other.act == Act::Write(value) && other.begun_ns < at_ns;
            let is_known = value == 0 || self.deeds.iter().any(was_written);
            let is_right = token >= least && value >= least_value && value <= token && is_known;
            if self.counts(done) && !is_right {
                let what = format!("was read by rank {rank} as {deed:?} after token {least} and value {least_value}");
                violations.push(self.of("word", what));
            }
        }
        violations
    }

    /// The greatest of some numbers up to each time, of calls that count.
    fn greatest(&self, number: impl Fn(&Deed) -> Option<u64>) -> Vec<(u64, u64)> {
        let counting = self.deeds.iter().filter(|done| self.counts(done));
        let one = |(_, deed): &Done| number(deed).zip(deed.ended).map(|(number, (at_ns, _))| (at_ns, number));
        let mut all: Vec<(u64, u64)> = counting.filter_map(one).collect();
        all.sort_unstable();
        let mut greatest = 0;
        for (_, number) in &mut all {
            greatest = greatest.max(*number);
            *number = greatest;
        }
        all
    }

    fn counters(&self) -> Vec<String> {
        let mut violations = self.double_numbers();
        // Sums up to each time: of what was certainly added, and of what may have been.
        let (mut surely, mut perhaps) = (Vec::new(), Vec::new());
        for done in &self.deeds {
            let (Act::Add(add), ended) = (done.1.act, done.1.ended) else { continue };
            perhaps.push((done.1.begun_ns, add));
            if let Some((at_ns, End::Value(_) | End::Unheard)) = ended.filter(|_| self.counts(done)) {
                surely.push((at_ns, add));
            }
        }
        let (surely, perhaps) = (sums(surely), sums(perhaps));
        for done in &self.deeds {
            let (rank, deed) = done;
            let Some((at_ns, End::Value(value))) = deed.ended.filter(|_| self.counts(done)) else { continue };
            let own = match deed.act {
                Act::Load => 0,
                Act::Add(add) => add,
                _ => continue,
            };
            // Its own addition is not in the value before it.
            let (least, most) = (greatest_before(&surely, deed.begun_ns), greatest_before(&perhaps, at_ns) - own);
            if value < least || value > most {
                let what = format!("gave rank {rank} {deed:?}, which is not between {least} and {most}");
                violations.push(self.of("counter", what));
            }
        }
        violations
    }

    /// Additions that were given the same numbers.
    fn double_numbers(&self) -> Vec<String> {
        let run = |done: &&Done| match (done.1.act, done.1.ended) {
            (Act::Add(add), Some((_, End::Value(first)))) if self.counts(done) => Some((first, first + add, done.0)),
            _ => None,
        };
        let mut runs: Vec<(u64, u64, usize)> = self.deeds.iter().filter_map(|done| run(&done)).collect();
        runs.sort_unstable();
        let doubles = runs.windows(2).filter(|pair| pair[1].0 < pair[0].1);
        doubles.map(|pair| self.of("counter", format!("gave ranks the same numbers: {pair:?}"))).collect()
    }

    fn permits(&self) -> Vec<String> {
        let taken = |deed: &Deed| match (deed.act, deed.ended) {
            (Act::Take(count), Some((_, End::Done))) => Some(count),
            _ => None,
        };
        let mut changes = Vec::new();
        for hold in self.holds(taken, |deed| matches!(deed.act, Act::Return(_))) {
            if hold.from_ns < hold.until_ns {
                changes.extend([(hold.from_ns, true, hold.clone()), (hold.until_ns, false, hold)]);
            }
        }
        // What is returned in the same nanosecond comes first.
        changes.sort_by_key(|(at_ns, is_taken, _)| (*at_ns, *is_taken));
        let (mut out, mut violations) = (HashMap::new(), Vec::new());
        for (_, is_taken, hold) in changes {
            let own: &mut u64 = out.entry(hold.rank).or_default();
            *own = if is_taken { *own + hold.number } else { *own - hold.number };
            let all: u64 = out.values().sum();
            if all > PERMITS {
                violations.push(self.of("semaphore", format!("had {all} permits out at {hold:?}: {out:?}")));
            }
        }
        violations
    }

    fn of(&self, kind: &str, what: String) -> String {
        format!("{kind} {} {what}", self.object)
    }
}

/// Numbers at times, as what they add up to by then.
fn sums(mut numbers: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut sum = 0;
    for (_, number) in &mut numbers {
        sum += *number;
        *number = sum;
    }
    numbers
}

/// The last of some numbers that grow before a time.
fn greatest_before(numbers: &[(u64, u64)], at_ns: u64) -> u64 {
    let before = numbers.partition_point(|(time_ns, _)| *time_ns < at_ns);
    before.checked_sub(1).map_or(0, |last| numbers[last].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(act: Act, begun_ns: u64, ended_ns: u64, end: End) -> Deed {
        Deed { act, object: 0, begun_ns, ended: Some((ended_ns, end)) }
    }

    fn hold(token: u64, from_ns: u64, until_ns: u64) -> [Deed; 2] {
        let released = deed(Act::Release, until_ns, until_ns + 1, End::Done);
        [deed(Act::Acquire, from_ns - 1, from_ns, End::Granted(token)), released]
    }

    /// Three ranks, two of them on node 0; rank 2 is hurt at 100.
    fn words(deeds: &[&[Deed]]) -> String {
        let deeds: Vec<Vec<Deed>> = deeds.iter().map(|deeds| deeds.to_vec()).collect();
        let evidence =
            Evidence { nodes: &[0, 0, 1], said: &[], records: &[], hurt: &[(2, 100)], killed: &[], is_cut: false };
        judge(&evidence, &deeds).join("; ")
    }

    fn assert_found(deeds: &[&[Deed]], part: &str) {
        let found = words(deeds);
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }

    #[test]
    fn what_is_right_passes() {
        let first = [&hold(1, 10, 20)[..], &[deed(Act::Add(2), 21, 22, End::Value(0))]].concat();
        let second = [&hold(2, 30, 40)[..], &[deed(Act::Load, 50, 60, End::Value(2))]].concat();
        let third = [deed(Act::Acquire, 45, 50, End::Granted(3)), deed(Act::Add(7), 90, 200, End::Uncertain)];
        assert_eq!(words(&[&first, &second, &third]), "");
        // The one that was hurt is followed, and comes to know.
        let heir = hold(4, 110, 120);
        let zombie = [third[0], deed(Act::Release, 300, 301, End::Excluded)];
        assert_eq!(words(&[&heir, &[], &zombie]), "");
    }

    #[test]
    fn two_holders_one_token_and_lesser_tokens_are_found() {
        assert_found(&[&hold(1, 10, 30), &hold(2, 20, 40)], "granted before it was given up");
        assert_found(&[&hold(5, 10, 20), &hold(4, 30, 40)], "granted before it was given up");
        assert_found(&[&hold(5, 10, 20), &hold(5, 30, 40)], "given twice with one token");
        // Also of who was hurt: what it had noted before, it had.
        let hurt = [deed(Act::Acquire, 40, 50, End::Granted(3))];
        assert_found(&[&hold(4, 99, 120), &[], &hurt], "granted before it was given up");
        assert_found(&[&hold(3, 120, 130), &[], &hurt], "given twice with one token");
    }

    #[test]
    fn a_silence_that_nobody_has_caused_is_found() {
        let in_vain = |at_ns| [deed(Act::Acquire, at_ns - 1, at_ns, End::Unreachable)];
        assert_found(&[&in_vain(90)], "was not hurt");
        assert_eq!(words(&[&in_vain(110), &[], &in_vain(120)]), "");
        // What was to be given back is given up from then on, and no more is asked of it.
        let gives_up = [deed(Act::Acquire, 40, 50, End::Granted(3)), deed(Act::Release, 90, 110, End::Unreachable)];
        assert_eq!(words(&[&gives_up, &hold(4, 120, 130)]), "");
        assert_found(&[&gives_up, &hold(4, 80, 95)], "granted before it was given up");
    }

    #[test]
    fn a_zombie_that_releases_or_writes_is_found() {
        let zombie = [deed(Act::Acquire, 40, 50, End::Granted(3)), deed(Act::Release, 300, 301, End::Done)];
        assert_found(&[&hold(4, 110, 120), &[], &zombie], "released or kept by one that was followed");
        // One that is cut off need not know.
        let deeds: Vec<Vec<Deed>> = vec![hold(4, 110, 120).to_vec(), vec![], zombie.to_vec()];
        let cut = Evidence { nodes: &[0, 0, 1], said: &[], records: &[], hurt: &[(2, 100)], killed: &[], is_cut: true };
        assert_eq!(judge(&cut, &deeds).join("; "), "");
        // Its node has another rank here.
        let nodes = [0, 0, 0];
        let late = deed(Act::Write(3), 300, 301, End::Done);
        let deeds = [vec![deed(Act::Fence(4), 110, 120, End::Value(0))], vec![], vec![late]];
        let evidence =
            Evidence { nodes: &nodes, said: &[], records: &[], hurt: &[(2, 100)], killed: &[], is_cut: false };
        let found = judge(&evidence, &deeds).join("; ");
        assert!(found.contains("took") && found.contains("of rank 2 after token 4"), "{found}");
    }

    #[test]
    fn words_that_go_back_or_lose_what_was_written_are_found() {
        let writes = [deed(Act::Fence(4), 10, 11, End::Value(0)), deed(Act::Write(4), 12, 13, End::Done)];
        let read = |token, value| [deed(Act::Read, 20, 21, End::Pair(token, value))];
        assert_eq!(words(&[&writes, &read(4, 4)]), "");
        assert_found(&[&writes, &read(3, 0)], "after token 4");
        assert_found(&[&writes, &read(4, 0)], "and value 4");
        assert_found(&[&writes, &read(9, 9)], "was read by rank 1");
        assert_found(&[&writes, &[deed(Act::Write(9), 30, 31, End::Refused(12))]], "was not hurt");
    }

    #[test]
    fn additions_that_are_lost_doubled_or_invented_are_found() {
        let add = |at_ns, add, end| deed(Act::Add(add), at_ns, at_ns + 1, end);
        let load = |value| [deed(Act::Load, 60, 61, End::Value(value))];
        let adds = [add(10, 2, End::Value(0)), add(20, 3, End::Unheard), add(30, 4, End::Uncertain)];
        for value in [5, 9] {
            assert_eq!(words(&[&adds, &load(value)]), "");
        }
        assert_found(&[&adds, &load(4)], "which is not between 5 and 9");
        assert_found(&[&adds, &load(10)], "which is not between 5 and 9");
        assert_found(&[&adds[..1], &[add(10, 1, End::Value(1))]], "the same numbers");
        // What one that was hurt had been told of before must not be lost, what it was told of later may.
        assert_found(&[&load(0), &[], &[add(50, 7, End::Value(0))]], "which is not between 7 and 7");
        let later = [deed(Act::Load, 400, 401, End::Value(0))];
        assert_eq!(words(&[&later, &[], &[add(200, 7, End::Value(0))]]), "");
    }

    #[test]
    fn permits_that_are_too_many_are_found() {
        let take = |count, from_ns, until_ns| {
            [
                deed(Act::Take(count), from_ns - 1, from_ns, End::Done),
                deed(Act::Return(count), until_ns, until_ns + 1, End::Done),
            ]
        };
        assert_eq!(words(&[&take(1, 10, 30), &take(1, 20, 40)]), "");
        assert_found(&[&take(2, 10, 30), &take(1, 20, 40)], "had 3 permits out");
        assert_eq!(words(&[&take(2, 110, 130), &[], &take(1, 50, 200)]), "");
        assert_found(&[&take(2, 90, 130), &[], &take(1, 50, 200)], "had 3 permits out");
    }

    #[test]
    fn calls_that_do_not_end_and_ends_that_nobody_has_caused_are_found() {
        let open = Deed { act: Act::Acquire, object: 0, begun_ns: 10, ended: None };
        assert_eq!(words(&[&[], &[], &[open]]), "");
        assert_found(&[&[open]], "rank 0 was not hurt");
        assert_found(&[&[deed(Act::Load, 10, 20, End::HomeLost)]], "rank 0 was not hurt");
        assert_eq!(words(&[&[deed(Act::Load, 110, 120, End::HomeLost)]]), "");
        assert_found(&[&[deed(Act::Acquire, 110, 120, End::Excluded)]], "rank 0 was not hurt");
    }
}
