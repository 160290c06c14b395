//! Numbers that nobody can guess.

/// 32 random bytes of the kernel's, by getrandom(2): a program may have locked itself in where no file is.
///
/// # Errors
/// The kernel has none.
pub(crate) fn nonce() -> Result<[u8; 32], getrandom::Error> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}
