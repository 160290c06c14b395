"""A listener with TCP_DEFER_ACCEPT: stream_deferred.py before|after ADDRESS PORT

Prints what it sees of two peers that connect: one that is silent and then sends, and one that never sends. A line on the
standard input says that the peer has gone on.
"""

import select
import socket
import sys
import time

when, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
# The kernel counts in waits of 1, 2, 4 s, and shows their sum.
SECONDS = 2


def set_option():
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SECONDS)


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, port))
if when == "before":
    set_option()
listener.listen()
if when == "after":
    set_option()
print("shown", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))

sys.stdin.readline()
print("silent", bool(select.select([listener], [], [], 0.5)[0]))
print("waits")
sys.stdin.readline()
listener.settimeout(1)
first, _ = listener.accept()
print("first", first.recv(100))
print("next")
sys.stdin.readline()
started = time.monotonic()
listener.settimeout(10)
second, _ = listener.accept()
took = time.monotonic() - started
print("second", 2 < took < 5 or took)
second.send(b"hello")
second.settimeout(5)
print("answers", second.recv(100))
