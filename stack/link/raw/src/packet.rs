//! A packet socket and its options (man 7 packet).

use std::{io, mem, os::fd::AsRawFd};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// Protocol of a packet socket that receives nothing.
pub(crate) const RECEIVE_NOTHING: u16 = 0;
/// Protocol of a packet socket that receives every frame.
pub(crate) const RECEIVE_ALL: u16 = libc::ETH_P_ALL as u16;

/// A non-blocking raw packet socket, bound to nothing, that receives nothing yet and puts a [`crate::vnet::VnetHeader`]
/// before each frame.
pub(crate) fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    set(&socket, libc::PACKET_VNET_HDR, 1)?;
    Ok(socket)
}

/// Binds to the interface and begins to receive `protocol` from it.
pub(crate) fn bind(socket: &Socket, ifindex: u32, protocol: u16) -> io::Result<()> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address of family AF_PACKET, which is what the field is set to below.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex as i32;
    // SAFETY: the storage holds a whole `sockaddr_ll`, filled in above.
    let address = unsafe { SockAddr::new(storage, mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket.bind(&address)
}

/// Sets an `int` option of level SOL_PACKET.
pub(crate) fn set(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_int(socket, libc::SOL_PACKET, option, value)
}

/// Makes a buffer larger: beyond the system's limit where CAP_NET_ADMIN allows, else up to it.
pub(crate) fn grow_buffer(socket: &Socket, force: libc::c_int, limited: libc::c_int, bytes: usize) {
    let bytes = bytes as libc::c_int;
    if set_int(socket, libc::SOL_SOCKET, force, bytes).is_err() {
        // The kernel cuts the size to its limit; no smaller buffer is a reason to refuse the link.
        let _ = set_int(socket, libc::SOL_SOCKET, limited, bytes);
    }
}

/// Sets an `int` option.
pub(crate) fn set_int(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the size describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Frames that the kernel dropped since the last call, for want of room in the socket (PACKET_STATISTICS).
pub(crate) fn dropped(socket: &Socket) -> u64 {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = mem::size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the pointers are to a `tpacket_stats` and to its size, and outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    if result == 0 { u64::from(stats.tp_drops) } else { 0 }
}
