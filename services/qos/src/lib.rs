//! The service that shapes, paces and marks flows.
//!
//! The token bucket is the generic cell rate algorithm (ITU-T I.371, annex A): one time, at which the bucket would be full
//! again, stands for the tokens.

use freena_service_api::abi::{FREENA_SERVICE_DATA, FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Figures, Info, Message, Passed, Promise, Refusal, Service, Setup, Verdict, parameter,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Highest priority (SO_PRIORITY without CAP_NET_ADMIN; socket(7)).
const TOP: u64 = 6;

/// When the bucket is full again, in nanoseconds.
type Bucket = Arc<AtomicU64>;

/// Buckets that flows of this process share, by rate and burst.
static SHARED: LazyLock<Mutex<HashMap<(u64, u64), Bucket>>> = LazyLock::new(Mutex::default);

struct Qos {
    /// Bits a second, 0 for no bound.
    rate: u64,
    /// Nanoseconds that the bucket takes to fill, as far as this flow may empty it.
    tolerance: u64,
    bucket: Bucket,
    bytes: u64,
    waits: u64,
    waiting_since: Option<u64>,
    waited: u64,
}

impl Qos {
    fn duration(&self, bytes: u64) -> u64 {
        duration(bytes, self.rate)
    }
}

/// Nanoseconds that so many bytes take.
fn duration(bytes: u64, rate: u64) -> u64 {
    (u128::from(bytes) * 8_000_000_000 / u128::from(rate.max(1))) as u64
}

impl Service for Qos {
    const INFO: Info = Info {
        name: c"qos",
        about: c"Bounds the rate of what the program sends, spreads it over time, and marks its packets.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::number(
                c"rate",
                c"kbit/s",
                0,
                1_000_000_000,
                c"0",
                c"Most that the program sends. 0 for no bound.",
            ),
            parameter::number(
                c"burst",
                c"bytes",
                1,
                1_073_741_824,
                c"65536",
                c"What may go at once after a pause, the size of the token bucket.",
            ),
            parameter::boolean(
                c"shared",
                c"false",
                c"Whether all flows of the process that say so, with the same rate and burst, share one bucket. Then `priority` tells who goes first: a flow may empty the bucket only down to (6 - priority) sevenths.",
            ),
            parameter::number(
                c"priority",
                c"",
                -1,
                TOP as i64,
                c"-1",
                c"SO_PRIORITY of the packets, for the queueing discipline of the interface; 6 is the highest. -1 leaves it as it is.",
            ),
            parameter::number(
                c"dscp",
                c"",
                -1,
                63,
                c"-1",
                c"Differentiated services code point of the packets: 46 is expedited forwarding, 8 is less than best effort. -1 leaves it as it is.",
            ),
            parameter::number(
                c"pacing",
                c"kbit/s",
                0,
                34_000_000,
                c"0",
                c"Rate at which the kernel spreads the packets of TCP (SO_MAX_PACING_RATE). 0 for no bound.",
            ),
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let rate = setup.number("rate")? * 1000;
        let burst = setup.number("burst")?;
        let byte = |name| setup.value(name).and_then(|it| it.parse::<u8>().ok());
        let (priority, dscp) = (byte("priority"), byte("dscp"));
        let shared = setup.is("shared");
        let bucket = if shared {
            let mut buckets = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.entry((rate, burst)).or_default().clone()
        } else {
            Bucket::default()
        };
        let share = if shared { u64::from(priority.unwrap_or(0)) + 1 } else { TOP + 1 };
        let tolerance = duration(burst, rate) / (TOP + 1) * share;
        let pacing = u32::try_from(setup.number("pacing")? * 1000 / 8).unwrap_or(u32::MAX);
        let promise = Promise { dscp, priority, pacing: (pacing > 0).then_some(pacing), ..Promise::LOOK };
        let it = Qos { rate, tolerance, bucket, bytes: 0, waits: 0, waiting_since: None, waited: 0 };
        Ok((it, promise))
    }

    const HOLDS_BACK: bool = true;

    fn admit(&mut self, now: u64, _: usize) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        let at = self.bucket.load(Ordering::Relaxed).saturating_sub(self.tolerance);
        if at > now {
            if self.waiting_since.is_none() {
                self.waiting_since = Some(now);
                self.waits += 1;
            }
            return at;
        }
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_sub(since);
        }
        0
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let bytes = message.input().len() as u64;
        if message.kind() == FREENA_SERVICE_DATA {
            self.bytes += bytes;
        }
        if self.rate > 0 {
            let (now, takes) = (message.now(), self.duration(bytes));
            // Other flows may share the bucket; nothing else is read or written with it.
            let _ = self.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
                Some(full.max(now).saturating_add(takes))
            });
        }
        Ok(Passed::On)
    }

    fn inbound(&mut self, _: &mut Message<'_>) -> Verdict {
        Ok(Passed::On)
    }

    fn statistics(&self, figure: Figures<'_>) {
        figure(c"bytes sent", self.bytes);
        figure(c"times held back", self.waits);
        figure(c"microseconds held back", self.waited / 1000);
    }
}

freena_service_api::export_service!(Qos);
