"""Two connections joined, at any point of their lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import CHAIN
from protocol.link.connection import Connection, State
from protocol.link.control_frames import CONTROLS
from protocol.link.handshake import VERSIONS, Acceptor, Initiator, key_point
from protocol.link.header import FrameDecoder
from protocol.link.identity import NodeKey
from protocol.link.key_frames import KEYS
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import NOWHERE, Close, Open, Opened, Pong
from protocol.session.session import NO_SESSION

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES = CHAIN | KEYS | CONTROLS
POINT = key_point("pelco123")
A_KEY, B_KEY = NodeKey(b"a" * 32, "cpu-a"), NodeKey(b"b" * 32, "cpu-b")
A_NODE, B_NODE = A_KEY.id, B_KEY.id
PORT = PortState(0b1110, True, 9600, "", "RS232 9600 8N1", (B_NODE,))
OPEN = Open(NO_SESSION, 1, 5, NOWHERE)
OPENED = Opened(b"s" * 16, 5, 6, NOWHERE, PORT)


def initiator(
    point: bytes = POINT, node: NodeKey = A_KEY, seed: int = 1, versions: tuple[int, ...] = VERSIONS
) -> Initiator:
    return Initiator(point, node, 0, bytes([seed]) * 32, bytes([seed]) * 16, versions, features=FEATURES)


def acceptor(
    point: bytes = POINT, node: NodeKey = B_KEY, seed: int = 2, versions: tuple[int, ...] = VERSIONS
) -> Acceptor:
    return Acceptor(point, node, 3, "blade-7", bytes([seed]) * 32, versions, features=FEATURES)


def events(connection: Connection, data: bytes | None = None) -> list[Any]:
    """All events, and the error that ended them as the last."""
    got: list[Any] = []
    if data is not None:
        connection.receive_data(data)
    try:
        while (event := connection.next_event()) is not None:
            got.append(event)
    except RemoteProtocolError as error:
        got.append((type(error), str(error)))
    return got


def frames_of(data: bytes) -> list[bytes]:
    """Cut what a side said at its frames."""
    decoder = FrameDecoder()
    decoder.receive_data(data)
    return [raw.head + raw.body for raw in iter(decoder.next_frame, None)]


def connections(state: State = State.READY) -> tuple[Connection, Connection]:
    """A client and a server whose conversation has come to ``state``."""
    a, b = Connection(initiator()), Connection(acceptor())
    said: list[bytes] = []  # what is on its way

    def hear_reply() -> None:
        said[:] = frames_of(b.data_to_send())
        events(a, said.pop(0))

    def hear_confirm() -> None:
        events(a, said.pop(0))
        said[:] = frames_of(a.data_to_send())
        events(b, said.pop(0))

    steps: dict[State, Callable[[], object]] = {
        State.HELLO: lambda: None,
        State.REPLY: lambda: events(b, a.data_to_send()),
        State.SERVER_IDENTITY: hear_reply,
        State.CONFIRM: lambda: None,
        State.CLIENT_IDENTITY: hear_confirm,
        State.OPEN: lambda: events(b, said.pop(0)),
        State.OPENED: lambda: events(b, a.send(OPEN)),
        State.PONG: lambda: events(a, b.send(OPENED)),
        State.READY: lambda: events(b, a.send(Pong(6, 7))),
        State.CLOSED: lambda: events(b, a.send(Close(CloseReason.STOPPING))),
    }
    for step, advance in steps.items():
        advance()
        if step is state:
            return a, b
    raise AssertionError(state)
