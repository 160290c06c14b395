//! What programs are written in: Python, Node.js, Java. The servers are those that come with the language, or that its
//! users run.

use crate::hosts::{Hosts, assert_same, noise, run, run_with, with, with_programs, with_programs_over_all};
use freena_tests::binaries::{python, script};
use freena_tests::lab::NEAR4;
use freena_tests::program::Program;
use std::path::Path;

const PORT: u16 = 8000;
const LARGE: usize = 8 << 20;

/// Asserts that curl gets the noise from there, and that wrk meets no error.
fn assert_serves(hosts: &Hosts, curl: &Path, wrk: &Path, path: &str) {
    let got = hosts.lab.path("got");
    let mut command = hosts.far(curl);
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--output"]).arg(&got);
    run_with(command, &format!("http://{NEAR4}:{PORT}/{path}"));
    assert_same(&std::fs::read(got).expect("a file"), &noise(LARGE), path);
    let report = run_with(hosts.far(wrk), &format!("-t 1 -c 8 -d 1 http://{NEAR4}:{PORT}/small"));
    assert!(report.contains("Requests/sec"), "{report}");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
}

#[test]
fn python_http_server_serves() {
    with_programs_over_all(
        "python_http_server_serves",
        ["python3", "curl", "wrk"],
        |hosts, [_, curl, wrk]| {
            hosts.file("www/large", noise(LARGE));
            hosts.file("www/small", "a small file\n");
            let mut command = hosts.near(python());
            command
                .args(["-u", "-m", "http.server", "--bind", NEAR4, "--directory"])
                .arg(hosts.folder("www"));
            let mut server = Program::start(with(command, &PORT.to_string()));
            hosts.wait_for_port(PORT);
            assert_serves(hosts, curl, wrk, "large");
            assert!(server.is_running());
        },
    );
}

#[test]
fn python_asyncio_talks() {
    with_programs("python_asyncio_talks", ["python3"], |hosts, _| {
        let mut command = hosts.near(python());
        command.arg("-u").arg(script("stream_asyncio.py")).args(["serve", NEAR4, &PORT.to_string()]);
        let mut server = Program::start(command);
        server.expect("ready");
        let mut command = hosts.far(python());
        command.arg("-u").arg(script("stream_asyncio.py")).args(["ask", NEAR4, &PORT.to_string()]);
        assert_eq!(run(command).trim(), "100 clients got back what they sent");
        assert!(server.is_running());
    });
}

#[test]
fn gunicorn_serves() {
    with_programs("gunicorn_serves", ["gunicorn", "curl", "wrk"], |hosts, [gunicorn, curl, wrk]| {
        let app = "def app(environ, start):\n    body = open(environ['FREENA_TEST_NOISE'] if environ['PATH_INFO'] == \
                   '/large' else '/dev/null', 'rb').read()\n    start('200 OK', [('Content-Length', str(len(body)))])\n    \
                   return [body]\n"
            .replace("environ['FREENA_TEST_NOISE']", &format!("'{}'", hosts.lab.path("noise").display()));
        hosts.file("app.py", app);
        hosts.file("noise", noise(LARGE));
        for worker in ["sync", "gthread"] {
            let mut command = hosts.near(gunicorn);
            command.arg("--chdir").arg(hosts.lab.path(""));
            let arguments =
                format!("--bind {NEAR4}:{PORT} --workers 2 --threads 4 --worker-class {worker} app:app");
            let mut server = Program::start(with(command, &arguments));
            hosts.wait_for_port(PORT);
            server.expect_error("Booting worker");
            assert_serves(hosts, curl, wrk, "large");
            // As its users renew the workers.
            server.signal(libc::SIGHUP);
            server.expect_error("Handling signal: hup");
            assert_serves(hosts, curl, wrk, "large");
            server.signal(libc::SIGTERM);
            server.succeed();
        }
    });
}

#[test]
fn node_serves_and_asks() {
    with_programs("node_serves_and_asks", ["node", "curl", "wrk"], |hosts, [node, curl, wrk]| {
        let mut command = hosts.near(node);
        command.arg(script("stream_node.js")).args(["serve", NEAR4, &PORT.to_string()]);
        command.arg(hosts.file("noise", noise(LARGE)));
        let mut server = Program::start(command);
        server.expect("ready");
        assert_serves(hosts, curl, wrk, "large");
        let mut command = hosts.far(node);
        command.arg(script("stream_node.js")).args(["ask", NEAR4, &PORT.to_string()]);
        assert_eq!(run(command).trim(), "50 answers are what was asked");
        assert!(server.is_running());
    });
}

#[test]
fn java_serves_and_asks() {
    with_programs("java_serves_and_asks", ["java", "curl", "wrk"], |hosts, [java, curl, wrk]| {
        let mut command = hosts.near(java);
        command.arg(script("Streams.java")).args(["serve", NEAR4, &PORT.to_string()]);
        command.arg(hosts.file("noise", noise(LARGE)));
        let mut server = Program::start(command);
        server.expect("ready");
        assert_serves(hosts, curl, wrk, "large");
        let mut command = hosts.far(java);
        command.arg(script("Streams.java")).args(["ask", NEAR4, &PORT.to_string()]);
        assert_eq!(run(command).trim(), "sockets, channels and HTTP: 150 answers are what was asked");
        assert!(server.is_running());
    });
}
