//! Whether a program trusts the process that listens on its control socket: whoever serves a program sees and forges all that
//! its sockets carry.
//!
//! Root and the program's own user are trusted, they could do that anyway. Another user is trusted where the socket's path is
//! his by the will of root or of the program's user: every folder on the way belongs to one of the three, and nobody else may
//! write to it. So `/run/freena/eth0/control` of a service with a user of its own is used, and what somebody has put under a
//! name in `/tmp` is not.

/// Bits of a mode that let others than the owner write: `S_IWGRP | S_IWOTH` (inode(7)).
const OTHERS_WRITE: u32 = 0o022;

/// Whether `server`, the user of the process that listens (`SO_PEERCRED`, unix(7)), is trusted by the effective user `own`.
///
/// `folder` tells owner and mode of a folder on the way to the absolute `path`, or `None` where that cannot be told. It is not
/// asked where the user alone decides.
pub fn is_trusted(
    server: u32,
    own: u32,
    path: &[u8],
    mut folder: impl FnMut(&[u8]) -> Option<(u32, u32)>,
) -> bool {
    if server == 0 || server == own {
        return true;
    }
    let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    path.starts_with(b"/")
        && ends.all(|end| {
            folder(&path[..end.max(1)]).is_some_and(|(owner, mode)| {
                (owner == 0 || owner == own || owner == server) && mode & OTHERS_WRITE == 0
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1000;
    const SERVICE: u32 = 61_184;

    /// Folders as they are on a usual host.
    fn host(path: &[u8]) -> Option<(u32, u32)> {
        match path {
            b"/" | b"/run" | b"/run/freena" | b"/home" => Some((0, 0o40_755)),
            b"/tmp" => Some((0, 0o41_777)),
            b"/srv" => Some((0, 0o42_775)),
            b"/run/freena/eth0" | b"/tmp/service" => Some((SERVICE, 0o40_755)),
            b"/home/own" => Some((OWN, 0o40_755)),
            b"/home/other" => Some((1001, 0o40_755)),
            _ => None,
        }
    }

    #[test]
    fn root_and_the_own_user_are_trusted_anywhere() {
        for server in [0, OWN] {
            assert!(is_trusted(server, OWN, b"relative", |_| panic!("no folder is asked")));
        }
    }

    #[test]
    fn others_are_trusted_where_nobody_else_could_listen() {
        let trusted = |path: &[u8]| is_trusted(SERVICE, OWN, path, host);
        assert!(trusted(b"/run/freena/eth0/control"));
        assert!(trusted(b"/home/own/control"));
        assert!(!trusted(b"/tmp/control"), "anybody may have put it there");
        assert!(!trusted(b"/tmp/service/control"), "anybody may have made the folder");
        assert!(!trusted(b"/srv/control"), "a group may have put it there");
        assert!(!trusted(b"/home/other/control"), "a third user may have put it there");
        assert!(!trusted(b"/nowhere/control"));
        assert!(!trusted(b"control"));
    }
}
