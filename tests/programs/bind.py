"""Binds a port, with no second try, and says how that went: bind.py ADDRESS PORT."""
import errno
import socket
import sys

s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.bind((sys.argv[1], int(sys.argv[2])))
    print("bound")
except OSError as error:
    print("failed", errno.errorcode[error.errno])
