//! Services in the flows of unmodified programs, over the kernel's own TCP, with no server and no privilege.

use freena_tests::binaries::{freena, installed, python, script};
use freena_tests::netns::privileged;
use freena_tests::program::{PATIENCE, Program, output};
use freena_tests::wire::shows;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the program's ends say again and again: it must not be seen on the wire.
const MARK: &[u8] = b"nobody on the wire may read this. ";

/// A folder with keys and configurations.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new(freena("freena"));
        command.arg("keygen").arg(&path);
        assert!(output(command).status.success());
        path
    }

    /// A configuration with one service and one rule, with these attributes.
    fn configuration(&self, name: &str, key: &Path, rule: &str) -> PathBuf {
        let path = self.path(name);
        let text = format!(
            "<configuration application='x'><services><service name='crypto'><parameter name='key' value='{}'/>\
             <parameter name='key_size' value='128'/></service><using-rules><rule use='true' transport='TCP' {rule}/>\
             </using-rules></services></configuration>",
            key.display()
        );
        std::fs::write(&path, text).expect("a file");
        path
    }
}

/// `freena run --config FILE -- PROGRAM`.
fn with(configuration: &Path, program: &Path) -> Command {
    let mut command = Command::new(freena("freena"));
    command.arg("run").arg("--config").arg(configuration).arg("--").arg(program);
    command
}

/// The script in one of its parts.
fn part(mut command: Command, part: &str, port: u16) -> Program {
    command.arg("-u").arg(script("stream_services.py")).args([part, &port.to_string()]);
    Program::start(command)
}

/// Carries connections from one port to another, and keeps what went over.
fn wire(from: u16, to: u16) -> Arc<Mutex<Vec<u8>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind(("127.0.0.1", from)).expect("a free port");
    let keep = Arc::clone(&seen);
    thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (mut source, mut sink) in
                [(near.try_clone().expect("a duplicate"), far.try_clone().expect("a duplicate")), (far, near)]
            {
                let keep = Arc::clone(&keep);
                thread::spawn(move || {
                    let mut buffer = vec![0; 65536];
                    while let Ok(len @ 1..) = source.read(&mut buffer) {
                        keep.lock().expect("no panic").extend_from_slice(&buffer[..len]);
                        if sink.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                    }
                    let _ = sink.shutdown(Shutdown::Write);
                });
            }
        }
    });
    seen
}

/// Programs' threads share this thread's namespace.
fn in_namespace(name: &str, test: impl FnOnce(&Files) + Send) {
    privileged(name, || test(&Files::new()));
}

#[test]
fn all_kinds_of_calls_arrive_and_nothing_is_seen_on_the_wire() {
    in_namespace("all_kinds_of_calls_arrive_and_nothing_is_seen_on_the_wire", |files| {
        let file = files.configuration("x.xml", &files.key("key"), "");
        let mut server = part(with(&file, &python()), "serve", 7000);
        server.expect("ready");
        let seen = wire(7001, 7000);
        let mut client = part(with(&file, &python()), "ask", 7001);
        client.expect("all arrived");
        client.succeed();
        server.succeed();
        assert!(seen.lock().unwrap().len() > 20_000_000, "the wire was not looked at");
        assert!(!shows(&seen, &MARK[..16]));
    });
}

#[test]
fn another_key_is_refused_at_both_ends_before_anything_is_said() {
    in_namespace("another_key_is_refused_at_both_ends_before_anything_is_said", |files| {
        let file = files.configuration("x.xml", &files.key("key"), "");
        let other = files.configuration("y.xml", &files.key("other"), "");
        let mut server = part(with(&file, &python()), "serve", 7000);
        server.expect("ready");
        let seen = wire(7001, 7000);
        let mut client = part(with(&other, &python()), "tell", 7001);
        assert_eq!(client.expect("errno"), libc::EPERM.to_string());
        assert_eq!(server.expect("refused"), libc::EPERM.to_string());
        client.expect_error("wrong key");
        server.expect_error("wrong key");
        assert!(!shows(&seen, &MARK[..16]));
    });
}

#[test]
fn a_peer_without_freena_is_refused_unless_the_rule_says_otherwise() {
    in_namespace("a_peer_without_freena_is_refused_unless_the_rule_says_otherwise", |files| {
        let key = files.key("key");
        let file = files.configuration("x.xml", &key, "");
        let mut server = part(with(&file, &python()), "serve", 7000);
        server.expect("ready");
        let mut client = part(Command::new(python()), "tell", 7000);
        assert_eq!(server.expect("refused"), libc::EPROTO.to_string());
        server.expect_error("the peer has no freena");
        client.wait();

        let plain = files.configuration("plain.xml", &key, "plain='true'");
        let mut server = part(with(&plain, &python()), "serve", 7002);
        server.expect("ready");
        assert_eq!(
            part(Command::new(python()), "tell", 7002).expect("answer"),
            MARK.len().to_string() + "00"
        );
        assert_eq!(
            part(with(&plain, &python()), "tell", 7002).expect("answer"),
            MARK.len().to_string() + "00"
        );

        // The other way round: nothing of what the program says is seen by a server that does not answer as freena.
        let mut server = part(Command::new(python()), "serve", 7004);
        server.expect("ready");
        let seen = wire(7005, 7004);
        let mut client = part(with(&file, &python()), "tell", 7005);
        client.expect("errno");
        assert!(!shows(&seen, &MARK[..16]) && !seen.lock().unwrap().is_empty());
    });
}

#[test]
fn curl_fetches_from_a_server_that_sends_files() {
    in_namespace("curl_fetches_from_a_server_that_sends_files", |files| {
        let curl = installed("curl").expect("curl");
        let file = files.configuration("x.xml", &files.key("key"), "");
        let noise: Vec<u8> =
            (0..6_000_000u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::create_dir(files.path("www")).expect("a folder");
        std::fs::write(files.path("www/large"), &noise).expect("a file");
        let mut command = with(&file, &python());
        command
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(files.path("www"));
        command.arg("7000");
        let mut server = Program::start(command);
        server.expect("Serving");
        for _ in 0..3 {
            let mut command = with(&file, &curl);
            command.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--output"]);
            command.arg(files.path("got")).arg("http://127.0.0.1:7000/large");
            Program::start(command).succeed();
            assert!(std::fs::read(files.path("got")).expect("a file") == noise);
        }
        assert!(server.is_running());
    });
}

#[test]
fn what_bypasses_connect_and_accept_is_not_sent_in_the_clear() {
    privileged("what_bypasses_connect_and_accept_is_not_sent_in_the_clear", || {
        let files = Files::new();
        let configuration = files.configuration("own.xml", &files.key("key"), "");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("bound").port();
        let peer = thread::spawn(move || {
            let mut seen = Vec::new();
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.read_to_end(&mut seen).map(|_| seen).unwrap_or_default()
        });
        let mark = String::from_utf8_lossy(MARK);
        let mut command = with(&configuration, &python());
        command.arg("-c").arg(format!(
            "import socket, errno\n\
             s = socket.socket()\n\
             try: s.sendto(b'{mark}', socket.MSG_FASTOPEN, ('127.0.0.1', {port})); raise SystemExit('sent')\n\
             except OSError as e: assert e.errno == errno.EOPNOTSUPP, e\n\
             s.connect(('127.0.0.1', {port}))\n\
             a, b = socket.socketpair()\n\
             socket.send_fds(a, [b'x'], [s.fileno()])\n\
             passed = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])\n\
             s.close()\n\
             passed.settimeout(1)\n\
             try: passed.sendall(b'{mark}')\n\
             except OSError: pass\n\
             passed.shutdown(socket.SHUT_RDWR)\n"
        ));
        let output = output(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen = peer.join().expect("a peer");
        assert!(!seen.windows(MARK.len()).any(|bytes| bytes == MARK), "{}", String::from_utf8_lossy(&seen));
    });
}

/// What `freena status --json` says of the flows of programs under these configurations.
fn flows_shown(files: &Files) -> Vec<Value> {
    let mut command = Command::new(freena("freena"));
    command.args(["status", "--json", "--control", "/nonexistent/control"]);
    let status: Value = serde_json::from_slice(&output(command).stdout).expect("a document");
    let programs = status["programs_with_services"].as_array().expect("a list").clone();
    let folder = files.path("").display().to_string();
    let own = |it: &&Value| it["configuration"].as_str().expect("a path").starts_with(&folder);
    programs.iter().filter(own).flat_map(|it| it["flows"].as_array().expect("a list").clone()).collect()
}

#[test]
fn status_shows_flows_with_their_rules_and_what_has_ended_them_with_no_server() {
    in_namespace("status_shows_flows_with_their_rules_and_what_has_ended_them_with_no_server", |files| {
        let file = files.configuration("x.xml", &files.key("key"), "");
        let other = files.configuration("y.xml", &files.key("other"), "");
        // Each connection is a process's of its own, as with servers that fork.
        let mut command = with(&file, &python());
        command.args(["-u", "-c"]).arg(
            "import socket, os\n\
             listener = socket.create_server(('127.0.0.1', 7100))\n\
             print('ready')\n\
             while True:\n\
             \x20 connection, _ = listener.accept()\n\
             \x20 if os.fork() == 0:\n\
             \x20   try: connection.sendall(connection.recv(100)); connection.recv(1)\n\
             \x20   except OSError: os._exit(1)\n\
             \x20   os._exit(0)\n\
             \x20 connection.close()\n",
        );
        let mut server = Program::start(command);
        server.expect("ready");
        let client = |file: &Path| {
            let mut command = with(file, &python());
            command.args(["-u", "-c"]).arg(
                "import socket\n\
                 s = socket.create_connection(('127.0.0.1', 7100))\n\
                 try: s.sendall(b'x'); print('got', s.recv(1))\n\
                 except OSError as error: print('errno', error.errno)\n\
                 input()\n",
            );
            Program::start(command)
        };
        let mut good = client(&file);
        good.expect("got");
        let shown = flows_shown(files);
        assert_eq!(shown.len(), 2, "{shown:?}");
        for role in ["client", "server"] {
            let flow = shown.iter().find(|it| it["role"] == role).expect("both ends are shown");
            assert_eq!(flow["state"], "open", "{flow}");
            assert_eq!(flow["services"], "crypto (rule in line 1)", "{flow}");
            assert!(flow["process_lives"] == true && flow["transport"] == "TCP", "{flow}");
            assert_eq!(flow["pid"] == good.pid(), role == "client", "{flow}");
            assert_eq!(flow["refused"], 0, "{flow}");
            assert!(flow["figures"]["crypto: messages sealed"].is_u64(), "{flow}");
        }

        let mut bad = client(&other);
        assert_eq!(bad.expect("errno"), libc::EPERM.to_string());
        bad.kill();
        let failed: Vec<Value> =
            flows_shown(files).into_iter().filter(|it| it["state"] == "failed").collect();
        // That of a program that is gone too.
        assert_eq!(failed.len(), 2, "{failed:?}");
        for flow in &failed {
            assert_eq!(flow["errno"], libc::EPERM, "{flow}");
            assert!(flow["reason"].as_str().unwrap().contains("wrong key"), "{flow}");
        }
        let mut command = Command::new(freena("freena"));
        command.args(["status", "--control", "/nonexistent/control"]);
        let output = output(command);
        // A server that is named is asked for: that it is not there is an error all the same.
        assert!(!output.status.success() && !output.stderr.is_empty());
        let words = String::from_utf8(output.stdout).expect("words");
        assert!(words.contains("no freena-stack on /nonexistent/control"), "{words}");
        assert!(words.contains(&format!("{} (processes: ", file.display())), "{words}");
        assert!(words.contains("by EPERM; 0 messages refused"), "{words}");

        // One that has ended in order is not shown any more.
        good.tell("");
        good.succeed();
        let open = || flows_shown(files).iter().filter(|it| it["state"] == "open").count();
        let deadline = Instant::now() + PATIENCE;
        while open() > 0 {
            assert!(Instant::now() < deadline, "{:?}", flows_shown(files));
            thread::sleep(Duration::from_millis(10));
        }
    });
}
