//! What a service is in Rust.

use crate::Message;
use crate::abi::*;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// No deadline.
pub const NEVER: u64 = FREENA_SERVICE_NEVER;

/// What a service is, the same for all flows.
#[derive(Clone, Copy)]
pub struct Info {
    /// Its name.
    pub name: &'static CStr,
    /// What it does, in one sentence.
    pub about: &'static CStr,
    /// Version of what goes over the wire.
    pub version: u32,
    /// FREENA_SERVICE_STREAM, FREENA_SERVICE_DATAGRAM, or both.
    pub kinds: u32,
    /// Its parameters.
    pub parameters: &'static [FreenaServiceParameter],
}

/// Makes entries of the table of parameters.
pub mod parameter {
    use super::*;
    use std::ptr::null;

    const fn entry(name: &'static CStr, kind: u32, meaning: &'static CStr) -> FreenaServiceParameter {
        FreenaServiceParameter {
            name: name.as_ptr(),
            meaning: meaning.as_ptr(),
            unit: null(),
            preset: null(),
            choices: null(),
            kind,
            agreed: 0,
            minimum: 0,
            maximum: 0,
        }
    }

    /// A number with its bounds, both included.
    pub const fn number(
        name: &'static CStr,
        unit: &'static CStr,
        minimum: i64,
        maximum: i64,
        preset: &'static CStr,
        meaning: &'static CStr,
    ) -> FreenaServiceParameter {
        FreenaServiceParameter {
            unit: unit.as_ptr(),
            minimum,
            maximum,
            preset: preset.as_ptr(),
            ..entry(name, FREENA_SERVICE_NUMBER, meaning)
        }
    }

    /// `true` or `false`.
    pub const fn boolean(
        name: &'static CStr,
        preset: &'static CStr,
        meaning: &'static CStr,
    ) -> FreenaServiceParameter {
        FreenaServiceParameter { preset: preset.as_ptr(), ..entry(name, FREENA_SERVICE_BOOLEAN, meaning) }
    }

    /// One of `choices`, which have `|` between them.
    pub const fn choice(
        name: &'static CStr,
        choices: &'static CStr,
        preset: &'static CStr,
        meaning: &'static CStr,
    ) -> FreenaServiceParameter {
        FreenaServiceParameter {
            choices: choices.as_ptr(),
            preset: preset.as_ptr(),
            ..entry(name, FREENA_SERVICE_CHOICE, meaning)
        }
    }

    /// The path of a file, which must be given if there is no `preset`.
    pub const fn file(
        name: &'static CStr,
        preset: Option<&'static CStr>,
        meaning: &'static CStr,
    ) -> FreenaServiceParameter {
        let preset = match preset {
            Some(preset) => preset.as_ptr(),
            None => null(),
        };
        FreenaServiceParameter { preset, ..entry(name, FREENA_SERVICE_FILE, meaning) }
    }

    /// The same, but both ends must have the same value.
    pub const fn agreed(entry: FreenaServiceParameter) -> FreenaServiceParameter {
        FreenaServiceParameter { agreed: 1, ..entry }
    }
}

/// Bytes or datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A flow of bytes.
    Stream,
    /// A flow of datagrams.
    Datagram,
}

/// The part of this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opened the flow.
    Client,
    /// It was reached by the flow.
    Server,
}

/// The flow that a service is inserted into.
#[derive(Clone, Copy, Debug)]
pub struct Flow(pub(crate) FreenaServiceFlow);

impl Flow {
    /// Bytes or datagrams.
    pub fn kind(&self) -> Kind {
        if self.0.kind == FREENA_SERVICE_DATAGRAM { Kind::Datagram } else { Kind::Stream }
    }

    /// The part of this end.
    pub fn role(&self) -> Role {
        if self.0.role == FREENA_SERVICE_CLIENT { Role::Client } else { Role::Server }
    }

    /// Own address and port.
    pub fn local(&self) -> SocketAddr {
        address(self.0.local, self.0.local_port)
    }

    /// Peer's address and port.
    pub fn peer(&self) -> SocketAddr {
        address(self.0.peer, self.0.peer_port)
    }
}

fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(), port)
}

/// What a flow is opened with.
pub struct Setup<'a> {
    pub(crate) values: Vec<(&'a str, &'a str)>,
    pub(crate) flow: Flow,
    pub(crate) now: u64,
    pub(crate) wall: u64,
}

impl Setup<'_> {
    /// The value of a parameter, which keeps to the table; `None` where none is given and there is no preset.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(it, _)| *it == name).map(|(_, value)| *value)
    }

    /// The value of a number.
    ///
    /// # Errors
    /// Where the table says that it need not be given, or that it is none.
    pub fn number(&self, name: &str) -> Result<u64, Refusal> {
        let value = self.value(name).and_then(|value| value.parse().ok());
        value.ok_or_else(|| Refusal::new(Trouble::Parameter, format!("`{name}` is no number")))
    }

    /// Whether the value is `true`.
    pub fn is(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The flow.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Nanoseconds on a clock that never goes back.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Seconds since 1970.
    pub fn wall(&self) -> u64 {
        self.wall
    }
}

/// How messages are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// [`Message::input`] is only looked at.
    Look,
    /// [`Message::parts`] are changed in place.
    InPlace,
    /// [`Message::rewrite`] reads in one place and writes in another.
    Rewrite,
}

/// What a service promises of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// How `outbound` works.
    pub outbound: Mode,
    /// How `inbound` works.
    pub inbound: Mode,
    /// Most bytes that `outbound` adds at the beginning.
    pub head: u32,
    /// Most bytes that `outbound` adds at the end; with [`Mode::Rewrite`], at all.
    pub tail: u32,
    /// Most bytes that `inbound` makes of one message; 0 for "no more than the message has".
    pub inflated: u32,
    /// Code point to send with.
    pub dscp: Option<u8>,
    /// SO_PRIORITY to send with.
    pub priority: Option<u8>,
    /// Most bytes a second that the transport is to be paced at.
    pub pacing: Option<u32>,
}

impl Promise {
    /// To look, and change nothing.
    pub const LOOK: Promise = Promise {
        outbound: Mode::Look,
        inbound: Mode::Look,
        head: 0,
        tail: 0,
        inflated: 0,
        dscp: None,
        priority: None,
        pacing: None,
    };
}

/// What both ends have told each other: [`FreenaServiceAgreement`].
pub struct Agreement<'a> {
    /// What the peer's service of this name has announced.
    pub announcement: &'a [u8],
    /// Random bytes of this end.
    pub own_nonce: &'a [u8; 32],
    /// Random bytes of the peer.
    pub peer_nonce: &'a [u8; 32],
    /// SHA-256 of all that both ends have announced, the client's first.
    pub transcript: &'a [u8; 32],
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Trouble {
    /// The message is not what the peer has sent, or was made with another key.
    Forged = FREENA_SERVICE_FORGED,
    /// It has been seen before, or is too old to tell.
    Replayed = FREENA_SERVICE_REPLAYED,
    /// It cannot have been made by the peer's service.
    Malformed = FREENA_SERVICE_MALFORMED,
    /// The peer has another key.
    Key = FREENA_SERVICE_KEY,
    /// The peer's settings do not go with those of this end.
    Mismatch = FREENA_SERVICE_MISMATCH,
    /// A parameter is wrong, or what it names cannot be used.
    Parameter = FREENA_SERVICE_PARAMETER,
    /// The service has failed.
    Fault = FREENA_SERVICE_FAULT,
}

/// Why a flow is not begun.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The kind of reason.
    pub trouble: Trouble,
    /// In words.
    pub why: String,
}

impl Refusal {
    /// A reason with its words.
    pub fn new(trouble: Trouble, why: impl Into<String>) -> Self {
        Self { trouble, why: why.into() }
    }
}

/// What has become of a message.
pub type Verdict = Result<Passed, Trouble>;

/// What has become of a message that is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It goes on.
    On,
    /// There is nothing to pass on.
    Nothing,
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One more message of the peer is needed; so many bytes were written for it.
    More(usize),
    /// This end needs no more; so many bytes were written for the peer.
    Done(usize),
}

/// Takes a flow's figures.
pub type Figures<'a> = &'a mut dyn FnMut(&'static CStr, u64);

/// A service in one flow. The order of calls: `open`; of streams `announce`, `agree` and `handshake`; then all others, by one
/// thread at a time.
pub trait Service: Sized {
    /// What it is.
    const INFO: Info;

    /// Begins a flow.
    ///
    /// # Errors
    /// Why the flow cannot have this service: the flow is not begun.
    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal>;

    /// Writes what the peer is to know into `out`, and tells how many bytes.
    fn announce(&mut self, out: &mut [u8]) -> usize {
        let _ = out;
        0
    }

    /// What the peer has announced. Of streams only.
    ///
    /// # Errors
    /// Why the two do not agree: the flow ends.
    fn agree(&mut self, agreement: &Agreement<'_>) -> Result<(), Refusal> {
        let _ = agreement;
        Ok(())
    }

    /// Whether [`Service::handshake`] is needed.
    const HAS_HANDSHAKE: bool = false;

    /// One step of a handshake: the client begins, without input.
    ///
    /// # Errors
    /// Why it has failed: the flow ends.
    fn handshake(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Refusal> {
        let _ = (input, out);
        Ok(Step::Done(0))
    }

    /// A message on its way to the peer.
    ///
    /// # Errors
    /// The flow ends.
    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict;

    /// A message on its way from the peer.
    ///
    /// # Errors
    /// A stream ends; a datagram is dropped and counted.
    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict;

    /// Whether [`Service::admit`] may hold messages back.
    const HOLDS_BACK: bool = false;

    /// When a message of `length` bytes may go; 0 for now. Asked only of services that [`Service::HOLDS_BACK`].
    fn admit(&mut self, now: u64, length: usize) -> u64 {
        let _ = (now, length);
        0
    }

    /// A message of one's own to the peer, or one that was kept, by [`Message::rewrite`].
    ///
    /// # Errors
    /// The flow ends.
    fn extra_outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let _ = message;
        Ok(Passed::Nothing)
    }

    /// Whether [`Service::extra_inbound`] may have messages: sockets are then read such that a program sees all of them.
    const RESTORES: bool = false;

    /// A message for the program that has not arrived as such. Asked only of services that [`Service::RESTORES`].
    ///
    /// # Errors
    /// The flow ends.
    fn extra_inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let _ = message;
        Ok(Passed::Nothing)
    }

    /// When [`Service::timer`] is to be called.
    fn deadline(&self) -> u64 {
        NEVER
    }

    /// The deadline has passed.
    fn timer(&mut self, now: u64) {
        let _ = now;
    }

    /// Tells the flow's figures.
    fn statistics(&self, figure: Figures<'_>) {
        let _ = figure;
    }
}
