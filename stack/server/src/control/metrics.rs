//! All counters in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

mod text;

use super::Control;
use super::client::Answer;
use super::policy::Rejected;
use super::requests::os;
use crate::socket::SocketStats;
use crate::worker::Report;
use freena_ebpf_abi::Counter;
use freena_shm_abi::control::Response;
use freena_shm_ring::mapping;
use freena_stack_api::{LinkInfo, LinkStats};
use std::fs::File;
use std::io::Write;
use text::{Kind, Text};

/// What sockets have counted that are closed by now: counters must not go back.
#[derive(Debug, Default)]
pub(super) struct Closed(SocketStats);

impl Closed {
    /// Adds a socket that is going.
    pub(super) fn add(&mut self, stats: &SocketStats) {
        for (sum, counter) in counters(&self.0).into_iter().zip(counters(stats)) {
            sum.add(counter.get());
        }
    }
}

fn counters(stats: &SocketStats) -> [&crate::socket::Counter; 10] {
    let SocketStats { rx_fast, rx_local, rx_kernel, rx_dropped, .. } = stats;
    let SocketStats { tx_fast, tx_local, tx_kernel, tx_dropped, tokens, kicks, .. } = stats;
    [rx_fast, rx_local, rx_kernel, rx_dropped, tx_fast, tx_local, tx_kernel, tx_dropped, tokens, kicks]
}

impl Control {
    /// The document as an answer.
    pub(super) fn metrics(&self) -> Result<Answer, Rejected> {
        let mut file = File::from(mapping::memfd(c"freena-metrics", 0).map_err(os)?);
        file.write_all(self.exposition().as_bytes()).map_err(os)?;
        Ok(Answer { response: Response::new(), fds: vec![file.into()] })
    }

    fn exposition(&self) -> String {
        let reports: Vec<Report> = self.reports().into_iter().flatten().collect();
        let mut text = Text::default();
        self.general(&mut text);
        links(&mut text, &reports);
        workers(&mut text, &reports);
        udp(&mut text, &reports);
        fragments(&mut text, &reports);
        self.steering(&mut text);
        self.socket_totals(&mut text);
        text.finish()
    }

    fn general(&self, text: &mut Text) {
        let version = env!("CARGO_PKG_VERSION");
        text.family("freena_build_info", Kind::Gauge, "Version of freena-stack; the value is always 1.");
        text.sample(&[("version", version)], 1);
        text.family(
            "freena_processes",
            Kind::Gauge,
            "Processes with the preload library that are connected.",
        );
        text.sample(&[], self.clients.values().filter(|client| client.attached).count() as u64);
        text.family("freena_sockets", Kind::Gauge, "Sockets that the server carries.");
        text.sample(&[], self.sockets.len() as u64);
        text.family(
            "freena_sockets_limit",
            Kind::Gauge,
            "The most sockets that the server carries (--max-sockets).",
        );
        text.sample(&[], u64::from(self.args.max_sockets));
        let help = "Sockets that stayed with the kernel, as far as remembered: the last 32 of each process.";
        text.family("freena_kernel_sockets", Kind::Gauge, help);
        text.sample(&[], self.clients.values().map(|client| client.verdicts.len() as u64).sum());
        let help = "Connections between two programs on this host that were joined.";
        text.family("freena_joined_connections_total", Kind::Counter, help);
        text.sample(&[], self.streams.joined_total);
        text.family("freena_traces", Kind::Gauge, "Traces that are running.");
        text.sample(&[], self.traces.count() as u64);
    }

    fn steering(&self, text: &mut Text) {
        let help = "Frames by what the eBPF program did with them; those it passed went to the kernel.";
        text.family("freena_steering_frames_total", Kind::Counter, help);
        for interface in &self.interfaces {
            let Some(counted) = interface.steering.counters() else { continue };
            for counter in Counter::ALL {
                let verdict = counter.name().replace('-', "_");
                let labels = [("interface", interface.name.as_str()), ("verdict", &verdict)];
                text.sample(&labels, counted[counter as usize]);
            }
        }
    }

    fn socket_totals(&self, text: &mut Text) {
        let mut sums = counters(&self.closed.0).map(crate::socket::Counter::get);
        for entry in self.sockets.iter() {
            for (sum, counter) in sums.iter_mut().zip(counters(&entry.socket.stats)) {
                *sum += counter.get();
            }
        }
        let [
            rx_fast,
            rx_local,
            rx_kernel,
            rx_dropped,
            tx_fast,
            tx_local,
            tx_kernel,
            tx_dropped,
            tokens,
            kicks,
        ] = sums;
        let help = "Datagrams of all sockets, by direction and path: a link (fast), from ring to ring (local), the kernel.";
        text.family("freena_socket_datagrams_total", Kind::Counter, help);
        for (direction, path, value) in [
            ("receive", "fast", rx_fast),
            ("receive", "local", rx_local),
            ("receive", "kernel", rx_kernel),
            ("transmit", "fast", tx_fast),
            ("transmit", "local", tx_local),
            ("transmit", "kernel", tx_kernel),
        ] {
            text.sample(&[("direction", direction), ("path", path)], value);
        }
        let help = "Datagrams lost at a socket: its receive ring was full, or they could not be sent.";
        text.family("freena_socket_dropped_datagrams_total", Kind::Counter, help);
        text.sample(&[("direction", "receive")], rx_dropped);
        text.sample(&[("direction", "transmit")], tx_dropped);
        text.family("freena_socket_tokens_total", Kind::Counter, "Wakes sent to programs that waited.");
        text.sample(&[], tokens);
        text.family("freena_socket_kicks_total", Kind::Counter, "Wakes received from programs.");
        text.sample(&[], kicks);
    }
}

fn links(text: &mut Text, reports: &[Report]) {
    type Value = fn(&LinkStats) -> u64;
    let families: [(&str, &str, Value); 6] = [
        ("freena_link_receive_frames_total", "Frames received; a super-packet counts as one.", |stats| {
            stats.rx_frames
        }),
        ("freena_link_receive_bytes_total", "Bytes in received frames.", |stats| stats.rx_bytes),
        (
            "freena_link_receive_dropped_frames_total",
            "Frames lost before the server could take them (full ring, no memory).",
            |stats| stats.rx_dropped,
        ),
        ("freena_link_transmit_frames_total", "Frames sent, after segmentation.", |stats| stats.tx_frames),
        ("freena_link_transmit_bytes_total", "Bytes in sent frames.", |stats| stats.tx_bytes),
        (
            "freena_link_transmit_dropped_frames_total",
            "Frames that could not be sent (no buffers, interface down).",
            |stats| stats.tx_dropped,
        ),
    ];
    let all: Vec<&(LinkInfo, LinkStats)> = reports.iter().flat_map(|report| &report.links).collect();
    for (name, help, value) in families {
        text.family(name, Kind::Counter, help);
        for (info, stats) in &all {
            text.sample(&[("interface", &info.interface), ("queue", &info.queue.to_string())], value(stats));
        }
    }
    let help = "How a link receives and sends; the value is always 1.";
    text.family("freena_link_info", Kind::Gauge, help);
    for (info, _) in &all {
        let queue = info.queue.to_string();
        let labels = [
            ("interface", info.interface.as_str()),
            ("queue", &queue),
            ("receive", &info.receive),
            ("send", &info.send),
        ];
        text.sample(&labels, 1);
    }
}

/// A family with one sample for each worker.
fn by_worker(text: &mut Text, reports: &[Report], name: &str, help: &str, value: impl Fn(&Report) -> u64) {
    text.family(name, Kind::Counter, help);
    for (index, report) in reports.iter().enumerate() {
        text.sample(&[("worker", &index.to_string())], value(report));
    }
}

fn workers(text: &mut Text, reports: &[Report]) {
    by_worker(text, reports, "freena_worker_turns_total", "Turns of a polling thread.", |report| {
        report.turns
    });
    let help = "Turns in which a polling thread had something to do.";
    by_worker(text, reports, "freena_worker_busy_turns_total", help, |report| report.busy_turns);
    let help = "Times that a polling thread slept.";
    by_worker(text, reports, "freena_worker_sleeps_total", help, |report| report.sleeps);
    let help = "CPU time of a polling thread, spinning included.";
    text.family("freena_worker_cpu_seconds_total", Kind::Counter, help);
    for (index, report) in reports.iter().enumerate() {
        text.sample_seconds(&[("worker", &index.to_string())], report.cpu);
    }
    let help = "Frames that could not be read.";
    by_worker(text, reports, "freena_worker_malformed_frames_total", help, |report| report.malformed);
}

fn udp(text: &mut Text, reports: &[Report]) {
    let help = "Datagrams that the UDP engine gave to a socket.";
    by_worker(text, reports, "freena_udp_delivered_datagrams_total", help, |report| report.udp.delivered);
    let help = "Datagrams that were accepted with the partial checksum that a virtual device leaves.";
    by_worker(text, reports, "freena_udp_partial_checksum_datagrams_total", help, |report| {
        report.udp.partial_checksum
    });
    let help = "Datagrams that the UDP engine dropped.";
    text.family("freena_udp_dropped_datagrams_total", Kind::Counter, help);
    for (index, report) in reports.iter().enumerate() {
        let udp = &report.udp;
        for (reason, value) in
            [("malformed", udp.malformed), ("checksum", udp.checksum), ("no_socket", udp.no_socket)]
        {
            text.sample(&[("worker", &index.to_string()), ("reason", reason)], value);
        }
    }
}

fn fragments(text: &mut Text, reports: &[Report]) {
    let help = "Fragments received.";
    by_worker(text, reports, "freena_fragments_received_total", help, |report| report.reassembly.fragments);
    let help = "Datagrams put together from fragments.";
    by_worker(text, reports, "freena_fragments_reassembled_datagrams_total", help, |report| {
        report.reassembly.reassembled
    });
    let help = "Fragments that were ignored or refused.";
    text.family("freena_fragments_dropped_total", Kind::Counter, help);
    for (index, report) in reports.iter().enumerate() {
        let came = &report.reassembly;
        for (reason, value) in
            [("duplicate", came.duplicates), ("malformed", came.malformed), ("late", came.late)]
        {
            text.sample(&[("worker", &index.to_string()), ("reason", reason)], value);
        }
    }
    let help = "Datagrams that were never put together.";
    text.family("freena_fragments_dropped_datagrams_total", Kind::Counter, help);
    for (index, report) in reports.iter().enumerate() {
        let came = &report.reassembly;
        for (reason, value) in [
            ("overlap", came.overlaps),
            ("inconsistent", came.inconsistent),
            ("timeout", came.timeouts),
            ("evicted", came.evicted),
        ] {
            text.sample(&[("worker", &index.to_string()), ("reason", reason)], value);
        }
    }
    let help = "Fragments sent.";
    by_worker(text, reports, "freena_fragments_sent_total", help, |report| report.fragmented.fragments);
    let help = "Datagrams sent as fragments.";
    by_worker(text, reports, "freena_fragments_sent_datagrams_total", help, |report| {
        report.fragmented.datagrams
    });
}
