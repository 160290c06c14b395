"""Sockets that are told line by line what to do, so that a test may have any number of them in any order.

    open NAME ADDRESS PORT [reuse]  binds; `ok PORT`
    dual NAME                       an IPv6 socket, dual-stack, at the wildcard and a free port; `ok PORT`
    connect NAME ADDRESS PORT       makes the socket where there is none; `ok PORT`
    send NAME SIZE [ADDRESS PORT]   a pattern of that size; `ok` or the error's name
    recv NAME                       `ok SIZE ADDRESS PORT` if the bytes are the pattern's, or the error's name
    info NAME                       receives with ancillary data; `ok SIZE ADDRESS PORT to=... if=... ttl=... tos=... scope=...`
    segment NAME SIZE               UDP_SEGMENT
    gro NAME                        UDP_GRO
    set NAME LEVEL OPTION VALUE     setsockopt with a number
    now NAME                        receives without waiting
    close NAME
"""
import errno
import socket
import struct
import sys

UDP_SEGMENT, UDP_GRO = 103, 104
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS = 8, 12, 13
sockets = {}


def pattern(size):
    return bytes((i * 31 + size) % 251 for i in range(size))


def check(data):
    return len(data) if data == pattern(len(data)) else "other bytes, %d of them" % len(data)


def make(name, address):
    if name not in sockets:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sockets[name] = socket.socket(family, socket.SOCK_DGRAM)
        sockets[name].settimeout(5)
    return sockets[name]


def ancillary(control):
    to = interface = ttl = tos = None
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            interface, _, address = struct.unpack("I4s4s", data)
            to = socket.inet_ntoa(address)
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, interface = struct.unpack("16sI", data)
            to = socket.inet_ntop(socket.AF_INET6, address)
        elif (level, kind) in [(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)]:
            ttl = struct.unpack("i", data)[0]
        elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
            tos = data[0]
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_TCLASS):
            tos = struct.unpack("i", data)[0]
    return "to=%s if=%s ttl=%s tos=%s" % (to, interface, ttl, tos)


def ask_for_ancillary(s):
    if s.family == socket.AF_INET6:
        for option in socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS:
            s.setsockopt(socket.IPPROTO_IPV6, option, 1)
    for option in IP_PKTINFO, IP_RECVTTL, IP_RECVTOS:
        s.setsockopt(socket.IPPROTO_IP, option, 1)


def do(what, name, *rest):
    if what == "open":
        s = make(name, rest[0])
        if rest[2:] == ("reuse",):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ask_for_ancillary(s)
        s.bind((rest[0], int(rest[1])))
        return "ok %d" % s.getsockname()[1]
    if what == "dual":
        s = make(name, "::")
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        ask_for_ancillary(s)
        s.bind(("::", 0))
        return "ok %d" % s.getsockname()[1]
    if what == "connect":
        s = make(name, rest[0])
        s.connect((rest[0], int(rest[1])))
        return "ok %d" % s.getsockname()[1]
    s = sockets[name]
    if what == "send":
        data = pattern(int(rest[0]))
        s.sendto(data, (rest[1], int(rest[2]))) if rest[1:] else s.send(data)
        return "ok"
    if what == "recv":
        data, sender = s.recvfrom(65536)
        return "ok %s %s %d" % (check(data), sender[0], sender[1])
    if what == "now":
        s.settimeout(0)
        try:
            data, sender = s.recvfrom(65536)
        finally:
            s.settimeout(5)
        return "ok %s %s %d" % (check(data), sender[0], sender[1])
    if what == "info":
        data, control, flags, sender = s.recvmsg(65536, 1024)
        scope = sender[3] if len(sender) > 2 else 0
        return "ok %s %s %d %s scope=%d" % (check(data), sender[0], sender[1], ancillary(control), scope)
    if what == "segment":
        s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, int(rest[0]))
    elif what == "gro":
        s.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    elif what == "set":
        s.setsockopt(*(int(word) for word in rest))
    elif what == "close":
        sockets.pop(name).close()
    return "ok"


print("ready")
for line in sys.stdin:
    try:
        print(do(*line.split()))
    except socket.timeout:
        print("timeout")
    except OSError as error:
        print(errno.errorcode[error.errno])
