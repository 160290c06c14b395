//! Requests to the kernel over rtnetlink (man 7 rtnetlink), one at a time.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// Room for one datagram: the kernel makes dump replies of at most 32 KiB.
pub(super) const BUFFER: usize = 64 * 1024;

/// A dump during which the tables changed is done again this often, then taken as it is: the changes arrive as events.
const DUMP_RETRIES: usize = 3;

/// What came of one message of a datagram.
pub(super) type Decoded = Result<NetlinkMessage<RouteNetlinkMessage>, netlink_packet_core::DecodeError>;

/// Hands each message of a received datagram to `sink`.
pub(super) fn messages(mut datagram: &[u8], mut sink: impl FnMut(Decoded)) {
    while let Some(length) = datagram.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        if length < 16 || length > datagram.len() {
            break;
        }
        sink(NetlinkMessage::deserialize(&datagram[..length]));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

/// A socket for requests and their replies.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub(super) fn open() -> io::Result<Requests> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Requests { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Everything that `request`, an `RTM_GET*`, lists.
    pub(super) fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut retries = 0;
        loop {
            let mut listed = Vec::new();
            let interrupted = self.transact(request.clone(), NLM_F_REQUEST | NLM_F_DUMP, &mut listed)?;
            if !interrupted || retries == DUMP_RETRIES {
                return Ok(listed);
            }
            retries += 1;
        }
    }

    /// The one reply to `request`, with an acknowledgement so that none but an error is an answer too.
    pub(super) fn get(&mut self, request: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut replies = Vec::new();
        self.transact(request, NLM_F_REQUEST | NLM_F_ACK, &mut replies)?;
        Ok(replies.into_iter().next())
    }

    /// Has the kernel do what `request` says, with further `flags`.
    pub(super) fn act(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.transact(request, NLM_F_REQUEST | NLM_F_ACK | flags, &mut Vec::new()).map(drop)
    }

    /// Sends and collects until the end mark, acknowledgement or error of this request. Returns whether the tables
    /// changed meanwhile.
    fn transact(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        replies: &mut Vec<RouteNetlinkMessage>,
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let (mut interrupted, mut end) = (false, None);
        while end.is_none() {
            let got = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                got => got?,
            };
            let sequence = self.sequence;
            messages(&self.buffer[..got.min(BUFFER)], |decoded| {
                // What cannot be decoded is of a kind that is not mirrored.
                let Ok(message) = decoded else { return };
                if message.header.sequence_number != sequence {
                    return;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(reply) => replies.push(reply),
                    NetlinkPayload::Done(_) => end = Some(Ok(())),
                    NetlinkPayload::Error(error) => {
                        end = Some(match error.code {
                            None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        });
                    }
                    _ => {}
                }
            });
        }
        end.unwrap_or(Ok(())).map(|()| interrupted)
    }
}
