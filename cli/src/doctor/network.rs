//! By which addresses other nodes can reach this one, and how many sockets a process may have.

use std::io;

use phalanx::interfaces::{self, Interface};
use rustix::process::{Resource, Rlimit, getrlimit};
use serde_json::{Value, json};

use super::check::{self, Area, Check, Status};

/// Rank 0 of a thousand ranks has a socket for each while they find each other.
const OPEN_FILES: u64 = 4096;

pub fn checks() -> Vec<Check> {
    vec![interfaces(interfaces::all()), open_files(getrlimit(Resource::Nofile))]
}

fn interfaces(listed: io::Result<Vec<Interface>>) -> Check {
    let check = Check::new(Area::Network, "interfaces");
    let all = match listed {
        Ok(all) => all,
        Err(error) => {
            return check
                .status(Status::Warning)
                .found(format!("cannot be listed: {error}"))
                .fact("error", error.to_string())
                .fact("interfaces", Value::Array(Vec::new()))
                .meaning("Other nodes do not learn where this one is.")
                .remedy("allow netlink sockets (in a container: its seccomp profile)");
        }
    };
    let mut check = check.fact("interfaces", all.iter().map(to_json).collect::<Vec<_>>());
    for interface in all.iter().filter(|interface| interface.is_usable()) {
        check = check.found(describe(interface));
    }
    let unusable: Vec<&str> =
        all.iter().filter(|interface| !interface.is_usable()).map(|interface| interface.name.as_str()).collect();
    if !unusable.is_empty() {
        check = check.found(format!("down, or without an address: {}", unusable.join(", ")));
    }
    judge(check, &all)
}

fn judge(check: Check, all: &[Interface]) -> Check {
    let best = all.iter().find(|interface| interface.is_usable());
    match best {
        Some(best) if !best.is_local_only() => check.meaning(format!(
            "Other nodes try {} first, then the others in this order.",
            best.addresses.first().map_or_else(String::new, |address| address.ip.to_string())
        )),
        Some(_) => {
            check.status(Status::Note).meaning("Only ranks of this machine can join a job here.").remedy(bring_up(all))
        }
        None => {
            let check = if all.is_empty() { check.found("none") } else { check };
            check
                .status(Status::Warning)
                .meaning("No network at all: pretended nodes on one machine have no loopback to meet on.")
                .remedy("sudo ip link set lo up")
        }
    }
}

/// The command that makes the likeliest interface usable.
fn bring_up(all: &[Interface]) -> String {
    let name = all
        .iter()
        .filter(|interface| !interface.is_usable() && !interface.is_loopback)
        .max_by_key(|interface| interface.is_physical)
        .map_or("INTERFACE", |interface| interface.name.as_str());
    format!("sudo ip link set {name} up && sudo ip address add ADDRESS/PREFIX dev {name}")
}

fn describe(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(|address| address.ip.to_string()).collect();
    let mut text = format!("{}: {}", interface.name, addresses.join(", "));
    if let Some(speed) = interface.speed_mbit {
        text += &if speed >= 1000 {
            format!("; {} Gbit/s", f64::from(speed) / 1000.0)
        } else {
            format!("; {speed} Mbit/s")
        };
    }
    if let Some(mtu) = interface.mtu {
        text += &format!("; MTU {mtu}");
    }
    text
}

fn to_json(interface: &Interface) -> Value {
    let addresses: Vec<String> =
        interface.addresses.iter().map(|address| format!("{}/{}", address.ip, address.prefix)).collect();
    json!({
        "name": interface.name,
        "index": interface.index,
        "addresses": addresses,
        "running": interface.is_running,
        "loopback": interface.is_loopback,
        "physical": interface.is_physical,
        "mtu": interface.mtu,
        "speed_mbit": interface.speed_mbit,
    })
}

fn open_files(limit: Rlimit) -> Check {
    let check = Check::new(Area::Network, "open_files")
        .fact("soft", limit.current)
        .fact("hard", limit.maximum)
        .found(check::limit(limit.current, limit.maximum, |files| files.to_string()));
    let is_enough = |limit: Option<u64>| limit.is_none_or(|files| files >= OPEN_FILES);
    if is_enough(limit.current) {
        return check.meaning("Enough sockets for the largest job.");
    }
    check
        .status(Status::Note)
        .meaning(
            "Rank 0 has a socket for each rank while they find each other, so a job of more ranks than this needs \
             more.",
        )
        .remedy(if is_enough(limit.maximum) {
            format!("ulimit -n {OPEN_FILES}")
        } else {
            "echo '* - nofile 65536' | sudo tee /etc/security/limits.d/phalanx-files.conf    # then log in anew"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn interface(name: &str, ip: Option<&str>) -> Interface {
        let ip: Option<IpAddr> = ip.map(|ip| ip.parse().expect("an address"));
        Interface {
            name: name.to_owned(),
            index: 2,
            addresses: ip.map(|ip| interfaces::Address { ip, prefix: 24 }).into_iter().collect(),
            is_running: ip.is_some(),
            is_loopback: name == "lo",
            is_physical: name == "eth0",
            mtu: Some(9000),
            speed_mbit: Some(25_000),
        }
    }

    #[test]
    fn the_best_address_is_named_and_those_without_one_too() {
        let check = interfaces(Ok(vec![interface("eth0", Some("192.0.2.1")), interface("eth1", None)]));
        assert_eq!(check.status, Status::Ok);
        assert_eq!(check.found, ["eth0: 192.0.2.1; 25 Gbit/s; MTU 9000", "down, or without an address: eth1"]);
        assert!(check.meaning.contains("192.0.2.1"));
        assert_eq!(check.facts["interfaces"][0]["addresses"][0], "192.0.2.1/24");
    }

    #[test]
    fn loopback_alone_is_a_note_and_nothing_a_warning() {
        let check =
            interfaces(Ok(vec![interface("lo", Some("127.0.0.1")), interface("br0", None), interface("eth0", None)]));
        assert_eq!(check.status, Status::Note);
        assert!(check.remedy.expect("one").starts_with("sudo ip link set eth0 up"));
        assert_eq!(interfaces(Ok(Vec::new())).status, Status::Warning);
        assert_eq!(interfaces(Err(io::Error::from_raw_os_error(1))).status, Status::Warning);
    }

    #[test]
    fn a_low_limit_of_open_files_is_a_note() {
        let of = |current, maximum| open_files(Rlimit { current, maximum });
        assert_eq!(of(Some(1024), Some(524_288)).remedy.as_deref(), Some("ulimit -n 4096"));
        assert!(of(Some(1024), Some(1024)).remedy.expect("one").contains("limits.d"));
        assert_eq!(of(Some(65536), None).status, Status::Ok);
        assert_eq!(of(None, None).status, Status::Ok);
    }
}
