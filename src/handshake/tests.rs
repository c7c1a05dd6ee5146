//! The handshake against everybody who is not meant to pass it. Random cases are proptest's: it prints the smallest
//! failing one and keeps its seed.

use std::net::TcpListener;

use proptest::prelude::*;

use super::*;

const CLAIM: Claim = Claim { purpose: Purpose::Rendezvous, rank: 3, size: 8, peer: SERVICE };
const EXPECTED: Expected = Expected { purpose: Purpose::Rendezvous, size: 8, peer: SERVICE };

fn key() -> Key {
    Key::new([0x5a; 32])
}

fn client() -> Client {
    Client::new(&key(), &CLAIM).expect("random numbers")
}

fn server() -> Server {
    Server::new(&key(), EXPECTED).expect("random numbers")
}

/// Hands everything to and fro until nobody says anything more. A proved client is given `verdict`.
fn converse(client: &mut Client, server: &mut Server, verdict: Verdict) -> (Result<(), HandshakeError>, Vec<Event>) {
    let mut events = Vec::new();
    loop {
        let to_server = client.poll_output();
        if !to_server.is_empty() {
            let (taken, event) = server.handle_bytes(&to_server);
            assert!(taken == to_server.len() || matches!(event, Event::Refused(_)));
            events.push(event);
            if matches!(event, Event::Proved(_)) {
                server.decide(verdict);
            }
        }
        let to_client = server.poll_output();
        if let Err(error) = client.handle_bytes(&to_client) {
            return (Err(error), events);
        }
        if to_client.is_empty() {
            return (Ok(()), events);
        }
    }
}

fn refusal_of(mut client: Client, mut server: Server) -> (Verdict, Option<u64>) {
    let (result, events) = converse(&mut client, &mut server, Verdict::Welcome);
    assert!(!client.is_welcome());
    match (result, events.last()) {
        (Err(HandshakeError::Refused { verdict, size }), Some(Event::Refused(said))) if *said == verdict => {
            (verdict, size)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_knows_the_key_is_welcome() {
    let (mut client, mut server) = (client(), server());
    let (result, events) = converse(&mut client, &mut server, Verdict::Welcome);
    assert!(result.is_ok() && client.is_welcome());
    assert_eq!(events, [Event::Continue, Event::Proved(CLAIM)]);
    assert_eq!((client.wanted(), server.wanted()), (0, 0));
}

#[test]
fn bytes_may_come_one_by_one_and_what_follows_is_left_alone() {
    let (mut client, mut server) = (client(), server());
    let one_by_one = |server: &mut Server, bytes: &[u8]| {
        bytes.iter().map(|byte| server.handle_bytes(&[*byte])).fold(Event::Continue, |_, (_, event)| event)
    };
    assert_eq!(one_by_one(&mut server, &client.poll_output()), Event::Continue);
    for byte in server.poll_output() {
        assert_eq!(client.handle_bytes(&[byte]).expect("welcome"), 1);
    }
    let mut proof = client.poll_output();
    proof.extend(b"more");
    assert_eq!(server.handle_bytes(&proof), (PROOF_BYTES, Event::Proved(CLAIM)));
    server.decide(Verdict::Welcome);
    let mut verdict = server.poll_output();
    verdict.extend(b"more");
    assert_eq!(client.handle_bytes(&verdict).expect("welcome"), VERDICT_BYTES);
    assert!(client.is_welcome());
}

#[test]
fn each_wrong_claim_has_its_verdict() {
    let with = |claim: Claim| Client::new(&key(), &claim).expect("random numbers");
    assert_eq!(refusal_of(with(Claim { size: 9, ..CLAIM }), server()), (Verdict::WrongSize, Some(8)));
    assert_eq!(refusal_of(with(Claim { rank: 8, ..CLAIM }), server()), (Verdict::Malformed, Some(8)));
    assert_eq!(refusal_of(with(Claim { peer: 2, ..CLAIM }), server()), (Verdict::WrongPeer, Some(8)));
    let fabric = Claim { purpose: Purpose::Fabric, ..CLAIM };
    assert_eq!(refusal_of(with(fabric), server()), (Verdict::WrongPeer, Some(8)));
    let agent = Claim { purpose: Purpose::Agent, ..CLAIM };
    assert_eq!(refusal_of(with(agent), server()), (Verdict::WrongPeer, Some(8)));
    let stranger = Client::new(&Key::new([1; 32]), &CLAIM).expect("random numbers");
    assert_eq!(refusal_of(stranger, server()), (Verdict::OtherJob, None), "and is told no size");
    for verdict in [Verdict::DuplicateRank, Verdict::Crossed, Verdict::TooBusy, Verdict::Excluded] {
        let (result, _) = converse(&mut client(), &mut server(), verdict);
        assert!(matches!(result, Err(HandshakeError::Refused { verdict: said, size: Some(8) }) if said == verdict));
    }
}

/// Whether a client speaks for its node is part of what it proves.
#[test]
fn who_serves_a_fabric_serves_agents_and_tells_them_from_others() {
    for purpose in [Purpose::Fabric, Purpose::Agent] {
        let claim = Claim { purpose, ..CLAIM };
        let served = Expected { purpose: Purpose::Fabric, ..EXPECTED };
        let new_client = || Client::new(&key(), &claim).expect("random numbers");
        let new_server = || Server::new(&key(), served).expect("random numbers");
        let (_, events) = converse(&mut new_client(), &mut new_server(), Verdict::Welcome);
        assert_eq!(events.last(), Some(&Event::Proved(claim)));
        // On the way one is made of the other.
        let (mut client, mut server) = (new_client(), new_server());
        let mut hello = client.poll_output();
        hello[16] ^= Purpose::Fabric as u8 ^ Purpose::Agent as u8;
        server.handle_bytes(&hello);
        let challenge = server.poll_output();
        assert!(matches!(client.handle_bytes(&challenge), Err(HandshakeError::Unproven)));
    }
}

/// A stranger that has seen a hello knows the tag, and still not the key.
#[test]
fn a_stolen_tag_is_not_enough() {
    let mut hello = encode_hello(&Key::new([1; 32]), &CLAIM, &[7; 32]);
    hello[48..64].copy_from_slice(&key().tag());
    let mut server = server();
    assert_eq!(server.handle_bytes(&hello), (HELLO_BYTES, Event::Continue));
    let challenge = server.poll_output();
    let mut proof = PROOF_MAGIC.to_vec();
    proof.extend(Key::new([1; 32]).seal(CLIENT_LABEL, &[&hello, &challenge]));
    assert_eq!(server.handle_bytes(&proof), (PROOF_BYTES, Event::Refused(Verdict::WrongKey)));
    assert_eq!(number(&server.poll_output(), 16), 0, "the size is not told");
}

#[test]
fn what_was_recorded_cannot_be_played_again() {
    let (mut honest, mut first) = (client(), server());
    let hello = honest.poll_output();
    first.handle_bytes(&hello);
    let challenge = first.poll_output();
    honest.handle_bytes(&challenge).expect("the server knows the key");
    let proof = honest.poll_output();
    assert_eq!(first.handle_bytes(&proof).1, Event::Proved(CLAIM));
    first.decide(Verdict::Welcome);
    let verdict = first.poll_output();

    let mut second = server();
    assert_eq!(second.handle_bytes(&hello).1, Event::Continue);
    assert_eq!(second.handle_bytes(&proof).1, Event::Refused(Verdict::WrongKey), "a client's part, to a server");
    let mut other = client();
    assert!(matches!(other.handle_bytes(&challenge), Err(HandshakeError::Unproven)), "a server's part, to a client");
    let (mut other, mut third) = (client(), server());
    third.handle_bytes(&other.poll_output());
    other.handle_bytes(&third.poll_output()).expect("the server knows the key");
    assert!(matches!(other.handle_bytes(&verdict), Err(HandshakeError::Unproven)), "a verdict");
}

#[test]
fn what_one_end_says_cannot_be_reflected_to_it() {
    let mut client = client();
    let hello = client.poll_output();
    assert!(matches!(client.handle_bytes(&hello), Err(HandshakeError::NotPhalanx { .. })));
    let mut server = server();
    server.handle_bytes(&hello);
    let challenge = server.poll_output();
    // The server's own MAC, in the place of a client's.
    let mut proof = PROOF_MAGIC.to_vec();
    proof.extend(&challenge[56..]);
    assert_eq!(server.handle_bytes(&proof).1, Event::Refused(Verdict::WrongKey));
}

#[test]
fn another_version_is_named_by_both() {
    let mut hello = client().poll_output();
    hello[8] = 3;
    let mut server = server();
    // Sixteen bytes are enough: the rest may have another length.
    assert_eq!(server.handle_bytes(&hello[..16]), (16, Event::Refused(Verdict::OtherVersion)));
    let mut challenge = server.poll_output();
    assert_eq!(number(&challenge, 16), Verdict::OtherVersion as u64);
    challenge[8] = 3;
    let result = client().handle_bytes(&challenge[..HEAD_BYTES]);
    assert!(matches!(result, Err(HandshakeError::OtherVersion { found: 3 })));
}

#[test]
fn who_is_turned_away_early_is_told_why() {
    let mut server = server();
    server.decide(Verdict::TooBusy);
    let result = client().handle_bytes(&server.poll_output());
    assert!(matches!(result, Err(HandshakeError::Refused { verdict: Verdict::TooBusy, size: None })));
    assert_eq!(server.handle_bytes(b"anything"), (0, Event::Continue), "and is not listened to");
}

/// The four messages of a conversation in which the bytes of one are changed by `spoil`.
fn conversation_with(message: usize, spoil: impl Fn(&mut Vec<u8>)) -> (bool, Option<Event>) {
    let (mut client, mut server) = (client(), server());
    let mut number = 0;
    let mut changed = |mut bytes: Vec<u8>| {
        if number == message {
            spoil(&mut bytes);
        }
        number += 1;
        bytes
    };
    let mut last = None;
    for _ in 0..2 {
        let (_, event) = server.handle_bytes(&changed(client.poll_output()));
        last = Some(event);
        if matches!(event, Event::Proved(_)) {
            server.decide(Verdict::Welcome);
        }
        if client.handle_bytes(&changed(server.poll_output())).is_err() {
            break;
        }
    }
    (client.is_welcome(), last)
}

const SIZES: [usize; 4] = [HELLO_BYTES, CHALLENGE_BYTES, PROOF_BYTES, VERDICT_BYTES];

#[test]
fn every_bit_counts() {
    for (message, size) in SIZES.into_iter().enumerate() {
        for bit in 0..size * 8 {
            let (is_welcome, event) = conversation_with(message, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            assert!(!is_welcome, "message {message} with bit {bit} changed was believed by the client");
            let server_believes = matches!(event, Some(Event::Proved(_)));
            assert_eq!(server_believes, message == 3, "message {message} with bit {bit} changed");
        }
    }
}

#[test]
fn a_part_of_a_message_is_waited_for() {
    for (message, size) in SIZES.into_iter().enumerate() {
        for length in 0..size {
            let (is_welcome, event) = conversation_with(message, |bytes| bytes.truncate(length));
            assert!(!is_welcome && !matches!(event, Some(Event::Refused(_))), "message {message}, {length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_convince_nobody(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..8), begin in 0..3usize) {
        let (mut client, mut server) = (client(), server());
        let heads: [&[u8]; 3] = [b"", &HELLO_MAGIC, &[HELLO_MAGIC, VERSION.to_le_bytes()].concat()];
        server.handle_bytes(heads[begin]);
        let challenges: [&[u8]; 3] = [b"", &CHALLENGE_MAGIC, &challenge_head(Verdict::Welcome)[..HEAD_BYTES]];
        let mut client_gave_up = client.handle_bytes(challenges[begin]).is_err();
        for part in &parts {
            let wanted = server.wanted();
            let (taken, event) = server.handle_bytes(part);
            prop_assert!(taken <= wanted.max(HELLO_BYTES + PROOF_BYTES) && !matches!(event, Event::Proved(_)));
            client_gave_up = client_gave_up || client.handle_bytes(part).is_err();
        }
        prop_assert!(!client.is_welcome());
    }

    #[test]
    fn random_proofs_convince_nobody(mut proof in prop::collection::vec(any::<u8>(), PROOF_BYTES), with_magic: bool) {
        let (mut client, mut server) = (client(), server());
        server.handle_bytes(&client.poll_output());
        if with_magic {
            proof[..8].copy_from_slice(&PROOF_MAGIC);
        }
        prop_assert!(matches!(server.handle_bytes(&proof).1, Event::Refused(_)));
    }
}

#[test]
fn keys_match_only_themselves() {
    let key = Key::new([7; 32]);
    let mut other = [7; 32];
    assert!(key.matches(&other));
    other[31] = 8;
    assert!(!key.matches(&other) && !key.matches(&[7; 31]) && !key.matches(&[]));
    assert_eq!(Key::parse(&"07".repeat(32)), Some(key));
    assert!(Key::parse(&"+7".repeat(32)).is_none());
}

/// A listener on the loopback and the result of proving oneself to what `serve` does with the first connection.
fn proved_to(serve: impl FnOnce(TcpStream) + Send, limit: Duration) -> Result<(), HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let (peer, _) = listener.accept().expect("a connection");
    std::thread::scope(|scope| {
        scope.spawn(|| serve(peer));
        let result = prove(&stream, &mut client(), Instant::now() + limit);
        drop(stream);
        result
    })
}

#[test]
fn a_client_may_block_but_not_for_ever() {
    let honest = |mut peer: TcpStream| {
        let mut server = server();
        while server.wanted() > 0 {
            let mut bytes = vec![0; server.wanted()];
            let received = peer.read(&mut bytes).expect("bytes");
            if matches!(server.handle_bytes(&bytes[..received]).1, Event::Proved(_)) {
                server.decide(Verdict::Welcome);
            }
            peer.write_all(&server.poll_output()).expect("it reads");
        }
    };
    assert!(proved_to(honest, Duration::from_secs(60)).is_ok());
    let until_it_goes = |mut peer: TcpStream| drop(peer.read_to_end(&mut Vec::new()));
    let silence = proved_to(until_it_goes, Duration::from_millis(50));
    assert!(matches!(silence, Err(HandshakeError::TimedOut)), "{silence:?}");
    // A byte now and then does not put the deadline off.
    let slow = |mut peer: TcpStream| {
        let begun = Instant::now();
        while peer.write_all(&CHALLENGE_MAGIC[..1]).is_ok() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let slow = proved_to(slow, Duration::from_millis(50));
    assert!(matches!(slow, Err(HandshakeError::TimedOut | HandshakeError::NotPhalanx { .. })), "{slow:?}");
    let web = |mut peer: TcpStream| peer.write_all(b"HTTP/1.1 400 Bad Request").expect("it reads");
    assert!(matches!(proved_to(web, Duration::from_secs(60)), Err(HandshakeError::NotPhalanx { .. })));
    let closed = proved_to(|mut peer| drop(peer.read(&mut [0; HELLO_BYTES])), Duration::from_secs(60));
    assert!(matches!(closed, Err(HandshakeError::Closed)), "{closed:?}");
}
