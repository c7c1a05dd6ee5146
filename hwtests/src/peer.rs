//! The other process: started by a check or a measurement, led by it over standard input, gone with it.

use std::process::{Child, Command, Stdio};

use phalanx::fabric::{Fabric, Request};

use crate::channel::Channel;
use crate::end::End;
use crate::latency;

/// Writes of a flood, should it not be stopped.
const FLOOD: u64 = 50_000;

/// A peer process, killed when dropped.
pub struct Peer {
    child: Child,
    pub channel: Channel,
}

impl Peer {
    pub fn start(role: &str, device: &str) -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(program);
        command.args(["peer", role, "--device", device]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let (output, input) = (child.stdout.take().expect("a pipe"), child.stdin.take().expect("a pipe"));
        Self { child, channel: Channel::new(output, input) }
    }

    /// Sends it a signal: "STOP", "CONT".
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send {name} to {pid}");
    }

    /// `kill -9`, and waits until nothing of it is left.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the other process does: it is node 1 of two.
pub fn run(role: &str, device: Option<&str>) {
    let end = End::new(device.expect("the device's name"), 1, 2);
    let mut channel = Channel::standard();
    end.connect(0, &mut channel);
    match role {
        // Does nothing: the adapter alone serves what comes.
        "serve" => {}
        "add" => add(&end, &mut channel),
        "flood" => flood(&end, &mut channel),
        "echo" => latency::echo(&end, &mut channel),
        other => panic!("no role {other}"),
    }
    // Until the first process closes the pipe.
    while !channel.receive().is_empty() {}
}

/// Writes numbers into node 0's first word, one after the other, until it is let in no more; tells the last.
fn flood(end: &End, channel: &mut Channel) {
    let write = |value| end.post(0, &[Request::Write { at: End::at(0), value }]);
    let last = (1..=FLOOD).take_while(|value| write(*value).is_ok()).last();
    channel.send(&last.unwrap_or(0).to_string());
}

/// Adds to node 0's first word as often as it is told to.
fn add(end: &End, channel: &mut Channel) {
    let times: usize = channel.receive().parse().expect("a number");
    for _ in 0..times {
        end.ask(0, Request::FetchAdd { at: End::at(0), add: 1 });
    }
    assert_eq!(end.fabric.incarnation(0), 1, "the connection has held");
    channel.send("done");
}
