//! TCP behind the boundary that all stream protocols share.

use crate::{
    ConnectError, Driver, Drop, Event, Flow, Handle, IcmpError, Info, ListenerKey, Listening, Options, Path,
    Refused, State, Stats, Tcp, Transmit,
};
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{Protocol, Source};
use freena_wire::Packet;
use std::time::Instant;

impl Protocol for Tcp {
    fn listen(&mut self, key: ListenerKey, listening: Listening) {
        Tcp::listen(self, key, listening);
    }

    fn unlisten(&mut self, key: ListenerKey) {
        Tcp::unlisten(self, key);
    }

    fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        Tcp::connect(self, now, flow, path, receive_buffer, options)
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        Tcp::handle_packet(self, now, packet, checksum, segment, ifindex, driver)
    }

    fn knows(&self, flow: &Flow) -> bool {
        Tcp::knows(self, flow)
    }

    fn handle_timeout(&mut self, now: Instant) {
        Tcp::handle_timeout(self, now);
    }

    fn handle_icmp(&mut self, now: Instant, flow: &Flow, quoted: [u8; 8], error: IcmpError) {
        let [.., a, b, c, d] = quoted;
        Tcp::handle_icmp(self, now, flow, u32::from_be_bytes([a, b, c, d]), error);
    }

    fn set_path(&mut self, now: Instant, connection: Handle, path: Path) {
        Tcp::set_path(self, now, connection, path);
    }

    fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused> {
        Tcp::written(self, now, connection, position)
    }

    fn urgent(&mut self, now: Instant, connection: Handle, position: u64) {
        Tcp::urgent(self, now, connection, position);
    }

    fn read(&mut self, now: Instant, connection: Handle, position: u64) {
        Tcp::read(self, now, connection, position);
    }

    fn wants_read(&self, connection: Handle) -> bool {
        Tcp::wants_read(self, connection)
    }

    fn shutdown(&mut self, now: Instant, connection: Handle) {
        Tcp::shutdown(self, now, connection);
    }

    fn close(&mut self, now: Instant, connection: Handle, unread: bool) {
        Tcp::close(self, now, connection, unread);
    }

    fn abort(&mut self, now: Instant, connection: Handle) {
        Tcp::abort(self, now, connection);
    }

    fn set_options(&mut self, now: Instant, connection: Handle, options: &Options) {
        Tcp::set_options(self, now, connection, options);
    }

    fn poll_event(&mut self) -> Option<Event> {
        Tcp::poll_event(self)
    }

    /// The payload is not looked at: the link completes the checksum.
    fn poll_transmit(&mut self, now: Instant, _: &mut dyn Source) -> Option<Transmit> {
        Tcp::poll_transmit(self, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Tcp::poll_timeout(self)
    }

    fn state(&self, connection: Handle) -> Option<State> {
        Tcp::state(self, connection)
    }

    fn sent(&self, connection: Handle) -> u64 {
        Tcp::sent(self, connection)
    }

    fn info(&self, connection: Handle) -> Option<Info> {
        Tcp::info(self, connection)
    }

    fn stats(&self) -> Stats {
        Tcp::stats(self)
    }
}
