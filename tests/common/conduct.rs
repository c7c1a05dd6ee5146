//! What the random members of a simulated barrier have in common, whatever machine they drive: how they behave, what
//! they bring, and what an oracle may expect of it.

use phalanx::coord::barrier::{Awaited, Contribution, Disagreement, Operation, Outcome};
use phalanx::fabric::sim::{Seeded, SimNode};
use phalanx::fabric::{Memory, lower_half};
use phalanx::sync::Ordering;

use super::block::{REDUCTIONS, reduced};

/// What a member is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Not arrived at its next barrier.
    Idle,
    /// Arrived, and polls when its turn comes.
    Waiting,
    /// Arrived, and does not look before all others that do are through.
    Absent,
    /// Taking its arrival back.
    Withdrawing,
    /// Arrived, and asleep until woken.
    Parked(Awaited),
}

/// A member as an oracle knows it.
#[derive(Clone, Debug)]
pub struct Conduct {
    pub mood: Mood,
    /// What it brought to each barrier that it has arrived at, by sequence from 1.
    pub brought: Vec<Contribution>,
    /// How often it has withdrawn from the barrier that it is at.
    pub attempts: usize,
}

impl Conduct {
    pub fn new() -> Self {
        Self { mood: Mood::Idle, brought: Vec::new(), attempts: 0 }
    }

    /// It arrives at `sequence`, perhaps again.
    pub fn arrive(&mut self, sequence: u64, contribution: Contribution) {
        self.brought.truncate(usize::try_from(sequence).expect("few rounds") - 1);
        self.brought.push(contribution);
    }

    pub fn pass(&mut self) {
        (self.mood, self.attempts) = (Mood::Idle, 0);
    }

    pub fn withdraw(&mut self) {
        (self.mood, self.attempts) = (Mood::Idle, self.attempts + 1);
    }

    /// Whether it has arrived at `sequence`, its withdrawal, if it is at one, left open. `next` is the barrier that it
    /// is at.
    pub fn may_stand(&self, next: u64, sequence: u64) -> bool {
        next > sequence || (next == sequence && self.mood != Mood::Idle)
    }
}

/// Whether one that is absent at barrier `next` looks again: all others, each with the barrier that it is at, are
/// through or absent, too.
pub fn is_missed_by_nobody<'a>(mut members: impl Iterator<Item = (u64, &'a Conduct)>, next: u64) -> bool {
    members.all(|(other, conduct)| conduct.mood == Mood::Absent && other == next || other > next)
}

/// Something to bring to barrier `next`: all name the same operation in most rounds.
pub fn any_contribution(next: u64, random: &mut Seeded) -> Contribution {
    let agreed = usize::try_from(next).expect("few rounds") % 6;
    let odd = random.below(300) == 0;
    let operation = match if odd { random.below(5) } else { agreed } {
        number @ 0..4 => REDUCTIONS[number],
        _ => Operation::Barrier,
    };
    Contribution { operation, value: random.number() }
}

/// What member `index` must get that has passed barrier `sequence`. Before that all have arrived: `members`, each with
/// the barrier that it is at.
pub fn must_get<'a>(members: impl Iterator<Item = (u64, &'a Conduct)>, index: usize, sequence: u64) -> Outcome {
    let (nexts, conducts): (Vec<u64>, Vec<&Conduct>) = members.unzip();
    for (other, (next, conduct)) in nexts.into_iter().zip(&conducts).enumerate() {
        let stands = conduct.may_stand(next, sequence);
        assert!(stands, "member {index} has passed {sequence} before member {other} arrived");
    }
    expected(conducts.into_iter(), sequence)
}

/// What all must get from barrier `sequence`.
fn expected<'a>(members: impl Iterator<Item = &'a Conduct>, sequence: u64) -> Outcome {
    let place = usize::try_from(sequence).expect("few rounds") - 1;
    let brought: Vec<Contribution> = members.map(|conduct| conduct.brought[place]).collect();
    let operation = brought[0].operation;
    if brought.iter().any(|other| other.operation != operation) {
        return Err(Disagreement(brought.iter().map(|other| other.operation).collect()));
    }
    let values: Vec<u64> = brought.iter().map(|other| other.value).collect();
    Ok(if operation.has_value() { reduced(operation, &values) } else { 0 })
}

/// As `drive::park` and the kernel: counted, compared, asleep. Whether it is.
pub fn fall_asleep(memory: &SimNode, awaited: Awaited) -> bool {
    memory.word(awaited.sleepers).fetch_add(1, Ordering::Relaxed);
    let sleeps = lower_half(memory.word(awaited.word).load(Ordering::Relaxed)) == lower_half(awaited.seen);
    if !sleeps {
        wake_up(memory, awaited);
    }
    sleeps
}

/// Sleeps no more.
pub fn wake_up(memory: &SimNode, awaited: Awaited) {
    memory.word(awaited.sleepers).fetch_sub(1, Ordering::Relaxed);
}
