//! The service that counts and records a flow, and changes nothing: the light one, which shows the cost of insertion itself.

use freena_service_api::abi::{FREENA_SERVICE_DATA, FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Figures, Info, Message, NEVER, Passed, Promise, Refusal, Service, Setup, Trouble, Verdict, parameter,
};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// What is recorded is written when there is so much of it, in bytes,
const FULL: usize = 32 * 1024;
/// or after so long, in nanoseconds.
const EVERY: u64 = 1_000_000_000;
/// Where nothing is recorded.
const NOWHERE: &str = "/dev/null";

/// A flow's counters, and its record.
struct Trace {
    sent: Counter,
    received: Counter,
    record: Option<Record>,
}

#[derive(Default)]
struct Counter {
    messages: u64,
    bytes: u64,
}

impl Counter {
    fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

struct Record {
    file: File,
    begun: u64,
    flow: String,
    lines: Vec<u8>,
    /// When the lines are to be written, if there are any.
    due: u64,
    lost: u64,
}

impl Record {
    fn add(&mut self, now: u64, word: &str, bytes: usize) {
        let after = now.saturating_sub(self.begun) as f64 / 1e9;
        // A Vec takes every write.
        let _ = writeln!(self.lines, "{after:.9}\t{word}\t{bytes}\t{}", self.flow);
        self.due = self.due.min(now.saturating_add(EVERY));
        if self.lines.len() >= FULL {
            self.write();
        }
    }

    /// A record that cannot be written is counted as lost: the flow goes on.
    fn write(&mut self) {
        if self.file.write_all(&self.lines).is_err() {
            self.lost += self.lines.iter().filter(|it| **it == b'\n').count() as u64;
        }
        self.lines.clear();
        self.due = NEVER;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.write();
    }
}

impl Trace {
    fn see(&mut self, message: &Message<'_>, sent: bool) -> Verdict {
        if message.kind() == FREENA_SERVICE_DATA {
            let bytes = message.input().len();
            if sent { &mut self.sent } else { &mut self.received }.count(bytes);
            if let Some(record) = &mut self.record {
                record.add(message.now(), if sent { "sent" } else { "received" }, bytes);
            }
        }
        Ok(Passed::On)
    }
}

impl Service for Trace {
    const INFO: Info = Info {
        name: c"trace",
        about: c"Counts the messages of a flow, and records their times and sizes; changes nothing.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[parameter::file(
            c"record",
            Some(c"/dev/null"),
            c"File to which a line is appended for each message: seconds since the flow began, `sent` or `received`, bytes, the flow. Never what is in it. /dev/null for none.",
        )],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let record = match setup.value("record") {
            None | Some(NOWHERE) => None,
            Some(path) => {
                let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
                let file =
                    opened.map_err(|error| Refusal::new(Trouble::Parameter, format!("{path}: {error}")))?;
                let flow = format!("{} {}", setup.flow().local(), setup.flow().peer());
                Some(Record { file, begun: setup.now(), flow, lines: Vec::new(), due: NEVER, lost: 0 })
            }
        };
        Ok((Trace { sent: Counter::default(), received: Counter::default(), record }, Promise::LOOK))
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.see(message, true)
    }

    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.see(message, false)
    }

    fn deadline(&self) -> u64 {
        self.record.as_ref().map_or(NEVER, |record| record.due)
    }

    fn timer(&mut self, _: u64) {
        if let Some(record) = &mut self.record {
            record.write();
        }
    }

    fn statistics(&self, figure: Figures<'_>) {
        figure(c"messages sent", self.sent.messages);
        figure(c"bytes sent", self.sent.bytes);
        figure(c"messages received", self.received.messages);
        figure(c"bytes received", self.received.bytes);
        figure(c"lines not recorded", self.record.as_ref().map_or(0, |record| record.lost));
    }
}

freena_service_api::export_service!(Trace);
