//! UDP (RFC 768), sans-IO: which socket a datagram belongs to, whether it may be delivered, and how datagrams that queue up for one
//! destination become bursts.
//!
//! The engine holds no payload and no clock. [`Udp::receive`] is given a parsed IP packet and lends back the datagrams in
//! it with the key of their socket; [`coalesce::Run`] is asked, datagram by datagram, what may leave in one burst. Whoever drives the
//! engine copies between the packet and the socket's ring.

#![forbid(unsafe_code)]

pub mod coalesce;
mod receive;
mod table;

pub use receive::{Datagram, Drop, Udp, UdpStats};
pub use table::{Binding, Flow, SocketKey, Table};
