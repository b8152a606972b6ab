"""Several hosts on one machine: network namespaces joined by a bridge, which lives in a namespace of its own.

Each host has one link, ``eth0``, with 10.77.0.1, 10.77.0.2, ... Nothing outside the namespaces is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_NAMED = Path("/run/netns")
_OURS = re.compile(r"dp([0-9a-f]+)-[0-9a-f]+-\w+")
_libc = ctypes.CDLL(None, use_errno=True)
_counter = itertools.count()


@dataclass(frozen=True)
class Host:
    """A host of its own: ``namespace`` is its name, ``port`` the bridge's end of its link."""

    namespace: str
    address: str
    bridge: str
    port: str

    def command(self, *argv: str) -> list[str]:
        """The command that runs ``argv`` on this host; the process has the pid that it is started with."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def ip(self, arguments: str) -> str:
        """Run ``ip`` on this host, and return what it prints."""
        return _ip(f"-n {self.namespace} {arguments}")

    def unplug(self) -> None:
        """Take the carrier away, as pulling the cable does: TCP does not notice, addresses stay."""
        _ip(f"-n {self.bridge} link set {self.port} down")

    def plug(self) -> None:
        """Give the carrier back."""
        _ip(f"-n {self.bridge} link set {self.port} up")

    @contextlib.asynccontextmanager
    async def running(self, *argv: str) -> AsyncIterator[trio.Process]:
        """Run ``argv`` on this host with pipes to its input and output, and kill it when the block ends."""
        process = await trio.lowlevel.open_process(self.command(*argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await trio.aclose_forcefully(_stdio(process))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Make this thread's new sockets this host's, while the block runs. Not for code that starts threads."""
        with open("/proc/thread-self/ns/net") as before, open(_NAMED / self.namespace) as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


@contextlib.contextmanager
def network(hosts: int) -> Iterator[tuple[Host, ...]]:
    """Join so many hosts by one bridge, until the block ends."""
    _sweep()
    prefix = f"dp{os.getpid():x}-{next(_counter):x}-"
    bridge = f"{prefix}br"
    made = tuple(Host(f"{prefix}h{n}", f"10.77.0.{n + 1}", bridge, f"h{n}") for n in range(hosts))
    try:
        _ip(f"netns add {bridge}")
        # Without snooping off, a bridge that hears no multicast querier may hold multicast back.
        _ip(f"-n {bridge} link add br0 type bridge mcast_snooping 0 forward_delay 0")
        _ip(f"-n {bridge} link set br0 up")
        for host in made:
            _join(host)
        yield made
    finally:
        for namespace in (bridge, *(host.namespace for host in made)):
            _delete(namespace)


def _stdio(process: trio.Process) -> trio.abc.AsyncResource:
    assert process.stdio is not None
    return process.stdio


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, 0x40000000):  # CLONE_NEWNET; os.setns comes with Python 3.12
        raise OSError(ctypes.get_errno(), "setns")


def _join(host: Host) -> None:
    _ip(f"netns add {host.namespace}")
    _ip(f"link add eth0 netns {host.namespace} type veth peer name {host.port} netns {host.bridge}")
    _ip(f"-n {host.bridge} link set {host.port} master br0 up")
    host.ip("link set lo up")
    host.ip(f"address add {host.address}/24 dev eth0")
    host.ip("link set eth0 up")
    host.ip("route add 224.0.0.0/4 dev eth0")


def _ip(arguments: str) -> str:
    done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise OSError(f"ip {arguments}: {done.stderr.strip()}")
    return done.stdout


def _delete(namespace: str) -> None:
    with contextlib.suppress(OSError):
        _ip(f"netns delete {namespace}")


def _sweep() -> None:
    """Delete the namespaces of runs that were killed."""
    for path in _NAMED.iterdir() if _NAMED.is_dir() else ():
        ours = _OURS.fullmatch(path.name)
        if ours and not Path(f"/proc/{int(ours[1], 16)}").exists():
            _delete(path.name)


@functools.cache
def obstacle() -> str:
    """Return the reason why there can be no network namespaces here, or an empty text."""
    if shutil.which("ip") is None:
        return "network namespaces require iproute2, which is not installed"
    if os.geteuid() != 0:
        return "network namespaces require root"
    try:
        with network(1):
            return ""
    except OSError as exc:
        return f"no network namespaces here: {exc}"


needs_network = pytest.mark.skipif(bool(obstacle()), reason=obstacle())
