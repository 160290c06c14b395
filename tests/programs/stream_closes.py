"""Many short connections whose sender closes at once: stream_closes.py serve ADDRESS PORT, or ask ADDRESS PORT COUNT OWN.
The one who asks sends a line "LENGTH" or "LENGTH OWN PORT"; the answer is so many bytes and the end, in the second case on
a connection from the server's port 20 to that address, as FTP's active mode has it. Each byte is compared."""
import random
import socket
import sys
import threading

PATTERN = bytes(random.Random(1).randbytes(1 << 21))


def serve_one(c):
    with c, c.makefile("r") as lines:
        order = lines.readline().split()
        if not order:
            return
        length = int(order[0])
        if len(order) == 1:
            c.sendall(PATTERN[:length])
            return
        data = socket.socket()
        data.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        data.bind((sys.argv[2], 20))
        data.connect((order[1], int(order[2])))
        with data:
            data.sendall(PATTERN[:length])
        c.sendall(b"done\n")


def read_all(c):
    parts = []
    while part := c.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def ask_one(number, length, own):
    what = f"connection {number}, {length} bytes, {'active' if number % 2 else 'passive'}"
    c = socket.create_connection((sys.argv[2], int(sys.argv[3])), 20)
    with c:
        if number % 2 == 0:
            c.sendall(f"{length}\n".encode())
            got = read_all(c)
        else:
            with socket.create_server((own, 0)) as listener:
                listener.settimeout(20)
                c.sendall(f"{length} {own} {listener.getsockname()[1]}\n".encode())
                data, peer = listener.accept()
                with data:
                    data.settimeout(20)
                    got = read_all(data)
                if peer[1] != 20:
                    sys.exit(f"{what}: from port {peer[1]}")
            if read_all(c) != b"done\n":
                sys.exit(f"{what}: no word at the end")
    if got != PATTERN[:length]:
        sys.exit(f"{what}: {len(got)} bytes came, or others than were sent")


if sys.argv[1] == "serve":
    with socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=64) as listener:
        print("open")
        while True:
            threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()
lengths = random.Random(2)
for number in range(int(sys.argv[4])):
    ask_one(number, lengths.choice([0, 1, 1448, 5000, 65536, 300_000, lengths.randrange(1 << 21)]), sys.argv[5])
print("all")
