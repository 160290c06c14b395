"""Two processes send and receive on one socket, and one of them is killed at some moment, again and again:
siblings.py PEER PORT ROUNDS. The peer answers everything."""
import os
import random
import signal
import socket
import sys
import time

peer, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 0))
s.settimeout(0.05)
print("ready", s.getsockname()[1])


def exchange(words):
    s.sendto(words, (peer, port))
    return s.recv(2000)


for number in range(rounds):
    child = os.fork()
    if child == 0:
        while True:
            try:
                exchange(b"x" * 1000)
            except OSError:
                pass
    end = time.monotonic() + 0.005 + random.random() * 0.02
    while time.monotonic() < end:
        try:
            exchange(b"y" * 500)
        except TimeoutError:
            pass  # The other one took the answer.
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
# Alone again: what is left over goes, then every question has its answer.
s.settimeout(0.2)
try:
    while True:
        s.recv(2000)
except TimeoutError:
    pass
s.settimeout(2)
for number in range(100):
    words = b"%d" % number
    answer = exchange(words)
    if answer != words:
        sys.exit(f"sent {words}, got {answer}")
print("done")
