"""Opens connections, one after the other, for a question and its answer each, until its input ends:
stream_opens.py ADDRESS PORT. The peer closes first, except every fourth time if a third argument is given. For each line of
its input it prints how many there were, and goes on with the next line: between the two it has no connection open."""

import selectors
import socket
import sys
import time

peer = (sys.argv[1], int(sys.argv[2]))
closes_first = len(sys.argv) > 3
commands = selectors.DefaultSelector()
commands.register(sys.stdin, selectors.EVENT_READ)
count = 0
while True:
    if commands.select(0.002):
        if not sys.stdin.readline():
            sys.exit()
        print("opened", count)
        if not sys.stdin.readline():
            sys.exit()
    with socket.create_connection(peer, timeout=20) as stream:
        peer_first = not closes_first or count % 4
        # A line's end tells the peer to close once it has answered.
        words = b"%019d" % count * (1 + count % 500) + (b"\n" if peer_first else b".")
        stream.sendall(words)
        got = b""
        while len(got) < len(words):
            more = stream.recv(65536)
            assert more, f"connection {count} ended after {len(got)} of {len(words)} bytes"
            got += more
        assert got == words, f"connection {count}: other bytes"
        if peer_first:
            assert stream.recv(1) == b"", f"connection {count} does not end"
    count += 1
