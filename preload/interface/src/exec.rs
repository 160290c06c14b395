//! Before another program takes this process over.
//!
//! A program that will have this library finds its framework sockets by itself. One that will not (statically linked,
//! set-user-ID, an environment without the library) gets the kernel's own sockets back under the same numbers.

use crate::stream;
use crate::table::{self, Entry};
use core::ffi::{CStr, c_char, c_int};
use freena_preload_control::{client, log, process, settings, sys};
use freena_shm_abi::control::{Request, op};

/// Name of the library's file, as `LD_PRELOAD` has it.
const LIBRARY: &[u8] = b"libfreena_preload.so";
const VARIABLE: &[u8] = b"LD_PRELOAD=";

/// Why a program will not have the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Its environment does not name it.
    Environment,
    /// It is statically linked.
    Static,
    /// It is set-user-ID or set-group-ID: the dynamic linker ignores `LD_PRELOAD`.
    Privileged,
}

impl Without {
    const fn words(self) -> &'static str {
        match self {
            Without::Environment => "its environment does not name the library",
            Without::Static => "it is statically linked",
            Without::Privileged => "it is set-user-ID or set-group-ID",
        }
    }
}

/// Before execve(2) and its like: `path` where it is known.
///
/// # Safety
/// The pointers are what the program passed.
pub unsafe fn before(path: *const c_char, environment: *const *const c_char) {
    if !settings::get().is_active() || !shares_sockets() {
        return;
    }
    // SAFETY: the caller's.
    if let Some(why) = unsafe { without(path, environment) } {
        log::decision(format_args!("the new program goes without the framework: {}", why.words()));
        give_back();
    }
}

/// Before posix_spawn(3), whose child runs nothing of this library: tells what will not work.
///
/// # Safety
/// The pointers are what the program passed.
pub unsafe fn before_spawn(path: *const c_char, environment: *const *const c_char) {
    if !settings::get().is_active() || !shares_sockets() {
        return;
    }
    // SAFETY: the caller's.
    if let Some(why) = unsafe { without(path, environment) } {
        log::decision(format_args!(
            "sockets that a spawned program inherits will not work in it: {}",
            why.words()
        ));
    }
}

/// Whether a framework socket survives an exec.
fn shares_sockets() -> bool {
    table::tracked(0, u32::MAX).any(survives)
}

fn survives(fd: c_int) -> bool {
    matches!(table::get(fd), Entry::Framework(_))
        && sys::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
}

/// Why the program will not have the library, if so.
unsafe fn without(path: *const c_char, environment: *const *const c_char) -> Option<Without> {
    // SAFETY: the caller's: null, or a list of strings that ends with null.
    if !unsafe { names_library(environment) } {
        return Some(Without::Environment);
    }
    // SAFETY: the caller's: null, or a string.
    if path.is_null() || unsafe { !CStr::from_ptr(path).to_bytes().contains(&b'/') } {
        return None;
    }
    examine(path)
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

/// Looks into the file: set-user-ID, or an ELF file that asks for no dynamic linker.
fn examine(path: *const c_char) -> Option<Without> {
    let fd = sys::open(path, libc::O_RDONLY).ok()?;
    let mode = sys::mode(fd).unwrap_or(0);
    let mut start = [0u8; 4096];
    let len = sys::pread(fd, &mut start, 0).unwrap_or(0);
    let _ = sys::close(fd);
    if mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
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

/// Puts the kernel's own sockets in the place of those that survive.
fn give_back() {
    let vforked = process::is_vfork_child();
    for fd in table::tracked(0, u32::MAX).filter(|fd| survives(*fd)) {
        if table::hold(fd).is_some_and(|held| held.is_stream() && !stream::is_listener(&held)) {
            log::decision(format_args!(
                "connection fd {fd} will not work in the new program: the kernel has no part in it"
            ));
            continue;
        }
        let request = Request::new(op::COMPANION);
        // A vfork child runs in its parent's memory: it must not use, or lock, the parent's connection.
        let reply = if vforked { client::call_apart(&request, &[fd]) } else { client::call(&request, &[fd]) };
        match reply {
            Ok(reply) if reply.fds[0] >= 0 => {
                if sys::dup3(reply.fds[0], fd, 0).is_ok() && !vforked {
                    table::clear(fd);
                }
                client::close_all(&reply.fds);
            }
            Ok(_) => {}
            Err(failure) => log::decision(format_args!("socket fd {fd} could not be given back: {failure}")),
        }
    }
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
