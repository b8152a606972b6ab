"""The shortest way of a chained message: written at the owner in the step that read it from the link."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.port.rights import Right
from gateway.remote_port.class_writer import ClassWriter
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel
from tests.gateway.remote_port.linked import Ear, chained, holds

if TYPE_CHECKING:
    from gateway.remote_port.session import RemoteSession
    from tests.gateway.remote_port.linked import Node


def session_of(owner: Node) -> RemoteSession:
    (session,) = owner.service.sessions
    return session


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_message_that_waits_for_nobody_wakes_no_writer_at_any_hop(
    hops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise AssertionError("a task wrote it")

    with trio.fail_after(5):
        async with chained(hops) as ((owner, *_, far), _):
            client = far.connect(Right.TCP)
            monkeypatch.setattr(ClassWriter, "_write", fail)
            for number in range(20):
                assert client.write_nowait(b"%03d " % number, whole=True) == 4
                await holds(lambda: client.counters.written == client.counters.received)
                await trio.sleep(0.002)  # who writes without a pause lets others run
            assert owner.tty.taken == b"".join(b"%03d " % number for number in range(20))


async def test_a_burst_of_messages_arrives_in_order_whoever_writes_each() -> None:
    with trio.fail_after(10):
        async with chained(2, room=0) as ((owner, _, far), _):
            client = far.connect(Right.TCP)
            said = [b"<%d>" % number for number in range(200)]
            async with trio.open_nursery() as nursery:

                async def speak() -> None:
                    for message in said:
                        await client.write(message)

                nursery.start_soon(speak)
                chance = random.Random(3)
                while len(owner.tty.taken) < len(b"".join(said)):
                    owner.tty.make_room(chance.randrange(1, 8))
                    await trio.sleep(0.001)
            assert owner.tty.taken == b"".join(said)
            await holds(lambda: client.counters.pending == 0)
            assert client.counters.dropped == 0


async def test_what_the_tty_took_in_part_is_finished_before_another_is_begun() -> None:
    with trio.fail_after(5):
        async with chained(room=3) as ((owner, far), _):
            client, local = far.connect(Right.TCP), owner.connect(Right.TCP)
            await client.write(b"pan left")
            await holds(lambda: owner.tty.taken == b"pan")
            assert local.write_nowait(b"evil", whole=True) == 0
            owner.tty.make_room(2)
            await holds(lambda: owner.tty.taken == b"pan l")
            owner.tty.make_room(100)
            await holds(lambda: client.counters.written == 8)
            assert local.write_nowait(b"|next", whole=True) == 5
            assert owner.tty.taken == b"pan left|next"


@pytest.mark.parametrize("how", ["revoked", "withdrawn"])
async def test_what_the_tty_took_in_part_is_whole_though_its_session_ends_at_once(how: str) -> None:
    with trio.fail_after(5):
        async with chained(room=3) as ((owner, far), _):
            client, session = far.connect(Right.TCP), session_of(owner)
            line = session._writers[Channel.TCP].line
            assert line is not None
            write = line.write_nowait

            def write_and_end(data: bytes, *, whole: bool, accepted: float | None = None) -> int:
                took = write(data, whole=whole, accepted=accepted)
                owner.nursery.start_soon(trio.lowlevel.checkpoint)
                if how == "withdrawn":
                    session.permit(Right.READ)
                else:
                    session.handle.revoke("its key changed")
                return took

            line.write_nowait = write_and_end  # type: ignore[method-assign]
            await client.write(b"pan left")
            await holds(lambda: owner.tty.taken == b"pan")
            owner.tty.make_room(100)
            await holds(lambda: owner.tty.taken == b"pan left")
            assert owner.turns.unfinished == 0
            await owner.connect(Right.TCP).write(b"|next")
            assert owner.tty.taken == b"pan left|next"


async def test_who_is_revoked_before_the_step_writes_nothing() -> None:
    with trio.fail_after(5):
        async with chained(room=100) as ((owner, far), _):
            client, session = far.connect(Right.TCP), session_of(owner)
            await client.write(b"evil")
            session.permit(Right.READ)  # before its bytes have come over the link
            await holds(lambda: client.counters.pending == 0)
            assert (owner.tty.taken, client.counters.dropped) == (b"", 4)


class PlacedEar(Ear):
    """Knows where bytes are missing."""

    def miss(self, count: int, reason: Reason) -> None:
        super().miss(count, reason)
        self.places = [*getattr(self, "places", []), (len(self.heard), count)]


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_flood_down_arrives_byte_for_byte_or_its_gaps_say_what_is_missing_and_where(hops: int) -> None:
    """The line may speak faster than a link carries, and its ring is bounded: nothing goes without a word."""
    chance = random.Random(hops)
    said = chance.randbytes(4 << 20)
    with trio.fail_after(20):
        async with chained(hops) as ((owner, *_, far), _):
            ear, session = PlacedEar(), far.connect(Right.TCP)
            session.listen(ear)
            session.listen_for_gaps(ear.miss)
            at = 0
            while at < len(said):
                piece = said[at : at + chance.choice([1, 100, 4095, 12_288])]
                owner.bus.deliver(piece)
                at += len(piece)
                if chance.random() < 0.02:
                    await trio.sleep(0.001)
            await holds(lambda: len(ear.heard) + sum(count for count, _ in ear.missed) == len(said))
            assert {reason for _, reason in ear.missed} == {Reason.OVERFLOW}
            assert far.bus.missed == sum(count for count, _ in ear.missed)
            told, heard, place = bytearray(), 0, 0
            for before, count in [*ear.places, (len(ear.heard), 0)]:
                told += said[place : place + before - heard]
                place, heard = place + before - heard + count, before
            assert bytes(told) == ear.heard
