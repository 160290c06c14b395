//! One listener of an unmodified server, whose clients speak kernel TCP, framework TCP and a library's protocol at once.

use crate::{PORT, listens, program, said, with_steady};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server};
use freena_tests::program::Program;
use std::path::Path;
use std::process::Command;
use std::thread;

/// What the servers are started with.
const ALL: &str = "steady,tcp";
/// The same as `freena status` says it.
const ALL_LISTENED: &str = "steady, tcp";

/// A command of each kind of client.
fn clients(lab: &Lab, far: &Server<'_>, program: &Path) -> [Command; 4] {
    [
        lab.far(program),
        far.run_with("tcp", program),
        far.run_with("steady", program),
        // By the loopback, which reaches the kernel's own listener.
        lab.near(program),
    ]
}

/// Has all kinds of clients ask at once, several times; what each of them is told.
fn ask(clients: [Command; 4], arguments: &[&str]) {
    thread::scope(|scope| {
        for mut client in clients {
            client.args(arguments);
            scope.spawn(move || said(client));
        }
    });
}

/// A file of 4 MiB in the folder `www`, and what checks that curl gets it again and again.
fn file(lab: &Lab) -> String {
    let content: Vec<u8> = (0..4u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::create_dir(lab.path("www")).expect("a folder");
    std::fs::write(lab.path("www/large"), content).expect("a file");
    let file = lab.path("www/large");
    format!(
        "for i in 1 2 3 4 5; do curl --silent --show-error --fail http://{NEAR4}:{PORT}/large | cmp - {} || exit 1; done",
        file.display()
    )
}

#[test]
fn python_serves_clients_of_all_protocols_at_once() {
    with_steady("python_serves_clients_of_all_protocols_at_once", |lab, near, far| {
        let check = file(lab);
        let mut server = near.run_with(ALL, binaries::python());
        server.args(["-u", "-m", "http.server", "--bind", NEAR4, &PORT.to_string(), "--directory"]);
        server.arg(lab.path("www"));
        let _server = Program::start(server);
        listens(near, ALL_LISTENED);
        ask(clients(lab, far, Path::new("/bin/sh")), &["-c", &check]);
    });
}

#[test]
fn nginx_serves_clients_of_all_protocols_at_once() {
    with_steady("nginx_serves_clients_of_all_protocols_at_once", |lab, near, far| {
        let check = file(lab);
        let folder = lab.path("nginx");
        std::fs::create_dir(&folder).expect("a folder");
        let (tmp, www) = (folder.display(), lab.path("www"));
        let configuration = format!(
            "worker_processes 2; daemon off; pid {tmp}/pid; error_log stderr notice; user root;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p;\n\
             fastcgi_temp_path {tmp}/f; uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
             server {{ listen {NEAR4}:{PORT}; root {}; }} }}\n",
            www.display()
        );
        let path = lab.path("nginx.conf");
        std::fs::write(&path, configuration).expect("a file");
        let mut server = near.run_with(ALL, program("nginx"));
        server.arg("-c").arg(path);
        let mut nginx = Program::start(server);
        listens(near, ALL_LISTENED);
        ask(clients(lab, far, Path::new("/bin/sh")), &["-c", &check]);
        nginx.signal(libc::SIGQUIT);
        nginx.succeed();
    });
}

#[test]
fn redis_serves_clients_of_all_protocols_at_once() {
    with_steady("redis_serves_clients_of_all_protocols_at_once", |lab, near, far| {
        let mut server = near.run_with(ALL, program("redis-server"));
        server.args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
            "--bind",
            NEAR4,
            "--port",
        ]);
        server.arg(PORT.to_string());
        let _server = Program::start(server);
        listens(near, ALL_LISTENED);
        let port = PORT.to_string();
        let arguments = ["-h", NEAR4, "-p", &port, "-q", "-c", "10", "-n", "2000", "-t", "incr"];
        ask(clients(lab, far, &program("redis-benchmark")), &arguments);
        let mut client = far.run_with("steady", program("redis-cli"));
        client.args(["-h", NEAR4, "-p", &port, "get", "counter:__rand_int__"]);
        assert_eq!(said(client).trim(), "8000", "no increment is lost, whatever it came by");
    });
}

/// Accepts as many connections as it is told, and says of each what carries it and who is at the other end.
const ACCEPT: &str = "
import select, socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
e = select.epoll()
e.register(s, select.EPOLLIN)
for _ in range(int(sys.argv[3])):
    assert e.poll(10)
    c, peer = s.accept()
    assert c.getpeername() == peer and c.getsockname() == s.getsockname()
    assert c.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    print(c.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), peer[0], c.recv(99).decode(), flush=True)
    c.sendall(b'heard')
    c.close()
";

/// Connects, says its name, and says what carries the connection.
const CONNECT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
s.sendall(sys.argv[3].encode())
assert s.recv(99) == b'heard'
print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))
";

#[test]
fn each_connection_tells_what_carries_it() {
    with_steady("each_connection_tells_what_carries_it", |lab, near, far| {
        let port = PORT.to_string();
        let mut server = near.run_with(ALL, binaries::python());
        server.args(["-c", ACCEPT, NEAR4, &port, "4"]);
        let mut server = Program::start(server);
        listens(near, ALL_LISTENED);
        let expected =
            [("kernel", "6", FAR4), ("tcp", "6", FAR4), ("steady", "253", FAR4), ("loopback", "6", NEAR4)];
        for (mut client, (name, protocol, from)) in
            clients(lab, far, &binaries::python()).into_iter().zip(expected)
        {
            client.args(["-c", CONNECT, NEAR4, &port, name]);
            assert_eq!(said(client).trim(), protocol, "{name}");
            assert_eq!(server.line(), format!("{protocol} {from} {name}"));
        }
        server.succeed();
    });
}

#[test]
fn a_protocol_that_the_server_has_not_leaves_nothing_half_open() {
    with_steady("a_protocol_that_the_server_has_not_leaves_nothing_half_open", |lab, near, _| {
        let mut refused = lab.near(binaries::freena("freena"));
        refused
            .args(["run", "--protocol", "steady,swift", "--control"])
            .arg(&near.control)
            .args(["--", "true"]);
        let refused = freena_tests::program::output(refused);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && errors.contains("`swift`"), "{errors}");
    });
}
