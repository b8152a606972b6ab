"""Friends and strangers at the front door at once, in any mixture: each rule for one holds beside all others."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import PASSWORD, needs_curl, running_gateway

if TYPE_CHECKING:
    from tests.helpers import Gateway

pytestmark = [needs_curl, pytest.mark.long]

TARGET = "/axis-cgi/param.cgi?action=list&group=Serial.Ser1.BaudRate"
VALUE = b"Serial.Ser1.BaudRate=9600\n"


def md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Caller:
    """One connection to the front door, from an address of the loopback, and the nonce that it was given."""

    stream: trio.SocketStream
    nonce: str = ""
    realm: str = ""
    count: int = 0
    statuses: list[int] = field(default_factory=list)
    rest: bytes = b""

    async def ask(self, user: str = "", password: str = "", signed: str = TARGET, count: int | None = None) -> bytes:
        """Send a request, with a Digest login where there is a user; return the body of its answer."""
        login = ""
        if user:
            self.count += 1
            number = f"{self.count if count is None else count:08x}"
            proof = (md5(user, self.realm, password), self.nonce, number, "0a4f113b", "auth", md5("GET", signed))
            login = (
                f'Authorization: Digest username="{user}", realm="{self.realm}", nonce="{self.nonce}", uri="{signed}", '
                f'response="{md5(*proof)}", qop=auth, nc={number}, cnonce="0a4f113b"\r\n'
            )
        await self.stream.send_all(f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\n{login}\r\n".encode())
        head, body = await self.answer()
        self.statuses.append(int(head.split(b" ", 2)[1]))
        if not user and (found := re.search(rb'realm="([^"]+)", nonce="([^"]+)"', head)):
            self.realm, self.nonce, self.count = found[1].decode(), found[2].decode(), 0
        return body

    async def answer(self) -> tuple[bytes, bytes]:
        while b"\r\n\r\n" not in self.rest:
            if not (received := await self.stream.receive_some()):
                raise trio.BrokenResourceError
            self.rest += received
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: ([0-9]+)", head)
        size = int(found[1]) if found else 0
        while len(self.rest) < size:
            if not (received := await self.stream.receive_some()):
                raise trio.BrokenResourceError
            self.rest += received
        body, self.rest = self.rest[:size], self.rest[size:]
        return head, body


async def connect(gateway: Gateway, address: str) -> Caller:
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.http_port, local_address=address)
    return Caller(stream)


async def friend(gateway: Gateway, address: str, logged_in: trio.Event, go_on: trio.Event) -> None:
    """Log in once, and ask on, whatever comes meanwhile: each of his requests is answered as if he were alone."""
    caller = await connect(gateway, address)
    async with caller.stream:
        await caller.ask()
        assert await caller.ask("admin", PASSWORD) == VALUE
        logged_in.set()
        await go_on.wait()
        for number in (2, 5, 3, 4, 9, 8, 7, 6):  # parallel connections share a nonce, so counts come in any order
            assert await caller.ask("admin", PASSWORD, count=number) == VALUE
        assert b"the password is right" in await caller.ask("admin", PASSWORD, signed="/other", count=10)
        assert await caller.ask("admin", PASSWORD, count=11) == VALUE
        assert caller.statuses == [401] + [200] * 9 + [401] + [200]


async def stranger(gateway: Gateway, address: str, kind: str, noise: bytes) -> None:
    """Do what strangers do; whatever it is, it ends in an answer that blames the caller, or in a close."""
    with contextlib.suppress(OSError, trio.BrokenResourceError):
        caller = await connect(gateway, address)
        async with caller.stream as stream:
            match kind:
                case "guesses":
                    for _ in range(25):
                        await caller.ask()
                        await caller.ask("admin", "wrong")
                    assert set(caller.statuses[1::2]) <= {401, 429}
                    assert 200 not in caller.statuses
                case "names":
                    await caller.ask()
                    for number in range(40):
                        await caller.ask(f"nobody{number}", "wrong")
                    assert set(caller.statuses) <= {401, 429}
                case "noise":
                    await stream.send_all(noise)
                    await stream.send_eof()
                    received = b"".join([piece async for piece in stream])
                    assert b" 500 " not in received.partition(b"\r\n")[0]
                case "silence":
                    await stream.receive_some()
                case "half":
                    await stream.send_all(b"GET /" + bytes(97 for _ in noise))
                    await stream.receive_some()
                case "pipeline":
                    with trio.move_on_after(1):
                        await stream.send_all(b"GET /axis-cgi/apidiscovery.cgi HTTP/1.1\r\nHost: cam\r\n\r\n" * 2000)
                case "chunks":
                    await stream.send_all(
                        b"POST /axis-cgi/param.cgi HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: chunked\r\n\r\n"
                        + b"1\r\nx\r\n" * 2000
                    )
                    assert b" 413 " in await stream.receive_some()
                case "reset":
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: cam\r\n\r\n" + noise)
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


KINDS = ["guesses", "names", "noise", "silence", "half", "pipeline", "chunks", "reset"]
IDLE = ("silence", "half")
NOISE = st.binary(max_size=300) | st.binary(max_size=100).map(lambda more: b"GET / HTTP/1.1\r\n" + more + b"\r\n\r\n")
STRANGERS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4), NOISE), min_size=20, max_size=60)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(strangers=STRANGERS)
@example(strangers=[(kind, 1, b"") for kind in KINDS] * 8)  # all from the friend's own address, as behind one proxy
@example(strangers=[("guesses", address % 200 + 2, b"") for address in range(60)])
async def test_a_friend_is_served_beside_any_mixture_of_strangers(
    strangers: list[tuple[str, int, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(60), tempfile.TemporaryDirectory() as directory:
        async with running_gateway(Path(directory)) as gateway, trio.open_nursery() as nursery:
            tcp_port = await gateway.open_tcp()
            logged_in, go_on = trio.Event(), trio.Event()
            async with trio.open_nursery() as crowd:
                crowd.start_soon(friend, gateway, "127.0.0.1", logged_in, go_on)
                await logged_in.wait()
                for kind, address, noise in strangers:
                    among = nursery if kind in IDLE else crowd
                    among.start_soon(stranger, gateway, f"127.0.0.{address}", kind, noise)
                await trio.sleep(0.1)
                go_on.set()
                async with await trio.open_tcp_stream("127.0.0.1", tcp_port) as tcp:
                    for number in range(20):
                        await tcp.send_all(b"%08d" % number)
                        assert await gateway.lines[0].hear(8) == b"%08d" % number
            # Whoever logs in for the first time from elsewhere finds his way in, whatever strangers have guessed.
            newcomer = await connect(gateway, "127.0.0.250")
            async with newcomer.stream:
                await newcomer.ask()
                assert await newcomer.ask("operator", PASSWORD) == VALUE
            nursery.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.exc_info or "a bug" in record.message]
