//! QUIC behind the boundary that all stream protocols share.

use crate::Quic;
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{
    ConnectError, Driver, Drop, Event, Flow, Handle, IcmpError, Info, ListenerKey, Listening, Options, Path,
    Protocol, Refused, Source, State, Stats, Transmit,
};
use freena_wire::Packet;
use std::time::Instant;

impl Protocol for Quic {
    fn listen(&mut self, key: ListenerKey, listening: Listening) {
        self.listeners.insert(key, listening);
    }

    fn unlisten(&mut self, key: ListenerKey) {
        // Handshakes of its peers end when they find it gone.
        self.listeners.remove(key);
    }

    fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        self.open(now, flow, path, receive_buffer, options)
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
        self.receive(now, packet, checksum, segment, ifindex, driver)
    }

    fn knows(&self, _: &Flow) -> bool {
        // Connection ids tell an old packet from a new one: a port need not be held after its connection.
        false
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    fn deliver(&mut self, now: Instant, driver: &mut dyn Driver) {
        Quic::deliver(self, now, driver);
    }

    fn handle_icmp(&mut self, now: Instant, flow: &Flow, _: [u8; 8], error: IcmpError) {
        if let Some(&index) = self.flows.get(flow) {
            self.touch(now, Handle(index), |connection, now, events| {
                connection.unreachable(now, error, events)
            });
        }
    }

    fn set_path(&mut self, _: Instant, connection: Handle, path: Path) {
        if let Some(connection) = self.get_mut(connection) {
            connection.path = path;
        }
    }

    fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused> {
        let it = self.get_mut(connection).filter(|it| !it.released).ok_or(Refused::Over)?;
        if position < it.written_to() {
            return Err(Refused::Backwards);
        }
        self.touch(now, connection, |connection, _, _| connection.write(position));
        Ok(())
    }

    fn urgent(&mut self, _: Instant, _: Handle, _: u64) {
        // QUIC has no urgent data: the byte is one like any other.
    }

    fn read(&mut self, _: Instant, connection: Handle, position: u64) {
        if let Some(connection) = self.get_mut(connection) {
            connection.read_to(position);
        }
    }

    fn wants_read(&self, connection: Handle) -> bool {
        self.get(connection).is_some_and(|connection| connection.wants_read())
    }

    fn shutdown(&mut self, now: Instant, connection: Handle) {
        self.touch(now, connection, |connection, _, _| connection.shut());
    }

    fn close(&mut self, now: Instant, connection: Handle, unread: bool) {
        self.touch(now, connection, |connection, now, events| connection.close(now, unread, events));
    }

    fn abort(&mut self, now: Instant, connection: Handle) {
        self.touch(now, connection, |connection, now, events| connection.abort(now, events));
    }

    fn set_options(&mut self, now: Instant, connection: Handle, options: &Options) {
        self.touch(now, connection, |connection, _, _| connection.options = *options);
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit> {
        self.next_transmit(now, source)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn state(&self, connection: Handle) -> Option<State> {
        Some(self.get(connection)?.state())
    }

    fn sent(&self, connection: Handle) -> u64 {
        self.get(connection).map_or(0, |connection| connection.taken)
    }

    fn info(&self, connection: Handle) -> Option<Info> {
        Some(self.get(connection)?.info())
    }

    fn stats(&self) -> Stats {
        self.figures()
    }
}
