"""What epoll tells of a socket whose peer sends everything back: events.py PEER PORT UNUSED_PORT. Prints a line for each thing that is
as epoll(7) says, and fails at the first that is not; at last the port of its first socket and how many datagrams that has
received, and waits for a line."""
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time

peer = (sys.argv[1], int(sys.argv[2]))
# Of linux/in.h and asm-generic/socket.h.
IP_RECVERR, SO_SELECT_ERR_QUEUE = 11, 45
IN, OUT, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, select.EPOLLONESHOT


def opened():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    s.setblocking(False)
    return s


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got}, expected {wanted}")


asked = 0


def ask(s, words=b"x"):
    global asked
    asked += 1
    s.sendto(words, peer)


def drain(s):
    count = 0
    try:
        while True:
            s.recv(2000)
            count += 1
    except BlockingIOError:
        return count


s = opened()
e = select.epoll()
e.register(s, IN)
expect("nothing there", e.poll(0.05), [])
ask(s)
for _ in range(3):
    expect("level", e.poll(2), [(s.fileno(), IN)])
expect("drained", drain(s), 1)
expect("level, drained", e.poll(0.05), [])
for _ in range(50):
    ask(s)
    expect("level, again", e.poll(2), [(s.fileno(), IN)])
    expect("one", drain(s), 1)
e.modify(s, IN | OUT)
expect("writable", e.poll(2), [(s.fileno(), OUT)])
print("level")

e.modify(s, IN | ET)
expect("edge, nothing", e.poll(0.05), [])
for _ in range(50):
    ask(s)
    expect("edge", e.poll(2), [(s.fileno(), IN)])
    expect("edge, told already", e.poll(0.01), [])
    expect("edge, one", drain(s), 1)
print("edge")

# An edge for each arrival, whether what came before was read or not; none for what is read.
for _ in range(20):
    ask(s)
    expect("unread", e.poll(2), [(s.fileno(), IN)])
    expect("unread, told already", e.poll(0.01), [])
for _ in range(15):
    s.recv(2000)
    expect("reading is no edge", e.poll(0), [])
for _ in range(1000):
    ask(s)
    expect("one comes, one is read", e.poll(2), [(s.fileno(), IN)])
    s.recv(2000)
expect("no edge, left", e.poll(0.05), [])
e.modify(s, IN)
expect("level, left", e.poll(0), [(s.fileno(), IN)])
e.modify(s, IN | ET)
expect("edge, registered anew", e.poll(0), [(s.fileno(), IN)])
expect("left", drain(s), 5)
expect("edge, drained", e.poll(0.05), [])
e.modify(s, IN)
expect("level, drained", e.poll(0.05), [])
print("edge while unread")

e.modify(s, IN | ONESHOT)
ask(s)
expect("oneshot", e.poll(2), [(s.fileno(), IN)])
expect("oneshot, told", e.poll(0.05), [])
e.modify(s, IN | ONESHOT)
expect("oneshot, armed again", e.poll(2), [(s.fileno(), IN)])
drain(s)
print("oneshot")

e.modify(s, IN | ET | ONESHOT)
for _ in range(5):
    ask(s)
    expect("edge, oneshot", e.poll(2), [(s.fileno(), IN)])
    ask(s)
    expect("edge, oneshot, told", e.poll(0.05), [])
    e.modify(s, IN | ET | ONESHOT)
    expect("edge, oneshot, armed again", e.poll(2), [(s.fileno(), IN)])
    e.modify(s, IN | ET | ONESHOT)
    expect("edge, oneshot, unread", e.poll(2), [(s.fileno(), IN)])
    e.modify(s, IN | ET | ONESHOT)
    drain(s)
    e.poll(0)
    e.modify(s, IN | ET | ONESHOT)
print("edge and oneshot")

e.modify(s, IN)
outer = select.epoll()
outer.register(e, IN)
expect("nested, nothing", outer.poll(0.05), [])
ask(s)
expect("nested", outer.poll(2), [(e.fileno(), IN)])
expect("inner", e.poll(0), [(s.fileno(), IN)])
drain(s)
expect("nested, drained", outer.poll(0.05), [])
print("nested")

outer.modify(e, IN | ET)
outer.poll(0)
for _ in range(20):
    ask(s)
    expect("nested edge, unread", outer.poll(2), [(e.fileno(), IN)])
    expect("nested edge, told", outer.poll(0.01), [])
expect("inner of nested edge", e.poll(0), [(s.fileno(), IN)])
drain(s)
print("nested edge")

# Registered before it is bound, when it is not a framework socket yet; and with others of the kernel's.
late = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
late.setblocking(False)
one, other = socket.socketpair()
e.register(late, IN)
e.register(one, IN)
late.bind(("0.0.0.0", 0))
ask(late)
expect("registered early", e.poll(2), [(late.fileno(), IN)])
other.send(b"y")
expect("both", sorted(e.poll(2)), sorted([(late.fileno(), IN), (one.fileno(), IN)]))
one.recv(1)
drain(late)
copy = late.dup()
late.close()
ask(copy)
p = select.poll()
p.register(copy, select.POLLIN)
expect("a copy", p.poll(2000), [(copy.fileno(), select.POLLIN)])
expect("select", select.select([copy, one], [copy], [], 2), ([copy], [copy], []))
expect("drained", drain(copy), 1)
print("mixed")

# Errors: nobody is at the second port of the peer. A pending one is told until it is asked for.
ERR = select.EPOLLERR
nobody = (sys.argv[1], int(sys.argv[3]))


def pending(s):
    s.connect(nobody)
    s.send(b"x")


def refused(s):
    return s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def polled(s, events, seconds=2):
    p = select.poll()
    p.register(s, events)
    return p.poll(seconds * 1000)


t = opened()
te = select.epoll()
te.register(t, IN)
for asks in [IN, IN | OUT, IN | ET, IN | ONESHOT]:
    te.modify(t, asks)
    expect("no error", te.poll(0.05), [(t.fileno(), OUT)] if asks & OUT else [])
    if asks & ONESHOT or asks & OUT:
        te.modify(t, asks)
    pending(t)
    time.sleep(0.1)
    told = [(t.fileno(), ERR | asks & OUT)]
    expect(f"error, {asks:#x}", te.poll(2), told)
    expect(f"error, again, {asks:#x}", te.poll(0.05), [] if asks & (ET | ONESHOT) else told)
    expect("refused", refused(t), True)
    expect("refused once", refused(t), False)
    te.modify(t, asks)
    expect("asked for", te.poll(0.05), [(t.fileno(), OUT)] if asks & OUT else [])
for asks in [select.POLLIN, select.POLLOUT, 0]:
    pending(t)
    time.sleep(0.1)
    expect("poll", polled(t, asks), [(t.fileno(), select.POLLERR | asks & select.POLLOUT)])
    expect("select", select.select([t], [t], [t], 2), ([t], [t], []))
    expect("refused", refused(t), True)
# It ends waiting, also where nothing else is waited for; a receiving call takes it.
for asks in [select.POLLIN, 0]:
    later = threading.Timer(0.2, pending, [t])
    later.start()
    expect("poll, woken", polled(t, asks), [(t.fileno(), select.POLLERR)])
    later.join()
    try:
        t.recv(100)
        sys.exit("received something")
    except ConnectionRefusedError:
        pass
    expect("received", polled(t, asks, 0.05), [])
print("pending error")

# With IP_RECVERR its message lies in a queue besides, which receiving leaves as it is.
t.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
te.modify(t, IN)
for _ in range(3):
    pending(t)
    time.sleep(0.1)
    expect("queued", te.poll(2), [(t.fileno(), ERR)])
    expect("refused", refused(t), True)
    for _ in range(3):
        expect("still queued", te.poll(2), [(t.fileno(), ERR)])
        expect("poll, queued", polled(t, select.POLLIN), [(t.fileno(), select.POLLERR)])
        expect("nothing to receive", drain(t), 0)
    t.setsockopt(socket.SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1)
    expect("except", select.select([], [], [t], 2), ([], [], [t]))
    t.setsockopt(socket.SOL_SOCKET, SO_SELECT_ERR_QUEUE, 0)
    expect("not except", select.select([], [], [t], 0), ([], [], []))
    data, ancillary, flags, name = t.recvmsg(100, 500, socket.MSG_ERRQUEUE)
    expect("its message", (data, len(ancillary), flags & socket.MSG_ERRQUEUE), (b"x", 1, socket.MSG_ERRQUEUE))
    expect("taken out", te.poll(0.05), [])
    expect("poll, taken out", polled(t, select.POLLIN, 0), [])
# The message takes the pending error with it.
pending(t)
time.sleep(0.1)
expect("pending and queued", te.poll(2), [(t.fileno(), ERR)])
t.recvmsg(100, 500, socket.MSG_ERRQUEUE)
expect("both gone", (refused(t), te.poll(0.05)), (False, []))
print("queue of errors")

# A signal for each arrival.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(s, fcntl.F_SETFL, fcntl.fcntl(s, fcntl.F_GETFL) | os.O_ASYNC)
for _ in range(5):
    ask(s)
    if signal.sigtimedwait([signal.SIGIO], 2) is None:
        sys.exit("no signal")
    expect("one signal", signal.sigtimedwait([signal.SIGIO], 0.01), None)
drain(s)
print("signals")
print(s.getsockname()[1])
print(asked - 2, flush=True)
sys.stdin.readline()
