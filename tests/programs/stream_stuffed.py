"""A connection whose transmit ring is full, because the peer does not read, still reads: stream_stuffed.py CASE PEER PORT.
Prints a line for each thing that is as the kernel has it, and fails at the first that is not. The peer, by case:

both: sends 24 MiB while it reads nothing, then reads all that comes.
told: sends "x", reads nothing for two seconds, then reads all that comes."""
import select
import socket
import sys
import threading
import time

MUCH = 24 << 20
case, peer, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.create_connection((peer, port))
print("open")
sys.stdin.readline()


def both():
    # One thread is blocked in send, another one reads slowly enough for the server to look away between two reads.
    sender = threading.Thread(target=lambda: s.sendall(bytes(MUCH)))
    sender.start()
    time.sleep(0.5)
    s.settimeout(None)
    count = 0
    while count < MUCH:
        ready, _, _ = select.select([s], [], [], 10)
        if not ready:
            sys.exit(f"nothing more comes after {count} bytes of {MUCH}")
        count += len(s.recv(1 << 16))
        time.sleep(0.004)
    print("read")
    sender.join()
    print("sent")


def told():
    s.setblocking(False)
    sent = 0
    for _ in range(3):
        try:
            while True:
                sent += s.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.1)
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    if e.poll(1) != [(s.fileno(), select.EPOLLIN)]:
        sys.exit("what lies unread is not told")
    if s.recv(9) != b"x":
        sys.exit("not what was sent")
    if e.poll(0.05) != []:
        sys.exit("told once too often")
    print("told")


{"both": both, "told": told}[case]()
s.close()
