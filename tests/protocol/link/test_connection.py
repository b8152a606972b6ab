from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.connection import CHANNELS, FEATURE, TRANSITIONS, Connection, Party, State
from protocol.link.control_frames import CONTROLS
from protocol.link.frames import FRAMES, Frame
from protocol.link.handshake import FEATURES, HandshakeError, Peer, WrongKeyError, key_point
from protocol.link.header import CutError, encoded_header
from protocol.link.hello import Confirm, Hello, HelloReply, Identity
from protocol.link.key_frames import KEYS, Rekey, Rekeyed, Told, ToldCpu
from protocol.link.reasons import CloseReason, Reason
from protocol.link.secure import Sealer
from protocol.link.session_frames import Close, Ping, Pong, Port
from protocol.link.stream_frames import Ack, Channel, Control, Credit, DownData, Gap, Lost, Turn, UpData
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from tests.protocol.session.links import OPEN, OPENED, PORT, acceptor, connections, events, initiator

UP = (Channel.PTZ, Channel.TCP, Channel.CGI)
CLOSE = Close(CloseReason.STOPPING)
# one frame of each kind, and of each shape that its channel gives it
SAMPLES: tuple[Frame, ...] = (
    Hello(bytes(32), (1,), bytes(16), 0, bytes(16)),
    HelloReply(bytes(32), 1, bytes(16), 0, "", bytes(64)),
    Confirm(bytes(64)),
    Identity(bytes(32), bytes(64), 0, "a liar"),
    CLOSE,
    OPEN,
    OPENED,
    UpData(Channel.PTZ, 0, 0, b"x"),
    DownData(0, b"x"),
    *(Ack(channel, 1) for channel in (Channel.LINE, Channel.TCP)),
    *(Credit(channel, 1) for channel in (Channel.LINE, Channel.TCP)),
    Gap(Channel.LINE, 0, 1, Reason.OVERFLOW),
    Gap(Channel.TCP, 0, 1, Reason.TOO_OLD),
    *(Lost(channel, 0, 1, Reason.TOO_OLD) for channel in (Channel.LINE, Channel.TCP)),
    Port(PORT),
    *(Turn(channel, 0, TurnPhase.BEGIN, TurnStatus.RUNNING) for channel in (Channel.LINE, Channel.TCP)),
    Ping(1),
    Pong(1, 2),
    Survey(1, 2),
    Picture(1, b"x"),
    Rekey(1, 2, 3, (bytes(16),), "k"),
    Rekeyed(1, (ToldCpu(bytes(16), "", Told.CHANGED),)),
    *(Close(reason) for reason in CloseReason if reason is not CloseReason.STOPPING),
)
CLIENT_FRAMES: set[type[Frame]] = {UpData, Gap, Ack, Credit, Ping, Pong, Survey, Picture, Rekeyed, Close}
SERVER_FRAMES: set[type[Frame]] = {
    *(DownData, Gap, Turn, Ack, Credit, Lost, Port, Ping, Pong, Survey, Picture, Rekey, Close),
}
# the answers, written down once more and by other means than the table: who may say what while what is awaited
MAY_SAY: dict[tuple[Party, State], set[type[Frame]]] = {
    (Party.CLIENT, State.HELLO): {Hello},
    (Party.SERVER, State.REPLY): {HelloReply, Close},
    (Party.SERVER, State.SERVER_IDENTITY): {Identity},
    (Party.CLIENT, State.CONFIRM): {Confirm, Close},
    (Party.CLIENT, State.CLIENT_IDENTITY): {Identity},
    (Party.CLIENT, State.OPEN): {type(OPEN), Close},
    (Party.SERVER, State.OPEN): {Close},
    (Party.SERVER, State.OPENED): {type(OPENED), Close},
    (Party.CLIENT, State.OPENED): {Close},
    (Party.CLIENT, State.PONG): {Pong, Close},
    (Party.SERVER, State.PONG): SERVER_FRAMES,
    (Party.CLIENT, State.READY): CLIENT_FRAMES,
    (Party.SERVER, State.READY): SERVER_FRAMES,
}


def channel_fits(party: Party, frame: Frame) -> bool:
    match frame:
        case Turn():
            return frame.channel in UP
        case DownData() | UpData() | Gap():
            return (frame.channel in UP) == (party is Party.CLIENT)
        case Ack() | Credit() | Lost():
            return (frame.channel in UP) == (party is Party.SERVER)
        case _:
            return True


def reason_fits(party: Party, state: State, frame: Frame) -> bool:
    """Read the page's table of reasons: who, and when."""
    if not isinstance(frame, Close):
        return True
    before = state in (State.OPEN, State.OPENED)
    match frame.reason:
        case CloseReason.OWN_NODE | CloseReason.VERSION:
            return state in (State.REPLY, State.CONFIRM)
        case CloseReason.WRONG_KEY | CloseReason.IDENTITY:
            return state in (State.REPLY, State.CONFIRM) or (party is Party.SERVER and before)
        case CloseReason.STOPPING | CloseReason.PROTOCOL:
            return state not in (State.REPLY, State.CONFIRM)
        case CloseReason.LOOP:
            return party is Party.CLIENT and state is not State.CONFIRM
        case CloseReason.BUSY:
            return party is Party.SERVER and state is not State.REPLY
        case CloseReason.STALE | CloseReason.NO_PATH:
            return party is Party.SERVER and before
        case CloseReason.REVOKED | CloseReason.KEY_CHANGED | CloseReason.DUPLICATE:
            return party is Party.SERVER and state is not State.REPLY
        case CloseReason.REPLACED:
            return party is Party.SERVER and not before and state is not State.REPLY
        case CloseReason.DETACHED:
            return False


def allowed(party: Party, state: State, frame: Frame) -> bool:
    said = type(frame) in MAY_SAY.get((party, state), set())
    return said and channel_fits(party, frame) and reason_fits(party, state, frame)


def sealed(by: Connection, head: bytes, payload: bytes) -> bytes:
    assert by._sealer is not None
    return head + by._sealer.seal(head, payload)


def forged(connection: Connection, frame: Frame, *, clear: bool = False) -> bytes:
    """The frame's bytes from a sender who has the keys and respects nothing."""
    connection._state = State.READY
    payload, channel, flags, offset = frame.parts()
    tag = 0 if clear else 16
    head = encoded_header(1, frame.code, channel, flags, len(payload) + tag, offset)
    return sealed(connection, head, payload) if tag else head + payload


PAIRS = [
    pytest.param(party, state, frame, id=f"{party.value}-{state.name}-{type(frame).__name__}{index}")
    for party, state, (index, frame) in itertools.product(Party, State, enumerate(SAMPLES))
    if state is not State.FAILED
]


def two_in(party: Party, state: State) -> tuple[Connection, Connection]:
    """The connection of ``party`` in ``state``, also where it would only pass through it, and its peer."""
    a, b = connections(state)
    one, other = (a, b) if party is Party.CLIENT else (b, a)
    one._state = state
    return one, other


@pytest.mark.parametrize(("receiver", "state", "frame"), PAIRS)
def test_every_frame_in_every_state_has_one_answer(receiver: Party, state: State, frame: Frame) -> None:
    to, by = two_in(receiver, state)
    got = events(to, forged(by, frame, clear=to._opener is None))
    if state is State.CLOSED:
        assert got == [], "after a CLOSE nothing is read"
    elif not allowed(receiver.other, state, frame):
        ((kind, _),) = got
        assert issubclass(kind, RemoteProtocolError)
        assert issubclass(kind, CutError) is (to.peer is None), "who has not proved who he is ends no session"
        assert to.state is State.FAILED
    elif isinstance(frame, Hello | HelloReply | Confirm | Identity):
        ((kind, _),) = got
        assert issubclass(kind, CutError), "its tag, share or signature is judged"
    else:
        assert got == [frame]


@pytest.mark.parametrize(("sender", "state", "frame"), PAIRS)
def test_what_the_peer_may_not_send_we_may_not_send(sender: Party, state: State, frame: Frame) -> None:
    by, _ = two_in(sender, state)
    if allowed(sender, state, frame):
        assert by.send(frame)
        return
    with pytest.raises(LocalProtocolError, match=f"a {sender.value} in state"):
        by.send(frame)
    assert by.state is state, "our own mistake changes nothing"


@pytest.mark.parametrize("by_server", [False, True])
@pytest.mark.parametrize(
    "frame", [frame for frame in SAMPLES if type(frame) in FEATURE], ids=lambda frame: type(frame).__name__
)
def test_what_is_a_feature_is_said_only_where_both_sides_know_it(frame: Frame, by_server: bool) -> None:
    sender, hearer = reversed(connections()) if by_server else connections()
    if not allowed(sender.party, State.READY, frame):
        return
    assert sender.peer is not None
    assert hearer.peer is not None
    without = 0xFFFF & ~FEATURE[type(frame)]
    sender.peer, hearer.peer = replace(sender.peer, features=without), replace(hearer.peer, features=without)
    with pytest.raises(LocalProtocolError):
        sender.send(frame)
    sender.peer = replace(sender.peer, features=FEATURE[type(frame)])
    ((kind, _),) = events(hearer, sender.send(frame))
    assert issubclass(kind, RemoteProtocolError)


def test_no_two_features_have_one_bit() -> None:
    assert (CHAIN, KEYS, CONTROLS) == (0b0001, 0b0010, 0b0100)
    assert set(FEATURE.values()) == {CHAIN, KEYS, CONTROLS}
    assert FEATURES & (CHAIN | KEYS) == CHAIN | KEYS


def test_the_table_names_every_state_and_only_frames_that_exist() -> None:
    assert TRANSITIONS.keys() == set(State)
    kinds = {kind for moves in TRANSITIONS.values() for _, kind in moves}
    assert kinds == {*FRAMES.values(), UpData}
    assert {kind for _, kind in CHANNELS} == {UpData, Control, Gap, Ack, Credit, Lost, Turn}


def test_the_handshake_leads_to_frames() -> None:
    a, b = Connection(initiator()), Connection(acceptor())
    hello = a.data_to_send()
    assert a.data_to_send() == b""
    assert isinstance(events(b, hello)[0], Hello)
    (peer,) = events(a, b.data_to_send())
    assert isinstance(peer, Peer)
    assert (a.peer, b.peer) == (peer, None)
    assert isinstance(events(b, a.data_to_send() + a.send(OPEN))[0], Peer)
    assert b.state is State.OPENED


def test_a_wrong_key_is_said_in_clear_and_heard() -> None:
    a, b = Connection(initiator(point=key_point("other"))), Connection(acceptor())
    events(b, a.data_to_send())
    ((kind, _),) = events(a, b.data_to_send())
    assert kind is WrongKeyError
    farewell = Close(CloseReason.WRONG_KEY)
    assert events(b, a.send(farewell)) == [farewell]
    assert b.peer is None
    assert (a.state, b.state) == (State.CLOSED, State.CLOSED)


def test_after_an_error_the_same_error_comes_for_ever_and_only_a_close_goes() -> None:
    a, b = connections()
    events(b, forged(a, OPEN))
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="while any is awaited"):
            b.next_event()
    with pytest.raises(LocalProtocolError):
        b.send(Ping(1))
    assert events(a, b.send(CLOSE)) == [CLOSE]


def test_a_broken_rule_behind_a_good_tag_ends_the_session_and_a_bad_tag_does_not() -> None:
    a, b = connections()
    events(b, forged(a, OPEN))
    assert not isinstance(b._error, CutError)
    a, b = connections()
    frame = bytearray(a.send(Ping(1)))
    frame[-1] ^= 1
    events(b, bytes(frame))
    assert isinstance(b._error, CutError)


@given(st.integers(0, 8 * (16 + 4 + 16) - 1))
def test_a_flipped_bit_is_never_delivered(bit: int) -> None:
    a, b = connections()
    frame = bytearray(a.send(Ping(1)))
    frame[bit // 8] ^= 1 << bit % 8
    got = events(b, bytes(frame))
    assert all(issubclass(event[0], CutError) for event in got)
    assert got or b.incomplete, "cut now, or by the deadline of an incomplete frame"


@pytest.mark.parametrize("mid", [False, True])
def test_the_end_of_the_stream_is_a_cut(mid: bool) -> None:
    a, b = connections()
    frame = a.send(Ping(1))
    assert events(b, frame[:5] if mid else frame) == ([] if mid else [Ping(1)])
    assert b.incomplete is mid
    ((kind, why),) = events(b, b"")
    assert kind is CutError
    assert ("mid-frame" in why) is mid


def test_after_our_close_what_still_comes_is_not_kept() -> None:
    a, b = connections()
    b.send(CLOSE)
    assert events(b, a.send(Ping(1))) == []
    assert events(b, b"") == []
    assert not b.incomplete


def test_types_from_0x40_up_are_passed_over_in_sealed_frames_alone() -> None:
    a, b = connections()
    head = encoded_header(1, 0x40, 9, 9, 16, 9)
    unknown = sealed(a, head, b"")
    assert events(b, unknown + a.send(Ping(1))) == [Ping(1)]
    clear = Connection(acceptor())
    ((kind, why),) = events(clear, encoded_header(1, 0x40, 0, 0, 0, 0))
    assert kind is HandshakeError
    assert "no frame of the handshake" in why


def test_another_version_in_the_header_is_refused() -> None:
    a, b = connections()
    head = encoded_header(2, Ping.code, 0, 0, 20, 0)
    ((kind, why),) = events(b, sealed(a, head, bytes(4)))
    assert kind is RemoteProtocolError
    assert "version 2 instead of 1" in why


def conversation() -> bytes:
    """The client's bytes of a whole conversation, and a server that has yet to hear them."""
    a, b = Connection(initiator()), Connection(acceptor())
    said = [a.data_to_send()]
    events(b, said[0])
    events(a, b.data_to_send())
    said += [a.data_to_send(), a.send(OPEN)]
    events(b, said[1] + said[2])
    events(a, b.send(OPENED))
    said += [a.send(frame) for frame in (Pong(6, 7), UpData(Channel.PTZ, 0, 0, b"x"), Ping(3), CLOSE)]
    return b"".join(said)


SAID = conversation()


def hear(pieces: list[bytes]) -> list[Any]:
    """What a server makes of it; it answers OPEN at once."""
    server = Connection(acceptor())
    got: list[Any] = []
    for piece in pieces:
        server.receive_data(piece)
        try:
            while (event := server.next_event()) is not None:
                got.append(event)
                if event == OPEN:
                    server.send(OPENED)
        except RemoteProtocolError as error:
            return [*got, (type(error), str(error))]
    return got


def test_a_whole_conversation_is_heard() -> None:
    assert [type(event) for event in hear([SAID])] == [Hello, Peer, type(OPEN), Pong, UpData, Ping, Close]


@given(st.lists(st.integers(0, len(SAID)), max_size=6), st.data())
def test_whole_split_and_mutated_streams_give_equal_events(cuts: list[int], data: st.DataObject) -> None:
    said = bytearray(SAID)
    if data.draw(st.booleans()):
        said[data.draw(st.integers(0, len(said) - 1))] ^= data.draw(st.integers(1, 255))
    said += data.draw(st.binary(max_size=50))
    borders = sorted({0, *cuts, len(said)})
    split = [bytes(said[low:high]) for low, high in itertools.pairwise(borders)]
    assert hear([bytes(said)]) == hear(split) == hear([bytes([byte]) for byte in said])


@given(st.binary(max_size=200), st.sampled_from([State.OPEN, State.PONG, State.READY]), st.booleans())
def test_random_payloads_behind_good_tags_give_events_or_remote_errors(payload: bytes, state: State, up: bool) -> None:
    for code in (*range(0x42), *FRAMES):
        a, b = connections(state)
        by, to = (a, b) if up else (b, a)
        head = encoded_header(1, code, code % 4, code % 2, len(payload) + 16, 7)
        events(to, sealed(by, head, payload))


def test_a_sealer_is_never_used_for_both_directions() -> None:
    a, b = connections()
    assert isinstance(a._sealer, Sealer)
    reflected = events(a, a.send(Ping(1)))
    assert issubclass(reflected[0][0], CutError)
    assert b.state is State.READY
