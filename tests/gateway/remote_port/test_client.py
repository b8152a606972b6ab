"""A chained CPU's side of the link: what is kept, what is refused, and what nobody may write twice or late."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.serial_cgi import SerialCgi
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.remote_port import client as remote_device
from gateway.remote_port import link
from gateway.remote_port.link import Link
from protocol.http.serial_cgi import SerialRequest
from protocol.link.reasons import CloseReason, Reason
from protocol.link.stream_frames import Channel
from protocol.session.session import NO_SESSION
from tests.gateway.remote_port.linked import chained, holds, node

if TYPE_CHECKING:
    from gateway.port.router import Session
    from tests.gateway.remote_port.linked import Cable, Node


def age_limits(far: Node, channel: Channel, seconds: float) -> None:
    far.device._line._age_limits[channel] = seconds


async def unplugged(far: Node, cable: Cable) -> None:
    cable.unplug()
    await holds(lambda: not far.device.linked)


async def test_a_link_cut_at_random_places_costs_no_byte_either_way() -> None:
    up, down = random.randbytes(20_000), random.randbytes(20_000)
    with trio.fail_after(10):
        async with chained(2) as ((owner, _, far), cables):
            ear, client = far.listen(), far.connect(Right.TCP)

            async def talk() -> None:
                for start in range(0, len(up), 100):
                    await client.transfer(up[start : start + 100])
                    owner.bus.deliver(down[start : start + 100])
                    if start % 1000 == 0:
                        cable = cables[start // 1000 % 2]
                        joined = cable.joined
                        cable.cut()
                        await holds(lambda: cable.joined > joined)  # noqa: B023

            await talk()
            await holds(lambda: len(owner.tty.taken) >= len(up) and len(ear.heard) >= len(down))
            assert (owner.tty.taken, ear.heard) == (up, down)
            await holds(lambda: client.counters.written == len(up))
            assert not far.device.losses
            shown = far.device.status()["remote_port_client"]
            assert isinstance(shown, dict)
            assert shown["bytes_written"] == len(up)
            assert all(cable.joined > 10 for cable in cables)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_flipped_bit_is_never_delivered_and_the_session_goes_on(way: str) -> None:
    with trio.fail_after(10):
        async with chained() as ((owner, far), (cable,)):
            ear, client, said = far.listen(), far.connect(Right.TCP), b""
            for number in range(20):
                cable.flip = way
                piece = b"%04d" % number
                said += piece
                await client.write(piece)
                owner.bus.deliver(piece)
                await holds(lambda: (owner.tty.taken, ear.heard) == (said, said))  # noqa: B023
            assert cable.joined > 10
            assert not far.device.losses
            assert not ear.missed


async def test_a_peer_that_falls_silent_is_left_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_QUIET": 0.1, "_SILENT": 0.2, "_LOOK": 0.05}.items():
        monkeypatch.setattr(link, name, seconds)
    with trio.fail_after(20):
        async with chained() as ((owner, far), (cable,)):
            client = far.connect(Right.TCP)
            cable.freeze()
            await client.write(b"on its way")
            await holds(lambda: "silent" in far.unit.state)
            cable.thaw()
            await holds(lambda: owner.tty.taken == b"on its way" and client.counters.written == 10)


async def test_before_the_first_session_writes_are_refused_at_once() -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            cable = await owner.serve()
            cable.unplug()
            far = node(owner.nursery, "far")
            far.dial(cable)
            await holds(lambda: far.unit.settled.is_set() and "hung up" in far.unit.state)
            with pytest.raises(PortDown):
                await far.connect(Right.PTZ).write(b"left")


async def test_while_a_session_can_go_on_writes_are_kept_and_then_written_in_the_order_of_their_classes() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            (session,) = owner.service.sessions
            arrived = []
            take = session.session.receive

            def receive(number: int, frame: object, now: int) -> list[object]:
                arrived.append(getattr(frame, "channel", None) if type(frame).__name__ == "UpData" else None)
                return list(take(number, frame, now))  # type: ignore[arg-type]  # any frame

            await unplugged(far, cable)
            for right in (Right.TCP, Right.CGI, Right.PTZ):
                await far.connect(right).write(right.name.encode() if right.name else b"")
            object.__setattr__(session, "session", _Recording(session.session, receive))
            cable.plug()
            await holds(lambda: len(owner.tty.taken) == 9)
            assert [channel for channel in arrived if channel] == [Channel.PTZ, Channel.CGI, Channel.TCP]


class _Recording:
    """A session whose frames are noted."""

    def __init__(self, session: object, receive: object) -> None:
        self._session = session
        self.receive = receive

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)


async def test_a_command_older_than_its_limit_is_not_written_late() -> None:
    with trio.fail_after(8):
        async with chained() as ((owner, far), (cable,)):
            driver = far.connect(Right.PTZ)
            await unplugged(far, cable)
            began = trio.current_time()
            await driver.write(b"stale")
            await holds(lambda: far.device.losses == {Reason.TOO_OLD: 5})
            assert 1.9 < trio.current_time() - began < 3
            cable.plug()
            await holds(lambda: far.device.linked and far.device._session.resumed)
            await driver.write(b"fresh")
            await holds(lambda: owner.tty.taken == b"fresh")
            assert driver.counters.dropped == 5


async def test_a_link_away_for_too_long_has_its_clients_read_and_refused() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            age_limits(far, Channel.TCP, 0.3)
            client = far.connect(Right.TCP)
            await unplugged(far, cable)
            with pytest.raises(PortDown, match="down for") as refusal:
                await client.transfer(bytes(20_000))
            assert refusal.value.reason is Reason.TOO_OLD
            with pytest.raises(PortDown):
                await client.write(b"at once")
            await far.connect(Right.CGI).write(b"whose limit is another")
            cable.plug()
            await holds(lambda: far.device._session.resumed)
            await client.write(b"again")
            await holds(lambda: owner.tty.taken.endswith(b"again"))


async def test_the_resume_window_runs_from_the_loss_however_often_the_server_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_device, "RESUME_WINDOW", 0.6)
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), (cable,)):
            client = far.connect(Right.TCP)
            await client.write(b"begun!")
            await holds(lambda: client.counters.written == 3)
            monkeypatch.setattr(owner.service, "_refusal", lambda *_: CloseReason.BUSY)
            cable.cut()
            began = trio.current_time()
            await holds(lambda: "refuses the link: busy" in far.unit.state)
            await client.write(b"kept")
            await holds(lambda: far.bus.down is not None and "resume window" in far.bus.down)
            assert 0.5 < trio.current_time() - began < 1.5
            assert far.device.losses == {Reason.UNCERTAIN: 3, Reason.PORT_DOWN: 4}
            with pytest.raises(PortDown):
                await client.write(b"refused at once")


async def test_a_session_that_never_was_is_not_said_to_be_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)), trio.open_nursery() as nursery:
            monkeypatch.setattr(owner.service, "_refusal", lambda *_: CloseReason.BUSY)
            late = node(nursery, "late")
            late.dial(cable)
            await holds(lambda: "busy" in late.unit.state)
            assert late.unit.state == "the server refuses the link: busy"
            assert late.bus.down == "the server refuses the link: busy"
            owner.service.revoke("the test says so")
            await holds(lambda: far.unit.state == "the session is over: revoked")
            nursery.cancel_scope.cancel()


async def test_a_server_that_refuses_a_session_is_asked_ever_more_rarely() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            began, joined = trio.current_time(), cable.joined
            owner.bus.route()  # it has no way to the line now, so it says CLOSE instead of OPENED
            cable.cut()
            await holds(lambda: cable.joined >= joined + 4)
            assert trio.current_time() - began > 0.4
            assert far.device._session.id != NO_SESSION


async def test_after_a_restart_of_the_server_what_was_sent_is_uncertain_and_never_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), (cable,)):
            ear, client = far.listen(), far.connect(Right.TCP)
            await client.write(b"begun!")
            await holds(lambda: client.counters.written == 3)
            await unplugged(far, cable)
            killed = owner.service
            owner.reopen()
            killed.revoke("killed")
            await client.write(b"not sent")
            owner.own()
            cable.plug()
            await holds(lambda: client.counters.written == 11)
            assert owner.tty.taken == b"not sent"
            assert far.device.losses == {Reason.UNCERTAIN: 3}
            assert client.counters.dropped == 3
            assert ear.missed == [(0, Reason.RESTARTED)]
            assert "P0 remote port: 3 TCP bytes sent: it is unknown" in caplog.text


async def test_a_node_that_finds_itself_on_the_path_stays_out_and_says_why() -> None:
    with trio.fail_after(8):
        async with chained(2) as ((owner, _, far), _):
            cable = await far.serve()
            second = node(owner.nursery, "the owner's second port")
            second.key = owner.key
            second.dial(cable)
            await holds(lambda: "loop" in second.unit.state)
            await holds(lambda: not far.service.sessions)
            joined = cable.joined
            with trio.move_on_after(1):
                await trio.sleep_forever()
            assert cable.joined - joined < 8
            assert second.bus.state.value.path == ()
            assert far.bus.down is None


async def test_a_ring_of_three_has_no_way_to_a_line_and_all_of_it_says_so() -> None:
    with trio.fail_after(8):
        async with chained(2) as ((owner, middle, far), _):
            cable = await far.serve()
            owner.bus.disconnect("its settings changed")
            owner.dial(cable)
            await holds(lambda: "no path" in owner.unit.state)
            for each in (owner, middle, far):
                await each.down()
                assert each.bus.state.value.path == ()


async def test_a_path_that_is_full_can_be_used_and_leads_nobody_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_device, "MAX_PATH", 2)
    with trio.fail_after(5):
        async with chained(2) as ((owner, _, far), _):
            await far.connect(Right.TCP).write(b"x")
            await holds(lambda: owner.tty.taken == b"x")
            further = node(owner.nursery, "further")
            further.dial(await far.serve())
            await holds(lambda: "no path" in further.unit.state)


async def test_keys_are_renewed_by_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_device, "_REKEY", 0.2)
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            (session,) = owner.service.sessions
            client = far.connect(Right.TCP)
            for number in range(50):
                await client.write(b"%d " % number)
                await holds(lambda: client.counters.written == client.counters.received)
            await holds(lambda: cable.joined > 3)
            assert owner.service.sessions == (session,)
            assert owner.tty.taken == b"".join(b"%d " % number for number in range(50))


async def test_a_full_ring_drops_the_oldest_and_every_hop_hears_how_much() -> None:
    with trio.fail_after(10):
        async with chained(2) as ((owner, middle, far), (cable, _)):
            ears = middle.listen(), far.listen()
            await unplugged(middle, cable)
            said = random.randbytes(2 << 20)
            for start in range(0, len(said), 4096):
                owner.bus.deliver(said[start : start + 4096])
            cable.plug()
            for ear in ears:
                await holds(lambda: ear.heard.endswith(said[-100:]))  # noqa: B023
                ((missed, reason),) = ear.missed
                assert reason is Reason.OVERFLOW
                assert ear.heard == said[missed:]
            assert middle.bus.missed == far.bus.missed > 0


async def test_the_cpu_in_the_middle_acknowledges_only_what_the_owner_did() -> None:
    with trio.fail_after(5):
        async with chained(2, room=3) as ((owner, middle, far), (cable, _)):
            client = far.connect(Right.TCP)
            await client.write(b"abcdef")
            await holds(lambda: client.counters.written == 3)
            await unplugged(middle, cable)
            owner.tty.make_room(100)
            await holds(lambda: owner.tty.taken == b"abcdef")
            assert client.counters.written == 3
            cable.plug()
            await holds(lambda: client.counters.written == 6)


async def test_a_device_that_vanishes_in_mid_message_is_told_as_far_as_it_came() -> None:
    with trio.fail_after(5):
        async with chained(2, room=3) as ((owner, _, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"abcdef")
            await client.write(b"not begun")
            await holds(lambda: client.counters.written == 3)
            owner.bus.disconnect("the cable is out")
            owner.turns.end("the cable is out")
            owner.tty.close()
            await holds(lambda: client.counters.dropped == 12)
            assert far.device.losses == {Reason.INCOMPLETE: 3, Reason.PORT_DOWN: 9}
            await holds(lambda: far.bus.down == "the cable is out")


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_turn_of_serial_cgi_is_the_owners_however_many_others_press(hops: int) -> None:
    with trio.fail_after(10):
        async with chained(hops) as (nodes, _):
            owner, far = nodes[0], nodes[-1]
            cgi = SerialCgi(far.handle)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cgi.run)
                for each in nodes:
                    nursery.start_soon(_press, each.connect(Right.PTZ), b"p")
                    nursery.start_soon(_press, each.connect(Right.TCP), b"t")
                for number in range(10):
                    question, answer = b"<Q%d>" % number, b"[A%d]" % number
                    nursery.start_soon(_answer, owner, question, answer)
                    request = SerialRequest(port=0, camera=None, flush=False, output=question, read=4, timeout=2.0)
                    received = await cgi.perform(request, "somebody")
                    assert received is not None
                    assert received.data == answer
                nursery.cancel_scope.cancel()


async def _press(session: Session, what: bytes) -> None:
    while True:
        await session.write(what * 20)
        await trio.lowlevel.checkpoint()
        await holds(lambda: session.counters.written == session.counters.received)


async def _answer(owner: Node, question: bytes, answer: bytes) -> None:
    await holds(lambda: question in owner.tty.taken)
    for _ in range(50):
        await trio.lowlevel.checkpoint()
        assert owner.tty.taken.endswith(question), "somebody wrote in the middle of a turn"
    owner.bus.deliver(answer)


async def test_a_message_whose_asker_has_gone_is_withdrawn() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            cgi = SerialCgi(far.handle)
            await unplugged(far, cable)
            with trio.move_on_after(0.2):
                await cgi.perform(
                    SerialRequest(port=0, camera=None, flush=False, output=b"x", read=1, timeout=9.0), "a"
                )
            assert far.device.losses == {Reason.WITHDRAWN: 1}
            cable.plug()
            await holds(lambda: far.device._session.resumed)
            await far.connect(Right.TCP).write(b"y")
            await holds(lambda: owner.tty.taken == b"y")


async def test_the_same_settings_are_no_change_and_others_begin_anew() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            (session,) = owner.service.sessions
            await far.adjust(replace(far.settings))
            await far.connect(Right.TCP).write(b"1")
            await holds(lambda: owner.tty.taken == b"1")
            assert cable.joined == 1
            await far.adjust(replace(far.settings, host="localhost"))
            await holds(lambda: owner.service.sessions and owner.service.sessions != (session,))
            assert session.handle.revoked == "stopping"
            await far.up()


async def test_a_device_that_closes_lets_what_it_took_arrive() -> None:
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"abcdef")
            far.unit.scope.cancel()
            await far.down()
            owner.tty.make_room(100)
            await holds(lambda: client.counters.written == 6)
            await holds(lambda: not owner.service.sessions)
            assert not far.device.losses


async def test_a_device_that_closes_without_a_link_waits_for_nobody() -> None:
    with trio.fail_after(5):
        async with chained() as ((_, far), (cable,)):
            await unplugged(far, cable)
            await far.connect(Right.TCP).write(b"kept")
            far.unit.scope.cancel()
            await holds(lambda: far.device.losses == {Reason.CLOSED: 4})


async def test_another_server_at_the_same_address_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            other = node(owner.nursery, "other")
            other.own()
            cable.to = (await other.serve()).to
            cable.cut()
            await holds(lambda: other.service.sessions)
            await far.up()
            assert "another server answers at the same address" in caplog.text


@pytest.mark.parametrize(("short", "pauses"), [(1e9, [0.1, 0.1, 0.2, 0.4, 0.8]), (0.0, [0.1] * 5)])
async def test_links_that_are_cut_as_soon_as_they_stand_are_dialled_again_at_once_only_so_often(
    monkeypatch: pytest.MonkeyPatch, short: float, pauses: list[float]
) -> None:
    monkeypatch.setattr(remote_device, "_AT_ONCE", 2)
    monkeypatch.setattr(remote_device, "_REGAIN", 1e9)
    monkeypatch.setattr(remote_device, "_SHORT", short)
    with trio.fail_after(10):
        async with chained() as ((_, far), (cable,)):
            next_pauses = []
            for _ in range(5):
                joined = cable.joined
                cable.cut()
                await holds(lambda: cable.joined > joined and far.device._session.resumed)  # noqa: B023
                next_pauses.append(far.device._backoff._next)
            assert next_pauses == pauses


async def test_a_hundred_reconnections_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_device, "_AT_ONCE", 1000)
    with trio.fail_after(20):
        async with chained() as ((owner, far), (cable,)):
            client = far.connect(Right.TCP)

            async def reconnect(times: int) -> tuple[int, int, int]:
                for _ in range(times):
                    joined = cable.joined
                    cable.cut()
                    await holds(lambda: cable.joined > joined and far.device._session.resumed)  # noqa: B023
                    await client.write(b"x")
                    await holds(lambda: client.counters.written == client.counters.received)
                gc.collect()
                links = sum(isinstance(each, Link) for each in gc.get_objects())
                tasks = trio.lowlevel.current_statistics().tasks_living
                return len(os.listdir("/proc/self/fd")), tasks, links

            await reconnect(5)
            before = await reconnect(1)
            after = await reconnect(100)
            assert all(late <= early + 6 for early, late in zip(before, after, strict=True)), (before, after)
            assert len(owner.tty.taken) == 106


async def test_the_status_shows_who_may_be_dialled_only_while_the_link_is_down() -> None:
    with trio.fail_after(10):
        async with chained() as ((owner, far), (cable,)):
            shown = far.device.status()
            assert "remote_port_candidates" not in shown
            assert isinstance(link_shown := shown["remote_port_client"], dict)
            assert (link_shown["server_node"], link_shown["server_name"]) == (owner.node.hex(), "owner")
            await unplugged(far, cable)
            await holds(lambda: _only_candidate(far)["last_answer"])
            only = _only_candidate(far)
            assert (only["address"], only["port"]) == ("127.0.0.1", cable.port)
            assert 0 <= float(str(only["next_try_seconds"])) <= 15


def _only_candidate(far: Node) -> dict[str, object]:
    shown = far.device.status()["remote_port_candidates"]
    assert isinstance(shown, list)
    (only,) = shown
    assert isinstance(only, dict)
    return only
