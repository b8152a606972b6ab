from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import trio
import trio.testing

from gateway.port.bus import PortStatus
from gateway.remote_port.announce import announce
from gateway.tasks.watch import Cell

if TYPE_CHECKING:
    from gateway.discovery.bonjour import Bonjour
    from protocol.link.advert import Advert

OWNER, MIDDLE = bytes([1] * 16), bytes([2] * 16)


class Voice:
    """What is announced now, and what was said and taken back, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def announce(self, advert: Advert, port: int) -> None:
        assert advert.name == "cpu2" * 16
        name = f"{advert.node[0]} hops {advert.hops} key {advert.keyed} port {port}"
        self.told.append(f"+{name}")
        try:
            await trio.sleep_forever()
        finally:
            self.told.append(f"-{name}")


async def test_a_server_is_announced_only_while_it_has_a_way_to_the_line() -> None:
    voice, state = Voice(), Cell(PortStatus("no device"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce, cast("Bonjour", voice), state, 0, "blade-7", "cpu2" * 20, True, 2500)
            await trio.testing.wait_all_tasks_blocked()
            assert voice.told == []
            state.set(replace(state.value, path=(OWNER,)))
            await trio.testing.wait_all_tasks_blocked()
            assert voice.told == ["+1 hops 0 key True port 2500"]
            state.set(replace(state.value, down="unplugged"))
            await trio.testing.wait_all_tasks_blocked()
            assert len(voice.told) == 1
            state.set(replace(state.value, path=()))
            await trio.testing.wait_all_tasks_blocked()
            assert voice.told[1:] == ["-1 hops 0 key True port 2500"]
            nursery.cancel_scope.cancel()


async def test_another_path_is_said_before_the_old_word_is_taken_back() -> None:
    voice, state = Voice(), Cell(PortStatus(None, path=(OWNER, MIDDLE)))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce, cast("Bonjour", voice), state, 0, "blade-7", "cpu2" * 20, False, 2500)
            await trio.testing.wait_all_tasks_blocked()
            state.set(replace(state.value, path=(OWNER,)))
            await trio.testing.wait_all_tasks_blocked()
            assert voice.told == [
                "+2 hops 1 key False port 2500",
                "+1 hops 0 key False port 2500",
                "-2 hops 1 key False port 2500",
            ]
            nursery.cancel_scope.cancel()
