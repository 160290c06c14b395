//! stdio over sockets.
//!
//! The libc's streams read and write by the libc's own system calls, which no hook sees. A stream over a socket is made
//! with functions of its own instead (fopencookie(3)): those that any other caller gets.

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};
use core::{mem, ptr};
use freena_preload_control::next;
use libc::{FILE, size_t, ssize_t};

/// Where the public `struct _IO_FILE` of the GNU libc (bits/types/struct_FILE.h) has `_fileno`.
const FILENO_OFFSET: usize = 112;
/// What `_fileno` is in a stream that fopencookie(3) made.
const NO_FILE: c_int = -2;

/// `cookie_io_functions_t`; it is passed by value.
#[repr(C)]
struct Functions {
    read: unsafe extern "C-unwind" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C-unwind" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: unsafe extern "C-unwind" fn(*mut c_void, *mut i64, c_int) -> c_int,
    close: unsafe extern "C-unwind" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
    static mut stdin: *mut FILE;
    static mut stdout: *mut FILE;
    static mut stderr: *mut FILE;
}

/// The functions' table of such streams, by which they are told from others. Null while there is none.
static TABLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C-unwind" fn read(cookie: *mut c_void, bytes: *mut c_char, len: size_t) -> ssize_t {
    // SAFETY: the caller's buffer. The cookie is the descriptor.
    unsafe { crate::data::read(cookie.addr() as c_int, bytes.cast(), len) }
}

unsafe extern "C-unwind" fn write(cookie: *mut c_void, bytes: *const c_char, len: size_t) -> ssize_t {
    let mut done = 0;
    while done < len {
        // SAFETY: the caller's buffer. The cookie is the descriptor.
        let wrote = unsafe { crate::data::write(cookie.addr() as c_int, bytes.add(done).cast(), len - done) };
        if wrote <= 0 {
            // Fewer bytes than asked for are an error to the libc.
            break;
        }
        done += wrote as usize;
    }
    done as ssize_t
}

unsafe extern "C-unwind" fn seek(_: *mut c_void, _: *mut i64, _: c_int) -> c_int {
    freena_preload_control::sys::set_errno(libc::ESPIPE);
    -1
}

unsafe extern "C-unwind" fn close(cookie: *mut c_void) -> c_int {
    // SAFETY: a plain number.
    unsafe { crate::descriptors::close(cookie.addr() as c_int) }
}

/// fdopen(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller's.
    unsafe {
        if crate::is_ours(fd) && !mode.is_null() {
            return open(fd, mode);
        }
        next::fdopen(fd, mode)
    }
}

/// Makes a stream over a socket; null, with `errno` set, where it cannot be made.
///
/// # Safety
/// `mode` is a string.
unsafe fn open(fd: c_int, mode: *const c_char) -> *mut FILE {
    let cookie = ptr::without_provenance_mut(fd as usize);
    // SAFETY: the functions live as long as the library. The places read and written are those of the libc's public
    // structure, with what fopencookie leaves there; a pointer to the table of functions comes right after it.
    unsafe {
        let stream = fopencookie(cookie, mode, Functions { read, write, seek, close });
        if stream.is_null() {
            return stream;
        }
        let number = stream.byte_add(FILENO_OFFSET).cast::<c_int>();
        if number.read() == NO_FILE {
            // fileno(3) tells it.
            number.write(fd);
        }
        TABLE.store(table_of(stream), Ordering::Relaxed);
        stream
    }
}

/// # Safety
/// It is an open stream.
unsafe fn table_of(stream: *mut FILE) -> *mut c_void {
    // `struct _IO_FILE_plus`: the public structure, of 216 bytes, and a pointer.
    // SAFETY: the caller's.
    unsafe { stream.byte_add(216).cast::<*mut c_void>().read() }
}

/// Whether a stream closes its descriptor by the hook, and may have something to write before.
///
/// # Safety
/// It is an open stream.
pub(crate) unsafe fn is_ours(stream: *mut FILE) -> bool {
    // SAFETY: the caller's.
    !stream.is_null() && unsafe { table_of(stream) } == TABLE.load(Ordering::Relaxed)
}

/// Standard streams whose descriptors are sockets: those that the program was started with (by inetd, say), or that
/// dup2(2) has put there, or that have the lowest number since the program has closed it: by dup(2) or accept(2).
pub(crate) fn standard(fd: c_int) {
    if !(0..=2).contains(&fd) || !crate::is_ours(fd) {
        return;
    }
    // SAFETY: the libc's variables, which programs may assign to. The old stream has nothing of ours in it: what is to be
    // written goes to the socket that is its descriptor's now, by the new one.
    unsafe {
        let (place, mode) = match fd {
            0 => (&raw mut stdin, c"r"),
            1 => (&raw mut stdout, c"w"),
            _ => (&raw mut stderr, c"w"),
        };
        let old = *place;
        if old.is_null() || is_ours(old) {
            return;
        }
        let stream = open(fd, mode.as_ptr());
        if !stream.is_null() {
            if fd == 2 {
                libc::setvbuf(stream, ptr::null_mut(), libc::_IONBF, 0);
            }
            *place = stream;
        }
    }
}

const _: () = assert!(mem::size_of::<Functions>() == 32);
