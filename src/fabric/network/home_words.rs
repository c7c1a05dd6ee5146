//! By what words of objects are changed at their home: by its CPUs, or by its RDMA device.
//!
//! A device's fetch-and-add is a read and a write to the home's CPUs, and theirs is to the device: what one does
//! between the two is lost. So all who add to a word or swap it must do it by the same. Which that is holds for the
//! whole table of objects that are at home on a node, for as long as the job lasts, and follows from what all ranks
//! have said when they joined:
//!
//! | [`HomeAtomics`] | where | another node's ranks | the home's own ranks |
//! | --- | --- | --- | --- |
//! | `Cpu` | some rank of the home has no device, or another one than its agent, or was not told to use RDMA | by TCP | in memory |
//! | `Device` | otherwise | by RDMA where they have a connection; else by TCP, and who serves that has the device do it | by the device, through a queue pair that is its own other end |
//! | `Both` | the device says that its atomics are atomic against CPUs, too | by RDMA or TCP | in memory |
//!
//! Another node's rank has a connection by RDMA as its node's agent, or as a *guest* of the home's agent, which serves
//! an end for it ([`super`]): a guest asks for what the agent of its node would ask for, and by the same device.
//!
//! So it makes no difference who speaks for a home, and by what way it is reached. Loads and writes are whole in either
//! case and need no device: a word that somebody writes is added to or swapped by nobody at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::fabric::rdma::{AtomicCapability, RdmaFabric};
use crate::fabric::tcp::TcpFabric;
use crate::fabric::{Fabric, PostError, Request, Ticket, WordAt};
use crate::sync::spin_hint;

/// How long the device may take for a word of its own node. It says by itself that a packet has been lost, in half of
/// that.
const DEVICE_LIMIT: Duration = Duration::from_secs(1);
/// So often it is looked for an answer before others get the CPU.
const LOOKS: u32 = 1000;

/// By what words of objects are added to and swapped at a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeAtomics {
    /// Its CPUs.
    Cpu,
    /// Its RDMA device.
    Device,
    /// Either: they are atomic against each other.
    Both,
}

/// The words of objects at all homes, and this process's way to those of its own node.
#[derive(Debug)]
pub struct HomeWords {
    /// Where those of each node begin: they go on to the segment's end.
    begin: Box<[WordAt]>,
    by: Box<[HomeAtomics]>,
    /// Whether this process's device, if it has one, can ask others for additions and swaps.
    can_ask: bool,
    /// Where they are the device's.
    own: Option<Arc<OwnDevice>>,
}

impl HomeWords {
    /// Words that begin there at each node, and are changed so. `device`: this process's, if it has one.
    pub fn new(begin: Vec<WordAt>, by: Vec<HomeAtomics>, here: usize, device: Option<&Arc<RdmaFabric>>) -> Self {
        let is_device = by.get(here) == Some(&HomeAtomics::Device);
        let own = device.filter(|_| is_device).map(|fabric| Arc::new(OwnDevice::new(here, Arc::clone(fabric))));
        let can_ask = device.is_none_or(|fabric| fabric.atomics() != AtomicCapability::None);
        Self { begin: begin.into(), by: by.into(), can_ask, own }
    }

    /// Has requests that come by TCP executed so, too.
    pub(super) fn serve(&self, tcp: &TcpFabric) {
        if let Some(own) = self.own.clone() {
            tcp.change_words_by(self.begin[tcp.here()], Box::new(move |request| own.change(request)));
        }
    }

    /// This process's device, where words of its own node are that one's.
    pub(super) fn own(&self) -> Option<&OwnDevice> {
        self.own.as_deref()
    }

    /// Whether a node's device may do some requests' additions and swaps, or there are none.
    pub(super) fn suit_device(&self, node: usize, requests: &[Request]) -> bool {
        let are_devices = self.can_ask && matches!(self.by.get(node), Some(HomeAtomics::Device | HomeAtomics::Both));
        let suits = |request: &Request| !request.is_atomic() || are_devices && request.at() >= self.begin[node];
        requests.iter().all(suits)
    }

    /// Whether some of the requests to this node must be done by its device.
    pub(super) fn need_own_device(&self, here: usize, requests: &[Request]) -> bool {
        self.own.is_some() && requests.iter().any(|request| request.is_atomic() && request.at() >= self.begin[here])
    }
}

/// A process's device, as the way to its own node's words.
#[derive(Debug)]
pub(super) struct OwnDevice {
    here: usize,
    pub(super) fabric: Arc<RdmaFabric>,
    /// Held by who connects the node to itself anew.
    connecting: Mutex<()>,
}

impl OwnDevice {
    fn new(here: usize, fabric: Arc<RdmaFabric>) -> Self {
        Self { here, fabric, connecting: Mutex::new(()) }
    }

    /// Posts requests to the own node. A connection that is broken is made anew before.
    ///
    /// # Errors
    ///
    /// As [`Fabric::post`].
    pub(super) fn post(&self, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        match self.fabric.post(self.here, requests, tickets) {
            Err(PostError::Unreachable { .. }) => {
                self.connect_anew();
                self.fabric.post(self.here, requests, tickets)
            }
            posted => posted,
        }
    }

    #[cold]
    fn connect_anew(&self) {
        // Nobody panics while it connects.
        let _one = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.fabric.is_connected(self.here) {
            // What is wrong with that, the next post says.
            let _ = self.fabric.connect_here();
        }
    }

    /// Does a request of another node, that has come by TCP, and gives the old value. `None`: it may have taken effect
    /// or not, but will not any more.
    fn change(&self, request: Request) -> Option<u64> {
        let (limit, mut tickets) = (Instant::now() + DEVICE_LIMIT, Vec::with_capacity(1));
        while let Err(error) = self.post(&[request], &mut tickets) {
            if !matches!(error, PostError::Full { .. }) || Instant::now() >= limit {
                return None;
            }
            self.fabric.progress();
        }
        let ticket = tickets.pop()?;
        for look in 1.. {
            self.fabric.progress();
            if let Poll::Ready(answer) = self.fabric.take(ticket) {
                return answer.ok();
            }
            if look % LOOKS == 0 {
                if Instant::now() >= limit {
                    break;
                }
                crate::machine::yield_cpu();
            }
            spin_hint();
        }
        self.fabric.forget(ticket);
        self.fabric.disconnect(self.here, "the device does not answer");
        None
    }
}

/// What a rank says of its device to those who may share words with it.
///
/// | bits | field |
/// | --- | --- |
/// | 0–1 | its atomics: 0 none, 1 atomic against each other, 2 against the CPUs', too |
/// | 2–63 | which device |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWord(pub u64);

impl DeviceWord {
    /// None that others may count on.
    pub const NONE: Self = Self(0);

    /// A device whose name has such a hash.
    pub const fn new(atomics: AtomicCapability, hash: u64) -> Self {
        match atomics {
            AtomicCapability::None => Self::NONE,
            AtomicCapability::Device => Self(hash << 2 | 1),
            AtomicCapability::Global => Self(hash << 2 | 2),
        }
    }

    /// What follows for a node whose ranks say this, its agent first.
    pub fn together(said: &[Self]) -> HomeAtomics {
        let agent = said.first().map_or(0, |word| word.0);
        match agent & 3 {
            2 => HomeAtomics::Both,
            1 if said.iter().all(|word| word.0 == agent) => HomeAtomics::Device,
            _ => HomeAtomics::Cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_without_the_agents_device_leaves_the_words_to_the_cpus() {
        let device = DeviceWord::new(AtomicCapability::Device, 77);
        let other = DeviceWord::new(AtomicCapability::Device, 78);
        assert_eq!(DeviceWord::together(&[device, device]), HomeAtomics::Device);
        assert_eq!(DeviceWord::together(&[device]), HomeAtomics::Device);
        for said in [&[device, DeviceWord::NONE][..], &[DeviceWord::NONE, device], &[device, device, other], &[]] {
            assert_eq!(DeviceWord::together(said), HomeAtomics::Cpu);
        }
        // A device that is atomic against CPUs needs nobody else's.
        let global = DeviceWord::new(AtomicCapability::Global, 77);
        assert_eq!(DeviceWord::together(&[global, DeviceWord::NONE]), HomeAtomics::Both);
        assert_eq!(DeviceWord::new(AtomicCapability::None, 77), DeviceWord::NONE);
    }

    #[test]
    fn only_additions_and_swaps_of_words_that_are_a_devices_go_to_it() {
        let begin = WordAt(100);
        let by = vec![HomeAtomics::Cpu, HomeAtomics::Device, HomeAtomics::Both];
        let words = HomeWords::new(vec![begin; 3], by, 0, None);
        let [before, at] = [99, 100].map(|at| Request::FetchAdd { at: WordAt(at), add: 1 });
        let write = Request::Write { at: WordAt(3), value: 1 };
        assert!(words.suit_device(0, &[write]) && !words.suit_device(0, &[write, at]));
        for node in [1, 2] {
            assert!(words.suit_device(node, &[write, at, at]));
            assert!(!words.suit_device(node, &[at, before]));
        }
    }
}
