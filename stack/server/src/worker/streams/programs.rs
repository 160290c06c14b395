//! From the programs to the engine: what they have written, read, asked for and closed.
//!
//! Everything here is in memory that a program may write at any moment, whatever the rules say: each word is loaded once
//! and bounded; one that cannot be right ends the connection that it belongs to, and no other.

use super::engines::Engines;
use super::table::Connection;
use super::{Worker, events, generation, options};
use crate::worker::{LONGEST_SLEEP, QUIET};
use freena_shm_abi::stream::{Info, shut};
use freena_shm_ring::cursor::Corrupt;
use freena_shm_ring::kick;
use freena_tcp::Handle;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often connections are looked at whose programs may be unable to kick.
pub(super) const STUFFED: Duration = Duration::from_millis(10);
/// How often the figures of a busy connection are shown.
const SHOW_EVERY: Duration = Duration::from_millis(50);

impl Worker {
    /// Looks at the words of all active connections; returns how many had something to say.
    pub(super) fn hear_programs(&mut self) -> usize {
        let mut work = 0;
        let mut index = 0;
        while index < self.streams.table.active.len() {
            let handle = self.streams.table.active[index];
            let before = self.streams.table.active.len();
            work += usize::from(self.hear(handle, false));
            if self.streams.table.get(handle).is_some_and(|connection| connection.unread) {
                self.drain_if_room(handle);
            }
            // The connection may have been aborted, which takes it out of the list.
            index += usize::from(self.streams.table.active.len() == before);
        }
        work
    }

    /// Looks at the words of one connection, at all of its options if `thorough`; whether there was something new.
    fn hear(&mut self, handle: Handle, thorough: bool) -> bool {
        let streams = &mut self.streams;
        let Some(connection) = streams.table.get_mut(handle) else { return false };
        match listen_to(connection, &mut streams.engines, handle, self.now, thorough) {
            Ok(news) => {
                if news {
                    connection.last_work = self.now;
                }
                news
            }
            Err(corrupt) => {
                let socket = connection.stream.id;
                tracing::warn!(socket, %corrupt, "a program broke its transmit ring: the connection is reset");
                self.abandon_stream(handle);
                true
            }
        }
    }

    /// The program broke its side of the contract: resets the connection.
    fn abandon_stream(&mut self, handle: Handle) {
        let Some(connection) = self.streams.table.get_mut(handle) else { return };
        connection.over = true;
        let stream = connection.stream.clone();
        events::fail(&stream, libc::ECONNABORTED);
        events::shut(&stream, libc::SHUT_RDWR);
        self.end_race(handle);
        self.streams.engines.abort(self.now, handle);
    }

    /// A kick, a fill, or the end of a connection's descriptors.
    pub(super) fn peer_of_stream_ready(&mut self, index: u32, seen: u64, events: u32) {
        let handle = Handle(index);
        let Some(connection) = self.streams.table.get_mut(handle) else { return };
        if generation(&connection.stream) != seen {
            return;
        }
        connection.unread = true;
        connection.last_work = self.now;
        if events & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            self.hang_up(handle);
            return;
        }
        self.activate_stream(handle);
        self.hear(handle, true);
        self.drain_if_room(handle);
        // Where there is no room the messages stay unread, so that the program's end stays unwritable; a request for a token
        // may be among them.
        if let Some(connection) = self.streams.table.get(handle)
            && connection.unread
        {
            events::answer(connection, false);
        }
    }

    /// The last descriptor of the program is closed.
    fn hang_up(&mut self, handle: Handle) {
        self.hear(handle, true);
        let streams = &mut self.streams;
        let Some(connection) = streams.table.get_mut(handle) else { return };
        if connection.closing {
            return;
        }
        connection.closing = true;
        self.end_race(handle);
        let streams = &mut self.streams;
        let Some(connection) = streams.table.get_mut(handle) else { return };
        let stream = connection.stream.clone();
        streams.registry.remove(&stream);
        let _ = self.epoll.remove(stream.peer_end.as_raw_fd());
        if stream.memory.page().stream.asked.linger.load(Ordering::Relaxed) == 0 && !connection.over {
            streams.engines.abort(self.now, handle);
        } else {
            let unread = read_position(connection) != Some(connection.arrived);
            streams.engines.close(self.now, handle, unread);
        }
        if connection.active {
            connection.active = false;
            streams.table.active.retain(|other| *other != handle);
        }
    }

    /// Looks at the words of a connection from now on.
    pub(super) fn activate_stream(&mut self, handle: Handle) {
        let Some(connection) = self.streams.table.get_mut(handle) else { return };
        if !connection.active && !connection.over && !connection.closing {
            connection.active = true;
            let page = connection.stream.memory.page();
            page.stream.told.rx_kick.store(0, Ordering::Relaxed);
            kick::resume(&page.tx_kick.0);
            self.streams.table.active.push(handle);
        }
    }

    /// Makes active connections quiet that have said nothing for a while.
    pub(in super::super) fn retire_quiet_streams(&mut self) {
        let now = self.now;
        self.retire_streams(|connection| now.duration_since(connection.last_work) > QUIET);
    }

    /// Makes all connections quiet; whether the worker may sleep.
    pub(in super::super) fn retire_all_streams(&mut self) -> bool {
        self.retire_streams(|_| true);
        self.streams.table.active.is_empty() && self.streams.stage.is_empty()
    }

    /// Looks at quiet connections whose messages are left unread because the transmit ring is full: their program's send
    /// buffer may be full too, and then its kicks do not get through.
    pub(in super::super) fn look_at_stuffed(&mut self) {
        let table = &mut self.streams.table;
        if table.stuffed.is_empty() || table.stuffed_until.is_some_and(|at| at > self.now) {
            return;
        }
        table.stuffed_until = Some(self.now + STUFFED);
        for handle in std::mem::take(&mut table.stuffed) {
            let Some(connection) = self.streams.table.get_mut(handle) else { continue };
            if connection.active {
                // It comes here again when it becomes quiet.
                connection.stuffed = false;
                continue;
            }
            if self.hear(handle, false) {
                self.activate_stream(handle);
            }
            let Some(connection) = self.streams.table.get_mut(handle) else { continue };
            connection.stuffed = connection.unread && !connection.active && !connection.over;
            if connection.unread {
                events::answer(connection, false);
            }
            if connection.stuffed {
                self.streams.table.stuffed.push(handle);
            }
        }
    }

    fn retire_streams(&mut self, due: impl Fn(&Connection) -> bool) {
        let streams = &mut self.streams;
        let mut active = std::mem::take(&mut streams.table.active);
        active.retain(|handle| {
            let Some(connection) = streams.table.get_mut(*handle) else { return false };
            if !due(connection) || !suspend(connection, &mut streams.engines, *handle, self.now) {
                return true;
            }
            let grown = connection.grown(*handle, self.now);
            let stuffed = connection.unread && !connection.stuffed;
            connection.stuffed |= stuffed;
            streams.table.grown.extend(grown);
            if stuffed {
                streams.table.stuffed.push(*handle);
            }
            false
        });
        streams.table.active = active;
    }

    /// Looks at all quiet connections, once in a while: a program killed between publishing bytes, or reading, and kicking
    /// would leave the other holders of the socket waiting.
    pub(in super::super) fn find_forgotten_streams(&mut self) {
        if !self.streams.used || self.now.duration_since(self.streams.swept) < LONGEST_SLEEP {
            return;
        }
        self.streams.swept = self.now;
        let waiting = |(_, connection): &(Handle, &Connection)| {
            let tail = connection.stream.memory.tx_pipe().tail().load(Ordering::Relaxed);
            let read = read_position(connection).is_some_and(|head| head > connection.read);
            !connection.active && !connection.over && (tail != connection.tx.tail || read)
        };
        let forgotten: Vec<Handle> =
            self.streams.table.iter().filter(waiting).map(|(handle, _)| handle).collect();
        for handle in forgotten {
            self.activate_stream(handle);
        }
    }
}

/// Tells the engine what the program has done since; whether it has done anything.
fn listen_to(
    connection: &mut Connection,
    engines: &mut Engines,
    handle: Handle,
    now: Instant,
    thorough: bool,
) -> Result<bool, Corrupt> {
    if connection.over || connection.closing {
        return Ok(false);
    }
    let mut news = false;
    let stream = connection.stream.clone();
    let asked = &stream.memory.page().stream.asked;
    // Before the tail: the end belongs behind what was written before it.
    let shut = asked.shut.load(Ordering::Acquire);
    let flags = asked.flags.load(Ordering::Acquire);
    if thorough || flags != connection.flags {
        connection.flags = flags;
        let options = options::of(asked);
        if options != connection.options {
            connection.options = options;
            engines.set_options(now, handle, &options);
            news = true;
        }
    }
    let before = connection.tx.tail;
    connection.tx.available(&stream.memory.tx_pipe())?;
    let tail = connection.tx.tail;
    if tail != before {
        news = true;
        let urgent = asked.tx_urgent.load(Ordering::Relaxed);
        if urgent > connection.urgent && urgent <= tail {
            connection.urgent = urgent;
            engines.urgent(now, handle, urgent);
        }
        engines.written(now, handle, tail);
    }
    if shut & !connection.shut & shut::WRITE != 0 {
        news = true;
        engines.shutdown(now, handle);
    }
    connection.shut |= shut;
    if let Some(head) = read_position(connection)
        && head > connection.read
    {
        news = true;
        connection.read = head;
        engines.read(now, handle, head);
    }
    if news && now.duration_since(connection.last_shown) > SHOW_EVERY {
        show(connection, engines, handle, now);
    }
    Ok(news)
}

/// Up to where the program has read; `None` where it says what cannot be.
pub(super) fn read_position(connection: &Connection) -> Option<u64> {
    let pipe = connection.stream.memory.rx_pipe();
    let head = pipe.head().load(Ordering::Acquire);
    (connection.rx.tail.wrapping_sub(head) <= pipe.size()).then_some(head)
}

/// Stops looking at the words of a connection; false if something came in meanwhile.
fn suspend(connection: &mut Connection, engines: &mut Engines, handle: Handle, now: Instant) -> bool {
    if connection.unread && events::has_room(connection) {
        return false;
    }
    let stream = connection.stream.clone();
    let page = stream.memory.page();
    let told = &page.stream.told;
    let wants_read = engines.wants_read(handle);
    if wants_read {
        // Visible before the words below are read, by the fence in `suspend`.
        told.rx_kick.store(1, Ordering::Relaxed);
    }
    kick::suspend(&page.tx_kick.0);
    let asked = &page.stream.asked;
    let came_in = stream.memory.tx_pipe().tail().load(Ordering::Acquire) != connection.tx.tail
        || asked.shut.load(Ordering::Relaxed) & !connection.shut & shut::WRITE != 0
        || asked.flags.load(Ordering::Relaxed) != connection.flags
        || (wants_read && read_position(connection).is_some_and(|head| head > connection.read));
    if came_in && !connection.over {
        told.rx_kick.store(0, Ordering::Relaxed);
        kick::resume(&page.tx_kick.0);
        return false;
    }
    connection.active = false;
    show(connection, engines, handle, now);
    true
}

/// Shows the figures of a connection in its page.
pub(super) fn show(connection: &mut Connection, engines: &Engines, handle: Handle, now: Instant) {
    connection.last_shown = now;
    let Some(info) = engines.info(handle) else { return };
    let shown: &Info = &connection.stream.memory.page().stream.told.info;
    let put = |word: &AtomicU32, value: u64| word.store(value.min(u32::MAX.into()) as u32, Ordering::Relaxed);
    let put64 = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
    let micros = |time: Duration| time.as_micros() as u64;
    let mss = u64::from(info.send_mss.max(1));
    put(&shown.srtt, micros(info.srtt));
    put(&shown.rttvar, micros(info.rttvar));
    put(&shown.rto, micros(info.rto));
    put(&shown.cwnd, info.cwnd / mss);
    put(&shown.ssthresh, if info.ssthresh == u64::MAX { u64::MAX } else { info.ssthresh / mss });
    put(&shown.send_mss, info.send_mss.into());
    put(&shown.receive_mss, info.receive_mss.into());
    put(&shown.path_mtu, info.path_mtu.into());
    put(&shown.in_flight, info.in_flight.div_ceil(mss));
    put(&shown.lost, info.lost.into());
    put(&shown.sacked, info.sacked.into());
    put(&shown.retransmitted, info.retransmitted.into());
    put(&shown.backoff, info.backoff.into());
    put(&shown.send_window, info.send_window);
    put(&shown.receive_window, info.receive_window);
    let scales = info.scales.map_or(0, |(own, peer)| u64::from(own & 15) | u64::from(peer & 15) << 4);
    put(&shown.scales, scales);
    put(&shown.streams, u64::from(info.streams.0) | u64::from(info.streams.1) << 16);
    let flag = |on, bit| if on { bit } else { 0u64 };
    put(&shown.options, flag(info.timestamps, 1) | flag(info.sack, 2) | flag(info.scales.is_some(), 4));
    put64(&shown.bytes_acked, info.bytes_acked);
    put64(&shown.bytes_received, info.bytes_received);
    put64(&shown.bytes_sent, info.bytes_sent);
    put64(&shown.bytes_retransmitted, info.bytes_retransmitted);
    put64(&shown.segments_out, info.segments_out);
    put64(&shown.segments_in, info.segments_in);
}
