//! The receiving side: from an IP packet to the datagrams in it.

use crate::table::{Binding, Flow, SocketKey, Table};
use freena_stack_api::RxChecksum;
use freena_wire::{
    Packet,
    udp::{self, Verdict},
};

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The UDP header is truncated or its length field contradicts the packet (RFC 768, "Length").
    Malformed,
    /// The checksum is wrong (RFC 1122 section 4.1.3.4), or missing where it must not be (RFC 8200 section 8.1).
    Checksum,
    /// No socket has the port.
    NoSocket,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpStats {
    /// Datagrams handed to a socket.
    pub delivered: u64,
    /// [`Drop::Malformed`].
    pub malformed: u64,
    /// [`Drop::Checksum`].
    pub checksum: u64,
    /// [`Drop::NoSocket`].
    pub no_socket: u64,
    /// Datagrams accepted with the partial checksum that a virtual device leaves.
    pub partial_checksum: u64,
}

/// One or more datagrams of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Socket it is for.
    pub socket: SocketKey,
    /// Its addresses.
    pub flow: Flow,
    /// Payload of the datagrams, back to back.
    pub payload: &'a [u8],
    /// Bytes of each datagram but the last, which may be shorter; 0 when it is one datagram.
    pub segment: u16,
}

/// The engine.
#[derive(Debug, Default)]
pub struct Udp {
    table: Table,
    stats: UdpStats,
}

impl Udp {
    /// Opens a socket, or changes what it is bound to.
    pub fn bind(&mut self, key: SocketKey, binding: Binding) {
        self.table.insert(key, binding);
    }

    /// Closes a socket that was bound to `port`.
    pub fn close(&mut self, key: SocketKey, port: u16) {
        self.table.remove(key, port);
    }

    /// The socket that a datagram with these addresses is for.
    pub fn find(&self, flow: &Flow) -> Option<SocketKey> {
        self.table.lookup(flow)
    }

    /// The packet that no socket had is another engine's: it is not counted.
    pub fn disclaim(&mut self) {
        self.stats.no_socket = self.stats.no_socket.saturating_sub(1);
    }

    /// What was counted.
    pub fn stats(&self) -> UdpStats {
        self.stats
    }

    /// Takes a whole (reassembled) IP packet whose protocol is UDP.
    ///
    /// `segment` is the payload length per datagram where the packet is a super-packet, else 0.
    ///
    /// # Errors
    /// Why it is not delivered; counted.
    pub fn receive<'a>(
        &mut self,
        packet: &Packet<'a>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
    ) -> Result<Datagram<'a>, Drop> {
        let header = udp::Header::parse(packet.payload).map_err(|_| {
            self.stats.malformed += 1;
            Drop::Malformed
        })?;
        let flow = Flow {
            src: packet.src,
            src_port: header.src_port(),
            dst: packet.dst,
            dst_port: header.dst_port(),
            ifindex,
        };
        let Some(socket) = self.table.lookup(&flow) else {
            self.stats.no_socket += 1;
            return Err(Drop::NoSocket);
        };
        if !self.checksum_holds(&header, packet, checksum) {
            self.stats.checksum += 1;
            return Err(Drop::Checksum);
        }
        let payload = header.payload();
        let segment = if usize::from(segment) < payload.len() { segment } else { 0 };
        self.stats.delivered +=
            if segment == 0 { 1 } else { payload.len().div_ceil(usize::from(segment)) as u64 };
        Ok(Datagram { socket, flow, payload, segment })
    }

    fn checksum_holds(&mut self, header: &udp::Header<'_>, packet: &Packet<'_>, known: RxChecksum) -> bool {
        match known {
            RxChecksum::Verified => true,
            // Looked at first: on such a link nearly every datagram has it, and it costs no pass over the payload.
            RxChecksum::MayBePartial if header.is_partial(packet.src, packet.dst) => {
                self.stats.partial_checksum += 1;
                true
            }
            RxChecksum::MayBePartial | RxChecksum::Unknown => {
                matches!(header.verify(packet.src, packet.dst), Ok(Verdict::Right | Verdict::Absent))
            }
        }
    }
}

#[cfg(test)]
mod tests;
