//! Loads the eBPF programs, and holds the maps that all of them use.
//!
//! The object is part of the library, so that nobody needs a compiler for eBPF. Capabilities: BPF, NET_ADMIN, PERFMON.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod maps;

use std::{error::Error, io};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned, maps::MapError, programs::ProgramError, sys::SyscallError,
};
use freena_ebpf_abi::GLOBAL_REDIRECT_FRAGMENTS;

pub use maps::{Maps, take};

static OBJECT: &[u8] = include_bytes_aligned!("../../freena-xdp.o");

/// Why the object, a map or a program could not be loaded.
pub type LoadError = Box<dyn Error + Send + Sync>;

/// Makes the maps in the kernel, for the programs on one `interface`, which the errors of [`Maps`] name.
///
/// The programs are in the object that is returned, not yet loaded. `redirect_fragments` is
/// [`GLOBAL_REDIRECT_FRAGMENTS`].
///
/// # Errors
/// What the kernel says to the maps; most often that a capability is missing.
pub fn load(interface: &str, redirect_fragments: bool) -> Result<(Ebpf, Maps), LoadError> {
    let redirect_fragments = u8::from(redirect_fragments);
    let mut ebpf = EbpfLoader::new()
        // No program has a relocation against the kernel's types, whose parsing takes longer than all the rest.
        .btf(None)
        .override_global(GLOBAL_REDIRECT_FRAGMENTS, &redirect_fragments, true)
        .load(OBJECT)?;
    let maps = Maps::take(&mut ebpf, interface)?;
    Ok((ebpf, maps))
}

/// What the kernel said to an operation on a map.
pub fn map_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}

/// What the kernel said to an operation on a program.
pub fn program_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}
