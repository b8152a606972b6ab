"""One session at the owner: counted, heard from the first byte, and truthful about what it was refused."""

from __future__ import annotations

import trio

from gateway.port.rights import Right
from gateway.remote_port.session import RemoteSession
from protocol.link.reasons import Reason
from protocol.link.turn_parameters import TurnStatus
from tests.gateway.remote_port.linked import chained, holds


async def test_what_it_carries_is_counted() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            (session,) = owner.service.sessions
            assert isinstance(session, RemoteSession)
            await far.connect(Right.TCP).write(b"12345")
            owner.bus.deliver(b"678")
            await holds(lambda: far.bus.received == 3 and owner.tty.taken)
            assert (session.received, session.sent, session.size, session.dropped, session.gaps) == (5, 3, 0, 0, 0)
            assert far.device.round_trip is not None
            assert not far.device.keyless


async def test_it_hears_the_line_from_the_instant_at_which_the_session_began() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, _), _):
            (session,) = owner.service.sessions
            session.end("over")
            owner.bus.deliver(b"not heard")
            assert session.sent == 0


async def test_what_was_on_its_way_when_a_right_was_withdrawn_is_lost_and_told() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            (session,) = owner.service.sessions
            driver = far.connect(Right.PTZ)
            session.permit(Right.TCP | Right.CGI)
            await driver.write(b"too late")
            await holds(lambda: driver.counters.dropped == 8)
            assert session.dropped == 8
            assert far.device.losses == {Reason.FORBIDDEN: 8}
            assert not owner.tty.taken


def test_a_turns_end_has_its_reason() -> None:
    from gateway.port.line import Reply
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.remote_port.session import _status

    heard = ReceiveBuffer()
    heard.deliver(b"ab\r")
    assert _status(heard, Reply(9, b"\r", 1.0)) is TurnStatus.DELIMITER
    assert _status(heard, Reply(3, None, 1.0)) is TurnStatus.LENGTH
    assert _status(heard, Reply(9, b"#", 1.0)) is TurnStatus.TIME
