//! What must hold of a round, judged from what its ranks have said and recorded.
//!
//! - Nobody passes a barrier before all its members have arrived there.
//! - Survivors that a barrier has failed are told the same of it, and a group says the same of an epoch at all its
//!   barriers.
//! - A barrier that has failed a survivor has been passed by no other survivor; in a group of one node by nobody.
//! - Nobody is declared failed to whom nothing was done.
//! - A group of survivors has the same members for all of them, and all of them have it, but for those that were hurt.
//! - A rank without which the others have gone on succeeds in nothing.
//! - No call fails in a way that no fault explains.
//!
//! What must hold of the named objects that ranks have used: `custody.rs`.

use std::collections::HashMap;

use crate::doomed::log::{Record, Step};
use crate::doomed::said::{Event, Said, Told};

/// What there is to judge by.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Each rank's node.
    pub nodes: &'a [usize],
    /// Everything that was said, in the order in which it was heard.
    pub said: &'a [Said],
    /// Each rank's records.
    pub records: &'a [Vec<Record>],
    /// Who may have failed, and since when.
    pub hurt: &'a [(usize, u64)],
    /// Which of them were killed, and so go by no clock.
    pub killed: &'a [usize],
    /// Whether they are cut off: they may not know what others do.
    pub is_cut: bool,
}

impl Evidence<'_> {
    /// Whether something was done to a rank.
    pub(super) fn is_hurt(&self, rank: usize) -> bool {
        self.hurt.iter().any(|(hurt, _)| *hurt == rank)
    }

    /// Whether it had been by then.
    pub(super) fn was_hurt(&self, rank: usize, at_ns: u64) -> bool {
        self.hurt.iter().any(|(hurt, since_ns)| *hurt == rank && *since_ns <= at_ns)
    }
}

/// What does not hold, in words.
pub fn judge(evidence: &Evidence<'_>) -> Vec<String> {
    let groups = groups(evidence);
    let mut violations = early_passings(evidence, &groups);
    violations.extend(different_words(evidence));
    violations.extend(false_alarms(evidence));
    violations.extend(split_groups(evidence, &groups));
    violations.extend(undead(evidence));
    violations.extend(split_barriers(evidence, &groups));
    violations
}

type Groups = HashMap<u64, Vec<usize>>;

fn groups(evidence: &Evidence<'_>) -> Groups {
    let mut groups = Groups::from([(0, (0..evidence.nodes.len()).collect())]);
    for said in evidence.said {
        if let Event::Shrunk { group, ranks } = &said.event {
            groups.entry(*group).or_insert_with(|| ranks.clone());
        }
    }
    groups
}

/// Whether a rank may have made a group that it had no time to tell of: one that is back from a stop, where the others
/// could not agree that it had failed, and have gone. Nobody waits for it any more.
fn may_be_unheard(evidence: &Evidence<'_>, rank: usize) -> bool {
    let gave_up = |said: &Said| matches!(&said.event, Event::Failed { told, .. } if told.is_open());
    evidence.hurt.iter().any(|(hurt, _)| *hurt == rank) && evidence.said.iter().any(gave_up)
}

fn early_passings(evidence: &Evidence<'_>, groups: &Groups) -> Vec<String> {
    let mut arrivals = HashMap::new();
    for (rank, records) in evidence.records.iter().enumerate() {
        for record in records.iter().filter(|record| record.step == Step::Arrives) {
            arrivals.insert((rank, record.group, record.sequence), record.at_ns);
        }
    }
    let mut violations = Vec::new();
    for (rank, records) in evidence.records.iter().enumerate() {
        for record in records.iter().filter(|record| record.step == Step::Passed) {
            let Record { group, sequence, at_ns, .. } = *record;
            let Some(members) = groups.get(&group) else {
                if may_be_unheard(evidence, rank) {
                    continue;
                }
                violations
                    .push(format!("rank {rank} passed barrier {sequence} of group {group}, which nobody has made"));
                continue;
            };
            let has_come = |member: &&usize| arrivals.get(&(**member, group, sequence)).is_some_and(|at| *at <= at_ns);
            let missing: Vec<&usize> = members.iter().filter(|member| !has_come(member)).collect();
            if !missing.is_empty() {
                violations.push(format!(
                    "rank {rank} passed barrier {sequence} of group {group} before ranks {missing:?} had arrived"
                ));
            }
        }
    }
    violations
}

/// All failures of barriers: rank, group, sequence, what was told.
fn failures<'a>(evidence: &Evidence<'a>) -> impl Iterator<Item = (usize, u64, u64, &'a Told)> {
    evidence.said.iter().filter_map(|said| match &said.event {
        Event::Failed { group, sequence, told } => Some((said.rank, *group, *sequence, told)),
        _ => None,
    })
}

fn different_words(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut of_barrier: HashMap<(u64, u64), (usize, &Told)> = HashMap::new();
    let mut of_epoch: HashMap<(u64, u64), (usize, &Told)> = HashMap::new();
    for (rank, group, sequence, told) in failures(evidence) {
        let Told::RankFailed { epoch, .. } = told else { continue };
        let (first, words) = of_barrier.entry((group, sequence)).or_insert((rank, told));
        if *words != told {
            violations.push(format!(
                "of barrier {sequence} of group {group} rank {first} was told {words:?}, rank {rank} {told:?}"
            ));
        }
        let (first, words) = of_epoch.entry((group, *epoch)).or_insert((rank, told));
        if *words != told {
            violations.push(format!(
                "of epoch {epoch} in group {group} rank {first} was told {words:?}, rank {rank} {told:?}"
            ));
        }
    }
    violations
}

fn false_alarms(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for said in evidence.said {
        let Event::Failed { group, sequence, told } = &said.event else { continue };
        let is_innocent = |rank: &&usize| !evidence.was_hurt(**rank, said.at_ns);
        let is_right = match told {
            Told::RankFailed { ranks, .. } => !ranks.iter().any(|rank| is_innocent(&rank)),
            Told::Unreachable { .. } | Told::Unsettled { .. } => {
                evidence.hurt.iter().any(|(_, since_ns)| *since_ns <= said.at_ns)
            }
            Told::Excluded { .. } => evidence.was_hurt(said.rank, said.at_ns),
            Told::TimedOut { .. } | Told::Other { .. } => false,
        };
        if !is_right {
            violations.push(format!(
                "at barrier {sequence} of group {group} rank {} was told {told:?}, which nobody has caused by then",
                said.rank
            ));
        }
    }
    violations
}

/// Barriers that some have passed and others have failed at. Across nodes, one that has failed itself may have passed
/// before it did what no survivor knows of.
fn split_barriers(evidence: &Evidence<'_>, groups: &Groups) -> Vec<String> {
    let mut violations = Vec::new();
    let is_on_one_node = |group: u64, rank: usize| {
        let members = groups.get(&group).into_iter().flatten();
        members.copied().all(|member| evidence.nodes[member] == evidence.nodes[rank])
    };
    for (rank, group, sequence, told) in failures(evidence) {
        if !matches!(told, Told::RankFailed { .. }) {
            continue;
        }
        let is_on_one = is_on_one_node(group, rank);
        let has_passed = |other: &usize| {
            let same = |record: &Record| record.group == group && record.sequence == sequence;
            evidence.records[*other].iter().any(|record| record.step == Step::Passed && same(record))
        };
        let counts = |other: &usize| is_on_one || !(evidence.is_hurt(rank) || evidence.is_hurt(*other));
        for other in (0..evidence.nodes.len()).filter(has_passed).filter(counts) {
            let place = if is_on_one { "on one node" } else { "across nodes" };
            violations.push(format!(
                "barrier {sequence} of group {group} has failed rank {rank}, and rank {other} has passed it, {place}"
            ));
        }
    }
    violations
}

fn split_groups(evidence: &Evidence<'_>, groups: &Groups) -> Vec<String> {
    let mut violations = Vec::new();
    let mut holders: HashMap<u64, Vec<usize>> = HashMap::new();
    for said in evidence.said {
        let Event::Shrunk { group, ranks } = &said.event else { continue };
        holders.entry(*group).or_default().push(said.rank);
        if groups.get(group) != Some(ranks) {
            violations
                .push(format!("group {group} is {:?} for some and {ranks:?} for rank {}", groups[group], said.rank));
        }
    }
    for (group, holders) in holders {
        let is_without = |member: &&usize| !holders.contains(member) && !evidence.is_hurt(**member);
        let without: Vec<&usize> = groups[&group].iter().filter(is_without).collect();
        if !without.is_empty() {
            violations.push(format!("ranks {holders:?} have group {group}, its members {without:?} do not"));
        }
    }
    violations
}

fn undead(evidence: &Evidence<'_>) -> Vec<String> {
    let call = |said: &Said| match &said.event {
        Event::Undead { call } => {
            Some(format!("rank {} has succeeded in a call without the others: {call}", said.rank))
        }
        Event::Wrong { what } => Some(format!("rank {} was told what no fault explains: {what}", said.rank)),
        _ => None,
    };
    evidence.said.iter().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: Step, sequence: u64, at_ns: u64) -> Record {
        Record { step, group: 0, sequence, at_ns }
    }

    fn failed(rank: usize, sequence: u64, ranks: &[usize]) -> Said {
        let told = Told::RankFailed { ranks: ranks.to_vec(), causes: vec!["killed".to_owned()], epoch: 1 };
        Said { rank, at_ns: 0, event: Event::Failed { group: 0, sequence, told } }
    }

    fn shrunk(rank: usize, ranks: &[usize]) -> Said {
        Said { rank, at_ns: 0, event: Event::Shrunk { group: 9, ranks: ranks.to_vec() } }
    }

    fn words(said: &[Said], records: &[Vec<Record>], hurt: &[(usize, u64)]) -> String {
        judge(&Evidence { nodes: &[0, 0, 1], said, records, hurt, killed: &[], is_cut: false }).join("; ")
    }

    /// Two barriers; rank 2 is killed before the second.
    fn good() -> (Vec<Said>, Vec<Vec<Record>>) {
        let said = vec![failed(0, 2, &[2]), failed(1, 2, &[2]), shrunk(0, &[0, 1]), shrunk(1, &[0, 1])];
        let first = |late| vec![record(Step::Arrives, 1, late), record(Step::Passed, 1, 10 + late)];
        let mut records = vec![first(1), first(2), first(3)];
        records[0].push(record(Step::Arrives, 2, 20));
        (said, records)
    }

    #[test]
    fn what_is_right_passes() {
        let (said, records) = good();
        assert_eq!(words(&said, &records, &[(2, 0)]), "");
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        let (said, mut records) = good();
        records[0].push(record(Step::Passed, 2, 30));
        let found = words(&said, &records, &[(2, 0)]);
        assert!(found.contains("passed barrier 2 of group 0 before ranks [1, 2]"), "{found}");
        assert!(found.contains("has failed rank 1, and rank 0 has passed it, across nodes"), "{found}");
        let alone = Evidence {
            nodes: &[0, 0, 0],
            said: &said,
            records: &records,
            hurt: &[(2, 0)],
            killed: &[2],
            is_cut: false,
        };
        let found = judge(&alone).join("; ");
        assert!(found.contains("has failed rank 1, and rank 0 has passed it, on one node"), "{found}");

        let (mut said, records) = good();
        said[1] = failed(1, 2, &[2, 0]);
        let found = words(&said, &records, &[(2, 0)]);
        assert!(found.contains("of barrier 2 of group 0 rank 0 was told"), "{found}");
        assert!(found.contains("which nobody has caused"), "{found}");

        let (mut said, records) = good();
        said[3] = shrunk(1, &[1]);
        assert!(words(&said, &records, &[(2, 0)]).contains("group 9 is [0, 1] for some"));
        said.pop();
        assert!(words(&said, &records, &[(2, 0)]).contains("its members [1] do not"));

        let (mut said, records) = good();
        said.push(Said { rank: 2, at_ns: 0, event: Event::Undead { call: "barrier".to_owned() } });
        assert!(words(&said, &records, &[(2, 0)]).contains("rank 2 has succeeded"));
        said.push(Said { rank: 1, at_ns: 0, event: Event::Wrong { what: "no such thing".to_owned() } });
        assert!(words(&said, &records, &[(2, 0)]).contains("rank 1 was told what no fault explains"));
        assert!(words(&good().0, &records, &[]).contains("which nobody has caused"));
        assert!(words(&good().0, &records, &[(2, 1)]).contains("which nobody has caused"));
    }

    #[test]
    fn an_end_that_is_open_is_right_when_somebody_has_been_hurt() {
        let (said, records) = good();
        let open = [Told::Unreachable { ranks: vec![2] }, Told::Unsettled { ranks: vec![1] }];
        for told in open {
            let mut said = said.clone();
            said.push(Said { rank: 0, at_ns: 5, event: Event::Failed { group: 0, sequence: 2, told } });
            assert_eq!(words(&said, &records, &[(2, 0)]), "");
            said.drain(..4);
            assert!(words(&said, &records, &[(2, 6)]).contains("which nobody has caused"));
        }
    }

    #[test]
    fn who_has_failed_itself_may_have_passed_what_survivors_lost() {
        let (mut said, mut records) = good();
        said.truncate(2);
        for (rank, of_rank) in records.iter_mut().enumerate() {
            of_rank.retain(|record| record.sequence == 1);
            of_rank.push(record(Step::Arrives, 2, 40 + rank as u64));
        }
        records[2].push(record(Step::Passed, 2, 50));
        assert_eq!(words(&said, &records, &[(2, 0)]), "");
    }
}
