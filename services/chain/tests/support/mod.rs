//! Two ends of a flow in one process, with services from the libraries that were built beside the tests.
#![allow(dead_code, reason = "each test uses a part of it")]

use freena_service_chain::{Buffer, DatagramFlow, Flow, FlowError, Resolved, Role, StreamFlow};
use freena_service_host::{Checked, Library};
use std::fs;
use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A second.
pub const SECOND: u64 = 1_000_000_000;

/// The folder that cargo builds the libraries into.
pub fn folder() -> PathBuf {
    std::env::current_exe().expect("a path").parent().expect("a folder").to_owned()
}

pub fn library(name: &str) -> Arc<Library> {
    let path = Library::find(&[folder()], name, None).expect("built beside the tests");
    // SAFETY: it is of this workspace.
    Arc::new(unsafe { Library::open(&path) }.expect("a library"))
}

pub fn service(name: &str, parameters: &[(&str, &str)]) -> Resolved {
    let library = library(name);
    let parameters =
        Checked::new(name, library.parameters(), parameters).unwrap_or_else(|error| panic!("{error}"));
    Resolved { library, parameters }
}

/// Key files: `key(0)` and `key(1)` differ.
pub fn key(number: u8) -> String {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..3u8 {
            let path = folder.path().join(number.to_string());
            fs::write(&path, format!("freena-key 1 shared {}\n", format!("{:02x}", number + 1).repeat(32)))
                .expect("a file");
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its mode");
        }
        folder
    });
    Path::new(folder.path()).join(number.to_string()).display().to_string()
}

pub fn crypto(more: &[(&str, &str)]) -> Resolved {
    let key = key(0);
    let mut parameters = vec![("key", key.as_str())];
    parameters.extend(more);
    service("crypto", &parameters)
}

pub fn flow(role: Role, transport: u8) -> Flow {
    let (client, server) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:21".parse().unwrap());
    let (local, peer) = if role == Role::Client { (client, server) } else { (server, client) };
    Flow { transport, role, local, peer, allow_plain: false }
}

/// One end of a stream, and what is on its way to the other.
pub struct End {
    pub flow: StreamFlow,
    pub wire: Buffer,
    pub received: Buffer,
    pub ended: bool,
}

impl End {
    pub fn new(services: &[Resolved], role: Role) -> Self {
        Self::of(StreamFlow::new(services, flow(role, 6), 0).expect("a flow"))
    }

    pub fn of(flow: StreamFlow) -> Self {
        Self { flow, wire: Buffer::new(), received: Buffer::new(), ended: false }
    }

    /// The bytes that this end sends now.
    pub fn sends(&mut self) -> Vec<u8> {
        self.flow.transmit(0, &mut self.wire);
        let bytes = self.wire.as_slice().to_vec();
        self.wire.clear();
        bytes
    }

    pub fn seal(&mut self, plain: &[u8]) {
        let sealed = self.flow.seal(0, &[IoSlice::new(plain)], &mut self.wire).expect("sealed");
        assert_eq!((sealed.consumed, sealed.blocked), (plain.len(), None));
    }
}

/// Bytes that have arrived, whole frames of which are opened.
#[derive(Default)]
pub struct Arrived(pub Vec<u8>);

impl Arrived {
    pub fn take(&mut self, bytes: &[u8], end: &mut End) -> Result<(), FlowError> {
        self.0.extend(bytes);
        loop {
            let need = end.flow.need(&self.0);
            let opened = end.flow.open(0, &self.0, &mut end.received, usize::MAX)?;
            end.ended |= opened.end;
            self.0.drain(..opened.consumed);
            if opened.consumed == 0 {
                assert!(need > self.0.len() || end.flow.state() == freena_service_chain::State::Plain);
                return Ok(());
            }
            assert!(need <= opened.consumed, "{need} bytes were needed, {} were taken", opened.consumed);
        }
    }
}

/// Has the two talk until both are silent.
pub fn settle(client: &mut End, server: &mut End) -> Result<(), FlowError> {
    let (mut to_server, mut to_client) = (Arrived::default(), Arrived::default());
    loop {
        let (a, b) = (client.sends(), server.sends());
        if a.is_empty() && b.is_empty() {
            return Ok(());
        }
        let first = to_server.take(&a, server);
        let second = to_client.take(&b, client);
        first.and(second)?;
    }
}

/// Two ends that agree.
pub fn pair(services: &[Resolved]) -> (End, End) {
    pair_of(services, services).unwrap_or_else(|error| panic!("{error}"))
}

pub fn pair_of(client: &[Resolved], server: &[Resolved]) -> Result<(End, End), FlowError> {
    let (mut client, mut server) = (End::new(client, Role::Client), End::new(server, Role::Server));
    settle(&mut client, &mut server)?;
    Ok((client, server))
}

/// Two ends of a flow of datagrams.
pub fn datagrams(client: &[Resolved], server: &[Resolved]) -> (DatagramFlow, DatagramFlow) {
    let make = |services, role| DatagramFlow::new(services, flow(role, 17), SECOND).expect("a flow");
    (make(client, Role::Client), make(server, Role::Server))
}

pub fn seal(flow: &mut DatagramFlow, now: u64, message: &[u8]) -> Vec<u8> {
    let mut out = Buffer::new();
    let sealed = flow.seal(now, message, &mut out).expect("sealed");
    assert_eq!(sealed.blocked, None);
    out.as_slice().to_vec()
}

pub fn open(flow: &mut DatagramFlow, now: u64, datagram: &[u8]) -> Result<Option<Vec<u8>>, FlowError> {
    let mut out = Buffer::new();
    match flow.open(now, datagram, &mut out)? {
        freena_service_chain::Arrived::Message(length) => {
            assert_eq!(length, out.len());
            Ok(Some(out.as_slice().to_vec()))
        }
        freena_service_chain::Arrived::Nothing => Ok(None),
        freena_service_chain::Arrived::Plain => Ok(Some(datagram.to_vec())),
    }
}
