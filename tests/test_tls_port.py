"""TLS on a port of a daemon of its own: every byte both ways, a SIGHUP that brings another authority, and the end."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from tests.certificates import Authority, client_context, has_the_line
from tests.helpers import free_port, needs_curl
from tests.live import daemon

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_curl

MUCH = bytes(range(256)) * 1200


async def test_a_user_over_tls_has_every_byte_and_what_client_ca_says_counts_at_a_hang_up(tmp_path: Path) -> None:
    port, old, new = free_port(), Authority("old"), Authority("new")
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(old.pem)
    table = (
        f'[[port_manager]]\nserial = 1\n[port_manager.tls]\nlisten = ["127.0.0.1:{port}"]\nclient_ca = "{authorities}"'
    )

    async def connected(authority: Authority) -> trio.SSLStream[trio.SocketStream]:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        client = trio.SSLStream(stream, client_context(signed(authority)), server_hostname="x")
        await client.do_handshake()
        return client

    def signed(authority: Authority) -> Path:
        certificate = tmp_path / "operator.pem"
        certificate.write_bytes(authority.sign("operator")[0])
        return certificate

    with trio.fail_after(30):
        async with daemon(tmp_path, config=table) as live, await connected(old) as client:
            line = live.lines[0]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, MUCH)
                assert await line.hear(len(MUCH)) == MUCH
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.say, MUCH)
                heard = bytearray()
                while len(heard) < len(MUCH):
                    heard += await client.receive_some()
            assert heard == MUCH
            for _ in range(200):  # message by message, as a terminal
                await client.send_all(b"ask")
                assert await line.hear(3) == b"ask"
                await line.say(b"answer")
                assert await client.receive_some() == b"answer"
            authorities.with_suffix(".new").write_bytes(new.pem)
            authorities.with_suffix(".new").rename(authorities)
            live.process.send_signal(signal.SIGHUP)
            while not await has_the_line(line, port, signed(new)):
                pass
            assert not await has_the_line(line, port, signed(old))
            await client.send_all(b"and I stay")
            assert await line.hear(10) == b"and I stay"
            live.process.terminate()
            assert await client.receive_some() == b""
    assert "not driven by descriptors" not in live.log
