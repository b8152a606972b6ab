"""A peer that has the key asks about the chain without end, and answers with lies: it harms its own link alone."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.hostile import peer as wire
from tests.hostile.siege import KEY, besieged

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

ASKER = wire.Node(b"a peer that asks without an end.."[:32], features=wire.CHAIN)


def survey(number: int, patience: int = 65535) -> bytes:
    return struct.pack("!IH", number, patience)


async def test_questions_and_answers_without_end_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with (
            besieged(tmp_path) as siege,
            siege.unharmed(),
            wire.dialled(siege.remote_port, KEY, ASKER) as peer,
        ):
            await peer.open()
            answered = 0

            async def listen() -> None:
                nonlocal answered
                with suppress(wire.Ended):
                    while True:
                        await peer.until(wire.PICTURE)
                        answered += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                with trio.move_on_after(3):
                    number = 0
                    while True:
                        batch = bytearray()
                        for _ in range(50):
                            number += 1
                            batch += peer.sealed(wire.SURVEY, payload=survey(number))
                            batch += peer.sealed(wire.PICTURE, payload=bytes(4 + 200))
                        await peer.send_all(bytes(batch))
                nursery.cancel_scope.cancel()
            assert number > 1000
            assert 1 <= answered <= 20


LIES = {
    "no tree": b"\0\0rubbish",
    "another CPU": bytes(2) + b"x" * 16 + bytes(19),
    "a tree that is all depth": b"".join(bytes([depth, 0]) + bytes(35) for depth in range(200)),
    "a name with an escape": bytes(2) + ASKER.id + bytes(14) + b"\4\x1b[2J" + bytes(5),
}


async def test_an_answer_that_lies_ends_that_link_alone(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege:
            for name, tree in LIES.items():
                print(f"\n{name}:")
                async with siege.unharmed(), wire.dialled(siege.remote_port, KEY, ASKER) as peer:
                    await peer.open()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(siege.owner.gateway.curl, "/daisyport/chain")
                        asked = await peer.until(wire.SURVEY)
                        await peer.send(wire.PICTURE, payload=asked.payload[:4] + tree)
                        closed = await peer.until(wire.CLOSE)
                        assert closed.payload[0] == wire.PROTOCOL


async def test_a_question_of_a_peer_that_did_not_agree_on_it_is_a_broken_rule(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), siege.hostile() as peer:
            await peer.open()
            await peer.send(wire.SURVEY, payload=survey(1))
            closed = await peer.until(wire.CLOSE)
            assert closed.payload[0] == wire.PROTOCOL
