//! Services in the datagrams of unmodified programs, over the kernel's own UDP, with no server and no privilege.

use freena_tests::binaries::{freena, python, script};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use freena_tests::wire::{capture, shows};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What the program's ends say again and again: it must not be seen on the wire.
const MARK: &[u8] = b"nobody on the wire may read this. ";

/// A folder with keys and configurations.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn key(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let mut command = Command::new(freena("freena"));
        command.arg("keygen").arg(&path);
        assert!(output(command).status.success());
        path
    }

    /// A configuration with these services before crypto, and a rule for datagrams with these attributes.
    fn configuration(&self, name: &str, before: &str, key: &Path, rule: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let text = format!(
            "<configuration application='x'><services>{before}<service name='crypto'><parameter name='key' \
             value='{}'/></service><using-rules><rule use='true' transport='UDP' {rule}/></using-rules></services>\
             </configuration>",
            key.display()
        );
        std::fs::write(&path, text).expect("a file");
        path
    }
}

const ALL: &str = "<service name='trace'/><service name='compression'/><service name='fec'/>";

/// The script in one of its parts, with services.
fn with(configuration: &Path, part: &[&str]) -> Program {
    let mut command = Command::new(freena("freena"));
    command.arg("run").arg("--config").arg(configuration).arg("--").arg(python());
    start(command, part)
}

/// The script in one of its parts, without freena.
fn without(part: &[&str]) -> Program {
    start(Command::new(python()), part)
}

fn start(mut command: Command, part: &[&str]) -> Program {
    command.arg("-u").arg(script("datagram_services.py")).args(part);
    Program::start(command)
}

/// Carries datagrams between one client of a port and another port, and loses one of twenty.
fn lossy(from: u16, to: u16) {
    let near = Arc::new(UdpSocket::bind(("127.0.0.1", from)).expect("a free port"));
    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
    far.connect(("127.0.0.1", to)).expect("an address");
    let client = Arc::new(Mutex::new(None));
    let mut random = 1u64;
    let mut lost = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33).is_multiple_of(20)
    };
    let mut lost_back = lost;
    let (near_back, far_back, client_back) = (Arc::clone(&near), Arc::clone(&far), Arc::clone(&client));
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((got, peer)) = near.recv_from(&mut buffer) {
            *client.lock().expect("no panic") = Some(peer);
            if !lost() {
                let _ = far.send(&buffer[..got]);
            }
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        loop {
            let Ok(got) = far_back.recv(&mut buffer) else { continue };
            let Some(peer) = *client_back.lock().expect("no panic") else { continue };
            if !lost_back() {
                let _ = near_back.send_to(&buffer[..got], peer);
            }
        }
    });
}

fn in_namespace(name: &str, test: impl FnOnce(&Files) + Send) {
    privileged(name, || test(&Files::new()));
}

#[test]
fn all_kinds_of_calls_arrive_and_nothing_is_seen_on_the_wire() {
    in_namespace("all_kinds_of_calls_arrive_and_nothing_is_seen_on_the_wire", |files| {
        let key = files.key("key");
        for before in ["", ALL] {
            let file = files.configuration("x.xml", before, &key, "");
            for host in ["127.0.0.1", "::1"] {
                let seen = capture();
                let mut server = with(&file, &["serve", host, "7000"]);
                server.expect("ready");
                let mut client = with(&file, &["ask", host, "7000"]);
                client.expect("all arrived");
                client.succeed();
                server.succeed();
                let least = if before.is_empty() { 1_000_000 } else { 10_000 };
                assert!(seen.lock().unwrap().len() > least, "the wire was not looked at");
                assert!(!shows(&seen, &MARK[..16]), "{before} {host}");
            }
        }
    });
}

#[test]
fn what_another_key_has_made_is_dropped_and_named() {
    in_namespace("what_another_key_has_made_is_dropped_and_named", |files| {
        let file = files.configuration("x.xml", "", &files.key("key"), "");
        let other = files.configuration("y.xml", "", &files.key("other"), "");
        let seen = capture();
        let mut server = with(&file, &["serve", "127.0.0.1", "7000"]);
        server.expect("ready");
        with(&other, &["tell", "127.0.0.1", "7000"]).expect("no answer");
        server.expect_error("crypto (rule in line 1): a datagram was dropped (1 so far): service `crypto`:");
        let mut command = Command::new(freena("freena"));
        command.args(["status", "--json", "--control", "/nonexistent/control"]);
        let status: Value = serde_json::from_slice(&output(command).stdout).expect("a document");
        let programs = status["programs_with_services"].as_array().expect("a list").iter();
        let mut flows = programs.flat_map(|it| it["flows"].as_array().expect("a list"));
        let flow = flows.find(|it| it["pid"] == server.pid()).expect("the server's flow is shown");
        assert!(flow["transport"] == "UDP" && flow["state"] == "waiting" && flow["refused"] == 1, "{flow}");
        assert!(flow["reason"].as_str().unwrap().contains("service `crypto`"), "{flow}");
        assert_eq!(with(&file, &["tell", "127.0.0.1", "7000"]).expect("answer"), "680");
        assert!(!shows(&seen, &MARK[..16]));
    });
}

#[test]
fn other_services_are_told_at_both_ends() {
    in_namespace("other_services_are_told_at_both_ends", |files| {
        let key = files.key("key");
        let file = files.configuration("x.xml", "", &key, "");
        let other = files.configuration("y.xml", "<service name='compression'/>", &key, "");
        let mut server = with(&file, &["serve", "127.0.0.1", "7000"]);
        server.expect("ready");
        let mut client = with(&other, &["tell", "127.0.0.1", "7000"]);
        client.expect("no answer");
        server.expect_error("the two ends do not agree: the peer has other services");
    });
}

#[test]
fn a_peer_without_freena_is_refused_unless_the_rule_says_otherwise() {
    in_namespace("a_peer_without_freena_is_refused_unless_the_rule_says_otherwise", |files| {
        let key = files.key("key");
        let file = files.configuration("x.xml", "", &key, "");
        let mut server = with(&file, &["serve", "127.0.0.1", "7000"]);
        server.expect("ready");
        without(&["tell", "127.0.0.1", "7000"]).expect("no answer");
        server.expect_error("the peer has no freena");

        let plain = files.configuration("plain.xml", "", &key, "plain='true'");
        let mut server = with(&plain, &["serve", "127.0.0.1", "7002"]);
        server.expect("ready");
        assert_eq!(without(&["tell", "127.0.0.1", "7002"]).expect("answer"), "680");
        assert_eq!(with(&plain, &["tell", "127.0.0.1", "7002"]).expect("answer"), "680");

        // The other way round: nothing of what the program says is seen.
        let mut server = without(&["serve", "127.0.0.1", "7004"]);
        server.expect("ready");
        let seen = capture();
        with(&file, &["tell", "127.0.0.1", "7004"]).expect("no answer");
        assert!(!shows(&seen, &MARK[..16]) && !seen.lock().unwrap().is_empty());
    });
}

#[test]
fn poll_tells_of_no_datagram_that_will_be_dropped() {
    in_namespace("poll_tells_of_no_datagram_that_will_be_dropped", |files| {
        let file = files.configuration("x.xml", "", &files.key("key"), "");
        let mut waiting = with(&file, &["wait", "127.0.0.1", "7000"]);
        waiting.expect("ready");
        let anybody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..20 {
            anybody.send_to(&[7; 100], "127.0.0.1:7000").expect("sent");
            thread::sleep(Duration::from_millis(10));
        }
        waiting.expect("nothing");
        let _client = with(&file, &["tell", "127.0.0.1", "7000"]);
        assert_eq!(waiting.expect("got"), "680");
    });
}

#[test]
fn lost_datagrams_are_restored_each_once() {
    in_namespace("lost_datagrams_are_restored_each_once", |files| {
        let file = files.configuration("x.xml", "<service name='fec'/>", &files.key("key"), "");
        let mut server = with(&file, &["serve", "127.0.0.1", "7000"]);
        server.expect("ready");
        lossy(7001, 7000);
        let back = with(&file, &["burst", "127.0.0.1", "7001", "3000", "0.001"]).expect("back");
        let words: Vec<usize> = back.split(' ').map(|word| word.parse().expect("a number")).collect();
        // Without the service about 2700 of 3000 would come back.
        assert!(words[0] >= 2990, "{back}");
        assert_eq!(words[1], 1, "{back}");
    });
}
