//! A rank of a simulated job: its sentinel, driven as the thread of `src/job/watcher` drives it, and its part in
//! barriers, which ends by the rule of `src/group/failures.rs` where members fail.

use std::cell::RefCell;
use std::time::Duration;

use phalanx::FailureCause;
use phalanx::cluster::sentinel::{BUSY_PAUSE, Sentinel, Site, ring};
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::coord::barrier::Contribution;
use phalanx::coord::barrier::spanning::Spanning;
use phalanx::fabric::node::{NodeLayout, header};
use phalanx::fabric::sim::Seeded;
use phalanx::fabric::{Fabric, Memory, Topology};
use phalanx::sync::Ordering;

use crate::nature::{Gate, Nature, Place};
use crate::run::MS;

/// After this long in a wait a member looks into others' outboxes, and then asks after those that it misses.
pub const REPAIR_AFTER: u64 = 2 * MS;
pub const ASK_AFTER: u64 = 20 * MS;
pub const ASK_EVERY: u64 = 10 * MS;
/// A rank that leaves does so this long after its last barrier: what it has said there has arrived, or never will.
const LEAVES_AFTER: u64 = 10 * MS;
/// When nobody else is missing for so long, a barrier is lost by those that have left.
const DESERTED_AFTER: u64 = 1_000 * MS;
/// Between two looks the thread of a busy sentinel, or a rank that waits, yields for so long; all answers that have
/// come by then are taken at once.
const YIELD: u64 = 10_000;

/// How a rank's part in the barriers stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stand {
    /// It computes until then.
    Computing(u64),
    Waiting {
        since: u64,
        repairs_at: u64,
        asks_at: u64,
    },
    /// All rounds are over.
    Done,
    /// A member will never come.
    Failed,
    Excluded,
}

pub struct Meeting {
    pub machine: Spanning,
    pub stand: Stand,
    pub looked_at: u64,
    pub alarm: u64,
    /// It has been told that nodes are unreachable, in the wait that goes on.
    pub is_doubtful: bool,
}

/// How far a rank is on its way out of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    Stays,
    /// Not before then.
    Wants(u64),
    /// Its node knows; its sentinel is finishing.
    Ends,
    Left,
}

/// A rank's process.
pub struct Actor {
    pub rank: usize,
    pub node: usize,
    pub sentinel: Sentinel,
    pub due: u64,
    pub looked_at: u64,
    pub is_busy: bool,
    pub alarm: u64,
    pub has_breach: bool,
    pub is_dead: bool,
    pub leaving: Leaving,
    pub meeting: Option<Meeting>,
}

/// What a rank's part in the barriers needs to know, and what the oracle knows.
pub struct Table<'run> {
    pub topology: &'run Topology,
    pub layouts: &'run [NodeLayout],
    pub nature: &'run RefCell<Nature>,
    pub arrived: &'run RefCell<Vec<u64>>,
    pub rounds: u64,
    pub random: &'run RefCell<Seeded>,
}

impl Table<'_> {
    /// Whether a rank of this node has not arrived at a barrier.
    fn has_member_before(&self, node: usize, sequence: u64) -> bool {
        self.topology.ranks_of(node).iter().any(|rank| self.arrived.borrow()[*rank] < sequence)
    }
}

fn nanoseconds(pause: Duration) -> u64 {
    u64::try_from(pause.as_nanos()).expect("short")
}

impl Meeting {
    pub fn new(machine: Spanning) -> Self {
        Self { machine, stand: Stand::Computing(0), looked_at: 0, alarm: 0, is_doubtful: false }
    }
}

impl Actor {
    pub fn new(rank: usize, node: usize, sentinel: Sentinel, meeting: Option<Meeting>) -> Self {
        Self {
            rank,
            node,
            sentinel,
            // Processes do not begin together.
            due: (rank as u64 * 7_919_993) % (20 * MS),
            looked_at: 0,
            is_busy: false,
            alarm: 0,
            has_breach: false,
            is_dead: false,
            leaving: Leaving::Stays,
            meeting,
        }
    }

    /// As the thread does that drives a sentinel.
    pub fn look(&mut self, gate: &Gate<'_>, place: &Place<'_>, now: u64) {
        let site = Site { memory: gate.memory, fabric: gate, surroundings: place, now: Duration::from_nanos(now) };
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if std::mem::take(&mut self.has_breach) {
            self.sentinel.handle_breach(&site);
        } else if alarm == self.alarm && now < self.due {
            // Perhaps an answer has come.
            self.due = if self.is_busy { self.due.min(self.looked_at + YIELD) } else { self.due };
            if now < self.due {
                return;
            }
        }
        (self.alarm, self.looked_at) = (alarm, now);
        let pause = self.sentinel.step(&site);
        self.is_busy = pause == Some(Duration::ZERO);
        let pause = pause.map(|pause| if pause.is_zero() { BUSY_PAUSE } else { pause });
        self.due = pause.map_or(u64::MAX, |pause| now + nanoseconds(pause));
    }

    /// As a rank does whose `Job` is dropped, and then its watcher's thread. When it wants to look again.
    pub fn leave(&mut self, gate: &Gate<'_>, place: &Place<'_>, now: u64) -> u64 {
        let site = Site { memory: gate.memory, fabric: gate, surroundings: place, now: Duration::from_nanos(now) };
        let waits = |meeting: &Meeting| matches!(meeting.stand, Stand::Waiting { .. });
        match self.leaving {
            Leaving::Stays | Leaving::Left => return u64::MAX,
            Leaving::Wants(_) if self.meeting.as_ref().is_some_and(waits) => {
                self.leaving = Leaving::Wants(now + LEAVES_AFTER);
                return u64::MAX;
            }
            Leaving::Wants(at) if now < at => return at,
            Leaving::Wants(_) => {
                let left = Obituary { unit: Unit::Rank(self.rank), cause: FailureCause::Left };
                let at = place.layout().end(place.topology.local_of(self.rank));
                if view::note_end(gate.memory, at, left) {
                    view::raise_alarm(gate.memory);
                }
                self.leaving = Leaving::Ends;
            }
            Leaving::Ends => {}
        }
        if self.sentinel.finish(&site).is_pending() || self.sentinel.say_farewell(&site).is_pending() {
            return now + nanoseconds(BUSY_PAUSE);
        }
        self.sentinel.abandon(gate);
        (self.leaving, self.is_dead) = (Leaving::Left, true);
        u64::MAX
    }

    /// As a rank does that passes barriers. When it wants to look again.
    pub fn meet(&mut self, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        let Some(mut meeting) = self.meeting.take() else { return u64::MAX };
        let next = meeting.looked_at + YIELD;
        let is_spinning = matches!(meeting.stand, Stand::Waiting { .. }) && now < next;
        let next = if is_spinning { next } else { self.meet_by(&mut meeting, gate, table, now) };
        self.meeting = Some(meeting);
        next
    }

    pub fn meet_by(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        match meeting.stand {
            Stand::Computing(until) if now < until => return until,
            Stand::Computing(_) if self.leaving != Leaving::Stays => return u64::MAX,
            Stand::Computing(_) if meeting.machine.passed() == table.rounds => meeting.stand = Stand::Done,
            Stand::Computing(_) => {
                meeting.machine.arrive(gate.memory, Contribution::NONE, None);
                table.arrived.borrow_mut()[self.rank] += 1;
                meeting.stand = Stand::Waiting { since: now, repairs_at: now + REPAIR_AFTER, asks_at: now + ASK_AFTER };
                meeting.alarm = u64::MAX;
            }
            Stand::Waiting { .. } => {}
            Stand::Done | Stand::Failed | Stand::Excluded => return u64::MAX,
        }
        meeting.looked_at = now;
        let Stand::Waiting { since, repairs_at, asks_at } = &mut meeting.stand else { return u64::MAX };
        let polled = if now >= *repairs_at {
            *repairs_at = now + REPAIR_AFTER;
            meeting.machine.repair(gate.memory, gate)
        } else {
            meeting.machine.poll_thoroughly(gate.memory, gate)
        };
        let (mut next, is_long) = (*repairs_at, now - *since >= DESERTED_AFTER);
        if now >= *asks_at {
            *asks_at = now + ASK_EVERY;
            self.ask(meeting.machine.passed() + 1, gate, table);
        }
        if polled.is_ready() {
            let sequence = meeting.machine.passed();
            let late = table.arrived.borrow().iter().position(|arrived| *arrived < sequence);
            assert_eq!(late, None, "rank {} passed {sequence} before that rank", self.rank);
            let pause = table.random.borrow_mut().number() % (20 * MS);
            (meeting.stand, meeting.is_doubtful) = (Stand::Computing(now + pause), false);
            next = now + pause;
        } else {
            self.heed(meeting, gate, table, is_long);
        }
        next
    }

    /// Asks after those that have not arrived, and those that cannot be asked any more.
    pub fn ask(&self, sequence: u64, gate: &Gate<'_>, table: &Table<'_>) {
        let late: Vec<usize> = {
            let (nature, arrived) = (table.nature.borrow(), table.arrived.borrow());
            if nature.stopped.is_empty() && nature.leaving == 0 {
                return;
            }
            let is_late =
                |rank: &usize| arrived[*rank] < sequence || nature.refuses.contains_key(&table.topology.node_of(*rank));
            (0..arrived.len()).filter(is_late).collect()
        };
        late.into_iter().for_each(|rank| self.ask_after(rank, gate, table));
    }

    /// As `Membership::ask_after`.
    fn ask_after(&self, rank: usize, gate: &Gate<'_>, table: &Table<'_>) {
        let home = table.topology.node_of(rank);
        table.nature.borrow_mut().asked.extend([Unit::Rank(rank), Unit::Node(home)]);
        let at = table.layouts[home].asked_after(table.topology.local_of(rank));
        if let Ok(ticket) = gate.fetch_add(home, at, 1) {
            return gate.forget(ticket);
        }
        let is_gone = |node| table.nature.borrow().refused.contains(&(self.node, node));
        for watcher in ring::watchers_of(gate.memory, &table.layouts[self.node], home, is_gone) {
            if let Ok(ticket) = gate.fetch_add(watcher, table.layouts[watcher].missed(home), 1) {
                gate.forget(ticket);
            }
        }
    }

    /// The rule of `src/group/failures.rs`: who has failed never arrives, whatever its word says.
    pub fn heed(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>, is_long: bool) {
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if alarm == meeting.alarm && !is_long {
            return;
        }
        meeting.alarm = alarm;
        let layout = table.layouts[self.node];
        let sequence = meeting.machine.passed() + 1;
        let mut is_lost = false;
        let mut is_closed = gate.memory.word(header::EXCLUDED).load(Ordering::Relaxed) != 0;
        for epoch in 1..=view::epoch(gate.memory, &layout) {
            match view::obituary(gate.memory, &layout, epoch) {
                Some(Obituary { unit: Unit::Rank(rank), cause }) => {
                    is_closed |= rank == self.rank;
                    is_lost |= cause != FailureCause::Left || table.arrived.borrow()[rank] < sequence;
                }
                Some(Obituary { unit: Unit::Node(node), cause }) => {
                    is_closed |= node == self.node;
                    is_lost |= cause != FailureCause::Left || is_long || table.has_member_before(node, sequence);
                }
                None => {}
            }
        }
        let is_doubtful = |node: usize| gate.memory.word(layout.doubt(node)).load(Ordering::Relaxed) != 0;
        meeting.is_doubtful |= (0..table.layouts.len()).any(is_doubtful);
        if is_closed || is_lost {
            meeting.machine.give_up(gate.memory, gate);
            meeting.stand = if is_closed { Stand::Excluded } else { Stand::Failed };
        }
    }
}
