//! Datagrams of real programs, through a scripted server.

mod support;

use freena_shm_abi::control::op;
use std::process::Command;
use support::FakeServer;
use support::program::{c, compile, finish, python};

#[test]
fn a_bound_socket_is_taken_over_and_echoes() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = udp()
name = s.getsockname()
assert name[0] == '127.0.0.1' and name[1] != 0, name
for size in (0, 1, 63, 64, 65, 1472, 9000, 65507):
    data = os.urandom(size)
    assert s.sendto(data, PEER) == size
    assert s.recvfrom(65536) == (data, PEER), size
raises(errno.EMSGSIZE, s.sendto, b'x' * 65508, PEER)
raises(errno.EDESTADDRREQ, s.send, b'x')
raises(errno.ENOTCONN, s.getpeername)
",
    );
    assert!(log.contains("is framework socket 1: scripted"), "{log}");
    assert_eq!(server.count(op::TAKEOVER), 1);
    server.wait_until_empty();
}

#[test]
fn an_unconnected_first_send_binds() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert s.sendto(b'hello', PEER) == 5
assert s.getsockname()[0] == '0.0.0.0' and s.getsockname()[1] != 0
assert s.recvfrom(9) == (b'hello', PEER)
",
    );
    assert_eq!(server.shared.records.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn connected_sockets_and_disconnecting() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(PEER)
assert s.getpeername() == PEER
s.send(b'one'); assert s.recv(9) == b'one'
os.write(s.fileno(), b'two'); assert os.read(s.fileno(), 9) == b'two'
os.writev(s.fileno(), [b'th', b'ree']); a, b = bytearray(1), bytearray(9)
assert os.readv(s.fileno(), [a, b]) == 5 and bytes(a + b[:4]) == b'three'
s.connect(('127.0.0.8', 99)); assert s.getpeername() == ('127.0.0.8', 99)
s.send(b'x'); assert s.recvfrom(9) == (b'x', ('127.0.0.8', 99))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.connect(s.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) == 0
raises(errno.ENOTCONN, s.getpeername)
raises(errno.EDESTADDRREQ, s.send, b'x')
raises(errno.EINVAL, s.bind, ('127.0.0.1', 0)) # that send has bound it again
s.sendto(b'again', PEER); assert s.recvfrom(9) == (b'again', PEER)
raises(errno.EOPNOTSUPP, s.listen, 1)
",
    );
}

#[test]
fn what_stays_with_the_kernel_works_there() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = udp(('127.0.0.9', 0)); s.settimeout(5)
s.sendto(b'self', s.getsockname()); assert s.recvfrom(9) == (b'self', s.getsockname())
stream = socket.socket(); stream.bind(('127.0.0.1', 0)); stream.listen(1)
raw = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); raw.close()
# A destination that the kernel keeps, on a socket of the framework.
k = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); k.bind(('127.0.0.9', 0)); k.settimeout(5)
f = udp(('127.0.0.1', 0))
f.sendto(b'through the kernel', k.getsockname())
data, who = k.recvfrom(99)
assert data == b'through the kernel' and who == f.getsockname(), (data, who)
f.sendto(b'fast', PEER); assert f.recvfrom(9) == (b'fast', PEER)
",
    );
    assert!(log.contains("stays with the kernel: scripted to stay"), "{log}");
    assert_eq!(server.shared.records.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn flags_of_receiving() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); D = socket.MSG_DONTWAIT
raises(errno.EAGAIN, s.recv, 9, D)
s.sendto(b'0123456789', PEER)
assert s.recvfrom(4, socket.MSG_PEEK) == (b'0123', PEER)
assert s.recv_into(bytearray(3), 3, socket.MSG_PEEK | socket.MSG_TRUNC) == 10
arg = bytearray(4); fcntl.ioctl(s, termios.FIONREAD, arg); assert struct.unpack('i', arg)[0] == 10
data, anc, flags, addr = s.recvmsg(4)
assert data == b'0123' and flags == socket.MSG_TRUNC and addr == PEER
raises(errno.EAGAIN, s.recv, 9, D)
s.setblocking(False); raises(errno.EAGAIN, s.recv, 9)
fcntl.fcntl(s, fcntl.F_SETFL, 0); s.sendto(b'x', PEER); assert s.recv(9) == b'x'
fcntl.ioctl(s, 0x5421, struct.pack('i', 1)); raises(errno.EAGAIN, s.recv, 9)
fcntl.ioctl(s, 0x5421, struct.pack('i', 0))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 100000))
t = time.monotonic(); raises(errno.EAGAIN, s.recv, 9); assert 0.09 < time.monotonic() - t < 2
raises(errno.EAGAIN, s.recv, 9, socket.MSG_ERRQUEUE)
",
    );
}

#[test]
fn ancillary_data_both_ways() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp()
for level, name in ((0, 8), (0, 12), (0, 13), (1, 35)): s.setsockopt(level, name, 1)
def ask(cmsgs):
    s.sendmsg([b'a', b'bc'], cmsgs, 0, PEER)
    data, anc, flags, addr = s.recvmsg(9, 512)
    assert data == b'abc' and addr == PEER and flags == 0, (data, anc, flags, addr)
    return {(l, t): v for l, t, v in anc}
anc = ask([])
assert struct.unpack('i4s4s', anc[0, 8])[1] == bytes([127, 0, 0, 1]), anc
assert struct.unpack('i', anc[0, 2]) == (64,) and anc[0, 1] == b'\\0'
assert struct.unpack('qq', anc[1, 35]) == (1700000000, 123456789)
anc = ask([(0, 2, struct.pack('i', 7)), (0, 1, struct.pack('i', 8))])
assert struct.unpack('i', anc[0, 2]) == (7,) and anc[0, 1] == b'\\x08'
s.setsockopt(0, 2, 9); assert s.getsockopt(0, 2) == 9
assert struct.unpack('i', ask([])[0, 2]) == (9,)
# Too small a buffer is told.
s.sendto(b'x', PEER); assert s.recvmsg(9, 20)[2] == socket.MSG_CTRUNC
",
    );
}

#[test]
fn segments_out_and_in() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); SEGMENT, GRO = 103, 104
s.setsockopt(17, SEGMENT, 100)
s.sendto(bytes(range(250)), PEER)
assert [len(s.recv(9000)) for _ in range(3)] == [100, 100, 50]
s.setsockopt(17, SEGMENT, 0)
s.sendmsg([bytes(250)], [(17, SEGMENT, struct.pack('H', 120))], 0, PEER)
assert s.recv(1000, socket.MSG_PEEK) == bytes(120)
s.setsockopt(17, GRO, 1)
data, anc, flags, addr = s.recvmsg(9000, 99)
assert len(data) == 250 and anc == [(17, GRO, struct.pack('i', 120))], (len(data), anc)
raises(errno.EINVAL, s.sendmsg, [bytes(65 * 10)], [(17, SEGMENT, struct.pack('H', 10))], 0, PEER)
",
    );
}

#[test]
fn ipv6() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(('::1', 0), socket.AF_INET6)
assert s.getsockname()[0] == '::1'
s.sendto(b'six', ('::2', 7)); assert s.recvfrom(9)[1][:2] == ('::2', 7)
d = udp(('::', 0), socket.AF_INET6)
d.sendto(b'mapped', ('::ffff:127.0.0.7', 7)); assert d.recvfrom(9)[1][0] == '::ffff:127.0.0.7'
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6
",
    );
}

#[test]
fn options_are_the_kernels_own() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 1, 0x10); s.bind(('127.0.0.1', 0))
S = socket.SOL_SOCKET
assert s.getsockopt(0, 1) == 0x10, 'set before the takeover'
assert s.getsockopt(S, socket.SO_TYPE) == socket.SOCK_DGRAM and s.getsockopt(S, socket.SO_PROTOCOL) == 17
assert s.getsockopt(S, socket.SO_DOMAIN) == socket.AF_INET and s.getsockopt(S, socket.SO_ACCEPTCONN) == 0
assert s.getsockopt(S, socket.SO_ERROR) == 0
s.setsockopt(S, socket.SO_RCVBUF, 5000); assert s.getsockopt(S, socket.SO_RCVBUF) == 10000
raises(errno.ENOPROTOOPT, s.setsockopt, 0, 12345, 1)
raises(errno.ENOTTY, fcntl.ioctl, s, 0x5401, bytearray(99))
assert not os.isatty(s.fileno())
",
    );
}

#[test]
fn errors_and_shutdown() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(PEER)
s.shutdown(socket.SHUT_WR); raises(errno.EPIPE, s.send, b'x')
t = threading.Timer(0.2, lambda: s.shutdown(socket.SHUT_RD)); t.start()
assert s.recv(9) == b'', 'wakes up'
assert select.select([s], [], [], 1)[0] == [s]
u = udp(); raises(errno.ENOTCONN, u.shutdown, socket.SHUT_RD)
v = udp(); v.sendto(b'x', PEER); assert v.recv(9) == b'x'
",
    );
}

#[test]
fn many_at_once() {
    let server = FakeServer::start();
    let stderr = c(
        &server,
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, to = me;
    assert(bind(s, (void *)&me, sizeof me) == 0);
    to.sin_port = htons(4242);
    struct mmsghdr out[50] = {0}, in[50] = {0};
    struct iovec ov[50], iv[50];
    int numbers[50], got[50];
    for (int i = 0; i < 50; i++) {
        numbers[i] = i;
        ov[i] = (struct iovec){ &numbers[i], sizeof(int) };
        iv[i] = (struct iovec){ &got[i], sizeof(int) };
        out[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &ov[i], .msg_iovlen = 1 };
        in[i].msg_hdr = (struct msghdr){ .msg_iov = &iv[i], .msg_iovlen = 1 };
    }
    errno = 77;
    assert(sendmmsg(s, out, 50, 0) == 50 && out[49].msg_len == sizeof(int));
    assert(recvmmsg(s, in, 50, 0, NULL) == 50);
    for (int i = 0; i < 50; i++) assert(got[i] == i && in[i].msg_len == sizeof(int));
    assert(errno == 77);
    assert(sendmmsg(s, out, 3, 0) == 3);
    int n = recvmmsg(s, in, 50, MSG_WAITFORONE, NULL);
    while (n < 3) { int more = recvmmsg(s, in, 50, MSG_WAITFORONE, NULL); assert(more > 0); n += more; }
    assert(recvmmsg(s, in, 50, MSG_DONTWAIT, NULL) == -1 && errno == EAGAIN);
    char byte;
    struct sockaddr_storage from; socklen_t len = 4;
    assert(sendto(s, "x", 1, 0, (void *)&to, sizeof to) == 1);
    assert(recvfrom(s, &byte, 1, 0, (void *)&from, &len) == 1 && len == sizeof to);
    len = -1;
    assert(sendto(s, "x", 1, 0, (void *)&to, sizeof to) == 1);
    assert(recvfrom(s, &byte, 1, 0, (void *)&from, &len) == -1 && errno == EINVAL);
    to.sin_port = 0;
    assert(sendto(s, "x", 1, 0, (void *)&to, sizeof to) == -1 && errno == EINVAL);
    assert(sendto(s, "x", 1, 0, (void *)&to, 3) == -1 && errno == EINVAL);
    to.sin_port = htons(4242);
    assert(sendto(s, NULL, 1, 0, (void *)&to, sizeof to) == -1 && errno == EFAULT);
    assert(sendto(s, NULL, 0, 0, (void *)&to, sizeof to) == 0 && recv(s, NULL, 0, 0) == 0);
    to.sin_family = 99;
    assert(sendto(s, "x", 1, 0, (void *)&to, sizeof to) == -1 && errno == EAFNOSUPPORT);
    return 0;
}
"#,
        &[],
    );
    assert!(stderr.contains("is framework socket"), "{stderr}");
}

#[test]
fn a_full_ring_is_back_pressure() {
    let server = FakeServer::start();
    server.shared.stalled.store(true, std::sync::atomic::Ordering::Relaxed);
    // The program says when its ring is full, however long it took to start.
    let full = server.path.with_file_name("full");
    let (shared, marker) = (std::sync::Arc::clone(&server.shared), full.clone());
    let resumer = std::thread::spawn(move || {
        for _ in 0..3000 {
            if marker.exists() {
                shared.stalled.store(false, std::sync::atomic::Ordering::Relaxed);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    let script = "
s = udp(); s.setblocking(False); n = 0
try:
    while True: s.sendto(bytes(1000), PEER); n += 1
except BlockingIOError: pass
assert 100 < n < 1000, n
assert select.select([], [s], [], 0)[1] == []
e = select.epoll(); e.register(s, select.EPOLLOUT); assert e.poll(0) == [], 'the kernel sees it too'
open('MARKER', 'w').close()
assert e.poll(5) != [], 'and sees it writable again'
s.setblocking(True)
for _ in range(1000): s.sendto(bytes(1000), PEER)
";
    python(&server, &script.replace("MARKER", full.to_str().expect("UTF-8")));
    resumer.join().expect("thread");
}

#[test]
fn fortified_and_numbered_calls() {
    let server = FakeServer::start();
    let stderr = c(
        &server,
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
    size_t n = 8 + argc - 1;
    int s = syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, to = me, from;
    socklen_t len = sizeof from;
    assert(syscall(SYS_bind, s, &me, sizeof me) == 0);
    to.sin_port = htons(4242);
    char buffer[8];
    struct pollfd p[1] = { { s, POLLIN, 0 } };
    for (int i = 0; i < 4; i++) assert(syscall(SYS_sendto, s, "12345678", 8, 0, &to, sizeof to) == 8);
    assert(poll(p, argc, 1000) == 1 && ppoll(p, argc, NULL, NULL) == 1);
    assert(recv(s, buffer, n, 0) == 8);
    assert(recvfrom(s, buffer, n, 0, (void *)&from, &len) == 8 && from.sin_port == to.sin_port);
    assert(read(s, buffer, n) == 8);
    assert(syscall(SYS_recvfrom, s, buffer, 8, 0, NULL, NULL) == 8);
    assert(syscall(SYS_getppid) == getppid());
    int d = syscall(SYS_dup, s);
    assert(syscall(SYS_close, s) == 0);
    assert(syscall(SYS_sendto, d, "x", 1, 0, &to, sizeof to) == 1);
    assert(syscall(SYS_read, d, buffer, 8) == 1);
    return 0;
}
"#,
        &["-O2", "-D_FORTIFY_SOURCE=2"],
    );
    assert!(stderr.contains("is framework socket"), "{stderr}");
}

const PRINTS: &str = r#"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static int print(int fd, const char *format, ...) {
    va_list list; va_start(list, format); int n = vdprintf(fd, format, list); va_end(list); return n;
}
/* The libc writes long texts in pieces. */
static int all(int s, char *b, int n) {
    int done = 0; while (done < n) { int got = recv(s, b + done, n - done, 0); if (got <= 0) return 0; done += got; }
    return 1;
}
int main(int count, char **args) {
    int s = socket(AF_INET, SOCK_DGRAM, 0), pipes[2], n; char b[60000], want[60000], big[30001];
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }; socklen_t len = sizeof me;
    assert(bind(s, (void *)&me, sizeof me) == 0 && getsockname(s, (void *)&me, &len) == 0);
    assert(connect(s, (void *)&me, sizeof me) == 0 && pipe(pipes) == 0);
    memset(big, 'b', 30000); big[30000] = 0;
    #define BOTH(call, ...) do { \
        n = snprintf(want, sizeof want, __VA_ARGS__); \
        assert(call(s, __VA_ARGS__) == n && all(s, b, n) && !memcmp(b, want, n)); \
        assert(call(pipes[1], __VA_ARGS__) == n && read(pipes[0], b, sizeof b) == n && !memcmp(b, want, n)); \
    } while (0)
    BOTH(dprintf, "plain"); BOTH(print, "plain");
    #define MANY "%d %s %ld %c %d %d %d %s %.3f %g %f %f %f %f %f %f %f %Lf %f|", \
        1, "two", 3L, '4', count, 6, 7, "eight", 9.5, 10.25, .1, .2, .3, .4, .5, .6, .7, 1.5L, .8
    BOTH(dprintf, MANY); BOTH(print, MANY);
    BOTH(dprintf, "%s", big); BOTH(print, "%s %.1f", big, 2.5);
    assert(dprintf(s, "%s", "") == 0 && recv(s, b, 9, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    close(s); assert(dprintf(s, "x") == -1 && errno == EBADF);
    return 0;
}
"#;

/// The same source, with and without the checks of the libc's headers, on the framework's sockets and on the kernel's.
#[test]
fn dprintf_writes_to_the_socket() {
    for flags in [&["-O0"][..], &["-O2", "-D_FORTIFY_SOURCE=2"], &["-O2", "-U_FORTIFY_SOURCE"]] {
        let server = FakeServer::start();
        let log = c(&server, PRINTS, flags);
        assert!(log.contains("is framework socket"), "{log}");
        assert_eq!(server.shared.records.load(std::sync::atomic::Ordering::Relaxed), 6);
        let output = finish(Command::new(compile(PRINTS, flags)));
        assert!(output.status.success(), "{output:?}");
    }
}
