"""Opens many sockets and sends something by each: many.py COUNT PEER PORT. Prints how many were answered; then holds them
until its standard input ends."""
import socket
import sys

count, peer, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sockets = []
for number in range(count):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    s.settimeout(5)
    sockets.append(s)
print("opened", len(sockets))
sys.stdin.readline()
answered = 0
for number, s in enumerate(sockets):
    words = b"socket %d" % number
    s.sendto(words, (peer, port))
    answered += s.recv(100) == words
print("answered", answered)
sys.stdin.readline()
