//! Libraries that break the contract, crash, or do not return: their connections are reset, and nothing else happens.

mod support;

use freena_plugin::{Config, Engine, Library};
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{
    Driver, Event, Failure, Flow, Handle, ListenerKey, Options, Path, Protocol, Source,
};
use freena_wire::{Mac, Packet};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Instant;
use support::build::{compile, folder, open};

struct Nobody;

impl Driver for Nobody {
    fn path(&mut self, _: &Flow) -> Option<Path> {
        Some(PATH)
    }
    fn has_room(&mut self, _: ListenerKey) -> bool {
        false
    }
    fn accept(&mut self, _: ListenerKey, _: Handle, _: &Flow) -> Option<u64> {
        None
    }
    fn store(&mut self, _: Handle, _: u64, _: &[u8]) {
        panic!("nothing of this may be stored");
    }
}

impl Source for Nobody {
    fn load(&mut self, _: Handle, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

const PATH: Path = Path { mtu: 1500, max_burst: 1500, max_segments: 1 };

fn library(fault: u32) -> Arc<Library> {
    let folder = folder();
    let source = folder.path().join("made.c");
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries/faulty.c");
    let text = std::fs::read_to_string(path).expect("the source");
    std::fs::write(&source, format!("#define FAULT {fault}\n{text}")).expect("room");
    compile(&source, folder.path(), "libfaulty.so");
    Arc::new(open(folder.path(), "libfaulty.so").expect("it loads"))
}

/// Does with a library what a worker does, once; tells how its connection ended.
fn run(library: &Arc<Library>) -> Vec<Event> {
    let now = Instant::now();
    let mut engine =
        Engine::new(library.clone(), Config { secret: [1; 32], max_connections: 8 }, now).expect("one");
    let flow = Flow { local: [10, 0, 0, 1].into(), local_port: 1, peer: [10, 0, 0, 2].into(), peer_port: 2 };
    let handle = engine.connect(now, flow, PATH, 1 << 20, &Options::default()).expect("room");
    let packet = Packet {
        ether_src: Mac([2; 6]),
        ether_dst: Mac([2; 6]),
        src: flow.peer,
        dst: flow.local,
        protocol: 254,
        ttl: 64,
        tos: 0,
        fragment: None,
        payload: &[0; 64],
        l3: 14,
    };
    let _ = engine.handle_packet(now, &packet, RxChecksum::Unknown, 0, 1, &mut Nobody);
    let mut events: Vec<Event> = std::iter::from_fn(|| engine.poll_event()).collect();
    while engine.poll_transmit(now, &mut Nobody).is_some() {}
    if engine.poll_timeout().is_some_and(|due| due <= now) {
        engine.handle_timeout(now);
    }
    events.extend(std::iter::from_fn(|| engine.poll_event()));
    engine.close(now, handle, false);
    events.extend(std::iter::from_fn(|| engine.poll_event()));
    assert_eq!(engine.poll_timeout(), None);
    events
}

#[test]
fn every_fault_ends_the_connections_of_its_library_only() {
    let expected = [
        (1, "crashed in `handle_packet`: Segmentation fault"),
        (2, "did not return from `handle_packet`"),
        (3, "crashed in `handle_packet`: Floating point exception"),
        (4, "crashed in `handle_packet`: Segmentation fault"),
        (5, "crashed in `handle_packet`: Segmentation fault"),
        (6, "stored 64 bytes at position 1073741824 of connection 0, whose buffer ends at 1048576"),
        (7, "stored bytes for connection 77, which there is not"),
        (8, "answered `handle_packet` with 99"),
        (9, "told of 65 events in room for 64"),
        (10, "position 100, where 0 were received and 0 stored"),
        (11, "the program has not closed it"),
        (12, "connection 5, which there is not"),
        (13, "position 100, where 0 were acknowledged and 0 sent"),
        (14, "no such event"),
        (15, "gave 65 packets in room for 64"),
        (16, "gave 1000 bytes at 0 of connection 0, which has 0"),
        (17, "gave a header of 61 bytes, expected at most 60"),
        (18, "gave a packet of connection 9, which there is not"),
        (19, "gave a packet for no connection with payload"),
        (20, "crashed in `poll_timeout or info`"),
    ];
    for (fault, words) in expected {
        let library = library(fault);
        let events = run(&library);
        let told = library.fault().unwrap_or("nothing");
        assert!(told.contains(words), "fault {fault}: {told}");
        assert_eq!(
            events,
            [Event::Failed(Handle(0), Failure::Reset), Event::Released(Handle(0))],
            "fault {fault}"
        );
        // It is not used again, by nobody.
        let again = Engine::new(library, Config { secret: [1; 32], max_connections: 8 }, Instant::now());
        assert!(again.expect_err("found faulty").to_string().contains(words));
    }
}

#[test]
fn other_workers_find_out() {
    let library = library(1);
    let now = Instant::now();
    let config = Config { secret: [1; 32], max_connections: 8 };
    let mut other = Engine::new(library.clone(), config, now).expect("one");
    let flow = Flow { local: [10, 0, 0, 1].into(), local_port: 1, peer: [10, 0, 0, 2].into(), peer_port: 2 };
    let handle = other.connect(now, flow, PATH, 1 << 20, &Options::default()).expect("room");
    assert_eq!(other.poll_timeout(), None);
    run(&library);
    assert!(other.poll_timeout().is_some_and(|due| due <= now), "there is something to do");
    other.handle_timeout(now);
    assert_eq!(other.poll_event(), Some(Event::Failed(handle, Failure::Reset)));
}
