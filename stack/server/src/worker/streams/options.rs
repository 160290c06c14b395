//! What a program asks of its connection, from the page into the engine's terms. Every word is read once and bounded.

use freena_shm_abi::stream::{Asked, ask, congestion};
use freena_tcp::{Congestion, Options};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bounds of tcp(7): `MAX_TCP_KEEPIDLE` and its like of the kernel.
const MAX_KEEP_SECONDS: u32 = 32_767;
const MAX_COUNT: u32 = 127;

fn read(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

/// The options that the page asks for now.
pub fn of(asked: &Asked) -> Options {
    let flags = read(&asked.flags);
    let or = |value: u32, default: u32, most: u32| if value == 0 { default } else { value.min(most) };
    let seconds =
        |word: &AtomicU32, default| Duration::from_secs(or(read(word), default, MAX_KEEP_SECONDS).into());
    let defaults = Options::default();
    let fields = read(&asked.header_fields);
    Options {
        no_delay: flags & ask::NO_DELAY != 0,
        cork: flags & (ask::CORK | ask::MORE) != 0,
        quick_ack: flags & ask::QUICK_ACK != 0,
        keep_alive: flags & ask::KEEP_ALIVE != 0,
        keep_idle: seconds(&asked.keep_idle, 7200),
        keep_interval: seconds(&asked.keep_interval, 75),
        keep_count: or(read(&asked.keep_count), defaults.keep_count, MAX_COUNT),
        user_timeout: Duration::from_millis(read(&asked.user_timeout).into()),
        syn_count: or(read(&asked.syn_count), defaults.syn_count, MAX_COUNT),
        max_segment: read(&asked.max_segment).min(32_767) as u16,
        window_clamp: read(&asked.receive_buffer),
        ttl: or(fields >> 8 & 0xff, defaults.ttl.into(), 255) as u8,
        // The ECN bits are the engine's.
        tos: (fields & 0xfc) as u8,
        congestion: match read(&asked.congestion) {
            congestion::RENO => Congestion::NewReno,
            congestion::BBR => Congestion::Bbr,
            _ => Congestion::Cubic,
        },
        messages: flags & ask::MESSAGES != 0,
        // A listener's: the control thread has it from the kernel.
        defer_accept: 0,
    }
}

/// Gives a new connection what its listener's page asks for.
pub fn inherit(from: &Asked, to: &Asked) {
    let words: [fn(&Asked) -> &AtomicU32; 10] = [
        |a| &a.flags,
        |a| &a.keep_idle,
        |a| &a.keep_interval,
        |a| &a.keep_count,
        |a| &a.user_timeout,
        |a| &a.max_segment,
        |a| &a.receive_buffer,
        |a| &a.header_fields,
        |a| &a.congestion,
        |a| &a.syn_count,
    ];
    for word in words {
        word(to).store(read(word(from)), Ordering::Relaxed);
    }
    to.linger.store(from.linger.load(Ordering::Relaxed), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_means_the_defaults() {
        assert_eq!(of(&Asked::default()), Options::default());
    }

    #[test]
    fn what_a_program_writes_is_bounded() {
        let asked = Asked::default();
        for word in
            [&asked.keep_idle, &asked.keep_count, &asked.max_segment, &asked.header_fields, &asked.flags]
        {
            word.store(u32::MAX, Ordering::Relaxed);
        }
        let options = of(&asked);
        assert_eq!((options.keep_idle, options.keep_count), (Duration::from_secs(32_767), 127));
        assert_eq!((options.max_segment, options.ttl, options.tos), (32_767, 255, 0xfc));
        assert!(options.no_delay && options.cork);
    }

    #[test]
    fn a_connection_begins_with_what_its_listener_has() {
        let (listener, connection) = (Asked::default(), Asked::default());
        listener.flags.store(ask::NO_DELAY, Ordering::Relaxed);
        listener.linger.store(0, Ordering::Relaxed);
        listener.congestion.store(congestion::BBR, Ordering::Relaxed);
        inherit(&listener, &connection);
        assert!(of(&connection).no_delay);
        assert_eq!(of(&connection).congestion, Congestion::Bbr);
        assert_eq!(connection.linger.load(Ordering::Relaxed), 0);
    }
}
