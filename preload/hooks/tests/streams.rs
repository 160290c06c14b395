//! Streams of real programs, through a scripted server.

mod support;

use freena_shm_abi::control::op;
use support::FakeServer;
use support::program::{c, python};

#[test]
fn a_connection_carries_bytes_both_ways() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = tcp(PEER)
assert s.getpeername() == PEER and s.getsockname()[0] == '127.0.0.1' and s.getsockname()[1] != 0
for size in (1, 63, 4096, 100000, 3000000):
    data = os.urandom(size)
    t = threading.Thread(target=s.sendall, args=(data,)); t.start()
    assert recvall(s, size) == data, size
    t.join()
s.shutdown(socket.SHUT_WR); assert s.recv(9) == b'' and s.recv(9) == b''
raises(errno.ENOTCONN, s.shutdown, socket.SHUT_WR)
s.close()
",
    );
    assert!(log.contains("is framework socket 1: scripted"), "{log}");
    assert_eq!(server.count(op::CONNECT), 1);
    server.wait_until_empty();
}

#[test]
fn a_connection_that_finds_no_free_descriptor_waits() {
    let server = FakeServer::start();
    python(
        &server,
        "
import resource
l = listener(); c = tcp(l.getsockname())
resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
try:
    while True: taken.append(os.open('/dev/null', os.O_RDONLY))
except OSError as e: assert e.errno == errno.EMFILE
for _ in range(3): raises(errno.EMFILE, l.accept)
for _ in range(3): os.close(taken.pop()); raises(errno.EMFILE, l.accept)
os.close(taken.pop()); a, who = l.accept()
assert who == c.getsockname()
c.sendall(b'hello'); assert a.recv(9) == b'hello'
c.close(); a.close(); l.close()
",
    );
    server.wait_until_empty();
}

#[test]
fn a_congestion_control_that_is_not_there_is_refused() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = tcp(PEER)
for name in (b'bbr', b'vegas', b''):
    raises(errno.ENOENT if name else errno.EINVAL, s.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
for name in (b'reno', b'cubic'):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b'\\0') == name
s.close()
",
    );
    server.wait_until_empty();
}

#[test]
fn a_listener_accepts() {
    let server = FakeServer::start();
    python(
        &server,
        "
l = listener(); assert l.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
c = tcp(l.getsockname())
a, who = l.accept()
assert who == c.getsockname() and a.getsockname() == c.getpeername() == l.getsockname()
assert a.getpeername() == who
c.sendall(b'hello'); assert a.recv(9) == b'hello'
a.sendall(b'world'); assert c.recv(9) == b'world'
c.close(); assert a.recv(9) == b''
a.sendall(b'still'); a.close()
l.setblocking(False); raises(errno.EAGAIN, l.accept)
d = tcp(l.getsockname()); select.select([l], [], [], 5)
b, _ = l.accept(); assert b.getblocking()
l.close(); raises(errno.EINVAL, b.listen)
",
    );
    assert_eq!(server.count(op::TAKEOVER), 1);
    server.wait_until_empty();
}

#[test]
fn a_listener_stays_blocking_when_the_server_makes_its_own_use_of_the_kernel_s() {
    let server = FakeServer::start();
    python(
        &server,
        "
l = listener()
assert not fcntl.fcntl(l, fcntl.F_GETFL) & os.O_NONBLOCK
t = threading.Thread(target=lambda: (time.sleep(0.2), tcp(l.getsockname()))); t.start()
l.accept(); t.join()
",
    );
    assert_eq!(server.count(op::TAKEOVER), 1);
}

#[test]
fn stdio_goes_by_the_socket() {
    let server = FakeServer::start();
    c(
        &server,
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int peer(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(4242)};
    inet_aton("127.0.0.7", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert(!connect(fd, (void *)&to, sizeof to));
    return fd;
}

int main(void) {
    char line[5000];
    int fd = peer();
    FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
    assert(in && out && fileno(in) == fd && fileno(out) != fd);
    for (int k = 0; k < 20; k++) {
        fprintf(out, "%d %*s\n", k, k * 200 + 1, "x");
        assert(!fflush(out));
        assert(fgets(line, sizeof line, in) && strlen(line) > 200 * k && line[strlen(line) - 2] == 'x');
    }
    fputs("not flushed\n", out);
    assert(!fclose(out));
    assert(!shutdown(fd, SHUT_WR));
    assert(fgets(line, sizeof line, in) && !strcmp(line, "not flushed\n"));
    assert(fgetc(in) == EOF && feof(in) && !ferror(in));
    assert(!fclose(in) && close(fd) == -1 && errno == EBADF);

    FILE *both = fdopen(peer(), "r+");
    assert(both && fseek(both, 0, SEEK_SET) == -1 && errno == ESPIPE);
    assert(fputs("4711 x\n", both) >= 0 && !fflush(both));
    int number;
    assert(fscanf(both, "%d", &number) == 1 && number == 4711);
    assert(!fclose(both));

    assert(!fdopen(-1, "r") && errno == EBADF);
    FILE *file = fdopen(dup(2), "w");
    assert(file && fputs("a plain file\n", file) >= 0 && !fclose(file));

    // As inetd has it, and as programs have it that know the lowest number to be taken.
    for (int way = 0; way < 2; way++) {
        fd = peer();
        if (way == 0) {
            assert(!close(0) && dup(fd) == 0 && !close(1) && dup(fd) == 1);
        } else {
            assert(dup2(fd, 0) == 0 && dup2(fd, 1) == 1);
        }
        puts("hello");
        printf("%d\n", 12);
        assert(!fflush(stdout));
        assert(fgets(line, sizeof line, stdin) && !strcmp(line, "hello\n"));
        assert(scanf("%d", &number) == 1 && number == 12 && fgetc(stdin) == '\n');
        assert(!close(fd));
    }
    return 0;
}
"#,
        &[],
    );
    server.wait_until_empty();
}
