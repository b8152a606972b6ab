"""The raw peer beside the page: it computes every byte that the page shows."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.hostile import peer as wire

PAGE = (Path(__file__).parents[2] / "docs" / "remote-port-protocol.md").read_text()
SHOWN = {name: bytes.fromhex(data) for name, data in re.findall(r"```hex (\w+)\n(.*?)```", PAGE, re.DOTALL)}


def test_the_raw_peer_computes_the_worked_connection() -> None:
    ya, yb, fresh = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
    point = wire.generator("pelco123")
    assert point == SHOWN["generator"]
    node_a = wire.Node(b"A" * 32, name="cpu-a", features=wire.FEATURES)
    node_b = wire.Node(b"B" * 32, name="cpu-b", features=wire.FEATURES)
    a = wire.multiplied(ya, point), wire.hello_data(node_a.id, 0, fresh)
    b = wire.multiplied(yb, point), wire.reply_data(node_b.id, 0, "blade-7")
    run = wire.Run.of(wire.multiplied(ya, b[0]), a, b)
    assert SHOWN["hello"][16:] == b"".join(a)
    assert SHOWN["hello_reply"][16:] == b"".join(b) + run.tag_b
    assert SHOWN["confirm"][16:] == run.tag_a
    assert (run.isk, run.up, run.down) == (SHOWN["isk"], SHOWN["key_up"], SHOWN["key_down"])
    for shown, node, way, key in (
        ("identity_down", node_b, b"down", run.down),
        ("identity_up", node_a, b"up", run.up),
    ):
        header, sealed = SHOWN[shown][:16], SHOWN[shown][16:]
        payload = ChaCha20Poly1305(key).decrypt(bytes(12), sealed, header)
        assert payload == node.identity(way, run)
        wire.check_identity(payload, node.id, way, run)
