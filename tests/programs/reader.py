"""Reads a stream to its end: reader.py recv|poll|select|epoll PEER PORT. Prints the name of the error that ends it."""
import errno
import select
import socket
import sys

way, peer, port = sys.argv[1:]
s = socket.create_connection((peer, int(port)))
if way != "recv":
    s.setblocking(False)
if way == "poll":
    p = select.poll()
    p.register(s, select.POLLIN)
elif way == "epoll":
    p = select.epoll()
    p.register(s, select.EPOLLIN | select.EPOLLET)


def wait():
    if way == "select":
        select.select([s], [], [])
    elif way != "recv":
        p.poll()


told = False
try:
    while True:
        wait()
        try:
            while s.recv(65536):
                if not told:
                    told = True
                    print("ready", s.getsockname()[1])
            print("ended with the stream")
            break
        except BlockingIOError:
            pass
except OSError as error:
    print("ended", errno.errorcode.get(error.errno, error))
try:
    print("then", s.recv(1))
    s.send(b"after")
    print("then sent")
except OSError as error:
    print("then", errno.errorcode.get(error.errno, error))
