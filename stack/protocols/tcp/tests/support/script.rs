//! Scripts in the manner of packetdrill: one engine, and a peer whose every packet is written down.
//!
//! A line begins with the time since the line before, in seconds. Then comes
//! - `< FLAGS START:END(LEN) [ack N] [win N] [urg N] [mss N] [wscale N] [sackok] [sack A:B ...] [ts N]`: a packet from the
//!   peer;
//! - `> FLAGS START:END(LEN) ...`: the engine must send this now, and nothing before. What is not named may be anything;
//! - `quiet`: nothing was sent since the line before;
//! - a call: `listen`, `connect`, `write N`, `read N`, `shutdown`, `close`, `close unread`, `abort`, `urgent N`, `mtu N`,
//!   `icmp KIND SEQUENCE`, `option NAME VALUE`, `size N`, `full on`, `burst SEGMENTS`;
//! - what the program sees: `event NAME [N]` (in order, none left out), `state NAME`, `stat NAME N`.
//!
//! Sequence numbers count from the initial ones of each side. An echo of a timestamp is the last one seen.

use super::host::{Datagram, Host, Stream};
use super::{PORT, address, epoch};
use freena_tcp::{Event, Flow, Handle, IcmpError, Listening, Options, Transmit};
use freena_wire::tcp::{self, flag};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The peer's initial sequence number: the numbers wrap around early.
const PEER_INITIAL: u32 = 0xffff_ff00;
const PEER_PORT: u16 = 5000;
/// The engine is side 1 of the helpers, the peer side 0.
const SIDE: usize = 1;
/// How exactly the engine keeps its times.
const TOLERANCE: Duration = Duration::from_millis(2);

pub struct Script {
    pub host: Host,
    pub now: Instant,
    options: Options,
    handle: Option<Handle>,
    initial: Option<u32>,
    stamp: u32,
    sent: VecDeque<(Instant, Transmit)>,
    seen: usize,
}

/// Runs a script.
pub fn run(text: &str) -> Script {
    let mut script = Script::new();
    script.run(text);
    script
}

impl Script {
    pub fn new() -> Self {
        let mut host = Host::new(SIDE, 1);
        host.size = 65_535;
        host.path.max_segments = 1;
        let options = Options::default();
        let sent = VecDeque::new();
        Script { host, now: epoch(), options, handle: None, initial: None, stamp: 0, sent, seen: 0 }
    }

    pub fn run(&mut self, text: &str) {
        for (number, line) in text.lines().enumerate() {
            let line = line.split("//").next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            self.line(line).unwrap_or_else(|why| panic!("line {}, {line:?}: {why}", number + 1));
        }
        self.collect();
        let rest: Vec<String> = self.sent.iter().map(|(_, it)| self.show(it)).collect();
        assert!(rest.is_empty(), "sent behind the end of the script: {rest:?}");
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let time = words.next().ok_or("empty")?;
        let time: f64 = time.trim_start_matches('+').parse().map_err(|_| format!("{time:?} is no time"))?;
        let target = self.now + Duration::from_secs_f64(time);
        let verb = words.next().ok_or("nothing after the time")?;
        let words: Vec<&str> = words.collect();
        if verb == ">" {
            return self.expect(target, &words);
        }
        self.advance(target);
        let looks = matches!(verb, "event" | "state" | "stat" | "window");
        if let Some((at, first)) = self.sent.front().filter(|_| !looks) {
            let early = target.saturating_duration_since(*at);
            return Err(format!("{early:?} earlier there was sent {}", self.show(first)));
        }
        match verb {
            "<" => self.deliver(&words)?,
            "quiet" => {}
            "event" => self.event(&words)?,
            _ => self.call(verb, &words)?,
        }
        self.hear();
        self.collect();
        Ok(())
    }

    fn hear(&mut self) {
        self.host.turn(self.now);
        if self.handle.is_none() {
            self.handle = self.host.accepted.first().copied();
            if let Some(handle) = self.handle {
                self.stream(handle).reads = false;
            }
        }
    }

    fn stream(&mut self, handle: Handle) -> &mut Stream {
        self.host.streams.get_mut(&handle).expect("it exists")
    }

    /// Lets time pass.
    fn advance(&mut self, target: Instant) {
        loop {
            self.collect();
            match self.host.tcp.poll_timeout() {
                Some(next) if next <= target => {
                    self.now = self.now.max(next);
                    self.host.tcp.handle_timeout(self.now);
                    self.hear();
                }
                _ => break,
            }
        }
        self.now = self.now.max(target);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(transmit) = self.host.tcp.poll_transmit(self.now) {
            self.host.check_transmit(&transmit);
            let header = tcp::Header::parse(&transmit.header[..usize::from(transmit.header_len)]).unwrap();
            if header.flags() & flag::SYN != 0 {
                self.initial = Some(header.sequence());
            }
            if let Some((value, _)) = header.options().timestamps {
                self.stamp = value;
            }
            self.sent.push_back((self.now, transmit));
        }
    }

    fn relative(&self, transmit: &Transmit) -> (String, tcp::Repr, u64, u32, u32) {
        let view = tcp::Header::parse(&transmit.header[..usize::from(transmit.header_len)]).unwrap();
        let repr = tcp::Repr::parse(&view);
        let len = transmit.payload.end - transmit.payload.start;
        let sequence = repr.sequence.wrapping_sub(self.initial.unwrap_or(0));
        let acknowledgement = repr.acknowledgement.wrapping_sub(PEER_INITIAL);
        (letters(repr.flags), repr, len, sequence, acknowledgement)
    }

    fn show(&self, transmit: &Transmit) -> String {
        let (flags, repr, len, sequence, acknowledgement) = self.relative(transmit);
        let end = u64::from(sequence) + len;
        let sack: Vec<_> = self.blocks(&repr).iter().map(|(a, b)| format!("{a}:{b}")).collect();
        format!("{flags} {sequence}:{end}({len}) ack {acknowledgement} win {} sack {sack:?}", repr.window)
    }

    fn blocks(&self, repr: &tcp::Repr) -> Vec<(u32, u32)> {
        let from_start = |number: u32| number.wrapping_sub(PEER_INITIAL);
        repr.options.sack.as_slice().iter().map(|(a, b)| (from_start(*a), from_start(*b))).collect()
    }

    fn expect(&mut self, target: Instant, words: &[&str]) -> Result<(), String> {
        // Time passes only as far as is needed.
        while self.sent.is_empty() {
            match self.host.tcp.poll_timeout() {
                Some(next) if next <= target + TOLERANCE => self.advance(next),
                _ => return Err("nothing was sent".into()),
            }
        }
        let (at, transmit) = self.sent.pop_front().expect("looked at");
        self.now = self.now.max(target);
        let shown = self.show(&transmit);
        let off = if at > target { at - target } else { target - at };
        if off > TOLERANCE {
            return Err(format!("sent {off:?} too early: {shown}"));
        }
        let (flags, repr, len, sequence, acknowledgement) = self.relative(&transmit);
        let expected = Words::parse(words)?;
        let mut same = flags == expected.flags && len == u64::from(expected.len);
        // A reset in answer to an acknowledgement is numbered as that asks, which may be before our SYN.
        same &= sequence == expected.start;
        same &= expected.ack.is_none_or(|ack| repr.flags & flag::ACK != 0 && acknowledgement == ack);
        same &= expected.window.is_none_or(|window| u32::from(repr.window) == window);
        same &= expected.urgent.is_none_or(|urgent| u32::from(repr.urgent) == urgent);
        same &= expected.mss.is_none_or(|mss| repr.options.mss.map(u32::from) == Some(mss));
        same &= expected.scale.is_none_or(|scale| repr.options.window_scale.map(u32::from) == Some(scale));
        same &= !expected.sack_permitted || repr.options.sack_permitted;
        same &= expected.sack.is_empty() || self.blocks(&repr) == expected.sack;
        same &= expected.timestamp.is_none() || repr.options.timestamps.is_some();
        if same { Ok(()) } else { Err(format!("sent instead: {shown} {:?}", repr.options)) }
    }

    fn deliver(&mut self, words: &[&str]) -> Result<(), String> {
        let words = Words::parse(words)?;
        let mut sack = tcp::SackBlocks::default();
        let initial = self.initial.unwrap_or(0);
        for (a, b) in &words.sack {
            sack.push((initial.wrapping_add(*a), initial.wrapping_add(*b)));
        }
        let options = tcp::Options {
            mss: words.mss.map(|mss| mss as u16),
            window_scale: words.scale.map(|scale| scale as u8),
            sack_permitted: words.sack_permitted,
            sack,
            timestamps: words.timestamp.map(|value| (value, self.stamp)),
        };
        let repr = tcp::Repr {
            src_port: PEER_PORT,
            dst_port: PORT,
            sequence: PEER_INITIAL.wrapping_add(words.start),
            acknowledgement: words.ack.map_or(0, |ack| initial.wrapping_add(ack)),
            flags: words.bits(),
            window: words.window.unwrap_or(0xffff) as u16,
            urgent: words.urgent.unwrap_or(0) as u16,
            options,
        };
        let mut header = [0; 60];
        let len = repr.emit(0, &mut header);
        let payload =
            (0..words.len).map(|i| super::byte(1 - SIDE, u64::from(words.start.wrapping_sub(1) + i)));
        let bytes = header[..len].iter().copied().chain(payload).collect();
        let segment = words.segment.unwrap_or(0) as u16;
        let datagram = Datagram { src: address(1 - SIDE), dst: address(SIDE), bytes, segment };
        self.host.deliver(self.now, &datagram);
        Ok(())
    }

    fn call(&mut self, verb: &str, words: &[&str]) -> Result<(), String> {
        let now = self.now;
        let number = |index: usize| -> Result<u64, String> {
            let word = words.get(index).ok_or_else(|| format!("{verb} needs an argument"))?;
            word.parse().map_err(|_| format!("{word:?} is no number"))
        };
        let flow =
            Flow { local: address(SIDE), local_port: PORT, peer: address(1 - SIDE), peer_port: PEER_PORT };
        match verb {
            "listen" => {
                let listening = Listening {
                    local: address(SIDE),
                    port: PORT,
                    dual: false,
                    share: false,
                    ifindex: 0,
                    options: self.options,
                };
                self.host.tcp.listen(1, listening);
                return Ok(());
            }
            "connect" => {
                let (path, size) = (self.host.path, self.host.size);
                let handle = self.host.tcp.connect(now, flow, path, size, &self.options);
                let handle = handle.map_err(|error| format!("{error:?}"))?;
                let stream = Stream { reads: false, ..Stream::new(size) };
                self.host.streams.insert(handle, stream);
                self.handle = Some(handle);
                return Ok(());
            }
            "size" => {
                self.host.size = number(0)?;
                return Ok(());
            }
            "burst" => {
                self.host.path.max_segments = number(0)? as u32;
                if let Some(handle) = self.handle {
                    let path = self.host.path;
                    self.host.tcp.set_path(now, handle, path);
                }
                return Ok(());
            }
            "full" => {
                self.host.full = words == ["on"];
                return Ok(());
            }
            "option" => {
                self.option(words[0], number(1)?)?;
                if let Some(handle) = self.handle {
                    self.host.tcp.set_options(now, handle, &self.options);
                }
                return Ok(());
            }
            "stat" => {
                let stats = self.host.tcp.stats();
                let shown = format!("{stats:?}");
                let wanted = format!(" {}: {}", words[0], words[1]);
                let found = [",", " }"].iter().any(|end| shown.contains(&(wanted.clone() + end)));
                return if found { Ok(()) } else { Err(shown) };
            }
            _ => {}
        }
        let handle = self.handle.ok_or("there is no connection")?;
        match verb {
            "write" => self.stream(handle).goal += number(0)?,
            "read" => {
                let len = number(0)?;
                let stream = self.stream(handle);
                stream.read += len;
                let (read, readable) = (stream.read, stream.readable);
                if read > readable {
                    return Err(format!("only {readable} bytes are there"));
                }
                self.host.tcp.read(now, handle, read);
            }
            "shutdown" => self.stream(handle).then_shut = true,
            "close" => {
                let unread = words == ["unread"];
                self.stream(handle).gone = true;
                self.host.tcp.close(now, handle, unread);
            }
            "abort" => self.host.abort(now, handle),
            "urgent" => self.host.tcp.urgent(now, handle, number(0)?),
            "mtu" => {
                self.host.path.mtu = number(0)? as u32;
                let path = self.host.path;
                self.host.tcp.set_path(now, handle, path);
            }
            "icmp" => {
                let error = match words[0] {
                    "host" => IcmpError::Host,
                    "port" => IcmpError::Port,
                    other => return Err(format!("{other:?} is no error")),
                };
                let sequence = self.initial.unwrap_or(0).wrapping_add(number(1)? as u32);
                self.host.tcp.handle_icmp(now, &flow, sequence, error);
            }
            "state" => {
                let state = self.host.tcp.state(handle).map_or("None".into(), |state| format!("{state:?}"));
                return if state == words[0] { Ok(()) } else { Err(state) };
            }
            "window" => {
                let window = self.host.tcp.info(handle).map_or(0, |info| info.cwnd);
                return if window == number(0)? { Ok(()) } else { Err(format!("{window}")) };
            }
            _ => return Err(format!("{verb:?} is no verb")),
        }
        Ok(())
    }

    fn option(&mut self, name: &str, value: u64) -> Result<(), String> {
        let options = &mut self.options;
        let seconds = Duration::from_secs(value);
        match name {
            "no_delay" => options.no_delay = value != 0,
            "cork" => options.cork = value != 0,
            "quick_ack" => options.quick_ack = value != 0,
            "keep_alive" => options.keep_alive = value != 0,
            "keep_idle" => options.keep_idle = seconds,
            "keep_interval" => options.keep_interval = seconds,
            "keep_count" => options.keep_count = value as u32,
            "user_timeout" => options.user_timeout = seconds,
            "syn_count" => options.syn_count = value as u32,
            "defer_accept" => options.defer_accept = value as u8,
            "max_segment" => options.max_segment = value as u16,
            "window_clamp" => options.window_clamp = value as u32,
            "reno" => options.congestion = freena_tcp::Congestion::NewReno,
            _ => return Err(format!("{name:?} is no option")),
        }
        Ok(())
    }

    fn event(&mut self, words: &[&str]) -> Result<(), String> {
        let event = self.host.events.get(self.seen).ok_or("no event")?;
        self.seen += 1;
        let shown = match event {
            Event::Connected(_) => "connected".into(),
            Event::Received { position, .. } => format!("received {position}"),
            Event::Acknowledged { position, .. } => format!("acknowledged {position}"),
            Event::PeerClosed(_) => "peer_closed".into(),
            Event::Urgent { position, .. } => format!("urgent {position}"),
            Event::Closed(_) => "closed".into(),
            Event::Failed(_, failure) => format!("failed {failure:?}"),
            Event::SoftError(_, error) => format!("soft_error {error:?}"),
            Event::Released(_) => "released".into(),
        };
        if shown == words.join(" ") { Ok(()) } else { Err(shown) }
    }
}

fn letters(flags: u8) -> String {
    let names = [
        (flag::SYN, 'S'),
        (flag::FIN, 'F'),
        (flag::RST, 'R'),
        (flag::PSH, 'P'),
        (flag::URG, 'U'),
        (flag::ACK, '.'),
    ];
    names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}

/// A packet as it is written down.
#[derive(Debug, Default)]
struct Words {
    flags: String,
    start: u32,
    len: u32,
    ack: Option<u32>,
    window: Option<u32>,
    urgent: Option<u32>,
    mss: Option<u32>,
    scale: Option<u32>,
    sack_permitted: bool,
    sack: Vec<(u32, u32)>,
    timestamp: Option<u32>,
    segment: Option<u32>,
}

impl Words {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let number = |word: &str| word.parse::<u32>().map_err(|_| format!("{word:?} is no number"));
        let pair = |word: &str| -> Result<(u32, u32), String> {
            let (a, b) = word.split_once(':').ok_or_else(|| format!("{word:?} is no range"))?;
            Ok((number(a)?, number(b)?))
        };
        let [flags, range, rest @ ..] = words else { return Err("flags and a range are missing".into()) };
        let (range, len) = range.split_once('(').ok_or("no length")?;
        let (start, end) = pair(range)?;
        let len = number(len.trim_end_matches(')'))?;
        if end.wrapping_sub(start) != len {
            return Err(format!("from {start} to {end} it is not {len}"));
        }
        let mut it = Words { flags: (*flags).into(), start, len, ..Words::default() };
        let mut rest = rest.iter().copied().peekable();
        while let Some(word) = rest.next() {
            if word == "sackok" {
                it.sack_permitted = true;
                continue;
            }
            if word == "sack" {
                while let Some(block) = rest.next_if(|word| word.contains(':')) {
                    it.sack.push(pair(block)?);
                }
                continue;
            }
            let value = Some(number(rest.next().ok_or("a number is missing")?)?);
            match word {
                "ack" => it.ack = value,
                "win" => it.window = value,
                "urg" => it.urgent = value,
                "mss" => it.mss = value,
                "wscale" => it.scale = value,
                "ts" => it.timestamp = value,
                "segment" => it.segment = value,
                _ => return Err(format!("{word:?} is nothing")),
            }
        }
        Ok(it)
    }

    fn bits(&self) -> u8 {
        let bit = |letter| match letter {
            'S' => flag::SYN,
            'F' => flag::FIN,
            'R' => flag::RST,
            'P' => flag::PSH,
            'U' => flag::URG,
            '.' => flag::ACK,
            other => panic!("{other:?} is no flag"),
        };
        self.flags.chars().map(bit).fold(0, |bits, bit| bits | bit)
    }
}
