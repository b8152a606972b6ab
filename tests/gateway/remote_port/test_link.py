"""One connection of a link: what it says when a handshake fails, and when it gives a peer up."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.remote_port import link as link_module
from gateway.remote_port.link import Link, LinkCutError, reason_text
from gateway.tasks.root_cause import root_cause
from protocol.link.connection import Connection
from protocol.link.handshake import (
    Acceptor,
    HandshakeError,
    Initiator,
    OwnNodeError,
    VersionError,
    WrongKeyError,
    key_point,
)
from protocol.link.header import CutError
from protocol.link.identity import NodeKey
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close, Ping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol.link.frames import Frame

POINT = key_point("the key")
A, B = NodeKey(b"a" * 32), NodeKey(b"b" * 32)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def pair(
    sockets: tuple[socket.socket, socket.socket],
    *,
    key: str = "the key",
    node: NodeKey = B,
    versions: tuple[int, ...] = (1,),
) -> tuple[Link, Link]:
    """A client and a server; the server as told."""
    near, far = sockets
    call = Initiator(POINT, A, 0, os.urandom(32), os.urandom(16))
    answer = Acceptor(key_point(key), node, 0, "chassis", os.urandom(32), versions)
    return Link(near, Connection(call)), Link(far, Connection(answer))


async def greet(link: Link, errors: dict[Link, BaseException]) -> None:
    try:
        await link.handshake(lambda _: None)
    except (LinkCutError, HandshakeError) as exc:
        errors[link] = exc


@pytest.mark.parametrize(
    ("server", "error", "reason", "teller"),
    [
        ({"key": "another"}, WrongKeyError, CloseReason.WRONG_KEY, "client"),
        ({"node": A}, OwnNodeError, CloseReason.OWN_NODE, "server"),
        ({"versions": (9,)}, VersionError, CloseReason.VERSION, "server"),
    ],
)
async def test_who_finds_out_why_a_handshake_fails_tells_the_other(
    sockets: tuple[socket.socket, socket.socket],
    server: dict[str, object],
    error: type[Exception],
    reason: CloseReason,
    teller: str,
) -> None:
    links = pair(sockets, **server)  # type: ignore[arg-type]  # a case's own words
    errors: dict[Link, BaseException] = {}
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(greet, link, errors)
    finder, told = links if teller == "client" else reversed(links)
    assert type(errors[finder]) is error
    refusal = errors[told]
    assert isinstance(refusal, LinkCutError)
    assert refusal.reason is reason
    assert reason_text(reason) in str(refusal)


async def test_what_is_no_handshake_is_left_without_a_word(sockets: tuple[socket.socket, socket.socket]) -> None:
    near, far = sockets
    link = Link(far, Connection(Acceptor(POINT, B, 0, "", os.urandom(32))))
    near.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with trio.fail_after(5), pytest.raises(CutError):
        await link.handshake(lambda _: None)
    link.close()
    near.setblocking(True)
    with pytest.raises(ConnectionResetError):
        raise ConnectionResetError if not near.recv(100) else AssertionError


async def joined(sockets: tuple[socket.socket, socket.socket]) -> tuple[Link, Link]:
    """A client and a server that have proved the key to each other."""
    links = pair(sockets)
    errors: dict[Link, BaseException] = {}
    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(greet, link, errors)
    assert not errors
    return links


def nothing() -> Frame | None:
    return None


def silent() -> None:
    """Ask for no PING."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_QUIET": 0.2, "_SILENT": 0.2, "_LOOK": 0.02, "_WHOLE": 0.1, "_PROVE": 0.3}.items():
        monkeypatch.setattr(link_module, name, seconds)


@pytest.mark.usefixtures("impatient")
async def test_a_peer_is_asked_and_then_given_up(sockets: tuple[socket.socket, socket.socket]) -> None:
    asked: list[float] = []
    with trio.fail_after(5):
        client, _ = await joined(sockets)
        began = trio.current_time()
        with pytest.raises(ExceptionGroup) as cut:
            await client.carry(nothing, print, lambda: asked.append(trio.current_time() - began))
    assert "silent" in str(root_cause(cut.value))
    assert 0.15 < asked[0] < 3


@pytest.mark.usefixtures("impatient")
async def test_an_incomplete_frame_has_its_time_however_it_trickles(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    with trio.fail_after(5):
        client, _ = await joined(sockets)
        far = sockets[1]
        head = iter(bytes([1, 14, 0, 0, 0, 0, 0, 200]) + bytes(100))

        async def trickle() -> None:
            for byte in head:
                far.send(bytes([byte]))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            with pytest.raises(ExceptionGroup) as cut:
                await client.carry(nothing, print, silent)
            nursery.cancel_scope.cancel()
    assert "a frame was not whole" in str(root_cause(cut.value))


async def test_a_peer_that_resets_the_connection_cuts_it(sockets: tuple[socket.socket, socket.socket]) -> None:
    with trio.fail_after(5):
        client, server = await joined(sockets)
        sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        server.close()
        with pytest.raises(ExceptionGroup) as cut:
            await client.carry(nothing, print, silent)
    assert "reset" in str(root_cause(cut.value))


async def test_after_the_end_nothing_is_sealed_any_more(sockets: tuple[socket.socket, socket.socket]) -> None:
    with trio.fail_after(5):
        client, server = await joined(sockets)
        server.refuse(Close(CloseReason.BUSY))
        heard: list[Frame] = []
        asked: list[int] = []
        await client.carry(lambda: asked.append(1), heard.append, silent)
        count = len(asked)
        client.flush()
        assert len(asked) == count
        client.refuse(Close(CloseReason.BUSY))  # there is nothing to be said any more, and that is no error
    assert heard == [Close(CloseReason.BUSY)]


async def test_what_a_full_socket_does_not_take_follows_whole_and_in_order(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    from protocol.link.port_state import PortState
    from protocol.link.session_frames import NOWHERE, Open, Opened, Pong
    from protocol.link.stream_frames import Channel, UpData

    total = 3_000_000
    sent = 0
    with trio.fail_after(10):
        client, server = await joined(sockets)
        first: list[Frame] = [Open(bytes(16), 1, 0, NOWHERE)]
        ready = False

        def say() -> Frame | None:
            nonlocal sent
            if first:
                return first.pop()
            if not ready or sent >= total:
                return None
            sent += 4000
            return UpData(Channel.TCP, sent - 4000, 0, bytes(4000))

        def client_takes(_: Frame) -> None:
            nonlocal ready
            ready = True
            first.append(Pong(0, 0))

        state = PortState(14, True, 9600, "", "", (b"b" * 16,))
        answers: list[Frame] = []
        heard: list[int] = []

        def server_takes(frame: Frame) -> None:
            if isinstance(frame, Open):
                answers.append(Opened(b"s" * 16, 0, 0, NOWHERE, state))
            elif isinstance(frame, UpData):
                heard.append(frame.offset)
                if frame.end >= total:
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.carry, say, client_takes, silent)
            await trio.testing.wait_all_tasks_blocked()  # the server reads nothing yet
            nursery.start_soon(server.carry, lambda: answers.pop() if answers else None, server_takes, silent)
    assert heard == list(range(0, total, 4000))


async def test_a_closed_socket_has_no_room(sockets: tuple[socket.socket, socket.socket]) -> None:
    with trio.fail_after(5):
        client, _ = await joined(sockets)
        client._pushed = 1 << 20
        client.close()
        assert not client._room()


class _Flood:
    """In the place of a connection: one read that brings so many frames, and takes what is sent."""

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.incomplete = False

    def next_event(self) -> Frame | None:
        if not self.left:
            return None
        self.left -= 1
        return Ping(0)

    def receive_data(self, _: bytes) -> None:
        """Bring nothing more."""


async def test_a_read_that_brings_thousands_of_frames_lets_others_run_between(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    flood, turns, longest, handled = _Flood(1800), 0, 0, 0
    link = Link(sockets[0], cast("Connection", flood))

    def take(_: Frame) -> None:
        nonlocal handled, longest
        handled += 1
        longest = max(longest, handled)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.carry, nothing, take, silent)
            while flood.left:
                handled = 0
                turns += 1
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert longest <= 64, "trio runs the tasks of a pass in any order, so two slices may follow each other"
    assert turns > 1800 / 64


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_sends_and_never_answers_is_given_up(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_ANSWER", 0.5)
    link = Link(sockets[0], cast("Connection", _Flood(0)))

    async def babble() -> None:
        while True:
            sockets[1].send(b"x")
            await trio.sleep(0.05)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(babble)
            with pytest.raises(ExceptionGroup) as cut:
                await link.carry(nothing, print, silent)
            nursery.cancel_scope.cancel()
    assert "has not answered" in str(root_cause(cut.value))


async def test_a_source_that_fails_in_a_flush_from_elsewhere_ends_the_link_and_not_the_caller(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = await joined(sockets)
    works = True

    def say() -> Frame | None:
        if not works:
            raise OverflowError("a number that nobody expected")
        return None

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def carry() -> None:
                with pytest.raises(OverflowError):
                    await client.carry(say, print, silent)

            await trio.testing.wait_all_tasks_blocked()
            works = False
            client.flush()
            client.flush()
