//! What arrives on flows with services. The service is one that only looks: whatever the fuzzer makes up gets as far as it can.

use freena_service_chain::{Buffer, Change, DatagramFlow, Flow, Plan, Resolved, Role, State, StreamFlow};
use freena_service_host::{Checked, Library};
use std::sync::{Arc, LazyLock};

static SERVICES: LazyLock<[Resolved; 1]> = LazyLock::new(|| {
    // SAFETY: it is of this workspace, and lives as long as the program.
    let library = unsafe { Library::built_in(&freena_service_trace::freena_service) };
    let library = Arc::new(library.expect("a service"));
    let none: [(&str, &str); 0] = [];
    let parameters = Checked::new("trace", library.parameters(), &none).expect("presets");
    [Resolved { library, parameters }]
});

fn flow(role: Role, allow_plain: bool) -> Flow {
    Flow {
        transport: 6,
        role,
        local: ([10, 0, 0, 1], 1).into(),
        peer: ([10, 0, 0, 2], 2).into(),
        allow_plain,
    }
}

/// Anything instead of the peer's bytes, before or after the two ends have agreed, in pieces: an error that stays, or
/// progress by whole frames, as far as `need` has said.
pub fn service_stream(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Client } else { Role::Server };
    let mut it = StreamFlow::new(&*SERVICES, flow(role, choice & 2 != 0), 0).expect("a flow");
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    if choice & 4 != 0 {
        agree(&mut it, role);
    }
    let piece = usize::from(choice >> 3) * 8 + 1;
    let (mut there, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        there.extend_from_slice(now);
        rest = later;
        let need = it.need(&there);
        let before = plain.len();
        match it.open(0, &there, &mut plain, usize::MAX) {
            Ok(opened) => {
                assert_eq!(plain.len() - before, opened.produced);
                assert!(opened.consumed == 0 || need <= there.len(), "more was taken than was needed");
                there.drain(..opened.consumed);
            }
            Err(error) => {
                assert_eq!(it.state(), State::Failed);
                assert_eq!(it.error(), Some(&error));
                assert!(error.errno() > 0 && !error.to_string().is_empty());
            }
        }
        if it.change() == Some(&Change::Proposed) && it.error().is_none() {
            let _ = it.answer(&*SERVICES, 0);
        }
        it.transmit(0, &mut wire);
        wire.clear();
    }
}

/// Has `it` agree with a peer, whose bytes the fuzzer makes from then on.
fn agree(it: &mut StreamFlow, role: Role) {
    let other = if role == Role::Client { Role::Server } else { Role::Client };
    let mut peer = StreamFlow::new(&*SERVICES, flow(other, false), 0).expect("a flow");
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    for _ in 0..3 {
        it.transmit(0, &mut wire);
        peer.open(0, wire.as_slice(), &mut plain, 1).expect("the offer");
        wire.clear();
        peer.transmit(0, &mut wire);
        it.open(0, wire.as_slice(), &mut plain, 1).expect("the offer");
        wire.clear();
    }
    assert_eq!(it.state(), State::Open);
}

/// Anything instead of the peer's datagrams; and a plan, which is read as it was written or refused.
pub fn service_datagram(bytes: &[u8]) {
    let mut it = DatagramFlow::new(&*SERVICES, flow(Role::Server, false), 0).expect("a flow");
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    for (now, datagram) in bytes.chunks(97).enumerate() {
        let _ = it.open(now as u64, datagram, &mut plain);
        while it.transmit(now as u64, &mut wire).expect("an offer") {
            assert!(wire.len() <= 97, "more is answered than was sent");
            wire.clear();
        }
    }
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(plan) = Plan::decode(text)
    {
        assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
    }
}
