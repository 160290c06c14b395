//! What `freena run` resolved for this program, from the environment.
//!
//! `FREENA_SETTINGS` is a list of `key=value` separated by spaces. Unknown keys are ignored, so that an older library
//! runs under a newer `freena`.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::str::FromStr;
use freena_shm_abi::control::{DEFAULT_PATH, ENV_CONTROL, ENV_SETTINGS, MAX_PROTOCOLS};

/// Longest path of a control socket: `sun_path` of unix(7) less the final NUL.
pub const MAX_PATH: usize = 107;

/// What becomes of the sockets of one type that a program makes without asking for a protocol.
///
/// In the environment: `kernel`, `kernel:NUMBER`, or a list of `udp`, `tcp` and IP protocol numbers with commas between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// They are the kernel's. The default.
    Kernel,
    /// They are the kernel's, of another protocol: the number that socket(2) takes.
    KernelProtocol(i32),
    /// The server carries them by these protocols, as in [`freena_shm_abi::control::Request::protocols`].
    Server([u8; MAX_PROTOCOLS]),
}

impl Carrier {
    fn parse(value: &[u8]) -> Self {
        let number = |text: &[u8]| core::str::from_utf8(text).ok()?.parse::<u16>().ok();
        if let Some(protocol) = value.strip_prefix(b"kernel:").and_then(number) {
            return Carrier::KernelProtocol(protocol.into());
        }
        let mut protocols = [0; MAX_PROTOCOLS];
        let words = value.split(|byte| *byte == b',').map(|word| match word {
            b"udp" => libc::IPPROTO_UDP as u8,
            b"tcp" => libc::IPPROTO_TCP as u8,
            other => number(other).and_then(|number| u8::try_from(number).ok()).unwrap_or(0),
        });
        for (place, protocol) in protocols.iter_mut().zip(words) {
            *place = protocol;
        }
        // What cannot be read is nobody's wish.
        if protocols[0] == 0 { Carrier::Kernel } else { Carrier::Server(protocols) }
    }

    /// The number that socket(2) takes, where a program asks for `protocol`.
    #[inline]
    pub fn or_kernels(&self, protocol: i32) -> i32 {
        if let Carrier::KernelProtocol(other) = self { *other } else { protocol }
    }

    /// The protocols, where the server is to carry the sockets.
    pub fn server(&self) -> Option<[u8; MAX_PROTOCOLS]> {
        if let Carrier::Server(protocols) = self { Some(*protocols) } else { None }
    }
}

/// Whether streams by these protocols must never leave this host unencrypted: there is QUIC alone.
pub fn is_sealed(protocols: &[u8; MAX_PROTOCOLS]) -> bool {
    protocols[0] == libc::IPPROTO_UDP as u8 && protocols[1] == 0
}

impl Settings {
    /// Whether streams that a program opens, or those that it accepts, must never leave this host unencrypted.
    pub fn seals_streams(&self) -> bool {
        [self.stream, self.connect].iter().filter_map(Carrier::server).any(|protocols| is_sealed(&protocols))
    }
}

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `datagram=udp`: datagram sockets use framework UDP. Where neither this nor `stream` names protocols of the server,
    /// nothing but socket(2) is hooked.
    pub datagram: Carrier,
    /// `stream=tcp`: stream sockets use framework TCP; `stream=253,6`: protocol 253, and TCP besides.
    pub stream: Carrier,
    /// `connect=253`: as `stream`, for connections that the program opens. Default: as `stream`.
    pub connect: Carrier,
    /// `stagger_ms=N`: milliseconds that one of several protocols may take to answer before the next one is tried too, 10 to
    /// 60,000. Default 250, as RFC 8305 section 8 has it.
    pub stagger_ms: u32,
    /// `spin_us=N`: how long to look again and again before sleeping, in microseconds, 0 to 10,000. Default 50. More
    /// costs processor time of an idle program, less costs latency.
    pub spin_us: u32,
    /// `look=1`: a program that waits by epoll looks at its connections itself while it does not sleep, rather than being sent a
    /// token for each arrival. Default 0: programs with an epoll instance in each of several threads (haproxy) have lost requests.
    pub look: u32,
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
        datagram: Carrier::Kernel,
        stream: Carrier::Kernel,
        connect: Carrier::Kernel,
        stagger_ms: 250,
        spin_us: 50,
        look: 0,
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
        let mut connect = None;
        for word in settings.unwrap_or_default().split(|byte| *byte == b' ') {
            let mut parts = word.splitn(2, |byte| *byte == b'=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else { continue };
            match key {
                b"datagram" => parsed.datagram = Carrier::parse(value),
                b"stream" => parsed.stream = Carrier::parse(value),
                b"connect" => connect = Some(Carrier::parse(value)),
                b"stagger_ms" => set(&mut parsed.stagger_ms, value, 60_000),
                b"spin_us" => set(&mut parsed.spin_us, value, 10_000),
                b"look" => set(&mut parsed.look, value, 1),
                b"tx_size" => set(&mut parsed.tx_size, value, u32::MAX),
                b"rx_size" => set(&mut parsed.rx_size, value, u32::MAX),
                _ => {}
            }
        }
        parsed.connect = connect.unwrap_or(parsed.stream);
        parsed
    }

    /// Whether the server carries anything.
    pub fn is_active(&self) -> bool {
        self.datagram.server().is_some() || self.stream.server().is_some()
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
        let stream = |words: &[u8]| Settings::parse(Some(words), None, None).stream;
        assert_eq!(stream(b"v=1 stream=tcp").server(), Some([6, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(stream(b"stream=253,tcp").server(), Some([253, 6, 0, 0, 0, 0, 0, 0]));
        assert_eq!(stream(b"stream=1,2,3,4,5,6,7,8,9").server(), Some([1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(stream(b"stream=kernel:262"), Carrier::KernelProtocol(262));
        for nothing in [&b"stream=kernel"[..], b"stream=kernel:x", b"stream=sctp", b"stream=", b"stream=300"]
        {
            assert_eq!(stream(nothing), Carrier::Kernel);
        }
        assert!(!Settings::parse(Some(b"stream=kernel:262"), None, None).is_active());
        let connect = |words: &[u8]| Settings::parse(Some(words), None, None).connect;
        assert_eq!(connect(b"stream=253").server(), Some([253, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(connect(b"connect=kernel stream=253"), Carrier::Kernel);
        let text = b"v=1 datagram=udp spin_us=999999 tx_size=262144 colour=red junk rx_size=x";
        let settings = Settings::parse(Some(text), Some(b"/tmp/c"), Some(b"1"));
        assert!(settings.datagram.server().is_some() && settings.stream == Carrier::Kernel && settings.log);
        assert_eq!((settings.spin_us, settings.tx_size, settings.rx_size), (10_000, 262_144, 0));
        assert_eq!(settings.control_path(), b"/tmp/c");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        assert!(Settings::parse(None, Some(&[b'x'; 108]), None).control_path().is_empty());
    }
}
