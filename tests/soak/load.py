"""What loads a gateway in the soak: lines that are unplugged, their clients, updates, and strangers.

Everything is counted here too, so that at the end the gateway's own counters can be held against it: each byte that a
client sent is on the line, or is in ``bytes_dropped``.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.hostile import peer as wire
from tests.hostile.siege import HOSTILE, KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import pytest

    from tests.helpers import FarEnd, Gateway
    from tests.hostile.siege import Daemon

_TOGETHER = 8
"""Clients of a line at once."""
_ANSWER = 10.0
"""Seconds after which a message that has not come back fails the test."""
_SERVERS = ("PTZServer", "SerialCGI")
_RECORD = struct.Struct("!cQ7x")


@dataclass(frozen=True)
class Figures:
    """What a daemon holds, when it has nothing to do."""

    memory: int
    """Resident bytes."""
    descriptors: int
    threads: int
    tasks: int
    objects: int
    """Those that Python's collector knows."""

    def more_than(self, before: Figures) -> bool:
        """Return whether somebody is still there who was not ``before``."""
        return self.descriptors > before.descriptors or self.tasks > before.tasks or self.threads > before.threads

    def __str__(self) -> str:
        return (
            f"{self.memory >> 10} KiB, {self.descriptors} descriptors, {self.threads} threads, {self.tasks} tasks, "
            f"{self.objects} objects"
        )


def install_probe(directory: Path, environ: pytest.MonkeyPatch) -> None:
    """Have every daemon that is started from now on answer ``figures``."""
    directory.mkdir()
    shutil.copy(Path(__file__).with_name("probe.py"), directory / "sitecustomize.py")
    environ.setenv("PYTHONPATH", os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]))
    environ.setenv("SOAK_COUNTS", str(directory))


async def figures(daemon: Daemon) -> Figures:
    """Ask a daemon what it holds."""
    process = Path(f"/proc/{daemon.process.pid}")
    file = Path(os.environ["SOAK_COUNTS"]) / str(daemon.process.pid)
    file.unlink(missing_ok=True)
    daemon.process.send_signal(signal.SIGUSR2)
    while not file.exists():  # noqa: ASYNC110 -- another process makes it
        await trio.sleep(0.01)
    tasks, objects = map(int, file.read_text().split())
    descriptors, threads = (len(list((process / part).iterdir())) for part in ("fd", "task"))
    return Figures(daemon.resident, descriptors, threads, tasks, objects)


async def paced(count: int, seconds: float, do: Callable[[int], Awaitable[None]]) -> None:
    """Do something so many times, at equal distances; what takes longer than that is done at once after."""
    began = trio.current_time()
    for number in range(count):
        await trio.sleep_until(began + number * seconds / count)
        await do(number)


class Device:
    """The device of a port: it says back what it is told."""

    def __init__(self, end: FarEnd) -> None:
        self.unplugs = 0
        self.heard = 0
        """Bytes that it was told."""
        self.said = bytearray()
        self._end = end
        self._plugged = trio.Event()

    async def run(self) -> None:
        while True:
            try:
                data = await self._end.hear_some()
            except trio.ClosedResourceError:
                await self._plugged.wait()
                continue
            self.heard += len(data)
            self.said += data
            await self._end.say(data)

    def unplug(self) -> None:
        self._plugged = trio.Event()
        trio.lowlevel.notify_closing(self._end.master)
        self._end.unplug()
        self.unplugs += 1

    def plug(self) -> None:
        self._end.plug()
        self._plugged.set()


class Crowd:
    """The clients of one TCP server."""

    def __init__(self, letter: str, device: Device, port: int) -> None:
        self.device = device
        self.clients = 0
        self.sent = 0
        """Bytes that they sent."""
        self._letter = letter
        self._port = port

    def __repr__(self) -> str:
        return f"{self._letter}: {self.clients} clients, {self.sent} bytes"

    async def come(self, count: int) -> None:
        """Have so many clients, a few at a time."""
        left = iter(range(count))

        async def come_and_go() -> None:
            for _ in left:
                async with self._client() as client:
                    await self._exchange(client)

        async with trio.open_nursery() as nursery:
            for _ in range(min(count, _TOGETHER)):
                nursery.start_soon(come_and_go)

    async def see_an_unplug(self) -> None:
        """Unplug the device, have clients talk to nobody, and plug it in again; then they are answered.

        A pty forgets what it holds, and no driver could tell how much: so all that was written has been heard before.
        """
        async with self._client() as stays:
            await self._exchange(stays)
            self.device.unplug()
            await stays.send_all(self._record())
            async with self._client() as comes:
                await comes.send_all(self._record())
                await trio.sleep(0.05)
                self.device.plug()
                for client in (stays, comes):
                    await self._until_answered(client)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[trio.SocketStream]:
        self.clients += 1
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            yield stream

    def _record(self) -> bytes:
        self.sent += _RECORD.size
        return _RECORD.pack(self._letter.encode(), self.sent)

    async def _exchange(self, client: trio.SocketStream) -> None:
        """Say one thing and hear it from the line."""
        record, heard = self._record(), b""
        with trio.fail_after(_ANSWER):
            await client.send_all(record)
            while record not in heard:
                data = await client.receive_some()
                assert data, f"a client of {self._letter} was cut"
                heard = heard[-_RECORD.size :] + data

    async def _until_answered(self, client: trio.SocketStream) -> None:
        """Talk until the line answers; what it did not hear is counted as dropped."""
        with trio.fail_after(_ANSWER):
            while True:
                with trio.move_on_after(0.2):
                    await self._exchange(client)
                    return


class Updates:
    """Changes of parameters, one after the other, that clients do not notice."""

    def __init__(self, gateway: Gateway, ports: int) -> None:
        self._gateway = gateway
        self._ports = ports
        self.done = 0

    async def change(self, number: int) -> None:
        port, kind, odd = number % self._ports, number // self._ports % 4, number // self._ports // 4 % 2
        kinds: tuple[tuple[str, tuple[object, object]], ...] = (
            (f"Serial.Ser{port + 1}.BaudRate", (115200, 9600)),
            (f"PortManager.P{port}.PTZServer.Enabled", ("yes", "no")),
            (f"Serial.Ser{port + 1}.StopBits", (2, 1)),
            (f"PortManager.P{port}.SerialCGI.Enabled", ("yes", "no")),
        )
        name, values = kinds[kind]
        answer = await self._gateway.set({name: values[odd]})
        assert answer == "OK", f"{name}={values[odd]}: {answer}"
        self.done += 1

    async def put_back(self) -> None:
        """Have all as it was at first."""
        servers: dict[str, object] = {
            f"PortManager.P{port}.{s}.Enabled": "no" for port in range(self._ports) for s in _SERVERS
        }
        assert await self._gateway.set(servers) == "OK"


class Strangers:
    """Peers and callers that mean harm or know nothing, from another network than the honest ones."""

    _FROM = "127.66.0.1"

    def __init__(self, remote_port: int, http_port: int, tcp_port: int) -> None:
        self._remote_port = remote_port
        self._http_port = http_port
        self._tcp_port = tcp_port
        self.came = 0

    async def come(self, number: int) -> None:
        kinds = (
            self._junk_to_the_link,
            self._wrong_key,
            self._right_key_and_nonsense,
            self._wrong_password,
            self._half_a_request,
            self._reset,
        )
        with contextlib.suppress(wire.Ended, trio.BrokenResourceError), trio.move_on_after(2):
            await kinds[number % len(kinds)]()
        self.came += 1

    async def _junk_to_the_link(self) -> None:
        async with await wire.connection(self._remote_port, self._FROM) as stream:
            await stream.send_all(os.urandom(2000))
            await stream.receive_some()

    async def _wrong_key(self) -> None:
        with contextlib.suppress(AssertionError):
            async with wire.dialled(self._remote_port, "guessed", HOSTILE, source=self._FROM):
                pass

    async def _right_key_and_nonsense(self) -> None:
        async with wire.dialled(self._remote_port, KEY, HOSTILE, source=self._FROM) as peer:
            await peer.open()
            for kind in range(16):
                await peer.send(kind, channel=wire.TCP, offset=2**63, payload=os.urandom(40))
            await peer.stay()

    async def _wrong_password(self) -> None:
        login = base64.b64encode(b"admin:guess").decode()
        async with await wire.connection(self._http_port, self._FROM) as stream:
            await stream.send_all(
                f"GET /daisyport/status HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n".encode()
            )
            assert b" 200 " not in await stream.receive_some()

    async def _half_a_request(self) -> None:
        async with await wire.connection(self._http_port, self._FROM) as stream:
            await stream.send_all(b"GET /daisyport/st")

    async def _reset(self) -> None:
        stream = await wire.connection(self._tcp_port, self._FROM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
