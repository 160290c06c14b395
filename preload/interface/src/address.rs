//! `sockaddr_in`, `sockaddr_in6` and [`Endpoint`].

use crate::outcome::Error;
use core::mem::{size_of, zeroed};
use core::ptr;
use freena_preload_control::sys::Errno;
use freena_shm_abi::Endpoint;
use libc::{
    AF_INET, AF_INET6, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
};

/// `sockaddr_in6` without its last field: RFC 2133 had none, and the kernel takes it still.
const SIN6_LEN_RFC2133: usize = 24;

/// Reads a destination. `None` for whatever is not a plain address that a socket of this family can send to: the kernel
/// has the right answer to that.
///
/// # Safety
/// `address` is null or readable for `len` bytes.
#[inline]
pub unsafe fn destination(address: *const sockaddr, len: socklen_t, family6: bool) -> Option<Endpoint> {
    let len = len as usize;
    if len < size_of::<sa_family_t>() {
        return None;
    }
    // SAFETY: the caller's; a family fits.
    let family = i32::from(unsafe { address.cast::<sa_family_t>().read_unaligned() });
    let endpoint = match family {
        AF_INET if len >= size_of::<sockaddr_in>() => {
            // SAFETY: the length was checked.
            let v4 = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            from_v4(&v4)
        }
        AF_INET6 if family6 && len >= SIN6_LEN_RFC2133 => {
            // SAFETY: `sockaddr_in6` is plain data, valid when zero.
            let mut v6: sockaddr_in6 = unsafe { zeroed() };
            let take = len.min(size_of::<sockaddr_in6>());
            // SAFETY: both sides have `take` bytes.
            unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), ptr::from_mut(&mut v6).cast(), take) };
            // A flow label is a matter between the program and the kernel's flow label manager.
            if v6.sin6_flowinfo != 0 {
                return None;
            }
            from_v6(&v6)
        }
        _ => return None,
    };
    (endpoint.port != 0).then_some(endpoint)
}

fn from_v4(v4: &sockaddr_in) -> Endpoint {
    let mut addr = freena_shm_abi::endpoint::UNSPECIFIED_V4;
    addr[12..].copy_from_slice(&v4.sin_addr.s_addr.to_ne_bytes());
    Endpoint { addr, scope: 0, port: u16::from_be(v4.sin_port), family: 4, pad: 0 }
}

fn from_v6(v6: &sockaddr_in6) -> Endpoint {
    Endpoint {
        addr: v6.sin6_addr.s6_addr,
        scope: v6.sin6_scope_id,
        port: u16::from_be(v6.sin6_port),
        family: 6,
        pad: 0,
    }
}

/// Reads a name that the kernel filled in; none where it is no Internet address.
pub fn from_storage(storage: &sockaddr_storage) -> Endpoint {
    match i32::from(storage.ss_family) {
        // SAFETY: the storage is larger and aligned more strictly; the kernel filled it in according to the family.
        AF_INET => from_v4(unsafe { &*ptr::from_ref(storage).cast() }),
        // SAFETY: as above.
        AF_INET6 => from_v6(unsafe { &*ptr::from_ref(storage).cast() }),
        _ => Endpoint::NONE,
    }
}

/// Builds the address as a socket of the family shows it; returns its length.
pub fn to_storage(endpoint: &Endpoint, family6: bool, storage: &mut sockaddr_storage) -> usize {
    if family6 {
        // SAFETY: `sockaddr_in6` is plain data, valid when zero.
        let mut v6: sockaddr_in6 = unsafe { zeroed() };
        v6.sin6_family = AF_INET6 as sa_family_t;
        v6.sin6_port = endpoint.port.to_be();
        v6.sin6_addr.s6_addr = endpoint.addr;
        v6.sin6_scope_id = endpoint.scope;
        // SAFETY: the storage is larger and aligned more strictly.
        unsafe { ptr::from_mut(storage).cast::<sockaddr_in6>().write(v6) };
        size_of::<sockaddr_in6>()
    } else {
        // SAFETY: `sockaddr_in` is plain data, valid when zero.
        let mut v4: sockaddr_in = unsafe { zeroed() };
        v4.sin_family = AF_INET as sa_family_t;
        v4.sin_port = endpoint.port.to_be();
        let [.., a, b, c, d] = endpoint.addr;
        v4.sin_addr.s_addr = u32::from_ne_bytes([a, b, c, d]);
        // SAFETY: the storage is larger and aligned more strictly.
        unsafe { ptr::from_mut(storage).cast::<sockaddr_in>().write(v4) };
        size_of::<sockaddr_in>()
    }
}

/// Gives an address to the program as accept(2) describes: cut to `*len`, which then says how long it really is.
///
/// # Errors
/// `EINVAL` for a negative length, as the kernel has it.
///
/// # Safety
/// `len` is valid; `to` is writable for `*len` bytes.
pub unsafe fn give(
    endpoint: &Endpoint,
    family6: bool,
    to: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<(), Error> {
    // SAFETY: the caller's.
    let room = unsafe { *len };
    if room > i32::MAX as u32 {
        return Err(Error::Kernel(Errno(libc::EINVAL)));
    }
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    let have = to_storage(endpoint, family6, &mut storage);
    // SAFETY: the caller's for `to`; the storage has `have` bytes.
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(&storage).cast::<u8>(), to.cast(), have.min(room as usize));
        *len = have as socklen_t;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn round_trip(text: &str, family6: bool) -> Option<Endpoint> {
        let ip: IpAddr = text.parse().expect("an address");
        // SAFETY: plain data.
        let mut storage: sockaddr_storage = unsafe { zeroed() };
        let len = to_storage(&Endpoint::new(ip, 53, 2), family6, &mut storage);
        // SAFETY: the storage has `len` bytes.
        unsafe { destination(ptr::from_ref(&storage).cast(), len as u32, family6) }
    }

    #[test]
    fn addresses_survive_both_ways() {
        assert_eq!(round_trip("10.1.2.3", false).map(|e| e.ip()), Some("10.1.2.3".parse().expect("valid")));
        assert_eq!(
            round_trip("fe80::1", true).map(|e| (e.ip(), e.scope)),
            Some(("fe80::1".parse().expect("valid"), 2))
        );
        assert_eq!(round_trip("10.1.2.3", true).map(|e| e.ip()), Some("10.1.2.3".parse().expect("valid")));
    }

    #[test]
    fn what_the_kernel_must_judge_is_left_to_it() {
        // SAFETY: plain data.
        let mut storage: sockaddr_storage = unsafe { zeroed() };
        let endpoint = Endpoint::new("10.0.0.1".parse().expect("valid"), 53, 0);
        let len = to_storage(&endpoint, false, &mut storage) as u32;
        let address = ptr::from_ref(&storage).cast();
        // SAFETY: the storage has more bytes than any length given.
        unsafe {
            assert!(destination(address, len, false).is_some());
            assert!(destination(address, len - 1, false).is_none(), "short");
            assert!(destination(address, 0, false).is_none(), "empty");
        }
        to_storage(&Endpoint { port: 0, ..endpoint }, false, &mut storage);
        // SAFETY: as above.
        assert!(unsafe { destination(ptr::from_ref(&storage).cast(), len, false) }.is_none(), "port 0");
        to_storage(&Endpoint::new("::1".parse().expect("valid"), 53, 0), true, &mut storage);
        // SAFETY: as above.
        assert!(unsafe { destination(ptr::from_ref(&storage).cast(), 28, false) }.is_none(), "wrong family");
    }
}
