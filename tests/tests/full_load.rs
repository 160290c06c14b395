//! Both programs and both servers at full load, as `freena bench` measures them. How fast that is, is no test's affair: it
//! depends on the machine. What it takes in process switches does not.

use freena_tests::binaries;
use freena_tests::netns::privileged;
use freena_tests::program::output;
use serde_json::Value;
use std::process::Command;

/// Measures the framework's series and returns the points.
fn measure(load: &str, sizes: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("figures.json");
    let mut command = Command::new(binaries::freena("freena"));
    command.args(["bench", "throughput", "--load", load, "--series", "framework", "--sizes", sizes]);
    command.args(["--seconds", "1", "--rounds", "1", "--json"]).arg(&file);
    let output = output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&std::fs::read(&file).expect("figures")).expect("JSON");
    let points = figures["throughput"].as_array().expect("points");
    points.iter().map(|point| point["outcome"]["measured"]["median"].clone()).collect()
}

fn number(point: &Value, name: &str) -> f64 {
    point[name].as_f64().unwrap_or_else(|| panic!("no {name} in {point:#}"))
}

fn assert_sound(point: &Value) {
    assert!(number(point, "received") > 0.0, "{point:#}");
    for what in ["duplicates", "reordered", "corrupt"] {
        assert_eq!(number(point, what), 0.0, "{what}: {point:#}");
    }
}

#[test]
fn a_steady_stream_takes_few_process_switches() {
    privileged("a_steady_stream_takes_few_process_switches", || {
        for point in measure("steady", "64,1472") {
            assert_sound(&point);
            let cost = &point["cost"];
            let switches = number(cost, "voluntary_switches") + number(cost, "involuntary_switches");
            assert!(switches < 0.05, "{switches} process switches for each datagram: {point:#}");
        }
    });
}

#[test]
fn a_burst_of_ten_thousand_datagrams_arrives() {
    privileged("a_burst_of_ten_thousand_datagrams_arrives", || {
        // All of it has room in half of a receive ring: nothing is lost, however late the program reads.
        for point in measure("burst", "64,256") {
            assert_sound(&point);
            assert_eq!(number(&point, "sent"), 10_000.0, "{point:#}");
            assert_eq!(number(&point, "lost"), 0.0, "{point:#}");
        }
    });
}
