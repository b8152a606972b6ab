"""A server that takes two keys judges each client by the right one, at the cost of one connection at most."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from gateway.port.rights import Right
from gateway.remote_port.keys import ServerKeys
from protocol.link.handshake import key_point
from protocol.parameters.addresses import AddressList
from tests.gateway.remote_port.linked import KEY, chained, holds

if TYPE_CHECKING:
    import pytest

    from gateway.remote_port.keys import OldKey
    from protocol.parameters.settings import RemotePort

NEW = "the newer key"
CLIENT = b"c" * 16, 0, "192.0.2.7"


def with_key(settings: RemotePort, key: str) -> RemotePort:
    return replace(settings, authentication_key=key)


def old(key: str = KEY, seconds: float = 3600, beside: str = NEW) -> OldKey:
    return key, beside, seconds


async def test_a_client_is_judged_by_the_newer_key_then_by_the_other_and_from_then_on_by_the_one_it_has() -> None:
    keys = ServerKeys()
    assert keys.change(KEY, None)
    assert keys.change(NEW, old())
    newer, older = key_point(NEW), key_point(KEY)
    assert [*keys.points] == [newer, older]
    assert keys.choose(CLIENT) == newer
    assert not keys.failed(CLIENT, newer), "the other key is still to be tried"
    assert keys.choose(CLIENT) == older
    keys.proved(CLIENT, older)
    assert keys.choose(CLIENT) == older
    assert not keys.failed(CLIENT, older), "it may have changed its key by now"
    assert keys.choose(CLIENT) == newer
    assert keys.failed(CLIENT, newer), "it has neither"
    assert keys.choose((b"d" * 16, 0, "192.0.2.7")) == newer


async def test_a_key_that_was_changed_without_a_word_or_before_the_last_change_is_not_taken() -> None:
    keys = ServerKeys()
    keys.change(KEY, None)
    assert keys.change("another", old(beside="another", key="not the one before"))
    assert [*keys.points] == [key_point("another")]
    assert keys.change(NEW, old("another"))
    assert not keys.change(NEW, None)
    assert [*keys.points] == [key_point(NEW), key_point("another")]
    assert keys.change("", old(NEW))
    assert [*keys.points] == [key_point("")]
    assert keys.is_empty


async def test_who_was_shut_out_by_another_key_is_not_let_in_again_by_a_restart() -> None:
    kept = old(KEY, beside=NEW)
    keys = ServerKeys()
    for key in (KEY, NEW, "set by param.cgi"):
        keys.change(key, kept)
    assert [*keys.points] == [key_point("set by param.cgi")]
    restarted = ServerKeys()
    restarted.change("set by param.cgi", kept)
    assert [*restarted.points] == [key_point("set by param.cgi")]


async def test_after_a_restart_the_old_key_is_taken_for_the_rest_of_its_time(autojump_clock: object) -> None:
    keys = ServerKeys()
    keys.change(NEW, old(seconds=60))
    assert keys.has_old
    await trio.sleep(61)
    assert [*keys.points] == [key_point(NEW)]
    assert keys.choose(CLIENT) == key_point(NEW)
    assert keys.failed(CLIENT, key_point(NEW))


async def test_of_many_clients_those_that_were_judged_last_are_known() -> None:
    keys = ServerKeys()
    keys.change(KEY, None)
    keys.change(NEW, old())
    for number in range(300):
        keys.proved((number.to_bytes(16, "big"), 0, "192.0.2.7"), key_point(KEY))
    assert len(keys._tries) == 256
    assert keys.choose((bytes(16), 0, "192.0.2.7")) == key_point(NEW)


async def test_a_key_is_changed_on_both_sides_of_a_link_and_its_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with chained() as ((owner, far), _):
        writer, ear = far.connect(Right.TCP), far.listen()
        await writer.write(b"before ")
        (session,) = owner.service.sessions
        owner.service._old_key = old
        owner.service.update_policy(AddressList(), NEW, ptz=True)
        assert owner.service.sessions == (session,), "a session of the old key goes on"
        await writer.write(b"between ")
        caplog.set_level(logging.INFO)
        await far.adjust(with_key(far.settings, NEW))
        await writer.write(b"after")
        await holds(lambda: owner.tty.taken == b"before between after")
        await holds(lambda: session.point == key_point(NEW))
        assert owner.service.sessions == (session,)
        assert owner.service.wrong_keys == 0
        await holds(lambda: writer.counters.written == len(b"before between after"))
        assert (ear.missed, far.device.links_lost, writer.counters.dropped) == ([], 1, 0)


async def test_who_has_neither_key_is_refused_and_counted() -> None:
    async with chained() as ((owner, far), _):
        owner.service._old_key = old
        owner.service.update_policy(AddressList(), NEW, ptz=True)
        await far.adjust(with_key(far.settings, "a wrong one"))
        await holds(lambda: owner.service.wrong_keys == 1)


async def test_when_the_old_key_is_over_who_has_only_that_is_gone_and_the_others_stay() -> None:
    async with chained() as ((owner, far), _):
        owner.service._old_key = lambda: old(seconds=0.2)
        owner.service.update_policy(AddressList(), NEW, ptz=True)
        assert len(owner.service.sessions) == 1
        await holds(lambda: owner.service.sessions == ())
        await far.down()
        await far.adjust(with_key(far.settings, NEW))
        await far.up()
        assert [session.point for session in owner.service.sessions] == [key_point(NEW)]


async def test_another_key_without_a_word_ends_all_sessions() -> None:
    async with chained() as ((owner, far), _):
        owner.service.update_policy(AddressList(), NEW, ptz=True)
        assert owner.service.sessions == ()
        await far.down()
