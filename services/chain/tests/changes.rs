//! Services change while bytes pass: none is lost, doubled or out of order.

mod support;

use freena_service_chain::{Change, MAX_CHUNK, Resolved, State};
use support::{Arrived, End, crypto, key, pair, service, settle};

/// The sets of services that a stream goes through.
fn sets() -> Vec<Vec<Resolved>> {
    let other = key(1);
    vec![
        vec![crypto(&[])],
        vec![service("trace", &[]), crypto(&[("mode", "CBC")])],
        vec![],
        vec![service("compression", &[]), crypto(&[("algorithm", "ChaCha20")])],
        vec![service("crypto", &[("key", &other)])],
        vec![service("auth", &[("key", &other), ("algorithm", "BLAKE3")])],
    ]
}

fn words(number: usize) -> Vec<u8> {
    format!("message {number}, and what is in it; ").repeat(number % 50 + 1).into_bytes()
}

/// Bytes on the way of each direction, delivered in pieces.
struct Wire {
    bytes: [Vec<u8>; 2],
    arrived: [Arrived; 2],
}

impl Wire {
    fn carry(&mut self, ends: &mut [End; 2], most: usize) {
        for side in [0, 1] {
            let sent = ends[side].sends();
            self.bytes[side].extend(sent);
            let piece: Vec<u8> = self.bytes[side].drain(..most.min(self.bytes[side].len())).collect();
            self.arrived[side].take(&piece, &mut ends[1 - side]).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn bytes_go_on_through_many_changes() {
    let sets = sets();
    let (client, server) = pair(&sets[0]);
    let mut ends = [client, server];
    let mut wire = Wire { bytes: Default::default(), arrived: Default::default() };
    let (mut sent, mut number) = ([Vec::new(), Vec::new()], 0);
    for round in 1..400 {
        let next = &sets[round % sets.len()];
        let proposer = round % 2;
        ends[proposer].flow.propose(next, 0).unwrap();
        // Both at once, now and then.
        if round % 7 == 0 {
            ends[1 - proposer].flow.propose(next, 0).unwrap();
        }
        for step in 0.. {
            for side in [0, 1] {
                number += 1;
                let message = words(number);
                ends[side].seal(&message);
                sent[side].extend(message);
                if ends[side].flow.change() == Some(&Change::Proposed) {
                    ends[side].flow.answer(next, 0).unwrap();
                }
            }
            wire.carry(&mut ends, 100 + number % 3000);
            if ends.iter().all(|end| end.flow.changes() == round as u64) {
                break;
            }
            assert!(step < 1000, "round {round}: {:?}", ends.each_ref().map(|it| it.flow.change().cloned()));
        }
    }
    for _ in 0..10_000 {
        wire.carry(&mut ends, MAX_CHUNK);
    }
    assert!(wire.bytes.iter().all(Vec::is_empty));
    for side in [0, 1] {
        assert!(ends[1 - side].received.as_slice() == sent[side], "direction {side}");
    }
}

#[test]
fn a_change_that_the_peer_does_not_want_changes_nothing() {
    let other = key(1);
    let with_key = |path: &str| vec![service("crypto", &[("key", path)])];
    for (proposed, answered, why) in [
        (vec![service("trace", &[])], vec![crypto(&[])], "expected crypto"),
        (vec![], vec![crypto(&[])], "the peer has no services"),
        (vec![crypto(&[("mode", "CBC")])], vec![crypto(&[])], "other parameters"),
        (with_key(&other), with_key(&key(2)), "wrong key"),
    ] {
        let (mut client, mut server) = pair(&[crypto(&[])]);
        client.flow.propose(&proposed, 0).unwrap();
        settle(&mut client, &mut server).unwrap();
        assert_eq!(server.flow.change(), Some(&Change::Proposed));
        assert!(server.flow.propose(&proposed, 0).is_err(), "one at a time");
        server.flow.answer(&answered, 0).unwrap();
        settle(&mut client, &mut server).unwrap();
        let said: Vec<String> = [&client, &server].map(|end| format!("{:?}", end.flow.change())).into();
        assert!(said.iter().all(|it| it.starts_with("Some(Refused(")), "{said:?}");
        assert!(said.iter().any(|it| it.contains(why)), "{said:?}: {why}");
        assert_eq!((client.flow.changes(), server.flow.changes()), (0, 0));
        client.seal(b"as before");
        settle(&mut client, &mut server).unwrap();
        assert_eq!(server.received.as_slice(), b"as before");
        assert_eq!(server.flow.state(), State::Open);
        // And another one may follow.
        server.flow.propose(&[service("trace", &[])], 0).unwrap();
        settle(&mut client, &mut server).unwrap();
        client.flow.answer(&[service("trace", &[])], 0).unwrap();
        settle(&mut client, &mut server).unwrap();
        assert_eq!((client.flow.changes(), server.flow.changes()), (1, 1));
    }
}

#[test]
fn nothing_is_readable_while_one_key_follows_another() {
    let other = key(1);
    let (mut client, mut server) = pair(&[crypto(&[])]);
    let secret = b"the secret that nobody must see on the wire";
    let next = [service("crypto", &[("key", &other)])];
    client.flow.propose(&next, 0).unwrap();
    let (mut up, mut down) = (Arrived::default(), Arrived::default());
    for _ in 0..6 {
        client.seal(secret);
        server.seal(secret);
        let (a, b) = (client.sends(), server.sends());
        for wire in [&a, &b] {
            assert!(!wire.windows(6).any(|seen| secret.windows(6).any(|it| it == seen)));
            assert!(!wire.windows(6).any(|seen| seen == b"crypto"), "not even which services");
        }
        up.take(&a, &mut server).unwrap();
        down.take(&b, &mut client).unwrap();
        server.flow.answer(&next, 0).unwrap();
    }
    assert_eq!((client.flow.changes(), server.flow.changes()), (1, 1));
    assert_eq!(server.received.as_slice(), secret.repeat(6));
    assert_eq!(client.received.as_slice(), secret.repeat(6));
}
