"""Answers on as many connections as come what it is sent on each: stream_many.py ADDRESS PORT. Prints "open", then for each
line of its input how many connections it has."""
import selectors
import socket
import sys

listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
listener.setblocking(False)
sel = selectors.DefaultSelector()
sel.register(listener, selectors.EVENT_READ)
sel.register(sys.stdin, selectors.EVENT_READ)


def answered(stream):
    try:
        if words := stream.recv(4096):
            stream.sendall(words)
            return True
    except ConnectionError:
        pass
    return False


print("open")
count = 0
while True:
    for key, _ in sel.select():
        if key.fileobj is sys.stdin:
            if not sys.stdin.readline():
                sys.exit()
            print("connections", count)
        elif key.fileobj is listener:
            c, _ = listener.accept()
            c.setblocking(False)
            sel.register(c, selectors.EVENT_READ)
            count += 1
        elif not answered(key.fileobj):
            sel.unregister(key.fileobj)
            key.fileobj.close()
            count -= 1
