"""One TCP connection of a remote-port link, sans-IO: bytes in, events out, frames in, bytes out.

It knows the order in which frames may come, and turns them into sealed bytes and back. Streams, offsets and
resuming are ``protocol.session``'s.

Rules. TRANSITIONS decides which frame may follow which. The same table judges what we send and what the peer sends, so
that both sides keep the same rules. States are named after the frame that is awaited. Whatever the peer does, the
result is an event or a RemoteProtocolError. After a CutError the session stays alive, because it is not proved that the
peer sent the bytes.

Theory of operation. ``receive_data`` takes what the socket brought (b"" is its end); then ``next_event``
until None. ``data_to_send`` gives the bytes of the handshake, and is asked after construction and after each
event. From ``Peer`` on, frames go out through ``send``. After an error only a CLOSE may be sent, after a
CLOSE nothing.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.control_frames import CONTROLS, LineReport, Look
from protocol.link.frames import Frame, decode
from protocol.link.handshake import Acceptor, Agreement, HandshakeError, Initiator, Peer
from protocol.link.header import CutError, FrameDecoder, Parts, RawFrame, encoded_header
from protocol.link.hello import Confirm, Hello, HelloReply, Identity
from protocol.link.key_frames import KEYS, Rekey, Rekeyed
from protocol.link.reasons import CloseReason
from protocol.link.secure import TAG, Opener, Sealer
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port
from protocol.link.stream_frames import Ack, Channel, Control, Credit, DownData, Gap, Lost, Turn, UpData

__all__ = ["CHANNELS", "CLOSES", "FEATURE", "TRANSITIONS", "Connection", "Event", "Party", "State"]


@final
class Party(enum.Enum):
    """One of the two sides; the CPU without the line is the client."""

    CLIENT = "client"
    SERVER = "server"

    __hash__ = object.__hash__  # Enum's own hashes the name, and every frame is looked up

    @property
    def other(self) -> Party:
        """Return the side that listens when this one speaks."""
        return Party.SERVER if self is Party.CLIENT else Party.CLIENT


@final
class State(enum.Enum):
    """The frame that is awaited."""

    HELLO = "Hello"
    REPLY = "HelloReply"
    SERVER_IDENTITY = "the server's Identity"
    CONFIRM = "Confirm"
    CLIENT_IDENTITY = "the client's Identity"
    OPEN = "Open"
    OPENED = "Opened"
    PONG = "the Pong to Opened"
    READY = "any"
    CLOSED = "none: closed"
    FAILED = "none: failed"

    __hash__ = object.__hash__


_C, _S = Party.CLIENT, Party.SERVER
_Moves: TypeAlias = dict[tuple[Party, type[Frame]], State]


def _stay(state: State, party: Party, *frames: type[Frame]) -> _Moves:
    return dict.fromkeys(((party, frame) for frame in frames), state)


_BYE: Final[_Moves] = {(_C, Close): State.CLOSED, (_S, Close): State.CLOSED}
_DOWN: Final = (DownData, Gap, Turn, Ack, Credit, Lost, Port, Ping, Pong, Survey, Picture, Rekey, LineReport)
_UP: Final = (UpData, Gap, Ack, Credit, Ping, Pong, Survey, Picture, Rekeyed, Control, Look)

TRANSITIONS: Final[dict[State, _Moves]] = {
    State.HELLO: {(_C, Hello): State.REPLY},
    State.REPLY: {(_S, HelloReply): State.SERVER_IDENTITY, (_S, Close): State.CLOSED},
    State.SERVER_IDENTITY: {(_S, Identity): State.CONFIRM},
    State.CONFIRM: {(_C, Confirm): State.CLIENT_IDENTITY, (_C, Close): State.CLOSED},
    State.CLIENT_IDENTITY: {(_C, Identity): State.OPEN},
    State.OPEN: {(_C, Open): State.OPENED, **_BYE},
    State.OPENED: {(_S, Opened): State.PONG, **_BYE},
    State.PONG: {(_C, Pong): State.READY, **_stay(State.PONG, _S, *_DOWN), **_BYE},
    State.READY: {**_stay(State.READY, _C, *_UP), **_stay(State.READY, _S, *_DOWN), **_BYE},
    State.CLOSED: {},
    State.FAILED: {(_C, Close): State.CLOSED, (_S, Close): State.CLOSED},
}
"""state -> (sender, frame) -> next state; anything else must not be sent."""

FEATURE: Final[dict[type[Frame], int]] = {
    Survey: CHAIN,
    Picture: CHAIN,
    Rekey: KEYS,
    Rekeyed: KEYS,
    Control: CONTROLS,
    LineReport: CONTROLS,
    Look: CONTROLS,
}
"""The feature that both sides must know for a frame to be sent."""

_LINE: Final = frozenset({Channel.LINE})
_CLASSES: Final = frozenset(Channel) - _LINE

CHANNELS: Final[dict[tuple[Party, type[Frame]], frozenset[Channel]]] = {
    (_C, UpData): _CLASSES,
    (_C, Control): _CLASSES,
    (_C, Gap): _CLASSES,
    (_S, Ack): _CLASSES,
    (_S, Credit): _CLASSES,
    (_S, Lost): _CLASSES,
    (_S, Turn): _CLASSES,
    (_S, Gap): _LINE,
    (_C, Ack): _LINE,
    (_C, Credit): _LINE,
}
"""(sender, frame) -> streams: the sender of a stream sends DATA and GAP, its receiver ACK, CREDIT and LOST."""

_CLEAR: Final = frozenset({CloseReason.WRONG_KEY, CloseReason.OWN_NODE, CloseReason.VERSION, CloseReason.IDENTITY})
_ENDS: Final = frozenset(
    {CloseReason.STOPPING, CloseReason.REVOKED, CloseReason.KEY_CHANGED, CloseReason.DUPLICATE, CloseReason.PROTOCOL}
)
_REFUSES: Final = frozenset(
    # The last two refuse what the client sent before its OPEN, which is on its way by then.
    {CloseReason.BUSY, CloseReason.STALE, CloseReason.NO_PATH, CloseReason.WRONG_KEY, CloseReason.IDENTITY}
)

CLOSES: Final[dict[Party, dict[State, frozenset[CloseReason]]]] = {
    Party.CLIENT: {
        State.CONFIRM: _CLEAR,
        **dict.fromkeys(
            (State.OPEN, State.OPENED, State.PONG, State.READY),
            frozenset({CloseReason.STOPPING, CloseReason.LOOP, CloseReason.PROTOCOL}),
        ),
    },
    Party.SERVER: {
        State.REPLY: _CLEAR,
        State.OPEN: _ENDS | _REFUSES,
        State.OPENED: _ENDS | _REFUSES,
        State.PONG: _ENDS | {CloseReason.REPLACED, CloseReason.BUSY},
        State.READY: _ENDS | {CloseReason.REPLACED, CloseReason.BUSY},
    },
}
"""party -> state -> the allowed reasons of a CLOSE; after an error of its own (FAILED) a party may give any."""

Handshake: TypeAlias = Hello | HelloReply | Confirm | Identity
_HANDSHAKE: Final = (Hello, HelloReply, Confirm, Identity)
Event: TypeAlias = Peer | Frame
"""For a server first the Hello, to charge a guess; then the Peer, once both sides have proved the key; then frames."""


_Move: TypeAlias = tuple[State, frozenset[Channel] | None, int]
_MOVES: Final[dict[tuple[State, Party], dict[type[Frame], _Move]]] = {
    (state, party): {
        frame: (after, CHANNELS.get((party, frame)), FEATURE.get(frame, 0))
        for (who, frame), after in moves.items()
        if who is party
    }
    for state, moves in TRANSITIONS.items()
    for party in Party
}
"""The three tables in one, for one lookup per frame: (state, sender) -> frame -> next state, streams, feature."""


def _judge(state: State, party: Party, frame: Frame, peer: Peer | None) -> State | None:
    move = _MOVES[state, party].get(type(frame))
    if move is None:
        return None
    after, channels, feature = move
    if feature and (peer is None or not peer.features & feature):
        return None
    if channels is not None and frame.channel not in channels:  # type: ignore[union-attr]  # CHANNELS has such alone
        return None
    if after is State.CLOSED and isinstance(frame, Close):
        said = state is State.FAILED or frame.reason in CLOSES[party].get(state, ())
        return after if said else None
    return after


@final
class Connection:
    """One side of one connection; its handshake decides which side."""

    def __init__(self, handshake: Initiator | Acceptor) -> None:
        self._handshake = handshake
        self.party: Final = Party.CLIENT if isinstance(handshake, Initiator) else Party.SERVER
        self._other: Final = self.party.other
        self.peer: Peer | None = None
        self._state = State.HELLO
        self._version = 1
        self._decoder = FrameDecoder()
        self._ended = False
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._agreement: Agreement | None = None
        self._confirm: Confirm | None = None
        self._error: RemoteProtocolError | None = None
        self._outgoing = self.send(handshake.hello) if isinstance(handshake, Initiator) else b""

    @property
    def state(self) -> State:
        """Return which frame is awaited."""
        return self._state

    @property
    def incomplete(self) -> bool:
        """Return whether a frame has begun to arrive and is incomplete; its rest has two seconds."""
        return len(self._decoder) > 0

    def receive_data(self, data: bytes) -> None:
        """Take what the socket brought; b"" says that it brings no more."""
        self._ended = self._ended or not data
        if self._state is not State.CLOSED:
            self._decoder.receive_data(data)

    def data_to_send(self) -> bytes:
        """Return what the handshake has to say, once."""
        data, self._outgoing = self._outgoing, b""
        return data

    def next_event(self) -> Event | None:
        """Return the next event, or None until more has come (or for ever, after a CLOSE).

        Raises RemoteProtocolError, and the same again ever after; a CutError leaves the session alive.
        """
        if self._error is not None:
            raise self._error
        try:
            while self._state is not State.CLOSED:
                raw = self._decoder.next_frame()
                if raw is None:
                    if self._ended:
                        raise CutError("the peer hung up in mid-frame" if self.incomplete else "the peer hung up")
                    return None
                frame = self._read(raw)
                if frame is None:  # a type that may be ignored
                    continue
                state = _judge(self._state, self._other, frame, self.peer)
                if state is None:
                    raise RemoteProtocolError(f"{frame!r:.60} while {self._state.value} is awaited")
                self._state = state
                if not isinstance(frame, _HANDSHAKE):
                    return frame
                if (event := self._shake(frame)) is not None:
                    return event
        except RemoteProtocolError as error:
            self._state = State.FAILED
            if self.peer is None and not isinstance(error, CutError):
                # The peer has not proved yet who it is, so a broken rule is only a broken handshake, and the session
                # stays.
                error = HandshakeError(str(error))
            self._error = error
            raise error from None
        return None

    def send(self, frame: Frame) -> bytes:
        """Return the bytes of one frame. Raises LocalProtocolError where it may not be sent now."""
        state = _judge(self._state, self.party, frame, self.peer)
        if state is None:
            raise LocalProtocolError(f"a {self.party.value} in state {self._state} sends no {frame!r:.60}")
        self._state = state
        return self._encode(frame)

    def _read(self, raw: RawFrame) -> Frame | None:
        payload, opener = raw.body, self._opener
        if opener is not None:
            payload = opener.open(raw.head, payload)
        if raw.version != self._version:
            raise RemoteProtocolError(f"a frame of version {raw.version} instead of {self._version}")
        frame = decode(raw.code, Parts(payload, raw.channel, raw.flags, raw.offset))
        if frame is None and opener is None:
            raise HandshakeError(f"type {raw.code:#04x} is no frame of the handshake")
        return frame

    def _shake(self, frame: Handshake) -> Event | None:
        """Go on with the handshake; return None for a step without an event."""
        if isinstance(self._handshake, Initiator):
            return self._call(self._handshake, frame)
        return self._answer(self._handshake, frame)

    # Each direction is sealed as soon as its sender knows the keys: down right after HELLO_REPLY, up right after
    # CONFIRM. So the identities cost no extra round trip.

    def _call(self, handshake: Initiator, frame: Handshake) -> Event | None:
        """Go on with the handshake as a client; the table admits only these two frames."""
        if isinstance(frame, HelloReply):
            self._confirm, self._agreement = handshake.confirm(frame)
            self._opener = Opener(self._agreement.keys.down)
            return None
        assert isinstance(frame, Identity)
        agreement, confirm = self._agreement, self._confirm
        assert agreement is not None
        assert confirm is not None
        identity, self.peer = handshake.identify(frame, agreement)
        self._outgoing += self.send(confirm)
        self._sealer = Sealer(agreement.keys.up)
        self._outgoing += self.send(identity)
        self._version = agreement.version
        return self.peer

    def _answer(self, handshake: Acceptor, frame: Handshake) -> Event | None:
        """Go on with the handshake as a server; the table admits only these three frames."""
        if isinstance(frame, Hello):
            reply, identity, self._agreement = handshake.reply(frame)
            self._outgoing += self.send(reply)
            self._sealer = Sealer(self._agreement.keys.down)
            self._outgoing += self.send(identity)
            return frame
        agreement = self._agreement
        assert agreement is not None
        if isinstance(frame, Confirm):
            handshake.finish(frame)
            self._opener = Opener(agreement.keys.up)
            return None
        assert isinstance(frame, Identity)
        self.peer = handshake.identify(frame, agreement)
        self._version = agreement.version
        return self.peer

    def _encode(self, frame: Frame) -> bytes:
        payload, channel, flags, offset = frame.parts()
        sealer = self._sealer
        length = len(payload) + (0 if sealer is None else TAG)
        head = encoded_header(self._version, frame.code, channel, flags, length, offset)
        return head + (payload if sealer is None else sealer.seal(head, payload))
