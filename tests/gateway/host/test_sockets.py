"""Sockets from the service manager, handed to a process of its own as systemd does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

SCRIPT = """
import os, sys
from gateway.host.sockets import inherited
environ = dict(os.environ, LISTEN_FDS=sys.argv[1], LISTEN_FDNAMES=sys.argv[2],
               LISTEN_PID=str(os.getpid()) if sys.argv[3] == "ours" else sys.argv[3])
found = inherited(environ).sockets
print({name: [sock.getsockname()[1] for sock in socks] for name, socks in found.items()})
print([sock.getblocking() or sock.get_inheritable() for socks in found.values() for sock in socks])
print([name for name in environ if name.startswith("LISTEN")])
"""


def taken(names: str, process: str = "ours", count: str = "2") -> tuple[list[str], list[int]]:
    """Return what a process finds that is given two sockets, and their ports."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:

        def place() -> None:
            high = [os.dup2(sock.fileno(), 100 + n) for n, sock in enumerate((one, other))]
            for n, fd in enumerate(high):
                os.dup2(fd, 3 + n, inheritable=True)

        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, count, names, process],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            close_fds=False,
            preexec_fn=place,
        )
        return done.stdout.splitlines(), [sock.getsockname()[1] for sock in (one, other)]


def test_sockets_are_taken_by_name_and_are_for_this_process_alone() -> None:
    (found, flags, left), ports = taken("http:http")
    assert found == str({"http": ports})
    assert flags == "[False, False]"
    assert left == "[]"


def test_sockets_of_other_names_are_apart() -> None:
    (found, *_), ports = taken("http:other")
    assert found == str({"http": ports[:1], "other": ports[1:]})


def test_what_is_meant_for_another_process_or_is_no_number_is_left() -> None:
    assert taken("http:http", process="1")[0][0] == "{}"
    assert taken("http:http", count="many")[0][0] == "{}"


KEPT = """
import os, sys
from gateway.host.sockets import inherited
names = "tty-P0-/a:http:tty-P0-/b:tty-P0-/a"
found = inherited({"LISTEN_FDS": "4", "LISTEN_FDNAMES": names, "LISTEN_PID": str(os.getpid())})
print(list(found.sockets), found.kept, [os.get_inheritable(fd) for fd in found.kept.values()])
try:
    os.fstat(3)
except OSError:
    print("the older one is closed")
"""


def test_what_is_no_socket_was_kept_and_of_two_with_one_name_the_newer_counts() -> None:
    masters, slaves = zip(*(os.openpty() for _ in range(3)), strict=True)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def place() -> None:
            high = [os.dup2(fd, 100 + n) for n, fd in enumerate((masters[0], server.fileno(), *masters[1:]))]
            for n, fd in enumerate(high):
                os.dup2(fd, 3 + n, inheritable=True)

        command = [sys.executable, "-c", KEPT]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, close_fds=False, preexec_fn=place
        )
    for fd in (*masters, *slaves):
        os.close(fd)
    found, closed = done.stdout.splitlines()
    assert found == "['http'] {'tty-P0-/b': 5, 'tty-P0-/a': 6} [False, False]"
    assert closed == "the older one is closed"
