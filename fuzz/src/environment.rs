//! A rank's variables: an identity that is accepted is in range, and what a launcher would hand out for it reads alike.

use phalanx::cluster::environment::{Address, Environment, LAUNCHER_VARIABLES, LocalPlace};
use phalanx::fabric::sim::Seeded;

use crate::mutation::{bytes, number, spoil};
use crate::{Target, ensure};

pub(crate) struct Variables;

const OPTIONS: [&str; 4] = ["PHALANX_BARRIER", "PHALANX_WAIT", "PHALANX_BOOTSTRAP_TIMEOUT_MS", "PHALANX_RADIX"];
const ADDRESSES: [&str; 6] =
    ["unix:phalanx-1", "127.0.0.1:4000", "[::1]:4000", "[fe80::1%eth0]:65535", "node-7.cluster:1", "unix:"];

/// What a variable usually holds.
fn usual(random: &mut Seeded, name: &str) -> String {
    match name {
        "PHALANX_BOOTSTRAP" => ADDRESSES[random.below(ADDRESSES.len())].to_owned(),
        "PHALANX_KEY" => "0f".repeat(32),
        "PHALANX_RENDEZVOUS" => "served".to_owned(),
        "PHALANX_SIZE" | "PHALANX_LOCAL_SIZE" => "4".to_owned(),
        _ if random.below(6) == 0 => number(random).to_string(),
        _ => random.below(4).to_string(),
    }
}

fn any_variables(random: &mut Seeded) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (place, name) in LAUNCHER_VARIABLES.into_iter().chain(OPTIONS).enumerate() {
        // The identity's mostly there, the others sometimes.
        let is_set = random.below(10) < if place < 6 { 9 } else { 3 };
        if !is_set {
            continue;
        }
        let mut value = usual(random, name).into_bytes();
        if random.below(8) == 0 {
            spoil(random, &mut value);
        }
        variables.push((name.to_owned(), String::from_utf8_lossy(&value).into_owned()));
    }
    variables
}

impl Target for Variables {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        address(random)?;
        let environment = Environment::from_pairs(any_variables(random));
        let _ = environment.options();
        let identity = match environment.identity() {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(()),
            Err(error) => return ensure(!error.to_string().is_empty(), || "an error without a word".to_owned()),
        };
        let most = identity.bootstrap.most_ranks();
        ensure(identity.rank < identity.size && identity.size <= most, || format!("{identity:?}"))?;
        let is_unix = matches!(identity.bootstrap, Address::Unix { .. });
        let (local_rank, local_size) = if is_unix { (identity.rank, identity.size) } else { (0, 1) };
        let place = LocalPlace { pretended_node: identity.pretended_node, local_rank, local_size };
        let handed_out = identity.variables_at(identity.rank, place);
        let again = Environment::from_pairs(handed_out.into_iter().map(|(name, value)| (name.to_owned(), value)));
        ensure(again.identity().as_ref() == Ok(&Some(identity.clone())), || format!("{identity:?} does not read alike"))
    }
}

fn address(random: &mut Seeded) -> Result<(), String> {
    let mut text = ADDRESSES[random.below(ADDRESSES.len())].as_bytes().to_vec();
    if random.below(8) == 0 {
        text = bytes(random);
    }
    spoil(random, &mut text);
    let text = String::from_utf8_lossy(&text);
    let Ok(parsed) = Address::parse(&text) else { return Ok(()) };
    let printed = parsed.to_string();
    ensure(Address::parse(&printed).as_ref() == Ok(&parsed), || format!("{text:?} is printed as {printed:?}"))
}
