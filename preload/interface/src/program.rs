//! Programs that are about to be started: whether they will have this library.

use core::ffi::{CStr, c_char, c_int};
use core::ptr;
use freena_preload_control::sys;

/// Name of the library's file, as `LD_PRELOAD` has it.
const LIBRARY: &[u8] = b"libfreena_preload.so";
const VARIABLE: &[u8] = b"LD_PRELOAD=";
/// Where a program is looked for if there is no `PATH` (execvp(3)).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// Longest path, the closing NUL included (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// How a program is named.
#[derive(Clone, Copy)]
pub enum Name {
    /// By a path.
    Path(*const c_char),
    /// By a path, or, without a slash in it, by a name that is looked for in `PATH`.
    Searched(*const c_char),
    /// By an open file.
    Open(c_int),
}

/// Why a program will not have the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Its environment does not name it.
    Environment,
    /// It is statically linked.
    Static,
    /// It is set-user-ID or set-group-ID, or has capabilities: the dynamic linker ignores `LD_PRELOAD`.
    Privileged,
}

impl Without {
    /// The reason in words.
    pub const fn words(self) -> &'static str {
        match self {
            Without::Environment => "its environment does not name the library",
            Without::Static => "it is statically linked",
            Without::Privileged => "it is set-user-ID or set-group-ID, or has file capabilities",
        }
    }
}

/// Why the program will not have the library, if so. A file that cannot be read gets the benefit of the doubt.
///
/// # Safety
/// The pointers are what the program passed to execve(2) and its like: null, a string, a list of strings that ends with
/// null.
pub unsafe fn without(name: Name, environment: *const *const c_char) -> Option<Without> {
    // SAFETY: the caller's.
    unsafe {
        if !names_library(environment) {
            return Some(Without::Environment);
        }
        match name {
            Name::Open(fd) => examine(fd),
            Name::Path(path) | Name::Searched(path) if path.is_null() => None,
            Name::Searched(path) if !CStr::from_ptr(path).to_bytes().contains(&b'/') => {
                find(CStr::from_ptr(path).to_bytes())
            }
            Name::Path(path) | Name::Searched(path) => examine_path(path),
        }
    }
}

unsafe fn names_library(environment: *const *const c_char) -> bool {
    if environment.is_null() {
        return false;
    }
    let mut at = environment;
    // SAFETY: the caller's: the list ends with null.
    unsafe {
        while !(*at).is_null() {
            let variable = CStr::from_ptr(*at).to_bytes();
            if variable.starts_with(VARIABLE) {
                return variable.windows(LIBRARY.len()).any(|part| part == LIBRARY);
            }
            at = at.add(1);
        }
    }
    false
}

/// Looks for a program as execvp(3) does, and into the first that may be executed.
fn find(name: &[u8]) -> Option<Without> {
    // SAFETY: the name is a string; what it returns stays as long as nobody changes the environment.
    let path = unsafe { ptr::NonNull::new(libc::getenv(c"PATH".as_ptr())) };
    // SAFETY: as above.
    let path = path.map_or(DEFAULT_PATH, |path| unsafe { CStr::from_ptr(path.as_ptr()) }.to_bytes());
    for folder in path.split(|byte| *byte == b':') {
        let mut full = [0u8; MAX_PATH];
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        let parts = [folder, slash, name];
        if parts.iter().map(|part| part.len()).sum::<usize>() >= MAX_PATH {
            continue;
        }
        let mut len = 0;
        for part in parts {
            full[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        let Ok(fd) = sys::open(full.as_ptr().cast(), libc::O_RDONLY) else { continue };
        let mode = sys::mode(fd).unwrap_or(0);
        let is_program = mode & libc::S_IFMT == libc::S_IFREG && mode & 0o111 != 0;
        let found = examine(fd);
        let _ = sys::close(fd);
        if is_program {
            return found;
        }
    }
    None
}

fn examine_path(path: *const c_char) -> Option<Without> {
    let fd = sys::open(path, libc::O_RDONLY).ok()?;
    let found = examine(fd);
    let _ = sys::close(fd);
    found
}

/// Looks into the file: set-user-ID, or an ELF file that asks for no dynamic linker.
fn examine(fd: c_int) -> Option<Without> {
    let mode = sys::mode(fd).unwrap_or(0);
    let mut start = [0u8; 4096];
    let len = sys::pread(fd, &mut start, 0).unwrap_or(0);
    if mode & (libc::S_ISUID | libc::S_ISGID) != 0 || sys::has_attribute(fd, c"security.capability") {
        return Some(Without::Privileged);
    }
    is_static_elf(&start[..len]).then_some(Without::Static)
}

/// Whether this is the start of a 64-bit ELF file without `PT_INTERP` (elf(5)). What is no ELF file, or has its program
/// headers elsewhere, gets the benefit of the doubt.
fn is_static_elf(start: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| start.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]) as usize);
    let headers = || {
        (start.starts_with(b"\x7fELF\x02")).then_some(())?;
        let offset = u64::from_ne_bytes(start.get(32..40)?.try_into().ok()?) as usize;
        let (size, count) = (u16_at(54)?, u16_at(56)?);
        for index in 0..count {
            let at = offset.checked_add(index.checked_mul(size)?)?;
            let kind = u32::from_ne_bytes(start.get(at..at.checked_add(4)?)?.try_into().ok()?);
            if kind == PT_INTERP {
                return Some(false);
            }
        }
        Some(count > 0)
    };
    headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let own = std::fs::read("/proc/self/exe").expect("readable");
        assert!(!is_static_elf(&own[..4096]), "tests are linked dynamically");
        let mut none = own[..4096].to_vec();
        none[56..58].copy_from_slice(&1u16.to_ne_bytes());
        assert!(is_static_elf(&none), "the first header is PT_PHDR");
        assert!(!is_static_elf(b"#!/bin/sh\n") && !is_static_elf(b"") && !is_static_elf(b"\x7fELF\x02"));
    }

    #[test]
    fn the_environment_must_name_the_library() {
        let list = |entries: &[&CStr]| {
            let mut pointers: Vec<*const c_char> = entries.iter().map(|entry| entry.as_ptr()).collect();
            pointers.push(core::ptr::null());
            // SAFETY: the list ends with null and lives to the end of the call.
            unsafe { names_library(pointers.as_ptr()) }
        };
        assert!(list(&[c"A=b", c"LD_PRELOAD=/x/libother.so:/lib/libfreena_preload.so"]));
        assert!(!list(&[c"LD_PRELOAD=/x/libother.so"]) && !list(&[]));
    }
}
