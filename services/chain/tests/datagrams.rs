//! Datagrams: each stands for itself, whatever becomes of the others.

mod support;

use freena_service_chain::{Buffer, DatagramFlow, FlowError, Role};
use freena_service_host::Trouble;
use support::{SECOND, crypto, datagrams, flow, key, open, seal, service};

const START: u64 = SECOND;

#[test]
fn messages_pass_in_any_order_each_once() {
    let services = [service("trace", &[]), crypto(&[])];
    let (mut client, mut server) = datagrams(&services, &services);
    let sent: Vec<Vec<u8>> =
        (0..50u8).map(|it| seal(&mut client, START, &vec![it; usize::from(it) * 20])).collect();
    for number in (0..50).rev() {
        let message = open(&mut server, START, &sent[number]).unwrap().unwrap();
        assert_eq!(message, vec![number as u8; number * 20]);
        let again = open(&mut server, START, &sent[number]).unwrap_err();
        assert!(matches!(again, FlowError::Damaged { trouble: Trouble::Replayed, .. }), "{again}");
    }
    let answer = seal(&mut server, START, b"answer");
    assert_eq!(open(&mut client, START, &answer).unwrap().unwrap(), b"answer");
}

#[test]
fn what_is_damaged_is_dropped_and_the_flow_goes_on() {
    for mode in ["GCM", "CTR", "CBC"] {
        let services = [crypto(&[("mode", mode)])];
        let (mut client, mut server) = datagrams(&services, &services);
        let whole = seal(&mut client, START, b"some message");
        for at in 4..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let error = open(&mut server, START, &flipped).unwrap_err();
            assert_eq!(error.errno(), libc::EBADMSG, "{mode}, byte {at}: {error}");
        }
        for cut in 0..whole.len() {
            open(&mut server, START, &whole[..cut]).unwrap_err();
        }
        assert_eq!(open(&mut server, START, &whole).unwrap().unwrap(), b"some message", "{mode}");
    }
}

#[test]
fn replay_is_refused_by_other_flows_and_after_a_restart() {
    let services = [crypto(&[])];
    let (mut client, mut server) = datagrams(&services, &services);
    let sent = seal(&mut client, START, b"once");
    open(&mut server, START, &sent).unwrap();
    let mut another = DatagramFlow::new(&services, flow(Role::Server, 17), START).unwrap();
    assert!(matches!(
        open(&mut another, START, &sent),
        Err(FlowError::Damaged { trouble: Trouble::Replayed, .. })
    ));
    // The same sender goes on with it, as after a change of its address.
    let next = seal(&mut client, START, b"more");
    assert_eq!(open(&mut another, START, &next).unwrap().unwrap(), b"more");
    // Reflected.
    assert!(matches!(
        open(&mut client, START, &next),
        Err(FlowError::Damaged { trouble: Trouble::Replayed, .. })
    ));
    // A receiver that hears of it long after.
    let late = seal(&mut client, START, b"late");
    let mut after = DatagramFlow::new(&services, flow(Role::Server, 17), START).unwrap();
    let error = open(&mut after, START + 200 * SECOND, &late).unwrap_err();
    assert!(matches!(error, FlowError::Damaged { trouble: Trouble::Replayed, .. }), "{error}");
}

#[test]
fn a_sender_takes_a_new_epoch_every_minute() {
    let services = [crypto(&[])];
    let (mut client, mut server) = datagrams(&services, &services);
    let mut epochs = std::collections::HashSet::new();
    for second in 0..200 {
        let now = START + second * SECOND;
        let sent = seal(&mut client, now, b"tick");
        epochs.insert(sent[4..20].to_vec());
        assert_eq!(open(&mut server, now, &sent).unwrap().unwrap(), b"tick", "second {second}");
    }
    assert!((4..=5).contains(&epochs.len()), "{}", epochs.len());
}

#[test]
fn other_services_are_recognised_and_told() {
    let (mut client, mut server) = datagrams(&[crypto(&[])], &[crypto(&[("mode", "CBC")])]);
    let sent = seal(&mut client, START, &[0; 300]);
    let error = open(&mut server, START, &sent).unwrap_err();
    assert_eq!(error.errno(), libc::EPROTO, "{error}");
    let mut offer = Buffer::new();
    assert!(server.transmit(START, &mut offer).unwrap());
    assert!(offer.len() < sent.len(), "no more than was sent");
    open(&mut client, START, offer.as_slice()).unwrap_err();
    assert!(client.mismatch().unwrap().to_string().contains("other parameters of the service `crypto`"));
    open(&mut server, START + 1, &sent).unwrap_err();
    assert!(!server.transmit(START + 1, &mut offer).unwrap(), "once a second");
    // A short one is not answered at all.
    let small = seal(&mut client, START, b"x");
    open(&mut server, START + 2 * SECOND, &small).unwrap_err();
    assert!(!server.transmit(START + 2 * SECOND, &mut offer).unwrap());
}

#[test]
fn a_wrong_key_opens_nothing() {
    let other = key(1);
    let (mut client, mut server) = datagrams(&[crypto(&[])], &[service("crypto", &[("key", &other)])]);
    let sent = seal(&mut client, START, b"secret");
    assert_eq!(open(&mut server, START, &sent).unwrap_err().errno(), libc::EBADMSG);
}

#[test]
fn plain_datagrams_need_a_rule() {
    let (_, mut server) = datagrams(&[crypto(&[])], &[crypto(&[])]);
    for plain in [&b""[..], b"x", b"plain text", b"\xf7\x1fxyzw"] {
        assert!(matches!(open(&mut server, START, plain), Err(FlowError::NotFreena(_))), "{plain:?}");
        let mut allowed = flow(Role::Server, 17);
        allowed.allow_plain = true;
        let mut server = DatagramFlow::new(&[crypto(&[])], allowed, START).unwrap();
        assert_eq!(open(&mut server, START, plain).unwrap().unwrap(), plain);
    }
}

#[test]
fn messages_that_cannot_fit_are_refused() {
    let (mut client, _) = datagrams(&[crypto(&[])], &[crypto(&[])]);
    let most = client.max_message(1472);
    assert_eq!(most, 1472 - 4 - 20 - 16);
    assert_eq!(seal(&mut client, START, &vec![0; most]).len(), 1472);
    let error = client.seal(START, &vec![0; 65_507], &mut Buffer::new()).unwrap_err();
    assert_eq!(error.errno(), libc::EMSGSIZE);
}
