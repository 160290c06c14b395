//! Services in the flows of unmodified programs, over the kernel's own TCP, with no server and no privilege.

use freena_tests::binaries::{freena, installed, python, script};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
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

fn shows(seen: &Mutex<Vec<u8>>, words: &[u8]) -> bool {
    seen.lock().expect("no panic").windows(words.len()).any(|it| it == words)
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
