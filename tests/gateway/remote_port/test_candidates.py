from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.remote_port.candidates import Candidates, NobodyError, Target
from gateway.tasks.watch import Cell
from protocol.link.advert import Advert, Candidate
from protocol.parameters.settings import RemotePort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def candidates(neighbourhood: Neighbourhood, *, without_key: bool = False) -> Candidates:
    return Candidates(cast("Bonjour", neighbourhood), 0, "blade-7", without_key=without_key)


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
    found = candidates(neighbourhood, without_key=True)
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
        assert found.failed(), "somebody is there who was not tried yet"
        assert neighbourhood.looks == 1
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
        assert not found.failed()
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
    assert not found.failed()
    assert neighbourhood.looks == 2, "nobody looks any more"


async def test_sixteen_forged_adverts_hide_the_real_server_for_sixteen_dials(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    forged = tuple(candidate(number) for number in range(1, 17))
    neighbourhood.seen.set((*forged, candidate(99, chassis="elsewhere", index=7)))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        dialled = []
        for _ in range(17):
            dialled.append((await found.next(AUTOMATIC, resuming=False)).host)
            found.failed()
    assert dialled[-1] == "10.0.0.99"


async def test_an_address_with_identities_without_end_does_not_hide_the_real_server(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    real = candidate(99, chassis="elsewhere")
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        dialled = []
        for number in range(1, 4):
            forged = Candidate(candidate(number).advert, ("10.0.0.66",), 2500)
            neighbourhood.seen.set((forged, real))
            dialled.append((await found.next(AUTOMATIC, resuming=False)).host)
    assert dialled == ["10.0.0.66", "10.0.0.99", "10.0.0.66"]


async def test_two_ports_of_one_host_are_tried_in_turn() -> None:
    neighbourhood = Neighbourhood()
    first, second = candidate(1), candidate(1, index=1)
    neighbourhood.seen.set((first, second))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        identities = [(await found.next(AUTOMATIC, resuming=False)).identity for _ in range(2)]
    assert identities == [(bytes([1] * 16), 0), (bytes([1] * 16), 1)]


async def test_a_wrong_key_pauses_that_server_and_the_next_is_dialled_at_once(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1), candidate(2)))
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
        found.wrong_key()
        for _ in range(2):
            assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
        assert trio.current_time() == began
        found.wrong_key()
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
        assert trio.current_time() - began == pytest.approx(60)


async def test_while_all_are_paused_a_new_one_is_dialled_as_soon_as_it_is_seen(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1),))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        await found.next(AUTOMATIC, resuming=False)
        found.wrong_key()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def appear() -> None:
                await trio.sleep(1)
                neighbourhood.seen.set((candidate(1), candidate(2)))

            assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
        assert trio.current_time() - began == pytest.approx(1)


async def test_a_server_that_the_parameters_name_is_dialled_five_seconds_after_a_wrong_key(
    autojump_clock: MockClock,
) -> None:
    found = candidates(Neighbourhood())
    found.wrong_key()  # nobody was dialled yet
    began = trio.current_time()
    with found.looking(BY_HAND):
        await found.next(BY_HAND, resuming=False)
        found.wrong_key()
        await found.next(BY_HAND, resuming=False)
        assert trio.current_time() - began == pytest.approx(5)
        found.wrong_key()
    with found.looking(BY_HAND):
        await found.next(BY_HAND, resuming=False)
    assert trio.current_time() - began == pytest.approx(5), "the key may be another one now"


async def test_a_session_that_may_be_resumed_is_only_resumed_with_its_own_server() -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(2),))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        first = await found.next(AUTOMATIC, resuming=False)
        found.worked()
        neighbourhood.seen.set((candidate(1),))
        assert await found.next(AUTOMATIC, resuming=True) == first


async def test_strangers_get_twenty_four_dials_and_then_one_each_ten_seconds(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set(tuple(candidate(number) for number in range(1, 41)))
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        for _ in range(24):
            await found.next(AUTOMATIC, resuming=False)
            found.wrong_key()
        assert trio.current_time() == began
        await found.next(AUTOMATIC, resuming=False)
        assert trio.current_time() - began == pytest.approx(10)
        await found.next(AUTOMATIC, resuming=False)
        assert trio.current_time() - began == pytest.approx(20)


async def test_a_server_that_is_seen_when_forgers_have_spent_all_dials_is_dialled_next(
    autojump_clock: MockClock,
) -> None:
    neighbourhood = Neighbourhood()
    forged = tuple(candidate(number) for number in range(1, 31))
    neighbourhood.seen.set(forged)
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        for _ in range(24):
            await found.next(AUTOMATIC, resuming=False)
            found.wrong_key()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def appear() -> None:
                await trio.sleep(1)
                neighbourhood.seen.set((*forged[:24], candidate(99, chassis="elsewhere")))

            assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.99"
        assert trio.current_time() - began == pytest.approx(10)


async def test_sixteen_forged_adverts_of_one_address_leave_dials_for_a_server_that_is_seen_later(
    autojump_clock: MockClock,
) -> None:
    """Their forger refuses within milliseconds, long before the real server is found."""
    neighbourhood = Neighbourhood()
    forged = tuple(Candidate(candidate(number).advert, ("10.0.0.66",), 2500 + number) for number in range(1, 17))
    neighbourhood.seen.set(forged)
    found = candidates(neighbourhood)
    began = trio.current_time()

    async def appear() -> None:
        await trio.sleep(1)
        neighbourhood.seen.set((*forged, candidate(99, chassis="elsewhere")))

    with found.looking(AUTOMATIC):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(appear)
            dialled = []
            while "10.0.0.99" not in dialled:
                dialled.append((await found.next(AUTOMATIC, resuming=False)).host)
                found.wrong_key()
    assert dialled == ["10.0.0.66"] * 4 + ["10.0.0.99"]
    assert trio.current_time() - began == pytest.approx(1)


async def test_an_address_with_wrong_keys_is_dialled_slowly_and_none_of_its_servers_never(
    autojump_clock: MockClock,
) -> None:
    neighbourhood = Neighbourhood()
    servers = [Candidate(candidate(number).advert, ("10.0.0.66",), 2500 + number) for number in range(1, 9)]
    neighbourhood.seen.set(tuple(servers))
    found = candidates(neighbourhood)
    began = trio.current_time()
    moments = []
    with found.looking(AUTOMATIC):
        for _ in servers:
            await found.next(AUTOMATIC, resuming=False)
            found.wrong_key()
            moments.append(round(trio.current_time() - began, 3))
    assert moments == [0, 0, 0, 0, 2, 4, 6, 8]


async def dial_one_by_one(
    found: Candidates, neighbourhood: Neighbourhood, count: int, ended: Callable[[], None]
) -> None:
    """Announce so many servers, each at an address of its own, and choose each; then its dial ``ended`` like that."""
    with found.looking(AUTOMATIC):
        for number in range(count):
            advert = Advert(number.to_bytes(16, "big"), 0, "", 0, keyed=True, versions=(1,))
            neighbourhood.seen.set((Candidate(advert, (f"10.1.{number // 256}.{number % 256}",), 2500),))
            await found.next(AUTOMATIC, resuming=False)
            ended()


async def test_only_so_many_addresses_with_wrong_keys_are_remembered(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    found = candidates(neighbourhood)
    await dial_one_by_one(found, neighbourhood, 1100, found.wrong_key)
    assert len(found._wrong) <= 1024


@pytest.mark.parametrize("how", ["proved the key", "unreachable"])
async def test_a_dial_in_which_no_stranger_could_test_a_key_was_no_guess(autojump_clock: MockClock, how: str) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(1),))
    found = candidates(neighbourhood)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        for _ in range(20):
            await found.next(AUTOMATIC, resuming=False)
            if how == "unreachable":
                found.no_guess()
            else:
                found.answered((bytes([1] * 16), 0))
    assert trio.current_time() == began


class Kept:
    """A file that outlives whoever writes to it."""

    def __init__(self, content: bytes | None = None, *, works: bool = True) -> None:
        self.content = content
        self.works = works

    def read(self) -> bytes | None:
        if not self.works:
            raise OSError(5, "Input/output error")
        return self.content

    def replace(self, content: bytes) -> None:
        if not self.works:
            raise OSError(28, "No space left on device")
        self.content = content


def again(neighbourhood: Neighbourhood, kept: Kept) -> Candidates:
    return Candidates(cast("Bonjour", neighbourhood), 0, "blade-7", without_key=False, memory=kept)


async def first_boot(kept: Kept) -> None:
    """Dial the first that is seen, 10.0.0.2, with success."""
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(2),))
    found = again(neighbourhood, kept)
    with found.looking(AUTOMATIC):
        await found.next(AUTOMATIC, resuming=False)
        content = found.answered((bytes([2] * 16), 0))
        assert content is not None
        found.keep(content)
        assert found.answered((bytes([2] * 16), 0)) is None, "that is known"


async def test_the_server_that_proved_the_key_is_dialled_first_at_the_next_boot_whoever_else_is_seen(
    autojump_clock: MockClock,
) -> None:
    kept, neighbourhood = Kept(), Neighbourhood()
    await first_boot(kept)
    found = again(neighbourhood, kept)
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        # Nobody is seen yet, and then one that would come first.
        assert await found.next(AUTOMATIC, resuming=False) == Target("10.0.0.2", 2500, (bytes([2] * 16), 0))
        neighbourhood.seen.set((candidate(1),))
        for _ in range(3):
            found.no_guess()
            assert not found.failed()
            assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
        assert trio.current_time() == began
        await trio.sleep(30)
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"


async def test_a_remembered_server_that_has_moved_is_found_where_it_is_seen(autojump_clock: MockClock) -> None:
    kept, neighbourhood = Kept(), Neighbourhood()
    await first_boot(kept)
    found = again(neighbourhood, kept)
    neighbourhood.seen.set((candidate(1), Candidate(candidate(2).advert, ("10.0.0.77",), 2501)))
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.2"
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.77"
        assert found.answered((bytes([2] * 16), 0)) == b"02" * 16 + b" 0 10.0.0.77 2501\n"


async def test_a_remembered_server_with_another_key_is_forgotten_and_others_are_dialled_at_once(
    autojump_clock: MockClock,
) -> None:
    kept, neighbourhood = Kept(), Neighbourhood()
    await first_boot(kept)
    found = again(neighbourhood, kept)
    neighbourhood.seen.set((candidate(1),))
    began = trio.current_time()
    with found.looking(AUTOMATIC):
        await found.next(AUTOMATIC, resuming=False)
        found.wrong_key()
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
    assert trio.current_time() == began


@pytest.mark.parametrize(
    "content",
    [b"", b"02 0 10.0.0.2 2500", b"02" * 16 + b" 0 host 2500", b"02" * 16 + b" 0 10.0.0.2 0", b"\xff\xfe", b"a b"],
)
async def test_what_is_no_memory_is_as_good_as_none(content: bytes) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(3),))
    found = again(neighbourhood, Kept(content))
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.3"


async def test_a_memory_that_fails_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set((candidate(3),))
    found = again(neighbourhood, Kept(works=False))
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.3"
        content = found.answered((bytes([3] * 16), 0))
        assert content is not None
        found.keep(content)
    assert "No space left" in caplog.text
    assert "cannot be read" in caplog.text
    candidates(neighbourhood).keep(content)  # there is no memory at all


async def test_only_so_many_dials_are_counted(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    found = candidates(neighbourhood)
    await dial_one_by_one(found, neighbourhood, 600, found.no_guess)
    assert len(found._tried) <= 1024


# --- the status ---


async def test_the_status_says_who_may_be_dialled_how_he_answered_and_when_he_is_tried_next(
    autojump_clock: MockClock,
) -> None:
    neighbourhood = Neighbourhood()
    named = candidate(1)
    named = replace(named, advert=replace(named.advert, name="cpu1"))
    neighbourhood.seen.set((named, candidate(2)))
    found = candidates(neighbourhood)
    with found.looking(AUTOMATIC):
        assert (await found.next(AUTOMATIC, resuming=False)).host == "10.0.0.1"
        found.note("the key is another one")
        found.wrong_key()
        await trio.sleep(20)
        one, two = found.status(AUTOMATIC, trio.current_time() + 3)
    assert one == {
        "address": "10.0.0.1",
        "port": 2500,
        "node": "01" * 16,
        "name": "cpu1",
        "server_port": "P0",
        "chassis": "blade-7",
        "hops": 0,
        "last_answer": "the key is another one",
        "last_answer_seconds_ago": 20.0,
        "next_try_seconds": 40.0,
    }
    assert (two["last_answer"], two["last_answer_seconds_ago"], two["next_try_seconds"]) == ("", None, 3.0)


async def test_the_status_of_a_host_by_name_knows_no_more_than_its_answer(autojump_clock: MockClock) -> None:
    found = candidates(Neighbourhood())
    found.note("nobody was dialled yet")
    with found.looking(BY_HAND):
        await found.next(BY_HAND, resuming=False)
        found.note("no answer")
        (only,) = found.status(BY_HAND, 0.0)
    assert (only["address"], only["node"], only["server_port"], only["hops"]) == ("10.0.0.1", "", "", None)
    assert (only["last_answer"], only["next_try_seconds"]) == ("no answer", 0.0)
    assert found.status(RemotePort(auto_conf=False), 0.0) == []
    assert found.status(AUTOMATIC, 0.0) == []


async def test_the_status_shows_the_remembered_server_first_and_no_more_than_32(autojump_clock: MockClock) -> None:
    neighbourhood = Neighbourhood()
    neighbourhood.seen.set(tuple(candidate(number) for number in range(1, 101)))
    memory = Kept(b"%s 0 10.9.9.9 2500\n" % (b"63" * 16))
    found = Candidates(cast("Bonjour", neighbourhood), 0, "blade-7", without_key=False, memory=memory)
    with found.looking(AUTOMATIC):
        shown = found.status(AUTOMATIC, 0.0)
    assert len(shown) == 32
    assert (shown[0]["address"], shown[0]["name"], shown[0]["hops"]) == ("10.9.9.9", "", None)


async def test_only_the_newest_64_answers_are_remembered(autojump_clock: MockClock) -> None:
    found = candidates(Neighbourhood())
    for number in range(200):
        settings = replace(BY_HAND, port=2000 + number)
        await found.next(settings, resuming=False)
        found.note("no")
    assert len(found._answers) == 64
    assert found._answers.keys() == {Target("10.0.0.1", 2136 + number) for number in range(64)}
