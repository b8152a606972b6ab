"""CPUs of this version and of the next on one chain: what only one side of a link knows is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.port.rights import Right
from gateway.remote_port import client, server
from tests.gateway.remote_port.linked import chained, holds

if TYPE_CHECKING:
    from protocol.link.handshake import Peer

NEXT = 0b1010_0000
"""Features of the next version, which this one knows nothing of."""


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param({"owner", "cpu2"}, id="this version between two of the next"),
        pytest.param({"cpu1"}, id="the next version between two of this"),
        pytest.param({"owner", "cpu1", "cpu2"}, id="the next version alone"),
    ],
)
async def test_a_chain_of_two_versions_carries_bytes_and_agrees_on_what_both_know(
    newer: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed: list[tuple[str, Peer]] = []

    def as_version(made: type[Any], name_at: int) -> object:
        """Make one side of a handshake with the features of its node's version, and note what it agrees on."""

        class Side(made):  # type: ignore[misc]  # either side
            def __init__(self, *arguments: Any) -> None:
                self.name = arguments[name_at].name
                super().__init__(*arguments, features=NEXT if self.name in newer else 0)

            def identify(self, *arguments: Any) -> object:
                found = super().identify(*arguments)
                agreed.append((self.name, found[1] if isinstance(found, tuple) else found))
                return found

        return Side

    monkeypatch.setattr(client, "Initiator", as_version(client.Initiator, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(server, "Acceptor", as_version(server.Acceptor, 1))  # type: ignore[attr-defined]
    with trio.fail_after(10):
        async with chained(2) as ((owner, _, far), cables):
            ear = far.listen()
            writer = far.connect(Right.TCP)
            await writer.write(b"down the chain")
            await holds(lambda: owner.tty.taken == b"down the chain")
            owner.bus.deliver(b"and up again")
            await holds(lambda: ear.heard == b"and up again")
            for cable in cables:
                cable.cut()
            await writer.write(b", also after a cut")
            await holds(lambda: owner.tty.taken == b"down the chain, also after a cut")
    links = {frozenset((name, peer.name)): peer.features for name, peer in agreed}
    assert links == {
        frozenset(pair): NEXT if newer.issuperset(pair) else 0 for pair in (("owner", "cpu1"), ("cpu1", "cpu2"))
    }
