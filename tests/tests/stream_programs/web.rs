//! Web servers and what asks them: nginx, haproxy, curl, wrk, h2load.

use crate::hosts::{
    Hosts, Under, assert_same, run, run_with, with, with_programs, with_programs_over_all,
    with_programs_under,
};
use freena_tests::lab::{FAR4, NEAR4, NEAR6};
use freena_tests::program::Program;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 8080;
/// Larger than any ring.
const LARGE: usize = 24 << 20;

/// nginx as Debian sets it up (a master that is root, workers that are not), with a file `small` and a file `large`.
/// Returns it and what is in the large file.
fn nginx(hosts: &Hosts, command: Command, listen: &str) -> (Program, Vec<u8>) {
    let folder = hosts.folder("www");
    hosts.file("www/small", "a small file\n");
    let (_, large) = hosts.noise("www/large", LARGE);
    let tmp = hosts.folder("nginx");
    let (tmp, folder) = (tmp.display(), folder.display());
    let configuration = format!(
        "user www-data; worker_processes 2; daemon off; pid {tmp}/pid; error_log stderr notice;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_max_body_size 64m;\n\
         client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/fastcgi;\n\
         uwsgi_temp_path {tmp}/uwsgi; scgi_temp_path {tmp}/scgi;\n\
         server {{ {listen} root {folder};\n\
         location /text {{ return 200 'a text from memory'; }} }} }}\n"
    );
    let path = hosts.file("nginx.conf", configuration);
    let mut command = command;
    command.arg("-c").arg(path);
    (Program::start(command), large)
}

fn listen() -> String {
    format!("listen {NEAR4}:{PORT} backlog=1024; listen [{NEAR6}]:{PORT};")
}

/// What curl gets.
fn curl(hosts: &Hosts, curl: &Path, arguments: &str) -> Vec<u8> {
    let got = hosts.lab.path("got");
    let mut command = hosts.far(curl);
    command.args(["--silent", "--show-error", "--fail", "--output"]).arg(&got);
    run_with(command, arguments);
    std::fs::read(got).expect("what curl got")
}

#[test]
fn nginx_serves_curl() {
    with_programs_over_all("nginx_serves_curl", ["nginx", "curl"], |hosts, [nginx_, curl_]| {
        let (mut nginx, large) = nginx(hosts, hosts.near(nginx_), &listen());
        hosts.wait_for_port(PORT);
        for address in [NEAR4, &format!("[{NEAR6}]")] {
            let at = format!("http://{address}:{PORT}");
            assert_eq!(curl(hosts, curl_, &format!("{at}/small")), b"a small file\n");
            assert_eq!(curl(hosts, curl_, &format!("{at}/text")), b"a text from memory");
            assert_same(&curl(hosts, curl_, &format!("{at}/large")), &large, "by sendfile");
            let part = curl(hosts, curl_, &format!("--range 1000000-1999999 {at}/large"));
            assert_same(&part, &large[1_000_000..2_000_000], "a part");
            // Several over one connection.
            let several = format!("{at}/text {at}/text -o /dev/null -w %{{num_connects}},");
            let mut command = hosts.far(curl_);
            command.args(["--silent", "--fail", "--output", "/dev/null"]);
            assert_eq!(
                run_with(command, &several).trim(),
                "1,0,",
                "connections that each of two requests made"
            );
        }
        // A reader slower than the sender.
        let slow = format!("--limit-rate 16M http://{NEAR4}:{PORT}/large");
        assert_same(&curl(hosts, curl_, &slow), &large, "slowly");
        assert!(nginx.is_running());
    });
}

/// wrk's report, which must be free of errors.
fn assert_no_errors(report: &str) {
    assert!(report.contains("Requests/sec"), "{report}");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
}

#[test]
fn nginx_reloads_under_wrk() {
    with_programs("nginx_reloads_under_wrk", ["nginx", "wrk"], |hosts, [nginx_, wrk]| {
        let (mut nginx, _) = nginx(hosts, hosts.near(nginx_), &listen());
        hosts.wait_for_port(PORT);
        let url = format!("http://{NEAR4}:{PORT}/small");
        assert_no_errors(&run_with(hosts.far(wrk), &format!("-t 2 -c 32 -d 1 {url}")));
        // With a connection for each request: one that is kept alive may be closed by a worker that ends at the moment
        // in which a request arrives, with any TCP.
        let mut command = hosts.far(wrk);
        command.args(["-t", "2", "-c", "32", "-d", "3", "-H", "Connection: close", &url]);
        let wrk = thread::spawn(|| run(command));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(700));
            nginx.signal(libc::SIGHUP);
        }
        assert_no_errors(&wrk.join().expect("wrk ends"));
        assert!(nginx.is_running());
        nginx.expect_error("gracefully shutting down");
        nginx.signal(libc::SIGQUIT);
        nginx.succeed();
    });
}

#[test]
fn h2load_loads_nginx() {
    with_programs("h2load_loads_nginx", ["nginx", "h2load"], |hosts, [nginx_, h2load]| {
        let two = PORT + 1;
        let listen = format!("{} listen {NEAR4}:{two} http2;", listen());
        let (_nginx, _) = nginx(hosts, hosts.near(nginx_), &listen);
        hosts.wait_for_port(two);
        for arguments in [
            format!("-n 4000 -c 20 -m 10 http://{NEAR4}:{two}/small"),
            format!("-n 20 -c 4 -m 2 http://{NEAR4}:{two}/large"),
            format!("-n 4000 -c 20 --h1 http://{NEAR4}:{PORT}/small"),
        ] {
            let report = run_with(hosts.far(h2load), &arguments);
            let requests = arguments.split(' ').nth(1).expect("a number");
            let words = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
            assert!(report.contains(&words), "{arguments}: {report}");
        }
    });
}

#[test]
fn haproxy_balances() {
    with_programs(
        "haproxy_balances",
        ["haproxy", "nginx", "curl", "wrk"],
        |hosts, [haproxy, nginx_, curl_, wrk]| {
            // nginx and those who ask are on one host, haproxy is on the other, so that all goes through the wire twice.
            let (mut nginx, large) =
                nginx(hosts, hosts.far(nginx_), &format!("listen {FAR4}:{PORT} backlog=1024;"));
            let configuration = format!(
                "global\n maxconn 1000\n nbthread 2\n\
             defaults\n timeout connect 2s\n timeout client 20s\n timeout server 20s\n retries 0\n\
             frontend web\n bind {NEAR4}:{PORT}\n mode http\n default_backend web\n\
             backend web\n mode http\n server one {FAR4}:{PORT}\n\
             listen bytes\n bind {NEAR4}:8081\n mode tcp\n server one {FAR4}:{PORT}\n"
            );
            let path = hosts.file("haproxy.cfg", configuration);
            let mut command = hosts.near(haproxy);
            command.args(["-db", "-f"]).arg(path);
            let mut haproxy = Program::start(command);
            hosts.wait_for_port(8081);
            nginx.expect_error("start worker process ");
            for port in [PORT, 8081] {
                let at = format!("http://{NEAR4}:{port}");
                assert_eq!(
                    curl(hosts, curl_, &format!("--retry 5 --retry-all-errors {at}/small")),
                    b"a small file\n"
                );
                assert_same(&curl(hosts, curl_, &format!("{at}/large")), &large, "through haproxy");
                assert_no_errors(&run_with(hosts.far(wrk), &format!("-t 2 -c 16 -d 1 {at}/text")));
            }
            nginx.kill();
            let started = Instant::now();
            let mut command = hosts.far(curl_);
            command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
            assert_eq!(run_with(command, &format!("http://{NEAR4}:{PORT}/text")).trim(), "503");
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            assert!(haproxy.is_running());
        },
    );
}

#[test]
fn a_killed_server_under_nginx() {
    // The client's kernel tells it: what it sends next, nobody knows any more.
    let under = &[Under::Near];
    with_programs_under("a_killed_server_under_nginx", under, ["nginx", "wrk"], |hosts, [nginx_, wrk]| {
        let (mut nginx, _) = nginx(hosts, hosts.near(nginx_), &listen());
        hosts.wait_for_port(PORT);
        let Some(server) = &hosts.near else { return };
        let arguments = format!("-t 1 -c 8 -d 4 http://{NEAR4}:{PORT}/small");
        let mut client = Program::start(with(hosts.far(wrk), &arguments));
        server.wait_until("requests are under way", |status| {
            let connections = status["connections"].as_array().expect("a list");
            connections.iter().any(|connection| connection["bytes_sent"].as_u64() > Some(10_000))
        });
        server.program.signal(libc::SIGKILL);
        let report = client.succeed();
        assert!(report.contains("Socket errors"), "the clients are told: {report}");
        assert!(nginx.is_running(), "{}", nginx.errors());
        nginx.signal(libc::SIGTERM);
        nginx.wait();
    });
}
