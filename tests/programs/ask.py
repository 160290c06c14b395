"""Sends a datagram of each size that is read from the standard input, and compares what comes back:
ask.py PEER PORT connected|unconnected [SECONDS to wait]. Prints `ok SIZE`, or what is wrong."""
import socket
import sys

peer, port, way, *patience = sys.argv[1:]
family = socket.AF_INET6 if ":" in peer else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(float(patience[0]) if patience else 5)
if way == "connected":
    s.connect((peer, int(port)))
else:
    s.bind(("", 0))
print("ready", s.getsockname()[1])
for line in sys.stdin:
    size = int(line)
    data = bytes((i * 31 + size) % 251 for i in range(size))
    try:
        if way == "connected":
            s.send(data)
            reply, sender = s.recv(65536), None
        else:
            s.sendto(data, (peer, int(port)))
            reply, sender = s.recvfrom(65536)
    except OSError as error:
        print(size, type(error).__name__, error.errno, error)
        continue
    if sender and sender[:2] != (peer, int(port)):
        print(size, "came from", sender)
    elif reply != data:
        print(size, "came back as", len(reply), "other bytes")
    else:
        print("ok", size)
