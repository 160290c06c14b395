//! Ancillary data: what recvmsg(2) tells and sendmsg(2) asks for beside the payload (ip(7), ipv6(7), udp(7), socket(7)).

use crate::receive::View;
use core::ffi::c_int;
use core::mem::size_of;
use core::ptr;
use core::sync::atomic::Ordering;
use freena_shm_abi::Endpoint;
use freena_shm_abi::app::{AppArea, options};
use freena_shm_abi::endpoint::UNSPECIFIED_V4;
use libc::{cmsghdr, msghdr};

/// Writes control messages into the program's buffer, as the kernel's `put_cmsg` does.
pub(crate) struct Writer {
    to: *mut u8,
    room: usize,
    used: usize,
    truncated: c_int,
}

impl Writer {
    /// One for the program's buffer.
    ///
    /// # Safety
    /// `message` is the program's, and so is its buffer for as long as this writes.
    pub(crate) unsafe fn new(message: *mut msghdr) -> Self {
        // SAFETY: the caller's.
        let (control, room) = unsafe { ((*message).msg_control, (*message).msg_controllen) };
        let room = if control.is_null() { 0 } else { room };
        Writer { to: control.cast(), room, used: 0, truncated: 0 }
    }

    /// Tells how much there is; returns `MSG_CTRUNC` where it did not fit.
    ///
    /// # Safety
    /// As [`Writer::new`].
    pub(crate) unsafe fn finish(self, message: *mut msghdr) -> c_int {
        // SAFETY: the caller's.
        unsafe { (*message).msg_controllen = self.used as _ };
        self.truncated
    }

    /// Appends one; cut, and `MSG_CTRUNC`, where it does not fit.
    pub(crate) fn put<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        // SAFETY: arithmetic only.
        let (full, space) = unsafe {
            (libc::CMSG_LEN(size_of::<T>() as u32) as usize, libc::CMSG_SPACE(size_of::<T>() as u32) as usize)
        };
        let left = self.room - self.used;
        if left < size_of::<cmsghdr>() {
            self.truncated = libc::MSG_CTRUNC;
            return;
        }
        let len = full.min(left);
        if len < full {
            self.truncated = libc::MSG_CTRUNC;
        }
        let header = cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind };
        // SAFETY: `used + len <= room` bytes at `to` are the program's control buffer; it need not be aligned.
        unsafe {
            let at = self.to.add(self.used);
            at.cast::<cmsghdr>().write_unaligned(header);
            // SAFETY: arithmetic only.
            let data = libc::CMSG_LEN(0) as usize;
            ptr::copy_nonoverlapping(ptr::from_ref(&value).cast::<u8>(), at.add(data), len - data);
        }
        self.used += space.min(left);
    }
}

/// Gives what the options ask for; sets `msg_controllen`; returns `MSG_CTRUNC` where it did not fit.
///
/// # Safety
/// `message` is the program's.
pub(crate) unsafe fn give(app: &AppArea, view: &View<'_>, message: *mut msghdr) -> c_int {
    let wanted = app.options.load(Ordering::Relaxed);
    // SAFETY: the caller's.
    let mut writer = unsafe { Writer::new(message) };
    if wanted & options::ANCILLARY != 0 {
        put_timestamps(&mut writer, wanted, view.record().timestamp);
        if view.segment != 0 {
            writer.put(libc::SOL_UDP, libc::UDP_GRO, c_int::from(view.segment));
        }
        put_addresses(&mut writer, wanted, app, view);
    }
    // SAFETY: the caller's.
    unsafe { writer.finish(message) }
}

fn put_timestamps(writer: &mut Writer, wanted: u32, nanoseconds: u64) {
    let seconds = (nanoseconds / 1_000_000_000) as i64;
    let rest = (nanoseconds % 1_000_000_000) as i64;
    let exact = libc::timespec { tv_sec: seconds, tv_nsec: rest };
    if wanted & options::TIMESTAMP != 0 {
        let value = libc::timeval { tv_sec: seconds, tv_usec: rest / 1000 };
        writer.put(libc::SOL_SOCKET, libc::SCM_TIMESTAMP, value);
    }
    if wanted & options::TIMESTAMPNS != 0 {
        writer.put(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, exact);
    }
    if wanted & options::TIMESTAMPING != 0 {
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        writer.put(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, [exact, none, none]);
    }
}

fn put_addresses(writer: &mut Writer, wanted: u32, app: &AppArea, view: &View<'_>) {
    let record = view.record();
    let v4 = record.local[..12] == UNSPECIFIED_V4[..12];
    let port = crate::names::get(app).local.port;
    if wanted & options::PKTINFO6 != 0 {
        let value = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: record.local },
            ipi6_ifindex: record.ifindex,
        };
        writer.put(libc::SOL_IPV6, libc::IPV6_PKTINFO, value);
    }
    if v4 {
        let [.., a, b, c, d] = record.local;
        let address = libc::in_addr { s_addr: u32::from_ne_bytes([a, b, c, d]) };
        if wanted & options::PKTINFO != 0 {
            let value = libc::in_pktinfo {
                ipi_ifindex: record.ifindex as c_int,
                ipi_spec_dst: address,
                ipi_addr: address,
            };
            writer.put(libc::SOL_IP, libc::IP_PKTINFO, value);
        }
        if wanted & options::TTL != 0 {
            writer.put(libc::SOL_IP, libc::IP_TTL, c_int::from(record.ttl));
        }
        if wanted & options::TOS != 0 {
            writer.put(libc::SOL_IP, libc::IP_TOS, record.tos);
        }
        if wanted & options::ORIGDSTADDR != 0 {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: port.to_be(),
                sin_addr: address,
                sin_zero: [0; 8],
            };
            writer.put(libc::SOL_IP, libc::IP_ORIGDSTADDR, value);
        }
        return;
    }
    if wanted & options::HOPLIMIT != 0 {
        writer.put(libc::SOL_IPV6, libc::IPV6_HOPLIMIT, c_int::from(record.ttl));
    }
    if wanted & options::TCLASS != 0 {
        writer.put(libc::SOL_IPV6, libc::IPV6_TCLASS, c_int::from(record.tos));
    }
    if wanted & options::ORIGDSTADDR6 != 0 {
        let value = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as _,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: record.local },
            sin6_scope_id: record.scope,
        };
        // 74: IPV6_ORIGDSTADDR of linux/in6.h.
        writer.put(libc::SOL_IPV6, 74, value);
    }
}

/// What a send asks for beside payload and destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Source address, all zeros for none.
    pub(crate) local: [u8; 16],
    /// Interface, 0 for none.
    pub(crate) ifindex: u32,
    /// TTL or hop limit, 0 for the socket's.
    pub(crate) ttl: u8,
    /// TOS or traffic class.
    pub(crate) tos: Option<u8>,
    /// `UDP_SEGMENT`.
    pub(crate) segment: Option<u16>,
}

/// Reads the control messages of a send. `None` where one of them is not known here, or not well formed: the kernel
/// has the right answer to it.
///
/// # Safety
/// `message` is the program's.
pub(crate) unsafe fn asked(message: *const msghdr) -> Option<Asked> {
    let mut asked = Asked::default();
    // SAFETY: the caller's; the macros stay within `msg_controllen`, and lengths are checked before values are read.
    unsafe {
        if (*message).msg_control.is_null() || (*message).msg_controllen == 0 {
            return Some(asked);
        }
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let len = ((*header).cmsg_len as usize).checked_sub(libc::CMSG_LEN(0) as usize)?;
            let end = (*message).msg_control as usize + (*message).msg_controllen;
            if (data as usize).checked_add(len)? > end {
                return None;
            }
            read_one(&mut asked, (*header).cmsg_level, (*header).cmsg_type, data, len)?;
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    Some(asked)
}

unsafe fn read_one(asked: &mut Asked, level: c_int, kind: c_int, data: *const u8, len: usize) -> Option<()> {
    // SAFETY: `len` bytes are readable at `data` (caller); each read checks the length first.
    unsafe {
        let int = || (len == size_of::<c_int>()).then(|| data.cast::<c_int>().read_unaligned());
        match (level, kind) {
            (libc::SOL_IP, libc::IP_PKTINFO) if len == size_of::<libc::in_pktinfo>() => {
                let value = data.cast::<libc::in_pktinfo>().read_unaligned();
                asked.ifindex = value.ipi_ifindex as u32;
                if value.ipi_spec_dst.s_addr != 0 {
                    asked.local = UNSPECIFIED_V4;
                    asked.local[12..].copy_from_slice(&value.ipi_spec_dst.s_addr.to_ne_bytes());
                }
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) if len == size_of::<libc::in6_pktinfo>() => {
                let value = data.cast::<libc::in6_pktinfo>().read_unaligned();
                asked.ifindex = value.ipi6_ifindex;
                asked.local = value.ipi6_addr.s6_addr;
            }
            (libc::SOL_IP, libc::IP_TTL) => asked.ttl = u8::try_from(int()?).ok().filter(|ttl| *ttl > 0)?,
            (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                asked.ttl = match int()? {
                    -1 => 0,
                    value => u8::try_from(value).ok().filter(|ttl| *ttl > 0)?,
                }
            }
            (libc::SOL_IP, libc::IP_TOS) if len == 1 => asked.tos = Some(*data),
            (libc::SOL_IP, libc::IP_TOS) => asked.tos = Some(u8::try_from(int()?).ok()?),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                asked.tos = match int()? {
                    -1 => None,
                    value => Some(u8::try_from(value).ok()?),
                }
            }
            (libc::SOL_UDP, libc::UDP_SEGMENT) if len == size_of::<u16>() => {
                asked.segment = Some(data.cast::<u16>().read_unaligned());
            }
            _ => return None,
        }
    }
    Some(())
}

/// Whether two addresses are of one family.
pub(crate) fn same_family(local: &[u8; 16], peer: &Endpoint) -> bool {
    *local == [0; 16] || (local[..12] == UNSPECIFIED_V4[..12]) == peer.ip().is_ipv4()
}
