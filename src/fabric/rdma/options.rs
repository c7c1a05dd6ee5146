//! How a process uses its RDMA device, and what can go wrong on the way there.

use std::io;

use super::offer::OfferError;
use crate::fabric::BATCH_REQUESTS;

/// Which device, and how its connections are set up. The defaults work on InfiniBand and RoCE without tuning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaOptions {
    /// The device's name (`mlx5_0`). Without one, the active device that is nearest by NUMA distance is taken.
    pub device: Option<String>,
    /// The port, from 1. Without one, the first active port.
    pub port: Option<u8>,
    /// On RoCE, the network interface whose address is used (`eth2`).
    pub interface: Option<String>,
    /// The place in the port's table of addresses. Overrides `interface`; on InfiniBand it makes packets carry a
    /// global header, which routed fabrics need.
    pub gid_index: Option<u8>,
    /// The place in the port's table of partition keys.
    pub pkey_index: u16,
    /// InfiniBand's service level; on RoCE the priority where the network uses VLAN tags. 0 to 15.
    pub service_level: u8,
    /// RoCE's traffic class: the DSCP in its upper six bits.
    pub traffic_class: u8,
    /// The longest packet in bytes: 256, 512, 1,024, 2,048 or 4,096. Without one, what both ports can do.
    pub mtu_bytes: Option<u32>,
    /// How long an acknowledgement is waited for: 4.096 µs × 2^this, 1 to 31. A peer that does not answer is lost
    /// after about this times `retries` + 1.
    pub timeout_exponent: u8,
    /// How often a packet is sent again, 0 to 7. Soft-RoCE takes 7 for ever, so that a peer that has died is never
    /// lost.
    pub retries: u8,
    /// How often a peer that is not ready is asked again, 0 to 7; 7 is for ever.
    pub rnr_retries: u8,
    /// A power of two; two fewer requests to one node may be under way.
    pub queue_depth: usize,
    /// Whether values are copied into the work request where the device can do that.
    pub inline: bool,
}

impl Default for RdmaOptions {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            interface: None,
            gid_index: None,
            pkey_index: 0,
            service_level: 0,
            traffic_class: 0,
            mtu_bytes: None,
            timeout_exponent: 14,
            retries: 6,
            rnr_retries: 7,
            queue_depth: 2 * BATCH_REQUESTS,
            inline: true,
        }
    }
}

impl RdmaOptions {
    /// # Errors
    ///
    /// [`RdmaError::Option`]: names the first option whose value means nothing.
    pub(super) fn check(&self) -> Result<(), RdmaError> {
        let must = |holds, name, why: &str| {
            if holds { Ok(()) } else { Err(RdmaError::Option { name, why: why.to_owned() }) }
        };
        must(self.port != Some(0), "port", "ports are counted from 1")?;
        must(self.service_level < 16, "service_level", "0 to 15 can be")?;
        must(self.mtu_bytes.is_none() || self.mtu().is_some(), "mtu_bytes", "256, 512, 1024, 2048 or 4096 can be")?;
        must((1..32).contains(&self.timeout_exponent), "timeout_exponent", "1 to 31 can be")?;
        must(self.retries < 8, "retries", "0 to 7 can be")?;
        must(self.rnr_retries < 8, "rnr_retries", "0 to 7 can be")?;
        let depths = 2 * BATCH_REQUESTS..=4096;
        let fits = self.queue_depth.is_power_of_two() && depths.contains(&self.queue_depth);
        must(fits, "queue_depth", "a power of two from 128 to 4096 can be")
    }

    /// The longest packet as verbs count it.
    pub(super) fn mtu(&self) -> Option<u8> {
        match self.mtu_bytes? {
            256 => Some(1),
            512 => Some(2),
            1024 => Some(3),
            2048 => Some(4),
            4096 => Some(5),
            _ => None,
        }
    }
}

/// Why there is no RDMA, or no connection by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RdmaError {
    /// libibverbs is not there.
    #[error(
        "RDMA needs libibverbs, which cannot be loaded: {why} (remedy: apt-get install libibverbs1 ibverbs-providers, or dnf install libibverbs)"
    )]
    Library {
        /// What the system's loader says.
        why: String,
    },
    /// An option has a value that means nothing.
    #[error("RDMA option {name}: {why}")]
    Option {
        /// The option.
        name: &'static str,
        /// What would be valid.
        why: String,
    },
    /// The machine has no device.
    #[error(
        "this machine has no RDMA device (remedy: look at `rdma link`; scripts/soft-roce.sh gives one for tests; or use TCP)"
    )]
    NoDevice,
    /// None of the devices is as asked for.
    #[error("no RDMA device to use: {}", list(.refused))]
    NoneFits {
        /// Each device, with what is against it.
        refused: Vec<String>,
    },
    /// A call of libibverbs failed.
    #[error("RDMA device {device}: cannot {step}: {source}{}", remedy(.step, .source))]
    Verbs {
        /// The device.
        device: String,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The other end's bytes are no offer.
    #[error("node {node} sent what is none: {source}")]
    Offer {
        /// The node.
        node: usize,
        /// What is wrong with it.
        #[source]
        source: OfferError,
    },
    /// The other end's port is on another kind of network.
    #[error(
        "node {node} has its RDMA port on another kind of network than this one (remedy: choose devices of one kind, with the option `device`)"
    )]
    OtherNetwork {
        /// The node.
        node: usize,
    },
    /// No such node.
    #[error("there is no node {node} among {nodes}")]
    NoNode {
        /// The node asked for.
        node: usize,
        /// How many there are.
        nodes: usize,
    },
    /// Connecting without an offer of one's own, or twice with the same.
    #[error("no offer has been made to node {node} that is still open (remedy: call offer again, and exchange anew)")]
    NotOffered {
        /// The node.
        node: usize,
    },
}

fn list(refused: &[String]) -> String {
    refused.join("; ")
}

/// What helps with the failures that people meet.
fn remedy(step: &str, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::OutOfMemory => " (remedy: raise the limit of locked memory, `ulimit -l unlimited`)",
        io::ErrorKind::PermissionDenied => " (remedy: let this user read and write /dev/infiniband/uverbs*)",
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            " (remedy: look whether the peer's address answers on this interface; choose another with `interface` or `gid_index`)"
        }
        io::ErrorKind::InvalidInput if step == "create a queue pair" => " (remedy: a smaller `queue_depth`)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_bad_value_is_named() {
        let good = RdmaOptions::default();
        assert!(good.check().is_ok());
        let bad = [
            ("port", RdmaOptions { port: Some(0), ..good.clone() }),
            ("service_level", RdmaOptions { service_level: 16, ..good.clone() }),
            ("mtu_bytes", RdmaOptions { mtu_bytes: Some(1500), ..good.clone() }),
            ("timeout_exponent", RdmaOptions { timeout_exponent: 0, ..good.clone() }),
            ("retries", RdmaOptions { retries: 8, ..good.clone() }),
            ("rnr_retries", RdmaOptions { rnr_retries: 8, ..good.clone() }),
            ("queue_depth", RdmaOptions { queue_depth: 100, ..good.clone() }),
            ("queue_depth", RdmaOptions { queue_depth: 64, ..good.clone() }),
        ];
        for (expected, options) in bad {
            match options.check() {
                Err(RdmaError::Option { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn too_little_locked_memory_names_its_remedy() {
        let source = io::Error::from_raw_os_error(rustix::io::Errno::NOMEM.raw_os_error());
        let error = RdmaError::Verbs { device: "mlx5_0".to_owned(), step: "register a segment", source };
        assert!(error.to_string().contains("ulimit -l"), "{error}");
    }
}
