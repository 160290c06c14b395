//! Streams: the two ends agree or say why not, and what arrives is what was sent, or nothing.

mod support;

use freena_service_chain::{Blocked, Buffer, FlowError, MAX_CHUNK, PATIENCE, Role, State, StreamFlow};
use freena_service_host::Trouble;
use proptest::prelude::*;
use std::io::IoSlice;
use support::{Arrived, End, crypto, flow, key, pair, pair_of, service, settle};

fn patterned(length: usize) -> Vec<u8> {
    (0..length).map(|it| (it * 31 % 251) as u8).collect()
}

#[test]
fn bytes_pass_both_ways_and_each_direction_ends() {
    for mode in ["GCM", "CTR", "CBC"] {
        for size in ["128", "192", "256"] {
            let services = [service("trace", &[]), crypto(&[("mode", mode), ("key_size", size)])];
            let (mut client, mut server) = pair(&services);
            assert_eq!((client.flow.state(), server.flow.state()), (State::Open, State::Open));
            let (up, down) = (patterned(100_000), patterned(3));
            client.seal(&up);
            server.seal(&down);
            client.flow.end(0, &mut client.wire).unwrap();
            settle(&mut client, &mut server).unwrap();
            assert_eq!(server.received.as_slice(), up, "{mode} {size}");
            assert_eq!(client.received.as_slice(), down, "{mode} {size}");
            assert!(server.ended && !client.ended);
            assert_eq!(server.flow.eof(), Ok(()));
            let error = client.flow.seal(0, &[IoSlice::new(b"x")], &mut Buffer::new()).unwrap_err();
            assert_eq!(error.errno(), libc::EPIPE);
            server.seal(b"still");
            settle(&mut client, &mut server).unwrap();
            assert_eq!(client.received.as_slice(), [&down[..], b"still"].concat());
            assert_eq!(
                client.flow.eof(),
                Err(FlowError::Truncated),
                "the server has not ended its direction"
            );
        }
    }
}

#[test]
fn nothing_of_the_program_is_in_what_is_sent() {
    let (mut client, mut server) = pair(&[crypto(&[])]);
    let secret = b"the secret that nobody must see on the wire";
    client.seal(secret);
    let wire = client.sends();
    assert!(!wire.windows(8).any(|seen| secret.windows(8).any(|it| it == seen)));
    Arrived::default().take(&wire, &mut server).unwrap();
    assert_eq!(server.received.as_slice(), secret);
}

#[test]
fn before_the_ends_agree_nothing_is_taken() {
    let mut client = End::new(&[crypto(&[])], Role::Client);
    let sealed = client.flow.seal(0, &[IoSlice::new(b"early")], &mut client.wire).unwrap();
    assert_eq!((sealed.consumed, sealed.blocked), (0, Some(Blocked::Agreement)));
    assert!(client.flow.end(0, &mut client.wire).is_err());
}

#[test]
fn a_wrong_key_is_told_to_both_programs() {
    let key = key(1);
    let other = service("crypto", &[("key", &key)]);
    let (mut client, mut server) = (End::new(&[crypto(&[])], Role::Client), End::new(&[other], Role::Server));
    let error = settle(&mut client, &mut server).unwrap_err();
    assert_eq!(error.errno(), libc::EPERM, "{error}");
    let _ = settle(&mut client, &mut server);
    for end in [&client, &server] {
        let error = end.flow.error().expect("failed");
        assert_eq!(error.errno(), libc::EPERM, "{error}");
        assert_eq!(end.flow.state(), State::Failed);
        assert!(end.received.is_empty());
    }
    assert!(client.flow.error().unwrap().to_string().contains("wrong key"));
    let error = client.flow.seal(0, &[IoSlice::new(b"x")], &mut Buffer::new()).unwrap_err();
    assert_eq!(error.errno(), libc::EPERM, "the same error again");
}

#[test]
fn ends_with_other_services_or_parameters_do_not_agree() {
    let same = || crypto(&[]);
    for (client, server, words) in [
        (
            vec![same()],
            vec![service("trace", &[])],
            "the peer has trace (version 1), expected crypto (version 1)",
        ),
        (
            vec![same()],
            vec![service("trace", &[]), same()],
            "the peer has trace (version 1), crypto (version 1)",
        ),
        (vec![same()], vec![crypto(&[("mode", "cbc")])], "other parameters of the service `crypto`"),
        (vec![same()], vec![crypto(&[("rekey", "5")])], "other parameters"),
    ] {
        let (mut client, mut server) = (End::new(&client, Role::Client), End::new(&server, Role::Server));
        settle(&mut client, &mut server).unwrap_err();
        let _ = settle(&mut client, &mut server);
        let said = [client.flow.error().unwrap(), server.flow.error().unwrap()].map(|it| {
            assert_eq!(it.errno(), libc::EPROTO, "{it}");
            it.to_string()
        });
        assert!(said.iter().any(|it| it.contains(words)), "{said:?}: {words}");
    }
    // What only one end needs to know may differ.
    pair_of(&[crypto(&[("clock-skew", "5")])], &[crypto(&[])]).unwrap();
}

#[test]
fn a_peer_without_freena_is_recognised() {
    for greeting in
        [&b"220 ready\r\n"[..], b"G", b"\xf7x", b"\xf7freenX", b"\x16\x03\x01\x02\x00\x01\x00\x01"]
    {
        for role in [Role::Client, Role::Server] {
            let mut strict = End::new(&[crypto(&[])], role);
            let error = strict.flow.open(0, greeting, &mut strict.received, 1).unwrap_err();
            assert!(matches!(error, FlowError::NotFreena(_)) && error.errno() == libc::EPROTO, "{error}");
            let mut allowed = flow(role, 6);
            allowed.allow_plain = true;
            let mut end = End::of(StreamFlow::new(&[crypto(&[])], allowed, 0).unwrap());
            assert_eq!(end.flow.need(b""), 1);
            assert_eq!(end.flow.need(greeting), 1, "one byte tells");
            let opened = end.flow.open(0, greeting, &mut end.received, 1).unwrap();
            assert_eq!((opened.consumed, end.flow.state()), (0, State::Plain));
            assert!(role == Role::Client || end.sends().is_empty(), "a server has said nothing to it");
        }
    }
    let mut end = End::new(&[crypto(&[])], Role::Server);
    assert!(matches!(end.flow.open(0, b"\xf7freena\x09", &mut end.received, 1), Err(FlowError::Version(9))));
}

#[test]
fn a_silent_peer_ends_it_or_is_plain() {
    let mut client = End::new(&[crypto(&[])], Role::Client);
    assert_eq!(client.flow.deadline(), PATIENCE);
    client.flow.timer(PATIENCE - 1).unwrap();
    assert_eq!(client.flow.timer(PATIENCE).unwrap_err().errno(), libc::ETIMEDOUT);
    let mut allowed = flow(Role::Server, 6);
    allowed.allow_plain = true;
    let mut server = StreamFlow::new(&[crypto(&[])], allowed, 0).unwrap();
    let deadline = server.deadline();
    server.timer(deadline).unwrap();
    assert_eq!(server.state(), State::Plain);
}

#[test]
fn every_damage_ends_the_flow_and_nothing_damaged_arrives() {
    let plain = patterned(40);
    let (mut client, _) = pair(&[crypto(&[])]);
    client.seal(&plain);
    let length = client.sends().len();
    for at in 0..length {
        let (mut client, mut server) = pair(&[crypto(&[])]);
        client.seal(&plain);
        client.flow.end(0, &mut client.wire).unwrap();
        let mut wire = client.sends();
        wire[at] ^= 1 << (at % 8);
        let result = Arrived::default().take(&wire, &mut server);
        assert!(server.received.is_empty(), "byte {at}");
        match result {
            Err(error) => {
                assert!([libc::EBADMSG, libc::EPROTO].contains(&error.errno()), "byte {at}: {error}")
            }
            // A length that has grown: the rest never comes.
            Ok(()) => assert_eq!(server.flow.eof(), Err(FlowError::Truncated), "byte {at}"),
        }
    }
}

#[test]
fn frames_that_are_lost_doubled_swapped_or_reflected_are_refused() {
    let frames = |count: u8| {
        let (mut client, server) = pair(&[crypto(&[])]);
        let frames: Vec<Vec<u8>> = (0..count)
            .map(|number| {
                client.seal(&[number; 10]);
                client.sends()
            })
            .collect();
        (frames, client, server)
    };
    for order in [&[1][..], &[0, 0], &[0, 2, 1], &[2, 1, 0]] {
        let (frames, _client, mut server) = frames(3);
        let wire: Vec<u8> = order.iter().flat_map(|it| frames[*it as usize].clone()).collect();
        let error = Arrived::default().take(&wire, &mut server).unwrap_err();
        assert!(matches!(error, FlowError::Damaged { trouble: Trouble::Forged, .. }), "{order:?}: {error}");
    }
    let (frames, mut client, _server) = frames(1);
    assert_eq!(Arrived::default().take(&frames[0], &mut client).unwrap_err().errno(), libc::EBADMSG);
    // An end that is cut off, and one that is made of data.
    let (mut client, mut server) = pair(&[crypto(&[])]);
    client.seal(b"");
    client.seal(b"something");
    Arrived::default().take(&client.sends(), &mut server).unwrap();
    assert_eq!(server.flow.eof().unwrap_err().errno(), libc::ECONNRESET);
    let (mut client, mut server) = pair(&[crypto(&[])]);
    client.flow.end(0, &mut client.wire).unwrap();
    let mut wire = client.sends();
    wire[0] = 4;
    assert!(Arrived::default().take(&wire, &mut server).is_err(), "an end is not data");
}

#[test]
fn a_recorded_connection_cannot_be_replayed() {
    let services = [crypto(&[])];
    let (mut client, mut server) = (End::new(&services, Role::Client), End::new(&services, Role::Server));
    let mut recorded = client.sends();
    Arrived::default().take(&recorded, &mut server).unwrap();
    Arrived::default().take(&server.sends(), &mut client).unwrap();
    client.seal(b"transfer 100");
    recorded.extend(client.sends());
    let mut again = End::new(&services, Role::Server);
    let error = Arrived::default().take(&recorded, &mut again).unwrap_err();
    assert_eq!(error.errno(), libc::EPERM, "{error}");
    assert!(again.received.is_empty());
    // And an offer sent back is not the peer's.
    let mut client = End::new(&services, Role::Client);
    let offer = client.sends();
    assert_eq!(Arrived::default().take(&offer, &mut client).unwrap_err().errno(), libc::EPROTO);
}

/// A peer whose half of the exchange is none, or leads to the same result whatever the other half is.
#[test]
fn the_exchange_of_keys_must_be_one() {
    let services = [crypto(&[])];
    let mut one = [0; 32];
    one[0] = 1;
    for half in [[0; 32], one] {
        let (mut client, mut server) = (End::new(&services, Role::Client), End::new(&services, Role::Server));
        let mut offer = client.sends();
        // The announcement is the last of an offer.
        let at = offer.len() - 32;
        offer[at..].copy_from_slice(&half);
        let error = Arrived::default().take(&offer, &mut server).unwrap_err();
        assert_eq!(error.errno(), libc::EPERM, "{error}");
        assert!(error.to_string().contains("half of the key exchange"), "{error}");
    }
    // One that was changed on its way is noticed by the proof.
    let (mut client, mut server) = (End::new(&services, Role::Client), End::new(&services, Role::Server));
    let mut offer = client.sends();
    let last = offer.len() - 2;
    offer[last] ^= 1;
    Arrived::default().take(&offer, &mut server).unwrap();
    let error = Arrived::default().take(&server.sends(), &mut client).unwrap_err();
    assert_eq!(error.errno(), libc::EPERM, "{error}");
}

#[test]
fn keys_are_replaced_at_the_same_byte_on_both_ends() {
    let (mut client, mut server) = pair(&[crypto(&[("rekey", "1")])]);
    let plain = patterned(300_000);
    let mut arrived = Arrived::default();
    for _ in 0..12 {
        client.seal(&plain);
        arrived.take(&client.sends(), &mut server).unwrap();
        assert_eq!(server.received.as_slice(), plain);
        server.received.clear();
    }
    let rekeys = |end: &mut End| {
        end.flow.figures().iter().find(|it| it.name == "keys replaced").map(|it| it.value).unwrap()
    };
    assert_eq!((rekeys(&mut client), rekeys(&mut server)), (3, 3));
}

#[test]
fn frames_are_bounded() {
    let (mut client, _) = pair(&[crypto(&[])]);
    client.seal(&vec![0; MAX_CHUNK * 2 + 1]);
    let (wire, mut rest) = (client.sends(), 0);
    let mut frames = Vec::new();
    while rest < wire.len() {
        let length = client.flow.need(&wire[rest..]);
        frames.push(length);
        rest += length;
    }
    assert_eq!(frames, [MAX_CHUNK + 20, MAX_CHUNK + 20, 21]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the program writes and the transport cuts: the bytes arrive, in order, each once.
    #[test]
    fn any_cut_gives_the_same_bytes(
        writes in prop::collection::vec(prop::collection::vec(0usize..40_000, 0..4), 1..8),
        cuts in prop::collection::vec(1usize..30_000, 1..20),
        stack in 0usize..6,
    ) {
        let (trace, compression) = (|| service("trace", &[]), || service("compression", &[]));
        let auth = || service("auth", &[("key", &key(0))]);
        let services = match stack {
            0 => vec![crypto(&[])],
            1 => vec![trace(), crypto(&[])],
            2 => vec![compression(), crypto(&[]), trace()],
            3 => vec![crypto(&[]), compression(), auth()],
            4 => vec![compression(), trace(), compression(), crypto(&[("mode", "CBC")])],
            _ => vec![],
        };
        let (mut client, mut server) = pair(&services);
        let mut sent = Vec::new();
        let mut wire = Vec::new();
        for lengths in &writes {
            let parts: Vec<Vec<u8>> = lengths.iter().map(|it| patterned(*it)).collect();
            let slices: Vec<IoSlice> = parts.iter().map(|it| IoSlice::new(it)).collect();
            let sealed = client.flow.seal(0, &slices, &mut client.wire).unwrap();
            prop_assert_eq!(sealed.consumed, lengths.iter().sum::<usize>());
            sent.extend(parts.concat());
            wire.extend(client.sends());
        }
        let mut arrived = Arrived::default();
        let (mut rest, mut cut) = (&wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cut.next().unwrap()));
            arrived.take(now, &mut server).unwrap();
            rest = later;
        }
        prop_assert!(arrived.0.is_empty());
        prop_assert_eq!(server.received.as_slice(), &sent[..]);
    }

    /// Garbage at any point ends in an error or waits for more; it never panics, and nothing arrives.
    #[test]
    fn garbage_gives_nothing(
        garbage in prop::collection::vec(any::<u8>(), 0..2000),
        agreed in any::<bool>(),
        magic in any::<bool>(),
    ) {
        let mut end = if agreed { pair(&[crypto(&[])]).1 } else { End::new(&[crypto(&[])], Role::Server) };
        let mut bytes = if magic { b"\xf7freena\x01".to_vec() } else { Vec::new() };
        bytes.extend(garbage);
        let _ = Arrived::default().take(&bytes, &mut end);
        end.sends();
        prop_assert!(end.received.is_empty());
    }
}
