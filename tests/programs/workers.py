"""Processes that answer on one port, each with its own number: workers.py reuseport|fork|pass|exec ADDRESS PORT COUNT.

reuseport: each has a socket of its own (SO_REUSEPORT). fork: all inherit one. pass: all get one by SCM_RIGHTS. exec: each is
a new program that inherits one by its number."""
import os
import socket
import sys

way, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def bound(reuse=False):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if reuse:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, port))
    return s


def serve(s, number):
    os.write(1, b"ready %d\n" % number)  # At once: the workers share the pipe.
    while True:
        data, sender = s.recvfrom(2000)
        s.sendto(b"%d" % number, sender)


if way == "serve":  # After exec: the fourth argument is the worker's number, the fifth the descriptor.
    serve(socket.socket(fileno=int(sys.argv[5])), count)

s = bound() if way in ("fork", "exec") else None
ours, channels = None, []
for number in range(count):
    if way == "pass":
        ours, theirs = socket.socketpair()
        channels.append(ours)
    if os.fork() == 0:
        if way == "reuseport":
            s = bound(True)
        elif way == "pass":
            _, fds, _, _ = socket.recv_fds(theirs, 10, 1)
            s = socket.socket(fileno=fds[0])
        elif way == "exec":
            os.set_inheritable(s.fileno(), True)
            os.execv(sys.executable, [sys.executable, "-u", sys.argv[0], "serve", address, str(port), str(number), str(s.fileno())])
        serve(s, number)
if way == "pass":
    s = bound()
    for channel in channels:
        socket.send_fds(channel, [b"take it"], [s.fileno()])
if s:
    s.close()
sys.stdin.readline()
os.kill(0, 15)
