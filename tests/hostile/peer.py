"""A second implementation of docs/remote-port-protocol.md, for tests: it speaks both sides, and lies when told to.

It is written from the page alone and imports nothing of ``protocol``, so that a mistake of the product is not its own
as well. It checks the peer's tags, and nothing else: what a frame says is the test's affair.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import socket
import struct
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

HELLO, HELLO_REPLY, CONFIRM, CLOSE, OPEN, OPENED, DATA, ACK, CREDIT, GAP, LOST, PORT, TURN, PING, PONG, IDENTITY = (
    range(1, 17)
)
LINE, PTZ, TCP, CGI = range(4)
STOPPING, STALE, PROTOCOL, NOT_PROVED = 1, 6, 12, 15
SURVEY, PICTURE = 80, 81
CHAIN = 1
"""The feature of those who know both."""
FEATURES = 0b0111
"""Those of today: the chain, its keys, and controls of the line."""
NO_SESSION = bytes(16)

_HEADER = struct.Struct("!BBBBIQ")
_Q = 2**255 - 19


@dataclass(frozen=True)
class Frame:
    """A frame as it came; ``payload`` is in clear."""

    kind: int
    channel: int
    flags: int
    offset: int
    payload: bytes


class Ended(Exception):
    """The peer ended the connection."""


# --- CPace (section 2) --------------------------------------------------------------------------------------------


def lv_cat(*parts: bytes) -> bytes:
    joined = b""
    for part in parts:
        length, head = len(part), b""
        while length > 127:
            head += bytes([length & 127 | 128])
            length >>= 7
        joined += head + bytes([length]) + part
    return joined


@functools.cache
def generator(key: str) -> bytes:
    """The point that the key stands for: Elligator 2 of its hash."""
    prs, name, info = key.encode(), b"CPace255", b"daisyport remote port"
    pad = bytes(max(0, 128 - 1 - len(lv_cat(prs)) - len(lv_cat(name))))
    digest = hashlib.sha512(lv_cat(name, prs, pad, info, b"")).digest()
    r = int.from_bytes(digest[:32], "little") & (2**255 - 1)
    a = 486662
    v = -a * pow(1 + 2 * r * r, -1, _Q) % _Q
    is_square = pow(v**3 + a * v * v + v, (_Q - 1) // 2, _Q) == 1
    return (v if is_square else (-v - a) % _Q).to_bytes(32, "little")


def multiplied(scalar: bytes, point: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


@dataclass(frozen=True)
class Run:
    """What both sides of a handshake compute: the tags, and the key of each direction."""

    isk: bytes
    output: bytes
    tag_a: bytes
    tag_b: bytes
    up: bytes
    down: bytes

    @classmethod
    def of(cls, secret: bytes, a: tuple[bytes, bytes], b: tuple[bytes, bytes]) -> Run:
        transcript = lv_cat(*a) + lv_cat(*b)
        isk = hashlib.sha512(lv_cat(b"CPace255_ISK", b"", secret) + transcript).digest()
        mac_key = hashlib.sha512(b"CPaceMac" + isk).digest()
        output = hashlib.sha512(b"CPaceSidOutput" + transcript).digest()

        def traffic(way: bytes) -> bytes:
            return HKDF(SHA512(), 32, output, b"daisyport remote port traffic " + way).derive(isk)

        def tag(side: tuple[bytes, bytes]) -> bytes:
            return hmac.digest(mac_key, lv_cat(*side), "sha512")

        return cls(isk, output, tag(a), tag(b), traffic(b"up"), traffic(b"down"))


# --- Who a node is (section 2) -------------------------------------------------------------------------------------


class Node:
    """A node's key pair from its secret 32 bytes; it may claim to be another."""

    def __init__(self, seed: bytes, claims: bytes | None = None, name: str = "", features: int = 0) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()
        self.id = claims or hashlib.sha256(self.public).digest()[:16]
        self.name = name
        self.features = features

    def identity(self, way: bytes, run: Run) -> bytes:
        """The payload of IDENTITY, for the side that speaks ``way``."""
        signature = self._private.sign(b"daisyport remote port node " + way + run.output)
        name = self.name.encode()
        return self.public + signature + struct.pack("!IB", self.features, len(name)) + name


def check_identity(payload: bytes, node: bytes, way: bytes, run: Run) -> None:
    """Raise AssertionError, or what cryptography raises, where ``node`` did not sign this run."""
    public, signature = payload[:32], payload[32:96]
    assert hashlib.sha256(public).digest()[:16] == node
    signed = b"daisyport remote port node " + way + run.output
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    assert payload[96:100] == struct.pack("!I", FEATURES)
    assert len(payload) == 101 + payload[100] <= 101 + 64


SERVER = Node(b"B" * 32)


def hello_data(node: bytes, index: int, fresh: bytes) -> bytes:
    return bytes([1, 1]) + node + bytes([index]) + fresh


def reply_data(node: bytes, index: int, chassis: str) -> bytes:
    name = chassis.encode()
    return bytes([1]) + node + bytes([index, len(name)]) + name


# --- Payloads (section 5) -----------------------------------------------------------------------------------------


def positions(*numbers: int) -> bytes:
    """Reached and settled of each channel, in order; what is left out is zero."""
    return struct.pack("!8Q", *numbers, *[0] * (8 - len(numbers)))


def opening(session: bytes = NO_SESSION, number: int = 1, clock: int = 0, places: bytes = positions()) -> bytes:
    return session + struct.pack("!QI", number, clock) + places


def opened(session: bytes, echo: int, clock: int, places: bytes, port: bytes) -> bytes:
    return session + struct.pack("!II", echo, clock) + places + port


def port_state(path: Iterable[bytes], why: str = "", rights: int = 0x0E, rate: int = 9600, settings: str = "") -> bytes:
    texts = b"".join(bytes([len(text.encode())]) + text.encode() for text in (why, settings))
    return struct.pack("!BBI", rights, not why, rate) + texts + b"".join(path)


def message(data: bytes, accepted: int = 0, options: bytes = b"") -> bytes:
    """The payload of DATA up."""
    return struct.pack("!IB", accepted, len(options)) + options + data


def turn(length: int, milliseconds: int, delimiter: bytes = b"") -> bytes:
    """The options of DATA up that ask for a turn."""
    return struct.pack("!HI", length, milliseconds) + delimiter


def lost_range(count: int, reason: int) -> bytes:
    """The payload of GAP and LOST."""
    return struct.pack("!QB", count, reason)


# --- A connection ---------------------------------------------------------------------------------------------------


class Peer:
    """One end of a connection whose keys are proved."""

    def __init__(self, stream: trio.SocketStream, received: bytes = b"") -> None:
        self.stream = stream
        self.node = b""
        """The other's node id, as it says."""
        self.run: Run | None = None
        self._received = bytearray(received)
        self._sending: ChaCha20Poly1305 | None = None
        self._receiving: ChaCha20Poly1305 | None = None
        self._sent = self._got = 0

    def sealed(self, kind: int, channel: int = 0, offset: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
        """The bytes of the next frame; they have to be sent in this order."""
        if self._sending is None:
            return _HEADER.pack(1, kind, channel, flags, len(payload), offset) + payload
        header = _HEADER.pack(1, kind, channel, flags, len(payload) + 16, offset)
        body = self._sending.encrypt(self._sent.to_bytes(12, "big"), payload, header)
        self._sent += 1
        return header + body

    async def send(self, kind: int, channel: int = 0, offset: int = 0, payload: bytes = b"", flags: int = 0) -> None:
        await self.send_all(self.sealed(kind, channel, offset, payload, flags))

    async def send_all(self, sealed: bytes) -> None:
        """Send frames that are sealed already. Raises Ended."""
        try:
            await self.stream.send_all(sealed)
        except trio.BrokenResourceError as exc:
            raise Ended from exc

    async def receive(self) -> Frame:
        """The next frame. Raises Ended."""
        header = await self._exactly(_HEADER.size)
        _, kind, channel, flags, length, offset = _HEADER.unpack(header)
        payload = await self._exactly(length)
        if self._receiving is not None:
            payload = self._receiving.decrypt(self._got.to_bytes(12, "big"), payload, header)
            self._got += 1
        return Frame(kind, channel, flags, offset, payload)

    async def until(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds; answers every PING on the way, and leaves out all else."""
        while (frame := await self.receive()).kind not in kinds:
            if frame.kind == PING:
                await self.pong(frame)
        return frame

    async def pong(self, asked: Frame) -> None:
        """Answer a PING, or with an OPENED be the first PONG of A."""
        clock = asked.payload[20:24] if asked.kind == OPENED else asked.payload[:4]
        await self.send(PONG, payload=clock + now())

    async def stay(self) -> None:
        """Answer every PING until the other ends the connection."""
        try:
            while True:
                await self.until()
        except Ended:
            pass

    async def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError as exc:
                raise Ended from exc
            if not data:
                raise Ended
            self._received += data
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def prove_as_client(self, key: str, node: Node, index: int = 0) -> None:
        """Be A in a handshake. Raises Ended, or AssertionError where B does not have the key."""
        scalar, data = os.urandom(32), hello_data(node.id, index, os.urandom(16))
        share = multiplied(scalar, generator(key))
        await self.send(HELLO, payload=share + data)
        reply = await self.receive()
        if reply.kind != HELLO_REPLY:
            raise Ended(f"frame {reply.kind} in place of HELLO_REPLY: {reply.payload.hex()}")
        other, said, tag = reply.payload[:32], reply.payload[32:-64], reply.payload[-64:]
        run = Run.of(multiplied(scalar, other), (share, data), (other, said))
        assert hmac.compare_digest(tag, run.tag_b)
        self.node, self.run = said[1:17], run
        self._receiving = ChaCha20Poly1305(run.down)
        identity = await self.receive()
        assert identity.kind == IDENTITY
        check_identity(identity.payload, self.node, b"down", run)
        await self.send(CONFIRM, payload=run.tag_a)
        self._sending = ChaCha20Poly1305(run.up)
        await self.send(IDENTITY, payload=node.identity(b"up", run))

    async def prove_as_server(self, key: str, node: Node, index: int = 0, chassis: str = "") -> None:
        """Be B in a handshake. Raises Ended, or AssertionError where A does not have the key."""
        hello = await self.receive()
        assert hello.kind == HELLO
        other, said = hello.payload[:32], hello.payload[32:]
        scalar, data = os.urandom(32), reply_data(node.id, index, chassis)
        share = multiplied(scalar, generator(key))
        run = Run.of(multiplied(scalar, other), (other, said), (share, data))
        self.node, self.run = said[1 + said[0] :][:16], run
        await self.send(HELLO_REPLY, payload=share + data + run.tag_b)
        self._sending = ChaCha20Poly1305(run.down)
        await self.send(IDENTITY, payload=node.identity(b"down", run))
        confirm = await self.receive()
        if confirm.kind != CONFIRM:
            raise Ended(f"frame {confirm.kind} in place of CONFIRM: {confirm.payload.hex()}")
        assert hmac.compare_digest(confirm.payload, run.tag_a)
        self._receiving = ChaCha20Poly1305(run.up)
        identity = await self.receive()
        assert identity.kind == IDENTITY
        check_identity(identity.payload, self.node, b"up", run)

    async def open(self, session: bytes = NO_SESSION, number: int = 1, places: bytes = positions()) -> Frame:
        """As A, open a session; returns OPENED, or CLOSE where B refuses."""
        await self.send(OPEN, payload=opening(session, number, int.from_bytes(now()), places))
        answer = await self.receive()
        if answer.kind == OPENED:
            await self.pong(answer)
        return answer

    async def admit(self, session: bytes = b"S" * 16, port: bytes | None = None, node: bytes = SERVER.id) -> Frame:
        """As B, answer OPEN with a new session at A's own positions; returns OPEN."""
        asked = await self.until(OPEN)
        reached = struct.unpack("!8Q", asked.payload[28:])[::2]
        places = positions(*(number for each in reached for number in (each, each)))
        state = port_state([node]) if port is None else port
        clock = int.from_bytes(now())
        await self.send(OPENED, payload=opened(session, int.from_bytes(asked.payload[24:28]), clock, places, state))
        return asked


def now() -> bytes:
    """Our clock."""
    return struct.pack("!I", int(trio.current_time() * 1000) & 0xFFFFFFFF)


@asynccontextmanager
async def dialled(port: int, key: str, node: Node, index: int = 0, source: str = "127.0.0.1") -> AsyncIterator[Peer]:
    """A client whose key is proved, from the address ``source``."""
    async with await connection(port, source) as stream:
        peer = Peer(stream)
        await peer.prove_as_client(key, node, index)
        yield peer


async def connection(port: int, source: str = "127.0.0.1", read_buffer: int = 0) -> trio.SocketStream:
    """A TCP connection from the loopback address ``source``; ``read_buffer`` bytes of what comes wait in the kernel."""
    sock = trio.socket.socket()
    if read_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
    with ExitStack() as undo:
        undo.callback(sock.close)
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port))
        undo.pop_all()
    return trio.SocketStream(sock)
