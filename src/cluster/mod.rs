//! How ranks become a job: who they are, how they find each other, who has joined, who has died.
//!
//! | file | what |
//! | --- | --- |
//! | [`agreement`] | one value for all, decided by the nodes' words, whoever dies meanwhile |
//! | [`environment`] | the identity that a launcher hands to each rank |
//! | [`address`] | where they meet |
//! | [`card`] | what ranks tell each other about themselves |
//! | [`node_key`] | which ranks can share memory |
//! | [`rendezvous`] | across nodes: everybody's bytes for everybody, over TCP |
//! | [`bootstrap`] | passing the segment's descriptor over a UNIX socket, to the job's own ranks only |
//! | [`membership`] | the rank table: joining, and waiting until all have |
//! | [`watch`] | processes of this machine, and learning of their deaths |
//! | [`stopped`] | since when a process is stopped, as one sees it that looks again and again |
//! | [`view`] | the view log: which ranks and nodes the job has lost |
//! | [`detector`] | whether another node still lives, by its heartbeats |
//! | [`witness`] | the vote that decides where nodes are no majority, kept by the launcher |
//! | [`sentinel`] | a rank's part in finding out who has failed, and telling all |

pub mod address;
pub mod agreement;
pub mod bootstrap;
pub mod card;
pub mod detector;
pub mod environment;
pub mod membership;
pub mod node_key;
pub mod rendezvous;
pub mod sentinel;
pub mod stopped;
pub mod view;
pub mod watch;
pub mod witness;
