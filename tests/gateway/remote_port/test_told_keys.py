"""The keys that a client gets from its server: one after the other, the newest of those that wait, each answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
import trio.testing

from gateway.port.log import PortLogger
from gateway.remote_port.told_keys import ToldKeys
from protocol.link.identity import NodeKey
from protocol.link.key_frames import Rekey, Told, ToldCpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from protocol.link.key_frames import Rekeyed

NODE = NodeKey(bytes(32), "cpu2", bytes(32))


def key(number: int) -> Rekey:
    return Rekey(number, 20_000, 60, (NODE.id,), f"key {number}")


class Client:
    """A client whose disk is slow: a key is taken while ``disk`` is set, and a bug meets key 13."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.said: list[tuple[int, Told]] = []
        self.disk = trio.Event()
        log = PortLogger(logging.getLogger("gateway.test"), "P0")
        self.keys = ToldKeys(NODE, self.take, self.say, log)

    async def take(self, told: Rekey) -> tuple[Told, Sequence[ToldCpu]]:
        self.taken.append(told.number)
        await self.disk.wait()
        if told.number == 13:
            raise RuntimeError("a bug")
        return Told.CHANGED, ()

    def say(self, answer: Rekeyed) -> None:
        self.said.append((answer.number, answer.cpus[0].told))


async def test_the_key_that_is_being_taken_is_not_taken_again_and_of_those_that_come_meanwhile_the_last_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client = Client()
    async with trio.open_nursery() as tasks:
        for number in (1, 1, 2, 3, 3):
            client.keys.heard(key(number), tasks)
            await trio.testing.wait_all_tasks_blocked()
        client.disk.set()
    assert client.taken == [1, 3]
    assert client.said == [(1, Told.CHANGED), (3, Told.CHANGED)]


async def test_a_key_that_was_answered_is_answered_again_while_its_server_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client = Client()
    client.disk.set()
    for seconds, answers in ((0, 1), (19, 2), (2, 2)):
        await trio.sleep(seconds)
        async with trio.open_nursery() as tasks:
            client.keys.heard(key(1), tasks)
        assert client.said == [(1, Told.CHANGED)] * answers
    assert client.taken == [1]


async def test_a_bug_is_an_answer_and_the_next_key_is_taken(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client()
    client.disk.set()
    for number in (13, 14):
        async with trio.open_nursery() as tasks:
            client.keys.heard(key(number), tasks)
    assert client.said == [(13, Told.FAILED), (14, Told.CHANGED)]
    assert "the key that the server told was not taken" in caplog.text
