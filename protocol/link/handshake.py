"""The handshake of a remote-port link: prove that both sides have the key, and who they are; derive the traffic keys.

Each TCP connection begins with a complete new run. It has two layers.

    CPace proves the AuthenticationKey. Everything in a hello is its associated data, so that the tags do not fit if
    anything was altered on its way. So a wrong key, a replayed hello, a stripped list of versions and a man in the
    middle all look the same: WrongKeyError.

    A signature proves the node id. Each side signs what CPace made of both hellos (``session_output``), so that no
    signature of another run fits, and sends it sealed, so that only holders of the key learn who is there. This layer
    tells holders of the same key apart: IdentityError.
"""

from __future__ import annotations

import hmac
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen
from protocol.link import cpace
from protocol.link.chain_frames import CHAIN
from protocol.link.control_frames import CONTROLS
from protocol.link.header import CutError
from protocol.link.hello import Confirm, Hello, HelloReply, Identity
from protocol.link.identity import NodeKey, is_signed, node_id
from protocol.link.key_frames import KEYS
from protocol.link.secure import TrafficKeys, traffic_keys

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FEATURES",
    "VERSIONS",
    "Acceptor",
    "Agreement",
    "HandshakeError",
    "IdentityError",
    "Initiator",
    "OwnNodeError",
    "Peer",
    "VersionError",
    "WrongKeyError",
    "key_point",
]

VERSIONS: Final = (1,)
"""The wire versions that this code speaks."""

FEATURES: Final = CHAIN | KEYS | CONTROLS
"""The features that this code knows, a bit each; a feature is used only if both sides know it."""

_UP: Final = b"daisyport remote port node up"
_DOWN: Final = b"daisyport remote port node down"
"""The prefix that each side signs with the session output, so that neither side can reuse the other's signature."""

_CI: Final = b"daisyport remote port"  # names the protocol and not its version, which is negotiated


class HandshakeError(CutError):
    """The handshake broke off. Nothing in it was authenticated, so the session stays."""


@final
class WrongKeyError(HandshakeError):
    """The peer has another key, or the messages were altered or replayed."""


@final
class OwnNodeError(HandshakeError):
    """The peer gives our own node id."""


@final
class VersionError(HandshakeError):
    """No version in common, or an answer in one that was not offered."""


@final
class IdentityError(HandshakeError):
    """The peer has the key, but did not prove the node id that it claims."""


@final
@frozen
class Peer:
    """The other side, with the proved node id; ``chassis`` is empty for a client.

    ``name`` is a label that it gives itself, and must never decide anything. ``features`` are those that both know.
    """

    version: int
    node: bytes
    index: int
    chassis: str
    name: str = ""
    features: int = 0


@final
@frozen
class Agreement:
    """What both sides have once the key is proved; ``output`` is unique for each run."""

    version: int
    output: bytes
    keys: TrafficKeys = field(repr=False)


def key_point(key: str) -> bytes:
    """Map an AuthenticationKey to the point that its handshakes start from. Call it only when the key is set."""
    return cpace.generator(key.encode(), _CI)


def _agreement(version: int, isk: bytes, seen: bytes) -> Agreement:
    output = cpace.session_output(seen)
    return Agreement(version, output, traffic_keys(isk, output))


def _check_tag(given: bytes, right: bytes) -> None:
    if not hmac.compare_digest(given, right):
        raise WrongKeyError("the peer does not have the same AuthenticationKey, or what we said was altered")


def _check_node(node: bytes, own: bytes) -> None:
    if node == own:
        raise OwnNodeError("the peer has our own node id: a loop, or a cloned image")


def _identity(node: NodeKey, party: bytes, agreement: Agreement, features: int) -> Identity:
    return Identity(node.public, node.sign(party + agreement.output), features, node.name)


def _check_identity(identity: Identity, party: bytes, agreement: Agreement, node: bytes) -> None:
    if node_id(identity.public) != node:
        raise IdentityError(f"the peer claims to be node {node.hex()[:8]}, and has another node's key")
    if not is_signed(identity.public, identity.signature, party + agreement.output):
        raise IdentityError(f"the peer claims to be node {node.hex()[:8]}, and did not sign this handshake")


@final
class Initiator:
    """The client's run. ``scalar`` (32 bytes) and ``fresh`` (16 bytes) are random and for this run alone."""

    def __init__(
        self,
        point: bytes,
        node: NodeKey,
        index: int,
        scalar: bytes,
        fresh: bytes,
        versions: tuple[int, ...] = VERSIONS,
        features: int = FEATURES,
    ) -> None:
        self._scalar = scalar
        self._node = node
        self._features = features
        self._reply: HelloReply | None = None
        self.hello: Final = Hello(cpace.share(scalar, point), versions, node.id, index, fresh)

    def confirm(self, reply: HelloReply) -> tuple[Confirm, Agreement]:
        """Judge the server's reply. Raises HandshakeError or PointError."""
        hello = self.hello
        _check_node(reply.node, hello.node)
        if reply.version not in hello.versions:
            raise VersionError(f"the peer chose version {reply.version} of {hello.versions}")
        seen = cpace.transcript(hello.share, hello.ad, reply.share, reply.ad)
        isk = cpace.intermediate_key(self._scalar, reply.share, seen)
        _check_tag(reply.tag, cpace.confirmation(isk, reply.share, reply.ad))
        self._reply = reply
        return Confirm(cpace.confirmation(isk, hello.share, hello.ad)), _agreement(reply.version, isk, seen)

    def identify(self, identity: Identity, agreement: Agreement) -> tuple[Identity, Peer]:
        """After ``confirm``, verify the server's identity; return our own identity for it. Raises IdentityError."""
        reply = self._reply
        assert reply is not None
        _check_identity(identity, _DOWN, agreement, reply.node)
        features = identity.features & self._features
        peer = Peer(reply.version, reply.node, reply.index, reply.chassis, identity.name, features)
        return _identity(self._node, _UP, agreement, self._features), peer


@final
class Acceptor:
    """The server's run. ``scalar`` (32 bytes) is random and for this run alone.

    ``point`` may be a function: a server with two keys chooses by the client's hello which one to test.
    """

    def __init__(
        self,
        point: bytes | Callable[[Hello], bytes],
        node: NodeKey,
        index: int,
        chassis: str,
        scalar: bytes,
        versions: tuple[int, ...] = VERSIONS,
        features: int = FEATURES,
    ) -> None:
        self._point = point
        self._node = node
        self._index = index
        self._chassis = chassis
        self._scalar = scalar
        self._versions = versions
        self._features = features
        self._hello: Hello | None = None
        self._awaited = b""

    def reply(self, hello: Hello) -> tuple[HelloReply, Identity, Agreement]:
        """Answer a client's hello, which gives it one guess at the key. Raises HandshakeError or PointError.

        The identity goes sealed right after the reply, so that a client with a wrong key cannot read it.
        """
        _check_node(hello.node, self._node.id)
        version = max(set(hello.versions) & set(self._versions), default=None)
        if version is None:
            raise VersionError(f"the peer offers versions {hello.versions}, we speak {self._versions}")
        share = cpace.share(self._scalar, self._point if isinstance(self._point, bytes) else self._point(hello))
        own = HelloReply(share, version, self._node.id, self._index, self._chassis, b"")
        seen = cpace.transcript(hello.share, hello.ad, own.share, own.ad)
        isk = cpace.intermediate_key(self._scalar, hello.share, seen)
        agreement = _agreement(version, isk, seen)
        self._hello = hello
        self._awaited = cpace.confirmation(isk, hello.share, hello.ad)
        identity = _identity(self._node, _DOWN, agreement, self._features)
        return replace(own, tag=cpace.confirmation(isk, own.share, own.ad)), identity, agreement

    def finish(self, confirm: Confirm) -> None:
        """After ``reply``, verify the client's proof of the key. Raises WrongKeyError."""
        assert self._hello is not None
        _check_tag(confirm.tag, self._awaited)

    def identify(self, identity: Identity, agreement: Agreement) -> Peer:
        """After ``finish``, verify the client's identity. Raises IdentityError."""
        hello = self._hello
        assert hello is not None
        _check_identity(identity, _UP, agreement, hello.node)
        return Peer(agreement.version, hello.node, hello.index, "", identity.name, identity.features & self._features)
