"""One session at the owner: counted, heard from the first byte, and truthful about what it was refused."""

from __future__ import annotations

import trio

from gateway.port.rights import Right
from gateway.remote_port.session import RemoteSession
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


async def test_it_has_a_device_that_is_open_on_demand_opened_for_as_long_as_it_lasts() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, _), _):
            (session,) = owner.service.sessions
            session.permit(Right(0))
            assert owner.bus.needs.value == 1
            owner.service.kick(session)
            await holds(lambda: owner.bus.needs.value == 0)


async def test_it_hears_the_line_from_the_instant_at_which_the_session_began() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, _), _):
            (session,) = owner.service.sessions
            session.end("over")
            owner.bus.deliver(b"not heard")
            assert session.sent == 0
