//! One finding of the doctor: what was found, what it means, what mends it.

use std::fmt::Display;

use serde::Serialize;
use serde_json::{Map, Value};

/// How good a finding is; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Costs speed, or will fail in use.
    Warning,
    /// A part that is needed is not there.
    Missing,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }
}

/// Under which heading of the page a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    Cpu,
    Memory,
    Network,
    Rdma,
}

impl Area {
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Network, Self::Rdma];

    pub fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPUs and time",
            Self::Memory => "Memory",
            Self::Network => "Network",
            Self::Rdma => "RDMA",
        }
    }
}

/// A finding. The names of the JSON fields are a contract.
#[derive(Debug, Serialize)]
pub struct Check {
    #[serde(rename = "doctor")]
    pub name: &'static str,
    pub status: Status,
    /// A line for each thing found; one text in JSON.
    #[serde(serialize_with = "joined")]
    pub found: Vec<String>,
    pub facts: Map<String, Value>,
    pub meaning: String,
    pub remedy: Option<String>,
    #[serde(skip)]
    pub area: Area,
    /// Without this Phalanx does not work at all.
    #[serde(skip)]
    pub prevents: bool,
    /// Says nothing that its neighbours have not said: left out of the page.
    #[serde(skip)]
    pub is_folded: bool,
}

fn joined<S: serde::Serializer>(found: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&found.join("; "))
}

/// A limit in words: `8 MiB`, or `1024, can be raised to 4096`.
pub fn limit(soft: Option<u64>, hard: Option<u64>, text: impl Fn(u64) -> String) -> String {
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), &text);
    if soft == hard { text(soft) } else { format!("{}, can be raised to {}", text(soft), text(hard)) }
}

impl Check {
    pub fn new(area: Area, name: &'static str) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: Vec::new(),
            facts: Map::new(),
            meaning: String::new(),
            remedy: None,
            area,
            prevents: false,
            is_folded: false,
        }
    }

    pub fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// Adds a line to what was found. Files and other programs may hold anything, a terminal's commands too.
    pub fn found(mut self, line: impl Display) -> Self {
        let line = line.to_string();
        self.found.push(line.chars().map(|character| if character.is_control() { '?' } else { character }).collect());
        self
    }

    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    pub fn meaning(mut self, sentence: impl Display) -> Self {
        self.meaning = sentence.to_string();
        self
    }

    pub fn remedy(mut self, command: impl Display) -> Self {
        self.remedy = Some(command.to_string());
        self
    }

    pub fn prevents(mut self) -> Self {
        self.prevents = true;
        self
    }

    pub fn folded(mut self) -> Self {
        self.is_folded = true;
        self
    }
}
