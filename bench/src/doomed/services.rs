//! What a job of several nodes needs beside its ranks: who serves their meeting, and the launcher's vote.
//!
//! Both are threads of this process. That they end when they are dropped is theirs to see to, and is not relied upon:
//! they are dropped beside, and waited for with a limit.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::mpsc::channel;
use std::time::Duration;

use phalanx::cluster::environment::Identity;
use phalanx::cluster::rendezvous;
use phalanx::cluster::witness::Witness;

use super::{DoomedError, Place, system, threads_of};

/// How long each may take to end: several times what they allow themselves for what is on its way.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Those who serve a job.
pub(super) struct Services {
    rendezvous: rendezvous::Server,
    witness: Witness,
}

impl Services {
    /// Ends them.
    ///
    /// # Errors
    ///
    /// [`DoomedError::NotEnded`]: the threads stay.
    pub(super) fn end(self) -> Result<(), DoomedError> {
        let Self { rendezvous, witness } = self;
        let ended = end_within(END_LIMIT, "who serves the rendezvous", rendezvous);
        end_within(END_LIMIT, "who serves the witness", witness).and(ended)
    }
}

/// Drops what may wait in its drop.
fn end_within<T: Send + 'static>(limit: Duration, what: &'static str, service: T) -> Result<(), DoomedError> {
    let (say, heard) = channel();
    std::thread::spawn(move || {
        drop(service);
        // Nobody listens any more to what comes too late.
        let _ = say.send(());
    });
    let not_ended = |_| DoomedError::NotEnded { what: what.to_owned(), limit, doing: threads_of(std::process::id()) };
    heard.recv_timeout(limit).map_err(not_ended)
}

/// Who the ranks are, and who serves them if they are on several nodes.
pub(super) fn start(place: Place<'_>) -> Result<(Identity, Option<Services>), DoomedError> {
    let size = place.nodes.len();
    if place.count() == 1 {
        return Ok((Identity::random(size).map_err(system("draw a job's key"))?, None));
    }
    let host = place.namespaces.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |namespaces| namespaces.host());
    let listener = TcpListener::bind((host, 0)).map_err(system("serve a rendezvous"))?;
    let address = listener.local_addr().map_err(system("serve a rendezvous"))?;
    let identity = Identity::served_at(address, size).map_err(system("draw a job's key"))?;
    let rendezvous = rendezvous::Server::start(listener, &identity.key, size).map_err(system("serve a rendezvous"))?;
    let listener = TcpListener::bind((host, 0)).map_err(system("serve a witness"))?;
    let witness = Witness::start(listener, &identity.key, size, place.count()).map_err(system("serve a witness"))?;
    let identity = Identity { witness: Some(witness.address()), ..identity };
    Ok((identity, Some(Services { rendezvous, witness })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something whose end has to be allowed.
    struct Stubborn(std::sync::mpsc::Receiver<()>);

    impl Drop for Stubborn {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn what_does_not_end_is_told_and_not_waited_for() {
        let (allow, allowed) = channel();
        let error = end_within(Duration::from_millis(1), "the stubborn", Stubborn(allowed)).expect_err("it waits");
        let text = error.to_string();
        assert!(text.contains("the stubborn has not ended within 1ms: "), "{text}");
        allow.send(()).expect("it still waits");
        end_within(Duration::from_secs(60), "nobody", ()).expect("it ends at once");
    }
}
