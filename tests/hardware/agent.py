"""Do what the tests ask, inside the guest: a request is a line of JSON on a virtio port, and so is its answer.

A request is the name of a function below with its arguments; the answer has its ``result``, or the ``error`` that it
raised. One at a time: who wants to see two things at once looks at the daemon over TCP, beside this.
"""

from __future__ import annotations

import glob
import grp
import importlib
import json
import os
import pkgutil
import pwd
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

USB_PORT = 3240
"""Where a USB adapter's cable comes in: see ``adapter``."""
CLOCK_PORT = 3241
"""Where a byte is answered with the time: see ``guest.Clock``."""

_PATH = "/usr/sbin:/usr/bin"
_UNUSED = ("gateway.demo", "gateway.remote_port", "gateway.cli.terminal")
_namespace: dict[str, Any] = {}


def run(command: list[str], user: str = "root", stdin: str = "", seconds: float = 60) -> tuple[int, str]:
    """Run ``command`` to its end; return its exit status and what it printed."""
    done = subprocess.run(
        command, input=stdin.encode(), stdout=-1, stderr=-2, timeout=seconds, check=False, **_as(user)
    )
    return done.returncode, done.stdout.decode(errors="replace")


def start(command: list[str], log: str, user: str = "root") -> int:
    """Start ``command`` with its output in the file ``log``; return its process id."""
    with Path(log).open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **_as(user))
    process.returncode = 0  # it is ``ended`` that waits for it
    return process.pid


def daemon(arguments: list[str], log: str, user: str) -> int:
    """Start ``python3 -m gateway`` with these arguments; return its process id.

    It is forked from here with its modules read already, which takes the emulated processor five seconds and more. What
    these tests do not use is left out.
    """
    gateway = importlib.import_module("gateway")
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__") and not module.name.startswith(_UNUSED):
            importlib.import_module(module.name)
    main = importlib.import_module("gateway.cli.main").main

    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.setsid()
        name, *groups = _groups(user)
        os.chdir("/")
        entry = pwd.getpwnam(user)
        os.setgroups([grp.getgrnam(group).gr_gid for group in (name, *groups)])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ.update(_as(user)["env"])
        os.closerange(3, 64)
        sys.argv = ["daisyport", *arguments]
        os._exit(main(arguments))
    except BaseException:  # noqa: BLE001 -- nothing may return into the agent
        traceback.print_exc()
        os._exit(70)


def _groups(user: str) -> list[str]:
    return [user] if user == "root" else [user, "dialout"]


def _as(user: str) -> dict[str, Any]:
    how: dict[str, Any] = {"cwd": "/", "env": {"PATH": _PATH, "HOME": "/tmp", "PYTHONPATH": "/opt/site"}}
    if user == "root":
        return how  # as it is here already: to say so would cost a copy of all this process' memory (fork for vfork)
    group, *more = _groups(user)
    return how | {"user": user, "group": group, "extra_groups": more}


def ended(pid: int, number: int = 0, seconds: float = 0) -> tuple[int | None, float]:
    """Send a signal to a child, if it is one, and wait; return its exit status, or None, and the seconds it took.

    A child that a signal ended has that signal's number as its status, made negative.
    """
    began = time.monotonic()
    if number:
        os.kill(pid, number)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        took = time.monotonic() - began
        if found:
            return os.waitstatus_to_exitcode(status), took
        if took >= seconds:
            return None, took
        time.sleep(0.005)


def read(path: str) -> str:
    """Return a file's text."""
    return Path(path).read_text(errors="replace")


def write(path: str, text: str) -> None:
    """Write a file, and make its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def names(pattern: str) -> list[str]:
    """Return the files that match ``pattern``."""
    return sorted(glob.glob(pattern))


def python(source: str) -> object:
    """Execute ``source`` where names last, and return what it left in ``result``."""
    _namespace["result"] = None
    exec(source, _namespace)
    return _namespace["result"]


def attach(speed: int) -> int:
    """Take the next connection to ``USB_PORT`` for the cable of a USB adapter, and plug it in; return its USB port."""
    cable, _ = _cables.accept()
    cable.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    status = [line.split() for line in read(_HUB + "status").splitlines()]
    port = next(int(fields[1]) for fields in status if fields[0] == "hs" and fields[2] == "004")
    write(_HUB + "attach", f"{port} {cable.fileno()} {port + 1} {speed}")
    cable.close()
    return port


def detach(port: int) -> None:
    """Pull the adapter out of its USB port."""
    write(_HUB + "detach", str(port))


_HUB = "/sys/devices/platform/vhci_hcd.0/"
_cables = socket.socket()


def _tell_the_time() -> None:
    """Answer each byte with this machine's clock, beside whatever else is being done."""
    server = socket.create_server(("0.0.0.0", CLOCK_PORT))
    while True:
        end, _ = server.accept()
        threading.Thread(target=_answer, args=(end,), daemon=True).start()


def _answer(end: socket.socket) -> None:
    with end:
        while end.recv(1):
            end.sendall(struct.pack("d", time.monotonic()))


def _serve(channel: int) -> None:
    verbs = {verb.__name__: verb for verb in (run, start, daemon, ended, read, write, names, python, attach, detach)}
    received = b""
    _cables.bind(("0.0.0.0", USB_PORT))
    _cables.listen()
    threading.Thread(target=_tell_the_time, daemon=True).start()
    os.write(channel, b"{}\n")  # the guest is up
    while True:
        received += os.read(channel, 65536)
        *requests, received = received.split(b"\n")
        for request in requests:
            try:
                name, positional, keywords = json.loads(request)
                answer = json.dumps({"result": verbs[name](*positional, **keywords)})
            except Exception:  # noqa: BLE001 -- it is raised where it was asked
                answer = json.dumps({"error": traceback.format_exc()})
            rest = memoryview(answer.encode() + b"\n")
            while rest:  # the port takes what has room in its ring
                rest = rest[os.write(channel, rest) :]


def _channel() -> int:
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            if Path(name).read_text().strip() == "agent":
                return os.open("/dev/" + name.split("/")[-2], os.O_RDWR)
        time.sleep(0.05)


if __name__ == "__main__":
    _serve(_channel())
