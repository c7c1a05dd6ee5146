//! The servers that some rivals need: on a free port of the loopback interface, with their files in a directory of the
//! benchmark's own, asleep while others have their turn, and gone with the benchmark.
//!
//! However the benchmark ends, the kernel ends its servers: `setpriv --pdeathsig` of util-linux asks it to, and becomes
//! the server. Files go with the benchmark's directory. All of them are at their fastest: that directory is memory
//! where there is some, so writing a log through to it costs next to nothing, and Redis writes none.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process;

/// How long a server may take until it serves: a Java machine on a busy one takes seconds.
const START_LIMIT: Duration = Duration::from_secs(40);
/// How long one answer may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Debian's, with all that it needs named within.
const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `redis-server`.
    Redis,
    /// `etcd`.
    Etcd,
    /// ZooKeeper, alone.
    ZooKeeper,
}

impl Kind {
    /// The program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "java",
        }
    }

    /// What is missing besides the program.
    pub fn missing(self) -> Option<&'static str> {
        (self == Self::ZooKeeper && !Path::new(ZOOKEEPER_JAR).exists()).then_some("there is no zookeeper.jar")
    }

    /// What is asked of a server, and what is part of its answer once it serves: some listen before they do.
    fn probe(self) -> (&'static str, &'static str) {
        match self {
            Self::Redis => ("PING\r\n", "PONG"),
            Self::Etcd => ("GET /health HTTP/1.0\r\n\r\n", "\"true\""),
            Self::ZooKeeper => ("srvr", "Mode:"),
        }
    }

    fn command(self, directory: &Path, port: u16, second_port: u16) -> io::Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", self.program()]);
        match self {
            Self::Redis => {
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
            }
            Self::Etcd => {
                let url = |port| format!("http://127.0.0.1:{port}");
                command.arg("--data-dir").arg(directory.join("data"));
                command.args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)]);
                command.args(["--listen-peer-urls", &url(second_port)]);
                // Its variables would be options.
                for (name, _) in std::env::vars_os() {
                    if name.to_str().is_some_and(|name| name.starts_with("ETCD_")) {
                        command.env_remove(name);
                    }
                }
            }
            Self::ZooKeeper => {
                let settings = directory.join("zoo.cfg");
                let text = format!(
                    "tickTime=2000\nmaxClientCnxns=0\nclientPortAddress=127.0.0.1\nclientPort={port}\ndataDir={}\n",
                    directory.display()
                );
                fs::write(&settings, text)?;
                let flags = ["-Xmx256m", "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.forceSync=no"];
                command.args(flags).args(["-cp", ZOOKEEPER_JAR]);
                command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(settings);
            }
        }
        Ok(command)
    }
}

/// A server that runs, or sleeps.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts a server and waits until it serves, then lets it sleep.
    ///
    /// # Errors
    ///
    /// What went wrong, in words, with the end of what the server said.
    pub fn start(kind: Kind, directory: &Path) -> Result<Self, String> {
        let log = directory.join("server.log");
        let start = || -> io::Result<Self> {
            fs::create_dir_all(directory)?;
            let [port, second_port] = free_ports()?;
            let mut command = kind.command(directory, port, second_port)?;
            let file = fs::File::create(&log)?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).current_dir(directory);
            Ok(Self { child: command.spawn()?, port })
        };
        let mut server = start().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "setpriv is not installed".to_owned(),
            _ => format!("{} cannot be started: {error}", kind.program()),
        })?;
        server.await_serving(kind).map_err(|why| format!("{why}: {}", process::tail(&log)))?;
        server.signal(Signal::STOP);
        Ok(server)
    }

    fn await_serving(&mut self, kind: Kind) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        while !answers(kind, self.port).unwrap_or(false) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}", kind.program()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not serve within {START_LIMIT:?}", kind.program()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Wakes it until what is returned is dropped.
    pub fn awake(&self) -> Awake<'_> {
        self.signal(Signal::CONT);
        Awake(self)
    }

    /// A server that has died cannot be told anything; its clients will say so.
    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server's turn.
#[derive(Debug)]
pub struct Awake<'server>(&'server Server);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::STOP);
    }
}

/// Whether the server answers as one that serves.
fn answers(kind: Kind, port: u16) -> io::Result<bool> {
    let (question, part) = kind.probe();
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(PROBE_LIMIT))?;
    connection.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = connection.read(&mut piece)?;
        answer.extend_from_slice(&piece[..count]);
        let is_there = String::from_utf8_lossy(&answer).contains(part);
        if is_there || count == 0 {
            return Ok(is_there);
        }
    }
}

/// Two ports that were free a moment ago: taken together, so that they differ.
fn free_ports() -> io::Result<[u16; 2]> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_start_says_why_and_one_that_can_is_gone_afterwards() {
        let directory = std::env::temp_dir().join(format!("phalanx-server-{}", std::process::id()));
        // An empty directory in the place of the settings' file.
        fs::create_dir_all(directory.join("bad/zoo.cfg")).unwrap();
        let error = Server::start(Kind::ZooKeeper, &directory.join("bad")).unwrap_err();
        assert!(error.contains("java cannot be started"), "{error}");
        match Server::start(Kind::Redis, &directory.join("good")) {
            Ok(server) => {
                let (port, pid) = (server.port(), Pid::from_child(&server.child));
                drop(server);
                assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "nobody listens any more");
                assert!(rustix::process::test_kill_process(pid).is_err(), "it is no more");
            }
            Err(why) => phalanx::testing::not_run(why),
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
