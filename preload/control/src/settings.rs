//! What `freena run` resolved for this program, from the environment.
//!
//! `FREENA_SETTINGS` is a list of `key=value` separated by spaces. Unknown keys are ignored, so that an older library
//! runs under a newer `freena`.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::str::FromStr;
use freena_shm_abi::control::{DEFAULT_PATH, ENV_CONTROL, ENV_SETTINGS};

/// Longest path of a control socket: `sun_path` of unix(7) less the final NUL.
pub const MAX_PATH: usize = 107;

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `datagram=udp`: datagram sockets use framework UDP. Default: false; with `stream` false too, nothing is hooked.
    pub datagram: bool,
    /// `stream=tcp`: stream sockets use framework TCP. Default: false.
    pub stream: bool,
    /// `spin_us=N`: how long to look again and again before sleeping, in microseconds, 0 to 10,000. Default 50. More
    /// costs processor time of an idle program, less costs latency.
    pub spin_us: u32,
    /// `tx_size=N`: bytes of a transmit ring, 0 for the server's default.
    pub tx_size: u32,
    /// `rx_size=N`: bytes of a receive ring, 0 for the server's default.
    pub rx_size: u32,
    /// `FREENA_LOG=1`: tell each decision on stderr. Default: false.
    pub log: bool,
    path: [u8; MAX_PATH],
    path_len: usize,
}

impl Settings {
    /// Everything by default: the library does nothing.
    pub const DEFAULT: Settings = Settings {
        datagram: false,
        stream: false,
        spin_us: 50,
        tx_size: 0,
        rx_size: 0,
        log: false,
        path: [0; MAX_PATH],
        path_len: 0,
    };

    /// Reads settings as the environment variables have them.
    pub fn parse(settings: Option<&[u8]>, control: Option<&[u8]>, log: Option<&[u8]>) -> Self {
        let mut parsed = Settings::DEFAULT;
        let path = control.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_PATH.as_bytes());
        // A longer path cannot be connected to; it is left empty, and the attempt says so.
        if path.len() <= MAX_PATH {
            parsed.path[..path.len()].copy_from_slice(path);
            parsed.path_len = path.len();
        }
        parsed.log = log.is_some_and(|value| !value.is_empty() && value != b"0");
        for word in settings.unwrap_or_default().split(|byte| *byte == b' ') {
            let mut parts = word.splitn(2, |byte| *byte == b'=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else { continue };
            match key {
                b"datagram" => parsed.datagram = value == b"udp",
                b"stream" => parsed.stream = value == b"tcp",
                b"spin_us" => set(&mut parsed.spin_us, value, 10_000),
                b"tx_size" => set(&mut parsed.tx_size, value, u32::MAX),
                b"rx_size" => set(&mut parsed.rx_size, value, u32::MAX),
                _ => {}
            }
        }
        parsed
    }

    /// Whether the library has anything to do at all.
    pub fn is_active(&self) -> bool {
        self.datagram || self.stream
    }

    /// Path of the control socket; empty if the one given is too long.
    pub fn control_path(&self) -> &[u8] {
        &self.path[..self.path_len]
    }
}

fn set(field: &mut u32, value: &[u8], max: u32) {
    if let Some(number) = core::str::from_utf8(value).ok().and_then(|text| u32::from_str(text).ok()) {
        *field = number.min(max);
    }
}

struct Holder(UnsafeCell<Settings>);

// SAFETY: written only by `load`, which the constructor calls before the program's own code runs.
unsafe impl Sync for Holder {}

static SETTINGS: Holder = Holder(UnsafeCell::new(Settings::DEFAULT));

/// Reads the environment.
///
/// # Safety
/// Only for the constructor: no other thread runs, and nobody holds what [`get`] returned.
pub unsafe fn load() {
    // SAFETY: the names are NUL-terminated; no other thread changes the environment (contract).
    let variable = |name: &CStr| unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    };
    debug_assert!(ENV_SETTINGS == "FREENA_SETTINGS" && ENV_CONTROL == "FREENA_CONTROL");
    let parsed =
        Settings::parse(variable(c"FREENA_SETTINGS"), variable(c"FREENA_CONTROL"), variable(c"FREENA_LOG"));
    // SAFETY: nobody else looks at it now (contract).
    unsafe { *SETTINGS.0.get() = parsed };
}

/// The settings in force.
pub fn get() -> &'static Settings {
    // SAFETY: never written after the constructor.
    unsafe { &*SETTINGS.0.get() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_hooks_nothing() {
        let settings = Settings::parse(None, None, None);
        assert!(!settings.is_active());
        assert_eq!(settings.control_path(), DEFAULT_PATH.as_bytes());
    }

    #[test]
    fn known_keys_are_read_and_bounded_and_others_ignored() {
        assert!(Settings::parse(Some(b"v=1 stream=tcp"), None, None).stream);
        let text = b"v=1 datagram=udp spin_us=999999 tx_size=262144 colour=red junk rx_size=x";
        let settings = Settings::parse(Some(text), Some(b"/tmp/c"), Some(b"1"));
        assert!(settings.datagram && !settings.stream && settings.log);
        assert_eq!((settings.spin_us, settings.tx_size, settings.rx_size), (10_000, 262_144, 0));
        assert_eq!(settings.control_path(), b"/tmp/c");
        assert!(!Settings::parse(Some(b"datagram=kernel"), None, None).datagram);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        assert!(Settings::parse(None, Some(&[b'x'; 108]), None).control_path().is_empty());
    }
}
