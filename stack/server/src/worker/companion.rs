//! The companion: the real kernel socket that holds a socket's port.
//!
//! It receives what the fast path does not carry (loopback, other interfaces, multicast, datagrams that the kernel has
//! reassembled) and collects ICMP errors; it sends what the fast path cannot (an unresolved neighbour, a datagram that is too
//! large and must not be fragmented).

use super::receive::kernel_record;
use super::{Worker, sys};
use crate::socket::Socket;
use freena_shm_abi::{Record, endpoint::octets_of};
use freena_shm_ring::{Message, Producer};
use freena_udp::SocketKey;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams taken from one companion at a time.
const BUDGET: usize = 64;

/// Ancillary data, aligned for `cmsghdr`.
#[repr(C, align(8))]
struct Ancillary([u8; 512]);

impl Worker {
    /// Moves what the companion has received into the receive ring, and its pending error to the program; tells it of errors
    /// in its queue.
    pub(super) fn companion_ready(&mut self, key: SocketKey, events: u32) {
        let ring = self.setup.index;
        let now = sys::realtime_ns();
        let mut queue_to_look_at = events & libc::EPOLLERR as u32 != 0;
        // Edge-triggered: read until it is empty. A flood is bounded by the receive buffer and the ring's drops.
        for _ in 0..BUDGET * 64 {
            let Some(local) = self.table.get_mut(key) else { return };
            let socket = &local.socket;
            match receive(socket, &mut self.scratch) {
                Ok((mut record, len)) => {
                    if record.timestamp == 0 {
                        record.timestamp = now;
                    }
                    let mut producer = Producer::new(socket.memory.rx(ring), &mut local.rx);
                    match producer.reserve(&record) {
                        Ok(mut slot) => {
                            slot.write(0, &self.scratch[..len]);
                            socket.stats.rx_kernel.add(1);
                        }
                        Err(_) => {
                            socket.stats.rx_dropped.add(1);
                            continue;
                        }
                    }
                }
                Err(libc::EAGAIN) => {
                    // The pending error has been taken: what the kernel still reports is the queue.
                    if queue_to_look_at && sys::has_error(socket.companion.as_fd()) {
                        queue_to_look_at = false;
                        socket.note_queued_error();
                    } else {
                        break;
                    }
                }
                Err(libc::EINTR) => continue,
                Err(errno) => socket.raise(errno),
            }
            if !local.dirty {
                local.dirty = true;
                self.table.dirty.push(key);
            }
        }
    }
}

/// Takes one datagram, or the pending error, as errno.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<(Record, usize), i32> {
    let mut ancillary = Ancillary([0; 512]);
    // SAFETY: `sockaddr_storage` and `msghdr` are plain data for which zero is valid.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { mem::zeroed() };
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    message.msg_controllen = ancillary.0.len();
    // SAFETY: all pointers in `message` refer to locals, or to `buffer`, that live through the call.
    let len = unsafe { libc::recvmsg(socket.companion.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    if len < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    let len = len as usize;
    let mut record = kernel_record(len, message.msg_flags & libc::MSG_TRUNC != 0);
    let (ip, port, scope) = read_name(&name);
    record.peer = octets_of(ip);
    record.peer_port = port;
    record.scope = scope;
    // SAFETY: the kernel has filled the control buffer with well-formed headers up to `msg_controllen`.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            read_ancillary(&*header, libc::CMSG_DATA(header), &mut record);
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok((record, len))
}

/// Reads what the program has asked the kernel to tell, so that it can be told from the record.
///
/// # Safety
/// `data` must hold what the kernel puts behind a header of this level and type.
unsafe fn read_ancillary(header: &libc::cmsghdr, data: *const u8, record: &mut Record) {
    // SAFETY: the caller vouches for the type of the data; reads are unaligned.
    unsafe {
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                record.local = octets_of(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                record.ifindex = info.ipi_ifindex as u32;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                record.local = info.ipi6_addr.s6_addr;
                record.ifindex = info.ipi6_ifindex;
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                record.ttl = data.cast::<i32>().read_unaligned() as u8;
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => record.tos = data.read(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                record.tos = data.cast::<i32>().read_unaligned() as u8;
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                let time = data.cast::<libc::timespec>().read_unaligned();
                record.timestamp = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMP) => {
                let time = data.cast::<libc::timeval>().read_unaligned();
                record.timestamp = time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                record.segment = data.cast::<i32>().read_unaligned() as u16;
            }
            _ => {}
        }
    }
}

/// Sends one record through the kernel. False: not now, try again; errors of the kernel become the socket's pending
/// error.
pub(super) fn send(socket: &Socket, message: &Message<'_>) -> bool {
    let record = &message.record;
    let mut ancillary = Ancillary([0; 512]);
    let peer = Ipv6Addr::from(record.peer);
    let (name, name_len) = write_name(socket.ipv6, peer, record.peer_port, record.scope);
    let mut iov = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: record.len as usize };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw const name).cast_mut().cast();
    header.msg_namelen = name_len;
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    let local = Ipv6Addr::from(record.local);
    let mut used = 0;
    if record.ifindex != 0
        || !(local.is_unspecified() || local.to_ipv4_mapped().is_some_and(|v4| v4.is_unspecified()))
    {
        if socket.ipv6 {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: record.local },
                ipi6_ifindex: record.ifindex,
            };
            used = put(&mut ancillary, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        } else {
            let spec_dst = local.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let info = libc::in_pktinfo {
                ipi_ifindex: record.ifindex as i32,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(spec_dst.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used = put(&mut ancillary, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
    }
    if record.segment != 0 && u32::from(record.segment) < record.len {
        used = put(&mut ancillary, used, libc::SOL_UDP, libc::UDP_SEGMENT, record.segment);
    }
    if used > 0 {
        header.msg_control = ancillary.0.as_mut_ptr().cast();
        header.msg_controllen = used;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all pointers refer to locals, or to payload in a mapping that `socket` keeps.
    if unsafe { libc::sendmsg(socket.companion.as_raw_fd(), &header, flags) } >= 0 {
        socket.stats.tx_kernel.add(1);
        return true;
    }
    match std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
        libc::EAGAIN | libc::ENOBUFS => false,
        errno => {
            socket.stats.tx_dropped.add(1);
            socket.raise(errno);
            true
        }
    }
}

/// Appends a control message and returns how many bytes are used then.
fn put<T: Copy>(ancillary: &mut Ancillary, used: usize, level: i32, kind: i32, value: T) -> usize {
    let len = size_of::<T>() as u32;
    // SAFETY: arithmetic only.
    let (space, cmsg_len) = unsafe { (libc::CMSG_SPACE(len) as usize, libc::CMSG_LEN(len) as usize) };
    let header = libc::cmsghdr { cmsg_len, cmsg_level: level, cmsg_type: kind };
    let room = &mut ancillary.0[used..used + space];
    // SAFETY: `room` is as long as the space that a header and a `T` need; writes are unaligned.
    unsafe {
        room.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header);
        room.as_mut_ptr().add(libc::CMSG_LEN(0) as usize).cast::<T>().write_unaligned(value);
    }
    used + space
}

fn read_name(name: &libc::sockaddr_storage) -> (IpAddr, u16, u32) {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the storage, large and aligned enough for all, holds.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            (Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into(), u16::from_be(v4.sin_port), 0)
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            (Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), u16::from_be(v6.sin6_port), v6.sin6_scope_id)
        }
        _ => (Ipv4Addr::UNSPECIFIED.into(), 0, 0),
    }
}

fn write_name(ipv6: bool, ip: Ipv6Addr, port: u16, scope: u32) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: plain data for which zero is valid.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    match (ipv6, ip.to_ipv4_mapped()) {
        (false, v4) => {
            let v4 = v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large and aligned enough for every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
            (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        (true, _) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: port.to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: scope,
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
            (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}
