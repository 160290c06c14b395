"""Waits for a datagram that never comes, or sends without end: blocked.py recv|poll|select|epoll|send PEER PORT.
Prints the name of the error that ends it."""
import errno
import select
import socket
import sys

way, peer, port = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 0))
s.sendto(b"first", (peer, int(port)))
print("ready", s.getsockname()[1])
try:
    if way == "recv":
        s.recv(100)
    elif way == "poll":
        p = select.poll()
        p.register(s, select.POLLIN)
        p.poll()
    elif way == "select":
        select.select([s], [], [])
    elif way == "epoll":
        e = select.epoll()
        e.register(s, select.EPOLLIN)
        e.poll()
    else:
        while True:
            s.sendto(b"more", (peer, int(port)))
    s.recv(100)
    print("ended with a datagram")
except OSError as error:
    print("ended", errno.errorcode.get(error.errno, error))
try:
    s.sendto(b"after", (peer, int(port)))
    print("then sent")
except OSError as error:
    print("then", errno.errorcode.get(error.errno, error))
