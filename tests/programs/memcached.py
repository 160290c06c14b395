"""Clients of a memcached: python3 memcached.py ADDRESS PORT"""

import random
import socket
import sys
import threading

ADDRESS = (sys.argv[1], int(sys.argv[2]))
CLIENTS = 32
FAILED = []


def client(number):
    choose = random.Random(number)
    connection = socket.create_connection(ADDRESS, timeout=30)
    lines = connection.makefile("rwb")
    kept = {}
    for turn in range(60):
        key = f"{number}-{choose.randrange(10)}".encode()
        if choose.random() < 0.5:
            size = choose.choice([0, 1, 100, 1460, 20000, 300000])
            kept[key] = choose.randbytes(size)
            lines.write(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, kept[key]))
            lines.flush()
            answer = lines.readline()
            assert answer == b"STORED\r\n", answer
        else:
            lines.write(b"get %s\r\n" % key)
            lines.flush()
            answer = lines.readline()
            if key not in kept:
                assert answer == b"END\r\n", answer
                continue
            size = int(answer.split()[3])
            value = lines.read(size + 2)
            assert value == kept[key] + b"\r\n", f"{key}: another value"
            assert lines.readline() == b"END\r\n"
    # A batch at once.
    lines.write(b"".join(b"get %s\r\n" % key for key in kept))
    lines.flush()
    for key, value in kept.items():
        size = int(lines.readline().split()[3])
        assert lines.read(size + 2) == value + b"\r\n", f"{key}: another value"
        assert lines.readline() == b"END\r\n"
    connection.close()


def guarded(number):
    try:
        client(number)
    except Exception as error:
        FAILED.append(f"client {number}: {error!r}")


threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if FAILED:
    sys.exit("\n".join(FAILED))
print(f"{CLIENTS} clients: all values as they were kept")
