//! The control socket in the file system.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long the control thread rests where a connection can neither be accepted nor turned away.
const PAUSE: Duration = Duration::from_millis(10);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another server is there.
    #[error("another freena-stack listens on {0}; name another socket with --control")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is no socket: it is left alone; name another path with --control")]
    NotASocket(PathBuf),
    /// The kernel refuses.
    #[error("control socket {path}: {what}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The listening socket. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    path: PathBuf,
    /// Given up for a moment to turn a connection away where no descriptor is left.
    spare: Option<File>,
}

impl Listener {
    /// Listens on `path`, makes its folder, and takes the place of a socket that nobody listens on any more.
    ///
    /// # Errors
    /// Each variant of [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let fail = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(fail("cannot make its folder"))?;
        }
        let address = SockAddr::unix(path).map_err(fail("not a usable name"))?;
        let socket = new_socket().map_err(fail("cannot make a socket"))?;
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            let probe = new_socket().map_err(fail("cannot make a socket"))?;
            match probe.connect(&address) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)
                        .map_err(fail("cannot remove the socket of a server that is gone"))?;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(fail("cannot tell whether a server listens there")(error));
                }
                _ => return Err(ListenError::InUse(path.to_owned())),
            }
        }
        socket.bind(&address).map_err(fail("cannot bind"))?;
        // Who may use the server is decided by SO_PEERCRED, not by the file's mode.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(fail("cannot set its mode"))?;
        socket.listen(1024).map_err(fail("cannot listen"))?;
        Ok(Listener { socket, path: path.to_owned(), spare: spare() })
    }

    /// The next connection, if one waits. Where no descriptor is left for it, it is closed: its program goes on with the
    /// kernel's sockets, and does not wait for an answer.
    pub(super) fn accept(&mut self) -> Option<OwnedFd> {
        let socket = match self.socket.accept() {
            Ok((socket, _)) => socket,
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    tracing::warn!(%error, "a control connection is refused");
                    self.turn_away();
                }
                return None;
            }
        };
        socket.set_nonblocking(true).ok()?;
        Some(socket.into())
    }

    fn turn_away(&mut self) {
        self.spare = None;
        drop(self.socket.accept());
        self.spare = spare();
        if self.spare.is_none() {
            // Somebody else took it. Who waits is seen again at once, which must not be spun on.
            thread::sleep(PAUSE);
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn new_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
