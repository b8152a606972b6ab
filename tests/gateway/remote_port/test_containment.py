"""An exception that nobody expected, anywhere in a link, ends that link and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from gateway.port.rights import Right
from protocol.link.reasons import Reason
from tests.gateway.remote_port.linked import chained, holds

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.remote_port.session import RemoteSession


def fail(*_: object) -> None:
    raise OverflowError("a number that nobody expected")


def break_down_stream(session: RemoteSession) -> None:
    session.session.line = fail  # type: ignore[method-assign, assignment]  # the bug


def break_outcomes(session: RemoteSession) -> None:
    session.session.handed = fail  # type: ignore[method-assign, assignment]  # the bug


def break_port(session: RemoteSession) -> None:
    session.session.port = fail  # type: ignore[method-assign, assignment]  # the bug


def break_sending(session: RemoteSession) -> None:
    session.session.next_frame = fail  # type: ignore[method-assign, assignment]  # the bug


def break_receiving(session: RemoteSession) -> None:
    session.session.receive = fail  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "broken",
    [break_down_stream, break_outcomes, break_port, break_sending, break_receiving],
    ids=lambda each: each.__name__,
)
async def test_a_session_that_fails_at_the_owner_ends_alone_and_another_takes_its_place(
    broken: Callable[[RemoteSession], None], caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(8):
        async with chained() as ((owner, far), _):
            ear, there, local = owner.listen(), far.connect(Right.TCP), owner.connect(Right.CGI)
            (session,) = owner.service.sessions
            broken(session)
            owner.bus.deliver(b"the line goes on")
            owner.bus.adjusted(19200, "19200 8N1")
            await there.write(b"chained ")
            await local.write(b"local ")
            await holds(lambda: owner.service.sessions and session not in owner.service.sessions)
            await far.up()
            assert ear.heard == b"the line goes on"
            assert b"local " in owner.tty.taken
            assert sum(record.exc_info is not None for record in caplog.records) == 1
            await holds(lambda: there.counters.written + there.counters.dropped == len(b"chained "))
            await there.write(b"again")
            await holds(lambda: owner.tty.taken.endswith(b"again"))


async def test_a_gap_that_cannot_be_told_ends_that_session_alone(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(8):
        async with chained() as ((owner, far), _):
            ear = owner.listen()
            (session,) = owner.service.sessions
            session.session.gap = fail  # type: ignore[method-assign, assignment]  # the bug
            owner.bus.miss(3, Reason.OVERFLOW)
            await holds(lambda: owner.service.sessions and session not in owner.service.sessions)
            await far.up()
            assert sum(record.exc_info is not None for record in caplog.records) == 1
            assert "a bug ended the session" in caplog.text
            owner.bus.deliver(b"the line goes on")
            assert ear.heard == b"the line goes on"


async def test_an_outcome_that_fails_does_not_end_the_task_that_finishes_what_was_begun() -> None:
    with trio.fail_after(8):
        async with chained(1, room=3) as ((owner, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"begun!")
            await holds(lambda: owner.tty.taken == b"beg")
            await holds(lambda: client.counters.written == 3)
            (session,) = owner.service.sessions
            break_outcomes(session)
            owner.tty.make_room(100)
            await holds(lambda: owner.tty.taken == b"begun!")
            await holds(lambda: session not in owner.service.sessions)
            await holds(lambda: far.device.losses == {Reason.UNCERTAIN: 3})
            await far.up()
            await owner.connect(Right.TCP).write(b"!")
            assert owner.tty.taken == b"begun!!"


async def test_a_session_that_cannot_even_give_up_is_over_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(8):
        async with chained(1, room=3) as ((owner, far), _):
            client = far.connect(Right.TCP)
            await client.write(b"begun!")
            await holds(lambda: owner.tty.taken == b"beg")
            await holds(lambda: client.counters.written == 3)
            (session,) = owner.service.sessions
            session.session.lost = fail  # type: ignore[method-assign, assignment]
            owner.service.revoke("closed")
            assert not owner.service.sessions
            assert session.handle.revoked is not None
            assert "a bug at the end of the session" in caplog.text
            owner.reopen()
            await holds(lambda: far.device.losses == {Reason.UNCERTAIN: 3})


@pytest.mark.parametrize("verb", ["receive", "next_frame", "expire"])
async def test_a_session_that_fails_at_the_client_is_thrown_away_and_dialled_anew(
    verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(8):
        async with chained(1, room=3) as ((owner, far), _):
            ear, client = far.listen(), far.connect(Right.TCP)
            await client.write(b"begun!")
            await holds(lambda: client.counters.written == 3)
            first = far.device._session
            setattr(first, verb, fail)
            owner.tty.make_room(100)
            far.device._expiry.set()
            far.device._flush()
            await holds(lambda: far.device._session is not first)
            await far.up()
            assert sum(record.exc_info is not None for record in caplog.records) >= 1
            assert far.device.losses == {Reason.UNCERTAIN: 3}
            assert (client.counters.written, client.counters.dropped) == (3, 3)
            assert (0, Reason.RESTARTED) in ear.missed
            await client.write(b" on")
            await holds(lambda: owner.tty.taken == b"begun! on")


async def test_a_reader_that_fails_at_the_client_is_detached_and_neither_link_nor_port_notices() -> None:
    with trio.fail_after(8):
        async with chained() as ((owner, far), (cable,)):
            far.bus.attach(fail)
            ear, joined = far.listen(), cable.joined
            owner.bus.deliver(b"x")
            await holds(lambda: ear.heard == b"x")
            await far.connect(Right.TCP).write(b"on")
            await holds(lambda: owner.tty.taken == b"on")
            assert (far.unit.state, cable.joined) == ("up", joined)
