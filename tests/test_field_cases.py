"""Cases that users of other gateways met, each as a live user would see it here; others stand beside their modules."""

from __future__ import annotations

import base64
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.host.config import PortConfig
from protocol.parameters.hardware import ManagerHardware
from protocol.sharing import message_rule
from protocol.sharing.message_rule import MessageRule
from tests.helpers import PASSWORD, free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers import Gateway

LOGIN = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
EVERY_BYTE = bytes(range(256))


# -- 14: monitors that connect and close -------------------------------------------------------------------------------


@needs_curl
async def test_a_monitor_that_connects_and_closes_each_second_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with trio.fail_after(50):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(PTZServer_Enabled="yes", RemotePortServer_Enabled="yes")
            caplog.clear()
            for probe in range(100):
                async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
                    if probe % 2:
                        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await gateway.ptz().aclose()
                async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as http:
                    if probe % 2:
                        await http.send_all(b"GET / HTTP/1.0\r\n\r\n")
            while (await gateway.status())["clients"]:
                await gateway.lines[0].say(b"x")
    lines = [record.message for record in caplog.records if "connected" in record.message or "gone" in record.message]
    assert len(lines) <= 20 + 2  # ten of each kind whole, and perhaps the end of a first minute


# -- 7: a client that ends its sending and waits for the answer --------------------------------------------------------


@needs_curl
async def test_a_client_that_ended_its_sending_is_left_after_the_silence_that_its_port_names(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path, sharing=(PortConfig(linger=0.0),)) as gateway:
            async with await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as modem:
                await modem.send_all(b"ATZ\r")
                began = trio.current_time()
                await modem.send_eof()
                assert await modem.receive_some() == b""
                assert trio.current_time() - began < 1.5
            assert await gateway.lines[0].hear(4) == b"ATZ\r"


# -- 8: a consumer that must not write ---------------------------------------------------------------------------------


@needs_curl
async def test_gpsd_has_its_fix_from_a_listener_of_the_host_and_none_of_its_probes_reach_the_line(
    tmp_path: Path,
) -> None:
    port = free_port()
    with trio.fail_after(20):
        async with running_gateway(tmp_path, sharing=(PortConfig(listen_only=(("127.0.0.1", port),)),)) as gateway:
            async with await trio.open_tcp_stream("127.0.0.1", port) as gpsd:
                await gpsd.send_all(b"$PMTK605*31\r\n")
                shown = await gateway.until(lambda status: any(client["dropped"] == 13 for client in status["clients"]))
                await gateway.lines[0].say(b"$GPGGA,fix\r\n")
                assert await gpsd.receive_some() == b"$GPGGA,fix\r\n"
            (client,) = shown["clients"]
            assert (client["service"], client["writes"], client["written"]) == ("ListenOnly", False, 0)
            assert shown["services"][f"listen 127.0.0.1:{port} to listen only"] == "up"
            assert await gateway.update(GenericTCPServer_AllowedIPAddresses="192.0.2.*") == "OK"
            async with await trio.open_tcp_stream("127.0.0.1", port) as stranger:
                assert await stranger.receive_some() == b""
            # What a client that may write sends comes first on the line: nothing was there before it.
            assert await gateway.update(GenericTCPServer_AllowedIPAddresses="") == "OK"
            async with await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as writer:
                await writer.send_all(b"configure")
                assert await gateway.lines[0].hear(9) == b"configure"


# -- 9: one command in two segments ------------------------------------------------------------------------------------


@needs_curl
async def test_a_command_that_tcp_brings_in_two_pieces_is_not_torn_by_another_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_rule, "MAX_GAP", 15.0)  # this machine may be slow
    command, other = bytes.fromhex("81 01 06 04 03 ff"), bytes.fromhex("81 01 04 07 02 ff")
    serial = (ManagerHardware(serial=1),)
    rule = PortConfig(message=MessageRule(end=b"\xff"))
    with trio.fail_after(20):
        async with running_gateway(tmp_path, sharing=(rule,), managers=serial) as gateway:
            port = await gateway.open_tcp()
            async with (
                await trio.open_tcp_stream("127.0.0.1", port) as slow,
                await trio.open_tcp_stream("127.0.0.1", port) as quick,
            ):
                await slow.send_all(command[:5])
                await quick.send_all(other)
                assert await gateway.lines[0].hear(6) == other
                await slow.send_all(command[5:])
                assert await gateway.lines[0].hear(6) == command


# -- 4: a WebSocket client that offers a subprotocol -------------------------------------------------------------------


class RawWebSocket:
    """RFC 6455 by hand, from a plain socket."""

    def __init__(self, gateway: Gateway, headers: str = "", query: str = "") -> None:
        self.sock = socket.create_connection(("127.0.0.1", gateway.http_port), 10)
        self.sock.sendall(
            f"GET /daisyport/ports/P0{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {LOGIN}\r\n"
            f"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n".encode()
        )
        self.file = self.sock.makefile("rb")
        self.head = b"".join(iter(self.file.readline, b"\r\n"))

    def send(self, payload: bytes, opcode: int) -> None:
        mask = b"\x01\x02\x03\x04"
        size = len(payload)
        length = bytes([0x80 | opcode, 0x80 | min(size, 126)]) + (struct.pack("!H", size) if size > 125 else b"")
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.sock.sendall(length + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        first, size = self.file.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        return first & 15, self.file.read(size)

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@needs_curl
@pytest.mark.parametrize(
    "headers",
    [
        "Sec-WebSocket-Protocol: binary\r\n",
        "Sec-WebSocket-Protocol: wsSerial, binary\r\n",
        "Sec-WebSocket-Protocol: wsSerial\r\nSec-WebSocket-Protocol: binary,base64\r\n",
    ],
)
async def test_a_raw_client_that_offers_binary_gets_it_and_every_byte_both_ways(tmp_path: Path, headers: str) -> None:
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.set({"Network.HTTP.AuthenticationPolicy": "basic"}) == "OK"
            raw = await trio.to_thread.run_sync(RawWebSocket, gateway, headers)
            assert raw.head.startswith(b"HTTP/1.1 101 ")
            assert b"\r\nsec-websocket-protocol: binary\r\n" in raw.head.lower()
            await trio.to_thread.run_sync(raw.send, EVERY_BYTE, 2)
            assert await gateway.lines[0].hear(256) == EVERY_BYTE
            await gateway.lines[0].say(EVERY_BYTE)
            heard = b""
            while len(heard) < 256:
                opcode, payload = await trio.to_thread.run_sync(raw.receive)
                assert opcode == 2  # bytes, and no JSON beside them
                heard += payload
            assert heard == EVERY_BYTE
            await trio.to_thread.run_sync(raw.send, "größe\r".encode(), 1)
            assert await gateway.lines[0].hear(8) == "größe\r".encode()
            raw.close()
