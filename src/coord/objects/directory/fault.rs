//! Why a name was not opened, and why words of an object's home could not be reached.

use super::ObjectKind;

/// Why a name was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryFault {
    /// Another name has the same hash.
    Collision,
    /// The name stands for something else.
    OtherKind(ObjectKind),
    /// The object was made with another parameter.
    OtherParameter(u64),
    /// All places are taken.
    Full,
    /// Another member has changed the directory meanwhile: this one has been declared failed, or one that was comes
    /// back.
    Overtaken,
    /// The directory cannot be reached.
    Away(SiteFault),
}

impl From<SiteFault> for DirectoryFault {
    fn from(fault: SiteFault) -> Self {
        Self::Away(fault)
    }
}

/// Why words of an object's home could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteFault {
    /// The home is lost to the job.
    Lost {
        /// The node.
        home: usize,
    },
    /// This rank or its node has been declared failed.
    Excluded,
    /// The connection broke: what was asked for may have taken effect or not.
    Broken {
        /// The node.
        home: usize,
    },
    /// Nothing is heard of a node, and too few others are left to agree that it has failed. Nothing was asked for; what
    /// was before may take effect yet.
    Silent {
        /// The node.
        node: usize,
    },
    /// The home is lost, and the next one has no room for the object, here or for a node that has something of it.
    NoRoom {
        /// The next home.
        home: usize,
    },
    /// The time is over, and the home has not answered. What was asked for may take effect yet.
    Late {
        /// The node.
        home: usize,
    },
}
