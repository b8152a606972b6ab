"""The handshake of a remote-port link: it shows who is there and that both have the key, and derives the traffic keys.

There is one run for each TCP connection, whole and anew. Everything in a hello is CPace's associated data: altered on
its way, the tags do not fit. So a wrong key, a replayed hello, a stripped list of versions and a man in the middle all
look alike: WrongKeyError.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import Final, final

from protocol.link import cpace
from protocol.link.header import CutError
from protocol.link.hello import Confirm, Hello, HelloReply
from protocol.link.secure import TrafficKeys, traffic_keys

__all__ = [
    "VERSIONS",
    "Acceptor",
    "Agreement",
    "HandshakeError",
    "Initiator",
    "OwnNodeError",
    "Peer",
    "VersionError",
    "WrongKeyError",
    "key_point",
]

VERSIONS: Final = (1,)
"""The wire versions that this code speaks."""

_CI: Final = b"daisyport remote port"  # names the protocol and not its version, which is negotiated


class HandshakeError(CutError):
    """The handshake broke off. Nothing in it was authenticated, so the session stays."""


@final
class WrongKeyError(HandshakeError):
    """The peer has another key, or somebody altered or replayed what the two said."""


@final
class OwnNodeError(HandshakeError):
    """The peer gives our own node id."""


@final
class VersionError(HandshakeError):
    """No version in common, or an answer in one that was not offered."""


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """The other side, as it proved to be; ``chassis`` is empty for a client."""

    version: int
    node: bytes
    index: int
    chassis: str


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a good run, the same on both sides."""

    peer: Peer
    keys: TrafficKeys = field(repr=False)


def key_point(key: str) -> bytes:
    """Map an AuthenticationKey to the point that its handshakes start from: once, when the key is set."""
    return cpace.generator(key.encode(), _CI)


def _agreement(peer: Peer, isk: bytes, seen: bytes) -> Agreement:
    return Agreement(peer, traffic_keys(isk, cpace.session_output(seen)))


def _check_tag(given: bytes, right: bytes) -> None:
    if not hmac.compare_digest(given, right):
        raise WrongKeyError("the peer does not have the same AuthenticationKey, or what we said was altered")


def _check_node(node: bytes, own: bytes) -> None:
    if node == own:
        raise OwnNodeError("the peer has our own node id: a loop, or a cloned image")


@final
class Initiator:
    """The client's run. ``scalar`` (32 bytes) and ``fresh`` (16 bytes) are random and for this run alone."""

    def __init__(
        self,
        point: bytes,
        node: bytes,
        index: int,
        scalar: bytes,
        fresh: bytes,
        versions: tuple[int, ...] = VERSIONS,
    ) -> None:
        self._scalar = scalar
        self.hello: Final = Hello(cpace.share(scalar, point), versions, node, index, fresh)

    def confirm(self, reply: HelloReply) -> tuple[Confirm, Agreement]:
        """Judge the server's reply. Raises HandshakeError or PointError."""
        hello = self.hello
        _check_node(reply.node, hello.node)
        if reply.version not in hello.versions:
            raise VersionError(f"the peer chose version {reply.version} of {hello.versions}")
        seen = cpace.transcript(hello.share, hello.ad, reply.share, reply.ad)
        isk = cpace.intermediate_key(self._scalar, reply.share, seen)
        _check_tag(reply.tag, cpace.confirmation(isk, reply.share, reply.ad))
        peer = Peer(reply.version, reply.node, reply.index, reply.chassis)
        return Confirm(cpace.confirmation(isk, hello.share, hello.ad)), _agreement(peer, isk, seen)


@final
class Acceptor:
    """The server's run. ``scalar`` (32 bytes) is random and for this run alone."""

    def __init__(
        self,
        point: bytes,
        node: bytes,
        index: int,
        chassis: str,
        scalar: bytes,
        versions: tuple[int, ...] = VERSIONS,
    ) -> None:
        self._point = point
        self._node = node
        self._index = index
        self._chassis = chassis
        self._scalar = scalar
        self._versions = versions
        self._awaited: tuple[bytes, Agreement] | None = None

    def reply(self, hello: Hello) -> HelloReply:
        """Answer a client, which costs it one guess at the key. Raises HandshakeError or PointError."""
        _check_node(hello.node, self._node)
        version = max(set(hello.versions) & set(self._versions), default=None)
        if version is None:
            raise VersionError(f"the peer offers versions {hello.versions}, we speak {self._versions}")
        own = HelloReply(cpace.share(self._scalar, self._point), version, self._node, self._index, self._chassis, b"")
        seen = cpace.transcript(hello.share, hello.ad, own.share, own.ad)
        isk = cpace.intermediate_key(self._scalar, hello.share, seen)
        peer = Peer(version, hello.node, hello.index, "")
        self._awaited = cpace.confirmation(isk, hello.share, hello.ad), _agreement(peer, isk, seen)
        return replace(own, tag=cpace.confirmation(isk, own.share, own.ad))

    def finish(self, confirm: Confirm) -> Agreement:
        """Judge the client's proof, after ``reply``. Raises WrongKeyError."""
        assert self._awaited is not None
        tag, agreement = self._awaited
        _check_tag(confirm.tag, tag)
        return agreement
