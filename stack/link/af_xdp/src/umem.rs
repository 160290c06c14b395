//! The memory of one queue and its four rings.

use std::{
    io,
    num::NonZeroU32,
    os::fd::{AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use freena_link_raw::Device;
use xsk_rs::{
    CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
    umem::frame::FrameDesc,
};

use crate::{OpenError, Options, ZeroCopy};

/// How long the kernel may take to free a queue whose socket was closed.
const RELEASE: Duration = Duration::from_millis(500);

/// A bound AF_XDP socket with all its parts.
pub(crate) struct Parts {
    pub(crate) umem: Umem,
    pub(crate) rx: RxQueue,
    pub(crate) fill: FillQueue,
    pub(crate) tx: TxQueue,
    pub(crate) completion: CompQueue,
    pub(crate) frames: Vec<FrameDesc>,
    pub(crate) zero_copy: bool,
}

/// Binds a socket. The kernel frees the queue of a closed socket in the background, so a busy one is tried again for a
/// while.
pub(crate) fn bind(device: &Device, queue: u32, options: &Options) -> Result<Parts, OpenError> {
    let deadline = Instant::now() + RELEASE;
    loop {
        match bind_once(device, queue, options) {
            Err(OpenError::Kernel { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                thread::sleep(RELEASE / 50);
            }
            result => return result,
        }
    }
}

fn bind_once(device: &Device, queue: u32, options: &Options) -> Result<Parts, OpenError> {
    let size = options.frames;
    if !size.is_power_of_two() || !(64..=1 << 20).contains(&size) {
        return Err(OpenError::Frames(size));
    }
    if !matches!(options.frame_size, 2048 | 4096) {
        return Err(OpenError::FrameSize(options.frame_size));
    }
    let failed = |what: &'static str, error: &dyn std::error::Error| OpenError::Kernel {
        interface: device.name.clone(),
        queue,
        what,
        source: os_error(error),
    };
    let ring = |size| QueueSize::new(size).map_err(|error| failed("ring size", &error));
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.frame_size).map_err(|error| failed("frame size", &error))?)
        // Twice the frames: the kernel publishes received frames before it releases their fill entries, so that for a
        // moment a frame can be counted on both sides.
        .fill_queue_size(ring(size * 2)?)
        .comp_queue_size(ring(size)?)
        .build()
        .map_err(|error| failed("UMEM configuration", &error))?;
    let count = NonZeroU32::new(size).ok_or(OpenError::Frames(size))?;
    let (umem, frames) =
        Umem::new(umem_config, count, false).map_err(|error| failed("UMEM registration", &error))?;
    let flags = match options.zero_copy {
        // Without a flag the kernel takes zero-copy where the driver has it.
        ZeroCopy::Auto => BindFlags::empty(),
        ZeroCopy::Off => BindFlags::XDP_COPY,
        ZeroCopy::Require => BindFlags::XDP_ZEROCOPY,
    };
    let socket_config = SocketConfig::builder()
        .rx_queue_size(ring(size)?)
        .tx_queue_size(ring(size)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let interface: Interface =
        device.name.parse().map_err(|error: std::ffi::NulError| failed("interface name", &error))?;
    // SAFETY: the UMEM is new and shared with no other socket; the flag that the contract asks for is set.
    let (tx, rx, rings) = unsafe { Socket::new(socket_config, &umem, &interface, queue) }
        .map_err(|error| failed("bind", &error))?;
    let (fill, completion) =
        rings.ok_or_else(|| failed("rings", &io::Error::from(io::ErrorKind::AlreadyExists)))?;
    let zero_copy = is_zero_copy(rx.fd().as_raw_fd()).map_err(|error| failed("XDP_OPTIONS", &error))?;
    Ok(Parts { umem, rx, fill, tx, completion, frames, zero_copy })
}

/// The errno inside an error of xsk-rs.
fn os_error(error: &dyn std::error::Error) -> io::Error {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    }
}

/// Whether the driver puts frames into the UMEM itself (XDP_OPTIONS, Linux 5.3).
fn is_zero_copy(socket: RawFd) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    get_option(socket, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options.flags)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// The error that waits on the socket, such as `ENETDOWN` once the interface is gone.
pub(crate) fn pending_error(socket: RawFd) -> io::Result<()> {
    let mut errno = 0;
    get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut errno)?;
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno as i32)) }
}

/// Reads an option that is one 32-bit integer.
fn get_option(socket: RawFd, level: i32, option: i32, value: &mut u32) -> io::Result<()> {
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the pointers are to the value and to its size, and outlive the call.
    let result =
        unsafe { libc::getsockopt(socket, level, option, std::ptr::from_mut(value).cast(), &raw mut len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
