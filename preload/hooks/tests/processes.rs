//! Descriptors and processes: dup, close, fork, vfork, exec, SCM_RIGHTS; and when the library leaves a program alone.

mod support;

use freena_shm_abi::ABI_VERSION;
use freena_shm_abi::control::op;
use std::process::Command;
use support::FakeServer;
use support::program::{c, compile, finish, preload, python, without_the_library};

#[test]
fn duplicates_share_the_socket_until_the_last_is_closed() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); fds = [s.fileno(), os.dup(s.fileno()), os.dup2(s.fileno(), 50), fcntl.fcntl(s, fcntl.F_DUPFD, 60)]
fds.append(fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 70))
for fd in fds:
    s.sendto(b'x', PEER); assert os.read(fd, 9) == b'x'
t = socket.socket(fileno=fds[1]); s.close()
t.sendto(b'y', PEER); assert os.read(50, 9) == b'y'
os.dup2(0, 50); assert os.fstat(50) == os.fstat(0)
t.close(); os.close(60); os.close(70)
raises(errno.EBADF, os.read, 70, 9)
# A number that is used for something else is something else.
r, w = os.pipe(); os.write(w, b'pipe'); assert os.read(r, 9) == b'pipe'
",
    );
    server.wait_until_empty();
}

#[test]
fn a_program_that_closes_everything_goes_on() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); s.sendto(b'x', PEER); s.recv(9)
libc = ctypes.CDLL(None, use_errno=True)
os.closerange(3, 70000); libc.closefrom(3); assert libc.close_range(3, 0xffffffff, 0) == 0
for fd in map(int, os.listdir('/proc/self/fd')):
    if fd > 2: raises(errno.EBADF, os.close, fd); raises(errno.EBADF, os.dup, fd)
s.detach(); s = udp(); assert s.fileno() == 3
s.sendto(b'x', PEER); assert s.recv(9) == b'x'
# By the kernel alone, behind the library's back.
for fd in map(int, os.listdir('/proc/self/fd')):
    if fd > 3: libc.syscall(436, fd, fd, 0)
u = udp(); u.sendto(b'y', PEER); assert u.recv(9) == b'y'
",
    );
}

#[test]
fn the_standard_numbers_are_the_programs_own() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); s.sendto(b'x', PEER); s.recv(9)
os.close(0); t = udp(); assert t.fileno() == 0
t.sendto(b'y', PEER); assert t.recv(9) == b'y'
u = udp(); u.sendto(b'z', PEER); assert u.fileno() == s.fileno() + 1 and u.recv(9) == b'z'
",
    );
}

#[test]
fn fork_shares_the_socket() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = udp(); early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
pid = os.fork()
if pid == 0:
    s.sendto(b'child', PEER); assert s.recv(9) == b'child'
    n = udp(); n.sendto(b'own', PEER); assert n.recv(9) == b'own'
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000); os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
s.sendto(b'parent', PEER); assert s.recv(9) == b'parent'
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 10000
early.bind(('127.0.0.1', 0))
late = udp(); late.sendto(b'z', PEER); assert late.recv(9) == b'z'
",
    );
    assert!(log.contains("stays with the kernel: shared by fork before bind"), "{log}");
    assert_eq!(server.count(op::ATTACH), 2, "the child has a connection of its own");
    server.wait_until_empty();
}

#[test]
fn a_dead_holder_of_the_lock_blocks_nobody() {
    let server = FakeServer::start();
    python(
        &server,
        "
s = udp(); pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        while True: s.sendto(b'x' * 1000, PEER); s.recv(2000, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    pids.append(pid)
for pid in pids:
    time.sleep(0.05); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    s.sendto(b'mine', PEER)
time.sleep(0.1)
try:
    while True: s.recv(2000, socket.MSG_DONTWAIT)
except BlockingIOError: pass
s.sendto(b'last', PEER); assert s.recv(9) == b'last'
",
    );
}

#[test]
fn exec_with_the_library_finds_the_socket_again() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = udp(); s.set_inheritable(True); s.sendto(b'x', PEER)
code = '''import os, socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
assert s.type == socket.SOCK_DGRAM and s.family == socket.AF_INET and s.recv(9) == b'x'
s.sendto(b'y', ('127.0.0.7', 1)); assert s.recv(9) == b'y'
'''
pid = os.posix_spawn(sys.executable, ['python3', '-c', code, str(s.fileno())], os.environ)
assert os.waitpid(pid, 0)[1] == 0
s.sendto(b'x', PEER)
os.execv(sys.executable, ['python3', '-c', code, str(s.fileno())])
",
    );
    assert_eq!(log.matches("was inherited or received").count(), 2, "{log}");
}

#[test]
fn exec_without_the_library_gets_the_kernels_socket() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
s = udp(); s.set_inheritable(True)
code = '''import socket, sys
s = socket.socket(fileno=int(sys.argv[1])); s.settimeout(5)
assert s.family == socket.AF_INET, s
s.sendto(b'plain', s.getsockname()); assert s.recv(9) == b'plain'
'''
args = ['python3', '-c', code, str(s.fileno())]
pid = os.fork()
if pid == 0: os.execve(sys.executable, args, {})
assert os.waitpid(pid, 0)[1] == 0
s.sendto(b'parent', PEER); assert s.recv(9) == b'parent'
",
    );
    assert!(log.contains("goes without the framework: its environment does not name the library"), "{log}");
}

/// What a program without the library finds behind the number that it is told: which flags, which name, and that a datagram
/// to itself arrives, or a connection.
const PLAIN: &str = r#"
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **args) {
    int s = atoi(args[1]), copy = count > 3 ? atoi(args[3]) : s, flags = fcntl(s, F_GETFL), listens = 0;
    struct sockaddr_in me; socklen_t len = sizeof me, size = sizeof listens; char b[9];
    if (flags < 0) return 2;
    if (!!(flags & O_NONBLOCK) != atoi(args[2])) return 3;
    if (getsockname(s, (void *)&me, &len) || me.sin_family != AF_INET) return 4;
    getsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    // What reaches a listener goes to the parent, too, while that has it.
    if (listens && count == 3) return 0;
    if (listens) {
        int c = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c, (void *)&me, len) || write(c, "x", 1) != 1) return 5;
        int a = accept(s, NULL, NULL);
        return a < 0 ? 6 : read(a, b, 9) == 1 ? 0 : 7;
    }
    if (sendto(s, "plain", 5, 0, (void *)&me, len) != 5) return 8;
    usleep(1000);
    return recv(copy, b, 9, 0) == 5 && !memcmp(b, "plain", 5) ? 0 : 9;
}
"#;

/// posix_spawn(3) and exec of a static program, and of one whose environment does not name the library: the same as
/// without freena, and the parent goes on with the framework's socket.
#[test]
fn spawned_programs_without_the_library_get_the_kernels_socket() {
    let server = FakeServer::start();
    let (fixed, plain) = (compile(PLAIN, &["-static"]), compile(PLAIN, &[]));
    let script = format!(
        "
import shutil
FIXED, PLAIN = '{}', '{}'
def spawn(program, env, args, actions=(), search=False):
    call = os.posix_spawnp if search else os.posix_spawn
    pid = call(program, [program] + [str(a) for a in args], env, file_actions=actions)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def opened(listens, inherits, blocks):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if listens else socket.SOCK_DGRAM)
    s.bind(('127.0.0.1', 0))
    if listens: s.listen()
    s.setblocking(blocks); s.set_inheritable(inherits); return s
NAMED = dict(os.environ); BARE = {{}}
os.environ['PATH'] = os.path.dirname(FIXED) + ':' + os.environ['PATH']
for program, env in (FIXED, NAMED), (PLAIN, BARE):
  for listens in False, True:
    for blocks in True, False:
        s = opened(listens, True, blocks); f = s.fileno(); wait = int(not blocks)
        def check(wanted, args, actions=(), **kw):
            got = spawn(kw.pop('program', program), env, args, actions, **kw)
            assert got == wanted, (got, program, listens, blocks, args, actions)
        check(0, [f, wait])
        check(0, [0, wait], [(os.POSIX_SPAWN_DUP2, f, 0)])
        if not listens: check(0, [0, wait, f], [(os.POSIX_SPAWN_DUP2, f, 0)])
        check(0, [40, wait], [(os.POSIX_SPAWN_DUP2, f, 40), (os.POSIX_SPAWN_CLOSE, f)])
        check(2, [f, wait], [(os.POSIX_SPAWN_DUP2, f, 40), (os.POSIX_SPAWN_CLOSE, f)])
        check(2, [f, wait], [(os.POSIX_SPAWN_CLOSE, f)])
        check(4, [41, wait], [(os.POSIX_SPAWN_OPEN, f, '/dev/null', os.O_RDONLY | os.O_NONBLOCK * wait, 0), (os.POSIX_SPAWN_DUP2, f, 41)])
        t = opened(listens, False, blocks); g = t.fileno()
        check(2, [g, wait])
        check(0, [0, wait], [(os.POSIX_SPAWN_DUP2, g, 0)])
        check(2, [g, wait], [(os.POSIX_SPAWN_DUP2, g, 0)])
        check(0, [g, wait], [(os.POSIX_SPAWN_DUP2, g, g)])
        pid = os.fork()
        if pid == 0: os.execve(program, [program, str(f), str(wait)], env)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        if program == FIXED: check(0, [f, wait], program=os.path.basename(FIXED), search=True)
        assert os.get_inheritable(f) and not os.get_inheritable(g)
        if not listens:
            for one in s, t:
                one.sendto(b'parent', PEER if 'LD_PRELOAD' in os.environ else one.getsockname()); time.sleep(0.02)
                assert one.recv(9) == b'parent'
# Nobody else has this one.
pid = os.fork()
if pid == 0:
    l = opened(True, True, True)
    os.execv(FIXED, [FIXED, str(l.fileno()), '0', 'accepts'])
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
",
        fixed.display(),
        plain.display()
    );
    let log = python(&server, &script);
    for why in ["it is statically linked", "its environment does not name the library"] {
        assert!(log.contains(&format!("the spawned program goes without the framework: {why}")), "{log}");
    }
    assert_eq!(server.count(op::ATTACH), 10, "the parent, and a child for each exec");
    without_the_library(&script);
}

#[test]
fn vfork_children_leave_the_parent_alone() {
    let server = FakeServer::start();
    c(
        &server,
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0), status;
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, to = me;
    to.sin_port = htons(4242);
    assert(bind(s, (void *)&me, sizeof me) == 0);
    char b;
    pid_t pid = vfork();
    if (pid == 0) { dup2(s, 9); dup2(0, s); close(s); close_range(3, 100, 0); execl("/bin/true", "true", NULL); _exit(1); }
    assert(waitpid(pid, &status, 0) == pid && status == 0);
    assert(sendto(s, "x", 1, 0, (void *)&to, sizeof to) == 1 && recv(s, &b, 1, 0) == 1 && b == 'x');
    assert(system("exit 3") >> 8 == 3);
    assert(sendto(s, "y", 1, 0, (void *)&to, sizeof to) == 1 && recv(s, &b, 1, 0) == 1 && b == 'y');
    return 0;
}
"#,
        &[],
    );
}

#[test]
fn descriptors_are_passed_to_others() {
    let server = FakeServer::start();
    let log = python(
        &server,
        "
a, b = socket.socketpair()
pid = os.fork()
if pid == 0:
    a.close(); _, fds, _, _ = socket.recv_fds(b, 9, 2)
    s = socket.socket(fileno=fds[0]); s.sendto(b'x', PEER); assert s.recvfrom(9) == (b'x', PEER); os._exit(0)
s = udp(); socket.send_fds(a, [b'!'], [s.fileno()])
assert os.waitpid(pid, 0)[1] == 0
",
    );
    assert!(log.contains("was inherited or received"), "{log}");
    assert_eq!(server.count(op::ADOPT), 1);
}

#[test]
fn a_thousand_sockets_need_a_thousand_descriptors() {
    let server = FakeServer::start();
    python(
        &server,
        "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
before = len(os.listdir('/proc/self/fd'))
all = [udp() for _ in range(1000)]
assert len(os.listdir('/proc/self/fd')) <= before + 1001
for s in all[::50]: s.sendto(b'x', PEER); assert s.recv(9) == b'x'
",
    );
    server.wait_until_empty();
}

#[test]
fn without_settings_nothing_is_hooked() {
    let server = FakeServer::start();
    let program = compile(
        r#"
#include <arpa/inet.h>
#include <assert.h>
#include <sys/socket.h>
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in me = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof me; char b[3];
    assert(bind(s, (void *)&me, sizeof me) == 0 && getsockname(s, (void *)&me, &len) == 0);
    assert(sendto(s, "abc", 3, 0, (void *)&me, sizeof me) == 3 && recv(s, b, 3, 0) == 3);
    return 0;
}
"#,
        &[],
    );
    for settings in [None, Some("v=1 datagram=kernel"), Some("")] {
        let mut command = Command::new(&program);
        preload(&mut command, &server.path);
        match settings {
            Some(settings) => command.env("FREENA_SETTINGS", settings),
            None => command.env_remove("FREENA_SETTINGS"),
        };
        let output = finish(command);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(server.count(op::ATTACH), 0);

    let mut command = Command::new(&program);
    preload(&mut command, "/nonexistent/control".as_ref());
    let output = finish(command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("/nonexistent/control: the server cannot be reached"),
        "{told}"
    );

    let other = FakeServer::with_version(99);
    let mut command = Command::new(&program);
    preload(&mut command, &other.path);
    let output = finish(command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && told.contains(&format!("the server speaks version 99, this library {ABI_VERSION}")),
        "{told}"
    );
}
