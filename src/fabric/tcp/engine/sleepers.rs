//! Those who sleep on the connections while another thread of their process may look at them.
//!
//! All sleep on one set of descriptors, in which is a *bell*: whoever takes in what they wait for rings it, since the
//! kernel has nothing to tell them of it any more. It rings until all have woken who slept then. Who falls asleep
//! meanwhile must not hear it: it would wake at once, find nothing, and sleep again, on the CPU that those others need
//! to wake up. (It took up to 4 ms, a tick of the scheduler.) So it sleeps on a word until the bell is quiet, or rings
//! anew, for it too.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::futex;

use crate::sync::{AtomicU32, Ordering};

/// Those of this process who sleep on the connections, while another of its threads may poll them.
#[derive(Debug)]
pub struct Sleepers {
    pub asleep: u32,
    /// How often they have been told that something was taken in.
    news: u64,
    /// Sleepers that have not woken since.
    unaware: u32,
    /// What they are told by: can be read, for as long as one of them is unaware.
    pub bell: OwnedFd,
    /// Something has been taken in since they were told last.
    pub has_news: bool,
    /// How often something has been.
    pub heard: u64,
    /// When the one who fell asleep last will wake up at the latest, and look at what is late.
    pub limit: Option<Instant>,
    /// Who falls asleep while the bell rings for others would be woken by it at once, again and again, and keep those
    /// others from the CPU. It sleeps on this word instead, which changes when the bell is quiet, and when it rings for
    /// all anew.
    pub peals: Arc<AtomicU32>,
    /// How many do.
    waiting: u32,
}

/// Somebody's sleep on the connections.
pub struct Sleep {
    /// What it had been told of before.
    told: u64,
    /// When it must look around at the latest.
    pub limit: Option<Instant>,
    /// What [`Sleepers::peals`] holds, if it sleeps on that.
    pub peals: Option<u32>,
}

impl Sleepers {
    /// Nobody sleeps. The bell is to be watched by whatever they sleep on.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            asleep: 0,
            news: 0,
            unaware: 0,
            bell,
            has_news: false,
            heard: 0,
            limit: None,
            peals: Arc::default(),
            waiting: 0,
        })
    }

    /// Somebody falls asleep.
    pub fn begin(&mut self, limit: Option<Instant>) -> Sleep {
        (self.asleep, self.limit) = (self.asleep + 1, limit);
        // Relaxed: read and written under the engine's lock, but for the kernel's look.
        let peals = (self.unaware > 0).then(|| self.peals.load(Ordering::Relaxed));
        self.waiting += u32::from(peals.is_some());
        Sleep { told: self.news, limit, peals }
    }

    /// Wakes those who sleep, if there is news.
    pub fn tell(&mut self) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        self.heard += 1;
        if self.asleep > 0 {
            self.news += 1;
            self.unaware = self.asleep;
            // The counter cannot be full: it is read when all have woken.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
            self.peal();
        }
    }

    /// Somebody has woken.
    pub fn end(&mut self, sleep: &Sleep) {
        self.asleep -= 1;
        self.waiting -= u32::from(sleep.peals.is_some());
        if sleep.told == self.news {
            return;
        }
        self.unaware -= 1;
        if self.unaware == 0 {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            self.peal();
        }
    }

    /// Wakes those who wait for the bell.
    fn peal(&self) {
        self.peals.fetch_add(1, Ordering::Relaxed);
        if self.waiting > 0 {
            let _ = futex::wake(&self.peals, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_falls_asleep_while_the_bell_rings_for_others_waits_until_they_have_woken() {
        let mut sleepers = Sleepers::new().expect("an eventfd");
        let early = sleepers.begin(None);
        assert_eq!(early.peals, None);
        sleepers.has_news = true;
        sleepers.tell();
        let late = sleepers.begin(None);
        let seen = late.peals.expect("it must not hear the bell");
        assert_eq!(sleepers.peals.load(Ordering::Relaxed), seen, "it sleeps");
        sleepers.end(&early);
        assert_ne!(sleepers.peals.load(Ordering::Relaxed), seen, "it is woken");
        sleepers.end(&late);
        assert_eq!(sleepers.begin(None).peals, None, "the bell is quiet");
    }

    #[test]
    fn what_comes_meanwhile_is_told_to_who_waits_for_the_bell_too() {
        let mut sleepers = Sleepers::new().expect("an eventfd");
        let early = sleepers.begin(None);
        sleepers.has_news = true;
        sleepers.tell();
        let late = sleepers.begin(None);
        sleepers.has_news = true;
        sleepers.tell();
        assert_ne!(sleepers.peals.load(Ordering::Relaxed), late.peals.expect("it waits"), "it is woken");
        sleepers.end(&late);
        assert!(rustix::io::read(&sleepers.bell, &mut [0; 8]).is_ok(), "it rings for the other still");
        sleepers.end(&early);
        assert_eq!(sleepers.begin(None).peals, None);
    }
}
