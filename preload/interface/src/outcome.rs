//! What a hook's logic says, and the one place where errors become errno.

use freena_preload_control::client::Failure;
use freena_preload_control::sys::Errno;

/// A value to return, or why not.
pub type Outcome<T = isize> = Result<T, Stop>;

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The call goes to the next library unchanged.
    Bypass(Reason),
    /// The call fails.
    Error(Error),
}

/// Why a call is not the framework's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The descriptor is no socket of the framework.
    Untracked,
    /// It is one that has not been bound, connected or sent from: the kernel has it still.
    Candidate,
    /// This is a vfork child, in its parent's memory.
    VforkChild,
}

/// Why a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It would have to wait, and was told not to, or waited as long as it was told to.
    WouldBlock,
    /// The datagram is longer than the protocol, or the path with fragmentation forbidden, can carry.
    TooLong,
    /// More segments than `UDP_SEGMENT` allows, or a segment longer than the path takes.
    Segments,
    /// No address was given and there is no peer.
    NoDestination,
    /// The sending direction was shut down.
    ShutDown,
    /// The stream has no peer: it listens, or is over.
    NotConnected,
    /// The server is gone, or the ring is damaged. Datagram sockets and listeners say so; a connection is reset then, as
    /// if its peer had done it, which is what programs are prepared for.
    ServerGone,
    /// What came in a message of the server makes no sense: never told, the next message is looked at.
    Damaged,
    /// The file or pipe in a buffer's place has ended: never told, nothing has been sent.
    EndOfFile,
    /// A signal handler sends while the code that it interrupted does.
    Reentered,
    /// The descriptor is the library's own.
    Own,
    /// A number that is out of range.
    Invalid,
    /// The kernel's own answer, or the socket's pending error.
    Kernel(Errno),
}

impl Error {
    /// The errno. Each as the man page of the call has it: send(2), recv(2), udp(7).
    pub const fn errno(self) -> i32 {
        match self {
            // send(2), recv(2): "The socket is marked nonblocking and the operation would block", or a timeout expired.
            Error::WouldBlock => libc::EAGAIN,
            // send(2): "the size of the message to be sent made this impossible".
            Error::TooLong => libc::EMSGSIZE,
            // udp(7) names none; the kernel answers EINVAL (udp_send_skb).
            Error::Segments | Error::Invalid => libc::EINVAL,
            // send(2): "The socket is not connection-mode, and no peer address is set".
            Error::NoDestination => libc::EDESTADDRREQ,
            // send(2): "The local end has been shut down".
            Error::ShutDown => libc::EPIPE,
            // shutdown(2), recv(2): "The socket is not connected".
            Error::NotConnected => libc::ENOTCONN,
            // socket(7), netdevice: the way to the network is down. For accept(2): not ECONNABORTED, which event loops
            // answer by calling again at once.
            Error::ServerGone => libc::ENETDOWN,
            Error::Damaged => libc::EPROTO,
            Error::EndOfFile => libc::EIO,
            // send(2): "The output queue for a network interface was full": what a caller knows to try again.
            Error::Reentered => libc::ENOBUFS,
            // To the program the number is not open.
            Error::Own => libc::EBADF,
            Error::Kernel(errno) => errno.0,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Error(Error::Kernel(errno))
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Kernel(errno)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(errno) | Failure::Resources(errno) => Error::Kernel(Errno(errno)),
            Failure::Unreachable(_)
            | Failure::Untrusted(_)
            | Failure::Gone
            | Failure::Version(_)
            | Failure::Protocol => Error::ServerGone,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Error(failure.into())
    }
}
