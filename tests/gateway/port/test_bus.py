"""What the line says reaches every reader, whoever comes and goes."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.port.bus import Bus, PortStatus
from gateway.port.line import PortDown
from gateway.serial_line.arbiter import Arbiter
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel
from protocol.sharing.exchange import Ending
from tests.gateway.line import NarrowTty, Writer, narrow_port


class Ear:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def take(self, data: bytes) -> None:
        self.heard.append(data)


async def test_every_reader_gets_the_very_same_bytes_object() -> None:
    bus, ears = Bus("P0"), [Ear() for _ in range(3)]
    assert bus.name == "P0"
    for ear in ears:
        bus.attach(ear.take)
    said = bytes(range(200))
    bus.deliver(said)
    assert all(ear.heard[0] is said for ear in ears)
    assert bus.received == 200


async def test_a_reader_hears_from_when_it_came_until_it_left() -> None:
    bus, ear, other = Bus("P0"), Ear(), Ear()
    bus.attach(other.take)
    bus.deliver(b"before")
    bus.attach(ear.take)
    bus.deliver(b"meanwhile")
    bus.detach(ear.take)
    bus.detach(ear.take)
    bus.deliver(b"after")
    assert ear.heard == [b"meanwhile"]
    assert other.heard == [b"before", b"meanwhile", b"after"]


async def test_a_reader_that_leaves_while_it_hears_keeps_nothing_from_the_others() -> None:
    bus, ear = Bus("P0"), Ear()

    def leave(_: bytes) -> None:
        bus.detach(leave)

    bus.attach(leave)
    bus.attach(ear.take)
    bus.deliver(b"a")
    bus.deliver(b"b")
    assert ear.heard == [b"a", b"b"]


async def test_when_the_line_last_spoke_is_known(autojump_clock: trio.testing.MockClock) -> None:
    bus = Bus("P0")
    await trio.sleep(5)
    bus.deliver(b"x")
    await trio.sleep(5)
    assert trio.current_time() - bus.heard_at == pytest.approx(5)


async def test_the_state_of_a_port_is_what_its_device_tells_of_it(autojump_clock: trio.testing.MockClock) -> None:
    bus = Bus("P0")
    assert (bus.received, bus.missed, bus.gaps, bus.dropped, bus.heard_at) == (0, 0, 0, 0, trio.current_time())
    assert (bus.state.value.in_force, bus.state.value.rate, bus.state.value.settings) == (None, 0, "")
    assert (bus.state.value.path, bus.state.value.cuts, bus.state.value.last_cut) == ((), 0, "")
    bus.adjusted(19200, "RS232 19200 8N1", {"BaudRate": 19200})
    bus.route(b"owner", b"node", rights=0b100)
    bus.cut("client: too slow")
    bus.cut("another: too slow")
    assert bus.state.value == PortStatus(
        "the port has not been opened yet",
        in_force={"BaudRate": 19200},
        rate=19200,
        settings="RS232 19200 8N1",
        path=(b"owner", b"node"),
        rights=0b100,
        cuts=2,
        last_cut="another: too slow",
    )


async def test_a_line_lets_every_class_of_traffic_in_where_nobody_says_otherwise() -> None:
    bus = Bus("P0")
    every = sum(1 << channel for channel in Channel if channel is not Channel.LINE)
    assert bus.state.value.rights == every
    bus.route(b"owner", rights=0)
    bus.route(b"owner")
    assert bus.state.value.rights == every


async def test_a_reader_of_gaps_hears_from_when_it_came_until_it_left() -> None:
    bus = Bus("P0")
    ears: list[list[tuple[int, Reason]]] = [[], []]

    def first(count: int, reason: Reason) -> None:
        ears[0].append((count, reason))

    def second(count: int, reason: Reason) -> None:
        ears[1].append((count, reason))

    bus.attach_for_gaps(first)
    bus.miss(1, Reason.OVERFLOW)
    bus.attach_for_gaps(second)
    bus.miss(2, Reason.RESTARTED)
    bus.detach_for_gaps(first)
    bus.miss(3, Reason.OVERFLOW)
    assert ears == [[(1, Reason.OVERFLOW), (2, Reason.RESTARTED)], [(2, Reason.RESTARTED), (3, Reason.OVERFLOW)]]


async def test_a_port_without_a_device_says_why_and_outlives_each() -> None:
    bus, ear = Bus("P0"), Ear()
    bus.attach(ear.take)
    with pytest.raises(PortDown, match="not been opened yet"):
        _ = bus.line
    turns = Arbiter(NarrowTty().as_uart, Bus("P0"))
    bus.connect(turns)
    assert bus.line is turns
    assert bus.down is None
    bus.disconnect("the cable is out")
    assert bus.down == "the cable is out"
    with pytest.raises(PortDown, match="the cable is out"):
        _ = bus.line
    bus.disconnect("the port is disabled")
    assert bus.down == "the port is disabled"
    bus.connect(Arbiter(NarrowTty().as_uart, Bus("P0")))
    bus.deliver(b"back")
    assert ear.heard == [b"back"]


async def test_who_waits_for_the_line_when_its_device_goes_is_refused_and_finds_the_reason_at_the_port() -> None:
    bus, turns = narrow_port(NarrowTty())
    found: list[str | None] = []

    async def wait() -> None:
        with pytest.raises(PortDown, match="the cable is out"):
            await turns.write(b"late", Writer(), trio.current_time())
        found.append(bus.down)

    with trio.fail_after(5):
        turn = await turns.turn(Writer(), trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            bus.disconnect("the cable is out")
    assert found == ["the cable is out"]
    turn.close()


# Containment ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Brittle:
    """A reader that raises at its ``fails_at``-th piece or gap, and notes what it was handed."""

    fails_at: int
    heard: list[object] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        self.note(data)

    def miss(self, count: int, reason: Reason) -> None:
        self.note((count, reason))

    def note(self, what: object) -> None:
        self.heard.append(what)
        if len(self.heard) == self.fails_at:
            raise ValueError("a bug")


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    fails=st.lists(st.integers(1, 6) | st.just(99), min_size=1, max_size=6),
    gaps=st.lists(st.booleans(), min_size=6, max_size=6),
)
async def test_a_reader_that_raises_is_ended_and_all_others_hear_everything(fails: list[int], gaps: list[bool]) -> None:
    bus, readers = Bus("P0"), [Brittle(at) for at in fails]
    for reader in readers:
        bus.attach(reader.take, reader.ended.append)
        bus.attach_for_gaps(reader.miss, reader.ended.append)
    said: list[object] = []
    for number, gap in enumerate(gaps):
        if gap:
            said.append((number, Reason.OVERFLOW))
            bus.miss(number, Reason.OVERFLOW)
        else:
            said.append(bytes([number]))
            bus.deliver(bytes([number]))
        for reader in readers:
            # Ended means detached from both, as a session does it.
            if reader.ended:
                bus.detach(reader.take)
                bus.detach_for_gaps(reader.miss)
    for reader in readers:
        assert reader.heard == said[: reader.fails_at]
        assert reader.ended == ["a bug ended it"] * (reader.fails_at <= 6)
    assert (bus.received, bus.gaps) == (gaps.count(False), gaps.count(True))


async def test_a_reader_of_turns_or_of_what_is_written_that_raises_is_ended_and_the_others_are_told() -> None:
    bus, ended = Bus("P0"), list[str]()
    turns, written = list[object](), list[object]()

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    def fail_too(*_: object) -> None:
        fail()

    bus.attach_for_turns(fail, ended.append)
    bus.attach_for_turns(lambda asker, ending: turns.append((asker, ending)))
    bus.attach_for_writing(fail_too, ended.append)
    bus.attach_for_writing(lambda data, holder: written.append((data, holder)))
    for _ in range(2):
        bus.turn_begins(None)
        bus.turn_ends(Ending.WHOLE)
        bus.wrote(b"x", "anna")
    assert turns == [(None, None), (None, Ending.WHOLE)] * 2
    assert written == [(b"x", "anna")] * 2
    assert ended == ["a bug ended it"] * 2


async def test_a_reader_that_was_detached_leaves_nothing_to_end() -> None:
    bus, brittle = Bus("P0"), Brittle(1)
    bus.attach(brittle.take, brittle.ended.append)
    bus.detach(brittle.take)
    bus.attach_for_gaps(brittle.miss, brittle.ended.append)
    bus.detach_for_gaps(brittle.miss)
    bus.attach(brittle.take)
    bus.deliver(b"x")
    second = Brittle(1)
    bus.attach_for_gaps(second.miss, second.ended.append)
    bus.detach_for_gaps(second.miss)
    bus.attach_for_gaps(second.miss)
    bus.miss(1, Reason.OVERFLOW)
    assert (brittle.heard, second.heard) == ([b"x"], [(1, Reason.OVERFLOW)])
    assert (brittle.ended, second.ended) == ([], [])


async def test_a_bus_keeps_nothing_of_a_reader_that_was_detached() -> None:
    bus = Bus("P0")
    reader = Brittle(99)
    bus.attach(reader.take, reader.ended.append)
    bus.attach_for_gaps(reader.miss, reader.ended.append)
    gone = weakref.ref(reader)
    bus.detach(reader.take)
    bus.detach_for_gaps(reader.miss)
    del reader
    gc.collect()
    assert gone() is None


async def test_a_failing_reader_is_logged_with_its_port(caplog: pytest.LogCaptureFixture) -> None:
    bus, brittle, deaf = Bus("P3"), Brittle(1), Brittle(1)
    bus.attach(brittle.take)
    bus.attach_for_gaps(deaf.miss)
    for _ in range(2):
        bus.deliver(b"x")
        bus.miss(1, Reason.OVERFLOW)
    assert (brittle.heard, deaf.heard) == ([b"x"], [(1, Reason.OVERFLOW)])
    faults = [record for record in caplog.records if record.exc_info is not None]
    assert [vars(record)["port"] for record in faults] == ["P3", "P3"]


async def test_a_gap_of_unknown_size_is_counted_as_a_gap() -> None:
    bus = Bus("P0")
    bus.miss(0, Reason.RESTARTED)
    bus.miss(7, Reason.OVERFLOW)
    assert (bus.gaps, bus.missed) == (2, 7)


async def test_gaps_in_a_line_are_logged_and_a_flood_of_them_is_counted(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    bus = Bus("P0")
    bus.miss(0, Reason.RESTARTED)
    for _ in range(5000):
        bus.miss(3, Reason.OVERFLOW)
    assert caplog.messages == [
        "P0 an unknown number of bytes of the line are missing: restarted",
        *["P0 3 bytes of the line are missing: overflow"] * 9,
    ]
    assert (bus.gaps, bus.missed) == (5001, 15000)
