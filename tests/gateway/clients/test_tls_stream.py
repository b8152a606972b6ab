"""TLS over a client's socket: every byte once and in order, however little the socket takes, and what ends it."""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients import tls_stream
from gateway.clients.connections import Connections
from gateway.clients.relay import Outbox
from gateway.clients.streams import Direct
from gateway.clients.tls_stream import TlsSocketStream
from tests.certificates import Authority, client_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST = 1_200_000


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The server's side, which asks nobody for a certificate."""
    path: Path = tmp_path_factory.mktemp("tls") / "own.pem"
    path.write_bytes(Authority().sign("cabinet")[0])
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(path)
    made.num_tickets = 0
    return made


class Peer:
    """The client's side: it reads when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.transport = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.tls = trio.SSLStream(self.transport, client_context(), server_hostname="x")

    async def hear(self, count: int) -> bytes:
        heard = bytearray()
        while len(heard) < count:
            data = await self.tls.receive_some()
            assert data
            heard += data
        return bytes(heard)


@contextmanager
def pair(context: ssl.SSLContext) -> Iterator[tuple[TlsSocketStream, Peer]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = TlsSocketStream(near, context, Connections().open(near.fileno(), "127.0.0.1"))
    try:
        yield stream, Peer(far)
    finally:
        stream.close()
        far.close()


async def shaken(stream: TlsSocketStream, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake, trio.Lock())
        nursery.start_soon(peer.tls.do_handshake)


def some(count: int) -> bytes:
    """Bytes of which no two thousand are like the thousand before."""
    return b"".join(number.to_bytes(4, "big") for number in range(count // 4))


async def test_what_a_slow_client_does_not_take_is_told_and_comes_whole_and_once(context: ssl.SSLContext) -> None:
    with trio.fail_after(20), pair(context) as (stream, peer):
        await shaken(stream, peer)
        outbox = Outbox(stream, lambda: None, limit=MOST)
        said, told = some(MOST), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.drain)
            for begin in range(0, MOST, 60_000):
                outbox.deliver(said[begin : begin + 60_000])
            assert outbox.size > MOST // 3  # no more than the sockets hold is taken
            while told < MOST:
                piece = await peer.hear(1)
                assert piece == said[told : told + len(piece)]
                told += len(piece)
            await outbox.empty()
            nursery.cancel_scope.cancel()
        assert (outbox.sent, outbox.size) == (MOST, 0)


async def test_a_gap_stands_where_bytes_were_dropped_and_no_record_is_torn(context: ssl.SSLContext) -> None:
    with trio.fail_after(20), pair(context) as (stream, peer):
        await shaken(stream, peer)
        outbox = Outbox(stream, lambda: None, limit=MOST)
        said = some(MOST)
        for begin in range(0, MOST, 60_000):
            outbox.deliver(said[begin : begin + 60_000])
        dropped = outbox.drop_oldest()
        assert dropped
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.drain)
            heard = await peer.hear(MOST - dropped)
            nursery.cancel_scope.cancel()
        begin = next(at for at in range(0, len(heard), 4) if heard[at : at + 4] != said[at : at + 4])
        assert heard == said[:begin] + said[begin + dropped :]


async def test_bytes_that_came_with_the_handshake_are_read_though_no_more_come(context: ssl.SSLContext) -> None:
    with trio.fail_after(5), pair(context) as (stream, peer):
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context().wrap_bio(received, to_send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.do_handshake, trio.Lock())
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            await peer.transport.send_all(to_send.read())
            received.write(await peer.transport.receive_some())
            client.do_handshake()
            client.write(b"first words")
            await peer.transport.send_all(to_send.read())  # behind the end of the handshake
        assert await stream.receive() == b"first words"


async def test_one_step_does_no_more_than_a_few_records_however_many_there_are(context: ssl.SSLContext) -> None:
    with trio.fail_after(5), pair(context) as (stream, peer):
        await shaken(stream, peer)
        for _ in range(500):
            await peer.tls.send_all(b"x")
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < 500:
            pieces.append(await stream.receive())
        assert max(map(len, pieces)) <= 512 // 22  # of a record, 5 bytes are its head and 17 its tag and its kind


async def test_it_is_a_stream_whose_reader_may_step(context: ssl.SSLContext) -> None:
    with trio.fail_after(5), pair(context) as (stream, peer):
        assert isinstance(stream, Direct)
        await shaken(stream, peer)
        assert stream.receive_nowait() is None
        await peer.tls.send_all(b"hello")
        assert await stream.receive() == b"hello"
        stream.close()
        stream.close()
        assert await peer.tls.receive_some() == b""
        assert stream.send_nowait(b"to nobody") == 0


async def test_what_came_before_rubbish_is_read_and_then_it_is_over(context: ssl.SSLContext) -> None:
    with trio.fail_after(5), pair(context) as (stream, peer):
        await shaken(stream, peer)
        await peer.tls.send_all(b"good")
        await peer.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await stream.receive() == b"good"
        for _ in range(2):
            with pytest.raises(ConnectionError, match="TLS: DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
                await stream.receive()
        with pytest.raises(trio.BrokenResourceError) as told:
            await peer.tls.receive_some()
        assert "BAD_RECORD_MAC" in str(told.value.__cause__)


async def test_the_end_is_told_again_to_whoever_asks_again(context: ssl.SSLContext) -> None:
    with trio.fail_after(5), pair(context) as (stream, peer):
        await shaken(stream, peer)
        await peer.tls.send_all(b"last")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.tls.aclose)
            heard = b""
            while data := await stream.receive():
                heard += data
            assert heard == b"last"
            assert await stream.receive() == b""
            stream.close()


async def test_a_client_that_has_tls_answer_and_reads_nothing_is_gone(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_stream, "_UNSENT", -1)
    with trio.fail_after(5), pair(context) as (stream, peer):
        await shaken(stream, peer)
        await peer.tls.send_all(b"hello")
        with pytest.raises(ConnectionError, match="it does not read the answers that it causes in TLS"):
            await stream.receive()
