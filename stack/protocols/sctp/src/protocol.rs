//! The engine as its driver sees it.

use crate::Sctp;
use crate::wire::cause;
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{
    ConnectError, Driver, Drop, Event, Flow, Handle, IcmpError, Info, ListenerKey, Listening, Options, Path,
    Protocol, Refused, Source, State, Stats, Transmit,
};
use freena_wire::Packet;
use std::time::Instant;

impl Protocol for Sctp {
    fn listen(&mut self, key: ListenerKey, listening: Listening) {
        self.engine.listeners.insert(key, listening);
    }

    fn unlisten(&mut self, key: ListenerKey) {
        self.engine.listeners.remove(key);
    }

    fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        self.engine.connect(now, flow, path, receive_buffer, options)
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        _checksum: RxChecksum,
        _segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let result = self.engine.packet(now, packet, ifindex, driver);
        result.inspect_err(|drop| self.engine.count(*drop))
    }

    fn knows(&self, flow: &Flow) -> bool {
        self.engine.knows(flow)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    fn handle_icmp(&mut self, now: Instant, flow: &Flow, quoted: [u8; 8], error: IcmpError) {
        let tag = u32::from_be_bytes([quoted[4], quoted[5], quoted[6], quoted[7]]);
        self.engine.icmp(now, flow, tag, error);
    }

    fn set_path(&mut self, now: Instant, connection: Handle, path: Path) {
        self.engine.with(now, connection, |it, _| it.set_path(path));
    }

    fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused> {
        let done = self.engine.with(now, connection, |it, env| it.written(env.now, position));
        done.unwrap_or(Err(Refused::Over))
    }

    /// SCTP has no urgent data (RFC 6458 section 4.1): the bytes are sent as any others.
    fn urgent(&mut self, _: Instant, _: Handle, _: u64) {}

    fn read(&mut self, now: Instant, connection: Handle, position: u64) {
        self.engine.with(now, connection, |it, env| it.read(env, position));
    }

    fn wants_read(&self, connection: Handle) -> bool {
        self.engine.association(connection).is_some_and(|it| it.receive.is_narrow())
    }

    fn shutdown(&mut self, now: Instant, connection: Handle) {
        self.engine.with(now, connection, |it, _| it.shutdown());
    }

    fn close(&mut self, now: Instant, connection: Handle, unread: bool) {
        self.engine.with(now, connection, |it, env| it.close(env, unread));
    }

    fn abort(&mut self, now: Instant, connection: Handle) {
        self.engine.with(now, connection, |it, env| {
            it.closed = true;
            it.abort(env, cause::USER_INITIATED);
        });
    }

    fn set_options(&mut self, now: Instant, connection: Handle, options: &Options) {
        self.engine.with(now, connection, |it, _| it.set_options(options));
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.engine.poll_event()
    }

    fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit> {
        self.engine.poll_transmit(now, source)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    fn state(&self, connection: Handle) -> Option<State> {
        self.engine.association(connection).map(|it| it.state())
    }

    fn sent(&self, connection: Handle) -> u64 {
        self.engine.association(connection).map_or(0, |it| it.send.next)
    }

    fn info(&self, connection: Handle) -> Option<Info> {
        self.engine.association(connection).map(|it| it.info())
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
