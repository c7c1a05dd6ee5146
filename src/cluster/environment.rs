//! The identity that a launcher hands to each rank through its environment. README.md has the table of variables.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use super::address::{Address, MAX_NODE_RANKS, MAX_RANKS};
pub use crate::handshake::Key;
use crate::handshake::random_bytes;

/// The variables that make a rank of a job; all or none must be set.
const IDENTITY: [&str; 4] = ["PHALANX_RANK", "PHALANX_SIZE", "PHALANX_BOOTSTRAP", "PHALANX_KEY"];
/// All variables that a launcher sets for some jobs. One that starts a job inside a job removes those that it does not
/// set, so that none of the outer job's remain.
pub const LAUNCHER_VARIABLES: [&str; 9] = [
    "PHALANX_RANK",
    "PHALANX_SIZE",
    "PHALANX_LOCAL_RANK",
    "PHALANX_LOCAL_SIZE",
    "PHALANX_BOOTSTRAP",
    "PHALANX_KEY",
    "PHALANX_RENDEZVOUS",
    "PHALANX_NODE",
    "PHALANX_WITNESS",
];
/// What `PHALANX_RENDEZVOUS` says when a launcher serves the address.
const SERVED: &str = "served";

/// What is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// Some variables of a rank's identity are set, others are not.
    #[error(
        "half an environment: {} set, {} missing (remedy: start all ranks with `phalanx run`, or set all of {})",
        .present.join(" and "), .missing.join(" and "), IDENTITY.join(", ")
    )]
    Incomplete {
        /// Those that are set.
        present: Vec<&'static str>,
        /// Those that are not.
        missing: Vec<&'static str>,
    },
    /// A variable has a value that means nothing.
    #[error("{name}={value:?}: {why}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value; a key's is not repeated.
        value: String,
        /// What would be valid.
        why: String,
    },
    /// The rank is not below the size.
    #[error("PHALANX_RANK={rank} is out of range: a job of PHALANX_SIZE={size} has ranks 0 to {} (remedy: number ranks from 0)", .size - 1)]
    RankOutOfRange {
        /// The rank.
        rank: usize,
        /// The job's size.
        size: usize,
    },
}

/// A rank's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This rank.
    pub rank: usize,
    /// The job's ranks.
    pub size: usize,
    /// Where to meet.
    pub bootstrap: Address,
    /// The job's secret.
    pub key: Key,
    /// Somebody who is no rank (the launcher) serves the address; otherwise rank 0 does.
    pub is_served: bool,
    /// The node that this rank is to pretend to be on.
    pub pretended_node: Option<u32>,
    /// Where the launcher keeps the job's witness ([`super::witness`]), if it does. Rank 0's counts, for all.
    pub witness: Option<SocketAddr>,
}

/// A rank's place among those of its node, as a launcher knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPlace {
    /// The pretended node's number, where nodes are pretended.
    pub pretended_node: Option<u32>,
    /// The rank's number among its node's ranks.
    pub local_rank: usize,
    /// The node's ranks.
    pub local_size: usize,
}

impl Identity {
    /// A new job's identity, as rank 0 has it: a socket and a key that no other job has.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn random(size: usize) -> std::io::Result<Self> {
        let bootstrap = Address::Unix { name: format!("phalanx-{}", hex(&random_bytes::<16>()?)) };
        Ok(Self {
            rank: 0,
            size,
            bootstrap,
            key: Key::random()?,
            is_served: false,
            pretended_node: None,
            witness: None,
        })
    }

    /// A new job's identity, for a launcher that serves the rendezvous itself.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn served_at(address: SocketAddr, size: usize) -> std::io::Result<Self> {
        let (bootstrap, key) = (address.into(), Key::random()?);
        Ok(Self { rank: 0, size, bootstrap, key, is_served: true, pretended_node: None, witness: None })
    }

    /// The variables that make a process rank `rank` of this job on one node: what a launcher hands out, and what
    /// [`Environment::identity`] reads. Those of [`LAUNCHER_VARIABLES`] that are not among them are to be removed.
    pub fn variables(&self, rank: usize) -> Vec<(&'static str, String)> {
        let place = LocalPlace { pretended_node: self.pretended_node, local_rank: rank, local_size: self.size };
        self.variables_at(rank, place)
    }

    /// As [`variables`](Self::variables), for a rank whose node does not hold the whole job.
    pub fn variables_at(&self, rank: usize, place: LocalPlace) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("PHALANX_RANK", rank.to_string()),
            ("PHALANX_SIZE", self.size.to_string()),
            ("PHALANX_LOCAL_RANK", place.local_rank.to_string()),
            ("PHALANX_LOCAL_SIZE", place.local_size.to_string()),
            ("PHALANX_BOOTSTRAP", self.bootstrap.to_string()),
            ("PHALANX_KEY", hex(self.key.bytes())),
        ];
        if self.is_served {
            variables.push(("PHALANX_RENDEZVOUS", SERVED.to_owned()));
        }
        variables.extend(place.pretended_node.map(|node| ("PHALANX_NODE", node.to_string())));
        variables.extend(self.witness.map(|address| ("PHALANX_WITNESS", address.to_string())));
        variables
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Options that the environment can set, as texts still: the job parses them, because it knows their types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentOptions {
    /// `PHALANX_BARRIER`.
    pub barrier: Option<String>,
    /// `PHALANX_WAIT`.
    pub wait: Option<String>,
    /// `PHALANX_BOOTSTRAP_TIMEOUT_MS`.
    pub bootstrap_timeout: Option<Duration>,
    /// `PHALANX_FAILURE_TIMEOUT_MS`.
    pub failure_timeout: Option<Duration>,
    /// `PHALANX_HEARTBEAT_MS`.
    pub heartbeat: Option<Duration>,
    /// `PHALANX_DURABLE_COPIES`.
    pub durable_copies: Option<usize>,
    /// `PHALANX_RADIX`.
    pub radix: Option<String>,
    /// `PHALANX_FABRIC`.
    pub fabric: Option<String>,
    /// `PHALANX_RDMA_DEVICE`.
    pub rdma_device: Option<String>,
    /// `PHALANX_RDMA_GID_INDEX`.
    pub rdma_gid_index: Option<usize>,
    /// `PHALANX_TCP_ENGINE`.
    pub tcp_engine: Option<String>,
    /// `PHALANX_TRACE`.
    pub trace: Option<String>,
}

/// What a job that meets at HOST:PORT may have besides.
#[derive(Debug, Default)]
struct Across {
    is_served: bool,
    pretended_node: Option<u32>,
    witness: Option<SocketAddr>,
}

/// The variables of a process that begin with `PHALANX_`.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// This process's variables. A value that is no UTF-8 is kept with its bad bytes replaced, and so is refused by
    /// whatever parses it.
    pub fn of_this_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self::from_pairs(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
    }

    /// Variables given one by one.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: pairs.into_iter().filter(|(name, _)| name.starts_with("PHALANX_")).collect() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The rank's identity; `None` when no part of one is set.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] for half an identity and for values that mean nothing.
    pub fn identity(&self) -> Result<Option<Identity>, EnvironmentError> {
        let (present, missing): (Vec<_>, Vec<_>) = IDENTITY.into_iter().partition(|name| self.get(name).is_some());
        if present.is_empty() {
            return Ok(None);
        }
        if !missing.is_empty() {
            return Err(EnvironmentError::Incomplete { present, missing });
        }
        let bootstrap = Address::parse(self.get("PHALANX_BOOTSTRAP").unwrap_or(""))
            .map_err(|why| self.invalid("PHALANX_BOOTSTRAP", why))?;
        let size = self.number("PHALANX_SIZE")?.unwrap_or(0);
        let rank = self.number("PHALANX_RANK")?.unwrap_or(0);
        if size == 0 || size > bootstrap.most_ranks() {
            return Err(self.bad_size(&bootstrap));
        }
        if rank >= size {
            return Err(EnvironmentError::RankOutOfRange { rank, size });
        }
        let Across { is_served, pretended_node, witness } = match bootstrap {
            Address::Unix { .. } => self.check_one_node(rank, size)?,
            Address::Tcp { .. } => self.check_many_nodes(size)?,
        };
        let key = Key::parse(self.get("PHALANX_KEY").unwrap_or("")).ok_or_else(|| EnvironmentError::Invalid {
            name: "PHALANX_KEY",
            value: "…".to_owned(),
            why: "a key is 64 hexadecimal digits, the same for all ranks of the job".to_owned(),
        })?;
        Ok(Some(Identity { rank, size, bootstrap, key, is_served, pretended_node, witness }))
    }

    fn bad_size(&self, bootstrap: &Address) -> EnvironmentError {
        let why = match bootstrap {
            Address::Unix { .. } => format!(
                "a job that meets at unix:NAME is on one machine and has 1 to {MAX_NODE_RANKS} ranks (remedy: fewer, `phalanx run --nodes 2`, or meet at HOST:PORT)"
            ),
            Address::Tcp { .. } => format!("a job has 1 to {MAX_RANKS} ranks"),
        };
        self.invalid("PHALANX_SIZE", why)
    }

    /// With a UNIX socket the local variables may be left out; where they are set they must say that all ranks are on
    /// this machine, and nobody can serve the address but rank 0.
    fn check_one_node(&self, rank: usize, size: usize) -> Result<Across, EnvironmentError> {
        for (name, expected) in [("PHALANX_LOCAL_RANK", rank), ("PHALANX_LOCAL_SIZE", size)] {
            if self.number(name)?.is_some_and(|found| found != expected) {
                let why = format!(
                    "a job that meets at unix:NAME is on one machine, where it must be {expected} (remedy: meet at HOST:PORT)"
                );
                return Err(self.invalid(name, why));
            }
        }
        for name in ["PHALANX_RENDEZVOUS", "PHALANX_NODE", "PHALANX_WITNESS"] {
            if self.get(name).is_some() {
                let why = "it means something only with PHALANX_BOOTSTRAP=HOST:PORT; unset it".to_owned();
                return Err(self.invalid(name, why));
            }
        }
        Ok(Across::default())
    }

    /// What a job across nodes may have besides. Local rank and size are not used, because
    /// the ranks find out themselves who shares memory; but they must make sense.
    fn check_many_nodes(&self, size: usize) -> Result<Across, EnvironmentError> {
        let local_size = self.number("PHALANX_LOCAL_SIZE")?;
        if local_size.is_some_and(|local_size| local_size == 0 || local_size > size) {
            return Err(self.invalid("PHALANX_LOCAL_SIZE", format!("a node has 1 to {size} of the job's {size} ranks")));
        }
        let most = local_size.unwrap_or(size);
        if self.number("PHALANX_LOCAL_RANK")?.is_some_and(|local_rank| local_rank >= most) {
            return Err(
                self.invalid("PHALANX_LOCAL_RANK", format!("a node of {most} ranks has ranks 0 to {}", most - 1))
            );
        }
        let is_served = match self.get("PHALANX_RENDEZVOUS") {
            None => false,
            Some(SERVED) => true,
            Some(_) => {
                let why = format!("it is `{SERVED}` where a launcher serves the address, and otherwise not set");
                return Err(self.invalid("PHALANX_RENDEZVOUS", why));
            }
        };
        let node = self.number("PHALANX_NODE")?.map(u32::try_from).transpose();
        let pretended_node =
            node.map_err(|_| self.invalid("PHALANX_NODE", format!("a node's number is at most {}", u32::MAX)))?;
        let witness = self.get("PHALANX_WITNESS").map(str::parse).transpose();
        let witness = witness.map_err(|_| self.invalid("PHALANX_WITNESS", "it is IP:PORT".to_owned()))?;
        Ok(Across { is_served, pretended_node, witness })
    }

    /// The options that are set.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Invalid`] for a time-out that is no number.
    pub fn options(&self) -> Result<EnvironmentOptions, EnvironmentError> {
        let text = |name| self.get(name).map(str::to_owned);
        let span = |name| Ok(self.number(name)?.map(|ms| Duration::from_millis(ms as u64)));
        Ok(EnvironmentOptions {
            barrier: text("PHALANX_BARRIER"),
            wait: text("PHALANX_WAIT"),
            bootstrap_timeout: span("PHALANX_BOOTSTRAP_TIMEOUT_MS")?,
            failure_timeout: span("PHALANX_FAILURE_TIMEOUT_MS")?,
            heartbeat: span("PHALANX_HEARTBEAT_MS")?,
            durable_copies: self.number("PHALANX_DURABLE_COPIES")?,
            radix: text("PHALANX_RADIX"),
            fabric: text("PHALANX_FABRIC"),
            rdma_device: text("PHALANX_RDMA_DEVICE"),
            rdma_gid_index: self.number("PHALANX_RDMA_GID_INDEX")?,
            tcp_engine: text("PHALANX_TCP_ENGINE"),
            trace: text("PHALANX_TRACE"),
        })
    }

    fn number(&self, name: &'static str) -> Result<Option<usize>, EnvironmentError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.invalid(name, "a whole number is needed".to_owned())),
        }
    }

    fn invalid(&self, name: &'static str, why: String) -> EnvironmentError {
        EnvironmentError::Invalid { name, value: self.get(name).unwrap_or("").to_owned(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(changes: &[(&str, Option<&str>)]) -> Environment {
        let key = "0123456789abcdef".repeat(4);
        let mut variables: HashMap<String, String> = [
            ("PHALANX_RANK", "1"),
            ("PHALANX_SIZE", "2"),
            ("PHALANX_BOOTSTRAP", "unix:phalanx-test"),
            ("PHALANX_KEY", &key),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in changes {
            match value {
                Some(value) => variables.insert((*name).to_owned(), (*value).to_owned()),
                None => variables.remove(*name),
            };
        }
        Environment::from_pairs(variables)
    }

    #[test]
    fn a_whole_identity_is_read_and_none_is_none() {
        let identity = environment(&[]).identity().expect("valid").expect("present");
        assert_eq!((identity.rank, identity.size), (1, 2));
        assert_eq!(identity.bootstrap, Address::Unix { name: "phalanx-test".to_owned() });
        assert_eq!(identity.key.bytes()[..2], [0x01, 0x23]);
        assert_eq!(Environment::default().identity(), Ok(None));
        assert!(!format!("{identity:?}").contains("0123"), "the key is not printed");
    }

    #[test]
    fn what_a_launcher_hands_out_is_what_a_rank_reads() {
        let handed_out = Identity::random(3).expect("random numbers");
        let variables = handed_out.variables(2).into_iter().map(|(name, value)| (name.to_owned(), value));
        let read = Environment::from_pairs(variables).identity().expect("valid").expect("present");
        assert_eq!(read, Identity { rank: 2, ..handed_out });
        assert_ne!(read.key, Identity::random(3).expect("random numbers").key);
    }

    #[test]
    fn half_an_identity_names_what_is_missing() {
        for name in IDENTITY {
            let error = environment(&[(name, None)]).identity().expect_err("half an environment");
            assert!(matches!(&error, EnvironmentError::Incomplete { missing, .. } if *missing == [name]));
            assert!(error.to_string().contains("phalanx run"));
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused_by_name() {
        let cases = [
            ("PHALANX_RANK", "-1"),
            ("PHALANX_RANK", "one"),
            ("PHALANX_SIZE", "0"),
            ("PHALANX_SIZE", "1025"),
            ("PHALANX_SIZE", "99999999999999999999"),
            ("PHALANX_BOOTSTRAP", "tcp:1.2.3.4:5"),
            ("PHALANX_BOOTSTRAP", "unix:"),
            ("PHALANX_KEY", "1234"),
            ("PHALANX_KEY", "é123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"),
            ("PHALANX_LOCAL_RANK", "0"),
            ("PHALANX_LOCAL_SIZE", "1"),
            ("PHALANX_RENDEZVOUS", "served"),
            ("PHALANX_NODE", "0"),
            ("PHALANX_WITNESS", "127.0.0.1:80"),
        ];
        for (name, value) in cases {
            let error = environment(&[(name, Some(value))]).identity().expect_err(value);
            assert!(matches!(error, EnvironmentError::Invalid { name: named, .. } if named == name), "{error}");
        }
        let error = environment(&[("PHALANX_RANK", Some("2"))]).identity().expect_err("out of range");
        assert_eq!(error, EnvironmentError::RankOutOfRange { rank: 2, size: 2 });
        assert!(environment(&[("PHALANX_BOOTSTRAP_TIMEOUT_MS", Some("soon"))]).options().is_err());
    }

    fn over_tcp(changes: &[(&str, Option<&str>)]) -> Result<Option<Identity>, EnvironmentError> {
        environment(&[&[("PHALANX_BOOTSTRAP", Some("127.0.0.1:5555"))], changes].concat()).identity()
    }

    #[test]
    fn over_tcp_a_job_is_larger_and_its_nodes_are_smaller() {
        let identity = over_tcp(&[]).expect("valid").expect("present");
        assert_eq!((identity.is_served, identity.pretended_node), (false, None));
        let changes = [
            ("PHALANX_SIZE", Some("65536")),
            ("PHALANX_RANK", Some("65535")),
            ("PHALANX_LOCAL_RANK", Some("3")),
            ("PHALANX_LOCAL_SIZE", Some("4")),
            ("PHALANX_RENDEZVOUS", Some("served")),
            ("PHALANX_NODE", Some("7")),
        ];
        let identity = over_tcp(&changes).expect("valid").expect("present");
        assert_eq!((identity.rank, identity.size), (65_535, 65_536));
        assert_eq!((identity.is_served, identity.pretended_node), (true, Some(7)));
        let cases = [
            ("PHALANX_SIZE", "65537"),
            ("PHALANX_LOCAL_SIZE", "0"),
            ("PHALANX_LOCAL_SIZE", "3"),
            ("PHALANX_LOCAL_RANK", "2"),
            ("PHALANX_RENDEZVOUS", "rank0"),
            ("PHALANX_NODE", "one"),
            ("PHALANX_NODE", "4294967296"),
            ("PHALANX_WITNESS", "launcher"),
        ];
        for (name, value) in cases {
            let error = over_tcp(&[(name, Some(value))]).expect_err(value);
            assert!(matches!(error, EnvironmentError::Invalid { name: named, .. } if named == name), "{error}");
        }
    }

    #[test]
    fn a_launcher_that_serves_hands_out_what_a_rank_reads() {
        let address = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 5555));
        let witness = Some(SocketAddr::from(([127, 0, 0, 1], 5556)));
        let handed_out = Identity { witness, ..Identity::served_at(address, 6).expect("random numbers") };
        let place = LocalPlace { pretended_node: Some(1), local_rank: 2, local_size: 3 };
        let variables = handed_out.variables_at(5, place);
        assert!(variables.iter().all(|(name, _)| LAUNCHER_VARIABLES.contains(name)));
        assert_eq!(variables.len(), LAUNCHER_VARIABLES.len());
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        let read = Environment::from_pairs(variables).identity().expect("valid").expect("present");
        assert_eq!(read, Identity { rank: 5, pretended_node: Some(1), ..handed_out });
        assert_eq!(read.bootstrap.resolve().expect("an address"), [address]);
    }
}
