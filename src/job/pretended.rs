//! Jobs on pretended nodes whose ranks are all in this process, for unit tests of what needs the inside of a job and
//! several nodes. A node is lost when the jobs of its ranks are dropped: they leave.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use super::{Job, JobOptions, across};
use crate::cluster::environment::{Environment, Identity};
use crate::cluster::rendezvous::Server;
use crate::coord::objects::name::Name;
use crate::fabric::{Memory, raise_alarm};
use crate::sync::Ordering;

/// The ranks of a job, which live on these nodes, in the order of ranks.
pub(crate) fn on_nodes(nodes: &[u32], options: &JobOptions) -> Vec<Job> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let shared = Identity::served_at(address, nodes.len()).expect("random numbers");
    let _server = Server::start(listener, &shared.key, nodes.len()).expect("a rendezvous");
    let options = options.completed_by(&Environment::default()).expect("options that fit");
    std::thread::scope(|scope| {
        let join = |(rank, node): (usize, &u32)| {
            let identity = Identity { rank, pretended_node: Some(*node), ..shared.clone() };
            let options = &options;
            scope.spawn(move || across::join(&identity, options).expect("all join"))
        };
        let joining: Vec<_> = nodes.iter().enumerate().map(join).collect();
        joining.into_iter().map(|joining| joining.join().expect("no panic")).collect()
    })
}

/// Longer than anything takes on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so. `otherwise`: what is wrong if it never is.
#[track_caller]
pub(crate) fn await_that(otherwise: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{otherwise}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A name that is at home on these nodes, one after the other as they are lost; the `index`th of some.
pub(crate) fn name_at(homes: &[usize], nodes: usize, index: usize) -> String {
    let is_at_home = |name: &String| {
        let name = Name::new(name).expect("a name");
        let lost = |node: &usize, so_far: usize| homes[..so_far].contains(node);
        homes
            .iter()
            .enumerate()
            .all(|(so_far, home)| name.home((0..nodes).filter(|node| !lost(node, so_far))) == Some(*home))
    };
    (0..).map(|number| format!("name {number}")).filter(is_at_home).nth(index).expect("one of so many names")
}

/// Has a rank's node take another one for silent, of which nobody can decide whether it has failed; or no more.
pub(crate) fn doubt(job: &Job, node: usize, is_doubtful: bool) {
    let segment = &job.membership().segment;
    segment.word(segment.layout().doubt(node)).store(u64::from(is_doubtful), Ordering::Relaxed);
    raise_alarm(&**segment);
}
