//! What is on the wire: plain text that must not be there is looked for.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;

/// All frames that the interfaces of this thread's namespace send and receive from now on.
///
/// # Panics
/// Without `CAP_NET_RAW` and `CAP_NET_ADMIN` there.
#[must_use]
pub fn capture() -> Arc<Mutex<Vec<u8>>> {
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let room: libc::c_int = 64 << 20;
    let length = size_of_val(&room) as libc::socklen_t;
    // SAFETY: the pointer is to a local of this length.
    let forced = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const room).cast(), length)
    };
    assert_eq!(forced, 0, "{}", std::io::Error::last_os_error());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    thread::spawn(move || {
        let mut frame = vec![0u8; 70_000];
        loop {
            // SAFETY: the buffer has so many bytes.
            let got = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            let Ok(got) = usize::try_from(got) else { return };
            keep.lock().expect("no panic").extend_from_slice(&frame[..got]);
        }
    });
    seen
}

/// Whether these bytes are among those captured.
///
/// # Panics
/// The capture has ended by one.
#[must_use]
pub fn shows(seen: &Mutex<Vec<u8>>, words: &[u8]) -> bool {
    seen.lock().expect("no panic").windows(words.len()).any(|it| it == words)
}
