"""Peers that claim to be somebody else: another CPU with the same identity, and servers that Bonjour never heard of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.hostile import peer as wire
from tests.hostile.siege import besieged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hostile.siege import Siege

CLONED = b"a cloned image.."


class Clone:
    """A CPU that dials again as soon as its link is cut, as honest ones do."""

    def __init__(self, siege: Siege, address: str) -> None:
        self.address = address
        self._siege = siege
        self._number = 1
        self.links = 0
        """How often it was let in."""
        self.linked = False

    async def run(self) -> None:
        while True:
            async with self._siege.hostile(CLONED, self.address) as peer:
                answer = await peer.open(number=self._number)
                if answer.kind == wire.OPENED:
                    self.links += 1
                    self.linked = True
                    await peer.stay()
                self._number = max(self._number, answer.offset) + 1
            self.linked = False
            await trio.sleep(0.2)


async def test_of_two_cpus_with_one_identity_the_older_link_stays_and_the_log_says_what_to_do(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), trio.open_nursery() as nursery:
            clones = [Clone(siege, "127.0.0.2"), Clone(siege, "127.0.0.3")]
            for clone in clones:
                nursery.start_soon(clone.run)
            await siege.owner.says(" ERROR ")
            (told,) = [line for line in siege.owner.said.splitlines() if " ERROR " in line]
            assert all(clone.address in told for clone in clones), told
            assert "node_id" in told
            before = [clone.links for clone in clones]
            await trio.sleep(2)
            assert [clone.linked for clone in clones].count(True) == 1
            assert [clone.links for clone in clones] == before
            status = await siege.owner.gateway.status()
            shown = str(status["remote_port_server"])
            assert all(clone.address in shown for clone in clones), shown
            nursery.cancel_scope.cancel()
