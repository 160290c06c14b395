//! Unmodified programs over QUIC, whose peers prove who they are.

use crate::{PORT, listens, program, said};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, FAR6, Lab, NEAR4, NEAR6, Server};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// What is sent, and must not be seen on the wire.
const SECRET: &str = "nobody-reads-this-on-the-wire-";

/// Where the near server writes what its link carries.
const WIRE: &str = "wire.near-0.pcapng";

/// Two hosts with keys of their own, each of which trusts the other's.
pub fn with_quic(name: &str, test: impl FnOnce(&Lab, &Server<'_>, &Server<'_>) + Send) {
    privileged(name, || {
        let lab = Lab::new();
        let folders = ["near-keys", "far-keys"].map(|name| lab.path(name));
        let trace = lab.path("wire");
        let [near_keys, far_keys] = folders.each_ref().map(|folder| folder.to_str().expect("a name"));
        let mut near =
            lab.near_server_with(&["--quic", near_keys, "--trace", trace.to_str().expect("a name")]);
        let mut far = lab.far_server_with(&["--quic", far_keys]);
        let (near_key, far_key) = (key_of(&near), key_of(&far));
        trust(&lab, "far-keys", &format!("{NEAR4} {near_key}\n{NEAR6} {near_key}"));
        trust(&lab, "near-keys", &format!("{FAR4} {far_key}\n{FAR6} {far_key}"));
        test(&lab, &near, &far);
        for server in [&mut near, &mut far] {
            if server.program.is_alive() {
                server.stop();
            }
        }
    });
}

/// The fingerprint of a server's key.
pub fn key_of(server: &Server<'_>) -> String {
    let status = server.status();
    let protocols = status["protocols"].as_array().expect("protocols");
    let quic = protocols.iter().find(|it| it["name"] == "quic").expect("QUIC");
    quic["fingerprint"].as_str().expect("a fingerprint").to_owned()
}

pub fn trust(lab: &Lab, folder: &str, line: &str) {
    fs::write(lab.path(folder).join("trusted"), format!("{line}\n")).expect("a file");
}

pub fn python(server: &Server<'_>, script: &str) -> Command {
    let mut python = server.run_with("quic", binaries::python());
    python.args(["-u", "-c", script]);
    python
}

#[test]
fn a_server_may_speak_first_and_nothing_is_readable_on_the_wire() {
    with_quic("a_server_may_speak_first_and_nothing_is_readable_on_the_wire", |lab, near, far| {
        let mut server = Program::start(python(
            near,
            &format!(
                "import socket\ns = socket.create_server(('{NEAR4}', {PORT}))\nprint('ready', flush=True)\n\
                 c, peer = s.accept()\nc.sendall(b'{SECRET}' * 1000)\nc.shutdown(socket.SHUT_WR)\n\
                 got = b''\nwhile part := c.recv(9999): got += part\n\
                 assert got == b'{SECRET}' * 2000, len(got)\n\
                 print(peer[0], c.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))"
            ),
        ));
        assert_eq!(server.line(), "ready");
        let client = python(
            far,
            &format!(
                "import socket\ns = socket.create_connection(('{NEAR4}', {PORT}))\n\
                 got = b''\nwhile part := s.recv(9999): got += part\n\
                 assert got == b'{SECRET}' * 1000, len(got)\n\
                 s.sendall(b'{SECRET}' * 2000)\ns.close()"
            ),
        );
        said(client);
        assert_eq!(server.line(), format!("{FAR4} 261"));
        server.succeed();
        // The rest is written at its end.
        near.program.signal(libc::SIGTERM);
        while near.program.is_alive() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let wire = fs::read(lab.path(WIRE)).expect("a capture");
        assert!(wire.len() > SECRET.len() * 3000, "{} bytes captured", wire.len());
        let readable = wire.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes());
        assert!(!readable, "it can be read on the wire");
        if let Some(tshark) = binaries::installed("tshark") {
            let mut tshark = Command::new(tshark);
            tshark.args(["-n", "-d", &format!("udp.port=={PORT},quic"), "-r"]).arg(lab.path(WIRE));
            let all = said(tshark);
            assert!(all.lines().filter(|line| line.contains("QUIC")).count() > 10, "{all}");
            assert!(all.contains("Initial") && !all.contains("Malformed"), "{all}");
        }
    });
}

/// Configures nginx to serve a file of 8 MB at [`PORT`]; a shell's command that gets it several times and compares.
fn nginx_configuration(lab: &Lab) -> String {
    let content: Vec<u8> = (0..8_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (www, folder) = (lab.path("www"), lab.path("nginx"));
    fs::create_dir(&www).expect("a folder");
    fs::create_dir(&folder).expect("a folder");
    fs::write(www.join("large"), &content).expect("a file");
    let tmp = folder.display();
    let configuration = format!(
        "worker_processes 1; daemon off; pid {tmp}/pid; error_log stderr notice; user root;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p;\n\
         fastcgi_temp_path {tmp}/f; uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
         server {{ listen {NEAR4}:{PORT}; root {}; }} }}\n",
        www.display()
    );
    fs::write(lab.path("nginx.conf"), configuration).expect("a file");
    let large = www.join("large");
    format!(
        "for i in 1 2 3 4 5; do curl --silent --show-error --fail http://{NEAR4}:{PORT}/large | cmp - {} || exit 1; done",
        large.display()
    )
}

#[test]
fn curl_iperf3_and_redis_run_over_quic() {
    with_quic("curl_iperf3_and_redis_run_over_quic", |lab, near, far| {
        nginx_configuration(lab);
        let content = fs::read(lab.path("www/large")).expect("a file");
        let mut nginx = near.run_with("quic", program("nginx"));
        nginx.arg("-c").arg(lab.path("nginx.conf"));
        let mut nginx = Program::start(nginx);
        listens(near, "quic");
        for _ in 0..3 {
            let mut curl = far.run_with("quic", program("curl"));
            curl.args(["--silent", "--show-error", "--fail", "--output"]).arg(lab.path("got"));
            curl.arg(format!("http://{NEAR4}:{PORT}/large"));
            said(curl);
            assert!(fs::read(lab.path("got")).expect("what curl got") == content, "other bytes");
        }
        nginx.signal(libc::SIGQUIT);
        nginx.succeed();

        for (port, mode) in
            [("5201", &["-n", "64M"][..]), ("5202", &["-t", "1", "-P", "4"]), ("5203", &["-t", "1", "-R"])]
        {
            let mut server = near.run_with("quic", program("iperf3"));
            server.args(["-s", "--one-off", "-p", port]);
            let mut server = Program::start(server);
            listens(near, "quic");
            let mut client = far.run_with("quic", program("iperf3"));
            client.args(["-c", NEAR4, "-p", port, "--json"]).args(mode);
            let report: Value = serde_json::from_str(&said(client)).expect("JSON");
            assert!(report["error"].is_null(), "{mode:?}: {}", report["error"]);
            server.succeed();
        }

        let mut redis = near.run_with("quic", program("redis-server"));
        redis.args(["--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", NEAR4]);
        redis.args(["--port", "6379"]);
        let _redis = Program::start(redis);
        listens(near, "quic");
        for (words, answer) in [(&["SET", "key", "value"][..], "OK"), (&["GET", "key"], "value")] {
            let mut client = far.run_with("quic", program("redis-cli"));
            client.args(["-h", NEAR4]).args(words);
            assert_eq!(said(client).trim(), answer);
        }
    });
}

#[test]
fn ipv6_carries_it_too() {
    with_quic("ipv6_carries_it_too", |_, near, far| {
        for (address, peer) in [(NEAR6, FAR6), ("::", FAR6)] {
            let mut server = Program::start(python(
                near,
                &format!(
                    "import socket\ns = socket.create_server(('{address}', {PORT}), family=socket.AF_INET6)\n\
                     print('ready', flush=True)\nc, peer = s.accept()\ngot = b''\n\
                     while part := c.recv(1 << 16): got += part\nc.sendall(got)\nc.close()\n\
                     print(peer[0], c.family.name, len(got))"
                ),
            ));
            assert_eq!(server.line(), "ready");
            let client = python(
                far,
                &format!(
                    "import socket\ns = socket.create_connection(('{NEAR6}', {PORT}))\n\
                     data = bytes(range(251)) * 40000\ns.sendall(data)\ns.shutdown(socket.SHUT_WR)\ngot = b''\n\
                     while part := s.recv(1 << 16): got += part\nassert got == data, len(got)\n\
                     print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))"
                ),
            );
            assert_eq!(said(client).trim(), "261");
            assert_eq!(server.line(), format!("{peer} AF_INET6 {}", 251 * 40000));
            server.succeed();
        }
    });
}

#[test]
fn a_peer_with_another_key_is_refused() {
    with_quic("a_peer_with_another_key_is_refused", |lab, near, far| {
        let _server = Program::start(python(
            near,
            &format!("import socket\ns = socket.create_server(('{NEAR4}', {PORT}))\nwhile True: s.accept()"),
        ));
        listens(near, "quic");
        let connect = format!(
            "import errno, socket\ns = socket.socket()\n\
             print(errno.errorcode.get(s.connect_ex(('{NEAR4}', {PORT})), 0))"
        );
        assert_eq!(said(python(far, &connect)).trim(), "0");
        trust(lab, "far-keys", &format!("{NEAR4} sha256:{}", "0".repeat(64)));
        assert_eq!(said(python(far, &connect)).trim(), "EKEYREJECTED");
        far.program.expect_error(&format!("is not that of {NEAR4}"));
        // Nobody is trusted whom no file names.
        trust(lab, "far-keys", "# nobody");
        assert_eq!(said(python(far, &connect)).trim(), "EKEYREJECTED");
        // Nobody listens.
        let other = connect.replace(&PORT.to_string(), "7999");
        assert_eq!(said(python(far, &other)).trim(), "ECONNREFUSED");
    });
}

#[test]
fn one_nginx_serves_clients_of_the_kernel_tcp_sctp_and_quic_at_once() {
    with_quic("one_nginx_serves_clients_of_the_kernel_tcp_sctp_and_quic_at_once", |lab, near, far| {
        let check = nginx_configuration(lab);
        let mut nginx = near.run_with("quic,sctp,tcp", program("nginx"));
        nginx.arg("-c").arg(lab.path("nginx.conf"));
        let mut nginx = Program::start(nginx);
        listens(near, "quic, sctp, tcp");
        let framework = ["tcp", "sctp", "quic"].map(|protocol| far.run_with(protocol, "/bin/sh"));
        let clients = framework.into_iter().chain([lab.far("/bin/sh")]);
        std::thread::scope(|scope| {
            for mut client in clients {
                client.args(["-c", &check]);
                scope.spawn(move || said(client));
            }
        });
        nginx.signal(libc::SIGQUIT);
        nginx.succeed();
    });
}

#[test]
fn where_quic_is_alone_nothing_is_plain() {
    with_quic("where_quic_is_alone_nothing_is_plain", |lab, near, far| {
        let _server = Program::start(python(
            near,
            &format!(
                "import socket\ns = socket.create_server(('{NEAR4}', {PORT}))\n\
                 while True: s.accept()[0].sendall(b'{SECRET}')"
            ),
        ));
        listens(near, "quic");
        let ask = format!(
            "import errno, socket\ns = socket.socket()\ncode = s.connect_ex(('{NEAR4}', {PORT}))\n\
             try: print(errno.errorcode.get(code, 0), s.recv(999))\n\
             except OSError as e: print(errno.errorcode[e.errno])"
        );
        let mut plain = lab.far(binaries::python());
        plain.args(["-c", &ask]);
        assert_eq!(said(plain).trim(), "ECONNRESET");
        assert_eq!(said(python(far, &ask)).trim(), format!("0 b'{SECRET}'"));
        // Without a server there is nothing that could encrypt, however often it is tried.
        let again = format!(
            "import errno, socket\ns = socket.socket()\n\
             for _ in range(3): print(errno.errorcode[s.connect_ex(('{NEAR4}', {PORT}))])\n\
             try: socket.create_server(('{FAR4}', {PORT}))\nexcept OSError as e: print(errno.errorcode[e.errno])"
        );
        let mut client = lab.far(binaries::freena("freena"));
        client.args(["run", "--protocol", "quic", "--control"]).arg(&far.control).arg("--");
        client.arg(binaries::python()).args(["-c", &format!("import sys\nsys.stdin.readline()\n{again}")]);
        let mut client = Program::start(client);
        std::thread::sleep(std::time::Duration::from_millis(300));
        far.program.signal(libc::SIGKILL);
        client.tell("go");
        for _ in 0..4 {
            assert_eq!(client.line(), "EPROTONOSUPPORT");
        }
        client.succeed();
    });
}

#[test]
fn a_port_that_only_udp_has_in_use_is_named_and_nothing_is_half_open() {
    with_quic("a_port_that_only_udp_has_in_use_is_named_and_nothing_is_half_open", |lab, near, far| {
        let hold = format!(
            "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.bind(('{NEAR4}', {PORT}))\nprint('held', flush=True)\nsys.stdin.read()"
        );
        let mut holds = lab.near(binaries::python());
        holds.args(["-c", &hold]);
        let mut holds = Program::start(holds);
        assert_eq!(holds.line(), "held");
        let listen = format!(
            "import errno, socket\n\
             try: s = socket.create_server(('{NEAR4}', {PORT}))\n\
             except OSError as e: print(errno.errorcode[e.errno])\n\
             else:\n    print('listens', flush=True)\n    s.accept()[0].sendall(b'by TCP')"
        );
        let words = format!("QUIC needs UDP port {PORT}: Address already in use");
        // Alone it cannot be; with TCP beside it the kernel serves the peers that it can.
        let mut refused = python(near, &listen);
        refused.env("FREENA_LOG", "1");
        let mut refused = Program::start(refused);
        assert_eq!(refused.line(), "EPROTONOSUPPORT");
        refused.expect_error(&words);
        refused.succeed();
        let mut serves = near.run_with("quic,tcp", binaries::python());
        serves.args(["-c", &listen]).env("FREENA_LOG", "1");
        let mut serves = Program::start(serves);
        assert_eq!(serves.line(), "listens");
        serves.expect_error(&words);
        assert_eq!(near.status()["listeners"].as_array().map(Vec::len), Some(0), "nothing is half open");
        let ask = format!("import socket\nprint(socket.create_connection(('{NEAR4}', {PORT})).recv(9))");
        let mut asks = far.run_with("quic,tcp", binaries::python());
        asks.args(["-c", &ask]);
        assert_eq!(said(asks).trim(), "b'by TCP'");
        serves.succeed();
        holds.kill();
    });
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    privileged("a_key_that_others_can_read_is_refused", || {
        let lab = Lab::new();
        let keys = lab.path("keys");
        let arguments = ["--quic", keys.to_str().expect("a name")];
        lab.near_server_with(&arguments).stop();
        fs::set_permissions(keys.join("key.pem"), fs::Permissions::from_mode(0o644)).expect("a mode");
        let mut server = lab.near(binaries::freena("freena-stack"));
        server.args(["--iface", "near", "--control"]).arg(lab.path("other")).args(arguments);
        let refused = output(server);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && errors.contains("key.pem: found mode 0644"), "{errors}");
    });
}
