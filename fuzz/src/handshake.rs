//! The handshake: who does not know the key, or whose bytes were changed on the way, gets in nowhere; whoever does,
//! does.

use phalanx::fabric::sim::Seeded;
use phalanx::handshake::{
    CHALLENGE_BYTES, Claim, Client, Event, Expected, HELLO_BYTES, HandshakeError, Key, PROOF_BYTES, Purpose, Server,
    VERDICT_BYTES, Verdict,
};

use crate::mutation::{bytes, number, pieces, spoil};
use crate::{Target, ensure};

pub(crate) struct AtServer;
pub(crate) struct AtClient;

const SIZE: u64 = 9;
const PEER: u64 = 3;

fn key(of_job: bool) -> Key {
    Key::new([if of_job { 5 } else { 6 }; 32])
}

/// What connects to a node.
fn any_purpose(random: &mut Seeded) -> Purpose {
    [Purpose::Fabric, Purpose::Agent][random.below(2)]
}

/// A claim that fits, mostly.
fn any_claim(random: &mut Seeded) -> Claim {
    let purpose = if random.below(9) == 0 { Purpose::Rendezvous } else { any_purpose(random) };
    let odd = |random: &mut Seeded, usual| if random.below(9) == 0 { number(random) } else { usual };
    let rank = random.below(9) as u64;
    Claim { purpose, rank: odd(random, rank), size: odd(random, SIZE), peer: odd(random, PEER) }
}

fn fits(claim: &Claim) -> bool {
    claim.purpose != Purpose::Rendezvous && claim.rank < SIZE && claim.size == SIZE && claim.peer == PEER
}

fn server() -> Server {
    Server::new(&key(true), Expected { purpose: Purpose::Fabric, size: SIZE, peer: PEER }).expect("random numbers")
}

/// What a server makes of bytes: the last event, and all that it says.
fn feed_server(random: &mut Seeded, server: &mut Server, sent: &[u8]) -> Result<(Event, Vec<u8>), String> {
    let (mut last, mut said) = (Event::Continue, Vec::new());
    for piece in pieces(random, sent) {
        let wanted = server.wanted();
        let (taken, event) = server.handle_bytes(piece);
        let most = wanted + PROOF_BYTES;
        ensure(taken <= piece.len().min(most), || format!("{taken} bytes taken of {}, {wanted} wanted", piece.len()))?;
        said.extend(server.poll_output());
        if event != Event::Continue {
            last = event;
            break;
        }
    }
    ensure(said.len() <= CHALLENGE_BYTES + VERDICT_BYTES, || format!("{} bytes said", said.len()))?;
    Ok((last, said))
}

impl Target for AtServer {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let (knows_key, claim) = (random.below(8) > 0, any_claim(random));
        let mut client = Client::new(&key(knows_key), &claim).expect("random numbers");
        let mut server = server();
        let hello = client.poll_output();
        ensure(hello.len() == HELLO_BYTES, || "a hello of another size".to_owned())?;
        let (mut sent, mut is_clean) = (hello.clone(), true);
        if random.below(3) == 0 {
            spoil(random, &mut sent);
            is_clean &= sent == hello;
        }
        let (event, challenge) = feed_server(random, &mut server, &sent)?;
        if event != Event::Continue {
            ensure(!matches!(event, Event::Proved(_)), || "proved by a hello alone".to_owned())?;
            return ensure(!is_clean || !knows_key, || format!("a clean hello is refused: {event:?}"));
        }
        let answered = client.handle_bytes(&challenge).is_ok() && client.has_proved();
        let proof = if answered { client.poll_output() } else { bytes(random) };
        let mut sent = proof.clone();
        if random.below(2) == 0 {
            spoil(random, &mut sent);
        }
        is_clean &= answered && sent.starts_with(&proof);
        let (event, _) = feed_server(random, &mut server, &sent)?;
        let may_enter = is_clean && knows_key && fits(&claim);
        ensure(matches!(event, Event::Proved(found) if found == claim) == may_enter, || {
            format!("{event:?} for {claim:?}, clean: {is_clean}, key: {knows_key}")
        })
    }
}

impl Target for AtClient {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let knows_key = random.below(8) > 0;
        let claim = Claim { purpose: any_purpose(random), rank: random.below(9) as u64, size: SIZE, peer: PEER };
        let mut client = Client::new(&key(true), &claim).expect("random numbers");
        let served_by = Expected { purpose: Purpose::Fabric, size: SIZE, peer: PEER };
        let mut server = Server::new(&key(knows_key), served_by).expect("random numbers");
        server.handle_bytes(&client.poll_output());
        let mut is_clean = knows_key;
        let verdict = [Verdict::Welcome, Verdict::TooBusy, Verdict::Excluded][random.below(3)];
        for step in 0..2 {
            let valid = server.poll_output();
            let mut sent = if valid.is_empty() { bytes(random) } else { valid.clone() };
            if random.below(3) == 0 {
                spoil(random, &mut sent);
            } else if step == 0 && random.below(9) == 0 {
                sent = forged_exclusion(knows_key);
            }
            // What comes right behind a challenge counts as a verdict; what comes behind that is none of the
            // handshake's.
            let is_whole = if step == 0 { sent == valid } else { sent.starts_with(&valid) };
            is_clean &= !valid.is_empty() && is_whole;
            if let Err(error) = feed_client(random, &mut client, &sent)? {
                // Whoever believes that it is excluded ends.
                let ends = matches!(error, HandshakeError::Refused { verdict: Verdict::Excluded, size: Some(_) });
                ensure(ends == (is_clean && step == 1 && verdict == Verdict::Excluded), || {
                    format!("{error:?}, clean: {is_clean}, step {step}")
                })?;
                break;
            }
            ensure(client.has_proved() == is_clean || !is_clean && !client.is_welcome(), || {
                "proves itself to a stranger".to_owned()
            })?;
            if step == 0 {
                let (_, event) = server.handle_bytes(&client.poll_output());
                if matches!(event, Event::Proved(_)) {
                    server.decide(verdict);
                }
            }
        }
        let expected = is_clean && verdict == Verdict::Welcome;
        ensure(client.is_welcome() == expected, || format!("welcome: {}, clean: {is_clean}", client.is_welcome()))
    }
}

/// What anybody can say in the place of a challenge: that the client is excluded.
fn forged_exclusion(knows_key: bool) -> Vec<u8> {
    let served_by = Expected { purpose: Purpose::Fabric, size: SIZE, peer: PEER };
    let mut forger = Server::new(&key(knows_key), served_by).expect("random numbers");
    forger.decide(Verdict::Excluded);
    forger.poll_output()
}

/// `Ok(Err)`: the client has refused.
fn feed_client(random: &mut Seeded, client: &mut Client, sent: &[u8]) -> Result<Result<(), HandshakeError>, String> {
    for piece in pieces(random, sent) {
        match client.handle_bytes(piece) {
            Ok(taken) => ensure(taken <= piece.len(), || format!("{taken} bytes taken of {}", piece.len()))?,
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}
