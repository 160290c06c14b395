"""Two ends of datagrams, by the calls that programs make: `serve PORT`, `ask PORT` which judges, and others."""

import array
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time

role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
MARK = b"nobody on the wire may read this. "
FAMILY = socket.AF_INET6 if ":" in host else socket.AF_INET


def new(wait=10.0):
    it = socket.socket(FAMILY, socket.SOCK_DGRAM)
    it.settimeout(wait)
    return it


def bound(to_port):
    it = new()
    it.bind((host, to_port))
    return it


def message(size):
    return (MARK * (size // len(MARK) + 1))[:size]


def serve():
    """Sends each message back; ends after `QUIT`."""
    it = bound(port)
    print("ready", flush=True)
    while True:
        try:
            data, peer = it.recvfrom(65_536)
        except TimeoutError:
            continue
        if data == b"QUIT":
            return
        if data == b"TWICE":
            it.sendto(b"one", peer)
            it.sendto(b"two", peer)
            continue
        it.sendto(data, peer)


SIZES = [0, 1, 20, 1000, 1400, 1472, 1473, 9000, 40_000, 65_000]


def ask():
    # Not connected, each in one call and in several pieces.
    it = new()
    for size in SIZES:
        data = message(size)
        assert it.sendto(data, (host, port)) == size
        back, peer = it.recvfrom(65_536)
        assert back == data, (size, len(back))
        assert peer[:2] == (host, port), peer
        assert it.sendmsg([data[:7], data[7:]], [], 0, (host, port)) == size
        first, second = bytearray(9), bytearray(70_000)
        count, _, flags, peer = it.recvmsg_into([first, second])
        assert (count, flags, peer[:2]) == (size, 0, (host, port)), (count, flags, peer)
        assert (first + second)[:count] == data
    # Connected.
    it.connect((host, port))
    it.settimeout(None)
    for size in SIZES:
        assert it.send(message(size)) == size
        assert it.recv(65_536) == message(size)
        assert os.write(it.fileno(), message(size)) == size
        assert os.read(it.fileno(), 65_536) == message(size) if size else it.recv(1) == b""
    # What is too long for a datagram with what services add.
    for size in (65_507, 70_000):
        try:
            it.send(message(size))
            sys.exit(f"sent {size} bytes")
        except OSError as error:
            assert error.errno == errno.EMSGSIZE, error
    it.settimeout(10)
    # Looks, lengths, and what is cut.
    it.send(message(500))
    assert it.recv(65_536, socket.MSG_PEEK) == message(500)
    length = array.array("i", [0])
    fcntl.ioctl(it.fileno(), termios.FIONREAD, length)
    assert length[0] == 500, length
    assert it.recv(10, socket.MSG_PEEK | socket.MSG_TRUNC) and it.recv(10, socket.MSG_PEEK) == MARK[:10]
    assert select.select([it], [], [], 0)[0], "a message that was looked at is there still"
    data, _, flags, _ = it.recvmsg(10)
    assert (data, flags) == (MARK[:10], socket.MSG_TRUNC), (data, flags)
    assert not select.select([it], [], [], 0.05)[0], "a message that was taken is gone"
    it.send(b"TWICE")
    assert it.recv(100) == b"one" and it.recv(100) == b"two"
    # Ancillary data: where it arrived, and how much of it there is.
    info, level = (socket.IPV6_RECVPKTINFO, socket.IPPROTO_IPV6) if ":" in host else (8, socket.IPPROTO_IP)
    it.setsockopt(level, info, 1)
    ancillary = []
    for flags in (0, socket.MSG_PEEK, 0):
        if flags or not ancillary:
            it.send(message(30))
        data, ancillary, got, _ = it.recvmsg(100, 100, flags)
        assert (data, len(ancillary), got & socket.MSG_TRUNC) == (message(30), 1, 0), (data, ancillary, got)
    # Readiness.
    events = select.epoll()
    it.setblocking(False)
    events.register(it, select.EPOLLIN)
    # Of repairs, too, which are nothing for the program.
    time.sleep(0.05)
    try:
        sys.exit(f"received {it.recv(1)} of nothing")
    except BlockingIOError:
        pass
    for number in range(200):
        it.send(b"%d" % number)
        assert next_one(events, it) == b"%d" % number
    it.setblocking(True)
    it.settimeout(0.2)
    since = time.monotonic()
    try:
        sys.exit(f"received {it.recv(1)} of nothing")
    except TimeoutError:
        assert 0.1 < time.monotonic() - since < 5
    # Options that would make one datagram of several.
    for option in (1, 103, 104):
        try:
            it.setsockopt(socket.IPPROTO_UDP, option, 1)
            sys.exit(f"set {option}")
        except OSError as error:
            assert error.errno == errno.ENOPROTOOPT, error
    it.settimeout(None)
    many(it)
    fork(it)
    print("all arrived", flush=True)


def next_one(events, it):
    """What a loop around epoll receives next."""
    while events.poll(10):
        try:
            return it.recv(100)
        except BlockingIOError:
            pass
    sys.exit("nothing is ready")


def many(it):
    """sendmmsg(2) and recvmmsg(2)."""
    libc = ctypes.CDLL(None, use_errno=True)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    class Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_length", ctypes.c_uint),
            ("vectors", ctypes.POINTER(Vector)),
            ("count", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_length", ctypes.c_size_t),
            ("flags", ctypes.c_long),
            ("length", ctypes.c_ulong),
        ]

    def headers(memory):
        vectors = [Vector(ctypes.addressof(it), len(it)) for it in memory]
        made = (Header * len(memory))()
        for header, vector in zip(made, vectors):
            header.vectors, header.count = ctypes.pointer(vector), 1
        return made, vectors

    sizes = [10, 0, 1200, 3000, 1]
    memory = [ctypes.create_string_buffer(message(size), size) for size in sizes]
    made, _keep = headers(memory)
    assert libc.sendmmsg(it.fileno(), made, len(sizes), 0) == len(sizes), ctypes.get_errno()
    assert [header.length for header in made] == sizes
    memory = [ctypes.create_string_buffer(4000) for _ in sizes]
    made, _keep = headers(memory)
    got = 0
    while got < len(sizes):
        place = ctypes.byref(made, got * ctypes.sizeof(Header))
        count = libc.recvmmsg(it.fileno(), place, len(sizes) - got, 0x10000, None)
        assert count > 0, ctypes.get_errno()
        got += count
    # Long ones may take another way, and be overtaken.
    lengths = [header.length for header in made]
    assert sorted(lengths) == sorted(sizes), lengths
    assert all(memory[at].raw[:size] == message(size) for at, size in enumerate(lengths))


def fork(it):
    """A child goes on with the socket; a copy of the state must not be used by both."""
    child = os.fork()
    if child == 0:
        it.send(b"child")
        os._exit(0 if it.recv(100) == b"child" else 1)
    assert os.waitpid(child, 0)[1] == 0
    try:
        it.send(b"parent")
        sys.exit("both use one socket's keys")
    except OSError as error:
        assert error.errno == errno.EIO, error
    it.close()
    it = new()
    it.connect((host, port))
    it.send(b"anew")
    assert it.recv(100) == b"anew"
    it.send(b"QUIT")


def tell():
    """Says something, and tells whether there is an answer."""
    it = new(1.0)
    it.connect((host, port))
    it.send(MARK * 20)
    try:
        print("answer", len(it.recv(65_536)), flush=True)
    except TimeoutError:
        print("no answer", flush=True)


def burst():
    """Sends numbered messages, and counts what comes back in which form."""
    count, gap = int(sys.argv[4]), float(sys.argv[5])
    it = new(1.0)
    it.connect((host, port))
    it.setblocking(False)
    events = select.poll()
    events.register(it, select.POLLIN)
    seen = {}
    for number in range(count):
        it.send(struct.pack("!I", number) + MARK * 3)
        time.sleep(gap)
        while events.poll(0):
            take(it, seen)
    while events.poll(1500):
        take(it, seen)
    print("back", len(seen), max(seen.values(), default=0), flush=True)
    it.send(b"QUIT")


def take(it, seen):
    try:
        data = it.recv(65_536)
    except BlockingIOError:
        return
    assert data[4:] == MARK * 3
    (number,) = struct.unpack("!I", data[:4])
    seen[number] = seen.get(number, 0) + 1


def wait():
    """A program that believes in poll(2): what it says is readable does not block."""
    it = bound(port)
    it.settimeout(None)
    print("ready", flush=True)
    events = select.poll()
    events.register(it, select.POLLIN)
    ready = events.poll(2000)
    print("ready" if ready else "nothing", flush=True)
    print("got", len(it.recv(65_536)), flush=True)


{"serve": serve, "ask": ask, "tell": tell, "burst": burst, "wait": wait}[role]()
