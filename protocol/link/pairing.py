"""Pairing: two CPUs without a common secret agree on keys, and people compare six digits. Sans-IO.

A is the CPU that gives its key, B the one that joins it. An attacker may stand between them, and neither knows the
other yet. So only the digits protect them, and this is how.

    B  HELLO   its share of an X25519 agreement, and its name
    A  OFFER   its share and name, and a commitment: the hash of all this with a nonce that it keeps to itself
    B  NONCE   its own nonce, in clear
    A  REVEAL  the nonce; B refuses one that the commitment does not fit
    both show six digits of the hash of all four, and people on both sides say whether they are equal
    both AGREE (or REFUSE), sealed; only after that is anything given, sealed too

Rules
    An attacker in the middle must run this twice, once with each side, with shares of its own, so the hashes differ. To
    get the same digits it would have to choose a nonce after learning the other side's. But towards B its nonce is
    committed before B sends its own, and towards A it has sent its nonce before A reveals. So its chance is one in a
    million, and people see a failure: the run is over, and no other begins by itself.

    Shares are fresh for each run, so that nothing that leaks later opens a recording. The peer's messages are short
    before it has agreed, and its name is shown only beside the digits, because it proves nothing by itself.

    Any error ends the run for good, and nothing is given then.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from typing import Final, NamedTuple, TypeAlias, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link import cpace
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import decode_text, encode_text
from protocol.link.secure import TAG, Opener, Sealer, TagError, traffic_keys

__all__ = ["MOST_GIVEN", "Agreed", "Compare", "Event", "Given", "Pairing", "PairingError", "Refused", "Side"]

MOST_GIVEN: Final = 65_000
"""The most bytes of one gift."""

_VERSION: Final = 1
_BASE: Final = (9).to_bytes(32, "little")
_SHARE: Final = 32
_NONCE: Final = 32
_COMMITMENT: Final = 32
_HEAD: Final = struct.Struct("!HB")
_MOST_IN_CLEAR: Final = 1 + _SHARE + _COMMITMENT + 1 + MAX_NAME
_DIGITS: Final = 6


@final
class PairingError(RemoteProtocolError):
    """The run is over: the other side broke the protocol, or its commitment."""


@final
class Side(enum.Enum):
    """The two sides."""

    GIVES = "A"
    JOINS = "B"


@final
class _Type(enum.IntEnum):
    """The messages, by their number."""

    HELLO = 1
    OFFER = 2
    NONCE = 3
    REVEAL = 4
    AGREE = 5
    REFUSE = 6
    GIVEN = 7


@final
class _State(enum.Enum):
    """What is awaited."""

    HELLO = _Type.HELLO
    OFFER = _Type.OFFER
    NONCE = _Type.NONCE
    REVEAL = _Type.REVEAL
    WORD = "the other side's word whether the digits are equal"
    GIFTS = "what the other side gives"
    ENDED = "nothing: the run is over"


@final
class Compare(NamedTuple):
    """The digits to be compared with those of the other side, which calls itself ``name``."""

    digits: str
    name: str


@final
class Agreed(NamedTuple):
    """Both sides said that the digits are equal."""


@final
class Refused(NamedTuple):
    """The other side said that they are not."""


@final
class Given(NamedTuple):
    """What the other side gave, in secret."""

    data: bytes


Event: TypeAlias = Compare | Agreed | Refused | Given


@final
class Pairing:
    """One run, of one connection. ``scalar`` and ``nonce`` are 32 random bytes each, for this run alone."""

    def __init__(self, side: Side, name: str, scalar: bytes, nonce: bytes) -> None:
        self._side = side
        self._scalar = scalar
        self._nonce = nonce
        self._share = cpace.share(scalar, _BASE)
        self._name = encode_text(name, MAX_NAME)
        self._buffer = bytearray()
        self._outgoing = b""
        self._state = _State.HELLO if side is Side.GIVES else _State.OFFER
        self._said: list[bytes] = []
        """The messages of both sides in their order, as the digits depend on them."""
        self._commitment = b""
        self._peer_share = b""
        self._peer_name = ""
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._own_word = self._peer_word = False
        if side is Side.JOINS:
            self._say(_Type.HELLO, bytes([_VERSION]) + self._share + self._name)

    def receive_data(self, data: bytes) -> None:
        """Take what the socket brought."""
        self._buffer += data

    def data_to_send(self) -> bytes:
        """Return the bytes to send, once."""
        data, self._outgoing = self._outgoing, b""
        return data

    def agree(self) -> Agreed | None:
        """Say that the digits are equal, after a person here did; return Agreed if the other side has said so too."""
        if self._state is not _State.WORD or self._own_word:
            raise LocalProtocolError("there are no digits to agree to")
        self._own_word = True
        self._say_sealed(_Type.AGREE)
        return self._both()

    def refuse(self) -> None:
        """Say that they are not equal, which ends the run. Before there are digits it ends without a message."""
        if self._state is _State.WORD:
            self._say_sealed(_Type.REFUSE)
        self._state = _State.ENDED

    def give(self, data: bytes) -> None:
        """Give the other side something in secret, at most MOST_GIVEN bytes."""
        if self._state is not _State.GIFTS:
            raise LocalProtocolError("nothing is given before both sides have agreed")
        if len(data) > MOST_GIVEN:
            raise LocalProtocolError(f"{len(data)} bytes at a time: at most {MOST_GIVEN} are given")
        self._say_sealed(_Type.GIVEN, data)

    def next_event(self) -> Event | None:
        """Return the next event, or None until more has come. Raises PairingError, after which the run is over."""
        try:
            while self._state is not _State.ENDED and (message := self._cut()) is not None:
                if (event := self._take(*message)) is not None:
                    return event
        except (PairingError, TagError, cpace.PointError, ValueError, IndexError) as error:
            self._state = _State.ENDED
            raise error if isinstance(error, PairingError) else PairingError(f"this cannot be read: {error}") from error
        return None

    def _cut(self) -> tuple[_Type, bytes] | None:
        """Return the next whole message, opened if it is sealed. Messages in clear have a low limit."""
        if len(self._buffer) < _HEAD.size:
            return None
        head = bytes(self._buffer[: _HEAD.size])
        length, number = _HEAD.unpack(head)
        opener = self._opener
        if opener is None and length > _MOST_IN_CLEAR:
            raise PairingError(f"a message of {length} bytes, which is no pairing")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        if opener is not None:
            body = opener.open(head, body)
        else:
            self._said.append(head + body)
        return _Type(number), body

    def _take(self, kind: _Type, body: bytes) -> Event | None:
        state = self._state
        if state is _State.WORD and kind in (_Type.AGREE, _Type.REFUSE) and not body and not self._peer_word:
            if kind is _Type.REFUSE:
                self._state = _State.ENDED
                return Refused()
            self._peer_word = True
            return self._both()
        if state is _State.GIFTS and kind is _Type.GIVEN:
            return Given(body)
        if kind is not state.value:
            raise PairingError(f"{kind.name} came where it is not due")
        match kind:
            case _Type.HELLO:
                self._meet(body, _SHARE)
                self._commitment = self._committed(self._share, self._name, self._nonce)
                self._state = _State.NONCE
                self._say(_Type.OFFER, bytes([_VERSION]) + self._share + self._commitment + self._name)
                return None
            case _Type.OFFER:
                self._meet(body, _SHARE + _COMMITMENT)
                self._state = _State.REVEAL
                self._say(_Type.NONCE, self._nonce)
                return None
            case _Type.NONCE:
                self._check_size(body)
                self._say(_Type.REVEAL, self._nonce)
            case _:
                self._check_size(body)
                name = encode_text(self._peer_name, MAX_NAME)
                if not hmac.compare_digest(self._committed(self._peer_share, name, body), self._commitment):
                    raise PairingError("the other side revealed another nonce than it had committed itself to")
        return self._compare()

    def _meet(self, body: bytes, size: int) -> None:
        """Read the share and the name of a HELLO or OFFER, and the commitment of the latter."""
        if body[0] != _VERSION:
            raise PairingError(f"it speaks version {body[0]} of pairing, we speak {_VERSION}: update the older one")
        self._peer_share = body[1 : 1 + _SHARE]
        self._commitment = body[1 + _SHARE : 1 + size]
        self._peer_name, end = decode_text(body, 1 + size)
        if end != len(body) or end - size - 2 > MAX_NAME:
            raise PairingError("a name that is too long, or something behind it")

    def _check_size(self, nonce: bytes) -> None:
        if len(nonce) != _NONCE:
            raise PairingError(f"a nonce of {len(nonce)} bytes")

    def _committed(self, share: bytes, name: bytes, nonce: bytes) -> bytes:
        """Return A's commitment to its nonce, to the HELLO that it answers, and to its own share and name."""
        return hashlib.sha256(cpace.lv_cat(b"daisyport pairing commitment", self._said[0], share, name, nonce)).digest()

    def _compare(self) -> Compare:
        """Derive the keys and the digits from everything that was sent in clear."""
        self._state = _State.WORD
        seen = hashlib.sha512(cpace.lv_cat(b"daisyport pairing", *self._said)).digest()
        keys = traffic_keys(cpace.share(self._scalar, self._peer_share), seen)
        mine, theirs = (keys.up, keys.down) if self._side is Side.JOINS else (keys.down, keys.up)
        self._sealer, self._opener = Sealer(mine), Opener(theirs)
        number = int.from_bytes(hashlib.sha512(b"daisyport pairing digits" + seen).digest(), "big")
        return Compare(f"{number % 10**_DIGITS:0{_DIGITS}}", self._peer_name)

    def _both(self) -> Agreed | None:
        if self._own_word and self._peer_word:
            self._state = _State.GIFTS
            return Agreed()
        return None

    def _say(self, kind: _Type, body: bytes) -> None:
        message = _HEAD.pack(len(body), kind) + body
        self._said.append(message)
        self._outgoing += message

    def _say_sealed(self, kind: _Type, body: bytes = b"") -> None:
        assert self._sealer is not None, "there are keys wherever there are digits"
        head = _HEAD.pack(len(body) + TAG, kind)
        self._outgoing += head + self._sealer.seal(head, body)
