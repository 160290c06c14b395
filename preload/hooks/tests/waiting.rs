//! Waiting: blocking calls, poll, select, epoll, signals, threads, cancellation.

mod support;

use support::FakeServer;
use support::program::{c, python};

#[test]
fn poll_select_and_epoll_agree() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); s.setblocking(False); r, w = os.pipe()
def ready(t):
    p = select.poll(); p.register(s, select.POLLIN); p.register(r, select.POLLIN)
    a = sorted(fd for fd, _ in p.poll(t * 1000))
    b = sorted(select.select([r, s.fileno()], [], [], t)[0])
    assert a == b, (a, b); return a
f = s.fileno()
t = time.monotonic(); assert ready(0.1) == []; assert 0.19 < time.monotonic() - t < 3
s.sendto(b'x', PEER); time.sleep(0.05); assert ready(1) == [f]
os.write(w, b'!'); assert ready(1) == sorted([f, r])
s.recv(9); assert ready(1) == [r]
os.read(r, 1); assert ready(0) == []
threading.Timer(0.2, lambda: s.sendto(b'y', PEER)).start()
t = time.monotonic(); p = select.poll(); p.register(s, select.POLLIN)
assert p.poll(5000) == [(f, select.POLLIN)] and time.monotonic() - t < 3
s.recv(9)
threading.Timer(0.2, lambda: s.sendto(b'y', PEER)).start()
assert select.select([s], [], [], 5)[0] == [s]; s.recv(9)
assert select.select([s], [s], [], 5) == ([], [s], [])
",
    );
}

#[test]
fn epoll_level_edge_oneshot_nested() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); s.setblocking(False); f = s.fileno()
e = select.epoll(); e.register(s, select.EPOLLIN); outer = select.epoll(); outer.register(e, select.EPOLLIN)
assert e.poll(0) == []
for _ in range(300):
    s.sendto(b'x', PEER); s.sendto(b'y', PEER)
    assert e.poll(5) == [(f, select.EPOLLIN)]
    got = 0
    while got < 2:
        assert e.poll(5) != []
        s.recv(9); got += 1
    assert e.poll(0) == [], 'no stale token'
s.sendto(b'x', PEER); assert outer.poll(5) != []; s.recv(9)
e.modify(s, select.EPOLLIN | select.EPOLLET)
for _ in range(100):
    s.sendto(b'x', PEER); assert e.poll(5) != []
    s.recv(9); raises(errno.EAGAIN, s.recv, 9)
e.modify(s, select.EPOLLIN | select.EPOLLONESHOT)
s.sendto(b'x', PEER); assert e.poll(5) != []; s.recv(9)
s.sendto(b'x', PEER); time.sleep(0.05); assert e.poll(0) == []
e.modify(s, select.EPOLLIN); assert e.poll(5) != []; s.recv(9)
e.unregister(s); s.sendto(b'x', PEER); time.sleep(0.05); assert e.poll(0) == []
",
    );
}

#[test]
fn a_registration_made_before_the_takeover_survives_it() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False)
d = os.dup(s.fileno())
e = select.epoll(); e.register(s, select.EPOLLIN)
s.bind(('127.0.0.1', 0)); s.sendto(b'x', PEER)
assert e.poll(5) == [(s.fileno(), select.EPOLLIN)]
assert os.read(d, 9) == b'x', 'the duplicate is the same socket'
assert e.poll(0) == []
",
    );
    assert!(log.contains("is framework socket"), "{log}");
}

#[test]
fn many_threads_receive() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); got = []; N = 4000
def work():
    while True:
        data = s.recv(9)
        if data == b'stop': return
        got.append(data)
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for i in range(N):
    s.sendto(b'%d' % i, PEER)
    if i % 100 == 0: time.sleep(0.002)
end = time.monotonic() + 10
while len(got) < N and time.monotonic() < end: time.sleep(0.01)
for t in threads: s.sendto(b'stop', PEER)
for t in threads: t.join(10)
assert not any(t.is_alive() for t in threads), 'a waiter was forgotten'
assert sorted(map(int, got)) == list(range(N)), len(got)
",
    );
}

#[test]
fn signals_interrupt_or_restart() {
    let server = FakeServer::start();
    c(
        &server,
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static int s; static struct sockaddr_in to;
static volatile int handled;
static void handler(int n) { handled++; if (n == SIGUSR1) sendto(s, "z", 1, 0, (void *)&to, sizeof to); }
static void on(int n, int flags) {
    struct sigaction a = { .sa_handler = handler, .sa_flags = flags }; sigaction(n, &a, NULL);
}
static void *canceled(void *arg) { char b; for (;;) recv(s, &b, 1, 0); return arg; }
int main(void) {
    char b;
    s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    to = me; to.sin_port = htons(4242);
    assert(bind(s, (void *)&me, sizeof me) == 0);
    on(SIGALRM, 0); alarm(1);
    assert(recv(s, &b, 1, 0) == -1 && errno == EINTR && handled == 1);
    struct pollfd p = { s, POLLIN, 0 };
    alarm(1); assert(poll(&p, 1, -1) == -1 && errno == EINTR && handled == 2);
    on(SIGUSR1, SA_RESTART);
    pid_t me_pid = getpid();
    if (fork() == 0) { usleep(300000); kill(me_pid, SIGUSR1); _exit(0); }
    errno = 0;
    assert(recv(s, &b, 1, 0) == 1 && b == 'z' && handled == 3 && errno == 0);
    pthread_t t; void *result;
    pthread_create(&t, NULL, canceled, NULL); usleep(200000);
    assert(pthread_cancel(t) == 0 && pthread_join(t, &result) == 0 && result == PTHREAD_CANCELED);
    assert(sendto(s, "q", 1, 0, (void *)&to, sizeof to) == 1 && recv(s, &b, 1, 0) == 1 && b == 'q');
    for (int i = 0; i < 200; i++) {
        assert(sendto(s, "q", 1, 0, (void *)&to, sizeof to) == 1);
        assert(poll(&p, 1, 5000) == 1 && recv(s, &b, 1, MSG_DONTWAIT) == 1);
    }
    return 0;
}
"#,
        &[],
    );
}

#[test]
fn an_error_wakes_and_is_told_once() {
    let server = FakeServer::start();
    let shared = std::sync::Arc::clone(&server.shared);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while shared.records.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_millis(500));
                server.raise_error(libc::ECONNREFUSED);
            }
        });
        python(
            &server,
            "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(PEER); s.send(b'x'); s.recv(9)
raises(errno.ECONNREFUSED, s.recv, 9)
p = select.poll(); p.register(s, select.POLLIN)
assert p.poll(5000) == [(s.fileno(), select.POLLERR)]
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and p.poll(0) == []
e = select.epoll(); e.register(s, select.EPOLLIN); assert e.poll(5) == [(s.fileno(), select.EPOLLERR)] == e.poll(0)
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED and e.poll(0.1) == []
",
        );
    });
}

#[test]
fn a_dead_server_is_told_and_never_waited_for() {
    let server = FakeServer::start();
    let shared = std::sync::Arc::clone(&server.shared);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while shared.records.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            server.die();
        });
        python(
            &server,
            "
s = udp(); s.sendto(b'x', PEER); s.recv(9)
raises(errno.ENETDOWN, s.recv, 9)
raises(errno.ENETDOWN, s.sendto, b'x', PEER)
p = select.poll(); p.register(s, select.POLLIN); assert p.poll(1000)[0][1] & select.POLLHUP
e = select.epoll(); e.register(s, select.EPOLLIN); assert e.poll(1) != []
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN
k = udp(); k.settimeout(5); k.sendto(b'kernel', k.getsockname()); assert k.recv(9) == b'kernel'
",
        );
    });
}
