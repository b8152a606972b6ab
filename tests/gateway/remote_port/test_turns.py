"""Turns by the owner's rule, over links: a reply reaches its asker and monitors, at every CPU, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.port.line import Reply
from gateway.port.rights import Right
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Turn
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.sharing.modbus_rtu import framed
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.remote_port.linked import Ear, chained, holds, node

if TYPE_CHECKING:
    from gateway.port.line import Asker
    from gateway.port.router import Session
    from protocol.sharing.exchange import Ending
    from tests.gateway.remote_port.linked import Node

MODBUS = TurnRule("modbus-rtu", reply_timeout=5.0, reply_silence=0.5, max_wait=9.0, gap=0.0)
HASTY = TurnRule("modbus-rtu", reply_timeout=0.05, reply_silence=0.01, max_wait=9.0, gap=0.0)


def request(unit: int) -> bytes:
    return framed(bytes([unit, 3, 0, 0x6B, 0, 3]))


def reply(unit: int) -> bytes:
    return framed(bytes([unit, 3, 6, unit, 1, 2, 3, 4, 5]))


class Client:
    """A client of a port that writes and hears."""

    def __init__(self, cpu: Node, right: Right = Right.TCP, *, monitor: bool = False) -> None:
        self.ear = Ear()
        handle = cpu.handle.attenuate(Right.READ | right, "a client")
        self.session: Session = handle.open(Right(0) if monitor else right)
        self.session.listen(self.ear)

    async def ask(self, unit: int) -> None:
        await self.session.write(request(unit))

    @property
    def heard(self) -> bytes:
        return self.ear.heard


class Marks:
    """The turns that a CPU's bus tells of."""

    def __init__(self, cpu: Node) -> None:
        self.told: list[str] = []
        cpu.bus.attach_for_turns(self.tell)

    def tell(self, asker: Asker | None, ending: Ending | None) -> None:
        self.told.append("begins" if asker is not None else "nobody's" if ending is None else ending.name)


async def written(owner: Node, data: bytes) -> None:
    """Wait until the tty has taken these bytes, behind what it took before."""
    await holds(lambda: owner.tty.taken.endswith(data))


async def test_a_reply_reaches_its_asker_and_monitors_at_every_cpu_and_nobody_else() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            asker, others = Client(far), [Client(cpu) for cpu in (owner, middle, far)]
            monitors = [Client(cpu, monitor=True) for cpu in (owner, middle, far)]
            marks = [Marks(cpu) for cpu in (owner, middle, far)]
            await asker.ask(7)
            await written(owner, request(7))
            owner.turns.heard(reply(7)[:4])
            owner.turns.heard(reply(7)[4:])
            owner.turns.heard(b"news")
            await holds(lambda: asker.heard == reply(7) + b"news")
            assert [monitor.heard for monitor in monitors] == [reply(7) + b"news"] * 3
            assert [other.heard for other in others] == [b"news"] * 3
            assert [each.told for each in marks] == [["begins", "WHOLE"]] * 3
            assert far.bus.state.value.turn_rule == MODBUS


async def test_many_requests_on_their_way_at_once_each_have_their_own_reply() -> None:
    with trio.fail_after(10):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            clients = {
                unit: Client((owner, middle, far)[unit % 3], (Right.TCP, Right.PTZ)[unit % 2]) for unit in range(1, 13)
            }
            async with trio.open_nursery() as nursery:
                for unit, client in clients.items():
                    nursery.start_soon(client.ask, unit)
                for turn in range(1, 13):
                    await holds(lambda size=8 * turn: len(owner.tty.taken) >= size)  # type: ignore[misc]
                    assert len(owner.tty.taken) == 8 * turn, "one at a time"
                    owner.turns.heard(reply(owner.tty.taken[-8]))
            await holds(lambda: all(client.heard for client in clients.values()))
            assert {unit: client.heard for unit, client in clients.items()} == {unit: reply(unit) for unit in clients}


async def test_cpus_that_are_linked_side_by_side_do_not_hear_each_others_replies() -> None:
    with trio.fail_after(5):
        async with chained(1, rule=MODBUS) as ((owner, left), (cable,)):
            right = node(owner.nursery, "right")
            right.dial(cable)
            await right.up()
            asker, other, monitor = Client(left), Client(right), Client(right, monitor=True)
            marks = Marks(right)
            await asker.ask(1)
            await written(owner, request(1))
            owner.turns.heard(reply(1))
            await other.ask(2)
            await written(owner, request(2))
            owner.turns.heard(reply(2))
            await holds(lambda: other.heard and asker.heard)
            assert (asker.heard, other.heard, monitor.heard) == (reply(1), reply(2), reply(1) + reply(2))
            assert marks.told == ["begins", "WHOLE"], "a turn is told to the link alone that asked"


async def test_a_reply_that_comes_too_late_is_monitors_alone_and_spoils_no_other() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=HASTY) as ((owner, _, far), _):
            asker, next_one, monitor = Client(far), Client(far), Client(far, monitor=True)
            marks = Marks(far)
            await asker.ask(1)
            await written(owner, request(1))
            await holds(lambda: marks.told == ["begins", "TIME"])
            owner.turns.heard(reply(1))
            await next_one.ask(2)
            await written(owner, request(2))
            owner.turns.heard(reply(2))
            await holds(lambda: next_one.heard)
            assert (asker.heard, next_one.heard, monitor.heard) == (b"", reply(2), reply(1) + reply(2))


@pytest.mark.parametrize("which", [0, 1])
async def test_a_reply_is_its_askers_over_a_link_that_was_cut_in_the_turn(which: int) -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), cables):
            asker, others = Client(far), [Client(cpu) for cpu in (middle, far)]
            await asker.ask(7)
            await written(owner, request(7))
            cables[which].cut()
            await holds(lambda: not (middle, far)[which].device.linked)
            owner.turns.heard(reply(7))
            owner.turns.heard(b"news")
            await holds(lambda: asker.heard == reply(7) + b"news")
            await holds(lambda: all(other.heard == b"news" for other in others))


async def test_a_reply_whose_asker_has_gone_is_nobodys() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            asker, others = Client(far), [Client(cpu) for cpu in (middle, far)]
            monitor = Client(far, monitor=True)
            await asker.ask(7)
            await written(owner, request(7))
            asker.session.end("it left")
            owner.turns.heard(reply(7))
            owner.turns.heard(b"news")
            await holds(lambda: monitor.heard == reply(7) + b"news")
            assert [other.heard for other in others] == [b"news"] * 2


async def test_a_link_whose_session_is_over_in_the_turn_leaves_the_reply_to_nobody() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            asker, other, marks = Client(far), Client(middle), Marks(far)
            await asker.ask(7)
            await written(owner, request(7))
            await holds(lambda: marks.told == ["begins"])
            middle.reopen()
            far.device._attempt.cancel()
            await holds(lambda: marks.told == ["begins", "ABORTED"])
            await far.up()
            owner.turns.heard(reply(7))
            owner.turns.heard(b"news")
            await holds(lambda: asker.heard == b"news" and other.heard == b"news")


async def test_a_device_that_is_lost_in_a_turn_aborts_it_at_every_cpu() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            asker, marks = Client(far), [Marks(cpu) for cpu in (middle, far)]
            await asker.ask(7)
            await written(owner, request(7))
            owner.bus.disconnect("the cable is out")
            await holds(lambda: all(each.told == ["begins", "ABORTED"] for each in marks))
            await far.down()


@pytest.mark.parametrize("what", ["device", "right"])
async def test_a_turn_with_parameters_whose_device_or_right_is_lost_ends_aborted(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[TurnPhase, TurnStatus]] = []
    with trio.fail_after(5):
        async with chained(1) as ((owner, far), _):
            asker = Client(far, Right.CGI)
            monkeypatch.setattr(far.device._line, "turned", lambda turn: told.append((turn.phase, turn.status)))
            async with asker.session.turn(b"?", Reply(9, None, 0.3)) as turn:
                await turn.write(lambda: None)
                await written(owner, b"?")
                if what == "device":
                    owner.bus.disconnect("the cable is out")
                else:
                    (session,) = owner.service.sessions
                    session.permit(Right.TCP)
                await holds(lambda: len(told) == 2)
    assert told == [(TurnPhase.BEGIN, TurnStatus.RUNNING), (TurnPhase.END, TurnStatus.ABORTED)]


async def test_a_request_of_serial_cgi_over_a_link_is_answered_alone_as_well() -> None:
    with trio.fail_after(5):
        async with chained(2, rule=MODBUS) as ((owner, middle, far), _):
            asker, others = Client(far, Right.CGI), [Client(cpu) for cpu in (owner, middle, far)]
            whole, marks = Reply(len(reply(7)), None, 3.0), [Marks(middle), Marks(far)]

            async def ask() -> None:
                async with asker.session.turn(request(7), whole) as turn:
                    await turn.write(lambda: None)
                    await holds(lambda: asker.heard)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await written(owner, request(7))
                owner.turns.heard(reply(7))
            assert asker.heard == reply(7)
            assert not any(other.heard for other in others)
            assert not any(each.told for each in marks), "who asked with parameters is told himself"


async def test_a_turn_whose_end_was_dropped_is_over_when_the_next_begins() -> None:
    with trio.fail_after(5):
        async with chained(1, rule=MODBUS) as ((owner, far), _):
            asker, marks = Client(far), Marks(far)
            for _ in range(2):
                await asker.ask(7)
            await written(owner, request(7))
            await holds(lambda: marks.told == ["begins"])
            far.device._turned(Turn(Channel.TCP, 8, TurnPhase.BEGIN, TurnStatus.RUNNING))
            assert marks.told == ["begins", "ABORTED", "begins"]
            far.device._turned(Turn(Channel.TCP, 8, TurnPhase.END, TurnStatus.SILENCE))
            far.device._turned(Turn(Channel.TCP, 8, TurnPhase.END, TurnStatus.SILENCE))
            assert marks.told == ["begins", "ABORTED", "begins", "SILENCE"]


async def test_a_session_that_a_bug_ended_ends_its_turn_too() -> None:
    with trio.fail_after(5):
        async with chained(1, rule=MODBUS) as ((owner, far), _):
            asker, marks = Client(far), Marks(far)
            await asker.ask(7)
            await written(owner, request(7))
            await holds(lambda: marks.told == ["begins"])
            far.device._start_over()
            assert marks.told == ["begins", "ABORTED"]


async def test_a_newer_request_takes_the_place_of_one_that_no_link_has_carried_yet() -> None:
    with trio.fail_after(5):
        async with chained(1, rule=MODBUS) as ((owner, far), (cable,)):
            asker, other = Client(far), Client(far)
            cable.unplug()
            await holds(lambda: not far.device.linked)
            for unit in (1, 2, 3):
                await asker.ask(unit)
            await other.ask(9)
            assert far.device.losses == {Reason.WITHDRAWN: 16}
            cable.plug()
            await written(owner, request(3))
            owner.turns.heard(reply(3))
            await written(owner, request(9))
            assert owner.tty.taken == request(3) + request(9)
            await holds(lambda: asker.session.counters.written == 8)
            assert asker.session.counters.dropped == 16


async def test_a_turn_that_cannot_be_told_ends_that_session_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("a number that nobody expected")

    with trio.fail_after(8):
        async with chained(1, rule=HASTY) as ((owner, far), _):
            asker, local, monitor = Client(far), Client(owner), Client(owner, monitor=True)
            (session,) = owner.service.sessions
            session.session.turn = fail  # type: ignore[method-assign, assignment]  # the bug
            await asker.ask(7)
            await holds(lambda: session not in owner.service.sessions)
            assert sum(record.exc_info is not None for record in caplog.records) == 1
            await far.up()
            for client, unit in ((local, 8), (asker, 9)):
                await client.ask(unit)
                await written(owner, request(unit))
                owner.turns.heard(reply(unit))
                while client.heard != reply(unit):
                    await trio.lowlevel.checkpoint()
            assert monitor.heard == reply(8) + reply(9)
