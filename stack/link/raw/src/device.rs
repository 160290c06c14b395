//! What the kernel says of a network interface.

use std::{ffi::CString, fs, io, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Drivers whose frames come from this host, with the checksum left to an offload that never happens.
const SOFTWARE: &[&str] =
    &["veth", "netkit", "tun", "tap", "bridge", "dummy", "macvlan", "ipvlan", "team", "bonding"];

/// A network interface.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Name of its driver; empty where the driver tells none.
    pub driver: String,
    /// Number of receive queues in use, at least 1.
    pub queues: u32,
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// An ethtool request: begins with the command, and is as long as the kernel expects for it.
///
/// # Safety
/// The implementor is `repr(C)`, holds integers only, and has the layout that linux/ethtool.h gives to the command that
/// its first field is set to.
unsafe trait Request {}
// SAFETY: the layout of `struct ethtool_drvinfo`, whose size is asserted; only ETHTOOL_GDRVINFO is put into it.
unsafe impl Request for DriverInfo {}
// SAFETY: the layout of `struct ethtool_channels`, whose size is asserted; only ETHTOOL_GCHANNELS is put into it.
unsafe impl Request for Channels {}

impl Device {
    /// Looks `name` up in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `ENODEV` where there is no such interface; what `socket` returns where no socket can be made.
    pub fn open(name: &str) -> io::Result<Device> {
        let c_name = CString::new(name)
            .ok()
            .filter(|c| !c.is_empty() && c.as_bytes().len() < libc::IFNAMSIZ)
            .ok_or_else(|| {
                let message = format!("interface name {name:?}: expected 1 to 15 bytes, none of them 0");
                io::Error::new(io::ErrorKind::InvalidInput, message)
            })?;
        // SAFETY: the pointer is to a string that ends in 0 and outlives the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let control = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        Ok(Device {
            driver: driver(&control, &c_name),
            queues: queues(&control, &c_name),
            name: name.to_owned(),
            index,
        })
    }

    /// Whether frames may arrive that never left this host, with the pseudo-header sum alone in the checksum field.
    pub fn is_software(&self) -> bool {
        SOFTWARE.contains(&self.driver.as_str())
    }
}

fn driver(control: &Socket, name: &CString) -> String {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    if ethtool(control, name, &mut info).is_err() {
        return String::new();
    }
    let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
    String::from_utf8_lossy(&info.driver[..end]).into_owned()
}

fn queues(control: &Socket, name: &CString) -> u32 {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    if ethtool(control, name, &mut channels).is_ok() && channels.rx + channels.combined > 0 {
        return channels.rx + channels.combined;
    }
    // The driver does not tell: sysfs has one entry per queue, if it is mounted for this network namespace.
    let directory = format!("/sys/class/net/{}/queues", name.to_string_lossy());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-")).count().max(1) as u32
}

fn ethtool<T: Request>(control: &Socket, name: &CString, request: &mut T) -> io::Result<()> {
    // SAFETY: all zero is a valid `ifreq`: integers, and pointers that are not followed when null.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    // SAFETY: the name is shorter than IFNAMSIZ and so ends in 0; `ifru_data` points to a request that `Request` vouches
    // to be as long as the kernel reads and writes, and both outlive the call.
    match unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found() {
        let lo = Device::open("lo").unwrap();
        assert!(lo.index > 0 && lo.queues >= 1 && !lo.is_software());
    }

    #[test]
    fn a_missing_or_impossible_name_is_an_error() {
        assert_eq!(Device::open("no-such-if0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        for name in ["", "a-name-of-16-byte", "nul\0"] {
            assert_eq!(Device::open(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
