"""Two ends of streams, by the calls that programs make: `serve PORT [HOST]`, and `ask PORT [HOST]` which judges."""

import contextlib
import hashlib
import os
import random
import select
import socket
import sys
import time

role, port = sys.argv[1], int(sys.argv[2])
host = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
MARK = b"nobody on the wire may read this. "


def receive_all(connection):
    digest, count = hashlib.sha256(), 0
    while data := connection.recv(random.choice([1, 7, 4096, 100_000])):
        digest.update(data)
        count += len(data)
    return f"{digest.hexdigest()} {count}".encode()


def echo(connection):
    """Level-triggered and non-blocking; ends when the peer has."""
    connection.setblocking(False)
    events = select.epoll()
    events.register(connection, select.EPOLLIN)
    held, end = b"", False
    while held or not end:
        wanted = (0 if end else select.EPOLLIN) | (select.EPOLLOUT if held else 0)
        events.modify(connection, wanted)
        ready = events.poll(10)
        assert ready, f"nothing is ready for {wanted}"
        try:
            if ready[0][1] & select.EPOLLIN:
                data = connection.recv(65536)
                end = not data
                held += data
            if held:
                held = held[connection.send(held) :]
        except BlockingIOError:
            pass


def serve():
    listener = socket.create_server((host, port))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        try:
            command = connection.recv(4, socket.MSG_WAITALL)
        except OSError as error:
            print("refused", error.errno, flush=True)
            continue
        if command == b"HASH":
            connection.sendall(receive_all(connection))
        elif command == b"FORK":
            if os.fork() == 0:
                connection.sendall(receive_all(connection))
                os._exit(0)
        elif command == b"ECHO":
            echo(connection)
        elif command == b"PEEK":
            data = b""
            while len(data) < 5:
                data = connection.recv(5, socket.MSG_PEEK)
            connection.sendall(data + b"!")
        elif command == b"LATE":
            print("late", len(connection.recv(1000, socket.MSG_WAITALL)), flush=True)
        elif command == b"QUIT":
            sys.exit(0)
        connection.close()


def connect():
    return socket.create_connection((host, port))


def hashes():
    for command in (b"HASH", b"FORK"):
        for sizes in ([1] * 300, [700_000], [8_000_000], [], [3, 16_384, 16_385, 65_536, 65_537, 1]):
            connection = connect()
            connection.sendall(command)
            digest, count = hashlib.sha256(), 0
            for size in sizes:
                data = (MARK * (size // len(MARK) + 1))[:size]
                digest.update(data)
                count += size
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(100):
                answer += data
            assert answer.decode() == f"{digest.hexdigest()} {count}", (command, sizes[:3], answer)
            connection.close()


def early():
    """More than is kept before the two ends agree: whoever reads that they do, a call that waits for it goes on at once."""
    began = time.monotonic()
    for _ in range(20):
        connection = connect()
        connection.sendall(b"HASH" + bytes(200_000))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100, socket.MSG_WAITALL).endswith(b" 200000")
        connection.close()
    # One call that missed it waits for the 10 seconds of the agreement.
    assert time.monotonic() - began < 9


def echoes():
    data, got, sent = MARK * 100_000, bytearray(), 0
    connection = connect()
    connection.sendall(b"ECHO")
    connection.setblocking(False)
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLOUT)
    turns = 0
    while len(got) < len(data):
        if sent == len(data):
            poll.modify(connection, select.POLLIN)
        ready = poll.poll(10_000)
        assert ready, f"nothing is ready: {sent} bytes sent, {len(got)} back"
        # Before the two ends agree the socket has room that the stream has not.
        turns += len(got) > 0
        try:
            if ready[0][1] & select.POLLIN:
                got += connection.recv(70_000)
            elif sent < len(data):
                sent += connection.send(data[sent : sent + 300_000])
                if sent == len(data):
                    connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
    assert got == data
    # What is reported ready is: a loop that is woken for parts of frames takes many times as many.
    assert turns < 3000, turns


def ask():
    hashes()
    early()
    echoes()
    connection = connect()
    connection.sendall(b"PEEK")
    connection.sendall(b"hello")
    assert connection.recv(100, socket.MSG_WAITALL) == b"hello!"
    # What was written before a close arrives, and a program that waits is not told of data that are none.
    for _ in range(20):
        connection = connect()
        connection.sendall(b"HASH")
        connection.close()
    connection = connect()
    connection.settimeout(0.3)
    try:
        sys.exit(f"received {connection.recv(1)} of nothing")
    except TimeoutError:
        pass
    connection.close()
    connection = connect()
    connection.sendall(b"QUIT")
    assert connection.recv(10) == b"", "the end of a program is the end of its streams"
    print("all arrived", flush=True)


def hurry():
    """Closes before the two ends can have agreed."""
    for _ in range(5):
        connection = connect()
        connection.sendall(b"LATE" + MARK)
        connection.close()
    connection = connect()
    connection.sendall(b"QUIT")
    print("said", flush=True)


def tell():
    """Says something, and tells what becomes of it."""
    connection = connect()
    try:
        connection.sendall(b"HASH" + MARK * 100)
        # Of a refusal that has come before, the next call tells why: this one says ENOTCONN only, as the kernel's.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        print("answer", connection.recv(100)[64:].decode(), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)


{"serve": serve, "ask": ask, "hurry": hurry, "tell": tell}[role]()
