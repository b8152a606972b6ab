"""A remote line's writers are served in the order in which they came, and told the outcome of their bytes."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from gateway.port.bus import Bus
from gateway.port.control import Break
from gateway.port.line import LineError, PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.remote_port.line import RemoteLine
from gateway.remote_port.throughput import Throughput
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Turn
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.session.client import ClientSession
from protocol.session.send_stream import Settled
from protocol.session.session import SessionLimits
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import Unwanted, Writer


def line(ring_bytes: int = 1000) -> RemoteLine:
    limits = SessionLimits(ring_bytes=ring_bytes)
    remote = RemoteLine(ClientSession(b"n" * 16, limits), lambda: None, limits.age, Bus("P0"))
    remote.set_rate(9600)
    return remote


async def test_a_message_is_taken_in_one_step_where_there_is_room_for_it_whole_and_nobody_waits() -> None:
    remote, writer = line(ring_bytes=300), Writer()
    now = trio.current_time()
    assert remote.write_nowait(b"question", writer, now, whole=True) == 8
    assert remote.write_nowait(bytes(100), writer, now, whole=False) == 100
    assert (remote.begun(writer), writer.written) == (108, 0)
    assert remote.write_nowait(bytes(1000), writer, now, whole=False) == 0  # longer than a message
    assert remote.write_nowait(bytes(250), writer, now, whole=True) == 0  # no room
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.write, bytes(200), writer, now)
            await trio.testing.wait_all_tasks_blocked()
            assert remote.write_nowait(b"past it", writer, now, whole=True) == 0
            nursery.cancel_scope.cancel()
    assert remote.begun(writer) == 108
    remote.set_rule(TurnRule("modbus-rtu"))
    assert remote.write_nowait(b"by rule", writer, now, whole=True) == 0
    remote.set_rule(None)
    remote.end("the device is gone")
    with pytest.raises(PortDown):
        remote.write_nowait(b"late", writer, now, whole=True)
    remote.begin()
    with pytest.raises(Unwanted):
        remote.write_nowait(b"evil", Writer(revoked=True), now, whole=True)


async def test_who_waits_for_room_is_served_in_turn_and_told_the_truth() -> None:
    remote, first, second = line(ring_bytes=10), Writer(), Writer()
    refused: list[bytes] = []

    async def write(data: bytes) -> None:
        try:
            await remote.write(data, second, trio.current_time())
        except PortDown:
            refused.append(data)

    with trio.fail_after(5):
        await remote.write(b"12345678", first, trio.current_time())
        async with trio.open_nursery() as nursery:
            for data in (b"abcdefgh", b"ijklmnop"):
                nursery.start_soon(write, data)
                await trio.testing.wait_all_tasks_blocked()
            assert (remote.begun(first), remote.begun(second)) == (8, 0)
            for settled in remote._session.abandon(Reason.CLOSED):
                remote.settled(settled)
            await trio.testing.wait_all_tasks_blocked()
            assert (remote.begun(first), remote.begun(second)) == (0, 8)
            remote.end("the device is gone")
    assert refused == [b"ijklmnop"]
    assert first.outcomes == [(8, Reason.CLOSED)]
    assert remote.losses == {Reason.CLOSED: 8}


async def test_one_message_may_have_several_outcomes() -> None:
    remote, writer = line(), Writer()
    with trio.fail_after(5):
        await remote.write(b"12345678", writer, trio.current_time())
        await remote.write(b"ab", writer, trio.current_time())
    remote.settled(Settled(Channel.TCP, 0, 3, None))
    remote.settled(Settled(Channel.TCP, 3, 6, Reason.INCOMPLETE))
    assert writer.written == 3
    assert writer.outcomes == [(5, Reason.INCOMPLETE), (1, Reason.INCOMPLETE)]
    assert remote.begun(writer) == 1
    remote.settled(Settled(Channel.TCP, 9, 1, None))
    with trio.fail_after(1):
        await remote.still()
    assert writer.written == 4


async def test_still_is_when_everything_has_its_outcome() -> None:
    remote, writer = line(), Writer()
    await remote.write(b"12", writer, trio.current_time())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.still)
            await trio.testing.wait_all_tasks_blocked()
            remote.settled(Settled(Channel.TCP, 0, 1, None))
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            remote.settled(Settled(Channel.TCP, 1, 1, None))


async def test_a_class_that_the_owner_does_not_let_in_is_refused_at_once_and_the_others_are_not() -> None:
    remote = line()
    remote.permit(1 << Channel.TCP)
    with pytest.raises(PortDown, match="does not let") as refusal:
        await remote.write(b"left", Writer(traffic=Right.PTZ), trio.current_time())
    assert refusal.value.reason is Reason.FORBIDDEN
    await remote.write(b"x", Writer(), trio.current_time())


async def test_without_a_link_each_class_is_refused_after_its_own_age_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    remote, driver, client = line(), Writer(traffic=Right.PTZ), Writer()
    began = trio.current_time()
    remote.away(began)
    assert remote.next_refusal(began) == began + 2
    await remote.write(b"x", driver, began)
    autojump_clock.jump(2)
    assert remote.next_refusal(trio.current_time()) == began + 15
    with pytest.raises(PortDown, match="down for 2 s"):
        await remote.write(b"x", driver, trio.current_time())
    await remote.write(b"x", client, trio.current_time())
    autojump_clock.jump(13)
    assert remote.next_refusal(trio.current_time()) == math.inf
    with pytest.raises(PortDown, match="down for 15 s"):
        await remote.write(b"x", client, trio.current_time())
    remote.away(math.inf)
    await remote.write(b"x", driver, trio.current_time())


async def test_what_is_not_wanted_any_more_is_not_taken() -> None:
    remote, writer = line(), Writer(revoked=True)
    with pytest.raises(Unwanted):
        await remote.write(b"x", writer, trio.current_time())
    with pytest.raises(Unwanted):
        await remote.turn(writer, trio.current_time(), b"x", None)


async def test_a_long_piece_goes_in_portions_of_line_and_no_more_of_them_than_keep_it_busy() -> None:
    remote, writer = line(ring_bytes=65536), Writer()
    ring = remote._session._streams[Channel.TCP].ring
    with trio.fail_after(5):
        await remote.transfer(bytes(500), writer, trio.current_time())
        assert ring.unsent.popleft().size == 500, "a short one is a message"
        remote.settled(Settled(Channel.TCP, 0, 500, None))
        remote._throughput = Throughput(960)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.transfer, bytes(600), writer, trio.current_time())
            await trio.testing.wait_all_tasks_blocked()
            assert [entry.size for entry in ring.unsent] == [96] * 5, "half a second of line"
            remote.settled(Settled(Channel.TCP, 500, 96, None))
            await trio.testing.wait_all_tasks_blocked()
            assert [entry.size for entry in ring.unsent] == [96] * 6
            remote.settled(Settled(Channel.TCP, 596, 96, None))
    assert ring.unsent[-1].size == 24
    remote.set_rate(460_800)
    assert remote._portion == 4608
    remote.set_rate(10_000_000)
    assert remote._portion == 8192


async def test_under_the_rule_of_the_owner_a_long_piece_is_as_few_requests_as_there_may_be() -> None:
    remote, writer = line(ring_bytes=65536), Writer()
    remote.set_rule(TurnRule("silence"))
    remote.set_rate(38_400)
    with trio.fail_after(5):
        await remote.transfer(bytes(1200), writer, trio.current_time())
    assert [entry.size for entry in remote._session._streams[Channel.TCP].ring.unsent] == [512, 512, 176]


async def test_over_the_fastest_link_a_long_piece_is_no_longer_message_than_a_link_carries() -> None:
    remote, writer = line(ring_bytes=65536), Writer()
    remote._throughput = Throughput(10_000_000)
    with trio.fail_after(5):
        await remote.transfer(bytes(65_536), writer, trio.current_time())
    assert [entry.size for entry in remote._session._streams[Channel.TCP].ring.unsent] == [8192] * 8


@pytest.mark.parametrize(
    ("rule", "newer", "gives_way"),
    [
        (None, b"first", False),
        (TurnRule("visca"), b"newer", False),
        (TurnRule("visca"), b"first", True),
        (TurnRule("modbus-rtu"), b"newer", True),
    ],
)
@pytest.mark.parametrize("how", ["waits", "was sent", "has parameters", "is another's", "is a link's"])
async def test_only_a_writers_own_request_that_was_not_sent_is_superseded_and_only_by_the_rule(
    rule: TurnRule | None, newer: bytes, gives_way: bool, how: str
) -> None:
    remote, writer = line(), Writer(is_mixed=how == "is a link's")
    remote.set_rule(rule)
    parameters = TurnParameters(1, b"", 9) if how == "has parameters" else None
    first = await remote.put(b"first", Writer() if how == "is another's" else writer, trio.current_time(), parameters)
    if how == "was sent":
        remote._session._streams[Channel.TCP].ring.advance()
    await remote.write(newer, writer, trio.current_time())
    assert remote.losses == ({Reason.WITHDRAWN: 5} if gives_way and how == "waits" else {})
    # What was sent has its turn all the same; its reply is then nobody's.
    assert (first.party is not first.claim.party) == (gives_way and how == "was sent")
    assert remote._bus.superseded == (gives_way and how in ("waits", "was sent"))


async def test_a_request_that_was_sent_is_superseded_once_however_often_its_successor_is_offered() -> None:
    remote, writer = line(), Writer()
    remote.set_rule(TurnRule("modbus-rtu"))
    await remote.write(b"first", writer, trio.current_time())
    remote._session._streams[Channel.TCP].ring.advance()
    for _ in range(3):
        remote.supersede(writer, b"newer")
    await remote.write(b"newer", writer, trio.current_time())
    assert remote._bus.superseded == 1


async def test_a_request_that_has_begun_keeps_its_reply_though_its_writer_sends_another() -> None:
    remote, writer = line(), Writer()
    remote.set_rule(TurnRule("modbus-rtu"))
    first = await remote.write(b"first", writer, trio.current_time())
    remote._session._streams[Channel.TCP].ring.advance()
    remote.settled(Settled(Channel.TCP, 0, 5, None))
    second = await remote.write(b"second", writer, trio.current_time())
    assert first.party is second.party is writer


async def test_a_reply_finds_the_message_that_it_answers_until_a_later_one_has_its_turn() -> None:
    remote, writer = line(), Writer()
    remote.set_rule(TurnRule("visca"))
    first, second = [await remote.write(data, writer, trio.current_time()) for data in (b"first", b"second")]
    remote.settled(Settled(Channel.TCP, 0, 11, None))
    assert remote.asker(Channel.TCP, 0) is remote.asker(Channel.TCP, 0) is first
    assert (first.holder, first.party) == (writer.holder, writer)
    assert remote.asker(Channel.PTZ, 0) is None
    assert remote.asker(Channel.LINE, 0) is None
    assert remote.asker(Channel.TCP, 5) is second
    assert second.data == b"", "a message that is written is kept no longer"
    assert remote.asker(Channel.TCP, 0) is None
    assert remote.asker(Channel.TCP, 11) is None


async def test_another_session_knows_no_reply_to_what_the_one_before_it_took() -> None:
    remote, writer = line(), Writer()
    remote.set_rule(TurnRule("visca"))
    await remote.write(b"first", writer, trio.current_time())
    remote.abandon(ClientSession(b"n" * 16, SessionLimits()))
    assert remote.asker(Channel.TCP, 0) is None
    assert writer.outcomes == [(5, Reason.UNCERTAIN)]


async def test_a_turn_begins_and_ends_when_the_owner_says_so() -> None:
    remote, writer, heard = line(), Writer(traffic=Right.CGI), ReceiveBuffer()
    began = []
    reply = Reply(3, b"\r" * 300, 5.0)
    with trio.fail_after(5):
        turn = await remote.turn(writer, trio.current_time(), b"ask", reply)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.write, lambda: began.append(True))
            await trio.testing.wait_all_tasks_blocked()
            remote.turned(Turn(Channel.CGI, 77, TurnPhase.BEGIN, TurnStatus.RUNNING))
            assert not began
            remote.turned(Turn(Channel.CGI, 0, TurnPhase.BEGIN, TurnStatus.RUNNING))
            assert began
            remote.settled(Settled(Channel.CGI, 0, 3, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.replied, heard, reply)
            await trio.testing.wait_all_tasks_blocked()
            remote.turned(Turn(Channel.CGI, 0, TurnPhase.END, TurnStatus.TIME))
        turn.close()
        turn.close()
        early = await remote.turn(writer, trio.current_time(), b"ask", reply)
        heard.deliver(b"abc")
        await early.replied(heard, reply)
        early.close()


async def test_a_turn_whose_message_is_lost_says_why() -> None:
    remote, writer = line(), Writer(traffic=Right.CGI)
    with trio.fail_after(5):
        turn = await remote.turn(writer, trio.current_time(), b"ask", None)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(PortDown, match="it is unknown") as lost:
                    await turn.write(lambda: None)
                assert lost.value.reason is Reason.UNCERTAIN

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            remote.settled(Settled(Channel.CGI, 0, 3, Reason.UNCERTAIN))


async def test_what_is_beside_the_data_stays_with_the_owner() -> None:
    with pytest.raises(LineError, match="belongs to another CPU"):
        await line().control((Break(0.1),), Writer(), trio.current_time())


async def test_a_watcher_is_told_what_the_owner_wrote_and_nothing_of_what_was_lost() -> None:
    bus, writer, other = Bus("P0"), Writer(), Writer(holder="another")
    limits = SessionLimits()
    remote = RemoteLine(ClientSession(b"n" * 16, limits), lambda: None, limits.age, bus)
    remote.set_rate(9600)
    told: list[tuple[bytes, str]] = []
    bus.attach_for_writing(lambda data, holder: told.append((data, holder)))
    await remote.write(b"abcd", writer, trio.current_time())
    await remote.write(b"efgh", other, trio.current_time())
    remote.settled(Settled(Channel.TCP, 0, 2, None))
    remote.settled(Settled(Channel.TCP, 2, 4, None))
    remote.settled(Settled(Channel.TCP, 6, 2, Reason.INCOMPLETE))
    assert told == [(b"ab", "a writer"), (b"cd", "a writer"), (b"ef", "another")]
    assert (writer.written, other.written) == (4, 2)
