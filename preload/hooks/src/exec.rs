//! New programs in the place of this one, or started by it.
//!
//! The libc's `execl`, `execle` and `execlp` call its own `execve` internally and are not seen here, nor are the shells of
//! system(3) and popen(3), which have the library.

use core::ffi::{c_char, c_int, c_void};
use freena_preload_control::next;
use freena_preload_interface::program::Name;
use freena_preload_interface::{exec, spawn};
use libc::pid_t;

type Strings = *const *const c_char;

unsafe extern "C" {
    #[link_name = "environ"]
    static ENVIRONMENT: Strings;
}

/// execve(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the program's.
    unsafe {
        exec::before(Name::Path(path), environment);
        next::execve(path, arguments, environment)
    }
}

/// execv(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the program's.
    unsafe { execve(path, arguments, ENVIRONMENT) }
}

/// execvpe(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the program's.
    unsafe {
        exec::before(Name::Searched(file), environment);
        next::execvpe(file, arguments, environment)
    }
}

/// execvp(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the program's.
    unsafe { execvpe(file, arguments, ENVIRONMENT) }
}

/// fexecve(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the program's.
    unsafe {
        exec::before(Name::Open(fd), environment);
        next::fexecve(fd, arguments, environment)
    }
}

/// posix_spawn(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the program's.
    unsafe {
        let prepared = spawn::before(Name::Path(path), actions, environment);
        let actions = prepared.as_ref().map_or(actions, |prepared| prepared.actions());
        next::posix_spawn(pid, path, actions, attributes, arguments, environment)
    }
}

/// posix_spawnp(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the program's.
    unsafe {
        let prepared = spawn::before(Name::Searched(file), actions, environment);
        let actions = prepared.as_ref().map_or(actions, |prepared| prepared.actions());
        next::posix_spawnp(pid, file, actions, attributes, arguments, environment)
    }
}
