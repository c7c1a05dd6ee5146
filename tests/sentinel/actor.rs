//! A rank of a simulated job: its sentinel, driven as the thread of `src/job/watcher` drives it, and its part in barriers,
//! which ends by the rule of `src/group/failures.rs` where members fail.

use std::cell::RefCell;
use std::time::Duration;

use phalanx::FailureCause;
use phalanx::cluster::sentinel::{BUSY_PAUSE, Sentinel, Site};
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
    pub alarm: u64,
    /// It has been told that nodes are unreachable, in the wait that goes on.
    pub is_doubtful: bool,
}

/// A rank's process.
pub struct Actor {
    pub rank: usize,
    pub node: usize,
    pub sentinel: Sentinel,
    pub due: u64,
    pub is_busy: bool,
    pub alarm: u64,
    pub has_breach: bool,
    pub is_dead: bool,
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

impl Actor {
    /// As the thread does that drives a sentinel.
    pub fn look(&mut self, gate: &Gate<'_>, place: &Place<'_>, now: u64) {
        let site = Site { memory: gate.memory, fabric: gate, surroundings: place, now: Duration::from_nanos(now) };
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if std::mem::take(&mut self.has_breach) {
            self.sentinel.handle_breach(&site);
        } else if alarm == self.alarm && now < self.due && !self.is_busy {
            return;
        }
        self.alarm = alarm;
        let pause = self.sentinel.step(&site);
        self.is_busy = pause == Some(Duration::ZERO);
        let pause = pause.map(|pause| if pause.is_zero() { BUSY_PAUSE } else { pause });
        self.due = pause.map_or(u64::MAX, |pause| now + u64::try_from(pause.as_nanos()).expect("short"));
    }

    /// As a rank does that passes barriers. When it wants to look again.
    pub fn meet(&mut self, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        let Some(mut meeting) = self.meeting.take() else { return u64::MAX };
        let next = self.meet_by(&mut meeting, gate, table, now);
        self.meeting = Some(meeting);
        next
    }

    pub fn meet_by(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        match meeting.stand {
            Stand::Computing(until) if now < until => return until,
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
        let Stand::Waiting { repairs_at, asks_at, .. } = &mut meeting.stand else { return u64::MAX };
        let polled = if now >= *repairs_at {
            *repairs_at = now + REPAIR_AFTER;
            meeting.machine.repair(gate.memory, gate)
        } else {
            meeting.machine.poll_thoroughly(gate.memory, gate)
        };
        let mut next = *repairs_at;
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
            self.heed(meeting, gate, table);
        }
        next
    }

    /// Asks after those that have not arrived.
    pub fn ask(&self, sequence: u64, gate: &Gate<'_>, table: &Table<'_>) {
        if table.nature.borrow().stopped.is_empty() {
            return;
        }
        for (rank, arrived) in table.arrived.borrow().iter().enumerate() {
            let home = table.topology.node_of(rank);
            if *arrived < sequence {
                let at = table.layouts[home].asked_after(table.topology.local_of(rank));
                if let Ok(ticket) = gate.fetch_add(home, at, 1) {
                    gate.forget(ticket);
                }
            }
        }
    }

    /// The rule of `src/group/failures.rs`: who has failed never arrives, whatever its word says.
    pub fn heed(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>) {
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if alarm == meeting.alarm {
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
                Some(Obituary { unit: Unit::Node(node), .. }) => {
                    is_closed |= node == self.node;
                    is_lost = true;
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
