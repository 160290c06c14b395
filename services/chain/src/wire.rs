//! What goes over the wire around what the services make.
//!
//! A stream begins with [`MAGIC`] in each direction. Then there are frames: kind (1 byte), 0, length of the rest (2 bytes, big
//! endian), the rest. A datagram has [`DATAGRAM_MAGIC`], version and kind in one byte, and two bytes of the digest of the
//! sender's services.

/// Version of the framing.
pub(crate) const VERSION: u8 = 1;
/// What each direction of a stream begins with. The first byte is none of UTF-8, nor of a TLS record, HTTP or SSH.
pub(crate) const MAGIC: [u8; 8] = [0xf7, b'f', b'r', b'e', b'e', b'n', b'a', VERSION];
/// Bytes before the rest of a frame.
pub(crate) const HEADER: usize = 4;
/// Most bytes of the rest.
pub(crate) const MAX_REST: usize = u16::MAX as usize;
/// What a datagram begins with.
pub(crate) const DATAGRAM_MAGIC: u8 = 0xf7;
/// Bytes before the rest of a datagram.
pub(crate) const DATAGRAM_HEADER: usize = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Frame {
    /// What an end offers.
    Hello = 1,
    /// A service's message before the flow begins: its index, the message.
    Handshake = 2,
    /// Empty, through the services: proves the key.
    Confirm = 3,
    /// Bytes of the program, through the services.
    Data = 4,
    /// Empty, through the services: the direction ends.
    End = 5,
    /// Why the flow ends, in the clear: an [`crate::Alert`], words.
    Alert = 6,
    /// About a change, through the services: [`crate::change`].
    Control = 7,
}

impl Frame {
    pub(crate) fn of(kind: u8) -> Option<Self> {
        use Frame::*;
        [Hello, Handshake, Confirm, Data, End, Alert, Control].into_iter().find(|it| *it as u8 == kind)
    }
}

/// The header of a frame.
pub(crate) fn header(frame: Frame, rest: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(rest).expect("promises are bounded such that a frame fits").to_be_bytes();
    [frame as u8, 0, high, low]
}

/// The length of the first frame of `bytes`, header included; `None` if that is not there yet.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    Some(HEADER + usize::from(u16::from_be_bytes([header[2], header[3]])))
}

/// Takes a message apart, from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[it]| it)
    }
}

/// `bytes`, at most 200 of them, as words of another host that may be shown.
pub(crate) fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).escape_debug().to_string()
}
