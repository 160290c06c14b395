"""What edge-triggered epoll tells of a connection: stream_events.py PEER PORT. The peer sends a byte for each `e` that it
reads, and reads nothing for 300 ms after an `s`. Prints "open" and waits for a line; then prints a line for each thing that
is as the kernel has it, and fails at the first that is not."""
import select
import socket
import sys

IN, OUT, ET = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.setblocking(False)
f = s.fileno()
print("open")
sys.stdin.readline()


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got}, expected {wanted}")


e = select.epoll()
e.register(s, IN | ET)
for _ in range(20):
    s.send(b"e")
    expect("unread", e.poll(2), [(f, IN)])
    expect("unread, told already", e.poll(0.01), [])
for _ in range(15):
    expect("one byte", s.recv(1), b"e")
    expect("reading is no edge", e.poll(0), [])
for _ in range(1000):
    s.send(b"e")
    expect("one comes, one is read", e.poll(2), [(f, IN)])
    expect("one byte", s.recv(1), b"e")
expect("left", s.recv(100), b"e" * 5)
expect("no edge", e.poll(0.05), [])
print("in")

e.modify(s, IN | OUT | ET)
expect("writable", e.poll(0), [(f, OUT)])
s.send(b"s")
for _ in range(3):
    try:
        while True:
            s.send(bytes(65536))
    except BlockingIOError:
        pass
    expect("room", e.poll(5), [(f, OUT)])
e.modify(s, IN | ET)
s.send(b"e")
expect("after it", e.poll(5), [(f, IN)])
expect("one byte", s.recv(9), b"e")
print("out")

s.send(b"e")
expect("before the end", e.poll(2), [(f, IN)])
s.shutdown(socket.SHUT_WR)
# That the peer has acknowledged it may be an event of its own.
told = e.poll(2)
if told == [(f, IN)]:
    told = e.poll(2)
expect("the end", told, [(f, IN | select.EPOLLHUP)])
expect("what came before it", s.recv(9), b"e")
expect("end of file", s.recv(9), b"")
print("end")
