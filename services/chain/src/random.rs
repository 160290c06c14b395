//! Numbers that nobody can guess.

use std::fs::File;
use std::io::{self, Read};

/// 32 random bytes of the kernel's.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub(crate) fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(nonce)
}
