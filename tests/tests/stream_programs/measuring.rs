//! iperf3.

use crate::hosts::{run_with, with, with_programs};
use freena_tests::lab::{NEAR4, NEAR6, number};
use freena_tests::program::Program;
use serde_json::Value;

#[test]
fn iperf3_measures_tcp() {
    with_programs("iperf3_measures_tcp", ["iperf3"], |hosts, [iperf3]| {
        let before = hosts.near_segments();
        for mode in ["-n 64M", "-n 64M -R", "-t 1 -P 4", "-t 1 --bidir", "-n 16M -6", "-n 16M -Z"] {
            // A server for each: one that goes on opens its port anew after each test, and whoever comes in between is reset.
            let mut server = Program::start(with(hosts.near(iperf3), "-s -1 --forceflush"));
            hosts.wait_for_port(5201);
            let address = if mode.contains("-6") { NEAR6 } else { NEAR4 };
            let report = run_with(hosts.far(iperf3), &format!("-c {address} --json {mode}"));
            let report: Value = serde_json::from_str(&report).expect("JSON");
            assert!(report["error"].is_null(), "{mode}: {}", report["error"]);
            server.succeed();
            let end = &report["end"];
            let (sent, received) = (number(&end["sum_sent"], "bytes"), number(&end["sum_received"], "bytes"));
            assert!(received > 0 && received <= sent, "{mode}: sent {sent}, received {received}");
            if mode.starts_with("-n 64M") {
                assert!(sent >= 64 << 20, "{mode}: sent {sent}");
            }
        }
        if let (Some(before), Some(after)) = (before, hosts.near_segments()) {
            // 64 MiB each way, in super-packets of at most 64 KiB.
            assert!(after.0 - before.0 > 1000 && after.1 - before.1 > 1000, "{before:?}, {after:?}");
        }
    });
}
