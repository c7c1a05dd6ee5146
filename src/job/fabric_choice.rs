//! Which fabric a job across nodes is to use: a program's word on it, or its environment's.

use std::fmt;
use std::str::FromStr;

use crate::error::JobError;
use crate::fabric::rdma;

/// The fabric between nodes. Ranks of one node always meet in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FabricChoice {
    /// RDMA between nodes that have devices, TCP between others.
    #[default]
    Auto,
    /// Sockets.
    Tcp,
    /// One-sided RDMA, or an error where there is none. Named objects' words are then changed by the devices of their
    /// homes: a round trip through its own device for the home's ranks, too, instead of some memory accesses.
    Rdma,
}

impl FabricChoice {
    /// All choices, in the order in which `--help` lists them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Tcp, Self::Rdma];

    /// The name in options and in `PHALANX_FABRIC`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }

    /// Whether this rank has the fabric. Asked before it meets anybody, so that all ranks that were started alike fail
    /// alike, and at once.
    pub(super) fn check(self, rank: usize) -> Result<(), JobError> {
        let why = match self {
            Self::Auto | Self::Tcp => return Ok(()),
            Self::Rdma => match rdma::devices() {
                Ok(devices) if !devices.is_empty() => return Ok(()),
                Ok(_) => "this machine has no RDMA device".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        Err(JobError::Fabric { rank, fabric: self.name(), why })
    }
}

impl fmt::Display for FabricChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FabricChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|choice| choice.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown fabric {text:?}; choose one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for choice in FabricChoice::ALL {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        let error = "TCP".parse::<FabricChoice>().expect_err("a name that is none");
        assert!(error.contains("auto, tcp, rdma"), "{error}");
    }

    #[test]
    fn a_fabric_that_is_not_there_is_an_error_with_a_remedy() {
        assert!(FabricChoice::Auto.check(3).is_ok() && FabricChoice::Tcp.check(3).is_ok());
        if rdma::devices().is_ok_and(|devices| !devices.is_empty()) {
            return crate::testing::not_run("this machine has an RDMA device");
        }
        let error = FabricChoice::Rdma.check(3).expect_err("no RDMA").to_string();
        assert!(error.contains("rank 3") && error.contains("no RDMA") && error.contains("PHALANX_FABRIC"), "{error}");
    }
}
