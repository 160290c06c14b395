"""Calls of streams that few programs make: stream_calls.py CASE ADDRESS PORT. It listens there, says "open", and prints what
it sees, which must be the same over kernel TCP and over the framework's. The peer, by case, on the other host:

activation: gives the listener as descriptor 3, as systemd does (sd_listen_fds(3)); connects and sends "x".
reuseport, exclusive: connects 40 times, reads a byte from each, and closes.
urgent: connects, sends "ab", then "c" with MSG_OOB, then "d", and reads until the end.
splice: connects, sends a mebibyte and ends its direction, and reads as much until the end.
fastopen: connects, sends "x", and reads until the end.
info: connects, and reads until the end, slowly."""
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

case, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def listener(*options):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, name, value in options:
        s.setsockopt(level, name, value)
    s.bind((address, port))
    s.listen(64)
    return s


def activation():
    s = listener()
    child = os.fork()
    if child == 0:
        os.dup2(s.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execv(sys.executable, [sys.executable, "-u", __file__, "activated", address, str(port)])
    s.close()
    print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def activated():
    print("fds", os.environ["LISTEN_FDS"], int(os.environ["LISTEN_PID"]) == os.getpid())
    s = socket.socket(fileno=3)
    print("listens", s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), s.getsockname() == (address, port))
    print("open")
    c, _ = s.accept()
    print("got", c.recv(9))
    c.close()


def workers(make, serve):
    """Two processes take 40 connections; prints whether all were taken, and whether both took some."""
    read, write = os.pipe()
    shared = make() if make else None
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            serve(shared, number, write)
            os._exit(0)
        children.append(child)
    took = b""
    ready = 0
    while ready < 2:
        ready += os.read(read, 1) == b"r"
    print("open")
    while len(took) < 40:
        took += os.read(read, 64)
    print("taken", len(took))
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return took


def reuseport():
    def serve(_, number, write):
        s = listener((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1))
        os.write(write, b"r")
        while True:
            c, _ = s.accept()
            c.sendall(b"x")
            c.close()
            os.write(write, str(number).encode())

    took = workers(None, serve)
    print("both", set(took) == set(b"01"))


def exclusive():
    def serve(s, number, write):
        e = select.epoll()
        e.register(s, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        s.setblocking(False)
        os.write(write, b"r")
        while True:
            e.poll()
            try:
                c, _ = s.accept()
            except BlockingIOError:
                continue
            c.setblocking(True)
            c.sendall(b"x")
            c.close()
            os.write(write, str(number).encode())

    workers(listener, serve)


def urgent():
    s = listener()
    print("open")
    c, _ = s.accept()
    time.sleep(0.5)
    poll = select.poll()
    poll.register(c, select.POLLPRI | select.POLLIN)
    print("poll", poll.poll(1000)[0][1])
    print("before", c.recv(9))
    print("urgent", c.recv(9, socket.MSG_OOB))
    print("after", c.recv(9))
    c.close()


def splice():
    s = listener()
    print("open")
    c, _ = s.accept()
    read, write = os.pipe()
    total = 0
    # Through a pipe and back to where it came from, as a proxy does.
    while moved := os.splice(c.fileno(), write, 1 << 16):
        total += moved
        while moved:
            moved -= os.splice(read, c.fileno(), moved)
    print("moved", total)
    c.close()


def fastopen():
    s = listener()
    try:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        print("set")
    except OSError as error:
        print(error)
    print("open")
    c, _ = s.accept()
    print("got", c.recv(9))
    c.close()


def info():
    s = listener()
    print("open")
    c, _ = s.accept()
    acknowledged = 0
    for _ in range(10):
        c.sendall(b"x" * 300_000)
        acknowledged += 300_000
        deadline = time.monotonic() + 5
        # tcpi_bytes_acked: some programs look at the figures until all has arrived.
        while struct.unpack_from("=120xQ", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128))[0] < acknowledged:
            if time.monotonic() > deadline:
                print("not acknowledged after 5 s")
                return
            time.sleep(0.001)
    print("all acknowledged")
    c.close()


globals()[case]()
