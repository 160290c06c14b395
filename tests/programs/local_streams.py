"""Connections between two ends on one host. Run without arguments it plays scenes with both ends in this process and prints what
each shows, ports left out: the same words whoever carries them. With `listen` or `connect` it is one end of a test of two
programs, which says what it does line by line and is told when to go on.
"""

import array
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

ADDRESSES = ["127.0.0.1", "127.9.9.9", "::1"]
SIOCATMARK, SIOCOUTQ, FIONREAD = 0x8905, 0x5411, 0x541B
NAMES = [(getattr(select, name), name) for name in ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLRDHUP")]
ALL = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP


def pattern(start, length):
    whole = bytes(range(251))
    start %= 251
    return (whole[start:] + whole * (length // 251 + 1))[:length]


def listener(address="127.0.0.1", backlog=8):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.bind((address, 0))
    sock.listen(backlog)
    return sock


def pair(address="127.0.0.1"):
    with listener(address) as listening:
        one = socket.create_connection((address, listening.getsockname()[1]), timeout=5)
        one.settimeout(None)
        other, _ = listening.accept()
    return one, other


def said(what, *arguments, **keywords):
    """What a call says: its value, or its errno by name."""
    try:
        return what(*arguments, **keywords)
    except OSError as error:
        import errno
        return errno.errorcode.get(error.errno, str(error))


def ready(sock, wait=0.0):
    """What poll and epoll report, which must be the same where both know it."""
    poll = select.poll()
    poll.register(sock, ALL)
    events = dict(poll.poll(wait * 1000)).get(sock.fileno(), 0)
    names = [name for bit, name in NAMES if events & bit]
    with select.epoll() as epoll:
        # What is always so would end the waiting for what a token has to say first.
        epoll.register(sock.fileno(), ALL & ~select.POLLOUT)
        reported = dict(epoll.poll(0.02)).get(sock.fileno(), 0)
    if events & (select.POLLIN | select.POLLHUP) != reported & (select.POLLIN | select.POLLHUP):
        names.append(f"but epoll {reported:#x}")
    return " ".join(names)


def state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


def count(sock, request):
    word = array.array("i", [0])
    fcntl.ioctl(sock, request, word)
    return word[0]


def settle():
    time.sleep(0.05)


def names():
    for address in ADDRESSES:
        with listener(address) as listening:
            port = listening.getsockname()[1]
            one = socket.create_connection((address, port))
            other, peer = listening.accept()
            assert one.getpeername()[1] == other.getsockname()[1] == port
            assert one.getsockname()[1] == other.getpeername()[1] == peer[1] != port
            yield [name()[0] for name in (one.getsockname, one.getpeername, other.getsockname, other.getpeername)], peer[0]
            one.close()
            other.close()
    dual = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    one = socket.create_connection(("127.0.0.1", dual.getsockname()[1]))
    other, peer = dual.accept()
    yield peer[0], other.getsockname()[0], one.getsockname()[0]


def bytes_of_all_sizes():
    for address in ADDRESSES:
        one, other = pair(address)
        position = 0
        for size in (1, 63, 64, 65, 1000, 65_536, 300_000):
            for sender, receiver in ((one, other), (other, one)):
                thread = threading.Thread(target=sender.sendall, args=(pattern(position, size),))
                thread.start()
                got = receiver.recv(size, socket.MSG_WAITALL)
                thread.join()
                yield address, size, got == pattern(position, size)
            position += size


def halves():
    one, other = pair()
    yield state(one), state(other), ready(one), ready(other)
    one.send(b"last words")
    one.shutdown(socket.SHUT_WR)
    settle()
    yield state(one), state(other), ready(one), ready(other)
    yield said(one.send, b"x"), other.recv(100), other.recv(100)
    yield other.send(b"answer"), one.recv(100), ready(one), said(one.shutdown, socket.SHUT_WR)
    other.shutdown(socket.SHUT_WR)
    settle()
    yield state(one), state(other), ready(one), ready(other), one.recv(1), other.recv(1)
    yield said(other.send, b"x"), said(one.getpeername) == "ENOTCONN", said(other.shutdown, socket.SHUT_RD)
    one, other = pair()
    one.shutdown(socket.SHUT_RD)
    yield one.recv(1), ready(one), other.send(b"x"), ready(other)


def closes():
    one, other = pair()
    one.send(b"left")
    one.close()
    settle()
    yield ready(other), state(other), other.recv(100), other.recv(100)
    yield other.send(b"nobody reads this")
    settle()
    yield ready(other), state(other), said(other.recv, 1), said(other.send, b"x"), said(other.send, b"x")
    one, other = pair()
    other.send(b"unread")
    settle()
    one.close()
    settle()
    yield ready(other), state(other), said(other.recv, 1), said(other.recv, 1), said(other.send, b"x")
    one, other = pair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    settle()
    yield ready(other), other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    one, other = pair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    one.send(b"lingering")
    started = time.monotonic()
    one.close()
    yield time.monotonic() - started < 2, other.recv(100), other.recv(100)
    one, other = pair()
    thread = threading.Timer(0.1, one.close)
    thread.start()
    yield other.recv(1)
    one, other = pair()
    threading.Timer(0.1, lambda: one.send(b"late")).start()
    yield ready(other, 5), other.recv(100)


def answers():
    """A peer that answers and closes at once, while the asking thread has not yet come back from its send."""
    def serve(listening, cores):
        os.sched_setaffinity(0, cores)
        for _ in range(300):
            sock, _ = listening.accept()
            sock.recv(100)
            sock.send(b"answer")
            sock.close()

    with listener() as listening:
        # It gives way to the peer, on its own core, at the moment in which that is woken.
        own = {min(os.sched_getaffinity(0))}
        thread = threading.Thread(target=serve, args=(listening, own))
        thread.start()
        asking = threading.Thread(target=lambda: seen.update(ask(listening, own) for _ in range(300)))
        seen = set()
        asking.start()
        asking.join()
        thread.join()
    yield sorted(seen)


def ask(listening, cores):
    os.sched_setaffinity(0, cores)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with socket.create_connection(listening.getsockname()) as sock:
        time.sleep(0.0005)
        return said(sock.send, b"question"), said(sock.recv, 100), said(sock.recv, 100), said(sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)


def listeners():
    listening = listener()
    name = listening.getsockname()
    listening.close()
    settle()
    yield said(socket.create_connection, name)
    listening = listener(backlog=5)
    name = listening.getsockname()
    waiting = [socket.create_connection(name) for _ in range(3)]
    yield "POLLIN" in ready(listening)
    first, _ = listening.accept()
    yield first.send(b"x"), waiting[0].recv(1)
    listening.close()
    settle()
    yield [said(sock.recv, 1) for sock in waiting[1:]], ready(waiting[0]), said(socket.create_connection, name)
    listening = listener()
    later = socket.socket()
    later.setblocking(False)
    yield said(later.connect, listening.getsockname()), ready(later, 5)
    yield later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), said(later.connect, listening.getsockname())
    yield said(later.connect, listening.getsockname()), said(later.recv, 1)
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    bound.connect(listening.getsockname())
    yield bound.getsockname()[1] == port


def urgent():
    one, other = pair()
    one.send(b"ab")
    one.send(b"!", socket.MSG_OOB)
    one.send(b"cd")
    settle()
    yield ready(other), count(other, SIOCATMARK), other.recv(10), count(other, SIOCATMARK), ready(other)
    yield other.recv(1, socket.MSG_OOB), said(other.recv, 1, socket.MSG_OOB), other.recv(10), ready(other)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    one.send(b"e!", socket.MSG_OOB)
    settle()
    yield other.recv(10), count(other, SIOCATMARK), other.recv(10)


def waiting():
    one, other = pair()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    one.send(b"1234")
    settle()
    poll = select.poll()
    poll.register(other, select.POLLIN)
    yield bool(poll.poll(50)), count(other, FIONREAD), count(one, SIOCOUTQ)
    one.send(b"5")
    yield bool(poll.poll(5000)), other.recv(3, socket.MSG_PEEK), other.recv(10)
    other.setblocking(False)
    yield said(other.recv, 1), said(other.recv, 1, socket.MSG_DONTWAIT)
    other.setblocking(True)
    other.settimeout(0.1)
    try:
        other.recv(1)
    except TimeoutError:
        yield "timed out"
    with tempfile.TemporaryFile() as file:
        file.write(pattern(0, 100_000))
        file.flush()
        thread = threading.Thread(target=one.sendfile, args=(file, 0))
        thread.start()
        other.settimeout(None)
        yield other.recv(100_000, socket.MSG_WAITALL) == pattern(0, 100_000)
        thread.join()


def events():
    """epoll, both kinds, beginning before and after data have come."""
    one, other = pair()
    one.send(b"early")
    settle()
    for flags in (0, select.EPOLLET):
        with select.epoll() as epoll:
            epoll.register(other.fileno(), select.EPOLLIN | flags)
            yield len(epoll.poll(5)), len(epoll.poll(0)), other.recv(2)
            one.send(b"more")
            yield len(epoll.poll(5)), len(other.recv(100)), len(epoll.poll(0.05))
            one.send(b"again")
            yield len(epoll.poll(5)), said(other.recv, 100), said(other.recv, 1, socket.MSG_DONTWAIT)
            threading.Timer(0.1, lambda: one.send(b"late")).start()
            yield len(epoll.poll(5)), len(other.recv(100, socket.MSG_DONTWAIT))
        one.send(b"early")
        settle()


def room():
    """Who has filled the connection is told when there is room again."""
    for flags in (0, select.EPOLLET):
        one, other = pair()
        one.setblocking(False)
        sent = 0
        while isinstance(step := said(one.send, pattern(sent, 65_536)), int):
            sent += step
        with select.epoll() as epoll:
            epoll.register(one.fileno(), select.EPOLLOUT | flags)
            yield step, len(epoll.poll(0.05)), sent >= 1 << 20
            got = 0
            while got < sent:
                bytes_ = other.recv(65_536)
                assert bytes_ == pattern(got, len(bytes_)), got
                got += len(bytes_)
            yield len(epoll.poll(5)), one.send(b"x"), other.recv(10)
    one, other = pair()
    total = 20 << 20
    thread = threading.Thread(target=one.sendall, args=(pattern(0, total),))
    thread.start()
    got = 0
    while got < total:
        bytes_ = other.recv(1 << 20)
        assert bytes_ == pattern(got, len(bytes_)), got
        got += len(bytes_)
        if got < 3 << 20:
            time.sleep(0.01)
    thread.join()
    yield got == total


def given_away():
    """An end that another process gets, and one that a child goes on with."""
    one, other = pair()
    left, right = socket.socketpair()
    if os.fork() == 0:
        _, fds, _, _ = socket.recv_fds(right, 1, 1)
        mine = socket.socket(fileno=fds[0])
        one.close()
        other.close()
        mine.send(b"from the child: " + mine.recv(100))
        mine.close()
        os._exit(0)
    socket.send_fds(left, [b"x"], [other.fileno()])
    other.close()
    one.send(b"hello")
    yield one.recv(100), one.recv(100), os.wait()[1]
    one, other = pair()
    other.set_inheritable(True)
    if os.fork() == 0:
        one.close()
        other.sendall(b"child")
        os.execvp(sys.executable, [sys.executable, "-c", f"""if True:
            import socket
            sock = socket.socket(fileno={other.fileno()})
            sock.sendall(b' and what it became: ' + sock.recv(100))"""])
    other.close()
    one.send(b"still there")
    got = b""
    while part := one.recv(100):
        got += part
    yield got, os.wait()[1]


def locked_in():
    """The program that sends has locked itself in, or is the child of one that has: it can ask nobody for anything."""
    for generations in (1, 2):
        with listener() as listening, tempfile.TemporaryDirectory() as folder:
            sock = socket.create_connection(listening.getsockname())
            child = os.fork()
            if child == 0:
                listening.close()
                os.chroot(folder)
                while generations > 1 and os.fork() == 0:
                    generations -= 1
                if generations == 1:
                    pour(sock, 100_000_000)
                else:
                    os.wait()
                os._exit(0)
            sock.close()
            sock, _ = listening.accept()
            got, words = 0, set()
            while data := said(sock.recv, 4_000_000):
                got += 0 if isinstance(data, str) else len(data)
                if isinstance(data, str):
                    words.add(data)
                    break
            os.waitpid(child, 0)
            yield generations, got, sorted(words)


def pour(sock, length):
    """As many bytes, without blocking, as a program sends that waits for many things at once."""
    sock.setblocking(False)
    poll, piece = select.poll(), bytes(30_000)
    poll.register(sock, select.POLLOUT)
    while length > 0:
        if poll.poll(5000) == []:
            os._exit(1)
        try:
            length -= sock.send(piece[:length])
        except BlockingIOError:
            pass


SCENES = [names, bytes_of_all_sizes, halves, closes, answers, listeners, urgent, waiting, events, room, given_away, locked_in]


def play(chosen):
    signal.alarm(100)
    for scene in SCENES:
        if not chosen or scene.__name__ in chosen:
            for line in scene():
                print(f"{scene.__name__}: {line}")
    print("done")


def churn(sock, seconds):
    """Uses a connection in every way, whatever comes of it."""
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, ALL)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said(sock.send, bytes(1000))
        said(sock.send, b"!", socket.MSG_OOB)
        for flags in (0, socket.MSG_PEEK, socket.MSG_OOB, socket.MSG_TRUNC):
            said(sock.recv, 3000, flags)
        for request in (FIONREAD, SIOCOUTQ, SIOCATMARK):
            said(count, sock, request)
        said(state, sock)
        said(sock.accept)
        poll.poll(1)


def one_end(role, address, port):
    """Says what it reads, and after each line of input does what that asks for."""
    if role == "listen":
        with listener(address) as listening:
            print(f"ready {listening.getsockname()[1]}")
            sock, _ = listening.accept()
    else:
        sock = socket.create_connection((address, int(port)))
    print("connected")
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "send":
            print("ok", said(sock.send, pattern(0, int(rest[0]))))
        elif word == "recv":
            got = said(sock.recv, 65_536)
            print("ok", got if isinstance(got, str) else len(got))
        elif word == "poll":
            print("ok", ready(sock, 5))
        elif word == "churn":
            churn(sock, float(rest[0]))
            print("ok")
        elif word == "close":
            sock.close()
            print("ok")


if __name__ == "__main__":
    if sys.argv[1:2] in (["listen"], ["connect"]):
        one_end(*sys.argv[1:4])
    else:
        play(sys.argv[1:])
