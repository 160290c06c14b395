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

#[test]
fn epoll_tells_what_it_would_of_kernel_sockets() {
    let server = FakeServer::start();
    python(
        &server,
        "
IN, OUT, ET = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET
e = select.epoll(); all = [tcp(PEER) for _ in range(20)]; by = {s.fileno(): s for s in all}
for s in all: s.setblocking(False); e.register(s, IN)
assert e.poll(0) == []
for turn in range(200):
    for s in all: s.send(b'x' * 10)
    left = dict.fromkeys(by, 10)
    while left:
        told = e.poll(5); assert told and len({f for f, _ in told}) == len(told)
        for f, events in told:
            assert events == IN, events
            left[f] -= len(by[f].recv(99)); left[f] or left.pop(f)
    assert e.poll(0) == [], 'nothing is told of what has been read'
s = all[0]; f = s.fileno()
raises(errno.EEXIST, e.register, s, IN)
for _ in range(3):
    e.modify(s, OUT); assert e.poll(5) == [(f, OUT)]
    e.unregister(s); assert e.poll(0) == []; raises(errno.ENOENT, e.modify, s, IN)
    e.register(s, IN); s.send(b'x'); assert e.poll(5) == [(f, IN)]; e.unregister(s)
    assert e.poll(0.02) == []
    e.register(s, IN); assert e.poll(5) == [(f, IN)]; s.recv(9)
# Asleep: who sends is another thread.
def later(): time.sleep(0.1); s.send(b'y')
for _ in range(3):
    t = threading.Thread(target=later); t.start(); assert e.poll(5) == [(f, IN)]; t.join(); assert s.recv(9) == b'y'
# Edges: one for each arrival, also where older bytes lie unread.
e.modify(s, IN | ET)
for _ in range(3): s.send(b'z'); assert e.poll(5) == [(f, IN)]
for _ in range(9): e.poll(0.01)
assert e.poll(0.02) == []
assert recvall(s, 3) == b'zzz'
e.modify(s, IN | select.EPOLLONESHOT); s.send(b'o'); assert e.poll(5) == [(f, IN)]; assert e.poll(0.02) == []
e.modify(s, IN); assert e.poll(5) == [(f, IN)]; s.recv(9)
# The registration is the socket's: it lasts as long as any number.
s = all[1]; f = s.fileno(); d = s.dup(); s.close(); d.send(b'd'); assert e.poll(5) == [(f, IN)]; d.recv(9); d.close()
# A child, and whoever watches the instance, sees what the parent does.
s = all[2]; f = s.fileno(); pid = os.fork()
if pid == 0: os._exit(0 if e.poll(5) == [(f, IN)] else 1)
time.sleep(0.1); s.send(b'c'); assert os.waitpid(pid, 0)[1] == 0; assert e.poll(5) == [(f, IN)]; s.recv(9)
e = select.epoll(); s = tcp(PEER); e.register(s, IN); s.send(b'n'); assert e.poll(5) != []; s.recv(9)
outer = select.epoll(); outer.register(e, IN); s.send(b'n'); assert outer.poll(5) != []; s.recv(9)
e = select.epoll(); s = tcp(PEER); e.register(s, IN); s.send(b'n'); assert e.poll(5) != []; s.recv(9)
s.send(b'p'); p = select.poll(); p.register(e, select.POLLIN); assert p.poll(5000) != []
# Two threads that wait for one instance.
e = select.epoll(); s = tcp(PEER); e.register(s, IN); seen = []
ts = [threading.Thread(target=lambda: seen.append(e.poll(5))) for _ in range(2)]
for t in ts: t.start()
time.sleep(0.1); s.send(b't')
for t in ts: t.join()
assert seen == [[(s.fileno(), IN)]] * 2, seen
",
    );
}
