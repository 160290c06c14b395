//! The C ABI of a service. `include/freena_service.h` is made from this file by `cargo xtask header`.
//!
//! The comments here are those of the header: they are written for whoever writes a service in C.

use std::ffi::{c_char, c_void};

/// Version of this interface. A library with another one is refused.
pub const FREENA_SERVICE_ABI: u32 = 1;
/// No deadline.
pub const FREENA_SERVICE_NEVER: u64 = u64::MAX;

/// A flow of bytes: the service gets it in chunks, and the peer's service gets the same chunks in the same order.
pub const FREENA_SERVICE_STREAM: u32 = 1;
/// A flow of datagrams: any of them may be lost, arrive twice, or overtake others.
pub const FREENA_SERVICE_DATAGRAM: u32 = 2;

/// This end opened the flow.
pub const FREENA_SERVICE_CLIENT: u32 = 1;
/// This end was reached by the flow.
pub const FREENA_SERVICE_SERVER: u32 = 2;

/// The bytes are only looked at.
pub const FREENA_SERVICE_LOOK: u32 = 0;
/// The message is changed where it stands, with room before and behind it as promised.
pub const FREENA_SERVICE_IN_PLACE: u32 = 1;
/// The message is read in one place and written anew in another.
pub const FREENA_SERVICE_REWRITE: u32 = 2;

/// Go on: what every function returns when all is well.
pub const FREENA_SERVICE_OK: u32 = 0;
/// There is nothing to pass on. Of `outbound` and `inbound`: the service has kept the message, or it was for the service alone.
pub const FREENA_SERVICE_NOTHING: u32 = 1;
/// Of `handshake`: one more message of the peer is needed.
pub const FREENA_SERVICE_MORE: u32 = 2;
/// The message is not what the peer has sent, or was made with another key.
pub const FREENA_SERVICE_FORGED: u32 = 16;
/// The message has been seen before, or is too old to tell.
pub const FREENA_SERVICE_REPLAYED: u32 = 17;
/// The message cannot have been made by the peer's service of that name.
pub const FREENA_SERVICE_MALFORMED: u32 = 18;
/// The peer has another key, or none that is known here.
pub const FREENA_SERVICE_KEY: u32 = 19;
/// The peer's settings do not go with those of this end.
pub const FREENA_SERVICE_MISMATCH: u32 = 20;
/// A parameter is wrong, or what it names cannot be used.
pub const FREENA_SERVICE_PARAMETER: u32 = 21;
/// The service has failed. It is not called again for this flow but to close it.
pub const FREENA_SERVICE_FAULT: u32 = 22;

/// What of a flow a message is. Services that authenticate must cover it, so that nobody can make one of the other.
pub const FREENA_SERVICE_DATA: u32 = 1;
/// The end of the direction, an empty message.
pub const FREENA_SERVICE_END: u32 = 2;
/// The first message after the agreement, empty: that it is undamaged proves that the peer has the key.
pub const FREENA_SERVICE_CONFIRM: u32 = 3;
/// A message of the framework itself.
pub const FREENA_SERVICE_CONTROL: u32 = 4;

/// A number from `minimum` to `maximum`.
pub const FREENA_SERVICE_NUMBER: u32 = 1;
/// `true` or `false`.
pub const FREENA_SERVICE_BOOLEAN: u32 = 2;
/// One of `choices`; upper and lower case are one.
pub const FREENA_SERVICE_CHOICE: u32 = 3;
/// The absolute path of a file.
pub const FREENA_SERVICE_FILE: u32 = 4;
/// Text of at most `maximum` bytes.
pub const FREENA_SERVICE_TEXT: u32 = 5;

/// A parameter that the service takes. Strings end with 0 and are in UTF-8.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceParameter {
    /// Its name: lower case letters, digits, `_` and `-`.
    pub name: *const c_char,
    /// What it means, in one sentence or a few.
    pub meaning: *const c_char,
    /// Unit of a number, or null.
    pub unit: *const c_char,
    /// Value where none is given; null if one must be given.
    pub preset: *const c_char,
    /// Of FREENA_SERVICE_CHOICE: the values with `|` between them, else null.
    pub choices: *const c_char,
    /// One of FREENA_SERVICE_NUMBER and the others.
    pub kind: u32,
    /// 1 if both ends must have the same value: else they do not agree.
    pub agreed: u32,
    /// Least value of a number.
    pub minimum: i64,
    /// Greatest value of a number, or most bytes of a text.
    pub maximum: i64,
}

/// A parameter's value for a flow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceValue {
    /// The parameter's name.
    pub name: *const c_char,
    /// Its value, which has been checked against the table.
    pub value: *const c_char,
}

/// The flow. Addresses are IPv6; IPv4 ones are mapped (::ffff:a.b.c.d). Ports are in the host's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreenaServiceFlow {
    /// FREENA_SERVICE_STREAM or FREENA_SERVICE_DATAGRAM.
    pub kind: u32,
    /// FREENA_SERVICE_CLIENT or FREENA_SERVICE_SERVER.
    pub role: u32,
    /// IP protocol number of the transport.
    pub transport: u32,
    /// Own port, 0 where it is not known.
    pub local_port: u16,
    /// Peer's port, 0 where it is not known.
    pub peer_port: u16,
    /// Own address.
    pub local: [u8; 16],
    /// Peer's address.
    pub peer: [u8; 16],
}

/// Room for a reason in words.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceText {
    /// Where to write it, without a 0 at the end.
    pub text: *mut c_char,
    /// Bytes that there is room for.
    pub capacity: usize,
    /// Bytes written.
    pub length: usize,
}

/// What the service promises of a flow, before the first message. It is held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreenaServicePromise {
    /// FREENA_SERVICE_LOOK, _IN_PLACE or _REWRITE: how `outbound` works.
    pub outbound: u32,
    /// The same for `inbound`.
    pub inbound: u32,
    /// Most bytes by which `outbound` makes a message longer at its beginning.
    pub head: u32,
    /// Most bytes by which `outbound` makes a message longer at its end; with _REWRITE, longer at all.
    pub tail: u32,
    /// Most bytes that `inbound` makes of one message, 0 for "no more than the message has".
    pub inflated: u32,
    /// Differentiated services code point to send with (0 to 63), or UINT32_MAX to leave it as it is.
    pub dscp: u32,
    /// SO_PRIORITY to send with (0 to 6), or UINT32_MAX to leave it as it is.
    pub priority: u32,
    /// Most bytes a second that the transport is to be paced at (SO_MAX_PACING_RATE), 0 for no bound.
    pub pacing: u32,
}

/// What a flow is opened with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceSetup {
    /// Size of this structure.
    pub size: u32,
    /// Number of values: one for each parameter of the table that has a value or a preset.
    pub value_count: u32,
    /// The values, in the order of the table. Valid during the call.
    pub values: *const FreenaServiceValue,
    /// The flow.
    pub flow: FreenaServiceFlow,
    /// Nanoseconds on a clock that never goes back.
    pub now: u64,
    /// Seconds since 1970, for what must be compared between hosts.
    pub wall: u64,
    /// To be filled in: what the service promises.
    pub promise: FreenaServicePromise,
}

/// What both ends have told each other. Both have the same; only the order of own and peer's differs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceAgreement {
    /// Size of this structure.
    pub size: u32,
    /// Bytes of the peer's announcement.
    pub announcement_length: u32,
    /// What the peer's service of this name has announced. Valid during the call.
    pub announcement: *const u8,
    /// Random bytes of this end, fresh for each flow.
    pub own_nonce: [u8; 32],
    /// Random bytes of the peer.
    pub peer_nonce: [u8; 32],
    /// SHA-256 of all that both ends have announced, the client's first. Keys derived from it are of this flow only.
    pub transcript: [u8; 32],
}

/// A message on its way through the service.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceMessage {
    /// FREENA_SERVICE_DATA and others.
    pub kind: u32,
    /// To be set to 1 if `extra_outbound` (of `outbound`) or `extra_inbound` (of `inbound`) has something now.
    pub extra: u32,
    /// Nanoseconds on the clock of the set-up.
    pub now: u64,
    /// _LOOK and _REWRITE: the message. Null with _IN_PLACE.
    pub input: *const u8,
    /// Bytes of it.
    pub input_length: usize,
    /// _IN_PLACE: memory that holds the message, and _REWRITE: memory for the result. Null with _LOOK.
    pub memory: *mut u8,
    /// Bytes of `memory`.
    pub capacity: usize,
    /// Where in `memory` the message begins. With _REWRITE, where the result is to begin. To be set by the service, not by
    /// more than what it has promised.
    pub start: usize,
    /// Bytes of the message in `memory`. To be set by the service.
    pub length: usize,
}

/// A figure of a flow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaServiceStatistic {
    /// Its name, a string of the library that lives on.
    pub name: *const c_char,
    /// Its value.
    pub value: u64,
}

/// A service: what the symbol `freena_service` of the library is. All functions of one flow are called by one thread at a
/// time, but not always by the same.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaService {
    /// FREENA_SERVICE_ABI.
    pub abi: u32,
    /// Size of this structure.
    pub size: u32,
    /// Its name: 1 to 31 lower case letters, digits, `-` and `_`. Both ends must use the same.
    pub name: *const c_char,
    /// What it does, in one sentence.
    pub about: *const c_char,
    /// Version of what goes over the wire. Both ends must have the same.
    pub version: u32,
    /// FREENA_SERVICE_STREAM and FREENA_SERVICE_DATAGRAM, added up: the flows that it can be inserted into.
    pub kinds: u32,
    /// Its parameters.
    pub parameters: *const FreenaServiceParameter,
    /// Number of parameters, at most 64.
    pub parameter_count: u32,
    /// Always 0.
    pub pad: u32,
    /// Begins a flow: puts a handle into `instance`, and fills in the promise.
    pub open: Option<
        unsafe extern "C" fn(
            setup: *mut FreenaServiceSetup,
            instance: *mut *mut c_void,
            why: *mut FreenaServiceText,
        ) -> u32,
    >,
    /// Ends a flow.
    pub close: Option<unsafe extern "C" fn(instance: *mut c_void)>,
    /// Writes what the peer's service is to know before the first message, at most `capacity` bytes, and returns how many.
    /// May be null.
    pub announce: Option<unsafe extern "C" fn(instance: *mut c_void, out: *mut u8, capacity: usize) -> usize>,
    /// Tells what the peer has announced. FREENA_SERVICE_OK, _KEY or _MISMATCH. May be null. Not called for datagrams, whose
    /// peer may never have heard of this end: a service for datagrams puts what the peer must know into each of them.
    pub agree: Option<
        unsafe extern "C" fn(
            instance: *mut c_void,
            agreement: *const FreenaServiceAgreement,
            why: *mut FreenaServiceText,
        ) -> u32,
    >,
    /// Further messages before the flow can begin, of streams only. The client is called first, without a message; then each
    /// end with what the other has written to `out`. FREENA_SERVICE_OK when this end needs no more, _MORE, or what went
    /// wrong. May be null.
    pub handshake: Option<
        unsafe extern "C" fn(
            instance: *mut c_void,
            input: *const u8,
            input_length: usize,
            out: *mut u8,
            capacity: usize,
            length: *mut usize,
            why: *mut FreenaServiceText,
        ) -> u32,
    >,
    /// A message on its way to the peer.
    pub outbound:
        Option<unsafe extern "C" fn(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32>,
    /// A message on its way from the peer. Anything but FREENA_SERVICE_OK and _NOTHING ends a stream; a datagram is dropped,
    /// and counted.
    pub inbound:
        Option<unsafe extern "C" fn(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32>,
    /// When a message of `length` bytes may go: 0 or a time that has passed for now. May be null.
    pub admit: Option<unsafe extern "C" fn(instance: *mut c_void, now: u64, length: usize) -> u64>,
    /// A message of the service's own to the peer, or one that it had kept: as `outbound` with _REWRITE, without input.
    /// FREENA_SERVICE_NOTHING if there is none. May be null.
    pub extra_outbound:
        Option<unsafe extern "C" fn(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32>,
    /// A message for the program that has not arrived as such, or one that the service had kept. May be null.
    pub extra_inbound:
        Option<unsafe extern "C" fn(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32>,
    /// When `timer` is to be called, or FREENA_SERVICE_NEVER. May be null.
    pub deadline: Option<unsafe extern "C" fn(instance: *mut c_void) -> u64>,
    /// The deadline has passed. `extra_outbound` and `extra_inbound` are asked afterwards. May be null.
    pub timer: Option<unsafe extern "C" fn(instance: *mut c_void, now: u64)>,
    /// Fills in at most `capacity` figures, and returns how many. May be null.
    pub statistics: Option<
        unsafe extern "C" fn(
            instance: *mut c_void,
            out: *mut FreenaServiceStatistic,
            capacity: usize,
        ) -> usize,
    >,
}

// SAFETY: what the pointers lead to is constant data of the library.
unsafe impl Sync for FreenaService {}
// SAFETY: as above.
unsafe impl Send for FreenaService {}
// SAFETY: as above.
unsafe impl Sync for FreenaServiceParameter {}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<FreenaServiceParameter>() == 64);
    assert!(size_of::<FreenaServiceFlow>() == 48);
    assert!(size_of::<FreenaServicePromise>() == 32);
    assert!(size_of::<FreenaServiceSetup>() == 112);
    assert!(size_of::<FreenaServiceAgreement>() == 112);
    assert!(size_of::<FreenaServiceMessage>() == 64);
    assert!(size_of::<FreenaService>() == 48 + 13 * 8);
};
