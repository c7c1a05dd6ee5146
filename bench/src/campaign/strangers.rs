//! What comes to a running job from outside: strangers at its ports, and the reset of its connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use phalanx::fabric::sim::Seeded;

use crate::doomed::namespaces::run;

/// How long a stranger waits for what it is told.
const PATIENCE: Duration = Duration::from_millis(20);

/// Says anything to whoever listens there. The connections, which stay open until they are dropped.
pub fn annoy(address: SocketAddr, random: &mut Seeded) -> Vec<TcpStream> {
    let ways = 2 + random.below(5);
    (0..ways).filter_map(|_| one(address, random)).collect()
}

/// One stranger. That it is refused or thrown out is no error of ours.
fn one(address: SocketAddr, random: &mut Seeded) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let noise = |length: usize, random: &mut Seeded| -> Vec<u8> {
        (0..length).map(|_| random.number().to_le_bytes()[0]).collect()
    };
    match random.below(5) {
        // Says nothing.
        0 => {}
        1 => {
            let length = 1 + random.below(4096);
            let _ = stream.write_all(&noise(length, random));
        }
        // Half a greeting.
        2 => {
            let length = random.below(60);
            let _ = stream.write_all(&[b"PHX-hail".to_vec(), noise(length, random)].concat());
        }
        // A whole one with nonsense in it; what comes back is said again.
        3 => {
            let greeting = [b"PHX-hail".to_vec(), noise(phalanx::handshake::HELLO_BYTES - 8, random)].concat();
            let _ = stream.write_all(&greeting);
            echo(&mut stream);
        }
        // Gone at once, in the midst of a word.
        _ => {
            let _ = stream.write_all(b"PHX-h");
            return None;
        }
    }
    Some(stream)
}

fn echo(stream: &mut TcpStream) {
    let mut bytes = [0; 512];
    if let Ok(length) = stream.read(&mut bytes) {
        let _ = stream.write_all(&bytes[..length]);
    }
}

/// Has the kernel reset all connections to and from a port.
///
/// # Errors
///
/// Why it does not.
pub fn reset(port: u16) -> Result<(), String> {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    run("ss", &["-K", "-t", "state", "established", &filter])
}

/// Whether the kernel resets connections for us: it is tried with one of our own.
///
/// # Errors
///
/// Why it does not.
pub fn can_reset() -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    let mut near = TcpStream::connect(address).map_err(text)?;
    let _far = listener.accept().map_err(text)?;
    reset(address.port())?;
    near.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    match near.read(&mut [0]) {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Ok(()),
        _ => Err("`ss -K` does nothing (remedy: as root, on a kernel with CONFIG_INET_DIAG_DESTROY)".to_owned()),
    }
}
