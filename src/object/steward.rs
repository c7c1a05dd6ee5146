//! What becomes of the locks of ranks that have ended and that nobody of their node waits for: other nodes may.
//!
//! In a job of several nodes each process has a thread for this, which sleeps on the alarm. That of the process that speaks
//! for its node looks, whenever somebody has failed or left, for objects whose lock on this node is idle or held by one that
//! has ended, and gives back what the node has at their homes. Where ranks of the node wait they do so themselves.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::catalogue;
use super::climb::Climb;
use super::reach::Reach;
use super::site::Site;
use crate::cluster::view;
use crate::coord::objects::directory::{Directory, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::queue::QueueLock;
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Memory, Park};
use crate::sync::{AtomicU32, Ordering};

/// How often it is looked whether this process has come to speak for its node.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// At work until it is dropped.
#[derive(Debug)]
pub(crate) struct Steward {
    reach: Reach,
    is_over: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Steward {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn start(reach: &Reach) -> std::io::Result<Self> {
        let is_over = Arc::new(AtomicU32::new(0));
        let (own, flag) = (reach.clone(), Arc::clone(&is_over));
        let thread = std::thread::Builder::new().name("phalanx-steward".to_owned()).spawn(move || run(&own, &flag))?;
        Ok(Self { reach: reach.clone(), is_over, thread: Some(thread) })
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.is_over.store(1, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        // It may be about to fall asleep, and then nobody wakes it but once more.
        while !thread.is_finished() {
            self.reach.segment.wake(header::ALARM);
            std::thread::sleep(Duration::from_micros(50));
        }
        let _ = thread.join();
    }
}

fn run(reach: &Reach, is_over: &AtomicU32) {
    let mut swept = None;
    while is_over.load(Ordering::Relaxed) == 0 {
        let alarm = reach.alarm();
        let speaks = reach.network.as_ref().is_some_and(|network| network.is_agent());
        if swept != Some(alarm) && speaks && reach.own_end().is_none() {
            sweep(reach);
            swept = Some(alarm);
        }
        reach.segment.park(header::ALARM, alarm, Some(LOOK_EVERY));
    }
}

/// Gives back what this node has at homes and has no use of.
fn sweep(reach: &Reach) {
    let (segment, layout) = (&*reach.segment, reach.segment.layout());
    let table = ObjectAt::of(&layout, ObjectTable::Here, 0);
    let directory = Directory::new(segment, layout, ObjectTable::Here, reach.local(), |_| false);
    let objects = directory.all().unwrap_or_default();
    std::iter::once(table).chain(objects).for_each(|at| settle(reach, &at));
}

fn settle(reach: &Reach, at: &ObjectAt) {
    let Some((home, at_home)) = catalogue::noted_home(reach, at) else { return };
    let climb = Climb::new(Site { reach: reach.clone(), home }, *at, at_home);
    let (segment, layout) = (&*reach.segment, reach.segment.layout());
    let has_ended = |local| view::end_of(segment, &layout, local).is_some();
    let queue = QueueLock::new(at.queue(), reach.local());
    queue.free_from_the_dead(segment, &has_ended);
    if !queue.is_idle(segment) || !climb.is_engaged() {
        return;
    }
    // Otherwise this rank uses the lock itself, and looks after it.
    let turn = reach.uses.turn_at(at.key());
    if !turn.begin_sweeping() {
        return;
    }
    if queue.try_take(segment).is_some() {
        if let Err(SiteFault::Lost { .. }) = climb.descend() {
            // Fails where this rank has been declared failed, as the rest does.
            let _ = climb.forget_home();
        }
        let _ = queue.release(segment, &has_ended);
    }
    turn.end_sweeping();
}
