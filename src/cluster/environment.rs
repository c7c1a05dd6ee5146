//! The identity that a launcher hands to each rank through its environment. README.md has the table of variables.

use std::collections::HashMap;
use std::time::Duration;

pub use crate::handshake::Key;
use crate::handshake::random_bytes;

/// The variables that make a rank of a job; all or none must be set.
const IDENTITY: [&str; 4] = ["PHALANX_RANK", "PHALANX_SIZE", "PHALANX_BOOTSTRAP", "PHALANX_KEY"];
/// The most ranks that one node can have: what the packed words of a barrier can count, with room.
pub const MAX_NODE_RANKS: usize = 1024;
/// The longest name of an abstract UNIX socket.
const MAX_SOCKET_NAME: usize = 107;

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

/// Where the job's bootstrap is served: the name of an abstract UNIX socket, which is no file and vanishes with its
/// server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    name: String,
}

impl Address {
    /// Parses `unix:NAME`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix("unix:") else {
            return Err("an address is unix:NAME, the name of an abstract UNIX socket".to_owned());
        };
        if name.is_empty() || name.len() > MAX_SOCKET_NAME {
            return Err(format!("the socket's name must have 1 to {MAX_SOCKET_NAME} bytes"));
        }
        Ok(Self { name: name.to_owned() })
    }

    /// The socket's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix:{}", self.name)
    }
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
}

impl Identity {
    /// A new job's identity, as rank 0 has it: a socket and a key that no other job has.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn random(size: usize) -> std::io::Result<Self> {
        let bootstrap = Address { name: format!("phalanx-{}", hex(&random_bytes::<16>()?)) };
        Ok(Self { rank: 0, size, bootstrap, key: Key::random()? })
    }

    /// The variables that make a process rank `rank` of this job: what a launcher hands out, and what
    /// [`Environment::identity`] reads.
    pub fn variables(&self, rank: usize) -> [(&'static str, String); 6] {
        let (rank, size) = (rank.to_string(), self.size.to_string());
        [
            ("PHALANX_RANK", rank.clone()),
            ("PHALANX_SIZE", size.clone()),
            // One node so far: a rank's place on its node is its place in the job.
            ("PHALANX_LOCAL_RANK", rank),
            ("PHALANX_LOCAL_SIZE", size),
            ("PHALANX_BOOTSTRAP", self.bootstrap.to_string()),
            ("PHALANX_KEY", hex(self.key.bytes())),
        ]
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
        let size = self.number("PHALANX_SIZE")?.unwrap_or(0);
        let rank = self.number("PHALANX_RANK")?.unwrap_or(0);
        if size == 0 || size > MAX_NODE_RANKS {
            return Err(self.invalid("PHALANX_SIZE", format!("a job on one machine has 1 to {MAX_NODE_RANKS} ranks")));
        }
        if rank >= size {
            return Err(EnvironmentError::RankOutOfRange { rank, size });
        }
        self.check_one_node(rank, size)?;
        let bootstrap = Address::parse(self.get("PHALANX_BOOTSTRAP").unwrap_or(""))
            .map_err(|why| self.invalid("PHALANX_BOOTSTRAP", why))?;
        let key = Key::parse(self.get("PHALANX_KEY").unwrap_or("")).ok_or_else(|| EnvironmentError::Invalid {
            name: "PHALANX_KEY",
            value: "…".to_owned(),
            why: "a key is 64 hexadecimal digits, the same for all ranks of the job".to_owned(),
        })?;
        Ok(Some(Identity { rank, size, bootstrap, key }))
    }

    /// The local variables may be left out; where they are set they must say that all ranks are on this machine.
    fn check_one_node(&self, rank: usize, size: usize) -> Result<(), EnvironmentError> {
        for (name, expected) in [("PHALANX_LOCAL_RANK", rank), ("PHALANX_LOCAL_SIZE", size)] {
            if self.number(name)?.is_some_and(|found| found != expected) {
                let why = format!("this version runs jobs on one machine only, where it must be {expected}");
                return Err(self.invalid(name, why));
            }
        }
        Ok(())
    }

    /// The options that are set.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Invalid`] for a time-out that is no number.
    pub fn options(&self) -> Result<EnvironmentOptions, EnvironmentError> {
        let text = |name| self.get(name).map(str::to_owned);
        let timeout_ms = self.number("PHALANX_BOOTSTRAP_TIMEOUT_MS")?;
        Ok(EnvironmentOptions {
            barrier: text("PHALANX_BARRIER"),
            wait: text("PHALANX_WAIT"),
            bootstrap_timeout: timeout_ms.map(|ms| Duration::from_millis(ms as u64)),
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
        assert_eq!((identity.rank, identity.size, identity.bootstrap.name()), (1, 2, "phalanx-test"));
        assert_eq!(identity.key.bytes()[..2], [0x01, 0x23]);
        assert_eq!(Environment::default().identity(), Ok(None));
        assert!(!format!("{identity:?}").contains("0123"), "the key is not printed");
    }

    #[test]
    fn what_a_launcher_hands_out_is_what_a_rank_reads() {
        let handed_out = Identity::random(3).expect("random numbers");
        let variables = handed_out.variables(2).map(|(name, value)| (name.to_owned(), value));
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
        ];
        for (name, value) in cases {
            let error = environment(&[(name, Some(value))]).identity().expect_err(value);
            assert!(matches!(error, EnvironmentError::Invalid { name: named, .. } if named == name), "{error}");
        }
        let error = environment(&[("PHALANX_RANK", Some("2"))]).identity().expect_err("out of range");
        assert_eq!(error, EnvironmentError::RankOutOfRange { rank: 2, size: 2 });
        assert!(environment(&[("PHALANX_BOOTSTRAP_TIMEOUT_MS", Some("soon"))]).options().is_err());
    }
}
