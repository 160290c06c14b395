"""Runs one suite of CPython's own tests and prints a line before and after each test, for `cargo xtask ledger`.

The instructions are a JSON document on the command line:
  module    what unittest loads
  classes   patterns of the names of the classes to run
  without   patterns of those to leave out again
  skip      identities of tests not to run: those that an earlier process, which hung, has run
  only      identities of the tests to run, of all those
  hosts     optional; the addresses that stand for "localhost" and "::1", server's first: {"4": [A, B], "6": [A, B]}
  spaces    optional; network namespaces [server's, client's]: the thread of the client moves into the second
  threads   whether the tests have a thread for the client; if not, each socket that connects without having been bound is
            made anew in the second
"""

import ctypes
import fnmatch
import json
import os
import socket
import sys
import threading
import unittest

from test.support import socket_helper

orders = json.loads(sys.argv[1])
output = sys.stdout
far = threading.local()


def say(word, test, why=""):
    output.write("\t".join(["ledger", word, test.id(), " ".join(why.split())]) + "\n")
    output.flush()


class Result(unittest.TestResult):
    """One verdict for each test: the worst one, if its parts disagree."""

    def startTest(self, test):
        self.verdict = ("passed", "")
        say("start", test)

    def stopTest(self, test):
        say(self.verdict[0], test, self.verdict[1])

    def addSkip(self, test, reason):
        if self.verdict[0] == "passed":
            self.verdict = ("skipped", reason)
        if not isinstance(test, unittest.TestCase):
            say("skipped", test, reason)

    def fail(self, test, error):
        self.verdict = ("failed", f"{error[0].__name__}: {error[1]}")
        if not isinstance(test, unittest.TestCase):
            say("failed", test, self.verdict[1])

    addError = addFailure = fail

    def addSubTest(self, test, subtest, error):
        if error:
            self.fail(test, error)

    def addUnexpectedSuccess(self, test):
        self.verdict = ("failed", "unexpected success")


def enter(namespace):
    """Moves the calling thread."""
    with open(namespace) as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def use_hosts(hosts):
    """Puts the addresses in the place of the loopback ones, before the tests copy them."""
    bind_port = socket_helper.bind_port
    other = dict([hosts["4"], hosts["6"]])

    def bind(sock, host=hosts["4"][0]):
        return bind_port(sock, other.get(host, host) if getattr(far, "here", False) else host)

    socket_helper.bind_port = bind
    socket_helper.HOST = socket_helper.HOSTv4 = hosts["4"][0]
    socket_helper.HOSTv6 = hosts["6"][0]


def move_connecting(server, client, hosts):
    """Moves this thread to the server's namespace, and each socket that connects to a server to the client's."""
    enter(server)
    unbound = {"0.0.0.0", "::"}

    def moving(plain):
        def connect(self, address):
            if self.type == socket.SOCK_STREAM and address[0] in hosts and self.getsockname()[0] in unbound:
                enter(client)
                try:
                    fresh = socket.socket(self.family, self.type, self.proto)
                finally:
                    enter(server)
                fresh.setblocking(os.get_blocking(self.fileno()))
                os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
                fresh.close()
            return plain(self, address)

        return connect

    for name in "connect", "connect_ex":
        setattr(socket.socket, name, moving(getattr(socket.socket, name)))


def use_spaces(server, client):
    """Moves this thread to the server's namespace, and the clients of CPython's threaded tests to theirs."""
    from test.test_socket import ThreadableTest

    run = ThreadableTest.clientRun

    def client_run(self, function):
        enter(client)
        far.here = True
        run(self, function)

    enter(server)
    ThreadableTest.clientRun = client_run


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def wanted(test):
    name = type(test).__name__

    def matches(patterns):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return matches(orders["classes"]) and not matches(orders["without"])


if "hosts" in orders:
    use_hosts(orders["hosts"])
if "spaces" in orders and orders["threads"]:
    use_spaces(*orders["spaces"])
elif "spaces" in orders:
    move_connecting(*orders["spaces"], {orders["hosts"]["4"][0], orders["hosts"]["6"][0]})
tests = [test for test in flat(unittest.defaultTestLoader.loadTestsFromName(orders["module"])) if wanted(test)]
tests = [test for test in tests if test.id() not in orders["skip"]]
if orders.get("only"):
    tests = [test for test in tests if test.id() in orders["only"]]
unittest.TestSuite(tests).run(Result())
output.write("ledger\tend\n")
output.flush()
