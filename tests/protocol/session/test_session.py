"""A client's and a server's session face to face, without connections: frames handed over as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.control_frames import CONTROLS, LineReport, Look
from protocol.link.control_steps import ControlRequest, Pause, SetLines
from protocol.link.handshake import Peer
from protocol.link.header import LIMIT
from protocol.link.key_frames import KEYS, Rekey, Rekeyed, Told, ToldCpu
from protocol.link.message_rules import MAX_WAITING
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import NOWHERE, Close, Open, Opened, Ping, Pong, Port, Position
from protocol.link.stream_frames import OTHERS, Ack, Asker, Channel, Control, Credit, DownData, Gap, Lost, Turn, UpData
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.session.client import ClientEvent, ClientSession
from protocol.session.heartbeat import MAX_QUESTIONS
from protocol.session.inbox import Message
from protocol.session.register import (
    MAX_DETACHED,
    MAX_LEAP,
    MAX_LINKS,
    MAX_OF_NODE,
    MAX_OF_PLACE,
    Admitted,
    Refused,
    Register,
)
from protocol.session.send_stream import Settled
from protocol.session.server import HOLD, ServerSession
from protocol.session.session import NO_SESSION, Resumed, SessionLimits
from protocol.sharing.turn_rule import TurnRule
from tests.protocol.session.links import A_NODE, B_NODE, PORT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocol.link.frames import Frame
    from protocol.session.server import ServerEvent

PTZ, TCP, CGI = Channel.PTZ, Channel.TCP, Channel.CGI
PEER = Peer(1, A_NODE, 0, "", features=CHAIN | KEYS | CONTROLS)
B_AHEAD = 1_000_000
"""B's clock shows this much more than A's."""


class Pair:
    """A and B; ``up`` and ``down`` carry over all that one has to say, and return it."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self.limits = limits or SessionLimits()
        self.client = ClientSession(A_NODE, self.limits)
        self.register = Register(self.limits)
        self.now = 0
        self.peer = PEER
        self.server: ServerSession
        self.heard_a: list[ClientEvent] = []
        self.heard_b: list[ServerEvent] = []
        self.connect()

    def connect(self) -> None:
        number = self.client.attach(B_NODE, self.peer.features)
        opening = self.client.next_frame(number, self.now)
        assert isinstance(opening, Open)
        admitted = self.register.admit(self.peer, opening, b"%016d" % number, PORT)
        assert isinstance(admitted, Admitted)
        self.server = admitted.session
        self.down()
        self.up()

    def up(self) -> list[Frame]:
        said = frames(self.client, self.client.number, self.now)
        for frame in said:
            self.heard_b += self.server.receive(self.server.number, frame, self.now + B_AHEAD)
        return said

    def down(self) -> list[Frame]:
        said = frames(self.server, self.server.number, self.now + B_AHEAD)
        for frame in said:
            self.heard_a += self.client.receive(self.client.number, frame, self.now)
        return said

    def talk(self) -> None:
        while self.up() + self.down():
            pass

    def heard(self) -> tuple[list[ClientEvent], list[ServerEvent]]:
        heard = self.heard_a, self.heard_b
        self.heard_a, self.heard_b = [], []
        return heard


def frames(session: ClientSession | ServerSession, number: int, now: int) -> list[Frame]:
    return list(iter(lambda: session.next_frame(number, now), None))


def kinds(said: Iterable[object]) -> list[str]:
    return [type(each).__name__ for each in said]


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.talk()
    pair.heard()
    return pair


def test_a_session_opens_and_both_know_the_round_trip() -> None:
    pair = Pair()
    assert pair.heard_a == [Resumed(PORT)]
    assert (pair.client.round_trip, pair.server.round_trip) == (0, 0)
    for session in (pair.client, pair.server):
        with pytest.raises(RemoteProtocolError, match="not asked"):
            session.receive(session.number, Pong(0, 0), 0)


def test_a_client_that_was_never_connected_waits_and_has_nothing_to_say() -> None:
    client = ClientSession(A_NODE, SessionLimits())
    assert not client.attached
    assert not client.resumed
    assert client.round_trip is None
    assert client.next_frame(client.number, 0) is None
    assert client.write(TCP, b"x", 0) == 0


def test_opened_is_answered_before_anything_else_is_said(pair: Pair) -> None:
    pair.client.write(PTZ, b"x", 0)
    number = pair.client.attach(B_NODE)
    assert kinds(frames(pair.client, number, 0)) == ["Open"]
    pair.client.receive(number, Opened(pair.client.id, 0, 9, NOWHERE, PORT), 0)
    assert frames(pair.client, number, 0)[0] == Pong(9, 0)


def test_a_message_is_written_and_its_writer_hears_of_it(pair: Pair) -> None:
    turn = TurnParameters(2, b"", 50)
    pair.now = 5
    assert pair.client.write(CGI, b"abc", 3, turn) == 0
    pair.talk()
    (message,) = pair.heard()[1]
    assert message == Message(CGI, 0, b"abc", 3 + B_AHEAD, turn)
    assert message.end == 3
    pair.server.handed(CGI, 2)
    pair.server.lost(CGI, 3, Reason.PORT_DOWN)
    pair.talk()
    assert pair.heard()[0] == [Settled(CGI, 0, 2, None), Settled(CGI, 2, 1, Reason.PORT_DOWN)]


def test_a_command_goes_before_a_transfer_that_began_earlier(pair: Pair) -> None:
    for channel in (TCP, TCP, CGI, PTZ):
        pair.client.write(channel, b"x", 0)
    order = [frame.channel for frame in pair.up() if isinstance(frame, UpData)]
    assert order == [PTZ, CGI, TCP, TCP]


def test_no_part_of_a_long_transfer_stands_in_front_of_a_command(pair: Pair) -> None:
    number = pair.client.number
    for _ in range(100):
        pair.client.write(TCP, bytes(512), 0)
    assert [frame.offset for _ in range(3) if isinstance(frame := pair.client.next_frame(number, 0), UpData)] == [
        0,
        512,
        1024,
    ]
    pair.client.write(PTZ, b"stop", 0)
    assert pair.client.next_frame(number, 0) == UpData(PTZ, 0, 0, b"stop")


def test_the_lines_bytes_come_down_and_go_on_after_a_cut(pair: Pair) -> None:
    pair.server.line(b"abc")
    pair.down()
    pair.server.line(b"def")
    pair.server.detach(0)
    pair.client.detach()
    pair.connect()
    pair.talk()
    assert pair.heard()[0] == [DownData(0, b"abc"), Resumed(PORT), DownData(3, b"def")]
    assert pair.server.dropped == 0


def test_the_line_speaks_on_for_longer_than_the_window_since_what_it_said_is_acknowledged() -> None:
    pair = Pair(SessionLimits(window=10, ring_bytes=30))
    for _ in range(9):
        pair.server.line(b"0123456789")
        pair.talk()
    assert [event.offset for event in pair.heard()[0] if isinstance(event, DownData)] == list(range(0, 90, 10))
    assert pair.server.dropped == 0


def test_one_ack_of_the_line_does_for_many_frames_and_none_waits_for_ever(pair: Pair) -> None:
    def speak(data: bytes) -> list[str]:
        pair.server.line(data)
        pair.down()
        return kinds(pair.up())

    assert [speak(b"x") for _ in range(31)] == [[]] * 31
    assert speak(b"x") == ["Ack"]
    assert pair.server.next_frame(pair.server.number, 0) is None
    assert speak(bytes(16_000)) == []
    assert speak(bytes(1000)) == ["Ack"]  # a quarter of the window
    assert speak(b"y") == []
    pair.client.ping()
    assert kinds(pair.up()) == ["Ping", "Ack"]  # with what is said in any case
    pair.down()
    assert speak(b"z") == []
    pair.server.gap(5, Reason.RESTARTED)
    pair.server.ping()
    pair.down()
    assert kinds(pair.up()) == ["Pong", "Ack"]


def test_after_a_cut_nothing_is_lost_and_nothing_comes_twice(pair: Pair) -> None:
    for data in (b"a", b"b", b"c"):
        pair.client.write(TCP, data, 0)
    first = pair.client.next_frame(pair.client.number, 0)
    assert first is not None
    pair.heard_b += pair.server.receive(pair.server.number, first, 0)
    frames(pair.client, pair.client.number, 0)  # dropped by the network
    pair.connect()
    pair.talk()
    assert [event.data for event in pair.heard()[1] if isinstance(event, Message)] == [b"a", b"b", b"c"]
    assert (pair.client.resumes, pair.client.resent) == (1, 2)
    assert (pair.server.resumes, pair.server.resent) == (1, 0)


def test_the_lines_bytes_that_a_connection_took_with_it_are_sent_once_more_and_counted(pair: Pair) -> None:
    pair.server.line(b"abc")
    pair.down()
    pair.server.line(b"defg")
    frames(pair.server, pair.server.number, 0)  # dropped by the network
    pair.connect()
    pair.talk()
    assert [event.data for event in pair.heard()[0] if isinstance(event, DownData)] == [b"abc", b"defg"]
    assert (pair.server.resumes, pair.server.resent, pair.client.resent) == (1, 4, 0)


def test_a_connection_that_was_replaced_is_not_heard_and_has_nothing_to_say(pair: Pair) -> None:
    old_a, old_b = pair.client.number, pair.server.number
    pair.connect()
    pair.client.write(PTZ, b"x", 0)
    pair.server.line(b"x")
    assert pair.client.next_frame(old_a, 0) is None
    assert pair.server.next_frame(old_b, 0) is None
    assert pair.client.receive(old_a, DownData(0, b"x"), 0) == []
    assert pair.server.receive(old_b, UpData(PTZ, 0, 0, b"x"), 0) == []


def test_turns_stand_among_the_bytes_and_are_told_once(pair: Pair) -> None:
    pair.client.write(CGI, b"?", 0, TurnParameters(2, b"", 50))
    pair.talk()
    pair.server.turn(CGI, 0, TurnPhase.BEGIN, TurnStatus.RUNNING)
    pair.server.line(b"ok")
    pair.server.turn(CGI, 0, TurnPhase.END, TurnStatus.LENGTH)
    pair.talk()
    begin, end = (Turn(CGI, 0, TurnPhase.BEGIN, TurnStatus.RUNNING), Turn(CGI, 0, TurnPhase.END, TurnStatus.LENGTH))
    assert pair.heard()[0] == [begin, DownData(0, b"ok"), end]
    pair.connect()
    pair.talk()
    assert end not in pair.heard()[0]


def test_the_port_is_told_at_every_change_and_its_latest_state_alone(pair: Pair) -> None:
    down, up = replace(PORT, up=False, why="no such device"), replace(PORT, rate=19_200)
    pair.server.port(down)
    pair.server.port(up)
    pair.talk()
    assert pair.heard()[0] == [Port(up)]


def test_a_path_that_leads_through_ourselves_is_closed(pair: Pair) -> None:
    pair.server.port(replace(PORT, path=(A_NODE, B_NODE)))
    pair.talk()
    events_a, events_b = pair.heard()
    assert kinds(events_a) == ["Close"], "nobody may be led to it"
    assert kinds(events_b) == ["Close"]
    assert not pair.client.attached
    assert not pair.server.attached


def test_a_ping_is_answered_with_both_clocks(pair: Pair) -> None:
    pair.client.receive(pair.client.number, Ping(5), 7)
    assert pair.client.next_frame(pair.client.number, 8) == Pong(5, 8)
    pair.server.receive(pair.server.number, Ping(6), 7)
    assert pair.server.next_frame(pair.server.number, 9) == Pong(6, 9)


def test_a_question_of_an_ended_connection_has_no_answer_on_the_next(pair: Pair) -> None:
    pair.client.ping()
    pair.server.ping()
    assert kinds(frames(pair.client, pair.client.number, 5)) == ["Ping"]
    assert kinds(frames(pair.server, pair.server.number, 5)) == ["Ping"]
    pair.connect()
    pair.talk()
    assert pair.client.resumed
    assert kinds(pair.heard()[0]) == ["Resumed"]


@pytest.mark.parametrize("meanwhile", ["nothing", "a question of the client", "another connection"])
def test_an_answer_proves_that_all_losses_told_before_its_question_have_arrived(pair: Pair, meanwhile: str) -> None:
    for data in (b"ab", b"cd"):
        pair.client.write(TCP, data, 0)
    pair.up()
    if meanwhile == "a question of the client":
        pair.client.ping()
        pair.talk()
    elif meanwhile == "another connection":
        pair.server.ping()
        frames(pair.server, pair.server.number, 0)
    pair.server.lost(TCP, 2, Reason.FORBIDDEN)
    pair.down()
    if meanwhile == "another connection":
        pair.connect()
    pair.server.lost(TCP, 4, Reason.PORT_DOWN)
    pair.down()
    pair.server.ping()
    pair.talk()
    # Even a client that says it knows of nothing is not told again what it was proved to know.
    at = (*NOWHERE[:2], Position(4, 0), NOWHERE[3])
    pair.server.attach(replace(opening(), positions=at), "")
    assert Ack(TCP, 4) in frames(pair.server, pair.server.number, 0)


def test_a_loss_that_no_answer_proved_is_told_again_though_it_was_sent(pair: Pair) -> None:
    pair.client.write(TCP, b"ab", 0)
    pair.up()
    pair.server.ping()
    assert kinds(pair.down()) == ["Ping"]
    pair.server.lost(TCP, 2, Reason.FORBIDDEN)
    pair.down()
    pair.up()  # the answer: its question went out before the loss
    at = (*NOWHERE[:2], Position(2, 0), NOWHERE[3])
    pair.server.attach(replace(opening(), positions=at), "")
    assert Lost(TCP, 0, 2, Reason.FORBIDDEN) in frames(pair.server, pair.server.number, 0)


def test_what_a_connection_keeps_to_itself_is_our_own_mistake_here(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError, match="no session takes Open"):
        pair.client.receive(pair.client.number, opening(), 0)
    with pytest.raises(LocalProtocolError, match="no session takes Open"):
        pair.server.receive(pair.server.number, opening(), 0)


def test_pings_are_answered_by_either_side(pair: Pair) -> None:
    pair.client.ping()
    pair.server.ping()
    assert kinds(pair.up()) == ["Ping"]
    assert pair.server.next_frame(pair.server.number, 0) == Pong(0, 0)
    pair.client.receive(pair.client.number, Pong(0, 0), 0)
    with pytest.raises(RemoteProtocolError, match="not asked"):
        pair.client.receive(pair.client.number, Pong(0, 0), 0)
    assert isinstance(pair.server.next_frame(pair.server.number, 3), Ping)
    pair.server.receive(pair.server.number, Pong(3, 0), 4)
    assert pair.server.round_trip == 0


def test_a_server_that_closes_leaves_nothing_uncertain(pair: Pair) -> None:
    for data in (b"ab", b"cd"):
        pair.client.write(TCP, data, 0)
    pair.up()
    pair.server.handed(TCP, 2)
    (ended,) = pair.register.end(pair.server, CloseReason.STOPPING)
    assert ended.reason is CloseReason.STOPPING
    assert pair.register.end(pair.server, CloseReason.STOPPING) == ()
    assert kinds(pair.down())[-1] == "Close"
    assert kinds(pair.heard()[0]) == ["Settled", "Close"]
    assert pair.client.id == NO_SESSION
    assert not pair.client.attached
    pair.connect()
    pair.talk()
    events_a, events_b = pair.heard()
    assert events_a == [Gap(Channel.LINE, 0, 0, Reason.RESTARTED), Resumed(PORT)]
    assert [event.data for event in events_b if isinstance(event, Message)] == [b"cd"]


def test_a_client_that_closes_says_it_last_and_gives_up_the_rest(pair: Pair) -> None:
    pair.client.write(TCP, b"ab", 0)
    pair.client.close(CloseReason.STOPPING)
    assert kinds(pair.up()) == ["Close"]
    assert pair.client.abandon(Reason.CLOSED) == [Settled(TCP, 0, 2, Reason.CLOSED)]
    assert kinds(pair.heard()[1]) == ["Close"]


def test_a_session_that_was_given_up_hears_and_says_nothing_more_on_its_connection(pair: Pair) -> None:
    pair.client.abandon(Reason.CLOSED)
    assert not pair.client.attached
    assert not pair.client.resumed
    assert pair.client.id == NO_SESSION
    pair.client.ping()
    assert pair.client.next_frame(pair.client.number, 0) is None
    assert pair.client.receive(pair.client.number, DownData(0, b"x"), 0) == []


def test_a_server_without_memory_leaves_uncertain_what_was_sent(pair: Pair) -> None:
    pair.client.write(TCP, b"ab", 0)
    pair.up()
    pair.client.write(TCP, b"cd", 0)
    pair.register = Register(pair.limits)
    pair.connect()
    pair.talk()
    events_a, events_b = pair.heard()
    assert events_a == [
        Settled(TCP, 0, 2, Reason.UNCERTAIN),
        Gap(Channel.LINE, 0, 0, Reason.RESTARTED),
        Resumed(PORT),
    ]
    assert [event.offset for event in events_b[1:] if isinstance(event, Message)] == [2]


def test_what_is_too_old_is_settled_without_a_connection(pair: Pair) -> None:
    pair.client.detach()
    pair.client.write(PTZ, b"ab", 0)
    pair.client.write(TCP, b"cd", 0)
    assert pair.client.next_expiry(5) == 2_001
    (outcome,) = pair.client.expire(2_001)
    assert outcome == Settled(PTZ, 0, 2, Reason.TOO_OLD)
    assert outcome.end == 2
    assert pair.client.withdraw(TCP, 0) == [Settled(TCP, 0, 2, Reason.WITHDRAWN)]
    assert pair.client.next_expiry(5) is None
    pair.connect()
    pair.talk()
    assert kinds(pair.heard()[1]) == ["Gap", "Gap"]
    pair.client.write(PTZ, b"ef", 0)
    pair.talk()
    assert [(event.offset, event.data) for event in pair.heard()[1] if isinstance(event, Message)] == [(2, b"ef")]


def test_a_loss_of_which_the_client_did_not_hear_is_told_after_the_cut(pair: Pair) -> None:
    for data in (b"ab", b"cd"):
        pair.client.write(TCP, data, 0)
    pair.up()
    pair.server.lost(TCP, 2, Reason.FORBIDDEN)
    pair.server.handed(TCP, 4)
    frames(pair.server, pair.server.number, 0)  # dropped by the network
    pair.connect()
    pair.talk()
    assert [event for event in pair.heard()[0] if isinstance(event, Settled)] == [
        Settled(TCP, 0, 2, Reason.FORBIDDEN),
        Settled(TCP, 2, 2, None),
    ]


def test_bounds_follow_the_line() -> None:
    pair = Pair(SessionLimits(window=100, ring_bytes=3))
    pair.server.window(PTZ, 250)
    assert Credit(PTZ, 250) in pair.down()
    pair.server.line(b"abcdef")
    pair.server.gap(2, Reason.OVERFLOW)
    pair.talk()
    assert pair.server.dropped == 5
    assert [event for event in pair.heard()[0] if isinstance(event, Gap | DownData)] == [
        Gap(Channel.LINE, 0, 3, Reason.OVERFLOW),
        DownData(3, b"def"),
        Gap(Channel.LINE, 6, 2, Reason.OVERFLOW),
    ]


# What a peer that breaks the rules gets


def test_a_close_instead_of_opened_ends_nothing_and_may_teach_the_number(pair: Pair) -> None:
    session, number = pair.client.id, pair.client.attach(B_NODE)
    close = Close(CloseReason.STALE, last=41)
    assert pair.client.receive(number, close, 0) == [close]
    assert pair.client.id == session
    assert numbered(pair.client, B_NODE) == 42


def numbered(client: ClientSession, server: bytes) -> int:
    """The connection number that the client says to a server."""
    opening = client.next_frame(client.attach(server), 0)
    assert isinstance(opening, Open)
    return opening.number


def test_a_server_that_names_a_huge_number_spoils_no_other_servers(pair: Pair) -> None:
    number = pair.client.attach(b"h" * 16)
    pair.client.receive(number, Close(CloseReason.STALE, last=LIMIT - 1), 0)
    assert numbered(pair.client, B_NODE) == 2
    assert numbered(pair.client, b"h" * 16) == LIMIT


def test_the_numbers_of_so_many_servers_are_remembered() -> None:
    client = ClientSession(A_NODE, SessionLimits())
    assert [numbered(client, bytes([at]) * 16) for at in [*range(65), 1, 64, 0]] == [1] * 65 + [2, 2, 1]


def test_a_number_that_leaps_is_refused_and_ends_nothing(pair: Pair) -> None:
    leap = pair.register.admit(PEER, opening(pair.client.id, 2 + MAX_LEAP), b"n" * 16, PORT)
    assert leap == Refused(Close(CloseReason.PROTOCOL))
    assert pair.server.attached
    assert isinstance(pair.register.admit(PEER, opening(pair.client.id, 1 + MAX_LEAP), b"n" * 16, PORT), Admitted)


@pytest.mark.parametrize(
    "turn",
    [
        Turn(CGI, 2, TurnPhase.BEGIN, TurnStatus.RUNNING),
        Turn(CGI, 3, TurnPhase.END, TurnStatus.TIME),
        Turn(PTZ, 1, TurnPhase.BEGIN, TurnStatus.RUNNING),
        Turn(CGI, 2**40, TurnPhase.BEGIN, TurnStatus.RUNNING),
    ],
    ids=["inside a message", "not sent", "another class", "far away"],
)
def test_a_turn_of_what_is_no_message_or_was_not_sent_is_refused(pair: Pair, turn: Turn) -> None:
    pair.client.write(CGI, b"?", 0)
    pair.client.write(CGI, b"??", 0, TurnParameters(2, b"", 50))
    pair.talk()
    pair.client.write(CGI, b"???", 0, TurnParameters(2, b"", 50))
    with pytest.raises(RemoteProtocolError, match="which nobody asked for"):
        pair.client.receive(pair.client.number, turn, 0)


def test_a_message_that_asks_for_no_turn_may_have_one_by_the_owners_rule(pair: Pair) -> None:
    pair.client.write(TCP, b"request", 0)
    pair.client.write(TCP, b"another", 0)
    pair.talk()
    pair.server.turn(TCP, 0, TurnPhase.BEGIN, TurnStatus.RUNNING)
    pair.server.line(b"reply", Asker(TCP, 0))
    pair.server.turn(TCP, 0, TurnPhase.END, TurnStatus.RULE)
    pair.server.line(b"theirs", OTHERS)
    pair.server.line(b"news")
    pair.talk()
    assert pair.heard()[0] == [
        Turn(TCP, 0, TurnPhase.BEGIN, TurnStatus.RUNNING),
        DownData(0, b"reply", Asker(TCP, 0)),
        Turn(TCP, 0, TurnPhase.END, TurnStatus.RULE),
        DownData(5, b"theirs", OTHERS),
        DownData(11, b"news"),
    ]


def test_whom_bytes_answer_is_known_after_a_resumption_and_behind_what_a_ring_dropped() -> None:
    pair = Pair(SessionLimits(ring_bytes=12))
    pair.talk()
    pair.client.write(TCP, b"request", 0)
    pair.talk()
    pair.client.detach()
    pair.server.detach(0)
    pair.server.turn(TCP, 0, TurnPhase.BEGIN, TurnStatus.RUNNING)
    for piece in (b"re", b"pl"):
        pair.server.line(piece, Asker(TCP, 0))
    pair.server.line(b"y---", Asker(TCP, 0))
    pair.server.line(b"theirs", OTHERS)
    pair.connect()
    pair.talk()
    assert pair.heard()[0][-4:] == [
        Gap(Channel.LINE, 0, 2, Reason.OVERFLOW),
        DownData(2, b"pl", Asker(TCP, 0)),
        DownData(4, b"y---", Asker(TCP, 0)),
        DownData(8, b"theirs", OTHERS),
    ]


@pytest.mark.parametrize("offset", [3, 2**40])
def test_the_answer_to_a_message_that_was_not_sent_is_refused(pair: Pair, offset: int) -> None:
    pair.client.write(TCP, b"abc", 0)
    pair.talk()
    pair.client.write(TCP, b"def", 0)
    with pytest.raises(RemoteProtocolError, match="which was not sent"):
        pair.client.receive(pair.client.number, DownData(0, b"x", Asker(TCP, offset)), 0)


def test_a_turn_may_end_whose_beginning_was_dropped(pair: Pair) -> None:
    for offset in (0, 1):
        pair.client.write(CGI, b"?", 0, TurnParameters(2, b"", 50))
        pair.talk()
        end = Turn(CGI, offset, TurnPhase.END, TurnStatus.LENGTH)
        assert pair.client.receive(pair.client.number, end, 0) == [end]
        assert pair.client.receive(pair.client.number, end, 0) == [], "it may come again"
    assert list(pair.client._asked[CGI]) == [1], "no more is kept of the turns that are over"


def test_a_path_that_does_not_end_at_the_server_is_refused(pair: Pair) -> None:
    with pytest.raises(RemoteProtocolError, match="does not end at the server"):
        pair.client.receive(pair.client.number, Port(replace(PORT, path=(B_NODE, b"o" * 16))), 0)


def test_later_parts_have_neither_options_nor_another_time(pair: Pair) -> None:
    first = UpData(TCP, 0, 5, b"ab", TurnParameters(2, b"", 50), more=True)
    for later in (UpData(TCP, 2, 5, b"c", TurnParameters(2, b"", 50)), UpData(TCP, 2, 6, b"c")):
        pair = Pair()
        pair.talk()
        pair.server.receive(pair.server.number, first, 0)
        with pytest.raises(RemoteProtocolError, match="a later part"):
            pair.server.receive(pair.server.number, later, 0)


@pytest.mark.parametrize("by", ["the last byte", "bytes", "a gap"])
def test_a_line_whose_offsets_are_at_their_end_begins_anew_in_another_session(by: str) -> None:
    far = LIMIT - 1
    at = (Position(far, far), *NOWHERE[1:])
    server = ServerSession(b"s" * 16, (A_NODE, 0), replace(opening(), positions=at), PORT, SessionLimits(), "")
    assert isinstance(server.next_frame(9, 0), Opened)
    for _ in range(1 if by == "the last byte" else 3):
        if by != "a gap":
            server.line(b"x" if by == "the last byte" else b"x" * 100)
        else:
            server.gap(LIMIT - 1, Reason.OVERFLOW)
        server.turn(CGI, 0, TurnPhase.BEGIN, TurnStatus.RUNNING)
    *_, close = frames(server, 9, 0)
    assert isinstance(close, Close)
    assert (close.reason, close.positions[0].reached) == (CloseReason.STOPPING, far)


def test_a_server_whose_gaps_reach_the_end_spoils_no_other_session(pair: Pair) -> None:
    pair.client.receive(pair.client.number, Gap(Channel.LINE, 0, LIMIT - 1, Reason.OVERFLOW), 0)
    pair.client.abandon(Reason.CLOSED)
    number = pair.client.attach(b"o" * 16)
    said = pair.client.next_frame(number, 0)
    assert isinstance(said, Open)
    assert said.positions[0] == Position(0, 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"session": NO_SESSION}, "without a session"),
        ({"echo": 99}, "not asked"),
        ({"positions": (Position(7, 7), *NOWHERE[1:])}, "the line goes on from 7"),
        ({"positions": (Position(0, 7), *NOWHERE[1:])}, "7 known to be settled"),
        ({"positions": (*NOWHERE[:3], Position(7, 0))}, "7 received"),
    ],
)
def test_an_opened_that_cannot_be_is_refused(pair: Pair, change: dict[str, object], why: str) -> None:
    number = pair.client.attach(B_NODE)
    pair.client.next_frame(number, 0)
    opened = Opened(pair.client.id, 0, 0, NOWHERE, PORT)
    with pytest.raises(RemoteProtocolError, match=why):
        pair.client.receive(number, replace(opened, **change), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [Ack(TCP, 1), Lost(TCP, 0, 1, Reason.TOO_OLD), Credit(TCP, 0), Pong(1, 1)])
def test_numbers_that_cannot_be_are_refused_by_the_client(pair: Pair, frame: Frame) -> None:
    with pytest.raises(RemoteProtocolError):
        pair.client.receive(pair.client.number, frame, 0)


@pytest.mark.parametrize("frame", [Ack(Channel.LINE, 1), Credit(Channel.LINE, 0), Pong(1, 1), UpData(TCP, 1, 0, b"x")])
def test_numbers_that_cannot_be_are_refused_by_the_server(pair: Pair, frame: Frame) -> None:
    with pytest.raises(RemoteProtocolError):
        pair.server.receive(pair.server.number, frame, 0)


# The register


def opening(session: bytes = NO_SESSION, number: int = 9) -> Open:
    return Open(session, number, 0, NOWHERE)


def other(index: int) -> Peer:
    return replace(PEER, index=index)


def test_a_number_that_does_not_grow_is_refused_with_the_last(pair: Pair) -> None:
    refused = pair.register.admit(PEER, opening(pair.client.id, 1), b"n" * 16, PORT)
    assert refused == Refused(Close(CloseReason.STALE, last=1))
    assert pair.server.attached


def test_numbers_that_contradict_the_session_end_it(pair: Pair) -> None:
    pair.client.write(TCP, b"ab", 0)
    pair.up()
    refused = pair.register.admit(PEER, opening(pair.client.id), b"n" * 16, PORT)
    assert isinstance(refused, Refused)
    assert refused.close.reason is CloseReason.PROTOCOL
    assert [ended.session for ended in refused.ended] == [pair.server]
    assert list(pair.register) == []


def test_another_nodes_session_cannot_be_taken_over(pair: Pair) -> None:
    admitted = pair.register.admit(other(1), opening(pair.client.id), b"n" * 16, PORT)
    assert isinstance(admitted, Admitted)
    assert admitted.session is not pair.server
    assert list(pair.register) == [pair.server, admitted.session]


def test_a_new_session_of_the_same_remote_port_ends_the_old(pair: Pair) -> None:
    admitted = pair.register.admit(PEER, opening(), b"n" * 16, PORT)
    assert isinstance(admitted, Admitted)
    assert [(ended.session, ended.reason) for ended in admitted.ended] == [(pair.server, CloseReason.REPLACED)]
    assert kinds(frames(pair.server, pair.server.number, 0))[-1] == "Close", "its old link still hears why"


def node(number: int, index: int = 0) -> Peer:
    return replace(PEER, node=number.to_bytes(16, "big"), index=index)


def admitted(register: Register, peer: Peer, place: str = "") -> ServerSession:
    """A new session, on a connection that was opened."""
    found = register.admit(peer, opening(), bytes([peer.index + 1]) * 16, PORT, place)
    assert isinstance(found, Admitted), found
    return found.session


BUSY = Refused(Close(CloseReason.BUSY))


def test_so_many_links_and_no_more() -> None:
    register = Register(SessionLimits())
    first, *_ = (admitted(register, node(number), f"host {number // 8}") for number in range(MAX_LINKS))
    assert register.admit(node(99), opening(), b"1" * 16, PORT, "elsewhere") == BUSY
    first.detach(0)
    admitted(register, node(99), "elsewhere")


def test_a_few_addresses_keep_nobody_else_out() -> None:
    """The youngest link of the address that has most makes room, as long as one has more than a CPU may have."""
    register = Register(SessionLimits())
    honest = [admitted(register, node(1000, index), "honest") for index in range(MAX_OF_NODE)]
    liars = [admitted(register, node(number), f"liar {number % 3}") for number in range(MAX_LINKS - MAX_OF_NODE)]
    new = register.admit(node(2000), opening(), b"1" * 16, PORT, "new")
    assert isinstance(new, Admitted)
    (ended,) = new.ended
    assert ended.reason is CloseReason.BUSY
    assert ended.session.place == "liar 0", "19 of them, where the other two have 18 or 19"
    assert ended.session is next(each for each in reversed(liars) if each.place == "liar 0")
    assert kinds(frames(ended.session, ended.session.number, 0))[-1] == "Close", "it hears why"
    assert register.admit(node(2001), opening(), b"1" * 16, PORT, "liar 1") == BUSY
    for number in range(3000, 3000 + MAX_LINKS):
        register.admit(node(number), opening(), b"1" * 16, PORT, f"host {number}")
    counts = Counter(session.place for session in register)
    assert counts["honest"] == MAX_OF_NODE
    assert set(honest) <= set(register)
    assert all(counts[f"liar {number}"] == MAX_OF_NODE for number in range(3))
    assert counts.total() == MAX_LINKS


def test_a_crowd_that_comes_back_does_not_throw_others_off() -> None:
    register = Register(SessionLimits())
    for number in range(MAX_LINKS):
        admitted(register, node(number), f"liar {number % 3}")
    honest = admitted(register, node(1000), "honest")
    for number in range(2000, 2200):
        register.admit(node(number), opening(), b"1" * 16, PORT, f"liar {number % 3}")
    assert honest in list(register)


def test_one_address_keeps_nobody_else_out() -> None:
    register = Register(SessionLimits())
    sessions = [admitted(register, node(number), "a liar's") for number in range(MAX_OF_PLACE)]
    assert register.admit(node(99), opening(), b"1" * 16, PORT, "a liar's") == BUSY
    admitted(register, node(99), "another's")
    again = register.admit(node(0), opening(sessions[0].id, 10), b"1" * 16, PORT, "a liar's")
    assert isinstance(again, Admitted), "who has a session may always come back to it"
    assert again.session is sessions[0]
    away = register.admit(node(1), opening(sessions[1].id, 10), b"1" * 16, PORT, "another's")
    assert isinstance(away, Admitted)
    admitted(register, node(98), "a liar's")  # in the place of the one that went elsewhere


def test_one_node_has_so_many_sessions() -> None:
    register = Register(SessionLimits())
    for index in range(MAX_OF_NODE):
        admitted(register, node(1, index), f"host {index}").detach(0)
    assert register.admit(node(1, 99), opening(), b"1" * 16, PORT, "elsewhere") == BUSY
    admitted(register, node(2), "elsewhere")


def test_detached_sessions_wait_for_so_long() -> None:
    register = Register(SessionLimits())
    sessions = [admitted(register, node(number)) for number in range(4)]
    for number in range(1, 4):
        sessions[number].detach(number * 1000)
    assert register.sweep(61_000, 60_000) == ()
    assert [ended.session for ended in register.sweep(62_001, 60_000)] == sessions[1:3]
    assert list(register) == [sessions[0], sessions[3]]


@pytest.mark.parametrize("places", [1, 17])
def test_sessions_that_are_thrown_away_never_end_an_older_one(places: int) -> None:
    """Whoever has the key makes seventeen nodes, and lets them all go."""
    register = Register(SessionLimits())
    honest = admitted(register, node(100), "honest")
    honest.detach(0)
    thrown_away = [admitted(register, node(number), f"liar {number % places}") for number in range(MAX_DETACHED + 1)]
    for session in thrown_away:
        session.detach(1)
    assert [ended.session for ended in register.sweep(2, 60_000)] == [thrown_away[-1], thrown_away[-2]]
    assert honest in list(register)


def test_an_address_that_fills_the_room_for_those_who_wait_leaves_half_of_it_to_others() -> None:
    register = Register(SessionLimits())
    for number in range(MAX_DETACHED):
        admitted(register, node(number), "a liar's").detach(0)
    late = [admitted(register, node(50 + number), f"host {number}") for number in range(MAX_DETACHED // 2)]
    for session in late:
        session.detach(1)
    assert {ended.session.place for ended in register.sweep(2, 60_000)} == {"a liar's"}
    assert set(late) <= set(register)


def test_too_many_of_one_address_are_ended_down_to_half_the_room_and_then_the_youngest_of_all() -> None:
    register = Register(SessionLimits())
    liars = [admitted(register, node(number), "a liar's") for number in range(MAX_DETACHED // 2 + 2)]
    others = [admitted(register, node(50 + number), f"host {number}") for number in range(MAX_DETACHED // 2 + 2)]
    for session in (*liars, *others):
        session.detach(0)
    ended = [ended.session for ended in register.sweep(1, 60_000)]
    assert ended == [*reversed(liars[-2:]), *reversed(others[-2:])]


def test_more_than_sixteen_questions_without_an_answer_are_a_broken_rule(pair: Pair) -> None:
    for session in (pair.client, pair.server):
        for clock in range(MAX_QUESTIONS):
            session.receive(session.number, Ping(clock), 0)
        with pytest.raises(RemoteProtocolError, match="more than 16 questions"):
            session.receive(session.number, Ping(99), 0)
        for _ in range(MAX_QUESTIONS):
            assert isinstance(session.next_frame(session.number, 0), Pong)
        session.receive(session.number, Ping(99), 0)


def test_we_ask_no_more_than_sixteen_questions_either(pair: Pair) -> None:
    for session in (pair.client, pair.server):
        for _ in range(MAX_QUESTIONS + 3):
            session.ping()
            session.next_frame(session.number, 7)
        session.receive(session.number, Pong(7, 0), 8)
        assert session.next_frame(session.number, 9) == Ping(9), "one is answered, so another may go"


def test_so_many_messages_may_wait_for_their_outcome(pair: Pair) -> None:
    for at in range(MAX_WAITING):
        pair.server.receive(pair.server.number, UpData(TCP, at, 0, b"x"), 0)
    with pytest.raises(RemoteProtocolError, match="more than 4096 messages"):
        pair.server.receive(pair.server.number, UpData(TCP, MAX_WAITING, 0, b"x"), 0)


def test_a_message_that_has_its_outcome_waits_no_more(pair: Pair) -> None:
    for at in range(MAX_WAITING + 9):
        pair.server.receive(pair.server.number, UpData(TCP, at, 0, b"x"), 0)
        pair.server.handed(TCP, at)


def test_a_client_that_withholds_its_answers_gets_no_more_credit() -> None:
    """A LOST is kept until a PONG proves that it arrived, so each one that cannot be merged costs memory."""
    pair = Pair(SessionLimits(window=64))
    pair.talk()
    server, number = pair.server, pair.server.number
    credit, lost = 64, 0
    while lost * 2 + 2 <= credit:
        for offset in (lost * 2, lost * 2 + 1):
            server.receive(number, UpData(TCP, offset, 0, b"x"), 0)
        server.handed(TCP, lost * 2 + 1)
        server.lost(TCP, lost * 2 + 2, Reason.FORBIDDEN)
        lost += 1
        assert lost < 2000, "credit comes to its end"
        granted = [frame.offset for frame in frames(server, number, 0) if isinstance(frame, Credit)]
        credit = max([credit, *granted])
    assert lost > 1024, "and not before there is a reason"
    server.ping()
    assert isinstance(server.next_frame(number, 3), Ping)
    server.receive(number, Pong(3, 0), 4)
    assert frames(server, number, 5) == [Credit(TCP, lost * 2 + 64)]


def test_a_message_larger_than_the_window_arrives_whole() -> None:
    pair = Pair(SessionLimits(window=4))
    pair.talk()
    pair.heard()
    pair.client.write(CGI, b"0123456789", 0)
    pair.talk()
    assert [event.data for event in pair.heard()[1] if isinstance(event, Message)] == [b"0123456789"]


def written(pair: Pair, data: bytes = b"x", turn: TurnParameters | None = None) -> list[Frame]:
    """Have a message written; return what the server says to that."""
    pair.client.write(TCP, data, pair.now, turn)
    pair.up()
    pair.server.handed(TCP, pair.server._inboxes[TCP].stream.received)
    return pair.down()


def test_the_first_message_after_a_while_is_acknowledged_at_once_and_one_ack_answers_those_that_follow() -> None:
    pair = Pair()
    pair.now += HOLD
    assert written(pair) == [Ack(TCP, 1)]
    assert pair.server.next_tell is None
    assert [written(pair) for _ in range(3)] == [[], [], []]
    assert pair.server.next_tell == pair.now + B_AHEAD + HOLD
    pair.now += HOLD - 1
    assert written(pair) == []
    pair.now += 1
    assert pair.down() == [Ack(TCP, 5)], "though nothing has come"
    assert pair.server.next_tell is None


def test_no_ack_is_held_for_more_than_32_messages_or_a_quarter_of_the_window() -> None:
    pair = Pair()
    pair.now += HOLD
    written(pair)
    assert [written(pair) for _ in range(32)] == [*[[]] * 31, [Ack(TCP, 33)]]
    assert [written(pair, bytes(4096)) for _ in range(4)] == [[], [], [], [Ack(TCP, 33 + 4 * 4096)]]


def test_an_ack_goes_with_whatever_else_is_said_and_before_bytes_of_the_line() -> None:
    pair = Pair()
    pair.now += HOLD
    written(pair)
    assert written(pair) == []
    pair.server.line(b"heard")
    assert pair.down() == [Ack(TCP, 2), DownData(0, b"heard")]
    assert written(pair) == []
    pair.client.ping()
    pair.up()
    assert pair.down() == [Pong(pair.now, pair.now + B_AHEAD), Ack(TCP, 3)]
    assert written(pair) == []
    pair.client.write(CGI, b"lost", pair.now)
    pair.up()
    pair.server.lost(CGI, 4, Reason.FORBIDDEN)
    assert pair.down() == [Lost(CGI, 0, 4, Reason.FORBIDDEN), Ack(TCP, 4)]


def test_an_outcome_that_somebody_waits_for_is_told_at_once() -> None:
    pair = Pair()
    pair.now += HOLD
    written(pair)
    assert written(pair, turn=TurnParameters(1, b"", 5)) == [Ack(TCP, 2)]
    assert written(pair) == []
    pair.client.control(TCP, RESET, pair.now)
    pair.up()
    pair.server.handed(TCP, pair.server._inboxes[TCP].stream.received)
    (ack,) = pair.down()
    assert isinstance(ack, Ack)
    pair.server.port(replace(PORT, turn=TurnRule("modbus-rtu")))
    pair.down()
    assert written(pair) == [Ack(TCP, ack.offset + 1)], (
        "under a rule a newer request may take the place of one that waits"
    )


def test_a_server_that_closes_tells_what_it_held() -> None:
    pair = Pair()
    pair.now += HOLD
    written(pair)
    assert written(pair) == []
    pair.server.close(CloseReason.STOPPING)
    ack, close = pair.down()
    assert ack == Ack(TCP, 2)
    assert isinstance(close, Close)
    assert pair.server.next_tell is None


def test_a_last_word_is_said_only_where_nothing_is_still_to_be_told() -> None:
    pair = Pair()
    pair.client.write(TCP, b"one", accepted=0)
    assert pair.client.holding
    pair.talk()
    assert not pair.client.holding
    assert [event.data for event in pair.heard_b if isinstance(event, Message)] == [b"one"]
    pair.server.handed(TCP, 3)
    assert pair.server.last_word(CloseReason.STOPPING) is None
    pair.now += HOLD
    pair.down()
    word = pair.server.last_word(CloseReason.STOPPING)
    assert word is not None
    assert word.positions[TCP] == Position(3, 3)


def test_each_side_may_ask_what_the_chain_looks_like_on_the_other(pair: Pair) -> None:
    pair.client.inquiry.ask(3000)
    pair.server.inquiry.ask(2000)
    pair.talk()
    (from_a,) = (event for event in pair.heard_b if isinstance(event, Survey))
    (from_b,) = (event for event in pair.heard_a if isinstance(event, Survey))
    assert (from_a, from_b) == (Survey(1, 3000), Survey(1, 2000))
    pair.server.inquiry.answer(1, b"of B")
    pair.client.inquiry.answer(1, b"of A")
    pair.talk()
    assert Picture(1, b"of B") in pair.heard_a
    assert Picture(1, b"of A") in pair.heard_b


def test_an_answer_to_nothing_or_to_an_older_question_is_passed_over(pair: Pair) -> None:
    pair.server.inquiry.answer(1, b"unasked")
    pair.talk()
    pair.client.inquiry.ask(3000)
    pair.client.inquiry.ask(3000)
    pair.talk()
    pair.server.inquiry.answer(1, b"late")
    pair.talk()
    pair.server.inquiry.answer(2, b"in time")
    pair.talk()
    pair.server.inquiry.answer(2, b"again")
    pair.talk()
    assert [event.tree for event in pair.heard_a if isinstance(event, Picture)] == [b"in time"]


def test_a_new_key_and_what_became_of_it_cross_the_link_each_its_own_way(pair: Pair) -> None:
    told = Rekey(7, 1000, 3600, (A_NODE,), "the next key")
    answer = Rekeyed(7, (ToldCpu(A_NODE, "cpu2", Told.CHANGED),))
    pair.server.inquiry.tell(told)
    pair.talk()
    assert told in pair.heard_a
    pair.client.inquiry.tell(answer)
    pair.talk()
    assert answer in pair.heard_b


def test_of_two_new_keys_that_wait_the_newer_one_is_told(pair: Pair) -> None:
    for number in (1, 2):
        pair.server.inquiry.tell(Rekey(number, 1000, 3600, (A_NODE,), "the next key"))
    pair.talk()
    assert [event.number for event in pair.heard_a if isinstance(event, Rekey)] == [2]


def test_questions_without_end_leave_one_and_answers_too(pair: Pair) -> None:
    inquiry = pair.client.inquiry
    for number in range(1000):
        inquiry.ask(1)
        inquiry.answer(number, b"x")
    assert inquiry.next_frame() == Picture(999, b"x")
    assert inquiry.next_frame() == Survey(1000, 1)
    assert inquiry.next_frame() is None


RESET = ControlRequest(7, (SetLines(dtr=False), Pause(0.05), SetLines(dtr=True)))
OLDER = Peer(1, A_NODE, 0, "", features=CHAIN)


def test_a_control_arrives_in_its_place_among_the_messages_and_its_outcome_is_told(pair: Pair) -> None:
    pair.client.write(TCP, b"before", 0)
    assert pair.client.control(TCP, RESET, 0) == 6
    pair.client.write(TCP, b"behind", 0)
    pair.talk()
    before, control, behind = (event for event in pair.heard()[1] if isinstance(event, Message))
    assert (before.data, before.control, behind.data) == (b"before", None, b"behind")
    assert (control.control, control.offset) == (RESET, 6)
    pair.server.handed(TCP, 6)
    pair.server.lost(TCP, control.end, Reason.INCOMPLETE)
    pair.server.handed(TCP, behind.end)
    pair.talk()
    settled = [(event.offset, event.reason) for event in pair.heard()[0] if isinstance(event, Settled)]
    assert settled == [(0, None), (6, Reason.INCOMPLETE), (control.end, None)]


def test_a_control_that_is_longer_than_the_credit_arrives_whole() -> None:
    pair = Pair(SessionLimits(window=4))
    pair.talk()
    pair.client.control(TCP, RESET, 0)
    pair.talk()
    assert [event.control for event in pair.heard()[1] if isinstance(event, Message)] == [RESET]


def test_a_control_is_carried_out_once_whatever_becomes_of_connections(pair: Pair) -> None:
    pair.client.control(TCP, RESET, 0)
    pair.up()  # and the connection goes before it is answered
    pair.client.detach()
    pair.client.control(TCP, ControlRequest(8), 0)
    pair.connect()
    pair.talk()
    assert [event.control for event in pair.heard()[1] if isinstance(event, Message)] == [RESET, ControlRequest(8)]


def test_a_control_that_waits_is_withdrawn_where_the_next_server_knows_none(pair: Pair) -> None:
    pair.client.detach()
    pair.client.control(TCP, RESET, 0)
    pair.client.write(TCP, b"x", 0)
    pair.peer = OLDER
    pair.connect()
    pair.talk()
    assert not pair.client.takes_controls
    heard_a, heard_b = pair.heard()
    assert [event.data for event in heard_b if isinstance(event, Message)] == [b"x"]
    assert [event.reason for event in heard_a if isinstance(event, Settled)] == [Reason.WITHDRAWN]


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\7\x09", RESET.encode() + b"\0"])
def test_a_control_that_cannot_be_read_is_a_broken_rule(pair: Pair, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a bad control"):
        pair.server.receive(pair.server.number, Control(TCP, 0, 0, data or b"\0"), 0)


def test_a_message_is_no_control_in_part(pair: Pair) -> None:
    pair.server.receive(pair.server.number, Control(TCP, 0, 0, b"ab", None, more=True), 0)
    with pytest.raises(RemoteProtocolError, match="in part"):
        pair.server.receive(pair.server.number, UpData(TCP, 2, 0, b"c"), 0)


def test_the_line_is_reported_at_each_change_before_the_outcomes_and_on_each_connection(pair: Pair) -> None:
    pair.client.control(TCP, RESET, 0)
    pair.talk()
    pair.server.report(LineReport(3, modem=1))
    pair.server.report(LineReport(3, modem=2))
    pair.server.handed(TCP, len(RESET.encode()))
    assert kinds(pair.down())[:2] == ["LineReport", "Ack"]
    assert [event for event in pair.heard()[0] if isinstance(event, LineReport)] == [LineReport(3, modem=2)]
    pair.server.report(LineReport(3, modem=2))
    assert pair.down() == []
    pair.client.detach()
    pair.connect()
    pair.talk()
    assert [event for event in pair.heard()[0] if isinstance(event, LineReport)] == [LineReport(3, modem=2)]


def test_a_client_that_knows_no_reports_gets_none() -> None:
    pair = Pair()
    pair.client.detach()
    pair.peer = OLDER
    pair.connect()
    pair.server.report(LineReport(3))
    pair.client.look(True)
    pair.talk()
    assert not [each for side in pair.heard() for each in side if isinstance(each, LineReport | Look)]


def test_the_server_is_told_at_each_change_and_on_each_connection_whether_anybody_looks(pair: Pair) -> None:
    pair.client.look(True)
    pair.client.look(True)
    pair.talk()
    pair.client.look(False)
    pair.client.look(True)
    pair.talk()
    pair.client.detach()
    pair.connect()
    pair.talk()
    pair.client.look(False)
    pair.talk()
    looks = [event.wanted for event in pair.heard()[1] if isinstance(event, Look)]
    assert looks == [True, True, False]


def test_each_question_how_the_lines_are_has_its_number_and_is_asked_again_on_the_next_connection(pair: Pair) -> None:
    pair.client.look(True)
    pair.talk()
    assert [pair.client.ask(), pair.client.ask()] == [1, 2]
    pair.talk()
    pair.client.detach()
    pair.connect()
    pair.talk()
    pair.client.look(False)
    pair.talk()
    looks = [event for event in pair.heard()[1] if isinstance(event, Look)]
    assert looks == [Look(True), Look(True, 2), Look(True, 2), Look(False, 2)]
