//! The socket API of SCTP as far as one-to-one sockets have it here: options and ancillary data (RFC 6458; values and layouts are
//! those of Linux' linux/sctp.h).

use super::{asked, close, is_listener, phase, told};
use crate::ancillary::Writer;
use crate::options::{give, give_bytes, int};
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{Held, Kind};
use crate::{address, names, table, token};
use core::ffi::{c_int, c_void};
use core::mem::{size_of, zeroed};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::Endpoint;
use freena_shm_abi::app::{options, told as tells};
use freena_shm_abi::message::{Head, flag};
use freena_shm_abi::stream::{ask, state};
use libc::{IPPROTO_SCTP, IPPROTO_TCP, SOL_SOCKET, TCP_NODELAY, msghdr, sockaddr_storage, socklen_t};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// Socket options of linux/sctp.h.
const SCTP_RTOINFO: c_int = 0;
const SCTP_INITMSG: c_int = 2;
const SCTP_NODELAY: c_int = 3;
const SCTP_DISABLE_FRAGMENTS: c_int = 8;
const SCTP_EVENTS: c_int = 11;
const SCTP_MAXSEG: c_int = 13;
const SCTP_STATUS: c_int = 14;
const SCTP_RECVRCVINFO: c_int = 32;
const SCTP_SOCKOPT_BINDX_ADD: c_int = 100;
const SCTP_GET_PEER_ADDRS: c_int = 108;
const SCTP_GET_LOCAL_ADDRS: c_int = 109;

// Ancillary data.
const SCTP_SNDRCV: c_int = 1;
const SCTP_SNDINFO: c_int = 2;
const SCTP_RCVINFO: c_int = 3;

/// `sinfo_flags`.
const SCTP_UNORDERED: u16 = 1;
const SCTP_ABORT: u16 = 4;
const SCTP_EOF: u16 = 0x200;

/// `sctp_assoc_t` of the one association that a socket has.
const ASSOCIATION: i32 = 1;
/// The streams that are offered in each direction, and the waits of the handshake that are tried where nothing else is said.
const STREAMS: u16 = 2048;
/// RTO.Initial, RTO.Max and RTO.Min of the engine in milliseconds.
const TIMEOUTS: [u32; 3] = [1000, 60_000, 300];

/// `struct sctp_sndrcvinfo`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SndRcvInfo {
    stream: u16,
    number: u16,
    flags: u16,
    pad: u16,
    protocol: u32,
    context: u32,
    lifetime: u32,
    sequence: u32,
    cumulative: u32,
    association: i32,
}

/// `struct sctp_sndinfo`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SndInfo {
    stream: u16,
    flags: u16,
    protocol: u32,
    context: u32,
    association: i32,
}

/// `struct sctp_rcvinfo`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RcvInfo {
    stream: u16,
    number: u16,
    flags: u16,
    pad: u16,
    protocol: u32,
    sequence: u32,
    cumulative: u32,
    context: u32,
    association: i32,
}

/// What a program asks for beside a message.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside {
    pub(super) stream: u16,
    pub(super) protocol: u32,
    pub(super) unordered: bool,
    /// The own direction ends behind it.
    pub(super) ends: bool,
}

impl Beside {
    /// Reads the control messages: `EINVAL` for one that is cut, or asks for what there is not.
    ///
    /// # Safety
    /// `message` is the program's.
    pub(super) unsafe fn read(message: *const msghdr) -> Result<Self, Error> {
        let mut beside = Beside::default();
        // SAFETY: the caller's; the macros stay within `msg_controllen`, and lengths are checked before values are read.
        unsafe {
            if (*message).msg_control.is_null() || (*message).msg_controllen == 0 {
                return Ok(beside);
            }
            let end = (*message).msg_control as usize + (*message).msg_controllen;
            let mut header = libc::CMSG_FIRSTHDR(message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                let len = ((*header).cmsg_len as usize).checked_sub(libc::CMSG_LEN(0) as usize);
                let len = len.filter(|len| data as usize + len <= end).ok_or(Error::Invalid)?;
                let bytes = core::slice::from_raw_parts(data, len);
                if (*header).cmsg_level == IPPROTO_SCTP {
                    beside.apply((*header).cmsg_type, bytes)?;
                }
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        Ok(beside)
    }

    fn apply(&mut self, kind: c_int, bytes: &[u8]) -> Result<(), Error> {
        let (stream, protocol, flags) = match kind {
            SCTP_SNDRCV => {
                let info = SndRcvInfo::read_from_prefix(bytes).map_err(|_| Error::Invalid)?.0;
                (info.stream, info.protocol, info.flags)
            }
            SCTP_SNDINFO => {
                let info = SndInfo::read_from_prefix(bytes).map_err(|_| Error::Invalid)?.0;
                (info.stream, info.protocol, info.flags)
            }
            _ => return Err(Error::Invalid),
        };
        if flags & SCTP_ABORT != 0 {
            return Err(Error::Invalid);
        }
        (self.stream, self.protocol) = (stream, protocol);
        (self.unordered, self.ends) = (flags & SCTP_UNORDERED != 0, flags & SCTP_EOF != 0);
        Ok(())
    }
}

/// Gives what a program has asked for beside a message; returns `MSG_CTRUNC` where it did not fit.
///
/// # Safety
/// `message` is the program's.
pub(super) unsafe fn give_beside(wanted: u32, head: &Head, message: *mut msghdr) -> c_int {
    // SAFETY: the caller's.
    let mut writer = unsafe { Writer::new(message) };
    let flags = if head.flags & flag::UNORDERED != 0 { SCTP_UNORDERED } else { 0 };
    if wanted & tells::RCVINFO != 0 {
        let info = RcvInfo {
            stream: head.stream,
            number: head.number,
            flags,
            protocol: head.payload_protocol,
            sequence: head.sequence,
            association: ASSOCIATION,
            ..RcvInfo::default()
        };
        writer.put(IPPROTO_SCTP, SCTP_RCVINFO, info);
    }
    if wanted & tells::SNDRCV != 0 {
        let info = SndRcvInfo {
            stream: head.stream,
            number: head.number,
            flags,
            protocol: head.payload_protocol,
            sequence: head.sequence,
            association: ASSOCIATION,
            ..SndRcvInfo::default()
        };
        writer.put(IPPROTO_SCTP, SCTP_SNDRCV, info);
    }
    // SAFETY: the caller's.
    unsafe { writer.finish(message) }
}

/// Streams to send on and to receive on; zeros while there is no association.
pub(super) fn streams(held: &Held) -> (u16, u16) {
    let streams = told(held).info.streams.load(Ordering::Relaxed);
    (streams as u16, (streams >> 16) as u16)
}

/// `SCTP_EOF`: the own direction ends.
pub(super) fn end(fd: c_int) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    close::shutdown(fd, &held, libc::SHUT_WR)
}

/// A socket with messages: of the framework, or a candidate, whose kernel socket is one of TCP.
enum Which {
    Framework(Held),
    Candidate,
}

fn which(fd: c_int) -> Option<Which> {
    match table::kind(fd)? {
        Kind::Messages => Some(table::hold(fd).map_or(Which::Candidate, Which::Framework)),
        Kind::Datagram | Kind::Stream => None,
    }
}

/// getsockopt(2) of what SCTP has; none for what other sockets have too.
///
/// # Safety
/// The pointers are the program's.
pub(crate) unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Option<Outcome> {
    let which = which(fd)?;
    if (level, name) == (SOL_SOCKET, libc::SO_PROTOCOL) {
        // SAFETY: the caller's.
        return Some(unsafe { give(IPPROTO_SCTP, value, len) });
    }
    // SAFETY: the caller's.
    (level == IPPROTO_SCTP).then(|| unsafe { get(fd, &which, name, value, len) })
}

unsafe fn get(fd: c_int, which: &Which, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    let wants = |bit| wants(fd, which) & bit != 0;
    // SAFETY: the caller's.
    unsafe {
        match name {
            SCTP_NODELAY => {
                let set = match which {
                    Which::Framework(held) => asked(held).flags.load(Ordering::Relaxed) & ask::NO_DELAY != 0,
                    Which::Candidate => int(fd, IPPROTO_TCP, TCP_NODELAY).is_some_and(|value| value != 0),
                };
                give(c_int::from(set), value, len)
            }
            SCTP_RECVRCVINFO => give(c_int::from(wants(tells::RCVINFO)), value, len),
            // sctp_data_io_event is the first of its bytes.
            SCTP_EVENTS => give_bytes(&[u8::from(wants(tells::SNDRCV)), 0, 0, 0, 0, 0, 0, 0], value, len),
            SCTP_DISABLE_FRAGMENTS => give(0, value, len),
            SCTP_INITMSG => {
                let attempts = int(fd, IPPROTO_TCP, libc::TCP_SYNCNT).unwrap_or(0);
                give_bytes([STREAMS, STREAMS, attempts as u16, 0].as_bytes(), value, len)
            }
            SCTP_RTOINFO => {
                let [initial, max, min] = TIMEOUTS;
                give_bytes([0, initial, max, min].as_bytes(), value, len)
            }
            SCTP_MAXSEG => {
                let most = match which {
                    Which::Framework(held) => told(held).info.send_mss.load(Ordering::Relaxed),
                    Which::Candidate => 0,
                };
                // struct sctp_assoc_value, or an integer.
                let words = [0, most];
                let words = if (*len as usize) < size_of_val(&words) { &words[1..] } else { &words[..] };
                give_bytes(words.as_bytes(), value, len)
            }
            SCTP_STATUS => match which {
                Which::Framework(held) if !is_listener(held) => give_bytes(&status(held), value, len),
                _ => Err(Error::Invalid.into()),
            },
            SCTP_GET_PEER_ADDRS | SCTP_GET_LOCAL_ADDRS => match which {
                Which::Framework(held) => {
                    let names = names::get(held.app());
                    let is_peer = name == SCTP_GET_PEER_ADDRS;
                    if is_peer && is_listener(held) {
                        return Err(Error::NotConnected.into());
                    }
                    addresses(held, if is_peer { &names.peer } else { &names.local }, value, len)
                }
                Which::Candidate => Err(Error::NotConnected.into()),
            },
            _ => Err(Errno(libc::ENOPROTOOPT).into()),
        }
    }
}

/// `struct sctp_status`, whose last part is a `struct sctp_paddrinfo` with an address of 128 bytes.
fn status(held: &Held) -> [u8; 176] {
    let info = &told(held).info;
    let word = |word: &core::sync::atomic::AtomicU32| word.load(Ordering::Relaxed);
    // enum sctp_sstat_state.
    let state: u32 = match phase(held) {
        state::SYN_SENT | state::SYN_RECEIVED => 2,
        state::ESTABLISHED => 4,
        state::FIN_WAIT_1 => 5,
        state::FIN_WAIT_2 => 6,
        state::CLOSE_WAIT => 7,
        state::LAST_ACK => 8,
        _ => 1,
    };
    let (outbound, inbound) = streams(held);
    let unacknowledged = word(&info.in_flight).min(0xffff);
    let mut status = [0; 176];
    let mut put = |at: usize, bytes: &[u8]| status[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, ASSOCIATION.as_bytes());
    put(4, state.as_bytes());
    put(8, word(&info.send_window).as_bytes());
    put(12, (unacknowledged as u16).as_bytes());
    put(16, [inbound, outbound].as_bytes());
    put(20, word(&info.send_mss).as_bytes());
    put(24, ASSOCIATION.as_bytes());
    let mut name: [u8; 128] = [0; 128];
    // SAFETY: `sockaddr_storage` is plain data of 128 bytes, valid when zero.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    address::to_storage(&names::get(held.app()).peer, is_family6(held), &mut storage);
    // SAFETY: both have so many bytes, all of them initialised.
    unsafe { core::ptr::copy_nonoverlapping((&raw const storage).cast(), name.as_mut_ptr(), name.len()) };
    put(28, &name);
    // SCTP_ACTIVE, then window, times and MTU of the path.
    put(156, 2i32.as_bytes());
    put(160, word(&info.cwnd).saturating_mul(word(&info.send_mss)).as_bytes());
    put(164, (word(&info.srtt) / 1000).as_bytes());
    put(168, (word(&info.rto) / 1000).as_bytes());
    put(172, word(&info.path_mtu).as_bytes());
    status
}

/// `struct sctp_getaddrs` with one address.
unsafe fn addresses(held: &Held, name: &Endpoint, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    const START: usize = 8;
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    let name_len = address::to_storage(name, is_family6(held), &mut storage);
    let mut answer = [0u8; START + size_of::<sockaddr_storage>()];
    answer[..4].copy_from_slice(ASSOCIATION.as_bytes());
    answer[4..START].copy_from_slice(1u32.as_bytes());
    // SAFETY: the answer has room for all of a `sockaddr_storage` behind its start.
    unsafe {
        let from = (&raw const storage).cast();
        core::ptr::copy_nonoverlapping(from, answer[START..].as_mut_ptr(), name_len);
        if len.is_null() || (*len as usize) < START + name_len {
            return Err(Errno(libc::ENOMEM).into());
        }
        give_bytes(&answer[..START + name_len], value, len)
    }
}

fn is_family6(held: &Held) -> bool {
    held.app().options.load(Ordering::Relaxed) & options::FAMILY6 != 0
}

/// setsockopt(2) of what SCTP has; none for what other sockets have too.
///
/// # Safety
/// The pointer is the program's.
pub(crate) unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Option<Outcome> {
    let which = which(fd)?;
    // SAFETY: the caller's.
    (level == IPPROTO_SCTP).then(|| unsafe { set(fd, &which, name, value, len as usize) })
}

unsafe fn set(fd: c_int, which: &Which, name: c_int, value: *const c_void, len: usize) -> Outcome {
    if value.is_null() {
        return Err(Errno(libc::EFAULT).into());
    }
    // SAFETY: the caller's: `len` bytes are readable.
    let bytes = unsafe { core::slice::from_raw_parts(value.cast::<u8>(), len) };
    let number = || c_int::read_from_prefix(bytes).map(|it| it.0).map_err(|_| Error::Invalid);
    match name {
        SCTP_NODELAY => {
            let set = number()? != 0;
            match which {
                Which::Candidate => sys::set_option(fd, IPPROTO_TCP, TCP_NODELAY, &c_int::from(set))?,
                Which::Framework(held) => {
                    let flags = &asked(held).flags;
                    if set {
                        flags.fetch_or(ask::NO_DELAY, Ordering::Relaxed);
                    } else {
                        flags.fetch_and(!ask::NO_DELAY, Ordering::Relaxed);
                    }
                    token::kick(fd, held);
                }
            }
        }
        SCTP_RECVRCVINFO => want(fd, which, tells::RCVINFO, number()? != 0),
        // Notifications (all but the first byte) do not come.
        SCTP_EVENTS => want(fd, which, tells::SNDRCV, *bytes.first().ok_or(Error::Invalid)? != 0),
        SCTP_INITMSG => {
            let [.., attempts, _] = <[u16; 4]>::read_from_prefix(bytes).map_err(|_| Error::Invalid)?.0;
            if attempts > 0 && matches!(which, Which::Candidate) {
                sys::set_option(fd, IPPROTO_TCP, libc::TCP_SYNCNT, &c_int::from(attempts.min(127)))?;
            }
        }
        SCTP_DISABLE_FRAGMENTS if number()? == 0 => {}
        SCTP_SOCKOPT_BINDX_ADD => match which {
            Which::Candidate if is_one(bytes) => {
                // SAFETY: the kernel checks the program's pointer.
                unsafe { sys::bind_raw(fd, value.cast(), len as u32) }?;
            }
            _ => return Err(Errno(libc::EOPNOTSUPP).into()),
        },
        _ => return Err(Errno(libc::ENOPROTOOPT).into()),
    }
    Ok(0)
}

/// Whether these bytes are one address.
fn is_one(bytes: &[u8]) -> bool {
    let family = u16::read_from_prefix(bytes).map_or(0, |it| c_int::from(it.0));
    match family {
        libc::AF_INET => bytes.len() == size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => bytes.len() == size_of::<libc::sockaddr_in6>(),
        _ => false,
    }
}

/// What the program wants to be told beside messages.
fn wants(fd: c_int, which: &Which) -> u32 {
    match which {
        Which::Framework(held) => held.app().stream.told.load(Ordering::Relaxed),
        Which::Candidate => table::note(fd).map_or(0, |note| note.load(Ordering::Relaxed).into()),
    }
}

fn want(fd: c_int, which: &Which, bit: u32, wanted: bool) {
    let changed = |now: u32| if wanted { now | bit } else { now & !bit };
    match which {
        Which::Framework(held) => {
            let told = &held.app().stream.told;
            told.store(changed(told.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        Which::Candidate => {
            if let Some(note) = table::note(fd) {
                note.store(changed(note.load(Ordering::Relaxed).into()) as u8, Ordering::Relaxed);
            }
        }
    }
}
