//! Named objects: what ranks share under a name. State machines and positions; nothing here blocks.
//!
//! | file | what |
//! | --- | --- |
//! | [`name`] | names, their hashes, and the node where an object is at home |
//! | [`directory`] | which object of a node has which name |
//! | [`layout`] | where an object's words stand |
//! | [`word`] | the packed words of a lock |
//! | [`queue`] | the lock of one node |
//! | [`home`] | the lock between nodes |
//! | [`home::moving`] | a node's part in it, moved to the next home |
//! | [`tenure`] | a node's hold of such a lock, passed on among its ranks |
//! | [`sharing`] | a lock that readers share |
//! | [`shared_hold`] | of such a lock, the hold that ranks of a node have together |
//! | [`permits`] | a semaphore |
//! | [`lease`] | a lock with a time to live |
//! | [`fenced`] | words that are written under a token |
//! | [`note`] | what a rank notes on its own node for the next home: of a lease, of a fenced word |
//! | [`block`] | a counter's numbers that a node has taken at once |
//! | [`copies`] | how far an object's copy on a second node is, and whether it has all |
//! | [`tally`] | a counter: its words, and how a rank changes it once |
//! | [`election`] | who leads, as it is announced at an election's home |
//! | `trial` | tries sharing and permits exhaustively (tests: `sharing/exhaustive.rs`, `permits/exhaustive.rs`) |

pub mod block;
pub mod copies;
pub mod directory;
pub mod election;
pub mod fenced;
pub mod home;
pub mod layout;
pub mod lease;
pub mod name;
pub mod note;
pub mod permits;
pub mod queue;
pub mod shared_hold;
pub mod sharing;
pub mod tally;
pub mod tenure;
#[cfg(all(test, not(model)))]
mod trial;
pub mod word;
