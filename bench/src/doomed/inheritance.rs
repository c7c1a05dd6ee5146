//! A rank of a job in which a lock's holder dies: it is that one, or waits for the lock, or does neither.

use std::sync::mpsc::Receiver;

use phalanx::{Job, ObjectError};

use super::now_ns;
use super::rank::say;
use super::said::{Event, Said};

/// What a rank does with the lock.
#[derive(Clone, Copy, Debug)]
pub struct Inheritance {
    /// Whether it holds the lock until it dies.
    pub holds: bool,
    /// Whether it waits for it.
    pub waits: bool,
    /// Where the lock is at home.
    pub home: usize,
}

impl Inheritance {
    /// Does it when the parent says so. Whoever has got the lock has it until the parent says something more.
    ///
    /// # Errors
    ///
    /// The library's.
    pub fn run(self, job: &Job, wishes: &Receiver<String>) -> Result<(), Box<dyn std::error::Error>> {
        let _ = wishes.recv();
        let lock = job.lock(&name_at(job, self.home)?)?;
        let held = if self.holds { Some(lock.acquire()?) } else { None };
        // Everybody has opened it, and its holder holds it.
        job.world().barrier()?;
        let held = match held {
            None if self.waits => {
                say(job.rank(), Event::Queues);
                Some(lock.acquire()?)
            }
            held => held,
        };
        let at_ns = now_ns();
        if let Some(guard) = &held {
            Said { rank: job.rank(), at_ns, event: Event::Holds { token: guard.token().0 } }.print();
        }
        let _ = wishes.recv();
        Ok(())
    }
}

/// A name whose object is at home on this node of the job.
///
/// # Errors
///
/// None, for such names.
pub fn name_at(job: &Job, home: usize) -> Result<String, ObjectError> {
    for number in 0_u64.. {
        let name = format!("doomed {number}");
        if job.home_of(&name)? == home {
            return Ok(name);
        }
    }
    unreachable!("every node is the home of some names")
}
