//! A rank of a job in which nobody is hurt: it passes barriers, with moments of rest in between, and counts.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use phalanx::fabric::sim::Seeded;
use phalanx::{Group, Operation};

use super::now_ns;
use super::said::{Event, Said};

/// Passes barriers until the rank's parent wants an end, and says how it was.
pub fn pass_barriers(world: &Group, seed: u64, wishes: &Receiver<String>) {
    let mut random = Seeded::new(seed.wrapping_add(world.rank() as u64));
    let (mut barriers, mut longest_wait_ns) = (0, 0);
    let mut is_wanted = false;
    let epochs = loop {
        // Before each barrier, so that what those have done who have passed the last one, and have left, does not
        // count.
        let epochs = world.epoch();
        is_wanted = is_wanted || wishes.try_recv().is_ok();
        let begun = now_ns();
        let result = world.barrier_reduce(Operation::Or, u64::from(is_wanted));
        let at_ns = now_ns();
        longest_wait_ns = longest_wait_ns.max(at_ns - begun);
        match result {
            Ok(0) => barriers += 1,
            Ok(_) => break epochs,
            Err(error) => {
                let event = Event::Failed { group: world.id(), sequence: barriers + 1, told: (&error).into() };
                Said { rank: world.rank(), at_ns, event }.print();
                break world.epoch();
            }
        }
        if random.below(16) == 0 {
            // Heartbeats are to be heard also of a rank that computes or rests.
            std::thread::sleep(Duration::from_micros(random.below(50_000) as u64));
        }
    };
    let event = Event::Calm { barriers, longest_wait_ns, epochs };
    Said { rank: world.rank(), at_ns: now_ns(), event }.print();
}
