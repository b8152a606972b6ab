"""The remote port server: it admits clients with the key, refuses others, and ends sessions for good reasons only."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.remote_port import server as remote_service
from gateway.remote_port.line import CHANNELS
from gateway.remote_port.link import Link, LinkCutError, now_ms
from gateway.remote_port.session import RemoteSession
from protocol.link.chain_frames import Picture, Survey
from protocol.link.connection import Connection
from protocol.link.handshake import Initiator, WrongKeyError, key_point
from protocol.link.header import CutError
from protocol.link.identity import NodeKey
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Opened
from protocol.link.stream_frames import Ack, Channel, UpData
from protocol.parameters.addresses import AddressList
from protocol.session import register
from protocol.session.client import ClientSession
from protocol.session.session import SessionLimits
from protocol.sharing.message_rule import MessageRule
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.remote_port.linked import KEY, chained, holds, node

if TYPE_CHECKING:
    from protocol.link.frames import Frame
    from tests.gateway.remote_port.linked import Node


C = NodeKey(b"c" * 32)


def call(port: int, own: NodeKey = C, key: str = KEY, address: str = "127.0.0.1") -> Link:
    """A client's connection, which has said HELLO to nobody yet."""
    sock = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
    return Link(sock, Connection(Initiator(key_point(key), own, 0, os.urandom(32), os.urandom(16))))


def unasked(_: object) -> None:
    raise AssertionError


def server_of(link: Link) -> bytes:
    """Return the node id that the server proved."""
    peer = link._connection.peer
    assert peer is not None
    return peer.node


async def refused(link: Link) -> CloseReason | None:
    """Shake hands, and return why that was refused."""
    try:
        await link.handshake(unasked)
    except LinkCutError as exc:
        return exc.reason
    return None


async def opened(link: Link, session: ClientSession) -> list[object]:
    """Open a session on a new connection, and return what it brings until it has ended, as a list that grows."""
    await link.handshake(unasked)
    heard: list[object] = []
    number = session.attach(server_of(link))

    def take(frame: Frame) -> None:
        heard.append(frame)
        session.receive(number, frame, now_ms())

    await link.carry(lambda: session.next_frame(number, now_ms()), take, session.ping)
    return heard


def session_of(owner: Node) -> RemoteSession:
    (session,) = owner.service.sessions
    return session


async def test_a_wrong_key_is_counted_and_named_on_both_sides_and_tried_again_at_once_with_the_right_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            cable = await owner.serve()
            other = node(owner.nursery, "cpu")
            other.dial(cable, key="another key")
            await holds(lambda: "AuthenticationKey" in other.unit.state)
            assert "same AuthenticationKey" in (other.bus.down or "")
            await holds(lambda: owner.service.wrong_keys == 1)
            assert "P0 remote-port server: wrong key from 127.0.0.1:" in caplog.text
            assert cable.joined == 1
            await other.adjust(
                type(other.settings)(auto_conf=False, authentication_key=KEY, host="127.0.0.1", port=cable.port)
            )
            await other.up()
            assert (owner.service.wrong_keys, cable.joined) == (1, 2)


async def test_a_node_that_meets_its_own_id_is_told_that_it_may_be_a_cloned_image() -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            cable = await owner.serve()
            twin = node(owner.nursery, "twin")
            twin.key = owner.key
            twin.dial(cable)
            await holds(lambda: "cloned image" in twin.unit.state)
            assert not owner.service.wrong_keys
            assert not owner.service.sessions


async def test_guesses_are_charged_before_the_answer_however_many_connected_before_the_first() -> None:
    with trio.fail_after(10):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            links = [call(owner.port, key="a guess") for _ in range(30)]
            answered = []

            async def guess(link: Link) -> None:
                try:
                    await link.handshake(unasked)
                except (LinkCutError, CutError) as exc:
                    answered.append(type(exc).__name__)
                finally:
                    link.close()

            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(guess, link)
            assert answered.count("WrongKeyError") == 10
            assert len(answered) == 30


async def test_who_hangs_up_after_the_reply_has_made_a_guess_and_who_has_the_key_has_not() -> None:
    with trio.fail_after(10):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            for _ in range(9):
                sock = socket.create_connection(("127.0.0.1", owner.port))
                connection = Connection(
                    Initiator(key_point("a guess"), NodeKey(b"g" * 32), 0, os.urandom(32), os.urandom(16))
                )
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                await stream.send_all(connection.data_to_send())
                assert await stream.receive_some()
                await stream.aclose()
            for _ in range(5):
                good = call(owner.port)
                await good.handshake(unasked)
                good.close()
                await holds(lambda: owner.guesses.allows("127.0.0.1", trio.current_time()))
            bad = call(owner.port, key="a guess")
            assert await _wrong(bad)
            late = call(owner.port, key="a guess")
            assert not await _wrong(late)
            assert owner.service.refused == 1


async def _wrong(link: Link) -> bool:
    """Whether a guess was answered."""
    try:
        await link.handshake(unasked)
    except (LinkCutError, CutError) as exc:
        return isinstance(exc, WrongKeyError)
    finally:
        link.close()
    return False


def strangers(port: int, count: int, address: str = "127.0.0.1") -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) for _ in range(count)]


def under_way(owner: Node) -> int:
    return len(owner.service._handshakes)


async def test_of_silent_strangers_the_oldest_makes_room_and_each_has_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_service, "_FIRST_FRAME", 0.3)
    caplog.set_level(logging.INFO)
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            first = strangers(owner.port, 1)
            await holds(lambda: under_way(owner) == 1)
            others = strangers(owner.port, 39)
            await holds(lambda: under_way(owner) == 24)
            first[0].setblocking(False)
            await trio.lowlevel.wait_readable(first[0])
            assert first[0].recv(1) == b""
            elsewhere = strangers(owner.port, 8, "127.0.0.2")
            await holds(lambda: under_way(owner) == 32)
            late = strangers(owner.port, 8, "127.0.0.3")
            await holds(lambda: {handshake.peer.address for handshake in owner.service._handshakes} >= {"127.0.0.3"})
            assert under_way(owner) == 32
            await holds(lambda: not under_way(owner))
            assert owner.service.refused == 0
            for sock in (*first, *others, *elsewhere, *late):
                sock.close()


async def test_a_stranger_that_has_left_before_it_is_looked_at_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            monkeypatch.setattr(remote_service, "Link", gone)
            socks = strangers(owner.port, 3)
            for sock in socks:
                sock.setblocking(False)
                await trio.lowlevel.wait_readable(sock)
                assert sock.recv(1) == b""
                sock.close()
            assert not under_way(owner)


async def test_handshakes_in_which_something_was_said_keep_their_places(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_service, "HANDSHAKE_DEADLINE", 0.5)
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            said = [call(owner.port, address=f"127.0.0.{number % 4 + 1}") for number in range(32)]
            for link in said:
                link._push(link._connection.data_to_send())
            await holds(lambda: sum(not handshake.silent for handshake in owner.service._handshakes) == 32)
            late = [*strangers(owner.port, 15), *strangers(owner.port, 15, "127.0.0.9")]
            await holds(lambda: owner.service.refused == 30)
            assert caplog.text.count("too many handshakes are under way") == 10, "one who hammers must not fill the log"
            await holds(lambda: not under_way(owner))
            for link in said:
                link.close()
            for sock in late:
                sock.close()


async def test_beside_forty_silent_strangers_a_cpu_links_within_a_second_and_a_cut_link_resumes() -> None:
    with trio.fail_after(10):
        async with chained() as ((owner, linked), (cable,)):
            async with trio.open_nursery() as nursery:
                silent: list[socket.socket] = []

                @nursery.start_soon
                async def come_back() -> None:
                    """Keep forty connections, whatever is done about them."""
                    while True:
                        silent.extend(strangers(owner.port, 40))
                        await trio.sleep(0.2)
                        for sock in silent[:-40]:
                            sock.close()
                        del silent[:-40]

                await holds(lambda: under_way(owner) == 24)
                began = trio.current_time()
                fresh = node(owner.nursery, "fresh")
                fresh.dial(cable)
                await fresh.up()
                assert trio.current_time() - began < 1
                (session,) = (each for each in owner.service.sessions if each.session.key[0] == linked.node)
                cable.cut()
                cut = trio.current_time()
                await holds(lambda: not linked.device.linked)
                await holds(lambda: linked.device.linked and linked.device._session.resumed)
                assert trio.current_time() - cut < 1
                assert session in owner.service.sessions
                nursery.cancel_scope.cancel()
            for sock in silent:
                sock.close()


async def test_sixteen_cpus_of_one_blade_that_start_at_once_are_all_in_within_three_seconds() -> None:
    with trio.fail_after(10):
        async with chained(0) as ((owner,), _):
            cable = await owner.serve()
            blade = [node(owner.nursery, f"cpu{number}") for number in range(16)]
            began = trio.current_time()
            for cpu in blade:
                cpu.dial(cable)
            for cpu in blade:
                await cpu.up()
            assert trio.current_time() - began < 3
            assert len(owner.service.sessions) == 16


async def test_two_cpus_with_one_node_id_are_found_out_and_the_older_link_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(8):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(come_numbered, owner, "127.0.0.1", 1)
                await holds(lambda: owner.service.sessions)
                nursery.start_soon(come_numbered, owner, "127.0.0.2", 2)
                await holds(lambda: session_of(owner).address == "127.0.0.2")
                kept = session_of(owner)
                assert not owner.service.duplicates
                for number in (3, 4):
                    (refusal,) = await come_numbered(owner, "127.0.0.1", number)
                    assert isinstance(refusal, Close)
                    assert refusal.reason is CloseReason.DUPLICATE
                assert session_of(owner) is kept
                assert owner.service.duplicates == (f"node {C.id.hex()[:8]} R0 is at 127.0.0.2 and at 127.0.0.1",)
                (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
                assert "two CPUs use one node id" in error.getMessage()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("third", "flapping"), [("127.0.0.3", 60.0), ("127.0.0.1", 0.0)])
async def test_a_cpu_that_comes_from_a_third_address_or_back_after_a_minute_is_no_twin(
    third: str, flapping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_service, "_FLAPPING", flapping)
    with trio.fail_after(8):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            async with trio.open_nursery() as nursery:
                for number, address in enumerate(("127.0.0.1", "127.0.0.2", third), 1):
                    nursery.start_soon(come_numbered, owner, address, number)
                    await holds(lambda: owner.service.sessions and session_of(owner).address == address)  # noqa: B023
                assert not owner.service.duplicates
                nursery.cancel_scope.cancel()


async def come_numbered(owner: Node, address: str, number: int) -> list[object]:
    """Come with that connection number, as a twin that was told the last one does."""
    link, session = call(owner.port, address=address), ClientSession(C.id, SessionLimits())
    session._numbers[owner.node] = number - 1
    try:
        return await opened(link, session)
    finally:
        link.close()


async def test_a_cpu_that_moved_to_another_address_and_back_is_no_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_service, "_ANSWER", 0.2)
    with trio.fail_after(8):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            links = []
            for number, address in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.1"), 1):
                link, session = call(owner.port, address=address), ClientSession(C.id, SessionLimits())
                session._numbers[owner.node] = number - 1
                await link.handshake(unasked)
                opening = session.next_frame(session.attach(owner.node), 0)
                assert opening is not None
                link._push(link._connection.send(opening))  # and never a word again
                links.append(link)
                await holds(lambda: owner.service.sessions and session_of(owner).address == address)  # noqa: B023
            assert not owner.service.duplicates
            for link in links:
                link.close()


async def test_who_proves_the_key_and_then_says_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_service, "HANDSHAKE_DEADLINE", 0.3)
    caplog.set_level(logging.INFO)
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            link = call(owner.port)
            await link.handshake(unasked)
            await holds(lambda: "opened no session" in caplog.text)
            link.close()


async def test_another_key_ends_sessions_at_once_and_the_same_one_is_no_change() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            session = session_of(owner)
            owner.service.update_policy(AddressList(), KEY, ptz=True)
            assert session_of(owner) is session
            owner.service.update_policy(AddressList(), "a new key", ptz=True)
            assert session.handle.revoked == "key changed"
            assert not owner.service.sessions
            await holds(lambda: far.bus.down is not None and "same AuthenticationKey" in far.bus.down)


async def test_a_key_that_changes_during_a_handshake_does_not_let_the_old_one_in() -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            link = call(owner.port)
            await link.handshake(unasked)
            owner.service.update_policy(AddressList(), "a new key", ptz=True)
            session = ClientSession(C.id, SessionLimits())
            assert [Close(CloseReason.KEY_CHANGED)] == await _carried(link, session)
            assert not owner.service.sessions


async def test_an_address_or_a_service_that_changes_during_a_handshake_lets_nobody_in() -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            for change in ("list", "service"):
                link = call(owner.port)
                await link.handshake(unasked)
                if change == "list":
                    owner.service.update_policy(AddressList.parse("10.0.0.1"), KEY, ptz=True)
                else:
                    owner.service.revoke("closed")
                assert [Close(CloseReason.REVOKED)] == await _carried(link, ClientSession(C.id, SessionLimits()))
                owner.service.update_policy(AddressList(), KEY, ptz=True)
            assert not owner.service.sessions


async def _carried(link: Link, session: ClientSession) -> list[object]:
    number = session.attach(server_of(link))
    heard: list[object] = []
    try:
        await link.carry(lambda: session.next_frame(number, now_ms()), heard.append, session.ping)
    finally:
        link.close()
    return heard


async def test_a_list_that_leaves_an_address_out_ends_its_sessions_and_no_others() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            link, session = call(owner.port, address="127.0.0.9"), ClientSession(C.id, SessionLimits())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(opened, link, session)
                await holds(lambda: len(owner.service.sessions) == 2)
                owner.service.update_policy(AddressList.parse("127.0.0.1"), KEY, ptz=True)
            assert len(owner.service.sessions) == 1
            assert not session.attached
            link.close()
            await far.connect(Right.TCP).write(b"still here")
            await holds(lambda: owner.tty.taken == b"still here")
            turned = socket.create_connection(("127.0.0.1", owner.port), source_address=("127.0.0.9", 0))
            await holds(lambda: owner.service.refused == 1)
            turned.close()


async def test_the_right_to_ptz_follows_the_owner_live_and_at_every_hop() -> None:
    with trio.fail_after(5):
        async with chained(2) as ((owner, middle, far), _):
            driver, client = far.connect(Right.PTZ), far.connect(Right.TCP)
            await driver.write(b"1")
            await holds(lambda: owner.tty.taken == b"1")
            owner.service.update_policy(AddressList(), KEY, ptz=False)
            await holds(lambda: not far.bus.state.value.rights & 1 << CHANNELS[Right.PTZ])
            await middle.connect(Right.TCP).write(b"2")
            await client.write(b"3")
            await holds(lambda: owner.tty.taken == b"123")
            for driver_there in (driver, middle.connect(Right.PTZ)):
                with pytest.raises(PortDown, match="does not let"):
                    await driver_there.write(b"x")
            owner.service.update_policy(AddressList(), KEY, ptz=True)
            await holds(lambda: far.bus.state.value.rights == 0b1110)
            await driver.write(b"4")
            await holds(lambda: owner.tty.taken == b"1234")


async def test_the_owners_rules_of_sharing_are_known_live_and_at_every_hop() -> None:
    modbus, end = TurnRule("modbus-rtu", gap=0.004), MessageRule(end=b"\xff")
    with trio.fail_after(5):
        async with chained(2) as ((owner, _, far), _):
            assert (far.bus.state.value.turn_rule, far.bus.state.value.message_rule) == (None, None)
            owner.bus.share(modbus, None)
            await holds(lambda: far.bus.state.value.turn_rule == modbus)
            owner.bus.share(None, end)
            await holds(lambda: far.bus.state.value.message_rule == end)
            assert far.bus.state.value.turn_rule is None


async def test_a_right_that_is_withdrawn_in_mid_message_lets_that_be_finished_and_tells_the_truth() -> None:
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), _):
            driver = far.connect(Right.PTZ)
            await driver.write(b"begun!")
            await driver.write(b"not begun")
            await holds(lambda: owner.tty.taken == b"beg")
            owner.service.update_policy(AddressList(), KEY, ptz=False)
            await holds(lambda: not far.bus.state.value.rights & 1 << CHANNELS[Right.PTZ])
            owner.tty.make_room(100)
            await holds(lambda: driver.counters.dropped == 9)
            assert owner.tty.taken == b"begun!"
            assert driver.counters.written == 6
            assert far.device.losses == {Reason.FORBIDDEN: 9}


async def test_a_service_that_closes_in_mid_message_says_what_is_uncertain_and_nothing_is_written_twice() -> None:
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"begun!")
            await client.write(b"not begun")
            await holds(lambda: owner.tty.taken == b"beg" and client.counters.written == 3)
            owner.service.update_policy(AddressList(), "a new key", ptz=True)
            await far.down()
            assert far.device.losses == {Reason.UNCERTAIN: 3, Reason.CLOSED: 9}
            owner.service.update_policy(AddressList(), KEY, ptz=True)
            owner.tty.make_room(100)
            await holds(lambda: owner.tty.taken == b"begun!")


async def test_without_a_path_nobody_is_let_in_and_who_was_keeps_the_session() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            client = far.connect(Right.TCP)
            session = session_of(owner)
            owner.bus.route()
            owner.bus.disconnect("no way")
            await far.down()
            assert far.bus.state.value.path == ()
            cable.cut()
            await holds(lambda: "no path" in far.unit.state)
            owner.own()
            await far.up()
            assert session_of(owner) is session
            await client.write(b"again")
            await holds(lambda: owner.tty.taken == b"again")


async def test_a_new_session_of_the_same_node_ends_the_old_one_which_does_not_fight_back() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            twin = node(owner.nursery, "twin")
            twin.key = far.key
            twin.dial(cable)
            joined = cable.joined
            with trio.move_on_after(1):
                await trio.sleep_forever()
            assert cable.joined - joined < 20, "two that replace each other must not do so all the time"
            assert len(owner.service.sessions) <= 1


async def test_a_client_that_breaks_the_protocol_is_told_and_loses_its_session() -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            link, session = call(owner.port), ClientSession(C.id, SessionLimits())
            await link.handshake(unasked)
            number = session.attach(server_of(link))
            heard: list[object] = []
            said = iter([UpData(Channel.TCP, 99, 0, b"not the next")])

            def say() -> Frame | None:
                frame = session.next_frame(number, now_ms())
                return next(said, None) if frame is None and session.resumed else frame

            def take(frame: Frame) -> None:
                heard.append(frame)
                session.receive(number, frame, now_ms())

            await link.carry(say, take, session.ping)
            link.close()
            assert isinstance(heard[-1], Close)
            assert heard[-1].reason is CloseReason.PROTOCOL
            await holds(lambda: not owner.service.sessions)


async def test_a_question_that_comes_before_the_task_of_the_session_runs_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, gate = RemoteSession.run, trio.Event()

    async def late(session: RemoteSession) -> None:
        await gate.wait()
        await run(session)

    monkeypatch.setattr(RemoteSession, "run", late)
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _), trio.open_nursery() as asking:
            await owner.serve()
            link, session = call(owner.port), ClientSession(C.id, SessionLimits())
            await link.handshake(unasked)
            number = session.attach(server_of(link))
            said = iter([Survey(1, 1000)])
            heard: list[type[Frame]] = []

            def say() -> Frame | None:
                return session.next_frame(number, now_ms()) or (next(said, None) if Opened in heard else None)

            def take(frame: Frame) -> None:
                heard.append(type(frame))
                session.receive(number, frame, now_ms())
                if Picture in heard:
                    asking.cancel_scope.cancel()

            asking.start_soon(link.carry, say, take, session.ping)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        link.close()
        assert Picture in heard


async def test_a_server_that_breaks_the_protocol_ends_the_session_at_the_client() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            client = far.connect(Right.TCP)
            session = session_of(owner)
            link = session.link
            assert link is not None
            link._push(link._connection.send(Ack(Channel.TCP, 1000)))
            await far.down()
            assert "broke the protocol" in (far.bus.down or "")
            await far.up()
            await client.write(b"on")
            await holds(lambda: owner.tty.taken == b"on")


async def test_a_stopping_server_finishes_what_was_begun_and_leaves_nothing_uncertain() -> None:
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"begun!")
            await client.write(b"not begun")
            await holds(lambda: owner.tty.taken == b"beg")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owner.service.retire)
                await trio.testing.wait_all_tasks_blocked()
                owner.tty.make_room(100)
            await far.down()
            assert owner.tty.taken == b"begun!"
            assert client.counters.written == 6
            assert far.device.losses == {Reason.CLOSED: 9}


async def test_a_stuck_line_does_not_hold_a_stopping_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_service, "_RETIRE", 0.1)
    with trio.fail_after(5):
        async with chained(1, room=3) as ((owner, far), _):
            await far.connect(Right.TCP).write(b"begun!")
            await holds(lambda: owner.tty.taken == b"beg")
            await owner.service.retire()
            await far.down()
            assert far.device.losses == {Reason.UNCERTAIN: 3}


async def test_a_client_that_stays_away_is_forgotten_after_the_resume_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_service, "RESUME_WINDOW", 0.2)
    with trio.fail_after(5):
        async with chained() as ((owner, _), (cable,)):
            session = session_of(owner)
            cable.unplug()
            await holds(lambda: session.link is None)
            assert owner.service.sessions == (session,)
            await holds(lambda: not owner.service.sessions)
            assert session.handle.revoked == "detached"


async def test_a_client_that_leaves_in_words_is_forgotten_at_once() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            session = session_of(owner)
            far.unit.scope.cancel()
            await holds(lambda: not owner.service.sessions)
            assert session.handle.revoked == "stopping"


async def test_a_connection_with_old_keys_is_cut_and_its_session_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_service, "_OLDEST_KEYS", 0.2)
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            session = session_of(owner)
            await holds(lambda: cable.joined > 2)
            assert owner.service.sessions == (session,)
            assert far.bus.down is None


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_bug_in_a_writer_ends_that_session_alone(
    at_once: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            session = session_of(owner)

            async def fail(*_: object) -> None:
                raise RuntimeError

            def fail_at_once(*_: object, **__: object) -> None:
                raise RuntimeError

            writer = session._writers[Channel.TCP]
            if at_once:
                monkeypatch.setattr(writer.line, "write_nowait", fail_at_once)
            else:
                monkeypatch.setattr(type(writer), "_write_nowait", lambda *_: False)
                monkeypatch.setattr(type(writer), "_write", fail)
            await far.connect(Right.TCP).write(b"x")
            await holds(lambda: session not in owner.service.sessions)
            assert "a bug ended the" in caplog.text


async def test_a_bug_in_a_connection_ends_that_connection_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve()
            monkeypatch.setattr(owner.service, "_admitted", lambda *_: 1 / 0)
            link = call(owner.port)
            await link.handshake(unasked)
            session = ClientSession(C.id, SessionLimits())
            with pytest.raises(ExceptionGroup):
                await _carried(link, session)
            assert "a bug ended the" in caplog.text


async def test_an_empty_key_lets_anybody_in_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            cable = await owner.serve(key="")
            assert owner.service.keyless
            assert "anybody on this host's own links may chain to it" in caplog.text
            far = node(owner.nursery, "far")
            far.dial(cable, key="")
            await far.up()
            assert far.device.keyless
            assert "anybody may be the server" in caplog.text


async def test_more_links_than_may_be_are_refused_and_nothing_else_is_disturbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), (cable,)):
            monkeypatch.setattr(register, "MAX_LINKS", 1)
            late = node(owner.nursery, "late")
            late.dial(cable)
            await holds(lambda: "busy" in late.unit.state)
            await far.connect(Right.TCP).write(b"x")
            await holds(lambda: owner.tty.taken == b"x")


async def test_without_a_key_only_clients_on_own_links_are_admitted_unless_the_host_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_service, "on_own_link", lambda address: address == "127.0.0.1")
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve(key="")
            neighbour, stranger = call(owner.port, key=""), call(owner.port, key="", address="127.0.0.2")
            await neighbour.handshake(unasked)
            with pytest.raises((LinkCutError, CutError)):
                await stranger.handshake(unasked)
            assert "there is no AuthenticationKey, and its address is not on an own link" in caplog.text
            owner.reopen(key="", keyless=True)
            assert owner.service.warning.endswith("anybody may chain to it")
            again = call(owner.port, key="", address="127.0.0.2")
            await again.handshake(unasked)
            owner.service.update_policy(AddressList(), KEY, ptz=True)
            assert not owner.service.warning
            for link in (neighbour, stranger, again):
                link.close()


async def test_addresses_that_alternate_are_logged_ten_times_and_then_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_service, "on_own_link", lambda _: False)
    with trio.fail_after(5):
        async with chained(0) as ((owner,), _):
            await owner.serve(key="")
            for number in range(200):
                near, far = socket.socketpair()
                far.close()
                owner.service.welcome(near, (f"192.0.2.{number % 2}", number))
            assert owner.service.refused == 200
    assert sum("refused 192.0.2." in record.getMessage() for record in caplog.records) == 10
