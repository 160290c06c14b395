"""Sends every datagram back: echo.py ADDRESS PORT [PEER PORT], connected to the peer where one is given."""
import socket
import sys

address, port, *peer = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((address, int(port)))
if peer:
    s.connect((peer[0], int(peer[1])))
print("ready", s.getsockname()[1])
while True:
    if peer:
        s.send(s.recv(65536))
    else:
        data, sender = s.recvfrom(65536)
        s.sendto(data, sender)
