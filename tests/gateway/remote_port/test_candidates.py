from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.remote_port.candidates import Candidates, NobodyError, Target
from gateway.tasks.watch import Cell
from protocol.link.advert import Advert, Candidate
from protocol.parameters.settings import RemotePort

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from gateway.discovery.bonjour import Bonjour

BY_HAND = RemotePort(auto_conf=False, host="10.0.0.1", port=2500)
AUTOMATIC = RemotePort(auto_conf=True, authentication_key="key")


class Neighbourhood:
    """What Bonjour sees, as the test says."""

    def __init__(self) -> None:
        self.seen: Cell[tuple[Candidate, ...]] = Cell(())
        self.looking = 0
        self.looks = 0

    @contextlib.contextmanager
    def browse(self) -> Iterator[Cell[tuple[Candidate, ...]]]:
        self.looking += 1
        yield self.seen
        self.looking -= 1

    def look_again(self) -> None:
        self.looks += 1


def candidate(number: int, chassis: str = "blade-7", index: int = 0, versions: tuple[int, ...] = (1,)) -> Candidate:
    advert = Advert(bytes([number] * 16), index, chassis, 0, keyed=True, versions=versions)
    return Candidate(advert, (f"10.0.0.{number}",), 2500)


def candidates(neighbourhood: Neighbourhood, *, keyless: bool = False) -> Candidates:
    return Candidates(cast("Bonjour", neighbourhood), 0, "blade-7", keyless=keyless)


async def test_without_autoconf_it_is_the_host_that_the_parameters_name() -> None:
    neighbourhood = Neighbourhood()
    found = candidates(neighbourhood)
    with found.looking(BY_HAND):
        assert await found.next(BY_HAND, resuming=False) == Target("10.0.0.1", 2500)
        assert neighbourhood.looking == 0
        found.failed()
        assert neighbourhood.looks == 0


async def test_without_autoconf_and_without_a_host_there_is_nobody() -> None:
    with pytest.raises(NobodyError, match="Host is empty"):
        await candidates(Neighbourhood()).next(RemotePort(auto_conf=False), resuming=False)


async def test_autoconf_without_a_key_dials_nobody_and_says_so() -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1),))
    found = candidates(neighbourhood)
    keyless = RemotePort(auto_conf=True)
    with found.looking(keyless), pytest.raises(NobodyError, match="AuthenticationKey"):
        await found.next(keyless, resuming=False)


async def test_the_host_may_allow_autoconf_without_a_key() -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1),))
    found = candidates(neighbourhood, keyless=True)
    keyless = RemotePort(auto_conf=True)
    with found.looking(keyless):
        assert (await found.next(keyless, resuming=False)).host == "10.0.0.1"


async def test_autoconf_waits_until_somebody_is_found(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def appear() -> None:
                await trio.testing.wait_all_tasks_blocked()
                neighbourhood.seen.set((candidate(3),))

            server = await found.next(AUTOMATIC, resuming=False)
    assert server == Target("10.0.0.3", 2500, (bytes([3] * 16), 0))
    assert neighbourhood.looking == 0


async def test_our_own_chassis_is_tried_first_then_the_others_then_all_again() -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1, chassis="elsewhere"), candidate(2), candidate(4, versions=(9,))))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
        found.failed()
        assert neighbourhood.looks == 1
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
        with pytest.raises(NobodyError, match="none of the 2 servers"):
            await found.next(AUTOMATIC, resuming=False)
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"


async def test_a_session_that_may_be_resumed_is_only_resumed_with_its_own_server() -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(2),))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        first = await found.next(AUTOMATIC, resuming=False)
        found.worked()
        neighbourhood.seen.set((candidate(1),))
        assert await found.next(AUTOMATIC, resuming=True) == first


async def test_strangers_get_eight_dials_and_then_one_a_minute(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set(tuple(candidate(number) for number in range(1, 17)))
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        for _ in range(8):
            await found.next(AUTOMATIC, resuming=False)
        assert trio.current_time() == began
        await found.next(AUTOMATIC, resuming=False)
        assert trio.current_time() - began == pytest.approx(60)
        await found.next(AUTOMATIC, resuming=False)
        assert trio.current_time() - began == pytest.approx(120)


async def test_a_dial_that_worked_was_no_guess(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1),))
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        for _ in range(20):
            await found.next(AUTOMATIC, resuming=False)
            found.worked()
    assert trio.current_time() == began
