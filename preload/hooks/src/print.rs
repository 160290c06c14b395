//! dprintf(3) and its like: the libc's own write by its own system calls, which no hook sees.
//!
//! What is to be written to a socket is formatted by the libc into memory, and written by the hook: all of it
//! at once, where the libc would write what does not fit into its buffer in pieces. Lists of arguments are
//! those of the System V ABI for x86-64 (section 3.5.7).

use crate::data;
use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use freena_preload_control::next;
use libc::size_t;

/// Longest text that needs no memory of its own, with the closing NUL.
const SHORT: usize = 2048;

/// `va_list`: an array of one of these, which is passed as a pointer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Arguments {
    gp_offset: u32,
    fp_offset: u32,
    overflow_arg_area: *mut c_void,
    reg_save_area: *mut c_void,
}

unsafe extern "C" {
    fn __vsnprintf_chk(
        to: *mut c_char,
        max: size_t,
        flag: c_int,
        room: size_t,
        format: *const c_char,
        arguments: *mut Arguments,
    ) -> c_int;
}

/// Formats and writes; what the functions return: the length, or -1.
///
/// # Safety
/// That of vdprintf(3).
unsafe fn print(fd: c_int, flag: c_int, format: *const c_char, arguments: *mut Arguments) -> c_int {
    let mut short = [0u8; SHORT];
    // SAFETY: the arguments fit the format (contract); the first run uses a copy of them. The mapping is as long as what is
    // written into it. No destructor is pending where writing may block.
    unsafe {
        let mut copy = *arguments;
        let len = __vsnprintf_chk(short.as_mut_ptr().cast(), SHORT, flag, SHORT, format, &mut copy);
        let Ok(length) = usize::try_from(len) else { return len };
        if length < SHORT {
            return if write(fd, short.as_ptr(), length) { len } else { -1 };
        }
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let long = libc::mmap(ptr::null_mut(), length + 1, access, flags, -1, 0);
        if long == libc::MAP_FAILED {
            return -1;
        }
        __vsnprintf_chk(long.cast(), length + 1, flag, length + 1, format, arguments);
        let written = write(fd, long.cast(), length);
        libc::munmap(long, length + 1);
        if written { len } else { -1 }
    }
}

/// Writes all of it; whether that worked.
unsafe fn write(fd: c_int, bytes: *const u8, len: usize) -> bool {
    let mut done = 0;
    while done < len {
        // SAFETY: the caller's: `len` bytes are readable.
        let wrote = unsafe { data::write(fd, bytes.add(done).cast(), len - done) };
        if wrote <= 0 {
            return false;
        }
        done += wrote as usize;
    }
    true
}

/// vdprintf(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn vdprintf(
    fd: c_int,
    format: *const c_char,
    arguments: *mut Arguments,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        if crate::is_ours(fd) {
            return print(fd, 0, format, arguments);
        }
        next::vdprintf(fd, format, arguments.cast())
    }
}

/// vdprintf(3) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __vdprintf_chk(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    arguments: *mut Arguments,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        if crate::is_ours(fd) {
            return print(fd, flag, format, arguments);
        }
        next::__vdprintf_chk(fd, flag, format, arguments.cast())
    }
}

/// The body of a variadic function: makes a list of the arguments behind the fixed ones, of which `$used` bytes of registers
/// are taken, and calls `$target` with it in `$register`.
macro_rules! with_list {
    ($used:literal, $register:literal, $target:path) => {
        naked_asm!(
            ".cfi_startproc",
            "endbr64",
            "sub rsp, 216",
            ".cfi_adjust_cfa_offset 216",
            // The registers, in the order of the save area.
            "mov [rsp + 48], rdx",
            "mov [rsp + 56], rcx",
            "mov [rsp + 64], r8",
            "mov [rsp + 72], r9",
            "test al, al",
            "je 2f",
            "movaps [rsp + 80], xmm0",
            "movaps [rsp + 96], xmm1",
            "movaps [rsp + 112], xmm2",
            "movaps [rsp + 128], xmm3",
            "movaps [rsp + 144], xmm4",
            "movaps [rsp + 160], xmm5",
            "movaps [rsp + 176], xmm6",
            "movaps [rsp + 192], xmm7",
            "2:",
            // The list: offsets of the next general and vector register, what lies on the stack, the save area.
            concat!("mov dword ptr [rsp], ", $used),
            "mov dword ptr [rsp + 4], 48",
            "lea rax, [rsp + 224]",
            "mov [rsp + 8], rax",
            "lea rax, [rsp + 32]",
            "mov [rsp + 16], rax",
            concat!("mov ", $register, ", rsp"),
            "call {target}",
            "add rsp, 216",
            ".cfi_adjust_cfa_offset -216",
            "ret",
            ".cfi_endproc",
            target = sym $target,
        )
    };
}

/// dprintf(3).
///
/// # Safety
/// That of the C function, which has further arguments.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn dprintf(fd: c_int, format: *const c_char) -> c_int {
    with_list!(16, "rdx", vdprintf)
}

/// dprintf(3) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function, which has further arguments.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn __dprintf_chk(fd: c_int, flag: c_int, format: *const c_char) -> c_int {
    with_list!(24, "rcx", __vdprintf_chk)
}
