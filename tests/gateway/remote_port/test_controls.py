"""What clients two links away ask of a line beside their bytes, and what they are told of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.port.bus import Bus
from gateway.port.control import Break, Configure, HoldBreak, Pause, Purge, SetLines
from gateway.port.line import LineError, ModemLines, PortDown
from gateway.port.rights import Right
from gateway.remote_port import controls as remote_controls
from gateway.remote_port import server as remote_server
from gateway.remote_port.line import RemoteLine
from gateway.serial_line.beside import look_beside
from gateway.serial_line.controls import Controls
from gateway.serial_line.tty import Counters
from gateway.serial_line.uart import UartError
from gateway.web import control as web_control
from gateway.web.control import answer
from protocol.link.control_frames import CONTROLS, LineErrors
from protocol.link.control_steps import ControlRequest
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Control, UpData
from protocol.parameters.addresses import AddressList
from protocol.session.client import ClientSession
from protocol.session.send_stream import Settled
from protocol.session.session import SessionLimits
from tests.gateway.line import Writer
from tests.gateway.remote_port.linked import KEY, Cable, Node, chained, holds, node
from tests.gateway.serial_line.test_controls import Modem
from tests.protocol.session.links import B_NODE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from gateway.port.line import Claim
    from gateway.port.router import Session


def no_modem_lines() -> ModemLines:
    raise UartError("this device has no modem lines")


SLOW = Configure((("BaudRate", "2400"),))


@dataclass
class Blade:
    """An owner with modem lines, and CPUs that are chained to it."""

    tty: Modem
    nodes: list[Node]
    cables: list[Cable]
    held: dict[Claim, dict[str, str]] = field(default_factory=dict)
    put_back: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[str]:
        return [what for what, _ in self.tty.log]

    @property
    def owner(self) -> Node:
        return self.nodes[0]

    @property
    def far(self) -> Node:
        return self.nodes[-1]

    async def hold(self, claim: Claim, values: Mapping[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        if not self.held.keys() - {claim}:
            self.held[claim] = dict(values)
            rate = int(values.get("BaudRate", 9600))
            self.owner.bus.adjusted(rate, f"RS232 {rate} 8N1")

    def release(self, claim: Claim) -> None:
        if self.held.pop(claim, None) is not None:
            self.put_back.append(claim.holder)
            self.owner.bus.adjusted(9600, "RS232 9600 8N1")


@asynccontextmanager
async def blade(hops: int = 2) -> AsyncIterator[Blade]:
    tty = Modem()
    made = Blade(tty, [], [])
    controls = Controls(tty.as_uart, made.hold, made.release)
    with trio.fail_after(20):
        async with chained(hops, tty=tty, controls=controls) as (made.nodes, made.cables):
            made.owner.nursery.start_soon(controls.run)
            made.owner.nursery.start_soon(look_beside, tty.as_uart, made.owner.bus, trio.CancelScope())
            yield made


async def test_what_is_asked_two_links_away_is_done_in_order_with_the_bytes_of_who_asks() -> None:
    async with blade() as line:
        mine = line.far.control()
        await mine.write(b"before")
        await mine.control(SetLines(dtr=False, rts=True), Pause(0.01), SetLines(dtr=True))
        assert line.tty.taken == b"before"
        await mine.write(b"after")
        await mine.control(Break(0.01))
        assert line.tty.taken == b"beforeafter"
        assert line.done == ["dtr False rts True", "dtr True rts None", "break", "no break"]
        assert mine.modem_lines() == line.tty.lines
        assert (mine.counters.received, mine.counters.written) == (11, 11)
        assert all(sum(node.device.losses.values()) == 0 for node in line.nodes[1:])


async def test_the_owner_says_what_chained_clients_may() -> None:
    async with blade() as line:
        mine = line.far.control()
        for may, refused in ((Right.LINES, SLOW), (Right.CONFIGURE, SetLines(dtr=False)), (Right(0), Purge())):
            line.owner.service.update_policy(AddressList(), KEY, ptz=True, controls=may)
            while line.far.bus.state.value.control_rights != may:
                await trio.lowlevel.checkpoint()
            with pytest.raises(LineError, match="does not let others"):
                await mine.control(refused)
        assert (line.done, line.held) == ([], {})


async def test_what_a_client_holds_is_its_own_and_put_back_when_it_leaves_and_the_link_stays() -> None:
    async with blade() as line:
        first, second = line.far.control("first"), line.far.control("second")
        await first.control(SLOW)
        assert first.state.value.known_settings["BaudRate"] == 2400
        await second.control(Configure((("BaudRate", "4800"),)))
        assert second.state.value.known_settings["BaudRate"] == 2400, "another holds it"
        second.close()
        await line.far.connect(Right.CGI).write(b"x")
        await holds(lambda: line.tty.taken)
        assert line.put_back == []
        first.close()
        await holds(lambda: line.put_back)
        (holder,) = line.put_back
        assert holder.startswith("127.0.0.1:")
        assert holder.endswith("R0) client 1")
        assert line.nodes[1].device.linked
        await holds(lambda: line.far.bus.state.value.known_settings["BaudRate"] == 9600)


async def test_a_break_that_is_held_ends_with_its_client() -> None:
    async with blade() as line:
        mine = line.far.control()
        await mine.control(HoldBreak(on=True))
        assert line.done == ["break"]
        mine.end("kicked")
        await holds(lambda: line.done == ["break", "no break"])


@pytest.mark.parametrize("hop", [0, 1])
async def test_a_control_is_done_once_though_the_link_drops_in_its_middle(hop: int) -> None:
    async with blade() as line:
        mine = line.far.control()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.control, SetLines(dtr=False), Pause(0.1), SetLines(dtr=True))
            await holds(lambda: line.done)
            line.cables[hop].cut()
        assert line.done == ["dtr False rts None", "dtr True rts None"]
        assert mine.modem_lines().dtr


@pytest.mark.parametrize("hop", [0, 1])
async def test_what_is_held_is_put_back_when_a_link_is_lost_for_good(hop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_server, "RESUME_WINDOW", 0.2)
    async with blade() as line:
        mine = line.far.control()
        await mine.control(SLOW, HoldBreak(on=True))
        line.cables[hop].unplug()
        await holds(lambda: line.put_back)
        assert line.done == ["break", "no break"]


async def test_a_right_that_goes_takes_what_is_held_by_it() -> None:
    async with blade() as line:
        mine = line.far.control()
        await mine.control(SLOW)
        line.owner.service.update_policy(AddressList(), KEY, ptz=True, controls=Right.LINES)
        assert line.put_back
        await holds(lambda: line.far.bus.state.value.control_rights == Right.LINES)
        await mine.control(SetLines(dtr=False))


async def test_a_step_that_fails_is_told_to_who_asked() -> None:
    async with blade() as line:
        line.tty.takes_breaks = False
        with pytest.raises(LineError, match="did not carry it out"):
            await line.far.control().control(Break(0.1))


async def test_who_waits_for_the_line_is_told_that_he_may_not_any_more_or_that_it_has_gone() -> None:
    async with blade() as line:
        mine = line.far.control()
        turn = await line.owner.turns.turn(Writer(), trio.current_time(), b"a question")

        async def refused(reason: Reason) -> None:
            with pytest.raises(PortDown) as caught:
                await mine.control(SetLines(dtr=False))
            assert caught.value.reason is reason

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, Reason.FORBIDDEN)
            await holds(lambda: line.owner.turns._waiting)
            line.owner.service.update_policy(AddressList(), KEY, ptz=True)
        line.owner.service.update_policy(AddressList(), KEY, ptz=True, controls=Right.LINES)
        await holds(lambda: line.far.bus.state.value.control_rights == Right.LINES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, Reason.PORT_DOWN)
            await holds(lambda: line.owner.turns._waiting)
            line.owner.turns.end("the cable is out")
        turn.close()
        assert line.done == []


async def test_modem_lines_breaks_and_errors_come_down_while_anybody_wants_to_know() -> None:
    async with blade() as line:
        mine, other = line.far.control(), line.far.control("other")
        assert line.owner.bus.lookers.value == 0
        line.tty.counted = Counters(0, 0, framing=3, overrun=1, parity=2, breaks=0, buffer_overrun=4)
        mine.watch_lines(True)
        other.watch_lines(True)
        await holds(lambda: mine.state.value.line_errors == LineErrors(5, 2, 3))
        line.tty.lines = replace(line.tty.lines, cts=True, ri=True)
        await holds(lambda: mine.state.value.modem_lines == line.tty.lines)
        line.owner.bus.broke(2)
        await holds(lambda: mine.state.value.breaks == 2)
        mine.close()
        other.watch_lines(False)
        await holds(lambda: line.owner.bus.state.value.line_errors is None)
        assert line.owner.bus.lookers.value == 0


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_websocket_that_asks_for_the_modem_lines_has_them_as_they_are_and_nobody_looks_after_that(
    hops: int,
) -> None:
    async with blade(hops) as line:
        mine, other = line.far.connect(Right.TCP), line.far.connect(Right.CGI)

        async def ask(session: Session) -> object:
            told = await answer('{"request": "modem"}', session)
            assert "error" not in told, told
            return told["lines"]

        for on in (True, False, True):
            line.tty.lines = replace(line.tty.lines, cts=on, dcd=not on)
            assert await ask(mine) == asdict(line.tty.lines)
        assert await ask(mine) == asdict(line.tty.lines), "though that is no news"
        async with trio.open_nursery() as nursery:
            line.tty.lines = replace(line.tty.lines, ri=True)
            for session in (mine, other):
                nursery.start_soon(ask, session)
        line.cables[-1].cut()
        line.tty.lines = replace(line.tty.lines, dsr=True)
        assert await ask(mine) == asdict(line.tty.lines), "the question goes to the next connection too"
        await holds(lambda: line.owner.bus.lookers.value == 0)
        assert [node.bus.lookers.value for node in line.nodes] == [0] * (hops + 1)


async def test_who_asks_for_modem_lines_is_told_why_there_are_none_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    async with blade(1) as line:
        mine = line.far.connect(Right.TCP)

        async def ask() -> object:
            return (await answer('{"request": "modem"}', mine))["error"]

        with monkeypatch.context() as patch:
            patch.setattr(line.tty, "modem_lines", no_modem_lines)
            assert await ask() == "the line has no modem lines"
        line.cables[0].freeze()
        monkeypatch.setattr(web_control, "_PATIENCE", 0.05)
        assert await ask() == "the owner of the line did not say within 0.05 s how its modem lines are"
        assert line.far.bus.lookers.value == 0
        monkeypatch.setattr(web_control, "_PATIENCE", 20)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask_in_vain() -> None:
                assert await ask() == "the cable is out"

            await holds(lambda: line.far.bus.lookers.value)
            line.far.bus.disconnect("the cable is out")


async def test_a_link_that_asks_for_the_lines_without_end_has_one_look_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_controls, "_BURST", 3)
    monkeypatch.setattr(remote_controls, "_PAUSE", 60.0)
    async with blade(1) as line:
        for _ in range(100):
            line.far.device._session.ask()
            line.far.device._flush()
            await trio.testing.wait_all_tasks_blocked()
        assert line.tty.looks < 20
        await line.far.connect(Right.CGI).write(b"x")
        await holds(lambda: line.tty.taken == b"x")


async def test_breaks_while_there_was_no_session_are_counted_and_none_that_another_has_told_already() -> None:
    async with blade(1) as line:
        far, owner, cable = line.far, line.owner, line.cables[0]
        ear = far.listen()

        async def comes_back(breaks: int) -> None:
            """Be linked to a server that knows of no session, where so many breaks are counted by now."""
            cable.unplug()
            await holds(lambda: not far.device.linked)
            killed = owner.service
            owner.reopen()
            killed.revoke("killed")
            owner.bus.state.set(replace(owner.bus.state.value, breaks=breaks))
            gaps = len(ear.missed)
            cable.plug()
            await holds(lambda: len(ear.missed) > gaps)
            owner.bus.broke(1)

        owner.bus.broke(2)
        await holds(lambda: far.bus.state.value.breaks == 2)
        await comes_back(5)  # it went on counting
        await holds(lambda: far.bus.state.value.breaks == 6)
        await comes_back(1)  # it was restarted, and counts anew
        await holds(lambda: far.bus.state.value.breaks == 8)
        another = node(owner.nursery, "another")
        another.own()
        await another.serve()
        another.bus.broke(100)
        cable.unplug()
        cable.to = another.port
        await holds(lambda: not far.device.linked)
        owner.service.revoke("killed")
        cable.plug()
        await holds(lambda: far.device._told is not None and far.device._told[0] == another.node)
        another.bus.broke(1)
        await holds(lambda: far.bus.state.value.breaks == 9)
        assert len(ear.missed) == 3, "what cannot be counted is a gap of unknown size"
        assert set(ear.missed) == {(0, Reason.RESTARTED)}


async def test_whoever_wants_to_know_is_told_on_the_next_connection_too() -> None:
    async with blade() as line:
        mine = line.far.control()
        mine.watch_lines(True)
        await holds(lambda: mine.state.value.modem_lines is not None)
        line.cables[0].cut()
        await holds(lambda: line.owner.bus.lookers.value == 0)
        await holds(lambda: line.owner.bus.lookers.value == 1)
        line.tty.lines = ModemLines(*[True] * 6)
        await holds(lambda: mine.state.value.modem_lines == line.tty.lines)


async def test_a_purge_takes_what_is_on_its_way_and_the_driver_where_nobody_else_writes() -> None:
    async with blade() as line:
        mine, other = line.far.control(), line.far.control("other")
        await mine.control(Purge())
        assert line.done == [], "another client is there"
        other.close()
        await mine.control(Purge())
        assert line.done == ["purge"]
        local = line.owner.connect(Right.TCP)
        await mine.control(Purge())
        assert line.done == ["purge"], "the owner has a client"
        local.close()
        line.cables[1].unplug()
        await holds(lambda: not line.far.device.linked)
        await mine.write(b"never")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.control, Purge())
            await holds(lambda: mine.counters.dropped == 5)
            line.cables[1].plug()
        assert (line.tty.taken, line.done) == (b"", ["purge", "purge"])


async def test_so_many_clients_of_a_link_hold_something_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_controls, "_MOST_CLIENTS", 2)
    async with blade(1) as line:
        sessions = [line.far.control(f"{number}") for number in range(3)]
        for session in sessions[:2]:
            await session.control(SetLines(dtr=False))
        with pytest.raises(PortDown) as caught:
            await sessions[2].control(SetLines(dtr=False))
        assert caught.value.reason is Reason.FORBIDDEN
        sessions[0].close()
        await sessions[2].control(SetLines(dtr=False))


async def test_a_link_that_asks_without_end_waits_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_controls, "_BURST", 3)
    monkeypatch.setattr(remote_controls, "_PAUSE", 60.0)
    async with blade(1) as line:
        mine = line.far.control()
        for _ in range(3):
            await mine.control(SetLines(dtr=False))
        with trio.move_on_after(0.05) as patience:
            await mine.control(SetLines(dtr=False))
        assert patience.cancelled_caught
        await line.far.connect(Right.CGI).write(b"x")
        await holds(lambda: line.tty.taken == b"x")


# -- the far end alone -------------------------------------------------------------------------------------------------


def remote(features: int = CONTROLS, ring_bytes: int = 1000) -> tuple[RemoteLine, ClientSession]:
    limits = SessionLimits(ring_bytes=ring_bytes)
    client = ClientSession(b"n" * 16, limits)
    made = RemoteLine(client, lambda: None, limits.age, Bus("P0"))
    client.attach(B_NODE, features)
    made.set_rate(9600)
    made.follow(Right.LINES | Right.CONFIGURE, None)
    return made, client


def waiting(client: ClientSession, channel: Channel = Channel.TCP) -> list[UpData]:
    return [each.frame for each in client._streams[channel].ring.unsent if isinstance(each.frame, UpData)]


def settle(made: RemoteLine, frame: UpData, reason: Reason | None) -> None:
    made.settled(Settled(frame.channel, frame.offset, len(frame.data), reason))


async def asked(made: RemoteLine, writer: Writer) -> trio.CancelScope:
    """Ask for something, and go away while it waits."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.control, [SetLines(dtr=False)], writer, trio.current_time())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    return scope


async def test_what_waits_is_withdrawn_with_who_asked_and_that_he_left_is_said_until_it_is_known() -> None:
    made, client = remote()
    writer = Writer()
    await asked(made, writer)
    assert waiting(client) == []
    made.let_go(writer)
    made.let_go(writer)
    for reason in (Reason.TOO_OLD, Reason.UNCERTAIN, None):
        said = waiting(client)[-1]
        assert isinstance(said, Control)
        assert ControlRequest.decode(said.data) == ControlRequest(1)
        settle(made, said, reason)
    assert waiting(client)[-1] is said
    assert made._leaving == {}


async def test_that_somebody_left_is_said_when_there_is_room() -> None:
    made, client = remote(ring_bytes=14)
    writer, other = Writer(), Writer()
    await asked(made, writer)
    await made.write(b"0123456789x", other, trio.current_time())
    made.let_go(writer)
    (message,) = waiting(client)
    client._streams[Channel.TCP].abandon(Reason.CLOSED)
    settle(made, message, Reason.CLOSED)
    assert ControlRequest.decode(waiting(client)[-1].data) == ControlRequest(1)


async def test_who_leaves_a_server_that_knows_no_controls_or_with_the_session_says_nothing() -> None:
    made, client = remote()
    writer = Writer()
    await asked(made, writer)
    client.attach(B_NODE, 0)
    made.let_go(writer)
    assert made._leaving == {}
    with pytest.raises(LineError, match="no controls over a link"):
        await made.control([Purge()], writer, trio.current_time())
    with pytest.raises(LineError, match="no controls over a link"):
        made.modem_lines()
    client.attach(B_NODE, CONTROLS)
    await asked(made, writer)
    with pytest.raises(LineError, match="no modem lines"):
        made.modem_lines()
    made.let_go(writer)
    made.let_all_go()
    settle(made, waiting(client)[-1], Reason.UNCERTAIN)
    assert len(waiting(client)) == 1


async def test_the_end_of_a_session_is_told_to_who_waits() -> None:
    made, client = remote()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(PortDown) as caught:
                await made.control([SetLines(dtr=False)], Writer(), trio.current_time())
            assert caught.value.reason is Reason.CLOSED

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for settled in client.abandon(Reason.CLOSED):
            made.settled(settled)
    await made.still()
    assert sum(made.losses.values()) == 0
